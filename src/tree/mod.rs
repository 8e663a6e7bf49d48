//! The project: which events an operation causes, or why none do.
//!
//! [`Tree::perform`] is the only way to change anything: it begins a transaction of the store, lets
//! [`decide`](decide::decide) (pure) name the change, commits it, and answers with the
//! [`Outcome`]. Locks are taken here and in no other file of this folder.
//!
//! Every question takes `at`, a sequence number; the present asks with [`Seq::NOW`]. A question
//! never meets a change half done, and content is read after the store's lock was let go.

pub mod acl;
pub mod decide;
pub mod edits;
pub mod moment;
pub mod operation;
pub mod watch;

use std::fmt;
use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;

use parking_lot::Mutex;
use rustc_hash::FxHashSet;

use crate::store::index::{Entry, IndexError, Sought, Tables, Totals};
use crate::store::{CommitError, Store, Txn, disk};

pub use crate::store::disk::File;
pub use crate::store::event::{Actor, ActorId, Ino, Seq, Timestamp};
pub use crate::store::index::{Inode, Stretch};
pub use crate::store::{LabelError, Origin, Pin, Placed};

#[cfg(test)]
pub(crate) use crate::store::sim::{SimDisk, Step};

/// A file that nobody else sees, gone with its last user: see [`Store::scratch`].
pub type ScratchFile = Arc<dyn File>;

use decide::{Decision, Room};
use operation::{
    Caller, FALLOC_FL_PUNCH_HOLE, Operation, S_IFDIR, S_IFLNK, S_IFMT, S_IFREG, WriteTo,
};
use watch::{Expected, Watchers};

/// Why an operation changed nothing, or a question has no answer. Each is something a caller can act
/// on; how it is told to a program (`errno`) is decided by who serves the tree.
#[derive(Debug)]
pub enum Refusal {
    /// No such name, or a directory that was removed (`ENOENT`).
    NotFound,
    /// What the caller holds on to is no longer what it takes it for: look the name up again and
    /// repeat (`ESTALE`; the kernel then does so by itself).
    Stale,
    /// The name is taken (`EEXIST`).
    Exists,
    /// A directory is needed (`ENOTDIR`).
    NotADirectory,
    /// Not on a directory (`EISDIR`).
    IsADirectory,
    /// The directory has names in it, or is above what would replace it (`ENOTEMPTY`).
    NotEmpty,
    /// A directory would come to lie below itself (`EINVAL`).
    CrossesItself,
    /// The file has [`LINK_MAX`](operation::LINK_MAX) names already (`EMLINK`).
    TooManyLinks,
    /// A name or a link's target is too long (`ENAMETOOLONG`).
    NameTooLong,
    /// The disk is full (`ENOSPC`).
    NoSpace,
    /// No changes until the next start; the text says which failure of the disk ended them (`EROFS`).
    ReadOnly(String),
    /// This kind of file, attribute or mode does not exist here (`EOPNOTSUPP`).
    NotSupported,
    /// No such extended attribute, or no data at or after the offset (`ENODATA`; of a seek `ENXIO`).
    NoData,
    /// The name of an extended attribute is empty or too long (`ERANGE`).
    Range,
    /// Nobody may do this (`EPERM`).
    NotPermitted,
    /// A default ACL belongs to a directory (`EACCES`).
    DefaultAclOnFile,
    /// The file would grow beyond [`FILE_SIZE_MAX`](operation::FILE_SIZE_MAX) (`EFBIG`).
    TooLarge,
    /// The value of an extended attribute is larger than
    /// [`XATTR_VALUE_MAX`](operation::XATTR_VALUE_MAX) (`E2BIG`).
    ValueTooLarge,
    /// The request makes no sense (`EINVAL`).
    Invalid,
    /// The disk failed (`EIO`).
    Io(io::Error),
    /// The index contradicts itself; the text says where. Deleting `index/` rebuilds it (`EIO`).
    Damaged(String),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotFound => "it does not exist",
            Self::Stale => "it has changed meanwhile: look it up again",
            Self::Exists => "the name is taken",
            Self::NotADirectory => "it is no directory",
            Self::IsADirectory => "it is a directory",
            Self::NotEmpty => "the directory is not empty",
            Self::CrossesItself => "a directory cannot be moved below itself",
            Self::TooManyLinks => "the file has too many names",
            Self::NameTooLong => "the name is too long",
            Self::NoSpace => "the disk is full",
            Self::NotSupported => "this is not supported here",
            Self::NoData => "there is no such attribute, or no data",
            Self::Range => "the attribute's name is empty or too long",
            Self::NotPermitted => "nobody may do this",
            Self::DefaultAclOnFile => "only a directory has a default ACL",
            Self::TooLarge => "the file would be too large",
            Self::ValueTooLarge => "the attribute's value is too large",
            Self::Invalid => "the request makes no sense",
            Self::ReadOnly(why) => {
                return write!(f, "changes are refused until the next start: {why}");
            }
            Self::Io(error) => return write!(f, "the disk failed: {error}"),
            Self::Damaged(what) => return write!(f, "the index is damaged: {what}"),
        })
    }
}

