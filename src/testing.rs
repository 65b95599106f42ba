//! Stores as they are, below limits and policies: for this crate's own tests. Not part of the API, and not covered by its promises.

#[cfg(feature = "redis")]
use std::time::Duration;

use crate::{
    calendar::{Ask, Told, UNBOUNDED},
    clock::{Clock, ManualClock},
    error::Error,
    store::{
        AcquireRequest, AskedLedger, AskedSlots, Ending, FairAsk, Lease, Notes, ObserveRequest, ReservationId,
        SettleRequest, Settled, SettledLedger, Store, Verdict,
        governed::{Governed, Manner},
        inspection::{Contents, InspectRequest},
        keyspace::{LedgerKey, SlotsKey},
        member::{Beat, Membership},
        memory::MemoryStore,
    },
};

/// How long leases of raw requests live, in milliseconds.
pub const RAW_LEASE_MS: u64 = 5_000;

/// A store without a limiter.
#[derive(Debug)]
pub struct RawStore(Store);

/// One ledger: the user it counts, or the org itself, and its window.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RawLedger {
    /// `None`: the org's own.
    pub user: Option<String>,
    /// In milliseconds.
    pub window_ms: u64,
}

/// One request.
#[derive(Clone, Debug, Default)]
pub struct RawAcquire {
    /// Its id.
    pub id: [u8; 16],
    /// Per ledger: three amounts, and the limit of each resource, `None` where there is none.
    pub asked: Vec<RawAsk>,
    /// Which ledger carries the reservation.
    pub home: Option<usize>,
    /// 0: now or nothing.
    pub max_wait_ms: u64,
    /// Asks for a better place.
    pub moves_up: bool,
    /// Pools that are shared fairly.
    pub fair: Vec<RawFair>,
    /// Slots for calls under way: whose (`None`: the org's), and how many there are.
    pub slots: Vec<(Option<String>, u64)>,
    /// The version of the controls that it knows, and until when they are those.
    pub controls: (u64, Option<u64>),
    /// They block its subject.
    pub is_blocked: bool,
}

/// A pool that is shared fairly.
#[derive(Clone, Debug)]
pub struct RawFair {
    /// Its ledger and that of the user, among those asked.
    pub pool: usize,
    /// See `pool`.
    pub user: usize,
    /// The place of the resource.
    pub place: usize,
    /// What the pool may hold.
    pub limit: u64,
    /// The weight of the user.
    pub weight: u32,
    /// The id of the user.
    pub name: String,
    /// What the pool notes: nothing (0), a heavy user (1), any user (2).
    pub notes: u8,
}

/// What is asked of one ledger.
#[derive(Clone, Debug)]
pub struct RawAsk {
    /// The ledger.
    pub ledger: RawLedger,
    /// What is charged.
    pub amounts: [u64; 3],
    /// What the window may hold.
    pub limits: [Option<u64>; 3],
}

/// The answer to one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawAnswer {
    /// What was decided.
    pub verdict: RawVerdict,
    /// The store's time.
    pub now: u64,
    /// Per ledger, what its window holds.
    pub used: Vec<[u64; 3]>,
    /// Per ledger, its last time.
    pub last_at: Vec<u64>,
    /// Per pool, whether the user is heavy, and the share; false and 0 for an id that was known.
    pub standings: Vec<(bool, u64)>,
    /// The fencing token; 0 if no slot was taken.
    pub token: u64,
    /// Per slots asked, how many calls are under way.
    pub in_flight: Vec<u64>,
}

/// What was decided.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "named after the store's own verdicts")]
pub enum RawVerdict {
    Admitted { at: u64 },
    Denied { at: u64, setter: usize, short: Vec<[bool; 3]> },
    Released,
    Mismatch,
    Stale,
    Lost,
    Full { slots: usize, at: u64 },
}

/// One settlement.
#[derive(Clone, Debug, Default)]
pub struct RawSettle {
    /// The reservation.
    pub id: [u8; 16],
    /// Per ledger: estimate and actual amounts.
    pub charges: Vec<(RawLedger, [u64; 3], [u64; 3])>,
    /// Gives back instead of committing; the actual amounts are then nothing.
    pub releases: bool,
    /// When it was made.
    pub made_at: Option<u64>,
    /// Which ledger carries the reservation.
    pub home: Option<usize>,
    /// Frees the slots only.
    pub frees: bool,
    /// Slots that are freed: whose.
    pub slots: Vec<Option<String>>,
    /// Changes nothing if a lease has expired.
    pub checks_leases: bool,
}

