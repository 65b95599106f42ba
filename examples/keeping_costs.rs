//! Keeps costs down: previews in development, a budget for the day, the cheapest route, equal requests from a cache, and a lower quality
//! once the budget has no room for the full one.
//!
//! `cargo run --example keeping_costs --features openai`, on a simulated API.

use std::time::Duration;

use allotment::{
    Limit, Limiter, Policy, Subject,
    openai::{
        Cache, ImageClient, ImageErrorKind, ImageRequest, Images, Profile, Quality, Route, RoutePrice, Size, Strategy,
    },
};
use allotment_upstream::{Terms, Upstream};

const HOUR: Duration = Duration::from_secs(3_600);

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let upstream = Upstream::start(Terms::new()).await?;
    let route = |name: &str| Route::compatible(name, upstream.base_url(), upstream.key());
    // Money is a resource as others are: half a dollar in any 24 hours, on whatever route it is spent.
    let budget = Limit::new("budget").scope(["org"]).amount("spend_micros", 500_000).window(24 * HOUR);
    let limiter = Limiter::builder().policy(Policy::new().limit(budget)).build()?;
    let client = || {
        ImageClient::builder()
            .limiter(limiter.clone())
            .route(route("direct"))
            .route(route("proxy").price(RoutePrice::Factor { permille: 700 })) // 30 % off
            .strategy(Strategy::Cheapest)
            .model("gpt-image-2")
            .max_wait(Duration::ZERO)
    };
    let alice = Subject::org("acme").user("alice");
    let poster = |number: u32| {
        let prompt = format!("a poster of lighthouse number {number}");
        ImageRequest::generate(prompt).size(Size::SQUARE).quality(Quality::High)
    };

    // Whatever quality the program asks for, developers look at previews.
    let development = client().profile(Profile::development()).build()?;
    report("development", &development.run(&alice, poster(0)).await?);

    // In production a call that would have to wait for longer than 10 s is drawn at a lower quality instead. It may be the budget that it
    // would wait for.
    let production = client()
        .profile(Profile::production().lower_when_wait_exceeds(Duration::from_secs(10)))
        .cache(Cache::memory(256 << 20, HOUR)?) // `Cache::redis` shares it among processes
        .single_flight()
        .build()?;
    report("the first time", &production.run(&alice, poster(1)).await?);
    report("the same again", &production.run(&alice, poster(1)).await?);
    for number in 2.. {
        match production.run(&alice, poster(number)).await {
            Ok(drawn) => report("another", &drawn),
            Err(error) if error.kind() == ImageErrorKind::NotAdmitted => {
                println!("the budget is spent: {error}");
                break;
            }
            Err(error) => return Err(error.into()),
        }
    }
    println!("{} calls were made", upstream.tally().calls);
    Ok(())
}

fn report(what: &str, drawn: &Images) {
    let served = &drawn.served;
    let lowered =
        served.lowered_from.map_or_else(String::new, |asked| format!(", {} in place of {asked}", served.quality));
    println!(
        "{what:>14}: by {}, {:>6} millionths of a dollar{lowered}",
        served.route,
        served.spend_micros.unwrap_or(0)
    );
}
