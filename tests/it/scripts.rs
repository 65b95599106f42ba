//! The scripts as texts: their headers are complete, and what does not belong in a script is not in one.

use std::{collections::BTreeSet, path::PathBuf};

use crate::house::{sources, text};

const FIELDS: &[&str] = &["KEYS", "ARGV", "RETURNS", "COST", "TTL", "PRE", "MODEL"];
/// Unbounded work, foreign formats, code from text, numbers as text with 14 digits, and names that others could see.
const BANNED: &[&str] =
    &["'KEYS'", "SCAN", "cjson", "cmsgpack", "loadstring", "dofile", "tostring", "setfenv", "_G", "unpack(KEYS"];
/// What is text already wherever it is passed to Redis.
const TEXTS: &[&str] = &[
    "key",
    "id",
    "raw",
    "head",
    "value",
    "record",
    "sums",
    "life",
    "now_text",
    "member",
    "most",
    "field",
    "PRUNED_MAX",
    "head_key",
    "controls_key",
    "audit_key",
    "AUDIT_MAX",
    "AUDIT_MS",
    "FORGOTTEN_MS",
    "by",
    "what",
    "old_text",
    "control",
];

fn files() -> Vec<PathBuf> {
    sources(&["lua"], "lua")
}

fn is_part(path: &std::path::Path) -> bool {
    path.starts_with("lua/lib")
}

#[test]
fn every_script_has_the_whole_header() {
    for path in files() {
        let source = text(&path);
        let name = path.strip_prefix("lua").unwrap().display().to_string();
        let fields = if is_part(&path) { &[][..] } else { FIELDS };
        assert_eq!(missing(&name, &source, fields), None, "{name}");
    }
}

#[test]
fn a_header_without_one_field_is_found() {
    let whole = text("lua/settle.lua");
    for field in FIELDS {
        let mutilated = whole.replacen(&format!("-- {field}"), "-- ", 1);
        assert_eq!(missing("settle.lua", &mutilated, FIELDS), Some((*field).to_owned()));
    }
    assert_eq!(missing("acquire.lua", &whole, FIELDS), Some("acquire.lua".to_owned()));
}

#[test]
fn a_header_names_files_that_are_there() {
    for path in files() {
        for word in header(&text(&path))
            .split([' ', ';', ',', '\n'])
            .filter(|word| word.starts_with("src/") || word.starts_with("tests/"))
        {
            assert!(!text(word.trim_end_matches(['.', ':'])).is_empty(), "{}: {word}", path.display());
        }
    }
}

#[test]
fn scripts_do_bounded_work_and_keep_to_themselves() {
    for path in files() {
        let code = without_comments(&text(&path));
        let found: Vec<_> = BANNED.iter().filter(|banned| code.contains(**banned)).collect();
        assert!(found.is_empty(), "{}: {found:?}", path.display());
    }
}

#[test]
fn numbers_reach_redis_through_format() {
    for path in files() {
        assert_eq!(unformatted(&text(&path)), Vec::<String>::new(), "{}", path.display());
    }
}

#[test]
fn a_number_as_text_by_luas_own_rules_is_found() {
    let source = "local x = call('SET', key, pack('<I6', 1), 'PX', now + 5)\ncall('PEXPIRE', KEYS[k + 1], 75000)\ncall('GET', key)";
    assert_eq!(unformatted(source), ["now + 5", "75000"]);
}

#[test]
fn scripts_write_no_globals() {
    let parts: String = files().iter().filter(|path| is_part(path)).map(text).collect();
    for path in files() {
        let goes_on = |part: &str| path.ends_with(part) || path.parent().is_some_and(|room| room.ends_with(part));
        let known = parts.clone();
        // parts of the loop in acquire.lua
        let in_loop = ["lib/room.lua", "lib/charge.lua", "lib/fair"].into_iter().any(goes_on);
        let known = known + &if in_loop { text("lua/acquire.lua") } else { String::new() };
        assert_eq!(globals(&known, &text(&path)), BTreeSet::new(), "{}", path.display());
    }
}

#[test]
fn a_global_is_found() {
    let source = "local a, b = 1, 2\nfor i = 1, 2 do a = i end\nif a then c = 1 end\nlocal t = {\n  d = 1,\n}\nfunction e() end\nt.f, b = 1, 2";
    assert_eq!(globals("", source), BTreeSet::from(["c".to_owned(), "e".to_owned()]));
    assert_eq!(globals("local c, e", source), BTreeSet::new());
}

#[test]
fn every_script_is_embedded_and_every_embedded_part_is_there() {
    let embedded = text("src/store/redis/script.rs");
    for path in files() {
        let name = path.strip_prefix("lua").unwrap().display().to_string();
        assert!(embedded.contains(&format!("\"{name}\"")), "{name} is not embedded");
    }
}

/// The first comment.
fn header(source: &str) -> String {
    source.lines().take_while(|line| line.starts_with("--")).map(|line| format!("{line}\n")).collect()
}

