//! What time it is for the embedded store and for waiters.
//!
//! Invariant: a clock of this crate never goes back. Redis has a clock of its own; waiters use this one only to sleep.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::{sync::Notify, time::Instant};

/// A clock in the hand of a test: time passes only by [`advance`](Self::advance).
///
/// Clones share the time. Given to [`LimiterBuilder::clock`](crate::LimiterBuilder::clock), it lets you test your own code without a sleep.
#[derive(Clone)]
pub struct ManualClock {
    time: Arc<ManualTime>,
}

struct ManualTime {
    now_ms: AtomicU64,
    advanced: Notify,
}

impl ManualClock {
    /// A clock that stands at 2026-01-01T00:00:00Z.
    #[must_use]
    pub fn new() -> Self {
        let time = ManualTime { now_ms: AtomicU64::new(1_767_225_600_000), advanced: Notify::new() };
        Self { time: Arc::new(time) }
    }

    /// The time, in milliseconds since the epoch.
    #[must_use]
    pub fn now_ms(&self) -> u64 {
        self.time.now_ms.load(Ordering::SeqCst)
    }

    /// Lets time pass, in whole milliseconds, and wakes who waits for it.
    pub fn advance(&self, by: Duration) {
        self.time.now_ms.fetch_add(millis(by), Ordering::SeqCst);
        self.time.advanced.notify_waiters();
    }

    async fn sleep_until(&self, at_ms: u64) {
        loop {
            let advanced = self.time.advanced.notified();
            tokio::pin!(advanced);
            advanced.as_mut().enable();
            if self.now_ms() >= at_ms {
                return;
            }
            advanced.await;
        }
    }
}

impl Default for ManualClock {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for ManualClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ManualClock").field("now_ms", &self.now_ms()).finish()
    }
}

/// The clock of a limiter.
#[derive(Clone, Debug)]
pub(crate) enum Clock {
    /// Runs with Tokio's, so that a test with paused time works too; started from the wall clock.
    System {
        started_ms: u64,
        started: std::time::Instant,
    },
    Manual(ManualClock),
}

impl Clock {
    pub(crate) fn system() -> Self {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self::System { started_ms: millis(since_epoch), started: Instant::now().into_std() }
    }

    pub(crate) fn now_ms(&self) -> u64 {
        match self {
            Self::System { started_ms, started } => {
                started_ms + millis(Instant::now().into_std().saturating_duration_since(*started))
            }
            Self::Manual(clock) => clock.now_ms(),
        }
    }

    /// Returns `wait` from now, never earlier.
    pub(crate) async fn sleep(&self, wait: Duration) {
        match self {
            Self::System { .. } => tokio::time::sleep(wait).await,
            Self::Manual(clock) => clock.sleep_until(clock.now_ms() + millis_up(wait)).await,
        }
    }
}

/// From `now_ms` until `at_ms`; nothing, if that has passed.
pub(crate) fn wait_until(at_ms: u64, now_ms: u64) -> Duration {
    Duration::from_millis(at_ms.saturating_sub(now_ms))
}

/// Whole milliseconds, rounded down.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn millis_up(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}
