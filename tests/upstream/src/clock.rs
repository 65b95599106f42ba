//! The server's own time: it runs as the machine's, so many times as fast, or stands in a test's hand.
//!
//! Invariant: it never goes back.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;

/// A clock that only moves when a test says so. Clones are the same clock.
#[derive(Clone, Debug, Default)]
pub struct ManualClock(Arc<Mutex<Duration>>);

impl ManualClock {
    /// A clock that stands at zero.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Moves it on.
    pub fn advance(&self, by: Duration) {
        *self.0.lock() += by;
    }

    /// How far it has moved since it was made.
    #[must_use]
    pub fn now(&self) -> Duration {
        *self.0.lock()
    }
}

/// What tells the server its time, as the time since its start.
#[derive(Clone, Debug)]
pub(crate) enum Clock {
    Running { started: Instant, speed: f64 },
    Manual(ManualClock),
}

impl Clock {
    pub(crate) fn now(&self) -> Duration {
        match self {
            Self::Running { started, speed } => started.elapsed().mul_f64(*speed),
            Self::Manual(clock) => clock.now(),
        }
    }

    /// What a time of this clock is on the machine's. A clock in a test's hand has no speed.
    pub(crate) fn real(&self, time: Duration) -> Duration {
        match self {
            Self::Running { speed, .. } => time.div_f64(*speed),
            Self::Manual(_) => time,
        }
    }
}
