//! Twelve callers want 4 places in any 2 seconds: each takes a place in line, sleeps until it, and starts. Nobody polls.
//!
//! `cargo run --example waiting_in_line`

use std::time::{Duration, Instant};

use allotment::{Cost, Limit, Limiter, Policy, Subject};
use tokio::task::JoinSet;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let limit = Limit::new("org").requests(4).window(Duration::from_secs(2));
    let limiter = Limiter::builder().policy(Policy::new().limit(limit)).build()?;
    let acme = Subject::org("acme");

    let started = Instant::now();
    let mut callers = JoinSet::new();
    for caller in 1..=12 {
        let (limiter, acme) = (limiter.clone(), acme.clone());
        callers.spawn(async move {
            let permit = limiter.acquire(&acme, Cost::new()).max_wait(Duration::from_secs(10)).await?;
            println!("caller {caller:2} starts after {:4} ms", started.elapsed().as_millis());
            // Make the call here. A failed one would give its place back: `permit.release().await`.
            permit.commit(Cost::new()).await
        });
    }

    // All places within a tenth of a second are taken, so this caller is told at once instead of waiting in vain.
    tokio::time::sleep(Duration::from_millis(50)).await;
    let hasty = limiter.acquire(&acme, Cost::new()).max_wait(Duration::from_millis(100)).await;
    match hasty.as_ref().err().and_then(|error| error.denial()) {
        Some(denial) => println!("a hasty caller: {denial}"),
        None => println!("a hasty caller: {hasty:?}"),
    }

    while let Some(caller) = callers.join_next().await {
        caller??;
    }
    // Waits until commits and releases under way have reached the store.
    limiter.shutdown().await;
    Ok(())
}
