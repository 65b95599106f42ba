//! What a limit admits after its org's data were lost: all, a part that grows, or nothing yet.
//!
//! Invariant: an amount never shrinks as time passes, and a window after the loss it is whole.

use std::{str::FromStr, sync::Arc};

use crate::{
    error::Error,
    limit::less,
    plan::{Check, Plan},
    resource::Resource,
    store::{Answer, Verdict, loss::Loss},
};

/// What limits admit after the store has lost an org's data: see
/// [`LimiterBuilder::state_loss`](crate::LimiterBuilder::state_loss). As text: `fresh`, `ramp`, `closed`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum StateLoss {
    /// Usage starts from nothing: in the window of the loss, an upstream may see up to twice a limit. Default.
    #[default]
    Fresh,
    /// Each amount grows from nothing to all of it in one window: what an upstream allows that refills evenly.
    Ramp,
    /// Each limit admits nothing for one window: for an upstream that counts in rolling windows. Calls that take slots wait for one
    /// lease life at least.
    Closed,
}

impl FromStr for StateLoss {
    type Err = Error;

    /// # Errors
    ///
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) for another word.
    fn from_str(text: &str) -> Result<Self, Error> {
        match text {
            "fresh" => Ok(Self::Fresh),
            "ramp" => Ok(Self::Ramp),
            "closed" => Ok(Self::Closed),
            _ => Err(Error::invalid(format!("state loss {text:?}: allowed are fresh, ramp and closed"))),
        }
    }
}

/// How far the amounts of an org have grown since its data were lost.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Growth {
    answer: StateLoss,
    loss: Loss,
    lease_ms: u64,
}

/// What a loss keeps from being admitted yet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Held<'a> {
    pub(super) limit: &'a Arc<str>,
    pub(super) resource: &'a Resource,
    /// Until then.
    pub(super) wait_ms: u64,
    /// Nothing but time is waited for.
    pub(super) exact: bool,
}

/// How much of its ledger a check has found used.
pub(super) fn used(answer: &Answer, check: &Check) -> u64 {
    answer.ledgers.get(check.ledger).map_or(0, |state| state.used[check.place])
}

impl Growth {
    /// `None` where a loss changes nothing. `lease_ms`: how long slots of before the loss may have been held.
    pub(crate) fn new(answer: StateLoss, loss: Option<Loss>, lease_ms: u64) -> Option<Self> {
        let loss = loss.filter(|_| answer != StateLoss::Fresh)?;
        Some(Self { answer, loss, lease_ms })
    }

    pub(crate) fn lost_at(&self) -> u64 {
        self.loss.at
    }

    /// What an amount per window has grown to by the time of the plan.
    pub(super) fn amount(&self, amount: u64, window_ms: u64) -> u64 {
        self.amount_at(self.loss.age_ms(), amount, window_ms)
    }

    fn amount_at(&self, age_ms: u64, amount: u64, window_ms: u64) -> u64 {
        match self.answer {
            StateLoss::Ramp if age_ms < window_ms => {
                let grown = u128::from(amount) * u128::from(age_ms) / u128::from(window_ms);
                u64::try_from(grown).unwrap_or(amount)
            }
            StateLoss::Closed if age_ms < window_ms => 0,
            _ => amount,
        }
    }
}

impl Plan {
    /// The loss that it goes by: see [`Loss::at`]; 0 if there is none.
    pub(crate) fn lost_at(&self) -> u64 {
        self.growth.as_ref().map_or(0, Growth::lost_at)
    }

    /// Whether a loss of data may hold calls back still.
    pub(crate) fn is_growing(&self) -> bool {
        let last_ms = |growth: &Growth| self.policy.longest_ms.max(growth.lease_ms);
        self.growth.as_ref().is_some_and(|growth| growth.loss.age_ms() < last_ms(growth))
    }

    /// Whether nothing can be asked for by the amounts that it goes by: what grows may be enough by now.
    pub(crate) fn is_held(&self) -> bool {
        self.held_when_planned().is_some()
    }

