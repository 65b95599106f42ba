//! Redis loses the data of an org: one process says so, once, and limits admit since what the policy of the fleet says.

mod lives;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use allotment::{
    Admin, Control, Cost, Decision, Denial, Limit, Limiter, Outcome, Permit, Policy, Reason, Retry, StateLoss, Subject,
};
use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};
use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use redis::aio::MultiplexedConnection;

use crate::support::{ClockedServer, Fault, Proxy, Server, raw};

const MINUTE_MS: u64 = 60_000;
const HEAD: &str = "allot:1:{acme}:h";

/// Counts the reports of losses of this thread, which is all of a test's runtime.
#[derive(Debug, Default)]
struct Reports(Arc<AtomicU64>);

impl Reports {
    fn count(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
}

impl Recorder for Reports {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        match key.name() {
            "allotment_state_losses_total" => Counter::from_arc(Arc::clone(&self.0)),
            _ => Counter::noop(),
        }
    }

    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::noop()
    }

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}

/// A server of the test's own, under its clock.
struct Scene {
    server: ClockedServer,
    conn: MultiplexedConnection,
    now_ms: u64,
}

impl Scene {
    async fn new() -> Self {
        let server = Server::with_clock().await;
        let conn = raw(&server).await;
        Self { server, conn, now_ms: ClockedServer::START_MS }
    }

    fn limiter(&self, policy: &Policy, state_loss: StateLoss) -> Limiter {
        limiter(&self.server.url(), policy, state_loss, Duration::from_secs(20))
    }

    fn advance_ms(&mut self, by: i64) {
        self.now_ms = self.now_ms.saturating_add_signed(by);
        self.server.set_ms(self.now_ms);
    }

    /// The org loses all it has, a millisecond after what was before.
    async fn lose(&mut self) {
        self.advance_ms(1);
        redis::cmd("FLUSHALL").exec_async(&mut self.conn).await.unwrap();
    }
}

fn limiter(url: &str, policy: &Policy, state_loss: StateLoss, deadline: Duration) -> Limiter {
    let builder = Limiter::builder().redis(url).policy(policy.clone()).deadline(deadline);
    builder.state_loss(state_loss).build().unwrap()
}

fn images(amount: u64) -> Policy {
    Policy::new().limit(Limit::new("org").images(amount))
}

fn acme() -> Subject {
    Subject::org("acme").user("alice")
}

async fn ask(limiter: &Limiter, images: u64) -> Result<Permit, Denial> {
    match limiter.try_acquire(&acme(), Cost::images(images)).await.unwrap() {
        Outcome::Admitted(permit) => Ok(permit),
        Outcome::Denied(denial) => Err(denial),
    }
}

async fn is_admitted(limiter: &Limiter, images: u64) -> bool {
    ask(limiter, images).await.is_ok()
}

#[tokio::test]
async fn each_loss_is_reported_once_by_a_fleet_that_knew_the_org() {
    let (mut scene, reports) = (Scene::new().await, Reports::default());
    let _guard = metrics::set_default_local_recorder(&reports);
    let policy = images(1_000);
    let fleet: Vec<_> = (0..4).map(|_| scene.limiter(&policy, StateLoss::Fresh)).collect();
    let all = async || {
        // all at once, and once more
        let (a, b, c, d) = tokio::join!(
            is_admitted(&fleet[0], 1),
            is_admitted(&fleet[1], 1),
            is_admitted(&fleet[2], 1),
            is_admitted(&fleet[3], 1)
        );
        let mut admitted = vec![a, b, c, d];
        for limiter in &fleet {
            admitted.push(is_admitted(limiter, 1).await);
        }
        assert_eq!(admitted, [true; 8]);
    };
    all().await;
    assert_eq!(reports.count(), 0);
    scene.lose().await;
    all().await;
    assert_eq!(reports.count(), 1);
    // the second loss comes before all have met the first
    scene.lose().await;
    assert!(is_admitted(&fleet[0], 1).await);
    assert_eq!(reports.count(), 2);
    scene.lose().await;
    all().await;
    assert_eq!(reports.count(), 3);
    // only the head is gone
    scene.advance_ms(1);
    redis::cmd("DEL").arg(HEAD).exec_async(&mut scene.conn).await.unwrap();
    all().await;
    assert_eq!(reports.count(), 4);
}

