//! An admitted call's handle.
//!
//! Invariant: a permit carries its keys, estimate and cost, whatever the policy says by the time it is settled. Dropped, it keeps its
//! charge and needs no runtime.

use std::{fmt, sync::Arc};

use tracing::Instrument;

use crate::{
    cost::Cost,
    decision::{Degraded, LimitStatus},
    dispatch::Dispatch,
    error::{Error, ErrorKind},
    failure::{LocalSlots, Posting, Settling},
    lease::{Lease, Watch},
    plan::Plan,
    store::{LedgerState, ReservationId, SettleRequest, Settled},
    telemetry::{self, Verb},
};

/// An admitted call. [`commit`](Self::commit) settles it with what was used, [`release`](Self::release) gives it back; dropping it keeps
/// the charge as estimated, and frees its slot.
#[must_use = "dropping a permit keeps its charge: commit what was used, or release it"]
pub struct Permit {
    reservation: Option<Reservation>,
    cost: Cost,
    at_ms: u64,
    limits: Vec<LimitStatus>,
    ledgers: Vec<LedgerState>,
    /// When the ledgers were so, by the store's time.
    seen_at: u64,
    lease: Option<Lease>,
    degraded: Option<Degraded>,
    /// Of an admission without the store.
    _slots: Option<LocalSlots>,
}

/// What the ledgers of a call held when it was admitted.
#[derive(Clone, Copy)]
pub(crate) struct Found<'a> {
    pub(crate) org: &'a Arc<str>,
    pub(crate) plan: &'a Arc<Plan>,
    pub(crate) ledgers: &'a [LedgerState],
    pub(crate) seen_at: u64,
}

/// What a permit needs to be settled.
#[derive(Clone)]
pub(crate) struct Reservation {
    pub(crate) dispatch: Arc<Dispatch>,
    pub(crate) org: Arc<str>,
    pub(crate) plan: Arc<Plan>,
    pub(crate) id: ReservationId,
    pub(crate) made_at: u64,
    /// Of an admission without the store.
    pub(crate) posting: Option<Arc<Posting>>,
}

impl Permit {
    /// `reservation` is `None` when no limit applies, so that nothing was charged.
    pub(crate) fn new(
        reservation: Option<Reservation>,
        cost: Cost,
        at_ms: u64,
        limits: Vec<LimitStatus>,
        lease: Option<Lease>,
    ) -> Self {
        let (ledgers, seen_at) = (Vec::new(), 0);
        Self { reservation, cost, at_ms, limits, ledgers, seen_at, lease, degraded: None, _slots: None }
    }

    /// The same, with what the ledgers of its plan held at a time of the store.
    pub(crate) fn having_found(mut self, ledgers: Vec<LedgerState>, seen_at: u64) -> Self {
        (self.ledgers, self.seen_at) = (ledgers, seen_at);
        self
    }

