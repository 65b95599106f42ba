//! How keys are spelled. Nothing else spells them.
//!
//! Invariant: the spelling is injective, and all keys of an org share its hash tag, so one script may touch them all. The `1` is the
//! version of the format; `lua/README.md` says what is stored under each key.
//!
//! ```text
//! allot:1:{<org>}:h                              the head of the org
//! allot:1:{<org>}:<window ms>[:c:<resource>]{:<attribute>:<id>}   a ledger; attributes are u (user), m (model), a.<name>
//! allot:1:{<org>}:f<part><place>:<ledger>        a pool shared fairly: its state, its users (u), the heavy among them (h); place 0 to 2
//! allot:1:{<org>}:o<place>:<ledger>              what others use of a pool that an upstream counts; place 0 to 2
//! allot:1:{<org>}:i{:<attribute>:<id>}           slots for calls under way of a scope
//! allot:1:{<org>}:c                              what operators have decided
//! allot:1:{<org>}:a                              who decided what, when
//! allot:1:{<org>}:r:<second>                     records of reservations that no ledger carries, by the second of their id
//! allot:1:{<org>}:u                              subjects that were admitted lately
//! allot:1:{<org>}:p                              processes that share the limits while Redis is away
//! allot:1:{<org>}:x:<hash>                       images that were drawn for a request of the org
//! allot:1:x:{<hash>}                             likewise, where all orgs share them
//! allot:1:orgs                                   orgs that were
//! ```

use std::{fmt::Write, sync::Arc};

use crate::subject::Subject;

#[cfg(any(feature = "redis", test))]
use crate::store::ReservationId;

/// Names a ledger within its org.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct LedgerKey(Arc<str>);

impl LedgerKey {
    /// The ledger of a window at a scope; `scope` holds attributes and their values, the org left out.
    pub(crate) fn new<'a>(
        window_ms: u64,
        custom: Option<&str>,
        scope: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Self {
        let mut key = String::with_capacity(40);
        let _infallible = write!(key, "{window_ms}");
        if let Some(resource) = custom {
            key.push_str(":c:");
            escape(resource, &mut key);
        }
        spell(scope, &mut key);
        Self(key.into())
    }
}

/// Names the slots of a scope within its org.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct SlotsKey(Arc<str>);

impl SlotsKey {
    /// `scope` holds attributes and their values, the org left out.
    pub(crate) fn new<'a>(scope: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let mut key = String::from("i");
        spell(scope, &mut key);
        Self(key.into())
    }
}

/// Names a subject within its org: on the list of those that operators see. It has the attributes that limits go by, and no others.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct SubjectKey(Box<str>);

impl SubjectKey {
    /// `attributes` are names and values, the org left out.
    pub(crate) fn new<'a>(attributes: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let mut key = String::with_capacity(24);
        spell(attributes, &mut key);
        Self(key.get(1..).unwrap_or_default().into())
    }

    #[cfg(feature = "redis")]
    pub(crate) fn stored(&self) -> &str {
        &self.0
    }

    /// What was stored, if it names a subject.
    #[cfg(feature = "redis")]
    pub(crate) fn restore(stored: String) -> Option<Self> {
        let key = Self(stored.into());
        key.subject("org").map(|_| key)
    }

    /// The subject of this org; `None` if it names none.
    pub(crate) fn subject(&self, org: &str) -> Option<Subject> {
        let mut subject = Subject::org(org);
        let mut parts = self.0.split(':').filter(|part| !part.is_empty());
        while let Some(attribute) = parts.next() {
            let id = unescape(parts.next()?)?;
            subject = match (attribute, attribute.strip_prefix("a.")) {
                ("u", _) => subject.user(id),
                ("m", _) => subject.model(id),
                (_, Some(name)) => subject.attribute(name, id),
                _ => return None,
            };
        }
        subject.validate().ok().map(|()| subject)
    }
}

fn spell<'a>(scope: impl IntoIterator<Item = (&'a str, &'a str)>, key: &mut String) {
    for (attribute, id) in scope {
        match attribute {
            "user" => key.push_str(":u:"),
            "model" => key.push_str(":m:"),
            name => key.extend([":a.", name, ":"]),
        }
        escape(id, key);
    }
}

/// Spells the keys of one org.
#[derive(Clone, Debug)]
#[cfg(any(feature = "redis", test))]
pub(crate) struct OrgKeys {
    prefix: String,
}

#[cfg(any(feature = "redis", test))]
impl OrgKeys {
    pub(crate) fn new(org: &str) -> Self {
        let mut prefix = String::from("allot:1:{");
        escape(org, &mut prefix);
        prefix.push_str("}:");
        Self { prefix }
    }

    pub(crate) fn head(&self) -> String {
        format!("{}h", self.prefix)
    }

    pub(crate) fn ledger(&self, key: &LedgerKey) -> String {
        format!("{}{}", self.prefix, key.0)
    }

    /// Where a pool that is shared fairly lives, one resource of one ledger: its state, its users, and those of them that are heavy.
    pub(crate) fn pool(&self, key: &LedgerKey, place: usize) -> [String; 3] {
        ["f", "fu", "fh"].map(|part| format!("{}{part}{place}:{}", self.prefix, key.0))
    }

