//! A call whose store does not answer: this process's share of each limit, and what is charged once the store answers again.
//!
//! Invariant: the shares of all members together are at most the limit; the remainder of the division is nobody's.

use crate::{
    calendar::{Ask, UNBOUNDED},
    cost::Cost,
    plan::{Plan, UNLIMITED_SLOTS},
    store::{AcquireRequest, ReservationId, SettleRequest},
};

impl Plan {
    /// The same call, held by one of `members` equal shares of every limit, rounded down.
    ///
    /// As everywhere, a cost above what a smoothing rule allows is tested there as if equal to it.
    pub(crate) fn shared_among(&self, members: u64) -> Self {
        let (mut plan, members) = (self.clone(), members.max(1));
        for ledger in &mut plan.ledgers {
            let asked = &mut ledger.asked;
            asked.ask = Ask { bounds: [UNBOUNDED; 3], horizon_ms: asked.window_ms, ..asked.ask };
        }
        for index in 0..plan.checks.len() {
            let check = &mut plan.checks[index];
            for amount in [&mut check.amount, &mut check.whole, &mut check.in_full] {
                *amount /= members;
            }
            let check = *check;
            if !check.shadow {
                plan.tighten(&check, &self.policy.rules[check.rule]);
            }
        }
        for fair in &mut plan.fair {
            fair.ask.limit /= members;
        }
        for asked in &mut plan.slots {
            asked.amount = UNLIMITED_SLOTS;
        }
        for check in &mut plan.slot_checks {
            check.amount /= members;
            if !check.shadow {
                let asked = &mut plan.slots[check.asked].amount;
                *asked = (*asked).min(check.amount);
            }
        }
        plan
    }

    /// Charges a call that was made `age_ms` ago, whatever the limits say: on those ledgers whose window it has not left.
    pub(crate) fn posting_request(&self, id: ReservationId, age_ms: u64) -> AcquireRequest {
        let mut request = self.acquire_request(id, 0);
        for asked in &mut request.ledgers {
            asked.ask.bounds = [UNBOUNDED; 3];
            if asked.window_ms <= age_ms {
                asked.ask.amounts = [0; 3];
            }
        }
        // who shares fairly with whom was decided when the call was admitted, and its slot is not the store's
        request.fair.clear();
        request.slots.clear();
        request
    }

    /// Settles a call that was charged at `at`, `age_ms` after it was made.
    pub(crate) fn posted_settle_request(
        &self,
        id: ReservationId,
        at: u64,
        age_ms: u64,
        actual: Option<&Cost>,
    ) -> SettleRequest {
        let mut request = self.settle_request(id, Some(at), actual);
        for settled in request.ledgers.iter_mut().filter(|settled| settled.window_ms <= age_ms) {
            (settled.estimate, settled.actual) = ([0; 3], [0; 3]);
        }
        request.slots.clear();
        request
    }

    /// The longest window that the call is charged in.
    pub(crate) fn longest_ms(&self) -> u64 {
        self.ledgers.iter().map(|ledger| ledger.asked.window_ms).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use super::*;
    use crate::{control::Controls, limit::Limit, policy::Policy, subject::Subject};

    fn plan(policy: Policy, cost: Cost, class: &str) -> Plan {
        let subject = Subject::org("acme").user("alice");
        Plan::new(Arc::new(policy.compile().unwrap()), &subject, cost, class, &Arc::new(Controls::default()), None)
            .unwrap()
    }

    fn bounds(plan: &Plan) -> Vec<u64> {
        plan.asks().flat_map(|(_, ask)| ask.bounds).filter(|bound| *bound != UNBOUNDED).collect()
    }

    #[test]
    fn a_share_is_rounded_down_for_every_kind_of_limit() {
        let smooth = Limit::new("smooth").requests(120).smooth(Duration::from_secs(1));
        let policy = Policy::new()
            .limit(smooth)
            .limit(Limit::new("pool").images(11).fair_share())
            .limit(Limit::new("trial").tokens(5).shadow())
            .limit(Limit::new("calls").in_flight(5))
            .priority("batch", 0.5);
        let whole = plan(policy.clone(), Cost::images(1).tokens(9), "interactive");
        // what is left of 120 requests a minute, 11 images, and 2 requests a second
        assert_eq!(bounds(&whole), [119, 10, 1]);
        let half = whole.shared_among(2);
        assert_eq!(bounds(&half), [59, 4, 0]);
        assert_eq!((half.fair[0].ask.limit, half.slots[0].amount, half.slot_checks[0].amount), (5, 2, 2));
        assert!(half.never().is_none(), "a limit that only counts denies nobody");
        let batch = plan(policy, Cost::images(1), "batch").shared_among(2);
        assert_eq!(bounds(&batch), [29, 1, 0], "half of 60 and of 5");
        assert_eq!(bounds(&whole.shared_among(1)), bounds(&whole));
    }

    #[test]
    fn a_cost_above_a_share_has_no_room_and_one_above_a_share_of_a_second_is_tested_as_equal() {
        let policy = Policy::new().limit(Limit::new("smooth").requests(120).smooth(Duration::from_secs(1)));
        assert_eq!(bounds(&plan(policy.clone(), Cost::new().requests(40), "interactive").shared_among(3)), [0, 0]);
        assert!(plan(policy, Cost::new().requests(41), "interactive").shared_among(3).never().is_some());
    }
}
