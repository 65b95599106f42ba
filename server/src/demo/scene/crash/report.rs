//! What a crash comes to: the figures, their JSON, and the verdict.

use std::{fmt::Write, time::Duration};

use serde::Serialize;

use super::{play::Seen, slots::Terms};
use crate::demo::report::table;

/// How long after the last lease has expired all slots must be back.
const GRACE: Duration = Duration::from_secs(1);

/// The figures of a crash, as `--json` prints them.
#[derive(Serialize)]
pub(super) struct Report {
    slots: u64,
    processes: usize,
    lease_ms: u64,
    held: u64,
    full_while_alive: bool,
    most_live: u64,
    first_back_ms: Option<u64>,
    all_back_ms: Option<u64>,
    tokens_grew: Option<bool>,
    zombie_refused: Option<bool>,
    /// Whether every promise was.
    pub(super) kept: bool,
    #[serde(skip)]
    alive: Duration,
    #[serde(skip)]
    redis: String,
}

impl Report {
    pub(super) fn new(terms: &Terms, processes: usize, seen: &Seen) -> Self {
        let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let back = seen.all_back.is_some_and(|back| back <= terms.lease + GRACE);
        let held = seen.held == terms.slots && seen.full_while_alive && seen.most_live <= terms.slots;
        Self {
            slots: terms.slots,
            processes,
            lease_ms: ms(terms.lease),
            held: seen.held,
            full_while_alive: seen.full_while_alive,
            most_live: seen.most_live,
            first_back_ms: seen.first_back.map(ms),
            all_back_ms: seen.all_back.map(ms),
            tokens_grew: seen.tokens_grew,
            zombie_refused: seen.zombie_refused,
            kept: held && back && seen.tokens_grew == Some(true) && seen.zombie_refused == Some(true),
            alive: seen.alive,
            redis: terms.secrets().redact(&terms.redis),
        }
    }

    /// The report as text, with a last line that says what it means.
    pub(super) fn table(&self) -> String {
        let lease = Duration::from_millis(self.lease_ms);
        let processes = table::counted(self.processes as u64, "process", "processes");
        let mut text = format!("Store: Redis at {}\n", self.redis);
        let _ = write!(text, "Slots: {}, leases of {:.1} s\n\n", self.slots, lease.as_secs_f64());
        let back = |after: Option<u64>| match after {
            Some(ms) => format!("{:.2} s after", ms as f64 / 1_000.0),
            None => "not in time".to_owned(),
        };
        let full = match self.full_while_alive {
            true => format!("all denied, for {:.1} s", self.alive.as_secs_f64()),
            false => "admitted, though all slots were held".to_owned(),
        };
        let late = self.all_back_ms.is_none_or(|ms| Duration::from_millis(ms) > lease + GRACE);
        let yes = |good: Option<bool>| match good {
            Some(true) => "yes",
            Some(false) => "NO",
            None => "-",
        };
        let mut figures = table::plain();
        for (name, value, bad) in [
            (format!("held by {processes}"), self.held.to_string(), self.held != self.slots),
            ("  further calls meanwhile".to_owned(), full, !self.full_while_alive),
            ("kill -9 of all: first slot back".to_owned(), back(self.first_back_ms), self.first_back_ms.is_none()),
            ("  all slots back".to_owned(), back(self.all_back_ms), late),
            (
                "  new fencing tokens larger".to_owned(),
                yes(self.tokens_grew).to_owned(),
                self.tokens_grew != Some(true),
            ),
            (
                "stopped, outlived and resumed: refused".to_owned(),
                yes(self.zombie_refused).to_owned(),
                self.zombie_refused != Some(true),
            ),
            (
                "most leases live at once".to_owned(),
                format!("{} of {}", self.most_live, self.slots),
                self.most_live > self.slots,
            ),
        ] {
            figures.add_row(table::row(&name, table::judged(value, bad)));
        }
        let _ = write!(text, "{figures}\n\n{}", self.conclusion(lease));
        text
    }

    fn conclusion(&self, lease: Duration) -> String {
        let within = (lease + GRACE).as_secs_f64();
        if self.kept {
            return format!(
                "Within {within:.1} s of the kill every slot was free again; no lease was held twice, and none after its end."
            );
        }
        format!(
            "BROKEN: every slot back within {within:.1} s of the kill, none held twice, none used after its end: not all of it held."
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn terms() -> Terms {
        let redis = "redis://:hunter2@host".to_owned();
        Terms { redis, org: "acme".to_owned(), slots: 10, lease: Duration::from_secs(3) }
    }

    fn kept() -> Seen {
        Seen {
            held: 10,
            alive: Duration::from_secs(4),
            full_while_alive: true,
            most_live: 10,
            first_back: Some(Duration::from_secs(2)),
            all_back: Some(Duration::from_secs(4)),
            tokens_grew: Some(true),
            zombie_refused: Some(true),
        }
    }

    #[test]
    fn every_promise_counts() {
        let report = |seen: &Seen| Report::new(&terms(), 2, seen);
        assert!(report(&kept()).kept && !report(&kept()).table().contains("BROKEN"));
        assert!(!report(&kept()).table().contains("hunter2"));
        for seen in [
            Seen { held: 9, ..kept() },
            Seen { full_while_alive: false, ..kept() },
            Seen { most_live: 11, ..kept() },
            Seen { all_back: Some(Duration::from_millis(4_001)), ..kept() },
            Seen { all_back: None, ..kept() },
            Seen { tokens_grew: Some(false), ..kept() },
            Seen { tokens_grew: None, ..kept() },
            Seen { zombie_refused: Some(false), ..kept() },
            Seen { zombie_refused: None, ..kept() },
        ] {
            let report = report(&seen);
            assert!(!report.kept && report.table().contains("BROKEN"), "{}", report.table());
        }
    }
}
