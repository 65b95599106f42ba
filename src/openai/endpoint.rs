//! How a request is spelled for each style of API, and how an answer is read.
//!
//! Invariant: an answer is read by its shape, not by the style it was asked in, as proxies answer one with the shape of another. The text of
//! an image stays a part of the answer's body.

mod answer;
mod chat;
mod events;
mod images;
mod lenient;
mod responses;

use std::collections::BTreeMap;

use bytes::Bytes;
use serde_json::{Map, Value, json};
use uuid::Uuid;

pub(super) use self::{
    answer::{Reading, read},
    events::{Assembly, Step},
};
use crate::openai::{
    error::ImageError,
    inline::Inlined,
    input::ImageInput,
    request::{ImageRequest, Quality, Size},
    route::{Route, Style},
    transport::{Body, KeyHeader, Transport},
};

/// How an answer is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// Whole.
    Whole,
    /// As events.
    Stream,
}

/// A request as a route takes it.
#[derive(Debug)]
pub(super) struct Spelled {
    pub(super) url: String,
    pub(super) key_header: KeyHeader,
    pub(super) body: Body,
}

/// Spells `request` for a route that has words for it, where the model is called `model`.
pub(super) fn spell(route: &Route, model: &str, request: &ImageRequest, mode: Mode) -> Spelled {
    let base = &route.base_url;
    let (url, key_header, body) = match &route.style {
        Style::Images => (
            format!("{base}/images/{}", images::verb(request)),
            KeyHeader::Bearer,
            images::body(Some(model), request, mode),
        ),
        Style::Azure { deployment, api_version } => {
            let (deployment, version) = (segment(deployment), segment(api_version));
            let verb = images::verb(request);
            let url = format!("{base}/openai/deployments/{deployment}/images/{verb}?api-version={version}");
            // the deployment says which model it is
            (url, KeyHeader::ApiKey, images::body(None, request, mode))
        }
        Style::Responses { model: mainline } => {
            (format!("{base}/responses"), KeyHeader::Bearer, responses::body(mainline, model, request, mode))
        }
        Style::Chat => (format!("{base}/chat/completions"), KeyHeader::Bearer, chat::body(model, request)),
    };
    Spelled { url, key_header, body }
}

/// Asks a route which models it has.
pub(super) async fn list_models(transport: &Transport, route: &Route) -> Result<Bytes, ImageError> {
    Ok(transport.fetch(&format!("{}/models", route.base_url), route.key.as_ref()).await?.body)
}

/// Whether a route of this style can answer with events.
pub(super) fn streams(style: &Style) -> bool {
    *style != Style::Chat
}

/// The fields that each style spells alike, those that the caller gave by name last.
fn common_fields(request: &ImageRequest) -> Map<String, Value> {
    let mut fields = Map::new();
    let mut put = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            fields.insert(name.to_owned(), value);
        }
    };
    put("size", (request.size != Size::Auto).then(|| request.size.to_string().into()));
    put("quality", (request.quality != Quality::Auto).then(|| request.quality.name().into()));
    put("background", request.background.map(|background| background.name().into()));
    put("output_format", request.format.map(|format| format.name().into()));
    put("output_compression", request.compression.map(Value::from));
    put("moderation", request.moderation.map(|moderation| moderation.name().into()));
    put("input_fidelity", request.fidelity.map(|fidelity| fidelity.name().into()));
    fields
}

fn extend(fields: &mut Map<String, Value>, extra: &BTreeMap<String, Value>) {
    fields.extend(extra.iter().map(|(name, value)| (name.clone(), value.clone())));
}

/// Images that go into a JSON text as data URLs.
#[derive(Default)]
struct Inlining(Vec<Inlined>);

impl Inlining {
    /// The URL of an image: a marker stands where its base64 goes. Images go into the text in the order of these calls.
    fn data_url(&mut self, image: &ImageInput) -> Value {
        let marker = format!("allotment-image-{}", Uuid::now_v7().simple());
        let url = format!("data:{};base64,{marker}", image.media_type);
        self.0.push(Inlined { marker, image: image.clone() });
        json!(url)
    }

    fn into_body(self, fields: Map<String, Value>) -> Body {
        Body::Json { text: Value::Object(fields).to_string(), inlined: self.0 }
    }
}

