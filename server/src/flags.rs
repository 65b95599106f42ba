//! What flags take: each parser refuses with what is allowed.

use std::ops::RangeInclusive;

/// A whole number within `range`.
pub(crate) fn whole(
    range: RangeInclusive<u64>,
) -> impl Fn(&str) -> Result<u64, String> + Clone + Send + Sync + 'static {
    move |text| {
        let allowed = || format!("a whole number from {} to {} is allowed", range.start(), range.end());
        text.parse().ok().filter(|number| range.contains(number)).ok_or_else(allowed)
    }
}

/// A number within `range`; NaN is in none.
pub(crate) fn number(
    range: RangeInclusive<f64>,
) -> impl Fn(&str) -> Result<f64, String> + Clone + Send + Sync + 'static {
    move |text| {
        let allowed = || format!("a number from {} to {} is allowed", range.start(), range.end());
        text.parse().ok().filter(|number| range.contains(number)).ok_or_else(allowed)
    }
}

/// An address with its scheme, of a Redis.
pub(crate) fn url(text: &str) -> Result<String, String> {
    if text.contains("://") {
        Ok(text.to_owned())
    } else {
        Err("a URL such as redis://localhost:6379 is allowed".to_owned())
    }
}
