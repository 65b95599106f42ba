//! An answer as it is kept.
//!
//! Invariant: what was read is a part of what was kept: nothing is copied. Bytes that this version did not write are read as nothing.
//!
//! ```text
//! 1 byte      version
//! 4 bytes     length of what follows, lowest first
//! JSON        model, usage, and of each image its length, media type and revised prompt
//! the images, one behind the other, in base64 as they came
//! ```

use bytes::{BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};

use crate::openai::{
    response::{Content, Image},
    usage::Usage,
};

const VERSION: u8 = 1;
/// Version and length.
const HEAD: usize = 5;

/// A whole answer.
#[derive(Clone, Debug)]
pub(in crate::openai) struct Cached {
    pub(in crate::openai) model: String,
    pub(in crate::openai) usage: Option<Usage>,
    pub(in crate::openai) images: Vec<Image>,
}

#[derive(Serialize, Deserialize)]
struct Meta {
    model: String,
    usage: Option<Usage>,
    images: Vec<Part>,
}

#[derive(Serialize, Deserialize)]
struct Part {
    length: usize,
    media_type: Option<String>,
    revised_prompt: Option<String>,
}

impl Cached {
    /// `None` for one that is not kept: without images, with addresses of them, or too large.
    pub(super) fn encode(&self, bytes_max: u64) -> Option<Bytes> {
        let contents: Option<Vec<&Bytes>> = self
            .images
            .iter()
            .map(|image| match &image.content {
                Content::Base64(text) => Some(text),
                // fetched after the answer, which is not kept with an address in it
                Content::Url(_) | Content::Plain(_) => None,
            })
            .collect();
        let contents = contents.filter(|contents| !contents.is_empty())?;
        let parts = self.images.iter().zip(&contents).map(|(image, content)| Part {
            length: content.len(),
            media_type: image.media_type.clone(),
            revised_prompt: image.revised_prompt.clone(),
        });
        let meta = Meta { model: self.model.clone(), usage: self.usage, images: parts.collect() };
        let meta = serde_json::to_vec(&meta).ok()?;
        let length = HEAD + meta.len() + contents.iter().map(|content| content.len()).sum::<usize>();
        if length as u64 > bytes_max {
            return None;
        }
        let mut encoded = BytesMut::with_capacity(length);
        encoded.put_u8(VERSION);
        encoded.put_u32_le(u32::try_from(meta.len()).ok()?);
        encoded.put_slice(&meta);
        contents.into_iter().for_each(|content| encoded.put_slice(content));
        Some(encoded.freeze())
    }

    pub(super) fn decode(kept: &Bytes) -> Option<Self> {
        let [VERSION, a, b, c, d] = *kept.first_chunk::<HEAD>()? else { return None };
        let contents_at = HEAD.checked_add(u32::from_le_bytes([a, b, c, d]) as usize)?;
        let meta: Meta = serde_json::from_slice(kept.get(HEAD..contents_at)?).ok()?;
        let (mut images, mut from) = (Vec::with_capacity(meta.images.len()), contents_at);
        for part in meta.images {
            let to = from.checked_add(part.length).filter(|to| *to <= kept.len())?;
            let content = Content::Base64(kept.slice(from..to));
            images.push(Image { content, revised_prompt: part.revised_prompt, media_type: part.media_type });
            from = to;
        }
        (from == kept.len() && !images.is_empty()).then_some(Self { model: meta.model, usage: meta.usage, images })
    }
}

/// What tests keep.
#[cfg(test)]
pub(super) mod tried {
    use super::{Bytes, Cached, Content, Image, Usage};

    pub(in crate::openai::cache) fn cached(base64: &str) -> Cached {
        let content = Content::Base64(Bytes::copy_from_slice(base64.as_bytes()));
        let image = Image { content, revised_prompt: Some("a tower".to_owned()), media_type: None };
        let usage = Usage { output_tokens: 7_024, total_tokens: 7_034, ..Usage::default() };
        Cached { model: "gpt-image-2".to_owned(), usage: Some(usage), images: vec![image.clone(), image] }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{tried::cached, *};

    fn texts(cached: &Cached) -> Vec<&[u8]> {
        let text = |image| match image {
            &Image { content: Content::Base64(ref text), .. } => &**text,
            Image { .. } => panic!("an address"),
        };
        cached.images.iter().map(text).collect()
    }

    #[test]
    fn an_answer_is_read_as_it_was_kept() {
        let cached = cached("aGVsbG8=");
        let read = Cached::decode(&cached.encode(1_000).unwrap()).unwrap();
        assert_eq!((&*read.model, read.usage), ("gpt-image-2", cached.usage));
        assert_eq!(texts(&read), texts(&cached));
        assert_eq!(read.images[0].revised_prompt.as_deref(), Some("a tower"));
        let longer = [&cached.encode(1_000).unwrap(), &b"A"[..]].concat();
        assert!(Cached::decode(&Bytes::from(longer)).is_none());
    }

    #[test]
    fn addresses_and_answers_without_images_are_not_kept() {
        let mut address = cached("aGk=");
        address.images[1].content = Content::Url("https://images.example/1".to_owned());
        assert!(address.encode(u64::MAX).is_none());
        assert!(Cached { images: Vec::new(), ..cached("") }.encode(u64::MAX).is_none());
        let size = cached("aGk=").encode(u64::MAX).unwrap().len() as u64;
        assert!(cached("aGk=").encode(size).is_some() && cached("aGk=").encode(size - 1).is_none());
    }

    proptest! {
        #[test]
        fn what_others_wrote_is_read_as_nothing(at in 0..400usize, byte: u8, cut in 0..400usize, any: Vec<u8>) {
            let whole = cached("aGVsbG8=").encode(1_000).unwrap();
            let cut = cut.min(whole.len() - 1);
            prop_assert!(Cached::decode(&whole.slice(..cut)).is_none());
            let mut broken = whole.to_vec();
            let at = at % broken.len();
            broken[at] = byte;
            // at most a letter has changed: it must not panic
            drop(Cached::decode(&Bytes::from(broken)));
            drop(Cached::decode(&Bytes::from(any)));
        }
    }
}
