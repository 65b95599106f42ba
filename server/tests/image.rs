//! `allotment image` against a simulated API: what it draws, what it refuses to do, and what it never says.

#![allow(clippy::unwrap_used, clippy::panic, reason = "clippy takes only the test functions themselves for tests")]

use std::process::{Command, Output};

use allotment_upstream::{ErrorShape, Org, Raw, Script, Terms, Upstream};
use serde_json::Value;
use tempfile::TempDir;

const KEY: &str = "planted-key-0123456789";

/// An API, and a folder to draw into.
struct Stage {
    upstream: Upstream,
    folder: TempDir,
}

impl Stage {
    async fn new(terms: Terms) -> Self {
        let upstream = Upstream::start(terms.org(Org::new("org-test").key(KEY))).await.unwrap();
        Self { upstream, folder: tempfile::tempdir().unwrap() }
    }

    /// The command in the folder, in an environment that names no API.
    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_allotment"));
        for variable in ["OPENAI_API_KEY", "OPENAI_BASE_URL", "OPENAI_API_VERSION", "RUST_LOG"] {
            command.env_remove(variable);
        }
        command.env_remove("AZURE_OPENAI_ENDPOINT").env_remove("AZURE_OPENAI_API_KEY").env("NO_PROXY", "127.0.0.1");
        command.args(["image", "a lighthouse"]).args(args).current_dir(self.folder.path());
        command
    }

    /// Runs it with the key of the API.
    fn image(&self, args: &[&str]) -> Ran {
        let mut command = self.command(args);
        command.env("OPENAI_BASE_URL", self.upstream.base_url()).env("OPENAI_API_KEY", KEY);
        Ran::of(command.output().unwrap())
    }

    fn file(&self, name: &str) -> Option<Vec<u8>> {
        std::fs::read(self.folder.path().join(name)).ok()
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.folder.path().join(name), text).unwrap();
    }

    /// Only these files are in the folder: nothing half written was left.
    fn holds(&self, expected: &[&str]) {
        let files = std::fs::read_dir(self.folder.path()).unwrap();
        let mut names: Vec<_> = files.map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
        names.sort_unstable();
        assert_eq!(names, expected);
    }
}

