//! One call on its way: it waits for quota, is made, and is made again where that helps.
//!
//! Invariant: time spent waiting, for quota and between attempts, stays within the client's `max_wait`.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, sleep};

use super::Core;
use crate::{
    openai::{
        attempt::{Attempt, Made},
        error::ImageError,
        estimate::Estimate,
        request::ImageRequest,
        response::{Images, Served},
        route::Route,
        stream::Events,
    },
    permit::Permit,
    resource::Resource,
    subject::Subject,
    telemetry,
};

/// A call under way.
pub(super) struct Serving<'a> {
    core: &'a Core,
    subject: Subject,
    model: &'a str,
    request: &'a ImageRequest,
    estimate: Estimate,
    events: Option<&'a Events>,
    attempts: u32,
    waited: Duration,
}

impl<'a> Serving<'a> {
    /// Checks the request, and estimates what it costs.
    pub(super) fn new(
        core: &'a Core,
        subject: &Subject,
        request: &'a ImageRequest,
        events: Option<&'a Events>,
    ) -> Result<Self, ImageError> {
        let model = request.model.as_deref().or(core.model.as_deref());
        let model = model.ok_or_else(|| ImageError::invalid("model: neither the request nor the client names one"))?;
        let known = core.models.get(model);
        if let Some(why) = known.refuses(request) {
            return Err(ImageError::invalid(why));
        }
        let estimate = core.estimator.estimate(model, request)?;
        let subject = subject.clone().model(known.pool());
        Ok(Self { core, subject, model, request, estimate, events, attempts: 0, waited: Duration::ZERO })
    }

    pub(super) fn model(&self) -> &'a str {
        self.model
    }

    pub(super) async fn serve(mut self) -> Result<Images, ImageError> {
        self.core.retries.call();
        let route = self.core.routes.first().ok_or_else(|| ImageError::invalid("route: there is none"))?;
        let served = self.serve_on(route).await;
        let outcome = served.as_ref().map_or_else(|error| error.kind().name(), |_| "served");
        telemetry::image_called(&route.name, outcome, self.attempts);
        Ok(self.images(route, served?))
    }

    /// Makes the call on one route, and makes it again as the policy allows.
    async fn serve_on(&mut self, route: &Route) -> Result<Made, ImageError> {
        let mut made = 0;
        loop {
            let permit = self.admit(route).await?;
            let error = match self.attempt(route, permit).await {
                Ok(images) => return Ok(images),
                Err(error) => error,
            };
            made += 1;
            // what the caller has seen cannot be taken back
            if self.events.is_some_and(Events::has_told) || error.retry_after().unwrap_or_default() > self.patience() {
                return Err(error);
            }
            let Some(pause) = self.core.retries.pause(&error, made, fastrand::f64()) else { return Err(error) };
            if pause > self.patience() {
                return Err(error);
            }
            tracing::debug!(route = &*route.name, ?pause, "the call is made again");
            sleep(pause).await;
            self.waited += pause;
        }
    }

    /// Waits for a permit of a route, within what is left of the caller's patience.
    async fn admit(&mut self, route: &Route) -> Result<Permit, ImageError> {
        let began = Instant::now();
        let subject = route.subject(self.subject.clone());
        let permit = self.core.limiter.acquire(&subject, self.estimate.cost()).max_wait(self.patience()).await;
        self.waited += began.elapsed();
        Ok(permit?)
    }

    /// Makes the call that the permit is for, once.
    async fn attempt(&mut self, route: &Route, permit: Permit) -> Result<Made, ImageError> {
        self.attempts += 1;
        telemetry::image_attempted(&route.name);
        let subject = route.subject(self.subject.clone());
        let attempt = Attempt {
            limiter: &self.core.limiter,
            transport: &self.core.transport,
            estimator: &self.core.estimator,
            route,
            subject: &subject,
            model: self.model,
            request: self.request,
            estimate: &self.estimate,
            events: self.events,
        };
        attempt.make(permit).await
    }

    fn patience(&self) -> Duration {
        self.core.max_wait.saturating_sub(self.waited)
    }

    fn images(self, route: &Route, made: Made) -> Images {
        let spent = Resource::from("spend_micros");
        let served = Served {
            route: Arc::clone(&route.name),
            model: self.model.to_owned(),
            attempts: self.attempts,
            failed: Vec::new(),
            waited: self.waited,
            latency: made.latency,
            estimated_tokens: self.estimate.tokens,
            charged_tokens: made.charged.of(&Resource::Tokens),
            spend_micros: self.estimate.spend_micros.map(|_| made.charged.of(&spent)),
            cached: false,
            shared: false,
            lowered_from: None,
        };
        Images { images: made.images, usage: made.usage, served }
    }
}
