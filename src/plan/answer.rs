//! What an answer of the store says about the limits of its call: where each stands, and which one denied.
//!
//! Invariant: a denial names a limit that denies: never one that only counts.

use std::{sync::Arc, time::Duration};

use crate::{
    calendar::{fair::HEAVY_PARTS, grid},
    clock::{millis, wait_until},
    decision::{Denial, LimitStatus, Reason, Retry},
    plan::{
        Check, Never, Plan, SlotCheck,
        growth::{Held, used},
    },
    resource::Resource,
    store::{Answer, LedgerState},
};

/// How long a call waits for a slot before it asks again: nobody tells when a call of another process ends.
const SLOT_PAUSE: Duration = Duration::from_millis(250);
/// The shortest time after which a call asks again whether a limit has grown enough.
const GROWTH_PAUSE: Duration = Duration::from_millis(50);

impl Plan {
    /// Where each limit stands, in policy order, those on calls under way last; without those that are not the caller's business.
    pub(crate) fn statuses(&self, answer: &Answer) -> Vec<LimitStatus> {
        let mut statuses = self.ledger_statuses(answer.now, &answer.ledgers);
        let shown = self.slot_checks.iter().filter(|check| self.shows(&self.policy.in_flight[check.limit].scope));
        statuses.extend(shown.map(|check| self.slot_status(check, answer.in_flight.get(check.asked).copied())));
        statuses
    }

    /// Whether the figures of this scope are the caller's business.
    fn shows(&self, scope: &[Box<str>]) -> bool {
        !self.hides_org || scope.iter().any(|attribute| &**attribute == "user")
    }

    /// The part of [`statuses`](Self::statuses) that ledgers tell.
    pub(crate) fn ledger_statuses(&self, now: u64, ledgers: &[LedgerState]) -> Vec<LimitStatus> {
        let status = |check: &Check| {
            let rule = &self.policy.rules[check.rule];
            let state = ledgers.get(check.ledger).copied().unwrap_or_default();
            (!rule.smoothing && self.shows(&rule.scope)).then(|| self.status(check, now, state))
        };
        self.checks.iter().filter_map(status).collect()
    }

    /// Where a limit stands whose ledger is in this state.
    pub(super) fn status(&self, check: &Check, now: u64, state: LedgerState) -> LimitStatus {
        let rule = &self.policy.rules[check.rule];
        let used = state.used[check.place];
        let reset_ms = if state.last_at == 0 { 0 } else { (state.last_at + rule.window_ms).saturating_sub(now) };
        LimitStatus {
            name: named(&rule.name, check.candidate),
            resource: rule.resource.clone(),
            limit: check.amount,
            used,
            remaining: check.amount.saturating_sub(used),
            window_ms: rule.window_ms,
            reset_after: Duration::from_millis(reset_ms),
            shadow: check.shadow,
        }
    }

    /// Where a limit on calls under way stands, of which there are so many.
    pub(super) fn slot_status(&self, check: &SlotCheck, live: Option<u64>) -> LimitStatus {
        let used = live.unwrap_or_default();
        LimitStatus {
            name: named(&self.policy.in_flight[check.limit].name, check.candidate),
            resource: Resource::InFlight,
            limit: check.amount,
            used,
            remaining: check.amount.saturating_sub(used),
            window_ms: 0,
            reset_after: Duration::ZERO,
            shadow: check.shadow,
        }
    }

    /// The first limit whose amount the cost exceeds, whatever a loss has made of it.
    pub(crate) fn never(&self) -> Option<Never> {
        self.over(|check| self.in_full(check))
    }

    /// The first limit whose amount, as it is enforced, the cost exceeds: no window has room for it.
    pub(super) fn over_enforced(&self) -> Option<Never> {
        self.over(|check| check.amount)
    }

    fn over(&self, amount: impl Fn(&Check) -> u64) -> Option<Never> {
        let over = |check: &Check| {
            let rule = &self.policy.rules[check.rule];
            let cost = self.cost.of(&rule.resource);
            let amount = amount(check);
            let is_over = cost > amount && !rule.smoothing && !check.shadow;
            is_over.then(|| Never {
                limit: Arc::clone(&rule.name),
                resource: rule.resource.clone(),
                over_by: cost - amount,
            })
        };
        let closed = |check: &SlotCheck| {
            let slots = &self.policy.in_flight[check.limit];
            let is_closed = check.amount == 0 && !check.shadow;
            is_closed.then(|| Never { limit: Arc::clone(&slots.name), resource: Resource::InFlight, over_by: 1 })
        };
        self.checks.iter().find_map(over).or_else(|| self.slot_checks.iter().find_map(closed))
    }

