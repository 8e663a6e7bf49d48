//! Definitions in source text: functions, methods and classes, found by tree-sitter.
//!
//! ```text
//!  text --parser--> syntax tree --one walk--> definitions, in the order of their beginnings
//! ```
//!
//! | language | names that end in | function | method | class |
//! |---|---|---|---|---|
//! | Python | `.py` `.pyi` | `def` | `def` in a class | `class`; all with their decorators |
//! | JavaScript | `.js` `.cjs` `.mjs` `.jsx` | `function`, and one that a name is bound to | in a class or object | `class` |
//! | TypeScript | `.ts` `.cts` `.mts` `.tsx` | the same | the same | and `interface`, `enum`, `type` |
//! | Rust | `.rs` | `fn`, `macro_rules!` | `fn` in an `impl` or `trait` | `struct`, `enum`, `union`, `trait`, `type`, `impl` |
//! | Go | `.go` | `func` | `func` with a receiver | `type` |
//!
//! Each grammar is a feature of this crate (`python`, `javascript`, `typescript`, `rust`, `go`), all of them by default.
//! Nothing is found in text that is no UTF-8, longer than [`TEXT_MAX`], or not parsed in time; nor in other languages. Text
//! that is wrong in places is parsed around them.
//!
//! Invariants: what is found follows from the text and the language alone; no text makes the walk deeper than the
//! heap is large, for nothing here calls itself; definitions never overlap but where one is inside another.

mod grammar;
mod names;
mod patience;
mod walk;

use std::ops::{ControlFlow, Range};

use tree_sitter::{Node, ParseOptions, Parser, Tree};

pub use patience::Patience;

/// Longest text that is parsed, in bytes: what people write is shorter, and its tree takes twenty times as much memory.
pub const TEXT_MAX: usize = 512 << 10;
/// So many definitions are found in a text at most, the first ones.
pub const DEFINITIONS_MAX: usize = 2000;

/// A language whose definitions are found.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Language {
    /// Python 3.
    Python,
    /// JavaScript, with JSX.
    JavaScript,
    /// TypeScript, with JSX.
    TypeScript,
    /// Rust.
    Rust,
    /// Go.
    Go,
}

impl Language {
    /// All.
    pub const ALL: [Self; 5] =
        [Self::Python, Self::JavaScript, Self::TypeScript, Self::Rust, Self::Go];

    /// The language of a file of this name, by how it ends.
    #[must_use]
    pub fn of(name: &[u8]) -> Option<Self> {
        let dot = name.iter().rposition(|&byte| byte == b'.').filter(|&dot| dot > 0)?;
        match name.get(dot + 1..)? {
            b"py" | b"pyi" => Some(Self::Python),
            b"js" | b"cjs" | b"mjs" | b"jsx" => Some(Self::JavaScript),
            b"ts" | b"cts" | b"mts" | b"tsx" => Some(Self::TypeScript),
            b"rs" => Some(Self::Rust),
            b"go" => Some(Self::Go),
            _ => None,
        }
    }

    /// Its name, in lower case.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Python => "python",
            Self::JavaScript => "javascript",
            Self::TypeScript => "typescript",
            Self::Rust => "rust",
            Self::Go => "go",
        }
    }
}

/// What is defined.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Kind {
    /// Something to call.
    Function,
    /// Something to call that belongs to a class.
    Method,
    /// A type, or what belongs to one.
    Class,
}

/// Where something stands: rows and columns count from 0, columns and offsets in bytes; the end is the first byte behind.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Position {
    /// Row of the first byte.
    pub start_row: usize,
    /// Its column.
    pub start_col: usize,
    /// Row of the end.
    pub end_row: usize,
    /// Its column.
    pub end_col: usize,
    /// Offset of the first byte in the text.
    pub start_byte: usize,
    /// Offset of the end.
    pub end_byte: usize,
}

impl Position {
    fn of(node: &Node<'_>) -> Self {
        let (start, end) = (node.start_position(), node.end_position());
        Self {
            start_row: start.row,
            start_col: start.column,
            end_row: end.row,
            end_col: end.column,
            start_byte: node.start_byte(),
            end_byte: node.end_byte(),
        }
    }

    /// The bytes it is.
    #[must_use]
    pub const fn range(&self) -> Range<usize> {
        self.start_byte..self.end_byte
    }
}

/// The first half of the BLAKE3 hash of a definition's text.
pub type TextHash = [u8; 16];

/// One definition.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Definition {
    /// What it is.
    pub kind: Kind,
    /// Its name; of an `impl`, all before its body.
    pub name: String,
    /// Its name behind those of all it is inside of, with dots between.
    pub qualified: String,
    /// Where it stands.
    pub position: Position,
    /// Which definition it is inside of, as an index.
    pub parent: Option<usize>,
    /// Names of its parameters.
    pub parameters: Vec<String>,
    /// Offset of its body; the end where it has none.
    pub body: usize,
    /// Of the kinds of all nodes of its syntax tree but comments: equal for two that differ in names and numbers alone.
    pub structure: u64,
    /// Of its text.
    pub text: TextHash,
}

/// Why no definitions were looked for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Fault {
    /// More than [`TEXT_MAX`] bytes.
    TooLong,
    /// No UTF-8.
    NotText,
    /// Parsing took too long.
    TooSlow,
    /// The language's grammar was not built in.
    NoGrammar,
}

/// The definitions in `text`; parsing it takes no longer than `patience` lasts.
pub fn definitions(
    language: Language,
    text: &[u8],
    patience: Patience,
) -> Result<Vec<Definition>, Fault> {
    if text.len() > TEXT_MAX {
        return Err(Fault::TooLong);
    }
    let text = std::str::from_utf8(text).map_err(|_| Fault::NotText)?;
    let grammar = grammar::of(language).ok_or(Fault::NoGrammar)?;
    let tree = parse(&grammar, text, patience).ok_or(Fault::TooSlow)?;
    Ok(walk::definitions(language, text, &tree))
}

fn parse(grammar: &tree_sitter::Language, text: &str, patience: Patience) -> Option<Tree> {
    let mut parser = Parser::new();
    // It was built for this library: a test parses each language.
    parser.set_language(grammar).ok()?;
    let mut late = |_: &_| match patience.is_over() {
        true => ControlFlow::Break(()),
        false => ControlFlow::Continue(()),
    };
    let mut read = |offset: usize, _| text.as_bytes().get(offset..).unwrap_or_default();
    let options = ParseOptions::new().progress_callback(&mut late);
    parser.parse_with_options(&mut read, None, Some(options))
}

#[cfg(test)]
mod tests;
