//! A route and all that was learnt of it.
//!
//! Invariant: one lock per route, never held while anything waits. A call that is dropped leaves nothing behind but its numbers.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use parking_lot::Mutex;
use serde::Serialize;
use tokio::time::Instant;

use crate::{
    cost::Cost,
    openai::{
        error::ImageError,
        estimate::{Estimate, SPEND},
        refusal::Refusal,
        route::{
            Route, Style,
            capability::{Abilities, Lack, ModelList, Need},
            health::{BreakerState, Health, Leave, Mark},
        },
    },
    resource::Resource,
    subject::Subject,
};

/// A route and what was learnt of it.
#[derive(Debug)]
pub(in crate::openai) struct RouteState {
    route: Route,
    learnt: Mutex<Learnt>,
}

#[derive(Debug)]
struct Learnt {
    health: Health,
    abilities: Abilities,
    under_way: u32,
    /// What people must mend before the route works again, while it pauses for that.
    closed_by: Option<Refusal>,
}

/// How a route is doing, for operators.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct RouteStatus {
    /// Its name.
    pub route: Arc<str>,
    /// Where it runs, if the settings say so.
    pub region: Option<String>,
    /// Whether calls go to it.
    pub breaker: BreakerState,
    /// Until the pause ends that failures made.
    pub paused_for: Option<Duration>,
    /// The part of calls that it answered, 0 to 1; the newest count most.
    pub availability: f64,
    /// How long images take, in milliseconds; the newest count most. `None`: none were drawn yet.
    pub latency_ms: Option<f64>,
    /// `availability x 1000 / latency_ms`. With 0.9 and 3,000 it is 0.3. `None`: nothing was measured lately.
    pub score: Option<f64>,
    /// Calls under way.
    pub under_way: u32,
    /// What it refused lately because it cannot do it, in words.
    pub lacks: Vec<String>,
    /// The models it lists, if it was asked lately.
    pub models: Option<Vec<String>>,
}

/// What decides about one route's place in the order, at one moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Standing {
    /// `None`: nothing was measured lately.
    pub(super) score: Option<f64>,
    pub(super) under_way: u32,
}

impl RouteState {
    pub(super) fn new(route: Route) -> Arc<Self> {
        let learnt = Learnt { health: Health::new(), abilities: Abilities::default(), under_way: 0, closed_by: None };
        Arc::new(Self { route, learnt: Mutex::new(learnt) })
    }

    /// Its settings, checked.
    pub(in crate::openai) fn route(&self) -> &Route {
        &self.route
    }

    pub(in crate::openai) fn name(&self) -> &Arc<str> {
        &self.route.name
    }

    /// Who is charged for a call of this subject, which has the pool of the model.
    pub(in crate::openai) fn subject(&self, subject: &Subject) -> Subject {
        self.route.subject(subject.clone())
    }

    /// What upstream calls this model.
    pub(in crate::openai) fn upstream_model<'a>(&'a self, model: &'a str) -> &'a str {
        self.route.upstream_model(model)
    }

    /// What a call is expected to cost there in millionths of a dollar, where that is known.
    pub(in crate::openai) fn spend_micros(&self, need: &Need<'_>, estimate: &Estimate) -> Option<u64> {
        let price = self.route.price_of(need.model);
        price.map_or(estimate.spend_micros, |price| price.estimated(estimate, need.images))
    }

    /// What to ask the limiter for, for a call there.
    pub(in crate::openai) fn cost(&self, need: &Need<'_>, estimate: &Estimate) -> Cost {
        let spend_micros = self.spend_micros(need, estimate);
        let cost = estimate.cost();
        match spend_micros {
            Some(micros) => cost.amount(Resource::Custom(SPEND.into()), micros.min(Cost::AMOUNT_MAX)),
            None => cost,
        }
    }

    /// Takes leave for a call; `None`: another is finding out whether the route works, or it has paused in between.
    pub(in crate::openai) fn enter(self: &Arc<Self>, now: Instant) -> Option<Passage> {
        let mut learnt = self.learnt.lock();
        let leave = learnt.health.enter(now)?;
        learnt.under_way += 1;
        Some(Passage { state: Arc::clone(self), leave: Some(leave) })
    }

    /// Believes what the route says that it has; Azure names models there, and is asked for deployments.
    pub(in crate::openai) fn list(&self, list: &ModelList, now: Instant, at: SystemTime) {
        if !matches!(self.route.style, Style::Azure { .. }) {
            self.learnt.lock().abilities.list(list, now, at);
        }
    }