    /// What the store found when it decided; `None` where there was nothing to decide, or no store to do so.
    pub(crate) fn found(&self) -> Option<Found<'_>> {
        let reservation = self.reservation.as_ref().filter(|_| self.seen_at > 0)?;
        let Reservation { org, plan, .. } = reservation;
        Some(Found { org, plan, ledgers: &self.ledgers, seen_at: self.seen_at })
    }

    /// The same, of a call that was admitted without the store. Without a `posting` the store never learns of it.
    pub(crate) fn degraded_by(mut self, degraded: Degraded, posting: Option<Arc<Posting>>) -> Self {
        self.degraded = Some(degraded);
        self._slots = posting.as_ref().map(|posting| LocalSlots(Arc::clone(posting)));
        if let Some(reservation) = &mut self.reservation {
            reservation.posting = posting;
        }
        self
    }

    /// Which failure policy admitted the call, where the store did not answer; `None` where the store decided.
    #[must_use]
    pub fn degraded(&self) -> Option<Degraded> {
        self.degraded
    }

    /// The store's time of the admission, in milliseconds since the epoch; of a booking, the time of its place. Where the store did not
    /// answer, the time of this process.
    #[must_use]
    pub fn at_ms(&self) -> u64 {
        self.at_ms
    }

    /// The estimate that is charged.
    #[must_use]
    pub fn cost(&self) -> &Cost {
        &self.cost
    }

    /// Where each limit stood when the call was decided, in policy order. Where the store did not answer, where this process stood with its
    /// share; nothing with [`FailurePolicy::Allow`](crate::FailurePolicy::Allow).
    #[must_use]
    pub fn limits(&self) -> &[LimitStatus] {
        &self.limits
    }

    /// The slot that the call holds while it is under way; `None` where no limit is on `in_flight`, or the store did not answer.
    #[must_use]
    pub fn lease(&self) -> Option<&Lease> {
        self.lease.as_ref()
    }

    /// Changes the charge to what was used, once. A resource that `actual` does not name keeps its estimate. One round trip.
    ///
    /// What was used above the estimate is owed: it may exceed a limit, and admits nothing until it has left the window. A commit after
    /// a window has passed changes nothing in it. A call that was admitted without the store, and of which it does not know yet, is settled
    /// here at once: the store is told later.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) for an amount out of range; otherwise the store's. The charge then stays as
    /// estimated, or may have been settled. [`ErrorKind::LeaseLost`](crate::ErrorKind::LeaseLost) when the call's slot had gone to somebody else:
    /// the charge stays as estimated.
    ///
    /// # Cancel safety
    ///
    /// Once polled, it takes effect even if the future is dropped.
    pub async fn commit(mut self, actual: Cost) -> Result<(), Error> {
        actual.validate()?;
        self.settle(Some(&actual)).instrument(telemetry::verb_span(Verb::Commit)).await
    }

    /// Gives the charge back, for a call that was not made. One round trip.
    ///
    /// # Errors
    ///
    /// The store's. The charge may then still be there; it leaves with its window.
    ///
    /// # Cancel safety
    ///
    /// Once polled, it takes effect even if the future is dropped.
    pub async fn release(mut self) -> Result<(), Error> {
        self.settle(None).instrument(telemetry::verb_span(Verb::Release)).await
    }

    /// Another handle of the same reservation. Whichever settles first, settles it.
    pub(crate) fn twin(&self) -> Self {
        Self {
            reservation: self.reservation.clone(),
            cost: self.cost.clone(),
            at_ms: self.at_ms,
            limits: Vec::new(),
            ledgers: Vec::new(),
            seen_at: 0,
            lease: None,
            degraded: self.degraded,
            _slots: None,
        }
    }

    /// Tells, also once the permit is gone, whether its slot had gone to somebody else; `None` where it takes none.
    pub(crate) fn watch(&self) -> Option<Watch> {
        self.lease.as_ref().map(Lease::watch)
    }

    async fn settle(&mut self, actual: Option<&Cost>) -> Result<(), Error> {
        let Some(reservation) = &self.reservation else { return Ok(()) };
        let request = match reservation.posting.as_ref().map(|posting| posting.settle(actual)) {
            None => {
                let request = reservation.plan.settle_request(reservation.id, Some(reservation.made_at), actual);
                SettleRequest { checks_leases: self.lease.is_some(), ..request }
            }
            Some(Settling::InStore(request)) => request,
            Some(Settling::Here) => {
                telemetry::settled(if actual.is_some() { "commit" } else { "release" });
                return Ok(());
            }
        };
        let settled = reservation.dispatch.settle(&reservation.org, request).await;
        if let (Some(lease), Ok(_)) = (&mut self.lease, &settled) {
            lease.end();
        }
        telemetry::settled(match (&settled, actual) {
            (Ok(Settled::LeaseLost), _) => "lease_lost",
            (Err(_), _) => "error",
            (Ok(_), Some(_)) => "commit",
            (Ok(_), None) => "release",
        });
        match settled? {
            Settled::LeaseLost => {
                Err(Error::new(ErrorKind::LeaseLost, "the lease expired: the slot may have gone to somebody else"))
            }
            Settled::Now | Settled::Before | Settled::Absent => Ok(()),
        }
    }
}

impl fmt::Debug for Permit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Permit").field("cost", &self.cost).field("at_ms", &self.at_ms).finish_non_exhaustive()
    }
}
