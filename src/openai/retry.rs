//! When a call is made again, and how often.
//!
//! Invariant: what cannot succeed, or may have been made already, is never repeated. Repeats of a client stay a small part of its calls,
//! whatever upstream does: else an upstream in trouble would be asked several times as often as one that is well.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use crate::openai::{
    error::{ImageError, ImageErrorKind},
    refusal::RefusalKind,
};

/// How calls are repeated. Each attempt takes its own quota.
///
/// ```
/// use allotment::openai::RetryPolicy;
///
/// let patient = RetryPolicy::new().attempts_max(5);
/// let never = RetryPolicy::none();
/// # drop((patient, never));
/// ```
#[derive(Clone, Debug, PartialEq)]
#[must_use = "a policy does nothing until a client has it"]
pub struct RetryPolicy {
    pub(super) attempts_max: u32,
    budget_percent: u32,
    wait_max: Duration,
}

/// Upstream's hint is the time until one call fits if nobody else asks: 15 ms in a pool that is shared by many. No hint is taken for less.
pub(super) const WAIT_MIN: Duration = Duration::from_secs(1);
/// The first pause where upstream gives no hint. It doubles with each attempt.
const BACKOFF_FIRST: Duration = Duration::from_millis(500);
const BACKOFF_MAX: Duration = Duration::from_secs(8);
/// Repeats that are there before a call has been made, and the most that are saved up.
const BUDGET: u64 = 10;
/// Parts of a repeat: each call saves a percentage of one.
const PARTS: u64 = 100;

impl RetryPolicy {
    /// 3 attempts, repeats for 10 % of the calls, hints of at most 120 s.
    pub fn new() -> Self {
        Self { attempts_max: 3, budget_percent: 10, wait_max: Duration::from_secs(120) }
    }

    /// Each call is made once.
    pub fn none() -> Self {
        Self { attempts_max: 1, ..Self::new() }
    }

    /// The most attempts of one call on one route, the first included. Default: 3.
    pub fn attempts_max(mut self, attempts: u32) -> Self {
        self.attempts_max = attempts.max(1);
        self
    }

    /// How many of 100 calls may be repeated in the long run. Up to 10 repeats are saved up. Default: 10.
    pub fn budget_percent(mut self, percent: u32) -> Self {
        self.budget_percent = percent;
        self
    }

    /// A call is not repeated where upstream asks for a longer pause: the error has the hint. Default: 120 s.
    pub fn wait_max(mut self, wait: Duration) -> Self {
        self.wait_max = wait;
        self
    }
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self::new()
    }
}

/// The policy, and what is left of its budget. Of a whole client.
#[derive(Debug)]
pub(super) struct Retries {
    pub(super) policy: RetryPolicy,
    budget: AtomicU64,
}

impl Retries {
    pub(super) fn new(policy: RetryPolicy) -> Self {
        Self { policy, budget: AtomicU64::new(BUDGET * PARTS) }
    }

    /// A call begins: it saves a part of a repeat.
    pub(super) fn call(&self) {
        let saved = |left: u64| Some((left + u64::from(self.policy.budget_percent)).min(BUDGET * PARTS));
        // the closure never gives up
        let _ = self.budget.fetch_update(Ordering::Relaxed, Ordering::Relaxed, saved);
    }

    /// How long to pause before the call is made again, after `made` attempts; `None`: it is not, or not within `patience`. Takes a repeat
    /// from the budget.
    ///
    /// `random` is 0 to 1.
    pub(super) fn pause(&self, error: &ImageError, made: u32, patience: Duration, random: f64) -> Option<Duration> {
        if made >= self.policy.attempts_max || !is_worth_repeating(error) {
            return None;
        }
        let pause = pause_after(error, made, random);
        // what nobody waits for takes nothing from the budget
        if error.retry_after().unwrap_or_default() > self.policy.wait_max || pause > patience {
            return None;
        }
        let taken = self.budget.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(PARTS));
        taken.is_ok().then_some(pause)
    }
}

/// Whether nothing speaks against the call being made again. Denials of the limiter have been waited for already.
fn is_worth_repeating(error: &ImageError) -> bool {
    error.is_retryable() && matches!(error.kind(), ImageErrorKind::Refused | ImageErrorKind::Unreachable)
}

