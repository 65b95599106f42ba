//! What operators see: who there is, where limits stand, and why a call would be denied; on both stores, and without a write.

use std::{collections::BTreeMap, time::Duration};

use allotment::{
    Admin, Control, Cost, Decision, ErrorKind, Explanation, Inspection, Limit, LimitUse, Limiter, Outcome, Permit,
    Policy, Reason, Resource, Retry, Subject,
};
use tokio::task::JoinSet;

use crate::support::{Stage, dump_all, random_org, raw, shared};

const MINUTE: Duration = Duration::from_secs(60);

fn policy() -> Policy {
    Policy::new()
        .limit(Limit::new("pool").images(100).tokens(1_000_000).window(MINUTE))
        .limit(Limit::new("user").scope(["user"]).images(10).window(MINUTE))
        .limit(Limit::new("model").scope(["user", "model"]).requests(50).window(MINUTE * 2))
        .limit(Limit::new("calls").scope(["user"]).in_flight(8))
}

async fn take(limiter: &Limiter, subject: &Subject, images: u64) -> Permit {
    limiter.try_acquire(subject, Cost::images(images).tokens(7)).await.unwrap().into_result().unwrap()
}

async fn spend(limiter: &Limiter, subject: &Subject, images: u64) {
    take(limiter, subject, images).await.commit(Cost::images(images)).await.unwrap();
}

/// A limiter that sees what `acted` has done: on Redis another one, as `acted` has been shut down to write its list.
async fn onlooker(stage: &Stage, acted: Limiter, policy: Policy) -> Limiter {
    match stage {
        Stage::Memory(_) => acted,
        Stage::Redis { .. } => {
            acted.shutdown().await;
            stage.limiter(policy)
        }
    }
}

/// A limit of those listed, by name and resource.
fn limit<'a>(limits: &'a [LimitUse], name: &str, resource: &Resource) -> &'a LimitUse {
    let is_it = |limit: &&LimitUse| &*limit.status.name == name && limit.status.resource == *resource;
    limits.iter().find(is_it).unwrap_or_else(|| panic!("no {name} of {resource} in {limits:?}"))
}

fn figures(limit: &LimitUse) -> (u64, u64, u64, u64) {
    let status = &limit.status;
    (status.limit, status.used, status.remaining, limit.booked)
}

#[tokio::test]
async fn orgs_and_users_are_listed_the_fullest_first_and_leave_when_their_windows_have_passed() {
    for stage in Stage::both().await {
        let limiter = stage.limiter(policy());
        let user = |user: &str| Subject::org("acme").user(user).model("m").attribute("request", "nobody asks for this");
        spend(&limiter, &user("bob"), 3).await;
        spend(&limiter, &user("alice"), 7).await;
        spend(&limiter, &user("a:{weird}%20 user\n"), 5).await;
        spend(&limiter, &user("alice").model("other"), 1).await;
        spend(&limiter, &Subject::org("other"), 1).await;
        assert!(limiter.try_acquire(&user("nobody"), Cost::images(11)).await.unwrap().into_result().is_err());
        let admin = Admin::new(&onlooker(&stage, limiter, policy()).await, "dana").unwrap();

        assert_eq!(admin.orgs().await.unwrap(), ["acme", "other"], "{}", stage.name());
        let subjects = admin.subjects("acme").await.unwrap();
        let alice = Subject::org("acme").user("alice");
        assert_eq!(subjects.len(), 4, "{subjects:?}");
        assert!(subjects.contains(&alice.clone().model("m")) && subjects.contains(&alice.model("other")));
        let users = admin.users("acme").await.unwrap();
        let names: Vec<_> = users.iter().map(|user| &*user.user).collect();
        assert_eq!(names, ["alice", "a:{weird}%20 user\n", "bob"], "{}", stage.name());
        let alice = &users[0];
        let scopes: Vec<_> = alice.limits.iter().map(|limit| (&*limit.status.name, limit.status.used)).collect();
        // the limit by model once for each
        assert_eq!(scopes, [("user", 8), ("model", 1), ("calls", 0), ("model", 1)], "{}", stage.name());
        let models: Vec<_> = alice.limits.iter().filter_map(|limit| limit.scope.get("model")).collect();
        assert_eq!(models, ["m", "other"]);
        assert_eq!((alice.open, alice.oldest_open), (0, None));
        let (fullest, part) = alice.fullest().unwrap();
        assert_eq!((&*fullest.status.name, part), ("user", 0.8));

        let parts = admin.users_of("acme", "pool", Resource::Images).await.unwrap();
        let parts: Vec<_> = parts.iter().map(|part| (&*part.user, part.used)).collect();
        assert_eq!(parts, [("alice", 8), ("a:{weird}%20 user\n", 5), ("bob", 3)]);
        let missing = admin.users_of("acme", "pool", "spend").await.unwrap_err();
        assert_eq!(missing.kind(), ErrorKind::Invalid);
        assert!(missing.to_string().contains("\"pool\"") && missing.to_string().contains("spend"), "{missing}");

        // the longest window is 120 s; then half of it and a minute
        stage.advance_ms(120_000);
        assert!(admin.users("acme").await.unwrap().is_empty(), "nothing is used any more");
        stage.advance_ms(120_000);
        assert!(admin.orgs().await.unwrap().is_empty() && admin.subjects("acme").await.unwrap().is_empty());
    }
}

