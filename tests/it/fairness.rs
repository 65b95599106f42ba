//! Fair share and priority, in simulated time: who is served beside the greedy, how soon, and how much of the pool is used.
//!
//! `cargo test --test it fairness:: -- --nocapture` prints the figures. The first two windows of a run are not judged: in the first one
//! the pool is empty, and in the second the level is found. Where callers wait, the last minute is not judged either, as some of its calls
//! still wait in the end. Three seeds, or one where many wait, which takes long to play. Every run also asserts that no window holds more than the limit (`support::play`).

use allotment::{Admin, Cost, Limit, Policy, Reason, Retry, Subject};

use crate::support::{Group, Outcome, Scene, Stage, play};

const SEEDS: &[u64] = &[1, 2, 3];
/// For scenes whose waiters take long to play.
const SEED: &[u64] = &[1];
/// One greedy user and two hundred light ones, on 4,000 images a minute.
const GREEDY: Group = Group::new("greedy", 1, 10_000.0);
const LIGHT: Group = Group::new("light", 200, 5.0);

fn fair<const N: usize>(limit: u64, minutes: u64, groups: [Group; N]) -> Scene {
    Scene { limit, minutes, groups: groups.into(), fair: true }
}

/// A figure, its name, the least and the most it may be.
type Promise = (f64, String, f64, f64);

