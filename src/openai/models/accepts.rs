//! What a model takes, and what it says no to.
//!
//! Invariant: a refusal names the field, its value and what is allowed. It never shows the prompt.

use std::fmt;

use serde::Deserialize;

use crate::{
    openai::{
        request::{Background, ImageRequest, InputFidelity, OutputFormat, Quality, Size, refuse_extra},
        tokens::Pixels,
    },
    policy::Certainty,
};

/// What a model takes.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::openai) struct Accepts {
    pub(in crate::openai) sizes: Sizes,
    pub(in crate::openai) qualities: Vec<Quality>,
    /// Empty where the field must be left out.
    fidelity: Vec<InputFidelity>,
    formats: Vec<OutputFormat>,
    n_max: u32,
    inputs_max: usize,
    partial_images_max: u8,
    prompt_chars_max: usize,
    pub(super) source: String,
    pub(super) certainty: Certainty,
}

/// Which sizes there are.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(in crate::openai) enum Sizes {
    /// These.
    Listed(Vec<Size>),
    /// All that keep to a rule.
    Ruled(SizeRule),
}

/// A rule for sizes.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::openai) struct SizeRule {
    multiple_of: u32,
    pixels_min: u64,
    pixels_max: u64,
    edge_max: u32,
    /// How many times as long as the short edge the long one may be.
    ratio_max: u64,
}

impl Accepts {
    /// How many steps of a rule an edge may have at most, so that all sizes can be looked through.
    const STEPS_MAX: u32 = 1024;

    pub(super) fn check(&self) -> Result<(), String> {
        if self.qualities.is_empty() || self.qualities.contains(&Quality::Auto) {
            return Err(format!("accepts.qualities = [{}]: at least one, without `auto`", listed(&self.qualities)));
        }
        match &self.sizes {
            Sizes::Listed(sizes) if sizes.is_empty() || sizes.contains(&Size::Auto) => {
                Err(format!("accepts.sizes.listed = [{}]: at least one, without `auto`", listed(sizes)))
            }
            Sizes::Ruled(rule) if rule.multiple_of == 0 || rule.edge_max / rule.multiple_of > Self::STEPS_MAX => {
                Err(format!(
                    "accepts.sizes.ruled: an edge of up to {} in steps of {}: at most {} steps",
                    rule.edge_max,
                    rule.multiple_of,
                    Self::STEPS_MAX
                ))
            }
            _ => Ok(()),
        }
    }

    /// Why the model cannot do what the request asks.
    pub(super) fn refuse(&self, request: &ImageRequest) -> Option<String> {
        let size = Pixels::of(request.size).and_then(|pixels| self.sizes.refuse(pixels));
        size.or_else(|| {
            one_of("quality", Some(request.quality).filter(|asked| *asked != Quality::Auto), &self.qualities)
        })
        .or_else(|| one_of("output_format", request.format, &self.formats))
        .or_else(|| match request.fidelity {
            Some(asked) if self.fidelity.is_empty() => {
                Some(format!("input_fidelity = {asked}: it must be left out for this model"))
            }
            asked => one_of("input_fidelity", asked, &self.fidelity),
        })
        .or_else(|| refuse_counts(request, &Counts::from(self)))
    }

    /// Why no model of these APIs can do what the request asks, for a model of which nothing is known.
    pub(super) fn refuse_by_api(request: &ImageRequest) -> Option<String> {
        refuse_counts(request, &Counts::API)
    }
}

impl Sizes {
    /// All of them; of a rule that does not tell width from height, those that are not higher than wide.
    pub(super) fn all(&self) -> Vec<Pixels> {
        match self {
            Self::Listed(sizes) => sizes.iter().filter_map(|size| Pixels::of(*size)).collect(),
            Self::Ruled(rule) => {
                let edges = || (1..=rule.edge_max / rule.multiple_of).map(|step| step * rule.multiple_of);
                let all = edges().flat_map(|width| {
                    edges().take_while(move |height| *height <= width).map(move |height| Pixels { width, height })
                });
                all.filter(|pixels| rule.refuse(*pixels).is_none()).collect()
            }
        }
    }

