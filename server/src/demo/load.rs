//! The traffic: who asks for how many images, and when.
//!
//! Invariant: a function of its settings and the seed alone, so that a run under limits, one without, and one spread over processes meet
//! the same calls. All times are unscaled.

use std::time::Duration;

use allotment::Subject;
use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use serde::{Deserialize, Serialize};

use super::upstream::{MINUTE, MODEL};

/// What the greedy users together want, in quotas.
const GREEDY_SHARE: f64 = 1.5;
/// What the light users together want, in quotas.
const LIGHT_SHARE: f64 = 0.7;
/// How long a greedy and a light user wait for a place. The line grows until the least patient turn away.
const GREEDY_PATIENCE: Duration = Duration::from_secs(10);
const LIGHT_PATIENCE: Duration = Duration::from_secs(45);
/// Tokens of an image: mostly medium quality, some low, few high.
const TOKENS: [u64; 8] = [196, 1_756, 1_756, 1_756, 1_372, 1_372, 1_756, 7_024];

/// What decides the traffic.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Load {
    pub(crate) users: usize,
    /// Images a minute of the upstream: together the users want more.
    pub(crate) quota: u64,
    pub(crate) duration: Duration,
    pub(crate) seed: u64,
    /// The most images of one call.
    pub(crate) images_max: u64,
}

/// One call a user wants to make.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Call {
    /// Since the start of the run.
    pub(crate) asked_after: Duration,
    pub(crate) images: u64,
    /// What the images will turn out to take.
    pub(crate) tokens: u64,
    /// How long the upstream takes to draw them.
    pub(crate) drawn_after: Duration,
    /// How long the user waits for a place.
    pub(crate) patience: Duration,
}

impl Load {
    /// The users that want much: the first ones, a tenth of all.
    fn greedy(&self) -> usize {
        self.users.div_ceil(10)
    }

    fn is_greedy(&self, user: usize) -> bool {
        user < self.greedy()
    }

    /// The name of a user, which says what kind of user it is.
    pub(crate) fn name(&self, user: usize) -> String {
        let light = self.users - self.greedy();
        let width = |count: usize| count.to_string().len();
        if self.is_greedy(user) {
            format!("greedy-{:0width$}", user + 1, width = width(self.greedy()))
        } else {
            format!("light-{:0width$}", user - self.greedy() + 1, width = width(light))
        }
    }

    /// The subject of a user of `org`.
    pub(crate) fn subject(&self, org: &str, user: usize) -> Subject {
        let tier = if self.is_greedy(user) { "pro" } else { "free" };
        Subject::org(org).user(self.name(user)).model(MODEL).attribute("tier", tier)
    }

    /// The calls of a user in the order of their times.
    pub(crate) fn calls_of(&self, user: usize) -> impl Iterator<Item = Call> + Send + use<> {
        let greedy = self.is_greedy(user);
        let (share, sharers, patience) = if greedy {
            (GREEDY_SHARE, self.greedy(), GREEDY_PATIENCE)
        } else {
            (LIGHT_SHARE, self.users - self.greedy(), LIGHT_PATIENCE)
        };
        let batches: Vec<u64> = [1, 1, 1, 1, 1, 2, 2, 4].map(|images: u64| images.min(self.images_max)).to_vec();
        let images_mean = batches.iter().sum::<u64>() as f64 / batches.len() as f64;
        let calls_per_second = self.quota as f64 * share / sharers as f64 / images_mean / MINUTE.as_secs_f64();
        let duration = self.duration;
        // One generator per user: how users are dealt to processes does not change what they want.
        let mut rng = StdRng::seed_from_u64(self.seed ^ (user as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let mut asked_s = 0.0;
        std::iter::from_fn(move || {
            asked_s += -(1.0 - rng.random::<f64>()).ln() / calls_per_second;
            let asked_after = Duration::try_from_secs_f64(asked_s).ok().filter(|asked| *asked < duration)?;
            let images = batches.choose(&mut rng).copied().unwrap_or(1);
            let tokens = (0..images).filter_map(|_| TOKENS.choose(&mut rng)).sum();
            let drawn_after = Duration::from_millis(rng.random_range(100..=500));
            Some(Call { asked_after, images, tokens, drawn_after, patience })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOAD: Load = Load { users: 40, quota: 250, duration: Duration::from_secs(600), seed: 1, images_max: 4 };

    fn images(load: &Load, users: impl Iterator<Item = usize>) -> u64 {
        users.flat_map(|user| load.calls_of(user)).map(|call| call.images).sum()
    }

    #[test]
    fn the_same_seed_gives_the_same_calls_and_another_gives_others() {
        let calls = |seed| Load { seed, ..LOAD }.calls_of(3).collect::<Vec<_>>();
        assert_eq!(calls(1), calls(1));
        assert_ne!(calls(1), calls(2));
    }

    #[test]
    fn calls_come_in_order_and_within_the_run() {
        let calls: Vec<_> = LOAD.calls_of(0).collect();
        assert!(calls.is_sorted_by_key(|call| call.asked_after));
        assert!(calls.iter().all(|call| call.asked_after < LOAD.duration && (1..=4).contains(&call.images)));
    }

    #[test]
    fn more_is_wanted_than_the_quota_mostly_by_few() {
        let quota = 250 * 10;
        let all = images(&LOAD, 0..40) as f64 / f64::from(quota);
        let greedy = images(&LOAD, 0..4) as f64 / f64::from(quota);
        assert!((2.0..2.4).contains(&all), "{all}");
        assert!((1.35..1.65).contains(&greedy), "{greedy}");
    }

    #[test]
    fn names_are_of_one_length_and_tell_the_kind() {
        assert_eq!(LOAD.name(0), "greedy-1");
        assert_eq!(LOAD.name(4), "light-01");
        assert_eq!(LOAD.name(39), "light-36");
        assert_eq!(Load { users: 1, ..LOAD }.name(0), "greedy-1");
    }
}
