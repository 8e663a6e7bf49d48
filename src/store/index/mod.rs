//! What the log means: every question about a tree, now or at any past sequence.
//!
//! There is one way for now and then: each question takes `at`, and the present asks with
//! [`Seq::NOW`].
//!
//! The newest value of each key is in a *live* table with the sequence of its birth; when it is
//! superseded it moves to a *dead* table, keyed by its death. A question is one look in the live
//! table (if its birth is not later than `at`, it is the answer) and at most one seek in the dead one:
//! the first value that died after `at` is the answer if it was born by then. So the present never
//! meets what is dead, and the past costs the same whatever its age. What a directory listed then is in *pages*,
//! which hold what was there in a range of events, and little else: see `pages`.
//!
//! | tag | table | key | value |
//! |---|---|---|---|
//! | 0 | meta | | format, store, key, last event, totals, mark |
//! | 2, 3 | names | parent, hash, name | birth, inode, kind |
//! | 4, 5 | inodes | inode | birth and all of [`Inode`], highest piece, reserves |
//! | 6 | chunks | inode, offset / 64 KiB, !sequence | parts: see `extents` |
//! | 8, 9 | cuts | inode | birth, (start, end, sequence) each |
//! | 10 | targets | inode | the target: never changes, counts while the inode exists |
//! | 12, 13 | xattrs | inode, attribute | birth, value |
//! | 14, 15 | names of | inode, parent, name | birth |
//! | 16 | times | !time, !sequence | (time, sequence) of up to 256 events, as differences |
//! | 18 | orphans | inode | |
//! | 20 | shared | kind, file, offset, inode, offset in the inode | length: a clone uses this content |
//! | 22 | labels | name | sequence |
//! | 24 | foreign events | length of the id, the id, fingerprint | sequence |
//! | 26 | marks | !sequence of the last event before | a place in the log, in the log's own words |
//! | 28 | open pages | inode, set, last hash | first event, counts, what died: see `pages` |
//! | 30 | closed pages | inode, set, depth, last hash, end | first event, elements and their lives |
//!
//! The odd tag is the dead table: the live key, a NUL and the sequence of the death. `hash` is
//! SipHash-1-3 of the name under the store's key, cut to 63 bits: it is the directory offset, and nobody can make
//! names collide without the key. `key` says how keys are laid out, `codec` values.
//!
//! Rows live in three layers: *young*, which events change; *frozen*, which a thread is committing;
//! and the engine (redb) in one file. A batch is committed only after the log it
//! stands for is durable, and carries the log's own [`Mark`], so a start folds in what came after it.
//! The index is never needed to keep anything: deleted, it is rebuilt from the log.
//!
//! `benches/engine` holds redb against lsm-tree. On what a real store's log asks, redb keeps pace at 150,000 rows/s with no pause
//! longer than 7 ms, and lsm-tree does not; where changes meet 30 million rows all alike it is the other way round.
//!
//! Invariants: what the layers say is what replaying the log from the start says; folding in an event reads
//! all it needs before it changes anything, so a failure leaves nothing half done.

mod cache;
#[cfg(test)]
mod churn;
mod codec;
mod commit;
mod engine;
mod extents;
mod fold;
mod foreign;
mod key;
mod labels;
mod layer;
mod names;
mod pages;
mod shares;
mod small;
#[cfg(test)]
mod tests;
mod times;

use std::fmt;
use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

#[doc(hidden)]
pub use commit::Tap;
pub use commit::{Index, LOG_BEHIND_MAX, LOG_PER_BATCH, Mark, Options};
pub use extents::Sought;

use super::content::PAGE;
use super::disk::is_full;
use super::event::{Event, FileId, INLINE_MAX, Ino, Location, Seq, Timestamp};
use parking_lot::Mutex;
use rustc_hash::{FxHashMap, FxHashSet};

use cache::Cache;
use codec::Node;
use engine::Snapshot;
use key::{Key, NameHash};
use layer::{Cursor, Layer, Value};
pub(super) use shares::Shares;
use times::Tail;

/// What a file may do beyond its caller; goes when it is written to.
const CAPABILITY: &[u8] = b"security.capability";
/// How far one answer to questions about the past may lead before the other.
const LEAD_MAX: i32 = 8;
/// What files made in a directory get from it.
const DEFAULT_ACL: &[u8] = b"system.posix_acl_default";
/// How many inodes without the one or the other are remembered.
const LACKING_MAX: usize = 16 << 10;

