//! What has happened so far: the events of a run, gathered.

use std::time::Duration;

use allotment::Cost;

use super::{
    fleet::{Admitted, Ended, Event, Outcome},
    oracle::Admission,
};

/// The events of a run.
pub(crate) struct Tally {
    pub(crate) asked: u64,
    pub(crate) users: Vec<UserTally>,
    pub(crate) admitted: Vec<(usize, Admitted)>,
    /// Every call that came to its end.
    pub(crate) calls: Vec<CallTally>,
    pub(crate) denied: u64,
    pub(crate) refused: u64,
    pub(crate) failed: u64,
    /// Why the first call failed that did.
    pub(crate) failure: Option<String>,
}

/// The calls of one user that came to their end.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct UserTally {
    pub(crate) wanted: u64,
    pub(crate) admitted: u64,
    /// Admitted and not refused by the upstream.
    pub(crate) served: u64,
}

/// A call that came to its end.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CallTally {
    pub(crate) user: usize,
    /// Unscaled time since the start of the run.
    pub(crate) asked_after: Duration,
    /// In real time, if it was admitted and not refused by the upstream.
    pub(crate) served_after: Option<Duration>,
}

impl Tally {
    pub(crate) fn new(users: usize) -> Self {
        let users = vec![UserTally::default(); users];
        Self {
            asked: 0,
            users,
            admitted: Vec::new(),
            calls: Vec::new(),
            denied: 0,
            refused: 0,
            failed: 0,
            failure: None,
        }
    }

    pub(crate) fn count(&mut self, event: Event) {
        let Event::Ended(Ended { user, asked_after, outcome }) = event else {
            self.asked += 1;
            return;
        };
        let Some(of_user) = self.users.get_mut(user) else { return };
        of_user.wanted += 1;
        let served_after = match &outcome {
            Outcome::Admitted(admitted) if !admitted.refused => Some(admitted.waited),
            _ => None,
        };
        self.calls.push(CallTally { user, asked_after, served_after });
        match outcome {
            Outcome::Admitted(admitted) => {
                of_user.admitted += 1;
                of_user.served += u64::from(!admitted.refused);
                self.refused += u64::from(admitted.refused);
                self.admitted.push((user, admitted));
            }
            Outcome::Denied => self.denied += 1,
            Outcome::Failed(message) => {
                self.failed += 1;
                self.failure.get_or_insert(message);
            }
        }
    }

    /// The calls that came to their end.
    pub(crate) fn ended(&self) -> u64 {
        self.admitted.len() as u64 + self.denied + self.failed
    }

    /// The admissions as the replay wants them.
    pub(crate) fn admissions(&self) -> Vec<Admission> {
        let admission = |(user, admitted): &(usize, Admitted)| Admission {
            user: *user,
            at_ms: admitted.at_ms,
            cost: Cost::images(admitted.images).tokens(admitted.tokens),
        };
        self.admitted.iter().map(admission).collect()
    }

    /// The start of the run by the store's clock, as near as the quickest answer tells: the store's clock need not be this host's.
    pub(crate) fn store_start_ms(&self) -> Option<u64> {
        self.admitted.iter().map(|(_, admitted)| admitted.at_ms.saturating_sub(admitted.seen_after_ms)).max()
    }
}
