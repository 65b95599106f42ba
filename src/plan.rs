//! What one call asks of the store: which ledgers, pools and slots, how much, and which limit each figure of the answer belongs to.
//!
//! Invariant: a ledger appears once, whatever the number of limits on it; its place in the plan is that of its first limit in the policy.
//! Pure: no I/O and no clock.

mod answer;
mod controlled;
mod degraded;
mod growth;
mod observed;
mod usage;

use std::sync::Arc;

use self::controlled::{Amount, Controlled, Refused};
pub use self::growth::StateLoss;
pub(crate) use self::{
    growth::Growth,
    observed::UpstreamPool,
    usage::{Part, Sight, Use},
};
use crate::{
    calendar::{Ask, UNBOUNDED, fair::HEAVY_PARTS},
    control::Controls,
    cost::Cost,
    error::Error,
    limit::{Limit, less},
    policy::{Compiled, Rule, share},
    resource::Resource,
    store::{
        AcquireRequest, AskedLedger, AskedSlots, Ending, FairAsk, Notes, ReservationId, SettleRequest, SettledLedger,
        inspection::InspectRequest,
        keyspace::{LedgerKey, SlotsKey},
    },
    subject::Subject,
};

/// A cost that exceeds a limit.
#[derive(Clone, Debug)]
pub(crate) struct Never {
    limit: Arc<str>,
    resource: Resource,
    over_by: u64,
}

/// What a limit that only counts asks of its slots.
const UNLIMITED_SLOTS: u64 = u32::MAX as u64;

/// A reservation's life is at least this long, so a ledger of a shorter window cannot carry it.
const HOME_WINDOW_MS_MIN: u64 = 60_000;

/// One call of one subject under one policy.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    policy: Arc<Compiled>,
    cost: Cost,
    ledgers: Vec<PlannedLedger>,
    checks: Vec<Check>,
    fair: Vec<PlannedFair>,
    slots: Vec<AskedSlots>,
    slot_checks: Vec<SlotCheck>,
    controls: Arc<Controls>,
    /// When the first of those ends that the call goes by.
    controls_until: Option<u64>,
    /// What a loss of data makes of the amounts.
    growth: Option<Growth>,
    headroom_ppm: u32,
    refused: Option<Refused>,
    home: Option<usize>,
    /// The longest wait in line for a place, whatever the caller's patience.
    max_wait_ms: u64,
    /// Figures of limits that do not count by user are not the caller's business.
    hides_org: bool,
    /// Of a plan for looks and resets: what the user has of limits that are shared fairly.
    parts: Vec<PlannedPart>,
}

/// A user's part of a limit that is shared fairly.
#[derive(Clone, Copy, Debug)]
struct PlannedPart {
    /// That of the limit.
    check: Check,
    /// Where the part is counted.
    ledger: usize,
    weight: u32,
}

#[derive(Clone, Debug)]
struct PlannedLedger {
    asked: AskedLedger,
    scope: Arc<[Box<str>]>,
    custom: Option<Resource>,
}

/// One limit on calls under way that binds the call.
#[derive(Clone, Copy, Debug)]
struct SlotCheck {
    /// Among the slots of the policy.
    limit: usize,
    /// Among the slots asked.
    asked: usize,
    amount: u64,
    shadow: bool,
    candidate: bool,
}

/// One rule of the policy that is shared fairly.
#[derive(Clone, Debug)]
struct PlannedFair {
    rule: usize,
    ask: FairAsk,
}

/// One rule of the policy that binds the call.
#[derive(Clone, Copy, Debug)]
struct Check {
    rule: usize,
    ledger: usize,
    place: usize,
    /// What the rule enforces for this call: by the controls of its org, as far as it has grown after a loss of data, less the headroom of
    /// its class.
    amount: u64,
    /// The same before the headroom: the pool that all classes share.
    whole: u64,
    /// The same before growth: what it grows to.
    in_full: u64,
    /// Counts and does not deny.
    shadow: bool,
    /// Another amount that is tried beside the rule's own.
    candidate: bool,
}

