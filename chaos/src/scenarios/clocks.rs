//! T11: clocks of servers that step, drift, or differ. Time is simulated: callers ask by true time, and a server's clock is what the
//! scenario makes of it.

use std::time::Duration;

use allotment::{Cost, Limit, Limiter, Outcome, Policy, Subject};
use allotment_fixtures::{ClockedServer, Server, connect, random_org};
use anyhow::{Result, bail};

use crate::{found::Found, meter, suite::Scale, way::Way};

const WINDOW_MS: u64 = 60_000;
/// How many times the limit is asked for.
const DEMAND: u64 = 3;
/// In true time since the start of a run: while calls are admitted, as a window is filled within its first 20 s.
const ADMITTING_MS: u64 = 2 * WINDOW_MS + 7_000;
/// When the last of them has just been admitted.
const FILLED_MS: u64 = 2 * WINDOW_MS + 20_000;
/// While all are denied, and nothing is written.
const DENYING_MS: u64 = 2 * WINDOW_MS + 50_000;
/// What is still no stall.
const LATE_MS: u64 = 1_000;

/// What a server's clock does to true time, in milliseconds.
#[derive(Clone, Copy)]
enum Clock {
    True,
    Steps {
        by: i64,
        at: u64,
    },
    /// Runs so many parts in a thousand too fast.
    Drifts(i64),
}

impl Clock {
    /// By how much it is off then.
    fn is_off(self, true_ms: u64) -> i64 {
        match self {
            Self::Steps { by, at } if true_ms >= at => by,
            Self::True | Self::Steps { .. } => 0,
            Self::Drifts(per_mille) => true_ms.cast_signed() * per_mille / 1_000,
        }
    }
}

pub(crate) async fn run(scale: Scale) -> Result<Found> {
    let (limit, windows) = (scale.pick(100, 400), scale.pick(8, 20));
    let mut found = Found::new(
        "steps of -600 s, +600 s, -1 h and +1 h, drift of 1 % both ways, a fail-over to a clock 60 s behind",
    );
    let server = Server::with_clock().await;
    let mut runs = Runs { server, limit, lasts_ms: windows * WINDOW_MS, starts_at: ClockedServer::START_MS };
    let losses = meter::read("allotment_state_losses_total");

    let steady = runs.on_one(Clock::True, &mut found).await?;
    let most = fullest(&steady, WINDOW_MS);
    found.count("a clock that is right: admitted in the fullest window", most, format!("{limit}"), most == limit);
    for (named, by) in [("-600 s", -600_000), ("-1 h", -3_600_000)] {
        for (when, at) in [("while calls are admitted", ADMITTING_MS), ("while all are denied", DENYING_MS)] {
            let admitted = runs.on_one(Clock::Steps { by, at }, &mut found).await?;
            backward(&mut found, &format!("{named} {when}"), limit, at, &admitted, &steady);
        }
    }
    for (named, by) in [("+600 s", 600_000), ("+1 h", 3_600_000)] {
        let admitted = runs.on_one(Clock::Steps { by, at: FILLED_MS }, &mut found).await?;
        forward(&mut found, named, limit, &admitted);
    }
    for (named, per_mille) in [("1 % fast", 10), ("1 % slow", -10)] {
        let admitted = runs.on_one(Clock::Drifts(per_mille), &mut found).await?;
        drift(&mut found, named, per_mille, limit, &admitted);
    }
    let admitted = runs.failed_over(&mut found).await?;
    backward(&mut found, "fail-over to -60 s", limit, ADMITTING_MS, &admitted, &steady);

    let losses = meter::read("allotment_state_losses_total") - losses;
    found.count("losses of state that were told", losses, 0, losses == 0);
    Ok(found)
}

