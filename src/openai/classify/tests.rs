use std::{collections::BTreeMap, time::Duration};

use proptest::prelude::*;
use serde::Deserialize;
use serde_json::{Value, json};

use super::*;
use crate::openai::refusal::RefusalFigures;

#[derive(Debug, Deserialize)]
struct Vectors {
    vector: Vec<Vector>,
}

/// A refusal, and what it must be read as.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Vector {
    name: String,
    status: u16,
    ways: Option<String>,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    error: Option<Value>,
    body: Option<String>,
    event: Option<String>,
    kind: String,
    resource: Option<String>,
    limit: Option<u64>,
    used: Option<u64>,
    requested: Option<u64>,
    model: Option<String>,
    pool: Option<String>,
    window_s: Option<u64>,
    wait_ms: Option<u64>,
    split: Option<u64>,
}

impl Vector {
    fn body(&self) -> String {
        let nested = || json!({ "error": self.error }).to_string();
        self.body.clone().unwrap_or_else(nested)
    }

    fn rate_headers(&self) -> RateHeaders {
        RateHeaders::read(self.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())))
    }

    fn figures(&self) -> Option<RefusalFigures> {
        Some(RefusalFigures {
            resource: self.resource.as_deref()?.into(),
            model: self.model.clone(),
            pool: self.pool.clone(),
            limit: self.limit?,
            used: self.used,
            requested: self.requested,
            window: Duration::from_secs(self.window_s.unwrap_or(60)),
        })
    }

    fn check(&self, refusal: Option<Refusal>, way: &str) {
        let name = format!("{}, {way}", self.name);
        let refusal = refusal.unwrap_or_else(|| panic!("{name}: not seen"));
        assert_eq!(serde_json::to_value(refusal.kind).unwrap(), self.kind, "{name}: {refusal:?}");
        assert_eq!(refusal.figures, self.figures(), "{name}");
        assert_eq!(refusal.retry_after, self.wait_ms.map(Duration::from_millis), "{name}");
        assert_eq!(refusal.split_into(), self.split, "{name}");
        assert!(!format!("{refusal:?} {refusal}").contains("sk-"), "{name}: a key is shown");
    }
}

fn vectors() -> Vec<Vector> {
    toml::from_str::<Vectors>(include_str!("vectors.toml")).unwrap().vector
}

#[test]
fn every_refusal_is_what_it_is() {
    for vector in vectors() {
        let (body_bytes, headers) = (vector.body(), vector.rate_headers());
        let refusal = match &vector.event {
            Some(name) => event(name, &headers, body_bytes.as_bytes()),
            None => body(vector.status, &headers, body_bytes.as_bytes()),
        };
        assert_eq!(refusal.as_ref().map(|refusal| refusal.status), Some(vector.status), "{}", vector.name);
        vector.check(refusal, "as it came");
    }
}

#[test]
fn a_refusal_is_the_same_with_every_status() {
    let everywhere = vectors().into_iter().filter(|vector| vector.ways.as_deref() == Some("every"));
    let count = everywhere
        .inspect(|vector| {
            let (bytes, headers) = (vector.body(), vector.rate_headers());
            for status in [200, 400, 403, 429, 500, 503] {
                vector.check(body(status, &headers, bytes.as_bytes()), &status.to_string());
            }
        })
        .count();
    assert!(count > 30);
}

#[test]
fn a_refusal_is_the_same_in_a_body_with_status_200_and_in_every_event() {
    let in_streams = vectors().into_iter().filter(|vector| vector.ways.is_some());
    let count = in_streams
        .inspect(|vector| {
            let (error, headers) = (&vector.error, vector.rate_headers());
            let failed = json!({ "type": "response.failed", "response": { "status": "failed", "error": error } });
            let read = |name: &str, data: &Value| event(name, &headers, data.to_string().as_bytes());
            vector.check(read("response.failed", &failed), "response.failed");
            vector.check(read("message", &failed), "response.failed by its type");
            for name in ["error", "message", "image_generation.failed", "image_edit.failed"] {
                vector.check(read(name, &json!({ "type": name, "error": error })), name);
                vector.check(read(name, &json!({ "error": error })), name);
            }
            // its type is lost in a flat event
            if error.as_ref().is_some_and(|error| error.get("code").is_some() && error.get("type").is_none()) {
                let mut flat = error.clone().unwrap();
                flat["type"] = "error".into();
                vector.check(read("error", &flat), "flat");
            }
            vector.check(body(200, &headers, vector.body().as_bytes()), "status 200");
        })
        .count();
    assert!(count > 30);
}

