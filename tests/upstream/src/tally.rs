//! What the server has seen: counts, and a record of the latest calls.
//!
//! Invariant: no key is in it.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use serde_json::Value;

use crate::limits::MINUTE;

/// At most so many of the latest calls are kept.
const CALLS_MAX: usize = 10_000;

/// Counts of one org.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct OrgTally {
    /// Calls that came, whatever became of them.
    pub calls: u64,
    /// Calls that found room in the limits.
    pub admitted: u64,
    /// Calls that were refused, by the dimension that was short (`input-images`, `tokens`, `requests`).
    pub refused: BTreeMap<String, u64>,
    /// Images of the calls that were admitted.
    pub images: u64,
    /// Tokens that those were charged.
    pub tokens: u64,
    /// The most images that were admitted in any 60 s of the server's clock.
    pub fullest_minute: u64,
    /// What a stranger was given in its pools, in calls.
    pub stranger_admitted: u64,
    /// What a stranger was refused.
    pub stranger_refused: u64,
}

impl OrgTally {
    /// Calls that were refused, whatever was short.
    #[must_use]
    pub fn refusals(&self) -> u64 {
        self.refused.values().sum()
    }
}

/// What the server has seen until now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Tally {
    /// Calls that came, whatever became of them.
    pub calls: u64,
    /// Calls that were answered in full with what they asked for.
    pub served: u64,
    /// Calls that the limits refused, by the dimension that was short.
    pub refused: BTreeMap<String, u64>,
    /// Calls that got another error: a scripted one, a wrong key, a wrong request.
    pub errors: u64,
    /// Calls whose answer the server itself cut or withheld.
    pub cut: u64,
    /// Calls whose client went before it had the whole answer.
    pub abandoned: u64,
    /// Calls that are being answered.
    pub under_way: u64,
    /// The most calls that were being answered at once.
    pub under_way_max: u64,
    /// Images of the calls that were admitted.
    pub images: u64,
    /// Tokens that those were charged.
    pub tokens: u64,
    /// Connections that were ever opened.
    pub connections: u64,
    /// Connections that are open.
    pub connections_open: u64,
    /// The server's time of the first call that was admitted.
    pub first_admitted_at: Option<Duration>,
    /// The server's time of the last call that was admitted.
    pub last_admitted_at: Option<Duration>,
    /// The same by org.
    pub orgs: BTreeMap<String, OrgTally>,
}

impl Tally {
    /// Calls that the limits refused, whatever was short.
    #[must_use]
    pub fn refusals(&self) -> u64 {
        self.refused.values().sum()
    }

    /// Which part of all calls the limits refused, from 0 to 1.
    #[must_use]
    pub fn share_refused(&self) -> f64 {
        if self.calls == 0 { 0.0 } else { self.refusals() as f64 / self.calls as f64 }
    }
}

/// One part of a form that was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Part {
    /// Its name, such as `image[]`.
    pub name: String,
    /// The name of its file, if it has one.
    pub file_name: Option<String>,
    /// Its media type, if it says one.
    pub media_type: Option<String>,
    /// Its length in bytes.
    pub length: usize,
    /// The SHA-256 of its bytes, in hexadecimal.
    pub sha256: String,
}

/// One call that came.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Call {
    /// When it came, by the server's clock.
    pub at: Duration,
    /// Its path.
    pub path: String,
    /// Its query, such as `api-version=..`.
    pub query: Option<String>,
    /// Whose key it has; none if nobody's.
    pub org: Option<String>,
    /// The names of its headers, in lower case.
    pub headers: Vec<String>,
    /// `idempotency-key`.
    pub idempotency_key: Option<String>,
    /// `user-agent`.
    pub user_agent: Option<String>,
    /// Its JSON; of a form, the fields that are text.
    pub body: Value,
    /// The parts of a form that are files.
    pub parts: Vec<Part>,
    /// The status it was answered with; none until then, and if it was not answered.
    pub status: Option<u16>,
}

/// The counts and the record, as the server keeps them.
#[derive(Debug, Default)]
pub(crate) struct Books {
    pub(crate) tally: Tally,
    calls: VecDeque<Call>,
    forgotten: usize,
    /// By org, when images were admitted in the last minute.
    recent: BTreeMap<String, VecDeque<Admission>>,
}

#[derive(Debug)]
struct Admission {
    at: Duration,
    images: u64,
}

impl Books {
    pub(crate) fn calls(&self) -> Vec<Call> {
        self.calls.iter().cloned().collect()
    }

    /// Records a call that came. Its number finds it again.
    pub(crate) fn arrived(&mut self, call: Call) -> usize {
        self.tally.calls += 1;
        self.tally.under_way += 1;
        self.tally.under_way_max = self.tally.under_way_max.max(self.tally.under_way);
        if let Some(org) = &call.org {
            self.org(org).calls += 1;
        }
        if self.calls.len() == CALLS_MAX {
            self.calls.pop_front();
            self.forgotten += 1;
        }
        self.calls.push_back(call);
        self.forgotten + self.calls.len() - 1
    }

    /// Changes what is recorded of a call, unless it is too long ago.
    pub(crate) fn amend(&mut self, number: usize, change: impl FnOnce(&mut Call)) {
        let call = number.checked_sub(self.forgotten).and_then(|index| self.calls.get_mut(index));
        if let Some(call) = call {
            change(call);
        }
    }

    pub(crate) fn admitted(&mut self, org: &str, at: Duration, cost: crate::quota::Cost) {
        self.tally.images += cost.images;
        self.tally.tokens += cost.tokens;
        self.tally.first_admitted_at.get_or_insert(at);
        self.tally.last_admitted_at = Some(at);
        let recent = self.recent.entry(org.to_owned()).or_default();
        recent.push_back(Admission { at, images: cost.images });
        while recent.front().is_some_and(|admission| admission.at + MINUTE <= at) {
            recent.pop_front();
        }
        let minute = recent.iter().map(|admission| admission.images).sum();
        let org = self.org(org);
        org.admitted += 1;
        org.images += cost.images;
        org.tokens += cost.tokens;
        org.fullest_minute = org.fullest_minute.max(minute);
    }

    pub(crate) fn refused(&mut self, org: &str, kind: &str) {
        *self.tally.refused.entry(kind.to_owned()).or_default() += 1;
        *self.org(org).refused.entry(kind.to_owned()).or_default() += 1;
    }

    pub(crate) fn org(&mut self, org: &str) -> &mut OrgTally {
        self.tally.orgs.entry(org.to_owned()).or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quota::Cost;

    #[test]
    fn the_fullest_minute_is_any_60_s() {
        let mut books = Books::default();
        for (second, images) in [(0, 5), (30, 4), (59, 3), (60, 1), (100, 1)] {
            books.admitted("org", Duration::from_secs(second), Cost { images, tokens: 10 });
        }
        assert_eq!(books.tally.orgs["org"].fullest_minute, 12);
        assert_eq!((books.tally.images, books.tally.tokens), (14, 50));
    }

    #[test]
    fn the_record_forgets_the_oldest_call() {
        let mut books = Books::default();
        let numbers: Vec<_> = (0..CALLS_MAX + 2).map(|_| books.arrived(Call::default())).collect();
        books.amend(numbers[0], |_| unreachable!("it is forgotten"));
        books.amend(numbers[CALLS_MAX + 1], |call| call.status = Some(200));
        assert_eq!(books.calls().len(), CALLS_MAX);
        assert_eq!(books.calls().last().unwrap().status, Some(200));
    }
}
