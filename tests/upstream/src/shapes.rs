//! The errors that image APIs answer with, in every shape that has been seen.
//!
//! Lacks any judgement of when to answer so: the limits and the scripts decide that.

use std::time::Duration;

use serde_json::{Value, json};

use crate::{
    limits::{Dimension, MINUTE},
    reply::{Reply, event, go_duration},
};

const VISIT: &str = "Visit https://platform.openai.com/account/rate-limits to learn more.";

/// One way to answer with an error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ErrorShape {
    /// 429 with the published message: limit, used, requested, and the hint. Without `used` where the call can never fit.
    RateLimit,
    /// The same error as JSON with status 200.
    HiddenJson,
    /// Only the message, as text with status 200.
    HiddenText,
    /// An event stream with status 200 that ends with `response.failed`.
    HiddenEvents,
    /// An event stream with status 200 that ends with an event `error`.
    ErrorEvent,
    /// 429 without `Used` and with a request larger than the limit.
    TooLarge,
    /// 429 with a limit of 0.
    LimitZero,
    /// 429, `Limit: 0/1min. Current: 1/1min.`
    Older,
    /// 429, `Limit: 60.000000 / min. Current: 80.000000 / min.`
    Oldest,
    /// 429, `please slow down and try again after 51.84 seconds`.
    PleaseSlowDown,
    /// The same with `0.0 seconds`, which is said to mean missing access.
    ZeroSeconds,
    /// 429, `exceeded the 5 request/min rate limit`.
    Short,
    /// 429 of the guide: `Rate limit exceeded for .. requests per minute (RPM). Limit: 6, current: 7`, and for tokens `tokens_limit_exceeded`.
    Guide,
    /// 403 of the guide: not authorized, upgrade to tier 1, typed `insufficient_quota`.
    GuideNoAccess,
    /// 403: the organization must be verified.
    Unverified,
    /// 429 typed `insufficient_quota` with one of the codes that more time does not cure, such as `credit_balance_exhausted`.
    Exhausted(String),
    /// 400 with code `billing_hard_limit_reached`.
    BillingHardLimit,
    /// 503 `server_is_overloaded`.
    Overloaded,
    /// 429 `slow_down` of type `rate_limit_error`.
    SlowDown,
    /// 500 with an error body, which may say by `x-should-retry` whether to try again.
    ServerError(Option<ShouldRetry>),
    /// Azure's 429 with `retry-after-ms` and `retry-after`.
    Azure,
    /// The Codex backend's `usage_limit_reached` with `resets_in_seconds`.
    UsageLimitReached,
    /// Scaleway's `INSUFFICIENT QUOTA` for a transient limit.
    Scaleway,
    /// GLM's code `1302`.
    Glm,
    /// 502 with a page in HTML.
    BadGateway,
    /// 400 `moderation_blocked`.
    Moderation,
    /// 400 `invalid_request_error` that names `size`.
    Invalid,
    /// 401: the key is not known.
    Unauthorized,
    /// 404: the model is not known.
    ModelNotFound,
    /// 429 with a plain string for an error.
    PlainString,
    /// 429 with nothing in it but `retry-after`.
    Empty,
}

/// What `x-should-retry` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShouldRetry {
    /// `true`.
    Yes,
    /// `false`.
    No,
}

/// What an error tells: who asked for how much of what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Figures {
    /// The model that was asked.
    pub model: String,
    /// The pool that the message names, if it names one.
    pub pool: Option<String>,
    /// The org that asked.
    pub org: String,
    /// What was short.
    pub dimension: Dimension,
    /// Over how long.
    pub period: Duration,
    /// How much of it there is.
    pub limit: u64,
    /// How much of it is used; none where the call can never fit.
    pub used: Option<u64>,
    /// How much of it was asked.
    pub requested: u64,
    /// When to try again.
    pub wait: Duration,
}

impl Default for Figures {
    /// The images of `gpt-image-2`, just used up.
    fn default() -> Self {
        Self {
            model: "gpt-image-2".to_owned(),
            pool: Some("gpt-image".to_owned()),
            org: "org-test".to_owned(),
            dimension: Dimension::Images,
            period: MINUTE,
            limit: 250,
            used: Some(250),
            requested: 1,
            wait: Duration::from_millis(240),
        }
    }
}

