//! Who asked within this second, as far as this process knows: a pool that is shared fairly notes each user once a second and process.

use std::{collections::HashSet, hash::BuildHasher};

use parking_lot::Mutex;

const SECOND_MS: u64 = 1_000;

/// The users of this second, by a hash of org and user: should two have the same one, one is noted a second later.
#[derive(Debug, Default)]
pub(crate) struct Presence {
    random: std::hash::RandomState,
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    since_ms: u64,
    users: HashSet<u64>,
}

impl Presence {
    /// Whether this is the first call of the user within a second.
    pub(crate) fn is_first(&self, org: &str, user: &str, now_ms: u64) -> bool {
        let key = self.random.hash_one((org, user));
        let mut seen = self.seen.lock();
        if now_ms >= seen.since_ms + SECOND_MS {
            seen.since_ms = now_ms;
            seen.users.clear();
        }
        seen.users.insert(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_noted_once_a_second() {
        let presence = Presence::default();
        assert!(presence.is_first("acme", "alice", 10_000));
        assert!(!presence.is_first("acme", "alice", 10_999));
        assert!(presence.is_first("acme", "bob", 10_999) && presence.is_first("other", "alice", 10_999));
        assert!(presence.is_first("acme", "alice", 11_000));
    }
}
