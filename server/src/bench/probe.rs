//! What the server says of itself: CPU time, script calls and memory, from INFO.
//!
//! Invariant: figures are differences of two readings by the server, so that the bench's own clock and work are not in them. Work that others
//! give the same server is.

use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use redis::{AsyncConnectionConfig, aio::MultiplexedConnection};
use serde::Serialize;

use super::drive::Slice;

/// The longest wait for any one answer of the server; a bench is no place for tight deadlines.
pub(super) const ANSWER_MAX: Duration = Duration::from_secs(10);

/// The commands that call a script.
const SCRIPT_COMMANDS: [&str; 4] = ["evalsha", "eval", "evalsha_ro", "eval_ro"];

/// Opens a connection of the bench's own.
///
/// # Errors
///
/// When Redis cannot be reached or refuses the login.
pub(super) async fn connect(client: &redis::Client) -> Result<MultiplexedConnection> {
    let config =
        AsyncConnectionConfig::new().set_connection_timeout(Some(ANSWER_MAX)).set_response_timeout(Some(ANSWER_MAX));
    client
        .get_multiplexed_async_connection_with_config(&config)
        .await
        // Its source is the same text again.
        .map_err(|error| anyhow!("cannot connect to the Redis given with --redis: {error}"))
}

/// Which server was measured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Server {
    /// `redis` or `valkey`.
    pub(super) engine: String,
    /// Its own version, for instance `8.1.1`.
    pub(super) version: String,
}

impl Server {
    /// From the text of `INFO server`. Valkey also states a Redis version, the one it is compatible with.
    fn parse(text: &str) -> Option<Self> {
        let named = |engine: &str, line: &str| {
            field(text, line).map(|version| Self { engine: engine.to_owned(), version: version.to_owned() })
        };
        named("valkey", "valkey_version").or_else(|| named("redis", "redis_version"))
    }
}

/// What one slice cost the server, and what its callers saw.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Measured {
    /// Decisions made.
    pub(super) decisions: u64,
    /// Script calls, counted by the server.
    pub(super) script_calls: u64,
    /// CPU time of the server, in microseconds.
    pub(super) cpu_us: f64,
    /// From the first question to the last answer.
    pub(super) elapsed: Duration,
    /// Median time of a call, in microseconds.
    pub(super) p50_us: f64,
    /// The time 99 of 100 calls did not exceed, in microseconds.
    pub(super) p99_us: f64,
}

impl Measured {
    /// Adds another slice of the same work; a percentile becomes the mean of both.
    pub(super) fn join(&mut self, other: &Self) {
        self.decisions += other.decisions;
        self.script_calls += other.script_calls;
        self.cpu_us += other.cpu_us;
        self.elapsed += other.elapsed;
        self.p50_us = f64::midpoint(self.p50_us, other.p50_us);
        self.p99_us = f64::midpoint(self.p99_us, other.p99_us);
    }
}

/// What the server has spent and done since it started.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Reading {
    cpu_us: f64,
    script_calls: u64,
}

impl Reading {
    /// From the texts of `INFO cpu` and `INFO commandstats`.
    fn parse(cpu: &str, commandstats: &str) -> Option<Self> {
        let seconds = |user: &str, sys: &str| -> Option<f64> {
            Some(field(cpu, user)?.parse::<f64>().ok()? + field(cpu, sys)?.parse::<f64>().ok()?)
        };
        // The main thread alone decides; the sum of all threads holds I/O threads and background jobs too.
        let seconds = seconds("used_cpu_user_main_thread", "used_cpu_sys_main_thread")
            .or_else(|| seconds("used_cpu_user", "used_cpu_sys"))?;
        let calls = |command: &str| {
            let counters = field(commandstats, &format!("cmdstat_{command}"))?;
            counters.split(',').find_map(|counter| counter.strip_prefix("calls=")?.parse::<u64>().ok())
        };
        Some(Self { cpu_us: seconds * 1e6, script_calls: SCRIPT_COMMANDS.iter().filter_map(|name| calls(name)).sum() })
    }
}

/// A connection beside the load that reads the server's own counters.
pub(super) struct Probe {
    connection: MultiplexedConnection,
}

impl Probe {
    /// Opens the connection.
    ///
    /// # Errors
    ///
    /// When Redis cannot be reached or refuses the login.
    pub(super) async fn connect(client: &redis::Client) -> Result<Self> {
        Ok(Self { connection: connect(client).await? })
    }

    /// Which server this is. One round trip.
    ///
    /// # Errors
    ///
    /// When Redis refuses INFO.
    pub(super) async fn server(&mut self) -> Result<Server> {
        let text = self.info("server").await?;
        Server::parse(&text).context("INFO server states no version")
    }

