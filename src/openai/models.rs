//! What is known of each model: how it counts tokens, what it takes, what it costs. Data, in `models.toml`.
//!
//! Invariant: every figure has a source and a certainty. A model that is not in the table is asked for by the rules of the newest.

use crate::{error::Error, openai::request::ImageRequest};

/// The models that a client knows.
#[derive(Clone, Debug)]
pub struct Models {}

/// What is known of one model.
#[derive(Clone, Debug)]
pub struct Model {}

impl Models {
    /// Those known when this crate was released.
    #[must_use]
    pub fn embedded() -> Self {
        todo!()
    }

    /// Adds to, or replaces, what is known, by a file of the same form as the embedded one.
    pub fn with(self, _text: &str) -> Result<Self, Error> {
        todo!()
    }

    /// By its name, a dated snapshot of it, or the newest one's rules.
    #[must_use]
    pub fn get(&self, _name: &str) -> &Model {
        todo!()
    }
}

impl Model {
    /// The pool whose limits it counts against upstream, for the attribute `model` of the subject.
    #[must_use]
    pub fn pool(&self) -> &str {
        todo!()
    }

    /// Why the model cannot do what the request asks, if it cannot: names the field, the value and what is allowed.
    #[must_use]
    pub fn refuses(&self, _request: &ImageRequest) -> Option<String> {
        todo!()
    }
}
