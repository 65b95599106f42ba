//! The floors of the house: a module uses only modules on floors below its own, and by their own names.
//!
//! The search is over text: a name after `crate::`, groups included, outside comments and tests.

use std::{collections::BTreeSet, fs, path::Path};

use crate::house::sources;

/// From the ground up. Modules on one floor do not use each other.
const FLOORS: &[&[&str]] = &[
    &["resource", "clock"],
    &["decision", "diagnosis"],
    &["error"],
    &["subject", "cost", "telemetry"],
    &["control"],
    &["limit", "calendar"],
    &["policy"],
    &["store"],
    &["plan"],
    &["dispatch"],
    &["lease", "failure"],
    &["permit"],
    &["limiter"],
    &["admin"],
    &["openai"],
    &["testing"],
];

#[test]
fn a_module_uses_only_modules_on_floors_below() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut modules = BTreeSet::new();
    for path in sources(&["src"], "rs").into_iter().filter(|path| path != Path::new("src/lib.rs")) {
        let module = path.iter().nth(1).unwrap().to_str().unwrap().trim_end_matches(".rs").to_owned();
        let source = fs::read_to_string(root.join(&path)).unwrap();
        assert_eq!(violations(&module, &source), Vec::<String>::new(), "{}", path.display());
        modules.insert(module);
    }
    let listed = FLOORS.concat();
    assert!(listed.iter().all(|module| modules.contains(*module)), "the floors name a module that is gone");
}

#[test]
fn a_planted_import_from_above_is_found() {
    let planted = "use std::fmt;\nuse crate::{\n    cost::Cost,\n    store::{Store, keyspace::LedgerKey},\n};\n";
    assert_eq!(violations("limit", planted), ["limit uses store, which is not on a floor below"]);
    assert_eq!(violations("plan", planted), Vec::<String>::new());
    assert_eq!(
        violations("cost", "fn a() -> crate::subject::Subject"),
        ["cost uses subject, which is not on a floor below"]
    );
    assert_eq!(violations("plan", "use crate::Cost;"), ["plan uses Cost from the root: name its module"]);
    assert_eq!(violations("attic", ""), ["attic has no floor"]);
    assert_eq!(
        violations("cost", "/// See [`Limiter`](crate::Limiter).\nuse crate::cost::Cost;"),
        Vec::<String>::new()
    );
    assert_eq!(violations("cost", "#[cfg(test)]\nmod tests { use crate::limiter::Limiter; }"), Vec::<String>::new());
}

/// What is wrong with the imports of a file of this module.
fn violations(module: &str, source: &str) -> Vec<String> {
    let floor_of = |name: &str| FLOORS.iter().position(|floor| floor.contains(&name));
    let Some(own) = floor_of(module) else { return vec![format!("{module} has no floor")] };
    let wrong = |used: &String| match floor_of(used) {
        _ if used == module => None,
        Some(floor) if floor < own => None,
        Some(_) => Some(format!("{module} uses {used}, which is not on a floor below")),
        None => Some(format!("{module} uses {used} from the root: name its module")),
    };
    imports(source).iter().filter_map(wrong).collect()
}

/// The first name of each path from the root of the crate.
fn imports(source: &str) -> BTreeSet<String> {
    let shipped = source.split("#[cfg(test)]\nmod ").next().unwrap_or_default();
    let is_code = |line: &&str| !line.trim_start().starts_with("//");
    let code: String = shipped.lines().filter(is_code).map(|line| format!("{line}\n")).collect();
    let mut names = BTreeSet::new();
    for (at, root) in code.match_indices("crate::") {
        let path = &code[at + root.len()..];
        match path.strip_prefix('{') {
            Some(group) => names.extend(firsts(group)),
            None => names.extend(name(path)),
        }
    }
    names
}

/// The first name of each path in a group that has been opened.
fn firsts(group: &str) -> BTreeSet<String> {
    let (mut depth, mut starts, mut names) = (0, true, BTreeSet::new());
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => return names,
            '}' => depth -= 1,
            ',' if depth == 0 => starts = true,
            c if starts && !c.is_whitespace() => {
                names.extend(name(&group[at..]));
                starts = false;
            }
            _ => {}
        }
    }
    names
}

fn name(path: &str) -> Option<String> {
    let name: String = path.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
    (!name.is_empty()).then_some(name)
}
