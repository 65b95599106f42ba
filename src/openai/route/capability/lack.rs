//! What a refusal says that a route cannot do.
//!
//! Invariant: a lack turns away the calls of everybody, so it is never guessed from a status or from words in passing: a page of a firewall,
//! or an id that is not found, says nothing of the model.

use std::fmt;

use crate::openai::{
    refusal::{Refusal, RefusalKind},
    request::Size,
    route::capability::{Delivery, Need},
};

/// Something a route cannot do.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(in crate::openai::route) enum Lack {
    Model(String),
    Size(String, Size),
    Edits(String),
    Streams(String),
}

impl Lack {
    /// What a refusal says that the route cannot do, of what the call needed; `None` if it is about the call.
    pub(in crate::openai::route) fn read(refusal: &Refusal, need: &Need<'_>) -> Option<Self> {
        let model = || need.model.to_owned();
        if refusal.is_of_model() {
            return Some(Self::Model(model()));
        }
        if !matches!(refusal.kind, RefusalKind::Invalid | RefusalKind::Failed) {
            return None;
        }
        let message = refusal.message.to_lowercase();
        if need.is_edit && (is_of_path(refusal.status, &message) || is_without(&message, &["edit", "edits", "editing"]))
        {
            return Some(Self::Edits(model()));
        }
        if need.delivery == Delivery::Stream && is_without(&message, &["stream", "streaming", "partial_images"]) {
            return Some(Self::Streams(model()));
        }
        let refuses = ["not supported", "unsupported", "not support", "invalid value", "must be one of"];
        let is_of_value = refuses.iter().any(|words| message.contains(words));
        match need.size {
            Size::Pixels { .. } if is_of_value && message.contains(&need.size.to_string()) => {
                Some(Self::Size(model(), need.size))
            }
            Size::Pixels { .. } | Size::Auto => None,
        }
    }

    /// Whether a call can be made in another way where a route lacks this: whole, and not as a stream.
    pub(super) fn has_another_way(&self) -> bool {
        matches!(self, Self::Streams(_))
    }

    pub(super) fn stops(&self, need: &Need<'_>) -> bool {
        match self {
            Self::Model(model) => model == need.model,
            Self::Size(model, size) => model == need.model && *size == need.size,
            Self::Edits(model) => model == need.model && need.is_edit,
            Self::Streams(model) => model == need.model && need.delivery == Delivery::Stream,
        }
    }
}

impl fmt::Display for Lack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Model(model) => write!(f, "no {model}"),
            Self::Size(model, size) => write!(f, "no {size} of {model}"),
            Self::Edits(model) => write!(f, "no edits by {model}"),
            Self::Streams(model) => write!(f, "no streams of {model}"),
        }
    }
}

/// Whether there is no such path, rather than nothing of an id in it.
fn is_of_path(status: u16, message: &str) -> bool {
    let is_plain = || ["not found", "resource not found", "page not found"].contains(&message.trim_end_matches('.'));
    let begins = || ["404 ", "invalid url", "upstream gave no reason"].iter().any(|words| message.starts_with(words));
    matches!(status, 405 | 501) || (status == 404 && (is_plain() || begins()))
}

/// Whether a message says that one of these, and nothing else, is not supported.
fn is_without(message: &str, names: &[&str]) -> bool {
    let after = ["unsupported parameter:", "unknown parameter:", "unrecognized request argument supplied:"];
    let named = after.iter().find_map(|words| message.strip_prefix(words)).map(|rest| upto(rest, &[".", " "]));
    let refused = || {
        let before =
            [" is not supported", " are not supported", " not supported", " is unsupported", " is not available"];
        let (before, _) = before.iter().find_map(|words| message.split_once(words))?;
        Some(before)
    };
    let lacked = || Some(upto(message.split_once(" does not support ")?.1, &[".", ","]));
    let Some(subject) = named.or_else(lacked).or_else(refused) else { return false };
    let around = ["", "the", "image", "images", "of", "parameter", "endpoint", "api", "v1"];
    let mut words =
        subject.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').filter(|word| !around.contains(word));
    words.next().is_some_and(|word| names.contains(&word)) && words.all(|word| names.contains(&word))
}

