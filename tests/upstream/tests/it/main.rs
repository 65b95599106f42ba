//! The server over real sockets, called by a plain HTTP client.

#![allow(clippy::panic, clippy::unwrap_used, reason = "what fails here fails the test")]

mod answers;
mod faults;
mod limits;
mod program;
mod requests;
mod shapes;
mod support;
