//! Fair share, in simulated time on the embedded store: who is served, and how much of the pool is used.
//!
//! Users call as a Poisson process. A caller gives up at a denial, or waits as the limiter's own waiters do: at its place in line, asking
//! at the limiter's pace whether it has moved up.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
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

/// Users who behave alike.
#[derive(Clone, Copy, Debug)]
struct Group {
    name: &'static str,
    users: u32,
    /// Calls of one user in a minute.
    per_minute: f64,
    weight: u32,
    /// 0: gives up at a denial.
    max_wait_ms: u64,
    /// When they appear.
    from_ms: u64,
}

impl Group {
    const fn new(name: &'static str, users: u32, per_minute: f64) -> Self {
        Self { name, users, per_minute, weight: 1, max_wait_ms: 0, from_ms: 0 }
    }

    const fn waiting(self, max_wait_ms: u64) -> Self {
        Self { max_wait_ms, ..self }
    }

    const fn from_minute(self, minute: u64) -> Self {
        Self { from_ms: minute * WINDOW_MS, ..self }
    }

    const fn weighing(self, weight: u32) -> Self {
        Self { weight, ..self }
    }
}

/// A pool, and who uses it.
struct Scene {
    limit: u64,
    minutes: u64,
    groups: Vec<Group>,
    fair: bool,
    seed: u64,
}

/// What came of the calls of one user that were asked in one minute.
#[derive(Clone, Debug, Default)]
struct Minute {
    asked: u64,
    served: u64,
    waits_ms: Vec<u64>,
}

/// What came of all.
struct Outcome {
    /// By group, user and minute of asking.
    users: BTreeMap<(&'static str, u32, u64), Minute>,
    /// Admissions by minute.
    used: Vec<u64>,
    limit: u64,
}

impl Outcome {
    fn of(&self, group: &str, minutes: std::ops::Range<u64>) -> Minute {
        let mut sum = Minute::default();
        for ((_, _, _), minute) in
            self.users.iter().filter(|((name, _, minute), _)| *name == group && minutes.contains(minute))
        {
            sum.asked += minute.asked;
            sum.served += minute.served;
            sum.waits_ms.extend(&minute.waits_ms);
        }
        sum
    }

    /// The share of a group's calls that were served.
    fn served(&self, group: &str, minutes: std::ops::Range<u64>) -> f64 {
        let sum = self.of(group, minutes);
        sum.served as f64 / sum.asked.max(1) as f64
    }

    /// The share of the pool that was used.
    fn used(&self, minutes: std::ops::Range<u64>) -> f64 {
        let used: u64 = minutes.clone().map(|minute| self.used[minute as usize]).sum();
        used as f64 / (self.limit * (minutes.end - minutes.start)) as f64
    }

    /// How long the slowest hundredth of the served waited at least.
    fn wait_p99_ms(&self, group: &str, minutes: std::ops::Range<u64>) -> u64 {
        let mut waits = self.of(group, minutes).waits_ms;
        waits.sort_unstable();
        waits.get(waits.len() * 99 / 100).copied().unwrap_or(0)
    }

