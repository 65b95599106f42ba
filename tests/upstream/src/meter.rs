//! One limit: how much of it is used, and when what was refused fits again.
//!
//! Invariant: integers throughout, so that a test at a border is exact to the microsecond. Times never go back. Lacks any word of HTTP.

use std::{collections::VecDeque, time::Duration};

/// Counts one resource against one limit.
#[derive(Debug)]
pub(crate) struct Meter {
    limit: u64,
    period: Duration,
    /// A call larger than the whole limit passes when nothing is used, and counts as the limit.
    clamps: bool,
    counter: Counter,
}

#[derive(Debug)]
enum Counter {
    /// What is used, times the period in microseconds: it drains by `limit` each microsecond.
    Refill { used: u128, at: Duration },
    /// What was charged in the last period, oldest first.
    Rolling { charged: VecDeque<Charge> },
    /// What was charged since the start of the calendar period.
    Fixed { used: u64, began: Duration },
}

#[derive(Debug)]
struct Charge {
    at: Duration,
    amount: u64,
}

impl Meter {
    /// At most `limit` at once, drained evenly over the period.
    pub(crate) fn refill(limit: u64, period: Duration) -> Self {
        Self { limit, period, clamps: false, counter: Counter::Refill { used: 0, at: Duration::ZERO } }
    }

    /// At most `limit` in any time as long as the period.
    pub(crate) fn rolling(limit: u64, period: Duration) -> Self {
        Self { limit, period, clamps: false, counter: Counter::Rolling { charged: VecDeque::new() } }
    }

    /// At most `limit` in each period of the clock, which all begin anew.
    pub(crate) fn fixed(limit: u64, period: Duration) -> Self {
        Self { limit, period, clamps: false, counter: Counter::Fixed { used: 0, began: Duration::ZERO } }
    }

    /// The share of a quantum in `limit` a period, rounded up, drained evenly over the quantum.
    pub(crate) fn quantum(limit: u64, period: Duration, quantum: Duration) -> Self {
        let share = (u128::from(limit) * quantum.as_micros()).div_ceil(period.as_micros());
        Self { clamps: true, ..Self::refill(u64::try_from(share).unwrap_or(limit), quantum) }
    }

    pub(crate) fn limit(&self) -> u64 {
        self.limit
    }

    /// Whether `amount` could never fit, however long one waits.
    pub(crate) fn never_fits(&self, amount: u64) -> bool {
        self.counted(amount) > self.limit || (self.limit == 0 && amount > 0)
    }

    /// Whether `amount` fits at `at`.
    pub(crate) fn fits(&mut self, at: Duration, amount: u64) -> bool {
        self.pass(at);
        if self.never_fits(amount) {
            return false;
        }
        let counted = self.counted(amount);
        match &self.counter {
            Counter::Refill { used, .. } => used + self.scaled(counted) <= self.scaled(self.limit),
            Counter::Rolling { charged } => sum(charged) + counted <= self.limit,
            Counter::Fixed { used, .. } => used + counted <= self.limit,
        }
    }

    /// Charges `amount`, whether it fits or not.
    pub(crate) fn charge(&mut self, at: Duration, amount: u64) {
        self.pass(at);
        let amount = self.counted(amount);
        let scaled = self.scaled(amount);
        match &mut self.counter {
            Counter::Refill { used, .. } => *used += scaled,
            Counter::Rolling { charged } => charged.push_back(Charge { at, amount }),
            Counter::Fixed { used, .. } => *used += amount,
        }
    }

    /// What is used at `at`, rounded up.
    pub(crate) fn used(&mut self, at: Duration) -> u64 {
        self.pass(at);
        match &self.counter {
            Counter::Refill { used, .. } => u64::try_from(used.div_ceil(self.period.as_micros())).unwrap_or(u64::MAX),
            Counter::Rolling { charged } => sum(charged),
            Counter::Fixed { used, .. } => *used,
        }
    }

    pub(crate) fn remaining(&mut self, at: Duration) -> u64 {
        self.limit.saturating_sub(self.used(at))
    }

    /// How long after `at` what was refused fits if nobody else calls.
    ///
    /// Of a refill `(used + requested - limit) * period / limit`, of which the published messages are examples.
    pub(crate) fn try_again(&mut self, at: Duration, amount: u64) -> Duration {
        let counted = self.counted(amount);
        let excess = (self.used(at) + counted).saturating_sub(self.limit);
        match &self.counter {
            Counter::Refill { .. } => self.drains_in(excess),
            Counter::Rolling { charged } => {
                let mut freed = 0;
                let enough = charged.iter().find(|charge| {
                    freed += charge.amount;
                    freed >= excess
                });
                enough.map_or(self.period, |charge| (charge.at + self.period).saturating_sub(at))
            }
            Counter::Fixed { began, .. } => (*began + self.period).saturating_sub(at),
        }
    }

    /// How long after `at` nothing is used, if nobody calls.
    pub(crate) fn reset(&mut self, at: Duration) -> Duration {
        let used = self.used(at);
        match &self.counter {
            _ if used == 0 => Duration::ZERO,
            Counter::Refill { .. } => self.drains_in(used),
            Counter::Rolling { charged } => {
                charged.back().map_or(Duration::ZERO, |charge| (charge.at + self.period).saturating_sub(at))
            }
            Counter::Fixed { began, .. } => (*began + self.period).saturating_sub(at),
        }
    }

