//! Callers who go on whatever happens, and what they were told.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use allotment::{Cost, Decision, Limit, Limiter, LimiterBuilder, Outcome, Policy, Subject};
use tokio::task::JoinSet;

/// Longer than any scenario, so that nothing leaves a window that is counted at the end.
pub(crate) const WINDOW: Duration = Duration::from_secs(3_600);

/// Limits of an org and its users that count by the hour.
pub(crate) fn policy(requests: u64) -> Policy {
    let limit = |limit: Limit| limit.requests(requests).window(WINDOW);
    Policy::new().limit(limit(Limit::new("org"))).limit(limit(Limit::new("user").scope(["user"])))
}

/// A limiter without a limit that anybody reaches.
pub(crate) fn boundless(url: &str) -> LimiterBuilder {
    Limiter::builder().redis(url).policy(policy(1 << 40))
}

/// What the window of an org holds, asked past every fault.
pub(crate) async fn held(url: &str, org: &str) -> u64 {
    let limiter = boundless(url).deadline(Duration::from_secs(20)).build().unwrap();
    match limiter.peek(&Subject::org(org), Cost::new().requests(0)).await.unwrap() {
        Decision::Allowed(limits) => limits[0].used,
        Decision::Denied(denial) => panic!("nothing was asked: {denial}"),
    }
}

/// Who calls, on what.
pub(crate) struct Load {
    /// Callers are spread over these, as over processes.
    pub(crate) limiters: Vec<Limiter>,
    /// And over these.
    pub(crate) orgs: Vec<String>,
    pub(crate) callers: usize,
    /// Between the calls of one caller.
    pub(crate) pace: Duration,
    /// Each caller ends after so many; `None`: when it is stopped.
    pub(crate) calls_each: Option<u64>,
}

/// What callers were told.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) admitted: BTreeMap<String, u64>,
    pub(crate) denied: u64,
    /// By what was said.
    pub(crate) failed: BTreeMap<String, u64>,
    /// When each admission was known, and how long it took.
    pub(crate) answers: Vec<(Instant, Duration)>,
    pub(crate) slowest: Duration,
}

impl Tally {
    pub(crate) fn calls(&self) -> u64 {
        self.all_admitted() + self.denied + self.failures()
    }

    pub(crate) fn all_admitted(&self) -> u64 {
        self.admitted.values().sum()
    }

    pub(crate) fn failures(&self) -> u64 {
        self.failed.values().sum()
    }

    /// The longest time in which nobody was admitted.
    pub(crate) fn longest_gap(&self) -> Duration {
        let mut at: Vec<_> = self.answers.iter().map(|(at, _)| *at).collect();
        at.sort();
        at.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
    }

    /// From then until the next admission; `None` if there was none.
    pub(crate) fn admitted_again_after(&self, instant: Instant) -> Option<Duration> {
        self.answers.iter().filter(|(at, _)| *at > instant).map(|(at, _)| *at - instant).min()
    }

    /// The time that this share of the admissions took at most.
    pub(crate) fn quantile(&self, share: f64) -> Duration {
        let mut took: Vec<_> = self.answers.iter().map(|(_, took)| *took).collect();
        took.sort();
        let place = (took.len() as f64 * share) as usize;
        took.get(place.min(took.len().saturating_sub(1))).copied().unwrap_or_default()
    }

    fn add(&mut self, other: Self) {
        for (org, admitted) in other.admitted {
            *self.admitted.entry(org).or_default() += admitted;
        }
        for (said, count) in other.failed {
            *self.failed.entry(said).or_default() += count;
        }
        self.denied += other.denied;
        self.answers.extend(other.answers);
        self.slowest = self.slowest.max(other.slowest);
    }
}

/// Callers who are calling.
pub(crate) struct Running {
    callers: JoinSet<Tally>,
    stop: Arc<AtomicBool>,
}

impl Load {
    pub(crate) fn start(self) -> Running {
        let (stop, mut callers) = (Arc::new(AtomicBool::new(false)), JoinSet::new());
        for caller in 0..self.callers {
            let limiter = self.limiters[caller % self.limiters.len()].clone();
            let org = self.orgs[caller % self.orgs.len()].clone();
            let (stop, pace, calls) = (Arc::clone(&stop), self.pace, self.calls_each.unwrap_or(u64::MAX));
            callers.spawn(async move { call(limiter, org, caller, stop, pace, calls).await });
        }
        Running { callers, stop }
    }

    /// Calls until each caller has made its calls.
    pub(crate) async fn finish(self) -> Tally {
        self.start().join().await
    }
}

impl Running {
    pub(crate) async fn stop(self) -> Tally {
        self.stop.store(true, Ordering::SeqCst);
        self.join().await
    }

    async fn join(self) -> Tally {
        let mut tally = Tally::default();
        for of_one in self.callers.join_all().await {
            tally.add(of_one);
        }
        tally
    }
}

async fn call(
    limiter: Limiter,
    org: String,
    caller: usize,
    stop: Arc<AtomicBool>,
    pace: Duration,
    calls: u64,
) -> Tally {
    let mut tally = Tally::default();
    let subject = Subject::org(org.as_str()).user(format!("user-{}", caller % 7));
    for _ in 0..calls {
        if stop.load(Ordering::SeqCst) {
            break;
        }
        let asked = Instant::now();
        let outcome = limiter.try_acquire(&subject, Cost::new()).await;
        let took = asked.elapsed();
        tally.slowest = tally.slowest.max(took);
        match outcome {
            Ok(Outcome::Admitted(permit)) => {
                drop(permit);
                *tally.admitted.entry(org.clone()).or_default() += 1;
                tally.answers.push((Instant::now(), took));
            }
            Ok(Outcome::Denied(_)) => tally.denied += 1,
            Err(error) => *tally.failed.entry(format!("{:?}: {error}", error.kind())).or_default() += 1,
        }
        if !pace.is_zero() {
            // the load itself
            tokio::time::sleep(pace).await;
        }
    }
    tally
}
