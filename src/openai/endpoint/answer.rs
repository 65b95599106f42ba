//! An answer in JSON, of whatever shape: `data` of the image API, `output` of Responses, `choices` of a chat.
//!
//! Invariant: a base64 text without escapes is not copied. A field of a type that it should not have is as good as missing.

use bytes::Bytes;
use serde::Deserialize;
use serde_json::Value;

use super::{
    chat,
    lenient::{Object, Objects, Text},
};
use crate::openai::{
    error::{ImageError, ImageErrorKind},
    response::{Content, Image},
    usage::Usage,
};

/// What an answer says.
#[derive(Debug, Default)]
pub(in crate::openai) struct Reading {
    /// None where a model answered in words.
    pub(in crate::openai) images: Vec<Image>,
    pub(in crate::openai) usage: Option<Usage>,
}

/// Reads a whole answer.
///
/// # Errors
///
/// `Unreadable` where there is neither an image nor what a model said instead.
pub(in crate::openai) fn read(body: &Bytes) -> Result<Reading, ImageError> {
    let unreadable = |message: &str| ImageError::new(ImageErrorKind::Unreadable, message);
    // the source would quote the answer
    let Object(answer) =
        serde_json::from_slice::<Object<Answer<'_>>>(body).map_err(|_| unreadable("upstream's answer is no JSON"))?;
    let answer = answer.unwrap_or_default();
    let speaks = answer.speaks();
    let reading = answer.reading(body);
    if reading.images.is_empty() && !speaks {
        return Err(unreadable("upstream's answer has no image in it"));
    }
    Ok(reading)
}

/// The shapes of an answer, in one.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Answer<'a> {
    #[serde(borrow)]
    data: Objects<Item<'a>>,
    #[serde(borrow)]
    output: Objects<Item<'a>>,
    choices: Option<Value>,
    usage: Value,
    tool_usage: Value,
    #[serde(borrow)]
    output_format: Text<'a>,
}

/// An image of the image API, or an item of the output of Responses.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Item<'a> {
    #[serde(borrow)]
    b64_json: Text<'a>,
    #[serde(borrow)]
    result: Text<'a>,
    #[serde(borrow)]
    url: Text<'a>,
    #[serde(borrow)]
    revised_prompt: Text<'a>,
    #[serde(borrow)]
    output_format: Text<'a>,
}

impl Answer<'_> {
    /// Whether it is that of a model, which may answer in words: of Responses or a chat.
    pub(super) fn speaks(&self) -> bool {
        let is_filled = |choices: &Value| choices.as_array().is_some_and(|choices| !choices.is_empty());
        self.output.0.as_ref().is_some_and(|items| !items.is_empty()) || self.choices.as_ref().is_some_and(is_filled)
    }

    pub(super) fn reading(self, body: &Bytes) -> Reading {
        let items = [self.data, self.output].into_iter().filter_map(|Objects(items)| items).flatten();
        let mut images: Vec<Image> = items.filter_map(|item| item.image(body, &self.output_format)).collect();
        if let Some(choices) = self.choices {
            images.extend(in_choices(choices));
        }
        // the tokens of a model that calls the tool are billed beside those of the tool
        let parts = [Usage::read(&self.usage), self.tool_usage.get("image_gen").and_then(Usage::read)];
        Reading { images, usage: parts.into_iter().flatten().reduce(Usage::plus) }
    }
}

impl Item<'_> {
    pub(super) fn image(self, body: &Bytes, format: &Text<'_>) -> Option<Image> {
        let text = [self.b64_json, self.result, self.url].into_iter().find(|text| !text.is_empty())?;
        let mut image = image_of(text.held(body))?;
        let format = if self.output_format.is_empty() { format } else { &self.output_format };
        image.media_type = image.media_type.or_else(|| media_type(format.as_str()));
        image.revised_prompt = (!self.revised_prompt.is_empty()).then(|| self.revised_prompt.as_str().to_owned());
        Some(image)
    }
}

