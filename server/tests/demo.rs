//! Short runs of the demo: what it prints, what it promises, and how it ends.

#![allow(clippy::unwrap_used, clippy::panic, reason = "clippy takes only the test functions themselves for tests")]

#[cfg(unix)]
#[path = "support/interrupted.rs"]
mod interrupted;
#[path = "support/redis.rs"]
mod redis;
#[path = "support/runs.rs"]
mod runs;

use std::process::{Command, Output};

use serde_json::Value;

#[cfg(unix)]
use self::interrupted::interrupted;
use self::{redis::Redis, runs::best_of_a_few};

/// Two minutes of traffic in six seconds: windows of three seconds leave room for a busy test machine.
const SHORT: [&str; 6] = ["demo", "--json", "--seconds", "120", "--speed", "20"];

fn demo(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_allotment")).args(SHORT).args(args).output().unwrap()
}

fn report(output: &Output) -> Value {
    let stdout = std::str::from_utf8(&output.stdout).unwrap();
    assert_eq!(stdout.trim().lines().count(), 1, "one object and nothing else: {stdout}");
    serde_json::from_str(stdout).unwrap_or_else(|error| panic!("{error}: {stdout}\n{}", stderr(output)))
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn keys(object: &Value) -> Vec<&str> {
    let mut keys: Vec<_> = object.as_object().unwrap().keys().map(String::as_str).collect();
    keys.sort_unstable();
    keys
}

/// What a run under limits comes to on any host: windows are kept, whenever calls are made. One that is made late may be refused
/// upstream, and then the status says so.
fn limited(args: &[&str]) -> Value {
    let output = demo(args);
    let report = report(&output);
    let refused = report["upstream_refused"].as_u64().unwrap();
    assert_eq!(output.status.code(), Some(i32::from(refused > 0)), "{report}\n{}", stderr(&output));
    for limit in report["limits"].as_array().unwrap() {
        assert!(limit["fullest_window"].as_u64() <= limit["amount"].as_u64(), "{limit}");
    }
    let count = |key: &str| report[key].as_u64().unwrap();
    assert_eq!(count("wanted"), count("admitted") + count("denied"), "{report}");
    let users = report["users"].as_array().unwrap();
    for key in ["wanted", "admitted"] {
        assert_eq!(users.iter().map(|user| user[key].as_u64().unwrap()).sum::<u64>(), count(key));
    }
    assert!(!stderr(&output).contains(Redis::PASSWORD) && !report.to_string().contains(Redis::PASSWORD));
    report
}

#[test]
fn the_embedded_store_keeps_every_window_and_uses_the_quota() {
    let used = |report: &Value| report["upstream_refused"] == 0 && report["quota_used"].as_f64() >= Some(0.9);
    let report = best_of_a_few(|| limited(&[]), used);
    assert_eq!(
        keys(&report),
        [
            "admitted",
            "denied",
            "limits",
            "processes",
            "quota_used",
            "seconds",
            "store",
            "upstream_refused",
            "users",
            "wait_ms",
            "wanted"
        ]
    );
    assert_eq!(keys(&report["wait_ms"]), ["max", "p50", "p99"]);
    assert_eq!(keys(&report["limits"][0]), ["amount", "fullest_window", "name", "resource", "window_ms"]);
    assert_eq!(keys(&report["users"][0]), ["admitted", "user", "wanted"]);
    assert_eq!(
        (&report["store"], &report["processes"], &report["seconds"]),
        (&"memory".into(), &1.into(), &120.into())
    );
    let images = report["limits"].as_array().unwrap().iter().find(|limit| limit["resource"] == "images").unwrap();
    assert_eq!((&images["amount"], &images["window_ms"]), (&250.into(), &60_000.into()), "unscaled");
    assert!(images["fullest_window"].as_u64().unwrap() > 200, "the replay saw the traffic");
}

#[test]
fn the_same_load_without_limits_is_refused_upstream_and_exits_0() {
    let limited = limited(&["--quota", "100", "--seed", "5"]);
    for hidden in [&[][..], &["--hidden-errors"]] {
        let unlimited = || {
            let output = demo(&[&["--unlimited", "--quota", "100", "--seed", "5"], hidden].concat());
            let report = report(&output);
            assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
            assert_eq!(report["wanted"], limited["wanted"], "the same seed wants the same");
            assert_eq!(report["admitted"], report["wanted"]);
            assert_eq!(report["store"], "none");
            report
        };
        let over = |limit: &Value| limit["fullest_window"].as_u64() > limit["amount"].as_u64();
        best_of_a_few(unlimited, |report| {
            report["upstream_refused"].as_u64() > Some(0) && report["limits"].as_array().unwrap().iter().any(over)
        });
    }
}

#[test]
fn refusals_of_admitted_calls_exit_1() {
    // The policy allows far more than the upstream does, and the upstream says so with status 200.
    let file = std::env::temp_dir().join(format!("allotment-generous-{}.toml", std::process::id()));
    std::fs::write(&file, "[[limit]]\nname = \"generous\"\nimages = 100_000\n").unwrap();
    let generous = || limited(&["--quota", "50", "--hidden-errors", "--policy", file.to_str().unwrap()]);
    let report = best_of_a_few(generous, |report| report["upstream_refused"].as_u64() > Some(0));
    std::fs::remove_file(&file).unwrap();
    assert_eq!(report["limits"][0]["name"], "generous");
}

#[test]
fn refusals_beside_a_stranger_are_a_figure_and_no_failure() {
    let shared = || {
        let output = demo(&["--quota", "100", "--stranger", "0.5", "--headers", "never"]);
        let report = report(&output);
        assert_eq!(output.status.code(), Some(0), "no window is over: {report}\n{}", stderr(&output));
        let share = report["upstream_refused"].as_f64().unwrap() / report["admitted"].as_f64().unwrap();
        assert!((report["share_refused"].as_f64().unwrap() - share).abs() < 0.001, "{report}");
        report
    };
    best_of_a_few(shared, |report| report["upstream_refused"].as_u64() > Some(0));
}

#[test]
fn the_table_is_for_people_and_the_progress_goes_to_stderr() {
    let args = ["demo", "--seconds", "20", "--speed", "20", "--users", "3"];
    let output = Command::new(env!("CARGO_BIN_EXE_allotment")).args(args).output().unwrap();
    let stdout = String::from_utf8(output.stdout.clone()).unwrap();
    for part in
        ["250 images a minute", "wanted", "refused upstream (429)", "margin", "2.0 %", "greedy-1", "No rolling window"]
    {
        assert!(stdout.contains(part), "no {part:?} in {stdout}");
    }
    assert!(stderr(&output).contains("asked"), "{}", stderr(&output));
}

#[cfg(unix)]
#[test]
fn an_interrupt_ends_the_run_and_reports_what_happened() {
    let report = interrupted(&["demo"]);
    assert_eq!(report["store"], "memory", "{report}");
}

#[test]
fn processes_share_one_redis_and_its_password_is_not_shown() {
    let redis = Redis::start();
    let shared = || limited(&["--redis", &redis.url(), "--processes", "3"]);
    let report = best_of_a_few(shared, |report| report["upstream_refused"] == 0);
    assert_eq!((&report["store"], &report["processes"]), (&"redis".into(), &3.into()));
    assert!(report["admitted"].as_u64() > Some(0), "{report}");
}
