//! T17: processes of this version and of the one with the scripts before it, on one org.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use allotment_fixtures::{Server, random_org};
use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;

use crate::{
    found::Found,
    load::{Load, boundless, held},
    meter,
    suite::Scale,
    worker::Worker,
};

const LIMIT: u64 = 400;
const WINDOW_MS: u64 = 2_000;
const CALLERS: u64 = 8;
/// Names another revision than the one with the scripts before these.
const REVISION: &str = "ALLOTMENT_CHAOS_PREVIOUS";

pub(crate) async fn run(scale: Scale) -> Result<Found> {
    let (processes, lasts) = scale.pick((2, Duration::from_secs(5)), (3, Duration::from_secs(120)));
    let earlier = Earlier::build().await?;
    let mut found = Found::new(format!(
        "{processes} processes of this version and {processes} of {} for {lasts:?}",
        earlier.revision
    ));
    let (server, org, losses) = (Server::start().await, random_org(), meter::read("allotment_state_losses_total"));
    let arguments = [
        server.url(),
        org.clone(),
        LIMIT.to_string(),
        WINDOW_MS.to_string(),
        CALLERS.to_string(),
        lasts.as_millis().to_string(),
    ];
    let (mut of_this, mut of_earlier) = (Vec::new(), Vec::new());
    for _ in 0..processes {
        of_earlier.push(Worker::start(&earlier.program, &arguments)?);
        of_this.push(Worker::play("caller", &arguments)?);
    }
    // this process counts whether it is told of losses; what it is charged is in no short window
    let witness = boundless(&server.url()).deadline(Duration::from_secs(20)).build()?;
    let load = Load {
        limiters: vec![witness.clone()],
        orgs: vec![org.clone()],
        callers: 1,
        pace: Duration::from_millis(5),
        calls_each: None,
    };
    let witnessed = load.start();
    let (mut this, mut other) = (Told::default(), Told::default());
    for worker in of_this {
        this.add(&worker.rest().await?)?;
    }
    for worker in of_earlier {
        other.add(&worker.rest().await?)?;
    }
    let seen = witnessed.stop().await;
    witness.shutdown().await;
    let losses = meter::read("allotment_state_losses_total") - losses;

    for (version, told) in [("this version", &this), ("the earlier one", &other)] {
        found.calls += told.admitted.len() as u64 + told.denied + told.failed.len() as u64;
        let (count, failed) = (told.admitted.len(), &told.failed);
        found.count(&format!("{version}: calls admitted"), count, "at least 50", count >= 50);
        let measured = failed.first().map_or_else(|| "0".to_owned(), |first| format!("{}: {first}", failed.len()));
        found.count(&format!("{version}: calls and settlements that failed"), measured, 0, failed.is_empty());
    }
    found.calls += seen.calls();
    let failures = seen.failures();
    found.count("the witness: calls that failed", failures, 0, failures == 0);
    found.count("losses of state that were told", losses, 0, losses == 0);
    let mut all = [this.admitted, other.admitted].concat();
    all.sort_unstable();
    let (fullest, over) = windows(&all);
    found.count(
        &format!("charged in the fullest window of {WINDOW_MS} ms"),
        fullest,
        format!("at most {LIMIT}, and more than half of it"),
        fullest <= LIMIT && fullest > LIMIT / 2,
    );
    found.count(&format!("windows over {LIMIT}, of {}", all.len()), over, 0, over == 0);
    let charged = all.iter().map(|(_, amount)| amount).sum::<u64>() + seen.all_admitted();
    found.balance("both versions", charged, 0, held(&server.url(), &org).await);
    Ok(found)
}

/// What processes told.
#[derive(Debug, Default)]
struct Told {
    /// When, and what was charged in the end.
    admitted: Vec<(u64, u64)>,
    denied: u64,
    failed: Vec<String>,
}

impl Told {
    fn add(&mut self, lines: &[String]) -> Result<()> {
        for line in lines {
            match line.split(' ').collect::<Vec<_>>()[..] {
                ["admitted", at, amount] => self.admitted.push((at.parse()?, amount.parse()?)),
                ["denied", count] => self.denied += count.parse::<u64>()?,
                ["failed", ..] => self.failed.push(line.clone()),
                _ => bail!("a caller told {line:?}"),
            }
        }
        Ok(())
    }
}

