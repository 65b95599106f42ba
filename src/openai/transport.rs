//! HTTP: one request out, one answer in. The only file that names the HTTP client.
//!
//! Invariant: a key goes to the address it was given for and nowhere else: redirects are not followed, and what is for this machine goes
//! through no proxy. What others name as an address leads into the world, not into the network that this runs in. No error holds an address. An answer is bounded in time and length, and held once. Lacks retries: each one needs a permit of its own.

use std::{
    net::{SocketAddr, ToSocketAddrs},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use reqwest::{
    Client, ClientBuilder, Method, Request, Response, Url,
    dns::{Addrs, Name, Resolve, Resolving},
    header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue},
    multipart::{Form, Part},
};
use rustls::crypto::{CryptoProvider, ring};
use tokio::time::{Instant, timeout_at};

use crate::openai::{
    address::{is_global, is_loopback, may_be_global},
    error::{ImageError, ImageErrorKind},
    headers::RateHeaders,
    inline::{Inlined, OpenFile, inline, open},
    input::{ImageInput, Source},
    key::ApiKey,
};

const USER_AGENT: &str = concat!("allotment/", env!("CARGO_PKG_VERSION"));
/// A refusal is a few lines.
const REFUSAL_BYTES_MAX: usize = 1 << 20;
/// 30 years.
const FAR: Duration = Duration::from_secs(30 * 365 * 86_400);

/// How long to wait for what, and how much to take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub(super) connect: Duration,
    /// Between two pieces of an answer that has begun.
    pub(super) idle: Duration,
    pub(super) total: Duration,
    pub(super) answer_bytes_max: usize,
}

/// Sends requests.
#[derive(Clone, Debug)]
pub(super) struct Transport {
    /// Through the proxies that the environment names.
    http: Client,
    /// Through none.
    direct: Client,
    /// To addresses of the world only.
    abroad: Client,
    bounds: Bounds,
}

/// What is sent.
#[derive(Debug)]
pub(super) enum Body {
    /// An object. Each marker stands for an image, which is put there in base64.
    Json { text: String, inlined: Vec<Inlined> },
    /// A form of several parts.
    Form(Vec<Field>),
}

/// A part of a form.
#[derive(Debug)]
pub(super) enum Field {
    Text { name: String, value: String },
    Image { name: &'static str, image: ImageInput },
}

/// How a key is shown to upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum KeyHeader {
    Bearer,
    ApiKey,
}

/// A request that is ready: its files are open.
#[derive(Debug)]
pub(super) struct Ready {
    http: Client,
    request: Request,
}

/// What was at an address.
#[derive(Debug)]
pub(super) struct Fetched {
    pub(super) body: Bytes,
    /// Such as `image/png`, as the answer says.
    pub(super) media_type: Option<String>,
}

/// An answer that has begun.
#[derive(Debug)]
pub(super) struct Incoming {
    pub(super) status: u16,
    pub(super) rates: RateHeaders,
    /// The answer says that it is a stream of events.
    pub(super) is_stream: bool,
    response: Response,
    ends_at: Instant,
    idle: Duration,
    bytes_left: usize,
}

impl Transport {
    pub(super) fn new(bounds: Bounds) -> Result<Self, ImageError> {
        // the client takes the process's provider of cryptography; where the application has chosen none, it is ring
        if CryptoProvider::get_default().is_none() {
            // another thread may have been faster
            drop(ring::default_provider().install_default());
        }
        let client = || {
            let client = Client::builder().user_agent(USER_AGENT).redirect(reqwest::redirect::Policy::none());
            client.connect_timeout(bounds.connect).tcp_nodelay(true)
        };
        let built = |client: ClientBuilder| {
            let unbuilt = |error: reqwest::Error| {
                ImageError::invalid("no HTTP client can be made").with_source(error.without_url())
            };
            client.build().map_err(unbuilt)
        };
        let abroad = built(client().dns_resolver(Abroad { proxies: proxies() }))?;
        Ok(Self { http: built(client())?, direct: built(client().no_proxy())?, abroad, bounds })
    }

