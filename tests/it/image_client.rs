//! The image client against a simulated upstream, over real sockets: what is drawn, and what is asked again.

mod cancels;
mod charges;
mod counts;
mod echoes;
mod feedback;
mod fetches;
mod pauses;
mod repeats;
mod secrets;
mod settings;
mod settlement;
mod stage;
mod streams;
mod vectors;

use std::time::Duration;

use allotment::openai::{
    Background, ImageErrorKind, ImageInput, ImageRequest, Moderation, OutputFormat, RefusalKind, RetryPolicy, Route,
    Style,
};
use allotment_upstream::{ChatPicture, ErrorShape, Fault, Raw, Script, Terms};

use self::stage::{Charged, Stage, alice, is_png, lighthouse, styles};

#[tokio::test]
async fn each_style_of_api_draws_a_picture() {
    use ChatPicture::{BareUrl, DataUrl, ImagesField, Markdown, MarkdownData};
    for picture in [Markdown, MarkdownData, BareUrl, DataUrl, ImagesField] {
        let stage = Stage::new(Terms::new().chat_picture(picture)).await;
        let is_asked = |route: &Route| *route.style() == Style::Chat || picture == Markdown;
        for route in styles(&stage.upstream).into_iter().filter(is_asked) {
            let client = stage.client([route.clone()]);
            let drawn = client.run(&alice(), lighthouse()).await.unwrap();
            let image = client.fetch(&drawn.images[0]).await.unwrap();
            assert!(is_png(&image.bytes().unwrap()), "{route:?} {picture:?}");
            assert_eq!((&*drawn.served.route, drawn.served.attempts), (route.name(), 1));
        }
    }
}

#[tokio::test]
async fn a_picture_is_saved_as_it_was_drawn() {
    let stage = Stage::new(Terms::new()).await;
    let drawn = stage.client([stage.route()]).run(&alice(), lighthouse().n(2)).await.unwrap();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("lighthouse.png");
    drawn.images[1].save(&path).await.unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), drawn.images[1].bytes().unwrap());
    assert_eq!(drawn.images.len(), 2);
}

#[tokio::test]
async fn images_to_edit_are_sent_from_memory_and_from_files() {
    let stage = Stage::new(Terms::new()).await;
    let drawn = stage.client([stage.route()]).run(&alice(), lighthouse()).await.unwrap();
    let png = drawn.images[0].bytes().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("b.png");
    std::fs::write(&path, &png).unwrap();
    let input = ImageInput::bytes(png.clone()).unwrap();
    let inputs = [input.clone(), ImageInput::file(&path).await.unwrap()];
    for route in styles(&stage.upstream) {
        let request = ImageRequest::edit("a hat", inputs.clone());
        let request = if *route.style() == Style::Chat { request } else { request.mask(input.clone()) };
        stage.client([route]).run(&alice(), request).await.unwrap();
    }
    let edit = &stage.upstream.calls()[1];
    let images: Vec<_> = edit.parts.iter().filter(|part| part.media_type.is_some()).collect();
    assert_eq!(images.iter().map(|part| part.name.as_str()).collect::<Vec<_>>(), ["image[]", "image[]", "mask"]);
    assert!(images.iter().all(|part| part.length == png.len() && part.sha256 == images[0].sha256));
    let agent = concat!("allotment/", env!("CARGO_PKG_VERSION"));
    assert_eq!((edit.path.as_str(), edit.user_agent.as_deref()), ("/v1/images/edits", Some(agent)));
}

#[tokio::test]
async fn a_refusal_is_of_one_kind_whatever_way_it_came_and_costs_a_request() {
    use RefusalKind::{Exhausted, Invalid, Moderation, NoAccess, Overloaded, RateLimited, TooLarge};
    for (shape, kind) in [
        (ErrorShape::RateLimit, RateLimited),
        (ErrorShape::HiddenJson, RateLimited),
        (ErrorShape::HiddenEvents, RateLimited),
        (ErrorShape::ErrorEvent, RateLimited),
        (ErrorShape::TooLarge, TooLarge),
        (ErrorShape::LimitZero, NoAccess),
        (ErrorShape::Unverified, NoAccess),
        (ErrorShape::Exhausted("credit_balance_exhausted".to_owned()), Exhausted),
        (ErrorShape::BillingHardLimit, Exhausted),
        (ErrorShape::Overloaded, Overloaded),
        (ErrorShape::Moderation, Moderation),
        (ErrorShape::Invalid, Invalid),
    ] {
        let stage = Stage::new(Terms::new()).await;
        stage.upstream.next(Script::Refuse(shape.clone()));
        let client = stage.client_with([stage.route()], |builder| builder.retry(RetryPolicy::none()));
        let error = client.run(&alice(), lighthouse()).await.unwrap_err();
        assert_eq!((error.kind(), error.refusal().unwrap().kind), (ImageErrorKind::Refused, kind), "{shape:?}");
        assert_eq!(stage.charged().await, Charged { requests: 1, ..Charged::default() }, "{shape:?}");
        assert_eq!(stage.upstream.tally().calls, 1);
    }
}

