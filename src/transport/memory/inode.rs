//! Inodes, names and their lifetimes: what the kernel remembers between calls.
//!
//! Invariants: `by_node` finds the one inode a node id stands for now; an inode whose generation or type
//! changed is *bad* and found no more. An inode lives while a dentry, an open file or a call in progress needs it, and
//! its end queues a FORGET for all its lookups. A directory has one dentry.

use std::collections::BTreeSet;

use crate::proto::abi::*;
use crate::proto::types::{Attr, Errno, Timestamp};

use super::State;
use super::listing::ListingCache;
use super::pages::Pages;

pub(super) const S_IFMT: u32 = 0o170_000;
pub(super) const S_IFDIR: u32 = 0o040_000;
pub(super) const S_IFREG: u32 = 0o100_000;
pub(super) const S_IFLNK: u32 = 0o120_000;
pub(super) const S_ISUID: u32 = 0o4000;
pub(super) const S_ISGID: u32 = 0o2000;
pub(super) const S_ISVTX: u32 = 0o1000;

pub(super) const STATX_MODE: u32 = 0x2;
pub(super) const STATX_UID: u32 = 0x8;
pub(super) const STATX_GID: u32 = 0x10;
pub(super) const STATX_ATIME: u32 = 0x20;
pub(super) const STATX_MTIME: u32 = 0x40;
pub(super) const STATX_CTIME: u32 = 0x80;
pub(super) const STATX_SIZE: u32 = 0x200;
pub(super) const STATX_BLOCKS: u32 = 0x400;
pub(super) const STATX_BASIC: u32 = 0x7ff;
pub(super) const STATX_BTIME: u32 = 0x800;
/// What a change of names or content makes doubtful.
pub(super) const STATX_MODIFY: u32 = STATX_MTIME | STATX_CTIME | STATX_BLOCKS;

/// The kernel's own number of an inode; node ids belong to the server.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) struct Ino(pub(super) u64);

impl Ino {
    pub(super) const ROOT: Self = Self(1);
}

#[allow(clippy::struct_excessive_bools, reason = "fs/fuse keeps one bit for each of these, too")]
#[derive(Debug)]
pub(super) struct Inode {
    pub(super) node: u64,
    pub(super) generation: u64,
    pub(super) lookups: u64,
    pub(super) attr: fuse_attr,
    pub(super) btime: Timestamp,
    /// STATX_* that must be asked for again whatever the lifetime says.
    pub(super) doubtful: u32,
    pub(super) attr_until_ns: u64,
    pub(super) attr_version: u64,
    pub(super) bad: bool,
    /// Dentries that lead here.
    pub(super) names: BTreeSet<(Ino, Vec<u8>)>,
    /// Names below that the kernel remembers, negative ones too.
    pub(super) children: BTreeSet<Vec<u8>>,
    /// Calls in progress, open files and mappings.
    pub(super) pins: usize,
    pub(super) pages: Pages,
    pub(super) listing: ListingCache,
    /// Counts changes of names in a directory through this kernel.
    pub(super) names_version: u64,
    /// Known to have neither set-id bits nor a file capability (S_NOSEC).
    pub(super) no_privileges: bool,
    /// The access ACL, once asked for; `Some(None)` is "none".
    pub(super) acl: Option<Option<Vec<u8>>>,
    /// The target of a symlink, with CACHE_SYMLINKS.
    pub(super) target: Option<Vec<u8>>,
    /// Made by O_TMPFILE without O_EXCL, so that it may get its first name.
    pub(super) linkable: bool,
    /// Came by READDIRPLUS and was not yet used.
    pub(super) from_listing: bool,
    /// The next READDIR is to be a READDIRPLUS.
    pub(super) advise_plus: bool,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Dentry {
    /// `None`: there is no such name.
    pub(super) target: Option<Ino>,
    pub(super) until_ns: u64,
    pub(super) epoch: u64,
}

const NO_ATTR: fuse_attr = fuse_attr {
    ino: 0,
    size: 0,
    blocks: 0,
    atime: 0,
    mtime: 0,
    ctime: 0,
    atimensec: 0,
    mtimensec: 0,
    ctimensec: 0,
    mode: 0,
    nlink: 0,
    uid: 0,
    gid: 0,
    rdev: 0,
    blksize: 0,
    flags: 0,
};

impl Inode {
    /// The root before its first GETATTR.
    pub(super) fn root() -> Self {
        Self::new(FUSE_ROOT_ID, 0, fuse_attr { mode: S_IFDIR, ino: 1, nlink: 1, ..NO_ATTR })
    }

