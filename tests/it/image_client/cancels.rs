//! Calls that are given up, on Redis: whatever they were doing, nothing of them is left but what upstream may bill.

use std::{
    future::{Future, IntoFuture},
    pin::pin,
    sync::{Arc, Mutex},
    task::{Context, Poll, Waker},
    time::Duration,
};

use allotment::{
    Admin, Limit, LimitUse, Limiter, Policy, Resource, Subject,
    openai::{ImageClient, ImageError, ImageErrorKind, Route},
};
use allotment_upstream::{Latency, Pictures, Terms, Upstream};
use rand::{Rng, SeedableRng, rngs::StdRng};
use redis::AsyncCommands;
use tokio::{runtime::Handle, sync::oneshot, task::JoinSet};

use super::stage::{MINUTE, lighthouse};
use crate::{
    postings::Counters,
    support::{eventually, random_org, raw, shared},
};

const GIVEN_UP: u64 = 10_000;
const CALLERS: u64 = 64;
/// So many give up at most when upstream has answered one.
const TOLD_MAX: usize = 14;
const USERS: u64 = 8;
const SLOTS: u64 = 24;
/// Of a pool in which most callers stand in line.
const WINDOW: Duration = Duration::from_secs(1);
const IMAGES: u64 = 100;
/// Longer than the test: no charge that is left behind goes by itself.
const LONG: Duration = Duration::from_secs(600);

fn policy() -> Policy {
    Policy::new()
        .limit(Limit::new("pool").scope(["org"]).images(IMAGES).window(WINDOW).fair_share())
        .limit(Limit::new("org").scope(["org"]).requests(50_000).images(40_000).window(LONG))
        .limit(Limit::new("user").scope(["user"]).requests(50_000).window(LONG))
        .limit(Limit::new("calls").scope(["org"]).in_flight(SLOTS))
        .limit(Limit::new("user-calls").scope(["user"]).in_flight(SLOTS))
}

async fn limiter() -> Limiter {
    let builder = Limiter::builder().redis(shared().await.url()).policy(policy());
    builder.deadline(MINUTE).build().unwrap()
}

fn client(limiter: &Limiter, upstream: &Upstream) -> ImageClient {
    let route = Route::compatible("direct", upstream.base_url(), upstream.key());
    ImageClient::builder().limiter(limiter.clone()).route(route).model("gpt-image-2").build().unwrap()
}

/// When a caller gives up.
enum Until {
    /// After so many steps of the call.
    Steps(u32),
    /// When another caller hears from upstream and says so, or so many events of a stream have come.
    Told { events: Option<u32> },
}

/// What became of calls.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    given_up: u64,
    drawn: u64,
    not_admitted: u64,
}

/// Those who will give up when they are told to.
#[derive(Default)]
struct Crowd {
    waiting: Mutex<Vec<oneshot::Sender<()>>>,
    counts: Mutex<Counts>,
}

impl Crowd {
    fn counts(&self) -> Counts {
        *self.counts.lock().unwrap()
    }

    fn told(&self) -> oneshot::Receiver<()> {
        let (tell, told) = oneshot::channel();
        self.waiting.lock().unwrap().push(tell);
        told
    }

    /// Tells some of those who still wait, for each that upstream has answered.
    fn tell_some(&self, random: &mut StdRng) {
        let mut waiting = self.waiting.lock().unwrap();
        for _ in 0..random.random_range(0..=TOLD_MAX) {
            waiting.retain(|tell| !tell.is_closed());
            if !waiting.is_empty() {
                let one = random.random_range(0..waiting.len());
                waiting.swap_remove(one).send(()).expect("who does not wait has been left out");
            }
        }
    }
}

struct Caller {
    client: ImageClient,
    org: String,
    crowd: Arc<Crowd>,
    random: StdRng,
}

