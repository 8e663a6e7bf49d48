//! What the store asks of a disk, so that a test can stand in for one and lose power on cue.
//!
//! Paths are relative to the store's directory, which a [`Disk`] holds open from before mounting:
//! a server must never resolve a path that could lead through its own mount.

use std::any::Any;
use std::io::{self, IoSliceMut};
use std::num::NonZeroU64;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::fs::{Advice, AtFlags, FallocateFlags, FlockOperation, Mode, OFlags};
use rustix::io::{Errno, ReadWriteFlags};

use crate::sys::blocking;

/// One store's directory.
pub trait Disk: Send + Sync {
    /// Opens the file at `path` for reading and writing; with `create`, makes it if it is missing.
    fn open(&self, path: &str, create: bool) -> io::Result<Arc<dyn File>>;
    /// Names in the directory at `path`, in no order; a missing directory is `NotFound`.
    fn list(&self, path: &str) -> io::Result<Vec<String>>;
    /// Makes the directory at `path`; one that exists is fine.
    fn create_dir(&self, path: &str) -> io::Result<()>;
    /// Removes the file at `path`.
    fn remove(&self, path: &str) -> io::Result<()>;
    /// Renames a file, replacing what is there.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Makes names in the directory at `path` durable (`fsync` of the directory).
    fn sync_dir(&self, path: &str) -> io::Result<()>;
    /// Bytes of the whole filesystem and bytes an unprivileged writer may still take (`statvfs`).
    fn space(&self) -> io::Result<Space>;
    /// Names this run of the machine: another value means that the power may have been cut since,
    /// the same one that whatever was written is still there, synced or not.
    fn boot(&self) -> io::Result<[u8; 16]>;
    /// Takes the lock that is the file at `path`, without waiting.
    fn lock(&self, path: &str) -> io::Result<Lock>;
}

/// What came of asking for a lock.
pub enum Lock {
    /// It is ours until the value is dropped, or the process ends however it may.
    Held(Box<dyn Any + Send + Sync>),
    /// Someone else has it: the process, where that is known.
    Busy {
        /// Process id.
        pid: Option<u32>,
    },
}

/// Whether `err` says that there is no more space to be had: on the disk, or within a quota.
pub fn is_full(err: &io::Error) -> bool {
    matches!(err.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// How large the filesystem under a store is, in bytes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Space {
    /// All of it.
    pub total: u64,
    /// What is free for an unprivileged writer.
    pub available: u64,
}

/// One open file of a store. Offsets and lengths are in bytes.
pub trait File: Send + Sync {
    /// Fills `buffer` from `offset`; shorter only at the end of the file.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Writes all of `bytes` at `offset`, or fails; a failure may have written a part.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Sets space aside so that writing there cannot meet `ENOSPC`; the length grows to cover it.
    fn allocate(&self, offset: u64, len: u64) -> io::Result<()>;
    /// Sets `len` bytes of space aside behind the end, of which what is set aside already is a part: the file can grow by
    /// them on a full disk. The length stays; cutting the file gives them back. `Unsupported` where there is no such thing.
    fn set_aside(&self, len: u64) -> io::Result<()> {
        let _ = len;
        Err(io::ErrorKind::Unsupported.into())
    }
    /// Gives the space of a range back; it reads as zeros, and the length stays.
    fn punch(&self, offset: u64, len: u64) -> io::Result<()>;
    /// `fdatasync`: returns once everything written before is on the disk.
    fn sync_data(&self) -> io::Result<()>;
    /// Takes what of a range is on the disk out of the page cache, where there is one: a hint, which fails silently.
    fn uncache(&self, _offset: u64, _len: u64) {}
    /// Length in bytes.
    fn len(&self) -> io::Result<u64>;
    /// Whether the length is 0.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
    /// Bytes of space it takes, without its holes; its length where holes are not known.
    fn allocated(&self) -> io::Result<u64> {
        self.len()
    }
    /// Memory that it takes while it is open, in bytes, where that is worth counting.
    fn memory(&self) -> usize {
        0
    }
    /// Cuts or extends (with zeros) to `len`.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// The descriptor, for splicing; `None` where there is no kernel file behind.
    fn as_fd(&self) -> Option<BorrowedFd<'_>>;
}

/// How often a lock that is taken is tried before it counts as taken.
const LOCK_TRIES: u32 = 10;
/// How long between two tries.
const LOCK_AGAIN: Duration = Duration::from_millis(5);

/// A directory of the machine's own filesystem.
///
/// The directory is held open and every path is resolved below it, so what is mounted later, on
/// it or above it, is never met.
#[derive(Debug)]
pub struct Real {
    root: OwnedFd,
    read_only: bool,
}

impl Real {
    /// Opens the existing directory at `path`, for reading and writing.
    pub fn new(path: &Path) -> io::Result<Self> {
        Self::opened(path, false)
    }

    /// Opens the existing directory at `path`; files in it are opened for reading alone, so that
    /// a store may lie on a medium that cannot be written, or belong to someone else.
    pub fn read_only(path: &Path) -> io::Result<Self> {
        Self::opened(path, true)
    }

    fn opened(path: &Path, read_only: bool) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self { root: rustix::fs::open(path, flags, Mode::empty())?, read_only })
    }

    fn directory(&self, path: &str) -> io::Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let path = if path.is_empty() { "." } else { path };
        Ok(rustix::fs::openat(&self.root, path, flags, Mode::empty())?)
    }
}

