//! How a route is doing: whether it is asked at all, how often it answers, and how fast.
//!
//! Invariant: pure; time is a value. After a pause one call goes first, and no second one before it has ended or had its time. What a caller did wrong, and
//! a limit that is used up, do not count against a route.

use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

use crate::openai::{
    error::{ImageError, ImageErrorKind},
    refusal::RefusalKind,
};

/// Failures in a row after which a route pauses.
const FAILURES: u32 = 3;
/// The first pause. Each after it is twice as long, until a call succeeds.
const PAUSE: Duration = Duration::from_secs(5);
/// The longest pause after failures.
const PAUSE_MAX: Duration = Duration::from_secs(120);
/// The pause after a refusal that only people can mend: money, a quota, a key.
const PAUSE_LONG: Duration = Duration::from_secs(300);
/// How long one call may take to find out. Then another may: the first may be of a caller that reads no more of its stream.
const PROBE_MAX: Duration = Duration::from_secs(60);
/// How soon to look again while one is finding out.
pub(super) const LOOK_AFTER: Duration = Duration::from_secs(1);
/// The part that the newest call has in the averages.
const NEWEST: f64 = 0.2;
/// What was measured longer ago says nothing any more.
const MEASURED_FOR: Duration = Duration::from_secs(600);

/// What an attempt says about its route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mark {
    /// It drew images, in this time.
    Served(Duration),
    /// It works, and says no: that is not its fault.
    Answered,
    /// It does not work.
    Failed,
    /// It will not work before somebody has mended something.
    Closed,
}

impl Mark {
    pub(super) fn of(error: &ImageError) -> Self {
        let Some(refusal) = error.refusal() else {
            return match error.kind() {
                ImageErrorKind::Unreachable | ImageErrorKind::Unanswered | ImageErrorKind::Unreadable => Self::Failed,
                _ => Self::Answered,
            };
        };
        match refusal.kind {
            RefusalKind::Exhausted => Self::Closed,
            // of a model the account may lack one and have others; of a wrong key there is nothing it may use
            RefusalKind::NoAccess if refusal.status == 401 => Self::Closed,
            RefusalKind::Overloaded | RefusalKind::Failed => Self::Failed,
            _ => Self::Answered,
        }
    }
}

/// Whether calls go to a route: what its circuit breaker says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum BreakerState {
    /// They do.
    Closed,
    /// They do not, for a while.
    Open,
    /// The next one finds out, or one is finding out.
    HalfOpen,
}

/// What is known of how a route is doing.
#[derive(Clone, Debug)]
pub(super) struct Health {
    breaker: Breaker,
    /// The part of calls that it answered, 0 to 1.
    availability: f64,
    latency_ms: Option<f64>,
    measured_at: Option<Instant>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Breaker {
    /// After so many failures in a row.
    Closed { failures: u32 },
    /// After so many pauses before this one.
    Open { until: Instant, pauses: u32 },
    /// One call finds out, since then.
    Probing { since: Instant, pauses: u32 },
}

/// Leave for one call. The health that gave it is told how it went, or that it did not go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Leave {
    Ordinary,
    /// Of the call that finds out, since then.
    Probe(Instant),
}

impl Health {
    pub(super) fn new() -> Self {
        Self { breaker: Breaker::Closed { failures: 0 }, availability: 1.0, latency_ms: None, measured_at: None }
    }

    /// Whether a call may go there now.
    pub(super) fn admits(&self, now: Instant) -> bool {
        match self.breaker {
            Breaker::Closed { .. } => true,
            Breaker::Open { until, .. } => now >= until,
            Breaker::Probing { since, .. } => now.saturating_duration_since(since) >= PROBE_MAX,
        }
    }

    /// Leave for a call, if one may go there now.
    pub(super) fn enter(&mut self, now: Instant) -> Option<Leave> {
        if !self.admits(now) {
            return None;
        }
        match self.breaker {
            Breaker::Closed { .. } => Some(Leave::Ordinary),
            Breaker::Open { pauses, .. } | Breaker::Probing { pauses, .. } => {
                self.breaker = Breaker::Probing { since: now, pauses };
                Some(Leave::Probe(now))
            }
        }
    }

