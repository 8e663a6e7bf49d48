//! Questions about a tree, now or as it was: what is there, and what it holds.
//!
//! Invariants: nothing here changes a tree; below `history/` every answer is the same for ever.

use std::fmt;
use std::ops::ControlFlow;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Duration;

use crate::proto::types::{
    Attr, FileHandle, Name, NodeId, OpenFlags, Opened, OpenedFlags, Statfs, XattrName,
};
use crate::tree::acl::{self, Acl};
use crate::tree::{File, Ino, Inode, Pin, Seq, Stretch};

use super::handles::Open;
use super::history::history_mode;
use super::listing::{AFTER_DOTS, Filling, Listed, Page};
use super::made::Made;
use super::news::News;
use super::nodes::{Place, Tense};
use super::{
    Asker, BLOCK_SIZE, Found, HISTORY_INO, Options, ROOT_INO, Refusal, TreeRefusal, View, attr,
    shown_ino,
};

/// What fits into the reply of one READDIRPLUS, about: the buffer of the C library is 32 KiB, and a name with its
/// attributes takes some 170 bytes.
const NAMES_OF_ONE_READDIRPLUS: u64 = 190;

/// Room that one reader keeps from request to request, so that reading allocates nothing.
#[derive(Debug, Default)]
pub struct Scratch {
    stretches: Vec<Stretch>,
}

/// What a read came to.
#[derive(Debug)]
pub enum Read<'v> {
    /// So many bytes are in the buffer.
    Copied(usize),
    /// All of it lies side by side in one file of the store.
    Stored(Stored<'v>),
}

/// Bytes where the store keeps them. They stay there until this is dropped: history that is given back
/// meanwhile waits, so drop it as soon as they are on their way.
pub struct Stored<'v> {
    file: Arc<dyn File>,
    offset: u64,
    len: usize,
    _pin: Pin<'v>,
}

impl Stored<'_> {
    /// The open file; `None` where there is no kernel file behind.
    #[must_use]
    pub fn file(&self) -> Option<BorrowedFd<'_>> {
        self.file.as_fd()
    }

    /// Where in it they begin.
    #[must_use]
    pub const fn offset(&self) -> u64 {
        self.offset
    }

    /// How many there are.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "there is always one at least")]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// The bytes themselves. What is not there any more, or never was, is zeros.
    pub fn copy(&self) -> Result<Vec<u8>, Refusal> {
        let mut bytes = vec![0; self.len];
        self.file.read_at(&mut bytes, self.offset).map_err(TreeRefusal::Io)?;
        Ok(bytes)
    }
}

impl fmt::Debug for Stored<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { offset, len, .. } = self;
        f.debug_struct("Stored").field("offset", offset).field("len", len).finish_non_exhaustive()
    }
}

/// The extended attribute that tells the event of the last change, in decimal.
const SEQ_XATTR: &[u8] = b"user.lighthouse.seq";
/// Of the mount's root: the extended attribute that tells what the server measured, as the JSON of
/// [`Snapshot`](crate::meter::Snapshot).
pub const METER_XATTR: &[u8] = b"user.lighthouse.meter";
/// Names below this are answered here, never stored and never listed.
pub(super) const OUR_XATTRS: &[u8] = b"user.lighthouse.";

/// What an empty file more would cost the disk at least, in bytes: its event and its attributes. So many
/// more files fit as this fits into the free space, up to the number of inode numbers.
const INODE_COST: u64 = 512;
/// Size of a block as `statfs` counts, in bytes.
const FRAGMENT: u32 = 4096;

impl View {
    /// What `name` in `parent` leads to.
    pub fn lookup(
        &self,
        asker: &Asker<'_>,
        parent: NodeId,
        name: Name<'_>,
    ) -> Result<Found, Refusal> {
        let name = name.as_bytes();
        match self.place(parent)? {
            Place::Root => self.root_lookup(asker, name),
            Place::History => self.history_lookup(name),
            Place::Made(made) => self.made_lookup(made, name),
            Place::Tree(tense, dir) => match self.tree.lookup(dir, name, self.at(tense)?) {
                Ok(inode) => Ok(Found::Entry(self.give_out(tense, Some(dir), &inode)?)),
                Err(TreeRefusal::NotFound) => Ok(Found::Absent(self.caching(tense).absent)),
                Err(refusal) => Err(refusal.into()),
            },
        }
    }

    /// The attributes of `node`, and how long they hold.
    pub fn attributes(&self, node: NodeId) -> Result<(Attr, Duration), Refusal> {
        match self.place(node)? {
            Place::Root => Ok((self.root_attr()?, self.options.caching.attributes)),
            Place::History => Ok((self.history_attr()?, self.options.caching.attributes)),
            Place::Made(made) => self.made_attr(made),
            Place::Tree(tense, ino) => {
                let at = self.at(tense)?;
                let inode = self.tree.inode(ino, at)?;
                Ok((attr(at, &inode), self.attr_lifetime(tense, &inode)))
            }
        }
    }