#[tokio::test]
async fn a_list_keeps_who_goes_on_and_forgets_who_does_not() {
    for stage in Stage::both().await {
        let policy = Policy::new().limit(Limit::new("user").scope(["user"]).images(1_000).window(MINUTE));
        let [stays, goes] = ["stays", "goes"].map(|user| Subject::org("acme").user(user));
        let mut limiter = stage.limiter(policy.clone());
        spend(&limiter, &goes, 1).await;
        for _ in 0..9 {
            spend(&limiter, &stays, 1).await;
            // each is written with the list of before
            limiter = onlooker(&stage, limiter, policy.clone()).await;
            stage.advance_ms(20_000);
        }
        spend(&limiter, &stays, 1).await;
        let admin = Admin::new(&onlooker(&stage, limiter, policy).await, "dana").unwrap();
        assert_eq!(admin.subjects("acme").await.unwrap(), [stays], "{}", stage.name());
        if let Stage::Redis { server, .. } = &stage {
            let mut conn = raw(server).await;
            let members: u64 = redis::cmd("ZCARD").arg("allot:1:{acme}:u").query_async(&mut conn).await.unwrap();
            assert_eq!(members, 1, "whoever was taken off takes no room");
            for key in ["allot:1:{acme}:u", "allot:1:orgs"] {
                let life: i64 = redis::cmd("PTTL").arg(key).query_async(&mut conn).await.unwrap();
                assert!((60_000..=150_000).contains(&life), "{key} lives for {life} ms");
            }
        }
    }
}

