//! Which policy an org has: one for all, or one from a source, cached.

use std::{fmt, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use moka::future::Cache;

use crate::{
    error::{Error, ErrorKind},
    policy::{Compiled, Policy, PolicySource},
};

/// The most policies kept, one per org.
const CACHED_MAX: u64 = 10_000;

pub(crate) enum Policies {
    Fixed(ArcSwap<Compiled>),
    Source { source: Box<dyn PolicySource>, cache: Cache<Arc<str>, Arc<Compiled>> },
}

impl Policies {
    pub(crate) fn fixed(policy: Policy) -> Result<Self, Error> {
        Ok(Self::Fixed(ArcSwap::from_pointee(policy.compile()?)))
    }

    pub(crate) fn from_source(source: Box<dyn PolicySource>, ttl: Duration) -> Self {
        Self::Source { source, cache: Cache::builder().max_capacity(CACHED_MAX).time_to_live(ttl).build() }
    }

    /// The policy of an org. Of callers that miss the cache at once, one asks the source.
    pub(crate) async fn of(&self, org: &Arc<str>) -> Result<Arc<Compiled>, Error> {
        match self {
            Self::Fixed(policy) => Ok(policy.load_full()),
            Self::Source { source, cache } => {
                if let Some(policy) = cache.get(org).await {
                    return Ok(policy);
                }
                let load = async { source.policy(org).await?.compile().map(Arc::new) };
                cache.try_get_with(Arc::clone(org), load).await.map_err(|error: Arc<Error>| {
                    Error::new(error.kind(), format!("no policy for this org: {error}")).with_source(error)
                })
            }
        }
    }

    pub(crate) fn set(&self, policy: Policy) -> Result<(), Error> {
        match self {
            Self::Fixed(current) => {
                current.store(Arc::new(policy.compile()?));
                Ok(())
            }
            Self::Source { .. } => Err(Error::new(
                ErrorKind::Invalid,
                "set_policy: the policies of this limiter come from a source; change them there and call forget_policy",
            )),
        }
    }

    pub(crate) async fn forget(&self, org: &str) {
        if let Self::Source { cache, .. } = self {
            cache.invalidate(org).await;
        }
    }
}

impl fmt::Debug for Policies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(policy) => f.debug_tuple("Fixed").field(&policy.load()).finish(),
            Self::Source { cache, .. } => {
                f.debug_struct("Source").field("cached", &cache.entry_count()).finish_non_exhaustive()
            }
        }
    }
}
