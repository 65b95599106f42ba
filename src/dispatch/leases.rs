//! The leases that this process holds, and their heartbeat: one task per limiter, which renews all leases of an org in one call.
//!
//! Invariant: a lease is taken for live no longer than the store takes it: its life counts from when the renewal was sent. One that was
//! lost stays lost.

use std::{
    collections::HashMap,
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{runtime::Handle, sync::Notify, task::JoinSet};

use crate::{
    clock::{Clock, wait_until},
    store::{Lease, ReservationId, Store, keyspace::SlotsKey},
};

/// Renewals within the life of a lease.
const BEATS: u64 = 3;
/// Leases of an org that are renewed in one call.
const RENEWED_MAX: usize = 256;

/// The leases of every org.
#[derive(Debug)]
pub(crate) struct Leases {
    store: Arc<Store>,
    clock: Clock,
    pub(crate) lease_ms: u64,
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    by_org: HashMap<Arc<str>, HashMap<ReservationId, Arc<Beating>>>,
    beats: bool,
}

/// One reservation's leases.
#[derive(Debug)]
pub(crate) struct Beating {
    slots: Vec<SlotsKey>,
    /// By the clock of this process; 0 once it is lost.
    live_until_ms: AtomicU64,
    lost: Notify,
}

impl Leases {
    pub(crate) fn new(store: Arc<Store>, clock: Clock, lease_ms: u64) -> Arc<Self> {
        Arc::new(Self { store, clock, lease_ms, held: Mutex::default() })
    }

    /// Keeps the leases that `id` was given by a request sent at `sent_ms`.
    pub(crate) fn keep(
        self: &Arc<Self>,
        org: &Arc<str>,
        id: ReservationId,
        slots: Vec<SlotsKey>,
        sent_ms: u64,
    ) -> Arc<Beating> {
        let live_until_ms = AtomicU64::new(sent_ms + self.lease_ms);
        let beating = Arc::new(Beating { slots, live_until_ms, lost: Notify::new() });
        let mut held = self.held.lock();
        held.by_org.entry(Arc::clone(org)).or_default().insert(id, Arc::clone(&beating));
        if !std::mem::replace(&mut held.beats, true) {
            match Handle::try_current() {
                Ok(runtime) => drop(runtime.spawn(beat(Arc::downgrade(self)))),
                // without a runtime nobody renews: the leases expire
                Err(_) => held.beats = false,
            }
        }
        beating
    }

    /// Renews the leases of `id` no more.
    pub(crate) fn leave(&self, org: &str, id: ReservationId) {
        let mut held = self.held.lock();
        if let Some(of_org) = held.by_org.get_mut(org) {
            of_org.remove(&id);
            if of_org.is_empty() {
                held.by_org.remove(org);
            }
        }
    }

    /// Whether these leases are live, as far as this process can know.
    pub(crate) fn is_live(&self, beating: &Beating) -> bool {
        self.clock.now_ms() < beating.live_until_ms.load(Ordering::SeqCst)
    }

    /// Returns when the leases are lost.
    pub(crate) async fn lost(&self, beating: &Beating) {
        loop {
            let lost = beating.lost.notified();
            let (now_ms, until_ms) = (self.clock.now_ms(), beating.live_until_ms.load(Ordering::SeqCst));
            if now_ms >= until_ms {
                return;
            }
            tokio::select! {
                () = lost => {}
                () = self.clock.sleep(wait_until(until_ms, now_ms)) => {}
            }
        }
    }

    /// Renews those of every org at the same time: one whose server does not answer keeps no other waiting, and is left when the next beat is due.
    async fn renew_all(self: &Arc<Self>) {
        let orgs: Vec<Arc<str>> = self.held.lock().by_org.keys().map(Arc::clone).collect();
        let mut beats = JoinSet::new();
        for org in orgs {
            let (leases, patience) = (Arc::clone(self), Duration::from_millis(self.lease_ms / BEATS));
            beats.spawn(async move { drop(tokio::time::timeout(patience, leases.renew(&org)).await) });
        }
        beats.join_all().await;
    }

    async fn renew(&self, org: &Arc<str>) {
        let beating: Vec<_> = {
            let held = self.held.lock();
            let of_org = held.by_org.get(org).into_iter().flatten();
            of_org.map(|(id, beating)| (*id, Arc::clone(beating))).collect()
        };
        let lease = |(id, beating): &(ReservationId, Arc<Beating>)| {
            beating.slots.iter().map(|slots| Lease { slots: slots.clone(), id: *id }).collect::<Vec<_>>()
        };
        let leases: Vec<_> = beating.iter().flat_map(lease).collect();
        let sent_ms = self.clock.now_ms();
        let mut renewed = Vec::with_capacity(leases.len());
        for some in leases.chunks(RENEWED_MAX) {
            match self.store.renew(org, some, self.lease_ms).await {
                Ok(some) => renewed.extend(some),
                Err(_) => break,
            }
        }
        // those without an answer live on as long as they are known to
        let mut renewed = renewed.into_iter();
        for (_, beating) in &beating {
            // every one of them is taken, whatever the first says
            let of_this: Vec<_> = renewed.by_ref().take(beating.slots.len()).collect();
            if of_this.len() < beating.slots.len() {
                break;
            }
            let lost = of_this.iter().filter(|renewed| !**renewed).count();
            beating.is_renewed(lost == 0, sent_ms + self.lease_ms, self.clock.now_ms());
        }
    }
}

impl Beating {
    pub(crate) fn slots(&self) -> &[SlotsKey] {
        &self.slots
    }

    /// What was lost meanwhile, by the store's answer or because none came, is not live again.
    fn is_renewed(&self, renewed: bool, until_ms: u64, now_ms: u64) {
        let lives = |before: u64| if renewed && before > now_ms { Some(until_ms) } else { Some(0) };
        let before = self.live_until_ms.fetch_update(Ordering::SeqCst, Ordering::SeqCst, lives);
        if !renewed || before.is_ok_and(|before| before <= now_ms) {
            self.lost.notify_waiters();
        }
    }
}

/// However a heartbeat ends, also with its runtime: the next lease starts another one.
struct Ends(Weak<Leases>);

impl Drop for Ends {
    fn drop(&mut self) {
        if let Some(leases) = self.0.upgrade() {
            leases.held.lock().beats = false;
        }
    }
}

/// Renews until the limiter is gone or holds no lease any more.
async fn beat(leases: Weak<Leases>) {
    let _ends = Ends(Weak::clone(&leases));
    let Some((clock, pause_ms)) = leases.upgrade().map(|leases| (leases.clock.clone(), leases.lease_ms / BEATS)) else {
        return;
    };
    loop {
        clock.sleep(wait_until(pause_ms, 0)).await;
        let Some(leases) = leases.upgrade() else { return };
        leases.renew_all().await;
        let mut held = leases.held.lock();
        if held.by_org.is_empty() {
            held.beats = false;
            return;
        }
    }
}
