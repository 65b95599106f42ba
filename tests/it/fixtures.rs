//! The fixtures keep their own promises: a test that stands on a broken one shows nothing.

use std::{
    io::ErrorKind,
    time::{Duration, Instant},
};

use redis::{AsyncCommands, aio::MultiplexedConnection};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::support::{ClockedServer, Fault, Proxy, Server, connect, dump_all, random_org, raw, shared};

/// What `TIME` answers, in whole milliseconds; the rest below must be zero.
async fn time_ms(conn: &mut MultiplexedConnection) -> u64 {
    let (seconds, micros): (u64, u64) = redis::cmd("TIME").query_async(conn).await.unwrap();
    assert_eq!(micros % 1000, 0);
    seconds * 1000 + micros / 1000
}

#[tokio::test]
async fn a_server_serves_until_it_is_dropped() {
    let server = Server::start().await;
    let port = server.port();
    let mut conn = raw(&server).await;
    assert_eq!(conn.ping::<String>().await.unwrap(), "PONG");
    let (_, policy): (String, String) =
        redis::cmd("CONFIG").arg("GET").arg("maxmemory-policy").query_async(&mut conn).await.unwrap();
    assert_eq!(policy, "noeviction");
    drop(server);
    assert!(TcpStream::connect(("127.0.0.1", port)).await.is_err());
}

#[tokio::test]
async fn the_shared_server_is_the_same_for_every_caller() {
    let org = random_org();
    let _: () = raw(shared().await).await.set_ex(&org, "here", 10).await.unwrap();
    assert_eq!(raw(shared().await).await.get::<_, String>(&org).await.unwrap(), "here");
}

#[test]
fn random_orgs_are_short_and_differ() {
    assert_ne!(random_org(), random_org());
    assert_eq!(random_org().len(), 20);
}

#[tokio::test]
async fn time_is_what_the_test_says_and_expiry_follows_it_in_both_directions() {
    let server = Server::with_clock().await;
    let mut conn = raw(&server).await;
    let start = ClockedServer::START_MS;
    assert_eq!(time_ms(&mut conn).await, start);
    let _: () = conn.pset_ex("key", "value", 60_000).await.unwrap();

    for (now_ms, left_ms) in [(start + 1, 59_999), (start + 59_999, 1), (start - 600_000, 660_000)] {
        server.set_ms(now_ms);
        assert_eq!(time_ms(&mut conn).await, now_ms);
        assert_eq!(conn.pttl::<_, i64>("key").await.unwrap(), left_ms);
    }

    server.set_ms(start + 60_001);
    assert_eq!(conn.get::<_, Option<String>>("key").await.unwrap(), None);
}

#[tokio::test]
async fn scripts_read_the_clock_of_their_own_server() {
    let (early, late) = tokio::join!(Server::with_clock(), Server::with_clock());
    late.set_ms(ClockedServer::START_MS + 1);
    for (server, expected) in [(&early, "1800000000:0"), (&late, "1800000000:1000")] {
        let mut eval = redis::cmd("EVAL");
        eval.arg("local t = redis.call('TIME') return t[1] .. ':' .. t[2]").arg(0);
        let answer: String = eval.query_async(&mut raw(server).await).await.unwrap();
        assert_eq!(answer, expected);
    }
}

#[tokio::test]
async fn a_dump_of_keys_shows_every_write_and_only_those_that_match() {
    let mut conn = raw(shared().await).await;
    let org = random_org();
    let pattern = format!("{org}:*");
    let _: () = conn.pset_ex(format!("{org}:ledger"), "1", 60_000).await.unwrap();
    let _: () = conn.pset_ex(format!("{org}:odd\u{e9}\n"), "1", 60_000).await.unwrap();
    let before = dump_all(&mut conn, &pattern).await;
    assert_eq!(before.keys().collect::<Vec<_>>(), [&format!("{org}:ledger"), &format!("{org}:odd\\xc3\\xa9\\n")]);

    let _: () = conn.pset_ex(random_org(), "1", 60_000).await.unwrap();
    assert_eq!(dump_all(&mut conn, &pattern).await, before);

    let _: () = conn.persist(format!("{org}:ledger")).await.unwrap();
    assert_ne!(dump_all(&mut conn, &pattern).await, before, "a lost time to live is a difference");
    let _: () = conn.pset_ex(format!("{org}:ledger"), "2", 60_000).await.unwrap();
    assert_ne!(dump_all(&mut conn, &pattern).await, before, "a value is a difference");
    let _: () = conn.pset_ex(format!("{org}:ledger"), "1", 60_000).await.unwrap();
    assert_eq!(dump_all(&mut conn, &pattern).await, before);
}

