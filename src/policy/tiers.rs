//! What upstreams are known to allow per tier, as data in `tiers.toml`.
//!
//! Invariant: every preset is a valid policy and says where its figures come from. A tier without figures has no preset.

use std::sync::LazyLock;

use serde::{Deserialize, Serialize};

use crate::{error::Error, policy::Policy};

/// The known limits of one upstream tier.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Preset {
    /// The name to give to [`Policy::preset`].
    pub name: String,
    /// What an account needs to be in this tier, in words.
    pub access: String,
    /// Where the figures come from.
    pub source: String,
    /// How far to trust them.
    pub certainty: Certainty,
    policy: Policy,
}

impl Preset {
    /// The tier's limits as a policy.
    #[must_use]
    pub fn policy(&self) -> Policy {
        self.policy.clone()
    }
}

/// How far to trust a figure, from the most to the least.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Certainty {
    /// Published by the upstream itself. Its figures may have changed since.
    Official,
    /// Calculated from figures that are published.
    Derived,
    /// Written down by someone else. Compare it with the limits page of your own account.
    Reported,
    /// Nobody is known to have checked it, or what is known conflicts.
    Unverified,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Tiers {
    preset: Vec<Preset>,
}

static TIERS: LazyLock<Tiers> =
    LazyLock::new(|| toml::from_str(include_str!("tiers.toml")).expect("a test reads the embedded file"));

pub(super) fn all() -> &'static [Preset] {
    &TIERS.preset
}

pub(super) fn find(name: &str) -> Result<Policy, Error> {
    if let Some(preset) = all().iter().find(|preset| preset.name == name) {
        return Ok(preset.policy());
    }
    let names: Vec<_> = all().iter().map(|preset| preset.name.as_str()).collect();
    Err(Error::invalid(format!("preset {name:?}: there are {}", names.join(", "))))
}
