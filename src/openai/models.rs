//! What is known of each model: how it counts tokens, what it takes, what it costs. Data, in `models.toml`.
//!
//! Invariant: every figure has a source and a certainty. A model that has no entry is asked for by the rules of the newest, has a pool of
//! its own, and is refused only what no model takes.

mod accepts;
mod facts;
pub(super) mod retirement;

use std::{
    collections::BTreeMap,
    sync::{Arc, LazyLock},
};

use serde::Deserialize;
use toml::Spanned;

pub(super) use self::facts::Facts;
pub use self::facts::Source;
use self::{
    accepts::Accepts,
    facts::{Input, Lifecycle, Output, Pool, Tables, Text},
};
use crate::{
    error::Error,
    openai::{
        date::Date,
        price::Prices,
        request::{ImageRequest, Quality},
    },
    policy::file,
};

/// The models that a client knows.
///
/// ```
/// use allotment::openai::Models;
///
/// let models = Models::embedded().with(r#"
///     [[model]]
///     name = "my-deployment"          # on Azure a deployment has a name of its own
///     like = "gpt-image-2"
/// "#)?;
/// assert!(models.get("my-deployment").is_known());
/// assert_eq!(models.get("gpt-image-2-2026-04-21").pool(), "gpt-image");
/// assert_eq!(models.get("my-deployment").pool(), "my-deployment");
/// # Ok::<(), allotment::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Models {
    default: Arc<str>,
    models: Arc<BTreeMap<Arc<str>, Arc<Facts>>>,
}

/// What is known of one model.
#[derive(Clone, Debug)]
pub struct Model {
    name: Arc<str>,
    is_known: bool,
    facts: Arc<Facts>,
}

impl Models {
    /// Those known when this crate was released.
    #[must_use]
    pub fn embedded() -> Self {
        static EMBEDDED: LazyLock<Models> = LazyLock::new(|| {
            let none = Models { default: "".into(), models: Arc::default() };
            none.with(include_str!("models.toml")).expect("a test reads the embedded file")
        });
        EMBEDDED.clone()
    }

    /// Changes or adds to what is known, by a file of the same form as the embedded one. An entry for a model that is there changes the
    /// tables that it has; a new one has all tables, or is `like` another.
    ///
    /// # Errors
    ///
    /// A key or value that there is not, with its line; or a table that is missing or cannot be calculated with.
    pub fn with(mut self, text: &str) -> Result<Self, Error> {
        let file: File = toml::from_str(text).map_err(|error| file::misspelled(text, &error))?;
        let models = Arc::make_mut(&mut self.models);
        for entry in file.model {
            let line = text.bytes().take(entry.span().start).filter(|byte| *byte == b'\n').count() + 1;
            let entry = entry.into_inner();
            let name: Arc<str> = entry.name.as_str().into();
            let facts = entry.facts(models);
            let facts = facts.map_err(|fault| Error::invalid(format!("line {line}: model {name:?}: {fault}")))?;
            models.insert(name, Arc::new(facts));
        }
        if let Some(default) = file.default {
            self.default = default.into();
        }
        if self.models.contains_key(&self.default) {
            return Ok(self);
        }
        Err(Error::invalid(format!("default = {:?}: no entry has this name", self.default)))
    }

    /// By its name, by that of a dated snapshot of it (`gpt-image-2-2026-04-21`), or with its provider before it (`openai/gpt-image-2`).
    /// One that is not known goes by the rules of the newest.
    #[must_use]
    pub fn get(&self, name: &str) -> Model {
        let found = names_of(name).into_iter().find_map(|name| self.models.get_key_value(name));
        if let Some((name, facts)) = found {
            return Model { name: name.clone(), is_known: true, facts: facts.clone() };
        }
        let newest = self.models.get(&self.default).expect("`with` leaves a default that has an entry");
        Model { name: name.into(), is_known: false, facts: newest.clone() }
    }

    /// The names of all that are known.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.models.keys().map(AsRef::as_ref)
    }
}

impl Model {
    /// Its name, without the date of a snapshot.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether it has an entry, or goes by the rules of the newest.
    #[must_use]
    pub fn is_known(&self) -> bool {
        self.is_known
    }

    /// The pool whose limits it counts against upstream, for the attribute `model` of the subject. Its own name, if it shares none.
    #[must_use]
    pub fn pool(&self) -> &str {
        let shared = self.facts.pool.as_ref().filter(|_| self.is_known);
        shared.map_or(&self.name, |pool| &pool.name)
    }

