//! The endpoints: how a call comes in, is judged, and gets its answer.

mod answer;
mod ask;

use std::{convert::Infallible, sync::Arc};

use axum::{
    Router,
    body::Body,
    extract::{Path, RawPathParams, Request, State},
    http::{HeaderMap, Response, request},
    routing::{get, post},
};
use serde_json::json;
use tokio::time::sleep;

use self::ask::Asked;
use crate::{
    delivery::{deliver, hang_up},
    drawing::{Drawing, EDGE_MAX},
    limits::{Dimension, MINUTE},
    models::{POOL, model, models},
    picture::Picture,
    quota::{Cost, Left, Quota, Shortage},
    reply::{Content, Reply, go_duration},
    script::{Fault, Script},
    server::{Account, Shared},
    shapes::{ErrorShape, Figures},
    tally::Call,
    terms::{Feature, Org, RateHeaders, RetryHints, TokenCharge},
    usage::Usage,
    visit::{End, Visit},
};

/// What a path asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Endpoint {
    Generations,
    Edits,
    Responses,
    Chat,
}

impl Endpoint {
    fn feature(self) -> Feature {
        match self {
            Self::Generations => Feature::Generations,
            Self::Edits => Feature::Edits,
            Self::Responses => Feature::Responses,
            Self::Chat => Feature::Chat,
        }
    }
}

pub(crate) fn router(shared: Arc<Shared>) -> Router {
    let mut router = Router::new()
        .route("/files/{name}", get(file))
        .route("/health", get(async || "ok"))
        .fallback(async || deliverable(not_found()));
    for base in ["/v1", "/openai/v1", "/openai/deployments/{deployment}"] {
        for (path, endpoint) in [
            ("images/generations", Endpoint::Generations),
            ("images/edits", Endpoint::Edits),
            ("responses", Endpoint::Responses),
            ("chat/completions", Endpoint::Chat),
        ] {
            let answer = post(move |State(shared): State<Arc<Shared>>, deployment: RawPathParams, request: Request| {
                let deployment = deployment.iter().next().map(|(_, name)| name.to_owned());
                call(shared, endpoint, deployment, request)
            });
            router = router.route(&format!("{base}/{path}"), answer);
        }
    }
    for base in ["/v1", "/openai/v1"] {
        router = router.route(&format!("{base}/models"), get(list_models));
    }
    router.with_state(shared)
}

async fn call(
    shared: Arc<Shared>,
    endpoint: Endpoint,
    deployment: Option<String>,
    request: Request,
) -> Result<Response<Body>, Infallible> {
    let (head, body) = request.into_parts();
    let org = key(&head.headers).and_then(|key| shared.org_of(key)).cloned();
    let number = shared.books.lock().arrived(record(&shared, &head, org.as_ref()));
    let mut visit = Visit::new(shared.clone(), number);
    let script = shared.script();
    let mut fault = match &script {
        Script::Break(fault) => Some(fault.clone()),
        _ => None,
    };
    if fault == Some(Fault::HangUpBeforeReading) {
        visit.cut();
        return Ok(hang_up());
    }
    let asked = match ask::read(endpoint, deployment, &head, body).await {
        Ok(asked) => asked,
        // The client went before all of it had come.
        Err(_) => return Ok(hang_up()),
    };
    shared.books.lock().amend(visit.number(), |call| {
        call.body = asked.body.clone();
        call.parts.clone_from(&asked.parts);
    });
    let judge = Judge { shared: &shared, endpoint, host: host(&head.headers) };
    let reply = judge.reply(org.as_ref(), script, asked, &mut visit).await;
    let pause = shared.clock.real(shared.terms.event_pause);
    if let (Some(Fault::CutAfterEvents(_) | Fault::EndAfterEvents(_)), Content::Whole { .. }) = (&fault, &reply.content)
    {
        fault = None;
    }
    deliver(reply, fault, pause, visit).await
}

/// Decides what a call is answered.
struct Judge<'a> {
    shared: &'a Arc<Shared>,
    endpoint: Endpoint,
    host: String,
}

