//! What others use of a pool that an upstream counts: strangers, of whom only upstream knows.
//!
//! Invariant: others use what upstream had counted, less what we have used: the more of what that was when the call was admitted whose answer
//! told so, and of what it is now, as some upstreams count when they answer. The ledger holds that as one charge; while places are booked,
//! again a window later, so that places behind it leave room, too. Each observation renews it at its own time, so that no place is promised
//! on the hope that they stop; it leaves a window after the last charge.
//!
//! What is held rises at once and falls slowly, and some more is held than was seen: what upstream tells is of before, and others do not come
//! evenly. A ledger that followed each figure down would fill the pool to its brim, and every call of theirs would be one too many.

use crate::calendar::{Ledger, PARTS};

/// What others use of one resource of one ledger, as far as upstream has told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Others {
    /// When the call was admitted whose answer was heard last: what is older tells nothing new.
    told_at: u64,
    /// When the charge was made that the ledger holds.
    held_at: u64,
    /// The time that is charged last: `held_at`, or that of the booking.
    last_at: u64,
    /// Two windows after that: by then no call of the last window can have found it.
    over_at: u64,
    /// How much was held since when, as far as a call of the last window may have found it: a 64th of the window apart, or more.
    levels: Vec<Level>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Level {
    since: u64,
    amount: u64,
}

/// What the answer to one call told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Told {
    /// The resource's place in the ledger.
    pub(crate) place: usize,
    /// What upstream had counted, in the limit's own terms: its amount less what upstream says remains.
    pub(crate) counted: u64,
    /// What the ledger held when the call was admitted.
    pub(crate) used: u64,
    /// When that was.
    pub(crate) at: u64,
    /// What the limit enforces.
    pub(crate) limit: u64,
    /// How much of what was counted is used by nobody: what the limit states and upstream does not have.
    pub(crate) lacking: u64,
}

/// What the ledger holds for others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) before: u64,
    pub(crate) now: u64,
}

impl Others {
    /// Renews what the ledger holds for others; `None` if nothing new was told. The ledger has advanced to `now`.
    ///
    /// Nothing new is told by what is older than a window or than what was heard last; at the very millisecond of a change, as nobody knows
    /// which of the two the call had found; and as to the amount within a 64th of a window of a change, so that the changes can be
    /// remembered.
    pub(crate) fn observe(&mut self, ledger: &mut Ledger, told: &Told, now: u64) -> Option<Held> {
        let (window, at) = (ledger.window(), told.at.min(now));
        let mut levels = self.levels_of(ledger, now);
        let last = levels.last().copied();
        let before = last.map_or(0, |level| level.amount);
        let found = levels.iter().rev().find(|level| level.since < at).map_or(0, |level| level.amount);
        let ours_then = told.used.saturating_sub(found);
        let ours_now = ledger.used()[told.place].saturating_sub(before);
        let seen = told.counted.saturating_sub(ours_then.max(ours_now));
        let others = (seen + reserve(seen, told)).max(self.falls_to(before, window, now));
        let is_old = at + window <= now || at < self.told_at;
        let is_unclear = levels.iter().any(|level| level.since == at);
        let is_too_soon = others != before && last.is_some_and(|last| (now - last.since) * PARTS < window);
        if is_old || is_unclear || is_too_soon {
            return None;
        }
        let last_at = self.hold(ledger, told.place, others, now);
        if others != before {
            levels.push(Level { since: now, amount: others });
        }
        let forgotten = levels.iter().skip(1).take_while(|next| next.since + window <= now).count();
        levels.drain(..forgotten);
        *self = Self { told_at: at, held_at: now, last_at, over_at: last_at + 2 * window, levels };
        Some(Held { before, now: others })
    }

    /// The least that is held instead of `before`, whatever was seen: a 64th of that less, rounded up, and once more for each 64th of a window
    /// since it was renewed.
    fn falls_to(&self, before: u64, window: u64, now: u64) -> u64 {
        let steps = 1 + now.saturating_sub(self.held_at) * PARTS / window;
        before.saturating_sub(before.div_ceil(PARTS).saturating_mul(steps))
    }

