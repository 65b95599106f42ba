//! What operators see of calls.

use std::time::Duration;

use allotment::{
    Limit, Policy,
    openai::{AccessRules, Account, Cache},
};
use allotment_upstream::{Latency, Terms};

use super::stage::{MINUTE, Stage, alice, lighthouse};
use crate::postings::Counters;

/// One thread, so that what is counted is this test's.
#[tokio::test]
async fn each_call_is_counted_once_however_it_ends() {
    let counters = Counters::default();
    let _counted = metrics::set_default_local_recorder(&counters);
    let calls = |labels: &str| counters.of(&format!("allotment_image_calls_total {labels}"));
    let policy = Policy::new().limit(Limit::new("org").scope(["org"]).images(1).window(MINUTE));
    let latency = Latency::fixed(Duration::from_millis(300));
    let stage = Stage::with_policy(Terms::new().latency(latency), policy).await;
    let cache = Cache::memory(64 << 20, MINUTE).unwrap();
    let client = stage.client_with([stage.route()], |builder| {
        builder.cache(cache).single_flight().max_wait(Duration::from_millis(1))
    });
    let subject = alice();
    let (one, other) = tokio::join!(client.run(&subject, lighthouse()), client.run(&subject, lighthouse()));
    assert!(one.is_ok() && other.is_ok());
    client.run(&subject, lighthouse()).await.unwrap();
    client.run(&subject, lighthouse().n(11)).await.unwrap_err();
    client.run(&subject, lighthouse().end_user("another").n(2)).await.unwrap_err();
    let rules = AccessRules::preset("guide-2025-05").unwrap();
    let barred = stage.client_with([stage.route()], |builder| builder.access(rules, Account::default()));
    barred.run(&subject, lighthouse()).await.unwrap_err();
    let counted =
        ["direct served", "direct shared", "cache cached", "none invalid", "direct not_admitted", "none no_access"];
    assert_eq!(counted.map(calls), [1; 6]);
}
