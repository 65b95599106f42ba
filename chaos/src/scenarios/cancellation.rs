//! T5: futures dropped at any point. Whoever does not wait for the answer keeps no charge.

use std::time::Duration;

use allotment::{Cost, Subject};
use allotment_fixtures::{Fault, Proxy, Server, random_org};
use anyhow::Result;
use rand::{Rng, SeedableRng, rngs::StdRng};
use tokio::task::JoinSet;

use crate::{
    found::Found,
    load::{boundless, held},
    suite::Scale,
};

const CALLERS: u64 = 50;

pub(crate) async fn run(scale: Scale) -> Result<Found> {
    let futures = scale.pick(2_000, 10_000);
    let server = Server::start().await;
    let proxy = Proxy::start(server.port()).await;
    // so that a future may be dropped before its request is sent, on its way there, or on the way back
    let pause = Duration::from_millis(1);
    proxy.set(Fault::Delay { up: pause, down: pause }).await;
    let (org, mut callers) = (random_org(), JoinSet::new());
    let limiter = boundless(&proxy.url()).deadline(Duration::from_secs(20)).build()?;
    for caller in 0..CALLERS {
        let (limiter, subject) = (limiter.clone(), Subject::org(org.as_str()).user(format!("user-{}", caller % 5)));
        callers.spawn(async move {
            let (mut random, mut kept) = (StdRng::seed_from_u64(caller), 0_u64);
            for _ in 0..futures / CALLERS {
                let patience = Duration::from_micros(random.random_range(0..5_000));
                if let Ok(outcome) = tokio::time::timeout(patience, limiter.try_acquire(&subject, Cost::new())).await {
                    drop(outcome.unwrap());
                    kept += 1;
                }
            }
            kept
        });
    }
    let kept: u64 = callers.join_all().await.into_iter().sum();
    limiter.shutdown().await;
    let mut found = Found::new(format!("{} futures dropped within 5 ms", futures - kept));
    found.calls = futures;
    found.balance("charges after the last release", kept, 0, held(&server.url(), &org).await);
    found.count("futures that were dropped", futures - kept, "more than a tenth", futures - kept > futures / 10);
    Ok(found)
}
