//! `allotment bench`: what an operator's own Redis can do.
//!
//! Invariant: every key a run makes belongs to an org that starts with the run's own random prefix, and is deleted when the run ends, by
//! Ctrl-C or an error too. Cases and baselines take turns in short slices, so that a disturbance of the machine falls on all of them.
//! Lacks thresholds on purpose: figures depend on the machine, and only ratios of one run compare.

mod baseline;
mod case;
mod drive;
mod line;
mod memory;
mod probe;
mod progress;
mod report;
mod scratch;
mod workload;

use std::process::ExitCode;

use anyhow::{Context, Result};
use tokio::sync::oneshot;

use self::{
    baseline::{Baselines, FLOOR},
    case::Case,
    line::Line,
    probe::Probe,
    progress::Progress,
    report::Report,
    scratch::Scratch,
    workload::Workload,
};

/// The exit status after Ctrl-C: 128 and the number of the signal.
const INTERRUPTED: u8 = 130;

/// Measures what a Redis can do and what a decision costs it, beside baselines of the same run.
///
/// Runs about two minutes at full speed against the given Redis, and deletes what it wrote. CPU time and script calls are read from the
/// server's INFO, so other traffic on the same Redis is counted too: best on an idle one.
#[derive(clap::Args, Clone)]
pub(crate) struct BenchArgs {
    /// The Redis to measure: redis://, rediss:// or redis+unix:///path.
    #[arg(long, value_name = "URL")]
    redis: String,

    /// Print one JSON object on stdout and nothing else.
    #[arg(long)]
    json: bool,

    /// Rounds; every figure is the median over them.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,

    /// Users the calls are spread over.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    users: u32,

    /// Decisions per case and round.
    #[arg(long, value_name = "N", default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(500..=1_000_000))]
    calls_per_round: u32,

    /// Only these cases, and no memory figures.
    #[arg(long = "case", value_name = "NAME", num_args = 1..)]
    cases: Vec<Case>,
}

impl BenchArgs {
    /// Runs the bench, prints its report on stdout and removes its keys.
    ///
    /// # Errors
    ///
    /// When the Redis cannot be reached or refuses a command, or a case does not do what it is there to measure.
    pub(crate) async fn run(self) -> Result<ExitCode> {
        let json = self.json;
        // The parser's own message could repeat the text, and with it a password.
        let client = redis::Client::open(self.redis.as_str())
            .ok()
            .context("--redis: not a Redis URL; use redis://HOST:PORT, rediss://HOST:PORT or redis+unix:///PATH")?;
        // A wrong address is told at once, not by the clean-up.
        drop(probe::connect(&client).await?);
        let scratch = Scratch::new();
        let bench = Bench { client: client.clone(), scratch: scratch.clone(), args: self };

        let (stop, stopped) = oneshot::channel::<()>();
        let mut load = tokio::task::spawn_blocking(move || bench.run_until(stopped));
        let outcome = tokio::select! {
            outcome = &mut load => outcome,
            _ = tokio::signal::ctrl_c() => {
                drop(stop);
                load.await
            }
        };

        let removed = scratch.remove_all(&client).await.with_context(|| {
            format!("cannot remove what the bench wrote ({}); it expires within twenty minutes", scratch.pattern())
        });
        let report = outcome.context("the bench stopped unexpectedly")??;
        let removed = removed?;
        let Some(report) = report else {
            eprintln!("stopped; {removed} keys removed");
            return Ok(ExitCode::from(INTERRUPTED));
        };
        if json {
            println!("{}", serde_json::to_string(&report)?)
        } else {
            print!("{report}")
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// One run: where it measures, what it writes under, and how much.
struct Bench {
    client: redis::Client,
    scratch: Scratch,
    args: BenchArgs,
}

impl Bench {
    /// Runs on a thread of its own, which leaves the other cores to the server, until done or `stopped`. All connections are closed
    /// when it returns, so that nothing is written after the keys have been removed.
    fn run_until(&self, stopped: oneshot::Receiver<()>) -> Result<Option<Report>> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            tokio::select! {
                report = self.measure() => report.map(Some),
                _ = stopped => Ok(None),
            }
        })
    }

    async fn measure(&self) -> Result<Report> {
        let mut probe = Probe::connect(&self.client).await?;
        let server = probe.server().await?;
        let cases = self.cases();
        let progress = Progress::new();

        let memory = match self.args.cases.as_slice() {
            [] => Some(memory::measure(self, &mut probe, &progress).await?),
            _ => None,
        };

        let baselines = Baselines::connect(self).await?;
        let mut lines = Vec::new();
        for case in cases.iter().filter(|case| case.needs_line()) {
            lines.push((*case, Line::start(self, *case).await?));
        }
        let mut rounds = Vec::new();
        // Round 0 warms up: it fills the ledgers and the server's script cache, and is not reported.
        for round in 0..=self.args.rounds {
            let calls = if round == 0 { self.args.calls_per_round / 4 } else { self.args.calls_per_round } as usize;
            progress.round(round, self.args.rounds);
            let mut measured = baselines.measure(&mut probe, calls).await?;
            for &case in &cases {
                let line = lines.iter().find(|(of, _)| *of == case).map(|(_, line)| line);
                if let Some(line) = line {
                    progress.step("filling an org for a case that waits in line");
                    line.wait_until_full().await?;
                }
                progress.step(case.name());
                let workload = Workload::prepare(self, case, line, calls, round == 0).await?;
                let slice = workload.measure(&mut probe).await.with_context(|| format!("case {}", case.name()))?;
                measured.push((case.name(), slice));
            }
            // The other half of the floor: machines drift within a round, and every ratio hangs on it.
            let floor = baselines.floor(&mut probe, calls).await?;
            measured.iter_mut().filter(|(case, _)| *case == FLOOR).for_each(|(_, first)| first.join(&floor));
            if round > 0 {
                rounds.push(measured);
            }
        }
        progress.done();
        Report::new(server, memory, &rounds).context("no round was measured")
    }

    /// The cases to run, in the order of the table, each once.
    fn cases(&self) -> Vec<Case> {
        let chosen = |case: &Case| self.args.cases.is_empty() || self.args.cases.contains(case);
        Case::all().iter().copied().filter(chosen).collect()
    }
}
