//! Whether the failure policy decides just now, and what came of it.
//!
//! Invariant: each change is logged once: when the policy begins to decide, and when the store has been told of all that it admitted.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::Duration,
};

use crate::{error::Error, telemetry};

/// How often the store is tried while admissions wait to be charged, and when who is denied for want of it may come back.
pub(crate) const RETRY: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct Health {
    policy: &'static str,
    degraded: AtomicBool,
    decisions: AtomicU64,
    posted: AtomicU64,
}

impl Health {
    pub(super) fn new(policy: &'static str) -> Self {
        Self { policy, degraded: AtomicBool::new(false), decisions: AtomicU64::new(0), posted: AtomicU64::new(0) }
    }

    pub(super) fn is_degraded(&self) -> bool {
        self.degraded.load(Ordering::SeqCst)
    }

    /// The store failed with `error`, and the policy decides.
    pub(super) fn begins(&self, error: &Error) {
        if !self.degraded.swap(true, Ordering::SeqCst) {
            telemetry::degraded(self.policy, error);
        }
    }

    pub(super) fn decided(&self, outcome: &'static str) {
        self.decisions.fetch_add(1, Ordering::SeqCst);
        telemetry::degraded_decision(self.policy, outcome);
    }

    /// An admission was charged.
    pub(super) fn posted(&self) {
        self.posted.fetch_add(1, Ordering::SeqCst);
        telemetry::posting("posted");
    }

    /// The store answers, and has nothing left to be told.
    pub(super) fn ends(&self) {
        if self.degraded.swap(false, Ordering::SeqCst) {
            let take = |count: &AtomicU64| count.swap(0, Ordering::SeqCst);
            telemetry::recovered(self.policy, take(&self.decisions), take(&self.posted));
        }
    }
}
