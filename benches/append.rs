//! How many events a second does the store take, acknowledged and durable, and how long does it
//! take to open again?
//!
//! `durable` is held against a bare loop of `pwrite` and `fdatasync` on a file of the same kind, in
//! the same run. Files are made under `LIGHTHOUSE_BENCH_DIR`, by default the current directory: a
//! filesystem in memory would make every `fdatasync` free.

#![allow(clippy::unwrap_used, reason = "a bench that cannot go on has nothing to say")]

use std::hint::black_box;
use std::path::PathBuf;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use lighthouse_fuse::store::disk::{Disk, Real};
use lighthouse_fuse::store::event::{Change, Ino, Seq, SetAttr, Timestamp};
use lighthouse_fuse::store::{CreateOptions, OpenOptions, Origin, Placed, Store};
use tempfile::TempDir;

fn directory() -> TempDir {
    // Below the build's own directory: on a disk, and out of sight if a run is killed.
    let base = std::env::var_os("LIGHTHOUSE_BENCH_DIR")
        .map_or_else(|| env!("CARGO_TARGET_TMPDIR").into(), PathBuf::from);
    tempfile::Builder::new().prefix("append-").tempdir_in(base).unwrap()
}

fn store(dir: &TempDir) -> Store {
    let store =
        Store::create(dir.path(), &CreateOptions::default(), &OpenOptions::default()).unwrap();
    create(&store, b"file");
    store
}

fn create(store: &Store, name: &[u8]) -> Seq {
    let change = Change::Create {
        parent: Ino::ROOT,
        name,
        mode: 0o100_644,
        uid: 0,
        gid: 0,
        rdev: 0,
        target: b"",
        xattrs: Vec::new(),
    };
    store.begin().unwrap().commit(Origin::default(), change).unwrap()
}

fn touch(store: &Store, nanos: i64) -> Seq {
    let set = SetAttr { mtime: Some(Timestamp(nanos)), ..SetAttr::default() };
    let change = Change::SetAttr { ino: Ino::ROOT, set, acl: None, drop_capability: false };
    store.begin().unwrap().commit(Origin::default(), change).unwrap()
}

fn write(store: &Store, ino: Ino, bytes: &[u8]) -> Seq {
    let mut placed = Placed::default();
    let data = store.place(bytes, &mut placed).unwrap();
    let change =
        Change::Write { ino, offset: 0, data, ends: false, mode: None, drop_capability: false };
    store.begin().unwrap().commit(Origin::default(), change).unwrap()
}

/// One event after another, each acknowledged before the next; nobody waits for the disk.
fn acknowledged(c: &mut Criterion) {
    let mut group = c.benchmark_group("append/acknowledged");
    group.throughput(Throughput::Elements(1));
    let dir = directory();
    let store = store(&dir);
    let mut count = 0;
    group.bench_function("set a time", |b| {
        b.iter(|| {
            count += 1;
            black_box(touch(&store, count))
        });
    });
    group.bench_function("create a file", |b| {
        b.iter(|| {
            count += 1;
            create(&store, format!("file {count}").as_bytes())
        });
    });
    let ino = Ino(create(&store, b"small").0);
    group.bench_function("write 1 KiB", |b| b.iter(|| write(&store, ino, &[7; 1024])));
    let bytes = vec![7; 128 << 10];
    group.throughput(Throughput::Bytes(128 << 10));
    group.bench_function("write 128 KiB", |b| b.iter(|| write(&store, ino, &bytes)));
    group.finish();
}

/// `threads` at once, each waiting until its event is on the disk.
fn durable(c: &mut Criterion) {
    let mut group = c.benchmark_group("append/durable");
    group.sample_size(10).measurement_time(Duration::from_secs(3));
    group.throughput(Throughput::Elements(1));
    let dir = directory();
    let disk = Real::new(dir.path()).unwrap();
    let file = disk.open("bare", true).unwrap();
    file.allocate(0, 64 << 20).unwrap();
    let mut at = 0;
    group.bench_function("bare pwrite and fdatasync", |b| {
        b.iter(|| {
            file.write_at(&[7; 100], at).unwrap();
            file.sync_data().unwrap();
            at = (at + 100) % (63 << 20);
        });
    });
    let dir = directory();
    let store = store(&dir);
    for threads in [1_u64, 4, 16] {
        group.bench_function(BenchmarkId::new("threads", threads), |b| {
            b.iter_custom(|count| {
                let each = count.div_ceil(threads);
                let barrier = Barrier::new(usize::try_from(threads).unwrap() + 1);
                let started = std::thread::scope(|scope| {
                    for _ in 0..threads {
                        scope.spawn(|| {
                            barrier.wait();
                            for nanos in 0..each {
                                touch(&store, i64::try_from(nanos).unwrap());
                                store.sync().unwrap();
                            }
                        });
                    }
                    barrier.wait();
                    Instant::now()
                });
                started.elapsed()
            });
        });
    }
    group.finish();
}

/// Opening a store with a million events, left cleanly and left by a kill.
fn open(c: &mut Criterion) {
    // `cargo bench -- --test` asks only whether it works.
    let smoke = std::env::args().any(|arg| arg == "--test");
    let events = if smoke { 2_000 } else { 1_000_000 };
    let mut group = c.benchmark_group("open");
    group.sample_size(10);
    let dir = directory();
    let built = store(&dir);
    let started = Instant::now();
    for count in 0..events {
        match count % 4 {
            0 => _ = create(&built, format!("file {count}").as_bytes()),
            _ => _ = touch(&built, count),
        }
    }
    let rate = f64::from(u32::try_from(events).unwrap()) / started.elapsed().as_secs_f64();
    eprintln!("open: {events} events were taken at {rate:.0}/s");
    drop(built);
    let reopen = || Store::open(dir.path(), &OpenOptions::default()).unwrap();
    // The first start after the kill is the one that has all of it to read back.
    let started = Instant::now();
    let store = reopen();
    let (elapsed, opening) = (started.elapsed(), store.opening());
    eprintln!("open: after a kill {elapsed:?}, {} events read back", opening.replayed);
    drop(store);
    group.bench_function(BenchmarkId::new("killed", events), |b| b.iter(reopen));
    reopen().close().unwrap();
    group.bench_function(BenchmarkId::new("closed", events), |b| {
        b.iter_custom(|count| {
            let mut all = Duration::ZERO;
            for _ in 0..count {
                let started = Instant::now();
                let store = reopen();
                all += started.elapsed();
                store.close().unwrap();
            }
            all
        });
    });
    group.finish();
}

criterion_group!(benches, acknowledged, durable, open);
criterion_main!(benches);
