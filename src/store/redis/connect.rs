//! Connections to Redis.
//!
//! Invariant: decisions share one multiplexed connection, which reconnects by itself and never repeats a command on its own. Work that
//! holds a connection takes one from a small pool. No password is in a message.

use std::{sync::OnceLock, time::Duration};

use deadpool_redis::{Manager, Pool, Runtime};
use redis::{
    Client, ConnectionInfo, IntoConnectionInfo, ProtocolVersion,
    aio::{ConnectionManager, ConnectionManagerConfig},
    io::tcp::TcpSettings,
};

use crate::{
    error::{Error, ErrorKind},
    store::redis::script::Failure,
};

/// Connections for work that holds one.
const HELD_MAX: usize = 2;
/// Commands on their way on the shared connection, beyond which callers wait.
const IN_FLIGHT_MAX: usize = 4096;

pub(crate) struct Connections {
    client: Client,
    /// Of one try; a decision may take several.
    timeout: Duration,
    shared: OnceLock<ConnectionManager>,
    held: Pool,
}

impl Connections {
    pub(crate) fn new(url: &str, deadline: Duration) -> Result<Self, Error> {
        let info = parse(url)?;
        let bad = |what: &str| Error::invalid(format!("redis URL: {what}"));
        let client = Client::open(info.clone()).map_err(|error| bad(&error.category().to_lowercase()))?;
        let timeout = deadline / 2;
        let manager = Manager::new(info).map_err(|error| bad(&error.category().to_lowercase()))?;
        let held = Pool::builder(manager)
            .max_size(HELD_MAX)
            .runtime(Runtime::Tokio1)
            .wait_timeout(Some(Duration::from_secs(1)))
            .create_timeout(Some(Duration::from_secs(1)))
            .recycle_timeout(Some(Duration::from_secs(1)))
            .build()
            .map_err(|error| Error::new(ErrorKind::Unavailable, "no connection pool").with_source(error))?;
        Ok(Self { client, timeout, shared: OnceLock::new(), held })
    }

    /// The connection of all decisions, made when it is first used.
    pub(crate) fn shared(&self) -> Result<ConnectionManager, Failure> {
        if let Some(shared) = self.shared.get() {
            return Ok(shared.clone());
        }
        let config = ConnectionManagerConfig::new()
            .set_number_of_retries(0)
            .set_connection_timeout(Some(self.timeout))
            .set_response_timeout(Some(self.timeout))
            .set_pipeline_buffer_size(1024)
            .set_concurrency_limit(IN_FLIGHT_MAX);
        let made = ConnectionManager::new_lazy_with_config(self.client.clone(), config).map_err(Failure::from)?;
        Ok(self.shared.get_or_init(|| made).clone())
    }

    /// `INFO memory`, on a connection of its own.
    pub(crate) async fn memory_info(&self) -> Result<String, Error> {
        let unreachable = |error: deadpool_redis::PoolError| {
            Error::new(ErrorKind::Unavailable, "Redis cannot be reached").with_source(error)
        };
        let mut connection = self.held.get().await.map_err(unreachable)?;
        let info = redis::cmd("INFO").arg("memory").query_async(&mut connection).await;
        info.map_err(|error| Failure::from(error).error)
    }
}

impl std::fmt::Debug for Connections {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // not the client: it holds the password
        f.debug_struct("Connections")
            .field("address", &self.client.get_connection_info().addr().to_string())
            .finish_non_exhaustive()
    }
}

fn parse(url: &str) -> Result<ConnectionInfo, Error> {
    let info = url.into_connection_info().map_err(|error| {
        Error::invalid(format!(
            "redis URL: {}; allowed are redis://, rediss:// and redis+unix://, with user, password and database",
            error.category().to_lowercase()
        ))
    })?;
    if url.starts_with("rediss:") {
        // a process has one TLS provider; one that is installed already stays
        drop(rustls::crypto::ring::default_provider().install_default());
    }
    let settings = info.redis_settings().clone();
    // a push of RESP3 tells at once that an idle connection was closed
    let settings = if url.contains("protocol=") { settings } else { settings.set_protocol(ProtocolVersion::RESP3) };
    Ok(info.set_tcp_settings(TcpSettings::default().set_nodelay(true)).set_redis_settings(settings))
}
