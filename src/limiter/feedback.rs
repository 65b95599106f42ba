//! What an upstream says of its own limits, shared with the fleet: pauses that it asks for, and what others use of its quota.
//!
//! Invariant: feedback only holds calls back. It admits nothing that a limit refuses.

use std::{collections::HashSet, sync::Arc, time::Duration};

use parking_lot::Mutex;

use super::Limiter;
use crate::{
    calendar::{Held, Told},
    clock::millis,
    control::Control,
    cost::Cost,
    error::Error,
    permit::Permit,
    plan::{Plan, UpstreamPool},
    resource::Resource,
    store::{
        LedgerState, ObserveRequest,
        governed::{Governed, Manner},
    },
    subject::Subject,
    telemetry,
};

/// The longest pause that an upstream is given at once. A longer one is asked for again.
const COOL_DOWN_MAX: Duration = Duration::from_secs(15 * 60);
/// Who sets the cool-downs that an upstream asks for.
const UPSTREAM: &str = "upstream";

/// How much later than its store has looked a call may start for what was found to be of use.
const FOUND_BEFORE_MS_MAX: u64 = 250;

/// So many doubts are told of at most: the log has been told enough.
const DOUBTS_MAX: usize = 1_024;

/// What an upstream has answered to a call: how much of its quota remains. Made while the call has its permit, told when the answer is there.
///
/// ```
/// # async fn example(limiter: allotment::Limiter, permit: allotment::Permit) -> Result<(), allotment::Error> {
/// use allotment::{Cost, Observation};
///
/// // x-ratelimit-limit-images: 250, x-ratelimit-remaining-images: 12
/// let observation = Observation::new(&permit, "images", 12).out_of(250);
/// permit.commit(Cost::images(1)).await?;
/// let others = limiter.observe(observation).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
#[must_use = "an observation does nothing until a limiter is told"]
pub struct Observation {
    resource: Resource,
    said: Said,
    limit: Option<u64>,
    window: Duration,
    call: Option<Call>,
}

/// What upstream says of its quota.
#[derive(Clone, Copy, Debug)]
enum Said {
    Remaining(u64),
    Counted(u64),
}

/// What the ledgers of a call held when it was admitted.
#[derive(Clone, Debug)]
struct Call {
    org: Arc<str>,
    plan: Arc<Plan>,
    ledgers: Vec<LedgerState>,
    seen_at: u64,
    /// What is charged of the resource after that.
    yet_to_come: u64,
}

impl Observation {
    /// After this call, upstream had so much of `resource` left for the org and the model: over 60 s, unless it is told otherwise.
    ///
    /// Of a call that it refused, use [`counted`](Self::counted): what remains cannot say by how much it was too much.
    pub fn new(permit: &Permit, resource: impl Into<Resource>, remaining: u64) -> Self {
        Self::having_said(permit, resource.into(), Said::Remaining(remaining))
    }

    /// With this call, upstream has counted so much of `resource`, over 60 s unless it is told otherwise. Of a call that it refused, what it
    /// would have counted: used and requested, which is more than its limit. Tell what that is by [`out_of`](Self::out_of).
    pub fn counted(permit: &Permit, resource: impl Into<Resource>, counted: u64) -> Self {
        Self::having_said(permit, resource.into(), Said::Counted(counted))
    }

    fn having_said(permit: &Permit, resource: Resource, said: Said) -> Self {
        let found = permit.found().filter(|found| permit.at_ms() <= found.seen_at + FOUND_BEFORE_MS_MAX);
        let call = found.map(|found| Call {
            org: Arc::clone(found.org),
            plan: Arc::clone(found.plan),
            ledgers: found.ledgers.to_vec(),
            seen_at: found.seen_at,
            yet_to_come: if permit.at_ms() > found.seen_at { permit.cost().of(&resource) } else { 0 },
        });
        Self { resource, said, limit: None, window: Duration::from_secs(60), call }
    }

    /// What upstream says that its limit is. Where it is below what the policy states, that is logged once.
    pub fn out_of(mut self, limit: u64) -> Self {
        self.limit = Some(limit);
        self
    }

    /// The window of upstream's limit. Default: 60 s.
    pub fn window(mut self, window: Duration) -> Self {
        self.window = window;
        self
    }

    /// What it tells of which limit; `None` if none counts as upstream does.
    fn told(&self) -> Option<(&Call, UpstreamPool, Told)> {
        let call = self.call.as_ref()?;
        let pool = call.plan.upstream_pool(&self.resource, millis(self.window))?;
        let limit = self.limit.unwrap_or(pool.amount);
        let counted = match self.said {
            Said::Remaining(remaining) => pool.amount.saturating_sub(remaining),
            Said::Counted(counted) => pool.amount.saturating_add(counted).saturating_sub(limit),
        };
        let counted = counted.min(Cost::AMOUNT_MAX);
        let used = call.ledgers.get(pool.ledger).map_or(0, |state| state.used[pool.place]) + call.yet_to_come;
        let lacking = pool.amount.saturating_sub(limit);
        let told = Told { place: pool.place, counted, used, at: call.seen_at, limit: pool.enforced, lacking };
        Some((call, pool, told))
    }

    /// Whether upstream counts more than the ledger held when the call was admitted; `None` if no limit counts as upstream does.
    #[cfg(feature = "openai")]
    pub(crate) fn is_news(&self) -> Option<bool> {
        self.told().map(|(_, _, told)| told.counted > told.used)
    }
}

