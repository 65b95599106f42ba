//! What one org has used of one pool: all its limits together, and the stranger who uses them too.
//!
//! Invariant: a call is charged to every limit or to none.

use std::{iter, time::Duration};

use crate::{
    limits::{DAY, Dimension, Enforcement, Limits, MINUTE},
    meter::Meter,
    stranger::{Stranger, Timetable},
};

/// In the order in which a call that fits none is told of them.
const DIMENSIONS: [Dimension; 3] = [Dimension::Requests, Dimension::Images, Dimension::Tokens];

/// What refused calls count against.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RefusedCalls {
    /// Requests, as documented. They count as far as there is room, so that a call after the hint fits.
    #[default]
    CountAsRequests,
    /// All that they asked for, as far as there is room.
    CountInFull,
    /// Nothing.
    CountNothing,
}

/// What a call takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cost {
    pub(crate) images: u64,
    pub(crate) tokens: u64,
}

impl Cost {
    fn of(&self, dimension: Dimension) -> u64 {
        match dimension {
            Dimension::Requests => 1,
            Dimension::Images => self.images,
            Dimension::Tokens => self.tokens,
        }
    }
}

/// Why a call was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shortage {
    pub(crate) dimension: Dimension,
    pub(crate) period: Duration,
    pub(crate) limit: u64,
    /// None when the call can never fit.
    pub(crate) used: Option<u64>,
    pub(crate) requested: u64,
    /// Until it fits if nobody else calls.
    pub(crate) try_again: Duration,
}

/// What is left of one limit a minute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Left {
    pub(crate) dimension: Dimension,
    pub(crate) limit: u64,
    pub(crate) remaining: u64,
    pub(crate) reset: Duration,
}

#[derive(Debug)]
struct Gauge {
    dimension: Dimension,
    period: Duration,
    /// Whether headers tell of it.
    shown: bool,
    meter: Meter,
    /// Its share of a shorter period.
    quantum: Option<Meter>,
}

/// The limits of one org on one pool.
#[derive(Debug)]
pub(crate) struct Quota {
    gauges: Vec<Gauge>,
    refused_calls: RefusedCalls,
    stranger: Option<Timetable>,
    stranger_cost: Cost,
    pub(crate) stranger_served: u64,
    pub(crate) stranger_refused: u64,
}

impl Quota {
    pub(crate) fn new(limits: &Limits, refused_calls: RefusedCalls, stranger: Option<&Stranger>) -> Self {
        let mut gauges = Vec::new();
        for dimension in DIMENSIONS {
            if let Some(limit) = limits.minute(dimension) {
                let meter = match limits.enforcement {
                    Enforcement::Refill => Meter::refill(limit, MINUTE),
                    Enforcement::Rolling => Meter::rolling(limit, MINUTE),
                    Enforcement::FixedMinute => Meter::fixed(limit, MINUTE),
                };
                let quantum = limits.quantum.map(|quantum| Meter::quantum(limit, MINUTE, quantum));
                gauges.push(Gauge { dimension, period: MINUTE, shown: true, meter, quantum });
            }
            if let Some(limit) = limits.day(dimension) {
                let meter = Meter::refill(limit, DAY);
                gauges.push(Gauge { dimension, period: DAY, shown: false, meter, quantum: None });
            }
        }
        // One image a call, or one call where images have no limit, and the tokens in proportion.
        let calls = limits.images.or(limits.requests).unwrap_or(0);
        let tokens = limits.tokens.unwrap_or(0).checked_div(calls).unwrap_or(0);
        let stranger = stranger.and_then(|stranger| Timetable::new(stranger, calls));
        let stranger_cost = Cost { images: 1, tokens };
        Self { gauges, refused_calls, stranger, stranger_cost, stranger_served: 0, stranger_refused: 0 }
    }

    /// Charges a call that arrives `at`, or says what it lacks.
    pub(crate) fn admit(&mut self, at: Duration, cost: Cost) -> Result<(), Shortage> {
        self.catch_up(at);
        self.charge(at, cost)
    }

    /// What is left of each limit a minute.
    pub(crate) fn left(&mut self, at: Duration) -> Vec<Left> {
        self.catch_up(at);
        let shown = self.gauges.iter_mut().filter(|gauge| gauge.shown);
        shown
            .map(|Gauge { dimension, meter, .. }| Left {
                dimension: *dimension,
                limit: meter.limit(),
                remaining: meter.remaining(at),
                reset: meter.reset(at),
            })
            .collect()
    }

    /// Lets the stranger's calls come that were due by now.
    pub(crate) fn catch_up(&mut self, now: Duration) {
        while let Some(at) = self.stranger.as_mut().and_then(|stranger| stranger.due(now)) {
            match self.charge(at, self.stranger_cost) {
                Ok(()) => self.stranger_served += 1,
                Err(_) => self.stranger_refused += 1,
            }
        }
    }

    fn charge(&mut self, at: Duration, cost: Cost) -> Result<(), Shortage> {
        if let Some(shortage) = self.gauges.iter_mut().find_map(|gauge| gauge.shortage(at, cost)) {
            self.charge_refused(at, cost);
            return Err(shortage);
        }
        for gauge in &mut self.gauges {
            let amount = cost.of(gauge.dimension);
            gauge.meters().for_each(|meter| meter.charge(at, amount));
        }
        Ok(())
    }