    fn new(node: u64, generation: u64, attr: fuse_attr) -> Self {
        Self {
            node,
            generation,
            lookups: 0,
            attr,
            btime: Timestamp::default(),
            doubtful: u32::MAX,
            attr_until_ns: 0,
            attr_version: 0,
            bad: false,
            names: BTreeSet::new(),
            children: BTreeSet::new(),
            pins: 0,
            pages: Pages::default(),
            listing: ListingCache::default(),
            names_version: 0,
            no_privileges: false,
            acl: None,
            target: None,
            linkable: false,
            from_listing: false,
            advise_plus: false,
        }
    }

    pub(super) const fn kind(&self) -> u32 {
        self.attr.mode & S_IFMT
    }

    pub(super) const fn is_dir(&self) -> bool {
        self.kind() == S_IFDIR
    }

    pub(super) const fn is_link(&self) -> bool {
        self.kind() == S_IFLNK
    }

    pub(super) const fn is_file(&self) -> bool {
        self.kind() == S_IFREG
    }

    pub(super) const fn doubt(&mut self, mask: u32) {
        self.doubtful |= mask;
    }
}

/// Whether the kernel takes these attributes at all (`fuse_invalid_attr`).
pub(super) const fn is_valid(attr: &fuse_attr) -> bool {
    let kind_known = matches!(
        attr.mode & S_IFMT,
        S_IFREG | S_IFDIR | S_IFLNK | 0o020_000 | 0o060_000 | 0o010_000 | 0o140_000
    );
    kind_known && attr.size <= i64::MAX as u64
}

/// When something that is valid for so long ends. A lifetime of 0 is over already.
pub(super) fn end_of_life(now_ns: u64, secs: u64, nanos: u32) -> u64 {
    if secs == 0 && nanos == 0 {
        return 0;
    }
    let nanos = u64::from(nanos.min(999_999_999));
    now_ns.saturating_add(secs.saturating_mul(1_000_000_000).saturating_add(nanos))
}

impl State {
    pub(super) fn inode(&self, ino: Ino) -> &Inode {
        self.inodes.get(&ino).expect("an inode in use is pinned")
    }

    pub(super) fn inode_mut(&mut self, ino: Ino) -> &mut Inode {
        self.inodes.get_mut(&ino).expect("an inode in use is pinned")
    }

    /// The inode of an entry the server gave, which counts one lookup (`fuse_iget`).
    pub(super) fn entered(&mut self, entry: &fuse_entry_out, version: u64) -> Ino {
        let until = end_of_life(self.now_ns, entry.attr_valid, entry.attr_valid_nsec);
        if let Some(ino) = self.by_node.get(&entry.nodeid).copied() {
            if self.is_stale(ino, entry) {
                self.make_bad(ino);
            } else {
                self.inode_mut(ino).lookups += 1;
                self.refresh(ino, &entry.attr, until, version);
                return ino;
            }
        }
        let ino = Ino(self.next_ino);
        self.next_ino += 1;
        let mut inode = Inode::new(entry.nodeid, entry.generation, entry.attr);
        inode.lookups = 1;
        self.inodes.insert(ino, inode);
        self.by_node.insert(entry.nodeid, ino);
        self.refresh(ino, &entry.attr, until, 0);
        ino
    }

    /// Whether a node id that is known now stands for something else.
    pub(super) fn is_stale(&mut self, ino: Ino, entry: &fuse_entry_out) -> bool {
        let inode = self.inode(ino);
        let (node, was, is) = (inode.node, inode.kind(), entry.attr.mode & S_IFMT);
        if was != is {
            self.violation(format!("node {node} was of type {was:o} and is now {is:o}"));
            return true;
        }
        inode.generation != entry.generation
    }

