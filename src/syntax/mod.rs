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

use std::ops::{ControlFlow, Range};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use tree_sitter::{Node, ParseOptions, Parser, Tree};

use grammar::Found;

/// Longest text that is parsed, in bytes: what people write is shorter, and its tree takes twenty times as much memory.
pub const TEXT_MAX: usize = 512 << 10;
/// So many definitions are found in a text at most, the first ones.
pub const DEFINITIONS_MAX: usize = 2000;
/// Definitions inside so many others are found, deeper ones not.
const NESTING_MAX: usize = 16;
/// Longest name, in characters; what is longer is cut.
const NAME_MAX: usize = 128;
/// So many parameters are named.
const PARAMETERS_MAX: usize = 64;

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

/// How much of the processor's time the calling thread may take. What others take of it counts for nothing, so what is
/// found does not depend on them.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    until: Duration,
}

impl Patience {
    /// So much from now on.
    #[must_use]
    pub fn of(time: Duration) -> Self {
        Self { until: used().saturating_add(time) }
    }

    /// Whether that was taken.
    #[must_use]
    pub fn is_over(&self) -> bool {
        used() >= self.until
    }
}

/// The time that this thread has taken.
fn used() -> Duration {
    let used = clock_gettime(ClockId::ThreadCPUTime);
    // Neither is negative, and there are a billion nanoseconds at most.
    Duration::new(u64::try_from(used.tv_sec).unwrap_or(0), u32::try_from(used.tv_nsec).unwrap_or(0))
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
    Ok(walk(language, text, &tree))
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

/// A node that has been entered and not left.
struct Frame<'t> {
    node: Node<'t>,
    structure: Fnv,
    opens: Option<Opens>,
}

/// What a node begins.
#[derive(Clone, Copy)]
enum Opens {
    Definition(usize),
    /// Something that has a name and is not listed, such as a module.
    Scope,
}

/// What names further inside are behind.
struct Scope {
    qualified: String,
    definition: Option<usize>,
    kind: Option<Kind>,
}

fn walk(language: Language, text: &str, tree: &Tree) -> Vec<Definition> {
    let mut definitions: Vec<Definition> = Vec::new();
    let mut frames: Vec<Frame<'_>> = Vec::new();
    let mut scopes: Vec<Scope> = Vec::new();
    let mut cursor = tree.walk();
    loop {
        let node = cursor.node();
        let above = frames.last().map(|frame| frame.node);
        let inside = scopes.last().and_then(|scope| scope.kind);
        let found = if node.is_named() && scopes.len() < NESTING_MAX {
            grammar::found(language, text, node, above, inside)
        } else {
            None
        };
        let opens = found.and_then(|found| open(text, found, &mut definitions, &mut scopes));
        frames.push(Frame { node, structure: Fnv::of(node.kind().as_bytes()), opens });
        if cursor.goto_first_child() {
            continue;
        }
        loop {
            let Some(left) = frames.pop() else { return definitions };
            if left.opens.is_some() {
                scopes.pop();
            }
            if let Some(Opens::Definition(index)) = left.opens
                && let Some(definition) = definitions.get_mut(index)
            {
                definition.structure = left.structure.0;
            }
            let Some(above) = frames.last_mut() else { return definitions };
            if !left.node.is_extra() {
                above.structure.add(&left.structure.0.to_le_bytes());
            }
            if cursor.goto_next_sibling() {
                break;
            }
            cursor.goto_parent();
        }
    }
}

/// Notes down what was found, and what it is a scope for.
fn open(
    text: &str,
    found: Found<'_>,
    definitions: &mut Vec<Definition>,
    scopes: &mut Vec<Scope>,
) -> Option<Opens> {
    let Found { kind, name, owner, span, parameters, body } = found;
    let name = cut(name);
    let above = scopes.last();
    let mut qualified = above.map(|scope| scope.qualified.clone()).unwrap_or_default();
    for part in owner.iter().chain([&name]) {
        if !qualified.is_empty() {
            qualified.push('.');
        }
        qualified.push_str(part);
    }
    let parent = above.and_then(|scope| scope.definition);
    let Some(kind) = kind else {
        scopes.push(Scope { qualified, definition: parent, kind: None });
        return Some(Opens::Scope);
    };
    if definitions.len() >= DEFINITIONS_MAX {
        return None;
    }
    let position = Position::of(&span);
    let whole = text.as_bytes().get(position.range()).unwrap_or_default();
    let index = definitions.len();
    scopes.push(Scope { qualified: qualified.clone(), definition: Some(index), kind: Some(kind) });
    definitions.push(Definition {
        kind,
        name,
        qualified,
        parent,
        parameters: parameters.map(|list| names_in(text, list)).unwrap_or_default(),
        body: body.map_or(position.end_byte, |body| body.start_byte()),
        // Known once all of it was seen.
        structure: 0,
        text: hash(whole),
        position,
    });
    Some(Opens::Definition(index))
}

