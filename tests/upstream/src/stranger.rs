//! A stranger that uses part of a pool: calls that come from nowhere, by the server's own clock.
//!
//! Invariant: the same seed gives the same calls at the same times, however often one looks.

use std::time::Duration;

use crate::limits::MINUTE;

/// How a stranger's calls are spread over time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrivals {
    /// At equal distances.
    Even,
    /// Each independent of the others, from a seed.
    Poisson(u64),
}

/// How much of each pool a stranger asks for, and when.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Stranger {
    pub(crate) share: f64,
    pub(crate) arrivals: Arrivals,
    pub(crate) from: Duration,
    pub(crate) until: Option<Duration>,
}

impl Stranger {
    /// One that asks for this share of each limit a minute, 0.3 for 30 %, in calls for one image at equal distances, from the start on.
    #[must_use]
    pub fn new(share: f64) -> Self {
        Self { share, arrivals: Arrivals::Even, from: Duration::ZERO, until: None }
    }

    /// How its calls are spread.
    #[must_use]
    pub fn arrivals(self, arrivals: Arrivals) -> Self {
        Self { arrivals, ..self }
    }

    /// When it comes, by the server's clock.
    #[must_use]
    pub fn from(self, from: Duration) -> Self {
        Self { from, ..self }
    }

    /// When it goes, by the server's clock.
    #[must_use]
    pub fn until(self, until: Duration) -> Self {
        Self { until: Some(until), ..self }
    }
}

/// The times of a stranger's calls, one after the other.
#[derive(Debug)]
pub(crate) struct Timetable {
    next: Duration,
    until: Option<Duration>,
    between: Duration,
    random: Option<fastrand::Rng>,
}

impl Timetable {
    /// The calls of a stranger on a pool that holds `calls` a minute. None if it never calls.
    pub(crate) fn new(stranger: &Stranger, calls: u64) -> Option<Self> {
        let a_minute = stranger.share * calls as f64;
        if a_minute <= 0.0 {
            return None;
        }
        let random = match stranger.arrivals {
            Arrivals::Even => None,
            Arrivals::Poisson(seed) => Some(fastrand::Rng::with_seed(seed)),
        };
        let between = MINUTE.div_f64(a_minute);
        let mut timetable = Self { next: stranger.from, until: stranger.until, between, random };
        timetable.step();
        Some(timetable)
    }

    /// The next call, if it comes by `now`.
    pub(crate) fn due(&mut self, now: Duration) -> Option<Duration> {
        if self.next > now || self.until.is_some_and(|until| self.next > until) {
            return None;
        }
        let due = self.next;
        self.step();
        Some(due)
    }

    fn step(&mut self) {
        self.next += match &mut self.random {
            None => self.between,
            // `f64` is below 1, so the logarithm is of more than 0.
            Some(random) => self.between.mul_f64(-(1.0 - random.f64()).ln()),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn calls(stranger: Stranger, minutes: u32) -> Vec<Duration> {
        let mut timetable = Timetable::new(&stranger, 250).unwrap();
        std::iter::from_fn(|| timetable.due(MINUTE * minutes)).collect()
    }

    #[test]
    fn a_share_is_that_part_of_the_limit() {
        let even = calls(Stranger::new(0.30), 1);
        assert_eq!(even.len(), 75);
        assert_eq!(even[0], Duration::from_millis(800));
        let poisson = calls(Stranger::new(0.30).arrivals(Arrivals::Poisson(7)), 100);
        assert!((7_200..=7_800).contains(&poisson.len()), "7,500 are expected, {} came", poisson.len());
        assert!(Timetable::new(&Stranger::new(0.0), 250).is_none());
    }

    #[test]
    fn a_seed_gives_the_same_calls() {
        let seeded = |seed| calls(Stranger::new(0.30).arrivals(Arrivals::Poisson(seed)), 1);
        assert_eq!(seeded(1), seeded(1));
        assert_ne!(seeded(1), seeded(2));
    }

    #[test]
    fn it_comes_and_goes() {
        let visit = Stranger::new(0.30).from(MINUTE).until(2 * MINUTE);
        let calls = calls(visit, 5);
        assert_eq!(calls.len(), 75);
        assert!(calls.iter().all(|at| (MINUTE..=2 * MINUTE).contains(at)));
    }
}
