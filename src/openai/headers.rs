//! What the headers of an answer say of upstream's limits.
//!
//! Invariant: what is missing, 0 of everything, or negative is not taken for a fact.
//!
//! Azure answers with limits of -1 and 0 remaining while calls succeed. So a limit of 0 is no limit, and 0 remaining counts only where the
//! answer says when there will be more.

use std::time::{Duration, SystemTime};

use crate::{openai::span, resource::Resource};

/// What the headers say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct RateHeaders {
    /// Where limits stand. A resource may have two: the limit of the organisation and that of the project.
    pub(super) standings: Vec<HeaderStanding>,
    /// How long to wait at least, by `retry-after-ms`, else `retry-after` in seconds or as a date.
    pub(super) retry_after: Option<Duration>,
    /// `x-should-retry`.
    pub(super) should_retry: Option<bool>,
}

/// Where one limit of upstream stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct HeaderStanding {
    pub(super) resource: Resource,
    pub(super) limit: u64,
    pub(super) remaining: u64,
    pub(super) reset_after: Option<Duration>,
}

/// What the ends of the names count: `x-ratelimit-remaining-requests`.
const COUNTED: [(&str, Resource); 5] = [
    ("requests", Resource::Requests),
    ("tokens", Resource::Tokens),
    ("project-tokens", Resource::Tokens),
    // `input-images` was seen once, on a vision model; `images` only in the code of others
    ("input-images", Resource::Images),
    ("images", Resource::Images),
];

const SECOND: Duration = Duration::from_secs(1);

/// The three headers of one limit, as far as they came.
#[derive(Clone, Copy, Debug, Default)]
struct Parts {
    limit: Option<u64>,
    remaining: Option<u64>,
    reset_after: Option<Duration>,
}

impl RateHeaders {
    /// Reads headers, whose names come in lower case, in any order.
    pub(super) fn read<'a>(headers: impl Iterator<Item = (&'a str, &'a [u8])>) -> Self {
        Self::read_at(SystemTime::now(), headers)
    }

    /// `now` counts only where the answer has a date to wait for and none of its own.
    pub(super) fn read_at<'a>(now: SystemTime, headers: impl Iterator<Item = (&'a str, &'a [u8])>) -> Self {
        let mut parts = [Parts::default(); COUNTED.len()];
        let (mut after_ms, mut after, mut date, mut should_retry) = (None, None, None, None);
        for (name, value) in headers {
            let Ok(value) = str::from_utf8(value) else { continue };
            match name {
                "retry-after-ms" => after_ms = milliseconds(value),
                "retry-after" => after = Some(value),
                "date" => date = httpdate::parse_http_date(value).ok(),
                "x-should-retry" => should_retry = value.trim().parse().ok(),
                _ => read_part(&mut parts, name, value),
            }
        }
        // its own date, so that a clock that is wrong here does not matter
        let after = after.and_then(|after| until(after, date.unwrap_or(now)));
        let standings = COUNTED.iter().zip(parts).filter_map(|((_, resource), parts)| parts.standing(resource));
        let retry_after = after_ms.or(after);
        Self { standings: standings.collect(), retry_after, should_retry }
    }
}

impl Parts {
    fn standing(self, resource: &Resource) -> Option<HeaderStanding> {
        let (limit, remaining) = (self.limit.filter(|limit| *limit > 0)?, self.remaining?);
        let says_when = self.reset_after.is_some_and(|reset_after| !reset_after.is_zero());
        let is_fact = remaining <= limit && (remaining > 0 || says_when);
        let standing = HeaderStanding { resource: resource.clone(), limit, remaining, reset_after: self.reset_after };
        is_fact.then_some(standing)
    }
}

