//! The command line: parses, dispatches, and turns every failure into a message and an exit status.
//!
//! Invariant: whatever is printed about a failure has passed [`Secrets`], so that no password of an argument is in it.

use std::{ffi::OsString, io::IsTerminal, process::ExitCode};

use clap::{Parser, Subcommand};
use tracing_subscriber::EnvFilter;

use crate::{
    bench::BenchArgs,
    demo::{self, DemoArgs},
    doctor::DoctorArgs,
    image::ImageArgs,
    output::note_line,
    redact::Secrets,
};

/// The exit status of a command that could not do its work: bad flags, no Redis.
const FAILED: u8 = 2;

/// Shares an upstream quota exactly among users, processes and hosts, before the call is made.
#[derive(Parser)]
#[command(name = "allotment", version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs a fleet of users against a simulated image API and shows what happened
    ///
    /// Exit status: 0 if every rolling window stayed within its limit and the API refused no admitted call, 1 if not, 2 if the demo could not
    /// run, 130 after Ctrl-C. With --unlimited refusals are the point, and the status is 0.
    Demo(Box<DemoArgs>),
    /// Draws from a prompt, by the image API that the environment names
    ///
    /// That is OPENAI_API_KEY (and OPENAI_BASE_URL), or AZURE_OPENAI_ENDPOINT and AZURE_OPENAI_API_KEY. It takes the quota first, and settles
    /// with what was used.
    ///
    /// Exit status: 0 with the pictures, 1 if the call was denied, refused or not answered, 2 if it could not be made (bad flags, no key, no
    /// Redis, a file that is there already), 130 after Ctrl-C.
    Image(Box<ImageArgs>),
    /// Measures what a Redis can do: decisions a second, latency, and Redis CPU beside a floor of the same run
    ///
    /// It makes keys of its own under random names and removes them again, also after Ctrl-C.
    Bench(BenchArgs),
    /// Looks at a Redis: whether it is fit to keep ledgers, and what to do where it is not
    ///
    /// It reads what each server says about itself, and runs every script once on orgs named allotment-self-test-N, whose keys expire.
    /// Exit status: 0 if it is fit, warnings or not; 1 if not; 2 if the arguments are wrong.
    Doctor(DoctorArgs),
    /// Plays one process of `demo --processes`; it talks to its parent over stdin and stdout
    #[command(hide = true)]
    DemoProcess,
    /// Plays one process of `demo crash`; it talks to its parent over stdin and stdout
    #[command(hide = true)]
    DemoHolder,
}

/// Runs the command line `args`, the program's name first.
pub(crate) async fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args: Vec<OsString> = args.into_iter().collect();
    let mut secrets = Secrets::in_arguments(args.iter().map(|argument| argument.to_string_lossy()));
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => return refused(&error, &secrets),
    };
    let log = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn"));
    tracing_subscriber::fmt().with_env_filter(log).with_writer(std::io::stderr).init();
    let outcome = match cli.command {
        Command::Demo(args) => demo::run(*args).await,
        Command::Image(args) => args.run(&mut secrets).await,
        Command::Bench(args) => args.run().await,
        Command::Doctor(args) => args.run(&secrets).await,
        Command::DemoProcess => demo::run_child().await,
        Command::DemoHolder => demo::run_holder().await,
    };
    outcome.unwrap_or_else(|error| {
        note_line(&format!("error: {}", secrets.redact(&format!("{error:#}"))));
        ExitCode::from(FAILED)
    })
}

/// Prints what clap has to say: help and version on stdout, a refusal on stderr.
fn refused(error: &clap::Error, secrets: &Secrets) -> ExitCode {
    if !error.use_stderr() {
        // A reader that has gone away, as in `--help | head -1`, is no failure.
        let _ = error.print();
        return ExitCode::SUCCESS;
    }
    let message = error.render();
    let message = if std::io::stderr().is_terminal() { message.ansi().to_string() } else { message.to_string() };
    note_line(secrets.redact(&message).trim_end());
    ExitCode::from(FAILED)
}
