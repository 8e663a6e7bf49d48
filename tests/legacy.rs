//! What the Python bridge left, read and imported: recorded stores, and made-up ones.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use lighthouse_fuse::legacy::event::{Event, EventError, Missing};
use lighthouse_fuse::legacy::import::{self, ImportError, Options, Outcome, Part, Report};
use lighthouse_fuse::legacy::log::{self, Frames, Item, LogReader, Record, Secrets, Step as Found};
use lighthouse_fuse::legacy::native::{Cursor, NewEvent, PROJECT, Teller, keep};
use lighthouse_fuse::legacy::snapshots;
use lighthouse_fuse::legacy::sqlite::Database;
use lighthouse_fuse::store::disk::Disk;
use lighthouse_fuse::store::event::{Format, Ino, Seq, Timestamp};
use lighthouse_fuse::store::log::Next;
use lighthouse_fuse::store::sim::{SimDisk, Step};
use lighthouse_fuse::store::superblock::Shape;
use lighthouse_fuse::store::verify::verify;
use lighthouse_fuse::store::{CreateOptions, OpenOptions, Origin, Store};
use lighthouse_fuse::tree::Tree;
use lighthouse_fuse::tree::operation::{Caller, Operation, S_IFDIR, S_IFMT, WriteTo};
use serde_json::{Map, Value};

#[path = "common/bridge.rs"]
mod bridge;
#[path = "common/corpus.rs"]
mod corpus;
#[path = "../fuzz/legacy_decoders.rs"]
mod decoders;
#[path = "common/seeds.rs"]
mod seeds;

use bridge::Project;

const OTHER_SECRET: &[u8] = b"lighthouse-fixture-secret-02";

fn data(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/legacy").join(path)
}

fn json(path: &str) -> Value {
    serde_json::from_slice(&std::fs::read(data(path)).unwrap()).unwrap()
}

fn secrets(all: &[&[u8]]) -> Secrets {
    let mut secrets = Secrets::default();
    all.iter().for_each(|secret| secrets.add(secret));
    secrets
}

fn missing() -> Missing {
    Missing { id: "0_0_generated".to_owned(), time: Timestamp(0) }
}

/// Everything a log holds: verified events, those nothing vouches for, and what is wrong.
#[derive(Default)]
struct Log {
    events: Vec<Map<String, Value>>,
    results: Vec<Result<Event, EventError>>,
    unverified: Vec<Map<String, Value>>,
    damage: Vec<(String, u64, u64)>,
}

fn take(log: &mut Log, record: &Record<'_>) {
    let event = Event::decode(record.payload, Format::MessagePack, &missing());
    match (&event, record.verified) {
        (Ok(event), true) => log.events.push(event.to_json()),
        (Ok(event), false) => log.unverified.push(event.to_json()),
        (Err(_), _) => (),
    }
    log.results.push(event);
}

fn read(folder: &str, known: &[&[u8]]) -> Log {
    let files = log::files(&data(&format!("legacy-log/{folder}/events"))).unwrap();
    let mut reader = LogReader::new(files, secrets(known));
    let mut log = Log::default();
    while let Some(item) = reader.read() {
        match item {
            Item::Record(record) => take(&mut log, &record),
            Item::Damage(damage) => log.damage.push((damage.file, damage.offset, damage.len)),
        }
    }
    log
}

fn without(mut all: Vec<Map<String, Value>>, some: &Value, what: &str) -> Vec<Map<String, Value>> {
    for event in some.as_array().unwrap() {
        let found = all.iter().position(|have| have == event.as_object().unwrap());
        let at = found.unwrap_or_else(|| panic!("{what}: {event} was not read"));
        all.remove(at);
    }
    all
}

