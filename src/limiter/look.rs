//! Looks: what a decision would say, and what is stored of an org. Nothing is changed by them.
//!
//! Invariant: one look is of one moment, by the policy and the controls of that moment.

use std::{sync::Arc, time::Duration};

use super::{Asking, CHANGES_MAX, Limiter, governing};
use crate::{
    control::{Control, Controls},
    cost::Cost,
    decision::Decision,
    error::{Error, ErrorKind},
    plan::{Plan, Sight},
    policy::Compiled,
    resource::Resource,
    store::{
        Answer, Verdict,
        inspection::{InspectRequest, Inspected, Owner},
        memory::MemoryStore,
    },
    subject::Subject,
};

/// How many ledgers, sets of slots or pools are read in one call.
const READ_MAX: usize = 256;
/// How far back open reservations are looked for that no ledger carries.
const OPEN_BACK_MS_MAX: u64 = 10 * 60 * 1_000;
/// Longer than a window, for clocks that differ.
const OPEN_SLACK_MS: u64 = 60_000;

/// One call that is not made, and what the store holds of all that would decide about it.
pub(crate) struct Looked<'a> {
    asking: Asking<'a>,
    pub(crate) seen: Inspected,
}

impl Limiter {
    /// Looks at all that would decide about a call. One round trip; three after the controls of the org have changed.
    pub(crate) async fn look<'a>(&'a self, subject: &'a Subject, cost: Cost) -> Result<Looked<'a>, Error> {
        let mut asking = self.ask(subject, cost).await?;
        for _ in 0..CHANGES_MAX {
            asking.take_parts();
            let seen = self.store().inspect(&asking.org, &asking.plan.inspect_request()).await?;
            let (version, until) = asking.plan.controls();
            if seen.version == version && until.is_none_or(|until| seen.now < until) {
                let (controls, growth) = (asking.plan.current_controls(), self.growth_since(seen.loss));
                if growth.is_some() || asking.plan.is_growing() {
                    asking.replan(&controls, growth)?;
                    asking.take_parts();
                }
                return Ok(Looked { asking, seen });
            }
            asking.plan_anew().await?;
        }
        Err(Error::new(ErrorKind::Unavailable, "the controls of the org change faster than a call can be planned"))
    }

    /// What an org is limited by now: its policy and its controls. One round trip.
    pub(crate) async fn rules(&self, org: &Arc<str>) -> Result<(Arc<Compiled>, Arc<Controls>), Error> {
        let controls = self.core.governing.refresh(self.store(), org).await?;
        Ok((self.core.policies.of(org).await?, controls))
    }

    /// How a subject is limited by these rules.
    pub(crate) fn plan_by(
        &self,
        (policy, controls): &(Arc<Compiled>, Arc<Controls>),
        subject: &Subject,
    ) -> Result<Plan, Error> {
        let growth = self.growth(subject.value("org").unwrap_or_default());
        let plan = Plan::new(Arc::clone(policy), subject, Cost::new(), &self.class, controls, growth)?;
        Ok(plan.with_parts(subject))
    }

    /// Reads ledgers, slots and pools, however many. A round trip per 256 of them.
    pub(crate) async fn see(&self, org: &str, wanted: &InspectRequest) -> Result<Sight, Error> {
        let mut sight = Sight::default();
        let ledgers = wanted.ledgers.chunks(READ_MAX);
        let (slots, pools) = (wanted.slots.chunks(READ_MAX), wanted.pools.chunks(READ_MAX));
        let pools = pools.map(|some| InspectRequest { pools: some.to_vec(), ..InspectRequest::default() });
        let ledgers = ledgers.map(|some| InspectRequest { ledgers: some.to_vec(), ..InspectRequest::default() });
        let slots = slots.map(|some| InspectRequest { slots: some.to_vec(), ..InspectRequest::default() });
        for request in ledgers.chain(slots).chain(pools) {
            let seen = self.store().inspect(org, &request).await?;
            sight.add(&request, seen);
        }
        Ok(sight)
    }

    /// Adds open reservations that no ledger carries: those of one owner, or all.
    pub(crate) async fn see_open(
        &self,
        org: &str,
        policy: &Compiled,
        owner: Option<Owner>,
        sight: &mut Sight,
    ) -> Result<(), Error> {
        let back_ms = policy.longest_ms.min(OPEN_BACK_MS_MAX) + OPEN_SLACK_MS;
        sight.add_open(self.store().open(org, owner, back_ms).await?);
        Ok(())
    }

    /// The controls of an org, and until each ends. One round trip.
    pub(crate) async fn controls(&self, org: &str) -> Result<Vec<(Control, Option<Duration>)>, Error> {
        let stored = self.store().controls(org, 0).await?;
        let now = stored.now;
        let controls = governing::read(stored)?;
        let until = |at: u64| Duration::from_millis(at.saturating_sub(now));
        Ok(controls.live.into_iter().map(|live| (live.control, live.expires_at.map(until))).collect())
    }

    /// The longest window of a limit of an org; `None` if it only counts calls under way.
    pub(crate) async fn window_of(
        &self,
        org: &str,
        limit: &str,
        resource: Option<&Resource>,
    ) -> Result<Option<u64>, Error> {
        let policy = self.core.policies.of(&Arc::from(org)).await?;
        let counts = |of: &Resource| resource.is_none_or(|resource| resource == of);
        let rules = policy.rules.iter().filter(|rule| &*rule.name == limit && counts(&rule.resource));
        let window_ms = rules.map(|rule| rule.window_ms).max();
        let slots = policy.in_flight.iter().any(|slots| &*slots.name == limit && counts(&Resource::InFlight));
        if window_ms.is_none() && !slots {
            let counted = resource.map(|resource| format!(" that counts {resource}")).unwrap_or_default();
            return Err(Error::invalid(format!(
                "limit {limit:?}: the policy of this org has none of that name{counted}"
            )));
        }
        Ok(window_ms)
    }
}

impl Looked<'_> {
    pub(crate) fn org(&self) -> &Arc<str> {
        &self.asking.org
    }

    pub(crate) fn plan(&self) -> &Plan {
        &self.asking.plan
    }

    /// What a decision at the time of the look would say.
    pub(crate) fn decision(&self) -> Result<Decision, Error> {
        let (plan, answer) = (&self.asking.plan, self.asking.foresee(&self.seen));
        if let Some(refused) = plan.denial_refused(answer.now) {
            return Ok(Decision::Denied(refused));
        }
        if let Some(over) = plan.never() {
            return Ok(Decision::Denied(plan.denial_for_ever(over, plan.statuses(&answer))));
        }
        if let Some(held) = plan.held(answer.now) {
            return Ok(Decision::Denied(plan.denial_held(held, &answer, 0)));
        }
        match answer.verdict {
            Verdict::Admitted { .. } => Ok(Decision::Allowed(plan.statuses(&answer))),
            _ => self.asking.denial(&answer, 0).map(Decision::Denied),
        }
    }
}

impl Asking<'_> {
    /// Plans for a look or a reset.
    pub(super) fn take_parts(&mut self) {
        self.plan = Arc::new(Plan::clone(&self.plan).with_parts(self.subject));
    }

    /// What the store would answer that holds this, and where all stands before it.
    pub(super) fn foresee(&self, seen: &Inspected) -> Answer {
        MemoryStore::foresee(&self.plan.acquire_request(self.id, 0), seen)
    }
}
