//! T10: slots move while calls are made; a slot is left half moved; a node stands still.

use std::time::{Duration, Instant};

use allotment::{Cost, Limiter, Subject};
use allotment_fixtures::{Cluster, random_org};
use anyhow::{Result, bail};

use crate::{
    found::Found,
    load::{Load, boundless, held},
    suite::Scale,
};

/// How long a call to a slot that is stuck, or a node that stands still, may take.
const ANSWERED_WITHIN: Duration = Duration::from_millis(500);

pub(crate) async fn run(scale: Scale) -> Result<Found> {
    let slots = scale.pick(200, 3_000);
    let mut found = Found::new(format!("{slots} slots moved under load, a slot left half moved, a node frozen"));
    let cluster = Cluster::without_replicas().await;
    moving(&mut found, &cluster, slots, scale).await?;
    stuck(&mut found, &cluster, scale).await?;
    frozen(&mut found, &cluster, scale).await?;
    Ok(found)
}

async fn moving(found: &mut Found, cluster: &Cluster, slots: usize, scale: Scale) -> Result<()> {
    let limiter = boundless(&cluster.url()).deadline(Duration::from_secs(5)).build()?;
    let [from, to, ..] = cluster.nodes()[..] else { bail!("a cluster has three masters") };
    // most of them in slots that move
    let orgs = orgs_of(cluster, from, 24).await;
    let load = Load {
        limiters: vec![limiter.clone()],
        orgs: orgs.clone(),
        callers: 24,
        pace: Duration::from_millis(1),
        calls_each: None,
    };
    let running = load.start();
    let began = Instant::now();
    cluster.reshard(slots, from, to).await;
    cluster.reshard(slots, to, from).await;
    let took = began.elapsed();
    let tally = running.stop().await;
    limiter.shutdown().await;
    let mut in_ledgers = 0;
    for org in &orgs {
        in_ledgers += held(&cluster.url(), org).await;
    }
    found.calls += tally.calls();
    found.stall(tally.longest_gap());
    found.balance("while slots moved", tally.all_admitted(), 0, in_ledgers);
    let failures = tally.failures();
    found.count(&format!("while slots moved, for {took:.1?}: calls that failed"), failures, 0, failures == 0);
    if let Some((said, _)) = tally.failed.first_key_value() {
        found.not_run.push(format!("nothing, but a call said: {said}"));
    }
    found.time("while slots moved: 99 of 100 calls", tally.quantile(0.99), Duration::from_millis(50), scale.full);
    found.time("while slots moved: the slowest call", tally.slowest, Duration::from_secs(5), false);
    Ok(())
}

/// Random orgs of which a node has the slots.
async fn orgs_of(cluster: &Cluster, node: u16, count: usize) -> Vec<String> {
    let mut orgs = Vec::new();
    while orgs.len() < count {
        let org = random_org();
        let slot = cluster.slot_of(&format!("{{{org}}}")).await;
        if cluster.owner(slot).await == node {
            orgs.push(org);
        }
    }
    orgs
}

async fn stuck(found: &mut Found, cluster: &Cluster, scale: Scale) -> Result<()> {
    let limiter = boundless(&cluster.url()).build()?;
    let [from, to, ..] = cluster.nodes()[..] else { bail!("a cluster has three masters") };
    let org = orgs_of(cluster, from, 1).await.remove(0);
    let neighbour = orgs_of(cluster, from, 1).await.remove(0);
    // some of its keys are there, and others not yet
    one(&limiter, &org, "early").await;
    let slot = cluster.slot_of(&format!("{{{org}}}")).await;
    cluster.start_migrating(slot, to).await;
    let mut slowest = Duration::ZERO;
    let mut failures = 0_u32;
    for call in 0..5 {
        let (took, worked) = one(&limiter, &org, &format!("late-{call}")).await;
        slowest = slowest.max(took);
        failures += u32::from(!worked);
    }
    let (_, neighbour_works) = one(&limiter, &neighbour, "user").await;
    cluster.stop_migrating(slot).await;
    let (_, works_again) = one(&limiter, &org, "late").await;
    found.calls += 8;
    found.stall(slowest);
    found.count("half moved: calls of the org that failed, with keys in two places", failures, 5, failures == 5);
    found.count("half moved: an org beside it is served", neighbour_works, true, neighbour_works);
    found.count("half moved: the org is served again once it is over", works_again, true, works_again);
    found.time("half moved: the slowest call of the org", slowest, ANSWERED_WITHIN, scale.full);
    Ok(())
}

async fn frozen(found: &mut Found, cluster: &Cluster, scale: Scale) -> Result<()> {
    let limiter = boundless(&cluster.url()).build()?;
    let [first, second, ..] = cluster.nodes()[..] else { bail!("a cluster has three masters") };
    let (org, neighbour) = (orgs_of(cluster, first, 1).await.remove(0), orgs_of(cluster, second, 1).await.remove(0));
    one(&limiter, &org, "user").await;
    one(&limiter, &neighbour, "user").await;
    cluster.freeze(first).await;
    let (mut slowest, mut failures, mut neighbour_slowest, mut neighbour_failures) =
        (Duration::ZERO, 0, Duration::ZERO, 0);
    // within the time after which the others give the cluster up
    for _ in 0..5 {
        let (took, worked) = one(&limiter, &org, "user").await;
        slowest = slowest.max(took);
        failures += u32::from(!worked);
        let (took, worked) = one(&limiter, &neighbour, "user").await;
        neighbour_slowest = neighbour_slowest.max(took);
        neighbour_failures += u32::from(!worked);
    }
    cluster.thaw(first).await;
    let thawed = Instant::now();
    let mut again = Duration::MAX;
    while thawed.elapsed() < Duration::from_secs(30) {
        if one(&limiter, &org, "user").await.1 {
            again = thawed.elapsed();
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    found.calls += 12;
    found.stall(slowest);
    found.count("frozen: calls to the node that failed", failures, 5, failures == 5);
    found.count("frozen: calls to another node that failed", neighbour_failures, 0, neighbour_failures == 0);
    found.count("frozen: the node serves again once it goes on", again != Duration::MAX, true, again != Duration::MAX);
    found.time("frozen: the slowest call to the node", slowest, ANSWERED_WITHIN, scale.full);
    found.time("frozen: the slowest call to another node", neighbour_slowest, ANSWERED_WITHIN, scale.full);
    Ok(())
}

/// One call: how long it took, and whether it was decided.
async fn one(limiter: &Limiter, org: &str, user: &str) -> (Duration, bool) {
    let asked = Instant::now();
    let outcome = limiter.try_acquire(&Subject::org(org).user(user), Cost::new()).await;
    (asked.elapsed(), outcome.is_ok())
}
