//! What calls are charged, however they end.

use std::{
    future::Future,
    pin::pin,
    task::{Context, Poll, Waker},
    time::Duration,
};

use allotment::{
    Cost, Error, Limit, Policy,
    openai::{ImageErrorKind, ImageInput, ImageRequest, RefusalKind, RetryPolicy, Route, RoutePrice},
};
use allotment_upstream::{ErrorShape, Fault, Raw, Script, Terms, UsageReport};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use super::stage::{Charged, MINUTE, Stage, alice, lighthouse, styles};

#[tokio::test]
async fn tokens_settle_to_what_was_used() {
    let stage = Stage::new(Terms::new().usage(UsageReport::ToldOfTools)).await;
    let mut expected = Charged::default();
    for route in styles(&stage.upstream) {
        let drawn = stage.client([route]).run(&alice(), lighthouse()).await.unwrap();
        let used = drawn.usage.unwrap().total_tokens;
        assert_eq!((drawn.served.charged_tokens, used > 0), (used, true));
        expected = Charged {
            requests: expected.requests + 1,
            tokens: expected.tokens + used,
            images: expected.images + 1,
            in_flight: 0,
        };
        assert_eq!(stage.charged().await, expected);
    }
}

#[tokio::test]
async fn an_answer_without_usage_stays_charged_as_estimated() {
    let stage = Stage::new(Terms::new().usage(UsageReport::Left)).await;
    let drawn = stage.client([stage.route()]).run(&alice(), lighthouse()).await.unwrap();
    let estimated = drawn.served.estimated_tokens;
    assert_eq!((drawn.usage, drawn.served.charged_tokens), (None, estimated));
    assert_eq!(stage.charged().await, Charged { requests: 1, tokens: estimated, images: 1, in_flight: 0 });
}

#[tokio::test]
async fn what_a_caller_expects_is_charged_until_the_usage_is_known() {
    let stage = Stage::new(Terms::new()).await;
    let client = stage.client([stage.route()]);
    let expected = Cost::images(1).tokens(77);
    let served = client.call(&alice(), lighthouse()).expected(expected.clone()).await.unwrap().served;
    assert_eq!(served.estimated_tokens, 77);
    assert!(served.spend_micros.unwrap() > 0, "what it cost is known though nobody expected it");
    let stage = Stage::new(Terms::new().usage(UsageReport::Left)).await;
    let served = stage.client([stage.route()]).call(&alice(), lighthouse()).expected(expected).await.unwrap().served;
    assert_eq!((served.estimated_tokens, served.charged_tokens, served.spend_micros), (77, 77, None));
}

#[tokio::test]
async fn an_answer_in_words_is_charged_what_it_used_and_not_held_against_the_route() {
    let stage = Stage::new(Terms::new()).await;
    let body = r#"{"choices":[{"message":{"content":"I cannot draw that."}}],
                   "usage":{"prompt_tokens":9,"completion_tokens":6,"total_tokens":15}}"#;
    stage.upstream.from_now_on(Script::Reply(Raw::new(200).body(body)));
    let [.., chat] = styles(&stage.upstream);
    let client = stage.client([chat]);
    for calls in 1..=4 {
        let error = client.run(&alice(), lighthouse()).await.unwrap_err();
        assert_eq!((error.kind(), error.is_retryable()), (ImageErrorKind::NoImage, false));
        let charged = Charged { requests: calls, tokens: 15 * calls, images: 0, in_flight: 0 };
        assert_eq!((stage.charged().await, stage.upstream.tally().calls), (charged, calls));
    }
}

