//! A child process of this program, and the talk with it: JSON lines over its stdin and stdout.
//!
//! Invariant: a child ends when its parent does, since it then reads the end of its stdin, and when its talk is dropped.

use std::process::Stdio;

use anyhow::{Context, Result, bail};
use serde::{Serialize, de::DeserializeOwned};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines, Stdin},
    process::{Child, ChildStdin, ChildStdout, Command},
};

/// A child and the two ends of its talk.
pub(crate) struct Talk {
    pub(crate) child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    stdin: ChildStdin,
}

/// The child's side of the talk.
pub(crate) struct Parent {
    lines: Lines<BufReader<Stdin>>,
}

impl Talk {
    /// Starts this program once more, with this command.
    pub(crate) fn start(command: &str) -> Result<Self> {
        let program = std::env::current_exe().context("where this program is")?;
        let mut child = Command::new(program)
            .arg(command)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("starting a process")?;
        let stdin = child.stdin.take().context("a child without stdin")?;
        let stdout = child.stdout.take().context("a child without stdout")?;
        Ok(Self { child, lines: BufReader::new(stdout).lines(), stdin })
    }

    pub(crate) async fn tell(&mut self, message: &impl Serialize) -> Result<()> {
        let mut line = serde_json::to_string(message)?;
        line.push('\n');
        self.stdin.write_all(line.as_bytes()).await.context("a process does not listen any more")
    }

    /// # Cancel safety
    ///
    /// Dropping the future loses nothing that the child said.
    pub(crate) async fn hear<M: DeserializeOwned>(&mut self) -> Result<M> {
        match self.lines.next_line().await.context("listening to a process")? {
            Some(line) => serde_json::from_str(&line).context("a process said something that is not understood"),
            None => {
                let status = self.child.wait().await.context("waiting for a process")?;
                bail!("a process ended before the run did: {status}")
            }
        }
    }
}

impl Parent {
    pub(crate) fn new() -> Self {
        Self { lines: BufReader::new(tokio::io::stdin()).lines() }
    }

    /// `None` when the parent has gone.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses nothing that the parent said.
    pub(crate) async fn hear<M: DeserializeOwned>(&mut self) -> Result<Option<M>> {
        match self.lines.next_line().await.context("listening to the parent")? {
            Some(line) => {
                serde_json::from_str(&line).map(Some).context("the parent said something that is not understood")
            }
            None => Ok(None),
        }
    }
}
