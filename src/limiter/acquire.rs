//! Waiting in line.
//!
//! Invariant: nobody starts before the promised place, a place never moves back, and a waiter that is dropped gives its place back. One
//! exception: a place inside a cool-down is given up, as nobody may start there, and asked for anew after its end. Others may be before it then.
//! There is no polling for admission, except for a slot and over a cool-down, as nobody tells when a call of another process ends or an operator
//! lifts a pause: a waiter sleeps until its place, and asks at a bounded pace whether it has moved up.

use std::{
    future::{Future, IntoFuture},
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use tokio::sync::Notify;
use tracing::Instrument;

use crate::{
    calendar::PARTS,
    clock::{Clock, millis, wait_until},
    cost::Cost,
    decision::{Reason, Retry},
    dispatch::{PACE_MS_MIN, Unclaimed},
    error::Error,
    failure::RETRY,
    limiter::{Asked, Asking, CHANGES_MAX, Limiter, Outcome},
    permit::Permit,
    store::{Answer, ReservationId, Verdict},
    subject::Subject,
    telemetry::{self, Verb},
};

/// A place that has passed by more than this without an answer is given back and booked anew.
const PASSED_MS_MAX: u64 = 250;

/// Who waits over a cool-down looks this often whether it has been lifted.
const COOL_DOWN_LOOK: Duration = Duration::from_secs(10);
/// The longest that one starts later than another after a cool-down, so that not all start at one instant.
const JITTER_MAX: Duration = Duration::from_secs(1);

/// A call that waits in line: see [`Limiter::acquire`]. Nothing happens until it is awaited.
///
/// # Cancel safety
///
/// Dropping the future gives the place or the charge back.
#[derive(Debug)]
#[must_use = "nothing is acquired until it is awaited"]
pub struct Acquire {
    limiter: Limiter,
    subject: Subject,
    cost: Cost,
    max_wait: Option<Duration>,
}

impl Acquire {
    pub(crate) fn new(limiter: Limiter, subject: Subject, cost: Cost) -> Self {
        Self { limiter, subject, cost, max_wait: None }
    }

    /// Waits at most this long; denied at once if no place within it can be had. Default: as long as it takes.
    pub fn max_wait(mut self, max_wait: Duration) -> Self {
        self.max_wait = Some(max_wait);
        self
    }

    async fn wait(self) -> Result<Permit, Error> {
        let started_ms = self.limiter.clock().now_ms();
        let permit = self.wait_in_line(started_ms).await;
        match &permit {
            Ok(_) => {
                telemetry::admitted();
                let waited = self.limiter.clock().now_ms().saturating_sub(started_ms);
                telemetry::waited(Duration::from_millis(waited).as_secs_f64());
            }
            Err(error) => match error.denial() {
                Some(denial) => telemetry::denied(denial),
                None => telemetry::undecided(error),
            },
        }
        permit
    }

    async fn wait_in_line(&self, started_ms: u64) -> Result<Permit, Error> {
        let clock = self.limiter.clock();
        let mut asking = self.limiter.ask(&self.subject, self.cost.clone()).await?;
        loop {
            let waited_ms = clock.now_ms().saturating_sub(started_ms);
            let max_wait_ms =
                self.max_wait.map_or(u64::MAX >> 16, |max_wait| millis(max_wait).saturating_sub(waited_ms));
            let Asked { outcome, answer, unclaimed } = asking.decide(max_wait_ms).await?;
            match (outcome, answer, unclaimed) {
                (Outcome::Admitted(permit), Some(answer), Some(unclaimed)) => {
                    let waiting = Waiting { made_at: answer.now, lost_at: asking.plan.lost_at(), unclaimed };
                    if let Some(permit) = waiting.until_due(&mut asking, clock, answer, permit).await? {
                        return Ok(permit);
                    }
                    asking.take_new_id();
                }
                (Outcome::Admitted(permit), ..) => return Ok(permit),
                (Outcome::Denied(denial), _, unclaimed) => {
                    if let Some(unclaimed) = unclaimed {
                        unclaimed.claim();
                    }
                    match denial.retry {
                        Retry::Estimate(pause) if denial.reason == Reason::CoolDown && millis(pause) <= max_wait_ms => {
                            let pause = pause.min(COOL_DOWN_LOOK) + jitter(pause, asking.id);
                            clock.sleep(pause.min(Duration::from_millis(max_wait_ms))).await;
                        }
                        Retry::AskAgainAfter(pause) if millis(pause) <= max_wait_ms => clock.sleep(pause).await,
                        // without the store no place is promised; soon it may answer, and is asked first
                        Retry::Estimate(pause)
                            if denial.degraded.is_some()
                                && may_change(&denial.reason)
                                && millis(pause) <= max_wait_ms =>
                        {
                            clock.sleep(pause.min(RETRY)).await;
                        }
                        _ => return Err(denial.into()),
                    }
                }
            }
        }
    }
}

impl IntoFuture for Acquire {
    type Output = Result<Permit, Error>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        let span = telemetry::verb_span(Verb::Acquire);
        Box::pin(self.wait().instrument(span))
    }
}

