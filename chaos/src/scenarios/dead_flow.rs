//! T16: connections that carry nothing any more and are never closed, as behind a load balancer that has forgotten them.

use std::time::{Duration, Instant};

use allotment_fixtures::{Fault, Proxy, Server, random_org};
use anyhow::Result;

use crate::{
    found::Found,
    load::{Load, boundless, held},
    suite::Scale,
};

const HEALTHY_WITHIN: Duration = Duration::from_secs(2);

pub(crate) async fn run(scale: Scale) -> Result<Found> {
    let rounds = scale.pick(2, 10);
    let server = Server::start().await;
    let proxy = Proxy::start(server.port()).await;
    let (org, limiter) = (random_org(), boundless(&proxy.url()).build()?);
    let load = Load {
        limiters: vec![limiter.clone()],
        orgs: vec![org.clone()],
        callers: 8,
        pace: Duration::from_millis(2),
        calls_each: None,
    };
    let running = load.start();
    let mut cut_at = Vec::new();
    for round in 0..rounds {
        tokio::time::sleep(Duration::from_millis(300)).await;
        cut_at.push(Instant::now());
        if round % 2 == 0 {
            proxy.set(Fault::DeadFlows).await;
            tokio::time::sleep(Duration::from_secs(3)).await;
        } else {
            proxy.set(Fault::BlackHole).await;
            tokio::time::sleep(Duration::from_secs(2)).await;
            cut_at.pop();
            cut_at.push(Instant::now());
        }
        proxy.set(Fault::Nothing).await;
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    let tally = running.stop().await;
    limiter.shutdown().await;
    let mut found = Found::new(format!("{rounds} times every open connection dead, or nothing through for 2 s"));
    found.calls = tally.calls();
    found.stall(tally.longest_gap());
    let healthy = cut_at.iter().map(|at| tally.admitted_again_after(*at).unwrap_or(Duration::MAX)).max();
    let healthy = healthy.unwrap_or_default();
    found.time("healthy again after a dead flow, or after nothing went through", healthy, HEALTHY_WITHIN, scale.full);
    found.count("healthy again at all", healthy != Duration::MAX, true, healthy != Duration::MAX);
    found.balance("the org", tally.all_admitted(), tally.failures(), held(&server.url(), &org).await);
    found.time("the slowest call, with a deadline of 250 ms", tally.slowest, Duration::from_millis(500), scale.full);
    Ok(found)
}
