//! Priority classes: how much of each limit a class leaves to the others.
//!
//! Invariant: `interactive` and `batch` are always there, named or not.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    error::Error,
    policy::validate::{Fault, Place, check_name, check_share, clipped},
};

/// The classes that are there without being named, and their headrooms.
const STANDARD: [(&str, f64); 2] = [("interactive", 0.0), ("batch", 0.1)];
/// The most classes besides those.
const CUSTOM_MAX: usize = 16;

/// What a policy says of one class.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table with a headroom")]
pub(super) struct Priority {
    /// The share of each amount that the class leaves to the others.
    pub(super) headroom: f64,
}

pub(super) fn check(priorities: &BTreeMap<String, Priority>) -> Result<(), Fault> {
    for (name, Priority { headroom }) in priorities {
        let at = |key, fault: &str| {
            let message = format!("priority {:?}: {fault}", clipped(name));
            Fault { place: Place::Priority(name.clone(), key), message }
        };
        check_name(name).map_err(|fault| at("name", &fault))?;
        check_share("headroom", *headroom).map_err(|fault| at("headroom", &fault))?;
    }
    let custom = priorities.keys().filter(|name| STANDARD.iter().all(|(standard, _)| standard != name)).count();
    if custom > CUSTOM_MAX {
        let message =
            format!("priority: {custom} classes: a policy has at most {CUSTOM_MAX} besides interactive and batch");
        return Err(Fault { place: Place::Policy("priority"), message });
    }
    Ok(())
}

/// The headroom of every class, in parts per million.
#[derive(Debug)]
pub(super) struct Headrooms(BTreeMap<Box<str>, u32>);

impl Headrooms {
    pub(super) fn new(priorities: &BTreeMap<String, Priority>) -> Self {
        let stated = priorities.iter().map(|(name, priority)| (name.as_str(), priority.headroom));
        let all = STANDARD.into_iter().chain(stated);
        Self(all.map(|(name, headroom)| (name.into(), parts_per_million(headroom))).collect())
    }

    pub(super) fn of(&self, class: &str) -> Result<u32, Error> {
        self.0.get(class).copied().ok_or_else(|| {
            let names: Vec<_> = self.0.keys().map(AsRef::as_ref).collect();
            Error::invalid(format!("priority {:?}: there are {}", clipped(class), names.join(", ")))
        })
    }
}

/// Below a million, as a headroom is below 1.
fn parts_per_million(share: f64) -> u32 {
    // A float that is out of range saturates; such a headroom is refused before anything is enforced.
    ((share * 1e6).round() as u32).min(999_999)
}

#[cfg(test)]
mod tests {
    use crate::{limit::Limit, policy::Policy};

    fn with(priorities: &[(&str, f64)]) -> Policy {
        let policy = Policy::new().limit(Limit::new("a").images(1));
        priorities.iter().fold(policy, |policy, (name, headroom)| policy.priority(*name, *headroom))
    }

    #[test]
    fn two_classes_are_there_without_being_named_and_can_be_changed() {
        let headroom = |policy: Policy, class: &str| policy.compile().unwrap().headroom(class).unwrap();
        assert_eq!(headroom(with(&[]), "interactive"), 0);
        assert_eq!(headroom(with(&[]), "batch"), 100_000);
        let changed = with(&[("batch", 0.25), ("interactive", 0.01), ("nightly", 0.5), ("batch", 0.3)]);
        assert_eq!(headroom(changed.clone(), "interactive"), 10_000);
        assert_eq!(headroom(changed.clone(), "batch"), 300_000);
        assert_eq!(headroom(changed, "nightly"), 500_000);
        assert_eq!(headroom(with(&[("last", 0.999_999_9)]), "last"), 999_999);
    }

    #[test]
    fn an_unknown_class_lists_the_known_ones() {
        let compiled = with(&[("nightly", 0.5)]).compile().unwrap();
        let error = compiled.headroom("bulk").unwrap_err();
        assert_eq!(error.kind(), crate::error::ErrorKind::Invalid);
        assert_eq!(error.to_string(), "priority \"bulk\": there are batch, interactive, nightly");
    }

    #[test]
    fn there_are_sixteen_classes_besides_those_that_are_always_there() {
        let of = |custom: usize| {
            let names: Vec<_> = (0..custom).map(|index| format!("class-{index}")).collect();
            let all: Vec<_> = names.iter().map(|name| (name.as_str(), 0.0)).collect();
            with(&[all, vec![("batch", 0.5), ("interactive", 0.5)]].concat()).validate()
        };
        assert!(of(16).is_ok());
        let expected = "priority: 17 classes: a policy has at most 16 besides interactive and batch";
        assert_eq!(of(17).unwrap_err().to_string(), expected);
    }
}
