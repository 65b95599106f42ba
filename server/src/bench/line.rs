//! An org that is kept full, so that callers have to wait in line: for the cases with bookings and with long denials.
//!
//! Invariant: while nothing is booked, the org's ledger holds one entry per 1/124 of its window and lacks no more than one of them to its
//! limit. Entries at distinct times take a whole window of real time to gather, hence a short window, filled beside the other cases.

use std::{
    future::{Future, poll_fn},
    pin::Pin,
    task::{Context as TaskContext, Poll},
    time::{Duration, Instant},
};

use allotment::{Cost, Decision, Error, LimitStatus, Limiter, Outcome, Permit, Policy, Resource, Subject};
use anyhow::{Context, Result, ensure};
use tokio::time::{MissedTickBehavior, interval, sleep};

use super::{
    Bench,
    case::{Case, org, three, user},
    drive::{CALLERS, Slice},
};

const WINDOW: Duration = Duration::from_secs(16);
/// Entries in the window: just below the number where neighbours are folded together.
const ENTRIES: u64 = 124;
/// Images of one entry: as many as leave the costs below what a record of a quiet ledger holds, 2^32.
const UNIT: u64 = 40_000_000;
/// Places that are booked.
const PLACES: usize = 60;
/// Images of a place: it does not fit while a single entry is missing, and all places start within a window.
const PLACE_IMAGES: u64 = UNIT * 7 / 4;
/// Entries that may be missing: those that were not made while the bookings of an earlier slice kept the org closed.
const MISSING: u64 = 6;
/// Entries that leave after the last of the places has started, whatever is missing: the room for more bookings.
const ROOM: u64 = 6;
/// Entries that must leave in a long denial.
const LONG: u64 = 100;

/// A place in line: an acquire that has been asked and is not polled any more, so that it neither moves up nor starts. Dropping it gives
/// the place back.
pub(super) type Place = Pin<Box<dyn Future<Output = Result<Permit, Error>> + Send>>;

/// The full org.
pub(super) struct Line {
    limiter: Limiter,
    org: String,
    slack: u64,
}

impl Line {
    /// Starts to fill the org of `case`; it takes one window.
    ///
    /// # Errors
    ///
    /// When Redis cannot be reached.
    pub(super) async fn start(bench: &Bench, case: Case) -> Result<Self> {
        let org = bench.scratch.org(case.name());
        // All small calls of a window fit into the slack, and no booking does.
        let slack = 10 * u64::from(bench.args.calls_per_round);
        let limiter = bench.limiter(policy(slack), 1)?;
        let line = Self { limiter, org, slack };
        line.charge(UNIT).await?;
        tokio::spawn(fill(line.limiter.clone(), line.subject()));
        Ok(line)
    }

    /// The limits of the org and its users.
    pub(super) fn policy(&self) -> Policy {
        policy(self.slack)
    }

    /// Returns when the org holds all its entries but a few.
    ///
    /// # Errors
    ///
    /// When Redis cannot be reached, or somebody else keeps the org from filling.
    pub(super) async fn wait_until_full(&self) -> Result<()> {
        const STEP: Duration = Duration::from_millis(250);
        let give_up_at = Instant::now() + 3 * WINDOW;
        while self.used().await? < (ENTRIES - MISSING) * UNIT {
            ensure!(Instant::now() < give_up_at, "the org for cases that wait in line does not fill up");
            sleep(STEP).await;
        }
        Ok(())
    }

    /// The cost of a call that fits when 100 entries have left.
    ///
    /// # Errors
    ///
    /// When Redis cannot be reached.
    pub(super) async fn long_denial(&self) -> Result<Cost> {
        let limit = limit(self.slack);
        let room = limit.saturating_sub(self.used().await?);
        Ok(Cost::images((room + LONG * UNIT - UNIT / 2).min(limit)))
    }

    /// Fills the org to the brim and books 60 places, by the first 60 of `subjects` in turn.
    ///
    /// # Errors
    ///
    /// When Redis cannot be reached, or a place is refused.
    pub(super) async fn book(&self, limiter: &Limiter, subjects: &[Subject]) -> Result<Vec<Place>> {
        let brim = ENTRIES * UNIT;
        let missing = brim.saturating_sub(self.used().await?);
        if missing > 0 {
            self.charge(missing).await?;
        }
        let askers: Vec<_> = subjects.iter().cycle().take(PLACES).collect();
        let places = take_places(limiter, &askers, &Cost::images(PLACE_IMAGES)).await?;
        ensure!(places.len() == PLACES, "only {} of {PLACES} calls had to wait in line", places.len());
        Ok(places)
    }

    /// The cost of a call that does not fit before all the bookings.
    pub(super) fn small_booking(&self) -> Cost {
        Cost::images(2 * self.slack)
    }

    /// How many of them have room behind the bookings: at most a fourth of `calls`, as they are dear.
    pub(super) fn small_bookings(&self, calls: usize) -> usize {
        (calls / 4).min(usize::try_from(ROOM * UNIT / (2 * self.slack)).unwrap_or(usize::MAX))
    }