/// A place in line that is waited for.
struct Waiting {
    unclaimed: Unclaimed,
    made_at: u64,
    /// The loss of data that its place was booked after.
    lost_at: u64,
}

impl Waiting {
    /// Sleeps until the place, moving up when others make room. `None`: the place passed while the store did not answer, or its data were
    /// lost, and it was given back.
    async fn until_due(
        self,
        asking: &mut Asking<'_>,
        clock: &Clock,
        answer: Answer,
        mut permit: Permit,
    ) -> Result<Option<Permit>, Error> {
        let arrived_ms = clock.now_ms();
        let mut place = permit.at_ms();
        if place <= answer.now {
            self.unclaimed.claim();
            return Ok(Some(permit));
        }
        telemetry::booked();
        let mut due_ms = arrived_ms + (place - answer.now);
        let pace_ms = pace_ms(asking, due_ms - arrived_ms);
        // waiters ask at different instants, so that room that others give back is soon taken up; those that ask while a call is in
        // flight go together in the next
        let phase = u64::from(asking.id.0[15]) + 1;
        let (mut asked_ms, mut ask_ms) = (arrived_ms, arrived_ms + (pace_ms * phase).div_ceil(256));
        let (mut confirmed, mut answered_ms) = (true, arrived_ms);
        let wake = Arc::new(Notify::new());
        let mut in_line = asking.dispatch.wait_in_line(&asking.org, asking.id, place, &wake);
        loop {
            let now_ms = clock.now_ms();
            if now_ms >= due_ms && confirmed {
                // another is the first in line now
                drop(in_line);
                asking.dispatch.nudge(&asking.org);
                // what the store said just now need not be asked again
                if asking.plan.takes_slots() || now_ms >= answered_ms + PACE_MS_MIN {
                    match self.start(asking, clock, place).await? {
                        Start::Now(started) => permit = *started,
                        Start::Unconfirmed => {}
                        Start::Lost => return Ok(None),
                    }
                }
                self.unclaimed.claim();
                return Ok(Some(permit));
            }
            if now_ms > due_ms + PASSED_MS_MAX {
                return Ok(None);
            }
            // nobody starts on a place that is not known: asked for at `ask_ms`, whatever the due time
            let next_ms = if confirmed { ask_ms.min(due_ms) } else { ask_ms };
            tokio::select! {
                () = clock.sleep(wait_until(next_ms, now_ms)) => if confirmed && ask_ms >= due_ms { continue },
                () = wake.notified() => {
                    ask_ms = ask_ms.min(asked_ms + PACE_MS_MIN);
                    if clock.now_ms() < ask_ms { continue }
                }
            }
            asked_ms = clock.now_ms();
            ask_ms = asked_ms + pace_ms;
            if asking.plan.is_growing() {
                // by the amounts of now there may be room earlier
                asking.regrow()?;
            }
            if self.is_lost(asking) {
                return Ok(None);
            }
            let mut request = asking.plan.acquire_request(asking.id, u64::MAX >> 16);
            // by amounts below the cost, or while it cools down, it keeps its place, and that is all
            let has_room = asking.plan.never().is_none() && !asking.plan.is_held() && !asking.plan.is_refused();
            (request.moves_up, request.repeats) = (has_room, true);
            // those are taken when it starts
            request.slots.clear();
            match asking.dispatch.acquire(&asking.org, request).await {
                Ok(answer @ Answer { verdict: Verdict::Admitted { at }, now, .. }) => {
                    if !confirmed && now > at + PASSED_MS_MAX {
                        return Ok(None);
                    }
                    (confirmed, answered_ms) = (true, clock.now_ms());
                    place = place.min(at);
                    due_ms = clock.now_ms() + place.saturating_sub(now);
                    in_line.asked(place, clock.now_ms());
                    permit = asking.permit(&answer, place, self.made_at, asked_ms);
                }
                Ok(Answer { verdict: Verdict::Stale, now, .. }) => {
                    if self.learn(asking, now, place).await? == Standing::Lost {
                        return Ok(None);
                    }
                    ask_ms = clock.now_ms();
                }
                Ok(_) => return Ok(None),
                Err(error) if error.is_retryable() => {
                    confirmed = false;
                    // soon again, whatever the pace
                    ask_ms = clock.now_ms() + PACE_MS_MIN;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// The call's place has come: it takes its slots, and learns of a block. Should the store not answer, a place that needs no slot is kept,
    /// and one that does is given up.
    async fn start(&self, asking: &mut Asking<'_>, clock: &Clock, place: u64) -> Result<Start, Error> {
        for _ in 0..CHANGES_MAX {
            if self.is_lost(asking) {
                return Ok(Start::Lost);
            }
            let (sent_ms, mut request) = (clock.now_ms(), asking.plan.acquire_request(asking.id, 0));
            (request.lease_ms, request.repeats) = (asking.dispatch.leases.lease_ms, true);
            let answer = match asking.dispatch.acquire(&asking.org, request).await {
                Err(error) if error.is_retryable() => {
                    // who gives its place up asks anew, and the failure policy decides if need be
                    return Ok(if asking.plan.takes_slots() { Start::Lost } else { Start::Unconfirmed });
                }
                answer => answer?,
            };
            match answer.verdict {
                Verdict::Admitted { at } => {
                    let permit = asking.permit(&answer, at, self.made_at, sent_ms);
                    return Ok(Start::Now(Box::new(permit)));
                }
                Verdict::Stale if self.learn(asking, answer.now, place).await? == Standing::Kept => {}
                _ => return Ok(Start::Lost),
            }
        }
        Ok(Start::Lost)
    }

    /// Whether the place was booked before a loss of data that the plan goes by.
    fn is_lost(&self, asking: &Asking<'_>) -> bool {
        ![0, self.lost_at].contains(&asking.plan.lost_at())
    }

    /// The controls of the org have changed: a block refuses the place, a cool-down that it comes inside of takes it away, and all else binds
    /// new callers only.
    async fn learn(&self, asking: &mut Asking<'_>, now: u64, place: u64) -> Result<Standing, Error> {
        asking.plan_anew().await?;
        match asking.plan.denial_refused(now).filter(|_| asking.plan.is_blocked()) {
            Some(blocked) => Err(blocked.into()),
            None if asking.plan.cools_down_at(place) => Ok(Standing::Lost),
            None => Ok(Standing::Kept),
        }
    }
}

/// Whether a denial without the store is one that waiting mends.
fn may_change(reason: &Reason) -> bool {
    !matches!(reason, Reason::Blocked { .. })
}

/// How much later than the end of a cool-down one call starts than another: up to a quarter of what is left of it.
fn jitter(left: Duration, id: ReservationId) -> Duration {
    // the last byte of the counter in an id: those made one after the other differ
    (left / 4).min(JITTER_MAX) * u32::from(id.0[11]) / 256
}

/// Whether a place is still there after controls have changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    Kept,
    Lost,
}

/// What came of starting on a place.
enum Start {
    Now(Box<Permit>),
    /// The store did not answer.
    Unconfirmed,
    /// No slot is free, or nobody says so, or the place is not known any more.
    Lost,
}

/// A 64th of the shortest window that covers the wait: a place that far ahead was set by a ledger of at least that window.
fn pace_ms(asking: &Asking<'_>, wait_ms: u64) -> u64 {
    let windows = || asking.plan.asks().map(|(window_ms, _)| window_ms);
    let covering = windows().filter(|window_ms| *window_ms >= wait_ms).min();
    let window_ms = covering.or_else(|| windows().max()).unwrap_or(0);
    (window_ms / PARTS).max(PACE_MS_MIN)
}
