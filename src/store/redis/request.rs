//! How a request is packed for the scripts: one text of little-endian integers. `lua/acquire.lua` and `lua/settle.lua` have the layout.

use std::collections::HashMap;

use redis::Cmd;

use crate::{
    calendar::ENTRY_MAX,
    store::{
        AcquireRequest, Ending, FairAsk, Lease, Notes, ObserveRequest, ReservationId, SettleRequest,
        governed::{Governed, Manner},
        inspection::{InspectRequest, Owner},
        keyspace::{LedgerKey, OrgKeys, SlotsKey},
        member::Beat,
        redis::continuity::Known,
    },
};

/// Added to the form of a request that has more than ledgers: pools, slots or controls. The others, most of all, are read faster without.
const LONG: u8 = 4;

/// Keys and the packed argument of one call.
#[derive(Debug)]
pub(crate) struct Packed {
    keys: Vec<String>,
    arguments: Vec<Vec<u8>>,
}

impl Packed {
    /// One of its keys: all are in the same slot.
    pub(crate) fn key(&self) -> &str {
        self.keys.first().map_or("", String::as_str)
    }

    pub(crate) fn command(&self, verb: &str, script: &str) -> Cmd {
        let mut command = redis::cmd(verb);
        command.arg(script).arg(self.keys.len()).arg(&self.keys).arg(&self.arguments);
        command
    }
}

pub(super) fn acquire(org: &OrgKeys, requests: &[AcquireRequest], known: &Known) -> Packed {
    let mut keys = Keys::default();
    for request in requests {
        for (index, asked) in request.ledgers.iter().enumerate() {
            keys.ledger(&asked.key, asked.window_ms, request.home == Some(index));
        }
    }
    for request in requests {
        for fair in &request.fair {
            keys.pool(&request.ledgers[fair.pool].key, fair);
        }
    }
    for slots in requests.iter().flat_map(|request| &request.slots) {
        keys.slots(&slots.key);
    }
    keys.controls = Some(org.controls());
    keys.seal(requests.iter().map(|request| &request.id), org);
    let mut bytes = keys.header(requests.len());
    for request in requests {
        bytes.extend(request.id.0);
        let is_long = !request.fair.is_empty() || !request.slots.is_empty() || request.controls != (0, None);
        let form = if request.is_blocked { 2 } else { u8::from(request.moves_up) };
        bytes.push(if is_long { form + LONG } else { form });
        put(&mut bytes, request.max_wait_ms.min(ENTRY_MAX), 6);
        let home = request.home.and_then(|home| request.ledgers.get(home));
        keys.home(&mut bytes, home.map(|home| &home.key), request.ledgers.len());
        keys.place_of_records(&mut bytes, &request.id, org);
        if is_long {
            put(&mut bytes, request.fair.len() as u64, 1);
            put(&mut bytes, request.slots.len() as u64, 1);
            put(&mut bytes, request.controls.0, 6);
            put(&mut bytes, request.controls.1.unwrap_or(ENTRY_MAX), 6);
        }
        for asked in &request.ledgers {
            put(&mut bytes, keys.number(&asked.key), 2);
            for amount in asked.ask.amounts.iter().chain(&asked.ask.bounds).chain([&asked.ask.horizon_ms]) {
                put(&mut bytes, (*amount).min(ENTRY_MAX), 6);
            }
        }
        for asked in &request.slots {
            put(&mut bytes, keys.slots(&asked.key), 2);
            put(&mut bytes, asked.amount, 4);
            put(&mut bytes, request.lease_ms, 4);
        }
        for fair in &request.fair {
            let (weight, user) = &fair.member;
            let pool = &request.ledgers[fair.pool];
            put(&mut bytes, keys.pool(&pool.key, fair), 2);
            put(&mut bytes, keys.number(&pool.key), 2);
            put(&mut bytes, fair.place as u64 + 1, 1);
            put(&mut bytes, fair.pool as u64 + 1, 1);
            put(&mut bytes, fair.user as u64 + 1, 1);
            put(&mut bytes, pool.ask.amounts[fair.place].min(ENTRY_MAX), 6);
            put(&mut bytes, u64::from(*weight), 2);
            put(&mut bytes, fair.limit.min(ENTRY_MAX), 6);
            bytes.push(match request.notes {
                Notes::Nobody => 0,
                Notes::Heavy => 1,
                Notes::User => 2,
            });
            // the member of a pool's index, where it is to be noted
            let member = if request.notes == Notes::Nobody { Vec::new() } else { member_of(*weight, user) };
            put(&mut bytes, member.len() as u64, 2);
            bytes.extend(member);
        }
    }
    put(&mut bytes, known.mark, 2);
    let mut packed = keys.packed(org, bytes);
    let mut head = Vec::with_capacity(14);
    put(&mut head, known.alive_until, 6);
    put(&mut head, known.epoch.born_at, 6);
    put(&mut head, known.epoch.salt, 2);
    packed.arguments.push(head);
    packed
}

