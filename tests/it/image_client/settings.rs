//! What a client is told to do with requests before they are sent: keep, share, lower, check.

use std::{future::IntoFuture, time::Duration};

use allotment::{
    FailurePolicy, Limit, Limiter, Policy,
    openai::{AccessRules, Account, Cache, ImageErrorKind, Missing, Profile, Quality, Route, Size},
};
use allotment_upstream::{Latency, Terms};

use super::stage::{Charged, MINUTE, Stage, alice, is_png, lighthouse};

#[tokio::test]
async fn an_equal_request_is_served_from_the_cache_and_charged_nothing() {
    let stage = Stage::new(Terms::new()).await;
    let cache = Cache::memory(64 << 20, MINUTE).unwrap();
    let client = stage.client_with([stage.route()], |builder| builder.cache(cache));
    let drawn = client.run(&alice(), lighthouse()).await.unwrap();
    let charged = stage.charged().await;
    let again = client.run(&alice(), lighthouse().end_user("another")).await.unwrap();
    assert_eq!((again.served.cached, again.served.attempts, again.usage), (true, 0, drawn.usage));
    assert_eq!((drawn.served.quality, again.served.quality), (Quality::Low, Quality::Low));
    assert!(is_png(&again.images[0].bytes().unwrap()));
    assert_eq!((stage.charged().await, stage.upstream.tally().calls), (charged, 1));
    assert!(!client.run(&alice(), lighthouse().size(Size::PORTRAIT)).await.unwrap().served.cached);
}

#[tokio::test]
async fn equal_requests_at_the_same_time_make_one_call() {
    let latency = Latency::fixed(Duration::from_millis(300));
    let stage = Stage::new(Terms::new().latency(latency)).await;
    let client = stage.client_with([stage.route()], |builder| builder.single_flight());
    let subject = alice();
    let (a, b) = tokio::join!(client.run(&subject, lighthouse()), client.run(&subject, lighthouse()));
    let shared = [a.unwrap().served.shared, b.unwrap().served.shared];
    assert_eq!((shared, stage.upstream.tally().calls), ([false, true], 1));
    assert_eq!(stage.charged().await.requests, 1);
}

#[tokio::test]
async fn who_waits_for_less_or_is_of_another_class_does_not_wait_with_others() {
    let latency = Latency::fixed(Duration::from_millis(300));
    let stage = Stage::new(Terms::new().latency(latency)).await;
    let client = stage.client_with([stage.route()], |builder| builder.single_flight());
    let call = || client.call(&alice(), lighthouse());
    let (patient, hurried, batch, same) = tokio::join!(
        call().into_future(),
        call().max_wait(Duration::ZERO).into_future(),
        call().priority("batch").into_future(),
        call().max_wait(MINUTE).into_future(),
    );
    let shared = [patient, hurried, batch, same].map(|drawn| drawn.unwrap().served.shared);
    assert_eq!((shared, stage.upstream.tally().calls), ([false, false, false, true], 3));
}

#[tokio::test]
async fn a_profile_lowers_what_is_drawn() {
    let stage = Stage::new(Terms::new()).await;
    let client = stage.client_with([stage.route()], |builder| builder.profile(Profile::development()));
    let drawn = client.run(&alice(), lighthouse().quality(Quality::High)).await.unwrap();
    assert_eq!(stage.upstream.calls()[0].body["quality"], "low");
    assert_eq!((drawn.served.quality, drawn.served.lowered_from), (Quality::Low, None));
}

#[tokio::test]
async fn a_lower_quality_is_drawn_where_full_quality_would_wait_too_long() {
    let policy = Policy::new().limit(Limit::new("org").scope(["org"]).tokens(9_000).window(MINUTE));
    let stage = Stage::with_policy(Terms::new(), policy).await;
    let profile = Profile::production().lower_when_wait_exceeds(Duration::from_secs(1));
    let client = stage.client_with([stage.route()], |builder| builder.profile(profile));
    let high = || lighthouse().quality(Quality::High);
    let first = client.run(&alice(), high()).await.unwrap();
    let second = client.run(&alice(), high()).await.unwrap();
    assert_eq!((first.served.lowered_from, second.served.lowered_from), (None, Some(Quality::High)));
    let drawn: Vec<_> = stage.upstream.calls().iter().map(|call| call.body["quality"].clone()).collect();
    assert_eq!(drawn, [first.served.quality.name(), second.served.quality.name()]);
    assert_eq!(first.served.quality, Quality::High);
    assert!(second.served.quality < Quality::High);
}

/// A route that cannot serve the request has room, and says nothing of how long it waits.
#[tokio::test]
async fn a_route_without_words_for_the_request_does_not_shorten_its_wait() {
    let policy = Policy::new().limit(Limit::new("org").scope(["org"]).tokens(20_000).window(MINUTE));
    let stage = Stage::with_policy(Terms::new(), policy).await;
    let profile = Profile::production().lower_when_wait_exceeds(Duration::from_secs(1));
    let wordless = Route::responses("responses", "gpt-5.2", stage.upstream.key()).base_url(stage.upstream.base_url());
    let routes = [wordless.org("other"), stage.route().priority(1)];
    let client = stage.client_with(routes, |builder| builder.profile(profile));
    let two = || lighthouse().quality(Quality::High).n(2);
    let first = client.run(&alice(), two()).await.unwrap().served;
    let second = client.run(&alice(), two()).await.unwrap().served;
    assert_eq!((&*first.route, first.lowered_from), ("direct", None));
    assert_eq!((&*second.route, second.lowered_from), ("direct", Some(Quality::High)));
}

/// The failure policy admits calls while the store is away; a look at the wait has no such policy.
#[tokio::test]
async fn full_quality_is_drawn_where_nobody_can_tell_the_wait() {
    let stage = Stage::new(Terms::new()).await;
    let policy = Policy::new().limit(Limit::new("org").scope(["org"]).images(100).window(MINUTE));
    let limiter = Limiter::builder().redis("redis://127.0.0.1:1").policy(policy).failure_policy(FailurePolicy::Allow);
    let profile = Profile::production().lower_when_wait_exceeds(Duration::from_secs(1));
    let stage = Stage { limiter: limiter.build().unwrap(), ..stage };
    let client = stage.client_with([stage.route()], |builder| builder.profile(profile));
    let drawn = client.run(&alice(), lighthouse().quality(Quality::High)).await.unwrap();
    assert_eq!((drawn.images.len(), drawn.served.lowered_from), (1, None));
}

#[tokio::test]
async fn an_account_without_access_is_told_what_is_missing_before_anything_is_charged() {
    let stage = Stage::new(Terms::new()).await;
    let rules = AccessRules::preset("guide-2025-05").unwrap();
    let client = stage.client_with([stage.route()], |builder| builder.access(rules, Account::default()));
    let error = client.run(&alice(), lighthouse()).await.unwrap_err();
    assert_eq!(error.kind(), ImageErrorKind::Access);
    let report = error.access().unwrap();
    assert_eq!((report.model.as_str(), error.to_string()), ("gpt-image-2", report.to_string()));
    assert!(report.missing.contains(&Missing::Spend { needs_cents: 500, has_cents: 0 }), "{report:?}");
    assert_eq!((stage.charged().await, stage.upstream.tally().calls), (Charged::default(), 0));
}
