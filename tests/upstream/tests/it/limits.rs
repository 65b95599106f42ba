//! The limits hold over HTTP: what is refused, in which words, and what the headers say.

use std::time::Duration;

use allotment_upstream::{
    Arrivals, Enforcement, ErrorShape, Limits, ManualClock, Org, Pictures, RateHeaders, RefusedCalls, RetryHints,
    Stranger, Terms, TokenCharge,
};
use serde_json::json;

use crate::support::{Answer, Caller, start};

/// Those of a server that draws fast: many calls are made here.
fn terms() -> Terms {
    Terms::new().pictures(Pictures::Thumbnail)
}

async fn served(caller: &Caller, calls: usize) -> usize {
    let mut served = 0;
    for _ in 0..calls {
        served += usize::from(caller.draw(json!({})).await.status == 200);
    }
    served
}

#[tokio::test]
async fn each_style_gives_back_in_its_own_way() {
    for (enforcement, at_3_s, at_60_s) in
        [(Enforcement::Refill, 1, 20), (Enforcement::Rolling, 0, 20), (Enforcement::FixedMinute, 0, 20)]
    {
        let clock = ManualClock::new();
        let terms = terms().images(20).enforcement(enforcement).clock(&clock);
        let (upstream, caller) = start(terms).await;
        assert_eq!(served(&caller, 25).await, 20, "{enforcement:?}");
        clock.advance(Duration::from_secs(3));
        assert_eq!(served(&caller, 2).await, at_3_s, "{enforcement:?}");
        clock.advance(Duration::from_secs(60));
        assert_eq!(served(&caller, 25).await, at_60_s, "{enforcement:?}");
        assert_eq!(upstream.tally().images as usize, 20 + at_3_s + at_60_s);
    }
}

#[tokio::test]
async fn a_quantum_holds_a_share_of_the_minute() {
    let clock = ManualClock::new();
    let (_upstream, caller) = start(terms().requests(6).quantum(Duration::from_secs(10)).clock(&clock)).await;
    assert_eq!(served(&caller, 3).await, 1);
    clock.advance(Duration::from_secs(10));
    assert_eq!(served(&caller, 3).await, 1);
}

#[tokio::test]
async fn a_refusal_has_the_published_words_and_hints() {
    let clock = ManualClock::new();
    let (upstream, caller) = start(terms().images(250).clock(&clock)).await;
    for _ in 0..25 {
        assert_eq!(caller.draw(json!({ "n": 10 })).await.status, 200);
    }
    let answer = caller.draw(json!({ "n": 2 })).await;
    assert_eq!(answer.status, 429);
    assert_eq!(
        answer.json()["error"]["message"],
        "Rate limit reached for gpt-image-2 (for limit gpt-image) in organization org-test on input-images per min: \
         Limit 250, Used 250, Requested 2. Please try again in 480ms. \
         Visit https://platform.openai.com/account/rate-limits to learn more."
    );
    assert_eq!(answer.json()["error"]["type"], "input-images");
    assert_eq!((answer.header("retry-after"), answer.header("retry-after-ms")), ("1", "480"));
    assert_eq!(upstream.tally().refused["input-images"], 1);
}

#[tokio::test]
async fn a_call_larger_than_the_limit_is_refused_without_used() {
    let (_upstream, caller) = start(terms().images(5)).await;
    let answer = caller.draw(json!({ "n": 10 })).await;
    let message = answer.json()["error"]["message"].as_str().unwrap().to_owned();
    assert!(message.contains("Limit 5, Requested 10. Visit"), "{message}");
    assert_eq!(answer.header("retry-after"), "");
}

#[tokio::test]
async fn headers_say_what_is_left_when_they_are_asked_to() {
    let clock = ManualClock::new();
    let terms = terms().images(5).tokens(100_000).requests(10).clock(&clock);
    let images = |answer: &Answer| {
        ["limit", "remaining", "reset"]
            .map(|name| answer.header(&format!("x-ratelimit-{name}-input-images")).to_owned())
    };
    for (headers, on_success, on_refusal) in [
        (RateHeaders::Always, ["5", "4", "12s"], ["5", "0", "1m0s"]),
        (RateHeaders::OnRefusalOnly, ["", "", ""], ["5", "0", "1m0s"]),
        (RateHeaders::Never, ["", "", ""], ["", "", ""]),
        (RateHeaders::Sentinels, ["-1", "0", "0"], ["-1", "0", "0"]),
    ] {
        let (_upstream, caller) = start(terms.clone().headers(headers)).await;
        assert_eq!(images(&caller.draw(json!({})).await), on_success, "{headers:?}");
        served(&caller, 4).await;
        assert_eq!(images(&caller.draw(json!({})).await), on_refusal, "{headers:?}");
    }
    let (_upstream, caller) = start(terms).await;
    let answer = caller.draw(json!({ "quality": "low" })).await;
    assert_eq!(answer.header("x-ratelimit-remaining-requests"), "9");
    assert_eq!(answer.header("x-ratelimit-reset-requests"), "6s");
    assert_eq!(answer.header("x-ratelimit-remaining-tokens"), (100_000 - 196 - 3).to_string());
}

