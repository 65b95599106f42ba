//! The parent's side: processes that hold slots, and what is done to them.

use anyhow::{Context, Result, bail};

use super::{
    holder::{FromHolder, ToHolder},
    signal::{self, Signal},
    slots::Terms,
};
use crate::demo::process::Talk;

/// Processes that hold slots.
pub(super) struct Holders {
    talks: Vec<Talk>,
    /// The fencing tokens of all that they hold.
    pub(super) tokens: Vec<u64>,
    /// The most leases that were live at once, by the store's account.
    pub(super) most_live: u64,
}

/// What became of the calls of a holder.
#[derive(Clone, Copy)]
pub(super) struct Ended {
    /// Leases that it took for live.
    pub(super) live: u64,
    pub(super) committed: u64,
    pub(super) lost: u64,
}

impl Holders {
    /// Starts so many processes, which together take `calls` slots, and waits until they have them.
    pub(super) async fn start(terms: &Terms, processes: usize, calls: usize) -> Result<Self> {
        let mut talks = Vec::with_capacity(processes);
        for index in 0..processes {
            let share = calls / processes + usize::from(index < calls % processes);
            let mut talk = Talk::start("demo-holder")?;
            talk.tell(&ToHolder::Hold { terms: terms.clone(), calls: share }).await?;
            talks.push(talk);
        }
        let mut holders = Self { talks, tokens: Vec::new(), most_live: 0 };
        for talk in &mut holders.talks {
            match talk.hear().await? {
                FromHolder::Held { tokens, most_live } => {
                    holders.tokens.extend(tokens);
                    holders.most_live = holders.most_live.max(most_live);
                }
                other => return unexpected(other),
            }
        }
        Ok(holders)
    }

    /// How many leases the holders take for live. They err to the safe side, so that these all are.
    pub(super) async fn look(&mut self) -> Result<u64> {
        let mut all = 0;
        for talk in &mut self.talks {
            talk.tell(&ToHolder::Look).await?;
            match talk.hear().await? {
                FromHolder::Looked { live } => all += live,
                other => return unexpected(other),
            }
        }
        Ok(all)
    }

    /// Kills all at once, as `kill -9` does: none of them can do anything about it.
    pub(super) async fn kill(mut self) -> Result<()> {
        for talk in &mut self.talks {
            talk.child.start_kill().context("killing a process")?;
        }
        for talk in &mut self.talks {
            talk.child.wait().await.context("waiting for a process")?;
        }
        Ok(())
    }

    /// Stops all where they are, or lets them go on.
    pub(super) fn signal(&self, signal: Signal) -> Result<()> {
        self.talks.iter().try_for_each(|talk| signal::send(&talk.child, signal))
    }

    /// Has all commit their calls, and tells what came of it.
    pub(super) async fn end(mut self) -> Result<Ended> {
        let mut all = Ended { live: 0, committed: 0, lost: 0 };
        for talk in &mut self.talks {
            talk.tell(&ToHolder::End).await?;
            match talk.hear().await? {
                FromHolder::Ended { live, committed, lost } => {
                    all.live += live;
                    all.committed += committed;
                    all.lost += lost;
                }
                other => return unexpected(other),
            }
            talk.child.wait().await.context("waiting for a process")?;
        }
        Ok(all)
    }
}

fn unexpected<T>(said: FromHolder) -> Result<T> {
    match said {
        FromHolder::Failed(message) => bail!(message),
        other => bail!("a process said {other:?} out of turn"),
    }
}
