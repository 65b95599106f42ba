//! Old and new policies side by side on one store: what was used stays used.

use std::time::Duration;

use allotment::{Cost, Limit, LimitStatus, Limiter, Outcome, Policy, Subject};
use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};

use crate::support::{Stage, random_org};

async fn statuses(limiter: &Limiter, subject: &Subject) -> Vec<LimitStatus> {
    match limiter.peek(subject, Cost::new().requests(0)).await.unwrap() {
        allotment::Decision::Allowed(limits) => limits,
        allotment::Decision::Denied(denial) => panic!("nothing was asked: {denial}"),
    }
}

async fn used(limiter: &Limiter, subject: &Subject, name: &str) -> u64 {
    statuses(limiter, subject).await.iter().find(|limit| *limit.name == *name).unwrap().used
}

async fn charge(limiter: &Limiter, subject: &Subject, cost: Cost) -> allotment::Permit {
    limiter.try_acquire(subject, cost).await.unwrap().into_result().unwrap()
}

fn org(requests: u64) -> Limit {
    Limit::new("org").requests(requests)
}

fn user(requests: u64) -> Limit {
    Limit::new("user").scope(["user"]).requests(requests)
}

#[tokio::test]
async fn an_amount_that_changes_keeps_what_was_used() {
    for stage in Stage::both().await {
        let limiter = stage.limiter(Policy::new().limit(org(10)));
        let subject = Subject::org(random_org());
        for _ in 0..10 {
            drop(charge(&limiter, &subject, Cost::new()).await);
        }
        for (amount, fits) in [(10, 0), (12, 2), (5, 0), (13, 1), (20, 7)] {
            limiter.set_policy(Policy::new().limit(org(amount))).unwrap();
            for _ in 0..fits {
                drop(charge(&limiter, &subject, Cost::new()).await);
            }
            let full = limiter.try_acquire(&subject, Cost::new()).await.unwrap();
            assert!(matches!(full, Outcome::Denied(_)), "{}: {amount}", stage.name());
        }
        assert_eq!(used(&limiter, &subject, "org").await, 20);
        assert_eq!(statuses(&limiter, &subject).await[0].remaining, 0);
    }
}

#[tokio::test]
async fn a_resource_limited_later_finds_what_was_used_before() {
    for stage in Stage::both().await {
        let limiter = stage.limiter(Policy::new().limit(org(10)).limit(user(10)));
        let subject = Subject::org(random_org()).user("alice");
        drop(charge(&limiter, &subject, Cost::images(3).tokens(700)).await);
        limiter.set_policy(Policy::new().limit(org(10).tokens(1_000)).limit(user(10).images(5))).unwrap();
        let used: Vec<_> = statuses(&limiter, &subject).await.iter().map(|limit| limit.used).collect();
        assert_eq!(used, [1, 700, 1, 3], "{}", stage.name());
    }
}

/// Policies that a fleet may run at the same time; the ledgers of the org and of the user are in each of them.
fn neighbours() -> Vec<Policy> {
    vec![
        Policy::new().limit(org(100_000)).limit(user(100_000)),
        Policy::new().limit(user(90_000)).limit(org(200_000)),
        Policy::new().limit(org(100_000).tokens(100_000_000)).limit(user(100_000).images(100_000)),
        Policy::new().limit(org(100_000)).limit(user(100_000).smooth(Duration::from_secs(1))),
        // the reservation's home moves to the longest window
        Policy::new()
            .limit(org(100_000))
            .limit(user(100_000))
            .limit(Limit::new("daily").scope(["user"]).requests(1_000_000).window(Duration::from_secs(86_400))),
        // and to the narrowest scope
        Policy::new()
            .limit(org(100_000))
            .limit(user(100_000))
            .limit(Limit::new("model").scope(["user", "model"]).requests(1_000_000)),
    ]
}

#[tokio::test]
async fn old_and_new_policies_mixing_on_one_redis_never_reset_usage() {
    let stage = Stage::redis().await;
    for seed in 0..8 {
        let mut random = StdRng::seed_from_u64(seed);
        let fleet: Vec<_> = neighbours().into_iter().map(|policy| stage.limiter(policy)).collect();
        let subject = Subject::org(random_org()).user("alice").model("m");
        let (mut charged, mut open) = (0, Vec::new());
        // within a window, so that all of it still counts
        for step in 0..300 {
            stage.advance_ms(random.random_range(0..180));
            let limiter = fleet.choose(&mut random).unwrap();
            match random.random_range(0..4) {
                0..3 => {
                    let requests = random.random_range(0..20);
                    open.push((charge(limiter, &subject, Cost::new().requests(requests)).await, requests));
                    charged += requests;
                }
                _ if !open.is_empty() => {
                    let (permit, requests) = open.swap_remove(random.random_range(0..open.len()));
                    let actual = random.random_range(0..25);
                    if random.random_bool(0.5) {
                        permit.release().await.unwrap();
                        charged -= requests;
                    } else {
                        permit.commit(Cost::new().requests(actual)).await.unwrap();
                        charged = charged - requests + actual;
                    }
                }
                _ => {}
            }
            let seen = fleet.choose(&mut random).unwrap();
            for name in ["org", "user"] {
                assert_eq!(used(seen, &subject, name).await, charged, "seed {seed} step {step}: {name}");
            }
        }
    }
}

#[tokio::test]
async fn a_window_added_while_running_starts_empty_and_leaves_the_others_as_they_were() {
    for stage in Stage::both().await {
        let limiter = stage.limiter(Policy::new().limit(org(10)).limit(user(5)));
        let subject = Subject::org(random_org()).user("alice");
        let before = charge(&limiter, &subject, Cost::new().requests(4)).await;
        let hourly = Limit::new("hourly").scope(["user"]).requests(6).window(Duration::from_secs(3_600));
        limiter.set_policy(Policy::new().limit(org(10)).limit(user(5)).limit(hourly)).unwrap();
        let figures = async || statuses(&limiter, &subject).await.iter().map(|limit| limit.used).collect::<Vec<_>>();
        assert_eq!(figures().await, [4, 4, 0], "{}", stage.name());
        drop(charge(&limiter, &subject, Cost::new()).await);
        assert_eq!(figures().await, [5, 5, 1], "{}", stage.name());
        before.commit(Cost::new().requests(2)).await.unwrap();
        assert_eq!(figures().await, [3, 3, 1], "{}: a permit settles the ledgers it was made on", stage.name());
        stage.advance_ms(60_000);
        assert_eq!(figures().await, [0, 0, 1], "{}", stage.name());
    }
}
