//! Whether an account may use a model at all, before any quota is taken.
//!
//! Invariant: all that is missing is said at once. Time is a value: the day is given. Lacks the account itself: upstream has no call for
//! it, so it comes from configuration.

mod report;

use std::{collections::BTreeMap, sync::LazyLock};

use serde::Deserialize;

pub use self::report::{AccessReport, Missing, Progress};
use crate::{
    error::Error,
    openai::{date::Date, models::names_of},
    policy::{Certainty, file},
};

/// What is known of the account that a key belongs to.
///
/// ```
/// use allotment::openai::{AccessRules, Account};
///
/// let account = Account::from_toml(r#"
///     spent_cents = 1_200
///     opened_on = "2026-11-23"
///     verified = true
/// "#)?;
/// let report = AccessRules::preset("guide-2025-05")?.check(&account, "gpt-image-2", "2026-11-26".parse()?);
/// assert!(report.is_allowed());
/// assert_eq!(
///     report.to_string(),
///     "gpt-image-2: allowed in tier 1; tier 2 needs $50 spent (you have $12) and an account 7 days old (yours is 3)"
/// );
/// # Ok::<(), allotment::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct Account {
    /// The tier that upstream's pages show. Default: what the spend and the age come to.
    pub tier: Option<String>,
    /// Paid over the account's life, in cents of a dollar. Default: not known, which counts as nothing.
    pub spent_cents: Option<u64>,
    /// When it was opened. Default: not known, which counts as today.
    pub opened_on: Option<Date>,
    /// Whether the organisation is verified. Default: it is not.
    pub verified: bool,
    /// Whether there is a contract with upstream. Default: there is none.
    pub contract: bool,
    /// From where it calls, as the rules spell it, such as `DE`. Default: not known.
    pub region: Option<String>,
}

impl Account {
    /// Reads an account from a file.
    ///
    /// # Errors
    ///
    /// A key or value that there is not, with its line.
    pub fn from_toml(text: &str) -> Result<Self, Error> {
        toml::from_str(text).map_err(|error| file::misspelled(text, &error))
    }
}

/// Who may use which model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessRules {
    rules: Rules,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Rules {
    name: String,
    source: String,
    certainty: Certainty,
    /// The lowest tier that may use a model at all.
    tier_min: Option<String>,
    /// Whether the organisation must be verified.
    #[serde(default)]
    verified: bool,
    /// From where it may be called; `None`: from everywhere.
    regions: Option<Vec<String>>,
    /// From the lowest to the highest.
    tiers: Vec<Tier>,
    /// What differs for a model.
    #[serde(default)]
    models: BTreeMap<String, Needs>,
}

/// What one model needs. What is not named is as for all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Needs {
    tier_min: Option<String>,
    verified: Option<bool>,
    regions: Option<Vec<String>>,
}

/// What an account needs to be in a tier.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Tier {
    name: String,
    #[serde(default)]
    spent_cents: u64,
    #[serde(default)]
    days_old: u64,
    #[serde(default)]
    contract: bool,
}

impl AccessRules {
    /// Rules that ship with this crate: `openai-2026` and `guide-2025-05`.
    ///
    /// # Errors
    ///
    /// There are none of this name.
    pub fn preset(name: &str) -> Result<Self, Error> {
        if let Some(rules) = PRESETS.rules.iter().find(|rules| rules.name == name) {
            return Ok(Self { rules: rules.clone() });
        }
        let names: Vec<_> = PRESETS.rules.iter().map(|rules| rules.name.as_str()).collect();
        Err(Error::invalid(format!("access rules {name:?}: there are {}", names.join(", "))))
    }

    /// Reads rules from a file: one entry of the form of `access.toml`, without `[[rules]]`.
    ///
    /// # Errors
    ///
    /// A key or value that there is not, with its line; or a tier that is named and not there.
    pub fn from_toml(text: &str) -> Result<Self, Error> {
        let rules: Rules = toml::from_str(text).map_err(|error| file::misspelled(text, &error))?;
        rules.validate()?;
        Ok(Self { rules })
    }

    /// Admits only calls from these regions. Default: from all.
    #[must_use]
    pub fn regions(mut self, regions: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.rules.regions = Some(regions.into_iter().map(Into::into).collect());
        self
    }

    /// Their name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.rules.name
    }

    /// Where they come from.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.rules.source
    }

    /// How far to trust them.
    #[must_use]
    pub fn certainty(&self) -> Certainty {
        self.rules.certainty
    }

    /// All that `account` misses on this day to use `model`, and to reach its next tier.
    #[must_use]
    pub fn check(&self, account: &Account, model: &str, today: Date) -> AccessReport {
        let Rules { tiers, .. } = &self.rules;
        let reached = self.rules.reached(account, today);
        let next = reached.and_then(|reached| tiers.get(reached + 1));
        AccessReport {
            model: model.to_owned(),
            tier: reached.and_then(|reached| tiers.get(reached)).map(|tier| tier.name.clone()),
            missing: self.rules.missing(account, model, today),
            next_tier: next.map(|tier| Progress { tier: tier.name.clone(), missing: tier.missing(account, today) }),
        }
    }
}

