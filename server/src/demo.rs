//! `allotment demo`: a fleet of users, a simulated upstream, and a replay that judges the limiter.
//!
//! Invariant: the judges (the upstream and the replay) share no state and no arithmetic with the limiter they judge.

mod fleet;
mod gate;
mod load;
mod options;
mod oracle;
mod policy;
mod process;
mod progress;
mod report;
mod scene;
mod tally;
mod upstream;

use std::{process::ExitCode, sync::Arc, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
    time::{Instant, MissedTickBehavior},
};

use self::{
    fleet::{Event, Fleet},
    gate::{Gate, epoch_ms},
    options::Play,
    process::Processes,
    progress::Progress,
    report::{Report, Verdict},
    scene::Scene,
    tally::Tally,
    upstream::LiveUpstream,
};
pub(crate) use self::{options::DemoArgs, process::run_child, scene::run_holder};
use crate::{
    interrupt::{INTERRUPTED, interruptions},
    output::{note_line, print_line},
};

/// The exit status of a run that broke a promise.
const BROKEN: u8 = 1;
/// How often the progress is shown anew.
const REFRESH: Duration = Duration::from_millis(100);

/// A run under way.
struct Run {
    work: JoinHandle<Result<()>>,
    events: mpsc::UnboundedReceiver<Event>,
    stop: watch::Sender<bool>,
    start: Instant,
    upstream: LiveUpstream,
}

/// What a run came to, for whoever puts it into words.
#[derive(Clone, Copy)]
pub(crate) struct Played<'a> {
    play: &'a Play,
    tally: &'a Tally,
    report: &'a Report,
    /// In unscaled time.
    lasted: Duration,
}

/// Runs the demo, or a scene of it, and prints its report.
pub(crate) async fn run(args: DemoArgs) -> Result<ExitCode> {
    match args.scene {
        None => {
            let words = |Played { play, tally, report, .. }: Played<'_>| {
                if args.json {
                    Ok(serde_json::to_string(report)?)
                } else {
                    Ok(report::table::table(report, play, tally))
                }
            };
            perform(&args.play()?, words).await
        }
        Some(Scene::Incident(incident)) => perform(&incident.play()?, |played| incident.words(played)).await,
        Some(Scene::Priority(priority)) => perform(&priority.play()?, |played| priority.words(played)).await,
        Some(Scene::Crash(crash)) => crash.run().await,
    }
}

/// Plays to the end, prints what it came to, in these words, and judges it.
async fn perform(play: &Play, words: impl Fn(Played<'_>) -> Result<String>) -> Result<ExitCode> {
    let mut run = start(play).await?;
    let mut tally = Tally::new(play.scenario.load.users());
    let interrupted_after = watch_over(&mut run, play, &mut tally).await;
    run.work.await??;

    if tally.failed > 0 && tally.failed == tally.ended() {
        bail!("every call failed: {}", tally.failure.unwrap_or_default());
    }
    let refused = run.upstream.refused();
    // Calls that were under way at an interruption are not heard of.
    ensure!(
        tally.refused == refused || interrupted_after.is_some(),
        "the callers read {} refusals, the upstream made {refused}",
        tally.refused
    );
    let lasted = interrupted_after.unwrap_or(play.scenario.load.duration);
    let report = Report::new(play, &tally, lasted)?;
    let text = words(Played { play, tally: &tally, report: &report, lasted })?;
    print_line(&text).context("printing the report")?;
    if let Some(failure) = &tally.failure {
        note_line(&format!("warning: {} of {} calls failed, the first with: {failure}", tally.failed, tally.ended()));
    }
    if interrupted_after.is_some() {
        note_line(&format!("interrupted after {} s of {} s", lasted.as_secs(), play.scenario.load.duration.as_secs()));
        return Ok(ExitCode::from(INTERRUPTED));
    }
    Ok(match report.verdict {
        Verdict::Broken => ExitCode::from(BROKEN),
        Verdict::Kept | Verdict::Shared | Verdict::Unlimited => ExitCode::SUCCESS,
    })
}

/// Starts the users, here or in processes of their own.
async fn start(play: &Play) -> Result<Run> {
    let scenario = &play.scenario;
    let reached = || match &scenario.redis {
        Some(url) => format!("--redis {}", scenario.secrets().redact(url)),
        None => "the embedded store".to_owned(),
    };
    let (stop, stopped) = watch::channel(false);
    let (events, happened) = mpsc::unbounded_channel();
    let upstream = play.terms.start(scenario.load.orgs(), scenario.speed).await?;
    let address = upstream.address();
    if scenario.processes > 1 {
        let processes = Processes::start(scenario, &address).await.with_context(reached)?;
        let start_ms = Processes::start_ms();
        let start = Instant::now() + Duration::from_millis(start_ms.saturating_sub(epoch_ms()));
        let work = tokio::spawn(processes.run(start_ms, events, stopped));
        return Ok(Run { work, events: happened, stop, start, upstream });
    }
    let gate = Gate::new(scenario, &address).with_context(reached)?;
    gate.ready().await.with_context(reached)?;
    let start = Instant::now();
    let fleet = Fleet { scenario: Arc::new(scenario.clone()), gate, events, stop: stopped, start };
    let users = 0..scenario.load.users();
    let work = tokio::spawn(async move {
        fleet.run(users).await;
        Ok(())
    });
    Ok(Run { work, events: happened, stop, start, upstream })
}

/// Gathers events and shows progress until the last event. When it was interrupted, the unscaled time until then.
async fn watch_over(run: &mut Run, play: &Play, tally: &mut Tally) -> Option<Duration> {
    let mut interruptions = interruptions();
    let mut progress = Progress::begin(&play.scenario);
    let mut refresh = tokio::time::interval(REFRESH);
    refresh.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let passed = |start: Instant| start.elapsed().mul_f64(play.scenario.speed);
    let mut interrupted_after = None;
    let mut batch = Vec::new();
    loop {
        tokio::select! {
            count = run.events.recv_many(&mut batch, 1_024) => {
                if count == 0 {
                    break;
                }
                batch.drain(..).for_each(|event| tally.count(event));
            }
            _ = refresh.tick() => progress.show(passed(run.start), tally),
            Some(()) = interruptions.recv() => {
                if interrupted_after.is_some() {
                    // Asked twice: somebody does not want to wait for calls under way.
                    progress.end();
                    std::process::exit(i32::from(INTERRUPTED));
                }
                interrupted_after = Some(passed(run.start).min(play.scenario.load.duration));
                let _ = run.stop.send(true);
            }
        }
    }
    progress.show(passed(run.start), tally);
    progress.end();
    interrupted_after
}
