//! Lua equals the model: random histories run on the embedded store and on Redis, step by step, and must agree in every answer and in
//! everything stored.
//!
//! `ALLOTMENT_TEST_STEPS` sets how many steps are run (default 100,000), `ALLOTMENT_TEST_SEED` the first seed.

use std::{collections::BTreeMap, time::Duration};

use allotment::{
    ManualClock,
    testing::{RawAcquire, RawAnswer, RawAsk, RawFair, RawLedger, RawSettle, RawStore, RawTold, RawVerdict},
};
use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};

use crate::support::{ClockedServer, Server};

const STEPS: u64 = 100_000;

fn from_env(name: &str, default: u64) -> u64 {
    std::env::var(name)
        .map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name}={text}: a whole number is wanted")))
}

/// What a reservation needs to be settled.
#[derive(Clone)]
struct Made {
    request: RawAcquire,
    made_at: Option<u64>,
    place: u64,
}

/// One history: a shape of ledgers and limits, and the reservations so far.
struct History {
    random: StdRng,
    org: String,
    clock: ManualClock,
    memory: RawStore,
    shapes: Vec<Vec<(RawLedger, [Option<u64>; 3])>>,
    home: Option<usize>,
    scale: u64,
    pace_ms: u64,
    steps: u64,
    /// The resource of the first ledger that users share fairly, if the second counts a user's part of it.
    fair: Option<usize>,
    /// How many slots for calls under way the org and each user have.
    slots: [Option<u64>; 2],
    /// The controls that requests are planned by, if the org has any at times.
    controls: Option<(u64, Option<u64>)>,
    /// What an upstream tells, if it does: drawn by itself, so that all else is as it would be without.
    told: Option<StdRng>,
    made: Vec<Made>,
    /// A time at which something changes: of a denial or of a place.
    turning_at: u64,
}

