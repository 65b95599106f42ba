//! Where Redis is: a URL, read into what it takes to connect.
//!
//! Invariant: nothing is sent here, and no message holds a user or password. A certificate is verified always: there is no way around it.
//!
//! ```text
//! redis://[user[:password]@]host[:port][/database][?option=value&..]           one server; rediss:// over TLS
//! redis+unix:///path/to/socket[?db=0&user=..&pass=..]                          one server on this host
//! redis+sentinel://[user[:password]@]host[:port],..[/service[/database]][?..]  the master that sentinels name; rediss+sentinel://
//! redis+cluster://[user[:password]@]host[:port],..[?..]                        a cluster, by some of its nodes; rediss+cluster://
//! ```

use std::{fmt, fs};

use redis::{
    Client, ClientTlsConfig, ConnectionInfo, IntoConnectionInfo, ProtocolVersion, TlsCertificates, io::tcp::TcpSettings,
};
use url::Url;

use crate::error::Error;

/// The options of every URL but that of a unix socket.
const OPTIONS: [&str; 4] = ["protocol", "tls_ca", "tls_cert", "tls_key"];
const SENTINEL_OPTIONS: [&str; 2] = ["sentinel_user", "sentinel_password"];
const UNIX_OPTIONS: [&str; 4] = ["db", "user", "pass", "protocol"];
const SENTINEL_PORT: u16 = 26_379;
const PORT: u16 = 6_379;
/// What a service is called unless somebody names it.
const SERVICE: &str = "mymaster";
/// Commands on their way on a connection, beyond which callers wait.
pub(super) const IN_FLIGHT_MAX: usize = 4_096;

/// One host and port, as users write them.
pub(super) type Endpoint = (String, u16);

/// Where Redis is, and as whom to speak to it.
pub(crate) struct Address {
    pub(super) topology: Topology,
    node: Url,
    tls: Option<TlsCertificates>,
}

/// Who can read what is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    Tls,
    /// Nobody beyond this host.
    Local,
    /// Whoever is on the way.
    Plain,
}

/// What is at the address.
pub(super) enum Topology {
    One,
    /// Sentinels, as whom to speak to them, and what they call the service.
    Sentinel {
        sentinels: Vec<Endpoint>,
        user: Option<String>,
        password: Option<String>,
        service: String,
    },
    /// Some nodes of a cluster.
    Cluster(Vec<Endpoint>),
}