impl Judge<'_> {
    async fn reply(&self, org: Option<&Org>, script: Script, asked: Asked, visit: &mut Visit) -> Reply {
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
        sleep(self.latency()).await;
        let artist = answer::Artist { terms: &self.shared.terms, endpoint: self.endpoint, host: &self.host };
        let mut reply = artist.draw(&drawing, &usage);
        visit.ends_as(End::Served);
        if let (Some(count), Content::Events(events)) = (last_event, &mut reply.content) {
            let shape =
                if self.endpoint == Endpoint::Responses { ErrorShape::HiddenEvents } else { ErrorShape::ErrorEvent };
            events.truncate(count);
            if let Content::Events(failure) = shape.render(&self.figures(org, &asked_model, drawing.n)).content {
                events.extend(failure.last().cloned());
            }
            visit.ends_as(End::Error);
        }
        if self.shared.terms.headers != RateHeaders::OnRefusalOnly { self.with_rates(reply, &left) } else { reply }
    }

    /// Why the server does not do at all what is asked.
    fn cannot(&self, org: &Org, drawing: &Drawing) -> Option<Reply> {
        let terms = &self.shared.terms;
        let known = if terms.models.is_empty() {
            model(&drawing.model).is_some()
        } else {
            terms.models.contains(&drawing.model)
        };
        if terms.without.contains(&self.endpoint.feature()) {
            return Some(not_found());
        }
        if !known {
            return Some(ErrorShape::ModelNotFound.render(&self.figures(org, &drawing.model, drawing.n)));
        }
        if drawing.stream && terms.without.contains(&Feature::Streaming) {
            return Some(crate::shapes::invalid("stream", "Streaming is not supported."));
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

    fn latency(&self) -> std::time::Duration {
        let latency = self.shared.terms.latency;
        let spread = latency.most.saturating_sub(latency.least);
        let jitter = if spread.is_zero() { 0.0 } else { self.shared.random.lock().f64() };
        self.shared.clock.real(latency.least + spread.mul_f64(jitter))
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

/// The key of a call, by the header of OpenAI or that of Azure.
fn key(headers: &HeaderMap) -> Option<&str> {
    let bearer = headers.get("authorization").and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
    bearer.or_else(|| headers.get("api-key")?.to_str().ok())
}

fn host(headers: &HeaderMap) -> String {
    headers.get("host").and_then(|host| host.to_str().ok()).unwrap_or("localhost").to_owned()
}

fn record(shared: &Shared, head: &request::Parts, org: Option<&Org>) -> Call {
    let text = |name: &str| Some(head.headers.get(name)?.to_str().ok()?.to_owned());
    Call {
        at: shared.clock.now(),
        path: head.uri.path().to_owned(),
        query: head.uri.query().map(str::to_owned),
        org: org.map(|org| org.name.clone()),
        headers: head.headers.keys().map(|name| name.as_str().to_owned()).collect(),
        idempotency_key: text("idempotency-key"),
        user_agent: text("user-agent"),
        ..Call::default()
    }
}

fn not_found() -> Reply {
    let error = json!({ "message": "Unknown request URL.", "type": "invalid_request_error", "param": null, "code": "unknown_url" });
    Reply::json(404, &json!({ "error": error }))
}

async fn list_models(State(shared): State<Arc<Shared>>, headers: HeaderMap) -> Response<Body> {
    if key(&headers).and_then(|key| shared.org_of(key)).is_none() {
        return deliverable(ErrorShape::Unauthorized.render(&Figures::default()));
    }
    let own = &shared.terms.models;
    let list: Vec<_> = if own.is_empty() {
        let model = |model: &crate::models::Model| json!({ "id": model.name, "object": "model", "created": 0, "owned_by": "openai", "shutdown_date": model.shutdown_date });
        models().map(model).collect()
    } else {
        own.iter().map(|name| json!({ "id": name, "object": "model", "created": 0, "owned_by": "proxy" })).collect()
    };
    deliverable(Reply::json(200, &json!({ "object": "list", "data": list })))
}

/// A picture by its address, which says all that there is to know of it.
async fn file(State(shared): State<Arc<Shared>>, Path(name): Path<String>) -> Response<Body> {
    let picture = name.strip_suffix(".png").and_then(|name| {
        let mut numbers = name.splitn(3, '-').map(str::parse::<u32>);
        Some(Picture { width: numbers.next()?.ok()?, height: numbers.next()?.ok()?, seed: numbers.next()?.ok()? })
    });
    let edges = 1..=EDGE_MAX;
    let picture = picture.filter(|picture| edges.contains(&picture.width) && edges.contains(&picture.height));
    match picture {
        Some(picture) => deliverable(Reply::text(200, "image/png", picture.png(shared.terms.pictures))),
        None => deliverable(not_found()),
    }
}

/// An answer to a call that no tally counts.
fn deliverable(reply: Reply) -> Response<Body> {
    let Content::Whole { media_type, body } = reply.content else { return hang_up() };
    let response = Response::builder().status(reply.status).header("content-type", media_type);
    response.body(Body::from(body)).unwrap_or_else(|_| hang_up())
}
