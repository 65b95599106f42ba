//! The public surface: every item is used here, so that a removal or a rename fails.

use std::{collections::HashMap, future::Future, pin::Pin, time::Duration};

use allotment::{
    Acquire, ActiveControl, Admin, AuditRecord, Certainty, Control, Cost, Decision, Degraded, Denial, Diagnosis, Error,
    ErrorKind, Explanation, FailurePolicy, Finding, Inspection, Lease, Limit, LimitStatus, LimitUse, Limiter,
    LimiterBuilder, ManualClock, Observation, OpenReservation, Outcome, PartUse, Permit, Policy, PolicySource, Preset,
    Reason, Resource, Retry, RunError, Severity, StateLoss, Subject, UserUse,
};

use crate::house::text;

const MINUTE: Duration = Duration::from_secs(60);

struct Customers(HashMap<String, Policy>);

impl PolicySource for Customers {
    fn policy<'a>(&'a self, org: &'a str) -> Pin<Box<dyn Future<Output = Result<Policy, Error>> + Send + 'a>> {
        let policy = self.0.get(org).cloned().ok_or_else(|| Error::unavailable("no such customer"));
        Box::pin(std::future::ready(policy))
    }
}

fn alice() -> Subject {
    Subject::org("acme").user("alice").model("gpt-image-2").attribute("tier", "free")
}

fn policy(images: u64) -> Policy {
    Policy::new().limit(Limit::new("user").scope(["org", "user"]).images(images).window(MINUTE))
}

fn limiter(images: u64) -> (Limiter, ManualClock) {
    let clock = ManualClock::new();
    (Limiter::builder().policy(policy(images)).clock(clock.clone()).build().unwrap(), clock)
}

/// Whatever the crate exports is named in this file.
#[test]
fn every_public_item_is_used() {
    let (exported, here) = (text("src/lib.rs"), text("tests/it/api.rs"));
    let exported = exported.split_once("pub use crate::{").unwrap().1;
    let names = exported.split(|c: char| !c.is_alphanumeric()).filter(|name| name.starts_with(char::is_uppercase));
    let unused: Vec<_> = names.filter(|name| here.matches(*name).count() < 2).collect();
    assert!(unused.is_empty(), "{unused:?}");
}

#[tokio::test]
async fn the_embedded_store_is_fit_as_it_is() {
    let (limiter, _) = limiter(1);
    limiter.ready().await.unwrap();
    limiter.load_scripts().await.unwrap();
    let Diagnosis { severity, findings, .. } = limiter.diagnose().await;
    assert_eq!((severity, findings.len()), (Severity::Good, 1));
    assert!(Severity::Good < Severity::Warning && Severity::Warning < Severity::Failure);
    let Finding { check, server, severity, found, advice, .. } = &findings[0];
    assert_eq!((*check, server, severity, advice), ("store", &None, &Severity::Good, &None));
    assert!(found.contains("embedded"));
}

#[test]
fn values_are_built_and_read() {
    let subject = alice();
    assert_eq!(
        ["org", "user", "model", "tier"].map(|name| subject.value(name).unwrap()),
        ["acme", "alice", "gpt-image-2", "free"]
    );
    assert_eq!(Subject::ID_BYTES_MAX, 256);
    let cost = Cost::images(2).tokens(3).requests(4).amount("spend_micros", 5);
    let resources = [Resource::Images, Resource::Tokens, Resource::Requests, Resource::Custom("spend_micros".into())];
    assert_eq!(resources.clone().map(|resource| cost.of(&resource)), [2, 3, 4, 5]);
    assert_eq!((Cost::AMOUNT_MAX, Cost::new()), (1 << 47, Cost::default()));
    assert_eq!(resources.map(|resource| resource.to_string()), ["images", "tokens", "requests", "spend_micros"]);
    assert_eq!((Resource::from("in_flight"), Resource::InFlight.name()), (Resource::InFlight, "in_flight"));
    assert_eq!(
        (Resource::from("images".to_owned()).name(), String::from(Resource::Tokens)),
        ("images", "tokens".to_owned())
    );
}

