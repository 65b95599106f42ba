//! What users call: a request in, images out, within every limit.
//!
//! Invariant: nothing is sent without a permit, and each attempt has one of its own.

mod builder;
mod call;
mod equal;
mod serving;

use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::{task::JoinSet, time::Instant};
use tracing::Instrument;

pub use self::{builder::ImageClientBuilder, call::ImageCall};
use self::{call::Asked, equal::Equal, serving::Serving};
use crate::{
    limiter::Limiter,
    openai::{
        access::{AccessRules, Account},
        address::share_host,
        cache::Cache,
        date::Date,
        endpoint,
        error::ImageError,
        estimate::Estimator,
        feedback::Pace,
        flight::Flights,
        models::Models,
        profile::Profile,
        request::ImageRequest,
        response::{Content, Image, Images},
        retry::Retries,
        route::{capability::ModelList, choice::Routes, state::RouteStatus},
        stream::ImageStream,
        transport::{Fetched, Transport},
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
    routes: Routes,
    /// The name in metrics of the route of calls that no route could serve.
    no_route: Arc<str>,
    model: Option<String>,
    models: Models,
    estimator: Estimator,
    retries: Retries,
    pace: Pace,
    profile: Option<Profile>,
    access: Option<Access>,
    cache: Option<Cache>,
    flights: Option<Flights<Equal, Images, ImageError>>,
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
    /// [`ImageErrorKind`](crate::openai::ImageErrorKind) says what went wrong, and what was charged.
    ///
    /// # Cancel safety
    ///
    /// Dropped before the request is sent, nothing is charged; dropped later, the charge stays as estimated.
    pub async fn run(&self, subject: &Subject, request: ImageRequest) -> Result<Images, ImageError> {
        self.call(subject, request).await
    }

    /// The same, with terms of its own: `.max_wait(..)`, `.priority(..)`, `.expected(..)`, then `.await`.
    pub fn call(&self, subject: &Subject, request: ImageRequest) -> ImageCall {
        ImageCall::new(self.clone(), subject.clone(), request)
    }

    /// The same, as a stream: previews if the request asks for `partial_images`, each image as it comes, all of them at the end. Nothing is
    /// asked before the first event is waited for. An upstream that does not stream gives the images at once.
    pub fn stream(&self, subject: &Subject, request: ImageRequest) -> ImageStream {
        self.call(subject, request).stream()
    }

    /// The same image with its bytes, where upstream gave an address. The key is not sent there, and redirects are not followed. The text of a
    /// model may name any address: one of this machine or of a private network is refused, unless it is on the host of one of the routes.
    ///
    /// # Errors
    ///
    /// [`Invalid`](crate::openai::ImageErrorKind::Invalid) for such an address, or [`Unreachable`](crate::openai::ImageErrorKind::Unreachable)
    /// where only its name leads there; [`Unreachable`](crate::openai::ImageErrorKind::Unreachable),
    /// [`Unanswered`](crate::openai::ImageErrorKind::Unanswered), or [`Unreadable`](crate::openai::ImageErrorKind::Unreadable) for another
    /// status than success.
    pub async fn fetch(&self, image: &Image) -> Result<Image, ImageError> {
        let Some(url) = image.url() else { return Ok(image.clone()) };
        let Core { routes, transport, .. } = &*self.core;
        let is_of_a_route = routes.all().iter().any(|route| share_host(&route.route().base_url, url));
        let fetched =
            if is_of_a_route { transport.fetch(url, None).await? } else { transport.fetch_abroad(url).await? };
        let Fetched { body, media_type } = fetched;
        let (named, revised_prompt) = (image.media_type.clone(), image.revised_prompt.clone());
        Ok(Image { content: Content::Plain(body), media_type: named.or(media_type), revised_prompt })
    }

    /// Asks each route which models it has, all at once: those that it does not list are not asked of it for an hour. A route that has no such
    /// list stays as it was, and so does one of Azure, where models are deployments. Takes no quota. Says how each route is doing, and logs
    /// when the client's model is going to be shut down.
    pub async fn probe(&self) -> Vec<RouteStatus> {
        let mut looks = JoinSet::new();
        for route in self.core.routes.all() {
            let (core, route) = (Arc::clone(&self.core), Arc::clone(route));
            looks.spawn(async move {
                match endpoint::list_models(&core.transport, route.route()).await {
                    Ok(body) => {
                        if let Some(list) = ModelList::read(&body) {
                            let model = core.model.as_deref();
                            if let Some(at) = model.and_then(|model| list.shut_down_at(model)) {
                                telemetry::model_retires(model.unwrap_or_default(), &Date::of(at));
                            }
                            route.list(&list, Instant::now(), SystemTime::now());
                        }
                    }
                    Err(error) => tracing::debug!(route = &**route.name(), kind = ?error.kind(), "no list of models"),
                }
            });
        }
        while looks.join_next().await.is_some() {}
        self.routes()
    }

    /// What estimates the cost of calls, and has learnt from their usage.
    #[must_use]
    pub fn estimator(&self) -> &Estimator {
        &self.core.estimator
    }

    /// How each route is doing, in the order in which they were given.
    #[must_use]
    pub fn routes(&self) -> Vec<RouteStatus> {
        self.core.routes.statuses(Instant::now())
    }

    async fn serve(&self, asked: Asked<'_>) -> Result<Images, ImageError> {
        let turned_away = |error| self.core.turned_away(error);
        let model = self.core.model_of(asked.request).map_err(turned_away)?;
        if let Some(access) = &self.core.access {
            access.check(model).map_err(turned_away)?;
        }
        let span = telemetry::image_span(model);
        let profiled = self.core.profile.as_ref().map(|profile| profile.apply(asked.request));
        let request = profiled.as_ref().unwrap_or(asked.request);
        self.serve_equal(Asked { request, ..asked }).instrument(span).await
    }

    async fn serve_alone(&self, asked: Asked<'_>) -> Result<Images, ImageError> {
        let lowered = match self.core.profile.as_ref().and_then(|profile| Some((profile, profile.wait_max()?))) {
            Some((profile, wait_max)) => self.lowered(asked, profile, wait_max).await,
            None => None,
        };
        let request = lowered.as_ref().unwrap_or(asked.request);
        let serving = Serving::new(&self.core, Asked { request, ..asked });
        let mut images = serving.map_err(|error| self.core.turned_away(error))?.serve().await?;
        images.served.lowered_from = lowered.is_some().then_some(asked.request.quality);
        Ok(images)
    }

    /// The request at the best quality whose wait is within the bound; if none is, at the one whose wait is shortest. `None`: as it is, also
    /// where nobody can tell how long it would wait.
    async fn lowered(&self, asked: Asked<'_>, profile: &Profile, wait_max: Duration) -> Option<ImageRequest> {
        let model = self.core.models.get(self.core.model_of(asked.request).ok()?);
        let wait = async |request: &ImageRequest| {
            let waited = Serving::new(&self.core, Asked { request, events: None, ..asked }).ok()?.wait().await;
            waited.inspect_err(|error| tracing::debug!(kind = ?error.kind(), "no look at the wait")).ok()
        };
        let mut shortest = wait(asked.request).await?;
        let (mut best, mut tried) = (None, asked.request.clone());
        while shortest > wait_max {
            let Some(lower) = profile.lowered(&tried, &model) else { break };
            let Some(wait) = wait(&lower).await else { break };
            if wait < shortest {
                shortest = wait;
                best = Some(lower.clone());
            }
            tried = lower;
        }
        best
    }
}

impl Core {
    fn model_of<'a>(&'a self, request: &'a ImageRequest) -> Result<&'a str, ImageError> {
        let model = request.model.as_deref().or(self.model.as_deref());
        model.ok_or_else(|| ImageError::invalid("model: neither the request nor the client names one"))
    }

    /// Counts a call that was not let out to any route.
    fn turned_away(&self, error: ImageError) -> ImageError {
        telemetry::image_called(&self.no_route, error.kind().name(), 0);
        error
    }
}

/// What an account may use.
struct Access {
    rules: AccessRules,
    account: Account,
}

impl Access {
    /// Says all that is missing, before any quota is taken.
    fn check(&self, model: &str) -> Result<(), ImageError> {
        let report = self.rules.check(&self.account, model, Date::of(SystemTime::now()));
        if report.is_allowed() {
            return Ok(());
        }
        Err(report.into())
    }
}

impl fmt::Debug for ImageClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ImageClient").field("routes", &self.routes()).finish_non_exhaustive()
    }
}
