//! Estimates before the call, settles after it: with what was used, or with nothing if the call was not made.
//!
//! `cargo run --example settling_with_actual_usage`

use allotment::{Cost, Limit, Limiter, Outcome, Permit, Policy, RunError, Subject};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let limit = Limit::new("user").scope(["org", "user"]).images(20).tokens(10_000);
    let limiter = Limiter::builder().policy(Policy::new().limit(limit)).build()?;
    let alice = Subject::org("acme").user("alice");

    // How many tokens an image takes is known only afterwards: ask for the most it may take.
    let estimate = Cost::images(1).tokens(6_000);
    let permit = limiter.try_acquire(&alice, estimate.clone()).await?.into_result()?;
    println!("estimated: {}", tokens(&permit));
    if let Outcome::Denied(denial) = limiter.try_acquire(&alice, estimate.clone()).await? {
        println!("a second call beside it: {denial}");
    }
    // A resource that is not named keeps its estimate, so the image stays charged.
    permit.commit(Cost::new().tokens(1_056)).await?;

    let permit = limiter.try_acquire(&alice, estimate.clone()).await?.into_result()?;
    println!("the first one settled, the second estimated: {}", tokens(&permit));
    // The call turned out not to be needed.
    permit.release().await?;

    // `run_with` does both: the call owns its permit and commits; if it fails, the charge is given back. `run` is the same for a call that
    // does not know what it used.
    let image = limiter.run_with(&alice, estimate.clone(), |permit| async move {
        let (image, used) = generate().await?;
        permit.commit(Cost::new().tokens(used)).await.map_err(|error| error.to_string())?;
        Ok::<_, String>(image)
    });
    println!("generated {}", image.await?);
    let failed = limiter.run(&alice, estimate.clone(), || async { Err::<(), _>("the upstream is down") });
    if let Err(RunError::Call(reason)) = failed.await {
        println!("failed and given back: {reason}");
    }

    let permit = limiter.try_acquire(&alice, estimate).await?.into_result()?;
    println!("at the end: {}", tokens(&permit));
    limiter.shutdown().await;
    Ok(())
}

/// Stands for the call upstream; answers with what was used, as the real one does.
async fn generate() -> Result<(&'static str, u64), String> {
    Ok(("an image", 1_756))
}

fn tokens(permit: &Permit) -> String {
    let limit = permit.limits().iter().find(|limit| limit.resource.name() == "tokens");
    limit.map_or_else(String::new, |limit| format!("{} of {} tokens used", limit.used, limit.limit))
}
