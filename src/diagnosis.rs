//! What was found about a store: what an operator should know before relying on it.
//!
//! Invariant: a finding that is not good says what to do. Plain values: whoever looked has looked.

use serde::Serialize;

/// All that was found about a store: see [`Limiter::diagnose`](crate::Limiter::diagnose).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Diagnosis {
    /// That of the worst finding.
    pub severity: Severity,
    /// What was looked at, in that order.
    pub findings: Vec<Finding>,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Finding {
    /// What was looked at: `version`, `topology`, `memory` and so on.
    pub check: &'static str,
    /// At which server; `None`: at the store as a whole.
    pub server: Option<String>,
    /// How bad it is.
    pub severity: Severity,
    /// What is there.
    pub found: String,
    /// What to do about it.
    pub advice: Option<String>,
}

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// As it should be.
    Good,
    /// It works; limits may be overrun, or calls fail, when something else goes wrong.
    Warning,
    /// It does not work, or limits will be overrun.
    Failure,
}

impl Diagnosis {
    pub(crate) fn new(findings: Vec<Finding>) -> Self {
        let severity = findings.iter().map(|finding| finding.severity).max().unwrap_or(Severity::Good);
        Self { severity, findings }
    }
}

impl Finding {
    pub(crate) fn good(check: &'static str, found: impl Into<String>) -> Self {
        Self { check, server: None, severity: Severity::Good, found: found.into(), advice: None }
    }

    #[cfg(feature = "redis")]
    pub(crate) fn warning(check: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, advice: Some(advice.into()), ..Self::good(check, found) }
    }

    #[cfg(feature = "redis")]
    pub(crate) fn failure(check: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { severity: Severity::Failure, ..Self::warning(check, found, advice) }
    }

    #[cfg(feature = "redis")]
    pub(crate) fn at(self, server: &str) -> Self {
        Self { server: Some(server.to_owned()), ..self }
    }
}