/// Stands for a definition's text.
fn hash(text: &[u8]) -> TextHash {
    let hash = blake3::hash(text);
    *hash.as_bytes().first_chunk().unwrap_or(&[0; 16])
}

/// The names in a list of parameters, or the one that stands without a list.
fn names_in(text: &str, list: Node<'_>) -> Vec<String> {
    let mut names = Vec::new();
    if list.kind().ends_with("identifier") {
        names.push(cut(within(text, list)));
        return names;
    }
    let mut cursor = list.walk();
    for parameter in list.named_children(&mut cursor) {
        if parameter.is_extra() || parameter.is_error() {
            continue;
        }
        let mut cursor = parameter.walk();
        let mut several = parameter.children_by_field_name("name", &mut cursor).peekable();
        if several.peek().is_some() {
            names.extend(several.map(|name| cut(within(text, name))));
        } else {
            names.push(parameter_name(text, parameter));
        }
        if names.len() >= PARAMETERS_MAX {
            names.truncate(PARAMETERS_MAX);
            break;
        }
    }
    names
}

fn parameter_name(text: &str, parameter: Node<'_>) -> String {
    /// As deep as a name is below its parameter.
    const STEPS_MAX: usize = 4;
    let mut node = parameter;
    for _ in 0..STEPS_MAX {
        match node.kind() {
            "self_parameter" => return "self".to_owned(),
            // Patterns have no one name.
            "object_pattern" | "array_pattern" | "tuple_pattern" | "struct_pattern" => break,
            kind if kind.ends_with("identifier") => break,
            _ => (),
        }
        let mut fields = ["pattern", "name", "left"].into_iter();
        let inner = fields.find_map(|field| node.child_by_field_name(field));
        match inner.or_else(|| node.named_child(0)) {
            Some(inner) => node = inner,
            None => break,
        }
    }
    cut(within(text, node))
}

/// The text of `node`.
fn within<'t>(text: &'t str, node: Node<'_>) -> &'t str {
    text.get(node.byte_range()).unwrap_or_default()
}

/// `name` on one line and not too long.
fn cut(name: &str) -> String {
    let mut cut = String::new();
    for (count, char) in name.trim().chars().take(NAME_MAX).enumerate() {
        if !char.is_whitespace() {
            cut.push(char);
        } else if count > 0 && !cut.ends_with(' ') {
            cut.push(' ');
        }
    }
    cut
}

/// FNV-1a: short, and the same in every version of this program, as names that people note down must be.
#[derive(Clone, Copy)]
struct Fnv(u64);

impl Fnv {
    fn of(bytes: &[u8]) -> Self {
        let mut hash = Self(0xcbf2_9ce4_8422_2325);
        hash.add(bytes);
        hash
    }

