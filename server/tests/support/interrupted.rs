//! A run that somebody ends by Ctrl-C.

use std::{
    io::{BufRead, BufReader},
    process::{Command, Stdio},
    time::Duration,
};

use serde_json::Value;

use super::runs::best_of_a_few;

/// The report of an hour's run with these arguments that is interrupted once some traffic has passed.
pub(crate) fn interrupted(args: &[&str]) -> Value {
    // Nothing outside tells when some has: the longest pause is for the slowest host.
    let mut pauses = [1, 4, 16, 64].into_iter().cycle().map(Duration::from_secs);
    let run = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_allotment"));
        let command = command.args(args).args(["--json", "--seconds", "3600", "--speed", "10"]);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        // The first progress line says that the run is on. Nobody reads the others, which must not matter.
        let mut first = String::new();
        BufReader::new(child.stderr.take().unwrap()).read_line(&mut first).unwrap();
        std::thread::sleep(pauses.next().unwrap());
        assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(130));
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert!(report["seconds"].as_u64().unwrap() < 3_600, "{report}");
        report
    };
    best_of_a_few(run, |report| report["wanted"].as_u64() > Some(0))
}
