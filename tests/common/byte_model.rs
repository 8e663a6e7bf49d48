//! Small files whose bytes are known: a plain model of what a store holds after each event, and a store in which much
//! of what was written is dead.
#![allow(dead_code, reason = "each test file uses a part")]

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use lighthouse_fuse::store::disk::Disk;
use lighthouse_fuse::store::event::{Change, Foreign, Format, Ino, Seq, Timestamp};
use lighthouse_fuse::store::index::Entry;
use lighthouse_fuse::store::sim::{Random, SimDisk};
use lighthouse_fuse::store::superblock::Shape;
use lighthouse_fuse::store::{CommitError, CreateOptions, OpenOptions, Placed, Store};

use crate::changes::{self, Clock};

pub(crate) const SHAPE: Shape =
    Shape { segment_len: 16 << 10, content_len: 1 << 20, content_step: 32 << 10 };

/// What a foreign event of every run says.
pub(crate) const TOLD: &[u8] = br#"{"told": "and kept, whatever becomes of history"}"#;

pub(crate) fn options(history: u64) -> OpenOptions {
    let history = Some(history);
    OpenOptions { sync_interval: None, memory: 8 << 20, history, ..OpenOptions::default() }
}

pub(crate) fn create(disk: &SimDisk, history: u64) -> Store {
    let create = CreateOptions { shape: SHAPE, ..CreateOptions::default() };
    Store::create_on(Arc::new(disk.clone()), &create, &options(history)).unwrap()
}

pub(crate) fn open(disk: &SimDisk, history: u64) -> Store {
    Store::open_on(Arc::new(disk.clone()), &options(history)).unwrap()
}

/// Segments out of which something was taken, and their files.
pub(crate) fn squeezed(disk: &SimDisk) -> Vec<(String, Vec<u8>)> {
    let names = disk.list("log").unwrap().into_iter().map(|name| format!("log/{name}"));
    let files = names.map(|path| (path.clone(), disk.bytes(&path).unwrap()));
    files.filter(|(_, bytes)| bytes.starts_with(b"LhFuseSq")).collect()
}

pub(crate) type Names = BTreeMap<Vec<u8>, Vec<u8>>;

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
pub(crate) fn look(store: &Store, at: Seq) -> Option<Names> {
    let _pin = store.pin();
    let tables = store.read();
    let mut found = Vec::new();
    let mut visit = |_, name: &[u8], entry: Entry| {
        found.push((name.to_vec(), entry.ino));
        ControlFlow::Continue(())
    };
    tables.entries(Ino::ROOT, 0, at, &mut visit).ok()?;
    let content = |(name, ino)| Some((name, changes::content(store, &tables, ino, at)?));
    found.into_iter().map(content).collect()
}

/// A file of the model: it may have lost its name.
#[derive(Clone)]
pub(crate) struct File {
    pub(crate) name: Option<Vec<u8>>,
    pub(crate) ino: Ino,
    pub(crate) bytes: Vec<u8>,
}

/// A user, and what the tree was after each event.
#[derive(Clone, Default)]
pub(crate) struct Model {
    pub(crate) files: Vec<File>,
    pub(crate) trees: BTreeMap<Seq, Names>,
    labels: BTreeMap<Vec<u8>, Seq>,
    /// Of all that was made and written, so that no two are alike.
    pub(crate) count: u64,
    clock: Clock,
}

impl Model {
    pub(crate) fn new(store: &Store) -> Self {
        let mut model = Self::default();
        model.trees.insert(Seq::FIRST, Names::new());
        let mut placed = Placed::default();
        let body = store.place(TOLD, &mut placed).unwrap();
        let (id, kind, agent, aggregate) = (&b"1"[..], &b"custom"[..], &b""[..], &b""[..]);
        let (time, format, source) = (Timestamp(0), Format::Json, None);
        let fingerprint = store.fingerprint(TOLD);
        let foreign =
            Foreign { id, kind, agent, aggregate, time, format, source, fingerprint, body };
        model.did(changes::commit(store, Change::Foreign(foreign)).unwrap());
        model
    }

    fn names(&self) -> Names {
        let named = self.files.iter().filter_map(|file| Some((file.name.clone()?, file)));
        named.map(|(name, file)| (name, file.bytes.clone())).collect()
    }

