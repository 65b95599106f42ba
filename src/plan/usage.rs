//! What operators see of subjects: every limit that holds one, and a user's part of a limit that others share.
//!
//! Invariant: nothing is hidden here. What callers may see is in `answer`.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use crate::{
    calendar::{Amounts, fair::Pool},
    control::Controls,
    cost::Cost,
    decision::LimitStatus,
    plan::{Check, Plan, PlannedLedger, PlannedPart, custom_of, key_of, place_of},
    policy::Rule,
    resource::Resource,
    store::{
        LedgerState,
        inspection::{InspectRequest, Inspected, Open, Owner},
        keyspace::{LedgerKey, SlotsKey},
    },
    subject::Subject,
};

/// What was seen of one org, in one look or several.
#[derive(Debug, Default)]
pub(crate) struct Sight {
    /// The store's time of the last look.
    pub(crate) now: u64,
    ledgers: HashMap<LedgerKey, Seen>,
    live: HashMap<SlotsKey, u64>,
    pools: HashMap<(LedgerKey, usize), Pool>,
    open: HashMap<Owner, BTreeSet<Open>>,
}

/// What of a ledger operators see.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    state: LedgerState,
    booked: Amounts,
}

/// One limit of a subject.
#[derive(Clone, Debug)]
pub(crate) struct Use {
    pub(crate) status: LimitStatus,
    /// What it counts by, the org left out.
    pub(crate) scope: Arc<[Box<str>]>,
    /// What is booked for later.
    pub(crate) booked: u64,
}

/// Where a user's part of a limit is counted.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Part {
    pub(crate) key: LedgerKey,
    pub(crate) window_ms: u64,
    place: usize,
}

impl Sight {
    /// Adds what a look at `request` saw.
    pub(crate) fn add(&mut self, request: &InspectRequest, seen: Inspected) {
        self.now = seen.now;
        for ((key, window_ms), contents) in request.ledgers.iter().zip(seen.ledgers) {
            let (state, booked) = (contents.state(*window_ms, seen.now), contents.booked(seen.now));
            self.ledgers.insert(key.clone(), Seen { state, booked });
            self.add_open(contents.open);
        }
        self.pools.extend(request.pools.iter().cloned().zip(seen.pools));
        let live = seen.slots.iter().map(|slots| slots.live);
        self.live.extend(request.slots.iter().cloned().zip(live));
    }

    /// Adds reservations that no ledger carries.
    pub(crate) fn add_open(&mut self, open: Vec<Open>) {
        for open in open {
            self.open.entry(open.id.owner()).or_default().insert(open);
        }
    }

    /// Open reservations of a user, or of calls without one, by their places.
    pub(crate) fn open(&self, user: Option<&str>) -> impl Iterator<Item = &Open> {
        self.open.get(&Owner::of(user)).into_iter().flatten()
    }

    /// How much of a part is used in the window that ends now, and how much is booked.
    pub(crate) fn part(&self, part: &Part) -> (u64, u64) {
        let Seen { state, booked } = self.ledgers.get(&part.key).copied().unwrap_or_default();
        (state.used[part.place], booked[part.place])
    }
}

impl Plan {
    /// The same with what the user has of limits that are shared fairly, whatever the call takes of them: for looks and resets.
    pub(crate) fn with_parts(mut self, subject: &Subject) -> Self {
        let policy = Arc::clone(&self.policy);
        if subject.value("user").is_some() {
            for check in self.checks.clone() {
                let rule = &policy.rules[check.rule];
                if rule.fair && !check.candidate && !check.shadow {
                    let ledger = self.ledger_of(rule, &rule.scope_of_each_user(), subject);
                    self.parts.push(PlannedPart { check, ledger, weight: policy.weight_of(subject) });
                }
            }
        }
        self
    }

    /// Every limit that holds the subject, in policy order, then those on calls under way; then, of a plan that has them, the user's parts
    /// of those that are shared fairly, each with the share as its amount.
    pub(crate) fn uses(&self, sight: &Sight) -> Vec<Use> {
        let main = self.checks.iter().filter(|check| !self.policy.rules[check.rule].smoothing);
        let ledgers = main.map(|check| {
            let seen = sight.ledgers.get(&self.ledgers[check.ledger].asked.key).copied().unwrap_or_default();
            let status = self.status(check, sight.now, seen.state);
            Use { status, scope: Arc::clone(&self.policy.rules[check.rule].scope), booked: seen.booked[check.place] }
        });
        let slots = self.slot_checks.iter().map(|check| {
            let live = sight.live.get(&self.slots[check.asked].key).copied();
            let scope = Arc::clone(&self.policy.in_flight[check.limit].scope);
            Use { status: self.slot_status(check, live), scope, booked: 0 }
        });
        let parts = self.parts.iter().map(|part| {
            let seen = sight.ledgers.get(&self.ledgers[part.ledger].asked.key).copied().unwrap_or_default();
            let share = self.share_of(part, seen, sight);
            let status = self.status(&Check { amount: share, ..part.check }, sight.now, seen.state);
            let rule = &self.policy.rules[part.check.rule];
            Use { status, scope: rule.scope_of_each_user(), booked: seen.booked[part.check.place] }
        });
        ledgers.chain(slots).chain(parts).collect()
    }

