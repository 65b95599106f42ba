//! One named rule: how much of which resources may be used per window, and who shares it.
//!
//! Invariant: the scope starts with the org. Lacks checks on purpose: a limit is checked with its whole
//! [`Policy`](crate::Policy), so that a fault can name the other limits it involves.

mod spelling;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

pub(crate) use self::spelling::{Choices, Integer, Period, Scope};
use crate::{cost::Cost, resource::Resource};

/// How much of a resource a limit allows per window.
type Amount = Integer<0, { Cost::AMOUNT_MAX }>;

/// A named rule: amounts of one or more resources per rolling window, or calls under way, counted by the attributes of its scope.
///
/// ```
/// use std::time::Duration;
/// use allotment::Limit;
///
/// let limit = Limit::new("user")
///     .scope(["user"])
///     .requests(15)
///     .tokens(500_000)
///     .amount("spend_micros", 5_000_000)
///     .window(Duration::from_secs(60));
/// assert_eq!(limit.name(), "user");
/// ```
///
/// The same limit in TOML. Each key but `name` has a default; at least one resource is needed.
///
/// ```toml
/// [[limit]]
/// name = "user"
/// scope = ["org", "user"]
/// requests = 15
/// tokens = 500_000
/// in_flight = 8
/// custom = { spend_micros = 5_000_000 }
/// window = "60s"
/// margin = 0.05
/// smooth = "1s"
/// fair_share = false
/// shadow = false
/// when = { tier = ["free", "trial"] }
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limit {
    pub(crate) name: Arc<str>,
    #[serde(default)]
    pub(crate) scope: Scope,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    requests: Option<Amount>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tokens: Option<Amount>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    images: Option<Amount>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    in_flight: Option<Integer<0, { Limit::IN_FLIGHT_MAX }>>,
    #[serde(default)]
    pub(crate) window: Period,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) margin: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) smooth: Option<Period>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) fair_share: bool,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) shadow: bool,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    custom: BTreeMap<String, Amount>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) when: BTreeMap<String, Choices>,
}

impl Limit {
    /// The shortest window: 1 s.
    pub const WINDOW_MIN: Duration = Duration::from_secs(1);
    /// The longest window: 31 days.
    pub const WINDOW_MAX: Duration = Duration::from_secs(31 * 24 * 60 * 60);
    /// The longest name, in bytes.
    pub const NAME_BYTES_MAX: usize = 64;
    /// The most calls that may be allowed under way at one time.
    pub(crate) const IN_FLIGHT_MAX: u64 = 100_000;

    /// A limit of the whole org that counts nothing yet.
    ///
    /// The name is 1 to 64 of `a-z`, `0-9`, `-`, `_` and `.`; it appears in denials, metrics and messages.
    #[must_use]
    pub fn new(name: impl Into<Arc<str>>) -> Self {
        Self {
            name: name.into(),
            scope: Scope::default(),
            requests: None,
            tokens: None,
            images: None,
            in_flight: None,
            window: Period::default(),
            margin: None,
            smooth: None,
            fair_share: false,
            shadow: false,
            custom: BTreeMap::new(),
            when: BTreeMap::new(),
        }
    }

    /// Counts by these attributes of the subject: `user`, `model` or named ones. The org may be named and is always first.
    ///
    /// The order of the others does not matter. A subject that lacks one of them is not held by the limit. Default: `["org"]`.
    #[must_use]
    pub fn scope(mut self, attributes: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.scope = attributes.into_iter().map(Into::into).collect::<Vec<_>>().into();
        self
    }

