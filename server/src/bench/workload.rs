//! One slice of one case: set up outside the timed part, run inside it, given back after it.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use allotment::{Admin, Control, Cost, Limiter, Outcome, Permit, Policy, Subject};
use anyhow::{Context, Result, bail, ensure};

use super::{
    Bench,
    case::{Action, Case, one_image_used},
    drive::{CALLERS, Slice, drive, user_of},
    line::{self, Line, Place},
    probe::{ANSWER_MAX, Measured, Probe},
};

/// The callers of a coalesced case, and the most requests of one of its script calls.
const COALESCED: usize = 64;
/// The calls that make a user busy before the first slice: well past the 32 that a ledger keeps as they are.
const BUSY_CALLS: usize = 64;

/// Users who are blocked, and for how long.
const BLOCKED: usize = 10;
const BLOCKED_FOR: Duration = Duration::from_secs(15 * 60);

/// A case that is ready to run.
pub(super) struct Workload {
    limiter: Limiter,
    subjects: Arc<[Subject]>,
    cost: Cost,
    callers: usize,
    calls: usize,
    action: Action,
    /// Permits to commit, for a case that settles.
    permits: Vec<Permit>,
    /// Places that stay booked during the slice.
    places: Vec<Place>,
}

impl Workload {
    /// Sets `case` up for `calls` calls; `first` fills what later slices find filled.
    ///
    /// # Errors
    ///
    /// When Redis cannot be reached, or denies what the case needs.
    pub(super) async fn prepare(
        bench: &Bench,
        case: Case,
        line: Option<&Line>,
        calls: usize,
        first: bool,
    ) -> Result<Self> {
        let policy = line.map_or_else(|| case.policy(), Line::policy);
        let subjects = subjects(&bench.scratch.org(case.name()), case.users(bench.args.users));
        if first && line.is_none() {
            let calls = if case == Case::BusyUser { BUSY_CALLS } else { 1 };
            call_each(bench.limiter(policy.clone(), COALESCED)?, &subjects, &case.cost(), calls).await?;
        }
        if case == Case::SixBlocked {
            block_others(&bench.limiter(policy.clone(), 1)?, &subjects).await?;
        }
        let batch_max = if case.is_coalesced() { COALESCED } else { 1 };
        let limiter = bench.limiter(policy, batch_max)?;
        let mut workload = Self {
            subjects,
            cost: case.cost(),
            callers: if case.is_coalesced() { COALESCED } else { CALLERS },
            calls,
            action: case.action(),
            permits: Vec::new(),
            places: Vec::new(),
            limiter,
        };
        // The slice finds the connection open.
        let _ = workload.limiter.peek(&workload.subjects[0], workload.cost.clone()).await?;
        workload.set_up(case, line).await?;
        Ok(workload)
    }

    async fn set_up(&mut self, case: Case, line: Option<&Line>) -> Result<()> {
        if self.action == Action::Settle {
            self.permits = self.admitted().await?;
        }
        let Some(line) = line else { return Ok(()) };
        match case {
            Case::SixLongDenial => self.cost = line.long_denial().await?,
            Case::Booking => {
                self.places = line.book(&self.limiter, &self.subjects).await?;
                self.cost = line.small_booking();
                self.calls = line.small_bookings(self.calls);
            }
            _ => self.places = line.book(&self.limiter, &self.subjects).await?,
        }
        Ok(())
    }

    /// As many permits as the slice has calls.
    async fn admitted(&self) -> Result<Vec<Permit>> {
        let permits = Arc::new(Mutex::new(Vec::with_capacity(self.calls)));
        let (asker, taken) = (self.asker(), Arc::clone(&permits));
        drive(self.callers, self.calls, move |number| {
            let (asker, taken) = (asker.clone(), Arc::clone(&taken));
            async move {
                let permit = asker.ask(number).await?.context("a call that sets the case up was denied")?;
                taken.lock().unwrap_or_else(PoisonError::into_inner).push(permit);
                Ok(())
            }
        })
        .await?;
        let mut permits = permits.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(std::mem::take(&mut *permits))
    }

    /// Runs the slice, then gives back what it booked.
    ///
    /// # Errors
    ///
    /// When a call fails, or is answered otherwise than the case is there to measure.
    pub(super) async fn measure(mut self, probe: &mut Probe) -> Result<Measured> {
        let measured = match self.action {
            Action::Admit | Action::Deny => probe.measure(self.asked()).await?,
            Action::Settle => {
                let permits = std::mem::take(&mut self.permits);
                probe.measure(self.settled(permits)).await?
            }
            Action::Book => {
                let mut measured = probe
                    .measure(line::booked(&self.limiter, &self.subjects, &self.cost, self.calls, &mut self.places))
                    .await?;
                // The call behind each wave is no place in line.
                measured.script_calls = measured.script_calls.saturating_sub(line::waves(self.calls) as u64);
                measured
            }
        };
        self.give_back(probe).await?;
        Ok(measured)
    }

