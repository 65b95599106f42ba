//! The flags of `allotment demo`, and the scenario they come to.
//!
//! Invariant: a scenario is playable: every value is in range and no window is shorter than 1 s at its speed.

use std::{path::PathBuf, time::Duration};

use allotment::{Cost, Policy};
use anyhow::{Context, Result, bail};
use clap::Args;
use serde::{Deserialize, Serialize};

use super::{
    load::{Call, Group, Load},
    policy::{self, TOKENS_PER_IMAGE, Wishes},
    scene::Scene,
    upstream::{Enforcement, Headers, MINUTE, Terms},
};
use crate::{
    flags::{number, url, whole},
    redact::Secrets,
};

/// How fast a demo runs if nothing speaks against it.
const SPEED: f64 = 20.0;
/// At this speed a minute lasts 1 s, the shortest window there is.
pub(crate) const SPEED_MAX: f64 = 60.0;
/// How long a demo lasts in real time if nothing is said.
const REAL_SECONDS: f64 = 15.0;
/// The shortest run by default: the quota's use is measured from the second window on.
const SECONDS_MIN: f64 = 180.0;

/// What may be asked of a demo.
#[derive(Args)]
#[command(args_conflicts_with_subcommands = true, disable_help_subcommand = true)]
pub(crate) struct DemoArgs {
    #[command(subcommand)]
    pub(crate) scene: Option<Scene>,

    /// Keeps the ledgers in this Redis, such as redis://localhost [default: the embedded store]
    #[arg(long, value_name = "URL", value_parser = url)]
    redis: Option<String>,

    /// Spreads the users over this many OS processes, each with its own connection and limiter (needs --redis)
    #[arg(long, value_name = "N", default_value = "1", value_parser = whole(1..=64), allow_negative_numbers = true)]
    processes: u64,

    /// How many users ask; a tenth of them are greedy
    #[arg(long, value_name = "N", default_value = "40", value_parser = whole(1..=10_000), allow_negative_numbers = true)]
    users: u64,

    /// Images a minute that the simulated API allows; the users want about twice that
    #[arg(long, value_name = "IMAGES", default_value = "250", value_parser = whole(1..=100_000), allow_negative_numbers = true)]
    quota: u64,

    /// Seconds of traffic, before they are sped up [default: 15 real seconds, at least 3 windows]
    #[arg(long, value_name = "SECONDS", value_parser = whole(1..=86_400), allow_negative_numbers = true)]
    seconds: Option<u64>,

    /// How many times as fast time passes: windows and periods are divided by it, but never below 1 s
    ///
    /// All figures are reported as if time passed at its usual pace. By default 20 times, or less where a window would get shorter than 1 s,
    /// and once where there is a stranger.
    #[arg(long, value_name = "TIMES", value_parser = number(1.0..=SPEED_MAX), allow_negative_numbers = true)]
    speed: Option<f64>,

    /// Sends the same load without Allotment, for contrast
    #[arg(long)]
    unlimited: bool,

    /// Estimates of a call are what it uses times this; they are settled with what it used
    #[arg(long, value_name = "TIMES", default_value = "1", value_parser = number(1.0..=1_000.0), allow_negative_numbers = true)]
    estimate_factor: f64,

    /// Decides the load: the same seed gives the same calls
    #[arg(long, default_value = "1", value_parser = whole(0..=u64::MAX), allow_negative_numbers = true)]
    seed: u64,

    /// A TOML file with the limits to enforce [default: the quota with a small margin, and a limit for each user]
    ///
    /// Subjects have an org, a user, a model and the attribute `tier`: "pro" for greedy users, "free" for light ones.
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,

    /// How the simulated API counts; 1s and 10s want `smooth` in the policy, which the default policy then has
    #[arg(long, value_name = "HOW", value_enum, default_value = "refill")]
    enforce: Enforcement,

    /// The simulated API refuses with status 200 and an error in the body
    #[arg(long)]
    hidden_errors: bool,

    /// Lets somebody who does not ask Allotment want this share of the API's quota, 0.3 for 30 %
    ///
    /// Some calls are then refused, before the API has told of what is gone: exit status 0 says only that every window stayed within its
    /// limit. The API tells of a real minute, so that time passes at its usual pace by default.
    #[arg(long, value_name = "SHARE", default_value = "0", value_parser = number(0.0..=0.9), allow_negative_numbers = true)]
    stranger: f64,

    /// When the simulated API tells of its limits in headers
    #[arg(long, value_name = "WHEN", value_enum, default_value_t)]
    headers: Headers,

    /// Prints one JSON object on stdout and nothing else there
    #[arg(long)]
    pub(crate) json: bool,
}

/// What a demo plays.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Scenario {
    pub(crate) redis: Option<String>,
    pub(crate) processes: usize,
    pub(crate) org: String,
    pub(crate) load: Load,
    pub(crate) speed: f64,
    pub(crate) unlimited: bool,
    pub(crate) estimate_factor: f64,
    /// The limits to enforce, sped up.
    pub(crate) policy: Policy,
}

