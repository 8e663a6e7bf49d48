//! From an event to rows: the only place where the tables change.
//!
//! An event is folded in two steps. First [`Fold`] reads what it needs and collects, in a [`Batch`],
//! every row that will change; only this can fail. Then the batch is put into the young layer, and
//! nothing can go wrong any more.
//!
//! Each inode an event touches is a new version of it: `changed` is the event, and `role` says which of
//! the inodes it touched this one is, in the order named at each change below.

mod naming;

use std::ops::ControlFlow;

use super::super::event::{
    Allocation, Change, Data, Event, Ino, Location, Place, Seq, SetAttr, Timestamp, Xattrs,
};
use super::codec::{self, ChunkHead, Node, Reader, Writer};
use super::extents::{
    CHUNK, CHUNK_LEN, CUTS_MAX, Chunk, Cut, Part, ROWS_MIN, SMALL_CHUNKS, What, chunks_of, overlap,
};
use super::key::{self, Key};
use super::pages::{self, PAGED, Page, UNPAGED};
use super::small::Small;
use super::{CAPABILITY, Entry, IndexError, Inode, Rare, Tables, Totals};

const S_IFMT: u32 = 0o170_000;
const S_IFDIR: u32 = 0o040_000;
const ACCESS_ACL: &[u8] = b"system.posix_acl_access";
/// Files end here (2^63 - 1), as everywhere on Linux.
const SIZE_MAX: u64 = i64::MAX.unsigned_abs();
/// Most ranges set aside that one inode remembers; of more, the shortest is forgotten, and writing
/// there counts again.
pub(super) const RESERVES_MAX: usize = 16;
/// Rows or parts of a chunk from which on it is worth a look whether it should be relocated.
const FRAYED: usize = 8;
/// Most inodes that are remembered for it.
const FRAYED_MAX: usize = 1024;
/// Rows of one event for which there is room at the next.
const KEPT_MAX: usize = 1024;

/// The rows one event changes, in the order they are to be changed.
#[derive(Debug, Default)]
pub(super) struct Batch {
    rows: Vec<(Small, Option<Small>, bool)>,
    /// Directory, hash of the name, the name, and what it stands for now.
    names: Vec<(Ino, u64, Small, Option<Entry>)>,
    nodes: Vec<(Ino, Option<Node>)>,
    frayed: Vec<(Ino, u64)>,
}

impl Batch {
    /// Empties it for the next event. What a rare one needed is not kept for those that do not.
    fn clear(&mut self) {
        self.rows.clear();
        self.rows.shrink_to(KEPT_MAX);
        self.names.clear();
        self.nodes.clear();
        self.frayed.clear();
        self.frayed.shrink_to(KEPT_MAX);
    }

    /// For how many rows there is room.
    #[cfg(test)]
    pub(super) const fn room(&self) -> usize {
        self.rows.capacity()
    }
}

/// One event being folded in.
struct Fold<'t> {
    tables: &'t Tables,
    seq: Seq,
    time: Timestamp,
    batch: Batch,
    touched: Vec<Touched>,
    /// Chunks that already have a whole row of this event.
    carried_out: Vec<(u64, Chunk)>,
    /// Open pages as the event leaves them.
    pages: Vec<Page>,
    /// Bytes of content files that no file refers to.
    kept: u64,
    /// Bytes written that are in the log.
    inline: u64,
}

/// An inode's version before the event, and after.
struct Touched {
    old: Option<Node>,
    new: Node,
    ended: bool,
}

impl Tables {
    pub(super) fn fold(
        &mut self,
        event: &Event<'_>,
        payload: Option<Location>,
    ) -> Result<(), IndexError> {
        if event.seq <= self.last || event.seq >= Seq::LIMIT {
            let (seq, last) = (event.seq, self.last);
            return Err(IndexError::Damaged(format!("event {seq} cannot follow event {last}")));
        }
        let batch = std::mem::take(&mut self.scratch);
        let mut fold = Fold {
            tables: self,
            seq: event.seq,
            time: event.time,
            batch,
            touched: Vec::with_capacity(4),
            carried_out: Vec::new(),
            pages: Vec::new(),
            kept: 0,
            inline: 0,
        };
        let mut totals = self.totals;
        let done = fold.change(&event.change, payload);
        fold.finish(&mut totals);
        totals.kept = totals.kept.saturating_add(fold.kept);
        totals.inline = totals.inline.saturating_add(fold.inline);
        let mut batch = fold.batch;
        if done.is_ok() {
            self.last = event.seq;
            self.totals = totals;
            if let Some((key, value)) = self.tail.push(event.time, event.seq) {
                self.young.put(Small::from(&*key), Small::from(&value[..]), true);
            }
            self.absorb(&mut batch);
        }
        batch.clear();
        self.scratch = batch;
        done
    }

    pub(super) fn fold_relocation(
        &mut self,
        ino: Ino,
        offset: u64,
        len: u64,
        location: Location,
    ) -> Result<(), IndexError> {
        let mut batch = std::mem::take(&mut self.scratch);
        let done = self.relocated(ino, offset, len, location, &mut batch);
        if done.is_ok() {
            self.absorb(&mut batch);
        }
        batch.clear();
        self.scratch = batch;
        done
    }

