//! What a policy enforces: one rule per limit and resource, one more where the limit is smoothed, and slots for calls under way.
//!
//! Invariant: rules and slots come from a policy that passed `validate`, in policy order; scopes are sorted, so that equal scopes are
//! equal.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use crate::{
    error::Error,
    limit::{Choices, Limit, enforced},
    policy::{Policy, priority::Headrooms, weight::Weight},
    resource::Resource,
    subject::Subject,
};

/// What a checked policy enforces.
#[derive(Debug)]
pub(crate) struct Compiled {
    pub(crate) rules: Vec<Rule>,
    /// Attributes that every subject must have.
    pub(crate) require: Vec<Box<str>>,
    /// How many calls may be under way.
    pub(crate) in_flight: Vec<Slots>,
    /// Whether figures of limits that do not count by user are left out of what a denial or permit shows.
    pub(crate) hide_org: bool,
    /// The attributes that decide which limits hold a subject and what they count by, sorted; the org left out.
    pub(crate) attributes: Vec<Box<str>>,
    /// The longest window, at least a minute.
    pub(crate) longest_ms: u64,
    headrooms: Headrooms,
    weights: Vec<Weight>,
}

impl Compiled {
    pub(super) fn new(policy: &Policy) -> Self {
        let (mut rules, mut in_flight) = (Vec::new(), Vec::new());
        for limit in &policy.limits {
            let (scope, when) = (scope_of(limit), Arc::new(limit.when.clone()));
            in_flight.extend(slots_of(limit, &scope, &when));
            rules.extend(rules_of(limit, policy.margin_of(limit), &scope, &when));
        }
        let rule_windows = rules.iter().map(|rule: &Rule| rule.window_ms);
        Self {
            attributes: attributes_of(policy),
            longest_ms: rule_windows.max().unwrap_or(0).max(60_000),
            rules,
            require: policy.require.iter().map(|attribute| attribute.as_str().into()).collect(),
            in_flight,
            hide_org: policy.hide_org,
            headrooms: Headrooms::new(&policy.priorities),
            weights: policy.weights.clone(),
        }
    }

    /// The share of each amount that calls of this priority class leave to the others: in parts per million, below a million.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) for an unknown class, listing the classes there are.
    pub(crate) fn headroom(&self, class: &str) -> Result<u32, Error> {
        self.headrooms.of(class)
    }

    /// What the subject's user weighs in fair shares: 1 to 1,000.
    pub(crate) fn weight_of(&self, subject: &Subject) -> u32 {
        let first = self.weights.iter().find(|weight| matches(&weight.when, subject));
        first.and_then(|first| u32::try_from(first.weight.0).ok()).unwrap_or(1)
    }
}

/// An amount of one resource that one window of one scope may hold.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Rule {
    /// The limit's name; its smoothing rule has the same.
    pub(crate) name: Arc<str>,
    pub(crate) resource: Resource,
    /// What is enforced: the stated amount less its margin, or the smoothed share of that.
    pub(crate) amount: u64,
    /// What the policy states, before the margin.
    pub(crate) stated: u64,
    pub(crate) window_ms: u64,
    /// Whether it is a limit's short window. A single cost above `amount` is tested there as if equal to it.
    pub(crate) smoothing: bool,
    /// Whether users share the amount fairly. A smoothing rule is not shared.
    pub(crate) fair: bool,
    /// Whether it counts and reports, but does not deny.
    pub(crate) shadow: bool,
    /// The attributes it counts by besides the org, sorted.
    pub(crate) scope: Arc<[Box<str>]>,
    /// The attributes that must have one of the given values.
    pub(crate) when: Arc<BTreeMap<String, Choices>>,
}

impl Rule {
    /// Whether the subject has every attribute of the scope, and those of `when` with an accepted value.
    pub(crate) fn applies_to(&self, subject: &Subject) -> bool {
        holds(&self.scope, &self.when, subject)
    }

    /// Whether it counts a pool as an upstream does: by org and model only.
    pub(crate) fn counts_as_upstream(&self) -> bool {
        let names = self.scope.iter().map(AsRef::as_ref).chain(self.when.keys().map(String::as_str));
        names.into_iter().all(|attribute| attribute == "model") && !self.smoothing
    }

    /// Its scope and the user, sorted: by what each user's part of it is counted.
    pub(crate) fn scope_of_each_user(&self) -> Arc<[Box<str>]> {
        if self.scope.iter().any(|attribute| &**attribute == "user") {
            return Arc::clone(&self.scope);
        }
        sorted(self.scope.iter().map(AsRef::as_ref).chain(["user"]))
    }
}

/// How many calls may be under way at one time in one scope.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Slots {
    /// The limit's name; its rules have the same.
    pub(crate) name: Arc<str>,
    /// The stated amount: no margin applies.
    pub(crate) amount: u64,
    /// The attributes it counts by besides the org, sorted.
    pub(crate) scope: Arc<[Box<str>]>,
    /// The attributes that must have one of the given values.
    pub(crate) when: Arc<BTreeMap<String, Choices>>,
    /// Whether it counts and reports, but does not deny.
    pub(crate) shadow: bool,
}