impl std::error::Error for Refusal {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io(error) => Some(error),
            Self::NotFound
            | Self::Stale
            | Self::Exists
            | Self::NotADirectory
            | Self::IsADirectory
            | Self::NotEmpty
            | Self::CrossesItself
            | Self::TooManyLinks
            | Self::NameTooLong
            | Self::NoSpace
            | Self::NotSupported
            | Self::NoData
            | Self::Range
            | Self::NotPermitted
            | Self::DefaultAclOnFile
            | Self::TooLarge
            | Self::ValueTooLarge
            | Self::Invalid
            | Self::ReadOnly(_)
            | Self::Damaged(_) => None,
        }
    }
}

impl From<IndexError> for Refusal {
    fn from(error: IndexError) -> Self {
        match error {
            IndexError::Io(error) => Self::Io(error),
            IndexError::Damaged(what) => Self::Damaged(what),
        }
    }
}

impl From<CommitError> for Refusal {
    fn from(error: CommitError) -> Self {
        match error {
            CommitError::NoSpace => Self::NoSpace,
            CommitError::ReadOnly(why) => Self::ReadOnly(why),
            CommitError::Io(error) => Self::Io(error),
            CommitError::Index(error) => error.into(),
        }
    }
}

/// What an operation came to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Outcome {
    /// The event, or `None` where none was needed (see [`Operation`]).
    pub seq: Option<Seq>,
    /// What the operation was about, after it: what was made, linked, or had its attributes set;
    /// what an unlink took the name from; what a rename moved. `None` only after a write,
    /// allocation, copy, change of an extended attribute or end, whose replies carry no attributes.
    pub inode: Option<Inode>,
    /// What a rename replaced (see its `nlink`: 0 means that only handles keep it) or exchanged.
    pub other: Option<Inode>,
    /// Bytes written, set aside or copied.
    pub len: u64,
}

/// Takes (hash, name, entry) of one name in a directory, and says whether to go on.
pub type Visit<'v> = dyn FnMut(u64, &[u8], Entry) -> ControlFlow<()> + 'v;

/// Takes (hash, name, attributes) of one name in a directory, and says whether to go on.
pub type VisitWithAttributes<'v> = dyn FnMut(u64, &[u8], &Inode) -> ControlFlow<()> + 'v;

/// A store, seen as a project. Cheap to clone; clones have the same watchers.
#[derive(Clone, Debug)]
pub struct Tree {
    store: Arc<Store>,
    /// When what is performed happened; `None` is now.
    time: Option<Timestamp>,
    watchers: Arc<Watchers>,
    /// Inodes without a name that were made beside every watcher, and are to get one: content that is on its way.
    unfinished: Arc<Mutex<FxHashSet<Ino>>>,
}

impl Tree {
    /// The tree of `store`.
    #[must_use]
    pub fn new(store: Arc<Store>) -> Self {
        Self { store, time: None, watchers: Arc::default(), unfinished: Arc::default() }
    }

    /// The store below.
    #[must_use]
    pub const fn store(&self) -> &Arc<Store> {
        &self.store
    }

