//! Every reader of what the Python bridge left, as a function of any bytes: what the fuzz targets and a plain
//! test run.
//!
//! None may panic; what was decoded must be the same after being printed and read again; no byte of a log may
//! go unreported.

use std::io::Cursor;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use lighthouse_fuse::legacy::event::{Event, Missing};
use lighthouse_fuse::legacy::import;
use lighthouse_fuse::legacy::log::{self, Frames, Item, LogReader, Secrets, Step};
use lighthouse_fuse::legacy::snapshots;
use lighthouse_fuse::legacy::sqlite::Database;
use lighthouse_fuse::store::event::{Format, Timestamp};
use lighthouse_fuse::store::sim::SimDisk;
use lighthouse_fuse::store::superblock::Shape;
use lighthouse_fuse::store::{CreateOptions, OpenOptions, Store};
use lighthouse_fuse::tree::Tree;

/// Panics if its reader does, or reads something else at the second time.
type Reader = fn(&[u8]);

/// Every target.
pub(crate) const TARGETS: [(&str, Reader); 8] = [
    ("legacy_frames", frames),
    ("legacy_resync", resync),
    ("legacy_gzip", gzip),
    ("legacy_import", import_event),
    ("legacy_payload", payload),
    ("legacy_json", json),
    ("legacy_sqlite", sqlite),
    ("legacy_snapshot", snapshot),
];

/// Runs the reader of the target `name`.
pub(crate) fn run(name: &str, bytes: &[u8]) {
    let target = TARGETS.iter().find(|(known, _)| *known == name);
    target.unwrap_or_else(|| panic!("no reader is called {name}")).1(bytes);
}

/// The secret of the corpus.
const SECRET: &[u8] = b"lighthouse-fixture-secret-01";

fn walk(bytes: &[u8], secrets: Secrets) {
    let mut frames = Frames::new("log".to_owned(), Box::new(Cursor::new(bytes.to_vec())), secrets);
    let mut at = 0;
    while let Some(step) = frames.step() {
        let (offset, len) = match step {
            Step::Record(verified) => {
                let record = frames.record(verified);
                (record.offset, 36 + record.payload.len() as u64)
            }
            Step::Damage(damage) => (damage.offset, damage.len),
        };
        assert_eq!(offset, at, "a byte went unreported, or was read twice");
        at += len;
    }
    assert_eq!(at, bytes.len() as u64);
}

/// Any bytes as a log of a known secret, and of none.
fn frames(bytes: &[u8]) {
    let mut secrets = Secrets::default();
    walk(bytes, secrets.clone());
    secrets.add(SECRET);
    walk(bytes, secrets);
}

/// Any bytes in front of a log that is good, and behind its first half.
fn resync(bytes: &[u8]) {
    let good = include_bytes!("corpus/legacy_frames/torn-batch");
    let mut secrets = Secrets::default();
    secrets.add(SECRET);
    walk(&[bytes, &good[..]].concat(), secrets.clone());
    let (front, back) = good.split_at(good.len() / 2);
    walk(&[front, bytes, back].concat(), secrets);
}

/// A name of a file of this process, for what only reads files.
fn scratch() -> std::path::PathBuf {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    std::env::temp_dir().join(format!("lighthouse-fuse-fuzz-{}-{number}", std::process::id()))
}

/// Any bytes as a compressed log in a directory.
fn gzip(bytes: &[u8]) {
    let dir = scratch();
    let written = std::fs::create_dir(&dir)
        .and_then(|()| std::fs::write(dir.join("events_000001.log.gz"), bytes));
    written.unwrap_or_else(|err| panic!("{}: {err}", dir.display()));
    let mut secrets = Secrets::default();
    secrets.add(SECRET);
    let found = log::files(&dir).unwrap_or_else(|err| panic!("{}: {err}", dir.display()));
    assert_eq!(found.len(), 1);
    let mut reader = LogReader::new(found, secrets);
    while let Some(item) = reader.read() {
        if let Item::Damage(damage) = item {
            assert_eq!(damage.file, "events_000001.log.gz");
        }
    }
    assert!(reader.bytes_read() <= bytes.len() as u64);
    // Nothing depends on it any more.
    let _ = std::fs::remove_dir_all(&dir);
}

