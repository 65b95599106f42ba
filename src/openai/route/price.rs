//! What a call costs on a route that does not cost what the table of models says.
//!
//! Invariant: in whole millionths of a dollar, rounded up.

use crate::openai::{estimate::Estimate, price::Tokens, usage::Usage};

/// What a call costs on a route. Micros are millionths of a dollar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RoutePrice {
    /// So much for each image, whatever it takes.
    PerImage {
        /// Of one image.
        micros: u64,
    },
    /// So much for a million tokens.
    PerMillionTokens {
        /// Of the prompt.
        text_input: u64,
        /// Of images to edit.
        image_input: u64,
        /// Of what is drawn.
        output: u64,
    },
    /// What the table of models says, times so many thousandths: 1,250 is a quarter more.
    Factor {
        /// Of the price of the table.
        permille: u32,
    },
}

impl RoutePrice {
    /// What a call is expected to cost; `None` where the table does not know.
    pub(in crate::openai) fn estimated(self, estimate: &Estimate, images: u64) -> Option<u64> {
        match self {
            Self::PerMillionTokens { text_input, image_input, output } => {
                let Tokens { text_in, image_in, image_out } = estimate.billed;
                Some(per_million(&[(text_in, text_input), (image_in, image_input), (image_out, output)]))
            }
            other => other.flat(images, estimate.spend_micros),
        }
    }

    /// What a call has cost, with so many images drawn; `listed` is what it costs by the table. `None` where that cannot be told.
    pub(in crate::openai) fn actual(self, usage: &Usage, images: u64, listed: Option<u64>) -> Option<u64> {
        match self {
            Self::PerMillionTokens { .. } if !usage.tells_apart() => None,
            Self::PerMillionTokens { text_input, image_input, output } => {
                // what upstream does not tell apart is charged at the dearer price
                let named = usage.input_text_tokens.saturating_add(usage.input_image_tokens);
                let unnamed = usage.input_tokens.saturating_sub(named);
                let parts = [
                    (usage.input_text_tokens, text_input),
                    (usage.input_image_tokens, image_input),
                    (unnamed, text_input.max(image_input)),
                    (usage.output_tokens, output),
                    (usage.unnamed_tokens(), text_input.max(image_input).max(output)),
                ];
                Some(per_million(&parts))
            }
            other => other.flat(images, listed),
        }
    }

    fn flat(self, images: u64, listed: Option<u64>) -> Option<u64> {
        match self {
            Self::PerImage { micros } => Some(images.saturating_mul(micros)),
            Self::Factor { permille } => Some(rounded_up(u128::from(listed?) * u128::from(permille), 1_000)),
            Self::PerMillionTokens { .. } => None,
        }
    }
}

/// Tokens, each at its price of a million.
fn per_million(parts: &[(u64, u64)]) -> u64 {
    let each = parts.iter().map(|(tokens, micros)| u128::from(*tokens) * u128::from(*micros));
    rounded_up(each.fold(0, u128::saturating_add), 1_000_000)
}

fn rounded_up(amount: u128, parts: u128) -> u64 {
    u64::try_from(amount.div_ceil(parts)).unwrap_or(u64::MAX)
}

/// What tests of routes estimate.
#[cfg(test)]
pub(super) mod tried {
    use super::{Estimate, Tokens};
    use crate::openai::{estimate::Estimator, models::Models, request::ImageRequest};

    pub(in crate::openai::route) fn estimate(spend_micros: Option<u64>) -> Estimate {
        let estimator = Estimator::new(Models::embedded());
        let mut estimate = estimator.estimate("gpt-image-2", &ImageRequest::generate("a")).unwrap();
        estimate.billed = Tokens { text_in: 100, image_in: 1_000, image_out: 7_024 };
        estimate.tokens = 8_124;
        (estimate.images, estimate.spend_micros) = (1, spend_micros);
        estimate
    }
}

#[cfg(test)]
mod tests {
    use super::{tried::estimate, *};
    use crate::openai::{estimate::Estimator, models::Models, request::ImageRequest};

    /// Facts 1.4: 7024 x $30/1M = $0.2107, here rounded up.
    #[test]
    fn a_price_of_a_million_tokens_is_charged_by_the_parts() {
        let price = RoutePrice::PerMillionTokens { text_input: 5_000_000, image_input: 8_000_000, output: 30_000_000 };
        assert_eq!(price.estimated(&estimate(None), 1), Some(500 + 8_000 + 210_720));
        let usage = Usage { input_tokens: 30, input_text_tokens: 10, output_tokens: 7_024, ..Usage::default() };
        assert_eq!(price.actual(&usage, 1, None), Some(50 + 160 + 210_720), "20 tokens are not told apart");
        let one = Usage { output_tokens: 1, ..Usage::default() };
        let small = RoutePrice::PerMillionTokens { text_input: 0, image_input: 0, output: 1 };
        assert_eq!(small.actual(&one, 1, None), Some(1), "rounded up");
        let total = Usage { total_tokens: 7_064, ..usage };
        assert_eq!(price.actual(&total, 1, None), Some(50 + 160 + 210_720 + 300), "10 are only in the total");
        let alone = Usage { total_tokens: 5_000, ..Usage::default() };
        assert_eq!(price.actual(&alone, 1, Some(7)), None, "of what, nobody tells");
    }

    #[test]
    fn a_price_of_a_million_tokens_goes_by_what_was_learnt_as_the_table_does() {
        let listed = RoutePrice::PerMillionTokens { text_input: 5_000_000, image_input: 8_000_000, output: 30_000_000 };
        let (estimator, auto) = (Estimator::new(Models::embedded()), ImageRequest::generate("a lighthouse"));
        let first = estimator.estimate("gpt-image-2", &auto).unwrap();
        let usage = Usage { input_tokens: 4, output_tokens: 1_756, total_tokens: 1_760, ..Usage::default() };
        (0..8).for_each(|_| estimator.learn("gpt-image-2", &first, &usage));
        let learnt = estimator.estimate("gpt-image-2", &auto).unwrap();
        for estimate in [first, learnt] {
            assert_eq!(listed.estimated(&estimate, 1), estimate.spend_micros);
        }
    }

    #[test]
    fn a_price_of_an_image_or_a_factor_goes_by_them() {
        let (image, factor) = (RoutePrice::PerImage { micros: 30_000 }, RoutePrice::Factor { permille: 1_250 });
        assert_eq!(image.estimated(&estimate(None), 3), Some(90_000));
        assert_eq!(factor.estimated(&estimate(Some(101)), 3), Some(127));
        assert_eq!(factor.estimated(&estimate(None), 3), None);
        assert_eq!(image.actual(&Usage::default(), 2, Some(7)), Some(60_000));
        assert_eq!(factor.actual(&Usage::default(), 2, Some(8)), Some(10));
    }
}
