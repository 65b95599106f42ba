//! The names a run writes under, and their removal.
//!
//! Invariant: removal touches only keys whose org starts with this run's random prefix.

use anyhow::Result;
use redis::aio::MultiplexedConnection;

use super::probe::connect;

/// Where the store lists orgs.
const ORGS: &str = "allot:1:orgs";

/// The run's own corner of the keyspace: a short random prefix of all its orgs.
#[derive(Clone)]
pub(super) struct Scratch {
    prefix: String,
}

impl Scratch {
    /// A prefix no other run has: 24 random bits. Short, as the names of orgs are: a long one would show in the memory figures.
    pub(super) fn new() -> Self {
        Self { prefix: format!("b{:06x}-", rand::random::<u32>() >> 8) }
    }

    /// The org that `case` writes under.
    pub(super) fn org(&self, case: &str) -> String {
        format!("{}{case}", self.prefix)
    }

    /// A key of the bench's own, in the slot and the pattern of the org of `case`.
    pub(super) fn key(&self, case: &str, name: &str) -> String {
        format!("allot:1:{{{}}}:{name}", self.org(case))
    }

    /// What SCAN matches: every key of every org of this run.
    pub(super) fn pattern(&self) -> String {
        format!("allot:1:{{{}*", self.prefix)
    }

    /// Deletes all keys of the run and says how many there were; takes its orgs off the list of orgs. One SCAN of the keyspace per pass.
    ///
    /// Passes are repeated until one finds nothing: a connection that was closed in mid-flight may leave calls in the server's buffers,
    /// which run after it.
    ///
    /// # Errors
    ///
    /// When Redis cannot be reached or refuses SCAN or UNLINK.
    pub(super) async fn remove_all(&self, client: &redis::Client) -> Result<u64> {
        let mut connection = connect(client).await?;
        let mut removed = 0;
        loop {
            match remove(&mut connection, &self.pattern(), &[]).await? {
                0 => break,
                more => removed += more,
            }
        }
        let listed: Vec<String> = redis::cmd("ZRANGE").arg(ORGS).arg(0).arg(-1).query_async(&mut connection).await?;
        for org in listed.iter().filter(|org| org.starts_with(&self.prefix)) {
            redis::cmd("ZREM").arg(ORGS).arg(org).exec_async(&mut connection).await?;
        }
        Ok(removed)
    }

    /// Deletes the string keys of the orgs whose case begins with `case`. One SCAN of the keyspace.
    ///
    /// # Errors
    ///
    /// As [`remove_all`](Self::remove_all).
    pub(super) async fn remove_strings(&self, client: &redis::Client, case: &str) -> Result<()> {
        let pattern = format!("allot:1:{{{}*", self.org(case));
        remove(&mut connect(client).await?, &pattern, &["TYPE", "string"]).await?;
        Ok(())
    }
}

/// Deletes the keys that SCAN finds by `pattern` and the `filter` after it, and says how many it found.
async fn remove(connection: &mut MultiplexedConnection, pattern: &str, filter: &[&str]) -> Result<u64> {
    let (mut cursor, mut found) = (0_u64, 0);
    loop {
        let mut scan = redis::cmd("SCAN");
        scan.arg(cursor).arg("MATCH").arg(pattern).arg("COUNT").arg(1000).arg(filter);
        let (next, keys): (u64, Vec<Vec<u8>>) = scan.query_async(connection).await?;
        if !keys.is_empty() {
            found += redis::cmd("UNLINK").arg(&keys).query_async::<u64>(connection).await?;
        }
        if next == 0 {
            return Ok(found);
        }
        cursor = next;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_of_a_run_matches_its_pattern_and_no_other_run() {
        let (one, other) = (Scratch::new(), Scratch::new());
        let stem = one.pattern();
        let stem = stem.strip_suffix('*').unwrap();
        assert!(one.key("floor", "user-7").starts_with(stem));
        assert!(!other.key("floor", "user-7").starts_with(stem));
        assert!(!stem.contains(['*', '?', '[', ']', '\\']), "{stem} holds no other wildcard");
    }
}