impl Rules {
    fn missing(&self, account: &Account, model: &str, today: Date) -> Vec<Missing> {
        let own = names_of(model).into_iter().find_map(|name| self.models.get(name));
        let verified = own.and_then(|own| own.verified).unwrap_or(self.verified);
        let regions = own.and_then(|own| own.regions.as_ref()).or(self.regions.as_ref());
        let tier_min = own.and_then(|own| own.tier_min.as_ref()).or(self.tier_min.as_ref());

        let is_elsewhere = |allowed: &&Vec<String>| !account.region.as_ref().is_some_and(|own| allowed.contains(own));
        let region = regions.filter(is_elsewhere);
        let region = region.map(|allowed| Missing::Region { allowed: allowed.clone(), yours: account.region.clone() });
        let reached = self.reached(account, today);
        let needed = tier_min.and_then(|name| self.tiers.iter().position(|tier| tier.name == *name));
        let needed = needed.filter(|needed| reached.is_none_or(|reached| reached < *needed));
        let tier = needed.and_then(|needed| self.tiers.get(needed)).map(|tier| tier.missing(account, today));
        let verification = (verified && !account.verified).then_some(Missing::Verification);
        region.into_iter().chain(tier.into_iter().flatten()).chain(verification).collect()
    }

    /// The rank of the tier that upstream's pages show, or else the highest one that the account has all of.
    fn reached(&self, account: &Account, today: Date) -> Option<usize> {
        match &account.tier {
            Some(stated) => self.tiers.iter().position(|tier| tier.name == *stated),
            None => self.tiers.iter().rposition(|tier| tier.needs(account, today).is_empty()),
        }
    }

    fn validate(&self) -> Result<(), Error> {
        let is_tier = |name: &str| self.tiers.iter().any(|tier| tier.name == name);
        let named = self.models.values().map(|needs| &needs.tier_min).chain([&self.tier_min]).flatten();
        match named.map(String::as_str).find(|name| !is_tier(name)) {
            None => Ok(()),
            Some(name) => {
                let tiers: Vec<_> = self.tiers.iter().map(|tier| tier.name.as_str()).collect();
                Err(Error::invalid(format!("tier_min = {name:?}: there are {}", tiers.join(", "))))
            }
        }
    }
}

impl Tier {
    /// What the account lacks of what the tier is given for.
    fn needs(&self, account: &Account, today: Date) -> Vec<Missing> {
        let spent_cents = account.spent_cents.unwrap_or(0);
        let days = account.opened_on.map_or(0, |opened| today.days_since(opened));
        let spend = Missing::Spend { needs_cents: self.spent_cents, has_cents: spent_cents };
        let age = Missing::Age { needs_days: self.days_old, has_days: days };
        let lacks = [
            (spent_cents < self.spent_cents, spend),
            (days < self.days_old, age),
            (self.contract && !account.contract, Missing::Contract),
        ];
        lacks.into_iter().filter_map(|(is_lacking, missing)| is_lacking.then_some(missing)).collect()
    }

