//! What operators decide, live: it binds every process from the next decision on, ends when it should, and is written down.

use std::{
    future::{Future, IntoFuture},
    pin::pin,
    task::{Context, Poll, Waker},
    time::Duration,
};

use allotment::{
    ActiveControl, Admin, AuditRecord, Control, Cost, Denial, ErrorKind, Limit, Limiter, ManualClock, Outcome, Policy,
    Reason, Resource, Retry, Subject,
    testing::{RawAcquire, RawAsk, RawLedger, RawVerdict},
};

use crate::support::{Stage, connect, shared};

const MINUTE: Duration = Duration::from_secs(60);

fn policy() -> Policy {
    let user = Limit::new("user").scope(["user"]).images(4).window(MINUTE);
    Policy::new().limit(user).limit(Limit::new("calls").in_flight(9))
}

fn alice(org: &str) -> Subject {
    Subject::org(org).user("alice")
}

/// Takes an image and ends the call; or why not.
async fn take(limiter: &Limiter, subject: &Subject) -> Result<(), Denial> {
    match limiter.try_acquire(subject, Cost::images(1)).await.unwrap() {
        Outcome::Admitted(permit) => {
            permit.commit(Cost::images(1)).await.unwrap();
            Ok(())
        }
        Outcome::Denied(denial) => Err(denial),
    }
}

/// How many images of a thousand are admitted now.
async fn room(limiter: &Limiter, subject: &Subject) -> u64 {
    let mut taken = 0;
    while taken < 1_000 && take(limiter, subject).await.is_ok() {
        taken += 1;
    }
    taken
}

#[tokio::test]
async fn a_block_binds_at_once_and_ends_when_it_should() {
    for stage in Stage::both().await {
        let limiter = stage.limiter(policy());
        let (admin, org) = (Admin::new(&limiter, "dana").unwrap(), "acme");
        take(&limiter, &alice(org)).await.unwrap();
        let block = Control::block().on("user", "alice").because("spam").lasting(MINUTE);
        admin.apply(org, &block).await.unwrap();
        let denial = take(&limiter, &alice(org)).await.unwrap_err();
        assert_eq!(denial.reason, Reason::Blocked { because: Some("spam".into()) }, "{}", stage.name());
        assert_eq!(denial.retry, Retry::Estimate(MINUTE), "{}", stage.name());
        assert_eq!(denial.to_string(), "blocked by an operator (spam); retry after 60s");
        take(&limiter, &Subject::org(org).user("bob")).await.unwrap();
        assert!(limiter.peek(&Subject::org(org).user("bob"), Cost::images(1)).await.is_ok(), "{}", stage.name());
        stage.advance_ms(59_999);
        assert!(take(&limiter, &alice(org)).await.is_err(), "{}", stage.name());
        stage.advance_ms(1);
        assert!(take(&limiter, &alice(org)).await.is_ok(), "{}", stage.name());

        admin.apply(org, &Control::block()).await.unwrap();
        let denial = take(&limiter, &Subject::org(org).user("bob")).await.unwrap_err();
        assert!(
            denial.is_never() && denial.limit.as_ref() == "block",
            "{}: the whole org, without an end",
            stage.name()
        );
        take(&limiter, &alice("another")).await.unwrap();
        assert!(admin.withdraw(org, &Control::block()).await.unwrap());
        assert!(!admin.withdraw(org, &Control::block()).await.unwrap());
        take(&limiter, &Subject::org(org).user("bob")).await.unwrap();
    }
}

#[tokio::test]
async fn amounts_change_and_usage_stays() {
    for stage in Stage::both().await {
        let limiter = stage.limiter(policy());
        let (admin, subject) = (Admin::new(&limiter, "dana").unwrap(), alice("acme"));
        assert_eq!(room(&limiter, &subject).await, 4, "{}", stage.name());
        let more = Control::amount("user", "images", 6);
        admin.apply("acme", &more).await.unwrap();
        assert_eq!(room(&limiter, &subject).await, 2, "{}", stage.name());
        admin.apply("acme", &Control::amount("user", "images", 9).on("user", "alice")).await.unwrap();
        assert_eq!(room(&limiter, &subject).await, 3, "{}: the narrower one wins", stage.name());
        admin.apply("acme", &Control::scale("user", 200)).await.unwrap();
        assert_eq!(room(&limiter, &subject).await, 9, "{}", stage.name());
        assert_eq!(room(&limiter, &Subject::org("acme").user("bob")).await, 12, "{}", stage.name());
        assert!(admin.withdraw("acme", &Control::scale("user", 1)).await.unwrap());
        let denial = take(&limiter, &subject).await.unwrap_err();
        assert_eq!((denial.limits[0].limit, denial.limits[0].used), (9, 18), "{}", stage.name());
    }
}