    /// A proxy elsewhere would be shown the keys that may go in clear because they stay here.
    fn client(&self, url: &Url) -> &Client {
        if url.host().is_some_and(|host| is_loopback(&host)) { &self.direct } else { &self.http }
    }

    /// Makes a request ready: opens its files. Nothing is sent.
    pub(super) async fn prepare(
        &self,
        url: &str,
        header: KeyHeader,
        key: Option<&ApiKey>,
        body: Body,
    ) -> Result<Ready, ImageError> {
        let url = address(url)?;
        let http = self.client(&url).clone();
        let mut request = http.post(url).headers(key_headers(header, key)?);
        request = match body {
            Body::Json { text, inlined } => {
                request.header(CONTENT_TYPE, "application/json").body(inline(text, inlined).await?)
            }
            Body::Form(fields) => {
                let mut form = Form::new();
                for field in fields {
                    form = match field {
                        Field::Text { name, value } => form.text(name, value),
                        Field::Image { name, image } => form.part(name, part(image).await?),
                    };
                }
                request.multipart(form)
            }
        };
        match request.header("x-client-request-id", uuid::Uuid::now_v7().to_string()).build() {
            Ok(request) => Ok(Ready { http, request }),
            Err(error) => Err(ImageError::invalid("the request cannot be made").with_source(error.without_url())),
        }
    }

    /// Asks for what is at an address that the settings name.
    ///
    /// # Errors
    ///
    /// As [`send`](Self::send), and `Unreadable` for a status that is not one of success.
    pub(super) async fn fetch(&self, url: &str, key: Option<&ApiKey>) -> Result<Fetched, ImageError> {
        let url = address(url)?;
        let http = self.client(&url).clone();
        self.fetch_with(http, url, key).await
    }

    /// Asks for what is at an address that somebody else named.
    ///
    /// # Errors
    ///
    /// As [`fetch`](Self::fetch), and `Invalid` or `Unreachable` where it does not lead into the world.
    pub(super) async fn fetch_abroad(&self, url: &str) -> Result<Fetched, ImageError> {
        let url = address(url)?;
        if !url.host().is_some_and(|host| may_be_global(&host)) {
            return Err(ImageError::invalid(
                "the address of the image leads into a network that is nobody's but yours",
            ));
        }
        self.fetch_with(self.abroad.clone(), url, None).await
    }

    async fn fetch_with(&self, http: Client, url: Url, key: Option<&ApiKey>) -> Result<Fetched, ImageError> {
        let mut request = Request::new(Method::GET, url);
        request.headers_mut().extend(key_headers(KeyHeader::Bearer, key)?);
        let mut incoming = self.send(Ready { http, request }).await?;
        if !(200..300).contains(&incoming.status) {
            let message = format!("the address answered with status {}", incoming.status);
            return Err(ImageError::new(ImageErrorKind::Unreadable, message));
        }
        let media_type = incoming.response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let media_type = media_type.map(str::to_owned);
        let first = incoming.piece().await?.unwrap_or_default();
        Ok(Fetched { body: incoming.collect(first).await?, media_type })
    }