fn backward(found: &mut Found, named: &str, limit: u64, step_at: u64, admitted: &[u64], steady: &[u64]) {
    let most = fullest(admitted, WINDOW_MS);
    found.count(
        &format!("{named}: admitted in the fullest true window"),
        most,
        format!("at most {limit}"),
        most <= limit,
    );
    // the org's time stands still until the clock has come to where it was last written: with the last admission, as a denial writes nothing
    let last = steady.iter().rev().find(|at| **at < step_at).copied().unwrap_or(0);
    let bound = LATE_MS.max(step_at - last);
    // each call that is admitted against the same one where the clock is right
    let late = admitted.iter().zip(steady).map(|(at, steadily)| at.saturating_sub(*steadily)).max().unwrap_or(u64::MAX);
    found.count(
        &format!("{named}: behind a clock that is right, in ms of true time"),
        late,
        format!("at most {bound}, the time since the last admission and no less than {LATE_MS}"),
        late <= bound,
    );
    found.stall(Duration::from_millis(late));
    let (count, steadily) = (admitted.len(), steady.len());
    let missing = usize::try_from(bound * DEMAND * limit / WINDOW_MS).unwrap_or(usize::MAX) + 1;
    let least = steadily.saturating_sub(missing);
    found.count(
        &format!("{named}: admitted in all, of {steadily}"),
        count,
        format!("at least {least}"),
        (least..=steadily).contains(&count),
    );
}

fn forward(found: &mut Found, named: &str, limit: u64, admitted: &[u64]) {
    let (most, more) = (fullest(admitted, WINDOW_MS), 2 * limit);
    found.count(
        &format!("{named}: admitted in the fullest true window"),
        most,
        format!("at most {more}"),
        most <= more,
    );
    let elsewhere = ends(admitted, WINDOW_MS)
        .filter(|(from, to, count)| *count > limit && !(*from < FILLED_MS && FILLED_MS <= *to))
        .count();
    found.count(
        &format!("{named}: fuller windows than {limit} without the step in them"),
        elsewhere,
        0,
        elsewhere == 0,
    );
    let longest = admitted.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or(u64::MAX);
    found.count(
        &format!("{named}: longest time without an admission, in ms of true time"),
        longest,
        format!("at most {WINDOW_MS}"),
        longest <= WINDOW_MS,
    );
}

fn drift(found: &mut Found, named: &str, per_mille: i64, limit: u64, admitted: &[u64]) {
    // a window by the server, in true time
    let window = WINDOW_MS * 1_000 / 1_000_u64.saturating_add_signed(per_mille);
    let exactly = fullest(admitted, window);
    found.count(
        &format!("{named}: admitted in the fullest {window} ms of true time, which the clock takes for a window"),
        exactly,
        format!("at most {limit}"),
        exactly <= limit,
    );
    // what is left of a true window is a hundredth of it, in which no more is admitted than is asked for
    let (most, asked) = (fullest(admitted, WINDOW_MS), (DEMAND * limit).div_ceil(100));
    let more = if per_mille > 0 { limit + asked } else { limit };
    found.count(
        &format!("{named}: admitted in the fullest true window"),
        most,
        format!("at most {more}"),
        most <= more,
    );
}

/// The windows that end with each admission: from (left out), to, and what was admitted in it.
fn ends(admitted: &[u64], window_ms: u64) -> impl Iterator<Item = (u64, u64, u64)> + '_ {
    let mut first = 0;
    admitted.iter().enumerate().map(move |(last, at)| {
        while admitted[first] + window_ms <= *at {
            first += 1;
        }
        (at.saturating_sub(window_ms), *at, (last - first + 1) as u64)
    })
}

fn fullest(admitted: &[u64], window_ms: u64) -> u64 {
    ends(admitted, window_ms).map(|(_, _, count)| count).max().unwrap_or(0)
}

/// One run after the other, on orgs of their own.
struct Runs {
    server: ClockedServer,
    limit: u64,
    lasts_ms: u64,
    /// By a clock that is right; nothing of an earlier run is left by then.
    starts_at: u64,
}

