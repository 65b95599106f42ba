//! Many images a day: the account of our own first, its last part for priority users, proxies for what overflows, Azure for an enterprise.
//!
//! `cargo run --example overflowing_to_proxies --features openai`. All of them are one simulated API, with a key and limits for each.
//! `examples/routes.toml` has such routes as a file.

use std::{future::Future, pin::Pin, time::Duration};

use allotment::{
    Error, Limit, Limiter, Policy, PolicySource, Subject,
    openai::{ImageClient, ImageError, ImageRequest, Images, Quality, Route, RoutePrice, Size},
};
use allotment_upstream::{Limits, Org, Terms, Upstream};

/// Images a minute that each account may draw.
const ACCOUNTS: [(&str, u64); 4] = [("acme", 6), ("acme-proxy-chat", 3), ("acme-proxy-images", 20), ("acme-azure", 2)];

/// The limits of each account: a route is charged to the org that it names.
struct Accounts;

impl PolicySource for Accounts {
    fn policy<'a>(&'a self, org: &'a str) -> Pin<Box<dyn Future<Output = Result<Policy, Error>> + Send + 'a>> {
        let account = ACCOUNTS.into_iter().find(|(name, _)| *name == org);
        let policy = account.ok_or_else(|| Error::unavailable("no such account")).map(|(_, images)| {
            // Standard users leave half of our own account to priority users, and the proxies are theirs.
            let headroom = if org == "acme" { 0.5 } else { 0.0 };
            Policy::new().limit(Limit::new("images").scope(["org"]).images(images)).priority("standard", headroom)
        });
        Box::pin(std::future::ready(policy))
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let terms = ACCOUNTS.into_iter().fold(Terms::new(), |terms, (name, images)| {
        terms.org(Org::new(name).key(format!("sk-{name}")).limits(Limits::new().images(images)))
    });
    let upstream = Upstream::start(terms).await?;
    let base_url = upstream.base_url();

    let direct = Route::compatible("direct", &base_url, "sk-acme");
    let chat = Route::chat("proxy-chat", &base_url, "sk-acme-proxy-chat")
        .org("acme-proxy-chat")
        .priority(1)
        .price(RoutePrice::PerImage { micros: 30_000 });
    let images = Route::compatible("proxy-images", &base_url, "sk-acme-proxy-images")
        .org("acme-proxy-images")
        .priority(2)
        .price(RoutePrice::Factor { permille: 1_250 });
    let azure = Route::azure("azure", upstream.url(), "gpt-image-2", "sk-acme-azure").org("acme-azure");

    // One limiter: what one client takes, the other finds taken.
    let limiter = Limiter::builder().policies(Accounts).build()?;
    let client = || ImageClient::builder().limiter(limiter.clone()).model("gpt-image-2");
    let everybody = client().route(direct.clone()).route(chat).route(images).build()?;
    let enterprise = client().route(azure).route(direct.priority(1)).build()?;

    let request = |at: u32| {
        let prompt = format!("lighthouse number {at}");
        ImageRequest::generate(prompt).size(Size::SQUARE).quality(Quality::Low)
    };
    for at in 0..8 {
        let sam = Subject::org("acme").user("sam");
        let call = everybody.call(&sam, request(at)).priority("standard");
        report("standard", call.max_wait(Duration::from_secs(1)).await)?;
    }
    for at in 0..4 {
        report("priority", everybody.run(&Subject::org("acme").user("pia"), request(at)).await)?;
    }
    for at in 0..2 {
        report("enterprise", enterprise.run(&Subject::org("acme").user("big-corp"), request(at)).await)?;
    }
    println!("upstream refused {} of {} calls", upstream.tally().refusals(), upstream.tally().calls);
    Ok(())
}

fn report(who: &str, drawn: Result<Images, ImageError>) -> Result<(), ImageError> {
    let served = drawn?.served;
    let passed: Vec<_> = served.failed.iter().map(|failed| &*failed.route).collect();
    let passed = if passed.is_empty() { "none".to_owned() } else { passed.join(", ") };
    println!("{who:>10}: {:<12} passed by: {passed}", served.route);
    Ok(())
}
