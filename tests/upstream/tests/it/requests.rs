//! What is asked is read, judged and recorded.

use allotment_upstream::{Feature, Terms};
use reqwest::multipart;
use serde_json::json;

use crate::support::{lighthouse, read, start};

/// The first bytes of a PNG of 1024 x 512 pixels: as much as the server reads of it.
const PNG: &[u8] = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\x04\0\0\0\x02\0\x08\x02\0\0\0";

fn file(name: &str) -> multipart::Part {
    multipart::Part::bytes(PNG).file_name(name.to_owned()).mime_str("image/png").unwrap()
}

#[tokio::test]
async fn an_edit_takes_images_and_a_mask() {
    let (upstream, caller) = start(Terms::new()).await;
    let form = multipart::Form::new()
        .text("model", "gpt-image-1")
        .text("prompt", "a lighthouse")
        .text("n", "2")
        .text("quality", "low")
        .text("stream", "true")
        .part("image[]", file("one.png"))
        .part("image[]", file("two.png"))
        .part("mask", file("mask.png"));
    let answer = read(caller.post("/v1/images/edits").multipart(form).send().await.unwrap()).await.unwrap();
    let events = answer.events();
    let types: Vec<_> = events.iter().map(|event| event["type"].as_str().unwrap()).collect();
    assert_eq!(types, ["image_edit.completed", "image_edit.completed"]);
    assert_eq!(events[1]["usage"]["input_tokens_details"]["image_tokens"], 3 * 323);
    assert_eq!(events[1]["usage"]["output_tokens"], 2 * 272);

    let call = &upstream.calls()[0];
    assert_eq!(call.body["n"], "2");
    let parts: Vec<_> = call.parts.iter().map(|part| (part.name.as_str(), part.file_name.as_deref())).collect();
    assert_eq!(parts, [("image[]", Some("one.png")), ("image[]", Some("two.png")), ("mask", Some("mask.png"))]);
    assert_eq!((call.parts[0].length, call.parts[0].media_type.as_deref()), (PNG.len(), Some("image/png")));
    assert_eq!(call.parts[0].sha256.len(), 64);
}

#[tokio::test]
async fn an_edit_without_an_image_is_wrong() {
    let (_upstream, caller) = start(Terms::new()).await;
    let form = multipart::Form::new().text("prompt", "a lighthouse");
    let answer = read(caller.post("/v1/images/edits").multipart(form).send().await.unwrap()).await.unwrap();
    assert_eq!((answer.status, &answer.json()["error"]["param"]), (400, &json!("image")));
    let torn =
        caller.post("/v1/images/edits").header("content-type", "multipart/form-data; boundary=x").body("--x\r\n");
    assert_eq!(torn.send().await.unwrap().status(), 400);
}

#[tokio::test]
async fn wrong_values_are_named_and_not_charged() {
    let (upstream, caller) = start(Terms::new().images(100)).await;
    for (fields, param) in [
        (json!({ "n": 11 }), "n"),
        (json!({ "n": 0 }), "n"),
        (json!({ "n": "many" }), "n"),
        (json!({ "prompt": "" }), "prompt"),
        (json!({ "prompt": "x".repeat(32_001) }), "prompt"),
        (json!({ "size": "1000x1000" }), "size"),
        (json!({ "size": "3840x1024" }), "size"),
        (json!({ "size": "1536x1536", "model": "gpt-image-1" }), "size"),
        (json!({ "quality": "xhigh" }), "quality"),
        (json!({ "quality": "best" }), "quality"),
        (json!({ "partial_images": 4 }), "partial_images"),
        (json!({ "input_fidelity": "high" }), "input_fidelity"),
    ] {
        let answer = caller.draw(fields.clone()).await;
        assert_eq!((answer.status, &answer.json()["error"]["param"]), (400, &json!(param)), "{fields}");
    }
    let tally = upstream.tally();
    assert_eq!((tally.images, tally.errors, tally.calls), (0, 12, 12));
    assert_eq!(caller.draw(json!({ "quality": "xhigh", "model": "gpt-image-2.6-flare" })).await.status, 200);
}

#[tokio::test]
async fn a_key_is_needed_and_either_header_brings_it() {
    let (upstream, caller) = start(Terms::new()).await;
    let stranger = caller.with_key("sk-wrong").draw(json!({})).await;
    assert_eq!((stranger.status, &stranger.json()["error"]["code"]), (401, &json!("invalid_api_key")));
    let url = format!("{}/v1/images/generations", caller.url);
    let none = caller.http.post(&url).json(&lighthouse(json!({}))).send().await.unwrap();
    assert_eq!(none.status(), 401);
    let azure = caller.http.post(&url).header("api-key", upstream.key()).json(&lighthouse(json!({})));
    assert_eq!(azure.send().await.unwrap().status(), 200);
    assert!(!format!("{:?}{:?}", upstream.calls(), upstream.tally()).contains("sk-"), "keys are not recorded");
}

#[tokio::test]
async fn azures_paths_name_the_model_and_need_a_version() {
    let (upstream, caller) = start(Terms::new()).await;
    let body = json!({ "prompt": "a lighthouse" });
    let path = "/openai/deployments/gpt-image-2/images/generations";
    assert_eq!(caller.send(path, body.clone()).await.status, 404);
    assert_eq!(caller.send(&format!("{path}?api-version=2025-04-01-preview"), body).await.status, 200);
    assert_eq!(caller.send("/openai/v1/images/generations", lighthouse(json!({}))).await.status, 200);
    let call = &upstream.calls()[1];
    assert_eq!((call.path.as_str(), call.query.as_deref()), (path, Some("api-version=2025-04-01-preview")));
    assert_eq!((call.status, call.org.as_deref()), (Some(200), Some("org-test")));
}

#[tokio::test]
async fn a_server_can_lack_models_and_endpoints_and_streams() {
    let terms = Terms::new().model("flux-1").without(Feature::Edits).without(Feature::Streaming);
    let (_upstream, caller) = start(terms).await;
    assert_eq!(caller.draw(json!({ "model": "flux-1" })).await.status, 200);
    let unknown = caller.draw(json!({})).await;
    assert_eq!((unknown.status, &unknown.json()["error"]["code"]), (404, &json!("model_not_found")));
    let stream = caller.draw(json!({ "model": "flux-1", "stream": true })).await;
    assert_eq!((stream.status, &stream.json()["error"]["param"]), (400, &json!("stream")));
    let form = multipart::Form::new().text("prompt", "x").text("model", "flux-1").part("image", file("one.png"));
    assert_eq!(caller.post("/v1/images/edits").multipart(form).send().await.unwrap().status(), 404);
    assert_eq!(caller.send("/v1/nothing", json!({})).await.status, 404);
}

#[tokio::test]
async fn models_are_listed_with_their_end() {
    let (_upstream, caller) = start(Terms::new()).await;
    let url = format!("{}/v1/models", caller.url);
    assert_eq!(caller.http.get(&url).send().await.unwrap().status(), 401);
    let answer = read(caller.http.get(&url).bearer_auth(&caller.key).send().await.unwrap()).await.unwrap().json();
    let models = answer["data"].as_array().unwrap();
    let end = |name: &str| &models.iter().find(|model| model["id"] == name).unwrap()["shutdown_date"];
    assert_eq!(end("gpt-image-1"), "2026-10-23");
    assert_eq!(end("gpt-image-2"), &json!(null));
}
