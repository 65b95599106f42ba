//! Where the policy of an org comes from: one for all, or a service's own table of customers.
//!
//! Lacks caching on purpose: the limiter keeps what a source answered.

use std::{future::Future, pin::Pin};

use crate::{error::Error, policy::Policy};

/// One policy per org, for instance from a database.
///
/// ```
/// use std::{collections::HashMap, pin::Pin};
/// use allotment::{Error, Policy, PolicySource};
///
/// struct Customers(HashMap<String, Policy>);
///
/// impl PolicySource for Customers {
///     fn policy<'a>(&'a self, org: &'a str) -> Pin<Box<dyn Future<Output = Result<Policy, Error>> + Send + 'a>> {
///         Box::pin(async move { self.0.get(org).cloned().map_or_else(|| Policy::preset("openai-2026-tier-1"), Ok) })
///     }
/// }
/// ```
pub trait PolicySource: Send + Sync {
    /// The policy of `org`.
    ///
    /// # Errors
    ///
    /// Whatever kept it from being found: [`Error::unavailable`] if it may work later. The call that asked fails with it.
    fn policy<'a>(&'a self, org: &'a str) -> Pin<Box<dyn Future<Output = Result<Policy, Error>> + Send + 'a>>;
}

/// The same policy for every org.
impl PolicySource for Policy {
    fn policy<'a>(&'a self, _org: &'a str) -> Pin<Box<dyn Future<Output = Result<Policy, Error>> + Send + 'a>> {
        Box::pin(std::future::ready(Ok(self.clone())))
    }
}
