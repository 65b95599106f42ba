//! A call under way, as others count it.
//!
//! Invariant: a lease is given up once: with its permit's commit or release, or when it is dropped.

use std::{fmt, sync::Arc};

#[cfg(feature = "redis")]
use tokio::runtime::Handle;

use crate::{
    dispatch::{Beating, Dispatch},
    store::{Ending, ReservationId, SettleRequest, Store},
};

/// The slot that an admitted call holds while it is under way, where the policy says `in_flight`.
///
/// A heartbeat of the limiter renews it. Should the process stop, or lose the store for longer than a lease lives, the slot goes to
/// somebody else, and this lease is lost for good: stop the call then. Where there is one slot, pass the token to whatever the call
/// writes to, and let that refuse tokens smaller than the last it saw; where there are several, a smaller one may be that of a live call.
pub struct Lease {
    dispatch: Arc<Dispatch>,
    org: Arc<str>,
    id: ReservationId,
    token: u64,
    beating: Arc<Beating>,
    #[cfg(feature = "redis")]
    runtime: Option<Handle>,
    ended: bool,
}

impl Lease {
    pub(crate) fn new(
        dispatch: &Arc<Dispatch>,
        org: &Arc<str>,
        id: ReservationId,
        token: u64,
        beating: Arc<Beating>,
    ) -> Self {
        let (dispatch, org) = (Arc::clone(dispatch), Arc::clone(org));
        Self {
            dispatch,
            org,
            id,
            token,
            beating,
            #[cfg(feature = "redis")]
            runtime: Handle::try_current().ok(),
            ended: false,
        }
    }

    /// The fencing token: larger than that of every lease taken before on the same slots.
    #[must_use]
    pub fn token(&self) -> u64 {
        self.token
    }

    /// Whether the slot is still this call's, as far as this process can know.
    #[must_use]
    pub fn is_live(&self) -> bool {
        self.dispatch.leases.is_live(&self.beating)
    }

    /// Returns when the lease is lost: never, if the heartbeat goes on.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future changes nothing.
    pub async fn lost(&self) {
        self.dispatch.leases.lost(&self.beating).await;
    }

    pub(crate) fn watch(&self) -> Watch {
        Watch { dispatch: Arc::clone(&self.dispatch), beating: Arc::clone(&self.beating) }
    }

    /// The slots have been freed, or are lost.
    pub(crate) fn end(&mut self) {
        self.ended = true;
        self.dispatch.leases.leave(&self.org, self.id);
    }
}

/// Knows of a lease whether it was lost.
pub(crate) struct Watch {
    dispatch: Arc<Dispatch>,
    beating: Arc<Beating>,
}

impl Watch {
    /// Whether the lease has expired, as far as this process can know.
    pub(crate) fn is_lost(&self) -> bool {
        !self.dispatch.leases.is_live(&self.beating)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        self.end();
        let free = SettleRequest {
            id: self.id,
            ending: Ending::Free,
            made_at: None,
            ledgers: Vec::new(),
            home: None,
            slots: self.beating.slots().to_vec(),
            checks_leases: false,
        };
        let runtime = match &*self.dispatch.store {
            Store::Memory(_) => None,
            #[cfg(feature = "redis")]
            Store::Redis(_) => self.runtime.as_ref(),
        };
        self.dispatch.give_back(&self.org, free, runtime);
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease").field("token", &self.token).field("is_live", &self.is_live()).finish_non_exhaustive()
    }
}