    /// The same tree, but what is performed on it happened at `time`: for what is imported. See
    /// [`Store::begin_at`].
    #[must_use]
    pub fn dated(&self, time: Timestamp) -> Self {
        Self { time: Some(time), ..self.clone() }
    }

    /// Does `operation`, or says why not. Once this returns, the change is in the log and seen by
    /// every question; whether it outlives a power cut is [`Tree::sync`]'s matter.
    pub fn perform(
        &self,
        caller: &Caller<'_>,
        operation: &Operation<'_>,
    ) -> Result<Outcome, Refusal> {
        self.perform_where(caller, operation, None)
    }

    fn perform_where(
        &self,
        caller: &Caller<'_>,
        operation: &Operation<'_>,
        expected: Option<&Expected<'_>>,
    ) -> Result<Outcome, Refusal> {
        let mut room = Room::default();
        let (txn, decision) =
            self.decided(caller, operation, expected, &mut room).inspect_err(|_| {
                // Nobody else will ever refer to it.
                if let Operation::Write { data, .. } = operation {
                    self.store.unplace(data);
                }
            })?;
        let Decision { change, about, other, len } = decision;
        let (seq, at) = if let Some(change) = change {
            let seq = txn.commit(caller.origin, change)?;
            (Some(seq), seq)
        } else {
            drop(txn);
            (None, Seq::NOW)
        };
        let (mut inode, mut replaced) = (None, None);
        if about.is_some() || other.is_some() {
            let tables = self.store.read();
            let attributes = |ino: Option<decide::About>| match ino {
                Some(decide::About::Inode(ino)) => tables.inode(ino, at),
                Some(decide::About::Made) => tables.inode(Ino(at.0), at),
                None => Ok(None),
            };
            inode = attributes(about)?;
            replaced = attributes(other)?;
        }
        if let Operation::Link { ino, .. } | Operation::End { ino } = operation {
            self.unfinished.lock().remove(ino);
        }
        Ok(Outcome { seq, inode, other: replaced, len })
    }

