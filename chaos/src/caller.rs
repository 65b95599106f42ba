//! One process of callers, built with this version of the library and with an earlier one: see `scenarios/skew.rs`.
//!
//! Invariant: it uses nothing but the library's public interface, the standard library and tokio. What it tells, a line each: `admitted`,
//! the time of the admission and what was charged in the end; `failed` and why; `denied` and how often.

use std::{error::Error, time::Duration};

use allotment::{Cost, Limit, Limiter, Outcome, Permit, Policy, Subject};
use tokio::{task::JoinSet, time::Instant};

/// Which users there are, for each process the same ones.
const USERS: u64 = 5;
/// The window in which every charge is found at the end.
const LONG: Duration = Duration::from_secs(3_600);

type Failure = Box<dyn Error + Send + Sync>;

/// `URL ORG LIMIT WINDOW_MS CALLERS LASTS_MS`
pub(crate) async fn call(arguments: &[String]) -> Result<(), Failure> {
    let [url, org, limit, window_ms, callers, lasts_ms] = arguments else {
        return Err("URL ORG LIMIT WINDOW_MS CALLERS LASTS_MS".into());
    };
    let (limit, window) = (limit.parse::<u64>()?, Duration::from_millis(window_ms.parse()?));
    // never reached within the run, but a limit that never can be is refused
    let in_long = limit * (LONG.as_secs() * 1_000 / window_ms.parse::<u64>()?) / 2;
    let policy = Policy::new()
        .limit(Limit::new("org").requests(limit).window(window).fair_share())
        .limit(Limit::new("user").scope(["user"]).requests(limit).window(window))
        .limit(Limit::new("long").requests(in_long).window(LONG))
        .limit(Limit::new("under-way").scope(["user"]).in_flight(10_000));
    let limiter = Limiter::builder().redis(url.as_str()).policy(policy).deadline(Duration::from_secs(20)).build()?;
    let until = Instant::now() + Duration::from_millis(lasts_ms.parse()?);
    let mut running = JoinSet::new();
    for number in 0..callers.parse::<u64>()? {
        let (limiter, subject) = (limiter.clone(), Subject::org(org.as_str()).user(format!("user-{}", number % USERS)));
        running.spawn(one(limiter, subject, number, until));
    }
    for told in running.join_all().await {
        for line in told {
            println!("{line}");
        }
    }
    limiter.shutdown().await;
    Ok(())
}

async fn one(limiter: Limiter, subject: Subject, number: u64, until: Instant) -> Vec<String> {
    let (mut told, mut open, mut denied) = (Vec::new(), Vec::new(), 0_u64);
    let mut dice = Dice(u64::from(std::process::id()) << 16 | number);
    while Instant::now() < until {
        let asked = 1 + dice.below(3);
        match limiter.try_acquire(&subject, Cost::new().requests(asked)).await {
            Ok(Outcome::Admitted(permit)) => open.push((permit, asked)),
            Ok(Outcome::Denied(denial)) => {
                denied += 1;
                // as long as it was told to, and no longer than keeps the others busy
                let wait = denial.retry_after().unwrap_or_default();
                tokio::time::sleep(wait.clamp(Duration::from_millis(1), Duration::from_millis(20))).await;
            }
            Err(error) => told.push(format!("failed {:?}: {error}", error.kind())),
        }
        // settled some calls later, so that those of others come in between
        if open.len() as u64 > dice.below(8) {
            let (permit, asked) = open.swap_remove(0);
            told.push(settle(permit, asked, &mut dice).await);
        }
    }
    for (permit, asked) in open {
        told.push(settle(permit, asked, &mut dice).await);
    }
    told.push(format!("denied {denied}"));
    told
}

/// Never above the estimate: what is charged in the end was within the limit when it was admitted.
async fn settle(permit: Permit, asked: u64, dice: &mut Dice) -> String {
    let at_ms = permit.at_ms();
    let (charged, settled) = match dice.below(4) {
        0 => (0, permit.release().await),
        1 => {
            let used = dice.below(asked + 1);
            (used, permit.commit(Cost::new().requests(used)).await)
        }
        _ => (asked, permit.commit(Cost::new().requests(asked)).await),
    };
    match settled {
        Ok(()) => format!("admitted {at_ms} {charged}"),
        Err(error) => format!("failed {:?}: {error}", error.kind()),
    }
}

/// Numbers that look random, without a dependency of which two versions would have to be found.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}
