//! What the embedded store holds, and what a store that holds this would decide: reads only.

use crate::{
    calendar::Ledger,
    store::{
        AcquireRequest, Answer, ReservationId, Verdict,
        inspection::{Contents, InspectRequest, Inspected, Open, Owner, SlotsSeen},
        keyspace::{LedgerKey, SlotsKey},
        memory::{MemoryStore, Org, State},
    },
};

impl MemoryStore {
    pub(crate) fn inspect(&self, org: &str, request: &InspectRequest) -> Inspected {
        let orgs = self.orgs.lock();
        let now = self.clock.now_ms();
        let nothing = Org::default();
        let org = orgs.by_name.get(org).unwrap_or(&nothing);
        let contents = |(key, window): &(LedgerKey, u64)| {
            let entries = org.ledgers.get(key).map(Ledger::entries).unwrap_or_default();
            let entries = entries.iter().filter(|entry| entry.at + window > now).copied().collect();
            // records are kept by themselves: see `open`
            Contents { entries, open: Vec::new() }
        };
        Inspected {
            now,
            version: org.book.stored(now, 0).version,
            loss: None,
            ledgers: request.ledgers.iter().map(contents).collect(),
            pools: request
                .pools
                .iter()
                .map(|pool| org.pools.get(pool).map(|pool| pool.outline()).unwrap_or_default())
                .collect(),
            slots: request
                .slots
                .iter()
                .map(|key| {
                    org.slots.get(key).map_or_else(SlotsSeen::default, |slots| SlotsSeen {
                        live: slots.live(now),
                        first_at: slots.first_at(now),
                    })
                })
                .collect(),
        }
    }

    pub(crate) fn open(&self, org: &str, owner: Option<Owner>) -> Vec<Open> {
        let orgs = self.orgs.lock();
        let now = self.clock.now_ms();
        let records = orgs.by_name.get(org).into_iter().flat_map(|org| &org.records);
        let open = records.filter(|(id, record)| {
            let is_wanted = owner.is_none_or(|owner| owner == id.owner());
            is_wanted && record.state == State::Open && record.expires_at > now
        });
        open.map(|(id, record)| Open { at: record.at, id: *id, amounts: record.amounts }).collect()
    }

    pub(crate) fn holders(&self, org: &str, slots: &SlotsKey) -> Vec<Owner> {
        let orgs = self.orgs.lock();
        let now = self.clock.now_ms();
        let slots = orgs.by_name.get(org).and_then(|org| org.slots.get(slots));
        slots.into_iter().flat_map(|slots| slots.holders(now)).map(|id| ReservationId(id).owner()).collect()
    }

    /// Empties the past of ledgers; booked places stay.
    pub(crate) fn reset(&self, org: &str, ledgers: &[(LedgerKey, u64)]) {
        self.with_org(org, |org, now| {
            for (key, _) in ledgers {
                if let Some(ledger) = org.ledgers.get_mut(key) {
                    ledger.advance(now);
                    ledger.reset();
                }
            }
        });
    }

    /// What a store that holds what `seen` saw for this request would answer to it, asked for now or nothing under a new id. It is decided
    /// on a copy, by the embedded store, which decides as the scripts do.
    pub(crate) fn foresee(request: &AcquireRequest, seen: &Inspected) -> Answer {
        let mut org = Org::default();
        for (asked, contents) in request.ledgers.iter().zip(&seen.ledgers) {
            let ledger = Ledger::restore(asked.window_ms, contents.entries.clone(), seen.now);
            org.ledgers.insert(asked.key.clone(), ledger);
        }
        for (fair, pool) in request.fair.iter().zip(&seen.pools) {
            org.pools.insert((request.ledgers[fair.pool].key.clone(), fair.place), pool.clone());
        }
        // the controls are known to be current, and slots are looked at below
        let alone = AcquireRequest {
            slots: Vec::new(),
            controls: (0, None),
            max_wait_ms: 0,
            moves_up: false,
            repeats: false,
            ..request.clone()
        };
        let mut answer = org.acquire(&alone, seen.now);
        let full = |(slots, (asked, seen)): (usize, (&_, &SlotsSeen))| {
            let asked: &crate::store::AskedSlots = asked;
            (seen.live >= asked.amount).then_some(Verdict::Full { slots, at: seen.first_at.max(answer.now) })
        };
        if matches!(answer.verdict, Verdict::Admitted { .. })
            && let Some(full) = request.slots.iter().zip(&seen.slots).enumerate().find_map(full)
        {
            answer.verdict = full;
        }
        // what it would charge is not there yet
        answer.ledgers = request
            .ledgers
            .iter()
            .zip(&seen.ledgers)
            .map(|(asked, contents)| contents.state(asked.window_ms, seen.now))
            .collect();
        answer.in_flight = seen.slots.iter().map(|slots| slots.live).collect();
        answer
    }
}
