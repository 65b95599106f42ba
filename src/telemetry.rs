//! Every name the crate gives to the outside: spans, their fields, metrics and their labels.
//!
//! Invariant: labels come from limit names and outcomes, never from ids. A denial is `debug`; a store that fails is `warn`, once per
//! change of state, and so are losses of data, each by one process of the fleet.

use std::time::Duration;

use tracing::Span;

use crate::{decision::Denial, error::Error, resource::Resource};

/// Decisions, by `outcome` (`admitted`, `booked`, `denied`, `error`) and, of a denial, `limit`. A counter.
const DECISIONS: &str = "allotment_decisions_total";
/// How long an admitted call waited in line, in seconds. A histogram.
const WAIT_SECONDS: &str = "allotment_wait_seconds";
/// Settlements, by `outcome` (`commit`, `release`, `error`). A counter.
const SETTLEMENTS: &str = "allotment_settlements_total";
/// Calls of the store that got no answer within their deadline, or were refused. A counter.
#[cfg(feature = "redis")]
const STORE_FAILURES: &str = "allotment_store_failures_total";
/// What was found wrong with a server while it was watched, by `alarm` (`eviction`, `evicted`, `memory`). A counter.
#[cfg(feature = "redis")]
const STORE_ALARMS: &str = "allotment_store_alarms_total";
/// Keys of whatever kind that its servers have evicted while they were watched. A counter.
#[cfg(feature = "redis")]
const STORE_EVICTIONS: &str = "allotment_store_evictions_total";
/// Losses of all the data of an org, each counted by the process that noticed it first. A counter.
#[cfg(feature = "redis")]
const STATE_LOSSES: &str = "allotment_state_losses_total";

/// Cool-downs that an upstream asked for and that changed when calls may start, by `resource`. A counter.
const COOL_DOWNS: &str = "allotment_cool_downs_total";
/// What more was held for others who use an upstream's quota, in units of the resource, by `resource`. A counter.
const OBSERVED: &str = "allotment_observed_total";
/// Decisions that a failure policy made, by `policy` (`allow`, `local`) and `outcome` (`admitted`, `denied`). They count among
/// [`DECISIONS`] as well. A counter.
const DEGRADED: &str = "allotment_degraded_decisions_total";
/// What became of admissions without the store, by `outcome`: charged when it answered again (`posted`), not worth it, as their windows had
/// passed (`expired`), refused by the store (`refused`), or more than are remembered (`forgotten`). A counter.
const POSTINGS: &str = "allotment_postings_total";

/// Calls of an image client, by `route` and `outcome` (`served`; `cached`; `shared`, for the answer to an equal call; or the kind of the
/// error). The route is `cache` for what came from there, and `none` where none was asked. A counter.
#[cfg(feature = "openai")]
const IMAGE_CALLS: &str = "allotment_image_calls_total";
/// Attempts of such calls, by `route`. A counter.
#[cfg(feature = "openai")]
const IMAGE_ATTEMPTS: &str = "allotment_image_attempts_total";
/// Walks over the routes that were made again, by `outcome` of the one before. A counter.
#[cfg(feature = "openai")]
const IMAGE_REPEATS: &str = "allotment_image_repeats_total";
/// What upstream refused, by `route` and `kind`. A counter.
#[cfg(feature = "openai")]
const IMAGE_REFUSALS: &str = "allotment_image_refusals_total";
/// From an attempt's being sent to the end of its answer, by `route`, in seconds. A histogram.
#[cfg(feature = "openai")]
const IMAGE_SECONDS: &str = "allotment_image_seconds";
/// Looks into the cache of images, by `outcome` (`hit`, `miss`, `failure`), and answers that it did not take (`not_kept`). A counter.
#[cfg(feature = "openai")]
const IMAGE_CACHE: &str = "allotment_image_cache_total";

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

/// Redis has lost the data of an org. Counted once per loss, by the process that is the first to notice.
#[cfg(feature = "redis")]
pub(crate) fn state_lost() {
    metrics::counter!(STATE_LOSSES).increment(1);
}

/// It has lost those of so many since this was logged last: at most once in 10 s.
#[cfg(feature = "redis")]
pub(crate) fn states_lost(orgs: u64) {
    tracing::warn!(orgs, "Redis has lost the data of an org: its usage starts from nothing");
}

/// A server of the store stopped answering, or refuses calls. Logged once per change.
#[cfg(feature = "redis")]
pub(crate) fn store_fails(server: &str, error: &Error) {
    tracing::warn!(server, kind = ?error.kind(), %error, "the store fails");
}

/// It answers again.
#[cfg(feature = "redis")]
pub(crate) fn store_answers(server: &str) {
    tracing::info!(server, "the store answers again");
}

/// A call got no answer, or was refused.
#[cfg(feature = "redis")]
pub(crate) fn store_failed() {
    metrics::counter!(STORE_FAILURES).increment(1);
}