    /// Sends a request, until its answer begins.
    ///
    /// # Errors
    ///
    /// [`ImageErrorKind::Unreachable`] where no connection could be had, so that nothing was sent; else [`ImageErrorKind::Unanswered`].
    pub(super) async fn send(&self, Ready { http, request }: Ready) -> Result<Incoming, ImageError> {
        let ends_at = from_now(self.bounds.total);
        let response = match timeout_at(ends_at, http.execute(request)).await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) if error.is_connect() => {
                return Err(failed(ImageErrorKind::Unreachable, "upstream cannot be reached", error));
            }
            Ok(Err(error)) => return Err(failed(ImageErrorKind::Unanswered, "upstream did not answer", error)),
            Err(_) => return Err(self.too_late()),
        };
        let status = response.status().as_u16();
        let pairs = response.headers().iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
        let media_type = response.headers().get(CONTENT_TYPE).map_or(&b""[..], HeaderValue::as_bytes);
        Ok(Incoming {
            status,
            rates: RateHeaders::read(pairs),
            is_stream: media_type.to_ascii_lowercase().starts_with(b"text/event-stream"),
            response,
            ends_at,
            idle: self.bounds.idle,
            bytes_left: if status < 400 { self.bounds.answer_bytes_max } else { REFUSAL_BYTES_MAX },
        })
    }

    fn too_late(&self) -> ImageError {
        ImageError::new(ImageErrorKind::Unanswered, format!("upstream did not answer within {:?}", self.bounds.total))
    }
}

impl Incoming {
    /// The next piece of the answer; `None` at its end.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost if the future is dropped.
    pub(super) async fn piece(&mut self) -> Result<Option<Bytes>, ImageError> {
        let until = self.ends_at.min(from_now(self.idle));
        let piece = match timeout_at(until, self.response.chunk()).await {
            Ok(Ok(piece)) => piece,
            Ok(Err(error)) => return Err(failed(ImageErrorKind::Unanswered, "upstream's answer was cut off", error)),
            Err(_) => {
                return Err(ImageError::new(ImageErrorKind::Unanswered, "upstream's answer did not go on in time"));
            }
        };
        let length = piece.as_ref().map_or(0, Bytes::len);
        match self.bytes_left.checked_sub(length) {
            Some(left) => self.bytes_left = left,
            None => {
                return Err(ImageError::new(ImageErrorKind::Unreadable, "upstream's answer is longer than it may be"));
            }
        }
        Ok(piece)
    }

    /// The whole answer, of which some has come already.
    pub(super) async fn collect(mut self, first: Bytes) -> Result<Bytes, ImageError> {
        let length = self.response.content_length().and_then(|length| usize::try_from(length).ok());
        let rest = length.unwrap_or(0).saturating_sub(first.len());
        let mut whole = BytesMut::from(first);
        whole.reserve(rest.min(self.bytes_left));
        while let Some(piece) = self.piece().await? {
            whole.extend_from_slice(&piece);
        }
        Ok(whole.freeze())
    }
}

/// Finds addresses of the world only, whatever a name is said to lead to.
#[derive(Debug)]
struct Abroad {
    /// Names that are looked up to go through them.
    proxies: Vec<String>,
}