#[test]
fn what_is_no_refusal_is_none() {
    let headers = RateHeaders::default();
    let bodies = [
        r#"{"created":1,"data":[{"b64_json":"AAAA"}],"usage":{"total_tokens":5}}"#,
        r#"{"created":1,"data":[],"error":null}"#,
        r#"{"id":"resp_1","status":"completed","error":null,"incomplete_details":null,"output":[]}"#,
        r#"{"choices":[{"message":{"content":"Here is your image of a rate limit"}}]}"#,
        r#"{"error":"","data":[]}"#,
        r#"{"error":{},"data":[]}"#,
        r#"{"error":false,"message":"ok"}"#,
        r#"{"code":0,"message":"success"}"#,
        r#"["error"]"#,
        r#"{"message":"A rate limit was drawn"}"#,
        "Rate limits are explained here",
        "",
        "<html><title>Hello</title></html>",
    ];
    for text in bodies {
        assert_eq!(body(200, &headers, text.as_bytes()), None, "{text}");
    }
    let events = [
        ("image_generation.partial_image", r#"{"type":"image_generation.partial_image","b64_json":"AAAA"}"#),
        ("image_generation.completed", r#"{"type":"image_generation.completed","b64_json":"AAAA","usage":{}}"#),
        ("response.completed", r#"{"type":"response.completed","response":{"status":"completed","error":null}}"#),
        ("response.created", r#"{"type":"response.created","response":{"status":"in_progress","error":null}}"#),
        ("message", "[DONE]"),
        ("message", ""),
    ];
    for (name, data) in events {
        assert_eq!(event(name, &headers, data.as_bytes()), None, "{name} {data}");
    }
}

#[test]
fn a_refusal_shows_no_key_and_no_more_than_it_may() {
    let secret = "sk-proj-0123456789abcdefghij";
    let text = format!("Incorrect API key provided: {secret}.\r\nBearer {secret} {}", "é".repeat(900));
    for error in [json!({ "message": text, "type": secret, "code": secret }), json!(text)] {
        let bytes = json!({ "error": error }).to_string();
        let refusal = body(401, &RateHeaders::default(), bytes.as_bytes()).unwrap();
        let shown = format!("{refusal} {refusal:?} {}", serde_json::to_string(&refusal).unwrap());
        assert!(!shown.contains("0123456789"), "{shown}");
        assert!(refusal.message.chars().count() <= MESSAGE_CHARS_MAX && !refusal.message.contains(char::is_control));
        assert_eq!(refusal.kind, RefusalKind::NoAccess);
    }
}

#[test]
fn a_secret_that_is_known_is_in_no_part_of_a_refusal() {
    let secret = "tiger-lily-7";
    let message = format!("Rate limit reached for {secret} (for limit {secret}) on images per min: Limit 5, Used 5.");
    let bytes = json!({ "error": { "message": message, "type": secret, "code": format!("no:{secret}") } }).to_string();
    let refusal = body(429, &RateHeaders::default(), bytes.as_bytes()).unwrap();
    assert!(refusal.figures.as_ref().unwrap().pool.as_deref() == Some(secret), "{refusal:?}");
    let shown = format!("{:?}", refusal.without(secret));
    assert!(!shown.contains(secret) && shown.contains("Rate limit reached for [masked]"), "{shown}");
}

#[test]
fn the_headers_say_whether_a_failure_may_be_tried_again() {
    let headers = |value: &'static str| RateHeaders::read([("x-should-retry", value.as_bytes())].into_iter());
    let bytes = br#"{"error":{"message":"failed","type":"server_error"}}"#;
    assert!(!body(500, &RateHeaders::default(), bytes).unwrap().is_retryable());
    assert!(body(500, &headers("true"), bytes).unwrap().is_retryable());
    assert!(body(429, &RateHeaders::default(), b"").unwrap().is_retryable());
    assert!(!body(429, &headers("false"), b"").unwrap().is_retryable());
}

proptest! {
    #[test]
    fn no_answer_is_too_strange(
        status in 100_u16..600, name in ".{0,9}", bytes in any::<Vec<u8>>(),
        message in ".{0,99}", code in ".{0,20}", shape in 0..6,
    ) {
        let answer = match shape {
            0 => json!({ "error": { "message": message, "code": code, "type": code } }),
            1 => json!({ "error": message, "code": code, "detail": [code] }),
            2 => json!({ "response": { "error": { "message": message } }, "type": name }),
            3 => json!({ "detail": { "error": [message] }, "response": code }),
            4 => json!([message, code]),
            _ => json!({ "message": message, "status": code, "error": { "error": { "message": code } } }),
        };
        for bytes in [bytes, answer.to_string().into_bytes()] {
            let headers = RateHeaders::default();
            let refusals = [body(status, &headers, &bytes), event(&name, &headers, &bytes)];
            prop_assert!(status < 400 || refusals[0].is_some());
            for refusal in refusals.into_iter().flatten() {
                prop_assert!(!refusal.message.is_empty() && refusal.message.chars().count() <= MESSAGE_CHARS_MAX);
            }
        }
    }
}
