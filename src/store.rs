//! The one seam between limiting and storage.
//!
//! Invariant: a store answers a whole request in one atomic step. There is no check that a caller could pair with a later update; that
//! pair is how limits get overrun. Requests of one batch are decided in order, as if one after the other at the same instant.
//!
//! Lacks policies and subjects: a request names ledgers and how full they may be, whatever limits that stands for.

pub(crate) mod governed;
pub(crate) mod inspection;
pub(crate) mod keyspace;
pub(crate) mod loss;
pub(crate) mod member;
pub(crate) mod memory;
#[cfg(feature = "redis")]
pub(crate) mod redis;

use crate::{
    calendar::{
        Amounts, Ask, Held, Told,
        fair::{Member, Standing},
    },
    error::Error,
    store::{
        governed::{Governed, StoredControls},
        inspection::{InspectRequest, Inspected, Open, Owner},
        keyspace::{LedgerKey, SlotsKey, SubjectKey},
        loss::Loss,
        memory::MemoryStore,
    },
};

/// Names an admission: a repeat with the same id returns the first answer.
///
/// Unique by construction: a UUID of version 7, a time and 42 bits of a counter that starts anywhere in each millisecond; the last four bytes
/// say whose it is. Two processes that make one for the same owner in the same millisecond come to the same once in 2^41 times.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ReservationId(pub(crate) [u8; 16]);

impl ReservationId {
    /// A new one, of a call of this owner.
    pub(crate) fn new(owner: Owner) -> Self {
        let mut id = uuid::Uuid::now_v7().into_bytes();
        id[12..].copy_from_slice(&owner.0);
        Self(id)
    }

    /// Whose call it names.
    pub(crate) fn owner(&self) -> Owner {
        let [.., a, b, c, d] = self.0;
        Owner([a, b, c, d])
    }
}

/// One ledger of a request.
#[derive(Clone, Debug)]
pub(crate) struct AskedLedger {
    pub(crate) key: LedgerKey,
    pub(crate) window_ms: u64,
    pub(crate) ask: Ask,
}

/// A pool of a request that is shared fairly among users: one resource of one ledger.
#[derive(Clone, Debug)]
pub(crate) struct FairAsk {
    /// The pool, among the ledgers asked.
    pub(crate) pool: usize,
    /// What the user has of it, among the ledgers asked.
    pub(crate) user: usize,
    /// The resource's place in both.
    pub(crate) place: usize,
    pub(crate) limit: u64,
    pub(crate) member: Member,
}

/// Slots for calls under way, of which a request takes one.
#[derive(Clone, Debug)]
pub(crate) struct AskedSlots {
    pub(crate) key: SlotsKey,
    pub(crate) amount: u64,
}

/// What the pools of a request note of its user.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Notes {
    /// It was noted just now.
    #[default]
    Nobody,
    /// The user, if heavy, as such.
    Heavy,
    /// The user, and if heavy as such.
    User,
}

/// Asks for a charge on several ledgers, all or nothing.
#[derive(Clone, Debug)]
pub(crate) struct AcquireRequest {
    pub(crate) id: ReservationId,
    pub(crate) ledgers: Vec<AskedLedger>,
    /// Pools that are shared fairly.
    pub(crate) fair: Vec<FairAsk>,
    pub(crate) notes: Notes,
    /// Slots of which it takes one each when its call starts, all or none.
    pub(crate) slots: Vec<AskedSlots>,
    /// How long a lease lives unless it is renewed.
    pub(crate) lease_ms: u64,
    /// The controls that it was planned by: their version, and until when they are those.
    pub(crate) controls: (u64, Option<u64>),
    /// They block its subject: it only asks whether they are still those.
    pub(crate) is_blocked: bool,
    /// The loss of data that it was planned by: see [`Loss::at`]; 0 if by none.
    #[cfg_attr(not(feature = "redis"), expect(dead_code, reason = "the embedded store loses nothing"))]
    pub(crate) lost_at: u64,
    /// The ledger whose entries carry the reservations, if one is fit for it: see [`keyspace`].
    pub(crate) home: Option<usize>,
    /// How far ahead a place may lie; 0 asks for now or nothing.
    pub(crate) max_wait_ms: u64,
    /// Asks again for a place already promised, to have it moved up.
    pub(crate) moves_up: bool,
    /// A request with this id has been answered before.
    pub(crate) repeats: bool,
}