/// Percent-encodes what a segment of a path or a query does not take as it is.
fn segment(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::openai::{
        input::Source,
        request::{Background, InputFidelity, Moderation, OutputFormat, refuse_extra},
        transport::Field,
    };

    fn image(name: &str) -> ImageInput {
        let source = Source::Memory(Bytes::from_static(b"abc"));
        ImageInput { source, media_type: "image/png".into(), name: name.into(), pixels: None }
    }

    fn sent(route: &Route, request: &ImageRequest, mode: Mode) -> (String, Value) {
        let spelled = spell(route, "m", request, mode);
        let Body::Json { text, inlined } = spelled.body else { panic!("{:?}", spelled.body) };
        let text = inlined.iter().fold(text, |text, inlined| text.replace(&inlined.marker, "YWJj"));
        (spelled.url, serde_json::from_str(&text).unwrap())
    }

    #[test]
    fn a_generation_names_what_differs_from_the_defaults() {
        let route = Route::compatible("a", "https://a/v1", "key");
        let (url, body) = sent(&route, &ImageRequest::generate("cat"), Mode::Whole);
        assert_eq!(url, "https://a/v1/images/generations");
        assert_eq!(body, json!({"model": "m", "prompt": "cat", "n": 1}));
        let request = ImageRequest::generate("cat").n(2).size(Size::PORTRAIT).quality(Quality::Low).end_user("u");
        let request = request.background(Background::Opaque).format(OutputFormat::Webp).compression(50);
        let (_, body) = sent(&route, &request.partial_images(2).extra("style", "vivid"), Mode::Stream);
        let expected = json!({
            "model": "m", "prompt": "cat", "n": 2, "size": "1024x1536", "quality": "low", "user": "u",
            "background": "opaque", "output_format": "webp", "output_compression": 50,
            "stream": true, "partial_images": 2, "style": "vivid"
        });
        assert_eq!(body, expected);
    }

    #[test]
    fn what_is_sent_by_itself_is_not_taken_from_extra() {
        let full = |request: ImageRequest| {
            let request = request.n(2).size(Size::SQUARE).quality(Quality::Low).end_user("u").partial_images(1);
            let request = request.background(Background::Opaque).format(OutputFormat::Webp).compression(50);
            request.moderation(Moderation::Low).fidelity(InputFidelity::High)
        };
        let (drawn, edited) = (ImageRequest::generate("cat"), ImageRequest::edit("hat", [image("a.png")]));
        let keys = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
        let tool = sent(&Route::responses("a", "m", "key"), &full(edited.clone()).mask(image("b.png")), Mode::Stream);
        let mut fields = keys(&tool.1["tools"][0]);
        for route in [Route::compatible("a", "https://a/v1", "key"), Route::chat("a", "https://a/v1", "key")] {
            fields.extend(keys(&sent(&route, &full(drawn.clone()), Mode::Stream).1));
        }
        let form = spell(&Route::openai("a", "key"), "m", &full(edited).mask(image("b.png")), Mode::Stream).body;
        let Body::Form(parts) = form else { panic!("{form:?}") };
        fields.extend(parts.into_iter().map(|part| match part {
            Field::Text { name, .. } => name,
            Field::Image { name, .. } => name.to_owned(),
        }));
        assert!(fields.len() > 40, "{fields:?}");
        let taken: Vec<_> = fields.iter().filter(|field| refuse_extra(field).is_none()).collect();
        assert!(taken.is_empty(), "{taken:?}");
    }

    #[test]
    fn azure_names_the_deployment_and_not_the_model() {
        let route = Route::azure("a", "https://a.azure.com", "my images", "key").api_version("2025-04-01-preview");
        let spelled = spell(&route, "m", &ImageRequest::generate("cat"), Mode::Whole);
        let expected =
            "https://a.azure.com/openai/deployments/my%20images/images/generations?api-version=2025-04-01-preview";
        assert_eq!((spelled.url.as_str(), spelled.key_header), (expected, KeyHeader::ApiKey));
        assert_eq!(sent(&route, &ImageRequest::generate("cat"), Mode::Whole).1, json!({"prompt": "cat", "n": 1}));
    }

    #[test]
    fn an_edit_is_a_form_with_a_part_for_each_image() {
        let request = ImageRequest::edit("hat", [image("a.png"), image("b.png")]).mask(image("mask.png"));
        let request = request.fidelity(InputFidelity::High).extra("seed", 7);
        let route = Route::compatible("a", "https://a/v1", "key");
        let spelled = spell(&route, "m", &request, Mode::Whole);
        assert_eq!(spelled.url, "https://a/v1/images/edits");
        let Body::Form(fields) = spelled.body else { panic!() };
        let shown = |field: &Field| match field {
            Field::Text { name, value } => format!("{name}={value}"),
            Field::Image { name, image } => format!("{name}@{}", image.name),
        };
        let mut shown: Vec<_> = fields.iter().map(shown).collect();
        shown.sort();
        let expected = [
            "image[]@a.png",
            "image[]@b.png",
            "input_fidelity=high",
            "mask@mask.png",
            "model=m",
            "n=1",
            "prompt=hat",
            "seed=7",
        ];
        assert_eq!(shown, expected);
    }

    #[test]
    fn a_tool_of_responses_draws_one_image() {
        let route = Route::responses("a", "mainline", "key");
        let request = ImageRequest::edit("hat", [image("a.png")]).mask(image("mask.png")).size(Size::SQUARE);
        let (url, body) = sent(&route, &request.partial_images(1), Mode::Stream);
        assert_eq!(url, "https://api.openai.com/v1/responses");
        let expected = json!({
            "model": "mainline",
            "input": [{"role": "user", "content": [
                {"type": "input_text", "text": "hat"},
                {"type": "input_image", "image_url": "data:image/png;base64,YWJj"}
            ]}],
            "tools": [{
                "type": "image_generation", "model": "m", "action": "edit", "size": "1024x1024", "partial_images": 1,
                "input_image_mask": {"image_url": "data:image/png;base64,YWJj"}
            }],
            "tool_choice": {"type": "image_generation"},
            "stream": true
        });
        assert_eq!(body, expected);
    }

    #[test]
    fn a_chat_has_the_prompt_and_images_in_a_message() {
        let route = Route::chat("a", "https://a/v1", "key");
        let (url, body) = sent(&route, &ImageRequest::generate("cat").size(Size::SQUARE), Mode::Stream);
        assert_eq!(url, "https://a/v1/chat/completions");
        let message = json!([{"role": "user", "content": "cat"}]);
        assert_eq!(body, json!({"model": "m", "messages": message, "size": "1024x1024"}));
        let (_, body) =
            sent(&route, &ImageRequest::edit("hat", [image("a.png")]).n(2).fidelity(InputFidelity::Low), Mode::Whole);
        let parts = json!([
            {"type": "text", "text": "hat"},
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,YWJj"}}
        ]);
        assert_eq!(
            body,
            json!({"model": "m", "messages": [{"role": "user", "content": parts}], "n": 2, "input_fidelity": "low"})
        );
    }
}
