//! What an account misses, in values and in words.

use std::fmt;

use serde::Serialize;

/// Whether an account may use a model, and what it needs for more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct AccessReport {
    /// The model that was asked for.
    pub model: String,
    /// The tier that the account is in; `None` if it is not one of the rules.
    pub tier: Option<String>,
    /// All that keeps it from using the model. Empty: it may.
    pub missing: Vec<Missing>,
    /// The next tier and what it needs; `None` at the top.
    pub next_tier: Option<Progress>,
}

/// What one tier needs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Progress {
    /// Its name.
    pub tier: String,
    /// All that the account misses for it.
    pub missing: Vec<Missing>,
}

/// One thing that an account misses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Missing {
    /// It calls from elsewhere.
    Region {
        /// From where it may.
        allowed: Vec<String>,
        /// From where it does, if that is known.
        yours: Option<String>,
    },
    /// Upstream's pages show another tier, though the account has all that this one needs.
    Tier {
        /// The tier that is needed.
        needs: String,
        /// The one that was stated.
        has: String,
    },
    /// More must be paid.
    Spend {
        /// Over the account's life, in cents.
        needs_cents: u64,
        /// Paid so far.
        has_cents: u64,
    },
    /// It is too young.
    Age {
        /// In days.
        needs_days: u64,
        /// Since it was opened.
        has_days: u64,
    },
    /// A contract with upstream.
    Contract,
    /// The organisation is not verified.
    Verification,
}

impl AccessReport {
    /// Whether nothing is missing.
    #[must_use]
    pub fn is_allowed(&self) -> bool {
        self.missing.is_empty()
    }
}

impl fmt::Display for AccessReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.tier {
            _ if !self.is_allowed() => write!(f, "{} needs {}", self.model, joined(&self.missing))?,
            Some(tier) => write!(f, "{}: allowed in tier {tier}", self.model)?,
            None => write!(f, "{}: allowed", self.model)?,
        }
        let is_said = |next: &Progress| next.missing.iter().all(|missing| self.missing.contains(missing));
        match &self.next_tier {
            Some(next) if !is_said(next) => write!(f, "; {next}"),
            _ => Ok(()),
        }
    }
}

impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "tier {} needs {}", self.tier, joined(&self.missing))
    }
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Region { allowed, yours } => {
                let yours = yours.as_deref().unwrap_or("not known");
                write!(f, "a call from {} (yours is {yours})", allowed.join(", "))
            }
            Self::Tier { needs, has } => write!(f, "upstream to show tier {needs} (yours is {has:?})"),
            Self::Spend { needs_cents, has_cents } => {
                write!(f, "{} spent (you have {})", Dollars(*needs_cents), Dollars(*has_cents))
            }
            Self::Age { needs_days, has_days } => write!(f, "an account {needs_days} days old (yours is {has_days})"),
            Self::Contract => f.write_str("a contract"),
            Self::Verification => f.write_str("a verified organisation (yours is not)"),
        }
    }
}

/// An amount of cents: `$50`, `$12.34`.
struct Dollars(u64);

impl fmt::Display for Dollars {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.0 / 100, self.0 % 100) {
            (dollars, 0) => write!(f, "${dollars}"),
            (dollars, cents) => write!(f, "${dollars}.{cents:02}"),
        }
    }
}

/// `a`, `a and b`, `a, b and c`.
fn joined(missing: &[Missing]) -> String {
    let words: Vec<_> = missing.iter().map(Missing::to_string).collect();
    match words.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, before)) => format!("{} and {last}", before.join(", ")),
        None => "nothing more".to_owned(),
    }
}
