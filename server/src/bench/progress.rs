//! Where a run stands, on stderr: a line that moves on a terminal, a line per round without one.

use std::io::IsTerminal;

use indicatif::{ProgressBar, ProgressStyle};

/// The spinner of a run; nothing of it is left on the terminal at the end.
pub(super) struct Progress {
    bar: ProgressBar,
    lines: bool,
}

impl Progress {
    /// A spinner on stderr if that is a terminal.
    pub(super) fn new() -> Self {
        let lines = !std::io::stderr().is_terminal();
        let bar = if lines { ProgressBar::hidden() } else { ProgressBar::new_spinner() };
        if let Ok(style) = ProgressStyle::with_template("{spinner} {prefix} {msg}") {
            bar.set_style(style);
        }
        Self { bar, lines }
    }

    /// A new part of the run has begun.
    pub(super) fn part(&self, part: String) {
        if self.lines {
            eprintln!("{part}");
        }
        self.bar.set_prefix(part);
        self.step("");
    }

    /// Round `round` of `rounds` has begun; 0 is the warm-up.
    pub(super) fn round(&self, round: u32, rounds: u32) {
        self.part(if round == 0 { "warm-up".to_owned() } else { format!("round {round} of {rounds}") });
    }

    /// What is being done within the part.
    pub(super) fn step(&self, step: impl Into<String>) {
        self.bar.set_message(step.into());
        self.bar.tick();
    }

    /// Clears the line.
    pub(super) fn done(&self) {
        self.bar.finish_and_clear();
    }
}
