//! What an event of the Python bridge does to a tree.
//!
//! | type | effect |
//! |---|---|
//! | `file_created`, `file_modified` | the file has this content from then on; directories above it come to be |
//! | `file_deleted` | the file goes |
//! | `file_moved` | the file moves, over what is there; directories above the new path come to be even if there was none |
//! | `file_copied` | the target has the content of the source |
//! | `directory_created` | the directory, and those above it |
//! | `directory_deleted` | the directory goes if it is empty: what lies in it stays |
//! | `directory_moved` | the new directory comes to be, the old one goes if it is empty: what lies in it stays |
//! | all others | none |
//!
//! Moving and deleting a directory left what was in it where it was, and so it is here: nothing is lost that way.
//!
//! Invariants: applying an event a second time right after the first, or after a part of it, ends in the same tree;
//! what contradicts the tree changes nothing but directories that were missing.

use crate::store::event::{Ino, Seq};
use crate::store::index::Inode;
use crate::tree::operation::{
    Attributes, Caller, Operation, RenameHow, S_IFDIR, S_IFMT, S_IFREG, TimeTo, WriteTo,
};
use crate::tree::{Refusal, Tree};

use super::event::Event;

/// How much of a file is written at once.
const PIECE: usize = 1 << 20;

/// Why an event did nothing to the tree.
#[derive(Debug)]
pub(super) enum Unapplied {
    /// It contradicts the tree, or says what no tree can have; the text says how.
    Contradicts(String),
    /// The store takes nothing more.
    Failed(Refusal),
}

impl From<Refusal> for Unapplied {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::NoSpace | Refusal::ReadOnly(_) | Refusal::Io(_) | Refusal::Damaged(_) => {
                Self::Failed(refusal)
            }
            other => Self::Contradicts(other.to_string()),
        }
    }
}

fn contradicts<T>(what: impl Into<String>) -> Result<T, Unapplied> {
    Err(Unapplied::Contradicts(what.into()))
}

/// Whether events of this type are about files and directories.
pub(super) fn concerns_tree(kind: &str) -> bool {
    kind.starts_with("file_") || kind.starts_with("directory_")
}

/// Does to `tree`, in the name of `caller`, what `event` says.
pub(super) fn apply(tree: &Tree, caller: &Caller<'_>, event: &Event) -> Result<(), Unapplied> {
    let doing = Doing { tree, caller };
    let path = |key: &'static str| match event.datum(key) {
        Some(path) => components(path),
        None => contradicts(format!("its data has no `{key}`")),
    };
    let own_path = || match event.path() {
        Some(path) => components(path),
        None => contradicts("its data has no `path`"),
    };
    match &*event.kind {
        "file_created" | "file_modified" => {
            let content = match event.data.get("content") {
                None => "",
                Some(content) => match content.as_str() {
                    Some(content) => content,
                    None => return contradicts("its `content` is no text"),
                },
            };
            let ino = doing.file(&own_path()?)?;
            doing.fill(ino, content.as_bytes())
        }
        "file_deleted" => match doing.find(&own_path()?)? {
            Some(Found { parent, name, inode }) if !is_dir(&inode) => {
                doing.perform(&Operation::Unlink { parent, name })
            }
            // There is no such file, and the bridge did not mind.
            _ => Ok(()),
        },
        "file_moved" => {
            let (old, new) = (path("old_path")?, path("new_path")?);
            let Some((new_name, above)) = new.split_last() else {
                return contradicts("a file cannot be the root");
            };
            let new_parent = doing.directory(above)?;
            match doing.find(&old)? {
                Some(Found { parent, name, inode }) if !is_dir(&inode) => {
                    let how = RenameHow::Replace;
                    doing.perform(&Operation::Rename { parent, name, new_parent, new_name, how })
                }
                Some(_) => contradicts("a directory is where it moves a file from"),
                None => Ok(()),
            }
        }
        "file_copied" => {
            let (source, dest) = (path("source_path")?, path("dest_path")?);
            match doing.find(&source)? {
                Some(Found { inode, .. }) if inode.mode & S_IFMT == S_IFREG => {
                    doing.copy(&inode, &dest)
                }
                Some(_) => contradicts("what it copies is no file"),
                None => Ok(()),
            }
        }
        "directory_created" => doing.directory(&own_path()?).map(drop),
        "directory_deleted" => doing.remove_empty(&own_path()?),
        "directory_moved" => {
            let (old, new) = (path("old_path")?, path("new_path")?);
            match doing.find(&old)? {
                Some(found) if is_dir(&found.inode) => {
                    doing.directory(&new)?;
                    if old == new { Ok(()) } else { doing.remove_empty(&old) }
                }
                // Done before, or never there.
                None => Ok(()),
                Some(_) => contradicts("a file is where it moves a directory from"),
            }
        }
        _ => Ok(()),
    }
}

