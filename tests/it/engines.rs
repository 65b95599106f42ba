//! The core of the limiter on each engine of `ALLOTMENT_TEST_IMAGES`, in containers: what is decided, settled, held and seen.
//!
//! Where there are none, on the engine of the other tests; the fixtures say so.

use std::time::Duration;

use allotment::{
    Admin, Control, Cost, Decision, Denial, Lease, Limit, Limiter, Outcome, Permit, Policy, Reason, Resource, Subject,
};
use allotment_fixtures::images;

use crate::support::{Server, Stage, random_org, raw};

const MINUTE: Duration = Duration::from_secs(60);
/// Longer than any loaded test machine takes for a decision.
const DEADLINE: Duration = Duration::from_secs(20);

async fn servers() -> Vec<Server> {
    let mut servers = Vec::new();
    for image in images().await {
        servers.push(Server::of_image(&image).await);
    }
    if servers.is_empty() { vec![Server::start().await] } else { servers }
}

fn limiter(server: &Server, policy: Policy) -> Limiter {
    Limiter::builder().policy(policy).redis(server.url()).deadline(DEADLINE).build().unwrap()
}

async fn ask(limiter: &Limiter, subject: &Subject, cost: Cost) -> Result<Permit, Denial> {
    match limiter.try_acquire(subject, cost).await.unwrap() {
        Outcome::Admitted(permit) => Ok(permit),
        Outcome::Denied(denial) => Err(denial),
    }
}

#[tokio::test]
async fn retry_after_is_exact_on_every_engine() {
    let mut stages = Vec::new();
    for image in images().await {
        stages.push(Stage::redis_of_image(&image).await);
    }
    if stages.is_empty() {
        stages.push(Stage::redis().await);
    }
    for stage in stages {
        let limiter = stage.limiter(Policy::new().limit(Limit::new("org").images(3).window(MINUTE)));
        let alice = Subject::org(random_org()).user("alice");
        let _ = ask(&limiter, &alice, Cost::images(2)).await.unwrap();
        stage.advance_ms(1_234);
        let _ = ask(&limiter, &alice, Cost::images(1)).await.unwrap();
        let denial = ask(&limiter, &alice, Cost::images(1)).await.unwrap_err();
        assert_eq!(denial.retry_after(), Some(Duration::from_millis(60_000 - 1_234)), "{}", stage.engine());
        stage.advance_ms(60_000 - 1_235);
        let _ = ask(&limiter, &alice, Cost::images(1)).await.unwrap_err();
        stage.advance_ms(1);
        let _ = ask(&limiter, &alice, Cost::images(2)).await.unwrap();
        let _ = ask(&limiter, &alice, Cost::images(1)).await.unwrap_err();
    }
}

#[tokio::test]
async fn what_is_admitted_is_settled_once_on_every_engine() {
    for server in servers().await {
        let engine = server.version();
        let user = Limit::new("user").scope(["user"]).images(5).tokens(1_000).window(MINUTE);
        let limiter = limiter(&server, Policy::new().limit(user));
        let alice = Subject::org(random_org()).user("alice");
        let left = async || {
            let limits = match limiter.peek(&alice, Cost::new()).await.unwrap() {
                Decision::Allowed(limits) => limits,
                Decision::Denied(denial) => denial.limits,
            };
            let of = |resource| limits.iter().find(|limit| limit.resource == resource).unwrap().remaining;
            (of(Resource::Images), of(Resource::Tokens))
        };
        let first = ask(&limiter, &alice, Cost::images(3).tokens(600)).await.unwrap();
        let second = ask(&limiter, &alice, Cost::images(2).tokens(300)).await.unwrap();
        let denial = ask(&limiter, &alice, Cost::images(1).tokens(1)).await.unwrap_err();
        assert_eq!((&*denial.limit, &denial.resource), ("user", &Resource::Images), "{engine}");
        first.commit(Cost::images(3).tokens(100)).await.unwrap();
        assert_eq!(left().await, (0, 600), "{engine}");
        second.release().await.unwrap();
        assert_eq!(left().await, (2, 900), "{engine}");
        ask(&limiter, &alice, Cost::images(1)).await.unwrap().commit(Cost::images(1).tokens(950)).await.unwrap();
        assert_eq!(left().await, (1, 0), "{engine}: more than estimated");
    }
}