/// What is granted can be used once: while it lasts, one window, and not beside the limit again after it.
#[tokio::test]
async fn a_grant_is_used_once() {
    for stage in Stage::both().await {
        let limiter = stage.limiter(policy());
        let (admin, subject) = (Admin::new(&limiter, "dana").unwrap(), alice("acme"));
        let mut taken = room(&limiter, &subject).await;
        admin.apply("acme", &Control::grant("user", "images", 5).on("user", "alice")).await.unwrap();
        taken += room(&limiter, &subject).await;
        assert_eq!(taken, 9, "{}", stage.name());
        for _ in 0..16 {
            stage.advance_ms(15_000);
            taken += room(&limiter, &subject).await;
        }
        assert_eq!(taken, 5 + 4 * 5, "{}: four minutes, and the grant", stage.name());
    }
}

#[tokio::test]
async fn shadows_candidates_and_a_bypass_deny_nothing() {
    for stage in Stage::both().await {
        let limiter = stage.limiter(policy());
        let (admin, subject) = (Admin::new(&limiter, "dana").unwrap(), alice("acme"));
        admin.apply("acme", &Control::candidate("user", "images", 2).on("user", "alice")).await.unwrap();
        admin.apply("acme", &Control::candidate("user", "images", 3)).await.unwrap();
        assert_eq!(room(&limiter, &subject).await, 4, "{}", stage.name());
        let denial = take(&limiter, &subject).await.unwrap_err();
        let names: Vec<_> = denial.limits.iter().map(|status| (&*status.name, status.limit, status.shadow)).collect();
        assert_eq!(names, [("user", 4, false), ("user.candidate", 2, true), ("calls", 9, false)], "{}", stage.name());
        assert_eq!((&*denial.limit, denial.limits[1].used), ("user", 4), "{}", stage.name());

        admin.apply("acme", &Control::shadow("user").lasting(MINUTE / 2)).await.unwrap();
        take(&limiter, &subject).await.unwrap();
        stage.advance_ms(29_999);
        take(&limiter, &subject).await.unwrap();
        stage.advance_ms(1);
        assert!(take(&limiter, &subject).await.is_err(), "{}: it ended, and what it let through counts", stage.name());

        admin.apply("acme", &Control::block()).await.unwrap();
        admin.apply("acme", &Control::bypass().lasting(MINUTE)).await.unwrap();
        assert_eq!(room(&limiter, &subject).await, 1_000, "{}", stage.name());
        stage.advance_ms(60_000);
        assert!(
            matches!(take(&limiter, &subject).await.unwrap_err().reason, Reason::Blocked { .. }),
            "{}",
            stage.name()
        );
    }
}

#[tokio::test]
async fn a_block_refuses_a_place_when_it_starts() {
    let clock = ManualClock::new();
    let limiter = Limiter::builder().policy(policy()).clock(clock.clone()).build().unwrap();
    let (admin, subject) = (Admin::new(&limiter, "dana").unwrap(), alice("acme"));
    assert_eq!(room(&limiter, &subject).await, 4);
    let mut waiting = pin!(limiter.acquire(&subject, Cost::images(1)).into_future());
    let mut poll = || waiting.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    assert!(poll().is_pending());
    admin.apply("acme", &Control::block().on("user", "alice")).await.unwrap();
    clock.advance(MINUTE);
    let Poll::Ready(Err(error)) = poll() else { panic!("it starts, or waits on") };
    assert!(matches!(error.denial().unwrap().reason, Reason::Blocked { .. }));
    admin.withdraw("acme", &Control::block().on("user", "alice")).await.unwrap();
    assert_eq!(room(&limiter, &subject).await, 4, "its place was given back");
}

