//! Short runs of the scenes: what they print, what they promise, and what they refuse.

#![allow(clippy::unwrap_used, clippy::panic, reason = "clippy takes only the test functions themselves for tests")]

#[cfg(unix)]
#[path = "support/interrupted.rs"]
mod interrupted;
#[path = "support/runs.rs"]
mod runs;

use std::process::{Command, Output, Stdio};

use serde_json::Value;

#[cfg(unix)]
use self::interrupted::interrupted;
use self::runs::best_of_a_few;

/// Three windows of three seconds.
const SHORT: [&str; 5] = ["--json", "--seconds", "180", "--speed", "20"];
const INCIDENT: [&str; 6] = ["demo", "incident", "--pool", "400", "--light-users", "20"];
const PRIORITY: [&str; 4] = ["demo", "priority", "--pool", "200"];

fn allotment(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_allotment")).args(args).output().unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The one object of a run, with what holds on any host: windows are kept, whenever calls are made. One that is made late may be refused
/// upstream, and then the status says so.
fn played(args: &[&str]) -> Value {
    let output = allotment(args);
    let stdout = std::str::from_utf8(&output.stdout).unwrap();
    assert_eq!(stdout.trim().lines().count(), 1, "one object and nothing else: {stdout}\n{}", stderr(&output));
    let report: Value = serde_json::from_str(stdout).unwrap();
    let count = |key: &str| report[key].as_u64().unwrap();
    assert_eq!(output.status.code(), Some(i32::from(count("upstream_refused") > 0)), "{report}\n{}", stderr(&output));
    assert_eq!(report["store"], "memory", "{report}");
    let limit = &report["limits"][0];
    assert!(limit["fullest_window"].as_u64() <= limit["amount"].as_u64(), "{limit}");
    assert!(limit["fullest_window"].as_u64() > Some(0), "the replay saw the traffic");
    assert_eq!(count("wanted"), count("admitted") + count("denied"), "{report}");
    report
}

/// Whether the upstream refused no admitted call.
fn kept(report: &Value) -> bool {
    report["upstream_refused"] == 0
}

fn share(value: &Value) -> f64 {
    let share = value.as_f64().unwrap_or_else(|| panic!("no share: {value}"));
    assert!((0.0..=1.0).contains(&share), "{share}");
    share
}

#[test]
fn fair_share_serves_the_light_beside_a_greedy_user() {
    let both = || {
        let fair = played(&[&INCIDENT[..], &SHORT].concat());
        let unfair = played(&[&INCIDENT[..], &SHORT, &["--without-fair-share"]].concat());
        [fair, unfair]
    };
    let light_served = |report: &Value| report["runs"][0]["light_served"].as_f64().unwrap();
    let tells = |report: &Value| {
        let mut runs = report["runs"].as_array().unwrap().iter();
        runs.all(|run| run["jain"].is_number()) && report["runs"][1]["light_wait_p99_s"].is_number()
    };
    let shows = |[fair, unfair]: &[Value; 2]| light_served(fair) > light_served(unfair) + 0.2;
    // Whether calls reach the upstream in time is for others to show: here there is no margin for a busy host.
    let [fair, unfair] = best_of_a_few(both, |reports| reports.iter().all(tells) && shows(reports));
    for (report, fair_share) in [(&fair, true), (&unfair, false)] {
        assert_eq!((&report["pool"], &report["fair_share"]), (&400.into(), &fair_share.into()));
        assert_eq!(
            (&report["light_users"], &report["greedy"], &report["speed"]),
            (&20.into(), &1.into(), &20.0.into())
        );
        let runs = report["runs"].as_array().unwrap();
        let callers: Vec<_> = runs.iter().map(|run| run["callers"].as_str().unwrap()).collect();
        assert_eq!(callers, ["give_up", "wait"]);
        for key in ["light_served", "light_served_first_minute", "greedy_served", "jain", "quota_used"] {
            let of_run: Vec<f64> = runs.iter().map(|run| share(&run[key])).collect();
            let together = share(&report[key]);
            if key == "jain" {
                continue;
            }
            // Each is rounded.
            let (least, most) = (of_run[0].min(of_run[1]) - 1e-4, of_run[0].max(of_run[1]) + 1e-4);
            assert!((least..=most).contains(&together), "{key}: {together} of {of_run:?}");
        }
        assert_eq!(report["light_wait_p99_s"], runs[1]["light_wait_p99_s"], "of those who wait");
        assert_eq!(runs[0]["wanted"], runs[1]["wanted"], "both runs meet the same calls");
        assert!(runs[0]["light_wait_p99_s"].is_null(), "nobody waits: {report}");
        assert_eq!(runs.iter().map(|run| run["wanted"].as_u64().unwrap()).sum::<u64>(), report["wanted"]);
        assert_eq!(report["users"].as_array().unwrap().len(), 42);
    }
}

#[test]
fn the_priorities_are_reported_by_class_and_window() {
    let all_waited = |report: &Value| {
        let mut windows = report["windows"].as_array().unwrap().iter();
        windows.all(|window| window["interactive"]["wait_p99_s"].is_number())
    };
    let report = best_of_a_few(
        || played(&[&PRIORITY[..], &SHORT].concat()),
        |report| kept(report) && all_waited(report) && share(&report["windows"][1]["batch"]["served"]) < 1.0,
    );
    let windows = report["windows"].as_array().unwrap();
    assert_eq!(windows.len(), 3);
    let wanted = |class: &str| windows.iter().map(|window| window[class]["wanted"].as_u64().unwrap()).sum::<u64>();
    assert_eq!(wanted("interactive") + wanted("batch"), report["wanted"]);
    for (index, window) in windows.iter().enumerate() {
        assert_eq!(window["window"], index + 1);
        share(&window["pool_used"]);
        share(&window["interactive"]["served"]);
    }
    assert!(windows[2]["batch"]["served"].is_null(), "none of the last minute had the time to wait");
    let interactive = |index: usize| windows[index]["interactive"]["wanted"].as_u64().unwrap();
    assert!(interactive(2) > 3 * interactive(0), "ten times as much from the middle on");
}

#[test]
fn a_run_that_is_too_short_for_a_figure_has_none() {
    let report = played(&[&INCIDENT[..], &["--json", "--seconds", "90", "--speed", "30"]].concat());
    let runs = report["runs"].as_array().unwrap();
    for figures in runs.iter().chain([&report]) {
        assert!(figures["light_served_first_minute"].is_number(), "{figures}");
        for key in ["light_served", "light_wait_p99_s", "greedy_served", "jain", "quota_used"] {
            assert!(figures.get(key).is_some_and(Value::is_null), "{key}: {figures}");
        }
    }
    assert!(runs.iter().all(|run| run["quota_used_last_minute"].is_null()), "{report}");
}

#[test]
fn the_tables_are_for_people_and_their_end_is_nobodys_panic() {
    let short = ["--seconds", "60", "--speed", "30"];
    for (scene, parts) in [
        (&INCIDENT[..], ["shared fairly", "light users served", "Jain's index"]),
        (&PRIORITY[..], ["Batch wants 200 %", "wait p99", "pool used"]),
    ] {
        let printed = || {
            let stdout = String::from_utf8(allotment(&[scene, &short].concat()).stdout).unwrap();
            assert!(parts.iter().all(|part| stdout.contains(part)), "{stdout}");
            stdout
        };
        best_of_a_few(printed, |stdout| stdout.contains("No rolling window was over its limit"));

        let mut command = Command::new(env!("CARGO_BIN_EXE_allotment"));
        let mut child = command.args(scene).args(short).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        assert!(!stderr(&output).contains("panicked"), "{}", stderr(&output));
    }
}

#[cfg(unix)]
#[test]
fn an_interrupt_ends_a_scene_and_reports_what_happened() {
    for scene in ["incident", "priority"] {
        let report = interrupted(&["demo", scene, "--pool", "200"]);
        assert_eq!(report["pool"], 200, "{report}");
    }
}

#[test]
fn a_bad_flag_is_named_with_its_value_and_what_is_allowed() {
    for (args, expected) in [
        (vec!["incident", "--pool", "99"], ["'99'", "--pool", "from 100 to 100000"]),
        (vec!["incident", "--light-users", "0"], ["'0'", "--light-users", "from 1 to 5000"]),
        (vec!["incident", "--light-rate", "NaN"], ["'NaN'", "--light-rate", "from 0.1 to 1000"]),
        (vec!["incident", "--light-rate", "-1"], ["'-1'", "--light-rate", "from 0.1 to 1000"]),
        (vec!["incident", "--greedy", "101"], ["'101'", "--greedy", "from 1 to 100"]),
        (vec!["incident", "--greedy", "100"], ["--greedy 100", "--pool 4000", "at most 200000"]),
        (
            vec!["incident", "--light-users", "5000", "--light-rate", "900"],
            ["--light-users 5000", "--light-rate 900", "at most 200000"],
        ),
        (vec!["incident", "--speed", "61"], ["'61'", "--speed", "from 1 to 60"]),
        (vec!["incident", "--redis", "localhost"], ["'localhost'", "--redis", "redis://localhost:6379"]),
        (vec!["incident", "--quota", "5"], ["--quota", "unexpected", "Usage"]),
        (vec!["priority", "--pool", "0"], ["'0'", "--pool", "from 100 to 20000"]),
        (vec!["priority", "--seconds", "0"], ["'0'", "--seconds", "from 1 to 86400"]),
        (vec!["priority", "--seed", "-1"], ["'-1'", "--seed", "whole number"]),
        (vec!["--quota", "5", "incident"], ["incident", "cannot be used with", "--quota"]),
        (vec!["incidents"], ["incidents", "unrecognized", "Usage"]),
    ] {
        let output = allotment(&[&["demo"], args.as_slice()].concat());
        let stderr = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {stderr}");
        assert!(output.stdout.is_empty(), "{args:?}");
        for part in expected {
            assert!(stderr.contains(part), "{args:?}: no {part:?} in {stderr}");
        }
    }
}