    /// Whether OPEN is answered.
    #[must_use]
    pub const fn opens_files(&self) -> bool {
        !self.options.no_open
    }

    /// Whether directories are listed without having been opened: the kernel keeps every listing then until it is told
    /// otherwise, and is told of no hour that begins and of nothing that the sections list.
    #[must_use]
    pub const fn lists_unopened(&self) -> bool {
        let Options { caching, list_times, sections, no_opendir, .. } = &self.options;
        *no_opendir && caching.listings && *list_times == 0 && !*sections
    }

    /// Whether STATX is answered.
    #[must_use]
    pub const fn tells_birth_times(&self) -> bool {
        !self.options.no_birth_times
    }

    /// Where the symbolic link `node` points.
    pub fn target(&self, node: NodeId) -> Result<Vec<u8>, Refusal> {
        match self.place(node)? {
            Place::Made(Made::Shadow(ino)) => Ok(self.tree.target(ino, Seq::NOW)?),
            Place::Root | Place::History | Place::Made(_) => Err(TreeRefusal::Invalid.into()),
            Place::Tree(tense, ino) => Ok(self.tree.target(ino, self.at(tense)?)?),
        }
    }

    /// Opens a file of the past, which can only be read.
    pub(super) fn open_past(
        &self,
        node: NodeId,
        tense: Tense,
        flags: OpenFlags,
    ) -> Result<Opened, Refusal> {
        if flags.writes() || flags.truncates() {
            return Err(Refusal::ReadOnly);
        }
        // The kernel may know the node from a server before this one: told here that it is stale, it looks the name
        // up again, which it does not do for a file that it has open.
        self.at(tense)?;
        let handle = self.handles.open(node, Open::file(flags, None));
        Ok(Opened { handle, flags: OpenedFlags::KEEP_CACHE, backing_id: 0 })
    }

    /// Opens a directory.
    pub fn open_directory(&self, node: NodeId) -> Result<Opened, Refusal> {
        let flags = match self.place(node)? {
            // What it lists changes with the clock, or costs nothing.
            Place::History | Place::Made(_) => OpenedFlags::NONE,
            Place::Tree(tense, _) if !self.options.caching.listings => {
                self.at(tense)?;
                OpenedFlags::NONE
            }
            Place::Root if !self.options.caching.listings => OpenedFlags::NONE,
            Place::Root => OpenedFlags::CACHE_DIR | OpenedFlags::KEEP_CACHE,
            Place::Tree(tense, _) => {
                self.at(tense)?;
                OpenedFlags::CACHE_DIR | OpenedFlags::KEEP_CACHE
            }
        };
        Ok(Opened { handle: self.handles.open(node, Open::Directory), flags, backing_id: 0 })
    }

    /// The kernel has forgotten a node that it found in `directory`. Once it has most of them, it is to read the listing again rather
    /// than use the one it may have kept.
    ///
    /// Under memory pressure the kernel lets go of names and inodes before it lets go of the directory that they are in, and with
    /// that of its listing. A walk would then take the names from the cache and look up each one, where one READDIRPLUS
    /// brings names and attributes at once. A listing of more than that would be read on without attributes
    /// (adaptive READDIRPLUS), so long ones are left in the cache.
    pub(super) fn forgotten_within(&self, directory: NodeId) {
        if !self.options.caching.listings {
            return;
        }
        let count = self.nodes.forgotten_within(directory);
        // Between half of any number and all of it there is a power of two: so few are looked at.
        if !count.is_power_of_two() {
            return;
        }
        let Ok(Place::Tree(tense, ino)) = self.place(directory) else { return };
        let Ok(Inode { entries, .. }) =
            self.at(tense).and_then(|at| Ok(self.tree.inode(ino, at)?))
        else {
            return;
        };
        // More than there are: those were removed.
        let most = entries / 2 < count && count <= entries;
        if most && entries <= NAMES_OF_ONE_READDIRPLUS {
            self.nodes.listed(directory);
            // Without room it is looked up name by name.
            let _ = self.news.push(News::Content(directory));
        }
    }

    /// Closes a directory.
    pub fn close_directory(&self, node: NodeId, handle: FileHandle) -> Result<(), Refusal> {
        self.directory(handle, node)?;
        self.handles.close(handle, node);
        Ok(())
    }

