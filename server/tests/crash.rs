//! Processes that hold slots and are killed: what `allotment demo crash` shows, and that none of its own is left behind.

#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::panic, reason = "clippy takes only the test functions themselves for tests")]

#[path = "support/redis.rs"]
mod redis;
#[path = "support/runs.rs"]
mod runs;

use std::{
    io::{BufRead, BufReader},
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;

use self::{redis::Redis, runs::best_of_a_few};

fn crash(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_allotment")).args(["demo", "crash"]).args(args).output().unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The one object of a crash, with what holds on any host: no slot is held twice, whenever processes get to run.
fn played(redis: &Redis, args: &[&str]) -> Value {
    let output = crash(&[&["--json", "--redis", &redis.url()], args].concat());
    let stdout = std::str::from_utf8(&output.stdout).unwrap();
    assert_eq!(stdout.trim().lines().count(), 1, "one object and nothing else: {stdout}\n{}", stderr(&output));
    let report: Value = serde_json::from_str(stdout).unwrap();
    let kept = report["kept"].as_bool().unwrap();
    assert_eq!(output.status.code(), Some(i32::from(!kept)), "{report}");
    assert!(report["most_live"].as_u64() <= report["slots"].as_u64(), "{report}");
    for promise in ["tokens_grew", "zombie_refused"] {
        assert_ne!(report[promise], false, "{report}");
    }
    assert!(!stderr(&output).contains(Redis::PASSWORD) && !stdout.contains(Redis::PASSWORD));
    report
}

#[test]
fn the_slots_of_killed_processes_come_back_and_none_is_held_twice() {
    let redis = Redis::start();
    let report = best_of_a_few(|| played(&redis, &["--slots", "100", "--lease", "1"]), |report| report["kept"] == true);
    let mut keys: Vec<_> = report.as_object().unwrap().keys().map(String::as_str).collect();
    keys.sort_unstable();
    assert_eq!(
        keys,
        [
            "all_back_ms",
            "first_back_ms",
            "full_while_alive",
            "held",
            "kept",
            "lease_ms",
            "most_live",
            "processes",
            "slots",
            "tokens_grew",
            "zombie_refused"
        ]
    );
    for (key, figure) in [("slots", 100), ("processes", 4), ("lease_ms", 1_000), ("held", 100), ("most_live", 100)] {
        assert_eq!(report[key], figure, "{key}: {report}");
    }
    for promise in ["full_while_alive", "tokens_grew", "zombie_refused"] {
        assert_eq!(report[promise], true, "{report}");
    }
    assert!(report["first_back_ms"].as_u64() <= report["all_back_ms"].as_u64(), "{report}");
}

#[test]
fn a_process_for_each_slot_may_hold_it_and_the_table_is_for_people() {
    let redis = Redis::start();
    let printed = || {
        let args = ["--slots", "3", "--lease", "1", "--redis", &redis.url()];
        let output = crash(&args);
        let stdout = String::from_utf8(output.stdout.clone()).unwrap();
        for part in ["redis://***@127.0.0.1", "Slots: 3, leases of 1.0 s", "held by 3 processes", "kill -9", "refused"]
        {
            assert!(stdout.contains(part), "no {part:?} in {stdout}");
        }
        assert!(stderr(&output).contains("others ask"), "{}", stderr(&output));
        assert!(!stderr(&output).contains(Redis::PASSWORD) && !stdout.contains(Redis::PASSWORD));
        stdout
    };
    best_of_a_few(printed, |stdout| stdout.contains("every slot was free again"));
}

#[test]
fn no_process_outlives_the_one_that_started_it() {
    let redis = Redis::start();
    // After one line they hold their slots, after three one of them is stopped, or will be: it reads no end of its stdin.
    for (signal, after_lines, lease, status) in [
        ("-INT", 1, "600", Some(130)),
        ("-TERM", 1, "600", Some(130)),
        ("-KILL", 1, "600", None),
        ("-KILL", 3, "2", None),
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_allotment"));
        let command = command.args(["demo", "crash", "--json", "--redis", &redis.url(), "--lease", lease]);
        let mut parent = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(parent.stderr.take().unwrap()).lines();
        assert_eq!(lines.take(after_lines).count(), after_lines);
        let id = parent.id().to_string();
        let children = Command::new("pgrep").args(["-P", &id]).output().unwrap().stdout;
        let children: Vec<String> = String::from_utf8(children).unwrap().lines().map(ToOwned::to_owned).collect();
        assert!(Command::new("kill").args([signal, &id]).status().unwrap().success());
        let output = parent.wait_with_output().unwrap();
        if status.is_some() {
            assert_eq!((output.status.code(), output.stdout.len()), (status, 0), "{signal}");
            assert_eq!(children.len(), 4);
        }
        let patience = Instant::now() + Duration::from_secs(60);
        while children.iter().any(|child| runs(child)) {
            assert!(Instant::now() < patience, "{signal} after {after_lines} lines: one of {children:?} is left");
            // Nothing tells when somebody else's child has ended.
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Whether the process is there, and not only because nobody has asked how it ended.
fn runs(process: &str) -> bool {
    let state = Command::new("ps").args(["-o", "stat=", "-p", process]).output().unwrap().stdout;
    !state.is_empty() && !state.starts_with(b"Z")
}

#[test]
fn a_bad_flag_is_named_with_its_value_and_what_is_allowed() {
    for (args, expected) in [
        (vec![], ["--redis <URL>", "required", "Usage"]),
        (vec!["--redis", "localhost"], ["'localhost'", "--redis", "redis://localhost:6379"]),
        (vec!["--slots", "0"], ["'0'", "--slots", "from 1 to 1000"]),
        (vec!["--slots", "1001"], ["'1001'", "--slots", "from 1 to 1000"]),
        (vec!["--slots", "-1"], ["'-1'", "--slots", "from 1 to 1000"]),
        (vec!["--processes", "0"], ["'0'", "--processes", "from 1 to 100"]),
        (vec!["--processes", "101"], ["'101'", "--processes", "from 1 to 100"]),
        (vec!["--lease", "0"], ["'0'", "--lease", "from 1 to 600"]),
        (vec!["--lease", "0.5"], ["'0.5'", "--lease", "whole number from 1 to 600"]),
        (vec!["--speed", "6"], ["--speed", "unexpected", "Usage"]),
        (
            vec!["--redis", "redis://localhost", "--slots", "2", "--processes", "3"],
            ["--processes 3", "--slots 2", "at most 2"],
        ),
    ] {
        let output = crash(&args);
        let stderr = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {stderr}");
        assert!(output.stdout.is_empty(), "{args:?}");
        for part in expected {
            assert!(stderr.contains(part), "{args:?}: no {part:?} in {stderr}");
        }
    }
}

#[test]
fn its_help_names_its_flags_and_its_exit_status() {
    let output = crash(&["--help"]);
    let help = String::from_utf8(output.stdout.clone()).unwrap();
    assert!(output.status.success() && output.stderr.is_empty());
    for part in ["--redis", "--slots", "--processes", "--lease", "--json", "Exit", "130 after"] {
        assert!(help.contains(part), "no {part:?} in {help}");
    }
}
