//! What users call: decide before the call, wait in line, settle after it.
//!
//! Invariant: every verb is one atomic decision over every limit that applies, and says where each limit stands.

mod acquire;
mod builder;
mod fallback;
mod feedback;
mod governing;
mod look;
mod losses;
mod policies;
mod ready;
mod run;
#[cfg(feature = "redis")]
mod self_test;

use std::sync::Arc;

use tracing::Instrument;

pub use self::{acquire::Acquire, builder::LimiterBuilder, feedback::Observation, run::RunError};
use self::{feedback::Doubted, governing::Governing, policies::Policies};
use crate::{
    clock::Clock,
    cost::Cost,
    decision::{Decision, Denial},
    dispatch::{Dispatch, Unclaimed},
    error::{Error, ErrorKind},
    failure::Failure,
    lease::Lease,
    permit::{Permit, Reservation},
    plan::{Plan, StateLoss},
    policy::Policy,
    store::{AcquireRequest, Answer, ReservationId, Store, Verdict, inspection::Owner},
    subject::Subject,
    telemetry::{self, Verb},
};

/// Shares quotas among users, processes and hosts. A clone is the same limiter.
#[derive(Clone, Debug)]
pub struct Limiter {
    core: Arc<Core>,
    /// The priority class of its calls.
    class: Arc<str>,
}

#[derive(Debug)]
struct Core {
    dispatch: Arc<Dispatch>,
    policies: Policies,
    governing: Governing,
    state_loss: StateLoss,
    failure: Arc<Failure>,
    doubted: Doubted,
    closed: std::sync::atomic::AtomicBool,
}

/// What [`Limiter::try_acquire`] answers.
#[derive(Debug)]
#[must_use = "an outcome that nobody reads limits nothing"]
pub enum Outcome {
    /// The cost was charged; the call may be made.
    Admitted(Permit),
    /// Nothing was charged.
    Denied(Denial),
}

impl Outcome {
    /// The permit, or the denial as an error, for callers who want `?`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Denied`] with the denial.
    pub fn into_result(self) -> Result<Permit, Error> {
        match self {
            Self::Admitted(permit) => Ok(permit),
            Self::Denied(denial) => Err(denial.into()),
        }
    }
}

/// One call on its way through the limiter.
struct Asking<'a> {
    limiter: &'a Limiter,
    subject: &'a Subject,
    dispatch: Arc<Dispatch>,
    org: Arc<str>,
    plan: Arc<Plan>,
    id: ReservationId,
}

/// What came of a question.
struct Asked {
    outcome: Outcome,
    /// `None`: the store was not asked.
    answer: Option<Answer>,
    unclaimed: Option<Unclaimed>,
}

impl Asked {
    fn without_store(outcome: Outcome) -> Self {
        Self { outcome, answer: None, unclaimed: None }
    }
}

/// How often a call is planned anew because controls have changed under it.
const CHANGES_MAX: u32 = 8;

impl Limiter {
    /// A limiter on the embedded store, unless told otherwise.
    pub fn builder() -> LimiterBuilder {
        LimiterBuilder::new()
    }

