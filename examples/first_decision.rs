//! Asks before each call: admitted, or denied with the time at which to come back.
//!
//! Runs on the embedded store, so nothing else is needed: `cargo run --example first_decision`.

use std::time::Duration;

use allotment::{Cost, Limit, Limiter, Outcome, Policy, Subject};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    // 3 images in any 2 seconds, for each user of an org.
    let limit = Limit::new("user-images").scope(["org", "user"]).images(3).window(Duration::from_secs(2));
    let limiter = Limiter::builder().policy(Policy::new().limit(limit)).build()?;

    let alice = Subject::org("acme").user("alice");
    for call in 1..=5 {
        // Not a check to be followed by an update: an answer `Admitted` has charged the cost already.
        match limiter.try_acquire(&alice, Cost::images(1)).await? {
            Outcome::Admitted(permit) => {
                let left = permit.limits()[0].remaining;
                println!("call {call}: admitted, {left} images left");
                // Make the call here. Dropping the permit keeps its charge.
            }
            Outcome::Denied(denial) => {
                println!("call {call}: denied, {denial}");
                let Some(wait) = denial.retry_after() else { return Err("this cost can never be admitted".into()) };
                // Nobody need ask in between: the same call is admitted then, and not a millisecond before.
                tokio::time::sleep(wait).await;
                let permit = limiter.try_acquire(&alice, Cost::images(1)).await?.into_result()?;
                println!("call {call}: admitted after {wait:?}, {} images left", permit.limits()[0].remaining);
            }
        }
    }

    // Another user has a limit of his own; a cost above the limit can never fit, and the denial says by how much.
    let bob = Subject::org("acme").user("bob");
    println!(
        "bob, 2 images: {:?}",
        limiter.try_acquire(&bob, Cost::images(2)).await?.into_result().map(|_| "admitted")
    );
    if let Outcome::Denied(denial) = limiter.try_acquire(&bob, Cost::images(5)).await? {
        println!("bob, 5 images: {denial}");
    }
    Ok(())
}