#[tokio::test]
async fn a_subject_shows_what_is_used_booked_under_way_and_open() {
    for stage in Stage::both().await {
        let limiter = stage.limiter(policy());
        let alice = Subject::org("acme").user("alice").model("m");
        spend(&limiter, &alice, 4).await;
        stage.advance_ms(1_500);
        let mut held = vec![take(&limiter, &alice, 1).await, take(&limiter, &alice, 5).await];
        let others = take(&limiter, &Subject::org("acme").user("bob").model("m"), 9).await;
        stage.advance_ms(2_000);
        let waits = limiter.acquire(&alice, Cost::images(2)).max_wait(MINUTE);
        let waiting = tokio::spawn(std::future::IntoFuture::into_future(waits));
        let admin = Admin::new(&limiter, "dana").unwrap();
        let seen = loop {
            let seen = admin.inspect(&alice).await.unwrap();
            if seen.open.len() == 3 {
                break seen;
            }
            tokio::task::yield_now().await;
        };
        assert_eq!(seen.at_ms, stage.now_ms(), "{}", stage.name());
        let of = |name, resource: Resource| figures(limit(&seen.limits, name, &resource));
        assert_eq!(of("pool", Resource::Images), (100, 19, 81, 2), "{}", stage.name());
        assert_eq!(of("pool", Resource::Tokens), (1_000_000, 28, 999_972, 0));
        assert_eq!(of("user", Resource::Images), (10, 10, 0, 2));
        assert_eq!(of("model", Resource::Requests), (50, 3, 47, 1));
        assert_eq!(of("calls", Resource::InFlight), (8, 2, 6, 0));
        let user = limit(&seen.limits, "user", &Resource::Images);
        assert_eq!(user.scope, BTreeMap::from([("user".to_owned(), "alice".to_owned())]));
        // the place is when four images have left the window, and it leaves a window later
        assert_eq!(user.status.reset_after, Duration::from_millis(56_500) + MINUTE);
        let open: Vec<_> =
            seen.open.iter().map(|open| (open.age.as_millis(), open.cost.of(&Resource::Images))).collect();
        assert_eq!(open, [(2_000, 1), (2_000, 5), (0, 2)], "{}", stage.name());
        assert_eq!(seen.open[2].at_ms, stage.now_ms() + 56_500);
        assert_eq!(seen.open[0].cost, Cost::images(1).tokens(7).requests(1));
        assert!(seen.controls.is_empty());

        held.pop().unwrap().release().await.unwrap();
        held.pop().unwrap().commit(Cost::images(1)).await.unwrap();
        waiting.abort();
        assert!(waiting.await.unwrap_err().is_cancelled());
        let seen = loop {
            let seen = admin.inspect(&alice).await.unwrap();
            if seen.open.is_empty() {
                break seen;
            }
            tokio::task::yield_now().await;
        };
        let of = |name, resource: Resource| figures(limit(&seen.limits, name, &resource));
        assert_eq!((of("user", Resource::Images), of("calls", Resource::InFlight)), ((10, 5, 5, 0), (8, 0, 8, 0)));
        drop(others);
    }
}

/// Past 32 calls a user's ledger carries no more reservations: they are kept by the second, beside those of others.
#[tokio::test]
async fn reservations_of_a_busy_user_are_found_beside_those_of_others() {
    for stage in Stage::both().await {
        let policy = Policy::new().limit(Limit::new("user").scope(["user"]).images(1_000).window(MINUTE));
        let limiter = stage.limiter(policy.clone());
        let [busy, quiet, nobody] =
            [Subject::org("acme").user("busy"), Subject::org("acme").user("quiet"), Subject::org("acme")];
        let org_only = Policy::new().limit(Limit::new("org").images(1_000).window(MINUTE));
        let unnamed = match &stage {
            Stage::Memory(_) => None,
            Stage::Redis { .. } => Some(take(&stage.limiter(org_only.clone()), &nobody, 1).await),
        };
        let mut held = Vec::new();
        for _ in 0..50 {
            held.push(take(&limiter, &busy, 1).await);
            stage.advance_ms(10);
        }
        held.push(take(&limiter, &quiet, 1).await);
        let admin = Admin::new(&limiter, "dana").unwrap();
        let open = |seen: Inspection| (seen.open.len(), seen.open.first().map(|oldest| oldest.age.as_millis()));
        assert_eq!(open(admin.inspect(&busy).await.unwrap()), (50, Some(500)), "{}", stage.name());
        assert_eq!(open(admin.inspect(&quiet).await.unwrap()), (1, Some(0)), "{}", stage.name());
        if unnamed.is_some() {
            let limiter = stage.limiter(org_only);
            let admin = Admin::new(&limiter, "dana").unwrap();
            assert_eq!(open(admin.inspect(&nobody).await.unwrap()), (1, Some(500)), "calls without a user");
        }
        for permit in held.drain(..40) {
            permit.commit(Cost::images(1)).await.unwrap();
        }
        assert_eq!(open(admin.inspect(&busy).await.unwrap()), (10, Some(100)), "{}", stage.name());
        let admin = Admin::new(&onlooker(&stage, limiter, policy).await, "dana").unwrap();
        let users = admin.users("acme").await.unwrap();
        let users: Vec<_> = users.iter().map(|user| (&*user.user, user.open, user.oldest_open)).collect();
        let ms = |ms| Some(Duration::from_millis(ms));
        assert_eq!(users, [("busy", 10, ms(100)), ("quiet", 1, ms(0))], "{}", stage.name());
        drop(held);
    }
}

