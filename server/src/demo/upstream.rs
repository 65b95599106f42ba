//! A simulated image API with limits a minute, on a clock of its own.
//!
//! Invariant: it shares no code with the limiter, so that its verdict is independent. Every call of a run comes here, whatever process
//! made it. It runs in unscaled time: its minute is the run's minute. Lacks a charge for refused calls: whether a 429 counts
//! against an image quota is not documented.

mod meter;

use std::time::{Duration, Instant};

use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use serde_json::json;

use self::meter::Meter;

/// The period of its limits.
pub(crate) const MINUTE: Duration = Duration::from_secs(60);

/// The name of the pool whose limits it enforces.
pub(crate) const MODEL: &str = "gpt-image-2";

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

/// What the API allows a minute and how it counts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terms {
    pub(crate) images: u64,
    pub(crate) tokens: u64,
    pub(crate) enforcement: Enforcement,
    /// Refuses with status 200 and an error in the body instead of 429.
    pub(crate) hidden_errors: bool,
}

/// One call for images.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Request {
    /// Which of the orgs calls.
    pub(crate) org: usize,
    pub(crate) images: u64,
    /// What the images will turn out to take.
    pub(crate) tokens: u64,
}

/// What the API answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Response {
    pub(crate) status: u16,
    /// JSON: images with their usage, or an error.
    pub(crate) body: String,
}

/// The simulated API.
pub(crate) struct Upstream {
    meters: Vec<Meter>,
    hidden_errors: bool,
    refused: u64,
}

impl Upstream {
    pub(crate) fn new(terms: &Terms) -> Self {
        let mut meters = Vec::new();
        for (label, kind, limit) in
            [("input-images per min", "input-images", terms.images), ("tokens per min (TPM)", "tokens", terms.tokens)]
        {
            meters.push(match terms.enforcement {
                Enforcement::Rolling => Meter::rolling(label, kind, limit),
                _ => Meter::refill(label, kind, limit),
            });
            meters.extend(terms.enforcement.quantum().map(|quantum| Meter::quantum(label, kind, limit, quantum)));
        }
        Self { meters, hidden_errors: terms.hidden_errors, refused: 0 }
    }

    /// Answers a call that arrives `at` this long after the start; times never go back. Charges all limits or none.
    pub(crate) fn answer(&mut self, at: Duration, request: &Request) -> Response {
        let amount_of = |meter: &Meter| if meter.kind() == "tokens" { request.tokens } else { request.images };
        for meter in &mut self.meters {
            let requested = amount_of(meter);
            if let Err(message) = meter.test(at, requested) {
                self.refused += 1;
                return refusal(meter.kind(), &message, self.hidden_errors);
            }
        }
        for meter in &mut self.meters {
            let requested = amount_of(meter);
            meter.charge(at, requested);
        }
        served(request)
    }

    /// How many calls it has refused.
    pub(crate) fn refused(&self) -> u64 {
        self.refused
    }
}

fn served(request: &Request) -> Response {
    let images: Vec<_> = (0..request.images).map(|_| json!({ "b64_json": "" })).collect();
    let usage = json!({ "input_tokens": 0, "output_tokens": request.tokens, "total_tokens": request.tokens });
    Response { status: 200, body: json!({ "created": 0, "data": images, "usage": usage }).to_string() }
}

fn refusal(kind: &str, message: &str, hidden: bool) -> Response {
    let error = json!({ "message": message, "type": kind, "param": null, "code": "rate_limit_exceeded" });
    Response { status: if hidden { 200 } else { 429 }, body: json!({ "error": error }).to_string() }
}

/// The API while a run lasts: it tells the time by its own clock.
pub(crate) struct LiveUpstream {
    /// One for each org.
    upstreams: parking_lot::Mutex<Vec<Upstream>>,
    started: Instant,
    speed: f64,
}

impl LiveUpstream {
    /// An API whose minutes pass `speed` times as fast, and that holds each of `orgs` orgs to the same terms.
    pub(crate) fn new(terms: &Terms, orgs: usize, speed: f64) -> Self {
        let upstreams = (0..orgs).map(|_| Upstream::new(terms)).collect();
        Self { upstreams: parking_lot::Mutex::new(upstreams), started: Instant::now(), speed }
    }

    /// Answers a call that arrives now.
    pub(crate) fn answer(&self, request: &Request) -> Response {
        let mut upstreams = self.upstreams.lock();
        // Read under the lock: the calls then arrive in the order of their times.
        let at = self.started.elapsed().mul_f64(self.speed);
        upstreams[request.org].answer(at, request)
    }

