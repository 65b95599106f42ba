//! Which API is asked, and with which key: as flags, a file and the environment say.
//!
//! Invariant: every key that is read here is among the secrets before it is used.

use std::{cell::RefCell, path::Path};

use allotment::openai::{Route, RoutesFile};
use anyhow::{Context, Result, bail};

use crate::redact::Secrets;

const KEY: &str = "OPENAI_API_KEY";
const BASE_URL: &str = "OPENAI_BASE_URL";
const AZURE_ENDPOINT: &str = "AZURE_OPENAI_ENDPOINT";
const AZURE_KEY: &str = "AZURE_OPENAI_API_KEY";
/// As the official clients name it.
const AZURE_VERSION: &str = "OPENAI_API_VERSION";

/// The way to the API.
#[derive(Debug)]
pub(super) enum Way {
    /// One of several, as a file says.
    File(RoutesFile),
    One(Route),
}

/// What an API is asked with, as flags and environment say it.
pub(super) struct Named<'a> {
    pub(super) base_url: Option<&'a str>,
    pub(super) routes: Option<&'a Path>,
    /// The deployment of Azure.
    pub(super) model: &'a str,
}

impl Way {
    /// Finds the way. `variable` says what a variable of the environment holds.
    ///
    /// The file of `--routes`, else OpenAI or what is like it if its key is set, else Azure.
    pub(super) fn find(
        named: &Named<'_>,
        variable: &impl Fn(&str) -> Option<String>,
        secrets: &mut Secrets,
    ) -> Result<Self> {
        let set = |name: &str| variable(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty());
        let keys = RefCell::new(Vec::new());
        let key = |name: &str| {
            let key = set(name);
            keys.borrow_mut().extend(key.clone());
            key
        };
        let way = Self::with(named, &set, &key);
        secrets.hide(keys.into_inner());
        way
    }

    fn with(
        named: &Named<'_>,
        set: &impl Fn(&str) -> Option<String>,
        key: &impl Fn(&str) -> Option<String>,
    ) -> Result<Self> {
        if let Some(path) = named.routes {
            let shown = || format!("--routes {}", path.display());
            let text = std::fs::read_to_string(path).with_context(shown)?;
            return RoutesFile::from_toml_with(&text, key).map(Self::File).with_context(shown);
        }
        if let Some(key) = key(KEY) {
            let base_url = named.base_url.map(ToOwned::to_owned).or_else(|| set(BASE_URL));
            let base_url = base_url.unwrap_or_else(|| Route::OPENAI_BASE_URL.to_owned());
            return Ok(Self::One(Route::compatible("openai", base_url, key)));
        }
        if named.base_url.is_some() {
            bail!("no key for --base-url: set {KEY}");
        }
        let Some(endpoint) = set(AZURE_ENDPOINT) else {
            bail!(
                "no key: set {KEY} (and {BASE_URL}, if it is not OpenAI's own), or {AZURE_ENDPOINT} and {AZURE_KEY}, \
                 or name a file by --routes"
            );
        };
        let Some(key) = key(AZURE_KEY) else { bail!("no key for {AZURE_ENDPOINT}: set {AZURE_KEY}") };
        let route = Route::azure("azure", endpoint, named.model, key);
        Ok(Self::One(match set(AZURE_VERSION) {
            Some(version) => route.api_version(version),
            None => route,
        }))
    }
}

#[cfg(test)]
mod tests {
    use allotment::openai::Style;

    use super::*;

    fn find(base_url: Option<&str>, set: &[(&str, &str)]) -> (Result<Way>, Secrets) {
        let mut secrets = Secrets::default();
        let variable = |name: &str| set.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
        let named = Named { base_url, routes: None, model: "images" };
        let way = Way::find(&named, &variable, &mut secrets);
        (way, secrets)
    }

    #[test]
    fn the_environment_names_the_api_and_openai_comes_first() {
        let azure = [(AZURE_ENDPOINT, "https://acme.openai.azure.com"), (AZURE_KEY, "azure-secret")];
        for (set, expected) in [
            (vec![(KEY, "sk-secret")], "openai"),
            (vec![(KEY, "sk-secret"), azure[0], azure[1]], "openai"),
            (vec![(KEY, " "), (BASE_URL, "https://other"), azure[0], azure[1]], "azure"),
        ] {
            let (way, secrets) = find(None, &set);
            let Ok(Way::One(route)) = way else { panic!("{set:?}: {way:?}") };
            assert_eq!(route.name(), expected, "{set:?}");
            assert_eq!(matches!(route.style(), Style::Azure { .. }), expected == "azure");
            assert_eq!(secrets.redact("sk-secret azure-secret").matches("***").count(), 1, "what was read is hidden");
        }
    }

    #[test]
    fn a_missing_key_is_named_by_its_variable() {
        for (base_url, set, expected) in [
            (None, vec![], "AZURE_OPENAI_ENDPOINT and AZURE_OPENAI_API_KEY"),
            (None, vec![(BASE_URL, "https://other")], "set OPENAI_API_KEY"),
            (Some("https://other"), vec![(AZURE_ENDPOINT, "https://a"), (AZURE_KEY, "key")], "set OPENAI_API_KEY"),
            (None, vec![(AZURE_ENDPOINT, "https://a")], "set AZURE_OPENAI_API_KEY"),
        ] {
            let message = find(base_url, &set).0.unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        }
    }
}
