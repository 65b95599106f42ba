//! One pool, shared fairly: a greedy user fills it, others come, and each gets a share. Calls under way are counted, too.
//!
//! `cargo run --example sharing_fairly`

use std::time::Duration;

use allotment::{Cost, Lease, Limit, Limiter, ManualClock, Outcome, Policy, Reason, Subject};

#[tokio::main]
async fn main() -> Result<(), allotment::Error> {
    let clock = ManualClock::new(); // minutes pass at once
    let limiter = Limiter::builder()
        .policy(
            Policy::new()
                .limit(Limit::new("pool").images(100).fair_share())
                .limit(Limit::new("calls").scope(["org", "user"]).in_flight(2))
                .weight(3, "tier", "pro"),
        )
        .clock(clock.clone())
        .build()?;
    let users = ["greedy", "alice", "bob", "carol"].map(|user| Subject::org("acme").user(user));
    let mut served = [0; 4];
    let mut last = String::new();
    // the greedy one wants 20 images a second for ten minutes; the others, from the third minute on, one every three seconds
    for second in 0..600 {
        for (number, user) in users.iter().enumerate() {
            let wanted = match number {
                0 => 20,
                _ => u32::from(second >= 120 && (second + number) % 3 == 0),
            };
            for _ in 0..wanted {
                match limiter.try_acquire(user, Cost::images(1)).await? {
                    Outcome::Admitted(permit) => {
                        assert!(permit.lease().is_some_and(Lease::is_live));
                        permit.commit(Cost::images(1)).await?;
                        served[number] += u32::from(second >= 300);
                    }
                    Outcome::Denied(denial) => {
                        if let Reason::FairShare { .. } = denial.reason {
                            last = denial.to_string();
                        }
                    }
                }
            }
        }
        clock.advance(Duration::from_secs(1));
    }
    println!(
        "of the last five minutes, greedy {}, alice {}, bob {}, carol {}",
        served[0], served[1], served[2], served[3]
    );
    println!("the greedy one was told: {last}");
    limiter.shutdown().await;
    Ok(())
}