    fn absorb(&mut self, batch: &mut Batch) {
        for (key, value, under) in batch.rows.drain(..) {
            match value {
                Some(value) => self.young.put(key, value, under),
                None => self.young.remove(key),
            }
        }
        for (parent, hash, name, entry) in batch.names.drain(..) {
            self.cache.put_name(parent.0, hash, name, entry);
        }
        for (ino, chunk) in batch.frayed.drain(..) {
            let frayed = self.frayed.get_mut();
            if frayed.len() < FRAYED_MAX || frayed.contains_key(&ino) {
                let (from, to) = frayed.entry(ino).or_insert((chunk, chunk + 1));
                (*from, *to) = ((*from).min(chunk), (*to).max(chunk + 1));
            }
        }
        for (ino, node) in batch.nodes.drain(..) {
            match node {
                Some(node) => self.cache.put_node(ino.0, node),
                None => self.cache.drop_node(ino.0),
            }
        }
    }

    /// Whole rows, at the sequence of each chunk's newest row, with the data of `offset..` elsewhere.
    fn relocated(
        &self,
        ino: Ino,
        offset: u64,
        len: u64,
        location: Location,
        batch: &mut Batch,
    ) -> Result<(), IndexError> {
        let Some(node) = self.node(ino, Seq::NOW)? else { return Ok(()) };
        let end = offset.saturating_add(len).min(node.high);
        let cuts = self.cuts(&node, Seq::NOW)?;
        for (chunk, from, to) in chunks_of(offset, end) {
            let Some(newest) = self.newest(ino, chunk, Seq::NOW)? else { continue };
            let Some(now) = self.resolve(ino, chunk, Seq::NOW, &cuts)? else { continue };
            // A cut made after that row must not show before it was made: older trees see what it hides.
            let then = match self.node(ino, newest.seq)? {
                Some(node) => self.cuts(&node, newest.seq)?,
                None => continue,
            };
            let Some(older) = self.resolve(ino, chunk, newest.seq, &then)? else { continue };
            let base = chunk * CHUNK_LEN;
            let mut chunk_now = Chunk::default();
            for part in now.parts.iter().filter_map(|part| part.clip(from, to)) {
                if let What::At(_) = part.what {
                    let distance = base + u64::from(part.start) - offset;
                    chunk_now
                        .lay_under(Part { what: What::At(location.advance(distance)), ..part });
                }
            }
            for part in older.parts {
                chunk_now.lay_under(part);
            }
            let value = whole_row(&mut chunk_now);
            batch.rows.push((
                Small::from(&*key::chunk(ino, chunk, newest.seq.0)),
                Some(value),
                true,
            ));
        }
        Ok(())
    }
}

fn whole_row(chunk: &mut Chunk) -> Small {
    chunk.simplify();
    let limit = ROWS_MIN + chunk.parts.len() as u64 / 4;
    let head = ChunkHead { whole: true, rows: 0, limit };
    Small::from(&codec::encode_chunk(head, &chunk.parts)[..])
}

impl<'t> Fold<'t> {
    fn change(&mut self, change: &Change<'_>, payload: Option<Location>) -> Result<(), IndexError> {
        match *change {
            Change::Mkfs { mode, uid, gid } => {
                self.make(Ino::ROOT, mode, (uid, gid), 0, 2);
            }
            Change::Create { parent, name, mode, uid, gid, rdev, target, ref xattrs } => {
                self.create(parent, name, mode, (uid, gid), rdev, target, xattrs)?;
            }
            Change::Tmpfile { mode, uid, gid, ref xattrs } => {
                let ino = Ino(self.seq.0);
                self.make(ino, mode, (uid, gid), 0, 0);
                self.put_new(&key::orphan(ino), &[]);
                self.set_xattrs(ino, xattrs)?;
            }
            // Roles: the file, its new directory.
            Change::Link { ino, parent, name } => {
                let time = self.time;
                let file = self.touch(ino)?;
                let orphan = file.inode.nlink == 0;
                file.inode.nlink += 1;
                file.inode.ctime = time;
                let kind = file.inode.mode & S_IFMT;
                if orphan {
                    self.remove(&key::orphan(ino));
                }
                self.name_added(parent, false)?;
                self.set_name(parent, name, ino, kind, false)?;
                self.begin_live(&key::name_of(ino, parent, name), &[])?;
            }
            // Roles: what was named, the directory.
            Change::Unlink { parent, name, ino } => {
                let dir = self.lose_name(ino)?;
                self.name_removed(parent, dir)?;
                self.drop_name(parent, name, ino)?;
            }
            Change::Rename { parent, name, new_parent, new_name, ino, replaced } => {
                self.rename((parent, name), (new_parent, new_name), ino, replaced)?;
            }
            Change::Exchange { parent, name, new_parent, new_name, ino, other } => {
                self.exchange((parent, name), (new_parent, new_name), ino, other)?;
            }
            Change::SetAttr { ino, ref set, acl, drop_capability } => {
                self.set_attributes(ino, set)?;
                match acl {
                    Some([]) => {
                        self.end_live(&key::xattr(ino, ACCESS_ACL))?;
                    }
                    Some(acl) => self.set_xattr(ino, ACCESS_ACL, acl)?,
                    None => (),
                }
                self.drop_capability(ino, drop_capability)?;
            }
            Change::Write { ino, offset, ref data, ends, mode, drop_capability } => {
                self.write(ino, offset, data, ends, payload)?;
                self.modified(ino, mode)?;
                self.drop_capability(ino, drop_capability)?;
            }
            Change::Fallocate { ino, how, offset, len, mode } => {
                let end = self.end_of(offset, len)?;
                match how {
                    Allocation::Reserve { keep_size } => {
                        self.reserve(ino, offset, end, keep_size)?;
                    }
                    Allocation::Punch => self.empty(ino, offset, end)?,
                    Allocation::Zero { keep_size } => self.zero(ino, offset, end, keep_size)?,
                }
                self.modified(ino, mode)?;
            }
            Change::Clone { src, src_offset, dst, dst_offset, len, ends, mode } => {
                self.clone_range((src, src_offset), (dst, dst_offset), len, ends)?;
                self.modified(dst, mode)?;
            }
            Change::SetXattr { ino, name, value, mode } => {
                let time = self.time;
                let inode = &mut self.touch(ino)?.inode;
                inode.ctime = time;
                inode.mode = mode.unwrap_or(inode.mode);
                self.set_xattr(ino, name, value)?;
            }
            Change::RemoveXattr { ino, name } => {
                let time = self.time;
                self.touch(ino)?.inode.ctime = time;
                key::check_name(name, self.seq)?;
                self.end_live(&key::xattr(ino, name))?;
            }
            // Attributes, names and content stay as they are: they count while the inode exists.
            Change::End { ino } => {
                let at = self.touched(ino)?;
                if let Some(touched) = self.touched.get_mut(at) {
                    touched.ended = true;
                }
                self.remove(&key::orphan(ino));
            }
            Change::Foreign(ref foreign) => {
                let (key, value) = super::foreign::row(foreign, self.seq);
                self.put_new(&key, &value);
                self.kept = super::foreign::kept(foreign);
            }
        }
        Ok(())
    }

