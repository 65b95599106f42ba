//! Slots for calls under way: leases that expire, and fencing tokens. Pure: no I/O and no clock.
//!
//! Invariant: no lease is taken where as many are live as there are slots, each token is larger than those before it, and a lease that has
//! expired is never live again: who held it gets another one, if there is room. `lua/lib/lease.lua` is this file in Lua.

use std::collections::HashMap;

/// The id of a reservation.
type Id = [u8; 16];

/// Tokens of one millisecond, so that tokens grow even where the last one has been forgotten.
const LEASES_OF_MS: u64 = 1024;

/// One set of slots.
#[derive(Clone, Debug, Default)]
pub(crate) struct Slots {
    /// When each lease expires.
    leases: HashMap<Id, u64>,
    token: u64,
}

impl Slots {
    /// How many leases are live.
    pub(crate) fn live(&self, now: u64) -> u64 {
        self.leases.values().filter(|expires_at| **expires_at > now).count() as u64
    }

    /// The reservations that have live leases.
    pub(crate) fn holders(&self, now: u64) -> impl Iterator<Item = Id> {
        self.leases.iter().filter(move |(_, expires_at)| **expires_at > now).map(|(id, _)| *id)
    }

    /// When the first live lease expires; 0 if there is none.
    pub(crate) fn first_at(&self, now: u64) -> u64 {
        self.leases.values().copied().filter(|expires_at| *expires_at > now).min().unwrap_or(0)
    }

    /// Whether there is room for the lease of `id`, or it has one; else when the next lease expires.
    pub(crate) fn room_for(&self, id: Id, amount: u64, now: u64) -> Result<(), u64> {
        if self.holds(id, now) || self.live(now) < amount {
            return Ok(());
        }
        Err(self.first_at(now).max(now))
    }

    /// The token that the next lease gets, if it is the only set.
    pub(crate) fn next_token(&self, now: u64) -> u64 {
        (now * LEASES_OF_MS).max(self.token + 1)
    }

    /// Takes a slot, or renews the lease that `id` has.
    pub(crate) fn take(&mut self, id: Id, expires_at: u64, token: u64, now: u64) {
        self.leases.retain(|_, expires_at| *expires_at > now);
        self.leases.insert(id, expires_at);
        self.token = token;
    }

    /// Whether the lease of `id` is live.
    pub(crate) fn holds(&self, id: Id, now: u64) -> bool {
        self.leases.get(&id).is_some_and(|expires_at| *expires_at > now)
    }

    /// Lets a live lease last until `expires_at`; says whether it was live.
    pub(crate) fn renew(&mut self, id: Id, expires_at: u64, now: u64) -> bool {
        let lease = self.leases.get_mut(&id).filter(|expires_at| **expires_at > now);
        lease.map(|lease| *lease = expires_at).is_some()
    }

    pub(crate) fn free(&mut self, id: Id) {
        self.leases.remove(&id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Id = [1; 16];
    const B: Id = [2; 16];

    #[test]
    fn a_slot_is_free_again_when_its_lease_expires_and_not_before() {
        let mut slots = Slots::default();
        slots.take(A, 1_500, slots.next_token(1_000), 1_000);
        assert_eq!(slots.room_for(B, 1, 1_499), Err(1_500));
        assert_eq!((slots.room_for(B, 1, 1_500), slots.live(1_500)), (Ok(()), 0));
    }

    #[test]
    fn an_expired_lease_is_not_renewed_and_a_live_one_needs_no_room() {
        let mut slots = Slots::default();
        slots.take(A, 1_500, 1, 1_000);
        assert_eq!(slots.room_for(A, 1, 1_200), Ok(()));
        assert!(slots.renew(A, 2_000, 1_499) && !slots.renew(A, 3_000, 2_000) && !slots.renew(B, 3_000, 1_000));
    }

    #[test]
    fn tokens_grow_within_a_millisecond_and_when_the_last_is_forgotten() {
        let mut slots = Slots::default();
        let first = slots.next_token(1_000);
        slots.take(A, 1_500, first, 1_000);
        assert!(slots.next_token(1_000) > first && Slots::default().next_token(1_001) > first);
    }
}
