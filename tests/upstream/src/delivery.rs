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
    visit.status(reply.status);
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
        Some(Fault::Redirect(to)) => reply = Reply::text(302, "text/plain", "").header("location", to),
        Some(Fault::TruncatedJson) => {
            if let Content::Whole { body, .. } = &mut reply.content {
                body.truncate(body.len() / 2);
            }
        }
        Some(Fault::GiantEvent(bytes)) => {
            if let Content::Events(events) = &mut reply.content {
                events.insert(0, format!("event: giant\ndata: {}\n\n", "x".repeat(*bytes)));
            }
        }
        Some(Fault::EndAfterEvents(count)) => {
            if let Content::Events(events) = &mut reply.content {
                events.truncate(*count);
                visit.cut();
            }
        }
        _ => {}
    }
    let mut response = Response::builder().status(StatusCode::from_u16(reply.status).unwrap_or(StatusCode::OK));
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
    let media_type = if fault == Some(Fault::WrongMediaType) { "text/plain".to_owned() } else { media_type };
    let body = Body::from_stream(pour(chunks, fault, pause, visit));
    let response = response.header(header::CONTENT_TYPE, media_type).body(body);
    Ok(response.unwrap_or_else(|_| hang_up()))
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
        if count == 0 {
            visit.done();
        }
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
