//! The Responses API: a model of text that calls the tool `image_generation`, once.

use serde_json::{Map, Value, json};

use super::{Inlining, Mode, common_fields, extend};
use crate::openai::{request::ImageRequest, transport::Body};

/// The body. What the caller gave by name goes to the tool, which is where the fields of images are.
pub(super) fn body(mainline: &str, model: &str, request: &ImageRequest, mode: Mode) -> Body {
    let mut inlining = Inlining::default();
    let mut content = vec![json!({"type": "input_text", "text": request.prompt})];
    for image in &request.inputs {
        content.push(json!({"type": "input_image", "image_url": inlining.data_url(image)}));
    }
    let mut tool = Map::new();
    tool.insert("type".to_owned(), "image_generation".into());
    tool.insert("model".to_owned(), model.into());
    tool.insert("action".to_owned(), if request.is_edit() { "edit" } else { "generate" }.into());
    tool.append(&mut common_fields(request));
    if mode == Mode::Stream && request.partial_images > 0 {
        tool.insert("partial_images".to_owned(), request.partial_images.into());
    }
    if let Some(mask) = &request.mask {
        tool.insert("input_image_mask".to_owned(), json!({"image_url": inlining.data_url(mask)}));
    }
    extend(&mut tool, &request.extra);
    let mut fields = Map::new();
    fields.insert("model".to_owned(), mainline.into());
    fields.insert("input".to_owned(), json!([{"role": "user", "content": content}]));
    fields.insert("tools".to_owned(), json!([tool]));
    fields.insert("tool_choice".to_owned(), json!({"type": "image_generation"}));
    fields.extend(request.end_user.as_deref().map(|user| ("user".to_owned(), Value::from(user))));
    if mode == Mode::Stream {
        fields.insert("stream".to_owned(), true.into());
    }
    inlining.into_body(fields)
}