#[tokio::test]
async fn a_head_that_somebody_new_made_hides_no_loss() {
    let (mut scene, reports) = (Scene::new().await, Reports::default());
    let _guard = metrics::set_default_local_recorder(&reports);
    let policy = images(1_000);
    let (first, second) = (scene.limiter(&policy, StateLoss::Fresh), scene.limiter(&policy, StateLoss::Fresh));
    assert!(is_admitted(&first, 1).await && is_admitted(&second, 1).await);
    scene.lose().await;
    let newcomer = scene.limiter(&policy, StateLoss::Fresh);
    assert!(is_admitted(&newcomer, 1).await);
    assert_eq!(reports.count(), 0, "it knew of nothing that could be lost");
    for limiter in [&first, &second, &newcomer] {
        assert!(is_admitted(limiter, 1).await);
        assert_eq!(reports.count(), 1);
    }
}

#[tokio::test]
async fn a_loss_is_reported_by_who_noticed_it_though_its_answer_was_lost() {
    let (mut scene, reports) = (Scene::new().await, Reports::default());
    let _guard = metrics::set_default_local_recorder(&reports);
    let (policy, proxy) = (images(1_000), Proxy::start(scene.server.port()).await);
    let url = format!("redis://127.0.0.1:{}/", proxy.port());
    let behind = limiter(&url, &policy, StateLoss::Fresh, Duration::from_millis(300));
    let other = scene.limiter(&policy, StateLoss::Fresh);
    while behind.try_acquire(&acme(), Cost::images(1)).await.is_err() {}
    assert!(is_admitted(&other, 1).await);
    scene.lose().await;
    proxy.set(Fault::LoseReplies).await;
    behind.try_acquire(&acme(), Cost::images(1)).await.unwrap_err();
    assert!(proxy.lost_replies() > 0);
    assert!(is_admitted(&other, 1).await);
    assert_eq!(reports.count(), 0);
    proxy.set(Fault::Nothing).await;
    while behind.try_acquire(&acme(), Cost::images(1)).await.is_err() {}
    assert!(is_admitted(&other, 1).await);
    assert_eq!(reports.count(), 1);
}

#[tokio::test]
async fn an_org_that_was_only_idle_has_lost_nothing() {
    let (mut scene, reports) = (Scene::new().await, Reports::default());
    let _guard = metrics::set_default_local_recorder(&reports);
    let exists =
        async |scene: &mut Scene| redis::cmd("EXISTS").arg(HEAD).query_async::<bool>(&mut scene.conn).await.unwrap();
    let limiter = scene.limiter(&images(1_000), StateLoss::Closed);
    assert!(is_admitted(&limiter, 1).await);
    // its head expires, by Redis's clock
    scene.advance_ms(75_001);
    assert!(!exists(&mut scene).await);
    assert!(is_admitted(&limiter, 1).await);
    // a clock that stepped back is held, and falls back with a head that expires: the clock of the process tells
    scene.advance_ms(-600_000);
    assert!(is_admitted(&limiter, 1).await);
    scene.advance_ms(75_001);
    tokio::time::pause();
    tokio::time::advance(Duration::from_millis(75_000)).await;
    tokio::time::resume();
    assert!(!exists(&mut scene).await);
    assert!(is_admitted(&limiter, 1).await);
    assert_eq!(reports.count(), 0);
}

#[tokio::test]
async fn a_clock_that_steps_has_lost_nothing() {
    let (mut scene, reports) = (Scene::new().await, Reports::default());
    let _guard = metrics::set_default_local_recorder(&reports);
    let limiter = scene.limiter(&images(1_000), StateLoss::Closed);
    for step in [0, 30_000, -20_000, 600_000, -600_000, -3_600_000, 1_000] {
        scene.advance_ms(step);
        assert!(is_admitted(&limiter, 1).await, "{step}");
    }
    assert_eq!(reports.count(), 0);
}

#[tokio::test]
async fn fresh_admits_at_once() {
    let mut scene = Scene::new().await;
    let limiter = scene.limiter(&images(10), StateLoss::Fresh);
    assert!(is_admitted(&limiter, 10).await);
    assert!(!is_admitted(&limiter, 1).await);
    scene.lose().await;
    assert!(is_admitted(&limiter, 10).await);
    assert!(!is_admitted(&limiter, 1).await);
}

