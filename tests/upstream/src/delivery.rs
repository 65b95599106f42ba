//! How an answer goes out on its connection, whole or broken.
//!
//! Invariant: every call ends as exactly one of served, refused, error, cut and abandoned.

use std::{convert::Infallible, future::pending, io, time::Duration};

use async_stream::stream;
use axum::{
    body::Body,
    http::{Response, StatusCode, header},
};
use bytes::Bytes;
use tokio::time::sleep;

use crate::{
    reply::{Content, Reply},
    script::Fault,
    visit::Visit,
};

const CHUNK: usize = 64 * 1024;

/// Marks an answer that is not to be sent: the connection closes instead.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HangUp;

/// An answer that closes the connection.
pub(crate) fn hang_up() -> Response<Body> {
    let mut response = Response::new(Body::empty());
    response.extensions_mut().insert(HangUp);
    response
}

/// Sends `reply`, and breaks it where there is a fault. `pause` passes between events.
pub(crate) async fn deliver(
    mut reply: Reply,
    fault: Option<Fault>,
    pause: Duration,
    mut visit: Visit,
) -> Result<Response<Body>, Infallible> {
    match &fault {
        Some(Fault::HangUpBeforeReading | Fault::HangUpUnanswered) => {
            visit.cut();
            return Ok(hang_up());
        }
        Some(Fault::Silence) => {
            visit.cut();
            pending::<()>().await;
        }
        Some(Fault::Late(by)) => sleep(*by).await,
        Some(fault) => reply = spoil(reply, fault, &mut visit),
        None => {}
    }
    visit.status(reply.status);
    let mut response = Response::builder().status(StatusCode::from_u16(reply.status).unwrap_or(StatusCode::OK));
    response = response.header("x-request-id", format!("req_{}", visit.number()));
    for (name, value) in &reply.headers {
        response = response.header(name, value);
    }
    let (media_type, chunks) = match reply.content {
        Content::Whole { media_type, body } => {
            response = response.header(header::CONTENT_LENGTH, body.len());
            let size = if let Some(Fault::Trickle(bytes)) = fault { bytes.max(1) } else { CHUNK };
            (media_type, split(body, size))
        }
        Content::Events(events) => {
            let size = if let Some(Fault::Trickle(bytes)) = fault { bytes.max(1) } else { usize::MAX };
            let chunks = events.into_iter().flat_map(|event| split(event.into_bytes(), size)).collect();
            ("text/event-stream; charset=utf-8".to_owned(), chunks)
        }
    };
    if chunks.is_empty() {
        // Nobody asks for the chunks of an empty body.
        visit.done();
    }
    let body = Body::from_stream(pour(chunks, fault, pause, visit));
    let response = response.header(header::CONTENT_TYPE, media_type).body(body);
    Ok(response.unwrap_or_else(|_| hang_up()))
}

/// What some faults make of an answer before it goes out.
fn spoil(mut reply: Reply, fault: &Fault, visit: &mut Visit) -> Reply {
    match (fault, &mut reply.content) {
        (Fault::Redirect(to), _) => return Reply::text(302, "text/plain", "").header("location", to),
        (Fault::WrongMediaType, Content::Whole { media_type, .. }) => "text/plain".clone_into(media_type),
        (Fault::TruncatedJson, Content::Whole { body, .. }) => body.truncate(body.len() / 2),
        (Fault::GiantEvent(bytes), Content::Events(events)) => {
            events.insert(0, format!("event: giant\ndata: {}\n\n", "x".repeat(*bytes)));
        }
        (Fault::EndAfterEvents(count), Content::Events(events)) => {
            events.truncate(*count);
            visit.cut();
        }
        _ => {}
    }
    reply
}

/// The chunks one by one, until the fault says otherwise.
fn pour(
    chunks: Vec<Bytes>,
    fault: Option<Fault>,
    pause: Duration,
    mut visit: Visit,
) -> impl futures_core::Stream<Item = io::Result<Bytes>> {
    let pause = if let Some(Fault::Trickle(_)) = fault { Duration::from_millis(1) } else { pause };
    let (bytes_max, chunks_max) = match &fault {
        Some(Fault::CutAfterBytes(bytes) | Fault::StallAfterBytes(bytes)) => (*bytes, usize::MAX),
        Some(Fault::CutAfterEvents(events)) => (usize::MAX, *events),
        _ => (usize::MAX, usize::MAX),
    };
    stream! {
        let (mut sent, count) = (0, chunks.len());
        for (number, mut chunk) in chunks.into_iter().enumerate() {
            let room = bytes_max - sent;
            if number == chunks_max || chunk.len() > room {
                chunk.truncate(if number == chunks_max { 0 } else { room });
                visit.cut();
                if !chunk.is_empty() {
                    yield Ok(chunk);
                }
                // Lets what was written go out before the connection closes.
                sleep(Duration::from_millis(5)).await;
                if let Some(Fault::StallAfterBytes(_)) = fault {
                    pending::<()>().await;
                }
                yield Err(io::Error::other("cut on purpose"));
                return;
            }
            sent += chunk.len();
            if number > 0 && !pause.is_zero() {
                sleep(pause).await;
            }
            // Before the last chunk goes: nobody asks for more after it.
            if number + 1 == count {
                visit.done();
            }
            yield Ok(chunk);
        }
    }
}

fn split(bytes: Vec<u8>, size: usize) -> Vec<Bytes> {
    let mut rest = Bytes::from(bytes);
    let mut chunks = Vec::new();
    while !rest.is_empty() {
        chunks.push(rest.split_to(size.min(rest.len())));
    }
    chunks
}
