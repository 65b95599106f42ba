//! What the fleet learns from upstream: others' use, and pauses.

use std::time::Duration;

use allotment::{
    Cost, Decision, Limit, Outcome, Policy, Reason, Resource, Subject,
    openai::{Models, RetryPolicy},
};
use allotment_upstream::{ErrorShape, Org, Raw, Script, Terms};

use super::stage::{MINUTE, Stage, alice, lighthouse};

fn pool() -> Subject {
    alice().model(Models::embedded().get("gpt-image-2").pool())
}

fn policy() -> Policy {
    let limit = Limit::new("pool").scope(["org", "model"]).requests(1_000).images(250).tokens(8_000_000);
    Policy::new().limit(limit.window(MINUTE))
}

async fn used(stage: &Stage, resource: &Resource) -> u64 {
    let looked = stage.limiter.peek(&pool(), Cost::new().requests(0)).await.unwrap();
    let (Decision::Allowed(limits) | Decision::Denied(allotment::Denial { limits, .. })) = looked;
    limits.iter().find(|status| status.resource == *resource).unwrap().used
}

#[tokio::test]
async fn use_that_headers_show_is_taken_for_used() {
    let stage = Stage::with_policy(Terms::new().org(Org::new("org-test").key("sk-test")), policy()).await;
    let client = stage.client([stage.route()]);
    client.run(&alice(), lighthouse()).await.unwrap();
    assert_eq!(used(&stage, &Resource::Images).await, 1);
    let crowded = Raw::new(200)
        .header("x-ratelimit-limit-input-images: 250")
        .header("x-ratelimit-remaining-input-images: 100")
        .body(r#"{"data":[{"b64_json":"iVBORw0KGgo="}]}"#);
    stage.upstream.next(Script::Reply(crowded));
    client.run(&alice(), lighthouse()).await.unwrap();
    // two of ours, 148 of others, and a quarter of those
    assert_eq!(used(&stage, &Resource::Images).await, 187);
}

#[tokio::test]
async fn a_rate_limit_holds_the_whole_fleet_back_and_that_resource_alone() {
    let stage = Stage::with_policy(Terms::new(), policy()).await;
    let message = "Rate limit reached for gpt-image-2 in organization org-a on input-images per min: Limit 250, Used 250, \
                   Requested 1. Please try again in 15ms.";
    let body =
        serde_json::json!({"error": {"message": message, "type": "input-images", "code": "rate_limit_exceeded"}});
    stage.upstream.next(Script::Reply(Raw::new(429).body(body.to_string())));
    let client = stage.client_with([stage.route()], |builder| builder.retry(RetryPolicy::none()));
    client.run(&alice(), lighthouse()).await.unwrap_err();
    let Outcome::Denied(denial) = stage.limiter.try_acquire(&pool(), Cost::images(1)).await.unwrap() else { panic!() };
    assert!(matches!(denial.reason, Reason::CoolDown | Reason::Limit), "{denial:?}");
    assert_eq!(denial.resource, Resource::Images);
    let text_only = Cost::new().tokens(10);
    assert!(matches!(stage.limiter.try_acquire(&pool(), text_only).await.unwrap(), Outcome::Admitted(_)));
    assert!(used(&stage, &Resource::Images).await >= 249, "upstream's figures are taken over");
}

#[tokio::test]
async fn an_upstream_without_room_is_left_alone_for_as_long_as_it_asks() {
    let stage = Stage::with_policy(Terms::new(), policy()).await;
    let busy = Raw::new(503).header("retry-after: 30").body(r#"{"error":{"code":"server_is_overloaded"}}"#);
    stage.upstream.next(Script::Reply(busy));
    let client = stage.client_with([stage.route()], |builder| builder.max_wait(Duration::ZERO));
    client.run(&alice(), lighthouse()).await.unwrap_err();
    let Outcome::Denied(denial) = stage.limiter.try_acquire(&pool(), Cost::images(1)).await.unwrap() else { panic!() };
    let wait = denial.retry_after().unwrap();
    assert!(Duration::from_secs(20) < wait && wait <= Duration::from_secs(31), "{wait:?}");
    assert_eq!(stage.upstream.tally().calls, 1);
    client.run(&alice(), lighthouse()).await.unwrap_err();
    assert_eq!(stage.upstream.tally().calls, 1, "nobody asks meanwhile");
}

#[tokio::test]
async fn what_cannot_succeed_holds_nobody_back() {
    for shape in [ErrorShape::Moderation, ErrorShape::Invalid, ErrorShape::TooLarge, ErrorShape::BillingHardLimit] {
        let stage = Stage::with_policy(Terms::new(), policy()).await;
        stage.upstream.next(Script::Refuse(shape.clone()));
        stage.client([stage.route()]).run(&alice(), lighthouse()).await.unwrap_err();
        let outcome = stage.limiter.try_acquire(&pool(), Cost::images(1)).await.unwrap();
        assert!(matches!(outcome, Outcome::Admitted(_)), "{shape:?}");
    }
}
