//! Which scenarios run, in which form, and the report.

use std::{
    fmt::Write as _,
    path::PathBuf,
    process::ExitCode,
    time::{Duration, Instant},
};

use clap::Parser;
use serde::Serialize;

use crate::{found::Found, meter, scenarios};

/// Breaks what Allotment stands on, and counts.
#[derive(Debug, Parser)]
#[command(name = "chaos")]
pub(crate) struct Args {
    /// Runs every scenario in full, for up to two hours; without it, in a short form of a few minutes
    #[arg(long)]
    full: bool,

    /// Runs these only, such as T4,T10
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,

    /// How long soak and fuzz go on, instead of a minute each (with --full)
    #[arg(long, value_name = "HOURS", default_value = "0")]
    hours: f64,

    /// Where the report goes, as Markdown; the same with .json beside it
    #[arg(long, value_name = "FILE", default_value = "chaos-report.md")]
    report: PathBuf,

    /// Plays one process of a scenario; it talks to its parent over stdin and stdout
    #[arg(long, hide = true, num_args = 1.., allow_hyphen_values = true)]
    play: Vec<String>,
}

/// How much is done.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scale {
    /// Every figure as stated, times included.
    pub(crate) full: bool,
    /// For what goes on as long as it may.
    pub(crate) soak: Duration,
}

impl Scale {
    /// One figure in the short form, another in full.
    pub(crate) fn pick<T>(&self, short: T, full: T) -> T {
        if self.full { full } else { short }
    }
}

#[derive(Serialize)]
struct Entry {
    test: &'static str,
    subject: &'static str,
    passed: bool,
    seconds: f64,
    /// Where the scenario ended early.
    error: Option<String>,
    found: Found,
}

impl Args {
    pub(crate) async fn run(self) -> ExitCode {
        if let Some((role, rest)) = self.play.split_first() {
            return scenarios::play(role, rest).await;
        }
        meter::install();
        let soak =
            if self.hours > 0.0 { Duration::from_secs_f64(self.hours * 3_600.0) } else { Duration::from_secs(60) };
        let scale = Scale { full: self.full, soak };
        let known: Vec<_> = scenarios::ALL.iter().map(|scenario| scenario.test).collect();
        if let Some(unknown) = self.only.iter().find(|test| !known.contains(&test.as_str())) {
            eprintln!("error: --only {unknown}: there is no such scenario; there are {}", known.join(", "));
            return ExitCode::from(2);
        }
        let mut entries = Vec::new();
        for scenario in scenarios::ALL {
            if !self.only.is_empty() && !self.only.iter().any(|test| test == scenario.test) {
                continue;
            }
            println!("== {} {}", scenario.test, scenario.subject);
            let began = Instant::now();
            let outcome = tokio::spawn((scenario.run)(scale)).await;
            let (found, error) = match outcome {
                Ok(Ok(found)) => (found, None),
                Ok(Err(error)) => (Found::default(), Some(format!("{error:#}"))),
                Err(panic) => (Found::default(), Some(panic.to_string())),
            };
            let passed = error.is_none() && found.holds();
            let entry = Entry {
                test: scenario.test,
                subject: scenario.subject,
                passed,
                seconds: began.elapsed().as_secs_f64(),
                error,
                found,
            };
            println!("{}", told(&entry));
            entries.push(entry);
        }
        match self.write(&entries) {
            Ok(()) => println!("report: {}", self.report.display()),
            Err(error) => {
                eprintln!("error: --report {}: {error}", self.report.display());
                return ExitCode::from(2);
            }
        }
        ExitCode::from(u8::from(entries.iter().any(|entry| !entry.passed)))
    }

    fn write(&self, entries: &[Entry]) -> std::io::Result<()> {
        let form = if self.full { "in full" } else { "in its short form" };
        let mut text = format!("# Fault suite, {form}\n\n");
        let failed: Vec<_> = entries.iter().filter(|entry| !entry.passed).map(|entry| entry.test).collect();
        let verdict =
            if failed.is_empty() { "all held".to_owned() } else { format!("did not hold: {}", failed.join(", ")) };
        let _infallible = writeln!(text, "{} scenarios, {verdict}.\n", entries.len());
        let left_out: Vec<_> = scenarios::ALL
            .iter()
            .filter(|scenario| !entries.iter().any(|entry| entry.test == scenario.test))
            .map(|scenario| scenario.test)
            .collect();
        if !left_out.is_empty() {
            let _infallible = writeln!(text, "Not run: {}.\n", left_out.join(", "));
        }
        for entry in entries {
            let _infallible = writeln!(text, "{}\n", told(entry));
        }
        std::fs::write(&self.report, text)?;
        std::fs::write(self.report.with_extension("json"), serde_json::to_vec_pretty(entries)?)
    }
}

/// One scenario, as Markdown.
fn told(entry: &Entry) -> String {
    let found = &entry.found;
    let mut text = format!(
        "## {} {}: {} in {:.0} s\n\n",
        entry.test,
        entry.subject,
        if entry.passed { "held" } else { "DID NOT HOLD" },
        entry.seconds
    );
    let stall = found.longest_stall_ms.map_or_else(|| "-".to_owned(), |stall| format!("{stall} ms"));
    let _infallible = writeln!(
        text,
        "Injected: {}. Calls: {}. Surplus charges: {}. Lost charges: {}. Longest stall: {stall}.\n",
        found.injected, found.calls, found.surplus, found.lost
    );
    if let Some(error) = &entry.error {
        let _infallible = writeln!(text, "It ended early: {error}\n");
    }
    if !found.figures.is_empty() {
        text.push_str("| Figure | Measured | Bound | Holds |\n|---|---|---|---|\n");
        for figure in &found.figures {
            let holds = match (figure.holds, figure.binds) {
                (true, _) => "yes",
                (false, true) => "NO",
                (false, false) => "no, and binds only with --full",
            };
            let _infallible = writeln!(text, "| {} | {} | {} | {holds} |", figure.name, figure.measured, figure.bound);
        }
    }
    for not_run in &found.not_run {
        let _infallible = writeln!(text, "\nNot run: {not_run}.");
    }
    text.trim_end().to_owned()
}