#[tokio::test]
async fn a_place_stays_where_it_is_though_its_limit_has_become_too_small() {
    let clock = ManualClock::new();
    let limiter = Limiter::builder().policy(policy()).clock(clock.clone()).build().unwrap();
    let (admin, subject) = (Admin::new(&limiter, "dana").unwrap(), alice("acme"));
    assert_eq!(room(&limiter, &subject).await, 4);
    let mut waiting = pin!(limiter.acquire(&subject, Cost::images(3)).into_future());
    let mut poll = || waiting.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    assert!(poll().is_pending());
    admin.apply("acme", &Control::amount("user", "images", 2)).await.unwrap();
    for second in 1..60 {
        clock.advance(Duration::from_secs(1));
        assert!(poll().is_pending(), "it starts after {second} s");
    }
    clock.advance(Duration::from_secs(1));
    let Poll::Ready(Ok(permit)) = poll() else { panic!("its place is gone") };
    drop(permit);
}

#[tokio::test]
async fn every_process_of_a_fleet_is_bound_by_its_next_decision() {
    let server = shared().await;
    let process = || Limiter::builder().redis(server.url()).policy(policy()).deadline(MINUTE).build().unwrap();
    let (fleet, org) = ([process(), process(), process()], "every-process");
    let admin = Admin::new(&process(), "dana").unwrap();
    for limiter in &fleet {
        take(limiter, &alice(org)).await.unwrap();
    }
    for round in 0..5 {
        admin.apply(org, &Control::block()).await.unwrap();
        for limiter in &fleet {
            assert!(take(limiter, &alice(org)).await.is_err(), "round {round}");
        }
        assert!(admin.withdraw(org, &Control::block()).await.unwrap());
        for limiter in &fleet {
            let denied = take(limiter, &alice(org)).await;
            assert!(denied.is_ok() || denied.unwrap_err().reason == Reason::Limit, "round {round}");
        }
    }
}

/// The head of an org expires when nobody asks; a block without an end does not.
#[tokio::test]
async fn a_block_outlives_the_head_of_its_org() {
    let server = shared().await;
    let limiter = Limiter::builder().redis(server.url()).policy(policy()).deadline(MINUTE).build().unwrap();
    let (admin, org) = (Admin::new(&limiter, "dana").unwrap(), "outlives-the-head");
    take(&limiter, &alice(org)).await.unwrap();
    admin.apply(org, &Control::block()).await.unwrap();
    let mut conn = connect(&server.url()).await.unwrap();
    let ttl = async |conn: &mut _, key: &str| redis::cmd("PTTL").arg(key).query_async::<i64>(conn).await.unwrap();
    assert_eq!(ttl(&mut conn, "allot:1:{outlives-the-head}:c").await, -1);
    assert!(ttl(&mut conn, "allot:1:{outlives-the-head}:a").await > 0);
    redis::cmd("DEL").arg("allot:1:{outlives-the-head}:h").exec_async(&mut conn).await.unwrap();
    let another = Limiter::builder().redis(server.url()).policy(policy()).deadline(MINUTE).build().unwrap();
    assert!(take(&another, &alice(org)).await.is_err());
    let ends = Control::block().lasting(MINUTE);
    admin.apply(org, &ends).await.unwrap();
    let left = ttl(&mut conn, "allot:1:{outlives-the-head}:c").await;
    assert!((1..=60_001).contains(&left), "{left}");
    assert!(admin.withdraw(org, &ends).await.unwrap());
    let left = ttl(&mut conn, "allot:1:{outlives-the-head}:c").await;
    assert!((1..=75_000).contains(&left), "the version is remembered until it cannot come back: {left}");
}

