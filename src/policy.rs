//! The set of limits that hold an org, from code, from TOML or from a preset.
//!
//! Invariant: nothing enforces a policy that did not pass `validate`. Lacks stores and subjects' state: a policy is a plain value.

mod compiled;
pub(crate) mod file;
mod priority;
mod source;
mod tiers;
mod validate;
mod weight;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub(crate) use self::compiled::{Compiled, Rule, share};
use self::{priority::Priority, weight::Weight};
pub use self::{
    source::PolicySource,
    tiers::{Certainty, Preset},
};
use crate::{
    error::Error,
    limit::{Choices, Integer, Limit},
};

/// A set of limits, checked as a whole.
///
/// ```
/// use allotment::{Limit, Policy};
///
/// let built = Policy::new().limit(Limit::new("user").scope(["user"]).images(20)).require("user");
/// let read = Policy::from_toml(r#"
///     require = ["user"]              # attributes every subject must have
///     margin = 0.0                    # for limits that do not say their own
///
///     [[limit]]
///     name = "user"
///     scope = ["org", "user"]
///     images = 20
///     window = "60s"
/// "#)?;
/// assert_eq!(read.limits(), built.limits());
/// # Ok::<(), allotment::Error>(())
/// ```
///
/// Deserialised by other means than [`from_toml`](Self::from_toml), it is checked when a limiter takes it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    require: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    margin: Option<f64>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    hide_org: bool,
    #[serde(rename = "limit", default)]
    limits: Vec<Limit>,
    #[serde(rename = "priority", default, skip_serializing_if = "BTreeMap::is_empty")]
    priorities: BTreeMap<String, Priority>,
    #[serde(rename = "weight", default, skip_serializing_if = "Vec::is_empty")]
    weights: Vec<Weight>,
}

impl Policy {
    /// The most limits a policy may have.
    pub const LIMITS_MAX: usize = 64;

    /// A policy without limits, to which at least one must be added.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a limit.
    #[must_use]
    pub fn limit(mut self, limit: Limit) -> Self {
        self.limits.push(limit);
        self
    }

    /// Refuses subjects that lack this attribute, instead of not holding them by the limits that count by it.
    #[must_use]
    pub fn require(mut self, attribute: impl Into<String>) -> Self {
        self.require.push(attribute.into());
        self
    }

    /// The margin of limits that do not say their own: see [`Limit::margin`]. Default: 0.
    #[must_use]
    pub fn margin(mut self, share: f64) -> Self {
        self.margin = Some(share);
        self
    }

    /// Leaves figures of limits whose scope lacks `user` out of what a denial or permit shows. Default: shows them.
    #[must_use]
    pub fn hide_org(mut self) -> Self {
        self.hide_org = true;
        self
    }

    /// Adds or changes a priority class: its calls leave `headroom` of each amount, at least 0 and below 1, to the others.
    ///
    /// The name is spelled as a limit's; there may be 16 besides the standard ones. Default: `interactive` with 0 and `batch` with 0.1.
    #[must_use]
    pub fn priority(mut self, name: impl Into<String>, headroom: f64) -> Self {
        self.priorities.insert(name.into(), Priority { headroom });
        self
    }

    /// Adds a weight, 1 to 1,000, in the fair shares of users whose `attribute` has this value.
    ///
    /// The first one that holds a user counts; at most 64. Default: 1 for everyone.
    #[must_use]
    pub fn weight(mut self, weight: u32, attribute: impl Into<String>, value: impl Into<String>) -> Self {
        let when = BTreeMap::from([(attribute.into(), Choices([value.into()].into()))]);
        self.weights.push(Weight { weight: Integer(weight.into()), when });
        self
    }

    /// Reads a policy file and checks it as a whole.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid), with the line, the limit, the key, its value and what is allowed.
    pub fn from_toml(text: &str) -> Result<Self, Error> {
        file::read(text)
    }

    /// The policy file that reads back as this policy.
    #[must_use]
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("a policy has only texts, integers and floats under text keys")
    }

    /// Checks the policy as a whole: each limit, and that no limit repeats or hides another.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) for the first fault, naming the limits it involves.
    pub fn validate(&self) -> Result<(), Error> {
        validate::check(self).map_err(|fault| Error::invalid(fault.message))
    }

    /// The limits, in the order they were added.
    #[must_use]
    pub fn limits(&self) -> &[Limit] {
        &self.limits
    }

    /// The known limits of one upstream tier, such as `openai-2026-tier-3`.
    ///
    /// Presets count by org and model, so they require subjects with a model.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) for an unknown name, listing the names there are.
    pub fn preset(name: &str) -> Result<Self, Error> {
        tiers::find(name)
    }

    /// All presets, each with where its figures come from.
    pub fn presets() -> impl Iterator<Item = Preset> {
        tiers::all().iter().cloned()
    }

    /// Checks the policy and works out what to enforce.
    pub(crate) fn compile(self) -> Result<Compiled, Error> {
        self.validate()?;
        Ok(Compiled::new(&self))
    }

    /// The share of its amounts that `limit` does not enforce.
    fn margin_of(&self, limit: &Limit) -> f64 {
        limit.margin.or(self.margin).unwrap_or(0.0)
    }
}
