//! Which nodes of each language's syntax tree define something, and where their parts are.

use tree_sitter::Node;

use super::names::{cut, within};
use super::{Kind, Language};
#[allow(unused_imports, reason = "where none is built in")]
use crate::sys::grammar;

/// A node that defines something, or gives what is inside a name to stand behind.
pub(super) struct Found<'t> {
    /// `None`: a scope that is not listed.
    pub(super) kind: Option<Kind>,
    pub(super) name: &'t str,
    /// What it belongs to by what it says itself, not by where it stands: the receiver of a method in Go.
    pub(super) owner: Option<String>,
    /// What of the text it is: with decorators, and with the `const` of a variable.
    pub(super) span: Node<'t>,
    pub(super) parameters: Option<Node<'t>>,
    pub(super) body: Option<Node<'t>>,
}

/// The grammar of a language, if it was built in. That of TypeScript is the one with JSX.
pub(super) fn of(language: Language) -> Option<tree_sitter::Language> {
    match language {
        #[cfg(feature = "python")]
        Language::Python => grammar::PYTHON.language(),
        #[cfg(feature = "javascript")]
        Language::JavaScript => grammar::JAVASCRIPT.language(),
        #[cfg(feature = "typescript")]
        Language::TypeScript => grammar::TYPESCRIPT.language(),
        #[cfg(feature = "rust")]
        Language::Rust => grammar::RUST.language(),
        #[cfg(feature = "go")]
        Language::Go => grammar::GO.language(),
        #[allow(unreachable_patterns, reason = "where all are built in")]
        _ => None,
    }
}

/// What `node` defines, which is directly below `above` and in a definition or scope of kind `inside`.
pub(super) fn found<'t>(
    language: Language,
    text: &'t str,
    node: Node<'t>,
    above: Option<Node<'t>>,
    inside: Option<Kind>,
) -> Option<Found<'t>> {
    match language {
        Language::Python => python(text, node, above, inside),
        Language::JavaScript | Language::TypeScript => script(text, node, above),
        Language::Rust => rust(text, node, inside),
        Language::Go => go(text, node),
    }
}

/// As most of them are: with fields for name, parameters and body.
fn plain<'t>(kind: Kind, text: &'t str, node: Node<'t>) -> Option<Found<'t>> {
    let name = within(text, node.child_by_field_name("name")?);
    let (parameters, body) = parts(node);
    Some(Found { kind: Some(kind), name, owner: None, span: node, parameters, body })
}

fn parts(node: Node<'_>) -> (Option<Node<'_>>, Option<Node<'_>>) {
    let list = node.child_by_field_name("parameters");
    let list = list.or_else(|| node.child_by_field_name("parameter"));
    (list, node.child_by_field_name("body"))
}

/// What can be called is a method in a class.
fn callable(inside: Option<Kind>) -> Kind {
    if inside == Some(Kind::Class) { Kind::Method } else { Kind::Function }
}

fn python<'t>(
    text: &'t str,
    node: Node<'t>,
    above: Option<Node<'t>>,
    inside: Option<Kind>,
) -> Option<Found<'t>> {
    let kind = match node.kind() {
        "function_definition" => callable(inside),
        "class_definition" => Kind::Class,
        _ => return None,
    };
    let found = plain(kind, text, node)?;
    let decorated = above.filter(|above| above.kind() == "decorated_definition");
    Some(Found { span: decorated.unwrap_or(node), ..found })
}

fn script<'t>(text: &'t str, node: Node<'t>, above: Option<Node<'t>>) -> Option<Found<'t>> {
    match node.kind() {
        "function_declaration" | "generator_function_declaration" => {
            plain(Kind::Function, text, node)
        }
        "class_declaration"
        | "abstract_class_declaration"
        | "interface_declaration"
        | "enum_declaration"
        | "type_alias_declaration" => plain(Kind::Class, text, node),
        "method_definition" | "abstract_method_signature" => plain(Kind::Method, text, node),
        "internal_module" | "module" => {
            Some(Found { kind: None, ..plain(Kind::Class, text, node)? })
        }
        "variable_declarator" => {
            let name = node.child_by_field_name("name").filter(|it| it.kind() == "identifier")?;
            let found = bound(text, node, name, "value", Kind::Function)?;
            // Where it is the only one, `const` is a part of it.
            let alone = above.filter(|above| above.named_child_count() == 1);
            Some(Found { span: alone.unwrap_or(node), ..found })
        }
        "public_field_definition" | "field_definition" => {
            let name = node.child_by_field_name("name");
            let name = name.or_else(|| node.child_by_field_name("property"))?;
            bound(text, node, name, "value", Kind::Method)
        }
        "assignment_expression" => {
            let name = node.child_by_field_name("left")?;
            let named = matches!(name.kind(), "identifier" | "member_expression");
            if named { bound(text, node, name, "right", Kind::Function) } else { None }
        }
        _ => None,
    }
}

/// A function or class without a name of its own that a name is bound to.
fn bound<'t>(
    text: &'t str,
    node: Node<'t>,
    name: Node<'t>,
    field: &str,
    callable: Kind,
) -> Option<Found<'t>> {
    let value = node.child_by_field_name(field)?;
    let kind = match value.kind() {
        "arrow_function" | "function_expression" | "generator_function" => callable,
        "class" => Kind::Class,
        _ => return None,
    };
    let (parameters, body) = parts(value);
    let name = within(text, name);
    Some(Found { kind: Some(kind), name, owner: None, span: node, parameters, body })
}

