//! Decisions that the store does not make, because it does not answer.
//!
//! Invariant: the store is asked first, each time. What is decided without it says so, and is never a place in line.

use crate::{
    calendar::ENTRY_MAX,
    decision::{Degraded, Denial, LimitStatus, Reason, Retry},
    error::{Error, ErrorKind},
    failure::RETRY,
    limiter::{Asked, Asking, Outcome},
    permit::Permit,
    store::{AcquireRequest, Answer, Notes, ReservationId, Verdict},
};

/// How long a slot of this process is kept: a call frees it when it ends, and the process takes its slots along when it does.
const LEASE_MS: u64 = ENTRY_MAX >> 8;

impl Asking<'_> {
    /// Decides: the store does, or the failure policy if it fails. One round trip; three after the controls of the org have changed.
    pub(super) async fn decide(&mut self, max_wait_ms: u64) -> Result<Asked, Error> {
        self.limiter.core.failure.asked(&self.org, self.plan.policy().longest_ms);
        match self.ask_store(max_wait_ms).await {
            Ok(Some(asked)) => Ok(asked),
            Ok(None) => Err(Error::new(
                ErrorKind::Unavailable,
                "the controls of the org change faster than a call can be planned",
            )),
            Err(error) => match self.limiter.core.failure.steps_in(&self.org, &error) {
                Some(degraded) => self.decide_without_store(degraded).map(Asked::without_store),
                None => Err(error),
            },
        }
    }

    fn decide_without_store(&mut self, degraded: Degraded) -> Result<Outcome, Error> {
        // whatever the store may have charged under the id that it was asked with is given back
        let asked = self.id;
        self.take_new_id();
        let outcome = match (self.refusal(), degraded) {
            (Some(denial), _) => Outcome::Denied(denial),
            (None, Degraded::Allow) => Outcome::Admitted(self.degraded_permit(asked, degraded, Vec::new())?),
            (None, Degraded::Local { members }) => self.decide_by_share(asked, members, degraded)?,
        };
        let failure = &self.limiter.core.failure;
        Ok(match outcome {
            Outcome::Admitted(permit) => {
                failure.decided("admitted");
                self.dispatch.list(&self.org, self.subject, &self.plan.policy());
                Outcome::Admitted(permit)
            }
            Outcome::Denied(denial) => {
                failure.decided("denied");
                Outcome::Denied(Denial { degraded: Some(degraded), ..denial })
            }
        })
    }

    /// What no failure policy admits: a subject that is blocked or cools down, as far as this process knows, and a cost above a limit.
    fn refusal(&self) -> Option<Denial> {
        let now = self.dispatch.clock.now_ms();
        if self.plan.is_blocked() || self.plan.cools_down_at(now) {
            return self.plan.denial_refused(now);
        }
        // by whole limits, whatever a loss of data has left of them
        Some(self.plan.denial_for_ever(self.plan.never()?, Vec::new()))
    }

    fn decide_by_share(&self, asked: ReservationId, members: u64, degraded: Degraded) -> Result<Outcome, Error> {
        let shared = self.plan.shared_among(members);
        if let Some(denial) = self.plan.denial_of_share(&shared) {
            // the limit itself has room for it, and the store may answer by then
            return Ok(Outcome::Denied(estimated(denial)));
        }
        let request = shared.acquire_request(self.id, 0);
        // the process's own store knows of no controls: the plan has what they make of the limits
        let request = AcquireRequest { notes: Notes::User, lease_ms: LEASE_MS, controls: (0, None), ..request };
        let answer: Answer = self.limiter.core.failure.decide(&self.org, request)?;
        Ok(match &answer.verdict {
            Verdict::Denied { at, setter, short } => {
                Outcome::Denied(estimated(shared.denial_until(&answer, *at, *setter, short, 0)))
            }
            Verdict::Full { slots, at } => Outcome::Denied(estimated(shared.denial_full(&answer, *slots, *at, 0))),
            _ => Outcome::Admitted(self.degraded_permit(asked, degraded, shared.statuses(&answer))?),
        })
    }

    fn degraded_permit(
        &self,
        asked: ReservationId,
        degraded: Degraded,
        limits: Vec<LimitStatus>,
    ) -> Result<Permit, Error> {
        let posting = self.limiter.core.failure.remember(&self.org, &self.plan, asked, self.id, degraded)?;
        let reservation = posting.as_ref().map(|_| self.reservation(0));
        let at_ms = self.dispatch.clock.now_ms();
        let permit = Permit::new(reservation, self.plan.cost().clone(), at_ms, limits, None);
        Ok(permit.degraded_by(degraded, posting))
    }
}

/// The store may answer again before the time that a share gives, and nobody knows when a call ends.
fn estimated(denial: Denial) -> Denial {
    let wait = denial.retry_after().filter(|_| denial.reason != Reason::InFlight).unwrap_or(RETRY);
    Denial { retry: Retry::Estimate(wait), ..denial }
}
