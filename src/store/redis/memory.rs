//! Whether a server keeps what it is given: looked at every ten seconds, and told once per change.
//!
//! Invariant: no decision waits for a look. A server that evicts keys forgets usage without an error, so nothing else would show it.

use std::{
    collections::HashMap,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::runtime::Handle;

use crate::{
    error::Error,
    store::redis::{connect::Connections, node::Node, question::Question},
    telemetry,
};

/// The pause between two looks.
const PAUSE: Duration = Duration::from_secs(10);
/// How long one may take, per server.
const LOOK_WITHIN: Duration = Duration::from_secs(2);
/// The part of its memory, in percent, from which a server is short of it.
const SHORT_PERCENT: u64 = 90;

/// What a server says about its memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Memory {
    /// What it does when memory runs out: `noeviction` refuses writes, all others forget keys.
    pub(crate) policy: String,
    /// In bytes.
    pub(crate) used: u64,
    /// In bytes; 0: whatever the host has.
    pub(crate) max: u64,
    /// Keys evicted since it started.
    pub(crate) evicted: u64,
}

impl Memory {
    /// Asks a server. One round trip.
    pub(crate) async fn of(node: &Node, within: Duration) -> Result<Self, Error> {
        let mut question = redis::pipe();
        // 6.2 takes one section at a time
        question.cmd("INFO").arg("memory").cmd("INFO").arg("stats");
        let told = node.ask::<(String, String)>(&Question::Commands("", &question), false, within).await;
        let (memory, stats) = told.map_err(|failure| failure.error)?;
        Ok(Self::read(&(memory + &stats)))
    }

    pub(super) fn read(info: &str) -> Self {
        let field = |name: &str| info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let number = |name| field(name).and_then(|value| value.trim().parse().ok()).unwrap_or(0);
        Self {
            policy: field("maxmemory_policy").unwrap_or("noeviction").trim().to_owned(),
            used: number("used_memory"),
            max: number("maxmemory"),
            evicted: number("evicted_keys"),
        }
    }

    pub(crate) fn evicts(&self) -> bool {
        self.policy != "noeviction"
    }

    /// Whether nearly all that it may use is used.
    pub(crate) fn is_short(&self) -> bool {
        self.max > 0 && u128::from(self.used) * 100 >= u128::from(self.max) * u128::from(SHORT_PERCENT)
    }
}

/// Looks at the servers while their store lives.
#[derive(Debug, Default)]
pub(super) struct Watch {
    looks: Arc<AtomicBool>,
}

impl Watch {
    /// Sees to it that somebody looks.
    pub(super) fn keep(&self, connections: &Arc<Connections>, allows_eviction: bool) {
        if self.looks.load(Ordering::Relaxed) || self.looks.swap(true, Ordering::SeqCst) {
            return;
        }
        let ends = Ends(Arc::clone(&self.looks));
        match Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn(look(Arc::downgrade(connections), allows_eviction, ends))),
            // the next call that has a runtime sees to it
            Err(_) => drop(ends),
        }
    }
}

/// However the looking ends, also with its runtime: the next call starts it anew.
struct Ends(Arc<AtomicBool>);

impl Drop for Ends {
    fn drop(&mut self) {
        self.0.store(false, Ordering::SeqCst);
    }
}

async fn look(connections: Weak<Connections>, allows_eviction: bool, _ends: Ends) {
    let mut seen: HashMap<String, Memory> = HashMap::new();
    while let Some(connections) = connections.upgrade() {
        for node in connections.nodes().await.unwrap_or_default() {
            // a server that does not answer is told of by the calls that need it
            if let Ok(memory) = Memory::of(&node, LOOK_WITHIN).await {
                let before = seen.insert(node.name().to_owned(), memory.clone());
                tell(node.name(), &before.unwrap_or_default(), &memory, allows_eviction);
            }
        }
        drop(connections);
        tokio::time::sleep(PAUSE).await;
    }
}

/// Tells what has changed between two looks.
fn tell(server: &str, before: &Memory, now: &Memory, allows_eviction: bool) {
    if now.evicts() && now.policy != before.policy && !allows_eviction {
        telemetry::store_may_evict(server, &now.policy);
    }
    // a server that has started anew counts from nothing
    let evicted = now.evicted.checked_sub(before.evicted).unwrap_or(now.evicted);
    if evicted > 0 && !before.policy.is_empty() {
        telemetry::store_evicts(server, evicted);
    }
    if now.is_short() != before.is_short() {
        telemetry::store_memory(server, now.is_short(), now.used, now.max);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_read_by_its_fields() {
        let memory = Memory::read(
            "# Memory\r\nused_memory:950\r\nused_memory_human:950B\r\nmaxmemory:1000\r\nmaxmemory_policy:volatile-lru\r\n# Stats\r\nevicted_keys:7\r\n",
        );
        assert_eq!(memory, Memory { policy: "volatile-lru".to_owned(), used: 950, max: 1_000, evicted: 7 });
        assert!(memory.evicts() && memory.is_short());
        assert!(!Memory { used: 899, ..memory.clone() }.is_short());
        assert!(!Memory { max: 0, ..memory }.is_short(), "no bound is no shortage");
        assert!(!Memory::read("").evicts(), "a server that does not say so is not blamed");
    }
}
