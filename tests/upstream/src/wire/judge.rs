//! What a call is answered: by its script, by the model, by the limits, or with a drawing.
//!
//! Invariant: only a call that the limits admitted is charged, and it is charged before it is drawn.

use std::{sync::Arc, time::Duration};

use tokio::time::sleep;

use super::{Endpoint, answer::Artist, ask::Asked, not_found};
use crate::{
    drawing::Drawing,
    limits::{Dimension, MINUTE},
    models::{POOL, model},
    quota::{Cost, Left, Quota, Shortage},
    reply::{Content, Reply, go_duration},
    script::Script,
    server::{Account, Shared},
    shapes::{ErrorShape, Figures, invalid},
    terms::{Feature, Org, RateHeaders, RetryHints, TokenCharge},
    usage::Usage,
    visit::{End, Visit},
};

/// Decides what a call is answered.
pub(crate) struct Judge<'a> {
    pub(crate) shared: &'a Arc<Shared>,
    pub(crate) endpoint: Endpoint,
    /// By which name the client knows this server.
    pub(crate) host: String,
}

impl Judge<'_> {
    /// The answer, once the drawing's time has passed. The visit learns as what it ends.
    pub(crate) async fn reply(&self, org: Option<&Org>, script: Script, asked: Asked, visit: &mut Visit) -> Reply {
        let Asked { drawing, model: asked_model, .. } = asked;
        let Some(org) = org else {
            return ErrorShape::Unauthorized.render(&Figures { model: asked_model, ..Figures::default() });
        };
        let requested = drawing.as_ref().map_or(1, |drawing| drawing.n);
        let last_event = match script {
            Script::Refuse(shape) => {
                return shape.render(&self.figures(org, &asked_model, requested));
            }
            Script::RefuseWith(shape, figures) => return shape.render(&figures),
            Script::Reply(raw) => {
                let reply = raw.into_reply();
                visit.ends_as(if reply.status < 400 { End::Served } else { End::Error });
                return reply;
            }
            Script::FailAfterEvents(count) => Some(count),
            Script::Break(_) | Script::Serve => None,
        };
        let drawing = match drawing {
            Ok(drawing) => drawing,
            Err(reply) => return *reply,
        };
        if let Some(reply) = self.cannot(org, &drawing) {
            return reply;
        }
        let usage = Usage::of(&drawing, self.shared.terms.usage_factor);
        let left = match self.admit(org, &drawing, &usage) {
            Ok(left) => left,
            Err(refused) => {
                visit.ends_as(End::Refused);
                return *refused;
            }
        };
        sleep(self.latency(drawing.draw_for)).await;
        let artist = Artist { terms: &self.shared.terms, endpoint: self.endpoint, host: &self.host };
        let mut reply = artist.draw(&drawing, &usage);
        visit.ends_as(End::Served);
        if let (Some(count), Content::Events(events)) = (last_event, &mut reply.content) {
            events.truncate(count);
            events.extend(self.failure(&self.figures(org, &asked_model, drawing.n)));
            visit.ends_as(End::Error);
        }
        if self.shared.terms.headers != RateHeaders::OnRefusalOnly { self.with_rates(reply, &left) } else { reply }
    }

    /// The event by which a stream of this endpoint fails.
    fn failure(&self, figures: &Figures) -> Option<String> {
        let shape = match self.endpoint {
            Endpoint::Responses => ErrorShape::HiddenEvents,
            _ => ErrorShape::ErrorEvent,
        };
        match shape.render(figures).content {
            Content::Events(events) => events.last().cloned(),
            Content::Whole { .. } => None,
        }
    }

    /// Why the server does not do at all what is asked.
    fn cannot(&self, org: &Org, drawing: &Drawing) -> Option<Reply> {
        let terms = &self.shared.terms;
        let known = if terms.models.is_empty() {
            model(&drawing.model).is_some()
        } else {
            terms.models.contains(&drawing.model)
        };
        if terms.without.contains(&feature(self.endpoint)) {
            return Some(not_found());
        }
        if !known {
            return Some(ErrorShape::ModelNotFound.render(&self.figures(org, &drawing.model, drawing.n)));
        }
        if drawing.stream && terms.without.contains(&Feature::Streaming) {
            return Some(invalid("stream", "Streaming is not supported."));
        }
        None
    }

    /// Charges the call, or says that there is no room for it.
    fn admit(&self, org: &Org, drawing: &Drawing, usage: &Usage) -> Result<Vec<Left>, Box<Reply>> {
        let terms = &self.shared.terms;
        let tokens = match terms.token_charge {
            TokenCharge::Actual => usage.total(),
            TokenCharge::PerImage(tokens) => tokens * drawing.n,
        };
        let cost = Cost { images: drawing.n, tokens };
        let pool = pool(&drawing.model);
        let account = Account { org: org.name.clone(), pool: pool.to_owned() };
        let mut quotas = self.shared.quotas.lock();
        let quota = quotas.entry(account).or_insert_with(|| {
            let limits = org.limits.unwrap_or(terms.limits);
            Quota::new(&limits, terms.refused_calls, terms.stranger.as_ref())
        });
        // Read under the lock: calls then are charged in the order of their times.
        let now = self.shared.clock.now();
        let admitted = quota.admit(now, cost);
        let left = quota.left(now);
        let mut books = self.shared.books.lock();
        match admitted {
            Ok(()) => {
                books.admitted(&org.name, now, cost);
                Ok(left)
            }
            Err(shortage) => {
                books.refused(&org.name, shortage.dimension.kind());
                let mut reply = terms.refusal.render(&figures_of(shortage, org, &drawing.model));
                if terms.hints == RetryHints::MessageOnly {
                    reply.headers.retain(|(name, _)| !name.starts_with("retry-after"));
                }
                Err(Box::new(self.with_rates(reply, &left)))
            }
        }
    }

    fn with_rates(&self, mut reply: Reply, left: &[Left]) -> Reply {
        for Left { dimension, limit, remaining, reset } in left {
            let kind = dimension.kind();
            let (limit, remaining, reset) = match self.shared.terms.headers {
                RateHeaders::Never => return reply,
                RateHeaders::Sentinels => ("-1".to_owned(), "0".to_owned(), "0".to_owned()),
                _ => (limit.to_string(), remaining.to_string(), go_duration(*reset)),
            };
            reply = reply
                .header(&format!("x-ratelimit-limit-{kind}"), limit)
                .header(&format!("x-ratelimit-remaining-{kind}"), remaining)
                .header(&format!("x-ratelimit-reset-{kind}"), reset);
        }
        reply
    }

    fn latency(&self, draw_for: Duration) -> Duration {
        let latency = self.shared.terms.latency;
        let spread = latency.most.saturating_sub(latency.least);
        let jitter = if spread.is_zero() { 0.0 } else { self.shared.random.lock().f64() };
        self.shared.clock.real(draw_for + latency.least + spread.mul_f64(jitter))
    }

    /// The figures of an error that no limit gave: as if the minute's images were just used up.
    fn figures(&self, org: &Org, model: &str, requested: u64) -> Figures {
        let limit = org.limits.unwrap_or(self.shared.terms.limits).images.unwrap_or(250);
        let try_again = MINUTE.mul_f64(requested as f64 / limit.max(1) as f64);
        let (dimension, used) = (Dimension::Images, Some(limit));
        figures_of(Shortage { dimension, period: MINUTE, limit, used, requested, try_again }, org, model)
    }
}

fn figures_of(shortage: Shortage, org: &Org, model: &str) -> Figures {
    let Shortage { dimension, period, limit, used, requested, try_again } = shortage;
    let pool = pool(model);
    Figures {
        model: model.to_owned(),
        pool: (pool != model).then(|| pool.to_owned()),
        org: org.name.clone(),
        dimension,
        period,
        limit,
        used,
        requested,
        wait: try_again,
    }
}

/// The pool of a model: all that are known share one, and any other has its own.
fn pool(name: &str) -> &str {
    if model(name).is_some() { POOL } else { name }
}

fn feature(endpoint: Endpoint) -> Feature {
    match endpoint {
        Endpoint::Generations => Feature::Generations,
        Endpoint::Edits => Feature::Edits,
        Endpoint::Responses => Feature::Responses,
        Endpoint::Chat => Feature::Chat,
    }
}
