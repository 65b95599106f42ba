//! Users of one pool in simulated time, on the embedded store: who is served, how long they wait, and how much of the pool is used.
//!
//! Invariant: no run ends well whose admissions overran the limit in any window. They are counted here, when a call truly starts, and
//! not by what the store says.
//!
//! Users call as a Poisson process. A caller gives up at a denial, or waits as the limiter's own waiters do: at its place in line, asking
//! at the limiter's pace whether it has moved up.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
    ops::Range,
    time::Duration,
};

use allotment::{
    ManualClock,
    testing::{RawAcquire, RawAnswer, RawAsk, RawFair, RawLedger, RawStore, RawVerdict},
};
use rand::{Rng, SeedableRng, rngs::StdRng};

const WINDOW_MS: u64 = 60_000;
/// The pace of questions, and the grid of places: a 64th of the window, and the least divisor of the window above it.
const PACE_MS: u64 = WINDOW_MS / 64;
const GRID_MS: u64 = 1_000;
const UNBOUNDED_MS: u64 = u64::MAX >> 16;

/// Users who behave alike.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Group {
    name: &'static str,
    users: u32,
    /// Calls of one user in a minute.
    per_minute: f64,
    weight: u32,
    /// 0: gives up at a denial.
    max_wait_ms: u64,
    /// When they appear.
    from_ms: u64,
    /// When they call for the last time.
    until_ms: u64,
    /// The share of the pool that they leave to others, as a priority class does.
    headroom: f64,
}

impl Group {
    pub(crate) const fn new(name: &'static str, users: u32, per_minute: f64) -> Self {
        Self { name, users, per_minute, weight: 1, max_wait_ms: 0, from_ms: 0, until_ms: u64::MAX, headroom: 0.0 }
    }

    pub(crate) const fn waiting(self, max_wait_ms: u64) -> Self {
        Self { max_wait_ms, ..self }
    }

    pub(crate) const fn since_minute(self, minute: u64) -> Self {
        Self { from_ms: minute * WINDOW_MS, ..self }
    }

    pub(crate) const fn until_minute(self, minute: u64) -> Self {
        Self { until_ms: minute * WINDOW_MS, ..self }
    }

    pub(crate) const fn leaving(self, headroom: f64) -> Self {
        Self { headroom, ..self }
    }

    pub(crate) const fn weighing(self, weight: u32) -> Self {
        Self { weight, ..self }
    }

    /// What the group sees of a limit.
    fn limit(&self, limit: u64) -> u64 {
        ((limit as f64 * (1.0 - self.headroom)) as u64).max(1)
    }

    /// How long the group's calls may have a place ahead: those that leave room must not fill it with bookings.
    fn max_wait_ms(&self, left_ms: u64) -> u64 {
        if self.headroom > 0.0 {
            left_ms.min((self.headroom.min(1.0 / 16.0) * WINDOW_MS as f64) as u64)
        } else {
            left_ms
        }
    }
}

/// A pool, and who uses it.
#[derive(Clone, Debug)]
pub(crate) struct Scene {
    pub(crate) limit: u64,
    pub(crate) minutes: u64,
    pub(crate) groups: Vec<Group>,
    pub(crate) fair: bool,
}

/// What came of the calls of one user that were asked in one minute.
#[derive(Clone, Debug, Default)]
struct Minute {
    asked: u64,
    served: u64,
    waits_ms: Vec<u64>,
}

/// What came of all.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// By group, user and minute of asking.
    users: BTreeMap<(&'static str, u32, u64), Minute>,
    /// When each admitted call started, in order.
    started_ms: Vec<u64>,
    limit: u64,
}

impl Outcome {
    fn within(&self, group: &str, minutes: Range<u64>) -> impl Iterator<Item = (u32, &Minute)> {
        let all = self.users.iter().filter(move |((name, _, minute), _)| *name == group && minutes.contains(minute));
        all.map(|((_, user, _), minute)| (*user, minute))
    }

    fn of(&self, group: &str, minutes: Range<u64>) -> Minute {
        let mut sum = Minute::default();
        for (_, minute) in self.within(group, minutes) {
            sum.asked += minute.asked;
            sum.served += minute.served;
            sum.waits_ms.extend(&minute.waits_ms);
        }
        sum
    }

    /// The share of a group's calls that were served.
    pub(crate) fn served(&self, group: &str, minutes: Range<u64>) -> f64 {
        let sum = self.of(group, minutes);
        sum.served as f64 / sum.asked.max(1) as f64
    }