impl History {
    fn new(seed: u64, clock: &ManualClock) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let windows: &[u64] = [
            &[60_000, 60_000][..],
            &[60_000, 60_000],
            &[60_000, 1_000],
            &[61_000, 420_000, 1_000],
            &[60_000],
            &[3_600_000, 60_000],
        ]
        .choose(&mut random)
        .unwrap();
        // an org with many users, whose log is folded while theirs are quiet
        let busy = random.random_bool(0.15);
        let windows = if busy { &[60_000, 60_000][..] } else { windows };
        let users = if busy { 60 } else { *[1, 2, 5, 20].choose(&mut random).unwrap() };
        let limits = if busy { &[400, 4_000][..] } else { &[1, 5, 20, 100, 4_000, 40_000] };
        let limit: u64 = *limits.choose(&mut random).unwrap();
        let homeless = !busy && random.random_bool(0.3);
        let shapes = (0..users)
            .map(|user| {
                let ledger = |(index, window_ms): (usize, &u64)| {
                    let user = (index > 0 || (windows.len() == 1 && !homeless)).then(|| format!("u{user}"));
                    RawLedger { user, window_ms: *window_ms }
                };
                windows.iter().enumerate().map(ledger).collect()
            })
            .collect::<Vec<Vec<RawLedger>>>();
        let limits: Vec<[Option<u64>; 3]> = windows
            .iter()
            .map(|_| {
                std::array::from_fn(|_| random.random_bool(0.7).then(|| (limit * random.random_range(1..4)).max(1)))
            })
            .collect();
        let shapes: Vec<Vec<_>> =
            shapes.into_iter().map(|shape| shape.into_iter().zip(limits.iter().copied()).collect()).collect();
        let longest = windows.iter().max().copied();
        let home = windows.iter().position(|window| Some(*window) == longest).filter(|_| !homeless);
        let home = home.map(|home| if windows.len() > 1 && windows[1] == windows[home] { 1 } else { home });
        let paces = if busy { &[100, 400][..] } else { &[2, 20, 200, 2_000] };
        let pace_ms = windows.iter().min().unwrap() / paces.choose(&mut random).unwrap();
        let scale = *[1, 10, 100].choose(&mut random).unwrap();
        let memory = RawStore::in_memory(clock.clone());
        let fair = [0, 1, 2].choose(&mut random).copied();
        let fair = fair.filter(|_| windows.len() > 1 && windows[0] == windows[1] && random.random_bool(0.5));
        let slots = random.random_bool(0.3);
        let slots = [2, 1]
            .map(|most| random.random_range(0..=most * 2))
            .map(|amount| Some(amount).filter(|amount| slots && *amount > 0));
        Self {
            fair,
            slots,
            controls: random.random_bool(0.2).then_some((0, None)),
            org: format!("m{seed}"),
            clock: clock.clone(),
            memory,
            shapes,
            home,
            scale,
            pace_ms: pace_ms.max(1),
            steps: if busy { 600 } else { *[60, 200, 600].choose(&mut random).unwrap() },
            told: seed.is_multiple_of(4).then(|| StdRng::seed_from_u64(seed)),
            made: Vec::new(),
            turning_at: 0,
            random,
        }
    }

    fn ledgers(&self) -> Vec<RawLedger> {
        let all = self.shapes.iter().flatten().map(|(ledger, _)| (format!("{ledger:?}"), ledger.clone()));
        all.collect::<BTreeMap<_, _>>().into_values().collect()
    }

    fn id(&mut self) -> [u8; 16] {
        let mut id: [u8; 16] = self.random.random();
        id[..6].copy_from_slice(&self.clock.now_ms().to_be_bytes()[2..]);
        id
    }

    fn request(&mut self) -> RawAcquire {
        let shape = self.shapes.choose(&mut self.random).unwrap().clone();
        let top = shape.iter().flat_map(|(_, limits)| limits).flatten().min().copied().unwrap_or(10);
        let random = &mut self.random;
        let amounts: [u64; 3] = std::array::from_fn(|_| {
            if random.random_bool(0.75) { random.random_range(0..=(top / self.scale).max(1).min(top)) } else { 0 }
        });
        let asked = shape.into_iter().map(|(ledger, limits)| RawAsk { ledger, amounts, limits }).collect();
        let asked: Vec<RawAsk> = asked;
        let max_wait_ms = *[0, 0, 500, 30_000, 600_000].choose(&mut self.random).unwrap();
        let share = |place: usize| {
            let (limit, name) = (asked[0].limits[place]?, asked[1].ledger.user.clone()?);
            // who pays more weighs more; whether the call is noted is the client's to know
            let weight = [1, 1, 4, 300][name.len() % 4];
            let notes = self.random.random_range(0..3);
            (amounts[place] > 0).then_some(RawFair { pool: 0, user: 1, place, limit, weight, name, notes })
        };
        let name = asked.last().and_then(|asked| asked.ledger.user.clone());
        let of_user = self.slots[1].filter(|_| name.is_some()).map(|amount| (name, amount));
        let slots = self.slots[0].map(|amount| (None, amount)).into_iter().chain(of_user).collect();
        let controls = self.controls.unwrap_or_default();
        let fair = self.fair.and_then(share).into_iter().collect();
        RawAcquire {
            id: self.id(),
            asked,
            home: self.home,
            max_wait_ms,
            moves_up: false,
            fair,
            slots,
            controls,
            ..RawAcquire::default()
        }
    }

    /// What a look at both stores says of a request that is alone, new, not willing to wait, and not noted in a pool: what is then decided.
    async fn foresee(&self, redis: &RawStore, batch: &[RawAcquire], repeats: bool) -> Option<[RawVerdict; 2]> {
        let [request] = batch else { return None };
        let is_noted = request.fair.iter().any(|fair| fair.notes > 0);
        let is_known = self.made.iter().any(|made| made.request.id == request.id);
        if repeats || is_noted || is_known || request.max_wait_ms > 0 {
            return None;
        }
        let model = self.memory.foresee(&self.org, request).await.unwrap();
        let lua = redis.foresee(&self.org, request).await.unwrap();
        Some([model.verdict, lua.verdict])
    }

    /// A request as before: a repeat, or a question whether the place moved up.
    fn repeated(&mut self) -> Option<RawAcquire> {
        // a record lives for 60 s at least, and nobody repeats for as long
        let recent: Vec<_> = self.made.iter().filter(|made| made.place + 60_000 > self.clock.now_ms()).collect();
        let made = recent.choose(&mut self.random)?;
        let mut request = made.request.clone();
        request.moves_up = self.random.random_bool(0.7);
        request.controls = self.controls.unwrap_or_default();
        if self.random.random_bool(0.05) {
            // with another cost: refused
            request.asked.iter_mut().for_each(|asked| asked.amounts[1] = asked.amounts[1].saturating_sub(1));
        }
        Some(request)
    }

    /// Changes a control, or learns what has changed.
    async fn govern(&mut self, redis: &RawStore, at: &str) {
        if self.random.random_bool(0.5) {
            let id = *["a", "b"].choose(&mut self.random).unwrap();
            let text = self.random.random_bool(0.7).then_some("{}");
            let after = text.and_then(|_| self.random.random_bool(0.7).then(|| self.random.random_range(1..60_000)));
            let model = self.memory.govern(&self.org, id, text, after).await.unwrap();
            assert_eq!(model, redis.govern(&self.org, id, text, after).await.unwrap(), "{at}: {id} {text:?}");
        }
        if let Some(random) = self.told.as_mut().filter(|_| self.controls.is_some()) {
            let after = *[50, 1_000, 1_050, 1_150, 20_000].choose(random).unwrap();
            let id = *["a", "b", "hinted"].choose(random).unwrap();
            let model = self.memory.hint(&self.org, id, "[]", after).await.unwrap();
            assert_eq!(model, redis.hint(&self.org, id, "[]", after).await.unwrap(), "{at}: hint {id} of {after} ms");
        }
        if self.random.random_bool(0.8) {
            let (version, controls) = self.memory.controls(&self.org).await.unwrap();
            assert_eq!((version, controls.clone()), redis.controls(&self.org).await.unwrap(), "{at}");
            let until = controls.iter().filter_map(|(_, expires_at)| *expires_at).min();
            self.controls = Some((version, until));
        }
    }

    /// Tells what an upstream has counted when a call was admitted, now or a while ago.
    async fn tell(&mut self, redis: &RawStore, ledgers: &[RawLedger], at: &str) {
        let Some(random) = &mut self.told else { return };
        if random.random_bool(0.7) {
            return;
        }
        let ledger = ledgers.choose(random).unwrap();
        let (now, entries) = self.memory.entries(&self.org, std::slice::from_ref(ledger)).await.unwrap();
        let (window, place) = (ledger.window_ms, random.random_range(0..3));
        let past = entries[0].iter().filter(|(at, _)| *at <= now && at + window > now);
        let held: u64 = past.map(|(_, amounts)| amounts[place]).sum();
        let used = *[held, held, held / 2, held + 1].choose(random).unwrap();
        let counted = *[used, used + 1, used + 20, used.saturating_sub(3), 0].choose(random).unwrap();
        let late = *[0, 1, 5, window / 64, window / 3, window - 1, window].choose(random).unwrap();
        let at_ms = (now + random.random_range(0..3)).saturating_sub(late);
        let limit = *[0, counted, counted + 1, counted + 40].choose(random).unwrap();
        let lacking = *[0, 0, 2, counted].choose(random).unwrap();
        let told = RawTold { place, counted, used, at: at_ms, limit, lacking };
        let model = self.memory.observe(&self.org, ledger, &told).await.unwrap();
        let lua = redis.observe(&self.org, ledger, &told).await.unwrap_or_else(|error| panic!("{at}: {error:?}"));
        assert_eq!(model, lua, "{at}: {told:?} of {ledger:?}");
    }

    fn settlement(&mut self) -> Option<RawSettle> {
        if self.made.is_empty() {
            return None;
        }
        let index = self.random.random_range(0..self.made.len());
        let made = if self.random.random_bool(0.9) { self.made.swap_remove(index) } else { self.made[index].clone() };
        let booked = made.place > self.clock.now_ms();
        let releases = booked || self.random.random_bool(0.3);
        if let Some(kept) = self.made.iter_mut().find(|kept| kept.request.id == made.request.id && booked) {
            kept.place = self.clock.now_ms();
        }
        let factor = *[0, 1, 1, 2].choose(&mut self.random).unwrap();
        let charges = made.request.asked.iter().map(|asked| {
            let actual = if releases {
                [0; 3]
            } else {
                asked.amounts.map(|amount| (amount * factor).div_ceil(2) + u64::from(factor == 2))
            };
            (asked.ledger.clone(), asked.amounts, actual)
        });
        let charges = charges.collect();
        let made_at = self.random.random_bool(0.8).then_some(made.made_at).flatten();
        let slots: Vec<_> = made.request.slots.iter().map(|(user, _)| user.clone()).collect();
        let frees = !slots.is_empty() && self.random.random_bool(0.2);
        let checks_leases = !booked && !slots.is_empty() && self.random.random_bool(0.5);
        let (id, home) = (made.request.id, made.request.home);
        Some(RawSettle { id, charges, releases, made_at, home, slots, frees, checks_leases })
    }
}

