//! What a call will cost, before it is made.
//!
//! Invariant: where a figure is not known before the call, the estimate is a configured prior or the maximum, never less.

use crate::{
    cost::Cost,
    openai::{error::ImageError, models::Models, request::ImageRequest, usage::Usage},
};

/// What one call is expected to cost.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Estimate {
    /// Of the prompt.
    pub text_tokens: u64,
    /// Of the inputs and the mask.
    pub input_image_tokens: u64,
    /// Of the images that are drawn.
    pub output_tokens: u64,
    /// Of the partial images of a stream.
    pub partial_tokens: u64,
    /// What the tokens come to by what was learnt of the model.
    pub tokens: u64,
    /// Images as the limits count them.
    pub images: u64,
    /// In millionths of a dollar, where the prices are known.
    pub spend_micros: Option<u64>,
}

impl Estimate {
    /// The cost to ask the limiter for: one request, tokens, images, and `spend_micros` where it is known.
    #[must_use]
    pub fn cost(&self) -> Cost {
        todo!()
    }
}

/// Estimates costs, and learns from what calls turn out to use. A clone shares what was learnt.
#[derive(Clone, Debug)]
pub struct Estimator {}

impl Estimator {
    /// An estimator that has learnt nothing.
    #[must_use]
    pub fn new(_models: Models) -> Self {
        todo!()
    }

    /// What `request` will cost of `model`.
    pub fn estimate(&self, _model: &str, _request: &ImageRequest) -> Result<Estimate, ImageError> {
        todo!()
    }

    /// The cost that a call turned out to have, with so many images drawn.
    pub(super) fn actual(&self, _model: &str, _estimate: &Estimate, _usage: &Usage, _images: usize) -> Cost {
        todo!()
    }

    /// Takes note of what a call turned out to use.
    pub fn learn(&self, _model: &str, _estimate: &Estimate, _usage: &Usage) {
        todo!()
    }
}
