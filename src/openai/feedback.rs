//! What upstream says of its limits, given to the whole fleet.
//!
//! Invariant: the answer to a call never depends on it: a store that does not answer costs a debug line. What says nothing new is told at most
//! once a second.

use std::{
    collections::{HashMap, hash_map::Entry},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{task::JoinSet, time::Instant};

use crate::{
    cost::Cost,
    limiter::{Limiter, Observation},
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
pub(super) const MINUTE: Duration = Duration::from_secs(60);
/// How long an upstream without room is left alone where it does not say.
const OVERLOADED: Duration = Duration::from_secs(2);
/// What says more than was known is told at most so often per pool and resource, and what does not, so seldom.
const NEWS_AFTER: Duration = Duration::from_millis(200);
const TOLD_AFTER: Duration = Duration::from_secs(1);
/// So many pools are remembered at least. Above it those that were told of long ago are forgotten.
const POOLS: usize = 1_024;

/// How fast upstream's time runs, and when the limiter was told of which pool last. Of a whole client.
#[derive(Debug)]
pub(super) struct Pace {
    /// How long a minute of upstream's lasts here.
    minute: Duration,
    told: Mutex<HashMap<(Subject, Resource), Instant>>,
}

impl Pace {
    pub(super) fn new(minute: Duration) -> Self {
        Self { minute, told: Mutex::default() }
    }

    /// How long a time of upstream's lasts here.
    pub(super) fn lasts(&self, time: Duration) -> Duration {
        time.mul_f64(self.minute.div_duration_f64(MINUTE))
    }

    /// How long a time here lasts by upstream's clock.
    pub(super) fn upstreams(&self, time: Duration) -> Duration {
        let seconds = time.as_secs_f64() * MINUTE.div_duration_f64(self.minute);
        Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
    }

    /// Whether it is time to tell of a resource of this pool; if so, notes that it is told now.
    fn is_due(&self, pool: &Subject, resource: &Resource, after: Duration, now: Instant) -> bool {
        let after = self.lasts(after);
        let mut told = self.told.lock();
        if told.len() >= POOLS {
            told.retain(|_, at| now.duration_since(*at) < TOLD_AFTER);
        }
        let at = told.entry((pool.clone(), resource.clone()));
        match at {
            Entry::Occupied(at) if now.duration_since(*at.get()) < after => false,
            Entry::Occupied(mut at) => {
                at.insert(now);
                true
            }
            Entry::Vacant(place) => {
                place.insert(now);
                true
            }
        }
    }
}

/// What upstream says of one of its limits.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Standing {
    resource: Resource,
    limit: u64,
    /// With the call; of one that it refused, what it would have counted: more than the limit.
    counted: u64,
}

impl Standing {
    fn remaining(&self) -> u64 {
        self.limit.saturating_sub(self.counted)
    }
}

/// Whether other routes are charged to the org of a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sharing {
    Alone,
    Shared,
}

/// What the limiter is to be told after a call.
#[derive(Debug, Default)]
pub(super) struct Feedback {
    observations: Vec<Observation>,
    cool_downs: Vec<CoolDown>,
}

impl Feedback {
    /// Reads what came with an answer, while the call has its permit.
    pub(super) fn of(
        pace: &Pace,
        subject: &Subject,
        permit: &Permit,
        rates: &RateHeaders,
        refusal: Option<&Refusal>,
        sharing: Sharing,
    ) -> Self {
        let (now, pool) = (Instant::now(), pool(subject));
        let observed = |standing: Standing| {
            let Standing { resource, limit, counted } = standing;
            let observation = Observation::counted(permit, resource.clone(), counted).out_of(limit).window(pace.minute);
            // where nothing counts it, there is nothing to correct
            let after = match observation.is_news()? {
                _ if refusal.is_some() => Duration::ZERO,
                true => NEWS_AFTER,
                false => TOLD_AFTER,
            };
            pace.is_due(&pool, &resource, after, now).then_some(observation)
        };
        let observations = standings(rates, refusal).into_iter().filter_map(observed).collect();
        let is_held = |refusal: &&Refusal| {
            // an upstream without room says nothing of the quota that other routes have: those are asked meanwhile
            refusal.kind != RefusalKind::Overloaded || sharing == Sharing::Alone
        };
        let held = refusal.filter(is_held);
        let mut cool_downs =
            held.map(|refusal| cool_downs(refusal, permit.cost(), fastrand::f64())).unwrap_or_default();
        for cool_down in &mut cool_downs {
            cool_down.lasting = pace.lasts(cool_down.lasting);
        }
        Self { observations, cool_downs }
    }

