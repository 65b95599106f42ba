//! Admissions that wait for the store to answer: one task per limiter charges them, many in one call.
//!
//! Invariant: what waits is bounded, and stays until the store was told, it was given back, or its longest window has passed. A call that
//! got no answer is repeated with the same ids and amounts.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{runtime::Handle, sync::Notify};

use super::{
    health::{Health, RETRY},
    posting::Posting,
};
use crate::{
    clock::Clock,
    error::{Error, ErrorKind},
    store::{AcquireRequest, Store, Verdict},
    telemetry,
};

/// The most that wait.
const WAITING_MAX: usize = 100_000;
/// How many of an org are charged in one call.
const BATCH_MAX: usize = 64;
/// How often a batch is sent anew because controls have changed under it, or the data of the org were lost.
const CHANGES_MAX: u32 = 8;
/// How long nothing is tried after a try that failed, though calls of other orgs are answered.
const FAILED_PAUSE: Duration = Duration::from_millis(250);

#[derive(Debug)]
pub(super) struct Postings {
    store: Arc<Store>,
    clock: Clock,
    health: Arc<Health>,
    waiting: Mutex<Waiting>,
    hurry: Notify,
    /// Who tells the store: one at a time.
    turn: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct Waiting {
    by_org: HashMap<Arc<str>, VecDeque<Arc<Posting>>>,
    count: usize,
    /// A task posts.
    is_posted: bool,
    /// Nothing more is taken.
    is_closed: bool,
}

impl Waiting {
    /// Forgets what need not be told any more; says of how many the window has passed.
    fn prune(&mut self, now_ms: u64) -> u64 {
        let mut passed = 0;
        self.by_org.retain(|_, postings| {
            postings.retain(|posting| {
                let late = posting.is_owed() && posting.has_passed(now_ms);
                if late {
                    posting.is_over();
                    passed += 1;
                }
                posting.is_owed()
            });
            !postings.is_empty()
        });
        self.count = self.by_org.values().map(VecDeque::len).sum();
        passed
    }

    /// The first of an org of whom the store is to be told; those before them are forgotten.
    fn first(&mut self, org: &str) -> Vec<Arc<Posting>> {
        let Some(postings) = self.by_org.get_mut(org) else { return Vec::new() };
        while postings.front().is_some_and(|posting| !posting.is_owed()) {
            postings.pop_front();
            self.count -= 1;
        }
        let first: Vec<_> =
            postings.iter().filter(|posting| posting.is_owed()).take(BATCH_MAX).map(Arc::clone).collect();
        if first.is_empty() {
            self.count -= postings.len();
            self.by_org.remove(org);
        }
        first
    }
}

impl Postings {
    pub(super) fn new(store: Arc<Store>, clock: Clock, health: Arc<Health>) -> Arc<Self> {
        let (waiting, hurry, turn) = (Mutex::default(), Notify::new(), tokio::sync::Mutex::default());
        Arc::new(Self { store, clock, health, waiting, hurry, turn })
    }

    pub(super) fn has_room(&self) -> bool {
        self.waiting.lock().count < WAITING_MAX
    }

    /// Keeps an admission until the store is told. `None`: there is no room.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Closed`]: nobody would tell it.
    pub(super) fn remember(self: &Arc<Self>, posting: Arc<Posting>) -> Result<Option<Arc<Posting>>, Error> {
        let mut waiting = self.waiting.lock();
        if waiting.is_closed {
            return Err(Error::new(ErrorKind::Closed, "the limiter has been shut down"));
        }
        if waiting.count >= WAITING_MAX {
            telemetry::posting("forgotten");
            return Ok(None);
        }
        waiting.count += 1;
        waiting.by_org.entry(Arc::clone(&posting.org)).or_default().push_back(Arc::clone(&posting));
        self.start(&mut waiting);
        Ok(Some(posting))
    }

    /// The store answers again.
    pub(super) fn hurry(self: &Arc<Self>) {
        let mut waiting = self.waiting.lock();
        if waiting.by_org.is_empty() {
            drop(waiting);
            self.health.ends(self.clock.now_ms());
        } else {
            self.start(&mut waiting);
            self.hurry.notify_one();
        }
    }

    /// Without a runtime nobody posts: the next call that has one does.
    fn start(self: &Arc<Self>, waiting: &mut Waiting) {
        let Some(runtime) = Handle::try_current().ok().filter(|_| !waiting.is_posted) else { return };
        waiting.is_posted = true;
        let posts = Posts(Arc::clone(self));
        drop(runtime.spawn(async move { posts.0.post_until_done().await }));
    }

