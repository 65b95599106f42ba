//! What an upstream says of itself binds the whole fleet: pauses that it asks for, and what others use of its quota.

use std::{
    future::{Future, IntoFuture},
    pin::pin,
    task::{Context, Poll, Waker},
    time::Duration,
};

use allotment::{
    Admin, Control, Cost, Decision, Denial, ErrorKind, Limit, Limiter, ManualClock, Observation, Outcome, Permit,
    Policy, Reason, Resource, Retry, Subject,
    testing::{RawLedger, RawTold},
};

use crate::support::{Stage, random_org, raw};

const MINUTE: Duration = Duration::from_secs(60);

fn policy() -> Policy {
    let pool = Limit::new("pool").scope(["model"]).images(100).tokens(10_000).window(MINUTE);
    Policy::new().limit(pool).limit(Limit::new("user").scope(["user"]).images(80).window(MINUTE))
}

/// Two limiters that share ledgers: two processes on Redis, two clones of one in memory.
fn processes(stage: &Stage, policy: Policy) -> [Limiter; 2] {
    let first = stage.limiter(policy.clone());
    match stage {
        Stage::Memory(_) => [first.clone(), first],
        Stage::Redis { .. } => [first, stage.limiter(policy)],
    }
}

fn alice(model: &str) -> Subject {
    Subject::org("acme").user("alice").model(model)
}

async fn ask(limiter: &Limiter, subject: &Subject, cost: Cost) -> Result<Permit, Denial> {
    match limiter.try_acquire(subject, cost).await.unwrap() {
        Outcome::Admitted(permit) => Ok(permit),
        Outcome::Denied(denial) => Err(denial),
    }
}

/// What the pool of images holds, and what the limit says that remains.
async fn pool(limiter: &Limiter, subject: &Subject) -> (u64, u64) {
    let decision = limiter.peek(subject, Cost::new().requests(0)).await.unwrap();
    let limits = match decision {
        Decision::Allowed(limits) => limits,
        Decision::Denied(denial) => denial.limits,
    };
    let pool = limits.into_iter().find(|limit| &*limit.name == "pool" && limit.resource == Resource::Images).unwrap();
    (pool.used, pool.remaining)
}

#[tokio::test]
async fn a_cool_down_binds_every_process_and_only_its_model_and_resource() {
    for stage in Stage::both().await {
        let [first, second] = processes(&stage, policy());
        drop(ask(&second, &alice("m"), Cost::images(1)).await.unwrap());
        first.cool_down(&alice("m"), "images", Duration::from_secs(5)).await.unwrap();
        let denial = ask(&second, &alice("m"), Cost::images(1)).await.unwrap_err();
        assert_eq!((&denial.reason, &denial.resource), (&Reason::CoolDown, &Resource::Images), "{}", stage.name());
        assert_eq!((denial.retry, &*denial.limit), (Retry::Estimate(Duration::from_secs(5)), "cool_down"));
        assert_eq!(denial.to_string(), "images cools down; retry after about 5s");
        let seen = second.peek(&alice("m"), Cost::images(1)).await.unwrap();
        assert!(matches!(seen, Decision::Denied(seen) if seen == denial), "{}", stage.name());
        let bob = Subject::org("acme").user("bob").model("m");
        assert!(ask(&first, &bob, Cost::images(1)).await.is_err(), "{}: whoever asks", stage.name());
        drop(ask(&second, &alice("m"), Cost::new().tokens(1)).await.expect("it asks no image"));
        drop(ask(&second, &alice("another"), Cost::images(1)).await.expect("it is of another model"));
        stage.advance_ms(4_999);
        assert!(ask(&second, &alice("m"), Cost::images(1)).await.is_err(), "{}", stage.name());
        stage.advance_ms(1);
        drop(ask(&second, &alice("m"), Cost::images(1)).await.expect("it has ended"));

        first.cool_down(&Subject::org("acme"), "requests", MINUTE).await.unwrap();
        assert!(ask(&second, &alice("another"), Cost::images(1)).await.is_err(), "{}: the whole org", stage.name());
    }
}