    pub(super) fn make_bad(&mut self, ino: Ino) {
        let inode = self.inode_mut(ino);
        inode.bad = true;
        let node = inode.node;
        if self.by_node.get(&node) == Some(&ino) {
            self.by_node.remove(&node);
        }
    }

    /// Takes newer attributes (`fuse_change_attributes`). `version` is that of the time of asking; 0 is "now".
    pub(super) fn refresh(&mut self, ino: Ino, attr: &fuse_attr, until_ns: u64, version: u64) {
        let explicit = self.connection.has(FUSE_EXPLICIT_INVAL_DATA);
        let automatic = self.connection.has(FUSE_AUTO_INVAL_DATA);
        self.attr_version += 1;
        let now = self.attr_version;
        let inode = self.inode_mut(ino);
        if version != 0 && inode.attr_version > version {
            return;
        }
        inode.attr_version = now;
        let old = inode.attr;
        inode.attr = *attr;
        inode.doubtful &= !STATX_BASIC;
        inode.attr_until_ns = until_ns;
        inode.no_privileges = false;
        if inode.is_file() {
            if old.size != attr.size {
                inode.pages.truncate(attr.size);
                if !explicit {
                    inode.pages.clear();
                }
            } else if automatic && (old.mtime, old.mtimensec) != (attr.mtime, attr.mtimensec) {
                inode.pages.clear();
            }
        }
    }

    /// Notes that something here changed this inode, so that answers asked for before do not undo it.
    pub(super) fn touched(&mut self, ino: Ino) {
        self.attr_version += 1;
        let version = self.attr_version;
        self.inode_mut(ino).attr_version = version;
    }

    /// Names in `dir` changed (`fuse_dir_changed`).
    pub(super) fn dir_changed(&mut self, dir: Ino) {
        let inode = self.inode_mut(dir);
        inode.doubt(STATX_MODIFY);
        inode.names_version += 1;
    }

    pub(super) fn dentry(&self, parent: Ino, name: &[u8]) -> Option<Dentry> {
        self.dentries.get(&(parent, name.to_vec())).copied()
    }

    /// Puts a name into the cache, in place of what was there.
    ///
    /// # Errors
    ///
    /// ELOOP if a directory would come to be below itself.
    pub(super) fn splice(
        &mut self,
        parent: Ino,
        name: &[u8],
        target: Option<Ino>,
        until_ns: u64,
    ) -> Result<(), Errno> {
        if let Some(ino) = target
            && self.inode(ino).is_dir()
        {
            if self.is_above(ino, parent) {
                let node = self.inode(ino).node;
                self.violation(format!("directory node {node} turns up below itself"));
                return Err(Errno::ELOOP);
            }
            let old = self
                .inode(ino)
                .names
                .iter()
                .find(|(dir, old)| (*dir, old.as_slice()) != (parent, name))
                .cloned();
            if let Some((old_parent, old_name)) = old {
                if !self.options.directories_may_move {
                    let violation = format!(
                        "directory node {} is '{}' in node {} and '{}' in node {}: the kernel moves it there",
                        self.inode(ino).node,
                        old_name.escape_ascii(),
                        self.inode(old_parent).node,
                        name.escape_ascii(),
                        self.inode(parent).node,
                    );
                    self.violation(violation);
                }
                self.unhook(old_parent, &old_name);
                self.reap(old_parent);
            }
        }
        let same = self.dentry(parent, name).is_some_and(|old| old.target == target);
        if !same {
            self.drop_dentry(parent, name);
        }
        let epoch = self.connection.epoch;
        let key = (parent, name.to_vec());
        self.inode_mut(parent).children.insert(key.1.clone());
        if let Some(ino) = target {
            self.inode_mut(ino).names.insert(key.clone());
        }
        self.dentries.insert(key, Dentry { target, until_ns, epoch });
        Ok(())
    }

