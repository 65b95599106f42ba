//! Answers break as they are told to, and every call ends in the tally as one thing.

use std::time::Duration;

use allotment_upstream::{Fault, Latency, Pictures, Script, Tally, Terms, Upstream};
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use crate::support::{Caller, lighthouse, start};

const PATIENCE: Duration = Duration::from_secs(20);

/// What the server has seen once this holds of it.
async fn eventually(upstream: &Upstream, holds: impl Fn(&Tally) -> bool) -> Tally {
    let waited = timeout(PATIENCE, async {
        while !holds(&upstream.tally()) {
            sleep(Duration::from_millis(2)).await;
        }
    });
    waited.await.unwrap_or_else(|_| panic!("{:?}", upstream.tally()));
    upstream.tally()
}

async fn broken(fault: Fault, fields: Value) -> (Upstream, Caller, Option<crate::support::Answer>) {
    let (upstream, caller) = start(Terms::new()).await;
    upstream.next(Script::Break(fault));
    let answer = caller.try_send("/v1/images/generations", lighthouse(fields)).await.ok();
    (upstream, caller, answer)
}

#[tokio::test]
async fn a_connection_closes_where_it_is_told_to() {
    for (fault, fields, images) in [
        (Fault::HangUpBeforeReading, json!({}), 0),
        (Fault::HangUpUnanswered, json!({}), 1),
        (Fault::CutAfterBytes(100), json!({}), 1),
        (Fault::CutAfterBytes(0), json!({}), 1),
        (Fault::CutAfterEvents(1), json!({ "stream": true, "partial_images": 2 }), 1),
    ] {
        let (upstream, caller, answer) = broken(fault.clone(), fields).await;
        assert!(answer.is_none(), "{fault:?} answered {answer:?}");
        let tally = eventually(&upstream, |tally| tally.under_way == 0).await;
        assert_eq!((tally.cut, tally.served, tally.abandoned, tally.images), (1, 0, 0, images), "{fault:?}");
        assert_eq!(caller.draw(json!({})).await.status, 200, "the next call has a connection of its own");
    }
}

#[tokio::test]
async fn what_came_before_a_cut_arrives() {
    let (upstream, caller) = start(Terms::new()).await;
    upstream.next(Script::Break(Fault::CutAfterEvents(1)));
    let body = lighthouse(json!({ "stream": true, "partial_images": 2 }));
    let mut response = caller.post("/v1/images/generations").json(&body).send().await.unwrap();
    let mut seen = Vec::new();
    let end = loop {
        match response.chunk().await {
            Ok(Some(chunk)) => seen.extend(chunk),
            end => break end,
        }
    };
    assert!(end.is_err());
    let seen = String::from_utf8(seen).unwrap();
    assert_eq!(seen.matches("event: image_generation.partial_image").count(), 1);
    assert!(seen.ends_with("\n\n"));
}

#[tokio::test]
async fn a_stream_can_end_without_its_last_event() {
    let (upstream, _, answer) = broken(Fault::EndAfterEvents(1), json!({ "stream": true, "partial_images": 1 })).await;
    assert_eq!(answer.unwrap().events().len(), 1);
    assert_eq!(upstream.tally().cut, 1);
}

#[tokio::test]
async fn an_answer_can_be_spoilt() {
    let (_, _, answer) = broken(Fault::WrongMediaType, json!({})).await;
    assert_eq!(answer.unwrap().header("content-type"), "text/plain");
    let (_, _, answer) = broken(Fault::TruncatedJson, json!({})).await;
    let answer = answer.unwrap();
    assert!(answer.status == 200 && serde_json::from_slice::<Value>(&answer.body).is_err());
    let (_, _, answer) = broken(Fault::Redirect("http://127.0.0.1:1/".to_owned()), json!({})).await;
    let answer = answer.unwrap();
    assert_eq!((answer.status, answer.header("location")), (302, "http://127.0.0.1:1/"));
    let (_, _, answer) = broken(Fault::GiantEvent(1 << 20), json!({ "stream": true })).await;
    assert!(answer.unwrap().text().starts_with(&format!("event: giant\ndata: {}", "x".repeat(1 << 20))));
}