#[tokio::test]
async fn a_cool_down_is_only_extended_and_not_written_down() {
    for stage in Stage::both().await {
        let [first, second] = processes(&stage, policy());
        let (admin, seconds) = (Admin::new(&second, "dana").unwrap(), Duration::from_secs);
        for (asked, ends) in [(10, 10), (5, 10), (11, 10), (12, 12), (3_600, 900)] {
            first.cool_down(&alice("m"), "images", seconds(asked)).await.unwrap();
            let controls = admin.controls("acme").await.unwrap();
            let expected = Control::cool_down("images").on("model", "m").because("upstream");
            assert_eq!(controls.len(), 1, "{}", stage.name());
            assert_eq!(
                (&controls[0].control, controls[0].expires_after),
                (&expected, Some(seconds(ends))),
                "{asked} s"
            );
        }
        assert!(admin.audit("acme", 9).await.unwrap().is_empty(), "{}", stage.name());
        let seen = admin.inspect(&alice("m")).await.unwrap();
        assert_eq!(seen.controls.len(), 1, "{}", stage.name());
        let why = admin.explain(&alice("m"), Cost::images(1)).await.unwrap();
        assert!(matches!(why.decision, Decision::Denied(denial) if denial.reason == Reason::CoolDown));
        assert!(admin.withdraw("acme", &Control::cool_down("images").on("model", "m")).await.unwrap());
        drop(ask(&first, &alice("m"), Cost::images(1)).await.expect("an operator has lifted it"));
        assert_eq!(admin.audit("acme", 9).await.unwrap().len(), 1, "{}: that is written", stage.name());
    }
}

#[tokio::test]
async fn a_hint_extends_what_an_operator_has_set_and_leaves_the_reason() {
    for stage in Stage::both().await {
        let limiter = stage.limiter(policy());
        let admin = Admin::new(&limiter, "dana").unwrap();
        let set = Control::cool_down("images").on("model", "m").because("a bad day");
        admin.apply("acme", &set.clone().lasting(Duration::from_secs(10))).await.unwrap();
        limiter.cool_down(&alice("m"), "images", Duration::from_secs(20)).await.unwrap();
        let controls = admin.controls("acme").await.unwrap();
        assert_eq!(controls.len(), 1, "{}", stage.name());
        assert_eq!((&controls[0].control, controls[0].expires_after), (&set, Some(Duration::from_secs(20))));
    }
}

#[tokio::test]
async fn a_block_is_told_before_a_cool_down_and_a_bypass_wins_over_both() {
    for stage in Stage::both().await {
        let limiter = stage.limiter(policy());
        let admin = Admin::new(&limiter, "dana").unwrap();
        admin.apply("acme", &Control::cool_down("images").lasting(MINUTE)).await.unwrap();
        admin.apply("acme", &Control::block().on("user", "alice").lasting(MINUTE)).await.unwrap();
        let denial = ask(&limiter, &alice("m"), Cost::images(1)).await.unwrap_err();
        assert_eq!(denial.reason, Reason::Blocked { because: None }, "{}", stage.name());
        admin.apply("acme", &Control::bypass().lasting(MINUTE)).await.unwrap();
        drop(ask(&limiter, &alice("m"), Cost::images(1)).await.expect("everything is bypassed"));
    }
}

#[tokio::test]
async fn what_is_no_cool_down_is_refused_by_name() {
    let limiter = Limiter::builder().policy(policy()).clock(ManualClock::new()).build().unwrap();
    for (resource, lasting, says) in
        [("images", Duration::from_micros(999), "cool-down of 999µs"), ("in_flight", MINUTE, "cool-down of in_flight")]
    {
        let error = limiter.cool_down(&alice("m"), resource, lasting).await.unwrap_err();
        assert!(error.kind() == ErrorKind::Invalid && error.to_string().contains(says), "{error}");
    }
    let admin = Admin::new(&limiter, "dana").unwrap();
    let endless = admin.apply("acme", &Control::cool_down("images")).await.unwrap_err();
    assert!(endless.to_string().contains("cool-down: it must have an end"), "{endless}");
}

#[tokio::test]
async fn a_limiter_that_was_shut_down_is_told_nothing() {
    let limiter = Limiter::builder().policy(policy()).clock(ManualClock::new()).build().unwrap();
    let permit = ask(&limiter, &alice("m"), Cost::images(1)).await.unwrap();
    limiter.shutdown().await;
    let observed = limiter.observe(Observation::new(&permit, "images", 0)).await;
    let cooled_down = limiter.cool_down(&alice("m"), "images", MINUTE).await;
    assert_eq!((observed.unwrap_err().kind(), cooled_down.unwrap_err().kind()), (ErrorKind::Closed, ErrorKind::Closed));
}

