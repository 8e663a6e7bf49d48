//! How the static binary is linked, and how the grammars of `syntax` are built: with their tables compressed.
//!
//! A grammar is a parser that tree-sitter generated, in C: little code and large tables, 3.4 MB of them for five languages,
//! which deflate to a tenth. The image is to stay below 10 MiB, so the tables stand in it compressed, and are unpacked when
//! a language is first asked for (`sys/grammar.rs`). For each grammar that is a feature here:
//!
//! ```text
//!  parser.c --a program that includes it, run here--> bytes of its tables --deflate--> OUT_DIR/NAME.tables
//!  parser.c --its tables declared, not defined, and a function that fills them--> OUT_DIR/NAME.c --> linked
//! ```
//!
//! The sources are those of the grammar's crate, which is a build dependency for that. Cargo tells nobody where a
//! dependency's sources lie, but `cargo metadata` does.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

/// A grammar: a feature of this crate.
struct Grammar {
    feature: &'static str,
    /// The crate, and where in it the sources lie.
    package: &'static str,
    sources: &'static str,
    /// What the function that gives it is called, behind `tree_sitter_`.
    name: &'static str,
}

const GRAMMARS: [Grammar; 5] = [
    Grammar { feature: "GO", package: "tree-sitter-go", sources: "src", name: "go" },
    Grammar {
        feature: "JAVASCRIPT",
        package: "tree-sitter-javascript",
        sources: "src",
        name: "javascript",
    },
    Grammar { feature: "PYTHON", package: "tree-sitter-python", sources: "src", name: "python" },
    Grammar { feature: "RUST", package: "tree-sitter-rust", sources: "src", name: "rust" },
    // The one with JSX: it reads all but `<T>value` for `value as T`, and a second one would be as large again.
    Grammar {
        feature: "TYPESCRIPT",
        package: "tree-sitter-typescript",
        sources: "tsx/src",
        name: "tsx",
    },
];