#[tokio::test]
async fn a_slow_answer_arrives_whole() {
    let (upstream, _, answer) = broken(Fault::Trickle(500), json!({ "size": "1024x1024" })).await;
    assert!(answer.unwrap().json()["data"][0]["b64_json"].is_string());
    assert_eq!(upstream.tally().served, 1);
    let (_, _, answer) = broken(Fault::Late(Duration::from_millis(1)), json!({})).await;
    assert_eq!(answer.unwrap().status, 200);
}

#[tokio::test]
async fn silence_lasts_until_the_client_goes() {
    for fault in [Fault::Silence, Fault::StallAfterBytes(10)] {
        let (upstream, caller) = start(Terms::new()).await;
        upstream.next(Script::Break(fault.clone()));
        let call = tokio::spawn({
            let caller = caller.with_key(&caller.key);
            async move { caller.try_send("/v1/images/generations", lighthouse(json!({}))).await.is_ok() }
        });
        let tally = eventually(&upstream, |tally| tally.cut == 1).await;
        assert_eq!((tally.under_way, tally.images), (1, 1), "{fault:?}");
        call.abort();
        eventually(&upstream, |tally| tally.under_way == 0).await;
    }
}

#[tokio::test]
async fn a_client_that_goes_early_has_abandoned_its_call() {
    let terms = Terms::new().latency(Latency::fixed(Duration::from_secs(600)));
    let (upstream, caller) = start(terms).await;
    let call = tokio::spawn(async move { caller.draw(json!({})).await.status });
    eventually(&upstream, |tally| tally.images == 1).await;
    call.abort();
    let tally = eventually(&upstream, |tally| tally.under_way == 0).await;
    assert_eq!((tally.abandoned, tally.served, tally.cut), (1, 0, 0));
}

#[tokio::test]
async fn a_body_that_is_not_read_to_its_end_is_abandoned() {
    let (upstream, caller) = start(Terms::new().pictures(Pictures::Noise)).await;
    // Larger than what sockets hold on their way.
    let body = lighthouse(json!({ "size": "2048x2048" }));
    let response = caller.post("/v1/images/generations").json(&body).send().await.unwrap();
    assert_eq!(upstream.tally().under_way, 1);
    drop(response);
    let tally = eventually(&upstream, |tally| tally.under_way == 0).await;
    assert_eq!((tally.abandoned, tally.served), (1, 0));
}

#[tokio::test]
async fn connections_are_kept_and_counted_and_closed() {
    let (upstream, caller) = start(Terms::new().pictures(Pictures::Thumbnail)).await;
    for _ in 0..3 {
        caller.draw(json!({})).await;
    }
    let tally = upstream.tally();
    assert_eq!((tally.connections, tally.connections_open, tally.served), (1, 1, 3));
    timeout(PATIENCE, upstream.stop()).await.unwrap();
    assert!(caller.try_send("/v1/images/generations", lighthouse(json!({}))).await.is_err());
}

#[tokio::test]
async fn calls_under_way_may_end_before_it_finishes() {
    let (upstream, caller) = start(Terms::new().latency(Latency::fixed(Duration::from_millis(50)))).await;
    let call = tokio::spawn(async move { caller.draw(json!({})).await.status });
    eventually(&upstream, |tally| tally.images == 1).await;
    upstream.finish(PATIENCE).await;
    assert_eq!(call.await.unwrap(), 200);
}

#[tokio::test]
async fn a_fast_clock_makes_short_work_of_latency() {
    let (upstream, caller) =
        start(Terms::new().speed(10_000.0).latency(Latency::fixed(Duration::from_secs(100)))).await;
    let begun = upstream.now();
    caller.draw(json!({})).await;
    assert!(upstream.now() - begun >= Duration::from_secs(100));
}
