//! What an operator has decided about an org, live: blocks, other amounts, grants, trials, and a bypass of everything; and cool-downs, which
//! an upstream asks for.
//!
//! Invariant: a control names its limit and its target, and replaces the one before it that had the same. It is kept in the store, not in
//! the policy: every process of the fleet decides by it from the next decision on.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{cost::Cost, error::Error, resource::Resource, subject::Subject};

/// One decision of an operator, on a whole org or on those of its subjects that have certain attributes.
///
/// ```
/// use allotment::Control;
///
/// let abuse = Control::block().on("user", "mallory").because("spam");
/// let launch = Control::grant("org-images", "images", 500);
/// # drop((abuse, launch));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[must_use = "a control does nothing until an `Admin` applies it"]
pub struct Control {
    pub(crate) action: Action,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) target: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<String>,
    #[serde(skip)]
    pub(crate) lasts: Option<Duration>,
}

/// What a control does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Action {
    Block,
    CoolDown { resource: Resource },
    Bypass,
    Override { limit: String, resource: Resource, amount: u64 },
    Scale { limit: String, percent: u32 },
    Grant { limit: String, resource: Resource, amount: u64 },
    Shadow { limit: String },
    Candidate { limit: String, resource: Resource, amount: u64 },
}

impl Control {
    /// The longest reason, in bytes.
    pub const REASON_BYTES_MAX: usize = 256;

    fn new(action: Action) -> Self {
        Self { action, target: BTreeMap::new(), reason: None, lasts: None }
    }

    /// Denies every call.
    pub fn block() -> Self {
        Self::new(Action::Block)
    }

    /// Starts no call that asks anything of this resource, until it ends: it must have an end. Calls that wait in line wait over it.
    ///
    /// [`Limiter::cool_down`](crate::Limiter::cool_down) sets one where an upstream says when to come back.
    pub fn cool_down(resource: impl Into<Resource>) -> Self {
        Self::new(Action::CoolDown { resource: resource.into() })
    }

    /// Admits every call, whatever limits, shares, slots, cool-downs and blocks say; all are counted. For emergencies, with an expiry.
    pub fn bypass() -> Self {
        Self::new(Action::Bypass)
    }

    /// Enforces another amount of a limit: as it is given, without the limit's margin.
    pub fn amount(limit: impl Into<String>, resource: impl Into<Resource>, amount: u64) -> Self {
        Self::new(Action::Override { limit: limit.into(), resource: resource.into(), amount })
    }

    /// Enforces this part of every amount of a limit, in percent: 1 to 10,000, rounded down, at least 1.
    pub fn scale(limit: impl Into<String>, percent: u32) -> Self {
        Self::new(Action::Scale { limit: limit.into(), percent })
    }

    /// Adds to a limit once: for as long as one window lasts, unless it is given another expiry. After that the limit is as it was, and
    /// the extra has been used at most once.
    pub fn grant(limit: impl Into<String>, resource: impl Into<Resource>, amount: u64) -> Self {
        Self::new(Action::Grant { limit: limit.into(), resource: resource.into(), amount })
    }

    /// Lets a limit count and report, and not deny.
    pub fn shadow(limit: impl Into<String>) -> Self {
        Self::new(Action::Shadow { limit: limit.into() })
    }

    /// Tries another amount beside a live limit: it is counted and reported as `NAME.candidate`, and does not deny.
    pub fn candidate(limit: impl Into<String>, resource: impl Into<Resource>, amount: u64) -> Self {
        Self::new(Action::Candidate { limit: limit.into(), resource: resource.into(), amount })
    }

    /// Only for subjects whose `attribute` has this value: `user`, `model` or a named one. Called again, both must match. Default: the whole
    /// org.
    pub fn on(mut self, attribute: impl Into<String>, value: impl Into<String>) -> Self {
        self.target.insert(attribute.into(), value.into());
        self
    }

    /// Why: for those who are denied by it, and for the audit trail. At most 256 bytes.
    pub fn because(mut self, reason: impl Into<String>) -> Self {
        self.reason = Some(reason.into());
        self
    }

    /// Ends by itself after this time, 1 ms to 366 days. Default: a grant lasts one window, all else until it is withdrawn.
    pub fn lasting(mut self, lasts: Duration) -> Self {
        self.lasts = Some(lasts);
        self
    }

    pub(crate) fn resource(&self) -> Option<&Resource> {
        match &self.action {
            Action::CoolDown { resource }
            | Action::Override { resource, .. }
            | Action::Grant { resource, .. }
            | Action::Candidate { resource, .. } => Some(resource),
            Action::Block | Action::Bypass | Action::Scale { .. } | Action::Shadow { .. } => None,
        }
    }

