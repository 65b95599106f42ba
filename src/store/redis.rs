//! The shared store: ledgers in Redis, decided by the scripts under `lua/`.
//!
//! Invariant: one script call per batch, whatever the number of ledgers. NOSCRIPT is never seen by a caller. `redis` types stay below this
//! module.

mod address;
#[cfg(feature = "openai")]
mod cache;
mod cluster;
mod connect;
mod continuity;
mod diagnose;
mod failure;
mod health;
mod link;
mod list;
mod memory;
mod node;
mod question;
mod reply;
mod request;
pub(crate) mod script;
mod sentinel;
mod upkeep;

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use self::{
    address::{Address, Transport},
    connect::{Answered, Connections},
    continuity::{Continuity, Known},
    memory::Watch,
    question::Question,
    request::Packed,
    script::{CONTROLS, GOVERN, INSPECT, MEMBER, NOTE, OPEN, RENEW, Script, Scripts},
};
use crate::{
    calendar::Held,
    clock::millis,
    error::Error,
    store::{
        AcquireRequest, Answer, Lease, ObserveRequest, ReservationId, SettleRequest, Settled,
        governed::{Governed, StoredControls},
        inspection::{InspectRequest, Inspected, Open, Owner},
        keyspace::{LedgerKey, ORGS, OrgKeys, SlotsKey, SubjectKey},
        loss::Loss,
        member::{Beat, Membership},
    },
};

/// Members that are noted in one call.
const NOTED_MAX: usize = 500;
/// Seconds whose records are looked at in one call, at most.
const SECONDS_MAX: usize = 64;
/// How far the clocks of processes may be ahead of the one that looks for what they made, in seconds.
const AHEAD_S: u64 = 30;

/// Ledgers and reservations in Redis.
#[derive(Debug)]
pub(crate) struct RedisStore {
    connections: Arc<Connections>,
    scripts: Scripts,
    deadline: Duration,
    watch: Watch,
    allows_eviction: bool,
    /// `None`: that of a pool that was handed in.
    transport: Option<Transport>,
    /// `None`: a loss of data is not noticed.
    continuity: Option<Continuity>,
}

