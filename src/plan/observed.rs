//! Which limit of a call counts a pool as its upstream does.

use std::sync::Arc;

use crate::{
    plan::{Check, Plan},
    resource::Resource,
    store::keyspace::LedgerKey,
};

/// A limit that an upstream enforces as well, and where it is counted.
#[derive(Clone, Debug)]
pub(crate) struct UpstreamPool {
    pub(crate) limit: Arc<str>,
    /// What the limit states, before its margin; or what controls have made of it.
    pub(crate) amount: u64,
    /// What it enforces.
    pub(crate) enforced: u64,
    pub(crate) window_ms: u64,
    pub(crate) key: LedgerKey,
    /// The ledger, among those of the plan.
    pub(crate) ledger: usize,
    /// The place of the resource in it.
    pub(crate) place: usize,
}

impl Plan {
    /// The limit on `resource` over this window that counts as an upstream does, by org and model alone, and denies. Of one by org and one by
    /// model the latter: the former is the org's own bound on several pools. Of two in one ledger that which states most.
    pub(crate) fn upstream_pool(&self, resource: &Resource, window_ms: u64) -> Option<UpstreamPool> {
        let rule = |check: &Check| &self.policy.rules[check.rule];
        let stated = |check: &Check| {
            let rule = rule(check);
            // a control replaces what is enforced, and says nothing of the margin
            if check.in_full == rule.amount { rule.stated } else { check.in_full }
        };
        let counts = |check: &&Check| {
            let rule = rule(check);
            let is_asked = rule.resource == *resource && rule.window_ms == window_ms;
            is_asked && rule.counts_as_upstream() && !check.shadow && !check.candidate
        };
        let check = self.checks.iter().filter(counts).max_by_key(|check| (rule(check).scope.len(), stated(check)))?;
        Some(UpstreamPool {
            limit: Arc::clone(&rule(check).name),
            amount: stated(check),
            enforced: check.in_full,
            window_ms,
            key: self.ledgers[check.ledger].asked.key.clone(),
            ledger: check.ledger,
            place: check.place,
        })
    }
}
