//! The users: each asks at its times, and calls the upstream through the gate.
//!
//! Lacks judgement: what happened is reported as events and weighed elsewhere.

use std::{sync::Arc, time::Duration};

use allotment::{
    ErrorKind, Subject,
    openai::{ImageError, ImageErrorKind, Images, RefusalKind},
};
use serde::{Deserialize, Serialize};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::Instant,
};

use super::{
    gate::{Gate, Wanted},
    load::Call,
    options::Scenario,
};
use crate::output::in_full;

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
    /// What the call truly took. One that was refused took nothing; without limits, what it would have taken.
    pub(crate) images: u64,
    pub(crate) tokens: u64,
    pub(crate) refused: bool,
}

/// Some of a run's users, in one process.
#[derive(Clone)]
pub(crate) struct Fleet {
    pub(crate) scenario: Arc<Scenario>,
    pub(crate) gate: Gate,
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
        let scenario = Arc::clone(&self.scenario);
        let group = scenario.load.group(user);
        // Nobody waits beyond the end of the run.
        let end = self.start + scenario.real(scenario.load.duration);
        let wanted = Wanted {
            subject: &subject,
            org: group.org,
            class: &group.class,
            request: call.request(),
            expected: scenario.estimate(&call),
            max_wait: scenario.real(call.patience).min(end.saturating_duration_since(asked)),
        };
        let answer = tokio::select! {
            answer = self.gate.call(wanted) => answer,
            // Dropping the call gives its place back; what has been sent stays charged.
            () = told(&mut self.stop) => return,
        };
        let outcome = match answer {
            Ok(images) => self.served(&images),
            Err(error) => self.unserved(&error, &call, asked),
        };
        let _ = self.events.send(Event::Ended(Ended { user, asked_after: call.asked_after, outcome }));
    }

    fn served(&self, Images { images, usage, served, .. }: &Images) -> Outcome {
        Outcome::Admitted(Admitted {
            at_ms: served.admitted_at_ms,
            seen_after_ms: millis(self.start.elapsed().saturating_sub(served.latency)),
            waited: served.waited,
            images: images.len() as u64,
            tokens: usage.map_or(served.charged_tokens, |usage| usage.total_tokens),
            refused: false,
        })
    }

    fn unserved(&self, error: &ImageError, call: &Call, asked: Instant) -> Outcome {
        let is_denied = error.limiter().is_some_and(|error| error.kind() == ErrorKind::Denied);
        let of_limit = |kind| matches!(kind, RefusalKind::RateLimited | RefusalKind::TooLarge);
        let is_refused = error.refusal().is_some_and(|refusal| of_limit(refusal.kind));
        match error.admitted_at_ms() {
            _ if error.kind() == ImageErrorKind::NotAdmitted && is_denied => Outcome::Denied,
            Some(at_ms) if is_refused => {
                let (images, tokens) = if self.scenario.unlimited { (call.images, call.tokens()) } else { (0, 0) };
                let seen_after_ms = millis(self.start.elapsed());
                // The answer came at once: nearly all of that was waiting.
                let waited = if self.scenario.unlimited { Duration::ZERO } else { asked.elapsed() };
                Outcome::Admitted(Admitted { at_ms, seen_after_ms, waited, images, tokens, refused: true })
            }
            _ => Outcome::Failed(self.scenario.secrets().redact(&in_full(error))),
        }
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Returns once `stop` has become true.
pub(crate) async fn told(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}
