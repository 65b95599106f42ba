//! Real processes for `--processes`: each is this program again, with its own connection and limiter.
//!
//! The parent keeps the one simulated upstream, which the children call over sockets of this machine. Parent and children speak JSON lines over
//! the children's stdin and stdout: a child whose parent dies reads the end of its stdin and ends too.

mod child;
mod talk;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
};

pub(crate) use self::{
    child::run_child,
    talk::{Parent, Talk},
};
use super::{
    fleet::{Event, told},
    gate::epoch_ms,
    options::Scenario,
    upstream::Address,
};

/// How long after the last child is ready the run starts, so that all of them have heard.
const HEAD_START_MS: u64 = 50;

/// What a parent tells a child.
#[derive(Serialize, Deserialize)]
enum ToChild {
    /// First: the scenario, where the upstream is, and which of the processes this one is.
    Play {
        scenario: Box<Scenario>,
        upstream: Address,
        index: usize,
    },
    /// The time of the start, by this host's clock.
    Start {
        at_ms: u64,
    },
    Stop,
}

/// What a child tells its parent.
#[derive(Debug, Serialize, Deserialize)]
enum ToParent {
    Ready,
    Event(Event),
    /// Why the child cannot go on: a message without secrets.
    Failed(String),
    Finished,
}

/// Children that are ready to start.
pub(crate) struct Processes {
    children: Vec<Talk>,
}

impl Processes {
    /// Starts the children and waits until each has reached its store.
    pub(crate) async fn start(scenario: &Scenario, upstream: &Address) -> Result<Self> {
        let mut children = Vec::new();
        for index in 0..scenario.processes {
            let mut talk = Talk::start("demo-process")?;
            let scenario = Box::new(scenario.clone());
            talk.tell(&ToChild::Play { scenario, upstream: upstream.clone(), index }).await?;
            children.push(talk);
        }
        for talk in &mut children {
            match talk.hear().await? {
                ToParent::Ready => {}
                ToParent::Failed(message) => bail!(message),
                other => bail!("a process said {other:?} before it was ready"),
            }
        }
        Ok(Self { children })
    }

    /// The time of the start, by this host's clock: soon.
    pub(crate) fn start_ms() -> u64 {
        epoch_ms() + HEAD_START_MS
    }

    /// Runs the children to their end, and passes on their events.
    pub(crate) async fn run(
        self,
        start_ms: u64,
        events: mpsc::UnboundedSender<Event>,
        stop: watch::Receiver<bool>,
    ) -> Result<()> {
        let mut tasks = JoinSet::new();
        for talk in self.children {
            tasks.spawn(run_one(talk, start_ms, events.clone(), stop.clone()));
        }
        while let Some(ended) = tasks.join_next().await {
            ended??;
        }
        Ok(())
    }
}

/// Runs one child to its end.
async fn run_one(
    mut talk: Talk,
    start_ms: u64,
    events: mpsc::UnboundedSender<Event>,
    mut stop: watch::Receiver<bool>,
) -> Result<()> {
    talk.tell(&ToChild::Start { at_ms: start_ms }).await?;
    let mut stopping = false;
    loop {
        let heard = tokio::select! {
            heard = talk.hear() => heard?,
            () = told(&mut stop), if !stopping => {
                stopping = true;
                talk.tell(&ToChild::Stop).await?;
                continue;
            }
        };
        match heard {
            ToParent::Event(event) => drop(events.send(event)),
            ToParent::Failed(message) => bail!(message),
            ToParent::Ready => {}
            ToParent::Finished => break,
        }
    }
    talk.child.wait().await.context("waiting for a process")?;
    Ok(())
}