#[tokio::test]
async fn hints_can_be_in_the_message_alone() {
    let (_upstream, caller) = start(terms().images(1).hints(RetryHints::MessageOnly)).await;
    served(&caller, 1).await;
    let answer = caller.draw(json!({})).await;
    assert_eq!((answer.status, answer.header("retry-after")), (429, ""));
}

#[tokio::test]
async fn limits_can_refuse_with_status_200() {
    let (upstream, caller) = start(terms().images(1).refusal(ErrorShape::HiddenJson)).await;
    served(&caller, 1).await;
    let answer = caller.draw(json!({})).await;
    assert_eq!((answer.status, &answer.json()["error"]["code"]), (200, &json!("rate_limit_exceeded")));
    let tally = upstream.tally();
    assert_eq!((tally.served, tally.refusals()), (1, 1));
}

#[tokio::test]
async fn orgs_have_limits_of_their_own() {
    let terms = terms()
        .images(1)
        .org(Org::new("org-a").key("sk-a").key("sk-a2"))
        .org(Org::new("org-b").key("sk-b").limits(Limits::new().images(3)));
    let (upstream, caller) = start(terms).await;
    assert_eq!(served(&caller.with_key("sk-a"), 2).await, 1);
    assert_eq!(served(&caller.with_key("sk-a2"), 2).await, 0, "keys of an org share its quota");
    assert_eq!(served(&caller.with_key("sk-b"), 5).await, 3);
    let tally = upstream.tally();
    assert_eq!((tally.orgs["org-a"].refusals(), tally.orgs["org-b"].refusals()), (3, 2));
}

#[tokio::test]
async fn tokens_are_charged_as_they_will_be_used_or_by_the_image() {
    let clock = ManualClock::new();
    for (charge, left) in [(TokenCharge::Actual, 100_000 - 2 * 196 - 3), (TokenCharge::PerImage(12_000), 76_000)] {
        let (_upstream, caller) = start(terms().tokens(100_000).token_charge(charge).clock(&clock)).await;
        let answer = caller.draw(json!({ "n": 2, "quality": "low" })).await;
        assert_eq!(answer.header("x-ratelimit-remaining-tokens"), left.to_string(), "{charge:?}");
    }
}

#[tokio::test]
async fn refused_calls_count_as_requests_by_default() {
    let clock = ManualClock::new();
    for (refused_calls, left) in [(RefusedCalls::CountAsRequests, "7"), (RefusedCalls::CountNothing, "9")] {
        let terms = terms().images(1).requests(10).refused_calls(refused_calls).clock(&clock);
        let (_upstream, caller) = start(terms).await;
        served(&caller, 2).await;
        assert_eq!(caller.draw(json!({})).await.header("x-ratelimit-remaining-requests"), left);
    }
}

#[tokio::test]
async fn a_stranger_takes_its_share() {
    let clock = ManualClock::new();
    for arrivals in [Arrivals::Even, Arrivals::Poisson(5)] {
        let stranger = Stranger::new(0.30).arrivals(arrivals);
        let terms = terms().images(250).enforcement(Enforcement::Rolling).stranger(stranger).clock(&clock);
        let (upstream, caller) = start(terms).await;
        clock.advance(Duration::from_secs(120));
        let first = caller.draw(json!({})).await;
        let left: u64 = first.header("x-ratelimit-remaining-input-images").parse().unwrap();
        assert!((150..=200).contains(&left), "{arrivals:?} left {left}");
        let org = &upstream.tally().orgs["org-test"];
        assert!(org.stranger_admitted > 100 && org.stranger_refused == 0, "{org:?}");
        assert_eq!(org.images, 1, "what the stranger draws is not ours");
    }
}