impl Figures {
    fn message(&self) -> String {
        let Self { model, org, limit, requested, .. } = self;
        let pool = self.pool.as_ref().map(|pool| format!(" (for limit {pool})")).unwrap_or_default();
        let label = self.dimension.label(self.period);
        let head = format!("Rate limit reached for {model}{pool} in organization {org} on {label}:");
        match self.used {
            None => format!("{head} Limit {limit}, Requested {requested}. {VISIT}"),
            Some(used) => {
                let wait = go_duration(self.wait);
                format!("{head} Limit {limit}, Used {used}, Requested {requested}. Please try again in {wait}. {VISIT}")
            }
        }
    }

    /// What is used with this call.
    fn current(&self) -> u64 {
        self.used.unwrap_or(0) + self.requested
    }

    fn seconds(&self) -> u64 {
        self.wait.as_millis().div_ceil(1_000) as u64
    }

    fn error(&self) -> Value {
        error(&self.message(), self.dimension.kind(), Some("rate_limit_exceeded"))
    }

    fn hinted(&self, status: u16, body: &Value) -> Reply {
        let reply = Reply::json(status, body);
        if self.used.is_none() {
            return reply;
        }
        reply.header("retry-after", self.seconds().max(1)).header("retry-after-ms", self.wait.as_millis())
    }
}

fn error(message: &str, kind: &str, code: Option<&str>) -> Value {
    json!({ "error": { "message": message, "type": kind, "param": null, "code": code } })
}

/// The body that answers a request which names a wrong value.
pub(crate) fn invalid(param: &str, message: &str) -> Reply {
    let error = json!({ "message": message, "type": "invalid_request_error", "param": param, "code": "invalid_value" });
    Reply::json(400, &json!({ "error": error }))
}

