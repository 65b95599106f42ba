//! A way to a model: an API, what it is asked with, whom it is charged to, and what it costs there.
//!
//! Invariant: the key of a route is shown by nothing, and neither are user and password of an address. Settings are checked once, when
//! the client is built; after that a base URL has no slash at its end.
//!
//! Lacks limits: those of a route are the limits that the policy sets for its org.

mod base_url;
pub(super) mod capability;
pub(super) mod choice;
pub(super) mod file;
pub(super) mod health;
pub(super) mod price;
mod rank;
pub(super) mod state;
pub(super) mod walk;
pub(super) mod walker;

use std::{fmt, sync::Arc};

use crate::{
    openai::{
        error::ImageError,
        key::ApiKey,
        route::{
            base_url::{Http, normal},
            price::RoutePrice,
        },
    },
    subject::Subject,
};

/// How an API is spoken to.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Style {
    /// `POST {base}/images/generations` and `{base}/images/edits`.
    Images,
    /// The same below a deployment of Azure OpenAI, with the key in a header of its own.
    Azure {
        /// Its name there.
        deployment: String,
        /// Such as [`Route::AZURE_API_VERSION`].
        api_version: String,
    },
    /// `POST {base}/responses` with the tool `image_generation`.
    Responses {
        /// The model that calls the tool. Its own tokens are billed as well.
        model: String,
    },
    /// `POST {base}/chat/completions`, for proxies that answer with an image in the message.
    Chat,
}

/// A way to a model. Setters take it and give it back; what is wrong with it is said when the client is built.
///
/// ```
/// use allotment::openai::{Route, RoutePrice};
///
/// let direct = Route::openai("direct", "sk-...").priority(0);
/// let proxy = Route::compatible("proxy", "https://proxy.example/v1", "key")
///     .org("acme-proxy")
///     .priority(1)
///     .price(RoutePrice::PerImage { micros: 30_000 });
/// # let _ = (direct, proxy);
/// ```
#[derive(Clone)]
#[must_use = "a route does nothing until a client has it"]
pub struct Route {
    pub(super) name: Arc<str>,
    pub(super) style: Style,
    pub(super) base_url: String,
    pub(super) key: Option<ApiKey>,
    pub(super) org: Option<Box<str>>,
    pub(super) models: Vec<RouteModel>,
    pub(super) region: Option<String>,
    pub(super) priority: u8,
    pub(super) weight: u32,
    pub(super) price: Option<RoutePrice>,
    http: Http,
}

/// A model that a route serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteModel {
    pub(super) name: String,
    pub(super) upstream: Option<String>,
    pub(super) price: Option<RoutePrice>,
}

impl RouteModel {
    /// A model by the name that requests have for it.
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), upstream: None, price: None }
    }

    /// What upstream calls it. Default: the same.
    #[must_use]
    pub fn called(mut self, upstream: impl Into<String>) -> Self {
        self.upstream = Some(upstream.into());
        self
    }

    /// What it costs on this route. Default: as the route says.
    #[must_use]
    pub fn price(mut self, price: RoutePrice) -> Self {
        self.price = Some(price);
        self
    }
}

impl Route {
    /// The version of Azure's API that is spoken unless a route names another.
    pub const AZURE_API_VERSION: &str = "2025-04-01-preview";
    /// Where OpenAI is.
    pub const OPENAI_BASE_URL: &str = "https://api.openai.com/v1";
    /// The longest name, in bytes.
    pub const NAME_BYTES_MAX: usize = 64;

    /// OpenAI itself.
    pub fn openai(name: impl Into<Arc<str>>, key: impl Into<ApiKey>) -> Self {
        Self::new(name.into(), Style::Images, Self::OPENAI_BASE_URL.to_owned(), Some(key.into()))
    }

    /// A deployment of Azure OpenAI; the base URL is that of the resource, such as `https://acme.openai.azure.com`.
    pub fn azure(
        name: impl Into<Arc<str>>,
        base_url: impl Into<String>,
        deployment: impl Into<String>,
        key: impl Into<ApiKey>,
    ) -> Self {
        let api_version = Self::AZURE_API_VERSION.to_owned();
        let style = Style::Azure { deployment: deployment.into(), api_version };
        Self::new(name.into(), style, base_url.into(), Some(key.into()))
    }

