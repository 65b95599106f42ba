//! The slots that are played for, and the asking for them.

use std::time::Duration;

use allotment::{Cost, Error, Lease, Limit, LimitStatus, Limiter, Outcome, Permit, Policy, Reason, Resource, Subject};
use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;

use crate::redact::Secrets;

/// Long enough for a busy host: a decision that fails tells nothing about slots.
const DEADLINE: Duration = Duration::from_secs(10);

/// What every process of a play is told.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Terms {
    pub(super) redis: String,
    pub(super) org: String,
    /// Calls that may be under way at once.
    pub(super) slots: u64,
    pub(super) lease: Duration,
}

/// One process's way to the slots.
pub(super) struct Slots {
    limiter: Limiter,
    subject: Subject,
}

/// What came of calls that were asked for at the same time.
#[derive(Default)]
pub(super) struct Answers {
    pub(super) permits: Vec<Permit>,
    /// The most leases that were live at once, by the store's account.
    pub(super) most_live: u64,
}

impl Terms {
    /// A connection of its own. No I/O before the first call.
    pub(super) fn slots(&self) -> Result<Slots, Error> {
        let policy = Policy::new().limit(Limit::new("calls").in_flight(self.slots));
        let builder = Limiter::builder().redis(self.redis.as_str()).policy(policy);
        let limiter = builder.lease(self.lease).deadline(DEADLINE).build()?;
        Ok(Slots { limiter, subject: Subject::org(self.org.as_str()) })
    }

    /// What must not be printed.
    pub(super) fn secrets(&self) -> Secrets {
        Secrets::in_arguments([&self.redis])
    }
}

impl Slots {
    /// Checks that the store answers.
    pub(super) async fn ready(&self) -> Result<(), Error> {
        self.limiter.ready().await
    }

    /// Asks for so many calls at the same time and takes what is given. Does not wait for a slot.
    pub(super) async fn ask(&self, calls: usize) -> Result<Answers> {
        let mut asked = JoinSet::new();
        for _ in 0..calls {
            let (limiter, subject) = (self.limiter.clone(), self.subject.clone());
            asked.spawn(async move { limiter.try_acquire(&subject, Cost::new()).await });
        }
        let mut answers = Answers::default();
        while let Some(outcome) = asked.join_next().await {
            let live = match outcome?? {
                Outcome::Admitted(permit) => {
                    let live = in_flight(permit.limits());
                    answers.permits.push(permit);
                    live
                }
                Outcome::Denied(denial) => {
                    ensure!(
                        denial.reason == Reason::InFlight,
                        "a call was denied, and not for want of a slot: {denial}"
                    );
                    in_flight(&denial.limits)
                }
            };
            answers.most_live = answers.most_live.max(live.context("an answer without the calls under way")?);
        }
        Ok(answers)
    }

    /// Frees the slots that were let go.
    pub(super) async fn shutdown(&self) {
        self.limiter.shutdown().await;
    }
}

fn in_flight(limits: &[LimitStatus]) -> Option<u64> {
    limits.iter().find(|status| status.resource == Resource::InFlight).map(|status| status.used)
}

/// How many of these calls have their slots still, as far as this process can know.
pub(super) fn live(permits: &[Permit]) -> u64 {
    permits.iter().filter_map(Permit::lease).filter(|lease| lease.is_live()).count() as u64
}

pub(super) fn tokens(permits: &[Permit]) -> Vec<u64> {
    permits.iter().filter_map(Permit::lease).map(Lease::token).collect()
}
