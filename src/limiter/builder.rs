//! How a limiter is put together.

use std::{sync::Arc, time::Duration};

#[cfg(feature = "redis")]
use crate::store::redis::RedisStore;
use crate::{
    clock::{Clock, ManualClock, millis},
    dispatch::Dispatch,
    error::Error,
    failure::{Failure, FailurePolicy},
    limiter::{Core, Limiter, governing::Governing, policies::Policies},
    policy::{Policy, PolicySource},
    store::{Store, memory::MemoryStore},
};

const DEADLINE: Duration = Duration::from_millis(250);
const POLICY_TTL: Duration = Duration::from_secs(60);
const BATCH_MAX: usize = 64;
const LEASE: Duration = Duration::from_secs(15);
const PRIORITY: &str = "interactive";

/// Settings of a [`Limiter`]. Nothing happens until [`build`](Self::build), and nothing is sent before the first use.
#[must_use = "a builder does nothing until `.build()`"]
pub struct LimiterBuilder {
    redis_url: Option<String>,
    policies: Chosen,
    clock: Option<ManualClock>,
    deadline: Duration,
    policy_ttl: Duration,
    batch_max: usize,
    lease: Duration,
    failure_policy: FailurePolicy,
}

/// Where the policies come from.
enum Chosen {
    Nothing,
    Fixed(Policy),
    Source(Box<dyn PolicySource>),
}

impl std::fmt::Debug for Chosen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Nothing => "nothing",
            Self::Fixed(_) => "one policy",
            Self::Source(_) => "a source",
        })
    }
}

impl std::fmt::Debug for LimiterBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // not the URL: it holds the password
        f.debug_struct("LimiterBuilder")
            .field("redis", &self.redis_url.is_some())
            .field("policies", &self.policies)
            .field("deadline", &self.deadline)
            .field("batch_max", &self.batch_max)
            .finish_non_exhaustive()
    }
}

impl LimiterBuilder {
    pub(crate) fn new() -> Self {
        Self {
            redis_url: None,
            policies: Chosen::Nothing,
            clock: None,
            deadline: DEADLINE,
            policy_ttl: POLICY_TTL,
            batch_max: BATCH_MAX,
            lease: LEASE,
            failure_policy: FailurePolicy::Deny,
        }
    }

    /// Keeps ledgers in this process. Default.
    pub fn in_memory(mut self) -> Self {
        self.redis_url = None;
        self
    }

    /// Keeps ledgers in Redis, shared by every process that names the same one: `redis://`, `rediss://` or `redis+unix://`.
    #[cfg(feature = "redis")]
    pub fn redis(mut self, url: impl Into<String>) -> Self {
        self.redis_url = Some(url.into());
        self
    }

    /// One policy for every org.
    pub fn policy(mut self, policy: Policy) -> Self {
        self.policies = Chosen::Fixed(policy);
        self
    }

    /// A policy per org.
    pub fn policies(mut self, source: impl PolicySource + 'static) -> Self {
        self.policies = Chosen::Source(Box::new(source));
        self
    }

    /// How long a policy from a source is used before the source is asked again. Default: 60 s.
    pub fn policy_ttl(mut self, ttl: Duration) -> Self {
        self.policy_ttl = ttl;
        self
    }

    /// The clock of the embedded store, in the hand of a test.
    pub fn clock(mut self, clock: ManualClock) -> Self {
        self.clock = Some(clock);
        self
    }

    /// The longest a decision may take, repeats included, 1 ms to 60 s. Past it the call fails with
    /// [`ErrorKind::Timeout`](crate::ErrorKind::Timeout), or the [failure policy](Self::failure_policy) decides. Default: 250 ms.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// The most requests of one org that go to Redis in one script call, 1 to 256; 1 sends each at once. Default: 64.
    pub fn batch_max(mut self, requests: usize) -> Self {
        self.batch_max = requests;
        self
    }

    /// How long the slot of a call under way is kept for a process that gives no sign of life, 1 s to 10 min. A heartbeat renews it
    /// three times within that. Default: 15 s.
    ///
    /// With [`FailurePolicy::Local`] it is also how long this process counts among those that share an org's limits, without a sign of life:
    /// all processes of an org should have the same.
    pub fn lease(mut self, lease: Duration) -> Self {
        self.lease = lease;
        self
    }

    /// Who decides when Redis does not answer within the deadline. Default: [`FailurePolicy::Deny`], so that the call fails with an error.
    pub fn failure_policy(mut self, policy: FailurePolicy) -> Self {
        self.failure_policy = policy;
        self
    }

    /// # Errors
    ///
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid), naming the setting: no policy or one that does not hold together, a URL that is
    /// none, a manual clock beside Redis, a deadline, batch size or lease out of range.
    pub fn build(self) -> Result<Limiter, Error> {
        if !(Duration::from_millis(1)..=Duration::from_secs(60)).contains(&self.deadline) {
            return Err(Error::invalid(format!("deadline {:?}: allowed are 1 ms to 60 s", self.deadline)));
        }
        if !(1..=256).contains(&self.batch_max) {
            return Err(Error::invalid(format!("batch_max {}: allowed are 1 to 256", self.batch_max)));
        }
        if !(Duration::from_secs(1)..=Duration::from_secs(600)).contains(&self.lease) {
            return Err(Error::invalid(format!("lease {:?}: allowed are 1 s to 10 min", self.lease)));
        }
        if self.policy_ttl.is_zero() {
            return Err(Error::invalid("policy_ttl 0s: it must be longer than nothing"));
        }
        let policies = match self.policies {
            Chosen::Nothing => return Err(Error::invalid("policy: none given; set .policy(..) or .policies(..)")),
            Chosen::Fixed(policy) => Policies::fixed(policy)?,
            Chosen::Source(source) => Policies::from_source(source, self.policy_ttl),
        };
        let clock = self.clock.clone().map_or_else(Clock::system, Clock::Manual);
        let store = match self.redis_url {
            None => Store::Memory(MemoryStore::new(clock.clone())),
            Some(_) if self.clock.is_some() => {
                return Err(Error::invalid(
                    "clock: Redis has a clock of its own; a manual clock is for the embedded store",
                ));
            }
            #[cfg(feature = "redis")]
            Some(url) => Store::Redis(Box::new(RedisStore::new(&url, self.deadline)?)),
            #[cfg(not(feature = "redis"))]
            Some(_) => return Err(Error::invalid("redis: this build has no Redis store; enable the feature `redis`")),
        };
        let dispatch = Dispatch::new(store, clock, self.batch_max, millis(self.lease));
        let failure = Failure::new(self.failure_policy, &dispatch);
        let governing = Governing::default();
        Ok(Limiter {
            core: Arc::new(Core { dispatch, policies, governing, failure, closed: false.into() }),
            class: PRIORITY.into(),
        })
    }
}
