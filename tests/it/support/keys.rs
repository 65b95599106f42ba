//! What a server holds, byte for byte.

use std::collections::BTreeMap;

use redis::{AsyncCommands, aio::MultiplexedConnection};

/// One key as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stored {
    /// The answer of `DUMP`.
    pub(crate) dump: Vec<u8>,
    /// Whether the key has a time to live. How long is left is not compared: it changes by itself.
    pub(crate) expires: bool,
}

/// Every key that matches the glob `pattern`, by its name with odd bytes escaped. Equal maps mean that nothing was
/// written in between. Keys that expire on the way are left out.
pub(crate) async fn dump_all(conn: &mut MultiplexedConnection, pattern: &str) -> BTreeMap<String, Stored> {
    let mut names: Vec<Vec<u8>> = Vec::new();
    let mut cursor = 0_u64;
    loop {
        let mut scan = redis::cmd("SCAN");
        scan.arg(cursor).arg("MATCH").arg(pattern).arg("COUNT").arg(1000);
        let (next, page): (u64, Vec<Vec<u8>>) = scan.query_async(conn).await.unwrap();
        names.extend(page);
        cursor = next;
        if cursor == 0 {
            break;
        }
    }
    let mut stored = BTreeMap::new();
    for name in names {
        let dump: Option<Vec<u8>> = redis::cmd("DUMP").arg(&name).query_async(conn).await.unwrap();
        let ttl_ms: i64 = conn.pttl(&name).await.unwrap();
        if let Some(dump) = dump {
            stored.insert(name.escape_ascii().to_string(), Stored { dump, expires: ttl_ms >= 0 });
        }
    }
    stored
}
