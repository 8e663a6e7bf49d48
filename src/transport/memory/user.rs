//! A process that uses the mount: system calls, each in its plain form.
//!
//! Paths are bytes inside the mount, relative ones from the directory of the process. Errors are those the system
//! call would set. One process may be used by several threads.

use std::fmt;
use std::sync::Arc;

use crate::proto::op::{SetTime, Whence};
use crate::proto::types::{Attr, Errno, Statfs};

use super::Shared;
use super::call::{Call, Credentials};
use super::inode::{Ino, STATX_BASIC, attr_of};
use super::listing::DirEntry;

/// The room of getdents64(2) that glibc and musl use, in bytes.
const LIST_ROOM: usize = 32768;

/// An open file descriptor.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Fd(u64);

/// A mapping of a file into memory.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct MapId(u64);

/// A process.
pub struct User {
    shared: Arc<Shared>,
    who: Credentials,
    task: Option<u64>,
    directory: Ino,
}

impl fmt::Debug for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("User").field("who", &self.who).finish_non_exhaustive()
    }
}

impl Drop for User {
    fn drop(&mut self) {
        if self.directory == Ino::ROOT {
            return;
        }
        let mut st = self.shared.state.lock();
        if let Some(inode) = st.inodes.get_mut(&self.directory) {
            inode.pins = inode.pins.saturating_sub(1);
        }
        st.reap(self.directory);
    }
}

impl User {
    pub(super) const fn new(shared: Arc<Shared>, who: Credentials, task: Option<u64>) -> Self {
        Self { shared, who, task, directory: Ino::ROOT }
    }

    pub(super) fn for_task(&self, task: u64) -> Self {
        self.in_directory(self.directory, Some(task))
    }

    pub(super) const fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    fn in_directory(&self, directory: Ino, task: Option<u64>) -> Self {
        if directory != Ino::ROOT {
            self.shared.state.lock().inode_mut(directory).pins += 1;
        }
        Self { shared: Arc::clone(&self.shared), who: self.who.clone(), task, directory }
    }

