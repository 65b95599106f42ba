//! What one call asks of the store: which ledgers, how much, and which limit each figure of the answer belongs to.
//!
//! Invariant: a ledger appears once, whatever the number of limits on it; its place in the plan is that of its first limit in the policy.
//! Pure: no I/O and no clock.

use std::{sync::Arc, time::Duration};

use crate::{
    calendar::{Ask, UNBOUNDED, fair::HEAVY_PARTS, grid},
    cost::Cost,
    decision::{Denial, LimitStatus, Reason, Retry},
    error::Error,
    limit::less,
    policy::{Compiled, Rule},
    resource::Resource,
    store::{
        AcquireRequest, Answer, AskedLedger, Ending, FairAsk, InspectRequest, LedgerState, Notes, ReservationId,
        SettleRequest, SettledLedger, keyspace::LedgerKey,
    },
    subject::Subject,
};

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
    home: Option<usize>,
    /// The longest wait in line for a place, whatever the caller's patience.
    max_wait_ms: u64,
    /// Figures of limits that do not count by user are not the caller's business.
    hides_org: bool,
}

#[derive(Clone, Debug)]
struct PlannedLedger {
    asked: AskedLedger,
    scope: Arc<[Box<str>]>,
    custom: Option<Resource>,
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
    /// What the rule enforces for this call: less the headroom of its class.
    amount: u64,
}