    /// The same limiter for calls of another priority class: `interactive`, `batch`, or one that the policy names. Default: `interactive`.
    ///
    /// A class leaves its headroom of every limit to the others, and waits in line for a short time at once: see the policy file. A
    /// class that the policy of the org does not know is refused with each call.
    ///
    /// ```
    /// # async fn example(limiter: allotment::Limiter) -> Result<(), allotment::Error> {
    /// # use allotment::{Cost, Subject};
    /// let nightly = limiter.priority("batch");
    /// let permit = nightly.acquire(&Subject::org("acme").user("renderer"), Cost::images(1)).await?;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn priority(&self, class: impl Into<Arc<str>>) -> Self {
        Self { core: Arc::clone(&self.core), class: class.into() }
    }

    /// Charges `cost` now, or says when it could be. One round trip.
    ///
    /// Every limit that applies is charged, or none is.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] for a subject or cost out of range; otherwise the store's: see [`ErrorKind`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the future before its answer gives the charge back.
    pub async fn try_acquire(&self, subject: &Subject, cost: Cost) -> Result<Outcome, Error> {
        let attempt = async {
            let outcome = self.try_acquire_unobserved(subject, cost).await;
            match &outcome {
                Ok(Outcome::Admitted(_)) => telemetry::admitted(),
                Ok(Outcome::Denied(denial)) => telemetry::denied(denial),
                Err(error) => telemetry::undecided(error),
            }
            outcome
        };
        attempt.instrument(telemetry::verb_span(Verb::TryAcquire)).await
    }

    async fn try_acquire_unobserved(&self, subject: &Subject, cost: Cost) -> Result<Outcome, Error> {
        let mut asking = self.ask(subject, cost).await?;
        let Asked { outcome, unclaimed, .. } = asking.decide(0).await?;
        if let Some(unclaimed) = unclaimed {
            unclaimed.claim();
        }
        Ok(outcome)
    }

    /// Charges `cost`, waiting in line for it: `.max_wait(..)` says for how long, then `.await`.
    ///
    /// The place in line is promised: it may move up when others give quota back, and nobody who asks later delays it. Dropping the
    /// future gives the place back.
    pub fn acquire(&self, subject: &Subject, cost: Cost) -> Acquire {
        Acquire::new(self.clone(), subject.clone(), cost)
    }

    /// Says what [`try_acquire`](Self::try_acquire) would answer now, and changes nothing. One round trip; three after the controls of
    /// the org have changed.
    ///
    /// # Errors
    ///
    /// As [`try_acquire`](Self::try_acquire).
    pub async fn peek(&self, subject: &Subject, cost: Cost) -> Result<Decision, Error> {
        let look = async { self.look(subject, cost).await?.decision() };
        look.instrument(telemetry::verb_span(Verb::Peek)).await
    }

    /// Replaces the policy, from the next decision on. Changing an amount never resets usage.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] for a policy that does not hold together, or when the policies come from a source.
    pub fn set_policy(&self, policy: Policy) -> Result<(), Error> {
        self.core.policies.set(policy)
    }

    /// Forgets the cached policy of an org, so that its next decision asks the source again.
    pub async fn forget_policy(&self, org: &str) {
        self.core.policies.forget(org).await;
    }

    /// Empties every ledger that counts this subject: usage so far no longer binds. Places promised for later stay. One round trip.
    ///
    /// # Errors
    ///
    /// As [`try_acquire`](Self::try_acquire).
    pub async fn reset(&self, subject: &Subject) -> Result<(), Error> {
        let mut asking = self.ask(subject, Cost::new()).await?;
        asking.take_parts();
        self.core.dispatch.store.reset(&asking.org, &asking.plan.ledger_keys()).await
    }

    /// The part of [`reset`](Self::reset) that is of one limit.
    pub(crate) async fn reset_limit(&self, subject: &Subject, limit: &str) -> Result<(), Error> {
        let mut asking = self.ask(subject, Cost::new()).await?;
        asking.take_parts();
        let ledgers = asking.plan.ledger_keys_of(limit);
        if ledgers.is_empty() {
            return Err(Error::invalid(format!(
                "limit {limit:?}: no limit of that name counts this subject in a window"
            )));
        }
        self.core.dispatch.store.reset(&asking.org, &ledgers).await
    }

    /// Takes no more calls, and waits until commits and releases under way have reached the store, as has what was admitted without it, if
    /// it answers. With [`FailurePolicy::Local`](crate::FailurePolicy::Local) the others share the limits without this process from then on.
    pub async fn shutdown(&self) {
        self.core.closed.store(true, std::sync::atomic::Ordering::SeqCst);
        self.core.failure.leave().await;
        self.core.dispatch.drain().await;
    }

    async fn ask<'a>(&'a self, subject: &'a Subject, cost: Cost) -> Result<Asking<'a>, Error> {
        self.expect_open()?;
        let org: Arc<str> = subject.value("org").unwrap_or_default().into();
        subject.validate()?;
        let policy = self.core.policies.of(&org).await?;
        let controls = self.core.governing.of(&org);
        let plan = Arc::new(Plan::new(policy, subject, cost, &self.class, &controls, self.growth(&org))?);
        let dispatch = Arc::clone(&self.core.dispatch);
        let mut asking = Asking { limiter: self, subject, dispatch, org, plan, id: ReservationId([0; 16]) };
        asking.take_new_id();
        Ok(asking)
    }

    /// [`ErrorKind::Closed`] once it has been shut down.
    fn expect_open(&self) -> Result<(), Error> {
        if self.core.closed.load(std::sync::atomic::Ordering::SeqCst) {
            return Err(Error::new(ErrorKind::Closed, "the limiter has been shut down"));
        }
        Ok(())
    }

    pub(crate) fn store(&self) -> &Store {
        &self.core.dispatch.store
    }

    pub(crate) fn clock(&self) -> &Clock {
        &self.core.dispatch.clock
    }
}