    /// Whom no user limit holds.
    fn subject(&self) -> Subject {
        Subject::org(self.org.as_str())
    }

    async fn charge(&self, images: u64) -> Result<()> {
        // Denied means that an entry came in between, and that the org is full.
        let _: Outcome = self.limiter.try_acquire(&self.subject(), Cost::images(images)).await?;
        Ok(())
    }

    async fn used(&self) -> Result<u64> {
        let limits = match self.limiter.peek(&self.subject(), Cost::new()).await? {
            Decision::Allowed(limits) => limits,
            Decision::Denied(denial) => denial.limits,
        };
        let counts_images = |status: &&LimitStatus| status.resource == Resource::Images;
        Ok(limits.iter().find(counts_images).context("the org has a limit on images")?.used)
    }
}

/// Takes `calls` places of `cost` in waves, as many at a time as other cases have calls in flight, and adds them to `places`.
///
/// A place does not say when it is booked. So each wave is followed by a call that is admitted at once, on the same connection, whose answer
/// comes after theirs; the time of a place is the time of its wave.
///
/// # Errors
///
/// When a call fails, or is admitted at once.
pub(super) async fn booked(
    limiter: &Limiter,
    subjects: &[Subject],
    cost: &Cost,
    calls: usize,
    places: &mut Vec<Place>,
) -> Result<Slice> {
    let (started_at, mut waits) = (Instant::now(), Vec::with_capacity(calls));
    let mut askers = subjects.iter().cycle();
    for _ in 0..waves(calls) {
        let wave: Vec<_> = askers.by_ref().take(CALLERS.min(calls - waits.len())).collect();
        let asked_at = Instant::now();
        let mut taken = take_places(limiter, &wave, cost).await?;
        ensure!(taken.len() == wave.len(), "a call was admitted where all should wait in line");
        places.append(&mut taken);
        waits.resize(waits.len() + wave.len(), asked_at.elapsed());
    }
    Ok(Slice::new(started_at.elapsed(), waits))
}

/// How many waves `calls` bookings take.
pub(super) fn waves(calls: usize) -> usize {
    calls.div_ceil(CALLERS)
}

/// Asks for a place per asker, at the same time, and returns those that have to wait.
///
/// Each is polled once to ask and once to learn the answer. Polled for longer, places would ask whether they can move up.
async fn take_places(limiter: &Limiter, askers: &[&Subject], cost: &Cost) -> Result<Vec<Place>> {
    let mut asked: Vec<Place> = askers.iter().map(|asker| place(limiter, asker, cost)).collect();
    poll_each(&mut asked).await?;
    let _ = limiter.try_acquire(askers.first().context("nobody asks")?, Cost::new()).await?;
    poll_each(&mut asked).await?;
    Ok(asked)
}

/// Polls each place once, and keeps those that still wait.
async fn poll_each(places: &mut Vec<Place>) -> Result<()> {
    let once = |context: &mut TaskContext<'_>| {
        let mut refused = None;
        places.retain_mut(|place| match place.as_mut().poll(context) {
            Poll::Pending => true,
            Poll::Ready(answer) => {
                refused = refused.take().or(answer.err());
                false
            }
        });
        Poll::Ready(refused)
    };
    match poll_fn(once).await {
        Some(error) => Err(error).context("a place in line was refused"),
        None => Ok(()),
    }
}

fn place(limiter: &Limiter, asker: &Subject, cost: &Cost) -> Place {
    let (limiter, asker, cost) = (limiter.clone(), asker.clone(), cost.clone());
    Box::pin(async move { limiter.acquire(&asker, cost).max_wait(2 * WINDOW).await })
}

fn limit(slack: u64) -> u64 {
    ENTRIES * UNIT + slack
}

fn policy(slack: u64) -> Policy {
    Policy::new().limit(three(org()).images(limit(slack)).window(WINDOW)).limit(three(user()))
}

/// Keeps the org full: one entry at a time, never two so near that they would be folded together.
async fn fill(limiter: Limiter, subject: Subject) {
    let mut ticks = interval(WINDOW.div_f64(ENTRIES as f64));
    // A late entry does not delay the next: two neighbours keep their distance.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    ticks.tick().await;
    loop {
        ticks.tick().await;
        // A denial means it is full. A failure will show in the case, which talks to the same server.
        let _ = limiter.try_acquire(&subject, Cost::images(UNIT)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bookings_neither_fit_at_once_nor_outgrow_the_window() {
        let places = PLACES as u64 * PLACE_IMAGES;
        for calls in [500, 20_000, 1_000_000] {
            let slack = 10 * calls as u64;
            assert!(PLACE_IMAGES > UNIT + slack, "a place does not fit while one entry is missing");
            assert!(places + (ROOM + MISSING) * UNIT <= ENTRIES * UNIT, "all start before the last entries have left");
            assert!(limit(slack) <= Cost::AMOUNT_MAX);
        }
        assert_eq!(waves(1), 1);
        assert_eq!(waves(CALLERS), 1);
        assert_eq!(waves(CALLERS + 1), 2);
    }
}
