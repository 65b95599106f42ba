//! What a server says about itself, and what that means for limits.
//!
//! Invariant: reads only. What is found is judged from plain text, so that a test can say what a server would.

use std::{
    collections::HashMap,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use crate::{
    diagnosis::Finding,
    error::Error,
    store::redis::{address::Transport, connect::Connections, memory::Memory, node::Node, question::Question},
};

/// How long one question may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// Round trips that are measured.
const PINGS: usize = 21;
/// A round trip, at the median, that takes a large part of the usual deadline.
const SLOW: Duration = Duration::from_millis(50);
/// By how much clocks may differ, in milliseconds, before somebody should know.
const SKEW_MS_MAX: u64 = 1_000;
/// The oldest release that the scripts run on.
const VERSION_MIN: (u32, u32) = (6, 2);

/// Looks at every server of the store.
pub(super) async fn servers(connections: &Connections, transport: Option<Transport>) -> Vec<Finding> {
    let mut findings: Vec<_> = transport.map(secrecy).into_iter().collect();
    let nodes = match tokio::time::timeout(ANSWER_WITHIN, connections.nodes()).await {
        Ok(Ok(nodes)) => nodes,
        Ok(Err(failure)) => return vec![unreachable(&failure.error)],
        Err(_) => return vec![Finding::failure("connection", "the cluster does not tell its nodes", CONNECT_ADVICE)],
    };
    for node in nodes {
        match Report::of(&node).await {
            Ok(report) => findings.extend(report.findings().into_iter().map(|finding| finding.at(node.name()))),
            Err(error) => findings.push(unreachable(&error).at(node.name())),
        }
    }
    findings
}

const CONNECT_ADVICE: &str =
    "see that the address, the port, the user and the password are right, and that nothing in between refuses";

fn unreachable(error: &Error) -> Finding {
    let mut found = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        let told = cause.to_string();
        if !found.ends_with(&told) {
            found = format!("{found}: {told}");
        }
        source = cause.source();
    }
    Finding::failure("connection", found, CONNECT_ADVICE)
}

fn secrecy(transport: Transport) -> Finding {
    match transport {
        Transport::Tls => Finding::good("encryption", "TLS, with the certificate verified"),
        Transport::Local => Finding::good("encryption", "none, and none needed: the server is on this host"),
        Transport::Plain => Finding::warning(
            "encryption",
            "none: what is sent, passwords included, can be read on the way",
            "use rediss://, unless the network is trusted",
        ),
    }
}

/// What one server says about itself.
struct Report {
    info: HashMap<String, String>,
    memory: Memory,
    cluster: Option<String>,
    /// By how much its clock is ahead of this host's, in milliseconds, at most half a round trip wrong.
    ahead_ms: i64,
    median: Duration,
    slowest: Duration,
}

impl Report {
    async fn of(node: &Node) -> Result<Self, Error> {
        let text: String = ask(node, redis::cmd("INFO")).await?;
        let info = fields(&text);
        let clustered = info.get("cluster_enabled").is_some_and(|enabled| enabled == "1");
        let mut cluster = redis::cmd("CLUSTER");
        cluster.arg("INFO");
        let cluster = if clustered { Some(ask(node, cluster).await?) } else { None };
        let mut trips = Vec::with_capacity(PINGS);
        let mut ahead_ms = 0;
        for _ in 0..PINGS {
            let (sent, sent_at) = (Instant::now(), SystemTime::now());
            let (seconds, micros): (i64, i64) = ask(node, redis::cmd("TIME")).await?;
            let trip = sent.elapsed();
            let here = (sent_at + trip / 2).duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
            ahead_ms = seconds * 1_000 + micros / 1_000 - i64::try_from(here).unwrap_or(i64::MAX);
            trips.push(trip);
        }
        trips.sort();
        let (median, slowest) = (trips[PINGS / 2], trips[PINGS - 1]);
        Ok(Self { memory: Memory::read(&text), info, cluster, ahead_ms, median, slowest })
    }

    fn field(&self, name: &str) -> &str {
        self.info.get(name).map_or("", String::as_str)
    }