impl Slots {
    /// Whether the subject has every attribute of the scope, and those of `when` with an accepted value.
    pub(crate) fn applies_to(&self, subject: &Subject) -> bool {
        holds(&self.scope, &self.when, subject)
    }
}

fn holds(scope: &[Box<str>], when: &BTreeMap<String, Choices>, subject: &Subject) -> bool {
    scope.iter().all(|attribute| subject.value(attribute).is_some()) && matches(when, subject)
}

fn matches(when: &BTreeMap<String, Choices>, subject: &Subject) -> bool {
    let accepts = |(attribute, accepted): (&String, &Choices)| {
        subject.value(attribute).is_some_and(|value| accepted.0.contains(value))
    };
    when.iter().all(accepts)
}

/// Every attribute that a limit or a weight names, and the user.
fn attributes_of(policy: &Policy) -> Vec<Box<str>> {
    let of_limits = policy
        .limits
        .iter()
        .flat_map(|limit| limit.scope.0[1..].iter().map(AsRef::as_ref).chain(limit.when.keys().map(String::as_str)));
    let of_weights = policy.weights.iter().flat_map(|weight| weight.when.keys().map(String::as_str));
    let required = policy.require.iter().map(String::as_str);
    let all = of_limits.chain(of_weights).chain(required).chain(["user"]).filter(|name| *name != "org");
    // sorted and each once
    all.map(Box::from).collect::<BTreeSet<Box<str>>>().into_iter().collect()
}

/// The attributes besides the org.
fn scope_of(limit: &Limit) -> Arc<[Box<str>]> {
    sorted(limit.scope.0[1..].iter().map(AsRef::as_ref))
}

fn sorted<'a>(attributes: impl Iterator<Item = &'a str>) -> Arc<[Box<str>]> {
    let mut scope: Vec<Box<str>> = attributes.map(Into::into).collect();
    scope.sort_unstable();
    scope.into()
}

fn slots_of(limit: &Limit, scope: &Arc<[Box<str>]>, when: &Arc<BTreeMap<String, Choices>>) -> Option<Slots> {
    let amount = limit.amount_of(&Resource::InFlight)?;
    let (name, shadow) = (limit.name.clone(), limit.shadow);
    Some(Slots { name, amount, scope: scope.clone(), when: when.clone(), shadow })
}

/// Per resource the main rule, then the smoothing rule if there is one.
fn rules_of(limit: &Limit, margin: f64, scope: &Arc<[Box<str>]>, when: &Arc<BTreeMap<String, Choices>>) -> Vec<Rule> {
    let window_ms = limit.window.millis();
    let mut rules = Vec::new();
    for resource in limit.windowed() {
        let stated = limit.amount_of(&resource).unwrap_or_default();
        let main = Rule {
            name: limit.name.clone(),
            amount: enforced(stated, margin),
            stated,
            resource,
            window_ms,
            smoothing: false,
            fair: limit.fair_share,
            shadow: limit.shadow,
            scope: scope.clone(),
            when: when.clone(),
        };
        let smooth = limit.smooth.map(|smooth| Rule {
            amount: share(main.amount, smooth.millis(), window_ms),
            window_ms: smooth.millis(),
            smoothing: true,
            fair: false,
            ..main.clone()
        });
        rules.push(main);
        rules.extend(smooth);
    }
    rules
}

