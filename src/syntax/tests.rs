//! Text of every language, and what is found in it.

use std::time::Duration;

use proptest::prelude::*;

use super::walk::NESTING_MAX;
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
