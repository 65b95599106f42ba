//! The child's side: plays its users and asks the parent for whatever the upstream is asked.

use std::{collections::HashMap, process::ExitCode, sync::Arc, time::Duration};

use anyhow::{Context, Result, bail};
use parking_lot::Mutex;
use tokio::{
    io::AsyncWriteExt,
    sync::{mpsc, oneshot, watch},
    time::Instant,
};

use super::{Parent, ToChild, ToParent};
use crate::demo::{
    fleet::{Fleet, Link},
    gate::{Gate, epoch_ms},
    options::Scenario,
    upstream::{Request, Response},
};

/// The calls that wait for the parent's answer, by id. `None` once the parent has gone.
type Waiting = Arc<Mutex<Option<HashMap<u64, oneshot::Sender<Response>>>>>;

/// Carries calls to the parent's upstream.
#[derive(Clone)]
pub(crate) struct CallParent {
    waiting: Waiting,
    next: Arc<std::sync::atomic::AtomicU64>,
    says: mpsc::UnboundedSender<ToParent>,
}

impl CallParent {
    fn new(says: mpsc::UnboundedSender<ToParent>) -> Self {
        Self { waiting: Arc::new(Mutex::new(Some(HashMap::new()))), next: Arc::default(), says }
    }

    /// `None` when the parent has gone.
    pub(crate) async fn call(&self, request: Request) -> Option<Response> {
        let id = self.next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let (answer, answered) = oneshot::channel();
        self.waiting.lock().as_mut()?.insert(id, answer);
        self.says.send(ToParent::Call { id, request }).ok()?;
        answered.await.ok()
    }
}

/// Plays one process of a demo: `allotment demo-process`, started by `allotment demo --processes`.
pub(crate) async fn run_child() -> Result<ExitCode> {
    // A Ctrl-C reaches the whole process group; the parent decides what it means and says so.
    tokio::spawn(async { while tokio::signal::ctrl_c().await.is_ok() {} });
    let mut parent = Parent::new();
    let (says, said) = mpsc::unbounded_channel();
    let writing = tokio::spawn(write_lines(said));
    if let Err(message) = play(&mut parent, &says).await {
        let _ = says.send(ToParent::Failed(message));
    } else {
        let _ = says.send(ToParent::Finished);
    }
    drop(says);
    writing.await?;
    // The runtime would wait for a read of stdin that never comes.
    std::process::exit(0)
}

/// Plays to the end; what went wrong is told without secrets.
async fn play(parent: &mut Parent, says: &mpsc::UnboundedSender<ToParent>) -> Result<(), String> {
    let plain = |error: anyhow::Error| format!("{error:#}");
    let Some(ToChild::Play { scenario, index }) = parent.hear().await.map_err(plain)? else {
        return Err("the parent did not say what to play".to_owned());
    };
    let secrets = scenario.secrets();
    play_scenario(*scenario, index, parent, says).await.map_err(|error| secrets.redact(&plain(error)))
}

async fn play_scenario(
    scenario: Scenario,
    index: usize,
    parent: &mut Parent,
    says: &mpsc::UnboundedSender<ToParent>,
) -> Result<()> {
    let gate = Gate::new(&scenario)?;
    gate.ready().await?;
    let _ = says.send(ToParent::Ready);
    let Some(ToChild::Start { at_ms }) = parent.hear().await? else { bail!("the parent did not say when to start") };

    let (events, mut happened) = mpsc::unbounded_channel();
    let forward = says.clone();
    let forwarding = tokio::spawn(async move {
        while let Some(event) = happened.recv().await {
            let _ = forward.send(ToParent::Event(event));
        }
    });
    let (stop, stopped) = watch::channel(false);
    let calls = CallParent::new(says.clone());
    let fleet = Fleet {
        scenario: Arc::new(scenario),
        gate,
        link: Link::Parent(calls.clone()),
        events,
        stop: stopped,
        start: Instant::now() + Duration::from_millis(at_ms.saturating_sub(epoch_ms())),
    };
    let users = (index..fleet.scenario.load.users()).step_by(fleet.scenario.processes);
    tokio::select! {
        () = fleet.run(users) => {}
        () = listen(parent, &calls.waiting, &stop) => bail!("the parent process has gone"),
    }
    forwarding.await.context("passing on what happened")
}

/// Takes the parent's answers until the parent has gone.
async fn listen(parent: &mut Parent, waiting: &Waiting, stop: &watch::Sender<bool>) {
    while let Ok(Some(message)) = parent.hear().await {
        match message {
            ToChild::Answer { id, response } => {
                let answer = waiting.lock().as_mut().and_then(|waiting| waiting.remove(&id));
                if let Some(answer) = answer {
                    let _ = answer.send(response);
                }
            }
            ToChild::Stop => drop(stop.send(true)),
            ToChild::Play { .. } | ToChild::Start { .. } => {}
        }
    }
    waiting.lock().take();
}

/// Writes what is said, as many lines at once as there are.
async fn write_lines(mut said: mpsc::UnboundedReceiver<ToParent>) {
    let mut stdout = tokio::io::stdout();
    let mut batch = Vec::new();
    while said.recv_many(&mut batch, 64).await > 0 {
        let mut text = String::new();
        for message in batch.drain(..) {
            if let Ok(line) = serde_json::to_string(&message) {
                text.push_str(&line);
                text.push('\n');
            }
        }
        if stdout.write_all(text.as_bytes()).await.is_err() || stdout.flush().await.is_err() {
            return;
        }
    }
}
