//! Requests that are equal to one that was served before, or is being served.
//!
//! Invariant: what comes from the cache, or from another's call, takes no quota, and no call is made for what the cache has by then. Off unless
//! the client is told otherwise.

use std::{sync::Arc, time::Duration};

use super::{Core, ImageClient, call::Asked};
use crate::{
    openai::{
        cache::{Cached, key::CacheKey},
        error::ImageError,
        flight::{self, Flown},
        response::{Images, Served},
        stream::ImageEvent,
    },
    telemetry,
};

/// What calls have in common that wait for the answer to one of them: with other terms they would wait for quota otherwise.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Equal {
    request: CacheKey,
    class: Option<Arc<str>>,
    max_wait: Duration,
}

impl ImageClient {
    /// Serves a request from the cache, together with an equal one, or by itself.
    pub(super) async fn serve_equal(&self, asked: Asked<'_>) -> Result<Images, ImageError> {
        let Core { cache, flights, .. } = &*self.core;
        if cache.is_none() && flights.is_none() {
            return self.serve_alone(asked).await;
        }
        let Some(key) = self.key(asked).await? else { return self.serve_alone(asked).await };
        let call = || async {
            // when it is its turn: the one before may have kept what it asks for
            if let Some(cache) = cache
                && let Some(cached) = cache.get(&key).await
            {
                let images = told(cached, asked).await;
                telemetry::image_called(&images.served.route, "cached", 0);
                return Ok(images);
            }
            let drawn = self.serve_alone(asked).await?;
            if let Some(cache) = cache
                // a lower quality is not what was asked for
                && drawn.served.lowered_from.is_none()
            {
                let (model, images) = (drawn.served.model.clone(), drawn.images.clone());
                cache.put(key.clone(), &Cached { model, usage: drawn.usage, images }).await;
            }
            Ok(drawn)
        };
        // who waits for another's call sees none of its events
        let Some(flights) = flights.as_ref().filter(|_| asked.events.is_none()) else { return call().await };
        let (class, max_wait) = (asked.terms.class.clone(), asked.terms.max_wait.unwrap_or(self.core.max_wait));
        let equal = Equal { request: key.clone(), class, max_wait };
        match flights.fly(equal, call, flight::shared).await {
            Flown::Own(answer) => answer,
            Flown::Shared(Ok(mut drawn)) => {
                telemetry::image_called(&drawn.served.route, "shared", 0);
                drawn.served.shared = true;
                Ok(drawn)
            }
            Flown::Shared(Err(error)) => Err(self.core.turned_away(error)),
        }
    }

    async fn key(&self, Asked { subject, request, .. }: Asked<'_>) -> Result<Option<CacheKey>, ImageError> {
        let (org, model) = (subject.value("org").unwrap_or_default(), self.core.model_of(request)?);
        Ok(match &self.core.cache {
            Some(cache) => cache.key(org, model, request).await,
            None => CacheKey::of(Some(org), model, request).await,
        })
    }
}

/// What was kept, as an answer.
async fn told(cached: Cached, asked: Asked<'_>) -> Images {
    let Cached { model, usage, images } = cached;
    if let Some(events) = asked.events {
        for (index, image) in (0..).zip(&images) {
            events.tell(ImageEvent::Image { image: image.clone(), index }).await;
        }
    }
    Images { images, usage, served: Served::cached(model, asked.request.quality) }
}