#[test]
fn every_recorded_log_is_read_event_for_event() {
    let mut folders = 0;
    for entry in std::fs::read_dir(data("legacy-log")).unwrap() {
        let folder = entry.unwrap().file_name().into_string().unwrap();
        if !data(&format!("legacy-log/{folder}/events")).is_dir() || folder == "bad-payloads" {
            continue;
        }
        let expected = json(&format!("legacy-log/{folder}/expected.json"));
        let log = read(&folder, &[bridge::SECRET]);
        let more = without(log.events, &expected["events"], &folder);
        let beyond: Vec<i64> =
            more.iter().map(|event| event["sequence"].as_i64().unwrap()).collect();
        // Behind a wrong length the bridge read nothing more.
        let lost = if folder.starts_with("corrupt-length") { (11..=20).collect() } else { vec![] };
        assert_eq!(beyond, lost, "{folder}");
        folders += 1;
    }
    assert_eq!(folders, 20);
}

#[test]
fn damage_is_reported_with_its_place() {
    let places = |folder: &str| read(folder, &[bridge::SECRET]).damage;
    let one = |offset: u64, len: u64| vec![("events_000001.log".to_owned(), offset, len)];
    let size = |folder: &str| {
        let path = data(&format!("legacy-log/{folder}/events/events_000001.log"));
        std::fs::metadata(path).unwrap().len()
    };
    for whole in ["small", "http-session", "empty", "restart", "rotated-once", "rotated-restart"] {
        assert_eq!(places(whole), [], "{whole}");
    }
    // Each record of these takes as much as the one before, or a byte more.
    for folder in ["corrupt-length-long", "corrupt-length-short"] {
        assert_eq!(places(folder), one(2628, 293), "{folder}");
    }
    assert_eq!(places("zero-filled"), one(2628, size("zero-filled") - 2628));
    for folder in ["torn-length", "torn-hmac", "torn-payload", "torn-last-byte", "torn-batch"] {
        let expected = json(&format!("legacy-log/{folder}/expected.json"));
        let records = expected["records"].as_array().unwrap();
        let end = &records.iter().find(|record| record.get("end").is_some()).unwrap()["trailing"];
        let (offset, len) = (end["offset"].as_u64().unwrap(), end["bytes"].as_u64().unwrap());
        assert_eq!(places(folder), one(offset, len), "{folder}");
    }
    for folder in ["corrupt-payload", "corrupt-hmac"] {
        let log = read(folder, &[bridge::SECRET]);
        assert_eq!(log.unverified.len() + log.damage.len(), 1, "{folder}");
    }
}

#[test]
fn records_of_other_secrets_are_kept_apart() {
    let expected = json("legacy-log/two-secrets/expected.json");
    let log = read("two-secrets", &[bridge::SECRET]);
    assert!(
        without(log.unverified, &expected["as_read_with_other_secret"], "two-secrets").is_empty()
    );
    let log = read("two-secrets", &[OTHER_SECRET, bridge::SECRET]);
    let rest = without(log.events, &expected["events"], "two-secrets");
    assert!(without(rest, &expected["as_read_with_other_secret"], "two-secrets").is_empty());
    assert!(log.unverified.is_empty() && log.damage.is_empty());
    let log = read("mixed-one-file", &[OTHER_SECRET, bridge::SECRET]);
    assert_eq!((log.events.len(), log.unverified.len(), log.damage.len()), (12, 0, 0));
    let log = read("mixed-one-file", &[]);
    assert_eq!((log.events.len(), log.unverified.len(), log.damage.len()), (0, 12, 0));
}

