//! Every name the crate gives to the outside: spans, their fields, metrics and their labels.
//!
//! Invariant: labels come from limit names and outcomes, never from ids. A denial is `debug`; a store that fails is `warn`, once per
//! change of state.

use tracing::Span;

use crate::{decision::Denial, error::Error};

/// Decisions, by `outcome` (`admitted`, `booked`, `denied`, `error`) and, of a denial, `limit`. A counter.
const DECISIONS: &str = "allotment_decisions_total";
/// How long an admitted call waited in line, in seconds. A histogram.
const WAIT_SECONDS: &str = "allotment_wait_seconds";
/// Settlements, by `outcome` (`commit`, `release`, `error`). A counter.
const SETTLEMENTS: &str = "allotment_settlements_total";

/// Decisions that a failure policy made, by `policy` (`allow`, `local`) and `outcome` (`admitted`, `denied`). They count among
/// [`DECISIONS`] as well. A counter.
const DEGRADED: &str = "allotment_degraded_decisions_total";
/// What became of admissions without the store, by `outcome`: charged when it answered again (`posted`), not worth it, as their windows had
/// passed (`expired`), refused by the store (`refused`), or more than are remembered (`forgotten`). A counter.
const POSTINGS: &str = "allotment_postings_total";

/// The span of a public verb. `outcome` and `limit` are recorded when it ends.
pub(crate) fn verb_span(verb: Verb) -> Span {
    match verb {
        Verb::TryAcquire => tracing::debug_span!(
            "allotment.try_acquire",
            outcome = tracing::field::Empty,
            limit = tracing::field::Empty
        ),
        Verb::Acquire => {
            tracing::debug_span!("allotment.acquire", outcome = tracing::field::Empty, limit = tracing::field::Empty)
        }
        Verb::Peek => tracing::debug_span!("allotment.peek"),
        Verb::Commit => tracing::debug_span!("allotment.commit"),
        Verb::Release => tracing::debug_span!("allotment.release"),
    }
}

/// What a span is named after.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Verb {
    TryAcquire,
    Acquire,
    Peek,
    Commit,
    Release,
}

pub(crate) fn admitted() {
    metrics::counter!(DECISIONS, "outcome" => "admitted").increment(1);
    Span::current().record("outcome", "admitted");
}

pub(crate) fn booked() {
    metrics::counter!(DECISIONS, "outcome" => "booked").increment(1);
    Span::current().record("outcome", "booked");
}

pub(crate) fn denied(denial: &Denial) {
    metrics::counter!(DECISIONS, "outcome" => "denied", "limit" => denial.limit.to_string()).increment(1);
    Span::current().record("outcome", "denied").record("limit", &*denial.limit);
    tracing::debug!(limit = &*denial.limit, resource = denial.resource.name(), "denied");
}

pub(crate) fn undecided(error: &Error) {
    metrics::counter!(DECISIONS, "outcome" => "error").increment(1);
    Span::current().record("outcome", "error");
    tracing::debug!(kind = ?error.kind(), "no decision");
}

pub(crate) fn waited(seconds: f64) {
    metrics::histogram!(WAIT_SECONDS).record(seconds);
}

pub(crate) fn settled(outcome: &'static str) {
    metrics::counter!(SETTLEMENTS, "outcome" => outcome).increment(1);
}

/// The store stopped answering, or answers again. Logged once per change.
#[cfg(feature = "redis")]
pub(crate) fn store_state(error: Option<&Error>) {
    match error {
        Some(error) => tracing::warn!(kind = ?error.kind(), %error, "the store fails"),
        None => tracing::info!("the store answers again"),
    }
}

/// The store failed, and the failure policy decides. Logged once per change.
pub(crate) fn degraded(policy: &'static str, error: &Error) {
    tracing::warn!(policy, kind = ?error.kind(), %error, "the failure policy decides");
}

/// The store decides again, and knows of what was admitted without it. Logged once per change.
pub(crate) fn recovered(policy: &'static str, decisions: u64, posted: u64) {
    tracing::info!(policy, decisions, posted, "the store decides again");
}

pub(crate) fn degraded_decision(policy: &'static str, outcome: &'static str) {
    metrics::counter!(DEGRADED, "policy" => policy, "outcome" => outcome).increment(1);
}

pub(crate) fn posting(outcome: &'static str) {
    metrics::counter!(POSTINGS, "outcome" => outcome).increment(1);
}

/// The limiter is shut down, and the store may never learn of so many admissions.
pub(crate) fn unposted(count: usize, error: &Error) {
    tracing::warn!(count, kind = ?error.kind(), "admissions are not charged: the store does not answer");
}
