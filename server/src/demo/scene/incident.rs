//! The report that started this project, replayed: a greedy user takes a pool from light ones, unless it is shared fairly.

use std::{fmt::Write, time::Duration};

use allotment::{Limit, Policy};
use anyhow::{Result, bail};
use clap::Args;
use comfy_table::CellAlignment;
use serde::Serialize;

use super::{Defaults, SceneFlags, figures::Calls};
use crate::{
    demo::{
        Played,
        load::Group,
        options::Play,
        report::{Period, Report, quota_used, table},
        upstream::MINUTE,
    },
    flags::{number, whole},
};

/// What the greedy user of the report wanted a minute, of a pool of this size.
const GREEDY_PER_MINUTE: f64 = 10_000.0;
const POOL: f64 = 4_000.0;
/// More calls a minute than this, in one run, are not for one process.
const CALLS_MAX: f64 = 200_000.0;
const DEFAULTS: Defaults = Defaults { speed: 3.0, windows: 6, calls: 22_000.0, measured_after: SETTLED };
/// Nobody has a place at first, and the level is found in the second window.
const SETTLED: Duration = Duration::from_secs(120);
const LIGHT: &str = "light";
const GREEDY: &str = "greedy";
/// The runs, one org each: what their callers do, and for how long they wait.
const RUNS: [(&str, Duration); 2] = [("give_up", Duration::ZERO), ("wait", Duration::from_secs(20))];

/// What may be asked of the incident.
#[derive(Args)]
pub(crate) struct IncidentArgs {
    /// Images a minute that the simulated API allows
    #[arg(long, value_name = "N", default_value = "4000", value_parser = whole(100..=100_000), allow_negative_numbers = true)]
    pool: u64,

    /// How many light users ask
    #[arg(long, value_name = "N", default_value = "200", value_parser = whole(1..=5_000), allow_negative_numbers = true)]
    light_users: u64,

    /// Images a minute that each light user wants; fractions are allowed
    #[arg(long, value_name = "N", default_value = "5", value_parser = number(0.1..=1_000.0), allow_negative_numbers = true)]
    light_rate: f64,

    /// How many greedy users ask; each wants two and a half times the pool
    #[arg(long, value_name = "N", default_value = "1", value_parser = whole(1..=100), allow_negative_numbers = true)]
    greedy: u64,

    /// Lets whoever comes first take the pool, for contrast
    #[arg(long)]
    without_fair_share: bool,

    #[command(flatten)]
    flags: SceneFlags,
}

/// The figures of the incident, as `--json` prints them.
#[derive(Serialize)]
struct Incident<'a> {
    #[serde(flatten)]
    report: &'a Report,
    pool: u64,
    light_users: u64,
    light_rate: f64,
    greedy: u64,
    fair_share: bool,
    speed: f64,
    #[serde(flatten)]
    together: Fared,
    runs: Vec<Run>,
}

/// How the users of some runs fared. Figures without a name of a time are of the calls asked from the third window on.
#[derive(Serialize)]
struct Fared {
    light_served: Option<f64>,
    light_served_first_minute: Option<f64>,
    /// Of those runs whose callers wait.
    light_wait_p99_s: Option<f64>,
    greedy_served: Option<f64>,
    jain: Option<f64>,
}