#[test]
fn odd_payloads_are_taken_or_refused_as_the_bridge_did() {
    let log = read("bad-payloads", &[bridge::SECRET]);
    assert_eq!(log.events.len(), 10);
    let cases = json("legacy-log/bad-payloads/cases.json");
    let cases = cases.as_array().unwrap().iter().filter(|case| case["in_log"] != false);
    let mut results = log.results.into_iter().skip(3);
    // The last three are payloads that are no MessagePack; they are not in the log.
    for case in cases.take(12) {
        let result = results.next().unwrap();
        assert_eq!(result.is_ok(), case["accepted"] == true, "{case}");
        let Ok(event) = result else { continue };
        let mut expected = case["event"].clone();
        for (field, generated) in
            [("event_id", "0_0_generated"), ("timestamp", "1970-01-01T00:00:00+00:00")]
        {
            if expected[field].as_str().unwrap().starts_with('<') {
                expected[field] = generated.into();
            }
        }
        assert_eq!(Value::Object(event.to_json()), expected, "{case}");
    }
    assert_eq!(results.count(), 0);
    let array = Event::decode(b"\x93\x01\x02\x03", Format::MessagePack, &missing());
    assert_eq!(array, Err(EventError::NotAMap));
    for bad in [&b"\xc1\xc1"[..], b"\x82\xa8sequence", b""] {
        let read = Event::decode(bad, Format::MessagePack, &missing());
        assert!(matches!(read, Err(EventError::Format(_))), "{bad:?}");
    }
}

#[test]
fn a_compressed_log_that_is_cut_short_gives_what_decompresses() {
    let dir = tempfile::tempdir().unwrap();
    let whole = std::fs::read(data("legacy-log/rotated-once/events/events_000001.log.gz")).unwrap();
    std::fs::write(dir.path().join("events_000001.log.gz"), &whole[..whole.len() * 2 / 3]).unwrap();
    let mut log = Log::default();
    let mut reader = LogReader::new(log::files(dir.path()).unwrap(), secrets(&[bridge::SECRET]));
    while let Some(item) = reader.read() {
        match item {
            Item::Record(record) => take(&mut log, &record),
            Item::Damage(damage) => log.damage.push((damage.file, damage.offset, damage.len)),
        }
    }
    assert!(!log.events.is_empty());
    assert!(!log.damage.is_empty() && log.damage.iter().all(|(file, ..)| file.ends_with(".gz")));
}

#[test]
fn a_bit_wrong_anywhere_costs_one_record_at_most() {
    let path = data("legacy-log/corrupt-payload/events/events_000001.log");
    let mut good = std::fs::read(path).unwrap();
    // Without the record that is damaged already.
    good.drain(2628..2628 + 293);
    let count = |bytes: Vec<u8>| {
        let known = secrets(&[bridge::SECRET]);
        let mut frames = Frames::new(String::new(), Box::new(std::io::Cursor::new(bytes)), known);
        let (mut verified, mut covered) = (0, 0);
        while let Some(step) = frames.step() {
            match step {
                Found::Record(sure) => {
                    verified += u64::from(sure);
                    covered += 36 + frames.record(sure).payload.len() as u64;
                }
                Found::Damage(damage) => covered += damage.len,
            }
        }
        assert_eq!(covered, good.len() as u64);
        verified
    };
    assert_eq!(count(good.clone()), 19);
    for at in (0..good.len() * 8).step_by(97) {
        let mut bytes = good.clone();
        bytes[at / 8] ^= 1 << (at % 8);
        assert_eq!(count(bytes), 18, "bit {at}");
    }
}

