//! Images inside a text of JSON, in base64.
//!
//! Invariant: the whole is held once, in room that is taken once. Of a file a piece is held beside it.

use base64::{Engine, engine::general_purpose::STANDARD};
use tokio::{fs::File, io::AsyncReadExt};

use crate::openai::{
    error::ImageError,
    input::{ImageInput, Source},
};

/// So much of a file is read at a time when it becomes base64: whole groups of three.
const PIECE_BYTES: usize = 48 << 10;

/// An image that goes into a JSON text.
#[derive(Debug)]
pub(super) struct Inlined {
    pub(super) marker: String,
    pub(super) image: ImageInput,
}

/// Puts images in the place of their markers. The text is held once.
pub(super) async fn inline(text: String, inlined: Vec<Inlined>) -> Result<Vec<u8>, ImageError> {
    let encoded = inlined.iter().map(|inlined| base64_bytes(&inlined.image)).sum::<usize>();
    let mut whole = Vec::with_capacity(text.len() + encoded);
    let mut rest = text.as_str();
    for Inlined { marker, image } in inlined {
        let Some((before, after)) = rest.split_once(&marker) else {
            return Err(ImageError::invalid("an image has no place in the request"));
        };
        whole.extend_from_slice(before.as_bytes());
        match &image.source {
            Source::Memory(bytes) => append(&mut whole, bytes),
            Source::File { .. } => {
                let OpenFile { mut file, .. } = open(&image).await?;
                let mut piece = Vec::with_capacity(PIECE_BYTES);
                loop {
                    piece.clear();
                    let read = (&mut file).take(PIECE_BYTES as u64).read_to_end(&mut piece).await;
                    let cut = |error| {
                        ImageError::invalid(format!("image {:?}: it cannot be read", image.name)).with_source(error)
                    };
                    if read.map_err(cut)? == 0 {
                        break;
                    }
                    append(&mut whole, &piece);
                }
            }
        }
        rest = after;
    }
    whole.extend_from_slice(rest.as_bytes());
    Ok(whole)
}

/// As many as the image takes in base64.
fn base64_bytes(image: &ImageInput) -> usize {
    let length = match &image.source {
        Source::Memory(bytes) => bytes.len(),
        // a file that has grown since takes more room
        Source::File { length, .. } => usize::try_from(*length).unwrap_or(0),
    };
    length.div_ceil(3) * 4
}

/// Appends base64. All but the last piece are whole groups of three.
fn append(whole: &mut Vec<u8>, bytes: &[u8]) {
    let start = whole.len();
    whole.resize(start + bytes.len().div_ceil(3) * 4, b'=');
    let written = STANDARD.encode_slice(bytes, &mut whole[start..]);
    debug_assert_eq!(written.ok(), Some(whole.len() - start), "the place is as long as the base64");
}

/// A file that is read from its start.
pub(super) struct OpenFile {
    pub(super) file: File,
    pub(super) length: u64,
}

/// The file of an image.
pub(super) async fn open(image: &ImageInput) -> Result<OpenFile, ImageError> {
    let Source::File { path, .. } = &image.source else {
        return Err(ImageError::invalid("an image in memory is no file"));
    };
    let unreadable =
        |error| ImageError::invalid(format!("image {:?}: it cannot be read", image.name)).with_source(error);
    let file = File::open(path).await.map_err(unreadable)?;
    let length = file.metadata().await.map_err(unreadable)?.len();
    Ok(OpenFile { file, length })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_file_of_several_pieces_becomes_one_base64_in_room_that_is_taken_once() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.png");
        let bytes: Vec<u8> = (0..2 * PIECE_BYTES + 1_000).map(|at| (at % 251) as u8).collect();
        std::fs::write(&path, &bytes).unwrap();
        let image = |source| ImageInput { source, media_type: "image/png".into(), name: "a.png".into(), pixels: None };
        let file = image(Source::File { path, length: bytes.len() as u64 });
        let inlined = [file, image(Source::Memory(bytes.clone().into()))];
        let inlined = ["<one>", "<two>"].into_iter().zip(inlined);
        let inlined = inlined.map(|(marker, image)| Inlined { marker: marker.to_owned(), image }).collect();
        let whole = inline(r#"["<one>", "<two>"]"#.to_owned(), inlined).await.unwrap();
        let base64 = STANDARD.encode(&bytes);
        assert!(whole == format!(r#"["{base64}", "{base64}"]"#).into_bytes());
        assert!(whole.capacity() <= whole.len() + "<one><two>".len(), "{} for {}", whole.capacity(), whole.len());
    }
}