    /// Puts the inodes' new versions into the batch, their old ones among the dead.
    fn finish(&mut self, totals: &mut Totals) {
        for page in std::mem::take(&mut self.pages) {
            let value = Small::from(&page.encode()[..]);
            self.batch.rows.push((Small::from(&*page.key()), Some(value), true));
        }
        for (role, touched) in std::mem::take(&mut self.touched).into_iter().enumerate() {
            let Touched { old, mut new, ended } = touched;
            let ino = new.inode.ino;
            let key = key::inode(ino);
            if let Some(old) = &old {
                let dead = Small::from(&old.encode()[..]);
                self.batch.rows.push((Small::from(&*key.dead(self.seq.0)), Some(dead), false));
            }
            let before = old.as_ref().map_or(0, |old| old.inode.allocated);
            if ended {
                self.batch.rows.push((Small::from(&*key), None, false));
                self.batch.nodes.push((ino, None));
                totals.inodes = totals.inodes.saturating_sub(1);
                totals.replace(before, 0);
                continue;
            }
            new.inode.changed = self.seq;
            new.inode.role = role.min(7) as u8;
            totals.inodes += u64::from(old.is_none());
            totals.replace(before, new.inode.allocated);
            let value = Small::from(&new.encode()[..]);
            self.batch.rows.push((Small::from(&*key), Some(value), old.is_some()));
            self.batch.nodes.push((ino, Some(new)));
        }
    }

    fn damaged(&self, what: &str) -> IndexError {
        IndexError::Damaged(format!("event {} {what}", self.seq))
    }

    fn touched(&mut self, ino: Ino) -> Result<usize, IndexError> {
        if let Some(at) = self.touched.iter().position(|touched| touched.new.inode.ino == ino) {
            return Ok(at);
        }
        let Some(node) = self.tables.node(ino, Seq::NOW)? else {
            return Err(self.damaged(&format!("changes inode {ino}, which is not there")));
        };
        self.touched.push(Touched { old: Some(node.clone()), new: node, ended: false });
        Ok(self.touched.len() - 1)
    }

    /// The inode as the event leaves it.
    fn touch(&mut self, ino: Ino) -> Result<&mut Node, IndexError> {
        let at = self.touched(ino)?;
        match self.touched.get_mut(at) {
            Some(touched) => Ok(&mut touched.new),
            None => Err(IndexError::Damaged(format!("inode {ino} is not there"))),
        }
    }

    fn make(&mut self, ino: Ino, mode: u32, (uid, gid): (u32, u32), rdev: u64, nlink: u32) {
        let time = self.time;
        let inode = Inode {
            ino,
            mode,
            nlink,
            uid,
            gid,
            rdev,
            size: 0,
            allocated: 0,
            entries: 0,
            atime: time,
            mtime: time,
            ctime: time,
            btime: time,
            changed: self.seq,
            role: 0,
        };
        let new =
            Node { inode, high: 0, cut: false, reserves: Vec::new(), changes: Default::default() };
        self.touched.push(Touched { old: None, new, ended: false });
    }

    // Rows.

