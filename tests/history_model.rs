//! The index against a plain model: after random events, every question about every sequence.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

#[path = "common/model.rs"]
mod model;
#[path = "common/ram_file.rs"]
mod ram_file;

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::Arc;

use lighthouse_fuse::store::event::{
    ActorId, Allocation, Change, Data, Event, FileId, Ino, Location, Place, Seq, SetAttr, Timestamp,
};
use lighthouse_fuse::store::index::{Index, Mark, Options, Stretch, Tables};
use model::{Model, join, model_at, totals};
use ram_file::RamFile;

const KEY: [u8; 16] = *b"sixteen byte key";
const STORE: [u8; 16] = [7; 16];
const S_IFDIR: u32 = 0o040_000;
const S_IFREG: u32 = 0o100_000;
const S_IFLNK: u32 = 0o120_000;
const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const TIB: u64 = 1 << 40;

/// A generator whose seed tells the whole test.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    fn chance(&mut self, one_in: u64) -> bool {
        self.below(one_in) == 0
    }

    fn pick<T: Clone>(&mut self, from: &[T]) -> Option<T> {
        let at = self.below(from.len().max(1) as u64) as usize;
        from.get(at).cloned()
    }
}

/// Every inode and every name that ever was.
type Known = (BTreeSet<Ino>, BTreeSet<(Ino, Vec<u8>)>);

type Recorded = (Event<'static>, Option<Location>);

/// Content that moved: what lies at `to` is what was written at `from`.
struct Moved {
    to: Location,
    from: Location,
    len: u64,
}

/// An index, the model beside it, and all that happened.
struct Pair {
    random: Random,
    options: Options,
    file: Arc<RamFile>,
    index: Index,
    events: Vec<Recorded>,
    moved: Vec<Moved>,
    /// Index into `events` before which each relocation happened, and its arguments.
    relocations: Vec<(usize, Ino, u64, u64, Location)>,
    models: Vec<Model>,
    seq: u64,
    time: i64,
    log_offset: u64,
    /// To where a file was last cut.
    level: u64,
}

fn leak(bytes: Vec<u8>) -> &'static [u8] {
    Box::leak(bytes.into_boxed_slice())
}

impl Pair {
    fn new(seed: u64, options: Options) -> Self {
        let file = Arc::new(RamFile::default());
        let index = Index::open_file(file.clone(), STORE, &KEY, &options).unwrap();
        let mut pair = Self {
            random: Random(seed),
            options,
            file,
            index,
            events: Vec::new(),
            moved: Vec::new(),
            relocations: Vec::new(),
            models: Vec::new(),
            seq: Seq::FIRST.0,
            time: 1_000_000,
            log_offset: 0,
            level: 0,
        };
        pair.push(Change::Mkfs { mode: S_IFDIR | 0o755, uid: 0, gid: 0 });
        pair
    }

    fn now(&self) -> &Model {
        self.models.last().expect("the root is made first")
    }

    fn push(&mut self, change: Change<'static>) {
        // Several events may happen at one moment.
        self.time += self.random.below(4) as i64 * self.random.below(2_000) as i64;
        let event = Event {
            seq: Seq(self.seq),
            time: Timestamp(self.time),
            actor: ActorId(1),
            unique: 0,
            change,
        };
        self.seq += 1;
        let payload = match &event.change {
            Change::Write { data: Data { place: Place::Inline(bytes), .. }, .. } => {
                let payload = Location { file: FileId::Log(1), offset: self.log_offset };
                // Now and then the next bytes lie right behind: then they are one stretch.
                self.log_offset += bytes.len() as u64 + self.random.below(2) * 40;
                Some(payload)
            }
            _ => None,
        };
        let mut model = self.models.last().cloned().unwrap_or_default();
        model.apply(&event, payload);
        self.models.push(model);
        let mut tables = self.index.write();
        tables.apply(&event, payload).unwrap();
        drop(tables);
        self.events.push((event, payload));
    }