/// Runs one history; returns how many steps it took.
pub(super) async fn run(seed: u64, server: &ClockedServer, redis: &RawStore) -> u64 {
    let clock = &ManualClock::new();
    let mut history = History::new(seed, clock);
    let ledgers = history.ledgers();
    let steps = history.steps;
    let (mut skew, mut just_admitted, mut admitted_at) = (0, None, 0);
    let mut before = Vec::new();
    for step in 0..steps {
        let pause = match history.random.random_range(0..100) {
            0 => history.random.random_range(0..90_000),
            1..20 => 0,
            20..36 => 1,
            // to the millisecond, or just before or after; seldom far ahead, where little is left
            36..40 => {
                let ahead = (history.turning_at + history.random.random_range(0..3)).saturating_sub(clock.now_ms() + 1);
                if ahead < 20 * history.pace_ms || history.random.random_bool(0.1) { ahead.min(90_000) } else { 0 }
            }
            _ => history.random.random_range(0..=history.pace_ms),
        };
        // the wall clock of the server may step back: the org's time must go on from where it was
        // (but for orgs with controls, which Redis lets expire by its own clock)
        let steps_back = history.controls.is_none();
        let stepped = just_admitted.take().filter(|_| steps_back && history.random.random_bool(0.02));
        clock.advance(Duration::from_millis(if stepped.is_some() { 0 } else { pause }));
        skew += if stepped.is_some() { history.random.random_range(1..600_000) } else { 0 };
        if skew > 0 && clock.now_ms() - admitted_at > 60_000 {
            // an org that nobody uses for longer than its windows forgets its clock, and has nothing left to count by it
            return step;
        }
        server.set_ms(clock.now_ms() - skew);
        let at = format!("seed {seed} step {step}");
        if history.controls.is_some() && history.random.random_bool(0.1) {
            history.govern(redis, &at).await;
        }
        if stepped.is_none() {
            history.tell(redis, &ledgers, &at).await;
        }
        let choice = if stepped.is_some() { 0 } else { history.random.random_range(0..100) };
        let done: Box<dyn std::fmt::Debug> = match choice {
            0..65 => {
                let size = if history.random.random_bool(0.3) { history.random.random_range(2..20) } else { 1 };
                let again = stepped.is_some();
                let batch: Vec<_> = stepped
                    .into_iter()
                    .chain((usize::from(again)..size).map(|_| {
                        if history.random.random_bool(0.2) { history.repeated() } else { None }
                            .unwrap_or_else(|| history.request())
                    }))
                    .collect();
                let foreseen = history.foresee(redis, &batch, again).await;
                let model = history.memory.acquire(&history.org, &batch).await;
                if let (Some(foreseen), Ok(RawAnswer { verdict, .. })) = (foreseen, &model[0])
                    && *verdict != RawVerdict::Stale
                {
                    assert_eq!([verdict, verdict], [&foreseen[0], &foreseen[1]], "{at}: foreseen of {batch:?}");
                }
                let lua = redis.acquire(&history.org, &batch).await;
                for ((request, model), lua) in batch.iter().cloned().zip(model).zip(lua) {
                    let (model, lua) = (model.unwrap(), lua.unwrap_or_else(|error| panic!("{at}: {error:?}")));
                    assert_eq!(model, lua, "{at}: {request:?}");
                    if let RawVerdict::Admitted { at } | RawVerdict::Denied { at, .. } | RawVerdict::Full { at, .. } =
                        model.verdict
                    {
                        let leaves_at = at + request.asked[0].ledger.window_ms;
                        history.turning_at = if at > model.now { at } else { leaves_at };
                    }
                    if let RawVerdict::Admitted { at: place } = model.verdict {
                        // what was charged now, and is no repeat at the time of its place, the store remembers the time of
                        let is_repeat =
                            history.made.iter().any(|made| made.request.id == request.id && made.place == place);
                        let charged = place == model.now && !is_repeat;
                        if charged {
                            admitted_at = model.now;
                        }
                        just_admitted = (charged && request.asked[0].amounts != [0; 3]).then(|| request.clone());
                        if let Some(known) = history.made.iter_mut().find(|made| made.request.id == request.id) {
                            known.place = place;
                        } else {
                            history.made.push(Made { request, made_at: Some(model.now), place });
                        }
                    }
                }
                Box::new(batch)
            }
            65..98 => {
                let size = if history.random.random_bool(0.3) { history.random.random_range(2..20) } else { 1 };
                let batch: Vec<_> = (0..size).filter_map(|_| history.settlement()).collect();
                let model: Vec<_> =
                    history.memory.settle(&history.org, &batch).await.into_iter().map(Result::unwrap).collect();
                let lua: Vec<_> = redis
                    .settle(&history.org, &batch)
                    .await
                    .into_iter()
                    .map(|settled| settled.unwrap_or_else(|error| panic!("{at}: {error:?}")))
                    .collect();
                assert_eq!(model, lua, "{at}: {batch:?}");
                Box::new(batch)
            }
            98 => {
                let mut leases = Vec::new();
                for made in &history.made {
                    leases.extend(made.request.slots.iter().map(|(user, _)| (user.clone(), made.request.id)));
                }
                leases.truncate(50);
                if !leases.is_empty() {
                    let model = history.memory.renew(&history.org, &leases).await.unwrap();
                    let lua = redis.renew(&history.org, &leases).await.unwrap();
                    assert_eq!(model, lua, "{at}: {leases:?}");
                }
                Box::new(leases)
            }
            _ => {
                let chosen = [ledgers.choose(&mut history.random).unwrap().clone()];
                history.memory.reset(&history.org, &chosen).await.unwrap();
                redis.reset(&history.org, &chosen).await.unwrap();
                Box::new(chosen)
            }
        };
        let (_, model) = history.memory.entries(&history.org, &ledgers).await.unwrap();
        let (_, lua) = redis.entries(&history.org, &ledgers).await.unwrap();
        assert_eq!(model, lua, "{at}: what is stored after {done:?} on {before:?}");
        before = model;
    }
    steps
}

#[tokio::test(flavor = "multi_thread")]
async fn lua_equals_the_model() {
    let server = Server::with_clock().await;
    let redis = RawStore::redis(&server.url(), Duration::from_secs(20)).unwrap();
    let (mut seed, mut steps) = (from_env("ALLOTMENT_TEST_SEED", 1), 0);
    let wanted = from_env("ALLOTMENT_TEST_STEPS", STEPS);
    while steps < wanted {
        steps += run(seed, &server, &redis).await;
        seed += 1;
    }
    println!("{steps} steps, seeds up to {seed}");
}