    /// An API that is like OpenAI's; the base URL ends where `/images/generations` begins.
    pub fn compatible(name: impl Into<Arc<str>>, base_url: impl Into<String>, key: impl Into<ApiKey>) -> Self {
        Self::new(name.into(), Style::Images, base_url.into(), Some(key.into()))
    }

    /// A proxy that draws in a chat; the base URL ends where `/chat/completions` begins.
    pub fn chat(name: impl Into<Arc<str>>, base_url: impl Into<String>, key: impl Into<ApiKey>) -> Self {
        Self::new(name.into(), Style::Chat, base_url.into(), Some(key.into()))
    }

    /// OpenAI's Responses API: `model` calls the tool that draws. Its own tokens are billed as well.
    pub fn responses(name: impl Into<Arc<str>>, model: impl Into<String>, key: impl Into<ApiKey>) -> Self {
        let style = Style::Responses { model: model.into() };
        Self::new(name.into(), style, Self::OPENAI_BASE_URL.to_owned(), Some(key.into()))
    }

    pub(super) fn new(name: Arc<str>, style: Style, base_url: String, key: Option<ApiKey>) -> Self {
        Self {
            name,
            style,
            base_url,
            key,
            org: None,
            models: Vec::new(),
            region: None,
            priority: 0,
            weight: 1,
            price: None,
            http: Http::Loopback,
        }
    }

    /// Where it is: `https`, or `http` to this host.
    pub fn base_url(mut self, base_url: impl Into<String>) -> Self {
        self.base_url = base_url.into();
        self
    }

    /// Lets the base URL begin with `http:` wherever it leads. Keys, prompts and images can be read on the way.
    pub fn allow_http(mut self) -> Self {
        self.http = Http::Anywhere;
        self
    }

    /// Which version of Azure's API is spoken. Default: [`AZURE_API_VERSION`](Self::AZURE_API_VERSION). Other styles have none.
    pub fn api_version(mut self, version: impl Into<String>) -> Self {
        if let Style::Azure { api_version, .. } = &mut self.style {
            *api_version = version.into();
        }
        self
    }

    /// The org whose quota it uses, in place of the subject's. Default: the subject's.
    pub fn org(mut self, org: impl Into<Box<str>>) -> Self {
        self.org = Some(org.into());
        self
    }

    /// A model that it serves; call it once for each. Default: whatever it is asked for.
    pub fn model(mut self, model: RouteModel) -> Self {
        self.models.push(model);
        self
    }

    /// Where it runs, for people to read.
    pub fn region(mut self, region: impl Into<String>) -> Self {
        self.region = Some(region.into());
        self
    }

    /// Lower comes first. Default: 0.
    pub fn priority(mut self, priority: u8) -> Self {
        self.priority = priority;
        self
    }

    /// How often it comes before others that are as good, 1 to 1,000. With 3 beside 1, three times in four. Default: 1.
    pub fn weight(mut self, weight: u32) -> Self {
        self.weight = weight;
        self
    }

    /// What a call costs there. Default: what the table of models says.
    pub fn price(mut self, price: RoutePrice) -> Self {
        self.price = Some(price);
        self
    }

    /// The name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How it is spoken to.
    #[must_use]
    pub fn style(&self) -> &Style {
        &self.style
    }

    /// Who is charged for a call of this subject.
    pub(super) fn subject(&self, subject: Subject) -> Subject {
        match &self.org {
            Some(org) => subject.with_org(org.clone()),
            None => subject,
        }
    }

    /// What upstream calls this model.
    pub(super) fn upstream_model<'a>(&'a self, model: &'a str) -> &'a str {
        self.entry(model).and_then(|entry| entry.upstream.as_deref()).unwrap_or(model)
    }

    pub(super) fn serves(&self, model: &str) -> bool {
        self.models.is_empty() || self.entry(model).is_some()
    }

