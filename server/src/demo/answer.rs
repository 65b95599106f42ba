//! What a caller makes of the API's answer.
//!
//! Invariant: the body decides, not the status. An image API may answer a refused call with 200 and an error in the body; a caller that
//! looks only at the status takes that for an image.

use serde::Deserialize;

use super::upstream::Response;

/// An answer, read.
#[derive(Debug, PartialEq)]
pub(crate) enum Answer {
    /// Images, and the tokens they took.
    Served { images: u64, tokens: u64 },
    /// Refused by the rate limit.
    Refused,
    /// Anything else.
    Broken,
}

#[derive(Deserialize)]
struct Body {
    #[serde(default)]
    data: Vec<serde::de::IgnoredAny>,
    usage: Option<Usage>,
    error: Option<Fault>,
}

#[derive(Deserialize)]
struct Usage {
    total_tokens: u64,
}

#[derive(Deserialize)]
struct Fault {
    code: Option<String>,
    #[serde(default)]
    message: String,
}

impl Answer {
    /// Reads a response.
    pub(crate) fn read(response: &Response) -> Self {
        let body = serde_json::from_str::<Body>(&response.body).ok();
        match (response.status, body) {
            (_, Some(Body { error: Some(fault), .. })) if fault.is_rate_limit() => Self::Refused,
            (429, _) => Self::Refused,
            (200, Some(Body { error: None, usage: Some(usage), data })) => {
                Self::Served { images: data.len() as u64, tokens: usage.total_tokens }
            }
            _ => Self::Broken,
        }
    }
}

impl Fault {
    fn is_rate_limit(&self) -> bool {
        self.code.as_deref() == Some("rate_limit_exceeded") || self.message.starts_with("Rate limit reached")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(status: u16, body: &str) -> Answer {
        Answer::read(&Response { status, body: body.to_owned() })
    }

    #[test]
    fn images_come_with_their_usage() {
        let body = r#"{"created":0,"data":[{"b64_json":""},{"b64_json":""}],"usage":{"total_tokens":3512}}"#;
        assert_eq!(read(200, body), Answer::Served { images: 2, tokens: 3512 });
    }

    #[test]
    fn an_error_in_a_200_is_a_refusal() {
        let body = r#"{"error":{"message":"Rate limit reached for gpt-image-2","type":"input-images","code":"rate_limit_exceeded"}}"#;
        assert_eq!(read(200, body), Answer::Refused);
        assert_eq!(read(200, r#"{"error":{"message":"Rate limit reached for gpt-image-2"}}"#), Answer::Refused);
        assert_eq!(read(429, "not even JSON"), Answer::Refused);
    }

    #[test]
    fn other_faults_are_not_taken_for_images_or_refusals() {
        assert_eq!(read(200, r#"{"error":{"message":"boom","code":"server_error"}}"#), Answer::Broken);
        assert_eq!(read(200, "{}"), Answer::Broken);
        assert_eq!(read(503, ""), Answer::Broken);
    }
}
