//! Which routes a call may go to, best first.
//!
//! Invariant: the order is a function of the call, a moment and a seed. A route that cannot serve the call is not in it, and one of which that
//! is doubted, only where there is no other.

use std::{sync::Arc, time::Duration};

use serde::Deserialize;
use tokio::{task::JoinSet, time::Instant};

use crate::{
    decision::Decision,
    limiter::Limiter,
    openai::{
        error::{ImageError, ImageErrorKind},
        estimate::Estimate,
        refusal::Refusal,
        response::FailedRoute,
        route::{
            Route,
            capability::Need,
            rank::{Ranked, badness_by_score, weighted},
            state::{Ends, RouteState, RouteStatus, Stop},
        },
    },
    subject::Subject,
};

/// By what routes are put in order. Among routes that are as good, those of a lower priority number come first, then as their weights say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Strategy {
    /// By priority: the next one gets what overflows.
    #[default]
    Priority,
    /// By `availability x 1000 / latency`, as measured. One that was not measured lately gets one call at a time before the others.
    Score,
    /// By what the call costs there. One without a price comes last.
    Cheapest,
    /// By the part of its limits that is left, of the limit with the least left. Costs a round trip per route before each call.
    MostQuotaLeft,
}

/// The routes of a client, and by what they are chosen.
#[derive(Debug)]
pub(in crate::openai) struct Routes {
    states: Vec<Arc<RouteState>>,
    strategy: Strategy,
    price_micros_max: Option<u64>,
}

/// The moment that an order is of.
#[derive(Clone, Copy, Debug)]
pub(in crate::openai) struct Moment<'a> {
    pub(in crate::openai) now: Instant,
    /// Decides among routes that are as good.
    pub(in crate::openai) seed: u64,
    /// For [`Strategy::MostQuotaLeft`]: the part of each route's limits that is left, in the order of the settings.
    pub(in crate::openai) shares: &'a [f64],
}

/// No route can serve a call now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::openai) struct NoRoute {
    /// The name of each, and why it cannot.
    why: Vec<String>,
    /// When the first one is asked again, if waiting helps.
    pub(in crate::openai) retry_after: Option<Duration>,
    /// What people must mend before one can be asked, if nothing else keeps it from that.
    refusal: Option<Box<Refusal>>,
}

impl Routes {
    /// # Errors
    ///
    /// [`ImageErrorKind::Invalid`] for no route, two of one name, or one that is set up wrongly.
    pub(in crate::openai) fn new(routes: impl IntoIterator<Item = Route>) -> Result<Self, ImageError> {
        let mut states: Vec<Arc<RouteState>> = Vec::new();
        for route in routes {
            let route = route.checked()?;
            if states.iter().any(|state| *state.name() == route.name) {
                return Err(ImageError::invalid(format!("route {:?}: there are two of that name", route.name)));
            }
            states.push(RouteState::new(route));
        }
        if states.is_empty() {
            return Err(ImageError::invalid("route: none given; set .route(..)"));
        }
        Ok(Self { states, strategy: Strategy::default(), price_micros_max: None })
    }

    pub(in crate::openai) fn by(self, strategy: Strategy) -> Self {
        Self { strategy, ..self }
    }

    /// Leaves out routes where a call costs more, or where nobody knows what it costs.
    pub(in crate::openai) fn at_most(self, price_micros_max: u64) -> Self {
        Self { price_micros_max: Some(price_micros_max), ..self }
    }

    /// All of them, as they were given.
    pub(in crate::openai) fn all(&self) -> &[Arc<RouteState>] {
        &self.states
    }

    /// How each is doing.
    pub(in crate::openai) fn statuses(&self, now: Instant) -> Vec<RouteStatus> {
        self.states.iter().map(|state| state.status(now)).collect()
    }

