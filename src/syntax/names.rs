//! Names as they are shown: of definitions, and of the parameters in a list.

use tree_sitter::Node;

/// Longest name, in characters; what is longer is cut.
const NAME_MAX: usize = 128;
/// So many parameters are named.
const PARAMETERS_MAX: usize = 64;

/// The names in a list of parameters, or the one that stands without a list.
pub(super) fn names_in(text: &str, list: Node<'_>) -> Vec<String> {
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
pub(super) fn within<'t>(text: &'t str, node: Node<'_>) -> &'t str {
    text.get(node.byte_range()).unwrap_or_default()
}

/// `name` on one line and not too long.
pub(super) fn cut(name: &str) -> String {
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
