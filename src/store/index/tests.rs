//! What questions cost, and what happens when the disk or the log fails.

use std::io;
use std::ops::ControlFlow;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::commit::MemoryFile;
use super::*;
use crate::store::disk::File;
use crate::store::event::{ActorId, Allocation, Change, Data, Place, SetAttr};

const KEY: [u8; 16] = [3; 16];
const STORE: [u8; 16] = [4; 16];
pub(super) const S_IFDIR: u32 = 0o040_000;
pub(super) const S_IFREG: u32 = 0o100_000;
const TIB: u64 = 1 << 40;

/// A file in memory that fails when told to.
#[derive(Default)]
struct Flaky {
    file: MemoryFile,
    reads_fail: AtomicBool,
    writes_fail: AtomicBool,
}

fn full() -> io::Error {
    io::ErrorKind::StorageFull.into()
}

impl File for Flaky {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        if self.reads_fail.load(Ordering::Relaxed) {
            return Err(io::Error::other("the disk does not answer"));
        }
        self.file.read_at(buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        if self.writes_fail.load(Ordering::Relaxed) {
            return Err(full());
        }
        self.file.write_at(bytes, offset)
    }

    fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        if self.writes_fail.load(Ordering::Relaxed) {
            return Err(full());
        }
        self.file.allocate(offset, len)
    }

    fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        self.file.punch(offset, len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

/// Folds in changes one after the other, at one event a millisecond.
pub(super) struct Writer<'i> {
    pub(super) index: &'i Index,
    pub(super) seq: u64,
}

impl<'i> Writer<'i> {
    pub(super) fn new(index: &'i Index) -> Self {
        let mut writer = Self { index, seq: Seq::FIRST.0 };
        writer.push(Change::Mkfs { mode: S_IFDIR | 0o755, uid: 0, gid: 0 });
        writer
    }

    fn try_push(&mut self, change: Change<'_>) -> Result<Ino, IndexError> {
        let seq = Seq(self.seq);
        let time = Timestamp(1_000_000 * self.seq.cast_signed());
        let event = Event { seq, time, actor: ActorId(0), unique: 0, change };
        let payload = Location { file: FileId::Log(1), offset: 1000 * self.seq };
        self.index.write().apply(&event, Some(payload))?;
        self.seq += 1;
        Ok(Ino(seq.0))
    }

    pub(super) fn push(&mut self, change: Change<'_>) -> Ino {
        self.try_push(change).unwrap()
    }

    pub(super) fn create(&mut self, parent: Ino, name: &[u8], mode: u32) -> Ino {
        let (uid, gid, rdev, target, xattrs) = (0, 0, 0, &b""[..], vec![]);
        self.push(Change::Create { parent, name, mode, uid, gid, rdev, target, xattrs })
    }

    fn write(&mut self, ino: Ino, offset: u64, bytes: &[u8]) {
        let data = Data { hash: [0; 32], salt: [0; 16], place: Place::Inline(bytes) };
        self.push(Change::Write {
            ino,
            offset,
            data,
            ends: false,
            mode: None,
            drop_capability: false,
        });
    }

    fn truncate(&mut self, ino: Ino, size: u64) {
        let set = SetAttr { size: Some(size), ..SetAttr::default() };
        self.push(Change::SetAttr { ino, set, acl: None, drop_capability: false });
    }

    pub(super) fn flush(&self) {
        self.index.flush(Mark(self.seq.to_be_bytes().to_vec())).unwrap();
    }
}

/// Makes 2000 files in `index`, which is new, and commits them. Returns the number that the next event takes.
fn fill(index: &Index) -> u64 {
    let mut writer = Writer::new(index);
    for number in 0..2000 {
        writer.create(Ino::ROOT, format!("{number}").as_bytes(), S_IFREG);
    }
    writer.flush();
    writer.seq
}

