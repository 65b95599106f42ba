//! Reads the limits from a file, shows which of them bind whom, and replaces them while running.
//!
//! `cargo run --example policy_file [FILE]`

use std::{env, fs};

use allotment::{Cost, Decision, Limiter, Policy, Subject};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let shipped = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/policy.toml").to_owned();
    let text = fs::read_to_string(env::args().nth(1).unwrap_or(shipped))?;
    let policy = Policy::from_toml(&text)?;
    for limit in policy.limits() {
        let amounts =
            limit.resources().map(|resource| format!("{} {resource}", limit.amount_of(&resource).unwrap_or(0)));
        println!("{}: {}", limit.name(), amounts.collect::<Vec<_>>().join(", "));
    }

    // A file with a mistake is refused as a whole, with the line.
    if let Err(error) = Policy::from_toml(&text.replace("window = \"24h\"", "window = \"24\"")) {
        println!("\na window without a unit: {error}");
    }

    let limiter = Limiter::builder().policy(policy).build()?;
    let cost = Cost::images(1).tokens(1_756).amount("spend_micros", 42_000);
    for tier in ["free", "pro"] {
        let subject = Subject::org("acme").user(format!("{tier}-user")).model("gpt-image-2").attribute("tier", tier);
        println!("\na user of tier {tier}:");
        let permit = limiter.try_acquire(&subject, cost.clone()).await?.into_result()?;
        for limit in permit.limits() {
            println!("  {} {}: {} used of {}", limit.name, limit.resource, limit.used, limit.limit);
        }
        match limiter.peek(&subject, cost.clone()).await? {
            Decision::Denied(denial) => println!("  once more: {denial}"),
            _ => println!("  once more: it would be admitted"),
        }
    }

    // The next decision follows the new policy. What was used before still counts.
    limiter.set_policy(Policy::from_toml(&text.replace("images = 1\n", "images = 2\n"))?)?;
    let free = Subject::org("acme").user("free-user").model("gpt-image-2").attribute("tier", "free");
    let permit = limiter.try_acquire(&free, cost).await?.into_result()?;
    let limit = permit.limits().iter().find(|limit| &*limit.name == "free-tier");
    println!("\nfree-tier raised to 2: {} used", limit.map_or(0, |limit| limit.used));
    Ok(())
}