#[test]
fn a_policy_is_built_read_written_and_checked() {
    let limit =
        Limit::new("a").scope(["user"]).amount("spend_micros", 1).requests(600).tokens(3).images(4).window(MINUTE);
    let limit = limit.margin(0.05).smooth(Duration::from_secs(1)).when("tier", "free");
    assert_eq!((limit.name(), limit.amount_of(&Resource::Requests), limit.resources().count()), ("a", Some(600), 4));
    assert_eq!((Limit::WINDOW_MIN.as_secs(), Limit::WINDOW_MAX.as_secs(), Limit::NAME_BYTES_MAX), (1, 31 * 86_400, 64));
    let pool = Limit::new("pool").images(9).in_flight(8).fair_share();
    assert_eq!(pool.amount_of(&Resource::InFlight), Some(8));
    let trial = Limit::new("trial").amount(Resource::InFlight, 4).shadow();
    assert_eq!(trial.resources().collect::<Vec<_>>(), [Resource::InFlight]);
    let policy = Policy::new().limit(limit).limit(pool).limit(trial).require("user").margin(0.1);
    let policy = policy.priority("nightly", 0.5).weight(4, "tier", "pro").hide_org();
    policy.validate().unwrap();
    assert_eq!(Policy::from_toml(&policy.to_toml()).unwrap(), policy);
    assert_eq!((policy.limits().len(), Policy::LIMITS_MAX), (3, 64));
    let preset: Preset = Policy::presets().find(|preset| preset.certainty == Certainty::Official).unwrap();
    assert_eq!(Policy::preset(&preset.name).unwrap(), preset.policy());
    assert!(!preset.access.is_empty() && !preset.source.is_empty());
    assert!(Policy::presets().any(|preset| preset.certainty == Certainty::Reported));
}

#[tokio::test]
async fn a_limiter_decides_settles_and_is_shut_down() {
    let (limiter, clock) = limiter(2);
    limiter.ready().await.unwrap();
    let Outcome::Admitted(permit) = limiter.try_acquire(&alice(), Cost::images(1)).await.unwrap() else { panic!() };
    assert_eq!((permit.at_ms(), permit.cost()), (clock.now_ms(), &Cost::images(1)));
    let LimitStatus { name, resource, limit, used, remaining, window_ms, reset_after, .. } = permit.limits()[0].clone();
    assert_eq!((&*name, resource, limit, used, remaining, window_ms), ("user", Resource::Images, 2, 1, 1, 60_000));
    assert_eq!(reset_after, MINUTE);
    permit.commit(Cost::images(2)).await.unwrap();
    let Outcome::Denied(denial) = limiter.try_acquire(&alice(), Cost::images(1)).await.unwrap() else { panic!() };
    assert_eq!((denial.retry_after(), denial.is_never()), (Some(MINUTE), false));
    let Denial { limit, resource, reason, retry, limits, .. } = denial;
    assert_eq!((&*limit, resource, reason), ("user", Resource::Images, Reason::Limit));
    assert_eq!((retry, limits.len(), limits[0].shadow), (Retry::After(MINUTE), 1, false));
    clock.advance(MINUTE);
    let permit: Permit = limiter.try_acquire(&alice(), Cost::images(1)).await.unwrap().into_result().unwrap();
    permit.release().await.unwrap();
    assert!(matches!(limiter.peek(&alice(), Cost::images(2)).await.unwrap(), Decision::Allowed(_)));
    let Decision::Denied(denial) = limiter.peek(&alice(), Cost::images(3)).await.unwrap() else { panic!() };
    assert_eq!(denial.retry, Retry::Never { over_by: 1 });
    limiter.set_policy(policy(3)).unwrap();
    assert!(matches!(limiter.peek(&alice(), Cost::images(3)).await.unwrap(), Decision::Allowed(_)));
    limiter.reset(&alice()).await.unwrap();
    limiter.shutdown().await;
    assert_eq!(limiter.peek(&alice(), Cost::new()).await.unwrap_err().kind(), ErrorKind::Closed);
}