/// Attributes of an inode after some event.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Inode {
    /// Its number.
    pub ino: Ino,
    /// File type and permissions.
    pub mode: u32,
    /// Names it has; a directory counts 2 and one for each subdirectory. 0: unlinked but still in use.
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number of a device node.
    pub rdev: u64,
    /// Length in bytes; of a symbolic link, that of its target; of a directory 0 (see `entries`).
    pub size: u64,
    /// Bytes that are written or set aside; what `st_blocks` counts.
    pub allocated: u64,
    /// Live names in a directory.
    pub entries: u64,
    /// Last access as set by `utimensat`; reading never moves it.
    pub atime: Timestamp,
    /// Last change of content.
    pub mtime: Timestamp,
    /// Last change of anything.
    pub ctime: Timestamp,
    /// When it was made.
    pub btime: Timestamp,
    /// The event that last changed these attributes: the version of the inode.
    pub changed: Seq,
    /// Which of the inodes that `changed` touched this one is (0 to 7): with `changed`, a number of the version.
    pub role: u8,
}

/// What a name in a directory stands for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Entry {
    /// The inode.
    pub ino: Ino,
    /// Its file type (`S_IFMT` bits), so that a listing needs no attributes.
    pub kind: u32,
    /// The event that made this name stand for this inode.
    pub since: Seq,
}

/// A stretch of a file's content, in order and without gaps.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Stretch {
    /// First byte in the file.
    pub offset: u64,
    /// Length in bytes.
    pub len: u64,
    /// Where its bytes are; `None` reads as zeros (a hole, or zeroed).
    pub at: Option<Location>,
}

/// Takes (hash, name, entry) of a listing.
pub type EntryVisitor<'v> = dyn FnMut(u64, &[u8], Entry) -> ControlFlow<()> + 'v;

/// Takes (location, length, inode, offset in the inode's content) of what clones refer to.
pub type SharedVisitor<'v> = dyn FnMut(Location, u64, Ino, u64) -> ControlFlow<()> + 'v;

/// Why the index could not answer.
#[derive(Debug)]
pub enum IndexError {
    /// Reading or writing its file failed.
    Io(io::Error),
    /// What its file holds cannot be right; a start that finds no `index/` rebuilds it.
    Damaged(String),
}

impl IndexError {
    /// Whether the disk is full.
    pub(super) fn is_full(&self) -> bool {
        matches!(self, Self::Io(error) if is_full(error))
    }

    /// The same for one more who waits for it.
    fn again(&self) -> Self {
        match self {
            Self::Io(error) => Self::Io(io::Error::new(error.kind(), error.to_string())),
            Self::Damaged(what) => Self::Damaged(what.clone()),
        }
    }
}

impl fmt::Display for IndexError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => write!(f, "the index cannot be read or written: {error}"),
            Self::Damaged(what) => {
                write!(f, "the index is damaged ({what}): a start that finds no index/ rebuilds it")
            }
        }
    }
}

impl std::error::Error for IndexError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io(error) => Some(error),
            Self::Damaged(_) => None,
        }
    }
}

/// Derived state with its two lives: the live value of each key, and the dead ones by their death.
///
/// Shared access answers questions; exclusive access folds in events.
pub struct Tables {
    young: Layer,
    frozen: Option<Arc<Layer>>,
    engine: Snapshot,
    /// The last event the engine's rows know of.
    engine_last: Seq,
    cache: Cache,
    name_hash: NameHash,
    last: Seq,
    totals: Totals,
    tail: Tail,
    /// Which chunks (from, to) of which inodes collected many pieces; see [`Tables::take_frayed`].
    frayed: Mutex<FxHashMap<Ino, (u64, u64)>>,
    /// Attributes that inodes are known not to have.
    lacking: Mutex<FxHashSet<(Ino, Rare)>>,
    /// The oldest event that has a label, if that was asked since labels changed.
    first_label: Mutex<Option<Option<Seq>>>,
    /// How many more of the last questions about the past were answered by what is dead than by what lives.
    dead_lead: AtomicI32,
    /// Kept for its memory only.
    scratch: fold::Batch,
    #[cfg(test)]
    rows_visited: std::sync::atomic::AtomicU64,
}

