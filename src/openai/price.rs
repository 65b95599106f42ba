//! What tokens cost, in millionths of a dollar.
//!
//! Invariant: integers, rounded up once per call. Where a discount cannot be told, it is not taken.

use serde::Deserialize;

use crate::{openai::usage::Usage, policy::Certainty};

/// The tokens of one call, by what they are billed as.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tokens {
    pub(super) text_in: u64,
    pub(super) image_in: u64,
    pub(super) image_out: u64,
}

/// Prices in millionths of a dollar for a million tokens: $30 is 30,000,000.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Prices {
    text_in: u64,
    text_in_cached: Option<u64>,
    image_in: u64,
    image_in_cached: Option<u64>,
    image_out: u64,
    /// As images, unless it is said.
    text_out: Option<u64>,
    pub(super) source: String,
    pub(super) certainty: Certainty,
}

impl Prices {
    /// What these tokens cost before anything is known to come from a cache.
    pub(super) fn spend_micros(&self, tokens: Tokens) -> u64 {
        let parts =
            [(tokens.text_in, self.text_in), (tokens.image_in, self.image_in), (tokens.image_out, self.image_out)];
        micros(parts.into_iter().map(|(tokens, price)| product(tokens, price)).sum())
    }

    /// What a call cost. Tokens that upstream does not tell apart are taken for the dearer kind.
    pub(super) fn spend_micros_of(&self, usage: &Usage) -> u64 {
        let text_out = self.text_out.unwrap_or(self.image_out);
        let input_other =
            usage.input_tokens.saturating_sub(usage.input_text_tokens.saturating_add(usage.input_image_tokens));
        let output_known = usage.output_text_tokens.saturating_add(usage.output_image_tokens);
        let output_other = usage.output_tokens.saturating_sub(output_known);
        let dearest_in = self.text_in.max(self.image_in);
        let dearest_out = self.image_out.max(text_out);
        let parts = [
            (usage.input_text_tokens, self.text_in),
            (usage.input_image_tokens, self.image_in),
            (input_other, dearest_in),
            (usage.output_text_tokens, text_out),
            (usage.output_image_tokens, self.image_out),
            (output_other, dearest_out),
            (usage.unnamed_tokens(), dearest_in.max(dearest_out)),
        ];
        let full: u128 = parts.into_iter().map(|(tokens, price)| product(tokens, price)).sum();
        micros(full.saturating_sub(self.discount(usage)))
    }

    /// What is off for tokens from upstream's cache. It does not say which they were, so the smaller discount counts.
    fn discount(&self, usage: &Usage) -> u128 {
        let off = |full: u64, cached: Option<u64>| cached.map_or(0, |cached| full.saturating_sub(cached));
        let (text, image) = (off(self.text_in, self.text_in_cached), off(self.image_in, self.image_in_cached));
        let per_token = match (usage.input_text_tokens, usage.input_image_tokens) {
            (_, 0) => text,
            (0, _) => image,
            _ => text.min(image),
        };
        product(usage.cached_tokens.min(usage.input_tokens), per_token)
    }
}

fn product(tokens: u64, price: u64) -> u128 {
    u128::from(tokens) * u128::from(price)
}

fn micros(product: u128) -> u64 {
    u64::try_from(product.div_ceil(1_000_000)).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::openai::models::Models;

    fn prices(model: &str) -> Prices {
        Models::embedded().get(model).facts().prices.clone().unwrap()
    }

    /// The guide's prices of one image, output only, in thousandths of a dollar and rounded.
    #[test]
    fn the_guides_prices_per_image_are_what_its_tokens_come_to() {
        let rows = [
            ("gpt-image-2", 196, 6),
            ("gpt-image-2", 158, 5),
            ("gpt-image-2", 1756, 53),
            ("gpt-image-2", 1372, 41),
            ("gpt-image-2", 7024, 211),
            ("gpt-image-2", 5488, 165),
            ("gpt-image-1.5", 4160, 133),
            ("gpt-image-1.5", 6240, 200),
            ("gpt-image-1", 4160, 167),
            ("gpt-image-1", 6240, 250),
        ];
        for (model, image_out, thousandths) in rows {
            let spend = prices(model).spend_micros(Tokens { image_out, ..Tokens::default() });
            assert!(spend.abs_diff(thousandths * 1000) <= 600, "{model} {image_out}: {spend}");
        }
        let exact = prices("gpt-image-2").spend_micros(Tokens { image_out: 7024, ..Tokens::default() });
        assert_eq!(exact, 210_720);
    }

    #[test]
    fn a_part_of_a_millionth_is_rounded_up_once() {
        let tokens = Tokens { text_in: 1, image_in: 1, image_out: 0 };
        assert_eq!(prices("gpt-image-1-mini").spend_micros(tokens), 5, "2 + 2.5");
    }

    #[test]
    fn usage_is_billed_by_kind_and_the_rest_as_the_dearest() {
        let usage = |input: [u64; 3], output: [u64; 3]| Usage {
            input_tokens: input[0],
            input_text_tokens: input[1],
            input_image_tokens: input[2],
            output_tokens: output[0],
            output_text_tokens: output[1],
            output_image_tokens: output[2],
            ..Usage::default()
        };
        let rows = [
            (usage([30, 10, 20], [100, 0, 100]), 10 * 5 + 20 * 8 + 100 * 30),
            (usage([30, 0, 0], [100, 0, 0]), 30 * 8 + 100 * 30),
            (usage([30, 10, 0], [100, 40, 60]), 10 * 5 + 20 * 8 + 100 * 30),
            (usage([0, 0, 0], [0, 0, 0]), 0),
            (Usage { total_tokens: 150, ..usage([30, 30, 0], [100, 0, 100]) }, 30 * 5 + 100 * 30 + 20 * 30),
        ];
        for (usage, micros) in rows {
            assert_eq!(prices("gpt-image-2").spend_micros_of(&usage), micros, "{usage:?}");
        }
    }

    #[test]
    fn cached_tokens_are_cheaper_where_it_is_known_by_how_much() {
        let text = Usage { input_tokens: 100, input_text_tokens: 100, cached_tokens: 40, ..Usage::default() };
        let image = Usage { input_tokens: 100, input_image_tokens: 100, cached_tokens: 40, ..Usage::default() };
        let both = Usage { input_text_tokens: 50, input_image_tokens: 50, ..text };
        assert_eq!(prices("gpt-image-1").spend_micros_of(&text), 350, "60 x 5 + 40 x 1.25");
        assert_eq!(prices("gpt-image-1").spend_micros_of(&image), 700, "60 x 10 + 40 x 2.5");
        assert_eq!(prices("gpt-image-1").spend_micros_of(&both), 600, "50 x 5 + 50 x 10 - 40 x 3.75");
        assert_eq!(prices("gpt-image-2").spend_micros_of(&text), 500, "no price is known for them");
    }

    #[test]
    fn absurd_usage_does_not_overflow() {
        let all = u64::MAX;
        let usage = Usage {
            input_tokens: all,
            input_text_tokens: all,
            output_tokens: all,
            cached_tokens: all,
            ..Usage::default()
        };
        assert_eq!(prices("gpt-image-1").spend_micros_of(&usage), u64::MAX);
    }
}