#[tokio::test]
async fn who_waits_waits_over_a_cool_down_and_starts_within_a_second_after_it() {
    let clock = ManualClock::new();
    let limiter = Limiter::builder().policy(policy()).clock(clock.clone()).build().unwrap();
    let subject = alice("m");
    limiter.cool_down(&subject, "images", MINUTE).await.unwrap();
    let impatient = limiter.acquire(&subject, Cost::images(1)).max_wait(MINUTE - Duration::from_millis(1)).await;
    assert_eq!(impatient.unwrap_err().denial().unwrap().reason, Reason::CoolDown);
    let mut waiting = pin!(limiter.acquire(&subject, Cost::images(1)).max_wait(2 * MINUTE).into_future());
    let mut poll = || waiting.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    for _ in 0..60 {
        assert!(poll().is_pending());
        clock.advance(Duration::from_secs(1));
    }
    clock.advance(Duration::from_millis(999));
    let Poll::Ready(Ok(permit)) = poll() else { panic!("it has ended") };
    drop(permit);

    limiter.cool_down(&subject, "images", MINUTE).await.unwrap();
    let mut waiting = pin!(limiter.acquire(&subject, Cost::images(1)).into_future());
    let mut poll = || waiting.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    assert!(poll().is_pending());
    let lifted = Control::cool_down("images").on("model", "m");
    assert!(Admin::new(&limiter, "dana").unwrap().withdraw("acme", &lifted).await.unwrap());
    clock.advance(Duration::from_secs(11));
    assert!(matches!(poll(), Poll::Ready(Ok(_))), "it was lifted");
}

#[tokio::test]
async fn a_place_inside_a_cool_down_is_given_up_and_asked_for_anew() {
    let clock = ManualClock::new();
    let limiter = Limiter::builder().policy(policy()).clock(clock.clone()).build().unwrap();
    let subject = alice("m");
    drop(ask(&limiter, &subject, Cost::images(80)).await.unwrap());
    let mut waiting = pin!(limiter.acquire(&subject, Cost::images(1)).into_future());
    let mut poll = || waiting.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    assert!(poll().is_pending());
    clock.advance(Duration::from_secs(59));
    assert!(poll().is_pending());
    limiter.cool_down(&subject, "images", Duration::from_secs(9)).await.unwrap();
    for second in 60..68 {
        clock.advance(Duration::from_secs(1));
        assert!(poll().is_pending(), "it starts after {second} s");
    }
    assert_eq!(pool(&limiter, &subject).await.0, 0, "its place is free");
    clock.advance(Duration::from_secs(2));
    assert!(matches!(poll(), Poll::Ready(Ok(_))));
}

#[tokio::test]
async fn of_a_full_line_nobody_starts_inside_a_cool_down_and_nobody_is_lost() {
    let clock = ManualClock::new();
    let pool = Policy::new().limit(Limit::new("pool").scope(["model"]).images(100).window(MINUTE));
    let limiter = Limiter::builder().policy(pool).clock(clock.clone()).build().unwrap();
    let subject = alice("m");
    drop(ask(&limiter, &subject, Cost::images(100)).await.unwrap());
    // two places after 60 s, and one after 120 s
    let wait = |_| Box::pin(limiter.acquire(&subject, Cost::images(50)).into_future());
    let (mut line, mut starts): (Vec<_>, Vec<_>) = ((0..3).map(wait).collect(), Vec::new());
    for second in 0..140 {
        if second == 59 {
            limiter.cool_down(&subject, "images", Duration::from_secs(9)).await.unwrap();
        }
        line.retain_mut(|waiting| match waiting.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(permit) => {
                drop(permit.unwrap());
                starts.push(second);
                false
            }
            Poll::Pending => true,
        });
        clock.advance(Duration::from_secs(1));
    }
    assert_eq!(starts.len(), 3, "{starts:?}");
    assert!(starts[..2].iter().all(|second| (68..=70).contains(second)), "{starts:?}");
    assert!((128..=132).contains(&starts[2]), "the last waits until one of them has left: {starts:?}");
}

