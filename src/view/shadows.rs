//! `shadows/`: the present tree once more, each file as JSON about itself.
//!
//! | key | is |
//! |---|---|
//! | `original_content` | the file as text (what is not UTF-8 as U+FFFD); null for a file of more than [`CONTENT_MAX`] bytes |
//! | `ast_annotations` | definitions in it, each with who touched it last: see `annotations.rs`; none where [`crate::syntax`] finds none |
//! | `file_path` | its path in the project, with a leading `/`; of a file with several names, one of them |
//! | `generated_at` | when the file last changed, for the rest follows from that; UTC without an offset |
//!
//! Directories and symbolic links are as in `current/`; sockets, FIFOs and devices are left out. Owners and modes are the
//! files' own, so that who may not read one may not read of it here.
//!
//! A size is that of the JSON, so looking at one computes all of it: in a listing nobody waits for that, and it comes
//! when the name is looked up.
//!
//! Invariants: what a file shows is a function of its version and path and, for [`YOUNG`] after a change, of what
//! has become known of who made it; so sizes hold as long as those. Nothing here is kept by the kernel, which is not
//! told of what changes.

use std::ops::ControlFlow;
use std::time::Duration;

use rustc_hash::FxHashMap;
use serde_json::json;

use crate::proto::types::{Attr, Entry};
use crate::syntax::Language;
use crate::tree::operation::{S_IFDIR, S_IFLNK, S_IFMT, S_IFREG};
use crate::tree::{Ino, Inode, Seq, Timestamp};

use super::listing::{AFTER_DOTS, Filling, Listed};
use super::made::{Made, node};
use super::nodes::Tense;
use super::{Found, ROOT_INO, Refusal, TreeRefusal, View, attr};

/// Longest file whose content is shown, in bytes.
const CONTENT_MAX: u64 = 16 << 20;
/// So many names are looked at between two looks at the room that is left.
const BATCH: usize = 64;
/// Sizes that are remembered.
const SIZES_MAX: usize = 1 << 16;
/// A process is asked who it is when it changed something, and answers later: in half a second, or never.
const YOUNG: i64 = 2_000_000_000;

/// By path: the version a size is of, and the size.
pub(super) type Sizes = FxHashMap<String, (Version, u64)>;

/// What the content of a shadow follows from, beside its path.
pub(super) type Version = (Ino, Seq, Timestamp);

/// A rename changes the path, and leaves the inode as it was but for its time.
const fn version(inode: &Inode) -> Version {
    (inode.ino, inode.changed, inode.ctime)
}

/// What is shown here at all.
fn is_shown(mode: u32) -> bool {
    matches!(mode & S_IFMT, S_IFREG | S_IFDIR | S_IFLNK)
}

impl View {
    /// Attributes of the shadow of `ino`; they hold for no time.
    pub(super) fn shadow_attr(&self, ino: Ino) -> Result<(Attr, Duration), Refusal> {
        let inode = self.tree.inode(ino, Seq::NOW)?;
        Ok((self.shadow_attr_of(&inode)?, Duration::ZERO))
    }

    fn shadow_attr_of(&self, inode: &Inode) -> Result<Attr, Refusal> {
        let shown = Attr { ino: Made::Shadow(inode.ino).ino(), ..attr(Tense::Now, inode) };
        if inode.mode & S_IFMT != S_IFREG {
            return Ok(shown);
        }
        let size = self.shadow_size(inode)?;
        Ok(Attr { size, blocks: size.div_ceil(512), ..shown })
    }

    fn shadow_size(&self, inode: &Inode) -> Result<u64, Refusal> {
        let path = self.shadow_path(inode.ino)?;
        if let Some(size) = self.known_size(inode, &path) {
            return Ok(size);
        }
        let size = self.shadow_json(inode, &path)?.len() as u64;
        if Timestamp::now().0.saturating_sub(inode.ctime.0) < YOUNG {
            return Ok(size);
        }
        let version = version(inode);
        let mut sizes = self.shadow_sizes.lock();
        if sizes.len() >= SIZES_MAX {
            sizes.clear();
        }
        sizes.insert(path, (version, size));
        Ok(size)
    }

    fn known_size(&self, inode: &Inode, path: &str) -> Option<u64> {
        let sizes = self.shadow_sizes.lock();
        let (_, size) = sizes.get(path).filter(|(of, _)| *of == version(inode))?;
        Some(*size)
    }

    /// Content of the shadow of `ino`.
    pub(super) fn shadow_content(&self, ino: Ino) -> Result<Vec<u8>, Refusal> {
        let inode = self.tree.inode(ino, Seq::NOW)?;
        self.shadow_json(&inode, &self.shadow_path(ino)?)
    }

