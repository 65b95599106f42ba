//! What a drawing takes in tokens, by the published tables.
//!
//! Invariant: its own reading of them, so that it and a client can disagree.

use serde_json::{Value, json};

use crate::{
    drawing::{Drawing, Pixels, Quality},
    models::{Counting, model},
};

/// Each partial image costs this many tokens.
const PARTIAL: u64 = 100;

/// The tokens of one call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    pub(crate) text_in: u64,
    pub(crate) images_in: u64,
    pub(crate) images_out: u64,
}

impl Usage {
    /// Of a drawing; what is drawn takes `factor` times what the tables say.
    pub(crate) fn of(drawing: &Drawing, factor: f64) -> Self {
        let counting = model(&drawing.model).map_or(Counting::Formula([16, 48, 96, 96, 96]), |model| model.counting);
        let fidelity = drawing.high_fidelity || counting != Counting::Table;
        let one = drawn(counting, drawing.size, drawing.quality);
        let images_out = drawing.n * (one + drawing.partial_images * PARTIAL);
        Self {
            text_in: drawing.prompt.chars().count().div_ceil(4) as u64,
            images_in: drawing.inputs.iter().map(|&pixels| given(pixels, fidelity)).sum(),
            images_out: (images_out as f64 * factor).ceil() as u64,
        }
    }

    pub(crate) fn total(&self) -> u64 {
        self.text_in + self.images_in + self.images_out
    }

    pub(crate) fn json(&self) -> Value {
        json!({
            "input_tokens": self.text_in + self.images_in,
            "input_tokens_details": { "image_tokens": self.images_in, "text_tokens": self.text_in },
            "output_tokens": self.images_out,
            "output_tokens_details": { "image_tokens": self.images_out, "text_tokens": 0 },
            "total_tokens": self.total(),
        })
    }
}

/// One picture. A size that the table lacks counts as the nearest shape in it.
fn drawn(counting: Counting, Pixels { width, height }: Pixels, quality: Quality) -> u64 {
    let column = match quality {
        Quality::Low => 0,
        Quality::Medium => 1,
        Quality::High => 2,
        Quality::XHigh => 3,
        Quality::Max => 4,
    };
    match counting {
        Counting::Table => {
            let row = match width.cmp(&height) {
                std::cmp::Ordering::Equal => [272, 1_056, 4_160],
                std::cmp::Ordering::Less => [408, 1_584, 6_240],
                std::cmp::Ordering::Greater => [400, 1_568, 6_208],
            };
            row[column.min(2)]
        }
        Counting::Formula(factors) => {
            let factor = factors[column];
            let (width, height) = (u64::from(width), u64::from(height));
            let (short, long) = (width.min(height), width.max(height));
            let side = (2 * factor * short + long) / (2 * long);
            (factor * side * (2_000_000 + width * height)).div_ceil(4_000_000)
        }
    }
}

/// One picture that was given: tiles of 512 pixels once the short side is 512, and more when its detail is kept.
fn given(Pixels { width, height }: Pixels, high_fidelity: bool) -> u64 {
    let (short, long) = (u64::from(width.min(height)), u64::from(width.max(height)));
    let tiles = (long * 512).div_ceil(short.max(1)).div_ceil(512);
    let detail = match (high_fidelity, width == height) {
        (false, _) => 0,
        (true, true) => 4_160,
        (true, false) => 6_240,
    };
    65 + 129 * tiles + detail
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawing(model: &str, size: &str, quality: &str) -> Drawing {
        Drawing {
            model: model.to_owned(),
            prompt: "a lighthouse".to_owned(),
            n: 1,
            size: Pixels::parse(size).unwrap(),
            quality: Quality::parse(quality).unwrap(),
            partial_images: 0,
            stream: false,
            high_fidelity: false,
            by_url: false,
            inputs: vec![],
            draw_for: std::time::Duration::ZERO,
        }
    }

    #[test]
    fn pictures_take_what_the_tables_say() {
        for (model, size, low, medium, high) in [
            ("gpt-image-1", "1024x1024", 272, 1_056, 4_160),
            ("gpt-image-1.5", "1024x1536", 408, 1_584, 6_240),
            ("gpt-image-1-mini", "1536x1024", 400, 1_568, 6_208),
            ("gpt-image-2", "1024x1024", 196, 1_756, 7_024),
            ("gpt-image-2", "1536x1024", 158, 1_372, 5_488),
            ("gpt-image-2-2026-04-21", "1024x1536", 158, 1_372, 5_488),
            ("gpt-image-2", "2048x2048", 397, 3_568, 14_272),
            ("gpt-image-2", "3840x2160", 371, 3_336, 13_342),
        ] {
            for (quality, tokens) in [("low", low), ("medium", medium), ("high", high)] {
                let usage = Usage::of(&drawing(model, size, quality), 1.0);
                assert_eq!(usage.images_out, tokens, "{model} {size} {quality}");
                assert_eq!(usage.total(), tokens + 3, "twelve letters are three tokens");
            }
        }
    }

    #[test]
    fn pictures_of_any_size_take_what_the_formula_says() {
        for (size, tokens) in [
            ("1024x640", 3_824),
            ("1792x1024", 5_063),
            ("2560x1440", 7_370),
            ("3072x1024", 3_952),
            ("3840x1280", 5_311),
            ("3584x2048", 12_329),
        ] {
            assert_eq!(Usage::of(&drawing("gpt-image-2", size, "high"), 1.0).images_out, tokens, "{size}");
        }
    }

    #[test]
    fn what_is_given_counts_by_tiles_and_detail() {
        let square = Pixels { width: 1_024, height: 1_024 };
        let wide = Pixels { width: 1_024, height: 512 };
        let of = |model: &str, high_fidelity, inputs| {
            Usage::of(&Drawing { high_fidelity, inputs, ..drawing(model, "auto", "low") }, 1.0).images_in
        };
        assert_eq!(of("gpt-image-1", false, vec![square]), 194);
        assert_eq!(of("gpt-image-1", false, vec![wide]), 323);
        assert_eq!(of("gpt-image-1", true, vec![square, wide]), 194 + 4_160 + 323 + 6_240);
        assert_eq!(of("gpt-image-2", false, vec![square]), 194 + 4_160, "it always keeps the detail");
    }

    #[test]
    fn partial_images_and_a_factor_add_up() {
        let drawing = Drawing { n: 2, partial_images: 3, ..drawing("gpt-image-2", "1024x1024", "low") };
        assert_eq!(Usage::of(&drawing, 1.0).images_out, 2 * (196 + 300));
        assert_eq!(Usage::of(&drawing, 1.5).images_out, 3 * (196 + 300));
    }
}
