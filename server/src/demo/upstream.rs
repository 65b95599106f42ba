//! The simulated image API of a run: on real sockets of this machine, with limits a minute and a clock of its own.
//!
//! Invariant: it is `allotment-upstream`, which shares no code with the limiter, so that its verdict is independent. Every call of a run
//! comes here, whatever process made it. It runs in unscaled time: its minute is the run's minute.

use std::time::Duration;

use allotment_upstream::{
    Arrivals, Enforcement as Counting, ErrorShape, Org, Pictures, RateHeaders, Stranger, Upstream,
};
use anyhow::{Context, Result};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// The period of its limits.
pub(crate) const MINUTE: Duration = Duration::from_secs(60);

/// The model that is asked.
pub(crate) const MODEL: &str = "gpt-image-2";
/// The pool that it counts against, which is the `model` of all subjects.
pub(crate) const POOL: &str = "gpt-image";

/// How the simulated API counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
pub(crate) enum Enforcement {
    /// What is used drains continuously, as the published error messages show.
    Refill,
    /// Any 60 s hold at most the limit.
    Rolling,
    /// The minute's limits, and their share of each second.
    #[value(name = "1s")]
    OneSecond,
    /// The minute's limits, and their share of each 10 s.
    #[value(name = "10s")]
    TenSeconds,
}

impl Enforcement {
    /// The shorter period over which it applies its limits too.
    pub(crate) fn quantum(self) -> Option<Duration> {
        match self {
            Self::Refill | Self::Rolling => None,
            Self::OneSecond => Some(Duration::from_secs(1)),
            Self::TenSeconds => Some(Duration::from_secs(10)),
        }
    }
}

/// When the simulated API tells of its limits in headers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Headers {
    /// With every answer.
    #[default]
    Always,
    /// With those that refuse.
    Refusals,
    /// Never.
    Never,
}

/// What the API allows a minute, how it counts, and how it answers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terms {
    pub(crate) images: u64,
    pub(crate) tokens: u64,
    pub(crate) enforcement: Enforcement,
    /// Refuses with status 200 and an error in the body instead of 429.
    pub(crate) hidden_errors: bool,
    pub(crate) headers: Headers,
    /// The share of the pool that somebody else asks for.
    pub(crate) stranger: f64,
}

/// Where the API is, and the key of each org.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Address {
    pub(crate) base_url: String,
    pub(crate) keys: Vec<String>,
}

/// The API while a run lasts.
pub(crate) struct LiveUpstream {
    upstream: Upstream,
    keys: Vec<String>,
}

impl Terms {
    /// Starts an API whose minutes pass `speed` times as fast, and that holds each of `orgs` orgs to these terms.
    pub(crate) async fn start(&self, orgs: usize, speed: f64) -> Result<LiveUpstream> {
        let keys: Vec<String> = (0..orgs).map(|_| format!("sk-demo-{:016x}", rand::random::<u64>())).collect();
        let counting = if self.enforcement == Enforcement::Rolling { Counting::Rolling } else { Counting::Refill };
        let terms = allotment_upstream::Terms::new().images(self.images).tokens(self.tokens).speed(speed);
        // Nobody looks at the pictures.
        let terms = terms.enforcement(counting).pictures(Pictures::Thumbnail).headers(match self.headers {
            Headers::Always => RateHeaders::Always,
            Headers::Refusals => RateHeaders::OnRefusalOnly,
            Headers::Never => RateHeaders::Never,
        });
        let terms = match self.enforcement.quantum() {
            Some(quantum) => terms.quantum(quantum),
            None => terms,
        };
        let terms = if self.hidden_errors { terms.refusal(ErrorShape::HiddenJson) } else { terms };
        let terms = terms.stranger(Stranger::new(self.stranger).arrivals(Arrivals::Poisson(1)));
        let org = |terms: allotment_upstream::Terms, (number, key): (usize, &String)| {
            terms.org(Org::new(format!("org-demo-{}", number + 1)).key(key))
        };
        let terms = keys.iter().enumerate().fold(terms, org);
        let upstream = Upstream::start(terms).await.context("starting the simulated API")?;
        Ok(LiveUpstream { upstream, keys })
    }
}

impl LiveUpstream {
    /// Where callers find it.
    pub(crate) fn address(&self) -> Address {
        Address { base_url: self.upstream.base_url(), keys: self.keys.clone() }
    }

    /// How many calls it has refused.
    pub(crate) fn refused(&self) -> u64 {
        self.upstream.tally().refusals()
    }
}