impl Resolve for Abroad {
    fn resolve(&self, name: Name) -> Resolving {
        let is_proxy = self.proxies.iter().any(|proxy| proxy == name.as_str());
        Box::pin(async move {
            let look = move || (name.as_str(), 0).to_socket_addrs();
            let found = tokio::task::spawn_blocking(look).await??;
            let found: Vec<SocketAddr> = found.filter(|found| is_proxy || is_global(found.ip())).collect();
            if found.is_empty() {
                return Err("the name has no address of the world".into());
            }
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}

/// The hosts of the proxies that the environment names: they may be in the network that this runs in.
fn proxies() -> Vec<String> {
    let named = ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"];
    let urls = named.iter().filter_map(|name| Url::parse(&std::env::var(name).ok()?).ok());
    urls.filter_map(|url| url.host_str().map(str::to_owned)).collect()
}

/// For a bound that is beyond all time, such as `Duration::MAX`, a time that nobody lives to see.
fn from_now(after: Duration) -> Instant {
    let now = Instant::now();
    now.checked_add(after).unwrap_or_else(|| now + FAR)
}

fn failed(kind: ImageErrorKind, message: &str, error: reqwest::Error) -> ImageError {
    ImageError::new(kind, message).with_source(error.without_url())
}

/// The source of a refused address may quote it, with what it holds: the error has none.
fn address(url: &str) -> Result<Url, ImageError> {
    let parsed = Url::parse(url).ok().filter(|url| ["http", "https"].contains(&url.scheme()));
    parsed.ok_or_else(|| ImageError::invalid("an address of upstream is no URL of http or https"))
}

fn key_headers(header: KeyHeader, key: Option<&ApiKey>) -> Result<HeaderMap, ImageError> {
    let mut headers = HeaderMap::new();
    headers.insert(ACCEPT, HeaderValue::from_static("*/*"));
    if let Some(key) = key {
        let (name, text) = match header {
            KeyHeader::Bearer => (AUTHORIZATION, format!("Bearer {}", key.expose())),
            KeyHeader::ApiKey => (reqwest::header::HeaderName::from_static("api-key"), key.expose().to_owned()),
        };
        let value = HeaderValue::try_from(text);
        let mut value = value.map_err(|_| ImageError::invalid("the key has characters that no header takes"))?;
        value.set_sensitive(true);
        headers.insert(name, value);
    }
    Ok(headers)
}

/// A part of a form: shares bytes in memory, and streams a file.
async fn part(image: ImageInput) -> Result<Part, ImageError> {
    let part = match image.source {
        Source::Memory(bytes) => {
            let length = bytes.len() as u64;
            Part::stream_with_length(bytes, length)
        }
        Source::File { .. } => {
            let OpenFile { file, length } = open(&image).await?;
            Part::stream_with_length(reqwest::Body::from(file), length)
        }
    };
    part.file_name(image.name)
        .mime_str(&image.media_type)
        .map_err(|_| ImageError::invalid(format!("media type {:?}: it is none", image.media_type)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn transport() -> Transport {
        let second = Duration::from_secs(1);
        Transport::new(Bounds { connect: second, idle: second, total: second, answer_bytes_max: 1 }).unwrap()
    }

    #[tokio::test]
    async fn an_address_that_others_named_does_not_lead_into_the_own_network() {
        for url in [
            "http://127.0.0.1:1/",
            "http://localhost:1/",
            "http://169.254.169.254/latest/meta-data",
            "ftp://8.8.8.8/a.png",
        ] {
            let error = transport().fetch_abroad(url).await.unwrap_err();
            assert_eq!(error.kind(), ImageErrorKind::Invalid, "{url}");
        }
        let abroad = |proxies| Abroad { proxies };
        let resolve = async |abroad: Abroad| abroad.resolve("localhost".parse().unwrap()).await.is_ok();
        assert!(!resolve(abroad(Vec::new())).await, "a name that leads to this machine");
        assert!(resolve(abroad(vec!["localhost".to_owned()])).await, "one of a proxy");
    }

    /// As where a name of the world is made to lead here once it has been looked at.
    #[tokio::test]
    async fn nobody_connects_to_a_name_that_leads_into_the_own_network() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let url = address(&format!("http://localhost:{}/", listener.local_addr().unwrap().port())).unwrap();
        let transport = transport();
        let error = transport.fetch_with(transport.abroad.clone(), url, None).await.unwrap_err();
        assert_eq!(error.kind(), ImageErrorKind::Unreachable);
        assert_eq!(listener.accept().unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    }

    #[test]
    fn what_is_for_this_machine_goes_through_no_proxy() {
        let transport = transport();
        for (url, is_direct) in [
            ("http://localhost:8080/v1", true),
            ("http://127.0.0.3/v1", true),
            ("http://[::1]/v1", true),
            ("https://api.openai.com/v1", false),
            ("http://10.0.0.1/v1", false),
        ] {
            let client = transport.client(&address(url).unwrap());
            assert_eq!(std::ptr::eq(client, &raw const transport.direct), is_direct, "{url}");
        }
    }

    #[test]
    fn a_bound_beyond_all_time_is_far_away() {
        assert!(from_now(Duration::MAX) >= Instant::now() + FAR / 2);
    }
}
