use std::{collections::HashMap, future::pending};

use parking_lot::Mutex;

use super::*;
use crate::{
    decision::Reason,
    openai::{
        refusal::Refusal,
        request::ImageRequest,
        route::{Route, capability::Delivery, choice::Routes, health::BreakerState},
    },
    resource::Resource,
};

/// What a route of a test does, in the order in which it is asked.
#[derive(Clone, Copy, Debug)]
enum Does {
    Serve,
    Refuse(RefusalKind),
    Fail(ImageErrorKind),
    /// It has no quota for so many seconds; then it does as it does.
    Deny(u64),
    Never,
    Hang,
}

struct Script {
    does: Mutex<HashMap<&'static str, Vec<Does>>>,
    asked: Mutex<Vec<String>>,
}

impl Script {
    fn next(&self, route: &RouteState) -> Does {
        let mut does = self.does.lock();
        let left = does.get_mut(&**route.name()).unwrap();
        if left.len() > 1 { left.remove(0) } else { left[0] }
    }

    fn note(&self, verb: &str, route: &RouteState) {
        self.asked.lock().push(format!("{verb} {}", route.name()));
    }
}

fn denial(retry: Retry) -> Denial {
    let (limit, resource, reason) = ("org".into(), Resource::Images, Reason::Limit);
    Denial { limit, resource, reason, retry, limits: Vec::new(), degraded: None }
}

fn refusal(kind: RefusalKind) -> Refusal {
    let (error_type, code, figures, retry_after, should_retry) = (None, None, None, None, None);
    Refusal { kind, status: 400, error_type, code, message: "no".to_owned(), figures, retry_after, should_retry }
}

impl Walker for Script {
    type Permit = Does;
    type Served = String;

    async fn admit(&self, route: &Arc<RouteState>) -> Result<Admission<Does>, ImageError> {
        self.note("admit", route);
        Ok(match self.next(route) {
            Does::Deny(seconds) => Admission::Denied(denial(Retry::After(Duration::from_secs(seconds)))),
            Does::Never => Admission::Denied(denial(Retry::Never { over_by: 1 })),
            Does::Fail(ImageErrorKind::NotAdmitted) => return Err(Error::unavailable("the store is gone").into()),
            does => Admission::Admitted(does),
        })
    }

    async fn wait(&self, route: &Arc<RouteState>, wait_max: Duration) -> Result<Does, ImageError> {
        self.note("wait", route);
        let does = self.next(route);
        if let Does::Deny(seconds) = does {
            let wait = Duration::from_secs(seconds);
            if wait > wait_max {
                return Err(Error::from(denial(Retry::After(wait))).into());
            }
            tokio::time::sleep(wait).await;
            return Ok(self.next(route));
        }
        if let Does::Never = does {
            return Err(Error::from(denial(Retry::Never { over_by: 1 })).into());
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        Ok(does)
    }

    async fn give_back(&self, permit: Does) {
        self.asked.lock().push(format!("give back {permit:?}"));
    }

    async fn attempt(&self, route: &Arc<RouteState>, permit: Does) -> Result<String, ImageError> {
        self.note("attempt", route);
        match permit {
            Does::Refuse(kind) => Err(refusal(kind).into()),
            Does::Fail(kind) => Err(ImageError::new(kind, "gone")),
            Does::Hang => pending().await,
            _ => Ok(route.name().to_string()),
        }
    }
}

struct Stage {
    script: Script,
    routes: Routes,
}

fn stage(does: &[(&'static str, &[Does])]) -> Stage {
    let routes = Routes::new(does.iter().map(|(name, _)| Route::openai(*name, "key"))).unwrap();
    let does = does.iter().map(|(name, does)| (*name, does.to_vec())).collect();
    Stage { script: Script { does: Mutex::new(does), asked: Mutex::default() }, routes }
}

fn need() -> Need<'static> {
    Need::of("m", &ImageRequest::generate("a lighthouse"), Delivery::Whole)
}

impl Stage {
    async fn walk(&self, seconds_max: u64) -> Result<Walked<String>, Stuck> {
        walk(&self.script, self.routes.all(), &need(), Duration::from_secs(seconds_max)).await
    }

    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut *self.script.asked.lock())
    }
}

use Does::{Deny, Fail, Hang, Never, Refuse, Serve};

