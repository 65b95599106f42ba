//! T12: a server that forgets keys when its memory runs out, and one whose memory has run out.

use std::time::{Duration, Instant};

use allotment::{Cost, ErrorKind, Outcome, Subject};
use allotment_fixtures::{Server, Settings, connect, dump_all, random_org};
use anyhow::Result;

use crate::{
    found::Found,
    load::{boundless, held},
    meter,
    suite::Scale,
};

const POLICIES: [&str; 8] = [
    "noeviction",
    "allkeys-lru",
    "allkeys-lfu",
    "allkeys-random",
    "volatile-lru",
    "volatile-lfu",
    "volatile-random",
    "volatile-ttl",
];
/// Within which somebody is told that the policy has changed.
const TOLD_WITHIN: Duration = Duration::from_secs(11);

pub(crate) async fn run(scale: Scale) -> Result<Found> {
    let mut found = Found::new("8 eviction policies, one of them set while running; a memory that is full");
    refused(&mut found).await?;
    told(&mut found, scale).await?;
    full(&mut found, scale.pick(50, 1_000)).await?;
    Ok(found)
}

async fn refused(found: &mut Found) -> Result<()> {
    for policy in POLICIES {
        let server = Server::start_with(Settings::new().line(&format!("maxmemory-policy {policy}"))).await;
        let ready = boundless(&server.url()).deadline(Duration::from_secs(5)).build()?.ready().await;
        let refusal = ready.err().map(|error| error.kind());
        let wanted = (policy != "noeviction").then_some(ErrorKind::Invalid);
        found.count(
            &format!("{policy}: ready() answers"),
            format!("{refusal:?}"),
            format!("{wanted:?}"),
            refusal == wanted,
        );
        let allowed = boundless(&server.url()).deadline(Duration::from_secs(5)).allow_eviction().build()?.ready().await;
        found.count(&format!("{policy}: and where it is allowed"), format!("{allowed:?}"), "Ok(())", allowed.is_ok());
        found.calls += 2;
    }
    Ok(())
}

async fn told(found: &mut Found, scale: Scale) -> Result<()> {
    let server = Server::start().await;
    let mut admin = connect(&server.url()).await?;
    let limiter = boundless(&server.url()).build()?;
    let subject = Subject::org(random_org());
    limiter.try_acquire(&subject, Cost::new()).await.map(drop)?;
    let before = meter::read("allotment_store_alarms_total");
    redis::cmd("CONFIG").arg("SET").arg("maxmemory-policy").arg("volatile-lru").exec_async(&mut admin).await?;
    let set = Instant::now();
    while meter::read("allotment_store_alarms_total") == before && set.elapsed() < Duration::from_secs(60) {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let told = meter::read("allotment_store_alarms_total") - before;
    found.count("a policy set while running is told, once", told, 1, told == 1);
    found.time("until it is told", set.elapsed(), TOLD_WITHIN, scale.full);
    Ok(())
}

async fn full(found: &mut Found, permits: usize) -> Result<()> {
    let server = Server::start().await;
    let mut admin = connect(&server.url()).await?;
    let limiter = boundless(&server.url()).deadline(Duration::from_secs(5)).build()?;
    let org = random_org();
    let mut open = Vec::new();
    for call in 0..permits {
        let subject = Subject::org(org.as_str()).user(format!("user-{}", call % 5));
        match limiter.try_acquire(&subject, Cost::new().requests(3)).await? {
            Outcome::Admitted(permit) => open.push(permit),
            Outcome::Denied(denial) => anyhow::bail!("a limit of 2^40 is not used up: {denial}"),
        }
    }
    redis::cmd("CONFIG").arg("SET").arg("maxmemory").arg("1").exec_async(&mut admin).await?;
    let before = dump_all(&mut admin, &format!("*{org}*")).await;
    let (mut refused, asked) = (0_usize, 20);
    let asking = boundless(&server.url()).deadline(Duration::from_secs(5)).build()?;
    for call in 0..asked {
        let subject = Subject::org(org.as_str()).user(format!("new-{call}"));
        let outcome = asking.try_acquire(&subject, Cost::new()).await;
        refused += usize::from(outcome.err().is_some_and(|error| error.kind() == ErrorKind::Unavailable));
    }
    // a refusal writes nothing, and leaves nothing to give back in the background
    asking.shutdown().await;
    let unchanged = dump_all(&mut admin, &format!("*{org}*")).await == before;
    found.count("memory full: calls refused", refused, asked, refused == asked);
    found.count("memory full: every key as it was", unchanged, true, unchanged);
    let (mut settled, mut kept) = (0_usize, 0_u64);
    for (call, permit) in open.into_iter().enumerate() {
        let done = match call % 3 {
            0 => permit.release().await,
            1 => {
                kept += 1;
                permit.commit(Cost::new().requests(1)).await
            }
            _ => {
                kept += 5;
                permit.commit(Cost::new().requests(5)).await
            }
        };
        settled += usize::from(done.is_ok());
    }
    found.count("memory full: commits and releases that worked", settled, permits, settled == permits);
    redis::cmd("CONFIG").arg("SET").arg("maxmemory").arg("0").exec_async(&mut admin).await?;
    found.calls += (2 * permits + asked) as u64;
    found.balance("what was settled while memory was full", kept, 0, held(&server.url(), &org).await);
    Ok(())
}