#[tokio::test]
async fn closed_admits_nothing_for_a_window_and_then_all() {
    let mut scene = Scene::new().await;
    let policy = images(10).limit(Limit::new("second").images(5).window(Duration::from_secs(1)));
    let knows = scene.limiter(&policy, StateLoss::Closed);
    assert!(is_admitted(&knows, 1).await);
    scene.lose().await;
    let new = scene.limiter(&policy, StateLoss::Closed);
    for (passed_ms, wait_ms) in [(0, MINUTE_MS), (999, 59_001), (2_000, 57_001), (57_000, 1)] {
        scene.advance_ms(passed_ms);
        for limiter in [&knows, &new] {
            let denial = ask(limiter, 1).await.unwrap_err();
            assert_eq!((&*denial.limit, denial.reason), ("org", Reason::StateLost));
            assert_eq!(denial.retry, Retry::After(Duration::from_millis(wait_ms)));
        }
    }
    scene.advance_ms(1);
    assert!(is_admitted(&new, 5).await);
    scene.advance_ms(1_000);
    assert!(is_admitted(&knows, 5).await);
    scene.advance_ms(1_000);
    assert_eq!(ask(&new, 1).await.unwrap_err().reason, Reason::Limit);
}

#[tokio::test]
async fn a_ramp_admits_no_more_than_has_grown() {
    const AMOUNT: u64 = 120;
    for seed in 0..4 {
        let (mut scene, mut random) = (Scene::new().await, StdRng::seed_from_u64(seed));
        let policy = images(AMOUNT);
        let knows = scene.limiter(&policy, StateLoss::Ramp);
        assert!(is_admitted(&knows, AMOUNT).await);
        scene.lose().await;
        let lost_at = scene.now_ms;
        assert!(!is_admitted(&knows, 1).await, "nothing has grown yet");
        // one that has never seen the org, and one that comes later
        let mut fleet = vec![knows, scene.limiter(&policy, StateLoss::Ramp)];
        let (mut admitted, mut denied) = (0, 0);
        while scene.now_ms < lost_at + MINUTE_MS {
            scene.advance_ms(random.random_range(0..900));
            if random.random_bool(0.05) {
                fleet.push(scene.limiter(&policy, StateLoss::Ramp));
            }
            let cost = random.random_range(1..4);
            let grown = AMOUNT * (scene.now_ms - lost_at).min(MINUTE_MS) / MINUTE_MS;
            match ask(fleet.choose(&mut random).unwrap(), cost).await {
                Ok(_) => admitted += cost,
                Err(denial) => {
                    denied += 1;
                    let reason = if admitted + cost > AMOUNT { Reason::Limit } else { Reason::StateLost };
                    assert_eq!(denial.reason, reason, "{denial}");
                    assert_eq!(denial.is_estimate(), scene.now_ms < lost_at + MINUTE_MS, "{denial}");
                    assert!(denial.retry_after().unwrap() <= Duration::from_secs(60));
                    assert!(admitted + cost > grown, "{cost} fits beside {admitted}: {grown} have grown");
                    assert_eq!(denial.limits[0].limit, grown);
                }
            }
            assert!(admitted <= grown, "seed {seed}: {admitted} of {grown}");
        }
        assert!(denied > 0 && admitted > AMOUNT * 9 / 10, "{admitted} admitted, {denied} denied");
    }
}

#[tokio::test]
async fn a_cost_that_must_grow_is_told_when_and_one_above_the_limit_never() {
    let mut scene = Scene::new().await;
    let policy = images(120).limit(Limit::new("day").images(900).window(Duration::from_secs(86_400)));
    let limiter = scene.limiter(&policy, StateLoss::Ramp);
    assert!(is_admitted(&limiter, 1).await);
    scene.lose().await;
    // 1 of 900 in 96 s, 1 of 120 in half a second
    let denial = ask(&limiter, 1).await.unwrap_err();
    assert_eq!((&*denial.limit, denial.retry), ("day", Retry::Estimate(Duration::from_secs(96))));
    assert!(denial.to_string().contains("has lost its data"), "{denial}");
    scene.advance_ms(95_999);
    assert!(!is_admitted(&limiter, 1).await);
    scene.advance_ms(1);
    assert!(is_admitted(&limiter, 1).await);
    let denial = ask(&limiter, 121).await.unwrap_err();
    assert_eq!((denial.reason, denial.retry), (Reason::Limit, Retry::Never { over_by: 1 }));
}

#[tokio::test]
async fn who_waits_is_admitted_when_enough_has_grown() {
    let mut scene = Scene::new().await;
    let limiter = scene.limiter(&images(100), StateLoss::Ramp);
    assert!(is_admitted(&limiter, 1).await);
    scene.lose().await;
    assert!(!is_admitted(&limiter, 1).await);
    let waiting = tokio::spawn({
        let limiter = limiter.clone();
        async move { limiter.acquire(&acme(), Cost::images(50)).max_wait(Duration::from_secs(40)).await }
    });
    let impatient = limiter.acquire(&acme(), Cost::images(50)).max_wait(Duration::from_secs(20)).await.unwrap_err();
    assert_eq!(impatient.denial().unwrap().reason, Reason::StateLost);
    // the waiter sleeps by its own clock
    scene.advance_ms(30_000);
    tokio::time::pause();
    tokio::time::advance(Duration::from_millis(30_000)).await;
    tokio::time::resume();
    let permit = waiting.await.unwrap().unwrap();
    assert_eq!(permit.at_ms(), scene.now_ms);
}

