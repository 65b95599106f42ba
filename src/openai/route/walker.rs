//! Who walks over routes, and what comes of it.

use std::{future::Future, sync::Arc, time::Duration};

use crate::{
    decision::Denial,
    openai::{
        error::ImageError,
        response::FailedRoute,
        route::state::{Passage, RouteState},
    },
};

/// Takes quota, and makes calls.
pub(in crate::openai) trait Walker: Sync {
    /// What a call is made with. Dropped unused it keeps its charge.
    type Permit: Send;
    /// What a call comes to.
    type Served: Send;

    /// Takes the quota for a call there now, or says when it could.
    ///
    /// An error ends the walk: without the limiter no route can be asked.
    fn admit(
        &self,
        route: &Arc<RouteState>,
    ) -> impl Future<Output = Result<Admission<Self::Permit>, ImageError>> + Send;

    /// Takes it by standing in line for at most so long.
    fn wait(
        &self,
        route: &Arc<RouteState>,
        wait_max: Duration,
    ) -> impl Future<Output = Result<Self::Permit, ImageError>> + Send;

    /// Gives the quota back, for a call that is not made.
    fn give_back(&self, permit: Self::Permit) -> impl Future<Output = ()> + Send;

    /// Makes the call, and settles its permit.
    fn attempt(
        &self,
        route: &Arc<RouteState>,
        permit: Self::Permit,
    ) -> impl Future<Output = Result<Self::Served, ImageError>> + Send;
}

/// What a route's limits say to a call.
#[derive(Debug)]
pub(in crate::openai) enum Admission<P> {
    Admitted(P),
    Denied(Denial),
}

/// A route has served the call, or begun to.
#[derive(Debug)]
#[must_use = "the route learns how it did by its passage"]
pub(in crate::openai) struct Walked<T> {
    pub(in crate::openai) served: T,
    pub(in crate::openai) route: Arc<RouteState>,
    /// To be ended when the whole answer is there, or fails to come.
    pub(in crate::openai) passage: Passage,
    pub(in crate::openai) journal: Journal,
}

/// No route has served it.
#[derive(Debug)]
pub(in crate::openai) struct Stuck {
    /// Of those that may end otherwise later, the one that does so first; else that of the first route.
    pub(in crate::openai) error: ImageError,
    /// Boxed, as an error is carried through many hands.
    pub(in crate::openai) journal: Box<Journal>,
}

/// What happened on the way.
#[derive(Debug, Default)]
pub(in crate::openai) struct Journal {
    /// Routes that did not serve it, in order.
    pub(in crate::openai) failed: Vec<FailedRoute>,
    /// Calls made.
    pub(in crate::openai) attempts: u32,
    /// Spent in line.
    pub(in crate::openai) waited: Duration,
}
