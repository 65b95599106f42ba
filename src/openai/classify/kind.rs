//! Which kind of refusal the evidence speaks for.
//!
//! Invariant: the most telling evidence is asked first: words that only one kind has, then the code, the type, the words of a limit, and the
//! status last, because one error comes with several statuses.

use crate::openai::{
    headers::RateHeaders,
    message::Reading,
    refusal::{
        self,
        RefusalKind::{self, Exhausted, Failed, Invalid, Moderation, NoAccess, Overloaded, RateLimited, TooLarge},
    },
};

/// All that is known of a refusal.
#[derive(Clone, Copy, Debug)]
pub(super) struct Evidence<'a> {
    pub(super) status: u16,
    /// Empty where there is none, as `code`.
    pub(super) error_type: &'a str,
    pub(super) code: &'a str,
    pub(super) text: &'a str,
    pub(super) reading: &'a Reading,
    pub(super) headers: &'a RateHeaders,
}

pub(super) fn of(evidence: &Evidence<'_>) -> RefusalKind {
    evidence
        .by_opening_words()
        .or_else(|| evidence.by_name(evidence.code))
        .or_else(|| evidence.by_name(evidence.error_type))
        .or_else(|| evidence.by_words_of_a_limit())
        .or_else(|| evidence.by_telling_status())
        .or_else(|| by_general_name(evidence.code))
        .or_else(|| by_general_name(evidence.error_type))
        .unwrap_or_else(|| evidence.by_any_status())
}

impl Evidence<'_> {
    /// Only at the start: later in a message they may be a prompt's.
    fn by_opening_words(&self) -> Option<RefusalKind> {
        if refusal::begins_of_model(self.text) {
            return Some(NoAccess);
        }
        let lower = self.text.to_ascii_lowercase();
        let begins = |words: &[&str]| words.iter().any(|words| lower.starts_with(words));
        if begins(&[
            "your request was rejected as a result of our safety system",
            "your request was rejected by the safety",
        ]) {
            return Some(Moderation);
        }
        // Scaleway says this, in capitals, of limits per minute; the code of OpenAI that reads the same is about money
        let is_scaleway = self.text.starts_with("INSUFFICIENT QUOTA") && self.code.is_empty();
        (is_scaleway && (self.status == 429 || self.status < 400)).then_some(RateLimited)
    }

    /// By names that mean one kind, whether they came as `code` or as `type`.
    fn by_name(&self, name: &str) -> Option<RefusalKind> {
        Some(match name.to_ascii_lowercase().as_str() {
            "billing_hard_limit_reached"
            | "billing_not_active"
            | "credit_balance_exhausted"
            | "organization_usage_limit_exceeded"
            | "organization_spend_limit_exceeded"
            | "project_spend_limit_exceeded"
            | "insufficient_quota"
            | "usage_limit_reached" => Exhausted,
            "moderation_blocked"
            | "content_policy_violation"
            | "image_content_policy_violation"
            | "content_filter"
            | "contentfilter"
            | "responsibleaipolicyviolation" => Moderation,
            "slow_down" | "server_is_overloaded" | "service_unavailable_error" | "overloaded_error" => Overloaded,
            "invalid_api_key"
            | "authentication_error"
            | "permission_error"
            | "unsupported_country_region_territory"
            | "usage_not_included" => NoAccess,
            // the last is GLM's
            "rate_limit_exceeded"
            | "rate_limit_error"
            | "tokens_limit_exceeded"
            | "requests"
            | "tokens"
            | "images"
            | "input-images"
            | "1302" => self.of_a_limit(),
            _ if refusal::is_code_of_model(name) => NoAccess,
            _ => return None,
        })
    }

    /// An error that calls the request invalid may repeat any words of it.
    fn by_words_of_a_limit(&self) -> Option<RefusalKind> {
        let may_repeat = self.error_type.starts_with("invalid_");
        (self.reading.is_of_a_limit && !may_repeat).then(|| self.of_a_limit())
    }

    /// Which kind a limit per time makes.
    ///
    /// `try again after 0.0 seconds` without any figure is said to mean that the account's tier has no access. One report says so, and nobody
    /// confirmed it: so anything that speaks of a real limit (a limit above 0, a hint or a standing in the headers) outweighs it.
    fn of_a_limit(&self) -> RefusalKind {
        let Reading { limit, requested, wait, .. } = self.reading;
        let headers = self.headers;
        let speaks_of_a_limit = limit.is_some()
            || headers.retry_after.is_some()
            || !headers.standings.is_empty()
            || headers.should_retry == Some(true);
        match (limit, requested) {
            (Some(0), _) => NoAccess,
            (Some(limit), Some(requested)) if requested > limit => TooLarge,
            _ if wait.is_some_and(|wait| wait.is_zero()) && !speaks_of_a_limit => NoAccess,
            _ => RateLimited,
        }
    }

    fn by_telling_status(&self) -> Option<RefusalKind> {
        match self.status {
            401 | 403 => Some(NoAccess),
            402 => Some(Exhausted),
            429 => Some(RateLimited),
            503 | 529 => Some(Overloaded),
            _ => None,
        }
    }

    fn by_any_status(&self) -> RefusalKind {
        match self.status {
            // upstream gave up waiting
            408 => Failed,
            400..500 => Invalid,
            _ => Failed,
        }
    }
}

/// By names that only say whose fault it is.
fn by_general_name(name: &str) -> Option<RefusalKind> {
    match name {
        "server_error" | "api_error" | "internal_error" | "internal_server_error" => Some(Failed),
        // `invalid_prompt`, `image_too_large`, `image_generation_user_error`
        _ if name.starts_with("invalid_") || name.starts_with("image_") => Some(Invalid),
        _ => None,
    }
}