impl AcquireRequest {
    /// How long the record of a reservation lives after its place: the longest window charged, at least 60 s, longer than any retry.
    pub(crate) fn record_ms(&self) -> u64 {
        self.ledgers.iter().map(|ledger| ledger.window_ms).max().unwrap_or(0).max(60_000)
    }
}

/// Where one ledger of a request stands after the decision.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct LedgerState {
    /// What the window that ends now holds.
    pub(crate) used: Amounts,
    /// The last time charged or booked; 0 if there is none.
    pub(crate) last_at: u64,
}

/// What was decided about one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Charged at this time: now, an earlier time if the id was known, or a later one, a booking.
    Admitted {
        /// When.
        at: u64,
    },
    /// Nothing was charged.
    Denied {
        /// When it fits if nobody else acts.
        at: u64,
        /// The ledger that sets that time.
        setter: usize,
        /// Per ledger, which resources do not fit one millisecond before.
        short: Vec<[bool; 3]>,
    },
    /// As many calls are under way as may be. Nothing was charged; a place that was booked stays.
    Full {
        /// Which of the slots asked are taken.
        slots: usize,
        /// When the next lease expires, if nobody renews or frees one.
        at: u64,
    },
    /// The controls of the org are others by now. Nothing changed.
    Stale,
    /// The data of the org were lost since the call was planned, or its limits are those of before a loss. Nothing was charged.
    #[cfg_attr(not(feature = "redis"), expect(dead_code, reason = "the embedded store loses nothing"))]
    Lost,
    /// The id was released before.
    Released,
    /// The id was used for another cost.
    Mismatch,
}

/// The answer to one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) verdict: Verdict,
    /// The store's time of the decision.
    pub(crate) now: u64,
    /// One per ledger asked.
    pub(crate) ledgers: Vec<LedgerState>,
    /// One per pool shared fairly; none for a repeat.
    pub(crate) standings: Vec<Standing>,
    /// The fencing token of the leases; 0 if no slot was taken.
    pub(crate) token: u64,
    /// Per slots asked, how many calls are under way.
    pub(crate) in_flight: Vec<u64>,
    /// A try before this one got no answer, and may be executed still.
    pub(crate) after_silence: bool,
}

#[cfg(feature = "redis")]
impl Answer {
    /// An answer that decides nothing.
    fn lost(now: u64) -> Self {
        let (ledgers, standings, in_flight) = Default::default();
        Self { verdict: Verdict::Lost, now, ledgers, standings, token: 0, in_flight, after_silence: false }
    }
}

/// One ledger of a charge that is settled.
#[derive(Clone, Debug)]
pub(crate) struct SettledLedger {
    pub(crate) key: LedgerKey,
    pub(crate) window_ms: u64,
    pub(crate) estimate: Amounts,
    /// Nothing, for a release.
    pub(crate) actual: Amounts,
}

/// What ends a reservation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// The call was made: the charge becomes the actual usage.
    Commit,
    /// The call is not made: the charge is given back.
    Release,
    /// The charge stays as estimated; only the slots are freed.
    Free,
}

/// Settles a reservation, once.
#[derive(Clone, Debug)]
pub(crate) struct SettleRequest {
    pub(crate) id: ReservationId,
    pub(crate) ending: Ending,
    /// When the reservation was made, as the store said; `None` if its answer was never seen.
    pub(crate) made_at: Option<u64>,
    pub(crate) ledgers: Vec<SettledLedger>,
    /// See [`AcquireRequest::home`].
    #[cfg_attr(not(feature = "redis"), expect(dead_code, reason = "the embedded store keeps records by themselves"))]
    pub(crate) home: Option<usize>,
    /// Slots that are freed.
    pub(crate) slots: Vec<SlotsKey>,
    /// Changes nothing if a lease has expired.
    pub(crate) checks_leases: bool,
}

