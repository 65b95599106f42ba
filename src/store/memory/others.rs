//! What others use of pools that an upstream counts: `lua/observe.lua` for the embedded store.

use crate::{
    calendar::{Held, Ledger},
    store::{ObserveRequest, memory::MemoryStore},
};

impl MemoryStore {
    pub(crate) fn observe(&self, org: &str, request: &ObserveRequest) -> Option<Held> {
        self.with_org(org, |org, now| {
            let ObserveRequest { ledger: key, window_ms, told } = request;
            let known = org.ledgers.remove(key);
            let is_new = known.is_none();
            let mut ledger = known.unwrap_or_else(|| Ledger::new(*window_ms, now));
            ledger.advance(now);
            let others = org.others.entry((key.clone(), told.place)).or_default();
            let held = others.observe(&mut ledger, told, now);
            // as in Redis, where a ledger begins with its first entry
            if !is_new || ledger.last_at() > 0 {
                org.ledgers.insert(key.clone(), ledger);
            }
            held
        })
    }
}