impl Address {
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`](crate::error::ErrorKind::Invalid), naming the part that is wrong.
    pub(crate) fn parse(url: &str) -> Result<Self, Error> {
        let (scheme, rest) = url.split_once("://").ok_or_else(|| bad("it has no scheme"))?;
        let (secure, kind) = match scheme {
            "redis" => (false, ""),
            "rediss" => (true, ""),
            "redis+unix" | "unix" => return Self::unix(url),
            "redis+sentinel" => (false, "sentinel"),
            "rediss+sentinel" => (true, "sentinel"),
            "redis+cluster" => (false, "cluster"),
            "rediss+cluster" => (true, "cluster"),
            other => return Err(bad(&format!("scheme {other:?} is unknown"))),
        };
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, tail) = rest.split_at(end);
        if tail.contains('@') {
            // what comes before it may be a password: nothing of it is repeated
            return Err(bad(
                "it has an @ behind a /, ? or #: in a user or password those are written %2F, %3F, %23, and @ %40",
            ));
        }
        let (login, hosts) = authority.rsplit_once('@').map_or(("", authority), |(login, hosts)| (login, hosts));
        if kind.is_empty() && hosts.contains(',') {
            return Err(bad("it names several hosts: redis+sentinel:// and redis+cluster:// take more than one"));
        }
        let default_port = if kind == "sentinel" { SENTINEL_PORT } else { PORT };
        let endpoints = hosts.split(',').map(|host| endpoint(host, default_port)).collect::<Result<Vec<_>, _>>()?;
        // how one server is reached: the first host stands for each
        let plain = if secure { "rediss" } else { "redis" };
        let (host, port) = &endpoints[0];
        let at = if login.is_empty() { String::new() } else { format!("{login}@") };
        let mut node = Url::parse(&format!("{plain}://{at}{}:{port}{tail}", bracketed(host)))
            .map_err(|error| bad(&error.to_string()))?;
        if node.fragment().is_some() {
            return Err(bad("it has a fragment: a certificate is verified always, and nothing else is said so"));
        }
        let allowed = if kind == "sentinel" { [&OPTIONS[..], &SENTINEL_OPTIONS].concat() } else { OPTIONS.to_vec() };
        let option = options(&node, &allowed)?;
        let topology = match kind {
            "sentinel" => {
                let path = node.path().trim_matches('/').to_owned();
                let (service, database) = path.split_once('/').unwrap_or((&path, ""));
                node.set_path(database);
                let service = if service.is_empty() { SERVICE } else { service }.to_owned();
                let (user, password) = (option("sentinel_user"), option("sentinel_password"));
                Topology::Sentinel { sentinels: endpoints, user, password, service }
            }
            "cluster" if !matches!(node.path(), "" | "/" | "/0") => {
                return Err(bad("a cluster has no databases but 0"));
            }
            "cluster" => Topology::Cluster(endpoints),
            _ => Topology::One,
        };
        let database = node.path().trim_matches('/');
        if !database.is_empty() && database.parse::<u32>().is_err() {
            return Err(bad("its database is no number"));
        }
        check_protocol(&option)?;
        let tls = tls(secure, &option)?;
        let address = Self { topology, node, tls };
        address.info()?;
        Ok(address)
    }

    fn unix(url: &str) -> Result<Self, Error> {
        let node = Url::parse(url).map_err(|error| bad(&error.to_string()))?;
        let option = options(&node, &UNIX_OPTIONS)?;
        if option("db").is_some_and(|database| database.parse::<u32>().is_err()) {
            return Err(bad("its database is no number"));
        }
        check_protocol(&option)?;
        let address = Self { topology: Topology::One, node, tls: None };
        address.info()?;
        Ok(address)
    }

    /// Who can read what is sent to it; of several hosts, to the first.
    pub(super) fn transport(&self) -> Transport {
        let loopback = |host: &url::Host<&str>| match host {
            url::Host::Ipv4(address) => address.is_loopback(),
            url::Host::Ipv6(address) => address.is_loopback(),
            // hosts of schemes that a browser does not know are names, whatever they look like
            url::Host::Domain(name) => {
                *name == "localhost" || name.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
            }
        };
        match self.node.host() {
            _ if self.tls.is_some() => Transport::Tls,
            Some(host) if !loopback(&host) => Transport::Plain,
            _ => Transport::Local,
        }
    }

    /// The server that the URL names.
    pub(super) fn client(&self) -> Result<Client, Error> {
        self.client_of(self.info()?)
    }

    /// A server like it at another host and port.
    pub(super) fn client_at(&self, (host, port): &Endpoint) -> Result<Client, Error> {
        self.client_of(self.info_at(host, *port)?)
    }

    /// A sentinel: it has users of its own, and no database.
    pub(super) fn sentinel_at(&self, (host, port): &Endpoint) -> Result<Client, Error> {
        let info = self.info_at(host, *port)?;
        let mut settings = redis::RedisConnectionInfo::default().set_protocol(info.redis_settings().protocol());
        if let Topology::Sentinel { user, password, .. } = &self.topology {
            settings = user.iter().fold(settings, |settings, user| settings.set_username(user));
            settings = password.iter().fold(settings, |settings, password| settings.set_password(password));
        }
        self.client_of(info.set_redis_settings(settings))
    }

    fn client_of(&self, info: ConnectionInfo) -> Result<Client, Error> {
        let client = match &self.tls {
            None => Client::open(info),
            Some(certificates) => Client::build_with_tls(info, certificates.clone()),
        };
        client.map_err(|error| bad(&error.to_string()))
    }

    fn info_at(&self, host: &str, port: u16) -> Result<ConnectionInfo, Error> {
        use redis::ConnectionAddr::{Tcp, TcpTls};
        let info = self.info()?;
        let addr = match info.addr().clone() {
            TcpTls { insecure, tls_params, .. } => TcpTls { host: host.to_owned(), port, insecure, tls_params },
            _ => Tcp(host.to_owned(), port),
        };
        Ok(info.set_addr(addr))
    }

    fn info(&self) -> Result<ConnectionInfo, Error> {
        let info = self.node.clone().into_connection_info().map_err(|error| bad(&error.category().to_lowercase()))?;
        let settings = info.redis_settings().clone();
        let chosen = self.node.query_pairs().any(|(name, _)| name == "protocol");
        // a push of RESP3 tells at once that an idle connection was closed
        let settings = if chosen { settings } else { settings.set_protocol(ProtocolVersion::RESP3) };
        Ok(info.set_tcp_settings(TcpSettings::default().set_nodelay(true)).set_redis_settings(settings))
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // not the URL: it holds the password
        let kind = match &self.topology {
            Topology::One => "one server",
            Topology::Sentinel { .. } => "sentinels",
            Topology::Cluster(_) => "a cluster",
        };
        f.debug_tuple("Address").field(&kind).finish()
    }
}

fn endpoint(text: &str, default_port: u16) -> Result<Endpoint, Error> {
    // `redis://` alone would take no host for localhost's; here each has to be named
    let url = Url::parse(&format!("redis://{text}")).map_err(|error| bad(&format!("host {text:?}: {error}")))?;
    let host = match url.host() {
        Some(url::Host::Ipv6(address)) => address.to_string(),
        Some(host) => host.to_string(),
        None => return Err(bad("it names no host")),
    };
    Ok((host, url.port().unwrap_or(default_port)))
}

