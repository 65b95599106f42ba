//! What a route turned out not to be able to do, and what it says it has.
//!
//! Invariant: pure; time is a value. What is not known is taken for possible, and what was learnt is forgotten after a while, so that a
//! route that has learnt something new is asked again.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    time::{Duration, SystemTime},
};

use serde::Deserialize;
use tokio::time::Instant;

use crate::openai::{
    refusal::{Refusal, RefusalKind},
    request::{ImageRequest, Size},
};

/// How long a lack is remembered.
const LACKING_FOR: Duration = Duration::from_secs(600);
/// How long a list of models is believed.
const LISTED_FOR: Duration = Duration::from_secs(3_600);
/// Lacks that one route is remembered for. Sizes come from callers, so there may be any number.
const LACKS_MAX: usize = 256;

/// How a call wants its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::openai) enum Delivery {
    Whole,
    Stream,
}

/// What a call needs of a route.
#[derive(Clone, Copy, Debug)]
pub(in crate::openai) struct Need<'a> {
    /// As requests name it.
    pub(in crate::openai) model: &'a str,
    pub(in crate::openai) size: Size,
    /// Images to draw.
    pub(in crate::openai) images: u64,
    pub(in crate::openai) is_edit: bool,
    pub(in crate::openai) delivery: Delivery,
}

impl<'a> Need<'a> {
    pub(in crate::openai) fn of(model: &'a str, request: &ImageRequest, delivery: Delivery) -> Self {
        let (size, images) = (request.size, u64::from(request.n));
        Self { model, size, images, is_edit: request.is_edit(), delivery }
    }
}

/// Something a route cannot do.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Lack {
    Model(String),
    Size(String, Size),
    Edits(String),
    Streams(String),
}

impl Lack {
    /// What a refusal says that the route cannot do, of what the call needed; `None` if it is about the call.
    pub(super) fn read(refusal: &Refusal, need: &Need<'_>) -> Option<Self> {
        let model = || need.model.to_owned();
        let code = refusal.code.as_deref().unwrap_or_default();
        let message = refusal.message.to_lowercase();
        let says = |words: &[&str]| words.iter().any(|word| message.contains(word));
        match refusal.kind {
            RefusalKind::NoAccess => return (refusal.status != 401).then(|| Self::Model(model())),
            RefusalKind::Invalid => {}
            _ => return None,
        }
        if ["model_not_found", "DeploymentNotFound", "model_not_supported", "unsupported_model"].contains(&code) {
            return Some(Self::Model(model()));
        }
        let is_absent = [404, 405, 501].contains(&refusal.status);
        if is_absent && says(&["model", "deployment"]) {
            return Some(Self::Model(model()));
        }
        let refuses =
            ["not supported", "unsupported", "not support", "invalid value", "must be one of", "not available"];
        if !is_absent && !says(&refuses) {
            return None;
        }
        let size = need.size.to_string();
        match need {
            Need { delivery: Delivery::Stream, .. } if says(&["stream", "partial_images"]) => {
                Some(Self::Streams(model()))
            }
            Need { size: Size::Pixels { .. }, .. } if message.contains(&size) => Some(Self::Size(model(), need.size)),
            // the path of edits is missing, or the model does not edit
            Need { is_edit: true, .. } if is_absent || says(&["edit"]) => Some(Self::Edits(model())),
            _ if says(&["model"]) && message.contains(&need.model.to_lowercase()) => Some(Self::Model(model())),
            _ if is_absent => Some(Self::Model(model())),
            _ => None,
        }
    }

    fn stops(&self, need: &Need<'_>) -> bool {
        match self {
            Self::Model(model) => model == need.model,
            Self::Size(model, size) => model == need.model && *size == need.size,
            Self::Edits(model) => model == need.model && need.is_edit,
            Self::Streams(model) => model == need.model && need.delivery == Delivery::Stream,
        }
    }
}

impl fmt::Display for Lack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Model(model) => write!(f, "no {model}"),
            Self::Size(model, size) => write!(f, "no {size} of {model}"),
            Self::Edits(model) => write!(f, "no edits by {model}"),
            Self::Streams(model) => write!(f, "no streams of {model}"),
        }
    }
}

/// The models that a route says it has: the answer to `GET {base}/models`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::openai) struct ModelList {
    /// With when each is shut down, if upstream says so.
    models: BTreeMap<String, Option<SystemTime>>,
}

