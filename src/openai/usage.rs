//! What a call turned out to use, as upstream says.

use serde::{Deserialize, Serialize};

/// Tokens that upstream counted for one call. A part that it did not name is 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Usage {
    /// Of the prompt and the inputs.
    pub input_tokens: u64,
    /// Of those, text.
    pub input_text_tokens: u64,
    /// Of those, images.
    pub input_image_tokens: u64,
    /// Of those, read from upstream's cache.
    pub cached_tokens: u64,
    /// Of what was drawn and said.
    pub output_tokens: u64,
    /// Of those, text.
    pub output_text_tokens: u64,
    /// Of those, images.
    pub output_image_tokens: u64,
    /// All together.
    pub total_tokens: u64,
}
