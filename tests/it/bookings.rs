//! Places in line: promised once, moved only up, given out in the order of asking, and gone when nobody wants them.

use std::{collections::BTreeMap, time::Duration};

use allotment::{
    Cost, Limit, Limiter, ManualClock, Policy, Subject,
    testing::{RawAcquire, RawAnswer, RawAsk, RawLedger, RawSettle, RawStore, RawVerdict},
};
use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};

use crate::support::{Stage, random_org};

const WINDOW_MS: u64 = 60_000;
/// The distance of places in a window of 60 s: it divides into 60 parts, and not into 61 to 64.
const GRID_MS: u64 = 1_000;
const UNBOUNDED_MS: u64 = 1 << 47;

fn org_ledger() -> RawLedger {
    RawLedger { user: None, window_ms: WINDOW_MS }
}

/// The line of one org, as several processes see it.
struct Line<'a> {
    stage: &'a Stage,
    org: String,
    processes: Vec<RawStore>,
    ledgers: Vec<(RawLedger, u64)>,
    random: StdRng,
}

/// What a caller holds: its request, to ask again or to give it back.
#[derive(Clone, Debug)]
struct Ticket {
    request: RawAcquire,
    place: u64,
}

impl<'a> Line<'a> {
    fn new(stage: &'a Stage, ledgers: Vec<(RawLedger, u64)>, seed: u64) -> Self {
        let processes = match stage {
            Stage::Memory(_) => vec![stage.raw()],
            Stage::Redis { .. } => vec![stage.raw(), stage.raw()],
        };
        Self { stage, org: random_org(), processes, ledgers, random: StdRng::seed_from_u64(seed) }
    }

    /// One limit on the org.
    fn of(stage: &'a Stage, limit: u64, seed: u64) -> Self {
        Self::new(stage, vec![(org_ledger(), limit)], seed)
    }

    async fn send(&mut self, request: &RawAcquire) -> RawAnswer {
        let process = self.processes.choose(&mut self.random).unwrap();
        process.acquire(&self.org, std::slice::from_ref(request)).await.remove(0).unwrap()
    }

    async fn ask(&mut self, cost: u64, max_wait_ms: u64) -> Result<Ticket, u64> {
        let mut id: [u8; 16] = self.random.random();
        id[..6].copy_from_slice(&self.stage.now_ms().to_be_bytes()[2..]);
        let ask = |(ledger, limit): &(RawLedger, u64)| RawAsk {
            ledger: ledger.clone(),
            amounts: [cost, 0, 0],
            limits: [Some(*limit), None, None],
        };
        let asked = self.ledgers.iter().map(ask).collect();
        let request = RawAcquire { id, asked, home: None, max_wait_ms, ..RawAcquire::default() };
        match self.send(&request).await.verdict {
            RawVerdict::Admitted { at } => Ok(Ticket { request, place: at }),
            RawVerdict::Denied { at, .. } => Err(at),
            other => panic!("{other:?}"),
        }
    }

    async fn move_up(&mut self, ticket: &mut Ticket) {
        let request = RawAcquire { moves_up: true, ..ticket.request.clone() };
        let RawVerdict::Admitted { at } = self.send(&request).await.verdict else { panic!("a place was lost") };
        assert!(at <= ticket.place, "{}: moved back from {} to {at}", self.stage.name(), ticket.place);
        ticket.place = at;
    }

    async fn end(&mut self, ticket: &Ticket, actual: Option<u64>) {
        let charge = |ask: &RawAsk| (ask.ledger.clone(), ask.amounts, [actual.unwrap_or(0), 0, 0]);
        let charges = ticket.request.asked.iter().map(charge).collect();
        let id = ticket.request.id;
        let request =
            RawSettle { id, charges, releases: actual.is_none(), made_at: None, home: None, ..RawSettle::default() };
        let process = self.processes.choose(&mut self.random).unwrap();
        assert_eq!(process.settle(&self.org, &[request]).await.remove(0).unwrap(), "now");
    }

    async fn entries(&self) -> Vec<(u64, u64)> {
        let (_, entries) = self.processes[0].entries(&self.org, &[org_ledger()]).await.unwrap();
        entries[0].iter().map(|(at, amounts)| (*at, amounts[0])).collect()
    }
}

