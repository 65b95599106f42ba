//! How requests reach the store: coalesced, and cleaned up after when nobody waits for the answer.
//!
//! Invariant: a request that may have been charged and whose caller is gone, or got no answer, is released. The embedded store is called
//! in place.

#[cfg(feature = "redis")]
mod lanes;
mod leases;
mod line;
mod presence;
mod roster;

use std::sync::Arc;
#[cfg(feature = "redis")]
use std::time::Duration;

use tokio::{runtime::Handle, sync::Notify};
use tokio_util::task::TaskTracker;

pub(crate) use self::leases::Beating;
pub(crate) use self::line::{InLine, PACE_MS_MIN};
use self::{leases::Leases, line::Line, presence::Presence, roster::Roster};
use crate::{
    clock::Clock,
    error::{Error, ErrorKind},
    plan::Plan,
    policy::Compiled,
    store::{AcquireRequest, Answer, Notes, ReservationId, SettleRequest, Settled, Store, keyspace::LedgerKey},
    subject::Subject,
};
#[cfg(feature = "redis")]
use crate::{dispatch::lanes::Lanes, telemetry};

/// How often a release in the background is tried, with pauses that double from the first: for about a minute.
#[cfg(feature = "redis")]
const RELEASE_TRIES: u32 = 10;
#[cfg(feature = "redis")]
const RELEASE_PAUSE: Duration = Duration::from_millis(50);

/// The way to the store.
#[derive(Debug)]
pub(crate) struct Dispatch {
    pub(crate) store: Arc<Store>,
    pub(crate) clock: Clock,
    #[cfg(feature = "redis")]
    acquires: Arc<Lanes<AcquireRequest, Answer>>,
    #[cfg(feature = "redis")]
    settles: Arc<Lanes<SettleRequest, Settled>>,
    /// Who waits in this process.
    line: Arc<Line>,
    /// What this process holds of slots.
    pub(crate) leases: Arc<Leases>,
    presence: Presence,
    roster: Roster,
    tasks: TaskTracker,
}

impl Dispatch {
    #[cfg(feature = "redis")]
    pub(crate) fn new(store: Store, clock: Clock, batch_max: usize, lease_ms: u64) -> Arc<Self> {
        let (store, tasks) = (Arc::new(store), TaskTracker::new());
        let leases = Leases::new(Arc::clone(&store), clock.clone(), lease_ms);
        let (to_acquire, to_settle) = (Arc::clone(&store), Arc::clone(&store));
        let acquire = move |org: Arc<str>, requests: Vec<AcquireRequest>| {
            let store = Arc::clone(&to_acquire);
            async move { store.acquire(&org, &requests).await }
        };
        let settle = move |org: Arc<str>, requests: Vec<SettleRequest>| {
            let store = Arc::clone(&to_settle);
            async move { store.settle(&org, &requests).await }
        };
        let acquires = Lanes::new(acquire, batch_max, tasks.clone());
        let settles = Lanes::new(settle, batch_max, tasks.clone());
        let roster = Roster::new(&store, clock.clone(), &tasks);
        Arc::new(Self {
            store,
            clock,
            acquires,
            settles,
            line: Arc::default(),
            leases,
            presence: Presence::default(),
            roster,
            tasks,
        })
    }

    #[cfg(not(feature = "redis"))]
    pub(crate) fn new(store: Store, clock: Clock, _batch_max: usize, lease_ms: u64) -> Arc<Self> {
        let (store, tasks) = (Arc::new(store), TaskTracker::new());
        let leases = Leases::new(Arc::clone(&store), clock.clone(), lease_ms);
        let (presence, roster) = (Presence::default(), Roster::new(&store, clock.clone(), &tasks));
        Arc::new(Self { store, clock, line: Arc::default(), leases, presence, roster, tasks })
    }

    /// Decides a request. One round trip.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Timeout`] past the deadline, also where the request has waited behind another for most of it. It may be sent still:
    /// whoever asked gives it back.
    pub(crate) async fn acquire(&self, org: &Arc<str>, request: AcquireRequest) -> Result<Answer, Error> {
        match &*self.store {
            Store::Memory(store) => store.acquire(org, &[request]).pop().unwrap_or_else(|| Err(no_answer())),
            #[cfg(feature = "redis")]
            Store::Redis(store) => within(store.deadline(), self.acquires.send(org, request)).await,
        }
    }

    /// Settles a reservation, and lets the waiters of this process know of what it gave back. One round trip.
    ///
    /// # Cancel safety
    ///
    /// Once polled, the request goes to the store even if the future is dropped.
    pub(crate) async fn settle(&self, org: &Arc<str>, request: SettleRequest) -> Result<Settled, Error> {
        let gives_back = request.gives_back();
        let settled = match &*self.store {
            Store::Memory(store) => store.settle(org, &[request]).pop().unwrap_or_else(|| Err(no_answer())),
            #[cfg(feature = "redis")]
            Store::Redis(store) => within(store.deadline(), self.settles.send(org, request)).await,
        };
        if gives_back && matches!(settled, Ok(Settled::Now)) {
            self.nudge(org);
        }
        settled
    }

