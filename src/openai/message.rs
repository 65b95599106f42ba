//! The figures in the words of a refusal.
//!
//! ```text
//! Rate limit reached for {model} (for limit {pool}) in organization {org} on input-images per min: Limit 5, Used 5, Requested 1.
//! Please try again in 12s.
//! ```
//!
//! Every part may be missing, and older forms write `Limit: 60.000000 / min. Current: 80.000000 / min` or `exceeded the 5 request/min rate
//! limit`. So each part is looked for by its own words, wherever it is.
//!
//! Invariant: time is linear in the text, and a limit is never read as more than it is, nor what was used or asked as less.
//!
//! Lacks the organisation: who may see it is not known here.

use std::time::Duration;

use crate::{
    openai::{refusal::RefusalFigures, span},
    resource::Resource,
};

const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(86_400);
const NAME_BYTES_MAX: usize = 64;

/// Words that speak of a limit per time.
const OF_A_LIMIT: &[&str] = &["rate limit", "token limit exceeded", "request too large for", "too many requests"];
const BEFORE_A_MODEL: &[&str] = &["limit reached for ", "limit exceeded for ", "too large for "];
const BEFORE_A_WAIT: &[&str] = &["again in ", "again after ", "retry after ", "retry in ", "wait "];
const ABBREVIATIONS: [(&str, Resource, Duration); 5] = [
    ("rpm", Resource::Requests, MINUTE),
    ("tpm", Resource::Tokens, MINUTE),
    ("ipm", Resource::Images, MINUTE),
    ("rpd", Resource::Requests, DAY),
    ("tpd", Resource::Tokens, DAY),
];

/// What a message says, as far as it can be read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Reading {
    /// It speaks of a limit per time.
    pub(super) is_of_a_limit: bool,
    pub(super) resource: Option<Resource>,
    pub(super) window: Option<Duration>,
    pub(super) model: Option<String>,
    pub(super) pool: Option<String>,
    pub(super) limit: Option<u64>,
    pub(super) used: Option<u64>,
    pub(super) requested: Option<u64>,
    /// How long to wait.
    pub(super) wait: Option<Duration>,
}

impl Reading {
    /// The figures, where there is a limit and it is known what it counts. A message that does not say so may have an error `type` that does.
    pub(super) fn figures(&self, error_type: Option<&str>) -> Option<RefusalFigures> {
        Some(RefusalFigures {
            resource: self.resource.clone().or_else(|| counted(error_type?))?,
            model: self.model.clone(),
            pool: self.pool.clone(),
            limit: self.limit?,
            used: self.used,
            requested: self.requested,
            window: self.window.unwrap_or(MINUTE),
        })
    }
}

/// Reads a message.
pub(super) fn read(text: &str) -> Reading {
    // only ASCII changes, so that places are the same in both
    let lower = text.to_ascii_lowercase();
    let rate = rate(&lower);
    let limit = amount_after(&lower, "limit");
    let after_limit = limit.as_ref().and_then(|limit| window_after(limit.rest));
    let used = amount_after(&lower, "used").or_else(|| amount_after(&lower, "current"));
    Reading {
        is_of_a_limit: OF_A_LIMIT.iter().any(|words| lower.contains(words)),
        resource: rate.resource,
        window: after_limit.or(rate.window),
        model: model(text, &lower),
        pool: pool(text, &lower),
        limit: limit.map(|limit| limit.floor).or(rate.amount),
        used: used.map(|used| used.ceil()),
        requested: amount_after(&lower, "requested").map(|requested| requested.ceil()),
        wait: BEFORE_A_WAIT
            .iter()
            .find_map(|words| rests_after(&lower, words).find_map(span::leading).map(|leading| leading.span)),
    }
}

/// What a word counts, in a message or as the `type` of an error.
fn counted(word: &str) -> Option<Resource> {
    match word {
        "request" | "requests" => Some(Resource::Requests),
        "token" | "tokens" => Some(Resource::Tokens),
        "image" | "images" | "input-image" | "input-images" => Some(Resource::Images),
        _ => None,
    }
}

/// What is counted in which time: `images per min`, `5 request/min`, `(TPM)`.
#[derive(Default)]
struct Rate {
    resource: Option<Resource>,
    window: Option<Duration>,
    amount: Option<u64>,
}

