//! A cluster: which node has which slot, as far as is known.
//!
//! Invariant: every node has a connection of its own, so one that is stuck keeps no other waiting. The map is fetched anew, by one task at a
//! time, when a node says that it is wrong or does not answer; meanwhile calls go by what is known.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use redis::Value;
use tokio::{runtime::Handle, sync::watch};

use crate::{
    error::{Error, ErrorKind},
    store::redis::{
        address::{Address, Endpoint},
        failure::{Failure, Then},
        health::{Change, Health},
        node::Node,
        question::{Question, SLOTS},
    },
    telemetry,
};

/// How long a node may take to tell the map.
const TELL_WITHIN: Duration = Duration::from_millis(300);
/// A fetch that has taken this long has lost its runtime, or it stands still: another is begun.
const ABANDONED: Duration = Duration::from_secs(5);
/// The shortest pause between two fetches.
const FETCH_PAUSE: Duration = Duration::from_millis(100);

/// The nodes of a cluster.
#[derive(Debug)]
pub(crate) struct Cluster(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    address: Address,
    seeds: Vec<Endpoint>,
    map: Mutex<Map>,
    /// Whether anybody tells the map.
    health: Health,
}

#[derive(Debug, Default)]
struct Map {
    nodes: HashMap<Endpoint, Arc<Node>>,
    /// Per slot.
    owners: Vec<Option<Arc<Node>>>,
    fetch: Option<(watch::Receiver<()>, Instant)>,
    fetched: Option<Instant>,
    /// Why the last fetch told nothing.
    failure: Option<Failure>,
    /// Which node is asked first.
    turn: usize,
}

impl Cluster {
    pub(super) fn new(address: Address, seeds: Vec<Endpoint>) -> Self {
        let owners = vec![None; usize::from(SLOTS)];
        Self(Arc::new(Shared {
            address,
            seeds,
            map: Mutex::new(Map { owners, ..Map::default() }),
            health: Health::default(),
        }))
    }

    /// The node that has a slot. Waits while the map is fetched, if it is not known yet.
    pub(super) async fn owner(&self, slot: u16) -> Result<Arc<Node>, Failure> {
        let mut waited = false;
        loop {
            let mut fetch = {
                let mut map = self.0.map.lock();
                if let Some(Some(owner)) = map.owners.get(usize::from(slot)) {
                    return Ok(Arc::clone(owner));
                }
                if waited {
                    return Err(map.unknown());
                }
                self.0.fetch(&mut map)?
            };
            // it ends with an error: nothing is ever sent
            drop(fetch.changed().await);
            waited = true;
        }
    }

    /// Every node that has slots.
    pub(super) async fn owners(&self) -> Result<Vec<Arc<Node>>, Failure> {
        let fetch = {
            let mut map = self.0.map.lock();
            if map.owners.iter().flatten().next().is_none() { Some(self.0.fetch(&mut map)?) } else { None }
        };
        if let Some(mut fetch) = fetch {
            drop(fetch.changed().await);
        }
        let map = self.0.map.lock();
        if map.owners.iter().flatten().next().is_none() {
            return Err(map.unknown());
        }
        let mut owners: Vec<_> = map.nodes.values().filter(|node| map.has_slots(node)).map(Arc::clone).collect();
        owners.sort_by(|a, b| a.name().cmp(b.name()));
        Ok(owners)
    }

    /// `from` said that a slot is at `to`.
    pub(super) fn moved(&self, slot: u16, to: &str, from: &Node) {
        let mut map = self.0.map.lock();
        if let Ok(node) = self.0.node(&mut map, to, from)
            && let Some(owner) = map.owners.get_mut(usize::from(slot))
        {
            *owner = Some(node);
        }
        self.0.fetch_later(&mut map);
    }

    /// The node that `from` calls `to`.
    pub(super) fn at(&self, to: &str, from: &Node) -> Result<Arc<Node>, Error> {
        self.0.node(&mut self.0.map.lock(), to, from)
    }

    /// Whether a call may be made: while nobody tells the map, one per pause.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unavailable`] while nobody does.
    pub(super) fn admit(&self) -> Result<(), Error> {
        self.0.health.admit(Instant::now())
    }

    /// A call ended without an answer, and no node is to blame: nobody told the map, unless it was `asked` and its org is on its way to
    /// another node.
    pub(super) fn failed(&self, asked: bool, error: &Error) {
        telemetry::store_failed();
        if !asked && self.0.health.failed(Instant::now()) == Change::Fails {
            telemetry::store_fails("the cluster", error);
        }
    }

    /// A node does not answer, or cannot: another may have its slots.
    pub(super) fn suspect(&self) {
        self.0.fetch_later(&mut self.0.map.lock());
    }
}

impl Map {
    /// Nobody tells who has a slot.
    fn unknown(&self) -> Failure {
        let error = Error::new(ErrorKind::Unavailable, "no node of the cluster tells who has this org");
        match &self.failure {
            Some(failure) => Failure::new(error.with_source(failure.error.copy()), failure.then.clone()),
            None => Failure::new(error, Then::Repeat),
        }
    }

    fn has_slots(&self, node: &Arc<Node>) -> bool {
        self.owners.iter().flatten().any(|owner| Arc::ptr_eq(owner, node))
    }
}

