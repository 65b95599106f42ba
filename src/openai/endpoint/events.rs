//! The events of a stream, put together: of the image API, of Responses, and of a chat that was not asked to stream.
//!
//! Invariant: an event that is not known, or not readable, changes nothing. Lacks refusals: they are told apart before.

use serde::Deserialize;
use serde_json::Value;

use super::{
    answer::{Answer, Item, Reading, image_of, in_message, in_text, media_type},
    lenient::{Object, Text},
};
use crate::openai::{
    error::{ImageError, ImageErrorKind},
    response::Image,
    sse::Event,
    usage::Usage,
};

/// What an event brought.
#[derive(Debug)]
pub(in crate::openai) enum Step {
    /// An image in the making. `index` says which of the images, `partial` how far it is.
    Partial { image: Image, index: u32, partial: u32 },
    /// An image that is complete.
    Complete { image: Image, index: u32 },
}

/// Puts the images of a stream together.
#[derive(Debug)]
pub(in crate::openai) struct Assembly {
    /// How many images were asked for.
    wanted: u32,
    reading: Reading,
    /// The words of a chat.
    text: String,
    /// A model has answered, be it in words.
    has_spoken: bool,
    is_over: bool,
}

/// The events, in one.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Frame<'a> {
    #[serde(borrow, rename = "type")]
    kind: Text<'a>,
    #[serde(borrow)]
    b64_json: Text<'a>,
    #[serde(borrow)]
    url: Text<'a>,
    #[serde(borrow)]
    partial_image_b64: Text<'a>,
    #[serde(borrow)]
    output_format: Text<'a>,
    partial_image_index: Value,
    usage: Value,
    #[serde(borrow)]
    item: Object<Item<'a>>,
    #[serde(borrow)]
    response: Object<Answer<'a>>,
    choices: Value,
}

impl Assembly {
    pub(in crate::openai) fn new(wanted: u32) -> Self {
        Self { wanted, reading: Reading::default(), text: String::new(), has_spoken: false, is_over: false }
    }

    /// Whether all has come, so that no more need be read.
    pub(in crate::openai) fn is_over(&self) -> bool {
        self.is_over
    }