    pub(in crate::openai) fn refuse(&self, pixels: Pixels) -> Option<String> {
        match self {
            Self::Listed(sizes) => {
                let Pixels { width, height } = pixels;
                one_of("size", Some(Size::pixels(width, height)), sizes)
            }
            Self::Ruled(rule) => {
                let why = rule.refuse(pixels)?;
                Some(format!("size = {}x{}: {why}", pixels.width, pixels.height))
            }
        }
    }
}

impl SizeRule {
    fn refuse(&self, pixels: Pixels) -> Option<String> {
        let Self { multiple_of, pixels_min, pixels_max, edge_max, ratio_max } = *self;
        let Pixels { width, height } = pixels;
        if !width.is_multiple_of(multiple_of) || !height.is_multiple_of(multiple_of) {
            return Some(format!("width and height are multiples of {multiple_of}"));
        }
        if width.max(height) > edge_max {
            return Some(format!("width and height are at most {edge_max}"));
        }
        if !pixels.is_within_ratio(ratio_max) {
            return Some(format!("the long edge is at most {ratio_max} times the short one"));
        }
        if !(pixels_min..=pixels_max).contains(&pixels.count()) {
            return Some(format!("{} pixels: {pixels_min} to {pixels_max}", pixels.count()));
        }
        None
    }
}

/// How many of each thing a request may have.
struct Counts {
    n: u32,
    inputs: usize,
    partial_images: u8,
    prompt_chars: usize,
}

impl Counts {
    const API: Self = Self {
        n: ImageRequest::N_MAX,
        inputs: ImageRequest::INPUTS_MAX,
        partial_images: ImageRequest::PARTIAL_IMAGES_MAX,
        prompt_chars: ImageRequest::PROMPT_CHARS_MAX,
    };

    fn from(accepts: &Accepts) -> Self {
        Self {
            n: accepts.n_max,
            inputs: accepts.inputs_max,
            partial_images: accepts.partial_images_max,
            prompt_chars: accepts.prompt_chars_max,
        }
    }
}

/// What is wrong with a request whatever its size and quality are.
fn refuse_counts(request: &ImageRequest, counts: &Counts) -> Option<String> {
    let ImageRequest { n, inputs, mask, partial_images, compression, format, background, .. } = request;
    let prompt_chars = request.prompt.chars().count();
    let shows_nothing = *background == Some(Background::Transparent);
    let is_compressed = matches!(format, Some(OutputFormat::Jpeg | OutputFormat::Webp));
    if let Some(why) = request.extra.keys().find_map(|field| refuse_extra(field)) {
        return Some(why);
    }
    if prompt_chars == 0 {
        return Some("prompt: it is empty".to_owned());
    }
    if prompt_chars > counts.prompt_chars {
        return Some(format!("prompt: {prompt_chars} characters: at most {}", counts.prompt_chars));
    }
    if !(1..=counts.n).contains(n) {
        return Some(format!("n = {n}: 1 to {}", counts.n));
    }
    if inputs.len() > counts.inputs {
        return Some(format!("image: {} of them: at most {}", inputs.len(), counts.inputs));
    }
    if mask.is_some() && inputs.is_empty() {
        return Some("mask: it needs an image to edit".to_owned());
    }
    if *partial_images > counts.partial_images {
        return Some(format!("partial_images = {partial_images}: 0 to {}", counts.partial_images));
    }
    match (compression, format) {
        (Some(percent), _) if *percent > 100 => Some(format!("output_compression = {percent}: 0 to 100")),
        (Some(percent), _) if !is_compressed => {
            Some(format!("output_compression = {percent}: it needs output_format jpeg or webp"))
        }
        (_, Some(OutputFormat::Jpeg)) if shows_nothing => {
            Some("background = transparent: it needs output_format png or webp, not jpeg".to_owned())
        }
        _ => None,
    }
}

fn one_of<T: PartialEq + fmt::Display>(field: &str, asked: Option<T>, allowed: &[T]) -> Option<String> {
    let asked = asked.filter(|asked| !allowed.contains(asked))?;
    Some(format!("{field} = {asked}: there are {}", listed(allowed)))
}

