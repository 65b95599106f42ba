//! What an answer says of an error, in whatever shape: OpenAI's object, a string, FastAPI's `detail`, an event of a stream, a page of a gateway.
//!
//! Invariant: an answer that holds images is read once and not copied.

use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use crate::openai::{redaction, span};

/// What is read of an answer that is not JSON.
const TEXT_BYTES_MAX: usize = 4_096;

/// Where an answer came from.
#[derive(Clone, Copy, Debug)]
pub(super) enum Source<'a> {
    Body,
    /// An event with this name.
    Event(&'a str),
}

/// What an answer says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Said {
    /// It calls itself an error.
    pub(super) is_error: bool,
    pub(super) error_type: Option<String>,
    pub(super) code: Option<String>,
    pub(super) message: String,
    /// A status that the error names itself, of 400 to 599.
    pub(super) status: Option<u16>,
    /// ChatGPT's backend says so in a field.
    pub(super) resets_after: Option<Duration>,
}

impl Said {
    /// Takes what a gateway says beside an error that is a mere string: a name for it, or a headline.
    fn join(&mut self, message: Option<String>, code: Option<String>) {
        let is_name = !self.message.is_empty() && !self.message.contains(char::is_whitespace);
        self.code = code.or_else(|| is_name.then(|| self.message.clone()));
        match message {
            Some(message) if is_name || self.message.is_empty() => self.message = message,
            Some(message) => self.message = format!("{}: {message}", self.message),
            None => {}
        }
    }
}

/// The fields of an answer that may tell of an error. All others are skipped without a copy.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Answer {
    #[serde(rename = "type")]
    own_type: Value,
    code: Value,
    message: Value,
    detail: Value,
    error: Value,
    incomplete_details: Value,
    status: Value,
    response: Option<Box<Answer>>,
}

pub(super) fn by_answer(bytes: &[u8], source: Source<'_>) -> Said {
    let event = match source {
        Source::Body => "",
        Source::Event(name) => name,
    };
    // an array would fill the fields in their order
    let is_object = bytes.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'{');
    match serde_json::from_slice::<Answer>(bytes) {
        Ok(answer) if is_object => by_object(answer, event),
        _ => Said { is_error: is_failure(event), message: plain(bytes), ..Said::default() },
    }
}

fn by_object(answer: Answer, event: &str) -> Said {
    let own_type = text_of(&answer.own_type);
    let event = own_type.as_deref().unwrap_or(event);
    let is_event_type = is_failure(event) || event.contains('.');
    let inner = answer.response.as_deref();
    let errors = [Some(&answer.error), inner.map(|response| &response.error)].into_iter().flatten();
    let reasons = [Some(&answer.incomplete_details), inner.map(|response| &response.incomplete_details)];
    if let Some(error) = errors.into_iter().find_map(unwrapped) {
        let mut said = by_error(error);
        said.is_error = true;
        if !error.is_object() {
            said.join(words(&answer.message).or_else(|| words(&answer.detail)), text_of(&answer.code));
        }
        said.status = said.status.or_else(|| status_of(&answer.status));
        return said;
    }
    if let Some(reason) = reasons.into_iter().flatten().find_map(|reason| text_of(reason.get("reason")?))
        && reason == "content_filter"
    {
        return Said {
            is_error: true,
            message: format!("incomplete: {reason}"),
            code: Some(reason),
            ..Said::default()
        };
    }
    Said {
        is_error: is_failure(event),
        error_type: own_type.filter(|_| !is_event_type),
        status: status_of(&answer.status).or_else(|| status_of(&answer.code)),
        code: text_of(&answer.code),
        message: words(&answer.message).or_else(|| words(&answer.detail)).unwrap_or_default(),
        resets_after: None,
    }
}

/// Whether an event tells of a failure by its name.
fn is_failure(event: &str) -> bool {
    event == "error" || event.ends_with(".failed") || event.ends_with(".error")
}

fn by_error(error: &Value) -> Said {
    let code = error.get("code").and_then(text_of);
    // Azure says what it filtered one level below
    let inner_code = || text_of(error.get("innererror")?.get("code")?);
    let resets_after = error.get("resets_in_seconds").and_then(text_of);
    Said {
        is_error: true,
        error_type: error.get("type").and_then(text_of),
        status: ["code", "status", "status_code"].iter().find_map(|field| status_of(error.get(field)?)),
        code: code.or_else(inner_code),
        message: words(error).unwrap_or_default(),
        resets_after: resets_after.and_then(|seconds| span::without_unit(&seconds, Duration::from_secs(1))),
    }
}

/// The error itself: a proxy may have put upstream's whole answer into its own.
fn unwrapped(error: &Value) -> Option<&Value> {
    let is_there = match error {
        Value::Null | Value::Bool(false) => false,
        Value::String(text) => !text.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
        Value::Array(items) => !items.is_empty(),
        _ => true,
    };
    let inner = error.get("error").filter(|inner| inner.is_object() && error.get("message").is_none());
    is_there.then(|| inner.unwrap_or(error))
}

/// The words in a value, wherever they are.
fn words(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()).filter(|text| !text.is_empty()),
        Value::Array(items) => items.iter().find_map(words),
        Value::Object(fields) => ["message", "msg", "detail", "error", "error_description"]
            .iter()
            .find_map(|field| words(fields.get(*field)?)),
        _ => None,
    }
}

/// A string, or a number that stands for one.
fn text_of(value: &Value) -> Option<String> {
    match value {
        Value::String(text) if !text.is_empty() => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

fn status_of(value: &Value) -> Option<u16> {
    text_of(value)?.parse().ok().filter(|status| (400..600).contains(status))
}

/// An answer without structure: the title of a page, or the text.
fn plain(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes.get(..TEXT_BYTES_MAX).unwrap_or(bytes));
    let text = redaction::start(&text, TEXT_BYTES_MAX).trim();
    if !text.starts_with('<') {
        return text.to_owned();
    }
    let lower = text.to_ascii_lowercase();
    let title = || {
        let start = lower.find("<title>")? + "<title>".len();
        let end = start + lower.get(start..)?.find('<')?;
        text.get(start..end).map(str::trim).filter(|title| !title.is_empty())
    };
    title().unwrap_or("a page without a title").to_owned()
}