/// How many steps `work` takes in the layers.
pub(super) fn steps<T>(index: &Index, work: impl FnOnce(&Tables) -> T) -> u64 {
    let tables = index.read();
    let before = tables.rows_visited.load(Ordering::Relaxed);
    work(&tables);
    tables.rows_visited.load(Ordering::Relaxed) - before
}

pub(super) fn list(tables: &Tables, dir: Ino, at: Seq) -> usize {
    let mut names = 0;
    let mut count = |_: u64, _: &[u8], _| {
        names += 1;
        ControlFlow::Continue(())
    };
    tables.entries(dir, 0, at, &mut count).unwrap();
    names
}

fn open(file: Arc<dyn File>) -> Result<Index, IndexError> {
    Index::open_file(file, STORE, &KEY, &Options::default())
}

#[test]
fn listing_a_directory_does_not_meet_the_names_that_died_in_it() {
    let index = Index::in_memory(&Options::default()).unwrap();
    let mut writer = Writer::new(&index);
    let fresh = writer.create(Ino::ROOT, b"fresh", S_IFDIR);
    let old = writer.create(Ino::ROOT, b"old", S_IFDIR);
    for dir in [fresh, old] {
        for number in 0..50 {
            writer.create(dir, format!("stays {number}").as_bytes(), S_IFREG);
        }
    }
    // Some die young, some after a commit.
    let mut born = Vec::new();
    for number in 0..100_000_u32 {
        let name = format!("dies {number}");
        born.push((writer.create(old, name.as_bytes(), S_IFREG), name));
        if number % 2 == 1 {
            if number % 20_001 == 0 {
                writer.flush();
            }
            for (ino, name) in born.drain(..) {
                writer.push(Change::Unlink { parent: old, name: name.as_bytes(), ino });
                writer.push(Change::End { ino });
            }
        }
    }
    writer.flush();
    let of_fresh = steps(&index, |tables| assert_eq!(list(tables, fresh, Seq::NOW), 50));
    let of_old = steps(&index, |tables| assert_eq!(list(tables, old, Seq::NOW), 50));
    assert!(of_old <= 2 * of_fresh, "{of_old} steps against {of_fresh}");
}

#[test]
fn what_lived_and_died_between_two_batches_leaves_no_removal_behind() {
    let index = Index::in_memory(&Options::default()).unwrap();
    let mut writer = Writer::new(&index);
    for number in 0..100_u32 {
        let name = number.to_le_bytes().map(|byte| byte | 0x40);
        let ino = writer.create(Ino::ROOT, &name, S_IFREG);
        writer.push(Change::Unlink { parent: Ino::ROOT, name: &name, ino });
        writer.push(Change::End { ino });
    }
    let tables = index.read();
    let removed = tables.young.rows.values().filter(|slot| slot.value.is_none()).count();
    assert_eq!(removed, 0);
}

#[test]
fn a_small_write_and_its_reading_cost_the_same_whatever_came_before() {
    let index = Index::in_memory(&Options::default()).unwrap();
    let mut writer = Writer::new(&index);
    let ino = writer.create(Ino::ROOT, b"busy", S_IFREG);
    let mut costs = Vec::new();
    for number in 0..3000_u64 {
        let before = index.read().rows_visited.load(Ordering::Relaxed);
        writer.write(ino, number * 37 % 900 * 64, b"0123456789");
        costs.push(index.read().rows_visited.load(Ordering::Relaxed) - before);
    }
    writer.flush();
    let sum = |range: std::ops::Range<usize>| costs[range].iter().sum::<u64>();
    // Each place was written once by then; more of them only replace what is there.
    assert!(sum(2500..3000) <= 2 * sum(500..1000), "{} {}", sum(2500..3000), sum(500..1000));
    let read =
        |at| steps(&index, |tables| tables.stretches(ino, 0, 65_536, at, &mut Vec::new()).unwrap());
    let now = read(Seq::NOW);
    for at in (1000..3000).step_by(100) {
        let then = read(Seq(at));
        assert!(then <= 2 * now.max(300), "{then} steps at {at}, {now} now");
    }
}

