//! A filesystem as simple as it can be, to compare the real one with.
//!
//! Every byte of a file is a hole, zero (set aside) or data; every name is an entry in one map. A
//! clone of the whole model after each event is the answer to every question about the past.

use std::collections::BTreeMap;
use std::sync::Arc;

use lighthouse_fuse::store::event::{Allocation, Change, Event, Ino, Location, Place, Seq};
use lighthouse_fuse::store::index::{Entry, Inode, Stretch};

const S_IFMT: u32 = 0o170_000;
const S_IFDIR: u32 = 0o040_000;

/// A whole tree.
#[derive(Clone, Debug, Default)]
pub(crate) struct Model {
    pub(crate) inodes: BTreeMap<Ino, Arc<Node>>,
    pub(crate) names: BTreeMap<(Ino, Vec<u8>), Entry>,
}

/// One inode.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) inode: Inode,
    pub(crate) target: Option<Vec<u8>>,
    pub(crate) xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// What is no hole: ascending, apart.
    pub(crate) content: Vec<Run>,
}

/// Bytes that are data (`at` where) or zero.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Run {
    pub(crate) start: u64,
    pub(crate) end: u64,
    pub(crate) at: Option<Location>,
}

impl Node {
    fn set(&mut self, start: u64, end: u64, what: Option<Option<Location>>) {
        if start >= end {
            return;
        }
        let mut runs = Vec::new();
        for run in &self.content {
            for (from, to) in [(run.start, run.end.min(start)), (run.start.max(end), run.end)] {
                if from < to {
                    let at = run.at.map(|at| at.advance(from - run.start));
                    runs.push(Run { start: from, end: to, at });
                }
            }
        }
        runs.extend(what.map(|at| Run { start, end, at }));
        runs.sort_by_key(|run| run.start);
        self.content = runs;
        self.inode.allocated = self.content.iter().map(|run| run.end - run.start).sum();
    }

    /// Content was brought up to `end`, where the file `ends` or may go on.
    fn reach(&mut self, end: u64, ends: bool) {
        if ends {
            self.set(end, u64::MAX, None);
            self.inode.size = end;
        }
        self.inode.size = self.inode.size.max(end);
    }

    fn fill_holes(&mut self, start: u64, end: u64) {
        let (mut from, mut gaps) = (start, Vec::new());
        for run in &self.content {
            if run.end > start && run.start < end {
                gaps.push((from, run.start));
                from = run.end;
            }
        }
        gaps.push((from, end));
        for (from, to) in gaps {
            self.set(from, to, Some(None));
        }
    }

    /// Stretches of a range, joined where they lie side by side.
    pub(crate) fn stretches(&self, offset: u64, len: u64) -> Vec<Stretch> {
        let end = offset + len;
        let mut out = Vec::new();
        let mut done = offset;
        for run in &self.content {
            let (from, to) = (run.start.max(offset), run.end.min(end));
            if from < to {
                out.push(Stretch { offset: done, len: from - done, at: None });
                let at = run.at.map(|at| at.advance(from - run.start));
                out.push(Stretch { offset: from, len: to - from, at });
                done = to;
            }
        }
        out.push(Stretch { offset: done, len: end - done, at: None });
        join(out)
    }

    /// `lseek` with `SEEK_DATA` or `SEEK_HOLE`.
    pub(crate) fn seek(&self, offset: u64, hole: bool) -> Option<u64> {
        let size = self.inode.size;
        if offset >= size {
            return None;
        }
        let mut at = offset;
        for stretch in self.stretches(offset, size - offset) {
            if stretch.at.is_none() == hole {
                return Some(at);
            }
            at += stretch.len;
        }
        hole.then_some(size)
    }
}

/// Joins stretches that lie side by side and drops empty ones.
pub(crate) fn join(stretches: Vec<Stretch>) -> Vec<Stretch> {
    let mut out: Vec<Stretch> = Vec::new();
    for next in stretches.into_iter().filter(|stretch| stretch.len > 0) {
        match out.last_mut() {
            Some(last)
                if match (last.at, next.at) {
                    (Some(one), Some(two)) => one.advance(last.len) == two,
                    (None, None) => true,
                    _ => false,
                } =>
            {
                last.len += next.len;
            }
            _ => out.push(next),
        }
    }
    out
}

impl Model {
    pub(crate) fn node(&self, ino: Ino) -> Option<&Node> {
        self.inodes.get(&ino).map(Arc::as_ref)
    }

    pub(crate) fn entry(&self, parent: Ino, name: &[u8]) -> Option<Entry> {
        self.names.get(&(parent, name.to_vec())).copied()
    }

    pub(crate) fn entries(&self, parent: Ino) -> Vec<(Vec<u8>, Entry)> {
        let of = self.names.iter().filter(|((dir, _), _)| *dir == parent);
        of.map(|((_, name), entry)| (name.clone(), *entry)).collect()
    }

    pub(crate) fn names_of(&self, ino: Ino) -> Vec<(Ino, Vec<u8>)> {
        let of = self.names.iter().filter(|(_, entry)| entry.ino == ino);
        of.map(|(name, _)| name.clone()).collect()
    }