impl Plan {
    /// `class` is the priority class of the call.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) for a subject or cost that is out of range, or lacks what the policy requires;
    /// for a class that the policy does not know.
    pub(crate) fn new(
        policy: Arc<Compiled>,
        subject: &Subject,
        cost: Cost,
        class: &str,
        controls: &Arc<Controls>,
        growth: Option<Growth>,
    ) -> Result<Self, Error> {
        subject.validate()?;
        cost.validate()?;
        if let Some(missing) = policy.require.iter().find(|attribute| subject.value(attribute).is_none()) {
            return Err(Error::invalid(format!("the policy requires a subject with a {missing}")));
        }
        let headroom_ppm = policy.headroom(class)?;
        let controlled = Controlled::new(controls, subject, &cost);
        let mut plan = Self {
            policy: Arc::clone(&policy),
            cost,
            ledgers: Vec::with_capacity(2),
            checks: Vec::with_capacity(8),
            fair: Vec::new(),
            slots: Vec::new(),
            slot_checks: Vec::new(),
            controls: Arc::clone(controls),
            controls_until: None,
            growth,
            headroom_ppm,
            refused: None,
            home: None,
            max_wait_ms: u64::MAX,
            hides_org: policy.hide_org && subject.value("user").is_some(),
            parts: Vec::new(),
        };
        // a smoothing rule follows that of its limit, and keeps its proportion to it
        let mut whole = (1, 1);
        for (rule_index, rule) in policy.rules.iter().enumerate().filter(|(_, rule)| rule.applies_to(subject)) {
            let ledger = plan.ledger_of(rule, &rule.scope, subject);
            let place = place_of(&rule.resource);
            let tried = controlled.tries(&rule.name, &rule.resource);
            let Amount { mut amount, shadow } = controlled.amount(&rule.name, &rule.resource, rule.amount);
            let (in_full, shadow) = (amount, shadow || rule.shadow);
            if rule.smoothing {
                amount = share(rule.amount, whole.1, whole.0);
            } else {
                if let Some(growth) = growth.filter(|_| !shadow) {
                    amount = growth.amount(amount, rule.window_ms);
                }
                whole = (rule.amount.max(1), amount);
            }
            let (whole_amount, amount) = (amount, less(amount, headroom_ppm));
            let check = Check {
                rule: rule_index,
                ledger,
                place,
                amount,
                whole: whole_amount,
                in_full,
                shadow,
                candidate: false,
            };
            plan.checks.push(check);
            if !shadow {
                plan.tighten(&check, rule);
            }
            if let Some(amount) = tried.filter(|_| !rule.smoothing) {
                plan.checks.push(Check { amount, shadow: true, candidate: true, ..check });
            }
            if headroom_ppm > 0 && !rule.smoothing {
                let headroom_ms = rule.window_ms - less(rule.window_ms, headroom_ppm);
                plan.max_wait_ms = plan.max_wait_ms.min(headroom_ms.min(rule.window_ms / HEAVY_PARTS));
            }
        }
        plan.share_fairly(subject);
        plan.take_slots(subject, &controlled);
        plan.refused = controlled.refused();
        plan.controls_until = controlled.until();
        plan.home = plan.find_home();
        Ok(plan)
    }

    /// The ledger of a rule, at its own scope or at that of each user.
    fn ledger_of(&mut self, rule: &Rule, scope: &Arc<[Box<str>]>, subject: &Subject) -> usize {
        let custom = custom_of(&rule.resource);
        let same = |ledger: &PlannedLedger| {
            let same_scope = Arc::ptr_eq(&ledger.scope, scope) || ledger.scope == *scope;
            ledger.asked.window_ms == rule.window_ms && same_scope && ledger.custom.as_ref() == custom
        };
        if let Some(known) = self.ledgers.iter().position(same) {
            return known;
        }
        let key = key_of(rule, scope, subject);
        let amounts = custom.map_or_else(|| self.cost.places(), |resource| [self.cost.of(resource), 0, 0]);
        let ask = Ask { amounts, bounds: [UNBOUNDED; 3], horizon_ms: rule.window_ms };
        let asked = AskedLedger { key, window_ms: rule.window_ms, ask };
        self.ledgers.push(PlannedLedger { asked, scope: Arc::clone(scope), custom: custom.cloned() });
        self.ledgers.len() - 1
    }

    /// Binds a ledger by one more rule. A cost above a smoothing rule is tested as if equal to it.
    fn tighten(&mut self, check: &Check, rule: &Rule) {
        let cost = self.cost.of(&rule.resource);
        let tested = if rule.smoothing { cost.min(check.amount) } else { cost };
        let Some(room) = check.amount.checked_sub(tested).filter(|_| cost > 0) else { return };
        let ask = &mut self.ledgers[check.ledger].asked.ask;
        let bound = &mut ask.bounds[check.place];
        *bound = (*bound).min(room);
        // design: window x (1 + 2 x cost / limit), so that a large cost sees further and small ones cannot starve it
        let further = 2 * u128::from(rule.window_ms) * u128::from(tested) / u128::from(check.amount.max(1));
        let horizon_ms = rule.window_ms.saturating_add(u64::try_from(further).unwrap_or(u64::MAX));
        ask.horizon_ms = ask.horizon_ms.max(horizon_ms);
    }