#[test]
fn holes_of_a_tebibyte_are_made_and_read_in_a_few_steps() {
    let index = Index::in_memory(&Options::default()).unwrap();
    let mut writer = Writer::new(&index);
    let ino = writer.create(Ino::ROOT, b"sparse", S_IFREG);
    for chunk in 0..2000 {
        writer.write(ino, chunk * 65_536 + 7, &[1; 100]);
    }
    writer.truncate(ino, TIB);
    writer.flush();
    let (how, offset, len, mode) = (Allocation::Punch, 70_000, TIB, None);
    let before = index.read().rows_visited.load(Ordering::Relaxed);
    writer.push(Change::Fallocate { ino, how, offset, len, mode });
    writer.truncate(ino, 50);
    writer.truncate(ino, TIB);
    // Counting what is cut off may look at up to 4096 chunks; making the hole does not.
    let counted = index.read().rows_visited.load(Ordering::Relaxed) - before;
    assert!(counted <= 3 * 4096, "{counted}");
    writer.flush();
    let tables = index.read();
    let inode = tables.inode(ino, Seq::NOW).unwrap().unwrap();
    assert_eq!((inode.size, inode.allocated), (TIB, 43));
    drop(tables);
    let mut found = Vec::new();
    let cost = steps(&index, |tables| {
        tables.stretches(ino, 0, TIB, Seq::NOW, &mut found).unwrap();
        assert_eq!(tables.seek(ino, 60, false, Seq::NOW).unwrap(), None);
    });
    assert_eq!(found.iter().map(|stretch| stretch.len).sum::<u64>(), TIB);
    assert!(cost < 20, "{cost}");
}

#[test]
fn a_long_clone_notes_down_what_goes_on_in_one_file_as_one_and_leaves_no_room_behind() {
    let index = Index::in_memory(&Options::default()).unwrap();
    let mut writer = Writer::new(&index);
    let src = writer.create(Ino::ROOT, b"src", S_IFREG);
    let dst = writer.create(Ino::ROOT, b"dst", S_IFREG);
    let chunk = extents::CHUNK_LEN;
    // Of parts that lie side by side, but for one that was written again.
    let (chunks, part) = (1024, 16 << 10);
    let len = chunks * chunk;
    let mut write = |offset, at| {
        let location = Location { file: FileId::Content(1), offset: at };
        let data = Data {
            hash: [0; 32],
            salt: [0; 16],
            place: Place::Extent { location, len: part, crcs: &[] },
        };
        let (ino, mode, drop_capability) = (src, None, false);
        writer.push(Change::Write { ino, offset, data, ends: false, mode, drop_capability });
    };
    (0..len / part).for_each(|n| write(n * part, n * part));
    write(chunk + part, len);
    let (src_offset, dst_offset, ends, mode) = (0, 0, true, None);
    writer.push(Change::Clone { src, src_offset, dst, dst_offset, len, ends, mode });
    let tables = index.read();
    let mut noted = Vec::new();
    let mut note = |location: Location, len, ino, offset| {
        if ino == dst {
            noted.push((location.offset, len, offset));
        }
        ControlFlow::Continue(())
    };
    tables.shared(FileId::Content(1), 0, u64::MAX, &mut note).unwrap();
    assert_eq!(noted.len(), 1024 + 2, "the chunk is in three, the last of which goes on");
    assert_eq!(noted.iter().map(|(_, len, _)| len).sum::<u64>(), len);
    assert!(noted.iter().all(|&(_, len, _)| len <= chunk));
    let mut stretches = Vec::new();
    tables.stretches(dst, 0, len, Seq::NOW, &mut stretches).unwrap();
    let mut there = Vec::new();
    tables.stretches(src, 0, len, Seq::NOW, &mut there).unwrap();
    assert_eq!(format!("{stretches:?}"), format!("{there:?}"));
    assert!(tables.scratch.room() <= 2 * 1024, "room for {} rows", tables.scratch.room());
}