impl ModelList {
    /// Reads the body of an answer; `None` if it is no such list.
    pub(in crate::openai) fn read(body: &[u8]) -> Option<Self> {
        #[derive(Deserialize)]
        struct Listed {
            data: Vec<Entry>,
        }
        #[derive(Deserialize)]
        struct Entry {
            id: String,
            #[serde(default)]
            shutdown_date: Option<Date>,
        }
        /// Text such as `2026-12-01`, or seconds since the epoch.
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Date {
            Seconds(u64),
            Text(String),
        }
        let listed: Listed = serde_json::from_slice(body).ok()?;
        let date = |date| match date {
            Date::Seconds(seconds) => SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds)),
            Date::Text(day) if day.len() == 10 => humantime::parse_rfc3339(&format!("{day}T00:00:00Z")).ok(),
            Date::Text(time) => humantime::parse_rfc3339(&time).ok(),
        };
        let models = listed.data.into_iter().map(|entry| (entry.id, entry.shutdown_date.and_then(date)));
        Some(Self { models: models.collect() })
    }

    /// When a model is shut down, if upstream says so.
    pub(in crate::openai) fn shut_down_at(&self, model: &str) -> Option<SystemTime> {
        self.models.get(model).copied().flatten()
    }
}

/// What is known of what a route can do.
#[derive(Clone, Debug, Default)]
pub(super) struct Abilities {
    lacks: HashMap<Lack, Instant>,
    listed: Option<Listing>,
}

#[derive(Clone, Debug)]
struct Listing {
    /// With until when each serves.
    models: BTreeMap<String, Option<Instant>>,
    until: Instant,
}

impl Abilities {
    /// Why a call cannot be served, if that is known; `upstream` is its model's name there.
    pub(super) fn stop(&self, need: &Need<'_>, upstream: &str, now: Instant) -> Option<String> {
        if let Some(lack) = self.live(now).find(|lack| lack.stops(need)) {
            return Some(lack.to_string());
        }
        match self.listed.as_ref().filter(|listing| now < listing.until)?.models.get(upstream) {
            None => Some(format!("{upstream} is not among the models it lists")),
            Some(Some(until)) if now >= *until => Some(format!("{upstream} is shut down")),
            Some(_) => None,
        }
    }

    pub(super) fn learn(&mut self, lack: Lack, now: Instant) {
        self.lacks.retain(|_, until| now < *until);
        if self.lacks.len() < LACKS_MAX {
            self.lacks.insert(lack, now + LACKING_FOR);
        }
    }

    /// Believes a list of models. `at` is the time by the wall clock, which lists go by.
    pub(super) fn list(&mut self, list: &ModelList, now: Instant, at: SystemTime) {
        let until = |at_last: &SystemTime| now.checked_add(at_last.duration_since(at).unwrap_or_default());
        let models = list.models.iter().map(|(model, at_last)| (model.clone(), at_last.as_ref().and_then(until)));
        self.listed = Some(Listing { models: models.collect(), until: now + LISTED_FOR });
    }

    /// What it lacks, sorted.
    pub(super) fn lacking(&self, now: Instant) -> Vec<String> {
        let mut lacks: Vec<_> = self.live(now).map(Lack::to_string).collect();
        lacks.sort();
        lacks
    }

    /// The models it lists.
    pub(super) fn listed(&self, now: Instant) -> Option<Vec<String>> {
        let listing = self.listed.as_ref().filter(|listing| now < listing.until)?;
        let serves = |until: &Option<Instant>| until.is_none_or(|until| now < until);
        Some(listing.models.iter().filter(|(_, until)| serves(until)).map(|(model, _)| model.clone()).collect())
    }

    fn live(&self, now: Instant) -> impl Iterator<Item = &Lack> {
        self.lacks.iter().filter(move |(_, until)| now < **until).map(|(lack, _)| lack)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(kind: RefusalKind, status: u16, code: &str, message: &str) -> Refusal {
        let code = (!code.is_empty()).then(|| code.to_owned());
        let message = message.to_owned();
        let (error_type, figures, retry_after, should_retry) = (None, None, None, None);
        Refusal { kind, status, error_type, code, message, figures, retry_after, should_retry }
    }

    fn edit() -> Need<'static> {
        let size = Size::pixels(2048, 2048);
        Need { model: "gpt-image-2", size, images: 1, is_edit: true, delivery: Delivery::Stream }
    }

