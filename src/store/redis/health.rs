//! Whether a server answers, and the breaker that spares callers their deadline while it does not.
//!
//! Invariant: time is a value. A state that changes is told once; while the breaker is open, one call per pause tries.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::error::{Error, ErrorKind};

/// Calls in a row without an answer that open the breaker.
const FAILURES_MAX: u32 = 3;
/// How long the breaker refuses calls before one tries.
const PAUSE: Duration = Duration::from_millis(500);

/// How long nothing must fail before it is told that a server answers again: one that fails now and then is told of once.
const CALM: Duration = Duration::from_secs(1);

/// How the calls to one server went lately.
#[derive(Debug, Default)]
pub(super) struct Health(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// In a row.
    failures: u32,
    open_until: Option<Instant>,
    /// When a call failed or was refused last, of a server that is told of as failing.
    troubled: Option<Instant>,
}

/// What a call changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    Nothing,
    /// The server fails, or refuses calls.
    Fails,
    /// It does not any more.
    Recovers,
}

impl Health {
    /// Whether a call may be made: while the breaker is open, one per pause.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unavailable`] while it is open.
    pub(super) fn admit(&self, now: Instant) -> Result<(), Error> {
        let mut state = self.0.lock();
        match state.open_until {
            Some(until) if now < until => Err(Error::new(
                ErrorKind::Unavailable,
                format!("Redis did not answer {} calls in a row: it is tried again within {PAUSE:?}", state.failures),
            )),
            Some(_) => {
                // this one tries; should it be dropped, the next pause has another
                state.open_until = Some(now + PAUSE);
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// A call was answered.
    pub(super) fn answered(&self, now: Instant) -> Change {
        let mut state = self.0.lock();
        (state.failures, state.open_until) = (0, None);
        match state.troubled {
            Some(at) if now.saturating_duration_since(at) >= CALM => {
                state.troubled = None;
                Change::Recovers
            }
            _ => Change::Nothing,
        }
    }

    /// A call ended without an answer.
    pub(super) fn failed(&self, now: Instant) -> Change {
        let mut state = self.0.lock();
        state.failures = state.failures.saturating_add(1);
        if state.failures >= FAILURES_MAX {
            state.open_until = Some(now + PAUSE);
        }
        state.trouble(now)
    }

    /// A call was refused by a server that is there, and may grant others.
    pub(super) fn refused(&self, now: Instant) -> Change {
        let mut state = self.0.lock();
        (state.failures, state.open_until) = (0, None);
        state.trouble(now)
    }
}

impl State {
    fn trouble(&mut self, now: Instant) -> Change {
        if self.troubled.replace(now).is_none() { Change::Fails } else { Change::Nothing }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_breaker_opens_after_three_failures_in_a_row_and_one_call_per_pause_tries() {
        let (health, start) = (Health::default(), Instant::now());
        let at = |ms| start + Duration::from_millis(ms);
        for ms in [0, 250] {
            health.failed(at(ms));
        }
        health.answered(at(260));
        for ms in [300, 400, 500] {
            assert!(health.admit(at(ms)).is_ok());
            health.failed(at(ms));
        }
        let refused = health.admit(at(999)).unwrap_err();
        assert!(refused.to_string().contains("3 calls in a row"), "{refused}");
        assert!(health.admit(at(1_000)).is_ok());
        assert!(health.admit(at(1_001)).is_err(), "one tries");
        assert!(health.admit(at(1_500)).is_ok(), "whatever became of the first");
        health.answered(at(1_501));
        assert!(health.admit(at(1_502)).is_ok());
    }

    #[test]
    fn a_server_that_fails_now_and_then_is_told_of_once_and_again_when_it_has_not_for_a_second() {
        let (health, start) = (Health::default(), Instant::now());
        let at = |ms| start + Duration::from_millis(ms);
        assert_eq!(health.answered(at(0)), Change::Nothing);
        assert_eq!(health.failed(at(1)), Change::Fails);
        for ms in (2..3_000).step_by(2) {
            assert_eq!(health.answered(at(ms)), Change::Nothing, "{ms}");
            assert_eq!(
                if ms % 4 == 0 { health.failed(at(ms + 1)) } else { health.refused(at(ms + 1)) },
                Change::Nothing
            );
        }
        assert_eq!(health.answered(at(3_998)), Change::Nothing);
        assert_eq!(health.answered(at(3_999)), Change::Recovers);
        assert_eq!(health.answered(at(9_000)), Change::Nothing);
    }

    #[test]
    fn a_refusal_is_an_answer_to_the_breaker() {
        let (health, now) = (Health::default(), Instant::now());
        for _ in 0..3 {
            health.failed(now);
        }
        assert!(health.admit(now).is_err());
        health.refused(now);
        assert!(health.admit(now).is_ok());
    }
}
