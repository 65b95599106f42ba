//! Who of this process waits in line, so that room given back is asked for at once.
//!
//! Invariant: a waiter is here from its first place until it starts or gives up, under the place it has. A nudge wakes one waiter: only the
//! front of the line can take up room that others give back, so it is the earliest that has not asked for [`PACE_MS_MIN`], or, if all have,
//! the earliest, which asks once that time is over. No nudge is lost while anybody waits.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::store::ReservationId;

/// The shortest pause between two questions of one waiter whether its place has moved up.
pub(crate) const PACE_MS_MIN: u64 = 50;

/// The waiters of every org.
#[derive(Debug, Default)]
pub(crate) struct Line {
    by_org: Mutex<HashMap<Arc<str>, ByPlace>>,
}

type ByPlace = BTreeMap<(u64, ReservationId), Waiter>;

#[derive(Debug)]
struct Waiter {
    wake: Arc<Notify>,
    asked_ms: u64,
}

impl Line {
    /// Lets `id` wait for `place`, having asked at `now_ms`; `wake` is notified when it should ask again.
    pub(crate) fn join(
        self: &Arc<Self>,
        org: &Arc<str>,
        id: ReservationId,
        place: u64,
        wake: &Arc<Notify>,
        now_ms: u64,
    ) -> InLine {
        let waiter = Waiter { wake: Arc::clone(wake), asked_ms: now_ms };
        self.by_org.lock().entry(Arc::clone(org)).or_default().insert((place, id), waiter);
        InLine { line: Arc::clone(self), org: Arc::clone(org), id, place }
    }

    /// Wakes the earliest waiter of `org` that has not asked just now, or else the earliest.
    pub(crate) fn nudge(&self, org: &str, now_ms: u64) {
        let mut by_org = self.by_org.lock();
        let Some(line) = by_org.get_mut(org) else { return };
        if let Some(waiter) = line.values_mut().find(|waiter| waiter.asked_ms + PACE_MS_MIN <= now_ms) {
            waiter.asked_ms = now_ms;
            waiter.wake.notify_one();
        } else if let Some(waiter) = line.values().next() {
            waiter.wake.notify_one();
        }
    }
}

/// A waiter's entry; dropped, it leaves.
#[derive(Debug)]
pub(crate) struct InLine {
    line: Arc<Line>,
    org: Arc<str>,
    id: ReservationId,
    place: u64,
}

impl InLine {
    /// The waiter has asked at `now_ms`, and has `place` from now on.
    pub(crate) fn asked(&mut self, place: u64, now_ms: u64) {
        let mut by_org = self.line.by_org.lock();
        if let Some(line) = by_org.get_mut(&self.org)
            && let Some(waiter) = line.remove(&(self.place, self.id))
        {
            line.insert((place, self.id), Waiter { asked_ms: now_ms, ..waiter });
            self.place = place;
        }
    }
}

impl Drop for InLine {
    fn drop(&mut self) {
        let mut by_org = self.line.by_org.lock();
        if let Some(line) = by_org.get_mut(&self.org) {
            line.remove(&(self.place, self.id));
            if line.is_empty() {
                by_org.remove(&self.org);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::Future,
        pin::pin,
        task::{Context, Waker},
    };

    use super::*;
    use crate::store::inspection::Owner;

    fn is_woken(wake: &Notify) -> bool {
        pin!(wake.notified()).poll(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    #[test]
    fn a_nudge_wakes_the_earliest_that_has_not_asked_just_now() {
        let (line, org): (Arc<Line>, Arc<str>) = (Arc::default(), "acme".into());
        let wakes: [Arc<Notify>; 3] = Default::default();
        let ids: [_; 3] = std::array::from_fn(|_| ReservationId::new(Owner::of(None)));
        let late = line.join(&org, ids[0], 3_000, &wakes[0], 0);
        let mut early = line.join(&org, ids[1], 2_000, &wakes[1], 0);
        let middle = line.join(&org, ids[2], 2_500, &wakes[2], 40);

        line.nudge(&org, 49);
        assert_eq!(
            wakes.each_ref().map(|wake| is_woken(wake)),
            [false, true, false],
            "all have asked just now: the first"
        );
        line.nudge(&org, 50);
        assert_eq!(wakes.each_ref().map(|wake| is_woken(wake)), [false, true, false]);
        line.nudge(&org, 60);
        assert_eq!(wakes.each_ref().map(|wake| is_woken(wake)), [true, false, false], "the middle one asked at 40");
        early.asked(4_000, 60);
        line.nudge(&org, 200);
        assert_eq!(wakes.each_ref().map(|wake| is_woken(wake)), [false, false, true], "the first is the last now");

        drop((early, middle));
        line.nudge("another", 900);
        line.nudge(&org, 900);
        assert_eq!(wakes.each_ref().map(|wake| is_woken(wake)), [true, false, false]);
        drop(late);
        assert!(line.by_org.lock().is_empty(), "nobody waits any more");
    }
}
