//! Limiters that lose their Redis, each behind a proxy of its own.

use std::time::{Duration, Instant};

use allotment::{
    FailurePolicy, Limiter, LimiterBuilder, Policy,
    testing::{RawLedger, RawStore},
};
use redis::AsyncCommands;

use super::{Fault, Proxy, Server, raw, shared};

/// Longest wait for what comes by itself.
const PATIENCE: Duration = Duration::from_secs(60);

/// One process: its network and its limiter.
#[derive(Debug)]
pub(crate) struct Behind {
    pub(crate) proxy: Proxy,
    pub(crate) limiter: Limiter,
}

impl Behind {
    /// A limiter that gives a sign of life every two seconds.
    pub(crate) async fn new(policy: Policy, failure: FailurePolicy) -> Self {
        let builder = Limiter::builder().policy(policy).failure_policy(failure);
        Self::built(builder.lease(Duration::from_secs(6))).await
    }

    /// On the shared server.
    pub(crate) async fn built(builder: LimiterBuilder) -> Self {
        Self::on(shared().await, builder).await
    }

    /// On a server of the test's own.
    pub(crate) async fn on(server: &Server, builder: LimiterBuilder) -> Self {
        let proxy = Proxy::start(server.port()).await;
        Self { limiter: builder.redis(proxy.url()).build().unwrap(), proxy }
    }

    /// Redis is gone.
    pub(crate) async fn cut(&self) {
        self.proxy.set(Fault::Refuse).await;
    }

    /// Redis is back.
    pub(crate) async fn heal(&self) {
        self.proxy.set(Fault::Nothing).await;
    }
}

/// Waits until `question` has an answer.
pub(crate) async fn eventually<T>(what: &str, mut question: impl AsyncFnMut() -> Option<T>) -> T {
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = question().await {
            return answer;
        }
        assert!(Instant::now() < until, "not within {PATIENCE:?}: {what}");
        // nobody tells the test
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Waits until so many processes share the limits of the org, and each of them knows it: three signs of life of each are answered, the
/// first of them after all had joined.
pub(crate) async fn share_is_known(org: &str, members: usize) {
    share_is_known_on(shared().await, org, members).await;
}

/// The same, on a server of the test's own.
pub(crate) async fn share_is_known_on(server: &Server, org: &str, members: usize) {
    let mut conn = raw(server).await;
    let key = format!("allot:1:{{{org}}}:p");
    let (mut last, mut signs) = (Vec::new(), vec![0; members]);
    eventually("all members know their share", async || {
        let seen: Vec<(Vec<u8>, u64)> = conn.zrange_withscores(&key, 0, -1).await.unwrap();
        let mut seen: Vec<_> = seen.into_iter().collect();
        seen.sort();
        if seen.len() == members && last.len() == members {
            for (sign, (now, before)) in signs.iter_mut().zip(seen.iter().zip(&last)) {
                *sign += u32::from(now != before);
            }
        }
        last = seen;
        signs.iter().all(|signs| *signs >= 3).then_some(())
    })
    .await;
}

/// What the org's window of an hour holds, asked of the store past every fault: requests, tokens, images.
pub(crate) async fn held(org: &str) -> [u64; 3] {
    held_on(shared().await, org).await
}

/// The same, on a server of the test's own.
pub(crate) async fn held_on(server: &Server, org: &str) -> [u64; 3] {
    let store = RawStore::redis(&server.url(), PATIENCE).unwrap();
    let (_, entries) = store.entries(org, &[RawLedger { user: None, window_ms: 3_600_000 }]).await.unwrap();
    let sum = |place: usize| entries[0].iter().map(|(_, amounts)| amounts[place]).sum();
    [sum(0), sum(1), sum(2)]
}

/// Redis refuses each org but one, as where a node of a cluster fails alone.
pub(crate) async fn refuse_all_but(server: &Server, near: &str) {
    let mut conn = raw(server).await;
    let pattern = format!("~allot:1:{{{near}}}:*");
    redis::cmd("ACL").arg("SETUSER").arg("default").arg("resetkeys").arg(pattern).exec_async(&mut conn).await.unwrap();
}

/// All that Redis has of the org is lost.
pub(crate) async fn lose(org: &str) {
    let mut conn = raw(shared().await).await;
    let keys: Vec<String> = conn.keys(format!("allot:1:{{{org}}}:*")).await.unwrap();
    conn.del::<_, ()>(keys).await.unwrap();
}
