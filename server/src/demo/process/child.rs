//! The child's side: plays its users, and tells the parent what happens.

use std::{process::ExitCode, sync::Arc, time::Duration};

use anyhow::{Context, Result, bail};
use tokio::{
    io::AsyncWriteExt,
    sync::{mpsc, watch},
    time::Instant,
};

use super::{Parent, ToChild, ToParent};
use crate::demo::{
    fleet::Fleet,
    gate::{Gate, epoch_ms},
    options::Scenario,
    upstream::Address,
};

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
    let Some(ToChild::Play { scenario, upstream, index }) = parent.hear().await.map_err(plain)? else {
        return Err("the parent did not say what to play".to_owned());
    };
    let secrets = scenario.secrets();
    play_scenario(*scenario, &upstream, index, parent, says).await.map_err(|error| secrets.redact(&plain(error)))
}

async fn play_scenario(
    scenario: Scenario,
    upstream: &Address,
    index: usize,
    parent: &mut Parent,
    says: &mpsc::UnboundedSender<ToParent>,
) -> Result<()> {
    let gate = Gate::new(&scenario, upstream)?;
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
    let fleet = Fleet {
        scenario: Arc::new(scenario),
        gate,
        events,
        stop: stopped,
        start: Instant::now() + Duration::from_millis(at_ms.saturating_sub(epoch_ms())),
    };
    let users = (index..fleet.scenario.load.users()).step_by(fleet.scenario.processes);
    tokio::select! {
        () = fleet.run(users) => {}
        () = listen(parent, &stop) => bail!("the parent process has gone"),
    }
    forwarding.await.context("passing on what happened")
}

/// Hears the parent until it has gone.
async fn listen(parent: &mut Parent, stop: &watch::Sender<bool>) {
    while let Ok(Some(message)) = parent.hear().await {
        match message {
            ToChild::Stop => drop(stop.send(true)),
            ToChild::Play { .. } | ToChild::Start { .. } => {}
        }
    }
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