#[tokio::test]
async fn a_heavy_user_leaves_the_last_of_a_pool_to_others() {
    let pool = Policy::new().limit(Limit::new("pool").images(10).window(MINUTE).fair_share());
    let limiter = Limiter::builder().policy(pool).clock(ManualClock::new()).build().unwrap();
    let bob = Subject::org("acme").user("bob");
    drop(limiter.try_acquire(&bob, Cost::images(1)).await.unwrap().into_result().unwrap());
    for _ in 0..8 {
        drop(limiter.try_acquire(&alice(), Cost::images(1)).await.unwrap().into_result().unwrap());
    }
    let Outcome::Denied(denial) = limiter.try_acquire(&alice(), Cost::images(1)).await.unwrap() else { panic!() };
    assert_eq!((&*denial.limit, &denial.reason), ("pool", &Reason::FairShare { share: 10 }));
    assert!(denial.is_estimate() && denial.retry == Retry::Estimate(MINUTE), "{denial}");
    assert!(denial.to_string().contains("this user's share is 10; retry after about 60s"), "{denial}");
    drop(limiter.try_acquire(&bob, Cost::images(1)).await.unwrap().into_result().unwrap());
}

#[tokio::test]
async fn a_call_under_way_holds_a_slot() {
    let slots = policy(9).limit(Limit::new("calls").in_flight(1));
    let builder = Limiter::builder().policy(slots).clock(ManualClock::new()).lease(MINUTE);
    let limiter = builder.build().unwrap();
    let permit = limiter.try_acquire(&alice(), Cost::images(1)).await.unwrap().into_result().unwrap();
    let lease: &Lease = permit.lease().unwrap();
    assert!(lease.is_live() && lease.token() > 0);
    let Outcome::Denied(denial) = limiter.try_acquire(&alice(), Cost::images(1)).await.unwrap() else { panic!() };
    assert_eq!((denial.reason, denial.retry), (Reason::InFlight, Retry::Estimate(MINUTE)));
}

#[tokio::test]
async fn an_operator_looks() {
    let (limiter, _) = limiter(2);
    let admin = Admin::new(&limiter, "dana").unwrap();
    let _permit = limiter.acquire(&alice(), Cost::images(2)).await.unwrap();
    assert_eq!(admin.orgs().await.unwrap(), ["acme"]);
    assert_eq!(admin.subjects("acme").await.unwrap(), [Subject::org("acme").user("alice")]);
    let users: Vec<UserUse> = admin.users("acme").await.unwrap();
    let (fullest, part): (&LimitUse, f64) = users[0].fullest().unwrap();
    assert_eq!((&*users[0].user, users[0].limits.len(), users[0].open, part), ("alice", 1, 1, 1.0));
    assert_eq!((fullest.status.used, fullest.booked, fullest.scope["user"].as_str()), (2, 0, "alice"));
    assert_eq!(users[0].oldest_open, Some(Duration::ZERO));
    let parts: Vec<PartUse> = admin.users_of("acme", "user", "images").await.unwrap();
    assert_eq!((&*parts[0].user, parts[0].used, parts[0].booked), ("alice", 2, 0));
    let seen: Inspection = admin.inspect(&alice()).await.unwrap();
    let open: &OpenReservation = &seen.open[0];
    assert_eq!(
        (open.at_ms, open.age, open.cost.of(&Resource::Images), open.id.len()),
        (seen.at_ms, Duration::ZERO, 2, 36)
    );
    assert_eq!((seen.limits.len(), seen.controls.len()), (1, 0));
    let why: Explanation = admin.explain(&alice(), Cost::images(1)).await.unwrap();
    assert_eq!((why.at_ms, why.limits.len(), why.users.len(), why.controls.len()), (seen.at_ms, 1, 1, 0));
    let Decision::Denied(denial) = why.decision else { panic!() };
    assert_eq!((denial.retry, Explanation::USERS_MAX), (Retry::After(MINUTE), 10));
}