    fn drains_in(&self, amount: u64) -> Duration {
        let micros = (u128::from(amount) * self.period.as_micros()).div_ceil(u128::from(self.limit.max(1)));
        Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX))
    }

    fn counted(&self, amount: u64) -> u64 {
        if self.clamps { amount.min(self.limit) } else { amount }
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
                while charged.front().is_some_and(|charge| charge.at + self.period <= at) {
                    charged.pop_front();
                }
            }
            Counter::Fixed { used, began } => {
                let now = at.as_micros() / self.period.as_micros();
                if now > began.as_micros() / self.period.as_micros() {
                    *used = 0;
                    *began = Duration::from_micros(u64::try_from(now * self.period.as_micros()).unwrap_or(u64::MAX));
                }
            }
        }
    }
}

fn sum(charged: &VecDeque<Charge>) -> u64 {
    charged.iter().map(|charge| charge.amount).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn served(meter: &mut Meter, at_ms: u64, calls: u64) -> u64 {
        let at = ms(at_ms);
        let mut served = 0;
        for _ in 0..calls {
            if meter.fits(at, 1) {
                meter.charge(at, 1);
                served += 1;
            }
        }
        served
    }

    /// The limits, what was used, what was asked, and the hint, of published refusals.
    #[test]
    fn the_hint_is_the_published_one() {
        for (limit, used, requested, hint_ms) in [
            (5, 5, 1, 12_000),
            (250, 250, 1, 240),
            (4_000, 4_000, 1, 15),
            (10_000, 6_701, 4_497, 7_188),
            (30_000, 29_446, 821, 534),
        ] {
            let mut meter = Meter::refill(limit, MINUTE);
            meter.charge(Duration::ZERO, used);
            assert!(!meter.fits(Duration::ZERO, requested));
            assert_eq!(meter.try_again(Duration::ZERO, requested), ms(hint_ms), "limit {limit}");
        }
    }

    #[test]
    fn what_was_refused_fits_at_the_hint_and_not_before() {
        // 600 have drained by then, a whole number: what is used is rounded up.
        let at = ms(3_600);
        for mut meter in [Meter::refill(10_000, MINUTE), Meter::rolling(10_000, MINUTE), Meter::fixed(10_000, MINUTE)] {
            meter.charge(Duration::ZERO, 4_000);
            meter.charge(ms(2_000), 6_000);
            assert!(!meter.fits(at, 3_000));
            let wait = meter.try_again(at, 3_000);
            assert!(!meter.fits(at + wait.checked_sub(ms(1)).unwrap(), 3_000), "{meter:?}");
            assert!(meter.fits(at + wait, 3_000), "{meter:?}");
        }
    }

    #[test]
    fn refill_gives_back_continuously() {
        let mut meter = Meter::refill(250, MINUTE);
        assert_eq!(served(&mut meter, 0, 300), 250);
        assert_eq!(meter.reset(Duration::ZERO), MINUTE);
        assert_eq!(served(&mut meter, 239, 1), 0);
        assert_eq!(served(&mut meter, 240, 2), 1);
        assert_eq!(served(&mut meter, 30_240, 300), 125);
    }

    #[test]
    fn rolling_gives_back_what_is_a_period_old() {
        let mut meter = Meter::rolling(10, MINUTE);
        assert_eq!(served(&mut meter, 0, 4), 4);
        assert_eq!(served(&mut meter, 1_000, 10), 6);
        assert_eq!(meter.reset(ms(1_000)), MINUTE);
        assert_eq!(served(&mut meter, 59_999, 1), 0);
        assert_eq!(served(&mut meter, 60_000, 10), 4);
        assert_eq!(served(&mut meter, 61_000, 10), 6);
    }

    #[test]
    fn fixed_gives_all_back_at_the_turn_of_the_period() {
        let mut meter = Meter::fixed(10, MINUTE);
        assert_eq!(served(&mut meter, 59_000, 20), 10);
        assert_eq!(meter.reset(ms(59_000)), ms(1_000));
        assert_eq!(served(&mut meter, 59_999, 1), 0);
        assert_eq!(served(&mut meter, 60_000, 20), 10);
        assert_eq!(served(&mut meter, 185_000, 20), 10, "a whole period without a call has passed");
        assert_eq!(meter.reset(ms(185_000)), ms(55_000));
    }

    #[test]
    fn a_quantum_holds_its_share_rounded_up() {
        let mut second = Meter::quantum(250, MINUTE, Duration::from_secs(1));
        assert_eq!(served(&mut second, 0, 10), 5, "250 a minute are 4.2 a second");
        assert_eq!(served(&mut second, 199, 1), 0);
        assert_eq!(served(&mut second, 200, 1), 1);
    }

    #[test]
    fn a_call_larger_than_a_quantums_share_takes_that_share() {
        let mut ten = Meter::quantum(6, MINUTE, Duration::from_secs(10));
        assert!(ten.fits(Duration::ZERO, 4));
        ten.charge(Duration::ZERO, 4);
        assert!(!ten.fits(ms(9_999), 1));
        assert!(ten.fits(ms(10_000), 1));
    }

    #[test]
    fn a_limit_of_zero_lets_nothing_pass() {
        for mut meter in [Meter::refill(0, MINUTE), Meter::quantum(0, MINUTE, Duration::from_secs(1))] {
            assert!(meter.never_fits(1) && !meter.fits(Duration::ZERO, 1));
            assert!(meter.fits(Duration::ZERO, 0));
        }
    }
}