/// The same call, explained and then made.
async fn explained(limiter: &Limiter, admin: &Admin, subject: &Subject, cost: Cost) -> Explanation {
    let explanation = admin.explain(subject, cost.clone()).await.unwrap();
    let peeked = limiter.peek(subject, cost.clone()).await.unwrap();
    match (limiter.try_acquire(subject, cost).await.unwrap(), &explanation.decision) {
        (Outcome::Denied(denial), Decision::Denied(explained)) => {
            assert_eq!(denial, *explained);
            assert_eq!(peeked, Decision::Denied(denial));
        }
        (Outcome::Admitted(permit), Decision::Allowed(limits)) => {
            let before = |used: &allotment::LimitStatus| (used.name.clone(), used.resource.clone(), used.limit);
            assert_eq!(
                limits.iter().map(before).collect::<Vec<_>>(),
                permit.limits().iter().map(before).collect::<Vec<_>>()
            );
            assert!(matches!(peeked, Decision::Allowed(_)));
            drop(permit);
        }
        (outcome, decision) => panic!("{outcome:?}, but it was explained as {decision:?}"),
    }
    explanation
}

fn denied(explanation: &Explanation) -> (&str, &Reason) {
    match &explanation.decision {
        Decision::Denied(denial) => (&denial.limit, &denial.reason),
        Decision::Allowed(limits) => panic!("allowed: {limits:?}"),
    }
}

