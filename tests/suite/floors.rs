//! Modules stand on floors: imports go down, as docs/architecture.md lists them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// Every source file below a folder, without those of tests.
fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    let entries = fs::read_dir(folder).unwrap();
    let mut entries: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if path.is_dir() {
            sources(&path, found);
        } else if name.ends_with(".rs") && !name.ends_with("_tests.rs") {
            found.push(path);
        }
    }
}

/// The top-level module of a file, and its lines without comments.
fn modules() -> Vec<(String, PathBuf, Vec<String>)> {
    let source = Path::new(ROOT).join("src");
    let mut files = Vec::new();
    sources(&source, &mut files);
    let module = |path: PathBuf| {
        let first = path.strip_prefix(&source).unwrap().iter().next().unwrap();
        let name = first.to_str().unwrap().trim_end_matches(".rs").to_owned();
        let text = fs::read_to_string(&path).unwrap();
        let lines = text.lines().map(str::trim);
        let code = lines.filter(|line| !line.starts_with("//"));
        let code = code.map(str::to_owned).collect();
        (name, path, code)
    };
    files.into_iter().map(module).collect()
}

/// The floor of every module, the lowest 0.
fn floors() -> BTreeMap<String, usize> {
    let text = fs::read_to_string(Path::new(ROOT).join("docs/architecture.md")).unwrap();
    let (_, list) = text.split_once("<!-- floors, from the top -->").unwrap();
    let (list, _) = list.split_once("<!-- end of floors -->").unwrap();
    let lines: Vec<&str> = list.lines().filter(|line| line.starts_with("- ")).collect();
    let mut floors = BTreeMap::new();
    for (floor, line) in lines.iter().rev().enumerate() {
        for name in line.split('`').skip(1).step_by(2) {
            assert!(
                floors.insert(name.to_owned(), floor).is_none(),
                "{name} twice"
            );
        }
    }
    floors
}

/// The top-level modules that a line names.
fn named(line: &str) -> impl Iterator<Item = &str> {
    let parts = line
        .match_indices("crate::")
        .map(|(at, own)| &line[at + own.len()..]);
    parts.map(|rest| {
        let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_');
        &rest[..end.unwrap_or(rest.len())]
    })
}

#[test]
fn every_module_has_a_floor() {
    let floors = floors();
    let mut modules: Vec<String> = modules().into_iter().map(|(name, ..)| name).collect();
    modules.dedup();
    modules.retain(|name| name != "lib");
    for name in &modules {
        assert!(
            floors.contains_key(name),
            "docs/architecture.md has no floor for {name}"
        );
    }
    for name in floors.keys() {
        assert!(
            modules.contains(name),
            "docs/architecture.md lists {name}, which is no module"
        );
    }
}

#[test]
fn imports_go_down() {
    let floors = floors();
    let mut imports = 0;
    for (name, path, code) in modules().iter().filter(|(name, ..)| name != "lib") {
        for line in code {
            for other in named(line).filter(|other| other != name) {
                let Some(below) = floors.get(other) else {
                    panic!(
                        "{}: `{line}` names {other}, which is no module",
                        path.display()
                    );
                };
                assert!(
                    *below < floors[name],
                    "{}: `{line}`: {name} must not use {other}",
                    path.display()
                );
                imports += 1;
            }
        }
    }
    assert!(imports > 300, "only {imports} imports were read");
}

#[test]
fn imports_name_modules() {
    for (_, path, code) in modules() {
        for line in code {
            assert!(!line.contains("use crate::{"), "{}: {line}", path.display());
            let bare = named(&line).find(|own| own.starts_with(char::is_uppercase));
            assert_eq!(bare, None, "{}: {line}", path.display());
        }
    }
}
