//! The walk of one call over its routes, until one of them serves it.
//!
//! Invariant: nothing is sent without a permit, and each attempt has its own. A route without quota is passed by before anybody waits; what
//! the call itself is refused for, or what may have been done already, is not asked of another route.
//!
//! Lacks retries of a whole walk, and pauses between them: those are the client's.

use std::{
    ops::ControlFlow::{self, Break, Continue},
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;

pub(in crate::openai) use crate::openai::route::walker::{Admission, Journal, Stuck, Walked, Walker};
use crate::{
    decision::{Denial, Retry},
    error::Error,
    openai::{
        error::{ImageError, ImageErrorKind},
        refusal::RefusalKind,
        response::FailedRoute,
        route::{
            capability::Need,
            health::LOOK_AFTER,
            state::{Passage, RouteState},
        },
    },
};

/// Asks routes in this order, and waits in line where the wait is shortest if all are out of quota. `wait_max` is for all waits together.
///
/// # Errors
///
/// [`Stuck`], with the error that says most about what a caller can do.
///
/// # Cancel safety
///
/// Dropping the future drops the permit that it holds, and frees the route for the next call.
pub(in crate::openai) async fn walk<W: Walker>(
    walker: &W,
    order: &[Arc<RouteState>],
    need: &Need<'_>,
    wait_max: Duration,
) -> Result<Walked<W::Served>, Stuck> {
    let mut walk = Walk { walker, need, journal: Journal::default(), errors: Vec::new() };
    // without another route there is nothing to pass by for: a place in line is asked for at once
    if let [route] = order
        && !wait_max.is_zero()
    {
        return match walk.line_up(route, wait_max).await {
            Break(end) => walk.ended(route, end),
            Continue(()) => Err(walk.stuck()),
        };
    }
    let mut lines = Vec::new();
    for route in order {
        let Some(passage) = route.enter(Instant::now()) else {
            walk.passed_by(route, FINDING_OUT);
            continue;
        };
        match walker.admit(route).await {
            Ok(Admission::Admitted(permit)) => {
                if let Break(end) = walk.attempt(route, passage, permit).await {
                    return walk.ended(route, end);
                }
            }
            Ok(Admission::Denied(denial)) => {
                walk.passed_by(route, &format!("no quota: {denial}"));
                lines.extend(wait_of(&denial).map(|wait| (wait, Instant::now(), route)));
                walk.errors.push(Error::from(denial).into());
            }
            Err(error) => return Err(walk.ended_by(error)),
        }
    }
    lines.sort_by_key(|(wait, ..)| *wait);
    for (wait, since, route) in lines {
        let left = wait_max.saturating_sub(walk.journal.waited);
        if wait.saturating_sub(since.elapsed()) > left || left.is_zero() {
            continue;
        }
        if let Break(end) = walk.line_up(route, left).await {
            return walk.ended(route, end);
        }
    }
    Err(walk.stuck())
}

const FINDING_OUT: &str = "another call is finding out whether it works again";

struct Walk<'a, W> {
    walker: &'a W,
    need: &'a Need<'a>,
    journal: Journal,
    errors: Vec<ImageError>,
}

/// What a route served, and how it learns how it did; or the error that ends the walk.
type End<T> = Result<(T, Passage), ImageError>;

impl<W: Walker> Walk<'_, W> {
    /// Waits in the line of a route, and makes the call there. Goes on if another route may serve it.
    async fn line_up(&mut self, route: &Arc<RouteState>, patience: Duration) -> ControlFlow<End<W::Served>> {
        let began = Instant::now();
        let admitted = self.walker.wait(route, patience).await;
        self.journal.waited += began.elapsed();
        let permit = match admitted {
            Ok(permit) => permit,
            Err(error) if is_denial(&error) => {
                self.passed_by(route, &error.to_string());
                self.errors.push(error);
                return Continue(());
            }
            Err(error) => return Break(Err(error)),
        };
        // one who stands in line finds out nothing, and must not keep others from it
        let Some(passage) = route.enter(Instant::now()) else {
            self.walker.give_back(permit).await;
            self.passed_by(route, FINDING_OUT);
            return Continue(());
        };
        self.attempt(route, passage, permit).await
    }

    /// Goes on if another route may serve the call.
    async fn attempt(
        &mut self,
        route: &Arc<RouteState>,
        passage: Passage,
        permit: W::Permit,
    ) -> ControlFlow<End<W::Served>> {
        self.journal.attempts += 1;
        let error = match self.walker.attempt(route, permit).await {
            Ok(served) => return Break(Ok((served, passage))),
            Err(error) => error,
        };
        let lacks = passage.failed(&error, self.need);
        self.passed_by(route, &error.to_string());
        if !lacks && !another_may_serve(&error) {
            return Break(Err(error));
        }
        self.errors.push(error);
        Continue(())
    }

    fn passed_by(&mut self, route: &RouteState, why: &str) {
        self.journal.failed.push(FailedRoute { route: Arc::clone(route.name()), why: why.to_owned() });
    }

    fn ended(self, route: &Arc<RouteState>, end: End<W::Served>) -> Result<Walked<W::Served>, Stuck> {
        match end {
            Ok((served, passage)) => Ok(Walked { served, route: Arc::clone(route), passage, journal: self.journal }),
            Err(error) => Err(self.ended_by(error)),
        }
    }

    fn ended_by(self, error: ImageError) -> Stuck {
        Stuck { error, journal: Box::new(self.journal) }
    }

    fn stuck(mut self) -> Stuck {
        let rank = |error: &ImageError| (!error.is_retryable(), error.retry_after().unwrap_or_default());
        let best = (0..self.errors.len()).min_by_key(|place| self.errors.get(*place).map(rank));
        let error = match best {
            Some(best) => self.errors.swap_remove(best),
            None => ImageError::new(ImageErrorKind::Unreachable, "every route is being tried by another call")
                .retrying_after(LOOK_AFTER),
        };
        self.ended_by(error)
    }
}

/// How long to stand in line; `None`: no wait is long enough.
fn wait_of(denial: &Denial) -> Option<Duration> {
    match denial.retry {
        Retry::After(wait) | Retry::Estimate(wait) | Retry::AskAgainAfter(wait) => Some(wait),
        Retry::Never { .. } => None,
    }
}

fn is_denial(error: &ImageError) -> bool {
    error.limiter().is_some_and(|error| error.denial().is_some())
}

/// Whether another route may serve what this one did not, without anything being done twice.
fn another_may_serve(error: &ImageError) -> bool {
    match error.refusal() {
        Some(refusal) => match refusal.kind {
            RefusalKind::RateLimited | RefusalKind::TooLarge | RefusalKind::NoAccess | RefusalKind::Exhausted => true,
            RefusalKind::Overloaded => !refusal.may_have_drawn(),
            RefusalKind::Failed => refusal.should_retry == Some(true),
            RefusalKind::Invalid | RefusalKind::Moderation => false,
        },
        None => error.kind() == ImageErrorKind::Unreachable,
    }
}

#[cfg(test)]
mod tests;