/// A row of the table: its name, the figure, and how that is spelled.
type Row = (&'static str, fn(&Run) -> Option<f64>, fn(f64) -> String);

/// One run.
#[derive(Serialize)]
struct Run {
    /// What callers do who find no room.
    callers: &'static str,
    /// The org of its users, from 1 on.
    org: usize,
    /// Calls that came to their end, all of the run.
    wanted: u64,
    #[serde(flatten)]
    fared: Fared,
    /// From the third window on.
    quota_used: Option<f64>,
    quota_used_last_minute: Option<f64>,
}

impl IncidentArgs {
    /// Checks what no flag can tell alone.
    pub(crate) fn play(&self) -> Result<Play> {
        let greedy_rate = GREEDY_PER_MINUTE * self.pool as f64 / POOL;
        let light_calls = self.light_users as f64 * self.light_rate;
        if light_calls > CALLS_MAX {
            bail!(
                "--light-users {} at --light-rate {}: they want {light_calls} images a minute; at most {CALLS_MAX} is allowed",
                self.light_users,
                self.light_rate
            );
        }
        let greedy_calls = self.greedy as f64 * greedy_rate;
        if greedy_calls + light_calls > CALLS_MAX {
            bail!(
                "--greedy {} on --pool {}: with the light users they want {} images a minute; at most {CALLS_MAX} is allowed",
                self.greedy,
                self.pool,
                greedy_calls + light_calls
            );
        }
        let (light_users, greedy) = (usize::try_from(self.light_users)?, usize::try_from(self.greedy)?);
        let of_run = |(org, (_, patience)): (usize, (&str, Duration))| {
            [Group::new(GREEDY, greedy, greedy_rate), Group::new(LIGHT, light_users, self.light_rate)]
                .map(|group| Group { org, patience, ..group })
        };
        let groups = RUNS.into_iter().enumerate().flat_map(of_run).collect();
        let pool = Limit::new("pool").images(self.pool);
        let pool = if self.without_fair_share { pool } else { pool.fair_share() };
        self.flags.play(groups, Policy::new().limit(pool), self.pool, &DEFAULTS)
    }

    /// The report, for people or as JSON.
    pub(crate) fn words(&self, played: Played<'_>) -> Result<String> {
        let runs: Vec<Run> = (0..RUNS.len()).map(|org| Run::new(played, org)).collect();
        if !self.flags.json {
            return Ok(self.table(played, &runs));
        }
        Ok(serde_json::to_string(&Incident {
            report: played.report,
            pool: self.pool,
            light_users: self.light_users,
            light_rate: self.light_rate,
            greedy: self.greedy,
            fair_share: !self.without_fair_share,
            speed: played.play.scenario.speed,
            together: Fared::new(played, &[0, 1]),
            runs,
        })?)
    }

    fn table(&self, Played { play, tally, report, .. }: Played<'_>, runs: &[Run]) -> String {
        let mut text = table::setting(play);
        let _ = write!(
            text,
            "\nEach org: {} greedy at {} images a minute, {} light at {} each; the pool is {}\n\n",
            self.greedy,
            GREEDY_PER_MINUTE * self.pool as f64 / POOL,
            self.light_users,
            self.light_rate,
            if self.without_fair_share { "taken by who comes first" } else { "shared fairly" }
        );
        let mut figures = table::plain();
        figures.set_header(["from the third window on", "callers give up at once", "callers wait up to 20 s"]);
        let percent = |share: f64| table::percent(share);
        let rows: [Row; 7] = [
            ("light users served", |run| run.fared.light_served, percent),
            ("  in the first minute", |run| run.fared.light_served_first_minute, percent),
            ("  wait p99", |run| run.fared.light_wait_p99_s, |wait| format!("{wait:.1} s")),
            ("  Jain's index", |run| run.fared.jain, |index| format!("{index:.4}")),
            ("greedy users served", |run| run.fared.greedy_served, percent),
            ("quota used", |run| run.quota_used, percent),
            ("  in the last minute", |run| run.quota_used_last_minute, percent),
        ];
        for (name, figure, spelled) in rows {
            let cells = runs.iter().map(|run| figure(run).map_or_else(|| "-".to_owned(), spelled));
            figures.add_row(std::iter::once(name.to_owned()).chain(cells));
        }
        for column in figures.column_iter_mut().skip(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        let _ = write!(text, "{figures}\n\n{}\n\n{}", table::summary(report, tally), table::limits(report));
        let _ = write!(text, "\n\n{}", table::conclusion(report));
        text
    }
}

impl Fared {
    /// Of the users of these orgs together.
    fn new(played: Played<'_>, orgs: &[usize]) -> Self {
        let calls = |kind: &str, orgs: &[usize], period: Period| {
            let of_one = |org: &usize| {
                // Nobody waits beyond the end of the run: the last calls had not all the time they would have waited.
                let until = period.until.min(played.lasted.saturating_sub(RUNS[*org].1));
                Calls::of(played, kind, *org, Period { until, ..period })
            };
            orgs.iter().map(of_one).fold(Calls::none(played), Calls::and)
        };
        let settled = Period { from: SETTLED, until: Duration::MAX };
        let first_minute = Period { from: Duration::ZERO, until: MINUTE };
        let waiting: Vec<usize> = orgs.iter().copied().filter(|org| !RUNS[*org].1.is_zero()).collect();
        let light = calls(LIGHT, orgs, settled);
        Self {
            light_served: light.served(),
            light_served_first_minute: calls(LIGHT, orgs, first_minute).served(),
            light_wait_p99_s: calls(LIGHT, &waiting, settled).wait_p99_s(),
            greedy_served: calls(GREEDY, orgs, settled).served(),
            jain: light.jain(),
        }
    }
}

impl Run {
    fn new(played: Played<'_>, org: usize) -> Self {
        let whole = Period { from: Duration::ZERO, until: Duration::MAX };
        let used = |from| {
            let period = Period { from, until: played.lasted };
            quota_used(played.play, played.tally, period, |of| of == org)
        };
        // The first minute fills the quota.
        let last_minute = played.lasted.checked_sub(MINUTE).filter(|from| *from >= MINUTE);
        Self {
            callers: RUNS[org].0,
            org: org + 1,
            wanted: [LIGHT, GREEDY].map(|kind| Calls::of(played, kind, org, whole).wanted()).iter().sum(),
            fared: Fared::new(played, &[org]),
            quota_used: used(SETTLED),
            quota_used_last_minute: last_minute.and_then(used),
        }
    }
}
