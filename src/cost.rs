//! How much of each resource a call takes.
//!
//! Invariant: a cost that passed `validate` has amounts of at most 2^47, so that sums of them stay exact in Lua,
//! and does not name calls under way.

use std::{collections::BTreeMap, sync::Arc};

use crate::{error::Error, resource::Resource};

/// How much of each resource one call takes.
///
/// A cost counts one request unless it says otherwise. At [`Permit::commit`](crate::Permit::commit) a resource that is not named keeps
/// its estimate. Amounts are 0 to 2^47 and are checked when the cost is used.
///
/// ```
/// use allotment::{Cost, Resource};
///
/// let cost = Cost::images(1).tokens(1756);
/// assert_eq!(cost.of(&Resource::Requests), 1);
/// assert_eq!(cost.of(&Resource::Tokens), 1756);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Cost {
    requests: Option<u64>,
    tokens: Option<u64>,
    images: Option<u64>,
    custom: BTreeMap<Arc<str>, u64>,
}

impl Cost {
    /// The largest amount of a cost or a limit: 2^47.
    pub const AMOUNT_MAX: u64 = 1 << 47;

    /// One request and nothing else.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// One request for `images` images.
    #[must_use]
    pub fn images(images: u64) -> Self {
        Self { images: Some(images), ..Self::default() }
    }

    /// Takes `tokens` tokens.
    #[must_use]
    pub fn tokens(mut self, tokens: u64) -> Self {
        self.tokens = Some(tokens);
        self
    }

    /// Counts as `requests` requests instead of one.
    #[must_use]
    pub fn requests(mut self, requests: u64) -> Self {
        self.requests = Some(requests);
        self
    }

    /// Takes `amount` of any resource, a custom one included. Calls under way are refused when the cost is used.
    #[must_use]
    pub fn amount(mut self, resource: impl Into<Resource>, amount: u64) -> Self {
        match resource.into() {
            Resource::Requests => self.requests = Some(amount),
            Resource::Tokens => self.tokens = Some(amount),
            Resource::Images => self.images = Some(amount),
            // kept under its name, for `validate` to refuse
            Resource::InFlight => drop(self.custom.insert(Resource::InFlight.name().into(), amount)),
            Resource::Custom(name) => drop(self.custom.insert(name, amount)),
        }
        self
    }

    /// How much of `resource` it takes: one request unless said otherwise, and nothing of what is not named.
    #[must_use]
    pub fn of(&self, resource: &Resource) -> u64 {
        let unnamed = u64::from(*resource == Resource::Requests);
        self.named(resource).unwrap_or(unnamed)
    }

    /// How much of `resource` it names.
    pub(crate) fn named(&self, resource: &Resource) -> Option<u64> {
        match resource {
            Resource::Requests => self.requests,
            Resource::Tokens => self.tokens,
            Resource::Images => self.images,
            Resource::InFlight => None,
            Resource::Custom(name) => self.custom.get(name).copied(),
        }
    }

    /// The amounts in the three places every ledger has: requests, tokens, images.
    pub(crate) fn places(&self) -> [u64; 3] {
        [self.requests.unwrap_or(1), self.tokens.unwrap_or(0), self.images.unwrap_or(0)]
    }

    pub(crate) fn validate(&self) -> Result<(), Error> {
        if let Some(amount) = self.custom.get(Resource::InFlight.name()) {
            return Err(Error::invalid(format!(
                "cost of {amount} in_flight: a cost does not name calls under way, as every call is one while it lasts"
            )));
        }
        let standard = [("requests", self.requests), ("tokens", self.tokens), ("images", self.images)];
        let custom = self.custom.iter().map(|(name, amount)| (name.as_ref(), Some(*amount)));
        for (name, amount) in standard.into_iter().chain(custom) {
            if amount.is_some_and(|amount| amount > Self::AMOUNT_MAX) {
                return Err(Error::invalid(format!(
                    "cost of {} {name}: an amount is 0 to {} (2^47)",
                    amount.unwrap_or_default(),
                    Self::AMOUNT_MAX
                )));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cost_that_names_calls_under_way_is_refused() {
        let refused = |cost: Cost| cost.validate().map_err(|error| error.to_string());
        let expected = "cost of 0 in_flight: a cost does not name calls under way, as every call is one while it lasts";
        for resource in [Resource::InFlight, Resource::Custom("in_flight".into()), "in_flight".into()] {
            let cost = Cost::new().amount(resource, 0);
            assert_eq!(cost.of(&Resource::InFlight), 0);
            assert_eq!(refused(cost), Err(expected.to_owned()));
        }
        assert_eq!(refused(Cost::images(1)), Ok(()));
    }
}
