//! How an image client is made.

use std::{fmt, sync::Arc, time::Duration};

use super::{Access, Core, ImageClient, equal::Equal};
use crate::{
    limiter::Limiter,
    openai::{
        access::{AccessRules, Account},
        cache::Cache,
        error::ImageError,
        estimate::Estimator,
        feedback::{MINUTE, Pace},
        flight::Flights,
        models::Models,
        profile::Profile,
        response::Images,
        retry::{Retries, RetryPolicy},
        route::{
            Route,
            choice::{Routes, Strategy},
            file::RoutesFile,
        },
        transport::{Bounds, Transport},
    },
};

/// Settings of an [`ImageClient`].
#[must_use = "a builder does nothing until it is built"]
pub struct ImageClientBuilder {
    limiter: Option<Limiter>,
    routes: Vec<Route>,
    strategy: Strategy,
    price_micros_max: Option<u64>,
    model: Option<String>,
    models: Option<Models>,
    estimator: Option<Estimator>,
    retry: RetryPolicy,
    profile: Option<Profile>,
    access: Option<Access>,
    cache: Option<Cache>,
    flights: Option<Flights<Equal, Images, ImageError>>,
    max_wait: Duration,
    upstream_minute: Duration,
    bounds: Bounds,
}

impl ImageClientBuilder {
    pub(super) fn new() -> Self {
        let bounds = Bounds {
            connect: Duration::from_secs(10),
            idle: Duration::from_secs(120),
            total: Duration::from_secs(600),
            answer_bytes_max: 512 << 20,
        };
        Self {
            limiter: None,
            routes: Vec::new(),
            strategy: Strategy::default(),
            price_micros_max: None,
            model: None,
            models: None,
            estimator: None,
            retry: RetryPolicy::new(),
            profile: None,
            access: None,
            cache: None,
            flights: None,
            max_wait: Duration::from_secs(60),
            upstream_minute: MINUTE,
            bounds,
        }
    }

    /// What takes the quota. Required.
    pub fn limiter(mut self, limiter: Limiter) -> Self {
        self.limiter = Some(limiter);
        self
    }

    /// A way to a model; call it once for each. At least one is required.
    pub fn route(mut self, route: Route) -> Self {
        self.routes.push(route);
        self
    }

    /// The routes of a file, with its strategy and its bound on prices.
    pub fn routes(mut self, file: &RoutesFile) -> Self {
        self.routes.extend_from_slice(file.routes());
        self.strategy = file.strategy();
        self.price_micros_max = file.price_micros_max().or(self.price_micros_max);
        self
    }

    /// By what routes are put in order. Default: [`Strategy::Priority`].
    pub fn strategy(mut self, strategy: Strategy) -> Self {
        self.strategy = strategy;
        self
    }

    /// The most that a call may be expected to cost, in millionths of a dollar: dearer routes, and those without a price, are not asked.
    /// Default: no bound.
    pub fn price_micros_max(mut self, micros: u64) -> Self {
        self.price_micros_max = Some(micros);
        self
    }

    /// The model of requests that name none. Default: they are refused.
    pub fn model(mut self, model: impl Into<String>) -> Self {
        self.model = Some(model.into());
        self
    }

    /// What is known of models. Default: [`Models::embedded`].
    pub fn models(mut self, models: Models) -> Self {
        self.models = Some(models);
        self
    }

    /// What estimates costs, for instance one that several clients share. Default: one of its own, of the client's models.
    pub fn estimator(mut self, estimator: Estimator) -> Self {
        self.estimator = Some(estimator);
        self
    }

    /// When calls are made again. Default: [`RetryPolicy::new`].
    pub fn retry(mut self, retry: RetryPolicy) -> Self {
        self.retry = retry;
        self
    }

    /// How good images need to be here. Default: as they are asked for.
    pub fn profile(mut self, profile: Profile) -> Self {
        self.profile = Some(profile);
        self
    }

    /// The account that the keys belong to, and the rules that it is checked by before each call. Default: nothing is checked.
    pub fn access(mut self, rules: AccessRules, account: Account) -> Self {
        self.access = Some(Access { rules, account });
        self
    }

    /// Where answers are kept for requests that are equal. Default: nowhere.
    pub fn cache(mut self, cache: Cache) -> Self {
        self.cache = Some(cache);
        self
    }

    /// Lets equal requests at the same time make one call, which is charged to one of them. Those of another priority class or `max_wait` make
    /// their own, and so do streams. Default: each makes its own.
    pub fn single_flight(mut self) -> Self {
        self.flights = Some(Flights::default());
        self
    }

    /// How long a call waits in all: for quota, and between attempts. Default: 60 s.
    pub fn max_wait(mut self, max_wait: Duration) -> Self {
        self.max_wait = max_wait;
        self
    }

    /// How long a minute of upstream's lasts here: its hints and the client's pauses are taken in proportion, and what it says of its limits
    /// is for limits of this window. For simulated upstreams whose time runs faster. Default: 60 s.
    pub fn upstream_minute(mut self, minute: Duration) -> Self {
        self.upstream_minute = minute;
        self
    }

    /// How long an attempt may take until its answer is complete. Default: 600 s.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.bounds.total = timeout;
        self
    }

    /// How long a connection may take. Default: 10 s.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.bounds.connect = timeout;
        self
    }

    /// How long an answer that has begun may pause. Default: 120 s.
    pub fn idle_timeout(mut self, timeout: Duration) -> Self {
        self.bounds.idle = timeout;
        self
    }

    /// The longest answer, in bytes. It is held in memory once, as it came. Default: 512 MiB.
    pub fn answer_bytes_max(mut self, bytes: usize) -> Self {
        self.bounds.answer_bytes_max = bytes;
        self
    }

    /// The client. Nothing is connected before its first call.
    ///
    /// # Errors
    ///
    /// [`Invalid`](crate::openai::ImageErrorKind::Invalid) where the limiter or a route is missing, or a route cannot be.
    pub fn build(self) -> Result<ImageClient, ImageError> {
        let limiter = self.limiter.ok_or_else(|| ImageError::invalid("limiter: it is missing"))?;
        let routes = Routes::new(self.routes)?.by(self.strategy);
        let routes = match self.price_micros_max {
            Some(micros) => routes.at_most(micros),
            None => routes,
        };
        let models = self.models.unwrap_or_else(Models::embedded);
        let estimator = self.estimator.unwrap_or_else(|| Estimator::new(models.clone()));
        let core = Core {
            limiter,
            transport: Transport::new(self.bounds)?,
            routes,
            no_route: "none".into(),
            model: self.model,
            models,
            estimator,
            retries: Retries::new(self.retry),
            pace: Pace::new(self.upstream_minute),
            profile: self.profile,
            access: self.access,
            cache: self.cache,
            flights: self.flights,
            max_wait: self.max_wait,
        };
        Ok(ImageClient { core: Arc::new(core) })
    }
}

impl fmt::Debug for ImageClientBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ImageClientBuilder").field("routes", &self.routes).finish_non_exhaustive()
    }
}