    /// The denial of a cost that exceeds a limit.
    pub(crate) fn denial_for_ever(&self, never: Never, limits: Vec<LimitStatus>) -> Denial {
        let Never { limit, resource, over_by } = never;
        Denial { limit, resource, reason: Reason::Limit, retry: Retry::Never { over_by }, limits, degraded: None }
    }

    /// The denial of a call for which no slot is free; the next lease expires at `at`.
    pub(crate) fn denial_full(&self, answer: &Answer, slots: usize, at: u64, max_wait_ms: u64) -> Denial {
        let wait = wait_until(at, answer.now).max(Duration::from_millis(1));
        let retry = if max_wait_ms > 0 { Retry::AskAgainAfter(wait.min(SLOT_PAUSE)) } else { Retry::Estimate(wait) };
        let binds =
            |check: &&SlotCheck| check.asked == slots && !check.shadow && self.slots[slots].amount == check.amount;
        let bound = self.slot_checks.iter().find(binds);
        let limit = bound.map_or_else(Arc::default, |check| Arc::clone(&self.policy.in_flight[check.limit].name));
        let limits = self.statuses(answer);
        Denial { limit, resource: Resource::InFlight, reason: Reason::InFlight, retry, limits, degraded: None }
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
        // what grows may make room before what is used has left
        let held = self.held_beside(answer);
        if let Some(held) = held.filter(|held| (1..=wait_ms).contains(&held.wait_ms)) {
            return self.denial_held(held, answer, max_wait_ms);
        }
        let window_ms = self.ledgers.get(setter).map_or(0, |ledger| ledger.asked.window_ms);
        let horizon_ms = self.ledgers.get(setter).map_or(u64::MAX, |ledger| ledger.asked.ask.horizon_ms);
        let (mut horizon_ms, mut pause_ms_max) = (horizon_ms.min(self.max_wait_ms), u64::MAX);
        let heavy = self.fair.iter().zip(&answer.standings).find(|(fair, standing)| {
            // of all that the ledger counts, it is what is shared that does not fit
            let is_short = short.get(setter).is_some_and(|places| places[fair.ask.place]);
            standing.heavy && is_short && (setter == fair.ask.user || setter == fair.ask.pool)
        });
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
            None if held.is_none() => Retry::After(wait),
            _ => Retry::Estimate(wait),
        };
        let statuses = self.statuses(answer);
        match heavy {
            Some((fair, standing)) => {
                let reason = Reason::FairShare { share: standing.share };
                Denial { reason, ..self.denial(fair.rule, retry, statuses) }
            }
            None => self.denial(self.latest(short), retry, statuses),
        }
    }

    /// The denial of a call that a loss of data holds back.
    pub(crate) fn denial_held(&self, held: Held<'_>, answer: &Answer, max_wait_ms: u64) -> Denial {
        let (wait, pause) =
            (Duration::from_millis(held.wait_ms), Duration::from_millis(held.wait_ms).max(GROWTH_PAUSE));
        let fits = |(check, cost): (&Check, u64)| used(answer, check) + cost <= self.in_full(check);
        let retry = if max_wait_ms >= millis(pause) {
            Retry::AskAgainAfter(pause)
        } else if held.exact && self.growing().all(fits) {
            Retry::After(wait)
        } else {
            Retry::Estimate(wait)
        };
        let (limit, resource, limits) = (Arc::clone(held.limit), held.resource.clone(), self.statuses(answer));
        Denial { limit, resource, reason: Reason::StateLost, retry, limits, degraded: None }
    }

    /// Of the rules that do not fit a millisecond before the earliest time, the first in the policy; where several bind one resource of
    /// one ledger, the tightest of them.
    fn latest(&self, short: &[[bool; 3]]) -> usize {
        let room = |check: &Check| check.amount.saturating_sub(self.cost.of(&self.policy.rules[check.rule].resource));
        let bound = |check: &Check| self.ledgers[check.ledger].asked.ask.bounds[check.place];
        let is_short =
            |check: &&Check| !check.shadow && short.get(check.ledger).is_some_and(|places| places[check.place]);
        let tightest = self.checks.iter().filter(is_short).find(|check| room(check) == bound(check));
        tightest.or_else(|| self.checks.iter().find(|check| !check.shadow)).map_or(0, |check| check.rule)
    }

    fn denial(&self, rule: usize, retry: Retry, limits: Vec<LimitStatus>) -> Denial {
        let rule = &self.policy.rules[rule];
        Denial {
            limit: Arc::clone(&rule.name),
            resource: rule.resource.clone(),
            reason: Reason::Limit,
            retry,
            limits,
            degraded: None,
        }
    }
}

/// What a limit, or an amount that is tried beside it, is called.
fn named(limit: &Arc<str>, candidate: bool) -> Arc<str> {
    if candidate { format!("{limit}.candidate").into() } else { Arc::clone(limit) }
}
