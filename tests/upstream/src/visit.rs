//! One call while it is being answered.
//!
//! Invariant: it is counted once, as what it ended as, also where its task was dropped.

use crate::server::Shared;

/// A call under way. Dropped before its end, it was abandoned by its client.
#[derive(Debug)]
pub(crate) struct Visit {
    shared: std::sync::Arc<Shared>,
    number: usize,
    end: End,
    counted: bool,
}

/// What a call ends as when all of its answer has gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Served,
    /// The limits refused it, and have counted that.
    Refused,
    Error,
}

impl Visit {
    pub(crate) fn new(shared: std::sync::Arc<Shared>, number: usize) -> Self {
        Self { shared, number, end: End::Error, counted: false }
    }

    pub(crate) fn number(&self) -> usize {
        self.number
    }

    /// What it ends as when all goes well.
    pub(crate) fn ends_as(&mut self, end: End) {
        self.end = end;
    }

    pub(crate) fn status(&self, status: u16) {
        self.shared.books.lock().amend(self.number, |call| call.status = Some(status));
    }

    /// The whole answer has gone out.
    pub(crate) fn done(&mut self) {
        let end = self.end;
        self.count(|tally| match end {
            End::Served => tally.served += 1,
            End::Refused => {}
            End::Error => tally.errors += 1,
        });
    }

    /// The server broke the answer.
    pub(crate) fn cut(&mut self) {
        self.count(|tally| tally.cut += 1);
    }

    fn count(&mut self, change: impl FnOnce(&mut crate::tally::Tally)) {
        if !std::mem::replace(&mut self.counted, true) {
            change(&mut self.shared.books.lock().tally);
        }
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        self.count(|tally| tally.abandoned += 1);
        self.shared.books.lock().tally.under_way -= 1;
    }
}
