//! A real server of the test's own, or the one its process shares.

use std::{
    io::{Write, stderr},
    ops::Deref,
    sync::Once,
    time::Duration,
};

use redis::{AsyncCommands, RedisResult, aio::MultiplexedConnection};
use tokio::{sync::OnceCell, time::Instant};

use super::{
    clock::Clock,
    connect,
    engine::{Engine, Started},
};

/// Longest wait for a started engine's first answer.
const READY_WITHIN: Duration = Duration::from_secs(30);

/// An engine on 127.0.0.1 that answers; dropping it ends it.
#[derive(Debug)]
pub(crate) struct Server {
    port: u16,
    _engine: Engine,
}

impl Server {
    /// A server that nobody else uses, on a free port, empty.
    pub(crate) async fn start() -> Self {
        Self::launch(None).await
    }

    /// A server whose wall clock stands still until the test moves it. It begins at [`ClockedServer::START_MS`].
    pub(crate) async fn with_clock() -> ClockedServer {
        let clock = Clock::new(ClockedServer::START_MS);
        let server = Self::launch(Some(&clock)).await;
        ClockedServer { server, clock }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/", self.port)
    }

    async fn launch(clock: Option<&Clock>) -> Self {
        const ATTEMPTS: u32 = 10;
        for _ in 0..ATTEMPTS {
            let Started { mut engine, port } = Engine::start(clock).await;
            match first_answer(&mut engine, port).await {
                Ok(version) => {
                    announce(&version);
                    return Self { port, _engine: engine };
                }
                Err(reason) if reason.contains("Address already in use") => {}
                Err(reason) => panic!("the Redis server that was started does not serve: {reason}"),
            }
        }
        panic!("{ATTEMPTS} free ports in a row were taken before a Redis server had them");
    }
}

/// A server under the test's clock: what `TIME` answers and what keys expire by.
#[derive(Debug)]
pub(crate) struct ClockedServer {
    /// Before the clock, so that the engine is gone before its file is.
    server: Server,
    clock: Clock,
}

impl ClockedServer {
    /// 2027-01-15 08:00:00 UTC.
    pub(crate) const START_MS: u64 = 1_800_000_000_000;

    /// Moves the server's clock to `now_ms` since the epoch, forward or backward. The next command sees it.
    pub(crate) fn set_ms(&self, now_ms: u64) {
        self.clock.set_ms(now_ms);
    }
}

impl Deref for ClockedServer {
    type Target = Server;

    fn deref(&self) -> &Server {
        &self.server
    }
}

/// The server that the tests of this process share. Keep to a [`random_org`](super::random_org).
pub(crate) async fn shared() -> &'static Server {
    static SHARED: OnceCell<Server> = OnceCell::const_new();
    SHARED.get_or_init(Server::start).await
}

/// Waits until the engine serves and names it; or says why it does not.
async fn first_answer(engine: &mut Engine, port: u16) -> Result<String, String> {
    let give_up_at = Instant::now() + READY_WITHIN;
    loop {
        if let Some(end) = engine.ended() {
            return Err(end);
        }
        match greet(port).await {
            Ok(greeting) if engine.folder().is_none_or(|folder| Some(greeting.folder.as_str()) == folder.to_str()) => {
                return Ok(greeting.version);
            }
            // Somebody else has the port: ours will say so in its log and end.
            Ok(_) => {}
            Err(error) if Instant::now() > give_up_at => return Err(error.to_string()),
            Err(_) => {}
        }
        // A process that is starting announces nothing that could be awaited.
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

struct Greeting {
    version: String,
    folder: String,
}

async fn greet(port: u16) -> RedisResult<Greeting> {
    let mut conn = connect(&format!("redis://127.0.0.1:{port}/")).await?;
    conn.ping::<()>().await?;
    let (_, folder): (String, String) = redis::cmd("CONFIG").arg("GET").arg("dir").query_async(&mut conn).await?;
    Ok(Greeting { version: version(&mut conn).await?, folder })
}

/// Such as "redis 8.0.2" or "valkey 8.1.1".
async fn version(conn: &mut MultiplexedConnection) -> RedisResult<String> {
    let report: String = redis::cmd("INFO").arg("server").query_async(conn).await?;
    let field = |name: &str| report.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let valkey = field("valkey_version").map(|version| format!("valkey {version}"));
    Ok(valkey.unwrap_or_else(|| format!("redis {}", field("redis_version").unwrap_or("of unknown version"))))
}

/// Says once per test process which engine it runs on. Written past the capture of test output.
fn announce(version: &str) {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let _ = writeln!(stderr(), "tests run on {version}");
    });
}
