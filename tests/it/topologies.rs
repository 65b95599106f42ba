//! The topologies of the fixtures do what real ones do: a test that stands on a broken one shows nothing.

use std::time::Duration;

use allotment_fixtures::{
    Authority, ClientCertificates, Cluster, Fault, Identity, Sentinel, SentinelOptions, Server, ServerCertificate,
    Settings, TlsOptions, TlsServer, connect, random_org, raw,
};
use redis::{
    AsyncCommands, Client, ClientTlsConfig, RedisError, RedisResult, TlsCertificates, aio::MultiplexedConnection,
};

/// A write, as a limiter's script makes one.
async fn write(conn: &mut MultiplexedConnection, key: &str) -> RedisResult<i64> {
    conn.incr(key, 1).await
}

fn code(error: &RedisError) -> String {
    error.code().unwrap_or_default().to_owned()
}

/// Waits until who connects is refused a write with this code. Nodes take their time to notice, and tell nobody.
async fn refuses(url: &str, expected: &str) {
    let look = async {
        loop {
            if let Ok(mut conn) = connect(url).await
                && write(&mut conn, &random_org()).await.is_err_and(|error| code(&error) == expected)
            {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(90), look)
        .await
        .unwrap_or_else(|_| panic!("never refused with {expected}"));
}

#[tokio::test]
async fn a_server_killed_and_started_again_has_what_it_was_told_to_keep() {
    for (settings, kept) in
        [(Settings::new(), None), (Settings::new().line("appendonly yes").line("appendfsync always"), Some(1))]
    {
        let server = Server::start_with(settings).await;
        let (port, key) = (server.port(), random_org());
        write(&mut raw(&server).await, &key).await.unwrap();
        server.kill().await;
        assert!(connect(&server.url()).await.is_err());
        server.restart().await;
        assert_eq!(server.port(), port);
        assert_eq!(raw(&server).await.get::<_, Option<i64>>(&key).await.unwrap(), kept);
        server.kill_and_restart().await;
        assert_eq!(raw(&server).await.get::<_, Option<i64>>(&key).await.unwrap(), kept);
    }
}

#[tokio::test]
async fn a_frozen_server_answers_when_it_goes_on() {
    let server = Server::start().await;
    let mut conn = raw(&server).await;
    server.freeze().await;
    let mut asked = Box::pin(conn.ping::<String>());
    assert!(tokio::time::timeout(Duration::from_millis(50), &mut asked).await.is_err());
    server.thaw().await;
    assert_eq!(asked.await.unwrap(), "PONG");
}

#[tokio::test]
async fn a_server_asks_for_its_password_and_keeps_to_the_rights_of_its_users() {
    let server = Server::start_with(Settings::new().password("hunter2").line("maxmemory 100mb")).await;
    let mut stranger = connect(&format!("redis://127.0.0.1:{}/", server.port())).await.unwrap();
    assert_eq!(code(&write(&mut stranger, "a:1").await.unwrap_err()), "NOAUTH");
    let mut conn = raw(&server).await;
    let memory: Vec<String> = redis::cmd("CONFIG").arg("GET").arg("maxmemory").query_async(&mut conn).await.unwrap();
    assert_eq!(memory, ["maxmemory", "104857600"]);

    let server = Server::start_with(Settings::new().users("user default off\nuser alice on >secret ~a:* +get")).await;
    assert_eq!(code(&write(&mut raw(&server).await, "a:1").await.unwrap_err()), "NOAUTH");
    let mut alice = connect(&format!("redis://alice:secret@127.0.0.1:{}/", server.port())).await.unwrap();
    assert_eq!(alice.get::<_, Option<i64>>("a:1").await.unwrap(), None);
    assert_eq!(code(&write(&mut alice, "a:1").await.unwrap_err()), "NOPERM");
}

#[tokio::test]
async fn a_server_listens_on_a_unix_socket_too() {
    for settings in [Settings::new(), Settings::new().password("hunter2")] {
        let server = Server::start_with(settings.unix_socket()).await;
        let key = random_org();
        write(&mut connect(&server.socket_url()).await.unwrap(), &key).await.unwrap();
        assert_eq!(raw(&server).await.get::<_, i64>(&key).await.unwrap(), 1);
    }
}

#[tokio::test]
async fn sentinels_replace_a_killed_master_and_take_it_back_as_a_replica() {
    let sentinel = Sentinel::start().await;
    let first = sentinel.master().await;
    assert_eq!(first, sentinel.stores()[0]);
    let key = random_org();
    let mut conn = connect(&sentinel.url_of(first)).await.unwrap();
    write(&mut conn, &key).await.unwrap();
    let in_step: i64 = redis::cmd("WAIT").arg(2).arg(20_000).query_async(&mut conn).await.unwrap();
    assert_eq!(in_step, 2);

    sentinel.kill(first).await;
    let second = sentinel.successor_of(first).await;
    assert_ne!(second, first);
    assert_eq!(write(&mut connect(&sentinel.url_of(second)).await.unwrap(), &key).await.unwrap(), 2);

    sentinel.restart(first).await;
    refuses(&sentinel.url_of(first), "READONLY").await;
    assert_eq!(sentinel.master().await, second);
}

#[tokio::test]
async fn a_split_network_leaves_a_master_on_each_side_until_the_old_one_hears_of_no_replica() {
    let options = SentinelOptions { guarded: true, proxied: true, ..SentinelOptions::default() };
    let sentinel = Sentinel::start_with(options).await;
    let old = sentinel.master().await;
    assert_eq!(old, sentinel.proxy().port());
    let known = format!("redis://127.0.0.1:{old}/");
    let mut left_behind = connect(&known).await.unwrap();
    write(&mut left_behind, &random_org()).await.unwrap();

    sentinel.proxy().set(Fault::Partition).await;
    left_behind.ping::<()>().await.unwrap();
    let later = tokio::time::timeout(Duration::from_millis(50), connect(&known)).await;
    assert!(later.is_err(), "who comes later is on the other side");
    let new = sentinel.successor_of(old).await;
    write(&mut connect(&sentinel.url_of(new)).await.unwrap(), &random_org()).await.unwrap();
    let hears_of_none = async {
        while write(&mut left_behind, &random_org()).await.map_err(|error| code(&error)) != Err("NOREPLICAS".to_owned())
        {
            // It hears of its replicas once a second.
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(90), hears_of_none).await.unwrap();

    sentinel.proxy().set(Fault::Nothing).await;
    refuses(&known, "READONLY").await;
    assert_eq!(sentinel.master().await, new);
}

#[tokio::test]
async fn a_cluster_names_the_owner_of_a_key_and_replaces_one_that_is_gone() {
    let cluster = Cluster::start().await;
    let key = random_org();
    let slot = cluster.slot_of(&key).await;
    let owner = cluster.owner(slot).await;
    write(&mut connect(&cluster.url_of(owner)).await.unwrap(), &key).await.unwrap();
    let other = cluster.nodes().into_iter().find(|port| *port != owner).unwrap();
    let redirected = write(&mut connect(&cluster.url_of(other)).await.unwrap(), &key).await.unwrap_err();
    assert_eq!(redirected.redirect_node(), Some((format!("127.0.0.1:{owner}").as_str(), slot)));

    cluster.kill(owner).await;
    let heir = cluster.successor_of(owner, slot).await;
    assert!(cluster.nodes()[3..].contains(&heir), "a replica takes over");
    write(&mut connect(&cluster.url_of(heir)).await.unwrap(), &format!("{{{key}}}:later")).await.unwrap();
    cluster.restart(owner).await;
    assert_eq!(cluster.owner(slot).await, heir);
}

#[tokio::test]
async fn slots_of_a_cluster_move_with_their_keys_and_can_be_stuck_on_the_way() {
    let cluster = Cluster::without_replicas().await;
    let [first, second, third] = cluster.nodes()[..] else { unreachable!("three masters") };
    let key = loop {
        let key = random_org();
        if cluster.owner(cluster.slot_of(&key).await).await == first {
            break key;
        }
    };
    let slot = cluster.slot_of(&key).await;
    let mut at_first = connect(&cluster.url_of(first)).await.unwrap();
    let mut at_second = connect(&cluster.url_of(second)).await.unwrap();
    write(&mut at_first, &key).await.unwrap();

    cluster.start_migrating(slot, second).await;
    assert_eq!(write(&mut at_first, &key).await.unwrap(), 2, "what is there is served there");
    let missing = format!("{{{key}}}:missing");
    assert_eq!(code(&write(&mut at_first, &missing).await.unwrap_err()), "ASK");
    redis::cmd("ASKING").query_async::<()>(&mut at_second).await.unwrap();
    let several = at_second.mget::<_, Vec<Option<i64>>>(&[&key, &missing]).await.unwrap_err();
    assert_eq!(code(&several), "TRYAGAIN");
    cluster.stop_migrating(slot).await;
    assert_eq!(write(&mut at_first, &missing).await.unwrap(), 1);

    cluster.move_slot(slot, second).await;
    assert_eq!(write(&mut at_second, &key).await.unwrap(), 3);
    assert_eq!(code(&write(&mut at_first, &key).await.unwrap_err()), "MOVED");

    cluster.reshard(200, first, third).await;
    assert_eq!(cluster.owner(0).await, third);

    cluster.kill(third).await;
    refuses(&cluster.url_of(second), "CLUSTERDOWN").await;
}

/// What comes of a connection that trusts this authority.
async fn trusting(server: &TlsServer, authority: &Authority, shows: Option<Identity>) -> RedisResult<String> {
    let shows = shows.map(|Identity { certificate, key }| ClientTlsConfig {
        client_cert: certificate.into_bytes(),
        client_key: key.into_bytes(),
    });
    let root_cert = Some(authority.certificate().as_bytes().to_vec());
    let client = Client::build_with_tls(server.url(), TlsCertificates { client_tls: shows, root_cert })?;
    client.get_multiplexed_async_connection().await?.ping().await
}

#[tokio::test]
async fn who_trusts_its_authority_reaches_a_server_by_tls_and_nobody_else_does() {
    let server = TlsServer::start().await;
    assert_eq!(trusting(&server, server.authority(), None).await.unwrap(), "PONG");
    let refused = trusting(&server, &Authority::new(), None).await.unwrap_err();
    assert!(refused.to_string().contains("certificate"), "{refused}");
    assert!(raw(server.plain()).await.ping::<()>().await.is_ok());
    for (certificate, said) in
        [(ServerCertificate::Expired, "expired"), (ServerCertificate::WrongHost, "not valid for")]
    {
        let server = TlsServer::start_with(TlsOptions { certificate, ..TlsOptions::default() }).await;
        let refused = trusting(&server, server.authority(), None).await.unwrap_err();
        assert!(refused.to_string().contains(said), "{refused}");
    }
}

#[tokio::test]
async fn a_server_that_wants_certificates_takes_only_those_of_its_authority() {
    let options = TlsOptions { clients: ClientCertificates::Required, ..TlsOptions::default() };
    let server = TlsServer::start_with(options).await;
    let authority = server.authority();
    assert_eq!(trusting(&server, authority, Some(authority.client())).await.unwrap(), "PONG");
    assert!(trusting(&server, authority, None).await.is_err());
    assert!(trusting(&server, authority, Some(Authority::new().client())).await.is_err());
}
