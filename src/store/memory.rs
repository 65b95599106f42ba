//! The embedded store: calendar logs behind a lock, for one process.
//!
//! Invariant: answers are those of the scripts under `lua/`; `tests/it/model.rs` holds the two together. What has expired is dropped as
//! the orgs it belongs to are used, and all of it within a sweep.

mod book;
mod look;
mod others;
mod roster;

use std::collections::{HashMap, VecDeque};

use parking_lot::Mutex;

use self::{book::Book, roster::Roster};
use crate::{
    calendar::{
        Amounts, Ask, Ledger, Others, earliest,
        fair::{HEAVY_PARTS, Pool, Standing},
        place_in_line,
        slots::Slots,
    },
    clock::Clock,
    error::Error,
    store::{
        AcquireRequest, Answer, AskedLedger, AskedSlots, Ending, Lease, LedgerState, Notes, ReservationId,
        SettleRequest, Settled, Verdict,
        governed::{Governed, StoredControls},
        keyspace::{LedgerKey, SlotsKey},
    },
};

/// How often expired ledgers and orgs are dropped, in milliseconds of the store's clock.
const SWEEP_MS: u64 = 10_000;

/// Ledgers and reservations in this process.
#[derive(Debug)]
pub(crate) struct MemoryStore {
    clock: Clock,
    orgs: Mutex<Orgs>,
}

#[derive(Debug, Default)]
struct Orgs {
    by_name: HashMap<Box<str>, Org>,
    swept_at: u64,
}

/// Everything of one org.
#[derive(Debug, Default)]
struct Org {
    ledgers: HashMap<LedgerKey, Ledger>,
    records: HashMap<ReservationId, Record>,
    /// Records by the time they were made to last when they were queued; a booking may last longer.
    expiring: VecDeque<(u64, ReservationId)>,
    /// Pools that are shared fairly, by their ledger and the resource's place in it.
    pools: HashMap<(LedgerKey, usize), Pool>,
    /// What others use, by the ledger and the resource's place in it.
    others: HashMap<(LedgerKey, usize), Others>,
    slots: HashMap<SlotsKey, Slots>,
    book: Book,
    roster: Roster,
}

/// A request as fair share leaves it.
struct Lowered {
    asks: Vec<Ask>,
    max_wait_ms: u64,
    standings: Vec<Standing>,
    /// Per pool, whether the level holds the request back.
    held: Vec<bool>,
    /// Per pool, whether it is full for the request, whatever else its ledger counts.
    full: Vec<bool>,
}

/// One reservation.
#[derive(Clone, Copy, Debug)]
struct Record {
    at: u64,
    state: State,
    /// The charge on the ledger that would carry the record: a repeat with another cost is refused.
    amounts: Amounts,
    expires_at: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Open,
    Committed,
    Released,
}

impl MemoryStore {
    pub(crate) fn new(clock: Clock) -> Self {
        Self { clock, orgs: Mutex::default() }
    }

    pub(crate) fn acquire(&self, org: &str, requests: &[AcquireRequest]) -> Vec<Result<Answer, Error>> {
        self.with_org(org, |org, now| requests.iter().map(|request| Ok(org.acquire(request, now))).collect())
    }

    pub(crate) fn settle(&self, org: &str, requests: &[SettleRequest]) -> Vec<Result<Settled, Error>> {
        self.with_org(org, |org, now| requests.iter().map(|request| Ok(org.settle(request, now))).collect())
    }

    pub(crate) fn renew(&self, org: &str, leases: &[Lease], lease_ms: u64) -> Vec<bool> {
        self.with_org(org, |org, now| {
            let renew = |lease: &Lease| {
                org.slots.get_mut(&lease.slots).is_some_and(|slots| slots.renew(lease.id.0, now + lease_ms, now))
            };
            leases.iter().map(renew).collect()
        })
    }

    pub(crate) fn govern(&self, org: &str, change: &Governed) -> Result<bool, Error> {
        self.with_org(org, |org, now| org.book.govern(change, now))
    }

    pub(crate) fn controls(&self, org: &str, entries: u16) -> StoredControls {
        let orgs = self.orgs.lock();
        let now = self.clock.now_ms();
        let org = orgs.by_name.get(org);
        org.map_or_else(|| StoredControls { now, ..StoredControls::default() }, |org| org.book.stored(now, entries))
    }

    /// Drops what has expired, if that has not been done lately: for a store that is seldom used.
    pub(crate) fn sweep(&self) {
        let mut orgs = self.orgs.lock();
        let now = self.clock.now_ms();
        orgs.sweep(now);
    }

