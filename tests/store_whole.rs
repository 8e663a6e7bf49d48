//! The store as its users meet it: changes, questions about any time, crashes, history given back.
//!
//! A run remembers what the whole tree looked like after each event. Whatever happens then, the
//! tree at each event that is still there must look the same.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

#[path = "common/changes.rs"]
mod changes;

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::mount::{MountFlags, UnmountFlags};

use lighthouse_fuse::store::disk::{Disk, Real};
use lighthouse_fuse::store::event::{Change, FileId, Ino, Place, Seq, SetAttr};
use lighthouse_fuse::store::log::{Next, damage_in};
use lighthouse_fuse::store::record::Entry;
use lighthouse_fuse::store::recover::{Damage, Stop};
use lighthouse_fuse::store::sim::{Random, SimDisk, Step};
use lighthouse_fuse::store::superblock::{Shape, Super};
use lighthouse_fuse::store::verify::verify;
use lighthouse_fuse::store::{CommitError, CreateOptions, OpenError, OpenOptions, Placed, Store};

use changes::{Clock, check_all, relocations};

const SHAPE: Shape =
    Shape { segment_len: 16 << 10, content_len: 256 << 10, content_step: 32 << 10 };

/// With files large enough for what a user would call a file.
const ROOMY: CreateOptions = CreateOptions {
    mode: 0o755,
    uid: 0,
    gid: 0,
    shape: Shape { segment_len: 1 << 20, content_len: 1 << 30, content_step: 64 << 10 },
    begins: None,
};

fn options() -> OpenOptions {
    OpenOptions { sync_interval: None, memory: 8 << 20, ..OpenOptions::default() }
}

fn create(disk: &SimDisk, options: &OpenOptions) -> Result<Store, OpenError> {
    let create = CreateOptions { shape: SHAPE, ..CreateOptions::default() };
    Store::create_on(Arc::new(disk.clone()), &create, options)
}

fn open(disk: &SimDisk) -> Result<Store, OpenError> {
    Store::open_on(Arc::new(disk.clone()), &options())
}

