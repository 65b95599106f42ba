//! Admissions that wait for the store to answer: one task per limiter charges them, many in one call.
//!
//! Invariant: what waits is bounded, and stays until the store was told, it was given back, or its longest window has passed. A call that
//! got no answer is repeated with the same ids and amounts.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
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
/// How often a batch is sent anew because controls have changed under it.
const CHANGES_MAX: u32 = 8;

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
    pub(super) fn remember(self: &Arc<Self>, posting: Arc<Posting>) -> Option<Arc<Posting>> {
        let mut waiting = self.waiting.lock();
        if waiting.count >= WAITING_MAX {
            telemetry::posting("forgotten");
            return None;
        }
        waiting.count += 1;
        waiting.by_org.entry(Arc::clone(&posting.org)).or_default().push_back(Arc::clone(&posting));
        self.start(&mut waiting);
        Some(posting)
    }

    /// The store answers again.
    pub(super) fn hurry(self: &Arc<Self>) {
        let mut waiting = self.waiting.lock();
        if waiting.by_org.is_empty() {
            drop(waiting);
            self.health.ends();
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
        loop {
            tokio::select! {
                () = self.clock.sleep(RETRY) => {}
                () = self.hurry.notified() => {}
            }
            let posted = self.post().await.is_ok_and(|answered| answered);
            let mut waiting = self.waiting.lock();
            if waiting.by_org.is_empty() {
                waiting.is_posted = false;
                drop(waiting);
                if posted {
                    self.health.ends();
                }
                return;
            }
        }
    }

    /// Charges what waits, once, if the store answers; what does not arrive leaves with its window.
    pub(super) async fn flush(&self) {
        match self.post().await {
            Ok(true) => self.health.ends(),
            Ok(false) => {}
            Err(error) => telemetry::unposted(self.waiting.lock().count, &error),
        }
    }

    /// Tells the store of all that waits; says whether there was anything to tell.
    async fn post(&self) -> Result<bool, Error> {
        let _turn = self.turn.lock().await;
        let orgs: Vec<Arc<str>> = {
            let mut waiting = self.waiting.lock();
            (0..waiting.prune(self.clock.now_ms())).for_each(|_| telemetry::posting("expired"));
            waiting.by_org.keys().map(Arc::clone).collect()
        };
        for org in &orgs {
            loop {
                let batch = self.waiting.lock().first(org);
                if batch.is_empty() {
                    break;
                }
                self.charge(org, &batch).await?;
                self.settle(org, &batch).await?;
            }
        }
        Ok(!orgs.is_empty())
    }

    /// Charges those of a batch that have not been.
    async fn charge(&self, org: &str, batch: &[Arc<Posting>]) -> Result<(), Error> {
        let mut controls = None;
        for _ in 0..CHANGES_MAX {
            let now_ms = self.clock.now_ms();
            let (sent, requests): (Vec<_>, Vec<_>) = batch
                .iter()
                .filter_map(|posting| {
                    let request = posting.send(now_ms)?;
                    Some((posting, AcquireRequest { controls: controls.unwrap_or(request.controls), ..request }))
                })
                .unzip();
            if requests.is_empty() {
                return Ok(());
            }
            let mut is_stale = false;
            for (posting, answer) in sent.into_iter().zip(self.store.acquire(org, &requests).await) {
                match answer.map(|answer| answer.verdict) {
                    Ok(Verdict::Admitted { at }) => {
                        posting.is_posted(at);
                        self.health.posted();
                    }
                    // sent again, by the controls that the org has now: none of them binds what has been admitted
                    Ok(Verdict::Stale) => is_stale = true,
                    Err(error) if error.is_retryable() => return Err(error),
                    Ok(_) | Err(_) => refused(posting),
                }
            }
            if !is_stale {
                return Ok(());
            }
            let stored = self.store.controls(org, 0).await?;
            controls = Some((stored.version, stored.controls.iter().filter_map(|(_, until)| *until).min()));
        }
        Err(Error::new(ErrorKind::Unavailable, "the controls of the org change faster than a call can be charged"))
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

    #[test]
    fn what_waits_is_bounded_until_its_window_has_passed() {
        let clock = ManualClock::new();
        let store = Arc::new(Store::Memory(MemoryStore::new(Clock::Manual(clock.clone()))));
        let health = Arc::new(Health::new("allow"));
        // nobody posts: there is no runtime
        let postings = Postings::new(store, Clock::Manual(clock.clone()), health);
        let policy = Arc::new(Policy::new().limit(Limit::new("org").requests(9)).compile().unwrap());
        let (subject, controls) = (Subject::org("acme"), Arc::new(Controls::default()));
        let plan = Arc::new(Plan::new(policy, &subject, Cost::new(), "interactive", &controls, None).unwrap());
        let remember = || {
            let id = ReservationId::new(Owner::of(None));
            postings.remember(Posting::new(&"acme".into(), &plan, id, None, clock.now_ms()))
        };
        for _ in 1..WAITING_MAX {
            assert!(remember().is_some());
        }
        assert!(postings.has_room() && remember().is_some());
        assert!(!postings.has_room() && remember().is_none());
        clock.advance(std::time::Duration::from_millis(59_999));
        assert_eq!(postings.waiting.lock().prune(clock.now_ms()), 0);
        clock.advance(std::time::Duration::from_millis(1));
        assert_eq!(postings.waiting.lock().prune(clock.now_ms()), WAITING_MAX as u64);
        assert!(postings.has_room());
    }
}
