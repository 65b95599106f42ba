//! The line: when a cost fits in several ledgers at once, and which place it takes.

use crate::calendar::{Ask, BOOKED_MAX, Ledger, PARTS, grid};

/// The outcome of looking for a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// The time.
    pub(crate) at: u64,
    /// The ledger that sets it, by its index: of those that raised the time, the first with the longest window. `None`: it fits at once.
    pub(crate) setter: Option<usize>,
}

/// The first time from `x` on at which every ledger has room for what is asked of it. Exact if nobody else acts.
pub(crate) fn earliest(asked: &[(&Ledger, &Ask)], x: u64) -> Place {
    let mut place = Place { at: x, setter: None };
    loop {
        let start = place.at;
        for (index, (ledger, ask)) in asked.iter().enumerate() {
            let raised = ledger.raised(place.at, ask);
            if raised > place.at {
                place.at = raised;
                let longer = |setter: usize| ledger.window() > asked[setter].0.window();
                if place.setter.is_none_or(longer) {
                    place.setter = Some(index);
                }
            }
        }
        if place.at == start {
            return place;
        }
    }
}

/// A place in line within `max_wait_ms` of `now`, given the earliest time there is; `None` if there is none to promise.
///
/// The earliest time, rounded up to the grid of the ledger that sets it; the exact time if only the rounding exceeds `max_wait_ms` and no
/// ledger holds [`BOOKED_MAX`] booked times.
pub(crate) fn place_in_line(asked: &[(&Ledger, &Ask)], now: u64, max_wait_ms: u64, first: Place) -> Option<u64> {
    let Some(setter) = first.setter else { return Some(now) };
    let (ledger, ask) = asked[setter];
    let step = grid(ledger.window());
    let mut at = first.at;
    for _ in 0..2 * PARTS {
        at = at.next_multiple_of(step);
        let again = earliest(asked, at).at;
        if again == at {
            break;
        }
        at = again;
    }
    if at - now > max_wait_ms && asked.iter().all(|(ledger, _)| ledger.booked() < BOOKED_MAX) {
        at = first.at;
    }
    (at - now <= max_wait_ms.min(ask.horizon_ms)).then_some(at)
}
