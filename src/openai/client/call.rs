//! One call, with what it has of its own.

use std::{
    future::{Future, IntoFuture},
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use super::ImageClient;
use crate::{
    cost::Cost,
    openai::{
        error::ImageError,
        request::ImageRequest,
        response::Images,
        stream::{Events, ImageStream},
    },
    subject::Subject,
};

/// One call: see [`ImageClient::call`]. Nothing happens until it is awaited, or streamed.
///
/// # Errors
///
/// As [`ImageClient::run`].
///
/// # Cancel safety
///
/// Dropped before the request is sent, nothing is charged; dropped later, the charge stays as estimated.
#[derive(Clone, Debug)]
#[must_use = "nothing is asked until it is awaited"]
pub struct ImageCall {
    client: ImageClient,
    subject: Subject,
    request: ImageRequest,
    terms: Terms,
}

/// How one call differs from others of its client.
#[derive(Clone, Debug, Default)]
pub(super) struct Terms {
    pub(super) max_wait: Option<Duration>,
    pub(super) class: Option<Arc<str>>,
    pub(super) expected: Option<Cost>,
}

/// What is asked of a client.
#[derive(Clone, Copy)]
pub(super) struct Asked<'a> {
    pub(super) subject: &'a Subject,
    pub(super) request: &'a ImageRequest,
    pub(super) terms: &'a Terms,
    /// Where events are told, if the caller wants them.
    pub(super) events: Option<&'a Events>,
}

impl ImageCall {
    pub(super) fn new(client: ImageClient, subject: Subject, request: ImageRequest) -> Self {
        Self { client, subject, request, terms: Terms::default() }
    }

    /// How long it waits in all: for quota, and between attempts. Default: that of the client.
    pub fn max_wait(mut self, max_wait: Duration) -> Self {
        self.terms.max_wait = Some(max_wait);
        self
    }

    /// Its priority class: see [`Limiter::priority`](crate::Limiter::priority). Default: that of the client's limiter.
    pub fn priority(mut self, class: impl Into<Arc<str>>) -> Self {
        self.terms.class = Some(class.into());
        self
    }

    /// What it is charged until its usage is known, in place of the estimate.
    pub fn expected(mut self, cost: Cost) -> Self {
        self.terms.expected = Some(cost);
        self
    }

    /// As [`ImageClient::stream`].
    pub fn stream(self) -> ImageStream {
        ImageStream::new(|events| Box::pin(async move { self.serve(Some(&events)).await }))
    }

    async fn serve(&self, events: Option<&Events>) -> Result<Images, ImageError> {
        let Self { client, subject, request, terms } = self;
        client.serve(Asked { subject, request, terms, events }).await
    }
}

impl IntoFuture for ImageCall {
    type Output = Result<Images, ImageError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(mut self) -> Self::IntoFuture {
        // previews are of streams only, and cost tokens
        self.request = self.request.partial_images(0);
        Box::pin(async move { self.serve(None).await })
    }
}