    /// A row whose key no layer has.
    fn put_new(&mut self, key: &Key, value: &[u8]) {
        self.batch.rows.push((Small::from(&**key), Some(Small::from(value)), false));
    }

    fn remove(&mut self, key: &Key) {
        self.batch.rows.push((Small::from(&**key), None, false));
    }

    /// Gives a key with two lives a new value from this event on.
    fn set_live(&mut self, key: &Key, value: &[u8]) -> Result<(), IndexError> {
        let existed = self.bury(key)?;
        self.put_live(key, value, existed)
    }

    /// The same for a key that has no value now, as the event itself says: nothing is looked up. Reading the log back
    /// would have to fetch a page of the index for each, which in service has just been asked for.
    fn begin_live(&mut self, key: &Key, value: &[u8]) -> Result<(), IndexError> {
        debug_assert!(self.tables.row(key)?.is_none(), "event {} adds what is there", self.seq);
        self.put_live(key, value, false)
    }

    fn put_live(&mut self, key: &Key, value: &[u8], existed: bool) -> Result<(), IndexError> {
        let mut new = Writer::born(self.seq);
        new.0.extend_from_slice(value);
        self.batch.rows.push((Small::from(&**key), Some(Small::from(&new.0[..])), existed));
        self.member_changed(key, None)
    }

    /// Ends a key's live value, if it has one.
    fn end_live(&mut self, key: &Key) -> Result<bool, IndexError> {
        let existed = self.bury(key)?;
        if existed {
            self.remove(key);
        }
        Ok(existed)
    }

    /// Ends a key's value, which is known to be `live`.
    fn end_known(&mut self, key: &Key, live: &[u8]) -> Result<(), IndexError> {
        self.bury_known(key, live)?;
        self.remove(key);
        Ok(())
    }

    /// Copies the live value to the dead table.
    fn bury(&mut self, key: &Key) -> Result<bool, IndexError> {
        let tables = self.tables;
        let Some(live) = tables.row(key)? else { return Ok(false) };
        Reader::born(&live)?;
        self.bury_known(key, &live)?;
        Ok(true)
    }

    /// The same for a value that is known without having been looked up.
    fn bury_known(&mut self, key: &Key, live: &[u8]) -> Result<(), IndexError> {
        // In unit tests alone: elsewhere a row may be damaged, and that is no reason to panic.
        #[cfg(test)]
        assert_eq!(self.tables.row(key)?.as_deref(), Some(live), "event {}", self.seq);
        let dead = Small::from(&*key.dead(self.seq.0));
        // Two names that change places each lose what they had before they get the other's.
        if self.batch.rows.iter().any(|(known, ..)| *known == dead) {
            return Ok(());
        }
        self.batch.rows.push((dead, Some(Small::from(live)), false));
        self.member_changed(key, Some(live))
    }

    /// Notes in the pages of the set `key` is of, if it is of one, that its live value `died`, or that it has a new one.
    fn member_changed(&mut self, key: &Key, died: Option<&[u8]>) -> Result<(), IndexError> {
        let Some((set, owner, hash, element)) = pages::member(key) else { return Ok(()) };
        let at = self.touched(owner)?;
        let Some(touched) = self.touched.get_mut(at) else { return Ok(()) };
        let number = usize::from(set.number());
        let count = |node: &Node| node.changes.get(number).copied().unwrap_or(0);
        let before = touched.old.as_ref().map_or(0, count);
        let now = if before < UNPAGED { UNPAGED.min(count(&touched.new) + 1) } else { PAGED };
        if let Some(changes) = touched.new.changes.get_mut(number) {
            *changes = now;
        }
        if before < UNPAGED {
            return Ok(());
        }
        if !self.pages.iter().any(|page| page.holds(set, owner, hash)) {
            let paged = before == PAGED;
            let Self { tables, pages, seq, .. } = self;
            let busy = |page: &Page| pages.iter().any(|other| other.key()[..] == page.key()[..]);
            let turn = tables.turn_page((set, owner, hash), paged, *seq, busy)?;
            pages.extend(turn.open);
            let closed = turn.closed.iter();
            let rows =
                closed.map(|(key, row)| (Small::from(&**key), Some(Small::from(&row[..])), false));
            self.batch.rows.extend(rows);
            if let Some(gone) = turn.gone {
                self.remove(&gone);
            }
        }
        let page = self.pages.iter_mut().find(|page| page.holds(set, owner, hash));
        match (page, died) {
            (Some(page), Some(value)) => page.died(element, value, self.seq),
            (Some(page), None) => {
                page.born();
                Ok(())
            }
            (None, _) => {
                Err(IndexError::Damaged(format!("no page of inode {owner} fits an element")))
            }
        }
    }

    // Attributes.

    fn set_attributes(&mut self, ino: Ino, set: &SetAttr) -> Result<(), IndexError> {
        if let Some(size) = set.size {
            self.resize(ino, size)?;
        }
        let time = self.time;
        let inode = &mut self.touch(ino)?.inode;
        let resized = set.size.is_some_and(|size| size != inode.size);
        inode.size = set.size.unwrap_or(inode.size);
        inode.mode = set.mode.unwrap_or(inode.mode);
        inode.uid = set.uid.unwrap_or(inode.uid);
        inode.gid = set.gid.unwrap_or(inode.gid);
        inode.atime = set.atime.unwrap_or(inode.atime);
        inode.mtime = set.mtime.unwrap_or(if resized { time } else { inode.mtime });
        inode.ctime = time;
        Ok(())
    }