fn bracketed(host: &str) -> String {
    if host.contains(':') { format!("[{host}]") } else { host.to_owned() }
}

/// The options of a URL, by name; none that is unknown.
fn options(url: &Url, allowed: &[&str]) -> Result<impl Fn(&str) -> Option<String> + use<>, Error> {
    let pairs: Vec<(String, String)> = url.query_pairs().into_owned().collect();
    if let Some((unknown, _)) = pairs.iter().find(|(name, _)| !allowed.contains(&&**name)) {
        return Err(bad(&format!("option {unknown:?} is unknown; allowed are {}", allowed.join(", "))));
    }
    Ok(move |name: &str| pairs.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone()))
}

/// No message repeats a value: who mistypes an option may have put a password there.
fn check_protocol(option: &impl Fn(&str) -> Option<String>) -> Result<(), Error> {
    match option("protocol").as_deref() {
        None | Some("2" | "3" | "resp2" | "resp3") => Ok(()),
        Some(_) => Err(bad("option \"protocol\" takes resp2 and resp3")),
    }
}

fn tls(secure: bool, option: &impl Fn(&str) -> Option<String>) -> Result<Option<TlsCertificates>, Error> {
    let (ca, cert, key) = (option("tls_ca"), option("tls_cert"), option("tls_key"));
    if !secure {
        return match ca.or(cert).or(key) {
            Some(_) => Err(bad("tls_ca, tls_cert and tls_key are for TLS: rediss://")),
            None => Ok(None),
        };
    }
    // a process has one TLS provider; one that is installed already stays
    drop(rustls::crypto::ring::default_provider().install_default());
    let client_tls = match (cert, key) {
        (Some(cert), Some(key)) => {
            Some(ClientTlsConfig { client_cert: read("tls_cert", &cert)?, client_key: read("tls_key", &key)? })
        }
        (None, None) => None,
        _ => return Err(bad("tls_cert and tls_key go together")),
    };
    let root_cert = ca.map(|ca| read("tls_ca", &ca)).transpose()?;
    Ok(Some(TlsCertificates { client_tls, root_cert }))
}

fn read(option: &str, path: &str) -> Result<Vec<u8>, Error> {
    fs::read(path).map_err(|error| bad(&format!("{option} {path:?}: {error}")))
}

