//! The `allotment` command.

mod bench;
mod cli;
mod demo;
mod doctor;
mod flags;
mod image;
mod interrupt;
mod output;
mod redact;
mod unlimited;

use std::process::ExitCode;

#[tokio::main]
async fn main() -> ExitCode {
    cli::run(std::env::args_os()).await
}