fn rust<'t>(text: &'t str, node: Node<'t>, inside: Option<Kind>) -> Option<Found<'t>> {
    match node.kind() {
        "function_item" | "function_signature_item" => plain(callable(inside), text, node),
        "macro_definition" => plain(Kind::Function, text, node),
        "struct_item" | "enum_item" | "union_item" | "trait_item" => plain(Kind::Class, text, node),
        // One in a trait or `impl` is a part of that.
        "type_item" if inside != Some(Kind::Class) => plain(Kind::Class, text, node),
        "impl_item" => {
            let (parameters, body) = (None, node.child_by_field_name("body"));
            let end = body.map_or(node.end_byte(), |body| body.start_byte());
            let name = text.get(node.start_byte()..end)?;
            let kind = Some(Kind::Class);
            Some(Found { kind, name, owner: None, span: node, parameters, body })
        }
        "mod_item" => Some(Found { kind: None, ..plain(Kind::Class, text, node)? }),
        _ => None,
    }
}

fn go<'t>(text: &'t str, node: Node<'t>) -> Option<Found<'t>> {
    match node.kind() {
        "function_declaration" => plain(Kind::Function, text, node),
        "method_declaration" => {
            let receiver = within(text, node.child_by_field_name("receiver")?);
            Some(Found { owner: receiver_type(receiver), ..plain(Kind::Method, text, node)? })
        }
        "type_spec" | "type_alias" => plain(Kind::Class, text, node),
        _ => None,
    }
}

/// `Server` of `(s *Server[T])`.
fn receiver_type(receiver: &str) -> Option<String> {
    let named = receiver.trim_matches(['(', ')', ' ', ',', '\n', '\t']);
    let named = named.split('[').next().unwrap_or_default();
    let last = named.split([' ', '\t', '*']).rfind(|word| !word.is_empty())?;
    Some(cut(last))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tree_sitter::Parser;

    /// As the grammar's own crate builds it.
    fn original(language: Language) -> tree_sitter::Language {
        match language {
            Language::Python => tree_sitter_python::LANGUAGE.into(),
            Language::JavaScript => tree_sitter_javascript::LANGUAGE.into(),
            Language::TypeScript => tree_sitter_typescript::LANGUAGE_TSX.into(),
            Language::Rust => tree_sitter_rust::LANGUAGE.into(),
            Language::Go => tree_sitter_go::LANGUAGE.into(),
        }
    }

    #[test]
    fn an_unpacked_grammar_has_the_tables_of_its_crate() {
        for language in Language::ALL {
            let Some(ours) = of(language) else { continue };
            let original = original(language);
            assert_ne!(ours, original, "two of them, not one under two names");
            let (states, symbols) = (original.parse_state_count(), original.node_kind_count());
            assert_eq!((ours.parse_state_count(), ours.node_kind_count()), (states, symbols));
            assert!(states > 1000 && symbols > 100, "{language:?}: {states} and {symbols}");
            for symbol in 0..u16::try_from(symbols).unwrap() {
                assert_eq!(ours.node_kind_for_id(symbol), original.node_kind_for_id(symbol));
                assert_eq!(ours.node_kind_is_named(symbol), original.node_kind_is_named(symbol));
                for state in 0..u16::try_from(states).unwrap() {
                    let next = original.next_state(state, symbol);
                    let ours = ours.next_state(state, symbol);
                    assert_eq!(ours, next, "{language:?}: state {state}, symbol {symbol}");
                }
            }
            for field in 0..=u16::try_from(original.field_count()).unwrap() {
                assert_eq!(ours.field_name_for_id(field), original.field_name_for_id(field));
            }
        }
    }

    #[test]
    fn an_unpacked_grammar_reads_as_its_crate_does() {
        let texts = [
            include_str!("grammar.rs"),
            include_str!("../../build.rs"),
            "def f(a, *b, c=1):\n    '''text'''\n    return f'{a!r:>{c}}' if b else lambda: \\\n a\n",
            "class C(D):\n  @e\n  async def g(self): ...\n  match x:\n    case [1, *y]: pass\n",
            "export default class A extends B { static #x = `a${1}b`; get y() { return <p q=\"r\">s</p>; } }\n",
            "const f = async (x) => x ?? /a[/]b/g;\nlabel: for (;;) { break label }\n<!-- html -->\n",
            "interface I<T extends keyof U> { readonly a?: T[]; (x: number): asserts x is 1 }\n",
            "enum E { A = 1 }\nfunction g(this: E): x is string { return y! as any }\n",
            "package p\n\nimport (\n\t\"fmt\"\n)\n\ntype S[T any] struct{ n int `json:\"n\"` }\n",
            "func (s *S[T]) M(a, b int) (err error) { go func() { x <- 'a' }(); return }\n",
        ];
        for language in Language::ALL {
            let Some(ours) = of(language) else { continue };
            let mut parsers = [Parser::new(), Parser::new()];
            parsers[0].set_language(&ours).unwrap();
            parsers[1].set_language(&original(language)).unwrap();
            for text in texts {
                let read = parsers.each_mut().map(|parser| parser.parse(text, None).unwrap());
                let [ours, original] = read.map(|tree| tree.root_node().to_sexp());
                assert_eq!(ours, original, "{language:?}: {text}");
            }
        }
    }
}
