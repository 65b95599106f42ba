//! Text of an upstream, made fit to be shown: in errors, logs and pages.
//!
//! Invariant: what looks like a key is masked, no character controls a terminal or starts a line of a log, and the length is bounded.
//!
//! Lacks knowledge of prompts: one that an upstream repeats cannot be told from its own words. It is cut with the rest.

/// In place of what looks like a key.
const MASK: &str = "[masked]";
/// Longer texts are not read on. All that upstreams say about a limit is far shorter.
const READ_BYTES_MAX: usize = 4_096;
/// How the keys of providers begin.
const KEY_PREFIXES: &[&str] = &["sk-", "sk_", "sess-", "pk-", "rk-", "gsk_", "xai-", "hf_", "ghp_", "aiza", "eyj"];
/// Ids that are as long as keys. They are worth having in an error.
const ID_PREFIXES: &[&str] = &["req_", "req-", "org-", "proj_", "resp_", "msg_", "ig_"];
/// Words before a colon or an equals sign, after which a key comes.
const KEY_NAMES: &[&str] = &["key", "provided", "token", "secret", "authorization", "password"];
/// Less of a secret is not looked for: it would be found in words.
const SECRET_BYTES_MIN: usize = 4;
/// Letters and digits in a row that nobody would write by hand.
const RUN_MAX: usize = 32;

/// The text with keys masked and controls replaced by spaces.
pub(super) fn redacted(text: &str) -> String {
    let text = start(text, READ_BYTES_MAX);
    let mut shown = String::with_capacity(text.len());
    let (mut before, mut rest) = ("", text);
    while !rest.is_empty() {
        let (between, after) = split(rest, |c| !is_of_key(c));
        let (token, after) = split(after, is_of_key);
        shown.extend(between.chars().map(|c| if is_control(c) { ' ' } else { c }));
        // the full stop of a sentence
        let word = token.trim_end_matches('.');
        if comes_after_key_name(before, between) || looks_like_key(word) {
            shown.push_str(if word.is_empty() { "" } else { MASK });
            shown.push_str(token.get(word.len()..).unwrap_or_default());
        } else {
            shown.push_str(token);
        }
        (before, rest) = (word, after);
    }
    shown.trim().to_owned()
}

/// The text with a secret masked wherever it stands, and at the end where the text was cut within it: for keys that look like none.
pub(super) fn without(text: &str, secret: &str) -> String {
    if secret.len() < SECRET_BYTES_MIN {
        return text.to_owned();
    }
    let shown = text.replace(secret, MASK);
    let cut = shown.strip_suffix('…').and_then(|whole| {
        let mut starts = (SECRET_BYTES_MIN..secret.len()).rev().filter_map(|length| secret.get(..length));
        starts.find_map(|start| whole.strip_suffix(start))
    });
    match cut {
        Some(kept) => format!("{kept}{MASK}…"),
        None => shown,
    }
}

/// The first characters of a text, with a mark where it was cut.
pub(super) fn cut(text: &str, chars_max: usize) -> String {
    match text.char_indices().nth(chars_max) {
        Some(_) => text.chars().take(chars_max.saturating_sub(1)).chain(['…']).collect(),
        None => text.to_owned(),
    }
}

/// The start of a text, cut between characters.
pub(super) fn start(text: &str, bytes_max: usize) -> &str {
    let end = (0..=bytes_max.min(text.len())).rev().find(|end| text.is_char_boundary(*end));
    text.get(..end.unwrap_or_default()).unwrap_or_default()
}

fn split(text: &str, is_first: impl Fn(char) -> bool) -> (&str, &str) {
    text.split_at(text.find(|c| !is_first(c)).unwrap_or(text.len()))
}

fn is_of_key(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '*' | '+' | '/' | '~')
}

