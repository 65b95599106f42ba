//! The play: processes take all slots, die, and others take the slots over; one is stopped for too long.
//!
//! Invariant: what is judged was seen from outside, by asking for slots. Of the store's own account only the leases that are live at once
//! are taken, and they are counted a second time where their holders can tell.

use std::time::Duration;

use allotment::{Lease, Permit};
use anyhow::{Context, Result};
use tokio::time::Instant;

use super::{
    holders::Holders,
    signal::Signal,
    slots::{Slots, Terms, live, tokens},
};
use crate::{demo::report::table::counted, output::note_line};

/// Between two asks where no slot is free.
const PACE: Duration = Duration::from_millis(20);
/// Calls that are asked for at the same time where some are free.
const AT_ONCE: usize = 64;
/// How long slots are waited for, beyond a lease.
const PATIENCE: Duration = Duration::from_secs(15);

/// What was seen.
pub(super) struct Seen {
    /// Slots that the holders took at first.
    pub(super) held: u64,
    /// How long they held them before they were killed.
    pub(super) alive: Duration,
    /// Whether nobody else got one in that time.
    pub(super) full_while_alive: bool,
    /// The most leases that were live at once.
    pub(super) most_live: u64,
    /// From the kill to the first slot that was free, and to the last; `None` if it did not come.
    pub(super) first_back: Option<Duration>,
    pub(super) all_back: Option<Duration>,
    /// Whether each token was larger than those of the dead, and of the stopped, before it; `None` if no slot came back.
    pub(super) tokens_grew: Option<bool>,
    /// Whether the resumed process knew that its lease was lost, and its commit was refused; `None` if nobody took its slot in time.
    pub(super) zombie_refused: Option<bool>,
}

/// What came of a process whose slot was taken while it was stopped.
struct Outlived {
    refused: bool,
    /// Whether the token of who took it was larger.
    token_grew: bool,
}

/// A play under way: the slots that this process holds.
struct Play {
    terms: Terms,
    slots: Slots,
    /// What this process was given.
    held: Vec<Permit>,
    most_live: u64,
}

/// Plays all of it, in about three leases.
pub(super) async fn play(terms: Terms, processes: usize) -> Result<Seen> {
    let slots = terms.slots()?;
    slots.ready().await?;
    let mut play = Play { terms, slots, held: Vec::new(), most_live: 0 };
    let seen = play.all(processes).await?;
    play.held.clear();
    play.slots.shutdown().await;
    Ok(seen)
}

impl Play {
    async fn all(&mut self, processes: usize) -> Result<Seen> {
        let calls = usize::try_from(self.terms.slots)?;
        let mut holders = Holders::start(&self.terms, processes, calls).await?;
        self.most_live = holders.most_live;
        let held = holders.tokens.len() as u64;
        // A heartbeat has renewed every lease by then, or they are gone.
        let alive = self.terms.lease.mul_f64(1.25);
        let (holding, taken) = (counted(processes as u64, "process", "processes"), counted(held, "slot", "slots"));
        note_line(&format!("held by {holding}: {taken}; for {:.1} s others ask for one", alive.as_secs_f64()));
        let full_while_alive = self.ask_beside(&mut holders, alive).await?;

        let dead_token = holders.tokens.iter().copied().max();
        note_line(&format!("kill -9 of {holding}; others ask for their slots"));
        let killed = Instant::now();
        holders.kill().await?;
        let first_back = self.ask_until(1, killed).await?;
        let all_back = self.ask_until(calls, killed).await?;
        let mut tokens_grew = tokens(&self.held).into_iter().min().map(|token| Some(token) > dead_token);

        let mut zombie_refused = None;
        if all_back.is_some()
            && let Some(outlived) = self.outlive_one().await?
        {
            zombie_refused = Some(outlived.refused);
            tokens_grew = tokens_grew.map(|grew| grew && outlived.token_grew);
        }
        let most_live = self.most_live;
        Ok(Seen { held, alive, full_while_alive, most_live, first_back, all_back, tokens_grew, zombie_refused })
    }

    /// Whether nobody else gets a slot for so long while these processes live.
    async fn ask_beside(&mut self, holders: &mut Holders, alive: Duration) -> Result<bool> {
        let until = Instant::now() + alive;
        let mut full = true;
        while Instant::now() < until {
            full &= self.ask(1).await? == 0;
            tokio::time::sleep(PACE).await;
        }
        // They tell after the asking: a lease that is live now was live all the time, beside those that were given.
        self.witness(holders.look().await?);
        for permit in self.held.drain(..) {
            let _ = permit.release().await;
        }
        Ok(full)
    }

    /// Asks until this process holds so many slots. How long that was after `since`, or `None` if it took too long.
    async fn ask_until(&mut self, calls: usize, since: Instant) -> Result<Option<Duration>> {
        let mut given = self.held.len();
        while self.held.len() < calls {
            if since.elapsed() > self.terms.lease + PATIENCE {
                return Ok(None);
            }
            if given == 0 {
                tokio::time::sleep(PACE).await;
            }
            // A lease that is free is mostly not alone.
            let asked = if given == 0 { 1 } else { AT_ONCE.min(calls - self.held.len()) };
            given = self.ask(asked).await?;
        }
        Ok(Some(since.elapsed()))
    }

    /// Stops a process that holds a slot until this one has it, and resumes it. `None` if that took too long.
    async fn outlive_one(&mut self) -> Result<Option<Outlived>> {
        let calls = self.held.len();
        let spare = self.held.pop().context("no slot to give")?;
        // Lost or not, its slot is free then.
        let _ = spare.release().await;
        let zombie = Holders::start(&self.terms, 1, 1).await?;
        self.most_live = self.most_live.max(zombie.most_live);
        let Some(token) = zombie.tokens.first().copied() else { return Ok(None) };
        note_line("one more process holds a slot, and is stopped until another has it");
        zombie.signal(Signal::Stop)?;
        let taken = self.ask_until(calls, Instant::now()).await?;
        zombie.signal(Signal::Resume)?;
        let ended = zombie.end().await?;
        self.witness(ended.live);
        let token_grew = tokens(&self.held).last().is_some_and(|heir| *heir > token);
        let refused = ended.live == 0 && ended.committed == 0 && ended.lost == 1;
        Ok(taken.map(|_| Outlived { refused, token_grew }))
    }

    /// Asks for so many calls at once and keeps what is given, and of all that is kept what is live still. How many were given.
    ///
    /// On a busy host the leases of this process may expire too: they must not be taken for those of others.
    async fn ask(&mut self, calls: usize) -> Result<usize> {
        let answers = self.slots.ask(calls).await?;
        let given = answers.permits.len();
        self.held.extend(answers.permits);
        self.held.retain(|permit| permit.lease().is_some_and(Lease::is_live));
        self.most_live = self.most_live.max(answers.most_live);
        Ok(given)
    }

    /// Counts the leases that are live for certain: those of this process and so many of others.
    fn witness(&mut self, others: u64) {
        self.most_live = self.most_live.max(others + live(&self.held));
    }
}
