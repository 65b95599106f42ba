//! Redis answers again: what was admitted without it is charged, once, as it ended.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use allotment::{
    Admin, Control, Cost, FailurePolicy, Limit, Limiter, Outcome, Permit, Policy, Resource, StateLoss, Subject,
};
use tokio::task::JoinSet;
use tracing_subscriber::{Layer, filter::LevelFilter, layer::SubscriberExt};

use crate::support::{
    Behind, Fault, Server, eventually, held, held_on, lose, random_org, refuse_all_but, share_is_known, shared,
};

const HOUR: Duration = Duration::from_secs(3_600);

fn policy() -> Policy {
    let user = Limit::new("user").scope(["user"]).images(50).window(HOUR);
    Policy::new().limit(Limit::new("org").images(100).window(HOUR)).limit(user)
}

fn alice(org: &str) -> Subject {
    Subject::org(org).user("alice")
}

async fn take(limiter: &Limiter, org: &str, images: u64) -> Permit {
    limiter.try_acquire(&alice(org), Cost::images(images)).await.unwrap().into_result().unwrap()
}

/// Waits until a call is decided by Redis; gives it back.
async fn redis_decides(process: &Behind, org: &str) {
    eventually("Redis decides", async || {
        let Ok(Outcome::Admitted(permit)) = process.limiter.try_acquire(&alice(org), Cost::images(0)).await else {
            return None;
        };
        let decided = permit.degraded().is_none();
        permit.release().await.ok().filter(|()| decided)
    })
    .await;
}

/// A process that decides by itself now, and its org.
async fn alone(failure: FailurePolicy) -> (Behind, String) {
    let (process, org) = (Behind::new(policy(), failure).await, random_org());
    redis_decides(&process, &org).await;
    if failure == FailurePolicy::Local {
        share_is_known(&org, 1).await;
    }
    process.cut().await;
    (process, org)
}

async fn images_become(org: &str, images: u64) {
    let mut last = 0;
    eventually(&format!("{images} images are charged"), async || {
        last = held(org).await[2];
        (last == images).then_some(())
    })
    .await;
}

#[tokio::test]
async fn what_was_admitted_without_redis_is_charged_as_it_ended() {
    for failure in [FailurePolicy::Local, FailurePolicy::Allow] {
        let (process, org) = alone(failure).await;
        let (kept, open, more) = (
            take(&process.limiter, &org, 1).await,
            take(&process.limiter, &org, 2).await,
            take(&process.limiter, &org, 4).await,
        );
        let (less, released) = (take(&process.limiter, &org, 8).await, take(&process.limiter, &org, 16).await);
        assert!([&kept, &open, &more, &less, &released].iter().all(|permit| permit.degraded().is_some()), "{failure}");
        drop(kept);
        more.commit(Cost::images(5)).await.unwrap();
        less.commit(Cost::images(3)).await.unwrap();
        released.release().await.unwrap();
        process.heal().await;
        images_become(&org, 1 + 2 + 5 + 3).await;
        // who settles from now on settles in Redis
        eventually("the open one can be settled in Redis", async || {
            let seen = Admin::new(&process.limiter, "dana").unwrap().inspect(&alice(&org)).await.ok()?;
            // those that ended are closed there, too
            (seen.open.iter().map(|open| open.cost.of(&Resource::Images)).sum::<u64>() == 1 + 2).then_some(())
        })
        .await;
        open.commit(Cost::images(7)).await.unwrap();
        images_become(&org, 1 + 7 + 5 + 3).await;
        process.limiter.shutdown().await;
        assert_eq!(held(&org).await[2], 1 + 7 + 5 + 3, "{failure}: once");
    }
}

