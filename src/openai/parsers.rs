//! The parsers of what upstream sends, for the fuzz targets under `fuzz/`: each panics where an invariant of its parser does not hold.
//! Not part of the API, and not covered by its promises.

use std::iter;

use crate::openai::{
    classify,
    headers::RateHeaders,
    message, redaction, span,
    sse::{Event, Parser},
};

/// Planted behind a message, where it must not be shown.
const SECRET: &str = "planted-key";

/// A span, alone and at the start of a text.
pub fn span(text: &str) {
    let leading = span::leading(text);
    assert!(leading.is_none_or(|leading| leading.bytes <= text.len() && leading.span <= span::MAX));
    if let Some(whole) = span::parse(text) {
        let again = format!("{}ms", whole.as_millis());
        assert_eq!(span::parse(&again), Some(whole), "{again}");
    }
    assert!(span::without_unit(text, span::MAX).is_none_or(|span| span <= span::MAX));
}

/// A message: what it says of a limit, and what is shown of it.
pub fn message(text: &str) {
    let reading = message::read(text);
    let names = [&reading.model, &reading.pool].into_iter().flatten();
    assert!(names.into_iter().all(|name| text.contains(name.as_str())));
    assert!(reading.figures(None).is_none_or(|figures| !figures.window.is_zero()));
    let shown = redaction::redacted(&format!("{text} sk-{SECRET}"));
    assert!(!shown.contains(char::is_control) && (text.contains(SECRET) || !shown.contains(SECRET)), "{shown}");
}

/// A stream, whole and in pieces as long as the first byte says.
pub fn sse(bytes: &[u8]) {
    let Some((first, stream)) = bytes.split_first() else { return };
    let cut = events(stream.chunks(usize::from(*first).max(1)));
    assert_eq!(events(iter::once(stream)), cut);
    let sent: usize = cut.iter().flatten().map(|event| event.data.len()).sum();
    assert!(sent <= stream.len());
}

/// The events of a stream; `None` after them where one was too long.
fn events<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Vec<Option<Event>> {
    const EVENT_BYTES_MAX: usize = 64;
    let mut parser = Parser::new(EVENT_BYTES_MAX);
    let mut found = Vec::new();
    for piece in pieces {
        let is_readable = parser.push(piece).is_ok();
        found.extend(iter::from_fn(|| parser.next()).map(Some));
        if !is_readable {
            found.push(None);
            return found;
        }
    }
    found.extend(parser.finish().map(Some));
    found
}

/// Headers, one a line.
pub fn headers(bytes: &[u8]) {
    let headers = rate_headers(bytes);
    assert!(headers.retry_after.is_none_or(|wait| !wait.is_zero() && wait <= span::MAX));
    assert!(headers.standings.iter().all(|standing| standing.limit > 0 && standing.remaining <= standing.limit));
}

fn rate_headers(bytes: &[u8]) -> RateHeaders {
    let lines = bytes.split(|byte| *byte == b'\n');
    RateHeaders::read(lines.filter_map(|line| {
        let colon = line.iter().position(|byte| *byte == b':')?;
        Some((str::from_utf8(line.get(..colon)?).ok()?, line.get(colon + 1..)?))
    }))
}

/// An answer: a line with its status, and its body, which is read as the data of an event too.
pub fn classify(bytes: &[u8]) {
    let Some(end) = bytes.iter().position(|byte| *byte == b'\n') else { return };
    let (line, body) = bytes.split_at(end);
    let status = str::from_utf8(line).ok().and_then(|line| line.trim().parse().ok()).unwrap_or(200);
    let headers = RateHeaders::default();
    let refusal = classify::body(status, &headers, body);
    assert!(status < 400 || refusal.is_some());
    for refusal in [refusal, classify::event("message", &headers, body)].into_iter().flatten() {
        assert!(!refusal.message.is_empty() && !refusal.message.contains(char::is_control), "{refusal}");
        assert!(refusal.split_into().is_none_or(|images| images > 0));
    }
}