/// What the answer to one call told of the ledger that it was charged on.
#[derive(Clone, Copy, Debug)]
pub struct RawTold {
    /// The place of the resource.
    pub place: usize,
    /// What upstream had counted.
    pub counted: u64,
    /// What the ledger held when the call was admitted.
    pub used: u64,
    /// When that was.
    pub at: u64,
    /// What the limit enforces.
    pub limit: u64,
    /// How much of what was counted is used by nobody.
    pub lacking: u64,
}

/// What a settlement found: `now`, `before`, `absent` or `lost`.
pub type RawSettled = &'static str;

impl RawStore {
    /// The embedded store.
    #[must_use]
    pub fn in_memory(clock: ManualClock) -> Self {
        Self(Store::Memory(MemoryStore::new(Clock::Manual(clock))))
    }

    /// A store in Redis.
    ///
    /// # Errors
    ///
    /// For a URL that is none.
    #[cfg(feature = "redis")]
    pub fn redis(url: &str, deadline: Duration) -> Result<Self, Error> {
        crate::store::redis::RedisStore::new(url, deadline).map(|store| Self(Store::Redis(Box::new(store))))
    }

    /// A store in Redis whose scripts have a fault: every `find` is replaced. `None` if no script has it.
    ///
    /// # Errors
    ///
    /// For a URL that is none.
    #[cfg(feature = "redis")]
    pub fn redis_with_fault(url: &str, deadline: Duration, find: &str, replace: &str) -> Result<Option<Self>, Error> {
        let store = crate::store::redis::RedisStore::new(url, deadline)?;
        let planted = crate::store::redis::script::Scripts::planted(find, replace);
        Ok(planted.map(|scripts| Self(Store::Redis(Box::new(store.with_scripts(scripts))))))
    }

    /// Decides a batch.
    pub async fn acquire(&self, org: &str, requests: &[RawAcquire]) -> Vec<Result<RawAnswer, Error>> {
        let requests: Vec<_> = requests.iter().map(request).collect();
        let answers = self.0.acquire(org, &requests).await;
        answers.into_iter().map(|answer| answer.map(raw_answer)).collect()
    }

    /// Decides requests in turn, `times` in all, each under an id of its own and a hundred per millisecond of `clock`, and says how many
    /// were admitted: what the embedded store costs by itself, for benchmarks. 0 on another store.
    #[must_use]
    pub fn decide_often(&self, org: &str, raw: &[RawAcquire], times: u64, clock: &ManualClock) -> u64 {
        #[cfg_attr(not(feature = "redis"), expect(irrefutable_let_patterns, reason = "there is but one store"))]
        let Store::Memory(store) = &self.0 else { return 0 };
        let mut requests: Vec<_> = raw.iter().map(|raw| [request(raw)]).collect();
        let mut admitted = 0;
        for (number, turn) in (1..=times).zip((0..requests.len()).cycle()) {
            if number % 100 == 0 {
                clock.advance(std::time::Duration::from_millis(1));
            }
            requests[turn][0].id.0[8..].copy_from_slice(&number.to_be_bytes());
            let answer = store.acquire(org, &requests[turn]).pop();
            admitted +=
                u64::from(matches!(answer, Some(Ok(answer)) if matches!(answer.verdict, Verdict::Admitted { .. })));
        }
        admitted
    }