/// Of many orgs, so that some of the answers that are lost are those to charges.
#[tokio::test]
async fn answers_that_are_lost_charge_nothing_twice() {
    let process = Behind::new(policy(), FailurePolicy::Allow).await;
    process.cut().await;
    let mut asking = JoinSet::new();
    for org in (0..24).map(|_| random_org()) {
        let limiter = process.limiter.clone();
        asking.spawn(async move {
            let (kept, more) = tokio::join!(take(&limiter, &org, 1), take(&limiter, &org, 2));
            let (released, late) = tokio::join!(take(&limiter, &org, 4), take(&limiter, &org, 8));
            (org, [kept, more, released, late])
        });
    }
    let mut admitted = Vec::new();
    for (org, [kept, more, released, late]) in asking.join_all().await {
        drop(kept);
        more.commit(Cost::images(3)).await.unwrap();
        released.release().await.unwrap();
        admitted.push((org, late));
    }
    process.proxy.set(Fault::LoseRepliesAtRandom { share: 0.4, seed: 7 }).await;
    for (org, _) in &admitted {
        images_become(org, 1 + 3 + 8).await;
    }
    assert!(process.proxy.lost_replies() > 0);
    process.heal().await;
    redis_decides(&process, &admitted[0].0).await;
    let mut orgs = Vec::new();
    for (org, late) in admitted {
        // Redis may know of it, or may have been told without an answer
        late.commit(Cost::images(5)).await.unwrap();
        orgs.push(org);
    }
    process.limiter.shutdown().await;
    for org in orgs {
        assert_eq!(held(&org).await[2], 1 + 3 + 5);
    }
}

/// What is sent into a black hole arrives when it ends, under ids that nobody waits for any more.
#[tokio::test]
async fn what_redis_was_asked_and_answered_too_late_is_not_charged_beside_it() {
    let (process, org) = (Behind::new(policy(), FailurePolicy::Allow).await, random_org());
    redis_decides(&process, &org).await;
    process.proxy.set(Fault::BlackHole).await;
    for _ in 0..3 {
        drop(take(&process.limiter, &org, 1).await);
    }
    process.heal().await;
    images_become(&org, 3).await;
    process.limiter.shutdown().await;
    assert_eq!(held(&org).await[2], 3);
}

/// A limit or a block binds who asks from now on, not what has been admitted.
#[tokio::test]
async fn it_is_charged_whatever_limits_and_controls_say_by_then() {
    let (process, org) = alone(FailurePolicy::Allow).await;
    for _ in 0..2 {
        drop(take(&process.limiter, &org, 50).await);
    }
    let permit = take(&process.limiter, &org, 50).await;
    let elsewhere =
        Limiter::builder().redis(shared().await.url()).policy(policy()).deadline(HOUR / 60).build().unwrap();
    let block = Control::block().on("user", "alice").lasting(HOUR);
    Admin::new(&elsewhere, "dana").unwrap().apply(&org, &block).await.unwrap();
    process.heal().await;
    images_become(&org, 150).await;
    permit.commit(Cost::images(2)).await.unwrap();
    images_become(&org, 102).await;
}

/// Whatever limits make of the loss, which the posting is the first to meet.
#[tokio::test]
async fn it_is_charged_also_where_redis_has_lost_its_data_meanwhile() {
    for state_loss in [StateLoss::Fresh, StateLoss::Ramp, StateLoss::Closed] {
        let builder = Limiter::builder().policy(policy()).failure_policy(FailurePolicy::Allow).state_loss(state_loss);
        let (process, org) = (Behind::built(builder).await, random_org());
        redis_decides(&process, &org).await;
        process.cut().await;
        drop(take(&process.limiter, &org, 3).await);
        lose(&org).await;
        process.heal().await;
        images_become(&org, 3).await;
        process.limiter.shutdown().await;
        assert_eq!(held(&org).await[2], 3, "{state_loss:?}");
    }
}

/// Nine orgs, of which eight cannot be charged: whichever is tried first.
#[tokio::test]
async fn an_org_that_fails_keeps_no_other_from_being_charged() {
    let server = Server::start().await;
    let builder = Limiter::builder().policy(policy()).failure_policy(FailurePolicy::Allow);
    let (process, orgs) = (Behind::on(&server, builder).await, [(); 9].map(|()| random_org()));
    process.cut().await;
    for org in &orgs {
        drop(take(&process.limiter, org, 1).await);
    }
    refuse_all_but(&server, &orgs[4]).await;
    process.heal().await;
    eventually("the one is charged", async || (held_on(&server, &orgs[4]).await[2] == 1).then_some(())).await;
}

#[tokio::test]
async fn a_limiter_that_is_shut_down_charges_what_waits() {
    let (process, org) = alone(FailurePolicy::Local).await;
    let permit = take(&process.limiter, &org, 3).await;
    process.heal().await;
    process.limiter.shutdown().await;
    assert_eq!(held(&org).await[2], 3);
    permit.release().await.unwrap();
    assert_eq!(held(&org).await[2], 0);
}

