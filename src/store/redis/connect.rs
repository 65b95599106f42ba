//! The servers of a store, and how one of them is asked until it answers.
//!
//! Invariant: a call is about the keys of one slot, so one node has them all. A call whose answer did not come is repeated with the same ids
//! until the deadline, never guessed; nobody but [`Connections::ask`] repeats one. Nothing is sent before the first call.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use redis::FromRedisValue;

use crate::{
    error::{Error, ErrorKind},
    store::redis::{
        address::{Address, Topology},
        cluster::Cluster,
        failure::{Failure, Then},
        node::Node,
        question::{Question, slot_of},
    },
    telemetry,
};

/// The pause before a call is repeated; it doubles up to the longest.
const REPEAT_PAUSE: Duration = Duration::from_millis(5);
const REPEAT_PAUSE_MAX: Duration = Duration::from_millis(40);
/// How long the first try may take, whatever the deadline: a connection that is dead must show soon. It doubles with each, for a server that
/// is only slow.
const TRY_WITHIN: Duration = Duration::from_millis(500);
/// Redirections that are followed at once.
const REDIRECTIONS_MAX: u32 = 3;

/// The servers of a store.
#[derive(Debug)]
pub(crate) enum Connections {
    /// One server, or the master of a service.
    One(Arc<Node>),
    Cluster(Cluster),
}

/// What a call was answered.
pub(crate) struct Answered<T> {
    pub(crate) answer: T,
    /// A try before this one got no answer: it may still be on its way, and be executed later.
    pub(crate) after_silence: bool,
}

impl Connections {
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`](crate::error::ErrorKind::Invalid) for certificates that are none.
    pub(crate) fn new(address: Address) -> Result<Self, Error> {
        Ok(match &address.topology {
            Topology::One => Self::One(Arc::new(Node::server(&address)?)),
            Topology::Sentinel { service, .. } => {
                let service = service.clone();
                Self::One(Arc::new(Node::of_sentinels(address, &service)))
            }
            Topology::Cluster(seeds) => {
                let seeds = seeds.clone();
                Self::Cluster(Cluster::new(address, seeds))
            }
        })
    }

    /// Connections of a pool that was handed in.
    #[cfg(feature = "deadpool")]
    pub(crate) fn pooled(pool: deadpool_redis::Pool) -> Self {
        Self::One(Arc::new(Node::pooled(pool)))
    }

    /// Asks until there is an answer, or a failure that no repeat mends, or the deadline has passed.
    pub(crate) async fn ask<T: FromRedisValue>(
        &self,
        question: &Question<'_>,
        deadline: Duration,
    ) -> Result<Answered<T>, Error> {
        let (until, mut try_within) = (Instant::now() + deadline, TRY_WITHIN);
        let left = || until.saturating_duration_since(Instant::now());
        let (mut pause, mut redirections) = (REPEAT_PAUSE, 0);
        // the node of the last try, why it failed, and whether the node is to blame
        let (mut last, mut to_blame): (Option<Error>, Option<Arc<Node>>) = (None, None);
        let (mut asked, mut takes_over, mut after_silence) = (false, None, false);
        if let Self::Cluster(cluster) = self {
            cluster.admit()?;
        }
        while !left().is_zero() {
            let (node, asking) = match takes_over.take() {
                Some(node) => (node, true),
                None => match tokio::time::timeout(left(), self.node(question.slot())).await {
                    Ok(Ok(node)) => (node, false),
                    Ok(Err(failure)) if failure.then == Then::GiveUp => return Err(failure.error),
                    Ok(Err(failure)) => {
                        last = Some(failure.error);
                        tokio::time::sleep(pause.min(left())).await;
                        pause = (pause * 2).min(REPEAT_PAUSE_MAX);
                        continue;
                    }
                    Err(_) => break,
                },
            };
            if !std::mem::replace(&mut asked, true) {
                node.admit()?;
            }
            let Failure { error, then } = match node.ask(question, asking, try_within.min(left())).await {
                Ok(answer) => {
                    node.answered();
                    return Ok(Answered { answer, after_silence });
                }
                Err(failure) => failure,
            };
            to_blame = None;
            let mut waits = true;
            match (then, self) {
                (Then::GiveUp, _) => {
                    if error.is_retryable() {
                        node.refused(&error);
                    } else {
                        node.answered();
                    }
                    // an answer before this one may have been lost
                    let has_no_effect = error.has_no_effect() && last.is_none();
                    return Err(error.without_effect(has_no_effect));
                }
                (Then::Moved(to), Self::Cluster(cluster)) => {
                    cluster.moved(question.slot(), &to, &node);
                    redirections += 1;
                    waits = redirections > REDIRECTIONS_MAX;
                }
                (Then::Ask(to), Self::Cluster(cluster)) => {
                    takes_over = Some(cluster.at(&to, &node)?);
                    redirections += 1;
                    waits = redirections > REDIRECTIONS_MAX;
                }
                (Then::Moved(_) | Then::Ask(_), Self::One(_)) => {
                    return Err(Error::invalid(format!(
                        "{} is a node of a cluster: name it by redis+cluster://",
                        node.name()
                    )));
                }
                (Then::Wait, _) => {}
                (Then::Repeat | Then::Reconnect | Then::Elsewhere, _) => {
                    if let Self::Cluster(cluster) = self {
                        cluster.suspect();
                    }
                    to_blame = Some(node);
                    (try_within, after_silence) = ((try_within * 2).min(deadline), true);
                }
            }
            last = Some(error);
            if waits {
                tokio::time::sleep(pause.min(left())).await;
                pause = (pause * 2).min(REPEAT_PAUSE_MAX);
            }
        }
        let late = Error::new(ErrorKind::Timeout, format!("Redis did not answer within {deadline:?}"));
        let cause = last.as_ref().unwrap_or(&late);
        match (to_blame, self) {
            (Some(node), _) => node.failed(cause),
            (None, Self::Cluster(cluster)) => cluster.failed(asked, cause),
            (None, Self::One(_)) => telemetry::store_failed(),
        }
        Err(match last {
            Some(error) => late.with_source(error),
            None => late,
        })
    }

    /// The node that has a slot.
    async fn node(&self, slot: u16) -> Result<Arc<Node>, Failure> {
        match self {
            Self::One(node) => Ok(Arc::clone(node)),
            Self::Cluster(cluster) => cluster.owner(slot).await,
        }
    }

    /// The node that has a key.
    pub(super) async fn owner_of(&self, key: &str) -> Result<Arc<Node>, Failure> {
        self.node(slot_of(key)).await
    }

    /// Every node that has slots.
    pub(crate) async fn nodes(&self) -> Result<Vec<Arc<Node>>, Failure> {
        match self {
            Self::One(node) => Ok(vec![Arc::clone(node)]),
            Self::Cluster(cluster) => cluster.owners().await,
        }
    }
}