#[tokio::test(start_paused = true)]
async fn the_first_route_that_serves_ends_the_walk() {
    let stage = stage(&[("a", &[Serve]), ("b", &[Serve])]);
    let walked = stage.walk(0).await.unwrap();
    assert_eq!((&*walked.served, walked.journal.attempts), ("a", 1));
    assert!(walked.journal.failed.is_empty());
    assert_eq!(stage.asked(), ["admit a", "attempt a"]);
}

#[tokio::test(start_paused = true)]
async fn a_route_without_quota_is_passed_by_before_anybody_waits() {
    let stage = stage(&[("a", &[Deny(12)]), ("b", &[Serve])]);
    let walked = stage.walk(60).await.unwrap();
    assert_eq!((&*walked.served, walked.journal.waited), ("b", Duration::ZERO));
    assert_eq!(&*walked.journal.failed[0].route, "a");
    assert!(walked.journal.failed[0].why.starts_with("no quota: limit `org` on images"));
    assert_eq!(stage.asked(), ["admit a", "admit b", "attempt b"]);
}

#[tokio::test(start_paused = true)]
async fn out_of_quota_everywhere_a_call_stands_in_the_shortest_line() {
    let stage = stage(&[("a", &[Deny(12), Serve]), ("b", &[Deny(3), Deny(3), Serve]), ("c", &[Never])]);
    let walked = stage.walk(10).await.unwrap();
    assert_eq!((&*walked.served, walked.journal.waited), ("b", Duration::from_secs(3)));
    assert_eq!(stage.asked(), ["admit a", "admit b", "admit c", "wait b", "attempt b"]);
}

#[tokio::test(start_paused = true)]
async fn a_route_that_is_the_only_one_is_asked_for_a_place_at_once() {
    let stage = stage(&[("a", &[Deny(3), Serve])]);
    let walked = stage.walk(10).await.unwrap();
    assert_eq!((&*walked.served, walked.journal.waited), ("a", Duration::from_secs(3)));
    assert_eq!(stage.asked(), ["wait a", "attempt a"]);
}

#[tokio::test(start_paused = true)]
async fn what_is_left_of_the_wait_is_for_the_next_line() {
    let overload = Refuse(RefusalKind::Overloaded);
    let stage = stage(&[("a", &[Deny(6), Deny(3), Serve]), ("b", &[Deny(3), Deny(3), overload])]);
    let walked = stage.walk(7).await.unwrap();
    assert_eq!((&*walked.served, walked.journal.waited), ("a", Duration::from_secs(6)));
    assert_eq!(walked.journal.attempts, 2);
}

#[tokio::test(start_paused = true)]
async fn a_line_that_is_too_long_is_not_stood_in() {
    let stage = stage(&[("a", &[Deny(12)]), ("b", &[Deny(20)]), ("c", &[Never])]);
    let stuck = stage.walk(10).await.unwrap_err();
    assert_eq!(stuck.error.kind(), ImageErrorKind::NotAdmitted);
    assert_eq!(stuck.error.retry_after(), Some(Duration::from_secs(12)), "the shortest");
    assert_eq!((stuck.journal.attempts, stuck.journal.waited), (0, Duration::ZERO));
    assert_eq!(stage.asked(), ["admit a", "admit b", "admit c"]);
    let hopeless = self::stage(&[("c", &[Never])]).walk(10).await.unwrap_err();
    assert!(!hopeless.error.is_retryable());
    assert_eq!(&*hopeless.journal.failed[0].route, "c", "a denial is one of that route");
}