#[tokio::test]
async fn a_strangers_use_is_held_once_however_many_see_it() {
    for stage in Stage::both().await {
        let [first, second] = processes(&stage, policy().margin(0.1));
        let subject = alice("m");
        let calls = [ask(&first, &subject, Cost::images(10)).await.unwrap(), {
            stage.advance_ms(10);
            ask(&second, &subject, Cost::images(10)).await.unwrap()
        }];
        // a stranger has used 30 of 100, a quarter more is held; upstream counts in the order of the calls
        let [earlier, later] =
            [(0, 60), (1, 50)].map(|(call, remaining)| Observation::new(&calls[call], "images", remaining).out_of(100));
        for call in calls {
            call.commit(Cost::images(10)).await.unwrap();
        }
        stage.advance_ms(20_000);
        assert_eq!(second.observe(later.clone()).await.unwrap(), Some(38), "{}", stage.name());
        assert_eq!(pool(&first, &subject).await, (58, 32), "{}: of 90 that the margin leaves", stage.name());
        assert_eq!(first.observe(earlier).await.unwrap(), None, "{}: older", stage.name());
        stage.advance_ms(20_000);
        assert_eq!(first.observe(later).await.unwrap(), Some(38), "{}: told twice", stage.name());
        assert_eq!(pool(&second, &subject).await, (58, 32), "{}", stage.name());
        let after = ask(&first, &subject, Cost::images(1)).await.unwrap();
        stage.advance_ms(1_000);
        let told = Observation::new(&after, "images", 49);
        assert_eq!(second.observe(told).await.unwrap(), Some(38), "{}: it had found them", stage.name());
        stage.advance_ms(59_999);
        assert_eq!(pool(&second, &subject).await.0, 38, "{}", stage.name());
        stage.advance_ms(1);
        assert_eq!(pool(&second, &subject).await.0, 0, "{}: nobody has spoken of them for a window", stage.name());
    }
}

/// What remains stops at nothing; what was counted does not. One held too few would be refused for ever.
#[tokio::test]
async fn a_call_that_was_one_too_many_holds_back_the_next() {
    for (stated, upstream) in [(100, 100), (150, 100), (80, 100)] {
        for stage in Stage::both().await {
            let limit = Limit::new("pool").scope(["model"]).images(stated).window(MINUTE);
            let limiter = stage.limiter(Policy::new().limit(limit));
            let permit = ask(&limiter, &alice("m"), Cost::images(1)).await.unwrap();
            let refused = Observation::counted(&permit, "images", upstream + 1).out_of(upstream);
            permit.commit(Cost::images(0)).await.unwrap();
            assert_eq!(limiter.observe(refused).await.unwrap(), Some(stated), "{}: {stated}", stage.name());
            assert!(ask(&limiter, &alice("m"), Cost::images(1)).await.is_err(), "{}: {stated}", stage.name());
        }
    }
}

/// Half of what the limit enforces besides is left to the fleet, and of what upstream does not have nothing is held in reserve.
#[tokio::test]
async fn the_reserve_is_of_what_others_can_use() {
    for (stated, margin, counted, upstream, held) in [(150, 0.0, 21, 100, 75), (100, 0.1, 81, 100, 85)] {
        for stage in Stage::both().await {
            let limit = Limit::new("pool").scope(["model"]).images(stated).margin(margin).window(MINUTE);
            let limiter = stage.limiter(Policy::new().limit(limit));
            let permit = ask(&limiter, &alice("m"), Cost::images(1)).await.unwrap();
            let told = Observation::counted(&permit, "images", counted).out_of(upstream);
            assert_eq!(limiter.observe(told).await.unwrap(), Some(held), "{}: {stated}", stage.name());
        }
    }
}

#[tokio::test]
async fn what_the_fleet_uses_by_itself_is_held_for_nobody() {
    for stage in Stage::both().await {
        let processes = processes(&stage, policy());
        let (mut told, mut heard, mut counted) = (Vec::new(), Vec::new(), 0);
        for call in 0..60 {
            stage.advance_ms(300);
            let permit = ask(&processes[call % 2], &alice("m"), Cost::images(1)).await.unwrap();
            counted += 1;
            told.push(Observation::new(&permit, "images", 100 - counted).out_of(100));
            drop(permit);
            // answers are late, and not in the order of the calls
            if call % 7 == 6 {
                let late = told.remove(call % told.len());
                heard.push(processes[0].observe(late).await.unwrap());
            }
        }
        stage.advance_ms(35_000);
        for late in told {
            heard.push(processes[1].observe(late).await.unwrap());
        }
        let (heard, nothing_new): (Vec<_>, Vec<_>) = heard.into_iter().partition(Option::is_some);
        assert!(heard.len() > 30 && !nothing_new.is_empty(), "{}: {} heard", stage.name(), heard.len());
        assert!(heard.iter().all(|others| *others == Some(0)), "{}: {heard:?}", stage.name());
        stage.advance_ms(20_000);
        assert!(pool(&processes[0], &alice("m")).await.0 < 60, "{}", stage.name());
    }
}

