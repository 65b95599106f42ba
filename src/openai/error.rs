//! Why there are no images.
//!
//! Invariant: no message holds a key, a prompt or the address of a user. Each kind says what was charged, and whether the same call may
//! succeed later.

use std::{fmt, sync::Arc, time::Duration};

use crate::{
    error::Error,
    openai::{access::AccessReport, refusal::Refusal},
};

/// What went wrong, as far as a caller can act on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ImageErrorKind {
    /// A request or setting that can never work here: see the message. Nothing was charged, and nothing was sent.
    Invalid,
    /// The limiter did not admit the call: see [`ImageError::limiter`]. Nothing was charged, and nothing was sent.
    NotAdmitted,
    /// The account may not use the model: see [`ImageError::access`] for all that is missing. Nothing was charged, and nothing was sent.
    Access,
    /// Upstream refused: see [`ImageError::refusal`]. The request is charged; tokens, images and money are given back. They stay as estimated
    /// where something may have been drawn: after events of a stream, and where a gateway gives no reason. Nothing is charged where a refusal
    /// that people must mend keeps all routes closed, so that nothing was sent: then [`ImageError::admitted_at_ms`] is `None`.
    Refused,
    /// Upstream could not be reached. Nothing was sent, and the charge was given back.
    Unreachable,
    /// Upstream was sent the call and did not answer in full. It may have been made and billed: the charge stays as estimated.
    Unanswered,
    /// Upstream answered without an image: a model that calls a tool, or draws in a chat, may answer in words. Charged is what it used, as far
    /// as upstream says, and no image.
    NoImage,
    /// Upstream answered something that this client cannot read. The charge stays as estimated.
    Unreadable,
}

impl ImageErrorKind {
    /// Its name in metrics.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Invalid => "invalid",
            Self::NotAdmitted => "not_admitted",
            Self::Access => "no_access",
            Self::Refused => "refused",
            Self::Unreachable => "unreachable",
            Self::Unanswered => "unanswered",
            Self::NoImage => "no_image",
            Self::Unreadable => "unreadable",
        }
    }
}

/// Why there are no images.
pub struct ImageError {
    kind: ImageErrorKind,
    message: Box<str>,
    refusal: Option<Box<Refusal>>,
    limiter: Option<Arc<Error>>,
    access: Option<Box<AccessReport>>,
    admitted_at_ms: Option<u64>,
    retry_after: Option<Duration>,
    source: Option<Arc<dyn std::error::Error + Send + Sync>>,
}

impl ImageError {
    pub(super) fn new(kind: ImageErrorKind, message: impl Into<Box<str>>) -> Self {
        let message = message.into();
        Self {
            kind,
            message,
            refusal: None,
            limiter: None,
            access: None,
            admitted_at_ms: None,
            retry_after: None,
            source: None,
        }
    }

    pub(super) fn invalid(message: impl Into<Box<str>>) -> Self {
        Self::new(ImageErrorKind::Invalid, message)
    }

    pub(super) fn with_source(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.source = Some(Arc::from(source.into()));
        self
    }

    /// The same error, where the client knows when to come back.
    pub(super) fn retrying_after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }

    /// The same error for another caller that waited for the same call.
    pub(super) fn copy(&self) -> Self {
        let (refusal, limiter, source) = (self.refusal.clone(), self.limiter.clone(), self.source.clone());
        Self {
            kind: self.kind,
            message: self.message.clone(),
            refusal,
            limiter,
            access: self.access.clone(),
            admitted_at_ms: self.admitted_at_ms,
            retry_after: self.retry_after,
            source,
        }
    }

    /// The same error without a secret that a refusal may repeat.
    pub(super) fn without(self, secret: &str) -> Self {
        match self.refusal {
            Some(refusal) => refusal.without(secret).into(),
            None => self,
        }
    }

    /// The same error, of an attempt that the limiter admitted then.
    pub(super) fn admitted_at(mut self, at_ms: u64) -> Self {
        self.admitted_at_ms = Some(at_ms);
        self
    }

    /// When the limiter admitted the attempt that failed, by the time of its store, in milliseconds since the epoch; `None` where it did not.
    #[must_use]
    pub fn admitted_at_ms(&self) -> Option<u64> {
        self.admitted_at_ms
    }

    /// What went wrong.
    #[must_use]
    pub fn kind(&self) -> ImageErrorKind {
        self.kind
    }

    /// What upstream said, if it refused.
    #[must_use]
    pub fn refusal(&self) -> Option<&Refusal> {
        self.refusal.as_deref()
    }

    /// What the limiter said, if it did not admit the call.
    #[must_use]
    pub fn limiter(&self) -> Option<&Error> {
        self.limiter.as_deref()
    }

    /// All that the account misses, if it may not use the model.
    #[must_use]
    pub fn access(&self) -> Option<&AccessReport> {
        self.access.as_deref()
    }

    /// When the same call may succeed, as far as the limiter or upstream says, or the pause of a route.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        let refused = || self.refusal().and_then(|refusal| refusal.retry_after);
        self.retry_after
            .or_else(refused)
            .or_else(|| self.limiter().and_then(Error::denial).and_then(|denial| denial.retry_after()))
    }

    /// Whether the same call may succeed later without a change, and without being made twice.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self.kind {
            ImageErrorKind::NotAdmitted => self.limiter().is_some_and(Error::is_retryable),
            ImageErrorKind::Refused => self.refusal().is_some_and(Refusal::is_retryable),
            ImageErrorKind::Unreachable => true,
            _ => false,
        }
    }
}

impl From<Refusal> for ImageError {
    fn from(refusal: Refusal) -> Self {
        let mut error = Self::new(ImageErrorKind::Refused, format!("upstream refused: {refusal}"));
        error.refusal = Some(Box::new(refusal));
        error
    }
}

impl From<Error> for ImageError {
    fn from(error: Error) -> Self {
        let mut own = Self::new(ImageErrorKind::NotAdmitted, format!("not admitted: {error}"));
        own.limiter = Some(Arc::new(error));
        own
    }
}

impl From<AccessReport> for ImageError {
    fn from(report: AccessReport) -> Self {
        let mut error = Self::new(ImageErrorKind::Access, report.to_string());
        error.access = Some(Box::new(report));
        error
    }
}

impl fmt::Display for ImageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl fmt::Debug for ImageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("ImageError");
        debug.field("kind", &self.kind).field("message", &self.message);
        if let Some(source) = &self.source {
            debug.field("source", source);
        }
        debug.finish_non_exhaustive()
    }
}

impl std::error::Error for ImageError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}