    /// Gives back what was charged, charges `others` instead, and says for when last.
    fn hold(&self, ledger: &mut Ledger, place: usize, others: u64, now: u64) -> u64 {
        let amounts = |amount| std::array::from_fn(|at| if at == place { amount } else { 0 });
        let charged = self.levels.last().map_or(0, |level| level.amount);
        if charged > 0 {
            ledger.settle(self.held_at, self.held_at, amounts(charged), [0; 3]);
            if self.last_at > self.held_at {
                ledger.settle(self.last_at, self.held_at, amounts(charged), [0; 3]);
            }
        }
        if others == 0 {
            return now;
        }
        let has_line = ledger.booked() > 0;
        ledger.add(now, amounts(others));
        if !has_line {
            return now;
        }
        // a fold moves a charge later by less than a 64th of the window: no window holds both
        let again_at = now + ledger.window() + ledger.window().div_ceil(PARTS);
        ledger.put(again_at, amounts(others));
        again_at
    }

    /// Whether it tells nothing any more of what a call of the last window has found.
    pub(crate) fn is_over(&self, now: u64) -> bool {
        self.over_at <= now
    }

    /// The levels, by what has become of the charge: it has left the window, or the ledger was emptied, or is another.
    fn levels_of(&self, ledger: &Ledger, now: u64) -> Vec<Level> {
        let mut levels = self.levels.clone();
        let left_at = self.last_at + ledger.window();
        if levels.last().is_some_and(|level| level.amount > 0) {
            if left_at <= now {
                levels.push(Level { since: left_at, amount: 0 });
            } else if ledger.has_forgotten(self.held_at) {
                levels.clear();
            }
        }
        levels
    }
}

