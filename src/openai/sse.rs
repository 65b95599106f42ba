//! Server-sent events, as they come in pieces.
//!
//! Invariant: work is linear in the bytes, and an event is never longer than it may be.

use bytes::Bytes;

/// One event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Event {
    /// `message` unless it says otherwise.
    pub(super) name: String,
    pub(super) data: Bytes,
}

/// Takes pieces of a stream and gives events.
#[derive(Debug)]
pub(super) struct Parser {}

/// An event was longer than it may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TooLong;

impl Parser {
    pub(super) fn new(_bytes_max: usize) -> Self {
        todo!()
    }

    /// Takes the next piece.
    pub(super) fn push(&mut self, _piece: &[u8]) -> Result<(), TooLong> {
        todo!()
    }

    /// The next event that is complete.
    pub(super) fn next(&mut self) -> Option<Event> {
        todo!()
    }

    /// The stream has ended: what is left, if it is an event without its empty line.
    pub(super) fn finish(&mut self) -> Option<Event> {
        todo!()
    }
}
