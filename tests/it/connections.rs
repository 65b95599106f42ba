//! A limiter on Redis as it really is: one server, Sentinels, a cluster, TLS, users; and what becomes of calls when they fail.
//!
//! Real time, with a deadline that a slow machine does not miss: servers are killed and connections go dead.

use std::time::Duration;

use allotment::{Cost, Decision, Error, ErrorKind, Limit, Limiter, LimiterBuilder, Policy, Severity, Subject};
use allotment_fixtures::{
    Authority, ClientCertificates, Cluster, Identity, Sentinel, SentinelOptions, ServerCertificate, Settings,
    TlsOptions, TlsServer,
};
use tempfile::TempDir;
use tokio::{net::TcpListener, task::JoinSet};

use crate::support::{Fault, Proxy, Server, eventually, random_org};

const PATIENT: Duration = Duration::from_secs(20);

fn builder(url: impl Into<String>) -> LimiterBuilder {
    let hourly = |limit: Limit| limit.requests(1 << 40).window(Duration::from_secs(3_600));
    let policy = Policy::new().limit(hourly(Limit::new("org"))).limit(hourly(Limit::new("user").scope(["user"])));
    Limiter::builder().redis(url).policy(policy)
}

fn limiter(url: impl Into<String>) -> Limiter {
    builder(url).deadline(PATIENT).build().unwrap()
}

fn alice(org: &str) -> Subject {
    Subject::org(org).user("alice")
}

/// One call that is admitted.
async fn call(limiter: &Limiter, org: &str) {
    let outcome = limiter.try_acquire(&alice(org), Cost::new()).await.unwrap();
    drop(outcome.into_result().unwrap());
}

/// Waits until a call is decided.
async fn is_served(limiter: &Limiter, subject: &Subject) {
    let decided = async || limiter.try_acquire(subject, Cost::new()).await.ok();
    drop(eventually("a call is decided", decided).await);
}

async fn used(limiter: &Limiter, org: &str) -> u64 {
    match limiter.peek(&alice(org), Cost::new().requests(0)).await.unwrap() {
        Decision::Allowed(limits) => limits[0].used,
        Decision::Denied(denial) => panic!("nothing was asked: {denial}"),
    }
}

