//! A client for image APIs that takes the quota first, reads what upstream says, and settles with what was used.
//!
//! Invariant: every attempt has its own permit, and nothing is sent without one. No key, prompt or image is in an error, a log or `Debug`.

mod access;
mod address;
mod attempt;
mod cache;
mod classify;
mod client;
mod date;
mod endpoint;
mod error;
mod estimate;
mod feedback;
mod flight;
mod headers;
mod inline;
mod input;
mod key;
mod learning;
mod message;
mod models;
#[cfg(feature = "testing")]
#[doc(hidden)]
pub mod parsers;
mod price;
mod profile;
mod redaction;
mod refusal;
mod request;
mod response;
mod retry;
mod route;
mod span;
mod sse;
mod stream;
mod tokens;
mod transport;
mod usage;

pub use self::{
    access::{AccessReport, AccessRules, Account, Missing, Progress},
    cache::Cache,
    client::{ImageCall, ImageClient, ImageClientBuilder},
    date::Date,
    error::{ImageError, ImageErrorKind},
    estimate::{Basis, Estimate, Estimator, Priors, Weights},
    input::ImageInput,
    key::ApiKey,
    learning::{Correction, Part},
    models::{Model, Models, Source},
    profile::Profile,
    refusal::{Refusal, RefusalFigures, RefusalKind},
    request::{Background, ImageRequest, InputFidelity, Moderation, OutputFormat, Quality, Size},
    response::{FailedRoute, Image, Images, Served},
    retry::RetryPolicy,
    route::{
        Route, RouteModel, Style, choice::Strategy, file::RoutesFile, health::BreakerState, price::RoutePrice,
        state::RouteStatus,
    },
    stream::{ImageEvent, ImageStream},
    usage::Usage,
};