    pub(crate) fn orphans(&self) -> Vec<Ino> {
        let orphan = |node: &&Arc<Node>| node.inode.nlink == 0;
        self.inodes.values().filter(orphan).map(|node| node.inode.ino).collect()
    }

    /// Folds in one event the plain way.
    pub(crate) fn apply(&mut self, event: &Event<'_>, payload: Option<Location>) {
        let mut fold = Fold { model: self, event, touched: Vec::new() };
        fold.change(payload);
        for (role, ino) in fold.touched.clone().into_iter().enumerate() {
            if let Some(node) = self.inodes.get_mut(&ino) {
                let node = Arc::make_mut(node);
                node.inode.changed = event.seq;
                node.inode.role = role as u8;
            }
        }
    }
}

struct Fold<'m, 'e> {
    model: &'m mut Model,
    event: &'e Event<'e>,
    touched: Vec<Ino>,
}

impl Fold<'_, '_> {
    fn touch(&mut self, ino: Ino) -> &mut Node {
        if !self.touched.contains(&ino) {
            self.touched.push(ino);
        }
        let node = self.model.inodes.get_mut(&ino).expect("the test makes events that fit");
        Arc::make_mut(node)
    }

    fn make(&mut self, ino: Ino, mode: u32, uid: u32, gid: u32, nlink: u32) -> &mut Node {
        let time = self.event.time;
        let inode = Inode {
            ino,
            mode,
            nlink,
            uid,
            gid,
            rdev: 0,
            size: 0,
            allocated: 0,
            entries: 0,
            atime: time,
            mtime: time,
            ctime: time,
            btime: time,
            changed: self.event.seq,
            role: 0,
        };
        let node = Node { inode, target: None, xattrs: BTreeMap::new(), content: Vec::new() };
        self.model.inodes.insert(ino, Arc::new(node));
        self.touch(ino)
    }

    fn is_dir(&self, ino: Ino) -> bool {
        self.model.inodes[&ino].inode.mode & S_IFMT == S_IFDIR
    }

    /// `by`: 1 for a name more, -1 for one less.
    fn entries(&mut self, parent: Ino, dir: bool, by: i64) {
        let time = self.event.time;
        let inode = &mut self.touch(parent).inode;
        inode.entries = inode.entries.checked_add_signed(by).expect("counts fit");
        if dir {
            inode.nlink = inode.nlink.checked_add_signed(by as i32).expect("counts fit");
        }
        inode.mtime = time;
        inode.ctime = time;
    }

    fn bind(&mut self, parent: Ino, name: &[u8], ino: Ino) {
        let kind = self.model.inodes[&ino].inode.mode & S_IFMT;
        let entry = Entry { ino, kind, since: self.event.seq };
        self.model.names.insert((parent, name.to_vec()), entry);
    }

    fn lose_name(&mut self, ino: Ino) {
        let (dir, time) = (self.is_dir(ino), self.event.time);
        let inode = &mut self.touch(ino).inode;
        inode.nlink = if dir { 0 } else { inode.nlink - 1 };
        inode.ctime = time;
    }

    fn modified(&mut self, ino: Ino, mode: Option<u32>) {
        let time = self.event.time;
        let inode = &mut self.touch(ino).inode;
        inode.mtime = time;
        inode.ctime = time;
        inode.mode = mode.unwrap_or(inode.mode);
    }

