//! What makes two requests equal.
//!
//! Invariant: requests that may be drawn differently have different keys. Fields are hashed with their lengths, so that none runs into the
//! next, and a field that is added to a request does not compile here before somebody has decided whether it counts.

use std::{fs::File, io::Read, path::Path, sync::Arc};

use sha2::{Digest, Sha256};

use crate::openai::{
    input::{ImageInput, Source},
    request::ImageRequest,
};
#[cfg(feature = "redis")]
use crate::store::keyspace;

/// Of what is hashed, and how. Another version has other keys.
const VERSION: u8 = 1;

/// Names a request by its hash, among those of one org or of all.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(in crate::openai) struct CacheKey {
    org: Option<Arc<str>>,
    hash: [u8; 32],
}

impl CacheKey {
    /// The key of a request of this org, or of any; `model` is the one that it is asked of. Images to edit are read through, off the runtime's
    /// threads; `None` if one cannot be.
    pub(in crate::openai) async fn of(org: Option<&str>, model: &str, request: &ImageRequest) -> Option<Self> {
        // who asks, and what is shown on the way, does not change what is drawn; the model is that of the call
        let ImageRequest {
            model: _,
            end_user: _,
            partial_images: _,
            prompt,
            n,
            size,
            quality,
            background,
            format,
            compression,
            moderation,
            fidelity,
            inputs,
            mask,
            extra,
        } = request;
        let mut fields = Fields(Sha256::new_with_prefix([VERSION]));
        fields.add(model);
        fields.add(&prompt.trim().replace("\r\n", "\n"));
        fields.add(&n.to_string());
        fields.add(&size.to_string());
        fields.add(quality.name());
        fields.add_any(background.map(|background| background.name()));
        fields.add_any(format.map(|format| format.name()));
        fields.add_any(compression.map(|percent| percent.to_string()).as_deref());
        fields.add_any(moderation.map(|moderation| moderation.name()));
        fields.add_any(fidelity.map(|fidelity| fidelity.name()));
        fields.add(&serde_json::to_string(extra).ok()?);
        fields.add(&inputs.len().to_string());
        for input in inputs.iter().chain(mask) {
            fields.add(&input.media_type);
            fields.0.update(digest(input).await?);
        }
        Some(Self { org: org.map(Arc::from), hash: fields.0.finalize().into() })
    }

    /// As Redis has it.
    #[cfg(feature = "redis")]
    pub(super) fn spelled(&self) -> String {
        keyspace::cached_image(self.org.as_deref(), &self.hash)
    }
}

/// A hash of fields.
struct Fields(Sha256);

impl Fields {
    fn add(&mut self, field: &str) {
        self.0.update((field.len() as u64).to_le_bytes());
        self.0.update(field);
    }

    /// One that may be absent, which is not the same as empty.
    fn add_any(&mut self, field: Option<&str>) {
        self.0.update([u8::from(field.is_some())]);
        self.add(field.unwrap_or_default());
    }
}

async fn digest(input: &ImageInput) -> Option<[u8; 32]> {
    let source = input.source.clone();
    let digest = move || match source {
        Source::Memory(bytes) => Ok(Sha256::digest(bytes).into()),
        Source::File { path, .. } => digest_of_file(&path),
    };
    tokio::task::spawn_blocking(digest).await.ok()?.ok()
}

fn digest_of_file(path: &Path) -> std::io::Result<[u8; 32]> {
    let (mut file, mut hash, mut piece) = (File::open(path)?, Sha256::new(), vec![0; 64 << 10]);
    loop {
        let length = file.read(&mut piece)?;
        if length == 0 {
            return Ok(hash.finalize().into());
        }
        hash.update(piece.get(..length).unwrap_or_default());
    }
}

#[cfg(test)]
mod tests {
    use std::task::Poll;

    use bytes::Bytes;

    use super::*;
    use crate::openai::request::{Background, InputFidelity, Moderation, OutputFormat, Quality, Size};

    async fn key(request: ImageRequest) -> CacheKey {
        CacheKey::of(Some("acme"), "m", &request).await.unwrap()
    }