    /// Allows `amount` of `resource` per window, 0 to 2^47. With 0 no call that asks for it is admitted.
    ///
    /// A custom resource is named by 1 to 32 of `a-z`, `0-9`, `_`, a letter first. For calls under way see
    /// [`in_flight`](Self::in_flight).
    #[must_use]
    pub fn amount(mut self, resource: impl Into<Resource>, amount: u64) -> Self {
        match resource.into() {
            Resource::Requests => self.requests = Some(Integer(amount)),
            Resource::Tokens => self.tokens = Some(Integer(amount)),
            Resource::Images => self.images = Some(Integer(amount)),
            Resource::InFlight => self.in_flight = Some(Integer(amount)),
            Resource::Custom(name) => drop(self.custom.insert(name.as_ref().to_owned(), Integer(amount))),
        }
        self
    }

    /// Allows `requests` requests per window.
    #[must_use]
    pub fn requests(self, requests: u64) -> Self {
        self.amount(Resource::Requests, requests)
    }

    /// Allows `tokens` tokens per window.
    #[must_use]
    pub fn tokens(self, tokens: u64) -> Self {
        self.amount(Resource::Tokens, tokens)
    }

    /// Allows `images` images per window.
    #[must_use]
    pub fn images(self, images: u64) -> Self {
        self.amount(Resource::Images, images)
    }

    /// Allows `calls` calls under way at one time, 0 to 100,000. The window, the margin and smoothing do not matter to it.
    #[must_use]
    pub fn in_flight(self, calls: u64) -> Self {
        self.amount(Resource::InFlight, calls)
    }

    /// The rolling time span it counts over: 1 s to 31 days, in whole milliseconds. Default: 60 s.
    #[must_use]
    pub fn window(mut self, window: Duration) -> Self {
        self.window = Period(window);
        self
    }

    /// Enforces `1 - share` of each amount, for the jitter between decision and arrival. Default: the policy's margin.
    ///
    /// The share is at least 0 and below 1 and is taken in parts per million; what is enforced is rounded down, but stays at
    /// least 1 unless the amount is 0. With 0.05, 250 becomes 237.
    #[must_use]
    pub fn margin(mut self, share: f64) -> Self {
        self.margin = Some(share);
        self
    }

    /// Also enforces the proportional share over this shorter window, rounded up. Default: not.
    ///
    /// For an upstream that applies a minute's limit to each second: 60,000 in 60 s smoothed over 1 s allows 1,000 in any second.
    #[must_use]
    pub fn smooth(mut self, window: Duration) -> Self {
        self.smooth = Some(Period(window));
        self
    }

    /// Shares the limit fairly among the users under it, by their [weights](crate::Policy::weight). Default: not.
    ///
    /// It is work-conserving: a lone user gets the whole pool. It needs a scope without `user`, and does not share calls under way.
    #[must_use]
    pub fn fair_share(mut self) -> Self {
        self.fair_share = true;
        self
    }

    /// Counts and reports, but does not deny: for trying a limit out. Default: denies.
    #[must_use]
    pub fn shadow(mut self) -> Self {
        self.shadow = true;
        self
    }

    /// Holds only subjects whose `attribute` has this value.
    ///
    /// Called again for the same attribute it adds another accepted value; for another attribute, both must match.
    #[must_use]
    pub fn when(mut self, attribute: impl Into<String>, value: impl Into<String>) -> Self {
        self.when.entry(attribute.into()).or_default().0.insert(value.into());
        self
    }

    /// The name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it counts, in the order of decisions: requests, tokens, images, calls under way, then custom resources by name.
    pub fn resources(&self) -> impl Iterator<Item = Resource> + '_ {
        let standard = [Resource::Requests, Resource::Tokens, Resource::Images, Resource::InFlight];
        let standard = standard.into_iter().filter(|resource| self.amount_of(resource).is_some());
        standard.chain(self.custom.keys().map(|name| Resource::Custom(name.as_str().into())))
    }

    /// What it counts per window: all but calls under way.
    pub(crate) fn windowed(&self) -> impl Iterator<Item = Resource> + '_ {
        self.resources().filter(|resource| *resource != Resource::InFlight)
    }

    /// The stated amount of `resource` per window, before the margin; of calls under way, at one time.
    #[must_use]
    pub fn amount_of(&self, resource: &Resource) -> Option<u64> {
        let amount = match resource {
            Resource::Requests => self.requests,
            Resource::Tokens => self.tokens,
            Resource::Images => self.images,
            Resource::InFlight => return self.in_flight.map(|calls| calls.0),
            Resource::Custom(name) => self.custom.get(name.as_ref()).copied(),
        };
        amount.map(|amount| amount.0)
    }
}

