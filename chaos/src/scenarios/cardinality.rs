//! T14: very many users. What each of them costs, what happens when all expire at once, and whether anything is left in the long run.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use allotment::{Cost, Limit, Limiter, Policy, Subject};
use allotment_fixtures::{ClockedServer, Server, connect, random_org};
use anyhow::{Context, Result, bail};
use redis::aio::MultiplexedConnection;
use tokio::{
    task::JoinSet,
    time::{MissedTickBehavior, interval, sleep},
};

use crate::{found::Found, suite::Scale};

/// README.md says 339, the place on the list for operators included.
const BYTES_MOST: u64 = 350;
const CALLERS: usize = 64;
/// So that nobody expires while all are coming.
const WINDOW: Duration = Duration::from_secs(3_600);
/// Past every life: a window and a half and a minute, of lists.
const PAST_ALL: Duration = Duration::from_secs(3 * 3_600);
const P99: Duration = Duration::from_millis(5);
const SLOWEST: Duration = Duration::from_millis(50);

pub(crate) async fn run(scale: Scale) -> Result<Found> {
    let (users, orgs) = (scale.pick(20_000, 1_000_000), scale.pick(10, 100));
    let mut found = Found::new(format!("{users} users of {orgs} orgs, with one call each; the expiry of all at once"));
    many(&mut found, users, orgs, scale).await?;
    soak(&mut found, scale.pick(Duration::from_secs(9), scale.soak)).await?;
    Ok(found)
}

fn limiter(url: &str, window: Duration) -> Result<Limiter, allotment::Error> {
    let policy = Policy::new()
        .limit(Limit::new("org").requests(1 << 40).window(window))
        .limit(Limit::new("user").scope(["user"]).requests(100).window(window));
    Limiter::builder().redis(url).policy(policy).deadline(Duration::from_secs(20)).build()
}

/// A server's clock that runs: Redis bounds by it how long it expires keys at a time.
struct Running {
    ahead_ms: Arc<AtomicU64>,
    over: Arc<AtomicBool>,
    ticks: Option<JoinHandle<()>>,
}