fn rate(lower: &str) -> Rate {
    let written = [" per ", "/"].into_iter().find_map(|between| {
        lower.match_indices(between).find_map(|(at, _)| {
            let before = lower.get(..at)?;
            let word = last_word(before);
            let resource = counted(word)?;
            let window = span::unit(lower.get(at + between.len()..)?)?;
            let amount = last_word(before.strip_suffix(word)?.trim_end()).parse().ok();
            Some(Rate { resource: Some(resource), window: Some(window), amount })
        })
    });
    let abbreviated = || {
        let found = |abbreviation: &&(&str, _, _)| rests_after(lower, abbreviation.0).next().is_some();
        let (_, resource, window) = ABBREVIATIONS.iter().find(found)?.clone();
        Some(Rate { resource: Some(resource), window: Some(window), amount: None })
    };
    let named = || {
        let names = lower.contains("token limit") || lower.contains("token rate limit");
        Rate { resource: names.then_some(Resource::Tokens), ..Rate::default() }
    };
    written.or_else(abbreviated).unwrap_or_else(named)
}

fn last_word(text: &str) -> &str {
    let is_of_word = |c: char| c.is_ascii_alphanumeric() || c == '-';
    let start = text.char_indices().rev().take_while(|(_, c)| is_of_word(*c)).last().map_or(text.len(), |(at, _)| at);
    text.get(start..).unwrap_or_default()
}

/// The window in `/1min` or `/ min`, after a limit.
fn window_after(rest: &str) -> Option<Duration> {
    let unit = rest.trim_start().strip_prefix('/')?.trim_start();
    span::leading(unit).map(|leading| leading.span).or_else(|| span::unit(unit)).filter(|window| !window.is_zero())
}

fn model(text: &str, lower: &str) -> Option<String> {
    let rest = BEFORE_A_MODEL.iter().find_map(|words| rests_after(lower, words).next())?;
    let rest = text.get(text.len() - rest.len()..)?;
    let word = rest.split_whitespace().next()?.trim_end_matches(['.', ',', ':', ';']);
    // other words may stand here: `images per minute`, `your organization`
    let is_model = counted(word).is_none() && word.contains(|c: char| c == '-' || c.is_ascii_digit());
    name(word).filter(|_| is_model)
}

fn pool(text: &str, lower: &str) -> Option<String> {
    let rest = rests_after(lower, "(for limit ").next()?;
    name(text.get(text.len() - rest.len()..)?.split(')').next()?)
}

/// A name that can be shown: of letters, digits and the signs that models have.
fn name(word: &str) -> Option<String> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | ':' | '/' | '@');
    let is_name = !word.is_empty() && word.len() <= NAME_BYTES_MAX && word.chars().all(is_plain);
    is_name.then(|| word.to_owned())
}

/// An amount, and the text after it.
struct Amount<'a> {
    floor: u64,
    has_fraction: bool,
    rest: &'a str,
}

impl Amount<'_> {
    fn ceil(&self) -> u64 {
        self.floor.saturating_add(u64::from(self.has_fraction))
    }
}

/// The first amount that stands right after a word.
fn amount_after<'a>(lower: &'a str, word: &'a str) -> Option<Amount<'a>> {
    // `(for limit 4000)` is a name
    let is_name = |rest: &str| {
        let before = lower.get(..lower.len() - rest.len() - word.len());
        before.is_some_and(|before| before.ends_with("for "))
    };
    rests_after(lower, word)
        .filter(|rest| !is_name(rest))
        .find_map(|rest| amount(rest.trim_start_matches([' ', ':', '='])))
}

/// What follows each place where these words stand by themselves.
fn rests_after<'a>(lower: &'a str, words: &'a str) -> impl Iterator<Item = &'a str> {
    let is_of_word = |c: char| c.is_alphanumeric() || c == '_';
    lower.match_indices(words).filter_map(move |(at, _)| {
        let (before, rest) = (lower.get(..at)?, lower.get(at + words.len()..)?);
        let stands_alone =
            !(before.ends_with(is_of_word) || words.ends_with(is_of_word) && rest.starts_with(is_of_word));
        stands_alone.then_some(rest)
    })
}

/// `4000`, `250,000` or `60.000000`, with no letter after it.
fn amount(text: &str) -> Option<Amount<'_>> {
    let (first, mut rest) = digits(text);
    let mut whole = first.to_owned();
    while let Some((group, after)) = rest.strip_prefix(',').map(digits)
        && group.len() == 3
        && first.len() <= 3
    {
        whole.push_str(group);
        rest = after;
    }
    let mut has_fraction = false;
    if let Some((fraction, after)) = rest.strip_prefix('.').map(digits)
        && !fraction.is_empty()
    {
        has_fraction = fraction.bytes().any(|digit| digit != b'0');
        rest = after;
    }
    let is_name = rest.starts_with(|c: char| c.is_alphanumeric() || matches!(c, '-' | '_'));
    // more digits than fit are more than any limit
    let floor = whole.parse().unwrap_or(u64::MAX);
    (!whole.is_empty() && !is_name).then_some(Amount { floor, has_fraction, rest })
}

/// The digits at the start of a text, and what follows them.
fn digits(text: &str) -> (&str, &str) {
    text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()))
}

#[cfg(test)]
mod tests;