impl Plan {
    /// `class` is the priority class of the call.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) for a subject or cost that is out of range, or lacks what the policy requires;
    /// for a class that the policy does not know.
    pub(crate) fn new(policy: Arc<Compiled>, subject: &Subject, cost: Cost, class: &str) -> Result<Self, Error> {
        subject.validate()?;
        cost.validate()?;
        if let Some(missing) = policy.require.iter().find(|attribute| subject.value(attribute).is_none()) {
            return Err(Error::invalid(format!("the policy requires a subject with a {missing}")));
        }
        let headroom_ppm = policy.headroom(class)?;
        let mut plan = Self {
            policy: Arc::clone(&policy),
            cost,
            ledgers: Vec::with_capacity(2),
            checks: Vec::with_capacity(8),
            fair: Vec::new(),
            home: None,
            max_wait_ms: u64::MAX,
            hides_org: policy.hide_org && subject.value("user").is_some(),
        };
        for (rule_index, rule) in policy.rules.iter().enumerate().filter(|(_, rule)| rule.applies_to(subject)) {
            let ledger = plan.ledger_of(rule, &rule.scope, subject);
            let place = place_of(&rule.resource);
            let check = Check { rule: rule_index, ledger, place, amount: less(rule.amount, headroom_ppm) };
            plan.checks.push(check);
            if !rule.shadow {
                plan.tighten(&check, rule);
            }
            if headroom_ppm > 0 {
                let headroom_ms = rule.window_ms - less(rule.window_ms, headroom_ppm);
                plan.max_wait_ms = plan.max_wait_ms.min(headroom_ms.min(rule.window_ms / HEAVY_PARTS));
            }
        }
        plan.share_fairly(subject);
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
        let values = scope.iter().map(|attribute| (&**attribute, subject.value(attribute).unwrap_or_default()));
        let key = LedgerKey::new(rule.window_ms, custom.map(Resource::name), values);
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
            if rule.fair && !rule.shadow && self.cost.of(&rule.resource) > 0 {
                let of_user = self.ledger_of(rule, &rule.scope_of_each_user(), subject);
                // the pool is the same for every class
                let (pool, place, limit) = (check.ledger, check.place, rule.amount);
                let ask = FairAsk { pool, user: of_user, place, limit, member: member.clone() };
                self.fair.push(PlannedFair { rule: check.rule, ask });
            }
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

    /// The first limit whose amount the cost exceeds, and how far it is over.
    pub(crate) fn never(&self) -> Option<(usize, u64)> {
        let over = |check: &Check| {
            let rule = &self.policy.rules[check.rule];
            let cost = self.cost.of(&rule.resource);
            (cost > check.amount && !rule.smoothing && !rule.shadow).then(|| (check.rule, cost - check.amount))
        };
        self.checks.iter().find_map(over)
    }

    /// Whether no limit applies, so that there is nothing to ask.
    pub(crate) fn is_unlimited(&self) -> bool {
        self.checks.is_empty()
    }

    pub(crate) fn cost(&self) -> &Cost {
        &self.cost
    }

    pub(crate) fn acquire_request(&self, id: ReservationId, max_wait_ms: u64) -> AcquireRequest {
        let ledgers = self.ledgers.iter().map(|ledger| ledger.asked.clone()).collect();
        let max_wait_ms = max_wait_ms.min(self.max_wait_ms);
        let fair: Vec<_> = self.fair.iter().map(|fair| fair.ask.clone()).collect();
        AcquireRequest { id, ledgers, fair, notes: Notes::Nobody, home: self.home, max_wait_ms, moves_up: false }
    }

    /// The user who shares limits fairly with others, and the shortest window of those.
    pub(crate) fn sharer(&self) -> Option<(&str, u64)> {
        let window_ms = |fair: &PlannedFair| self.ledgers[fair.ask.pool].asked.window_ms;
        Some((&*self.fair.first()?.ask.member.1, self.fair.iter().map(window_ms).min()?))
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
        SettleRequest { id, ending, made_at, ledgers: self.ledgers.iter().map(settled).collect(), home: self.home }
    }

    pub(crate) fn inspect_request(&self) -> InspectRequest {
        let ledgers = self.ledgers.iter().map(|ledger| (ledger.asked.key.clone(), ledger.asked.window_ms));
        InspectRequest { ledgers: ledgers.collect() }
    }

    /// What each ledger is asked, in the order of [`inspect_request`](Self::inspect_request).
    pub(crate) fn asks(&self) -> impl Iterator<Item = (u64, &Ask)> {
        self.ledgers.iter().map(|ledger| (ledger.asked.window_ms, &ledger.asked.ask))
    }

    /// Where each limit stands, in policy order; without those that are not the caller's business.
    pub(crate) fn statuses(&self, now: u64, ledgers: &[LedgerState]) -> Vec<LimitStatus> {
        let status = |check: &Check| {
            let rule = &self.policy.rules[check.rule];
            if self.hides_org && !rule.scope.iter().any(|attribute| &**attribute == "user") {
                return None;
            }
            let state = ledgers.get(check.ledger).copied().unwrap_or_default();
            let used = state.used[check.place];
            let reset_ms = if state.last_at == 0 { 0 } else { (state.last_at + rule.window_ms).saturating_sub(now) };
            (!rule.smoothing).then(|| LimitStatus {
                name: Arc::clone(&rule.name),
                resource: rule.resource.clone(),
                limit: check.amount,
                used,
                remaining: check.amount.saturating_sub(used),
                window_ms: rule.window_ms,
                reset_after: Duration::from_millis(reset_ms),
                shadow: rule.shadow,
            })
        };
        self.checks.iter().filter_map(status).collect()
    }

    /// The denial of a cost that exceeds a limit.
    pub(crate) fn denial_for_ever(&self, (rule, over_by): (usize, u64), limits: Vec<LimitStatus>) -> Denial {
        self.denial(rule, Retry::Never { over_by }, limits)
    }

    /// The denial of a cost that fits at `at`, set by the ledger `setter`.
    pub(crate) fn denial_until(
        &self,
        answer: &Answer,
        at: u64,
        setter: usize,
        short: &[[bool; 3]],
        max_wait_ms: u64,
    ) -> Denial {
        let wait_ms = at - answer.now;
        let window_ms = self.ledgers.get(setter).map_or(0, |ledger| ledger.asked.window_ms);
        let horizon_ms = self.ledgers.get(setter).map_or(u64::MAX, |ledger| ledger.asked.ask.horizon_ms);
        let (mut horizon_ms, mut pause_ms_max) = (horizon_ms.min(self.max_wait_ms), u64::MAX);
        let heavy = self
            .fair
            .iter()
            .zip(&answer.standings)
            .find(|(fair, standing)| standing.heavy && (setter == fair.ask.user || setter == fair.ask.pool));
        if heavy.is_some() {
            // the level changes, so that a long pause would miss what becomes free
            horizon_ms = horizon_ms.min(window_ms / HEAVY_PARTS);
            pause_ms_max = window_ms / HEAVY_PARTS;
        }
        // a place may be promised once its time, rounded up to the grid at most, is within the horizon
        let pause_ms = wait_ms.saturating_sub(horizon_ms).min(pause_ms_max).max(grid(window_ms)).max(1);
        let wait = Duration::from_millis(wait_ms);
        let retry = match heavy {
            _ if max_wait_ms >= wait_ms => Retry::AskAgainAfter(Duration::from_millis(pause_ms)),
            Some(_) => Retry::Estimate(wait),
            None => Retry::After(wait),
        };
        let statuses = self.statuses(answer.now, &answer.ledgers);
        match heavy {
            Some((fair, standing)) => {
                let reason = Reason::FairShare { share: standing.share };
                Denial { reason, ..self.denial(fair.rule, retry, statuses) }
            }
            None => self.denial(self.latest(short), retry, statuses),
        }
    }

    /// Of the rules that do not fit a millisecond before the earliest time, the first in the policy; where several bind one resource of
    /// one ledger, the tightest of them.
    fn latest(&self, short: &[[bool; 3]]) -> usize {
        let room = |check: &Check| check.amount.saturating_sub(self.cost.of(&self.policy.rules[check.rule].resource));
        let bound = |check: &Check| self.ledgers[check.ledger].asked.ask.bounds[check.place];
        let is_short = |check: &&Check| {
            !self.policy.rules[check.rule].shadow && short.get(check.ledger).is_some_and(|places| places[check.place])
        };
        let tightest = self.checks.iter().filter(is_short).find(|check| room(check) == bound(check));
        tightest
            .or_else(|| self.checks.iter().find(|check| !self.policy.rules[check.rule].shadow))
            .map_or(0, |check| check.rule)
    }

    fn denial(&self, rule: usize, retry: Retry, limits: Vec<LimitStatus>) -> Denial {
        let rule = &self.policy.rules[rule];
        Denial { limit: Arc::clone(&rule.name), resource: rule.resource.clone(), reason: Reason::Limit, retry, limits }
    }
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
