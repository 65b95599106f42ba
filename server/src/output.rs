//! Printing that survives a reader who has gone away, as in `allotment demo | head`.

use std::{
    error::Error,
    io::{self, Write},
};

/// Prints a line to stdout.
///
/// # Errors
///
/// Those of stdout, but not that nobody reads it.
pub(crate) fn print_line(text: &str) -> io::Result<()> {
    match writeln!(io::stdout(), "{text}") {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        printed => printed,
    }
}

/// Prints a line to stderr; there is nowhere to tell of a failure.
pub(crate) fn note_line(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// An error and its sources, in a line.
pub(crate) fn in_full(error: &(dyn Error + 'static)) -> String {
    let mut told = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        told.push_str(&format!(": {error}"));
        source = error.source();
    }
    told
}