#[tokio::test]
async fn a_proxy_without_a_fault_passes_everything() {
    let proxy = Proxy::start(shared().await.port()).await;
    let mut conn = connect(&proxy.url()).await.unwrap();
    let org = random_org();
    let large = "x".repeat(300_000);
    let _: () = conn.set_ex(&org, &large, 60).await.unwrap();
    assert_eq!(conn.get::<_, String>(&org).await.unwrap(), large);
    assert_eq!(proxy.lost_replies(), 0);
}

#[tokio::test]
async fn a_proxy_delays_requests_and_replies() {
    let proxy = Proxy::start(shared().await.port()).await;
    let mut conn = connect(&proxy.url()).await.unwrap();
    let (up, down) = (Duration::from_millis(40), Duration::from_millis(20));
    proxy.set(Fault::Delay { up, down }).await;
    let asked_at = Instant::now();
    conn.ping::<()>().await.unwrap();
    assert!(asked_at.elapsed() >= up + down);
}

#[tokio::test]
async fn a_lost_reply_was_executed_and_its_connection_is_reset() {
    let server = shared().await;
    let proxy = Proxy::start(server.port()).await;
    let mut conn = connect(&proxy.url()).await.unwrap();
    let org = random_org();
    proxy.set(Fault::LoseReplies).await;
    assert!(conn.incr::<_, _, i64>(&org, 1).await.is_err());
    assert_eq!(raw(server).await.get_del::<_, i64>(&org).await.unwrap(), 1);
    assert_eq!(proxy.lost_replies(), 1);
}

#[tokio::test]
async fn replies_lost_at_random_are_the_same_for_the_same_seed() {
    let proxy = Proxy::start(shared().await.port()).await;
    let mut runs = Vec::new();
    for seed in [7, 7, 8] {
        proxy.set(Fault::LoseRepliesAtRandom { share: 0.3, seed }).await;
        let mut answered = Vec::new();
        for _ in 0..40 {
            answered.push(answers(&mut open(&proxy).await).await);
        }
        runs.push(answered);
    }
    assert_eq!(runs[0], runs[1]);
    assert_ne!(runs[0], runs[2]);
    let lost: u64 = runs.iter().flatten().map(|answered| u64::from(!answered)).sum();
    assert!((12..=72).contains(&lost), "{lost} of 120 at a share of 0.3");
    assert_eq!(proxy.lost_replies(), lost);
}

#[tokio::test]
async fn a_black_hole_answers_nothing_until_it_ends() {
    let proxy = Proxy::start(shared().await.port()).await;
    let mut stream = open(&proxy).await;
    proxy.set(Fault::BlackHole).await;
    let mut asked = Box::pin(answers(&mut stream));
    assert!(tokio::time::timeout(Duration::from_millis(50), &mut asked).await.is_err());
    proxy.set(Fault::Nothing).await;
    assert!(asked.await);
}

#[tokio::test]
async fn a_dead_flow_stays_dead_and_new_ones_are_served() {
    let proxy = Proxy::start(shared().await.port()).await;
    let mut dead = open(&proxy).await;
    assert!(answers(&mut dead).await);
    proxy.set(Fault::DeadFlows).await;
    assert!(answers(&mut open(&proxy).await).await);
    proxy.set(Fault::Nothing).await;
    assert!(tokio::time::timeout(Duration::from_millis(50), answers(&mut dead)).await.is_err());
}

#[tokio::test]
async fn a_refusing_proxy_resets_what_is_open_and_serves_again_on_the_same_port() {
    let proxy = Proxy::start(shared().await.port()).await;
    let mut stream = open(&proxy).await;
    assert!(answers(&mut stream).await);
    for _ in 0..3 {
        proxy.set(Fault::Refuse).await;
        let refused = TcpStream::connect(("127.0.0.1", proxy.port())).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
        assert_eq!(stream.read(&mut [0]).await.unwrap_err().kind(), ErrorKind::ConnectionReset);
        proxy.set(Fault::Nothing).await;
        stream = open(&proxy).await;
        assert!(answers(&mut stream).await);
    }
}

#[tokio::test]
async fn a_reset_ends_open_connections_and_no_later_one() {
    let proxy = Proxy::start(shared().await.port()).await;
    let mut stream = open(&proxy).await;
    assert!(answers(&mut stream).await);
    proxy.reset_now();
    assert_eq!(stream.read(&mut [0]).await.unwrap_err().kind(), ErrorKind::ConnectionReset);
    assert!(answers(&mut open(&proxy).await).await);
}

/// A bare connection: a client library would say hello, and reconnect.
async fn open(proxy: &Proxy) -> TcpStream {
    TcpStream::connect(("127.0.0.1", proxy.port())).await.unwrap()
}

/// Whether a PING on this connection gets its answer.
async fn answers(stream: &mut TcpStream) -> bool {
    let mut pong = [0; 7];
    stream.write_all(b"PING\r\n").await.is_ok() && stream.read_exact(&mut pong).await.is_ok() && &pong == b"+PONG\r\n"
}
