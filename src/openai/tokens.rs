//! How many tokens images and text come to: the formulas, without the figures of any model.
//!
//! Invariant: pure integers, and no input of a request can overflow them. Lacks models: their figures are data of `models.toml`.

use crate::openai::request::Size;

/// Width and height that are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pixels {
    pub(super) width: u32,
    pub(super) height: u32,
}

impl Pixels {
    /// Of a size that is not `auto`.
    pub(super) fn of(size: Size) -> Option<Self> {
        match size {
            Size::Auto => None,
            Size::Pixels { width, height } => Some(Self { width, height }),
        }
    }

    fn short(self) -> u64 {
        u64::from(self.width.min(self.height)).max(1)
    }

    fn long(self) -> u64 {
        u64::from(self.width.max(self.height)).max(1)
    }

    /// How many pixels there are.
    pub(super) fn count(self) -> u64 {
        u64::from(self.width) * u64::from(self.height)
    }

    /// Whether the long side is at most `ratio` times the short one.
    pub(super) fn is_within_ratio(self, ratio: u64) -> bool {
        self.long() <= self.short().saturating_mul(ratio)
    }

    /// Whether it is nearly a square: the long side is at most a tenth longer. Upstream does not say where it draws the line; who is not
    /// sure to be square is charged as oblong, which costs more.
    fn is_square(self) -> bool {
        self.long() * 10 <= self.short() * 11
    }
}

/// Tokens of one drawn image, by the factor of its quality.
///
/// Not monotonic in the pixels: 1536x1024 costs less than 1024x1024.
///
/// # Source
///
/// The calculator formula in community.openai.com 1382699, for gpt-image-2; it reproduces every published reading.
pub(super) fn patches(factor: u16, pixels: Pixels) -> u64 {
    let (factor, short, long) = (u128::from(factor), u128::from(pixels.short()), u128::from(pixels.long()));
    // half up: the patches along the short side
    let patches = (2 * factor * short + long) / (2 * long);
    let tokens = (factor * patches * (2_000_000 + u128::from(pixels.count()))).div_ceil(4_000_000);
    u64::try_from(tokens).unwrap_or(u64::MAX)
}

/// How an input image is cut into tiles, and what each costs.
#[derive(Clone, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Tiles {
    /// Of any image.
    base: u64,
    /// Of each tile.
    per_tile: u64,
    /// How many tiles an image is put at whose size is not known.
    tiles_unknown: u64,
    /// Added at high fidelity to an image that is nearly square.
    high_square: u64,
    /// Added at high fidelity to any other.
    high_oblong: u64,
}

impl Tiles {
    /// Tokens of one input image. It is scaled until its short side fills one tile, so the tiles are as many as its long side fills.
    ///
    /// # Source
    ///
    /// The images-vision guide of the OpenAI platform, for gpt-image-1: tiles of 512 pixels.
    pub(super) fn tokens(&self, pixels: Option<Pixels>, fidelity: Fidelity) -> u64 {
        let tiles = pixels.map_or(self.tiles_unknown, |pixels| pixels.long().div_ceil(pixels.short()));
        let extra = match (fidelity, pixels) {
            (Fidelity::Low, _) => 0,
            (Fidelity::High, Some(pixels)) if pixels.is_square() => self.high_square,
            (Fidelity::High, _) => self.high_oblong,
        };
        self.base.saturating_add(self.per_tile.saturating_mul(tiles)).saturating_add(extra)
    }
}

/// How closely an edit keeps to its inputs, once it is decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fidelity {
    Low,
    High,
}

/// Tokens of a text by estimate, at so many of its UTF-8 bytes a token: text without words may take more. Bytes, since scripts with few
/// characters a token have long ones.
pub(super) fn text(text: &str, bytes_per_token: u64) -> u64 {
    (text.len() as u64).div_ceil(bytes_per_token.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pixels(width: u32, height: u32) -> Pixels {
        Pixels { width, height }
    }

    #[test]
    fn patches_reproduce_every_published_reading() {
        let square = [(16, 196), (48, 1756), (96, 7024)].map(|(factor, tokens)| (factor, 1024, 1024, tokens));
        let portrait = [(16, 158), (48, 1372), (96, 5488)].map(|(factor, tokens)| (factor, 1024, 1536, tokens));
        let large = [(16, 397), (48, 3568), (96, 14_272)].map(|(factor, tokens)| (factor, 2048, 2048, tokens));
        let wide = [(16, 371), (48, 3336), (96, 13_342)].map(|(factor, tokens)| (factor, 3840, 2160, tokens));
        let high = [
            (1024, 640, 3824),
            (1792, 1024, 5063),
            (2560, 1440, 7370),
            (3072, 1024, 3952),
            (3840, 1280, 5311),
            (3584, 2048, 12_329),
        ];
        let high = high.map(|(width, height, tokens)| (96, width, height, tokens));
        for (factor, width, height, tokens) in [square, portrait, large, wide].concat().into_iter().chain(high) {
            assert_eq!(patches(factor, pixels(width, height)), tokens, "{factor} {width}x{height}");
            assert_eq!(patches(factor, pixels(height, width)), tokens, "{factor} {height}x{width}");
        }
    }

    #[test]
    fn more_pixels_may_cost_less() {
        assert!(patches(96, pixels(1536, 1024)) < patches(96, pixels(1024, 1024)));
    }

    #[test]
    fn input_images_cost_by_tile_and_fidelity() {
        let tiles = Tiles { base: 65, per_tile: 129, tiles_unknown: 4, high_square: 4160, high_oblong: 6240 };
        let rows = [
            (Some(pixels(1024, 1024)), 194, 194 + 4160),
            (Some(pixels(512, 512)), 194, 194 + 4160),
            (Some(pixels(100, 110)), 323, 323 + 4160),
            (Some(pixels(1024, 1536)), 323, 323 + 6240),
            (Some(pixels(1536, 1024)), 323, 323 + 6240),
            (Some(pixels(2048, 1024)), 323, 323 + 6240),
            (Some(pixels(2049, 1024)), 452, 452 + 6240),
            (None, 581, 581 + 6240),
        ];
        for (pixels, low, high) in rows {
            assert_eq!(tiles.tokens(pixels, Fidelity::Low), low, "{pixels:?}");
            assert_eq!(tiles.tokens(pixels, Fidelity::High), high, "{pixels:?}");
        }
    }

    #[test]
    fn text_is_rounded_up_and_counts_bytes() {
        for (prompt, tokens) in [("", 0), ("a", 1), ("abc", 1), ("abcd", 2), ("灯台", 2), ("🗼", 2)] {
            assert_eq!(text(prompt, 3), tokens, "{prompt}");
        }
    }

    #[test]
    fn no_size_overflows() {
        assert_eq!(patches(96, pixels(1, u32::MAX)), 0);
        assert!(patches(u16::MAX, pixels(u32::MAX, u32::MAX)) > patches(u16::MAX, pixels(3840, 2160)));
        assert_eq!(pixels(0, 0).count(), 0);
        assert!(pixels(u32::MAX, u32::MAX).is_square());
    }
}
