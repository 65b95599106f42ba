//! Policies: every way to get one wrong, what a file reads back as, and the presets.

use std::{collections::BTreeSet, fs, path::Path, time::Duration};

use allotment::{Certainty, ErrorKind, Limit, Policy, PolicySource, Resource};
use proptest::prelude::*;

/// `policies/<fault>.toml` is refused with exactly the message in `policies/<fault>.txt`.
#[test]
fn every_bad_policy_file_is_refused_with_its_message() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/policies");
    let names = |extension: &str| -> BTreeSet<String> {
        let files = fs::read_dir(&folder).unwrap().map(|file| file.unwrap().path());
        let files = files.filter(|file| file.extension().is_some_and(|found| found == extension));
        files.map(|file| file.file_stem().unwrap().to_str().unwrap().to_owned()).collect()
    };
    let faults = names("toml");
    assert!(!faults.is_empty(), "no policies in {}", folder.display());
    assert_eq!(faults, names("txt"), "each bad policy has its message beside it");

    let mut wrong = String::new();
    for fault in faults {
        let text = fs::read_to_string(folder.join(format!("{fault}.toml"))).unwrap();
        let expected = fs::read_to_string(folder.join(format!("{fault}.txt"))).unwrap();
        match Policy::from_toml(&text) {
            Ok(_) => wrong.push_str(&format!("{fault}: accepted\n")),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Invalid, "{fault}");
                if error.to_string() != expected.trim_end() {
                    wrong.push_str(&format!("{fault}: {error}\n"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "not as expected:\n{wrong}");
}

fn refusal(policy: &Policy) -> String {
    policy.validate().map_or_else(|error| error.to_string(), |()| "valid".to_owned())
}

#[test]
fn a_policy_built_in_code_is_checked_like_a_file() {
    let limit = || Limit::new("a").images(5);
    let one = |limit: Limit| refusal(&Policy::new().limit(limit));
    assert!(refusal(&Policy::new()).contains("at least one"));
    assert!(one(limit().window(Duration::ZERO)).contains("window = \"0s\""));
    assert!(one(limit().window(Duration::from_micros(1_500_500))).contains("whole milliseconds"));
    assert!(one(limit().window(Duration::MAX)).contains("1s to 31d"));
    assert!(one(limit().tokens((1 << 47) + 1)).contains("tokens = 140737488355329"));
    assert!(one(limit().margin(f64::NAN)).contains("margin = NaN"));
    assert!(one(limit().margin(f64::INFINITY)).contains("margin = inf"));
    assert!(one(limit().amount(Resource::Custom("tokens".into()), 1)).contains("custom.tokens"));
    assert!(one(limit().amount(Resource::Custom("in_flight".into()), 1)).contains("custom.in_flight"));
    assert!(one(limit().in_flight(100_001)).contains("in_flight = 100001"));
    assert!(one(limit().fair_share().scope(["user"])).contains("fair_share = true"));
    let class = |name: &str, headroom| refusal(&Policy::new().limit(limit()).priority(name, headroom));
    assert!(class("batch", f64::NAN).contains("headroom = NaN"));
    assert!(class("Batch", 0.5).contains("priority \"Batch\""));
    assert!(
        refusal(&Policy::new().limit(limit()).weight(4, "Tier", "pro")).contains("weight 1: when: attribute \"Tier\"")
    );
    assert!(one(limit().scope(["org", "org"])).contains("named twice"));
    assert!(Policy::new().limit(limit().tokens(1 << 47)).validate().is_ok());
}

#[test]
fn windows_of_one_second_and_of_31_days_are_allowed_and_a_millisecond_beyond_is_not() {
    let valid = |window| Policy::new().limit(Limit::new("a").images(5).window(window)).validate().is_ok();
    let ms = Duration::from_millis(1);
    assert!(valid(Limit::WINDOW_MIN) && !valid(Limit::WINDOW_MIN - ms));
    assert!(valid(Limit::WINDOW_MAX) && !valid(Limit::WINDOW_MAX + ms));
}

#[test]
fn a_policy_of_more_ledgers_than_one_decision_takes_is_refused() {
    let of = |customs: usize| {
        let limit = (0..customs).fold(Limit::new("a").images(5), |limit, custom| limit.amount(format!("c{custom}"), 5));
        Policy::new().limit(limit).validate()
    };
    assert!(of(254).is_ok());
    let fault = of(255).unwrap_err().to_string();
    assert!(fault.starts_with("256 ledgers: a policy has at most 255"), "{fault}");
}

#[test]
fn a_fair_limit_takes_the_ledgers_of_its_users_too_unless_they_are_there() {
    let of = |fair: usize, others: &[Limit]| {
        let limit =
            (0..fair).fold(Limit::new("pool").fair_share(), |limit, custom| limit.amount(format!("c{custom}"), 5));
        others
            .iter()
            .cloned()
            .fold(Policy::new().limit(limit), Policy::limit)
            .validate()
            .map_err(|error| error.to_string())
    };
    assert_eq!(of(127, &[]), Ok(()));
    assert!(of(128, &[]).is_err_and(|fault| fault.starts_with("256 ledgers: ")));
    let hour = Duration::from_secs(3600);
    let own = |window| Limit::new("own").scope(["user"]).amount("c0", 1).window(window);
    assert_eq!(of(127, &[own(Duration::from_secs(60)), Limit::new("org").amount("own", 1)]), Ok(()));
    let other_window = of(127, &[own(hour), Limit::new("org").amount("own", 1)]);
    assert!(other_window.is_err_and(|fault| fault.starts_with("256 ledgers: ")));
    // The short window of a smoothed limit is not shared, and calls under way have no ledger.
    let smoothed = |customs: usize| {
        let limit = Limit::new("pool").fair_share().in_flight(8).smooth(Duration::from_secs(1));
        let limit = (0..customs).fold(limit, |limit, custom| limit.amount(format!("c{custom}"), 5));
        Policy::new().limit(limit).validate().map_err(|error| error.to_string())
    };
    assert_eq!(smoothed(85), Ok(()));
    assert!(smoothed(86).is_err_and(|fault| fault.starts_with("258 ledgers: ")));
}

#[test]
fn a_limit_may_count_nothing_but_calls_under_way_and_hides_no_other() {
    let limit = |name: &str, calls| Limit::new(name).in_flight(calls);
    let two = |first: Limit, second: Limit| Policy::new().limit(first).limit(second).validate();
    assert!(two(limit("a", 0), limit("b", 100_000)).is_ok());
    assert!(two(limit("a", 8), limit("b", 8)).is_ok());
    assert!(two(limit("a", 8).images(5), limit("b", 8).images(5)).is_err());
}

#[test]
fn a_shadow_limit_hides_no_other() {
    let of = |name: &str| Limit::new(name).images(5);
    let two = |first: Limit, second: Limit| refusal(&Policy::new().limit(first).limit(second));
    assert!(two(of("first"), of("second")).starts_with("limit \"second\""));
    assert!(two(of("first").shadow(), of("second")).starts_with("limit \"first\""), "the second denies");
    assert!(two(of("first"), of("second").shadow()).starts_with("limit \"second\""), "the first denies");
    assert_eq!(two(of("first").shadow(), of("second").images(6)), "valid");
    assert_eq!(two(of("first").shadow(), of("second").shadow()), "valid");
}

/// A second limit beside 100 images in 60 s with a margin of 5 %, so 95.
fn beside_a_hundred_a_minute(other: Limit) -> Result<(), allotment::Error> {
    Policy::new().limit(Limit::new("first").images(100).margin(0.05)).limit(other).validate()
}

#[test]
fn a_limit_is_unreachable_from_the_amount_that_another_lets_through() {
    let images = |amount, seconds| Limit::new("other").images(amount).window(Duration::from_secs(seconds));
    for (amount, seconds) in [(94, 60), (94, 30), (189, 61), (189, 120), (284, 121), (96, 61)] {
        // Where it is the tighter one of two, it may hide the first.
        let fault = beside_a_hundred_a_minute(images(amount, seconds)).map_err(|error| error.to_string());
        assert!(!fault.is_err_and(|fault| fault.starts_with("limit \"other\"")), "{amount} in {seconds} s binds");
    }
    for (amount, seconds) in [(95, 60), (95, 30), (190, 61), (190, 120), (285, 121)] {
        let fault = beside_a_hundred_a_minute(images(amount, seconds)).unwrap_err().to_string();
        assert!(fault.starts_with("limit \"other\""), "{amount} in {seconds} s never binds: {fault}");
    }
}

#[test]
fn a_limit_is_reachable_where_the_other_counts_or_holds_something_else() {
    let large = || Limit::new("other").images(500);
    assert!(beside_a_hundred_a_minute(large()).is_err());
    assert!(beside_a_hundred_a_minute(large().when("tier", "free")).is_err(), "the first holds everyone");
    assert!(beside_a_hundred_a_minute(large().scope(["model"])).is_ok());
    assert!(beside_a_hundred_a_minute(Limit::new("other").tokens(500)).is_ok());

    let free = Limit::new("free").images(5).when("tier", "free");
    assert!(beside_a_hundred_a_minute(free.clone()).is_ok());
    let other_tiers = Policy::new().limit(free).limit(large().when("tier", "trial"));
    assert!(other_tiers.validate().is_ok());
}

#[test]
fn a_value_that_toml_cannot_hold_is_still_written() {
    let text = Policy::new().limit(Limit::new("a").images(u64::MAX).window(Duration::MAX).margin(f64::NAN)).to_toml();
    assert_eq!(Policy::from_toml(&text).unwrap_err().kind(), ErrorKind::Invalid);
}

#[test]
fn one_value_of_when_may_be_written_without_a_list() {
    let read =
        |when: &str| Policy::from_toml(&format!("[[limit]]\nname = 'a'\nimages = 1\nwhen = {{ tier = {when} }}"));
    assert_eq!(read("'free'").unwrap(), read("['free', 'free']").unwrap());
    assert_ne!(read("'free'").unwrap(), read("['free', 'trial']").unwrap());
}

#[test]
fn every_preset_is_a_valid_policy_with_a_source() {
    let mut names = BTreeSet::new();
    for preset in Policy::presets() {
        let policy = Policy::preset(&preset.name).unwrap();
        policy.validate().unwrap();
        assert_eq!(policy, preset.policy());
        assert_eq!(policy, Policy::from_toml(&policy.to_toml()).unwrap());
        assert!(!preset.source.is_empty() && !preset.access.is_empty(), "{}", preset.name);
        assert!(names.insert(preset.name));
    }
    assert_eq!(names.len(), 10);
}

#[test]
fn presets_hold_the_figures_of_their_tier() {
    let amounts = |name: &str| {
        let policy = Policy::preset(name).unwrap();
        let limit = &policy.limits()[0];
        [Resource::Requests, Resource::Tokens, Resource::Images].map(|resource| limit.amount_of(&resource))
    };
    assert_eq!(amounts("openai-2026-tier-3"), [None, Some(800_000), Some(50)]);
    assert_eq!(amounts("guide-2025-05-tier-2"), [Some(15), Some(500_000), None]);
    assert_eq!(amounts("guide-2025-05-free"), [Some(0), Some(0), None]);
    let certainty = |name: &str| Policy::presets().find(|preset| preset.name == name).unwrap().certainty;
    assert_eq!(certainty("openai-2026-tier-3"), Certainty::Official);
    assert_eq!(certainty("guide-2025-05-tier-2"), Certainty::Reported);
}

#[test]
fn an_unknown_preset_lists_the_known_ones() {
    let error = Policy::preset("tier-9").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    let message = error.to_string();
    assert!(message.starts_with("preset \"tier-9\": there are openai-2026-tier-1, "), "{message}");
    assert!(message.ends_with("guide-2025-05-enterprise"), "{message}");
}

#[tokio::test]
async fn a_policy_is_the_source_of_itself_for_every_org() {
    let policy = Policy::preset("openai-2026-tier-1").unwrap();
    assert_eq!(PolicySource::policy(&policy, "acme").await.unwrap(), policy);
}

/// A valid limit; its scope has an attribute of its own, so that no two of a policy hide each other.
fn limit(index: usize) -> impl Strategy<Value = Limit> {
    let amount = 0..=1_u64 << 47;
    let values = prop::collection::vec(".{1,20}", 0..3);
    let amounts = (prop::option::of(amount.clone()), prop::option::of(amount.clone()), amount);
    let times = (2_000..=2_678_400_000_u64, prop::option::of(1_000..2_000_u64));
    let flags = (any::<bool>(), any::<bool>(), prop::option::of(0..=100_000_u64));
    (amounts, times, prop::option::of(0.0..1.0), flags, values).prop_map(
        move |((requests, custom, images), (window_ms, smooth_ms), margin, (fair, shadow, in_flight), values)| {
            let mut limit = Limit::new(format!("limit-{index}"))
                .scope([if fair { "model" } else { "user" }.to_owned(), format!("a{index}")])
                .images(images)
                .window(Duration::from_millis(window_ms));
            limit = requests.into_iter().fold(limit, Limit::requests);
            limit = custom.into_iter().fold(limit, |limit, amount| limit.amount("spend_micros", amount));
            limit = margin.into_iter().fold(limit, Limit::margin);
            limit = smooth_ms.into_iter().fold(limit, |limit, ms| limit.smooth(Duration::from_millis(ms)));
            limit = in_flight.into_iter().fold(limit, Limit::in_flight);
            limit = if fair { limit.fair_share() } else { limit };
            limit = if shadow { limit.shadow() } else { limit };
            values.into_iter().fold(limit, |limit, value| limit.when("tier", value))
        },
    )
}

fn policy() -> impl Strategy<Value = Policy> {
    let limits = (1..6_usize).prop_flat_map(|count| (0..count).map(limit).collect::<Vec<_>>());
    let priorities = prop::collection::vec((prop::sample::select(vec!["batch", "x.y", "0-_"]), 0.0..1.0), 0..3);
    let weights = prop::collection::vec((1..=1000_u32, ".{1,20}"), 0..3);
    let whole = (prop::option::of(0.0..1.0), any::<bool>(), any::<bool>());
    (limits, whole, priorities, weights).prop_map(|(limits, (margin, require, hide_org), priorities, weights)| {
        let policy = limits.into_iter().fold(Policy::new(), Policy::limit);
        let policy = margin.into_iter().fold(policy, Policy::margin);
        let policy = priorities.into_iter().fold(policy, |policy, (name, headroom)| policy.priority(name, headroom));
        let policy = weights.into_iter().fold(policy, |policy, (weight, user)| policy.weight(weight, "user", user));
        let policy = if hide_org { policy.hide_org() } else { policy };
        if require { policy.require("user").require("tenant") } else { policy }
    })
}

proptest! {
    #[test]
    fn a_written_policy_reads_back_the_same(policy in policy()) {
        let text = policy.to_toml();
        prop_assert_eq!(Policy::from_toml(&text).map_err(|error| error.to_string()), Ok(policy), "{}", text);
    }

    #[test]
    fn a_damaged_file_is_read_or_refused_and_never_panics(policy in policy(), cut in any::<prop::sample::Index>(), noise in "\\PC{0,3}") {
        let mut text: Vec<char> = policy.to_toml().chars().collect();
        let at = cut.index(text.len());
        text.splice(at..=at, noise.chars());
        if let Err(error) = Policy::from_toml(&text.into_iter().collect::<String>()) {
            prop_assert_eq!(error.kind(), ErrorKind::Invalid);
        }
    }
}