pub(crate) fn settle(org: &OrgKeys, requests: &[SettleRequest]) -> Packed {
    let mut keys = Keys::default();
    for request in requests {
        for (index, settled) in request.ledgers.iter().enumerate() {
            keys.ledger(&settled.key, settled.window_ms, request.home == Some(index));
        }
    }
    for key in requests.iter().flat_map(|request| &request.slots) {
        keys.slots(key);
    }
    keys.seal(requests.iter().map(|request| &request.id), org);
    let mut bytes = keys.header(requests.len());
    for request in requests {
        bytes.extend(request.id.0);
        bytes.push(match request.ending {
            Ending::Commit => 1,
            Ending::Release => 2,
            Ending::Free => 3,
        });
        put(&mut bytes, request.made_at.unwrap_or(0), 6);
        let home = request.home.and_then(|home| request.ledgers.get(home));
        keys.home(&mut bytes, home.map(|home| &home.key), request.ledgers.len());
        put(&mut bytes, request.slots.len() as u64, 1);
        bytes.push(u8::from(request.checks_leases));
        keys.place_of_records(&mut bytes, &request.id, org);
        for settled in &request.ledgers {
            put(&mut bytes, keys.number(&settled.key), 2);
            for amount in settled.estimate.iter().chain(&settled.actual) {
                put(&mut bytes, (*amount).min(ENTRY_MAX), 6);
            }
        }
        for key in &request.slots {
            put(&mut bytes, keys.slots(key), 2);
        }
    }
    keys.packed(org, bytes)
}

pub(crate) fn renew(org: &OrgKeys, leases: &[Lease], lease_ms: u64) -> Packed {
    let mut sets: Vec<&SlotsKey> = Vec::new();
    let mut argument = Vec::with_capacity(6 + 18 * leases.len());
    put(&mut argument, lease_ms, 4);
    put(&mut argument, leases.len() as u64, 2);
    for lease in leases {
        let place = sets.iter().position(|key| **key == lease.slots).unwrap_or_else(|| {
            sets.push(&lease.slots);
            sets.len() - 1
        });
        put(&mut argument, place as u64 + 2, 2);
        argument.extend(lease.id.0);
    }
    let keys = std::iter::once(org.head()).chain(sets.into_iter().map(|key| org.slots(key))).collect();
    Packed { keys, arguments: vec![argument] }
}

pub(crate) fn beat(org: &OrgKeys, beat: &Beat) -> Packed {
    let mut argument = Vec::with_capacity(26);
    put(&mut argument, beat.lease_ms, 4);
    put(&mut argument, beat.joined_at, 6);
    argument.extend(beat.id);
    Packed { keys: vec![org.head(), org.members()], arguments: vec![argument] }
}

pub(crate) fn govern(org: &OrgKeys, change: &Governed) -> Packed {
    let control = change.control.as_deref().unwrap_or_default();
    let after = change.after_ms.unwrap_or(0).to_string();
    let manner = match change.manner {
        Manner::Decided => "decided",
        Manner::Hinted => "hinted",
    };
    let arguments =
        [&change.id, control, &after, &change.by, &change.what, manner].map(|text| text.as_bytes().to_vec());
    Packed { keys: vec![org.head(), org.controls(), org.audit()], arguments: arguments.into() }
}

pub(crate) fn controls(org: &OrgKeys, entries: u16) -> Packed {
    Packed { keys: vec![org.head(), org.controls(), org.audit()], arguments: vec![entries.to_string().into_bytes()] }
}

pub(crate) fn inspect(org: &OrgKeys, request: &InspectRequest) -> Packed {
    let strings = request.ledgers.len() + request.pools.len();
    let pool = |(key, place): &(LedgerKey, usize)| {
        let [state, ..] = org.pool(key, *place);
        state
    };
    let keys = [org.head(), org.controls()]
        .into_iter()
        .chain(request.ledgers.iter().map(|(key, _)| org.ledger(key)))
        .chain(request.pools.iter().map(pool))
        .chain(request.slots.iter().map(|key| org.slots(key)))
        .collect();
    Packed { keys, arguments: vec![strings.to_string().into_bytes()] }
}

pub(crate) fn open(org: &OrgKeys, seconds: &[u64], owner: Option<Owner>) -> Packed {
    let records = seconds.iter().map(|second| org.records_of_second(*second));
    let owner = owner.map(|owner| owner.0.to_vec()).unwrap_or_default();
    Packed { keys: std::iter::once(org.head()).chain(records).collect(), arguments: vec![owner] }
}

pub(crate) fn note<'a>(key: &str, members: impl Iterator<Item = &'a str>, life_ms: u64) -> Packed {
    let members = members.map(|member| member.as_bytes().to_vec());
    let arguments = std::iter::once(life_ms.to_string().into_bytes()).chain(members).collect();
    Packed { keys: vec![key.to_owned()], arguments }
}

/// Of `control`: ledgers only.
pub(crate) fn reset(org: &OrgKeys, ledgers: &[(LedgerKey, u64)]) -> Packed {
    let mut keys = Keys::default();
    for (key, window_ms) in ledgers {
        keys.ledger(key, *window_ms, false);
    }
    let bytes = keys.header(0);
    keys.packed(org, bytes)
}