#[tokio::test]
async fn what_may_succeed_is_asked_again_with_a_permit_of_its_own() {
    for shape in [ErrorShape::Overloaded, ErrorShape::RateLimit, ErrorShape::HiddenEvents] {
        let stage = Stage::new(Terms::new()).await;
        stage.upstream.next(Script::Refuse(shape.clone()));
        let drawn = stage.client([stage.route()]).run(&alice(), lighthouse()).await.unwrap();
        assert_eq!(drawn.served.attempts, 2, "{shape:?}");
        assert!(drawn.served.failed[0].why.contains("upstream refused"), "{:?}", drawn.served.failed);
        let Charged { requests, images, in_flight, .. } = stage.charged().await;
        assert_eq!((requests, images, in_flight), (2, 1, 0));
    }
}

#[tokio::test]
async fn what_cannot_succeed_or_may_have_been_made_is_asked_once() {
    let exhausted = ErrorShape::Exhausted("credit_balance_exhausted".to_owned());
    for script in [
        Script::Refuse(ErrorShape::TooLarge),
        Script::Refuse(ErrorShape::Unverified),
        Script::Refuse(exhausted),
        Script::Refuse(ErrorShape::Moderation),
        Script::Refuse(ErrorShape::ServerError(None)),
        Script::Break(Fault::HangUpUnanswered),
        Script::Break(Fault::CutAfterBytes(20)),
        Script::Break(Fault::TruncatedJson),
        Script::Break(Fault::Redirect("http://127.0.0.1:1/".to_owned())),
    ] {
        let stage = Stage::new(Terms::new()).await;
        stage.upstream.next(script.clone());
        stage.client([stage.route()]).run(&alice(), lighthouse()).await.unwrap_err();
        assert_eq!(stage.upstream.tally().calls, 1, "{script:?}");
    }
}

