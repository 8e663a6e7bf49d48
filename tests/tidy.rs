//! Keeps the rules of the code's shape, so that no reviewer has to.
//!
//! Which layer may name which, where `unsafe` may stand, how a file opens, which words may not stay, how
//! long lines and files get, which versions the fuzzer is built with. Each broken rule is one line: file, line number, what is wrong.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

/// What each folder of `src/` may name with `crate::` besides itself.
///
/// A request travels down this list and its reply back up; what is not listed would let news flow upwards by other
/// means than return values. `cli` starts everything and may name everything.
const LAYERS: &[(&str, &[&str])] = &[
    ("sys", &["proto::abi"]),
    ("transport", &["sys", "proto"]),
    ("proto", &[]),
    ("server", &["proto", "view", "transport", "meter"]),
    ("view", &["tree", "agents", "legacy", "syntax", "meter", "proto::types", "proto::op::name"]),
    // The grammars, which are C.
    ("syntax", &["sys::grammar"]),
    ("meter", &[]),
    ("tree", &["store"]),
    // What a thread has from the one that started it.
    ("agents", &["store", "sys::process"]),
    // The system calls that rustix does not have.
    ("store", &["sys"]),
    ("legacy", &["store", "tree"]),
    ("api", &["tree", "agents", "legacy"]),
    ("replay", &["meter", "proto", "server", "transport", "view"]),
    ("cli", &[ANYTHING]),
];

const ANYTHING: &str = "*";

/// The folder with every `unsafe` block.
const UNSAFE_LAYER: &str = "sys";

/// Words that mark something as unfinished, in halves so that they do not stand here.
const FORBIDDEN: &[(&str, &str)] =
    &[("TO", "DO"), ("FIX", "ME"), ("todo", "!"), ("unimplemented", "!"), ("dbg", "!")];

const COLUMNS_MAX: usize = 140;
const SOURCE_LINES_MAX: usize = 1200;

#[test]
fn a_layer_names_only_what_is_listed() {
    let mut broken = Broken::default();
    for file in rust_files("src") {
        let Some(layer) = layer_of(&file.path) else { continue };
        let Some((_, below)) = LAYERS.iter().find(|(name, _)| *name == layer) else {
            broken.add(&file, 1, &format!("`{layer}` is no layer: name it in tests/tidy.rs"));
            continue;
        };
        let depth = module_depth(&file.path);
        for (line, path) in crate_paths(&tokens(&code_only(&file.text)), depth) {
            let allowed = below.iter().chain([&layer]).any(|prefix| starts_with(&path, prefix));
            if !allowed {
                broken.add(&file, line, &format!("`{layer}` must not name `crate::{path}`"));
            }
        }
    }
    broken.finish();
}

#[test]
fn unsafe_code_is_in_sys_alone() {
    let mut broken = Broken::default();
    for file in rust_files("src") {
        if layer_of(&file.path) == Some(UNSAFE_LAYER) {
            continue;
        }
        for token in tokens(&code_only(&file.text)) {
            if token.text == "unsafe" {
                broken.add(&file, token.line, &format!("`unsafe` belongs into src/{UNSAFE_LAYER}"));
            }
        }
    }
    broken.finish();
}

#[test]
fn every_file_opens_with_what_it_is() {
    let mut broken = Broken::default();
    for file in all_rust_files() {
        let opens = file.text.lines().next().unwrap_or_default();
        if opens.strip_prefix("//! ").is_none_or(|rest| rest.trim().is_empty()) {
            broken.add(&file, 1, "must open with `//! ` and what the file is");
        }
    }
    broken.finish();
}

#[test]
fn nothing_unfinished_stays() {
    let mut broken = Broken::default();
    for file in all_rust_files() {
        for (number, line) in file.text.lines().enumerate() {
            for (start, end) in FORBIDDEN {
                let word = format!("{start}{end}");
                if line.contains(&word) {
                    broken.add(&file, number + 1, &format!("`{word}`"));
                }
            }
        }
    }
    broken.finish();
}

#[test]
fn lines_and_files_stay_readable() {
    let mut broken = Broken::default();
    for file in all_rust_files() {
        for (number, line) in file.text.lines().enumerate() {
            let columns = line.chars().count();
            if columns > COLUMNS_MAX {
                broken.add(&file, number + 1, &format!("{columns} columns, {COLUMNS_MAX} at most"));
            }
        }
        let lines = file.text.lines().count();
        if file.path.starts_with("src") && lines > SOURCE_LINES_MAX {
            broken.add(&file, lines, &format!("{lines} lines, {SOURCE_LINES_MAX} at most"));
        }
    }
    broken.finish();
}

/// Every rule broken so far, one line each.
#[derive(Default)]
struct Broken(String);

impl Broken {
    fn add(&mut self, file: &SourceFile, line: usize, what: &str) {
        writeln!(self.0, "{}:{line}: {what}", file.path.display()).expect("a String takes all");
    }

    fn finish(self) {
        assert!(self.0.is_empty(), "\n{}", self.0);
    }
}

/// A file of this repository, its path relative to the top.
struct SourceFile {
    path: PathBuf,
    text: String,
}

