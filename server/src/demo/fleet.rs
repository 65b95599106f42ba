//! The users: each asks at its times, waits for a place, calls the upstream and settles.
//!
//! Invariant: an admitted call goes to the upstream at once. Lacks judgement: what happened is reported as events and weighed elsewhere.

use std::{sync::Arc, time::Duration};

use allotment::{Cost, Error, ErrorKind, Subject};
use serde::{Deserialize, Serialize};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::Instant,
};

use super::{
    answer::Answer,
    gate::{Gate, Pass},
    load::Call,
    options::Scenario,
    process::CallParent,
    upstream::{LiveUpstream, Request, Response},
};

/// Something that happened to a call.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Event {
    /// A user asked.
    Asked,
    /// The call came to its end.
    Ended(Ended),
}

/// A call that came to its end.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Ended {
    pub(crate) user: usize,
    /// Unscaled time since the start of the run.
    pub(crate) asked_after: Duration,
    pub(crate) outcome: Outcome,
}

/// How a call ended.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Outcome {
    Admitted(Admitted),
    /// No place within the user's patience.
    Denied,
    /// The store failed: a message without secrets.
    Failed(String),
}

/// An admitted call.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Admitted {
    /// By the store's clock, since the epoch.
    pub(crate) at_ms: u64,
    /// The same by this host's clock: real milliseconds since the start of the run, not before the decision.
    pub(crate) seen_after_ms: u64,
    /// From asking to the admission, in real time.
    pub(crate) waited: Duration,
    /// What the call truly took, or would have taken if the upstream had not refused it.
    pub(crate) images: u64,
    pub(crate) tokens: u64,
    pub(crate) refused: bool,
    /// Why it could not be settled, without secrets: it keeps the charge of its estimate.
    pub(crate) unsettled: Option<String>,
}

/// The way to the one upstream of a run.
#[derive(Clone)]
pub(crate) enum Link {
    Here(Arc<LiveUpstream>),
    Parent(CallParent),
}

impl Link {
    /// `None` when the parent process has gone.
    async fn call(&self, request: Request) -> Option<Response> {
        match self {
            Self::Here(upstream) => Some(upstream.answer(&request)),
            Self::Parent(parent) => parent.call(request).await,
        }
    }
}

/// Some of a run's users, in one process.
#[derive(Clone)]
pub(crate) struct Fleet {
    pub(crate) scenario: Arc<Scenario>,
    pub(crate) gate: Gate,
    pub(crate) link: Link,
    pub(crate) events: mpsc::UnboundedSender<Event>,
    /// Becomes true when nobody shall ask any more.
    pub(crate) stop: watch::Receiver<bool>,
    /// When the run starts; may lie ahead.
    pub(crate) start: Instant,
}

impl Fleet {
    /// Runs these users until the end of the run, or until told to stop, and settles what they began.
    pub(crate) async fn run(self, users: impl IntoIterator<Item = usize>) {
        let mut tasks = JoinSet::new();
        for user in users {
            tasks.spawn(self.clone().run_user(user));
        }
        while tasks.join_next().await.is_some() {}
        self.gate.shutdown().await;
    }

    async fn run_user(self, user: usize) {
        let subject = Arc::new(self.scenario.load.subject(&self.scenario.org, user));
        let mut calls = JoinSet::new();
        for call in self.scenario.load.calls_of(user) {
            let mut stop = self.stop.clone();
            tokio::select! {
                () = tokio::time::sleep_until(self.start + self.scenario.real(call.asked_after)) => {}
                () = told(&mut stop) => break,
            }
            let _ = self.events.send(Event::Asked);
            calls.spawn(self.clone().run_call(user, Arc::clone(&subject), call));
            while calls.try_join_next().is_some() {}
        }
        while calls.join_next().await.is_some() {}
    }

    async fn run_call(mut self, user: usize, subject: Arc<Subject>, call: Call) {
        let asked = Instant::now();
        // Nobody waits beyond the end of the run.
        let end = self.start + self.scenario.real(self.scenario.load.duration);
        let max_wait = self.scenario.real(call.patience).min(end.saturating_duration_since(asked));
        let admission =
            self.gate.admit(&subject, &self.scenario.load.group(user).class, self.scenario.estimate(&call), max_wait);
        let admission = tokio::select! {
            admission = admission => admission,
            // Dropping the admission gives its place back.
            () = told(&mut self.stop) => return,
        };
        let outcome = match admission {
            Ok(pass) => self.serve(user, pass, &call, asked.elapsed()).await,
            Err(error) if error.kind() == ErrorKind::Denied => Outcome::Denied,
            Err(error) => Outcome::Failed(self.redacted(&error)),
        };
        let _ = self.events.send(Event::Ended(Ended { user, asked_after: call.asked_after, outcome }));
    }

    async fn serve(&self, user: usize, pass: Pass, call: &Call, waited: Duration) -> Outcome {
        let seen_after = self.start.elapsed();
        let at_ms = pass.at_ms();
        let request = Request { org: self.scenario.load.group(user).org, images: call.images, tokens: call.tokens };
        let Some(response) = self.link.call(request).await else {
            return Outcome::Failed("the parent process has gone".to_owned());
        };
        let mut admitted = Admitted {
            at_ms,
            seen_after_ms: u64::try_from(seen_after.as_millis()).unwrap_or(u64::MAX),
            waited,
            images: call.images,
            tokens: call.tokens,
            refused: false,
            unsettled: None,
        };
        match Answer::read(&response) {
            Answer::Served { images, tokens } => {
                tokio::time::sleep(self.scenario.real(call.drawn_after)).await;
                (admitted.images, admitted.tokens) = (images, tokens);
                if let Err(error) = pass.commit(Cost::images(images).tokens(tokens)).await {
                    admitted.unsettled = Some(self.redacted(&error));
                }
            }
            // The pass is dropped, which keeps its charge: a refused call may count upstream.
            Answer::Refused => admitted.refused = true,
            Answer::Broken => return Outcome::Failed(format!("the upstream answered {}", response.status)),
        }
        Outcome::Admitted(admitted)
    }

    fn redacted(&self, error: &Error) -> String {
        self.scenario.secrets().redact(&error.to_string())
    }
}

/// Returns once `stop` has become true.
pub(crate) async fn told(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}