    /// What a request would be answered that asks for now or nothing and notes nobody, by a look that changes nothing.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn foresee(&self, org: &str, raw: &RawAcquire) -> Result<RawAnswer, Error> {
        let request = request(raw);
        let pool = |fair: &FairAsk| (request.ledgers[fair.pool].key.clone(), fair.place);
        let wanted = InspectRequest {
            ledgers: request.ledgers.iter().map(|asked| (asked.key.clone(), asked.window_ms)).collect(),
            pools: request.fair.iter().map(pool).collect(),
            slots: request.slots.iter().map(|asked| asked.key.clone()).collect(),
        };
        let seen = self.0.inspect(org, &wanted).await?;
        Ok(raw_answer(MemoryStore::foresee(&request, &seen)))
    }

    /// Settles a batch.
    pub async fn settle(&self, org: &str, requests: &[RawSettle]) -> Vec<Result<RawSettled, Error>> {
        let requests: Vec<_> = requests.iter().map(settle_request).collect();
        let settled = self.0.settle(org, &requests).await;
        let name = |settled| match settled {
            Settled::Now => "now",
            Settled::Before => "before",
            Settled::Absent => "absent",
            Settled::LeaseLost => "lost",
        };
        settled.into_iter().map(|settled| settled.map(name)).collect()
    }

    /// The store's time, and what each ledger holds.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn entries(&self, org: &str, ledgers: &[RawLedger]) -> Result<(u64, Vec<RawEntries>), Error> {
        let request = InspectRequest { ledgers: ledger_keys(ledgers), ..InspectRequest::default() };
        let seen = self.0.inspect(org, &request).await?;
        let entries = |contents: Contents| contents.entries.iter().map(|entry| (entry.at, entry.amounts)).collect();
        Ok((seen.now, seen.ledgers.into_iter().map(entries).collect()))
    }

    /// Renews leases: whose slots, and of which reservation; says of each whether it was live.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn renew(&self, org: &str, leases: &[(Option<String>, [u8; 16])]) -> Result<Vec<bool>, Error> {
        let lease = |(user, id): &(Option<String>, [u8; 16])| Lease { slots: slots_key(user), id: ReservationId(*id) };
        self.0.renew(org, &leases.iter().map(lease).collect::<Vec<_>>(), RAW_LEASE_MS).await
    }

    /// A sign of life of a member that joined at this time, or does now (0), or its leave (a lease of 0). Answers when it joined, how many
    /// members there are, and how many have given no sign since.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn beat(&self, org: &str, id: [u8; 16], lease_ms: u64, joined_at: u64) -> Result<[u64; 3], Error> {
        let Membership { joined_at, members, unaware } = self.0.beat(org, Beat { id, lease_ms, joined_at }).await?;
        Ok([joined_at, members, unaware])
    }

    /// Sets a control, or removes it; says whether anything changed.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn govern(&self, org: &str, id: &str, text: Option<&str>, after_ms: Option<u64>) -> Result<bool, Error> {
        let (id, control) = (id.to_owned(), text.map(str::to_owned));
        let (by, manner) = ("test".to_owned(), Manner::Decided);
        self.0.govern(org, &Governed { what: id.clone(), id, control, after_ms, by, manner }).await
    }

    /// Sets a control as an upstream's hint does, which only extends it; says whether anything changed.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn hint(&self, org: &str, id: &str, text: &str, after_ms: u64) -> Result<bool, Error> {
        let (id, control) = (id.to_owned(), Some(text.to_owned()));
        let (by, manner) = ("test".to_owned(), Manner::Hinted);
        self.0.govern(org, &Governed { what: id.clone(), id, control, after_ms: Some(after_ms), by, manner }).await
    }

    /// The version of the controls, and their texts, each with when it expires.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn controls(&self, org: &str) -> Result<(u64, RawControls), Error> {
        let stored = self.0.controls(org, 0).await?;
        let mut controls = stored.controls;
        controls.sort();
        Ok((stored.version, controls))
    }

    /// Holds what others use of one resource of a ledger, by its place, as the answer to a call told that was admitted `at` this time, when
    /// the ledger held `used`: upstream had counted so much. Answers what is held now; `None` if nothing new was told.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn observe(&self, org: &str, ledger: &RawLedger, told: &RawTold) -> Result<Option<[u64; 2]>, Error> {
        let RawTold { place, counted, used, at, limit, lacking } = *told;
        let told = Told { place, counted, used, at, limit, lacking };
        let request = ObserveRequest { ledger: key(ledger), window_ms: ledger.window_ms, told };
        Ok(self.0.observe(org, &request).await?.map(|held| [held.before, held.now]))
    }

    /// Empties the past of ledgers.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn reset(&self, org: &str, ledgers: &[RawLedger]) -> Result<(), Error> {
        self.0.reset(org, &ledger_keys(ledgers)).await
    }
}

