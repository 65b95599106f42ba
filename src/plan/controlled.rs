//! What the controls of an org make of the limits that hold a subject.
//!
//! Invariant: without controls, every amount is that of the policy.

use std::sync::Arc;

use crate::{
    clock::wait_until,
    control::{Action, Controls, LiveControl},
    cost::Cost,
    decision::{Denial, Reason, Retry},
    plan::Plan,
    resource::Resource,
    subject::Subject,
};

/// The controls that hold one call, in the order of their ids.
pub(super) struct Controlled<'a>(Vec<&'a LiveControl>);

/// A call that a control keeps from being made, whatever its limits say.
#[derive(Clone, Debug)]
pub(super) struct Refused {
    /// What the denial calls the control.
    limit: &'static str,
    resource: Resource,
    reason: Reason,
    until: Option<u64>,
}

/// What a limit enforces.
pub(super) struct Amount {
    pub(super) amount: u64,
    /// Counts and does not deny.
    pub(super) shadow: bool,
}

impl<'a> Controlled<'a> {
    /// A cool-down holds the calls that ask for its resource, and all else whatever the call costs.
    pub(super) fn new(controls: &'a Controls, subject: &'a Subject, cost: &Cost) -> Self {
        let holds = |live: &&LiveControl| match &live.control.action {
            Action::CoolDown { resource } => cost.of(resource) > 0,
            _ => true,
        };
        Self(controls.of(subject).filter(holds).collect())
    }

    /// When the first of them ends.
    pub(super) fn until(&self) -> Option<u64> {
        self.0.iter().filter_map(|live| live.expires_at).min()
    }

    fn bypassed(&self) -> bool {
        self.0.iter().any(|live| live.control.action == Action::Bypass)
    }

    /// The block that lasts longest, else the cool-down that does, unless everything is bypassed.
    pub(super) fn refused(&self) -> Option<Refused> {
        if self.bypassed() {
            return None;
        }
        let longest = |of_kind: fn(&Action) -> bool| {
            let all = self.0.iter().filter(move |live| of_kind(&live.control.action));
            all.max_by_key(|live| live.expires_at.unwrap_or(u64::MAX))
        };
        if let Some(live) = longest(|action| *action == Action::Block) {
            let reason = Reason::Blocked { because: live.control.reason.as_deref().map(Into::into) };
            return Some(Refused { limit: "block", resource: Resource::Requests, reason, until: live.expires_at });
        }
        let live = longest(|action| matches!(action, Action::CoolDown { .. }))?;
        let resource = live.control.resource()?.clone();
        Some(Refused { limit: "cool_down", resource, reason: Reason::CoolDown, until: live.expires_at })
    }

    /// An amount of the policy, replaced, then scaled, then with what was granted. The most specific replacement wins: that with most
    /// attributes.
    pub(super) fn amount(&self, name: &str, resource: &Resource, stated: u64) -> Amount {
        let mine = || self.0.iter().filter(|live| live.control.limit() == Some(name));
        let replaced = mine().filter_map(|live| match &live.control.action {
            Action::Override { resource: of, amount, .. } if of == resource => {
                Some((live.control.target.len(), *amount))
            }
            _ => None,
        });
        let mut amount = replaced.max_by_key(|(attributes, _)| *attributes).map_or(stated, |(_, amount)| amount);
        let mut shadow = self.bypassed();
        for live in mine() {
            match &live.control.action {
                Action::Scale { percent, .. } => {
                    let scaled = u128::from(amount) * u128::from(*percent) / 100;
                    amount = u64::try_from(scaled).unwrap_or(u64::MAX).max(amount.min(1));
                }
                Action::Shadow { .. } => shadow = true,
                _ => {}
            }
        }
        for live in mine() {
            if let Action::Grant { resource: of, amount: granted, .. } = &live.control.action
                && of == resource
            {
                amount = amount.saturating_add(*granted);
            }
        }
        Amount { amount: amount.min(crate::cost::Cost::AMOUNT_MAX), shadow }
    }

    /// The amount that is tried beside that of the policy: of several, the most specific.
    pub(super) fn tries(&self, name: &str, resource: &Resource) -> Option<u64> {
        let tried = self.0.iter().filter_map(|live| match &live.control.action {
            Action::Candidate { limit, resource: of, amount } if limit == name && of == resource => {
                Some((live.control.target.len(), *amount))
            }
            _ => None,
        });
        tried.max_by_key(|(attributes, _)| *attributes).map(|(_, amount)| amount)
    }
}

impl Plan {
    /// Whether a control keeps the call from being made.
    pub(crate) fn is_refused(&self) -> bool {
        self.refused.is_some()
    }

    /// Whether an operator has blocked the subject.
    pub(crate) fn is_blocked(&self) -> bool {
        self.refused.as_ref().is_some_and(|refused| refused.reason != Reason::CoolDown)
    }

    /// Whether a cool-down is not over by then.
    pub(crate) fn cools_down_at(&self, at: u64) -> bool {
        let is_over = |refused: &Refused| refused.until.is_some_and(|until| until <= at);
        self.is_refused() && !self.is_blocked() && !self.refused.as_ref().is_some_and(is_over)
    }

    /// The denial of a call that a control keeps from being made.
    pub(crate) fn denial_refused(&self, now: u64) -> Option<Denial> {
        let Refused { limit, resource, reason, until } = self.refused.clone()?;
        let retry = until.map_or(Retry::Never { over_by: 0 }, |until| Retry::Estimate(wait_until(until, now)));
        Some(Denial { limit: Arc::from(limit), resource, reason, retry, limits: Vec::new(), degraded: None })
    }
}
