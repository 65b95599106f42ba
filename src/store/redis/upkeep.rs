//! What is asked of the servers themselves, beside decisions: whether they are fit, and that they keep the scripts.

use std::{collections::BTreeMap, time::Duration};

use crate::{
    diagnosis::Finding,
    error::{Error, ErrorKind},
    store::{
        keyspace::OrgKeys,
        redis::{RedisStore, diagnose, memory::Memory, node::Node, question::Question, script},
    },
};

/// How long one question may take, at least.
const ANSWER_WITHIN_MIN: Duration = Duration::from_secs(2);
/// What orgs of self-tests are called.
const SELF_TEST: &str = "allotment-self-test";
/// How many names are tried to find those for each node of a cluster.
const NAMES_MAX: u32 = 200_000;

impl RedisStore {
    /// Checks that every server answers and keeps what it is given. A round trip each.
    pub(crate) async fn ready(&self) -> Result<(), Error> {
        for node in self.nodes().await? {
            let memory = Memory::of(&node, self.patience()).await?;
            if memory.evicts() && !self.allows_eviction {
                return Err(Error::invalid(format!(
                    "{} has maxmemory-policy {}: it would forget usage when memory runs out; set noeviction, or allow it by \
                     allow_eviction",
                    node.name(),
                    memory.policy
                )));
            }
        }
        Ok(())
    }

    /// What is to be known about the servers.
    pub(crate) async fn findings(&self) -> Vec<Finding> {
        diagnose::servers(&self.connections, self.transport).await
    }

    /// Orgs for self-tests, two at each server: one for calls and one for controls, so that processes that test at once do not change
    /// each other's.
    pub(crate) async fn self_test_orgs(&self) -> Result<Vec<[String; 2]>, Error> {
        let mut names: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for node in self.nodes().await? {
            names.insert(node.name().to_owned(), Vec::new());
        }
        for number in 0..NAMES_MAX {
            if names.values().all(|names| names.len() == 2) {
                break;
            }
            let org = format!("{SELF_TEST}-{number}");
            let owner = self.connections.owner_of(&OrgKeys::new(&org).head()).await.map_err(|failure| failure.error)?;
            if let Some(names) = names.get_mut(owner.name()).filter(|names| names.len() < 2) {
                names.push(org);
            }
        }
        Ok(names.into_values().filter_map(|names| names.try_into().ok()).collect())
    }

    /// The scripts and their digests, one per line.
    pub(crate) fn digests(&self) -> String {
        script::all().map(|(name, script)| format!("{name} {}", script.digest())).collect::<Vec<_>>().join("\n")
    }

    /// Has every server keep the scripts. A round trip each.
    pub(crate) async fn load_scripts(&self) -> Result<(), Error> {
        let mut load = redis::pipe();
        for (_, script) in script::all() {
            load.cmd("SCRIPT").arg("LOAD").arg(script.text());
        }
        for node in self.nodes().await? {
            let loaded = node.ask::<Vec<String>>(&Question::Commands("", &load), false, self.patience()).await;
            loaded.map_err(|failure| failure.error)?;
        }
        Ok(())
    }

    async fn nodes(&self) -> Result<Vec<std::sync::Arc<Node>>, Error> {
        match tokio::time::timeout(self.patience(), self.connections.nodes()).await {
            Ok(nodes) => nodes.map_err(|failure| failure.error),
            Err(_) => Err(Error::new(ErrorKind::Unavailable, "the cluster does not tell its nodes in time")),
        }
    }

    fn patience(&self) -> Duration {
        self.deadline.max(ANSWER_WITHIN_MIN)
    }
}
