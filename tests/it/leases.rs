//! Calls under way: slots that are held while a call lasts, come back when its holder is gone, and are never held twice.

use std::{
    collections::BTreeMap,
    future::{Future, IntoFuture},
    pin::pin,
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use allotment::{
    Cost, ErrorKind, Lease, Limit, Limiter, ManualClock, Outcome, Permit, Policy, Reason, Resource, Retry, Subject,
    testing::{RAW_LEASE_MS, RawAcquire, RawAsk, RawLedger, RawSettle, RawVerdict},
};

use crate::support::{Stage, raw, shared};

const MINUTE: Duration = Duration::from_secs(60);

fn alice() -> Subject {
    Subject::org("acme").user("alice")
}

fn policy(calls: u64) -> Policy {
    Policy::new().limit(Limit::new("calls").in_flight(calls)).limit(Limit::new("rate").requests(1_000).window(MINUTE))
}

fn limiter(calls: u64) -> (Limiter, ManualClock) {
    let clock = ManualClock::new();
    (Limiter::builder().policy(policy(calls)).clock(clock.clone()).build().unwrap(), clock)
}

async fn take(limiter: &Limiter) -> Permit {
    limiter.try_acquire(&alice(), Cost::new()).await.unwrap().into_result().unwrap()
}

async fn is_full(limiter: &Limiter) -> bool {
    match limiter.try_acquire(&alice(), Cost::new()).await.unwrap() {
        Outcome::Admitted(permit) => permit.release().await.is_err(),
        Outcome::Denied(denial) => denial.reason == Reason::InFlight,
    }
}

#[tokio::test]
async fn a_slot_is_held_until_commit_release_or_drop() {
    let server = shared().await;
    let on_redis = Limiter::builder().redis(server.url()).policy(policy(2)).deadline(MINUTE).build().unwrap();
    for (limiter, org) in [(limiter(2).0, "memory"), (on_redis, "a-slot-is-held")] {
        let subject = Subject::org(org).user("alice");
        let take = async || limiter.try_acquire(&subject, Cost::new()).await.unwrap();
        let Outcome::Admitted(first) = take().await else { panic!() };
        let Outcome::Admitted(second) = take().await else { panic!() };
        let tokens = [&first, &second].map(|permit| permit.lease().map(Lease::token).unwrap());
        assert!(tokens[1] > tokens[0], "{tokens:?}");
        let Outcome::Denied(denial) = take().await else { panic!("{org}: a third call") };
        assert_eq!(
            (&*denial.limit, &denial.resource, &denial.reason),
            ("calls", &Resource::InFlight, &Reason::InFlight)
        );
        assert!(denial.is_estimate() && denial.retry_after().unwrap() <= Duration::from_secs(15), "{denial}");
        let status = denial.limits.iter().find(|status| status.resource == Resource::InFlight).unwrap();
        assert_eq!((status.limit, status.used, status.remaining), (2, 2, 0));
        assert_eq!(denial.limits[0].used, 2, "nothing is charged");
        first.commit(Cost::new()).await.unwrap();
        let Outcome::Admitted(third) = take().await else { panic!("{org}: after a commit") };
        third.release().await.unwrap();
        let Outcome::Admitted(fourth) = take().await else { panic!("{org}: after a release") };
        drop((second, fourth));
        // on Redis, a dropped permit frees its slot in the background
        let until = Instant::now() + MINUTE;
        let mut freed = Vec::new();
        while freed.len() < 2 {
            assert!(Instant::now() < until, "{org}: a dropped permit keeps its slot");
            match take().await {
                Outcome::Admitted(permit) => freed.push(permit),
                Outcome::Denied(_) => tokio::task::yield_now().await,
            }
        }
    }
}

fn request(number: u64, user: &str, slots: u64) -> RawAcquire {
    let mut id = [0; 16];
    id[8..].copy_from_slice(&(number + 1).to_be_bytes());
    let ledger = RawLedger { user: None, window_ms: 60_000 };
    let asked = vec![RawAsk { ledger, amounts: [1, 0, 0], limits: [None; 3] }];
    RawAcquire { id, asked, slots: vec![(Some(user.to_owned()), slots)], ..RawAcquire::default() }
}

fn settlement(request: &RawAcquire, checks_leases: bool) -> RawSettle {
    let slots = request.slots.iter().map(|(user, _)| user.clone()).collect();
    let charges = request.asked.iter().map(|asked| (asked.ledger.clone(), asked.amounts, asked.amounts)).collect();
    RawSettle { id: request.id, charges, slots, checks_leases, ..RawSettle::default() }
}

/// A hundred holders die at once: whoever comes next finds all of their slots when their leases have expired, and none a millisecond before.
#[tokio::test]
async fn slots_of_the_dead_come_back_when_their_leases_expire() {
    for stage in Stage::both().await {
        let store = stage.raw();
        let requests: Vec<_> = (0..100).map(|number| request(number, "alice", 100)).collect();
        for answer in store.acquire("acme", &requests).await {
            assert!(matches!(answer.unwrap().verdict, RawVerdict::Admitted { .. }), "{}", stage.name());
        }
        stage.advance_ms(RAW_LEASE_MS - 1);
        let late: Vec<_> = (100..200).map(|number| request(number, "alice", 100)).collect();
        for answer in store.acquire("acme", &late).await {
            let answer = answer.unwrap();
            assert_eq!(answer.verdict, RawVerdict::Full { slots: 0, at: stage.now_ms() + 1 }, "{}", stage.name());
        }
        stage.advance_ms(1);
        for (index, answer) in store.acquire("acme", &late).await.into_iter().enumerate() {
            let answer = answer.unwrap();
            assert_eq!(
                (answer.verdict, answer.in_flight),
                (RawVerdict::Admitted { at: stage.now_ms() }, vec![index as u64 + 1])
            );
        }
    }
}

#[tokio::test]
async fn a_zombie_changes_nothing() {
    for stage in Stage::both().await {
        let store = stage.raw();
        let (zombie, heir) = (request(1, "alice", 1), request(2, "alice", 1));
        let first = store.acquire("acme", std::slice::from_ref(&zombie)).await.remove(0).unwrap();
        stage.advance_ms(RAW_LEASE_MS);
        let second = store.acquire("acme", std::slice::from_ref(&heir)).await.remove(0).unwrap();
        assert!(second.token > first.token && first.token > 0, "{}", stage.name());
        let lease = |request: &RawAcquire| (Some("alice".to_owned()), request.id);
        assert_eq!(store.renew("acme", &[lease(&zombie), lease(&heir)]).await.unwrap(), [false, true]);
        assert_eq!(
            store.settle("acme", &[settlement(&zombie, true)]).await.remove(0).unwrap(),
            "lost",
            "{}",
            stage.name()
        );
        let third = store.acquire("acme", &[request(3, "alice", 1)]).await.remove(0).unwrap();
        assert!(matches!(third.verdict, RawVerdict::Full { .. }), "{}: the heir has the slot", stage.name());
        assert_eq!(store.settle("acme", &[settlement(&heir, true)]).await.remove(0).unwrap(), "now");
        let fourth = store.acquire("acme", &[request(4, "alice", 1)]).await.remove(0).unwrap();
        assert!(fourth.token > second.token, "{}", stage.name());
    }
}

#[tokio::test]
async fn a_heartbeat_keeps_the_slots_of_a_living_process() {
    let (limiter, clock) = limiter(1);
    let permit = take(&limiter).await;
    for _ in 0..20 {
        // a third of a lease, and the task that renews runs
        clock.advance(Duration::from_secs(5));
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        assert!(permit.lease().unwrap().is_live() && is_full(&limiter).await);
    }
    permit.commit(Cost::new()).await.unwrap();
    assert!(!is_full(&limiter).await);
}

/// As a process that was stopped for longer than its leases live: its clock went on, its heartbeat did not.
#[tokio::test]
async fn a_call_whose_lease_was_lost_is_told_and_keeps_its_charge() {
    let (limiter, clock) = limiter(1);
    let permit = take(&limiter).await;
    clock.advance(Duration::from_secs(16));
    assert!(!permit.lease().unwrap().is_live());
    permit.lease().unwrap().lost().await;
    let heir = take(&limiter).await;
    assert_eq!(permit.commit(Cost::new().requests(500)).await.unwrap_err().kind(), ErrorKind::LeaseLost);
    assert!(is_full(&limiter).await, "the zombie's commit freed nothing");
    assert_eq!(heir.limits()[0].used, 2, "and its charge stays as estimated");
    heir.release().await.unwrap();
    assert_eq!(take(&limiter).await.limits()[0].used, 2);
}

/// `run` gives the charge of a failed call back, but not one whose slot has gone to somebody else.
#[tokio::test]
async fn a_failed_call_whose_lease_was_lost_keeps_its_charge() {
    let (limiter, clock) = limiter(1);
    let alice = alice();
    let fails = limiter.run_with(&alice, Cost::new(), async |permit| {
        clock.advance(Duration::from_secs(16));
        permit.lease().unwrap().lost().await;
        Err::<(), _>("the upstream was gone")
    });
    assert!(fails.await.is_err());
    assert_eq!(take(&limiter).await.limits()[0].used, 2, "the zombie's and this one");
    let fails = limiter.run(&alice, Cost::new(), async || Err::<(), _>("at once"));
    assert!(fails.await.is_err());
    assert_eq!(take(&limiter).await.limits()[0].used, 3, "one that had its slot gives back");
}

/// A Redis out of memory lets who has a slot keep it, and gives none to others.
#[tokio::test]
async fn out_of_memory_no_slot_is_lost_and_none_is_given() {
    let stage = Stage::redis().await;
    let Stage::Redis { server, .. } = &stage else { panic!("a stage in Redis") };
    let mut conn = raw(server).await;
    let store = stage.raw();
    let alone = |number| RawAcquire { asked: Vec::new(), home: None, ..request(number, "alice", 2) };
    let holder = store.acquire("acme", &[alone(1)]).await.remove(0).unwrap();
    assert!(holder.token > 0);
    redis::cmd("CONFIG").arg("SET").arg("maxmemory").arg("1").exec_async(&mut conn).await.unwrap();
    let lease = (Some("alice".to_owned()), alone(1).id);
    for _ in 0..4 {
        stage.advance_ms(RAW_LEASE_MS - 1);
        assert_eq!(store.renew("acme", std::slice::from_ref(&lease)).await.unwrap(), [true]);
        let refused = store.acquire("acme", &[alone(2)]).await.remove(0).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Unavailable, "{refused}");
    }
    redis::cmd("CONFIG").arg("SET").arg("maxmemory").arg("0").exec_async(&mut conn).await.unwrap();
    let second = store.acquire("acme", &[alone(2)]).await.remove(0).unwrap();
    assert_eq!((second.in_flight, second.token > holder.token), (vec![2], true));
}

