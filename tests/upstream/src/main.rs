//! The simulated image API as a program of its own.

use std::time::Duration;

use allotment_upstream::{Arrivals, Enforcement, Latency, Org, Pictures, RateHeaders, Stranger, Terms, Upstream};
use clap::{Parser, ValueEnum};
use tokio::signal::unix::{SignalKind, signal};

/// Calls under way may end for so long after a signal.
const GRACE: Duration = Duration::from_secs(5);

/// A simulated image API with limits of its own.
#[derive(Debug, Parser)]
#[command(version)]
struct Options {
    /// The address it listens on
    #[arg(long, default_value = "127.0.0.1:8080")]
    listen: String,
    /// Images a minute for each org
    #[arg(long, default_value_t = 250)]
    images: u64,
    /// Tokens a minute for each org
    #[arg(long, default_value_t = 8_000_000)]
    tokens: u64,
    /// Requests a minute for each org; without limit if not given
    #[arg(long)]
    requests: Option<u64>,
    /// How it counts
    #[arg(long, value_enum, default_value_t = Enforce::Refill)]
    enforce: Enforce,
    /// The part of each limit that a stranger asks for, 0.3 for 30 %
    #[arg(long, default_value_t = 0.0)]
    stranger: f64,
    /// When answers have rate headers
    #[arg(long, value_enum, default_value_t = Headers::Always)]
    headers: Headers,
    /// A key and the org it belongs to; may be given more than once
    #[arg(long, value_name = "KEY=ORG", default_value = "sk-test=org-test", value_parser = key_of_org)]
    key: Vec<Org>,
    /// How long a drawing takes at most, in milliseconds of its own time
    #[arg(long, default_value_t = 0, value_name = "MS")]
    latency_ms: u64,
    /// Lets its time pass so many times as fast
    #[arg(long, default_value_t = 1.0)]
    speed: f64,
    /// Draws pictures of 16 x 16 pixels whatever is asked
    #[arg(long)]
    thumbnail: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Enforce {
    /// What is used drains continuously
    Refill,
    /// Any 60 s hold at most the limit
    Rolling,
    /// Each minute of the clock holds at most the limit
    FixedMinute,
    /// Refill, and the share of each second
    #[value(name = "1s")]
    OneSecond,
    /// Refill, and the share of each 10 s
    #[value(name = "10s")]
    TenSeconds,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Headers {
    /// Of every call that the limits judged
    Always,
    /// Of those that they refused
    OnRefusalOnly,
    /// Never
    Never,
    /// Always, with figures that tell nothing
    Sentinels,
}

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let options = Options::parse();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let upstream = Upstream::start(options.terms()).await?;
    println!("listening on {}", upstream.url());
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    let tally = upstream.tally();
    upstream.finish(GRACE).await;
    println!("served {} of {} calls, refused {}", tally.served, tally.calls, tally.refusals());
    Ok(())
}

impl Options {
    fn terms(&self) -> Terms {
        let terms = Terms::new().listen(&self.listen).images(self.images).tokens(self.tokens).speed(self.speed);
        let terms = match self.requests {
            Some(requests) => terms.requests(requests),
            None => terms,
        };
        let terms = match self.enforce {
            Enforce::Refill => terms,
            Enforce::Rolling => terms.enforcement(Enforcement::Rolling),
            Enforce::FixedMinute => terms.enforcement(Enforcement::FixedMinute),
            Enforce::OneSecond => terms.quantum(Duration::from_secs(1)),
            Enforce::TenSeconds => terms.quantum(Duration::from_secs(10)),
        };
        let terms = terms.headers(match self.headers {
            Headers::Always => RateHeaders::Always,
            Headers::OnRefusalOnly => RateHeaders::OnRefusalOnly,
            Headers::Never => RateHeaders::Never,
            Headers::Sentinels => RateHeaders::Sentinels,
        });
        let terms = terms.stranger(Stranger::new(self.stranger).arrivals(Arrivals::Poisson(1)));
        let terms = terms.latency(Latency::default().up_to(Duration::from_millis(self.latency_ms)));
        let terms = terms.pictures(if self.thumbnail { Pictures::Thumbnail } else { Pictures::Striped });
        self.key.iter().cloned().fold(terms, Terms::org)
    }
}

fn key_of_org(text: &str) -> Result<Org, String> {
    let (key, org) = text.split_once('=').ok_or("expected KEY=ORG")?;
    Ok(Org::new(org).key(key))
}