#[test]
fn an_event_that_does_not_fit_the_tree_changes_nothing() {
    let index = Index::in_memory(&Options::default()).unwrap();
    let mut writer = Writer::new(&index);
    let dir = writer.create(Ino::ROOT, b"dir", S_IFDIR);
    let name = &b"name"[..];
    let (ino, len, mode, drop_capability) = (dir, u64::MAX, None, false);
    let place =
        Place::Extent { location: Location { file: FileId::Log(1), offset: 0 }, len, crcs: &[] };
    let data = Data { hash: [0; 32], salt: [0; 16], place };
    let set = SetAttr { size: Some(u64::MAX), ..SetAttr::default() };
    let long = [b'a'; 256];
    let refused = [
        Change::Unlink { parent: dir, name, ino: Ino(99) },
        Change::Unlink { parent: Ino::ROOT, name, ino: dir },
        Change::Link { ino: dir, parent: Ino(77), name },
        Change::Link { ino: dir, parent: dir, name: &long },
        Change::Link { ino: dir, parent: dir, name: b"a\0b" },
        Change::Write { ino, offset: 5, data, ends: false, mode, drop_capability },
        Change::SetAttr { ino, set, acl: None, drop_capability },
        Change::Fallocate { ino, how: Allocation::Punch, offset: 9, len, mode },
        Change::Clone {
            src: Ino(5),
            src_offset: 0,
            dst: dir,
            dst_offset: 0,
            len: 1,
            ends: false,
            mode,
        },
        Change::End { ino: Ino(1 << 50) },
    ];
    let rows = index.read().young.rows.len();
    let inode = index.read().inode(dir, Seq::NOW).unwrap();
    for change in refused {
        let error = writer.try_push(change.clone()).expect_err("it cannot be folded in");
        assert!(matches!(error, IndexError::Damaged(_)), "{change:?}: {error}");
        assert_eq!(index.read().young.rows.len(), rows, "{change:?}");
        assert_eq!(index.read().inode(dir, Seq::NOW).unwrap(), inode);
    }
    // Nor does one whose number was there before.
    writer.seq = 2;
    assert!(writer.try_push(Change::End { ino: dir }).is_err());
}

#[test]
fn an_engine_that_does_not_answer_leaves_nothing_half_folded_in() {
    let file = Arc::new(Flaky::default());
    // Without memory for pages, each look is one at the file.
    let options = Options { memory: 0, ..Options::default() };
    let open = |file| Index::open_file(file, STORE, &KEY, &options).unwrap();
    let index = open(file.clone());
    let seq = fill(&index);
    drop(index);
    // Opened anew, nothing of it is in memory.
    let index = open(file.clone());
    let mut writer = Writer { index: &index, seq };
    let totals = index.read().totals();
    file.reads_fail.store(true, Ordering::Relaxed);
    let ino = index.read().last();
    let change = Change::Unlink { parent: Ino::ROOT, name: b"1234", ino: Ino(1237) };
    let error = writer.try_push(change.clone()).expect_err("the disk does not answer");
    assert!(matches!(error, IndexError::Io(_)), "{error:?}");
    {
        let tables = index.read();
        assert_eq!((tables.last(), tables.totals()), (ino, totals));
        assert!(tables.young.rows.is_empty());
    }
    drop(index);
    file.reads_fail.store(false, Ordering::Relaxed);
    let index = open(file);
    Writer { index: &index, seq }.push(change);
    assert_eq!(index.read().entry(Ino::ROOT, b"1234", Seq::NOW).unwrap(), None);
}

