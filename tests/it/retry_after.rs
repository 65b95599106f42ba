//! `retry_after` is exact: denied a millisecond before, admitted at it, by whoever asks, on both stores.

use std::time::Duration;

use allotment::{Cost, Decision, Denial, Limit, Limiter, Outcome, Permit, Policy, Resource, Retry, Subject};
use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};

use crate::support::{Stage, random_org};

const MINUTE: Duration = Duration::from_secs(60);

async fn admitted(limiter: &Limiter, subject: &Subject, cost: &Cost) -> Permit {
    match limiter.try_acquire(subject, cost.clone()).await.unwrap() {
        Outcome::Admitted(permit) => permit,
        Outcome::Denied(denial) => panic!("denied: {denial}"),
    }
}

async fn denied(limiter: &Limiter, subject: &Subject, cost: &Cost) -> Denial {
    match limiter.try_acquire(subject, cost.clone()).await.unwrap() {
        Outcome::Admitted(permit) => panic!("admitted: {permit:?}, {:?}", permit.limits()),
        Outcome::Denied(denial) => denial,
    }
}

fn wait_ms(denial: &Denial) -> u64 {
    u64::try_from(denial.retry_after().unwrap().as_millis()).unwrap()
}

/// Policies that differ in what they make the earliest time of.
fn policies() -> Vec<Policy> {
    let org = || Limit::new("org").requests(40).tokens(900);
    let user = || Limit::new("user").scope(["user"]).requests(7).tokens(200);
    vec![
        Policy::new().limit(Limit::new("user").scope(["user"]).requests(3)),
        Policy::new().limit(org()),
        Policy::new().limit(org()).limit(user()),
        Policy::new().limit(user().window(Duration::from_secs(7))).limit(org().window(Duration::from_secs(13))),
        Policy::new().limit(org().smooth(Duration::from_secs(1))).limit(user()),
        Policy::new()
            .limit(Limit::new("org").requests(12).window(Duration::from_secs(5)))
            .limit(Limit::new("long").requests(60).images(40).window(Duration::from_secs(61)))
            .limit(Limit::new("user").scope(["user"]).images(5).amount("spend", 300).window(Duration::from_secs(9))),
    ]
}

fn random_cost(random: &mut StdRng) -> Cost {
    let cost = Cost::images(random.random_range(0..4)).tokens(random.random_range(0..150));
    cost.requests(*[0, 1, 1, 1, 3].choose(random).unwrap()).amount("spend", random.random_range(0..100))
}

/// Plays a random history, checks every denial at its time, and says what was decided.
async fn play(seed: u64, stage: &Stage) -> (Vec<String>, u32) {
    let mut random = StdRng::seed_from_u64(seed);
    let policies = policies();
    let limiter = stage.limiter(policies[seed as usize % policies.len()].clone());
    let org = format!("retry{seed}");
    let subject = |user: String| Subject::org(org.as_str()).user(user);
    let (mut decided, mut denials) = (Vec::new(), 0);
    for step in 0..120 {
        stage.advance_ms(*[0, 0, 1, 17, 180, 900, 4_000].choose(&mut random).unwrap());
        let asker = subject(format!("u{}", random.random_range(0..4)));
        let cost = random_cost(&mut random);
        let at = format!("{} seed {seed} step {step}: {asker:?} {cost:?}", stage.name());
        let denial = match limiter.try_acquire(&asker, cost.clone()).await.unwrap() {
            Outcome::Admitted(permit) => {
                decided.push(format!("{:?}", permit.limits()));
                match random.random_range(0..6) {
                    0 => permit.release().await.unwrap(),
                    1 => permit.commit(Cost::images(0).tokens(10).amount("spend", 400)).await.unwrap(),
                    _ => drop(permit),
                }
                continue;
            }
            Outcome::Denied(denial) => denial,
        };
        decided.push(format!("{denial:?}"));
        if denial.is_never() {
            continue;
        }
        denials += 1;
        let foreseen = limiter.peek(&asker, cost.clone()).await.unwrap();
        assert_eq!(foreseen, Decision::Denied(denial.clone()), "{at}: peek says what try_acquire says");
        // a limit that counts no user holds a user with nothing in the window just as long
        let another = subject(format!("new{step}"));
        let comes_back = if *denial.limit != *"user" && random.random_bool(0.5) { &another } else { &asker };
        let wait_ms = wait_ms(&denial);
        assert!(wait_ms > 0, "{at}: {denial:?}");
        stage.advance_ms(wait_ms - 1);
        let before = limiter.try_acquire(comes_back, cost.clone()).await.unwrap();
        assert!(matches!(before, Outcome::Denied(_)), "{at}: {comes_back:?} 1 ms before {wait_ms} ms: {denial:?}");
        if let Outcome::Denied(before) = before {
            assert_eq!(before.retry_after(), Some(Duration::from_millis(1)), "{at}: 1 ms before: {denial:?}");
            assert_eq!((&before.limit, &before.resource), (&denial.limit, &denial.resource), "{at}: 1 ms before");
        }
        stage.advance_ms(1);
        let then = limiter.try_acquire(comes_back, cost).await.unwrap();
        assert!(matches!(then, Outcome::Admitted(_)), "{at}: {comes_back:?} after {wait_ms} ms: {denial:?}: {then:?}");
    }
    (decided, denials)
}

