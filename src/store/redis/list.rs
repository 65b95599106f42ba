//! How a sorted set by time is read, a list of who was admitted lately or the leases of a set of slots: page by page, whatever its length.

use redis::Pipeline;

/// About how many members are read at once.
const PAGE: usize = 1_000;

/// Some members, without those whose time has come. One that stays while all pages are read is on one of them at least.
pub(super) struct Page {
    pub(super) members: Vec<Vec<u8>>,
    /// Where the next page begins; 0: this is the last.
    pub(super) next: u64,
}

/// The time, in seconds and microseconds; where the next page begins; members, by their times.
pub(super) type Answer = ((u64, u64), (u64, Vec<(Vec<u8>, f64)>));

/// Asks for the page that begins there. One round trip.
pub(super) fn page(key: &str, cursor: u64) -> Pipeline {
    let mut commands = redis::pipe();
    commands.cmd("TIME").cmd("ZSCAN").arg(key).arg(cursor).arg("COUNT").arg(PAGE);
    commands
}

impl From<Answer> for Page {
    fn from(((seconds, micros), (next, scored)): Answer) -> Self {
        let now = (seconds * 1_000 + micros / 1_000) as f64;
        let listed = scored.into_iter().filter(|(_, off_at)| *off_at > now);
        Self { members: listed.map(|(member, _)| member).collect(), next }
    }
}
