//! What users call: a request in, images out, within every limit.
//!
//! Invariant: nothing is sent without a permit, and each attempt has one of its own.

mod builder;
mod serving;

use std::{fmt, sync::Arc, time::Duration};

use tracing::Instrument;

pub use self::builder::ImageClientBuilder;
use self::serving::Serving;
use crate::{
    limiter::Limiter,
    openai::{
        error::{ImageError, ImageErrorKind},
        estimate::Estimator,
        models::Models,
        request::ImageRequest,
        response::{Content, Image, Images},
        retry::Retries,
        route::Route,
        stream::{Events, ImageStream},
        transport::{KeyHeader, Transport},
    },
    subject::Subject,
    telemetry,
};

/// Asks image APIs, and takes the quota first. A clone is the same client.
///
/// ```no_run
/// use allotment::{Limit, Limiter, Policy, Subject, openai::{ImageClient, ImageRequest, Route}};
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let policy = Policy::new().limit(Limit::new("org-images").scope(["org", "model"]).images(250));
/// let client = ImageClient::builder()
///     .limiter(Limiter::builder().redis("redis://localhost").policy(policy).build()?)
///     .route(Route::openai("direct", std::env::var("OPENAI_API_KEY")?))
///     .model("gpt-image-2")
///     .build()?;
/// let alice = Subject::org("acme").user("alice");
/// let drawn = client.run(&alice, ImageRequest::generate("a lighthouse")).await?;
/// drawn.images[0].save("lighthouse.png").await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct ImageClient {
    core: Arc<Core>,
}

struct Core {
    limiter: Limiter,
    transport: Transport,
    routes: Vec<Route>,
    model: Option<String>,
    models: Models,
    estimator: Estimator,
    retries: Retries,
    max_wait: Duration,
}

impl ImageClient {
    /// A client with the models that this crate knows, once it has a limiter and a route.
    pub fn builder() -> ImageClientBuilder {
        ImageClientBuilder::new()
    }

    /// Takes the quota, asks for the images, and settles with what was used. Waits for quota up to the client's `max_wait`.
    ///
    /// # Errors
    ///
    /// [`ImageErrorKind`] says what went wrong, and what was charged.
    ///
    /// # Cancel safety
    ///
    /// Dropped before the request is sent, nothing is charged; dropped later, the charge stays as estimated.
    pub async fn run(&self, subject: &Subject, request: ImageRequest) -> Result<Images, ImageError> {
        // previews are of streams only, and cost tokens
        let request = request.partial_images(0);
        self.serve(subject, &request, None).await
    }

    /// The same, as a stream: previews if the request asks for `partial_images`, each image as it comes, all of them at the end. Nothing is
    /// asked before the first event is waited for. An upstream that does not stream gives the images at once.
    pub fn stream(&self, subject: &Subject, request: ImageRequest) -> ImageStream {
        let (client, subject) = (self.clone(), subject.clone());
        ImageStream::new(|events| Box::pin(async move { client.serve(&subject, &request, Some(&events)).await }))
    }

    /// The same image with its bytes, where upstream gave an address. The key is not sent there, and redirects are not followed.
    ///
    /// # Errors
    ///
    /// [`ImageErrorKind::Unreachable`], [`ImageErrorKind::Unanswered`], or [`ImageErrorKind::Unreadable`] for another status than success.
    pub async fn fetch(&self, image: &Image) -> Result<Image, ImageError> {
        let Some(url) = image.url() else { return Ok(image.clone()) };
        let transport = &self.core.transport;
        let mut incoming = transport.send(transport.fetch(url, KeyHeader::Bearer, None)?).await?;
        if !(200..300).contains(&incoming.status) {
            let message = format!("the address of the image answered with status {}", incoming.status);
            return Err(ImageError::new(ImageErrorKind::Unreadable, message));
        }
        let media_type = incoming.media_type();
        let first = incoming.piece().await?.unwrap_or_default();
        let content = Content::Plain(incoming.collect(first).await?);
        Ok(Image {
            content,
            media_type: image.media_type.clone().or(media_type),
            revised_prompt: image.revised_prompt.clone(),
        })
    }

    /// What estimates the cost of calls, and has learnt from their usage.
    #[must_use]
    pub fn estimator(&self) -> &Estimator {
        &self.core.estimator
    }

    async fn serve(
        &self,
        subject: &Subject,
        request: &ImageRequest,
        events: Option<&Events>,
    ) -> Result<Images, ImageError> {
        let serving = Serving::new(&self.core, subject, request, events)?;
        let span = telemetry::image_span(serving.model());
        serving.serve().instrument(span).await
    }
}

impl fmt::Debug for ImageClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ImageClient").field("routes", &self.core.routes).finish_non_exhaustive()
    }
}
