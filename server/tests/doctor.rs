//! What `allotment doctor` says about servers that are fit, that are not, and that are not there.

#![allow(clippy::unwrap_used, clippy::panic, reason = "clippy takes only the test functions themselves for tests")]

use std::process::{Command, Output};

use allotment_fixtures::{Cluster, Sentinel, SentinelOptions, Server, Settings};
use serde_json::Value;

fn doctor(url: &str, flags: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_allotment")).args(["doctor", "--redis", url]).args(flags).output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// The findings that are not good, by check and severity.
fn findings(output: &Output) -> Vec<(String, String)> {
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let text = |finding: &Value, field: &str| finding[field].as_str().unwrap().to_owned();
    let findings = report["findings"].as_array().unwrap().iter();
    let bad = findings.filter(|finding| finding["severity"] != "good");
    bad.map(|finding| (text(finding, "check"), text(finding, "severity"))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_set_up_well_is_fit() {
    let server = Server::start_with(Settings::new().line("appendonly yes").password("hunter2-secret")).await;
    let output = doctor(&server.url(), &[]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let text = stdout(&output);
    for part in ["verdict: fit", "every script ran", "append-only file", "maxmemory-policy noeviction", "acquire "] {
        assert!(text.contains(part), "no {part:?} in {text}");
    }
    assert!(!text.contains("What to do"), "{text}");
    assert!(!format!("{output:?}").contains("hunter2-secret"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_is_named_with_what_to_do_and_the_exit_status_tells() {
    let server = Server::start_with(Settings::new().line("maxmemory-policy allkeys-lru")).await;
    let output = doctor(&server.url(), &["--json"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let warning = |check: &str, severity: &str| (check.to_owned(), severity.to_owned());
    assert_eq!(findings(&output), [warning("persistence", "warning"), warning("eviction", "failure")]);
    let text = stdout(&doctor(&server.url(), &[]));
    assert!(text.contains("set maxmemory-policy noeviction") && text.contains("verdict: not fit"), "{text}");

    let warned = Server::start().await;
    let output = doctor(&warned.url(), &["--json"]);
    assert_eq!((output.status.code(), findings(&output)), (Some(0), vec![warning("persistence", "warning")]));

    warned.kill().await;
    let output = doctor(&warned.url(), &["--json"]);
    assert_eq!((output.status.code(), findings(&output)), (Some(1), vec![warning("connection", "failure")]));
}

#[tokio::test(flavor = "multi_thread")]
async fn scripts_are_loaded_for_a_user_who_may_not_send_them() {
    let server = Server::start_with(Settings::new().users(
        "user default off\nuser app on >app ~allot:1:* &* +@all -eval -script\nuser loader on >loader ~allot:1:* &* +@all",
    ))
    .await;
    let url = |user: &str| format!("redis://{user}:{user}@127.0.0.1:{}/", server.port());
    let early = doctor(&url("app"), &[]);
    assert!(stdout(&early).contains("the scripts are not loaded"), "{early:?}");
    assert_eq!(doctor(&url("loader"), &["--load-scripts"]).status.code(), Some(0));
    assert_eq!(doctor(&url("app"), &[]).status.code(), Some(0));
    assert_eq!(doctor(&url("app"), &["--load-scripts"]).status.code(), Some(2), "who may not is told so");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_node_of_a_cluster_and_the_master_behind_sentinels_are_looked_at() {
    let cluster = Cluster::without_replicas().await;
    let text = stdout(&doctor(&cluster.url(), &[]));
    for port in cluster.nodes() {
        assert!(text.contains(&format!("127.0.0.1:{port}  a master of a cluster of 3, state ok")), "{port}: {text}");
    }
    for guarded in [true, false] {
        let sentinel = Sentinel::start_with(SentinelOptions { guarded, ..SentinelOptions::default() }).await;
        let output = doctor(&sentinel.url(), &["--json"]);
        let warned = findings(&output).iter().any(|(check, _)| check == "replication");
        assert_eq!((output.status.code(), warned), (Some(0), !guarded), "{output:?}");
    }
}