    /// The time is read under the lock: a decision by an earlier time than one before it would miss what that one let expire.
    fn with_org<T>(&self, name: &str, step: impl FnOnce(&mut Org, u64) -> T) -> T {
        let mut orgs = self.orgs.lock();
        let now = self.clock.now_ms();
        orgs.sweep(now);
        if let Some(org) = orgs.by_name.get_mut(name) {
            return step(org, now);
        }
        step(orgs.by_name.entry(name.into()).or_default(), now)
    }
}

impl Orgs {
    fn sweep(&mut self, now: u64) {
        if now >= self.swept_at + SWEEP_MS {
            self.swept_at = now;
            self.by_name.retain(|_, org| org.sweep(now));
        }
    }
}

impl Org {
    fn acquire(&mut self, request: &AcquireRequest, now: u64) -> Answer {
        let (version, until) = request.controls;
        let in_time = until.is_none_or(|until| now < until);
        if version != self.book.version(now) || !in_time || request.is_blocked {
            let blocked = Verdict::Denied { at: now, setter: 0, short: Vec::new() };
            let verdict = if version == self.book.version(now) && in_time { blocked } else { Verdict::Stale };
            let nothing = vec![LedgerState::default(); request.ledgers.len()];
            let standings = vec![Standing::default(); request.fair.len()];
            let in_flight = self.in_flight(request, now);
            return Answer { verdict, now, ledgers: nothing, standings, token: 0, in_flight, after_silence: false };
        }
        for asked in &request.ledgers {
            if let Some(ledger) = self.ledgers.get_mut(&asked.key) {
                ledger.advance(now);
            } else {
                self.ledgers.insert(asked.key.clone(), Ledger::new(asked.window_ms, now));
            }
        }
        let known = self.records.get(&request.id).copied().filter(|record| record.expires_at > now);
        let mut token = 0;
        let mut standings = vec![Standing::default(); request.fair.len()];
        let verdict = match known {
            Some(record) if record.state == State::Released => Verdict::Released,
            Some(record) if record.state == State::Open && record.amounts != charged_home(request) => Verdict::Mismatch,
            Some(record) if request.moves_up && record.state == State::Open && record.at > now => {
                Verdict::Admitted { at: self.move_up(request, record.at, now) }
            }
            Some(record) if record.state == State::Open && record.at <= now => {
                // its time has come, or the answer that it has was lost
                self.take_slots(request, now, &mut token).err().unwrap_or(Verdict::Admitted { at: record.at })
            }
            Some(record) => Verdict::Admitted { at: record.at },
            None => self.decide(request, now, &mut standings, &mut token),
        };
        let ledgers = request.ledgers.iter().map(|asked| self.ledgers.get(&asked.key).map(state).unwrap_or_default());
        let in_flight = self.in_flight(request, now);
        Answer { verdict, now, ledgers: ledgers.collect(), standings, token, in_flight, after_silence: false }
    }

    /// Per slots asked, how many calls are under way.
    fn in_flight(&self, request: &AcquireRequest, now: u64) -> Vec<u64> {
        let live = |asked: &AskedSlots| self.slots.get(&asked.key).map_or(0, |slots| slots.live(now));
        request.slots.iter().map(live).collect()
    }

    fn decide(
        &mut self,
        request: &AcquireRequest,
        now: u64,
        standings: &mut Vec<Standing>,
        token: &mut u64,
    ) -> Verdict {
        let lowered = self.lower(request, now, request.notes);
        let asked = self.asked(request, &lowered.asks);
        let first = earliest(&asked, now);
        let place = match (first.setter, lowered.max_wait_ms) {
            (None, _) => Some(now),
            (_, 0) => None,
            (_, max_wait_ms) => place_in_line(&asked, now, max_wait_ms, first),
        };
        let verdict = match (place, first.setter) {
            (None, Some(setter)) => {
                let short = asked.iter().map(|(ledger, ask)| ledger.short_at(first.at - 1, ask)).collect();
                Verdict::Denied { at: first.at, setter, short }
            }
            (place, _) => Verdict::Admitted { at: place.unwrap_or(now) },
        };
        let marks = lowered.held.iter().zip(&lowered.full);
        for ((fair, standing), (held, full)) in request.fair.iter().zip(&lowered.standings).zip(marks) {
            let pool_key = &request.ledgers[fair.pool].key;
            let used = self.ledgers.get(pool_key).map_or(0, |ledger| ledger.used()[fair.place]);
            let Some(pool) = self.pools.get_mut(&(pool_key.clone(), fair.place)) else { continue };
            if *held {
                pool.hold();
            }
            if !standing.heavy && *full && first.setter == Some(fair.pool) {
                pool.press(fair.limit, used, request.ledgers[fair.pool].ask.amounts[fair.place]);
            }
        }
        *standings = lowered.standings;
        if place == Some(now)
            && let Err(full) = self.take_slots(request, now, token)
        {
            return full;
        }
        if let Some(at) = place {
            self.charge(request, at);
            self.record(request, at, now);
        }
        verdict
    }