/// Ticks until what files share was counted, which takes as long as it takes: on a busy machine it rests in between.
#[track_caller]
fn tick_until(store: &Store, counted: fn(&Store) -> u64, expected: u64) {
    let began = Instant::now();
    loop {
        store.tick().unwrap();
        if counted(store) == expected {
            return;
        }
        assert!(began.elapsed() < Duration::from_secs(60), "{} bytes", counted(store));
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A hash of all that can be asked about the tree after event `at`; `None` if the disk does not answer.
fn look(store: &Store, at: Seq) -> Option<[u8; 32]> {
    let _pin = store.pin();
    let tables = store.read();
    let mut hasher = blake3::Hasher::new();
    let mut names = Vec::new();
    tables
        .entries(Ino::ROOT, 0, at, &mut |hash, name, entry| {
            names.push((hash, name.to_vec(), entry));
            ControlFlow::Continue(())
        })
        .ok()?;
    let root = tables.inode(Ino::ROOT, at).ok()?;
    hasher.update(format!("{root:?}").as_bytes());
    for (hash, name, entry) in names {
        let inode = tables.inode(entry.ino, at).ok()?.expect("what has a name is there");
        hasher.update(format!("{hash} {name:?} {entry:?} {inode:?}").as_bytes());
        let xattr = tables.xattr(entry.ino, b"user.a", at).ok()?;
        hasher.update(format!("{xattr:?}").as_bytes());
        hasher.update(&changes::content(store, &tables, entry.ino, at)?);
    }
    Some(*hasher.finalize().as_bytes())
}

/// What a user did and saw.
#[derive(Clone, Default)]
struct User {
    /// The tree after each event; `None` if the power went before it could be looked at.
    trees: BTreeMap<Seq, Option<[u8; 32]>>,
    files: Vec<(Vec<u8>, Ino, u64)>,
    count: u64,
    synced: Seq,
    clock: Clock,
}

impl User {
    fn saw(&mut self, store: &Store, seq: Seq) {
        self.trees.insert(seq, look(store, Seq::NOW));
    }

    fn change(&mut self, store: &Store, change: Change<'_>) -> Result<(), CommitError> {
        let seq = changes::commit(store, change)?;
        self.saw(store, seq);
        Ok(())
    }

    fn write(
        &mut self,
        store: &Store,
        file: usize,
        offset: u64,
        bytes: &[u8],
    ) -> Result<(), CommitError> {
        let seq = changes::write(store, self.files[file].1, offset, bytes)?;
        self.wrote(store, file, offset + bytes.len() as u64, seq);
        Ok(())
    }

    /// As bytes that go on where others were written.
    fn write_on(
        &mut self,
        store: &Store,
        file: usize,
        offset: u64,
        bytes: &[u8],
    ) -> Result<(), CommitError> {
        let seq = changes::write_on(store, self.files[file].1, offset, bytes)?;
        self.wrote(store, file, offset + bytes.len() as u64, seq);
        Ok(())
    }

    /// Event `seq` wrote to a file up to `end`.
    fn wrote(&mut self, store: &Store, file: usize, end: u64, seq: Seq) {
        self.saw(store, seq);
        self.files[file].2 = self.files[file].2.max(end);
    }

    /// Takes away a file's name, and with it the file.
    fn unlink(&mut self, store: &Store, file: usize) -> Result<(), CommitError> {
        let (name, ino, _) = self.files[file].clone();
        let seq = changes::unlink(store, ino, &name)?;
        self.saw(store, seq);
        self.files.remove(file);
        self.change(store, Change::End { ino })
    }

    /// Makes a range of one file a reference to one of another.
    fn clone_range(
        &mut self,
        store: &Store,
        (from, src_offset): (usize, u64),
        (to, dst_offset): (usize, u64),
        len: u64,
    ) -> Result<(), CommitError> {
        let (src, dst) = (self.files[from].1, self.files[to].1);
        let seq = changes::clone_range(store, (src, src_offset), (dst, dst_offset), len)?;
        self.wrote(store, to, dst_offset + len, seq);
        Ok(())
    }

    fn make(&mut self, store: &Store) -> Result<(), CommitError> {
        self.count += 1;
        let name = format!("file {}", self.count).into_bytes();
        let ino = changes::make(store, &name)?;
        self.saw(store, Seq(ino.0));
        self.files.push((name, ino, 0));
        Ok(())
    }

    /// Does `count` random things.
    fn work(
        &mut self,
        store: &Store,
        random: &mut Random,
        count: usize,
    ) -> Result<(), CommitError> {
        for _ in 0..count {
            if self.files.is_empty() {
                self.make(store)?;
                continue;
            }
            let at = random.below(self.files.len());
            let (name, ino, size) = self.files[at].clone();
            let fill = u8::try_from(random.below(256)).unwrap();
            match random.below(12) {
                0 => self.make(store)?,
                // Of no bytes at all, too.
                1 if fill < 30 => self.write(store, at, 5, &[])?,
                1 | 2 => {
                    let offset = random.below(20_000) as u64;
                    let len = random.below(3000);
                    let len = if fill.is_multiple_of(4) { 4096 } else { len };
                    self.write(store, at, offset, &vec![fill; len])?;
                }
                3..=5 => {
                    let offset = random.below(60_000) as u64 / 4096 * 4096;
                    self.write(store, at, offset, &vec![fill; 4096 + random.below(30_000)])?;
                }
                6 => self.unlink(store, at)?,
                7 => {
                    self.count += 1;
                    let new_name = format!("renamed {}", self.count).into_bytes();
                    let seq = changes::rename(store, ino, &name, &new_name)?;
                    self.saw(store, seq);
                    self.files[at].0 = new_name;
                }
                8 => {
                    let size = random.below(50_000) as u64;
                    let seq = changes::resize(store, ino, size)?;
                    self.saw(store, seq);
                    self.files[at].2 = size;
                }
                9 => {
                    let value = vec![fill; random.below(100)];
                    let change =
                        Change::SetXattr { ino, name: b"user.a", value: &value, mode: None };
                    self.change(store, change)?;
                }
                10 if size > 100 => {
                    let to = random.below(self.files.len());
                    if to != at {
                        let len = 1 + random.below(usize::try_from(size).unwrap() - 1) as u64;
                        self.clone_range(store, (at, 0), (to, 0), len)?;
                    }
                }
                10 => (),
                _ => {
                    let (offset, len) = (random.below(20_000), 1 + random.below(20_000));
                    let seq = changes::punch(store, ino, offset as u64, len as u64)?;
                    self.saw(store, seq);
                }
            }
            if random.below(6) == 0 {
                self.wait(store)?;
            }
            if random.below(5) == 0 {
                let last = store.read().last();
                store.sync()?;
                self.synced = last;
            }
        }
        Ok(())
    }

    /// Leaves everything alone for long enough, and sees that no tree changes by what is done meanwhile.
    fn wait(&mut self, store: &Store) -> Result<(), CommitError> {
        let last = store.read().last();
        self.clock.pass(store)?;
        self.synced = last;
        if let (Some(Some(tree)), Some(now)) = (self.trees.get(&last), look(store, Seq::NOW)) {
            assert_eq!(*tree, now, "after event {last}, and left alone");
        }
        Ok(())
    }

    /// Every tree that this user saw and that should still be there looks as it did.
    fn compare(&self, store: &Store, what: &str) {
        let (horizon, last) = (store.horizon(), store.read().last());
        for (seq, tree) in self.trees.range(horizon..=last) {
            let now = look(store, *seq);
            assert!(now.is_some(), "{what}: tree after event {seq} cannot be read");
            assert!(tree.is_none() || *tree == now, "{what}: tree after event {seq}");
        }
    }
}

#[test]
fn every_tree_looks_the_same_after_any_crash() {
    let mut moved = 0;
    for seed in 1..=4 {
        let mut disk = SimDisk::new(1 << 30);
        let mut user = User::default();
        let mut random = Random(seed);
        let store = create(&disk, &options()).unwrap();
        user.saw(&store, Seq::FIRST);
        user.synced = Seq::FIRST;
        user.work(&store, &mut random, 60).unwrap();
        user.compare(&store, "before any crash");
        drop(store);
        for crash in 0..6 {
            let what = format!("seed {seed}, crash {crash}");
            let before = user.trees.keys().next_back().copied().unwrap();
            let power_cut = random.below(2) == 0;
            disk = if power_cut { disk.after_power_cut(seed + crash) } else { disk.after_kill() };
            let store = open(&disk).unwrap();
            let last = store.read().last();
            assert!(last >= user.synced, "{what}: {last} of {}", user.synced);
            if !power_cut {
                assert_eq!(last, before, "{what}");
            }
            user.trees.split_off(&last.next());
            assert_eq!(user.trees.keys().next_back(), Some(&last), "{what}");
            user.compare(&store, &what);
            // What the user's own memory says of files may be of the lost future: begin anew.
            user.files.clear();
            user.count += 1000;
            disk.cut_after(200 + random.below(200) as u64);
            let worked = user.work(&store, &mut random, 200);
            if crash % 2 == 0 && worked.is_ok() {
                store.close().unwrap();
                user.synced = user.trees.keys().next_back().copied().unwrap();
                drop(store);
                disk = disk.after_kill();
                let store = open(&disk).unwrap();
                assert_eq!(store.opening().stop, Stop::Clean);
                assert_eq!(
                    store.opening().replayed,
                    0,
                    "{what}: a clean stop leaves nothing to do"
                );
                user.compare(&store, &what);
            }
        }
        // An index that is gone is made again.
        let disk = disk.after_kill();
        if disk.remove("index/rows.redb").is_ok() {
            let store = open(&disk).unwrap();
            let last = store.read().last();
            user.trees.split_off(&last.next());
            user.compare(&store, "after the index was deleted");
            moved += relocations(&store);
        }
        let report = check_all(&disk);
        assert_eq!(report.findings, [], "seed {seed}");
    }
    assert!(moved > 5, "only {moved} relocations were met");
}

#[test]
fn a_log_written_in_small_pieces_is_put_together_once_it_is_left_alone() {
    let disk = SimDisk::new(1 << 30);
    let create = CreateOptions::default();
    let store = Store::create_on(Arc::new(disk.clone()), &create, &options()).unwrap();
    let mut user = User::default();
    user.make(&store).unwrap();
    let ino = user.files[0].1;
    let mut expected = Vec::new();
    let mut middle = None;
    for n in 0..10_000_u64 {
        let bytes: Vec<u8> = (0..100).map(|at| (n * 7 + at) as u8).collect();
        let seq = changes::write(&store, ino, n * 100, &bytes).unwrap();
        expected.extend_from_slice(&bytes);
        if n == 5000 {
            middle = Some((seq, expected.len()));
        }
    }
    let content = |store: &Store, at: Seq| {
        let (_pin, mut stretches) = (store.pin(), Vec::new());
        let size = store.read().inode(ino, at).unwrap().unwrap().size;
        store.read().stretches(ino, 0, size, at, &mut stretches).unwrap();
        let mut bytes = vec![0; usize::try_from(size).unwrap()];
        store.read_content(&stretches, &mut bytes).unwrap();
        (bytes, stretches.len())
    };
    let check = |store: &Store| {
        let (bytes, pieces) = content(store, Seq::NOW);
        assert!(bytes == expected);
        let (then, len) = middle.unwrap();
        assert!(content(store, then).0 == expected[..len]);
        pieces
    };
    assert_eq!(check(&store), 10_000);
    store.tick().unwrap();
    assert_eq!(check(&store), 10_000, "not while it may be written to");
    user.wait(&store).unwrap();
    assert!(check(&store) < 20, "{} pieces are left", check(&store));
    let last = store.read().last();
    drop(store);
    let store = open(&disk.after_kill()).unwrap();
    assert!(check(&store) < 20);
    assert_eq!(store.read().last(), last, "a relocation has no number");
}

#[test]
fn a_crash_at_any_step_of_a_relocation_changes_no_tree() {
    let run = |disk: &SimDisk, user: &mut User| {
        let store = create(disk, &options()).unwrap();
        user.saw(&store, Seq::FIRST);
        user.make(&store).unwrap();
        user.make(&store).unwrap();
        for n in (0..40).rev() {
            user.write(&store, 0, n * 3000, &[n as u8 + 1; 5000]).unwrap();
            user.write(&store, 1, n * 600, &[n as u8 + 1; 600]).unwrap();
        }
        user.clone_range(&store, (0, 9000), (1, 90_000), 9000).unwrap();
        store.sync().unwrap();
        user.synced = store.read().last();
        store
    };
    let whole = SimDisk::new(64 << 20);
    let mut user = User::default();
    let store = run(&whole, &mut user);
    let before = whole.steps();
    user.wait(&store).unwrap();
    let after = whole.steps();
    assert!(relocations(&store) >= 2);
    user.compare(&store, "left alone");
    drop(store);
    for step in 0..=after - before {
        let disk = SimDisk::new(64 << 20);
        let mut user = User::default();
        let store = run(&disk, &mut user);
        disk.cut_after(step);
        let _ = user.wait(&store);
        drop(store);
        for (disk, how) in [(disk.after_kill(), "killed"), (disk.after_power_cut(step), "power")] {
            let store = open(&disk).unwrap();
            user.compare(&store, &format!("{how} after step {step}"));
            // What was not moved can be moved now, and an index made anew says the same.
            let mut user = user.clone();
            user.make(&store).unwrap();
            user.wait(&store).unwrap();
            drop(store);
            disk.remove("index/rows.redb").unwrap();
            let store = open(&disk.after_kill()).unwrap();
            user.compare(&store, &format!("{how} after step {step}, rebuilt"));
        }
    }
}

#[test]
fn what_a_relocation_left_behind_is_given_back_with_its_last_tree() {
    let disk = SimDisk::new(256 << 20);
    let options = OpenOptions { history: Some(0), ..options() };
    let store = Store::create_on(Arc::new(disk.clone()), &ROOMY, &options).unwrap();
    let mut user = User::default();
    user.make(&store).unwrap();
    // In content files, and backwards, so that no two of them lie side by side.
    const LEN: u64 = 5000;
    for n in (0..256).rev() {
        user.write(&store, 0, n * LEN, &[n as u8; LEN as usize]).unwrap();
    }
    let tree = look(&store, Seq::NOW);
    user.wait(&store).unwrap();
    assert!(relocations(&store) > 0);
    // The trees before are given up by and by, with what comes next.
    user.make(&store).unwrap();
    user.make(&store).unwrap();
    store.tick().unwrap();
    let live = store.read().totals().allocated;
    let size = store.size().unwrap().content;
    assert!(size <= live + ROOMY.shape.content_step, "{size} bytes for {live}");
    assert_eq!(store.read().totals().allocated, 256 * LEN);
    assert_ne!(look(&store, Seq::NOW), tree);
    for n in 0..256 {
        let mut stretches = Vec::new();
        store.read().stretches(user.files[0].1, n * LEN, LEN, Seq::NOW, &mut stretches).unwrap();
        let mut bytes = [0; LEN as usize];
        store.read_content(&stretches, &mut bytes).unwrap();
        assert_eq!(bytes, [n as u8; LEN as usize]);
    }
    store.close().unwrap();
    assert_eq!(check_all(&disk).findings, []);
}

#[test]
fn what_is_damaged_is_not_moved_under_a_checksum_that_vouches_for_it() {
    // In content files, and in the log.
    for len in [5000, 600] {
        let disk = SimDisk::new(256 << 20);
        let options = OpenOptions { history: Some(0), ..options() };
        let store = Store::create_on(Arc::new(disk.clone()), &ROOMY, &options).unwrap();
        let mut user = User::default();
        for file in 0..2 {
            user.make(&store).unwrap();
            // Backwards, so that no two of them lie side by side.
            for n in (0..256_u64).rev() {
                user.write(&store, file, n * len, &vec![n as u8; len as usize]).unwrap();
            }
        }
        let inos = [user.files[0].1, user.files[1].1];
        let place = |file: usize| {
            let mut stretches = Vec::new();
            let tables = store.read();
            tables.stretches(inos[file], 100 * len, 1, Seq::NOW, &mut stretches).unwrap();
            stretches[0].at.unwrap()
        };
        let (sound, damaged) = (place(0), place(1));
        let path = match damaged.file {
            FileId::Content(number) => format!("content/{number:08}.dat"),
            FileId::Log(number) => format!("log/{number:08}.seg"),
        };
        assert!(disk.flip(&path, damaged.offset + 7, 3));
        for _ in 0..4 {
            user.clock.pass(&store).unwrap();
        }
        assert_ne!(place(0), sound, "the other file is put together");
        assert_eq!(place(1), damaged, "{path}");
        // All trees before are given up, with what relocations left behind.
        for _ in 0..2 {
            let set = SetAttr { mode: Some(0o100_600), ..SetAttr::default() };
            let change = Change::SetAttr { ino: inos[0], set, acl: None, drop_capability: false };
            changes::commit(&store, change).unwrap();
        }
        store.tick().unwrap();
        store.close().unwrap();
        let report = check_all(&disk);
        let is_there = |offset: u64| (damaged.offset..damaged.offset + len).contains(&offset);
        if len == 5000 {
            assert!(report.freed_bytes >= 255 * 4096, "{} bytes were freed", report.freed_bytes);
            let found =
                report.findings.iter().any(|found| found.file == path && is_there(found.offset));
            assert!(found, "{:?}", report.findings);
        } else {
            assert!(
                report.findings.iter().any(|found| found.file == path),
                "{:?}",
                report.findings
            );
        }
    }
}

#[test]
fn a_shorter_clone_of_a_clone_takes_nothing_away() {
    let disk = SimDisk::new(256 << 20);
    let options = OpenOptions { history: Some(0), ..options() };
    let store = Store::create_on(Arc::new(disk), &ROOMY, &options).unwrap();
    let mut user = User::default();
    for _ in 0..3 {
        user.make(&store).unwrap();
    }
    user.write(&store, 0, 0, &[7; 65_536]).unwrap();
    user.clone_range(&store, (0, 0), (1, 0), 65_536).unwrap();
    user.clone_range(&store, (1, 0), (2, 0), 4096).unwrap();
    user.write(&store, 0, 8192, &[8; 57_344]).unwrap();
    // So that there is history to give back, whatever counts as live.
    for fill in 0..4 {
        user.write(&store, 2, 0, &[fill; 200_000]).unwrap();
    }
    store.tick().unwrap();
    let horizon = store.horizon();
    assert!(horizon >= Seq(8), "{horizon}");
    user.compare(&store, "after the original was written over");
}

#[test]
fn what_clones_share_is_live_once_and_is_no_room_for_history() {
    const CLONED: u64 = 4 << 20;
    const BUDGET: u64 = 3 << 20;
    let disk = SimDisk::new(256 << 20);
    let options = OpenOptions { history: Some(BUDGET), ..options() };
    let store = Store::create_on(Arc::new(disk.clone()), &ROOMY, &options).unwrap();
    let mut user = User::default();
    for _ in 0..6 {
        user.make(&store).unwrap();
    }
    user.write(&store, 0, 0, &vec![7; CLONED as usize]).unwrap();
    let src = user.files[0].1;
    for file in 1..5 {
        let dst = user.files[file].1;
        let clone = Change::Clone {
            src,
            src_offset: 0,
            dst,
            dst_offset: 0,
            len: CLONED,
            ends: false,
            mode: None,
        };
        user.change(&store, clone).unwrap();
    }
    assert_eq!(store.read().totals().allocated, 5 * CLONED);
    tick_until(&store, Store::doubled, 4 * CLONED);
    let free = store.space().unwrap().available;
    // A part of one of them is its own from now on, and another file has a long history.
    user.write(&store, 4, 0, &[9; 4096]).unwrap();
    for fill in 0..20 {
        user.write(&store, 5, 0, &vec![fill; 1 << 20]).unwrap();
    }
    let taken = free - store.space().unwrap().available;
    for _ in 0..20 {
        store.tick().unwrap();
    }
    tick_until(&store, Store::doubled, 4 * CLONED - 4096);
    let live = CLONED + 4096 + (1 << 20);
    let size = store.size().unwrap().content;
    assert!(size <= live + BUDGET + ROOMY.shape.content_step, "{size} bytes for {live}");
    // History gives way to whoever needs its space, so it is free.
    let step = ROOMY.shape.content_step;
    assert!(taken <= (1 << 20) + 4096 + step, "{taken} bytes less are free");
    user.compare(&store, "within its budget");
    // The last one that has them has them alone.
    for _ in 0..4 {
        let (name, ino, _) = user.files.remove(0);
        user.change(&store, Change::Unlink { parent: Ino::ROOT, name: &name, ino }).unwrap();
        user.change(&store, Change::End { ino }).unwrap();
    }
    tick_until(&store, Store::doubled, 0);
    user.compare(&store, "with one of them left");
    assert_eq!(check_all(&disk).findings, []);
}

#[test]
fn what_is_left_of_the_last_page_of_a_file_is_no_history() {
    const FILES: u64 = 200;
    const BUDGET: u64 = 256 << 10;
    let disk = SimDisk::new(64 << 20);
    let options = OpenOptions { history: Some(BUDGET), ..options() };
    let store = create(&disk, &options).unwrap();
    let first = store.horizon();
    for n in 0..FILES {
        let ino = changes::make(&store, format!("file {n}").as_bytes()).unwrap();
        changes::write(&store, ino, 0, &[7; 5000]).unwrap();
    }
    let size = store.size().unwrap().content;
    assert!(size > FILES * 5000 + BUDGET, "{size} bytes");
    store.tick().unwrap();
    assert_eq!(store.horizon(), first, "nothing was ever written over");
    let totals = store.read().totals();
    assert_eq!((totals.allocated, totals.padded), (FILES * 5000, FILES * 8192));
    assert_eq!(store.live(), FILES * 8192);
    store.close().unwrap();
    drop(store);
    assert_eq!(open(&disk).unwrap().read().totals(), totals, "as the index has it");
    disk.remove("index/rows.redb").unwrap();
    assert_eq!(open(&disk).unwrap().read().totals(), totals, "as the log has it");
}

#[test]
fn a_clone_gives_its_space_back_whichever_of_the_two_goes_first() {
    for original_first in [true, false] {
        for rewrite in [true, false] {
            let disk = SimDisk::new(256 << 20);
            let options = OpenOptions { history: Some(0), ..options() };
            let store = Store::create_on(Arc::new(disk.clone()), &ROOMY, &options).unwrap();
            let mut user = User::default();
            user.make(&store).unwrap();
            user.make(&store).unwrap();
            user.write(&store, 0, 0, &vec![7; 5 << 20]).unwrap();
            user.clone_range(&store, (0, 0), (1, 0), 5 << 20).unwrap();
            let inos = [user.files[0].1, user.files[1].1];
            let order = if original_first { [0, 1] } else { [1, 0] };
            let mut left = 2;
            for at in order {
                if rewrite {
                    user.write(&store, at, 0, &vec![8; 5 << 20]).unwrap();
                } else {
                    let at = user.files.iter().position(|file| file.1 == inos[at]).unwrap();
                    user.unlink(&store, at).unwrap();
                    left -= 1;
                }
                user.make(&store).unwrap();
                store.tick().unwrap();
                user.compare(&store, "while one of them is there");
            }
            let size = store.size().unwrap().content;
            let live = left * (5 << 20);
            assert!(size <= live + ROOMY.shape.content_step, "{size} bytes for {live}");
            store.close().unwrap();
            assert_eq!(check_all(&disk).findings, []);
        }
    }
}

#[test]
fn what_a_small_clone_needs_keeps_nothing_beside_it() {
    for original_first in [true, false] {
        let disk = SimDisk::new(256 << 20);
        let options = OpenOptions { history: Some(0), ..options() };
        let store = Store::create_on(Arc::new(disk.clone()), &ROOMY, &options).unwrap();
        let mut user = User::default();
        for _ in 0..2 {
            user.make(&store).unwrap();
        }
        user.write(&store, 0, 0, &vec![7; 5 << 20]).unwrap();
        // Not whole pages, and not one piece.
        user.clone_range(&store, (0, 1 << 20), (1, 0), 5000).unwrap();
        user.clone_range(&store, (0, (3 << 20) + 100), (1, 100 << 10), 70_000).unwrap();
        let [original, clone] = [0, 1].map(|at| user.files[at].1);
        let goes = |user: &mut User, ino| {
            let at = user.files.iter().position(|file| file.1 == ino).unwrap();
            user.unlink(&store, at).unwrap();
            user.make(&store).unwrap();
            store.tick().unwrap();
            user.compare(&store, "while one of them is there, or none");
            store.size().unwrap().content
        };
        let (first, second) = if original_first { (original, clone) } else { (clone, original) };
        let size = goes(&mut user, first);
        let live = if original_first { 100 << 10 } else { 5 << 20 };
        assert!(size <= live + ROOMY.shape.content_step, "{size} bytes for {live}");
        let size = goes(&mut user, second);
        assert!(size <= ROOMY.shape.content_step, "{size} bytes for nothing");
        store.close().unwrap();
        assert_eq!(check_all(&disk).findings, []);
    }
}

#[test]
fn what_a_large_hole_leaves_is_found_at_once() {
    let disk = SimDisk::new(64 << 20);
    let store = create(&disk, &OpenOptions { history: Some(0), ..options() }).unwrap();
    let ino = changes::make(&store, b"file").unwrap();
    changes::write(&store, ino, 0, &[7; 50_000]).unwrap();
    changes::resize(&store, ino, (1 << 63) - (64 << 10)).unwrap();
    changes::write(&store, ino, 1 << 62, &[8; 50_000]).unwrap();
    changes::unlink(&store, ino, b"file").unwrap();
    changes::commit(&store, Change::End { ino }).unwrap();
    changes::make(&store, b"another").unwrap();
    let begin = Instant::now();
    for _ in 0..3 {
        store.tick().unwrap();
    }
    assert!(begin.elapsed() < Duration::from_secs(10), "{:?}", begin.elapsed());
    let size = store.size().unwrap().content;
    assert!(size <= SHAPE.content_step, "{size} bytes for nothing");
}

#[test]
fn a_kill_while_much_is_given_back_leaves_nothing_behind() {
    // A file in so many ranges that one note does not hold them.
    let run = |disk: &SimDisk| {
        let store = Store::create_on(
            Arc::new(disk.clone()),
            &ROOMY,
            &OpenOptions { history: Some(u64::MAX), ..options() },
        )
        .unwrap();
        let [file, other] =
            [&b"file"[..], b"other"].map(|name| changes::make(&store, name).unwrap());
        for n in 0..300 {
            changes::write(&store, file, n * 5000, &[7; 5000]).unwrap();
            changes::write(&store, other, n * 5000, &[8; 5000]).unwrap();
        }
        changes::unlink(&store, file, b"file").unwrap();
        changes::commit(&store, Change::End { ino: file }).unwrap();
        changes::make(&store, b"last").unwrap();
        store.close().unwrap();
    };
    let whole = SimDisk::new(64 << 20);
    run(&whole);
    let none = OpenOptions { history: Some(0), ..options() };
    let tick = |disk: &SimDisk| {
        let store = Store::open_on(Arc::new(disk.clone()), &none).unwrap();
        let _ = store.tick();
        store.size().unwrap().content
    };
    let before = whole.after_kill();
    let size = tick(&before);
    let steps = before.steps();
    for step in 0..steps {
        let disk = whole.after_kill();
        disk.cut_after(step);
        if let Ok(store) = Store::open_on(Arc::new(disk.clone()), &none) {
            let _ = store.tick();
        }
        let left = tick(&disk.after_power_cut(step));
        assert!(left <= size, "cut after step {step} of {steps}: {left} bytes, {size} else");
    }
}

#[test]
fn rewriting_a_file_for_ever_never_fills_the_disk() {
    // The disk holds 24 times what is live, and 40 times that is written.
    let disk = SimDisk::new(6 << 20);
    let store = create(&disk, &OpenOptions { history: Some(1 << 20), ..options() }).unwrap();
    let mut user = User::default();
    user.make(&store).unwrap();
    user.make(&store).unwrap();
    for round in 0..200_u32 {
        let bytes = vec![u8::try_from(round % 250).unwrap() + 1; 64 << 10];
        user.write(&store, 0, 0, &bytes).unwrap_or_else(|err| panic!("round {round}: {err}"));
        // Not a multiple of a page, so that pages are shared by what lives and what dies.
        let offset = u64::from(round) * 777 % 40_000;
        user.write(&store, 1, offset, &bytes[..5000]).unwrap();
        if round % 10 == 0 {
            store.tick().unwrap();
        }
    }
    store.tick().unwrap();
    assert!(store.horizon() > Seq(300), "the horizon is at {}", store.horizon());
    let live = store.read().totals().allocated;
    let content = store.size().unwrap().content;
    assert!(content <= live + (2 << 20), "{content} bytes for {live} live ones");
    user.compare(&store, "in service");
    drop(store);
    let disk = disk.after_kill();
    let store = open(&disk).unwrap();
    assert!(store.horizon() > Seq(300));
    user.compare(&store, "after a kill");
    assert_eq!(check_all(&disk).findings, []);
}

#[test]
fn a_write_on_a_full_disk_takes_its_space_from_history() {
    let disk = SimDisk::new(4 << 20);
    let store = create(&disk, &OpenOptions { history: Some(u64::MAX), ..options() }).unwrap();
    let mut user = User::default();
    user.make(&store).unwrap();
    for round in 0..100_u8 {
        // Nothing else runs: only the write itself can make room.
        user.write(&store, 0, 0, &vec![round; 100 << 10])
            .unwrap_or_else(|err| panic!("round {round}: {err}"));
    }
    user.compare(&store, "after 10 MB on 4 MiB");
}

#[test]
fn what_is_live_fills_the_disk_and_removing_it_gives_space_back() {
    let disk = SimDisk::new(4 << 20);
    let store = create(&disk, &options()).unwrap();
    let mut user = User::default();
    let err = loop {
        let result = user
            .make(&store)
            .and_then(|()| user.write(&store, user.files.len() - 1, 0, &vec![7; 100 << 10]));
        if let Err(err) = result {
            break err;
        }
        assert!(user.files.len() < 100);
    };
    assert!(matches!(err, CommitError::NoSpace), "{err:?}");
    user.compare(&store, "on a full disk");
    while !user.files.is_empty() {
        user.unlink(&store, 0).unwrap();
        store.sync().unwrap();
    }
    user.make(&store).unwrap();
    user.write(&store, 0, 0, &vec![8; 500 << 10]).unwrap();
    user.compare(&store, "after removing all");
}

#[test]
fn clones_keep_what_they_refer_to() {
    for seed in 1..=8 {
        let disk = SimDisk::new(64 << 20);
        let store = create(&disk, &OpenOptions { history: Some(0), ..options() }).unwrap();
        let mut user = User::default();
        let mut random = Random(seed);
        for _ in 0..30 {
            user.work(&store, &mut random, 10).unwrap();
            store.tick().unwrap();
            user.compare(&store, &format!("seed {seed}"));
        }
        assert!(store.horizon() > Seq(100));
        store.close().unwrap();
        assert_eq!(check_all(&disk).findings, []);
    }
}

/// Every (content file, offset, length) that a write refers to.
fn extents(store: &Store) -> Vec<(u32, u64, u64)> {
    let mut reader = store.log(None).unwrap();
    let mut found = Vec::new();
    while let Next::Record(_, record) = reader.read().unwrap() {
        if let Some(Entry::Event(event)) = record.entry()
            && let Change::Write { data, .. } = event.change
            && let Place::Extent { location, len, .. } = data.place
            && let FileId::Content(file) = location.file
        {
            found.push((file, location.offset, len));
        }
    }
    found
}

#[test]
fn one_flipped_bit_is_found_with_its_place_and_never_panics() {
    let disk = SimDisk::new(1 << 30);
    let store = create(&disk, &options()).unwrap();
    let mut user = User::default();
    let mut random = Random(5);
    user.work(&store, &mut random, 250).unwrap();
    let extents = extents(&store);
    store.close().unwrap();
    drop(store);
    let clean = check_all(&disk);
    assert_eq!(clean.findings, []);
    assert!(clean.seals > 10 && clean.events > 200 && clean.content_bytes > 100_000);
    let segments = disk.list("log").unwrap().len();
    for round in 0..400 {
        let disk = disk.after_kill();
        let bit = u8::try_from(random.below(8)).unwrap();
        let (path, at) = if round % 3 == 0 {
            let (file, offset, len) = extents[random.below(extents.len())];
            let at = offset + random.below(usize::try_from(len).unwrap()) as u64;
            (format!("content/{file:08}.dat"), at)
        } else {
            let path = format!("log/{:08}.seg", 1 + random.below(segments));
            let len = disk.bytes(&path).unwrap().len();
            (path, random.below(len) as u64)
        };
        assert!(disk.flip(&path, at, bit));
        let report = check_all(&disk);
        let what = format!("{path}, byte {at}, bit {bit}");
        let found = report.findings.iter().find(|finding| finding.file == path);
        let Some(found) = found else { panic!("{what} was not found: {:?}", report.findings) };
        // The place is that of the record or the piece it is in.
        assert!(found.offset <= at, "{what} was found at {}", found.offset);
        assert!(at - found.offset < 64 << 10, "{what} was found at {}", found.offset);
        // Opening may refuse, or give a store that can be read; nothing else.
        if round % 10 == 0
            && let Ok(store) = open(&disk)
        {
            let _ = store.read().inode(Ino::ROOT, Seq::NOW);
        }
    }
    for at in (0..512).step_by(3) {
        let disk = disk.after_kill();
        assert!(disk.flip("super", at, 2));
        let report = check_all(&disk);
        assert_eq!(report.findings.first().map(|found| &found.file[..]), Some("super"), "{at}");
        open(&disk).unwrap();
    }
}

#[test]
fn a_store_whose_index_is_damaged_is_closed_and_rebuilds_it() {
    const INDEX: &str = "index/rows.redb";
    let disk = SimDisk::new(1 << 30);
    let store = create(&disk, &options()).unwrap();
    let mut user = User::default();
    user.work(&store, &mut Random(7), 250).unwrap();
    let victims: Vec<(Vec<u8>, Ino)> = (0..400)
        .map(|number| {
            let name = format!("victim {number}").into_bytes();
            let ino = changes::make(&store, &name).unwrap();
            (name, ino)
        })
        .collect();
    let before = store.read().last();
    store.close().unwrap();
    drop(store);
    let bytes = disk.bytes(INDEX).unwrap();
    // Where pages begin that something is in.
    let pages =
        bytes.chunks(4096).enumerate().filter(|(_, page)| page.iter().any(|byte| *byte != 0));
    let heads: Vec<u64> = pages.map(|(number, _)| number as u64 * 4096).collect();
    let mut random = Random(8);
    let (mut removed, mut torn) = (0, 0);
    for round in 0..300 {
        let disk = disk.after_kill();
        let place = match round % 3 {
            0 => random.below(bytes.len()) as u64,
            1 => heads[random.below(heads.len())],
            _ => heads[random.below(heads.len())] + random.below(4096) as u64,
        };
        assert!(disk.flip(INDEX, place, 3));
        let store = open(&disk).unwrap();
        // What reads a damaged page is refused; that goes for changes too.
        let mut last = before;
        for (name, ino) in victims.iter().skip(random.below(20)).step_by(20) {
            let result =
                changes::commit(&store, Change::Unlink { parent: Ino::ROOT, name, ino: *ino });
            // It is in the log, so it has happened.
            last = Seq(last.0 + 1);
            match result {
                Ok(_) => (),
                Err(CommitError::Index(_)) => {
                    torn += 1;
                    break;
                }
                Err(err) => panic!("{err}"),
            }
        }
        store.close().unwrap();
        drop(store);
        removed += usize::from(disk.bytes(INDEX).is_none());
        let store = open(&disk).unwrap();
        assert_eq!(store.read().last(), last, "round {round}");
        assert!(disk.bytes(INDEX).is_some());
    }
    assert!(removed > 0, "no damage was met when the store was closed");
    assert!(torn > 0, "no damage was met when a change was folded in");
}

/// Reads the log to where it ends, or is damaged.
fn damage_of_log(store: &Store) -> Option<Damage> {
    let mut reader = store.log(None).ok()?;
    loop {
        match reader.read() {
            Ok(Next::Record(..)) => (),
            Ok(Next::End(_)) => return None,
            Err(err) => return Some(damage_in(&err).expect("the disk is well").clone()),
        }
    }
}

#[test]
fn damage_in_an_old_segment_never_makes_a_store_silently_shorter() {
    let whole = SimDisk::new(1 << 30);
    let shape = Shape { segment_len: 8 << 10, ..SHAPE };
    let create = CreateOptions { shape, ..CreateOptions::default() };
    let store = Store::create_on(Arc::new(whole.clone()), &create, &options()).unwrap();
    let mut user = User::default();
    user.saw(&store, Seq::FIRST);
    user.work(&store, &mut Random(6), 250).unwrap();
    let last = store.read().last();
    store.close().unwrap();
    drop(store);
    // The last one was only set aside.
    let segments = whole.list("log").unwrap().len() - 1;
    assert!(segments > 6);
    let mut random = Random(7);
    let (mut damaged, mut harmless) = (0, 0);
    for round in 0..60 {
        let disk = whole.after_kill();
        let number = 1 + u32::try_from(random.below(segments)).unwrap();
        let path = format!("log/{number:08}.seg");
        let bytes = disk.bytes(&path).unwrap();
        let at = random.below(bytes.len());
        let how = match round % 4 {
            0 => {
                disk.open(&path, false).unwrap().set_len(at as u64).unwrap();
                "cut"
            }
            1 => {
                disk.remove(&path).unwrap();
                "removed"
            }
            2 => {
                let noise = vec![0xa5; (bytes.len() - at).min(4096)];
                disk.open(&path, false).unwrap().write_at(&noise, at as u64).unwrap();
                "overwritten"
            }
            _ => {
                assert!(disk.flip(&path, at as u64, 3));
                "flipped"
            }
        };
        let what = format!("{path} {how} at {at}");
        // As long as there is an index, nothing is missing; but who reads the log hears of it.
        if number < u32::try_from(segments).unwrap() {
            let store = open(&disk.after_kill()).unwrap();
            assert_eq!(
                (store.opening().damage.clone(), store.read().last()),
                (None, last),
                "{what}"
            );
            if let Some(damage) = damage_of_log(&store) {
                assert_eq!(damage.at.segment, number, "{what}: {damage}");
            }
        }
        disk.remove("index/rows.redb").unwrap();
        for opened in ["first", "again"] {
            let store = match open(&disk) {
                Ok(store) => store,
                Err(OpenError::Damaged(damage)) => {
                    assert_eq!((number, damage.at.segment), (1, 1), "{what}: {damage}");
                    assert!(damage.at.offset as usize <= at, "{what}: {damage}");
                    damaged += 1;
                    continue;
                }
                Err(err) => panic!("{what}: {err}"),
            };
            let now = store.read().last();
            if opened == "first" {
                user.compare(&store, &what);
            }
            let Some(damage) = store.opening().damage.clone() else {
                assert_eq!(now, last, "{what}, opened {opened}: events are missing");
                harmless += 1;
                break;
            };
            assert!(now < last, "{what}: {now}");
            assert_eq!(damage.at.segment, number, "{what}: {damage}");
            assert!(damage.at.offset as usize <= at, "{what}: {damage}");
            let Err(CommitError::ReadOnly(why)) = store.begin().map(drop) else {
                panic!("{what}: changes must be refused")
            };
            assert!(why.contains(&path), "{what}: {why}");
            damaged += 1;
            store.close().unwrap();
        }
        // Restored from a backup.
        let file = disk.open(&path, true).unwrap();
        file.write_at(&bytes, 0).unwrap();
        let store = open(&disk).unwrap_or_else(|err| panic!("{what}: {err}"));
        assert_eq!((store.opening().damage.clone(), store.read().last()), (None, last), "{what}");
        user.clone().make(&store).unwrap();
    }
    assert!(damaged > 80 && harmless > 0, "{damaged} damaged, {harmless} harmless");
}

#[test]
fn a_store_of_this_machine_is_made_opened_and_closed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    assert!(matches!(Store::open(&path, &OpenOptions::default()), Err(OpenError::Missing)));
    let create = CreateOptions { mode: 0o750, uid: 5, gid: 6, ..CreateOptions::default() };
    let store = Store::create(&path, &create, &OpenOptions::default()).unwrap();
    let root = store.read().inode(Ino::ROOT, Seq::NOW).unwrap().unwrap();
    assert_eq!((root.mode, root.uid, root.gid), (0o040_750, 5, 6));
    let mut user = User::default();
    let mut random = Random(1);
    user.work(&store, &mut random, 100).unwrap();
    let Err(OpenError::Locked { pid }) = Store::open(&path, &OpenOptions::default()) else {
        panic!("one at a time")
    };
    assert_eq!(pid, Some(std::process::id()));
    // Dropped without closing is as good as killed.
    drop(store);
    let store = Store::open(&path, &OpenOptions::default()).unwrap();
    assert_eq!(store.opening().stop, Stop::Killed);
    user.compare(&store, "after a kill");
    user.work(&store, &mut random, 50).unwrap();
    store.close().unwrap();
    drop(store);
    let read_only = OpenOptions { read_only: true, ..OpenOptions::default() };
    let store = Store::open(&path, &read_only).unwrap();
    assert_eq!((store.opening().stop, store.opening().replayed), (Stop::Clean, 0));
    user.compare(&store, "after a clean stop");
    assert!(matches!(store.begin().err(), Some(CommitError::ReadOnly(_))));
    drop(store);
    let disk: Arc<dyn Disk> = Arc::new(Real::read_only(&path).unwrap());
    assert_eq!(verify(&disk, &mut |_, _| ()).unwrap().findings, []);
}

#[test]
fn many_threads_change_sync_and_read_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let store =
        Store::create(dir.path(), &CreateOptions::default(), &OpenOptions::default()).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4_u8 {
            let store = &store;
            scope.spawn(move || {
                let ino = changes::make(store, &[b'a' + thread]).unwrap();
                for round in 0..50_u64 {
                    let fill = thread * 50 + u8::try_from(round).unwrap();
                    let bytes = vec![fill; 10_000];
                    let seq = changes::write(store, ino, 0, &bytes).unwrap();
                    if round % 10 == 0 {
                        store.sync().unwrap();
                    }
                    let _pin = store.pin();
                    let mut stretches = Vec::new();
                    store.read().stretches(ino, 0, 10_000, seq, &mut stretches).unwrap();
                    let mut read = vec![0; 10_000];
                    store.read_content(&stretches, &mut read).unwrap();
                    assert_eq!(read, bytes);
                }
            });
        }
    });
    store.close().unwrap();
}

