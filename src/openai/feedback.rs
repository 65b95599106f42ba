//! What upstream says of its limits, given to the whole fleet.
//!
//! Invariant: the answer to a call never depends on it: a store that does not answer costs a debug line. No round trip is made where
//! upstream says nothing new.

use std::time::Duration;

use crate::{
    cost::Cost,
    decision::LimitStatus,
    limiter::Limiter,
    openai::{
        headers::RateHeaders,
        refusal::{Refusal, RefusalKind},
        retry::{WAIT_MIN, spread},
    },
    permit::Permit,
    resource::Resource,
    subject::Subject,
};

/// Headers tell of limits per minute.
const WINDOW: Duration = Duration::from_secs(60);
/// How long an upstream without room is left alone where it does not say.
const OVERLOADED: Duration = Duration::from_secs(2);

/// Where a call stood when it was admitted.
#[derive(Debug)]
pub(super) struct Stood {
    at_ms: u64,
    limits: Vec<LimitStatus>,
    cost: Cost,
}

/// What upstream says of one of its limits.
#[derive(Debug, PartialEq, Eq)]
struct Standing {
    resource: Resource,
    limit: u64,
    remaining: u64,
}

impl Stood {
    pub(super) fn of(permit: &Permit) -> Self {
        Self { at_ms: permit.at_ms(), limits: permit.limits().to_vec(), cost: permit.cost().clone() }
    }

    /// Whether upstream counts more than this fleet knew of. The fullest of several limits is that of the org.
    fn is_news(&self, standing: &Standing) -> bool {
        let of_resource = |status: &&LimitStatus| {
            status.resource == standing.resource && u128::from(status.window_ms) == WINDOW.as_millis() && !status.shadow
        };
        let known = self.limits.iter().filter(of_resource).map(|status| status.used).max();
        // where nothing counts it, there is nothing to correct
        known.is_some_and(|known| standing.limit.saturating_sub(standing.remaining) > known)
    }
}

/// Tells the limiter what upstream said with the answer to a call. `random` is 0 to 1.
pub(super) async fn learn(
    limiter: &Limiter,
    subject: &Subject,
    stood: &Stood,
    rates: &RateHeaders,
    refusal: Option<&Refusal>,
    random: f64,
) {
    for standing in standings(rates, refusal).iter().filter(|standing| stood.is_news(standing)) {
        observe(limiter, subject, stood, standing).await;
    }
    for cool_down in refusal.map(|refusal| cool_downs(refusal, stood, random)).unwrap_or_default() {
        cool(limiter, subject, cool_down).await;
    }
}

/// What headers say, and a refusal that has figures of a minute: it knows better.
fn standings(rates: &RateHeaders, refusal: Option<&Refusal>) -> Vec<Standing> {
    let figures = refusal.and_then(|refusal| refusal.figures.as_ref()).filter(|figures| figures.window == WINDOW);
    let stated = figures.and_then(|figures| {
        let remaining = figures.limit.saturating_sub(figures.used?);
        Some(Standing { resource: figures.resource.clone(), limit: figures.limit, remaining })
    });
    let named = |resource: &Resource| stated.as_ref().is_some_and(|stated| stated.resource == *resource);
    let headers = rates.standings.iter().filter(|standing| !named(&standing.resource)).map(|standing| Standing {
        resource: standing.resource.clone(),
        limit: standing.limit,
        remaining: standing.remaining,
    });
    let mut all: Vec<_> = headers.collect();
    all.extend(stated);
    all
}

/// A resource that is left alone for a while.
#[derive(Debug, PartialEq, Eq)]
struct CoolDown {
    resource: Resource,
    lasting: Duration,
}

/// What to leave alone: the resource that a refusal names, else all that the call asked of.
fn cool_downs(refusal: &Refusal, stood: &Stood, random: f64) -> Vec<CoolDown> {
    let (resources, wait) = match (refusal.kind, &refusal.figures) {
        (RefusalKind::RateLimited, Some(figures)) => {
            (vec![figures.resource.clone()], refusal.retry_after.unwrap_or(WAIT_MIN))
        }
        (RefusalKind::RateLimited, None) => {
            let standard = [Resource::Requests, Resource::Tokens, Resource::Images];
            let asked = standard.into_iter().filter(|resource| stood.cost.of(resource) > 0);
            (asked.collect(), refusal.retry_after.unwrap_or(WAIT_MIN))
        }
        (RefusalKind::Overloaded, _) => (vec![Resource::Requests], refusal.retry_after.unwrap_or(OVERLOADED)),
        _ => return Vec::new(),
    };
    let lasting = spread(wait.max(WAIT_MIN), random);
    resources.into_iter().map(|resource| CoolDown { resource, lasting }).collect()
}