/// Characters that move the cursor, end a line, or turn the direction of what follows.
fn is_control(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

/// Whether a key is expected after this word and what stands between.
fn comes_after_key_name(word: &str, between: &str) -> bool {
    if word.eq_ignore_ascii_case("bearer") {
        return true;
    }
    let word = word.to_ascii_lowercase();
    between.contains([':', '=']) && KEY_NAMES.iter().any(|name| word.ends_with(name))
}

fn looks_like_key(word: &str) -> bool {
    let begins = |word: &str, prefixes: &[&str]| {
        prefixes.iter().any(|prefix| word.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix)))
    };
    // also in an address, or behind stars
    if word.split(['/', '.', '*', '+', '~']).any(|part| begins(part, KEY_PREFIXES)) {
        return true;
    }
    let is_long = |run: &str| {
        run.len() >= RUN_MAX && run.contains(|c: char| c.is_ascii_digit()) && run.contains(|c: char| c.is_alphabetic())
    };
    !begins(word, ID_PREFIXES) && word.split(|c: char| !c.is_ascii_alphanumeric()).any(is_long)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const AZURE_KEY: &str = "0123456789abcdef0123456789abcdef";

    #[test]
    fn what_looks_like_a_key_is_masked() {
        let texts = [
            (
                "Incorrect API key provided: sk-abc***xyz. You can find your API key at https://platform.openai.com/account.",
                "Incorrect API key provided: [masked]. You can find your API key at https://platform.openai.com/account.",
            ),
            ("Incorrect API key provided: my-own.", "Incorrect API key provided: [masked]."),
            ("got 'Authorization: Bearer abc.def'", "got 'Authorization: [masked] [masked]'"),
            ("bearer abc, and more", "bearer [masked], and more"),
            ("api_key=abc&n=1", "api_key=[masked]&n=1"),
            (r#"{"api-key": "abc"}"#, r#"{"api-key": "[masked]"}"#),
            ("key sk-proj-1_2 (SK-ABC)", "key [masked] ([masked])"),
            ("https://example.org/sk-1/x, a risk-free ask", "https:[masked], a risk-free ask"),
            ("your key is not valid", "your key is not valid"),
            ("on tokens per min (TPM): Limit 4000, Used 12", "on tokens per min (TPM): Limit 4000, Used 12"),
        ];
        for (text, shown) in texts {
            assert_eq!(redacted(text), shown);
        }
        assert_eq!(redacted(&format!("no {AZURE_KEY}!")), "no [masked]!");
        assert_eq!(redacted(&format!("request id req_{AZURE_KEY}")), format!("request id req_{AZURE_KEY}"));
    }

    #[test]
    fn a_message_cannot_forge_a_line_or_a_colour() {
        assert_eq!(redacted("one\r\ntwo\x1b[31m\u{2028}three\u{202e}\0"), "one  two [31m three");
    }

    #[test]
    fn a_secret_that_is_known_is_masked_however_it_looks() {
        let texts = [
            ("no access with tiger-7, tiger-7!", "no access with [masked], [masked]!"),
            ("no access with ti…", "no access with ti…"),
            ("no access with tige…", "no access with [masked]…"),
            ("no access with tiger-…", "no access with [masked]…"),
            ("no access with tiger-7…", "no access with [masked]…"),
            ("a tiger", "a tiger"),
        ];
        for (text, shown) in texts {
            assert_eq!(without(text, "tiger-7"), shown);
        }
        for secret in ["", "is"] {
            assert_eq!(without("as it is", secret), "as it is");
        }
    }

    #[test]
    fn a_text_is_cut_between_characters() {
        assert_eq!(cut("ééé", 3), "ééé");
        assert_eq!(cut("éééé", 3), "éé…");
        assert_eq!(start("ééé", 3), "é");
        assert!(redacted(&"é".repeat(9_000)).len() <= READ_BYTES_MAX);
    }

    proptest! {
        #[test]
        fn a_key_is_not_shown_whatever_is_around_it(
            before in "[^A-Za-z0-9_.*+/~-]{0,9}", after in "([^A-Za-z0-9_.*+/~-].{0,9})?", secret in "[A-Za-z0-9_-]{8,60}",
        ) {
            prop_assume!(!MASK.contains(&secret) && !before.contains(&secret) && !after.contains(&secret));
            for text in [format!("{before}sk-{secret}{after}"), format!("Bearer {secret}{after}")] {
                prop_assert!(!redacted(&text).contains(&secret), "{text}");
            }
        }

        #[test]
        fn no_text_is_too_strange(text in ".*") {
            let shown = redacted(&text);
            prop_assert!(!shown.contains(is_control));
            prop_assert!(cut(&shown, 5).chars().count() <= 5);
        }
    }
}
