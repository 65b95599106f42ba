//! What a call asks, read from JSON or from a form.

use std::time::Duration;

use axum::{
    body::{Body, to_bytes},
    extract::{DefaultBodyLimit, FromRequest, Multipart, multipart::MultipartError},
    http::{Request, request},
};
use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::Endpoint;
use crate::{
    drawing::{Drawing, Pixels, Quality},
    models::{Counting, model},
    reply::Reply,
    shapes::invalid,
    tally::Part,
};

/// A request may be this large, as upstream's may.
const BODY_MAX: usize = 1024 * 1024 * 1024;

/// A call may say by `draw_ms`, which no real API has, how long its drawing takes. No drawing takes longer than this.
const DRAW_MS_MAX: u64 = 600_000;

/// A request as it came, and what it means.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) body: Value,
    pub(crate) parts: Vec<Part>,
    /// The model that is named, whether it is known or not.
    pub(crate) model: String,
    pub(crate) drawing: Result<Drawing, Box<Reply>>,
}

/// The client went, or its body could not be read.
#[derive(Debug)]
pub(crate) struct Unread;

/// Reads all of a request.
pub(crate) async fn read(
    endpoint: Endpoint,
    deployment: Option<String>,
    head: &request::Parts,
    body: Body,
) -> Result<Asked, Unread> {
    let mut form = match endpoint {
        Endpoint::Edits => match read_form(head, body).await {
            Ok(form) => form,
            Err(reply) => return Ok(unreadable(reply)),
        },
        _ => {
            let bytes = to_bytes(body, BODY_MAX).await.map_err(|_| Unread)?;
            match serde_json::from_slice(&bytes) {
                Ok(fields) => Form { fields, ..Form::default() },
                Err(_) => return Ok(unreadable(invalid("body", "We could not parse the JSON body of your request."))),
            }
        }
    };
    // Azure names a deployment in the path; here it is named as its model.
    if let Some(deployment) = deployment {
        if !head.uri.query().is_some_and(|query| query.contains("api-version=")) {
            let error = json!({ "error": { "code": "404", "message": "Resource not found" } });
            return Ok(unreadable(Reply::json(404, &error)));
        }
        form.fields["model"] = deployment.into();
    }
    let drawing = match endpoint {
        Endpoint::Generations | Endpoint::Edits => of_images(&form, endpoint),
        Endpoint::Responses => of_response(&form.fields),
        Endpoint::Chat => of_chat(&form.fields),
    };
    let model = match &drawing {
        Ok(drawing) => drawing.model.clone(),
        Err(_) => form.fields["model"].as_str().unwrap_or_default().to_owned(),
    };
    Ok(Asked { body: form.fields, parts: form.parts, model, drawing })
}

fn unreadable(reply: Reply) -> Asked {
    Asked { body: Value::Null, parts: vec![], model: String::new(), drawing: Err(Box::new(reply)) }
}

#[derive(Debug, Default)]
struct Form {
    fields: Value,
    parts: Vec<Part>,
    inputs: Vec<Pixels>,
}

async fn read_form(head: &request::Parts, body: Body) -> Result<Form, Reply> {
    let mut request = Request::new(body);
    *request.headers_mut() = head.headers.clone();
    DefaultBodyLimit::max(BODY_MAX).apply(&mut request);
    let Ok(mut multipart) = Multipart::from_request(request, &()).await else {
        return Err(invalid("body", "Expected multipart/form-data."));
    };
    let (mut fields, mut parts, mut inputs) = (Map::new(), Vec::new(), Vec::new());
    while let Some(field) = multipart.next_field().await.map_err(|error| broken(&error))? {
        let name = field.name().unwrap_or_default().to_owned();
        let file_name = field.file_name().map(str::to_owned);
        let media_type = field.content_type().map(str::to_owned);
        let bytes = field.bytes().await.map_err(|error| broken(&error))?;
        if file_name.is_some() || media_type.as_ref().is_some_and(|media_type| media_type.starts_with("image/")) {
            inputs.push(pixels(&bytes));
            let sha256 = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
            parts.push(Part { name, file_name, media_type, length: bytes.len(), sha256 });
        } else {
            fields.insert(name, String::from_utf8_lossy(&bytes).into_owned().into());
        }
    }
    Ok(Form { fields: fields.into(), parts, inputs })
}

