//! Small writes, which travel in the log, and what becomes of them when history gives way.
//!
//! A model of plain bytes goes along. Whatever is taken out of the log, and whatever happens meanwhile, every
//! tree that can still be shown must be the model's.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

#[path = "../fuzz/store_decoders.rs"]
mod decoders;

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use lighthouse_fuse::store::codec::Note;
use lighthouse_fuse::store::disk::Disk;
use lighthouse_fuse::store::event::{
    Allocation, Change, FileId, Foreign, Format, Ino, Place, Seq, SetAttr, Timestamp,
};
use lighthouse_fuse::store::log::{LogReader, Next};
use lighthouse_fuse::store::record::Entry;
use lighthouse_fuse::store::sim::{Random, SimDisk};
use lighthouse_fuse::store::superblock::{Shape, Super};
use lighthouse_fuse::store::verify::{Report, verify};
use lighthouse_fuse::store::{CommitError, CreateOptions, OpenOptions, Origin, Placed, Store};

const SHAPE: Shape = Shape { segment_len: 16 << 10, content_len: 1 << 20, content_step: 32 << 10 };

/// What a foreign event of every run says.
const TOLD: &[u8] = br#"{"told": "and kept, whatever becomes of history"}"#;

fn options(history: u64) -> OpenOptions {
    let history = Some(history);
    OpenOptions { sync_interval: None, memory: 8 << 20, history, ..OpenOptions::default() }
}

fn create(disk: &SimDisk, history: u64) -> Store {
    let create = CreateOptions { shape: SHAPE, ..CreateOptions::default() };
    Store::create_on(Arc::new(disk.clone()), &create, &options(history)).unwrap()
}

fn open(disk: &SimDisk, history: u64) -> Store {
    Store::open_on(Arc::new(disk.clone()), &options(history)).unwrap()
}

fn check_all(disk: &SimDisk) -> Report {
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    verify(&disk, &mut |done, all| assert!(done <= all)).unwrap()
}

/// Segments out of which something was taken, and their files.
fn squeezed(disk: &SimDisk) -> Vec<(String, Vec<u8>)> {
    let names = disk.list("log").unwrap().into_iter().map(|name| format!("log/{name}"));
    let files = names.map(|path| (path.clone(), disk.bytes(&path).unwrap()));
    files.filter(|(_, bytes)| bytes.starts_with(b"LhFuseSq")).collect()
}

