//! What the style of a route has no words for, what a route turned out not to be able to do, and what it says it has.
//!
//! Invariant: pure; time is a value. What is not known is taken for possible, and what was learnt is forgotten after a while, so that a
//! route that has learnt something new is asked again.

mod lack;

use std::{
    collections::{BTreeMap, HashMap},
    time::{Duration, SystemTime},
};

use serde::Deserialize;
use tokio::time::Instant;

pub(super) use self::lack::Lack;
use crate::openai::{
    request::{ImageRequest, Size},
    route::Style,
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
    pub(in crate::openai) has_mask: bool,
    pub(in crate::openai) delivery: Delivery,
}

impl<'a> Need<'a> {
    pub(in crate::openai) fn of(model: &'a str, request: &ImageRequest, delivery: Delivery) -> Self {
        let (size, images) = (request.size, u64::from(request.n));
        Self { model, size, images, is_edit: request.is_edit(), has_mask: request.mask.is_some(), delivery }
    }

    /// What of it a route of this style cannot be told, in words.
    pub(super) fn unsaid_in(&self, style: &Style) -> Option<String> {
        match style {
            Style::Responses { .. } if self.images > 1 => {
                Some(format!("n = {}: a route of style `responses` draws one image a call", self.images))
            }
            Style::Chat if self.has_mask => Some("mask: a route of style `chat` takes none".to_owned()),
            Style::Images | Style::Azure { .. } | Style::Responses { .. } | Style::Chat => None,
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
        classify,
        error::{ImageError, ImageErrorKind},
        headers::RateHeaders,
        route::{
            Route,
            choice::{Moment, Routes},
            price::tried::estimate,
        },
    };

    fn edit() -> Need<'static> {
        let size = Size::pixels(2048, 2048);
        Need { model: "gpt-image-2", size, images: 1, is_edit: true, has_mask: false, delivery: Delivery::Stream }
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
        let no_model = br#"{"error":{"code":"model_not_found"}}"#;
        let lack = classify::body(404, &RateHeaders::default(), no_model).unwrap().into();
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