#[test]
fn always_means_that_no_acknowledged_change_is_ever_lost() {
    use lighthouse_fuse::store::Durability;
    let always = OpenOptions { durability: Durability::Always, ..options() };
    for seed in 0..20 {
        let disk = SimDisk::new(1 << 30);
        let store = create(&disk, &always).unwrap();
        let mut user = User::default();
        let mut random = Random(seed);
        disk.cut_after(20 + 10 * seed);
        let _ = user.work(&store, &mut random, 50);
        let store = open(&disk.after_power_cut(seed)).unwrap();
        // `files` and `trees` hold what was acknowledged.
        let last = user.trees.keys().next_back().copied().unwrap_or(Seq::FIRST);
        assert!(store.read().last() >= last, "seed {seed}: {} of {last}", store.read().last());
        user.compare(&store, &format!("seed {seed}"));
    }
}

#[test]
fn async_means_that_a_sync_does_not_touch_the_disk() {
    use lighthouse_fuse::store::Durability;
    let disk = SimDisk::new(1 << 30);
    let store = create(&disk, &OpenOptions { durability: Durability::Async, ..options() }).unwrap();
    let mut user = User::default();
    user.make(&store).unwrap();
    let steps = disk.steps();
    store.sync().unwrap();
    assert_eq!(disk.steps(), steps);
    store.tick().unwrap();
    assert!(disk.steps() > steps);
    let store = open(&disk.after_power_cut(1)).unwrap();
    assert_eq!(Some(&store.read().last()), user.trees.keys().next_back());
}

