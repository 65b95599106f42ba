//! What stands between a user and the upstream: image clients on one limiter, one for each org.
//!
//! Invariant: with `--unlimited` the same clients are on a limiter whose policy holds no call, so that nothing else differs.

use std::time::{Duration, SystemTime};

use allotment::{
    Cost, Error, Limiter, Subject,
    openai::{ImageClient, ImageError, ImageRequest, Images, RetryPolicy, Route},
};
use anyhow::Result;

use super::{options::Scenario, upstream::Address};
use crate::unlimited;

/// Far more than a connection takes within a host, however busy that is.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(60);

/// Makes calls, each as soon as it is admitted.
#[derive(Clone)]
pub(crate) struct Gate {
    limiter: Limiter,
    /// By org: each has a key of its own.
    clients: Vec<ImageClient>,
}

/// A call as the gate takes it.
pub(crate) struct Wanted<'a> {
    pub(crate) subject: &'a Subject,
    /// Which of the orgs calls.
    pub(crate) org: usize,
    pub(crate) class: &'a str,
    pub(crate) request: ImageRequest,
    /// The cost that is asked for instead of the client's estimate.
    pub(crate) expected: Option<Cost>,
    /// How long it waits for a place.
    pub(crate) max_wait: Duration,
}

impl Gate {
    /// A gate with connections of its own. No I/O before [`ready`](Self::ready).
    pub(crate) fn new(scenario: &Scenario, upstream: &Address) -> Result<Self> {
        let builder = Limiter::builder();
        let builder = match &scenario.redis {
            _ if scenario.unlimited => builder.in_memory().policy(unlimited::policy()),
            Some(url) => builder.redis(url.as_str()).policy(scenario.policy.clone()),
            None => builder.in_memory().policy(scenario.policy.clone()),
        };
        let limiter = builder.build()?;
        let client = |key: &String| {
            let route = Route::compatible("demo", upstream.base_url.as_str(), key.as_str());
            // A refusal shall show as one, and a host that is slow to connect is not an API that is gone.
            let client = ImageClient::builder().limiter(limiter.clone()).route(route).retry(RetryPolicy::none());
            client.connect_timeout(CONNECT_TIMEOUT).build()
        };
        let clients = upstream.keys.iter().map(client).collect::<Result<_, ImageError>>()?;
        Ok(Self { limiter, clients })
    }

    /// Checks that the store answers.
    pub(crate) async fn ready(&self) -> Result<(), Error> {
        self.limiter.ready().await
    }

    /// Waits for a place in the line of its class, calls the upstream, and settles.
    pub(crate) async fn call(&self, wanted: Wanted<'_>) -> Result<Images, ImageError> {
        let Wanted { subject, org, class, request, expected, max_wait } = wanted;
        let call = self.clients[org].call(subject, request).priority(class).max_wait(max_wait);
        match expected {
            Some(expected) => call.expected(expected).await,
            None => call.await,
        }
    }

    /// Delivers what has not been settled yet.
    pub(crate) async fn shutdown(&self) {
        self.limiter.shutdown().await;
    }
}

/// This host's clock, in milliseconds since the epoch.
pub(crate) fn epoch_ms() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
