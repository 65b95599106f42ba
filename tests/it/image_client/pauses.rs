//! What a call does while its routes pause.

use std::time::Duration;

use allotment::openai::{ImageErrorKind, RetryPolicy, Route};
use allotment_upstream::Terms;
use tokio::time::Instant;

use super::stage::{MINUTE, Stage, alice, lighthouse};

fn gone() -> Route {
    Route::compatible("gone", "http://127.0.0.1:1/v1", "key")
}

#[tokio::test(start_paused = true)]
async fn a_pause_of_all_routes_is_a_part_of_the_wait() {
    let stage = Stage::new(Terms::new()).await;
    let client = stage.client_with([gone()], |builder| builder.retry(RetryPolicy::none()));
    let call = |max_wait| client.call(&alice(), lighthouse()).max_wait(max_wait);
    for _ in 0..3 {
        call(MINUTE).await.unwrap_err();
    }
    let hurried = call(Duration::from_secs(1)).await.unwrap_err();
    assert!(hurried.to_string().starts_with("no route: gone: it failed"), "{hurried}");
    assert_eq!(hurried.kind(), ImageErrorKind::Unreachable);
    let pause = hurried.retry_after().unwrap();
    let began = Instant::now();
    let patient = call(MINUTE).await.unwrap_err();
    assert_eq!(patient.to_string(), "upstream cannot be reached", "it was asked");
    assert!(began.elapsed() >= pause, "{pause:?}");
}

#[tokio::test(start_paused = true)]
async fn a_call_whose_failures_made_the_pause_is_told_of_them() {
    let stage = Stage::new(Terms::new()).await;
    let client = stage.client_with([gone()], |builder| builder.retry(RetryPolicy::new().attempts_max(9)));
    let error = client.call(&alice(), lighthouse()).max_wait(Duration::from_secs(4)).await.unwrap_err();
    assert_eq!(error.to_string(), "upstream cannot be reached");
    let before = client.routes()[0].paused_for;
    let patient = client.call(&alice(), lighthouse()).await.unwrap_err();
    assert_eq!((before.is_some(), patient.to_string().as_str()), (true, "upstream cannot be reached"));
}
