//! Whatever is lost or repeated on the way, a call counts once.
//!
//! Real time, because connections are cut and futures dropped while calls are on their way; windows of an hour, so that nothing leaves.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use allotment::{
    Cost, Limit, Limiter, Outcome, Policy, Subject,
    testing::{RawAcquire, RawAsk, RawLedger, RawSettle, RawStore, RawVerdict},
};
use rand::{Rng, SeedableRng, rngs::StdRng, seq::SliceRandom};
use tokio::task::JoinSet;

use crate::support::{Fault, Proxy, Server, Stage, connect, random_org, shared};

const HOUR: Duration = Duration::from_secs(3_600);
const DEADLINE: Duration = Duration::from_secs(20);
const CALLERS: u64 = 50;

fn limiter(url: String) -> Limiter {
    let limit = |limit: Limit| limit.requests(1 << 40).window(HOUR);
    let policy = Policy::new().limit(limit(Limit::new("org"))).limit(limit(Limit::new("user").scope(["user"])));
    Limiter::builder().redis(url).policy(policy).deadline(DEADLINE).build().unwrap()
}

/// What the org holds in the end, asked of the store past every fault.
async fn held(org: &str) -> u64 {
    let store = RawStore::redis(&shared().await.url(), DEADLINE).unwrap();
    let ledger = RawLedger { user: None, window_ms: 3_600_000 };
    let (_, entries) = store.entries(org, &[ledger]).await.unwrap();
    entries[0].iter().map(|(_, amounts)| amounts[0]).sum()
}

