//! Stops a process for a while, as a suspended machine or a long pause would.

use anyhow::Result;
use tokio::process::Child;

/// What is done to it.
#[derive(Clone, Copy)]
pub(super) enum Signal {
    Stop,
    Resume,
}

#[cfg(unix)]
pub(super) fn send(child: &Child, signal: Signal) -> Result<()> {
    use anyhow::Context;
    use rustix::process::{Pid, Signal as Unix, kill_process};
    // A child that nobody has waited for keeps its id, so that the signal cannot meet another process.
    let pid =
        child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw).context("a process has ended")?;
    let unix = match signal {
        Signal::Stop => Unix::STOP,
        Signal::Resume => Unix::CONT,
    };
    kill_process(pid, unix).context("signalling a process")
}

#[cfg(not(unix))]
pub(super) fn send(_: &Child, _: Signal) -> Result<()> {
    anyhow::bail!(
        "demo crash stops a process and resumes it, which this system has no signals for: run it on Linux or macOS"
    )
}
