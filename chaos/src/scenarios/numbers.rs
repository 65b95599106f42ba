//! T13: amounts, ids, names and policy files of any kind. What can be refused is refused and changes nothing; the rest is kept apart.

mod files;
mod question;

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    time::{Duration, Instant},
};

use allotment::{Cost, ErrorKind, Limit, Limiter, LimiterBuilder, ManualClock, Outcome, Policy};
use allotment_fixtures::{Cluster, Server, connect, dump_all, random_org};
use anyhow::{Result, ensure};
use rand::{Rng, SeedableRng, rngs::StdRng};

use self::question::{Question, cost, possible};
use crate::{found::Found, suite::Scale};

const MINUTE: Duration = Duration::from_secs(60);

pub(crate) async fn run(scale: Scale) -> Result<Found> {
    let seed: u64 = rand::rng().random();
    let mut found = Found::new(format!("amounts, ids, names and files made from seed {seed}"));
    // a full run goes on for as long as it may, a third for each store and a third for files
    let until = |calls| Budget { calls, until: scale.full.then(|| Instant::now() + scale.soak / 3) };
    embedded(&mut found, seed, until(100_000)).await?;
    on_redis(&mut found, seed, until(5_000)).await?;
    files::mutated(&mut found, seed, until(20_000)).await?;
    refused_on_redis(&mut found, seed, scale.pick(2_000, 50_000)).await?;
    Ok(found)
}

/// At least so many calls, and on until then.
#[derive(Clone, Copy)]
struct Budget {
    calls: u64,
    until: Option<Instant>,
}

impl Budget {
    fn goes_on(&self, made: u64) -> bool {
        made < self.calls || self.until.is_some_and(|until| Instant::now() < until)
    }
}

fn policy() -> Policy {
    let most = Cost::AMOUNT_MAX;
    let all = |limit: Limit| limit.requests(most).tokens(most).images(most).window(MINUTE);
    Policy::new()
        .limit(all(Limit::new("org")))
        .limit(all(Limit::new("user").scope(["user"])))
        .limit(Limit::new("model").scope(["user", "model"]).images(1_000).window(MINUTE))
        .limit(Limit::new("spend").scope(["user"]).amount("spend", most).window(MINUTE))
}

fn builder() -> LimiterBuilder {
    Limiter::builder().policy(policy().limit(Limit::new("under-way").scope(["user"]).in_flight(1_000)))
}

/// What came of questions.
#[derive(Debug, Default)]
struct Tally {
    asked: u64,
    panics: u64,
    /// Questions that were refused though they can be asked, or the other way round.
    misjudged: Vec<String>,
    refused: u64,
    admitted: u64,
}

impl Tally {
    /// Asks in a task of its own, so that a panic is one of many.
    async fn ask(&mut self, limiter: &Limiter, question: &Question, settlement: u32) -> Option<bool> {
        let (limiter, asked) = (limiter.clone(), question.clone());
        let answer = tokio::spawn(async move { ask(&limiter, &asked, settlement).await }).await;
        self.asked += 1;
        let Ok(answer) = answer else {
            self.panics += 1;
            return None;
        };
        let is_right = match &answer {
            Ok((_, settled)) => {
                question.is_possible() && (settled.is_none() || *settled == Some(possible(&question.actual)))
            }
            Err(kind) => *kind == ErrorKind::Invalid && !question.is_possible(),
        };
        if !is_right {
            self.misjudged.push(format!("{question:?}: {answer:?}"));
        }
        let admitted = answer.is_ok_and(|(admitted, _)| admitted);
        self.refused += u64::from(!question.is_possible());
        self.admitted += u64::from(admitted);
        Some(admitted)
    }