    /// What this model costs there, if not what the table of models says.
    pub(super) fn price_of(&self, model: &str) -> Option<RoutePrice> {
        self.entry(model).and_then(|entry| entry.price).or(self.price)
    }

    fn entry(&self, model: &str) -> Option<&RouteModel> {
        self.models.iter().find(|entry| entry.name == model)
    }

    /// The same route with its base URL in normal form.
    pub(super) fn checked(mut self) -> Result<Self, ImageError> {
        let named = |fault: String| ImageError::invalid(format!("route {:?}: {fault}", shortened(&self.name)));
        let of_name = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if !(1..=Self::NAME_BYTES_MAX).contains(&self.name.len()) || !self.name.chars().all(of_name) {
            return Err(named("a name takes 1 to 64 letters, digits, -, _ and .".to_owned()));
        }
        if !(1..=1_000).contains(&self.weight) {
            return Err(named(format!("weight {}: allowed are 1 to 1,000", self.weight)));
        }
        let texts = match &self.style {
            Style::Azure { deployment, api_version } => vec![("deployment", deployment), ("api_version", api_version)],
            Style::Responses { model } => vec![("model", model)],
            Style::Images | Style::Chat => Vec::new(),
        };
        if let Some((field, _)) = texts.into_iter().find(|(_, text)| text.trim().is_empty()) {
            return Err(named(format!("{field}: it is empty")));
        }
        for (at, model) in self.models.iter().enumerate() {
            if model.name.is_empty() || model.upstream.as_ref().is_some_and(String::is_empty) {
                return Err(named(format!("model {:?}: a name is empty", model.name)));
            }
            if self.models.iter().take(at).any(|before| before.name == model.name) {
                return Err(named(format!("model {:?}: it is there twice", model.name)));
            }
        }
        self.subject(Subject::org("any")).validate().map_err(|error| named(error.to_string()))?;
        self.base_url = normal(&self.base_url, self.http).map_err(named)?;
        Ok(self)
    }
}

fn shortened(name: &str) -> String {
    name.chars().take(Route::NAME_BYTES_MAX).collect()
}

/// Without the key, and of the base URL only what an address without secrets has.
impl fmt::Debug for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("Route");
        debug.field("name", &self.name).field("style", &self.style).field("org", &self.org);
        debug.field("region", &self.region).field("priority", &self.priority).field("weight", &self.weight);
        debug.field("models", &self.models).field("price", &self.price).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_names_its_field() {
        let fault = |route: Route| route.checked().unwrap_err().to_string();
        assert!(fault(Route::openai("a b", "key")).contains("a name takes"));
        assert!(fault(Route::openai("a", "key").weight(0)).contains("weight 0: allowed are 1 to 1,000"));
        assert!(fault(Route::azure("a", "https://a.example", " ", "key")).contains("deployment: it is empty"));
        assert!(fault(Route::openai("a", "key").org("")).contains("org \"\" has 0 bytes"));
        let twice = Route::openai("a", "key").model(RouteModel::new("m")).model(RouteModel::new("m"));
        assert!(fault(twice).contains("model \"m\": it is there twice"));
    }

    #[test]
    fn a_route_shows_no_secret() {
        let route = Route::compatible("proxy", "https://me:planted@proxy.example", "sk-planted");
        assert!(!format!("{route:?}").contains("planted"));
    }

    #[test]
    fn a_route_has_its_own_org_and_its_own_names_for_models() {
        let subject = Subject::org("acme").user("alice").model("m").attribute("tier", "free");
        let own = Route::openai("a", "key").org("acme-eu").model(RouteModel::new("m").called("vendor/m"));
        let expected = Subject::org("acme-eu").user("alice").model("m").attribute("tier", "free");
        assert_eq!(own.subject(subject.clone()), expected);
        assert_eq!(Route::openai("a", "key").subject(subject.clone()), subject);
        assert_eq!(own.upstream_model("m"), "vendor/m");
        assert!(own.serves("m") && !own.serves("n") && Route::openai("a", "key").serves("n"));
    }
}
