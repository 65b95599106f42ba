//! Every scenario, in the order of the suite.

mod cancellation;
mod cardinality;
mod clocks;
mod dead_flow;
mod dead_holders;
mod failover;
mod lost_replies;
mod memory;
mod numbers;
mod partial_writes;
mod resharding;
mod restarts;
mod script_flush;
mod skew;

use std::{future::Future, pin::Pin, process::ExitCode};

use crate::{caller, found::Found, suite::Scale};

/// One scenario.
pub(crate) struct Scenario {
    /// Its name in docs/guarantees.md.
    pub(crate) test: &'static str,
    pub(crate) subject: &'static str,
    pub(crate) run: Run,
}

type Run = fn(Scale) -> Pin<Box<dyn Future<Output = anyhow::Result<Found>> + Send>>;

macro_rules! scenarios {
    ($($test:literal $subject:literal $room:ident),+ $(,)?) => {
        &[$(Scenario { test: $test, subject: $subject, run: |scale| Box::pin($room::run(scale)) }),+]
    };
}

pub(crate) const ALL: &[Scenario] = scenarios![
    "T3" "an error at every write" partial_writes,
    "T4" "lost replies" lost_replies,
    "T5" "cancelled calls" cancellation,
    "T6" "holders that die or stand still" dead_holders,
    "T7" "scripts flushed" script_flush,
    "T8" "killed servers" restarts,
    "T9" "fail-over and split brain" failover,
    "T10" "a cluster that moves" resharding,
    "T11" "clocks that step, drift and differ" clocks,
    "T12" "memory that runs out" memory,
    "T13" "numbers, ids and files of any kind" numbers,
    "T14" "a million users" cardinality,
    "T16" "flows that go dead" dead_flow,
    "T17" "two versions side by side" skew,
];

/// Plays a process that a scenario has started.
pub(crate) async fn play(role: &str, arguments: &[String]) -> ExitCode {
    let played = match role {
        "caller" => caller::call(arguments).await.map_err(|error| anyhow::anyhow!(error)),
        "holder" => dead_holders::hold(arguments).await,
        _ => {
            eprintln!("error: there is no role {role:?}, with {arguments:?}");
            return ExitCode::from(2);
        }
    };
    match played {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {role}: {error:#}");
            ExitCode::FAILURE
        }
    }
}
