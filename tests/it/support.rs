//! What the tests stand on: real servers, a clock in the test's hand, a network that fails on request, users in simulated
//! time.
//!
//! Every test has an org of its own ([`random_org`]) and nothing calls `FLUSHDB`, so tests share a server and run at
//! the same time. There is no skip: a machine without any engine fails the tests and says what to install.

mod clock;
mod engine;
mod keys;
mod outage;
mod proxy;
mod server;
mod simulation;
mod stage;

use std::time::Duration;

use redis::{AsyncConnectionConfig, Client, aio::MultiplexedConnection};
use uuid::Uuid;

pub(crate) use self::{
    keys::{Stored, dump_all},
    outage::{Behind, eventually, held, share_is_known},
    proxy::{Fault, Proxy},
    server::{ClockedServer, Server, shared},
    simulation::{Group, Outcome, Scene, play},
    stage::Stage,
};

/// An org that no other test has: 20 bytes, letters and digits.
pub(crate) fn random_org() -> String {
    let (_, random) = Uuid::now_v7().as_u64_pair();
    format!("test{random:016x}")
}

/// A plain connection, for what a test wants to see or break behind the limiter's back.
pub(crate) async fn raw(server: &Server) -> MultiplexedConnection {
    connect(&server.url()).await.unwrap()
}

/// Connects with a reply timeout that a loaded test machine does not reach.
pub(crate) async fn connect(url: &str) -> redis::RedisResult<MultiplexedConnection> {
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(Duration::from_secs(10)))
        .set_response_timeout(Some(Duration::from_secs(30)));
    Client::open(url)?.get_multiplexed_async_connection_with_config(&config).await
}
