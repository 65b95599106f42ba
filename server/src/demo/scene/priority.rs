//! Batch work in line beside interactive users, who want little, then much.

use std::{fmt::Write, time::Duration};

use allotment::{Limit, Policy};
use anyhow::Result;
use clap::Args;
use comfy_table::CellAlignment;
use serde::Serialize;

use super::{Defaults, SceneFlags, figures::Calls};
use crate::{
    demo::{
        Played,
        load::Group,
        options::Play,
        report::{Period, Report, images_admitted, rounded, table},
        upstream::MINUTE,
    },
    flags::whole,
};

/// What batch work wants, in pools, by how many users, and how long they wait.
const BATCH_SHARE: f64 = 2.0;
const BATCH_USERS: usize = 10;
const BATCH_PATIENCE: Duration = Duration::from_secs(60);
/// What interactive users want, in pools, then times how much, by how many users, and how long they wait.
const INTERACTIVE_SHARE: f64 = 0.05;
const SURGE: f64 = 10.0;
const INTERACTIVE_USERS: usize = 25;
const INTERACTIVE_PATIENCE: Duration = Duration::from_secs(20);
const DEFAULTS: Defaults = Defaults { speed: 10.0, windows: 10, calls: 2_050.0, measured_after: MINUTE };
const BATCH: &str = "batch";
const INTERACTIVE: &str = "interactive";

/// What may be asked of the priorities.
#[derive(Args)]
pub(crate) struct PriorityArgs {
    /// Images a minute that the simulated API allows
    #[arg(long, value_name = "N", default_value = "1000", value_parser = whole(100..=20_000), allow_negative_numbers = true)]
    pool: u64,

    #[command(flatten)]
    flags: SceneFlags,
}

/// The figures of the priorities, as `--json` prints them.
#[derive(Serialize)]
struct Priorities<'a> {
    #[serde(flatten)]
    report: &'a Report,
    pool: u64,
    speed: f64,
    windows: Vec<Window>,
}

/// How the classes fared in one window of 60 s.
#[derive(Serialize)]
struct Window {
    /// From 1 on.
    window: u64,
    interactive: Class,
    batch: Class,
    /// Images admitted in it, as a share of the pool.
    pool_used: f64,
}

/// The calls of a class that were asked in one window.
#[derive(Serialize)]
struct Class {
    wanted: u64,
    /// Of those that could wait as long as they would, before the end of the run.
    served: Option<f64>,
    wait_p99_s: Option<f64>,
}

impl PriorityArgs {
    /// The play these flags ask for.
    pub(crate) fn play(&self) -> Result<Play> {
        let pool = self.pool as f64;
        let groups = vec![
            Group {
                patience: BATCH_PATIENCE,
                class: "batch".to_owned(),
                ..Group::new(BATCH, BATCH_USERS, pool * BATCH_SHARE / BATCH_USERS as f64)
            },
            Group {
                patience: INTERACTIVE_PATIENCE,
                ..Group::new(INTERACTIVE, INTERACTIVE_USERS, pool * INTERACTIVE_SHARE / INTERACTIVE_USERS as f64)
            },
        ];
        let policy = Policy::new().limit(Limit::new("pool").images(self.pool));
        let mut play = self.flags.play(groups, policy, self.pool, &DEFAULTS)?;
        let load = &mut play.scenario.load;
        load.groups[1].surge = Some((load.duration / 2, SURGE));
        Ok(play)
    }

    /// The report, for people or as JSON.
    pub(crate) fn words(&self, played: Played<'_>) -> Result<String> {
        let count = u32::try_from(played.lasted.as_secs() / MINUTE.as_secs())?;
        let windows: Vec<Window> = (0..count).map(|index| self.window(played, index)).collect();
        if !self.flags.json {
            return Ok(table_of(played, &windows));
        }
        let speed = played.play.scenario.speed;
        Ok(serde_json::to_string(&Priorities { report: played.report, pool: self.pool, speed, windows })?)
    }

    fn window(&self, played: Played<'_>, index: u32) -> Window {
        let period = Period { from: MINUTE * index, until: MINUTE * (index + 1) };
        let class = |kind: &str, patience| {
            // Nobody waits beyond the end of the run: the last calls had not all the time they would have waited.
            let until = period.until.min(played.lasted.saturating_sub(patience));
            let settled = Calls::of(played, kind, 0, Period { until, ..period });
            Class {
                wanted: Calls::of(played, kind, 0, period).wanted(),
                served: settled.served(),
                wait_p99_s: settled.wait_p99_s(),
            }
        };
        let images = images_admitted(played.play, played.tally, period);
        Window {
            window: u64::from(index) + 1,
            interactive: class(INTERACTIVE, INTERACTIVE_PATIENCE),
            batch: class(BATCH, BATCH_PATIENCE),
            pool_used: rounded(images as f64 / self.pool as f64),
        }
    }
}

fn table_of(Played { play, tally, report, .. }: Played<'_>, windows: &[Window]) -> String {
    let mut text = table::setting(play);
    let _ = write!(
        text,
        "\nBatch wants {} % of the pool; interactive users {} %, from {} s on {} %\n\n",
        BATCH_SHARE * 100.0,
        INTERACTIVE_SHARE * 100.0,
        (play.scenario.load.duration / 2).as_secs(),
        INTERACTIVE_SHARE * SURGE * 100.0
    );
    let mut figures = table::plain();
    figures.set_header(["window", "interactive", "served", "wait p99", "batch", "served", "wait p99", "pool used"]);
    for window in windows {
        let share = |share: Option<f64>| share.map_or_else(|| "-".to_owned(), table::percent);
        let wait = |wait: Option<f64>| wait.map_or_else(|| "-".to_owned(), |wait| format!("{wait:.1} s"));
        let mut row = vec![window.window.to_string()];
        for class in [&window.interactive, &window.batch] {
            row.extend([class.wanted.to_string(), share(class.served), wait(class.wait_p99_s)]);
        }
        row.push(table::percent(window.pool_used));
        figures.add_row(row);
    }
    for column in figures.column_iter_mut() {
        column.set_cell_alignment(CellAlignment::Right);
    }
    let _ = write!(text, "{figures}\n\n{}\n\n{}", table::summary(report, tally), table::limits(report));
    let _ = write!(text, "\n\n{}", table::conclusion(report));
    text
}