impl RedisStore {
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] for a URL that is none; its password is not in the message.
    pub(crate) fn new(url: &str, deadline: Duration) -> Result<Self, Error> {
        let address = Address::parse(url)?;
        let transport = Some(address.transport());
        Ok(Self { transport, ..Self::over(Connections::new(address)?, deadline) })
    }

    /// On connections of a pool that was handed in.
    #[cfg(feature = "deadpool")]
    pub(crate) fn pooled(pool: deadpool_redis::Pool, deadline: Duration) -> Self {
        Self::over(Connections::pooled(pool), deadline)
    }

    fn over(connections: Connections, deadline: Duration) -> Self {
        let connections = Arc::new(connections);
        Self {
            connections,
            scripts: Scripts::SHIPPED,
            deadline,
            watch: Watch::default(),
            allows_eviction: false,
            transport: None,
            continuity: None,
        }
    }

    /// Takes a server that evicts keys for ready.
    pub(crate) fn allow_eviction(self) -> Self {
        Self { allows_eviction: true, ..self }
    }

    /// The same store, which notices and reports when data are lost; `minds`: limits hold calls back then.
    pub(crate) fn noticing_losses(self, minds: bool) -> Self {
        let continuity = Continuity::new(minds, millis(self.deadline));
        Self { continuity: Some(continuity), ..self }
    }

    /// The longest that a call may take.
    pub(crate) fn deadline(&self) -> Duration {
        self.deadline
    }

    /// The same store with scripts of a test's own.
    #[cfg(feature = "testing")]
    pub(crate) fn with_scripts(self, scripts: Scripts) -> Self {
        Self { scripts, ..self }
    }

    pub(crate) async fn acquire(&self, org: &str, requests: &[AcquireRequest]) -> Vec<Result<Answer, Error>> {
        let known = self.continuity.as_ref().map(|continuity| continuity.known(org)).unwrap_or_default();
        let allowed: Vec<_> = requests.iter().map(|request| known.allows(request.lost_at)).collect();
        if allowed.iter().all(|allowed| *allowed) {
            return self.decide(org, requests, &known).await;
        }
        // a loss became known after they were planned
        let some = requests.iter().zip(&allowed).filter(|(_, allowed)| **allowed);
        let some: Vec<_> = some.map(|(request, _)| request.clone()).collect();
        let answers = if some.is_empty() { Vec::new() } else { self.decide(org, &some, &known).await };
        let mut answers = answers.into_iter();
        let lost = || Ok(Answer::lost(0));
        allowed.into_iter().map(|allowed| if allowed { answers.next() } else { None }.unwrap_or_else(lost)).collect()
    }

    async fn decide(&self, org: &str, requests: &[AcquireRequest], known: &Known) -> Vec<Result<Answer, Error>> {
        let packed = request::acquire(&OrgKeys::new(org), requests, known);
        let reply = Box::pin(self.answer(self.scripts.acquire, &packed)).await;
        let after_silence = reply.as_ref().is_ok_and(|answered| answered.after_silence);
        each(reply.map(|answered| answered.answer), requests.len(), |bytes| {
            let (life, mut answers) = reply::acquired(bytes, requests, known)?;
            if let Some(continuity) = &self.continuity {
                continuity.learn(org, known, &life);
            }
            for answer in answers.iter_mut().flatten() {
                answer.after_silence = after_silence;
            }
            Ok(answers)
        })
    }

    pub(crate) fn loss(&self, org: &str) -> Option<Loss> {
        self.continuity.as_ref()?.loss(org)
    }

    pub(crate) async fn settle(&self, org: &str, requests: &[SettleRequest]) -> Vec<Result<Settled, Error>> {
        let packed = request::settle(&OrgKeys::new(org), requests);
        let reply = self.ask(self.scripts.settle, &packed).await;
        each(reply, requests.len(), |bytes| reply::settled(bytes, requests.len()))
    }

    pub(crate) async fn renew(&self, org: &str, leases: &[Lease], lease_ms: u64) -> Result<Vec<bool>, Error> {
        let packed = request::renew(&OrgKeys::new(org), leases, lease_ms);
        let reply = self.ask(&RENEW, &packed).await?;
        reply::renewed(&reply, leases.len())
    }

    pub(crate) async fn beat(&self, org: &str, beat: Beat) -> Result<Membership, Error> {
        let packed = request::beat(&OrgKeys::new(org), &beat);
        let reply = self.ask(&MEMBER, &packed).await?;
        reply::membership(&reply)
    }

    pub(crate) async fn govern(&self, org: &str, change: &Governed) -> Result<bool, Error> {
        let packed = request::govern(&OrgKeys::new(org), change);
        let reply = self.ask(&GOVERN, &packed).await?;
        reply::governed(&reply)
    }

    pub(crate) async fn controls(&self, org: &str, entries: u16) -> Result<StoredControls, Error> {
        let packed = request::controls(&OrgKeys::new(org), entries);
        let reply = self.ask(&CONTROLS, &packed).await?;
        reply::controls(&reply)
    }

    pub(crate) async fn inspect(&self, org: &str, request: &InspectRequest) -> Result<Inspected, Error> {
        let packed = request::inspect(&OrgKeys::new(org), request);
        let reply = self.ask(&INSPECT, &packed).await?;
        reply::inspected(&reply, request)
    }

    pub(crate) async fn open(&self, org: &str, owner: Option<Owner>, back_ms: u64) -> Result<Vec<Open>, Error> {
        let keys = OrgKeys::new(org);
        // ids are made by the clocks of processes
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let seconds: Vec<_> = (since_epoch.saturating_sub(back_ms.div_ceil(1_000))..since_epoch + AHEAD_S).collect();
        let mut open = Vec::new();
        let mut left = &*seconds;
        while !left.is_empty() {
            let some = &left[..left.len().min(SECONDS_MAX)];
            let reply = self.ask(&OPEN, &request::open(&keys, some, owner)).await?;
            let (read, found) = reply::open(&reply)?;
            open.extend(found);
            left = left.get(read.max(1)..).unwrap_or_default();
        }
        Ok(open)
    }

    pub(crate) async fn note(&self, org: &str, subjects: &[SubjectKey], life_ms: u64) -> Result<(), Error> {
        let key = OrgKeys::new(org).subjects();
        for some in subjects.chunks(NOTED_MAX) {
            let packed = request::note(&key, some.iter().map(SubjectKey::stored), life_ms);
            self.connections.ask::<u64>(&Question::Script(&NOTE, &packed), self.deadline).await?;
        }
        let packed = request::note(ORGS, std::iter::once(org), life_ms);
        self.connections.ask::<u64>(&Question::Script(&NOTE, &packed), self.deadline).await.map(drop)
    }

    pub(crate) async fn holders(&self, org: &str, slots: &SlotsKey) -> Result<Vec<Owner>, Error> {
        let members = self.members(&OrgKeys::new(org).slots(slots)).await?;
        // the last fencing token is no lease
        let ids = members.into_iter().filter_map(|member| <[u8; 16]>::try_from(member).ok());
        Ok(ids.map(|id| ReservationId(id).owner()).collect())
    }

    pub(crate) async fn orgs(&self) -> Result<Vec<String>, Error> {
        self.list(ORGS).await
    }

    pub(crate) async fn subjects(&self, org: &str) -> Result<Vec<SubjectKey>, Error> {
        let stored = self.list(&OrgKeys::new(org).subjects()).await?;
        Ok(stored.into_iter().filter_map(SubjectKey::restore).collect())
    }

    /// Who is on a list, sorted.
    async fn list(&self, key: &str) -> Result<Vec<String>, Error> {
        let members = self.members(key).await?;
        Ok(members.into_iter().filter_map(|member| String::from_utf8(member).ok()).collect())
    }

    /// The members of a sorted set whose time has not come, sorted. A round trip per 1,000 members.
    async fn members(&self, key: &str) -> Result<Vec<Vec<u8>>, Error> {
        let (mut cursor, mut members) = (0, BTreeSet::new());
        loop {
            let page = list::page(key, cursor);
            let question = Question::Commands(key, &page);
            let answered = Box::pin(self.connections.ask::<list::Answer>(&question, self.deadline)).await?;
            let page = list::Page::from(answered.answer);
            members.extend(page.members);
            cursor = page.next;
            if cursor == 0 {
                return Ok(members.into_iter().collect());
            }
        }
    }

    pub(crate) async fn reset(&self, org: &str, ledgers: &[(LedgerKey, u64)]) -> Result<(), Error> {
        let packed = request::reset(&OrgKeys::new(org), ledgers);
        self.ask(self.scripts.control, &packed).await.map(drop)
    }

    pub(crate) async fn observe(&self, org: &str, request: &ObserveRequest) -> Result<Option<Held>, Error> {
        let packed = request::observe(&OrgKeys::new(org), request);
        let reply = self.ask(self.scripts.observe, &packed).await?;
        reply::observed(&reply)
    }

    async fn ask(&self, script: &Script, packed: &Packed) -> Result<Vec<u8>, Error> {
        // boxed: users' futures hold this one, and its type is deep
        Box::pin(self.answer(script, packed)).await.map(|answered| answered.answer)
    }

    async fn answer(&self, script: &Script, packed: &Packed) -> Result<Answered<Vec<u8>>, Error> {
        self.watch.keep(&self.connections, self.allows_eviction);
        self.connections.ask(&Question::Script(script, packed), self.deadline).await
    }
}

/// One result per request, whether the call answered each or failed as a whole.
fn each<T>(
    reply: Result<Vec<u8>, Error>,
    requests: usize,
    parse: impl Fn(&[u8]) -> Result<Vec<Result<T, Error>>, Error>,
) -> Vec<Result<T, Error>> {
    match reply.and_then(|bytes| parse(&bytes)) {
        Ok(answers) => answers,
        Err(error) => (0..requests).map(|_| Err(error.copy())).collect(),
    }
}
