//! How the values of a limit are written: `500_000`, `"60s"`, `["org", "user"]`, `"free"` or `["free", "trial"]`.
//!
//! Invariant: what is written reads back as the same value. A value of the wrong type is refused with what is allowed instead;
//! whether a value is in range is checked later, with the whole policy.

use std::{collections::BTreeSet, fmt, time::Duration};

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{Error, SeqAccess, Unexpected, Visitor},
};

use crate::cost::Cost;

/// An integer that a refusal says is to be `MIN` to `MAX`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Integer<const MIN: u64, const MAX: u64>(pub(crate) u64);

impl<const MIN: u64, const MAX: u64> Serialize for Integer<MIN, MAX> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // TOML has no larger integer, and anything above 2^47 is refused by validation all the same.
        serializer.serialize_u64(self.0.min(i64::MAX as u64))
    }
}

impl<'de, const MIN: u64, const MAX: u64> Deserialize<'de> for Integer<MIN, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Whole<const MIN: u64, const MAX: u64>;

        impl<const MIN: u64, const MAX: u64> Visitor<'_> for Whole<MIN, MAX> {
            type Value = u64;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let power = if MAX == Cost::AMOUNT_MAX { " (2^47)" } else { "" };
                write!(f, "an integer of {MIN} to {MAX}{power}")
            }

            fn visit_u64<E: Error>(self, integer: u64) -> Result<u64, E> {
                Ok(integer)
            }

            fn visit_i64<E: Error>(self, integer: i64) -> Result<u64, E> {
                u64::try_from(integer).map_err(|_| E::invalid_value(Unexpected::Signed(integer), &self))
            }
        }

        deserializer.deserialize_u64(Whole::<MIN, MAX>).map(Self)
    }
}

/// A span of time, written `"60s"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Period(pub(crate) Duration);

impl Period {
    /// Its length; the rest of a millisecond, which validation refuses, is dropped.
    pub(crate) fn millis(self) -> u64 {
        u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX)
    }
}

impl Default for Period {
    fn default() -> Self {
        Self(Duration::from_secs(60))
    }
}

impl fmt::Display for Period {
    /// In the largest unit of which it is a multiple, as people write windows: `60s`, `7m`, `24h`, `31d`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs();
        if self.0.subsec_nanos() != 0 || seconds == 0 {
            return humantime::format_duration(self.0).fmt(f);
        }
        let units = [(24 * 60 * 60, "d"), (60 * 60, "h"), (60, "m")];
        let (length, unit) = units
            .into_iter()
            .find(|(length, _)| seconds > *length && seconds.is_multiple_of(*length))
            .unwrap_or((1, "s"));
        write!(f, "{}{unit}", seconds / length)
    }
}

impl Serialize for Period {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Period {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;

        impl Visitor<'_> for Text {
            type Value = Period;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a duration with its unit, such as \"60s\", \"7m\" or \"24h\"")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Period, E> {
                humantime::parse_duration(text).map(Period).map_err(|_| E::invalid_value(Unexpected::Str(text), &self))
            }
        }

        deserializer.deserialize_str(Text)
    }
}

/// The attributes a limit counts by: the org, then the others as they were named.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Vec<String>", into = "Vec<String>")]
pub(crate) struct Scope(pub(crate) Vec<String>);

impl Default for Scope {
    fn default() -> Self {
        Vec::new().into()
    }
}

impl From<Vec<String>> for Scope {
    fn from(mut attributes: Vec<String>) -> Self {
        // Only the first one: a second `org` is a duplicate, which validation reports.
        if let Some(org) = attributes.iter().position(|attribute| attribute == "org") {
            attributes.remove(org);
        }
        attributes.insert(0, "org".to_owned());
        Self(attributes)
    }
}

impl From<Scope> for Vec<String> {
    fn from(scope: Scope) -> Self {
        scope.0
    }
}

/// The values a `when` filter accepts for one attribute: one text, or a list of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Choices(pub(crate) BTreeSet<String>);

impl Serialize for Choices {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match (self.0.len(), self.0.first()) {
            (1, Some(only)) => serializer.serialize_str(only),
            _ => self.0.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Choices {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OneOrMore;

        impl<'de> Visitor<'de> for OneOrMore {
            type Value = Choices;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text or a list of texts")
            }

            fn visit_str<E: Error>(self, value: &str) -> Result<Choices, E> {
                Ok(Choices(BTreeSet::from([value.to_owned()])))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Choices, A::Error> {
                let mut values = BTreeSet::new();
                while let Some(value) = list.next_element()? {
                    values.insert(value);
                }
                Ok(Choices(values))
            }
        }

        deserializer.deserialize_any(OneOrMore)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_period_is_written_in_the_largest_unit_of_which_it_is_a_multiple() {
        let shown = |ms| Period(Duration::from_millis(ms)).to_string();
        assert_eq!(shown(60_000), "60s");
        assert_eq!(shown(90_000), "90s");
        assert_eq!(shown(86_400_000), "24h");
        assert_eq!(shown(420_000), "7m");
        assert_eq!(shown(86_400_000 * 31), "31d");
        assert_eq!(shown(1_500), "1s 500ms");
        assert_eq!(shown(0), "0s");
    }
}