    fn charge_refused(&mut self, at: Duration, cost: Cost) {
        for gauge in &mut self.gauges {
            let counts = match self.refused_calls {
                RefusedCalls::CountAsRequests => gauge.dimension == Dimension::Requests,
                RefusedCalls::CountInFull => true,
                RefusedCalls::CountNothing => false,
            };
            if counts {
                let amount = cost.of(gauge.dimension);
                for meter in gauge.meters() {
                    let room = meter.remaining(at);
                    meter.charge(at, amount.min(room));
                }
            }
        }
    }
}

impl Gauge {
    fn meters(&mut self) -> impl Iterator<Item = &mut Meter> {
        iter::once(&mut self.meter).chain(&mut self.quantum)
    }

    /// What a call that does not fit lacks. Of a quantum only the wait is told: limit and use are those of the minute.
    fn shortage(&mut self, at: Duration, cost: Cost) -> Option<Shortage> {
        let (dimension, period, requested) = (self.dimension, self.period, cost.of(self.dimension));
        let short = self.meters().find_map(|meter| (!meter.fits(at, requested)).then_some(meter))?;
        let try_again = short.try_again(at, requested);
        let used = (!self.meter.never_fits(requested)).then(|| self.meter.used(at));
        Some(Shortage { dimension, period, limit: self.meter.limit(), used, requested, try_again })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Cost = Cost { images: 1, tokens: 100 };

    fn quota(limits: Limits) -> Quota {
        Quota::new(&limits, RefusedCalls::default(), None)
    }

    fn served(quota: &mut Quota, at_ms: u64, calls: u64) -> u64 {
        let at = Duration::from_millis(at_ms);
        (0..calls).filter(|_| quota.admit(at, ONE).is_ok()).count() as u64
    }

    #[test]
    fn a_refusal_charges_no_limit() {
        let mut quota = quota(Limits::new().images(10).tokens(100));
        let shortage = quota.admit(Duration::ZERO, Cost { images: 10, tokens: 101 }).unwrap_err();
        assert_eq!((shortage.dimension, shortage.used), (Dimension::Tokens, None), "it can never fit");
        quota.admit(Duration::ZERO, Cost { images: 10, tokens: 100 }).unwrap();
    }

    #[test]
    fn refused_calls_count_as_requests_as_far_as_there_is_room() {
        let limits = Limits::new().requests(3).images(1);
        for (refused_calls, requests_left) in
            [(RefusedCalls::CountAsRequests, 0), (RefusedCalls::CountInFull, 0), (RefusedCalls::CountNothing, 2)]
        {
            let mut quota = Quota::new(&limits, refused_calls, None);
            assert_eq!(served(&mut quota, 0, 9), 1);
            assert_eq!(quota.left(Duration::ZERO)[0].remaining, requests_left, "{refused_calls:?}");
        }
    }

    #[test]
    fn a_quantum_and_the_minute_hold_together() {
        let ten = Limits::new().images(6).quantum(Duration::from_secs(10));
        let mut minute = quota(ten);
        let calls: u64 = (0..60).map(|second| served(&mut minute, second * 1_000, 1)).sum();
        assert_eq!(calls, 6, "6 a minute are 1 in 10 s");

        let mut minute = quota(Limits::new().images(250).quantum(Duration::from_secs(1)));
        let calls: u64 = (0..600).map(|second| served(&mut minute, second * 1_000, 9)).sum();
        assert!((2_500..=2_750).contains(&calls), "5 each second would be 3,000; the minute allows {calls}");
    }

    #[test]
    fn a_quantum_tells_of_the_minute_and_of_its_own_wait() {
        let mut quota = quota(Limits::new().images(250).quantum(Duration::from_secs(1)));
        let shortage = (0..6).find_map(|_| quota.admit(Duration::ZERO, ONE).err()).unwrap();
        assert_eq!((shortage.limit, shortage.used, shortage.requested), (250, Some(5), 1));
        assert_eq!(shortage.try_again, Duration::from_millis(200), "as if 5 a second were the limit");
    }

    #[test]
    fn a_day_holds_its_own_limit() {
        let mut quota = quota(Limits::new().images(10).images_a_day(15));
        assert_eq!(served(&mut quota, 0, 20), 10);
        assert_eq!(served(&mut quota, 60_000, 20), 5);
        let shortage = quota.admit(Duration::from_secs(60), ONE).unwrap_err();
        assert_eq!((shortage.period, shortage.limit), (DAY, 15));
    }

    #[test]
    fn a_stranger_takes_its_share_of_every_limit() {
        let limits = Limits::new().images(100).tokens(1_000_000).enforcement(Enforcement::Rolling);
        let mut quota = Quota::new(&limits, RefusedCalls::default(), Some(&Stranger::new(0.30)));
        let left: Vec<_> = quota.left(Duration::from_secs(61)).iter().map(|left| left.remaining).collect();
        assert_eq!(left, [70, 700_000]);
        assert_eq!(quota.stranger_served, 30);
        assert_eq!(served(&mut quota, 61_000, 200), 70);
    }

    #[test]
    fn a_stranger_is_refused_as_anybody_is() {
        let mut quota = Quota::new(&Limits::new().images(100), RefusedCalls::default(), Some(&Stranger::new(2.0)));
        quota.catch_up(10 * MINUTE);
        assert_eq!(quota.stranger_served + quota.stranger_refused, 2_000);
        assert!((1_000..=1_100).contains(&quota.stranger_served), "{} were served", quota.stranger_served);
    }
}