/// A scenario with what only the parent process needs.
pub(crate) struct Play {
    pub(crate) scenario: Scenario,
    /// The limits as they are written, not sped up.
    pub(crate) policy: Policy,
    pub(crate) terms: Terms,
    /// From this unscaled time on the use of the quota is measured: it fills before.
    pub(crate) measured_after: Duration,
}

impl Scenario {
    /// How long an unscaled time span takes.
    pub(crate) fn real(&self, unscaled: Duration) -> Duration {
        unscaled.div_f64(self.speed)
    }

    /// What a call is taken to cost before it is made, if that is not left to the client.
    pub(crate) fn estimate(&self, call: &Call) -> Option<Cost> {
        let estimate = |amount: u64| (amount as f64 * self.estimate_factor).ceil() as u64;
        let cost = || Cost::images(estimate(call.images)).tokens(estimate(call.tokens()));
        (self.estimate_factor > 1.0).then(cost)
    }

    /// What must not be printed.
    pub(crate) fn secrets(&self) -> Secrets {
        Secrets::in_arguments(self.redis.iter())
    }
}

impl DemoArgs {
    /// Checks what no flag can tell alone, and fills in what was left open.
    pub(crate) fn play(&self) -> Result<Play> {
        if self.processes > 1 && self.redis.is_none() {
            bail!("--processes {}: processes share their ledgers through Redis; add --redis URL", self.processes);
        }
        let largest = (self.estimate_factor.ceil() as u64).max(1);
        if self.policy.is_none() && largest > self.quota {
            bail!(
                "--estimate-factor {}: one image would be estimated at {largest}, above --quota {}; at most the quota is allowed",
                self.estimate_factor,
                self.quota
            );
        }
        // Calls of several images only where the quota holds many of them.
        let images_max = (self.quota / 20 / largest).clamp(1, 4);
        let policy = match &self.policy {
            Some(path) => read_policy(path)?,
            None => policy::default_policy(&Wishes {
                quota: self.quota,
                users: self.users,
                enforcement: self.enforce,
                images_max: images_max * largest,
                has_stranger: self.stranger > 0.0,
            }),
        };
        let speed = self.speed_for(&policy)?;
        let seconds = self.seconds.unwrap_or((REAL_SECONDS * speed).max(SECONDS_MIN).ceil() as u64);
        let load = Load {
            groups: Group::of_demo(usize::try_from(self.users)?, self.quota),
            duration: Duration::from_secs(seconds),
            seed: self.seed,
            images_max,
        };
        let scenario = Scenario {
            redis: self.redis.clone(),
            processes: usize::try_from(self.processes)?,
            // An org of its own: neither an earlier run nor anything real shares its ledgers.
            org: format!("demo-{:016x}", rand::random::<u64>()),
            load,
            speed,
            unlimited: self.unlimited,
            estimate_factor: self.estimate_factor,
            policy: policy::at_speed(&policy, speed)?,
        };
        let terms = Terms {
            images: self.quota,
            tokens: self.quota * TOKENS_PER_IMAGE,
            enforcement: self.enforce,
            hidden_errors: self.hidden_errors,
            headers: self.headers,
            stranger: self.stranger,
        };
        Ok(Play { scenario, policy, terms, measured_after: MINUTE })
    }

    /// The speed asked for, or the fastest sensible one.
    fn speed_for(&self, policy: &Policy) -> Result<f64> {
        let of_limit = policy::shortest_window(policy)?.map(|(name, window)| (format!("limit `{name}`"), window));
        let of_upstream = self.enforce.quantum().map(|quantum| ("the simulated API".to_owned(), quantum));
        let shortest = of_limit.into_iter().chain(of_upstream).min_by_key(|(_, window)| *window);
        let usual = if self.stranger > 0.0 { 1.0 } else { SPEED };
        let Some((owner, window)) = shortest else { return Ok(self.speed.unwrap_or(usual)) };
        let fastest = window.as_secs_f64();
        match self.speed {
            Some(speed) if speed > fastest => bail!(
                "--speed {speed}: a window of {} of {owner} would last less than 1 s; at most {fastest} is allowed here",
                humantime::format_duration(window)
            ),
            Some(speed) => Ok(speed),
            // Calls that overtake each other matter more to a rolling window: it is given twice the time.
            None if self.enforce == Enforcement::Rolling => Ok((SPEED / 2.0).min(usual).min(fastest.floor())),
            None => Ok(usual.min(fastest.floor())),
        }
    }
}

fn read_policy(path: &std::path::Path) -> Result<Policy> {
    let named = || format!("--policy {}", path.display());
    let text = std::fs::read_to_string(path).with_context(named)?;
    let policy = Policy::from_toml(&text).with_context(named)?;
    let subject = ["org", "user", "model", "tier"];
    if let Some(missing) = policy::required(&policy)?.into_iter().find(|required| !subject.contains(&required.as_str()))
    {
        bail!("{}: it requires `{missing}`; the demo's users have only {}", named(), subject.join(", "));
    }
    Ok(policy)
}
