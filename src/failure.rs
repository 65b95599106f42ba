//! What decides while the store does not answer, and what becomes of it once it does.
//!
//! Invariant: a degraded decision says so, and costs no time beyond the store's failure. What it admitted is charged in the store later,
//! once, unless it was given back or its windows have passed.

mod health;
mod members;
mod posting;
mod postings;

use std::{fmt, str::FromStr, sync::Arc};

use self::{health::Health, members::Members, postings::Postings};
pub(crate) use self::{
    health::RETRY,
    posting::{LocalSlots, Posting, Settling},
};
use crate::{
    decision::Degraded,
    dispatch::Dispatch,
    error::{Error, ErrorKind},
    plan::Plan,
    store::{AcquireRequest, Answer, ReservationId, Store, memory::MemoryStore},
};

/// Who decides when the store does not answer within the deadline.
///
/// A store that answers and refuses is not away: a wrong user, password or certificate, a right that the user lacks, no memory, a disk that
/// fails. Calls then fail with its error, whatever the policy.
///
/// Written `deny`, `allow` or `local`. A decision that a policy made says so: [`Permit::degraded`](crate::Permit::degraded),
/// [`Denial::degraded`](crate::Denial::degraded). Places in line are not promised meanwhile. What was admitted is charged in the store when
/// it answers again, at that time, whatever the limits say then.
///
/// ```
/// use allotment::FailurePolicy;
///
/// assert_eq!("local".parse::<FailurePolicy>()?, FailurePolicy::Local);
/// assert_eq!(FailurePolicy::default().to_string(), "deny");
/// # Ok::<(), allotment::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum FailurePolicy {
    /// Nobody: the call fails with the store's error.
    #[default]
    Deny,
    /// Every call is admitted, but for subjects that were blocked and costs above a limit. Limits do not hold meanwhile.
    Allow,
    /// This process, by its share of each limit: the amount over the number of processes that used the org when the store answered last,
    /// rounded down. Together they stay within each limit. A process that was not among them, or joined less than a third of a
    /// [lease](crate::LimiterBuilder::lease) before, does not know its share: its calls fail with the store's error.
    Local,
}

impl FailurePolicy {
    /// As it is written.
    const fn name(self) -> &'static str {
        match self {
            Self::Deny => "deny",
            Self::Allow => "allow",
            Self::Local => "local",
        }
    }
}

impl fmt::Display for FailurePolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for FailurePolicy {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        let named = [Self::Deny, Self::Allow, Self::Local].into_iter().find(|policy| policy.name() == name);
        named.ok_or_else(|| Error::invalid(format!("failure policy {name:?}: allowed are deny, allow and local")))
    }
}

/// The failure policy of one limiter at work.
#[derive(Debug)]
pub(crate) struct Failure {
    policy: FailurePolicy,
    dispatch: Arc<Dispatch>,
    health: Arc<Health>,
    members: Arc<Members>,
    /// What this process decided by itself.
    local: Arc<MemoryStore>,
    postings: Arc<Postings>,
}

impl Failure {
    pub(crate) fn new(policy: FailurePolicy, dispatch: &Arc<Dispatch>) -> Arc<Self> {
        // the embedded store is never away, and nobody shares it
        let policy = if matches!(&*dispatch.store, Store::Memory(_)) { FailurePolicy::Deny } else { policy };
        let (store, clock) = (&dispatch.store, &dispatch.clock);
        let health = Arc::new(Health::new(policy.name()));
        Arc::new(Self {
            policy,
            dispatch: Arc::clone(dispatch),
            members: Members::new(Arc::clone(store), clock.clone(), dispatch.leases.lease_ms),
            local: Arc::new(MemoryStore::new(clock.clone())),
            postings: Postings::new(Arc::clone(store), clock.clone(), Arc::clone(&health)),
            health,
        })
    }

    /// A call of this org is on its way; `window_ms` is the longest of the org's.
    pub(crate) fn asked(&self, org: &Arc<str>, window_ms: u64) {
        if self.policy == FailurePolicy::Local {
            self.members.asked(org, window_ms);
            // nothing else uses it once the store answers again
            self.local.sweep();
        }
    }

    /// The store has answered.
    pub(crate) fn answered(&self) {
        if self.health.is_degraded() {
            self.postings.hurry();
        }
    }

    /// Who decides a call of this org that failed with `error`; `None`: nobody, so that the error is the answer.
    pub(crate) fn steps_in(&self, org: &str, error: &Error) -> Option<Degraded> {
        // who refuses is there: as long as a password is wrong, or memory is out, limits hold
        if error.is_refusal() || !matches!(error.kind(), ErrorKind::Timeout | ErrorKind::Unavailable) {
            return None;
        }
        let degraded = match self.policy {
            FailurePolicy::Deny => return None,
            FailurePolicy::Allow => Degraded::Allow,
            // what cannot be remembered would never be charged
            FailurePolicy::Local if !self.postings.has_room() => return None,
            FailurePolicy::Local => Degraded::Local { members: self.members.known(org)? },
        };
        self.health.begins(error, self.dispatch.clock.now_ms());
        Some(degraded)
    }

    /// What this process answers by itself.
    pub(crate) fn decide(&self, org: &str, request: AcquireRequest) -> Result<Answer, Error> {
        let no_answer = || Err(Error::new(ErrorKind::Protocol, "the embedded store left a request without an answer"));
        self.local.acquire(org, &[request]).pop().unwrap_or_else(no_answer)
    }

    /// Remembers an admission, to charge it under `id` when the store answers again; it was `asked` for it under another one. `None`: too
    /// much is remembered already.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Closed`] once this process has [left](Self::leave): the store would never be told.
    pub(crate) fn remember(
        &self,
        org: &Arc<str>,
        plan: &Arc<Plan>,
        asked: ReservationId,
        id: ReservationId,
        degraded: Degraded,
    ) -> Result<Option<Arc<Posting>>, Error> {
        let local = matches!(degraded, Degraded::Local { .. }).then(|| Arc::clone(&self.local));
        let posting = Posting::new(org, plan, asked, id, local, self.dispatch.clock.now_ms());
        self.postings.remember(posting)
    }

    /// A degraded decision was made.
    pub(crate) fn decided(&self, outcome: &'static str) {
        self.health.decided(outcome);
    }

    /// Is a member no more, admits nothing from now on, and charges what has not been, if the store answers.
    pub(crate) async fn leave(&self) {
        self.members.leave().await;
        self.postings.close().await;
    }
}