    /// The same; or that upstream has to see it, where its pages show a lower tier than the account has all of.
    fn missing(&self, account: &Account, today: Date) -> Vec<Missing> {
        let needs = self.needs(account, today);
        match &account.tier {
            Some(stated) if needs.is_empty() => {
                vec![Missing::Tier { needs: self.name.clone(), has: stated.clone() }]
            }
            _ => needs,
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Presets {
    rules: Vec<Rules>,
}

static PRESETS: LazyLock<Presets> =
    LazyLock::new(|| toml::from_str(include_str!("access.toml")).expect("a test reads the embedded file"));

#[cfg(test)]
mod tests {
    use super::*;

    fn date(text: &str) -> Date {
        text.parse().unwrap()
    }

    fn account(spent_cents: u64, opened_on: &str) -> Account {
        Account {
            spent_cents: Some(spent_cents),
            opened_on: Some(date(opened_on)),
            verified: true,
            ..Account::default()
        }
    }

    fn guide(account: &Account) -> AccessReport {
        AccessRules::preset("guide-2025-05").unwrap().check(account, "gpt-image-1", date("2026-11-26"))
    }

    #[test]
    fn every_preset_is_valid_and_has_a_source() {
        for rules in &PRESETS.rules {
            rules.validate().unwrap();
            let rules = AccessRules::preset(&rules.name).unwrap();
            assert!(!rules.source().is_empty());
        }
        assert_eq!(AccessRules::preset("openai-2026").unwrap().certainty(), Certainty::Official);
        assert_eq!(AccessRules::preset("guide-2025-05").unwrap().certainty(), Certainty::Reported);
        let error = AccessRules::preset("openai").unwrap_err().to_string();
        assert_eq!(error, "access rules \"openai\": there are openai-2026, guide-2025-05");
    }

    /// Spend, wait, spend: the guide's way up.
    #[test]
    fn the_guides_tiers_are_reached_by_spend_and_age() {
        let rows = [
            (0, "2026-11-26", None, "gpt-image-1 needs $5 spent (you have $0)"),
            (499, "2020-01-01", None, "gpt-image-1 needs $5 spent (you have $4.99)"),
            (
                500,
                "2026-11-26",
                Some("1"),
                "tier 2 needs $50 spent (you have $5) and an account 7 days old (yours is 0)",
            ),
            (5_000, "2026-11-20", Some("1"), "tier 2 needs an account 7 days old (yours is 6)"),
            (
                5_000,
                "2026-11-19",
                Some("2"),
                "tier 3 needs $500 spent (you have $50) and an account 30 days old (yours is 7)",
            ),
            (50_000, "2026-10-27", Some("3"), "tier enterprise needs a contract"),
        ];
        for (spent, opened_on, tier, words) in rows {
            let report = guide(&account(spent, opened_on));
            let expected =
                tier.map_or(words.to_owned(), |tier| format!("gpt-image-1: allowed in tier {tier}; {words}"));
            assert_eq!((report.to_string(), report.is_allowed()), (expected, tier.is_some()));
        }
        let top = guide(&Account { contract: true, ..account(0, "2026-11-26") });
        assert_eq!((top.tier.as_deref(), top.next_tier), (Some("enterprise"), None));
    }

    #[test]
    fn the_official_tiers_ask_for_spend_alone() {
        let rules = AccessRules::preset("openai-2026").unwrap();
        for (spent, tier) in [(499, "free"), (500, "1"), (5_000, "2"), (10_000, "3"), (25_000, "4"), (100_000, "5")] {
            let report = rules.check(&account(spent, "2026-11-26"), "gpt-image-2", date("2026-11-26"));
            assert_eq!((report.tier.as_deref(), report.is_allowed()), (Some(tier), spent >= 500));
        }
    }

    #[test]
    fn all_that_is_missing_is_said_at_once() {
        let rules = AccessRules::preset("guide-2025-05").unwrap().regions(["US", "DE"]);
        let nobody = Account { region: Some("XX".to_owned()), ..Account::default() };
        let report = rules.check(&nobody, "gpt-image-1", date("2026-11-26"));
        let regions = Missing::Region { allowed: vec!["US".into(), "DE".into()], yours: Some("XX".into()) };
        let spend = Missing::Spend { needs_cents: 500, has_cents: 0 };
        assert_eq!(report.missing, [regions, spend, Missing::Verification]);
        assert!(report.to_string().starts_with(
            "gpt-image-1 needs a call from US, DE (yours is XX), $5 spent (you have $0) and a verified organisation"
        ));
    }

    #[test]
    fn a_stated_tier_counts_and_not_what_it_was_given_for() {
        let stated = |tier: &str| Account { tier: Some(tier.to_owned()), verified: true, ..Account::default() };
        assert!(guide(&stated("2")).is_allowed());
        assert_eq!(guide(&stated("2")).tier.as_deref(), Some("2"));
        let free = guide(&Account { tier: Some("free".to_owned()), ..account(9_999, "2020-01-01") });
        assert_eq!(free.missing, [Missing::Tier { needs: "1".into(), has: "free".into() }]);
        let unknown = guide(&Account { tier: Some("tier-3".to_owned()), ..account(9_999, "2020-01-01") });
        assert_eq!(unknown.missing, [Missing::Tier { needs: "1".into(), has: "tier-3".into() }]);
        assert_eq!((unknown.tier, unknown.next_tier), (None, None));
    }

    #[test]
    fn a_model_may_need_something_else() {
        let text = r#"
            name = "ours"
            source = "our contract"
            certainty = "official"
            tier_min = "1"
            tiers = [{ name = "1" }, { name = "2", spent_cents = 5_000 }]
            [models.gpt-image-2]
            tier_min = "2"
            verified = true
            regions = ["US"]
        "#;
        let rules = AccessRules::from_toml(text).unwrap();
        let check = |model: &str| rules.check(&Account::default(), model, date("2026-11-26")).missing.len();
        assert_eq!([check("gpt-image-1"), check("gpt-image-2"), check("gpt-image-2-2026-04-21")], [0, 3, 3]);
        assert_eq!(
            [check("openai/gpt-image-2"), check("openai/gpt-image-2-2026-04-21")],
            [3, 3],
            "as models are found"
        );
    }

    #[test]
    fn a_file_that_is_wrong_says_where() {
        let rules = "name = \"a\"\nsource = \"b\"\ncertainty = \"official\"\ntiers = []\n";
        let error = AccessRules::from_toml(&format!("{rules}tier_min = \"1\"")).unwrap_err().to_string();
        assert_eq!(error, "tier_min = \"1\": there are ");
        let error = AccessRules::from_toml(&format!("{rules}verify = true")).unwrap_err().to_string();
        assert!(error.starts_with("line 5: verify: `verify = true`: unknown key `verify`"), "{error}");
        let error = Account::from_toml("spent_usd = 5").unwrap_err().to_string();
        assert!(error.starts_with("line 1: spent_usd: `spent_usd = 5`: unknown key"), "{error}");
    }
}
