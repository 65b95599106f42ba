//! The server: a listener, its connections, and what all calls share.
//!
//! Invariant: once it is stopped or dropped, its connections are closed and its port is free.

use std::{
    collections::{BTreeMap, VecDeque},
    convert::Infallible,
    io,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{body::Body, http::Request};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::ServiceExt;

use crate::{
    clock::Clock,
    delivery::HangUp,
    quota::Quota,
    script::Script,
    tally::{Books, Call, Tally},
    terms::{Org, Terms},
    wire,
};

/// What all calls share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) terms: Terms,
    pub(crate) clock: Clock,
    pub(crate) books: Mutex<Books>,
    pub(crate) quotas: Mutex<BTreeMap<Account, Quota>>,
    pub(crate) scripts: Mutex<Scripts>,
    pub(crate) random: Mutex<fastrand::Rng>,
}

/// Whose quota of which pool.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Account {
    pub(crate) org: String,
    pub(crate) pool: String,
}

/// What happens to the calls that come next.
#[derive(Debug, Default)]
pub(crate) struct Scripts {
    next: VecDeque<Script>,
    standing: Option<Script>,
}

impl Shared {
    /// The org that a key belongs to.
    pub(crate) fn org_of(&self, key: &str) -> Option<&Org> {
        self.terms.orgs.iter().find(|org| org.keys.iter().any(|known| known == key))
    }

    pub(crate) fn script(&self) -> Script {
        let mut scripts = self.scripts.lock();
        let standing = scripts.standing.clone();
        scripts.next.pop_front().or(standing).unwrap_or(Script::Serve)
    }
}

/// A simulated image API that listens on this machine. It stops when it is dropped.
#[derive(Debug)]
pub struct Upstream {
    shared: Arc<Shared>,
    address: SocketAddr,
    closing: CancellationToken,
    stopped: CancellationToken,
    connections: TaskTracker,
}

impl Upstream {
    /// Starts a server on these terms, on a port of its own.
    ///
    /// # Errors
    ///
    /// The address cannot be bound.
    pub async fn start(mut terms: Terms) -> io::Result<Self> {
        if terms.orgs.is_empty() {
            terms.orgs.push(Org::new("org-test").key("sk-test"));
        }
        let listener = TcpListener::bind(&terms.listen).await?;
        let address = listener.local_addr()?;
        let clock = match &terms.clock {
            Some(clock) => Clock::Manual(clock.clone()),
            None => Clock::Running { started: Instant::now(), speed: terms.speed },
        };
        let random = Mutex::new(fastrand::Rng::with_seed(terms.seed));
        let shared = Arc::new(Shared {
            terms,
            clock,
            books: Mutex::default(),
            quotas: Mutex::default(),
            scripts: Mutex::default(),
            random,
        });
        let upstream = Self {
            shared,
            address,
            closing: CancellationToken::new(),
            stopped: CancellationToken::new(),
            connections: TaskTracker::new(),
        };
        upstream.connections.spawn(upstream.acceptor(listener));
        Ok(upstream)
    }

    /// Where it listens, such as `http://127.0.0.1:40123`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The base of the API's paths, such as `http://127.0.0.1:40123/v1`.
    #[must_use]
    pub fn base_url(&self) -> String {
        format!("{}/v1", self.url())
    }

    /// The first key of its first org.
    #[must_use]
    pub fn key(&self) -> &str {
        let keys = self.shared.terms.orgs.iter().flat_map(|org| &org.keys);
        keys.map(String::as_str).next().unwrap_or_default()
    }

    /// What happens to the call that comes after those that have a script already.
    pub fn next(&self, script: Script) {
        self.shared.scripts.lock().next.push_back(script);
    }

    /// What happens to every call that has no script of its own, from now on. `Script::Serve` ends it.
    pub fn from_now_on(&self, script: Script) {
        self.shared.scripts.lock().standing = Some(script);
    }

    /// What it has seen until now.
    #[must_use]
    pub fn tally(&self) -> Tally {
        let mut quotas = self.shared.quotas.lock();
        let now = self.shared.clock.now();
        let mut tally = self.shared.books.lock().tally.clone();
        for (account, quota) in quotas.iter_mut() {
            quota.catch_up(now);
            let org = tally.orgs.entry(account.org.clone()).or_default();
            org.stranger_admitted += quota.stranger_served;
            org.stranger_refused += quota.stranger_refused;
        }
        tally
    }

    /// The latest calls, oldest first, at most 10,000.
    #[must_use]
    pub fn calls(&self) -> Vec<Call> {
        self.shared.books.lock().calls()
    }

    /// Its own time since its start.
    #[must_use]
    pub fn now(&self) -> Duration {
        self.shared.clock.now()
    }

    /// Closes all connections now and waits until they are.
    pub async fn stop(self) {
        self.stopped.cancel();
        self.connections.close();
        self.connections.wait().await;
    }

    /// Takes no more calls, and lets those under way end for at most `grace`.
    pub async fn finish(self, grace: Duration) {
        self.closing.cancel();
        self.connections.close();
        let _ = tokio::time::timeout(grace, self.connections.wait()).await;
        self.stop().await;
    }

    fn acceptor(&self, listener: TcpListener) -> impl Future<Output = ()> + Send + 'static {
        let (shared, connections) = (self.shared.clone(), self.connections.clone());
        let (closing, stopped) = (self.closing.clone(), self.stopped.clone());
        async move {
            let router = wire::router(shared.clone());
            loop {
                let accepted = tokio::select! {
                    accepted = listener.accept() => accepted,
                    () = closing.cancelled() => return,
                    () = stopped.cancelled() => return,
                };
                // A connection that failed before it was accepted is its client's affair.
                let Ok((socket, _)) = accepted else { continue };
                let open = Open::new(&shared);
                let (router, closing, stopped) = (router.clone(), closing.clone(), stopped.clone());
                connections.spawn(async move {
                    let _open = open;
                    tokio::select! {
                        () = serve(socket, router, closing) => {}
                        () = stopped.cancelled() => {}
                    }
                });
            }
        }
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.stopped.cancel();
    }
}

/// Counts a connection while it is open.
struct Open(Arc<Shared>);

impl Open {
    fn new(shared: &Arc<Shared>) -> Self {
        let tally = &mut shared.books.lock().tally;
        tally.connections += 1;
        tally.connections_open += 1;
        Self(shared.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.books.lock().tally.connections_open -= 1;
    }
}

async fn serve(socket: TcpStream, router: axum::Router, closing: CancellationToken) {
    let _ = socket.set_nodelay(true);
    let service = service_fn(|request: Request<Incoming>| {
        let router = router.clone();
        async move {
            let response: Result<_, Infallible> = router.oneshot(request.map(Body::new)).await;
            match response {
                Ok(response) if response.extensions().get::<HangUp>().is_some() => {
                    Err(io::Error::other("hung up on purpose"))
                }
                Ok(response) => Ok(response),
                Err(never) => match never {},
            }
        }
    });
    let connection = http1::Builder::new().serve_connection(TokioIo::new(socket), service);
    tokio::pin!(connection);
    // What ends a connection, be it the client or a fault, has been counted by its calls.
    tokio::select! {
        _ = connection.as_mut() => return,
        () = closing.cancelled() => connection.as_mut().graceful_shutdown(),
    }
    let _ = connection.await;
}
