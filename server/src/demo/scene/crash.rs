//! Processes that die while they hold slots: when the slots come back, and that nobody has one twice.

mod holder;
mod holders;
mod play;
mod report;
mod signal;
mod slots;

use std::{process::ExitCode, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;

pub(crate) use self::holder::run_holder;
use self::{play::play, report::Report, slots::Terms};
use crate::{
    demo::BROKEN,
    flags::{url, whole},
    interrupt::{INTERRUPTED, interruptions},
    output::{note_line, print_line},
};

/// How many processes hold the slots if nothing is said.
const PROCESSES: u64 = 4;

/// What may be asked of a crash.
#[derive(Args)]
pub(crate) struct CrashArgs {
    /// Keeps the leases in this Redis, such as redis://localhost: processes share their slots there
    #[arg(long, value_name = "URL", value_parser = url)]
    redis: String,

    /// Calls that may be under way at once; the processes that are killed hold them all
    #[arg(long, value_name = "N", default_value = "100", value_parser = whole(1..=1_000), allow_negative_numbers = true)]
    slots: u64,

    /// How many processes hold them [default: 4, or one for each slot]
    #[arg(long, value_name = "N", value_parser = whole(1..=100), allow_negative_numbers = true)]
    processes: Option<u64>,

    /// How long a slot is kept for a process that gives no sign of life
    #[arg(long, value_name = "SECONDS", default_value = "3", value_parser = whole(1..=600), allow_negative_numbers = true)]
    lease: u64,

    /// Prints one JSON object on stdout and nothing else there
    #[arg(long)]
    json: bool,
}

impl CrashArgs {
    /// Plays it and prints its report.
    pub(crate) async fn run(&self) -> Result<ExitCode> {
        ensure!(cfg!(unix), "demo crash stops and resumes processes by signals, which only Unix has");
        let processes = self.processes.unwrap_or(PROCESSES.min(self.slots));
        if processes > self.slots {
            bail!("--processes {processes}: each holds a slot of --slots {0}; at most {0} is allowed", self.slots);
        }
        let processes = usize::try_from(processes)?;
        let terms = Terms {
            redis: self.redis.clone(),
            // An org of its own: neither an earlier run nor anything real shares its slots.
            org: format!("demo-{:016x}", rand::random::<u64>()),
            slots: self.slots,
            lease: Duration::from_secs(self.lease),
        };
        let mut interruptions = interruptions();
        let seen = tokio::select! {
            seen = play(terms.clone(), processes) => seen,
            // The play is dropped, and its processes die with it. Their leases expire.
            Some(()) = interruptions.recv() => {
                note_line("interrupted");
                return Ok(ExitCode::from(INTERRUPTED));
            }
        };
        let seen = seen.with_context(|| format!("--redis {}", terms.secrets().redact(&self.redis)))?;
        let report = Report::new(&terms, processes, &seen);
        let text = if self.json { serde_json::to_string(&report)? } else { report.table() };
        print_line(&text).context("printing the report")?;
        Ok(if report.kept { ExitCode::SUCCESS } else { ExitCode::from(BROKEN) })
    }
}