fn write(ino: Ino, offset: u64, data: lighthouse_fuse::store::event::Data<'_>) -> Change<'_> {
    Change::Write { ino, offset, data, mode: None, drop_capability: false }
}

type Names = BTreeMap<Vec<u8>, Vec<u8>>;

/// The first name whose bytes are not the same, and from where on.
fn difference(one: &Names, other: &Names) -> Option<(String, usize)> {
    let names = one.keys().chain(other.keys());
    let mut differ = names.filter(|name| one.get(*name) != other.get(*name));
    let name = differ.next()?;
    let bytes = |names: &Names| names.get(name).cloned().unwrap_or_default();
    let (one, other) = (bytes(one), bytes(other));
    let at = one.iter().zip(&other).take_while(|(one, other)| one == other).count();
    Some((String::from_utf8_lossy(name).into_owned(), at))
}

/// What the store says the tree after event `at` is; `None` if the disk does not answer.
fn look(store: &Store, at: Seq) -> Option<Names> {
    let _pin = store.pin();
    let tables = store.read();
    let mut found = Vec::new();
    let mut visit = |_, name: &[u8], entry: lighthouse_fuse::store::index::Entry| {
        found.push((name.to_vec(), entry.ino));
        ControlFlow::Continue(())
    };
    tables.entries(Ino::ROOT, 0, at, &mut visit).ok()?;
    let mut names = Names::new();
    for (name, ino) in found {
        let size = tables.inode(ino, at).ok()?.expect("what has a name is there").size;
        let mut stretches = Vec::new();
        tables.stretches(ino, 0, size, at, &mut stretches).ok()?;
        let mut bytes = vec![0; usize::try_from(size).unwrap()];
        store.read_content(&stretches, &mut bytes).ok()?;
        names.insert(name, bytes);
    }
    Some(names)
}

/// A file of the model: it may have lost its name.
#[derive(Clone)]
struct File {
    name: Option<Vec<u8>>,
    ino: Ino,
    bytes: Vec<u8>,
}

/// A user, and what the tree was after each event.
#[derive(Clone, Default)]
struct Model {
    files: Vec<File>,
    trees: BTreeMap<Seq, Names>,
    labels: BTreeMap<Vec<u8>, Seq>,
    count: u64,
    /// Nanoseconds that the store was told have passed.
    waited: i64,
}

impl Model {
    fn new(store: &Store) -> Self {
        let mut model = Self::default();
        model.trees.insert(Seq::FIRST, Names::new());
        let mut placed = Placed::default();
        let body = store.place(TOLD, &mut placed).unwrap();
        let (id, kind, agent, aggregate) = (&b"1"[..], &b"custom"[..], &b""[..], &b""[..]);
        let (time, format, source) = (Timestamp(0), Format::Json, None);
        let fingerprint = store.fingerprint(TOLD);
        let foreign =
            Foreign { id, kind, agent, aggregate, time, format, source, fingerprint, body };
        model.commit(store, Change::Foreign(foreign)).unwrap();
        model
    }

    fn names(&self) -> Names {
        let named = self.files.iter().filter_map(|file| Some((file.name.clone()?, file)));
        named.map(|(name, file)| (name, file.bytes.clone())).collect()
    }

    fn commit(&mut self, store: &Store, change: Change<'_>) -> Result<Seq, CommitError> {
        let seq = store.begin()?.commit(Origin::default(), change)?;
        self.trees.insert(seq, self.names());
        Ok(seq)
    }

    /// The event has happened; now the model knows what it did.
    fn saw(&mut self) {
        let tree = self.names();
        *self.trees.last_entry().unwrap().get_mut() = tree;
    }

    fn make(&mut self, store: &Store) -> Result<(), CommitError> {
        self.count += 1;
        let name = format!("file {}", self.count).into_bytes();
        let change = Change::Create {
            parent: Ino::ROOT,
            name: &name,
            mode: 0o100_644,
            uid: 1,
            gid: 2,
            rdev: 0,
            target: b"",
            xattrs: Vec::new(),
        };
        let ino = Ino(self.commit(store, change)?.0);
        self.files.push(File { name: Some(name), ino, bytes: Vec::new() });
        self.saw();
        Ok(())
    }

    fn write(
        &mut self,
        store: &Store,
        at: usize,
        offset: usize,
        bytes: &[u8],
    ) -> Result<(), CommitError> {
        let mut placed = Placed::default();
        let data = store.place(bytes, &mut placed)?;
        self.commit(store, write(self.files[at].ino, offset as u64, data))?;
        if !bytes.is_empty() {
            let content = &mut self.files[at].bytes;
            let end = offset + bytes.len();
            content.resize(content.len().max(end), 0);
            content[offset..end].copy_from_slice(bytes);
        }
        self.saw();
        Ok(())
    }

    /// Writes something that is nowhere else.
    fn write_new(
        &mut self,
        store: &Store,
        at: usize,
        offset: usize,
        len: usize,
    ) -> Result<(), CommitError> {
        self.count += 1;
        let text = format!("{} ", self.count);
        let bytes: Vec<u8> = text.bytes().cycle().take(len).collect();
        self.write(store, at, offset, &bytes)
    }

    fn clone_range(
        &mut self,
        store: &Store,
        (from, src_offset): (usize, usize),
        (to, dst_offset): (usize, usize),
        len: usize,
    ) -> Result<(), CommitError> {
        let (src, dst) = (self.files[from].ino, self.files[to].ino);
        self.commit(
            store,
            Change::Clone {
                src,
                src_offset: src_offset as u64,
                dst,
                dst_offset: dst_offset as u64,
                len: len as u64,
                mode: None,
            },
        )?;
        let bytes = self.files[from].bytes[src_offset..src_offset + len].to_vec();
        let content = &mut self.files[to].bytes;
        content.resize(content.len().max(dst_offset + len), 0);
        content[dst_offset..dst_offset + len].copy_from_slice(&bytes);
        self.saw();
        Ok(())
    }

    fn remove(&mut self, store: &Store, at: usize) -> Result<(), CommitError> {
        let File { name, ino, .. } = self.files[at].clone();
        let name = name.expect("it has one");
        self.commit(store, Change::Unlink { parent: Ino::ROOT, name: &name, ino })?;
        self.files.remove(at);
        self.saw();
        self.commit(store, Change::End { ino }).map(drop)
    }

    /// Something random; mostly small writes.
    fn step(&mut self, store: &Store, random: &mut Random) -> Result<(), CommitError> {
        if self.files.len() < 3 {
            return self.make(store);
        }
        let at = random.below(self.files.len());
        let File { name, ino, bytes } = self.files[at].clone();
        match random.below(24) {
            0 if self.files.len() < 8 => self.make(store),
            0..=7 => self.write_new(store, at, 0, 2000 + random.below(2000)),
            8..=11 => {
                let (offset, len) = (random.below(9000), random.below(1500));
                self.write_new(store, at, offset, len)
            }
            // Again and again beside the last: files lie in pieces, and are put together.
            12 | 13 => {
                for _ in 0..10 {
                    let end = self.files[at].bytes.len();
                    self.write_new(store, at, end.min(20_000), 1 + random.below(200))?;
                }
                Ok(())
            }
            14 => self.write_new(store, at, 0, 4096 + random.below(20_000)),
            15 | 16 if bytes.len() > 10 => {
                let to = random.below(self.files.len());
                let src_offset = random.below(bytes.len() - 1);
                let len = 1 + random.below((bytes.len() - src_offset).min(6000));
                let dst_offset = random.below(9000);
                let apart = src_offset + len <= dst_offset || dst_offset + len <= src_offset;
                if to != at || apart {
                    self.clone_range(store, (at, src_offset), (to, dst_offset), len)?;
                }
                Ok(())
            }
            17 if let Some(name) = &name => {
                self.count += 1;
                let new_name = format!("renamed {}", self.count).into_bytes();
                let change = Change::Rename {
                    parent: Ino::ROOT,
                    name,
                    new_parent: Ino::ROOT,
                    new_name: &new_name,
                    ino,
                    replaced: None,
                };
                self.commit(store, change)?;
                self.files[at].name = Some(new_name);
                self.saw();
                Ok(())
            }
            18 => {
                let size = random.below(6000);
                let set = SetAttr { size: Some(size as u64), ..SetAttr::default() };
                let change = Change::SetAttr { ino, set, acl: None, drop_capability: false };
                self.commit(store, change)?;
                self.files[at].bytes.resize(size, 0);
                self.saw();
                Ok(())
            }
            19 => {
                let (offset, len) = (random.below(6000), 1 + random.below(3000));
                let how = Allocation::Punch;
                let (from, mode) = (offset as u64, None);
                let len_bytes = len as u64;
                let change = Change::Fallocate { ino, how, offset: from, len: len_bytes, mode };
                self.commit(store, change)?;
                let end = (offset + len).min(bytes.len());
                self.files[at].bytes[offset.min(end)..end].fill(0);
                self.saw();
                Ok(())
            }
            // Unlinked, and for a while still open.
            20 if let Some(name) = &name => {
                self.commit(store, Change::Unlink { parent: Ino::ROOT, name, ino })?;
                self.files[at].name = None;
                self.saw();
                Ok(())
            }
            21 if name.is_none() => {
                self.commit(store, Change::End { ino })?;
                self.files.remove(at);
                Ok(())
            }
            22 => {
                let last = store.read().last();
                let name = format!("label {last}").into_bytes();
                if self.labels.len() < 2 && store.label(&name, None).is_ok() {
                    self.labels.insert(name, last);
                }
                Ok(())
            }
            _ => {
                if let Some((name, _)) = self.labels.pop_first() {
                    store.unlabel(&name).unwrap();
                }
                Ok(())
            }
        }
    }

    /// Leaves everything alone for long enough that what lies in pieces is put together.
    fn wait(&mut self, store: &Store) -> Result<(), CommitError> {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        for _ in 0..3 {
            self.waited += 20_000_000_000;
            store.tick_at(Timestamp(i64::try_from(now.as_nanos()).unwrap() + self.waited))?;
        }
        Ok(())
    }

    /// Every tree that can still be shown is the model's.
    fn compare(&self, store: &Store, what: &str) {
        let (horizon, last) = (store.horizon(), store.read().last());
        assert!(self.trees.contains_key(&last), "{what}: nobody made event {last}");
        for (seq, tree) in self.trees.range(horizon..) {
            let now = look(store, *seq);
            let names = now.unwrap_or_else(|| panic!("{what}: tree {seq} cannot be read"));
            let differ = difference(tree, &names);
            assert_eq!(differ, None, "{what}: tree {seq} of {horizon}..={last}");
        }
        for (name, at) in &self.labels {
            assert!(*at >= horizon, "{what}: {name:?} keeps {at}, but history begins at {horizon}");
        }
    }

    /// Forgets what the power took.
    fn forget_after(&mut self, store: &Store) {
        self.trees.split_off(&store.read().last().next());
        // What the model says of files may be of the lost future: go on with others.
        self.files.clear();
        let labels = store.labels().unwrap();
        self.labels = labels.into_iter().collect();
        for (name, bytes) in look(store, Seq::NOW).unwrap() {
            let ino = store.read().entry(Ino::ROOT, &name, Seq::NOW).unwrap().unwrap().ino;
            self.files.push(File { name: Some(name), ino, bytes });
        }
    }
}

fn seeds(count: u64) -> impl Iterator<Item = u64> {
    // A run can be repeated: LIGHTHOUSE_SEED=N takes that one alone.
    let one = std::env::var("LIGHTHOUSE_SEED").ok().and_then(|text| text.parse().ok());
    let first = one.unwrap_or(1);
    first..first + if one.is_some() { 1 } else { count }
}

/// Every event of the log: its number, and the bytes of a small write, `None` if they are gone.
fn events(reader: &mut LogReader) -> Vec<(Seq, Option<Vec<u8>>)> {
    let mut found = Vec::new();
    while let Next::Record(_, record) = reader.read().unwrap() {
        let Some(Entry::Event(event)) = record.entry() else { continue };
        let data = event.change.data().map(|data| data.place);
        let bytes = match data {
            Some(Place::Inline(bytes)) if !record.gone => Some(bytes.to_vec()),
            _ => None,
        };
        if let Change::Foreign(foreign) = &event.change {
            assert_eq!(foreign.body.place, Place::Inline(TOLD), "what was told is kept");
        }
        found.push((event.seq, bytes));
    }
    found
}

fn relocations(store: &Store) -> usize {
    let mut reader = store.log(None).unwrap();
    let mut count = 0;
    while let Next::Record(_, record) = reader.read().unwrap() {
        count += usize::from(matches!(record.entry(), Some(Entry::Note(Note::Relocation { .. }))));
    }
    count
}

#[test]
fn every_tree_that_can_be_shown_is_the_models_whatever_was_taken_out() {
    let (mut runs, mut taken_out, mut moved) = (0, 0, 0);
    for seed in seeds(6) {
        runs += 1;
        println!("LIGHTHOUSE_SEED={seed}");
        let mut disk = SimDisk::new(1 << 30);
        let mut random = Random(seed);
        let budget = [0, 10_000, 50_000][random.below(3)];
        let mut store = create(&disk, budget);
        let mut model = Model::new(&store);
        for round in 0..60 {
            let what = format!("seed {seed}, round {round}, budget {budget}");
            for _ in 0..12 {
                model.step(&store, &mut random).unwrap();
            }
            match random.below(3) {
                0 => model.wait(&store).unwrap(),
                _ => store.tick().unwrap(),
            }
            model.compare(&store, &what);
            match random.below(16) {
                0 => {
                    store.close().unwrap();
                    drop(store);
                    assert_eq!(check_all(&disk).findings, [], "{what}");
                    store = open(&disk, budget);
                }
                1 => {
                    drop(store);
                    disk = disk.after_kill();
                    store = open(&disk, budget);
                }
                2 => {
                    drop(store);
                    disk = disk.after_kill();
                    disk.remove("index/rows.redb").unwrap();
                    store = open(&disk, budget);
                }
                3 => {
                    drop(store);
                    disk = disk.after_power_cut(seed * 100 + round);
                    store = open(&disk, budget);
                    model.forget_after(&store);
                }
                _ => continue,
            }
            model.compare(&store, &format!("{what}, after a new start"));
        }
        taken_out += squeezed(&disk).len();
        moved += relocations(&store);
        let mut reader = store.log(None).unwrap();
        assert!(events(&mut reader).iter().any(|(_, bytes)| bytes.as_deref() == Some(TOLD)));
        drop(store);
        let report = check_all(&disk);
        assert_eq!(report.findings, [], "seed {seed}");
        assert!(report.gone_bytes > 0, "seed {seed}");
    }
    assert!(taken_out > 20 * runs, "only {taken_out} segments were squeezed");
    assert!(moved > 5 * runs, "only {moved} relocations were met");
}

#[test]
fn rewriting_a_small_file_for_ever_keeps_the_store_small() {
    const ROUNDS: u64 = 4000;
    let shape = Shape { segment_len: 64 << 10, ..SHAPE };
    let written = ROUNDS * 3072;
    let run = |pinned: bool| {
        let disk = SimDisk::new(1 << 30);
        let create = CreateOptions { shape, ..CreateOptions::default() };
        let budget = 256 << 10;
        let store = Store::create_on(Arc::new(disk.clone()), &create, &options(budget)).unwrap();
        let mut model = Model::default();
        model.make(&store).unwrap();
        if pinned {
            store.label(b"all of it", None).unwrap();
        }
        let mut largest = 0;
        for round in 0..ROUNDS {
            model.write_new(&store, 0, 0, 3072).unwrap();
            if round % 20 == 0 {
                store.tick().unwrap();
                largest = largest.max(store.size().unwrap().log);
            }
        }
        model.compare(&store, "at the end");
        let kept = store.read().last().0 - store.horizon().0;
        store.close().unwrap();
        drop(store);
        assert_eq!(check_all(&disk).findings, []);
        (largest, kept)
    };
    let (largest, kept) = run(false);
    println!("{largest} bytes of log for {written} written");
    // The events stay; each takes some 110 bytes, and each sync its seal.
    assert!(largest < ROUNDS * 150 + (256 << 10) + 5 * (64 << 10), "{largest} bytes of log");
    // What the budget has room for is kept: no more history goes than must.
    assert!(kept >= (256 << 10) / 3072 - 25, "only {kept} trees are kept");
    // And where history may not go, nothing is taken out.
    let (largest, kept) = run(true);
    assert!(largest > written, "{largest} bytes of log");
    assert!(kept > ROUNDS - 10);
}

/// A store with a few segments of dead writes, and room in its budget for none of them once it was ticked.
fn worn(disk: &SimDisk) -> (Store, Model) {
    let store = create(disk, 0);
    let mut model = Model::new(&store);
    for _ in 0..3 {
        model.make(&store).unwrap();
    }
    for n in 0..10 {
        model.write_new(&store, 0, 0, 3000).unwrap();
        model.write_new(&store, 1, n * 200, 200).unwrap();
        if n == 2 {
            model.clone_range(&store, (0, 100), (2, 0), 2000).unwrap();
        }
    }
    for _ in 0..12 {
        model.write_new(&store, 0, 0, 3000).unwrap();
    }
    store.sync().unwrap();
    (store, model)
}

#[test]
fn a_crash_at_any_step_leaves_one_of_the_two_segments_whole() {
    const TICKS: usize = 4;
    let work = |store: &Store, model: &mut Model| -> Result<(), CommitError> {
        for n in 0..TICKS {
            store.tick()?;
            model.write_new(store, 1, n * 100, 50)?;
        }
        Ok(())
    };
    let disk = SimDisk::new(64 << 20);
    let (store, mut model) = worn(&disk);
    let before = disk.steps();
    work(&store, &mut model).unwrap();
    let steps = disk.steps() - before;
    assert!(squeezed(&disk).len() >= 2, "{} segments are squeezed", squeezed(&disk).len());
    let mut met = [0; 2];
    for step in 0..=steps {
        let disk = SimDisk::new(64 << 20);
        let (store, mut model) = worn(&disk);
        disk.cut_after(step);
        let _ = work(&store, &mut model);
        drop(store);
        let cut = |seed: u64| disk.after_power_cut(step ^ (seed << 20));
        for (disk, how) in [(disk.after_kill(), "killed"), (cut(1), "power"), (cut(2), "power")] {
            let what = format!("{how} after step {step}");
            let left = disk.list("log").unwrap().iter().any(|name| name.ends_with(".new"));
            met[usize::from(left)] += 1;
            let mut model = model.clone();
            let store = open(&disk, 0);
            let names = disk.list("log").unwrap();
            assert!(names.iter().all(|name| name.ends_with(".seg")), "{what}: {names:?}");
            if how == "power" {
                model.forget_after(&store);
            }
            model.compare(&store, &what);
            let report = check_all(&disk);
            assert_eq!(report.findings, [], "{what}");
            // It goes on from there, and an index made anew says the same.
            work(&store, &mut model).unwrap();
            model.compare(&store, &what);
            assert!(squeezed(&disk).len() >= 2, "{what}");
            drop(store);
            let disk = disk.after_kill();
            disk.remove("index/rows.redb").unwrap();
            let store = open(&disk, 0);
            model.compare(&store, &format!("{what}, rebuilt"));
            store.close().unwrap();
            drop(store);
            assert_eq!(check_all(&disk).findings, [], "{what}, closed");
        }
    }
    assert!(met[0] > 0 && met[1] > 0, "with and without leftovers: {met:?}");
}

#[test]
fn whoever_read_before_reads_on_and_whoever_comes_after_reads_the_same_events() {
    let disk = SimDisk::new(64 << 20);
    let (store, mut model) = worn(&disk);
    let mut before = store.log(None).unwrap();
    let mut middle = store.log(None).unwrap();
    let mut begun = Vec::new();
    // Into the first segment, and no further.
    for _ in 0..6 {
        let Next::Record(_, record) = middle.read().unwrap() else { panic!("there are more") };
        begun.extend(record.is_event().then(|| record.stamp().seq));
    }
    let kept = middle.mark();
    for _ in 0..4 {
        store.tick().unwrap();
        model.write_new(&store, 1, 0, 50).unwrap();
    }
    assert!(squeezed(&disk).len() >= 2);
    let old = events(&mut before);
    let new = events(&mut store.log(None).unwrap());
    let resumed = events(&mut store.log(Some(kept)).unwrap());
    let seqs =
        |found: &[(Seq, Option<Vec<u8>>)]| found.iter().map(|(seq, _)| *seq).collect::<Vec<_>>();
    assert_eq!(seqs(&old), seqs(&new));
    assert_eq!(seqs(&events(&mut middle)), seqs(&resumed));
    assert_eq!([begun, seqs(&resumed)].concat(), seqs(&new));
    // The old file is read as it was: only the first segment was open.
    let gone = |found: &[(Seq, Option<Vec<u8>>)]| found.iter().filter(|(_, b)| b.is_none()).count();
    assert!(gone(&old) < gone(&new), "{} and {}", gone(&old), gone(&new));
    // From anywhere on, by number.
    for (seq, _) in &new {
        let mut reader = store.log_from(*seq).unwrap();
        assert_eq!(events(&mut reader).first().map(|(seq, _)| *seq), Some(*seq));
    }
}

#[test]
fn nothing_is_taken_from_under_a_reader_of_the_past() {
    let disk = SimDisk::new(64 << 20);
    let (store, model) = worn(&disk);
    let at = *model.trees.keys().nth(6).unwrap();
    let ino = model.files[0].ino;
    let pin = store.pin();
    let mut stretches = Vec::new();
    store.read().stretches(ino, 0, 3000, at, &mut stretches).unwrap();
    assert!(matches!(stretches[0].at.unwrap().file, FileId::Log(1)));
    let mut then = vec![0; 3000];
    store.read_content(&stretches, &mut then).unwrap();
    std::thread::scope(|scope| {
        let ticking = scope.spawn(|| (0..3).for_each(|_| store.tick().unwrap()));
        std::thread::sleep(std::time::Duration::from_millis(300));
        assert!(!ticking.is_finished(), "it waits");
        assert!(store.horizon() > at, "but says at once what cannot be asked any more");
        let mut now = vec![0; 3000];
        store.read_content(&stretches, &mut now).unwrap();
        assert!(then == now);
        drop(pin);
    });
    assert!(!squeezed(&disk).is_empty());
    let mut now = vec![1; 3000];
    store.read_content(&stretches, &mut now).unwrap();
    assert_eq!(now, [0; 3000], "what the server had open is not what it has now");
    model.compare(&store, "afterwards");
}

#[test]
fn every_flipped_bit_of_a_squeezed_segment_is_found_with_its_place() {
    let disk = SimDisk::new(64 << 20);
    let (store, mut model) = worn(&disk);
    for _ in 0..4 {
        store.tick().unwrap();
        model.write_new(&store, 1, 0, 50).unwrap();
    }
    store.close().unwrap();
    drop(store);
    let clean = check_all(&disk);
    assert_eq!(clean.findings, []);
    assert!(clean.gone_bytes > 20_000, "{} bytes are gone", clean.gone_bytes);
    let files = squeezed(&disk);
    assert!(files.len() >= 2);
    let mut random = Random(11);
    for (path, bytes) in files {
        for at in 0..bytes.len() as u64 {
            // Header and map whole, the rest here and there.
            if at > 120 && random.below(25) > 0 {
                continue;
            }
            let disk = disk.after_kill();
            let bit = u8::try_from(random.below(8)).unwrap();
            assert!(disk.flip(&path, at, bit));
            let what = format!("{path}, byte {at}, bit {bit}");
            let report = check_all(&disk);
            let found = report.findings.iter().find(|finding| finding.file == path);
            let Some(found) = found else { panic!("{what} was not found: {:?}", report.findings) };
            assert!(found.offset <= at, "{what} was found at {}", found.offset);
            assert!(at - found.offset < 4200, "{what} was found at {}", found.offset);
            // Whatever is asked is answered or refused.
            if at % 7 == 0 {
                if at % 2 == 0 {
                    disk.remove("index/rows.redb").unwrap();
                }
                if let Ok(store) = Store::open_on(Arc::new(disk.clone()), &options(0)) {
                    let _ = look(&store, Seq::NOW);
                    let _ = store.tick();
                    let _ = store.close();
                }
            }
        }
        for len in [0, 7, 8, 35, 36, 60, bytes.len() as u64 - 1] {
            let disk = disk.after_kill();
            disk.open(&path, false).unwrap().set_len(len).unwrap();
            let found = check_all(&disk).findings;
            assert!(found.iter().any(|finding| finding.file == path), "cut to {len}: {found:?}");
        }
    }
}

#[test]
fn zeros_in_a_segment_that_was_never_squeezed_are_damage() {
    let disk = SimDisk::new(64 << 20);
    let (store, model) = worn(&disk);
    let mut stretches = Vec::new();
    store.read().stretches(model.files[0].ino, 0, 3000, Seq::NOW, &mut stretches).unwrap();
    let place = stretches[0].at.unwrap();
    store.close().unwrap();
    drop(store);
    let FileId::Log(number) = place.file else { panic!("small writes are in the log") };
    let path = format!("log/{number:08}.seg");
    // Salt and content, as if both had been taken out.
    disk.open(&path, false).unwrap().write_at(&[0; 3016], place.offset - 16).unwrap();
    let found = check_all(&disk).findings;
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!((&found[0].file, found[0].offset), (&path, place.offset - 16));
}

#[test]
fn programs_that_do_not_know_of_it_are_told_by_the_version_in_super() {
    let disk = SimDisk::new(64 << 20);
    let (store, mut model) = worn(&disk);
    assert_eq!(Super::read(&disk).unwrap().version, 1, "as long as there is nothing to know");
    for _ in 0..4 {
        store.tick().unwrap();
        model.write_new(&store, 1, 0, 50).unwrap();
    }
    assert!(!squeezed(&disk).is_empty());
    let bytes = disk.bytes("super").unwrap();
    for copy in [0, 4096] {
        assert_eq!(bytes[copy + 8..copy + 12], 2_u32.to_le_bytes(), "the copy at {copy}");
    }
    store.close().unwrap();
    drop(store);
    assert_eq!(Super::read(&disk).unwrap().version, 2);
    let store = open(&disk, 0);
    model.compare(&store, "after a new start");
}

#[test]
fn a_small_write_on_a_full_disk_takes_its_space_from_history() {
    let disk = SimDisk::new(2 << 20);
    let store = create(&disk, u64::MAX);
    let mut model = Model::default();
    model.make(&store).unwrap();
    store.label(b"all of it", None).unwrap();
    let err = loop {
        if let Err(err) = model.write_new(&store, 0, 0, 3072) {
            break err;
        }
        assert!(model.count < 1000);
        store.tick().unwrap();
    };
    assert!(matches!(err, CommitError::NoSpace), "{err:?}");
    assert!(squeezed(&disk).is_empty());
    store.unlabel(b"all of it").unwrap();
    // Nothing else runs: only the write itself can make room.
    for round in 0..100 {
        let written = model.write_new(&store, 0, 0, 3072);
        written.unwrap_or_else(|err| panic!("round {round}: {err}"));
    }
    model.compare(&store, "after the disk was full");
    assert!(!squeezed(&disk).is_empty());
    // And with the store's own thread, for ever.
    for _ in 0..2000 {
        model.write_new(&store, 0, 0, 3072).unwrap();
        store.tick().unwrap();
    }
    model.compare(&store, "at the end");
}

/// Leaves not one byte free.
fn take_the_rest(disk: &SimDisk) {
    let space = disk.space().unwrap();
    disk.resize(space.total - space.available);
    assert_eq!(disk.space().unwrap().available, 0);
}

#[test]
fn on_a_disk_without_one_byte_free_dead_writes_make_room_for_new_ones() {
    let disk = SimDisk::new(16 << 20);
    let store = create(&disk, u64::MAX);
    let mut model = Model::default();
    model.make(&store).unwrap();
    for _ in 0..100 {
        model.write_new(&store, 0, 0, 3072).unwrap();
        store.tick().unwrap();
    }
    assert!(squeezed(&disk).is_empty());
    take_the_rest(&disk);
    // Many times what the log has set aside, and no content file has anything to give.
    for round in 0..400 {
        let written = model.write_new(&store, 0, 0, 3072);
        written.unwrap_or_else(|err| panic!("round {round}: {err}"));
        if round % 3 == 0 {
            store.tick().unwrap();
        }
    }
    model.compare(&store, "with nothing free");
    assert!(squeezed(&disk).len() > 5);
    store.close().unwrap();
    drop(store);
    assert_eq!(check_all(&disk).findings, []);
    let store = open(&disk.after_kill(), u64::MAX);
    model.compare(&store, "after a start");
}

#[test]
fn on_a_disk_without_one_byte_free_files_can_be_removed_and_space_comes_back() {
    let disk = SimDisk::new(16 << 20);
    let store = create(&disk, u64::MAX);
    let mut model = Model::default();
    for file in 0..60 {
        model.make(&store).unwrap();
        model.write_new(&store, file, 0, 3072).unwrap();
        store.tick().unwrap();
    }
    take_the_rest(&disk);
    let err = loop {
        let made = model.make(&store);
        let last = model.files.len() - 1;
        match made.and_then(|()| model.write_new(&store, last, 0, 3072)) {
            Ok(()) => assert!(model.count < 1000),
            Err(err) => break err,
        }
    };
    assert!(matches!(err, CommitError::NoSpace), "{err:?}");
    while model.files.len() > 5 {
        model
            .remove(&store, 0)
            .unwrap_or_else(|err| panic!("{} are left: {err}", model.files.len()));
    }
    for round in 0..100 {
        let written = model.write_new(&store, 0, 0, 3072);
        written.unwrap_or_else(|err| panic!("round {round}: {err}"));
    }
    model.compare(&store, "after most was removed");
}

#[test]
fn a_clone_keeps_what_its_source_was_moved_away_from_afterwards() {
    // In the log, and in content files.
    for len in [4096, 600] {
        let disk = SimDisk::new(256 << 20);
        let store = create(&disk, u64::MAX);
        let mut model = Model::default();
        for _ in 0..4 {
            model.make(&store).unwrap();
        }
        // Backwards, so that no two pieces lie side by side.
        for n in (0..80).rev() {
            model.write_new(&store, 0, n * len, len).unwrap();
        }
        model.clone_range(&store, (0, 70 * len), (1, 0), len).unwrap();
        model.write_new(&store, 1, 0, len).unwrap();
        let last = store.read().last();
        store.label(b"here", Some(last)).unwrap();
        // Only now, and neither the source nor what was cloned first has it at the label any more.
        model.clone_range(&store, (0, 70 * len), (2, 0), len).unwrap();
        model.wait(&store).unwrap();
        assert!(relocations(&store) > 0);
        store.close().unwrap();
        drop(store);
        // No history, but for what the label keeps.
        let store = open(&disk, 0);
        for _ in 0..30 {
            model.write_new(&store, 3, 0, 3000).unwrap();
            store.tick().unwrap();
        }
        assert_eq!(store.horizon(), last);
        model.compare(&store, &format!("pieces of {len}"));
        assert_eq!(squeezed(&disk).is_empty(), len > 4000);
        store.unlabel(b"here").unwrap();
        for _ in 0..30 {
            model.write_new(&store, 3, 0, 3000).unwrap();
            store.tick().unwrap();
        }
        assert!(store.horizon() > last);
        model.compare(&store, &format!("pieces of {len}, without the label"));
        assert!(!squeezed(&disk).is_empty());
    }
}

#[test]
fn what_died_before_a_start_is_taken_out_after_it() {
    let disk = SimDisk::new(64 << 20);
    let (store, mut model) = worn(&disk);
    drop(store);
    // Ample at first: nothing is taken out.
    let store = open(&disk, u64::MAX);
    for _ in 0..40 {
        model.write_new(&store, 0, 0, 3000).unwrap();
        store.tick().unwrap();
    }
    assert_eq!(squeezed(&disk).len(), 0);
    store.close().unwrap();
    drop(store);
    let before = open(&disk, u64::MAX).size().unwrap().log;
    let store = open(&disk, 20_000);
    for _ in 0..6 {
        store.tick().unwrap();
        model.write_new(&store, 1, 0, 50).unwrap();
    }
    let after = store.size().unwrap().log;
    assert!(after < before / 2, "{before} bytes of log, then {after}");
    model.compare(&store, "with a smaller budget");
    // Once more: what was taken out is known, so that history does not go on going.
    let horizon = store.horizon();
    store.close().unwrap();
    drop(store);
    let store = open(&disk, 40_000);
    store.tick().unwrap();
    store.tick().unwrap();
    assert_eq!(store.horizon(), horizon);
}

/// `LIGHTHOUSE_FUSE_WRITE_SEEDS=1` makes the corpus anew.
#[test]
fn whatever_a_squeezed_segment_has_become_is_refused_or_read() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    let manifest = std::fs::read_to_string(corpus.parent().unwrap().join("Cargo.toml")).unwrap();
    if std::env::var_os("LIGHTHOUSE_FUSE_WRITE_SEEDS").is_some() {
        let disk = SimDisk::new(64 << 20);
        let (store, mut model) = worn(&disk);
        for _ in 0..4 {
            store.tick().unwrap();
            model.write_new(&store, 1, 0, 50).unwrap();
        }
        let directory = corpus.join("store_squeezed");
        std::fs::create_dir_all(&directory).unwrap();
        for (number, (_, bytes)) in squeezed(&disk).into_iter().enumerate() {
            std::fs::write(directory.join(format!("seed-{number}")), bytes).unwrap();
        }
    }
    let mut random = Random(5);
    for (target, _) in decoders::TARGETS {
        assert!(manifest.contains(&format!("name = \"{target}\"")), "{target} is not built");
        let files = std::fs::read_dir(corpus.join(target)).unwrap();
        let mut files: Vec<PathBuf> = files.map(|entry| entry.unwrap().path()).collect();
        files.sort();
        assert!(files.len() >= 4, "{target} has only {} files to begin with", files.len());
        for file in files {
            let good = std::fs::read(&file).unwrap();
            decoders::run(target, &good);
            for _ in 0..400 {
                let mut bytes = good.clone();
                for _ in 0..=random.below(4) {
                    // Mostly where header and map are.
                    let reach = if random.below(4) > 0 { 120 } else { bytes.len() };
                    let at = random.below(reach.min(bytes.len()).max(1));
                    match random.below(5) {
                        0 => bytes.truncate(at),
                        1 => bytes.insert(at, 0),
                        _ if bytes.len() > at => bytes[at] ^= 1 << random.below(8),
                        _ => (),
                    }
                }
                decoders::run(target, &bytes);
            }
        }
    }
}
