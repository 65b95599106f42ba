//! Whom this process has noted: a pool that is shared fairly need not be told of a user with every call.
//!
//! Invariant: a user who keeps asking is noted in every half of a window, so no pool forgets who is there; a heavy one at every tick.

use std::{
    collections::HashMap,
    hash::{BuildHasher, Hash, RandomState},
};

use parking_lot::Mutex;

use crate::{calendar::fair::tick_ms, store::Notes};

/// Users kept before those of long ago are dropped for the first time.
const KEPT_MIN: usize = 1_024;

/// By a hash of org, user and pools: should two have the same one, one of them is noted later.
#[derive(Debug, Default)]
pub(crate) struct Presence {
    random: RandomState,
    users: Mutex<Users>,
}

#[derive(Debug, Default)]
struct Users {
    noted: HashMap<u64, Noted>,
    dropped_at: usize,
}

#[derive(Clone, Copy, Debug, Default)]
struct Noted {
    user_until_ms: u64,
    heavy_until_ms: u64,
}

impl Presence {
    /// What the pools of a call should note of its user: `who` are org, user and pools, `window_ms` is the shortest window of those.
    pub(crate) fn note(&self, who: impl Hash, window_ms: u64, now_ms: u64) -> Notes {
        let key = self.random.hash_one(who);
        let mut users = self.users.lock();
        if users.noted.len() > users.dropped_at.max(KEPT_MIN) {
            users.noted.retain(|_, noted| noted.user_until_ms > now_ms);
            users.dropped_at = 2 * users.noted.len();
        }
        let noted = users.noted.entry(key).or_default();
        if now_ms >= noted.user_until_ms {
            *noted = Noted { user_until_ms: now_ms + window_ms / 2, heavy_until_ms: now_ms + tick_ms(window_ms) };
            Notes::User
        } else if now_ms >= noted.heavy_until_ms {
            noted.heavy_until_ms = now_ms + tick_ms(window_ms);
            Notes::Heavy
        } else {
            Notes::Nobody
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_noted_twice_a_window_and_if_heavy_at_every_tick() {
        let presence = Presence::default();
        let note = |user, now_ms| presence.note(("acme", user), 60_000, now_ms);
        assert_eq!(note("alice", 10_000), Notes::User);
        assert_eq!(note("alice", 10_999), Notes::Nobody);
        assert_eq!(note("alice", 11_000), Notes::Heavy);
        assert_eq!(note("alice", 11_001), Notes::Nobody);
        assert_eq!(
            (note("bob", 11_001), presence.note(("other", "alice"), 60_000, 11_001)),
            (Notes::User, Notes::User)
        );
        assert_eq!(note("alice", 40_000), Notes::User);
    }

    #[test]
    fn users_of_long_ago_are_dropped() {
        let presence = Presence::default();
        for second in 0..100 {
            for user in 0..100 {
                presence.note((second, user), 2_000, second * 1_000);
            }
        }
        assert!(presence.users.lock().noted.len() <= KEPT_MIN + 200, "{}", presence.users.lock().noted.len());
    }
}