impl Disk for Real {
    fn open(&self, path: &str, create: bool) -> io::Result<Arc<dyn File>> {
        let access = if self.read_only { OFlags::RDONLY } else { OFlags::RDWR };
        let mut flags = access | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        if create && !self.read_only {
            flags |= OFlags::CREATE;
        }
        let fd = retry(|| rustix::fs::openat(&self.root, path, flags, Mode::from(0o600)))?;
        Ok(Arc::new(RealFile::new(fd)))
    }

    fn list(&self, path: &str) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::new(self.directory(path)?)? {
            // A name that is not UTF-8 is none of ours.
            if let Ok(name) = entry?.file_name().to_str()
                && name != "."
                && name != ".."
            {
                names.push(name.to_owned());
            }
        }
        Ok(names)
    }

    fn create_dir(&self, path: &str) -> io::Result<()> {
        match rustix::fs::mkdirat(&self.root, path, Mode::from(0o700)) {
            Ok(()) | Err(Errno::EXIST) => Ok(()),
            Err(err) => Err(err.into()),
        }
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(&self.root, path, AtFlags::empty())?)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        Ok(rustix::fs::renameat(&self.root, from, &self.root, to)?)
    }

    fn sync_dir(&self, path: &str) -> io::Result<()> {
        let directory = self.directory(path)?;
        Ok(retry(|| rustix::fs::fsync(&directory))?)
    }

    fn space(&self) -> io::Result<Space> {
        let stat = rustix::fs::fstatvfs(&self.root)?;
        Ok(Space {
            total: stat.f_blocks.saturating_mul(stat.f_frsize),
            available: stat.f_bavail.saturating_mul(stat.f_frsize),
        })
    }

    fn boot(&self) -> io::Result<[u8; 16]> {
        let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
        let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
        let number = u128::from_str_radix(&digits, 16).map_err(io::Error::other)?;
        Ok(number.to_be_bytes())
    }

    fn lock(&self, path: &str) -> io::Result<Lock> {
        let access = if self.read_only { OFlags::RDONLY } else { OFlags::RDWR | OFlags::CREATE };
        let flags = access | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let fd = match rustix::fs::openat(&self.root, path, flags, Mode::from(0o644)) {
            // Nobody has written here, and who only reads leaves nothing behind.
            Err(Errno::NOENT) if self.read_only => return Ok(Lock::Held(Box::new(()))),
            other => other?,
        };
        // Whoever only asks who holds it takes it for an instant: that must not turn a server away.
        let mut tries = LOCK_TRIES;
        while let Err(err) = rustix::fs::flock(&fd, FlockOperation::NonBlockingLockExclusive) {
            if err != Errno::WOULDBLOCK {
                return Err(err.into());
            }
            tries -= 1;
            if tries == 0 {
                let mut text = [0; 16];
                let len = rustix::io::pread(&fd, &mut text, 0)?;
                return Ok(Lock::Busy { pid: noted_pid(text.get(..len).unwrap_or_default()) });
            }
            std::thread::sleep(LOCK_AGAIN);
        }
        if self.read_only {
            return Ok(Lock::Held(Box::new(fd)));
        }
        // Who holds it is for messages alone: the lock is the flock, which ends with its process.
        let text = format!("{}\n", std::process::id());
        rustix::fs::ftruncate(&fd, 0)?;
        rustix::io::pwrite(&fd, text.as_bytes(), 0)?;
        Ok(Lock::Held(Box::new(fd)))
    }
}

