//! The set of limits that hold an org, from code, from TOML or from a preset.
//!
//! Invariant: nothing enforces a policy that did not pass `validate`. Lacks stores and subjects' state: a policy is a plain value.

mod compiled;
mod file;
mod source;
mod tiers;
mod validate;

use serde::{Deserialize, Serialize};

pub(crate) use self::compiled::{Compiled, Rule};
pub use self::{
    source::PolicySource,
    tiers::{Certainty, Preset},
};
use crate::{error::Error, limit::Limit};

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
    #[serde(rename = "limit", default)]
    limits: Vec<Limit>,
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
