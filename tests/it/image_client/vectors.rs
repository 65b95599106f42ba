//! Every published refusal, served by an upstream over a socket: the client reads it as what it is.

use std::{collections::BTreeMap, time::Duration};

use allotment::openai::{ImageError, ImageErrorKind, Refusal, RetryPolicy};
use allotment_upstream::{Raw, Script, Terms};
use serde::Deserialize;
use serde_json::{Value, json};

use super::stage::{Charged, Stage, alice, lighthouse};

#[derive(Debug, Deserialize)]
struct Vectors {
    vector: Vec<Vector>,
}

/// A refusal as it was seen, and what it must be read as. Which other ways it may come is for the tests of the parser.
#[derive(Debug, Deserialize)]
struct Vector {
    name: String,
    status: u16,
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
    wait_ms: Option<u64>,
    split: Option<u64>,
}

impl Vector {
    fn reply(&self) -> Raw {
        let body = self.body.clone().unwrap_or_else(|| json!({ "error": self.error }).to_string());
        let raw = self
            .headers
            .iter()
            .fold(Raw::new(self.status), |raw, (name, value)| raw.header(&format!("{name}: {value}")));
        match &self.event {
            Some(name) => {
                assert!(!body.contains('\n'), "{}: an event's line has an end", self.name);
                raw.media_type("text/event-stream").body(format!("event: {name}\ndata: {body}\n\n"))
            }
            None => raw.body(body),
        }
    }

    fn check(&self, error: &ImageError) {
        let name = &self.name;
        assert_eq!(error.kind(), ImageErrorKind::Refused, "{name}: {error:?}");
        let refusal: &Refusal = error.refusal().unwrap();
        assert_eq!(serde_json::to_value(refusal.kind).unwrap(), self.kind, "{name}: {refusal:?}");
        let figures = refusal.figures.as_ref();
        let found =
            figures.map(|figures| (figures.resource.to_string(), figures.limit, figures.used, figures.requested));
        let expected = self.resource.clone().zip(self.limit);
        assert_eq!(found, expected.map(|(resource, limit)| (resource, limit, self.used, self.requested)), "{name}");
        assert_eq!(error.retry_after(), self.wait_ms.map(Duration::from_millis), "{name}");
        assert_eq!(refusal.split_into(), self.split, "{name}");
    }
}

#[tokio::test]
async fn every_published_refusal_is_read_as_what_it_is_whole_and_as_a_stream() {
    let text = include_str!("../../../src/openai/classify/vectors.toml");
    let vectors = toml::from_str::<Vectors>(text).unwrap().vector;
    assert!(vectors.len() >= 76, "{} vectors", vectors.len());
    for vector in vectors {
        for streams in [false, true] {
            let stage = Stage::new(Terms::new()).await;
            stage.upstream.from_now_on(Script::Reply(vector.reply()));
            let client = stage.client_with([stage.route()], |builder| builder.retry(RetryPolicy::none()));
            let error = if streams {
                client.stream(&alice(), lighthouse()).next().await.unwrap().unwrap_err()
            } else {
                client.run(&alice(), lighthouse()).await.unwrap_err()
            };
            vector.check(&error);
            let Charged { in_flight, .. } = stage.charged().await;
            assert_eq!(in_flight, 0, "{}: its slot is free", vector.name);
            // a stream that is refused as such is asked for whole
            assert!((1..=2).contains(&stage.upstream.tally().calls), "{}", vector.name);
        }
    }
}
