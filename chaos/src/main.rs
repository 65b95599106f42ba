//! The fault suite: real servers, processes and connections are broken on purpose, and every call is counted.
//!
//! Invariant: what a scenario says it measured, it measured in that run; what it did not do is in the report as not run. Counts are bounds
//! always; times are bounds with `--full` only, as a slow machine misses them without anything being wrong.

#![allow(clippy::panic, clippy::unwrap_used, reason = "a scenario that cannot go on ends, and says where")]

mod caller;
mod found;
mod load;
mod meter;
mod scenarios;
mod suite;
mod way;
mod worker;

use std::process::ExitCode;

use clap::Parser;

#[tokio::main]
async fn main() -> ExitCode {
    suite::Args::parse().run().await
}