/// Any bytes as the payload of a record, imported into a tree that has a few names; again it must add nothing.
fn import_event(bytes: &[u8]) {
    let mut log = Vec::new();
    let mut record = |payload: &[u8]| {
        let Ok(len) = u32::try_from(payload.len()) else { return };
        log.extend(len.to_be_bytes());
        // No secret vouches for it, and it is taken all the same.
        log.extend([0; 32]);
        log.extend(payload);
    };
    record(include_bytes!("corpus/legacy_import/created"));
    record(bytes);
    record(include_bytes!("corpus/legacy_import/moved"));
    record(bytes);
    let dir = scratch();
    let written = std::fs::create_dir(&dir)
        .and_then(|()| std::fs::write(dir.join("events_000001.log"), &log));
    written.unwrap_or_else(|err| panic!("{}: {err}", dir.display()));
    let open = OpenOptions { sync_interval: None, memory: 8 << 20, ..OpenOptions::default() };
    // Small files: a new store sets space aside.
    let shape = Shape { segment_len: 1 << 20, content_len: 8 << 20, content_step: 64 << 10 };
    let create = CreateOptions { shape, ..CreateOptions::default() };
    let store = Store::create_on(Arc::new(SimDisk::new(1 << 28)), &create, &open);
    let tree = Tree::new(Arc::new(store.unwrap_or_else(|err| panic!("{err}"))));
    let parts = import::recognise(&dir).unwrap_or_else(|err| panic!("{}: {err}", dir.display()));
    let options = import::Options { unverified: true, ..import::Options::default() };
    let once = || {
        let done = import::import(&tree, &parts, &options, &mut |_| ControlFlow::Continue(()));
        done.unwrap_or_else(|err| panic!("{err}"))
    };
    let first = once();
    assert!(first.imported >= 1, "the first of them is good");
    let last = tree.last();
    let second = once();
    assert_eq!((second.imported, second.known), (0, first.imported + first.known));
    assert_eq!(tree.last(), last);
    // Nothing depends on it any more.
    let _ = std::fs::remove_dir_all(&dir);
}

fn event(bytes: &[u8], format: Format) {
    let missing = Missing { id: "1_0_n".to_owned(), time: Timestamp(0) };
    if let Ok(event) = Event::decode(bytes, format, &missing) {
        let printed = serde_json_text(&event);
        let again = Event::decode(printed.as_bytes(), Format::Json, &missing);
        assert_eq!(again.as_ref(), Ok(&event));
    }
}

fn serde_json_text(event: &Event) -> String {
    // The map prints itself, so that the fuzz targets need no crate of their own for it.
    let fields: Vec<String> =
        event.to_json().iter().map(|(name, value)| format!("\"{name}\": {value}")).collect();
    format!("{{{}}}", fields.join(", "))
}

fn payload(bytes: &[u8]) {
    event(bytes, Format::MessagePack);
}

fn json(bytes: &[u8]) {
    event(bytes, Format::Json);
}

/// Any bytes as a database.
fn sqlite(bytes: &[u8]) {
    let path = scratch();
    std::fs::write(&path, bytes).unwrap_or_else(|err| panic!("{}: {err}", path.display()));
    if let Ok(database) = Database::open(&path) {
        let mut rows = 0;
        let read = database.rows(&mut |row| {
            if let Ok(row) = row {
                event(row.json, Format::Json);
            }
            rows += 1;
            rows < 10_000
        });
        drop(read);
    }
    // Nothing depends on it any more.
    let _ = std::fs::remove_file(&path);
}

fn snapshot(bytes: &[u8]) {
    if let Ok(fields) = snapshots::parse(bytes) {
        for value in fields.values() {
            assert_eq!(snapshots::checksum(value).len(), 64);
        }
    }
}