fn listed<T: fmt::Display>(values: &[T]) -> String {
    values.iter().map(T::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::openai::{input::ImageInput, models::Models};

    fn lighthouse() -> ImageRequest {
        ImageRequest::generate("a lighthouse")
    }

    fn gif() -> ImageInput {
        ImageInput::bytes(*b"GIF89a\x03\0\x02\0\0\0\0;").unwrap()
    }

    #[test]
    fn what_a_model_does_not_take_is_refused_with_what_it_takes() {
        let edit = || ImageRequest::edit("a", [gif()]);
        let rows = [
            (
                "gpt-image-1",
                lighthouse().size(Size::pixels(512, 512)),
                "size = 512x512: there are 1024x1024, 1024x1536, 1536x1024",
            ),
            ("gpt-image-1", lighthouse().quality(Quality::Max), "quality = max: there are low, medium, high"),
            (
                "gpt-image-2",
                lighthouse().size(Size::pixels(1000, 1024)),
                "size = 1000x1024: width and height are multiples of 16",
            ),
            (
                "gpt-image-2",
                lighthouse().size(Size::pixels(3856, 2048)),
                "size = 3856x2048: width and height are at most 3840",
            ),
            (
                "gpt-image-2",
                lighthouse().size(Size::pixels(1024, 3088)),
                "size = 1024x3088: the long edge is at most 3 times the short one",
            ),
            (
                "gpt-image-2",
                lighthouse().size(Size::pixels(512, 512)),
                "size = 512x512: 262144 pixels: 655360 to 8294400",
            ),
            (
                "gpt-image-2",
                lighthouse().size(Size::pixels(3840, 2176)),
                "size = 3840x2176: 8355840 pixels: 655360 to 8294400",
            ),
            (
                "gpt-image-2",
                edit().fidelity(InputFidelity::High),
                "input_fidelity = high: it must be left out for this model",
            ),
            ("gpt-image-2", lighthouse().format(OutputFormat::Svg), "output_format = svg: there are png, jpeg, webp"),
            ("gpt-image-2", lighthouse().n(0), "n = 0: 1 to 10"),
            ("gpt-image-2", lighthouse().partial_images(4), "partial_images = 4: 0 to 3"),
            ("gpt-image-2", lighthouse().mask(gif()), "mask: it needs an image to edit"),
            ("gpt-image-2", ImageRequest::edit("a", vec![gif(); 17]), "image: 17 of them: at most 16"),
            ("gpt-image-2", ImageRequest::generate(""), "prompt: it is empty"),
            ("gpt-image-2", ImageRequest::generate("ä".repeat(32_001)), "prompt: 32001 characters: at most 32000"),
            (
                "gpt-image-2",
                lighthouse().format(OutputFormat::Jpeg).compression(101),
                "output_compression = 101: 0 to 100",
            ),
            (
                "gpt-image-2",
                lighthouse().compression(50),
                "output_compression = 50: it needs output_format jpeg or webp",
            ),
            (
                "gpt-image-2",
                lighthouse().background(Background::Transparent).format(OutputFormat::Jpeg),
                "background = transparent: it needs output_format png or webp, not jpeg",
            ),
            ("flux", lighthouse().n(11), "n = 11: 1 to 10"),
            ("flux", lighthouse().extra("n", 2), "extra \"n\": the client has a setter for it, `ImageRequest::n`"),
        ];
        for (model, request, why) in rows {
            assert_eq!(Models::embedded().get(model).refuses(&request).as_deref(), Some(why));
        }
    }

    #[test]
    fn what_a_model_takes_is_not_refused() {
        let rows = [
            ("gpt-image-1", lighthouse()),
            ("gpt-image-1", ImageRequest::edit("a", [gif()]).fidelity(InputFidelity::High).mask(gif())),
            ("gpt-image-2", lighthouse().size(Size::pixels(1024, 640)).n(10).partial_images(3)),
            ("gpt-image-2", lighthouse().size(Size::pixels(3840, 1280))),
            ("gpt-image-2", lighthouse().size(Size::pixels(2880, 2880)).background(Background::Transparent)),
            ("gpt-image-2", lighthouse().format(OutputFormat::Webp).compression(0)),
            ("gpt-image-2", ImageRequest::generate("ä".repeat(32_000))),
            ("gpt-image-2.6-flare", lighthouse().quality(Quality::Max).format(OutputFormat::Svg)),
            ("flux", lighthouse().size(Size::pixels(512, 512)).fidelity(InputFidelity::High)),
        ];
        for (model, request) in rows {
            assert_eq!(Models::embedded().get(model).refuses(&request), None);
        }
    }
}
