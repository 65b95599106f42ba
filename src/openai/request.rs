//! What is asked of an image API.
//!
//! Invariant: no figure, token rule or model name is here: those are data of `models.toml`. Lacks the wire: see `endpoint`.

mod setters;

use std::{collections::BTreeMap, fmt, str::FromStr};

use serde::{Deserialize, Serialize};

pub(super) use self::setters::refuse_extra;
use crate::openai::{
    error::{ImageError, ImageErrorKind},
    input::ImageInput,
};

/// A request for images: generated from a prompt, or edited from other images.
///
/// ```
/// use allotment::openai::{ImageRequest, Quality, Size};
///
/// let request = ImageRequest::generate("a lighthouse").n(2).size(Size::SQUARE).quality(Quality::Medium);
/// assert_eq!(request.prompt(), "a lighthouse");
/// ```
///
/// Its `Debug` shows neither prompt, nor end user, nor extra fields.
#[derive(Clone, PartialEq)]
#[must_use = "a request does nothing until a client runs it"]
pub struct ImageRequest {
    pub(super) model: Option<String>,
    pub(super) prompt: String,
    pub(super) n: u32,
    pub(super) size: Size,
    pub(super) quality: Quality,
    pub(super) background: Option<Background>,
    pub(super) format: Option<OutputFormat>,
    pub(super) compression: Option<u8>,
    pub(super) moderation: Option<Moderation>,
    pub(super) fidelity: Option<InputFidelity>,
    pub(super) partial_images: u8,
    pub(super) inputs: Vec<ImageInput>,
    pub(super) mask: Option<ImageInput>,
    pub(super) end_user: Option<String>,
    pub(super) extra: BTreeMap<String, serde_json::Value>,
}

impl ImageRequest {
    /// The most images of one request.
    pub const N_MAX: u32 = 10;
    /// The most images to edit.
    pub const INPUTS_MAX: usize = 16;
    /// The most partial images of a stream.
    pub const PARTIAL_IMAGES_MAX: u8 = 3;
    /// The longest prompt, in characters.
    pub const PROMPT_CHARS_MAX: usize = 32_000;

    /// Asks for one image of this prompt.
    pub fn generate(prompt: impl Into<String>) -> Self {
        Self {
            model: None,
            prompt: prompt.into(),
            n: 1,
            size: Size::Auto,
            quality: Quality::Auto,
            background: None,
            format: None,
            compression: None,
            moderation: None,
            fidelity: None,
            partial_images: 0,
            inputs: Vec::new(),
            mask: None,
            end_user: None,
            extra: BTreeMap::new(),
        }
    }

    /// Asks for one image made from others.
    pub fn edit(prompt: impl Into<String>, inputs: impl IntoIterator<Item = ImageInput>) -> Self {
        Self { inputs: inputs.into_iter().collect(), ..Self::generate(prompt) }
    }

    /// The model to ask. Default: that of the client.
    pub fn model(mut self, model: impl Into<String>) -> Self {
        self.model = Some(model.into());
        self
    }

    /// How many images, 1 to 10. Default: 1.
    pub fn n(mut self, n: u32) -> Self {
        self.n = n;
        self
    }

    /// How large. Default: as the model chooses, which is charged at the client's prior or the maximum until the usage is known.
    pub fn size(mut self, size: Size) -> Self {
        self.size = size;
        self
    }

    /// How much effort. Default: as the model chooses; see [`size`](Self::size).
    pub fn quality(mut self, quality: Quality) -> Self {
        self.quality = quality;
        self
    }

    /// What is behind the subject. Default: as the model chooses.
    pub fn background(mut self, background: Background) -> Self {
        self.background = Some(background);
        self
    }

    /// The file format. Default: that of the model.
    pub fn format(mut self, format: OutputFormat) -> Self {
        self.format = Some(format);
        self
    }

    /// How well a JPEG or WebP is compressed, 0 to 100. Default: that of the model.
    pub fn compression(mut self, percent: u8) -> Self {
        self.compression = Some(percent);
        self
    }

    /// How strictly upstream moderates. Default: that of the model.
    pub fn moderation(mut self, moderation: Moderation) -> Self {
        self.moderation = Some(moderation);
        self
    }

    /// How closely an edit keeps to its inputs, for models that take it. Default: that of the model.
    pub fn fidelity(mut self, fidelity: InputFidelity) -> Self {
        self.fidelity = Some(fidelity);
        self
    }

    /// How many partial images a stream sends before each image, 0 to 3. Each costs tokens. Default: 0.
    pub fn partial_images(mut self, partial_images: u8) -> Self {
        self.partial_images = partial_images;
        self
    }

    /// Where an edit may paint: an image whose transparent parts are replaced. Default: anywhere.
    pub fn mask(mut self, mask: ImageInput) -> Self {
        self.mask = Some(mask);
        self
    }

    /// Who asks, as upstream sees it: the field `user` of the API. Not the user of the subject, which never leaves the limiter.
    pub fn end_user(mut self, end_user: impl Into<String>) -> Self {
        self.end_user = Some(end_user.into());
        self
    }