    /// The call ended. Says whether that decided about the calls to come.
    pub(super) fn note(&mut self, leave: Leave, mark: Mark, now: Instant) -> bool {
        self.measure(mark, now);
        let (failures, pauses) = match (self.breaker, leave) {
            (Breaker::Closed { failures }, _) => (failures + 1, 0),
            (Breaker::Probing { since, pauses }, Leave::Probe(at)) if since == at => (FAILURES, pauses),
            // a call from before the pause, or from before the one that finds out now, says nothing about now
            _ => return false,
        };
        self.breaker = match mark {
            Mark::Served(_) | Mark::Answered => Breaker::Closed { failures: 0 },
            Mark::Failed if failures < FAILURES => Breaker::Closed { failures },
            Mark::Failed => Breaker::Open { until: now + pause(pauses), pauses: pauses.saturating_add(1) },
            Mark::Closed => Breaker::Open { until: now + PAUSE_LONG, pauses },
        };
        true
    }

    /// The call did not go, or nobody waited for its end.
    pub(super) fn leave(&mut self, leave: Leave, now: Instant) {
        if let (Breaker::Probing { since, pauses }, Leave::Probe(at)) = (self.breaker, leave)
            && since == at
        {
            self.breaker = Breaker::Open { until: now, pauses };
        }
    }

    fn measure(&mut self, mark: Mark, now: Instant) {
        if self.measured_at.is_some_and(|at| now.saturating_duration_since(at) >= MEASURED_FOR) {
            (self.availability, self.latency_ms) = (1.0, None);
        }
        let newest = match mark {
            Mark::Served(latency) => {
                let latency_ms = latency.as_secs_f64() * 1_000.0;
                self.latency_ms = Some(self.latency_ms.map_or(latency_ms, |before| averaged(before, latency_ms)));
                1.0
            }
            Mark::Failed | Mark::Closed => 0.0,
            Mark::Answered => return,
        };
        self.availability = averaged(self.availability, newest);
        self.measured_at = Some(now);
    }

    pub(super) fn state(&self, now: Instant) -> BreakerState {
        match self.breaker {
            Breaker::Closed { .. } => BreakerState::Closed,
            Breaker::Open { until, .. } if now < until => BreakerState::Open,
            Breaker::Open { .. } | Breaker::Probing { .. } => BreakerState::HalfOpen,
        }
    }

    /// Until its pause ends.
    pub(super) fn paused_for(&self, now: Instant) -> Option<Duration> {
        match self.breaker {
            Breaker::Open { until, .. } => Some(until.saturating_duration_since(now)).filter(|wait| !wait.is_zero()),
            Breaker::Closed { .. } | Breaker::Probing { .. } => None,
        }
    }

    /// When to ask whether a call may go there; `None`: now.
    pub(super) fn retry_after(&self, now: Instant) -> Option<Duration> {
        match self.breaker {
            Breaker::Probing { .. } if !self.admits(now) => Some(LOOK_AFTER),
            _ => self.paused_for(now),
        }
    }

    /// The part of calls that it answered, 0 to 1.
    pub(super) fn availability(&self) -> f64 {
        self.availability
    }

    /// How long images take, in milliseconds.
    pub(super) fn latency_ms(&self) -> Option<f64> {
        self.latency_ms
    }

    /// `availability x 1000 / latency in ms`; `None`: nothing was measured lately.
    ///
    /// # Source
    ///
    /// The guide, facts 1.13.
    pub(super) fn score(&self, now: Instant) -> Option<f64> {
        let measured_at = self.measured_at?;
        if now.saturating_duration_since(measured_at) >= MEASURED_FOR {
            return None;
        }
        // one that has never drawn anything has failed: it is the worst
        Some(self.latency_ms.map_or(0.0, |latency_ms| self.availability * 1_000.0 / latency_ms.max(1.0)))
    }
}

/// After so many before it.
fn pause(pauses: u32) -> Duration {
    PAUSE.saturating_mul(2u32.saturating_pow(pauses)).min(PAUSE_MAX)
}