fn upto<'a>(text: &'a str, ends: &[&str]) -> &'a str {
    let text = text.trim_start();
    let end = ends.iter().filter_map(|end| text.find(end)).min();
    text.get(..end.unwrap_or(text.len())).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(kind: RefusalKind, status: u16, code: &str, message: &str) -> Refusal {
        let code = (!code.is_empty()).then(|| code.to_owned());
        let message = message.to_owned();
        let (error_type, figures, retry_after, should_retry) = (None, None, None, None);
        Refusal { kind, status, error_type, code, message, figures, retry_after, should_retry }
    }

    fn edit() -> Need<'static> {
        let size = Size::pixels(2048, 2048);
        Need { model: "gpt-image-2", size, images: 1, is_edit: true, has_mask: false, delivery: Delivery::Stream }
    }

    #[test]
    fn what_a_refusal_says_that_a_route_cannot_do() {
        use RefusalKind::{Failed, Invalid, NoAccess};
        let model = || Some(Lack::Model("gpt-image-2".to_owned()));
        let size = || Some(Lack::Size("gpt-image-2".to_owned(), Size::pixels(2048, 2048)));
        let edits = || Some(Lack::Edits("gpt-image-2".to_owned()));
        let streams = || Some(Lack::Streams("gpt-image-2".to_owned()));
        let rows = [
            (NoAccess, 404, "model_not_found", "The model `gpt-image-2` does not exist", model()),
            (NoAccess, 400, "model_not_supported", "The requested model is not supported.", model()),
            (NoAccess, 404, "DeploymentNotFound", "The API deployment for this resource does not exist.", model()),
            (NoAccess, 403, "", "Your organization must be verified to use the model", model()),
            (NoAccess, 403, "insufficient_quota", "You are not authorized to use gpt-image-2. Please upgrade", model()),
            (Invalid, 400, "", "Streaming is not supported for this model", streams()),
            (Invalid, 400, "unknown_parameter", "Unsupported parameter: 'stream'", streams()),
            (Invalid, 400, "unknown_parameter", "Unknown parameter: 'partial_images'.", streams()),
            (Invalid, 400, "invalid_value", "Invalid value: '2048x2048'. Supported values are: '1024x1024'", size()),
            (Invalid, 400, "", "Image edits are not supported by this provider", edits()),
            (Invalid, 400, "", "gpt-image-2 does not support image editing", edits()),
            (Invalid, 404, "", "Not Found", edits()),
            (Invalid, 404, "", "Invalid URL (POST /v1/images/edits)", edits()),
            (Invalid, 405, "", "Method Not Allowed", edits()),
            (Failed, 501, "", "upstream gave no reason", edits()),
        ];
        for (kind, status, code, message, lack) in rows {
            assert_eq!(Lack::read(&refusal(kind, status, code, message), &edit()), lack, "{status} {code} {message}");
        }
        let plain = Need { is_edit: false, delivery: Delivery::Whole, ..edit() };
        let gone = refusal(Invalid, 404, "", "Not Found");
        assert_eq!(Lack::read(&gone, &plain), None, "an address that is wrong is no lack of a model");
    }

    #[test]
    fn what_a_refusal_says_of_a_call_is_not_taken_for_a_lack() {
        use RefusalKind::{Invalid, Moderation, NoAccess, RateLimited};
        let fidelity = "The model 'gpt-image-2' does not support the 'input_fidelity' parameter.";
        let rows = [
            (Invalid, 400, "invalid_input_fidelity_model", fidelity),
            (NoAccess, 403, "", "<html><title>403 Forbidden</title> Request blocked by the model of our firewall"),
            (NoAccess, 403, "permission_error", "You have insufficient permissions for this operation."),
            (NoAccess, 401, "invalid_api_key", "Incorrect API key provided"),
            (NoAccess, 401, "model_not_found", "no key, no model"),
            (NoAccess, 429, "rate_limit_exceeded", "slow down and try again after 0.0 seconds"),
            (NoAccess, 200, "rate_limit_exceeded", "slow down and try again after 0.0 seconds"),
            (NoAccess, 429, "rate_limit_exceeded", "Rate limit reached for gpt-image-2: Limit 0, Requested 1."),
            (Invalid, 404, "", "No such file: file-1, of the model gpt-image-2"),
            (Invalid, 404, "not_found", "Not found: the stream of edits that `extra` names"),
            (Invalid, 400, "", "gpt-image-2 is not a supported model: unsupported"),
            (Invalid, 400, "invalid_value", "Invalid value: 'purple'. Supported values are: 'opaque'"),
            (Invalid, 400, "", "A mask is not supported for edits that stream"),
            (Invalid, 400, "", "Invalid prompt 'an edit of a stream' is not supported"),
            (Invalid, 400, "", "The image edits endpoint does not support gif images"),
            (Invalid, 400, "", "prompt is too long"),
            (Moderation, 400, "moderation_blocked", "edits are not supported"),
            (RateLimited, 429, "", "the model is not available"),
        ];
        for (kind, status, code, message) in rows {
            assert_eq!(Lack::read(&refusal(kind, status, code, message), &edit()), None, "{status} {code} {message}");
        }
    }
}
