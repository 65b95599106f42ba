//! Spans of time as upstreams write them: `6m0s`, `58.891s`, `120ms`, `51.84 seconds`, `7 minutes`, `2 days`.
//!
//! Invariant: a span is never shorter than it was written (parts of a millisecond round up), and never longer than [`MAX`].
//!
//! Lacks negative spans, numbers like `1e3`, and dates.

use std::time::Duration;

/// Longer spans are cut to this: a year.
pub(super) const MAX: Duration = Duration::from_secs(365 * 86_400);

const NANOS_PER_MS: u128 = 1_000_000;
const NANOS_PER_S: u128 = 1_000 * NANOS_PER_MS;
/// Digits after the point that count one by one. Those after them can only round up.
const FRACTION_DIGITS: usize = 9;

/// A span at the start of a text, and how many bytes it took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Leading {
    pub(super) span: Duration,
    pub(super) bytes: usize,
}

/// The span that a text is, with nothing around it.
pub(super) fn parse(text: &str) -> Option<Duration> {
    let text = text.trim();
    leading(text).filter(|leading| leading.bytes == text.len()).map(|leading| leading.span)
}

/// A number that has no unit, because everybody knows it: `1`, `0.25`.
pub(super) fn without_unit(text: &str, unit: Duration) -> Option<Duration> {
    let text = text.trim();
    number(text).filter(|number| number.bytes == text.len()).map(|number| bounded(number.times(unit.as_nanos())))
}

/// The span at the start of a text: one or more numbers, each with its unit.
pub(super) fn leading(text: &str) -> Option<Leading> {
    let (mut nanos, mut bytes) = (0_u128, 0);
    while let Some(rest) = text.get(bytes..) {
        let term = rest.trim_start_matches([' ', ',']);
        let term = term.strip_prefix("and ").filter(|_| bytes > 0).unwrap_or(term);
        let Some(number) = number(term) else { break };
        let after = term.get(number.bytes..).unwrap_or_default();
        let word = after.trim_start_matches(' ');
        let Some(unit) = leading_unit(word) else { break };
        nanos = nanos.saturating_add(number.times(unit.nanos));
        bytes = text.len() - word.len() + unit.bytes;
    }
    (bytes > 0).then(|| Leading { span: bounded(nanos), bytes })
}

/// The length of the unit that a text begins with: `min`, `minutes`, `d`.
pub(super) fn unit(text: &str) -> Option<Duration> {
    leading_unit(text).map(|unit| bounded(unit.nanos))
}

struct Unit {
    nanos: u128,
    bytes: usize,
}

fn leading_unit(text: &str) -> Option<Unit> {
    let bytes = text.find(|c: char| !c.is_alphabetic()).unwrap_or(text.len());
    let nanos = match text.get(..bytes)?.to_lowercase().as_str() {
        "ns" | "nanosecond" | "nanoseconds" => 1,
        // the micro sign and the Greek letter
        "us" | "µs" | "μs" | "microsecond" | "microseconds" => 1_000,
        "ms" | "msec" | "msecs" | "millisecond" | "milliseconds" => NANOS_PER_MS,
        "s" | "sec" | "secs" | "second" | "seconds" => NANOS_PER_S,
        "m" | "min" | "mins" | "minute" | "minutes" => 60 * NANOS_PER_S,
        "h" | "hr" | "hrs" | "hour" | "hours" => 3_600 * NANOS_PER_S,
        "d" | "day" | "days" => 86_400 * NANOS_PER_S,
        "w" | "week" | "weeks" => 7 * 86_400 * NANOS_PER_S,
        _ => return None,
    };
    Some(Unit { nanos, bytes })
}

/// Digits, and maybe a point and more digits.
struct Number {
    whole: u128,
    /// In units of 10^-`FRACTION_DIGITS`, rounded up.
    fraction: u128,
    bytes: usize,
}

impl Number {
    fn times(&self, nanos: u128) -> u128 {
        let fraction = (self.fraction * nanos).div_ceil(10_u128.pow(FRACTION_DIGITS as u32));
        self.whole.saturating_mul(nanos).saturating_add(fraction)
    }
}

fn number(text: &str) -> Option<Number> {
    let whole = digits(text);
    if whole.is_empty() {
        return None;
    }
    let after = text.get(whole.len()..).and_then(|after| after.strip_prefix('.')).map(digits).unwrap_or_default();
    let point = usize::from(!after.is_empty());
    let kept: u128 = format!("{after:0<FRACTION_DIGITS$}").get(..FRACTION_DIGITS)?.parse().ok()?;
    let dropped = after.get(FRACTION_DIGITS..).is_some_and(|dropped| dropped.bytes().any(|digit| digit != b'0'));
    // more digits than fit are more than any bound
    let whole_value = whole.parse().unwrap_or(u128::MAX);
    Some(Number { whole: whole_value, fraction: kept + u128::from(dropped), bytes: whole.len() + point + after.len() })
}