impl Runs {
    /// Two processes, as far as Redis can tell.
    fn limiters(&self, url: &str) -> Result<[Limiter; 2], allotment::Error> {
        let limits = Policy::new()
            .limit(Limit::new("org").requests(self.limit).window(Duration::from_millis(WINDOW_MS)))
            .limit(Limit::new("user").scope(["user"]).requests(self.limit).window(Duration::from_millis(WINDOW_MS)));
        let build = || Limiter::builder().redis(url).policy(limits.clone()).deadline(Duration::from_secs(20)).build();
        Ok([build()?, build()?])
    }

    /// When calls were admitted, in true time since the start.
    async fn on_one(&mut self, clock: Clock, found: &mut Found) -> Result<Vec<u64>> {
        let (limiters, org) = (self.limiters(&self.server.url())?, random_org());
        let mut admitted = Vec::new();
        for (call, at) in self.calls() {
            self.server.set_ms((self.starts_at + at).saturating_add_signed(clock.is_off(at)));
            if ask(&limiters[call % 2], &org).await? {
                admitted.push(at);
            }
            found.calls += 1;
        }
        self.starts_at += 48 * 3_600_000;
        Ok(admitted)
    }

    /// The same where another server, whose clock is 60 s behind, takes over what the first one has.
    async fn failed_over(&mut self, found: &mut Found) -> Result<Vec<u64>> {
        const BEHIND_MS: u64 = 60_000;
        let (behind, way) = (Server::with_clock().await, Way::to(self.server.port()).await?);
        let (mut admin, mut replica) = (connect(&self.server.url()).await?, connect(&behind.url()).await?);
        // a delay is counted by a clock that stands still
        redis::cmd("CONFIG").arg("SET").arg("repl-diskless-sync-delay").arg(0).exec_async(&mut admin).await?;
        self.server.set_ms(self.starts_at);
        behind.set_ms(self.starts_at - BEHIND_MS);
        redis::cmd("REPLICAOF").arg("127.0.0.1").arg(self.server.port()).exec_async(&mut replica).await?;
        let (limiters, org) = (self.limiters(&way.url())?, random_org());
        let (mut admitted, mut is_over) = (Vec::new(), false);
        for (call, at) in self.calls() {
            if at >= ADMITTING_MS && !is_over {
                caught_up(&mut admin).await?;
                redis::cmd("REPLICAOF").arg("NO").arg("ONE").exec_async(&mut replica).await?;
                way.lead_to(behind.port());
                is_over = true;
            }
            self.server.set_ms(self.starts_at + at);
            behind.set_ms(self.starts_at + at - BEHIND_MS);
            if ask(&limiters[call % 2], &org).await? {
                admitted.push(at);
            }
            found.calls += 1;
        }
        Ok(admitted)
    }

    /// The calls of a run, evenly spread in true time.
    fn calls(&self) -> impl Iterator<Item = (usize, u64)> + use<> {
        let pause = WINDOW_MS / (DEMAND * self.limit);
        (0..usize::MAX).zip((0..self.lasts_ms).step_by(usize::try_from(pause).unwrap_or(usize::MAX)))
    }
}

/// Returns once the replica has all that this server has written.
async fn caught_up(admin: &mut redis::aio::MultiplexedConnection) -> Result<()> {
    for _ in 0..100 {
        // waited for is what this connection has written
        redis::cmd("SET").arg("caught-up").arg("yes").exec_async(admin).await?;
        let replicas: u32 = redis::cmd("WAIT").arg(1).arg(10_000).query_async(admin).await?;
        if replicas == 1 {
            return Ok(());
        }
        // by a clock that stands still nobody waits, and the link may still be made
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    bail!("a replica did not follow within ten seconds")
}

async fn ask(limiter: &Limiter, org: &str) -> Result<bool> {
    let subject = Subject::org(org).user("user");
    match limiter.try_acquire(&subject, Cost::new()).await? {
        Outcome::Admitted(permit) => {
            drop(permit);
            Ok(true)
        }
        Outcome::Denied(_) => Ok(false),
    }
}
