//! What an operator does when a user drains an org: look who it is, ask why others are denied, and intervene; live, for the whole fleet.
//!
//! `cargo run --example operating_live`

use std::time::Duration;

use allotment::{Admin, Control, Cost, Limit, Limiter, Outcome, Policy, Subject};

#[tokio::main]
async fn main() -> Result<(), allotment::Error> {
    let limiter = Limiter::builder()
        // .redis("redis://localhost")              // so that it binds every process
        .policy(
            Policy::new()
                .limit(Limit::new("pool").images(100))
                .limit(Limit::new("user").scope(["org", "user"]).images(95)),
        )
        .build()?;
    let [greedy, alice] = ["greedy", "alice"].map(|user| Subject::org("acme").user(user));
    while let Outcome::Admitted(permit) = limiter.try_acquire(&greedy, Cost::images(5)).await? {
        permit.commit(Cost::images(5)).await?;
    }

    let admin = Admin::new(&limiter, "dana@example.com")?;
    for user in admin.users("acme").await? {
        if let Some((limit, part)) = user.fullest() {
            println!("{} has used {:.0} % of `{}`", user.user, part * 100.0, limit.status.name);
        }
    }
    let why = admin.explain(&alice, Cost::images(10)).await?;
    println!("alice: {:?}", why.decision);
    for user in why.users {
        println!("  {} has {} of it", user.user, user.used);
    }

    // stop the one, and give the other something for a minute
    let stop = Control::block().on("user", "greedy").because("drains the pool").lasting(Duration::from_secs(600));
    admin.apply("acme", &stop).await?;
    admin.apply("acme", &Control::grant("pool", "images", 10).on("user", "alice").because("launch")).await?;
    for (name, subject) in [("greedy", &greedy), ("alice", &alice)] {
        match limiter.try_acquire(subject, Cost::images(10)).await? {
            Outcome::Admitted(permit) => {
                println!("{name} is admitted");
                permit.commit(Cost::images(10)).await?;
            }
            Outcome::Denied(denial) => println!("{name}: {denial}"),
        }
    }
    for record in admin.audit("acme", 10).await? {
        println!("{} {}: {} {}", record.at_ms, record.by, record.what, record.new);
    }
    limiter.shutdown().await;
    Ok(())
}
