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
    ///
    /// A lack turns away the calls of everybody, so it is never guessed from a status or from words in passing: a page of a firewall, or an id
    /// that is not found, says nothing of the model.
    pub(super) fn read(refusal: &Refusal, need: &Need<'_>) -> Option<Self> {
        let model = || need.model.to_owned();
        if refusal.is_of_model() {
            return Some(Self::Model(model()));
        }
        if !matches!(refusal.kind, RefusalKind::Invalid | RefusalKind::Failed) {
            return None;
        }
        let message = refusal.message.to_lowercase();
        if need.is_edit && (is_of_path(refusal.status, &message) || is_without(&message, &["edit", "edits", "editing"]))
        {
            return Some(Self::Edits(model()));
        }
        if need.delivery == Delivery::Stream && is_without(&message, &["stream", "streaming", "partial_images"]) {
            return Some(Self::Streams(model()));
        }
        let refuses = ["not supported", "unsupported", "not support", "invalid value", "must be one of"];
        let is_of_value = refuses.iter().any(|words| message.contains(words));
        match need.size {
            Size::Pixels { .. } if is_of_value && message.contains(&need.size.to_string()) => {
                Some(Self::Size(model(), need.size))
            }
            Size::Pixels { .. } | Size::Auto => None,
        }
    }

    /// Whether a call can be made in another way where a route lacks this: whole, and not as a stream.
    fn has_another_way(&self) -> bool {
        matches!(self, Self::Streams(_))
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

/// Whether there is no such path, rather than nothing of an id in it.
fn is_of_path(status: u16, message: &str) -> bool {
    let is_plain = || ["not found", "resource not found", "page not found"].contains(&message.trim_end_matches('.'));
    let begins = || ["404 ", "invalid url", "upstream gave no reason"].iter().any(|words| message.starts_with(words));
    matches!(status, 405 | 501) || (status == 404 && (is_plain() || begins()))
}

/// Whether a message says that one of these, and nothing else, is not supported.
fn is_without(message: &str, names: &[&str]) -> bool {
    let after = ["unsupported parameter:", "unknown parameter:", "unrecognized request argument supplied:"];
    let named = after.iter().find_map(|words| message.strip_prefix(words)).map(|rest| upto(rest, &[".", " "]));
    let refused = || {
        let before =
            [" is not supported", " are not supported", " not supported", " is unsupported", " is not available"];
        let (before, _) = before.iter().find_map(|words| message.split_once(words))?;
        Some(before)
    };
    let lacked = || Some(upto(message.split_once(" does not support ")?.1, &[".", ","]));
    let Some(subject) = named.or_else(lacked).or_else(refused) else { return false };
    let around = ["", "the", "image", "images", "of", "parameter", "endpoint", "api", "v1"];
    let mut words =
        subject.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').filter(|word| !around.contains(word));
    words.next().is_some_and(|word| names.contains(&word)) && words.all(|word| names.contains(&word))
}

fn upto<'a>(text: &'a str, ends: &[&str]) -> &'a str {
    let text = text.trim_start();
    let end = ends.iter().filter_map(|end| text.find(end)).min();
    text.get(..end.unwrap_or(text.len())).unwrap_or_default()
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
        if let Some(lack) = self.live(now).find(|lack| lack.has_another_way() && lack.stops(need)) {
            return Some(lack.to_string());
        }
        match self.listed.as_ref().filter(|listing| now < listing.until)?.models.get(upstream) {
            None => Some(format!("{upstream} is not among the models it lists")),
            Some(Some(until)) if now >= *until => Some(format!("{upstream} is shut down")),
            Some(_) => None,
        }
    }

    /// Whether a refusal said that it cannot serve such a call, and nothing but another route can.
    pub(super) fn is_doubted(&self, need: &Need<'_>, now: Instant) -> bool {
        self.live(now).any(|lack| !lack.has_another_way() && lack.stops(need))
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
    use crate::openai::{
        error::{ImageError, ImageErrorKind},
        route::{
            Route,
            choice::{Moment, Routes},
            price::tried::estimate,
        },
    };

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
        use RefusalKind::{Failed, Invalid, NoAccess};
        let model = || Some(Lack::Model("gpt-image-2".to_owned()));
        let size = || Some(Lack::Size("gpt-image-2".to_owned(), Size::pixels(2048, 2048)));
        let edits = || Some(Lack::Edits("gpt-image-2".to_owned()));
        let streams = || Some(Lack::Streams("gpt-image-2".to_owned()));
        let rows = [
            (NoAccess, 404, "model_not_found", "The model `gpt-image-2` does not exist", model()),
            (NoAccess, 400, "model_not_supported", "The requested model is not supported.", model()),
            (NoAccess, 404, "DeploymentNotFound", "The API deployment for this resource does not exist.", model()),
            (NoAccess, 403, "", "Your organization must be verified to use the model", model()),
            (NoAccess, 403, "insufficient_quota", "You are not authorized to use gpt-image-2. Please upgrade", model()),
            (Invalid, 400, "", "Streaming is not supported for this model", streams()),
            (Invalid, 400, "unknown_parameter", "Unsupported parameter: 'stream'", streams()),
            (Invalid, 400, "unknown_parameter", "Unknown parameter: 'partial_images'.", streams()),
            (Invalid, 400, "invalid_value", "Invalid value: '2048x2048'. Supported values are: '1024x1024'", size()),
            (Invalid, 400, "", "Image edits are not supported by this provider", edits()),
            (Invalid, 400, "", "gpt-image-2 does not support image editing", edits()),
            (Invalid, 404, "", "Not Found", edits()),
            (Invalid, 404, "", "Invalid URL (POST /v1/images/edits)", edits()),
            (Invalid, 405, "", "Method Not Allowed", edits()),
            (Failed, 501, "", "upstream gave no reason", edits()),
        ];
        for (kind, status, code, message, lack) in rows {
            assert_eq!(Lack::read(&refusal(kind, status, code, message), &edit()), lack, "{status} {code} {message}");
        }
        let plain = Need { is_edit: false, delivery: Delivery::Whole, ..edit() };
        let gone = refusal(Invalid, 404, "", "Not Found");
        assert_eq!(Lack::read(&gone, &plain), None, "an address that is wrong is no lack of a model");
    }

    #[test]
    fn what_a_refusal_says_of_a_call_is_not_taken_for_a_lack() {
        use RefusalKind::{Invalid, Moderation, NoAccess, RateLimited};
        let fidelity = "The model 'gpt-image-2' does not support the 'input_fidelity' parameter.";
        let rows = [
            (Invalid, 400, "invalid_input_fidelity_model", fidelity),
            (NoAccess, 403, "", "<html><title>403 Forbidden</title> Request blocked by the model of our firewall"),
            (NoAccess, 403, "permission_error", "You have insufficient permissions for this operation."),
            (NoAccess, 401, "invalid_api_key", "Incorrect API key provided"),
            (NoAccess, 401, "model_not_found", "no key, no model"),
            (NoAccess, 429, "rate_limit_exceeded", "slow down and try again after 0.0 seconds"),
            (NoAccess, 200, "rate_limit_exceeded", "slow down and try again after 0.0 seconds"),
            (NoAccess, 429, "rate_limit_exceeded", "Rate limit reached for gpt-image-2: Limit 0, Requested 1."),
            (Invalid, 404, "", "No such file: file-1, of the model gpt-image-2"),
            (Invalid, 404, "not_found", "Not found: the stream of edits that `extra` names"),
            (Invalid, 400, "", "gpt-image-2 is not a supported model: unsupported"),
            (Invalid, 400, "invalid_value", "Invalid value: 'purple'. Supported values are: 'opaque'"),
            (Invalid, 400, "", "A mask is not supported for edits that stream"),
            (Invalid, 400, "", "Invalid prompt 'an edit of a stream' is not supported"),
            (Invalid, 400, "", "The image edits endpoint does not support gif images"),
            (Invalid, 400, "", "prompt is too long"),
            (Moderation, 400, "moderation_blocked", "edits are not supported"),
            (RateLimited, 429, "", "the model is not available"),
        ];
        for (kind, status, code, message) in rows {
            assert_eq!(Lack::read(&refusal(kind, status, code, message), &edit()), None, "{status} {code} {message}");
        }
    }

    #[test]
    fn a_lack_stops_what_needs_it_until_it_is_forgotten() {
        let (mut abilities, now) = (Abilities::default(), Instant::now());
        abilities.learn(Lack::Streams("gpt-image-2".to_owned()), now);
        let stop = |abilities: &Abilities, need: &Need<'_>, now| abilities.stop(need, need.model, now);
        abilities.learn(Lack::Model("gone".to_owned()), now);
        let gone = Need { model: "gone", ..edit() };
        assert_eq!((stop(&abilities, &gone, now), abilities.is_doubted(&gone, now)), (None, true));
        assert!(!abilities.is_doubted(&gone, now + LACKING_FOR) && !abilities.is_doubted(&edit(), now));
        assert_eq!(stop(&abilities, &edit(), now).as_deref(), Some("no streams of gpt-image-2"));
        assert_eq!(stop(&abilities, &Need { delivery: Delivery::Whole, ..edit() }, now), None);
        assert_eq!(stop(&abilities, &Need { model: "other", ..edit() }, now), None);
        assert_eq!(stop(&abilities, &edit(), now + LACKING_FOR), None);
        for width in 0..1_000 {
            abilities.learn(Lack::Size("gpt-image-2".to_owned(), Size::pixels(width, 1)), now);
        }
        assert_eq!(abilities.lacking(now).len(), LACKS_MAX, "callers choose sizes");
    }

    #[tokio::test(start_paused = true)]
    async fn a_route_is_left_out_for_a_lack_only_while_another_serves() {
        let routes = Routes::new([Route::openai("a", "key"), Route::openai("b", "key").priority(1)]).unwrap();
        let fails = |place: usize, error: &ImageError| {
            routes.all()[place].enter(Instant::now()).unwrap().failed(error, &edit());
        };
        let names = || {
            let moment = Moment { now: Instant::now(), seed: 1, shares: &[] };
            let order = routes.order(&edit(), &estimate(None), &moment);
            order.iter().map(|state| state.name().to_string()).collect::<Vec<_>>()
        };
        let lack = refusal(RefusalKind::NoAccess, 403, "model_not_found", "no such model").into();
        fails(0, &lack);
        assert_eq!(names(), ["b"]);
        (0..3).for_each(|_| fails(1, &ImageError::new(ImageErrorKind::Unreachable, "gone")));
        assert_eq!(names(), ["a"], "the other one has a pause");
        tokio::time::advance(Duration::from_secs(5)).await;
        fails(1, &lack);
        assert_eq!(names(), ["a", "b"]);
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