    /// Jain's index of what each user of a group was served: 1 if all got the same.
    fn jain(&self, group: &str, minutes: std::ops::Range<u64>) -> f64 {
        let mut by_user = BTreeMap::<u32, f64>::new();
        for ((_, user, _), minute) in
            self.users.iter().filter(|((name, _, minute), _)| *name == group && minutes.contains(minute))
        {
            *by_user.entry(*user).or_default() += minute.served as f64;
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

    async fn ask(&mut self, index: usize, now: u64, max_wait_ms: u64, moves_up: bool) -> RawAnswer {
        let call = &self.calls[index];
        let (group, user) = (self.scene.groups[call.group], call.user);
        let name = format!("{}{user}", group.name);
        let second = now / 1_000;
        let notes = self.noted.insert((call.group, user), second) != Some(second);
        let ledger = |user: Option<String>| RawLedger { user, window_ms: WINDOW_MS };
        let limit = self.scene.limit;
        let asked = [(ledger(None), Some(limit)), (ledger(Some(name.clone())), None)];
        let asked = asked.map(|(ledger, limit)| RawAsk { ledger, amounts: [1, 0, 1], limits: [None, None, limit] });
        let fair = RawFair { pool: 0, user: 1, place: 2, limit, weight: group.weight, name, notes };
        let fair = if self.scene.fair { vec![fair] } else { Vec::new() };
        let request = RawAcquire { id: call.id, asked: asked.into(), home: Some(1), max_wait_ms, moves_up, fair };
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
            let minute = ((at - self.start_ms) / WINDOW_MS) as usize;
            if let Some(used) = self.outcome.used.get_mut(minute) {
                *used += 1;
            }
        }
    }

    async fn call(&mut self, group: usize, user: u32, now: u64) {
        let per_minute = self.scene.groups[group].per_minute;
        let pause = self.pause_ms(per_minute);
        self.at(now + pause, Event::Call { group, user });
        let mut id: [u8; 16] = self.random.random();
        id[..6].copy_from_slice(&now.to_be_bytes()[2..]);
        self.calls.push(Call { group, user, id, asked_ms: now, place: None, done: false });
        self.ask_for(self.calls.len() - 1, now).await;
    }

    /// Asks for a place, or for a better one.
    async fn ask_for(&mut self, index: usize, now: u64) {
        let call = &self.calls[index];
        if call.done || call.place.is_some_and(|place| place <= now) {
            return;
        }
        let (asked_ms, has_place) = (call.asked_ms, call.place.is_some());
        let left = (asked_ms + self.scene.groups[call.group].max_wait_ms).saturating_sub(now);
        let answer = self.ask(index, now, if has_place { u64::MAX >> 16 } else { left }, has_place).await;
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

async fn play(scene: &Scene) -> Outcome {
    let clock = ManualClock::new();
    let mut simulation = Simulation {
        scene,
        store: RawStore::in_memory(clock.clone()),
        start_ms: clock.now_ms(),
        clock,
        random: StdRng::seed_from_u64(scene.seed),
        events: BinaryHeap::new(),
        number: 0,
        calls: Vec::new(),
        noted: BTreeMap::new(),
        outcome: Outcome { users: BTreeMap::new(), used: vec![0; scene.minutes as usize], limit: scene.limit },
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
    simulation.outcome
}

#[tokio::test]
async fn explore() {
    let wait: u64 = std::env::var("W").map_or(0, |w| w.parse().unwrap());
    for (name, limit, minutes, groups) in [
        ("incident", 4000, 10, vec![Group::new("light", 200, 5.0), Group::new("greedy", 1, 10_000.0)]),
        ("late", 4000, 10, vec![Group::new("light", 200, 5.0).from_minute(4), Group::new("greedy", 1, 10_000.0)]),
        ("20 greedy", 4000, 10, vec![Group::new("light", 200, 5.0), Group::new("greedy", 20, 1_000.0)]),
        (
            "middling",
            1000,
            10,
            vec![Group::new("light", 8, 10.0), Group::new("middling", 1, 150.0), Group::new("greedy", 1, 10_000.0)],
        ),
        ("pool 250", 250, 20, vec![Group::new("light", 300, 0.5), Group::new("greedy", 1, 3_000.0)]),
        ("pool 250, 5", 250, 20, vec![Group::new("light", 300, 0.5), Group::new("greedy", 5, 1_000.0)]),
        ("pool 50", 50, 40, vec![Group::new("light", 40, 0.5), Group::new("greedy", 1, 600.0)]),
        ("two", 4000, 10, vec![Group::new("greedy", 2, 10_000.0)]),
        ("alone", 4000, 10, vec![Group::new("greedy", 1, 10_000.0)]),
        ("hundred", 4000, 10, vec![Group::new("all", 100, 60.0)]),
        ("weights", 4000, 10, vec![Group::new("one", 1, 10_000.0), Group::new("three", 1, 10_000.0).weighing(3)]),
    ] {
        let groups: Vec<_> = groups.into_iter().map(|group| group.waiting(wait)).collect();
        let scene = Scene { limit, minutes, groups: groups.clone(), fair: std::env::var("F").is_err(), seed: 1 };
        let outcome = play(&scene).await;
        print!("{name:12} used {:.3}", outcome.used(2..minutes));
        for group in &groups {
            print!(
                "  {} {:.3} (p99 {} ms, jain {:.3})",
                group.name,
                outcome.served(group.name, 2..minutes),
                outcome.wait_p99_ms(group.name, 2..minutes),
                outcome.jain(group.name, 2..minutes)
            );
        }
        if name == "late" {
            for minute in 4..9 {
                print!(" {:.3}/{:.3}", outcome.served("light", minute..minute + 1), outcome.used(minute..minute + 1));
            }
        }
        println!();
    }
}