/// The fullest of all windows `(x - window, x]`.
fn fullest(taken: &BTreeMap<u64, u64>) -> u64 {
    let within = |at: u64| taken.range(at.saturating_sub(WINDOW_MS - 1)..=at).map(|(_, cost)| cost).sum();
    taken.keys().map(|at| within(*at)).max().unwrap_or(0)
}

#[tokio::test]
async fn no_promised_place_moves_back_and_no_window_is_over_when_they_start() {
    for stage in Stage::both().await {
        for seed in 0..6 {
            let mut line = Line::of(&stage, 60, seed);
            let (mut waiting, mut taken) = (Vec::<Ticket>::new(), BTreeMap::<u64, u64>::new());
            for _ in 0..400 {
                stage.advance_ms(line.random.random_range(0..700));
                let (now, cost) = (stage.now_ms(), line.random.random_range(1..9));
                let max_wait = *[0, 3_333, 40_000, UNBOUNDED_MS].choose(&mut line.random).unwrap();
                if let Ok(ticket) = line.ask(cost, max_wait).await {
                    assert!(ticket.place - now <= max_wait, "{} waits too long", stage.name());
                    waiting.push(ticket);
                }
                for mut ticket in std::mem::take(&mut waiting) {
                    if ticket.place > now && line.random.random_bool(0.2) {
                        line.move_up(&mut ticket).await;
                    }
                    if ticket.place <= now {
                        // a third uses less than it asked for, which makes room
                        let asked = ticket.request.asked[0].amounts[0];
                        let used = if line.random.random_bool(0.3) { asked / 2 } else { asked };
                        if used != asked {
                            line.end(&ticket, Some(used)).await;
                        }
                        *taken.entry(ticket.place).or_default() += used;
                    } else if line.random.random_bool(0.02) {
                        line.end(&ticket, None).await;
                    } else {
                        waiting.push(ticket);
                    }
                }
            }
            assert!(taken.len() > 20, "{} seed {seed}: {} started", stage.name(), taken.len());
            assert!(fullest(&taken) <= 60, "{} seed {seed}: a window held {}", stage.name(), fullest(&taken));
        }
    }
}

#[tokio::test]
async fn an_equal_cost_that_asks_later_is_at_most_one_grid_step_earlier() {
    for stage in Stage::both().await {
        for seed in 0..4 {
            let mut line = Line::of(&stage, 40, seed);
            let mut latest = 0;
            for _ in 0..150 {
                stage.advance_ms(line.random.random_range(0..900));
                let patience = *[30_000, 45_678, UNBOUNDED_MS].choose(&mut line.random).unwrap();
                let Ok(ticket) = line.ask(2, patience).await else {
                    continue;
                };
                assert!(
                    ticket.place + GRID_MS >= latest,
                    "{} seed {seed}: {} after {latest}",
                    stage.name(),
                    ticket.place
                );
                latest = latest.max(ticket.place);
            }
        }
    }
}

#[tokio::test]
async fn a_large_cost_is_not_starved_by_small_ones() {
    for stage in Stage::both().await {
        let mut line = Line::of(&stage, 20, 1);
        let begun = stage.now_ms();
        let (mut ask_at, mut large) = (begun + 90_000, None);
        // for five minutes, far more small ones than fit take every place they can get
        while large.is_none() && stage.now_ms() < begun + 400_000 {
            stage.advance_ms(500);
            while line.ask(1, UNBOUNDED_MS).await.is_ok() {}
            if stage.now_ms() >= ask_at {
                match line.ask(20, UNBOUNDED_MS).await {
                    Ok(ticket) => large = Some(ticket.place),
                    // its horizon is three windows: that is when to ask again
                    Err(fits_at) => ask_at = fits_at - 3 * WINDOW_MS,
                }
            }
        }
        let place = large.unwrap_or_else(|| panic!("{}: the large one has no place", stage.name()));
        assert!(place - begun <= 90_000 + 3 * WINDOW_MS, "{}: {} ms", stage.name(), place - begun);
    }
}

