//! An answer before it goes out: all of it at once, or event by event.

use std::{fmt::Write, time::Duration};

use serde_json::Value;

/// An answer.
#[derive(Clone, Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) content: Content,
}

/// The body of an answer.
#[derive(Clone, Debug)]
pub(crate) enum Content {
    /// Sent with its length.
    Whole { media_type: String, body: Vec<u8> },
    /// Sent one by one, as `text/event-stream`.
    Events(Vec<String>),
}

impl Reply {
    pub(crate) fn json(status: u16, value: &Value) -> Self {
        Self::text(status, "application/json", value.to_string())
    }

    pub(crate) fn text(status: u16, media_type: &str, body: impl Into<Vec<u8>>) -> Self {
        let content = Content::Whole { media_type: media_type.to_owned(), body: body.into() };
        Self { status, headers: vec![], content }
    }

    pub(crate) fn events(events: Vec<String>) -> Self {
        Self { status: 200, headers: vec![], content: Content::Events(events) }
    }

    pub(crate) fn header(mut self, name: &str, value: impl ToString) -> Self {
        self.headers.push((name.to_owned(), value.to_string()));
        self
    }
}

/// An event with a name, as the image and Responses APIs send them: its `type` is the name.
pub(crate) fn event(value: &Value) -> String {
    format!("event: {}\ndata: {value}\n\n", value["type"].as_str().unwrap_or("message"))
}

/// An event without a name, as chat completions send them.
pub(crate) fn chunk(value: &Value) -> String {
    format!("data: {value}\n\n")
}

/// A duration as Go writes it, rounded up to milliseconds: `15ms`, `7.188s`, `1m2s`, `6m0s`.
pub(crate) fn go_duration(duration: Duration) -> String {
    let ms = duration.as_micros().div_ceil(1_000);
    let (hours, minutes, rest) = (ms / 3_600_000, ms / 60_000 % 60, ms % 60_000);
    if ms < 1_000 {
        return format!("{ms}ms");
    }
    let mut text = String::new();
    if hours > 0 {
        let _ = write!(text, "{hours}h");
    }
    if ms >= 60_000 {
        let _ = write!(text, "{minutes}m");
    }
    let fraction = format!("{:03}", rest % 1_000);
    match fraction.trim_end_matches('0') {
        "" => text + &format!("{}s", rest / 1_000),
        digits => text + &format!("{}.{digits}s", rest / 1_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_written_as_go_writes_them() {
        let shown = |ms| go_duration(Duration::from_millis(ms));
        assert_eq!(
            [15, 240, 12_000, 7_188, 58_890, 62_000, 360_000, 3_600_000].map(shown),
            ["15ms", "240ms", "12s", "7.188s", "58.89s", "1m2s", "6m0s", "1h0m0s"]
        );
        assert_eq!(go_duration(Duration::from_micros(1)), "1ms", "a hint is never too short");
    }
}
