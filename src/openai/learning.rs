//! What calls turned out to use, against what was estimated: one factor per model and kind of call.
//!
//! Invariant: integers, so that an estimate that is always right stays exactly as it is. A factor is bounded, and a few calls change nothing.
//! Lacks persistence on purpose: what a process learns, it learns again in a minute.

use std::{collections::BTreeMap, sync::Arc};

use parking_lot::Mutex;
use serde::Serialize;

use crate::openai::request::Quality;

/// One, in millionths.
pub(super) const ONE: u64 = 1_000_000;
/// So many calls before a factor is used.
const SAMPLES_MIN: u64 = 8;
/// A call weighs at least a 16th of what was learnt before.
const MEMORY: u64 = 16;
/// So many factors, whatever names of models are asked for.
const FACTORS_MAX: usize = 256;

/// What an estimate is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Part {
    /// The images to edit and the mask.
    InputImages,
    /// The images that are drawn.
    Output {
        /// That was asked for, `auto` included.
        quality: Quality,
        /// Whether the size was left to the model.
        auto_size: bool,
    },
}

impl Part {
    /// Within which millionths a factor stays. A figure that the model chooses may be far below its maximum.
    fn bounds(self) -> std::ops::RangeInclusive<u64> {
        match self {
            Self::Output { quality: Quality::Auto, .. } | Self::Output { auto_size: true, .. } => ONE / 256..=4 * ONE,
            Self::InputImages | Self::Output { .. } => ONE / 4..=4 * ONE,
        }
    }
}

/// What was learnt of one part of the calls of one model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Correction {
    /// The model.
    pub model: Arc<str>,
    /// Which estimates.
    pub part: Part,
    /// What was used for each million tokens that were estimated: 500,000 where it was half.
    pub factor_ppm: u64,
    /// From how many calls.
    pub samples: u64,
    /// Whether estimates are multiplied by it: not before there are 8 samples.
    pub applied: bool,
}

/// The factors of one estimator and its clones.
#[derive(Debug, Default)]
pub(super) struct Learning {
    factors: Mutex<BTreeMap<Key, Factor>>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    model: Arc<str>,
    part: Part,
}

#[derive(Clone, Copy, Debug)]
struct Factor {
    ppm: u64,
    samples: u64,
}

/// Tokens of one part of a call.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sample {
    pub(super) estimated: u64,
    pub(super) used: u64,
}

impl Learning {
    /// The estimate as what was learnt makes it, rounded up.
    pub(super) fn correct(&self, model: &Arc<str>, part: Part, estimated: u64) -> u64 {
        let key = Key { model: model.clone(), part };
        let learnt = self.factors.lock().get(&key).copied().filter(|factor| factor.samples >= SAMPLES_MIN);
        let Some(factor) = learnt else { return estimated };
        let tokens = (u128::from(estimated) * u128::from(factor.ppm)).div_ceil(u128::from(ONE));
        u64::try_from(tokens).unwrap_or(u64::MAX)
    }

    /// Takes note of a call. One that used or was estimated at nothing says nothing.
    pub(super) fn learn(&self, model: &Arc<str>, part: Part, sample: Sample) {
        let Sample { estimated, used } = sample;
        if estimated == 0 || used == 0 {
            return;
        }
        let bounds = part.bounds();
        let ratio = u128::from(used) * u128::from(ONE) / u128::from(estimated);
        let ratio = u64::try_from(ratio).unwrap_or(u64::MAX).clamp(*bounds.start(), *bounds.end());
        let mut factors = self.factors.lock();
        let key = Key { model: model.clone(), part };
        if factors.len() >= FACTORS_MAX && !factors.contains_key(&key) {
            return;
        }
        let factor = factors.entry(key).or_insert(Factor { ppm: ratio, samples: 0 });
        factor.samples += 1;
        // the mean of the first calls, then one that forgets
        let weight = factor.samples.min(MEMORY);
        factor.ppm = (factor.ppm * (weight - 1) + ratio) / weight;
    }

