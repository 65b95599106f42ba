//! How a server behaves: whom it knows, what it allows them, and how it answers.

use std::time::Duration;

use crate::{
    clock::ManualClock,
    limits::{Enforcement, Limits},
    picture::Pictures,
    quota::RefusedCalls,
    shapes::ErrorShape,
    stranger::Stranger,
};

/// One organisation: its keys, and limits of its own.
#[derive(Clone, Debug)]
pub struct Org {
    pub(crate) name: String,
    pub(crate) keys: Vec<String>,
    pub(crate) limits: Option<Limits>,
}

impl Org {
    /// One with the limits of the terms, and without keys.
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), keys: vec![], limits: None }
    }

    /// Adds a key that belongs to it.
    #[must_use]
    pub fn key(mut self, key: impl Into<String>) -> Self {
        self.keys.push(key.into());
        self
    }

    /// Limits of its own instead of those of the terms.
    #[must_use]
    pub fn limits(self, limits: Limits) -> Self {
        Self { limits: Some(limits), ..self }
    }
}

/// When answers have the headers `x-ratelimit-*`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RateHeaders {
    /// On every call that the limits admitted or refused.
    #[default]
    Always,
    /// Only where they refused.
    OnRefusalOnly,
    /// Never.
    Never,
    /// Always, with -1 for the limit and 0 for the rest, which tell nothing.
    Sentinels,
}

/// How a server asks to be waited for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RetryHints {
    /// By `retry-after` and `retry-after-ms`, and in the message.
    #[default]
    Headers,
    /// In the message alone.
    MessageOnly,
}

/// What tokens a call is charged on arrival.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum TokenCharge {
    /// What it will turn out to use.
    #[default]
    Actual,
    /// So many an image, whatever it uses.
    PerImage(u64),
}

/// Whether answers tell what they used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UsageReport {
    /// By `usage`; of a Responses call that is the text of the mainline model alone.
    #[default]
    Told,
    /// As `Told`, and of a Responses call the image's by `tool_usage.image_gen`.
    ToldOfTools,
    /// Not at all.
    Left,
}

/// How chat completions carry a picture.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ChatPicture {
    /// `![image](https://..)` in the content.
    #[default]
    Markdown,
    /// `![image](data:image/png;base64,..)` in the content.
    MarkdownData,
    /// The address alone.
    BareUrl,
    /// A data URL alone.
    DataUrl,
    /// `message.images[].image_url.url`.
    ImagesField,
}

/// What a server can do besides drawing from a prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Feature {
    /// `images/edits`.
    Edits,
    /// `stream: true`.
    Streaming,
    /// `responses`.
    Responses,
    /// `chat/completions`.
    Chat,
    /// `images/generations`.
    Generations,
}

/// How long a drawing takes, on the server's clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Latency {
    pub(crate) least: Duration,
    pub(crate) most: Duration,
}

impl Latency {
    /// Always so long.
    #[must_use]
    pub fn fixed(latency: Duration) -> Self {
        Self { least: latency, most: latency }
    }

    /// Evenly between none and the given, from a seed that is the server's.
    #[must_use]
    pub fn up_to(self, most: Duration) -> Self {
        Self { most, ..self }
    }
}

/// How a server behaves.
#[derive(Clone, Debug)]
pub struct Terms {
    pub(crate) limits: Limits,
    pub(crate) orgs: Vec<Org>,
    pub(crate) models: Vec<String>,
    pub(crate) without: Vec<Feature>,
    pub(crate) stranger: Option<Stranger>,
    pub(crate) refused_calls: RefusedCalls,
    pub(crate) refusal: ErrorShape,
    pub(crate) headers: RateHeaders,
    pub(crate) hints: RetryHints,
    pub(crate) token_charge: TokenCharge,
    pub(crate) usage: UsageReport,
    pub(crate) usage_factor: f64,
    pub(crate) pictures: Pictures,
    pub(crate) chat_picture: ChatPicture,
    pub(crate) latency: Latency,
    pub(crate) event_pause: Duration,
    pub(crate) speed: f64,
    pub(crate) clock: Option<ManualClock>,
    pub(crate) seed: u64,
    pub(crate) listen: String,
}

impl Default for Terms {
    fn default() -> Self {
        Self {
            limits: Limits::new(),
            orgs: vec![],
            models: vec![],
            without: vec![],
            stranger: None,
            refused_calls: RefusedCalls::default(),
            refusal: ErrorShape::RateLimit,
            headers: RateHeaders::default(),
            hints: RetryHints::default(),
            token_charge: TokenCharge::default(),
            usage: UsageReport::default(),
            usage_factor: 1.0,
            pictures: Pictures::default(),
            chat_picture: ChatPicture::default(),
            latency: Latency::default(),
            event_pause: Duration::ZERO,
            speed: 1.0,
            clock: None,
            seed: 0,
            listen: "127.0.0.1:0".to_owned(),
        }
    }
}