    /// A field of the API that this client has no name for, sent as it is. The call is refused as [`ImageErrorKind::Invalid`] if there is a setter
    /// for it, such as [`n`](Self::n): the estimate does not look at it here.
    pub fn extra(mut self, field: impl Into<String>, value: impl Into<serde_json::Value>) -> Self {
        self.extra.insert(field.into(), value.into());
        self
    }

    /// The prompt.
    #[must_use]
    pub fn prompt(&self) -> &str {
        &self.prompt
    }

    /// Whether it is made from other images.
    #[must_use]
    pub fn is_edit(&self) -> bool {
        !self.inputs.is_empty()
    }
}

impl fmt::Debug for ImageRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("ImageRequest");
        debug.field("model", &self.model).field("n", &self.n).field("size", &self.size).field("quality", &self.quality);
        debug.field("inputs", &self.inputs).field("mask", &self.mask).finish_non_exhaustive()
    }
}

/// Width and height of an image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Size {
    /// The model chooses.
    #[default]
    Auto,
    /// In pixels.
    Pixels {
        /// From left to right.
        width: u32,
        /// From top to bottom.
        height: u32,
    },
}

impl Size {
    /// 1024 by 1024.
    pub const SQUARE: Self = Self::pixels(1024, 1024);
    /// 1024 wide, 1536 high.
    pub const PORTRAIT: Self = Self::pixels(1024, 1536);
    /// 1536 wide, 1024 high.
    pub const LANDSCAPE: Self = Self::pixels(1536, 1024);

    /// So many pixels. Whether a model takes it is said by the model.
    #[must_use]
    pub const fn pixels(width: u32, height: u32) -> Self {
        Self::Pixels { width, height }
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Pixels { width, height } => write!(f, "{width}x{height}"),
        }
    }
}

impl FromStr for Size {
    type Err = ImageError;

    fn from_str(text: &str) -> Result<Self, ImageError> {
        let digits = |text: &str| {
            let plain = (1..=5).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
            text.parse().ok().filter(|pixels| plain && *pixels > 0)
        };
        let pixels = text.split_once('x').and_then(|(width, height)| Some((digits(width)?, digits(height)?)));
        match pixels {
            Some((width, height)) => Ok(Self::Pixels { width, height }),
            None if text == "auto" => Ok(Self::Auto),
            None => Err(ImageError::new(
                ImageErrorKind::Invalid,
                format!("size {text:?}: `auto`, or width and height in pixels, such as 1024x1536"),
            )),
        }
    }
}

impl TryFrom<String> for Size {
    type Error = ImageError;

    fn try_from(text: String) -> Result<Self, ImageError> {
        text.parse()
    }
}

impl From<Size> for String {
    fn from(size: Size) -> Self {
        size.to_string()
    }
}

/// Declares an enumeration with the names it has on the wire.
macro_rules! named {
    ($(#[$doc:meta])* $kind:ident, $field:literal, { $($(#[$item:meta])* $name:ident = $text:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[non_exhaustive]
        pub enum $kind {
            $($(#[$item])* #[serde(rename = $text)] $name,)+
        }

        impl $kind {
            /// Its name on the wire.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)+
                }
            }
        }

        impl fmt::Display for $kind {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.name())
            }
        }

        impl FromStr for $kind {
            type Err = ImageError;

            fn from_str(text: &str) -> Result<Self, ImageError> {
                match text {
                    $($text => Ok(Self::$name),)+
                    _ => Err(ImageError::new(
                        ImageErrorKind::Invalid,
                        format!("{} {text:?}: there are {}", $field, [$($text),+].join(", ")),
                    )),
                }
            }
        }
    };
}

named! {
    /// How much effort goes into an image.
    #[derive(Default)]
    Quality, "quality", {
        /// The model chooses.
        #[default]
        Auto = "auto",
        /// For previews.
        Low = "low",
        /// In between.
        Medium = "medium",
        /// The best of most models.
        High = "high",
        /// Above high, for models that have it.
        XHigh = "xhigh",
        /// The most, for models that have it.
        Max = "max",
    }
}

named! {
    /// What is behind the subject of an image.
    Background, "background", {
        /// The model chooses.
        Auto = "auto",
        /// Nothing, for formats that can show it.
        Transparent = "transparent",
        /// Something.
        Opaque = "opaque",
    }
}

named! {
    /// The file format of an image.
    OutputFormat, "output_format", {
        /// PNG.
        Png = "png",
        /// JPEG.
        Jpeg = "jpeg",
        /// WebP.
        Webp = "webp",
        /// SVG, for models that draw it.
        Svg = "svg",
        /// An animated GIF, for models that draw it.
        Gif = "gif",
    }
}

named! {
    /// How strictly upstream moderates.
    Moderation, "moderation", {
        /// As upstream chooses.
        Auto = "auto",
        /// Less.
        Low = "low",
    }
}

named! {
    /// How closely an edit keeps to its inputs.
    InputFidelity, "input_fidelity", {
        /// Loosely.
        Low = "low",
        /// Closely; costs more input tokens.
        High = "high",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_caller_asks_for_is_not_shown() {
        let request = ImageRequest::generate("planted").end_user("planted").extra("planted", "planted").n(2);
        let shown = format!("{request:?}");
        assert!(shown.contains("n: 2") && !shown.contains("planted"), "{shown}");
    }
}