    /// Tells the limiter, once the call is settled. A round trip for each thing told, all at once: the caller waits for its images.
    ///
    /// # Cancel safety
    ///
    /// Dropped, some of it may not be told.
    pub(super) async fn tell(self, limiter: &Limiter, subject: &Subject) {
        let mut told = JoinSet::new();
        for CoolDown { resource, lasting } in self.cool_downs {
            let (limiter, subject) = (limiter.clone(), subject.clone());
            told.spawn(async move {
                if let Err(error) = limiter.cool_down(&subject, resource, lasting).await {
                    tracing::debug!(kind = ?error.kind(), "a pause that upstream asks for is not noted");
                }
            });
        }
        for observation in self.observations {
            let limiter = limiter.clone();
            told.spawn(async move {
                if let Err(error) = limiter.observe(observation).await {
                    tracing::debug!(kind = ?error.kind(), "what upstream says remains is not noted");
                }
            });
        }
        while told.join_next().await.is_some() {}
    }
}

/// Whoever upstream counts together.
fn pool(subject: &Subject) -> Subject {
    let org = Subject::org(subject.value("org").unwrap_or_default());
    match subject.value("model") {
        Some(model) => org.model(model),
        None => org,
    }
}

/// What headers say, and a refusal that has figures of a minute: it knows better. One of each resource.
fn standings(rates: &RateHeaders, refusal: Option<&Refusal>) -> Vec<Standing> {
    let figures = refusal.and_then(|refusal| refusal.figures.as_ref()).filter(|figures| figures.window == MINUTE);
    let stated = figures.and_then(|figures| {
        // what it would be had the call counted, as it does here
        let counted = figures.used?.saturating_add(figures.requested.unwrap_or(0));
        Some(Standing { resource: figures.resource.clone(), limit: figures.limit, counted })
    });
    let named = |resource: &Resource| stated.as_ref().is_some_and(|stated| stated.resource == *resource);
    let headers = rates.standings.iter().filter(|standing| !named(&standing.resource)).map(|standing| Standing {
        resource: standing.resource.clone(),
        limit: standing.limit,
        counted: standing.limit.saturating_sub(standing.remaining),
    });
    let mut tightest: Vec<Standing> = Vec::new();
    // an organisation and its project have a standing each, and calls fail by the one that is used up first
    for standing in headers.chain(stated.clone()) {
        match tightest.iter_mut().find(|known| known.resource == standing.resource) {
            Some(known) if known.remaining() <= standing.remaining() => {}
            Some(known) => *known = standing,
            None => tightest.push(standing),
        }
    }
    tightest
}

/// A resource that is left alone for a while.
#[derive(Debug, PartialEq, Eq)]
struct CoolDown {
    resource: Resource,
    lasting: Duration,
}

