//! What a decision says: allowed or denied, and where every limit stands.
//!
//! Invariant: a denial is a value with a time in it, never a bool. Holds no store and no clock.

use std::{fmt, sync::Arc, time::Duration};

use serde::Serialize;

use crate::resource::Resource;

/// Where one limit stands for one subject.
///
/// With a limit of 10 images and 6 used, `remaining` is 4. After a commit above its estimate `used` may exceed `limit`; `remaining`
/// stops at 0.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct LimitStatus {
    /// The limit's name in the policy.
    pub name: Arc<str>,
    /// What it counts.
    pub resource: Resource,
    /// What binds this call: the stated amount, or that of a control, less its margin and the headroom of the call's class.
    pub limit: u64,
    /// What the window that ends now holds. Places booked for later are not in it.
    pub used: u64,
    /// What is left of `limit`.
    pub remaining: u64,
    /// The window, in milliseconds; 0 for calls under way, which count while they last.
    pub window_ms: u64,
    /// Until everything charged or booked so far has left the window, if nobody asks again. Zero when nothing is.
    pub reset_after: Duration,
    /// It counts and reports, but does not deny: `used` may exceed `limit`.
    pub shadow: bool,
}

/// What a store answers to a request that is not charged: see [`Limiter::peek`](crate::Limiter::peek).
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "a decision that nobody reads limits nothing"]
pub enum Decision {
    /// The cost fits now. Where each limit stands, in policy order.
    Allowed(Vec<LimitStatus>),
    /// The cost does not fit now.
    Denied(Denial),
}

/// When a denied call can be tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Retry {
    /// Exact: if nobody else acts, the same call is denied 1 ms before and admitted then.
    After(Duration),
    /// As far as can be seen now: it depends on what other users do, or on how a limit grows back.
    Estimate(Duration),
    /// The line is full: no place can be promised yet. Ask for one again then, not for admission.
    AskAgainAfter(Duration),
    /// The cost exceeds the limit and can never be admitted, or the subject is blocked without an end. How far it is over, in units of the
    /// resource; 0 for a block.
    Never {
        /// The cost less the limit. A cost of 12 against a limit of 10 is over by 2.
        over_by: u64,
    },
}

/// What kept a call from being admitted.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reason {
    /// The limit is used up, or the cost exceeds it.
    Limit,
    /// The user has a fair share of the limit, or more; what is left is for others.
    FairShare {
        /// What the user may have in a window, at that moment. It changes as users come and go.
        share: u64,
    },
    /// As many calls are under way as may be.
    InFlight,
    /// The store has lost the org's data, and its limits admit less for a while, or nothing: see
    /// [`LimiterBuilder::state_loss`](crate::LimiterBuilder::state_loss).
    StateLost,
    /// An upstream has asked for a pause, or an operator has: see [`Limiter::cool_down`](crate::Limiter::cool_down). The limit that the
    /// denial names is `cool_down`.
    CoolDown,
    /// An operator has blocked the subject. The limit that the denial names is `block`.
    Blocked {
        /// Why, if the operator said so.
        because: Option<Arc<str>>,
    },
}

/// Which failure policy decided about a call because the store did not answer: see
/// [`FailurePolicy`](crate::FailurePolicy).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Degraded {
    /// `allow`: no limit was looked at, but for blocks and costs that can never be admitted.
    Allow,
    /// `local`: this process went by its share of each limit.
    Local {
        /// How many processes shared the limits of the org when the store answered last, this one included.
        members: u64,
    },
}

impl fmt::Display for Degraded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Allow => f.write_str("decided without the store, by the failure policy `allow`"),
            Self::Local { members } => {
                write!(f, "decided without the store, by the failure policy `local`, one of {members}")
            }
        }
    }
}

/// Why a call was not admitted, and when to come back. Nothing was charged.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Denial {
    /// The name of the limit whose time is latest; of several, the first in the policy. The one that is shared, or has no slot free, where
    /// that is the reason.
    pub limit: Arc<str>,
    /// The resource of that limit which does not fit.
    pub resource: Resource,
    /// What kept the call from being admitted.
    pub reason: Reason,
    /// When to come back.
    pub retry: Retry,
    /// Where each limit stands, in policy order. Of a degraded denial, where this process stands with its share; nothing, if it did not
    /// get that far.
    pub limits: Vec<LimitStatus>,
    /// Which failure policy denied it, where the store did not answer. `retry` is then an estimate: the store may answer again sooner,
    /// and decide otherwise.
    pub degraded: Option<Degraded>,
}

impl Denial {
    /// The time until the call fits, exact if nobody else acts unless [`is_estimate`](Self::is_estimate) says otherwise; `None` if it
    /// never can, or no place can be promised yet.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self.retry {
            Retry::After(wait) | Retry::Estimate(wait) => Some(wait),
            Retry::AskAgainAfter(_) | Retry::Never { .. } => None,
        }
    }

    /// Whether [`retry_after`](Self::retry_after) is an estimate.
    #[must_use]
    pub fn is_estimate(&self) -> bool {
        matches!(self.retry, Retry::Estimate(_))
    }

    /// Whether the cost exceeds the limit, so that no waiting helps.
    #[must_use]
    pub fn is_never(&self) -> bool {
        matches!(self.retry, Retry::Never { .. })
    }
}

impl fmt::Display for Denial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.fmt_reason(f)?;
        match self.degraded {
            Some(degraded) => write!(f, " ({degraded})"),
            None => Ok(()),
        }
    }
}

impl Denial {
    fn fmt_reason(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Reason::Blocked { because } = &self.reason {
            f.write_str("blocked by an operator")?;
            if let Some(because) = because {
                write!(f, " ({because})")?;
            }
            return match self.retry_after() {
                Some(wait) => write!(f, "; retry after {wait:?}"),
                None => Ok(()),
            };
        }
        if self.reason == Reason::CoolDown {
            write!(f, "{} cools down; ", self.resource)?;
        } else {
            write!(f, "limit `{}` on {} ", self.limit, self.resource)?;
        }
        if self.reason == Reason::StateLost {
            f.write_str("is held back, as the store has lost its data; ")?;
        } else if self.reason == Reason::InFlight {
            f.write_str("has no slot free; ")?;
        } else if let Reason::FairShare { share } = self.reason {
            write!(f, "is shared fairly, and this user's share is {share}; ")?;
        } else if self.reason != Reason::CoolDown && matches!(self.retry, Retry::After(_) | Retry::Estimate(_)) {
            f.write_str("is used up; ")?;
        }
        match self.retry {
            Retry::After(wait) => write!(f, "retry after {wait:?}"),
            Retry::Estimate(wait) => write!(f, "retry after about {wait:?}"),
            Retry::AskAgainAfter(wait) => write!(f, "has no place to promise; ask again after {wait:?}"),
            Retry::Never { over_by } => write!(f, "can never admit this cost: it is over by {over_by}"),
        }
    }
}