impl Running {
    fn start(server: Arc<ClockedServer>, speed: u32) -> Self {
        let (ahead_ms, over) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (ahead, ends, began) = (Arc::clone(&ahead_ms), Arc::clone(&over), Instant::now());
        let ticks = std::thread::spawn(move || {
            while !ends.load(Ordering::SeqCst) {
                let passed = u64::try_from((began.elapsed() * speed).as_millis()).unwrap_or(u64::MAX);
                server.set_ms(ClockedServer::START_MS + passed + ahead.load(Ordering::SeqCst));
                // the clock's own tick
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        Self { ahead_ms, over, ticks: Some(ticks) }
    }

    fn jump(&self, by: Duration) {
        self.ahead_ms.fetch_add(u64::try_from(by.as_millis()).unwrap_or(0), Ordering::SeqCst);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
        let _ended = self.ticks.take().map(JoinHandle::join);
    }
}

/// What a server holds.
#[derive(Clone, Copy, Debug)]
struct Size {
    keys: u64,
    used: u64,
    resident: u64,
}

impl Size {
    async fn of(admin: &mut MultiplexedConnection) -> Result<Self> {
        let report: String = redis::cmd("INFO").arg("memory").query_async(admin).await?;
        let field = |name: &str| {
            let value = report.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            value.and_then(|value| value.parse().ok()).with_context(|| format!("INFO memory has no {name}"))
        };
        let keys = redis::cmd("DBSIZE").query_async(admin).await?;
        Ok(Self { keys, used: field("used_memory")?, resident: field("used_memory_rss")? })
    }
}

async fn many(found: &mut Found, users: u64, orgs: u64, scale: Scale) -> Result<()> {
    let server = Arc::new(Server::with_clock().await);
    let clock = Running::start(Arc::clone(&server), 1);
    let mut admin = connect(&server.url()).await?;
    // scripts and connections are there before anything is measured
    let probe = limiter(&server.url(), WINDOW)?;
    let prober = Subject::org(random_org()).user("prober");
    drop(probe.try_acquire(&prober, Cost::new()).await?);
    let fill = limiter(&server.url(), WINDOW)?;
    let orgs: Arc<[String]> = (0..orgs).map(|_| random_org()).collect();
    let before = Size::of(&mut admin).await?;
    let began = Instant::now();
    let mut callers = JoinSet::new();
    for caller in 0..CALLERS as u64 {
        let (fill, orgs) = (fill.clone(), Arc::clone(&orgs));
        callers.spawn(async move {
            for user in (caller..users).step_by(CALLERS) {
                let org = orgs[usize::try_from(user).unwrap_or(0) % orgs.len()].as_str();
                let subject = Subject::org(org).user(format!("user-{user:07}"));
                drop(fill.try_acquire(&subject, Cost::new()).await?.into_result()?);
            }
            Ok::<_, allotment::Error>(())
        });
    }
    while let Some(filled) = callers.join_next().await {
        filled??;
    }
    fill.shutdown().await;
    let listed = on_lists(&mut admin, &orgs).await?;
    let (full, took) = (Size::of(&mut admin).await?, began.elapsed());
    found.calls += users;
    found.count("users on the lists for operators", listed, users, listed == users);
    let each = (full.used - before.used) / users;
    found.count(
        &format!("bytes per user with one call ({:.0} calls/s)", users as f64 / took.as_secs_f64()),
        each,
        format!("at most {BYTES_MOST}; README.md says 339"),
        each <= BYTES_MOST,
    );
    let stop = Arc::new(AtomicBool::new(false));
    let pings = tokio::spawn(ping(server.url(), Arc::clone(&stop)));
    let decisions = tokio::spawn(decide(probe, prober, Arc::clone(&stop)));
    sleep(Duration::from_millis(200)).await;
    clock.jump(PAST_ALL);
    let expired = Instant::now();
    let wanted = |size: Size| size.keys <= before.keys + (full.keys - before.keys) / 100;
    let small = |size: Size| size.used <= before.used + (full.used - before.used) / 20;
    let mut now = Size::of(&mut admin).await?;
    while !(wanted(now) && small(now)) && expired.elapsed() < Duration::from_secs(120) {
        sleep(Duration::from_millis(20)).await;
        now = Size::of(&mut admin).await?;
    }
    let gone = expired.elapsed();
    stop.store(true, Ordering::SeqCst);
    let (pings, decisions) = (pings.await??, decisions.await??);
    found.calls += decisions.len() as u64;
    found.count(
        "expired: keys that are left",
        now.keys,
        format!("{} and a hundredth of {}", before.keys, full.keys),
        wanted(now),
    );
    found.count(
        "expired: bytes in use",
        now.used,
        format!("{} and a twentieth of {}", before.used, full.used),
        small(now),
    );
    found.time("until they were gone", gone, Duration::from_secs(60), scale.full);
    for (who, mut took) in [("PING", pings), ("a decision", decisions)] {
        took.sort();
        let at =
            |share: f64| took.get((took.len() as f64 * share) as usize).or(took.last()).copied().unwrap_or_default();
        found.time(&format!("while they expired: {who}, 99 of 100 of {}", took.len()), at(0.99), P99, scale.full);
        found.time(&format!("while they expired: {who}, the slowest"), at(1.0), SLOWEST, scale.full);
        found.stall(at(1.0));
    }
    let (mut resident, purged) = (u64::MAX, Instant::now());
    let more = before.resident + (full.resident - before.resident) / 20;
    // freed pages stay with the allocator until somebody else needs them, or it is told to give them back; the last keys go meanwhile
    while scale.full && resident > more && purged.elapsed() < Duration::from_secs(30) {
        redis::cmd("MEMORY").arg("PURGE").exec_async(&mut admin).await?;
        sleep(Duration::from_millis(200)).await;
        resident = Size::of(&mut admin).await?.resident;
    }
    if scale.full {
        found.count(
            "resident bytes after MEMORY PURGE",
            resident,
            format!("{} and a twentieth of {}", before.resident, full.resident),
            resident <= more,
        );
    } else {
        found.not_run.push("resident memory, which says something of a million users only".to_owned());
    }
    Ok(())
}

/// How many are listed, once nothing is added any more: the lists are written in the background.
async fn on_lists(admin: &mut MultiplexedConnection, orgs: &[String]) -> Result<u64> {
    let (mut before, began) = (0, Instant::now());
    loop {
        let mut pipe = redis::pipe();
        for org in orgs {
            pipe.cmd("ZCARD").arg(format!("allot:1:{{{org}}}:u"));
        }
        let listed: Vec<u64> = pipe.query_async(admin).await?;
        let listed = listed.iter().sum();
        if listed > 0 && listed == before {
            return Ok(listed);
        }
        if began.elapsed() > Duration::from_secs(60) {
            bail!("the lists still grow a minute after the last call");
        }
        before = listed;
        sleep(Duration::from_secs(1)).await;
    }
}

/// Without a pause, as who decides does.
async fn ping(url: String, stop: Arc<AtomicBool>) -> Result<Vec<Duration>> {
    let (mut conn, mut took) = (connect(&url).await?, Vec::new());
    while !stop.load(Ordering::SeqCst) {
        let asked = Instant::now();
        redis::cmd("PING").exec_async(&mut conn).await?;
        took.push(asked.elapsed());
    }
    Ok(took)
}

async fn decide(limiter: Limiter, subject: Subject, stop: Arc<AtomicBool>) -> Result<Vec<Duration>> {
    let mut took = Vec::new();
    while !stop.load(Ordering::SeqCst) {
        let asked = Instant::now();
        drop(limiter.try_acquire(&subject, Cost::new()).await?);
        took.push(asked.elapsed());
    }
    Ok(took)
}

/// Users who come once and never again, in time that runs sixty times as fast.
async fn soak(found: &mut Found, lasts: Duration) -> Result<()> {
    const SPEED: u32 = 60;
    const PAUSE: Duration = Duration::from_millis(5);
    let server = Arc::new(Server::with_clock().await);
    let _clock = Running::start(Arc::clone(&server), SPEED);
    let (mut admin, limiter) = (connect(&server.url()).await?, limiter(&server.url(), Duration::from_secs(60))?);
    let (orgs, began, mut pace) = ([random_org(), random_org()], Instant::now(), interval(PAUSE));
    pace.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let (mut sizes, mut user) = (Vec::new(), 0_u64);
    while began.elapsed() < lasts {
        pace.tick().await;
        let subject = Subject::org(orgs[usize::from(user % 2 == 0)].as_str()).user(format!("user-{user}"));
        drop(limiter.try_acquire(&subject, Cost::new()).await?.into_result()?);
        user += 1;
        if user % 20 == 0 {
            sizes.push(Size::of(&mut admin).await?);
        }
    }
    found.calls += user;
    let third = sizes.len() / 3;
    let mean =
        |sizes: &[Size], of: fn(&Size) -> u64| sizes.iter().map(of).sum::<u64>() as f64 / sizes.len().max(1) as f64;
    let simulated = lasts * SPEED;
    for (what, of) in [("keys", (|size| size.keys) as fn(&Size) -> u64), ("bytes in use", |size| size.used)] {
        let (middle, last) = (mean(&sizes[third..2 * third], of), mean(&sizes[2 * third..], of));
        found.count(
            &format!("{user} users over {simulated:?} of the server's time: {what} in the last third, of those in the one before"),
            format!("{:.1} % of {middle:.0}", 100.0 * last / middle),
            "at most 110 %",
            last <= 1.1 * middle,
        );
    }
    Ok(())
}
