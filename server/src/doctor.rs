//! `allotment doctor`: whether a Redis is fit to keep ledgers, and what to do where it is not.
//!
//! Invariant: the exit status is the verdict, so that a deployment can stop on it. What is found is the library's to say.

use std::{process::ExitCode, time::Duration};

use allotment::{Diagnosis, Limit, Limiter, Policy, Severity};
use anyhow::{Context, Result};
use clap::Args;
use comfy_table::{Table, presets};
use serde_json::json;

use crate::{output::print_line, redact::Secrets};

/// The exit status where limits would be overrun, or calls fail.
const UNFIT: u8 = 1;

/// A server that is slow is told of as such, and not as one that does not answer.
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Args)]
pub(crate) struct DoctorArgs {
    /// The Redis to look at: redis://, rediss://, redis+unix://, redis+sentinel://host,host/service or redis+cluster://host,host
    #[arg(long, value_name = "URL")]
    redis: String,

    /// Prints the findings as JSON
    #[arg(long)]
    json: bool,

    /// Has every server keep the scripts instead, for users who may run them by name only (needs SCRIPT LOAD)
    #[arg(long)]
    load_scripts: bool,
}

impl DoctorArgs {
    pub(crate) async fn run(self, secrets: &Secrets) -> Result<ExitCode> {
        // no limit is asked; a limiter has at least one
        let policy = Policy::new().limit(Limit::new("doctor").requests(1));
        let limiter = Limiter::builder().redis(self.redis).policy(policy).deadline(PATIENCE);
        let limiter = limiter.build().context("--redis")?;
        if self.load_scripts {
            limiter.load_scripts().await.context("--load-scripts")?;
            print_line("every server keeps the scripts")?;
            return Ok(ExitCode::SUCCESS);
        }
        let diagnosis = limiter.diagnose().await;
        let text = if self.json { as_json(&diagnosis)? } else { as_text(&diagnosis) };
        print_line(&secrets.redact(&text))?;
        Ok(if diagnosis.severity == Severity::Failure { ExitCode::from(UNFIT) } else { ExitCode::SUCCESS })
    }
}

fn verdict(severity: Severity) -> &'static str {
    match severity {
        Severity::Good => "fit",
        Severity::Warning => "fit, with warnings",
        Severity::Failure => "not fit",
    }
}

fn as_json(diagnosis: &Diagnosis) -> Result<String> {
    let report = json!({
        "verdict": verdict(diagnosis.severity),
        "severity": diagnosis.severity,
        "findings": diagnosis.findings,
    });
    Ok(serde_json::to_string_pretty(&report)?)
}

fn as_text(diagnosis: &Diagnosis) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    for finding in &diagnosis.findings {
        let mark = match finding.severity {
            Severity::Good => "ok",
            Severity::Warning => "WARNING",
            Severity::Failure => "FAILURE",
        };
        table.add_row([mark, finding.check, finding.server.as_deref().unwrap_or(""), &finding.found]);
    }
    let advice = diagnosis.findings.iter().filter_map(|finding| {
        let server = finding.server.as_deref().map(|server| format!(" of {server}")).unwrap_or_default();
        Some(format!("{}{server}: {}", finding.check, finding.advice.as_ref()?))
    });
    let advice: Vec<_> = advice.collect();
    let to_do = if advice.is_empty() { String::new() } else { format!("\n\nWhat to do:\n  {}", advice.join("\n  ")) };
    let rows: Vec<_> = table.lines().map(|line| line.trim_end().to_owned()).collect();
    format!("{}{to_do}\n\nverdict: {}", rows.join("\n"), verdict(diagnosis.severity))
}