/// A cost above a limit is answered by the controls that the process knows, so it must ask whether they are still those.
#[tokio::test]
async fn a_call_that_can_never_be_learns_when_it_can() {
    for stage in Stage::both().await {
        let limiter = stage.limiter(policy());
        let (admin, subject) = (Admin::new(&limiter, "dana").unwrap(), alice("acme"));
        let nine = async || match limiter.try_acquire(&subject, Cost::images(9)).await.unwrap() {
            Outcome::Admitted(permit) => permit.release().await.is_ok(),
            Outcome::Denied(denial) => !denial.is_never(),
        };
        assert!(!nine().await, "{}", stage.name());
        admin.apply("acme", &Control::amount("user", "images", 9)).await.unwrap();
        assert!(nine().await, "{}", stage.name());
        admin.apply("acme", &Control::amount("user", "images", 0).lasting(MINUTE)).await.unwrap();
        assert!(take(&limiter, &subject).await.unwrap_err().is_never(), "{}", stage.name());
        stage.advance_ms(60_000);
        assert!(take(&limiter, &subject).await.is_ok(), "{}", stage.name());
    }
}

/// The late release of a call leaves a head that knows nothing of controls.
#[tokio::test]
async fn a_release_without_a_head_does_not_end_a_block() {
    let server = shared().await;
    let limiter = || Limiter::builder().redis(server.url()).policy(policy()).deadline(MINUTE).build().unwrap();
    let (first, org) = (limiter(), "late-release");
    let Outcome::Admitted(permit) = first.try_acquire(&alice(org), Cost::images(1)).await.unwrap() else { panic!() };
    let mut conn = connect(&server.url()).await.unwrap();
    redis::cmd("DEL")
        .arg("allot:1:{late-release}:h")
        .arg("allot:1:{late-release}:60000:u:alice")
        .exec_async(&mut conn)
        .await
        .unwrap();
    Admin::new(&first, "dana").unwrap().apply(org, &Control::block()).await.unwrap();
    permit.release().await.unwrap();
    assert!(take(&limiter(), &alice(org)).await.is_err());
}

/// One call of the script decides for many: those of a blocked subject, which ask for nothing, go between the others.
#[tokio::test]
async fn who_is_blocked_is_answered_between_others() {
    for stage in Stage::both().await {
        let store = stage.raw();
        assert!(store.govern("acme", "block", Some("{}"), Some(5_000)).await.unwrap());
        let (version, controls) = store.controls("acme").await.unwrap();
        let known = (version, controls[0].1);
        let ledger = RawLedger { user: Some("bob".to_owned()), window_ms: 60_000 };
        let ask = RawAsk { ledger, amounts: [1, 0, 0], limits: [Some(2), None, None] };
        let id = |number| [number; 16];
        let takes = |number| RawAcquire {
            id: id(number),
            asked: vec![ask.clone()],
            home: Some(0),
            controls: known,
            ..RawAcquire::default()
        };
        let blocked =
            |number, controls| RawAcquire { id: id(number), controls, is_blocked: true, ..RawAcquire::default() };
        let batch = [
            blocked(1, known),
            takes(2),
            blocked(3, (version + 1, None)),
            blocked(4, known),
            takes(5),
            takes(6),
            blocked(7, known),
        ];
        let answers = store.acquire("acme", &batch).await.into_iter().map(|answer| answer.unwrap().verdict);
        let now = stage.now_ms();
        let denied = RawVerdict::Denied { at: now, setter: 0, short: Vec::new() };
        let full = RawVerdict::Denied { at: now + 60_000, setter: 0, short: vec![[true, false, false]] };
        let admitted = RawVerdict::Admitted { at: now };
        let expected = [denied.clone(), admitted.clone(), RawVerdict::Stale, denied.clone(), admitted, full, denied];
        assert_eq!(answers.collect::<Vec<_>>(), expected, "{}", stage.name());
        stage.advance_ms(5_000);
        let ended = store.acquire("acme", &[blocked(8, known)]).await.remove(0).unwrap();
        assert_eq!(ended.verdict, RawVerdict::Stale, "{}", stage.name());
    }
}

#[tokio::test]
async fn a_raised_pool_is_shared_up_to_its_new_amount() {
    let pool = Policy::new().limit(Limit::new("pool").images(10).window(MINUTE).fair_share());
    for stage in Stage::both().await {
        let limiter = stage.limiter(pool.clone());
        Admin::new(&limiter, "dana").unwrap().apply("acme", &Control::amount("pool", "images", 50)).await.unwrap();
        assert_eq!(room(&limiter, &alice("acme")).await, 50, "{}", stage.name());
    }
}