    /// The routes that can serve a call, best first.
    pub(in crate::openai) fn order(
        &self,
        need: &Need<'_>,
        estimate: &Estimate,
        moment: &Moment<'_>,
    ) -> Vec<Arc<RouteState>> {
        let mut draws = fastrand::Rng::with_seed(moment.seed);
        let (mut ranked, mut doubted) = (Vec::with_capacity(self.states.len()), Vec::new());
        for (place, state) in self.states.iter().enumerate() {
            // drawn for each, so that one that cannot serve does not change the draws of the others
            let draw = weighted(&mut draws, state.route().weight);
            let spend_micros = state.spend_micros(need, estimate);
            if self.is_too_dear(spend_micros) || state.stop(need, moment.now).is_some() {
                continue;
            }
            let badness = match self.strategy {
                Strategy::Priority => 0.0,
                Strategy::Score => badness_by_score(state.standing(moment.now)),
                Strategy::Cheapest => spend_micros.map_or(f64::INFINITY, |micros| micros as f64),
                Strategy::MostQuotaLeft => -moment.shares.get(place).copied().unwrap_or(0.0),
            };
            let rank = if state.is_doubted(need, moment.now) { &mut doubted } else { &mut ranked };
            rank.push(Ranked { badness, priority: state.route().priority, draw, state });
        }
        let mut ranked = if ranked.is_empty() { doubted } else { ranked };
        ranked.sort_by(Ranked::compare);
        ranked.into_iter().map(|ranked| Arc::clone(ranked.state)).collect()
    }

    /// The order now. No round trip, but for [`Strategy::MostQuotaLeft`]: one or more per route, all at once.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future changes nothing.
    pub(in crate::openai) async fn order_now(
        &self,
        need: &Need<'_>,
        estimate: &Estimate,
        limiter: &Limiter,
        subject: &Subject,
    ) -> Vec<Arc<RouteState>> {
        let shares = match self.strategy {
            Strategy::MostQuotaLeft => self.shares(need, estimate, limiter, subject).await,
            _ => Vec::new(),
        };
        let moment = Moment { now: Instant::now(), seed: fastrand::u64(..), shares: &shares };
        self.order(need, estimate, &moment)
    }

    /// The routes of the model whose style has no words for what a call asks: they are in no order, and what they lack is told.
    pub(in crate::openai) fn wordless(&self, need: &Need<'_>) -> Vec<FailedRoute> {
        let of_model = self.states.iter().filter(|state| state.route().serves(need.model));
        let wordless = of_model.filter_map(|state| Some((state, need.unsaid_in(&state.route().style)?)));
        wordless.map(|(state, why)| FailedRoute { route: Arc::clone(state.name()), why }).collect()
    }

    /// Why the order is empty.
    pub(in crate::openai) fn no_route(&self, need: &Need<'_>, estimate: &Estimate, now: Instant) -> NoRoute {
        let mut none = NoRoute { why: Vec::new(), retry_after: None, refusal: None };
        for state in &self.states {
            let spend_micros = state.spend_micros(need, estimate);
            let (why, ends) = match (self.is_too_dear(spend_micros), state.stop(need, now)) {
                (true, _) => (too_dear(spend_micros), Ends::Never),
                (false, Some(Stop { why, ends })) => (why, ends),
                // its pause has ended since the order was made
                (false, None) => ("it is asked again now".to_owned(), Ends::After(Duration::ZERO)),
            };
            none.why.push(format!("{}: {why}", state.name()));
            match ends {
                Ends::Never => {}
                Ends::After(wait) => none.retry_after = Some(none.retry_after.map_or(wait, |first| first.min(wait))),
                Ends::ByPeople(refusal) => none.refusal = none.refusal.or(Some(refusal)),
            }
        }
        none
    }

    fn is_too_dear(&self, spend_micros: Option<u64>) -> bool {
        self.price_micros_max.is_some_and(|max| spend_micros.is_none_or(|micros| micros > max))
    }