/// Where several limits count the resource, the one that counts as upstream does holds what others use; the caller's figures stay out of it.
#[tokio::test]
async fn what_others_use_counts_in_the_pool_alone() {
    for stage in Stage::both().await {
        let org = Limit::new("org").images(500).window(MINUTE);
        let tier = Limit::new("tier").images(300).window(MINUTE).when("tier", "free");
        let limiter = stage.limiter(policy().limit(org).limit(tier).hide_org());
        let subject = alice("m").attribute("tier", "free");
        let permit = ask(&limiter, &subject, Cost::images(2).tokens(7)).await.unwrap();
        assert_eq!(limiter.observe(Observation::new(&permit, "images", 0)).await.unwrap(), Some(99));
        assert_eq!(limiter.observe(Observation::new(&permit, "tokens", 9_000)).await.unwrap(), Some(1_242));
        for (other, window) in [("spend_micros", MINUTE), ("images", 2 * MINUTE), ("in_flight", MINUTE)] {
            let told = Observation::new(&permit, other, 0).window(window);
            assert_eq!(limiter.observe(told).await.unwrap(), None, "{other} over {window:?}");
        }
        let seen = Admin::new(&limiter, "dana").unwrap().inspect(&subject).await.unwrap();
        let images = seen.limits.iter().filter(|limit| limit.status.resource == Resource::Images);
        let used: Vec<_> = images.map(|limit| (&*limit.status.name, limit.status.used)).collect();
        assert_eq!(used, [("pool", 101), ("user", 2), ("org", 2), ("tier", 2)], "{}", stage.name());
        assert!(ask(&limiter, &subject, Cost::images(1)).await.unwrap_err().resource == Resource::Images);
    }
}

/// A key that holds something else is left alone, and nothing is charged; so it is with a figure that is none.
#[tokio::test]
async fn an_observation_that_meets_what_it_cannot_read_changes_nothing() {
    let stage = Stage::redis().await;
    let Stage::Redis { server, .. } = &stage else { panic!("a stage in Redis") };
    let (store, org, mut conn) = (stage.raw(), random_org(), raw(server).await);
    let ledger = RawLedger { user: None, window_ms: 60_000 };
    let told = RawTold { place: 2, counted: 30, used: 0, at: stage.now_ms(), limit: 0, lacking: 0 };
    let others = format!("allot:1:{{{org}}}:o2:60000");
    for (key, how) in [(&others, "HSET"), (&others, "SET"), (&format!("allot:1:{{{org}}}:60000"), "SET")] {
        redis::cmd("DEL").arg(key).exec_async(&mut conn).await.unwrap();
        let mut spoil = redis::cmd(how);
        spoil.arg(key).arg("foreign");
        if how == "HSET" {
            spoil.arg("value");
        }
        spoil.exec_async(&mut conn).await.unwrap();
        let before = crate::support::dump_all(&mut conn, &format!("allot:1:{{{org}}}:*")).await;
        assert_eq!(store.observe(&org, &ledger, &told).await.unwrap_err().kind(), ErrorKind::Protocol, "{key} {how}");
        assert_eq!(crate::support::dump_all(&mut conn, &format!("allot:1:{{{org}}}:*")).await, before, "{key} {how}");
        redis::cmd("DEL").arg(key).exec_async(&mut conn).await.unwrap();
    }
    let too_much = RawTold { counted: (1 << 47) + 1, ..told };
    assert_eq!(store.observe(&org, &ledger, &too_much).await.unwrap_err().kind(), ErrorKind::Invalid);
    assert_eq!(store.observe(&org, &ledger, &RawTold { counted: 1 << 47, ..told }).await.unwrap(), Some([0, 1 << 47]));
    let expires = async |conn: &mut _, key: &str| redis::cmd("PTTL").arg(key).query_async::<i64>(conn).await.unwrap();
    assert!((60_000..=120_000).contains(&expires(&mut conn, &others).await));
}
