//! A store whose time is in the test's hand: the embedded one under a manual clock, or a Redis under a shimmed one.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use allotment::{Limiter, ManualClock, Policy, testing::RawStore};

use super::{ClockedServer, Server};

/// Longer than any loaded test machine takes for a decision.
const DEADLINE: Duration = Duration::from_secs(20);

/// One store and its time.
#[derive(Debug)]
pub(crate) enum Stage {
    /// Each limiter and each raw store has ledgers of its own.
    Memory(ManualClock),
    /// All limiters and raw stores share the ledgers.
    Redis { server: ClockedServer, now_ms: AtomicU64 },
}

impl Stage {
    /// The embedded store, from [`ClockedServer::START_MS`] on.
    pub(crate) fn memory() -> Self {
        let clock = ManualClock::new();
        clock.advance(Duration::from_millis(ClockedServer::START_MS - clock.now_ms()));
        Self::Memory(clock)
    }

    /// A Redis of its own, from [`ClockedServer::START_MS`] on.
    pub(crate) async fn redis() -> Self {
        Self::Redis { server: Server::with_clock().await, now_ms: AtomicU64::new(ClockedServer::START_MS) }
    }

    /// The same of this image, whatever the other tests run on.
    pub(crate) async fn redis_of_image(image: &str) -> Self {
        let server = Server::of_image_with_clock(image).await;
        Self::Redis { server, now_ms: AtomicU64::new(ClockedServer::START_MS) }
    }

    /// Every kind of store.
    pub(crate) async fn both() -> [Self; 2] {
        [Self::memory(), Self::redis().await]
    }

    /// What to call it when a test fails.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Memory(_) => "memory",
            Self::Redis { .. } => "redis",
        }
    }

    /// What it runs on.
    pub(crate) fn engine(&self) -> &str {
        match self {
            Self::Memory(_) => "memory",
            Self::Redis { server, .. } => server.version(),
        }
    }

    pub(crate) fn now_ms(&self) -> u64 {
        match self {
            Self::Memory(clock) => clock.now_ms(),
            Self::Redis { now_ms, .. } => now_ms.load(Ordering::SeqCst),
        }
    }

    /// Lets time pass.
    pub(crate) fn advance_ms(&self, by: u64) {
        match self {
            Self::Memory(clock) => clock.advance(Duration::from_millis(by)),
            Self::Redis { server, now_ms } => server.set_ms(now_ms.fetch_add(by, Ordering::SeqCst) + by),
        }
    }

    /// A limiter under `policy`.
    pub(crate) fn limiter(&self, policy: Policy) -> Limiter {
        let builder = Limiter::builder().policy(policy).deadline(DEADLINE);
        match self {
            Self::Memory(clock) => builder.in_memory().clock(clock.clone()),
            Self::Redis { server, .. } => builder.redis(server.url()),
        }
        .build()
        .unwrap()
    }

    /// A store without limits.
    pub(crate) fn raw(&self) -> RawStore {
        match self {
            Self::Memory(clock) => RawStore::in_memory(clock.clone()),
            Self::Redis { server, .. } => RawStore::redis(&server.url(), DEADLINE).unwrap(),
        }
    }
}
