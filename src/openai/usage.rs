//! What a call turned out to use, as upstream says.
//!
//! Invariant: figures that cannot be, such as negative ones, are those of an upstream that does not say. No part is above its whole.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::cost::Cost;

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

impl Usage {
    /// Reads the `usage` of the image API, of Responses, of a Codex backend or of chat completions. `None`: it does not say.
    pub(super) fn read(usage: &Value) -> Option<Self> {
        let is_wrong = |figure: &Value| figure.as_u64().is_none_or(|tokens| tokens > Cost::AMOUNT_MAX);
        let figure =
            |paths: &[&str]| paths.iter().find_map(|path| usage.pointer(path).filter(|found| !found.is_null()));
        let tokens = |paths: &[&str]| figure(paths).and_then(Value::as_u64).unwrap_or(0);
        let (input, output) = (&["/input_tokens", "/prompt_tokens"], &["/output_tokens", "/completion_tokens"]);
        let totals = [figure(input), figure(output), figure(&["/total_tokens"])];
        if totals.iter().all(Option::is_none) || totals.iter().flatten().any(|figure| is_wrong(figure)) {
            return None;
        }
        let parts = |part: &str| {
            let details =
                ["input_tokens_details", "prompt_tokens_details", "output_tokens_details", "completion_tokens_details"];
            let paths = details.map(|details| format!("/{details}/{part}"));
            let of = |paths: &[String]| tokens(&paths.iter().map(String::as_str).collect::<Vec<_>>());
            Parts { input: of(&paths[..2]), output: of(&paths[2..]) }
        };
        let (input_tokens, output_tokens) = (tokens(input), tokens(output));
        let within = |parts: Parts| Parts {
            input: if parts.input > input_tokens { 0 } else { parts.input },
            output: if parts.output > output_tokens { 0 } else { parts.output },
        };
        let (text, image) = (within(parts("text_tokens")), within(parts("image_tokens")));
        let cached = parts("cached_tokens").input.max(tokens(&["/cached_tokens", "/input_cached_tokens"]));
        let summed = input_tokens + output_tokens;
        Some(Self {
            input_tokens,
            input_text_tokens: text.input,
            input_image_tokens: image.input,
            cached_tokens: if cached > input_tokens { 0 } else { cached },
            output_tokens,
            output_text_tokens: text.output,
            output_image_tokens: image.output,
            total_tokens: Some(tokens(&["/total_tokens"])).filter(|total| *total > 0).unwrap_or(summed),
        })
    }

    /// Whether it says what was read and what was drawn, so that it can be priced.
    pub(super) fn tells_apart(&self) -> bool {
        self.input_tokens > 0 || self.output_tokens > 0
    }

    /// Tokens of which only the total tells.
    pub(super) fn unnamed_tokens(&self) -> u64 {
        self.total_tokens.saturating_sub(self.input_tokens.saturating_add(self.output_tokens))
    }

    /// Of two calls, or two parts of one, together.
    pub(super) fn plus(self, other: Self) -> Self {
        let both = |tokens: fn(&Self) -> u64| tokens(&self).saturating_add(tokens(&other));
        Self {
            input_tokens: both(|usage| usage.input_tokens),
            input_text_tokens: both(|usage| usage.input_text_tokens),
            input_image_tokens: both(|usage| usage.input_image_tokens),
            cached_tokens: both(|usage| usage.cached_tokens),
            output_tokens: both(|usage| usage.output_tokens),
            output_text_tokens: both(|usage| usage.output_text_tokens),
            output_image_tokens: both(|usage| usage.output_image_tokens),
            total_tokens: both(|usage| usage.total_tokens),
        }
    }
}

/// One kind of tokens, in and out.
struct Parts {
    input: u64,
    output: u64,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn usage_is_read_in_each_form() {
        let image_api = json!({
            "input_tokens": 50, "input_tokens_details": {"image_tokens": 40, "text_tokens": 10},
            "output_tokens": 1056, "output_tokens_details": {"image_tokens": 1000, "text_tokens": 56}, "total_tokens": 1106
        });
        let all = Usage {
            input_tokens: 50,
            input_text_tokens: 10,
            input_image_tokens: 40,
            cached_tokens: 0,
            output_tokens: 1056,
            output_text_tokens: 56,
            output_image_tokens: 1000,
            total_tokens: 1106,
        };
        assert_eq!(Usage::read(&image_api), Some(all));
        let codex = json!({"input_tokens": 9, "input_tokens_details": {"cached_tokens": 4}, "output_tokens": 1});
        let read = Usage { input_tokens: 9, cached_tokens: 4, output_tokens: 1, total_tokens: 10, ..Usage::default() };
        assert_eq!(Usage::read(&codex), Some(read));
        let chat =
            json!({"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7, "output_tokens_details": null});
        let read = Usage { input_tokens: 3, output_tokens: 4, total_tokens: 7, ..Usage::default() };
        assert_eq!((Usage::read(&chat), read.plus(read).total_tokens), (Some(read), 14));
    }

    #[test]
    fn figures_that_cannot_be_are_not_taken_for_facts() {
        let wrong = [
            json!(null),
            json!({}),
            json!("many"),
            json!({"input_tokens": null, "output_tokens": null}),
            json!({"input_tokens": -1, "output_tokens": 3, "total_tokens": 2}),
            json!({"total_tokens": 1.5}),
            json!({"total_tokens": u64::MAX}),
        ];
        for usage in wrong {
            assert_eq!(Usage::read(&usage), None, "{usage}");
        }
    }

    #[test]
    fn a_part_above_its_whole_is_as_good_as_unnamed() {
        let usage = json!({
            "input_tokens": 50, "input_tokens_details": {"image_tokens": 40, "text_tokens": u64::MAX, "cached_tokens": 51},
            "output_tokens": 10, "output_tokens_details": {"image_tokens": 11, "text_tokens": 10}
        });
        let read = Usage {
            input_tokens: 50,
            input_image_tokens: 40,
            output_tokens: 10,
            output_text_tokens: 10,
            total_tokens: 60,
            ..Usage::default()
        };
        assert_eq!(Usage::read(&usage), Some(read));
        let most = Usage { total_tokens: u64::MAX, ..read };
        assert_eq!(most.plus(most).total_tokens, u64::MAX);
    }
}
