//! One walk over a syntax tree: what is defined, what is inside of what, and how each is built.
//!
//! Invariant: nothing here calls itself; how deep the text is only makes a list longer.

use tree_sitter::{Node, Tree};

use super::grammar::{self, Found};
use super::names::{cut, names_in};
use super::{DEFINITIONS_MAX, Definition, Kind, Language, Position, TextHash};

/// Definitions inside so many others are found, deeper ones not.
pub(super) const NESTING_MAX: usize = 16;

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

/// The definitions in the syntax tree of `text`, in the order of their beginnings.
pub(super) fn definitions(language: Language, text: &str, tree: &Tree) -> Vec<Definition> {
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
