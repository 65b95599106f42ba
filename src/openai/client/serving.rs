//! One call on its way: over the routes that can serve it, and over them again where that helps.
//!
//! Invariant: time spent waiting, for quota and between walks, stays within the client's `max_wait`. What the caller has seen of a stream is
//! not asked for again.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, sleep};

use super::{
    Core,
    call::{Asked, Terms},
};
use crate::{
    cost::Cost,
    decision::Decision,
    limiter::{Limiter, Outcome},
    openai::{
        attempt::{Attempt, Made},
        error::{ImageError, ImageErrorKind},
        estimate::{Estimate, SPEND},
        feedback::Sharing,
        refusal::RefusalKind,
        request::ImageRequest,
        response::{FailedRoute, Images, Served},
        route::{
            capability::{Delivery, Need},
            choice::{Moment, NoRoute},
            state::RouteState,
            walk::walk,
            walker::{Admission, Journal, Stuck, Walked, Walker},
        },
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
    /// Of the priority class of the call.
    limiter: Limiter,
    terms: &'a Terms,
    /// With the pool of the model.
    subject: Subject,
    request: &'a ImageRequest,
    need: Need<'a>,
    estimate: Estimate,
    events: Option<&'a Events>,
    /// Of all walks.
    journal: Journal,
}

impl<'a> Serving<'a> {
    /// Checks the request, and estimates what it costs.
    pub(super) fn new(core: &'a Core, asked: Asked<'a>) -> Result<Self, ImageError> {
        let Asked { subject, request, terms, events } = asked;
        let model = core.model_of(request)?;
        let known = core.models.get(model);
        if let Some(why) = known.refuses(request) {
            return Err(ImageError::invalid(why));
        }
        let estimate = core.estimator.estimate(model, request)?;
        let subject = subject.clone().model(known.pool());
        let need = Need::of(model, request, if events.is_some() { Delivery::Stream } else { Delivery::Whole });
        let of_class = |class: &Arc<str>| core.limiter.priority(Arc::clone(class));
        let limiter = terms.class.as_ref().map_or_else(|| core.limiter.clone(), of_class);
        Ok(Self { core, limiter, terms, subject, request, need, estimate, events, journal: Journal::default() })
    }

    /// How long it would wait for quota, on the route where that is shortest. A round trip per route, until one has room.
    pub(super) async fn wait(&mut self) -> Result<Duration, ImageError> {
        let mut shortest = Duration::MAX;
        for route in self.order().await.map_err(ImageError::from)? {
            let (subject, cost) = (route.subject(&self.subject), self.cost(&route));
            match self.limiter.peek(&subject, cost).await? {
                Decision::Allowed(_) => return Ok(Duration::ZERO),
                Decision::Denied(denial) => shortest = shortest.min(denial.retry_after().unwrap_or(Duration::MAX)),
            }
        }
        Ok(shortest)
    }

    pub(super) async fn serve(mut self) -> Result<Images, ImageError> {
        self.core.retries.call();
        let served = self.serve_somewhere().await;
        let route = match &served {
            Ok(served) => &served.route,
            // the last one that was asked
            Err(_) => self.journal.failed.last().map_or(&self.core.no_route, |failed| &failed.route),
        };
        let outcome = served.as_ref().map_or_else(|error| error.kind().name(), |_| "served");
        telemetry::image_called(route, outcome, self.journal.attempts);
        let OnRoute { route, made } = served?;
        Ok(self.images(route, made))
    }

    async fn serve_somewhere(&mut self) -> Result<OnRoute, ImageError> {
        let (mut walks, mut before) = (0, None);
        loop {
            let order = match self.order().await {
                Ok(order) => order,
                // failures of this call, among others, may have made the pause: it is a part of the wait like any other
                Err(NoRoute { retry_after: Some(pause), .. })
                    if pause <= self.patience() && !self.patience().is_zero() =>
                {
                    self.pause(pause).await;
                    continue;
                }
                // what a route said says more than that it pauses for it
                Err(no_route) => return Err(before.unwrap_or_else(|| no_route.into())),
            };
            let walked = walk(&*self, &order, &self.need, self.patience()).await;
            let error = match walked {
                Ok(Walked { served: Ok(made), route, passage, journal }) => {
                    passage.served(made.latency);
                    self.note(journal);
                    return Ok(OnRoute { route: Arc::clone(route.name()), made });
                }
                Ok(Walked { served: Err(error), route, passage, mut journal }) => {
                    passage.failed(&error, &self.need);
                    journal.failed.push(FailedRoute { route: Arc::clone(route.name()), why: error.to_string() });
                    self.note(journal);
                    return Err(error);
                }
                Err(Stuck { error, journal }) => {
                    let was_asked = journal.attempts > 0 || error.kind() != ImageErrorKind::Unreachable;
                    self.note(*journal);
                    if !was_asked {
                        // other calls find out about the routes: they are looked at again, and none was asked in vain
                        continue;
                    }
                    error
                }
            };
            if self.can_do_without_stream(&error) {
                self.need.delivery = Delivery::Whole;
                continue;
            }
            walks += 1;
            let patience = self.core.pace.upstreams(self.patience());
            let pause = self.core.retries.pause(&error, walks, patience, fastrand::f64());
            let Some(pause) = pause.map(|pause| self.core.pace.lasts(pause)) else { return Err(error) };
            telemetry::image_repeated(error.kind().name(), pause);
            before = Some(error);
            self.pause(pause).await;
        }
    }

    async fn pause(&mut self, pause: Duration) {
        sleep(pause).await;
        self.journal.waited += pause;
    }

    /// The routes to ask. Where none streams, those that answer whole.
    async fn order(&mut self) -> Result<Vec<Arc<RouteState>>, NoRoute> {
        let Core { routes, limiter, .. } = self.core;
        let whole = Need { delivery: Delivery::Whole, ..self.need };
        for need in [self.need, whole] {
            let order = routes.order_now(&need, &self.estimate, limiter, &self.subject).await;
            if !order.is_empty() {
                self.need = need;
                return Ok(order);
            }
        }
        Err(routes.no_route(&whole, &self.estimate, Instant::now()))
    }

    /// Whether the call was refused for being a stream, by routes that have been noted as not streaming.
    fn can_do_without_stream(&self, error: &ImageError) -> bool {
        let is_refused = error.refusal().is_some_and(|refusal| refusal.kind == RefusalKind::Invalid);
        let can = |delivery| {
            let moment = Moment { now: Instant::now(), seed: 0, shares: &[] };
            !self.core.routes.order(&Need { delivery, ..self.need }, &self.estimate, &moment).is_empty()
        };
        is_refused && self.need.delivery == Delivery::Stream && !can(Delivery::Stream) && can(Delivery::Whole)
    }

    fn sharing(&self, route: &RouteState) -> Sharing {
        let of_org = self.core.routes.all().iter().filter(|other| other.route().org == route.route().org);
        if of_org.count() > 1 { Sharing::Shared } else { Sharing::Alone }
    }

    fn note(&mut self, journal: Journal) {
        self.journal.failed.extend(journal.failed);
        self.journal.attempts += journal.attempts;
        self.journal.waited += journal.waited;
    }

    /// What it is charged on a route until its usage is known.
    fn cost(&self, route: &RouteState) -> Cost {
        self.terms.expected.clone().unwrap_or_else(|| route.cost(&self.need, &self.estimate))
    }

    fn patience(&self) -> Duration {
        self.terms.max_wait.unwrap_or(self.core.max_wait).saturating_sub(self.journal.waited)
    }

    fn images(self, route: Arc<str>, made: Made) -> Images {
        let spent = Resource::from(SPEND);
        let mut failed = self.core.routes.wordless(&self.need);
        failed.extend(self.journal.failed);
        let served = Served {
            route,
            model: self.need.model.to_owned(),
            attempts: self.journal.attempts,
            failed,
            waited: self.journal.waited,
            latency: made.latency,
            admitted_at_ms: made.admitted_at_ms,
            estimated_tokens: made.admitted.of(&Resource::Tokens),
            charged_tokens: made.charged.of(&Resource::Tokens),
            spend_micros: made.charged.named(&spent),
            cached: false,
            shared: false,
            quality: self.request.quality,
            lowered_from: None,
        };
        Images { images: made.images, usage: made.usage, served }
    }
}

/// Where a call was served.
struct OnRoute {
    route: Arc<str>,
    made: Made,
}

impl Walker for Serving<'_> {
    type Permit = Permit;
    /// An error where the caller has seen a part of the answer, so that no other route can be asked.
    type Served = Result<Made, ImageError>;

    async fn admit(&self, route: &Arc<RouteState>) -> Result<Admission<Permit>, ImageError> {
        let (subject, cost) = (route.subject(&self.subject), self.cost(route));
        Ok(match self.limiter.try_acquire(&subject, cost).await? {
            Outcome::Admitted(permit) => Admission::Admitted(permit),
            Outcome::Denied(denial) => Admission::Denied(denial),
        })
    }

    async fn wait(&self, route: &Arc<RouteState>, wait_max: Duration) -> Result<Permit, ImageError> {
        let (subject, cost) = (route.subject(&self.subject), self.cost(route));
        Ok(self.limiter.acquire(&subject, cost).max_wait(wait_max).await?)
    }

    async fn give_back(&self, permit: Permit) {
        if let Err(error) = permit.release().await {
            tracing::debug!(kind = ?error.kind(), "a call that was not made keeps its charge");
        }
    }

    async fn attempt(&self, route: &Arc<RouteState>, permit: Permit) -> Result<Self::Served, ImageError> {
        telemetry::image_attempted(route.name());
        let admitted_at_ms = permit.at_ms();
        let subject = route.subject(&self.subject);
        let attempt = Attempt {
            limiter: &self.limiter,
            transport: &self.core.transport,
            estimator: &self.core.estimator,
            route: route.route(),
            subject: &subject,
            sharing: self.sharing(route),
            pace: &self.core.pace,
            need: self.need,
            request: self.request,
            estimate: &self.estimate,
            events: self.events,
        };
        match attempt.make(permit).await {
            Ok(made) => Ok(Ok(made)),
            Err(error) => {
                let error = error.admitted_at(admitted_at_ms);
                if self.events.is_some_and(Events::has_told) { Ok(Err(error)) } else { Err(error) }
            }
        }
    }
}
