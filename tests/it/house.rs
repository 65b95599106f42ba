//! The house rules that a search can check.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Above this, a file holds more than one concept.
const LINES_MAX: usize = 450;
/// How the image client reaches upstream.
const TRANSPORT: &str = "src/openai/transport.rs";
const CODE: &[&str] = &["src", "server", "lua", "tests", "examples", "benches"];

/// All files under these directories with this extension, relative to the root of the package.
pub(crate) fn sources(directories: &[&str], extension: &str) -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    let mut open: Vec<PathBuf> = directories.iter().map(|directory| root.join(directory)).collect();
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|found| found == extension) {
                found.push(path.strip_prefix(root).unwrap().to_owned());
            }
        }
    }
    found.sort();
    assert!(!found.is_empty(), "no {extension} files under {directories:?}");
    found
}

/// The text of a file of the package.
pub(crate) fn text(path: impl AsRef<Path>) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn code() -> Vec<PathBuf> {
    [sources(CODE, "rs"), sources(&["lua"], "lua")].concat()
}

#[test]
fn no_file_is_too_long_to_be_read_at_once() {
    let lengths = code().into_iter().map(|path| (text(&path).lines().count(), path));
    let long: Vec<_> = lengths.filter(|(lines, _)| *lines > LINES_MAX).collect();
    assert!(long.is_empty(), "over {LINES_MAX} lines, split by concept: {long:?}");
}

#[test]
fn what_is_left_to_do_has_an_issue() {
    let marks = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X ")];
    for path in code() {
        for (number, line) in text(&path).lines().enumerate() {
            let named = marks.iter().any(|mark| line.contains(&format!("{mark}(#")));
            let found = marks.iter().any(|mark| line.contains(mark));
            assert!(named || !found, "{}:{}: give it an issue: {line}", path.display(), number + 1);
        }
    }
}

#[test]
fn redis_is_named_only_below_its_store() {
    let clients = ["redis::", "deadpool_redis", "rustls::"];
    for path in sources(&["src"], "rs") {
        if path.starts_with("src/store/redis") || path == Path::new("src/store/redis.rs") {
            continue;
        }
        // the image client speaks TLS of its own
        let clients = if path == Path::new(TRANSPORT) { &clients[..2] } else { &clients[..] };
        for line in text(&path).lines().filter(|line| !line.trim_start().starts_with("//")) {
            // the store's own module is named redis too; a pool of the application's own is taken as it is
            let own = ["store::redis::", "redis::RedisStore", "deadpool_redis::Pool"]
                .iter()
                .fold(line.to_owned(), |line, own| line.replace(own, ""));
            let found = clients.iter().find(|client| own.contains(*client));
            assert_eq!(found, None, "{}: {line}", path.display());
        }
    }
}

#[test]
fn the_http_client_is_named_in_one_file() {
    for path in sources(&["src"], "rs") {
        let names = text(&path).lines().any(|line| !line.trim_start().starts_with("//") && line.contains("reqwest"));
        assert_eq!(names, path == Path::new(TRANSPORT), "{}", path.display());
    }
}

#[test]
fn keys_are_spelled_in_one_file() {
    let prefix = concat!("allot", ":1:");
    for path in sources(&["src"], "rs").into_iter().chain(sources(&["lua"], "lua")) {
        let spells = text(&path).contains(prefix);
        assert_eq!(spells, path == Path::new("src/store/keyspace.rs"), "{}", path.display());
    }
}

#[test]
fn the_commands_of_the_readme_are_there() {
    let readme = text("README.md");
    for command in ["cargo run --release -- demo", "scripts/test", "cargo run --release -- bench --redis"] {
        assert!(readme.contains(command), "{command}");
    }
    for file in
        ["docs/policy.md", "docs/demo.md", "ARCHITECTURE.md", "lua/README.md", "CONTRIBUTING.md", "scripts/test"]
    {
        assert!(readme.contains(file) && !text(file).is_empty(), "{file}");
    }
}

#[test]
fn every_example_is_named_in_the_readme_by_its_subject() {
    let readme = text("README.md");
    for path in sources(&["examples"], "rs") {
        let subject = path.file_stem().unwrap().to_str().unwrap().replace('_', " ");
        let first = subject.split(' ').next().unwrap();
        assert!(readme.contains(first), "{subject}");
    }
}