    fn change(&mut self, payload: Option<Location>) {
        let time = self.event.time;
        let new = Ino(self.event.seq.0);
        match self.event.change.clone() {
            Change::Mkfs { mode, uid, gid } => {
                self.make(Ino::ROOT, mode, uid, gid, 2);
            }
            Change::Create { parent, name, mode, uid, gid, rdev, target, xattrs } => {
                let dir = mode & S_IFMT == S_IFDIR;
                let node = self.make(new, mode, uid, gid, if dir { 2 } else { 1 });
                node.inode.rdev = rdev;
                if !target.is_empty() {
                    node.inode.size = target.len() as u64;
                    node.target = Some(target.to_vec());
                }
                for (name, value) in xattrs {
                    node.xattrs.insert(name.to_vec(), value.to_vec());
                }
                self.entries(parent, dir, 1);
                self.bind(parent, name, new);
            }
            Change::Tmpfile { mode, uid, gid, xattrs } => {
                let node = self.make(new, mode, uid, gid, 0);
                for (name, value) in xattrs {
                    node.xattrs.insert(name.to_vec(), value.to_vec());
                }
            }
            Change::Link { ino, parent, name } => {
                let inode = &mut self.touch(ino).inode;
                inode.nlink += 1;
                inode.ctime = time;
                self.entries(parent, false, 1);
                self.bind(parent, name, ino);
            }
            Change::Unlink { parent, name, ino } => {
                self.lose_name(ino);
                let dir = self.is_dir(ino);
                self.entries(parent, dir, -1);
                self.model.names.remove(&(parent, name.to_vec()));
            }
            Change::Rename { parent, name, new_parent, new_name, ino, replaced } => {
                self.touch(ino).inode.ctime = time;
                let dir = self.is_dir(ino);
                self.entries(parent, dir, -1);
                self.entries(new_parent, dir, 1);
                self.model.names.remove(&(parent, name.to_vec()));
                if let Some(replaced) = replaced {
                    self.lose_name(replaced);
                    let dir = self.is_dir(replaced);
                    self.entries(new_parent, dir, -1);
                }
                self.bind(new_parent, new_name, ino);
            }
            Change::Exchange { parent, name, new_parent, new_name, ino, other } => {
                self.touch(ino).inode.ctime = time;
                self.touch(other).inode.ctime = time;
                let (dir, other_dir) = (self.is_dir(ino), self.is_dir(other));
                self.entries(parent, dir, -1);
                self.entries(new_parent, other_dir, -1);
                self.entries(parent, other_dir, 1);
                self.entries(new_parent, dir, 1);
                self.bind(parent, name, other);
                self.bind(new_parent, new_name, ino);
            }
            Change::SetAttr { ino, set, acl, drop_capability } => {
                let node = self.touch(ino);
                let mut resized = false;
                if let Some(size) = set.size {
                    resized = size != node.inode.size;
                    if size <= node.inode.size {
                        node.set(size, u64::MAX, None);
                    }
                    node.inode.size = size;
                }
                let inode = &mut node.inode;
                inode.mode = set.mode.unwrap_or(inode.mode);
                inode.uid = set.uid.unwrap_or(inode.uid);
                inode.gid = set.gid.unwrap_or(inode.gid);
                inode.atime = set.atime.unwrap_or(inode.atime);
                inode.mtime = set.mtime.unwrap_or(if resized { time } else { inode.mtime });
                inode.ctime = time;
                match acl {
                    Some([]) => {
                        node.xattrs.remove(&b"system.posix_acl_access"[..]);
                    }
                    Some(acl) => {
                        node.xattrs.insert(b"system.posix_acl_access".to_vec(), acl.to_vec());
                    }
                    None => (),
                }
                if drop_capability {
                    node.xattrs.remove(&b"security.capability"[..]);
                }
            }
            Change::Write { ino, offset, data, ends, mode, drop_capability } => {
                let at = match data.place {
                    Place::Inline(_) => payload.expect("inline bytes have a place in the log"),
                    Place::Extent { location, .. } => location,
                };
                let node = self.touch(ino);
                node.set(offset, offset + data.len(), Some(Some(at)));
                node.reach(offset + data.len(), ends);
                if drop_capability {
                    node.xattrs.remove(&b"security.capability"[..]);
                }
                self.modified(ino, mode);
            }
            Change::Fallocate { ino, how, offset, len, mode } => {
                let node = self.touch(ino);
                let end = offset + len;
                let keep = match how {
                    Allocation::Reserve { keep_size } => {
                        node.fill_holes(offset, end);
                        keep_size
                    }
                    Allocation::Punch => {
                        node.set(offset, end, None);
                        true
                    }
                    Allocation::Zero { keep_size } => {
                        node.set(offset, end, Some(None));
                        keep_size
                    }
                };
                if !keep {
                    node.inode.size = node.inode.size.max(end);
                }
                self.modified(ino, mode);
            }
            Change::Clone { src, src_offset, dst, dst_offset, len, ends, mode } => {
                let copied = self.model.inodes[&src].stretches(src_offset, len);
                let node = self.touch(dst);
                node.set(dst_offset, dst_offset + len, None);
                for stretch in copied {
                    if let Some(at) = stretch.at {
                        let start = stretch.offset - src_offset + dst_offset;
                        node.set(start, start + stretch.len, Some(Some(at)));
                    }
                }
                node.reach(dst_offset + len, ends);
                self.modified(dst, mode);
            }
            Change::SetXattr { ino, name, value, mode } => {
                let node = self.touch(ino);
                node.xattrs.insert(name.to_vec(), value.to_vec());
                node.inode.ctime = time;
                node.inode.mode = mode.unwrap_or(node.inode.mode);
            }
            Change::RemoveXattr { ino, name } => {
                let node = self.touch(ino);
                node.xattrs.remove(name);
                node.inode.ctime = time;
            }
            Change::End { ino } => {
                self.model.inodes.remove(&ino);
            }
            Change::Foreign(_) => (),
        }
    }
}

/// What the present tree of a model amounts to: inodes, bytes, and bytes in whole pages where they do not fit the log.
pub(crate) fn totals(model: &Model) -> (u64, u64, u64) {
    let allocated = || model.inodes.values().map(|node| node.inode.allocated);
    let padded = allocated().map(|n| if n > 4096 { n.next_multiple_of(4096) } else { n });
    (model.inodes.len() as u64, allocated().sum(), padded.sum())
}

/// The sequence after which `models` (one after each event, from [`Seq::FIRST`] on) begin.
pub(crate) fn model_at(models: &[Model], seq: Seq) -> &Model {
    &models[usize::try_from(seq.0 - Seq::FIRST.0).expect("few events")]
}
