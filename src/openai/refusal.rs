//! What an upstream said no with, classified into what a caller can do.
//!
//! Invariant: the class is the same whether the error came as 429, 400, 403, as a body with status 200, or as an event of a stream.

use std::{fmt, time::Duration};

use serde::Serialize;

use crate::{openai::redaction, resource::Resource};

/// Codes, or types, that speak of the model alone: it is not there, or not for this account.
const MODEL_CODES: &[&str] = &["model_not_found", "DeploymentNotFound", "model_not_supported", "unsupported_model"];
/// How messages begin that say so. Later in a message the words may be a prompt's.
const MODEL_OPENINGS: &[&str] = &["you are not authorized to use", "your organization must be verified"];

/// What a caller can do about a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(into = "&'static str")]
#[non_exhaustive]
pub enum RefusalKind {
    /// A limit of upstream is used up: wait.
    RateLimited,
    /// One call asks for more than the limit: it can never be admitted. Split it.
    TooLarge,
    /// The account may not use the model: a missing tier or verification, or a limit of 0.
    ///
    /// `try again after 0.0 seconds` counts as this where nothing else speaks of a real limit. That it means a missing tier is one report's
    /// word: if it is wrong, the call could have been tried again, and if it is right, trying would go on for ever.
    NoAccess,
    /// Money or a quota is used up: somebody must pay, or raise it. The allowance of a ChatGPT plan comes back by itself, in hours: then
    /// `retry_after` says when.
    Exhausted,
    /// Upstream has no room for anybody, or asks to slow down: try later. Where nothing but the status says so, a gateway may have given up
    /// waiting for a call that was made.
    Overloaded,
    /// The request is wrong.
    Invalid,
    /// The request or its result was blocked by moderation.
    Moderation,
    /// Upstream failed and said so.
    Failed,
}

impl RefusalKind {
    /// Its name in metrics, and as it is serialised.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::RateLimited => "rate_limited",
            Self::TooLarge => "too_large",
            Self::NoAccess => "no_access",
            Self::Exhausted => "exhausted",
            Self::Overloaded => "overloaded",
            Self::Invalid => "invalid",
            Self::Moderation => "moderation",
            Self::Failed => "failed",
        }
    }
}

impl From<RefusalKind> for &'static str {
    fn from(kind: RefusalKind) -> Self {
        kind.name()
    }
}

/// What an upstream refused a call with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Refusal {
    /// What can be done about it.
    pub kind: RefusalKind,
    /// The status of the answer: 200 where it was hidden in a body or stream.
    pub status: u16,
    /// The field `type` of the error, at most 64 characters of it.
    pub error_type: Option<String>,
    /// The field `code` of the error, at most 64 characters of it.
    pub code: Option<String>,
    /// The field `message`, at most 500 characters of it, without what looks like a key.
    pub message: String,
    /// The figures of a limit, where the message has them.
    pub figures: Option<RefusalFigures>,
    /// How long to wait at least, as headers or message say; the longest, if they say more than one. `None` too where waiting cannot help.
    /// No floor is applied: it may be 0, and in a shared pool it is always too short.
    pub retry_after: Option<Duration>,
    /// What the header `x-should-retry` says.
    pub should_retry: Option<bool>,
}

/// The figures in a refusal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct RefusalFigures {
    /// What the limit counts.
    pub resource: Resource,
    /// The model that the message names.
    pub model: Option<String>,
    /// The pool that several models share, if the message names one.
    pub pool: Option<String>,
    /// The limit per `window`, rounded down.
    pub limit: u64,
    /// What was used, if the message says so.
    pub used: Option<u64>,
    /// What the call asked for, if the message says so.
    pub requested: Option<u64>,
    /// The period of the limit: a minute, unless the message says otherwise.
    #[serde(skip)]
    pub window: Duration,
}

