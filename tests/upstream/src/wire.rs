//! The endpoints: how a call comes in, is judged, and gets its answer.

mod answer;
mod ask;
mod judge;

use std::{convert::Infallible, sync::Arc};

use axum::{
    Router,
    body::Body,
    extract::{Path, RawPathParams, Request, State},
    http::{HeaderMap, Response, request},
    routing::{get, post},
};
use serde_json::json;

use self::judge::Judge;
use crate::{
    delivery::{deliver, hang_up},
    drawing::EDGE_MAX,
    models::{Model, models},
    picture::Picture,
    reply::{Content, Reply},
    script::{Fault, Script},
    server::Shared,
    shapes::{ErrorShape, Figures},
    tally::Call,
    terms::Org,
    visit::Visit,
};

/// What a path asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Endpoint {
    Generations,
    Edits,
    Responses,
    Chat,
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
        let model = |model: &Model| json!({ "id": model.name, "object": "model", "created": 0, "owned_by": "openai", "shutdown_date": model.shutdown_date });
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