    /// How many calls it has refused.
    pub(crate) fn refused(&self) -> u64 {
        self.upstreams.lock().iter().map(Upstream::refused).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Request = Request { org: 0, images: 1, tokens: 100 };

    fn upstream(images: u64, enforcement: Enforcement) -> Upstream {
        Upstream::new(&Terms { images, tokens: 1_000_000, enforcement, hidden_errors: false })
    }

    fn served(upstream: &mut Upstream, at_ms: u64, calls: u64) -> u64 {
        let at = Duration::from_millis(at_ms);
        (0..calls).filter(|_| upstream.answer(at, &ONE).status == 200).count() as u64
    }

    #[test]
    fn refill_gives_back_continuously() {
        let mut upstream = upstream(250, Enforcement::Refill);
        assert_eq!(served(&mut upstream, 0, 300), 250);
        assert_eq!(served(&mut upstream, 239, 1), 0);
        assert_eq!(served(&mut upstream, 240, 2), 1);
        assert_eq!(served(&mut upstream, 30_240, 300), 125);
        assert_eq!(upstream.refused(), 50 + 1 + 1 + 175);
    }

    #[test]
    fn rolling_gives_back_what_is_a_minute_old() {
        let mut upstream = upstream(10, Enforcement::Rolling);
        assert_eq!(served(&mut upstream, 0, 4), 4);
        assert_eq!(served(&mut upstream, 1_000, 10), 6);
        assert_eq!(served(&mut upstream, 59_999, 1), 0);
        assert_eq!(served(&mut upstream, 60_000, 10), 4);
        assert_eq!(served(&mut upstream, 61_000, 10), 6);
    }

    #[test]
    fn quantised_limits_hold_in_the_short_period_and_in_the_minute() {
        let mut second = upstream(250, Enforcement::OneSecond);
        assert_eq!(served(&mut second, 0, 10), 5, "250 a minute are 4.2 a second, rounded up");
        assert_eq!(served(&mut second, 199, 1), 0);
        assert_eq!(served(&mut second, 200, 1), 1);

        let mut ten = upstream(6, Enforcement::TenSeconds);
        let calls: u64 = (0..60).map(|second| served(&mut ten, second * 1_000, 1)).sum();
        assert_eq!(calls, 6, "6 a minute are 1 in 10 s");

        let mut minute = upstream(250, Enforcement::OneSecond);
        let calls: u64 = (0..600).map(|second| served(&mut minute, second * 1_000, 9)).sum();
        assert!((2_500..=2_750).contains(&calls), "5 each second would be 3,000; the minute allows {calls}");
    }

    #[test]
    fn a_call_larger_than_a_quantums_share_takes_that_share() {
        let mut upstream = upstream(6, Enforcement::TenSeconds);
        let four = Request { org: 0, images: 4, tokens: 1 };
        assert_eq!(upstream.answer(Duration::ZERO, &four).status, 200);
        assert_eq!(upstream.answer(Duration::from_secs(9), &ONE).status, 429);
        assert_eq!(upstream.answer(Duration::from_secs(10), &ONE).status, 200);
    }

    #[test]
    fn a_refusal_charges_no_limit() {
        let terms = Terms { images: 10, tokens: 100, enforcement: Enforcement::Refill, hidden_errors: false };
        let mut upstream = Upstream::new(&terms);
        let response = upstream.answer(Duration::ZERO, &Request { org: 0, images: 10, tokens: 101 });
        assert_eq!(response.status, 429, "the tokens do not fit");
        let response = upstream.answer(Duration::ZERO, &Request { org: 0, images: 10, tokens: 100 });
        assert_eq!(response.status, 200, "the images of the refused call were not charged");
    }

    #[test]
    fn a_refusal_is_worded_as_the_real_one() {
        let mut upstream = upstream(4_000, Enforcement::Refill);
        assert_eq!(served(&mut upstream, 0, 4_000), 4_000);
        let response = upstream.answer(Duration::ZERO, &ONE);
        assert_eq!(response.status, 429);
        let body: serde_json::Value = serde_json::from_str(&response.body).unwrap();
        assert_eq!(body["error"]["code"], "rate_limit_exceeded");
        assert_eq!(body["error"]["type"], "input-images");
        let message = body["error"]["message"].as_str().unwrap();
        assert!(message.contains("on input-images per min: Limit 4000, Used 4000, Requested 1."), "{message}");
        assert!(message.contains("Please try again in 15ms."), "{message}");
    }

    #[test]
    fn hidden_errors_are_refusals_with_status_200() {
        let terms = Terms { images: 0, tokens: 9, enforcement: Enforcement::Refill, hidden_errors: true };
        let response = Upstream::new(&terms).answer(Duration::ZERO, &ONE);
        assert_eq!(response.status, 200);
        assert!(response.body.contains("rate_limit_exceeded"));
    }
}