    /// Gives the places back and closes the limiter.
    async fn give_back(mut self, probe: &mut Probe) -> Result<()> {
        let places = self.places.len() as u64;
        let before = probe.script_calls().await?;
        self.places.clear();
        self.limiter.shutdown().await;
        // Only what was booked is given back: a call that was told to ask again later waits too, but has no place.
        let released = probe.script_calls().await?.saturating_sub(before);
        ensure!(released >= places, "only {released} of {places} calls that wait in line were booked");
        Ok(())
    }

    async fn asked(&self) -> Result<Slice> {
        let (asker, admit) = (self.asker(), self.action == Action::Admit);
        drive(self.callers, self.calls, move |number| {
            let asker = asker.clone();
            async move {
                match asker.ask(number).await? {
                    Some(_) if !admit => bail!("a call was admitted where all should be denied"),
                    None if admit => bail!("a call was denied where all should be admitted"),
                    _ => Ok(()),
                }
            }
        })
        .await
    }

    async fn settled(&self, permits: Vec<Permit>) -> Result<Slice> {
        let permits = Arc::new(Mutex::new(permits));
        drive(self.callers, self.calls, move |_| {
            let permit = permits.lock().unwrap_or_else(PoisonError::into_inner).pop();
            async move { Ok(permit.context("a permit per commit")?.commit(one_image_used()).await?) }
        })
        .await
    }

    fn asker(&self) -> Asker {
        Asker { limiter: self.limiter.clone(), subjects: Arc::clone(&self.subjects), cost: self.cost.clone() }
    }
}

impl Bench {
    /// A limiter with a connection of its own that patiently waits for answers.
    ///
    /// # Errors
    ///
    /// When the library refuses the URL or the policy.
    pub(super) fn limiter(&self, policy: Policy, batch_max: usize) -> Result<Limiter> {
        let builder = Limiter::builder().redis(self.args.redis.clone()).policy(policy);
        Ok(builder.deadline(ANSWER_MAX).batch_max(batch_max).build()?)
    }
}

/// What the callers of a slice share.
#[derive(Clone)]
struct Asker {
    limiter: Limiter,
    subjects: Arc<[Subject]>,
    cost: Cost,
}

impl Asker {
    async fn ask(&self, number: usize) -> Result<Option<Permit>> {
        let subject = &self.subjects[user_of(number, self.subjects.len())];
        Ok(match self.limiter.try_acquire(subject, self.cost.clone()).await? {
            Outcome::Admitted(permit) => Some(permit),
            Outcome::Denied(_) => None,
        })
    }
}

/// Blocks users who do not call, so that every decision looks for the version of the controls.
async fn block_others(limiter: &Limiter, subjects: &[Subject]) -> Result<()> {
    let org = subjects.first().and_then(|subject| subject.value("org")).context("a case without subjects")?;
    let admin = Admin::new(limiter, "allotment bench")?;
    for other in 0..BLOCKED {
        let block = Control::block().on("user", format!("blocked-{other}")).lasting(BLOCKED_FOR);
        admin.apply(org, &block).await?;
    }
    limiter.shutdown().await;
    Ok(())
}

/// The first `users` users of `org`.
pub(super) fn subjects(org: &str, users: u32) -> Arc<[Subject]> {
    (0..users).map(|user| Subject::org(org).user(format!("u{user}")).model("gpt-image-2")).collect()
}

/// Makes `calls` calls of each subject, all of which must be admitted, and closes the limiter.
///
/// # Errors
///
/// When a call fails or is denied.
pub(super) async fn call_each(limiter: Limiter, subjects: &Arc<[Subject]>, cost: &Cost, calls: usize) -> Result<()> {
    let (asking, subjects, cost) = (limiter.clone(), Arc::clone(subjects), cost.clone());
    let count = subjects.len() * calls;
    drive(COALESCED, count, move |number| {
        let (limiter, subjects, cost) = (asking.clone(), Arc::clone(&subjects), cost.clone());
        async move {
            match limiter.try_acquire(&subjects[number % subjects.len()], cost).await? {
                Outcome::Admitted(_) => Ok(()),
                Outcome::Denied(denial) => bail!("a call that sets the case up was denied: {denial}"),
            }
        }
    })
    .await?;
    limiter.shutdown().await;
    Ok(())
}
