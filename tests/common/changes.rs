//! What tests of the store itself do to one: changes of files in its root directory, with no tree above, and time
//! that passes.
#![allow(dead_code, reason = "each test file uses a part")]

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use lighthouse_fuse::store::codec::Note;
use lighthouse_fuse::store::disk::Disk;
use lighthouse_fuse::store::event::{Allocation, Change, Data, Ino, Seq, SetAttr, Timestamp};
use lighthouse_fuse::store::index::Tables;
use lighthouse_fuse::store::log::Next;
use lighthouse_fuse::store::record::Entry;
use lighthouse_fuse::store::sim::SimDisk;
use lighthouse_fuse::store::verify::{Report, verify};
use lighthouse_fuse::store::{CommitError, Origin, Placed, Store};

pub(crate) fn commit(store: &Store, change: Change<'_>) -> Result<Seq, CommitError> {
    store.begin()?.commit(Origin::default(), change)
}

/// Makes an empty file.
pub(crate) fn make(store: &Store, name: &[u8]) -> Result<Ino, CommitError> {
    let (parent, mode, uid, gid, rdev) = (Ino::ROOT, 0o100_644, 1, 2, 0);
    let (target, xattrs) = (&b""[..], Vec::new());
    let change = Change::Create { parent, name, mode, uid, gid, rdev, target, xattrs };
    Ok(Ino(commit(store, change)?.0))
}

pub(crate) fn write(
    store: &Store,
    ino: Ino,
    offset: u64,
    bytes: &[u8],
) -> Result<Seq, CommitError> {
    let mut placed = Placed::default();
    commit_write(store, ino, offset, store.place(bytes, &mut placed)?)
}

/// As [`write`], of bytes that go on where others were written.
pub(crate) fn write_on(
    store: &Store,
    ino: Ino,
    offset: u64,
    bytes: &[u8],
) -> Result<Seq, CommitError> {
    let mut placed = Placed::default();
    commit_write(store, ino, offset, store.place_on(bytes, &mut placed)?)
}

fn commit_write(store: &Store, ino: Ino, offset: u64, data: Data<'_>) -> Result<Seq, CommitError> {
    commit(
        store,
        Change::Write { ino, offset, data, ends: false, mode: None, drop_capability: false },
    )
}

/// Makes a range of `dst` a reference to one of `src`: each a file and an offset.
pub(crate) fn clone_range(
    store: &Store,
    (src, src_offset): (Ino, u64),
    (dst, dst_offset): (Ino, u64),
    len: u64,
) -> Result<Seq, CommitError> {
    commit(store, Change::Clone { src, src_offset, dst, dst_offset, len, ends: false, mode: None })
}

pub(crate) fn resize(store: &Store, ino: Ino, size: u64) -> Result<Seq, CommitError> {
    let set = SetAttr { size: Some(size), ..SetAttr::default() };
    commit(store, Change::SetAttr { ino, set, acl: None, drop_capability: false })
}

pub(crate) fn punch(store: &Store, ino: Ino, offset: u64, len: u64) -> Result<Seq, CommitError> {
    let how = Allocation::Punch;
    commit(store, Change::Fallocate { ino, how, offset, len, mode: None })
}

pub(crate) fn rename(
    store: &Store,
    ino: Ino,
    name: &[u8],
    new_name: &[u8],
) -> Result<Seq, CommitError> {
    let (parent, new_parent, replaced) = (Ino::ROOT, Ino::ROOT, None);
    commit(store, Change::Rename { parent, name, new_parent, new_name, ino, replaced })
}

pub(crate) fn unlink(store: &Store, ino: Ino, name: &[u8]) -> Result<Seq, CommitError> {
    commit(store, Change::Unlink { parent: Ino::ROOT, name, ino })
}

/// The bytes of a file after event `at`; `None` if the disk does not answer. A pin is to be held.
pub(crate) fn content(store: &Store, tables: &Tables, ino: Ino, at: Seq) -> Option<Vec<u8>> {
    let size = tables.inode(ino, at).ok()?.expect("somebody has named it").size;
    let mut stretches = Vec::new();
    tables.stretches(ino, 0, size, at, &mut stretches).ok()?;
    let mut bytes = vec![0; usize::try_from(size).unwrap()];
    store.read_content(&stretches, &mut bytes).ok()?;
    Some(bytes)
}

/// The clock that a store is told of: somewhat ahead of the real one.
#[derive(Clone, Copy, Default)]
pub(crate) struct Clock {
    ahead_ns: i64,
}

impl Clock {
    /// Leaves everything alone for long enough that what lies in pieces is put together.
    pub(crate) fn pass(&mut self, store: &Store) -> Result<(), CommitError> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        for _ in 0..3 {
            self.ahead_ns += 20_000_000_000;
            store.tick_at(Timestamp(i64::try_from(now.as_nanos()).unwrap() + self.ahead_ns))?;
        }
        Ok(())
    }
}

/// How many relocations the log has.
pub(crate) fn relocations(store: &Store) -> usize {
    let mut reader = store.log(None).unwrap();
    let mut count = 0;
    while let Next::Record(_, record) = reader.read().unwrap() {
        count += usize::from(matches!(record.entry(), Some(Entry::Note(Note::Relocation { .. }))));
    }
    count
}

pub(crate) fn check_all(disk: &SimDisk) -> Report {
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    verify(&disk, &mut |done, all| assert!(done <= all)).unwrap()
}