    fn findings(&self) -> Vec<Finding> {
        let mut findings = vec![
            self.latency(),
            self.version(),
            self.topology(),
            self.persistence(),
            self.eviction(),
            self.memory(),
            self.clock(),
        ];
        findings.extend(self.replication());
        findings
    }

    fn latency(&self) -> Finding {
        let found =
            format!("{:.1?} per round trip at the median, {:.1?} at worst of {PINGS}", self.median, self.slowest);
        if self.median < SLOW {
            return Finding::good("latency", found);
        }
        Finding::warning(
            "latency",
            found,
            "a decision takes one round trip: move the processes nearer to the server, or raise the deadline",
        )
    }

    fn version(&self) -> Finding {
        let valkey = self.field("valkey_version");
        let (engine, version) =
            if valkey.is_empty() { ("redis", self.field("redis_version")) } else { ("valkey", valkey) };
        let mut numbers = version.split('.').map(|number| number.parse().unwrap_or(0));
        let release: (u32, u32) = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
        let found = format!("{engine} {version}");
        if engine == "redis" && release < VERSION_MIN {
            return Finding::failure("version", found, "the scripts need Redis 6.2 or newer, or Valkey");
        }
        Finding::good("version", found)
    }

    fn topology(&self) -> Finding {
        let (role, mode) = (self.field("role"), self.field("redis_mode"));
        if role != "master" {
            return Finding::failure(
                "topology",
                format!("a replica of {}:{}", self.field("master_host"), self.field("master_port")),
                "name the master, or the sentinels: redis+sentinel://",
            );
        }
        let Some(cluster) = &self.cluster else { return Finding::good("topology", format!("a master, {mode}")) };
        let cluster = fields(cluster);
        let field = |name: &str| cluster.get(name).cloned().unwrap_or_default();
        let found = format!(
            "a master of a cluster of {}, state {}, {} of 16384 slots served",
            field("cluster_size"),
            field("cluster_state"),
            field("cluster_slots_ok")
        );
        if field("cluster_state") == "ok" && field("cluster_slots_ok") == "16384" {
            return Finding::good("topology", found);
        }
        Finding::failure(
            "topology",
            found,
            "see CLUSTER NODES; `redis-cli --cluster check` names the slots without a node",
        )
    }

    fn persistence(&self) -> Finding {
        let (aof, rdb) = (self.field("aof_enabled") == "1", self.field("rdb_last_bgsave_status"));
        if aof && self.field("aof_last_write_status") == "err" || rdb == "err" {
            return Finding::failure(
                "persistence",
                "the last write to disk failed: Redis may refuse writes",
                "see the log of the server, and whether its disk is full",
            );
        }
        if aof {
            return Finding::good("persistence", "append-only file");
        }
        Finding::warning(
            "persistence",
            "no append-only file: a restart forgets what was used since the last snapshot, or all of it",
            "set appendonly yes, appendfsync everysec; or have a state loss answered by ramp or closed",
        )
    }

    fn eviction(&self) -> Finding {
        let found =
            format!("maxmemory-policy {}, {} keys evicted since the start", self.memory.policy, self.memory.evicted);
        if self.memory.evicts() {
            return Finding::failure(
                "eviction",
                found,
                "set maxmemory-policy noeviction: an evicted key is forgotten usage, and no error tells of it",
            );
        }
        if self.memory.evicted > 0 {
            return Finding::warning(
                "eviction",
                found,
                "keys were evicted before the policy was changed: usage may be lost",
            );
        }
        Finding::good("eviction", found)
    }

    fn memory(&self) -> Finding {
        let mib = |bytes: u64| bytes / (1 << 20);
        let max =
            if self.memory.max > 0 { format!("of {} MiB", mib(self.memory.max)) } else { "without a bound".to_owned() };
        let found = format!("{} MiB used, {max}", mib(self.memory.used));
        if self.memory.is_short() {
            return Finding::warning(
                "memory",
                found,
                "raise maxmemory: when it runs out nothing is admitted, and what was admitted can only be settled",
            );
        }
        Finding::good("memory", found)
    }