    #[test]
    fn what_a_refusal_says_that_a_route_cannot_do() {
        use RefusalKind::{Invalid, Moderation, NoAccess, RateLimited};
        let model = || Some(Lack::Model("gpt-image-2".to_owned()));
        let size = || Some(Lack::Size("gpt-image-2".to_owned(), Size::pixels(2048, 2048)));
        let edits = || Some(Lack::Edits("gpt-image-2".to_owned()));
        let streams = || Some(Lack::Streams("gpt-image-2".to_owned()));
        for (kind, status, code, message, lack) in [
            (Invalid, 404, "model_not_found", "The model `gpt-image-2` does not exist", model()),
            (Invalid, 400, "model_not_found", "no such model", model()),
            (Invalid, 404, "DeploymentNotFound", "The API deployment for this resource does not exist.", model()),
            (NoAccess, 403, "", "Your organization must be verified to use the model", model()),
            (NoAccess, 401, "invalid_api_key", "Incorrect API key provided", None),
            (Invalid, 400, "", "Streaming is not supported for this model", streams()),
            (Invalid, 400, "unknown_parameter", "Unsupported parameter: 'stream'", streams()),
            (Invalid, 400, "invalid_value", "Invalid value: '2048x2048'. Supported values are: '1024x1024'", size()),
            (Invalid, 400, "", "Image edits are not supported by this provider", edits()),
            (Invalid, 404, "", "Not Found", edits()),
            (Invalid, 405, "", "Method Not Allowed", edits()),
            (Invalid, 400, "", "gpt-image-2 is not a supported model: unsupported", model()),
            (Invalid, 400, "invalid_value", "Invalid value: 'purple'. Supported values are: 'opaque'", None),
            (Invalid, 400, "", "prompt is too long", None),
            (Moderation, 400, "moderation_blocked", "not supported", None),
            (RateLimited, 429, "", "the model is not available", None),
        ] {
            assert_eq!(Lack::read(&refusal(kind, status, code, message), &edit()), lack, "{status} {code} {message}");
        }
        let plain = Need { is_edit: false, delivery: Delivery::Whole, ..edit() };
        let gone = refusal(Invalid, 404, "", "Not Found");
        assert_eq!(Lack::read(&gone, &plain), model(), "nothing else is left that the path could be missing for");
    }

    #[test]
    fn a_lack_stops_what_needs_it_until_it_is_forgotten() {
        let (mut abilities, now) = (Abilities::default(), Instant::now());
        abilities.learn(Lack::Streams("gpt-image-2".to_owned()), now);
        let stop = |abilities: &Abilities, need: &Need<'_>, now| abilities.stop(need, need.model, now);
        assert_eq!(stop(&abilities, &edit(), now).as_deref(), Some("no streams of gpt-image-2"));
        assert_eq!(stop(&abilities, &Need { delivery: Delivery::Whole, ..edit() }, now), None);
        assert_eq!(stop(&abilities, &Need { model: "other", ..edit() }, now), None);
        assert_eq!(stop(&abilities, &edit(), now + LACKING_FOR), None);
        for width in 0..1_000 {
            abilities.learn(Lack::Size("gpt-image-2".to_owned(), Size::pixels(width, 1)), now);
        }
        assert_eq!(abilities.lacking(now).len(), LACKS_MAX, "callers choose sizes");
    }

    #[test]
    fn a_list_of_models_is_read_and_believed_for_an_hour() {
        let body = br#"{"object":"list","data":[
            {"id":"gpt-image-2","object":"model"},
            {"id":"gpt-image-1.5","shutdown_date":"2026-12-01"},
            {"id":"old","shutdown_date":1700000000},
            {"id":"far","shutdown_date":18446744073709551615},
            {"id":"odd","shutdown_date":"soon"},
            {"id":"null","shutdown_date":null}]}"#;
        let list = ModelList::read(body).unwrap();
        let day = |text: &str| humantime::parse_rfc3339(text).unwrap();
        assert_eq!(list.models["gpt-image-1.5"], Some(day("2026-12-01T00:00:00Z")));
        let (mut abilities, now) = (Abilities::default(), Instant::now());
        abilities.list(&list, now, day("2026-11-30T23:59:30Z"));
        let stop = |model: &str, now| abilities.stop(&edit(), model, now);
        for model in ["gpt-image-2", "gpt-image-1.5", "far", "odd", "null"] {
            assert_eq!(stop(model, now), None, "{model}");
        }
        assert_eq!(stop("old", now).as_deref(), Some("old is shut down"));
        assert_eq!(stop("gone", now).as_deref(), Some("gone is not among the models it lists"));
        assert_eq!(stop("gpt-image-1.5", now + Duration::from_secs(30)).as_deref(), Some("gpt-image-1.5 is shut down"));
        assert_eq!(stop("gone", now + LISTED_FOR), None);
        for other in [&b"{}"[..], b"[]", b"<html>", b"{\"data\":[{}]}", b""] {
            assert_eq!(ModelList::read(other), None);
        }
    }
}