    async fn post_until_done(&self) {
        let mut told = false;
        loop {
            tokio::select! {
                () = self.clock.sleep(RETRY) => {}
                () = self.hurry.notified() => {}
            }
            match self.post().await {
                Ok(any) => told |= any,
                Err(_) => {
                    told = false;
                    self.health.fails(self.clock.now_ms());
                    self.clock.sleep(FAILED_PAUSE).await;
                }
            }
            let is_empty = self.waiting.lock().by_org.is_empty();
            if !is_empty || told && !self.health.ends(self.clock.now_ms()) {
                continue;
            }
            let mut waiting = self.waiting.lock();
            if waiting.by_org.is_empty() {
                waiting.is_posted = false;
                return;
            }
        }
    }

    /// Takes nothing more, and charges what waits, once, if the store answers; what does not arrive leaves with its window.
    pub(super) async fn close(&self) {
        self.waiting.lock().is_closed = true;
        if let Err(error) = self.post().await {
            telemetry::unposted(self.waiting.lock().count, &error);
        }
        self.health.ends(self.clock.now_ms());
    }

    /// Tells the store of all that waits; says whether there was anything to tell. What fails for one org keeps nobody else's back: of a
    /// cluster, its node alone may be away.
    async fn post(&self) -> Result<bool, Error> {
        let _turn = self.turn.lock().await;
        let orgs: Vec<Arc<str>> = {
            let mut waiting = self.waiting.lock();
            (0..waiting.prune(self.clock.now_ms())).for_each(|_| telemetry::posting("expired"));
            waiting.by_org.keys().map(Arc::clone).collect()
        };
        let mut failed = None;
        for org in &orgs {
            if let Err(error) = self.post_org(org).await {
                failed.get_or_insert(error);
            }
        }
        failed.map_or(Ok(!orgs.is_empty()), Err)
    }

    async fn post_org(&self, org: &str) -> Result<(), Error> {
        loop {
            let batch = self.waiting.lock().first(org);
            if batch.is_empty() {
                return Ok(());
            }
            self.charge(org, &batch).await?;
            self.settle(org, &batch).await?;
        }
    }

    /// Charges those of a batch that have not been, and nothing beside that.
    async fn charge(&self, org: &str, batch: &[Arc<Posting>]) -> Result<(), Error> {
        let releases: Vec<_> = batch.iter().filter_map(|posting| posting.release_of_asked()).collect();
        let released = if releases.is_empty() { Vec::new() } else { self.store.settle(org, &releases).await };
        if let Some(error) = released.into_iter().find_map(|released| released.err().filter(Error::is_retryable)) {
            return Err(error);
        }
        let mut controls = None;
        for _ in 0..CHANGES_MAX {
            let (now_ms, lost_at) = (self.clock.now_ms(), self.store.loss(org).map_or(0, |loss| loss.at));
            let (sent, requests): (Vec<_>, Vec<_>) = batch
                .iter()
                .filter_map(|posting| {
                    let request = posting.send(now_ms)?;
                    let controls = controls.unwrap_or(request.controls);
                    Some((posting, AcquireRequest { controls, lost_at, ..request }))
                })
                .unzip();
            if requests.is_empty() {
                return Ok(());
            }
            let mut is_due_again = false;
            for (posting, answer) in sent.into_iter().zip(self.store.acquire(org, &requests).await) {
                match answer.map(|answer| answer.verdict) {
                    Ok(Verdict::Admitted { at }) => {
                        posting.is_posted(at);
                        self.health.posted();
                    }
                    // sent again, by the controls and the loss that the org has now: neither binds what has been admitted
                    Ok(Verdict::Stale | Verdict::Lost) => is_due_again = true,
                    Err(error) if error.is_retryable() => return Err(error),
                    Ok(_) | Err(_) => refused(posting),
                }
            }
            if !is_due_again {
                return Ok(());
            }
            let stored = self.store.controls(org, 0).await?;
            controls = Some((stored.version, stored.controls.iter().filter_map(|(_, until)| *until).min()));
        }
        Err(Error::new(ErrorKind::Unavailable, "the org changes faster than a call can be charged"))
    }

