//! What a call asks to be drawn, whatever endpoint it came to.

use std::time::Duration;

use crate::picture::Picture;

/// No picture is larger, whatever a model draws.
pub(crate) const EDGE_MAX: u32 = 4_096;

/// How much work goes into a picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Quality {
    Low,
    Medium,
    High,
    XHigh,
    Max,
}

impl Quality {
    /// By its name; `auto` is high.
    pub(crate) fn parse(name: &str) -> Option<Self> {
        match name {
            "low" => Some(Self::Low),
            "medium" | "standard" => Some(Self::Medium),
            "high" | "hd" | "auto" => Some(Self::High),
            "xhigh" => Some(Self::XHigh),
            "max" => Some(Self::Max),
            _ => None,
        }
    }
}

/// Width and height in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pixels {
    pub(crate) width: u32,
    pub(crate) height: u32,
}

impl Pixels {
    /// From `1536x1024`; `auto` is a square.
    pub(crate) fn parse(size: &str) -> Option<Self> {
        if size == "auto" {
            return Some(Self { width: 1_024, height: 1_024 });
        }
        let (width, height) = size.split_once('x')?;
        let pixels = Self { width: width.parse().ok()?, height: height.parse().ok()? };
        let edges = 1..=EDGE_MAX;
        (edges.contains(&pixels.width) && edges.contains(&pixels.height)).then_some(pixels)
    }

    /// Of a PNG file, by its header.
    pub(crate) fn of_png(file: &[u8]) -> Option<Self> {
        let number = |at: usize| Some(u32::from_be_bytes(file.get(at..at + 4)?.try_into().ok()?));
        file.starts_with(b"\x89PNG").then_some(())?;
        Some(Self { width: number(16)?, height: number(20)? })
    }
}

/// What a call asks for.
#[derive(Clone, Debug)]
pub(crate) struct Drawing {
    pub(crate) model: String,
    pub(crate) prompt: String,
    pub(crate) n: u64,
    pub(crate) size: Pixels,
    pub(crate) quality: Quality,
    pub(crate) partial_images: u64,
    pub(crate) stream: bool,
    pub(crate) high_fidelity: bool,
    pub(crate) by_url: bool,
    /// The images given, a mask among them.
    pub(crate) inputs: Vec<Pixels>,
    /// How long the caller wants it to take, by the server's clock, beside the latency of the terms.
    pub(crate) draw_for: Duration,
}

impl Drawing {
    /// One of its pictures; a later part of it, when there are partial images, has another look.
    pub(crate) fn picture(&self, index: u64) -> Picture {
        // FNV-1a: the same prompt gives the same picture on every machine.
        let seed = self.prompt.bytes().chain(index.to_be_bytes());
        let seed = seed.fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
        Picture { width: self.size.width, height: self.size.height, seed }
    }
}
