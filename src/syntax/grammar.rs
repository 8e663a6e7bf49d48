//! Which nodes of each language's syntax tree define something, and where their parts are.

use tree_sitter::Node;

use super::names::{cut, within};
use super::{Kind, Language};

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

/// The grammar of a language, if it was built in. That of TypeScript is the one with JSX: it reads all but `<T>value` for
/// `value as T`, and a second one would be as large again.
pub(super) fn of(language: Language) -> Option<tree_sitter::Language> {
    match language {
        #[cfg(any(test, feature = "python"))]
        Language::Python => Some(tree_sitter_python::LANGUAGE.into()),
        #[cfg(any(test, feature = "javascript"))]
        Language::JavaScript => Some(tree_sitter_javascript::LANGUAGE.into()),
        #[cfg(any(test, feature = "typescript"))]
        Language::TypeScript => Some(tree_sitter_typescript::LANGUAGE_TSX.into()),
        #[cfg(any(test, feature = "rust"))]
        Language::Rust => Some(tree_sitter_rust::LANGUAGE.into()),
        #[cfg(any(test, feature = "go"))]
        Language::Go => Some(tree_sitter_go::LANGUAGE.into()),
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
