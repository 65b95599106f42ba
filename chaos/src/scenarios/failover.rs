//! T9: a master behind Sentinels dies; a master is cut off from its replicas and Sentinels, but not from its clients.

use std::time::{Duration, Instant};

use allotment_fixtures::{Fault, Sentinel, SentinelOptions, random_org};
use anyhow::Result;

use crate::{
    found::Found,
    load::{Load, boundless, held},
    suite::Scale,
};

const RECOVERED_WITHIN: Duration = Duration::from_secs(5);
/// How long a guarded master goes on without its replicas: their lag, and two seconds.
const GUARD: Duration = Duration::from_secs(3);

pub(crate) async fn run(scale: Scale) -> Result<Found> {
    let rounds = scale.pick(1, 10);
    let mut found = Found::new(format!("{rounds} masters killed, {rounds} cut off"));
    let (mut slowest_recovery, mut uncounted, mut bound, mut recoveries) = (Duration::ZERO, 0, 0, 0);
    for _ in 0..rounds {
        let killed = one(&mut found, Injection::Kill).await?;
        slowest_recovery = slowest_recovery.max(killed.recovered);
        recoveries += u32::from(killed.recovered != Duration::MAX);
        let cut_off = one(&mut found, Injection::Partition).await?;
        uncounted = uncounted.max(cut_off.uncounted);
        bound = bound.max(cut_off.bound);
        recoveries += u32::from(cut_off.recovered != Duration::MAX);
    }
    found.count("fail-overs after which calls were admitted again", recoveries, 2 * rounds, recoveries == 2 * rounds);
    found.time("killed: until calls were admitted again, at worst", slowest_recovery, RECOVERED_WITHIN, scale.full);
    found.count(
        "cut off: admissions that the new master does not know, at worst",
        uncounted,
        format!("{bound}: the rate times {GUARD:?}"),
        uncounted <= bound,
    );
    Ok(found)
}

#[derive(Clone, Copy, PartialEq)]
enum Injection {
    Kill,
    Partition,
}

struct Outcome {
    recovered: Duration,
    uncounted: u64,
    bound: u64,
}

async fn one(found: &mut Found, injection: Injection) -> Result<Outcome> {
    let options =
        SentinelOptions { guarded: true, proxied: injection == Injection::Partition, ..SentinelOptions::default() };
    let sentinel = Sentinel::start_with(options).await;
    let (org, old) = (random_org(), sentinel.master().await);
    let limiter = boundless(&sentinel.url()).build()?;
    let load = Load {
        limiters: vec![limiter.clone()],
        orgs: vec![org.clone()],
        callers: 8,
        pace: Duration::from_millis(5),
        calls_each: None,
    };
    let running = load.start();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let injected = Instant::now();
    match injection {
        Injection::Kill => sentinel.kill(old).await,
        Injection::Partition => sentinel.proxy().set(Fault::Partition).await,
    }
    sentinel.successor_of(old).await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    if injection == Injection::Partition {
        sentinel.proxy().set(Fault::Nothing).await;
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
    let tally = running.stop().await;
    limiter.shutdown().await;
    found.calls += tally.calls();
    let known = held(&sentinel.url(), &org).await;
    let before = tally.answers.iter().filter(|(at, _)| *at < injected).count() as u64;
    let rate = before.max(1);
    let recovered = longest_gap_after(&tally.answers, injected);
    found.stall(recovered);
    Ok(Outcome { recovered, uncounted: tally.all_admitted().saturating_sub(known), bound: rate * GUARD.as_secs() })
}

/// The longest time without an admission from then on; for ever, if there was none in the end.
fn longest_gap_after(answers: &[(Instant, Duration)], instant: Instant) -> Duration {
    let mut at: Vec<_> = answers.iter().map(|(at, _)| *at).filter(|at| *at >= instant).collect();
    at.push(instant);
    at.sort();
    match at.len() {
        0..3 => Duration::MAX,
        _ => at.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default(),
    }
}