fn averaged(before: f64, newest: f64) -> f64 {
    before + NEWEST * (newest - before)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::openai::refusal::Refusal;

    const SERVED: Mark = Mark::Served(Duration::from_secs(2));

    fn attempt(health: &mut Health, mark: Mark, now: Instant) {
        let leave = health.enter(now).unwrap();
        health.note(leave, mark, now);
    }

    /// Fails until it pauses, and says for how long.
    fn paused(health: &mut Health, mut now: Instant) -> Duration {
        while health.admits(now) {
            attempt(health, Mark::Failed, now);
            now += Duration::from_millis(1);
        }
        health.paused_for(now - Duration::from_millis(1)).unwrap()
    }

    #[test]
    fn three_failures_in_a_row_pause_a_route_and_two_do_not() {
        let (mut health, now) = (Health::new(), Instant::now());
        for mark in [Mark::Failed, Mark::Failed, Mark::Answered, Mark::Failed, Mark::Failed] {
            attempt(&mut health, mark, now);
            assert_eq!(health.state(now), BreakerState::Closed);
        }
        attempt(&mut health, Mark::Failed, now);
        assert_eq!(health.state(now), BreakerState::Open);
        assert!(!health.admits(now + PAUSE - Duration::from_millis(1)) && health.admits(now + PAUSE));
    }

    #[test]
    fn pauses_double_up_to_a_bound_and_start_anew_after_a_success() {
        let (mut health, mut now) = (Health::new(), Instant::now());
        for seconds in [5, 10, 20, 40, 80, 120, 120] {
            assert_eq!(paused(&mut health, now), Duration::from_secs(seconds));
            now += Duration::from_secs(1_000);
        }
        attempt(&mut health, SERVED, now);
        assert_eq!(health.state(now), BreakerState::Closed);
        assert_eq!(paused(&mut health, now), PAUSE);
    }

    #[test]
    fn after_a_pause_one_call_goes_first() {
        let (mut health, now) = (Health::new(), Instant::now());
        let early = health.enter(now).unwrap();
        paused(&mut health, now);
        let later = now + PAUSE * 2;
        let probe = health.enter(later).unwrap();
        assert_eq!((probe, health.enter(later)), (Leave::Probe(later), None));
        health.note(early, SERVED, later);
        assert_eq!(health.enter(later), None, "a call from before the pause decides nothing");
        health.leave(probe, later);
        assert_eq!(health.enter(later), Some(Leave::Probe(later)), "one that did not go makes room");
        health.note(Leave::Probe(later), Mark::Answered, later);
        assert_eq!(health.enter(later), Some(Leave::Ordinary));
    }

    #[test]
    fn a_call_that_does_not_find_out_in_time_makes_room_for_another() {
        let (mut health, now) = (Health::new(), Instant::now());
        paused(&mut health, now);
        let later = now + PAUSE * 2;
        let slow = health.enter(later).unwrap();
        assert!(!health.admits(later + PROBE_MAX - Duration::from_millis(1)));
        let next = health.enter(later + PROBE_MAX).unwrap();
        health.note(slow, SERVED, later + PROBE_MAX);
        health.leave(slow, later + PROBE_MAX);
        assert!(!health.admits(later + PROBE_MAX), "it had its time");
        health.note(next, SERVED, later + PROBE_MAX);
        assert_eq!(health.state(later + PROBE_MAX), BreakerState::Closed);
    }

    #[test]
    fn a_refusal_that_people_must_mend_pauses_for_minutes_at_once() {
        let (mut health, now) = (Health::new(), Instant::now());
        attempt(&mut health, Mark::Closed, now);
        assert_eq!(health.paused_for(now), Some(PAUSE_LONG));
    }

    #[test]
    fn a_score_is_availability_by_latency_of_what_was_measured_lately() {
        let (mut health, now) = (Health::new(), Instant::now());
        assert_eq!(health.score(now), None);
        attempt(&mut health, SERVED, now);
        assert_eq!(health.score(now), Some(0.5));
        attempt(&mut health, Mark::Answered, now);
        assert_eq!(health.score(now), Some(0.5));
        attempt(&mut health, Mark::Failed, now);
        assert_eq!(health.score(now), Some(0.4));
        assert_eq!(health.score(now + MEASURED_FOR), None);
        let mut failed = Health::new();
        attempt(&mut failed, Mark::Failed, now);
        assert_eq!(failed.score(now), Some(0.0));
    }

    #[test]
    fn what_an_error_says_about_a_route() {
        let refused = |kind, status| {
            let message = "no".to_owned();
            let refusal = Refusal {
                kind,
                status,
                error_type: None,
                code: None,
                message,
                figures: None,
                retry_after: None,
                should_retry: None,
            };
            Mark::of(&ImageError::from(refusal))
        };
        for (kind, status, mark) in [
            (RefusalKind::RateLimited, 429, Mark::Answered),
            (RefusalKind::TooLarge, 429, Mark::Answered),
            (RefusalKind::Invalid, 400, Mark::Answered),
            (RefusalKind::Moderation, 400, Mark::Answered),
            (RefusalKind::NoAccess, 403, Mark::Answered),
            (RefusalKind::NoAccess, 401, Mark::Closed),
            (RefusalKind::Exhausted, 400, Mark::Closed),
            (RefusalKind::Overloaded, 503, Mark::Failed),
            (RefusalKind::Failed, 500, Mark::Failed),
        ] {
            assert_eq!(refused(kind, status), mark, "{kind:?} {status}");
        }
        for (kind, mark) in [
            (ImageErrorKind::Unreachable, Mark::Failed),
            (ImageErrorKind::Unanswered, Mark::Failed),
            (ImageErrorKind::Unreadable, Mark::Failed),
            (ImageErrorKind::NoImage, Mark::Answered),
            (ImageErrorKind::Invalid, Mark::Answered),
            (ImageErrorKind::NotAdmitted, Mark::Answered),
        ] {
            assert_eq!(Mark::of(&ImageError::new(kind, "no")), mark, "{kind:?}");
        }
    }

    #[derive(Clone, Copy, Debug)]
    enum Act {
        Enter,
        /// The oldest call under way ends so.
        End(Mark),
        /// Nobody waits for it any more.
        Drop,
        Pass(u64),
    }

    fn acts() -> impl Strategy<Value = Vec<Act>> {
        let act = prop_oneof![
            4 => Just(Act::Enter),
            2 => Just(Act::End(SERVED)),
            1 => Just(Act::End(Mark::Answered)),
            4 => Just(Act::End(Mark::Failed)),
            1 => Just(Act::End(Mark::Closed)),
            1 => Just(Act::Drop),
            2 => (0..100u64).prop_map(Act::Pass),
        ];
        proptest::collection::vec(act, 0..200)
    }

    proptest! {
        #[test]
        fn a_route_is_probed_by_one_call_at_a_time_and_never_lost_for_good(acts in acts()) {
            let (mut health, mut now, mut under_way) = (Health::new(), Instant::now(), Vec::new());
            for act in acts {
                match act {
                    Act::Enter => under_way.extend(health.enter(now)),
                    Act::End(mark) if !under_way.is_empty() => {
                        health.note(under_way.remove(0), mark, now);
                    }
                    Act::Drop if !under_way.is_empty() => health.leave(under_way.remove(0), now),
                    Act::Pass(seconds) => now += Duration::from_secs(seconds),
                    Act::End(_) | Act::Drop => {}
                }
                if let Breaker::Probing { since, .. } = health.breaker {
                    let probes = under_way.iter().filter(|leave| **leave == Leave::Probe(since)).count();
                    prop_assert_eq!(probes, 1, "only a call under way keeps others out");
                }
                prop_assert_eq!(health.admits(now), health.clone().enter(now).is_some());
                prop_assert_eq!(health.admits(now), health.retry_after(now).is_none());
                prop_assert!((0.0..=1.0).contains(&health.availability));
                prop_assert!(health.paused_for(now).is_none_or(|wait| wait <= PAUSE_LONG));
            }
            for leave in under_way {
                health.leave(leave, now);
            }
            prop_assert!(health.admits(now + PAUSE_LONG));
        }
    }
}
