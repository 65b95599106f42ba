//! What came back: images, what they used, and how the call went.
//!
//! Invariant: the text of an image is held once, as it came, until the caller takes its bytes.

use std::{
    fmt, fs,
    io::{self, Write},
    path::Path,
    sync::Arc,
    time::Duration,
};

use base64::{
    Engine, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use bytes::Bytes;
use serde::Serialize;
use uuid::Uuid;

use crate::openai::{
    error::{ImageError, ImageErrorKind},
    request::Quality,
    usage::Usage,
};

/// Some proxies leave the padding out.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);
/// So much text is decoded at a time when an image is saved: whole groups of four.
const PIECE_BYTES: usize = 64 << 10;

/// The images of one call.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Images {
    /// At least one.
    pub images: Vec<Image>,
    /// What upstream counted; `None` where it does not say.
    pub usage: Option<Usage>,
    /// How the call went.
    pub served: Served,
}

/// One image.
#[derive(Clone)]
pub struct Image {
    pub(super) content: Content,
    pub(super) revised_prompt: Option<String>,
    /// Such as `image/png`, where upstream says so.
    pub(super) media_type: Option<String>,
}

/// Where its bytes are.
#[derive(Clone)]
pub(super) enum Content {
    /// Base64, a part of the answer's body.
    Base64(Bytes),
    /// An address to fetch it from.
    Url(String),
    /// Here, as they are.
    Plain(Bytes),
}

impl Image {
    pub(super) fn new(content: Content) -> Self {
        Self { content, revised_prompt: None, media_type: None }
    }

    /// The address to fetch it from, if upstream gave one: see [`ImageClient::fetch`](crate::openai::ImageClient::fetch).
    #[must_use]
    pub fn url(&self) -> Option<&str> {
        match &self.content {
            Content::Url(url) => Some(url),
            Content::Base64(_) | Content::Plain(_) => None,
        }
    }

    /// Such as `image/png`, where upstream says so.
    #[must_use]
    pub fn media_type(&self) -> Option<&str> {
        self.media_type.as_deref()
    }

    /// The prompt that upstream made of the one it was given, where it says so.
    #[must_use]
    pub fn revised_prompt(&self) -> Option<&str> {
        self.revised_prompt.as_deref()
    }

    /// The file: PNG, JPEG or what was asked for. Decodes it with each call.
    ///
    /// # Errors
    ///
    /// [`ImageErrorKind::Unreadable`] for what is no base64, and [`ImageErrorKind::Invalid`] for an image that is still to be fetched.
    pub fn bytes(&self) -> Result<Bytes, ImageError> {
        match &self.content {
            Content::Plain(bytes) => Ok(bytes.clone()),
            Content::Url(_) => Err(ImageError::invalid("upstream gave an address: fetch the image first")),
            Content::Base64(text) => match BASE64.decode(text) {
                Ok(bytes) => Ok(bytes.into()),
                Err(error) => {
                    Err(ImageError::new(ImageErrorKind::Unreadable, "the image is no base64").with_source(error))
                }
            },
        }
    }

    /// Writes the file, piece by piece. There is the whole file or none: it is renamed when it is complete.
    ///
    /// # Errors
    ///
    /// As writing a file, and as [`bytes`](Self::bytes).
    ///
    /// # Cancel safety
    ///
    /// Once polled, it takes effect even if the future is dropped.
    pub async fn save(&self, path: impl AsRef<Path>) -> io::Result<()> {
        let (image, path) = (self.clone(), path.as_ref().to_owned());
        tokio::task::spawn_blocking(move || image.save_blocking(&path)).await.map_err(io::Error::other)?
    }

    fn save_blocking(&self, path: &Path) -> io::Result<()> {
        let Some(name) = path.file_name() else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the path has no file name"));
        };
        let unfinished = path.with_file_name(format!(".{}.{}", name.to_string_lossy(), Uuid::now_v7().simple()));
        let saved = self.write_new(&unfinished).and_then(|()| fs::rename(&unfinished, path));
        if saved.is_err() {
            // what kept it from being written is the error to tell
            drop(fs::remove_file(&unfinished));
        }
        saved
    }

    fn write_new(&self, path: &Path) -> io::Result<()> {
        let mut file = fs::File::create_new(path)?;
        match &self.content {
            Content::Base64(text) => {
                let mut piece = Vec::with_capacity(PIECE_BYTES);
                for text in text.chunks(PIECE_BYTES) {
                    piece.clear();
                    let decoded = BASE64.decode_vec(text, &mut piece);
                    decoded.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
                    file.write_all(&piece)?;
                }
            }
            Content::Plain(_) | Content::Url(_) => file.write_all(&self.bytes().map_err(io::Error::other)?)?,
        }
        file.sync_all()
    }
}

