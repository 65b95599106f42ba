//! What Redis can be asked more than once.

use redis::{FromRedisValue, Pipeline, RedisError, Value, aio::ConnectionLike};

use crate::store::redis::{failure::Failure, request::Packed, script::Script};

/// A call of a script, or some commands, about the keys of one slot.
pub(crate) enum Question<'a> {
    Script(&'a Script, &'a Packed),
    /// Commands about one key, or about a server as a whole.
    Commands(&'a str, &'a Pipeline),
}

impl Question<'_> {
    /// The slot of its keys in a cluster.
    pub(super) fn slot(&self) -> u16 {
        match self {
            Self::Script(_, packed) => slot_of(packed.key()),
            Self::Commands(key, _) => slot_of(key),
        }
    }

    /// Asks on this connection. One round trip; two when the server does not know the script yet. `asking`: for a slot that the server is
    /// taking over.
    pub(super) async fn put<T: FromRedisValue>(
        &self,
        connection: &mut impl ConnectionLike,
        asking: bool,
    ) -> Result<T, Failure> {
        match self {
            Self::Script(script, packed) if asking => {
                // the permission holds for the next command: the two must not be parted. Such a call is rare, so the text goes with it
                let mut commands = redis::pipe();
                commands.add_command(packed.command("EVAL", script.text()));
                let (answer,): (T,) = permitted(&commands, connection).await?;
                Ok(answer)
            }
            Self::Script(script, packed) => script.call(connection, packed).await,
            Self::Commands(_, commands) if asking => permitted(commands, connection).await,
            Self::Commands(_, commands) => all(commands, connection).await,
        }
    }
}

/// Commands about a slot that the server is taking over.
async fn permitted<T: FromRedisValue>(commands: &Pipeline, connection: &mut impl ConnectionLike) -> Result<T, Failure> {
    let mut permitted = redis::pipe();
    for command in commands.cmd_iter() {
        permitted.cmd("ASKING").ignore().add_command(command.clone());
    }
    all(&permitted, connection).await
}

/// The answers to commands that go together; or the first error, as the server said it: of a pipeline the client tells less.
async fn all<T: FromRedisValue>(commands: &Pipeline, connection: &mut impl ConnectionLike) -> Result<T, Failure> {
    let mut commands = commands.clone();
    let answers: Vec<Value> = commands.ignore_errors().query_async(connection).await?;
    for answer in &answers {
        if let Value::ServerError(error) = answer {
            return Err(RedisError::from(error.clone()).into());
        }
    }
    Ok(T::from_redis_value(Value::Array(answers)).map_err(RedisError::from)?)
}

/// The slot of a key: that of its hash tag, where it has one.
pub(super) fn slot_of(key: &str) -> u16 {
    let tag = key.split_once('{').and_then(|(_, rest)| rest.split_once('}')).map(|(tag, _)| tag);
    let hashed = tag.filter(|tag| !tag.is_empty()).unwrap_or(key);
    crc16::State::<crc16::XMODEM>::calculate(hashed.as_bytes()) % SLOTS
}

/// Slots of a cluster.
pub(super) const SLOTS: u16 = 16_384;

#[cfg(test)]
mod tests {
    use super::*;

    /// As `CLUSTER KEYSLOT` of Redis answers.
    #[test]
    fn a_slot_is_that_of_the_hash_tag() {
        for (key, slot) in [
            ("foo", 12_182),
            ("123456789", 12_739),
            ("any:{foo}:h", 12_182),
            ("{}foo", slot_of("{}foo")),
            ("a}b{foo}", 12_182),
        ] {
            assert_eq!(slot_of(key), slot, "{key}");
        }
        assert_ne!(slot_of("{}foo"), slot_of("foo"), "an empty tag is none");
    }
}
