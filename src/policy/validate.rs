//! What makes a policy wrong.
//!
//! Invariant: every message names the limit, the key, its value and what is allowed; the place says where a file has it.

use std::collections::{BTreeMap, HashSet};

use crate::{
    cost::Cost,
    limit::{Choices, Limit, Period, enforced},
    policy::{
        Policy,
        compiled::{Compiled, Rule},
        priority, weight,
    },
    resource::Resource,
    subject::{Subject, check_attribute_name},
};

/// The first thing that is wrong with a policy.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) place: Place,
    pub(super) message: String,
}

/// Where in a policy.
#[derive(Debug)]
pub(super) enum Place {
    /// Nowhere in particular.
    Whole,
    /// A key of the policy.
    Policy(&'static str),
    /// A key of the limit at this index.
    Limit(usize, String),
    /// A key of the priority class of this name, or the class itself if it has no such key.
    Priority(String, &'static str),
    /// A key of the weight at this index.
    Weight(usize, &'static str),
}

pub(super) fn check(policy: &Policy) -> Result<(), Fault> {
    check_policy(policy)?;
    for (index, limit) in policy.limits.iter().enumerate() {
        check_limit(limit).map_err(|(key, fault)| at(policy, index, key, &fault))?;
    }
    check_names(policy)?;
    priority::check(&policy.priorities)?;
    weight::check(&policy.weights)?;
    check_ledgers(policy)?;
    check_reachable(policy)
}

/// What is wrong with one limit or weight: the key, and the rest of the message after its name.
pub(super) type LimitFault = (&'static str, String);

fn at(policy: &Policy, index: usize, key: &str, fault: &str) -> Fault {
    let name = clipped(policy.limits[index].name());
    Fault { place: Place::Limit(index, key.to_owned()), message: format!("limit {name:?}: {fault}") }
}

fn check_policy(policy: &Policy) -> Result<(), Fault> {
    if policy.limits.is_empty() {
        let message = "a policy without limits: it needs at least one [[limit]]".to_owned();
        return Err(Fault { place: Place::Whole, message });
    }
    if policy.limits.len() > Policy::LIMITS_MAX {
        let fault = format!("{} limits: a policy has at most {}", policy.limits.len(), Policy::LIMITS_MAX);
        return Err(at(policy, Policy::LIMITS_MAX, "name", &fault));
    }
    if let Some(margin) = policy.margin {
        check_share("margin", margin).map_err(|message| Fault { place: Place::Policy("margin"), message })?;
    }
    check_attributes("require", &policy.require).map_err(|(key, message)| Fault { place: Place::Policy(key), message })
}

fn check_limit(limit: &Limit) -> Result<(), LimitFault> {
    check_name(limit.name()).map_err(|fault| ("name", format!("name = {:?}: {fault}", clipped(limit.name()))))?;
    check_resources(limit)?;
    check_period("window", limit.window)?;
    if let Some(smooth) = limit.smooth {
        check_period("smooth", smooth)?;
        if smooth.0 >= limit.window.0 {
            let fault = format!("smooth = \"{smooth}\": it must be shorter than the window of {}", limit.window);
            return Err(("smooth", fault));
        }
        check_windowed(limit, "smooth", &format!("\"{smooth}\""))?;
    }
    if limit.fair_share {
        check_windowed(limit, "fair_share", "true")?;
    }
    if let Some(margin) = limit.margin {
        check_share("margin", margin).map_err(|fault| ("margin", fault))?;
    }
    check_attributes("scope", &limit.scope.0[1..])?;
    if limit.fair_share && limit.scope.0.iter().any(|attribute| attribute == "user") {
        let fault = "fair_share = true: it takes a scope without user, as with one each user has the limit to himself";
        return Err(("fair_share", fault.to_owned()));
    }
    check_when(&limit.when)
}

/// Some keys are about what is counted per window.
fn check_windowed(limit: &Limit, key: &'static str, value: &str) -> Result<(), LimitFault> {
    if limit.windowed().next().is_some() {
        return Ok(());
    }
    Err((key, format!("{key} = {value}: it takes a limit that counts more than in_flight")))
}

pub(super) fn check_name(name: &str) -> Result<(), String> {
    let spelled = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_.".contains(&byte);
    if (1..=Limit::NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(spelled) {
        return Ok(());
    }
    Err(format!("a name takes 1 to {} of a-z, 0-9, -, _ and .", Limit::NAME_BYTES_MAX))
}

fn check_resources(limit: &Limit) -> Result<(), LimitFault> {
    let mut counted = 0;
    for resource in limit.resources() {
        counted += 1;
        let (name, key) = match &resource {
            Resource::Requests => ("requests", "requests"),
            Resource::Tokens => ("tokens", "tokens"),
            Resource::Images => ("images", "images"),
            Resource::InFlight => ("in_flight", "in_flight"),
            Resource::Custom(name) => (name.as_ref(), "custom"),
        };
        if key == "custom" {
            check_custom_name(name).map_err(|fault| (key, fault))?;
        }
        let amount = limit.amount_of(&resource).unwrap_or_default();
        if resource == Resource::InFlight && amount > Limit::IN_FLIGHT_MAX {
            return Err((key, format!("{name} = {amount}: calls under way are 0 to {}", Limit::IN_FLIGHT_MAX)));
        }
        if amount > Cost::AMOUNT_MAX {
            return Err((key, format!("{name} = {amount}: an amount is 0 to {} (2^47)", Cost::AMOUNT_MAX)));
        }
    }
    if counted == 0 {
        let fault = "it counts nothing: set requests, tokens, images, in_flight or a resource under custom";
        return Err(("name", fault.to_owned()));
    }
    Ok(())
}

/// As strict as attribute names: custom resources appear in keys and metrics beside the standard ones.
fn check_custom_name(name: &str) -> Result<(), String> {
    if ["requests", "tokens", "images", "in_flight"].contains(&name) {
        return Err(format!("custom.{name}: {name} is a key of the limit itself, not a custom resource"));
    }
    let spelled = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    let starts = name.starts_with(|first: char| first.is_ascii_lowercase());
    if starts && name.len() <= 32 && name.bytes().all(spelled) {
        return Ok(());
    }
    let name = clipped(name);
    Err(format!("custom.{name:?}: a resource takes 1 to 32 of a-z, 0-9 and _, a letter first"))
}

fn check_period(key: &'static str, period: Period) -> Result<(), LimitFault> {
    let whole_ms = period.0.subsec_nanos().is_multiple_of(1_000_000);
    if whole_ms && (Limit::WINDOW_MIN..=Limit::WINDOW_MAX).contains(&period.0) {
        return Ok(());
    }
    Err((key, format!("{key} = \"{period}\": it takes 1s to 31d, in whole milliseconds")))
}

/// A margin or a headroom.
pub(super) fn check_share(key: &'static str, share: f64) -> Result<(), String> {
    if (0.0..1.0).contains(&share) {
        return Ok(());
    }
    Err(format!("{key} = {share}: a {key} is at least 0 and below 1"))
}

/// A list of attributes besides the org: each spelled right and named once.
fn check_attributes(key: &'static str, attributes: &[String]) -> Result<(), LimitFault> {
    let mut seen = HashSet::new();
    for attribute in attributes {
        if !seen.insert(attribute) || (key == "scope" && attribute == "org") {
            return Err((key, format!("{key}: {:?} is named twice", clipped(attribute))));
        }
        check_attribute(attribute).map_err(|fault| (key, format!("{key}: {fault}")))?;
    }
    Ok(())
}

fn check_attribute(attribute: &str) -> Result<(), String> {
    match attribute {
        "user" | "model" => Ok(()),
        "org" => Err("\"org\" is what every subject has: name user, model or an attribute".to_owned()),
        name => check_attribute_name(name).map_err(|error| error.to_string()),
    }
}

pub(super) fn check_when(when: &BTreeMap<String, Choices>) -> Result<(), LimitFault> {
    for (attribute, accepted) in when {
        check_attribute(attribute).map_err(|fault| ("when", format!("when: {fault}")))?;
        if accepted.0.is_empty() {
            return Err(("when", format!("when: {attribute} = []: it takes at least one value")));
        }
        let max = Subject::ID_BYTES_MAX;
        if let Some(value) = accepted.0.iter().find(|value| !(1..=max).contains(&value.len())) {
            let value = clipped(value);
            return Err(("when", format!("when: {attribute} = {value:?}: a value takes 1 to {max} bytes")));
        }
    }
    Ok(())
}

fn check_names(policy: &Policy) -> Result<(), Fault> {
    let mut seen = HashSet::new();
    match policy.limits.iter().position(|limit| !seen.insert(limit.name())) {
        Some(index) => Err(at(policy, index, "name", "the name is taken by an earlier limit")),
        None => Ok(()),
    }
}

/// A call may be held by every limit at once, and is decided over all of their ledgers in one step.
fn check_ledgers(policy: &Policy) -> Result<(), Fault> {
    const LEDGERS_MAX: usize = 255;
    let rules = Compiled::new(policy).rules;
    let custom = |rule: &Rule| matches!(rule.resource, Resource::Custom(_)).then(|| rule.resource.clone());
    let ledger = |scope, rule: &Rule| (scope, rule.window_ms, custom(rule));
    let mut ledgers: HashSet<_> = rules.iter().map(|rule| ledger(rule.scope.clone(), rule)).collect();
    ledgers.extend(rules.iter().filter(|rule| rule.fair).map(|rule| ledger(rule.scope_of_each_user(), rule)));
    if ledgers.len() <= LEDGERS_MAX {
        return Ok(());
    }
    let message = format!(
        "{} ledgers: a policy has at most {LEDGERS_MAX}, one per scope and window, one more for each custom resource there, \
         and those of each user where it is shared fairly",
        ledgers.len()
    );
    Err(Fault { place: Place::Whole, message })
}

/// No limit is hidden by another one on the same scope.
///
/// Smoothing hides nothing: a single cost may exceed its share.
fn check_reachable(policy: &Policy) -> Result<(), Fault> {
    // From the last, so that of two equal limits the later one is reported.
    for (index, hidden) in policy.limits.iter().enumerate().rev() {
        for (_, other) in policy.limits.iter().enumerate().filter(|(other, _)| *other != index) {
            let Some((resource, amount, bound)) = hides(policy, other, hidden) else { continue };
            let key = if let Resource::Custom(_) = resource { "custom" } else { resource.name() };
            let fault = format!(
                "{resource}: it can never be reached, as it enforces {amount} in {} and limit {:?} lets at most {bound} through \
                 in that time",
                hidden.window,
                other.name()
            );
            return Err(at(policy, index, key, &fault));
        }
    }
    Ok(())
}

/// The first resource that `other` keeps from ever filling `hidden`, with what `hidden` enforces and what `other` lets through in
/// that window.
fn hides(policy: &Policy, other: &Limit, hidden: &Limit) -> Option<(Resource, u64, u128)> {
    let (theirs, own) = (&other.scope.0, &hidden.scope.0);
    let same_scope = theirs.len() == own.len() && theirs.iter().all(|attribute| own.contains(attribute));
    // Whoever is held by `hidden` is held by `other` too.
    let covered = other.when.iter().all(|(attribute, accepted)| {
        hidden.when.get(attribute).is_some_and(|narrower| narrower.0.is_subset(&accepted.0))
    });
    // A shadow limit lets everything through.
    if !covered || !same_scope || other.shadow {
        return None;
    }
    // A window is covered by so many windows of `other`, each of which holds its amount at most.
    let windows = hidden.window.millis().div_ceil(other.window.millis());
    hidden.windowed().find_map(|resource| {
        let amount = |limit: &Limit| Some(enforced(limit.amount_of(&resource)?, policy.margin_of(limit)));
        let (own, bound) = (amount(hidden)?, u128::from(amount(other)?) * u128::from(windows));
        (u128::from(own) >= bound).then_some((resource, own, bound))
    })
}

/// The start of a text that may be long.
pub(super) fn clipped(text: &str) -> String {
    let mut start: String = text.chars().take(40).collect();
    if start.len() < text.len() {
        start.push_str("...");
    }
    start
}