#[tokio::test]
async fn a_denied_call_is_denied_a_millisecond_before_retry_after_and_admitted_at_it() {
    let mut denials = 0;
    for seed in 0..36 {
        let (on_memory, denied) = play(seed, &Stage::memory()).await;
        denials += denied;
        if seed < 12 {
            let (on_redis, _) = play(seed, &Stage::redis().await).await;
            assert_eq!(on_memory, on_redis, "seed {seed}: both stores decide alike");
        }
    }
    assert!(denials > 1_000, "{denials} denials show little");
}

#[tokio::test]
async fn retry_after_holds_for_another_user_of_the_org() {
    for stage in Stage::both().await {
        let limiter = stage.limiter(Policy::new().limit(Limit::new("org").requests(2)));
        let org = random_org();
        let user = |name: &str| Subject::org(org.as_str()).user(name);
        let cost = Cost::new();
        drop(admitted(&limiter, &user("a"), &cost).await);
        stage.advance_ms(100);
        drop(admitted(&limiter, &user("b"), &cost).await);
        stage.advance_ms(900);
        assert_eq!(denied(&limiter, &user("a"), &cost).await.retry_after(), Some(MINUTE - Duration::from_secs(1)));
        stage.advance_ms(58_999);
        assert_eq!(denied(&limiter, &user("c"), &cost).await.retry_after(), Some(Duration::from_millis(1)));
        stage.advance_ms(1);
        drop(admitted(&limiter, &user("c"), &cost).await);
        assert_eq!(denied(&limiter, &user("a"), &cost).await.retry_after(), Some(Duration::from_millis(100)));
    }
}

#[tokio::test]
async fn a_denial_names_the_limit_and_resource_whose_time_is_latest() {
    for stage in Stage::both().await {
        let long = Limit::new("long").requests(3).window(Duration::from_secs(120));
        let short = Limit::new("short").scope(["user"]).tokens(100).images(2);
        let limiter = stage.limiter(Policy::new().limit(short).limit(long));
        let subject = Subject::org(random_org()).user("alice");
        drop(admitted(&limiter, &subject, &Cost::new().tokens(60)).await);
        stage.advance_ms(5_000);
        drop(admitted(&limiter, &subject, &Cost::images(2)).await);
        stage.advance_ms(5_000);
        // tokens leave after 60 s, images after 65 s, and of requests there is one more
        let denial = denied(&limiter, &subject, &Cost::images(1).tokens(50)).await;
        assert_eq!((&*denial.limit, denial.resource.clone(), wait_ms(&denial)), ("short", Resource::Images, 55_000));
        let denial = denied(&limiter, &subject, &Cost::new().tokens(50)).await;
        assert_eq!((&*denial.limit, denial.resource.clone(), wait_ms(&denial)), ("short", Resource::Tokens, 50_000));
        drop(admitted(&limiter, &subject, &Cost::new()).await);
        let denial = denied(&limiter, &subject, &Cost::images(1).tokens(50)).await;
        assert_eq!((&*denial.limit, denial.resource.clone(), wait_ms(&denial)), ("long", Resource::Requests, 110_000));
    }
}

#[tokio::test]
async fn of_limits_with_one_time_the_first_in_the_policy_is_named() {
    for stage in Stage::both().await {
        let org = || Limit::new("org").requests(1).tokens(10);
        let user = || Limit::new("user").scope(["user"]).requests(1).tokens(10);
        for (policy, first) in
            [(Policy::new().limit(org()).limit(user()), "org"), (Policy::new().limit(user()).limit(org()), "user")]
        {
            let limiter = stage.limiter(policy);
            let subject = Subject::org(random_org()).user("alice");
            drop(admitted(&limiter, &subject, &Cost::new().tokens(10)).await);
            let denial = denied(&limiter, &subject, &Cost::new().tokens(10)).await;
            assert_eq!((&*denial.limit, &denial.resource), (first, &Resource::Requests), "{}", stage.name());
            let denial = denied(&limiter, &subject, &Cost::new().requests(0).tokens(10)).await;
            assert_eq!((&*denial.limit, &denial.resource), (first, &Resource::Tokens), "{}", stage.name());
        }
    }
}

#[tokio::test]
async fn a_cost_above_a_limit_is_never_admitted_and_says_by_how_much_it_is_over() {
    for stage in Stage::both().await {
        let policy = Policy::new()
            .limit(Limit::new("org").requests(10).tokens(1_000))
            .limit(Limit::new("user").scope(["user"]).images(4));
        let limiter = stage.limiter(policy);
        let subject = Subject::org(random_org()).user("alice");
        let denial = denied(&limiter, &subject, &Cost::images(7)).await;
        assert_eq!((&*denial.limit, &denial.resource), ("user", &Resource::Images));
        assert_eq!(denial.retry, Retry::Never { over_by: 3 });
        assert_eq!(denial.retry_after(), None);
        let denial = denied(&limiter, &subject, &Cost::images(7).tokens(1_001)).await;
        assert_eq!(
            (&*denial.limit, &denial.resource, denial.retry),
            ("org", &Resource::Tokens, Retry::Never { over_by: 1 })
        );
        let waited = limiter.acquire(&subject, Cost::images(5)).await.unwrap_err();
        assert_eq!(waited.denial().map(|denial| denial.retry), Some(Retry::Never { over_by: 1 }));
        assert!(denial.limits.iter().all(|limit| limit.used == 0), "nothing was charged: {denial:?}");
        drop(admitted(&limiter, &subject, &Cost::images(4).tokens(1_000)).await);
    }
}
