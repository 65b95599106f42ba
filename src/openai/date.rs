//! A day of the calendar, in UTC.
//!
//! Lacks times of day and time zones on purpose: shut-downs and the age of accounts are counted in days.

use std::{
    fmt,
    str::FromStr,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};

use crate::error::Error;

const DAY: Duration = Duration::from_secs(86_400);

/// A day, written `2026-11-26`.
///
/// ```
/// use allotment::openai::Date;
///
/// let opened: Date = "2026-11-23".parse()?;
/// assert_eq!("2026-11-26".parse::<Date>()?.days_since(opened), 3);
/// # Ok::<(), allotment::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Date {
    days: u64,
}

impl Date {
    /// The day of this instant; 1970-01-01 for what is earlier.
    #[must_use]
    pub fn of(instant: SystemTime) -> Self {
        let since = instant.duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { days: since.as_secs() / DAY.as_secs() }
    }

    /// How many days it is after `earlier`; 0 if it is not.
    #[must_use]
    pub fn days_since(self, earlier: Self) -> u64 {
        self.days.saturating_sub(earlier.days)
    }
}

impl fmt::Display for Date {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let start = UNIX_EPOCH + Duration::from_secs(self.days * DAY.as_secs());
        let text = humantime::format_rfc3339_seconds(start).to_string();
        f.write_str(text.split('T').next().unwrap_or_default())
    }
}

impl FromStr for Date {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        humantime::parse_rfc3339(&format!("{text}T00:00:00Z"))
            .map(Self::of)
            .map_err(|_| Error::invalid(format!("date {text:?}: year, month and day, such as 2026-11-26")))
    }
}

impl TryFrom<String> for Date {
    type Error = Error;

    fn try_from(text: String) -> Result<Self, Error> {
        text.parse()
    }
}

impl From<Date> for String {
    fn from(date: Date) -> Self {
        date.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_reads_back_as_it_was_written() {
        for text in ["1970-01-01", "2024-02-29", "2026-12-01", "2100-03-01"] {
            assert_eq!(text.parse::<Date>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_is_no_date_is_refused() {
        for text in ["", "2026-02-30", "2026-13-01", "2026-1-1", "2026-11-26T10:00:00Z", "26-11-2026", "1969-12-31"] {
            assert!(text.parse::<Date>().is_err(), "{text}");
        }
    }
}