/// What is held besides what was seen, as others use more until the next answer, and not evenly: a quarter of theirs, and at most half of what
/// they leave.
fn reserve(seen: u64, told: &Told) -> u64 {
    seen.saturating_sub(told.lacking).div_ceil(4).min(told.limit.saturating_sub(seen) / 2)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::calendar::{Ask, UNBOUNDED, earliest, place_in_line};

    const WINDOW: u64 = 64_000;

    /// A ledger of images, ours and what is held for others.
    struct Pool {
        ledger: Ledger,
        others: Others,
        now: u64,
        /// 0, so that there is no reserve.
        limit: u64,
    }

    impl Pool {
        fn new() -> Self {
            Self { ledger: Ledger::new(WINDOW, 1), others: Others::default(), now: 1, limit: 0 }
        }

        fn wait(&mut self, ms: u64) {
            self.now += ms;
            self.ledger.advance(self.now);
        }

        fn used(&self) -> u64 {
            self.ledger.used()[2]
        }

        /// A call of ours, and how full the ledger was with it.
        fn call(&mut self) -> Told {
            self.ledger.add(self.now, [0, 0, 1]);
            Told { place: 2, counted: 0, used: self.used(), at: self.now, limit: self.limit, lacking: 0 }
        }

        /// Upstream counted so much with that call.
        fn hears(&mut self, call: Told, counted: u64) -> Option<u64> {
            let held = self.others.observe(&mut self.ledger, &Told { counted, ..call }, self.now);
            held.map(|held| held.now)
        }
    }

    #[test]
    fn what_equals_our_own_use_adds_nothing() {
        let mut pool = Pool::new();
        let calls: Vec<_> = (0..200).map(|_| (pool.wait(400), pool.call()).1).collect();
        for call in calls {
            pool.wait(1);
            let is_old = call.at + WINDOW <= pool.now;
            assert_eq!(pool.hears(call, call.used), (!is_old).then_some(0));
        }
        pool.wait(WINDOW);
        assert_eq!(pool.used(), 0, "all has left, and nothing was held for others");
    }

    #[test]
    fn two_who_see_the_same_stranger_hold_it_once() {
        let mut pool = Pool::new();
        let (first, second) = (pool.call(), (pool.wait(10), pool.call()).1);
        pool.wait(5_000);
        assert_eq!((pool.hears(second, 32), pool.used()), (Some(30), 32));
        assert_eq!((pool.hears(first, 31), pool.used()), (None, 32), "older than what was heard last");
        pool.wait(5_000);
        assert_eq!((pool.hears(second, 32), pool.used()), (Some(30), 32));
        let third = pool.call();
        pool.wait(20_000);
        assert_eq!((pool.hears(third, 33), pool.used()), (Some(30), 33), "it found what was held");
    }

    #[test]
    fn what_is_held_rises_with_the_stranger_and_leaves_a_window_after_the_last_word() {
        let mut pool = Pool::new();
        for (counted, held) in [(41, 40), (62, 60), (103, 100)] {
            let call = pool.call();
            pool.wait(3_000);
            assert_eq!(pool.hears(call, counted), Some(held));
            pool.wait(1_000);
        }
        assert_eq!(pool.used(), 103);
        pool.wait(WINDOW - 1_001);
        assert_eq!(pool.used(), 100, "ours have left");
        pool.wait(1);
        assert_eq!(pool.used(), 0);
        pool.wait(1);
        let call = pool.call();
        pool.wait(1_000);
        assert_eq!(pool.hears(call, 8), Some(7));
    }

    #[test]
    fn what_is_held_falls_to_a_third_within_a_window_however_often_upstream_is_heard() {
        for (held, between_ms) in
            [(200, 250), (200, 1_000), (3_000_000, 1_000), (3_000_000, 8_000), (3_000_000, 59_000)]
        {
            let mut pool = Pool::new();
            let call = (pool.call(), pool.wait(10)).0;
            assert_eq!(pool.hears(call, 1 + held), Some(held));
            pool.wait(999);
            let (mut fell, since) = (vec![held], pool.now);
            while pool.now + between_ms < since + WINDOW {
                pool.wait(between_ms);
                let call = (pool.call(), pool.wait(1)).0;
                fell.extend(pool.hears(call, 0));
            }
            let step = (held / 64 + 1) * (2 + between_ms / 1_000);
            assert!(fell.is_sorted_by(|before, after| after <= before && before - after <= step), "{fell:?}");
            // as it was last heard within a window, and that is up to so long before its end
            let passed = (WINDOW - between_ms) as f64 / WINDOW as f64;
            let left = *fell.last().unwrap() as f64 / held as f64;
            assert!(left <= 1.0 - passed * 2.0 / 3.0, "every {between_ms} ms: {fell:?}");
        }
    }

    #[test]
    fn a_quarter_more_is_held_and_half_of_the_rest_is_left() {
        for (limit, seen, lacking, held) in [
            (245, 75, 0, 94),
            (245, 1, 0, 2),
            (245, 200, 0, 222),
            (245, 244, 0, 244),
            (245, 245, 0, 245),
            (245, 300, 0, 300),
            (5, 2, 0, 3),
            // of what upstream does not have there is no reserve
            (500, 250, 250, 250),
            (500, 290, 250, 300),
        ] {
            let mut pool = Pool { limit, ..Pool::new() };
            let call = Told { lacking, ..pool.call() };
            pool.wait(10);
            assert_eq!(pool.hears(call, 1 + seen), Some(held), "{seen} of {limit}");
            pool.wait(100);
            assert_eq!(pool.hears(call, 1 + seen), Some(held), "it is no more each time");
        }
    }

    /// A call that takes most of a window is answered when much of what upstream counted with it has left our ledger.
    #[test]
    fn a_late_answer_takes_none_of_ours_for_anothers() {
        let mut pool = Pool::new();
        let calls: Vec<_> = (0..100).map(|_| (pool.wait(100), pool.call()).1).collect();
        pool.wait(60_000);
        assert!(pool.used() < 50, "{} have not left", pool.used());
        assert_eq!(pool.hears(calls[99], 100), Some(0));
    }

    /// Its figures are of the moment of the answer: they hold what we have used since the call.
    #[test]
    fn an_upstream_that_counts_when_it_answers_takes_none_of_ours_for_anothers() {
        let mut pool = Pool::new();
        let calls: Vec<_> = (0..100).map(|_| (pool.wait(100), pool.call()).1).collect();
        pool.wait(10_000);
        assert_eq!(pool.hears(calls[0], 100), Some(0));
        pool.wait(1_000);
        assert_eq!((pool.hears(calls[1], 130), pool.used()), (Some(30), 130), "a stranger's");
        let later = (pool.wait(1), pool.call()).1;
        pool.wait(1_000);
        assert_eq!(pool.hears(calls[2], 131), Some(30), "what is held for others is none of ours");
        assert_eq!(pool.hears(later, 131), Some(30));
    }

    /// Who waits in line for a pool that a stranger shares: each calls once, and another comes in its place.
    #[test]
    fn a_line_deeper_than_the_room_leaves_a_stranger_its_part() {
        for (limit, stranger, waiters, reserve) in [(5, 2, 2, 0), (5, 2, 10, 0), (20, 6, 40, 0), (20, 6, 40, 2)] {
            let (mut pool, mut line, mut starts) = (Pool::new(), Vec::new(), Vec::new());
            pool.limit = if reserve > 0 { limit } else { 0 };
            let held_for_others = stranger + reserve;
            let horizon_ms = WINDOW * (limit + 2) / limit;
            let ask = Ask { amounts: [0, 0, 1], bounds: [UNBOUNDED, UNBOUNDED, limit - 1], horizon_ms };
            for _ in 0..6 * WINDOW / 500 {
                pool.wait(500);
                starts.extend(line.extract_if(.., |place| *place <= pool.now));
                while line.len() < waiters {
                    let asked = [(&pool.ledger, &ask)];
                    let first = earliest(&asked, pool.now);
                    let Some(place) = place_in_line(&asked, pool.now, u64::MAX >> 16, first) else { break };
                    pool.ledger.add(place, ask.amounts);
                    if place == pool.now { &mut starts } else { &mut line }.push(place);
                }
                if pool.now % 1_000 > 500 {
                    let ours = starts.iter().filter(|at| **at + WINDOW > pool.now).count() as u64;
                    let (counted, used) = (ours + stranger, pool.used());
                    let told = Told { place: 2, counted, used, at: pool.now, limit: pool.limit, lacking: 0 };
                    let held = pool.others.observe(&mut pool.ledger, &told, pool.now);
                    assert!(held.is_none_or(|held| held.now == held_for_others), "{held:?} at {}", pool.now);
                }
            }
            for window in 3..6 {
                let started = starts.iter().filter(|at| **at / WINDOW == window).count() as u64;
                assert_eq!(
                    started,
                    limit - held_for_others,
                    "{limit} less {stranger}, {waiters} wait: window {window}"
                );
            }
        }
    }

    #[test]
    fn what_is_booked_for_others_moves_with_the_charge_and_is_in_no_window_with_it() {
        let mut pool = Pool::new();
        (0..40).for_each(|_| (pool.wait(10), pool.call()).0);
        pool.ledger.add(pool.now + WINDOW, [0, 0, 1]);
        let call = pool.call();
        pool.wait(10);
        assert_eq!(pool.hears(call, 71), Some(30));
        let first = pool.ledger.last_at();
        assert_eq!((first, pool.ledger.booked()), (pool.now + WINDOW + 1_000, 2));
        // many calls, so that the charge is folded into a later time
        let calls: Vec<_> = (0..95).map(|_| (pool.wait(10), pool.call()).1).collect();
        assert_eq!(pool.ledger.sum_at(first)[2], 31, "with the one in line");
        pool.wait(10);
        assert_eq!(pool.hears(calls[94], 166), Some(30));
        assert_eq!((pool.ledger.last_at(), pool.ledger.booked()), (pool.now + WINDOW + 1_000, 2));
        assert_eq!((pool.used(), pool.ledger.sum_at(pool.ledger.last_at())[2]), (166, 31));
        pool.wait(2_000);
        assert_eq!((pool.hears(calls[94], 136), pool.used()), (Some(27), 163), "they stop");
        assert_eq!(pool.ledger.sum_at(pool.ledger.last_at())[2], 28);
    }

    #[test]
    fn the_amount_changes_once_in_a_64th_of_the_window_and_is_renewed_in_between() {
        let mut pool = Pool::new();
        let first = (pool.call(), pool.wait(10)).0;
        assert_eq!(pool.hears(first, 11), Some(10));
        let found = (pool.wait(998), pool.call()).1;
        pool.wait(1);
        assert_eq!(pool.hears(found, 99), None, "999 ms after the change");
        assert_eq!(pool.hears(found, 12), Some(10), "the same amount is renewed");
        pool.wait(1);
        assert_eq!(pool.hears(found, 99), Some(97));
    }

    #[test]
    fn a_reset_empties_what_is_held_for_others_too() {
        let mut pool = Pool::new();
        let call = pool.call();
        pool.wait(10);
        assert_eq!(pool.hears(call, 31), Some(30));
        pool.wait(2_000);
        pool.ledger.reset();
        pool.wait(10);
        let call = pool.call();
        pool.wait(10);
        assert_eq!((pool.hears(call, 32), pool.used()), (Some(31), 32), "upstream has forgotten nothing");
    }
}