    fn call(&self) -> Call<'_> {
        Call::enter(&self.shared, self.who.clone(), self.task)
    }

    /// The same process with another umask.
    pub fn with_umask(&self, umask: u32) -> Self {
        let mut user = self.in_directory(self.directory, self.task);
        user.who.umask = umask;
        user
    }

    /// The same process with `fd` as its directory: what the calls that end in `at` do.
    ///
    /// # Errors
    ///
    /// EBADF, or ENOTDIR if `fd` is no directory.
    pub fn at(&self, fd: Fd) -> Result<Self, Errno> {
        let ino = {
            let mut call = self.call();
            let ino = call.ino_of(fd.0)?;
            if !call.st.inode(ino).is_dir() {
                return Err(Errno::ENOTDIR);
            }
            call.st.inode_mut(ino).pins += 1;
            ino
        };
        let user = self.in_directory(ino, self.task);
        let mut st = self.shared.state.lock();
        st.inode_mut(ino).pins -= 1;
        drop(st);
        Ok(user)
    }

    /// chdir(2).
    pub fn chdir(&mut self, path: impl AsRef<[u8]>) -> Result<(), Errno> {
        let (old, new) = {
            let mut call = self.call();
            let ino = call.resolve(self.directory, path.as_ref(), true)?;
            if !call.st.inode(ino).is_dir() {
                return Err(Errno::ENOTDIR);
            }
            call.permit(ino, super::call::MAY_EXEC)?;
            if ino != Ino::ROOT {
                call.st.inode_mut(ino).pins += 1;
            }
            (self.directory, ino)
        };
        self.directory = new;
        if old != Ino::ROOT {
            let mut st = self.shared.state.lock();
            st.inode_mut(old).pins -= 1;
            st.reap(old);
        }
        Ok(())
    }

    /// open(2). `flags` are O_* of asm-generic/fcntl.h; O_TMPFILE makes a file without a name in `path`.
    pub fn open(&self, path: impl AsRef<[u8]>, flags: u32, mode: u32) -> Result<Fd, Errno> {
        self.call().open(self.directory, path.as_ref(), flags, mode).map(Fd)
    }

    /// creat(2).
    pub fn create(&self, path: impl AsRef<[u8]>, mode: u32) -> Result<Fd, Errno> {
        self.open(path, 0o1 | 0o100 | 0o1000, mode)
    }

    /// close(2): FLUSH now, RELEASE whenever the last descriptor and mapping are gone.
    pub fn close(&self, fd: Fd) -> Result<(), Errno> {
        self.call().close(fd.0)
    }

    /// dup(2).
    pub fn dup(&self, fd: Fd) -> Result<Fd, Errno> {
        self.call().dup(fd.0).map(Fd)
    }

    /// read(2): at most `len` bytes; none at the end.
    pub fn read(&self, fd: Fd, len: usize) -> Result<Vec<u8>, Errno> {
        self.call().read(fd.0, len, None)
    }

    /// pread(2).
    pub fn pread(&self, fd: Fd, len: usize, offset: u64) -> Result<Vec<u8>, Errno> {
        self.call().read(fd.0, len, Some(offset))
    }

    /// write(2): how many bytes were written.
    pub fn write(&self, fd: Fd, data: &[u8]) -> Result<usize, Errno> {
        self.call().write(fd.0, data, None)
    }

    /// pwrite(2).
    pub fn pwrite(&self, fd: Fd, data: &[u8], offset: u64) -> Result<usize, Errno> {
        self.call().write(fd.0, data, Some(offset))
    }

    /// The whole content of a file: open, read to the end, close.
    pub fn read_file(&self, path: impl AsRef<[u8]>) -> Result<Vec<u8>, Errno> {
        let fd = self.open(path, 0, 0)?;
        let mut bytes = Vec::new();
        let outcome = loop {
            match self.read(fd, 1 << 20) {
                Ok(part) if part.is_empty() => break Ok(bytes),
                Ok(part) => bytes.extend_from_slice(&part),
                Err(errno) => break Err(errno),
            }
        };
        let closed = self.close(fd);
        let bytes = outcome?;
        closed.map(|()| bytes)
    }

    /// A file with this content: open with O_CREAT and O_TRUNC, write all, close.
    pub fn write_file(&self, path: impl AsRef<[u8]>, data: &[u8], mode: u32) -> Result<(), Errno> {
        let fd = self.create(path, mode)?;
        let mut rest = data;
        let mut outcome = Ok(());
        while !rest.is_empty() {
            match self.write(fd, rest) {
                Ok(len) => rest = rest.get(len..).unwrap_or(&[]),
                Err(errno) => {
                    outcome = Err(errno);
                    break;
                }
            }
        }
        let closed = self.close(fd);
        outcome.and(closed)
    }

    /// lseek(2), with SEEK_DATA and SEEK_HOLE.
    pub fn seek(&self, fd: Fd, offset: i64, whence: Whence) -> Result<u64, Errno> {
        self.call().seek(fd.0, offset, whence)
    }

    /// fsync(2), or fdatasync(2) if `data_only`; for directories too.
    pub fn sync(&self, fd: Fd, data_only: bool) -> Result<(), Errno> {
        self.call().sync(fd.0, data_only)
    }

    /// fallocate(2), with FALLOC_FL_* in `mode`.
    pub fn fallocate(&self, fd: Fd, mode: u32, offset: u64, len: u64) -> Result<(), Errno> {
        self.call().fallocate(fd.0, mode, offset, len)
    }

    /// copy_file_range(2): how many bytes were copied.
    pub fn copy_range(
        &self,
        from: Fd,
        from_offset: u64,
        to: Fd,
        to_offset: u64,
        len: u64,
    ) -> Result<u64, Errno> {
        self.call().copy_range((from.0, from_offset), (to.0, to_offset), len)
    }

    fn stat_of(
        &self,
        find: impl FnOnce(&mut Call<'_>) -> Result<Ino, Errno>,
        mask: u32,
    ) -> Result<Attr, Errno> {
        let mut call = self.call();
        let ino = find(&mut call)?;
        call.may_use_mount()?;
        call.check_good(ino)?;
        call.update_attr(ino, None, mask)?;
        let inode = call.st.inode(ino);
        Ok(attr_of(&inode.attr, inode.btime))
    }

    /// stat(2).
    pub fn stat(&self, path: impl AsRef<[u8]>) -> Result<Attr, Errno> {
        self.stat_of(|call| call.resolve(self.directory, path.as_ref(), true), STATX_BASIC)
    }

    /// lstat(2).
    pub fn lstat(&self, path: impl AsRef<[u8]>) -> Result<Attr, Errno> {
        self.stat_of(|call| call.resolve(self.directory, path.as_ref(), false), STATX_BASIC)
    }

    /// fstat(2).
    pub fn fstat(&self, fd: Fd) -> Result<Attr, Errno> {
        self.stat_of(|call| call.ino_of(fd.0), STATX_BASIC)
    }

    /// statx(2) without following a symlink, for what `mask` (STATX_*) names.
    pub fn statx(&self, path: impl AsRef<[u8]>, mask: u32) -> Result<Attr, Errno> {
        self.stat_of(|call| call.resolve(self.directory, path.as_ref(), false), mask)
    }

    /// access(2): 4 to read, 2 to write, 1 to execute or search, 0 to be there.
    pub fn access(&self, path: impl AsRef<[u8]>, mask: u32) -> Result<(), Errno> {
        let mut call = self.call();
        let ino = call.resolve(self.directory, path.as_ref(), true)?;
        call.access(ino, mask)
    }

    /// statfs(2).
    pub fn statfs(&self, path: impl AsRef<[u8]>) -> Result<Statfs, Errno> {
        let mut call = self.call();
        let ino = call.resolve(self.directory, path.as_ref(), true)?;
        let st = call.statfs(ino)?;
        Ok(Statfs {
            blocks: st.blocks,
            bfree: st.bfree,
            bavail: st.bavail,
            files: st.files,
            ffree: st.ffree,
            bsize: st.bsize,
            namelen: st.namelen,
            frsize: st.frsize,
        })
    }

    /// mkdir(2).
    pub fn mkdir(&self, path: impl AsRef<[u8]>, mode: u32) -> Result<(), Errno> {
        self.call().make_dir(self.directory, path.as_ref(), mode)
    }

    /// mknod(2); `rdev` in the kernel's 32-bit form.
    pub fn mknod(&self, path: impl AsRef<[u8]>, mode: u32, rdev: u32) -> Result<(), Errno> {
        self.call().make_node(self.directory, path.as_ref(), mode, rdev)
    }

    /// symlink(2).
    pub fn symlink(&self, target: impl AsRef<[u8]>, path: impl AsRef<[u8]>) -> Result<(), Errno> {
        self.call().make_symlink(self.directory, target.as_ref(), path.as_ref())
    }

    /// readlink(2).
    pub fn readlink(&self, path: impl AsRef<[u8]>) -> Result<Vec<u8>, Errno> {
        let mut call = self.call();
        let ino = call.resolve(self.directory, path.as_ref(), false)?;
        if !call.st.inode(ino).is_link() {
            return Err(Errno::EINVAL);
        }
        call.read_link(ino)
    }

    /// link(2): a symlink is linked, not followed.
    pub fn link(&self, old: impl AsRef<[u8]>, new: impl AsRef<[u8]>) -> Result<(), Errno> {
        let mut call = self.call();
        let ino = call.resolve(self.directory, old.as_ref(), false)?;
        call.make_link(self.directory, ino, new.as_ref())
    }

    /// linkat(2) with AT_EMPTY_PATH: gives a file of O_TMPFILE its first name.
    pub fn link_fd(&self, fd: Fd, new: impl AsRef<[u8]>) -> Result<(), Errno> {
        let mut call = self.call();
        let ino = call.ino_of(fd.0)?;
        call.make_link(self.directory, ino, new.as_ref())
    }

    /// unlink(2).
    pub fn unlink(&self, path: impl AsRef<[u8]>) -> Result<(), Errno> {
        self.call().unlink(self.directory, path.as_ref())
    }

    /// rmdir(2).
    pub fn rmdir(&self, path: impl AsRef<[u8]>) -> Result<(), Errno> {
        self.call().remove_dir(self.directory, path.as_ref())
    }

    /// rename(2).
    pub fn rename(&self, old: impl AsRef<[u8]>, new: impl AsRef<[u8]>) -> Result<(), Errno> {
        self.rename_with(old, new, 0)
    }

    /// renameat2(2): 1 for NOREPLACE, 2 for EXCHANGE.
    pub fn rename_with(
        &self,
        old: impl AsRef<[u8]>,
        new: impl AsRef<[u8]>,
        flags: u32,
    ) -> Result<(), Errno> {
        self.call().rename(self.directory, old.as_ref(), new.as_ref(), flags)
    }

    /// chmod(2).
    pub fn chmod(&self, path: impl AsRef<[u8]>, mode: u32) -> Result<(), Errno> {
        let mut call = self.call();
        let ino = call.resolve(self.directory, path.as_ref(), true)?;
        call.chmod(ino, mode)
    }

    /// fchmod(2).
    pub fn chmod_fd(&self, fd: Fd, mode: u32) -> Result<(), Errno> {
        let mut call = self.call();
        let ino = call.ino_of(fd.0)?;
        call.chmod(ino, mode)
    }

    /// lchown(2); `None` leaves an id as it is.
    pub fn chown(
        &self,
        path: impl AsRef<[u8]>,
        uid: Option<u32>,
        gid: Option<u32>,
    ) -> Result<(), Errno> {
        let mut call = self.call();
        let ino = call.resolve(self.directory, path.as_ref(), false)?;
        call.chown(ino, uid, gid)
    }

    /// utimensat(2) without following a symlink; `None` leaves a time as it is.
    pub fn set_times(
        &self,
        path: impl AsRef<[u8]>,
        atime: Option<SetTime>,
        mtime: Option<SetTime>,
    ) -> Result<(), Errno> {
        let mut call = self.call();
        let ino = call.resolve(self.directory, path.as_ref(), false)?;
        call.set_times(ino, atime, mtime)
    }

    /// truncate(2).
    pub fn truncate(&self, path: impl AsRef<[u8]>, size: u64) -> Result<(), Errno> {
        let mut call = self.call();
        let ino = call.resolve(self.directory, path.as_ref(), true)?;
        call.truncate(ino, size)
    }

    /// ftruncate(2).
    pub fn truncate_fd(&self, fd: Fd, size: u64) -> Result<(), Errno> {
        self.call().truncate_fd(fd.0, size)
    }

    /// getdents64(2) with 32 KiB of room: the next entries, `.` and `..` among them; none at the end.
    pub fn getdents(&self, fd: Fd) -> Result<Vec<DirEntry>, Errno> {
        self.getdents_in(fd, LIST_ROOM)
    }

    /// getdents64(2) with `room` bytes.
    pub fn getdents_in(&self, fd: Fd, room: usize) -> Result<Vec<DirEntry>, Errno> {
        self.call().list(fd.0, room)
    }

    /// All entries of a directory but `.` and `..`: open, read to the end, close.
    pub fn list(&self, path: impl AsRef<[u8]>) -> Result<Vec<DirEntry>, Errno> {
        let fd = self.open(path, super::file::O_DIRECTORY, 0)?;
        let mut entries = Vec::new();
        let outcome = loop {
            match self.getdents(fd) {
                Ok(some) if some.is_empty() => break Ok(()),
                Ok(some) => entries.extend(some),
                Err(errno) => break Err(errno),
            }
        };
        self.close(fd)?;
        outcome?;
        entries.retain(|entry| entry.name != b"." && entry.name != b"..");
        Ok(entries)
    }

    /// lsetxattr(2): flag 1 for XATTR_CREATE, 2 for XATTR_REPLACE.
    pub fn set_xattr(
        &self,
        path: impl AsRef<[u8]>,
        name: impl AsRef<[u8]>,
        value: &[u8],
        flags: u32,
    ) -> Result<(), Errno> {
        let mut call = self.call();
        let ino = call.resolve(self.directory, path.as_ref(), false)?;
        call.set_xattr(ino, name.as_ref(), value, flags)
    }

    /// lgetxattr(2), asked for its size first, as programs do.
    pub fn xattr(&self, path: impl AsRef<[u8]>, name: impl AsRef<[u8]>) -> Result<Vec<u8>, Errno> {
        let size = self.xattr_in(path.as_ref(), name.as_ref(), 0)?.len();
        if size == 0 {
            return Ok(Vec::new());
        }
        self.xattr_in(path, name, size)
    }

    /// lgetxattr(2) with `size` bytes of room; with 0 as many zeros as the value is long.
    pub fn xattr_in(
        &self,
        path: impl AsRef<[u8]>,
        name: impl AsRef<[u8]>,
        size: usize,
    ) -> Result<Vec<u8>, Errno> {
        let mut call = self.call();
        let ino = call.resolve(self.directory, path.as_ref(), false)?;
        call.xattr(ino, name.as_ref(), size)
    }

    /// llistxattr(2): the names, in the server's order.
    pub fn xattr_names(&self, path: impl AsRef<[u8]>) -> Result<Vec<Vec<u8>>, Errno> {
        let mut call = self.call();
        let ino = call.resolve(self.directory, path.as_ref(), false)?;
        let size = call.xattr_names(ino, 0)?.len();
        if size == 0 {
            return Ok(Vec::new());
        }
        let list = call.xattr_names(ino, size)?;
        Ok(list
            .split(|byte| *byte == 0)
            .filter(|name| !name.is_empty())
            .map(<[u8]>::to_vec)
            .collect())
    }

    /// lremovexattr(2).
    pub fn remove_xattr(
        &self,
        path: impl AsRef<[u8]>,
        name: impl AsRef<[u8]>,
    ) -> Result<(), Errno> {
        let mut call = self.call();
        let ino = call.resolve(self.directory, path.as_ref(), false)?;
        call.remove_xattr(ino, name.as_ref())
    }

    /// mmap(2): the mapping outlives the descriptor.
    pub fn mmap(
        &self,
        fd: Fd,
        offset: u64,
        len: u64,
        shared: bool,
        writable: bool,
    ) -> Result<MapId, Errno> {
        self.call().map(fd.0, offset, len, shared, writable).map(MapId)
    }

    /// Loads `len` bytes, `at` bytes after the start of a mapping. EFAULT where a process would get SIGBUS.
    pub fn map_read(&self, map: MapId, at: u64, len: usize) -> Result<Vec<u8>, Errno> {
        self.call().map_read(map.0, at, len)
    }

    /// Stores `data`, `at` bytes after the start of a mapping.
    pub fn map_write(&self, map: MapId, at: u64, data: &[u8]) -> Result<(), Errno> {
        self.call().map_write(map.0, at, data)
    }

    /// msync(2) with MS_SYNC: write back, then FSYNC.
    pub fn msync(&self, map: MapId) -> Result<(), Errno> {
        self.call().map_sync(map.0)
    }

    /// munmap(2), which writes back.
    pub fn munmap(&self, map: MapId) -> Result<(), Errno> {
        self.call().unmap(map.0)
    }
}