    fn add(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn in_time(language: Language, text: &[u8]) -> Result<Vec<Definition>, Fault> {
        definitions(language, text, Patience::of(Duration::from_secs(30)))
    }

    /// Kind, qualified name, rows and parameters of each.
    fn listed(language: Language, text: &str) -> Vec<String> {
        let found = in_time(language, text.as_bytes()).unwrap();
        let show = |it: &Definition| {
            let Position { start_row, end_row, .. } = it.position;
            let parent = it.parent.map_or(String::new(), |at| format!(" in {}", found[at].name));
            let parameters = it.parameters.join(" ");
            format!("{:?} {} {start_row}-{end_row} ({parameters}){parent}", it.kind, it.qualified)
        };
        found.iter().map(show).collect()
    }

    #[test]
    fn every_language_has_a_grammar_that_is_read() {
        for language in Language::ALL {
            assert_eq!(in_time(language, b""), Ok(Vec::new()), "{language:?}");
        }
    }

    #[test]
    fn languages_are_told_by_the_ends_of_names() {
        let of = |name: &str| Language::of(name.as_bytes()).map(Language::name);
        assert_eq!(of("/src/a.py"), Some("python"));
        assert_eq!(of("a.d.ts"), Some("typescript"));
        assert_eq!(of("a.jsx"), Some("javascript"));
        assert_eq!(of("a.rs"), Some("rust"));
        assert_eq!(of("a.go"), Some("go"));
        assert_eq!([of("a.txt"), of("py"), of(".py"), of("a.py/b"), of("a.")], [None; 5]);
    }

    #[test]
    fn python() {
        let text = "\
import os

@cache
def load(path, *more, mode: str = 'r', **rest) -> bytes:
    def inner():
        pass
    return inner()

class Store(Base):
    limit = 3

    @property
    def size(self):
        return 1

    async def close(self, wait=True):
        pass

lambda x: x
";
        assert_eq!(
            listed(Language::Python, text),
            [
                "Function load 2-6 (path more mode rest)",
                "Function load.inner 4-5 () in load",
                "Class Store 8-16 ()",
                "Method Store.size 11-13 (self) in Store",
                "Method Store.close 15-16 (self wait) in Store",
            ]
        );
    }

    #[test]
    fn javascript() {
        let text = "\
export function a(x, { y, z }, ...rest) { return x }
function* b() {}
export default class C extends D {
  #p = 1
  constructor(q) { super(q) }
  static async m() { return <div>{this.q}</div> }
  handler = (event) => event
}
const e = async x => x, f = 3
const g = function () {}
module.exports.h = (i) => { const k = () => 1 }
";
        assert_eq!(
            listed(Language::JavaScript, text),
            [
                "Function a 0-0 (x { y, z } rest)",
                "Function b 1-1 ()",
                "Class C 2-7 ()",
                "Method C.constructor 4-4 (q) in C",
                "Method C.m 5-5 () in C",
                "Method C.handler 6-6 (event) in C",
                "Function e 8-8 (x)",
                "Function g 9-9 ()",
                "Function module.exports.h 10-10 (i)",
                "Function module.exports.h.k 10-10 () in module.exports.h",
            ]
        );
    }

    #[test]
    fn typescript() {
        let text = "\
export interface Shape { area(): number }
type Id<T> = T | string
enum Color { Red }
abstract class Base<T> {
  constructor(private readonly id: Id<T>, public n?: number) {}
  abstract go(a: string): void
  get it(): T { return null as T }
}
namespace Inner { export function f(this: Base<any>, a = 1) {} }
export const pick = <T,>(from: T[], at: number): T => from[at]!
";
        assert_eq!(
            listed(Language::TypeScript, text),
            [
                "Class Shape 0-0 ()",
                "Class Id 1-1 ()",
                "Class Color 2-2 ()",
                "Class Base 3-7 ()",
                "Method Base.constructor 4-4 (id n) in Base",
                "Method Base.go 5-5 (a) in Base",
                "Method Base.it 6-6 () in Base",
                "Function Inner.f 8-8 (this a)",
                "Function pick 9-9 (from at)",
            ]
        );
    }

    #[test]
    fn rust() {
        let text = "\
mod inner {
    pub(crate) fn helper<T: Copy>(mut a: T, &(b, c): &(u8, u8)) -> T { a }
}
pub struct Store { len: usize }
enum Kind { A }
impl<T> fmt::Display
    for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { Ok(()) }
}
trait Read { type Item; fn read(&mut self, into: &mut [u8]); }
macro_rules! twice { ($e:expr) => { $e; $e } }
type Short = Store;
";
        assert_eq!(
            listed(Language::Rust, text),
            [
                "Function inner.helper 1-1 (a (b, c))",
                "Class Store 3-3 ()",
                "Class Kind 4-4 ()",
                "Class impl<T> fmt::Display for Store 5-8 ()",
                "Method impl<T> fmt::Display for Store.fmt 7-7 (self f) in impl<T> fmt::Display for Store",
                "Class Read 9-9 ()",
                "Method Read.read 9-9 (self into) in Read",
                "Function twice 10-10 ()",
                "Class Short 11-11 ()",
            ]
        );
    }

    #[test]
    fn go() {
        let text = "\
package main

type Server[T any] struct{ n int }

type (
	Id  = string
	Num int
)

func (s *Server[T]) Load(ctx context.Context, a, b int, rest ...string) error { return nil }
func main() { go func() {}() }
";
        assert_eq!(
            listed(Language::Go, text),
            [
                "Class Server 2-2 ()",
                "Class Id 5-5 ()",
                "Class Num 6-6 ()",
                "Method Server.Load 9-9 (ctx a b rest)",
                "Function main 10-10 ()",
            ]
        );
    }

    #[test]
    fn the_structure_stays_where_only_names_numbers_and_comments_differ() {
        let of = |text: &str| in_time(Language::Python, text.as_bytes()).unwrap()[0].structure;
        let one = of("def f(a):\n    return a + 1\n");
        assert_eq!(one, of("def g(b):\n    # more\n    return b + 22\n"));
        assert_ne!(one, of("def f(a):\n    return a - 1\n"));
        assert_eq!(one, 0xf258_fdf9_b6e2_37b8, "the same in every version of this program");
    }

    #[test]
    fn what_is_wrong_in_places_is_read_around_them() {
        let text = "fn good(x: u8) -> u8 { x }\nfn bad() { let = ; }\n";
        let found = listed(Language::Rust, text);
        assert!(found.iter().any(|it| it.contains("good")), "{found:?}");
    }

    #[test]
    fn what_is_too_long_or_no_text_or_too_slow_has_none() {
        assert_eq!(in_time(Language::Go, &vec![b' '; TEXT_MAX + 1]), Err(Fault::TooLong));
        assert_eq!(in_time(Language::Go, b"func a() {}\xff"), Err(Fault::NotText));
        let long = "def f(): pass\n".repeat(TEXT_MAX / 14);
        let late = definitions(Language::Python, long.as_bytes(), Patience::of(Duration::ZERO));
        assert_eq!(late, Err(Fault::TooSlow));
        assert_eq!(in_time(Language::Python, long.as_bytes()).unwrap().len(), DEFINITIONS_MAX);
    }

    #[test]
    fn no_depth_overflows_the_stack() {
        for (language, open, close) in [
            (Language::Python, "(", ")"),
            (Language::JavaScript, "[", "]"),
            (Language::JavaScript, "function f(){", "}"),
            (Language::TypeScript, "a<", ">"),
            (Language::Rust, "fn f(){", "}"),
            (Language::Rust, "Box<", ">"),
            (Language::Go, "func(){", "}"),
        ] {
            let count = TEXT_MAX / 2 / (open.len() + close.len());
            for text in [open.repeat(count), open.repeat(count) + &close.repeat(count)] {
                // In time or not: that it ends is what counts, on a stack such as a server's thread has.
                let patience = Patience::of(Duration::from_millis(200));
                let found = definitions(language, text.as_bytes(), patience);
                assert!(found.is_err() || found.is_ok_and(|found| found.len() <= NESTING_MAX));
            }
        }
    }

    /// Pieces that mean something to the one or other parser.
    const PIECES: [&str; 24] = [
        "def f(a):",
        "\n",
        "    ",
        "\t",
        "class C:",
        "(",
        ")",
        "{",
        "}",
        "[",
        "'''",
        "\"",
        "`${",
        "}`",
        "r#\"",
        "fn f() {",
        "impl X for Y {",
        "func (s *S) f() {",
        "<div>",
        "=>",
        "\u{0}",
        "é",
        "f\"{",
        "/*",
    ];

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            for language in Language::ALL {
                let text = String::from_utf8_lossy(&bytes);
                for bytes in [&bytes[..], text.as_bytes()] {
                    let _ = in_time(language, bytes);
                }
            }
        }

        #[test]
        fn positions_are_within_the_text_and_inside_those_of_the_parents(
            pieces in proptest::collection::vec(0..PIECES.len(), 0..120),
        ) {
            let text: String = pieces.into_iter().map(|piece| PIECES[piece]).collect();
            for language in Language::ALL {
                let found = in_time(language, text.as_bytes()).unwrap();
                for it in &found {
                    prop_assert!(text.get(it.position.range()).is_some(), "{it:?}");
                    if let Some(parent) = it.parent {
                        let (inner, outer) = (it.position.range(), found[parent].position.range());
                        prop_assert!(outer.start <= inner.start && inner.end <= outer.end, "{it:?}");
                    }
                }
            }
        }
    }
}