#[tokio::test]
async fn money_stays_as_estimated_where_usage_does_not_tell_it() {
    let price = RoutePrice::PerMillionTokens { text_input: 5_000_000, image_input: 8_000_000, output: 30_000_000 };
    for usage in [r#"{"total_tokens":5000}"#, r#"{"input_tokens":0,"output_tokens":0,"total_tokens":0}"#] {
        for price in [None, Some(price)] {
            let stage = Stage::new(Terms::new()).await;
            let body = format!(r#"{{"data":[{{"b64_json":"iVBORw0KGgo="}}],"usage":{usage}}}"#);
            stage.upstream.next(Script::Reply(Raw::new(200).body(body)));
            let route = price.into_iter().fold(stage.route(), Route::price);
            let drawn = stage.client([route]).run(&alice(), lighthouse()).await.unwrap();
            assert!(drawn.served.spend_micros.unwrap() > 5_000, "{usage} {price:?} {:?}", drawn.served);
        }
    }
}

#[tokio::test]
async fn what_was_not_answered_stays_charged_as_estimated() {
    let stage = Stage::new(Terms::new().usage(UsageReport::Left)).await;
    let drawn = stage.client([stage.route()]).run(&alice(), lighthouse()).await.unwrap();
    let tokens = drawn.served.estimated_tokens;
    for (fault, kind) in [
        (Fault::HangUpUnanswered, ImageErrorKind::Unanswered),
        (Fault::CutAfterBytes(20), ImageErrorKind::Unanswered),
        (Fault::Silence, ImageErrorKind::Unanswered),
        (Fault::StallAfterBytes(20), ImageErrorKind::Unanswered),
        (Fault::TruncatedJson, ImageErrorKind::Unreadable),
    ] {
        let stage = Stage::new(Terms::new()).await;
        stage.upstream.next(Script::Break(fault.clone()));
        let is_silent = matches!(fault, Fault::Silence | Fault::StallAfterBytes(_));
        let timeout = if is_silent { Duration::from_millis(300) } else { MINUTE };
        let client = stage.client_with([stage.route()], |builder| builder.timeout(timeout));
        let error = client.run(&alice(), lighthouse()).await.unwrap_err();
        assert_eq!((error.kind(), error.is_retryable()), (kind, false), "{fault:?}");
        assert_eq!(stage.charged().await, Charged { requests: 1, tokens, images: 1, in_flight: 0 }, "{fault:?}");
    }
    for script in [Script::Refuse(ErrorShape::BadGateway), Script::Reply(Raw::new(503)), Script::Reply(Raw::new(529))] {
        let stage = Stage::new(Terms::new()).await;
        stage.upstream.next(script.clone());
        stage.client([stage.route()]).run(&alice(), lighthouse()).await.unwrap_err();
        let charged = stage.charged().await.tokens;
        assert_eq!(charged, tokens, "upstream may have drawn behind a gateway that gave up: {script:?}");
        assert_eq!(stage.upstream.tally().calls, 1, "{script:?}");
    }
}

/// The head of a refusal comes, and nothing of its body.
#[tokio::test]
async fn a_refusal_whose_body_breaks_off_at_once_is_one_by_its_status() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base_url = format!("http://{}/v1", listener.local_addr().unwrap());
    let upstream = tokio::spawn(async move {
        let (mut call, _) = listener.accept().await.unwrap();
        let mut head = vec![0; 64 << 10];
        assert!(call.read(&mut head).await.unwrap() > 0);
        call.write_all(b"HTTP/1.1 429 Too Many Requests\r\ncontent-length: 100\r\n\r\n").await.unwrap();
        call.shutdown().await.unwrap();
        // closed with something unread, it would take the head back
        while call.read(&mut head).await.unwrap_or(0) > 0 {}
    });
    let stage = Stage::new(Terms::new()).await;
    let route = Route::compatible("cut", base_url, "key");
    let client = stage.client_with([route], |builder| builder.retry(RetryPolicy::none()));
    let error = client.run(&alice(), lighthouse()).await.unwrap_err();
    assert_eq!(error.refusal().map(|refusal| refusal.kind), Some(RefusalKind::RateLimited), "{error:?}");
    assert_eq!(stage.charged().await, Charged { requests: 1, ..Charged::default() });
    upstream.await.unwrap();
}