#[tokio::test(start_paused = true)]
async fn what_another_route_may_serve_is_asked_of_it() {
    use RefusalKind::{Exhausted, NoAccess, Overloaded, RateLimited, TooLarge};
    for fails in [
        Refuse(RateLimited),
        Refuse(Overloaded),
        Refuse(Exhausted),
        Refuse(NoAccess),
        Refuse(TooLarge),
        Fail(ImageErrorKind::Unreachable),
    ] {
        let stage = stage(&[("a", &[fails]), ("b", &[Serve])]);
        let walked = stage.walk(0).await.unwrap();
        assert_eq!((&*walked.served, walked.journal.attempts), ("b", 2), "{fails:?}");
        assert_eq!(walked.journal.failed.len(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_wrong_with_the_call_or_may_have_been_done_is_asked_once() {
    use ImageErrorKind::{Unanswered, Unreadable};
    let refused = [Refuse(RefusalKind::Invalid), Refuse(RefusalKind::Moderation), Refuse(RefusalKind::Failed)];
    for fails in refused.into_iter().chain([Fail(Unanswered), Fail(Unreadable), Fail(ImageErrorKind::Invalid)]) {
        let stage = stage(&[("a", &[fails]), ("b", &[Serve])]);
        let stuck = stage.walk(60).await.unwrap_err();
        assert_eq!(stuck.journal.attempts, 1, "{fails:?}");
        assert_eq!(stage.asked(), ["admit a", "attempt a"]);
    }
}

#[tokio::test(start_paused = true)]
async fn without_the_limiter_no_route_is_asked() {
    let stage = stage(&[("a", &[Fail(ImageErrorKind::NotAdmitted)]), ("b", &[Serve])]);
    assert_eq!(stage.walk(0).await.unwrap_err().error.kind(), ImageErrorKind::NotAdmitted);
    assert_eq!(stage.asked(), ["admit a"]);
}

#[tokio::test(start_paused = true)]
async fn the_error_is_the_one_that_says_when_to_come_back() {
    let stage = stage(&[("a", &[Refuse(RefusalKind::Exhausted)]), ("b", &[Deny(30)]), ("c", &[Deny(20)])]);
    let stuck = stage.walk(0).await.unwrap_err();
    assert_eq!(stuck.error.retry_after(), Some(Duration::from_secs(20)));
    assert_eq!(stuck.journal.failed.len(), 3);
    let stage = self::stage(&[("a", &[Refuse(RefusalKind::Exhausted)]), ("b", &[Refuse(RefusalKind::NoAccess)])]);
    let kind = stage.walk(0).await.unwrap_err().error.refusal().map(|refusal| refusal.kind);
    assert_eq!(kind, Some(RefusalKind::Exhausted), "that of the first");
}

#[tokio::test(start_paused = true)]
async fn a_dropped_walk_frees_the_route_that_it_tried() {
    let gone = Fail(ImageErrorKind::Unreachable);
    let stage = stage(&[("a", &[gone, gone, gone, Hang, Serve])]);
    for _ in 0..3 {
        stage.walk(0).await.unwrap_err();
    }
    let state = &stage.routes.all()[0];
    assert_eq!(state.status(Instant::now()).breaker, BreakerState::Open);
    assert_eq!(stage.walk(0).await.unwrap_err().journal.attempts, 0, "it has a pause");
    tokio::time::advance(Duration::from_secs(5)).await;
    let dropped = tokio::time::timeout(Duration::from_secs(1), stage.walk(0)).await;
    assert!(dropped.is_err());
    assert_eq!(state.status(Instant::now()).under_way, 0);
    let walked = stage.walk(0).await.unwrap();
    assert_eq!(state.status(Instant::now()).under_way, 1, "until the whole answer is there");
    walked.passage.served(Duration::from_secs(2));
    let status = state.status(Instant::now());
    assert_eq!((status.breaker, status.under_way), (BreakerState::Closed, 0));
}

#[tokio::test(start_paused = true)]
async fn one_who_stands_in_line_keeps_nobody_from_finding_out() {
    let gone = Fail(ImageErrorKind::Unreachable);
    let stage = stage(&[("a", &[gone, gone, gone, Deny(30), Serve])]);
    for _ in 0..3 {
        stage.walk(0).await.unwrap_err();
    }
    tokio::time::advance(Duration::from_secs(5)).await;
    let second = async {
        let walked = stage.walk(60).await.unwrap();
        walked.passage.served(Duration::from_secs(1));
        walked.journal.waited
    };
    let (first, second) = tokio::join!(stage.walk(60), second);
    assert_eq!((first.unwrap().journal.waited, second), (Duration::from_secs(30), Duration::from_secs(1)));
}

#[tokio::test(start_paused = true)]
async fn quota_that_came_while_another_finds_out_is_given_back() {
    let gone = Fail(ImageErrorKind::Unreachable);
    let stage = stage(&[("a", &[gone, gone, gone, Serve])]);
    for _ in 0..3 {
        stage.walk(0).await.unwrap_err();
    }
    tokio::time::advance(Duration::from_secs(5)).await;
    stage.asked();
    let probe = stage.routes.all()[0].enter(Instant::now()).unwrap();
    let stuck = stage.walk(60).await.unwrap_err();
    assert_eq!((stuck.error.kind(), stuck.journal.attempts), (ImageErrorKind::Unreachable, 0));
    assert_eq!(stage.asked(), ["wait a", "give back Serve"]);
    drop(probe);
}
