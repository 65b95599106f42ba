//! All features on one org at once: fair share, weights, priority classes, slots, places in line, settlements, and an operator who changes
//! amounts, blocks and grants while it runs. No rolling window may hold more than was enforced, no set of slots more leases than it has.
//!
//! Admissions are replayed from what the permits say, never from ledgers. Random histories; a seed is named where one fails.

use std::{collections::BTreeMap, future::IntoFuture, time::Duration};

use allotment::{Admin, Control, Cost, ErrorKind, Limit, Limiter, Outcome, Permit, Policy, Subject};
use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use tokio::task::JoinHandle;

use crate::support::Stage;

const WINDOW_MS: u64 = 60_000;
const POOL: u64 = 60;
const USER: u64 = 25;
const REQUESTS: u64 = 40;
const CALLS: u64 = 6;
const CALLS_OF_USER: u64 = 3;
const GRANT: u64 = 7;
const USERS: usize = 6;
const SEEDS: u64 = 12;

fn policy() -> Policy {
    let window = Duration::from_millis(WINDOW_MS);
    Policy::new()
        .limit(Limit::new("pool").images(POOL).window(window).fair_share())
        .limit(Limit::new("user").scope(["user"]).images(USER).requests(REQUESTS).window(window))
        .limit(Limit::new("trial").images(5).window(window).shadow())
        .limit(Limit::new("calls").in_flight(CALLS))
        .limit(Limit::new("calls-of-user").scope(["user"]).in_flight(CALLS_OF_USER))
        .priority("nightly", 0.25)
        .weight(3, "tier", "pro")
}

/// What was admitted: when, to whom, how many images.
type Taken = (u64, usize, u64);

struct Run {
    stage: Stage,
    limiters: Vec<Limiter>,
    admin: Admin,
    random: StdRng,
    taken: Vec<Taken>,
    /// The place of its call in `taken`.
    held: Vec<(usize, Permit)>,
    waiting: Vec<(usize, u64, JoinHandle<Option<Permit>>)>,
    /// When each grant was made: it counts for a window. A run has grants or none.
    granted: Vec<u64>,
    grants: bool,
    /// What the pool is lowered to, until when.
    lowered: Option<(u64, u64)>,
    most_live: u64,
}

fn subject(user: usize) -> Subject {
    let tier = if user == 0 { "pro" } else { "free" };
    Subject::org("acme").user(format!("u{user}")).attribute("tier", tier)
}

impl Run {
    async fn new(stage: Stage, seed: u64) -> Self {
        let limiter = stage.limiter(policy());
        let admin = Admin::new(&limiter, "dana").unwrap();
        let limiters = ["interactive", "batch", "nightly"].map(|class| limiter.priority(class)).into();
        let random = StdRng::seed_from_u64(seed);
        let (taken, held, waiting, granted) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let (grants, lowered) = (seed % 2 == 1, None);
        Self { stage, limiters, admin, random, taken, held, waiting, granted, grants, lowered, most_live: 0 }
    }

    fn admitted(&mut self, user: usize, images: u64, permit: Permit) {
        self.taken.push((permit.at_ms(), user, images));
        let live = permit.limits().iter().filter(|status| &*status.name == "calls").map(|status| status.used);
        self.most_live = self.most_live.max(live.max().unwrap_or(0));
        self.held.push((self.taken.len() - 1, permit));
        // the heartbeat of a limiter on Redis runs by another clock than this stage: there leases are lost
        if matches!(self.stage, Stage::Memory(_)) {
            let of_user = self.held.iter().filter(|(call, _)| self.taken[*call].1 == user).count();
            assert!(self.held.len() as u64 <= CALLS && of_user as u64 <= CALLS_OF_USER, "{} held", self.held.len());
        }
    }

