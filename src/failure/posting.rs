//! One admission that the store does not know of yet.
//!
//! Invariant: it is in one stage at a time, and each step from one to the next is taken under its lock: so it is charged once, with what
//! was sent first, and settled once, after that.

use std::sync::Arc;

use parking_lot::Mutex;

use crate::{
    cost::Cost,
    plan::Plan,
    store::{AcquireRequest, Ending, ReservationId, SettleRequest, memory::MemoryStore},
};

/// An admission without the store.
#[derive(Debug)]
pub(crate) struct Posting {
    pub(super) org: Arc<str>,
    plan: Arc<Plan>,
    /// Under which the store was asked, and may have charged it without an answer.
    asked: ReservationId,
    id: ReservationId,
    /// Where it is charged until the store is told; nowhere, with the policy `allow`.
    local: Option<Arc<MemoryStore>>,
    /// By the clock of this process.
    admitted_ms: u64,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    stage: Stage,
    /// How the call ended, if it has and the store is still to be told: with what it used, or given back.
    ended: Option<Option<Cost>>,
}

#[derive(Clone, Copy, Debug)]
enum Stage {
    /// The store has not been told.
    Waiting,
    /// It is being told, or was and did not answer: of the charge as it is when it is this old.
    Sent { age_ms: u64 },
    /// It was charged at this time.
    Posted { at: u64, age_ms: u64 },
    /// There is nothing to tell.
    Over,
}

/// Where a call that ends is settled.
#[derive(Debug)]
pub(crate) enum Settling {
    /// It has been, here.
    Here,
    /// By the store, which knows of it.
    InStore(SettleRequest),
}

impl Posting {
    pub(super) fn new(
        org: &Arc<str>,
        plan: &Arc<Plan>,
        asked: ReservationId,
        id: ReservationId,
        local: Option<Arc<MemoryStore>>,
        admitted_ms: u64,
    ) -> Arc<Self> {
        let state = Mutex::new(State { stage: Stage::Waiting, ended: None });
        Arc::new(Self { org: Arc::clone(org), plan: Arc::clone(plan), asked, id, local, admitted_ms, state })
    }

    /// The call has ended: with what it used, or given back. Ending it again changes nothing.
    pub(crate) fn settle(&self, actual: Option<&Cost>) -> Settling {
        let mut state = self.state.lock();
        if state.ended.is_some() {
            return Settling::Here;
        }
        if let Some(local) = &self.local {
            local.settle(&self.org, &[self.plan.settle_request(self.id, None, actual)]);
        }
        match state.stage {
            Stage::Posted { at, age_ms } => {
                return Settling::InStore(self.plan.posted_settle_request(self.id, at, age_ms, actual));
            }
            // what was given back needs no charge
            Stage::Waiting if actual.is_none() => state.stage = Stage::Over,
            Stage::Waiting | Stage::Sent { .. } => state.ended = Some(actual.cloned()),
            Stage::Over => {}
        }
        Settling::Here
    }

    /// Gives back what the store may have charged when it was asked, if it is to be told of the admission still: the release in the
    /// background gives up in a long outage.
    pub(super) fn release_of_asked(&self) -> Option<SettleRequest> {
        let is_charged = matches!(self.state.lock().stage, Stage::Posted { .. } | Stage::Over);
        (!is_charged).then(|| self.plan.settle_request(self.asked, None, None))
    }

    /// What the store is to be told of the admission, if anything; from now on it may know.
    pub(super) fn send(&self, now_ms: u64) -> Option<AcquireRequest> {
        let mut state = self.state.lock();
        let age_ms = match state.stage {
            Stage::Waiting => now_ms.saturating_sub(self.admitted_ms),
            Stage::Sent { age_ms } => age_ms,
            Stage::Posted { .. } | Stage::Over => return None,
        };
        state.stage = Stage::Sent { age_ms };
        Some(self.plan.posting_request(self.id, age_ms))
    }

    /// The store has charged it at `at`. From now on, unless the call has ended meanwhile, its permit settles it there.
    pub(super) fn is_posted(&self, at: u64) {
        let mut state = self.state.lock();
        if let Stage::Sent { age_ms } = state.stage {
            state.stage = Stage::Posted { at, age_ms };
        }
    }

    /// What the store is to be told of the end of the call, if it knows of the call and that has ended meanwhile.
    pub(super) fn ending(&self) -> Option<SettleRequest> {
        let state = self.state.lock();
        match (&state.stage, &state.ended) {
            (Stage::Posted { at, age_ms }, Some(actual)) => {
                Some(self.plan.posted_settle_request(self.id, *at, *age_ms, actual.as_ref()))
            }
            _ => None,
        }
    }

