//! A call whose store does not answer: this process's share of each limit, and what is charged once the store answers again.
//!
//! Invariant: the shares of all members together are at most the limit; the remainder of the division is nobody's.

use std::{sync::Arc, time::Duration};

use crate::{
    calendar::{Ask, UNBOUNDED},
    cost::Cost,
    decision::{Denial, Reason, Retry},
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

    /// Why no place can be had of this `share` of the call, whatever is used of it: a loss of data holds the call back, or the cost exceeds
    /// what the share enforces. An ask of the share has no bound there.
    pub(crate) fn denial_of_share(&self, share: &Self) -> Option<Denial> {
        let Some(held) = self.held_when_planned() else {
            return Some(share.denial_for_ever(share.over_enforced()?, Vec::new()));
        };
        Some(Denial {
            limit: Arc::clone(held.limit),
            resource: held.resource.clone(),
            reason: Reason::StateLost,
            retry: Retry::Estimate(Duration::from_millis(held.wait_ms)),
            limits: Vec::new(),
            degraded: None,
        })
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
    use crate::{
        control::Controls,
        limit::Limit,
        plan::{Growth, StateLoss},
        policy::Policy,
        store::loss::Loss,
        subject::Subject,
    };

    fn plan(policy: Policy, cost: Cost, class: &str) -> Plan {
        grown(policy, cost, class, None)
    }

    fn grown(policy: Policy, cost: Cost, class: &str, growth: Option<Growth>) -> Plan {
        let subject = Subject::org("acme").user("alice");
        let policy = Arc::new(policy.compile().unwrap());
        Plan::new(policy, &subject, cost, class, &Arc::new(Controls::default()), growth).unwrap()
    }

    /// Why one of so many shares has no room for the call.
    fn reason(plan: &Plan, members: u64) -> Option<Reason> {
        plan.denial_of_share(&plan.shared_among(members)).map(|denial| denial.reason)
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
    /// Eight shares of half of ten images are none each; a share of all ten, before the headroom, would be one.
    #[test]
    fn a_share_of_nothing_admits_nothing() {
        let policy = || Policy::new().limit(Limit::new("org").images(10)).priority("batch", 0.5);
        let shared = |images, class| plan(policy(), Cost::images(images), class);
        for (class, cost, members, denied) in [
            ("batch", 1, 8, true),
            ("batch", 1, 5, false),
            ("batch", 0, 8, false),
            ("interactive", 1, 8, false),
            ("interactive", 2, 8, true),
            ("interactive", 1, 11, true),
        ] {
            let reason = reason(&shared(cost, class), members);
            assert_eq!(reason, denied.then_some(Reason::Limit), "{cost} of {class} among {members}");
        }
        let slots = Policy::new().limit(Limit::new("calls").in_flight(2));
        assert_eq!(
            [2, 3].map(|members| reason(&plan(slots.clone(), Cost::new(), "interactive"), members).is_some()),
            [false, true]
        );
    }

    #[test]
    fn what_a_loss_of_data_holds_back_no_share_admits() {
        let policy = || Policy::new().limit(Limit::new("org").images(120));
        let after = |answer, age_ms: u64, images| {
            let growth = Growth::new(answer, Some(Loss { at: 1_000, now: 1_000 + age_ms }), 15_000);
            reason(&grown(policy(), Cost::images(images), "interactive", growth), 2)
        };
        for answer in [StateLoss::Ramp, StateLoss::Closed] {
            assert_eq!(after(answer, 0, 1), Some(Reason::StateLost), "{answer:?}");
            assert_eq!(after(answer, 60_000, 1), None, "{answer:?}");
        }
        assert_eq!(after(StateLoss::Closed, 59_999, 1), Some(Reason::StateLost));
        // six have grown: three for each
        assert_eq!(after(StateLoss::Ramp, 3_000, 3), None);
        assert_eq!(after(StateLoss::Ramp, 3_000, 4), Some(Reason::Limit), "the limit has room for it");
        assert_eq!(after(StateLoss::Ramp, 3_000, 7), Some(Reason::StateLost));
    }

    #[test]
    fn slots_of_before_a_loss_are_kept_for_a_lease() {
        let policy = Policy::new().limit(Limit::new("calls").in_flight(8));
        let growth =
            |age_ms: u64| Growth::new(StateLoss::Closed, Some(Loss { at: 1_000, now: 1_000 + age_ms }), 15_000);
        let after = |age_ms| reason(&grown(policy.clone(), Cost::new(), "interactive", growth(age_ms)), 2);
        assert_eq!((after(14_999), after(15_000)), (Some(Reason::StateLost), None));
    }
}
