//! What a look asks of a store and what it sees: ledgers, pools, slots and reservations as they are. Nothing is changed by it.

use crate::{
    calendar::{Amounts, Entry, Ledger, fair::Pool},
    store::{
        LedgerState, ReservationId,
        keyspace::{LedgerKey, SlotsKey},
        loss::Loss,
    },
};

/// Asks what ledgers, pools that are shared fairly, and sets of slots of one org hold.
#[derive(Clone, Debug, Default)]
pub(crate) struct InspectRequest {
    /// With their windows.
    pub(crate) ledgers: Vec<(LedgerKey, u64)>,
    /// By their ledger and the resource's place in it.
    pub(crate) pools: Vec<(LedgerKey, usize)>,
    pub(crate) slots: Vec<SlotsKey>,
}

/// What a ledger holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Contents {
    /// Those in the window, and those booked.
    pub(crate) entries: Vec<Entry>,
    /// Of the reservations that it carries, those that nobody has settled.
    pub(crate) open: Vec<Open>,
}

/// A reservation that nobody has settled: its call is under way, or its permit was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Open {
    /// Its place.
    pub(crate) at: u64,
    pub(crate) id: ReservationId,
    /// The charge on the ledger that carries it, or would.
    pub(crate) amounts: Amounts,
}

/// How full a set of slots is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct SlotsSeen {
    /// How many leases are live.
    pub(crate) live: u64,
    /// When the first of them expires; 0 if there is none.
    pub(crate) first_at: u64,
}

/// What a look saw: one moment of one org.
#[derive(Clone, Debug, Default)]
pub(crate) struct Inspected {
    pub(crate) now: u64,
    /// Of the controls; 0 if there are none.
    pub(crate) version: u64,
    /// The last loss of the org's data that was noticed.
    pub(crate) loss: Option<Loss>,
    /// One per ledger asked.
    pub(crate) ledgers: Vec<Contents>,
    /// One per pool asked.
    pub(crate) pools: Vec<Pool>,
    /// One per set asked.
    pub(crate) slots: Vec<SlotsSeen>,
}

impl Contents {
    /// Where the ledger stands.
    pub(crate) fn state(&self, window_ms: u64, now: u64) -> LedgerState {
        let ledger = Ledger::restore(window_ms, self.entries.clone(), now);
        LedgerState { used: ledger.used(), last_at: ledger.last_at() }
    }

    /// What is booked for later than now.
    pub(crate) fn booked(&self, now: u64) -> Amounts {
        let mut booked = [0; 3];
        for entry in self.entries.iter().filter(|entry| entry.at > now) {
            for (sum, amount) in booked.iter_mut().zip(entry.amounts) {
                *sum += amount;
            }
        }
        booked
    }
}

/// Whose calls a reservation is of: four bytes of a hash of the user's id, in each id that a process makes. So the reservations of a user are
/// told from others where nothing else says whose they are; should two users have the same, an operator sees those of both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Owner(pub(crate) [u8; 4]);

impl Owner {
    /// `None`: calls of the org without a user. FNV-1a: every release and every process must come to the same.
    pub(crate) fn of(user: Option<&str>) -> Self {
        let hash = |hash: u32, byte: &u8| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193);
        Self(user.unwrap_or_default().as_bytes().iter().fold(0x811c_9dc5, hash).to_be_bytes())
    }
}