#[tokio::test]
async fn what_could_not_be_sent_costs_nothing() {
    let stage = Stage::new(Terms::new()).await;
    let gone = Route::compatible("gone", "http://127.0.0.1:1/v1", "key");
    let client = stage.client_with([gone], |builder| builder.retry(RetryPolicy::new().attempts_max(2)));
    let error = client.run(&alice(), lighthouse()).await.unwrap_err();
    assert_eq!((error.kind(), error.is_retryable()), (ImageErrorKind::Unreachable, true));
    assert_eq!(stage.charged().await, Charged::default());
}

#[tokio::test]
async fn a_call_without_quota_is_not_sent() {
    let policy = Policy::new().limit(Limit::new("org").scope(["org"]).images(1).window(MINUTE));
    let stage = Stage::with_policy(Terms::new(), policy).await;
    let client = stage.client_with([stage.route()], |builder| builder.max_wait(Duration::ZERO));
    client.run(&alice(), lighthouse()).await.unwrap();
    let error = client.run(&alice(), lighthouse()).await.unwrap_err();
    assert_eq!(error.kind(), ImageErrorKind::NotAdmitted);
    assert!(error.limiter().and_then(Error::denial).is_some() && error.retry_after().is_some());
    assert_eq!(stage.upstream.tally().calls, 1);
}

#[tokio::test]
async fn what_cannot_be_sent_after_all_costs_nothing() {
    let stage = Stage::new(Terms::new()).await;
    let png = {
        let drawn = stage.client([stage.route()]).run(&alice(), lighthouse()).await.unwrap();
        drawn.images[0].bytes().unwrap()
    };
    let charged = stage.charged().await;
    let [.., chat] = styles(&stage.upstream);
    let image = ImageInput::bytes(png.clone()).unwrap();
    let masked = ImageRequest::edit("a hat", [image.clone()]).mask(image);
    let error = stage.client([chat]).run(&alice(), masked).await.unwrap_err();
    assert_eq!(error.kind(), ImageErrorKind::Invalid);
    assert_eq!(stage.charged().await, charged, "the style has no word for a mask");
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("gone.png");
    std::fs::write(&path, &png).unwrap();
    let request = ImageRequest::edit("a hat", [ImageInput::file(&path).await.unwrap()]);
    std::fs::remove_file(&path).unwrap();
    let error = stage.client([stage.route()]).run(&alice(), request).await.unwrap_err();
    assert_eq!(error.kind(), ImageErrorKind::Invalid);
    assert_eq!(stage.charged().await, charged, "the file is gone");
}

/// Nobody answers, and callers give up after any number of steps: before the permit, before the request is sent, after it.
#[tokio::test]
async fn ten_thousand_calls_that_are_given_up_leave_nothing_behind() {
    const CALLS: u64 = 10_000;
    let stage = Stage::new(Terms::new()).await;
    stage.upstream.from_now_on(Script::Break(Fault::Silence));
    let client = stage.client([stage.route()]);
    let alive = tokio::runtime::Handle::current().metrics().num_alive_tasks();
    for call in 0..CALLS {
        let (subject, request) = (alice(), lighthouse());
        let mut running = pin!(client.run(&subject, request));
        for _ in 0..call % 7 {
            let polled = running.as_mut().poll(&mut Context::from_waker(Waker::noop()));
            assert!(matches!(polled, Poll::Pending));
            tokio::task::yield_now().await;
        }
    }
    let Charged { requests, in_flight, .. } = stage.charged().await;
    assert_eq!(in_flight, 0, "every slot is free");
    let sent = stage.upstream.tally().calls;
    assert!(0 < sent && sent <= requests, "what was sent stays charged: {sent} of {requests}");
    // those that were not polled have not asked
    assert!(requests <= CALLS - CALLS / 7, "{requests}");
    drop(client);
    crate::support::eventually("no connection or task is left", async || {
        let left = tokio::runtime::Handle::current().metrics().num_alive_tasks();
        (stage.upstream.tally().connections_open == 0 && left <= alive).then_some(())
    })
    .await;
}