    /// The part of each route's limits that is left; 0 where the store does not say.
    async fn shares(&self, need: &Need<'_>, estimate: &Estimate, limiter: &Limiter, subject: &Subject) -> Vec<f64> {
        let mut looks = JoinSet::new();
        for (place, state) in self.states.iter().enumerate() {
            let (limiter, subject, cost) = (limiter.clone(), state.subject(subject), state.cost(need, estimate));
            looks.spawn(async move { (place, limiter.peek(&subject, cost).await) });
        }
        let mut shares = vec![0.0; self.states.len()];
        while let Some(looked) = looks.join_next().await {
            let Ok((place, looked)) = looked else { continue };
            match (looked, shares.get_mut(place)) {
                (Ok(decision), Some(share)) => *share = share_left(&decision),
                (Err(error), _) => tracing::debug!(kind = ?error.kind(), "what is left of a route is not known"),
                (Ok(_), None) => {}
            }
        }
        shares
    }
}

impl From<NoRoute> for ImageError {
    fn from(NoRoute { why, retry_after, refusal }: NoRoute) -> Self {
        let why = format!("no route: {}", why.join("; "));
        match (retry_after, refusal) {
            (Some(wait), _) => Self::new(ImageErrorKind::Unreachable, why).retrying_after(wait),
            (None, Some(refusal)) => (*refusal).into(),
            // settings, and what routes cannot do
            (None, None) => Self::invalid(why),
        }
    }
}

fn too_dear(spend_micros: Option<u64>) -> String {
    match spend_micros {
        Some(micros) => format!("the call costs {micros} micros there"),
        None => "nobody knows what the call costs there".to_owned(),
    }
}