    /// The content of `ino` changed.
    fn modified(&mut self, ino: Ino, mode: Option<u32>) -> Result<(), IndexError> {
        let time = self.time;
        let inode = &mut self.touch(ino)?.inode;
        (inode.mtime, inode.ctime) = (time, time);
        inode.mode = mode.unwrap_or(inode.mode);
        Ok(())
    }

    fn set_xattr(&mut self, ino: Ino, name: &[u8], value: &[u8]) -> Result<(), IndexError> {
        key::check_name(name, self.seq)?;
        if let Some(rare) = Rare::of(name) {
            // Also right if this event comes to nothing: then it is looked up again.
            self.tables.lacking.lock().remove(&(ino, rare));
        }
        self.set_live(&key::xattr(ino, name), value)
    }

    fn set_xattrs(&mut self, ino: Ino, xattrs: &Xattrs<'_>) -> Result<(), IndexError> {
        xattrs.iter().try_for_each(|(name, value)| self.set_xattr(ino, name, value))
    }

    fn drop_capability(&mut self, ino: Ino, drop: bool) -> Result<(), IndexError> {
        if drop {
            self.end_live(&key::xattr(ino, CAPABILITY))?;
        }
        Ok(())
    }

    // Content.

    fn end_of(&self, offset: u64, len: u64) -> Result<u64, IndexError> {
        let end = offset.checked_add(len).filter(|&end| end <= SIZE_MAX);
        end.ok_or_else(|| self.damaged("reaches beyond the largest file"))
    }

    fn write(
        &mut self,
        ino: Ino,
        offset: u64,
        data: &Data<'_>,
        ends: bool,
        payload: Option<Location>,
    ) -> Result<(), IndexError> {
        let location = match data.place {
            Place::Inline(bytes) => {
                self.inline += bytes.len() as u64;
                payload
            }
            Place::Extent { location, .. } => Some(location),
        };
        let location = location.ok_or_else(|| self.damaged("has bytes, but no place for them"))?;
        let end = self.end_of(offset, data.len())?;
        if ends && offset < end {
            return self.fill_to_its_end(ino, offset, end, What::At(location));
        }
        self.fill(ino, offset, end, What::At(location))?;
        let inode = &mut self.touch(ino)?.inode;
        if offset < end {
            inode.size = inode.size.max(end);
        }
        Ok(())
    }

    /// Makes `start..end` data, with which the file ends.
    fn fill_to_its_end(
        &mut self,
        ino: Ino,
        start: u64,
        end: u64,
        what: What,
    ) -> Result<(), IndexError> {
        let node = self.touch(ino)?.clone();
        let held = self.tables.count(&node, start, u64::MAX)?;
        let reserved = overlap(&node.reserves, start, u64::MAX);
        // A row made here lies over a cut made here. So the cut is of whole chunks, and what is behind the end in the
        // last one is a hole in its row.
        self.void(&node, end.next_multiple_of(CHUNK_LEN), u64::MAX)?;
        for (chunk, from, to) in chunks_of(start, end) {
            let base = chunk * CHUNK_LEN;
            let what = what.advance(base + u64::from(from) - start);
            let mut parts = vec![Part { start: from, len: to - from, what }];
            if to < CHUNK && base + u64::from(to) < node.high {
                parts.push(Part { start: to, len: CHUNK - to, what: What::Hole });
            }
            self.lay(&node, chunk, &parts)?;
        }
        let node = self.touch(ino)?;
        node.inode.allocated =
            (node.inode.allocated + (end - start)).saturating_sub(held + reserved);
        exclude(&mut node.reserves, start, u64::MAX);
        node.high = end;
        node.inode.size = end;
        Ok(())
    }

    /// Makes `start..end` data or zero.
    fn fill(&mut self, ino: Ino, start: u64, end: u64, what: What) -> Result<(), IndexError> {
        if start >= end {
            return Ok(());
        }
        let node = self.touch(ino)?.clone();
        let held = self.tables.count(&node, start, end)?;
        for (chunk, from, to) in chunks_of(start, end) {
            let distance = (chunk * CHUNK_LEN + u64::from(from)) - start;
            let part = Part { start: from, len: to - from, what: what.advance(distance) };
            self.lay(&node, chunk, &[part])?;
        }
        let reserved = overlap(&node.reserves, start, end);
        let node = self.touch(ino)?;
        node.inode.allocated += (end - start).saturating_sub(held + reserved);
        node.high = node.high.max(end);
        Ok(())
    }