    fn mark(&self) -> Mark {
        Mark(self.events.len().to_le_bytes().to_vec())
    }

    /// Something that must change no answer: a batch, a new start, content that moves.
    fn disturb(&mut self) {
        match self.random.below(40) {
            0 => self.index.flush(self.mark()).unwrap(),
            // Frozen and left so: questions go through three layers.
            1 => self.index.freeze(self.mark()),
            2 => self.reopen(),
            3 | 4 => self.relocate(),
            _ => (),
        }
    }

    fn reopen(&mut self) {
        if self.random.chance(2) {
            self.index.flush(self.mark()).unwrap();
        }
        // As a kill leaves it: whatever was committed, and not more.
        self.file = Arc::new(self.file.copy());
        self.index = Index::open_file(self.file.clone(), STORE, &KEY, &self.options).unwrap();
        let done = self
            .index
            .applied()
            .map_or(0, |mark| usize::from_le_bytes(mark.0.try_into().expect("the mark is ours")));
        replay(&self.index, &self.events, &self.relocations, done);
    }

    fn relocate(&mut self) {
        let files = self.files();
        let Some(ino) = self.random.pick(&files) else { return };
        let node = self.now().node(ino).unwrap().clone();
        let Some(run) = self.random.pick(&node.content) else { return };
        let (offset, len) = (run.start.saturating_sub(100), 300 * KIB);
        let number = 1000 + self.moved.len() as u32;
        let location = Location { file: FileId::Content(number), offset: 4096 };
        for stretch in node.stretches(offset, len) {
            if let Some(at) = stretch.at {
                let to = location.advance(stretch.offset - offset);
                // Where it already lies may itself be a place it moved to.
                for part in self.origin(&[Stretch { at: Some(at), ..stretch }]) {
                    let distance = part.offset - stretch.offset;
                    let from = part.at.unwrap();
                    self.moved.push(Moved { to: to.advance(distance), from, len: part.len });
                }
            }
        }
        self.index.write().relocate(ino, offset, len, location).unwrap();
        self.relocations.push((self.events.len(), ino, offset, len, location));
    }

    /// The stretches with content where it was first written.
    fn origin(&self, stretches: &[Stretch]) -> Vec<Stretch> {
        let mut out = Vec::new();
        for stretch in stretches {
            let Some(start) = stretch.at.filter(|at| match at.file {
                FileId::Content(number) => number >= 1000,
                FileId::Log(_) => false,
            }) else {
                out.push(*stretch);
                continue;
            };
            let mut done = 0;
            while done < stretch.len {
                let at = start.advance(done);
                let moved = self.moved.iter().find(|moved| {
                    moved.to.file == at.file
                        && (moved.to.offset..moved.to.offset + moved.len).contains(&at.offset)
                });
                let moved = moved.unwrap_or_else(|| panic!("nothing was moved to {at:?}"));
                let distance = at.offset - moved.to.offset;
                let len = (moved.len - distance).min(stretch.len - done);
                let from = moved.from.advance(distance);
                out.push(Stretch { offset: stretch.offset + done, len, at: Some(from) });
                done += len;
            }
        }
        join(out)
    }

    fn files(&self) -> Vec<Ino> {
        self.of_kind(S_IFREG)
    }

    fn dirs(&self) -> Vec<Ino> {
        let dirs = self.of_kind(S_IFDIR);
        dirs.into_iter().filter(|ino| self.now().node(*ino).unwrap().inode.nlink > 0).collect()
    }

    fn of_kind(&self, kind: u32) -> Vec<Ino> {
        let inodes = self.now().inodes.values();
        inodes.filter(|node| node.inode.mode & 0o170_000 == kind).map(|n| n.inode.ino).collect()
    }