#[test]
fn what_was_placed_and_not_committed_gives_its_space_back() {
    let disk = SimDisk::new(1 << 30);
    let store = create(&disk, &options()).unwrap();
    let mut placed = Placed::default();
    let before = store.size().unwrap().content;
    for _ in 0..50 {
        let bytes = [7; 50_000];
        let data = store.place(&bytes, &mut placed).unwrap();
        store.unplace(&data);
    }
    let after = store.size().unwrap().content;
    assert!(after <= before + SHAPE.content_step + 50_000, "{after} bytes");
    // Nor does what the log did not take keep any.
    let ino = changes::make(&store, b"file").unwrap();
    for _ in 0..50 {
        let data = store.place(&[7; 50_000], &mut placed).unwrap();
        disk.fail(Step::Write, 0, 1, 5);
        let change =
            Change::Write { ino, offset: 0, data, ends: false, mode: None, drop_capability: false };
        changes::commit(&store, change).unwrap_err();
        disk.mend();
    }
    let after = store.size().unwrap().content;
    assert!(after <= before + SHAPE.content_step + 50_000, "{after} bytes");
}

#[test]
fn a_store_whose_index_fell_behind_on_a_full_disk_opens_there() {
    let disk = SimDisk::new(1 << 30);
    let interval = Some(Duration::from_secs(3600));
    let threaded = OpenOptions { sync_interval: interval, ..options() };
    let shape = Shape { segment_len: 4 << 20, ..ROOMY.shape };
    let create = CreateOptions { shape, ..ROOMY };
    let store = Store::create_on(Arc::new(disk.clone()), &create, &threaded).unwrap();
    store.sync().unwrap();
    store.tick().unwrap();
    let space = disk.space().unwrap();
    disk.resize(space.total - space.available);
    let mut made = Vec::new();
    // Killed at any moment, while the index's thread tries to commit what it has.
    let mut killed = Vec::new();
    for number in 0..3000 {
        match changes::make(&store, format!("file {number}").as_bytes()) {
            Ok(ino) => made.push(ino),
            // What grows is refused once the index waits; what takes no space goes on.
            Err(err) => {
                assert!(matches!(err, CommitError::NoSpace), "{err:?}");
                changes::resize(&store, made[0], number).unwrap();
            }
        }
        if number % 250 == 249 {
            killed.push((disk.after_kill(), store.read().last()));
        }
    }
    drop(store);
    for (disk, last) in killed {
        let store = Store::open_on(Arc::new(disk.clone()), &threaded).unwrap();
        assert_eq!(store.read().last(), last);
        changes::unlink(&store, made[0], b"file 0").unwrap();
        assert!(store.read().entry(Ino::ROOT, b"file 1", Seq::NOW).unwrap().is_some());
        // Once there is space, nothing is left of it.
        disk.resize(1 << 30);
        for number in 0..1000 {
            changes::make(&store, format!("new file {number}").as_bytes()).unwrap();
        }
        let last = store.read().last();
        store.close().unwrap();
        drop(store);
        let store = open(&disk).unwrap();
        assert_eq!((store.opening().replayed, store.read().last()), (0, last));
        assert!(store.read().entry(Ino::ROOT, b"file 0", Seq::NOW).unwrap().is_none());
        assert!(store.read().entry(Ino::ROOT, b"new file 999", Seq::NOW).unwrap().is_some());
    }
}

