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

/// How often it is told that a server refuses calls.
const REFUSAL_PAUSE: Duration = Duration::from_secs(10);

/// How the calls to one server went lately.
#[derive(Debug, Default)]
pub(super) struct Health(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// In a row.
    failures: u32,
    open_until: Option<Instant>,
    /// When it was last told that the server refuses calls.
    refusal_told: Option<Instant>,
}

/// What a call changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    Nothing,
    /// The server does not answer any more.
    Fails,
    /// It answers again.
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

    /// A call was answered, with an error perhaps.
    pub(super) fn answered(&self) -> Change {
        let mut state = self.0.lock();
        state.open_until = None;
        if std::mem::take(&mut state.failures) > 0 { Change::Recovers } else { Change::Nothing }
    }

    /// A call was refused by a server that is there, which may grant others; says whether that is to be told again.
    pub(super) fn refused(&self, now: Instant) -> bool {
        let mut state = self.0.lock();
        // it is there: others hear what it says to them, not that it is silent. That it answers again is still to be told
        (state.open_until, state.failures) = (None, state.failures.min(1));
        let tells = state.refusal_told.is_none_or(|told| now.duration_since(told) >= REFUSAL_PAUSE);
        if tells {
            state.refusal_told = Some(now);
        }
        tells
    }

    /// A call ended without an answer.
    pub(super) fn failed(&self, now: Instant) -> Change {
        let mut state = self.0.lock();
        state.failures = state.failures.saturating_add(1);
        if state.failures >= FAILURES_MAX {
            state.open_until = Some(now + PAUSE);
        }
        if state.failures == 1 { Change::Fails } else { Change::Nothing }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_breaker_opens_after_three_failures_in_a_row_and_one_call_per_pause_tries() {
        let (health, start) = (Health::default(), Instant::now());
        let at = |ms| start + Duration::from_millis(ms);
        assert_eq!((health.failed(at(0)), health.failed(at(250))), (Change::Fails, Change::Nothing));
        assert_eq!(health.answered(), Change::Recovers);
        assert_eq!(health.answered(), Change::Nothing);
        for ms in [0, 250, 500] {
            assert!(health.admit(at(ms)).is_ok());
            health.failed(at(ms));
        }
        let refused = health.admit(at(999)).unwrap_err();
        assert!(refused.to_string().contains("3 calls in a row"), "{refused}");
        assert!(health.admit(at(1_000)).is_ok());
        assert!(health.admit(at(1_001)).is_err(), "one tries");
        assert!(health.admit(at(1_500)).is_ok(), "whatever became of the first");
        assert_eq!(health.answered(), Change::Recovers);
        assert!(health.admit(at(1_501)).is_ok());
    }

    #[test]
    fn a_refusal_opens_no_breaker_and_is_told_every_ten_seconds() {
        let (health, start) = (Health::default(), Instant::now());
        let at = |ms| start + Duration::from_millis(ms);
        let told: Vec<_> = [0, 1, 2, 9_999, 10_000, 10_001].into_iter().map(|ms| health.refused(at(ms))).collect();
        assert_eq!(told, [true, false, false, false, true, false]);
        assert!(health.admit(at(10_002)).is_ok());
    }

    #[test]
    fn a_refusal_closes_the_breaker() {
        let (health, start) = (Health::default(), Instant::now());
        for _ in 0..FAILURES_MAX {
            health.failed(start);
        }
        assert!(health.admit(start + PAUSE).is_ok() && health.admit(start + PAUSE).is_err());
        health.refused(start + PAUSE);
        assert!(health.admit(start + PAUSE).is_ok());
        assert_eq!(health.answered(), Change::Recovers);
    }
}