/// Limits whose amounts are above what an upstream says. Of orgs that state the same one is named, as none is in the log.
#[derive(Debug, Default)]
pub(super) struct Doubted(Mutex<HashSet<Doubt>>);

#[derive(Debug, PartialEq, Eq, Hash)]
struct Doubt {
    limit: Arc<str>,
    resource: Resource,
    stated: u64,
    upstream: u64,
}

impl Doubted {
    fn warn_once(&self, doubt: Doubt) {
        let Doubt { limit, resource, stated, upstream } = &doubt;
        let mut known = self.0.lock();
        if known.len() < DOUBTS_MAX && !known.contains(&doubt) {
            telemetry::states_too_much(limit, resource, *stated, *upstream);
            known.insert(doubt);
        }
    }
}

impl Limiter {
    /// Takes into account what others use of an upstream's quota, as far as upstream has told: whoever shares it without asking this limiter.
    /// Says how much is held for them; `None` if nothing new was told, or no limit counts as upstream does. One round trip.
    ///
    /// That is what upstream had counted, less what the fleet had used by the time of the call, or uses by now if that is more, and a quarter
    /// besides, but at most half of what they leave. It rises at once, or a 64th of a window after the last change, and falls by a 64th of what is
    /// left, and once more for each 64th of a window since the last answer. The ledger holds it, in place of what it held for others before, for a
    /// window from now on; while calls wait in line, for two, so that places behind the first leave room for others, too. Tell of each answer, or
    /// of one a second, and it follows what they do. What the fleet uses by itself adds nothing, however late an answer comes, and two processes
    /// that see the same stranger hold it once.
    ///
    /// It counts in the limit on this resource and window that holds the call, is counted by org and model alone, and denies; of one by org
    /// and one by model in the latter. Smoothing does not know of it.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Closed`](crate::ErrorKind::Closed) after a shutdown; otherwise the store's: nothing is decided without it.
    ///
    /// # Cancel safety
    ///
    /// Dropped before its answer, it may have taken effect. It does no harm to tell the same again.
    pub async fn observe(&self, observation: Observation) -> Result<Option<u64>, Error> {
        self.expect_open()?;
        let Some((call, pool, told)) = observation.told() else { return Ok(None) };
        let Observation { resource, limit, .. } = &observation;
        let UpstreamPool { limit: name, amount, window_ms, key, .. } = pool;
        if let Some(upstream) = limit.filter(|limit| *limit < amount) {
            let resource = resource.clone();
            self.core.doubted.warn_once(Doubt { limit: name, resource, stated: amount, upstream });
        }
        let request = ObserveRequest { ledger: key, window_ms, told };
        let Some(Held { before, now }) = self.store().observe(&call.org, &request).await? else { return Ok(None) };
        if now != before {
            telemetry::observed(resource, now.saturating_sub(before), now);
        }
        Ok(Some(now))
    }

    /// Starts no call of this subject's model that asks anything of `resource` for so long, in the whole fleet: an upstream has said when to
    /// come back. Of a subject without a model, none of its org. One round trip.
    ///
    /// It only extends: where a cool-down is there that ends later, or less than a tenth of this one or 100 ms sooner, nothing changes; of one
    /// that an operator has set the reason stays. At most 15 minutes are taken. It is a [`Control::cool_down`], so that operators see it and
    /// may lift it, but it is not written into the audit trail. A call that no limit holds is not held by it.
    ///
    /// Calls that wait in line wait over it if it ends within their patience, and then start within a second of each other.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) for a subject out of range, for `in_flight`, for less than a millisecond, and where
    /// the org has 1,000 controls; [`ErrorKind::Closed`](crate::ErrorKind::Closed) after a shutdown; otherwise the store's.
    pub async fn cool_down(
        &self,
        subject: &Subject,
        resource: impl Into<Resource>,
        lasting: Duration,
    ) -> Result<(), Error> {
        self.expect_open()?;
        subject.validate()?;
        let (resource, pause) = (resource.into(), lasting.min(COOL_DOWN_MAX));
        let control = Control::cool_down(resource.clone()).because(UPSTREAM);
        let control = match subject.value("model") {
            Some(model) => control.on("model", model),
            None => control,
        };
        control.validate()?;
        if millis(pause) == 0 {
            return Err(Error::invalid(format!("cool-down of {lasting:?}: allowed are 1 ms and more")));
        }
        let (id, text) = (control.id(), control.to_text()?);
        let change = Governed {
            what: id.clone(),
            id,
            control: Some(text),
            after_ms: Some(millis(pause)),
            by: UPSTREAM.to_owned(),
            manner: Manner::Hinted,
        };
        if self.store().govern(subject.value("org").unwrap_or_default(), &change).await? {
            telemetry::cools_down(&resource, pause);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_doubted_once_per_resource_and_amount_and_not_without_end() {
        let doubted = Doubted::default();
        let doubts = |resource: &str, stated| {
            doubted.warn_once(Doubt { limit: "pool".into(), resource: resource.into(), stated, upstream: 1 });
            doubted.0.lock().len()
        };
        let told =
            [("images", 2), ("images", 2), ("tokens", 2), ("images", 3)].map(|(name, stated)| doubts(name, stated));
        assert_eq!(told, [1, 1, 2, 3]);
        assert_eq!((0..2_000).map(|stated| doubts("requests", stated)).max(), Some(DOUBTS_MAX));
    }
}