    /// Lays this event's `parts` (ascending, apart) over what a chunk was before.
    fn lay(&mut self, node: &Node, chunk: u64, parts: &[Part]) -> Result<(), IndexError> {
        let (ino, limit) = (node.inode.ino, ROWS_MIN);
        let full = parts.iter().map(|part| part.len).sum::<u32>() == CHUNK;
        let carried_out = self.carried_out.iter().find(|(other, _)| *other == chunk);
        let value = if full || carried_out.is_some() {
            let mut whole = Chunk::default();
            let under = carried_out.map_or(&[][..], |(_, chunk)| &chunk.parts);
            parts.iter().chain(under).for_each(|&part| whole.lay_under(part));
            whole_row(&mut whole)
        } else if chunk * CHUNK_LEN >= node.high {
            // Nothing there, or nothing but what a cut made void.
            let head = ChunkHead { whole: false, rows: 1, limit };
            Small::from(&codec::encode_chunk(head, parts)[..])
        } else {
            match self.tables.newest(ino, chunk, Seq::NOW)? {
                None => {
                    let head = ChunkHead { whole: false, rows: 1, limit };
                    Small::from(&codec::encode_chunk(head, parts)[..])
                }
                Some(newest) if newest.head.rows + 1 < newest.head.limit => {
                    let rows = newest.head.rows + 1;
                    if rows == FRAYED as u64 {
                        self.batch.frayed.push((ino, chunk));
                    }
                    let head = ChunkHead { whole: false, rows, limit: newest.head.limit };
                    Small::from(&codec::encode_chunk(head, parts)[..])
                }
                Some(_) => {
                    let cuts = self.tables.cuts(node, Seq::NOW)?;
                    let under = self.tables.resolve(ino, chunk, Seq::NOW, &cuts)?;
                    let mut whole = Chunk::default();
                    let under = under.unwrap_or_default().parts;
                    parts.iter().chain(&under).for_each(|&part| whole.lay_under(part));
                    let row = whole_row(&mut whole);
                    if whole.parts.len() >= FRAYED {
                        self.batch.frayed.push((ino, chunk));
                    }
                    row
                }
            }
        };
        self.batch.rows.push((
            Small::from(&*key::chunk(ino, chunk, self.seq.0)),
            Some(value),
            false,
        ));
        Ok(())
    }

    /// Everything from `size` on goes, unless the file grows.
    fn resize(&mut self, ino: Ino, size: u64) -> Result<(), IndexError> {
        if size > SIZE_MAX {
            return Err(self.damaged("sets a size beyond the largest file"));
        }
        let node = self.touch(ino)?;
        if size <= node.inode.size {
            self.empty(ino, size, u64::MAX)?;
        }
        Ok(())
    }

    /// Makes `start..end` a hole and gives back what was set aside there.
    fn empty(&mut self, ino: Ino, start: u64, end: u64) -> Result<(), IndexError> {
        let node = self.touch(ino)?.clone();
        let held = self.tables.count(&node, start, end)?;
        let reserved = overlap(&node.reserves, start, end);
        self.void(&node, start, end)?;
        let node = self.touch(ino)?;
        node.inode.allocated = node.inode.allocated.saturating_sub(held + reserved);
        exclude(&mut node.reserves, start, end);
        Ok(())
    }

    /// Makes the content of `start..end` a hole: by parts where the range is small, else by a cut.
    fn void(&mut self, node: &Node, start: u64, end: u64) -> Result<(), IndexError> {
        let held_end = end.min(node.high);
        if start >= held_end {
            return Ok(());
        }
        let small = end <= SIZE_MAX && (held_end - start).div_ceil(CHUNK_LEN) <= SMALL_CHUNKS;
        if !small {
            return self.cut(node, start, end);
        }
        for (chunk, from, to) in chunks_of(start, held_end) {
            // Where no row is there is a hole already.
            if self.tables.newest(node.inode.ino, chunk, Seq::NOW)?.is_some() {
                self.lay(node, chunk, &[Part { start: from, len: to - from, what: What::Hole }])?;
            }
        }
        Ok(())
    }

    fn cut(&mut self, node: &Node, start: u64, end: u64) -> Result<(), IndexError> {
        let ino = node.inode.ino;
        let mut cuts = self.tables.cuts(node, Seq::NOW)?;
        cuts.retain(|cut| cut.start < start || cut.end > end);
        cuts.push(Cut { start, end, seq: self.seq });
        while cuts.len() > CUTS_MAX {
            self.carry_out_cheapest(node, &mut cuts)?;
        }
        self.set_live(&key::cuts(ino), &codec::encode_cuts(&cuts))?;
        let node = self.touch(ino)?;
        node.cut = true;
        if end >= node.high {
            node.high = node.high.min(start);
        }
        Ok(())
    }