fn digits(text: &str) -> &str {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    text.get(..end).unwrap_or_default()
}

fn bounded(nanos: u128) -> Duration {
    u64::try_from(nanos.div_ceil(NANOS_PER_MS)).map_or(MAX, Duration::from_millis).min(MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_form_that_upstreams_write_is_read() {
        let forms = [
            ("6m0s", 360_000),
            ("58.891s", 58_891),
            ("120ms", 120),
            ("15ms", 15),
            ("1ms", 1),
            ("1s", 1_000),
            ("0s", 0),
            ("7.188s", 7_188),
            ("0.0 seconds", 0),
            ("51.84 seconds", 51_840),
            ("37 seconds", 37_000),
            ("1 second", 1_000),
            ("7 minutes", 420_000),
            ("1h2m", 3_720_000),
            ("1h0m0.5s", 3_600_500),
            ("2 days", 172_800_000),
            ("1 week", 604_800_000),
            ("1 minute and 30 seconds", 90_000),
            ("1 hour, 3 minutes", 3_780_000),
            ("3 MINUTES", 180_000),
            (" 2s ", 2_000),
        ];
        for (text, ms) in forms {
            assert_eq!(parse(text), Some(Duration::from_millis(ms)), "{text}");
        }
    }

    #[test]
    fn parts_of_a_millisecond_round_up_once_for_the_whole_span() {
        let forms =
            [("1µs", 1), ("1μs", 1), ("999us", 1), ("1ns", 1), ("1.2ms", 2), ("0.0001s", 1), ("1s500us", 1_001)];
        for (text, ms) in forms {
            assert_eq!(parse(text), Some(Duration::from_millis(ms)), "{text}");
        }
        assert_eq!(parse("500us500us"), Some(Duration::from_millis(1)));
        assert_eq!(parse("1.0000000000000000001s"), Some(Duration::from_millis(1_001)));
        assert_eq!(parse("1.0000000000000000000s"), Some(Duration::from_millis(1_000)));
    }

    #[test]
    fn what_is_no_span_is_not_guessed_at() {
        for text in ["", " ", "s", "5", "-1s", "1e3s", "1 moment", ".5s", "1.s", "soon", "1s later", "12:30", "１s"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_span_in_a_sentence_ends_where_it_ends() {
        let leading = leading("1m30s. Visit https://example.org").unwrap();
        assert_eq!(leading, Leading { span: Duration::from_secs(90), bytes: "1m30s".len() });
        assert_eq!(unit("min. Current"), Some(Duration::from_secs(60)));
        assert_eq!(unit("furlong"), None);
    }

    #[test]
    fn a_known_unit_need_not_be_written() {
        let seconds = |text| without_unit(text, Duration::from_secs(1));
        assert_eq!(seconds("1"), Some(Duration::from_secs(1)));
        assert_eq!(seconds(" 0.2504 "), Some(Duration::from_millis(251)));
        for text in ["", "-1", "1s", "NaN", "inf", "1e3"] {
            assert_eq!(seconds(text), None, "{text}");
        }
    }

    #[test]
    fn the_longest_span_is_a_year() {
        for text in ["9999999 days", "99999999999999999999999999999999999999999999999999s", "366 days"] {
            assert_eq!(parse(text), Some(MAX), "{text}");
        }
        assert_eq!(without_unit("18446744073709551616", Duration::from_millis(1)), Some(MAX));
    }

    proptest! {
        #[test]
        fn no_text_is_too_strange(text in ".*", tail in "[0-9.]{0,60}[a-zµ ]{0,9}") {
            for text in [text.as_str(), tail.as_str()] {
                let found = leading(text);
                prop_assert!(found.is_none_or(|leading| leading.bytes <= text.len() && leading.span <= MAX));
                prop_assert!(parse(text).is_none_or(|span| Some(span) == found.map(|leading| leading.span)));
                let _ = (without_unit(text, MAX), unit(text));
            }
        }

        #[test]
        fn what_go_writes_is_read_back(ms in 0_u64..100_000_000) {
            let (minutes, rest) = (ms / 60_000, ms % 60_000);
            let seconds = format!("{}.{:03}", rest / 1_000, rest % 1_000);
            let span = Some(Duration::from_millis(ms));
            prop_assert_eq!(parse(&format!("{minutes}m{seconds}s")), span);
            prop_assert_eq!(parse(&format!("{}h{}m{seconds}s", minutes / 60, minutes % 60)), span);
            prop_assert_eq!(parse(&format!("{ms}ms")), span);
        }
    }
}