#[test]
fn closing_on_a_full_disk_takes_what_the_index_needs_from_history_or_leaves_it_to_the_next_start() {
    const EACH: usize = 8 << 20;
    for (interval, pinned) in [(None, false), (Some(3600), false), (None, true), (Some(3600), true)]
    {
        let disk = SimDisk::new(1 << 30);
        let sync_interval = interval.map(Duration::from_secs);
        // None of it is committed before the end.
        let memory = 64 << 20;
        let options = OpenOptions { history: Some(u64::MAX), sync_interval, memory, ..options() };
        let store = Store::create_on(Arc::new(disk.clone()), &ROOMY, &options).unwrap();
        if pinned {
            store.label(b"kept", None).unwrap();
        }
        let mut user = User::default();
        user.make(&store).unwrap();
        for round in 0..4_u8 {
            user.write(&store, 0, 0, &vec![round; EACH]).unwrap();
        }
        let made = |number: usize| format!("made {number}").into_bytes();
        // More than the index has room for.
        for number in 0..3000 {
            changes::make(&store, &made(number)).unwrap();
        }
        store.sync().unwrap();
        let last = store.read().last();
        let space = disk.space().unwrap();
        disk.resize(space.total - space.available);
        store.close().unwrap();
        assert_eq!(disk.space().unwrap().available > 0, !pinned, "{interval:?}");
        drop(store);
        // What closing said is durable, and so is what it wrote.
        let disk = disk.after_power_cut(7);
        let store = Store::open_on(Arc::new(disk.clone()), &options).unwrap();
        let opening = store.opening();
        assert!(matches!(opening.stop, Stop::Clean) && opening.damage.is_none(), "{opening:?}");
        assert_eq!(opening.replayed > 0, pinned, "{interval:?}: {opening:?}");
        assert_eq!(store.horizon() > Seq(4), !pinned, "{interval:?}");
        assert_eq!(store.read().last(), last);
        for number in 0..3000 {
            let found = store.read().entry(Ino::ROOT, &made(number), Seq::NOW).unwrap();
            assert!(found.is_some(), "{number}");
        }
        let ino = user.files[0].1;
        let content = changes::content(&store, &store.read(), ino, Seq::NOW).unwrap();
        assert_eq!(content, vec![3; EACH]);
        store.close().unwrap();
        assert_eq!(check_all(&disk).findings, []);
    }
}