/// What tree-sitter calls to read what no grammar can say; behind `tree_sitter_NAME_external_scanner_`.
const SCANNER: [&str; 5] = ["create", "deserialize", "destroy", "scan", "serialize"];

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=Cargo.lock");
    let is = |variable: &str, value: &str| {
        env::var(variable).is_ok_and(|values| values.split(',').any(|it| it == value))
    };
    if is("CARGO_CFG_TARGET_FEATURE", "crt-static") && is("CARGO_CFG_TARGET_ENV", "gnu") {
        // A static binary relocates itself: 20,000 addresses, which take 24 bytes each, or as a bitmap (DT_RELR)
        // hardly more than a bit. glibc reads that since 2.36.
        println!("cargo::rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
    let wanted =
        |grammar: &&Grammar| env::var_os(format!("CARGO_FEATURE_{}", grammar.feature)).is_some();
    let wanted: Vec<&Grammar> = GRAMMARS.iter().filter(wanted).collect();
    if wanted.is_empty() {
        return;
    }
    // The tables are written down by a program that runs here, and read there.
    let endian = if cfg!(target_endian = "little") { "little" } else { "big" };
    assert!(
        is("CARGO_CFG_TARGET_ENDIAN", endian),
        "grammars cannot be packed for a target of the other byte order: build with --no-default-features"
    );
    let packages = packages();
    for grammar in wanted {
        let package = packages.get(grammar.package);
        let package =
            package.unwrap_or_else(|| panic!("cargo metadata does not name {}", grammar.package));
        build(grammar, &package.join(grammar.sources));
    }
}

/// Where the sources of each package lie that this one is built of.
fn packages() -> HashMap<String, PathBuf> {
    let target = variable("TARGET");
    let output = Command::new(variable("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked", "--filter-platform", &target])
        .current_dir(variable("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap_or_else(|error| panic!("cargo metadata: {error}"));
    assert!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value =
        serde_json::from_slice(&output.stdout).expect("cargo metadata writes JSON");
    let packages = metadata["packages"].as_array().into_iter().flatten();
    let place = |package: &serde_json::Value| {
        let manifest = Path::new(package["manifest_path"].as_str()?);
        Some((package["name"].as_str()?.to_owned(), manifest.parent()?.to_owned()))
    };
    packages.filter_map(place).collect()
}

fn build(grammar: &Grammar, sources: &Path) {
    let out = PathBuf::from(variable("OUT_DIR"));
    let Grammar { name, .. } = grammar;
    let parser = sources.join("parser.c");
    let text =
        fs::read_to_string(&parser).unwrap_or_else(|error| panic!("{}: {error}", parser.display()));
    let tables = tables(&text);
    assert!(
        tables.iter().any(|table| table.name == "ts_parse_table"),
        "{}: no ts_parse_table: does tree-sitter write parsers in another way now?",
        parser.display()
    );
    let counts = dump(grammar, sources, &tables);

    let file = out.join(format!("{name}.c"));
    fs::write(&file, without_tables(name, &text, &tables, &counts)).expect("OUT_DIR takes files");
    let mut library = cc::Build::new();
    // Beside the crate's own, in a test that compares the two, under names of its own.
    library.define(&format!("tree_sitter_{name}"), format!("lighthouse_{name}").as_str());
    for part in SCANNER {
        let called = format!("{name}_external_scanner_{part}");
        library.define(&format!("tree_sitter_{called}"), format!("lighthouse_{called}").as_str());
    }
    library
        .file(file)
        .files(scanner(sources))
        .include(sources)
        .std("c11")
        .opt_level_str("s")
        .warnings(false);
    library.compile(&format!("lighthouse-{name}"));
}

/// A table in a generated parser: an array of numbers, or of structs of numbers.
struct Table<'t> {
    /// `static const uint16_t ts_parse_table[LARGE_STATE_COUNT][SYMBOL_COUNT]`.
    declaration: &'t str,
    name: &'t str,
    /// The definition, from its first byte to behind its semicolon.
    range: std::ops::Range<usize>,
}

/// All tables of a generated parser. Arrays of pointers, the names of symbols and fields, are none.
fn tables(text: &str) -> Vec<Table<'_>> {
    let mut tables = Vec::new();
    let mut at = 0;
    for line in text.split_inclusive('\n') {
        let begin = at;
        at += line.len();
        let Some(declaration) = line.trim_end().strip_suffix(" = {") else { continue };
        let Some(declared) = declaration.strip_prefix("static const ") else { continue };
        let Some((_, name)) = declared.split_once(' ') else { continue };
        let Some((name, _)) = name.split_once('[') else { continue };
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        if name.bytes().all(plain) {
            let end = text[at..].find("\n};\n").expect("a definition ends");
            tables.push(Table { declaration, name, range: begin..at + end + "\n};\n".len() });
        }
    }
    tables
}

/// Writes the bytes of all tables, one behind the other, compressed, to `OUT_DIR/NAME.tables`; how many elements each has.
fn dump(grammar: &Grammar, sources: &Path, tables: &[Table<'_>]) -> HashMap<String, usize> {
    let out = PathBuf::from(variable("OUT_DIR"));
    let Grammar { name, .. } = grammar;
    let mut program =
        format!("#include \"{}\"\n#include <stdio.h>\n", sources.join("parser.c").display());
    program.push_str("int main(void) {\n");
    for Table { name, .. } in tables {
        let _ = writeln!(program, "  fwrite({name}, 1, sizeof {name}, stdout);");
        let _ = writeln!(
            program,
            "  fprintf(stderr, \"{name} %zu\\n\", sizeof {name} / sizeof *{name});"
        );
    }
    program.push_str("  return 0;\n}\n");
    let file = out.join(format!("{name}-dump.c"));
    fs::write(&file, program).expect("OUT_DIR takes files");

    let host = variable("HOST");
    let dump = out.join(format!("{name}-dump"));
    let mut compiler = cc::Build::new();
    compiler
        .host(&host)
        .target(&host)
        .opt_level(0)
        .debug(false)
        .include(sources)
        .std("c11")
        .warnings(false);
    let mut command = compiler.get_compiler().to_command();
    command.arg("-o").arg(&dump).arg(&file).args(scanner(sources));
    let status = command.status().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(status.success(), "{command:?}: {status}");
    let output =
        Command::new(&dump).output().unwrap_or_else(|error| panic!("{}: {error}", dump.display()));
    assert!(output.status.success(), "{}: {}", dump.display(), output.status);

    let packed = fs::File::create(out.join(format!("{name}.tables"))).expect("OUT_DIR takes files");
    let mut packed = flate2::write::DeflateEncoder::new(packed, flate2::Compression::best());
    packed.write_all(&output.stdout).and_then(|()| packed.finish()).expect("OUT_DIR takes files");
    let counts = String::from_utf8(output.stderr).expect("what the program writes");
    let count = |line: &str| {
        Some((line.split_once(' ')?.0.to_owned(), line.split_once(' ')?.1.parse().ok()?))
    };
    counts.lines().filter_map(count).collect()
}

/// The parser with its tables declared only, and what fills them.
fn without_tables(
    name: &str,
    text: &str,
    tables: &[Table<'_>],
    counts: &HashMap<String, usize>,
) -> String {
    let mut parser = String::new();
    let mut at = 0;
    for table in tables {
        parser.push_str(&text[at..table.range.start]);
        at = table.range.end;
        // No longer constant, so that it takes no room in the file; and `[]` has a length by its elements only.
        let declaration = table.declaration.replacen("static const ", "static ", 1);
        let declaration = declaration.replacen("[]", &format!("[{}]", counts[table.name]), 1);
        let _ = writeln!(parser, "{declaration};");
    }
    parser.push_str(&text[at..]);
    let lengths: Vec<String> =
        tables.iter().map(|table| format!("sizeof {}", table.name)).collect();
    let _ = writeln!(parser, "\n#include <string.h>");
    let _ = writeln!(
        parser,
        "bool lighthouse_{name}_fill(const unsigned char *from, size_t length) {{"
    );
    let _ = writeln!(parser, "  if (length != {}) return false;", lengths.join(" + "));
    for Table { name, .. } in tables {
        let _ =
            writeln!(parser, "  memcpy({name}, from, sizeof {name});\n  from += sizeof {name};");
    }
    let _ = writeln!(parser, "  return true;\n}}");
    parser
}

/// The scanner of a grammar that has one.
fn scanner(sources: &Path) -> Option<PathBuf> {
    Some(sources.join("scanner.c")).filter(|scanner| scanner.exists())
}

fn variable(name: &str) -> String {
    env::var(name).unwrap_or_else(|_| panic!("cargo sets {name}"))
}
