//! How many events a second does the index fold in, and what does a question cost, now and in the past, as the
//! tree grows?
//!
//! `cargo bench --bench index` asks at 1,000, 100,000 and 1,000,000 files; with `-- --test` at 1,000 alone.
//!
//! Each file was made, written twice (200 bytes each time), given a mode twice, and every second one renamed: 5.5
//! events a file on average, in directories of 1,000. "Past" is the sequence after which all files were made and written once.

#![allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "a bench may fail, and criterion makes functions"
)]

#[path = "../tests/common/plain_file.rs"]
mod plain_file;

use std::hint::black_box;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use lighthouse_fuse::store::event::{
    ActorId, Change, Data, Event, FileId, Ino, Location, Place, Seq, SetAttr, Timestamp,
};
use lighthouse_fuse::store::index::{Index, Mark, Options};
use plain_file::PlainFile;

const S_IFDIR: u32 = 0o040_000;
const S_IFREG: u32 = 0o100_000;
const NAMES_PER_DIR: u64 = 1000;
/// What a small event takes in the log, about.
const LOG_PER_EVENT: u64 = 180;

struct Tree {
    index: Index,
    seq: u64,
    files: Vec<(Ino, Ino, Vec<u8>)>,
    past: Seq,
}

impl Tree {
    fn open(dir: &Path) -> Self {
        let file = Arc::new(PlainFile::open(&dir.join("rows.redb")).unwrap());
        let index = Index::open_file(file, [1; 16], &[2; 16], &Options::default()).unwrap();
        index.start(|_| Ok(()), |_| ()).unwrap();
        let mut tree = Self { index, seq: Seq::FIRST.0, files: Vec::new(), past: Seq::ZERO };
        tree.push(Change::Mkfs { mode: S_IFDIR | 0o755, uid: 0, gid: 0 });
        tree
    }

    fn push(&mut self, change: Change<'_>) -> Ino {
        let seq = Seq(self.seq);
        self.seq += 1;
        let time = Timestamp(seq.0.cast_signed() * 17_000);
        let event = Event { seq, time, actor: ActorId(1), unique: 0, change };
        let payload = Some(Location { file: FileId::Log(1), offset: seq.0 * LOG_PER_EVENT });
        self.index.wait_for_room().unwrap();
        let mut tables = self.index.write();
        tables.apply(&event, payload).unwrap();
        self.index
            .advance(&mut tables, LOG_PER_EVENT, || Mark(seq.0.to_be_bytes().into()))
            .unwrap();
        Ino(seq.0)
    }

    fn create(&mut self, parent: Ino, name: &[u8], mode: u32) -> Ino {
        let (uid, gid, rdev, target, xattrs) = (0, 0, 0, &b""[..], vec![]);
        self.push(Change::Create { parent, name, mode, uid, gid, rdev, target, xattrs })
    }

    fn write(&mut self, ino: Ino, offset: u64) {
        let place = Place::Inline(&[7; 200]);
        let data = Data { hash: [0; 32], salt: [0; 16], place };
        self.push(Change::Write {
            ino,
            offset,
            data,
            ends: false,
            mode: None,
            drop_capability: false,
        });
    }

    fn chmod(&mut self, ino: Ino, mode: u32) {
        let set = SetAttr { mode: Some(S_IFREG | mode), ..SetAttr::default() };
        self.push(Change::SetAttr { ino, set, acl: None, drop_capability: false });
    }

    /// Returns how many events it took.
    fn grow(&mut self, files: u64) -> u64 {
        let before = self.seq;
        let first = self.files.len();
        let mut dir = Ino::ROOT;
        for number in 0..files {
            if number % NAMES_PER_DIR == 0 {
                let name = format!("dir {}", self.seq);
                dir = self.create(Ino::ROOT, name.as_bytes(), S_IFDIR | 0o755);
            }
            let name = format!("file {number}").into_bytes();
            let ino = self.create(dir, &name, S_IFREG | 0o644);
            self.write(ino, 0);
            self.chmod(ino, 0o600);
            self.files.push((ino, dir, name));
        }
        self.past = Seq(self.seq - 1);
        for at in first..self.files.len() {
            let (ino, parent, name) = self.files[at].clone();
            self.write(ino, 100);
            self.chmod(ino, 0o640);
            if at % 2 == 0 {
                let new_name = [&name[..], b"~"].concat();
                let (new_parent, replaced) = (parent, None);
                let (name, new_name) = (&name[..], &new_name[..]);
                self.push(Change::Rename { parent, name, new_parent, new_name, ino, replaced });
            }
        }
        self.seq - before
    }
}