/// How a call went.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Served {
    /// The route that served it; `cache` for what came from there.
    pub route: Arc<str>,
    /// The model that it was asked of.
    pub model: String,
    /// Calls made, on all routes, the last one included; 0 for what came from the cache.
    pub attempts: u32,
    /// Routes that did not serve it, each with why: those whose style has no words for what the request asks, then those that came before and
    /// failed or had no quota, in order.
    pub failed: Vec<FailedRoute>,
    /// Spent waiting for quota and between attempts.
    pub waited: Duration,
    /// Of the attempt that served it, until the whole answer was there.
    pub latency: Duration,
    /// When the limiter admitted that attempt, by the time of its store, in milliseconds since the epoch; 0 for what came from the cache.
    pub admitted_at_ms: u64,
    /// Tokens that were charged when the call was admitted.
    pub estimated_tokens: u64,
    /// What is charged now: `usage`, or the estimate where upstream does not say.
    pub charged_tokens: u64,
    /// What is charged in millionths of a dollar, where the prices are known.
    pub spend_micros: Option<u64>,
    /// It came from the cache.
    pub cached: bool,
    /// It was the answer to an equal call that was under way.
    pub shared: bool,
    /// The quality that was drawn, as upstream was asked for it: what a [`Profile`](crate::openai::Profile) makes of that of the request, and lower
    /// yet where `lowered_from` is set. [`Quality::Auto`]: left to the model.
    pub quality: Quality,
    /// The quality that would have been drawn, where a lower one was drawn instead, as the wait for it was too long. With `high` here and `medium`
    /// as `quality`, the image is of medium quality.
    pub lowered_from: Option<Quality>,
}

impl Served {
    /// From the cache: nobody was asked.
    pub(super) fn cached(model: String, quality: Quality) -> Self {
        Self {
            route: "cache".into(),
            model,
            attempts: 0,
            failed: Vec::new(),
            waited: Duration::ZERO,
            latency: Duration::ZERO,
            estimated_tokens: 0,
            charged_tokens: 0,
            spend_micros: None,
            cached: true,
            shared: false,
            admitted_at_ms: 0,
            quality,
            lowered_from: None,
        }
    }
}

/// A route that did not serve a call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct FailedRoute {
    /// Its name.
    pub route: Arc<str>,
    /// Why, in words.
    pub why: String,
}

impl fmt::Debug for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match &self.content {
            Content::Base64(_) => "base64",
            Content::Url(_) => "url",
            Content::Plain(_) => "plain",
        };
        f.debug_struct("Image").field("content", &kind).field("media_type", &self.media_type).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn base64(text: impl Into<Bytes>) -> Image {
        Image::new(Content::Base64(text.into()))
    }

    #[tokio::test]
    async fn an_image_is_saved_whole_or_not_at_all() {
        let directory = tempfile::tempdir().unwrap();
        let bytes: Vec<u8> = (0..200_000_u32).map(|at| (at % 251) as u8).collect();
        let path = directory.path().join("a.png");
        let image = base64(BASE64.encode(&bytes));
        image.save(&path).await.unwrap();
        assert_eq!((fs::read(&path).unwrap(), image.bytes().unwrap()), (bytes.clone(), bytes.into()));
        let broken = format!("{}!!!!", "QUJD".repeat(PIECE_BYTES));
        assert_eq!(base64(broken).save(&path).await.unwrap_err().kind(), io::ErrorKind::InvalidData);
        assert!(Image::new(Content::Url("http://a/b".into())).save(&path).await.is_err());
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 1);
        assert_eq!(fs::read(&path).unwrap().len(), 200_000);
    }

    #[test]
    fn padding_may_be_left_out() {
        assert_eq!(base64("QQ").bytes().unwrap(), base64("QQ==").bytes().unwrap());
        assert_eq!(base64("Q!").bytes().unwrap_err().kind(), ImageErrorKind::Unreadable);
    }
}