/// An extended attribute that is asked for again and again, and is hardly ever there.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
enum Rare {
    /// Every write asks for it.
    Capability,
    /// Whatever is made in a directory asks for it.
    DefaultAcl,
}

impl Rare {
    fn of(name: &[u8]) -> Option<Self> {
        match name {
            CAPABILITY => Some(Self::Capability),
            DEFAULT_ACL => Some(Self::DefaultAcl),
            _ => None,
        }
    }
}

impl fmt::Debug for Tables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tables").field("last", &self.last).finish_non_exhaustive()
    }
}

impl Tables {
    /// The last event folded in.
    pub fn last(&self) -> Seq {
        self.last
    }
    /// Attributes of `ino` after event `at`; `None` if it was not there yet, or not any more.
    pub fn inode(&self, ino: Ino, at: Seq) -> Result<Option<Inode>, IndexError> {
        // The copy is all that is made of a hot inode: no list of its reserves.
        if let Some(hot) = self.cache.node(ino.0, |node| node.inode)
            && hot.changed <= at
        {
            return Ok(Some(hot));
        }
        Ok(self.node(ino, at)?.map(|node| node.inode))
    }
    /// What `name` in `parent` stood for after event `at`.
    pub fn entry(&self, parent: Ino, name: &[u8], at: Seq) -> Result<Option<Entry>, IndexError> {
        self.entry_at(parent, name, at)
    }
    /// Calls `visit(hash, name, entry)` for each name of `parent` after event `at`, in the order of
    /// (hash, name), from the first with a hash of at least `from`. Hashes lie in `16..2^63 - 1`.
    pub fn entries(
        &self,
        parent: Ino,
        from: u64,
        at: Seq,
        visit: &mut EntryVisitor<'_>,
    ) -> Result<(), IndexError> {
        self.entries_at(parent, from, at, visit)
    }
    /// Appends to `out` the stretches that make up `offset..offset + len` of `ino` after event `at`;
    /// adjacent stretches that lie side by side in one file come as one. The caller cuts at the size.
    pub fn stretches(
        &self,
        ino: Ino,
        offset: u64,
        len: u64,
        at: Seq,
        out: &mut Vec<Stretch>,
    ) -> Result<(), IndexError> {
        self.stretches_at(ino, offset, len, at, out)
    }
    /// The first offset at or after `offset` that holds data (`hole: false`), or the first that is
    /// a hole (`hole: true`; the size counts as one), of `ino` after event `at`; `None` where there is none (`ENXIO`).
    pub fn seek(
        &self,
        ino: Ino,
        offset: u64,
        hole: bool,
        at: Seq,
    ) -> Result<Option<u64>, IndexError> {
        Ok(match self.seek_at(ino, offset, hole, at, u64::MAX)? {
            Sought::At(found) => Some(found),
            Sought::FurtherOn(_) | Sought::Nowhere => None,
        })
    }
    /// The same, but looks at a bounded part of the file: for whoever lets others have the tables in between.
    pub fn seek_near(
        &self,
        ino: Ino,
        offset: u64,
        hole: bool,
        at: Seq,
    ) -> Result<Sought, IndexError> {
        /// 256 MiB where all is data.
        const CHUNKS: u64 = 4096;
        self.seek_at(ino, offset, hole, at, CHUNKS)
    }
    /// Target of a symbolic link, as long as it exists at `at`.
    pub fn target(&self, ino: Ino, at: Seq) -> Result<Option<Vec<u8>>, IndexError> {
        if !self.exists(ino, at)? {
            return Ok(None);
        }
        Ok(self.row(&key::target(ino))?.map(|target| target.to_vec()))
    }
    /// Value of an extended attribute after event `at`. Asked again whether a capability or a default ACL is there
    /// now, it costs no look into the tables.
    pub fn xattr(&self, ino: Ino, name: &[u8], at: Seq) -> Result<Option<Vec<u8>>, IndexError> {
        let Some(rare) = Rare::of(name).filter(|_| at == Seq::NOW) else {
            return self.xattr_at(ino, name, at);
        };
        if self.lacking.lock().contains(&(ino, rare)) {
            return Ok(None);
        }
        let value = self.xattr_at(ino, name, at)?;
        if value.is_none() {
            self.remember_lacking(ino, rare);
        }
        Ok(value)
    }
    /// Whether `ino` has a `security.capability` now.
    pub fn has_capability(&self, ino: Ino) -> Result<bool, IndexError> {
        Ok(self.xattr(ino, CAPABILITY, Seq::NOW)?.is_some())
    }
    fn remember_lacking(&self, ino: Ino, rare: Rare) {
        let mut lacking = self.lacking.lock();
        if lacking.len() >= LACKING_MAX {
            lacking.clear();
        }
        lacking.insert((ino, rare));
    }
    /// Names of all extended attributes after event `at`, sorted.
    pub fn xattrs(&self, ino: Ino, at: Seq) -> Result<Vec<Vec<u8>>, IndexError> {
        self.xattrs_at(ino, at)
    }
    /// Every (directory, name) of `ino` after event `at`.
    pub fn names(&self, ino: Ino, at: Seq) -> Result<Vec<(Ino, Vec<u8>)>, IndexError> {
        self.names_at(ino, at)
    }
    /// Directory that `dir` is in after event `at`; the root's is the root.
    pub fn parent(&self, dir: Ino, at: Seq) -> Result<Option<Ino>, IndexError> {
        self.parent_at(dir, at)
    }
    /// The last event not later than `time`, or [`Seq::ZERO`].
    pub fn seq_at(&self, time: Timestamp) -> Result<Seq, IndexError> {
        self.seq_at_time(time)
    }
    /// Inodes without a name that have not ended, from `from` on, at most `limit` (what a start must end).
    pub fn orphans(&self, from: Ino, limit: usize) -> Result<Vec<Ino>, IndexError> {
        let (from, to) = (key::orphan(from), Key::new(key::ORPHAN).end());
        let mut rows = self.cursor(None, &from, &to)?;
        let mut orphans = Vec::new();
        while orphans.len() < limit && rows.next()? {
            orphans.push(Ino(key::Fields::of(rows.key()).short()?));
        }
        Ok(orphans)
    }
    /// Totals of the present tree: inodes, and bytes of content they refer to; and what is kept beside it.
    pub fn totals(&self) -> Totals {
        self.totals
    }
    /// Folds in the next event. `payload` is where the bytes of an inline write lie in the log.
    ///
    /// What it describes has happened, so only reading the index's own file can fail; then nothing
    /// was folded in and the store must stop taking changes.
    pub fn apply(
        &mut self,
        event: &Event<'_>,
        payload: Option<Location>,
    ) -> Result<(), IndexError> {
        self.fold(event, payload)
    }

