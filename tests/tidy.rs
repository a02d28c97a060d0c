//! The rules of the house that no compiler checks.

#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot go on shall fail loudly"
)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

const LINES_MAX: usize = 600;

/// Names that say nothing.
const EMPTY_NAMES: [&str; 8] = [
    "utils", "util", "helpers", "common", "misc", "manager", "service", "core",
];

/// Who may not know whom: files under the left name may not mention the right ones.
const STRANGERS: &[(&str, &[&str])] = &[
    (
        "actors/src",
        &["axum", "scylla", "reqwest", "figment", "fjall"],
    ),
    (
        "actors/src/model",
        &["ractor", "tokio", "crate::ports", "crate::door"],
    ),
    ("src/http", &["fjall", "crate::store", "crate::connector"]),
    ("src/ws", &["fjall", "crate::store", "crate::connector"]),
    ("src/store", &["axum", "crate::http", "crate::ws"]),
    ("src/connector", &["axum", "crate::http", "crate::ws"]),
    ("tests/it", &["fjall"]),
    ("loadtest/src", &["actors::", "gateway::"]),
];

/// Words that only one place may know.
const HOMES: &[(&str, &str, &str)] = &[
    ("loadtest/src", "axum::", "loadtest/src/yardstick"),
    ("loadtest/src", "fjall::", "loadtest/src/yardstick"),
    ("actors/src", ".cast(", "actors/src/door.rs"),
    ("actors/src", ".send_message(", "actors/src/door.rs"),
    ("src", ".cast(", "src/never"),
    ("tests/it", "actors::", "tests/it/house/bugs"),
    ("src", "scylla::", "src/store/cql"),
];

#[test]
fn files_are_short() {
    for (path, text) in sources() {
        let lines = text.lines().count();
        assert!(
            lines <= LINES_MAX,
            "{} has {lines} lines: split it",
            path.display()
        );
    }
}

#[test]
fn every_room_says_what_it_is_for() {
    for (path, text) in sources() {
        let is_door = ["mod.rs", "lib.rs", "main.rs"]
            .iter()
            .any(|door| path.ends_with(door));
        let is_told = text.starts_with("//!") || text.starts_with("#![doc");
        assert!(
            !is_door || is_told,
            "{} starts without `//!`",
            path.display()
        );
    }
}

#[test]
fn names_say_something() {
    for (path, _) in sources() {
        let parts = path.iter().map(|part| part.to_string_lossy());
        for part in parts {
            let name = part.trim_end_matches(".rs");
            assert!(
                !EMPTY_NAMES.contains(&name),
                "{}: `{name}` says nothing",
                path.display()
            );
        }
    }
}

#[test]
fn strangers_stay_strangers() {
    for (path, text) in sources() {
        let code = code(&text);
        for (room, strangers) in STRANGERS.iter().filter(|(room, _)| path.starts_with(room)) {
            for stranger in *strangers {
                assert!(
                    !mentions(&code, stranger),
                    "{room} may not know {stranger}: {}",
                    path.display()
                );
            }
        }
        for (room, word, home) in HOMES.iter().filter(|(room, _, _)| path.starts_with(room)) {
            let is_home = path.starts_with(home) || path.with_extension("") == Path::new(home);
            assert!(
                is_home || !mentions(&code, word),
                "in {room} only {home} may say {word}: {}",
                path.display()
            );
        }
    }
}

#[test]
fn every_problem_has_its_page() {
    let text = fs::read_to_string("src/problem.rs")
        .unwrap_or_else(|error| panic!("src/problem.rs: {error}"));
    let codes = codes(&text);
    assert!(codes.len() >= 20, "tidy does not find the codes: {codes:?}");
    for code in &codes {
        let page = Path::new("src/problems").join(format!("{code}.md"));
        let told =
            fs::read_to_string(&page).unwrap_or_else(|error| panic!("{}: {error}", page.display()));
        assert!(
            told.lines().count() >= 3,
            "{} explains nothing",
            page.display()
        );
    }
    for entry in fs::read_dir("src/problems").unwrap() {
        let name = entry.unwrap().file_name().to_string_lossy().into_owned();
        let code = name.trim_end_matches(".md").to_owned();
        assert!(
            codes.contains(&code),
            "src/problems/{name} explains a code that nobody gives"
        );
    }
}

/// Tests that run on several stores have a harness of their own, which runs what stands in a list of cases and nothing
/// else.
#[test]
fn every_black_box_test_is_a_case() {
    for (path, text) in sources()
        .into_iter()
        .filter(|(path, _)| path.starts_with("tests/it") || path.ends_with("tests/load.rs"))
    {
        for word in ["#[test]", "#[tokio::test"] {
            assert!(
                !text.contains(word),
                "{}: {word} is never run, put it into the list of cases",
                path.display()
            );
        }
    }
}

#[test]
fn nothing_is_left_for_later() {
    let words = ["TODO", "FIXME", "XXX", "unimplemented!", "todo!", "dbg!"];
    for (path, text) in sources()
        .into_iter()
        .filter(|(path, _)| !path.ends_with("tidy.rs"))
    {
        for word in words {
            assert!(!mentions(&text, word), "{} says {word}", path.display());
        }
    }
}

/// A file's text without its comments.
fn code(text: &str) -> String {
    let lines = text
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"));
    lines.collect::<Vec<_>>().join("\n")
}

/// Whether a word stands in a text, and not only as a part of a longer one.
fn mentions(text: &str, word: &str) -> bool {
    let is_part = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
    text.match_indices(word).any(|(place, _)| {
        let before = text[..place].chars().next_back();
        let after = text[place + word.len()..].chars().next();
        let begins = !word.starts_with(is_part) || !before.is_some_and(is_part);
        let ends = !word.ends_with(is_part) || !after.is_some_and(is_part);
        begins && ends
    })
}

/// The codes of the table: lines like `NotFound = "not_found", NOT_FOUND, …`.
fn codes(text: &str) -> BTreeSet<String> {
    let code = code(text);
    let rows = code
        .lines()
        .filter_map(|line| line.split_once(" = \"")?.1.split_once("\", "));
    let rows =
        rows.filter(|(_, status)| status.starts_with(|letter: char| letter.is_ascii_uppercase()));
    rows.map(|(code, _)| code.to_owned()).collect()
}

fn sources() -> Vec<(PathBuf, String)> {
    let mut paths = Vec::new();
    for root in ["src", "actors/src", "loadtest/src", "tests"] {
        walk(Path::new(root), &mut paths);
    }
    assert!(10 < paths.len(), "tidy looks in the wrong place");
    paths
        .into_iter()
        .map(|path| (path.clone(), fs::read_to_string(path).unwrap()))
        .collect()
}

fn walk(folder: &Path, paths: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            walk(&path, paths);
        } else if path.extension().is_some_and(|it| it == "rs") {
            paths.push(path);
        }
    }
}
