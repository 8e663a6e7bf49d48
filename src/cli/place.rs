//! Which store and which path in it a command is about: found from a path inside a mount, as git
//! finds its repository, or told with `--store`.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};

use crate::transport::mount_table::{self, MountEntry};

use super::CliError;

/// A path in a project, and its store.
#[derive(Debug, Eq, PartialEq)]
pub(super) struct Place {
    /// The store's directory.
    pub(super) store: PathBuf,
    /// Path in the tree, without a leading slash; empty for all of it.
    pub(super) path: Vec<u8>,
}

/// Finds the place that `path` (or the working directory) means. With `store`, `path` is relative to
/// the tree of that store.
pub(super) fn find(path: Option<&Path>, store: Option<&Path>) -> Result<Place, CliError> {
    let path = path.unwrap_or(Path::new(""));
    if let Some(store) = store {
        return Ok(Place { store: store.to_owned(), path: inside(path)? });
    }
    // By the text of the path alone where possible: the mount must not be asked about itself while
    // its server is hung.
    let absolute =
        std::path::absolute(if path.as_os_str().is_empty() { Path::new(".") } else { path })
            .map_err(|err| CliError::new(format!("cannot find {}: {err}", path.display())))?;
    let absolute = match absolute.parent().and_then(|parent| parent.canonicalize().ok()) {
        Some(parent) => parent.join(absolute.file_name().unwrap_or_default()),
        None => absolute,
    };
    let table = mount_table::read()
        .map_err(|err| CliError::new(format!("cannot read the table of mounts: {err}")))?;
    choose(&absolute, &table).unwrap_or_else(|| {
        Err(CliError::new(format!(
            "{} is in no mounted project; name the store with --store",
            absolute.display()
        )))
    })
}

/// What `path` is in the innermost mount of ours in `table` that it is in.
fn choose(path: &Path, table: &[MountEntry]) -> Option<Result<Place, CliError>> {
    let (rest, mount) = table
        .iter()
        .filter(|mount| mount.is_ours())
        .filter_map(|mount| Some((path.strip_prefix(&mount.mountpoint).ok()?, mount)))
        .min_by_key(|(rest, _)| rest.components().count())?;
    // Of a bind mount of a part, this is where in the whole it is.
    let root = Path::new(&mount.root);
    let whole = root.strip_prefix("/").unwrap_or(root).join(rest);
    let store = PathBuf::from(&mount.source);
    let mut parts = whole.components();
    Some(match parts.next() {
        None => Ok(Place { store, path: Vec::new() }),
        Some(Component::Normal(top)) if top == "current" => {
            inside(parts.as_path()).map(|path| Place { store, path })
        }
        Some(top) => Err(CliError::new(format!(
            "{} is not below current/, whose paths the log has; name one there",
            top.as_os_str().display()
        ))),
    })
}

/// `path` as one in the tree: `.` and `..` taken out by their text.
fn inside(path: &Path) -> Result<Vec<u8>, CliError> {
    let mut parts: Vec<OsString> = Vec::new();
    for part in path.components() {
        match part {
            Component::Normal(name) => parts.push(name.to_owned()),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => (),
            Component::ParentDir => {
                parts.pop().ok_or_else(|| {
                    CliError::new(format!("{} leads out of the project", path.display()))
                })?;
            }
        }
    }
    let parts: Vec<Vec<u8>> = parts.into_iter().map(OsStringExt::into_vec).collect();
    Ok(parts.join(&b'/'))
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt;

    use super::*;

    fn found(path: &str) -> Option<Result<Place, CliError>> {
        let table = mount_table::parse(
            b"\
2 1 0:41 / /p rw - fuse.lighthouse /stores/outer rw
3 2 0:42 / /p/current/in rw - fuse.lighthouse /stores/inner rw
4 1 0:43 / / rw - fuse.lighthouse /stores/root rw
5 1 0:41 /current/src /part rw - fuse.lighthouse /stores/outer rw
6 1 0:41 /history/@3 /past rw - fuse.lighthouse /stores/outer rw
7 2 0:44 / /p/current/other rw - tmpfs none rw
",
        );
        choose(Path::new(path), &table)
    }

    fn place(store: &str, path: &str) -> Place {
        Place { store: store.into(), path: path.into() }
    }

    #[test]
    fn the_innermost_mount_decides() {
        assert_eq!(found("/p/current/a/b").unwrap().unwrap(), place("/stores/outer", "a/b"));
        assert_eq!(found("/p/current/in/current/x").unwrap().unwrap(), place("/stores/inner", "x"));
        assert_eq!(found("/p").unwrap().unwrap(), place("/stores/outer", ""));
    }

    #[test]
    fn what_is_not_in_current_has_no_path_in_the_log() {
        assert!(found("/p/history/@3/a").unwrap().is_err());
        assert!(found("/past/current").unwrap().is_err());
    }

    #[test]
    fn a_part_that_is_mounted_elsewhere_is_the_same_part() {
        assert_eq!(found("/part").unwrap().unwrap(), place("/stores/outer", "src"));
        let inner = found("/part/current/a").unwrap().unwrap();
        assert_eq!(inner, place("/stores/outer", "src/current/a"));
    }

    #[test]
    fn a_path_in_a_named_store_may_not_lead_out_of_it() {
        assert_eq!(
            find(Some(Path::new("/a/./b/../c")), Some(Path::new("s"))).unwrap(),
            place("s", "a/c")
        );
        assert!(find(Some(Path::new("../x")), Some(Path::new("s"))).is_err());
    }

    #[test]
    fn bytes_that_are_no_text_are_kept() {
        let path = Path::new(std::ffi::OsStr::from_bytes(b"\xff/a"));
        assert_eq!(inside(path).unwrap(), b"\xff/a");
    }
}
