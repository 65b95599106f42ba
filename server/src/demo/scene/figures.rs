//! What came of the calls of some users.
//!
//! Invariant: counts calls by when they were asked, and what came of them by the fleet's own clock, never by the ledgers.

use std::{collections::BTreeMap, time::Duration};

use crate::demo::{
    Played,
    report::{Period, percentile, rounded},
    tally::CallTally,
};

/// The calls of the users of one kind and org that were asked in one part of a run.
pub(crate) struct Calls<'a> {
    calls: Vec<&'a CallTally>,
    speed: f64,
}

impl<'a> Calls<'a> {
    pub(crate) fn none(played: Played<'a>) -> Self {
        Self { calls: Vec::new(), speed: played.play.scenario.speed }
    }

    pub(crate) fn of(played: Played<'a>, kind: &str, org: usize, period: Period) -> Self {
        let scenario = &played.play.scenario;
        let chosen: Vec<bool> = (0..scenario.load.users())
            .map(|user| scenario.load.group(user))
            .map(|group| group.kind == kind && group.org == org)
            .collect();
        let within = |call: &&CallTally| chosen[call.user] && (period.from..period.until).contains(&call.asked_after);
        Self { calls: played.tally.calls.iter().filter(within).collect(), speed: scenario.speed }
    }

    /// These and the others.
    pub(crate) fn and(mut self, others: Self) -> Self {
        self.calls.extend(others.calls);
        self
    }

    pub(crate) fn wanted(&self) -> u64 {
        self.calls.len() as u64
    }

    /// The share that was served. `None` of no calls.
    pub(crate) fn served(&self) -> Option<f64> {
        let served = self.calls.iter().filter(|call| call.served_after.is_some()).count();
        (!self.calls.is_empty()).then(|| rounded(served as f64 / self.calls.len() as f64))
    }

    /// How long the slowest hundredth of the served waited at least, in unscaled seconds. `None` if none was served.
    pub(crate) fn wait_p99_s(&self) -> Option<f64> {
        let unscaled_ms = |waited: Duration| (waited.as_secs_f64() * 1_000.0 * self.speed).round() as u64;
        let mut waits: Vec<u64> = self.calls.iter().filter_map(|call| call.served_after).map(unscaled_ms).collect();
        waits.sort_unstable();
        (!waits.is_empty()).then(|| percentile(&waits, 99) as f64 / 1_000.0)
    }

    /// Jain's index of the share that each user was served: 1 if all had the same, 1/n if one of n had everything. `None` if nobody was
    /// served.
    pub(crate) fn jain(&self) -> Option<f64> {
        let mut users: BTreeMap<usize, (f64, f64)> = BTreeMap::new();
        for call in &self.calls {
            let (wanted, served) = users.entry(call.user).or_default();
            *wanted += 1.0;
            *served += f64::from(u8::from(call.served_after.is_some()));
        }
        jain(users.values().map(|(wanted, served)| served / wanted))
    }
}

fn jain(values: impl ExactSizeIterator<Item = f64>) -> Option<f64> {
    let count = values.len() as f64;
    let (sum, squares) = values.fold((0.0, 0.0), |(sum, squares), value| (sum + value, squares + value * value));
    (squares > 0.0).then(|| rounded(sum * sum / (count * squares)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jains_index_is_one_of_equals_and_falls_with_the_number_of_those_left_out() {
        assert_eq!(jain([0.3; 5].into_iter()), Some(1.0));
        assert_eq!(jain([1.0, 0.0, 0.0, 0.0].into_iter()), Some(0.25));
        assert_eq!(jain([0.0; 4].into_iter()), None);
        assert_eq!(jain(std::iter::empty()), None);
    }
}