#[tokio::test]
async fn what_is_explained_is_what_is_decided() {
    for stage in Stage::both().await {
        let policy = Policy::new()
            .limit(Limit::new("pool").images(40).window(MINUTE).fair_share())
            .limit(Limit::new("user").scope(["user"]).images(30).window(MINUTE))
            .limit(Limit::new("calls").scope(["user"]).in_flight(2));
        let limiter = stage.limiter(policy.clone());
        let [greedy, light, alice] = ["greedy", "light", "alice"].map(|user| Subject::org("acme").user(user));
        for _ in 0..30 {
            spend(&limiter, &greedy, 1).await;
            stage.advance_ms(100);
        }
        let limiter = onlooker(&stage, limiter, policy.clone()).await;
        let admin = Admin::new(&limiter, "dana").unwrap();

        let by_user = explained(&limiter, &admin, &greedy, Cost::images(1)).await;
        assert_eq!(denied(&by_user), ("user", &Reason::Limit), "{}", stage.name());
        let users: Vec<_> = by_user.users.iter().map(|part| (&*part.user, part.used)).collect();
        assert_eq!(users, [("greedy", 30)], "it counts with nobody");
        assert_eq!(figures(limit(&by_user.limits, "pool", &Resource::Images)), (40, 30, 10, 0));

        let never = explained(&limiter, &admin, &light, Cost::images(31)).await;
        let Decision::Denied(denial) = &never.decision else { panic!("{never:?}") };
        assert_eq!((&*denial.limit, denial.retry), ("user", Retry::Never { over_by: 1 }));

        // beside another one the greedy is heavy; the pool is filled, and the next light one lowers the level
        spend(&limiter, &light, 1).await;
        stage.advance_ms(1_000);
        // a limiter notes a heavy user once a second of its own clock: another one does so at once
        let limiter = onlooker(&stage, limiter, policy.clone()).await;
        let admin = Admin::new(&limiter, "dana").unwrap();
        let heavy = explained(&limiter, &admin, &greedy, Cost::images(1)).await;
        assert_eq!(denied(&heavy), ("pool", &Reason::FairShare { share: 40 }), "{}", stage.name());
        for _ in 0..9 {
            spend(&limiter, &light, 1).await;
        }
        let full = explained(&limiter, &admin, &alice, Cost::images(1)).await;
        assert_eq!(denied(&full), ("pool", &Reason::Limit), "{}", stage.name());
        let limiter = onlooker(&stage, limiter, policy.clone()).await;
        let admin = Admin::new(&limiter, "dana").unwrap();
        let full = explained(&limiter, &admin, &alice, Cost::images(1)).await;
        let users: Vec<_> = full.users.iter().map(|part| (&*part.user, part.used)).collect();
        assert_eq!(users, [("greedy", 30), ("light", 10)], "{}", stage.name());

        stage.advance_ms(58_000);
        let shared = explained(&limiter, &admin, &greedy, Cost::images(20)).await;
        let share = match denied(&shared) {
            ("pool", Reason::FairShare { share }) => *share,
            other => panic!("{}: {other:?}", stage.name()),
        };
        assert!((1..40).contains(&share), "{share}");

        let held = [take(&limiter, &alice, 1).await, take(&limiter, &alice, 1).await];
        let busy = explained(&limiter, &admin, &alice, Cost::images(1)).await;
        assert_eq!(denied(&busy), ("calls", &Reason::InFlight), "{}", stage.name());
        assert_eq!(figures(limit(&busy.limits, "calls", &Resource::InFlight)), (2, 2, 0, 0));
        let limiter = onlooker(&stage, limiter, policy.clone()).await;
        let admin = Admin::new(&limiter, "dana").unwrap();
        let busy = admin.explain(&alice, Cost::images(1)).await.unwrap();
        let users: Vec<_> = busy.users.iter().map(|part| (&*part.user, part.used)).collect();
        assert_eq!(users, [("alice", 2)], "{}", stage.name());

        let block = Control::block().on("user", "alice").because("spam");
        admin.apply("acme", &block).await.unwrap();
        let blocked = explained(&limiter, &admin, &alice, Cost::images(1)).await;
        assert_eq!(denied(&blocked), ("block", &Reason::Blocked { because: Some("spam".into()) }));
        assert_eq!(blocked.controls.iter().map(|active| &active.control).collect::<Vec<_>>(), [&block]);
        assert!(blocked.users.is_empty() && admin.inspect(&light).await.unwrap().controls.is_empty());
        drop(held);
    }
}

/// A policy may count users by their parts of a shared pool alone: these are seen, and emptied with it.
#[tokio::test]
async fn a_pool_that_is_shared_shows_each_users_part_and_is_reset_with_it() {
    for stage in Stage::both().await {
        let policy = Policy::new().limit(Limit::new("pool").images(60).window(MINUTE).fair_share());
        let limiter = stage.limiter(policy.clone());
        let [alice, greedy] = ["alice", "greedy"].map(|user| Subject::org("acme").user(user));
        let held = [take(&limiter, &alice, 1).await, take(&limiter, &alice, 2).await];
        for _ in 0..56 {
            spend(&limiter, &greedy, 1).await;
        }
        let limiter = onlooker(&stage, limiter, policy).await;
        let admin = Admin::new(&limiter, "dana").unwrap();
        let users = admin.users("acme").await.unwrap();
        let parts: Vec<_> = users.iter().map(|user| (&*user.user, figures(&user.limits[0]), user.open)).collect();
        assert_eq!(parts, [("greedy", (60, 56, 4, 0), 0), ("alice", (60, 3, 57, 0), 2)], "{}", stage.name());
        let seen = admin.inspect(&alice).await.unwrap();
        assert_eq!((seen.limits.len(), seen.open.len()), (2, 2), "{}", stage.name());
        assert_eq!(seen.limits.iter().map(figures).collect::<Vec<_>>(), [(60, 59, 1, 0), (60, 3, 57, 0)]);

        admin.reset_limit(&greedy, "pool").await.unwrap();
        let seen = admin.inspect(&greedy).await.unwrap();
        assert_eq!(seen.limits.iter().map(|limit| limit.status.used).collect::<Vec<_>>(), [0, 0], "{}", stage.name());
        spend(&limiter, &greedy, 50).await;
        admin.reset(&greedy).await.unwrap();
        spend(&limiter, &greedy, 59).await;
        drop(held);
    }
}