/// Makes files on a disk until it is full, while a label keeps history from giving way, and removes them again until that is
/// refused: `fill` leaves little space and `empty` gives it back. Returns the store, now that there is space again, what is
/// left in it, and how many files could be removed.
fn remove_on_a_full_disk(
    disk: &Arc<dyn Disk>,
    options: &OpenOptions,
    fill: impl FnOnce(),
    empty: impl FnOnce(),
) -> (Store, BTreeMap<String, Ino>, usize) {
    const FILES: usize = 20_000;
    let shape = Shape { segment_len: 8 << 20, ..ROOMY.shape };
    let create = CreateOptions { shape, ..ROOMY };
    let store = Store::create_on(disk.clone(), &create, options).unwrap();
    store.label(b"kept", None).unwrap();
    let mut made = Vec::new();
    let make = |made: &mut Vec<(String, Ino)>| {
        let name = format!("file {}", made.len());
        changes::make(&store, name.as_bytes()).map(|ino| made.push((name, ino)))
    };
    for _ in 0..FILES {
        make(&mut made).unwrap();
    }
    store.sync().unwrap();
    store.tick().unwrap();
    fill();
    let refused = loop {
        if let Err(err) = make(&mut made) {
            break err;
        }
    };
    assert!(matches!(refused, CommitError::NoSpace), "{refused:?}");
    let mut random = Random(7);
    for at in (1..made.len()).rev() {
        made.swap(at, random.below(at + 1));
    }
    let (mut name, kept) = made.pop().unwrap();
    let mut left: BTreeMap<String, Ino> = made.iter().cloned().collect();
    let mut removed = 0;
    let refused = loop {
        if made.len() < 100 {
            break None;
        }
        let Some((gone, ino)) = made.pop() else { break None };
        let mut remove = || {
            changes::unlink(&store, ino, gone.as_bytes())?;
            left.remove(&gone);
            changes::commit(&store, Change::End { ino })?;
            if removed % 100 == 0 {
                let before = std::mem::replace(&mut name, format!("name {removed}"));
                changes::rename(&store, kept, before.as_bytes(), name.as_bytes())
                    .inspect_err(|_| name = before.clone())?;
                changes::resize(&store, kept, removed as u64)?;
            }
            Ok::<(), CommitError>(())
        };
        if let Err(err) = remove() {
            break Some(err);
        }
        removed += 1;
        // Nobody who asks notices anything, nor who waits for the disk.
        let (asked, ino) = &made[random.below(made.len())];
        let found = store.read().entry(Ino::ROOT, asked.as_bytes(), Seq::NOW).unwrap();
        assert_eq!(found.map(|entry| entry.ino), Some(*ino));
        if removed % 1000 == 0 {
            store.sync().unwrap();
        }
    };
    assert!(matches!(refused, None | Some(CommitError::NoSpace)), "{refused:?}");
    store.sync().unwrap();
    left.insert(name, kept);
    empty();
    (store, left, removed)
}