    /// Takes a slot in each set that is asked, or in none.
    fn take_slots(&mut self, request: &AcquireRequest, now: u64, token: &mut u64) -> Result<(), Verdict> {
        let (empty, mut next) = (Slots::default(), 0);
        for (index, asked) in request.slots.iter().enumerate() {
            let slots = self.slots.get(&asked.key).unwrap_or(&empty);
            slots.room_for(request.id.0, asked.amount, now).map_err(|at| Verdict::Full { slots: index, at })?;
            next = next.max(slots.next_token(now));
        }
        for asked in &request.slots {
            let slots = self.slots.entry(asked.key.clone()).or_default();
            slots.take(request.id.0, now + request.lease_ms, next, now);
        }
        *token = next;
        Ok(())
    }

    fn free_slots(&mut self, request: &SettleRequest) {
        for key in &request.slots {
            if let Some(slots) = self.slots.get_mut(key) {
                slots.free(request.id.0);
            }
        }
    }

    /// Lowers what a request may find in its ledgers by how its user stands in the pools that are shared fairly.
    fn lower(&mut self, request: &AcquireRequest, now: u64, notes: Notes) -> Lowered {
        let asks = request.ledgers.iter().map(|asked| asked.ask).collect();
        // no place is promised for when the controls are others
        let known_ms = request.controls.1.map_or(u64::MAX, |until| until - now - 1);
        let mut lowered = Lowered {
            asks,
            max_wait_ms: request.max_wait_ms.min(known_ms),
            standings: Vec::new(),
            held: Vec::new(),
            full: Vec::new(),
        };
        let noted = (notes == Notes::User, notes != Notes::Nobody);
        for fair in &request.fair {
            let (pool_key, window_ms) = (&request.ledgers[fair.pool].key, request.ledgers[fair.pool].window_ms);
            let cost = request.ledgers[fair.pool].ask.amounts[fair.place];
            let used = self.ledgers.get(pool_key).map_or(0, |ledger| ledger.used()[fair.place]);
            let user = self.ledgers.get(&request.ledgers[fair.user].key);
            let of_user = user.map_or(0, |ledger| ledger.entries().iter().map(|entry| entry.amounts[fair.place]).sum());
            let pool = self.pools.entry((pool_key.clone(), fair.place)).or_default();
            pool.tick(now, window_ms, fair.limit, used);
            let standing = pool.stand(now, fair.limit, &fair.member, of_user, cost, noted);
            lowered.full.push(used > lowered.asks[fair.pool].bounds[fair.place]);
            if standing.heavy {
                let bound = &mut lowered.asks[fair.user].bounds[fair.place];
                *bound = (*bound).min(standing.share.saturating_sub(cost));
                let bound = &mut lowered.asks[fair.pool].bounds[fair.place];
                let reserve = pool.reserve(fair.limit, &fair.member);
                *bound = (*bound).min(fair.limit.saturating_sub(reserve).saturating_sub(cost));
                lowered.max_wait_ms = lowered.max_wait_ms.min(window_ms / HEAVY_PARTS);
            }
            lowered.held.push(standing.heavy && of_user + cost > standing.share);
            lowered.standings.push(standing);
        }
        lowered
    }

    /// Asks again with the place given back first: it moves up or stays.
    fn move_up(&mut self, request: &AcquireRequest, place: u64, now: u64) -> u64 {
        let kept: Vec<_> = request.ledgers.iter().map(|asked| self.ledgers.get(&asked.key).cloned()).collect();
        for asked in &request.ledgers {
            if let Some(ledger) = self.ledgers.get_mut(&asked.key) {
                ledger.settle(place, u64::MAX, asked.ask.amounts, [0; 3]);
            }
        }
        let lowered = self.lower(request, now, Notes::Nobody);
        let asked = self.asked(request, &lowered.asks);
        let first = earliest(&asked, now);
        match place_in_line(&asked, now, u64::MAX, first) {
            Some(at) if at < place => {
                self.charge(request, at);
                self.record(request, at, now);
                at
            }
            _ => {
                for (asked, ledger) in request.ledgers.iter().zip(kept) {
                    if let Some(ledger) = ledger {
                        self.ledgers.insert(asked.key.clone(), ledger);
                    }
                }
                place
            }
        }
    }