    /// What `operation` comes to, if it is not refused, and the transaction in which it is so.
    fn decided<'o>(
        &self,
        caller: &Caller<'_>,
        operation: &Operation<'o>,
        expected: Option<&Expected<'_>>,
        room: &'o mut Room,
    ) -> Result<(Txn<'_>, Decision<'o>), Refusal> {
        if let &Operation::Allocate { ino, flags, len, .. } = operation
            && flags & FALLOC_FL_PUNCH_HOLE == 0
        {
            // What the file has may lie in the range, so this much is needed at least. Space is not
            // really set aside: content is appended, wherever it belongs in its file.
            let needed = len.saturating_sub(self.inode(ino, Seq::NOW)?.allocated);
            if needed > 0 && needed > self.store.space().map_err(Refusal::Io)?.available {
                return Err(Refusal::NoSpace);
            }
        }
        let txn = match self.time {
            Some(time) => self.store.begin_at(time)?,
            None => self.store.begin()?,
        };
        if let Some(expected) = expected {
            expected.check(txn.tables())?;
        }
        let decision = decide::decide(txn.tables(), caller, operation, txn.time(), room)?;
        Ok((txn, decision))
    }

    /// Writes `bytes` to `ino`; `kill_set_id` as in [`Operation`]. Long ones go to a content file before any lock is taken.
    /// Zero bytes cause no event.
    pub fn write(
        &self,
        caller: &Caller<'_>,
        ino: Ino,
        to: WriteTo,
        bytes: &[u8],
        kill_set_id: bool,
    ) -> Result<Outcome, Refusal> {
        self.write_placed(caller, ino, to, bytes, kill_set_id, &mut Placed::default())
    }

    /// As [`Tree::write`]; `placed` says whether anybody else has the bytes in memory.
    ///
    /// # Errors
    ///
    /// As [`Tree::write`].
    pub fn write_placed(
        &self,
        caller: &Caller<'_>,
        ino: Ino,
        to: WriteTo,
        bytes: &[u8],
        kill_set_id: bool,
        placed: &mut Placed,
    ) -> Result<Outcome, Refusal> {
        let data = match to {
            WriteTo::Offset(_) | WriteTo::Whole | WriteTo::End => {
                self.store.place(bytes, placed)?
            }
            WriteTo::GoesOn(_) => self.store.place_on(bytes, placed)?,
        };
        self.perform(caller, &Operation::Write { ino, to, data, kill_set_id })
    }

    /// Returns once everything performed before the call is on the disk (`fsync`, `fsyncdir`).
    pub fn sync(&self) -> Result<(), Refusal> {
        Ok(self.store.sync()?)
    }

    /// The last event.
    #[must_use]
    pub fn last(&self) -> Seq {
        self.store.read().last()
    }

    /// Attributes of `ino` after event `at`; [`Refusal::Stale`] if it was not there.
    pub fn inode(&self, ino: Ino, at: Seq) -> Result<Inode, Refusal> {
        self.store.read().inode(ino, at)?.ok_or(Refusal::Stale)
    }

    /// What `name` in `parent` stood for after event `at`.
    pub fn lookup(&self, parent: Ino, name: &[u8], at: Seq) -> Result<Inode, Refusal> {
        let tables = self.store.read();
        match tables.entry(parent, name, at)? {
            Some(entry) => named(&tables, entry, at),
            None => {
                directory(&tables, parent, at)?;
                Err(Refusal::NotFound)
            }
        }
    }

    /// What `name` in `parent` stood for after event `at`, since when, and without its attributes; `None` for nothing.
    pub fn entry(&self, parent: Ino, name: &[u8], at: Seq) -> Result<Option<Entry>, Refusal> {
        Ok(self.store.read().entry(parent, name, at)?)
    }

    /// The directory that holds `dir` after event `at` (`..`); the root's is the root.
    /// [`Refusal::NotFound`] for a directory that was removed.
    pub fn parent(&self, dir: Ino, at: Seq) -> Result<Ino, Refusal> {
        self.store.read().parent(dir, at)?.ok_or(Refusal::NotFound)
    }

    /// Calls `visit(hash, name, entry)` for each name in `dir` after event `at`, from the first with a
    /// hash of at least `from`, until it breaks. The hash is the directory offset; a reply must not
    /// end between equal ones. `visit` runs under the store's lock: it must not ask the tree anything.
    pub fn list(&self, dir: Ino, from: u64, at: Seq, visit: &mut Visit<'_>) -> Result<(), Refusal> {
        let tables = self.store.read();
        directory(&tables, dir, at)?;
        Ok(tables.entries(dir, from, at, visit)?)
    }

    /// As [`Tree::list`], with the attributes of each inode beside its name.
    pub fn list_with_attributes(
        &self,
        dir: Ino,
        from: u64,
        at: Seq,
        visit: &mut VisitWithAttributes<'_>,
    ) -> Result<(), Refusal> {
        let tables = self.store.read();
        directory(&tables, dir, at)?;
        let mut failed = None;
        tables.entries(
            dir,
            from,
            at,
            &mut |hash, name, entry| match named(&tables, entry, at) {
                Ok(inode) => visit(hash, name, &inode),
                Err(refusal) => {
                    failed = Some(refusal);
                    ControlFlow::Break(())
                }
            },
        )?;
        failed.map_or(Ok(()), Err)
    }

    /// Fills `buffer` with what the regular file `ino` held from `offset` on after event `at`; holes
    /// read as zeros. Returns how many bytes there were: fewer than asked only at the end of the file.
    pub fn read(
        &self,
        ino: Ino,
        offset: u64,
        buffer: &mut [u8],
        at: Seq,
    ) -> Result<usize, Refusal> {
        // From before asking where the bytes are until they are read, they must stay there.
        let _pin = self.store.pin();
        let mut stretches = Vec::new();
        let len = self.stretches(ino, offset, buffer.len() as u64, at, &mut stretches)?;
        // No longer than the buffer, which `stretches` was asked for.
        let len = usize::try_from(len).unwrap_or(usize::MAX).min(buffer.len());
        let (filled, _) = buffer.split_at_mut(len);
        self.store.read_content(&stretches, filled).map_err(Refusal::Io)?;
        Ok(len)
    }

    /// Appends to `out` where the bytes of `offset..offset + len` of the regular file `ino` lie after
    /// event `at`, cut at its size, and returns how many bytes that is. For replies that are spliced
    /// from the content files. Take a [`Store::pin`] first, and keep it until they are read.
    ///
    /// [`Refusal::Stale`] for a sequence that history no longer reaches back to, unless the file is still as it was
    /// then: the bytes may be gone.
    pub fn stretches(
        &self,
        ino: Ino,
        offset: u64,
        len: u64,
        at: Seq,
        out: &mut Vec<Stretch>,
    ) -> Result<u64, Refusal> {
        // The present is always at or after the horizon, and need not ask where that is.
        let asked = at;
        let is_gone = asked != Seq::NOW && asked < self.store.horizon();
        let at = if is_gone { Seq::NOW } else { asked };
        let tables = self.store.read();
        let file = regular(&tables, ino, at)?;
        if is_gone && file.changed > asked {
            return Err(Refusal::Stale);
        }
        let len = len.min(file.size.saturating_sub(offset));
        if len > 0 {
            tables.stretches(ino, offset, len, at, out)?;
        }
        Ok(len)
    }

    /// `lseek` with `SEEK_DATA`, or with `SEEK_HOLE` (`hole`): the end of the file counts as a hole.
    /// [`Refusal::NoData`] where there is none, and from the end of the file on.
    pub fn seek(&self, ino: Ino, offset: u64, hole: bool, at: Seq) -> Result<u64, Refusal> {
        let mut from = offset;
        loop {
            // Taken for one step at a time: a large file takes long, and changes wait meanwhile.
            let tables = self.store.read();
            regular(&tables, ino, at)?;
            match tables.seek_near(ino, from, hole, at)? {
                Sought::At(found) => return Ok(found),
                Sought::FurtherOn(next) => from = next,
                Sought::Nowhere => return Err(Refusal::NoData),
            }
        }
    }

    /// Target of the symbolic link `ino`; [`Refusal::Invalid`] for anything else.
    pub fn target(&self, ino: Ino, at: Seq) -> Result<Vec<u8>, Refusal> {
        let tables = self.store.read();
        if there(&tables, ino, at)?.mode & S_IFMT != S_IFLNK {
            return Err(Refusal::Invalid);
        }
        tables.target(ino, at)?.ok_or(Refusal::Stale)
    }

    /// Value of the extended attribute `name` after event `at`, or [`Refusal::NoData`].
    /// [`Refusal::NotSupported`] in a namespace that does not exist here.
    pub fn xattr(&self, ino: Ino, name: &[u8], at: Seq) -> Result<Vec<u8>, Refusal> {
        decide::xattr_namespace(name)?;
        let tables = self.store.read();
        match tables.xattr(ino, name, at)? {
            Some(value) => Ok(value),
            None => {
                there(&tables, ino, at)?;
                Err(Refusal::NoData)
            }
        }
    }

    /// Names of all extended attributes after event `at`, sorted.
    pub fn xattrs(&self, ino: Ino, at: Seq) -> Result<Vec<Vec<u8>>, Refusal> {
        let tables = self.store.read();
        there(&tables, ino, at)?;
        Ok(tables.xattrs(ino, at)?)
    }

    /// Every (directory, name) of `ino` after event `at`.
    pub fn names(&self, ino: Ino, at: Seq) -> Result<Vec<(Ino, Vec<u8>)>, Refusal> {
        Ok(self.store.read().names(ino, at)?)
    }

    /// All paths of `ino` after event `at`, each as names from the root on; none if it has no name.
    pub fn paths(&self, ino: Ino, at: Seq) -> Result<Vec<Vec<Vec<u8>>>, Refusal> {
        if ino == Ino::ROOT {
            return Ok(vec![Vec::new()]);
        }
        let mut paths = Vec::new();
        for (parent, name) in self.names(ino, at)? {
            paths.extend(self.path_in(parent, &name, at)?);
        }
        Ok(paths)
    }

    /// The path of `name` in the directory `parent`, as names from the root on; `None` if that has no name itself.
    pub fn path_in(
        &self,
        parent: Ino,
        name: &[u8],
        at: Seq,
    ) -> Result<Option<Vec<Vec<u8>>>, Refusal> {
        /// So deep no tree is: what says so is damaged.
        const DEPTH_MAX: usize = 1 << 20;
        let mut path = vec![name.to_vec()];
        let mut dir = parent;
        while dir != Ino::ROOT {
            if path.len() > DEPTH_MAX {
                return Err(Refusal::Damaged("a directory is in itself".to_owned()));
            }
            // Directories have one name.
            let Some((above, name)) = self.names(dir, at)?.into_iter().next() else {
                return Ok(None);
            };
            path.push(name);
            dir = above;
        }
        path.reverse();
        Ok(Some(path))
    }

    /// Bytes of the disk, and what the present tree amounts to (`statfs`).
    pub fn space(&self) -> Result<(disk::Space, Totals), Refusal> {
        let space = self.store.space().map_err(Refusal::Io)?;
        Ok((space, self.store.read().totals()))
    }

    /// Ends every inode without a name, so that what they held can be given back: for a start to which
    /// no connection of the kernel survived. Not those to which content is on its way. Returns how many there were.
    pub fn end_orphans(&self) -> Result<u64, Refusal> {
        /// How many are asked for at a time.
        const BATCH: usize = 1024;
        let mut ended = 0;
        let mut from = Ino(0);
        loop {
            let batch = self.store.read().orphans(from, BATCH)?;
            for &ino in &batch {
                from = Ino(ino.0.saturating_add(1));
                if !self.unfinished.lock().contains(&ino) {
                    self.perform(&Caller::default(), &Operation::End { ino })?;
                    ended += 1;
                }
            }
            if batch.len() < BATCH {
                return Ok(ended);
            }
        }
    }
}

