//! What decides about the place of a route in the order.

use std::{cmp::Ordering, sync::Arc};

use crate::openai::route::state::{RouteState, Standing};

/// A route and what decides about its place: less comes first.
pub(super) struct Ranked<'a> {
    pub(super) badness: f64,
    pub(super) priority: u8,
    pub(super) draw: f64,
    pub(super) state: &'a Arc<RouteState>,
}

impl Ranked<'_> {
    pub(super) fn compare(&self, other: &Self) -> Ordering {
        self.badness
            .total_cmp(&other.badness)
            .then(self.priority.cmp(&other.priority))
            .then(self.draw.total_cmp(&other.draw))
    }
}

pub(super) fn badness_by_score(standing: Standing) -> f64 {
    match standing {
        Standing { score: Some(score), .. } => -score,
        // one call measures it; the others go where it is known to be good
        Standing { score: None, under_way: 0 } => f64::NEG_INFINITY,
        Standing { score: None, .. } => 0.0,
    }
}

/// Comes first as often as its weight says, of all weights.
///
/// # Source
///
/// Efraimidis and Spirakis, Weighted random sampling with a reservoir, 2006.
pub(super) fn weighted(draws: &mut fastrand::Rng, weight: u32) -> f64 {
    // of 0 to 1 without 0
    let draw = 1.0 - draws.f64();
    -draw.ln() / f64::from(weight)
}
