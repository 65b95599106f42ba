//! A client for image APIs that takes the quota first, reads what upstream says, and settles with what was used.
//!
//! Invariant: every attempt has its own permit, and nothing is sent without one. No key, prompt or image is in an error, a log or `Debug`.

mod classify;
mod error;
mod estimate;
mod headers;
mod input;
mod key;
mod message;
mod models;
#[cfg(feature = "testing")]
#[doc(hidden)]
pub mod parsers;
mod redaction;
mod refusal;
mod request;
mod response;
mod span;
mod sse;
mod usage;

pub use self::{
    error::{ImageError, ImageErrorKind},
    estimate::{Estimate, Estimator},
    input::ImageInput,
    key::ApiKey,
    models::{Model, Models},
    refusal::{Refusal, RefusalFigures, RefusalKind},
    request::{Background, ImageRequest, InputFidelity, Moderation, OutputFormat, Quality, Size},
    response::{FailedRoute, Image, Images, Served},
    usage::Usage,
};