pub(crate) fn observe(org: &OrgKeys, request: &ObserveRequest) -> Packed {
    let ObserveRequest { ledger, window_ms, told } = request;
    let mut keys = Keys::default();
    keys.ledger(ledger, *window_ms, false);
    let mut bytes = keys.header(0);
    put(&mut bytes, told.place as u64 + 1, 1);
    for figure in [told.counted, told.used, told.at, told.limit, told.lacking] {
        put(&mut bytes, figure.min(ENTRY_MAX), 6);
    }
    let mut packed = keys.packed(org, bytes);
    packed.keys.push(org.others(ledger, told.place));
    packed
}

/// The keys of one call, each once, and their places in `KEYS`.
#[derive(Default)]
struct Keys<'a> {
    ledgers: Vec<(&'a LedgerKey, u64, bool)>,
    numbers: HashMap<&'a LedgerKey, u64>,
    pools: Vec<(&'a LedgerKey, &'a FairAsk)>,
    slots: Vec<&'a SlotsKey>,
    /// Of `acquire` only.
    controls: Option<String>,
    records: Vec<String>,
}

impl<'a> Keys<'a> {
    fn ledger(&mut self, key: &'a LedgerKey, window_ms: u64, home: bool) {
        let next = self.ledgers.len() as u64 + 1;
        let number = *self.numbers.entry(key).or_insert(next);
        if number == next {
            self.ledgers.push((key, window_ms, home));
        } else if let Some(known) = self.ledgers.get_mut(number as usize - 1) {
            known.2 |= home;
        }
    }

    /// The number of a pool, from 1.
    fn pool(&mut self, ledger: &'a LedgerKey, fair: &'a FairAsk) -> u64 {
        let known = self.pools.iter().position(|(key, other)| *key == ledger && other.place == fair.place);
        known.unwrap_or_else(|| {
            self.pools.push((ledger, fair));
            self.pools.len() - 1
        }) as u64
            + 1
    }

    /// The number of a set of slots, from 1.
    fn slots(&mut self, key: &'a SlotsKey) -> u64 {
        let known = self.slots.iter().position(|other| *other == key);
        known.unwrap_or_else(|| {
            self.slots.push(key);
            self.slots.len() - 1
        }) as u64
            + 1
    }

    fn seal<'b>(&mut self, ids: impl Iterator<Item = &'b ReservationId>, org: &OrgKeys) {
        for id in ids {
            let key = org.records(id);
            if !self.records.contains(&key) {
                self.records.push(key);
            }
        }
    }

    fn header(&self, requests: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(4 + self.ledgers.len() * 7 + requests * 128);
        put(&mut bytes, self.ledgers.len() as u64, 2);
        put(&mut bytes, requests as u64, 2);
        put(&mut bytes, self.pools.len() as u64, 2);
        put(&mut bytes, self.slots.len() as u64, 2);
        for (_, window_ms, home) in &self.ledgers {
            put(&mut bytes, *window_ms, 6);
            bytes.push(u8::from(*home));
        }
        bytes
    }

    fn number(&self, key: &LedgerKey) -> u64 {
        self.numbers.get(key).copied().unwrap_or(0)
    }

    fn home(&self, bytes: &mut Vec<u8>, home: Option<&LedgerKey>, ledgers: usize) {
        put(bytes, home.map_or(0, |home| self.number(home)), 2);
        put(bytes, ledgers as u64, 1);
    }

    /// The hash that keeps `id` where no ledger does, by its place in `KEYS`. Behind what is always read, as it seldom is.
    fn place_of_records(&self, bytes: &mut Vec<u8>, id: &ReservationId, org: &OrgKeys) {
        let records = org.records(id);
        let records = self.records.iter().position(|key| *key == records).unwrap_or(0);
        let before =
            1 + self.ledgers.len() + 3 * self.pools.len() + self.slots.len() + usize::from(self.controls.is_some());
        put(bytes, (records + before + 1) as u64, 2);
    }

    fn packed(self, org: &OrgKeys, argument: Vec<u8>) -> Packed {
        let ledgers = self.ledgers.iter().map(|(key, ..)| org.ledger(key));
        let pools = self.pools.iter().flat_map(|(key, fair)| org.pool(key, fair.place));
        let slots = self.slots.iter().map(|key| org.slots(key));
        let keys = std::iter::once(org.head())
            .chain(ledgers)
            .chain(pools)
            .chain(slots)
            .chain(self.controls)
            .chain(self.records)
            .collect();
        Packed { keys, arguments: vec![argument] }
    }
}

/// A member of a pool's index: two bytes of weight, highest first, and the user's id.
fn member_of(weight: u32, user: &str) -> Vec<u8> {
    [&weight.to_be_bytes()[2..], user.as_bytes()].concat()
}

/// Appends the low `size` bytes of `value`, lowest first.
fn put(bytes: &mut Vec<u8>, value: u64, size: usize) {
    bytes.extend(value.to_le_bytes().into_iter().take(size));
}
