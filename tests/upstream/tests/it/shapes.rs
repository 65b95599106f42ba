//! Errors come in the shapes that were asked for.

use std::time::Duration;

use allotment_upstream::{Dimension, ErrorShape, Figures, Raw, Script, ShouldRetry, Terms};
use serde_json::json;

use crate::support::start;

fn figures() -> Figures {
    Figures {
        model: "gpt-image-1".to_owned(),
        pool: None,
        org: "org-x".to_owned(),
        dimension: Dimension::Tokens,
        period: Duration::from_secs(60),
        limit: 250_000,
        used: Some(245_000),
        requested: 5_183,
        wait: Duration::from_millis(51_840),
    }
}

#[tokio::test]
async fn every_shape_has_its_status_and_words() {
    let (upstream, caller) = start(Terms::new()).await;
    let exhausted = || ErrorShape::Exhausted("credit_balance_exhausted".to_owned());
    for (shape, status, words) in [
        (ErrorShape::RateLimit, 429, "Limit 250000, Used 245000, Requested 5183. Please try again in 51.84s."),
        (ErrorShape::HiddenJson, 200, r#""code":"rate_limit_exceeded""#),
        (
            ErrorShape::HiddenText,
            200,
            "Rate limit reached for gpt-image-1 in organization org-x on tokens per min (TPM)",
        ),
        (ErrorShape::HiddenEvents, 200, "event: response.failed\ndata: "),
        (ErrorShape::ErrorEvent, 200, "event: error\ndata: "),
        (ErrorShape::TooLarge, 429, "Limit 250000, Requested 250001. Visit"),
        (ErrorShape::LimitZero, 429, "Limit 0, Requested 5183. Visit"),
        (ErrorShape::Older, 429, "Limit: 250000/1min. Current: 250183/1min."),
        (ErrorShape::Oldest, 429, "Limit: 250000.000000 / min. Current: 250183.000000 / min."),
        (ErrorShape::PleaseSlowDown, 429, "please slow down and try again after 51.84 seconds."),
        (ErrorShape::ZeroSeconds, 429, "try again after 0.0 seconds"),
        (ErrorShape::Short, 429, "exceeded the 250000 request/min rate limit"),
        (
            ErrorShape::Guide,
            429,
            "Token limit exceeded for gpt-image-1 per minute (TPM). Limit: 250000, current: 250183",
        ),
        (ErrorShape::GuideNoAccess, 403, "You are not authorized to use gpt-image-1. Please upgrade to Tier 1"),
        (ErrorShape::Unverified, 403, "Your organization must be verified to use the model `gpt-image-1`"),
        (exhausted(), 429, r#""code":"credit_balance_exhausted""#),
        (ErrorShape::BillingHardLimit, 400, r#""code":"billing_hard_limit_reached""#),
        (ErrorShape::Overloaded, 503, r#""code":"server_is_overloaded""#),
        (ErrorShape::SlowDown, 429, r#""type":"rate_limit_error""#),
        (ErrorShape::ServerError(None), 500, r#""type":"server_error""#),
        (
            ErrorShape::Azure,
            429,
            "have exceeded token rate limit of your current OpenAI S0 pricing tier. Please retry after 52 seconds.",
        ),
        (ErrorShape::UsageLimitReached, 429, r#""resets_in_seconds":52"#),
        (ErrorShape::Scaleway, 429, "INSUFFICIENT QUOTA"),
        (ErrorShape::Glm, 429, r#""code":"1302""#),
        (ErrorShape::BadGateway, 502, "<h1>502 Bad Gateway</h1>"),
        (ErrorShape::Moderation, 400, r#""code":"moderation_blocked""#),
        (ErrorShape::Invalid, 400, r#""param":"size""#),
        (ErrorShape::Unauthorized, 401, r#""code":"invalid_api_key""#),
        (ErrorShape::ModelNotFound, 404, r#""code":"model_not_found""#),
        (ErrorShape::PlainString, 429, r#"{"error":"Rate limit reached"#),
        (ErrorShape::Empty, 429, ""),
    ] {
        upstream.next(Script::RefuseWith(shape.clone(), Box::new(figures())));
        let answer = caller.draw(json!({})).await;
        assert_eq!(answer.status, status, "{shape:?}");
        assert!(answer.text().contains(words), "{shape:?}: {}", answer.text());
    }
    assert_eq!((upstream.tally().errors, upstream.tally().images), (31, 0));
}

#[tokio::test]
async fn hints_are_in_the_headers_of_errors_that_pass() {
    let (upstream, caller) = start(Terms::new()).await;
    for (shape, seconds, ms) in [
        (ErrorShape::RateLimit, "52", "51840"),
        (ErrorShape::Azure, "52", "51840"),
        (ErrorShape::Empty, "52", ""),
        (ErrorShape::LimitZero, "", ""),
        (ErrorShape::ZeroSeconds, "", ""),
        (ErrorShape::Unverified, "", ""),
    ] {
        upstream.next(Script::RefuseWith(shape.clone(), Box::new(figures())));
        let answer = caller.draw(json!({})).await;
        assert_eq!((answer.header("retry-after"), answer.header("retry-after-ms")), (seconds, ms), "{shape:?}");
    }
    for (should_retry, header) in [(None, ""), (Some(ShouldRetry::Yes), "true"), (Some(ShouldRetry::No), "false")] {
        upstream.next(Script::Refuse(ErrorShape::ServerError(should_retry)));
        assert_eq!(caller.draw(json!({})).await.header("x-should-retry"), header);
    }
}

#[tokio::test]
async fn scripts_come_in_turn_and_one_can_stand() {
    let (upstream, caller) = start(Terms::new().images(40)).await;
    upstream.next(Script::Refuse(ErrorShape::Overloaded));
    upstream.next(Script::Serve);
    upstream.from_now_on(Script::Refuse(ErrorShape::RateLimit));
    let mut statuses = Vec::new();
    for _ in 0..4 {
        statuses.push(caller.draw(json!({ "n": 2 })).await.status);
    }
    assert_eq!(statuses, [503, 200, 429, 429]);
    let message = caller.draw(json!({ "n": 2 })).await.text().to_owned();
    assert!(message.contains("Limit 40, Used 40, Requested 2. Please try again in 3s."), "{message}");
    upstream.from_now_on(Script::Serve);
    assert_eq!(caller.draw(json!({})).await.status, 200);
}

#[tokio::test]
async fn an_answer_can_be_given_byte_by_byte() {
    let (upstream, caller) = start(Terms::new()).await;
    let raw = Raw::new(418).header("x-pot: tea").media_type("text/plain").body("short and stout");
    upstream.next(Script::Reply(raw));
    let answer = caller.draw(json!({})).await;
    assert_eq!((answer.status, answer.header("x-pot"), answer.text()), (418, "tea", "short and stout"));
}

#[tokio::test]
async fn a_stream_can_begin_and_then_fail() {
    let (upstream, caller) = start(Terms::new()).await;
    upstream.next(Script::FailAfterEvents(1));
    let events = caller.draw(json!({ "stream": true, "partial_images": 3 })).await.events();
    let types: Vec<_> = events.iter().map(|event| event["type"].as_str().unwrap()).collect();
    assert_eq!(types, ["image_generation.partial_image", "error"]);
    assert_eq!(events[1]["error"]["code"], "rate_limit_exceeded");
    assert_eq!((upstream.tally().errors, upstream.tally().images), (1, 1), "it was admitted and charged");
}
