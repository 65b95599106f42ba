//! What a scenario found: figures, each with its bound, and whether it holds.

use std::{fmt::Display, time::Duration};

use serde::Serialize;

/// The result of one scenario.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Found {
    /// What was broken, and how often.
    pub(crate) injected: String,
    pub(crate) calls: u64,
    /// What the ledgers hold beyond what callers were told.
    pub(crate) surplus: u64,
    /// What callers were told beyond what the ledgers hold.
    pub(crate) lost: u64,
    /// Of all that the scenario watched for one.
    pub(crate) longest_stall_ms: Option<u64>,
    pub(crate) figures: Vec<Figure>,
    pub(crate) not_run: Vec<String>,
}

/// One figure of a scenario.
#[derive(Debug, Serialize)]
pub(crate) struct Figure {
    pub(crate) name: String,
    pub(crate) measured: String,
    pub(crate) bound: String,
    pub(crate) holds: bool,
    /// It fails the scenario if it does not hold.
    pub(crate) binds: bool,
}

impl Found {
    pub(crate) fn new(injected: impl Into<String>) -> Self {
        Self { injected: injected.into(), ..Self::default() }
    }

    /// A count that has to hold wherever the suite runs.
    pub(crate) fn count(&mut self, name: &str, measured: impl Display, bound: impl Display, holds: bool) {
        self.figure(name, measured.to_string(), bound.to_string(), holds, true);
    }

    /// A time, which binds only where `binds` says that the machine is to be trusted.
    pub(crate) fn time(&mut self, name: &str, measured: Duration, most: Duration, binds: bool) {
        self.figure(name, format!("{measured:.1?}"), format!("at most {most:?}"), measured <= most, binds);
    }

    fn figure(&mut self, name: &str, measured: String, bound: String, holds: bool, binds: bool) {
        self.figures.push(Figure { name: name.to_owned(), measured, bound, holds, binds });
    }

    /// What callers were told against what a ledger holds: neither may be more. `unknown` calls may be either.
    pub(crate) fn balance(&mut self, what: &str, told: u64, unknown: u64, held: u64) {
        let (surplus, lost) = (held.saturating_sub(told + unknown), told.saturating_sub(held));
        self.surplus += surplus;
        self.lost += lost;
        self.count(
            &format!("{what}: held by the ledger"),
            held,
            format!("{told}, and at most {unknown} more"),
            surplus + lost == 0,
        );
    }

    pub(crate) fn stall(&mut self, stall: Duration) {
        let stall = u64::try_from(stall.as_millis()).unwrap_or(u64::MAX);
        self.longest_stall_ms = Some(self.longest_stall_ms.unwrap_or(0).max(stall));
    }

    pub(crate) fn holds(&self) -> bool {
        self.figures.iter().all(|figure| figure.holds || !figure.binds)
    }
}