#[tokio::test]
async fn a_place_in_line_comes_on_every_engine() {
    for server in servers().await {
        let second = Duration::from_secs(1);
        let limiter = limiter(&server, Policy::new().limit(Limit::new("org").requests(1).window(second)));
        let alice = Subject::org(random_org()).user("alice");
        for _ in 0..3 {
            let _ = limiter.acquire(&alice, Cost::new()).max_wait(MINUTE).await.unwrap();
        }
        assert!(ask(&limiter, &alice, Cost::new()).await.is_err_and(|denial| denial.retry_after() <= Some(second)));
    }
}

#[tokio::test]
async fn slots_are_held_by_growing_tokens_on_every_engine() {
    for server in servers().await {
        let limiter = limiter(&server, Policy::new().limit(Limit::new("calls").in_flight(2)));
        let alice = Subject::org(random_org()).user("alice");
        let token = |permit: &Permit| permit.lease().map(Lease::token).unwrap();
        let first = ask(&limiter, &alice, Cost::new()).await.unwrap();
        let second = ask(&limiter, &alice, Cost::new()).await.unwrap();
        assert!(token(&second) > token(&first), "{}", server.version());
        let denial = ask(&limiter, &alice, Cost::new()).await.unwrap_err();
        assert_eq!(denial.reason, Reason::InFlight, "{}", server.version());
        first.commit(Cost::new()).await.unwrap();
        let third = ask(&limiter, &alice, Cost::new()).await.unwrap();
        assert!(token(&third) > token(&second), "{}", server.version());
    }
}

#[tokio::test]
async fn operators_see_and_control_on_every_engine() {
    for server in servers().await {
        let engine = server.version();
        let policy = Policy::new().limit(Limit::new("user").scope(["user"]).images(5).window(MINUTE));
        let (limiter, elsewhere) = (limiter(&server, policy.clone()), limiter(&server, policy));
        let org = random_org();
        let alice = Subject::org(&*org).user("alice");
        let _ = ask(&limiter, &alice, Cost::images(2)).await.unwrap();
        let admin = Admin::new(&elsewhere, "dana").unwrap();
        let seen = admin.inspect(&alice).await.unwrap();
        assert_eq!(seen.limits[0].status.used, 2, "{engine}");
        assert_eq!(seen.open.len(), 1, "{engine}");
        let block = Control::block().on("user", "alice").because("spam");
        admin.apply(&org, &block).await.unwrap();
        let denial = ask(&limiter, &alice, Cost::images(1)).await.unwrap_err();
        assert_eq!(denial.reason, Reason::Blocked { because: Some("spam".into()) }, "{engine}");
        assert!(admin.withdraw(&org, &block).await.unwrap(), "{engine}");
        let _ = ask(&limiter, &alice, Cost::images(1)).await.unwrap();
        limiter.shutdown().await;
        assert_eq!(admin.users(&org).await.unwrap().len(), 1, "{engine}");
    }
}

#[tokio::test]
async fn scripts_that_an_engine_forgets_are_sent_again_on_every_engine() {
    for server in servers().await {
        let limiter = limiter(&server, Policy::new().limit(Limit::new("org").requests(4).window(MINUTE)));
        let alice = Subject::org(random_org()).user("alice");
        let mut admin = raw(&server).await;
        for _ in 0..4 {
            redis::cmd("SCRIPT").arg("FLUSH").query_async::<()>(&mut admin).await.unwrap();
            ask(&limiter, &alice, Cost::new()).await.unwrap().commit(Cost::new()).await.unwrap();
        }
        assert!(ask(&limiter, &alice, Cost::new()).await.is_err(), "{}", server.version());
    }
}
