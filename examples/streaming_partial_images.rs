//! Shows an image while it is drawn: previews first, then the image, then what it cost.
//!
//! `cargo run --example streaming_partial_images --features openai`, on a simulated API.

use std::time::Duration;

use allotment::{
    Limit, Limiter, Policy, Subject,
    openai::{ImageClient, ImageEvent, ImageRequest, Quality, Route, Size},
};
use allotment_upstream::{Terms, Upstream};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let upstream = Upstream::start(Terms::new().event_pause(Duration::from_millis(100))).await?;
    let limit = Limit::new("org").scope(["org", "model"]).images(5).tokens(100_000);
    let client = ImageClient::builder()
        .limiter(Limiter::builder().policy(Policy::new().limit(limit)).build()?)
        .route(Route::compatible("simulated", upstream.base_url(), upstream.key()))
        .model("gpt-image-2")
        .build()?;

    let request = ImageRequest::generate("a lighthouse in a storm").size(Size::LANDSCAPE).quality(Quality::Medium);
    // Each preview costs 100 tokens: they are part of the estimate.
    let mut stream = client.stream(&Subject::org("acme").user("alice"), request.partial_images(2));
    // The call goes on while the next event is waited for. To drop the stream is to hang up: what was taken stays charged.
    while let Some(event) = stream.next().await {
        match event? {
            ImageEvent::Partial { image, partial, .. } => println!("preview {partial}: {} bytes", image.bytes()?.len()),
            ImageEvent::Image { image, index, .. } => println!("image {index}: {} bytes", image.bytes()?.len()),
            ImageEvent::Completed(drawn) => println!("charged: {} tokens", drawn.served.charged_tokens),
            _ => {}
        }
    }
    Ok(())
}