    /// Settles those of a batch whose calls ended before the store knew of them.
    async fn settle(&self, org: &str, batch: &[Arc<Posting>]) -> Result<(), Error> {
        let (ended, requests): (Vec<_>, Vec<_>) =
            batch.iter().filter_map(|posting| Some((posting, posting.ending()?))).unzip();
        if requests.is_empty() {
            return Ok(());
        }
        for (posting, settled) in ended.into_iter().zip(self.store.settle(org, &requests).await) {
            match settled {
                Ok(_) => posting.is_over(),
                Err(error) if error.is_retryable() => return Err(error),
                Err(_) => refused(posting),
            }
        }
        Ok(())
    }
}

/// The store can never be told of it.
fn refused(posting: &Posting) {
    posting.is_over();
    telemetry::posting("refused");
}

/// However the posting ends, also with its runtime: the next admission, or the next answer of the store, starts it anew.
struct Posts(Arc<Postings>);

impl Drop for Posts {
    fn drop(&mut self) {
        self.0.waiting.lock().is_posted = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        clock::ManualClock,
        control::Controls,
        cost::Cost,
        limit::Limit,
        plan::Plan,
        policy::Policy,
        store::{ReservationId, inspection::Owner, memory::MemoryStore},
        subject::Subject,
    };

    /// Postings to an embedded store, by its clock, and a call of one request in a minute.
    fn scene() -> (ManualClock, Arc<Postings>, Arc<Plan>) {
        let clock = ManualClock::new();
        let store = Arc::new(Store::Memory(MemoryStore::new(Clock::Manual(clock.clone()))));
        let postings = Postings::new(store, Clock::Manual(clock.clone()), Arc::new(Health::new("allow")));
        let policy = Arc::new(Policy::new().limit(Limit::new("org").requests(9)).compile().unwrap());
        let (subject, controls) = (Subject::org("acme"), Arc::new(Controls::default()));
        let plan = Plan::new(policy, &subject, Cost::new(), "interactive", &controls, None).unwrap();
        (clock, postings, Arc::new(plan))
    }

    fn id() -> ReservationId {
        ReservationId::new(Owner::of(None))
    }

    #[test]
    fn what_waits_is_bounded_until_its_window_has_passed() {
        // nobody posts: there is no runtime
        let (clock, postings, plan) = scene();
        let remember =
            || postings.remember(Posting::new(&"acme".into(), &plan, id(), id(), None, clock.now_ms())).unwrap();
        for _ in 1..WAITING_MAX {
            assert!(remember().is_some());
        }
        assert!(postings.has_room() && remember().is_some());
        assert!(!postings.has_room() && remember().is_none());
        clock.advance(Duration::from_millis(59_999));
        assert_eq!(postings.waiting.lock().prune(clock.now_ms()), 0);
        clock.advance(Duration::from_millis(1));
        assert_eq!(postings.waiting.lock().prune(clock.now_ms()), WAITING_MAX as u64);
        assert!(postings.has_room());
    }

    #[tokio::test]
    async fn what_the_store_charged_without_an_answer_does_not_stay_beside_the_posting() {
        let (clock, postings, plan) = scene();
        let used = async || {
            let look = postings.store.inspect("acme", &plan.inspect_request()).await.unwrap();
            look.ledgers
                .iter()
                .map(|ledger| ledger.entries.iter().map(|entry| entry.amounts[0]).sum::<u64>())
                .sum::<u64>()
        };
        let (asked, late) = (id(), id());
        let answer = postings.store.acquire("acme", &[plan.acquire_request(asked, 0)]).await.remove(0).unwrap();
        assert!(matches!(answer.verdict, Verdict::Admitted { .. }));
        for asked in [asked, late] {
            let posting = Posting::new(&"acme".into(), &plan, asked, id(), None, clock.now_ms());
            assert!(postings.remember(posting).unwrap().is_some());
        }
        postings.close().await;
        assert_eq!(used().await, 2, "one each");
        let answer = postings.store.acquire("acme", &[plan.acquire_request(late, 0)]).await.remove(0).unwrap();
        assert_eq!((answer.verdict, used().await), (Verdict::Released, 2), "what arrives later charges nothing");
    }

    #[tokio::test]
    async fn nothing_is_admitted_that_nobody_would_tell_the_store() {
        let (clock, postings, plan) = scene();
        let remember = || postings.remember(Posting::new(&"acme".into(), &plan, id(), id(), None, clock.now_ms()));
        let before = remember().unwrap().unwrap();
        postings.close().await;
        assert!(!before.is_owed());
        assert_eq!(remember().unwrap_err().kind(), ErrorKind::Closed);
    }
}