#[tokio::test]
async fn what_was_changed_is_listed_and_written_down() {
    for stage in Stage::both().await {
        let limiter = stage.limiter(policy());
        let (admin, at) = (Admin::new(&limiter, "dana").unwrap(), stage.now_ms());
        admin.apply("acme", &Control::scale("user", 50).lasting(MINUTE)).await.unwrap();
        stage.advance_ms(1_000);
        Admin::new(&limiter, "eli").unwrap().apply("acme", &Control::scale("user", 25)).await.unwrap();
        let controls: Vec<ActiveControl> = admin.controls("acme").await.unwrap();
        assert_eq!(controls.len(), 1, "{}", stage.name());
        assert_eq!((&controls[0].control, controls[0].expires_after), (&Control::scale("user", 25), None));
        admin.withdraw("acme", &Control::scale("user", 1)).await.unwrap();
        admin.reset(&alice("acme")).await.unwrap();
        let audit: Vec<AuditRecord> = admin.audit("acme", 10).await.unwrap();
        let seen: Vec<_> =
            audit.iter().map(|record| (record.by.as_str(), record.what.split(' ').next().unwrap())).collect();
        assert_eq!(
            seen,
            [("dana", "reset"), ("dana", "scale"), ("eli", "scale"), ("dana", "scale")],
            "{}",
            stage.name()
        );
        assert!(audit[1].new.is_empty() && audit[1].old.contains("25"), "{:?}", audit[1]);
        assert!(audit[2].old.contains("50") && audit[2].new.contains("25") && audit[2].at_ms == at + 1_000);
        assert_eq!(admin.audit("acme", 1).await.unwrap(), audit[..1]);
    }
}

#[tokio::test]
async fn one_limit_is_reset_and_the_others_keep_what_they_counted() {
    for stage in Stage::both().await {
        let limits = policy().limit(Limit::new("pool").images(100).window(MINUTE));
        let limiter = stage.limiter(limits);
        let (admin, subject) = (Admin::new(&limiter, "dana").unwrap(), alice("acme"));
        assert_eq!(room(&limiter, &subject).await, 4, "{}", stage.name());
        admin.reset_limit(&subject, "user").await.unwrap();
        assert_eq!(room(&limiter, &subject).await, 4, "{}", stage.name());
        let seen = admin.inspect(&subject).await.unwrap();
        let used: Vec<_> = seen.limits.iter().map(|limit| (&*limit.status.name, limit.status.used)).collect();
        assert_eq!(used, [("user", 4), ("pool", 8), ("calls", 0)], "{}", stage.name());
        let audit = admin.audit("acme", 1).await.unwrap();
        assert!(audit[0].what.starts_with("reset user ") && audit[0].what.contains("alice"), "{audit:?}");
        for (subject, limit) in [(&subject, "usr"), (&subject, "calls"), (&Subject::org("acme"), "user")] {
            let refused = admin.reset_limit(subject, limit).await.unwrap_err();
            assert!(refused.kind() == ErrorKind::Invalid && refused.to_string().contains(limit), "{refused}");
        }
        assert_eq!(admin.audit("acme", 9).await.unwrap().len(), 1, "what was refused is not written");
    }
}

#[tokio::test]
async fn what_cannot_be_is_refused_and_changes_nothing() {
    let limiter = Limiter::builder().policy(policy()).clock(ManualClock::new()).build().unwrap();
    let admin = Admin::new(&limiter, "dana").unwrap();
    for (control, says) in [
        (Control::shadow("usr"), "limit \"usr\""),
        (Control::grant("user", Resource::Tokens, 1), "that counts tokens"),
        (Control::bypass(), "it must have an end"),
        (Control::scale("user", 0), "scale 0"),
        (Control::block().lasting(Duration::ZERO), "lasting 0ns"),
        (Control::block().on("user", ""), "user \"\""),
    ] {
        let error = admin.apply("acme", &control).await.unwrap_err();
        assert!(error.kind() == ErrorKind::Invalid && error.to_string().contains(says), "{error}");
    }
    assert!(admin.controls("acme").await.unwrap().is_empty() && admin.audit("acme", 9).await.unwrap().is_empty());
    assert_eq!(Admin::new(&limiter, "").unwrap_err().kind(), ErrorKind::Invalid);
}