/// One caller's calls, each ended in one of the ways there are; says what they come to.
async fn play(limiter: Limiter, subject: Subject, calls: u64, seed: u64) -> u64 {
    let mut random = StdRng::seed_from_u64(seed);
    let mut kept = 0;
    for _ in 0..calls {
        let outcome = limiter.try_acquire(&subject, Cost::new().requests(3)).await.unwrap();
        let Outcome::Admitted(permit) = outcome else { panic!("a limit of 2^40 is not used up") };
        match random.random_range(0..4) {
            0 => permit.release().await.unwrap(),
            1 => {
                permit.commit(Cost::new().requests(5)).await.unwrap();
                kept += 5;
            }
            2 => {
                permit.commit(Cost::new().requests(1)).await.unwrap();
                kept += 1;
            }
            _ => {
                drop(permit);
                kept += 3;
            }
        }
    }
    kept
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_thousand_calls_count_once_each_while_replies_are_lost() {
    let proxy = Proxy::start(shared().await.port()).await;
    proxy.set(Fault::LoseRepliesAtRandom { share: 0.05, seed: 1 }).await;
    let org = random_org();
    let mut callers = JoinSet::new();
    // two limiters, as two processes would have
    for limiter in [limiter(proxy.url()), limiter(proxy.url())] {
        for caller in 0..CALLERS {
            let subject = Subject::org(org.as_str()).user(format!("u{}", caller % 7));
            // an acquire, and a commit or a release for three of four: 100,000 calls in all
            callers.spawn(play(limiter.clone(), subject, 600, caller));
        }
    }
    let kept: u64 = callers.join_all().await.into_iter().sum();
    let lost = proxy.lost_replies();
    assert!(lost > 50, "only {lost} replies were lost");
    assert_eq!(held(&org).await, kept, "after {lost} lost replies");
}

const LEDGER_MS: u64 = 3_600_000;

fn ledgers(user: u64) -> [RawLedger; 2] {
    [None, Some(format!("u{user}"))].map(|user| RawLedger { user, window_ms: LEDGER_MS })
}

fn acquire(id: [u8; 16], user: u64) -> RawAcquire {
    let asked = ledgers(user).map(|ledger| RawAsk { ledger, amounts: [3, 0, 0], limits: [Some(1 << 40), None, None] });
    RawAcquire { id, asked: asked.into(), home: Some(1), max_wait_ms: 0, ..RawAcquire::default() }
}

fn settle(id: [u8; 16], user: u64, actual: Option<u64>) -> RawSettle {
    let charges = ledgers(user).map(|ledger| (ledger, [3, 0, 0], [actual.unwrap_or(0), 0, 0]));
    RawSettle {
        id,
        charges: charges.into(),
        releases: actual.is_none(),
        made_at: None,
        home: Some(1),
        ..RawSettle::default()
    }
}

fn random_id(random: &mut StdRng, now_ms: u64) -> [u8; 16] {
    let mut id: [u8; 16] = random.random();
    id[..6].copy_from_slice(&now_ms.to_be_bytes()[2..]);
    id
}

/// One request of a generator that repeats and reorders.
#[derive(Clone, Copy)]
enum Sent {
    Acquire,
    Commit,
    Release,
}

#[tokio::test]
async fn an_id_has_one_effect_however_often_and_in_whatever_order_it_is_sent() {
    for stage in Stage::both().await {
        let (store, org) = (stage.raw(), random_org());
        let mut random = StdRng::seed_from_u64(7);
        let mut expected = [0_u64; 3];
        for round in 0..1_500 {
            stage.advance_ms(random.random_range(0..40));
            let user = round % 3;
            let id = random_id(&mut random, stage.now_ms());
            let actual = random.random_range(0..8);
            let mut sent = vec![Sent::Acquire, Sent::Acquire, Sent::Acquire, Sent::Commit, Sent::Commit, Sent::Release];
            sent.shuffle(&mut random);
            sent.truncate(random.random_range(1..=6));
            // what the first of each comes to: whoever ends an id first ends it
            let (mut made, mut ended) = (None, false);
            for what in sent {
                match what {
                    Sent::Acquire => {
                        let copies = random.random_range(1..3);
                        let answers = store.acquire(&org, &vec![acquire(id, user); copies]).await;
                        for answer in answers {
                            match answer.unwrap().verdict {
                                RawVerdict::Admitted { at } => {
                                    assert_eq!(
                                        *made.get_or_insert(at),
                                        at,
                                        "{}: a repeat has the first's time",
                                        stage.name()
                                    );
                                }
                                RawVerdict::Released => assert!(ended, "{}: nobody released it", stage.name()),
                                other => panic!("{}: {other:?}", stage.name()),
                            }
                        }
                    }
                    Sent::Commit => {
                        let settled = store.settle(&org, &[settle(id, user, Some(actual))]).await;
                        let name = settled.into_iter().next().unwrap().unwrap();
                        let owed = made.is_some() && !ended;
                        assert_eq!(name == "now", owed, "{}: {name}", stage.name());
                        if owed {
                            expected[user as usize] += actual;
                            ended = true;
                        }
                    }
                    Sent::Release => {
                        let settled = store.settle(&org, &[settle(id, user, None), settle(id, user, None)]).await;
                        let names: Vec<_> = settled.into_iter().map(Result::unwrap).collect();
                        assert_ne!(names[1], "now", "{}: the second release of one call", stage.name());
                        ended = true;
                    }
                }
            }
            expected[user as usize] += if made.is_some() && !ended { 3 } else { 0 };
        }
        for user in 0..3 {
            let (_, entries) = store.entries(&org, &ledgers(user)).await.unwrap();
            let held: Vec<u64> =
                entries.iter().map(|ledger| ledger.iter().map(|(_, amounts)| amounts[0]).sum()).collect();
            assert_eq!(held, [expected.iter().sum(), expected[user as usize]], "{} user {user}", stage.name());
        }
    }
}

#[tokio::test]
async fn a_release_that_arrives_before_its_acquire_leaves_a_tombstone() {
    for stage in Stage::both().await {
        for home in [Some(1), None] {
            let (store, org) = (stage.raw(), random_org());
            let id = random_id(&mut StdRng::seed_from_u64(1), stage.now_ms());
            let (mut acquire, mut release) = (acquire(id, 0), settle(id, 0, None));
            (acquire.home, release.home) = (home, home);
            assert_eq!(*store.settle(&org, &[release]).await[0].as_ref().unwrap(), "absent");
            for _ in 0..3 {
                let answer = store.acquire(&org, std::slice::from_ref(&acquire)).await.remove(0).unwrap();
                assert_eq!(answer.verdict, RawVerdict::Released, "{} {home:?}", stage.name());
                assert_eq!(answer.used, [[0; 3]; 2], "{} {home:?}", stage.name());
                stage.advance_ms(19_000);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_future_dropped_at_any_point_gives_its_charge_back() {
    let proxy = Proxy::start(shared().await.port()).await;
    let pause = Duration::from_millis(1);
    proxy.set(Fault::Delay { up: pause, down: pause }).await;
    for coalesced in [64, 1] {
        let org = random_org();
        let policy = Policy::new()
            .limit(Limit::new("org").requests(1 << 40).window(HOUR))
            .limit(Limit::new("user").scope(["user"]).requests(1 << 40).window(HOUR));
        let limiter = Limiter::builder().redis(proxy.url()).policy(policy).deadline(DEADLINE).batch_max(coalesced);
        let limiter = limiter.build().unwrap();
        let (dropped, kept) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let mut callers = JoinSet::new();
        for caller in 0..40 {
            let (limiter, dropped, kept) = (limiter.clone(), Arc::clone(&dropped), Arc::clone(&kept));
            let subject = Subject::org(org.as_str()).user(format!("u{}", caller % 5));
            callers.spawn(async move {
                let mut random = StdRng::seed_from_u64(caller);
                for call in 0..50 {
                    let patience = Duration::from_micros(random.random_range(0..6_000));
                    let waits = call % 2 == 0;
                    let permit = async {
                        if waits {
                            return limiter.acquire(&subject, Cost::new()).await.unwrap();
                        }
                        limiter.try_acquire(&subject, Cost::new()).await.unwrap().into_result().unwrap()
                    };
                    match tokio::time::timeout(patience, permit).await {
                        Ok(permit) => {
                            drop(permit);
                            kept.fetch_add(1, Ordering::Relaxed);
                        }
                        Err(_) => {
                            dropped.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                }
            });
        }
        callers.join_all().await;
        limiter.shutdown().await;
        let (dropped, kept) = (dropped.load(Ordering::Relaxed), kept.load(Ordering::Relaxed));
        assert!(dropped > 100, "only {dropped} of {} were dropped", dropped + kept);
        assert_eq!(held(&org).await, kept, "{dropped} dropped, in batches of up to {coalesced}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_notices_that_the_scripts_are_flushed_over_and_over() {
    // a server of its own: the shared one keeps its scripts
    let server = Server::start().await;
    let limiter = limiter(server.url());
    let mut conn = connect(&server.url()).await.unwrap();
    let flushes = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&flushes);
    let mut flusher = JoinSet::new();
    flusher.spawn(async move {
        loop {
            redis::cmd("SCRIPT").arg("FLUSH").exec_async(&mut conn).await.unwrap();
            counted.fetch_add(1, Ordering::Relaxed);
            // the pace of the fault, not a wait for something
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    let mut callers = JoinSet::new();
    for caller in 0..CALLERS {
        // an org each, so that calls are not coalesced away
        callers.spawn(play(limiter.clone(), Subject::org(random_org()).user("a"), 230, caller));
    }
    let kept: u64 = callers.join_all().await.into_iter().sum();
    assert!(kept > 0);
    let flushes = flushes.load(Ordering::Relaxed);
    assert!(flushes > 100, "only {flushes} flushes");
}