/// The fuzzer is built apart, with a lock file of its own. It must fuzz what is shipped: the same packages in the same versions.
#[test]
fn the_fuzzer_is_locked_to_the_versions_of_the_crate() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |path: &str| fs::read_to_string(root.join(path)).expect("it is in the repository");
    let (ours, fuzzers) = (packages(&read("Cargo.lock")), packages(&read("fuzz/Cargo.lock")));
    for (name, version) in &fuzzers {
        let versions: Vec<_> = ours.iter().filter(|(other, _)| other == name).collect();
        assert!(
            versions.is_empty() || versions.contains(&&(name.clone(), version.clone())),
            "fuzz/Cargo.lock has {name} {version}, Cargo.lock has not: copy that and run `cargo metadata` in fuzz/"
        );
    }
    let manifest = read("Cargo.toml");
    let needed = manifest.split("[dependencies]\n").nth(1).expect("it depends on something");
    for line in needed.lines().take_while(|line| !line.starts_with('[')) {
        let Some((name, how)) = line.split_once(" = ") else { continue };
        if how.contains("optional = true") {
            continue;
        }
        assert!(
            fuzzers.iter().any(|(known, _)| known == name),
            "fuzz/Cargo.lock lacks {name}: copy Cargo.lock and run `cargo metadata` in fuzz/"
        );
    }
}

/// Name and version of each package in a lock file.
fn packages(lock: &str) -> Vec<(String, String)> {
    let value = |block: &str, key: &str| {
        let line = block.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(" = \""));
        line.map(|rest| rest.trim_end_matches('"').to_owned())
    };
    let blocks = lock.split("[[package]]").skip(1);
    blocks.filter_map(|block| Some((value(block, "name")?, value(block, "version")?))).collect()
}

fn all_rust_files() -> Vec<SourceFile> {
    ["src", "tests", "benches", "fuzz"].into_iter().flat_map(rust_files).collect()
}

