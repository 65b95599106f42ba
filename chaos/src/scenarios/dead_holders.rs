//! T6: processes that hold slots are killed, or stand still for longer than their leases live.

use std::time::{Duration, Instant};

use allotment::{Cost, Lease, Limit, Limiter, Permit, Policy, Subject};
use allotment_fixtures::{Server, connect, dump_all, random_org};
use anyhow::{Context, Result};
use redis::aio::MultiplexedConnection;
use rustix::process::Signal;
use tokio::{io::AsyncBufReadExt, task::JoinSet};

use crate::{found::Found, load::WINDOW, suite::Scale, worker::Worker};

/// Of the holders and of who comes after them.
const LEASE: Duration = Duration::from_secs(2);
/// Longer than a fleet takes to start on a machine that is busy.
const PATIENCE: Duration = Duration::from_secs(60);
/// What each holder estimates, so that a commit of anything else shows.
const ESTIMATE: u64 = 5;

pub(crate) async fn run(scale: Scale) -> Result<Found> {
    let (killed, stopped) = (scale.pick(20, 100), scale.pick(5, 20));
    let mut found = Found::new(format!("{killed} holders of slots killed, {stopped} stopped for longer than a lease"));
    let server = Server::start().await;
    kill(&mut found, &server, killed, scale).await?;
    stop(&mut found, &server, stopped, scale).await?;
    Ok(found)
}

fn limiter(url: &str, slots: usize) -> Result<Limiter, allotment::Error> {
    let policy = Policy::new()
        .limit(Limit::new("rate").requests(1 << 40).window(WINDOW))
        .limit(Limit::new("under-way").in_flight(slots as u64));
    Limiter::builder().redis(url).policy(policy).lease(LEASE).deadline(Duration::from_secs(20)).build()
}

/// One process: takes a slot, says its token, and commits when it is told to.
pub(crate) async fn hold(arguments: &[String]) -> Result<()> {
    let [url, org, slots] = arguments else { anyhow::bail!("holder URL ORG SLOTS") };
    let limiter = limiter(url, slots.parse()?)?;
    let permit =
        limiter.acquire(&Subject::org(org.as_str()), Cost::new().requests(ESTIMATE)).max_wait(PATIENCE).await?;
    println!("{}", token(&permit)?);
    let mut told = tokio::io::BufReader::new(tokio::io::stdin()).lines();
    if told.next_line().await?.is_some() {
        match permit.commit(Cost::new().requests(ESTIMATE + 2)).await {
            Ok(()) => println!("committed"),
            Err(error) => println!("{:?}", error.kind()),
        }
    }
    Ok(())
}

fn token(permit: &Permit) -> Result<u64> {
    permit.lease().map(Lease::token).context("an admitted call has a slot")
}

/// Holders that have a slot each, all that there are; and the largest of their tokens.
async fn fleet(server: &Server, org: &str, slots: usize) -> Result<(Vec<Worker>, u64)> {
    let arguments = [server.url(), org.to_owned(), slots.to_string()];
    let mut holders = (0..slots).map(|_| Worker::play("holder", &arguments)).collect::<Result<Vec<_>>>()?;
    let mut newest = 0;
    for holder in &mut holders {
        newest = newest.max(holder.told().await?.parse()?);
    }
    Ok((holders, newest))
}

/// Takes every slot, each as soon as it can; until all were taken, counted from `since`.
async fn take_all(limiter: &Limiter, org: &str, slots: usize, since: Instant) -> Result<(Vec<Permit>, Duration)> {
    let mut takers = JoinSet::new();
    for _ in 0..slots {
        let (limiter, subject) = (limiter.clone(), Subject::org(org));
        takers.spawn(async move { limiter.acquire(&subject, Cost::new()).max_wait(PATIENCE).await });
    }
    let mut taken = Vec::new();
    while let Some(permit) = takers.join_next().await {
        taken.push(permit??);
    }
    Ok((taken, since.elapsed()))
}

/// When the leases on an org's slots expire, by its clock. The last token is there, too, as a negative score.
async fn leases(admin: &mut MultiplexedConnection, org: &str) -> Result<Vec<u64>> {
    let mut range = redis::cmd("ZRANGE");
    range.arg(format!("allot:1:{{{org}}}:i")).arg(0).arg(-1).arg("WITHSCORES");
    let members: Vec<(Vec<u8>, f64)> = range.query_async(admin).await?;
    Ok(members.into_iter().filter(|(_, score)| *score > 0.0).map(|(_, score)| score as u64).collect())
}

