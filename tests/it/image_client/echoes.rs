//! Keys in places where nobody expects one: what an upstream says back, an address, an answer, a metric, and what is logged below the client.

use std::{
    error::Error as _,
    io,
    sync::{Arc, Mutex},
};

use allotment::openai::{ImageClient, ImageError, ImageRequest, Images, RetryPolicy, Route};
use allotment_upstream::{Org, Raw, Script, Terms};
use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};

use super::stage::{KEY, Stage, alice};

const PROMPT: &str = "planted-prompt-91ce";

/// All that is written anywhere.
#[derive(Clone, Debug, Default)]
struct Told(Arc<Mutex<String>>);

impl Told {
    fn add(&self, text: &str) {
        self.0.lock().unwrap().push_str(text);
    }
}

impl io::Write for Told {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.add(&String::from_utf8_lossy(bytes));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The names and labels of what is counted.
impl Recorder for Told {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        self.add(&format!("{key:?}"));
        Counter::noop()
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        self.add(&format!("{key:?}"));
        Gauge::noop()
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        self.add(&format!("{key:?}"));
        Histogram::noop()
    }
}

fn shown(outcome: &Result<Images, ImageError>) -> String {
    let error = match outcome {
        Ok(images) => return serde_json::to_string(&images.served).unwrap() + &format!("{images:?}"),
        Err(error) => error,
    };
    let mut text = format!("{error} {error:?}") + &serde_json::to_string(&error.refusal()).unwrap();
    let mut source = error.source();
    while let Some(cause) = source {
        text += &format!("{cause} {cause:?}");
        source = cause.source();
    }
    text
}

async fn ask(client: &ImageClient) -> String {
    let outcome = client.run(&alice(), ImageRequest::generate(PROMPT)).await;
    format!("{client:?}") + &shown(&outcome)
}

/// A gateway that repeats what it was sent, in each place where an error has text.
fn echoes() -> Vec<Raw> {
    let error = |status, field: &str, text: &str| {
        Raw::new(status).body(serde_json::json!({ "error": { field: text, "message": text } }).to_string())
    };
    let bearer = format!("no such key: Bearer {KEY}");
    vec![
        error(401, "message", &format!("Incorrect API key provided: {KEY}.")),
        error(400, "code", KEY),
        error(429, "type", KEY),
        error(200, "message", &bearer),
        Raw::new(502).media_type("text/html").body(format!("<html>{bearer}</html>")),
        Raw::new(200).media_type("text/event-stream").body(format!("event: error\ndata: {bearer}\n\n")),
        Raw::new(302).header(&format!("location: https://me:{KEY}@a.example/")),
        Raw::new(500).body(bearer.clone()),
    ]
}

/// `allotment` and what it is built on, at their most talkative.
#[tokio::test]
async fn no_key_comes_back_by_an_echo_an_address_an_answer_or_a_metric() {
    let told = Told::default();
    let log = told.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::new("trace"))
        .with_writer(move || log.clone())
        .finish();
    // of this thread, where the client's connections run as well
    let (logged, counted) = (tracing::subscriber::set_default(subscriber), metrics::set_default_local_recorder(&told));
    let shown = ask_every_echo().await;
    drop((logged, counted));
    let told = told.0.lock().unwrap().clone();
    assert!(told.contains("allotment_"), "metrics are seen");
    assert!(told.contains("hyper") || told.contains("reqwest"), "what is below is heard");
    for secret in [KEY, PROMPT] {
        assert!(!shown.contains(secret), "{}", around(&shown, secret));
        assert!(!told.contains(secret), "{}", around(&told, secret));
    }
}

/// All that a caller can print.
async fn ask_every_echo() -> String {
    let mut shown = String::new();
    for echo in echoes() {
        let stage = Stage::new(Terms::new().org(Org::new("org-test").key(KEY))).await;
        let [direct, azure] =
            [stage.route(), Route::azure("azure", stage.upstream.url(), "gpt-image-2", stage.upstream.key())];
        for route in [direct, azure] {
            let client = stage.client_with([route], |builder| builder.retry(RetryPolicy::none()));
            shown += &ask(&client).await;
            stage.upstream.next(Script::Reply(echo.clone()));
            shown += &ask(&client).await;
        }
    }
    let stage = Stage::new(Terms::new()).await;
    for url in [format!("http://me:{KEY}@127.0.0.1:1/v1"), format!("https://a.example/v1?api-key={KEY}")] {
        let builder = ImageClient::builder().limiter(stage.limiter.clone()).model("gpt-image-2");
        let client = builder.route(Route::compatible("a", url, "key")).build();
        shown += &format!("{:?} {}", client, client.as_ref().unwrap_err());
    }
    shown
}

/// What stands beside a secret that was found.
fn around(text: &str, secret: &str) -> String {
    let Some(at) = text.find(secret) else { return String::new() };
    text[..at + secret.len()].chars().rev().take(400).collect::<Vec<_>>().into_iter().rev().collect()
}
