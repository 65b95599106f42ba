//! One ledger: what is charged in one window of one scope, past and booked.
//!
//! Invariant: entries are in time order, have distinct times and are never nothing; the first `past` of them are not later than
//! `seen_at`; `used` is the sum of those that the window ending at `seen_at` holds. In a `folded` ledger, no three neighbouring past times
//! lie within a 64th of the window, the last one that was added excepted.

use crate::calendar::{Amounts, Ask, ENTRY_MAX, KEEP, PARTS, TOTAL_MAX, is_nothing};

/// What is charged at one time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) at: u64,
    pub(crate) amounts: Amounts,
}

/// A calendar log. Times are milliseconds since the epoch, by the store's clock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ledger {
    window: u64,
    entries: Vec<Entry>,
    past: usize,
    folded: bool,
    used: Amounts,
    seen_at: u64,
    born_at: u64,
    reset_at: u64,
}

impl Ledger {
    pub(crate) fn new(window: u64, now: u64) -> Self {
        Self {
            window,
            entries: Vec::new(),
            past: 0,
            folded: false,
            used: [0; 3],
            seen_at: now,
            born_at: now,
            reset_at: 0,
        }
    }

    /// A ledger as a store holds it.
    pub(crate) fn restore(window: u64, entries: Vec<Entry>, seen_at: u64) -> Self {
        let mut ledger = Self { entries, seen_at, ..Self::new(window, 0) };
        ledger.past = ledger.entries.partition_point(|entry| entry.at <= seen_at);
        ledger.recount();
        ledger
    }

    pub(crate) fn window(&self) -> u64 {
        self.window
    }

    pub(crate) fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Whether what was charged then is not held any more, whatever the window: the ledger was emptied since, or is a later one.
    pub(crate) fn has_forgotten(&self, at: u64) -> bool {
        at <= self.reset_at || at < self.born_at
    }

    /// What the window that ends now holds.
    pub(crate) fn used(&self) -> Amounts {
        self.used.map(|used| used.min(TOTAL_MAX))
    }

    /// How many times are booked.
    pub(crate) fn booked(&self) -> usize {
        self.entries.len() - self.past
    }

    /// The last time charged or booked; 0 if there is none.
    pub(crate) fn last_at(&self) -> u64 {
        self.entries.last().map_or(0, |entry| entry.at)
    }

    /// Lets time pass: what has left the window goes, and bookings whose time has come are past.
    pub(crate) fn advance(&mut self, now: u64) {
        self.seen_at = self.seen_at.max(now);
        let gone = self.entries.partition_point(|entry| entry.at + self.window <= self.seen_at);
        let past = self.entries.partition_point(|entry| entry.at <= self.seen_at);
        if gone == 0 && past == self.past {
            return;
        }
        self.entries.drain(..gone);
        self.folded &= past == self.past;
        self.past = past - gone;
        self.recount();
    }

    fn recount(&mut self) {
        let expired = |entry: &&Entry| entry.at + self.window > self.seen_at;
        self.used = total(self.entries[..self.past].iter().filter(expired));
    }

    /// The sum over `(x - window, x]`.
    pub(crate) fn sum_at(&self, x: u64) -> Amounts {
        if x == self.seen_at {
            return self.used;
        }
        total(self.entries.iter().filter(|entry| entry.at <= x && entry.at + self.window > x))
    }

    /// The first time from `x` on at which this ledger could take `ask`, looking one step ahead; `x` itself if it fits there.
    ///
    /// A booking in `(x, x + window)` that would be overrun rules out every time before it; else the next departure that frees enough of
    /// a resource rules out what is before it, for each resource.
    pub(crate) fn raised(&self, x: u64, ask: &Ask) -> u64 {
        let overrun = self.bookings_after(x).find(|(_, sum)| !ask.leaves_room(*sum));
        if let Some((at, _)) = overrun {
            return at;
        }
        let sum = self.sum_at(x);
        let mut short = ask.short_of(sum);
        if short == [false; 3] {
            return x;
        }
        for (at, sum) in self.departures_after(x, sum) {
            short = std::array::from_fn(|r| short[r] && sum[r] > ask.bounds[r]);
            if short == [false; 3] {
                return at;
            }
        }
        x
    }

    /// Which resources do not fit at `x`, by what its own window or that of a booking after it holds.
    pub(crate) fn short_at(&self, x: u64, ask: &Ask) -> [bool; 3] {
        let sums = std::iter::once(self.sum_at(x)).chain(self.bookings_after(x).map(|(_, sum)| sum));
        sums.map(|sum| ask.short_of(sum)).fold([false; 3], |all, short| std::array::from_fn(|r| all[r] || short[r]))
    }