impl ErrorShape {
    /// The answer, with these figures where the shape has room for them.
    pub(crate) fn render(&self, figures: &Figures) -> Reply {
        let Figures { model, org, limit, .. } = figures;
        let limited = |message: &str| figures.hinted(429, &error(message, "requests", Some("rate_limit_exceeded")));
        match self {
            Self::RateLimit => figures.hinted(429, &figures.error()),
            Self::HiddenJson => Reply::json(200, &figures.error()),
            Self::HiddenText => Reply::text(200, "text/plain; charset=utf-8", figures.message()),
            Self::HiddenEvents => Reply::events(failed_response(model, &figures.message())),
            Self::ErrorEvent => {
                let error = figures.error()["error"].clone();
                Reply::events(vec![event(&json!({ "type": "error", "error": error }))])
            }
            Self::TooLarge => {
                let requested = figures.requested.max(limit + 1);
                let figures = Figures { used: None, requested, ..figures.clone() };
                figures.hinted(429, &figures.error())
            }
            Self::LimitZero => {
                let figures = Figures { limit: 0, used: None, ..figures.clone() };
                figures.hinted(429, &figures.error())
            }
            Self::Older => limited(&format!(
                "Rate limit exceeded for images per minute in organization {org}. Limit: {limit}/1min. Current: {}/1min. {VISIT}",
                figures.current()
            )),
            Self::Oldest => limited(&format!(
                "Rate limit reached for {model} in organization {org} on requests per min. Limit: {limit}.000000 / min. Current: {}.000000 / min. {VISIT}",
                figures.current()
            )),
            Self::PleaseSlowDown => {
                let seconds = figures.wait.as_secs_f64();
                let text =
                    format!("You've exceeded the rate limit, please slow down and try again after {seconds} seconds.");
                Reply::json(429, &error(&text, "rate_limit_exceeded", Some("rate_limit_exceeded")))
            }
            Self::ZeroSeconds => {
                let text = "You've exceeded the rate limit, please slow down and try again after 0.0 seconds";
                Reply::json(429, &error(text, "rate_limit_exceeded", None))
            }
            Self::Short => limited(&format!("You have exceeded the {limit} request/min rate limit.")),
            Self::Guide => {
                let current = figures.current();
                let (text, kind) = match figures.dimension {
                    Dimension::Tokens => (
                        format!(
                            "Token limit exceeded for {model} per minute (TPM). Limit: {limit}, current: {current}"
                        ),
                        "tokens_limit_exceeded",
                    ),
                    _ => (
                        format!(
                            "Rate limit exceeded for {model} requests per minute (RPM). Limit: {limit}, current: {current}"
                        ),
                        "rate_limit_exceeded",
                    ),
                };
                Reply::json(429, &error(&text, kind, None))
            }
            Self::GuideNoAccess => {
                let text = format!(
                    "You are not authorized to use {model}. Please upgrade to Tier 1 by spending at least $5 on API usage."
                );
                Reply::json(403, &error(&text, "insufficient_quota", None))
            }
            Self::Unverified => {
                let text = format!(
                    "Your organization must be verified to use the model `{model}`. Please go to: https://platform.openai.com/settings/organization/general and click on Verify Organization. If you just verified, it can take up to 15 minutes for access to propagate."
                );
                Reply::json(403, &error(&text, "invalid_request_error", None))
            }
            Self::Exhausted(code) => {
                let text = "You exceeded your current quota, please check your plan and billing details.";
                Reply::json(429, &error(text, "insufficient_quota", Some(code)))
            }
            Self::BillingHardLimit => {
                let text = "Billing hard limit has been reached";
                Reply::json(400, &error(text, "invalid_request_error", Some("billing_hard_limit_reached")))
            }
            Self::Overloaded => {
                let text = "The server is currently overloaded with other requests. Please retry later.";
                Reply::json(503, &error(text, "service_unavailable_error", Some("server_is_overloaded")))
            }
            Self::SlowDown => {
                let text = "Your traffic rose too fast. Please slow down.";
                figures.hinted(429, &error(text, "rate_limit_error", Some("slow_down")))
            }
            Self::ServerError(should_retry) => {
                let text = "The server had an error while processing your request. Sorry about that!";
                let reply = Reply::json(500, &error(text, "server_error", None));
                match should_retry {
                    None => reply,
                    Some(ShouldRetry::Yes) => reply.header("x-should-retry", "true"),
                    Some(ShouldRetry::No) => reply.header("x-should-retry", "false"),
                }
            }
            Self::Azure => {
                let seconds = figures.seconds();
                let text = format!(
                    "Requests to the ImageGenerations_Create Operation under Azure OpenAI API version 2025-04-01-preview have exceeded token rate limit of your current OpenAI S0 pricing tier. Please retry after {seconds} seconds."
                );
                figures.hinted(429, &json!({ "error": { "code": "429", "message": text } }))
            }
            Self::UsageLimitReached => {
                let seconds = figures.seconds();
                Reply::json(
                    429,
                    &json!({ "error": {
                        "type": "usage_limit_reached", "message": "The usage limit has been reached",
                        "plan_type": "pro", "resets_in_seconds": seconds,
                    } }),
                )
            }
            Self::Scaleway => Reply::json(429, &error("INSUFFICIENT QUOTA", "insufficient_quota", None)),
            Self::Glm => {
                let text = "Rate limit reached for requests";
                Reply::json(429, &json!({ "error": { "code": "1302", "message": text } }))
            }
            Self::BadGateway => Reply::text(
                502,
                "text/html",
                "<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n<body><center><h1>502 Bad Gateway</h1></center></body>\r\n</html>\r\n",
            ),
            Self::Moderation => {
                let text = "Your request was rejected by the safety system. If you believe this is an error, contact us at help.openai.com and include the request ID req_0.";
                Reply::json(400, &error(text, "image_generation_user_error", Some("moderation_blocked")))
            }
            Self::Invalid => invalid(
                "size",
                "Invalid value: '17x17'. Supported values are: '1024x1024', '1024x1536', '1536x1024', and 'auto'.",
            ),
            Self::Unauthorized => {
                let text = "Incorrect API key provided. You can find your API key at https://platform.openai.com/account/api-keys.";
                Reply::json(401, &error(text, "invalid_request_error", Some("invalid_api_key")))
            }
            Self::ModelNotFound => {
                let text = format!("The model `{model}` does not exist or you do not have access to it.");
                Reply::json(404, &error(&text, "invalid_request_error", Some("model_not_found")))
            }
            Self::PlainString => Reply::json(429, &json!({ "error": figures.message() })),
            Self::Empty => Reply::text(429, "text/plain", "").header("retry-after", figures.seconds().max(1)),
        }
    }
}

/// The events of a response that began and then failed by a limit.
fn failed_response(model: &str, message: &str) -> Vec<String> {
    let error = json!({ "code": "rate_limit_exceeded", "message": message });
    let begun = json!({ "id": "resp_failed", "object": "response", "status": "in_progress", "model": model });
    let failed =
        json!({ "id": "resp_failed", "object": "response", "status": "failed", "model": model, "error": error });
    vec![
        event(&json!({ "type": "response.created", "sequence_number": 0, "response": begun })),
        event(&json!({ "type": "response.failed", "sequence_number": 1, "response": failed })),
    ]
}