    /// The day on which upstream shuts it down, if that is known.
    #[must_use]
    pub fn retires_on(&self) -> Option<Date> {
        self.facts.lifecycle.as_ref().filter(|_| self.is_known)?.retires_on
    }

    /// What upstream says to use instead.
    #[must_use]
    pub fn replacement(&self) -> Option<&str> {
        self.facts.lifecycle.as_ref().filter(|_| self.is_known)?.replacement.as_deref()
    }

    /// The qualities that it has, the lowest first.
    #[must_use]
    pub fn qualities(&self) -> &[Quality] {
        &self.facts.accepts.qualities
    }

    /// Why the model cannot do what the request asks, if it cannot: names the field, the value and what is allowed.
    #[must_use]
    pub fn refuses(&self, request: &ImageRequest) -> Option<String> {
        if self.is_known { self.facts.accepts.refuse(request) } else { Accepts::refuse_by_api(request) }
    }

    /// Where what is known of it comes from, table by table.
    pub fn sources(&self) -> impl Iterator<Item = Source> {
        self.facts.sources()
    }

    pub(super) fn shared_name(&self) -> &Arc<str> {
        &self.name
    }

    pub(super) fn facts(&self) -> &Facts {
        &self.facts
    }
}

/// The names that a model may be known by: as it is, without its provider, and without the date of its snapshot too.
pub(super) fn names_of(name: &str) -> [&str; 3] {
    let own = name.rsplit('/').next().unwrap_or(name);
    [name, own, base_name(own)]
}

/// The name of a model without the date of its snapshot.
fn base_name(name: &str) -> &str {
    let date = name.len().checked_sub(11).and_then(|at| name.split_at_checked(at));
    match date {
        Some((base, date)) if date.strip_prefix('-').is_some_and(|date| date.parse::<Date>().is_ok()) => base,
        _ => name,
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    default: Option<String>,
    #[serde(default)]
    model: Vec<Spanned<Entry>>,
}

/// What a file says of one model: all there is, or what differs.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: String,
    like: Option<String>,
    pool: Option<Pool>,
    lifecycle: Option<Lifecycle>,
    accepts: Option<Accepts>,
    text: Option<Text>,
    input: Option<Input>,
    output: Option<Output>,
    prices: Option<Prices>,
}

