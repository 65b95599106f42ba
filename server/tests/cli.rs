//! What the command says about bad flags, and what it never says.

#![allow(clippy::unwrap_used, clippy::panic, reason = "clippy takes only the test functions themselves for tests")]

use std::process::{Command, Output};

fn allotment(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_allotment")).args(args).output().unwrap()
}

/// Everything it printed.
fn printed(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[test]
fn a_bad_flag_is_named_with_its_value_and_what_is_allowed() {
    for (args, expected) in [
        (vec!["--quota", "0"], ["'0'", "--quota", "from 1 to 100000"]),
        (vec!["--quota", "-5"], ["'-5'", "--quota", "from 1 to 100000"]),
        (vec!["--quota", "0x10"], ["'0x10'", "--quota", "whole number"]),
        (vec!["--quota", " 5"], ["' 5'", "--quota", "whole number"]),
        (vec!["--users", "1e400"], ["'1e400'", "--users", "from 1 to 10000"]),
        (vec!["--users", "99999999999999999999999"], ["'99999999999999999999999'", "--users", "from 1 to 10000"]),
        (vec!["--seconds", "0"], ["'0'", "--seconds", "from 1 to 86400"]),
        (vec!["--processes", "65"], ["'65'", "--processes", "from 1 to 64"]),
        (vec!["--processes", "2"], ["2", "--processes", "--redis URL"]),
        (vec!["--speed", "NaN"], ["'NaN'", "--speed", "from 1 to 60"]),
        (vec!["--speed", "inf"], ["'inf'", "--speed", "from 1 to 60"]),
        (vec!["--speed", "-1"], ["'-1'", "--speed", "from 1 to 60"]),
        (vec!["--speed", "20", "--enforce", "10s"], ["20", "--speed", "at most 10"]),
        (vec!["--estimate-factor", "0.5"], ["'0.5'", "--estimate-factor", "from 1 to 1000"]),
        (vec!["--estimate-factor", "300"], ["300", "--estimate-factor", "--quota 250"]),
        (vec!["--enforce", "5s"], ["'5s'", "--enforce", "refill, rolling, 1s, 10s"]),
        (vec!["--stranger", "1"], ["'1'", "--stranger", "from 0 to 0.9"]),
        (vec!["--headers", "sometimes"], ["'sometimes'", "--headers", "always, refusals, never"]),
        (vec!["--seed", "-1"], ["'-1'", "--seed", "whole number"]),
        (vec!["--redis", "localhost"], ["'localhost'", "--redis", "redis://localhost:6379"]),
        (vec!["--policy", "no-such-file.toml"], ["no-such-file.toml", "--policy", "No such file"]),
        (vec!["--quotas", "1"], ["--quotas", "unexpected", "Usage"]),
    ] {
        let output = allotment(&[&["demo"], args.as_slice()].concat());
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{args:?}: {stderr}");
        assert!(output.stdout.is_empty(), "{args:?}");
        for part in expected {
            assert!(stderr.contains(part), "{args:?}: no {part:?} in {stderr}");
        }
        assert!(!stderr.contains("panicked"), "{stderr}");
    }
}

#[test]
fn a_bad_policy_is_named_with_its_line_and_key() {
    let file = std::env::temp_dir().join(format!("allotment-bad-policy-{}.toml", std::process::id()));
    for (text, expected) in [
        ("[[limit]]\nname = \"a\"\nimagse = 3\n", ["line 3", "imagse"]),
        ("[[limit]]\nname = \"a\"\nimages = 3\nwindow = \"0s\"\n", ["line 4", "window"]),
        (
            "require = [\"tenant\"]\n[[limit]]\nname = \"a\"\nimages = 3\n",
            ["requires `tenant`", "org, user, model, tier"],
        ),
    ] {
        std::fs::write(&file, text).unwrap();
        let output = allotment(&["demo", "--policy", file.to_str().unwrap()]);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{stderr}");
        assert!(stderr.contains("--policy"), "{stderr}");
        assert!(expected.iter().all(|part| stderr.contains(part)), "{stderr}");
    }
    std::fs::remove_file(file).unwrap();
}

#[test]
fn a_window_that_would_get_too_short_is_named_with_the_speed_that_fits() {
    let file = std::env::temp_dir().join(format!("allotment-short-window-{}.toml", std::process::id()));
    std::fs::write(&file, "[[limit]]\nname = \"burst\"\nimages = 3\nwindow = \"7s\"\n").unwrap();
    let output = allotment(&["demo", "--speed", "8", "--policy", file.to_str().unwrap()]);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    for part in ["--speed 8", "`burst`", "7s", "at most 7"] {
        assert!(stderr.contains(part), "no {part:?} in {stderr}");
    }
    std::fs::remove_file(file).unwrap();
}

#[test]
fn a_password_in_a_redis_url_is_printed_nowhere() {
    // Port 1 refuses connections at once.
    let url = "redis://bob:hunter2-secret@127.0.0.1:1/0";
    let query = "redis+unix:///nowhere/redis.sock?pass=hunter2-secret";
    for args in [
        vec!["demo", "--redis", url],
        vec!["demo", "--redis", url, "--processes", "2"],
        vec!["demo", "--redis", url, "--seed", "x"],
        vec!["demo", "crash", "--redis", url],
        vec!["demo", "crash", "--redis", url, "--slots", "x"],
        vec!["demo", "crash", "--redis", "redis://:hunter2-secret@:bad:port"],
        vec!["demo", "--redis", "redis://:hunter2-secret@:bad:port"],
        vec!["demo", "--redis", "rediss://:hunter2-secret@127.0.0.1:1", "--json"],
        vec!["demo", "--redis", "http://:hunter2-secret@127.0.0.1:1"],
        vec!["demo", "--redis", ":hunter2-secret@127.0.0.1"],
        vec!["demo", "--redis", query],
        vec!["demo", "--seed", url],
        vec!["demo", "--reddis", url],
        vec!["demo", url],
        vec!["image", "a lighthouse", "--dry-run", "--redis", url],
        vec!["image", "a lighthouse", "--out", "a.png", "--base-url", url],
        vec!["demo", "--policy", url],
        vec![url],
    ] {
        let output = allotment(&args);
        let printed = printed(&output);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {printed}");
        assert!(printed.contains("error"), "{args:?}: {printed}");
        assert!(!printed.contains("hunter2") && !printed.contains("panicked"), "{args:?}: {printed}");
    }
}

#[test]
fn help_and_version_go_to_stdout() {
    for args in [vec!["--help"], vec!["demo", "--help"], vec!["image", "--help"], vec!["--version"]] {
        let output = allotment(&args);
        assert!(output.status.success() && output.stderr.is_empty(), "{args:?}");
        assert!(String::from_utf8(output.stdout).unwrap().contains("allotment"), "{args:?}");
    }
    for command in ["demo", "image"] {
        assert!(printed(&allotment(&[command, "--help"])).contains("Exit status"));
    }
    for hidden in ["demo-process", "demo-holder"] {
        assert!(!printed(&allotment(&["--help"])).contains(hidden), "the children's commands are not for people");
    }
}

#[test]
fn a_child_without_a_parent_ends() {
    for (command, expected) in [
        ("demo-process", "the parent did not say what to play"),
        ("demo-holder", "the parent did not say what to hold"),
    ] {
        let mut child = Command::new(env!("CARGO_BIN_EXE_allotment"));
        let output = child.arg(command).stdin(std::process::Stdio::null()).output().unwrap();
        assert!(printed(&output).contains(expected));
    }
}
