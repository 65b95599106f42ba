//! skeleton
mod cost;
mod decision;
mod error;
mod resource;
mod subject;

pub use crate::{
    cost::Cost,
    decision::{Decision, Denial, LimitStatus, Retry},
    error::{Error, ErrorKind},
    resource::Resource,
    subject::Subject,
};