fn broken(error: &MultipartError) -> Reply {
    invalid("body", &error.body_text())
}

/// The size of a picture; of one that is no PNG, a square.
fn pixels(file: &[u8]) -> Pixels {
    Pixels::of_png(file).unwrap_or(Pixels { width: 1_024, height: 1_024 })
}

/// A field as text. Forms have only that.
fn text<'a>(fields: &'a Value, name: &str) -> Option<&'a str> {
    fields[name].as_str()
}

fn number(fields: &Value, name: &str) -> Result<Option<u64>, Box<Reply>> {
    match &fields[name] {
        Value::Null => Ok(None),
        Value::String(text) if text.parse::<u64>().is_ok() => Ok(text.parse().ok()),
        Value::Number(number) if number.is_u64() => Ok(number.as_u64()),
        other => {
            Err(Box::new(invalid(name, &format!("Invalid type for '{name}': expected an integer, but got {other}."))))
        }
    }
}

fn of_images(form: &Form, endpoint: Endpoint) -> Result<Drawing, Box<Reply>> {
    let fields = &form.fields;
    let default = if endpoint == Endpoint::Edits { "gpt-image-1.5" } else { "gpt-image-2" };
    let model = text(fields, "model").unwrap_or(default);
    let images = form.parts.iter().filter(|part| matches!(part.name.as_str(), "image" | "image[]")).count();
    if endpoint == Endpoint::Edits && !(1..=16).contains(&images) {
        return Err(Box::new(invalid("image", &format!("Expected 1 to 16 images, but got {images}."))));
    }
    let prompt = text(fields, "prompt").unwrap_or_default();
    drawing(fields, model, prompt, form.inputs.clone())
}

/// The tool `image_generation` of a Responses call.
fn of_response(fields: &Value) -> Result<Drawing, Box<Reply>> {
    let tools = fields["tools"].as_array().into_iter().flatten();
    let Some(tool) = tools.into_iter().find(|tool| tool["type"] == "image_generation") else {
        return Err(Box::new(invalid("tools", "Here only calls with the tool 'image_generation' are answered.")));
    };
    let content = fields["input"].as_array().into_iter().flatten().map(|message| &message["content"]);
    let (mut prompt, mut inputs) = read_content(content, "input_image", "image_url");
    if let Some(input) = text(fields, "input") {
        prompt = input.to_owned();
    }
    if !tool["input_image_mask"].is_null() {
        inputs.push(data_url_pixels(&tool["input_image_mask"]["image_url"]));
    }
    let model = text(tool, "model").unwrap_or("gpt-image-1");
    let mut drawing = drawing(tool, model, &prompt, inputs)?;
    drawing.n = 1;
    drawing.stream = fields["stream"] == true;
    Ok(drawing)
}

fn of_chat(fields: &Value) -> Result<Drawing, Box<Reply>> {
    let content = fields["messages"].as_array().into_iter().flatten().map(|message| &message["content"]);
    let (prompt, inputs) = read_content(content, "image_url", "image_url");
    drawing(fields, text(fields, "model").unwrap_or_default(), &prompt, inputs)
}

/// The text and the images of messages, whose content is a text or a list of parts.
fn read_content<'a>(
    contents: impl Iterator<Item = &'a Value>,
    image_type: &str,
    image_field: &str,
) -> (String, Vec<Pixels>) {
    let (mut prompt, mut inputs) = (String::new(), Vec::new());
    for content in contents {
        prompt.push_str(content.as_str().unwrap_or_default());
        for part in content.as_array().into_iter().flatten() {
            if part["type"] == image_type {
                inputs.push(data_url_pixels(&part[image_field]));
            } else {
                prompt.push_str(part["text"].as_str().unwrap_or_default());
            }
        }
    }
    (prompt, inputs)
}

