//! Printing that survives a reader who has gone away, as in `allotment demo | head`.

use std::io::{self, Write};

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