/// Whether `store` has the files of `left`, and takes new ones.
fn has_and_takes(store: &Store, left: &BTreeMap<String, Ino>) {
    for (name, ino) in left {
        let found = store.read().entry(Ino::ROOT, name.as_bytes(), Seq::NOW).unwrap();
        assert_eq!(found.map(|entry| entry.ino), Some(*ino), "{name}");
    }
    for number in 0..3000 {
        changes::make(store, format!("new file {number}").as_bytes()).unwrap();
    }
}

#[test]
fn on_a_full_disk_whose_history_cannot_give_way_thousands_of_files_can_be_removed() {
    for (memory, least) in [(8 << 20, 800), (64 << 20, 10_000)] {
        let disk = SimDisk::new(1 << 30);
        let options = OpenOptions { memory, ..OpenOptions::default() };
        let fill = || {
            let space = disk.space().unwrap();
            disk.resize(space.total - space.available + (1 << 20));
        };
        let full = std::cell::OnceCell::new();
        let empty = || {
            full.set(disk.after_kill()).ok().unwrap();
            disk.resize(1 << 30);
        };
        let on: Arc<dyn Disk> = Arc::new(disk.clone());
        let (store, left, removed) = remove_on_a_full_disk(&on, &options, fill, empty);
        assert!(removed >= least, "{removed} files with {memory} bytes of memory");
        has_and_takes(&store, &left);
        store.close().unwrap();
        drop(store);
        assert_eq!(Store::open_on(on, &options).unwrap().opening().replayed, 0);
        // Killed while there was no space, it opens all the same, and goes on once there is some.
        let disk = full.into_inner().unwrap();
        let store = Store::open_on(Arc::new(disk.clone()), &options).unwrap();
        disk.resize(1 << 30);
        has_and_takes(&store, &left);
        store.close().unwrap();
    }
}

#[test]
fn on_a_full_filesystem_thousands_of_files_can_be_removed() {
    let place = tempfile::tempdir().unwrap();
    let at = place.path();
    let size = Some(c"size=96m");
    if let Err(err) = rustix::mount::mount("none", at, "tmpfs", MountFlags::empty(), size) {
        eprintln!("skipped: no tmpfs can be mounted here ({err})");
        return;
    }
    let ballast = at.join("ballast");
    std::fs::create_dir(at.join("store")).unwrap();
    let disk: Arc<dyn Disk> = Arc::new(Real::new(&at.join("store")).unwrap());
    let options = OpenOptions { memory: 64 << 20, ..OpenOptions::default() };
    let fill = || {
        let file = std::fs::File::create(&ballast).unwrap();
        let allocate =
            |len| rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, len);
        // The index may grow in between.
        while let Err(err) = allocate(disk.space().unwrap().available - (1 << 20)) {
            assert_eq!(err, rustix::io::Errno::NOSPC);
        }
    };
    let empty = || std::fs::remove_file(&ballast).unwrap();
    let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let (store, left, removed) = remove_on_a_full_disk(&disk, &options, fill, empty);
        assert!(removed >= 10_000, "{removed} files");
        has_and_takes(&store, &left);
        store.close().unwrap();
        drop(store);
        assert_eq!(Store::open_on(disk.clone(), &options).unwrap().opening().replayed, 0);
    }));
    rustix::mount::unmount(at, UnmountFlags::DETACH).unwrap();
    done.unwrap();
}

#[test]
fn a_page_travels_in_its_event_unless_it_goes_on_and_older_programs_are_told_so_before() {
    let disk = SimDisk::new(1 << 30);
    let store = create(&disk, &options()).unwrap();
    let mut user = User::default();
    user.make(&store).unwrap();
    let is_placed = |user: &User, offset| {
        let mut found = Vec::new();
        store.read().stretches(user.files[0].1, offset, 4096, Seq::NOW, &mut found).unwrap();
        assert_eq!(found.len(), 1);
        found[0].at.unwrap().file
    };
    user.write(&store, 0, 0, &[1; 4095]).unwrap();
    user.write_on(&store, 0, 8192, &[2; 4096]).unwrap();
    assert_eq!(is_placed(&user, 8192), FileId::Content(1));
    assert_eq!(Super::read(&disk).unwrap().version, 1, "as long as there is nothing to know");
    // Who cannot tell them, does not do it.
    disk.fail(Step::Sync, 1, 1, 5);
    let failed = user.write(&store, 0, 20_480, &[3; 4096]).unwrap_err();
    assert!(matches!(failed, CommitError::Io(_)), "{failed}");
    disk.mend();
    user.write(&store, 0, 20_480, &[3; 4096]).unwrap();
    assert_eq!(is_placed(&user, 20_480), FileId::Log(1));
    let bytes = disk.bytes("super").unwrap();
    for copy in [0, 4096] {
        assert_eq!(bytes[copy + 8..copy + 12], 3_u32.to_le_bytes(), "the copy at {copy}");
    }
    store.sync().unwrap();
    drop(store);
    let disk = disk.after_power_cut(1);
    let store = open(&disk).unwrap();
    user.compare(&store, "after a power cut");
    let mut bytes = [0; 4096];
    let mut found = Vec::new();
    store.read().stretches(user.files[0].1, 20_480, 4096, Seq::NOW, &mut found).unwrap();
    store.read_content(&found, &mut bytes).unwrap();
    assert_eq!(bytes, [3; 4096]);
    store.close().unwrap();
    assert_eq!(check_all(&disk).findings, []);
}

#[test]
fn older_programs_are_told_before_content_ends_a_file() {
    let disk = SimDisk::new(1 << 30);
    let store = create(&disk, &options()).unwrap();
    let (file, other) =
        (changes::make(&store, b"file").unwrap(), changes::make(&store, b"other").unwrap());
    let replace = |store: &Store, bytes: &[u8]| {
        let mut placed = Placed::default();
        let data = store.place(bytes, &mut placed)?;
        let (ino, mode, drop_capability) = (file, None, false);
        let change = Change::Write { ino, offset: 0, data, ends: true, mode, drop_capability };
        changes::commit(store, change)
    };
    changes::write(&store, file, 0, &[1; 100_000]).unwrap();
    changes::write(&store, other, 0, &[2; 70_000]).unwrap();
    assert_eq!(Super::read(&disk).unwrap().version, 1, "as long as there is nothing to know");
    // Who cannot tell them, does not do it.
    disk.fail(Step::Sync, 1, 1, 5);
    let failed = replace(&store, b"short").unwrap_err();
    assert!(matches!(failed, CommitError::Io(_)), "{failed}");
    disk.mend();
    let before = store.read().last();
    let written = replace(&store, b"short").unwrap();
    assert_eq!(written, before.next());
    let bytes = disk.bytes("super").unwrap();
    for copy in [0, 4096] {
        assert_eq!(bytes[copy + 8..copy + 12], 4_u32.to_le_bytes(), "the copy at {copy}");
    }
    let clone = Change::Clone {
        src: other,
        src_offset: 0,
        dst: file,
        dst_offset: 0,
        len: 65_537,
        ends: true,
        mode: None,
    };
    changes::write(&store, file, 0, &[3; 90_000]).unwrap();
    let cloned = changes::commit(&store, clone).unwrap();
    store.sync().unwrap();
    let check = |store: &Store| {
        let tables = store.read();
        let content = |at| changes::content(store, &tables, file, at).unwrap();
        assert!(content(before) == [1; 100_000]);
        assert!(content(written) == b"short");
        assert!(content(written.next()) == [3; 90_000]);
        assert!(content(cloned) == [2; 65_537] && content(Seq::NOW) == [2; 65_537]);
        assert_eq!(tables.inode(file, Seq::NOW).unwrap().unwrap().allocated, 65_537);
    };
    check(&store);
    drop(store);
    let disk = disk.after_power_cut(1);
    let store = open(&disk).unwrap();
    check(&store);
    store.close().unwrap();
    assert_eq!(check_all(&disk).findings, []);
}

#[test]
fn what_was_behind_content_that_ends_a_file_is_given_back() {
    const LONG: usize = 1 << 20;
    const BUDGET: u64 = 2 << 20;
    let disk = SimDisk::new(256 << 20);
    let options = OpenOptions { history: Some(BUDGET), ..options() };
    let store = Store::create_on(Arc::new(disk.clone()), &ROOMY, &options).unwrap();
    let src = changes::make(&store, b"source").unwrap();
    let ino = changes::make(&store, b"file").unwrap();
    changes::write(&store, src, 0, &[1; 5000]).unwrap();
    for round in 0..40 {
        changes::write(&store, ino, 0, &vec![round; LONG]).unwrap();
        let mut placed = Placed::default();
        let (mode, ends) = (None, true);
        let change = if round % 2 == 0 {
            let data = store.place(b"short", &mut placed).unwrap();
            Change::Write { ino, offset: 0, data, ends, mode, drop_capability: false }
        } else {
            let (src_offset, dst, dst_offset, len) = (0, ino, 0, 5000);
            Change::Clone { src, src_offset, dst, dst_offset, len, ends, mode }
        };
        changes::commit(&store, change).unwrap();
        store.tick().unwrap();
    }
    for _ in 0..20 {
        store.tick().unwrap();
    }
    let size = store.size().unwrap().content;
    assert!(size <= BUDGET + ROOMY.shape.content_step, "{size} bytes");
    assert_eq!(changes::content(&store, &store.read(), ino, Seq::NOW).unwrap(), [1; 5000]);
    store.close().unwrap();
    assert_eq!(check_all(&disk).findings, []);
}

