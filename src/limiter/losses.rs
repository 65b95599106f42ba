//! What a call does about a loss of its org's data: it is planned by what limits admit since, and held back where they admit too little.
//!
//! Invariant: a call is admitted by no amount larger than what has grown by the time of its decision.

use std::sync::Arc;

use super::{Asking, Limiter};
use crate::{
    control::Controls,
    decision::Denial,
    error::Error,
    plan::{Growth, Plan},
    store::loss::Loss,
};

impl Limiter {
    /// What a loss makes of the amounts of an org, as far as this process knows of one.
    pub(super) fn growth(&self, org: &str) -> Option<Growth> {
        self.growth_since(self.store().loss(org))
    }

    pub(super) fn growth_since(&self, loss: Option<Loss>) -> Option<Growth> {
        Growth::new(self.core.state_loss, loss, self.core.dispatch.leases.lease_ms)
    }
}

impl Asking<'_> {
    /// Plans by how far the amounts have grown by now.
    pub(super) fn regrow(&mut self) -> Result<(), Error> {
        self.replan(&self.plan.current_controls(), self.limiter.growth(&self.org))
    }

    pub(super) fn replan(&mut self, controls: &Arc<Controls>, growth: Option<Growth>) -> Result<(), Error> {
        // the policy stays: it says where a place that is booked is charged
        let (policy, cost) = (self.plan.policy(), self.plan.cost().clone());
        self.plan = Arc::new(Plan::new(policy, self.subject, cost, &self.limiter.class, controls, growth)?);
        Ok(())
    }

    /// The denial of a call that a loss holds back at `now`, with where the limits stand.
    pub(super) async fn held(&self, now: u64, max_wait_ms: u64) -> Result<Option<Denial>, Error> {
        let Some(held) = self.plan.held(now) else { return Ok(None) };
        let seen = self.dispatch.store.inspect(&self.org, &self.plan.inspect_request()).await?;
        Ok(Some(self.plan.denial_held(held, &self.foresee(&seen), max_wait_ms)))
    }
}
