//! A question of any kind, and whether it can be asked at all, worked out without the library.

use std::collections::BTreeMap;

use allotment::{Cost, Resource, Subject};
use rand::{Rng, rngs::StdRng, seq::IndexedRandom};

/// Around every bound there is: of an amount, a record, an entry, a total, a double.
pub(super) const AMOUNTS: [u64; 12] = [
    0,
    1,
    (1 << 32) - 1,
    1 << 32,
    (1 << 47) - 1,
    1 << 47,
    (1 << 47) + 1,
    1 << 48,
    1 << 53,
    (1 << 53) + 1,
    1 << 63,
    u64::MAX,
];
/// What would end an id, a key, a line or a text early, if it were let.
pub(super) const PIECES: [&str; 24] = [
    "{",
    "}",
    ":",
    "%",
    "%7b",
    "{}",
    "u",
    "u:alice",
    "a.tier",
    "\r\n",
    "\0",
    "\x7f",
    "\n*1\r\n$4\r\nPING\r\n",
    " ",
    "\"",
    "'",
    "\\",
    "ü",
    "🦀",
    "\u{202e}",
    "é",
    "e\u{301}",
    "nan",
    "-1",
];
const RESOURCES: [&str; 8] = ["requests", "tokens", "images", "spend", "in_flight", "", "sp:end", "näme"];

/// One question.
#[derive(Clone, Debug)]
pub(super) struct Question {
    pub(super) org: String,
    pub(super) user: String,
    pub(super) model: Option<String>,
    pub(super) attribute: Option<(String, String)>,
    pub(super) amounts: Vec<(String, u64)>,
    pub(super) actual: Vec<(String, u64)>,
}

impl Question {
    pub(super) fn random(random: &mut StdRng) -> Self {
        Self {
            org: id(random),
            user: id(random),
            model: random.random_bool(0.3).then(|| id(random)),
            attribute: random
                .random_bool(0.2)
                .then(|| (if random.random_bool(0.7) { "tier".into() } else { id(random) }, id(random))),
            amounts: amounts(random),
            actual: amounts(random),
        }
    }

    /// With this, it can be asked.
    pub(super) fn tame(mut self, random: &mut StdRng) -> Self {
        while !fits(&self.org) {
            self.org = id(random);
        }
        while !fits(&self.user) {
            self.user = id(random);
        }
        self.model = self.model.filter(|model| fits(model));
        self.attribute = None;
        self.amounts =
            vec![("requests".into(), random.random_range(1..5)), ("spend".into(), random.random_range(1..5))];
        self
    }

    pub(super) fn is_possible(&self) -> bool {
        let model = self.model.as_deref().is_none_or(fits);
        let attribute = self.attribute.as_ref().is_none_or(|(name, value)| is_name(name) && fits(value));
        fits(&self.org) && fits(&self.user) && model && attribute && possible(&self.amounts)
    }

    pub(super) fn subject(&self) -> Subject {
        let subject = Subject::org(self.org.as_str()).user(self.user.as_str());
        let subject = self.model.iter().fold(subject, |subject, model| subject.model(model.as_str()));
        self.attribute.iter().fold(subject, |subject, (name, value)| subject.attribute(name.as_str(), value.as_str()))
    }
}

fn fits(id: &str) -> bool {
    (1..=256).contains(&id.len())
}

fn is_name(name: &str) -> bool {
    let spelled = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    let begins = name.bytes().next().is_some_and(|byte| byte.is_ascii_lowercase());
    begins && name.len() <= 32 && name.bytes().all(spelled) && !["org", "user", "model"].contains(&name)
}

pub(super) fn possible(amounts: &[(String, u64)]) -> bool {
    let last: BTreeMap<_, _> = amounts.iter().map(|(name, amount)| (name.as_str(), *amount)).collect();
    !last.contains_key("in_flight") && last.values().all(|amount| *amount <= 1 << 47)
}

fn id(random: &mut StdRng) -> String {
    match random.random_range(0..100) {
        0 => String::new(),
        1 => "x".repeat(10_000),
        2 => "{".repeat(random.random_range(255..=257)),
        3..10 => (0..random.random_range(1..80)).map(|_| random.random::<char>()).collect(),
        10..20 => random.random_range(0..30_u32).to_string(),
        _ => (0..random.random_range(1..6)).filter_map(|_| PIECES.choose(random)).copied().collect(),
    }
}

fn amounts(random: &mut StdRng) -> Vec<(String, u64)> {
    let one = |random: &mut StdRng| {
        let name = RESOURCES.choose(random).copied().unwrap_or_default();
        let amount = match random.random_range(0..10) {
            0..6 => random.random_range(0..100),
            6..9 => AMOUNTS.choose(random).copied().unwrap_or_default(),
            _ => random.random::<u64>() >> random.random_range(0..64),
        };
        (name.to_owned(), amount)
    };
    (0..random.random_range(0..4)).map(|_| one(random)).collect()
}

pub(super) fn cost(amounts: &[(String, u64)]) -> Cost {
    amounts.iter().fold(Cost::new(), |cost, (name, amount)| cost.amount(Resource::from(name.as_str()), *amount))
}
