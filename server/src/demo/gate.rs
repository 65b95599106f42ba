//! What stands between a user and the upstream: a limiter, or nothing with `--unlimited`.

use std::time::{Duration, SystemTime};

use allotment::{Cost, Error, Limiter, Permit, Subject};

use super::options::Scenario;

/// Admits calls, or lets all of them through.
#[derive(Clone)]
pub(crate) enum Gate {
    Limited(Limiter),
    Open,
}

/// An admitted call.
pub(crate) enum Pass {
    Permit(Box<Permit>),
    Open { at_ms: u64 },
}

impl Gate {
    /// A gate with a connection of its own. No I/O before [`ready`](Self::ready).
    pub(crate) fn new(scenario: &Scenario) -> Result<Self, Error> {
        if scenario.unlimited {
            return Ok(Self::Open);
        }
        let builder = Limiter::builder().policy(scenario.policy.clone());
        let builder = match &scenario.redis {
            Some(url) => builder.redis(url.as_str()),
            None => builder.in_memory(),
        };
        builder.build().map(Self::Limited)
    }

    /// Checks that the store answers.
    pub(crate) async fn ready(&self) -> Result<(), Error> {
        match self {
            Self::Limited(limiter) => limiter.ready().await,
            Self::Open => Ok(()),
        }
    }

    /// Waits for a place for at most `max_wait`, in the line of a priority class. A denial is an error.
    pub(crate) async fn admit(
        &self,
        subject: &Subject,
        class: &str,
        estimate: Cost,
        max_wait: Duration,
    ) -> Result<Pass, Error> {
        match self {
            Self::Limited(limiter) => limiter
                .priority(class)
                .acquire(subject, estimate)
                .max_wait(max_wait)
                .await
                .map(|permit| Pass::Permit(Box::new(permit))),
            Self::Open => Ok(Pass::Open { at_ms: epoch_ms() }),
        }
    }

    /// Delivers what has not been settled yet.
    pub(crate) async fn shutdown(&self) {
        if let Self::Limited(limiter) = self {
            limiter.shutdown().await;
        }
    }
}

impl Pass {
    /// When the call was admitted, by the store's clock, in milliseconds since the epoch.
    pub(crate) fn at_ms(&self) -> u64 {
        match self {
            Self::Permit(permit) => permit.at_ms(),
            Self::Open { at_ms } => *at_ms,
        }
    }

    /// Settles the call with what it truly took.
    pub(crate) async fn commit(self, actual: Cost) -> Result<(), Error> {
        match self {
            Self::Permit(permit) => permit.commit(actual).await,
            Self::Open { .. } => Ok(()),
        }
    }
}

/// This host's clock, in milliseconds since the epoch.
pub(crate) fn epoch_ms() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
