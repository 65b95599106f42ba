//! Chat completions of proxies that draw: the prompt is a message, and the image is somewhere in the answer's message.

use serde_json::{Map, Value, json};

use super::{Inlining, common_fields, extend};
use crate::openai::{request::ImageRequest, transport::Body};

/// So many places of a message are looked at, as each look may go to its end.
const PLACES_MAX: usize = 32;

/// The body. Chat completions know no images: what the caller chose of them is sent by the names of the image API.
pub(super) fn body(model: &str, request: &ImageRequest) -> Body {
    let mut inlining = Inlining::default();
    let content = if request.is_edit() {
        let mut parts = vec![json!({"type": "text", "text": request.prompt})];
        for image in &request.inputs {
            parts.push(json!({"type": "image_url", "image_url": {"url": inlining.data_url(image)}}));
        }
        Value::Array(parts)
    } else {
        request.prompt.as_str().into()
    };
    let mut fields = Map::new();
    fields.insert("model".to_owned(), model.into());
    fields.insert("messages".to_owned(), json!([{"role": "user", "content": content}]));
    fields.extend((request.n > 1).then(|| ("n".to_owned(), request.n.into())));
    fields.append(&mut common_fields(request));
    fields.extend(request.end_user.as_deref().map(|user| ("user".to_owned(), Value::from(user))));
    extend(&mut fields, &request.extra);
    inlining.into_body(fields)
}

/// The addresses of images in a message: of Markdown images, else all data URLs, else all addresses. Those of links come last, as proxies
/// link to their own pages beside the image.
pub(super) fn addresses(text: &str) -> Vec<&str> {
    let marked: Vec<&str> =
        text.match_indices("![").take(PLACES_MAX).filter_map(|(at, _)| marked_at(&text[at..])).collect();
    if !marked.is_empty() {
        return marked;
    }
    let bare = |scheme: &'static str| text.match_indices(scheme).take(PLACES_MAX).map(|(at, _)| bare_at(&text[at..]));
    let inlined: Vec<&str> = bare("data:image/").collect();
    if !inlined.is_empty() {
        return inlined;
    }
    let all: Vec<&str> = bare("https://").chain(bare("http://")).collect();
    let pictures: Vec<&str> = all.iter().copied().filter(|url| looks_like_picture(url)).collect();
    if pictures.is_empty() { all } else { pictures }
}

/// `![a cat](https://..)`, at its beginning.
fn marked_at(text: &str) -> Option<&str> {
    let (_, rest) = text.split_once("](")?;
    let end = rest.find([')', ' ', '\n'])?;
    let url = &rest[..end];
    (is_address(url) || url.starts_with("data:image/")).then_some(url)
}

fn bare_at(text: &str) -> &str {
    let end = text.find(|c: char| c.is_whitespace() || "\"'<>()[]{}`".contains(c)).unwrap_or(text.len());
    text[..end].trim_end_matches(['.', ',', ';', ':', '!', '?'])
}

fn is_address(text: &str) -> bool {
    text.starts_with("https://") || text.starts_with("http://")
}

fn looks_like_picture(url: &str) -> bool {
    let path = url.split(['?', '#']).next().unwrap_or_default().to_ascii_lowercase();
    [".png", ".jpg", ".jpeg", ".webp", ".gif", ".svg"].iter().any(|end| path.ends_with(end))
}

/// A data URL's media type and base64.
pub(super) fn data_url(url: &str) -> Option<DataUrl<'_>> {
    let (head, base64) = url.strip_prefix("data:")?.split_once(',')?;
    let media_type = head.strip_suffix(";base64")?;
    Some(DataUrl { media_type: media_type.split(';').next().unwrap_or_default(), base64 })
}

pub(super) struct DataUrl<'a> {
    pub(super) media_type: &'a str,
    pub(super) base64: &'a str,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_image_of_a_message_is_found() {
        for (text, found) in [
            ("![a cat](https://a/cat.png)", vec!["https://a/cat.png"]),
            ("Here: ![x](https://a/1) and ![y](http://a/2 \"title\")", vec!["https://a/1", "http://a/2"]),
            ("![x](data:image/png;base64,QUJD) by https://proxy", vec!["data:image/png;base64,QUJD"]),
            ("data:image/webp;base64,QUJD", vec!["data:image/webp;base64,QUJD"]),
            ("See https://a/cat.", vec!["https://a/cat"]),
            ("[view](https://a/page) https://a/cat.PNG?x=1", vec!["https://a/cat.PNG?x=1"]),
            ("I cannot draw that.", vec![]),
            ("![](", vec![]),
            ("![x](ftp://a/b)", vec![]),
        ] {
            assert_eq!(addresses(text), found, "{text}");
        }
    }
}