    fn clock(&self) -> Finding {
        let found = match self.ahead_ms {
            ms if ms.unsigned_abs() < 2 => "as on this host".to_owned(),
            ms if ms < 0 => format!("{} ms behind this host", -ms),
            ms => format!("{ms} ms ahead of this host"),
        };
        if self.ahead_ms.unsigned_abs() <= SKEW_MS_MAX {
            return Finding::good("clock", found);
        }
        Finding::warning(
            "clock",
            found,
            "synchronise the clocks: a fail-over to a server whose clock differs shifts windows by as much",
        )
    }

    /// Of a server that others copy: one that was cut off from all of them must not go on admitting.
    fn replication(&self) -> Option<Finding> {
        let replicas: u32 = self.field("connected_slaves").parse().unwrap_or(0);
        let bounded = self.info.contains_key("min_slaves_good_slaves");
        if replicas == 0 && !bounded {
            return None;
        }
        let found = format!("{replicas} replicas");
        if bounded {
            return Some(Finding::good("replication", format!("{found}; writes stop without them")));
        }
        Some(Finding::warning(
            "replication",
            format!("{found}; a master that is cut off goes on admitting beside its successor"),
            "set min-replicas-to-write 1 and min-replicas-max-lag 1: that bounds it to about two seconds",
        ))
    }
}

async fn ask<T: redis::FromRedisValue>(node: &Node, command: redis::Cmd) -> Result<T, Error> {
    let mut question = redis::pipe();
    question.add_command(command);
    let answer = node.ask::<(T,)>(&Question::Commands("", &question), false, ANSWER_WITHIN).await;
    answer.map(|(answer,)| answer).map_err(|failure| failure.error)
}

fn fields(info: &str) -> HashMap<String, String> {
    let field = |line: &str| line.trim().split_once(':').map(|(name, value)| (name.to_owned(), value.to_owned()));
    info.lines().filter_map(field).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnosis::Severity;

    fn report(info: &str, cluster: Option<&str>) -> Report {
        let (median, slowest) = (Duration::from_micros(100), Duration::from_micros(200));
        let text = format!(
            "redis_version:7.0.15\nrole:master\nredis_mode:standalone\nmaxmemory_policy:noeviction\naof_enabled:1\n{info}"
        );
        let cluster = cluster.map(str::to_owned);
        Report { info: fields(&text), memory: Memory::read(&text), cluster, ahead_ms: 0, median, slowest }
    }

    fn found(info: &str) -> Vec<(&'static str, Severity)> {
        let bad = |finding: &Finding| finding.severity != Severity::Good;
        report(info, None)
            .findings()
            .iter()
            .filter(|finding| bad(finding))
            .map(|bad| (bad.check, bad.severity))
            .collect()
    }

    #[test]
    fn what_is_wrong_with_a_server_is_found() {
        use Severity::{Failure, Warning};
        assert_eq!(found(""), []);
        assert_eq!(found("redis_version:6.0.16"), [("version", Failure)]);
        assert_eq!(found("redis_version:6.2.1\nvalkey_version:8.1.1"), []);
        assert_eq!(found("role:slave\nmaster_host:a\nmaster_port:1"), [("topology", Failure)]);
        assert_eq!(found("aof_enabled:0"), [("persistence", Warning)]);
        assert_eq!(found("aof_last_write_status:err"), [("persistence", Failure)]);
        assert_eq!(found("connected_slaves:2"), [("replication", Warning)]);
        assert_eq!(found("connected_slaves:2\nmin_slaves_good_slaves:2"), []);
        let evicting =
            Report { memory: Memory { policy: "allkeys-lru".into(), ..Memory::default() }, ..report("", None) };
        assert_eq!(evicting.eviction().severity, Failure);
        let skewed = Report { ahead_ms: -60_000, ..report("", None) };
        assert_eq!((skewed.clock().severity, &*skewed.clock().found), (Warning, "60000 ms behind this host"));
        let slow = Report { median: SLOW, ..report("", None) };
        assert_eq!(slow.latency().severity, Warning);
        let broken = report("", Some("cluster_state:fail\ncluster_slots_ok:10922\ncluster_size:2"));
        assert_eq!(broken.topology().severity, Failure);
    }
}