fn bad(what: &str) -> Error {
    Error::invalid(format!(
        "redis URL: {what}; allowed are redis://, rediss://, redis+unix://, redis+sentinel://, rediss+sentinel://, redis+cluster:// \
         and rediss+cluster://, with user, password and database"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(url: &str) -> String {
        Address::parse(url).unwrap_err().to_string()
    }

    fn endpoints(url: &str) -> Vec<Endpoint> {
        match Address::parse(url).unwrap().topology {
            Topology::Sentinel { sentinels, .. } => sentinels,
            Topology::Cluster(nodes) => nodes,
            Topology::One => Vec::new(),
        }
    }

    #[test]
    fn who_can_read_what_is_sent_is_known() {
        for (url, transport) in [
            ("redis://127.0.0.1", Transport::Local),
            ("redis://[::1]:7", Transport::Local),
            ("redis+unix:///tmp/redis.sock", Transport::Local),
            ("redis+cluster://localhost,far.example", Transport::Local),
            ("redis://redis.internal", Transport::Plain),
            ("redis://10.0.0.1", Transport::Plain),
            ("rediss://redis.internal", Transport::Tls),
        ] {
            assert_eq!(Address::parse(url).unwrap().transport(), transport, "{url}");
        }
    }

    #[test]
    fn several_hosts_have_ports_of_their_own_or_the_usual_one() {
        let at = |host: &str, port| (host.to_owned(), port);
        assert_eq!(endpoints("redis+sentinel://a,b:1,[::1]:2/main"), [at("a", 26_379), at("b", 1), at("::1", 2)]);
        assert_eq!(endpoints("rediss+cluster://:secret@a,b:1"), [at("a", 6_379), at("b", 1)]);
    }

    #[test]
    fn sentinels_name_a_service_and_have_users_of_their_own() {
        let address = Address::parse(
            "redis+sentinel://app:node%20secret@a/main/3?sentinel_user=watch&sentinel_password=other%2Fsecret",
        )
        .unwrap();
        let Topology::Sentinel { service, .. } = &address.topology else { panic!("{address:?}") };
        assert_eq!(service, "main");
        let node = address.client_at(&("m".to_owned(), 7)).unwrap();
        let node = node.get_connection_info();
        assert_eq!((node.addr().to_string(), node.redis_settings().db()), ("m:7".to_owned(), 3));
        assert_eq!(
            (node.redis_settings().username(), node.redis_settings().password()),
            (Some("app"), Some("node secret"))
        );
        let sentinel = address.sentinel_at(&("s".to_owned(), 8)).unwrap();
        let sentinel = sentinel.get_connection_info();
        assert_eq!((sentinel.addr().to_string(), sentinel.redis_settings().db()), ("s:8".to_owned(), 0));
        assert_eq!(
            (sentinel.redis_settings().username(), sentinel.redis_settings().password()),
            (Some("watch"), Some("other/secret"))
        );
        let Topology::Sentinel { service, .. } = Address::parse("redis+sentinel://a").unwrap().topology else {
            panic!("no sentinel")
        };
        assert_eq!(service, "mymaster");
    }

    #[test]
    fn a_url_that_is_none_says_which_part_is_wrong() {
        for (url, part) in [
            ("localhost:6379", "no scheme"),
            ("http://a", "scheme \"http\" is unknown"),
            ("redis://", "host"),
            ("redis://a,b", "several hosts"),
            ("redis://a:port", "port"),
            ("redis+cluster://a,b:99999", "port"),
            ("redis+cluster://a/1", "no databases but 0"),
            ("redis://a/one", "database"),
            ("redis://a?protocol=4", "protocol"),
            ("redis://a?timeout=5", "option \"timeout\" is unknown"),
            ("redis://a?tls_ca=x", "are for TLS"),
            ("rediss://a?tls_cert=x", "go together"),
            ("rediss://a?tls_ca=/does/not/exist", "tls_ca \"/does/not/exist\""),
            ("rediss://a#insecure", "verified always"),
        ] {
            assert!(message(url).contains(part), "{url}: {}", message(url));
        }
    }

    #[test]
    fn no_message_holds_a_password() {
        for url in [
            "redis://user:hunter2@",
            "redis://user:hunter2@a,b",
            "rediss+sentinel://:hunter2@a?x=1",
            "x://:hunter2@a",
            "redis://user:hunter2/x@a",
            "redis://user:1?hunter2@a",
            "redis://user:p@1#hunter2@a",
        ] {
            assert!(!message(url).contains("hunter2"), "{}", message(url));
        }
        let address = Address::parse("redis://user:hunter2@a").unwrap();
        assert!(!format!("{address:?}").contains("hunter2"));
    }
}
