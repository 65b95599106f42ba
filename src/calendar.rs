//! The calendar log: rolling windows that are never overrun, in bounded memory. Pure: no I/O and no clock.
//!
//! A [`Ledger`] is a list of (time, amounts) in time order. Times up to now are the past; later ones are bookings, places promised in a
//! line. A cost fits at `x` when the sum over `(x - window, x]`, and at every booked time in `(x, x + window)`, leaves room for it.
//! The scripts under `lua/` are this file in Lua; `tests/it/model.rs` holds the two together.
//!
//! Lacks records of reservations (the store keeps those) and limits: an [`Ask`] says how full a window may be, whatever limits that
//! stands for.

pub(crate) mod fair;
mod ledger;
mod line;
mod others;
pub(crate) mod slots;

pub(crate) use self::{
    ledger::{Entry, Ledger},
    line::{earliest, place_in_line},
    others::{Held, Others, Told},
};

/// Requests, tokens and images; a custom resource has a ledger of its own and uses the first place.
pub(crate) type Amounts = [u64; 3];

/// Places to book per window, and parts of a window within which past times may be folded.
pub(crate) const PARTS: u64 = 64;
/// Past times that are kept as they are.
pub(crate) const KEEP: usize = 32;
/// Booked times of a ledger up to which a place off the grid may be taken.
pub(crate) const BOOKED_MAX: usize = 128;
/// An entry saturates here: 2^48 - 1, twice the largest amount.
pub(crate) const ENTRY_MAX: u64 = (1 << 48) - 1;
/// A total is reported as at most 2^53. At most 260 entries of 48 bits stay below 2^57, so here sums themselves are exact.
pub(crate) const TOTAL_MAX: u64 = 1 << 53;
/// The bound of a resource that is not asked for.
pub(crate) const UNBOUNDED: u64 = ENTRY_MAX;

/// What one request wants of one ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ask {
    /// What is charged.
    pub(crate) amounts: Amounts,
    /// How full a window may already be for the cost to fit: the limit less the cost. [`UNBOUNDED`] where nothing is asked.
    pub(crate) bounds: Amounts,
    /// How far ahead a place may lie when this ledger sets it, in milliseconds.
    pub(crate) horizon_ms: u64,
}

impl Ask {
    fn leaves_room(&self, sum: Amounts) -> bool {
        sum.iter().zip(&self.bounds).all(|(sum, bound)| sum <= bound || *bound == UNBOUNDED)
    }

    /// Which resources do not fit beside `sum`.
    fn short_of(&self, sum: Amounts) -> [bool; 3] {
        std::array::from_fn(|r| self.bounds[r] != UNBOUNDED && sum[r] > self.bounds[r])
    }
}

/// The distance of bookable places: the smallest divisor of the window that is not below `window / 64`.
pub(crate) fn grid(window_ms: u64) -> u64 {
    let parts = (1..=PARTS).rev().find(|parts| window_ms.is_multiple_of(*parts)).unwrap_or(1);
    window_ms / parts
}

fn is_nothing(amounts: &Amounts) -> bool {
    amounts.iter().all(|amount| *amount == 0)
}
