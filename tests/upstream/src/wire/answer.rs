//! Answers of calls that were served, as each endpoint words them, at once or as a stream.

use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::{Value, json};

use super::Endpoint;
use crate::{
    drawing::Drawing,
    reply::{Reply, chunk, event},
    terms::{ChatPicture, Terms, UsageReport},
    usage::Usage,
};

/// Text of the mainline model that goes with an image, in tokens.
const MAINLINE_OUT: u64 = 50;

/// Draws what is asked.
pub(crate) struct Artist<'a> {
    pub(crate) terms: &'a Terms,
    pub(crate) endpoint: Endpoint,
    /// By which name the client knows this server.
    pub(crate) host: &'a str,
}

impl Artist<'_> {
    pub(crate) fn draw(&self, drawing: &Drawing, usage: &Usage) -> Reply {
        match (self.endpoint, drawing.stream) {
            (Endpoint::Generations | Endpoint::Edits, false) => Reply::json(200, &self.images(drawing, usage)),
            (Endpoint::Generations | Endpoint::Edits, true) => Reply::events(self.image_events(drawing, usage)),
            (Endpoint::Responses, false) => Reply::json(200, &self.response(drawing, usage)),
            (Endpoint::Responses, true) => Reply::events(self.response_events(drawing, usage)),
            (Endpoint::Chat, false) => Reply::json(200, &self.completion(drawing, usage)),
            (Endpoint::Chat, true) => Reply::events(self.chunks(drawing, usage)),
        }
    }

    fn encoded(&self, drawing: &Drawing, index: u64) -> String {
        BASE64_STANDARD.encode(drawing.picture(index).png(self.terms.pictures))
    }

    fn url(&self, drawing: &Drawing, index: u64) -> String {
        let picture = drawing.picture(index);
        format!("http://{}/files/{}-{}-{}.png", self.host, picture.width, picture.height, picture.seed)
    }

    fn with_usage(&self, mut value: Value, usage: Value) -> Value {
        if self.terms.usage != UsageReport::Left {
            value["usage"] = usage;
        }
        value
    }

    fn images(&self, drawing: &Drawing, usage: &Usage) -> Value {
        let image = |index| match drawing.by_url {
            true => json!({ "url": self.url(drawing, index) }),
            false => json!({ "b64_json": self.encoded(drawing, index) }),
        };
        let images: Vec<_> = (0..drawing.n).map(image).collect();
        let value = json!({
            "created": 1_790_000_000, "data": images, "background": "opaque", "output_format": "png", "quality": "high",
            "size": size(drawing),
        });
        self.with_usage(value, usage.json())
    }

    /// Partial images of each picture, then the picture; usage with the last.
    fn image_events(&self, drawing: &Drawing, usage: &Usage) -> Vec<String> {
        let name = if self.endpoint == Endpoint::Edits { "image_edit" } else { "image_generation" };
        let mut events = Vec::new();
        let base = json!({
            "created_at": 1_790_000_000, "background": "opaque", "output_format": "png", "quality": "high",
            "size": size(drawing),
        });
        for index in 0..drawing.n {
            for partial in 0..drawing.partial_images {
                let mut value = base.clone();
                value["type"] = format!("{name}.partial_image").into();
                value["partial_image_index"] = partial.into();
                value["b64_json"] = self.encoded(drawing, 1_000 * (partial + 1) + index).into();
                events.push(event(&value));
            }
            let mut value = base.clone();
            value["type"] = format!("{name}.completed").into();
            value["b64_json"] = self.encoded(drawing, index).into();
            if index + 1 == drawing.n {
                value = self.with_usage(value, usage.json());
            }
            events.push(event(&value));
        }
        events
    }

    fn response(&self, drawing: &Drawing, usage: &Usage) -> Value {
        let call = json!({
            "id": "ig_0", "type": "image_generation_call", "status": "completed", "result": self.encoded(drawing, 0),
            "output_format": "png", "quality": "high", "size": size(drawing), "revised_prompt": drawing.prompt,
        });
        let text = json!({ "type": "output_text", "text": "Here it is.", "annotations": [] });
        let message = json!({
            "id": "msg_0", "type": "message", "role": "assistant", "status": "completed", "content": [text],
        });
        let value = json!({
            "id": "resp_0", "object": "response", "created_at": 1_790_000_000, "status": "completed", "error": null,
            "output": [call, message],
        });
        let mainline = json!({
            "input_tokens": usage.text_in, "input_tokens_details": { "cached_tokens": 0 },
            "output_tokens": MAINLINE_OUT, "output_tokens_details": { "reasoning_tokens": 0 },
            "total_tokens": usage.text_in + MAINLINE_OUT,
        });
        let mut value = self.with_usage(value, mainline);
        if self.terms.usage == UsageReport::ToldOfTools {
            value["tool_usage"] = json!({ "image_gen": usage.json() });
        }
        value
    }

    fn response_events(&self, drawing: &Drawing, usage: &Usage) -> Vec<String> {
        let done = self.response(drawing, usage);
        let begun = json!({ "id": "resp_0", "object": "response", "status": "in_progress", "output": [] });
        let mut values = vec![
            json!({ "type": "response.created", "response": begun }),
            json!({ "type": "response.in_progress", "response": begun }),
            json!({ "type": "response.image_generation_call.in_progress", "item_id": "ig_0", "output_index": 0 }),
            json!({ "type": "response.image_generation_call.generating", "item_id": "ig_0", "output_index": 0 }),
        ];
        for partial in 0..drawing.partial_images {
            values.push(json!({
                "type": "response.image_generation_call.partial_image", "item_id": "ig_0", "output_index": 0,
                "partial_image_index": partial, "partial_image_b64": self.encoded(drawing, 1_000 * (partial + 1)),
            }));
        }
        values
            .push(json!({ "type": "response.image_generation_call.completed", "item_id": "ig_0", "output_index": 0 }));
        values
            .push(json!({ "type": "response.output_item.done", "output_index": 0, "item": done["output"][0].clone() }));
        values.push(json!({ "type": "response.completed", "response": done }));
        for (number, value) in values.iter_mut().enumerate() {
            value["sequence_number"] = number.into();
        }
        values.iter().map(event).collect()
    }

    fn completion(&self, drawing: &Drawing, usage: &Usage) -> Value {
        let choice =
            |index| json!({ "index": index, "finish_reason": "stop", "message": self.message(drawing, index) });
        let choices: Vec<_> = (0..drawing.n).map(choice).collect();
        let value = json!({
            "id": "chatcmpl-0", "object": "chat.completion", "created": 1_790_000_000, "model": drawing.model,
            "choices": choices,
        });
        self.with_usage(value, chat_usage(usage))
    }

    fn message(&self, drawing: &Drawing, index: u64) -> Value {
        let data_url = || format!("data:image/png;base64,{}", self.encoded(drawing, index));
        let content = match self.terms.chat_picture {
            ChatPicture::Markdown => format!("Here it is.\n\n![image]({})", self.url(drawing, index)),
            ChatPicture::MarkdownData => format!("Here it is.\n\n![image]({})", data_url()),
            ChatPicture::BareUrl => self.url(drawing, index),
            ChatPicture::DataUrl => data_url(),
            ChatPicture::ImagesField => {
                let image = json!({ "type": "image_url", "index": 0, "image_url": { "url": data_url() } });
                return json!({ "role": "assistant", "content": "Here it is.", "images": [image] });
            }
        };
        json!({ "role": "assistant", "content": content })
    }

    /// A message in pieces: its role, its content in halves, its images, then why it ends and what it used.
    fn chunks(&self, drawing: &Drawing, usage: &Usage) -> Vec<String> {
        let piece = |index: u64, delta: Value, end: Option<&str>| {
            let choice = json!({ "index": index, "delta": delta, "finish_reason": end });
            json!({
                "id": "chatcmpl-0", "object": "chat.completion.chunk", "created": 1_790_000_000,
                "model": drawing.model, "choices": [choice],
            })
        };
        let mut values = Vec::new();
        for index in 0..drawing.n {
            let message = self.message(drawing, index);
            let content = message["content"].as_str().unwrap_or_default();
            // In the middle of the address, if there is one; all that is sent is ASCII.
            let (first, second) = content.split_at(content.len() / 2);
            values.push(piece(index, json!({ "role": "assistant", "content": "" }), None));
            values.push(piece(index, json!({ "content": first }), None));
            values.push(piece(index, json!({ "content": second }), None));
            if !message["images"].is_null() {
                values.push(piece(index, json!({ "images": message["images"].clone() }), None));
            }
            values.push(piece(index, json!({}), Some("stop")));
        }
        if let Some(last) = values.pop() {
            values.push(self.with_usage(last, chat_usage(usage)));
        }
        values.iter().map(chunk).chain(["data: [DONE]\n\n".to_owned()]).collect()
    }
}

fn size(drawing: &Drawing) -> String {
    format!("{}x{}", drawing.size.width, drawing.size.height)
}

fn chat_usage(usage: &Usage) -> Value {
    json!({
        "prompt_tokens": usage.text_in + usage.images_in, "completion_tokens": usage.images_out,
        "total_tokens": usage.total(),
    })
}
