//! One limit of the simulated API: how much is used, and when a refused call fits again.
//!
//! Invariant: integers throughout, so that a test at a border is exact to the microsecond.

use std::{
    collections::VecDeque,
    fmt::{self, Write},
    time::Duration,
};

use super::{MINUTE, MODEL};

/// Counts one resource against one limit.
pub(super) struct Meter {
    label: &'static str,
    kind: &'static str,
    limit: u64,
    period: Duration,
    /// A call larger than the whole limit passes when nothing is used, and counts as the limit.
    clamps: bool,
    counter: Counter,
}

enum Counter {
    /// What is used, times the period in microseconds: it drains by `limit` each microsecond.
    Refill { used: u128, at: Duration },
    /// What was charged in the last period, oldest first.
    Rolling { charged: VecDeque<(Duration, u64)> },
}

impl Meter {
    /// At most `limit` at once, drained evenly over a minute.
    pub(super) fn refill(label: &'static str, kind: &'static str, limit: u64) -> Self {
        let counter = Counter::Refill { used: 0, at: Duration::ZERO };
        Self { label, kind, limit, period: MINUTE, clamps: false, counter }
    }

    /// At most `limit` in any minute.
    pub(super) fn rolling(label: &'static str, kind: &'static str, limit: u64) -> Self {
        let counter = Counter::Rolling { charged: VecDeque::new() };
        Self { label, kind, limit, period: MINUTE, clamps: false, counter }
    }

    /// A quantum's share of `limit` a minute, rounded up, drained evenly over the quantum.
    pub(super) fn quantum(label: &'static str, kind: &'static str, limit: u64, quantum: Duration) -> Self {
        let share = (u128::from(limit) * quantum.as_micros()).div_ceil(MINUTE.as_micros());
        let limit = u64::try_from(share).unwrap_or(limit);
        Self { period: quantum, clamps: true, ..Self::refill(label, kind, limit) }
    }

    /// What it counts, as the API's errors type it.
    pub(super) fn kind(&self) -> &'static str {
        self.kind
    }

    /// Whether `requested` fits at `at`, or the message of the refusal.
    pub(super) fn test(&mut self, at: Duration, requested: u64) -> Result<(), String> {
        let counted = self.counted(requested);
        self.pass(at);
        let fits = match &self.counter {
            Counter::Refill { used, .. } => used + self.scaled(counted) <= self.scaled(self.limit),
            Counter::Rolling { charged } => sum(charged) + counted <= self.limit,
        };
        if fits { Ok(()) } else { Err(self.message(at, requested)) }
    }

    /// Charges `requested`, which fits at `at`.
    pub(super) fn charge(&mut self, at: Duration, requested: u64) {
        let counted = self.counted(requested);
        self.pass(at);
        let scaled = self.scaled(counted);
        match &mut self.counter {
            Counter::Refill { used, .. } => *used += scaled,
            Counter::Rolling { charged } => charged.push_back((at, counted)),
        }
    }

    fn counted(&self, requested: u64) -> u64 {
        if self.clamps { requested.min(self.limit) } else { requested }
    }

    fn scaled(&self, amount: u64) -> u128 {
        u128::from(amount) * self.period.as_micros()
    }

    /// Lets go of what `at` has outlived.
    fn pass(&mut self, at: Duration) {
        match &mut self.counter {
            Counter::Refill { used, at: before } => {
                let drained = u128::from(self.limit) * at.saturating_sub(*before).as_micros();
                *used = used.saturating_sub(drained);
                *before = at.max(*before);
            }
            Counter::Rolling { charged } => {
                while charged.front().is_some_and(|(then, _)| *then + self.period <= at) {
                    charged.pop_front();
                }
            }
        }
    }

    fn used(&self) -> u64 {
        match &self.counter {
            Counter::Refill { used, .. } => u64::try_from(used.div_ceil(self.period.as_micros())).unwrap_or(u64::MAX),
            Counter::Rolling { charged } => sum(charged),
        }
    }

    /// How long after `at` a refused call fits if nobody else calls. Of a refill: `(used + requested - limit) * period / limit`.
    fn try_again(&self, at: Duration, counted: u64) -> Duration {
        let excess = (self.used() + counted).saturating_sub(self.limit);
        match &self.counter {
            Counter::Refill { .. } => {
                let micros = (u128::from(excess) * self.period.as_micros()).div_ceil(u128::from(self.limit.max(1)));
                Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX))
            }
            Counter::Rolling { charged } => {
                let mut freed = 0;
                let enough = charged.iter().find(|(_, amount)| {
                    freed += amount;
                    freed >= excess
                });
                enough.map_or(self.period, |(then, _)| (*then + self.period).saturating_sub(at))
            }
        }
    }

    fn message(&self, at: Duration, requested: u64) -> String {
        let Self { label, limit, .. } = self;
        let mut text =
            format!("Rate limit reached for {MODEL} (for limit gpt-image) in organization org-demo on {label}: ");
        let counted = self.counted(requested);
        // Without `Used` the call is too large for the limit and never fits.
        if counted > *limit {
            let _ = write!(text, "Limit {limit}, Requested {requested}.");
        } else {
            let wait = GoDuration(self.try_again(at, counted));
            let _ =
                write!(text, "Limit {limit}, Used {}, Requested {requested}. Please try again in {wait}.", self.used());
        }
        text.push_str(" Visit https://platform.openai.com/account/rate-limits to learn more.");
        text
    }
}

