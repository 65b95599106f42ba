//! The policy a demo runs under: the default one, how it is sped up, and its rules as the replay needs them.
//!
//! Invariant: a sped-up window is never shorter than 1 s and never shorter than its share, so that rounding enforces more, not less.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use allotment::{Limit, Policy, Resource, Subject};
use anyhow::{Context, Result, bail};
use serde::Deserialize;

use super::upstream::{Enforcement, MINUTE};

/// Tokens a minute for each image a minute, as in the upstream's published tiers (8,000,000 for 250).
pub(crate) const TOKENS_PER_IMAGE: u64 = 32_000;

/// What the default policy is made for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wishes {
    /// Images a minute of the whole org.
    pub(crate) quota: u64,
    pub(crate) users: u64,
    pub(crate) enforcement: Enforcement,
    /// The largest estimate of one call.
    pub(crate) images_max: u64,
    /// Whether somebody else uses the org's pool.
    pub(crate) has_stranger: bool,
}

/// One limit of the org's pool and one of each user.
///
/// What the upstream sees is not when a call was decided but when it arrived, so that each kind of enforcement gets the slack it needs: a
/// margin where use drains continuously, a longer window where calls that overtake each other at the window's edge would be refused.
pub(crate) fn default_policy(wishes: &Wishes) -> Policy {
    let Wishes { quota, users, enforcement, images_max, has_stranger } = *wishes;
    let org = Limit::new("org").scope(["org", "model"]).images(quota).tokens(quota * TOKENS_PER_IMAGE);
    let org = match enforcement {
        // What the API tells of its minute is taken by a limit of that window.
        Enforcement::Refill | Enforcement::Rolling if has_stranger => org.margin(0.05),
        // A share of few images is a whole image or none: a longer window costs less and holds even for one.
        Enforcement::Refill if quota < 50 => org.window(MINUTE.mul_f64(1.02)),
        Enforcement::Refill => org.margin(0.02),
        Enforcement::Rolling => org.margin(0.02).window(MINUTE.mul_f64(1.01)),
        Enforcement::OneSecond => org.margin(0.05).smooth(Duration::from_millis(1_050)),
        Enforcement::TenSeconds => org.margin(0.05).smooth(Duration::from_millis(10_500)),
    };
    let user = (quota / 5).max((4 * quota).div_ceil(users)).max(2 * images_max).min(quota);
    Policy::new().limit(org).limit(Limit::new("user").scope(["org", "user"]).images(user))
}

/// A limit on one resource, or its smoothing over a shorter window.
#[derive(Clone, Debug)]
pub(crate) struct Rule {
    pub(crate) name: String,
    pub(crate) resource: Resource,
    /// The stated amount: the margin is not taken off.
    pub(crate) amount: u64,
    /// The share of the amount that is not enforced.
    pub(crate) margin: f64,
    pub(crate) window: Duration,
    /// The window as the store sees it: sped up, in milliseconds.
    pub(crate) real_window_ms: u64,
    pub(crate) smoothing: bool,
    pub(crate) scope: Vec<String>,
    pub(crate) when: BTreeMap<String, BTreeSet<String>>,
}

impl Rule {
    /// Who shares this limit with the subject; `None` if the limit does not hold it.
    pub(crate) fn counts<'s>(&self, subject: &'s Subject) -> Option<Vec<&'s str>> {
        let accepted = |(attribute, values): (&String, &BTreeSet<String>)| {
            subject.value(attribute).is_some_and(|value| values.contains(value))
        };
        if !self.when.iter().all(accepted) {
            return None;
        }
        self.scope.iter().map(|attribute| subject.value(attribute)).collect()
    }

    #[cfg(test)]
    pub(crate) fn for_test(resource: Resource, amount: u64, real_window_ms: u64) -> Self {
        Self {
            name: "a".to_owned(),
            resource,
            amount,
            margin: 0.0,
            window: Duration::from_millis(real_window_ms),
            real_window_ms,
            smoothing: false,
            scope: vec!["org".to_owned()],
            when: BTreeMap::new(),
        }
    }
}