/// `amount * part / whole`, rounded up: at least 1 unless one of them is 0.
pub(crate) fn share(amount: u64, part: u64, whole: u64) -> u64 {
    let rounded_up = (u128::from(amount) * u128::from(part)).div_ceil(u128::from(whole));
    u64::try_from(rounded_up).unwrap_or(amount)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn rules(policy: Policy) -> Vec<Rule> {
        policy.compile().unwrap().rules
    }

    fn summary(rules: &[Rule]) -> Vec<(&str, &str, u64, u64, bool)> {
        let rows = rules.iter().map(|rule| {
            let Rule { name, resource, amount, window_ms, smoothing, .. } = rule;
            (name.as_ref(), resource.name(), *amount, *window_ms, *smoothing)
        });
        rows.collect()
    }

    #[test]
    fn each_resource_has_its_rule_and_then_its_smoothing_rule() {
        let smooth = Limit::new("a").amount("spend", 7).images(1).requests(60_000).smooth(Duration::from_secs(1));
        let plain = Limit::new("b").tokens(10).window(Duration::from_secs(7));
        assert_eq!(
            summary(&rules(Policy::new().limit(smooth).limit(plain))),
            [
                ("a", "requests", 60_000, 60_000, false),
                ("a", "requests", 1_000, 1_000, true),
                ("a", "images", 1, 60_000, false),
                ("a", "images", 1, 1_000, true),
                ("a", "spend", 7, 60_000, false),
                ("a", "spend", 1, 1_000, true),
                ("b", "tokens", 10, 7_000, false),
            ]
        );
    }

    #[test]
    fn calls_under_way_are_no_rule_and_have_no_margin() {
        let both = Limit::new("both").scope(["user"]).images(100).in_flight(7).when("tier", "free").shadow();
        let only = Limit::new("only").in_flight(100_000).window(Duration::from_secs(7));
        let compiled = Policy::new().margin(0.5).limit(both).limit(only).compile().unwrap();
        assert_eq!(summary(&compiled.rules), [("both", "images", 50, 60_000, false)]);
        let slots: Vec<_> = compiled.in_flight.iter().map(|slots| (&*slots.name, slots.amount, slots.shadow)).collect();
        assert_eq!(slots, [("both", 7, true), ("only", 100_000, false)]);
        let [both, only] = &*compiled.in_flight else { panic!("two limits of calls under way") };
        let subject = Subject::org("acme").attribute("tier", "free");
        assert!(only.applies_to(&subject) && !both.applies_to(&subject));
        assert!(both.applies_to(&subject.clone().user("alice")));
        assert!(!both.applies_to(&subject.user("alice").attribute("tier", "paid")));
    }

    #[test]
    fn a_fair_limit_shares_its_main_rules_and_a_shadow_limit_shadows_all() {
        let fair = Limit::new("fair").scope(["tenant", "zone"]).images(1).tokens(2).smooth(Duration::from_secs(1));
        let flags = |limit: Limit| {
            let rules = rules(Policy::new().limit(limit));
            rules.iter().map(|rule| (rule.fair, rule.smoothing, rule.shadow)).collect::<Vec<_>>()
        };
        let (main, smoothing) = ((true, false, false), (false, true, false));
        assert_eq!(flags(fair.clone().fair_share()), [main, smoothing, main, smoothing]);
        let (main, smoothing) = ((false, false, true), (false, true, true));
        assert_eq!(flags(fair.clone().shadow()), [main, smoothing, main, smoothing]);
        let rule = &rules(Policy::new().limit(fair))[0];
        assert_eq!(*rule.scope_of_each_user(), ["tenant", "user", "zone"].map(Box::<str>::from));
    }

    #[test]
    fn what_is_hidden_is_carried_along() {
        let hides = |policy: Policy| policy.limit(Limit::new("a").images(1)).compile().unwrap().hide_org;
        assert!(hides(Policy::new().hide_org()) && !hides(Policy::new()));
    }

    #[test]
    fn smoothing_shares_what_the_margin_leaves() {
        let limit = Limit::new("a").tokens(100_000).margin(0.05).smooth(Duration::from_secs(1));
        let amounts: Vec<_> = rules(Policy::new().limit(limit)).iter().map(|rule| rule.amount).collect();
        assert_eq!(amounts, [95_000, 1_584]); // 1583.3 rounded up
    }

    #[test]
    fn a_limit_of_nothing_stays_nothing_when_smoothed() {
        let limit = Limit::new("a").images(0).smooth(Duration::from_secs(1));
        assert!(rules(Policy::new().limit(limit)).iter().all(|rule| rule.amount == 0));
    }

    #[test]
    fn a_limits_margin_replaces_the_policys() {
        let policy = Policy::new()
            .margin(0.1)
            .limit(Limit::new("default").requests(100))
            .limit(Limit::new("own").images(100).margin(0.0));
        let amounts: Vec<_> = rules(policy).iter().map(|rule| rule.amount).collect();
        assert_eq!(amounts, [90, 100]);
    }

    #[test]
    fn scopes_in_any_order_are_one_scope() {
        let policy = Policy::new()
            .limit(Limit::new("a").scope(["org", "user", "model"]).requests(1))
            .limit(Limit::new("b").scope(["model", "user"]).tokens(1));
        let rules = rules(policy);
        assert_eq!(rules[0].scope, rules[1].scope);
        assert_eq!(*rules[0].scope, [Box::<str>::from("model"), Box::from("user")]);
    }

    #[test]
    fn a_rule_holds_subjects_that_have_its_scope() {
        let rule = &rules(Policy::new().limit(Limit::new("a").scope(["user", "tenant"]).requests(1)))[0];
        let subject = Subject::org("acme").user("alice");
        assert!(!rule.applies_to(&subject));
        assert!(rule.applies_to(&subject.attribute("tenant", "blue")));
    }

    #[test]
    fn a_rule_holds_subjects_that_match_all_of_when() {
        let limit = Limit::new("a").requests(1).when("tier", "free").when("tier", "trial").when("model", "m");
        let rule = &rules(Policy::new().limit(limit))[0];
        let subject = Subject::org("acme").model("m");
        assert!(!rule.applies_to(&subject));
        assert!(!rule.applies_to(&subject.clone().attribute("tier", "paid")));
        assert!(!rule.applies_to(&Subject::org("acme").model("other").attribute("tier", "free")));
        assert!(rule.applies_to(&subject.clone().attribute("tier", "free")));
        assert!(rule.applies_to(&subject.attribute("tier", "trial")));
    }
}
