//! Routes as a file.
//!
//! Invariant: a key is named in the file and read from the environment; no message shows one. Every refusal of a file says what it is
//! about: a line, or a route and its field.

use serde::Deserialize;

use crate::openai::{
    error::ImageError,
    key::ApiKey,
    route::{Route, RouteModel, Style, choice::Strategy, price::RoutePrice},
};

/// Routes and how they are chosen, from a file.
///
/// ```
/// use allotment::openai::RoutesFile;
///
/// let text = r#"
/// strategy = "cheapest"
///
/// [[route]]
/// name = "direct"
/// key_env = "OPENAI_API_KEY"
/// "#;
/// let file = RoutesFile::from_toml_with(text, |variable| (variable == "OPENAI_API_KEY").then(|| "sk-...".into()))?;
/// assert_eq!(file.routes()[0].name(), "direct");
/// # Ok::<(), allotment::openai::ImageError>(())
/// ```
#[derive(Clone, Debug)]
#[must_use = "routes do nothing until a client has them"]
pub struct RoutesFile {
    strategy: Strategy,
    price_micros_max: Option<u64>,
    routes: Vec<Route>,
}

impl RoutesFile {
    /// Reads a file; keys come from the environment.
    ///
    /// # Errors
    ///
    /// [`ImageErrorKind::Invalid`](crate::openai::ImageErrorKind::Invalid) for what is no such file, a setting out of range, or a variable
    /// that is not set.
    pub fn from_toml(text: &str) -> Result<Self, ImageError> {
        Self::from_toml_with(text, |variable| std::env::var(variable).ok())
    }

    /// Reads a file; `key_of` says what a variable of `key_env` holds.
    ///
    /// # Errors
    ///
    /// As [`from_toml`](Self::from_toml).
    pub fn from_toml_with(text: &str, key_of: impl Fn(&str) -> Option<String>) -> Result<Self, ImageError> {
        let spelled: Spelled = toml::from_str(text).map_err(|error| misspelled(text, &error))?;
        let routes: Result<Vec<_>, _> = spelled.route.into_iter().map(|entry| entry.route(&key_of)).collect();
        Ok(Self { strategy: spelled.strategy, price_micros_max: spelled.price_micros_max, routes: routes? })
    }

    /// By what routes are put in order.
    #[must_use]
    pub fn strategy(&self) -> Strategy {
        self.strategy
    }

    /// The most that a call may cost on the route that it goes to, in millionths of a dollar.
    #[must_use]
    pub fn price_micros_max(&self) -> Option<u64> {
        self.price_micros_max
    }

    /// The routes.
    pub fn routes(&self) -> &[Route] {
        &self.routes
    }
}

/// The file as it is spelled: see `docs/routes.md`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Spelled {
    #[serde(default)]
    strategy: Strategy,
    price_micros_max: Option<u64>,
    #[serde(default)]
    route: Vec<RouteEntry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RouteEntry {
    name: String,
    #[serde(default)]
    style: StyleName,
    base_url: Option<String>,
    key_env: Option<String>,
    org: Option<String>,
    region: Option<String>,
    priority: Option<u8>,
    weight: Option<u32>,
    price: Option<PriceEntry>,
    #[serde(default)]
    allow_http: bool,
    deployment: Option<String>,
    api_version: Option<String>,
    mainline_model: Option<String>,
    #[serde(default)]
    model: Vec<ModelEntry>,
}

