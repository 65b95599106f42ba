//! Fair share: one number per pool, its level, caps what every heavy user may have in a window. Pure: no I/O and no clock.
//!
//! Light is who has nothing in the window, or stays within the larger of an equal share and [`BETA`] of the level. A light user who finds
//! the pool full lowers the level by [`GAIN`] times that part of it which the cost is of the pool; sixty times a window, if the level held somebody back and
//! nobody light was refused, it rises by [`RISE`] of the slack. At the limit it is off: a lone user gets the whole pool. The heavy leave
//! the last [`RESERVE`] of the pool to the light, and book at most a 16th of a window ahead, so that newcomers need not wait for long.
//!
//! Invariant: the rule only lowers what a request may find in its ledgers; it never admits what a limit refuses. `lua/lib/fair/` does
//! the same operations on the same floating-point numbers in the same order, so both have the same bits; `tests/it/model.rs` holds
//! the two together.
//!
//! # Source
//!
//! Max-min fairness by an additive level, as in the rate-based congestion control of ATM (ABR). Figures: `tests/it/fairness.rs`.

use std::collections::{BTreeSet, HashMap};

/// The share of a pool that only the light may touch; at least 1.
const RESERVE: f64 = 0.02;
/// The slack that does not let the level rise.
const EPSILON: f64 = 0.02;
/// How far a refusal of the light lowers the level, in costs for a level that is the whole pool.
const GAIN: f64 = 7.0;
/// The part of the slack by which the level rises at a tick.
const RISE: f64 = 0.05;
/// The part of the level up to which a user is light.
const BETA: f64 = 0.3;
/// The parts of a window that the heavy may book ahead.
pub(crate) const HEAVY_PARTS: u64 = 16;
/// Users that leave an index in one decision.
const PRUNED_MAX: usize = 1_000;

/// How often the users of a pool are counted and its level may rise, and how often a process notes the heavy: sixty times a window, every
/// 0.1 to 1 s.
pub(crate) fn tick_ms(window: u64) -> u64 {
    (window / 60).clamp(100, 1_000)
}

/// One user of a pool, by id and weight.
pub(crate) type Member = (u32, Box<str>);

/// What a pool shared fairly remembers.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pool {
    /// What a heavy user of weight 1 may have in a window; `None` while nobody needs it.
    level: Option<f64>,
    next_at: u64,
    /// When a store may forget it.
    expires_at: u64,
    /// Since the last tick, a light user was refused; the level held somebody back.
    pressed: bool,
    held: bool,
    users: Index,
    heavy: Index,
}

/// When members were last seen, and the sum of their weights.
#[derive(Clone, Debug, Default)]
struct Index {
    seen: HashMap<Member, u64>,
    by_time: BTreeSet<(u64, Member)>,
    weight: u64,
}

/// How one user stands in a pool at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Standing {
    pub(crate) heavy: bool,
    /// What the user may have in a window as things are: all of the pool while there is no level.
    pub(crate) share: u64,
}

impl Index {
    fn note(&mut self, member: Member, now: u64) {
        match self.seen.insert(member.clone(), now) {
            Some(before) => drop(self.by_time.remove(&(before, member.clone()))),
            None => self.weight += u64::from(member.0),
        }
        self.by_time.insert((now, member));
    }

    fn prune(&mut self, until: u64) {
        for _ in 0..PRUNED_MAX {
            let Some((_, member)) = self.by_time.first().filter(|(at, _)| *at <= until).cloned() else { return };
            self.by_time.pop_first();
            self.seen.remove(&member);
            self.weight -= u64::from(member.0);
        }
    }
}

impl Pool {
    /// A pool as a store tells of it: by the weights of its users and of the heavy among them. It says how a user stands, and knows nobody.
    pub(crate) fn restore(level: Option<f64>, next_at: u64, (pressed, held): (bool, bool), weights: [u64; 2]) -> Self {
        let [users, heavy] = weights.map(|weight| Index { weight, ..Index::default() });
        Self { level, next_at, expires_at: 0, pressed, held, users, heavy }
    }

    /// The same without its users: see [`restore`](Self::restore).
    pub(crate) fn outline(&self) -> Self {
        let marks = (self.pressed, self.held);
        Self::restore(self.level, self.next_at, marks, [self.users.weight, self.heavy.weight])
    }

    /// Counts the users and lets the level rise, once a tick. `used` is what the window of the pool holds.
    pub(crate) fn tick(&mut self, now: u64, window: u64, limit: u64, used: u64) {
        if now < self.next_at {
            return;
        }
        self.next_at = now + tick_ms(window);
        self.expires_at = now + window + (window / 4).max(15_000);
        self.users.prune(now.saturating_sub(window));
        self.heavy.prune(now.saturating_sub(window));
        let limit = limit as f64;
        if self.users.weight == 0 {
            // nobody has asked for a window
            self.level = None;
        }
        if let Some(level) = self.level {
            let slack = limit * (1.0 - EPSILON) - used as f64;
            let rises = self.held && !self.pressed && slack > 0.0;
            let level = if rises { level + RISE * slack / self.heavy.weight.max(1) as f64 } else { level };
            self.level = (level < limit).then_some(level);
        }
        (self.pressed, self.held) = (false, false);
    }

    /// Says how a user stands who has `used` in the window, booked places included, and asks for `cost`. Notes the user before, and the
    /// heavy as such, each if it is to.
    pub(crate) fn stand(
        &mut self,
        now: u64,
        limit: u64,
        member: &Member,
        used: u64,
        cost: u64,
        (notes_user, notes_heavy): (bool, bool),
    ) -> Standing {
        if notes_user {
            self.users.note(member.clone(), now);
        }
        let weight = f64::from(member.0);
        let equal = limit as f64 * weight / self.all(member) as f64;
        let level = self.level.map(|level| level * weight);
        let light = used == 0 || (used + cost) as f64 <= equal.max(level.map_or(0.0, |level| BETA * level));
        if notes_heavy && !light {
            self.heavy.note(member.clone(), now);
        }
        let share = level.map_or(limit, |level| (level.max(equal) as u64).min(limit));
        Standing { heavy: !light, share }
    }

    /// What of the pool this member may not touch, if heavy: nothing if there is nobody else.
    pub(crate) fn reserve(&self, limit: u64, member: &Member) -> u64 {
        let alone = self.all(member) == u64::from(member.0);
        if alone { 0 } else { ((limit as f64 * RESERVE) as u64).max(1) }
    }

    /// The weight of all users, this one included.
    fn all(&self, member: &Member) -> u64 {
        self.users.weight.max(u64::from(member.0))
    }

    /// A light user found the pool full.
    pub(crate) fn press(&mut self, limit: u64, used: u64, cost: u64) {
        let heavy = self.heavy.weight as f64;
        if heavy > 0.0 {
            let level = self.level.unwrap_or(used as f64 / heavy);
            let equal = limit as f64 / self.users.weight.max(1) as f64;
            self.level = Some((level - GAIN * cost as f64 * level / limit as f64).max(equal).max(1.0));
            self.pressed = true;
        }
    }

    pub(crate) fn expires_at(&self) -> u64 {
        self.expires_at
    }

    /// The level held somebody back.
    pub(crate) fn hold(&mut self) {
        self.held = true;
    }
}
