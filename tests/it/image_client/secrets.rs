//! What nobody may read in an error, a log or `Debug`.

use std::{io, sync::Arc};

use allotment::openai::{ImageClient, ImageInput, ImageRequest, Route};
use allotment_upstream::{ErrorShape, Fault, Org, Raw, Script, Terms};
use tracing::instrument::WithSubscriber;
use tracing_subscriber::fmt::MakeWriter;

use super::stage::{KEY, Stage, alice};

const PROMPT: &str = "planted-prompt-5c12";
/// The head of one.
const PNG: &[u8] = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x10\0\0\0\x10\x08\x02\0\0\0";
const USER: &str = "planted-user-77ab";

/// A log in memory.
#[derive(Clone, Default)]
struct Log(Arc<std::sync::Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

#[tokio::test]
async fn no_key_prompt_or_user_is_in_an_error_a_log_or_debug() {
    let log = Log::default();
    let filter = tracing_subscriber::EnvFilter::new("allotment=trace");
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(log.clone()).finish();
    // while there is one subscriber, tracing asks only the thread that comes by a line first, be it of another test, whether the line is
    // wanted; with a second one it asks all
    let _second = tracing::Dispatch::new(tracing_subscriber::registry());
    let told = tell_all().with_subscriber(subscriber).await;
    let logged = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert!(logged.contains("upstream refused"), "the log is of this client: {logged}");
    for secret in [KEY, PROMPT, USER] {
        assert!(!logged.contains(secret), "{logged}");
        assert!(!told.contains(secret), "{told}");
    }
}

/// All that a caller can print, of calls that end in every way.
async fn tell_all() -> String {
    let mut told = String::new();
    for script in [
        Script::Serve,
        Script::Refuse(ErrorShape::Moderation),
        Script::Refuse(ErrorShape::Unauthorized),
        Script::Refuse(ErrorShape::Overloaded),
        Script::Break(Fault::HangUpUnanswered),
        Script::Break(Fault::TruncatedJson),
        Script::Break(Fault::Redirect(format!("http://me:{KEY}@127.0.0.1:1/"))),
    ] {
        let stage = Stage::new(Terms::new().org(Org::new("org-test").key(KEY))).await;
        stage.upstream.next(script);
        let client = stage.client([stage.route(), Route::compatible("gone", "http://127.0.0.1:1/v1", KEY).priority(1)]);
        told += &one_call(&client).await;
    }
    let stage = Stage::new(Terms::new()).await;
    let broken = Route::compatible("a", "https://a.example", format!("{KEY}\n"));
    told += &one_call(&stage.client([broken])).await;
    let with_secret = Route::compatible("a", format!("https://me:{KEY}@a.example"), "key");
    let refused = ImageClient::builder().limiter(stage.limiter.clone()).route(with_secret);
    told += &format!("{refused:?}");
    let refused = refused.build().unwrap_err();
    assert!(refused.to_string().contains("user or password"), "it is refused for its address: {refused}");
    let input = ImageInput::bytes([PNG, KEY.as_bytes()].concat()).unwrap();
    told + &format!("{refused} {refused:?} {input:?}")
}

async fn one_call(client: &ImageClient) -> String {
    let request = ImageRequest::generate(PROMPT).end_user(USER);
    let stream = client.stream(&alice(), request.clone());
    match client.run(&alice(), request).await {
        Ok(drawn) => format!("{client:?} {stream:?} {drawn:?}"),
        Err(error) => {
            let source = std::error::Error::source(&error);
            format!("{client:?} {error} {error:?} {:?} {source:?}", error.refusal())
        }
    }
}

#[tokio::test]
async fn a_key_that_looks_like_none_is_masked_where_upstream_repeats_it() {
    let key = "tiger-lily-7";
    let stage = Stage::new(Terms::new().org(Org::new("org-test").key(key))).await;
    let echo = format!(r#"{{"error":{{"message":"{key} may not draw","code":"no:{key}","type":"{key}"}}}}"#);
    stage.upstream.next(Script::Reply(Raw::new(403).body(echo)));
    let told = one_call(&stage.client([stage.route()])).await;
    assert!(told.contains("[masked] may not draw") && !told.contains(key), "{told}");
}
