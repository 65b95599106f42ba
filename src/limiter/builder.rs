//! How a limiter is put together.

use std::{sync::Arc, time::Duration};

#[cfg(feature = "redis")]
use crate::store::redis::RedisStore;
use crate::{
    clock::{Clock, ManualClock, millis},
    dispatch::Dispatch,
    error::Error,
    failure::{Failure, FailurePolicy},
    limiter::{Core, Limiter, feedback::Doubted, governing::Governing, policies::Policies},
    plan::StateLoss,
    policy::{Policy, PolicySource},
    store::{Store, memory::MemoryStore},
};

const DEADLINE: Duration = Duration::from_millis(250);
const POLICY_TTL: Duration = Duration::from_secs(60);
const BATCH_MAX: usize = 64;
const LEASE: Duration = Duration::from_secs(15);
pub(super) const PRIORITY: &str = "interactive";

/// Settings of a [`Limiter`]. Nothing happens until [`build`](Self::build), and nothing is sent before the first use.
#[must_use = "a builder does nothing until `.build()`"]
pub struct LimiterBuilder {
    ledgers: Ledgers,
    allow_eviction: bool,
    policies: Chosen,
    clock: Option<ManualClock>,
    deadline: Duration,
    policy_ttl: Duration,
    batch_max: usize,
    lease: Duration,
    state_loss: StateLoss,
    failure_policy: FailurePolicy,
}

/// Where the ledgers are.
enum Ledgers {
    Memory,
    #[cfg(feature = "redis")]
    Redis(String),
    #[cfg(feature = "deadpool")]
    Pool(deadpool_redis::Pool),
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
            .field("redis", &!matches!(self.ledgers, Ledgers::Memory))
            .field("policies", &self.policies)
            .field("deadline", &self.deadline)
            .field("batch_max", &self.batch_max)
            .finish_non_exhaustive()
    }
}

impl LimiterBuilder {
    pub(crate) fn new() -> Self {
        Self {
            ledgers: Ledgers::Memory,
            allow_eviction: false,
            policies: Chosen::Nothing,
            clock: None,
            deadline: DEADLINE,
            policy_ttl: POLICY_TTL,
            batch_max: BATCH_MAX,
            lease: LEASE,
            state_loss: StateLoss::default(),
            failure_policy: FailurePolicy::Deny,
        }
    }

    /// Keeps ledgers in this process. Default.
    pub fn in_memory(mut self) -> Self {
        self.ledgers = Ledgers::Memory;
        self
    }

    /// Keeps ledgers in Redis, shared by every process that names the same one. Nothing is sent before the first use, so that Redis may be
    /// down when the limiter is built.
    ///
    /// | URL | Is |
    /// |---|---|
    /// | `redis://[user[:password]@]host[:port][/database]` | one server; `rediss://` over TLS |
    /// | `redis+unix:///path/to/socket[?db=0&user=..&pass=..]` | one server on this host |
    /// | `redis+sentinel://[user[:password]@]host[:port],..[/service[/database]]` | the master that sentinels name; options `sentinel_user`, `sentinel_password` |
    /// | `redis+cluster://[user[:password]@]host[:port],..` | a cluster, by some of its nodes |
    ///
    /// The last two are `rediss+sentinel://` and `rediss+cluster://` over TLS. A certificate is verified always; `?tls_ca=FILE` names who
    /// signed it, `tls_cert` and `tls_key` are those of this client, all in PEM. `?protocol=resp2` is for servers before Redis 6.
    #[cfg(feature = "redis")]
    pub fn redis(mut self, url: impl Into<String>) -> Self {
        self.ledgers = Ledgers::Redis(url.into());
        self
    }

    /// Keeps ledgers in Redis, on connections of a pool that the application has. One connection is taken per call of the store, so the
    /// size of the pool bounds how many are under way; [`redis`](Self::redis) needs one connection for all, and is several times as fast.
    #[cfg(feature = "deadpool")]
    pub fn redis_pool(mut self, pool: deadpool_redis::Pool) -> Self {
        self.ledgers = Ledgers::Pool(pool);
        self
    }

    /// Lets [`Limiter::ready`] take a Redis that evicts keys when its memory runs out. Such a Redis forgets usage without an error, and
    /// limits are overrun: only for one whose memory never runs out.
    pub fn allow_eviction(mut self) -> Self {
        self.allow_eviction = true;
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

    /// The longest a round trip may take, repeats included, 1 ms to 60 s. Past it the call fails with
    /// [`ErrorKind::Timeout`](crate::ErrorKind::Timeout), or the [failure policy](Self::failure_policy) decides. Default: 250 ms.
    ///
    /// A decision is one round trip, and a few more after the controls of its org have changed or Redis has lost its data.
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

    /// What limits admit after Redis has lost an org's data: by a restart without a file, a flush, a failover to an empty replica. It is
    /// noticed by the next call of a process that had a decision of this org within the last minute or so, and counted once in the fleet as
    /// `allotment_state_losses_total`. Every process of a fleet should have the same setting. Default: [`StateLoss::Fresh`].
    ///
    /// The embedded store loses nothing.
    pub fn state_loss(mut self, state_loss: StateLoss) -> Self {
        self.state_loss = state_loss;
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
        #[cfg(feature = "redis")]
        let in_redis = |store: RedisStore| {
            let store = store.noticing_losses(self.state_loss != StateLoss::Fresh);
            Store::Redis(Box::new(if self.allow_eviction { store.allow_eviction() } else { store }))
        };
        let store = match self.ledgers {
            Ledgers::Memory => Store::Memory(MemoryStore::new(clock.clone())),
            #[cfg(feature = "redis")]
            _ if self.clock.is_some() => {
                return Err(Error::invalid(
                    "clock: Redis has a clock of its own; a manual clock is for the embedded store",
                ));
            }
            #[cfg(feature = "redis")]
            Ledgers::Redis(url) => in_redis(RedisStore::new(&url, self.deadline)?),
            #[cfg(feature = "deadpool")]
            Ledgers::Pool(pool) => in_redis(RedisStore::pooled(pool, self.deadline)),
        };
        let dispatch = Dispatch::new(store, clock, self.batch_max, millis(self.lease));
        let failure = Failure::new(self.failure_policy, &dispatch);
        let governing = Governing::default();
        Ok(Limiter {
            core: Arc::new(Core {
                dispatch,
                policies,
                governing,
                state_loss: self.state_loss,
                failure,
                doubted: Doubted::default(),
                closed: false.into(),
            }),
            class: PRIORITY.into(),
        })
    }
}