impl Shared {
    /// The node of this name, as a node spells it: an empty host is its own.
    fn node(&self, map: &mut Map, name: &str, from: &Node) -> Result<Arc<Node>, Error> {
        let unreadable = || Error::new(ErrorKind::Protocol, "a node of the cluster names no node");
        let (host, port) = name.rsplit_once(':').ok_or_else(unreadable)?;
        let host = match (host, from.endpoint()) {
            ("" | "?", Some((own, _))) => own,
            _ => host,
        };
        self.node_at(map, (host.to_owned(), port.parse().map_err(|_| unreadable())?))
    }

    fn node_at(&self, map: &mut Map, endpoint: Endpoint) -> Result<Arc<Node>, Error> {
        if let Some(known) = map.nodes.get(&endpoint) {
            return Ok(Arc::clone(known));
        }
        let node = Arc::new(Node::of_cluster(&self.address, endpoint.clone())?);
        map.nodes.insert(endpoint, Arc::clone(&node));
        Ok(node)
    }

    fn fetch_later(self: &Arc<Self>, map: &mut Map) {
        if map.fetched.is_none_or(|at| at.elapsed() >= FETCH_PAUSE) {
            // without a runtime the next call sees to it
            drop(self.fetch(map));
        }
    }

    /// Fetches the map in the background, unless somebody does: what is returned ends when it is over.
    fn fetch(self: &Arc<Self>, map: &mut Map) -> Result<watch::Receiver<()>, Failure> {
        let under_way = |(fetch, began): &&(watch::Receiver<()>, Instant)| {
            fetch.has_changed().is_ok() && began.elapsed() < ABANDONED
        };
        if let Some((fetch, _)) = map.fetch.as_ref().filter(under_way) {
            return Ok(fetch.clone());
        }
        let runtime = Handle::try_current()
            .map_err(|_| Failure::new(Error::new(ErrorKind::Unavailable, "there is no Tokio runtime"), Then::GiveUp))?;
        let (over, fetch) = watch::channel(());
        map.fetch = Some((fetch.clone(), Instant::now()));
        let shared = Arc::clone(self);
        runtime.spawn(async move {
            shared.fetch_now().await;
            shared.map.lock().fetched = Some(Instant::now());
            drop(over);
        });
        Ok(fetch)
    }

    /// Asks node by node, beginning with another each time, until one tells.
    async fn fetch_now(&self) {
        let nodes: Vec<Arc<Node>> = {
            let mut map = self.map.lock();
            let mut endpoints: Vec<_> = map.nodes.keys().cloned().chain(self.seeds.iter().cloned()).collect();
            endpoints.sort();
            endpoints.dedup();
            map.turn = map.turn.wrapping_add(1);
            let turn = map.turn % endpoints.len().max(1);
            endpoints.rotate_left(turn);
            endpoints.into_iter().filter_map(|endpoint| self.node_at(&mut map, endpoint).ok()).collect()
        };
        let mut question = redis::pipe();
        question.cmd("CLUSTER").arg("SLOTS");
        let mut last = None;
        for node in nodes {
            match node.ask::<(Value,)>(&Question::Commands("", &question), false, TELL_WITHIN).await {
                Ok((told,)) => match ranges(&told).filter(|ranges| !ranges.is_empty()) {
                    Some(ranges) => {
                        self.learn(ranges, &node);
                        if self.health.answered(Instant::now()) == Change::Recovers {
                            telemetry::store_answers("the cluster");
                        }
                        return;
                    }
                    None => last = None,
                },
                Err(failure) => last = Some(failure),
            }
        }
        self.map.lock().failure = last.map(|Failure { error, then }| {
            // of one node: another may tell
            let then = if then == Then::GiveUp { then } else { Then::Repeat };
            Failure::new(error, then)
        });
    }

    fn learn(&self, ranges: Vec<Range>, from: &Node) {
        let mut map = self.map.lock();
        let mut owners = vec![None; usize::from(SLOTS)];
        for Range { first, last, master } in ranges {
            let Ok(node) = self.node(&mut map, &master, from) else { continue };
            for owner in owners.iter_mut().take(usize::from(last) + 1).skip(usize::from(first)) {
                *owner = Some(Arc::clone(&node));
            }
        }
        map.owners = owners;
        map.failure = None;
        // those that are gone; a replica that is promoted comes back
        let map = &mut *map;
        map.nodes.retain(|_, node| map.owners.iter().flatten().any(|owner| Arc::ptr_eq(owner, node)));
    }
}

/// Slots with the master that has them.
struct Range {
    first: u16,
    last: u16,
    master: String,
}

/// What `CLUSTER SLOTS` answers: per range its first and last slot, and nodes, the master first, each with host, port and more.
fn ranges(told: &Value) -> Option<Vec<Range>> {
    let Value::Array(told) = told else { return None };
    let number = |value: &Value| match value {
        Value::Int(number) => u16::try_from(*number).ok(),
        _ => None,
    };
    let range = |range: &Value| {
        let Value::Array(parts) = range else { return None };
        let [first, last, Value::Array(master), ..] = &**parts else { return None };
        let [host, port, ..] = &**master else { return None };
        let host = match host {
            Value::BulkString(host) => String::from_utf8(host.clone()).ok()?,
            Value::SimpleString(host) => host.clone(),
            // the host that was asked
            _ => String::new(),
        };
        Some(Range { first: number(first)?, last: number(last)?, master: format!("{host}:{}", number(port)?) })
    };
    told.iter().map(range).collect()
}
