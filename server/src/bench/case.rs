//! The cases: shapes of policy, of cost and of use whose price an operator wants to know.
//!
//! Invariant: a case says what is asked and what must come back; how it is set up and run is in `workload`.

use std::time::Duration;

use allotment::{Cost, Limit, Policy};
use clap::ValueEnum;

/// So much that nothing is denied.
const AMPLE: u64 = 1 << 40;
/// The tokens of one image.
const TOKENS: u64 = 1756;
/// More slots than calls are under way.
const SLOTS: u64 = 100_000;
const WINDOW: Duration = Duration::from_secs(60);
/// The window of users who stay at their limit: so long that no call leaves it during a run.
const DENIED_WINDOW: Duration = Duration::from_secs(15 * 60);

/// One row of the table. "Six" are the six counters of an org and a user with requests, tokens and images each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub(super) enum Case {
    /// Six counters, one request per script call
    SixAllowed,
    /// Six counters, 64 callers whose requests go together
    SixCoalesced,
    /// The user is at the limit, one request per script call
    SixDenied,
    /// The user is at the limit, 64 callers whose requests go together
    SixCoalescedDenied,
    /// Allowed now while 60 bookings are live in the org
    SixBooked,
    /// Taking a place behind 60 bookings
    Booking,
    /// Denied by the org until 100 of its entries have left
    SixLongDenial,
    /// Committing less than the estimate, one commit per script call
    Settle,
    /// Committing less than the estimate, 64 callers whose commits go together
    SettleCoalesced,
    /// Six counters, the images of the org shared fairly
    SixFair,
    /// Six counters, and a slot of the org for each call under way
    SixLeased,
    /// Six counters of an org with controls: others are blocked
    SixBlocked,
    /// Org and user with two resources each
    FourAllowed,
    /// A limit of the org alone
    OneLedger,
    /// Limits of org, user and model
    ThreeLedgers,
    /// Six counters and a custom resource of the org
    CustomResource,
    /// Six counters, smoothed over 1 s in the org
    TwoWindows,
    /// All calls by one user, far more than 32 in its window
    BusyUser,
}

/// What a case does in its timed slice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// `try_acquire`, always admitted.
    Admit,
    /// `try_acquire`, always denied.
    Deny,
    /// `acquire` with `max_wait`, always booked.
    Book,
    /// `commit` of permits taken before.
    Settle,
}

impl Case {
    /// All cases, in the order of the table.
    pub(super) fn all() -> &'static [Self] {
        Self::value_variants()
    }

    /// Its name in flags and JSON.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::SixAllowed => "six_allowed",
            Self::SixCoalesced => "six_coalesced",
            Self::SixDenied => "six_denied",
            Self::SixCoalescedDenied => "six_coalesced_denied",
            Self::SixBooked => "six_booked",
            Self::Booking => "booking",
            Self::SixLongDenial => "six_long_denial",
            Self::Settle => "settle",
            Self::SettleCoalesced => "settle_coalesced",
            Self::SixFair => "six_fair",
            Self::SixLeased => "six_leased",
            Self::SixBlocked => "six_blocked",
            Self::FourAllowed => "four_allowed",
            Self::OneLedger => "one_ledger",
            Self::ThreeLedgers => "three_ledgers",
            Self::CustomResource => "custom_resource",
            Self::TwoWindows => "two_windows",
            Self::BusyUser => "busy_user",
        }
    }

    pub(super) const fn action(self) -> Action {
        match self {
            Self::SixDenied | Self::SixCoalescedDenied | Self::SixLongDenial => Action::Deny,
            Self::Booking => Action::Book,
            Self::Settle | Self::SettleCoalesced => Action::Settle,
            _ => Action::Admit,
        }
    }

    /// Whether requests that wait while a call is in flight go together.
    pub(super) const fn is_coalesced(self) -> bool {
        matches!(self, Self::SixCoalesced | Self::SixCoalescedDenied | Self::SettleCoalesced)
    }

    /// Whether its org is kept full of entries at distinct times.
    pub(super) const fn needs_line(self) -> bool {
        matches!(self, Self::SixBooked | Self::Booking | Self::SixLongDenial)
    }

    /// How many users its calls are spread over, of `users`.
    pub(super) fn users(self, users: u32) -> u32 {
        if self == Self::BusyUser { 1 } else { users }
    }

    /// The limits of its org, unless a line states them.
    pub(super) fn policy(self) -> Policy {
        match self {
            Self::SixDenied | Self::SixCoalescedDenied => {
                let one_call = user().requests(1).tokens(TOKENS).images(1).window(DENIED_WINDOW);
                Policy::new().limit(three(org())).limit(one_call)
            }
            Self::SixFair => Policy::new()
                .limit(two(org()))
                .limit(Limit::new("pool").images(AMPLE).window(WINDOW).fair_share())
                .limit(three(user())),
            Self::SixLeased => six().limit(Limit::new("calls").in_flight(SLOTS)),
            Self::FourAllowed => Policy::new().limit(two(org())).limit(two(user())),
            Self::OneLedger => Policy::new().limit(three(org())),
            Self::ThreeLedgers => six().limit(three(Limit::new("model").scope(["org", "model"]).window(WINDOW))),
            Self::CustomResource => six().limit(Limit::new("spend").amount("spend_micros", AMPLE).window(WINDOW)),
            Self::TwoWindows => Policy::new().limit(three(org()).smooth(Duration::from_secs(1))).limit(three(user())),
            _ => six(),
        }
    }

    /// What one call takes.
    pub(super) fn cost(self) -> Cost {
        match self {
            Self::FourAllowed => Cost::new().tokens(TOKENS),
            Self::CustomResource => one_image().amount("spend_micros", 42_000),
            _ => one_image(),
        }
    }
}

/// The cost of one image: a request, an image, and its tokens.
pub(super) fn one_image() -> Cost {
    Cost::images(1).tokens(TOKENS)
}

/// What an image turned out to take: fewer tokens than estimated.
pub(super) fn one_image_used() -> Cost {
    Cost::images(1).tokens(TOKENS / 2)
}

/// Org and user with three resources each.
pub(super) fn six() -> Policy {
    Policy::new().limit(three(org())).limit(three(user()))
}

/// A limit of the org, without amounts.
pub(super) fn org() -> Limit {
    Limit::new("org").window(WINDOW)
}

/// A limit of each user, without amounts.
pub(super) fn user() -> Limit {
    Limit::new("user").scope(["org", "user"]).window(WINDOW)
}

/// `limit` on ample requests, tokens and images.
pub(super) fn three(limit: Limit) -> Limit {
    two(limit).images(AMPLE)
}

fn two(limit: Limit) -> Limit {
    limit.requests(AMPLE).tokens(AMPLE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_case_has_the_same_name_in_flags_and_in_json() {
        for case in Case::all() {
            assert_eq!(case.to_possible_value().unwrap().get_name(), case.name());
        }
    }

    #[test]
    fn every_policy_is_valid() {
        for case in Case::all() {
            case.policy().validate().unwrap();
        }
    }
}