/// Everything that an error says, its causes included.
fn told(error: &Error) -> String {
    let (mut text, mut source) = (error.to_string(), std::error::Error::source(error));
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

#[tokio::test]
async fn a_limiter_that_was_built_while_redis_was_down_works_once_it_is_up() {
    let server = Server::start().await;
    server.kill().await;
    let (limiter, org) = (builder(server.url()).build().unwrap(), random_org());
    let early = limiter.try_acquire(&alice(&org), Cost::new()).await.unwrap_err();
    assert_eq!(early.kind(), ErrorKind::Timeout);
    assert!(told(&early).contains("refused"), "it says why: {}", told(&early));
    server.restart().await;
    let patient = self::limiter(server.url());
    call(&patient, &org).await;
    assert_eq!(used(&patient, &org).await, 1);
}

#[tokio::test]
async fn a_flow_that_has_gone_dead_is_left() {
    let server = Server::start().await;
    let proxy = Proxy::start(server.port()).await;
    let (limiter, org) = (limiter(proxy.url()), random_org());
    call(&limiter, &org).await;
    for _ in 0..3 {
        proxy.set(Fault::DeadFlows).await;
        // the client's own connection would be waited on for ever: the next call would end with its deadline
        call(&limiter, &org).await;
    }
    assert_eq!(used(&limiter, &org).await, 4);
}

#[tokio::test]
async fn a_server_that_does_not_answer_is_spared_by_the_breaker_until_it_answers_again() {
    let server = Server::start().await;
    let proxy = Proxy::start(server.port()).await;
    let limiter = builder(proxy.url()).deadline(Duration::from_millis(50)).build().unwrap();
    let subject = alice(&random_org());
    proxy.set(Fault::BlackHole).await;
    // a release in the background is a call, too
    assert_eq!(limiter.try_acquire(&subject, Cost::new()).await.unwrap_err().kind(), ErrorKind::Timeout);
    let refused = eventually("a call is refused without a wait", async || {
        let error = limiter.try_acquire(&subject, Cost::new()).await.unwrap_err();
        (error.kind() == ErrorKind::Unavailable).then_some(error)
    })
    .await;
    assert!(refused.is_retryable() && refused.to_string().contains("calls in a row"), "{refused}");
    proxy.set(Fault::Nothing).await;
    // one call per pause tries
    is_served(&limiter, &subject).await;
    call(&limiter, &random_org()).await;
}

#[tokio::test]
async fn a_call_that_waits_behind_another_keeps_its_own_deadline() {
    let server = Server::start().await;
    let proxy = Proxy::start(server.port()).await;
    let limiter = builder(proxy.url()).deadline(Duration::from_secs(2)).build().unwrap();
    let org = random_org();
    call(&limiter, &org).await;
    proxy.set(Fault::BlackHole).await;
    let mut callers = JoinSet::new();
    for caller in 0..8 {
        let (limiter, subject) = (limiter.clone(), alice(&org));
        // the first is on its way before the others come
        for _ in 0..if caller == 1 { 50 } else { 0 } {
            tokio::task::yield_now().await;
        }
        callers.spawn(async move { limiter.try_acquire(&subject, Cost::new()).await.unwrap_err().to_string() });
    }
    let said = callers.join_all().await;
    assert!(said.iter().any(|said| said.contains("the requests before this one included")), "{said:?}");
    proxy.set(Fault::Nothing).await;
    is_served(&limiter, &alice(&random_org())).await;
    limiter.shutdown().await;
    assert_eq!(used(&self::limiter(server.url()), &org).await, 1, "whatever was sent is given back");
}

#[tokio::test]
async fn sentinels_lead_to_the_master_and_to_its_successor() {
    let sentinel = Sentinel::start_with(SentinelOptions { guarded: true, ..SentinelOptions::default() }).await;
    let (limiter, org) = (builder(sentinel.url()).deadline(Duration::from_secs(60)).build().unwrap(), random_org());
    limiter.ready().await.unwrap();
    call(&limiter, &org).await;
    let old = sentinel.master().await;
    sentinel.kill(old).await;
    // within its deadline it is repeated until there is a master again
    call(&limiter, &random_org()).await;
    assert_ne!(sentinel.successor_of(old).await, old);
    let diagnosis = limiter.diagnose().await;
    assert_ne!(diagnosis.severity, Severity::Failure, "{diagnosis:?}");
    let unknown = sentinel.url().replace("/mymaster", "/other");
    let error = builder(unknown).build().unwrap().try_acquire(&alice(&org), Cost::new()).await.unwrap_err();
    assert!(told(&error).contains("No such master"), "{}", told(&error));
}

#[tokio::test]
async fn a_cluster_is_followed_wherever_its_slots_go() {
    let cluster = Cluster::start().await;
    let limiter = builder(cluster.url()).deadline(Duration::from_secs(60)).build().unwrap();
    limiter.ready().await.unwrap();
    let orgs: Vec<_> = (0..12).map(|_| random_org()).collect();
    for org in &orgs {
        call(&limiter, org).await;
    }
    let slot_of = |org: &str| format!("{{{org}}}");
    let org = &orgs[0];
    let slot = cluster.slot_of(&slot_of(org)).await;
    let from = cluster.owner(slot).await;
    let mut others = Vec::new();
    for other in &orgs {
        let owner = cluster.owner(cluster.slot_of(&slot_of(other)).await).await;
        if owner != from {
            others.push(owner);
        }
    }
    let to = *others.first().expect("twelve orgs are not all at one node");
    cluster.move_slot(slot, to).await;
    call(&limiter, org).await;
    assert_eq!(used(&limiter, org).await, 2);
    // half moved: all keys of an org are here, or none is: what is there is asked for where it is
    let fresh = random_org();
    let slot = cluster.slot_of(&slot_of(&fresh)).await;
    let owner = cluster.owner(slot).await;
    cluster.start_migrating(slot, if owner == to { from } else { to }).await;
    cluster.stop_migrating(slot).await;
    call(&limiter, &fresh).await;

    cluster.kill(to).await;
    for org in &orgs {
        // those of the node that is gone wait for its replica
        call(&limiter, org).await;
    }
    let plain = limiter_of_one_node(&cluster, from);
    let mut said = Vec::new();
    for org in &orgs {
        said.extend(plain.try_acquire(&alice(org), Cost::new()).await.err().map(|error| error.to_string()));
    }
    assert!(said.iter().any(|said| said.contains("redis+cluster://")), "{said:?}");
}

fn limiter_of_one_node(cluster: &Cluster, port: u16) -> Limiter {
    limiter(cluster.url_of(port))
}

#[tokio::test]
async fn a_node_that_stands_still_keeps_no_other_waiting() {
    let cluster = Cluster::without_replicas().await;
    let limiter = builder(cluster.url()).deadline(Duration::from_millis(500)).build().unwrap();
    let (mut frozen, mut others) = (None, Vec::new());
    while frozen.is_none() || others.is_empty() {
        let org = random_org();
        let owner = cluster.owner(cluster.slot_of(&format!("{{{org}}}")).await).await;
        if owner == cluster.nodes()[0] { frozen = Some(org) } else { others.push(org) }
    }
    let frozen = frozen.unwrap();
    for org in others.iter().chain([&frozen]) {
        is_served(&limiter, &alice(org)).await;
    }
    cluster.freeze(cluster.nodes()[0]).await;
    let error = limiter.try_acquire(&alice(&frozen), Cost::new()).await.unwrap_err();
    assert!(error.is_retryable(), "{error}");
    call(&limiter, &others[0]).await;
    cluster.thaw(cluster.nodes()[0]).await;
    is_served(&limiter, &alice(&frozen)).await;
}

/// Files in a folder, as URLs name them.
struct Files(TempDir);

impl Files {
    fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    fn with(&self, name: &str, text: &str) -> String {
        let path = self.0.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    }

    fn identity(&self, name: &str, Identity { certificate, key }: &Identity) -> String {
        format!(
            "&tls_cert={}&tls_key={}",
            self.with(&format!("{name}.pem"), certificate),
            self.with(&format!("{name}.key"), key)
        )
    }
}

#[tokio::test]
async fn tls_takes_the_certificate_of_the_named_authority_and_no_other() {
    let (server, files) = (TlsServer::start().await, Files::new());
    let known = files.with("known.pem", server.authority().certificate());
    let stranger = files.with("stranger.pem", Authority::new().certificate());
    call(&limiter(format!("{}?tls_ca={known}", server.url())), &random_org()).await;
    let refused = async |url: String| {
        let error = limiter(url).try_acquire(&alice(&random_org()), Cost::new()).await.unwrap_err();
        told(&error)
    };
    for url in [format!("{}?tls_ca={stranger}", server.url()), server.url()] {
        let said = refused(url).await;
        assert!(said.contains("certificate"), "{said}");
    }
    for certificate in [ServerCertificate::Expired, ServerCertificate::WrongHost] {
        let server = TlsServer::start_with(TlsOptions { certificate, ..TlsOptions::default() }).await;
        let known = files.with("of-this.pem", server.authority().certificate());
        let said = refused(format!("{}?tls_ca={known}", server.url())).await;
        assert!(said.contains("certificate"), "{certificate:?}: {said}");
    }
}

#[tokio::test]
async fn tls_shows_the_certificate_of_the_client() {
    let options = TlsOptions { clients: ClientCertificates::Required, ..TlsOptions::default() };
    let (server, files) = (TlsServer::start_with(options).await, Files::new());
    let url = format!("{}?tls_ca={}", server.url(), files.with("ca.pem", server.authority().certificate()));
    let shown = files.identity("client", &server.authority().client());
    call(&limiter(format!("{url}{shown}")), &random_org()).await;
    for not_its_own in [String::new(), files.identity("stranger", &Authority::new().client())] {
        let limiter = builder(format!("{url}{not_its_own}")).build().unwrap();
        assert!(limiter.try_acquire(&alice(&random_org()), Cost::new()).await.is_err());
    }
}

#[tokio::test]
async fn users_databases_and_sockets_are_as_the_url_says() {
    let server = Server::start_with(
        Settings::new().users("user default off\nuser app on >a%b:c ~allot:* &* +@all").unix_socket(),
    )
    .await;
    let at = |login: &str| format!("redis://{login}127.0.0.1:{}/3", server.port());
    let org = random_org();
    let app = limiter(at("app:a%25b%3Ac@"));
    call(&app, &org).await;
    let elsewhere = limiter(at("app:a%25b%3Ac@").replace("/3", "/4"));
    assert_eq!((used(&app, &org).await, used(&elsewhere, &org).await), (1, 0), "databases are apart");
    for wrong in ["", "app:wrong@", "nobody:a@"] {
        let error = builder(at(wrong)).build().unwrap().try_acquire(&alice(&org), Cost::new()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{wrong}: {}", told(&error));
        assert!(!told(&error).contains("a%b:c"), "{}", told(&error));
    }
    let by_socket = limiter(format!("{}?db=3&user=app&pass=a%25b%3Ac", server.socket_url()));
    assert_eq!(used(&by_socket, &org).await, 1);
    let old_protocol = limiter(format!("{}?protocol=resp2", at("app:a%25b%3Ac@")));
    assert_eq!(used(&old_protocol, &org).await, 1);
}

#[cfg(feature = "deadpool")]
#[tokio::test]
async fn a_pool_that_the_application_has_is_used() {
    let server = Server::start().await;
    let proxy = Proxy::start(server.port()).await;
    let config = deadpool_redis::Config::from_url(proxy.url());
    let pool = config.builder().unwrap().max_size(3).runtime(deadpool_redis::Runtime::Tokio1).build().unwrap();
    let policy = Policy::new().limit(Limit::new("org").requests(1 << 40).window(Duration::from_secs(3_600)));
    let limiter = Limiter::builder().redis_pool(pool.clone()).policy(policy).deadline(PATIENT).build().unwrap();
    limiter.ready().await.unwrap();
    let org = random_org();
    let mut callers = JoinSet::new();
    for _ in 0..20 {
        let (limiter, org) = (limiter.clone(), org.clone());
        callers.spawn(async move { call(&limiter, &org).await });
    }
    callers.join_all().await;
    proxy.set(Fault::DeadFlows).await;
    call(&limiter, &org).await;
    assert_eq!(used(&limiter, &org).await, 21);
    assert!(pool.status().size <= 3);
}

#[tokio::test]
async fn a_port_that_accepts_and_never_answers_is_no_server() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("redis://127.0.0.1:{}/", listener.local_addr().unwrap().port());
    let limiter = builder(url).deadline(Duration::from_millis(100)).build().unwrap();
    let error = limiter.try_acquire(&alice(&random_org()), Cost::new()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout, "{}", told(&error));
    let ready = limiter.ready().await.unwrap_err();
    assert_eq!(ready.kind(), ErrorKind::Unavailable, "{}", told(&ready));
}