    /// The share of the pool that was used.
    pub(crate) fn used(&self, minutes: Range<u64>) -> f64 {
        let before = |minute: u64| self.started_ms.partition_point(|at| *at < minute * WINDOW_MS);
        (before(minutes.end) - before(minutes.start)) as f64 / (self.limit * (minutes.end - minutes.start)) as f64
    }

    /// The most that any window `(x - window, x]` holds.
    fn fullest(&self) -> usize {
        let (mut first, mut fullest) = (0, 0);
        for (last, at) in self.started_ms.iter().enumerate() {
            while self.started_ms[first] + WINDOW_MS <= *at {
                first += 1;
            }
            fullest = fullest.max(last - first + 1);
        }
        fullest
    }

    /// How long the slowest hundredth of the served waited at least.
    pub(crate) fn wait_p99_ms(&self, group: &str, minutes: Range<u64>) -> u64 {
        let mut waits = self.of(group, minutes).waits_ms;
        waits.sort_unstable();
        waits.get(waits.len() * 99 / 100).copied().unwrap_or(0)
    }

    /// Jain's index of what each user of a group was served: 1 if all got the same.
    pub(crate) fn jain(&self, group: &str, minutes: Range<u64>) -> f64 {
        let mut by_user = BTreeMap::<u32, f64>::new();
        for (user, minute) in self.within(group, minutes) {
            *by_user.entry(user).or_default() += minute.served as f64;
        }
        let (sum, squares) = by_user.values().fold((0.0, 0.0), |(sum, squares), x| (sum + x, squares + x * x));
        sum * sum / (by_user.len() as f64 * squares)
    }
}

/// What happens next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    /// A user calls, and will again.
    Call { group: usize, user: u32 },
    /// A waiting call asks: for a place, or whether its place has moved up.
    Ask { call: usize },
    /// The place of a waiting call has come, if it is still that.
    Due { call: usize, place: u64 },
}

struct Call {
    group: usize,
    user: u32,
    id: [u8; 16],
    asked_ms: u64,
    place: Option<u64>,
    done: bool,
}

struct Simulation<'a> {
    scene: &'a Scene,
    store: RawStore,
    clock: ManualClock,
    start_ms: u64,
    random: StdRng,
    events: BinaryHeap<Reverse<(u64, u64, Event)>>,
    number: u64,
    calls: Vec<Call>,
    noted: BTreeMap<(usize, u32), u64>,
    outcome: Outcome,
}