thread_local! {
    /// Messages of a level that operators see, logged by this thread.
    static LOG: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// For the whole process: what a thread alone listens to may be switched off by what another logs first.
struct Log;

impl<S: tracing::Subscriber> Layer<S> for Log {
    fn on_event(&self, event: &tracing::Event<'_>, _: tracing_subscriber::layer::Context<'_, S>) {
        struct Text(String);
        impl tracing::field::Visit for Text {
            fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
                if ["message", "policy", "decisions", "posted"].contains(&field.name()) {
                    self.0 += &format!("{}={value:?} ", field.name());
                }
            }
        }
        if event.metadata().target().starts_with("allotment") {
            let mut text = Text(String::new());
            event.record(&mut text);
            LOG.with_borrow_mut(|log| log.push(text.0));
        }
    }
}

/// Counters by name and labels.
#[derive(Clone, Default)]
pub(crate) struct Counters(Arc<Mutex<BTreeMap<String, Arc<metrics::atomics::AtomicU64>>>>);

impl Counters {
    pub(crate) fn of(&self, name: &str) -> u64 {
        let counters = self.0.lock().unwrap();
        counters.get(name).map_or(0, |counter| counter.load(std::sync::atomic::Ordering::SeqCst))
    }
}

impl metrics::Recorder for Counters {
    fn describe_counter(&self, _: metrics::KeyName, _: Option<metrics::Unit>, _: metrics::SharedString) {}
    fn describe_gauge(&self, _: metrics::KeyName, _: Option<metrics::Unit>, _: metrics::SharedString) {}
    fn describe_histogram(&self, _: metrics::KeyName, _: Option<metrics::Unit>, _: metrics::SharedString) {}
    fn register_counter(&self, key: &metrics::Key, _: &metrics::Metadata<'_>) -> metrics::Counter {
        let labels: Vec<_> = key.labels().map(|label| label.value().to_owned()).collect();
        let name = [&[key.name().to_owned()][..], &labels].concat().join(" ");
        metrics::Counter::from_arc(Arc::clone(self.0.lock().unwrap().entry(name).or_default()))
    }
    fn register_gauge(&self, _: &metrics::Key, _: &metrics::Metadata<'_>) -> metrics::Gauge {
        metrics::Gauge::noop()
    }
    fn register_histogram(&self, _: &metrics::Key, _: &metrics::Metadata<'_>) -> metrics::Histogram {
        metrics::Histogram::noop()
    }
}

/// One thread, so that what is logged and counted is this test's.
#[tokio::test]
async fn each_change_is_logged_once_and_each_decision_counted() {
    let counters = Counters::default();
    tracing::subscriber::set_global_default(tracing_subscriber::registry().with(Log).with(LevelFilter::INFO)).unwrap();
    let _counted = metrics::set_default_local_recorder(&counters);
    // so long that nothing fails before it shall
    let builder = Limiter::builder().policy(policy()).failure_policy(FailurePolicy::Allow).deadline(HOUR / 1_800);
    let (process, org) = (Behind::built(builder).await, random_org());
    redis_decides(&process, &org).await;
    process.cut().await;
    let lines = || -> Vec<String> {
        let about = |line: &&String| line.contains("policy=");
        LOG.with_borrow(|log| log.iter().filter(about).map(|line| line.trim().to_owned()).collect())
    };
    let before = lines().len();
    for _ in 0..2 {
        drop(take(&process.limiter, &org, 1).await);
    }
    let Ok(Outcome::Denied(_)) = process.limiter.try_acquire(&alice(&org), Cost::images(51)).await else { panic!() };
    let decided = |outcome: &str| counters.of(&format!("allotment_degraded_decisions_total allow {outcome}"));
    assert_eq!((decided("admitted"), decided("denied")), (2, 1));
    assert_eq!(lines()[before..], ["message=the failure policy decides policy=\"allow\""]);
    process.heal().await;
    images_become(&org, 2).await;
    eventually("the store decides again", async || (lines().len() > before + 1).then_some(())).await;
    redis_decides(&process, &org).await;
    let ends = "message=the store decides again policy=\"allow\" decisions=3 posted=2";
    assert_eq!(lines()[before + 1..], [ends]);
    assert_eq!(counters.of("allotment_postings_total posted"), 2);
}