    /// The times in `(x, x + window)`, last first, each with the sum over the window that ends there.
    fn bookings_after(&self, x: u64) -> impl Iterator<Item = (u64, Amounts)> {
        let start =
            if self.last_at() <= x { self.entries.len() } else { self.entries.partition_point(|entry| entry.at <= x) };
        let end = start + self.entries[start..].partition_point(|entry| entry.at < x + self.window);
        let (mut low, mut running) = (end, [0; 3]);
        (start..end).rev().map(move |index| {
            let at = self.entries[index].at;
            while low > 0 && self.entries[low - 1].at + self.window > at {
                low -= 1;
                running = sum(running, self.entries[low].amounts, u64::MAX);
            }
            let here = running;
            running = difference(running, self.entries[index].amounts);
            (at, here)
        })
    }

    /// The times after `x` at which an entry leaves the window, each with what the window then holds; `running` is what it holds at `x`.
    fn departures_after(&self, x: u64, mut running: Amounts) -> impl Iterator<Item = (u64, Amounts)> {
        let first = self.entries.partition_point(|entry| entry.at + self.window <= x);
        let mut high = self.entries.partition_point(|entry| entry.at <= x);
        self.entries[first..].iter().map(move |leaving| {
            let at = leaving.at + self.window;
            while let Some(entry) = self.entries.get(high).filter(|entry| entry.at <= at) {
                running = sum(running, entry.amounts, u64::MAX);
                high += 1;
            }
            running = difference(running, leaving.amounts);
            (at, running)
        })
    }

    /// Charges `amounts` at `at`, now or later, and folds the past.
    pub(crate) fn add(&mut self, at: u64, amounts: Amounts) {
        self.put(at, amounts);
        self.fold();
    }

    /// Charges `amounts` at `at` and leaves the rest as it is.
    pub(crate) fn put(&mut self, at: u64, amounts: Amounts) {
        if is_nothing(&amounts) {
            return;
        }
        let at_index = self.entries.partition_point(|entry| entry.at < at);
        match self.entries.get_mut(at_index) {
            Some(entry) if entry.at == at => entry.amounts = sum(entry.amounts, amounts, ENTRY_MAX),
            _ => {
                self.entries.insert(at_index, Entry { at, amounts });
                self.folded &= at_index >= self.past;
                self.past += usize::from(at <= self.seen_at);
            }
        }
        if at <= self.seen_at {
            self.used = sum(self.used, amounts, u64::MAX);
        }
    }

    /// Above [`KEEP`] past times, no three neighbours may lie within a 64th of the window: the middle one joins the later one.
    ///
    /// That only moves an amount later, so it may delay an admission by a 64th of the window and never admits too much.
    fn fold(&mut self) {
        if self.past <= KEEP {
            self.folded = false;
            return;
        }
        let mut middle = if self.folded { self.past - 2 } else { 1 };
        while middle + 1 < self.past {
            if (self.entries[middle + 1].at - self.entries[middle - 1].at) * PARTS < self.window {
                let folded = self.entries.remove(middle);
                self.past -= 1;
                let later = &mut self.entries[middle];
                later.amounts = sum(later.amounts, folded.amounts, ENTRY_MAX);
            } else {
                middle += 1;
            }
        }
        self.folded = true;
    }

    /// Changes the charge of `estimate` made at `at` to `actual`.
    ///
    /// `made_at` is when the charge was recorded: before `at` for a booking. A no-op once the window has passed, for a place at or before
    /// a reset, and for a charge made before this ledger was born. Folding only moved the charge later, so the first past entry at or
    /// after `at` holds it. Where none does and something is owed, or
    /// nothing was estimated, it is charged now.
    pub(crate) fn settle(&mut self, at: u64, made_at: u64, estimate: Amounts, actual: Amounts) {
        let now = self.seen_at;
        let estimated = !is_nothing(&estimate);
        if at + self.window <= now || estimated && (at <= self.reset_at || made_at < self.born_at) {
            return;
        }
        let holder = self.entries.partition_point(|entry| entry.at < at);
        let held = estimated && self.entries.get(holder).is_some_and(|entry| entry.at <= at.max(now));
        if !held {
            let owed = std::array::from_fn(|r| actual[r].saturating_sub(estimate[r]));
            if !is_nothing(&owed) {
                self.add(now, owed);
            }
            return;
        }
        let entry = &mut self.entries[holder];
        entry.amounts =
            std::array::from_fn(|r| (entry.amounts[r] + actual[r]).saturating_sub(estimate[r]).min(ENTRY_MAX));
        if is_nothing(&entry.amounts) {
            self.entries.remove(holder);
            self.past -= usize::from(holder < self.past);
        }
        self.recount();
    }

    /// Empties the past; booked places stay.
    pub(crate) fn reset(&mut self) {
        if self.past == 0 {
            return;
        }
        self.entries.drain(..self.past);
        self.past = 0;
        self.used = [0; 3];
        self.reset_at = self.seen_at;
    }
}

fn total<'a>(entries: impl Iterator<Item = &'a Entry>) -> Amounts {
    entries.fold([0; 3], |total, entry| sum(total, entry.amounts, u64::MAX))
}

fn sum(a: Amounts, b: Amounts, max: u64) -> Amounts {
    std::array::from_fn(|r| (a[r] + b[r]).min(max))
}

fn difference(a: Amounts, b: Amounts) -> Amounts {
    std::array::from_fn(|r| a[r] - b[r])
}