#[tokio::test]
async fn a_booked_waiter_asks_anew() {
    for state_loss in [StateLoss::Fresh, StateLoss::Closed] {
        let (mut scene, reports) = (Scene::new().await, Reports::default());
        let _guard = metrics::set_default_local_recorder(&reports);
        let limiter = scene.limiter(&images(1), state_loss);
        assert!(is_admitted(&limiter, 1).await);
        let waiting = tokio::spawn({
            let limiter = limiter.clone();
            async move { limiter.acquire(&acme(), Cost::images(1)).max_wait(Duration::from_secs(60)).await }
        });
        let mut ledger = 0;
        while ledger < 2 {
            // until the place is booked
            let seen = Admin::new(&limiter, "test").unwrap().inspect(&acme()).await.unwrap();
            ledger = seen.limits[0].status.used + seen.limits[0].booked;
        }
        scene.advance_ms(20_000);
        scene.lose().await;
        match (state_loss, waiting.await.unwrap()) {
            // there is room, and the new place is in what the store has now
            (StateLoss::Fresh, Ok(permit)) => {
                assert_eq!(permit.at_ms(), scene.now_ms);
                let Decision::Denied(denial) = limiter.peek(&acme(), Cost::images(1)).await.unwrap() else {
                    panic!("the place is not charged")
                };
                assert_eq!(denial.limits[0].used, 1);
            }
            // closed for longer than the waiter has patience
            (_, Err(error)) => assert_eq!(error.denial().unwrap().reason, Reason::StateLost),
            (_, Ok(permit)) => panic!("admitted at {}", permit.at_ms()),
        }
        assert_eq!(reports.count(), 1);
    }
}

#[tokio::test]
async fn a_loss_is_seen_by_looks_and_outlives_a_change_of_controls() {
    let mut scene = Scene::new().await;
    let policy = images(10);
    let knows = scene.limiter(&policy, StateLoss::Closed);
    assert!(is_admitted(&knows, 1).await);
    scene.lose().await;
    assert!(!is_admitted(&knows, 1).await);
    let new = scene.limiter(&policy, StateLoss::Closed);
    let peek = new.peek(&acme(), Cost::images(1)).await.unwrap();
    assert_eq!(peek, Decision::Denied(ask(&knows, 1).await.unwrap_err()));
    let twice = Control::amount("org", "images", 20);
    Admin::new(&new, "dana").unwrap().apply("acme", &twice).await.unwrap();
    for limiter in [&scene.limiter(&policy, StateLoss::Closed), &new, &knows] {
        assert_eq!(ask(limiter, 15).await.unwrap_err().reason, Reason::StateLost);
    }
    Admin::new(&new, "dana").unwrap().apply("acme", &Control::block()).await.unwrap();
    assert_eq!(ask(&knows, 1).await.unwrap_err().reason, Reason::Blocked { because: None });
}

#[tokio::test]
async fn closed_holds_calls_with_slots_for_one_lease_life() {
    let mut scene = Scene::new().await;
    let policy = Policy::new().limit(Limit::new("calls").in_flight(2));
    let (ramp, closed) = (scene.limiter(&policy, StateLoss::Ramp), scene.limiter(&policy, StateLoss::Closed));
    let under_way = ask(&closed, 1).await.unwrap();
    assert!(is_admitted(&ramp, 1).await);
    scene.lose().await;
    let denial = ask(&closed, 1).await.unwrap_err();
    assert_eq!((&*denial.limit, denial.reason), ("calls", Reason::StateLost));
    assert_eq!(denial.retry, Retry::After(Duration::from_secs(15)));
    assert!(is_admitted(&ramp, 1).await, "slots do not grow");
    scene.advance_ms(15_000);
    assert!(is_admitted(&closed, 1).await);
    drop(under_way);
}

#[test]
fn a_state_loss_is_read_from_its_name() {
    let read = |text: &str| text.parse::<StateLoss>();
    let [fresh, ramp, closed] = ["fresh", "ramp", "closed"].map(|text| read(text).unwrap());
    assert_eq!((fresh, ramp, closed), (StateLoss::default(), StateLoss::Ramp, StateLoss::Closed));
    assert!(read("open").unwrap_err().to_string().contains("fresh, ramp and closed"));
}
