//! Whether the failure policy decides just now, and what came of it.
//!
//! Invariant: each change is logged once: when the policy begins to decide, and when the store has been told of all that it admitted, and
//! has failed no call for a while. Of a cluster, one node may be away while the others answer.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::Duration,
};

use crate::{error::Error, telemetry};

/// How often the store is tried while admissions wait to be charged, and when who is denied for want of it may come back.
pub(crate) const RETRY: Duration = Duration::from_secs(1);

/// How long no call must have failed before the store is said to be back.
const CALM_MS: u64 = 5_000;

#[derive(Debug)]
pub(super) struct Health {
    policy: &'static str,
    degraded: AtomicBool,
    /// When the last call failed, by the clock of this process.
    failed_ms: AtomicU64,
    decisions: AtomicU64,
    posted: AtomicU64,
}

impl Health {
    pub(super) fn new(policy: &'static str) -> Self {
        let [failed_ms, decisions, posted] = [0; 3].map(AtomicU64::new);
        Self { policy, degraded: AtomicBool::new(false), failed_ms, decisions, posted }
    }

    pub(super) fn is_degraded(&self) -> bool {
        self.degraded.load(Ordering::SeqCst)
    }

    /// The store failed with `error`, and the policy decides.
    pub(super) fn begins(&self, error: &Error, now_ms: u64) {
        self.fails(now_ms);
        if !self.degraded.swap(true, Ordering::SeqCst) {
            telemetry::degraded(self.policy, error);
        }
    }

    /// The store failed.
    pub(super) fn fails(&self, now_ms: u64) {
        self.failed_ms.fetch_max(now_ms, Ordering::SeqCst);
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

    /// The store answers, and has nothing left to be told. Says whether it is back.
    pub(super) fn ends(&self, now_ms: u64) -> bool {
        let is_calm = now_ms >= self.failed_ms.load(Ordering::SeqCst) + CALM_MS;
        if is_calm && self.degraded.swap(false, Ordering::SeqCst) {
            let take = |count: &AtomicU64| count.swap(0, Ordering::SeqCst);
            telemetry::recovered(self.policy, take(&self.decisions), take(&self.posted));
        }
        is_calm
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn while_some_calls_fail_and_others_are_answered_nothing_ends() {
        let (health, error) = (Health::new("allow"), Error::new(ErrorKind::Timeout, "late"));
        for now_ms in [1_000, 2_000, 6_999] {
            health.begins(&error, now_ms);
            assert!(!health.ends(now_ms + CALM_MS - 1) && health.is_degraded());
        }
        // a call that was made before, and failed no later
        health.fails(3_000);
        assert!(!health.ends(6_999 + CALM_MS - 1));
        assert!(health.ends(6_999 + CALM_MS) && !health.is_degraded());
    }
}