#[test]
fn a_batch_that_met_a_full_disk_is_committed_when_there_is_room() {
    let file = Arc::new(Flaky::default());
    let index = open(file.clone()).unwrap();
    index.start(|_| Ok(()), |_| ()).unwrap();
    let mut writer = Writer::new(&index);
    file.writes_fail.store(true, Ordering::Relaxed);
    for number in 0..5000 {
        writer.create(Ino::ROOT, format!("{number}").as_bytes(), S_IFREG);
    }
    let mark = Mark(b"there".to_vec());
    index.advance(&mut index.write(), LOG_PER_BATCH, || mark.clone()).unwrap();
    let since = Instant::now();
    while index.failure().is_none() {
        assert!(since.elapsed() < Duration::from_secs(20));
        std::thread::sleep(Duration::from_millis(5));
    }
    index.wait_for_room().expect("there is room to wait in");
    index.advance(&mut index.write(), LOG_BEHIND_MAX, || mark.clone()).unwrap();
    index.wait_for_room().expect("there is room for what gives space back");
    assert!(index.is_full(), "and for nothing else");
    index.advance(&mut index.write(), LOG_BEHIND_MAX, || mark.clone()).unwrap();
    assert!(index.wait_for_room().is_err(), "no room, and no hope");
    assert_eq!(list(&index.read(), Ino::ROOT, Seq::NOW), 5000);
    file.writes_fail.store(false, Ordering::Relaxed);
    while index.failure().is_some() {
        assert!(since.elapsed() < Duration::from_secs(20));
        std::thread::sleep(Duration::from_millis(5));
    }
    index.wait_for_room().unwrap();
    assert_eq!(index.applied(), Some(mark));
    assert_eq!(list(&index.read(), Ino::ROOT, Seq::NOW), 5000);
    drop(index);
    assert_eq!(list(&open(file).unwrap().read(), Ino::ROOT, Seq::NOW), 5000);
}