    /// Replaces the old cut that covers least by whole rows of the chunks it empties.
    fn carry_out_cheapest(&mut self, node: &Node, cuts: &mut Vec<Cut>) -> Result<(), IndexError> {
        // Where a newer cut covers the rest of it, a cut matters only up to there. `high` is no bound: rows
        // that a cut made void lie behind it too, and would be seen again.
        let reach = |at: usize, cut: &Cut| {
            let newer = cuts.iter().skip(at + 1);
            let covered = newer.filter(|newer| newer.end >= cut.end && newer.start > cut.start);
            covered.map(|newer| newer.start).min().unwrap_or(cut.end)
        };
        let old = cuts.len().saturating_sub(1);
        let reaches = cuts.iter().take(old).enumerate().map(|(at, cut)| (at, cut, reach(at, cut)));
        let cheapest = reaches.min_by_key(|(_, cut, reach)| reach.saturating_sub(cut.start));
        let Some((at, &Cut { start, .. }, end)) = cheapest else { return Ok(()) };
        let ino = node.inode.ino;
        let mut chunk = start / CHUNK_LEN;
        while chunk < end.div_ceil(CHUNK_LEN) {
            let Some(next) = self.tables.next_chunk(ino, chunk)? else { break };
            chunk = next;
            let done = self.carried_out.iter().any(|(other, _)| *other == chunk);
            if chunk < end.div_ceil(CHUNK_LEN) && !done {
                let found = self.tables.resolve(ino, chunk, Seq::NOW, cuts)?;
                let mut whole = found.unwrap_or_default();
                let value = whole_row(&mut whole);
                let key = Small::from(&*key::chunk(ino, chunk, self.seq.0));
                self.batch.rows.push((key, Some(value), false));
                self.carried_out.push((chunk, whole));
            }
            chunk += 1;
        }
        cuts.remove(at);
        Ok(())
    }

    fn reserve(
        &mut self,
        ino: Ino,
        start: u64,
        end: u64,
        keep_size: bool,
    ) -> Result<(), IndexError> {
        let node = self.touch(ino)?.clone();
        if (end - start).div_ceil(CHUNK_LEN) <= SMALL_CHUNKS {
            self.fill_holes(&node, start, end)?;
        } else {
            let held = self.tables.count(&node, start, end)?;
            let reserved = overlap(&node.reserves, start, end);
            let node = self.touch(ino)?;
            node.inode.allocated += (end - start).saturating_sub(held + reserved);
            include(&mut node.reserves, start, end);
        }
        self.grow(ino, end, keep_size)
    }

    /// Makes zeros of the holes in `start..end` that are not set aside.
    fn fill_holes(&mut self, node: &Node, start: u64, end: u64) -> Result<(), IndexError> {
        if node.is_dense() && end <= node.high {
            return Ok(());
        }
        let cuts = self.tables.cuts(node, Seq::NOW)?;
        let mut added = 0;
        for (chunk, from, to) in chunks_of(start, end) {
            let base = chunk * CHUNK_LEN;
            let mut found = Chunk::default();
            if base < node.high {
                let below = self.tables.resolve(node.inode.ino, chunk, Seq::NOW, &cuts)?;
                let kept = below.unwrap_or_default().parts;
                kept.into_iter().filter(|part| part.what != What::Hole).for_each(|part| {
                    found.lay_under(part);
                });
            }
            for &(start, end) in &node.reserves {
                let start = start.saturating_sub(base).min(CHUNK_LEN) as u32;
                let end = end.saturating_sub(base).min(CHUNK_LEN) as u32;
                // Marks the place as taken; it is not laid.
                found.lay_under(Part { start, len: end - start, what: What::Hole });
            }
            let zeros = found.gaps(from, to);
            if !zeros.is_empty() {
                added += zeros.iter().map(|part| u64::from(part.len)).sum::<u64>();
                self.lay(node, chunk, &zeros)?;
            }
        }
        let ino = node.inode.ino;
        let node = self.touch(ino)?;
        node.inode.allocated += added;
        if added > 0 {
            node.high = node.high.max(end);
        }
        Ok(())
    }

    fn zero(&mut self, ino: Ino, start: u64, end: u64, keep_size: bool) -> Result<(), IndexError> {
        if (end - start).div_ceil(CHUNK_LEN) <= SMALL_CHUNKS {
            self.fill(ino, start, end, What::Zero)?;
        } else {
            self.empty(ino, start, end)?;
            let node = self.touch(ino)?;
            node.inode.allocated += end - start;
            include(&mut node.reserves, start, end);
        }
        self.grow(ino, end, keep_size)
    }

    fn grow(&mut self, ino: Ino, end: u64, keep_size: bool) -> Result<(), IndexError> {
        let inode = &mut self.touch(ino)?.inode;
        if !keep_size {
            inode.size = inode.size.max(end);
        }
        Ok(())
    }