/// The lease of a reservation in one set of slots.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Lease {
    pub(crate) slots: SlotsKey,
    pub(crate) id: ReservationId,
}

impl SettleRequest {
    /// See [`AcquireRequest::record_ms`].
    pub(crate) fn record_ms(&self) -> u64 {
        self.ledgers.iter().map(|ledger| ledger.window_ms).max().unwrap_or(0).max(60_000)
    }

    /// Whether less was used than estimated, in any ledger.
    pub(crate) fn gives_back(&self) -> bool {
        self.ledgers
            .iter()
            .any(|ledger| ledger.actual.iter().zip(ledger.estimate).any(|(actual, estimate)| *actual < estimate))
    }
}

/// What a settlement found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Settled {
    /// It ended the reservation.
    Now,
    /// The reservation had ended before; nothing changed.
    Before,
    /// There was none: it is too old, or was never made. A release leaves a tombstone, so that a late acquire is refused.
    Absent,
    /// A lease has expired: somebody else may have its slot. Nothing changed.
    LeaseLost,
}

/// Asks to hold what others use of a pool that an upstream counts, as far as the answer to one call has told.
#[derive(Clone, Debug)]
pub(crate) struct ObserveRequest {
    pub(crate) ledger: LedgerKey,
    pub(crate) window_ms: u64,
    pub(crate) told: Told,
}

/// Where ledgers live.
#[derive(Debug)]
pub(crate) enum Store {
    Memory(MemoryStore),
    #[cfg(feature = "redis")]
    Redis(Box<redis::RedisStore>),
}

impl Store {
    /// Decides requests of one org in order. One round trip.
    pub(crate) async fn acquire(&self, org: &str, requests: &[AcquireRequest]) -> Vec<Result<Answer, Error>> {
        match self {
            Self::Memory(store) => store.acquire(org, requests),
            #[cfg(feature = "redis")]
            Self::Redis(store) => store.acquire(org, requests).await,
        }
    }

    /// The last loss of the org's data, as far as this process knows. No round trip.
    #[cfg_attr(not(feature = "redis"), expect(unused_variables, reason = "the embedded store loses nothing"))]
    pub(crate) fn loss(&self, org: &str) -> Option<Loss> {
        match self {
            Self::Memory(_) => None,
            #[cfg(feature = "redis")]
            Self::Redis(store) => store.loss(org),
        }
    }

    /// Settles reservations of one org in order. One round trip.
    pub(crate) async fn settle(&self, org: &str, requests: &[SettleRequest]) -> Vec<Result<Settled, Error>> {
        match self {
            Self::Memory(store) => store.settle(org, requests),
            #[cfg(feature = "redis")]
            Self::Redis(store) => store.settle(org, requests).await,
        }
    }

    /// Lets live leases of one org live on; says of each whether it was live. One round trip.
    pub(crate) async fn renew(&self, org: &str, leases: &[Lease], lease_ms: u64) -> Result<Vec<bool>, Error> {
        match self {
            Self::Memory(store) => Ok(store.renew(org, leases, lease_ms)),
            #[cfg(feature = "redis")]
            Self::Redis(store) => store.renew(org, leases, lease_ms).await,
        }
    }

    /// Changes a control of one org, from the next decision on; says whether anything changed. One round trip.
    pub(crate) async fn govern(&self, org: &str, change: &Governed) -> Result<bool, Error> {
        match self {
            Self::Memory(store) => store.govern(org, change),
            #[cfg(feature = "redis")]
            Self::Redis(store) => store.govern(org, change).await,
        }
    }