#[test]
fn an_index_is_closed_while_a_batch_waits_for_space() {
    let file = Arc::new(Flaky::default());
    let index = open(file.clone()).unwrap();
    index.start(|_| Ok(()), |_| ()).unwrap();
    let mut writer = Writer::new(&index);
    for number in 0..5000 {
        writer.create(Ino::ROOT, format!("{number}").as_bytes(), S_IFREG);
    }
    assert!(!index.is_full());
    file.writes_fail.store(true, Ordering::Relaxed);
    index.advance(&mut index.write(), LOG_PER_BATCH, || Mark(b"there".to_vec())).unwrap();
    let since = Instant::now();
    while !index.is_full() {
        assert!(since.elapsed() < Duration::from_secs(20));
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(index.flush(Mark(b"there".to_vec())).is_err());
    drop(index);
    assert!(since.elapsed() < Duration::from_secs(20));
    file.writes_fail.store(false, Ordering::Relaxed);
    assert_eq!(open(file).unwrap().applied(), None, "all of it or nothing");
}

#[test]
fn of_the_bytes_of_small_writes_a_part_counts_towards_a_batch() {
    let file = Arc::new(Flaky::default());
    let index = open(file.clone()).unwrap();
    let mut writer = Writer::new(&index);
    let ino = writer.create(Ino::ROOT, b"a", S_IFREG);
    let advance = |bytes| index.advance(&mut index.write(), bytes, || Mark(b"m".to_vec())).unwrap();
    // Without a thread a batch is committed as soon as it is due.
    writer.write(ino, 0, &[1; 4000]);
    advance(LOG_PER_BATCH - 1 + 3000);
    assert_eq!(index.applied(), None);
    advance(1);
    assert!(index.applied().is_some());
    drop(index);
    // What was there before counts for nothing.
    let index = open(file).unwrap();
    let before = index.applied();
    let mark = Mark(b"later".to_vec());
    index.advance(&mut index.write(), LOG_PER_BATCH, || mark.clone()).unwrap();
    assert_ne!(index.applied(), before);
}

#[test]
fn nothing_is_committed_before_the_log_is_durable_and_writers_wait_for_it() {
    let index = Arc::new(open(Arc::new(Flaky::default())).unwrap());
    let (go, gate) = mpsc::channel::<()>();
    let gate = Mutex::new(gate);
    let asked = Arc::new(AtomicU64::new(0));
    let count = asked.clone();
    index
        .start(
            move |mark| {
                assert_eq!(mark.0, b"first");
                count.fetch_add(1, Ordering::SeqCst);
                gate.lock().recv().map_err(io::Error::other)
            },
            |_| (),
        )
        .unwrap();
    let mut writer = Writer::new(&index);
    writer.create(Ino::ROOT, b"a", S_IFREG);
    let advance = |bytes, mark: &[u8]| {
        index.advance(&mut index.write(), bytes, || Mark(mark.to_vec())).unwrap();
    };
    advance(LOG_PER_BATCH, b"first");
    advance(LOG_BEHIND_MAX, b"second");
    let waiting = index.clone();
    let waiter = std::thread::spawn(move || waiting.wait_for_room());
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(asked.load(Ordering::SeqCst), 1);
    assert!(!waiter.is_finished(), "it is too far behind");
    assert_eq!(index.applied(), None);
    go.send(()).unwrap();
    waiter.join().unwrap().unwrap();
    assert_eq!(index.applied(), Some(Mark(b"first".to_vec())));
}

#[test]
fn a_log_that_cannot_be_made_durable_ends_all_committing() {
    let file = Arc::new(Flaky::default());
    let index = open(file.clone()).unwrap();
    let tries = Arc::new(AtomicU64::new(0));
    let count = tries.clone();
    index
        .start(
            move |_| {
                count.fetch_add(1, Ordering::SeqCst);
                Err(io::Error::other("the log's disk failed"))
            },
            |_| (),
        )
        .unwrap();
    let mut writer = Writer::new(&index);
    writer.create(Ino::ROOT, b"a", S_IFREG);
    assert!(index.flush(Mark::default()).is_err());
    assert!(index.failure().unwrap().contains("the log's disk failed"));
    assert_eq!(index.read().inode(Ino(3), Seq::NOW).unwrap().unwrap().nlink, 1);
    drop(index);
    assert_eq!(tries.load(Ordering::SeqCst), 1);
    assert_eq!(open(file).unwrap().applied(), None);
}

#[test]
fn damage_that_a_commit_meets_is_told_once_and_ends_all_committing() {
    /// One in so many bytes is damaged.
    const STEP: usize = 509;
    let whole = Arc::new(MemoryFile::default());
    let index = open(whole.clone()).unwrap();
    let seq = fill(&index);
    drop(index);
    let mut bytes = vec![0; usize::try_from(whole.len().unwrap()).unwrap()];
    whole.read_at(&mut bytes, 0).unwrap();
    let mark = || Mark(b"later".to_vec());
    let mut met = 0;
    let used = bytes.iter().enumerate().step_by(STEP).filter(|(_, byte)| **byte != 0);
    for (place, byte) in used {
        let file = Arc::new(MemoryFile::default());
        file.write_at(&bytes, 0).unwrap();
        file.write_at(&[byte ^ 8], place as u64).unwrap();
        let Ok(index) = open(file) else { continue };
        let told = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&told);
        let damaged = move |_: &str| {
            count.fetch_add(1, Ordering::Relaxed);
        };
        index.start(|_| Ok(()), damaged).unwrap();
        // What meets the page before anything is committed is refused, and that is all.
        let mut writer = Writer { index: &index, seq };
        let mut make = |number: u32| {
            let (name, mode, target) = (format!("new {number}").into_bytes(), S_IFREG, &b""[..]);
            let (parent, uid, gid, rdev, xattrs) = (Ino::ROOT, 0, 0, 0, vec![]);
            let name = &name[..];
            writer.try_push(Change::Create { parent, name, mode, uid, gid, rdev, target, xattrs })
        };
        let Ok(made) = (0..20).map(&mut make).collect::<Result<Vec<Ino>, _>>() else { continue };
        match index.flush(mark()) {
            Err(IndexError::Damaged(_)) => {
                met += 1;
                assert!(matches!(index.flush(mark()), Err(IndexError::Damaged(_))));
                let tables = index.read();
                assert!(made.iter().all(|ino| tables.inode(*ino, Seq::NOW).unwrap().is_some()));
                drop(tables);
                assert_eq!(index.applied(), Some(Mark(seq.to_be_bytes().to_vec())));
                drop(index);
                assert_eq!(told.load(Ordering::Relaxed), 1);
            }
            other => {
                other.unwrap();
                assert_eq!(told.load(Ordering::Relaxed), 0);
            }
        }
    }
    assert!(met > 0, "no page was met by a commit alone");
}

