//! A client, a limiter and an upstream on a port of its own.

use std::time::Duration;

use allotment::{
    Cost, Decision, Limit, Limiter, Policy, Resource, Subject,
    openai::{ImageClient, ImageClientBuilder, ImageRequest, Quality, Route, Size},
};
use allotment_upstream::{Pictures, Terms, Upstream};

pub(super) const MINUTE: Duration = Duration::from_secs(60);
/// A key that is looked for in whatever the client tells.
pub(super) const KEY: &str = "sk-planted-8f31";

pub(super) struct Stage {
    pub(super) upstream: Upstream,
    pub(super) limiter: Limiter,
}

/// What is charged to the org.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Charged {
    pub(super) requests: u64,
    pub(super) tokens: u64,
    pub(super) images: u64,
    pub(super) in_flight: u64,
}

pub(super) fn alice() -> Subject {
    Subject::org("acme").user("alice")
}

pub(super) fn lighthouse() -> ImageRequest {
    ImageRequest::generate("a lighthouse").size(Size::SQUARE).quality(Quality::Low)
}

pub(super) fn is_png(bytes: &[u8]) -> bool {
    bytes.starts_with(b"\x89PNG")
}

/// Each way of speaking to the upstream.
pub(super) fn styles(upstream: &Upstream) -> [Route; 4] {
    let (base, key) = (upstream.base_url(), upstream.key());
    [
        Route::compatible("images", &base, key),
        Route::azure("azure", upstream.url(), "gpt-image-2", key),
        Route::responses("responses", "gpt-5.2", key).base_url(&base),
        Route::chat("chat", &base, key),
    ]
}

impl Stage {
    /// Small pictures, and limits that are not reached. Upstream tells of limits per minute, so these are not corrected by it.
    pub(super) async fn new(terms: Terms) -> Self {
        let limit = Limit::new("org").scope(["org"]).requests(50_000).tokens(1 << 40).images(50_000).window(MINUTE * 2);
        let policy = Policy::new().limit(limit).limit(Limit::new("calls").scope(["org"]).in_flight(1_000));
        Self::with_policy(terms, policy).await
    }

    pub(super) async fn with_policy(terms: Terms, policy: Policy) -> Self {
        let upstream = Upstream::start(terms.pictures(Pictures::Thumbnail)).await.unwrap();
        Self { upstream, limiter: Limiter::builder().in_memory().policy(policy).build().unwrap() }
    }

    pub(super) fn route(&self) -> Route {
        Route::compatible("direct", self.upstream.base_url(), self.upstream.key())
    }

    pub(super) fn client(&self, routes: impl IntoIterator<Item = Route>) -> ImageClient {
        self.client_with(routes, |builder| builder)
    }

    pub(super) fn client_with(
        &self,
        routes: impl IntoIterator<Item = Route>,
        set: impl FnOnce(ImageClientBuilder) -> ImageClientBuilder,
    ) -> ImageClient {
        let builder = ImageClient::builder().limiter(self.limiter.clone()).model("gpt-image-2");
        set(routes.into_iter().fold(builder, ImageClientBuilder::route)).build().unwrap()
    }

    pub(super) async fn charged(&self) -> Charged {
        let looked = self.limiter.peek(&Subject::org("acme"), Cost::new().requests(0)).await.unwrap();
        let Decision::Allowed(limits) = looked else { panic!("{looked:?}") };
        let used = |resource: Resource| {
            limits.iter().find(|status| status.resource == resource).map_or(0, |status| status.used)
        };
        Charged {
            requests: used(Resource::Requests),
            tokens: used(Resource::Tokens),
            images: used(Resource::Images),
            in_flight: used(Resource::InFlight),
        }
    }

    /// Waits until this is charged, as a settlement may be under way.
    pub(super) async fn settles_to(&self, expected: Charged) {
        crate::support::eventually("the charge is settled", async || (self.charged().await == expected).then_some(()))
            .await;
    }
}
