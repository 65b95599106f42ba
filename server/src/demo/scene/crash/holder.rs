//! A process that holds slots until it is killed, or told to end its calls: `allotment demo-holder`, started by `allotment demo crash`.

use std::process::ExitCode;

use allotment::{Cost, ErrorKind};
use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};

use super::slots::{Terms, live, tokens};
use crate::{demo::process::Parent, output::print_line};

/// What a holder is told.
#[derive(Serialize, Deserialize)]
pub(super) enum ToHolder {
    /// First: take so many slots and keep them.
    Hold { terms: Terms, calls: usize },
    /// Say which are held still.
    Look,
    /// End every call with a commit.
    End,
}

/// What a holder says.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum FromHolder {
    /// The fencing tokens of what it holds, and the most leases that were live at once by the store's account.
    Held { tokens: Vec<u64>, most_live: u64 },
    /// How many of its leases are live, as far as it knows.
    Looked { live: u64 },
    /// How many leases were live before it ended its calls, and what the commits came to.
    Ended { live: u64, committed: u64, lost: u64 },
    /// Why it cannot go on: a message without secrets.
    Failed(String),
}

/// Plays a holder to its end.
pub(crate) async fn run_holder() -> Result<ExitCode> {
    // A stopped process does not see that its stdin has ended.
    #[cfg(target_os = "linux")]
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
    // A Ctrl-C reaches the whole process group; the parent decides what it means.
    tokio::spawn(async { while tokio::signal::ctrl_c().await.is_ok() {} });
    let mut parent = Parent::new();
    if let Err(message) = play(&mut parent).await {
        say(&FromHolder::Failed(message))?;
    }
    // The runtime would wait for a read of stdin that never comes.
    std::process::exit(0)
}

/// Plays to the end; what went wrong is told without secrets.
async fn play(parent: &mut Parent) -> Result<(), String> {
    let plain = |error: anyhow::Error| format!("{error:#}");
    let Some(ToHolder::Hold { terms, calls }) = parent.hear().await.map_err(plain)? else {
        return Err("the parent did not say what to hold".to_owned());
    };
    let secrets = terms.secrets();
    hold(&terms, calls, parent).await.map_err(|error| secrets.redact(&plain(error)))
}

async fn hold(terms: &Terms, calls: usize, parent: &mut Parent) -> Result<()> {
    let slots = terms.slots()?;
    let held = slots.ask(calls).await?;
    say(&FromHolder::Held { tokens: tokens(&held.permits), most_live: held.most_live })?;
    while let Some(message) = parent.hear().await? {
        match message {
            ToHolder::Hold { .. } => bail!("the parent said twice what to hold"),
            ToHolder::Look => say(&FromHolder::Looked { live: live(&held.permits) })?,
            ToHolder::End => {
                let live = live(&held.permits);
                let (mut committed, mut lost) = (0, 0);
                for permit in held.permits {
                    match permit.commit(Cost::new()).await {
                        Ok(()) => committed += 1,
                        Err(error) if error.kind() == ErrorKind::LeaseLost => lost += 1,
                        Err(error) => return Err(error.into()),
                    }
                }
                return say(&FromHolder::Ended { live, committed, lost });
            }
        }
    }
    Ok(())
}

fn say(message: &FromHolder) -> Result<()> {
    Ok(print_line(&serde_json::to_string(message)?)?)
}