    pub(super) fn held_when_planned(&self) -> Option<Held<'_>> {
        self.held(self.growth.as_ref()?.loss.now)
    }

    /// What a check's amount is once it is whole.
    pub(super) fn in_full(&self, check: &Check) -> u64 {
        less(check.in_full, self.headroom_ppm)
    }

    /// How long after `now` the amount of a check reaches `needed`; without an end if it never does.
    fn grows_within(&self, growth: &Growth, check: &Check, needed: u64, now: u64) -> u64 {
        if needed > self.in_full(check) {
            return u64::MAX;
        }
        let window_ms = self.policy.rules[check.rule].window_ms;
        let age_ms = now.saturating_sub(growth.loss.at);
        // the first age that is enough
        let (mut from, mut to) = (age_ms, window_ms.max(age_ms));
        while from < to {
            let half = from.midpoint(to);
            let amount = less(growth.amount_at(half, check.in_full, window_ms), self.headroom_ppm);
            if amount >= needed {
                to = half;
            } else {
                from = half + 1;
            }
        }
        from - age_ms
    }

    /// Checks that a loss may hold back: not those that only count, nor smoothing, which follows its limit.
    pub(super) fn growing(&self) -> impl Iterator<Item = (&Check, u64)> {
        let cost = |check: &Check| self.cost.of(&self.policy.rules[check.rule].resource);
        let binds = move |check: &&Check| !check.shadow && !self.policy.rules[check.rule].smoothing && cost(check) > 0;
        self.checks.iter().filter(binds).map(move |check| (check, cost(check)))
    }

    /// What keeps the cost from being admitted at `now`, whatever is used: the limit that takes longest.
    pub(crate) fn held(&self, now: u64) -> Option<Held<'_>> {
        let growth = self.growth.as_ref()?;
        let closed = growth.answer == StateLoss::Closed;
        let held = |(check, cost): (&Check, u64)| {
            let rule = &self.policy.rules[check.rule];
            let wait_ms = self.grows_within(growth, check, cost, now);
            Held { limit: &rule.name, resource: &rule.resource, wait_ms, exact: closed }
        };
        let lease_wait_ms = (growth.loss.at + growth.lease_ms).saturating_sub(now);
        let slots = self.slot_checks.iter().filter(|check| closed && !check.shadow).map(|check| Held {
            limit: &self.policy.in_flight[check.limit].name,
            resource: &Resource::InFlight,
            wait_ms: lease_wait_ms,
            exact: true,
        });
        let all = self.growing().map(held).chain(slots).filter(|held| held.wait_ms > 0);
        // of equal ones the first in the policy
        all.reduce(|first, next| if next.wait_ms > first.wait_ms { next } else { first })
    }

    /// What keeps the cost from being admitted beside what is used: without an end where growth makes no room. `None` where all amounts are
    /// whole.
    pub(super) fn held_beside(&self, answer: &Answer) -> Option<Held<'_>> {
        let (growth, now) = (self.growth.as_ref()?, answer.now);
        let held = |(check, cost): (&Check, u64)| {
            let rule = &self.policy.rules[check.rule];
            let wait_ms = self.grows_within(growth, check, used(answer, check) + cost, now);
            Held { limit: &rule.name, resource: &rule.resource, wait_ms, exact: false }
        };
        let age_ms = now.saturating_sub(growth.loss.at);
        let grows = |(check, _): &(&Check, u64)| age_ms < self.policy.rules[check.rule].window_ms;
        let all = self.growing().filter(grows).map(held);
        all.reduce(|first, next| if next.wait_ms > first.wait_ms { next } else { first })
    }

    /// Whether a call that was denied fits by now, as the amounts have grown since it was planned.
    pub(crate) fn has_grown(&self, answer: &Answer) -> bool {
        let Some(growth) = &self.growth else { return false };
        let now_fits = |(check, cost): (&Check, u64)| {
            self.grows_within(growth, check, used(answer, check) + cost, answer.now) == 0
        };
        let denied = matches!(answer.verdict, Verdict::Denied { .. });
        denied && self.is_growing() && growth.loss.now < answer.now && self.growing().all(now_fits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_grow_to_all_of_them_within_a_window() {
        let at = |answer, age_ms| {
            let growth = Growth::new(answer, Some(Loss { at: 1_000, now: 1_000 + age_ms }), 15_000);
            growth.map_or(120, |growth| growth.amount(120, 60_000))
        };
        for (answer, amounts) in [
            (StateLoss::Fresh, [120; 6]),
            (StateLoss::Ramp, [0, 0, 1, 60, 119, 120]),
            (StateLoss::Closed, [0, 0, 0, 0, 0, 120]),
        ] {
            assert_eq!([0, 499, 500, 30_000, 59_999, 60_000].map(|age_ms| at(answer, age_ms)), amounts);
            assert_eq!(at(answer, u64::MAX >> 17), 120);
        }
        let largest = Growth::new(StateLoss::Ramp, Some(Loss { at: 1, now: 2_678_400_000 }), 15_000).unwrap();
        assert_eq!(largest.amount(1 << 47, 2_678_400_000), (1 << 47) - (1 << 47) / 2_678_400_000 - 1);
    }
}
