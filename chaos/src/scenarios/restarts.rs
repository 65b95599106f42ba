//! T8: the server is killed and started again, with and without its append-only file.

use std::time::{Duration, Instant};

use allotment_fixtures::{Server, Settings, random_org};
use anyhow::Result;

use crate::{
    found::Found,
    load::{Load, WINDOW, boundless, held, policy},
    meter,
    suite::Scale,
};

const CALLERS: usize = 16;
/// How long callers go on between two kills.
const PERIOD: Duration = Duration::from_millis(400);
/// What an org may use in the scenario that loses it.
const LIMIT: u64 = 200;

pub(crate) async fn run(scale: Scale) -> Result<Found> {
    let kills = scale.pick(3, 20);
    let mut found = Found::new(format!("{kills} kills with an append-only file, {kills} without"));
    with_file(&mut found, kills).await?;
    without_file(&mut found, kills).await?;
    Ok(found)
}

async fn with_file(found: &mut Found, kills: u32) -> Result<()> {
    let server = Server::start_with(Settings::new().line("appendonly yes").line("appendfsync everysec")).await;
    let (org, losses) = (random_org(), meter::read("allotment_state_losses_total"));
    let limiter = boundless(&server.url()).build()?;
    let load = Load {
        limiters: vec![limiter.clone()],
        orgs: vec![org.clone()],
        callers: CALLERS,
        pace: Duration::from_millis(1),
        calls_each: None,
    };
    let running = load.start();
    let mut killed_at = Vec::new();
    for _ in 0..kills {
        tokio::time::sleep(PERIOD).await;
        killed_at.push(Instant::now());
        server.kill_and_restart().await;
    }
    tokio::time::sleep(PERIOD).await;
    let tally = running.stop().await;
    limiter.shutdown().await;
    found.calls += tally.calls();
    found.stall(tally.longest_gap());
    // a call that failed may have been charged, and is given back in the background
    found.balance("with a file", tally.all_admitted(), tally.failures(), held(&server.url(), &org).await);
    let losses = meter::read("allotment_state_losses_total") - losses;
    found.count("with a file: losses of state that were told", losses, 0, losses == 0);
    let again = killed_at.iter().filter_map(|at| tally.admitted_again_after(*at)).max().unwrap_or_default();
    found.time(
        "with a file: from a kill to the next admission, the start of the server included",
        again,
        Duration::from_secs(5),
        false,
    );
    Ok(())
}

async fn without_file(found: &mut Found, kills: u32) -> Result<()> {
    let server = Server::start().await;
    let (org, losses) = (random_org(), meter::read("allotment_state_losses_total"));
    let limiters = (0..4).map(|_| allotment::Limiter::builder().redis(server.url()).policy(policy(LIMIT)).build());
    let limiters = limiters.collect::<Result<Vec<_>, _>>()?;
    let mut most = 0;
    for round in 0..=kills {
        let load = Load {
            limiters: limiters.clone(),
            orgs: vec![org.clone()],
            callers: CALLERS,
            pace: Duration::from_millis(2),
            calls_each: None,
        };
        let running = load.start();
        tokio::time::sleep(PERIOD).await;
        let tally = running.stop().await;
        found.calls += tally.calls();
        most = most.max(tally.all_admitted());
        if round < kills {
            server.kill_and_restart().await;
        }
    }
    // each life of the data admits the limit anew: the users' limits bind seven times as much
    found.count(
        &format!("without a file: admitted between two kills, of {LIMIT} in {WINDOW:?}"),
        most,
        format!("at most {LIMIT}, so at most twice that around a kill"),
        most <= LIMIT,
    );
    let losses = meter::read("allotment_state_losses_total") - losses;
    found.count(
        "without a file: losses of state that were told, to 4 limiters",
        losses,
        kills,
        losses == u64::from(kills),
    );
    Ok(())
}
