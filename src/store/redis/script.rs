//! The scripts, embedded, and how one is called.
//!
//! Invariant: a script is named by its digest, so releases with different texts share a server. A server that does not know it is sent
//! the text in the same round trip's repeat.

use std::sync::OnceLock;

use redis::{ErrorKind as RedisErrorKind, FromRedisValue, ServerErrorKind, aio::ConnectionLike};

use crate::store::redis::{failure::Failure, request::Packed};

/// One script with the parts it shares.
#[derive(Debug)]
pub(crate) struct Script {
    text: &'static str,
    digest: OnceLock<String>,
}

/// The parts of a script as one text. The parts after `rest` are reached only if the ones before left a request unanswered.
macro_rules! text {
    ($($part:literal),+) => {
        concat!($(include_str!(concat!("../../../lua/", $part)), "\n"),+)
    };
    ($($usual:literal),+, rest $($rest:literal),+) => {
        concat!(
            text!("lib/read.lua", $($usual),+),
            "if answered == requests then\n",
            text!("lib/write.lua"),
            "end\n",
            text!("lib/records.lua", "lib/log.lua", $($rest),+, "lib/write.lua")
        )
    };
}

macro_rules! script {
    ($($part:tt)+) => {
        Script { text: text!($($part)+), digest: OnceLock::new() }
    };
}

static ACQUIRE: Script = script!(
    "lib/lease.lua",
    "acquire.lua",
    "lib/fair/gather.lua",
    "lib/fair/stand.lua",
    "lib/fair/lower.lua",
    "lib/room.lua",
    "lib/charge.lua",
    "lib/fair/conclude.lua",
    rest
    "lib/line.lua",
    "lib/fair/gather_in_full.lua",
    "lib/fair/stand.lua",
    "lib/acquire_in_full.lua",
    "lib/fair/conclude.lua"
);
static SETTLE: Script = script!("lib/lease.lua", "settle.lua", rest "lib/settle_in_full.lua");
static CONTROL: Script = script!("lib/read.lua", "lib/records.lua", "lib/log.lua", "control.lua", "lib/write.lua");
static OBSERVE: Script = script!("lib/read.lua", "lib/records.lua", "lib/log.lua", "observe.lua", "lib/write.lua");
pub(crate) static INSPECT: Script = script!("lib/clock.lua", "inspect.lua");
pub(crate) static GOVERN: Script = script!("lib/clock.lua", "govern.lua");
pub(crate) static CONTROLS: Script = script!("lib/clock.lua", "controls.lua");
pub(crate) static RENEW: Script = script!("lib/clock.lua", "renew.lua");
pub(crate) static MEMBER: Script = script!("lib/clock.lua", "member.lua");
pub(crate) static OPEN: Script = script!("lib/clock.lua", "open.lua");
pub(crate) static NOTE: Script = script!("note.lua");

/// Every script, by its name under `lua/`.
pub(crate) fn all() -> impl Iterator<Item = (&'static str, &'static Script)> {
    [
        ("acquire", &ACQUIRE),
        ("settle", &SETTLE),
        ("control", &CONTROL),
        ("observe", &OBSERVE),
        ("inspect", &INSPECT),
        ("govern", &GOVERN),
        ("controls", &CONTROLS),
        ("renew", &RENEW),
        ("open", &OPEN),
        ("note", &NOTE),
        ("member", &MEMBER),
    ]
    .into_iter()
}

/// The scripts that a store calls.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scripts {
    pub(crate) acquire: &'static Script,
    pub(crate) settle: &'static Script,
    pub(crate) control: &'static Script,
    pub(crate) observe: &'static Script,
}

impl Scripts {
    /// As they are shipped.
    pub(crate) const SHIPPED: Self = Self { acquire: &ACQUIRE, settle: &SETTLE, control: &CONTROL, observe: &OBSERVE };

    /// With every `find` replaced; `None` if there is none. The texts are never freed.
    #[cfg(feature = "testing")]
    pub(crate) fn planted(find: &str, replace: &str) -> Option<Self> {
        let shipped = Self::SHIPPED;
        let plant = |script: &Script| -> &'static Script {
            let text: &'static str = script.text.replace(find, replace).leak();
            Box::leak(Box::new(Script { text, digest: OnceLock::new() }))
        };
        let Self { acquire, settle, control, observe } = shipped;
        let found = [acquire, settle, control, observe].iter().any(|script| script.text.contains(find));
        let [acquire, settle, control, observe] = [acquire, settle, control, observe].map(plant);
        found.then_some(Self { acquire, settle, control, observe })
    }
}

impl Script {
    pub(crate) fn text(&self) -> &'static str {
        self.text
    }

    /// The name of the script: the SHA-1 of its text, in hex.
    pub(crate) fn digest(&self) -> &str {
        self.digest.get_or_init(|| redis::Script::new(self.text).get_hash().to_owned())
    }

    /// Calls the script. One round trip; two when the server does not know it yet.
    pub(crate) async fn call<T: FromRedisValue>(
        &self,
        connection: &mut impl ConnectionLike,
        packed: &Packed,
    ) -> Result<T, Failure> {
        let by_digest = packed.command("EVALSHA", self.digest()).query_async(connection).await;
        match by_digest {
            Err(error) if error.kind() == RedisErrorKind::Server(ServerErrorKind::NoScript) => {
                let by_text = packed.command("EVAL", self.text).query_async(connection).await;
                by_text.map_err(|error| match error.kind() {
                    RedisErrorKind::Server(ServerErrorKind::NoPerm) => Failure::not_loaded(error),
                    _ => Failure::from(error),
                })
            }
            answered => Ok(answered?),
        }
    }
}