    /// Runs one slice between two readings.
    ///
    /// # Errors
    ///
    /// That of the slice, or when Redis refuses INFO.
    pub(super) async fn measure(&mut self, slice: impl Future<Output = Result<Slice>>) -> Result<Measured> {
        let before = self.reading().await?;
        let slice = slice.await?;
        let after = self.reading().await?;
        Ok(Measured {
            decisions: slice.waits.len() as u64,
            // A counter is smaller after than before when somebody has reset the statistics.
            script_calls: after.script_calls.saturating_sub(before.script_calls),
            cpu_us: (after.cpu_us - before.cpu_us).max(0.0),
            elapsed: slice.elapsed,
            p50_us: slice.percentile_us(50),
            p99_us: slice.percentile_us(99),
        })
    }

    /// The script calls since the server started.
    ///
    /// # Errors
    ///
    /// When Redis refuses INFO.
    pub(super) async fn script_calls(&mut self) -> Result<u64> {
        Ok(self.reading().await?.script_calls)
    }

    /// The server's `used_memory` in bytes, once it stands still: buffers of closed connections and tables that grow are gone by then.
    ///
    /// # Errors
    ///
    /// When Redis refuses INFO.
    pub(super) async fn used_memory_at_rest(&mut self) -> Result<u64> {
        const STEP: Duration = Duration::from_millis(150);
        const STEPS_MAX: usize = 20;
        let mut last = self.used_memory().await?;
        for _ in 0..STEPS_MAX {
            tokio::time::sleep(STEP).await;
            let now = self.used_memory().await?;
            // The answer itself moves the figure by some hundred bytes.
            if now.abs_diff(last) < 1024 {
                return Ok(now);
            }
            last = now;
        }
        Ok(last)
    }

    async fn used_memory(&mut self) -> Result<u64> {
        let text = self.info("memory").await?;
        field(&text, "used_memory").and_then(|bytes| bytes.parse().ok()).context("INFO memory states no used_memory")
    }

    async fn reading(&mut self) -> Result<Reading> {
        let (cpu, commandstats) = (self.info("cpu").await?, self.info("commandstats").await?);
        Reading::parse(&cpu, &commandstats).context("INFO cpu states no CPU time")
    }

    async fn info(&mut self, section: &str) -> Result<String> {
        let answer = redis::cmd("INFO").arg(section).query_async(&mut self.connection).await;
        answer.map_err(|error| anyhow!("Redis refuses INFO {section}: {error}"))
    }
}

/// The value of the line `name:value`.
fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATS: &str = "# Commandstats\r\ncmdstat_evalsha:calls=40,usec=9,usec_per_call=0.2,rejected_calls=0\r\n\
                         cmdstat_eval:calls=2,usec=9\r\ncmdstat_get:calls=80,usec=9\r\n";

    #[test]
    fn cpu_time_is_that_of_the_main_thread_where_the_server_states_it() {
        let cpu = "# CPU\r\nused_cpu_sys:1.5\r\nused_cpu_user:2.5\r\nused_cpu_sys_children:9.0\r\n";
        assert_eq!(Reading::parse(cpu, STATS).unwrap().cpu_us, 4e6);
        let with_threads = format!("{cpu}used_cpu_sys_main_thread:0.25\r\nused_cpu_user_main_thread:0.5\r\n");
        assert_eq!(Reading::parse(&with_threads, STATS).unwrap().cpu_us, 75e4);
        assert_eq!(Reading::parse("# CPU\r\n", STATS), None);
    }

    #[test]
    fn script_calls_count_every_command_that_runs_a_script_and_no_other() {
        let cpu = "used_cpu_sys:1.5\r\nused_cpu_user:2.5\r\n";
        assert_eq!(Reading::parse(cpu, STATS).unwrap().script_calls, 42);
        assert_eq!(Reading::parse(cpu, "").unwrap().script_calls, 0);
    }

    #[test]
    fn valkey_is_told_from_the_redis_version_it_imitates() {
        let redis = Server::parse("# Server\r\nredis_version:7.0.15\r\nredis_mode:standalone\r\n").unwrap();
        assert_eq!((redis.engine.as_str(), redis.version.as_str()), ("redis", "7.0.15"));
        let valkey = Server::parse("redis_version:7.2.4\r\nserver_name:valkey\r\nvalkey_version:8.1.1\r\n").unwrap();
        assert_eq!((valkey.engine.as_str(), valkey.version.as_str()), ("valkey", "8.1.1"));
        assert_eq!(Server::parse("# Server\r\n"), None);
    }
}