    fn name(&mut self) -> &'static [u8] {
        let number = self.random.below(25);
        match self.random.below(6) {
            0 => leak(vec![b'x'; 1 + number as usize * 10]),
            1 => leak(vec![0xff - number as u8, 0xff]),
            _ => leak(format!("name{number}").into_bytes()),
        }
    }

    /// Whether `dir` is `ino` or below it.
    fn is_below(&self, dir: Ino, ino: Ino) -> bool {
        let mut at = dir;
        loop {
            if at == ino {
                return true;
            }
            match self.now().names_of(at).first() {
                Some((parent, _)) => at = *parent,
                None => return false,
            }
        }
    }

    fn step(&mut self) {
        self.disturb();
        match self.random.below(10) {
            0..=2 => self.change_names(),
            3 => self.change_attributes(),
            _ => self.change_content(),
        }
    }

    fn change_names(&mut self) {
        let dirs = self.dirs();
        let parent = self.random.pick(&dirs).unwrap();
        let name = self.name();
        let names: Vec<_> = self.now().names.iter().map(|(k, e)| (k.clone(), *e)).collect();
        let xattrs = match self.random.below(3) {
            0 => vec![(&b"security.selinux"[..], &b"label"[..])],
            _ => vec![],
        };
        let (uid, gid) = (self.random.below(3) as u32, 100_000);
        match self.random.below(12) {
            0..=4 if self.now().entry(parent, name).is_none() => {
                let kind =
                    self.random.pick(&[S_IFDIR, S_IFREG, S_IFREG, S_IFREG, S_IFLNK]).unwrap();
                let target = if kind == S_IFLNK { &b"../over/there"[..] } else { b"" };
                let mode = kind | 0o640;
                let rdev = self.random.below(2) * 0x801;
                let change = Change::Create { parent, name, mode, uid, gid, rdev, target, xattrs };
                self.push(change);
            }
            5 => self.push(Change::Tmpfile { mode: S_IFREG | 0o600, uid, gid, xattrs }),
            6 => {
                let files = self.files();
                let Some(ino) = self.random.pick(&files) else { return };
                if self.now().entry(parent, name).is_none() {
                    self.push(Change::Link { ino, parent, name });
                }
            }
            7 | 8 => {
                let Some(((parent, name), entry)) = self.random.pick(&names) else { return };
                if self.now().entries(entry.ino).is_empty() {
                    let name = leak(name);
                    self.push(Change::Unlink { parent, name, ino: entry.ino });
                }
            }
            9 => {
                let Some(((old_parent, old_name), entry)) = self.random.pick(&names) else {
                    return;
                };
                let replaced = self.now().entry(parent, name);
                let fits = replaced.is_none_or(|replaced| {
                    replaced.ino != entry.ino
                        && (replaced.kind == S_IFDIR) == (entry.kind == S_IFDIR)
                        && self.now().entries(replaced.ino).is_empty()
                });
                if fits && !self.is_below(parent, entry.ino) {
                    self.push(Change::Rename {
                        parent: old_parent,
                        name: leak(old_name),
                        new_parent: parent,
                        new_name: name,
                        ino: entry.ino,
                        replaced: replaced.map(|replaced| replaced.ino),
                    });
                }
            }
            10 => {
                let (Some(one), Some(two)) = (self.random.pick(&names), self.random.pick(&names))
                else {
                    return;
                };
                let (((parent, name), entry), ((new_parent, new_name), other)) = (one, two);
                if (parent, &name) != (new_parent, &new_name)
                    && !self.is_below(parent, other.ino)
                    && !self.is_below(new_parent, entry.ino)
                {
                    self.push(Change::Exchange {
                        parent,
                        name: leak(name),
                        new_parent,
                        new_name: leak(new_name),
                        ino: entry.ino,
                        other: other.ino,
                    });
                }
            }
            _ => {
                let orphans = self.now().orphans();
                if let Some(ino) = self.random.pick(&orphans) {
                    self.push(Change::End { ino });
                }
            }
        }
    }

    fn change_attributes(&mut self) {
        let inodes: Vec<_> = self.now().inodes.keys().copied().collect();
        let ino = self.random.pick(&inodes).unwrap();
        let name = self.random.pick(&[&b"user.a"[..], b"user.b", b"security.capability"]).unwrap();
        let mode = self.now().node(ino).unwrap().inode.mode;
        match self.random.below(4) {
            0 | 1 => {
                let value = leak(vec![self.random.next() as u8; self.random.below(60) as usize]);
                self.push(Change::SetXattr { ino, name, value, mode: Some(mode ^ 0o010) });
            }
            2 if self.now().node(ino).unwrap().xattrs.contains_key(name) => {
                self.push(Change::RemoveXattr { ino, name });
            }
            _ => {
                let set = SetAttr {
                    mode: Some(mode ^ 0o007),
                    uid: self.random.chance(2).then_some(9),
                    atime: self.random.chance(2).then_some(Timestamp(-5)),
                    mtime: self.random.chance(3).then_some(Timestamp(i64::MAX)),
                    ..SetAttr::default()
                };
                let acl = self.random.pick(&[None, None, Some(&b"acl"[..]), Some(b"")]).flatten();
                let drop_capability = self.random.chance(2);
                self.push(Change::SetAttr { ino, set, acl, drop_capability });
            }
        }
    }

    /// Where something happens in a file: mostly in a few chunks, now and then far out.
    fn offset(&mut self) -> u64 {
        let fine = self.random.below(200 * KIB);
        match self.random.below(12) {
            0 => TIB + fine,
            1 => self.random.below(8) * MIB + fine % 100,
            2 | 3 => self.random.below(4) * 64 * KIB,
            4 | 5 => 64 * KIB - 20 + fine % 40,
            _ => fine % (70 * KIB),
        }
    }

    fn change_content(&mut self) {
        let files = self.files();
        // A few files get most of it, so that chunks collect rows.
        let busy = files.get(..files.len().min(3)).unwrap_or_default();
        let chosen = if self.random.chance(4) { &files[..] } else { busy };
        let Some(ino) = self.random.pick(chosen) else { return };
        let size = self.now().node(ino).unwrap().inode.size;
        let offset = if self.random.chance(4) && size < 2 * TIB { size } else { self.offset() };
        let keep_size = self.random.chance(2);
        let mode = self.random.chance(9).then_some(S_IFREG | 0o600);
        let large = self.random.chance(4);
        let ends = self.random.chance(4);
        let len = if large { self.random.below(6 * MIB) } else { self.random.below(90 * KIB) } + 1;
        match self.random.below(20) {
            0..=8 => {
                let len = 1 + self.random.below(300);
                let len = if self.random.chance(3) { 1 } else { len };
                let place = Place::Inline(leak(vec![1; len as usize]));
                self.write(ino, offset, place, mode);
            }
            9..=11 => {
                let file = FileId::Content(1 + self.random.below(3) as u32);
                let location = Location { file, offset: self.random.below(1 << 40) };
                let len = 4096 + self.random.below(200 * KIB);
                self.write(ino, offset, Place::Extent { location, len, crcs: &[] }, mode);
            }
            12..=14 => {
                let size = match self.random.below(6) {
                    0 => 0,
                    1 => TIB + self.random.below(100),
                    2 => size,
                    _ => offset,
                };
                let set = SetAttr { size: Some(size), ..SetAttr::default() };
                self.push(Change::SetAttr { ino, set, acl: None, drop_capability: false });
            }
            15 => {
                let how = Allocation::Reserve { keep_size };
                self.push(Change::Fallocate { ino, how, offset, len, mode });
            }
            16 => {
                let len = if self.random.chance(3) { 2 * TIB } else { len };
                self.push(Change::Fallocate { ino, how: Allocation::Punch, offset, len, mode });
            }
            17 => {
                let how = Allocation::Zero { keep_size };
                self.push(Change::Fallocate { ino, how, offset, len, mode });
            }
            _ => {
                let Some(src) = self.random.pick(&files) else { return };
                let src_offset = self.offset();
                let src_size = self.now().node(src).unwrap().inode.size;
                let len = len.min(src_size.saturating_sub(src_offset));
                let apart = src != ino || src_offset + len <= offset || offset + len <= src_offset;
                if len > 0 && apart {
                    let (dst, dst_offset) = (ino, offset);
                    self.push(Change::Clone { src, src_offset, dst, dst_offset, len, ends, mode });
                }
            }
        }
    }

    /// Mostly what makes and meets cuts: truncations to growing sizes, and large holes and clones.
    fn step_cuts(&mut self) {
        self.disturb();
        let files = self.files();
        let (Some(&ino), Some(&other)) = (files.first(), files.get(1)) else {
            for name in [&b"one"[..], b"two"] {
                let (parent, mode, xattrs) = (Ino::ROOT, S_IFREG | 0o644, vec![]);
                let (uid, gid, rdev, target) = (0, 0, 0, &b""[..]);
                self.push(Change::Create { parent, name, mode, uid, gid, rdev, target, xattrs });
            }
            return;
        };
        let size = self.now().node(ino).unwrap().inode.size;
        let offset = self.random.below(4 * MIB);
        let location = Location { file: FileId::Content(5), offset: self.random.below(1 << 40) };
        let len = MIB + 70 * KIB + self.random.below(MIB);
        match self.random.below(16) {
            0..=4 => {
                let place = Place::Inline(leak(vec![1; 1 + self.random.below(3000) as usize]));
                self.write(ino, offset, place, None);
            }
            5 | 6 => {
                let place = Place::Extent { location, len: len / 2, crcs: &[] };
                let ino = if self.random.chance(3) { other } else { ino };
                self.write(ino, offset, place, None);
            }
            7..=11 => {
                // To a little more than the last time, and out again: then both cuts count.
                self.level = (self.level + self.random.below(150 * KIB)) % (4 * MIB);
                let level = self.level;
                for size in [level.min(size), 5 * MIB] {
                    let set = SetAttr { size: Some(size), ..SetAttr::default() };
                    self.push(Change::SetAttr { ino, set, acl: None, drop_capability: false });
                }
            }
            12 => {
                let how = Allocation::Punch;
                self.push(Change::Fallocate { ino, how, offset, len, mode: None });
            }
            13 => {
                let how = Allocation::Zero { keep_size: true };
                self.push(Change::Fallocate { ino, how, offset, len, mode: None });
            }
            14 => {
                let (src, src_offset) = (other, self.random.below(MIB));
                let size = self.now().node(other).unwrap().inode.size;
                let len = len.min(size.saturating_sub(src_offset));
                if len > 0 {
                    let (dst, dst_offset, mode) = (ino, offset, None);
                    let ends = self.random.chance(3);
                    self.push(Change::Clone { src, src_offset, dst, dst_offset, len, ends, mode });
                }
            }
            _ => self.relocate(),
        }
    }

    fn write(&mut self, ino: Ino, offset: u64, place: Place<'static>, mode: Option<u32>) {
        let data = Data { hash: [0; 32], salt: [0; 16], place };
        let (drop_capability, ends) = (self.random.chance(5), self.random.chance(6));
        // Many begin where the file does: then they are all of it.
        let offset = if ends && self.random.chance(2) { 0 } else { offset };
        self.push(Change::Write { ino, offset, data, ends, mode, drop_capability });
    }

    /// Compares every question about the tree after event `at`, asked as `asked`.
    fn compare(&self, tables: &Tables, at: Seq, asked: Seq, (known, names): &Known) {
        let model = model_at(&self.models, at);
        for &ino in known {
            let node = model.node(ino);
            // All that the last events touched, and a few of the others: each is asked about at many
            // sequences, and each sequence about all that could be wrong there alone.
            let fresh = node.is_some_and(|node| node.inode.changed.0 + 3 > at.0);
            if !fresh && asked != Seq::NOW && !(ino.0 + at.0).is_multiple_of(7) {
                continue;
            }
            let what = format!("inode {ino} at {at}");
            assert_eq!(tables.inode(ino, asked).unwrap(), node.map(|node| node.inode), "{what}");
            assert_eq!(tables.names(ino, asked).unwrap(), model.names_of(ino), "names of {what}");
            let target = node.and_then(|node| node.target.clone());
            assert_eq!(tables.target(ino, asked).unwrap(), target, "target of {what}");
            let xattrs: Vec<_> = node.map_or(vec![], |node| node.xattrs.keys().cloned().collect());
            assert_eq!(tables.xattrs(ino, asked).unwrap(), xattrs, "xattrs of {what}");
            for name in [&b"user.a"[..], b"user.b", b"security.capability", b"security.selinux"] {
                let value = node.and_then(|node| node.xattrs.get(name).cloned());
                assert_eq!(tables.xattr(ino, name, asked).unwrap(), value, "{what}");
            }
            if let Some(node) = node {
                self.compare_content(tables, node, asked, &what);
            } else {
                let hole = vec![Stretch { offset: 5, len: 10, at: None }];
                let mut found = Vec::new();
                tables.stretches(ino, 5, 10, asked, &mut found).unwrap();
                assert_eq!(found, hole, "content of {what}, which is not there");
                assert_eq!(tables.seek(ino, 0, false, asked).unwrap(), None, "{what}");
            }
            let dir = node.is_some_and(|node| node.inode.mode & 0o170_000 == S_IFDIR);
            if dir {
                let parent = model.names_of(ino).first().map(|(parent, _)| *parent);
                let parent = parent.or((ino == Ino::ROOT).then_some(ino));
                assert_eq!(tables.parent(ino, asked).unwrap(), parent, "parent of {what}");
                self.compare_listing(tables, model, ino, asked, &what);
            }
        }
        for (parent, name) in names {
            let found = tables.entry(*parent, name, asked).unwrap();
            assert_eq!(found, model.entry(*parent, name), "{name:?} in {parent} at {at}");
        }
    }

    fn compare_listing(&self, tables: &Tables, model: &Model, dir: Ino, at: Seq, what: &str) {
        let mut expected: Vec<_> = model.entries(dir).into_iter().collect();
        expected.sort_by_key(|(name, _)| (tables.hash(name), name.clone()));
        let mut found = Vec::new();
        tables
            .entries(dir, 0, at, &mut |hash, name, entry| {
                assert_eq!(hash, tables.hash(name));
                found.push((name.to_vec(), entry));
                ControlFlow::Continue(())
            })
            .unwrap();
        assert_eq!(found, expected, "listing of {what}");
        // From the middle on, and not further than asked.
        if let Some((name, _)) = expected.get(expected.len() / 2) {
            let from = tables.hash(name);
            let rest = expected.iter().find(|(name, _)| tables.hash(name) >= from);
            let mut first = None;
            tables
                .entries(dir, from, at, &mut |_, name, entry| {
                    assert!(first.is_none(), "the visitor said stop");
                    first = Some((name.to_vec(), entry));
                    ControlFlow::Break(())
                })
                .unwrap();
            assert_eq!(first.as_ref(), rest, "listing of {what} from {from}");
        }
    }

    fn compare_content(&self, tables: &Tables, node: &model::Node, at: Seq, what: &str) {
        let (ino, size) = (node.inode.ino, node.inode.size);
        for (offset, len) in [(0, size.max(1)), (size / 3, 70_000), (65_500, 100), (TIB, 64 * KIB)]
        {
            let mut found = vec![];
            tables.stretches(ino, offset, len, at, &mut found).unwrap();
            let last = found.last().map_or(offset, |last| last.offset + last.len);
            assert_eq!(last, offset + len);
            assert_eq!(
                self.origin(&found),
                node.stretches(offset, len),
                "{offset}+{len} of {what}"
            );
        }
        for offset in [0, size / 2, size.saturating_sub(1), size, 64 * KIB] {
            for hole in [false, true] {
                let found = tables.seek(ino, offset, hole, at).unwrap();
                assert_eq!(found, node.seek(offset, hole), "seek {offset} hole {hole} of {what}");
            }
        }
    }

    fn compare_all(&self, every: u64) {
        let tables = self.index.read();
        let mut all = Known::default();
        for model in &self.models {
            all.0.extend(model.inodes.keys());
            all.1.extend(model.names.keys().cloned());
        }
        // One that is not there yet.
        all.0.insert(Ino(self.seq + 5));
        let last = Seq(self.seq - 1);
        assert_eq!(tables.last(), last);
        for at in (Seq::FIRST.0..=last.0).rev().step_by(every as usize) {
            self.compare(&tables, Seq(at), Seq(at), &all);
        }
        self.compare(&tables, last, Seq::NOW, &all);
        let found = tables.totals();
        assert_eq!((found.inodes, found.allocated, found.padded), totals(self.now()));
        assert_eq!(tables.orphans(Ino(0), usize::MAX).unwrap(), self.now().orphans());
        for time in (0..=self.time + 1).step_by(97).chain(self.events.iter().map(|(e, _)| e.time.0))
        {
            let until = self.events.partition_point(|(event, _)| event.time.0 <= time);
            let last = until.checked_sub(1).map_or(Seq::ZERO, |at| self.events[at].0.seq);
            assert_eq!(tables.seq_at(Timestamp(time)).unwrap(), last, "at time {time}");
        }
    }
}