impl Terms {
    /// No limits, every model, one org `org-test` with the key `sk-test`, and answers at once.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// What each org may use, unless it has limits of its own.
    #[must_use]
    pub fn limits(self, limits: Limits) -> Self {
        Self { limits, ..self }
    }

    /// Images a minute for each org.
    #[must_use]
    pub fn images(self, images: u64) -> Self {
        Self { limits: self.limits.images(images), ..self }
    }

    /// Tokens a minute for each org.
    #[must_use]
    pub fn tokens(self, tokens: u64) -> Self {
        Self { limits: self.limits.tokens(tokens), ..self }
    }

    /// Requests a minute for each org.
    #[must_use]
    pub fn requests(self, requests: u64) -> Self {
        Self { limits: self.limits.requests(requests), ..self }
    }

    /// How the limits a minute are counted.
    #[must_use]
    pub fn enforcement(self, enforcement: Enforcement) -> Self {
        Self { limits: self.limits.enforcement(enforcement), ..self }
    }

    /// A shorter period in which each limit's share holds too.
    #[must_use]
    pub fn quantum(self, quantum: Duration) -> Self {
        Self { limits: self.limits.quantum(quantum), ..self }
    }

    /// Adds an org. The first takes the place of `org-test`.
    #[must_use]
    pub fn org(mut self, org: Org) -> Self {
        self.orgs.push(org);
        self
    }

    /// Adds a model, also one nobody else has: with the first, no others are served. A deployment of Azure is named as its model.
    #[must_use]
    pub fn model(mut self, model: impl Into<String>) -> Self {
        self.models.push(model.into());
        self
    }

    /// Takes away something it can do.
    #[must_use]
    pub fn without(mut self, feature: Feature) -> Self {
        self.without.push(feature);
        self
    }

    /// Lets a stranger use part of each org's pools.
    #[must_use]
    pub fn stranger(self, stranger: Stranger) -> Self {
        Self { stranger: Some(stranger), ..self }
    }

    /// What refused calls count against. Default: requests.
    #[must_use]
    pub fn refused_calls(self, refused_calls: RefusedCalls) -> Self {
        Self { refused_calls, ..self }
    }

    /// How its own limits refuse. Default: 429 with the published message.
    #[must_use]
    pub fn refusal(self, refusal: ErrorShape) -> Self {
        Self { refusal, ..self }
    }

    /// When answers have rate headers. Default: always.
    #[must_use]
    pub fn headers(self, headers: RateHeaders) -> Self {
        Self { headers, ..self }
    }

    /// How refusals say when to try again.
    #[must_use]
    pub fn hints(self, hints: RetryHints) -> Self {
        Self { hints, ..self }
    }

    /// What tokens are charged on arrival. Default: what the call will use.
    #[must_use]
    pub fn token_charge(self, token_charge: TokenCharge) -> Self {
        Self { token_charge, ..self }
    }

    /// Whether answers tell what they used.
    #[must_use]
    pub fn usage(self, usage: UsageReport) -> Self {
        Self { usage, ..self }
    }

    /// Draws for so many times the tokens that the published tables say. Default: 1.
    #[must_use]
    pub fn usage_factor(self, usage_factor: f64) -> Self {
        Self { usage_factor, ..self }
    }

    /// How pictures are made. Default: of the asked size and small.
    #[must_use]
    pub fn pictures(self, pictures: Pictures) -> Self {
        Self { pictures, ..self }
    }

    /// How chat completions carry a picture.
    #[must_use]
    pub fn chat_picture(self, chat_picture: ChatPicture) -> Self {
        Self { chat_picture, ..self }
    }

    /// How long a drawing takes on the server's clock. Default: no time.
    #[must_use]
    pub fn latency(self, latency: Latency) -> Self {
        Self { latency, ..self }
    }

    /// How long the server's clock runs between two events of a stream. Default: no time.
    #[must_use]
    pub fn event_pause(self, event_pause: Duration) -> Self {
        Self { event_pause, ..self }
    }

    /// Lets its time pass so many times as fast. Its limits, hints and headers are in its own time.
    #[must_use]
    pub fn speed(self, speed: f64) -> Self {
        Self { speed, ..self }
    }

    /// Puts its time in a test's hand. Latency and pauses then pass as the machine's.
    #[must_use]
    pub fn clock(self, clock: &ManualClock) -> Self {
        Self { clock: Some(clock.clone()), ..self }
    }

    /// What jitter is drawn from. Default: 0.
    #[must_use]
    pub fn seed(self, seed: u64) -> Self {
        Self { seed, ..self }
    }

    /// The address it binds, such as `0.0.0.0:8080`. Default: any free port of this machine.
    #[must_use]
    pub fn listen(self, listen: impl Into<String>) -> Self {
        Self { listen: listen.into(), ..self }
    }
}