impl Entry {
    fn facts(self, known: &BTreeMap<Arc<str>, Arc<Facts>>) -> Result<Facts, String> {
        let base = match &self.like {
            Some(like) => Some(
                known.get(like.as_str()).ok_or_else(|| format!("like = {like:?}: no entry before has this name"))?,
            ),
            None => known.get(self.name.as_str()),
        };
        let base = base.map(|facts| facts.tables());
        let missing = |table: &str| format!("{table}: it is missing, and the entry is not `like` another");
        let tables = match base {
            Some(base) => Tables {
                // a pool and a life are a model's own
                pool: self.pool.or(base.pool.filter(|_| self.like.is_none())),
                lifecycle: self.lifecycle.or(base.lifecycle.filter(|_| self.like.is_none())),
                accepts: self.accepts.unwrap_or(base.accepts),
                text: self.text.unwrap_or(base.text),
                input: self.input.unwrap_or(base.input),
                output: self.output.unwrap_or(base.output),
                prices: self.prices.or(base.prices),
            },
            None => Tables {
                pool: self.pool,
                lifecycle: self.lifecycle,
                accepts: self.accepts.ok_or_else(|| missing("accepts"))?,
                text: self.text.ok_or_else(|| missing("text"))?,
                input: self.input.ok_or_else(|| missing("input"))?,
                output: self.output.ok_or_else(|| missing("output"))?,
                prices: self.prices,
            },
        };
        Facts::new(tables)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Certainty;

    #[test]
    fn every_table_says_where_its_figures_come_from() {
        let models = Models::embedded();
        assert_eq!(models.names().count(), 10);
        for name in models.names() {
            let sources: Vec<_> = models.get(name).sources().collect();
            let tables: Vec<_> = sources.iter().map(|source| source.table).collect();
            assert_eq!(tables, ["pool", "lifecycle", "accepts", "text", "input", "output", "prices"], "{name}");
        }
        let of =
            |model: &str, table| models.get(model).sources().find(|source| source.table == table).unwrap().certainty;
        assert_eq!(of("gpt-image-1", "output"), Certainty::Official);
        assert_eq!(of("gpt-image-2.6-flare", "output"), Certainty::Unverified);
    }

    #[test]
    fn a_model_is_found_by_its_name_its_snapshot_and_its_provider() {
        let models = Models::embedded();
        let rows = [
            ("gpt-image-2", "gpt-image-2", true),
            ("gpt-image-2-2026-04-21", "gpt-image-2", true),
            ("openai/gpt-image-2-2026-04-21", "gpt-image-2", true),
            ("gpt-image-2-2026-04-31", "gpt-image-2-2026-04-31", false),
            ("gpt-image-2-codex", "gpt-image-2-codex", true),
            ("flux", "flux", false),
            ("äöü-öäüäöü", "äöü-öäüäöü", false),
            ("", "", false),
        ];
        for (asked, name, is_known) in rows {
            let model = models.get(asked);
            assert_eq!((model.name(), model.is_known()), (name, is_known), "{asked}");
        }
    }

    #[test]
    fn a_model_has_a_pool_of_its_own_unless_it_shares_one() {
        let models = Models::embedded().with("[[model]]\nname = \"mine\"\nlike = \"gpt-image-2\"").unwrap();
        for name in Models::embedded().names().chain(["gpt-image-2-2026-04-21", "openai/gpt-image-1"]) {
            assert_eq!(models.get(name).pool(), "gpt-image", "{name}");
        }
        for name in ["mine", "flux", "gpt-image-9"] {
            assert_eq!(models.get(name).pool(), name);
        }
    }

    #[test]
    fn the_day_of_a_shut_down_is_known() {
        let life = |name: &str| Models::embedded().get(name).retires_on().map(|date| date.to_string());
        assert_eq!(life("gpt-image-1").as_deref(), Some("2026-10-23"));
        for name in ["gpt-image-1-mini", "gpt-image-1.5", "chatgpt-image-latest"] {
            assert_eq!(life(name).as_deref(), Some("2026-12-01"), "{name}");
            assert!(Models::embedded().get(name).replacement().unwrap().contains("2.6"));
        }
        assert_eq!([life("gpt-image-2"), life("gpt-image-2.6-flare"), life("flux")], [None, None, None]);
    }

    #[test]
    fn an_entry_changes_the_tables_that_it_has() {
        let text = r#"
            [[model]]
            name = "gpt-image-2"
            pool = { name = "ours", source = "our limits page", certainty = "official" }
            lifecycle = { retires_on = "2027-01-01", source = "a letter", certainty = "official" }
            [[model]]
            name = "sketch"
            like = "gpt-image-2"
            output = { rule = { flat = 0 }, partial_image_tokens = 0, source = "billed by the image", certainty = "official" }
        "#;
        let models = Models::embedded().with(text).unwrap();
        assert_eq!(models.get("gpt-image-2").pool(), "ours");
        assert!(models.get("gpt-image-2").retires_on().is_some());
        assert_eq!(models.get("sketch").retires_on(), None, "a day is of one model");
        assert_eq!(models.get("gpt-image-2").facts().drawn(None, Some(Quality::High)), 23_719, "the rest is as it was");
        assert_eq!((models.get("sketch").pool(), models.get("sketch").facts().drawn(None, None)), ("sketch", 0));
        assert_eq!(Models::embedded().get("gpt-image-2").pool(), "gpt-image", "only here");
    }

    #[test]
    fn a_file_that_is_wrong_says_where() {
        let rows = [
            ("default = \"nothing\"", "default = \"nothing\": no entry has this name"),
            ("[[model]]\nname = \"a\"\npools = 1", "line 3: `pools = 1`: unknown key `pools`"),
            (
                "[[model]]\nname = \"a\"",
                "line 1: model \"a\": accepts: it is missing, and the entry is not `like` another",
            ),
            (
                "\n[[model]]\nname = \"a\"\nlike = \"b\"",
                "line 2: model \"a\": like = \"b\": no entry before has this name",
            ),
            (
                "[[model]]\nname = \"gpt-image-2\"\n[model.pool]\nname = \"b\"\nsource = \" \"\ncertainty = \"official\"",
                "line 1: model \"gpt-image-2\": pool.source is empty",
            ),
            ("[[model]]\nname = \"a\"\n[model.pool]\nname = \"b\"", "line 3: `[model.pool]`: missing key `source`"),
            (
                "[[model]]\nname = \"gpt-image-2\"\n[model.output]\nrule = { patches = { low = 1 } }\npartial_image_tokens = 1\nsource = \"x\"\ncertainty = \"reported\"",
                "line 1: model \"gpt-image-2\": output.rule: it has no size at quality medium",
            ),
        ];
        for (text, message) in rows {
            let error = Models::embedded().with(text).unwrap_err().to_string();
            assert!(error.starts_with(message), "{error}");
        }
    }
}