fn sizes() -> Vec<u64> {
    let test = std::env::args().any(|argument| argument == "--test");
    if test { vec![1_000] } else { vec![1_000, 100_000, 1_000_000] }
}

/// The next place in a walk that visits all in no order.
fn hop(at: &mut usize, len: usize) -> usize {
    *at = (*at + 7_919_777) % len;
    *at
}

fn index(c: &mut Criterion) {
    for size in sizes() {
        let dir = tempfile::tempdir().unwrap();
        let mut tree = Tree::open(dir.path());
        let since = Instant::now();
        let events = tree.grow(size);
        let grown = since.elapsed();
        tree.index.flush(Mark(b"grown".to_vec())).unwrap();
        println!(
            "{size} files: {events} events folded in at {:.0}/s, {:.1} MiB in the file",
            events as f64 / grown.as_secs_f64(),
            dir.path().join("rows.redb").metadata().unwrap().len() as f64 / 1048576.0,
        );
        questions(c, &tree, size);
        fold(c, &mut tree, size);
    }
}

fn questions(c: &mut Criterion, tree: &Tree, size: u64) {
    let tables = tree.index.read();
    let (files, len) = (&tree.files, tree.files.len());
    let mut group = c.benchmark_group(format!("index/{size}"));
    group.measurement_time(Duration::from_secs(2)).warm_up_time(Duration::from_millis(500));
    group.throughput(Throughput::Elements(1));
    let hot = files[len / 3].clone();
    group.bench_function("inode, hot", |b| {
        b.iter(|| tables.inode(black_box(hot.0), Seq::NOW).unwrap().unwrap().size);
    });
    group.bench_function("entry, hot", |b| {
        b.iter(|| tables.entry(hot.1, black_box(b"not there"), Seq::NOW).unwrap());
    });
    for (when, at) in [("now", Seq::NOW), ("past", tree.past)] {
        let mut place = 0;
        group.bench_function(format!("inode, any, {when}"), |b| {
            b.iter(|| tables.inode(files[hop(&mut place, len)].0, at).unwrap().unwrap().size);
        });
        group.bench_function(format!("entry, any, {when}"), |b| {
            b.iter(|| {
                let (_, parent, name) = &files[hop(&mut place, len)];
                tables.entry(*parent, name, at).unwrap()
            });
        });
        let mut found = Vec::new();
        group.bench_function(format!("stretches, any, {when}"), |b| {
            b.iter(|| {
                found.clear();
                let (ino, ..) = files[hop(&mut place, len)];
                tables.stretches(ino, 0, 4096, at, &mut found).unwrap();
                found.len()
            });
        });
        group.bench_function(format!("listing of 1,000 names, {when}"), |b| {
            b.iter(|| {
                let (_, parent, _) = &files[hop(&mut place, len)];
                let mut names = 0;
                let mut count = |_: u64, _: &[u8], _| {
                    names += 1;
                    ControlFlow::Continue(())
                };
                tables.entries(*parent, 0, at, &mut count).unwrap();
                assert_eq!(names, NAMES_PER_DIR.min(size));
            });
        });
    }
    group.finish();
}

fn fold(c: &mut Criterion, tree: &mut Tree, size: u64) {
    let mut group = c.benchmark_group(format!("index/{size}"));
    group.measurement_time(Duration::from_secs(2)).warm_up_time(Duration::from_millis(500));
    group.throughput(Throughput::Elements(1));
    group.bench_function("fold in a create, a write and a chmod, each", |b| {
        b.iter_custom(|rounds| {
            let since = Instant::now();
            let files = (rounds / 3).max(1);
            for number in 0..files {
                let name = (tree.seq + number).to_string();
                let ino = tree.create(Ino::ROOT, name.as_bytes(), S_IFREG | 0o644);
                tree.write(ino, 0);
                tree.chmod(ino, 0o600);
            }
            since.elapsed().mul_f64(rounds as f64 / (files * 3) as f64)
        });
    });
    group.finish();
}

criterion_group!(benches, index);
criterion_main!(benches);
