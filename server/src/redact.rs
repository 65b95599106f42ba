//! Keeps the passwords of URLs and the keys of APIs out of everything that is printed.
//!
//! Works on the exact secrets of this run instead of a pattern, so that a password with odd characters, or quoted in somebody else's
//! error message, is found too.

/// What takes a secret's place.
const HIDDEN: &str = "***";

/// A bare password this short is not looked for on its own: it would blot out innocent text.
const BARE_BYTES_MIN: usize = 4;

/// The texts that must not be printed.
#[derive(Clone, Default)]
pub(crate) struct Secrets(Vec<String>);

impl Secrets {
    /// The secrets of these command line arguments: whatever looks like the credentials of a URL.
    pub(crate) fn in_arguments<S: AsRef<str>>(arguments: impl IntoIterator<Item = S>) -> Self {
        let mut secrets = Vec::new();
        for argument in arguments {
            let argument = argument.as_ref();
            let address = match argument.split_once("://") {
                Some((_, address)) => address,
                None => argument.split_once('=').map_or(argument, |(_, value)| value),
            };
            if let Some((credentials, _)) = address.rsplit_once('@') {
                secrets.push(format!("{credentials}@"));
                secrets.extend(credentials.split_once(':').map(|(_, password)| password.to_owned()));
            }
            // The URL of a unix socket has its password in the query, and that of sentinels theirs.
            for parameter in argument.split(['?', '&']).skip(1) {
                let named = ["pass=", "sentinel_password="].into_iter();
                secrets.extend(named.filter_map(|name| parameter.strip_prefix(name)).map(ToOwned::to_owned));
            }
        }
        let mut all = Self::default();
        all.hide(secrets);
        all
    }

    /// Hides these too, such as the key of an API.
    pub(crate) fn hide(&mut self, secrets: impl IntoIterator<Item = String>) {
        let mut secrets: Vec<String> = std::mem::take(&mut self.0).into_iter().chain(secrets).collect();
        let decoded: Vec<String> = secrets.iter().filter(|secret| secret.contains('%')).map(|s| decoded(s)).collect();
        secrets.extend(decoded);
        secrets.retain(|secret| secret.ends_with('@') && secret.len() > 1 || secret.len() >= BARE_BYTES_MIN);
        // The longest first, so that what contains another goes as a whole.
        secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
        self.0 = secrets;
    }

    /// `text` without the secrets.
    pub(crate) fn redact(&self, text: &str) -> String {
        self.0.iter().fold(text.to_owned(), |text, secret| {
            let hidden = if secret.ends_with('@') { format!("{HIDDEN}@") } else { HIDDEN.to_owned() };
            text.replace(secret, &hidden)
        })
    }
}

/// `text` with its percent escapes resolved, as a library may print it.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let escape = after.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
        match escape.filter(|_| byte == b'%').and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(escaped) => {
                bytes.push(escaped);
                rest = &after[2..];
            }
            None => {
                bytes.push(byte);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_credentials_of_a_url_are_hidden_wherever_they_appear() {
        let secrets = Secrets::in_arguments(["--redis", "redis://bob:hunter2@localhost:1/0"]);
        assert_eq!(secrets.redact("bad redis://bob:hunter2@localhost:1/0"), "bad redis://***@localhost:1/0");
        assert_eq!(secrets.redact("WRONGPASS hunter2"), "WRONGPASS ***");
    }

    #[test]
    fn odd_passwords_are_hidden_whole() {
        for url in ["redis://:a/b@c d@host", "--redis=redis://:a/b@c d@host", "--redis=:a/b@c d@host"] {
            let shown = Secrets::in_arguments([url]).redact(url);
            assert!(!shown.contains("a/b") && !shown.contains("c d"), "{shown}");
            assert!(shown.contains("@host"), "{shown}");
        }
    }

    #[test]
    fn a_password_is_hidden_decoded_and_in_a_query_too() {
        let secrets = Secrets::in_arguments(["redis://:p%40ss%21x@host", "unix:///run/r.sock?db=1&pass=s3cret"]);
        assert_eq!(secrets.redact("p@ss!x and s3cret and p%40ss%21x"), "*** and *** and ***");
    }

    #[test]
    fn the_key_of_an_api_is_hidden_beside_the_others() {
        let mut secrets = Secrets::in_arguments(["redis://bob:hunter2@host"]);
        secrets.hide(["sk-abcdef".to_owned(), String::new(), "abc".to_owned()]);
        assert_eq!(secrets.redact("key sk-abcdef, hunter2, abc"), "key ***, ***, abc");
    }

    #[test]
    fn text_without_secrets_is_left_alone() {
        let secrets = Secrets::in_arguments(["allotment", "demo", "--redis", "redis://localhost"]);
        assert_eq!(secrets.redact("redis://localhost refused"), "redis://localhost refused");
    }
}
