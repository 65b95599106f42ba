//! One attempt: a permit, one request, its answer, and what is charged for it.
//!
//! Invariant: whatever happens, the permit is settled once. Given up before it is sent, the attempt costs nothing; from then on, what was not
//! answered in full stays charged as estimated, since upstream may have made it, and billed it.

use std::{
    future::Future,
    pin::pin,
    task::{Context, Waker},
    time::Duration,
};

use bytes::Bytes;
use tokio::{runtime::Handle, time::Instant};

use crate::{
    cost::Cost,
    error::Error,
    limiter::Limiter,
    openai::{
        classify,
        endpoint::{self, Assembly, Mode, Reading, Spelled, Step},
        error::{ImageError, ImageErrorKind},
        estimate::{Estimate, Estimator, SPEND},
        feedback::{Feedback, Pace, Sharing},
        headers::RateHeaders,
        refusal::Refusal,
        request::ImageRequest,
        response::Image,
        route::{
            Route,
            capability::{Delivery, Need},
        },
        sse,
        stream::{Events, ImageEvent},
        transport::{Incoming, Transport},
        usage::Usage,
    },
    permit::Permit,
    resource::Resource,
    subject::Subject,
    telemetry,
};

/// An event holds one image in base64 at most, or the whole answer.
const EVENT_BYTES_MAX: usize = 128 << 20;

/// What an attempt is made of.
pub(super) struct Attempt<'a> {
    pub(super) limiter: &'a Limiter,
    pub(super) transport: &'a Transport,
    pub(super) estimator: &'a Estimator,
    pub(super) route: &'a Route,
    /// Who is charged: of the org of the route, and the pool of the model.
    pub(super) subject: &'a Subject,
    pub(super) sharing: Sharing,
    pub(super) pace: &'a Pace,
    pub(super) need: Need<'a>,
    pub(super) request: &'a ImageRequest,
    pub(super) estimate: &'a Estimate,
    /// Where events are told, if the caller wants them.
    pub(super) events: Option<&'a Events>,
}

/// What came of it.
#[derive(Debug)]
pub(super) struct Made {
    pub(super) images: Vec<Image>,
    pub(super) usage: Option<Usage>,
    /// What was charged when it was admitted.
    pub(super) admitted: Cost,
    /// What is charged now.
    pub(super) charged: Cost,
    pub(super) latency: Duration,
    pub(super) admitted_at_ms: u64,
}