#[test]
fn rows_of_the_database_are_read_one_by_one() {
    let path = data("legacy-sqlite/with-adapter/events.db");
    let before = std::fs::read(&path).unwrap();
    let expected = json("legacy-sqlite/with-adapter/expected.json");
    let expected = expected["rows"].as_array().unwrap();
    let database = Database::open(&path).unwrap();
    assert_eq!(database.count().unwrap(), expected.len() as u64);
    let log = json("legacy-log/small/expected.json");
    let mut at = 0;
    let mut visit = |row: Result<lighthouse_fuse::legacy::sqlite::Row<'_>, log::Damage>| {
        let row = row.unwrap();
        assert_eq!(row.number, expected[at]["sequence_id"].as_i64().unwrap());
        assert_eq!(row.json, expected[at]["event_data"].as_str().unwrap().as_bytes());
        let event = Event::decode(row.json, Format::Json, &missing()).unwrap();
        assert_eq!(event.id, expected[at]["event_id"].as_str().unwrap());
        // The log has the same event, with its number.
        let mut fields = event.to_json();
        let events = log["events"].as_array().unwrap();
        let same = events.iter().find(|other| other["event_id"] == event.id).unwrap();
        fields.insert("sequence".to_owned(), same["sequence"].clone());
        assert_eq!(&Value::Object(fields), same);
        at += 1;
        true
    };
    database.rows(&mut visit).unwrap();
    assert_eq!(at, expected.len());
    let shipped = Database::open(&data("legacy-sqlite/as-shipped/events.db")).unwrap();
    assert_eq!(shipped.count().unwrap(), 0);
    drop((database, shipped));
    assert_eq!(std::fs::read(&path).unwrap(), before);
    assert_eq!(
        std::fs::read_dir(path.parent().unwrap()).unwrap().count(),
        2,
        "nothing lies beside it"
    );
}

#[test]
fn snapshots_are_checked() {
    let found = snapshots::check(&data("legacy-snapshots/snapshots")).unwrap();
    assert_eq!((found.good, found.unvouched, found.damage.len()), (2, 0, 0));
    let dir = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(data("legacy-snapshots/snapshots")).unwrap() {
        let entry = entry.unwrap();
        let mut bytes = std::fs::read(entry.path()).unwrap();
        if entry.file_name().to_str().unwrap().starts_with("c8072dea") {
            bytes = String::from_utf8(bytes).unwrap().replace("/x", "/y").into_bytes();
        }
        std::fs::write(dir.path().join(entry.file_name()), bytes).unwrap();
    }
    let found = snapshots::check(dir.path()).unwrap();
    assert_eq!((found.good, found.damage.len()), (1, 1));
}

fn options() -> OpenOptions {
    OpenOptions { sync_interval: None, memory: 32 << 20, ..OpenOptions::default() }
}

fn known(aggregate: Option<&str>) -> Options {
    let aggregate = aggregate.map(str::to_owned);
    Options { secrets: secrets(&[bridge::SECRET]), aggregate, ..Options::default() }
}

fn log_of(folder: &str) -> Vec<Part> {
    import::recognise(&data(&format!("legacy-log/{folder}"))).unwrap()
}

fn create(disk: &SimDisk, parts: &[Part], how: &Options) -> Tree {
    let begins = import::first_time(parts, how);
    let create = CreateOptions { begins, ..CreateOptions::default() };
    Tree::new(Arc::new(Store::create_on(Arc::new(disk.clone()), &create, &options()).unwrap()))
}

fn all_of(tree: &Tree, parts: &[Part], how: &Options) -> Report {
    import::import(tree, parts, how, &mut |_| ControlFlow::Continue(())).unwrap()
}

/// The tree as a project, after event `at`.
fn project(tree: &Tree, at: Seq) -> Project {
    fn walk(tree: &Tree, dir: Ino, path: &str, at: Seq, into: &mut Project) {
        let mut names = Vec::new();
        tree.list(dir, 0, at, &mut |_, name, entry| {
            names.push((String::from_utf8(name.to_vec()).unwrap(), entry));
            ControlFlow::Continue(())
        })
        .unwrap();
        for (name, entry) in names {
            let path = format!("{path}/{name}");
            if entry.kind & S_IFMT == S_IFDIR {
                walk(tree, entry.ino, &path, at, into);
                into.directories.insert(path);
            } else {
                let size = tree.inode(entry.ino, at).unwrap().size;
                let mut bytes = vec![0; usize::try_from(size).unwrap()];
                tree.read(entry.ino, 0, &mut bytes, at).unwrap();
                into.files.insert(path, String::from_utf8(bytes).unwrap());
            }
        }
    }
    let mut project = Project::default();
    walk(tree, Ino::ROOT, "", at, &mut project);
    project
}