    fn asked<'a>(&'a self, request: &AcquireRequest, asks: &'a [Ask]) -> Vec<(&'a Ledger, &'a Ask)> {
        let with_ledger = |(asked, ask): (&AskedLedger, &'a Ask)| Some((self.ledgers.get(&asked.key)?, ask));
        request.ledgers.iter().zip(asks).filter_map(with_ledger).collect()
    }

    fn charge(&mut self, request: &AcquireRequest, at: u64) {
        for asked in &request.ledgers {
            if let Some(ledger) = self.ledgers.get_mut(&asked.key) {
                ledger.add(at, asked.ask.amounts);
            }
        }
    }

    fn record(&mut self, request: &AcquireRequest, at: u64, now: u64) {
        let expires_at = at + request.record_ms();
        let record = Record { at, state: State::Open, amounts: charged_home(request), expires_at };
        self.keep_record(request.id, record, now);
    }

    fn keep_record(&mut self, id: ReservationId, record: Record, now: u64) {
        while let Some((_, id)) = self.expiring.front().copied().filter(|(expires_at, _)| *expires_at <= now) {
            self.expiring.pop_front();
            match self.records.get(&id) {
                Some(record) if record.expires_at > now => self.expiring.push_back((record.expires_at, id)),
                Some(_) => drop(self.records.remove(&id)),
                None => {}
            }
        }
        if self.records.insert(id, record).is_none() {
            self.expiring.push_back((record.expires_at, id));
        }
    }

    fn settle(&mut self, request: &SettleRequest, now: u64) -> Settled {
        if request.ending == Ending::Free {
            self.free_slots(request);
            return Settled::Now;
        }
        let known = self.records.get(&request.id).copied().filter(|record| record.expires_at > now);
        if known.is_none_or(|record| record.state == State::Open) {
            let holds = |key| self.slots.get(key).is_some_and(|slots: &Slots| slots.holds(request.id.0, now));
            if request.checks_leases && !request.slots.iter().all(holds) {
                return Settled::LeaseLost;
            }
            self.free_slots(request);
        }
        let Some(record) = known else {
            if request.ending == Ending::Release {
                let expires_at = now + request.record_ms();
                self.keep_record(
                    request.id,
                    Record { at: now, state: State::Released, amounts: [0; 3], expires_at },
                    now,
                );
            }
            return Settled::Absent;
        };
        if record.state != State::Open {
            return Settled::Before;
        }
        for settled in &request.ledgers {
            let ledger = self.ledgers.entry(settled.key.clone()).or_insert_with(|| Ledger::new(settled.window_ms, now));
            ledger.advance(now);
            let made_at = request.made_at.unwrap_or(record.at);
            ledger.settle(record.at, made_at, settled.estimate, settled.actual);
        }
        let ended = match request.ending {
            Ending::Commit | Ending::Free => Record { state: State::Committed, ..record },
            // a place given back is no place any more: its record is of now
            Ending::Release => {
                let at = record.at.min(now);
                Record { state: State::Released, at, expires_at: at + request.record_ms(), ..record }
            }
        };
        self.records.insert(request.id, ended);
        Settled::Now
    }

    /// Drops what has expired; says whether anything is left.
    fn sweep(&mut self, now: u64) -> bool {
        self.ledgers.retain(|_, ledger| ledger.last_at() + ledger.window() > now);
        self.slots.retain(|_, slots| slots.live(now) > 0);
        self.pools.retain(|_, pool| pool.expires_at() > now);
        self.others.retain(|_, others| !others.is_over(now));
        self.records.retain(|_, record| record.expires_at > now);
        self.roster.prune(now);
        let records = &self.records;
        self.expiring.retain(|(_, id)| records.contains_key(id));
        !(self.ledgers.is_empty()
            && self.records.is_empty()
            && self.pools.is_empty()
            && self.others.is_empty()
            && self.slots.is_empty()
            && self.roster.is_empty()
            && self.book.is_empty())
    }
}

/// What a request charges where its record lives.
fn charged_home(request: &AcquireRequest) -> Amounts {
    request.ledgers.get(request.home.unwrap_or(0)).map_or([0; 3], |home| home.ask.amounts)
}

fn state(ledger: &Ledger) -> LedgerState {
    LedgerState { used: ledger.used(), last_at: ledger.last_at() }
}