    /// Asks for fair shares of the limits that users share fairly: for a subject with a user, and what the call takes of them.
    fn share_fairly(&mut self, subject: &Subject) {
        let Some(user) = subject.value("user") else { return };
        let policy = Arc::clone(&self.policy);
        let member = (policy.weight_of(subject), Box::from(user));
        for index in 0..self.checks.len() {
            let check = self.checks[index];
            let rule = &policy.rules[check.rule];
            if rule.fair && !check.candidate && self.cost.of(&rule.resource) > 0 {
                let of_user = self.ledger_of(rule, &rule.scope_of_each_user(), subject);
                if check.shadow {
                    // what the user takes is counted all the same
                    continue;
                }
                let (pool, place, limit) = (check.ledger, check.place, check.whole);
                let ask = FairAsk { pool, user: of_user, place, limit, member: member.clone() };
                self.fair.push(PlannedFair { rule: check.rule, ask });
            }
        }
    }

    /// Asks for a slot of each scope that a limit on calls under way counts by; the tightest limit binds.
    fn take_slots(&mut self, subject: &Subject, controlled: &Controlled<'_>) {
        for (limit, slots) in self.policy.in_flight.iter().enumerate().filter(|(_, slots)| slots.applies_to(subject)) {
            let values =
                slots.scope.iter().map(|attribute| (&**attribute, subject.value(attribute).unwrap_or_default()));
            let key = SlotsKey::new(values);
            let asked = self.slots.iter().position(|asked| asked.key == key).unwrap_or_else(|| {
                self.slots.push(AskedSlots { key, amount: UNLIMITED_SLOTS });
                self.slots.len() - 1
            });
            let tried = controlled.tries(&slots.name, &Resource::InFlight);
            let Amount { amount, shadow } = controlled.amount(&slots.name, &Resource::InFlight, slots.amount);
            let (amount, shadow) = (amount.min(Limit::IN_FLIGHT_MAX), shadow || slots.shadow);
            if !shadow {
                self.slots[asked].amount = self.slots[asked].amount.min(amount);
            }
            let check = SlotCheck { limit, asked, amount, shadow, candidate: false };
            self.slot_checks.push(check);
            self.slot_checks.extend(tried.map(|amount| SlotCheck { amount, shadow: true, candidate: true, ..check }));
        }
    }

    /// The ledger whose entries can carry the reservations: that of the narrowest scope with the longest window. One that counts no user
    /// and no attribute of its own is shared by too many calls.
    fn find_home(&self) -> Option<usize> {
        let longest = self.ledgers.iter().map(|ledger| ledger.asked.window_ms).max()?;
        let narrow = |(_, ledger): &(usize, &PlannedLedger)| {
            ledger.asked.window_ms == longest && ledger.scope.iter().any(|attribute| &**attribute != "model")
        };
        let last_first = self.ledgers.iter().enumerate().rev().filter(narrow);
        let (home, _) = last_first.max_by_key(|(_, ledger)| ledger.scope.len())?;
        (longest >= HOME_WINDOW_MS_MIN).then_some(home)
    }

    /// Whether no limit applies, so that there is nothing to ask.
    pub(crate) fn is_unlimited(&self) -> bool {
        self.checks.is_empty() && self.slots.is_empty()
    }

    pub(crate) fn policy(&self) -> Arc<Compiled> {
        Arc::clone(&self.policy)
    }

    /// Asks whether the controls are still those by which the call cannot be.
    pub(crate) fn blocked_request(&self, id: ReservationId) -> AcquireRequest {
        let nothing =
            AcquireRequest { ledgers: Vec::new(), fair: Vec::new(), slots: Vec::new(), ..self.acquire_request(id, 0) };
        AcquireRequest { home: None, is_blocked: true, ..nothing }
    }

    pub(crate) fn cost(&self) -> &Cost {
        &self.cost
    }

    pub(crate) fn acquire_request(&self, id: ReservationId, max_wait_ms: u64) -> AcquireRequest {
        let ledgers = self.ledgers.iter().map(|ledger| ledger.asked.clone()).collect();
        let max_wait_ms = max_wait_ms.min(self.max_wait_ms);
        let fair: Vec<_> = self.fair.iter().map(|fair| fair.ask.clone()).collect();
        AcquireRequest {
            id,
            ledgers,
            fair,
            notes: Notes::Nobody,
            slots: self.slots.clone(),
            lease_ms: 0,
            controls: self.controls(),
            is_blocked: false,
            lost_at: self.lost_at(),
            home: self.home,
            max_wait_ms,
            moves_up: false,
            repeats: false,
        }
    }