#[tokio::test]
async fn an_operator_decides_live() {
    let (limiter, _) = limiter(2);
    let admin = Admin::new(&limiter, "dana").unwrap();
    let block = Control::block().on("user", "alice").because("spam").lasting(MINUTE);
    admin.apply("acme", &block).await.unwrap();
    let Outcome::Denied(denial) = limiter.try_acquire(&alice(), Cost::images(1)).await.unwrap() else { panic!() };
    assert_eq!(denial.reason, Reason::Blocked { because: Some("spam".into()) });
    let active: Vec<ActiveControl> = admin.controls("acme").await.unwrap();
    assert_eq!((active.len(), active[0].expires_after), (1, Some(MINUTE)));
    assert!(admin.withdraw("acme", &block).await.unwrap());
    for control in [
        Control::amount("user", "images", 3),
        Control::scale("user", 50),
        Control::grant("user", "images", 1),
        Control::shadow("user"),
        Control::candidate("user", "images", 1),
        Control::bypass().lasting(MINUTE),
        Control::cool_down("images").lasting(MINUTE),
    ] {
        admin.apply("acme", &control).await.unwrap();
    }
    admin.reset(&alice()).await.unwrap();
    admin.reset_limit(&alice(), "user").await.unwrap();
    let audit: Vec<AuditRecord> = admin.audit("acme", 100).await.unwrap();
    assert_eq!((audit.len(), audit[0].by.as_str()), (11, "dana"));
    assert_eq!((Control::REASON_BYTES_MAX, Admin::BY_BYTES_MAX), (256, 128));
}

#[tokio::test]
async fn an_upstream_says_what_it_counts_and_asks_for_a_pause() {
    let pool = Policy::new().limit(Limit::new("pool").scope(["model"]).images(9).window(MINUTE));
    let limiter = Limiter::builder().policy(pool).clock(ManualClock::new()).build().unwrap();
    let permit = limiter.try_acquire(&alice(), Cost::images(1)).await.unwrap().into_result().unwrap();
    let told: Observation = Observation::new(&permit, "images", 5).out_of(9).window(MINUTE);
    assert_eq!(limiter.observe(told).await.unwrap(), Some(4), "three, and one in reserve");
    let same: Observation = Observation::counted(&permit, Resource::Images, 4).out_of(9);
    assert_eq!(limiter.observe(same).await.unwrap(), None, "the same call says nothing new");
    limiter.cool_down(&alice(), Resource::Images, MINUTE).await.unwrap();
    let Outcome::Denied(denial) = limiter.try_acquire(&alice(), Cost::images(1)).await.unwrap() else { panic!() };
    assert_eq!((denial.reason, denial.retry), (Reason::CoolDown, Retry::Estimate(MINUTE)));
}

#[tokio::test]
async fn a_class_leaves_its_headroom_to_the_others() {
    let limiter = Limiter::builder().policy(policy(10)).clock(ManualClock::new()).build().unwrap();
    let batch = limiter.priority("batch");
    for _ in 0..9 {
        drop(batch.try_acquire(&alice(), Cost::images(1)).await.unwrap().into_result().unwrap());
    }
    let Outcome::Denied(denial) = batch.try_acquire(&alice(), Cost::images(1)).await.unwrap() else { panic!() };
    assert_eq!((denial.limits[0].limit, denial.limits[0].used), (9, 9));
    drop(limiter.try_acquire(&alice(), Cost::images(1)).await.unwrap().into_result().unwrap());
    let unknown = limiter.priority("urgent").try_acquire(&alice(), Cost::new()).await.unwrap_err();
    assert_eq!(unknown.kind(), ErrorKind::Invalid);
}

#[tokio::test]
async fn a_shadow_limit_counts_and_does_not_deny() {
    let shadow = Policy::new().limit(Limit::new("user").scope(["user"]).images(1).window(MINUTE).shadow());
    let limiter = Limiter::builder().policy(shadow).clock(ManualClock::new()).build().unwrap();
    drop(limiter.try_acquire(&alice(), Cost::images(1)).await.unwrap().into_result().unwrap());
    let permit = limiter.try_acquire(&alice(), Cost::images(2)).await.unwrap().into_result().unwrap();
    assert_eq!((permit.limits()[0].shadow, permit.limits()[0].used, permit.limits()[0].limit), (true, 3, 1));
}