/// Plays a scene once per seed, and asserts what it promises.
async fn keeps<const N: usize>(scene: &Scene, seeds: &[u64], promises: impl Fn(&Outcome) -> [Promise; N]) {
    let mut broken = Vec::new();
    for &seed in seeds {
        for (figure, name, least, most) in promises(&play(scene, seed).await) {
            let line = format!("seed {seed}: {name}: {figure:.3}, promised {least:.2} to {most:.2}");
            println!("{line}");
            if !(least..=most).contains(&figure) {
                broken.push(line);
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}\nin {scene:?}");
}

fn at_least(least: f64, name: &str, figure: f64) -> Promise {
    (figure, name.into(), least, f64::INFINITY)
}

fn below(most: f64, name: &str, figure: f64) -> Promise {
    // the range of a promise has both its ends
    (figure, name.into(), f64::NEG_INFINITY, most.next_down())
}

#[tokio::test]
async fn the_light_are_served_beside_a_greedy_user_and_the_pool_is_used() {
    let promises = |outcome: &Outcome| {
        [
            at_least(0.99, "incident, light served", outcome.served("light", 2..7)),
            at_least(0.96, "incident, pool used", outcome.used(2..7)),
        ]
    };
    keeps(&fair(4_000, 7, [LIGHT, GREEDY]), SEEDS, promises).await;
}

#[tokio::test]
async fn without_fair_share_a_greedy_user_takes_the_pool_from_the_light() {
    let promises =
        |outcome: &Outcome| [below(0.6, "incident without fair share, light served", outcome.served("light", 2..7))];
    keeps(&Scene { fair: false, ..fair(4_000, 7, [LIGHT, GREEDY]) }, SEEDS, promises).await;
}

#[tokio::test]
async fn the_light_wait_for_seconds_only_when_all_wait() {
    let promises = |outcome: &Outcome| {
        [
            at_least(0.99, "incident, all wait, light served", outcome.served("light", 2..6)),
            at_least(0.95, "incident, all wait, pool used", outcome.used(2..6)),
            below(
                5_000.0,
                "incident, all wait, p99 wait of the light in ms",
                outcome.wait_p99_ms("light", 2..6) as f64,
            ),
        ]
    };
    keeps(&fair(4_000, 7, [LIGHT, GREEDY].map(|group| group.waiting(20_000))), SEED, promises).await;
}

#[tokio::test]
async fn the_light_who_find_the_pool_filled_are_served_within_three_windows() {
    let promises = |outcome: &Outcome| {
        [4, 5, 6, 7, 8, 9].map(|minute| {
            let least = [0.35, 0.8].get(minute - 4).copied().unwrap_or(0.93);
            let served = outcome.served("light", minute as u64..minute as u64 + 1);
            at_least(least, &format!("light from minute 4, served in minute {minute}"), served)
        })
    };
    keeps(&fair(4_000, 10, [LIGHT.since_minute(4), GREEDY]), SEEDS, promises).await;
}

#[tokio::test]
async fn newcomers_find_a_reserve_in_a_pool_that_the_greedy_fill() {
    // two fill it, as a lone user leaves no reserve; 80 of the pool are reserved, and half of that is asked for
    let promises = |outcome: &Outcome| {
        [at_least(0.95, "40 newcomers from minute 4 on, served", outcome.served("newcomers", 4..6))]
    };
    let newcomers = Group::new("newcomers", 40, 1.0).since_minute(4);
    keeps(&fair(4_000, 6, [newcomers, Group::new("greedy", 2, 10_000.0)]), SEEDS, promises).await;
}

#[tokio::test]
async fn a_small_pool_of_many_light_users_is_shared_too() {
    let promises = |outcome: &Outcome| {
        [
            at_least(0.96, "pool of 250, light served", outcome.served("light", 2..20)),
            at_least(0.92, "pool of 250, pool used", outcome.used(2..20)),
        ]
    };
    keeps(&fair(250, 20, [Group::new("light", 300, 0.5), Group::new("greedy", 1, 3_000.0)]), SEEDS, promises).await;
}

#[tokio::test]
async fn two_equal_users_get_the_same() {
    let promises = |outcome: &Outcome| [at_least(0.99, "two greedy, Jain", outcome.jain("greedy", 2..7))];
    keeps(&fair(4_000, 7, [Group::new("greedy", 2, 10_000.0)]), SEEDS, promises).await;
}

#[tokio::test]
async fn a_lone_user_gets_the_whole_pool() {
    let promises = |outcome: &Outcome| [at_least(0.97, "alone, pool used", outcome.used(2..7))];
    keeps(&fair(4_000, 7, [GREEDY]), SEEDS, promises).await;
}

#[tokio::test]
async fn many_greedy_users_get_the_same_and_leave_the_light_theirs() {
    let promises = |outcome: &Outcome| {
        [
            at_least(0.99, "20 greedy, Jain of the greedy", outcome.jain("greedy", 2..7)),
            at_least(0.96, "20 greedy, light served", outcome.served("light", 2..7)),
        ]
    };
    keeps(&fair(4_000, 7, [LIGHT, Group::new("greedy", 20, 1_000.0)]), SEEDS, promises).await;
}

#[tokio::test]
async fn a_user_of_weight_three_gets_three_times_as_much() {
    let promises = |outcome: &Outcome| {
        let ratio = outcome.served("three", 2..7) / outcome.served("one", 2..7);
        [(ratio, "weights 1 and 3, ratio".into(), 2.5, 3.5)]
    };
    let (one, three) = (Group::new("one", 1, 10_000.0), Group::new("three", 1, 10_000.0).weighing(3));
    keeps(&fair(4_000, 7, [one, three]), SEEDS, promises).await;
}

#[tokio::test]
async fn a_user_that_stops_frees_its_share() {
    // only one is left in minute 6, so the pool is what it uses
    let promises = |outcome: &Outcome| {
        [
            at_least(0.9, "one of two left at minute 5, pool used in minute 6", outcome.used(6..7)),
            at_least(0.99, "one of two left at minute 5, pool used before", outcome.used(2..5)),
        ]
    };
    let leaver = Group::new("leaver", 1, 10_000.0).until_minute(5);
    keeps(&fair(4_000, 8, [GREEDY, leaver]), SEEDS, promises).await;
}

/// A pool is not blamed, and not throttled, for another resource that its ledger counts: that one's times are exact.
#[tokio::test]
async fn a_limit_on_requests_beside_a_pool_of_images_is_named_and_does_not_lower_its_level() {
    for stage in Stage::both().await {
        let limits = [Limit::new("pool").images(10_000).fair_share(), Limit::new("rate").requests(30)];
        let policy = limits.into_iter().fold(Policy::new(), Policy::limit);
        let mut limiter = stage.limiter(policy.clone());
        let [greedy, light] = ["greedy", "light"].map(|user| Subject::org("acme").user(user));
        let mut denials = Vec::new();
        for _ in 0..40 {
            if matches!(stage, Stage::Redis { .. }) {
                // one that has noted nobody yet, as the clock of a limiter on Redis is not that of the stage
                limiter = stage.limiter(policy.clone());
            }
            for (user, images) in [(&greedy, 500), (&light, 1)] {
                denials.extend(limiter.try_acquire(user, Cost::images(images)).await.unwrap().into_result().err());
            }
            stage.advance_ms(100);
        }
        assert!(denials.len() > 40, "{}", stage.name());
        for error in denials {
            let denial = error.denial().unwrap();
            assert_eq!((&*denial.limit, &denial.reason), ("rate", &Reason::Limit), "{}: {denial}", stage.name());
            assert!(matches!(denial.retry, Retry::After(_)), "{denial}");
        }
        let seen = Admin::new(&limiter, "dana").unwrap().inspect(&greedy).await.unwrap();
        let part = &seen.limits.iter().find(|limit| limit.scope.contains_key("user")).unwrap().status;
        assert_eq!((part.used, part.limit), (7_500, 10_000), "{}: a level would be its share", stage.name());
    }
}

/// Batch work that wants twice a pool of 1,000, beside interactive users of this many calls a minute in all.
fn beside_batch(minutes: u64, interactive: f64) -> Scene {
    let batch = Group::new("batch", 10, 200.0).leaving(0.1).waiting(60_000);
    let interactive = Group::new("interactive", 25, interactive / 25.0).waiting(20_000);
    Scene { fair: false, ..fair(1_000, minutes, [interactive, batch]) }
}

#[tokio::test]
async fn interactive_calls_hardly_wait_in_the_room_that_batch_leaves() {
    let promises = |outcome: &Outcome| {
        [
            at_least(1.0, "5 % beside batch, interactive served", outcome.served("interactive", 2..8)),
            below(
                1_000.0,
                "5 % beside batch, p99 wait of the interactive in ms",
                outcome.wait_p99_ms("interactive", 2..8) as f64,
            ),
            at_least(0.88, "5 % beside batch, pool used", outcome.used(2..8)),
        ]
    };
    keeps(&beside_batch(9, 50.0), SEED, promises).await;
}

#[tokio::test]
async fn interactive_calls_push_batch_back_when_they_want_half_the_pool() {
    let promises = |outcome: &Outcome| {
        [
            at_least(0.99, "50 % beside batch, interactive served", outcome.served("interactive", 6..11)),
            below(
                15_000.0,
                "50 % beside batch, p99 wait of the interactive in ms",
                outcome.wait_p99_ms("interactive", 6..11) as f64,
            ),
            at_least(0.88, "50 % beside batch, pool used", outcome.used(6..11)),
        ]
    };
    keeps(&beside_batch(12, 500.0), SEED, promises).await;
}
