//! What writes nothing: a denial, a script that meets a key it cannot read, and a call that a full Redis refuses.

use std::{collections::BTreeMap, time::Duration};

use allotment::{
    Cost, ErrorKind, Limit, Limiter, Outcome, Policy, Subject,
    testing::{RawAcquire, RawAsk, RawLedger, RawSettle, RawStore, RawVerdict},
};
use redis::aio::MultiplexedConnection;

use crate::support::{Server, Stage, dump_all, random_org, raw};

type Dump = BTreeMap<String, crate::support::Stored>;

async fn connection(stage: &Stage) -> MultiplexedConnection {
    match stage {
        Stage::Redis { server, .. } => raw(server).await,
        Stage::Memory(_) => panic!("the embedded store has no keys"),
    }
}

async fn keys(conn: &mut MultiplexedConnection, org: &str) -> Dump {
    dump_all(conn, &format!("allot:1:{{{org}}}:*")).await
}

async fn is_denied(limiter: &Limiter, subject: &Subject, cost: Cost) -> bool {
    matches!(limiter.try_acquire(subject, cost).await.unwrap(), Outcome::Denied(_))
}

/// Ledgers of each kind: a user's carries its reservations, the org's does not; alone, the org's records have a hash of their own.
fn policies() -> [Policy; 3] {
    let org = || Limit::new("org").requests(50).tokens(5_000).images(40);
    let user = || Limit::new("user").scope(["user"]).requests(5).tokens(1_000);
    [Policy::new().limit(org()), Policy::new().limit(user()), Policy::new().limit(org()).limit(user())]
}

#[tokio::test]
async fn a_denial_leaves_every_key_as_it_was() {
    let stage = Stage::redis().await;
    let mut conn = connection(&stage).await;
    for policy in policies() {
        let limiter = stage.limiter(policy);
        let org = random_org();
        let users: Vec<_> = (0..60).map(|user| Subject::org(org.as_str()).user(format!("u{user}"))).collect();
        for round in 0..70 {
            // until every limit of the first user and of the org is used up, and their ledgers are long
            let _fills = limiter.try_acquire(&users[0], Cost::new().tokens(1)).await.unwrap();
            let _fills = limiter.try_acquire(&users[round % users.len()], Cost::images(1).tokens(100)).await.unwrap();
            stage.advance_ms(20);
        }
        let dear = || Cost::images(40).requests(5).tokens(1_000);
        for pause_ms in [0, 1, 700, 2_000] {
            stage.advance_ms(pause_ms);
            let before = keys(&mut conn, &org).await;
            assert!(is_denied(&limiter, &users[0], dear()).await, "alone, after {pause_ms} ms");
            assert_eq!(keys(&mut conn, &org).await, before, "alone, after {pause_ms} ms");
            // while the first call is on its way the others wait, and go together
            let together = (0..40).map(|_| (limiter.clone(), users[0].clone()));
            let together =
                together.map(|(limiter, user)| tokio::spawn(async move { is_denied(&limiter, &user, dear()).await }));
            for denied in together.collect::<Vec<_>>() {
                assert!(denied.await.unwrap(), "coalesced, after {pause_ms} ms");
            }
            assert_eq!(keys(&mut conn, &org).await, before, "coalesced, after {pause_ms} ms");
            let late = limiter.acquire(&users[0], dear()).max_wait(std::time::Duration::from_millis(1)).await;
            assert_eq!(late.unwrap_err().kind(), ErrorKind::Denied);
            let _seen = limiter.peek(&users[0], dear()).await.unwrap();
            assert_eq!(keys(&mut conn, &org).await, before, "too impatient, and a peek, after {pause_ms} ms");
        }
    }
}

/// A reservation of one user on the user's ledger and the org's.
fn request(number: u8, user: &str, carried: bool) -> RawAcquire {
    let ask = |user: Option<&str>| RawAsk {
        ledger: RawLedger { user: user.map(ToOwned::to_owned), window_ms: 60_000 },
        amounts: [1, 10, 0],
        limits: [Some(100), Some(10_000), None],
    };
    let asked = vec![ask(None), ask(Some(user))];
    let home = carried.then_some(1);
    // ids of one second share a hash of records
    let mut id = [0; 16];
    id[15] = number;
    RawAcquire { id, asked, home, max_wait_ms: 0, ..RawAcquire::default() }
}

fn settlement(number: u8, user: &str, carried: bool) -> RawSettle {
    let RawAcquire { id, asked, home, .. } = request(number, user, carried);
    let charges = asked.into_iter().map(|ask| (ask.ledger, ask.amounts, [1, 5, 0])).collect();
    RawSettle { id, charges, releases: false, made_at: None, home, ..RawSettle::default() }
}

/// Makes `key` something that no script expects: another type, or a text that is no ledger.
async fn spoil(conn: &mut MultiplexedConnection, key: &str, how: &str) {
    redis::cmd("DEL").arg(key).exec_async(conn).await.unwrap();
    let mut wrong = redis::cmd(how);
    wrong.arg(key);
    match how {
        "HSET" => wrong.arg("field").arg("value"),
        _ => wrong.arg("foreign"),
    };
    wrong.exec_async(conn).await.unwrap();
}

fn answers(results: &[Result<allotment::testing::RawAnswer, allotment::Error>]) -> Vec<&'static str> {
    let name = |result: &Result<allotment::testing::RawAnswer, allotment::Error>| match result {
        Ok(answer) if matches!(answer.verdict, RawVerdict::Admitted { .. }) => "admitted",
        Ok(_) => "denied",
        Err(error) if error.kind() == ErrorKind::Protocol => "protocol error",
        Err(error) => panic!("{error:?}"),
    };
    results.iter().map(name).collect()
}

