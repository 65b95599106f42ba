//! What came back: images, what they used, and how the call went.
//!
//! Invariant: the text of an image is held once, as it came, until the caller takes its bytes.

use std::{fmt, sync::Arc, time::Duration};

use bytes::Bytes;
use serde::Serialize;

use crate::openai::{request::Quality, usage::Usage};

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
}

/// How a call went.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Served {
    /// The route that served it.
    pub route: Arc<str>,
    /// The model that it was asked of.
    pub model: String,
    /// Calls made, on all routes, the last one included; 0 for what came from the cache.
    pub attempts: u32,
    /// Routes that were tried and failed before, in order, each with why.
    pub failed: Vec<FailedRoute>,
    /// Spent waiting for quota and between attempts.
    pub waited: Duration,
    /// Of the attempt that served it, until the whole answer was there.
    pub latency: Duration,
    /// Tokens that were charged when the call was admitted, and what is charged now.
    pub estimated_tokens: u64,
    /// What is charged now: `usage`, or the estimate where upstream does not say.
    pub charged_tokens: u64,
    /// What is charged in millionths of a dollar, where the prices are known.
    pub spend_micros: Option<u64>,
    /// It came from the cache.
    pub cached: bool,
    /// It was the answer to an equal call that was under way.
    pub shared: bool,
    /// The quality that was asked for, where a lower one was drawn instead.
    pub lowered_from: Option<Quality>,
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
        };
        f.debug_struct("Image").field("content", &kind).field("media_type", &self.media_type).finish_non_exhaustive()
    }
}
