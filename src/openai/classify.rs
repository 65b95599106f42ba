//! Tells what kind of refusal an answer is, whatever way it came.
//!
//! Invariant: an error has the same kind with any status, in a body or in an event of a stream, as far as its own words, code and type tell.
//! An answer with a status under 400 is a refusal only if it says so itself: by an error, or by the words and figures of a limit.

mod kind;
mod said;

use crate::openai::{
    classify::{
        kind::Evidence,
        said::{Said, Source},
    },
    headers::RateHeaders,
    message, redaction,
    refusal::{Refusal, RefusalKind},
};

/// Longer messages are cut in a [`Refusal`].
const MESSAGE_CHARS_MAX: usize = 500;
/// Longer codes and types are cut in a [`Refusal`].
const CODE_CHARS_MAX: usize = 64;

/// Reads an answer that may be a refusal: a body with a top-level `error`, or any status of 400 and more. `None`: it is none.
pub(super) fn body(status: u16, headers: &RateHeaders, body: &[u8]) -> Option<Refusal> {
    refusal(status, headers, said::by_answer(body, Source::Body))
}

/// Reads the data of a stream's event that may be a refusal: `error`, `response.failed`, or an object with an `error`.
pub(super) fn event(name: &str, headers: &RateHeaders, data: &[u8]) -> Option<Refusal> {
    refusal(200, headers, said::by_answer(data, Source::Event(name)))
}

fn refusal(status: u16, headers: &RateHeaders, said: Said) -> Option<Refusal> {
    let text = redaction::redacted(&said.message);
    let reading = message::read(&text);
    let is_of_a_limit = reading.is_of_a_limit && (reading.limit.is_some() || reading.wait.is_some());
    if status < 400 && !said.is_error && !is_of_a_limit {
        return None;
    }
    let error_type =
        said.error_type.map(|error_type| redaction::cut(&redaction::redacted(&error_type), CODE_CHARS_MAX));
    let code = said.code.map(|code| redaction::cut(&redaction::redacted(&code), CODE_CHARS_MAX));
    let kind = kind::of(&Evidence {
        // a stream or a proxy has an answer of its own: the status of the error is inside
        status: if status < 400 { said.status.unwrap_or(status) } else { status },
        error_type: error_type.as_deref().unwrap_or_default(),
        code: code.as_deref().unwrap_or_default(),
        text: &text,
        reading: &reading,
        headers,
    });
    let waits = [headers.retry_after, said.resets_after, reading.wait].into_iter().flatten();
    Some(Refusal {
        kind,
        status,
        message: if text.is_empty() {
            "upstream gave no reason".into()
        } else {
            redaction::cut(&text, MESSAGE_CHARS_MAX)
        },
        figures: reading.figures(error_type.as_deref()),
        error_type,
        code,
        // each is a minimum
        retry_after: waits.max().filter(|_| ends_by_itself(kind)),
        should_retry: headers.should_retry,
    })
}

/// Whether waiting can help, so that a wait means something.
fn ends_by_itself(kind: RefusalKind) -> bool {
    use RefusalKind::{Exhausted, Failed, Overloaded, RateLimited};
    matches!(kind, RateLimited | Overloaded | Failed | Exhausted)
}

#[cfg(test)]
mod tests;
