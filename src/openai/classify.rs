//! Tells what kind of refusal an answer is, whatever way it came.

use crate::openai::{headers::RateHeaders, refusal::Refusal};

/// Reads an answer that may be a refusal: a body with a top-level `error`, or any status of 400 and more. `None`: it is none.
pub(super) fn body(_status: u16, _headers: &RateHeaders, _body: &[u8]) -> Option<Refusal> {
    todo!()
}

/// Reads the data of a stream's event that may be a refusal: `error`, `response.failed`, or an object with an `error`.
pub(super) fn event(_name: &str, _headers: &RateHeaders, _data: &[u8]) -> Option<Refusal> {
    todo!()
}