#[tokio::test]
async fn a_look_writes_nothing_and_sees_what_callers_do_not() {
    let stage = Stage::redis().await;
    let hidden = || policy().hide_org();
    let limiter = stage.limiter(hidden());
    let org = random_org();
    let alice = Subject::org(org.as_str()).user("alice").model("m");
    let permit = take(&limiter, &alice, 3).await;
    assert!(permit.limits().iter().all(|status| &*status.name != "pool"), "hidden from callers");
    let control = Control::shadow("calls");
    Admin::new(&limiter, "dana").unwrap().apply(&org, &control).await.unwrap();
    let limiter = onlooker(&stage, limiter, hidden()).await;
    let admin = Admin::new(&limiter, "erin").unwrap();
    let Stage::Redis { server, .. } = &stage else { panic!("a stage in Redis") };
    let mut conn = raw(server).await;
    let before = dump_all(&mut conn, "allot:1:*").await;
    assert!(before.len() >= 6, "{:?}", before.keys());
    stage.advance_ms(700);

    assert_eq!(admin.orgs().await.unwrap(), [org.as_str()]);
    assert_eq!(admin.users(&org).await.unwrap().len(), 1);
    assert_eq!(admin.users_of(&org, "user", "images").await.unwrap().len(), 1);
    let seen = admin.inspect(&alice).await.unwrap();
    assert_eq!(figures(limit(&seen.limits, "pool", &Resource::Images)), (100, 3, 97, 0));
    let explanation = admin.explain(&alice, Cost::images(8)).await.unwrap();
    let Decision::Denied(denial) = &explanation.decision else { panic!("{explanation:?}") };
    assert_eq!((&*denial.limit, denial.retry), ("user", Retry::After(Duration::from_millis(59_300))));
    assert!(denial.limits.iter().all(|status| &*status.name != "pool"), "as the caller would be told");
    assert_eq!(figures(limit(&explanation.limits, "pool", &Resource::Images)), (100, 3, 97, 0));
    let unknown = admin.explain(&Subject::org(org.as_str()).user("x".repeat(257)), Cost::new()).await.unwrap_err();
    assert_eq!(unknown.kind(), ErrorKind::Invalid);
    assert_eq!(dump_all(&mut conn, "allot:1:*").await, before);
    permit.commit(Cost::images(3)).await.unwrap();
}

/// `scripts/test ten_thousand_users --no-capture` prints how long a list takes.
#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_users_are_listed_and_the_fullest_is_first() {
    const USERS: u64 = 10_000;
    let org = random_org();
    let url = shared().await.url();
    let limiter = || Limiter::builder().redis(url.as_str()).policy(policy()).deadline(MINUTE).build().unwrap();
    let acting = limiter();
    let mut calls = JoinSet::new();
    for worker in 0..64 {
        let (acting, org) = (acting.clone(), org.clone());
        calls.spawn(async move {
            for user in (worker..USERS).step_by(64) {
                let subject = Subject::org(org.as_str()).user(format!("user-{user}")).model("m");
                let cost = Cost::new().amount(Resource::Images, u64::from(user == 4_321));
                // the permit is dropped: the reservation stays open
                drop(acting.try_acquire(&subject, cost).await.unwrap().into_result().unwrap());
            }
        });
    }
    calls.join_all().await;
    acting.shutdown().await;
    let admin = Admin::new(&limiter(), "dana").unwrap();
    let started = std::time::Instant::now();
    let users = admin.users(&org).await.unwrap();
    println!("{} users listed in {} ms", users.len(), started.elapsed().as_millis());
    assert_eq!(users.len() as u64, USERS);
    assert_eq!(users[0].user, "user-4321");
    assert!(users.iter().all(|user| user.open == 1 && user.limits.len() == 3), "each has a reservation and its limits");
    assert_eq!(admin.users_of(&org, "pool", "images").await.unwrap().len(), 1);
}