/// What to leave alone: the resource that a refusal names, else all that the call asked of.
fn cool_downs(refusal: &Refusal, cost: &Cost, random: f64) -> Vec<CoolDown> {
    let (resources, wait) = match (refusal.kind, &refusal.figures) {
        (RefusalKind::RateLimited, Some(figures)) => {
            (vec![figures.resource.clone()], refusal.retry_after.unwrap_or(WAIT_MIN))
        }
        (RefusalKind::RateLimited, None) => {
            let standard = [Resource::Requests, Resource::Tokens, Resource::Images];
            let asked = standard.into_iter().filter(|resource| cost.of(resource) > 0);
            (asked.collect(), refusal.retry_after.unwrap_or(WAIT_MIN))
        }
        (RefusalKind::Overloaded, _) => (vec![Resource::Requests], refusal.retry_after.unwrap_or(OVERLOADED)),
        _ => return Vec::new(),
    };
    let lasting = spread(wait.max(WAIT_MIN), random);
    resources.into_iter().map(|resource| CoolDown { resource, lasting }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        clock::ManualClock,
        limit::Limit,
        openai::{headers::HeaderStanding, refusal::RefusalFigures},
        policy::Policy,
    };

    fn refusal(kind: RefusalKind, figures: Option<RefusalFigures>, retry_after: Option<Duration>) -> Refusal {
        let (error_type, code, message) = (None, None, String::new());
        Refusal { kind, status: 429, error_type, code, message, figures, retry_after, should_retry: None }
    }

    fn images_used(used: Option<u64>) -> RefusalFigures {
        let (model, pool, requested) = (None, None, Some(1));
        RefusalFigures { resource: Resource::Images, model, pool, limit: 250, used, requested, window: MINUTE }
    }

    /// However little of its limits callers may see, and whatever else counts the resource.
    #[tokio::test]
    async fn only_use_that_the_fleet_does_not_know_of_is_news() {
        let limit = |name, images, window| Limit::new(name).images(images).window(window);
        let user = limit("user", 250, MINUTE).scope(["user"]);
        let policy = Policy::new().limit(limit("org", 250, MINUTE)).limit(user).limit(limit("burst", 100, MINUTE / 60));
        for policy in [policy.clone(), policy.hide_org()] {
            let limiter = Limiter::builder().policy(policy).clock(ManualClock::new()).build().expect("it is valid");
            let subject = Subject::org("acme").user("alice").model("m");
            let ask = async |subject: &Subject, cost| limiter.acquire(subject, cost).await.expect("there is room");
            drop(ask(&Subject::org("acme").user("bob"), Cost::images(39)).await);
            let permit = ask(&subject, Cost::images(1)).await;
            let is_news = |counted| Observation::counted(&permit, "images", counted).out_of(250).is_news();
            assert_eq!(is_news(40), Some(false), "as many as are known");
            assert_eq!(is_news(20), Some(false), "fewer");
            assert_eq!(is_news(41), Some(true), "more");
            assert_eq!(Observation::new(&permit, "tokens", 0).is_news(), None, "nothing counts it");
            assert_eq!(Observation::new(&permit, "images", 0).window(2 * MINUTE).is_news(), None, "another window");

            let standing = HeaderStanding { resource: Resource::Images, limit: 250, remaining: 200, reset_after: None };
            let rates = RateHeaders { standings: vec![standing], ..RateHeaders::default() };
            let feedback = Feedback::of(&Pace::new(MINUTE), &subject, &permit, &rates, None, Sharing::Alone);
            assert_eq!(feedback.observations.len(), 1, "headers are told of");
        }
    }

    #[test]
    fn a_pool_is_told_of_at_a_pace() {
        let (pace, now) = (Pace::new(MINUTE), Instant::now());
        let pool = |org: &str| Subject::org(org).model("m");
        let due = |org: &str, after, at_ms| {
            pace.is_due(&pool(org), &Resource::Images, after, now + Duration::from_millis(at_ms))
        };
        assert!(due("a", TOLD_AFTER, 0) && due("b", TOLD_AFTER, 0), "each pool has a pace of its own");
        assert!(!due("a", NEWS_AFTER, 199));
        assert!(due("a", NEWS_AFTER, 200));
        assert!(!due("a", TOLD_AFTER, 1_199));
        assert!(due("a", TOLD_AFTER, 1_200));
        for pool in 0..3_000 {
            due(&pool.to_string(), TOLD_AFTER, 2_000 + pool);
        }
        assert!(pace.told.lock().len() <= POOLS + 1, "those of long ago are forgotten");
    }

    #[test]
    fn a_refusal_knows_better_than_headers() {
        let standing = |resource, remaining| HeaderStanding { resource, limit: 100, remaining, reset_after: None };
        let standings_told = vec![standing(Resource::Images, 90), standing(Resource::Requests, 80)];
        let rates = RateHeaders { standings: standings_told, ..RateHeaders::default() };
        let refused = refusal(RefusalKind::RateLimited, Some(images_used(Some(260))), None);
        let expected = [
            Standing { resource: Resource::Requests, limit: 100, counted: 20 },
            Standing { resource: Resource::Images, limit: 250, counted: 261 },
        ];
        assert_eq!(standings(&rates, Some(&refused)), expected);
        let without = refusal(RefusalKind::RateLimited, Some(images_used(None)), None);
        assert_eq!(standings(&rates, Some(&without)).len(), 2);
    }

    #[test]
    fn of_an_organisation_and_its_project_the_one_with_less_left_is_told() {
        let standing =
            |limit, remaining| HeaderStanding { resource: Resource::Tokens, limit, remaining, reset_after: None };
        for told in [[standing(900, 400), standing(100, 5)], [standing(100, 5), standing(900, 400)]] {
            let rates = RateHeaders { standings: told.to_vec(), ..RateHeaders::default() };
            assert_eq!(standings(&rates, None), [Standing { resource: Resource::Tokens, limit: 100, counted: 95 }]);
        }
    }

    #[test]
    fn a_hint_holds_back_what_it_is_about_and_never_for_less_than_a_second() {
        let cost = Cost::images(1).tokens(0);
        let hint = Some(Duration::from_millis(15));
        let named = refusal(RefusalKind::RateLimited, Some(images_used(None)), hint);
        let second = Duration::from_secs(1);
        assert_eq!(cool_downs(&named, &cost, 0.0), [CoolDown { resource: Resource::Images, lasting: second }]);
        assert_eq!(cool_downs(&named, &cost, 1.0)[0].lasting, Duration::from_millis(1_250));
        let unnamed = refusal(RefusalKind::RateLimited, None, Some(Duration::from_secs(20)));
        let resources = |refusal: &Refusal| {
            let downs = cool_downs(refusal, &cost, 0.0);
            downs.into_iter().map(|down| down.resource).collect::<Vec<_>>()
        };
        assert_eq!(resources(&unnamed), [Resource::Requests, Resource::Images]);
        assert_eq!(resources(&refusal(RefusalKind::Overloaded, None, None)), [Resource::Requests]);
        for kind in [RefusalKind::TooLarge, RefusalKind::NoAccess, RefusalKind::Exhausted, RefusalKind::Invalid] {
            assert_eq!(resources(&refusal(kind, None, hint)), [], "{kind:?}");
        }
    }
}
