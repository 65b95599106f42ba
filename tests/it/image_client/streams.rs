//! Images as events.

use std::time::Duration;

use allotment::openai::{ImageError, ImageErrorKind, ImageEvent, ImageStream, Images, RetryPolicy};
use allotment_upstream::{ErrorShape, Fault, Feature, Script, Terms, UsageReport};

use super::stage::{Charged, Stage, alice, is_png, lighthouse, styles};

/// What a stream brought: `p` for a preview, `i` for an image, each with its index.
struct Played {
    steps: Vec<String>,
    end: Result<Images, ImageError>,
}

async fn play(stream: &mut ImageStream) -> Played {
    let mut steps = Vec::new();
    loop {
        match stream.next().await {
            Some(Ok(ImageEvent::Partial { image, index, partial, .. })) => {
                assert!(is_png(&image.bytes().unwrap()));
                steps.push(format!("p{index}.{partial}"));
            }
            Some(Ok(ImageEvent::Image { image, index, .. })) => {
                assert!(is_png(&image.bytes().unwrap()));
                steps.push(format!("i{index}"));
            }
            Some(Ok(ImageEvent::Completed(images))) => return Played { steps, end: Ok(images) },
            Some(Err(error)) => return Played { steps, end: Err(error) },
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn previews_come_before_each_image_and_the_charge_settles_to_the_usage() {
    let stage = Stage::new(Terms::new()).await;
    let mut stream = stage.client([stage.route()]).stream(&alice(), lighthouse().partial_images(2));
    let Played { steps, end } = play(&mut stream).await;
    assert_eq!(steps, ["p0.0", "p0.1", "i0"]);
    let images = end.unwrap();
    let tokens = images.usage.unwrap().total_tokens;
    assert_eq!((images.images.len(), images.served.charged_tokens), (1, tokens));
    assert_eq!(stage.charged().await, Charged { requests: 1, tokens, images: 1, in_flight: 0 });
    assert!(stream.next().await.is_none());
}

#[tokio::test]
async fn each_style_streams_or_gives_the_images_at_once() {
    let stage = Stage::new(Terms::new()).await;
    for route in styles(&stage.upstream).into_iter().take(3) {
        let mut stream = stage.client([route.clone()]).stream(&alice(), lighthouse().partial_images(1));
        let Played { steps, end } = play(&mut stream).await;
        assert_eq!(steps, ["p0.0", "i0"], "{route:?}");
        assert_eq!(end.unwrap().images.len(), 1);
    }
    let [.., chat] = styles(&stage.upstream);
    let end = stage.client([chat]).stream(&alice(), lighthouse()).next().await.unwrap().unwrap();
    assert!(matches!(end, ImageEvent::Image { .. }));
}

#[tokio::test]
async fn where_nobody_streams_the_images_come_whole() {
    let stage = Stage::new(Terms::new().without(Feature::Streaming)).await;
    let client = stage.client([stage.route()]);
    for calls in [2, 3] {
        let Played { steps, end } = play(&mut client.stream(&alice(), lighthouse())).await;
        assert_eq!((steps.as_slice(), end.unwrap().images.len()), (&["i0".to_owned()][..], 1));
        assert_eq!(stage.upstream.tally().calls, calls, "it is remembered that the route does not stream");
    }
}

#[tokio::test]
async fn a_stream_that_is_cut_or_dropped_stays_charged_as_estimated() {
    let stage = Stage::new(Terms::new().usage(UsageReport::Left)).await;
    let request = || lighthouse().partial_images(2);
    let drawn = play(&mut stage.client([stage.route()]).stream(&alice(), request())).await.end.unwrap();
    let estimated = Charged { requests: 1, tokens: drawn.served.estimated_tokens, images: 1, in_flight: 0 };
    for fault in [Fault::CutAfterEvents(1), Fault::EndAfterEvents(1)] {
        let stage = Stage::new(Terms::new()).await;
        stage.upstream.next(Script::Break(fault.clone()));
        let Played { steps, end } = play(&mut stage.client([stage.route()]).stream(&alice(), request())).await;
        assert_eq!((steps.len(), end.unwrap_err().kind()), (1, ImageErrorKind::Unanswered), "{fault:?}");
        assert_eq!(stage.charged().await, estimated, "{fault:?}");
        assert_eq!(stage.upstream.tally().calls, 1);
    }
    let stage = Stage::new(Terms::new().event_pause(Duration::from_secs(600))).await;
    let mut stream = stage.client([stage.route()]).stream(&alice(), request());
    assert!(matches!(stream.next().await, Some(Ok(ImageEvent::Partial { .. }))));
    assert_eq!(stage.charged().await.in_flight, 1);
    drop(stream);
    stage.settles_to(estimated).await;
}

#[tokio::test]
async fn a_refusal_is_repeated_only_while_nothing_was_seen() {
    for shape in [ErrorShape::HiddenEvents, ErrorShape::ErrorEvent, ErrorShape::RateLimit] {
        let stage = Stage::new(Terms::new()).await;
        stage.upstream.next(Script::Refuse(shape.clone()));
        let Played { end, .. } = play(&mut stage.client([stage.route()]).stream(&alice(), lighthouse())).await;
        assert_eq!(end.unwrap().served.attempts, 2, "{shape:?}");
    }
    let stage = Stage::new(Terms::new().refusal(ErrorShape::HiddenEvents)).await;
    stage.upstream.next(Script::FailAfterEvents(1));
    let Played { steps, end } =
        play(&mut stage.client([stage.route()]).stream(&alice(), lighthouse().partial_images(1))).await;
    assert_eq!((steps.as_slice(), end.unwrap_err().kind()), (&["p0.0".to_owned()][..], ImageErrorKind::Refused));
    assert_eq!(stage.upstream.tally().calls, 1);
    assert!(stage.charged().await.tokens > 0, "something was drawn");
}

#[tokio::test]
async fn a_stream_that_is_never_read_asks_nothing() {
    let stage = Stage::new(Terms::new()).await;
    let client = stage.client_with([stage.route()], |builder| builder.retry(RetryPolicy::none()));
    drop(client.stream(&alice(), lighthouse()));
    assert_eq!((stage.charged().await, stage.upstream.tally().calls), (Charged::default(), 0));
}
