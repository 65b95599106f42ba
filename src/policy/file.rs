//! Reads a policy file, and says where it is wrong.
//!
//! Invariant: every refusal starts with the line it is about, unless it is about the file as a whole.

use std::{borrow::Cow, ops::Range};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use crate::{
    error::Error,
    policy::{
        Policy,
        validate::{self, Fault, Place},
    },
};

pub(super) fn read(text: &str) -> Result<Policy, Error> {
    let policy: Policy = toml::from_str(text).map_err(|error| misspelled(text, &error))?;
    validate::check(&policy).map_err(|fault| misplaced(text, &fault))?;
    Ok(policy)
}

/// What the parser calls things, and what a reader of TOML calls them.
const WORDS: &[(&str, &str)] = &[
    ("unknown field", "unknown key"),
    ("missing field", "missing key"),
    ("a sequence", "a list"),
    (": map,", ": table,"),
    ("expected f64", "expected a number of at least 0 and below 1"),
];

/// A file that is no TOML, or has a key or a type that it does not have.
pub(crate) fn misspelled(text: &str, error: &toml::de::Error) -> Error {
    let message = WORDS.iter().fold(error.message().to_owned(), |text, (theirs, ours)| text.replace(theirs, ours));
    let Some(span) = error.span() else { return Error::invalid(message) };
    let (line, source) = line_at(text, span.start);
    let owner = DeTable::parse(text).ok().and_then(|file| owner_of(file.get_ref(), &span)).unwrap_or_default();
    Error::invalid(format!("line {line}: {owner}`{source}`: {}", message.trim()))
}

/// A policy that is spelled right and wrong all the same.
fn misplaced(text: &str, fault: &Fault) -> Error {
    let file = DeTable::parse(text).ok();
    let at = file.as_ref().and_then(|file| match &fault.place {
        Place::Whole => None,
        Place::Policy(key) => position(file.get_ref(), key),
        Place::Limit(index, key) => within(entries(file.get_ref(), "limit").nth(*index)?, key),
        Place::Weight(index, key) => within(entries(file.get_ref(), "weight").nth(*index)?, key),
        Place::Priority(name, key) => {
            let (found, class) = classes(file.get_ref()).find(|(found, _)| found.get_ref() == name)?;
            class.get_ref().as_table().and_then(|keys| position(keys, key)).or(Some(found.span().start))
        }
    });
    match at {
        Some(at) => Error::invalid(format!("line {}: {}", line_at(text, at).0, fault.message)),
        None => Error::invalid(fault.message.as_str()),
    }
}

/// `limit "user": scope: ` for a span inside that limit's scope, and so for weights and priority classes.
fn owner_of(file: &DeTable<'_>, span: &Range<usize>) -> Option<String> {
    for limit in entries(file, "limit") {
        let keys = limit.get_ref().as_table()?;
        let Some(key) = key_around(keys, span) else { continue };
        let name = keys.iter().find(|(key, _)| key.get_ref() == "name").and_then(|(_, name)| name.get_ref().as_str());
        return Some(format!("limit {:?}: {key}: ", name.unwrap_or("without a name")));
    }
    for (number, weight) in (1..).zip(entries(file, "weight")) {
        match weight.get_ref().as_table().and_then(|keys| key_around(keys, span)) {
            Some(key) => return Some(format!("weight {number}: {key}: ")),
            None if overlap(&weight.span(), span) => return Some(format!("weight {number}: ")),
            None => {}
        }
    }
    for (name, class) in classes(file) {
        match class.get_ref().as_table().and_then(|keys| key_around(keys, span)) {
            Some(key) => return Some(format!("priority {:?}: {key}: ", name.get_ref())),
            None if overlap(&name.span(), span) || overlap(&class.span(), span) => {
                return Some(format!("priority {:?}: ", name.get_ref()));
            }
            None => {}
        }
    }
    key_around(file, span).map(|key| format!("{key}: "))
}

fn overlap(one: &Range<usize>, other: &Range<usize>) -> bool {
    one.start < other.end && other.start < one.end
}

/// The key whose name or value holds the span.
fn key_around<'t>(table: &'t DeTable<'_>, span: &Range<usize>) -> Option<&'t str> {
    let holds = |outer: Range<usize>| outer.start <= span.start && span.end <= outer.end;
    let held = table.iter().find(|(key, value)| {
        let inside = value.get_ref().as_table().is_some_and(|table| key_around(table, span).is_some());
        holds(key.span()) || holds(value.span()) || inside
    });
    held.map(|(key, _)| key.get_ref().as_ref())
}

/// The entries of the list of this name.
fn entries<'t, 'i>(file: &'t DeTable<'i>, list: &str) -> impl Iterator<Item = &'t Spanned<DeValue<'i>>> {
    let list = file.iter().find(|(key, _)| key.get_ref() == list).and_then(|(_, list)| list.get_ref().as_array());
    list.into_iter().flat_map(|list| list.iter())
}

/// The priority classes by name.
fn classes<'t, 'i>(
    file: &'t DeTable<'i>,
) -> impl Iterator<Item = (&'t Spanned<Cow<'i, str>>, &'t Spanned<DeValue<'i>>)> {
    let table =
        file.iter().find(|(key, _)| key.get_ref() == "priority").and_then(|(_, table)| table.get_ref().as_table());
    table.into_iter().flat_map(|table| table.iter())
}

/// Where an entry has this key, or else where it starts.
fn within(entry: &Spanned<DeValue<'_>>, key: &str) -> Option<usize> {
    entry.get_ref().as_table().and_then(|keys| position(keys, key)).or(Some(entry.span().start))
}

fn position(table: &DeTable<'_>, key: &str) -> Option<usize> {
    table.iter().find(|(name, _)| name.get_ref() == key).map(|(name, _)| name.span().start)
}

/// The number of the line that holds this byte, from 1, and its text.
fn line_at(text: &str, byte: usize) -> (usize, String) {
    let number = text.bytes().take(byte).filter(|byte| *byte == b'\n').count();
    let line = text.lines().nth(number).unwrap_or_default();
    (number + 1, line.trim().chars().take(80).collect())
}