#[tokio::test]
async fn a_call_that_waits_takes_its_slot_when_it_starts() {
    let clock = ManualClock::new();
    let rate = Limit::new("rate").requests(1).window(MINUTE);
    let both = Policy::new().limit(Limit::new("calls").in_flight(1)).limit(rate);
    let limiter = Limiter::builder().policy(both).clock(clock.clone()).lease(MINUTE * 10).build().unwrap();
    let first = take(&limiter).await;
    let mut waiting = pin!(limiter.acquire(&alice(), Cost::new()).max_wait(MINUTE * 4).into_future());
    let mut poll = || waiting.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    assert!(poll().is_pending(), "it has a place in a minute");
    clock.advance(MINUTE);
    assert!(poll().is_pending(), "its place has come, and no slot is free");
    first.commit(Cost::new()).await.unwrap();
    clock.advance(MINUTE);
    for _ in 0..600 {
        if let Poll::Ready(permit) = poll() {
            let permit = permit.unwrap();
            assert!(permit.lease().is_some_and(Lease::is_live) && permit.at_ms() <= clock.now_ms());
            return;
        }
        clock.advance(Duration::from_millis(100));
    }
    panic!("it never starts");
}

#[tokio::test]
async fn a_policy_may_count_nothing_but_calls_under_way() {
    let only =
        Policy::new().limit(Limit::new("calls").scope(["user"]).in_flight(1)).limit(Limit::new("all").in_flight(2));
    for stage in Stage::both().await {
        let limiter = stage.limiter(only.clone());
        let first = take(&limiter).await;
        assert!(is_full(&limiter).await, "{}", stage.name());
        first.commit(Cost::new()).await.unwrap();
        take(&limiter).await.release().await.unwrap();
        assert!(!is_full(&limiter).await, "{}", stage.name());
    }
}

