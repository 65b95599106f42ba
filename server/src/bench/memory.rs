//! What a subject and a ledger take in Redis, by change of `used_memory`: keys, records and expiry included.
//!
//! Invariant: what the org of the users and the connections take is there, or gone, at both readings.

use std::{sync::Arc, time::Duration};

use allotment::{Cost, Limiter, Outcome, Policy, Subject};
use anyhow::{Result, bail};
use serde::Serialize;
use tokio::{
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval},
};

use super::{
    Bench,
    case::{one_image, org, six, three},
    probe::Probe,
    progress::Progress,
    workload::{call_each, subjects},
};

/// Fewer users than this would vanish among the server's own buffers.
const USERS_MIN: u32 = 5_000;
/// Orgs whose ledgers are kept busy, and how their names begin.
const ORGS: usize = 32;
const BUSY: &str = "busy-";
/// A short window fills fast; a ledger takes the same space with any.
const BUSY_WINDOW: Duration = Duration::from_secs(2);
/// How long the ledgers are kept busy: more than two windows, so that what has left but is not cut off yet is there too.
const BUSY_TIME: Duration = Duration::from_millis(4_600);
/// One call per this: many times the number of times a ledger keeps.
const BUSY_STEP: Duration = Duration::from_millis(5);

/// Bytes, by change of `used_memory`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Memory {
    /// A user with one call in the window, three resources.
    pub(super) user_one_call: u64,
    /// A user with ten calls in the window, three resources.
    pub(super) user_ten_calls: u64,
    /// The ledger of an org that is called every 5 ms for more than two of its windows of 2 s, and the org's head.
    pub(super) busiest_ledger: u64,
}

/// Measures on orgs of its own.
///
/// # Errors
///
/// When Redis cannot be reached or refuses a command.
pub(super) async fn measure(bench: &Bench, probe: &mut Probe, progress: &Progress) -> Result<Memory> {
    progress.part("memory".to_owned());
    progress.step("users with one call");
    let user_one_call = per_user(bench, probe, "1", 1).await?;
    progress.step("users with ten calls");
    let user_ten_calls = per_user(bench, probe, "10", 10).await?;
    progress.step("busy ledgers");
    Ok(Memory { user_one_call, user_ten_calls, busiest_ledger: per_ledger(bench, probe).await? })
}

async fn per_user(bench: &Bench, probe: &mut Probe, name: &str, calls: usize) -> Result<u64> {
    let org = bench.scratch.org(name);
    let users = subjects(&org, bench.args.users.max(USERS_MIN));
    let org_alone: Arc<[Subject]> = [Subject::org(org)].into();
    call_each(bench.limiter(six(), 64)?, &org_alone, &one_image(), 1).await?;

    let before = probe.used_memory_at_rest().await?;
    call_each(bench.limiter(six(), 64)?, &users, &one_image(), calls).await?;
    let after = probe.used_memory_at_rest().await?;
    Ok(after.saturating_sub(before) / users.len() as u64)
}

async fn per_ledger(bench: &Bench, probe: &mut Probe) -> Result<u64> {
    let limiter = bench.limiter(Policy::new().limit(three(org()).window(BUSY_WINDOW)), 1)?;
    let mut callers = JoinSet::new();
    for number in 0..ORGS {
        let subject = Subject::org(bench.scratch.org(&format!("{BUSY}{number}")));
        callers.spawn(keep_busy(limiter.clone(), subject, one_image()));
    }
    while let Some(caller) = callers.join_next().await {
        caller??;
    }
    limiter.shutdown().await;
    drop(limiter);

    // An org without users keeps the records of its calls beside the ledger, in hashes. So the ledger is what is free without it.
    let with_ledgers = probe.used_memory_at_rest().await?;
    bench.scratch.remove_strings(&bench.client, BUSY).await?;
    let without = probe.used_memory_at_rest().await?;
    Ok(with_ledgers.saturating_sub(without) / ORGS as u64)
}

async fn keep_busy(limiter: Limiter, subject: Subject, cost: Cost) -> Result<()> {
    let until = Instant::now() + BUSY_TIME;
    let mut steps = interval(BUSY_STEP);
    steps.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while steps.tick().await < until {
        if let Outcome::Denied(denial) = limiter.try_acquire(&subject, cost.clone()).await? {
            bail!("a call that fills a ledger was denied: {denial}");
        }
    }
    Ok(())
}
