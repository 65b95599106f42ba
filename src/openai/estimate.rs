//! What a call will cost, before it is made.
//!
//! Invariant: where a figure is not known before the call, the estimate is a configured prior or the maximum, until calls have shown
//! better. No amount is above what a cost may have.

mod estimator;

use serde::{Deserialize, Serialize};

pub use self::estimator::Estimator;
use crate::{
    cost::Cost,
    openai::{
        learning::Part,
        price::Tokens,
        request::{Quality, Size},
    },
    policy::Certainty,
};

/// The custom resource that counts money, in millionths of a dollar.
pub(super) const SPEND: &str = "spend_micros";

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
    /// What stands for a size or quality that the model chooses.
    pub basis: Basis,
    /// How far to trust the rules for the images. [`Certainty::Unverified`] for a model that is not known: it goes by the rules of the
    /// newest. That of the text is an estimate for all of them.
    pub certainty: Certainty,
    /// What is expected to be billed, by what was learnt: `tokens` by their kinds.
    pub(super) billed: Tokens,
    /// What is learnt of such calls.
    part: Part,
    /// Of `images`, those that are not drawn.
    images_in: u64,
}

/// What stands for the size and quality of an estimate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Basis {
    /// Both were asked for.
    Asked,
    /// One was left to the model, and the client has a prior for it.
    Prior,
    /// One was left to the model: the most that any can cost.
    Maximum,
}

/// What is taken for a size or quality that is left to the model.
///
/// Without a prior, an estimate is the most that any size or quality can cost, which may be ten times what is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct Priors {
    /// For `size = auto`. Default: `auto`, the maximum.
    pub size: Size,
    /// For `quality = auto`. Default: `auto`, the maximum.
    pub quality: Quality,
}

impl Priors {
    /// Takes these for what is left to the model.
    #[must_use]
    pub fn new(size: Size, quality: Quality) -> Self {
        Self { size, quality }
    }
}

/// How many images of a limit each image of a call counts for. Sources conflict on what upstream counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct Weights {
    /// Each image that is drawn. Default: 1.
    pub drawn: u64,
    /// Each image to edit. Default: 0.
    pub inputs: u64,
    /// The mask. Default: 0.
    pub mask: u64,
}

impl Weights {
    /// Each image to edit counts too, as some report.
    pub const CONSERVATIVE: Self = Self { drawn: 1, inputs: 1, mask: 1 };
}

impl Default for Weights {
    fn default() -> Self {
        Self { drawn: 1, inputs: 0, mask: 0 }
    }
}

impl Estimate {
    /// The cost to ask the limiter for: one request, tokens, images, and `spend_micros` where it is known.
    ///
    /// A limit on money is an ordinary limit:
    ///
    /// ```
    /// use std::time::Duration;
    /// use allotment::{Limit, Limiter, Outcome, Policy, Subject};
    /// use allotment::openai::{Estimator, ImageRequest, Models, Quality, Size};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let day = Duration::from_secs(86_400);
    /// let policy = Policy::new().limit(Limit::new("spend").amount("spend_micros", 500_000).window(day)); // half a dollar
    /// let limiter = Limiter::builder().policy(policy).build()?;
    ///
    /// let request = ImageRequest::generate("a lighthouse").size(Size::SQUARE).quality(Quality::High);
    /// let estimate = Estimator::new(Models::embedded()).estimate("gpt-image-2", &request)?;
    /// assert_eq!(estimate.spend_micros, Some(210_740)); // about 21 cents
    ///
    /// let acme = Subject::org("acme");
    /// for _ in 0..2 {
    ///     limiter.try_acquire(&acme, estimate.cost()).await?.into_result()?;
    /// }
    /// assert!(matches!(limiter.try_acquire(&acme, estimate.cost()).await?, Outcome::Denied(_)));
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn cost(&self) -> Cost {
        cost(self.tokens, self.images, self.spend_micros)
    }
}

/// One request, and no amount above what a cost may have.
fn cost(tokens: u64, images: u64, spend_micros: Option<u64>) -> Cost {
    let cost = Cost::images(images.min(Cost::AMOUNT_MAX)).tokens(tokens.min(Cost::AMOUNT_MAX));
    match spend_micros {
        Some(micros) => cost.amount(SPEND, micros.min(Cost::AMOUNT_MAX)),
        None => cost,
    }
}