/// The first thing that the header lacks: the name of the file, or a field in its place.
fn missing(name: &str, source: &str, fields: &[&str]) -> Option<String> {
    let header = header(source);
    if !header.starts_with(&format!("-- {name}: ")) {
        return Some(name.to_owned());
    }
    let mut rest = header.as_str();
    for field in fields {
        match rest.find(&format!("\n-- {field} ")) {
            Some(at) => rest = &rest[at + 1..],
            None => return Some((*field).to_owned()),
        }
    }
    None
}

fn without_comments(source: &str) -> String {
    let code = |line: &str| format!("{}\n", line.split("--").next().unwrap_or_default());
    source.lines().map(code).collect()
}

/// The text with what is in quotes left out.
fn without_texts(code: &str) -> String {
    code.split('\'').step_by(2).collect::<Vec<_>>().join("''")
}

/// The text with what is in brackets of any kind left out.
fn without_brackets(code: &str) -> String {
    let mut depth = 0_usize;
    let outside = |c: char| {
        match c {
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth = depth.saturating_sub(1),
            c if depth == 0 => return Some(c),
            _ => {}
        }
        None
    };
    code.chars().filter_map(outside).collect()
}

/// Arguments of commands that are numbers, or names that may be.
fn unformatted(source: &str) -> Vec<String> {
    let code = without_texts(&without_comments(source));
    let mut found = Vec::new();
    for caller in ["call(", "try("] {
        for (at, _) in code.match_indices(caller) {
            if code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_') {
                continue;
            }
            for argument in arguments(&code[at + caller.len()..]) {
                let plain = without_brackets(&argument);
                let plain = plain.trim();
                let is_name = plain.chars().all(|c| c.is_alphanumeric() || c == '_');
                let built = argument.contains("format(") || argument.contains("pack(") || argument.contains("concat(");
                let known = argument.contains("''") || plain == "KEYS" || plain == "keys" || TEXTS.contains(&plain);
                let arithmetic = plain.contains(['+', '-', '*', '/']);
                if arithmetic || !(built || known || !is_name) {
                    found.push(argument.trim().to_owned());
                }
            }
        }
    }
    found
}

/// The arguments of a call that has been opened.
fn arguments(code: &str) -> Vec<String> {
    let (mut depth, mut arguments) = (0, vec![String::new()]);
    for c in code.chars() {
        match c {
            ')' if depth == 0 => break,
            ',' if depth == 0 => {
                arguments.push(String::new());
                continue;
            }
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth -= 1,
            _ => {}
        }
        arguments.last_mut().unwrap().push(c);
    }
    arguments
}

/// Names that `source` assigns and neither it nor `known` declares.
fn globals(known: &str, source: &str) -> BTreeSet<String> {
    let mut declared = declared(known);
    declared.extend(self::declared(source));
    let mut assigned = BTreeSet::new();
    for statement in statements(source) {
        let name = statement.strip_prefix("function ").and_then(|rest| rest.split('(').next());
        let plain = without_brackets(&statement);
        let targets = match plain.split_once('=') {
            _ if ["local ", "for ", "return", "if ", "while ", "until "]
                .iter()
                .any(|word| statement.starts_with(word)) =>
            {
                ""
            }
            Some((left, right)) if !right.starts_with('=') && !left.ends_with(['~', '<', '>']) => left,
            _ => "",
        };
        // `a.b` and `a[b]` are fields: brackets are gone, so what had one is looked up in the statement
        let bare = |name: &&str| !name.is_empty() && !name.contains('.') && !statement.contains(&format!("{name}["));
        assigned.extend(targets.split(',').map(str::trim).filter(bare).chain(name).map(str::to_owned));
    }
    assigned.difference(&declared).cloned().collect()
}

fn declared(source: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for statement in statements(source) {
        let list = statement.strip_prefix("local ").or_else(|| statement.strip_prefix("for "));
        let list = list.map(|list| list.strip_prefix("function ").unwrap_or(list));
        let left = list.unwrap_or_default().split(['=', '(']).next().unwrap_or_default();
        let left = left.split(" in ").next().unwrap_or_default();
        names.extend(left.split(',').map(|name| name.trim().to_owned()));
        for (at, _) in statement.match_indices("function") {
            let parameters = statement[at..].split_once('(').and_then(|(_, rest)| rest.split(')').next());
            names.extend(parameters.unwrap_or_default().split(',').map(|name| name.trim().to_owned()));
        }
    }
    names
}

/// Statements, as far as a search needs them: what stands between line ends and the words that open and close blocks, with the lines of
/// a bracket joined.
fn statements(source: &str) -> Vec<String> {
    let (mut depth, mut joined) = (0_usize, String::new());
    for c in without_texts(&without_comments(source)).chars() {
        match c {
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        joined.push(if c == '\n' && depth > 0 { ' ' } else { c });
    }
    // a list of targets or values may go on in the next line
    let joined = joined.replace(",\n", ", ");
    let mut statements = Vec::new();
    for line in joined.lines() {
        let mut statement = String::new();
        for word in line.split_whitespace() {
            if ["then", "do", "else", "end", "repeat"].contains(&word) {
                statements.push(std::mem::take(&mut statement));
            } else {
                statement.push_str(if statement.is_empty() { "" } else { " " });
                statement.push_str(word);
            }
        }
        statements.push(statement);
    }
    statements
}