impl Caller {
    /// Calls until enough calls of all callers have been given up.
    async fn call_on(mut self) {
        while self.crowd.counts().given_up < GIVEN_UP {
            let steps_max = 1 << self.random.random_range(0..10);
            let until = match self.random.random_range(0..10) {
                0..4 => Until::Steps(self.random.random_range(0..steps_max)),
                4..7 => Until::Told { events: None },
                _ => Until::Told { events: Some(self.random.random_range(1..4)) },
            };
            let ended = self.call(until).await;
            if let Some(Ok(())) = ended {
                self.crowd.tell_some(&mut self.random);
            }
            let mut counts = self.crowd.counts.lock().unwrap();
            match ended {
                None => counts.given_up += 1,
                Some(Ok(())) => counts.drawn += 1,
                Some(Err(error)) if error.kind() == ImageErrorKind::NotAdmitted => counts.not_admitted += 1,
                Some(Err(error)) => panic!("{error:?}"),
            }
        }
    }

    /// How the call ended, unless it was given up.
    async fn call(&mut self, until: Until) -> Option<Result<(), ImageError>> {
        // half of the calls are of one user
        let user = self.random.random_range(0..USERS * 2).saturating_sub(USERS);
        let subject = Subject::org(self.org.as_str()).user(format!("user-{user}"));
        let max_wait = if self.random.random_bool(0.1) { Duration::ZERO } else { MINUTE };
        let call = |request| self.client.call(&subject, request).max_wait(max_wait);
        match until {
            Until::Steps(steps) => in_steps(call(lighthouse()).into_future(), steps).await.map(|end| end.map(drop)),
            Until::Told { events: None } => tokio::select! {
                biased;
                Ok(()) = self.crowd.told() => None,
                ended = call(lighthouse()).into_future() => Some(ended.map(drop)),
            },
            Until::Told { events: Some(events) } => {
                let told = self.crowd.told();
                let mut stream = call(lighthouse().partial_images(3)).stream();
                let read = async {
                    for _ in 0..events {
                        if let Err(error) = stream.next().await.expect("there are four images and the end") {
                            return Some(Err(error));
                        }
                        self.crowd.tell_some(&mut self.random);
                    }
                    None
                };
                tokio::select! { biased; Ok(()) = told => None, ended = read => ended }
            }
        }
    }
}

/// What is asked of the future so often, whether it has anything to go on with or not.
async fn in_steps<T>(future: impl Future<Output = T>, steps: u32) -> Option<T> {
    let mut future = pin!(future);
    for _ in 0..steps {
        if let Poll::Ready(ended) = future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            return Some(ended);
        }
        tokio::task::yield_now().await;
    }
    None
}