/// Our remaining may not exceed upstream's.
async fn observe(_limiter: &Limiter, _subject: &Subject, _stood: &Stood, _standing: &Standing) {}

/// Holds calls that ask of a resource back, all over the fleet.
async fn cool(_limiter: &Limiter, _subject: &Subject, _cool_down: CoolDown) {}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::openai::{headers::HeaderStanding, refusal::RefusalFigures};

    fn status(name: &str, used: u64, window_ms: u64) -> LimitStatus {
        let resource = Resource::Images;
        let (name, limit, remaining) = (Arc::from(name), 250, 250 - used);
        let reset_after = Duration::ZERO;
        LimitStatus { name, resource, limit, used, remaining, window_ms, reset_after, shadow: false }
    }

    fn stood(limits: Vec<LimitStatus>) -> Stood {
        Stood { at_ms: 1, limits, cost: Cost::images(1).tokens(0) }
    }

    fn refusal(kind: RefusalKind, figures: Option<RefusalFigures>, retry_after: Option<Duration>) -> Refusal {
        let (error_type, code, message) = (None, None, String::new());
        Refusal { kind, status: 429, error_type, code, message, figures, retry_after, should_retry: None }
    }

    fn images_used(used: Option<u64>) -> RefusalFigures {
        let (model, pool, requested) = (None, None, Some(1));
        RefusalFigures { resource: Resource::Images, model, pool, limit: 250, used, requested, window: WINDOW }
    }

    #[test]
    fn only_use_that_the_fleet_does_not_know_of_is_news() {
        let known = stood(vec![status("user", 3, 60_000), status("org", 40, 60_000), status("burst", 200, 1_000)]);
        let says = |remaining| Standing { resource: Resource::Images, limit: 250, remaining };
        assert!(!known.is_news(&says(210)), "as many as are known");
        assert!(!known.is_news(&says(230)), "fewer");
        assert!(known.is_news(&says(209)), "more");
        assert!(!known.is_news(&Standing { resource: Resource::Tokens, limit: 9, remaining: 0 }), "nothing counts it");
        assert!(!stood(vec![status("day", 0, 86_400_000)]).is_news(&says(0)), "another window");
    }

    #[test]
    fn a_refusal_knows_better_than_headers() {
        let standing = |resource, remaining| HeaderStanding { resource, limit: 100, remaining, reset_after: None };
        let mut rates = RateHeaders::default();
        rates.standings = vec![standing(Resource::Images, 90), standing(Resource::Requests, 80)];
        let refused = refusal(RefusalKind::RateLimited, Some(images_used(Some(260))), None);
        let expected = [
            Standing { resource: Resource::Requests, limit: 100, remaining: 80 },
            Standing { resource: Resource::Images, limit: 250, remaining: 0 },
        ];
        assert_eq!(standings(&rates, Some(&refused)), expected);
        let without = refusal(RefusalKind::RateLimited, Some(images_used(None)), None);
        assert_eq!(standings(&rates, Some(&without)).len(), 2);
    }

    #[test]
    fn a_hint_holds_back_what_it_is_about_and_never_for_less_than_a_second() {
        let call = stood(Vec::new());
        let hint = Some(Duration::from_millis(15));
        let named = refusal(RefusalKind::RateLimited, Some(images_used(None)), hint);
        let second = Duration::from_secs(1);
        assert_eq!(cool_downs(&named, &call, 0.0), [CoolDown { resource: Resource::Images, lasting: second }]);
        assert_eq!(cool_downs(&named, &call, 1.0)[0].lasting, Duration::from_millis(1_250));
        let unnamed = refusal(RefusalKind::RateLimited, None, Some(Duration::from_secs(20)));
        let resources = |refusal: &Refusal| {
            let downs = cool_downs(refusal, &call, 0.0);
            downs.into_iter().map(|down| down.resource).collect::<Vec<_>>()
        };
        assert_eq!(resources(&unnamed), [Resource::Requests, Resource::Images]);
        assert_eq!(resources(&refusal(RefusalKind::Overloaded, None, None)), [Resource::Requests]);
        for kind in [RefusalKind::TooLarge, RefusalKind::NoAccess, RefusalKind::Exhausted, RefusalKind::Invalid] {
            assert_eq!(resources(&refusal(kind, None, hint)), [], "{kind:?}");
        }
    }
}