/// What a run came to.
#[derive(Debug)]
struct Ran {
    status: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Ran {
    fn of(output: Output) -> Self {
        let ran = Self {
            status: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        };
        assert!(!ran.stdout.contains(KEY) && !ran.stderr.contains(KEY), "the key is printed: {ran:?}");
        assert!(!ran.stderr.contains("panicked"), "{ran:?}");
        ran
    }

    fn json(&self) -> Value {
        assert_eq!(self.stdout.lines().count(), 1, "one object and nothing else: {self:?}");
        serde_json::from_str(&self.stdout).unwrap()
    }

    /// It ended so, and said all of these.
    fn ended(&self, status: i32, said: &[&str]) {
        assert_eq!(self.status, Some(status), "{self:?}");
        for part in said {
            assert!(self.stderr.contains(part), "no {part:?} in {self:?}");
        }
    }
}

/// Width and height of a PNG, by its header.
fn size(file: &[u8]) -> [u32; 2] {
    assert!(file.starts_with(b"\x89PNG"), "no PNG");
    [16, 20].map(|at| u32::from_be_bytes(file[at..at + 4].try_into().unwrap()))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_picture_is_drawn_as_asked_and_its_file_is_told() {
    let stage = Stage::new(Terms::new()).await;
    let args = ["--out", "lighthouse.png", "--size", "1536x1024", "--quality", "low", "--background", "opaque"];
    let ran = stage.image(&args);
    ran.ended(0, &["gpt-image-2 on openai", "tokens", "$0.00"]);
    assert_eq!(ran.stdout, "lighthouse.png\n");
    assert_eq!(size(&stage.file("lighthouse.png").unwrap()), [1_536, 1_024]);
    let body = &stage.upstream.calls()[0].body;
    assert_eq!((&body["prompt"], &body["quality"]), (&"a lighthouse".into(), &"low".into()));
    assert!(body["output_format"].is_null() && body["background"] == "opaque", "{body}");
    stage.holds(&["lighthouse.png"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn several_pictures_are_numbered_and_one_object_tells_of_them() {
    let stage = Stage::new(Terms::new()).await;
    let ran = stage.image(&["-o", "a.png", "--n", "2", "--size", "1024x1024", "--quality", "medium", "--json"]);
    ran.ended(0, &[]);
    let drawn = ran.json();
    assert_eq!(drawn["files"], serde_json::json!(["a-1.png", "a-2.png"]));
    assert_eq!(
        (&drawn["route"], &drawn["model"], &drawn["attempts"]),
        (&"openai".into(), &"gpt-image-2".into(), &1.into())
    );
    assert_eq!((&drawn["charged_tokens"], &drawn["usage"]["total_tokens"]), (&3_515.into(), &3_515.into()));
    for key in ["estimated_tokens", "spend_micros", "waited_ms", "latency_ms"] {
        assert!(drawn[key].is_u64(), "{key}: {drawn}");
    }
    assert_ne!(stage.file("a-1.png").unwrap(), stage.file("a-2.png").unwrap());
    stage.holds(&["a-1.png", "a-2.png"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_there_is_not_overwritten_and_nothing_is_sent() {
    let stage = Stage::new(Terms::new()).await;
    stage.write("a-2.png", "mine");
    let args = ["--out", "a.png", "--n", "2", "--quality", "low"];
    stage.image(&args).ended(2, &["a-2.png", "--force"]);
    stage.image(&["--out", "nowhere/a.png"]).ended(2, &["no folder nowhere"]);
    stage.image(&["--out", "."]).ended(2, &["it is no file"]);
    assert_eq!((stage.upstream.tally().calls, stage.file("a-2.png").unwrap()), (0, b"mine".to_vec()));
    stage.image(&[&args[..], &["--force"]].concat()).ended(0, &[]);
    assert_eq!(size(&stage.file("a-2.png").unwrap()), size(&stage.file("a-1.png").unwrap()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_is_the_same_however_it_comes_and_tells_the_wait() {
    let stage = Stage::new(Terms::new()).await;
    for shape in [ErrorShape::RateLimit, ErrorShape::HiddenJson] {
        stage.upstream.from_now_on(Script::Refuse(shape.clone()));
        let args = ["--out", "a.png", "--max-wait", "0s"];
        let ran = stage.image(&args);
        ran.ended(1, &["Rate limit reached", "Try again in 240ms"]);
        assert!(ran.stdout.is_empty(), "{ran:?}");
        let refused = stage.image(&[&args[..], &["--json"]].concat()).json();
        assert_eq!(
            (&refused["outcome"], &refused["refusal"]),
            (&"refused".into(), &"rate_limited".into()),
            "{shape:?}"
        );
        assert_eq!(refused["retry_after_ms"], 240);
    }
    stage.holds(&[]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_can_never_fit_says_how_to_split_it() {
    let stage = Stage::new(Terms::new().images(4)).await;
    let ran = stage.image(&["--out", "a.png", "--n", "6", "--json"]);
    ran.ended(1, &["--n 4"]);
    assert_eq!(ran.json()["n_max"], 4);
    stage.write("limits.toml", "[[limit]]\nname = \"mine\"\nimages = 3\n");
    let calls = stage.upstream.tally().calls;
    let ran = stage.image(&["--out", "a.png", "--n", "6", "--policy", "limits.toml", "--json"]);
    ran.ended(1, &["`mine`", "--n 3"]);
    assert_eq!((&ran.json()["outcome"], &ran.json()["n_max"]), (&"denied".into(), &3.into()));
    assert_eq!(stage.upstream.tally().calls, calls, "what is denied is not sent");
    stage.holds(&["limits.toml"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_needs_no_key_and_sends_nothing() {
    let stage = Stage::new(Terms::new()).await;
    stage.write("limits.toml", "[[limit]]\nname = \"mine\"\nscope = [\"org\", \"model\"]\nimages = 3\n");
    let dry = |args: &[&str]| {
        let flags = ["--dry-run", "--size", "1024x1024", "--quality", "high", "--policy", "limits.toml"];
        Ran::of(stage.command(&[&flags[..], args].concat()).output().unwrap())
    };
    let ran = dry(&[]);
    ran.ended(0, &[]);
    for part in ["gpt-image-2: about 7", "limit mine: 0 of 3 images", "would be admitted", "$0.21", "Nothing was sent"]
    {
        assert!(ran.stdout.contains(part), "no {part:?} in {ran:?}");
    }
    let ran = dry(&["--n", "4", "--json"]);
    ran.ended(1, &[]);
    let forecast = ran.json();
    assert_eq!((&forecast["admitted"], &forecast["images"]), (&false.into(), &4.into()), "{forecast}");
    assert_eq!(forecast["limits"][0]["name"], "mine");
    assert!(forecast["tokens"].as_u64() > Some(4 * 7_024) && forecast["denial"].as_str().unwrap().contains("never"));
    assert_eq!(stage.upstream.tally().calls, 0);
    stage.holds(&["limits.toml"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edit_sends_its_images_and_its_mask() {
    let stage = Stage::new(Terms::new()).await;
    stage.image(&["--out", "a.png", "--quality", "low", "--n", "2"]).ended(0, &[]);
    let args = ["--edit", "a-1.png", "--edit", "a-2.png", "--mask", "a-1.png", "--out", "b.png", "--quality", "low"];
    stage.image(&args).ended(0, &[]);
    let calls = stage.upstream.calls();
    let edit = calls.last().unwrap();
    assert!(edit.path.ends_with("/images/edits"), "{}", edit.path);
    let parts: Vec<_> = edit.parts.iter().map(|part| (part.name.trim_end_matches("[]"), part.length)).collect();
    let length = |name: &str| stage.file(name).unwrap().len();
    assert_eq!(parts, [("image", length("a-1.png")), ("image", length("a-2.png")), ("mask", length("a-1.png"))]);
    let calls = calls.len() as u64;
    stage.image(&["--edit", "none.png", "--out", "c.png"]).ended(2, &["--edit", "none.png"]);
    stage.image(&["--mask", "a-1.png", "--out", "c.png"]).ended(2, &["--edit"]);
    assert_eq!(stage.upstream.tally().calls, calls);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_key_is_named_and_a_wrong_one_is_refused_unseen() {
    let stage = Stage::new(Terms::new()).await;
    let ran = Ran::of(stage.command(&["--out", "a.png"]).output().unwrap());
    ran.ended(2, &["OPENAI_API_KEY", "OPENAI_BASE_URL", "AZURE_OPENAI_ENDPOINT", "AZURE_OPENAI_API_KEY", "--routes"]);
    assert_eq!(stage.upstream.tally().calls, 0);
    let wrong = "another-planted-key-98765";
    let mut command = stage.command(&["--out", "a.png", "--base-url", &stage.upstream.base_url()]);
    let ran = Ran::of(command.env("OPENAI_API_KEY", wrong).output().unwrap());
    ran.ended(1, &["401"]);
    assert!(!ran.stderr.contains(wrong), "{ran:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_upstream_echoes_or_that_is_logged_is_not_shown() {
    let stage = Stage::new(Terms::new()).await;
    let body =
        format!(r#"{{"error":{{"message":"Incorrect API key provided: {KEY}.","code":"{KEY}","type":"{KEY}"}}}}"#);
    stage.upstream.next(Script::Reply(Raw::new(401).body(body.clone())));
    stage.image(&["--out", "a.png"]).ended(1, &["Incorrect API key"]);
    stage.upstream.next(Script::Reply(Raw::new(401).body(body)));
    stage.image(&["--out", "a.png", "--json"]).ended(1, &["Incorrect API key"]);
    let mut command = stage.command(&["--out", "a.png", "--quality", "low"]);
    let command = command.env("OPENAI_BASE_URL", stage.upstream.base_url()).env("OPENAI_API_KEY", KEY);
    let ran = Ran::of(command.env("RUST_LOG", "trace").output().unwrap());
    ran.ended(0, &["TRACE"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn azure_is_asked_where_its_variables_are_set() {
    let stage = Stage::new(Terms::new()).await;
    let mut command = stage.command(&["--out", "a.png", "--quality", "low", "--model", "gpt-image-2"]);
    let command = command.env("AZURE_OPENAI_ENDPOINT", stage.upstream.url()).env("AZURE_OPENAI_API_KEY", KEY);
    Ran::of(command.env("OPENAI_API_VERSION", "2026-01-01").output().unwrap()).ended(0, &["on azure"]);
    let call = &stage.upstream.calls()[0];
    assert_eq!(call.path, "/openai/deployments/gpt-image-2/images/generations");
    assert_eq!(call.query.as_deref(), Some("api-version=2026-01-01"));
    assert!(call.headers.iter().any(|header| header == "api-key"));
    stage.holds(&["a.png"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn routes_of_a_file_are_asked_with_the_keys_that_it_names() {
    let stage = Stage::new(Terms::new()).await;
    let route = |name: &str, url: &str, priority: u8| {
        format!("[[route]]\nname = \"{name}\"\nbase_url = \"{url}\"\nkey_env = \"PLANTED\"\npriority = {priority}\n")
    };
    // Nothing listens on port 1.
    let text = route("gone", "http://127.0.0.1:1/v1", 0) + &route("there", &stage.upstream.base_url(), 1);
    stage.write("routes.toml", &text);
    let args = ["--out", "a.png", "--quality", "low", "--routes", "routes.toml", "--json"];
    let ran = Ran::of(stage.command(&args).env("PLANTED", KEY).output().unwrap());
    ran.ended(0, &[]);
    assert_eq!((&ran.json()["route"], &ran.json()["failed"][0]["route"]), (&"there".into(), &"gone".into()));
    Ran::of(stage.command(&args).output().unwrap()).ended(2, &["--out a.png"]);
    let args = ["--out", "b.png", "--routes", "routes.toml"];
    Ran::of(stage.command(&args).output().unwrap()).ended(2, &["--routes routes.toml", "PLANTED"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_shows_its_progress() {
    let stage = Stage::new(Terms::new()).await;
    let ran = stage.image(&["--out", "a.png", "--quality", "low", "--stream"]);
    ran.ended(0, &["picture 1 of 1: preview 1", "picture 1 of 1: preview 2", "picture 1 of 1: drawn"]);
    assert_eq!(ran.stdout, "a.png\n");
    assert_eq!(stage.upstream.calls()[0].body["stream"], true);
    size(&stage.file("a.png").unwrap());
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn an_interrupt_ends_it_without_a_file() {
    use std::process::Stdio;

    let stage = Stage::new(Terms::new()).await;
    stage.upstream.from_now_on(Script::Break(allotment_upstream::Fault::Silence));
    let mut command = stage.command(&["--out", "a.png"]);
    let command = command.env("OPENAI_BASE_URL", stage.upstream.base_url()).env("OPENAI_API_KEY", KEY);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    while stage.upstream.tally().calls == 0 {
        // Nothing tells when a call has come.
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    Ran::of(child.wait_with_output().unwrap()).ended(130, &["interrupted"]);
    stage.holds(&[]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_flag_is_named_with_what_is_allowed() {
    let stage = Stage::new(Terms::new()).await;
    for (args, expected) in [
        (vec![], ["--out <FILE>", "required"]),
        (vec!["--n", "11"], ["'11'", "from 1 to 10"]),
        (vec!["--size", "big"], ["'big'", "1024x1536"]),
        (vec!["--quality", "best"], ["'best'", "medium"]),
        (vec!["--format", "bmp"], ["'bmp'", "webp"]),
        (vec!["--background", "blue"], ["'blue'", "transparent"]),
        (vec!["--max-wait", "soon"], ["'soon'", "--max-wait"]),
        (vec!["--redis", "localhost"], ["'localhost'", "redis://localhost:6379"]),
        (vec!["--preset", "tier-9", "--out", "a.png"], ["--preset", "openai-2026-tier-3"]),
        (vec!["--policy", "none.toml", "--out", "a.png"], ["--policy none.toml", "No such file"]),
        (vec!["--base-url", "ftp://host", "--out", "a.png"], ["base_url", "https"]),
        (vec!["--size", "100x100", "--out", "a.png"], ["100x100", "multiples of 16"]),
    ] {
        stage.image(&args).ended(2, &expected);
    }
    assert_eq!(stage.upstream.tally().calls, 0);
}
