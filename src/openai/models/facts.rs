//! The tables of one model, as they are written in `models.toml`.
//!
//! Invariant: every table names its source and certainty, and passed `check` before anything is calculated by it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    openai::{
        date::Date,
        models::accepts::Accepts,
        price::Prices,
        request::{InputFidelity, Quality, Size},
        tokens::{self, Fidelity, Pixels, Tiles},
    },
    policy::Certainty,
};

/// All that is known of one model.
#[derive(Clone, Debug)]
pub(in crate::openai) struct Facts {
    pub(in crate::openai) pool: Option<Pool>,
    pub(in crate::openai) lifecycle: Option<Lifecycle>,
    pub(in crate::openai) accepts: Accepts,
    pub(in crate::openai) text: Text,
    pub(in crate::openai) input: Input,
    pub(in crate::openai) output: Output,
    pub(in crate::openai) prices: Option<Prices>,
    /// The most tokens of one image over all sizes, by quality.
    ceilings: BTreeMap<Quality, u64>,
}

/// Where the figures of one table of a model come from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Source {
    /// `pool`, `lifecycle`, `accepts`, `text`, `input`, `output` or `prices`.
    pub table: &'static str,
    /// In words.
    pub source: String,
    /// How far to trust them.
    pub certainty: Certainty,
}

/// The limit that a model shares with others.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::openai) struct Pool {
    pub(in crate::openai) name: String,
    source: String,
    certainty: Certainty,
}

/// Until when a model is there.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::openai) struct Lifecycle {
    pub(in crate::openai) retires_on: Option<Date>,
    pub(in crate::openai) replacement: Option<String>,
    source: String,
    certainty: Certainty,
}

/// How a prompt is counted.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::openai) struct Text {
    pub(in crate::openai) bytes_per_token: u64,
    /// Added to an edit.
    pub(in crate::openai) edit_tokens: u64,
    source: String,
    certainty: Certainty,
}

/// How images to edit are counted.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::openai) struct Input {
    rule: InputRule,
    default_fidelity: InputFidelity,
    source: String,
    pub(in crate::openai) certainty: Certainty,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum InputRule {
    Tiles(Tiles),
    /// No rule is known: this many at most.
    Bound(u64),
}

/// How drawn images are counted.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::openai) struct Output {
    rule: OutputRule,
    pub(in crate::openai) partial_image_tokens: u64,
    source: String,
    pub(in crate::openai) certainty: Certainty,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum OutputRule {
    /// By quality and size.
    Table(BTreeMap<Quality, BTreeMap<Size, u64>>),
    /// By a formula, with a factor per quality.
    Patches(BTreeMap<Quality, u16>),
    /// The same for all images: 0 where tokens are not counted.
    Flat(u64),
}

/// The tables of an entry that can be calculated with.
#[derive(Debug)]
pub(super) struct Tables {
    pub(super) pool: Option<Pool>,
    pub(super) lifecycle: Option<Lifecycle>,
    pub(super) accepts: Accepts,
    pub(super) text: Text,
    pub(super) input: Input,
    pub(super) output: Output,
    pub(super) prices: Option<Prices>,
}

impl Facts {
    /// Checks the tables and finds the most that an image can cost; or says what is wrong with which key.
    pub(super) fn new(tables: Tables) -> Result<Self, String> {
        let Tables { pool, lifecycle, accepts, text, input, output, prices } = tables;
        accepts.check()?;
        if text.bytes_per_token == 0 {
            return Err("text.bytes_per_token = 0: at least 1".to_owned());
        }
        let sizes = accepts.sizes.all();
        let ceilings = accepts.qualities.iter().map(|quality| {
            let most = sizes.iter().filter_map(|pixels| output.rule.tokens(*pixels, *quality)).max();
            let most = most.ok_or_else(|| format!("output.rule: it has no size at quality {quality}"))?;
            Ok((*quality, most))
        });
        let ceilings = ceilings.collect::<Result<BTreeMap<_, _>, String>>()?;
        let facts = Self { pool, lifecycle, accepts, text, input, output, prices, ceilings };
        let unsourced = facts.sources().find(|source| source.source.trim().is_empty()).map(|source| source.table);
        match unsourced {
            Some(table) => Err(format!("{table}.source is empty: say where the figures come from")),
            None => Ok(facts),
        }
    }

    /// Where the figures of each table come from.
    pub(super) fn sources(&self) -> impl Iterator<Item = Source> {
        let Self { pool, lifecycle, accepts, text, input, output, prices, .. } = self;
        let tables = [
            ("pool", pool.as_ref().map(|pool| (&pool.source, pool.certainty))),
            ("lifecycle", lifecycle.as_ref().map(|lifecycle| (&lifecycle.source, lifecycle.certainty))),
            ("accepts", Some((&accepts.source, accepts.certainty))),
            ("text", Some((&text.source, text.certainty))),
            ("input", Some((&input.source, input.certainty))),
            ("output", Some((&output.source, output.certainty))),
            ("prices", prices.as_ref().map(|prices| (&prices.source, prices.certainty))),
        ];
        tables.into_iter().filter_map(|(table, found)| {
            let (source, certainty) = found?;
            Some(Source { table, source: source.clone(), certainty })
        })
    }

    /// The tables alone, for an entry that starts from these.
    pub(super) fn tables(&self) -> Tables {
        let Self { pool, lifecycle, accepts, text, input, output, prices, .. } = self.clone();
        Tables { pool, lifecycle, accepts, text, input, output, prices }
    }

    /// Tokens of one drawn image; the most there can be for what is not known.
    pub(in crate::openai) fn drawn(&self, pixels: Option<Pixels>, quality: Option<Quality>) -> u64 {
        let at = |quality: Quality| {
            let exact = pixels.and_then(|pixels| self.output.rule.tokens(pixels, quality));
            exact.or_else(|| self.ceilings.get(&quality).copied())
        };
        let most = || self.ceilings.keys().filter_map(|quality| at(*quality)).max().unwrap_or(0);
        quality.and_then(at).unwrap_or_else(most)
    }

    /// Tokens of one image to edit, or of a mask.
    pub(in crate::openai) fn read(&self, pixels: Option<Pixels>, fidelity: Option<InputFidelity>) -> u64 {
        let fidelity = match fidelity.unwrap_or(self.input.default_fidelity) {
            InputFidelity::Low => Fidelity::Low,
            InputFidelity::High => Fidelity::High,
        };
        match &self.input.rule {
            InputRule::Tiles(tiles) => tiles.tokens(pixels, fidelity),
            InputRule::Bound(tokens) => *tokens,
        }
    }
}

impl OutputRule {
    fn tokens(&self, pixels: Pixels, quality: Quality) -> Option<u64> {
        match self {
            Self::Table(table) => table.get(&quality)?.get(&Size::pixels(pixels.width, pixels.height)).copied(),
            Self::Patches(factors) => factors.get(&quality).map(|factor| tokens::patches(*factor, pixels)),
            Self::Flat(tokens) => Some(*tokens),
        }
    }
}