    /// How it is doing.
    pub(in crate::openai) fn status(&self, now: Instant) -> RouteStatus {
        let Learnt { health, abilities, under_way, .. } = &*self.learnt.lock();
        RouteStatus {
            route: Arc::clone(&self.route.name),
            region: self.route.region.clone(),
            breaker: health.state(now),
            paused_for: health.paused_for(now),
            availability: health.availability(),
            latency_ms: health.latency_ms(),
            score: health.score(now),
            under_way: *under_way,
            lacks: abilities.lacking(now),
            models: abilities.listed(now),
        }
    }

    /// Why a call cannot go there now, if it cannot.
    pub(super) fn stop(&self, need: &Need<'_>, now: Instant) -> Option<Stop> {
        if !self.route.serves(need.model) {
            return Some(Stop { why: format!("it does not serve {}", need.model), ends: Ends::Never });
        }
        if let Some(why) = need.unsaid_in(&self.route.style) {
            return Some(Stop { why, ends: Ends::Never });
        }
        let Learnt { health, abilities, closed_by, .. } = &*self.learnt.lock();
        if let Some(why) = abilities.stop(need, self.upstream_model(need.model), now) {
            return Some(Stop { why, ends: Ends::Never });
        }
        let retry_after = health.retry_after(now)?;
        Some(match (health.paused_for(now), closed_by) {
            (Some(_), Some(refusal)) => {
                Stop { why: format!("it refused: {refusal}"), ends: Ends::ByPeople(Box::new(refusal.clone())) }
            }
            (Some(wait), None) => {
                Stop { why: format!("it failed, and is asked again in {wait:?}"), ends: Ends::After(wait) }
            }
            (None, _) => {
                let why = "it failed, and a call is finding out whether it works again".to_owned();
                Stop { why, ends: Ends::After(retry_after) }
            }
        })
    }

    /// Whether a call is better served by another route: this one refused such a call lately. Where there is no other, it is tried.
    pub(super) fn is_doubted(&self, need: &Need<'_>, now: Instant) -> bool {
        self.learnt.lock().abilities.is_doubted(need, now)
    }

    pub(super) fn standing(&self, now: Instant) -> Standing {
        let learnt = self.learnt.lock();
        Standing { score: learnt.health.score(now), under_way: learnt.under_way }
    }
}

/// Why a call cannot go to a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stop {
    pub(super) why: String,
    pub(super) ends: Ends,
}

/// When a route can be asked again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Ends {
    /// Not for this call: it is about settings, or about what the route cannot do.
    Never,
    After(Duration),
    /// When somebody has mended what it refused with.
    ByPeople(Box<Refusal>),
}

/// Leave for one call on one route. Dropped without an end, it says nothing about the route.
#[derive(Debug)]
pub(in crate::openai) struct Passage {
    state: Arc<RouteState>,
    leave: Option<Leave>,
}

impl Passage {
    /// The call drew images, in this time.
    pub(in crate::openai) fn served(mut self, latency: Duration) {
        self.note(Mark::Served(latency), None);
    }

    /// The call failed: the route's health and what it lacks are learnt from that. Says whether it lacks what the call needs.
    pub(in crate::openai) fn failed(mut self, error: &ImageError, need: &Need<'_>) -> bool {
        let lack = error.refusal().and_then(|refusal| Lack::read(refusal, need));
        let lacks = lack.is_some();
        if let Some(lack) = lack {
            self.state.learnt.lock().abilities.learn(lack, Instant::now());
        }
        self.note(Mark::of(error), error.refusal());
        lacks
    }

    fn note(&mut self, mark: Mark, refusal: Option<&Refusal>) {
        if let Some(leave) = self.leave.take() {
            let mut learnt = self.state.learnt.lock();
            learnt.under_way = learnt.under_way.saturating_sub(1);
            if learnt.health.note(leave, mark, Instant::now()) {
                learnt.closed_by = refusal.filter(|_| mark == Mark::Closed).cloned();
            }
        }
    }
}

impl Drop for Passage {
    fn drop(&mut self) {
        if let Some(leave) = self.leave.take() {
            let mut learnt = self.state.learnt.lock();
            learnt.under_way = learnt.under_way.saturating_sub(1);
            learnt.health.leave(leave, Instant::now());
        }
    }
}