impl Attempt<'_> {
    /// Makes the call that the permit is for, and settles it.
    ///
    /// # Errors
    ///
    /// What upstream refused, or why there is no answer. The permit has been settled.
    ///
    /// # Cancel safety
    ///
    /// Dropped before the request is sent, the charge is given back; dropped later, it stays as estimated.
    pub(super) async fn make(&self, permit: Permit) -> Result<Made, ImageError> {
        let admitted_at_ms = permit.at_ms();
        let unsent = Unsent(Some(permit));
        let streams = self.need.delivery == Delivery::Stream && endpoint::streams(&self.route.style);
        let mode = if streams { Mode::Stream } else { Mode::Whole };
        let model = self.route.upstream_model(self.need.model);
        let Spelled { url, key_header, body } = endpoint::spell(self.route, model, self.request, mode);
        let ready = self.transport.prepare(&url, key_header, self.route.key.as_ref(), body).await?;
        let held_for = || self.events.map_or(Duration::ZERO, Events::held_for);
        let (permit, began, held_before) = (unsent.sent(), Instant::now(), held_for());
        let Some(permit) = permit else { return Err(ImageError::invalid("the permit has been settled")) };
        let incoming = match self.transport.send(ready).await {
            Ok(incoming) => incoming,
            Err(error) => {
                if error.kind() == ImageErrorKind::Unreachable
                    && let Err(unsettled) = permit.release().await
                {
                    note(&unsettled);
                }
                return Err(error);
            }
        };
        let rates = incoming.rates.clone();
        let answer = self.read(incoming).await.map_err(|error| match &self.route.key {
            Some(key) => error.without(key.expose()),
            None => error,
        });
        // what the caller does with an event takes no time of the route
        let latency = began.elapsed().saturating_sub(held_for().saturating_sub(held_before));
        telemetry::image_latency(&self.route.name, latency.as_secs_f64());
        let admitted = permit.cost().clone();
        let refusal = answer.as_ref().err().and_then(ImageError::refusal);
        let feedback = Feedback::of(self.pace, self.subject, &permit, &rates, refusal, self.sharing);
        let charged = self.settle(permit, &answer).await;
        if let Some(refusal) = refusal {
            telemetry::image_refused(&self.route.name, refusal.kind.name());
        }
        feedback.tell(self.limiter, self.subject).await;
        let Reading { images, usage } = answer?;
        if images.is_empty() {
            return Err(ImageError::new(ImageErrorKind::NoImage, "upstream answered without an image"));
        }
        Ok(Made { images, usage, admitted, charged, latency, admitted_at_ms })
    }

    /// Charges what the answer says was used. Returns what is charged now.
    async fn settle(&self, permit: Permit, answer: &Result<Reading, ImageError>) -> Cost {
        let estimated = permit.cost().clone();
        let actual = match answer {
            Ok(Reading { images, usage: Some(usage) }) => {
                if !images.is_empty() {
                    self.estimator.learn(self.need.model, self.estimate, usage);
                }
                self.used(usage, images.len(), &estimated)
            }
            Err(error) if error.refusal().is_some_and(|refusal| self.costs_nothing(refusal)) => refused(&estimated),
            // as estimated, and its slot is freed
            Ok(_) | Err(_) => return estimated,
        };
        match permit.commit(actual.clone()).await {
            Ok(()) => actual,
            Err(error) => {
                note(&error);
                estimated
            }
        }
    }

    /// What a call has cost, money by the price of the route. What nobody can tell is as it was estimated.
    fn used(&self, usage: &Usage, images: usize, estimated: &Cost) -> Cost {
        let cost = self.estimator.actual(self.need.model, self.estimate, usage, images);
        let listed = cost.named(&spend());
        let micros = match self.route.price_of(self.need.model) {
            Some(price) => price.actual(usage, images as u64, listed),
            None => listed.filter(|_| usage.tells_apart()),
        };
        match micros.or(estimated.named(&spend())) {
            Some(micros) => cost.amount(spend(), micros.min(Cost::AMOUNT_MAX)),
            None => cost,
        }
    }

    /// Whether a refused call drew nothing.
    fn costs_nothing(&self, refusal: &Refusal) -> bool {
        !self.events.is_some_and(Events::has_told) && !refusal.may_have_drawn()
    }

    /// Reads the answer, be it a stream or not: whatever it was asked for, and whatever it says it is.
    async fn read(&self, mut incoming: Incoming) -> Result<Reading, ImageError> {
        let (status, rates) = (incoming.status, incoming.rates.clone());
        if (300..400).contains(&status) {
            let message = format!("upstream answered with a redirect (status {status}), which is not followed");
            return Err(ImageError::new(ImageErrorKind::Unreadable, message));
        }
        // the status alone says that it was refused
        let cut = |error| classify::body(status, &rates, b"").filter(|_| status >= 400).map_or(error, ImageError::from);
        let first = incoming.piece().await.map_err(cut)?.unwrap_or_default();
        if status < 400 && looks_like_events(&first, incoming.is_stream) {
            return self.read_events(incoming, first, &rates).await;
        }
        let body = incoming.collect(first).await.map_err(cut)?;
        if let Some(refusal) = classify::body(status, &rates, &body) {
            return Err(refusal.into());
        }
        let reading = endpoint::read(&body)?;
        if let Some(events) = self.events {
            for (index, image) in (0..).zip(&reading.images) {
                events.tell(ImageEvent::Image { image: image.clone(), index }).await;
            }
        }
        Ok(reading)
    }

    async fn read_events(
        &self,
        mut incoming: Incoming,
        first: Bytes,
        rates: &RateHeaders,
    ) -> Result<Reading, ImageError> {
        let too_long =
            || ImageError::new(ImageErrorKind::Unreadable, "an event of upstream's stream is longer than it may be");
        let mut parser = sse::Parser::new(EVENT_BYTES_MAX);
        let mut assembly = Assembly::new(self.request.n);
        let mut piece = Some(first);
        while let Some(bytes) = piece {
            parser.push(&bytes).map_err(|_| too_long())?;
            while let Some(event) = parser.next() {
                self.take(&mut assembly, &event, rates).await?;
            }
            if assembly.is_over() {
                return assembly.finish();
            }
            piece = incoming.piece().await?;
        }
        if let Some(event) = parser.finish() {
            self.take(&mut assembly, &event, rates).await?;
        }
        assembly.finish()
    }

    async fn take(&self, assembly: &mut Assembly, event: &sse::Event, rates: &RateHeaders) -> Result<(), ImageError> {
        if let Some(refusal) = classify::event(&event.name, rates, &event.data) {
            return Err(refusal.into());
        }
        let steps = assembly.take(event);
        let Some(events) = self.events else { return Ok(()) };
        for step in steps {
            events
                .tell(match step {
                    Step::Partial { image, index, partial } => ImageEvent::Partial { image, index, partial },
                    Step::Complete { image, index } => ImageEvent::Image { image, index },
                })
                .await;
        }
        Ok(())
    }
}

/// A permit whose call has not been sent: dropped, it gives the charge back.
struct Unsent(Option<Permit>);

impl Unsent {
    /// From now on it keeps the charge.
    fn sent(mut self) -> Option<Permit> {
        self.0.take()
    }
}

impl Drop for Unsent {
    fn drop(&mut self) {
        // outside a runtime nobody could give it back: the charge leaves with its window
        if let (Some(permit), Ok(_)) = (self.0.take(), Handle::try_current()) {
            // once polled, a release takes effect even if it is dropped
            let released = pin!(permit.release()).poll(&mut Context::from_waker(Waker::noop()));
            drop(released);
        }
    }
}

/// A settlement that failed leaves the charge as estimated. What came of the call is not changed by it.
fn note(unsettled: &Error) {
    tracing::debug!(kind = ?unsettled.kind(), "a call keeps its charge as estimated");
}

/// Failed requests count upstream; the rest of what was estimated was not used.
fn refused(estimated: &Cost) -> Cost {
    let cost = Cost::images(0).tokens(0).requests(estimated.of(&Resource::Requests));
    if estimated.named(&spend()).is_some() { cost.amount(spend(), 0) } else { cost }
}

fn spend() -> Resource {
    Resource::from(SPEND)
}

/// JSON begins with a bracket, and no event does.
fn looks_like_events(first: &[u8], says_so: bool) -> bool {
    let start = first.trim_ascii_start();
    let is_event = [&b"data:"[..], b"event:", b"id:", b"retry:", b":"].iter().any(|field| start.starts_with(field));
    is_event || (says_so && !start.starts_with(b"{"))
}