impl Refusal {
    /// Whether the same call may succeed later without a change.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self.kind {
            RefusalKind::RateLimited => self.should_retry != Some(false),
            RefusalKind::Overloaded => self.should_retry != Some(false) && !self.may_have_drawn(),
            RefusalKind::Failed => self.should_retry == Some(true),
            _ => false,
        }
    }

    /// Whether it says that the account has no such model, and not merely that something is forbidden.
    pub(super) fn is_of_model(&self) -> bool {
        let names = [&self.code, &self.error_type].into_iter().flatten();
        let says_so = || names.map(String::as_str).any(is_code_of_model) || begins_of_model(&self.message);
        // of a key that is wrong nothing is known, and a limit is none of the model
        self.kind == RefusalKind::NoAccess && !matches!(self.status, 401 | 429) && says_so()
    }

    /// The same without a secret that its texts may repeat.
    pub(super) fn without(self, secret: &str) -> Self {
        let hidden = |text: Option<String>| text.map(|text| redaction::without(&text, secret));
        let figures = self.figures.map(|figures| RefusalFigures {
            model: hidden(figures.model),
            pool: hidden(figures.pool),
            ..figures
        });
        Self {
            message: redaction::without(&self.message, secret),
            code: hidden(self.code),
            error_type: hidden(self.error_type),
            figures,
            ..self
        }
    }

    /// Whether it is the word of a gateway that gave up waiting, with an upstream behind it that may have drawn, and billed it.
    pub(super) fn may_have_drawn(&self) -> bool {
        let is_bare = self.code.is_none() && self.error_type.is_none();
        let hints = self.retry_after.is_some() || self.should_retry == Some(true);
        self.status >= 500
            && is_bare
            && match self.kind {
                RefusalKind::Failed => true,
                RefusalKind::Overloaded => !hints,
                _ => false,
            }
    }

    /// With a call that is too large: how many images each part may ask for at most, where the figures say so.
    #[must_use]
    pub fn split_into(&self) -> Option<u64> {
        let figures = self.figures.as_ref().filter(|_| self.kind == RefusalKind::TooLarge)?;
        (figures.resource == Resource::Images && figures.limit > 0).then_some(figures.limit)
    }
}

/// Whether a code or type speaks of the model alone.
pub(super) fn is_code_of_model(code: &str) -> bool {
    MODEL_CODES.iter().any(|of_model| code.eq_ignore_ascii_case(of_model))
}

/// Whether a message begins by saying that the account may not use the model.
pub(super) fn begins_of_model(message: &str) -> bool {
    let lower = message.to_ascii_lowercase();
    MODEL_OPENINGS.iter().any(|words| lower.starts_with(words))
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({:?}, status {})", self.message, self.kind, self.status)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::openai::{classify, headers::RateHeaders};

    fn refused(status: u16, headers: &[(&str, &str)], body: &str) -> Refusal {
        let headers = RateHeaders::read(headers.iter().map(|(name, value)| (*name, value.as_bytes())));
        classify::body(status, &headers, body.as_bytes()).unwrap()
    }

    #[test]
    fn a_gateway_that_gives_no_reason_may_stand_before_one_that_has_drawn() {
        let page = "<html><title>Service Unavailable</title></html>";
        let none: &[(&str, &str)] = &[];
        for (status, headers, body, may_have_drawn, is_retryable) in [
            (503, none, page, true, false),
            (503, none, "", true, false),
            (529, none, "", true, false),
            (503, &[("retry-after", "5")][..], page, false, true),
            (503, &[("x-should-retry", "true")][..], "", false, true),
            (503, none, r#"{"error":{"code":"server_is_overloaded"}}"#, false, true),
            (502, none, page, true, false),
            (500, none, r#"{"error":{"type":"server_error"}}"#, false, false),
            (429, none, "", false, true),
        ] {
            let refusal = refused(status, headers, body);
            let told = (refusal.may_have_drawn(), refusal.is_retryable());
            assert_eq!(told, (may_have_drawn, is_retryable), "{status} {headers:?} {body}");
        }
    }
}