    /// Where it lives what others use of a pool, one resource of one ledger.
    pub(crate) fn others(&self, key: &LedgerKey, place: usize) -> String {
        format!("{}o{place}:{}", self.prefix, key.0)
    }

    pub(crate) fn controls(&self) -> String {
        format!("{}c", self.prefix)
    }

    pub(crate) fn audit(&self) -> String {
        format!("{}a", self.prefix)
    }

    pub(crate) fn slots(&self, key: &SlotsKey) -> String {
        format!("{}{}", self.prefix, key.0)
    }

    pub(crate) fn subjects(&self) -> String {
        format!("{}u", self.prefix)
    }

    pub(crate) fn members(&self) -> String {
        format!("{}p", self.prefix)
    }

    /// Where the record of `id` lives when no ledger carries it. An id begins with its client's time in milliseconds.
    pub(crate) fn records(&self, id: &ReservationId) -> String {
        let ms = id.0[..6].iter().fold(0, |ms, byte| ms << 8 | u64::from(*byte));
        self.records_of_second(ms / 1000)
    }

    pub(crate) fn records_of_second(&self, second: u64) -> String {
        format!("{}r:{second:x}", self.prefix)
    }
}

/// Where the list of orgs lives: in no org's slot.
#[cfg(feature = "redis")]
pub(crate) const ORGS: &str = "allot:1:orgs";

/// Where what was drawn for a request is kept, for one org or for all, by the hash of the request.
#[cfg(all(feature = "redis", feature = "openai"))]
pub(crate) fn cached_image(org: Option<&str>, hash: &[u8]) -> String {
    let mut hex = String::with_capacity(2 * hash.len());
    for byte in hash {
        let _infallible = write!(hex, "{byte:02x}");
    }
    match org {
        Some(org) => format!("{}x:{hex}", OrgKeys::new(org).prefix),
        None => format!("allot:1:x:{{{hex}}}"),
    }
}

/// Escapes what would end an id early: `{`, `}`, `:`, `%` and control bytes.
fn escape(id: &str, key: &mut String) {
    for c in id.chars() {
        match c {
            '{' | '}' | ':' | '%' | '\0'..='\x1f' | '\x7f' => {
                let _infallible = write!(key, "%{:02x}", u32::from(c));
            }
            c => key.push(c),
        }
    }
}

/// What [`escape`] made of an id; `None` if it made no such text.
fn unescape(spelled: &str) -> Option<String> {
    let mut parts = spelled.split('%');
    let mut id = parts.next()?.to_owned();
    for part in parts {
        let (code, rest) = part.split_at_checked(2)?;
        id.push(char::from(u8::from_str_radix(code, 16).ok().filter(u8::is_ascii)?));
        id.push_str(rest);
    }
    Some(id)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn spelled(id: &str) -> String {
        OrgKeys::new(id).head()
    }

    proptest! {
        #[test]
        fn no_two_orgs_share_a_key(a in "[a-c{}:%\\x00-\\x1f]{1,6}", b in "[a-c{}:%\\x00-\\x1f]{1,6}") {
            prop_assert_eq!(spelled(&a) == spelled(&b), a == b);
        }

        #[test]
        fn a_subject_is_read_as_it_was_written(user in "\\PC{1,9}|[{}:%\\x00-\\x1fa.]{1,9}", model in "[a.:%]{1,4}", tier in "[ab:%]{1,4}") {
            let key = SubjectKey::new([("user", &*user), ("model", &*model), ("tier", &*tier)]);
            let subject = Subject::org("acme").user(user).model(model).attribute("tier", tier);
            prop_assert_eq!(key.subject("acme"), Some(subject));
        }

        #[test]
        fn no_two_subjects_share_a_ledger(a in "[ab:%]{1,4}", b in "[ab:%]{1,4}", c in "[ab:%]{1,4}", d in "[ab:%]{1,4}") {
            let first = LedgerKey::new(1000, None, [("user", &*a), ("model", &*b)]);
            let second = LedgerKey::new(1000, None, [("user", &*c), ("model", &*d)]);
            prop_assert_eq!(first == second, a == c && b == d);
        }
    }

    #[test]
    fn an_attribute_is_never_taken_for_a_user_or_a_model() {
        let keys = [("user", "x"), ("model", "x"), ("u", "x"), ("m", "x"), ("c", "x")]
            .map(|attribute| LedgerKey::new(1000, None, [attribute]));
        let custom = LedgerKey::new(1000, Some("x"), []);
        let distinct: std::collections::BTreeSet<_> = keys.iter().chain([&custom]).collect();
        assert_eq!(distinct.len(), 6);
    }

    #[test]
    fn the_hash_tag_of_an_org_is_its_own_and_not_empty() {
        for org in ["a", "a}b", "{}", "}{", "%7d"] {
            let key = spelled(org);
            let open = key.find('{').unwrap();
            let tag = &key[open + 1..key.find('}').unwrap()];
            assert!(!tag.is_empty() && key.ends_with("}:h") && key.matches('}').count() == 1, "{key}");
        }
    }
}