/// A path of the bridge as names, from the root of the tree on.
fn components(path: &str) -> Result<Vec<&[u8]>, Unapplied> {
    let names: Vec<&[u8]> =
        path.split('/').filter(|name| !name.is_empty()).map(str::as_bytes).collect();
    let bad =
        |name: &&[u8]| [&b"."[..], b".."].contains(name) || name.contains(&0) || name.len() > 255;
    if names.iter().any(bad) {
        return contradicts(format!("{path:?} cannot be a path"));
    }
    Ok(names)
}

const fn is_dir(inode: &Inode) -> bool {
    inode.mode & S_IFMT == S_IFDIR
}

struct Doing<'t> {
    tree: &'t Tree,
    caller: &'t Caller<'t>,
}

/// A name, and what it stands for.
struct Found<'p> {
    parent: Ino,
    name: &'p [u8],
    inode: Inode,
}

impl Doing<'_> {
    fn perform(&self, operation: &Operation<'_>) -> Result<(), Unapplied> {
        self.tree.perform(self.caller, operation)?;
        Ok(())
    }

    fn lookup(&self, parent: Ino, name: &[u8]) -> Result<Option<Inode>, Unapplied> {
        match self.tree.lookup(parent, name, Seq::NOW) {
            Ok(inode) => Ok(Some(inode)),
            Err(Refusal::NotFound | Refusal::NotADirectory) => Ok(None),
            Err(refusal) => Err(refusal.into()),
        }
    }

    fn find<'p>(&self, path: &[&'p [u8]]) -> Result<Option<Found<'p>>, Unapplied> {
        let Some((name, above)) = path.split_last() else { return Ok(None) };
        let mut parent = Ino::ROOT;
        for dir in above {
            match self.lookup(parent, dir)? {
                Some(inode) if is_dir(&inode) => parent = inode.ino,
                _ => return Ok(None),
            }
        }
        Ok(self.lookup(parent, name)?.map(|inode| Found { parent, name, inode }))
    }

    fn make(&self, parent: Ino, name: &[u8], mode: u32) -> Result<Ino, Unapplied> {
        let (rdev, exclusive, security) = (0, true, None);
        let operation = Operation::Make { parent, name, mode, rdev, exclusive, security };
        match self.tree.perform(self.caller, &operation)?.inode {
            Some(inode) => Ok(inode.ino),
            None => contradicts("it was not made"),
        }
    }

    /// The directory at `path`, made with those above it where they are missing.
    fn directory(&self, path: &[&[u8]]) -> Result<Ino, Unapplied> {
        let mut at = Ino::ROOT;
        for name in path {
            at = match self.lookup(at, name)? {
                Some(inode) if is_dir(&inode) => inode.ino,
                Some(_) => {
                    let name = String::from_utf8_lossy(name);
                    return contradicts(format!("{name:?} in its path is a file, not a directory"));
                }
                None => self.make(at, name, S_IFDIR | 0o755)?,
            };
        }
        Ok(at)
    }

    /// The file at `path`, made with the directories above it where they are missing.
    fn file(&self, path: &[&[u8]]) -> Result<Ino, Unapplied> {
        let Some((name, above)) = path.split_last() else {
            return contradicts("a file cannot be the root");
        };
        let parent = self.directory(above)?;
        match self.lookup(parent, name)? {
            Some(inode) if is_dir(&inode) => contradicts("a directory is where it has a file"),
            Some(inode) => Ok(inode.ino),
            None => self.make(parent, name, S_IFREG | 0o644),
        }
    }

    /// Makes `content` all that a file holds, by one event unless it is long.
    fn fill(&self, ino: Ino, content: &[u8]) -> Result<(), Unapplied> {
        if (1..=PIECE).contains(&content.len()) {
            self.tree.write(self.caller, ino, WriteTo::Whole, content, false)?;
            return Ok(());
        }
        let mut offset = 0;
        for piece in content.chunks(PIECE) {
            self.tree.write(self.caller, ino, WriteTo::Offset(offset), piece, false)?;
            offset += piece.len() as u64;
        }
        let inode = self.tree.inode(ino, Seq::NOW)?;
        // A new file that is to be empty is so already.
        if inode.size != offset || offset == 0 && inode.changed.0 != ino.0 {
            let set = Attributes { size: Some(offset), ..Attributes::default() };
            self.perform(&Operation::SetAttributes { ino, set })?;
        }
        Ok(())
    }

    fn copy(&self, source: &Inode, dest: &[&[u8]]) -> Result<(), Unapplied> {
        let dst = self.file(dest)?;
        if dst == source.ino {
            let set = Attributes { mtime: Some(TimeTo::Now), ..Attributes::default() };
            return self.perform(&Operation::SetAttributes { ino: dst, set });
        }
        if source.size == 0 {
            return self.fill(dst, b"");
        }
        let mut at = 0;
        while at < source.size {
            // What is too long for one event comes in pieces.
            let copy = Operation::Copy {
                src: source.ino,
                src_offset: at,
                dst,
                dst_offset: at,
                len: source.size - at,
                uncut: true,
                ends: true,
                kill_set_id: false,
            };
            match self.tree.perform(self.caller, &copy)?.len {
                0 => break,
                len => at += len,
            }
        }
        Ok(())
    }

    fn remove_empty(&self, path: &[&[u8]]) -> Result<(), Unapplied> {
        match self.find(path)? {
            Some(Found { parent, name, inode }) if is_dir(&inode) && inode.entries == 0 => {
                self.perform(&Operation::Rmdir { parent, name })
            }
            // What it holds stays, and so does it.
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::legacy::event::Missing;
    use crate::store::event::{Format, Timestamp};

    #[test]
    fn content_that_replaces_longer_content_is_mixed_with_it_at_no_moment() {
        let tree = Tree::in_memory();
        let happens = |kind: &str, data: &Value| {
            let event = json!({"event_type": kind, "aggregate_id": "x", "data": data});
            let missing = Missing { id: String::new(), time: Timestamp(0) };
            let event = Event::decode(event.to_string().as_bytes(), Format::Json, &missing);
            apply(&tree, &Caller::default(), &event.unwrap()).unwrap();
        };
        let content_at = |at: Seq| {
            let inode = tree.lookup(Ino::ROOT, b"f", at).unwrap();
            let mut content = [0; 20];
            let len = tree.read(inode.ino, 0, &mut content, at).unwrap();
            String::from_utf8_lossy(&content[..len]).into_owned()
        };
        happens("file_created", &json!({"path": "/short", "content": "short"}));
        happens("file_created", &json!({"path": "/empty"}));
        happens("file_created", &json!({"path": "/f"}));
        for (kind, data, content) in [
            ("file_modified", json!({"path": "/f", "content": "very long"}), "very long"),
            ("file_modified", json!({"path": "/f", "content": "brief"}), "brief"),
            ("file_modified", json!({"path": "/f", "content": "very long"}), "very long"),
            ("file_copied", json!({"source_path": "/short", "dest_path": "/f"}), "short"),
            ("file_copied", json!({"source_path": "/empty", "dest_path": "/f"}), ""),
        ] {
            let (before, from) = (content_at(Seq::NOW), tree.last().0);
            happens(kind, &data);
            let contents: Vec<_> = (from..=tree.last().0).map(|at| content_at(Seq(at))).collect();
            assert_eq!(contents, [&*before, content], "{kind} {data}");
        }
    }
}