    fn lighthouse() -> ImageRequest {
        ImageRequest::generate("a lighthouse")
    }

    fn input(source: Source) -> ImageInput {
        ImageInput { source, media_type: "image/png".to_owned(), name: "image.png".to_owned(), pixels: None }
    }

    fn bytes(text: &'static str) -> ImageInput {
        input(Source::Memory(Bytes::from_static(text.as_bytes())))
    }

    #[tokio::test]
    async fn what_does_not_change_the_image_does_not_change_the_key() {
        let same = key(lighthouse()).await;
        for request in [
            ImageRequest::generate("  a lighthouse\n"),
            lighthouse().end_user("alice"),
            lighthouse().partial_images(3),
            lighthouse().model("another name for m"),
            lighthouse().n(1).quality(Quality::Auto).size(Size::Auto),
        ] {
            assert_eq!(key(request.clone()).await, same, "{request:?}");
        }
        let unix = key(ImageRequest::generate("a\nb")).await;
        assert_eq!(key(ImageRequest::generate("a\r\nb")).await, unix);
    }

    #[tokio::test]
    async fn what_may_change_the_image_changes_the_key() {
        let requests = [
            lighthouse(),
            ImageRequest::generate("A lighthouse"),
            ImageRequest::generate("a  lighthouse"),
            lighthouse().n(2),
            lighthouse().size(Size::SQUARE),
            lighthouse().quality(Quality::High),
            lighthouse().background(Background::Auto),
            lighthouse().background(Background::Opaque),
            lighthouse().format(OutputFormat::Webp),
            lighthouse().format(OutputFormat::Webp).compression(50),
            lighthouse().moderation(Moderation::Low),
            lighthouse().fidelity(InputFidelity::Low),
            lighthouse().extra("complexity", "low"),
            lighthouse().extra("complexity", "high"),
            ImageRequest::edit("a lighthouse", [bytes("a")]),
            ImageRequest::edit("a lighthouse", [bytes("b")]),
            ImageRequest::edit("a lighthouse", [bytes("a"), bytes("b")]),
            ImageRequest::edit("a lighthouse", [bytes("b"), bytes("a")]),
            ImageRequest::edit("a lighthouse", [bytes("a")]).mask(bytes("b")),
        ];
        let mut keys = Vec::new();
        for request in requests {
            let key = key(request.clone()).await;
            assert!(!keys.contains(&key), "{request:?}");
            keys.push(key);
        }
        let of = async |org, model| CacheKey::of(org, model, &lighthouse()).await.unwrap();
        for other in [of(Some("acme"), "n").await, of(Some("other"), "m").await, of(None, "m").await] {
            assert!(!keys.contains(&other));
        }
    }

    #[test]
    fn no_image_is_hashed_on_a_thread_of_the_runtime() {
        let runtime = tokio::runtime::Builder::new_current_thread().max_blocking_threads(1).build().unwrap();
        runtime.block_on(async {
            let (release, held) = std::sync::mpsc::channel::<()>();
            let busy = tokio::task::spawn_blocking(move || held.recv());
            let mut hashed = Box::pin(key(ImageRequest::edit("x", [bytes("a")])));
            let is_done = std::future::poll_fn(|context| Poll::Ready(hashed.as_mut().poll(context).is_ready())).await;
            assert!(!is_done, "the only thread for it is busy");
            drop(release);
            hashed.await;
            assert!(busy.await.unwrap().is_err());
        });
    }

    #[tokio::test]
    async fn a_file_is_known_by_its_content() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("image.png");
        std::fs::write(&path, "a").unwrap();
        let file = ImageRequest::edit("x", [input(Source::File { path: path.clone(), length: 1 })]);
        let kept = key(file.clone()).await;
        assert_eq!(kept, key(ImageRequest::edit("x", [bytes("a")])).await);
        std::fs::write(&path, "b").unwrap();
        assert_ne!(key(file.clone()).await, kept);
        std::fs::remove_file(&path).unwrap();
        assert_eq!(CacheKey::of(None, "m", &file).await, None);
    }
}