#[test]
fn where_somebody_waits_for_each_write_longer_ones_travel_in_their_events_too() {
    let disk = SimDisk::new(1 << 30);
    let store = Store::create_on(Arc::new(disk.clone()), &ROOMY, &options()).unwrap();
    let mut user = User::default();
    user.make(&store).unwrap();
    let in_event = |user: &mut User, offset, len| {
        user.write(&store, 0, offset, &vec![7; len]).unwrap();
        let mut found = Vec::new();
        store.read().stretches(user.files[0].1, offset, 1, Seq::NOW, &mut found).unwrap();
        matches!(found[0].at.unwrap().file, FileId::Log(_))
    };
    assert!(!in_event(&mut user, 0, 10_000), "nobody waited so far");
    store.sync().unwrap();
    for len in [4097, 10_000, 61_440] {
        assert!(in_event(&mut user, 100_000, len), "{len} bytes");
        store.sync().unwrap();
    }
    assert!(!in_event(&mut user, 200_000, 61_441), "too long");
    store.sync().unwrap();
    // What goes on from the last write is no exception: there would be two files to wait for.
    user.write_on(&store, 0, 300_000, &[8; 4096]).unwrap();
    // More is written without waiting: then it belongs into content files, page by page.
    for _ in 0..10 {
        user.write(&store, 0, 400_000, &[9; 30_000]).unwrap();
    }
    assert!(!in_event(&mut user, 500_000, 4097));
    store.sync().unwrap();
    assert!(!in_event(&mut user, 500_000, 4097), "the last wait was for much");
    // A tick of the store's own is nobody's wait.
    for _ in 0..3 {
        store.tick().unwrap();
    }
    assert!(!in_event(&mut user, 500_000, 4097));
    store.sync().unwrap();
    assert!(in_event(&mut user, 500_000, 4097));
    store.sync().unwrap();
    drop(store);
    let disk = disk.after_power_cut(2);
    let store = open(&disk).unwrap();
    user.compare(&store, "after a power cut");
    store.close().unwrap();
    assert_eq!(check_all(&disk).findings, []);
}

/// Where the child of the next test works; it is one only if this is set.
const CHILD: &str = "LIGHTHOUSE_TEST_STORE";

/// Not a test of its own: the process that the next test kills. Says each event that it was told of.
#[test]
fn child_that_writes_until_it_is_killed() {
    use std::io::Write as _;
    let Some(path) = std::env::var_os(CHILD) else { return };
    let store =
        Store::open_or_create(path.as_ref(), &CreateOptions::default(), &OpenOptions::default())
            .unwrap();
    loop {
        let name = store.read().last().to_string();
        let ino = changes::make(&store, name.as_bytes()).unwrap();
        let len = usize::try_from(ino.0 % 7 * 3000).unwrap();
        let bytes = vec![u8::try_from(ino.0 % 251).unwrap(); len];
        let seq = changes::write(&store, ino, 0, &bytes).unwrap();
        let mut out = std::io::stderr().lock();
        writeln!(out, "told {seq}").unwrap();
    }
}

#[test]
fn a_killed_process_loses_nothing_it_was_told_of() {
    use std::io::{BufRead as _, BufReader};
    use std::process::{Command, Stdio};
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let mut told = Vec::new();
    for round in 0..6_usize {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child_that_writes_until_it_is_killed", "--nocapture"])
            .env(CHILD, &path)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        for _ in 0..50 + round * 300 {
            let line = lines.next().expect("it writes until it is killed").unwrap();
            let seq = line.strip_prefix("told ").expect("it says nothing else");
            told.push(Seq(seq.parse().unwrap()));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        // What it said between the last line read and its end counts too; a line cut short does not.
        for line in lines.map_while(Result::ok) {
            let seq = line.strip_prefix("told ").and_then(|seq| seq.parse().ok()).map(Seq);
            told.extend(seq.filter(|seq| told.last().is_none_or(|last| seq > last)));
        }
        let last = told.last().copied().unwrap_or_default();
        let store = Store::open(&path, &OpenOptions::default()).unwrap();
        assert_eq!(store.opening().stop, Stop::Killed);
        let tables = store.read();
        assert!(tables.last() >= last, "{} of {last}", tables.last());
        assert!(tables.last().0 <= last.0 + 2, "{} after {last}: no gap", tables.last());
        // Each was told of a write, which came directly after the event that made its file.
        for ino in told.iter().map(|seq| Ino(seq.0 - 1)) {
            let len = usize::try_from(ino.0 % 7 * 3000).unwrap();
            let mut stretches = Vec::new();
            tables.stretches(ino, 0, len as u64, Seq::NOW, &mut stretches).unwrap();
            let mut bytes = vec![0; len];
            store.read_content(&stretches, &mut bytes).unwrap();
            assert_eq!(bytes, vec![u8::try_from(ino.0 % 251).unwrap(); len], "inode {ino}");
        }
    }
}

#[test]
fn a_power_cut_while_closing_or_opening_changes_no_tree() {
    let disk = SimDisk::new(1 << 30);
    let store = create(&disk, &options()).unwrap();
    let mut user = User::default();
    let mut random = Random(9);
    user.work(&store, &mut random, 60).unwrap();
    store.close().unwrap();
    drop(store);
    let store = open(&disk).unwrap();
    user.files.clear();
    user.count += 1000;
    user.work(&store, &mut random, 60).unwrap();
    store.sync().unwrap();
    let last = store.read().last();
    drop(store);
    let mut closed = false;
    for steps in 0.. {
        let what = format!("power cut after step {steps}");
        let disk = disk.after_kill();
        disk.cut_after(steps);
        closed =
            open(&disk).and_then(|store| store.close().map_err(|_| OpenError::Missing)).is_ok();
        let disk = disk.after_power_cut(steps);
        let store = open(&disk).unwrap_or_else(|err| panic!("{what}: {err}"));
        assert_eq!(store.read().last(), last, "{what}");
        user.compare(&store, &what);
        store.close().unwrap();
        assert_eq!(check_all(&disk).findings, [], "{what}");
        if closed {
            break;
        }
    }
    assert!(closed);
}

#[test]
fn verify_finds_nothing_wrong_with_a_store_in_service() {
    let dir = tempfile::tempdir().unwrap();
    let create = CreateOptions { shape: SHAPE, ..CreateOptions::default() };
    let store = Store::create(dir.path(), &create, &OpenOptions::default()).unwrap();
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let disk: Arc<dyn Disk> = Arc::new(Real::read_only(dir.path()).unwrap());
            let mut rounds = 0;
            while !done.load(std::sync::atomic::Ordering::Relaxed) || rounds < 3 {
                assert_eq!(verify(&disk, &mut |_, _| ()).unwrap().findings, [], "round {rounds}");
                rounds += 1;
            }
        });
        let mut user = User::default();
        let mut random = Random(4);
        user.work(&store, &mut random, 400).unwrap();
        done.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    store.close().unwrap();
}

#[test]
fn verify_knows_what_was_given_back_while_it_read() {
    let disk = SimDisk::new(64 << 20);
    let store = create(&disk, &OpenOptions { history: Some(0), ..options() }).unwrap();
    let mut user = User::default();
    user.make(&store).unwrap();
    for fill in 1..10 {
        user.write(&store, 0, 0, &[fill; 50_000]).unwrap();
    }
    store.sync().unwrap();
    let begun = disk.list("log").unwrap().len();
    let mut waited = true;
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let report = verify(&shared, &mut |_, _| {
        if !std::mem::take(&mut waited) {
            return;
        }
        // Its segment is known by now, and the log goes on in others.
        for n in 0..40 {
            user.write(&store, 0, 100_000 + n * 3000, &[7; 3000]).unwrap();
        }
        assert!(disk.list("log").unwrap().len() > begun + 3);
        store.tick().unwrap();
    });
    let report = report.unwrap();
    assert_eq!(report.findings, []);
    assert!(report.freed_bytes > 300_000, "{} bytes were given back", report.freed_bytes);
    user.compare(&store, "afterwards");
}

#[test]
fn a_large_file_goes_to_the_disk_before_anybody_asks() {
    let disk = SimDisk::new(1 << 30);
    // The timer never comes.
    let slow = OpenOptions { sync_interval: Some(Duration::from_secs(3600)), ..options() };
    let store = Store::create_on(Arc::new(disk.clone()), &ROOMY, &slow).unwrap();
    let mut user = User::default();
    user.make(&store).unwrap();
    let ino = user.files[0].1;
    for mib in 0..17_u64 {
        let bytes = vec![u8::try_from(mib).unwrap() + 1; 1 << 20];
        changes::write(&store, ino, mib << 20, &bytes).unwrap();
    }
    let begin = Instant::now();
    loop {
        let after = open(&disk.after_power_cut(1)).unwrap();
        let size = after.read().inode(ino, Seq::NOW).unwrap().map_or(0, |inode| inode.size);
        if size >= 16 << 20 {
            break;
        }
        assert!(begin.elapsed() < Duration::from_secs(30), "{size} bytes are there");
        std::thread::sleep(Duration::from_millis(20));
    }
}