/// What the fullest window holds, of those that end with an admission, and how many hold more than the limit.
fn windows(admitted: &[(u64, u64)]) -> (u64, u64) {
    let (mut first, mut sum, mut fullest, mut over) = (0, 0, 0, 0);
    for (place, (at, amount)) in admitted.iter().enumerate() {
        sum += amount;
        while admitted[first].0 + WINDOW_MS <= *at {
            sum -= admitted[first].1;
            first += 1;
        }
        // of several in one millisecond, the last one has all of them
        if admitted.get(place + 1).is_none_or(|(next, _)| next > at) {
            fullest = fullest.max(sum);
            over += u64::from(sum > LIMIT);
        }
    }
    (fullest, over)
}

/// The caller, built with the library of an earlier revision.
struct Earlier {
    revision: String,
    program: PathBuf,
    /// Holds its sources.
    _checkout: Checkout,
}

impl Earlier {
    async fn build() -> Result<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("chaos/ lies in the repository")?;
        let revision = revision(root)?;
        let checkout = Checkout::of(root, &revision)?;
        let project = checkout.folder.path().join("caller");
        std::fs::create_dir_all(project.join("src"))?;
        let manifest = "[package]\nname = \"caller\"\nversion = \"0.0.0\"\nedition = \"2024\"\n\n[workspace]\n\n[dependencies]\n\
            allotment = { path = \"../sources\" }\ntokio = { version = \"1\", features = [\"full\"] }\n";
        let main = "mod caller;\n\n#[tokio::main]\nasync fn main() {\n    let arguments: Vec<String> = std::env::args().skip(1).collect();\n    \
            caller::call(&arguments).await.unwrap();\n}\n";
        std::fs::write(project.join("Cargo.toml"), manifest)?;
        std::fs::write(project.join("src/main.rs"), main)?;
        std::fs::write(project.join("src/caller.rs"), include_str!("../caller.rs"))?;
        // the same dependencies as here, which are on this machine already
        std::fs::copy(root.join("Cargo.lock"), project.join("Cargo.lock"))?;
        let target = env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from).join("skew");
        let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.args(["build", "--release", "--quiet", "--target-dir"]).arg(&target).current_dir(&project);
        tokio::task::spawn_blocking(move || run_to_end(&mut cargo)).await??;
        Ok(Self { revision, program: target.join("release/caller"), _checkout: checkout })
    }
}

/// Where the scripts were last other ones than now.
fn revision(root: &Path) -> Result<String> {
    let git = |arguments: &[&str]| run_to_end(Command::new("git").arg("-C").arg(root).args(arguments));
    const SCRIPTS: &str = "lua/*.lua";
    let named = env::var(REVISION).unwrap_or_default();
    let revision = if named.is_empty() {
        let changes = git(&["rev-list", "-n", "2", "HEAD", "--", SCRIPTS])?;
        let earlier = changes.lines().nth(1).map(str::to_owned);
        earlier.with_context(|| {
            format!("git knows no earlier scripts: fetch the history (git fetch --unshallow), or name a revision by {REVISION}")
        })?
    } else {
        named
    };
    let changed = git(&["diff", "--name-only", &revision, "--", SCRIPTS])?;
    ensure!(
        !changed.is_empty(),
        "the scripts of {revision} are those of this version: name another revision by {REVISION}"
    );
    Ok(git(&["rev-parse", "--short", &revision])?.trim().to_owned())
}

/// A revision beside this one, gone when it is dropped.
struct Checkout {
    root: PathBuf,
    folder: TempDir,
}

impl Checkout {
    fn of(root: &Path, revision: &str) -> Result<Self> {
        let checkout = Self { root: root.to_owned(), folder: TempDir::with_prefix("allotment-skew-")? };
        run_to_end(checkout.git("add").arg("--detach").arg(checkout.sources()).arg(revision))?;
        Ok(checkout)
    }

    fn git(&self, verb: &str) -> Command {
        let mut git = Command::new("git");
        git.arg("-C").arg(&self.root).args(["worktree", verb]);
        git
    }

    fn sources(&self) -> PathBuf {
        self.folder.path().join("sources")
    }
}

impl Drop for Checkout {
    fn drop(&mut self) {
        // an error says that there is none
        let _ = run_to_end(self.git("remove").arg("--force").arg(self.sources()));
    }
}

/// What a command says, if it ends well.
fn run_to_end(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?} ended with {}: {said}", output.status);
    Ok(String::from_utf8(output.stdout)?)
}