    /// Records that what is data in `offset..offset + len` of `ino` now lies at `location`, in the same order
    /// (the byte at `offset + n` at `location + n`). Holes stay holes, and no tree at any sequence changes:
    /// older sequences keep reading what they read from where it was.
    pub fn relocate(
        &mut self,
        ino: Ino,
        offset: u64,
        len: u64,
        location: Location,
    ) -> Result<(), IndexError> {
        self.fold_relocation(ino, offset, len, location)
    }

    /// Which ranges of which inodes (inode, first byte, end) collected many small pieces since the
    /// last call, as far as a bounded memory of it goes: whoever relocates looks at them.
    pub(super) fn take_frayed(&self) -> impl Iterator<Item = (Ino, u64, u64)> {
        let frayed = std::mem::take(&mut *self.frayed.lock());
        let bytes = |chunk: u64| chunk.saturating_mul(extents::CHUNK_LEN);
        frayed.into_iter().map(move |(ino, (from, to))| (ino, bytes(from), bytes(to)))
    }

    /// Whether a range of `ino` lies in more than `most` pieces, each in a place of its own.
    pub fn lies_in_more_pieces(
        &self,
        ino: Ino,
        range: (u64, u64),
        most: usize,
    ) -> Result<bool, IndexError> {
        let Some(node) = self.node(ino, Seq::NOW)? else { return Ok(false) };
        let mut pieces = 0;
        self.pieces(&node, range, Seq::NOW, u64::MAX, |_, _, _| {
            pieces += 1;
            if pieces > most { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        Ok(pieces > most)
    }

    /// Calls `visit(location, len, ino, offset)` for each content range of `file` that a clone refers
    /// to and that reaches into `start..end` of it, as far as clones have been recorded: content may be
    /// given back only if nothing else refers to it.
    pub fn shared(
        &self,
        file: FileId,
        start: u64,
        end: u64,
        visit: &mut SharedVisitor<'_>,
    ) -> Result<(), IndexError> {
        // What a clone refers to was noted down in pieces of a chunk at most.
        let from = key::shared_from(file, start.saturating_sub(extents::CHUNK_LEN));
        let to = key::shared_from(file, end);
        let mut rows = self.cursor(None, &from, &to)?;
        while rows.next()? {
            let (location, ino, offset) = key::shared_fields(rows.key())?;
            let len = codec::Reader(rows.value()).number()?;
            if location.offset.saturating_add(len) > start
                && visit(location, len, ino, offset).is_break()
            {
                break;
            }
        }
        Ok(())
    }

    /// The hash by which [`Tables::entries`] orders `name`: its directory offset.
    #[must_use]
    pub fn hash(&self, name: &[u8]) -> u64 {
        self.name_hash.of(name)
    }

    fn node(&self, ino: Ino, at: Seq) -> Result<Option<Node>, IndexError> {
        let key = key::inode(ino);
        let hot = self.cache.node(ino.0, |node| (node.inode.changed <= at).then(|| node.clone()));
        match hot {
            Some(Some(node)) => return Ok(Some(node)),
            // It has changed since: what it was is dead.
            Some(None) => {
                let dead = self.dead_version(&key, at)?;
                return dead.map(|value| Node::decode(ino, &value)).transpose();
            }
            None => (),
        }
        let live = || {
            let Some(row) = self.row(&key)? else { return Ok(None) };
            let node = Node::decode(ino, &row)?;
            self.cache.put_node(ino.0, node.clone());
            Ok((node.inode.changed <= at).then_some(node))
        };
        self.either(&key, at, live, |value| Node::decode(ino, value))
    }

    /// What a key with two lives was after event `at`: `live` says if its live value is old enough, else a dead one is.
    /// Where the last such questions were answered is asked first, so that a tree that has changed little since, and
    /// one that has changed much, take one look each.
    fn either<T>(
        &self,
        key: &Key,
        at: Seq,
        live: impl FnOnce() -> Result<Option<T>, IndexError>,
        decode: impl FnOnce(&[u8]) -> Result<T, IndexError>,
    ) -> Result<Option<T>, IndexError> {
        if at >= self.last {
            return live();
        }
        let dead = || self.dead_version(key, at)?.map(|value| decode(&value)).transpose();
        let dead_leads = self.dead_lead.load(Ordering::Relaxed);
        let (found, by_dead) = if dead_leads > 0 {
            match dead()? {
                Some(found) => (Some(found), true),
                None => (live()?, false),
            }
        } else {
            match live()? {
                Some(found) => (Some(found), false),
                None => (dead()?, true),
            }
        };
        if found.is_some() {
            let lead = dead_leads + if by_dead { 1 } else { -1 };
            if lead.abs() <= LEAD_MAX {
                self.dead_lead.store(lead, Ordering::Relaxed);
            }
        }
        Ok(found)
    }

    /// Whether `ino` was there after event `at`.
    fn exists(&self, ino: Ino, at: Seq) -> Result<bool, IndexError> {
        if at.0 < ino.0 {
            return Ok(false);
        }
        // An inode with a live row has been there since the event that made it.
        Ok(self.node(ino, Seq::NOW)?.is_some()
            || self.dead_version(&key::inode(ino), at)?.is_some())
    }

    /// The value of a key with two lives after event `at`, its birth in front.
    fn version(&self, key: &Key, at: Seq) -> Result<Option<Vec<u8>>, IndexError> {
        let live = || {
            let Some(live) = self.row(key)? else { return Ok(None) };
            Ok((codec::Reader::born(&live)?.0 <= at).then(|| live.to_vec()))
        };
        self.either(key, at, live, |value| Ok(value.to_vec()))
    }

    /// The dead value of a key that was alive after event `at`.
    fn dead_version(&self, key: &Key, at: Seq) -> Result<Option<Vec<u8>>, IndexError> {
        if at.0 >= key::LAST {
            return Ok(None);
        }
        let (from, to) = (key.dead(at.0 + 1), key.dead(key::LAST));
        let owner = key::owner(key);
        let then = |value: &[u8]| {
            let was_born = codec::Reader::born(value)?.0 <= at;
            Ok(was_born.then(|| value.to_vec()))
        };
        // What died in an older layer died earlier, so the oldest layer that has a row decides; one that
        // knows of nothing after `at` has none.
        self.visited();
        if let Some(engine) = self.engine_of(owner).filter(|_| at < self.engine_last)
            && let Some(row) = engine.range(&from, &to)?.next()?
        {
            return then(row.value());
        }
        let frozen = self.frozen.as_deref().filter(|layer| at < layer.last);
        for layer in frozen.into_iter().chain([&self.young]) {
            let mut rows = layer.range(&from, &to).filter_map(|(_, slot)| slot.value.as_ref());
            if let Some(value) = rows.next() {
                return then(value.as_slice());
            }
        }
        Ok(None)
    }

    /// The row of `key`.
    fn row(&self, key: &[u8]) -> Result<Option<Value<'_>>, IndexError> {
        self.visited();
        let owner = key::owner(key);
        for layer in self.layers_of(owner) {
            if let Some(slot) = layer.get(key) {
                return Ok(slot.value.as_ref().map(|value| Value::Memory(value.as_slice())));
            }
        }
        match self.engine_of(owner) {
            Some(engine) => Ok(engine.row(key)?.map(Value::Engine)),
            None => Ok(None),
        }
    }

    /// The rows from `from` up to and without `to`, all of the inode `owner` if one is named.
    fn cursor(&self, owner: Option<Ino>, from: &[u8], to: &[u8]) -> Result<Cursor<'_>, IndexError> {
        self.visited();
        let old = owner.is_some_and(|owner| owner.0 > self.frozen_last());
        let frozen = self.frozen.as_ref().filter(|_| !old);
        let layers = [Some(self.young.range(from, to)), frozen.map(|layer| layer.range(from, to))];
        let engine = self.engine_of(owner).map(|engine| engine.range(from, to)).transpose()?;
        Cursor::new(layers, engine)
    }

    fn frozen_last(&self) -> u64 {
        self.frozen.as_ref().map_or(0, |layer| layer.last.0)
    }

    /// The layers in memory that may know of `owner`, newest first. An inode's number is the event that
    /// made it, so an older layer has nothing of it.
    fn layers_of(&self, owner: Option<Ino>) -> impl Iterator<Item = &Layer> {
        let known = move |layer: &&Layer| owner.is_none_or(|owner| owner.0 <= layer.last.0);
        [Some(&self.young), self.frozen.as_deref().filter(known)].into_iter().flatten()
    }

    /// The engine, if it may know of `owner`.
    fn engine_of(&self, owner: Option<Ino>) -> Option<&Snapshot> {
        owner.is_none_or(|owner| owner.0 <= self.engine_last.0).then_some(&self.engine)
    }

    /// Counts a step, so that a test can tell what a question costs.
    #[inline]
    fn visited(&self) {
        #[cfg(test)]
        self.rows_visited.fetch_add(1, Ordering::Relaxed);
    }
}

/// What the present tree amounts to.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Totals {
    /// Inodes with a name, or without one and in use.
    pub inodes: u64,
    /// Sum of `allocated` over them, in bytes: what several share counts for each.
    pub allocated: u64,
    /// The same in whole pages, but for what fits the log: the last page of an extent is its own, however little of it is used.
    pub padded: u64,
    /// Bytes of content files that foreign events take: no file's, and never given back.
    pub kept: u64,
    /// Bytes of all writes that travelled in their events, since the store was made: some are live, some
    /// are history, and some were taken out of the log again.
    pub inline: u64,
}

/// What a file that takes so many bytes leaves of its last page.
pub(super) const fn padding(bytes: u64) -> u64 {
    if bytes > INLINE_MAX as u64 { bytes.wrapping_neg() % PAGE } else { 0 }
}

impl Totals {
    /// A file takes `after` bytes instead of `before`.
    fn replace(&mut self, before: u64, after: u64) {
        let padded = |bytes: u64| bytes.saturating_add(padding(bytes));
        self.allocated = self.allocated.saturating_sub(before).saturating_add(after);
        self.padded = self.padded.saturating_sub(padded(before)).saturating_add(padded(after));
    }
}