    /// What a user may have of a limit that is shared, as things are.
    fn share_of(&self, part: &PlannedPart, seen: Seen, sight: &Sight) -> u64 {
        let pool = (self.ledgers[part.check.ledger].asked.key.clone(), part.check.place);
        let mut pool = sight.pools.get(&pool).cloned().unwrap_or_default();
        let used = seen.state.used[part.check.place] + seen.booked[part.check.place];
        let member = (part.weight, Box::default());
        pool.stand(sight.now, part.check.whole, &member, used, 0, (false, false)).share
    }

    /// The pools that it takes a part of, by ledger and place.
    pub(super) fn pools_of_parts(&self) -> impl Iterator<Item = (LedgerKey, usize)> {
        self.parts.iter().map(|part| (self.ledgers[part.check.ledger].asked.key.clone(), part.check.place))
    }

    /// The ledgers of one limit, and of the user's part of it; none if it does not hold the subject.
    pub(crate) fn ledger_keys_of(&self, limit: &str) -> Vec<(LedgerKey, u64)> {
        let of_limit = self.checks.iter().filter(|check| &*self.policy.rules[check.rule].name == limit);
        let of_user = self.parts.iter().filter(|part| &*self.policy.rules[part.check.rule].name == limit);
        let ledgers = of_limit.map(|check| check.ledger).chain(of_user.map(|part| part.ledger));
        let ledgers: BTreeSet<usize> = ledgers.collect();
        let asked = ledgers.into_iter().map(|ledger| &self.ledgers[ledger].asked);
        asked.map(|asked| (asked.key.clone(), asked.window_ms)).collect()
    }

    /// Where the user's part of a limit is counted: in the ledger of the same window whose scope has the user too. A policy without a
    /// limit at that scope has none, unless the limit is shared fairly.
    pub(crate) fn part_of(&self, limit: &str, resource: &Resource, subject: &Subject) -> Option<Part> {
        let is_it = |rule: &&Rule| &*rule.name == limit && rule.resource == *resource && !rule.smoothing;
        let rule = self.policy.rules.iter().filter(is_it).find(|rule| rule.applies_to(subject))?;
        let _user = subject.value("user")?;
        let (scope, custom) = (rule.scope_of_each_user(), custom_of(resource));
        let is_counted = |ledger: &PlannedLedger| {
            ledger.asked.window_ms == rule.window_ms && ledger.scope == scope && ledger.custom.as_ref() == custom
        };
        // of a limit that is shared, the ledger is there once something of it was asked for
        (rule.fair || self.ledgers.iter().any(is_counted)).then(|| Part {
            key: key_of(rule, &scope, subject),
            window_ms: rule.window_ms,
            place: place_of(resource),
        })
    }

    /// The slots that a limit on calls under way counts by; `None` if it does not hold the subject.
    pub(crate) fn slots_of(&self, limit: &str) -> Option<&SlotsKey> {
        let of_limit = self.slot_checks.iter().find(|check| &*self.policy.in_flight[check.limit].name == limit)?;
        Some(&self.slots[of_limit.asked].key)
    }

    /// Whether two subjects count together in a limit: they have the same values of all that it counts by.
    pub(crate) fn counts_together(&self, limit: &str, one: &Subject, other: &Subject) -> bool {
        let rules = self.policy.rules.iter().filter(|rule| &*rule.name == limit).map(|rule| &rule.scope);
        let slots = self.policy.in_flight.iter().filter(|slots| &*slots.name == limit).map(|slots| &slots.scope);
        rules
            .chain(slots)
            .flat_map(|scope| scope.iter())
            .all(|attribute| one.value(attribute) == other.value(attribute))
    }

    /// The controls that it was planned by.
    pub(crate) fn live_controls(&self) -> &Controls {
        &self.controls
    }

    /// What an open reservation takes, as far as the ledger says that carries it.
    pub(crate) fn cost_of(&self, open: &Open) -> Cost {
        let [requests, tokens, images] = open.amounts;
        match self.ledgers.get(self.home.unwrap_or(0)).and_then(|home| home.custom.clone()) {
            Some(resource) => Cost::new().requests(0).amount(resource, requests),
            None => Cost::images(images).tokens(tokens).requests(requests),
        }
    }
}