#[derive(Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum StyleName {
    #[default]
    Images,
    Azure,
    Responses,
    Chat,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ModelEntry {
    name: String,
    upstream: Option<String>,
    price: Option<PriceEntry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PriceEntry {
    per_image_micros: Option<u64>,
    text_input_micros: Option<u64>,
    image_input_micros: Option<u64>,
    output_micros: Option<u64>,
    factor_permille: Option<u32>,
}

impl RouteEntry {
    fn route(self, key_of: &impl Fn(&str) -> Option<String>) -> Result<Route, ImageError> {
        let name = self.name.clone();
        let named = |fault: String| ImageError::invalid(format!("route {name:?}: {fault}"));
        let style = self.style().map_err(named)?;
        let base_url = match (&self.base_url, self.style) {
            (Some(base_url), _) => base_url.clone(),
            (None, StyleName::Images | StyleName::Responses) => Route::OPENAI_BASE_URL.to_owned(),
            (None, StyleName::Azure | StyleName::Chat) => {
                return Err(named("base_url: missing; only images and responses have one by default".to_owned()));
            }
        };
        let key = self.key_env.as_deref().map(|variable| key(variable, key_of)).transpose().map_err(named)?;
        let mut route = Route::new(name.as_str().into(), style, base_url, key);
        (route.org, route.region) = (self.org.map(Into::into), self.region);
        route.priority = self.priority.unwrap_or(route.priority);
        route.weight = self.weight.unwrap_or(route.weight);
        route.price = self.price.map(PriceEntry::price).transpose().map_err(named)?;
        for entry in self.model {
            let price = entry.price.map(PriceEntry::price).transpose().map_err(named)?;
            route.models.push(RouteModel { name: entry.name, upstream: entry.upstream, price });
        }
        if self.allow_http { route.allow_http() } else { route }.checked()
    }

    fn style(&self) -> Result<Style, String> {
        let foreign = [
            ("deployment", self.deployment.is_some() && self.style != StyleName::Azure, "azure"),
            ("api_version", self.api_version.is_some() && self.style != StyleName::Azure, "azure"),
            ("mainline_model", self.mainline_model.is_some() && self.style != StyleName::Responses, "responses"),
        ];
        if let Some((field, _, owner)) = foreign.into_iter().find(|(_, is_foreign, _)| *is_foreign) {
            return Err(format!("{field}: only the style `{owner}` has it"));
        }
        let missing = |field: &str| format!("{field}: missing, and this style needs it");
        Ok(match self.style {
            StyleName::Images => Style::Images,
            StyleName::Chat => Style::Chat,
            StyleName::Azure => Style::Azure {
                deployment: self.deployment.clone().ok_or_else(|| missing("deployment"))?,
                api_version: self.api_version.clone().unwrap_or_else(|| Route::AZURE_API_VERSION.to_owned()),
            },
            StyleName::Responses => {
                Style::Responses { model: self.mainline_model.clone().ok_or_else(|| missing("mainline_model"))? }
            }
        })
    }
}

impl PriceEntry {
    fn price(self) -> Result<RoutePrice, String> {
        let Self { per_image_micros, text_input_micros, image_input_micros, output_micros, factor_permille } = self;
        match (per_image_micros, text_input_micros, image_input_micros, output_micros, factor_permille) {
            (Some(micros), None, None, None, None) => Ok(RoutePrice::PerImage { micros }),
            (None, Some(text_input), Some(image_input), Some(output), None) => {
                Ok(RoutePrice::PerMillionTokens { text_input, image_input, output })
            }
            (None, None, None, None, Some(permille)) => Ok(RoutePrice::Factor { permille }),
            _ => Err(
                "price: it takes per_image_micros, or text_input_micros, image_input_micros and output_micros of a \
                      million tokens, or factor_permille"
                    .to_owned(),
            ),
        }
    }
}

/// The key that a variable holds. What cannot be a variable's name is not shown: it may be the key itself.
fn key(variable: &str, key_of: &impl Fn(&str) -> Option<String>) -> Result<ApiKey, String> {
    let of_name = |byte: u8| matches!(byte, b'A'..=b'Z' | b'0'..=b'9' | b'_');
    if !variable.starts_with(|first: char| first.is_ascii_uppercase() || first == '_') || !variable.bytes().all(of_name)
    {
        return Err(
            "key_env: the name of a variable takes A to Z, 0 to 9 and _; the key itself is not written here".to_owned()
        );
    }
    let held = key_of(variable).unwrap_or_default();
    let key = held.trim();
    match key {
        "" => Err(format!("key_env: the variable {variable} is not set, or empty")),
        _ if !key.bytes().all(|byte| byte.is_ascii_graphic()) => {
            Err(format!("key_env: the variable {variable} holds what no key has: spaces, or other than ASCII"))
        }
        _ => Ok(ApiKey::new(key)),
    }
}

/// Without the line itself: there may be a key in it.
fn misspelled(text: &str, error: &toml::de::Error) -> ImageError {
    let message = error.message().replace("unknown field", "unknown key").replace("missing field", "missing key");
    let line = error.span().map(|span| text.bytes().take(span.start).filter(|byte| *byte == b'\n').count() + 1);
    match line {
        Some(line) => ImageError::invalid(format!("line {line}: {}", message.trim())),
        None => ImageError::invalid(message),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::openai::{estimate::Estimator, models::Models, request::ImageRequest};

    const EXAMPLE: &str = include_str!("../../../examples/routes.toml");

    fn keys(variable: &str) -> Option<String> {
        match variable {
            "UNSET" => None,
            "BROKEN" => Some("sk-planted\nX-Other: 1".to_owned()),
            _ => Some("sk-planted\n".to_owned()),
        }
    }

    fn refused(text: &str) -> String {
        RoutesFile::from_toml_with(text, keys).unwrap_err().to_string()
    }

    #[test]
    fn the_example_is_read() {
        let file = RoutesFile::from_toml_with(EXAMPLE, keys).unwrap();
        assert_eq!((file.strategy(), file.price_micros_max()), (Strategy::Priority, Some(1_000_000)));
        let [direct, cheap, images, azure] = file.routes() else { panic!("{:?}", file.routes()) };
        assert_eq!(
            (direct.name(), &direct.style, &*direct.base_url),
            ("direct", &Style::Images, Route::OPENAI_BASE_URL)
        );
        assert_eq!((direct.priority, cheap.priority, images.priority, azure.priority), (0, 1, 1, 2));
        assert_eq!((cheap.weight, &cheap.style), (3, &Style::Chat));
        assert_eq!(cheap.upstream_model("gpt-image-2"), "vendor/gpt-image-2");
        assert_eq!(cheap.price_of("gpt-image-2"), Some(RoutePrice::PerImage { micros: 30_000 }));
        assert_eq!(images.price_of("gpt-image-2"), Some(RoutePrice::Factor { permille: 1_250 }));
        let api_version = Route::AZURE_API_VERSION.to_owned();
        assert_eq!(azure.style, Style::Azure { deployment: "images".to_owned(), api_version });
        assert_eq!((azure.org.as_deref(), azure.region.as_deref()), (Some("acme-azure"), Some("swedencentral")));
        assert_eq!(direct.key.as_ref().map(ApiKey::expose), Some("sk-planted"), "without the end of the line");
    }

    #[test]
    fn the_bound_of_the_example_lets_a_call_of_auto_pass_everywhere() {
        let file = RoutesFile::from_toml_with(EXAMPLE, keys).unwrap();
        let auto = ImageRequest::generate("a lighthouse");
        let estimate = Estimator::new(Models::embedded()).estimate("gpt-image-2", &auto).unwrap();
        for route in file.routes() {
            let price = route.price_of("gpt-image-2");
            let micros = price.map_or(estimate.spend_micros, |price| price.estimated(&estimate, 1));
            assert!(micros <= file.price_micros_max(), "{}: {micros:?}", route.name());
        }
    }

    #[test]
    fn a_fault_says_where_it_is_and_shows_no_key() {
        for (entry, fault) in [
            ("key = \"sk-planted\"", "line 3: unknown key `key`"),
            ("priority = 300", "line 3: invalid value: integer `300`"),
            ("style = \"soap\"", "line 3: unknown variant `soap`"),
            ("key_env = \"UNSET\"", "route \"a\": key_env: the variable UNSET is not set"),
            ("key_env = \"sk-planted\"", "route \"a\": key_env: the name of a variable takes A to Z"),
            ("key_env = \"0PLANTED\"", "route \"a\": key_env: the name of a variable takes A to Z"),
            ("key_env = \"\"", "route \"a\": key_env: the name of a variable takes A to Z"),
            ("key_env = \"BROKEN\"", "route \"a\": key_env: the variable BROKEN holds what no key has"),
            ("style = \"chat\"", "route \"a\": base_url: missing"),
            ("style = \"azure\"", "route \"a\": deployment: missing"),
            ("style = \"responses\"", "route \"a\": mainline_model: missing"),
            ("deployment = \"x\"", "route \"a\": deployment: only the style `azure` has it"),
            ("price = { output_micros = 1 }", "route \"a\": price: it takes"),
            ("price = { per_picture = 1 }", "line 3: unknown key `per_picture`"),
            ("base_url = \"https://u:planted@a.example\"", "holds a user or password"),
            ("weight = 0", "route \"a\": weight 0: allowed are 1 to 1,000"),
        ] {
            let message = refused(&format!("[[route]]\nname = \"a\"\n{entry}\n"));
            assert!(message.contains(fault) && !message.to_lowercase().contains("planted"), "{entry}: {message}");
        }
        assert!(refused("stratagem = 1").starts_with("line 1: unknown key `stratagem`"));
        assert!(refused("[[route]]\norg = \"a\"").contains("missing key `name`"));
    }
}