/// A server would forget usage when its memory runs out.
#[cfg(feature = "redis")]
pub(crate) fn store_may_evict(server: &str, policy: &str) {
    metrics::counter!(STORE_ALARMS, "alarm" => "eviction").increment(1);
    tracing::warn!(server, policy, "the store may forget usage: set maxmemory-policy noeviction");
}

/// A server has forgotten keys since the last look.
#[cfg(feature = "redis")]
pub(crate) fn store_evicts(server: &str, keys: u64) {
    metrics::counter!(STORE_EVICTIONS).increment(keys);
    metrics::counter!(STORE_ALARMS, "alarm" => "evicted").increment(1);
    tracing::warn!(server, keys, "the store has evicted keys: usage may be lost, and limits overrun");
}

/// A server is short of memory, or is not any more.
#[cfg(feature = "redis")]
pub(crate) fn store_memory(server: &str, short: bool, used: u64, max: u64) {
    if short {
        metrics::counter!(STORE_ALARMS, "alarm" => "memory").increment(1);
        tracing::warn!(server, used, max, "the store is short of memory: when it runs out, nothing is admitted");
    } else {
        tracing::info!(server, used, max, "the store has memory again");
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

#[cfg(feature = "openai")]
pub(crate) fn image_cache(outcome: &'static str) {
    metrics::counter!(IMAGE_CACHE, "outcome" => outcome).increment(1);
}

/// An upstream has asked for a pause that is new or longer.
pub(crate) fn cools_down(resource: &Resource, pause: Duration) {
    metrics::counter!(COOL_DOWNS, "resource" => resource.name().to_owned()).increment(1);
    tracing::debug!(resource = resource.name(), ?pause, "cools down");
}

/// Others use so much of an upstream's quota by now.
pub(crate) fn observed(resource: &Resource, more: u64, others: u64) {
    metrics::counter!(OBSERVED, "resource" => resource.name().to_owned()).increment(more);
    tracing::debug!(resource = resource.name(), others, "others use an upstream's quota");
}

/// A limit states more than its upstream says that there is. The same is logged once.
pub(crate) fn states_too_much(limit: &str, resource: &Resource, stated: u64, upstream: u64) {
    tracing::warn!(limit, resource = resource.name(), stated, upstream, "a limit states more than its upstream allows");
}

/// The limiter is shut down, and the store may never learn of so many admissions.
pub(crate) fn unposted(count: usize, error: &Error) {
    tracing::warn!(count, kind = ?error.kind(), "admissions are not charged: the store does not answer");
}

/// Upstream has shut down a model that is asked for, or soon will. Once per model.
#[cfg(feature = "openai")]
pub(crate) fn image_model_retires(notice: &str) {
    tracing::warn!("{notice}");
}

/// The span of a call of an image client. `route`, `outcome` and `attempts` are recorded when it ends.
#[cfg(feature = "openai")]
pub(crate) fn image_span(model: &str) -> Span {
    let (route, outcome, attempts) = (tracing::field::Empty, tracing::field::Empty, tracing::field::Empty);
    tracing::debug_span!("allotment.image", model, route, outcome, attempts)
}

/// A call of an image client has ended.
#[cfg(feature = "openai")]
pub(crate) fn image_called(route: &str, outcome: &'static str, attempts: u32) {
    metrics::counter!(IMAGE_CALLS, "route" => route.to_owned(), "outcome" => outcome).increment(1);
    Span::current().record("route", route).record("outcome", outcome).record("attempts", attempts);
}

#[cfg(feature = "openai")]
pub(crate) fn image_attempted(route: &str) {
    metrics::counter!(IMAGE_ATTEMPTS, "route" => route.to_owned()).increment(1);
}

/// All routes that could be asked were, in vain; they are asked again.
#[cfg(feature = "openai")]
pub(crate) fn image_repeated(outcome: &'static str, pause: std::time::Duration) {
    metrics::counter!(IMAGE_REPEATS, "outcome" => outcome).increment(1);
    tracing::debug!(outcome, ?pause, "the call is made again");
}

#[cfg(feature = "openai")]
pub(crate) fn image_refused(route: &str, kind: &'static str) {
    metrics::counter!(IMAGE_REFUSALS, "route" => route.to_owned(), "kind" => kind).increment(1);
    tracing::debug!(route, kind, "upstream refused");
}

/// Upstream says when it will shut a model down.
#[cfg(feature = "openai")]
pub(crate) fn model_retires(model: &str, on: &dyn std::fmt::Display) {
    tracing::warn!(model, %on, "upstream shuts the model down");
}

#[cfg(feature = "openai")]
pub(crate) fn image_latency(route: &str, seconds: f64) {
    metrics::histogram!(IMAGE_SECONDS, "route" => route.to_owned()).record(seconds);
}
