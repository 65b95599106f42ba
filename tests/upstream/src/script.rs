//! What a test wants to happen to the next calls: an error in a given shape, an answer of its own, or a fault of the network.

use std::time::Duration;

use crate::{
    reply::{Content, Reply},
    shapes::{ErrorShape, Figures},
};

/// What happens to one call. An error and an answer of one's own come before the limits, which do not see the call; a fault
/// comes with the answer that the call gets anyway. Fetching a picture by its address has no script.
#[derive(Clone, Debug)]
pub enum Script {
    /// Answers with an error, with the figures of the call's own org.
    Refuse(ErrorShape),
    /// Answers with an error and these figures.
    RefuseWith(ErrorShape, Box<Figures>),
    /// Answers with this.
    Reply(Raw),
    /// Draws as asked, and breaks while it answers.
    Break(Fault),
    /// Admits the call and streams so many events of its answer, then the event of a rate limit. What is not streamed is served.
    FailAfterEvents(usize),
    /// Nothing unusual; for a call between others.
    Serve,
}

/// An answer, byte by byte.
#[derive(Clone, Debug)]
pub struct Raw {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    media_type: String,
}

impl Raw {
    /// One with this status and an empty body of JSON.
    #[must_use]
    pub fn new(status: u16) -> Self {
        Self { status, headers: vec![], body: vec![], media_type: "application/json".to_owned() }
    }

    /// Adds `name: value`, given so in one line.
    #[must_use]
    pub fn header(mut self, line: &str) -> Self {
        if let Some((name, value)) = line.split_once(':') {
            self.headers.push((name.trim().to_owned(), value.trim().to_owned()));
        }
        self
    }

    /// Its media type.
    #[must_use]
    pub fn media_type(self, media_type: impl Into<String>) -> Self {
        Self { media_type: media_type.into(), ..self }
    }

    /// Its body.
    #[must_use]
    pub fn body(self, body: impl Into<Vec<u8>>) -> Self {
        Self { body: body.into(), ..self }
    }

    pub(crate) fn into_reply(self) -> Reply {
        let content = Content::Whole { media_type: self.media_type, body: self.body };
        Reply { status: self.status, headers: self.headers, content }
    }
}

/// How an answer breaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Closes the connection before the body of the request is read. Nothing is charged.
    HangUpBeforeReading,
    /// Closes the connection once the call is charged, without a word.
    HangUpUnanswered,
    /// Never answers, once the call is charged.
    Silence,
    /// Answers later by this, on the machine's clock.
    Late(Duration),
    /// Closes the connection after so many bytes of the body.
    CutAfterBytes(usize),
    /// Closes the connection after so many events.
    CutAfterEvents(usize),
    /// Ends a stream properly after so many events, before the last.
    EndAfterEvents(usize),
    /// Says nothing more after so many bytes of the body, and keeps the connection.
    StallAfterBytes(usize),
    /// Sends so many bytes at a time, with a pause of 1 ms after each.
    Trickle(usize),
    /// Says that a body of JSON is `text/plain`.
    WrongMediaType,
    /// Sends the first half of the body as if it were all.
    TruncatedJson,
    /// Sends the caller elsewhere, with 302.
    Redirect(String),
    /// Sends an event of so many bytes first.
    GiantEvent(usize),
}
