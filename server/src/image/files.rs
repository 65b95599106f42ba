//! Where pictures go.
//!
//! Invariant: a file that is there stays, unless somebody says otherwise.

use std::path::{Path, PathBuf};

use allotment::openai::OutputFormat;
use anyhow::{Result, bail};

/// The files of the pictures of one call.
#[derive(Debug)]
pub(super) struct Files {
    out: PathBuf,
    n: u64,
}

impl Files {
    pub(super) fn new(out: &Path, n: u64) -> Self {
        Self { out: out.to_owned(), n }
    }

    /// The file of a picture, from 0 on: `out` itself if it is the only one, else `out-1.png`, `out-2.png` and so on.
    pub(super) fn path(&self, index: usize) -> PathBuf {
        if self.n == 1 && index == 0 {
            return self.out.clone();
        }
        let mut name = self.out.file_stem().unwrap_or_default().to_owned();
        name.push(format!("-{}", index + 1));
        if let Some(extension) = self.out.extension() {
            name.push(".");
            name.push(extension);
        }
        self.out.with_file_name(name)
    }

    /// Checks that none of them is there, and that they have a folder.
    pub(super) fn are_free(&self) -> Result<()> {
        let count = usize::try_from(self.n).unwrap_or(usize::MAX);
        (0..count).try_for_each(|index| is_free(&self.path(index)))
    }

    /// Checks that there is a folder for them, and that `out` names a file.
    pub(super) fn have_a_folder(&self) -> Result<()> {
        let out = self.out.display();
        let folder = match self.out.parent() {
            Some(parent) if parent != Path::new("") => parent,
            _ => Path::new("."),
        };
        if self.out.file_name().is_none() || self.out.is_dir() {
            bail!("--out {out}: it is no file");
        }
        if !folder.is_dir() {
            bail!("--out {out}: there is no folder {}", folder.display());
        }
        Ok(())
    }
}

/// Checks that there is no such file. A link that leads nowhere is one.
pub(super) fn is_free(path: &Path) -> Result<()> {
    if path.symlink_metadata().is_ok() {
        bail!("--out {}: it is there already; --force overwrites it", path.display());
    }
    Ok(())
}

/// The format that an extension stands for; `None` for that which models draw anyway, and for others.
pub(super) fn format_of(out: &Path) -> Option<OutputFormat> {
    match out.extension()?.to_str()?.to_ascii_lowercase().as_str() {
        "jpg" | "jpeg" => Some(OutputFormat::Jpeg),
        "webp" => Some(OutputFormat::Webp),
        "svg" => Some(OutputFormat::Svg),
        "gif" => Some(OutputFormat::Gif),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_pictures_are_numbered_before_the_extension() {
        for (out, n, expected) in [
            ("a/lighthouse.png", 1, ["a/lighthouse.png", "a/lighthouse-2.png"]),
            ("a/lighthouse.png", 2, ["a/lighthouse-1.png", "a/lighthouse-2.png"]),
            ("lighthouse", 3, ["lighthouse-1", "lighthouse-2"]),
            ("a.b.webp", 2, ["a.b-1.webp", "a.b-2.webp"]),
        ] {
            let files = Files::new(Path::new(out), n);
            assert_eq!([files.path(0), files.path(1)], expected.map(PathBuf::from), "{out}");
        }
    }

    #[test]
    fn the_extension_asks_for_its_format() {
        for (out, expected) in
            [("a.JPG", Some(OutputFormat::Jpeg)), ("a.webp", Some(OutputFormat::Webp)), ("a.png", None), ("a", None)]
        {
            assert_eq!(format_of(Path::new(out)), expected, "{out}");
        }
    }

    #[test]
    fn what_is_no_place_for_a_file_is_named() {
        let fault = |out: &Path| Files::new(out, 1).have_a_folder().unwrap_err().to_string();
        assert!(fault(&std::env::temp_dir()).contains("no file"));
        assert!(fault(Path::new("no-such-folder/a.png")).contains("no folder no-such-folder"));
        Files::new(Path::new("a.png"), 1).have_a_folder().unwrap();
    }
}
