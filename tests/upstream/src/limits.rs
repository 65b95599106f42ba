//! What an org may use of a pool in a period, and how that is counted.

use std::time::Duration;

pub(crate) const MINUTE: Duration = Duration::from_secs(60);
pub(crate) const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// What a limit counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Dimension {
    /// Calls.
    Requests,
    /// Tokens, of text and of images, in and out.
    Tokens,
    /// Images that are drawn.
    Images,
}

impl Dimension {
    /// As errors type it.
    #[must_use]
    pub fn kind(self) -> &'static str {
        match self {
            Self::Requests => "requests",
            Self::Tokens => "tokens",
            Self::Images => "input-images",
        }
    }

    /// As messages put it after `on`.
    pub(crate) fn label(self, period: Duration) -> &'static str {
        match (self, period == DAY) {
            (Self::Requests, false) => "requests per min (RPM)",
            (Self::Requests, true) => "requests per day (RPD)",
            (Self::Tokens, false) => "tokens per min (TPM)",
            (Self::Tokens, true) => "tokens per day (TPD)",
            (Self::Images, false) => "input-images per min",
            (Self::Images, true) => "input-images per day",
        }
    }
}

/// How the limits a minute are counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Enforcement {
    /// What is used drains continuously, as the published error messages show.
    #[default]
    Refill,
    /// Any 60 s hold at most the limit.
    Rolling,
    /// Each minute of the server's clock holds at most the limit, and all begins anew with the next.
    FixedMinute,
}

/// What one org may use of one pool. What is not set is without limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    pub(crate) images: Option<u64>,
    pub(crate) tokens: Option<u64>,
    pub(crate) requests: Option<u64>,
    pub(crate) images_a_day: Option<u64>,
    pub(crate) tokens_a_day: Option<u64>,
    pub(crate) requests_a_day: Option<u64>,
    pub(crate) enforcement: Enforcement,
    pub(crate) quantum: Option<Duration>,
}

impl Limits {
    /// No limits.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Images a minute. 0 is no access.
    #[must_use]
    pub fn images(self, images: u64) -> Self {
        Self { images: Some(images), ..self }
    }

    /// Tokens a minute.
    #[must_use]
    pub fn tokens(self, tokens: u64) -> Self {
        Self { tokens: Some(tokens), ..self }
    }

    /// Requests a minute.
    #[must_use]
    pub fn requests(self, requests: u64) -> Self {
        Self { requests: Some(requests), ..self }
    }

    /// Images a day, counted as a continuous refill.
    #[must_use]
    pub fn images_a_day(self, images: u64) -> Self {
        Self { images_a_day: Some(images), ..self }
    }

    /// Tokens a day, counted as a continuous refill.
    #[must_use]
    pub fn tokens_a_day(self, tokens: u64) -> Self {
        Self { tokens_a_day: Some(tokens), ..self }
    }

    /// Requests a day, counted as a continuous refill.
    #[must_use]
    pub fn requests_a_day(self, requests: u64) -> Self {
        Self { requests_a_day: Some(requests), ..self }
    }

    /// How the limits a minute are counted. Default: refill.
    #[must_use]
    pub fn enforcement(self, enforcement: Enforcement) -> Self {
        Self { enforcement, ..self }
    }

    /// Applies each limit a minute to a shorter period too: its share of that, rounded up; a larger call takes the whole share.
    #[must_use]
    pub fn quantum(self, quantum: Duration) -> Self {
        Self { quantum: Some(quantum), ..self }
    }

    pub(crate) fn minute(&self, dimension: Dimension) -> Option<u64> {
        match dimension {
            Dimension::Images => self.images,
            Dimension::Tokens => self.tokens,
            Dimension::Requests => self.requests,
        }
    }

    pub(crate) fn day(&self, dimension: Dimension) -> Option<u64> {
        match dimension {
            Dimension::Images => self.images_a_day,
            Dimension::Tokens => self.tokens_a_day,
            Dimension::Requests => self.requests_a_day,
        }
    }
}