/// What is enforced of a stated amount: less the margin, rounded down, but at least 1 unless the amount is 0.
///
/// The margin becomes whole parts per million first: as floats, 100 less 0.34 of it would round down to 65.
pub(crate) fn enforced(amount: u64, margin: f64) -> u64 {
    // A float that is out of range or not a number saturates; such a margin is refused before anything is enforced.
    less(amount, (margin * 1e6).round() as u32)
}

/// An amount less so many parts per million of it, rounded down, but at least 1 unless the amount is 0.
pub(crate) fn less(amount: u64, ppm: u32) -> u64 {
    const MILLION: u32 = 1_000_000;
    let product = u128::from(amount) * u128::from(MILLION.saturating_sub(ppm)) / u128::from(MILLION);
    // at most `amount`
    u64::try_from(product).unwrap_or(amount).max(amount.min(1))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_margin_is_exact_where_floats_are_not() {
        assert_eq!(enforced(100, 0.05), 95);
        assert_eq!(enforced(100, 0.34), 66);
        assert_eq!(enforced(250, 0.05), 237);
        assert_eq!(enforced(1_000, 0.29), 710);
        assert_eq!(enforced(1 << 47, 0.0), 1 << 47);
    }

    #[test]
    fn a_margin_leaves_at_least_one_unless_the_amount_is_zero() {
        assert_eq!(enforced(1, 0.5), 1);
        assert_eq!(enforced(10, 0.999_999_9), 1);
        assert_eq!(enforced(0, 0.5), 0);
    }

    proptest! {
        #[test]
        fn a_margin_in_parts_per_million_is_the_integer_share(amount in 0..=1_u64 << 47, ppm in 0..1_000_000_u64) {
            let exact = u128::from(amount) * u128::from(1_000_000 - ppm) / 1_000_000;
            let exact = u64::try_from(exact).unwrap().max(amount.min(1));
            prop_assert_eq!(enforced(amount, ppm as f64 / 1e6), exact);
        }

        #[test]
        fn a_larger_margin_never_enforces_more(amount in 0..=1_u64 << 47, a in 0.0..1.0, b in 0.0..1.0) {
            let (small, large): (f64, f64) = if a < b { (a, b) } else { (b, a) };
            prop_assert!(enforced(amount, large) <= enforced(amount, small));
            prop_assert!(enforced(amount, small) <= amount);
        }
    }

    #[test]
    fn the_org_is_always_first_and_need_not_be_named() {
        let scope = |attributes: &[&str]| Limit::new("a").scope(attributes.iter().copied()).scope;
        assert_eq!(Limit::new("a").scope, scope(&["org"]));
        assert_eq!(scope(&["user"]).0, ["org", "user"]);
        assert_eq!(scope(&["model", "org", "user"]).0, ["org", "model", "user"]);
    }

    #[test]
    fn resources_come_in_the_order_of_decisions() {
        let limit = Limit::new("a").amount("b", 1).in_flight(5).images(2).amount("a", 3).requests(4);
        let names: Vec<_> = limit.resources().map(|resource| resource.to_string()).collect();
        assert_eq!(names, ["requests", "images", "in_flight", "a", "b"]);
        assert_eq!(limit.amount_of(&Resource::InFlight), Some(5));
        assert_eq!(limit, limit.clone().amount("in_flight", 5));
        assert_eq!(limit.amount_of(&"b".into()), Some(1));
        assert_eq!(limit.amount_of(&Resource::Tokens), None);
    }
}