    /// Takes the next event, and says what it brought.
    pub(in crate::openai) fn take(&mut self, event: &Event) -> Vec<Step> {
        if event.data.trim_ascii() == b"[DONE]" {
            self.is_over = true;
            return Vec::new();
        }
        let Ok(Object(Some(frame))) = serde_json::from_slice::<Object<Frame<'_>>>(&event.data) else {
            return Vec::new();
        };
        let kind = if frame.kind.is_empty() { event.name.as_str() } else { frame.kind.as_str() };
        match kind {
            "image_generation.partial_image"
            | "image_edit.partial_image"
            | "response.image_generation_call.partial_image" => self.partial(event, frame).into_iter().collect(),
            "image_generation.completed" | "image_edit.completed" => {
                let format = media_type(frame.output_format.as_str());
                let usage = Usage::read(&frame.usage);
                let text = if frame.b64_json.is_empty() { frame.url } else { frame.b64_json };
                let mut image = image_of(text.held(&event.data));
                if let Some(image) = &mut image {
                    image.media_type = image.media_type.take().or(format);
                }
                let steps = self.complete(image);
                self.used(usage);
                self.is_over = self.reading.images.len() >= self.wanted as usize;
                steps
            }
            "response.output_item.done" => {
                let image = frame.item.0.and_then(|item| item.image(&event.data, &Text::default()));
                self.complete(image)
            }
            "response.completed" | "response.incomplete" => {
                let response = frame.response.0.unwrap_or_default();
                self.has_spoken |= response.speaks();
                let whole = response.reading(&event.data);
                self.used(whole.usage);
                self.is_over = true;
                // those that came as items are in it once more
                if self.reading.images.is_empty() { self.complete(whole.images) } else { Vec::new() }
            }
            _ if frame.choices.is_array() => {
                self.used(Usage::read(&frame.usage));
                self.pieces(frame.choices)
            }
            _ => self.whole(event),
        }
    }

    /// The stream has ended.
    ///
    /// # Errors
    ///
    /// `Unanswered` where it ended before an image was complete.
    pub(in crate::openai) fn finish(mut self) -> Result<Reading, ImageError> {
        if self.reading.images.is_empty() {
            self.reading.images = in_text(std::mem::take(&mut self.text));
        }
        if !self.reading.images.is_empty() || (self.is_over && self.has_spoken) {
            return Ok(self.reading);
        }
        Err(if self.is_over {
            ImageError::new(ImageErrorKind::Unreadable, "upstream's stream has no image in it")
        } else {
            ImageError::new(ImageErrorKind::Unanswered, "upstream's stream ended before an image was complete")
        })
    }

    fn partial(&self, event: &Event, frame: Frame<'_>) -> Option<Step> {
        let number = |value: &Value| value.as_u64().and_then(|number| u32::try_from(number).ok());
        let partial = number(&frame.partial_image_index).unwrap_or(0);
        // an image of the image API comes after those that are complete; Responses draws one
        let index = u32::try_from(self.reading.images.len()).unwrap_or(u32::MAX);
        let format = media_type(frame.output_format.as_str());
        let text = if frame.b64_json.is_empty() { frame.partial_image_b64 } else { frame.b64_json };
        let mut image = image_of(text.held(&event.data))?;
        image.media_type = image.media_type.or(format);
        Some(Step::Partial { image, index, partial })
    }

    fn complete(&mut self, images: impl IntoIterator<Item = Image>) -> Vec<Step> {
        let first = self.reading.images.len();
        self.reading.images.extend(images);
        let indices = (first..).map(|index| u32::try_from(index).unwrap_or(u32::MAX));
        let new = indices.zip(self.reading.images.iter().skip(first));
        new.map(|(index, image)| Step::Complete { image: image.clone(), index }).collect()
    }

    fn used(&mut self, usage: Option<Usage>) {
        self.reading.usage = [self.reading.usage, usage].into_iter().flatten().reduce(Usage::plus);
    }

    /// Pieces of the messages of a chat.
    fn pieces(&mut self, choices: Value) -> Vec<Step> {
        let mut images = Vec::new();
        let Value::Array(choices) = choices else { return Vec::new() };
        for mut choice in choices {
            let name = if choice.get("delta").is_some() { "delta" } else { "message" };
            let mut piece = choice.get_mut(name).map(Value::take).unwrap_or_default();
            match piece.get_mut("content").map(Value::take) {
                // an address may be cut in two
                Some(Value::String(text)) => {
                    self.has_spoken |= !text.is_empty();
                    self.text.push_str(&text);
                }
                Some(parts @ Value::Array(_)) => piece["content"] = parts,
                _ => {}
            }
            images.extend(in_message(piece));
        }
        self.complete(images)
    }

    /// A whole answer as one event.
    fn whole(&mut self, event: &Event) -> Vec<Step> {
        let Ok(Object(Some(answer))) = serde_json::from_slice::<Object<Answer<'_>>>(&event.data) else {
            return Vec::new();
        };
        self.has_spoken |= answer.speaks();
        let whole = answer.reading(&event.data);
        self.used(whole.usage);
        self.complete(whole.images)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use serde_json::json;

    use super::*;

    fn event(data: &Value) -> Event {
        Event { name: "message".into(), data: Bytes::from(data.to_string()) }
    }

    fn done() -> Event {
        Event { name: "message".into(), data: Bytes::from_static(b"[DONE]") }
    }

    /// What each event brought: `p` for a preview, `c` for an image, with its index.
    fn played(wanted: u32, events: &[Event]) -> (Assembly, Vec<String>) {
        let mut assembly = Assembly::new(wanted);
        let shown = |step: Step| match step {
            Step::Partial { index, partial, .. } => format!("p{index}.{partial}"),
            Step::Complete { index, .. } => format!("c{index}"),
        };
        let steps = events.iter().flat_map(|event| assembly.take(event)).map(shown).collect();
        (assembly, steps)
    }

    #[test]
    fn images_come_after_their_previews_and_their_usage_adds_up() {
        let usage = json!({"input_tokens": 1, "output_tokens": 2, "total_tokens": 3});
        let partial = |at: u32| {
            event(&json!({"type": "image_generation.partial_image", "b64_json": "QQ", "partial_image_index": at}))
        };
        let completed = event(&json!({"type": "image_generation.completed", "b64_json": "QUJD", "usage": usage}));
        let events = [partial(0), partial(1), completed.clone(), partial(0), completed];
        let (assembly, steps) = played(2, &events);
        assert_eq!(steps, ["p0.0", "p0.1", "c0", "p1.0", "c1"]);
        assert!(assembly.is_over());
        let reading = assembly.finish().unwrap();
        assert_eq!((reading.images.len(), reading.usage.map(|usage| usage.total_tokens)), (2, Some(6)));
        assert!(!played(2, &events[..3]).0.is_over());
    }

    #[test]
    fn the_events_of_responses_are_read() {
        let usage = json!({"input_tokens": 1, "output_tokens": 2});
        let item = json!({"type": "image_generation_call", "result": "QUJD"});
        let partial = json!({"type": "response.image_generation_call.partial_image", "partial_image_b64": "QQ"});
        let whole = json!({"type": "response.completed", "response": {"output": [item], "usage": usage}});
        let events = [
            json!({"type": "response.created"}),
            partial,
            json!({"type": "response.output_item.done", "item": item}),
            whole.clone(),
        ];
        let (assembly, steps) = played(1, &events.each_ref().map(event));
        assert_eq!((steps.as_slice(), assembly.is_over()), (&["p0.0".to_owned(), "c0".to_owned()][..], true));
        let reading = assembly.finish().unwrap();
        assert_eq!((reading.images.len(), reading.usage.map(|usage| usage.total_tokens)), (1, Some(3)));
        let (assembly, steps) = played(1, &[event(&whole)]);
        assert_eq!((steps, assembly.finish().unwrap().images.len()), (vec!["c0".to_owned()], 1));
    }

    #[test]
    fn a_field_of_another_type_loses_no_image() {
        let of_the_api = event(&json!({
            "type": "image_generation.completed", "b64_json": "QUJD", "item": "item_1", "response": ["resp_1"]
        }));
        let of_responses = [
            event(&json!({"type": "response.output_item.done", "item": {"result": "QUJD"}, "response": "resp_1"})),
            event(&json!({"type": "response.completed", "response": "resp_1", "item": 7})),
        ];
        for events in [&[of_the_api][..], &of_responses] {
            assert_eq!(played(1, events).0.finish().unwrap().images.len(), 1, "{events:?}");
        }
    }

    #[test]
    fn an_address_in_pieces_of_a_chat_is_put_together() {
        let piece = |text: &str| event(&json!({"choices": [{"delta": {"content": text}}]}));
        let (assembly, _) = played(1, &[piece("![a](https://a/c"), piece("at.png) Done."), done()]);
        assert_eq!(assembly.finish().unwrap().images[0].url(), Some("https://a/cat.png"));
        let images = json!([{"image_url": {"url": "data:image/png;base64,QQ"}}]);
        let (assembly, steps) = played(1, &[event(&json!({"choices": [{"delta": {"images": images}}]}))]);
        assert_eq!((steps, assembly.finish().unwrap().images.len()), (vec!["c0".to_owned()], 1));
    }

    #[test]
    fn a_whole_answer_may_come_as_one_event() {
        let (assembly, steps) = played(1, &[event(&json!({"data": [{"b64_json": "QQ"}]})), done()]);
        assert_eq!((steps, assembly.finish().unwrap().images.len()), (vec!["c0".to_owned()], 1));
    }

    #[test]
    fn a_stream_without_an_image_says_whether_it_was_cut() {
        let kind = |events: &[Event]| played(1, events).0.finish().unwrap_err().kind();
        let partial = event(&json!({"type": "image_edit.partial_image", "b64_json": "QQ"}));
        assert_eq!(kind(std::slice::from_ref(&partial)), ImageErrorKind::Unanswered);
        assert_eq!(kind(&[partial, done()]), ImageErrorKind::Unreadable);
        let piece = event(&json!({"choices": [{"delta": {"content": "I cannot draw that."}}]}));
        assert_eq!(kind(std::slice::from_ref(&piece)), ImageErrorKind::Unanswered);
        let words = json!({"type": "message", "content": [{"type": "output_text", "text": "I cannot draw that."}]});
        let usage = json!({"input_tokens": 1, "output_tokens": 2, "total_tokens": 3});
        let whole = event(&json!({"type": "response.completed", "response": {"output": [words], "usage": usage}}));
        assert!(played(1, &[piece, done()]).0.finish().unwrap().images.is_empty(), "words, and all of them");
        let reading = played(1, &[whole]).0.finish().unwrap();
        assert_eq!((reading.images.len(), reading.usage.map(|usage| usage.total_tokens)), (0, Some(3)));
        assert_eq!(kind(&[Event { name: String::new(), data: Bytes::from_static(b"{") }]), ImageErrorKind::Unanswered);
    }
}