    /// All that was learnt, by model and part.
    pub(super) fn corrections(&self) -> Vec<Correction> {
        let factors = self.factors.lock();
        let corrections = factors.iter().map(|(key, factor)| Correction {
            model: key.model.clone(),
            part: key.part,
            factor_ppm: factor.ppm,
            samples: factor.samples,
            applied: factor.samples >= SAMPLES_MIN,
        });
        corrections.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HIGH: Part = Part::Output { quality: Quality::High, auto_size: false };
    const AUTO: Part = Part::Output { quality: Quality::Auto, auto_size: true };

    fn model() -> Arc<str> {
        "gpt-image-2".into()
    }

    fn learnt(part: Part, used: impl IntoIterator<Item = u64>) -> Learning {
        let learning = Learning::default();
        for used in used {
            learning.learn(&model(), part, Sample { estimated: 7024, used });
        }
        learning
    }

    #[test]
    fn an_estimate_that_is_always_right_stays_exactly_as_it_is() {
        let learning = learnt(HIGH, [7024; 1000]);
        assert_eq!(learning.corrections()[0].factor_ppm, ONE);
        for estimated in [1, 196, 7024, u64::MAX] {
            assert_eq!(learning.correct(&model(), HIGH, estimated), estimated);
        }
    }

    #[test]
    fn a_few_calls_change_nothing() {
        assert_eq!(learnt(HIGH, [3512; 7]).correct(&model(), HIGH, 7024), 7024);
        assert!(!learnt(HIGH, [3512; 7]).corrections()[0].applied);
        assert_eq!(learnt(HIGH, [3512; 8]).correct(&model(), HIGH, 7024), 3512);
    }

    #[test]
    fn it_follows_what_changes_and_forgets_what_was() {
        let used = std::iter::repeat_n(7024, 100).chain([3512; 100]);
        let tokens = learnt(HIGH, used).correct(&model(), HIGH, 7024);
        assert!((3512..=3530).contains(&tokens), "{tokens}");
    }

    #[test]
    fn one_odd_call_moves_it_by_little() {
        let used = std::iter::repeat_n(7024, 100).chain([u64::MAX]);
        let factor = learnt(HIGH, used).corrections()[0].factor_ppm;
        assert_eq!(factor, ONE + 3 * ONE / 16, "as if it were four times the estimate");
    }

    #[test]
    fn a_factor_is_bounded() {
        for (part, used, factor) in
            [(HIGH, 1, ONE / 4), (HIGH, u64::MAX, 4 * ONE), (AUTO, 1, ONE / 256), (Part::InputImages, 1, ONE / 4)]
        {
            assert_eq!(learnt(part, [used; 50]).corrections()[0].factor_ppm, factor, "{part:?}");
        }
    }

    #[test]
    fn kinds_of_calls_and_models_are_learnt_apart() {
        let learning = learnt(AUTO, [702; 50]);
        assert_eq!(learning.correct(&model(), HIGH, 7024), 7024);
        assert_eq!(learning.correct(&"gpt-image-1".into(), AUTO, 7024), 7024);
        assert!(learning.correct(&model(), AUTO, 7024) <= 702 + 1);
    }

    #[test]
    fn nothing_used_or_estimated_is_no_sample() {
        let learning = learnt(HIGH, [0; 50]);
        learning.learn(&model(), HIGH, Sample { estimated: 0, used: 100 });
        assert!(learning.corrections().is_empty());
    }

    #[test]
    fn names_that_callers_make_up_do_not_fill_the_memory() {
        let learning = Learning::default();
        for number in 0..1000 {
            learning.learn(&format!("made-up-{number}").into(), HIGH, Sample { estimated: 1, used: 1 });
        }
        assert_eq!(learning.corrections().len(), FACTORS_MAX);
    }
}