/// # Source
///
/// The backoff is that of the official clients: min(0.5 s x 2^n, 8 s) x (1 - 0.25 x random).
fn pause_after(error: &ImageError, made: u32, random: f64) -> Duration {
    let doubled = BACKOFF_FIRST * 2_u32.saturating_pow(made.saturating_sub(1).min(16));
    let backoff = doubled.min(BACKOFF_MAX).mul_f64(1.0 - 0.25 * random);
    let is_limited = error.refusal().is_some_and(|refusal| refusal.kind == RefusalKind::RateLimited);
    match error.retry_after() {
        Some(hint) => spread(hint.max(if is_limited { WAIT_MIN } else { Duration::ZERO }).max(backoff), random),
        None if is_limited => spread(WAIT_MIN.max(backoff), random),
        None => backoff,
    }
}

/// Never less than `wait`, and up to a quarter more, at most 1 s: so that those who were told the same do not come back at one instant.
pub(super) fn spread(wait: Duration, random: f64) -> Duration {
    wait + (wait / 4).min(Duration::from_secs(1)).mul_f64(random.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::openai::refusal::Refusal;

    fn refused(kind: RefusalKind, retry_after: Option<u64>, should_retry: Option<bool>) -> ImageError {
        let (error_type, code, message, figures) = (None, None, String::new(), None);
        let retry_after = retry_after.map(Duration::from_millis);
        Refusal { kind, status: 429, error_type, code, message, figures, retry_after, should_retry }.into()
    }

    fn pause(error: &ImageError, made: u32) -> Option<u64> {
        let pause = Retries::new(RetryPolicy::new()).pause(error, made, Duration::MAX, 0.0);
        pause.map(|pause| u64::try_from(pause.as_millis()).unwrap())
    }

    #[test]
    fn only_what_may_succeed_and_was_not_made_is_repeated() {
        use RefusalKind::*;
        let failed = |kind| ImageError::new(kind, "");
        for (error, expected) in [
            (refused(RateLimited, Some(15), None), Some(1_000)),
            (refused(RateLimited, Some(20_000), None), Some(20_000)),
            (refused(RateLimited, Some(121_000), None), None),
            (refused(RateLimited, None, None), Some(1_000)),
            (refused(RateLimited, None, Some(false)), None),
            (refused(Overloaded, None, None), Some(500)),
            (refused(Overloaded, Some(3_000), None), Some(3_000)),
            (refused(Failed, None, None), None),
            (refused(Failed, None, Some(true)), Some(500)),
            (refused(TooLarge, Some(1), None), None),
            (refused(NoAccess, Some(1), None), None),
            (refused(Exhausted, Some(1), None), None),
            (refused(Invalid, Some(1), None), None),
            (refused(Moderation, Some(1), None), None),
            (failed(ImageErrorKind::Unreachable), Some(500)),
            (failed(ImageErrorKind::Unanswered), None),
            (failed(ImageErrorKind::Unreadable), None),
            (failed(ImageErrorKind::NotAdmitted), None),
        ] {
            assert_eq!(pause(&error, 1), expected, "{error:?} {:?}", error.refusal());
        }
    }

    #[test]
    fn pauses_double_up_to_a_bound_and_attempts_end() {
        let error = refused(RefusalKind::Overloaded, None, None);
        let patient = Retries::new(RetryPolicy::new().attempts_max(9));
        let pauses: Vec<_> = (1..=9).map(|made| patient.pause(&error, made, Duration::MAX, 0.0)).collect();
        let expected = [500, 1_000, 2_000, 4_000, 8_000, 8_000, 8_000, 8_000].map(Duration::from_millis).map(Some);
        assert_eq!((&pauses[..8], pauses[8]), (&expected[..], None));
        assert_eq!(pause_after(&error, 5, 1.0), Duration::from_secs(6));
        assert_eq!(Retries::new(RetryPolicy::none()).pause(&error, 1, Duration::MAX, 0.0), None);
    }

    #[test]
    fn repeats_stay_a_part_of_the_calls() {
        let retries = Retries::new(RetryPolicy::new());
        let error = refused(RefusalKind::Overloaded, None, None);
        let repeated = (0..1_000).filter(|_| {
            retries.call();
            retries.pause(&error, 1, Duration::MAX, 0.5).is_some()
        });
        let repeated = repeated.count();
        assert!((100..=110).contains(&repeated), "{repeated}");
    }

    #[test]
    fn a_pause_beyond_the_patience_of_a_call_takes_nothing_from_the_others() {
        let retries = Retries::new(RetryPolicy::new());
        let error = refused(RefusalKind::Overloaded, Some(9_000), None);
        for _ in 0..1_000 {
            assert_eq!(retries.pause(&error, 1, Duration::from_secs(5), 0.0), None);
        }
        assert!(retries.pause(&error, 1, Duration::from_secs(9), 0.0).is_some());
    }
}