    fn tell(&self, found: &mut Found, on: &str) {
        let Self { asked, panics, misjudged, refused, admitted } = self;
        found.calls += asked;
        found.count(&format!("{on}: panics, in {asked} calls"), panics, 0, *panics == 0);
        found.count(
            &format!("{on}: calls refused that can be made, or not refused that cannot"),
            misjudged.first().map_or_else(|| "0".to_owned(), |first| format!("{}: {first:.300}", misjudged.len())),
            0,
            misjudged.is_empty(),
        );
        let share = asked / 10;
        found.count(&format!("{on}: calls refused"), refused, format!("at least {share}"), *refused >= share);
        found.count(&format!("{on}: calls admitted"), admitted, format!("at least {share}"), *admitted >= share);
    }
}

/// Whether it was admitted; and, if it was and was to be committed, whether that could be done.
async fn ask(limiter: &Limiter, question: &Question, settlement: u32) -> Result<(bool, Option<bool>), ErrorKind> {
    let (subject, amounts) = (question.subject(), cost(&question.amounts));
    let kind = |error: allotment::Error| error.kind();
    let _seen = limiter.peek(&subject, amounts.clone()).await.map_err(kind)?;
    let Outcome::Admitted(permit) = limiter.try_acquire(&subject, amounts).await.map_err(kind)? else {
        return Ok((false, None));
    };
    match settlement {
        0 => match permit.commit(cost(&question.actual)).await {
            Ok(()) => Ok((true, Some(true))),
            Err(error) if error.kind() == ErrorKind::Invalid => Ok((true, Some(false))),
            Err(error) => Err(error.kind()),
        },
        1 => permit.release().await.map(|()| (true, None)).map_err(kind),
        _ => Ok((true, None)),
    }
}

async fn embedded(found: &mut Found, seed: u64, budget: Budget) -> Result<()> {
    let (mut random, mut tally, clock) = (StdRng::seed_from_u64(seed), Tally::default(), ManualClock::new());
    let limiter = builder().clock(clock.clone()).build()?;
    while budget.goes_on(tally.asked) {
        let question = Question::random(&mut random);
        tally.ask(&limiter, &question, random.random_range(0..3)).await;
        clock.advance(Duration::from_millis(random.random_range(0..200)));
    }
    tally.tell(found, "embedded");
    Ok(())
}

/// On a cluster, where keys of two slots in one call are an error.
async fn on_redis(found: &mut Found, seed: u64, budget: Budget) -> Result<()> {
    let (mut random, mut tally) = (StdRng::seed_from_u64(seed ^ 1), Tally::default());
    let cluster = Cluster::without_replicas().await;
    let limiter = builder().redis(cluster.url()).deadline(Duration::from_secs(20)).build()?;
    while budget.goes_on(tally.asked) {
        let question = Question::random(&mut random);
        tally.ask(&limiter, &question, random.random_range(0..3)).await;
    }
    limiter.shutdown().await;
    for node in cluster.nodes() {
        redis::cmd("FLUSHALL").exec_async(&mut connect(&cluster.url_of(node)).await?).await?;
    }
    // of these every ledger is counted: they are charged, and all are there at the end
    let mut asked = HashSet::new();
    let limiter = builder().redis(cluster.url()).deadline(Duration::from_secs(20)).build()?;
    let pairs = (budget.calls / 2).min(10_000);
    let began = Instant::now();
    for _ in 0..pairs {
        let question = Question::random(&mut random).tame(&mut random);
        if tally.ask(&limiter, &question, 2).await == Some(true) {
            asked.insert((question.org, question.user));
        }
    }
    limiter.shutdown().await;
    tally.tell(found, "on a cluster");
    apart(found, &cluster, &asked, began).await
}