    /// Whether `above` is `below` or one of the directories it is in.
    pub(super) fn is_above(&self, above: Ino, below: Ino) -> bool {
        let mut at = below;
        loop {
            if at == above {
                return true;
            }
            match self.inodes.get(&at).and_then(|inode| inode.names.first()) {
                Some((parent, _)) => at = *parent,
                None => return false,
            }
        }
    }

    /// The directory `dir` is in; the root's is the root.
    pub(super) fn parent_of(&self, dir: Ino) -> Ino {
        self.inode(dir).names.first().map_or(Ino::ROOT, |(parent, _)| *parent)
    }

    /// Takes one dentry away and leaves what is below its target.
    pub(super) fn unhook(&mut self, parent: Ino, name: &[u8]) -> Option<Dentry> {
        let dentry = self.dentries.remove(&(parent, name.to_vec()))?;
        if let Some(dir) = self.inodes.get_mut(&parent) {
            dir.children.remove(name);
        }
        if let Some(inode) = dentry.target.and_then(|ino| self.inodes.get_mut(&ino)) {
            inode.names.remove(&(parent, name.to_vec()));
        }
        Some(dentry)
    }

    /// Drops a dentry and all below it (`d_invalidate`).
    pub(super) fn drop_dentry(&mut self, parent: Ino, name: &[u8]) {
        let Some(dentry) = self.unhook(parent, name) else { return };
        if let Some(ino) = dentry.target {
            if self.inode(ino).names.is_empty() {
                self.drop_children(ino);
            }
            self.reap(ino);
        }
        self.reap(parent);
    }

    pub(super) fn drop_children(&mut self, dir: Ino) {
        let Some(inode) = self.inodes.get(&dir) else { return };
        for name in inode.children.clone() {
            self.drop_dentry(dir, &name);
        }
    }

    /// Ends an inode that nobody needs, and queues its FORGET.
    pub(super) fn reap(&mut self, ino: Ino) {
        let Some(inode) = self.inodes.get(&ino) else { return };
        let needed = ino == Ino::ROOT
            || inode.pins > 0
            || !inode.names.is_empty()
            || !inode.children.is_empty();
        if needed {
            return;
        }
        let (node, lookups) = (inode.node, inode.lookups);
        if inode.pages.has_dirty() {
            self.violation(format!("dirty pages of node {node} are lost"));
        }
        self.inodes.remove(&ino);
        if self.by_node.get(&node) == Some(&ino) {
            self.by_node.remove(&node);
        }
        self.forget(node, lookups);
    }

    pub(super) fn forget(&mut self, node: u64, lookups: u64) {
        if lookups > 0 && node != 0 && self.device.connected {
            self.device.forgets.push_back(fuse_forget_one { nodeid: node, nlookup: lookups });
        }
    }

    /// Drops all dentries that lead to nothing in use.
    pub(super) fn shrink(&mut self) {
        loop {
            let leaf = self
                .dentries
                .iter()
                .find(|(_, dentry)| {
                    dentry.target.is_none_or(|ino| {
                        self.inodes
                            .get(&ino)
                            .is_none_or(|inode| inode.pins == 0 && inode.children.is_empty())
                    })
                })
                .map(|(key, _)| key.clone());
            match leaf {
                Some((parent, name)) => self.drop_dentry(parent, &name),
                None => return,
            }
        }
    }
}

/// The attributes behind a `fuse_attr`, for tests that compare.
pub(super) fn attr_of(attr: &fuse_attr, btime: Timestamp) -> Attr {
    let time = |secs: u64, nanos| Timestamp::new(secs.cast_signed(), nanos);
    Attr {
        ino: attr.ino,
        size: attr.size,
        blocks: attr.blocks,
        atime: time(attr.atime, attr.atimensec),
        mtime: time(attr.mtime, attr.mtimensec),
        ctime: time(attr.ctime, attr.ctimensec),
        btime,
        mode: attr.mode,
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        rdev: attr.rdev,
        blksize: attr.blksize,
    }
}
