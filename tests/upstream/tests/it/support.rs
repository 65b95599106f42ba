//! A server and a plain client of it.

use std::sync::Once;

use allotment_upstream::{Terms, Upstream};
use serde_json::{Value, json};

static PROVIDER: Once = Once::new();

/// One who calls a server with a key.
pub(crate) struct Caller {
    pub(crate) http: reqwest::Client,
    pub(crate) url: String,
    pub(crate) key: String,
}

/// An answer that came whole.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: reqwest::header::HeaderMap,
    pub(crate) body: Vec<u8>,
}

pub(crate) async fn start(terms: Terms) -> (Upstream, Caller) {
    // Its features may be those of the library, whose TLS needs a provider; plain HTTP does not use it.
    PROVIDER.call_once(|| {
        let _ = rustls::crypto::ring::default_provider().install_default();
    });
    let upstream = Upstream::start(terms).await.unwrap();
    let http = reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none()).build().unwrap();
    let caller = Caller { http, url: upstream.url(), key: upstream.key().to_owned() };
    (upstream, caller)
}

impl Caller {
    pub(crate) fn with_key(&self, key: &str) -> Self {
        Self { http: self.http.clone(), url: self.url.clone(), key: key.to_owned() }
    }

    pub(crate) fn post(&self, path: &str) -> reqwest::RequestBuilder {
        self.http.post(format!("{}{path}", self.url)).bearer_auth(&self.key)
    }

    /// Calls for a lighthouse, with these fields besides.
    pub(crate) async fn draw(&self, fields: Value) -> Answer {
        self.send("/v1/images/generations", lighthouse(fields)).await
    }

    pub(crate) async fn send(&self, path: &str, body: Value) -> Answer {
        self.try_send(path, body).await.unwrap()
    }

    /// An error where the answer does not come whole.
    pub(crate) async fn try_send(&self, path: &str, body: Value) -> Result<Answer, reqwest::Error> {
        read(self.post(path).json(&body).send().await?).await
    }
}

pub(crate) fn lighthouse(fields: Value) -> Value {
    let mut body = json!({ "model": "gpt-image-2", "prompt": "a lighthouse" });
    for (name, value) in fields.as_object().unwrap() {
        body[name] = value.clone();
    }
    body
}

pub(crate) async fn read(response: reqwest::Response) -> Result<Answer, reqwest::Error> {
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    Ok(Answer { status, headers, body: response.bytes().await?.to_vec() })
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    /// Empty if it is not there.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// The JSON of each event.
    pub(crate) fn events(&self) -> Vec<Value> {
        let lines = self.text().lines().filter_map(|line| line.strip_prefix("data: "));
        lines.filter(|line| *line != "[DONE]").map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}
