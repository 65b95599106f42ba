//! What is drawn arrives: as a picture that decodes, by every endpoint, at once and as a stream.

use std::{
    io::Cursor,
    time::{Duration, Instant},
};

use allotment_upstream::{ChatPicture, Pictures, Terms, UsageReport};
use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::{Value, json};

use crate::support::{Caller, lighthouse, read, start};

const LOW: u64 = 196 + 3;

fn size(file: &[u8]) -> String {
    let mut reader = png::Decoder::new(Cursor::new(file)).read_info().unwrap();
    let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
    let frame = reader.next_frame(&mut pixels).unwrap();
    format!("{}x{}", frame.width, frame.height)
}

fn decoded(encoded: &Value) -> String {
    size(&BASE64_STANDARD.decode(encoded.as_str().unwrap()).unwrap())
}

/// The size of the picture that a chat message carries, fetched where it is an address.
async fn carried(caller: &Caller, text: &str) -> String {
    let url = text.split("](").nth(1).map_or(text, |rest| rest.trim_end_matches(')'));
    match url.strip_prefix("data:image/png;base64,") {
        Some(encoded) => decoded(&encoded.into()),
        None => size(&read(caller.http.get(url).send().await.unwrap()).await.unwrap().body),
    }
}

fn types(events: &[Value]) -> Vec<&str> {
    events.iter().map(|event| event["type"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn pictures_have_the_asked_size() {
    for (pictures, width) in [(Pictures::Striped, "1536x1024"), (Pictures::Thumbnail, "16x16")] {
        let (upstream, caller) = start(Terms::new().pictures(pictures)).await;
        let answer = caller.draw(json!({ "size": "1536x1024", "n": 2, "quality": "low" })).await.json();
        assert_eq!(decoded(&answer["data"][0]["b64_json"]), width);
        assert_ne!(answer["data"][0], answer["data"][1]);
        assert_eq!(answer["usage"]["output_tokens"], 2 * 158);
        assert_eq!((upstream.tally().images, upstream.tally().served), (2, 1));
    }
}

#[tokio::test]
async fn a_picture_can_be_fetched_by_its_address() {
    let (_upstream, caller) = start(Terms::new()).await;
    let answer = caller.draw(json!({ "size": "1024x1536", "response_format": "url" })).await.json();
    assert_eq!(carried(&caller, answer["data"][0]["url"].as_str().unwrap()).await, "1024x1536");
    for name in ["no.png", "0-16-1.png", "99999-16-1.png"] {
        let missing = caller.http.get(format!("{}/files/{name}", caller.url)).send().await.unwrap();
        assert_eq!(missing.status(), 404, "{name}");
    }
}

#[tokio::test]
async fn usage_is_told_or_left_and_differs_by_a_factor() {
    let (_upstream, caller) = start(Terms::new().usage_factor(1.5)).await;
    let usage = caller.draw(json!({ "quality": "low" })).await.json()["usage"].clone();
    assert_eq!((&usage["output_tokens"], &usage["total_tokens"]), (&json!(294), &json!(297)));
    let (_upstream, caller) = start(Terms::new().usage(UsageReport::Left)).await;
    assert_eq!(caller.draw(json!({})).await.json()["usage"], Value::Null);
}

#[tokio::test]
async fn a_stream_of_images_ends_with_usage() {
    let (_upstream, caller) = start(Terms::new()).await;
    let answer = caller.draw(json!({ "stream": true, "partial_images": 2, "quality": "low" })).await;
    assert_eq!(answer.header("content-type"), "text/event-stream; charset=utf-8");
    assert!(answer.text().starts_with("event: image_generation.partial_image\ndata: "));
    let events = answer.events();
    let partial = "image_generation.partial_image";
    assert_eq!(types(&events), [partial, partial, "image_generation.completed"]);
    assert_eq!((&events[0]["partial_image_index"], &events[1]["partial_image_index"]), (&json!(0), &json!(1)));
    assert_eq!(events[1]["usage"], Value::Null);
    assert_eq!(events[2]["usage"]["total_tokens"], LOW + 200);
    assert_eq!(decoded(&events[2]["b64_json"]), "1024x1024");
}

#[tokio::test]
async fn a_response_has_an_image_generation_call() {
    let (upstream, caller) = start(Terms::new().usage(UsageReport::ToldOfTools)).await;
    let tool = json!({ "type": "image_generation", "model": "gpt-image-2", "quality": "low", "partial_images": 1 });
    let body = json!({ "model": "gpt-5.2", "input": "a lighthouse", "tools": [tool] });
    let response = caller.send("/v1/responses", body.clone()).await.json();
    assert_eq!(response["output"][0]["type"], "image_generation_call");
    assert_eq!(decoded(&response["output"][0]["result"]), "1024x1024");
    assert_eq!(response["usage"]["total_tokens"], 53);
    assert_eq!(response["tool_usage"]["image_gen"]["total_tokens"], LOW + 100);

    let mut streamed = body;
    streamed["stream"] = true.into();
    let events = caller.send("/v1/responses", streamed).await.events();
    let partial = events.iter().find(|event| event["type"] == "response.image_generation_call.partial_image").unwrap();
    assert_eq!(decoded(&partial["partial_image_b64"]), "1024x1024");
    let last = events.last().unwrap();
    assert_eq!((&last["type"], &last["response"]["output"]), (&json!("response.completed"), &response["output"]));
    let numbers: Vec<_> = events.iter().map(|event| event["sequence_number"].as_u64().unwrap()).collect();
    assert_eq!(numbers, (0..events.len() as u64).collect::<Vec<_>>());
    assert_eq!(upstream.tally().images, 2);
}

#[tokio::test]
async fn chat_carries_a_picture_in_every_style() {
    for style in [
        ChatPicture::Markdown,
        ChatPicture::MarkdownData,
        ChatPicture::BareUrl,
        ChatPicture::DataUrl,
        ChatPicture::ImagesField,
    ] {
        let (_upstream, caller) = start(Terms::new().chat_picture(style)).await;
        let mut body = json!({
            "model": "gpt-image-2", "quality": "low", "messages": [{ "role": "user", "content": "a lighthouse" }],
        });
        let answer = caller.send("/v1/chat/completions", body.clone()).await.json();
        assert_eq!(answer["usage"]["total_tokens"], LOW);
        let message = &answer["choices"][0]["message"];
        let text = message["images"][0]["image_url"]["url"].as_str().or(message["content"].as_str()).unwrap();
        assert_eq!(carried(&caller, text).await, "1024x1024", "{style:?}");

        body["stream"] = true.into();
        let answer = caller.send("/v1/chat/completions", body).await;
        assert!(answer.text().ends_with("data: [DONE]\n\n"));
        let events = answer.events();
        let deltas = || events.iter().map(|event| &event["choices"][0]["delta"]);
        let content: String = deltas().filter_map(|delta| delta["content"].as_str()).collect();
        let image = deltas().find_map(|delta| delta["images"][0]["image_url"]["url"].as_str());
        assert_eq!(image.unwrap_or(&content), text, "{style:?}");
        assert_eq!(events.last().unwrap()["usage"]["total_tokens"], LOW);
    }
}

#[tokio::test]
async fn the_same_prompt_gives_the_same_picture() {
    let (_upstream, caller) = start(Terms::new()).await;
    let (first, second) = (caller.draw(json!({})).await, caller.draw(json!({})).await);
    assert_eq!(first.json()["data"], second.json()["data"]);
    let other = caller.send("/v1/images/generations", lighthouse(json!({ "prompt": "a mill" }))).await;
    assert_ne!(first.json()["data"], other.json()["data"]);
}

#[tokio::test]
async fn a_call_may_say_how_long_its_drawing_takes() {
    let (_upstream, caller) = start(Terms::new().speed(100.0)).await;
    let began = Instant::now();
    assert_eq!(caller.draw(json!({ "draw_ms": 5_000 })).await.status, 200);
    assert!(began.elapsed() >= Duration::from_millis(50), "by its own clock: {:?}", began.elapsed());
    for wrong in [json!(600_001), json!("long"), json!(-1)] {
        assert_eq!(caller.draw(json!({ "draw_ms": wrong })).await.status, 400, "{wrong}");
    }
}
