//! What any limiter on this Redis has to pay: the scale the cases are read by.
//!
//! Invariant: baselines run in every round, under the same number of calls in flight on one connection as the cases.

use std::sync::Arc;

use anyhow::Result;
use redis::{Script, aio::MultiplexedConnection};

use super::{
    Bench,
    drive::{CALLERS, drive, user_of},
    probe::{Measured, Probe, connect},
};

/// The name of the baseline that ratios refer to.
pub(super) const FLOOR: &str = "floor";

/// The least a limiter in Lua with two scopes must do: read and write the states of an org and of a user, 100 bytes each, and renew their
/// time to live.
const FLOOR_SCRIPT: &str = "\
redis.call('GET', KEYS[1])
redis.call('GET', KEYS[2])
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
redis.call('SET', KEYS[2], ARGV[1], 'PX', ARGV[2])
return 1";

const STATE_BYTES: usize = 100;
const STATE_TTL_MS: u32 = 75_000;

/// `PING`, the emptiest script, and the floor.
pub(super) struct Baselines {
    connection: MultiplexedConnection,
    floor: Arc<Floor>,
}

impl Baselines {
    /// Opens the connection of the baselines.
    ///
    /// # Errors
    ///
    /// When Redis cannot be reached.
    pub(super) async fn connect(bench: &Bench) -> Result<Self> {
        let user_keys = (0..bench.args.users).map(|user| bench.scratch.key(FLOOR, &format!("user-{user}"))).collect();
        let floor = Arc::new(Floor {
            script: Script::new(FLOOR_SCRIPT),
            org_key: bench.scratch.key(FLOOR, "org"),
            user_keys,
            state: "x".repeat(STATE_BYTES),
        });
        Ok(Self { connection: connect(&bench.client).await?, floor })
    }

    /// Measures each baseline with `calls` calls, the floor last.
    ///
    /// # Errors
    ///
    /// When Redis refuses a command.
    pub(super) async fn measure(&self, probe: &mut Probe, calls: usize) -> Result<Vec<(&'static str, Measured)>> {
        Ok(vec![
            ("ping", self.ping(probe, calls).await?),
            ("evalsha_return_1", self.return_1(probe, calls).await?),
            (FLOOR, self.floor(probe, calls).await?),
        ])
    }

    async fn ping(&self, probe: &mut Probe, calls: usize) -> Result<Measured> {
        let connection = self.connection.clone();
        let ping = move |_| {
            let mut connection = connection.clone();
            async move { Ok(redis::cmd("PING").exec_async(&mut connection).await?) }
        };
        // No script is called here; a few calls fill the org of other cases.
        Ok(Measured { script_calls: 0, ..probe.measure(drive(CALLERS, calls, ping)).await? })
    }

    async fn return_1(&self, probe: &mut Probe, calls: usize) -> Result<Measured> {
        let (connection, script) = (self.connection.clone(), Script::new("return 1"));
        script.load_async(&mut connection.clone()).await?;
        let return_1 = move |_| {
            let (mut connection, script) = (connection.clone(), script.clone());
            async move { Ok(script.prepare_invoke().invoke_async::<()>(&mut connection).await?) }
        };
        probe.measure(drive(CALLERS, calls, return_1)).await
    }

    /// Measures the floor with `calls` calls.
    ///
    /// # Errors
    ///
    /// When Redis refuses a command.
    pub(super) async fn floor(&self, probe: &mut Probe, calls: usize) -> Result<Measured> {
        let (connection, floor) = (self.connection.clone(), Arc::clone(&self.floor));
        floor.script.load_async(&mut connection.clone()).await?;
        let spend = move |number| {
            let (mut connection, floor) = (connection.clone(), Arc::clone(&floor));
            async move { floor.spend(&mut connection, number).await }
        };
        probe.measure(drive(CALLERS, calls, spend)).await
    }
}

/// The floor script and the keys its calls are spread over: the org's and one per user.
struct Floor {
    script: Script,
    org_key: String,
    user_keys: Vec<String>,
    state: String,
}

impl Floor {
    async fn spend(&self, connection: &mut MultiplexedConnection, number: usize) -> Result<()> {
        let user_key = &self.user_keys[user_of(number, self.user_keys.len())];
        let mut call = self.script.prepare_invoke();
        call.key(&self.org_key).key(user_key).arg(&self.state).arg(STATE_TTL_MS);
        Ok(call.invoke_async::<()>(connection).await?)
    }
}