fn read_part(parts: &mut [Parts; COUNTED.len()], name: &str, value: &str) {
    let Some((kind, counted)) = name.strip_prefix("x-ratelimit-").and_then(|name| name.split_once('-')) else { return };
    let place = COUNTED.iter().position(|(name, _)| *name == counted);
    let Some(parts) = place.and_then(|place| parts.get_mut(place)) else { return };
    match kind {
        "limit" => parts.limit = value.trim().parse().ok(),
        "remaining" => parts.remaining = value.trim().parse().ok(),
        // a bare number is seconds; one too large for that is an instant since the epoch, which is nobody's format here
        "reset" => {
            parts.reset_after =
                span::parse(value).or_else(|| span::without_unit(value, SECOND)).filter(|reset| *reset < span::MAX);
        }
        _ => {}
    }
}

/// The wait in a header `retry-after-ms`. 0 says nothing, as in OpenAI's own clients.
fn milliseconds(value: &str) -> Option<Duration> {
    span::without_unit(value, Duration::from_millis(1)).filter(|wait| !wait.is_zero())
}

/// The wait in a header `retry-after`: seconds, or a date.
fn until(value: &str, now: SystemTime) -> Option<Duration> {
    let by_date = || httpdate::parse_http_date(value.trim()).ok()?.duration_since(now).ok();
    let wait = span::without_unit(value, SECOND).or_else(by_date)?.min(span::MAX);
    (!wait.is_zero()).then_some(wait)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(headers: &[(&str, &str)]) -> RateHeaders {
        RateHeaders::read(headers.iter().map(|(name, value)| (*name, value.as_bytes())))
    }

    fn ms(ms: u64) -> Option<Duration> {
        Some(Duration::from_millis(ms))
    }

    /// The standing that the three headers of a limit give.
    fn standing(counted: &str, limit: &str, remaining: &str, reset: &str) -> Vec<HeaderStanding> {
        let name = |part: &str| format!("x-ratelimit-{part}-{counted}");
        let names = [name("limit"), name("remaining"), name("reset")];
        let headers: Vec<_> = names.iter().map(String::as_str).zip([limit, remaining, reset]).collect();
        read(&headers.into_iter().filter(|(_, value)| !value.is_empty()).collect::<Vec<_>>()).standings
    }

    #[test]
    fn every_header_of_a_limit_is_read() {
        let rows = [
            ("requests", "60", "59", "1s", Resource::Requests, ms(1_000)),
            ("tokens", "150000", "149984", "6m0s", Resource::Tokens, ms(360_000)),
            ("tokens", "250000", "4621", "58.891s", Resource::Tokens, ms(58_891)),
            ("requests", "500", "499", "120ms", Resource::Requests, ms(120)),
            ("project-tokens", "60000", "57000", "3s", Resource::Tokens, ms(3_000)),
            ("input-images", "50000", "49999", "1ms", Resource::Images, ms(1)),
            ("input-images", "4000", "0", "15ms", Resource::Images, ms(15)),
            ("images", "5", "4", "12s", Resource::Images, ms(12_000)),
            ("requests", "6", "5", "", Resource::Requests, None),
            ("requests", "6", "5", "59", Resource::Requests, ms(59_000)),
            ("requests", "6", "5", "1795694400000", Resource::Requests, None),
            ("requests", "6", "5", "soon", Resource::Requests, None),
        ];
        for (counted, limit, remaining, reset, resource, reset_after) in rows {
            let (limit_count, remaining_count) = (limit.parse().unwrap(), remaining.parse().unwrap());
            let expected = HeaderStanding { resource, limit: limit_count, remaining: remaining_count, reset_after };
            assert_eq!(standing(counted, limit, remaining, reset), [expected], "{counted} {remaining}/{limit} {reset}");
        }
    }

    #[test]
    fn what_is_missing_0_or_negative_is_no_fact() {
        let rows = [
            ["-1", "-1", ""],
            ["0", "0", ""],
            ["0", "0", "0s"],
            ["0", "0", "1s"],
            ["-1", "0", "0"],
            ["0", "5", "1s"],
            ["60", "-1", "1s"],
            ["60", "0", ""],
            ["60", "0", "0s"],
            ["60", "0", "-1"],
            ["60", "", "1s"],
            ["", "59", "1s"],
            ["", "", ""],
            ["60", "61", "1s"],
            ["60.5", "1", "1s"],
            ["many", "1", "1s"],
        ];
        for [limit, remaining, reset] in rows {
            assert_eq!(standing("requests", limit, remaining, reset), [], "{remaining}/{limit} {reset}");
        }
        assert_eq!(read(&[]), RateHeaders::default());
    }

    #[test]
    fn limits_of_the_organisation_and_the_project_stand_beside_each_other() {
        let found = read(&[
            ("x-ratelimit-remaining-project-tokens", "57000"),
            ("x-ratelimit-limit-tokens", "150000"),
            ("x-ratelimit-limit-project-tokens", "60000"),
            ("x-ratelimit-remaining-tokens", "149984"),
            ("content-type", "application/json"),
            ("x-ratelimit-policy", "x"),
        ]);
        let limits: Vec<_> = found.standings.iter().map(|standing| (&standing.resource, standing.limit)).collect();
        assert_eq!(limits, [(&Resource::Tokens, 150_000), (&Resource::Tokens, 60_000)]);
    }

    #[test]
    fn a_hint_in_milliseconds_comes_before_one_in_seconds() {
        let rows: [(&[(&str, &str)], _); 12] = [
            (&[("retry-after-ms", "534"), ("retry-after", "1")], ms(534)),
            (&[("retry-after", "1"), ("retry-after-ms", "534.2")], ms(535)),
            (&[("retry-after-ms", "0"), ("retry-after", "1")], ms(1_000)),
            (&[("retry-after-ms", "-1"), ("retry-after", "1")], ms(1_000)),
            (&[("retry-after-ms", "0")], None),
            (&[("retry-after", "37")], ms(37_000)),
            (&[("retry-after", " 0.25 ")], ms(250)),
            (&[("retry-after", "0")], None),
            (&[("retry-after", "-1")], None),
            (&[("retry-after", "soon")], None),
            (&[("retry-after", "99999999999999999999999")], Some(span::MAX)),
            (&[], None),
        ];
        for (headers, wait) in rows {
            assert_eq!(read(headers).retry_after, wait, "{headers:?}");
        }
    }

    #[test]
    fn a_date_is_waited_for_by_the_clock_of_the_answer_else_by_ours() {
        let retry_after = ("retry-after", &b"Thu, 26 Nov 2026 12:00:30 GMT"[..]);
        let read_at = |now: &str, headers: &[_]| {
            RateHeaders::read_at(httpdate::parse_http_date(now).unwrap(), headers.iter().copied()).retry_after
        };
        assert_eq!(read_at("Thu, 26 Nov 2026 12:00:00 GMT", &[retry_after]), ms(30_000));
        assert_eq!(read_at("Thu, 26 Nov 2026 12:01:00 GMT", &[retry_after]), None);
        let date = ("date", &b"Thu, 26 Nov 2026 12:00:20 GMT"[..]);
        assert_eq!(read_at("Thu, 26 Nov 2026 12:01:00 GMT", &[retry_after, date]), ms(10_000));
    }

    #[test]
    fn whether_to_retry_is_read_only_where_it_is_said() {
        let rows = [("true", Some(true)), ("false", Some(false)), ("", None), ("yes", None)];
        for (value, expected) in rows {
            assert_eq!(read(&[("x-should-retry", value)]).should_retry, expected, "{value}");
        }
    }

    proptest! {
        #[test]
        fn no_value_is_too_strange(
            kind in prop_oneof!["retry-after", "retry-after-ms", "x-ratelimit-(limit|remaining|reset)-(requests|images)", "date"],
            value in any::<Vec<u8>>(), number in "-?[0-9.]{0,30}",
        ) {
            let headers = [(kind.as_str(), value.as_slice()), (kind.as_str(), number.as_bytes())];
            let found = RateHeaders::read(headers.into_iter());
            prop_assert!(found.retry_after.is_none_or(|wait| wait <= span::MAX && !wait.is_zero()));
        }
    }
}
