//! An image that a request starts from: bytes in memory, or a file that is streamed.
//!
//! Invariant: a clone shares the bytes. `Debug` shows no content.

use std::{fmt, path::PathBuf};

use bytes::Bytes;

/// An image to edit, or a mask.
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

impl fmt::Debug for ImageInput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("ImageInput");
        debug.field("name", &self.name).field("media_type", &self.media_type).field("pixels", &self.pixels);
        debug.finish_non_exhaustive()
    }
}
