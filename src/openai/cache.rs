//! Answers to requests that were equal.
//!
//! Invariant: a hit is charged nothing and asks nobody. Only whole answers are kept, and never longer or more of them than the settings
//! say. A cache that fails is one that has nothing: no call fails for it.
//!
//! Lacks addresses: an image that upstream only gave an address for is not kept, as the address dies sooner than the answer.

pub(super) mod key;
mod value;

use std::time::Duration;

use bytes::Bytes;

pub(super) use self::value::Cached;
#[cfg(feature = "redis")]
use crate::store::redis::RedisStore;
use crate::{
    openai::{cache::key::CacheKey, error::ImageError, request::ImageRequest},
    telemetry,
};

/// The longest wait for a Redis that keeps answers.
#[cfg(feature = "redis")]
const WITHIN: Duration = Duration::from_secs(1);

/// Where answers to requests are kept, for requests that are equal to them. None is unless a client is given one.
///
/// Two requests are equal if they ask the same model for the same: the prompt without space at its ends, size, quality, number and all else
/// that decides what is drawn, inputs by their content. Who asks, and how many partial images are shown on the way, does not count.
///
/// ```
/// use std::time::Duration;
///
/// use allotment::openai::Cache;
///
/// let cache = Cache::memory(256 << 20, Duration::from_secs(3_600))?;
/// # Ok::<(), allotment::openai::ImageError>(())
/// ```
#[derive(Debug)]
#[must_use = "a cache does nothing until a client has it"]
pub struct Cache {
    place: Place,
    entry_bytes_max: u64,
    scope: Scope,
}

#[derive(Debug)]
enum Place {
    Memory(moka::future::Cache<CacheKey, Bytes>),
    #[cfg(feature = "redis")]
    Redis {
        store: Box<RedisStore>,
        ttl: Duration,
    },
}

/// Who sees what was drawn for an org.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scope {
    Org,
    Everybody,
}

impl Cache {
    /// The largest answer that is kept unless told otherwise: 16 MiB.
    pub const ENTRY_BYTES_MAX: u64 = 16 << 20;
    /// The longest that an answer is kept.
    pub const TTL_MAX: Duration = Duration::from_secs(30 * 24 * 3_600);

    /// In this process: at most so many bytes of answers, each for `ttl`; beyond it goes what is used least.
    ///
    /// # Errors
    ///
    /// [`ImageErrorKind::Invalid`](crate::openai::ImageErrorKind::Invalid) for a `ttl` that is not 1 s to 30 days.
    pub fn memory(bytes_max: u64, ttl: Duration) -> Result<Self, ImageError> {
        let ttl = checked(ttl)?;
        let weight = |_: &CacheKey, kept: &Bytes| u32::try_from(kept.len()).unwrap_or(u32::MAX);
        let kept = moka::future::Cache::builder().max_capacity(bytes_max).weigher(weight).time_to_live(ttl).build();
        Ok(Self::new(Place::Memory(kept)))
    }

    /// In Redis, for every process of a fleet, each answer for `ttl`. Connects at the first use.
    ///
    /// Give it a server of its own, with `maxmemory` and `allkeys-lru`, as that is what bounds all answers together. The limiter's server
    /// must not evict, so images would fill it until nothing is admitted; and a decision would wait behind megabytes.
    ///
    /// # Errors
    ///
    /// [`ImageErrorKind::Invalid`](crate::openai::ImageErrorKind::Invalid) for a `ttl` that is not 1 s to 30 days, or a URL that is none;
    /// its password is not in the message.
    #[cfg(feature = "redis")]
    pub fn redis(url: &str, ttl: Duration) -> Result<Self, ImageError> {
        let ttl = checked(ttl)?;
        let store = RedisStore::new(url, WITHIN).map_err(|error| ImageError::invalid(format!("cache: {error}")))?;
        Ok(Self::new(Place::Redis { store: Box::new(store), ttl }))
    }

    fn new(place: Place) -> Self {
        Self { place, entry_bytes_max: Self::ENTRY_BYTES_MAX, scope: Scope::Org }
    }

    /// The largest answer that is kept, in bytes. Default: [`ENTRY_BYTES_MAX`](Self::ENTRY_BYTES_MAX).
    pub fn entry_bytes_max(self, entry_bytes_max: u64) -> Self {
        Self { entry_bytes_max, ..self }
    }

    /// Lets every org see what was drawn for any. Default: an org sees only what was drawn for itself.
    pub fn shared_across_orgs(self) -> Self {
        Self { scope: Scope::Everybody, ..self }
    }

    /// What a request is kept under; `None` if a file that it starts from cannot be read.
    pub(super) async fn key(&self, org: &str, model: &str, request: &ImageRequest) -> Option<CacheKey> {
        let org = (self.scope == Scope::Org).then_some(org);
        CacheKey::of(org, model, request).await
    }

    /// What was kept. In Redis, one round trip.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future changes nothing.
    pub(super) async fn get(&self, key: &CacheKey) -> Option<Cached> {
        let kept = match &self.place {
            Place::Memory(kept) => kept.get(key).await,
            #[cfg(feature = "redis")]
            Place::Redis { store, .. } => match store.kept(&key.spelled()).await {
                Ok(kept) => kept.map(Bytes::from),
                Err(error) => {
                    tracing::debug!(kind = ?error.kind(), %error, "the cache of images does not answer");
                    telemetry::image_cache("failure");
                    return None;
                }
            },
        };
        let cached = kept.and_then(|kept| Cached::decode(&kept));
        telemetry::image_cache(if cached.is_some() { "hit" } else { "miss" });
        cached
    }

