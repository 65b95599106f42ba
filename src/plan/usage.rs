//! What operators see of subjects: every limit that holds one, and a user's part of a limit that others share.
//!
//! Invariant: nothing is hidden here. What callers may see is in `answer`.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use crate::{
    calendar::Amounts,
    control::Controls,
    cost::Cost,
    decision::LimitStatus,
    plan::{Plan, PlannedLedger, custom_of, key_of, place_of},
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
    /// Every limit that holds the subject, in policy order, those on calls under way last.
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
        ledgers.chain(slots).collect()
    }

    /// The ledgers of one limit, with their windows; none if it does not hold the subject.
    pub(crate) fn ledger_keys_of(&self, limit: &str) -> Vec<(LedgerKey, u64)> {
        let of_limit = self.checks.iter().filter(|check| &*self.policy.rules[check.rule].name == limit);
        let ledgers: BTreeSet<usize> = of_limit.map(|check| check.ledger).collect();
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

    /// Whether two subjects count together in a limit: they have the same values of all that it counts by.
    pub(crate) fn counts_together(&self, limit: &str, one: &Subject, other: &Subject) -> bool {
        let scopes = self.policy.rules.iter().filter(|rule| &*rule.name == limit).map(|rule| &rule.scope);
        scopes.flat_map(|scope| scope.iter()).all(|attribute| one.value(attribute) == other.value(attribute))
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