/// The key of the org that ends as told, whatever it is called before that.
fn find(dump: &Dump, which: &str) -> String {
    let is_it = |key: &&String| match which {
        "head" => key.ends_with(":h"),
        "org" => key.ends_with("}:60000"),
        "records" => key.contains("}:r:"),
        user => key.ends_with(&format!(":u:{user}")),
    };
    dump.keys().find(is_it).unwrap_or_else(|| panic!("no key of {which} among {:?}", dump.keys())).clone()
}

async fn prepared(stage: &Stage, conn: &mut MultiplexedConnection, carried: bool) -> (RawStore, String, Dump) {
    let (store, org) = (stage.raw(), random_org());
    for (number, user) in [(1, "a"), (2, "b")] {
        let made = store.acquire(&org, &[request(number, user, carried)]).await;
        assert_eq!(answers(&made), ["admitted"]);
    }
    stage.advance_ms(10);
    let before = keys(conn, &org).await;
    (store, org, before)
}

#[tokio::test]
async fn a_key_that_no_script_can_read_fails_who_needs_it_and_nobody_else() {
    let stage = Stage::redis().await;
    let mut conn = connection(&stage).await;
    for carried in [true, false] {
        let everybody = ["head", "org"].into_iter().chain((!carried).then_some("records"));
        let targets = everybody.map(|key| (key, true)).chain([("a", false)]);
        for ((target, fails_all), how) in
            targets.flat_map(|target| ["SADD", "RPUSH", "HSET", "SET"].map(|how| (target, how)))
        {
            if target == "records" && how == "HSET" {
                continue;
            }
            let at = format!("{target} made by {how}, carried {carried}");
            let (store, org, before) = prepared(&stage, &mut conn, carried).await;
            let key = find(&before, target);
            spoil(&mut conn, &key, how).await;
            let spoiled = keys(&mut conn, &org).await;
            if fails_all {
                let asked = store.acquire(&org, &[request(3, "a", carried), request(4, "b", carried)]).await;
                assert_eq!(answers(&asked), ["protocol error"; 2], "{at}");
                let settled = store.settle(&org, &[settlement(1, "a", carried), settlement(2, "b", carried)]).await;
                assert!(settled.iter().all(Result::is_err), "{at}: {settled:?}");
                assert_eq!(keys(&mut conn, &org).await, spoiled, "{at}: nothing else was written");
                continue;
            }
            for requests in [vec![request(3, "a", carried)], vec![request(3, "a", carried), request(5, "a", carried)]] {
                assert!(
                    answers(&store.acquire(&org, &requests).await).iter().all(|one| *one == "protocol error"),
                    "{at}"
                );
                assert_eq!(keys(&mut conn, &org).await, spoiled, "{at}: {requests:?}");
            }
            let settled = store.settle(&org, &[settlement(1, "a", carried)]).await;
            assert!(settled[0].is_err(), "{at}: {settled:?}");
            assert_eq!(keys(&mut conn, &org).await, spoiled, "{at}: a commit");
            // the neighbour in the same batch is served, and only its keys change
            let batch = [request(6, "a", carried), request(7, "b", carried), request(8, "a", carried)];
            let asked = store.acquire(&org, &batch).await;
            assert_eq!(answers(&asked), ["protocol error", "admitted", "protocol error"], "{at}");
            let settled = store.settle(&org, &[settlement(1, "a", carried), settlement(2, "b", carried)]).await;
            assert!(settled[0].is_err() && settled[1].as_ref().is_ok_and(|done| *done == "now"), "{at}: {settled:?}");
            let after = keys(&mut conn, &org).await;
            assert_eq!(after.get(&key), spoiled.get(&key), "{at}: what is foreign is left alone");
            assert_ne!(after.get(&find(&before, "b")), spoiled.get(&find(&before, "b")), "{at}");
            let (_, held) = store.entries(&org, &[request(0, "b", carried).asked[0].ledger.clone()]).await.unwrap();
            let used = held[0].iter().fold([0; 2], |sum, (_, amounts)| [sum[0] + amounts[0], sum[1] + amounts[1]]);
            assert_eq!(used, [3, 25], "{at}: the org holds what was admitted, and nothing of the failed");
        }
    }
}

/// Each call that a full Redis refused was given back in the background: one more key, at the worst of times, for what was never charged.
#[tokio::test]
async fn a_call_that_a_full_redis_refuses_leaves_nothing_behind() {
    let server = Server::start().await;
    let (mut conn, org) = (raw(&server).await, random_org());
    let policy =
        Policy::new().limit(Limit::new("org").requests(10)).limit(Limit::new("user").scope(["user"]).requests(10));
    let limiter =
        || Limiter::builder().redis(server.url()).policy(policy.clone()).deadline(Duration::from_secs(20)).build();
    let (first, second) = (limiter().unwrap(), limiter().unwrap());
    drop(first.try_acquire(&Subject::org(org.as_str()).user("alice"), Cost::new()).await.unwrap());
    first.shutdown().await;
    let before = dump_all(&mut conn, "*").await;
    redis::cmd("CONFIG").arg("SET").arg("maxmemory").arg("1").exec_async(&mut conn).await.unwrap();
    let refused = second.try_acquire(&Subject::org(org.as_str()).user("bob"), Cost::new()).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Unavailable);
    // what is done in the background is done
    second.shutdown().await;
    assert_eq!(dump_all(&mut conn, "*").await, before);
}