/// All `.rs` files below `folder` in order of path; none if there is no such folder.
fn rust_files(folder: &str) -> Vec<SourceFile> {
    let top = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    let mut folders = vec![top.join(folder)];
    while let Some(folder) = folders.pop() {
        // What builds leave in `fuzz/target` is not ours.
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        if folder.ends_with("target") {
            continue;
        }
        for entry in entries {
            let path = entry.expect("a folder of the repository can be read").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).expect("a source file is UTF-8");
                let path = path.strip_prefix(top).expect("it is below the top").to_owned();
                found.push(SourceFile { path, text });
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

/// The folder below `src/` that a file is in: `None` for `main.rs` and `lib.rs`.
fn layer_of(path: &Path) -> Option<&str> {
    let mut parts = path.strip_prefix("src").ok()?.iter().map(|part| part.to_str());
    let first = parts.next()??;
    parts.next().map(|_| first)
}

/// How many modules below the crate's root the module of a file is: `src/store/log.rs` is 2.
fn module_depth(path: &Path) -> usize {
    let parts = path.components().count() - 1;
    if path.ends_with("mod.rs") { parts - 1 } else { parts }
}

fn starts_with(path: &str, prefix: &str) -> bool {
    prefix == ANYTHING
        || path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

/// An identifier, `::`, or one other character.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Token {
    line: usize,
    text: String,
}

fn tokens(code: &str) -> Vec<Token> {
    let mut found = Vec::new();
    for (number, text) in code.lines().enumerate() {
        let mut rest = text.trim_start();
        while let Some(first) = rest.chars().next() {
            let length = if is_word(first) {
                rest.find(|c| !is_word(c)).unwrap_or(rest.len())
            } else if rest.starts_with("::") {
                2
            } else {
                first.len_utf8()
            };
            let (token, after) = rest.split_at(length);
            found.push(Token { line: number + 1, text: token.to_owned() });
            rest = after.trim_start();
        }
    }
    found
}

fn is_word(c: char) -> bool {
    c == '_' || c.is_alphanumeric()
}

/// Every path from the crate's root in a file, with its line: written with `crate::`, or with as many
/// `super::` as lead there from a module `depth` below the root. Groups are taken apart.
fn crate_paths(tokens: &[Token], depth: usize) -> Vec<(usize, String)> {
    let text = |at: usize| tokens.get(at).map_or("", |token| token.text.as_str());
    let mut found = Vec::new();
    // The brace depths at which `mod name {` were opened: each makes `super` mean one module less.
    let mut inline = Vec::new();
    let mut braces = 0_usize;
    let mut at = 0;
    while at < tokens.len() {
        let starts_path = at == 0 || text(at - 1) != "::";
        match text(at) {
            "{" => {
                if at >= 2 && text(at - 2) == "mod" {
                    inline.push(braces);
                }
                braces += 1;
            }
            "}" => {
                braces = braces.saturating_sub(1);
                if inline.last() == Some(&braces) {
                    inline.pop();
                }
            }
            "crate" if starts_path && text(at + 1) == "::" => {
                expand(tokens, at + 2, "", &mut found);
            }
            "super" if starts_path => {
                let mut supers = 1;
                while text(at + 1) == "::" && text(at + 2) == "super" {
                    supers += 1;
                    at += 2;
                }
                if supers >= depth + inline.len() && text(at + 1) == "::" {
                    expand(tokens, at + 2, "", &mut found);
                }
            }
            _ => {}
        }
        at += 1;
    }
    found
}

/// Reads a path or a `{}` group of paths from `at`, each put behind `prefix`; returns where it ends.
fn expand(
    tokens: &[Token],
    mut at: usize,
    prefix: &str,
    found: &mut Vec<(usize, String)>,
) -> usize {
    let Some(first) = tokens.get(at) else { return at };
    if first.text == "{" {
        at += 1;
        while let Some(token) = tokens.get(at).filter(|token| token.text != "}") {
            at = if token.text == "," {
                at + 1
            } else {
                expand(tokens, at, prefix, found).max(at + 1)
            };
        }
        return at + 1;
    }
    let joined =
        if prefix.is_empty() { first.text.clone() } else { format!("{prefix}::{}", first.text) };
    if tokens.get(at + 1).is_some_and(|token| token.text == "::") {
        return expand(tokens, at + 2, &joined, found);
    }
    found.push((first.line, joined));
    // `name as other`: the other name is no path.
    if tokens.get(at + 1).is_some_and(|token| token.text == "as") { at + 3 } else { at + 1 }
}

/// The text with comments and the insides of literals made blank, line by line as it was.
fn code_only(source: &str) -> String {
    let mut code = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(first) = rest.chars().next() {
        let after_word = code.chars().next_back().is_some_and(is_word);
        let skipped = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            block_comment(rest)
        } else if let Some(length) = raw_string(rest).filter(|_| !after_word) {
            length
        } else if first == '"' {
            quoted(rest, '"')
        } else if first == '\'' && is_char_literal(rest) {
            quoted(rest, '\'')
        } else {
            0
        };
        if skipped == 0 {
            code.push(first);
            rest = &rest[first.len_utf8()..];
        } else {
            let (blank, after) = rest.split_at(skipped);
            code.extend(blank.chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
            rest = after;
        }
    }
    code
}

/// The length of the block comment at the front, with those nested in it.
fn block_comment(text: &str) -> usize {
    let mut depth = 0;
    let mut at = 0;
    while at < text.len() {
        let rest = &text[at..];
        if rest.starts_with("/*") {
            depth += 1;
            at += 2;
        } else if rest.starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += rest.chars().next().map_or(1, char::len_utf8);
        }
    }
    text.len()
}

/// The length of the raw string at the front, if there is one.
fn raw_string(text: &str) -> Option<usize> {
    let start = ["r", "br", "cr"].into_iter().find_map(|mark| text.strip_prefix(mark))?;
    let hashes = start.chars().take_while(|&c| c == '#').count();
    let body = start[hashes..].strip_prefix('"')?;
    let end = format!("\"{}", "#".repeat(hashes));
    let opened = text.len() - body.len();
    Some(body.find(&end).map_or(text.len(), |at| opened + at + end.len()))
}

/// The length of the literal at the front that ends at the next `mark` without a backslash before it.
fn quoted(text: &str, mark: char) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        if escaped {
            escaped = false;
        } else if c == '\\' {
            escaped = true;
        } else if c == mark {
            return at + c.len_utf8();
        }
    }
    text.len()
}

/// Whether the `'` at the front opens a character and not a lifetime.
fn is_char_literal(text: &str) -> bool {
    let mut chars = text.chars().skip(1);
    match chars.next() {
        Some('\\') => true,
        Some(_) => chars.next() == Some('\''),
        None => false,
    }
}

fn paths_in(code: &str, depth: usize) -> Vec<String> {
    let found = crate_paths(&tokens(&code_only(code)), depth);
    found.into_iter().map(|(_, path)| path).collect()
}

#[test]
fn groups_of_paths_are_taken_apart() {
    let code =
        "use crate::{proto::{abi, types::{Name, Errno as E}}, sys};\nlet x = crate::store::Seq(1);";
    let wanted = ["proto::abi", "proto::types::Name", "proto::types::Errno", "sys", "store::Seq"];
    assert_eq!(paths_in(code, 1), wanted);
}

#[test]
fn super_counts_only_when_it_leads_to_the_root() {
    let code = "use super::log; use super::super::view; mod tests { use super::super::near; \
                use super::super::super::far::Thing; } use super::super::tree;";
    assert_eq!(paths_in(code, 2), ["view", "far::Thing", "tree"]);
}

#[test]
fn comments_and_literals_name_nothing() {
    let code = r##"
        // crate::view
        /* crate::view /* nested */ crate::view */
        let a = "crate::view \" crate::view";
        let b = r#"crate::view " crate::view"#;
        let c = '"'; let d: &'static str = ""; crate::tree::here()
    "##;
    assert_eq!(paths_in(code, 1), ["tree::here"]);
}

#[test]
fn a_prefix_ends_at_a_whole_word() {
    assert!(starts_with("proto::abi::fuse_in_header", "proto::abi"));
    assert!(!starts_with("proto::abigail", "proto::abi"));
    assert!(!starts_with("store", "sys"));
}
