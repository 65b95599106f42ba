//! How often upstream is asked, and when, as it saw it itself.

use std::time::Duration;

use allotment::{
    Limit, Limiter, Policy, Subject,
    openai::{ImageClient, ImageErrorKind, RefusalKind, RetryPolicy, Route},
};
use allotment_upstream::{ErrorShape, Fault, Raw, Script, ShouldRetry, Terms, Upstream};

use super::stage::{MINUTE, Stage, alice, lighthouse};
use crate::support::{random_org, shared};

fn rate_limited(hint: &str) -> Raw {
    Raw::new(429).header(hint).body(r#"{"error":{"code":"rate_limit_exceeded","message":"Rate limit reached"}}"#)
}

#[tokio::test]
async fn a_call_comes_back_no_sooner_than_it_was_told_to_and_no_sooner_than_a_second() {
    for (hint, least_ms) in [("retry-after-ms: 1700", 1_700), ("retry-after: 2", 2_000), ("retry-after-ms: 15", 1_000)]
    {
        let stage = Stage::new(Terms::new()).await;
        stage.upstream.next(Script::Reply(rate_limited(hint)));
        stage.client([stage.route()]).run(&alice(), lighthouse()).await.unwrap();
        let at: Vec<_> = stage.upstream.calls().iter().map(|call| call.at).collect();
        assert_eq!(at.len(), 2, "{hint}");
        assert!(at[1] - at[0] >= Duration::from_millis(least_ms), "{hint}: {at:?}");
    }
}

#[tokio::test]
async fn a_hint_is_taken_in_the_time_of_upstream() {
    let stage = Stage::new(Terms::new()).await;
    stage.upstream.next(Script::Reply(rate_limited("retry-after: 60")));
    let client = stage.client_with([stage.route()], |builder| builder.upstream_minute(MINUTE / 60));
    let waited = client.run(&alice(), lighthouse()).await.unwrap().served.waited;
    assert!(Duration::from_secs(1) <= waited && waited < MINUTE, "{waited:?}");
}

/// 10 repeats are there at the start, and each call but the first, which finds no room to save, saves a tenth of one: 13.9 for 40 calls.
/// Every other call is served at once, so that the route is not given up meanwhile.
#[tokio::test]
async fn an_upstream_in_trouble_is_not_asked_much_more_often_than_one_that_is_well() {
    let stage = Stage::new(Terms::new()).await;
    // a pause lasts a 64th as long
    let client = stage.client_with([stage.route()], |builder| builder.upstream_minute(MINUTE / 64));
    let mut repeated = 0;
    for _ in 0..20 {
        stage.upstream.next(Script::Refuse(ErrorShape::ServerError(Some(ShouldRetry::Yes))));
        match client.run(&alice(), lighthouse()).await {
            Ok(drawn) => repeated += drawn.served.attempts - 1,
            Err(error) => assert_eq!(error.kind(), ImageErrorKind::Refused, "{error:?}"),
        }
        client.run(&alice(), lighthouse()).await.unwrap();
    }
    assert_eq!((repeated, stage.upstream.tally().calls), (13, 40 + 13));
}

#[tokio::test]
async fn what_may_have_been_drawn_is_not_asked_again_and_what_was_not_sent_is_given_back() {
    let stage = Stage::new(Terms::new()).await;
    stage.upstream.from_now_on(Script::Break(Fault::HangUpUnanswered));
    let client = stage.client_with([stage.route()], |builder| builder.retry(RetryPolicy::new().attempts_max(5)));
    let error = client.run(&alice(), lighthouse()).await.unwrap_err();
    assert_eq!((error.kind(), stage.upstream.tally().calls), (ImageErrorKind::Unanswered, 1));
    assert_eq!(stage.charged().await.requests, 1);
}

/// One process is told to come back later, and the others do not ask meanwhile.
#[tokio::test]
async fn a_pause_that_one_client_is_asked_for_binds_the_clients_of_other_limiters() {
    let upstream = Upstream::start(Terms::new()).await.unwrap();
    let (org, url) = (random_org(), shared().await.url());
    let limiter = || {
        let pool = Limit::new("pool").scope(["org", "model"]).images(250).requests(1_000).window(MINUTE);
        Limiter::builder().redis(url.as_str()).policy(Policy::new().limit(pool)).deadline(MINUTE).build().unwrap()
    };
    let client = |limiter: Limiter| {
        let route = Route::compatible("direct", upstream.base_url(), upstream.key());
        let builder = ImageClient::builder().limiter(limiter).route(route).model("gpt-image-2");
        builder.retry(RetryPolicy::none()).max_wait(Duration::ZERO).build().unwrap()
    };
    let (first, second) = (client(limiter()), client(limiter()));
    let subject = Subject::org(org.as_str()).user("alice");
    second.run(&subject, lighthouse()).await.unwrap();
    upstream.next(Script::Reply(rate_limited("retry-after: 90")));
    let refused = first.run(&subject, lighthouse()).await.unwrap_err();
    assert_eq!(refused.refusal().map(|refusal| refusal.kind), Some(RefusalKind::RateLimited));
    let held = second.run(&subject, lighthouse()).await.unwrap_err();
    assert_eq!(held.kind(), ImageErrorKind::NotAdmitted);
    assert!(held.retry_after().unwrap() > Duration::from_secs(30), "{held:?}");
    assert_eq!(upstream.tally().calls, 2, "nobody has asked meanwhile");
}