impl Simulation<'_> {
    fn at(&mut self, ms: u64, event: Event) {
        self.number += 1;
        self.events.push(Reverse((ms, self.number, event)));
    }

    fn pause_ms(&mut self, per_minute: f64) -> u64 {
        let uniform: f64 = self.random.random();
        (-(1.0 - uniform).ln() * WINDOW_MS as f64 / per_minute).ceil() as u64
    }

    async fn ask(&mut self, index: usize, now: u64, left_ms: u64, moves_up: bool) -> RawAnswer {
        let call = &self.calls[index];
        let (group, user) = (self.scene.groups[call.group], call.user);
        let name = format!("{}{user}", group.name);
        let second = now / 1_000;
        let half = now / (WINDOW_MS / 2);
        // as a process of the limiter does: a user in each half of a window, a heavy one in each second
        let notes = match self.noted.insert((call.group, user), second) {
            Some(noted) if noted == second => 0,
            Some(noted) if noted * 1_000 / (WINDOW_MS / 2) == half => 1,
            _ => 2,
        };
        let ledger = |user: Option<String>| RawLedger { user, window_ms: WINDOW_MS };
        let limit = self.scene.limit;
        let asked = [(ledger(None), Some(group.limit(limit))), (ledger(Some(name.clone())), None)];
        let asked = asked.map(|(ledger, limit)| RawAsk { ledger, amounts: [1, 0, 1], limits: [None, None, limit] });
        let fair = RawFair { pool: 0, user: 1, place: 2, limit, weight: group.weight, name, notes };
        let fair = if self.scene.fair { vec![fair] } else { Vec::new() };
        let max_wait_ms = if moves_up { UNBOUNDED_MS } else { group.max_wait_ms(left_ms) };
        let request = RawAcquire {
            id: call.id,
            asked: asked.into(),
            home: Some(1),
            max_wait_ms,
            moves_up,
            fair,
            ..RawAcquire::default()
        };
        self.store.acquire("acme", &[request]).await.pop().unwrap().unwrap()
    }

    fn end(&mut self, index: usize, served_ms: Option<u64>) {
        let call = &mut self.calls[index];
        if std::mem::replace(&mut call.done, true) {
            return;
        }
        let asked_ms = call.asked_ms - self.start_ms;
        let name = self.scene.groups[call.group].name;
        let minute = self.outcome.users.entry((name, call.user, asked_ms / WINDOW_MS)).or_default();
        minute.asked += 1;
        if let Some(at) = served_ms {
            minute.served += 1;
            minute.waits_ms.push(at - call.asked_ms);
            self.outcome.started_ms.push(at - self.start_ms);
        }
    }

    async fn call(&mut self, group: usize, user: u32, now: u64) {
        let Group { per_minute, until_ms, .. } = self.scene.groups[group];
        if now - self.start_ms >= until_ms {
            return;
        }
        let pause = self.pause_ms(per_minute);
        self.at(now + pause, Event::Call { group, user });
        let mut id: [u8; 16] = self.random.random();
        id[..6].copy_from_slice(&now.to_be_bytes()[2..]);
        self.calls.push(Call { group, user, id, asked_ms: now, place: None, done: false });
        self.ask_for(self.calls.len() - 1, now).await;
    }

    /// Asks for a place, or for a better one. A caller that has none to promise asks again after a grid step, as long as the time it was
    /// told is within its patience.
    async fn ask_for(&mut self, index: usize, now: u64) {
        let call = &self.calls[index];
        if call.done || call.place.is_some_and(|place| place <= now) {
            return;
        }
        let (asked_ms, has_place) = (call.asked_ms, call.place.is_some());
        let left = (asked_ms + self.scene.groups[call.group].max_wait_ms).saturating_sub(now);
        let answer = self.ask(index, now, left, has_place).await;
        match answer.verdict {
            RawVerdict::Admitted { at } if at <= now => self.end(index, Some(now)),
            RawVerdict::Admitted { at } => {
                if self.calls[index].place != Some(at) {
                    self.calls[index].place = Some(at);
                    self.at(at, Event::Due { call: index, place: at });
                }
                let pace = if has_place { PACE_MS } else { self.random.random_range(1..=PACE_MS) };
                self.at(now + pace, Event::Ask { call: index });
            }
            RawVerdict::Denied { at, .. } if at - now <= left => self.at(now + GRID_MS, Event::Ask { call: index }),
            _ => self.end(index, None),
        }
    }
}

/// Lets the users call for the minutes of the scene. Calls that still wait in the end are not counted.
pub(crate) async fn play(scene: &Scene, seed: u64) -> Outcome {
    let clock = ManualClock::new();
    let mut simulation = Simulation {
        scene,
        store: RawStore::in_memory(clock.clone()),
        start_ms: clock.now_ms(),
        clock,
        random: StdRng::seed_from_u64(seed),
        events: BinaryHeap::new(),
        number: 0,
        calls: Vec::new(),
        noted: BTreeMap::new(),
        outcome: Outcome { users: BTreeMap::new(), started_ms: Vec::new(), limit: scene.limit },
    };
    let start = simulation.start_ms;
    for (index, group) in scene.groups.iter().enumerate() {
        for user in 0..group.users {
            let within = (WINDOW_MS as f64 / group.per_minute) as u64 + 1;
            let first = start + group.from_ms + simulation.random.random_range(0..within);
            simulation.at(first, Event::Call { group: index, user });
        }
    }
    while let Some(Reverse((at, _, event))) = simulation.events.pop() {
        if at >= start + scene.minutes * WINDOW_MS {
            break;
        }
        simulation.clock.advance(Duration::from_millis(at - simulation.clock.now_ms()));
        match event {
            Event::Call { group, user } => simulation.call(group, user, at).await,
            Event::Ask { call } => simulation.ask_for(call, at).await,
            Event::Due { call, place } if simulation.calls[call].place == Some(place) => {
                simulation.end(call, Some(place));
            }
            Event::Due { .. } => {}
        }
    }
    let mut outcome = simulation.outcome;
    outcome.started_ms.sort_unstable();
    assert!(outcome.fullest() as u64 <= scene.limit, "seed {seed}: a window held {} in {scene:?}", outcome.fullest());
    outcome
}