    pub(crate) fn limit(&self) -> Option<&str> {
        match &self.action {
            Action::Block | Action::CoolDown { .. } | Action::Bypass => None,
            Action::Override { limit, .. }
            | Action::Scale { limit, .. }
            | Action::Grant { limit, .. }
            | Action::Shadow { limit }
            | Action::Candidate { limit, .. } => Some(limit),
        }
    }

    pub(crate) fn matches(&self, subject: &Subject) -> bool {
        self.target.iter().all(|(attribute, value)| subject.value(attribute) == Some(value))
    }

    /// What it shares with the control that it replaces: the kind, the limit, the resource and the target.
    pub(crate) fn id(&self) -> String {
        let kind = match &self.action {
            Action::Block => "block",
            Action::CoolDown { .. } => "cool_down",
            Action::Bypass => "bypass",
            Action::Override { .. } => "amount",
            Action::Scale { .. } => "scale",
            Action::Grant { .. } => "grant",
            Action::Shadow { .. } => "shadow",
            Action::Candidate { .. } => "candidate",
        };
        let (limit, resource) = (self.limit().unwrap_or("-"), self.resource().map_or("-", Resource::name));
        // quoted, so that no two targets are spelled alike
        format!("{kind} {limit} {resource} {:?}", self.target)
    }

    /// As it is stored.
    pub(crate) fn to_text(&self) -> Result<String, Error> {
        serde_json::to_string(self).map_err(|error| Error::invalid(format!("control: {error}")))
    }

    pub(crate) fn validate(&self) -> Result<(), Error> {
        if let Some(reason) = self.reason.as_ref().filter(|reason| reason.len() > Self::REASON_BYTES_MAX) {
            return Err(Error::invalid(format!(
                "reason of {} bytes: it takes at most {}",
                reason.len(),
                Self::REASON_BYTES_MAX
            )));
        }
        let subject = Subject::org("org");
        let target = self.target.iter().fold(subject, |subject, (attribute, value)| match attribute.as_str() {
            "user" => subject.user(value.as_str()),
            "model" => subject.model(value.as_str()),
            name => subject.attribute(name, value.as_str()),
        });
        target.validate()?;
        match &self.action {
            Action::CoolDown { resource: Resource::InFlight } => Err(Error::invalid(
                "cool-down of in_flight: a call does not ask for calls under way; say requests to hold every call back",
            )),
            Action::Scale { percent, .. } if !(1..=10_000).contains(percent) => {
                Err(Error::invalid(format!("scale {percent}: allowed are 1 to 10000 percent")))
            }
            Action::Override { amount, .. } | Action::Grant { amount, .. } | Action::Candidate { amount, .. }
                if *amount > Cost::AMOUNT_MAX =>
            {
                Err(Error::invalid(format!("amount {amount}: allowed are 0 to {} (2^47)", Cost::AMOUNT_MAX)))
            }
            _ => Ok(()),
        }
    }
}

/// The controls of an org, as a process knows them.
#[derive(Debug, Default)]
pub(crate) struct Controls {
    /// Grows with every change; 0: there are none.
    pub(crate) version: u64,
    pub(crate) live: Vec<LiveControl>,
}

#[derive(Debug)]
pub(crate) struct LiveControl {
    pub(crate) control: Control,
    pub(crate) expires_at: Option<u64>,
}

impl Controls {
    /// Those that hold a subject.
    pub(crate) fn of<'a>(&'a self, subject: &'a Subject) -> impl Iterator<Item = &'a LiveControl> {
        self.live.iter().filter(|live| live.control.matches(subject))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_control_replaces_one_of_its_kind_limit_resource_and_target() {
        let block = |user: &str| Control::block().on("user", user);
        assert_eq!(block("a").id(), block("a").because("spam").id());
        let other = [
            block("b"),
            Control::block(),
            Control::amount("x", "images", 1).on("user", "a"),
            Control::amount("x", "tokens", 1).on("user", "a"),
            Control::amount("y", "tokens", 1).on("user", "a"),
            block("a\", \"model\": \"m").on("model", "n"),
            block("a").on("model", "n"),
            Control::cool_down("images").on("user", "a"),
            Control::cool_down("tokens").on("user", "a"),
        ];
        let ids: std::collections::BTreeSet<_> = other.iter().chain([&block("a")]).map(Control::id).collect();
        assert_eq!(ids.len(), 10);
    }

    #[test]
    fn what_is_out_of_range_is_named() {
        let message = |control: Control| control.validate().unwrap_err().to_string();
        assert!(message(Control::scale("x", 0)).contains("scale 0: allowed are 1 to 10000"));
        assert!(message(Control::grant("x", "images", u64::MAX)).contains("2^47"));
        assert!(message(Control::block().because("x".repeat(257))).contains("reason of 257 bytes"));
        assert!(message(Control::block().on("user", "")).contains("user \"\""));
        assert!(message(Control::cool_down("in_flight")).contains("say requests"));
    }
}
