//! Who shares an org's limits while the store is away: one heartbeat per limiter and org that it asks for.
//!
//! Invariant: a member knows its share only when every other member has given a sign of life since it joined, and so counts it. Then no
//! member's share is larger than the limit over the number of those that know theirs. A count outlives an outage as it is.

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{runtime::Handle, sync::Notify};

use crate::{
    clock::{Clock, wait_until},
    store::{
        Store,
        member::{Beat, Membership},
    },
};

/// Signs of life within a lease.
const BEATS: u64 = 3;
/// An org that has not been asked for its longest window, but for this long at least and at most, is left.
const ASKED_MS: std::ops::RangeInclusive<u64> = 60_000..=600_000;

#[derive(Debug)]
pub(super) struct Members {
    store: Arc<Store>,
    clock: Clock,
    me: [u8; 16],
    lease_ms: u64,
    state: Mutex<State>,
    /// There is an org to join.
    joins: Arc<Notify>,
    /// Who speaks to the store for this member: one at a time.
    turn: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct State {
    by_org: HashMap<Arc<str>, Member>,
    beats: bool,
    has_left: bool,
}

/// This process as a member of one org.
#[derive(Debug)]
struct Member {
    asked_ms: u64,
    window_ms: u64,
    /// When the next sign of life is given.
    due_ms: u64,
    /// What it was told last; `None`: nothing yet.
    told: Option<Membership>,
}

impl Member {
    fn new(now_ms: u64, window_ms: u64) -> Self {
        Self { asked_ms: now_ms, window_ms, due_ms: now_ms, told: None }
    }

    /// How many share the limits, once all of them have given a sign since this one joined, and so know of it.
    fn known(&self) -> Option<u64> {
        self.told.filter(|told| told.unaware == 0).map(|told| told.members.max(1))
    }
}

impl Members {
    pub(super) fn new(store: Arc<Store>, clock: Clock, lease_ms: u64) -> Arc<Self> {
        Arc::new(Self {
            store,
            clock,
            me: uuid::Uuid::now_v7().into_bytes(),
            lease_ms,
            state: Mutex::default(),
            joins: Arc::default(),
            turn: tokio::sync::Mutex::default(),
        })
    }

    /// A call of this org is on its way: this process is, or becomes, a member.
    pub(super) fn asked(self: &Arc<Self>, org: &Arc<str>, window_ms: u64) {
        let now_ms = self.clock.now_ms();
        let mut state = self.state.lock();
        if state.has_left {
            return;
        }
        if let Some(member) = state.by_org.get_mut(org) {
            (member.asked_ms, member.window_ms) = (now_ms, member.window_ms.max(window_ms));
        } else {
            state.by_org.insert(Arc::clone(org), Member::new(now_ms, window_ms));
            self.joins.notify_one();
        }
        if !std::mem::replace(&mut state.beats, true) {
            match Handle::try_current() {
                Ok(runtime) => drop(runtime.spawn(beat(Arc::downgrade(self), Arc::clone(&self.joins)))),
                // without a runtime nobody gives a sign: this process does not know its share
                Err(_) => state.beats = false,
            }
        }
    }

    /// How many share the limits of this org, if this process knows its share.
    pub(super) fn known(&self, org: &str) -> Option<u64> {
        let state = self.state.lock();
        state.by_org.get(org).filter(|_| !state.has_left).and_then(Member::known)
    }

    /// Gives the signs that are due; says how long it is until the next one, `None` if there is none to come.
    async fn beat_due(&self) -> Option<Duration> {
        let _turn = self.turn.lock().await;
        let (now_ms, beat_ms) = (self.clock.now_ms(), self.lease_ms / BEATS);
        let due: Vec<_> = {
            let mut state = self.state.lock();
            let asked =
                |member: &Member| member.asked_ms + member.window_ms.clamp(*ASKED_MS.start(), *ASKED_MS.end()) > now_ms;
            state.by_org.retain(|_, member| asked(member));
            let due = state.by_org.iter().filter(|(_, member)| member.due_ms <= now_ms);
            due.map(|(org, member)| (Arc::clone(org), member.told.map_or(0, |told| told.joined_at))).collect()
        };
        for (org, joined_at) in due {
            if self.state.lock().has_left {
                return None;
            }
            let (sent_ms, beat) = (self.clock.now_ms(), Beat { id: self.me, lease_ms: self.lease_ms, joined_at });
            let told = self.store.beat(&org, beat).await;
            if let Some(member) = self.state.lock().by_org.get_mut(&org) {
                member.due_ms = sent_ms + beat_ms;
                member.told = told.ok().or(member.told);
            }
            // where this one's server is away, that of the next may answer; if not, its breaker soon says so at once
        }
        let mut state = self.state.lock();
        let next_ms = state.by_org.values().map(|member| member.due_ms).min();
        state.beats = next_ms.is_some();
        next_ms.map(|next_ms| wait_until(next_ms, self.clock.now_ms()))
    }

    /// Is a member no more, of any org, as far as the store answers.
    pub(super) async fn leave(&self) {
        let joined: Vec<_> = {
            let mut state = self.state.lock();
            state.has_left = true;
            let joined = state.by_org.drain().filter(|(_, member)| member.told.is_some());
            joined.map(|(org, _)| org).collect()
        };
        self.joins.notify_one();
        // a sign that is on its way must not come after this
        let _turn = self.turn.lock().await;
        for org in joined {
            let beat = Beat { id: self.me, lease_ms: 0, joined_at: 0 };
            if self.store.beat(&org, beat).await.is_err_and(|error| error.is_retryable()) {
                return;
            }
        }
    }
}

/// However a heartbeat ends, also with its runtime: the next call starts another one.
struct Ends(Weak<Members>);

impl Drop for Ends {
    fn drop(&mut self) {
        if let Some(members) = self.0.upgrade() {
            members.state.lock().beats = false;
        }
    }
}

/// Gives signs of life until the limiter is gone or asks for no org any more.
async fn beat(members: Weak<Members>, joins: Arc<Notify>) {
    let _ends = Ends(Weak::clone(&members));
    loop {
        let Some(alive) = members.upgrade() else { return };
        let (clock, pause) = (alive.clock.clone(), alive.beat_due().await);
        drop(alive);
        let Some(pause) = pause else { return };
        tokio::select! {
            () = clock.sleep(pause) => {}
            () = joins.notified() => {}
        }
    }
}