#[test]
fn a_limit_of_no_calls_admits_none() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let Outcome::Denied(denial) = limiter(0).0.try_acquire(&alice(), Cost::new()).await.unwrap() else { panic!() };
        assert_eq!((denial.resource, denial.retry), (Resource::InFlight, Retry::Never { over_by: 1 }));
    });
}

/// Several processes, callers that come and go, and leases that expire: at no moment are more live than there are slots.
#[tokio::test]
async fn live_leases_are_never_more_than_slots() {
    use rand::{Rng, SeedableRng, rngs::StdRng};
    for stage in Stage::both().await {
        let (store, mut random, mut held) = (stage.raw(), StdRng::seed_from_u64(7), BTreeMap::new());
        for number in 0..1_500 {
            stage.advance_ms(random.random_range(0..100));
            let now = stage.now_ms();
            held.retain(|_, (_, until)| *until > now);
            let asked = request(number, "alice", 5);
            let answer = store.acquire("acme", std::slice::from_ref(&asked)).await.remove(0).unwrap();
            if matches!(answer.verdict, RawVerdict::Admitted { .. }) {
                held.insert(number, (asked, now + RAW_LEASE_MS));
            }
            assert_eq!(answer.in_flight, [held.len() as u64], "{} call {number}", stage.name());
            assert!(held.len() <= 5, "{} call {number}", stage.name());
            if random.random_bool(0.02)
                && let Some((_, (asked, _))) = held.pop_first()
            {
                assert_eq!(store.settle("acme", &[settlement(&asked, true)]).await.remove(0).unwrap(), "now");
            }
        }
    }
}