    /// Lets the tasks go on until each waits for time or has ended. A task here awaits the clock or nothing.
    async fn settle(&mut self) {
        for _ in 0..200 {
            tokio::task::yield_now().await;
        }
        let (ended, waiting) =
            std::mem::take(&mut self.waiting).into_iter().partition(|(_, _, task)| task.is_finished());
        self.waiting = waiting;
        for (user, images, task) in ended {
            let ended: JoinHandle<Option<Permit>> = task;
            if let Some(permit) = ended.await.unwrap() {
                self.admitted(user, images, permit);
            }
        }
    }

    async fn step(&mut self) {
        let user = *[0, 0, 0, 1, 1, 2, 3, 4, 5].choose(&mut self.random).unwrap();
        let images = *[1, 1, 1, 2, 5].choose(&mut self.random).unwrap();
        let limiter = self.limiters.choose(&mut self.random).unwrap().clone();
        match self.random.random_range(0..100) {
            0..55 => {
                let outcome = limiter.try_acquire(&subject(user), Cost::images(images)).await.unwrap();
                if let Outcome::Admitted(permit) = outcome {
                    self.admitted(user, images, permit);
                    self.assert_lowered();
                }
            }
            // who waits wakes by the clock of the embedded store
            55..70 if self.waiting.len() < 20 && matches!(self.stage, Stage::Memory(_)) => {
                let patience = Duration::from_millis(self.random.random_range(1..60_000));
                let waits = limiter.acquire(&subject(user), Cost::images(images)).max_wait(patience).into_future();
                self.waiting.push((user, images, tokio::spawn(async move { waits.await.ok() })));
            }
            70..92 if !self.held.is_empty() => {
                let place = self.random.random_range(0..self.held.len());
                let (call, permit) = self.held.swap_remove(place);
                let taken = &mut self.taken[call];
                let settled = match self.random.random_range(0..4) {
                    0 => permit.release().await.map(|()| taken.2 = 0),
                    1 => {
                        drop(permit);
                        Ok(())
                    }
                    // used as estimated
                    _ => permit.commit(Cost::images(taken.2)).await,
                };
                // where the lease was lost, the charge stays
                assert!(settled.is_ok() || settled.is_err_and(|error| error.kind() == ErrorKind::LeaseLost));
            }
            92..97 => self.govern().await,
            _ => {
                if let Some((_, _, task)) = self.waiting.pop() {
                    // gives up
                    task.abort();
                    assert!(task.await.is_err(), "it waits, as it had not ended before");
                }
            }
        }
    }

    /// None of these admits more than the policy does, but for a grant.
    async fn govern(&mut self) {
        let user = format!("u{}", self.random.random_range(0..USERS));
        let lasting = Duration::from_millis(self.random.random_range(1..30_000));
        let control = match self.random.random_range(0..7) {
            0 => Control::block().on("user", user).lasting(lasting),
            1 => {
                let amount = self.random.random_range(10..=POOL);
                let until = self.stage.now_ms() + u64::try_from(lasting.as_millis()).unwrap();
                self.lowered = Some((amount, until));
                Control::amount("pool", "images", amount).lasting(lasting)
            }
            2 => Control::scale("user", 50).on("user", user).lasting(lasting),
            3 => Control::candidate("pool", "images", 3).lasting(lasting),
            4 => Control::amount("calls", "in_flight", self.random.random_range(1..=CALLS)).lasting(lasting),
            5 if self.grants => {
                self.granted.push(self.stage.now_ms());
                Control::grant("pool", "images", GRANT)
            }
            _ => Control::shadow("trial").lasting(lasting),
        };
        self.admin.apply("acme", &control).await.unwrap();
        let active = self.admin.controls("acme").await.unwrap();
        if let Some(active) = active.choose(&mut self.random).filter(|_| self.random.random_bool(0.2)) {
            assert!(self.admin.withdraw("acme", &active.control).await.unwrap());
            if active.control == Control::amount("pool", "images", self.lowered.map_or(0, |(amount, _)| amount)) {
                self.lowered = None;
            }
        }
    }

