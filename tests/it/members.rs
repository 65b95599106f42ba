//! Who shares an org's limits while Redis is away: processes that give a sign of life, and when each of them is known to the others.

use allotment::{
    FailurePolicy,
    testing::{RAW_LEASE_MS, RawStore},
};
use redis::AsyncCommands;

use crate::support::{Behind, Server, Stage, eventually, random_org, raw, refuse_all_but, share_is_known_on, shared};

const A: [u8; 16] = [1; 16];
const B: [u8; 16] = [2; 16];

async fn store() -> (Stage, RawStore, String) {
    let stage = Stage::redis().await;
    let (store, org) = (stage.raw(), random_org());
    (stage, store, org)
}

#[tokio::test]
async fn a_member_is_aware_of_another_from_its_first_sign_after_that_one_joined() {
    let (stage, store, org) = store().await;
    let beat = async |id, joined_at| store.beat(&org, id, RAW_LEASE_MS, joined_at).await.unwrap();
    let a = stage.now_ms();
    assert_eq!(beat(A, 0).await, [a, 1, 1], "alone, and without a second sign");
    stage.advance_ms(1);
    assert_eq!(beat(A, a).await, [a, 1, 0]);
    let b = stage.now_ms();
    assert_eq!(beat(B, 0).await, [b, 2, 2]);
    stage.advance_ms(1_000);
    assert_eq!(beat(B, b).await, [b, 2, 1], "A does not know of B");
    assert_eq!(beat(A, a).await, [a, 2, 0], "now it does");
    assert_eq!(beat(B, b).await, [b, 2, 0]);
}

#[tokio::test]
async fn a_member_without_a_sign_for_a_lease_is_none_and_joins_anew() {
    let (stage, store, org) = store().await;
    let beat = async |id, joined_at| store.beat(&org, id, RAW_LEASE_MS, joined_at).await.unwrap();
    let start = stage.now_ms();
    beat(A, 0).await;
    stage.advance_ms(1_000);
    beat(B, 0).await;
    stage.advance_ms(RAW_LEASE_MS - 1_001);
    assert_eq!(beat(B, start + 1_000).await, [start + 1_000, 2, 1], "A counts until its lease ends");
    stage.advance_ms(1);
    assert_eq!(beat(B, start + 1_000).await, [start + 1_000, 1, 0], "and not from then on");
    assert_eq!(beat(A, start).await, [stage.now_ms(), 2, 2], "it is another member than it was");
}

#[tokio::test]
async fn a_member_that_leaves_is_none_and_the_key_goes_by_itself() {
    let (stage, store, org) = store().await;
    let Stage::Redis { server, .. } = &stage else { panic!("a stage in Redis") };
    let mut conn = raw(server).await;
    let key = format!("allot:1:{{{org}}}:p");
    for id in [A, B] {
        store.beat(&org, id, RAW_LEASE_MS, 0).await.unwrap();
    }
    let ttl_ms: u64 = conn.pttl(&key).await.unwrap();
    assert_eq!(ttl_ms, 75_000);
    assert_eq!(store.beat(&org, A, 0, 0).await.unwrap()[1], 1);
    assert_eq!(conn.zcard::<_, u64>(&key).await.unwrap(), 1);
    stage.advance_ms(75_001);
    assert!(!conn.exists::<_, bool>(&key).await.unwrap());
}

/// Should it fall silent after that, members decide by themselves: they stay members.
#[tokio::test]
async fn out_of_memory_a_member_stays_one() {
    let (stage, store, org) = store().await;
    let Stage::Redis { server, .. } = &stage else { panic!("a stage in Redis") };
    let mut conn = raw(server).await;
    let start = stage.now_ms();
    store.beat(&org, A, RAW_LEASE_MS, 0).await.unwrap();
    redis::cmd("CONFIG").arg("SET").arg("maxmemory").arg("1").exec_async(&mut conn).await.unwrap();
    for _ in 0..4 {
        stage.advance_ms(RAW_LEASE_MS - 1);
        assert_eq!(store.beat(&org, A, RAW_LEASE_MS, start).await.unwrap(), [start, 1, 0]);
    }
}

#[tokio::test]
async fn a_limiter_is_a_member_of_the_orgs_it_asks_for_until_it_is_shut_down() {
    let orgs = [random_org(), random_org()];
    let mut conn = raw(shared().await).await;
    let mut members = async |org: &str| conn.zcard::<_, u64>(format!("allot:1:{{{org}}}:p")).await.unwrap();
    let policy = || allotment::Policy::new().limit(allotment::Limit::new("org").requests(10));
    let (one, other) =
        (Behind::new(policy(), FailurePolicy::Local).await, Behind::new(policy(), FailurePolicy::Local).await);
    let denies = Behind::new(policy(), FailurePolicy::Deny).await;
    for org in &orgs {
        for process in [&one, &other, &denies] {
            let _outcome =
                process.limiter.try_acquire(&allotment::Subject::org(org.as_str()), allotment::Cost::new()).await;
        }
        eventually("both are members", async || (members(org).await == 2).then_some(())).await;
    }
    one.limiter.shutdown().await;
    for org in &orgs {
        assert_eq!(members(org).await, 1);
    }
}

/// Nine orgs, of which eight fail: whichever is tried first.
#[tokio::test]
async fn an_org_that_fails_keeps_no_sign_of_life_from_another() {
    let (server, orgs) = (Server::start().await, [(); 9].map(|()| random_org()));
    refuse_all_but(&server, &orgs[4]).await;
    let builder =
        allotment::Limiter::builder().failure_policy(FailurePolicy::Local).lease(std::time::Duration::from_secs(6));
    let builder = builder.policy(allotment::Policy::new().limit(allotment::Limit::new("org").requests(10)));
    let process = Behind::on(&server, builder).await;
    for org in &orgs {
        let asked = process.limiter.try_acquire(&allotment::Subject::org(org.as_str()), allotment::Cost::new()).await;
        assert_eq!(asked.is_ok(), *org == orgs[4], "a refusal is the answer: {asked:?}");
    }
    share_is_known_on(&server, &orgs[4], 1).await;
}