/// Ids of all foreign events, in the order of the log.
fn ids(tree: &Tree) -> Vec<String> {
    let mut teller = Teller::new(tree, PROJECT, Cursor::default()).unwrap();
    let told = std::iter::from_fn(|| teller.read().unwrap());
    told.filter(|told| told.provenance.is_some()).map(|told| told.event.id).collect()
}

#[test]
fn an_imported_project_is_the_one_that_the_bridge_had() {
    let (parts, how) = (log_of("small"), known(Some("default")));
    let disk = SimDisk::new(1 << 30);
    let tree = create(&disk, &parts, &how);
    let report = all_of(&tree, &parts, &how);
    assert_eq!((report.seen, report.imported, report.known), (191, 191, 0));
    assert_eq!((report.unverifiable, report.refused, report.damaged), (0, 0, 0));
    assert_eq!(report.not_applied, 0, "{:?}", report.findings);

    let state = json("legacy-log/small/state_default.json");
    let imported = project(&tree, Seq::NOW);
    let files = state["files"].as_object().unwrap();
    let expected: Vec<(&str, &str)> =
        files.iter().map(|(path, file)| (&**path, file["content"].as_str().unwrap())).collect();
    let have: Vec<(&str, &str)> =
        imported.files.iter().map(|(path, content)| (&**path, &**content)).collect();
    assert_eq!(have, expected);
    for directory in state["directories"].as_object().unwrap().keys().filter(|path| *path != "/") {
        assert!(imported.directories.contains(directory), "{directory}");
    }
    // Each file was last written when the bridge says, by whom it says.
    for (path, file) in files {
        let names: Vec<&str> = path.split('/').skip(1).collect();
        let found = names
            .iter()
            .fold(Ino::ROOT, |dir, name| tree.lookup(dir, name.as_bytes(), Seq::NOW).unwrap().ino);
        let mtime = tree.inode(found, Seq::NOW).unwrap().mtime;
        let expected: jiff::Timestamp = file["timestamp"].as_str().unwrap().parse().unwrap();
        assert_eq!(i128::from(mtime.0), expected.as_nanosecond(), "{path}");
    }

    // Everything is told again as it was given, with the number it had.
    let mut teller = Teller::new(&tree, PROJECT, Cursor::default()).unwrap();
    let told: Vec<_> = std::iter::from_fn(|| teller.read().unwrap()).skip(1).collect();
    let expected = json("legacy-log/small/expected.json");
    let events: Vec<Value> = told.iter().map(|told| Value::Object(told.event.to_json())).collect();
    assert_eq!(&Value::Array(events), &expected["events"]);
    assert!(told.iter().all(|told| told.provenance.as_ref().unwrap().verified));
}

#[test]
fn the_imported_past_is_what_a_replay_makes_of_it() {
    let (parts, how) = (log_of("small"), known(Some("default")));
    let tree = create(&SimDisk::new(1 << 30), &parts, &how);
    all_of(&tree, &parts, &how);
    let mut teller = Teller::new(&tree, PROJECT, Cursor::default()).unwrap();
    let mut replay = Project::default();
    let mut moments = Vec::new();
    while let Some(told) = teller.read().unwrap() {
        if told.event.aggregate_id == "default" && told.provenance.is_some() {
            replay.apply(&told.event.to_json());
        }
        assert_eq!(project(&tree, told.seq), replay, "after {} {}", told.seq, told.event.kind);
        moments.push((told.logged, replay.clone()));
    }
    // Of several events at one moment the last is meant.
    for at in 0..moments.len() {
        let (time, expected) = &moments[at];
        if moments.get(at + 1).is_some_and(|(next, _)| next == time) {
            continue;
        }
        let seq = tree.store().read().seq_at(*time).unwrap();
        assert_eq!(&project(&tree, seq), expected, "at {time:?}");
    }
}