    /// Keeps an answer, if it is one to keep. In Redis, one round trip.
    ///
    /// # Cancel safety
    ///
    /// Dropped, it is kept or not.
    pub(super) async fn put(&self, key: CacheKey, cached: &Cached) {
        let Some(encoded) = cached.encode(self.entry_bytes_max) else {
            telemetry::image_cache("not_kept");
            return;
        };
        match &self.place {
            Place::Memory(kept) => kept.insert(key, encoded).await,
            #[cfg(feature = "redis")]
            Place::Redis { store, ttl } => {
                if let Err(error) = store.keep(&key.spelled(), &encoded, *ttl).await {
                    tracing::debug!(kind = ?error.kind(), %error, "the cache of images keeps nothing");
                    telemetry::image_cache("failure");
                }
            }
        }
    }
}

fn checked(ttl: Duration) -> Result<Duration, ImageError> {
    if (Duration::from_secs(1)..=Cache::TTL_MAX).contains(&ttl) {
        return Ok(ttl);
    }
    Err(ImageError::invalid(format!("cache: ttl {ttl:?}: allowed are 1 s to 30 days")))
}

#[cfg(test)]
mod tests {
    use super::{value::tried::cached, *};

    const HOUR: Duration = Duration::from_secs(3_600);

    async fn key(cache: &Cache, org: &str) -> CacheKey {
        cache.key(org, "m", &ImageRequest::generate("a lighthouse")).await.unwrap()
    }

    #[tokio::test]
    async fn an_answer_is_kept_for_equal_requests_of_its_org() {
        let cache = Cache::memory(1 << 20, HOUR).unwrap();
        let (acme, other) = (key(&cache, "acme").await, key(&cache, "other").await);
        assert!(cache.get(&acme).await.is_none());
        cache.put(acme.clone(), &cached("aGk=")).await;
        assert_eq!(cache.get(&acme).await.unwrap().model, "gpt-image-2");
        assert!(cache.get(&other).await.is_none(), "an org does not see the images of another");
        let shared = Cache::memory(1 << 20, HOUR).unwrap().shared_across_orgs();
        shared.put(key(&shared, "acme").await, &cached("aGk=")).await;
        assert!(shared.get(&key(&shared, "other").await).await.is_some());
    }

    #[tokio::test]
    async fn no_more_is_kept_than_the_bounds_say() {
        let small = Cache::memory(1 << 20, HOUR).unwrap().entry_bytes_max(1_000);
        let acme = key(&small, "acme").await;
        small.put(acme.clone(), &cached(&"A".repeat(1_000))).await;
        assert!(small.get(&acme).await.is_none(), "one that is too large");
        let cache = Cache::memory(100_000, HOUR).unwrap();
        for number in 0..100 {
            let key = key(&cache, &number.to_string()).await;
            cache.put(key, &cached(&"A".repeat(4_000))).await;
        }
        let Place::Memory(kept) = &cache.place else { panic!("in memory") };
        kept.run_pending_tasks().await;
        assert!((1..=100_000).contains(&kept.weighted_size()), "{}", kept.weighted_size());
    }

    #[test]
    fn a_ttl_out_of_range_is_refused() {
        for ttl in [Duration::ZERO, Duration::from_millis(999), Cache::TTL_MAX + Duration::from_secs(1), Duration::MAX]
        {
            let error = Cache::memory(1, ttl).unwrap_err().to_string();
            assert!(error.starts_with("cache: ttl ") && error.ends_with("allowed are 1 s to 30 days"), "{error}");
        }
    }

    /// With a deadline that a slow machine does not miss.
    #[cfg(feature = "redis")]
    fn in_redis(url: &str) -> Cache {
        let store = RedisStore::new(url, Duration::from_secs(20)).unwrap();
        Cache::new(Place::Redis { store: Box::new(store), ttl: HOUR })
    }

    #[cfg(feature = "redis")]
    #[tokio::test]
    async fn an_answer_in_redis_is_there_for_other_processes() {
        let server = allotment_fixtures::Server::start().await;
        let (one, other) = (in_redis(&server.url()), in_redis(&server.url()));
        let (acme, foreign) = (key(&one, "acme").await, key(&one, "{acme}:x").await);
        assert!(one.get(&acme).await.is_none());
        one.put(acme.clone(), &cached("aGk=")).await;
        let read = other.get(&acme).await.unwrap();
        assert_eq!((read.images.len(), read.usage), (2, cached("").usage));
        assert!(other.get(&foreign).await.is_none());
        let shared = other.shared_across_orgs();
        let (acme, foreign) = (key(&shared, "acme").await, key(&shared, "other").await);
        shared.put(acme, &cached("aGk=")).await;
        assert!(shared.get(&foreign).await.is_some());
    }

    #[cfg(feature = "redis")]
    #[tokio::test]
    async fn a_redis_that_is_away_or_holds_other_things_is_an_empty_cache() {
        let server = allotment_fixtures::Server::start().await;
        let cache = in_redis(&server.url());
        let acme = key(&cache, "acme").await;
        let Place::Redis { store, .. } = &cache.place else { panic!("in Redis") };
        store.keep(&acme.spelled(), b"not an answer", HOUR).await.unwrap();
        assert!(cache.get(&acme).await.is_none());
        server.kill().await;
        let away = Cache::redis(&server.url(), HOUR).unwrap();
        away.put(acme.clone(), &cached("aGk=")).await;
        assert!(away.get(&acme).await.is_none());
        let error = Cache::redis("redis://me:planted@:x", HOUR).unwrap_err().to_string();
        assert!(error.starts_with("cache: ") && !error.contains("planted"), "{error}");
    }
}
