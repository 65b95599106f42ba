//! What the controls of an org make of the limits that hold a subject.
//!
//! Invariant: without controls, every amount is that of the policy.

use crate::{
    control::{Action, Controls, LiveControl},
    plan::Blocked,
    resource::Resource,
    subject::Subject,
};

/// The controls that hold one subject, in the order of their ids.
pub(super) struct Controlled<'a>(Vec<&'a LiveControl>);

/// What a limit enforces.
pub(super) struct Amount {
    pub(super) amount: u64,
    /// Counts and does not deny.
    pub(super) shadow: bool,
}

impl<'a> Controlled<'a> {
    pub(super) fn new(controls: &'a Controls, subject: &'a Subject) -> Self {
        Self(controls.of(subject).collect())
    }

    fn bypassed(&self) -> bool {
        self.0.iter().any(|live| live.control.action == Action::Bypass)
    }

    /// The block that lasts longest, unless everything is bypassed.
    pub(super) fn block(&self) -> Option<Blocked> {
        let blocks = self.0.iter().filter(|live| live.control.action == Action::Block && !self.bypassed());
        let longest = blocks.max_by_key(|live| live.expires_at.unwrap_or(u64::MAX))?;
        let because = longest.control.reason.as_deref().map(Into::into);
        Some(Blocked { because, until: longest.expires_at })
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
