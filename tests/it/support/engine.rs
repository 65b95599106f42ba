//! Where a server comes from: a redis-server on this machine, or else a container.
//!
//! Invariant: an engine asked for by name (`ALLOTMENT_TEST_REDIS_SERVER`, `ALLOTMENT_TEST_IMAGE`) is the one that
//! runs, or the test fails. Nothing outlives the test process, not even when that is killed.

use std::{
    env, fs, io,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use tempfile::TempDir;
use testcontainers::{
    ContainerAsync, GenericImage, ImageExt,
    core::{IntoContainerPort, Mount, WaitFor},
    runners::AsyncRunner,
};

use super::clock::Clock;

const PROGRAM_VARIABLE: &str = "ALLOTMENT_TEST_REDIS_SERVER";
const PROGRAM_DEFAULT: &str = "redis-server";
const IMAGE_VARIABLE: &str = "ALLOTMENT_TEST_IMAGE";
const IMAGE_DEFAULT: &str = "redis:8-bookworm";
const CLOCK_FOLDER_IN_CONTAINER: &str = "/allotment-clock";

/// Nothing is kept on disk, and memory is never won back by dropping counters.
const SETTINGS: [&str; 6] = ["--save", "", "--appendonly", "no", "--maxmemory-policy", "noeviction"];

/// A started engine; dropping it ends it.
#[derive(Debug)]
pub(crate) enum Engine {
    Program(Box<Program>),
    Container { _watchdog: Watchdog, _container: Box<ContainerAsync<GenericImage>> },
}

/// An engine that was started, and its port on 127.0.0.1. It may not answer yet.
#[derive(Debug)]
pub(crate) struct Started {
    pub(crate) engine: Engine,
    pub(crate) port: u16,
}

impl Engine {
    /// Starts what the environment names; without a name a redis-server in `PATH`, else a container.
    pub(crate) async fn start(clock: Option<&Clock>) -> Started {
        if let Ok(program) = env::var(PROGRAM_VARIABLE) {
            return Program::start(&program, clock)
                .unwrap_or_else(|error| panic!("{PROGRAM_VARIABLE} is {program:?}, which does not start: {error}"));
        }
        if let Ok(image) = env::var(IMAGE_VARIABLE) {
            return start_container(&image, clock)
                .await
                .unwrap_or_else(|error| panic!("{IMAGE_VARIABLE} is {image:?}, which does not start: {error}"));
        }
        let no_program = match Program::start(PROGRAM_DEFAULT, clock) {
            Ok(started) => return started,
            Err(error) => error,
        };
        start_container(IMAGE_DEFAULT, clock).await.unwrap_or_else(|no_container| {
            panic!(
                "these tests need a Redis server. Tried `{PROGRAM_DEFAULT}` in PATH: {no_program}. Tried a container of \
                 {IMAGE_DEFAULT}: {no_container}. Install redis-server (`scripts/test` does where it can), start \
                 Docker, or name an engine with {PROGRAM_VARIABLE}=/path/to/redis-server or {IMAGE_VARIABLE}=name:tag"
            )
        })
    }

    /// How the program ended, with its log, if it has. A container's end shows when nothing answers.
    pub(crate) fn ended(&mut self) -> Option<String> {
        match self {
            Self::Program(program) => program.ended(),
            Self::Container { .. } => None,
        }
    }

    /// The folder this very engine names as its `dir`: proof that nobody else answers on its port.
    pub(crate) fn folder(&self) -> Option<&Path> {
        match self {
            Self::Program(program) => Some(&program.folder_path),
            Self::Container { .. } => None,
        }
    }
}

/// A redis-server process with a temporary folder of its own.
#[derive(Debug)]
pub(crate) struct Program {
    /// Before the process: once that is gone its id may be another's.
    watchdog: Option<Watchdog>,
    process: Child,
    /// As the engine itself spells it, without links.
    folder_path: PathBuf,
    _folder: TempDir,
}

impl Program {
    fn start(program: &str, clock: Option<&Clock>) -> io::Result<Started> {
        let folder = TempDir::with_prefix("allotment-redis-")?;
        let folder_path = folder.path().canonicalize()?;
        let port = free_port()?;
        let mut command = Command::new(program);
        command.args(SETTINGS).args(["--bind", "127.0.0.1", "--logfile", "redis.log"]);
        command.arg("--port").arg(port.to_string()).arg("--dir").arg(&folder_path);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        if let Some(clock) = clock {
            command.envs(clock.environment(clock.folder()));
        }
        let process = command.spawn()?;
        let watchdog = Watchdog::over_process(process.id(), &folder_path)?;
        let program = Self { watchdog: Some(watchdog), process, folder_path, _folder: folder };
        Ok(Started { engine: Engine::Program(Box::new(program)), port })
    }

    fn ended(&mut self) -> Option<String> {
        let status = self.process.try_wait().unwrap()?;
        let log = fs::read_to_string(self.folder_path.join("redis.log")).unwrap_or_default();
        Some(format!("{status}, log: {log}"))
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.watchdog = None;
        // An error says that it has ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Ends an engine when the test process is gone in a way that runs no destructor: killed, or the engine is a static.
///
/// It is a shell that reads from a pipe. The pipe ends with the test process, however that ends; signals that end the
/// tests as a group (an interrupt, a test runner's time limit) must not end the shell before it has cleaned up.
#[derive(Debug)]
pub(crate) struct Watchdog(Child);

impl Watchdog {
    fn over_process(id: u32, folder: &Path) -> io::Result<Self> {
        Self::start(r#"kill -9 "$1"; rm -rf "$2""#, [id.to_string().as_ref(), folder.as_os_str()])
    }

    fn over_container(id: &str) -> io::Result<Self> {
        Self::start(r#"docker rm -f -v "$1""#, [id.as_ref()])
    }

    fn start<const N: usize>(script: &str, arguments: [&std::ffi::OsStr; N]) -> io::Result<Self> {
        let script = format!("trap '' HUP INT TERM; read -r _; {script}");
        let mut shell = Command::new("sh");
        shell.args(["-c", &script, "watchdog"]).args(arguments);
        shell.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().map(Self)
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

async fn start_container(image: &str, clock: Option<&Clock>) -> Result<Started, Box<dyn std::error::Error>> {
    // A colon after the last slash begins the tag; one before it is a registry's port.
    let (name, tag) = image.rsplit_once(':').filter(|(_, tag)| !tag.contains('/')).unwrap_or((image, "latest"));
    let command = ["redis-server"].into_iter().chain(SETTINGS).chain(["--protected-mode", "no"]);
    let mut request = GenericImage::new(name, tag)
        .with_exposed_port(6379.tcp())
        .with_wait_for(WaitFor::message_on_stdout("Ready to accept connections"))
        .with_cmd(command);
    if let Some(clock) = clock {
        let folder = clock.folder().display().to_string();
        request = request.with_mount(Mount::bind_mount(folder, CLOCK_FOLDER_IN_CONTAINER));
        for (name, value) in clock.environment(Path::new(CLOCK_FOLDER_IN_CONTAINER)) {
            request = request.with_env_var(name, value);
        }
    }
    let container = request.start().await?;
    let port = container.get_host_port_ipv4(6379).await?;
    let watchdog = Watchdog::over_container(container.id())?;
    Ok(Started { engine: Engine::Container { _watchdog: watchdog, _container: Box::new(container) }, port })
}

/// A port that nobody has right now. Another process may take it first: the caller tries again.
fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}