/// `image/png` of `png`.
pub(super) fn media_type(format: &str) -> Option<String> {
    match format {
        "" => None,
        "svg" => Some("image/svg+xml".to_owned()),
        "jpg" => Some("image/jpeg".to_owned()),
        format => Some(format!("image/{format}")),
    }
}

/// The image that a text is: an address, a data URL, or base64.
pub(super) fn image_of(text: Bytes) -> Option<Image> {
    let start = std::str::from_utf8(&text).ok()?;
    if start.starts_with("http://") || start.starts_with("https://") {
        return Some(Image::new(Content::Url(start.to_owned())));
    }
    if !start.starts_with("data:") {
        return (!start.is_empty()).then(|| Image::new(Content::Base64(text.clone())));
    }
    let url = chat::data_url(start)?;
    let mut image = Image::new(Content::Base64(text.slice_ref(url.base64.as_bytes())));
    image.media_type = Some(url.media_type.to_owned()).filter(|media_type| !media_type.is_empty());
    Some(image)
}

/// The images in the messages of a chat.
fn in_choices(choices: Value) -> Vec<Image> {
    let Value::Array(choices) = choices else { return Vec::new() };
    let messages = choices.into_iter().filter_map(|mut choice| choice.get_mut("message").map(Value::take));
    messages.flat_map(in_message).collect()
}

/// The images of one message, or of a piece of one: `images`, else the parts or the text of its content.
pub(super) fn in_message(mut message: Value) -> Vec<Image> {
    let mut part = |name: &str| message.get_mut(name).map(Value::take).unwrap_or_default();
    let images = in_parts(part("images"));
    if !images.is_empty() {
        return images;
    }
    match part("content") {
        Value::String(text) => in_text(text),
        parts => in_parts(parts),
    }
}

fn in_parts(parts: Value) -> Vec<Image> {
    let Value::Array(parts) = parts else { return Vec::new() };
    let of = |mut part: Value| {
        if let Some(Value::String(text)) = part.get_mut("text").map(Value::take) {
            return in_text(text);
        }
        let places = ["/image_url/url", "/image_url", "/url", "/b64_json", "/result"];
        let text = places.iter().find_map(|place| match part.pointer_mut(place).map(Value::take) {
            Some(Value::String(text)) => Some(text),
            Some(other) => {
                // looked at on the way to its `url`
                *part.pointer_mut(place)? = other;
                None
            }
            None => None,
        });
        text.and_then(|text| image_of(Bytes::from(text))).into_iter().collect()
    };
    parts.into_iter().flat_map(of).collect()
}

