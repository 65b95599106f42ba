//! T7: the server forgets the scripts over and over.

use std::time::Duration;

use allotment_fixtures::{Server, connect, random_org};
use anyhow::Result;

use crate::{
    found::Found,
    load::{Load, boundless, held},
    suite::Scale,
};

const CALLERS: usize = 50;

pub(crate) async fn run(scale: Scale) -> Result<Found> {
    let calls: u64 = scale.pick(10_000, 50_000);
    let server = Server::start().await;
    let mut admin = connect(&server.url()).await?;
    let limiter = boundless(&server.url()).deadline(Duration::from_secs(20)).build()?;
    // an org each, so that calls do not go together
    let orgs: Vec<_> = (0..CALLERS).map(|_| random_org()).collect();
    let load = Load {
        limiters: vec![limiter],
        orgs: orgs.clone(),
        callers: CALLERS,
        pace: Duration::ZERO,
        calls_each: Some(calls / CALLERS as u64),
    };
    let flush = async {
        let mut flushes = 0_u64;
        loop {
            redis::cmd("SCRIPT").arg("FLUSH").exec_async(&mut admin).await.unwrap();
            flushes += 1;
            COUNT.store(flushes, std::sync::atomic::Ordering::Relaxed);
            // the pace of the fault
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let tally = tokio::select! {
        tally = load.finish() => tally,
        () = flush => unreachable!("it never ends"),
    };
    let mut in_ledgers = 0;
    for org in &orgs {
        in_ledgers += held(&server.url(), org).await;
    }
    let flushes = COUNT.load(std::sync::atomic::Ordering::Relaxed);
    let mut found = Found::new(format!("{flushes} times SCRIPT FLUSH"));
    found.calls = tally.calls();
    found.stall(tally.longest_gap());
    found.balance("all orgs", tally.all_admitted(), 0, in_ledgers);
    found.count("calls that failed", tally.failures(), 0, tally.failures() == 0);
    found.count("flushes", flushes, "more than 100", flushes > 100);
    Ok(found)
}

static COUNT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
