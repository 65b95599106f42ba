//! A fleet of image clients against a simulated upstream: nothing is refused where it has the pool to itself, and little where it has not.
//!
//! Real processes, sockets, Redis and time. A process of a fleet is this test binary, started again for [`a_process_of_an_image_fleet`]
//! alone. What was refused and drawn is counted by the upstream, which shares neither code nor clock with the library.

use std::{
    process::{Child, Command},
    time::Duration,
};

use allotment::{
    Limit, Limiter, Policy, Subject,
    openai::{ImageClient, ImageRequest, Quality, RetryPolicy, Route, Size},
};
use allotment_upstream::{Arrivals, Enforcement, Latency, Pictures, RateHeaders, Stranger, Tally, Terms, Upstream};
use tokio::{task::JoinSet, time::Instant};

use crate::support::{random_org, shared};

const PROCESSES: usize = 3;
const WORKERS: usize = 8;
const IMAGES: u64 = 250;
const TOKENS: u64 = 8_000_000;
const MINUTE: Duration = Duration::from_secs(60);
/// How long a fleet calls.
const RUN: Duration = Duration::from_secs(300);
/// Tells a test process that it is one of a fleet: how long a minute and the run last in ms, the org, the URLs of Redis and of the upstream, and its key.
const ROLE: &str = "ALLOTMENT_TEST_IMAGE_FLEET";

/// What docs/images.md recommends.
fn policy(minute: Duration) -> Policy {
    let pool = Limit::new("pool").scope(["org", "model"]).images(IMAGES).tokens(TOKENS);
    Policy::new().limit(pool.window(minute).margin(0.02).smooth(Duration::from_secs(1)))
}

/// Plays one process of a fleet where [`ROLE`] says so; in the test process itself there is nothing to play.
#[tokio::test(flavor = "multi_thread")]
async fn a_process_of_an_image_fleet() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let fields: Vec<_> = role.split('|').collect();
    let [minute_ms, run_ms, org, redis, upstream, key] = fields[..] else { panic!("{role}") };
    let millis = |text: &str| Duration::from_millis(text.parse().unwrap());
    let (minute, ends) = (millis(minute_ms), Instant::now() + millis(run_ms));
    let limiter =
        Limiter::builder().redis(redis).policy(policy(minute)).deadline(Duration::from_secs(10)).build().unwrap();
    let client = ImageClient::builder()
        .limiter(limiter.clone())
        .model("gpt-image-2")
        .route(Route::compatible("direct", upstream, key))
        .retry(RetryPolicy::none())
        .upstream_minute(minute)
        .max_wait(minute * 2)
        .build()
        .unwrap();
    let mut workers = JoinSet::new();
    for worker in 0..WORKERS {
        let (client, subject) = (client.clone(), Subject::org(org).user(format!("worker-{worker}")));
        workers.spawn(async move {
            let lighthouse = ImageRequest::generate("a lighthouse").size(Size::SQUARE).quality(Quality::Low);
            while Instant::now() < ends {
                // what was refused is counted by upstream
                let drawing = client.run(&subject, lighthouse.clone());
                let _ = tokio::time::timeout_at(ends, drawing).await;
            }
        });
    }
    workers.join_all().await;
    limiter.shutdown().await;
}

/// One fleet and its upstream.
struct Fleet {
    upstream: Upstream,
    processes: Vec<Child>,
}

impl Fleet {
    async fn start(setting: &Setting, redis: &str) -> Self {
        let (minute, org) = (MINUTE / setting.speed(), random_org());
        let latency = Latency::fixed(MINUTE / 60).up_to(MINUTE / 15);
        let terms = setting
            .terms()
            .images(IMAGES)
            .tokens(TOKENS)
            .pictures(Pictures::Thumbnail)
            .latency(latency)
            .speed(setting.speed().into());
        let upstream = Upstream::start(terms).await.unwrap();
        let role = format!(
            "{}|{}|{org}|{redis}|{}|{}",
            minute.as_millis(),
            RUN.as_millis(),
            upstream.base_url(),
            upstream.key()
        );
        let start = |_| {
            Command::new(std::env::current_exe().unwrap())
                .args(["image_fleet::a_process_of_an_image_fleet", "--exact", "--nocapture"])
                .env(ROLE, &role)
                .stdout(std::process::Stdio::null())
                .spawn()
                .unwrap()
        };
        Self { upstream, processes: (0..PROCESSES).map(start).collect() }
    }

