//! Grammars of tree-sitter whose tables are unpacked when a language is first asked for.
//!
//! A generated parser is a little code and a struct of pointers to large tables. `build.rs` links the code with tables that are
//! only room in memory, and puts their content into the binary compressed: 0.5 MB for five languages instead of 3.6.
//! Unpacking the largest, 1.4 MB, takes some milliseconds, once.

use std::io::Read as _;
use std::sync::OnceLock;

use flate2::read::DeflateDecoder;
use tree_sitter_language::LanguageFn;

/// A grammar in this binary.
pub struct Grammar {
    language: LanguageFn,
    fill: unsafe extern "C" fn(*const u8, usize) -> bool,
    packed: &'static [u8],
    filled: OnceLock<bool>,
}

impl Grammar {
    /// The language that tree-sitter parses by.
    ///
    /// `None` if what the binary holds is not what was packed: it is damaged.
    pub fn language(&self) -> Option<tree_sitter::Language> {
        let filled = *self.filled.get_or_init(|| {
            let mut tables = Vec::new();
            // SAFETY: `fill` reads `tables.len()` bytes behind the pointer, and only if those are as many as its tables
            // have. It writes to them, which nobody reads yet: they are reached through `language` alone, which is
            // handed out by this function, after this closure, which runs once.
            DeflateDecoder::new(self.packed).read_to_end(&mut tables).is_ok()
                && unsafe { (self.fill)(tables.as_ptr(), tables.len()) }
        });
        filled.then(|| self.language.into())
    }
}

/// A grammar by its name: what `build.rs` called its functions and its file.
macro_rules! grammar {
    ($feature:literal, $visible:ident, $language:ident, $fill:ident, $tables:literal) => {
        #[cfg(feature = $feature)]
        #[doc = concat!("That of the feature `", $feature, "`.")]
        pub static $visible: Grammar = {
            unsafe extern "C" {
                fn $language() -> *const ();
                fn $fill(tables: *const u8, length: usize) -> bool;
            }
            Grammar {
                // SAFETY: the function that tree-sitter generated for this grammar, and that it expects here. The struct that
                // it gives is constant; the tables that it points to are filled before anybody is given it.
                language: unsafe { LanguageFn::from_raw($language) },
                fill: $fill,
                packed: include_bytes!(concat!(env!("OUT_DIR"), "/", $tables)),
                filled: OnceLock::new(),
            }
        };
    };
}

grammar!("go", GO, lighthouse_go, lighthouse_go_fill, "go.tables");
grammar!(
    "javascript",
    JAVASCRIPT,
    lighthouse_javascript,
    lighthouse_javascript_fill,
    "javascript.tables"
);
grammar!("python", PYTHON, lighthouse_python, lighthouse_python_fill, "python.tables");
grammar!("rust", RUST, lighthouse_rust, lighthouse_rust_fill, "rust.tables");
grammar!("typescript", TYPESCRIPT, lighthouse_tsx, lighthouse_tsx_fill, "tsx.tables");
