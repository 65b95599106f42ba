//! What a mix of calls is charged in the end, against what upstream itself counted.

use allotment::openai::{ImageClient, ImageError, ImageEvent, ImageInput, ImageRequest, Images, Quality, Size};
use allotment_upstream::{Terms, UsageReport};
use tokio::task::JoinSet;

use super::stage::{Charged, Stage, alice, lighthouse, styles};

async fn last(client: &ImageClient, request: ImageRequest) -> Result<Images, ImageError> {
    let mut stream = client.stream(&alice(), request);
    while let Some(event) = stream.next().await {
        if let ImageEvent::Completed(images) = event? {
            return Ok(images);
        }
    }
    panic!("a stream ends with all images or an error")
}

/// At once, in every style, whole and as a stream, drawn and edited; with fewer tokens than estimated, as many, and more.
#[tokio::test]
async fn the_ledger_holds_exactly_what_was_used() {
    for usage_factor in [0.5, 1.0, 3.0] {
        let stage = Stage::new(Terms::new().usage(UsageReport::ToldOfTools).usage_factor(usage_factor)).await;
        let drawn = stage.client([stage.route()]).run(&alice(), lighthouse()).await.unwrap();
        let input = ImageInput::bytes(drawn.images[0].bytes().unwrap()).unwrap();
        let mut calls = JoinSet::new();
        for route in styles(&stage.upstream) {
            let client = stage.client([route]);
            let edit = ImageRequest::edit("a hat", [input.clone()]).size(Size::SQUARE).quality(Quality::Low);
            for request in [lighthouse(), lighthouse().quality(Quality::Medium), edit] {
                let (whole, streamed) = (client.clone(), client.clone());
                let again = request.clone();
                calls.spawn(async move { whole.run(&alice(), request).await });
                calls.spawn(async move { last(&streamed, again).await });
            }
        }
        let mut answers = vec![drawn];
        while let Some(answer) = calls.join_next().await {
            answers.push(answer.unwrap().unwrap());
        }
        let tokens = answers.iter().map(|answer| answer.usage.as_ref().unwrap().total_tokens).sum();
        let images = answers.iter().map(|answer| answer.images.len() as u64).sum();
        let expected = Charged { requests: answers.len() as u64, tokens, images, in_flight: 0 };
        assert_eq!(stage.charged().await, expected, "{usage_factor} times the published tokens");
        assert_eq!(stage.upstream.tally().served, expected.requests);
        let estimated: u64 = answers.iter().map(|answer| answer.served.estimated_tokens).sum();
        assert!(
            usage_factor <= 1.0 || tokens > estimated,
            "{tokens} are more than the {estimated} that were estimated"
        );
    }
}

#[tokio::test]
async fn where_upstream_does_not_say_what_was_used_the_estimates_stay() {
    let stage = Stage::new(Terms::new().usage(UsageReport::Left).usage_factor(3.0)).await;
    let mut expected = Charged::default();
    for route in styles(&stage.upstream) {
        for answer in [stage.client([route.clone()]).run(&alice(), lighthouse()).await.unwrap(), {
            last(&stage.client([route]), lighthouse()).await.unwrap()
        }] {
            expected.requests += 1;
            expected.images += 1;
            expected.tokens += answer.served.estimated_tokens;
        }
    }
    assert_eq!(stage.charged().await, expected);
}
