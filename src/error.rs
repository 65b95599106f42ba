//! The one error of the crate: opaque, with kinds that say whether the cost was charged and whether to retry.
//!
//! Invariant: no message holds a password, and no `Display` repeats its source.

use std::{fmt, sync::Arc};

use crate::decision::Denial;

/// What went wrong, as far as a caller can act on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A subject, cost, policy or setting that can never work. Fix it; do not retry. Nothing was charged.
    Invalid,
    /// Denied by a limit: see [`Error::denial`]. Nothing was charged.
    Denied,
    /// The store did not answer in time. The charge, if there was one, is given back in the background.
    Timeout,
    /// The store could not be reached, or refused to work. The charge, if there was one, is given back in the background.
    Unavailable,
    /// The store holds or answered something this version cannot read: foreign data or a version skew. Nothing was charged.
    Protocol,
    /// The call's lease expired before it ended: its slot may have gone to somebody else. The charge stays as estimated.
    LeaseLost,
    /// The limiter has been shut down. Nothing was charged.
    Closed,
}

/// Why a call failed.
pub struct Error {
    kind: ErrorKind,
    message: Box<str>,
    denial: Option<Box<Denial>>,
    is_refusal: bool,
    has_no_effect: bool,
    source: Option<Arc<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    pub(crate) fn new(kind: ErrorKind, message: impl Into<Box<str>>) -> Self {
        Self { kind, message: message.into(), denial: None, is_refusal: false, has_no_effect: false, source: None }
    }

    pub(crate) fn invalid(message: impl Into<Box<str>>) -> Self {
        Self::new(ErrorKind::Invalid, message)
    }

    pub(crate) fn with_source(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.source = Some(Arc::from(source.into()));
        self
    }

    /// The same error, of a store that answers, and refuses.
    #[cfg(feature = "redis")]
    pub(crate) fn refused(self) -> Self {
        Self { is_refusal: true, ..self }
    }

    /// Whether the store answers, and refuses: somebody must mend something there or here.
    pub(crate) fn is_refusal(&self) -> bool {
        self.is_refusal
    }

    /// The same error for another request of one batch.
    #[cfg(feature = "redis")]
    pub(crate) fn copy(&self) -> Self {
        let (message, denial) = (self.message.clone(), self.denial.clone());
        let (is_refusal, has_no_effect) = (self.is_refusal, self.has_no_effect);
        Self { kind: self.kind, message, denial, is_refusal, has_no_effect, source: self.source.clone() }
    }

    /// The store was asked once, and refused before it changed anything: there is nothing to give back.
    #[cfg(feature = "redis")]
    pub(crate) fn without_effect(mut self, has_no_effect: bool) -> Self {
        self.has_no_effect = has_no_effect;
        self
    }

    pub(crate) fn has_no_effect(&self) -> bool {
        self.has_no_effect
    }

    /// A failure of a caller's own code, for instance of a [`PolicySource`](crate::PolicySource) that reads a database.
    #[must_use]
    pub fn unavailable(message: impl Into<Box<str>>) -> Self {
        Self::new(ErrorKind::Unavailable, message)
    }

    /// What went wrong.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The denial, if the error is one.
    #[must_use]
    pub fn denial(&self) -> Option<&Denial> {
        self.denial.as_deref()
    }

    /// Whether the same call may succeed later without a change.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self.kind {
            ErrorKind::Timeout | ErrorKind::Unavailable => true,
            ErrorKind::Denied => !self.denial().is_some_and(Denial::is_never),
            ErrorKind::Invalid | ErrorKind::Protocol | ErrorKind::LeaseLost | ErrorKind::Closed => false,
        }
    }
}

impl From<Denial> for Error {
    fn from(denial: Denial) -> Self {
        let mut error = Self::new(ErrorKind::Denied, format!("denied: {denial}"));
        error.denial = Some(Box::new(denial));
        error
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("Error");
        debug.field("kind", &self.kind).field("message", &self.message);
        if let Some(source) = &self.source {
            debug.field("source", source);
        }
        debug.finish_non_exhaustive()
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}