/// A policy as its file spells it.
#[derive(Deserialize)]
struct Spelled {
    #[serde(default)]
    require: Vec<String>,
    margin: Option<f64>,
    limit: Vec<SpelledLimit>,
}

#[derive(Deserialize)]
struct SpelledLimit {
    scope: Vec<String>,
    window: String,
    smooth: Option<String>,
    margin: Option<f64>,
    #[serde(default)]
    when: BTreeMap<String, Choices>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Choices {
    One(String),
    Some(BTreeSet<String>),
}

fn spelled(policy: &Policy) -> Result<Spelled> {
    let value = serde_json::to_value(policy)?;
    serde_json::from_value(value).context("a policy that this demo cannot read")
}

/// The attributes every subject must have.
pub(crate) fn required(policy: &Policy) -> Result<Vec<String>> {
    Ok(spelled(policy)?.require)
}

/// The rules of `policy` when time passes `speed` times as fast, in policy order.
pub(crate) fn rules(policy: &Policy, speed: f64) -> Result<Vec<Rule>> {
    let Spelled { margin, limit: spelled, .. } = spelled(policy)?;
    let mut rules = Vec::new();
    for (limit, spelled) in policy.limits().iter().zip(spelled) {
        let window = humantime::parse_duration(&spelled.window)?;
        let smooth = spelled.smooth.as_deref().map(humantime::parse_duration).transpose()?;
        let values = |choices| match choices {
            Choices::One(value) => BTreeSet::from([value]),
            Choices::Some(values) => values,
        };
        let when: BTreeMap<_, _> = spelled.when.into_iter().map(|(key, choices)| (key, values(choices))).collect();
        for resource in limit.resources() {
            let rule = Rule {
                name: limit.name().to_owned(),
                amount: limit.amount_of(&resource).unwrap_or_default(),
                resource,
                margin: spelled.margin.or(margin).unwrap_or_default(),
                window,
                real_window_ms: sped_up(window, speed),
                smoothing: false,
                scope: spelled.scope.clone(),
                when: when.clone(),
            };
            let smoothing = smooth.map(|smooth| {
                let share = (u128::from(rule.amount) * smooth.as_millis()).div_ceil(window.as_millis());
                let amount = u64::try_from(share).unwrap_or(rule.amount);
                let real_window_ms = sped_up(smooth, speed);
                Rule { amount, window: smooth, real_window_ms, smoothing: true, ..rule.clone() }
            });
            rules.push(rule);
            rules.extend(smoothing);
        }
    }
    Ok(rules)
}

/// The shortest window of `policy`, smoothing included, and the limit it belongs to.
pub(crate) fn shortest_window(policy: &Policy) -> Result<Option<(String, Duration)>> {
    let windows = rules(policy, 1.0)?.into_iter().map(|rule| (rule.name, rule.window));
    Ok(windows.min_by_key(|(_, window)| *window))
}

/// `policy` with its windows divided by `speed`.
pub(crate) fn at_speed(policy: &Policy, speed: f64) -> Result<Policy> {
    let mut value = serde_json::to_value(policy)?;
    let limits = value.get_mut("limit").and_then(|limits| limits.as_array_mut());
    for limit in limits.into_iter().flatten() {
        for key in ["window", "smooth"] {
            let Some(written) = limit.get_mut(key).filter(|written| written.is_string()) else { continue };
            let window = humantime::parse_duration(written.as_str().unwrap_or_default())?;
            *written = format!("{}ms", sped_up(window, speed)).into();
        }
    }
    let policy: Policy = serde_json::from_value(value)?;
    if let Err(error) = policy.validate() {
        bail!("at this speed the policy is not valid: {error}");
    }
    Ok(policy)
}

/// `window / speed` in milliseconds, rounded up.
fn sped_up(window: Duration, speed: f64) -> u64 {
    (window.as_secs_f64() * 1_000.0 / speed).ceil() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    const WISHES: Wishes =
        Wishes { quota: 250, users: 40, enforcement: Enforcement::Refill, images_max: 4, has_stranger: false };

    fn amounts(policy: &Policy, speed: f64) -> Vec<(String, u64, u64)> {
        let rules = rules(policy, speed).unwrap();
        rules
            .iter()
            .map(|rule| (format!("{} {}", rule.name, rule.resource), rule.amount, rule.real_window_ms))
            .collect()
    }

    #[test]
    fn the_default_policy_has_the_quota_and_a_limit_for_each_user() {
        let policy = default_policy(&WISHES);
        policy.validate().unwrap();
        assert_eq!(
            amounts(&policy, 20.0),
            [
                ("org tokens".to_owned(), 8_000_000, 3_000),
                ("org images".to_owned(), 250, 3_000),
                ("user images".to_owned(), 50, 3_000)
            ]
        );
        assert!(rules(&policy, 20.0).unwrap()[0].margin > 0.0);
    }

    #[test]
    fn the_default_policy_is_valid_for_any_quota_and_upstream() {
        for enforcement in [Enforcement::Refill, Enforcement::Rolling, Enforcement::OneSecond, Enforcement::TenSeconds]
        {
            for (quota, users) in [(1, 1), (1, 10_000), (5, 3), (250, 40), (100_000, 1), (100_000, 10_000)] {
                let policy = default_policy(&Wishes { quota, users, enforcement, ..WISHES });
                policy.validate().unwrap();
                let (_, shortest) = shortest_window(&policy).unwrap().unwrap();
                at_speed(&policy, shortest.as_secs_f64().floor()).unwrap();
            }
        }
    }

    #[test]
    fn a_quantised_upstream_gets_a_smooth_limit_that_stays_within_its_share() {
        for (enforcement, cap) in [(Enforcement::OneSecond, 250_u64.div_ceil(60)), (Enforcement::TenSeconds, 42)] {
            let rules = rules(&default_policy(&Wishes { enforcement, ..WISHES }), 1.0).unwrap();
            let smooth = rules.iter().find(|rule| rule.smoothing && rule.resource == Resource::Images).unwrap();
            let enforced = (237 * smooth.window.as_millis()).div_ceil(60_000);
            assert!(enforced <= u128::from(cap), "{enforced} of {cap}");
            assert!(smooth.window > enforcement.quantum().unwrap());
        }
    }

    #[test]
    fn windows_and_smoothing_are_divided_by_the_speed() {
        let text = "margin = 0.1\n[[limit]]\nname = \"a\"\nimages = 60\nwindow = \"7m\"\nsmooth = \"20s\"\n";
        let policy = Policy::from_toml(text).unwrap();
        let fast = at_speed(&policy, 7.0).unwrap();
        assert_eq!(amounts(&fast, 1.0), [("a images".to_owned(), 60, 60_000), ("a images".to_owned(), 3, 2_858)]);
        assert_eq!(shortest_window(&policy).unwrap(), Some(("a".to_owned(), Duration::from_secs(20))));
        assert_eq!(rules(&policy, 7.0).unwrap()[1].margin, 0.1);
    }

    #[test]
    fn a_rule_counts_subjects_by_its_scope_and_filter() {
        let text = "[[limit]]\nname = \"a\"\nimages = 1\nscope = [\"user\"]\nwhen = { tier = [\"free\", \"trial\"] }\n";
        let rule = &rules(&Policy::from_toml(text).unwrap(), 1.0).unwrap()[0];
        let subject = Subject::org("o").user("u");
        assert_eq!(rule.counts(&subject), None);
        assert_eq!(rule.counts(&subject.clone().attribute("tier", "paid")), None);
        assert_eq!(rule.counts(&subject.attribute("tier", "trial")), Some(vec!["o", "u"]));
    }
}