    /// What the files are now is the tree after event `seq`.
    fn did(&mut self, seq: Seq) {
        self.trees.insert(seq, self.names());
    }

    pub(crate) fn make(&mut self, store: &Store) -> Result<(), CommitError> {
        self.count += 1;
        let name = format!("file {}", self.count).into_bytes();
        let ino = changes::make(store, &name)?;
        self.files.push(File { name: Some(name), ino, bytes: Vec::new() });
        self.did(Seq(ino.0));
        Ok(())
    }

    fn write(
        &mut self,
        store: &Store,
        at: usize,
        offset: usize,
        bytes: &[u8],
    ) -> Result<(), CommitError> {
        let seq = changes::write(store, self.files[at].ino, offset as u64, bytes)?;
        if !bytes.is_empty() {
            let content = &mut self.files[at].bytes;
            let end = offset + bytes.len();
            content.resize(content.len().max(end), 0);
            content[offset..end].copy_from_slice(bytes);
        }
        self.did(seq);
        Ok(())
    }

    /// Writes something that is nowhere else.
    pub(crate) fn write_new(
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

    pub(crate) fn clone_range(
        &mut self,
        store: &Store,
        (from, src_offset): (usize, usize),
        (to, dst_offset): (usize, usize),
        len: usize,
    ) -> Result<(), CommitError> {
        let src = (self.files[from].ino, src_offset as u64);
        let dst = (self.files[to].ino, dst_offset as u64);
        let seq = changes::clone_range(store, src, dst, len as u64)?;
        let bytes = self.files[from].bytes[src_offset..src_offset + len].to_vec();
        let content = &mut self.files[to].bytes;
        content.resize(content.len().max(dst_offset + len), 0);
        content[dst_offset..dst_offset + len].copy_from_slice(&bytes);
        self.did(seq);
        Ok(())
    }

    /// Takes away a file's name, and with it the file.
    pub(crate) fn remove(&mut self, store: &Store, at: usize) -> Result<(), CommitError> {
        let File { name, ino, .. } = self.files[at].clone();
        let seq = changes::unlink(store, ino, &name.expect("it has one"))?;
        self.files.remove(at);
        self.did(seq);
        let ended = changes::commit(store, Change::End { ino })?;
        self.did(ended);
        Ok(())
    }

    /// Something random; mostly small writes.
    pub(crate) fn step(&mut self, store: &Store, random: &mut Random) -> Result<(), CommitError> {
        if self.files.len() < 3 {
            return self.make(store);
        }
        let at = random.below(self.files.len());
        let File { name, ino, bytes } = self.files[at].clone();
        match random.below(24) {
            0 if self.files.len() < 8 => self.make(store),
            0..=7 => self.write_new(store, at, 0, (2000 + random.below(2200)).min(4096)),
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
                let seq = changes::rename(store, ino, name, &new_name)?;
                self.files[at].name = Some(new_name);
                self.did(seq);
                Ok(())
            }
            18 => {
                let size = random.below(6000);
                let seq = changes::resize(store, ino, size as u64)?;
                self.files[at].bytes.resize(size, 0);
                self.did(seq);
                Ok(())
            }
            19 => {
                let (offset, len) = (random.below(6000), 1 + random.below(3000));
                let seq = changes::punch(store, ino, offset as u64, len as u64)?;
                let end = (offset + len).min(bytes.len());
                self.files[at].bytes[offset.min(end)..end].fill(0);
                self.did(seq);
                Ok(())
            }
            // Unlinked, and for a while still open.
            20 if let Some(name) = &name => {
                let seq = changes::unlink(store, ino, name)?;
                self.files[at].name = None;
                self.did(seq);
                Ok(())
            }
            21 if name.is_none() => {
                let seq = changes::commit(store, Change::End { ino })?;
                self.files.remove(at);
                self.did(seq);
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

    pub(crate) fn wait(&mut self, store: &Store) -> Result<(), CommitError> {
        self.clock.pass(store)
    }

    /// Every tree that can still be shown is the model's.
    pub(crate) fn compare(&self, store: &Store, what: &str) {
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
    pub(crate) fn forget_after(&mut self, store: &Store) {
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

/// A store with a few segments of dead writes, and room in its budget for none of them once it was ticked.
pub(crate) fn worn(disk: &SimDisk) -> (Store, Model) {
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
