//! Scenes: loads of known figures, played by the demo's fleet and judged as the plain demo is; and a crash, which has no load.

mod crash;
mod figures;
mod incident;
mod priority;

use std::time::Duration;

use allotment::Policy;
use anyhow::Result;
use clap::{Args, Subcommand};

pub(crate) use self::crash::run_holder;
use self::{crash::CrashArgs, incident::IncidentArgs, priority::PriorityArgs};
use super::{
    load::{Group, Load},
    options::{Play, SPEED_MAX, Scenario},
    policy::{self, TOKENS_PER_IMAGE},
    upstream::{Enforcement, Headers, MINUTE, Terms},
};
use crate::flags::{number, url, whole};

/// What can be played instead of the plain demo.
#[derive(Subcommand)]
pub(crate) enum Scene {
    /// Plays the report that started this project: one greedy user beside 200 light ones on one pool
    ///
    /// Twice at the same time, on an org each: with callers that give up at once, and with callers that wait up to 20 s. Exit status: as
    /// that of `allotment demo`.
    Incident(IncidentArgs),
    /// Plays batch work that wants twice the pool beside interactive users who want little, then half of it
    ///
    /// From the middle of the run on the interactive users want 50 % of the pool instead of 5 %. Exit status: as that of `allotment demo`.
    Priority(PriorityArgs),
    /// Kills processes that hold slots, and shows when the slots come back and that none is held twice
    ///
    /// One more process is stopped for longer than its lease, and goes on when another has its slot. Exit status: 0 if all slots came back
    /// within the lease and 1 s, no more leases than slots were ever live, fencing tokens grew, and the resumed process was refused; 1 if
    /// not, 2 if it could not run, 130 after Ctrl-C.
    Crash(CrashArgs),
}

/// The flags of the scenes that the demo's fleet plays.
#[derive(Args)]
pub(crate) struct SceneFlags {
    /// Keeps the ledgers in this Redis, such as redis://localhost [default: the embedded store]
    #[arg(long, value_name = "URL", value_parser = url)]
    redis: Option<String>,

    /// How many times as fast time passes: windows and periods are divided by it
    ///
    /// All figures are reported as if time passed at its usual pace. By default as fast as one process keeps up with, and less where more
    /// is asked for.
    #[arg(long, value_name = "TIMES", value_parser = number(1.0..=SPEED_MAX), allow_negative_numbers = true)]
    speed: Option<f64>,

    /// Seconds of traffic, before they are sped up [default: six windows of the incident, ten of the priorities]
    #[arg(long, value_name = "SECONDS", value_parser = whole(1..=86_400), allow_negative_numbers = true)]
    seconds: Option<u64>,

    /// Decides the load: the same seed gives the same calls
    #[arg(long, default_value = "1", value_parser = whole(0..=u64::MAX), allow_negative_numbers = true)]
    seed: u64,

    /// Prints one JSON object on stdout and nothing else there
    #[arg(long)]
    json: bool,
}

/// What a scene plays if nothing is said.
struct Defaults {
    speed: f64,
    windows: u32,
    /// Calls a minute that one process keeps up with at that speed.
    calls: f64,
    /// From when on the use of the quota is measured.
    measured_after: Duration,
}

impl SceneFlags {
    /// The play of these users on a pool of so many images a minute.
    fn play(&self, groups: Vec<Group>, policy: Policy, pool: u64, defaults: &Defaults) -> Result<Play> {
        let calls: f64 = groups.iter().map(|group| group.users as f64 * group.per_minute).sum();
        let fitting = (defaults.speed * defaults.calls / calls).clamp(1.0, defaults.speed);
        let speed = self.speed.unwrap_or((fitting * 10.0).floor() / 10.0);
        let duration = self.seconds.map_or(MINUTE * defaults.windows, Duration::from_secs);
        let load = Load { groups, duration, seed: self.seed, images_max: 1 };
        let scenario = Scenario {
            redis: self.redis.clone(),
            processes: 1,
            org: format!("demo-{:016x}", rand::random::<u64>()),
            load,
            speed,
            unlimited: false,
            estimate_factor: 1.0,
            policy: policy::at_speed(&policy, speed)?,
        };
        let terms = Terms {
            images: pool,
            tokens: pool * TOKENS_PER_IMAGE,
            enforcement: Enforcement::Refill,
            hidden_errors: false,
            headers: Headers::default(),
            stranger: 0.0,
        };
        Ok(Play { scenario, policy, terms, measured_after: defaults.measured_after })
    }
}
