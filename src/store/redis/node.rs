//! One server, or one service of sentinels: the connection to it, and how it fares.
//!
//! Invariant: one try takes no longer than it is given. Whether a server fails is told once per change.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use redis::FromRedisValue;
use tokio::time::timeout_at;

use crate::{
    error::Error,
    store::redis::{
        address::{Address, Endpoint},
        failure::{Failure, Then},
        health::{Change, Health},
        link::{self, Link},
        question::Question,
        sentinel,
    },
    telemetry,
};

/// What calls are made on.
pub(crate) struct Node {
    /// For logs; no secret.
    name: String,
    /// Of a node of a cluster.
    endpoint: Option<Endpoint>,
    flow: Flow,
    health: Health,
}

enum Flow {
    /// One multiplexed connection. `moves`: somebody says who takes writes instead of a server that does not.
    Link { link: Link, moves: bool },
    /// A pool that was handed in: each try takes a connection of it.
    #[cfg(feature = "deadpool")]
    Pool(deadpool_redis::Pool),
}

impl Node {
    /// The server that the address names.
    pub(super) fn server(address: &Address) -> Result<Self, Error> {
        let client = address.client()?;
        let name = client.get_connection_info().addr().to_string();
        Ok(Self::linked(name, None, false, move || {
            let client = client.clone();
            async move { link::connect(&client).await }
        }))
    }

    /// A node of a cluster.
    pub(super) fn of_cluster(address: &Address, endpoint: Endpoint) -> Result<Self, Error> {
        let client = address.client_at(&endpoint)?;
        let name = client.get_connection_info().addr().to_string();
        Ok(Self::linked(name, Some(endpoint), false, move || {
            let client = client.clone();
            async move { link::connect(&client).await }
        }))
    }

    /// The master of a service that sentinels watch.
    pub(super) fn of_sentinels(address: Address, service: &str) -> Self {
        let address = Arc::new(address);
        Self::linked(format!("master of {service:?}"), None, true, move || {
            let address = Arc::clone(&address);
            async move { sentinel::master(&address).await }
        })
    }

    /// Connections of a pool that was handed in.
    #[cfg(feature = "deadpool")]
    pub(super) fn pooled(pool: deadpool_redis::Pool) -> Self {
        Self { name: "pool".to_owned(), endpoint: None, flow: Flow::Pool(pool), health: Health::default() }
    }

    fn linked<F>(
        name: String,
        endpoint: Option<Endpoint>,
        moves: bool,
        connect: impl Fn() -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = Result<redis::aio::MultiplexedConnection, Failure>> + Send + 'static,
    {
        let link = Link::new(Box::new(move || Box::pin(connect())));
        Self { name, endpoint, flow: Flow::Link { link, moves }, health: Health::default() }
    }

    /// Without a secret.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn endpoint(&self) -> Option<&Endpoint> {
        self.endpoint.as_ref()
    }

    /// One try. `asking`: for a slot that the node is taking over.
    pub(crate) async fn ask<T: FromRedisValue>(
        &self,
        question: &Question<'_>,
        asking: bool,
        within: Duration,
    ) -> Result<T, Failure> {
        let until = tokio::time::Instant::now() + within;
        match &self.flow {
            Flow::Link { link, moves } => {
                let (mut connection, number) =
                    timeout_at(until, link.connection()).await.map_err(|_| Failure::silence())??;
                let Ok(answer) = timeout_at(until, question.put(&mut connection, asking)).await else {
                    link.silent(number);
                    return Err(Failure::silence());
                };
                let failure = match answer {
                    Ok(answer) => {
                        link.answered(number);
                        return Ok(answer);
                    }
                    Err(failure) => failure,
                };
                let then = match failure.then {
                    Then::Elsewhere if *moves => Then::Reconnect,
                    Then::Elsewhere => Then::GiveUp,
                    then => then,
                };
                if then == Then::Reconnect {
                    link.broken(number);
                } else {
                    link.answered(number);
                }
                Err(Failure::new(failure.error, then))
            }
            #[cfg(feature = "deadpool")]
            Flow::Pool(pool) => pooled(pool, question, asking, until).await,
        }
    }

    /// Whether a call may be made.
    ///
    /// # Errors
    ///
    /// While the server has not answered for a while, [`ErrorKind::Unavailable`](crate::error::ErrorKind::Unavailable).
    pub(super) fn admit(&self) -> Result<(), Error> {
        self.health.admit(Instant::now())
    }

    /// A call ended with an answer, whatever it says.
    pub(super) fn answered(&self) {
        if self.health.answered(Instant::now()) == Change::Recovers {
            telemetry::store_answers(&self.name);
        }
    }

    /// A call ended without one.
    pub(super) fn failed(&self, error: &Error) {
        telemetry::store_failed();
        if self.health.failed(Instant::now()) == Change::Fails {
            telemetry::store_fails(&self.name, error);
        }
    }

    /// A call was refused by a server that is there: it is out of memory, or the user lacks a right.
    pub(super) fn refused(&self, error: &Error) {
        telemetry::store_failed();
        if self.health.refused(Instant::now()) == Change::Fails {
            telemetry::store_fails(&self.name, error);
        }
    }
}

#[cfg(feature = "deadpool")]
async fn pooled<T: FromRedisValue>(
    pool: &deadpool_redis::Pool,
    question: &Question<'_>,
    asking: bool,
    until: tokio::time::Instant,
) -> Result<T, Failure> {
    use crate::error::ErrorKind;
    let none = |error: deadpool_redis::PoolError| {
        let error = Error::new(ErrorKind::Unavailable, "the pool has no connection").with_source(error);
        Failure::new(error, Then::Repeat)
    };
    let mut connection = timeout_at(until, pool.get()).await.map_err(|_| Failure::silence())?.map_err(none)?;
    let answer = timeout_at(until, question.put(&mut connection, asking)).await;
    let failure = match answer {
        Ok(Ok(answer)) => return Ok(answer),
        Ok(Err(failure)) => failure,
        Err(_) => Failure::new(Failure::silence().error, Then::Reconnect),
    };
    match failure.then {
        // it may be dead, or lead to a server that takes no writes, and so may those that are idle: the pool makes others
        Then::Reconnect | Then::Elsewhere => {
            drop(deadpool_redis::Connection::take(connection));
            pool.retain(|_, _| false);
        }
        _ => {}
    }
    Err(failure)
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Node").field(&self.name).finish()
    }
}