    /// There is nothing more to tell.
    pub(super) fn is_over(&self) {
        self.state.lock().stage = Stage::Over;
    }

    /// Whether the store is to be told of something still.
    pub(super) fn is_owed(&self) -> bool {
        let state = self.state.lock();
        match state.stage {
            Stage::Waiting | Stage::Sent { .. } => true,
            Stage::Posted { .. } => state.ended.is_some(),
            Stage::Over => false,
        }
    }

    /// Whether it has left the longest of its windows, so that a charge says nothing any more.
    pub(super) fn has_passed(&self, now_ms: u64) -> bool {
        now_ms >= self.admitted_ms + self.plan.longest_ms()
    }
}

/// The slots that a call holds in this process, until it has ended.
#[derive(Debug)]
pub(crate) struct LocalSlots(pub(crate) Arc<Posting>);

impl Drop for LocalSlots {
    fn drop(&mut self) {
        let Posting { org, plan, id, local: Some(local), .. } = &*self.0 else { return };
        let free = SettleRequest {
            id: *id,
            ending: Ending::Free,
            made_at: None,
            ledgers: Vec::new(),
            home: None,
            slots: plan.slots(),
            checks_leases: false,
        };
        local.settle(org, &[free]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{control::Controls, limit::Limit, policy::Policy, store::inspection::Owner, subject::Subject};

    /// An admission at second 1,000 of ten images, in a minute and an hour.
    fn posting() -> Arc<Posting> {
        let window = |name: &'static str, images, seconds| {
            Limit::new(name).images(images).window(std::time::Duration::from_secs(seconds))
        };
        let policy = Policy::new().limit(window("minute", 50, 60)).limit(window("hour", 90, 3_600));
        let (policy, subject) = (Arc::new(policy.compile().unwrap()), Subject::org("acme"));
        let plan =
            Plan::new(policy, &subject, Cost::images(10), "interactive", &Arc::new(Controls::default()), None).unwrap();
        let [asked, id] = [(); 2].map(|()| ReservationId::new(Owner::of(None)));
        Posting::new(&"acme".into(), &Arc::new(plan), asked, id, None, 1_000_000)
    }

    fn images(request: &AcquireRequest) -> Vec<u64> {
        request.ledgers.iter().map(|asked| asked.ask.amounts[2]).collect()
    }

    #[test]
    fn what_was_given_back_before_it_was_sent_is_never_sent() {
        let posting = posting();
        assert!(matches!(posting.settle(None), Settling::Here));
        assert!(!posting.is_owed() && posting.send(1_000_000).is_none());
        assert!(matches!(posting.settle(Some(&Cost::images(1))), Settling::Here), "it has ended");
    }

    #[test]
    fn what_was_sent_without_an_answer_is_sent_again_as_it_was() {
        let posting = posting();
        assert_eq!(images(&posting.send(1_059_999).unwrap()), [10, 10]);
        assert_eq!(images(&posting.send(1_060_000).unwrap()), [10, 10], "though it has left the minute");
        let late = self::posting();
        assert_eq!(images(&late.send(1_060_000).unwrap()), [0, 10]);
        assert!(!late.has_passed(4_599_999) && late.has_passed(4_600_000));
    }

    #[test]
    fn a_call_that_ends_while_it_is_sent_is_settled_once_it_is_charged() {
        for actual in [None, Some(Cost::images(7))] {
            let posting = posting();
            posting.send(1_060_000).unwrap();
            assert!(matches!(posting.settle(actual.as_ref()), Settling::Here));
            assert!(posting.is_owed() && posting.ending().is_none(), "the store may not know of it");
            posting.is_posted(5);
            let ending = posting.ending().unwrap();
            let of_hour = actual.as_ref().map_or(0, |_| 7);
            let amounts: Vec<_> = ending.ledgers.iter().map(|ledger| (ledger.estimate[2], ledger.actual[2])).collect();
            assert_eq!((amounts, ending.made_at), (vec![(0, 0), (10, of_hour)], Some(5)));
            assert!(posting.is_owed() && posting.send(1_060_000).is_none());
            posting.is_over();
            assert!(!posting.is_owed());
        }
    }

    #[test]
    fn a_call_that_ends_after_it_was_charged_is_settled_by_the_store() {
        let posting = posting();
        posting.send(1_000_000).unwrap();
        posting.is_posted(5);
        assert!(!posting.is_owed());
        let Settling::InStore(request) = posting.settle(Some(&Cost::images(7))) else {
            panic!("the store knows of it")
        };
        assert_eq!((request.ending, request.made_at), (Ending::Commit, Some(5)));
    }
}
