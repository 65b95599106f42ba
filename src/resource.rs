//! What is counted: requests, tokens, images, calls under way, or a resource of the caller's own.
//!
//! Lacks amounts on purpose: they belong to [`Cost`](crate::Cost) and [`Limit`](crate::Limit).

use std::{fmt, sync::Arc};

use serde::{Deserialize, Serialize};

/// What a limit counts.
///
/// Written `requests`, `tokens`, `images`, `in_flight`, or any other name for a custom resource, such as `spend_micros`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
#[non_exhaustive]
pub enum Resource {
    /// Calls.
    Requests,
    /// Tokens, in and out.
    Tokens,
    /// Images.
    Images,
    /// Calls under way at one time. A cost never names them: a call is one while it lasts.
    InFlight,
    /// A resource of the caller's own. It has a ledger to itself.
    Custom(Arc<str>),
}

impl Resource {
    /// The name used in policies, JSON, metrics and messages.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Requests => "requests",
            Self::Tokens => "tokens",
            Self::Images => "images",
            Self::InFlight => "in_flight",
            Self::Custom(name) => name,
        }
    }
}

impl From<&str> for Resource {
    fn from(name: &str) -> Self {
        match name {
            "requests" => Self::Requests,
            "tokens" => Self::Tokens,
            "images" => Self::Images,
            "in_flight" => Self::InFlight,
            custom => Self::Custom(custom.into()),
        }
    }
}

impl From<String> for Resource {
    fn from(name: String) -> Self {
        name.as_str().into()
    }
}

impl From<Resource> for String {
    fn from(resource: Resource) -> Self {
        resource.name().to_owned()
    }
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