fn replay(
    index: &Index,
    events: &[Recorded],
    relocations: &[(usize, Ino, u64, u64, Location)],
    from: usize,
) {
    let mut tables = index.write();
    for at in from..=events.len() {
        if let Some((event, payload)) = events.get(at) {
            // The relocations that the batch has are those before its last event and some after it;
            // a relocation folded in twice changes nothing.
            for (_, ino, offset, len, location) in relocations.iter().filter(|r| r.0 == at) {
                tables.relocate(*ino, *offset, *len, *location).unwrap();
            }
            tables.apply(event, *payload).unwrap();
        }
    }
    for (_, ino, offset, len, location) in relocations.iter().filter(|r| r.0 == events.len()) {
        tables.relocate(*ino, *offset, *len, *location).unwrap();
    }
}

fn run(seed: u64, steps: usize, options: Options, every: u64, step: fn(&mut Pair)) {
    println!("seed {seed}");
    let mut pair = Pair::new(seed, options);
    for _ in 0..steps {
        step(&mut pair);
    }
    pair.compare_all(every);
    // The same answers from a start that finds everything committed.
    pair.index.flush(pair.mark()).unwrap();
    pair.reopen();
    pair.compare_all(every * 3);
    // And from the log alone.
    pair.index = Index::in_memory(&pair.options).unwrap();
    replay(&pair.index, &pair.events, &[], 0);
    pair.moved.clear();
    // An index in memory hashes with a key of its own, so only order by hash differs.
    pair.compare_all(every * 3);
}

#[test]
fn every_question_at_every_sequence_is_answered_as_the_model_does() {
    for seed in 0..4 {
        run(seed, 300, Options::default(), 1, Pair::step);
    }
}

#[test]
fn names_that_collide_are_told_apart() {
    for seed in 100..103 {
        run(seed, 300, Options { hash_bits: 5, ..Options::default() }, 5, Pair::step);
    }
}

#[test]
fn a_long_run_is_answered_as_the_model_does() {
    run(200, 4000, Options::default(), 400, Pair::step);
}

#[test]
fn cuts_that_overlap_and_are_carried_out_are_answered_as_the_model_does() {
    for seed in 300..304 {
        run(seed, 300, Options::default(), 1, Pair::step_cuts);
    }
}
