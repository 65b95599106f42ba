//! A policy that holds no call, for what is to run without limits.

use allotment::{Limit, Policy};

/// A policy has a limit: this one counts by an attribute that no subject has.
pub(crate) fn policy() -> Policy {
    Policy::new().limit(Limit::new("none").scope(["org", "nobody"]).images(1))
}
