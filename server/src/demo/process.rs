//! Real processes for `--processes`: each is this program again, with its own connection and limiter.
//!
//! The parent keeps the one simulated upstream. Parent and children speak JSON lines over the children's stdin and stdout: nothing
//! listens on a port, and a child whose parent dies reads the end of its stdin and ends too.

mod child;

use std::{process::Stdio, sync::Arc};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
    sync::{mpsc, watch},
    task::JoinSet,
};

pub(crate) use self::child::{CallParent, run_child};
use super::{
    fleet::{Event, told},
    gate::epoch_ms,
    options::Scenario,
    upstream::{LiveUpstream, Request, Response},
};

/// How long after the last child is ready the run starts, so that all of them have heard.
const HEAD_START_MS: u64 = 50;

/// What a parent tells a child.
#[derive(Serialize, Deserialize)]
enum ToChild {
    /// First: the scenario, and which of the processes this one is.
    Play {
        scenario: Box<Scenario>,
        index: usize,
    },
    /// The time of the start, by this host's clock.
    Start {
        at_ms: u64,
    },
    Answer {
        id: u64,
        response: Response,
    },
    Stop,
}

/// What a child tells its parent.
#[derive(Debug, Serialize, Deserialize)]
enum ToParent {
    Ready,
    Call {
        id: u64,
        request: Request,
    },
    Event(Event),
    /// Why the child cannot go on: a message without secrets.
    Failed(String),
    Finished,
}

/// Children that are ready to start.
pub(crate) struct Processes {
    children: Vec<Talk>,
}

/// A child and the two ends of its talk.
struct Talk {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    stdin: ChildStdin,
}

impl Processes {
    /// Starts the children and waits until each has reached its store.
    pub(crate) async fn start(scenario: &Scenario) -> Result<Self> {
        let program = std::env::current_exe().context("where this program is")?;
        let mut children = Vec::new();
        for index in 0..scenario.processes {
            let mut child = Command::new(&program)
                .arg("demo-process")
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .kill_on_drop(true)
                .spawn()
                .context("starting a process")?;
            let stdin = child.stdin.take().context("a child without stdin")?;
            let stdout = child.stdout.take().context("a child without stdout")?;
            let mut talk = Talk { child, lines: BufReader::new(stdout).lines(), stdin };
            talk.tell(&ToChild::Play { scenario: Box::new(scenario.clone()), index }).await?;
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

    /// Runs the children to their end: answers their calls and passes on their events.
    pub(crate) async fn run(
        self,
        start_ms: u64,
        upstream: Arc<LiveUpstream>,
        events: mpsc::UnboundedSender<Event>,
        stop: watch::Receiver<bool>,
    ) -> Result<()> {
        let mut tasks = JoinSet::new();
        for talk in self.children {
            tasks.spawn(talk.run(start_ms, Arc::clone(&upstream), events.clone(), stop.clone()));
        }
        while let Some(ended) = tasks.join_next().await {
            ended??;
        }
        Ok(())
    }
}

impl Talk {
    async fn run(
        mut self,
        start_ms: u64,
        upstream: Arc<LiveUpstream>,
        events: mpsc::UnboundedSender<Event>,
        mut stop: watch::Receiver<bool>,
    ) -> Result<()> {
        self.tell(&ToChild::Start { at_ms: start_ms }).await?;
        let mut stopping = false;
        loop {
            let heard = tokio::select! {
                heard = self.lines.next_line() => heard,
                () = told(&mut stop), if !stopping => {
                    stopping = true;
                    self.tell(&ToChild::Stop).await?;
                    continue;
                }
            };
            match self.understand(heard).await? {
                ToParent::Call { id, request } => {
                    let response = upstream.answer(&request);
                    self.tell(&ToChild::Answer { id, response }).await?;
                }
                ToParent::Event(event) => drop(events.send(event)),
                ToParent::Failed(message) => bail!(message),
                ToParent::Ready => {}
                ToParent::Finished => break,
            }
        }
        self.child.wait().await.context("waiting for a process")?;
        Ok(())
    }

    async fn tell(&mut self, message: &ToChild) -> Result<()> {
        let mut line = serde_json::to_string(message)?;
        line.push('\n');
        self.stdin.write_all(line.as_bytes()).await.context("a process does not listen any more")
    }

    async fn hear(&mut self) -> Result<ToParent> {
        let line = self.lines.next_line().await;
        self.understand(line).await
    }

    async fn understand(&mut self, line: std::io::Result<Option<String>>) -> Result<ToParent> {
        match line.context("listening to a process")? {
            Some(line) => serde_json::from_str(&line).context("a process said something that is not understood"),
            None => {
                let status = self.child.wait().await.context("waiting for a process")?;
                bail!("a process ended before the run did: {status}")
            }
        }
    }
}
