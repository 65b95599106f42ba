//! What was drawn, or would be, for people and as JSON.

use std::{fmt::Write, path::PathBuf};

use allotment::{
    Decision, LimitStatus,
    openai::{Estimate, FailedRoute, Served, Usage},
};
use serde::Serialize;

/// Millionths of a dollar in one.
const MICROS: f64 = 1_000_000.0;

/// A call that was served, as `--json` prints it.
#[derive(Serialize)]
pub(super) struct Drawn<'a> {
    pub(super) files: Vec<String>,
    route: &'a str,
    model: &'a str,
    attempts: u32,
    /// Routes that did not serve it, each with why.
    failed: &'a [FailedRoute],
    waited_ms: u64,
    latency_ms: u64,
    estimated_tokens: u64,
    charged_tokens: u64,
    spend_micros: Option<u64>,
    /// What upstream counted; `null` if it does not say.
    usage: Option<&'a Usage>,
}

impl<'a> Drawn<'a> {
    pub(super) fn new(files: &[PathBuf], usage: Option<&'a Usage>, served: &'a Served) -> Self {
        let ms = |time: std::time::Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        Self {
            files: files.iter().map(|file| file.display().to_string()).collect(),
            route: &served.route,
            model: &served.model,
            attempts: served.attempts,
            failed: &served.failed,
            waited_ms: ms(served.waited),
            latency_ms: ms(served.latency),
            estimated_tokens: served.estimated_tokens,
            charged_tokens: served.charged_tokens,
            spend_micros: served.spend_micros,
            usage,
        }
    }

    /// How it went, in a line.
    pub(super) fn words(&self) -> String {
        let Self { model, route, charged_tokens, .. } = self;
        let seconds = |ms: u64| ms as f64 / 1_000.0;
        format!(
            "{model} on {route}: {charged_tokens} tokens{}, {:.1} s in line, {:.1} s to draw",
            dollars(self.spend_micros),
            seconds(self.waited_ms),
            seconds(self.latency_ms)
        )
    }
}

/// What a call would cost and meet, as `--dry-run --json` prints it.
#[derive(Serialize)]
pub(super) struct Forecast<'a> {
    model: &'a str,
    tokens: u64,
    images: u64,
    spend_micros: Option<u64>,
    /// Whether the limits have room for it now.
    pub(super) admitted: bool,
    /// Why not.
    #[serde(skip_serializing_if = "Option::is_none")]
    denial: Option<String>,
    retry_after_ms: Option<u64>,
    limits: &'a [LimitStatus],
}

impl<'a> Forecast<'a> {
    pub(super) fn new(model: &'a str, estimate: &Estimate, decision: &'a Decision) -> Self {
        let (limits, denial) = match decision {
            Decision::Allowed(limits) => (limits, None),
            Decision::Denied(denial) => (&denial.limits, Some(denial)),
        };
        let wait = denial.and_then(|denial| denial.retry_after());
        Self {
            model,
            tokens: estimate.tokens,
            images: estimate.images,
            spend_micros: estimate.spend_micros,
            admitted: denial.is_none(),
            denial: denial.map(ToString::to_string),
            retry_after_ms: wait.map(|wait| u64::try_from(wait.as_millis()).unwrap_or(u64::MAX)),
            limits,
        }
    }

    /// For people.
    pub(super) fn words(&self) -> String {
        let Self { model, tokens, images, .. } = self;
        let mut text = format!("{model}: about {tokens} tokens, {images} images{}", dollars(self.spend_micros));
        for LimitStatus { name, resource, used, limit, window_ms, .. } in self.limits {
            let _ =
                write!(text, "\nlimit {name}: {used} of {limit} {resource} used in {} s", *window_ms as f64 / 1_000.0);
        }
        let _ = match &self.denial {
            Some(denial) => write!(text, "\nIt would be denied: {denial}."),
            None if self.limits.is_empty() => write!(text, "\nNo limit holds it."),
            None => write!(text, "\nIt would be admitted now."),
        };
        text.push_str(" Nothing was sent.");
        text
    }
}

/// Nothing where the price is not known.
fn dollars(micros: Option<u64>) -> String {
    micros.map_or_else(String::new, |micros| format!(", ${:.4}", micros as f64 / MICROS))
}
