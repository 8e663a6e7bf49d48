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
//! Who opens a shadow reads it as it was then. All who open the same version read the same bytes in memory, but for a
//! young one, of which more may become known; of all that are open there are [`OPEN_MAX`] bytes at most.
//!
//! Invariants: what a file shows is a function of its version and path and, for [`YOUNG`] after a change, of what
//! has become known of who made it; so sizes hold as long as those. Nothing here is kept by the kernel, which is not
//! told of what changes.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use serde_json::json;

use crate::proto::types::{Attr, Entry};
use crate::syntax::Language;
use crate::tree::operation::{S_IFDIR, S_IFLNK, S_IFMT, S_IFREG};
use crate::tree::{Ino, Inode, Seq, Timestamp};

use super::listing::{AFTER_DOTS, Filling, Listed};
use super::made::{Made, node};
use super::{Found, ROOT_INO, Refusal, TreeRefusal, View, attr};

/// Longest file whose content is shown, in bytes.
const CONTENT_MAX: u64 = 16 << 20;
/// So many names are looked at between two looks at the room that is left.
const BATCH: usize = 64;
/// Sizes that are remembered.
const SIZES_MAX: usize = 1 << 16;
/// A process is asked who it is when it changed something, and answers later: in half a second, or never.
const YOUNG: i64 = 2_000_000_000;

/// Most bytes of shadows that are open. The longest, of a file of control characters, takes 96 MiB.
const OPEN_MAX: u64 = 256 << 20;

/// By path: the version a size is of, and the size.
pub(super) type Sizes = FxHashMap<String, (Version, u64)>;

/// What the content of a shadow follows from, beside its path.
pub(super) type Version = (Ino, Seq, Timestamp);

/// A rename changes the path, and leaves the inode as it was but for its time.
const fn version(inode: &Inode) -> Version {
    (inode.ino, inode.changed, inode.ctime)
}

/// Whether more may become known of who made the version.
fn is_young(inode: &Inode) -> bool {
    Timestamp::now().0.saturating_sub(inode.ctime.0) < YOUNG
}

/// The content of an open shadow.
#[derive(Debug)]
pub(super) struct Shadow {
    bytes: Box<[u8]>,
    /// Bytes of all that are open.
    open: Arc<AtomicU64>,
}

impl Shadow {
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Shadow {
    fn drop(&mut self) {
        self.open.fetch_sub(self.bytes.len() as u64, Ordering::Relaxed);
    }
}

/// The shadows that are open.
#[derive(Debug, Default)]
pub(super) struct OpenShadows {
    /// By path: the version that was opened last. Where nobody has it open any more, only the name is left.
    shared: Mutex<FxHashMap<String, (Version, Weak<Shadow>)>>,
    /// Bytes of all; grows only while `shared` is locked.
    open: Arc<AtomicU64>,
}

impl OpenShadows {
    fn of(&self, path: &str, version: Version) -> Option<Arc<Shadow>> {
        let shared = self.shared.lock();
        let (_, shadow) = shared.get(path).filter(|(of, _)| *of == version)?;
        shadow.upgrade()
    }

    /// Opens what was computed, or what somebody else opened meanwhile as the same: `shared` is path and version.
    fn open(
        &self,
        bytes: Vec<u8>,
        shared: Option<(String, Version)>,
    ) -> Result<Arc<Shadow>, Refusal> {
        let mut known = self.shared.lock();
        let same = shared.as_ref().and_then(|(path, version)| {
            let (_, shadow) = known.get(path).filter(|(of, _)| of == version)?;
            shadow.upgrade()
        });
        if let Some(same) = same {
            return Ok(same);
        }
        let len = bytes.len() as u64;
        if self.open.load(Ordering::Relaxed).saturating_add(len) > OPEN_MAX {
            return Err(Refusal::NoMemory);
        }
        self.open.fetch_add(len, Ordering::Relaxed);
        let shadow =
            Arc::new(Shadow { bytes: bytes.into_boxed_slice(), open: Arc::clone(&self.open) });
        if let Some((path, version)) = shared {
            known.insert(path, (version, Arc::downgrade(&shadow)));
        }
        Ok(shadow)
    }

    /// What the clock alone brings about: names of what nobody has open any more are let go.
    pub(super) fn tick(&self) {
        self.shared.lock().retain(|_, (_, shadow)| shadow.strong_count() > 0);
    }
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
        let shown = Attr { ino: Made::Shadow(inode.ino).ino(), ..attr(Seq::NOW, inode) };
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
        if is_young(inode) {
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

    /// The shadow of `ino`, to be read.
    pub(super) fn shadow_opened(&self, ino: Ino) -> Result<Arc<Shadow>, Refusal> {
        let inode = self.tree.inode(ino, Seq::NOW)?;
        let path = self.shadow_path(ino)?;
        if is_young(&inode) {
            return self.open_shadows.open(self.shadow_json(&inode, &path)?, None);
        }
        let version = version(&inode);
        if let Some(known) = self.open_shadows.of(&path, version) {
            return Ok(known);
        }
        let json = self.shadow_json(&inode, &path)?;
        self.open_shadows.open(json, Some((path, version)))
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
        self.nodes.looked_up(entry.node, None);
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

#[cfg(test)]
mod tests {
    use super::*;

    const VERSION: Version = (Ino(2), Seq(3), Timestamp(4));

    fn shared(version: Version) -> Option<(String, Version)> {
        Some(("/a".to_owned(), version))
    }

    #[test]
    fn who_opens_the_same_version_shares_it_while_it_is_open() {
        let shadows = OpenShadows::default();
        let first = shadows.open(vec![1; 10], shared(VERSION)).unwrap();
        assert!(Arc::ptr_eq(&first, &shadows.of("/a", VERSION).unwrap()));
        // Another computed it at the same time.
        let second = shadows.open(vec![1; 10], shared(VERSION)).unwrap();
        assert!(Arc::ptr_eq(&first, &second));
        let young = shadows.open(vec![1; 10], None).unwrap();
        assert!(!Arc::ptr_eq(&first, &young));
        let later = (Ino(2), Seq(5), Timestamp(6));
        assert!(shadows.of("/a", later).is_none() && shadows.of("/b", VERSION).is_none());
        let other = shadows.open(vec![2; 7], shared(later)).unwrap();
        assert_eq!((first.bytes(), other.bytes()), (&[1; 10][..], &[2; 7][..]));
        assert_eq!(shadows.open.load(Ordering::Relaxed), 27);
        shadows.tick();
        assert_eq!(shadows.shared.lock().len(), 1);
        drop((first, second, young, other));
        assert_eq!(shadows.open.load(Ordering::Relaxed), 0);
        assert!(shadows.of("/a", later).is_none());
        shadows.tick();
        assert_eq!(shadows.shared.lock().len(), 0);
    }

    #[test]
    fn what_is_open_has_a_bound() {
        let shadows = OpenShadows::default();
        let bytes = || vec![0; usize::try_from(OPEN_MAX / 2).unwrap()];
        let first = shadows.open(bytes(), shared(VERSION)).unwrap();
        let second = shadows.open(bytes(), None).unwrap();
        assert!(matches!(shadows.open(vec![0], None), Err(Refusal::NoMemory)));
        let again = shadows.open(bytes(), shared(VERSION)).unwrap();
        assert!(Arc::ptr_eq(&first, &again), "what is open already takes nothing");
        drop(second);
        assert!(shadows.open(vec![0], None).is_ok());
    }
}
