//! The program says where it listens, keeps to its flags, and ends in order when it is told to.

use std::{
    io::{BufRead, BufReader, Read},
    process::{Child, Command, Stdio},
};

use allotment_upstream::Terms;
use serde_json::json;

use crate::support::start;

/// Ends with the test, also with one that fails.
struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn the_program_serves_until_a_signal() {
    let program = Command::new(env!("CARGO_BIN_EXE_allotment-upstream"))
        .args(["--listen", "127.0.0.1:0", "--images", "2", "--enforce", "rolling", "--headers", "on-refusal-only"])
        .args(["--key", "sk-a=org-a", "--key", "sk-b=org-b", "--thumbnail"])
        .stdout(Stdio::piped())
        .spawn();
    let mut program = Program(program.unwrap());
    let mut output = BufReader::new(program.0.stdout.take().unwrap());
    let mut line = String::new();
    output.read_line(&mut line).unwrap();
    let url = line.trim().strip_prefix("listening on ").unwrap().to_owned();

    // Only its client is used.
    let (_upstream, mut caller) = start(Terms::new()).await;
    caller.url = url;
    for (key, status) in [("sk-a", 200), ("sk-a", 200), ("sk-a", 429), ("sk-b", 200), ("sk-test", 401)] {
        assert_eq!(caller.with_key(key).draw(json!({})).await.status, status, "{key}");
    }

    let id = program.0.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
    assert!(program.0.wait().unwrap().success());
    line.clear();
    output.read_to_string(&mut line).unwrap();
    assert_eq!(line, "served 3 of 5 calls, refused 1\n");
}
