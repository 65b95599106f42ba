//! Why a call got no answer, and what may get one.
//!
//! Invariant: a reply is told from silence. Who repeats a call does so with the same ids, so it may always be repeated.

use redis::{ErrorKind as RedisErrorKind, RedisError, ServerErrorKind};

use crate::error::{Error, ErrorKind};

/// Why a call got no answer.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) error: Error,
    pub(crate) then: Then,
}

/// What may get an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Then {
    /// Nothing: the same call would fail again.
    GiveUp,
    /// The same call, a little later.
    Repeat,
    /// As [`Repeat`](Self::Repeat); what keeps the call back is of its org, not of the server.
    Wait,
    /// The same call, on another connection: this one is broken, or leads to a server that takes no writes.
    Reconnect,
    /// As [`Reconnect`](Self::Reconnect) where somebody says who takes writes instead; else nothing.
    Elsewhere,
    /// The same call, at the node that has the slot.
    Moved(String),
    /// The same call, at the node that is taking the slot over.
    Ask(String),
}

impl Failure {
    pub(crate) fn new(error: Error, then: Then) -> Self {
        Self { error, then }
    }

    /// The server does not know a script, and this user may not send it.
    pub(super) fn not_loaded(error: RedisError) -> Self {
        let message =
            "the scripts are not loaded, and this user may not send them: run `allotment doctor --load-scripts`";
        Self::new(Error::new(ErrorKind::Unavailable, message).with_source(error).refused(), Then::GiveUp)
    }

    /// Nothing came in time.
    pub(super) fn silence() -> Self {
        Self::new(Error::new(ErrorKind::Unavailable, "Redis does not answer"), Then::Repeat)
    }
}

impl From<RedisError> for Failure {
    fn from(error: RedisError) -> Self {
        use ErrorKind::{Invalid, Protocol, Unavailable};
        let code = code_of(&error);
        let redirect = || error.redirect_node().map(|(node, _)| node.to_owned()).unwrap_or_default();
        let (kind, message, then) = match code {
            "ALLOTFORMAT" | "WRONGTYPE" => {
                (Protocol, "a key of this org holds what this version cannot read", Then::GiveUp)
            }
            "ALLOTLIMIT" => (Invalid, "an org has at most 1000 controls: remove some", Then::GiveUp),
            "NOPERM" | "NOAUTH" | "WRONGPASS" => (Unavailable, "Redis refuses this user", Then::GiveUp),
            _ if is_refused_in_script(&error) => (
                Unavailable,
                "Redis refuses this user a command that the scripts need: see the rights in docs/operations.md",
                Then::GiveUp,
            ),
            "OOM" => (Unavailable, "Redis is out of memory", Then::GiveUp),
            "MISCONF" => (Unavailable, "Redis accepts no writes", Then::GiveUp),
            "NOREPLICAS" => (Unavailable, "Redis accepts no writes: it has too few replicas", Then::Elsewhere),
            "READONLY" => (Unavailable, "Redis is a replica", Then::Reconnect),
            "MOVED" => (Unavailable, "another node has this org", Then::Moved(redirect())),
            "ASK" => (Unavailable, "another node is taking this org over", Then::Ask(redirect())),
            "TRYAGAIN" => (Unavailable, "this org is on its way to another node", Then::Wait),
            "LOADING" | "MASTERDOWN" | "BUSY" | "CLUSTERDOWN" => (Unavailable, "Redis is not ready", Then::Repeat),
            _ if error.kind() == RedisErrorKind::AuthenticationFailed => {
                (Unavailable, "Redis refuses this user or password", Then::GiveUp)
            }
            _ if is_distrusted(&error) => (
                Unavailable,
                "Redis and this process do not trust each other's certificates: see tls_ca, tls_cert and tls_key",
                Then::GiveUp,
            ),
            _ if is_unreachable(&error) => (Unavailable, "Redis cannot be reached", Then::Reconnect),
            _ => (Protocol, "Redis answered with an error", Then::GiveUp),
        };
        // scripts check all that they read before they write, and what a full Redis refuses is their first write
        let has_no_effect = matches!(code, "ALLOTFORMAT" | "OOM");
        let error = Error::new(kind, message).with_source(error).without_effect(has_no_effect);
        // what no repeat mends was refused
        Self::new(if then == Then::GiveUp { error.refused() } else { error }, then)
    }
}

/// What kind of error the server says it is. Up to Redis 6.2 that of a command inside a script is within the text of the script's own.
fn code_of(error: &RedisError) -> &str {
    const WITHIN: [&str; 5] = ["OOM", "READONLY", "MISCONF", "NOREPLICAS", "MASTERDOWN"];
    let within = |text: &str| WITHIN.into_iter().find(|code| text.contains(&format!("-{code} ")));
    let code = error.code().unwrap_or_default();
    match error.detail() {
        Some(text) if code == "ERR" && text.contains("script") => within(text).unwrap_or(code),
        _ => code,
    }
}

/// A script ran into a command that its user may not use. No code of its own says so.
fn is_refused_in_script(error: &RedisError) -> bool {
    let refused = ["can't run this command", "has no permissions", "can't access at least one of the keys"];
    let told = |text: &str| text.contains("script") && refused.iter().any(|refusal| text.contains(refusal));
    error.kind() == RedisErrorKind::Server(ServerErrorKind::ResponseError) && error.detail().is_some_and(told)
}

/// A certificate is expired, for another host, or signed by a stranger, on this side or the other. Only the text says so.
fn is_distrusted(error: &RedisError) -> bool {
    error.is_io_error() && error.to_string().to_lowercase().contains("certificate")
}

fn is_unreachable(error: &RedisError) -> bool {
    error.is_timeout() || error.is_io_error() || error.is_connection_dropped()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(code: &str, detail: &str) -> Failure {
        redis::make_extension_error(code.to_owned(), Some(detail.to_owned())).into()
    }

    /// As redis-server 6.2 puts it.
    #[test]
    fn an_error_inside_a_script_is_known_by_its_text_where_it_has_no_code_of_its_own() {
        let within = |code: &str| {
            of("ERR", &format!("Error running script (call to f_0a): @user_script:12: -{code} something. Else"))
        };
        assert_eq!(within("OOM").error.to_string(), of("OOM", "x").error.to_string());
        assert_eq!(within("READONLY").then, Then::Reconnect);
        assert_eq!(within("NOREPLICAS").then, Then::Elsewhere);
        assert_eq!(within("MISCONF").error.kind(), ErrorKind::Unavailable);
        assert_eq!(of("ERR", "no such thing as -OOM here").error.kind(), ErrorKind::Protocol);
    }
}