    /// What pools that are shared fairly should note of who asks; `window_ms` is the shortest of theirs.
    pub(crate) fn notes(&self, org: &str, user: &str, pools: Vec<&LedgerKey>, window_ms: u64) -> Notes {
        self.presence.note((org, user, pools), window_ms, self.clock.now_ms())
    }

    /// A call of this subject was admitted: operators are to see it listed.
    pub(crate) fn list(&self, org: &Arc<str>, subject: &Subject, policy: &Compiled) {
        self.roster.note(org, subject, &policy.attributes, policy.longest_ms);
    }

    /// Takes a place in line; `wake` is notified when there may be a better one.
    pub(crate) fn wait_in_line(&self, org: &Arc<str>, id: ReservationId, place: u64, wake: &Arc<Notify>) -> InLine {
        self.line.join(org, id, place, wake, self.clock.now_ms())
    }

    /// There may be room: the earliest waiter of this process asks for it.
    pub(crate) fn nudge(&self, org: &str) {
        self.line.nudge(org, self.clock.now_ms());
    }

    /// Waits until what is under way, releases in the background included, has been answered.
    pub(crate) async fn drain(&self) {
        self.roster.close();
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Settles in the background, as far as there is one.
    pub(crate) fn give_back(self: &Arc<Self>, org: &Arc<str>, request: SettleRequest, runtime: Option<&Handle>) {
        match (&*self.store, runtime) {
            (Store::Memory(store), _) => {
                drop(store.settle(org, &[request]));
                self.nudge(org);
            }
            #[cfg(feature = "redis")]
            (Store::Redis(_), Some(runtime)) => self.release_in_background(org, request, runtime),
            #[cfg(feature = "redis")]
            (Store::Redis(_), None) => {}
        }
    }

    #[cfg(feature = "redis")]
    fn release_in_background(self: &Arc<Self>, org: &Arc<str>, request: SettleRequest, runtime: &Handle) {
        if self.acquires.withdraw(org, |waiting| waiting.id == request.id && !waiting.repeats) {
            return;
        }
        let (dispatch, org) = (Arc::clone(self), Arc::clone(org));
        let release = async move {
            let mut pause = RELEASE_PAUSE;
            for _ in 0..RELEASE_TRIES {
                match dispatch.settle(&org, request.clone()).await {
                    Ok(_) => return telemetry::settled("release"),
                    Err(error) if !error.is_retryable() => break,
                    Err(_) => tokio::time::sleep(pause).await,
                }
                pause *= 2;
            }
            telemetry::settled("error");
        };
        self.tasks.spawn_on(release, runtime);
    }
}

/// A request whose outcome nobody has taken over yet: dropped, it gives its charge back.
#[derive(Debug)]
pub(crate) struct Unclaimed {
    dispatch: Arc<Dispatch>,
    org: Arc<str>,
    plan: Arc<Plan>,
    id: ReservationId,
    runtime: Option<Handle>,
    claimed: bool,
}

impl Unclaimed {
    pub(crate) fn new(dispatch: &Arc<Dispatch>, org: &Arc<str>, plan: &Arc<Plan>, id: ReservationId) -> Self {
        let runtime = match &*dispatch.store {
            Store::Memory(_) => None,
            #[cfg(feature = "redis")]
            Store::Redis(_) => Handle::try_current().ok(),
        };
        let (dispatch, org, plan) = (Arc::clone(dispatch), Arc::clone(org), Arc::clone(plan));
        Self { dispatch, org, plan, id, runtime, claimed: false }
    }

    /// There is nothing to give back, or somebody else will.
    pub(crate) fn claim(mut self) {
        self.claimed = true;
    }
}

impl Drop for Unclaimed {
    fn drop(&mut self) {
        if !self.claimed {
            let release = self.plan.settle_request(self.id, None, None);
            self.dispatch.give_back(&self.org, release, self.runtime.as_ref());
        }
    }
}

/// Waits for the answer of a request that may stand behind another. The store keeps its deadline from when it is asked; a little more is
/// waited here, so that it can say itself why it did not answer.
#[cfg(feature = "redis")]
async fn within<T>(deadline: Duration, answer: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    match tokio::time::timeout(deadline + deadline / 20, answer).await {
        Ok(answer) => answer,
        Err(_) => Err(Error::new(
            ErrorKind::Timeout,
            format!("Redis did not answer within {deadline:?}, the requests before this one included"),
        )),
    }
}

fn no_answer() -> Error {
    Error::new(ErrorKind::Protocol, "the store left a request without an answer")
}