    /// What upstream has seen, and which part of its quota was used from the second minute on.
    async fn end(mut self, minutes: u32) -> (Tally, f64) {
        for process in &mut self.processes {
            let status = tokio::task::block_in_place(|| process.wait()).unwrap();
            assert!(status.success(), "a process of the fleet failed");
        }
        let calls = self.upstream.calls();
        let Some(began) = calls.first().map(|call| call.at) else { panic!("nobody has called") };
        let counted = began + MINUTE..began + MINUTE * minutes;
        let drawn = calls.iter().filter(|call| call.status == Some(200) && counted.contains(&call.at)).count();
        let tally = self.upstream.tally();
        (tally, drawn as f64 / (IMAGES * u64::from(minutes - 1)) as f64)
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        for process in &mut self.processes {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

/// How upstream counts, whether a stranger calls too, and what is told on success.
#[derive(Clone, Copy, Debug)]
struct Setting {
    enforcement: Enforcement,
    stranger: Option<Arrivals>,
    headers: RateHeaders,
}

impl Setting {
    fn terms(&self) -> Terms {
        let terms = Terms::new().enforcement(self.enforcement).headers(self.headers);
        match self.stranger {
            Some(arrivals) => terms.stranger(Stranger::new(0.3).arrivals(arrivals)),
            None => terms,
        }
    }

    /// How many times as fast upstream's time runs. Alone it is the true one; beside a stranger ten minutes are played, as a bucket that
    /// refills takes three and a half to fill.
    fn speed(&self) -> u32 {
        if self.stranger.is_some() { 2 } else { 1 }
    }

    fn minutes(&self) -> u32 {
        u32::try_from(RUN.as_secs() / MINUTE.as_secs()).unwrap() * self.speed()
    }

    /// Which part of the calls may be refused, and which of the quota must be used: a fleet that is held back altogether is not refused either.
    fn bounds(&self) -> (f64, f64) {
        match (self.stranger, self.headers) {
            (None, _) => (0.0, 0.97),
            (Some(_), RateHeaders::Always) => (0.01, 0.55),
            (Some(_), _) => (0.05, 0.55),
        }
    }
}

/// All fleets at once, each with an upstream and an org of its own. Says which did not hold.
async fn play(settings: &[Setting], redis: &str) -> Vec<Setting> {
    let mut fleets = Vec::new();
    for setting in settings {
        fleets.push((setting, Fleet::start(setting, redis).await));
    }
    let mut failed = Vec::new();
    for (setting, fleet) in fleets {
        let (tally, used) = fleet.end(setting.minutes()).await;
        let (refused_max, used_min) = setting.bounds();
        let (given, not_given) =
            tally.orgs.values().fold((0, 0), |sum, org| (sum.0 + org.stranger_admitted, sum.1 + org.stranger_refused));
        println!(
            "{setting:?}: {} of {} calls refused, {:.2} % (at most {:.0} %), {:.2} % of the quota used by the fleet, the stranger \
             was refused {not_given} of {}",
            tally.refusals(),
            tally.calls,
            tally.share_refused() * 100.0,
            refused_max * 100.0,
            used * 100.0,
            given + not_given
        );
        let is_starved = not_given as f64 > STARVED * (given + not_given) as f64;
        if tally.share_refused() > refused_max || used < used_min || is_starved {
            failed.push(*setting);
        }
    }
    failed
}

/// A stranger who is refused this part of its calls is not left its own.
const STARVED: f64 = 0.15;
/// How often a setting is played at most.
const PLAYS_MAX: u32 = 2;

/// On a host that is busy with other things calls reach upstream late: what did not hold is played again.
#[tokio::test(flavor = "multi_thread")]
async fn a_fleet_uses_its_quota_and_is_not_refused_and_leaves_a_stranger_its_part() {
    let redis = shared().await.url();
    let mut settings = Vec::new();
    for enforcement in [Enforcement::Refill, Enforcement::Rolling] {
        for (stranger, headers) in [
            (None, RateHeaders::Always),
            (Some(Arrivals::Even), RateHeaders::Always),
            (Some(Arrivals::Poisson(7)), RateHeaders::Always),
            (Some(Arrivals::Poisson(7)), RateHeaders::OnRefusalOnly),
        ] {
            settings.push(Setting { enforcement, stranger, headers });
        }
    }
    for _ in 0..PLAYS_MAX {
        settings = play(&settings, &redis).await;
        if settings.is_empty() {
            return;
        }
    }
    panic!("{settings:?}");
}
