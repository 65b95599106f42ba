//! T3: whatever goes wrong inside a script, nothing is half written.

use std::time::Duration;

use allotment::{Cost, Decision, Limit, Limiter, Policy, Subject};
use allotment_fixtures::{Server, connect, dump_all, random_org};
use anyhow::{Result, bail};

use crate::{found::Found, suite::Scale};

/// What a key may hold that is none of ours.
const FOREIGN: [(&str, &[&str]); 5] =
    [("SET", &["junk"]), ("RPUSH", &["a"]), ("SADD", &["a"]), ("HSET", &["a", "b"]), ("ZADD", &["1", "a"])];

pub(crate) async fn run(_scale: Scale) -> Result<Found> {
    let mut found = Found::new("a foreign value at each key of an org in turn");
    let server = Server::start().await;
    let mut admin = connect(&server.url()).await?;
    let minute = Duration::from_secs(60);
    let policy = Policy::new()
        .limit(Limit::new("org").requests(1_000).tokens(1_000_000).window(minute).fair_share())
        .limit(Limit::new("user").scope(["user"]).requests(100).tokens(100_000).window(minute))
        .limit(Limit::new("spend").amount("spend_micros", 1_000_000))
        .limit(Limit::new("under-way").in_flight(50));
    let limiter =
        || Limiter::builder().redis(server.url()).policy(policy.clone()).deadline(Duration::from_secs(5)).build();
    let org = random_org();
    let (pattern, subject) = (format!("*{{{org}}}*"), Subject::org(org.as_str()).user("alice"));
    let cost = || Cost::new().tokens(5).amount("spend_micros", 3);
    let first = limiter()?;
    drop(first.try_acquire(&subject, cost()).await?);
    first.shutdown().await;
    // what is left out: who asked, which pools note before they decide; and the user's ledger, where the release of a failed call leaves
    // its mark. What is charged is compared beside the keys
    let prefix = format!("allot:1:{{{org}}}:");
    let is_compared =
        |key: &str| !["fu", "fh", "60000:u:"].iter().any(|part| key.starts_with(&format!("{prefix}{part}")));
    let used = async || match limiter()?.peek(&subject, Cost::new().requests(0)).await? {
        Decision::Allowed(limits) => Ok(limits.iter().map(|limit| limit.used).collect::<Vec<_>>()),
        Decision::Denied(denial) => bail!("nothing was asked: {denial}"),
    };
    let keys: Vec<String> = dump_all(&mut admin, &pattern).await.into_keys().collect();
    let (mut cases, mut failures, mut changed) = (0_u32, 0_u32, Vec::new());
    for key in &keys {
        for (command, value) in FOREIGN {
            let charged = used().await?;
            let saved: Vec<u8> = redis::cmd("DUMP").arg(key).query_async(&mut admin).await?;
            redis::cmd("DEL").arg(key).exec_async(&mut admin).await?;
            redis::cmd(command).arg(key).arg(value).exec_async(&mut admin).await?;
            redis::cmd("PEXPIRE").arg(key).arg(600_000).exec_async(&mut admin).await?;
            let mut before = dump_all(&mut admin, &pattern).await;
            let asking = limiter()?;
            let failed = asking.try_acquire(&subject, cost()).await.is_err();
            asking.shutdown().await;
            let mut after = dump_all(&mut admin, &pattern).await;
            for keys in [&mut before, &mut after] {
                keys.retain(|other, _| other == key || is_compared(other));
            }
            redis::cmd("RESTORE").arg(key).arg(600_000).arg(saved).arg("REPLACE").exec_async(&mut admin).await?;
            // a key that the call does not need may hold anything
            if failed && (before != after || used().await? != charged) {
                changed.push(format!("{key} {command}"));
            }
            cases += 1;
            failures += u32::from(failed);
        }
    }
    found.calls = u64::from(cases);
    found.count("cases in which a call failed and a key changed", changed.len(), 0, changed.is_empty());
    found.count(&format!("cases in which a call failed, of {cases}"), failures, "at least half", failures * 2 >= cases);
    found.count("keys of the org", keys.len(), "at least 6", keys.len() >= 6);
    found.not_run.push(
        "rights taken away one by one: tests/it/rights.rs does, and shows that ready() notices each before a call is made"
            .to_owned(),
    );
    Ok(found)
}