#[test]
fn a_made_up_project_is_imported_as_a_replay_makes_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut file = std::fs::File::create(dir.path().join("events_000001.log")).unwrap();
    bridge::write_log(&mut file, 600);
    let (parts, how) = (import::recognise(dir.path()).unwrap(), known(None));
    let disk = SimDisk::new(1 << 30);
    let tree = create(&disk, &parts, &how);
    let report = all_of(&tree, &parts, &how);
    assert_eq!((report.imported, report.not_applied), (600, 0), "{:?}", report.findings);
    let mut replay = Project::default();
    let mut teller = Teller::new(&tree, PROJECT, Cursor::default()).unwrap();
    while let Some(told) = teller.read().unwrap() {
        replay.apply(&told.event.to_json());
        if told.seq.0.is_multiple_of(23) {
            assert_eq!(project(&tree, told.seq), replay, "after {}", told.seq);
        }
    }
    assert_eq!(project(&tree, Seq::NOW), replay);
    tree.store().close().unwrap();
    let disk: Arc<dyn Disk> = Arc::new(disk);
    assert_eq!(verify(&disk, &mut |_, _| ()).unwrap().findings, []);
}

#[test]
fn importing_again_adds_nothing() {
    for folder in
        ["small", "rotated-restart", "two-secrets", "bad-payloads", "corrupt-length-short"]
    {
        let (parts, how) = (log_of(folder), known(None));
        let tree = create(&SimDisk::new(1 << 30), &parts, &how);
        let first = all_of(&tree, &parts, &how);
        let last = tree.last();
        let again = all_of(&tree, &parts, &how);
        assert_eq!((again.imported, again.known), (0, first.imported + first.known), "{folder}");
        assert_eq!(tree.last(), last, "{folder}");
    }
}

#[test]
fn a_database_beside_its_log_adds_nothing() {
    let how = known(None);
    let mut parts = log_of("small");
    parts.extend(import::recognise(&data("legacy-sqlite/with-adapter")).unwrap());
    parts.extend(import::recognise(&data("legacy-snapshots")).unwrap());
    assert_eq!(parts.len(), 3);
    let tree = create(&SimDisk::new(1 << 30), &parts, &how);
    let report = all_of(&tree, &parts, &how);
    assert_eq!((report.imported, report.known), (191, 60));
    assert_eq!(report.snapshots.unwrap().good, 2);
    // Alone it is imported, and marked as what nothing vouches for.
    let parts = import::recognise(&data("legacy-sqlite/with-adapter/events.db")).unwrap();
    let tree = create(&SimDisk::new(1 << 30), &parts, &how);
    let report = all_of(&tree, &parts, &how);
    assert_eq!((report.imported, report.unverified), (60, 60));
}

