//! Answers that are kept for a while. They have nothing to do with limits: no script reads or writes them.

use std::time::Duration;

use crate::{
    clock::millis,
    error::Error,
    store::redis::{RedisStore, question::Question},
};

impl RedisStore {
    /// What is kept under a key of the keyspace. One round trip.
    pub(crate) async fn kept(&self, key: &str) -> Result<Option<Vec<u8>>, Error> {
        let mut commands = redis::pipe();
        commands.get(key);
        let question = Question::Commands(key, &commands);
        let answered = Box::pin(self.connections.ask::<(Option<Vec<u8>>,)>(&question, self.deadline)).await?;
        let (kept,) = answered.answer;
        Ok(kept)
    }

    /// Keeps `value` under it for `ttl`. One round trip.
    pub(crate) async fn keep(&self, key: &str, value: &[u8], ttl: Duration) -> Result<(), Error> {
        let mut commands = redis::pipe();
        commands.cmd("SET").arg(key).arg(value).arg("PX").arg(millis(ttl));
        let question = Question::Commands(key, &commands);
        Box::pin(self.connections.ask::<(String,)>(&question, self.deadline)).await.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_kept_has_a_life() {
        let server = allotment_fixtures::Server::start().await;
        let store = RedisStore::new(&server.url(), Duration::from_secs(20)).unwrap();
        assert_eq!(store.kept("x").await.unwrap(), None);
        store.keep("x", b"\x00\xff", Duration::from_millis(3_600_500)).await.unwrap();
        assert_eq!(store.kept("x").await.unwrap().as_deref(), Some(&b"\x00\xff"[..]));
        let mut connection = allotment_fixtures::raw(&server).await;
        let life_ms: i64 = redis::cmd("PTTL").arg("x").query_async(&mut connection).await.unwrap();
        assert!((1..=3_600_500).contains(&life_ms), "{life_ms}");
    }
}
