//! A client for image APIs that takes the quota first, reads what upstream says, and settles with what was used.
//!
//! Invariant: every attempt has its own permit, and nothing is sent without one. No key, prompt or image is in an error, a log or `Debug`.

mod cache;
mod classify;
mod error;
mod estimate;
mod flight;
mod headers;
mod input;
mod key;
mod models;
mod refusal;
mod request;
mod response;
mod route;
mod sse;
mod usage;

pub use self::{
    cache::Cache,
    error::{ImageError, ImageErrorKind},
    estimate::{Estimate, Estimator},
    input::ImageInput,
    key::ApiKey,
    models::{Model, Models},
    refusal::{Refusal, RefusalFigures, RefusalKind},
    request::{Background, ImageRequest, InputFidelity, Moderation, OutputFormat, Quality, Size},
    response::{FailedRoute, Image, Images, Served},
    route::{
        Route, RouteModel, Style, choice::Strategy, file::RoutesFile, health::BreakerState, price::RoutePrice,
        state::RouteStatus,
    },
    usage::Usage,
};
