//! Replays what truly happened: decision times and actual costs, against the limits as they are written.
//!
//! Invariant: reads no counter of the limiter. It has its own arithmetic, two pointers over sorted events, so that a fault in the
//! limiter's cannot hide here.

use std::collections::BTreeMap;

use allotment::{Cost, Subject};

use super::policy::Rule;

/// One admitted call, by the store's clock, with what it truly took.
#[derive(Clone, Debug)]
pub(crate) struct Admission {
    /// The place of its subject in the list of subjects.
    pub(crate) user: usize,
    pub(crate) at_ms: u64,
    pub(crate) cost: Cost,
}

/// An amount at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Charge {
    pub(crate) at_ms: u64,
    pub(crate) amount: u64,
}

/// The fullest rolling window of one limit, over all subjects it counts apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Fullest {
    pub(crate) amount: u64,
    /// Whether a window was over the limit.
    pub(crate) over: bool,
}

/// The fullest rolling window of `rule`.
pub(crate) fn replay(rule: &Rule, subjects: &[Subject], admissions: &[Admission]) -> Fullest {
    let mut ledgers: BTreeMap<Vec<&str>, Vec<Charge>> = BTreeMap::new();
    let owners: Vec<_> = subjects.iter().map(|subject| rule.counts(subject)).collect();
    for admission in admissions {
        let amount = admission.cost.of(&rule.resource);
        if let Some(owner) = owners[admission.user].as_ref().filter(|_| amount > 0) {
            ledgers.entry(owner.clone()).or_default().push(Charge { at_ms: admission.at_ms, amount });
        }
    }
    let mut fullest = Fullest::default();
    for charges in ledgers.values_mut() {
        charges.sort_unstable();
        let ledger = fullest_window(charges, rule);
        fullest.amount = fullest.amount.max(ledger.amount);
        fullest.over |= ledger.over;
    }
    fullest
}

/// The fullest `(t - window, t]` of charges sorted by time. Only the windows that end with a charge can be the fullest.
fn fullest_window(charges: &[Charge], rule: &Rule) -> Fullest {
    let mut fullest = Fullest::default();
    let (mut oldest, mut total) = (0, 0);
    for (newest, charge) in charges.iter().enumerate() {
        total += charge.amount;
        while charges[oldest].at_ms + rule.real_window_ms <= charge.at_ms {
            total -= charges[oldest].amount;
            oldest += 1;
        }
        // Charges of the same instant belong to the same window: it is full only after the last of them.
        if charges.get(newest + 1).is_some_and(|next| next.at_ms == charge.at_ms) {
            continue;
        }
        // A cost above a smoothing limit is admitted alone; anything beside it would be an overrun.
        let alone = rule.smoothing && newest == oldest;
        fullest.amount = fullest.amount.max(total);
        fullest.over |= total > rule.amount && !alone;
    }
    fullest
}

/// A span of time, in real milliseconds of the store's clock.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Span {
    pub(crate) from_ms: u64,
    pub(crate) until_ms: u64,
}

/// The time average of what the rolling window holds, over `span`. `None` for an empty span.
pub(crate) fn average_fill(charges: impl IntoIterator<Item = Charge>, window_ms: u64, span: Span) -> Option<f64> {
    let length_ms = span.until_ms.checked_sub(span.from_ms).filter(|length| *length > 0)?;
    // A charge is in the window from its time until it is one window old.
    let amount_ms: u128 = charges.into_iter().fold(0, |sum, Charge { at_ms, amount }| {
        let from = at_ms.max(span.from_ms);
        let until = (at_ms + window_ms).min(span.until_ms);
        sum + u128::from(until.saturating_sub(from)) * u128::from(amount)
    });
    Some(amount_ms as f64 / length_ms as f64)
}

#[cfg(test)]
mod tests {
    use allotment::Resource;
    use rand::{Rng, SeedableRng, rngs::StdRng};

    use super::*;

    fn rule(amount: u64, real_window_ms: u64) -> Rule {
        Rule::for_test(Resource::Images, amount, real_window_ms)
    }

    fn charges(list: &[(u64, u64)]) -> Vec<Charge> {
        list.iter().map(|&(at_ms, amount)| Charge { at_ms, amount }).collect()
    }

    #[test]
    fn a_charge_leaves_exactly_one_window_later() {
        let inside = fullest_window(&charges(&[(0, 3), (999, 2)]), &rule(4, 1_000));
        assert_eq!(inside, Fullest { amount: 5, over: true });
        let left = fullest_window(&charges(&[(0, 3), (1_000, 2)]), &rule(4, 1_000));
        assert_eq!(left, Fullest { amount: 3, over: false });
    }

    #[test]
    fn the_fullest_window_is_that_of_brute_force() {
        let mut rng = StdRng::seed_from_u64(7);
        for _ in 0..300 {
            let mut list: Vec<_> =
                (0..40).map(|_| Charge { at_ms: rng.random_range(0..3_000), amount: rng.random_range(1..9) }).collect();
            list.sort_unstable();
            let held = |end: u64| list.iter().filter(|c| c.at_ms <= end && c.at_ms + 500 > end).map(|c| c.amount).sum();
            let amount: u64 = (0..3_000).map(held).max().unwrap();
            assert_eq!(fullest_window(&list, &rule(30, 500)), Fullest { amount, over: amount > 30 });
        }
    }

    #[test]
    fn a_single_cost_above_a_smoothing_limit_is_not_over_when_alone() {
        let smooth = Rule { smoothing: true, ..rule(4, 1_000) };
        assert_eq!(
            fullest_window(&charges(&[(0, 4), (1_000, 9), (2_000, 4)]), &smooth),
            Fullest { amount: 9, over: false }
        );
        assert!(fullest_window(&charges(&[(1, 1), (1_000, 9)]), &smooth).over);
        assert!(fullest_window(&charges(&[(0, 9), (999, 1)]), &smooth).over);
        assert!(fullest_window(&charges(&[(5, 1), (5, 9)]), &smooth).over);
        assert!(fullest_window(&charges(&[(0, 9)]), &rule(4, 1_000)).over, "only a smoothing limit lets it pass");
    }

    #[test]
    fn users_are_counted_apart_where_the_limit_says_so() {
        let subjects = ["a", "b"].map(|user| Subject::org("o").user(user));
        let admission = |user, at_ms| Admission { user, at_ms, cost: Cost::images(3) };
        let admissions = [admission(0, 5), admission(1, 6), admission(0, 900)];
        let by = |scope: &[&str]| Rule { scope: scope.iter().map(ToString::to_string).collect(), ..rule(6, 1_000) };
        assert_eq!(replay(&by(&["org"]), &subjects, &admissions), Fullest { amount: 9, over: true });
        assert_eq!(replay(&by(&["org", "user"]), &subjects, &admissions), Fullest { amount: 6, over: false });
        assert_eq!(replay(&by(&["org", "tenant"]), &subjects, &admissions), Fullest::default());
    }

    #[test]
    fn the_average_fill_is_that_of_sampling_each_millisecond() {
        let list = charges(&[(0, 5), (100, 3), (950, 4), (1_400, 2)]);
        let span = Span { from_ms: 500, until_ms: 1_500 };
        let held = |t: u64| list.iter().filter(|c| c.at_ms <= t && t < c.at_ms + 500).map(|c| c.amount).sum::<u64>();
        let sampled = (500..1_500).map(held).sum::<u64>() as f64 / 1_000.0;
        assert_eq!(average_fill(list.clone(), 500, span), Some(sampled));
        assert_eq!(average_fill(list, 500, Span { from_ms: 500, until_ms: 500 }), None);
    }
}