#[test]
fn rows_of_another_store_or_key_are_refused() {
    let file = Arc::new(MemoryFile::default());
    let index = open(file.clone()).unwrap();
    Writer::new(&index).flush();
    drop(index);
    let options = Options::default();
    for (store, key) in [([5; 16], KEY), (STORE, [6; 16])] {
        let opened = Index::open_file(file.clone(), store, &key, &options);
        assert!(matches!(opened, Err(IndexError::Damaged(_))));
    }
    assert!(open(file).unwrap().applied().is_some());
}

#[test]
fn a_flipped_bit_anywhere_panics_nobody() {
    let file = Arc::new(MemoryFile::default());
    let index = open(file.clone()).unwrap();
    let mut writer = Writer::new(&index);
    for number in 0..200 {
        let ino = writer.create(Ino::ROOT, format!("{number}").as_bytes(), S_IFREG);
        writer.write(ino, 0, b"text");
    }
    writer.flush();
    drop(index);
    let mut bytes = vec![0; file.len().unwrap() as usize];
    file.read_at(&mut bytes, 0).unwrap();
    let mut failures = Vec::new();
    for number in 0..400_usize {
        // The header more densely than the rest.
        let at = if number < 100 { number * 3 } else { number * 7919 % bytes.len() };
        let flipped = Arc::new(MemoryFile::default());
        flipped.write_at(&bytes, 0).unwrap();
        flipped.write_at(&[bytes[at] ^ 1 << (number % 8)], at as u64).unwrap();
        let work = std::panic::AssertUnwindSafe(|| {
            let Ok(index) = open(flipped) else { return };
            let tables = index.read();
            for ino in 2..300 {
                let _ = tables.inode(Ino(ino), Seq::NOW);
                let _ = tables.inode(Ino(ino), Seq(100));
                let _ = tables.names(Ino(ino), Seq::NOW);
                let _ = tables.stretches(Ino(ino), 0, 100_000, Seq::NOW, &mut Vec::new());
            }
            let mut go_on = |_: u64, _: &[u8], _| ControlFlow::Continue(());
            let _ = tables.entries(Ino::ROOT, 0, Seq(150), &mut go_on);
            let _ = tables.seq_at(Timestamp(5));
        });
        if std::panic::catch_unwind(work).is_err() {
            failures.push((at, number % 8));
        }
    }
    assert!(failures.is_empty(), "panics with bits flipped at {failures:?}");
    let caught = engine::CAUGHT.load(Ordering::Relaxed);
    assert!(caught > 0, "the engine took all of it, so nothing was tried");
    println!("caught: {caught}");
}

#[test]
fn nobody_is_told_of_a_panic_that_is_caught() {
    let test = "store::index::tests::a_flipped_bit_anywhere_panics_nobody";
    let this = std::env::current_exe().unwrap();
    let ran =
        std::process::Command::new(this).args(["--exact", test, "--nocapture"]).output().unwrap();
    let said = String::from_utf8_lossy(&ran.stdout) + String::from_utf8_lossy(&ran.stderr);
    assert!(ran.status.success() && said.contains("caught: "), "{said}");
    assert!(!said.contains("panicked"), "{said}");
}
