//! Shows on stderr how a run goes: a bar with counters on a terminal, a line now and then elsewhere.

use std::{io::IsTerminal, time::Duration};

use indicatif::{ProgressBar, ProgressStyle};

use super::{options::Scenario, tally::Tally};
use crate::output::note_line;

/// How many plain lines a run prints.
const LINES: u64 = 5;

/// Where the progress goes.
pub(crate) enum Progress {
    Bar(ProgressBar),
    Lines { seconds: u64, printed: u64 },
}

impl Progress {
    /// Begins with a line that says how long it will take.
    pub(crate) fn begin(scenario: &Scenario) -> Self {
        let seconds = scenario.load.duration.as_secs();
        let real = scenario.real(scenario.load.duration).as_secs_f64();
        note_line(&format!("{seconds} s of traffic, {} times as fast: {real:.0} s", scenario.speed));
        if !std::io::stderr().is_terminal() {
            return Self::Lines { seconds, printed: 0 };
        }
        let bar = ProgressBar::new(seconds);
        let style = ProgressStyle::with_template("{bar:20.cyan/dim} {pos:>4}/{len} s  {wide_msg}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        Self::Bar(bar)
    }

    /// Shows where the run stands after `passed` of its unscaled time.
    pub(crate) fn show(&mut self, passed: Duration, tally: &Tally) {
        let at = passed.as_secs();
        match self {
            Self::Bar(bar) => {
                bar.set_position(at.min(bar.length().unwrap_or(at)));
                bar.set_message(counters(tally));
            }
            Self::Lines { seconds, printed } => {
                let due = at * LINES / (*seconds).max(1);
                if due > *printed {
                    *printed = due;
                    note_line(&format!("{:>6} s  {}", at.min(*seconds), counters(tally)));
                }
            }
        }
    }

    /// Leaves a clean terminal.
    pub(crate) fn end(self) {
        if let Self::Bar(bar) = self {
            bar.finish_and_clear();
        }
    }
}

fn counters(tally: &Tally) -> String {
    let waiting = tally.asked.saturating_sub(tally.ended());
    let mut text = format!(
        "asked {}  admitted {}  waiting {waiting}  denied {}  refused {}",
        tally.asked,
        tally.admitted.len(),
        tally.denied,
        tally.refused
    );
    if tally.failed > 0 {
        text.push_str(&format!("  failed {}", tally.failed));
    }
    text
}
