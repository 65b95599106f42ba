//! Fields of the APIs that a request has a setter for.
//!
//! Invariant: what the client sends by itself is not taken from `extra`, which neither the estimate nor a check looks at.

/// With how it is set; `responses` and chats have names of their own for some.
const SETTERS: [(&str, &str); 20] = [
    ("model", "ImageRequest::model"),
    ("prompt", "ImageRequest::generate"),
    ("messages", "ImageRequest::generate"),
    ("n", "ImageRequest::n"),
    ("size", "ImageRequest::size"),
    ("quality", "ImageRequest::quality"),
    ("background", "ImageRequest::background"),
    ("output_format", "ImageRequest::format"),
    ("output_compression", "ImageRequest::compression"),
    ("moderation", "ImageRequest::moderation"),
    ("input_fidelity", "ImageRequest::fidelity"),
    ("partial_images", "ImageRequest::partial_images"),
    ("stream", "ImageClient::stream"),
    ("image", "ImageRequest::edit"),
    ("images", "ImageRequest::edit"),
    ("mask", "ImageRequest::mask"),
    ("input_image_mask", "ImageRequest::mask"),
    ("user", "ImageRequest::end_user"),
    // what a tool of the Responses API is told to do
    ("type", "Route::responses"),
    ("action", "ImageRequest::edit"),
];

/// Why a field cannot be given by `extra`, if it cannot.
pub(in crate::openai) fn refuse_extra(field: &str) -> Option<String> {
    // a form may spell it as a list, and some gateways do not tell cases apart
    let name = field.split('[').next().unwrap_or_default().trim();
    let (_, setter) = SETTERS.iter().find(|(own, _)| own.eq_ignore_ascii_case(name))?;
    Some(format!("extra {field:?}: the client has a setter for it, `{setter}`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_known_however_it_is_spelled() {
        for field in ["image", "image[]", "image[0]", "Image"] {
            let told = format!("extra {field:?}: the client has a setter for it, `ImageRequest::edit`");
            assert_eq!(refuse_extra(field), Some(told));
        }
        for field in ["seed", "complexity", "response_format", "", "nn"] {
            assert_eq!(refuse_extra(field), None);
        }
    }
}