fn sum(charged: &VecDeque<(Duration, u64)>) -> u64 {
    charged.iter().map(|(_, amount)| amount).sum()
}

/// A duration as Go writes it, rounded up to milliseconds: `15ms`, `7.188s`, `1m2s`.
struct GoDuration(Duration);

impl fmt::Display for GoDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = self.0.as_micros().div_ceil(1_000);
        let (minutes, rest) = (ms / 60_000, ms % 60_000);
        if ms < 1_000 {
            return write!(f, "{ms}ms");
        }
        if minutes > 0 {
            write!(f, "{minutes}m")?;
        }
        let fraction = format!("{:03}", rest % 1_000);
        match fraction.trim_end_matches('0') {
            "" => write!(f, "{}s", rest / 1_000),
            digits => write!(f, "{}.{digits}s", rest / 1_000),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The limits, what was used, what was asked, and the hint, of published refusals.
    #[test]
    fn the_hint_is_the_published_one() {
        for (limit, used, requested, hint) in [
            (5, 5, 1, "12s"),
            (250, 250, 1, "240ms"),
            (4_000, 4_000, 1, "15ms"),
            (10_000, 6_701, 4_497, "7.188s"),
            (30_000, 29_446, 821, "534ms"),
        ] {
            let mut meter = Meter::refill("tokens per min (TPM)", "tokens", limit);
            meter.charge(Duration::ZERO, used);
            let message = meter.test(Duration::ZERO, requested).unwrap_err();
            let expected = format!("Limit {limit}, Used {used}, Requested {requested}. Please try again in {hint}.");
            assert!(message.contains(&expected), "{message}");
        }
    }

    #[test]
    fn a_refused_call_fits_at_the_hint_and_not_before() {
        // 600 have drained by then, a whole number: the message rounds what is used up.
        let at = Duration::from_millis(3_600);
        for mut meter in [Meter::refill("", "", 10_000), Meter::rolling("", "", 10_000)] {
            meter.charge(Duration::ZERO, 4_000);
            meter.charge(Duration::from_secs(2), 6_000);
            meter.test(at, 3_000).unwrap_err();
            let wait = meter.try_again(at, 3_000);
            meter.test(at + wait.checked_sub(Duration::from_millis(1)).unwrap(), 3_000).unwrap_err();
            meter.test(at + wait, 3_000).unwrap();
        }
    }

    #[test]
    fn a_call_that_never_fits_is_refused_without_used() {
        let message = Meter::refill("input-images per min", "input-images", 5).test(Duration::ZERO, 10).unwrap_err();
        assert!(message.contains("Limit 5, Requested 10."), "{message}");
        assert!(!message.contains("Used") && !message.contains("try again"), "{message}");
    }

    #[test]
    fn durations_are_written_as_go_writes_them() {
        let shown = |ms| GoDuration(Duration::from_millis(ms)).to_string();
        assert_eq!(
            [15, 240, 12_000, 7_188, 58_890, 62_000, 360_000].map(shown),
            ["15ms", "240ms", "12s", "7.188s", "58.89s", "1m2s", "6m0s"]
        );
    }
}