/// One thread, so that what is counted is this test's. Callers give up before they ask, in line, while they send, while they wait for the
/// answer, and while it comes.
#[tokio::test]
async fn ten_thousand_calls_that_are_given_up_leave_nothing_in_redis() {
    let counters = Counters::default();
    let _counted = metrics::set_default_local_recorder(&counters);
    let latency = Latency::fixed(Duration::from_millis(20)).up_to(Duration::from_millis(80));
    let terms = Terms::new().pictures(Pictures::Thumbnail).latency(latency).event_pause(Duration::from_millis(10));
    let upstream = Upstream::start(terms).await.unwrap();
    let org = random_org();
    // its connection is made before tasks are counted
    let mut conn = raw(shared().await).await;
    let tasks = Handle::current().metrics().num_alive_tasks();

    let acting = limiter().await;
    let client = client(&acting, &upstream);
    let (crowd, mut callers) = (Arc::<Crowd>::default(), JoinSet::new());
    for seed in 0..CALLERS {
        let (client, org, crowd) = (client.clone(), org.clone(), Arc::clone(&crowd));
        callers.spawn(Caller { client, org, crowd, random: StdRng::seed_from_u64(seed) }.call_on());
    }
    tokio::time::timeout(MINUTE * 2, callers.join_all()).await.expect("slots are freed, so that callers come through");
    // what is given back in the background has been
    acting.shutdown().await;

    let (counts, seen) = (crowd.counts(), upstream.tally());
    let attempts = counters.of("allotment_image_attempts_total direct");
    let [booked, freed] =
        ["allotment_decisions_total booked", "allotment_settlements_total release"].map(|of| counters.of(of));
    let onlooker = limiter().await;
    let admin = Admin::new(&onlooker, "dana").unwrap();
    let users = admin.users(&org).await.unwrap();
    let whole = admin.inspect(&Subject::org(org.as_str())).await.unwrap();
    let limits: Vec<_> = users.iter().flat_map(|user| &user.limits).chain(&whole.limits).collect();
    let used = |name: &str, resource: Resource| -> u64 {
        let is_it = |limit: &&&LimitUse| &*limit.status.name == name && limit.status.resource == resource;
        limits.iter().filter(is_it).map(|limit| limit.status.used).sum()
    };
    assert_eq!((used("calls", Resource::InFlight), used("user-calls", Resource::InFlight)), (0, 0), "slots");
    assert!(limits.iter().all(|limit| limit.booked == 0), "places in line: {limits:?}");
    let parts = admin.users_of(&org, "pool", Resource::Images).await.unwrap();
    assert!(parts.iter().all(|part| part.booked == 0), "{parts:?}");
    for key in conn.keys::<_, Vec<String>>(format!("allot:1:{{{org}}}:i*")).await.unwrap() {
        assert_eq!(conn.zrange::<_, Vec<String>>(&key, 0, -1).await.unwrap(), ["token"], "{key}");
    }
    // a call that has been sent keeps its charge, whether upstream has seen it yet or not
    let charges = [("org", Resource::Requests), ("org", Resource::Images), ("user", Resource::Requests)]
        .map(|(name, of)| used(name, of));
    assert_eq!(charges, [attempts; 3]);
    assert!(seen.calls <= attempts && attempts - seen.calls <= attempts / 4, "{} of {attempts}", seen.calls);
    let open: u64 = users.iter().map(|user| user.open as u64).sum();
    assert!((attempts - seen.served..=attempts - counts.drawn).contains(&open), "{open} are not settled");
    assert!(counts.given_up >= GIVEN_UP && counts.not_admitted > 0 && seen.abandoned > GIVEN_UP / 20, "{counts:?}");
    assert!(booked > GIVEN_UP / 10, "many have stood in line: {booked}");
    // whoever was not drawn an image has freed its slot
    let given_back = freed.saturating_sub(attempts - counts.drawn);
    assert!(given_back > GIVEN_UP / 20, "many have asked in vain: {given_back}");

    eventually("upstream answers nobody", async || (upstream.tally().under_way == 0).then_some(())).await;
    assert!(upstream.tally().connections_open <= CALLERS);
    let newcomer = Subject::org(org.as_str()).user("newcomer");
    let later = self::client(&onlooker, &upstream);
    let keys = ["fu2", "fh2"].map(|kind| format!("allot:1:{{{org}}}:{kind}:{}", WINDOW.as_millis()));
    eventually("nobody else shares the pool", async || {
        later.call(&newcomer, lighthouse()).max_wait(WINDOW).await.expect("there is room within a window");
        let [sharing, heavy] = keys.each_ref();
        let sharing: Vec<Vec<u8>> = conn.zrange(sharing, 0, -1).await.unwrap();
        let heavy: u64 = conn.zcard(heavy).await.unwrap();
        (sharing.len() == 1 && sharing[0].ends_with(b"newcomer") && heavy == 0).then_some(())
    })
    .await;
    onlooker.shutdown().await;
    drop((client, later, acting, admin, onlooker));
    // the heartbeat of leases looks every 5 s whether there is any
    eventually("no connection or task is left", async || {
        let left = Handle::current().metrics().num_alive_tasks();
        (upstream.tally().connections_open == 0 && left <= tasks).then_some(())
    })
    .await;
}