#[tokio::test]
async fn figures_of_the_org_can_be_hidden_from_users() {
    let hidden = policy(5).limit(Limit::new("org").images(9).window(MINUTE)).hide_org();
    let limiter = Limiter::builder().policy(hidden).clock(ManualClock::new()).build().unwrap();
    let permit = limiter.try_acquire(&alice(), Cost::images(1)).await.unwrap().into_result().unwrap();
    assert_eq!(permit.limits().iter().map(|limit| &*limit.name).collect::<Vec<_>>(), ["user"]);
    let permit = limiter.try_acquire(&Subject::org("acme"), Cost::images(1)).await.unwrap().into_result().unwrap();
    assert_eq!(permit.limits().iter().map(|limit| &*limit.name).collect::<Vec<_>>(), ["org"]);
}

#[tokio::test]
async fn a_call_waits_in_line_or_is_run() {
    let (limiter, _) = limiter(1);
    let waiting: Acquire = limiter.acquire(&alice(), Cost::images(1)).max_wait(MINUTE);
    drop(waiting.await.unwrap());
    let error: Error = limiter.acquire(&alice(), Cost::images(1)).max_wait(Duration::ZERO).await.unwrap_err();
    assert_eq!((error.kind(), error.is_retryable()), (ErrorKind::Denied, true));
    assert!(error.denial().is_some_and(|denial| !matches!(denial.retry, Retry::AskAgainAfter(_))));
    let bob = Subject::org("acme").user("bob");
    let failed = limiter.run(&bob, Cost::images(1), || async { Err::<(), _>("down") }).await;
    assert!(matches!(failed, Err(RunError::Call("down"))));
    let never = limiter.run_with(&bob, Cost::images(2), |_permit| async { Ok::<_, Error>(()) }).await;
    assert!(matches!(never, Err(RunError::NotAdmitted(error)) if !error.is_retryable()));
}

#[tokio::test]
async fn a_policy_source_gives_each_org_its_own() {
    let builder: LimiterBuilder =
        Limiter::builder().in_memory().policies(Customers([("acme".to_owned(), policy(1))].into()));
    let builder = builder.state_loss(StateLoss::Closed);
    let limiter = builder.policy_ttl(MINUTE).deadline(Duration::from_secs(1)).batch_max(1).build().unwrap();
    assert!(limiter.try_acquire(&alice(), Cost::images(1)).await.is_ok());
    limiter.forget_policy("acme").await;
    let unknown = limiter.try_acquire(&Subject::org("other"), Cost::new()).await.unwrap_err();
    assert_eq!(unknown.kind(), ErrorKind::Unavailable);
}

#[tokio::test]
async fn a_failure_policy_decides_when_redis_is_gone() {
    assert_eq!((FailurePolicy::default(), "allow".parse().unwrap()), (FailurePolicy::Deny, FailurePolicy::Allow));
    assert_eq!(FailurePolicy::Local.to_string(), "local");
    assert_eq!("open".parse::<FailurePolicy>().unwrap_err().kind(), ErrorKind::Invalid);
    let builder =
        Limiter::builder().redis("redis://127.0.0.1:1/").policy(policy(1)).deadline(Duration::from_millis(20));
    let limiter = builder.failure_policy(FailurePolicy::Allow).build().unwrap();
    let permit = limiter.try_acquire(&alice(), Cost::images(1)).await.unwrap().into_result().unwrap();
    assert_eq!(permit.degraded(), Some(Degraded::Allow));
    let Outcome::Denied(never) = limiter.try_acquire(&alice(), Cost::images(2)).await.unwrap() else { panic!() };
    assert_ne!(never.degraded, Some(Degraded::Local { members: 1 }));
}

#[test]
fn a_limiter_on_redis_is_built_without_io_and_names_what_is_wrong() {
    drop(Limiter::builder().redis("redis://192.0.2.1/").policy(policy(1)).build().unwrap());
    let error = Limiter::builder().redis("nonsense").policy(policy(1)).build().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    let all = [ErrorKind::Timeout, ErrorKind::Unavailable, ErrorKind::Protocol, ErrorKind::LeaseLost];
    assert!(!all.contains(&error.kind()));
}
