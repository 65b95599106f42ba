//! The `allotment` command.

mod bench;
mod cli;
mod demo;
mod doctor;
mod output;
mod redact;

use std::process::ExitCode;

#[tokio::main]
async fn main() -> ExitCode {
    cli::run(std::env::args_os()).await
}