/// The size of a picture in a data URL, given as text or as `{"url": ..}`.
fn data_url_pixels(url: &Value) -> Pixels {
    let url = url.as_str().or_else(|| url["url"].as_str()).unwrap_or_default();
    let file = url.split_once("base64,").and_then(|(_, encoded)| BASE64_STANDARD.decode(encoded).ok());
    pixels(&file.unwrap_or_default())
}

/// The fields that all endpoints share, judged by what the model can do.
fn drawing(fields: &Value, name: &str, prompt: &str, inputs: Vec<Pixels>) -> Result<Drawing, Box<Reply>> {
    let wrong = |param: &str, message: String| Box::new(invalid(param, &message));
    if prompt.is_empty() {
        return Err(wrong("prompt", "Missing required parameter: 'prompt'.".to_owned()));
    }
    if prompt.chars().count() > 32_000 {
        return Err(wrong(
            "prompt",
            "Invalid 'prompt': string too long. Expected at most 32000 characters.".to_owned(),
        ));
    }
    let n = number(fields, "n")?.unwrap_or(1);
    if !(1..=10).contains(&n) {
        return Err(wrong("n", format!("Invalid 'n': expected 1 to 10, but got {n}.")));
    }
    let partial_images = number(fields, "partial_images")?.unwrap_or(0);
    if partial_images > 3 {
        return Err(wrong("partial_images", format!("Expected 0 to 3, but got {partial_images}.")));
    }
    let counting = model(name).map(|model| model.counting);
    let size_text = text(fields, "size").unwrap_or("auto");
    let size = Pixels::parse(size_text).filter(|&size| counting.is_none_or(|counting| fits(counting, size)));
    let size = size.ok_or_else(|| wrong("size", format!("Invalid value: '{size_text}'.")))?;
    let quality_text = text(fields, "quality").unwrap_or("auto");
    let quality = Quality::parse(quality_text).filter(|quality| {
        let newer = matches!(quality, Quality::XHigh | Quality::Max);
        !newer || counting.is_none_or(|counting| matches!(counting, Counting::Formula([_, 32, ..])))
    });
    let quality = quality.ok_or_else(|| wrong("quality", format!("Invalid value: '{quality_text}'.")))?;
    let fidelity = text(fields, "input_fidelity");
    if fidelity.is_some() && matches!(counting, Some(Counting::Formula(_))) {
        return Err(wrong("input_fidelity", format!("'input_fidelity' is not supported by {name}.")));
    }
    let draw_ms = number(fields, "draw_ms")?.unwrap_or(0);
    if draw_ms > DRAW_MS_MAX {
        return Err(wrong("draw_ms", format!("Expected at most {DRAW_MS_MAX}, but got {draw_ms}.")));
    }
    Ok(Drawing {
        model: name.to_owned(),
        prompt: prompt.to_owned(),
        n,
        size,
        quality,
        partial_images,
        stream: fields["stream"] == true || fields["stream"] == "true",
        high_fidelity: fidelity == Some("high"),
        by_url: text(fields, "response_format") == Some("url"),
        inputs,
        draw_for: Duration::from_millis(draw_ms),
    })
}

/// Whether a model draws pictures of a size.
fn fits(counting: Counting, Pixels { width, height }: Pixels) -> bool {
    match counting {
        Counting::Table => matches!((width, height), (1_024, 1_024) | (1_024, 1_536) | (1_536, 1_024)),
        Counting::Formula(_) => {
            let area = u64::from(width) * u64::from(height);
            let (short, long) = (width.min(height), width.max(height));
            width % 16 == 0
                && height % 16 == 0
                && long <= 3 * short
                && long <= 3_840
                && (655_360..=8_294_400).contains(&area)
        }
    }
}