    fn clone_range(
        &mut self,
        (src, src_offset): (Ino, u64),
        (dst, dst_offset): (Ino, u64),
        len: u64,
        ends: bool,
    ) -> Result<(), IndexError> {
        let (src_end, dst_end) = (self.end_of(src_offset, len)?, self.end_of(dst_offset, len)?);
        // Where there is nothing to copy, nothing ends.
        let ends = ends && len > 0;
        // Up to where what the destination was goes.
        let reach = if ends { u64::MAX } else { dst_end };
        let Some(source) = self.tables.node(src, Seq::NOW)? else {
            return Err(self.damaged(&format!("copies from inode {src}, which is not there")));
        };
        // What reads as zeros in the source becomes a hole, whether space is set aside for it or not.
        let mut pieces: Vec<(u64, u64, Location)> = Vec::new();
        self.tables.pieces(
            &source,
            (src_offset, src_end),
            Seq::NOW,
            u64::MAX,
            |at, len, what| {
                let What::At(location) = what else { return ControlFlow::Continue(()) };
                match pieces.last_mut() {
                    // It goes on there as here. What is noted down of it is to be no longer than a chunk: see `Tables::shared`.
                    Some((begin, known, first))
                        if *begin + *known == at
                            && first.advance(*known) == location
                            && *known + len <= CHUNK_LEN =>
                    {
                        *known += len;
                    }
                    _ => pieces.push((at, len, location)),
                }
                ControlFlow::Continue(())
            },
        )?;
        let before = self.touch(dst)?.clone();
        let held = self.tables.count(&before, dst_offset, reach)?;
        let reserved = overlap(&before.reserves, dst_offset, reach);
        let large = len.div_ceil(CHUNK_LEN) > SMALL_CHUNKS;
        if large && dst_offset < before.high {
            self.cut(&before, dst_offset, reach)?;
        } else if ends {
            // As in `fill_to_its_end`.
            self.void(&before, dst_end.next_multiple_of(CHUNK_LEN), u64::MAX)?;
        }
        let mut chunks: Vec<(u64, Vec<Part>)> = Vec::new();
        let (mut added, mut high) = (0, 0);
        for (at, len, location) in pieces {
            let (start, end) = (at - src_offset + dst_offset, at - src_offset + dst_offset + len);
            added += len;
            high = end;
            for (ino, offset) in [(src, at), (dst, start)] {
                let key = key::shared(location, ino, offset);
                // A shorter one that begins at the same byte takes nothing away from it.
                let known = match self.tables.row(&key)? {
                    Some(row) => Reader(&row).number()?,
                    None => 0,
                };
                let mut value = Writer::default();
                value.number(len.max(known));
                self.batch.rows.push((Small::from(&*key), Some(Small::from(&value.0[..])), true));
            }
            for (chunk, from, to) in chunks_of(start, end) {
                let distance = chunk * CHUNK_LEN + u64::from(from) - start;
                let what = What::At(location.advance(distance));
                let part = Part { start: from, len: to - from, what };
                match chunks.last_mut().filter(|(last, _)| *last == chunk) {
                    Some((_, parts)) => parts.push(part),
                    None => chunks.push((chunk, vec![part])),
                }
            }
        }
        // What the source does not fill is a hole in the destination: a cut says so of whole chunks, but a
        // row made here lies over the cut and must say so itself.
        if !large {
            for (chunk, ..) in chunks_of(dst_offset, dst_end) {
                if let Err(at) = chunks.binary_search_by_key(&chunk, |(chunk, _)| *chunk) {
                    chunks.insert(at, (chunk, Vec::new()));
                }
            }
        }
        for (chunk, parts) in chunks {
            let base = chunk * CHUNK_LEN;
            let from = dst_offset.saturating_sub(base).min(CHUNK_LEN) as u32;
            let to = reach.saturating_sub(base).min(CHUNK_LEN) as u32;
            let mut laid = Chunk::default();
            parts.into_iter().for_each(|part| laid.lay_under(part));
            laid.lay_under(Part { start: from, len: to - from, what: What::Hole });
            self.lay(&before, chunk, &laid.parts)?;
        }
        let node = self.touch(dst)?;
        node.inode.allocated = (node.inode.allocated + added).saturating_sub(held + reserved);
        exclude(&mut node.reserves, dst_offset, reach);
        if ends {
            node.high = node.high.min(dst_offset).max(high);
            node.inode.size = dst_end;
            return Ok(());
        }
        node.high = node.high.max(high);
        if len > 0 {
            node.inode.size = node.inode.size.max(dst_end);
        }
        Ok(())
    }
}

/// Adds a range to ranges that are ascending and apart.
pub(super) fn include(ranges: &mut Vec<(u64, u64)>, mut start: u64, mut end: u64) {
    ranges.retain(|&(from, to)| {
        let apart = to < start || from > end;
        if !apart {
            (start, end) = (start.min(from), end.max(to));
        }
        apart
    });
    let at = ranges.partition_point(|&(from, _)| from < start);
    ranges.insert(at, (start, end));
    forget_shortest(ranges);
}

/// Takes a range out of ranges that are ascending and apart.
pub(super) fn exclude(ranges: &mut Vec<(u64, u64)>, start: u64, end: u64) {
    let pieces = |&(from, to): &(u64, u64)| [(from, to.min(start)), (from.max(end), to)];
    let left = ranges.iter().flat_map(pieces).filter(|(from, to)| from < to);
    *ranges = left.collect();
    forget_shortest(ranges);
}

fn forget_shortest(ranges: &mut Vec<(u64, u64)>) {
    while ranges.len() > RESERVES_MAX {
        let shortest = ranges.iter().enumerate().min_by_key(|(_, (from, to))| to - from);
        let Some((at, _)) = shortest else { break };
        ranges.remove(at);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_set_aside_join_and_split() {
        let mut ranges = Vec::new();
        include(&mut ranges, 10, 20);
        include(&mut ranges, 30, 40);
        assert_eq!(ranges, [(10, 20), (30, 40)]);
        include(&mut ranges, 20, 30);
        assert_eq!(ranges, [(10, 40)]);
        exclude(&mut ranges, 15, 20);
        assert_eq!(ranges, [(10, 15), (20, 40)]);
        exclude(&mut ranges, 0, 100);
        assert_eq!(ranges, []);
    }
}