#[tokio::test]
async fn a_short_smoothing_ledger_does_not_shorten_the_line() {
    for stage in Stage::both().await {
        let mut lengths = Vec::new();
        let short = RawLedger { user: None, window_ms: 1_000 };
        for ledgers in [vec![(org_ledger(), 60)], vec![(org_ledger(), 60), (short, 1)]] {
            let mut line = Line::new(&stage, ledgers, 1);
            for _ in 0..60 {
                line.ask(1, 0).await.unwrap();
                stage.advance_ms(1_000);
            }
            let (now, mut last, mut length) = (stage.now_ms(), 0, 0);
            while let Ok(ticket) = line.ask(1, UNBOUNDED_MS).await {
                (last, length) = (ticket.place.max(last), length + 1);
            }
            assert!(last - now > WINDOW_MS - 2_000, "{}: the line ends after {} ms", stage.name(), last - now);
            lengths.push(length);
        }
        assert!(lengths[1] + 5 >= lengths[0], "{}: {lengths:?} places", stage.name());
    }
}

#[tokio::test]
async fn thousands_of_waiters_with_odd_patience_keep_the_ledger_bounded() {
    for stage in Stage::both().await {
        let mut line = Line::of(&stage, 2_000, 3);
        let (mut longest, mut promised) = (0, 0);
        for step in 0..6_000 {
            stage.advance_ms(line.random.random_range(0..20));
            let patience = line.random.random_range(1..120_000);
            promised += u32::from(line.ask(1, patience).await.is_ok());
            if step % 100 == 0 {
                longest = longest.max(line.entries().await.len());
            }
        }
        assert!(promised > 3_000, "{}: {promised}", stage.name());
        // past times, places on the grid for a window and a bit, and those off it
        assert!(longest <= 130 + 128 + 130, "{}: {longest} entries", stage.name());
    }
}

#[tokio::test]
async fn a_place_that_is_given_up_goes_to_the_next_and_who_waits_moves_up() {
    for stage in Stage::both().await {
        let mut line = Line::of(&stage, 1, 1);
        line.ask(1, 0).await.unwrap();
        stage.advance_ms(10);
        let first = line.ask(1, UNBOUNDED_MS).await.unwrap();
        let mut second = line.ask(1, UNBOUNDED_MS).await.unwrap();
        assert!(second.place >= first.place + WINDOW_MS);
        line.end(&first, None).await;
        line.move_up(&mut second).await;
        assert_eq!(second.place, first.place, "{}", stage.name());
        let third = line.ask(1, UNBOUNDED_MS).await.unwrap();
        assert!(third.place >= second.place + WINDOW_MS, "{}", stage.name());
    }
}

#[tokio::test]
async fn a_crash_of_who_waits_frees_nothing_before_its_place_has_left_the_window() {
    for stage in Stage::both().await {
        let mut line = Line::of(&stage, 1, 1);
        line.ask(1, 0).await.unwrap();
        // never started, never released: its process is gone
        let lost = line.ask(1, UNBOUNDED_MS).await.unwrap();
        while stage.now_ms() + 7_001 < lost.place + WINDOW_MS {
            stage.advance_ms(7_001);
            let fits_at = line.ask(1, 0).await.unwrap_err();
            assert_eq!(fits_at, lost.place + WINDOW_MS, "{}", stage.name());
        }
        stage.advance_ms(lost.place + WINDOW_MS - stage.now_ms());
        line.ask(1, 0).await.unwrap();
    }
}

#[tokio::test]
async fn a_dropped_waiter_gives_its_place_to_the_one_behind_it() {
    let clock = ManualClock::new();
    let policy = Policy::new().limit(Limit::new("org").requests(1));
    let limiter = Limiter::builder().policy(policy).clock(clock.clone()).build().unwrap();
    let subject = Subject::org("o");
    let begun = limiter.acquire(&subject, Cost::new()).await.unwrap().at_ms();
    let queue = |limiter: &Limiter| tokio::spawn(limiter.acquire(&subject, Cost::new()).into_future());
    let first = queue(&limiter);
    tokio::task::yield_now().await;
    let second = queue(&limiter);
    tokio::task::yield_now().await;
    first.abort();
    assert!(first.await.unwrap_err().is_cancelled());
    while !second.is_finished() && clock.now_ms() < begun + 200_000 {
        clock.advance(Duration::from_millis(100));
        // lets the waiter act on the new time
        for _ in 0..5 {
            tokio::task::yield_now().await;
        }
    }
    let place = second.await.unwrap().unwrap().at_ms();
    assert!(place <= begun + WINDOW_MS + GRID_MS + 40, "started after {} ms", place - begun);
}