/// The process that a lock file names, if there is one of this number: who only reads does not note down its own.
#[must_use]
pub fn noted_pid(text: &[u8]) -> Option<u32> {
    let pid: u32 = std::str::from_utf8(text).ok()?.trim().parse().ok()?;
    let process = rustix::process::Pid::from_raw(i32::try_from(pid).ok()?)?;
    match rustix::process::test_kill_process(process) {
        Err(Errno::SRCH) => None,
        _ => Some(pid),
    }
}

#[derive(Debug)]
struct RealFile {
    fd: OwnedFd,
    /// The filesystem does not say whether bytes are in memory.
    no_nowait: AtomicBool,
}

impl RealFile {
    const fn new(fd: OwnedFd) -> Self {
        Self { fd, no_nowait: AtomicBool::new(false) }
    }

    /// One `pread(2)`; where the bytes are on the disk alone, says so to [`blocking`] before it waits for them.
    fn read_once(&self, buffer: &mut [u8], offset: u64) -> rustix::io::Result<usize> {
        if !self.no_nowait.load(Ordering::Relaxed) {
            let slices = &mut [IoSliceMut::new(buffer)];
            match rustix::io::preadv2(&self.fd, slices, offset, ReadWriteFlags::NOWAIT) {
                Err(Errno::AGAIN) => blocking::about_to_wait(),
                // Not there before Linux 4.14, nor on every filesystem since.
                Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => {
                    self.no_nowait.store(true, Ordering::Relaxed);
                }
                read => return read,
            }
        }
        rustix::io::pread(&self.fd, buffer, offset)
    }

    /// What `fallocate` would do, by writing zeros: for filesystems that do not have it.
    fn write_zeros(&self, mut offset: u64, end: u64) -> io::Result<()> {
        // On the heap: as a constant it would be a part of the program's file.
        let zeros = vec![0; 64 << 10];
        while offset < end {
            let len = usize::try_from(end - offset).unwrap_or(usize::MAX).min(zeros.len());
            self.write_at(&zeros[..len], offset)?;
            offset += len as u64;
        }
        Ok(())
    }
}