#[cfg(test)]
impl Tree {
    /// A new one, for tests of who stands above.
    pub(crate) fn in_memory() -> Self {
        Self::in_memory_on(SimDisk::new(1 << 30))
    }

    /// The same on a disk that the test makes fail.
    pub(crate) fn in_memory_on(disk: SimDisk) -> Self {
        Self::in_memory_of(disk, &crate::store::CreateOptions::default())
    }

    /// The same, on a disk that is soon full.
    pub(crate) fn in_little_memory() -> Self {
        let mut create = crate::store::CreateOptions::default();
        (create.shape.segment_len, create.shape.content_step) = (1 << 20, 64 << 10);
        Self::in_memory_of(SimDisk::new(16 << 20), &create)
    }

    fn in_memory_of(disk: SimDisk, create: &crate::store::CreateOptions) -> Self {
        let quiet = crate::store::OpenOptions {
            sync_interval: None,
            memory: 8 << 20,
            ..crate::store::OpenOptions::default()
        };
        let made = Store::create_on(Arc::new(disk), create, &quiet);
        Self::new(Arc::new(made.expect("a disk in memory takes a store")))
    }
}

/// Attributes of `ino` at `at`, or [`Refusal::Stale`].
fn there(tables: &Tables, ino: Ino, at: Seq) -> Result<Inode, Refusal> {
    tables.inode(ino, at)?.ok_or(Refusal::Stale)
}

/// Attributes of what `entry` names: a name never outlives its inode.
fn named(tables: &Tables, entry: Entry, at: Seq) -> Result<Inode, Refusal> {
    tables.inode(entry.ino, at)?.ok_or_else(|| {
        Refusal::Damaged(format!(
            "a name stands for inode {}, which is not there at event {at}; delete `index/` to rebuild it",
            entry.ino
        ))
    })
}

/// Attributes of `ino`, which must be a directory.
fn directory(tables: &Tables, ino: Ino, at: Seq) -> Result<Inode, Refusal> {
    let inode = there(tables, ino, at)?;
    if inode.mode & S_IFMT == S_IFDIR { Ok(inode) } else { Err(Refusal::NotADirectory) }
}

/// Attributes of `ino`, which must be a regular file.
fn regular(tables: &Tables, ino: Ino, at: Seq) -> Result<Inode, Refusal> {
    let inode = there(tables, ino, at)?;
    match inode.mode & S_IFMT {
        S_IFREG => Ok(inode),
        S_IFDIR => Err(Refusal::IsADirectory),
        _ => Err(Refusal::Invalid),
    }
}
