//! An image that a request starts from: bytes in memory, or a file that is streamed.
//!
//! Invariant: a clone shares the bytes. `Debug` shows no content. The kind of image is told by its content, never by its name.

use std::{
    fmt,
    fs::File,
    io::{BufRead, BufReader, Cursor, Seek},
    path::PathBuf,
};

use bytes::Bytes;
use imagesize::ImageType;

use crate::openai::error::ImageError;

/// An image to edit, or a mask.
///
/// ```no_run
/// use allotment::openai::{ImageInput, ImageRequest};
///
/// # async fn draw() -> Result<(), allotment::openai::ImageError> {
/// let harbour = ImageInput::file("harbour.png").await?;
/// let request = ImageRequest::edit("the same at night", [harbour]);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct ImageInput {
    pub(super) source: Source,
    /// Such as `image/png`.
    pub(super) media_type: String,
    /// The file name on the wire.
    pub(super) name: String,
    /// Width and height, if they are known: they decide what it costs.
    pub(super) pixels: Option<(u32, u32)>,
}

/// Where its bytes are.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Source {
    Memory(Bytes),
    File { path: PathBuf, length: u64 },
}

impl ImageInput {
    /// An image is below this many bytes.
    pub const BYTES_MAX: u64 = 50 * 1024 * 1024;

    /// An image in memory: PNG, JPEG, WebP or GIF.
    ///
    /// # Errors
    ///
    /// [`ImageErrorKind::Invalid`](crate::openai::ImageErrorKind::Invalid) for other content, and for 50 MiB and more.
    pub fn bytes(bytes: impl Into<Vec<u8>>) -> Result<Self, ImageError> {
        let bytes = Bytes::from(bytes.into());
        check_length(bytes.len() as u64, "an image in memory")?;
        let seen = Seen::of(Cursor::new(&bytes), "an image in memory")?;
        Ok(seen.input(Source::Memory(bytes), None))
    }

    /// An image in a file, of which only the head is read now. The rest is read when the request is sent, once per attempt.
    ///
    /// # Errors
    ///
    /// [`ImageErrorKind::Invalid`](crate::openai::ImageErrorKind::Invalid) if it cannot be read, is none of PNG, JPEG, WebP or GIF, or has
    /// 50 MiB and more.
    ///
    /// # Cancel safety
    ///
    /// Nothing is kept open.
    ///
    /// # Panics
    ///
    /// Outside of a Tokio runtime.
    pub async fn file(path: impl Into<PathBuf>) -> Result<Self, ImageError> {
        let path = path.into();
        let looked = tokio::task::spawn_blocking(move || Self::look(path)).await;
        looked.unwrap_or_else(|error| {
            Err(ImageError::invalid("an image in a file: reading it failed").with_source(error))
        })
    }

    /// The file name that upstream is told. Default: `image` or that of the file.
    #[must_use]
    pub fn named(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    fn look(path: PathBuf) -> Result<Self, ImageError> {
        let shown = path.display().to_string();
        let unread = |error| ImageError::invalid(format!("image {shown:?}: it cannot be read")).with_source(error);
        let file = File::open(&path).map_err(unread)?;
        let metadata = file.metadata().map_err(unread)?;
        if !metadata.is_file() {
            return Err(ImageError::invalid(format!("image {shown:?}: it is not a file")));
        }
        check_length(metadata.len(), &shown)?;
        let seen = Seen::of(BufReader::new(file), &shown)?;
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
        Ok(seen.input(Source::File { path, length: metadata.len() }, name))
    }
}

impl fmt::Debug for ImageInput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("ImageInput");
        debug.field("name", &self.name).field("media_type", &self.media_type).field("pixels", &self.pixels);
        debug.finish_non_exhaustive()
    }
}

/// What the head of an image shows.
struct Seen {
    extension: &'static str,
    pixels: Option<(u32, u32)>,
}

