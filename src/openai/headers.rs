//! What the headers of an answer say of upstream's limits.
//!
//! Invariant: what is missing, 0 of everything, or negative is not taken for a fact.

use std::time::Duration;

use crate::resource::Resource;

/// What the headers say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct RateHeaders {
    /// Where limits stand.
    pub(super) standings: Vec<HeaderStanding>,
    /// How long to wait at least, by `retry-after-ms`, else `retry-after` in seconds or as a date.
    pub(super) retry_after: Option<Duration>,
    /// `x-should-retry`.
    pub(super) should_retry: Option<bool>,
}

/// Where one limit of upstream stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct HeaderStanding {
    pub(super) resource: Resource,
    pub(super) limit: u64,
    pub(super) remaining: u64,
    pub(super) reset_after: Option<Duration>,
}

impl RateHeaders {
    /// Reads headers, whose names come in lower case, in any order.
    pub(super) fn read<'a>(_headers: impl Iterator<Item = (&'a str, &'a [u8])>) -> Self {
        todo!()
    }
}