/// What is left of the limit with the least left, as a part of it. A denied call has nothing left.
fn share_left(decision: &Decision) -> f64 {
    let Decision::Allowed(limits) = decision else { return 0.0 };
    let binding = limits.iter().filter(|status| !status.shadow);
    binding.map(|status| status.remaining as f64 / status.limit.max(1) as f64).fold(1.0, f64::min)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Strategy, *};
    use crate::{
        decision::LimitStatus,
        openai::{
            refusal::RefusalKind,
            request::{ImageRequest, Size},
            route::{
                RouteModel,
                capability::Delivery,
                health::LOOK_AFTER,
                price::{RoutePrice, tried::estimate},
            },
        },
        resource::Resource,
    };

    const SLOW: Duration = Duration::from_secs(4);
    const FAST: Duration = Duration::from_secs(1);

    fn need() -> Need<'static> {
        Need::of("m", &ImageRequest::generate("a lighthouse").size(Size::SQUARE), Delivery::Whole)
    }

    fn route(name: &str) -> Route {
        Route::openai(name, "key")
    }

    fn names(routes: &Routes, shares: &[f64], seed: u64) -> Vec<String> {
        let moment = Moment { now: Instant::now(), seed, shares };
        let order = routes.order(&need(), &estimate(Some(200_000)), &moment);
        order.iter().map(|state| state.name().to_string()).collect()
    }

    fn ended(routes: &Routes, place: usize, latency: Duration) {
        routes.all()[place].enter(Instant::now()).unwrap().served(latency);
    }

    fn failed(routes: &Routes, place: usize) {
        let error = ImageError::new(ImageErrorKind::Unreachable, "gone");
        routes.all()[place].enter(Instant::now()).unwrap().failed(&error, &need());
    }

    #[tokio::test(start_paused = true)]
    async fn routes_come_by_priority_and_one_that_fails_is_left_out_for_a_while() {
        let routes = Routes::new([route("b").priority(1), route("a").priority(0), route("c").priority(2)]).unwrap();
        assert_eq!(names(&routes, &[], 1), ["a", "b", "c"]);
        (0..3).for_each(|_| failed(&routes, 1));
        assert_eq!(names(&routes, &[], 1), ["b", "c"]);
        tokio::time::advance(Duration::from_secs(5)).await;
        assert_eq!(names(&routes, &[], 1), ["a", "b", "c"]);
        let probe = routes.all()[1].enter(Instant::now()).unwrap();
        assert_eq!(names(&routes, &[], 1), ["b", "c"], "one call finds out");
        drop(probe);
        assert_eq!(names(&routes, &[], 1), ["a", "b", "c"]);
    }

    #[test]
    fn routes_that_are_as_good_come_as_often_as_their_weights_say() {
        let routes = Routes::new([route("light"), route("heavy").weight(3)]).unwrap();
        let heavy = (0..4_000).filter(|seed| names(&routes, &[], *seed)[0] == "heavy").count();
        assert!((2_850..=3_150).contains(&heavy), "{heavy} of 4,000");
    }

    #[tokio::test(start_paused = true)]
    async fn a_score_is_availability_by_latency_and_what_is_not_measured_is_tried_by_one_call() {
        let routes = Routes::new([route("slow"), route("fast"), route("new")]).unwrap().by(Strategy::Score);
        ended(&routes, 0, SLOW);
        ended(&routes, 1, FAST);
        assert_eq!(names(&routes, &[], 1), ["new", "fast", "slow"]);
        let trial = routes.all()[2].enter(Instant::now()).unwrap();
        assert_eq!(names(&routes, &[], 1), ["fast", "slow", "new"]);
        trial.served(FAST * 2);
        assert_eq!(names(&routes, &[], 1), ["fast", "new", "slow"]);
        (0..2).for_each(|_| failed(&routes, 1));
        ended(&routes, 1, SLOW);
        assert_eq!(names(&routes, &[], 1), ["new", "fast", "slow"], "0.5, 0.445 and 0.25");
        tokio::time::advance(Duration::from_secs(600)).await;
        assert_eq!(names(&routes, &[], 1).len(), 3);
    }

    #[test]
    fn the_cheapest_comes_first_and_what_is_too_dear_or_unknown_does_not_come() {
        let routes = || {
            let model = RouteModel::new("m").price(RoutePrice::PerImage { micros: 20_000 });
            let cheap = route("cheap").model(model).price(RoutePrice::PerImage { micros: 900_000 });
            let dear = route("dear").price(RoutePrice::Factor { permille: 1_500 });
            Routes::new([dear, route("listed"), cheap]).unwrap().by(Strategy::Cheapest)
        };
        assert_eq!(names(&routes(), &[], 1), ["cheap", "listed", "dear"]);
        assert_eq!(names(&routes().at_most(200_000), &[], 1), ["cheap", "listed"]);
        let moment = Moment { now: Instant::now(), seed: 1, shares: &[] };
        let unlisted = routes().at_most(200_000).order(&need(), &estimate(None), &moment);
        assert_eq!(unlisted.len(), 1, "nobody knows what the others cost");
        let unbounded = routes().order(&need(), &estimate(None), &moment);
        assert_eq!(&**unbounded[0].name(), "cheap");
        let unknown_first =
            Routes::new([route("unknown"), route("known").priority(1).price(RoutePrice::PerImage { micros: 9 })]);
        let order = unknown_first.unwrap().by(Strategy::Cheapest).order(&need(), &estimate(None), &moment);
        assert_eq!(&**order[0].name(), "known", "one without a price comes last");
        let none = routes().at_most(1).no_route(&need(), &estimate(Some(200_000)), moment.now);
        let error = ImageError::from(none);
        assert_eq!(error.kind(), ImageErrorKind::Invalid);
        assert!(error.to_string().contains("dear: the call costs 300000 micros there"), "{error}");
    }

    #[test]
    fn the_one_with_most_quota_left_comes_first() {
        let routes = Routes::new([route("a"), route("b"), route("c")]).unwrap().by(Strategy::MostQuotaLeft);
        assert_eq!(names(&routes, &[0.2, 0.9, 0.5], 1), ["b", "c", "a"]);
        let status = |limit, remaining, shadow| LimitStatus {
            name: "org".into(),
            resource: Resource::Images,
            limit,
            used: limit - remaining,
            remaining,
            window_ms: 60_000,
            reset_after: Duration::ZERO,
            shadow,
        };
        let allowed = Decision::Allowed(vec![status(10, 8, false), status(4, 1, false), status(4, 0, true)]);
        assert!((share_left(&allowed) - 0.25).abs() < 1e-9, "the least that is left, of what binds");
        assert!((share_left(&Decision::Allowed(Vec::new())) - 1.0).abs() < 1e-9, "nothing limits it");
    }

    #[tokio::test(start_paused = true)]
    async fn an_empty_order_is_explained() {
        let routes = Routes::new([route("a"), route("b").model(RouteModel::new("other"))]).unwrap();
        (0..3).for_each(|_| failed(&routes, 0));
        assert_eq!(names(&routes, &[], 1), [""; 0]);
        let none = routes.no_route(&need(), &estimate(None), Instant::now());
        assert_eq!(none.retry_after, Some(Duration::from_secs(5)));
        let error = ImageError::from(none);
        assert_eq!((error.kind(), error.retry_after()), (ImageErrorKind::Unreachable, Some(Duration::from_secs(5))));
        let told = "no route: a: it failed, and is asked again in 5s; b: it does not serve m";
        assert_eq!(error.to_string(), told);
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_can_never_work_only_where_no_route_will_ever_serve_it() {
        let error = |routes: &Routes| ImageError::from(routes.no_route(&need(), &estimate(None), Instant::now()));
        let routes = Routes::new([route("a")]).unwrap();
        (0..3).for_each(|_| failed(&routes, 0));
        tokio::time::advance(Duration::from_secs(5)).await;
        assert!(error(&routes).is_retryable(), "its pause has just ended");
        let probe = routes.all()[0].enter(Instant::now()).unwrap();
        let found_out = error(&routes);
        assert_eq!((found_out.kind(), found_out.retry_after()), (ImageErrorKind::Unreachable, Some(LOOK_AFTER)));
        let exhausted = Refusal {
            kind: RefusalKind::Exhausted,
            status: 429,
            error_type: None,
            code: None,
            message: "pay".to_owned(),
            figures: None,
            retry_after: None,
            should_retry: None,
        };
        probe.failed(&exhausted.clone().into(), &need());
        let closed = error(&routes);
        assert_eq!((closed.kind(), closed.refusal()), (ImageErrorKind::Refused, Some(&exhausted)));
        assert!(!closed.is_retryable());
        let other = Routes::new([route("b").model(RouteModel::new("other"))]).unwrap();
        assert_eq!(error(&other).kind(), ImageErrorKind::Invalid);
    }

    #[test]
    fn routes_need_names_of_their_own() {
        let refused = |routes: Vec<Route>| Routes::new(routes).unwrap_err().to_string();
        assert_eq!(refused(vec![route("a"), route("a")]), "route \"a\": there are two of that name");
        assert_eq!(refused(Vec::new()), "route: none given; set .route(..)");
    }

    proptest! {
        #[test]
        fn an_order_holds_each_able_route_once_and_never_a_worse_priority_first(
            settings in proptest::collection::vec((0..3u8, 1..5u32, any::<bool>()), 1..8),
            seed in any::<u64>(),
        ) {
            let routes = settings.iter().enumerate().map(|(place, (priority, weight, is_able))| {
                let model = RouteModel::new(if *is_able { "m" } else { "other" });
                route(&format!("r{place}")).priority(*priority).weight(*weight).model(model)
            });
            let routes = Routes::new(routes).unwrap();
            let first = names(&routes, &[], seed);
            prop_assert_eq!(&first, &names(&routes, &[], seed), "the same seed, the same order");
            let settings_of = |name: &String| settings[name[1..].parse::<usize>().unwrap()];
            prop_assert!(first.is_sorted_by_key(|name| settings_of(name).0));
            let mut sorted = first.clone();
            sorted.sort();
            sorted.dedup();
            prop_assert_eq!(sorted.len(), settings.iter().filter(|(.., is_able)| *is_able).count());
            prop_assert!(first.iter().all(|name| settings_of(name).2));
        }
    }
}
