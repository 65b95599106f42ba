//! T4: the server executes a call and its answer never comes. Whoever repeats it must not charge it twice.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use allotment_fixtures::{Cluster, Fault, Proxy, Sentinel, SentinelOptions, Server, connect, random_org};
use anyhow::Result;
use tokio::task::JoinSet;

use crate::{
    found::Found,
    load::{Load, boundless, held},
    suite::Scale,
};

/// Long enough that no call runs out of time, whatever the machine does besides.
const DEADLINE: Duration = Duration::from_secs(20);
const CALLERS: usize = 64;

pub(crate) async fn run(scale: Scale) -> Result<Found> {
    let calls = scale.pick(4_000, 40_000);
    let mut found = Found::new(String::new());
    let mut injected = Vec::new();

    let server = Server::start().await;
    let proxy = Proxy::start(server.port()).await;
    for share in [0.01, 0.05] {
        proxy.set(Fault::LoseRepliesAtRandom { share, seed: 1 }).await;
        let before = proxy.lost_replies();
        balance(&mut found, &format!("one server, {share} of the replies lost"), &proxy.url(), &server.url(), calls)
            .await;
        injected.push(format!("{} replies of one server", proxy.lost_replies() - before));
    }

    let sentinel = Sentinel::start_with(SentinelOptions { proxied: true, ..SentinelOptions::default() }).await;
    // a reply that is lost resets its connection: those of replicas and Sentinels come back by themselves
    sentinel.proxy().set(Fault::LoseRepliesAtRandom { share: 0.01, seed: 2 }).await;
    let before = sentinel.proxy().lost_replies();
    balance(&mut found, "behind Sentinels", &sentinel.url(), &sentinel.url(), calls).await;
    injected.push(format!("{} replies of a master behind Sentinels", sentinel.proxy().lost_replies() - before));
    drop(sentinel);

    // a cluster tells clients its own addresses, past any proxy: connections are cut at the nodes
    let cluster = Cluster::without_replicas().await;
    let killed = Arc::new(AtomicU64::new(0));
    let mut killers = JoinSet::new();
    for port in cluster.nodes() {
        let (url, killed) = (cluster.url_of(port), Arc::clone(&killed));
        killers.spawn(async move {
            let mut admin = connect(&url).await.unwrap();
            loop {
                let mut kill = redis::cmd("CLIENT");
                kill.arg("KILL").arg("TYPE").arg("normal").arg("SKIPME").arg("yes");
                killed.fetch_add(kill.query_async(&mut admin).await.unwrap_or(0), Ordering::Relaxed);
                // the pace of the fault
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
    }
    balance(&mut found, "a cluster whose connections are cut", &cluster.url(), &cluster.url(), calls).await;
    drop(killers);
    injected.push(format!("{} connections of a cluster cut", killed.load(Ordering::Relaxed)));
    found.injected = injected.join(", ");
    Ok(found)
}

async fn balance(found: &mut Found, what: &str, url: &str, truth: &str, calls: u64) {
    let limiter = || boundless(url).deadline(DEADLINE).build().unwrap();
    let orgs: Vec<_> = (0..8).map(|_| random_org()).collect();
    let load = Load {
        limiters: vec![limiter(), limiter()],
        orgs: orgs.clone(),
        callers: CALLERS,
        pace: Duration::ZERO,
        calls_each: Some(calls.div_ceil(CALLERS as u64)),
    };
    let limiters = load.limiters.clone();
    let tally = load.finish().await;
    // what is under way in the background is over, too
    for limiter in limiters {
        limiter.shutdown().await;
    }
    let mut in_ledgers = 0;
    for org in &orgs {
        in_ledgers += held(truth, org).await;
    }
    found.calls += tally.calls();
    found.stall(tally.longest_gap());
    found.balance(what, tally.all_admitted(), 0, in_ledgers);
    found.count(&format!("{what}: calls that failed"), tally.failures(), 0, tally.failures() == 0);
}