#[test]
fn an_import_that_was_stopped_goes_on_where_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let mut file = std::fs::File::create(dir.path().join("events_000001.log")).unwrap();
    bridge::write_log(&mut file, 200);
    let (parts, how) = (import::recognise(dir.path()).unwrap(), known(None));
    let whole = create(&SimDisk::new(1 << 30), &parts, &how);
    all_of(&whole, &parts, &how);
    let (expected, names) = (project(&whole, Seq::NOW), ids(&whole));
    // Asked to stop.
    let tree = create(&SimDisk::new(1 << 30), &parts, &how);
    let mut calls = 0;
    let stopped = import::import(&tree, &parts, &how, &mut |_| {
        calls += 1;
        if calls == 2 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    assert!(matches!(stopped, Err(ImportError::Stopped(report)) if report.imported < 200));
    all_of(&tree, &parts, &how);
    assert_eq!((project(&tree, Seq::NOW), ids(&tree)), (expected.clone(), names.clone()));
    // The disk fails at any write; the store is not closed, as after a kill.
    for after in (0..700).step_by(97) {
        let disk = SimDisk::new(1 << 30);
        let tree = create(&disk, &parts, &how);
        disk.fail(Step::Write, after, 1, 5);
        let failed = import::import(&tree, &parts, &how, &mut |_| ControlFlow::Continue(()));
        disk.mend();
        drop(tree);
        let store = Store::open_on(Arc::new(disk.clone()), &options()).unwrap();
        let tree = Tree::new(Arc::new(store));
        let rest = all_of(&tree, &parts, &how);
        assert!(failed.is_err() || rest.imported == 0, "after {after}");
        let done = (project(&tree, Seq::NOW), ids(&tree));
        assert_eq!(done, (expected.clone(), names.clone()), "after {after}");
    }
}

#[test]
fn what_contradicts_the_tree_is_kept_and_reported() {
    let dir = tempfile::tempdir().unwrap();
    let mut bytes = Vec::new();
    let file = |path: &str| serde_json::json!({"path": path, "content": "x"});
    let events = [
        ("file_created", file("/a")),
        ("file_created", file("/a/b")),
        ("directory_created", file("/a")),
        ("file_modified", file("/../b")),
        ("file_created", serde_json::json!({"content": "no path"})),
        ("file_moved", serde_json::json!({"old_path": "/a", "new_path": "/c/d"})),
        ("file_created", file("/c")),
    ];
    for (at, (kind, data)) in (0..).zip(&events) {
        let mut event = bridge::event(at);
        event["event_type"] = (*kind).into();
        event["data"] = data.clone();
        let mut payload = Vec::new();
        bridge::pack(&event, &mut payload);
        bytes.extend(bridge::record(&payload, bridge::SECRET));
    }
    std::fs::write(dir.path().join("events_000007.log"), bytes).unwrap();
    let (parts, how) = (import::recognise(dir.path()).unwrap(), known(None));
    let tree = create(&SimDisk::new(1 << 30), &parts, &how);
    let report = all_of(&tree, &parts, &how);
    assert_eq!((report.imported, report.applied, report.not_applied), (7, 2, 5));
    let at_all = |finding: &import::Finding| {
        finding.outcome == Outcome::NotApplied && finding.at.file == "events_000007.log"
    };
    assert!(report.findings.iter().all(at_all));
    let project = project(&tree, Seq::NOW);
    assert_eq!(project.files.keys().collect::<Vec<_>>(), ["/c/d"]);
    assert_eq!(ids(&tree).len(), 7);
}

#[test]
fn records_that_nothing_vouches_for_are_taken_on_demand_alone() {
    let parts = log_of("two-secrets");
    let how = known(None);
    let tree = create(&SimDisk::new(1 << 30), &parts, &how);
    let report = all_of(&tree, &parts, &how);
    assert_eq!((report.imported, report.unverifiable), (11, report.seen - 11));
    let how = Options { unverified: true, ..how };
    let report = all_of(&tree, &parts, &how);
    assert_eq!((report.imported, report.unverified), (report.seen - 11, report.seen - 11));
    let mut teller = Teller::new(&tree, PROJECT, Cursor::default()).unwrap();
    let told = std::iter::from_fn(|| teller.read().unwrap());
    let unverified = told.filter_map(|told| told.provenance).filter(|from| !from.verified);
    assert_eq!(unverified.count() as u64, report.unverified);
}

#[test]
fn what_a_source_is_is_recognised() {
    let kinds = |path: &str| -> Vec<&str> {
        let parts = import::recognise(&data(path)).unwrap();
        let word = |part: &Part| match part {
            Part::Log(..) => "log",
            Part::Sqlite(_) => "database",
            Part::Snapshots(_) => "snapshots",
        };
        parts.iter().map(word).collect()
    };
    assert_eq!(kinds("legacy-log/small"), ["log"]);
    assert_eq!(kinds("legacy-log/small/events"), ["log"]);
    assert_eq!(kinds("legacy-log/rotated-once/events/events_000001.log.gz"), ["log"]);
    assert_eq!(kinds("legacy-log/small/expected.json"), [""; 0]);
    assert_eq!(kinds("legacy-log"), [""; 0]);
    assert_eq!(kinds("legacy-sqlite/with-adapter"), ["database"]);
    assert_eq!(kinds("legacy-snapshots"), ["snapshots"]);
}

#[test]
fn no_reader_panics_whatever_becomes_of_the_corpus() {
    let targets = decoders::TARGETS.map(|(target, _)| target);
    corpus::run(targets, 1, 12, decoders::run);
}

#[test]
fn what_others_told_outlives_the_horizon_a_kill_and_the_index() {
    let shape = Shape { segment_len: 1 << 20, content_len: 8 << 20, content_step: 64 << 10 };
    let open = OpenOptions { history: Some(0), ..options() };
    let disk = SimDisk::new(1 << 30);
    let create = CreateOptions { shape, ..CreateOptions::default() };
    let store = Store::create_on(Arc::new(disk.clone()), &create, &open).unwrap();
    let tree = Tree::new(Arc::new(store));
    let caller = Caller::default();
    let name = b"file";
    let (parent, mode, rdev, exclusive, security) = (Ino::ROOT, 0o644, 0, true, None);
    let make = Operation::Make { parent, name, mode, rdev, exclusive, security };
    let ino = tree.perform(&caller, &make).unwrap().inode.unwrap().ino;
    let mut told = Vec::new();
    for number in 0..40_u32 {
        let content = vec![number as u8; 100_000];
        tree.write(&caller, ino, WriteTo::Offset(0), &content, false).unwrap();
        let text = "x".repeat(if number % 4 == 0 { 200_000 } else { 10 });
        let data = serde_json::json!({"number": number, "text": text});
        let new = NewEvent {
            kind: "custom",
            aggregate_id: format!("thing {number}"),
            aggregate_type: "thing".to_owned(),
            source_agent: None,
            source_component: "http_server".to_owned(),
            data: data.as_object().unwrap().clone(),
            metadata: Map::new(),
        };
        told.push(keep(&tree, Origin::default(), &new).unwrap());
    }
    let all_there = |tree: &Tree| {
        for one in &told {
            let found = tree.store().foreign(one.event.id.as_bytes(), None).unwrap();
            assert_eq!(found, Some(one.seq));
            let mut teller = Teller::new(tree, PROJECT, Cursor::before(one.seq)).unwrap();
            assert_eq!(teller.read().unwrap().as_ref(), Some(one), "{}", one.seq);
        }
        for seq in (2..=tree.last().0).map(Seq) {
            let mut reader = tree.store().log_from(seq).unwrap();
            let first = loop {
                let Next::Record(_, record) = reader.read().unwrap() else { panic!("{seq}") };
                if record.is_event() {
                    break record.stamp().seq;
                }
            };
            assert_eq!(first, seq);
        }
    };
    for _ in 0..50 {
        tree.store().tick().unwrap();
    }
    assert!(tree.store().horizon() > told[30].seq, "{}", tree.store().horizon());
    assert_eq!(tree.store().read().totals().kept, 10 * 200_704);
    all_there(&tree);
    tree.store().sync().unwrap();
    drop(tree);
    let again = |disk: &SimDisk| {
        Tree::new(Arc::new(Store::open_on(Arc::new(disk.clone()), &open).unwrap()))
    };
    let tree = again(&disk);
    all_there(&tree);
    tree.store().close().unwrap();
    drop(tree);
    disk.remove("index/rows.redb").unwrap();
    let tree = again(&disk);
    all_there(&tree);
    assert_eq!(tree.store().read().totals().kept, 10 * 200_704);
    tree.store().close().unwrap();
    let disk: Arc<dyn Disk> = Arc::new(disk);
    assert_eq!(verify(&disk, &mut |_, _| ()).unwrap().findings, []);
}
