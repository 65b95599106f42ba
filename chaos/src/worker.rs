//! A process that plays a part: it is told lines and tells lines.
//!
//! Invariant: it is gone when its handle is, and it goes by itself when this process is gone, as its input ends then.

use std::{path::Path, process::Stdio};

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
};

pub(crate) struct Worker {
    process: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
}

impl Worker {
    /// Starts this program in a role that `scenarios::play` knows.
    pub(crate) fn play(role: &str, arguments: &[String]) -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("--play").arg(role).args(arguments);
        Self::spawn(command)
    }

    /// Starts another program.
    pub(crate) fn start(program: &Path, arguments: &[String]) -> Result<Self> {
        let mut command = Command::new(program);
        command.args(arguments);
        Self::spawn(command)
    }

    fn spawn(mut command: Command) -> Result<Self> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut process = command.spawn().with_context(|| format!("{command:?}"))?;
        let input = process.stdin.take().context("its input is a pipe")?;
        let output = BufReader::new(process.stdout.take().context("its output is a pipe")?).lines();
        Ok(Self { process, input, output })
    }

    /// The next line that it tells.
    pub(crate) async fn told(&mut self) -> Result<String> {
        self.output.next_line().await?.context("a worker ended before it told what it was asked")
    }

    pub(crate) async fn tell(&mut self, line: &str) -> Result<()> {
        Ok(self.input.write_all(format!("{line}\n").as_bytes()).await?)
    }

    /// All that it tells until it ends; it has to end well.
    pub(crate) async fn rest(mut self) -> Result<Vec<String>> {
        let mut lines = Vec::new();
        while let Some(line) = self.output.next_line().await? {
            lines.push(line);
        }
        let status = self.process.wait().await?;
        anyhow::ensure!(status.success(), "a worker ended with {status}");
        Ok(lines)
    }

    /// As by `kill -9`, `kill -STOP`, `kill -CONT`.
    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        let id = self.process.id().context("a worker has ended")?;
        let id = Pid::from_raw(id.cast_signed()).context("a process has an id")?;
        Ok(kill_process(id, signal)?)
    }
}