    /// Fills `buffer` from `offset` of an open file: with fewer bytes than fit only at the end of the
    /// file. If there are `stored_from` bytes or more, and all side by side in one file of the store,
    /// says where they are instead.
    pub fn read(
        &self,
        node: NodeId,
        handle: FileHandle,
        offset: u64,
        buffer: &mut [u8],
        scratch: &mut Scratch,
        stored_from: usize,
    ) -> Result<Read<'_>, Refusal> {
        self.file(handle, node)?;
        let (tense, ino) = match self.place(node)? {
            Place::Tree(tense, ino) => (tense, ino),
            Place::Made(made) => {
                return self.made_read(made, handle, offset, buffer).map(Read::Copied);
            }
            Place::Root | Place::History => return Err(Refusal::BadHandle),
        };
        let stretches = &mut scratch.stretches;
        stretches.clear();
        // Before the tree is asked: what it tells of must not be given back until it was read.
        let pin = self.tree.store().pin();
        let asked = buffer.len() as u64;
        let len = self.tree.stretches(ino, offset, asked, self.at(tense)?, stretches)?;
        // No longer than the buffer, which was asked for.
        let len = usize::try_from(len).map_or(buffer.len(), |len| len.min(buffer.len()));
        if len >= stored_from
            && let [Stretch { at: Some(at), .. }] = stretches.as_slice()
        {
            let file = self.tree.store().content_file(at.file).map_err(TreeRefusal::Io)?;
            return Ok(Read::Stored(Stored { file, offset: at.offset, len, _pin: pin }));
        }
        let (filled, _) = buffer.split_at_mut(len);
        self.tree.store().read_content(stretches, filled).map_err(TreeRefusal::Io)?;
        Ok(Read::Copied(len))
    }

    /// The first offset from `offset` on of an open file that has data, or with `hole` none.
    pub fn seek(
        &self,
        node: NodeId,
        handle: FileHandle,
        offset: i64,
        hole: bool,
    ) -> Result<u64, Refusal> {
        self.file(handle, node)?;
        let offset = u64::try_from(offset).map_err(|_| Refusal::NothingThere)?;
        let (tense, ino) = match self.place(node)? {
            Place::Tree(tense, ino) => (tense, ino),
            Place::Made(made) => return self.made_seek(made, handle, offset, hole),
            Place::Root | Place::History => return Err(Refusal::BadHandle),
        };
        self.tree.seek(ino, offset, hole, self.at(tense)?).map_err(|refusal| match refusal {
            TreeRefusal::NoData => Refusal::NothingThere,
            other => other.into(),
        })
    }

    /// Value of an extended attribute.
    pub fn xattr(&self, node: NodeId, name: XattrName<'_>) -> Result<Vec<u8>, Refusal> {
        let name = name.as_bytes();
        let (tense, ino) = match self.place(node)? {
            Place::Tree(tense, ino) => (tense, ino),
            Place::Root if name == METER_XATTR => return Ok(self.measured().to_json()),
            beside if name == acl::ACCESS => return self.acl_beside(beside),
            _ => return Err(TreeRefusal::NoData.into()),
        };
        let at = self.at(tense)?;
        if name == SEQ_XATTR {
            let seq = match (ino, tense) {
                (Ino::ROOT, Tense::Now) => self.tree.last(),
                (Ino::ROOT, Tense::Past(_)) => at,
                _ => self.tree.inode(ino, at)?.changed,
            };
            return Ok(seq.to_string().into_bytes());
        }
        if name.starts_with(OUR_XATTRS) {
            return Err(TreeRefusal::NoData.into());
        }
        Ok(self.tree.xattr(ino, name, at)?)
    }

    /// The access control list of what is in no tree and looks like something that is, cut to its mode. It belongs
    /// to the mode: where there is a list, a mode's bits for the group are the most that the list can give, and
    /// without the list the kernel would take them for what the group may do.
    fn acl_beside(&self, place: Place) -> Result<Vec<u8>, Refusal> {
        let top = self.top()?;
        let mode = match place {
            Place::Made(Made::Agent | Made::AgentLine(_)) => return Err(TreeRefusal::NoData.into()),
            Place::Made(Made::Shadow(ino)) => {
                return Ok(self.tree.xattr(ino, acl::ACCESS, Seq::NOW)?);
            }
            Place::Tree(tense, ino) => {
                return Ok(self.tree.xattr(ino, acl::ACCESS, self.at(tense)?)?);
            }
            Place::Root => top.mode,
            Place::History => history_mode(top.mode),
            Place::Made(made) => self.made_mode(made, &top)?,
        };
        let stored = self.tree.xattr(Ino::ROOT, acl::ACCESS, Seq::NOW)?;
        let Ok(Some(mut acl)) = Acl::parse(&stored) else {
            let what = "the access control list of the tree's root is none";
            return Err(TreeRefusal::Damaged(what.to_owned()).into());
        };
        acl.chmod(mode);
        let mut cut = Vec::new();
        acl.encode(&mut cut);
        Ok(cut)
    }

    /// Names of all extended attributes that `asker` can list, each ended by NUL: xattr(7) keeps those of the superuser from
    /// others, and the kernel leaves that to us.
    pub fn xattrs(&self, asker: &Asker<'_>, node: NodeId) -> Result<Vec<u8>, Refusal> {
        let mut list = Vec::new();
        let mut push = |name: &[u8]| {
            list.extend_from_slice(name);
            list.push(0);
        };
        match self.place(node)? {
            Place::Tree(tense, ino) => {
                let names = self.tree.xattrs(ino, self.at(tense)?)?;
                let told =
                    |name: &&Vec<u8>| asker.caller.uid == 0 || !name.starts_with(b"trusted.");
                names.iter().filter(told).for_each(|name| push(name));
            }
            beside => match self.acl_beside(beside) {
                Ok(_) => push(acl::ACCESS),
                Err(Refusal::Tree(TreeRefusal::NoData)) => (),
                Err(refusal) => return Err(refusal),
            },
        }
        Ok(list)
    }

    /// Totals of the disk and of the present tree.
    pub fn totals(&self) -> Result<Statfs, Refusal> {
        let (space, totals) = self.tree.space()?;
        let available = space.available / u64::from(FRAGMENT);
        let more = (space.available / INODE_COST).min(Seq::LIMIT.0);
        Ok(Statfs {
            blocks: space.total / u64::from(FRAGMENT),
            bfree: available,
            bavail: available,
            files: totals.inodes.saturating_add(more),
            ffree: more,
            bsize: BLOCK_SIZE,
            namelen: Name::MAX as u32,
            frsize: FRAGMENT,
        })
    }

    /// Lists an open directory from `offset` on into `page`; with `plus`, giving out the nodes.
    pub fn list(
        &self,
        node: NodeId,
        handle: FileHandle,
        offset: u64,
        plus: bool,
        page: &mut dyn Page,
    ) -> Result<(), Refusal> {
        self.directory(handle, node)?;
        let mut filling = Filling::new(page, &self.nodes, node);
        let listed = match self.place(node)? {
            Place::Root => self.root_list(offset, plus, &mut filling),
            Place::History => self.history_list(offset, &mut filling),
            Place::Made(made) => self.made_list(made, offset, plus, &mut filling),
            Place::Tree(tense, dir) => self.tree_list(tense, dir, offset, plus, &mut filling),
        };
        // What is on the page was given out; the next request meets the failure again.
        if filling.any() { Ok(()) } else { listed }
    }

    fn tree_list(
        &self,
        tense: Tense,
        dir: Ino,
        offset: u64,
        plus: bool,
        filling: &mut Filling<'_>,
    ) -> Result<(), Refusal> {
        let at = self.at(tense)?;
        if offset < AFTER_DOTS {
            self.nodes.listed(filling.directory);
            let inode = self.tree.inode(dir, at)?;
            let (own, above) = (shown_ino(at, &inode), self.ino_above(tense, &inode, at)?);
            if !filling.push_dots(offset, own, above, inode.mode) {
                return Ok(());
            }
        }
        // In the past, the number of a file is that of its version, which is among its attributes.
        if !plus && tense == Tense::Now {
            self.tree.list(dir, offset, at, &mut |hash, name, entry| {
                let next = hash.saturating_add(1);
                let listed = Listed { name, ino: entry.ino.0, mode: entry.kind, next, entry: None };
                flow(filling.push(hash, &listed))
            })?;
            return Ok(());
        }
        let mut failed = None;
        self.tree.list_with_attributes(dir, offset, at, &mut |hash, name, inode| {
            let entry = match self.entry(tense, inode) {
                Ok(entry) => entry,
                Err(refusal) => {
                    failed = Some(refusal);
                    return ControlFlow::Break(());
                }
            };
            let listed = Listed {
                name,
                ino: entry.attr.ino,
                mode: inode.mode,
                next: hash.saturating_add(1),
                entry: Some(&entry).filter(|_| plus),
            };
            flow(filling.push(hash, &listed))
        })?;
        failed.map_or(Ok(()), Err)
    }

    /// What `..` of `dir` shows as its inode number.
    fn ino_above(&self, tense: Tense, dir: &Inode, at: Seq) -> Result<u64, Refusal> {
        if dir.ino == Ino::ROOT {
            return Ok(match tense {
                Tense::Now => ROOT_INO,
                Tense::Past(_) => HISTORY_INO,
            });
        }
        match self.tree.parent(dir.ino, at) {
            Ok(parent) => Ok(shown_ino(at, &self.tree.inode(parent, at)?)),
            // Removed, and open still.
            Err(TreeRefusal::NotFound) => Ok(shown_ino(at, dir)),
            Err(refusal) => Err(refusal.into()),
        }
    }
}

fn flow(goes_on: bool) -> ControlFlow<()> {
    if goes_on { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
}