    /// The controls of one org, and the last `entries` of its audit trail. One round trip.
    pub(crate) async fn controls(&self, org: &str, entries: u16) -> Result<StoredControls, Error> {
        match self {
            Self::Memory(store) => Ok(store.controls(org, entries)),
            #[cfg(feature = "redis")]
            Self::Redis(store) => store.controls(org, entries).await,
        }
    }

    /// Reads what one org has; changes nothing. One round trip.
    pub(crate) async fn inspect(&self, org: &str, request: &InspectRequest) -> Result<Inspected, Error> {
        match self {
            Self::Memory(store) => Ok(store.inspect(org, request)),
            #[cfg(feature = "redis")]
            Self::Redis(store) => store.inspect(org, request).await,
        }
    }

    /// Reservations of one org that nobody has settled and that no ledger shows, those of one owner or all of them, made within the last
    /// `back_ms`. A round trip per 64 seconds looked at, or per 1,000 reservations
    /// of one second or more.
    #[cfg_attr(not(feature = "redis"), expect(unused_variables, reason = "the embedded store looks at all it has"))]
    pub(crate) async fn open(&self, org: &str, owner: Option<Owner>, back_ms: u64) -> Result<Vec<Open>, Error> {
        match self {
            Self::Memory(store) => Ok(store.open(org, owner)),
            #[cfg(feature = "redis")]
            Self::Redis(store) => store.open(org, owner, back_ms).await,
        }
    }

    /// Whose the live leases of a set of slots are. A round trip per 1,000 of them.
    pub(crate) async fn holders(&self, org: &str, slots: &SlotsKey) -> Result<Vec<Owner>, Error> {
        match self {
            Self::Memory(store) => Ok(store.holders(org, slots)),
            #[cfg(feature = "redis")]
            Self::Redis(store) => store.holders(org, slots).await,
        }
    }

    /// Keeps subjects of an org, and the org, on the list of those that operators see, for at least `life_ms`. Two round trips.
    #[cfg(feature = "redis")]
    pub(crate) async fn note(&self, org: &str, subjects: &[SubjectKey], life_ms: u64) -> Result<(), Error> {
        match self {
            Self::Memory(store) => {
                store.note(org, subjects, life_ms);
                Ok(())
            }
            #[cfg(feature = "redis")]
            Self::Redis(store) => store.note(org, subjects, life_ms).await,
        }
    }

    /// The orgs on the list, sorted. A round trip per 1,000 of them.
    pub(crate) async fn orgs(&self) -> Result<Vec<String>, Error> {
        match self {
            Self::Memory(store) => Ok(store.orgs()),
            #[cfg(feature = "redis")]
            Self::Redis(store) => store.orgs().await,
        }
    }

    /// The subjects of one org on the list, sorted. A round trip per 1,000 of them.
    pub(crate) async fn subjects(&self, org: &str) -> Result<Vec<SubjectKey>, Error> {
        match self {
            Self::Memory(store) => Ok(store.subjects(org)),
            #[cfg(feature = "redis")]
            Self::Redis(store) => store.subjects(org).await,
        }
    }

    /// Holds what others use of a pool of one org; `None` if nothing new was told. One round trip.
    pub(crate) async fn observe(&self, org: &str, request: &ObserveRequest) -> Result<Option<Held>, Error> {
        match self {
            Self::Memory(store) => Ok(store.observe(org, request)),
            #[cfg(feature = "redis")]
            Self::Redis(store) => store.observe(org, request).await,
        }
    }

    /// Empties the past of ledgers of one org, each with its window; booked places stay. One round trip.
    pub(crate) async fn reset(&self, org: &str, ledgers: &[(LedgerKey, u64)]) -> Result<(), Error> {
        match self {
            Self::Memory(store) => {
                store.reset(org, ledgers);
                Ok(())
            }
            #[cfg(feature = "redis")]
            Self::Redis(store) => store.reset(org, ledgers).await,
        }
    }
}
