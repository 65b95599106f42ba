//! Weights: who gets more of a limit that is shared fairly.
//!
//! Invariant: a weight holds some subjects, not all. Lacks shares on purpose: they depend on who else asks.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    limit::{Choices, Integer},
    policy::validate::{Fault, Place, check_when},
};

const WEIGHT_MAX: u64 = 1000;
const WEIGHTS_MAX: usize = 64;

/// What the users weigh whose attributes have these values.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table with weight and when")]
pub(super) struct Weight {
    pub(super) weight: Integer<1, WEIGHT_MAX>,
    pub(super) when: BTreeMap<String, Choices>,
}

pub(super) fn check(weights: &[Weight]) -> Result<(), Fault> {
    let at = |index: usize, key, fault: &str| {
        let message = format!("weight {}: {fault}", index + 1);
        Fault { place: Place::Weight(index, key), message }
    };
    if weights.len() > WEIGHTS_MAX {
        let fault = format!("{} weights: a policy has at most {WEIGHTS_MAX}", weights.len());
        return Err(at(WEIGHTS_MAX, "weight", &fault));
    }
    for (index, Weight { weight: Integer(weight), when }) in weights.iter().enumerate() {
        if !(1..=WEIGHT_MAX).contains(weight) {
            return Err(at(index, "weight", &format!("weight = {weight}: a weight is 1 to {WEIGHT_MAX}")));
        }
        if when.is_empty() {
            return Err(at(index, "when", "when = {}: it takes at least one attribute"));
        }
        check_when(when).map_err(|(key, fault)| at(index, key, &fault))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::{limit::Limit, policy::Policy, subject::Subject};

    fn policy() -> Policy {
        Policy::new().limit(Limit::new("a").images(1).fair_share())
    }

    #[test]
    fn the_first_weight_that_holds_a_subject_counts() {
        let policy = policy().weight(4, "tier", "pro").weight(9, "user", "alice").weight(2, "tier", "pro");
        let compiled = policy.compile().unwrap();
        let alice = Subject::org("acme").user("alice");
        assert_eq!(compiled.weight_of(&alice), 9);
        assert_eq!(compiled.weight_of(&alice.attribute("tier", "pro")), 4);
        let bob = Subject::org("acme").user("bob");
        assert_eq!(compiled.weight_of(&bob), 1);
        assert_eq!(compiled.weight_of(&bob.clone().attribute("tier", "free")), 1);
        assert_eq!(compiled.weight_of(&bob.attribute("tier", "pro")), 4);
    }

    #[test]
    fn a_weight_holds_subjects_that_match_all_of_when() {
        let text = r#"
            limit = [{ name = "a", images = 1, fair_share = true }]
            weight = [{ weight = 7, when = { tier = "pro", user = ["alice", "bob"] } }]
        "#;
        let compiled = Policy::from_toml(text).unwrap().compile().unwrap();
        let weight_of = |user, tier| compiled.weight_of(&Subject::org("acme").user(user).attribute("tier", tier));
        assert_eq!((weight_of("alice", "pro"), weight_of("bob", "pro")), (7, 7));
        assert_eq!((weight_of("carol", "pro"), weight_of("alice", "free")), (1, 1));
    }

    #[test]
    fn a_weight_is_1_to_1000_and_there_are_64() {
        let with = |weight| policy().weight(weight, "tier", "pro").validate().map_err(|error| error.to_string());
        assert_eq!((with(1), with(1000)), (Ok(()), Ok(())));
        assert_eq!(with(0), Err("weight 1: weight = 0: a weight is 1 to 1000".to_owned()));
        assert_eq!(with(1001), Err("weight 1: weight = 1001: a weight is 1 to 1000".to_owned()));
        let many = |count: usize| (0..count).fold(policy(), |policy, _| policy.weight(1, "tier", "pro"));
        assert!(many(64).validate().is_ok());
        let expected = "weight 65: 65 weights: a policy has at most 64";
        assert_eq!(many(65).validate().unwrap_err().to_string(), expected);
    }
}
