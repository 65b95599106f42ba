//! A wall clock in the test's hand, for one server: a preloaded library reads it from a small file.
//!
//! The library is `clock_shim.c`, compiled with `cc` when its text has changed. No script takes the time as an
//! argument because of this. Linux only: a container's engine sees the file through a bind mount of its folder.

use std::{
    env,
    fs::{self, File, Permissions},
    hash::{DefaultHasher, Hash, Hasher},
    os::unix::fs::{FileExt, PermissionsExt},
    path::{Path, PathBuf},
    process::Command,
};

use tempfile::TempDir;

const SOURCE: &str = include_str!("clock_shim.c");
const SHIM_FILE: &str = "clock_shim.so";
const CLOCK_FILE: &str = "clock";

/// The file with the time, in a folder with the library that reads it.
#[derive(Debug)]
pub(crate) struct Clock {
    folder: TempDir,
    file: File,
}

impl Clock {
    /// A clock that stands still at `now_ms`.
    pub(crate) fn new(now_ms: u64) -> Self {
        let folder = TempDir::with_prefix("allotment-clock-").unwrap();
        // An engine in a container runs as a user of its own.
        fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
        fs::copy(compiled_shim(), folder.path().join(SHIM_FILE)).unwrap();
        let file = File::create_new(folder.path().join(CLOCK_FILE)).unwrap();
        let clock = Self { folder, file };
        clock.set_ms(now_ms);
        clock
    }

    /// Moves the clock to `now_ms` since the epoch, forward or backward.
    pub(crate) fn set_ms(&self, now_ms: u64) {
        let now_us = now_ms.checked_mul(1000).expect("a time of day fits 64 bits in microseconds").to_ne_bytes();
        // In this order: the reader takes the second word first, see clock_shim.c.
        self.file.write_all_at(&now_us, 0).unwrap();
        self.file.write_all_at(&now_us, 8).unwrap();
    }

    /// Holds the library and the file.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The environment that puts a program under this clock when it sees the folder as `folder`.
    pub(crate) fn environment(&self, folder: &Path) -> [(&'static str, String); 2] {
        let path = |file| folder.join(file).display().to_string();
        [("LD_PRELOAD", path(SHIM_FILE)), ("ALLOTMENT_TEST_CLOCK", path(CLOCK_FILE))]
    }
}

/// The library, made once per text of its source.
fn compiled_shim() -> PathBuf {
    assert_eq!(env::consts::OS, "linux", "a server under a test's clock needs LD_PRELOAD: run these tests on Linux");
    let mut hasher = DefaultHasher::new();
    SOURCE.hash(&mut hasher);
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let shim = folder.join(format!("clock_shim-{:016x}.so", hasher.finish()));
    if !shim.exists() {
        // Tests run in several processes: each makes its own, and the rename shows only whole ones.
        let scratch = TempDir::with_prefix_in("clock-shim-", folder).unwrap();
        let source = scratch.path().join("clock_shim.c");
        let made = scratch.path().join(SHIM_FILE);
        fs::write(&source, SOURCE).unwrap();
        let compiler =
            Command::new("cc").args(["-shared", "-fPIC", "-O2", "-Wall", "-o"]).arg(&made).arg(&source).output();
        let output = compiler.unwrap_or_else(|error| {
            panic!("a server under a test's clock needs a C compiler, but `cc` does not run ({error}): install gcc or clang")
        });
        assert!(output.status.success(), "cc refused clock_shim.c: {}", String::from_utf8_lossy(&output.stderr));
        fs::rename(made, &shim).unwrap();
    }
    shim
}