impl Asking<'_> {
    fn take_new_id(&mut self) {
        self.id = ReservationId::new(Owner::of(self.subject.value("user")));
    }

    fn unclaimed(&self) -> Unclaimed {
        Unclaimed::new(&self.dispatch, &self.org, &self.plan, self.id)
    }

    /// Asks the store; `None`: the controls of the org change too fast. One round trip; three after they have changed; two or three while a
    /// loss of data holds calls back.
    async fn ask_store(&mut self, max_wait_ms: u64) -> Result<Option<Asked>, Error> {
        let mut regrown = false;
        for _ in 0..CHANGES_MAX {
            if self.plan.is_unlimited() {
                return Ok(Some(Asked::without_store(Outcome::Admitted(self.unlimited()))));
            }
            let (unclaimed, sent_ms) = (self.unclaimed(), self.dispatch.clock.now_ms());
            let answer = match self.dispatch.acquire(&self.org, self.request(max_wait_ms)).await {
                Ok(answer) => answer,
                Err(error) => {
                    if error.has_no_effect() {
                        unclaimed.claim();
                    }
                    return Err(error);
                }
            };
            self.limiter.core.failure.answered();
            if matches!(answer.verdict, Verdict::Stale | Verdict::Lost) {
                // an answer before this one may have been lost: whatever it charged is given back
                drop(unclaimed);
                self.take_new_id();
                if answer.verdict == Verdict::Stale {
                    self.plan_anew().await?
                } else {
                    self.regrow()?
                }
                continue;
            }
            if !self.plan.is_refused() {
                let has_grown = self.plan.is_held() || !regrown && self.plan.has_grown(&answer);
                if self.plan.is_growing() && !matches!(answer.verdict, Verdict::Admitted { .. }) {
                    // by the amounts at the time of the answer
                    self.regrow()?;
                }
                if let Some(denial) = self.impossible(&answer, max_wait_ms).await? {
                    unclaimed.claim();
                    return Ok(Some(Asked::without_store(Outcome::Denied(denial))));
                }
                if has_grown {
                    unclaimed.claim();
                    regrown = true;
                    continue;
                }
            }
            let outcome = self.outcome(&answer, sent_ms, max_wait_ms)?;
            if answer.after_silence && matches!(outcome, Outcome::Denied(_)) {
                // should an earlier try be executed after all, nobody would own what it charges
                drop(unclaimed);
                self.take_new_id();
                return Ok(Some(Asked { outcome, answer: Some(answer), unclaimed: None }));
            }
            if matches!(outcome, Outcome::Admitted(_)) {
                self.dispatch.list(&self.org, self.subject, &self.plan.policy());
            }
            return Ok(Some(Asked { outcome, answer: Some(answer), unclaimed: Some(unclaimed) }));
        }
        Ok(None)
    }

    fn request(&self, max_wait_ms: u64) -> AcquireRequest {
        if self.plan.is_refused() || self.plan.never().is_some() || self.plan.is_held() {
            return self.plan.blocked_request(self.id);
        }
        let mut request = self.plan.acquire_request(self.id, max_wait_ms);
        if let Some((user, pools, window_ms)) = self.plan.sharer() {
            request.notes = self.dispatch.notes(&self.org, user, pools, window_ms);
        }
        request.lease_ms = self.dispatch.leases.lease_ms;
        request
    }

    /// Plans by the controls that the org has now. One round trip.
    async fn plan_anew(&mut self) -> Result<(), Error> {
        let controls = self.limiter.core.governing.refresh(&self.dispatch.store, &self.org).await?;
        self.replan(&controls, self.limiter.growth(&self.org))
    }

    /// No limit applies.
    fn unlimited(&self) -> Permit {
        Permit::new(None, self.plan.cost().clone(), self.dispatch.clock.now_ms(), Vec::new(), None)
    }

    /// The denial of a cost that exceeds a limit, or what a loss of data has left of it, with where the limits stand.
    async fn impossible(&self, answer: &Answer, max_wait_ms: u64) -> Result<Option<Denial>, Error> {
        let Some(over) = self.plan.never() else { return self.held(answer.now, max_wait_ms).await };
        let seen = self.dispatch.store.inspect(&self.org, &self.plan.inspect_request()).await?;
        let statuses = self.plan.statuses(&self.foresee(&seen));
        Ok(Some(self.plan.denial_for_ever(over, statuses)))
    }

    /// The permit or denial that an answer means; never of one that is stale.
    fn outcome(&self, answer: &Answer, sent_ms: u64, max_wait_ms: u64) -> Result<Outcome, Error> {
        match answer.verdict {
            Verdict::Admitted { at } => Ok(Outcome::Admitted(self.permit(answer, at, answer.now, sent_ms))),
            _ => self.denial(answer, max_wait_ms).map(Outcome::Denied),
        }
    }

    /// The denial that an answer means which admits nothing.
    fn denial(&self, answer: &Answer, max_wait_ms: u64) -> Result<Denial, Error> {
        if matches!(answer.verdict, Verdict::Denied { .. })
            && let Some(refused) = self.plan.denial_refused(answer.now)
        {
            return Ok(refused);
        }
        match &answer.verdict {
            Verdict::Denied { at, setter, short } => {
                Ok(self.plan.denial_until(answer, *at, *setter, short, max_wait_ms))
            }
            Verdict::Full { slots, at } => Ok(self.plan.denial_full(answer, *slots, *at, max_wait_ms)),
            Verdict::Mismatch => Err(Error::new(ErrorKind::Protocol, "the reservation was made with another cost")),
            Verdict::Admitted { .. } | Verdict::Stale | Verdict::Lost | Verdict::Released => {
                Err(Error::new(ErrorKind::Protocol, "the reservation was released before it was made"))
            }
        }
    }

    /// `sent_ms` is when the question was sent, by the clock of this process.
    fn permit(&self, answer: &Answer, at: u64, made_at: u64, sent_ms: u64) -> Permit {
        let limits = self.plan.statuses(answer);
        let lease = (answer.token > 0).then(|| {
            let beating = self.dispatch.leases.keep(&self.org, self.id, self.plan.slots(), sent_ms);
            Lease::new(&self.dispatch, &self.org, self.id, answer.token, beating)
        });
        let permit = Permit::new(Some(self.reservation(made_at)), self.plan.cost().clone(), at, limits, lease);
        permit.having_found(answer.ledgers.clone(), answer.now)
    }

    fn reservation(&self, made_at: u64) -> Reservation {
        let (dispatch, org, plan) = (Arc::clone(&self.dispatch), Arc::clone(&self.org), Arc::clone(&self.plan));
        Reservation { dispatch, org, plan, id: self.id, made_at, posting: None }
    }
}
