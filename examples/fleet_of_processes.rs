//! Four processes share one quota through Redis, and together never exceed it.
//!
//! `cargo run --example fleet_of_processes`, with a Redis at `ALLOTMENT_REDIS_URL` or on this host (`docker compose up -d`).

use std::{
    env,
    process::{Command, Stdio},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use allotment::{Cost, Limit, Limiter, Policy, Subject};
use tokio::task::JoinSet;

const PROCESSES: usize = 4;
const CALLERS: usize = 8;
const QUOTA: u64 = 60;
const WINDOW: Duration = Duration::from_secs(2);
const LASTS: Duration = Duration::from_secs(5);
/// Set for the processes that this one starts: the org they share.
const ORG: &str = "ALLOTMENT_FLEET_ORG";

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let url = env::var("ALLOTMENT_REDIS_URL").unwrap_or_else(|_| "redis://127.0.0.1/".to_owned());
    let policy = Policy::new().limit(Limit::new("org").requests(QUOTA).window(WINDOW));
    let limiter = Limiter::builder().redis(url).policy(policy).build()?;
    match env::var(ORG) {
        Ok(org) => work(limiter, Subject::org(org)).await,
        Err(_) => lead(limiter).await,
    }
}

/// One process: callers that ask, wait in line and call, until the time is over. Prints when each call was admitted.
async fn work(limiter: Limiter, org: Subject) -> Result<(), Box<dyn std::error::Error>> {
    let over = tokio::time::Instant::now() + LASTS;
    let mut callers = JoinSet::new();
    for _ in 0..CALLERS {
        let (limiter, org) = (limiter.clone(), org.clone());
        callers.spawn(async move {
            let mut admitted_at = Vec::new();
            // Dropped while it waits, a call gives its place in line back.
            while let Ok(permit) = tokio::time::timeout_at(over, limiter.acquire(&org, Cost::new())).await {
                admitted_at.push(permit?.at_ms());
            }
            Ok::<_, allotment::Error>(admitted_at)
        });
    }
    while let Some(admitted_at) = callers.join_next().await {
        admitted_at??.iter().for_each(|at| println!("{at}"));
    }
    limiter.shutdown().await;
    Ok(())
}

/// Starts the processes, and counts what they were admitted together.
async fn lead(limiter: Limiter) -> Result<(), Box<dyn std::error::Error>> {
    if let Err(error) = limiter.ready().await {
        return Err(
            format!("no Redis ({error}): start one with `docker compose up -d`, or set ALLOTMENT_REDIS_URL").into()
        );
    }
    let org = format!("fleet-{}", SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos());
    println!("{PROCESSES} processes of {CALLERS} callers, {QUOTA} requests in any {WINDOW:?}, for {LASTS:?}");
    let start = || Command::new(env::current_exe()?).env(ORG, &org).stdout(Stdio::piped()).spawn();
    let children = (0..PROCESSES).map(|_| start()).collect::<Result<Vec<_>, _>>()?;

    let mut all = Vec::new();
    for (number, child) in children.into_iter().enumerate() {
        let output = child.wait_with_output()?;
        if !output.status.success() {
            return Err(format!("process {number} failed: {}", output.status).into());
        }
        let admitted_at = String::from_utf8(output.stdout)?.lines().map(str::parse).collect::<Result<Vec<u64>, _>>()?;
        println!("process {number}: {} admitted", admitted_at.len());
        all.extend(admitted_at);
    }
    all.sort_unstable();
    let window_ms = u64::try_from(WINDOW.as_millis())?;
    let in_window = |last: &u64| all.iter().filter(|at| *at <= last && *at + window_ms > *last).count();
    let fullest = all.iter().map(in_window).max().unwrap_or(0);
    println!("together: {} admitted, at most {fullest} in any {WINDOW:?}", all.len());
    if fullest as u64 > QUOTA {
        return Err("a window was over its limit".into());
    }
    Ok(())
}
