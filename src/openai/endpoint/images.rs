//! The image API, of OpenAI and Azure: generations in JSON, edits as a form.

use serde_json::{Map, Value};

use super::{Inlining, Mode, common_fields, extend};
use crate::openai::{
    request::ImageRequest,
    transport::{Body, Field},
};

/// The last part of the address.
pub(super) fn verb(request: &ImageRequest) -> &'static str {
    if request.is_edit() { "edits" } else { "generations" }
}

/// The body; without a model where the address says it.
pub(super) fn body(model: Option<&str>, request: &ImageRequest, mode: Mode) -> Body {
    let mut fields = Map::new();
    fields.extend(model.map(|model| ("model".to_owned(), Value::from(model))));
    fields.insert("prompt".to_owned(), request.prompt.as_str().into());
    fields.insert("n".to_owned(), request.n.into());
    fields.append(&mut common_fields(request));
    fields.extend(request.end_user.as_deref().map(|user| ("user".to_owned(), Value::from(user))));
    if mode == Mode::Stream {
        fields.insert("stream".to_owned(), true.into());
        if request.partial_images > 0 {
            fields.insert("partial_images".to_owned(), request.partial_images.into());
        }
    }
    extend(&mut fields, &request.extra);
    if !request.is_edit() {
        return Inlining::default().into_body(fields);
    }
    // a form has texts only: those of JSON, without the quotes
    let text = |value: Value| match value {
        Value::String(text) => text,
        other => other.to_string(),
    };
    let mut parts: Vec<_> = fields.into_iter().map(|(name, value)| Field::Text { name, value: text(value) }).collect();
    parts.extend(request.inputs.iter().map(|image| Field::Image { name: "image[]", image: image.clone() }));
    parts.extend(request.mask.iter().map(|image| Field::Image { name: "mask", image: image.clone() }));
    Body::Form(parts)
}
