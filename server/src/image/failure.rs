//! Why nothing was drawn, and what to do about it.
//!
//! Invariant: whatever the limits or the API have said of a wait or a size is in it.

use std::time::Duration;

use allotment::{
    Denial, ErrorKind, Resource,
    openai::{ImageError, ImageErrorKind, RefusalKind},
};
use serde::Serialize;

use crate::output::in_full;

/// A call that was denied or refused, or that nobody answered.
#[derive(Debug, Serialize)]
pub(super) struct Failure {
    /// `denied` by the limits, `refused` upstream, or `failed`.
    outcome: &'static str,
    error: String,
    /// What can be done about a refusal.
    #[serde(skip_serializing_if = "Option::is_none")]
    refusal: Option<RefusalKind>,
    /// When the same call may succeed, as far as anybody says.
    #[serde(serialize_with = "in_ms", rename = "retry_after_ms")]
    retry_after: Option<Duration>,
    /// How many pictures one call may ask for, where this one asked for too many.
    n_max: Option<u64>,
}

impl Failure {
    /// `None` for what is wrong with the call or the store: that is no answer.
    pub(super) fn new(error: &ImageError, n: u64) -> Option<Self> {
        let denied = error.limiter().filter(|error| error.kind() == ErrorKind::Denied);
        let outcome = match error.kind() {
            ImageErrorKind::Invalid => return None,
            ImageErrorKind::NotAdmitted if denied.is_some() => "denied",
            ImageErrorKind::NotAdmitted => return None,
            ImageErrorKind::Refused => "refused",
            _ => "failed",
        };
        let denial = error.limiter().and_then(|error| error.denial());
        let n_max =
            denial.and_then(images_at_most).or_else(|| error.refusal().and_then(|refusal| refusal.split_into()));
        Some(Self {
            outcome,
            error: in_full(error),
            refusal: error.refusal().map(|refusal| refusal.kind),
            retry_after: error.retry_after(),
            n_max: n_max.filter(|n_max| (1..n).contains(n_max)),
        })
    }

    /// For people.
    pub(super) fn words(&self) -> String {
        let mut words = format!("error: {}", self.error);
        if let Some(n_max) = self.n_max {
            words.push_str(&format!("\nSplit it: a call may ask for {n_max} at most (--n {n_max})."));
        }
        if let Some(wait) = self.retry_after {
            let wait = humantime::format_duration(rounded_up(wait));
            let longer = if self.outcome == "denied" { ", or wait for longer by --max-wait" } else { "" };
            words.push_str(&format!("\nTry again in {wait}{longer}."));
        }
        words
    }
}

/// How many images the limit holds that could never hold the call.
fn images_at_most(denial: &Denial) -> Option<u64> {
    let is_it = |name: &str, resource: &Resource| *name == *denial.limit && *resource == Resource::Images;
    let status = denial.limits.iter().find(|status| is_it(&status.name, &status.resource));
    status.filter(|_| denial.is_never() && denial.resource == Resource::Images).map(|status| status.limit)
}

/// To whole milliseconds.
fn rounded_up(wait: Duration) -> Duration {
    Duration::from_millis(millis(wait))
}

fn millis(wait: Duration) -> u64 {
    u64::try_from(wait.as_micros().div_ceil(1_000)).unwrap_or(u64::MAX)
}

fn in_ms<S: serde::Serializer>(wait: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    wait.map(millis).serialize(serializer)
}
