//! What operators see: where limits stand, who uses them, and why a call would be denied.

use std::{collections::BTreeMap, time::Duration};

use crate::{admin::ActiveControl, cost::Cost, decision::Decision, decision::LimitStatus};

/// One limit of a subject, whoever counts there with it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LimitUse {
    /// Where it stands: amount, used, remaining, until when. Of calls under way, `used` is how many there are.
    pub status: LimitStatus,
    /// The attributes that it counts by, with the subject's values; the org left out, so it is empty for a limit of the whole org.
    pub scope: BTreeMap<String, String>,
    /// What is promised to calls that wait in line, in units of the resource; beside them, what is held for others of the windows to come. It is
    /// not in `used`, which has what is held for others now.
    pub booked: u64,
}

/// A reservation that nobody has settled: its call is under way or waits in line, or its permit was dropped.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct OpenReservation {
    /// Its id, a UUID.
    pub id: String,
    /// When its charge counts from, in milliseconds since the epoch by the store's clock; later than now for a place in line.
    pub at_ms: u64,
    /// How long ago that was; nothing for a place in line.
    pub age: Duration,
    /// What it takes until it is settled: the estimate.
    pub cost: Cost,
}

/// What an operator sees of one subject.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Inspection {
    /// The store's time, in milliseconds since the epoch.
    pub at_ms: u64,
    /// Every limit that holds the subject, in policy order, then those on calls under way; then the user's part of each limit that is shared
    /// fairly, with the share of the moment as its amount.
    pub limits: Vec<LimitUse>,
    /// Reservations of the subject's user that nobody has settled, or of calls without a user, the oldest first.
    pub open: Vec<OpenReservation>,
    /// The controls that hold the subject.
    pub controls: Vec<ActiveControl>,
}

/// What a user of an org uses.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct UserUse {
    /// The user.
    pub user: String,
    /// The limits that count by user, with further attributes if the policy says so: then once per value that was admitted lately. The
    /// user's part of a limit that is shared fairly is one of them, with the share of the moment as its amount.
    pub limits: Vec<LimitUse>,
    /// How many reservations nobody has settled.
    pub open: usize,
    /// Since when the oldest of them counts; `None` if there is none, or all wait in line.
    pub oldest_open: Option<Duration>,
}

/// A user's part of a limit.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PartUse {
    /// The user.
    pub user: String,
    /// What the window that ends now holds of the user, in units of the resource.
    pub used: u64,
    /// What is promised to calls of the user that wait in line.
    pub booked: u64,
}

/// Why a call would be admitted or denied at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Explanation {
    /// The store's time, in milliseconds since the epoch.
    pub at_ms: u64,
    /// What the call would be told. A denial names the limit and when to come back.
    pub decision: Decision,
    /// Every limit that holds the call, also those whose figures are hidden from callers.
    pub limits: Vec<LimitUse>,
    /// Who uses the limit that denies, most first, at most [`Explanation::USERS_MAX`]. Empty if the call would be admitted, or where the
    /// policy does not count that limit by user: see [`Admin::users_of`](crate::Admin::users_of).
    pub users: Vec<PartUse>,
    /// The controls that hold the subject.
    pub controls: Vec<ActiveControl>,
}

impl Explanation {
    /// How many users an explanation names.
    pub const USERS_MAX: usize = 10;
}

impl UserUse {
    /// The limit of which the largest part is used, and that part: 1 is all of it. `None` where no limit counts by user.
    #[must_use]
    pub fn fullest(&self) -> Option<(&LimitUse, f64)> {
        let part = |limit: &LimitUse| match (limit.status.used, limit.status.limit) {
            (0, _) => 0.0,
            (_, 0) => f64::INFINITY,
            (used, all) => used as f64 / all as f64,
        };
        self.limits.iter().map(|limit| (limit, part(limit))).max_by(|(_, a), (_, b)| a.total_cmp(b))
    }
}