/// The keys of different orgs and users are different, and those of an org are in one slot.
async fn apart(found: &mut Found, cluster: &Cluster, asked: &HashSet<(String, String)>, began: Instant) -> Result<()> {
    let (mut keys, mut slots) = (BTreeSet::new(), BTreeMap::<Vec<u8>, BTreeSet<u16>>::new());
    for node in cluster.nodes() {
        let mut conn = connect(&cluster.url_of(node)).await?;
        let mut names: Vec<Vec<u8>> = redis::cmd("KEYS").arg("*").query_async(&mut conn).await?;
        names.retain(|name| name.contains(&b'{'));
        for some in names.chunks(1_000) {
            let mut pipe = redis::pipe();
            for name in some {
                pipe.cmd("CLUSTER").arg("KEYSLOT").arg(name);
            }
            let of_each: Vec<u16> = pipe.query_async(&mut conn).await?;
            for (name, slot) in some.iter().zip(of_each) {
                slots.entry(tag(name)).or_default().insert(slot);
            }
        }
        keys.extend(names);
    }
    let scattered = slots.values().filter(|slots| slots.len() > 1).count();
    found.count(&format!("orgs with keys in more than one slot, of {}", slots.len()), scattered, 0, scattered == 0);
    // the ledger of a user's minute: nothing but the user after the window
    let users =
        keys.iter().filter(|key| after_tag(key).strip_prefix(b":60000:u:").is_some_and(|id| !id.contains(&b':')));
    let (users, orgs) = (users.count(), asked.iter().map(|(org, _)| org).collect::<BTreeSet<_>>().len());
    ensure!(
        began.elapsed() < MINUTE,
        "a minute was not enough for the calls whose ledgers are counted, so some may have expired"
    );
    found.count("ledgers of users", users, format!("{}: one per org and user", asked.len()), users == asked.len());
    found.count("orgs with keys", slots.len(), orgs, slots.len() == orgs);
    Ok(())
}

/// What is between the first brace and the next closing one: by it Redis chooses the slot.
fn tag(key: &[u8]) -> Vec<u8> {
    key.split(|byte| *byte == b'{')
        .nth(1)
        .and_then(|rest| rest.split(|byte| *byte == b'}').next())
        .unwrap_or(key)
        .to_vec()
}

fn after_tag(key: &[u8]) -> &[u8] {
    key.iter().position(|byte| *byte == b'}').and_then(|end| key.get(end + 1..)).unwrap_or_default()
}

/// What is refused leaves every key as it was.
async fn refused_on_redis(found: &mut Found, seed: u64, calls: u64) -> Result<()> {
    let (mut random, mut tally) = (StdRng::seed_from_u64(seed ^ 2), Tally::default());
    let server = Server::start().await;
    let mut admin = connect(&server.url()).await?;
    // without slots: a permit that is dropped frees its slot, and that is a change
    let limiter = || Limiter::builder().policy(policy()).redis(server.url()).deadline(Duration::from_secs(20)).build();
    let first = limiter()?;
    let mut permits = Vec::new();
    for call in 0..50_u64 {
        let mut question = Question::random(&mut random).tame(&mut random);
        question.org = format!("{}{}", random_org(), call % 5);
        permits.push(first.try_acquire(&question.subject(), cost(&question.amounts)).await?.into_result()?);
    }
    first.shutdown().await;
    let before = dump_all(&mut admin, "*").await;
    let mut commits = 0;
    for permit in permits {
        let mut actual = Question::random(&mut random).actual;
        while possible(&actual) {
            actual = Question::random(&mut random).actual;
        }
        let refused = permit.commit(cost(&actual)).await;
        commits += usize::from(refused.is_err_and(|error| error.kind() == ErrorKind::Invalid));
    }
    let limiter = limiter()?;
    while tally.asked < calls {
        let question = Question::random(&mut random);
        if !question.is_possible() {
            tally.ask(&limiter, &question, 0).await;
        }
    }
    limiter.shutdown().await;
    let unchanged = dump_all(&mut admin, "*").await == before;
    let (held, wrong) = (tally.panics == 0 && tally.misjudged.is_empty(), tally.misjudged.len());
    found.calls += tally.asked + 100;
    found.count(&format!("refused on Redis: calls not refused, of {calls}"), wrong, 0, held);
    found.count("refused on Redis: commits refused", commits, 50, commits == 50);
    found.count(
        &format!("refused on Redis: every key as it was, of {}", before.len()),
        unchanged,
        true,
        unchanged && before.len() >= 50,
    );
    Ok(())
}
