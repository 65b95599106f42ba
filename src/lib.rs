#![doc = include_str!("../README.md")]

mod admin;
mod calendar;
mod clock;
mod control;
mod cost;
mod decision;
mod diagnosis;
mod dispatch;
mod error;
mod failure;
mod lease;
mod limit;
mod limiter;
#[cfg(feature = "openai")]
pub mod openai;
mod permit;
mod plan;
mod policy;
mod resource;
mod store;
mod subject;
mod telemetry;
#[cfg(feature = "testing")]
#[doc(hidden)]
pub mod testing;

/// The programs in `docs/`, which are tried as those of the README are.
#[cfg(doctest)]
mod docs {
    #![doc = include_str!("../docs/controls.md")]
    #![cfg_attr(feature = "openai", doc = include_str!("../docs/estimates.md"))]
    #![cfg_attr(feature = "openai", doc = include_str!("../docs/images.md"))]
    #![doc = include_str!("../docs/inspection.md")]
    #![doc = include_str!("../docs/policy.md")]
    #![cfg_attr(feature = "openai", doc = include_str!("../docs/routes.md"))]
}

pub use crate::{
    admin::{ActiveControl, Admin, AuditRecord, Explanation, Inspection, LimitUse, OpenReservation, PartUse, UserUse},
    clock::ManualClock,
    control::Control,
    cost::Cost,
    decision::{Decision, Degraded, Denial, LimitStatus, Reason, Retry},
    diagnosis::{Diagnosis, Finding, Severity},
    error::{Error, ErrorKind},
    failure::FailurePolicy,
    lease::Lease,
    limit::Limit,
    limiter::{Acquire, Limiter, LimiterBuilder, Observation, Outcome, RunError},
    permit::Permit,
    plan::StateLoss,
    policy::{Certainty, Policy, PolicySource, Preset},
    resource::Resource,
    subject::Subject,
};
