//! The master of a service, as sentinels know it.
//!
//! Invariant: all sentinels are asked, and the newest configuration wins: one that was cut off may still name the old master. A server is
//! taken only if it says itself that it is a master.

use std::{collections::HashMap, sync::Arc, time::Duration};

use redis::aio::MultiplexedConnection;
use tokio::task::JoinSet;

use crate::{
    error::{Error, ErrorKind},
    store::redis::{
        address::{Address, Endpoint, Topology},
        failure::{Failure, Then},
        link,
    },
};

/// How long sentinels may take, together. One that is gone must not keep the others' answers waiting for long.
const ANSWER_WITHIN: Duration = Duration::from_millis(500);

/// A connection to the master. Three round trips, and one per sentinel at the same time.
pub(super) async fn master(address: &Arc<Address>) -> Result<MultiplexedConnection, Failure> {
    let endpoint = newest(address).await?;
    let mut connection = link::connect(&address.client_at(&endpoint).map_err(fatal)?).await?;
    let question = redis::cmd("ROLE");
    let told = tokio::time::timeout(ANSWER_WITHIN, question.query_async::<Vec<redis::Value>>(&mut connection));
    match told.await.map_err(|_| Failure::silence())??.first() {
        Some(redis::Value::BulkString(role)) if role == b"master" => Ok(connection),
        _ => Err(absent(format!("{}:{} is not a master yet", endpoint.0, endpoint.1))),
    }
}

/// The master of the newest configuration that any sentinel knows.
async fn newest(address: &Arc<Address>) -> Result<Endpoint, Failure> {
    let Topology::Sentinel { sentinels, service, .. } = &address.topology else {
        return Err(absent("the address names no sentinels".to_owned()));
    };
    let mut asked = JoinSet::new();
    for sentinel in sentinels {
        let (client, service) = (address.sentinel_at(sentinel).map_err(fatal)?, service.clone());
        asked.spawn(async move {
            let mut connection = link::connect(&client).await?;
            // who leads a fail-over has the new epoch at once, and the new address first where clients ask for it
            let mut questions = redis::pipe();
            questions.cmd("SENTINEL").arg("MASTER").arg(&service);
            questions.cmd("SENTINEL").arg("GET-MASTER-ADDR-BY-NAME").arg(&service);
            let (fields, (host, port)): (HashMap<String, String>, (String, u16)) =
                questions.query_async(&mut connection).await?;
            let epoch = fields.get("config-epoch").and_then(|epoch| epoch.parse::<u64>().ok());
            let epoch = epoch.ok_or_else(|| absent(format!("a sentinel knows no epoch of {service:?}")))?;
            Ok((epoch, (host, port)))
        });
    }
    let (mut newest, mut last) = (None, absent("no sentinel answers".to_owned()));
    let gather = async {
        while let Some(answer) = asked.join_next().await {
            match answer {
                Ok(Ok(known)) => newest = newest.take().max(Some(known)),
                Ok(Err(failure)) => last = failure,
                Err(_) => {}
            }
        }
    };
    // those that have answered by then count
    let _late = tokio::time::timeout(ANSWER_WITHIN, gather).await;
    newest.map(|(_, endpoint)| endpoint).ok_or(last)
}

fn absent(message: String) -> Failure {
    Failure::new(Error::new(ErrorKind::Unavailable, message), Then::Repeat)
}

fn fatal(error: Error) -> Failure {
    Failure::new(error, Then::GiveUp)
}