impl Seen {
    fn of(mut content: impl BufRead + Seek, shown: &str) -> Result<Self, ImageError> {
        let kind = imagesize::reader_type(&mut content).ok();
        let extension = match kind {
            Some(ImageType::Png) => "png",
            Some(ImageType::Jpeg) => "jpeg",
            Some(ImageType::Webp) => "webp",
            Some(ImageType::Gif) => "gif",
            _ => return Err(ImageError::invalid(format!("image {shown:?}: it is none of png, jpeg, webp, gif"))),
        };
        let size = content.rewind().ok().and_then(|()| imagesize::reader_size(content).ok());
        let pixels = size.and_then(|size| Some((size.width.try_into().ok()?, size.height.try_into().ok()?)));
        Ok(Self { extension, pixels })
    }

    fn input(self, source: Source, name: Option<String>) -> ImageInput {
        let Self { extension, pixels } = self;
        let name = name.unwrap_or_else(|| format!("image.{extension}"));
        ImageInput { source, media_type: format!("image/{extension}"), name, pixels }
    }
}

fn check_length(length: u64, shown: &str) -> Result<(), ImageError> {
    if length < ImageInput::BYTES_MAX {
        return Ok(());
    }
    Err(ImageError::invalid(format!("image {shown:?}: {length} bytes: below {}", ImageInput::BYTES_MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::openai::error::ImageErrorKind;

    /// The heads of images of 3 by 2 pixels.
    fn heads() -> [(&'static str, Vec<u8>); 3] {
        let png = [b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", &[0, 0, 0, 3, 0, 0, 0, 2, 8, 6, 0, 0, 0][..]].concat();
        let gif = b"GIF89a\x03\0\x02\0\0\0\0;".to_vec();
        let jpeg =
            [&[0xff, 0xd8, 0xff, 0xe0, 0, 4, 0, 0, 0xff, 0xc0, 0, 11, 8, 0, 2, 0, 3, 1, 1, 0x11, 0][..]].concat();
        [("png", png), ("gif", gif), ("jpeg", jpeg)]
    }

    #[test]
    fn kind_and_size_are_told_by_the_content() {
        for (kind, bytes) in heads() {
            let input = ImageInput::bytes(bytes).unwrap();
            let seen = (input.media_type.as_str(), input.name.as_str(), input.pixels);
            assert_eq!(seen, (format!("image/{kind}").as_str(), format!("image.{kind}").as_str(), Some((3, 2))));
        }
        let [(_, mut png), ..] = heads();
        png.truncate(17);
        assert_eq!(ImageInput::bytes(png).unwrap().pixels, None, "too short to say");
    }

    #[test]
    fn what_is_no_image_is_refused() {
        for bytes in [&b""[..], b"{}", b"<svg/>", b"%PDF-1.7 and more of it", &[0; 64]] {
            let error = ImageInput::bytes(bytes).unwrap_err();
            assert_eq!(error.kind(), ImageErrorKind::Invalid, "{bytes:?}");
        }
    }

    #[tokio::test]
    async fn a_file_is_looked_at_and_not_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("harbour.jpg");
        let [(_, png), ..] = heads();
        std::fs::write(&path, &png).unwrap();
        let file = File::options().append(true).open(&path).unwrap();
        file.set_len(ImageInput::BYTES_MAX - 1).unwrap();
        let input = ImageInput::file(&path).await.unwrap();
        assert_eq!(
            (input.media_type.as_str(), input.name.as_str(), input.pixels),
            ("image/png", "harbour.jpg", Some((3, 2)))
        );
        assert!(matches!(input.source, Source::File { length, .. } if length == ImageInput::BYTES_MAX - 1));
        assert_eq!(input.named("a.png").name, "a.png");
        file.set_len(ImageInput::BYTES_MAX).unwrap();
        let error = ImageInput::file(&path).await.unwrap_err().to_string();
        assert!(error.ends_with("52428800 bytes: below 52428800"), "{error}");
        for path in [directory.path().to_owned(), directory.path().join("missing")] {
            assert_eq!(ImageInput::file(path).await.unwrap_err().kind(), ImageErrorKind::Invalid);
        }
    }

    #[test]
    fn debug_shows_no_content() {
        let [(_, png), ..] = heads();
        let shown = format!("{:?}", ImageInput::bytes(png).unwrap());
        assert_eq!(shown, "ImageInput { name: \"image.png\", media_type: \"image/png\", pixels: Some((3, 2)), .. }");
    }
}