#[tokio::test]
async fn a_hint_beyond_the_callers_patience_is_passed_on() {
    let stage = Stage::new(Terms::new()).await;
    let busy = Raw::new(503).header("retry-after: 90").body(r#"{"error":{"code":"server_is_overloaded"}}"#);
    stage.upstream.next(Script::Reply(busy));
    let client = stage.client_with([stage.route()], |builder| builder.max_wait(Duration::from_secs(5)));
    let error = client.run(&alice(), lighthouse()).await.unwrap_err();
    assert_eq!((error.retry_after(), error.is_retryable()), (Some(Duration::from_secs(90)), true));
    assert_eq!(stage.upstream.tally().calls, 1);
}

#[tokio::test]
async fn an_answer_is_read_whatever_it_says_it_is() {
    for fault in [Fault::WrongMediaType, Fault::Trickle(500)] {
        let stage = Stage::new(Terms::new()).await;
        stage.upstream.next(Script::Break(fault.clone()));
        let drawn = stage.client([stage.route()]).run(&alice(), lighthouse()).await.unwrap();
        assert!(is_png(&drawn.images[0].bytes().unwrap()), "{fault:?}");
    }
}

#[tokio::test]
async fn an_answer_is_held_up_to_a_bound() {
    let stage = Stage::new(Terms::new()).await;
    let client = stage.client_with([stage.route()], |builder| builder.answer_bytes_max(100));
    let error = client.run(&alice(), lighthouse()).await.unwrap_err();
    assert_eq!(error.kind(), ImageErrorKind::Unreadable);
}

#[tokio::test]
async fn a_call_goes_to_the_next_route_where_one_has_no_room() {
    let (stage, other) = (Stage::new(Terms::new()).await, Stage::new(Terms::new()).await);
    stage.upstream.from_now_on(Script::Refuse(ErrorShape::Overloaded));
    let gone = Route::compatible("gone", "http://127.0.0.1:1/v1", "key");
    let spare = Route::compatible("spare", other.upstream.base_url(), other.upstream.key()).priority(1);
    let drawn = stage.client([stage.route(), gone, spare]).run(&alice(), lighthouse()).await.unwrap();
    assert_eq!((&*drawn.served.route, drawn.served.attempts), ("spare", 3));
    let mut failed: Vec<_> = drawn.served.failed.iter().map(|failed| &*failed.route).collect();
    failed.sort_unstable();
    assert_eq!(failed, ["direct", "gone"]);
    // the one that could not be reached costs nothing
    assert_eq!(stage.charged().await.requests, 2);
}

#[tokio::test]
async fn a_route_without_words_for_what_is_asked_is_passed_by_and_charged_nothing() {
    let png = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x10\0\0\0\x10\x08\x02\0\0\0".to_vec();
    let input = ImageInput::bytes(png).unwrap();
    let masked = ImageRequest::edit("a hat", [input.clone()]).mask(input);
    for (place, request, why) in [
        (2, lighthouse().n(2), "n = 2: a route of style `responses` draws one image a call"),
        (3, masked, "mask: a route of style `chat` takes none"),
    ] {
        let stage = Stage::new(Terms::new()).await;
        let [images, ..] = styles(&stage.upstream);
        let wordless = styles(&stage.upstream)[place].clone();
        let alone = stage.client([wordless.clone()]).run(&alice(), request.clone()).await.unwrap_err();
        let told = format!("no route: {}: {why}", wordless.name());
        assert_eq!((alone.kind(), alone.to_string()), (ImageErrorKind::Invalid, told));
        assert_eq!((stage.charged().await, stage.upstream.tally().calls), (Charged::default(), 0));
        let client = stage.client([wordless.clone(), images.priority(1)]);
        let served = client.run(&alice(), request).await.unwrap().served;
        let failed: Vec<_> = served.failed.iter().map(|failed| (&*failed.route, failed.why.as_str())).collect();
        assert_eq!((&*served.route, served.attempts, failed), ("images", 1, vec![(wordless.name(), why)]));
        assert_eq!(stage.charged().await.requests, 1);
    }
}

#[tokio::test]
async fn what_a_request_sets_is_sent_in_each_style() {
    let stage = Stage::new(Terms::new()).await;
    let request = lighthouse().background(Background::Opaque).moderation(Moderation::Low);
    let request = request.format(OutputFormat::Webp).compression(50).end_user("u").extra("complexity", "low");
    for route in styles(&stage.upstream) {
        stage.client([route.clone()]).run(&alice(), request.clone()).await.unwrap();
        let body = stage.upstream.calls().pop().unwrap().body;
        let fields = if matches!(route.style(), Style::Responses { .. }) { &body["tools"][0] } else { &body };
        for (name, value) in [
            ("size", "1024x1024"),
            ("quality", "low"),
            ("background", "opaque"),
            ("moderation", "low"),
            ("output_format", "webp"),
            ("complexity", "low"),
        ] {
            assert_eq!(fields[name], value, "{name} of {route:?}");
        }
        assert_eq!((&fields["output_compression"], &body["user"]), (&50.into(), &"u".into()), "{route:?}");
    }
}

/// `extra` with `n` took one image of quota, and drew ten.
#[tokio::test]
async fn a_field_that_has_a_setter_does_not_pass_by_the_estimate() {
    let stage = Stage::new(Terms::new()).await;
    let client = stage.client([stage.route()]);
    let error = client.run(&alice(), lighthouse().extra("n", 10)).await.unwrap_err();
    let told = "extra \"n\": the client has a setter for it, `ImageRequest::n`";
    assert_eq!((error.kind(), error.to_string().as_str()), (ImageErrorKind::Invalid, told));
    assert_eq!((stage.charged().await, stage.upstream.tally().calls), (Charged::default(), 0));
    client.run(&alice(), lighthouse().extra("complexity", "low")).await.unwrap();
}

#[tokio::test]
async fn a_route_says_which_models_it_has() {
    let stage = Stage::new(Terms::new()).await;
    let client = stage.client([stage.route()]);
    assert_eq!(client.routes()[0].models, None);
    let listed = client.probe().await.remove(0).models.unwrap();
    assert!(listed.iter().any(|model| model == "gpt-image-2"), "{listed:?}");
}