    fn shadow_json(&self, inode: &Inode, path: &str) -> Result<Vec<u8>, Refusal> {
        let content = if inode.size > CONTENT_MAX {
            None
        } else {
            // At most `CONTENT_MAX`.
            let mut bytes = vec![0; usize::try_from(inode.size).unwrap_or(0)];
            // As it was in this version, though it may be changing; the tree does not answer from before the horizon.
            let at = inode.changed.max(self.tree.store().horizon());
            let len = self.tree.read(inode.ino, 0, &mut bytes, at)?;
            bytes.truncate(len);
            Some(String::from_utf8(bytes))
        };
        let annotations = match (&content, Language::of(path.as_bytes())) {
            (Some(Ok(text)), Some(language)) => self.annotations(inode, path, language, text)?,
            _ => Vec::new(),
        };
        let content = content.map(|content| {
            content.unwrap_or_else(|err| String::from_utf8_lossy(err.as_bytes()).into_owned())
        });
        let json = json!({
            "original_content": content,
            "ast_annotations": annotations,
            "file_path": path,
            "generated_at": naive(inode.ctime),
        });
        let mut text = format!("{json:#}");
        text.push('\n');
        Ok(text.into_bytes())
    }

    /// A path of `ino` in the project; what is not UTF-8 as U+FFFD.
    fn shadow_path(&self, ino: Ino) -> Result<String, Refusal> {
        /// Deeper trees can only come from a damaged index.
        const DEPTH_MAX: usize = 4096;
        let mut parts = Vec::new();
        let mut at = ino;
        while at != Ino::ROOT && parts.len() < DEPTH_MAX {
            let names = self.tree.names(at, Seq::NOW)?;
            let (parent, name) = names.into_iter().next().ok_or(TreeRefusal::Stale)?;
            parts.push(String::from_utf8_lossy(&name).into_owned());
            at = parent;
        }
        parts.reverse();
        Ok(format!("/{}", parts.join("/")))
    }

    fn shadow_entry(&self, inode: &Inode) -> Result<Entry, Refusal> {
        Ok(Entry {
            node: node(Made::Shadow(inode.ino))?,
            generation: 0,
            attr: self.shadow_attr_of(inode)?,
            entry_valid: Duration::ZERO,
            attr_valid: Duration::ZERO,
        })
    }

    /// As [`View::shadow_entry`], if nothing must be computed for it: a listing may have thousands.
    fn cheap_entry(&self, inode: &Inode) -> Result<Option<Entry>, Refusal> {
        let file = inode.mode & S_IFMT == S_IFREG;
        if file && self.known_size(inode, &self.shadow_path(inode.ino)?).is_none() {
            return Ok(None);
        }
        self.shadow_entry(inode).map(Some)
    }

    pub(super) fn shadow_lookup(&self, dir: Ino, name: &[u8]) -> Result<Found, Refusal> {
        let inode = match self.tree.lookup(dir, name, Seq::NOW) {
            Ok(inode) if is_shown(inode.mode) => inode,
            Ok(_) | Err(TreeRefusal::NotFound) => return Ok(Found::Absent(Duration::ZERO)),
            Err(refusal) => return Err(refusal.into()),
        };
        let entry = self.shadow_entry(&inode)?;
        self.nodes.looked_up(entry.node);
        Ok(Found::Entry(entry))
    }

    pub(super) fn shadow_list(
        &self,
        dir: Ino,
        offset: u64,
        plus: bool,
        filling: &mut Filling<'_>,
    ) -> Result<(), Refusal> {
        let above = match self.tree.parent(dir, Seq::NOW) {
            _ if dir == Ino::ROOT => ROOT_INO,
            Ok(parent) => Made::Shadow(parent).ino(),
            Err(TreeRefusal::NotFound) => Made::Shadow(dir).ino(),
            Err(refusal) => return Err(refusal.into()),
        };
        let own = Made::Shadow(dir).ino();
        if !filling.push_dots(offset, own, above, S_IFDIR) {
            return Ok(());
        }
        let mut from = offset.max(AFTER_DOTS);
        loop {
            // Sizes are computed from content, which cannot be asked for while names are being listed.
            let mut names: Vec<(u64, Vec<u8>, Inode)> = Vec::new();
            self.tree.list_with_attributes(dir, from, Seq::NOW, &mut |hash, name, inode| {
                // A batch never ends between names of equal hash.
                if names.len() >= BATCH && names.last().is_some_and(|(last, ..)| *last != hash) {
                    return ControlFlow::Break(());
                }
                names.push((hash, name.to_vec(), *inode));
                ControlFlow::Continue(())
            })?;
            let Some(&(last, ..)) = names.last() else { return Ok(()) };
            from = last.saturating_add(1);
            for (hash, name, inode) in names {
                if !is_shown(inode.mode) {
                    continue;
                }
                let entry = if plus { self.cheap_entry(&inode)? } else { None };
                let listed = Listed {
                    name: &name,
                    ino: Made::Shadow(inode.ino).ino(),
                    mode: inode.mode,
                    next: hash.saturating_add(1),
                    entry: entry.as_ref(),
                };
                if !filling.push(hash, &listed) {
                    return Ok(());
                }
            }
        }
    }
}

/// `time` in UTC, to the microsecond, without an offset.
pub(super) fn naive(time: Timestamp) -> String {
    let stamp = super::moment::stamp(time);
    let second = stamp.split_last().map_or(&b""[..], |(_, second)| second);
    let micros = time.0.rem_euclid(1_000_000_000) / 1000;
    format!("{}.{micros:06}", String::from_utf8_lossy(second))
}