/// Texts of controls, and when each expires.
pub type RawControls = Vec<(String, Option<u64>)>;

/// Times and amounts.
pub type RawEntries = Vec<(u64, [u64; 3])>;

fn key(ledger: &RawLedger) -> LedgerKey {
    LedgerKey::new(ledger.window_ms, None, ledger.user.as_deref().map(|user| ("user", user)))
}

fn slots_key(user: &Option<String>) -> SlotsKey {
    SlotsKey::new(user.as_deref().map(|user| ("user", user)))
}

fn ledger_keys(ledgers: &[RawLedger]) -> Vec<(LedgerKey, u64)> {
    ledgers.iter().map(|ledger| (key(ledger), ledger.window_ms)).collect()
}

fn request(raw: &RawAcquire) -> AcquireRequest {
    let asked = |asked: &RawAsk| {
        let bounds = std::array::from_fn(|r| match asked.limits[r] {
            Some(limit) if asked.amounts[r] > 0 => limit.saturating_sub(asked.amounts[r]),
            _ => UNBOUNDED,
        });
        let further =
            (0..3).filter_map(|r| Some(2 * asked.ledger.window_ms * asked.amounts[r] / asked.limits[r]?.max(1))).max();
        let ask = Ask { amounts: asked.amounts, bounds, horizon_ms: asked.ledger.window_ms + further.unwrap_or(0) };
        AskedLedger { key: key(&asked.ledger), window_ms: asked.ledger.window_ms, ask }
    };
    let fair = |fair: &RawFair| FairAsk {
        pool: fair.pool,
        user: fair.user,
        place: fair.place,
        limit: fair.limit,
        member: (fair.weight, fair.name.as_str().into()),
    };
    AcquireRequest {
        id: ReservationId(raw.id),
        ledgers: raw.asked.iter().map(asked).collect(),
        fair: raw.fair.iter().map(fair).collect(),
        slots: raw.slots.iter().map(|(user, amount)| AskedSlots { key: slots_key(user), amount: *amount }).collect(),
        lease_ms: RAW_LEASE_MS,
        controls: raw.controls,
        is_blocked: raw.is_blocked,
        lost_at: 0,
        notes: match raw.fair.first().map_or(0, |fair| fair.notes) {
            0 => Notes::Nobody,
            1 => Notes::Heavy,
            _ => Notes::User,
        },
        home: raw.home,
        max_wait_ms: raw.max_wait_ms,
        moves_up: raw.moves_up,
        repeats: raw.moves_up,
    }
}

fn raw_answer(answer: crate::store::Answer) -> RawAnswer {
    let verdict = match answer.verdict {
        Verdict::Admitted { at } => RawVerdict::Admitted { at },
        Verdict::Denied { at, setter, short } => RawVerdict::Denied { at, setter, short },
        Verdict::Released => RawVerdict::Released,
        Verdict::Mismatch => RawVerdict::Mismatch,
        Verdict::Stale => RawVerdict::Stale,
        Verdict::Lost => RawVerdict::Lost,
        Verdict::Full { slots, at } => RawVerdict::Full { slots, at },
    };
    let used = answer.ledgers.iter().map(|ledger| ledger.used).collect();
    RawAnswer {
        verdict,
        now: answer.now,
        used,
        last_at: answer.ledgers.iter().map(|ledger| ledger.last_at).collect(),
        standings: answer.standings.iter().map(|standing| (standing.heavy, standing.share)).collect(),
        token: answer.token,
        in_flight: answer.in_flight,
    }
}

fn settle_request(raw: &RawSettle) -> SettleRequest {
    let settled = |(ledger, estimate, actual): &(RawLedger, [u64; 3], [u64; 3])| SettledLedger {
        key: key(ledger),
        window_ms: ledger.window_ms,
        estimate: *estimate,
        actual: *actual,
    };
    SettleRequest {
        id: ReservationId(raw.id),
        ending: match (raw.frees, raw.releases) {
            (true, _) => Ending::Free,
            (false, true) => Ending::Release,
            (false, false) => Ending::Commit,
        },
        made_at: raw.made_at,
        ledgers: raw.charges.iter().map(settled).collect(),
        home: raw.home,
        slots: raw.slots.iter().map(slots_key).collect(),
        checks_leases: raw.checks_leases,
    }
}