/// How many hold slots at worst: of the dead those whose leases had not expired when a slot was taken, and all who took one until then.
fn most_holders(of_the_dead: &[u64], taken: &[Permit]) -> usize {
    let holders = |at: u64| {
        let dead = of_the_dead.iter().filter(|expires_at| **expires_at > at).count();
        dead + taken.iter().filter(|permit| permit.at_ms() <= at).count()
    };
    taken.iter().map(|permit| holders(permit.at_ms())).max().unwrap_or(0)
}

async fn kill(found: &mut Found, server: &Server, slots: usize, scale: Scale) -> Result<()> {
    let (org, mut admin) = (random_org(), connect(&server.url()).await?);
    let (holders, newest) = fleet(server, &org, slots).await?;
    let limiter = limiter(&server.url(), slots)?;
    let full = limiter.try_acquire(&Subject::org(org.as_str()), Cost::new()).await?;
    let killed_at = Instant::now();
    for holder in &holders {
        holder.signal(Signal::KILL)?;
    }
    for holder in holders {
        // its renewals that were on their way have arrived, or never will
        let _killed = holder.rest().await;
    }
    let of_the_dead = leases(&mut admin, &org).await?;
    let (taken, took) = take_all(&limiter, &org, slots, killed_at).await?;
    let (held, most) = (leases(&mut admin, &org).await?.len(), most_holders(&of_the_dead, &taken));
    found.calls += 2 * slots as u64 + 1;
    found.stall(took);
    let denied = full.into_result().is_err();
    found.count("killed: while all hold slots, another call is denied", denied, true, denied);
    found.count("killed: leases that the dead left", of_the_dead.len(), slots, of_the_dead.len() == slots);
    found.count("killed: slots taken after them", taken.len(), slots, taken.len() == slots && held == slots);
    found.count("killed: holders of slots, at worst", most, format!("at most {slots}"), most <= slots);
    let older = older_tokens(&taken, newest)?;
    found.count("killed: tokens no larger than those of the dead", older, 0, older == 0);
    found.time("killed: until all slots were taken again", took, LEASE + Duration::from_secs(1), scale.full);
    Ok(())
}

fn older_tokens(taken: &[Permit], newest: u64) -> Result<usize> {
    let tokens = taken.iter().map(token).collect::<Result<Vec<_>>>()?;
    Ok(tokens.into_iter().filter(|token| *token <= newest).count())
}

async fn stop(found: &mut Found, server: &Server, slots: usize, scale: Scale) -> Result<()> {
    let (org, mut admin) = (random_org(), connect(&server.url()).await?);
    let (mut holders, newest) = fleet(server, &org, slots).await?;
    let limiter = limiter(&server.url(), slots)?;
    let stopped_at = Instant::now();
    for holder in &holders {
        holder.signal(Signal::STOP)?;
    }
    let of_the_stopped = leases(&mut admin, &org).await?;
    let (taken, took) = take_all(&limiter, &org, slots, stopped_at).await?;
    let most = most_holders(&of_the_stopped, &taken);
    // what the heirs write in the background is no change: renewals, and the list for operators
    let kept = async |admin: &mut MultiplexedConnection| {
        let mut keys = dump_all(admin, &format!("allot:1:{{{org}}}*")).await;
        keys.retain(|key, _| !key.ends_with(":i") && !key.ends_with(":u"));
        keys
    };
    let before = kept(&mut admin).await;
    let mut refused = 0;
    for holder in &mut holders {
        holder.tell("commit").await?;
        holder.signal(Signal::CONT)?;
    }
    for holder in &mut holders {
        refused += usize::from(holder.told().await? == "LeaseLost");
    }
    let unchanged = kept(&mut admin).await == before;
    let held = leases(&mut admin, &org).await?.len();
    let mut committed = 0;
    for permit in taken {
        let is_newer = token(&permit)? > newest;
        committed += usize::from(permit.commit(Cost::new()).await.is_ok() && is_newer);
    }
    found.calls += 4 * slots as u64;
    found.stall(took);
    found.count("stopped: holders of slots, at worst", most, format!("at most {slots}"), most <= slots);
    found.count("stopped: their commits that were refused as LeaseLost", refused, slots, refused == slots);
    found.count("stopped: every ledger as it was before their commits", unchanged, true, unchanged);
    found.count("stopped: slots of their heirs afterwards", held, slots, held == slots);
    found.count("stopped: heirs that could commit, with larger tokens", committed, slots, committed == slots);
    found.time("stopped: until all slots were taken again", took, LEASE + Duration::from_secs(1), scale.full);
    let held = crate::load::held(&server.url(), &org).await;
    found.balance("stopped: estimates of the stopped, and their heirs' calls", slots as u64 * (ESTIMATE + 1), 0, held);
    Ok(())
}