    /// The user who shares limits fairly with others, their pools, and the shortest window of those.
    pub(crate) fn sharer(&self) -> Option<(&str, Vec<&LedgerKey>, u64)> {
        let window_ms = |fair: &PlannedFair| self.ledgers[fair.ask.pool].asked.window_ms;
        let pools = self.fair.iter().map(|fair| &self.ledgers[fair.ask.pool].asked.key).collect();
        Some((&*self.fair.first()?.ask.member.1, pools, self.fair.iter().map(window_ms).min()?))
    }

    /// Settles with `actual`, or gives everything back. A resource that `actual` does not name keeps its estimate.
    pub(crate) fn settle_request(
        &self,
        id: ReservationId,
        made_at: Option<u64>,
        actual: Option<&Cost>,
    ) -> SettleRequest {
        let used = |resource: &Resource| {
            actual.map_or(0, |actual| actual.named(resource).unwrap_or_else(|| self.cost.of(resource)))
        };
        let settled = |ledger: &PlannedLedger| {
            let actual = match &ledger.custom {
                Some(resource) => [used(resource), 0, 0],
                None => [used(&Resource::Requests), used(&Resource::Tokens), used(&Resource::Images)],
            };
            let AskedLedger { key, window_ms, ask } = ledger.asked.clone();
            SettledLedger { key, window_ms, estimate: ask.amounts, actual }
        };
        let ending = if actual.is_some() { Ending::Commit } else { Ending::Release };
        SettleRequest {
            id,
            ending,
            made_at,
            ledgers: self.ledgers.iter().map(settled).collect(),
            home: self.home,
            slots: self.slots(),
            checks_leases: false,
        }
    }

    /// Whether the call holds a slot while it is under way.
    pub(crate) fn takes_slots(&self) -> bool {
        !self.slots.is_empty()
    }

    pub(crate) fn slots(&self) -> Vec<SlotsKey> {
        self.slots.iter().map(|asked| asked.key.clone()).collect()
    }

    /// Asks for all that decides about the call.
    pub(crate) fn inspect_request(&self) -> InspectRequest {
        let pool = |fair: &PlannedFair| (self.ledgers[fair.ask.pool].asked.key.clone(), fair.ask.place);
        let mut pools: Vec<_> = self.fair.iter().map(pool).collect();
        // those that the call takes from come first
        pools.extend(self.pools_of_parts());
        InspectRequest { ledgers: self.ledger_keys(), pools, slots: self.slots() }
    }

    /// The ledgers that the call is charged on, with their windows.
    pub(crate) fn ledger_keys(&self) -> Vec<(LedgerKey, u64)> {
        let ledgers = self.ledgers.iter().map(|ledger| (ledger.asked.key.clone(), ledger.asked.window_ms));
        ledgers.collect()
    }

    /// The version of the controls that it was planned by, and until when those that hold it are the same.
    pub(crate) fn controls(&self) -> (u64, Option<u64>) {
        (self.controls.version, self.controls_until)
    }

    pub(crate) fn current_controls(&self) -> Arc<Controls> {
        Arc::clone(&self.controls)
    }

    /// What each ledger is asked, in the order of [`inspect_request`](Self::inspect_request).
    pub(crate) fn asks(&self) -> impl Iterator<Item = (u64, &Ask)> {
        self.ledgers.iter().map(|ledger| (ledger.asked.window_ms, &ledger.asked.ask))
    }
}

/// The ledger of a rule, at its own scope or at that of each user.
fn key_of(rule: &Rule, scope: &[Box<str>], subject: &Subject) -> LedgerKey {
    let values = scope.iter().map(|attribute| (&**attribute, subject.value(attribute).unwrap_or_default()));
    LedgerKey::new(rule.window_ms, custom_of(&rule.resource).map(Resource::name), values)
}

/// A custom resource, which has a ledger of its own.
fn custom_of(resource: &Resource) -> Option<&Resource> {
    matches!(resource, Resource::Custom(_)).then_some(resource)
}

/// Its place in its ledger.
fn place_of(resource: &Resource) -> usize {
    match resource {
        // calls under way have no ledger, and no rule
        Resource::Requests | Resource::Custom(_) | Resource::InFlight => 0,
        Resource::Tokens => 1,
        Resource::Images => 2,
    }
}