impl File for RealFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut done = 0;
        while done < buffer.len() {
            match self.read_once(&mut buffer[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(len) => done += len,
                Err(Errno::INTR) => (),
                Err(err) => return Err(err.into()),
            }
        }
        Ok(done)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut done = 0;
        while done < bytes.len() {
            match rustix::io::pwrite(&self.fd, &bytes[done..], offset + done as u64) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(len) => done += len,
                Err(Errno::INTR) => (),
                Err(err) => return Err(err.into()),
            }
        }
        Ok(())
    }

    fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        match retry(|| rustix::fs::fallocate(&self.fd, FallocateFlags::empty(), offset, len)) {
            // Only what lies behind the end is written: what is there already has its space.
            Err(Errno::OPNOTSUPP) => {
                let end = offset.saturating_add(len);
                self.write_zeros(offset.max(self.len()?), end)
            }
            other => Ok(other?),
        }
    }

    fn set_aside(&self, len: u64) -> io::Result<()> {
        let end = self.len()?;
        let missing = len.saturating_sub(self.allocated()?.saturating_sub(end));
        let stat = rustix::fs::fstatvfs(&self.fd)?;
        // Asked first: what fails may leave a part behind, and that may be all there is for what frees space.
        if stat.f_bavail.saturating_mul(stat.f_frsize) < missing {
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(retry(|| rustix::fs::fallocate(&self.fd, FallocateFlags::KEEP_SIZE, end, len))?)
    }

    fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        match retry(|| rustix::fs::fallocate(&self.fd, flags, offset, len)) {
            Err(Errno::OPNOTSUPP) => {
                self.write_zeros(offset, offset.saturating_add(len).min(self.len()?))
            }
            other => Ok(other?),
        }
    }

    fn sync_data(&self) -> io::Result<()> {
        blocking::about_to_wait();
        Ok(retry(|| rustix::fs::fdatasync(&self.fd))?)
    }

    fn uncache(&self, offset: u64, len: u64) {
        let _ = rustix::fs::fadvise(&self.fd, offset, NonZeroU64::new(len), Advice::DontNeed);
    }

    fn len(&self) -> io::Result<u64> {
        Ok(u64::try_from(rustix::fs::fstat(&self.fd)?.st_size).unwrap_or(0))
    }

    fn allocated(&self) -> io::Result<u64> {
        // `st_blocks` counts 512 bytes, whatever the block size is.
        Ok(u64::try_from(rustix::fs::fstat(&self.fd)?.st_blocks).unwrap_or(0).saturating_mul(512))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        Ok(retry(|| rustix::fs::ftruncate(&self.fd, len))?)
    }

    fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(AsFd::as_fd(&self.fd))
    }
}

fn retry<T>(mut call: impl FnMut() -> rustix::io::Result<T>) -> rustix::io::Result<T> {
    loop {
        match call() {
            Err(Errno::INTR) => (),
            other => return other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_keeps_what_was_written_and_gives_punched_pages_back() {
        let dir = tempfile::tempdir().unwrap();
        let disk = Real::new(dir.path()).unwrap();
        disk.create_dir("content").unwrap();
        disk.create_dir("content").unwrap();
        let file = disk.open("content/1", true).unwrap();
        file.allocate(0, 1 << 20).unwrap();
        assert_eq!(file.len().unwrap(), 1 << 20);
        file.write_at(&[7; 8192], 4096).unwrap();
        file.punch(4096, 4096).unwrap();
        let mut page = [1; 4096];
        assert_eq!(file.read_at(&mut page, 4096).unwrap(), 4096);
        assert_eq!(page, [0; 4096]);
        assert_eq!(file.read_at(&mut page, 8192).unwrap(), 4096);
        assert_eq!(page, [7; 4096]);
        assert_eq!(file.read_at(&mut page, (1 << 20) - 100).unwrap(), 100);
        assert!(file.allocated().unwrap() <= 1 << 20);
        file.set_aside(1 << 20).unwrap();
        assert_eq!(file.len().unwrap(), 1 << 20);
        assert!(file.allocated().unwrap() > 1 << 20);
        file.set_len(1 << 20).unwrap();
        assert!(file.allocated().unwrap() <= 1 << 20, "cutting gives it back");
        assert_eq!(disk.list("content").unwrap(), ["1"]);
        disk.sync_dir("content").unwrap();
        disk.rename("content/1", "2").unwrap();
        disk.remove("2").unwrap();
        assert_eq!(disk.list("content").unwrap(), Vec::<String>::new());
        assert_eq!(disk.list("none").unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_second_lock_is_refused_with_the_process_that_holds_it() {
        let dir = tempfile::tempdir().unwrap();
        let disk = Real::new(dir.path()).unwrap();
        let Lock::Held(held) = disk.lock("LOCK").unwrap() else { panic!("nobody else has it") };
        let Lock::Busy { pid } = disk.lock("LOCK").unwrap() else { panic!("it is held") };
        assert_eq!(pid, Some(std::process::id()));
        drop(held);
        assert!(matches!(disk.lock("LOCK").unwrap(), Lock::Held(_)));
    }
}