    /// A call that was just admitted found room in what the pool is lowered to.
    fn assert_lowered(&self) {
        let (now, grant) = (self.stage.now_ms(), if self.granted.is_empty() { 0 } else { GRANT });
        let Some((amount, _)) = self.lowered.filter(|(_, until)| now < *until) else { return };
        let window = self.taken.iter().filter(|(at, ..)| at + WINDOW_MS > now && *at <= now);
        let holds: u64 = window.map(|(_, _, images)| images).sum();
        assert!(holds <= amount + grant, "lowered to {amount}, and it holds {holds} after an admission");
    }

    /// What a window of the pool may hold that ends then: a grant counts from when it was made for a window, and what it let in leaves
    /// another window later.
    fn pool_at(&self, at: u64) -> u64 {
        let counts = |granted: &&u64| **granted <= at && at < **granted + 2 * WINDOW_MS;
        POOL + if self.granted.iter().any(|granted| counts(&granted)) { GRANT } else { 0 }
    }

    /// Replays what was taken.
    fn assert_kept(&self, seed: u64) {
        let mut taken = self.taken.clone();
        taken.sort_unstable();
        for (index, (at, user, _)) in taken.iter().enumerate() {
            let window: Vec<_> = taken[..=index].iter().filter(|(before, ..)| before + WINDOW_MS > *at).collect();
            let pool: u64 = window.iter().map(|(_, _, images)| images).sum();
            let of_user = || window.iter().filter(|(_, of, _)| of == user);
            let (images, requests) = (of_user().map(|(_, _, images)| images).sum::<u64>(), of_user().count() as u64);
            assert!(pool <= self.pool_at(*at), "seed {seed}: the pool holds {pool} at {at}");
            assert!(images <= USER && requests <= REQUESTS, "seed {seed}: u{user} has {images} in {requests} at {at}");
        }
        assert!(self.most_live <= CALLS, "seed {seed}: {} calls under way", self.most_live);
    }
}

async fn plays(stage: Stage, seed: u64) -> BTreeMap<&'static str, u64> {
    let mut run = Run::new(stage, seed).await;
    for _ in 0..600 {
        run.step().await;
        if run.random.random_bool(0.5) {
            let pause = *[1, 20, 200, 1_000, 3_000].choose(&mut run.random).unwrap();
            run.stage.advance_ms(pause);
        }
        run.settle().await;
    }
    run.assert_kept(seed);
    let images = run.taken.iter().map(|(_, _, images)| images).sum();
    BTreeMap::from([("admitted", run.taken.len() as u64), ("images", images), ("grants", run.granted.len() as u64)])
}

#[tokio::test]
async fn no_window_is_over_with_all_features_on() {
    let mut sums = BTreeMap::new();
    for seed in 0..SEEDS {
        for stage in Stage::both().await {
            for (name, count) in plays(stage, seed).await {
                *sums.entry(name).or_default() += count;
            }
        }
    }
    println!("{sums:?} in {SEEDS} runs on each store");
    let images: u64 = sums["images"];
    assert!(images > 2 * SEEDS * POOL && sums["grants"] > 0, "too little was admitted to tell: {sums:?}");
}

/// The replay sees a window that is over: an operator who raises the pool without the replay's knowledge.
#[tokio::test]
#[should_panic(expected = "the pool holds")]
async fn a_window_that_is_over_is_seen() {
    let stage = Stage::memory();
    let mut run = Run::new(stage, 1).await;
    run.admin.apply("acme", &Control::amount("pool", "images", POOL * 2)).await.unwrap();
    for user in (0..USERS).cycle().take(40) {
        let outcome = run.limiters[0].try_acquire(&subject(user), Cost::images(5)).await.unwrap();
        if let Outcome::Admitted(permit) = outcome {
            run.taken.push((permit.at_ms(), user, 5));
        }
    }
    run.assert_kept(1);
}
