//! Stores for tests, in directories that go away with them.
#![allow(clippy::unwrap_used, reason = "benches take it too, where a test's leave does not reach")]

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use lighthouse_fuse::store::disk::{Disk, File, Lock, Real, Space};
use lighthouse_fuse::store::{CreateOptions, OpenOptions, Store};
use tempfile::TempDir;

/// A new store that does nothing by itself.
pub(crate) fn fresh() -> (Arc<Store>, TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let disk = Arc::new(Real::new(dir.path()).unwrap());
    (on(disk), dir)
}

fn on(disk: Arc<dyn Disk>) -> Arc<Store> {
    let create = CreateOptions { mode: 0o755, uid: 1000, gid: 1000, ..CreateOptions::default() };
    let open = OpenOptions { sync_interval: None, memory: 64 << 20, ..OpenOptions::default() };
    Arc::new(Store::create_on(disk, &create, &open).unwrap())
}

/// A new store whose content cannot be read without a panic while the flag is set.
pub(crate) fn that_panics_on_demand() -> (Arc<Store>, TempDir, Arc<AtomicBool>) {
    let dir = tempfile::tempdir().unwrap();
    let trap = Arc::new(AtomicBool::new(false));
    let disk = Trapped { disk: Real::new(dir.path()).unwrap(), trap: Arc::clone(&trap) };
    (on(Arc::new(disk)), dir, trap)
}

struct Trapped {
    disk: Real,
    trap: Arc<AtomicBool>,
}

impl Disk for Trapped {
    fn open(&self, path: &str, create: bool) -> io::Result<Arc<dyn File>> {
        let file = self.disk.open(path, create)?;
        if !path.starts_with("content/") {
            return Ok(file);
        }
        Ok(Arc::new(TrappedFile { file, trap: Arc::clone(&self.trap) }))
    }
    fn list(&self, path: &str) -> io::Result<Vec<String>> {
        self.disk.list(path)
    }
    fn create_dir(&self, path: &str) -> io::Result<()> {
        self.disk.create_dir(path)
    }
    fn remove(&self, path: &str) -> io::Result<()> {
        self.disk.remove(path)
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.disk.rename(from, to)
    }
    fn sync_dir(&self, path: &str) -> io::Result<()> {
        self.disk.sync_dir(path)
    }
    fn space(&self) -> io::Result<Space> {
        self.disk.space()
    }
    fn boot(&self) -> io::Result<[u8; 16]> {
        self.disk.boot()
    }
    fn lock(&self, path: &str) -> io::Result<Lock> {
        self.disk.lock(path)
    }
}

struct TrappedFile {
    file: Arc<dyn File>,
    trap: Arc<AtomicBool>,
}

impl File for TrappedFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        assert!(!self.trap.load(Ordering::SeqCst), "the trap is set");
        self.file.read_at(buffer, offset)
    }
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_at(bytes, offset)
    }
    fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
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
        self.file.as_fd()
    }
}
