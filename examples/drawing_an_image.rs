//! Draws one image: the quota is taken before the call, and settled with what upstream counted.
//!
//! `cargo run --example drawing_an_image --features openai -- lighthouse.png`. On the API that `OPENAI_API_KEY` and `OPENAI_BASE_URL` name, or
//! on a simulated one.

use std::{env, path::PathBuf};

use allotment::{
    Limit, Limiter, Policy, Subject,
    openai::{ImageClient, ImageErrorKind, ImageRequest, Quality, Route, Size},
};
use allotment_upstream::{Terms, Upstream};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = env::args_os().nth(1).map_or_else(|| env::temp_dir().join("lighthouse.png"), PathBuf::from);
    let simulated = Upstream::start(Terms::new().images(5)).await?;
    let route = match env::var("OPENAI_API_KEY") {
        Ok(key) => {
            let base_url = env::var("OPENAI_BASE_URL").unwrap_or_else(|_| Route::OPENAI_BASE_URL.to_owned());
            Route::compatible("direct", base_url, key)
        }
        Err(_) => Route::compatible("simulated", simulated.base_url(), simulated.key()),
    };

    // What upstream allows the org: tier 1. With `.redis(..)` all processes of the org share it.
    let tier = Limit::new("org").scope(["org", "model"]).images(5).tokens(100_000);
    let client = ImageClient::builder()
        .limiter(Limiter::builder().policy(Policy::new().limit(tier)).build()?)
        .route(route)
        .model("gpt-image-2")
        .build()?;

    let alice = Subject::org("acme").user("alice");
    let request = ImageRequest::generate("a lighthouse in a storm").size(Size::SQUARE).quality(Quality::Low);
    match client.run(&alice, request).await {
        Ok(drawn) => {
            drawn.images[0].save(&path).await?;
            let served = &drawn.served;
            println!("{}, by {} in {:?}", path.display(), served.route, served.latency);
            println!("{} tokens were estimated, {} are charged", served.estimated_tokens, served.charged_tokens);
            if let Some(micros) = served.spend_micros {
                println!("it cost {micros} millionths of a dollar");
            }
        }
        // Each kind of error says what can be done about it.
        Err(error) if error.kind() == ImageErrorKind::NotAdmitted => {
            println!("{error}; come back in {:?}", error.retry_after());
        }
        Err(error) => return Err(error.into()),
    }
    Ok(())
}