pub(super) fn in_text(text: String) -> Vec<Image> {
    let text = Bytes::from(text);
    let Ok(message) = std::str::from_utf8(&text) else { return Vec::new() };
    chat::addresses(message).into_iter().filter_map(|url| image_of(text.slice_ref(url.as_bytes()))).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn reading(answer: &Value) -> Reading {
        read(&Bytes::from(answer.to_string())).unwrap()
    }

    fn shown(image: &Image) -> String {
        match &image.content {
            Content::Base64(text) | Content::Plain(text) => String::from_utf8(text.to_vec()).unwrap(),
            Content::Url(url) => url.clone(),
        }
    }

    #[test]
    fn an_image_is_found_in_each_shape_of_answer() {
        let url = json!("https://a/cat.png");
        let data_url = json!("data:image/webp;base64,QUJD");
        let message = |message: Value| json!({"choices": [{"index": 0, "message": message}]});
        for (answer, found) in [
            (json!({"created": 1, "data": [{"b64_json": "QUJD"}, {"b64_json": "REVG"}]}), vec!["QUJD", "REVG"]),
            (json!({"data": [{"b64_json": null, "url": url}]}), vec!["https://a/cat.png"]),
            (json!({"data": ["created", 7, ["x"], null, {"b64_json": "QUJD"}], "output": "none"}), vec!["QUJD"]),
            (json!({"data": {"id": 1}, "output": [{"result": "QUJD"}]}), vec!["QUJD"]),
            (json!({"data": "https://a/page", "choices": [{"message": {"content": url}}]}), vec!["https://a/cat.png"]),
            (json!({"data": [{"b64_json": data_url}]}), vec!["QUJD"]),
            (
                json!({"output": [
                    {"type": "reasoning", "result": {"a": [1, -1, 1.5, true, null]}},
                    {"type": "image_generation_call", "result": "QUJD"}
                ]}),
                vec!["QUJD"],
            ),
            (message(json!({"content": "![cat](https://a/cat.png)"})), vec!["https://a/cat.png"]),
            (message(json!({"content": data_url})), vec!["QUJD"]),
            (message(json!({"content": "Here.", "images": [{"image_url": {"url": data_url}}]})), vec!["QUJD"]),
            (message(json!({"content": null, "images": [{"image_url": url}]})), vec!["https://a/cat.png"]),
            (
                message(
                    json!({"content": [{"type": "text", "text": "Here."}, {"type": "image_url", "image_url": {"url": url}}]}),
                ),
                vec!["https://a/cat.png"],
            ),
        ] {
            assert_eq!(reading(&answer).images.iter().map(shown).collect::<Vec<_>>(), found, "{answer}");
        }
    }

    #[test]
    fn base64_is_a_part_of_the_body_unless_it_has_escapes() {
        let body = Bytes::from_static(br#"{"data":[{"b64_json":"QUJD/w=="},{"b64_json":"QUJD\/w=="}]}"#);
        let images = read(&body).unwrap().images;
        let within = |image: &Image| match &image.content {
            Content::Base64(text) => body.as_ptr_range().contains(&text.as_ptr()),
            _ => false,
        };
        assert_eq!(images.iter().map(within).collect::<Vec<_>>(), [true, false]);
        assert_eq!(shown(&images[0]), shown(&images[1]));
    }

    #[test]
    fn format_revised_prompt_and_usage_are_read() {
        let usage = json!({"input_tokens": 1, "output_tokens": 2, "total_tokens": 3});
        let answer =
            json!({"output_format": "webp", "usage": usage, "data": [{"b64_json": "QQ", "revised_prompt": "a"}]});
        let Reading { images, usage: read } = reading(&answer);
        assert_eq!((images[0].media_type(), images[0].revised_prompt()), (Some("image/webp"), Some("a")));
        assert_eq!(read.map(|usage| usage.total_tokens), Some(3));
        let both = json!({"usage": usage, "tool_usage": {"image_gen": usage}, "output": [{"result": "QQ"}]});
        assert_eq!(reading(&both).usage.map(|usage| usage.total_tokens), Some(6));
        let neither = json!({"usage": null, "data": [{"b64_json": "QQ"}]});
        assert_eq!(reading(&neither).usage, None);
    }

    #[test]
    fn an_answer_without_an_image_is_unreadable_and_not_quoted() {
        for body in [
            "",
            "planted",
            "{\"data\":\"planted\"}",
            "[]",
            "{}",
            "{\"data\":[]}",
            "{\"data\":[{\"id\":\"planted\"}]}",
            "{\"choices\":[]}",
        ] {
            let error = read(&Bytes::from(body)).unwrap_err();
            assert_eq!(error.kind(), ImageErrorKind::Unreadable, "{body}");
            assert!(!format!("{error} {error:?}").contains("planted"), "{error:?}");
        }
    }

    #[test]
    fn an_answer_in_words_has_its_usage() {
        let usage = json!({"input_tokens": 1, "output_tokens": 2, "total_tokens": 3});
        let words = json!({"type": "message", "content": [{"type": "output_text", "text": "I cannot draw that."}]});
        for answer in [
            json!({"choices": [{"message": {"content": "I cannot draw that."}}], "usage": usage}),
            json!({"output": [words], "usage": usage}),
        ] {
            let Reading { images, usage } = reading(&answer);
            assert_eq!((images.len(), usage.map(|usage| usage.total_tokens)), (0, Some(3)), "{answer}");
        }
    }
}
