//! Open files: opening, reading, writing, and everything else that takes a descriptor.

use crate::proto::abi::*;
use crate::proto::extension::Extensions;
use crate::proto::op::{
    CopyFileRange, CopyFileRange64, Create, FSync, FSyncDir, Fallocate, Flush, GetXattr, LSeek, Op,
    Open, OpenDir, Read, Release, ReleaseDir, RemoveXattr, StatFs, TmpFile, Whence, Write,
};
use crate::proto::types::{Errno, FileHandle, LockOwner, Name, OpenFlags, XattrName};
use zerocopy::FromBytes;

use super::call::{Call, Lock, MAY_EXEC, MAY_READ, MAY_WRITE};
use super::inode::{
    Ino, S_IFDIR, S_IFREG, S_ISGID, S_ISUID, STATX_ATIME, STATX_BASIC, STATX_MODIFY, STATX_SIZE,
};
use super::listing::ListingPosition;
use super::walk::{Last, Parent};
use super::{PAGE, PAGE_U64};

pub(super) const O_NOCTTY: u32 = 0o400;
pub(super) const O_LARGEFILE: u32 = 0o100_000;
pub(super) const O_DIRECTORY: u32 = 0o200_000;
pub(super) const O_NOFOLLOW: u32 = 0o400_000;
pub(super) const O_NOATIME: u32 = 0o1_000_000;
/// The bit of O_TMPFILE that O_DIRECTORY is not.
pub(super) const O_TMPFILE: u32 = 0o20_000_000;
/// The bit of O_SYNC that O_DSYNC is not.
const O_SYNC_ONLY: u32 = 0o4_000_000;
/// fallocate(2).
pub(super) const FALLOC_KEEP_SIZE: u32 = 1;
pub(super) const FALLOC_PUNCH_HOLE: u32 = 2;
pub(super) const FALLOC_ZERO_RANGE: u32 = 16;
const CAPABILITY: &[u8] = b"security.capability";
/// The largest offset of a file.
pub(super) const OFFSET_MAX: u64 = i64::MAX as u64;
/// The most bytes of one read or write call (MAX_RW_COUNT).
const CALL_MAX: usize = 0x7fff_f000;

#[derive(Debug)]
pub(super) struct OpenFile {
    pub(super) ino: Ino,
    pub(super) handle: u64,
    /// FOPEN_*.
    pub(super) opened: u32,
    /// O_*.
    pub(super) flags: u32,
    pub(super) position: u64,
    /// Descriptors and mappings.
    pub(super) references: usize,
    pub(super) lock_owner: u64,
    pub(super) is_dir: bool,
    pub(super) listing: ListingPosition,
}

impl OpenFile {
    const fn is_direct(&self) -> bool {
        self.opened & FOPEN_DIRECT_IO != 0 || OpenFlags(self.flags).is_direct()
    }
}

impl Call<'_> {
    /// The open file behind a descriptor.
    pub(super) fn file_of(&self, fd: u64) -> Result<u64, Errno> {
        self.st.fds.get(&fd).copied().ok_or(Errno::EBADF)
    }

    pub(super) fn file(&self, file: u64) -> Result<&OpenFile, Errno> {
        self.st.files.get(&file).ok_or(Errno::EBADF)
    }

    pub(super) fn ino_of(&mut self, fd: u64) -> Result<Ino, Errno> {
        let file = self.file_of(fd)?;
        let ino = self.file(file)?.ino;
        Ok(self.pin(ino))
    }

    pub(super) fn open(
        &mut self,
        start: Ino,
        path: &[u8],
        flags: u32,
        mode: u32,
    ) -> Result<u64, Errno> {
        let flags = flags | O_LARGEFILE;
        match self.open_once(start, path, flags, mode) {
            // What was cached leads elsewhere by now (`do_filp_open`).
            Err(Errno::ESTALE) => {
                self.unlock();
                self.afresh = true;
                self.open_once(start, path, flags, mode)
            }
            result => result,
        }
    }

    fn open_once(&mut self, start: Ino, path: &[u8], flags: u32, mode: u32) -> Result<u64, Errno> {
        if flags & O_TMPFILE != 0 {
            return self.open_temporary(start, path, flags, mode);
        }
        if flags & OpenFlags::CREAT != 0 {
            return self.open_or_create(start, path, flags, mode);
        }
        let ino = self.resolve(start, path, flags & O_NOFOLLOW == 0)?;
        self.open_existing(ino, flags)
    }

    fn open_or_create(
        &mut self,
        start: Ino,
        path: &[u8],
        flags: u32,
        mode: u32,
    ) -> Result<u64, Errno> {
        let exclusive = flags & OpenFlags::EXCL != 0;
        let flags = if exclusive { flags & !OpenFlags::TRUNC } else { flags };
        if flags & O_DIRECTORY != 0 {
            return Err(Errno::EINVAL);
        }
        let mut links = 0;
        let (mut start, mut path) = (start, path.to_vec());
        loop {
            let Parent { dir, last, slashes } = self.parent_through(start, &path, &mut links)?;
            let Last::Name(name) = last else { return Err(Errno::EISDIR) };
            if slashes {
                return Err(Errno::EISDIR);
            }
            self.lock(&[Lock::Names(dir)]);
            let Some(ino) = self.lookup(dir, &name, exclusive)? else {
                self.permit(dir, MAY_WRITE | MAY_EXEC)?;
                return self.create(dir, &name, flags, mode);
            };
            self.unlock();
            if exclusive {
                return Err(Errno::EEXIST);
            }
            if !self.st.inode(ino).is_link() {
                return self.open_existing(ino, flags);
            }
            if flags & O_NOFOLLOW != 0 {
                return Err(Errno::ELOOP);
            }
            links += 1;
            if links > 40 {
                return Err(Errno::ELOOP);
            }
            path = self.read_link(ino)?;
            start = dir;
        }
    }

    fn create(&mut self, dir: Ino, name: &[u8], flags: u32, mode: u32) -> Result<u64, Errno> {
        let mode = S_IFREG | (mode & 0o7777);
        if !self.st.connection.no_create {
            let op = Op::Create(Create {
                parent: self.node(dir),
                name: Name::new(name).map_err(|_| Errno::ENAMETOOLONG)?,
                mode: self.new_mode(dir, mode),
                umask: self.who.umask,
                flags: OpenFlags(flags & !O_NOCTTY),
                kill_suidgid: self.kills_suidgid()
                    && flags & OpenFlags::TRUNC != 0
                    && flags & OpenFlags::EXCL == 0,
                extensions: Extensions::default(),
            });
            match self.ask(&op) {
                Err(Errno::ENOSYS) => self.st.connection.no_create = true,
                Err(errno) => return Err(errno),
                Ok(body) => return self.created(&body, dir, name, flags),
            }
        }
        let ino = self.make_node_at(dir, name, mode, 0)?;
        self.unlock();
        self.open_handle(ino, flags & !OpenFlags::TRUNC)
    }

    fn created(&mut self, body: &[u8], dir: Ino, name: &[u8], flags: u32) -> Result<u64, Errno> {
        let (entry, opened) = split_created(body)?;
        let ino = self.take_new(FUSE_CREATE, &entry, dir, name, S_IFREG)?;
        self.st.dir_changed(dir);
        self.unlock();
        self.finish_open(ino, flags, opened.fh, opened.open_flags)
    }

    fn open_temporary(
        &mut self,
        start: Ino,
        path: &[u8],
        flags: u32,
        mode: u32,
    ) -> Result<u64, Errno> {
        if !OpenFlags(flags).writes() || flags & OpenFlags::CREAT != 0 {
            return Err(Errno::EINVAL);
        }
        let dir = self.resolve(start, path, true)?;
        if !self.st.inode(dir).is_dir() {
            return Err(Errno::ENOTDIR);
        }
        self.permit(dir, MAY_WRITE | MAY_EXEC)?;
        if self.st.connection.no_tmpfile || self.st.connection.minor < 37 {
            return Err(Errno::EOPNOTSUPP);
        }
        let op = Op::TmpFile(TmpFile {
            parent: self.node(dir),
            mode: self.new_mode(dir, S_IFREG | (mode & 0o7777)),
            umask: self.who.umask,
            flags: OpenFlags(flags & !O_NOCTTY),
            kill_suidgid: false,
            extensions: Extensions::default(),
        });
        let body = match self.ask(&op) {
            Err(Errno::ENOSYS) => {
                self.st.connection.no_tmpfile = true;
                return Err(Errno::EOPNOTSUPP);
            }
            result => result?,
        };
        let (entry, opened) = split_created(&body)?;
        let ino = self.check_new(FUSE_TMPFILE, &entry, S_IFREG)?;
        self.st.inode_mut(ino).linkable = flags & OpenFlags::EXCL == 0;
        self.finish_open(ino, flags, opened.fh, opened.open_flags)
    }

    /// Opens what is there, with the checks of `may_open`.
    fn open_existing(&mut self, ino: Ino, flags: u32) -> Result<u64, Errno> {
        let kind = self.st.inode(ino).kind();
        let writes = OpenFlags(flags).writes();
        let truncates = flags & OpenFlags::TRUNC != 0;
        if self.st.inode(ino).is_link() {
            return Err(if flags & O_DIRECTORY == 0 { Errno::ELOOP } else { Errno::ENOTDIR });
        }
        if kind == S_IFDIR && (writes || truncates || flags & OpenFlags::CREAT != 0) {
            return Err(Errno::EISDIR);
        }
        if flags & O_DIRECTORY != 0 && kind != S_IFDIR {
            return Err(Errno::ENOTDIR);
        }
        let mut wanted = 0;
        if OpenFlags(flags).reads() {
            wanted |= MAY_READ;
        }
        if writes || truncates {
            wanted |= MAY_WRITE;
        }
        self.permit(ino, wanted)?;
        if flags & O_NOATIME != 0 && !self.owns(ino) {
            return Err(Errno::EPERM);
        }
        // FIFOs, sockets and devices are opened without the filesystem; there is nothing behind them here.
        if kind != S_IFREG && kind != S_IFDIR {
            return Err(Errno::ENXIO);
        }
        self.open_handle(ino, flags)
    }

    /// OPEN or OPENDIR, and the truncation that O_TRUNC asks for.
    fn open_handle(&mut self, ino: Ino, flags: u32) -> Result<u64, Errno> {
        self.check_good(ino)?;
        let is_dir = self.st.inode(ino).is_dir();
        let truncates = flags & OpenFlags::TRUNC != 0;
        let atomic = self.st.connection.has(FUSE_ATOMIC_O_TRUNC);
        let node = self.node(ino);
        let mut sent = flags & !(OpenFlags::CREAT | OpenFlags::EXCL | O_NOCTTY);
        if !atomic {
            sent &= !OpenFlags::TRUNC;
        }
        let mut opened = fuse_open_out {
            fh: 0,
            open_flags: FOPEN_KEEP_CACHE | if is_dir { FOPEN_CACHE_DIR } else { 0 },
            backing_id: 0,
        };
        let unserved =
            if is_dir { self.st.connection.no_opendir } else { self.st.connection.no_open };
        if !unserved {
            let flags = OpenFlags(sent);
            let op = if is_dir {
                Op::OpenDir(OpenDir { node, flags })
            } else {
                let kill_suidgid = self.kills_suidgid() && sent & OpenFlags::TRUNC != 0;
                Op::Open(Open { node, flags, kill_suidgid })
            };
            match self.ask_for::<fuse_open_out>(&op) {
                Ok(out) => opened = out,
                Err(Errno::ENOSYS) if is_dir => self.st.connection.no_opendir = true,
                Err(Errno::ENOSYS) => self.st.connection.no_open = true,
                Err(errno) => return Err(errno),
            }
        }
        let fd = self.finish_open(ino, flags, opened.fh, opened.open_flags)?;
        if truncates && !atomic {
            let outcome = self.truncate_open(ino, 0, None);
            if let Err(errno) = outcome {
                self.close(fd).ok();
                return Err(errno);
            }
        }
        Ok(fd)
    }

    fn finish_open(
        &mut self,
        ino: Ino,
        flags: u32,
        handle: u64,
        opened: u32,
    ) -> Result<u64, Errno> {
        let is_dir = self.st.inode(ino).is_dir();
        let opened = if is_dir { opened & !FOPEN_DIRECT_IO } else { opened };
        if opened & FOPEN_PASSTHROUGH != 0 {
            return Err(self.refused(FUSE_OPEN, "FOPEN_PASSTHROUGH without passthrough"));
        }
        if is_dir {
            if opened & FOPEN_KEEP_CACHE == 0 {
                self.st.inode_mut(ino).listing.reset();
            }
        } else if flags & OpenFlags::TRUNC != 0 && self.st.connection.has(FUSE_ATOMIC_O_TRUNC) {
            self.st.touched(ino);
            let inode = self.st.inode_mut(ino);
            inode.attr.size = 0;
            inode.pages.truncate(0);
            inode.doubt(STATX_MODIFY | STATX_SIZE);
        } else if opened & FOPEN_KEEP_CACHE == 0 {
            self.invalidate_pages(ino);
        }
        let file = self.st.number();
        let fd = self.st.number();
        self.st.inode_mut(ino).pins += 1;
        let lock_owner = u64::from(self.who.pid) | 1 << 40;
        self.st.files.insert(
            file,
            OpenFile {
                ino,
                handle,
                opened,
                flags,
                position: 0,
                references: 1,
                lock_owner,
                is_dir,
                listing: ListingPosition::default(),
            },
        );
        self.st.fds.insert(fd, file);
        Ok(fd)
    }

    pub(super) fn dup(&mut self, fd: u64) -> Result<u64, Errno> {
        let file = self.file_of(fd)?;
        self.st.files.get_mut(&file).ok_or(Errno::EBADF)?.references += 1;
        let new = self.st.number();
        self.st.fds.insert(new, file);
        Ok(new)
    }

    pub(super) fn close(&mut self, fd: u64) -> Result<(), Errno> {
        let file = self.file_of(fd)?;
        self.st.fds.remove(&fd);
        let outcome = self.flush(file);
        self.put_file(file);
        outcome
    }

    /// What each close of a descriptor does (`fuse_flush`).
    fn flush(&mut self, file: u64) -> Result<(), Errno> {
        let open = self.file(file)?;
        let (ino, handle, owner) = (open.ino, open.handle, open.lock_owner);
        if open.is_dir || open.opened & FOPEN_NOFLUSH != 0 {
            return Ok(());
        }
        self.pin(ino);
        self.check_good(ino)?;
        self.write_back_all(ino);
        self.st.inode_mut(ino).pages.take_error()?;
        if self.st.connection.no_flush {
            return Ok(());
        }
        let op = Op::Flush(Flush {
            node: self.node(ino),
            handle: FileHandle(handle),
            lock_owner: LockOwner(owner),
        });
        match self.ask(&op) {
            Err(Errno::ENOSYS) => {
                self.st.connection.no_flush = true;
                Ok(())
            }
            result => result.map(|_| ()),
        }
    }

    /// Gives one reference to an open file back; the last one sends RELEASE and waits for nothing.
    pub(super) fn put_file(&mut self, file: u64) {
        let Some(open) = self.st.files.get_mut(&file) else { return };
        open.references -= 1;
        if open.references > 0 {
            return;
        }
        let (ino, handle, flags, is_dir) = (open.ino, open.handle, open.flags, open.is_dir);
        self.pin(ino);
        if !is_dir {
            self.write_back_all(ino);
        }
        self.st.files.remove(&file);
        let unserved =
            if is_dir { self.st.connection.no_opendir } else { self.st.connection.no_open };
        if !unserved {
            let (node, handle) = (self.node(ino), FileHandle(handle));
            let flags = OpenFlags(flags & !(OpenFlags::CREAT | OpenFlags::EXCL | O_NOCTTY));
            let op = if is_dir {
                Op::ReleaseDir(ReleaseDir { node, handle, flags })
            } else {
                Op::Release(Release {
                    node,
                    handle,
                    flags,
                    lock_owner: LockOwner(0),
                    flush: false,
                    flock_unlock: false,
                })
            };
            self.send_background(&op);
        }
        let inode = self.st.inode_mut(ino);
        inode.pins = inode.pins.saturating_sub(1);
    }

    /// Closes every descriptor and mapping, as the end of all processes does.
    pub(super) fn close_all(&mut self) {
        for map in self.st.maps.keys().copied().collect::<Vec<_>>() {
            self.unmap(map).ok();
        }
        for fd in self.st.fds.keys().copied().collect::<Vec<_>>() {
            self.close(fd).ok();
        }
    }

    pub(super) fn read(
        &mut self,
        fd: u64,
        len: usize,
        offset: Option<u64>,
    ) -> Result<Vec<u8>, Errno> {
        let file = self.file_of(fd)?;
        let open = self.file(file)?;
        if open.is_dir {
            return Err(Errno::EISDIR);
        }
        if !OpenFlags(open.flags).reads() {
            return Err(Errno::EBADF);
        }
        let (ino, direct, handle) = (open.ino, open.is_direct(), FileHandle(open.handle));
        let start = offset.unwrap_or(open.position);
        let len = len.min(CALL_MAX);
        self.pin(ino);
        self.check_good(ino)?;
        let end = start.checked_add(len as u64).filter(|end| *end <= OFFSET_MAX);
        let end = end.ok_or(Errno::EINVAL)?;
        let bytes = if len == 0 {
            Vec::new()
        } else if direct {
            self.read_direct(file, start, len)?
        } else {
            let automatic = self.st.connection.has(FUSE_AUTO_INVAL_DATA);
            if automatic || end > self.st.inode(ino).attr.size {
                self.update_attr(ino, Some(handle), STATX_SIZE)?;
            }
            self.read_cached(file, ino, start, end)?
        };
        if offset.is_none()
            && let Some(open) = self.st.files.get_mut(&file)
        {
            open.position += bytes.len() as u64;
        }
        Ok(bytes)
    }

    fn read_cached(&mut self, file: u64, ino: Ino, start: u64, end: u64) -> Result<Vec<u8>, Errno> {
        let end = end.min(self.st.inode(ino).attr.size);
        if start >= end {
            return Ok(Vec::new());
        }
        let pages = self.pages(file, start / PAGE_U64, (end - 1) / PAGE_U64)?;
        // A short READ may have shown that the file ends earlier.
        let end = end.min(self.st.inode(ino).attr.size);
        let mut bytes = Vec::new();
        let mut at = start;
        while at < end {
            let from = usize::try_from(at % PAGE_U64).unwrap_or(0);
            let len = usize::try_from(end - at).unwrap_or(PAGE).min(PAGE - from);
            let page = pages.get(&(at / PAGE_U64)).ok_or(Errno::EIO)?;
            bytes.extend_from_slice(page.get(from..from + len).ok_or(Errno::EIO)?);
            at += len as u64;
        }
        Ok(bytes)
    }

    fn read_direct(&mut self, file: u64, start: u64, len: usize) -> Result<Vec<u8>, Errno> {
        let open = self.file(file)?;
        let (ino, handle, flags, owner) =
            (open.ino, FileHandle(open.handle), OpenFlags(open.flags), open.lock_owner);
        self.write_back(ino, start, start + len as u64);
        let node = self.node(ino);
        let most = self.st.connection.max_pages * PAGE;
        let mut bytes = Vec::new();
        while bytes.len() < len {
            let size = (len - bytes.len()).min(most);
            let op = Op::Read(Read {
                node,
                handle,
                offset: start + bytes.len() as u64,
                size: u32::try_from(size).map_err(|_| Errno::EINVAL)?,
                flags,
                lock_owner: Some(LockOwner(owner)),
            });
            match self.ask(&op) {
                Ok(part) => {
                    let short = part.len() < size;
                    bytes.extend_from_slice(&part);
                    if short {
                        break;
                    }
                }
                Err(_) if !bytes.is_empty() => break,
                Err(errno) => return Err(errno),
            }
        }
        self.st.inode_mut(ino).doubt(STATX_ATIME);
        Ok(bytes)
    }

    pub(super) fn write(
        &mut self,
        fd: u64,
        data: &[u8],
        offset: Option<u64>,
    ) -> Result<usize, Errno> {
        let file = self.file_of(fd)?;
        let open = self.file(file)?;
        if !OpenFlags(open.flags).writes() {
            return Err(Errno::EBADF);
        }
        let (ino, flags) = (open.ino, OpenFlags(open.flags));
        let (always_direct, direct) = (open.opened & FOPEN_DIRECT_IO != 0, open.is_direct());
        self.pin(ino);
        self.check_good(ino)?;
        let data = data.get(..data.len().min(CALL_MAX)).unwrap_or(data);
        if data.is_empty() {
            return Ok(0);
        }
        self.lock(&[Lock::Inode(ino)]);
        let position = self.file(file)?.position;
        let start =
            if flags.appends() { self.st.inode(ino).attr.size } else { offset.unwrap_or(position) };
        if start >= OFFSET_MAX {
            return Err(Errno::EFBIG);
        }
        let room = usize::try_from(OFFSET_MAX - start).unwrap_or(usize::MAX);
        let data = data.get(..data.len().min(room)).unwrap_or(data);
        if !always_direct {
            self.remove_privileges(ino)?;
        }
        let written = self.write_chunks(file, start, data, direct)?;
        if (offset.is_none() || flags.appends())
            && let Some(open) = self.st.files.get_mut(&file)
            && offset.is_none()
        {
            open.position = start + written as u64;
        }
        self.unlock();
        if flags.is_sync() && !direct {
            self.sync(fd, flags.0 & O_SYNC_ONLY == 0)?;
        }
        Ok(written)
    }

    fn write_chunks(
        &mut self,
        file: u64,
        start: u64,
        data: &[u8],
        direct: bool,
    ) -> Result<usize, Errno> {
        let open = self.file(file)?;
        let (ino, handle, flags, owner) =
            (open.ino, FileHandle(open.handle), OpenFlags(open.flags), open.lock_owner);
        let connection = &self.st.connection;
        let pages =
            if connection.has(FUSE_BIG_WRITES) || direct { connection.max_pages } else { 1 };
        let max_write = connection.max_write;
        let kill_suidgid = self.kills_suidgid();
        let node = self.node(ino);
        self.lock(&[Lock::Pages(ino)]);
        if direct {
            let end = start + data.len() as u64;
            self.write_back(ino, start, end);
            self.st.inode_mut(ino).pages.clear_range(start, end);
        }
        let mut done = 0;
        while done < data.len() {
            let at = start + done as u64;
            let in_page = usize::try_from(at % PAGE_U64).unwrap_or(0);
            let len = (pages * PAGE - in_page).min(max_write).min(data.len() - done);
            let now = data.get(done..done + len).ok_or(Errno::EIO)?;
            let op = Op::Write(Write {
                node,
                handle,
                offset: at,
                data: now,
                flags,
                lock_owner: direct.then_some(LockOwner(owner)),
                from_cache: false,
                kill_suidgid,
            });
            let written = match self.ask_for::<fuse_write_out>(&op) {
                Ok(out) => usize::try_from(out.size).unwrap_or(usize::MAX),
                Err(_) if done > 0 => break,
                Err(errno) => return Err(errno),
            };
            if written > len {
                let why = format!("{written} bytes written of {len}");
                return Err(self.refused(FUSE_WRITE, &why));
            }
            self.st.touched(ino);
            let inode = self.st.inode_mut(ino);
            inode.attr.size = inode.attr.size.max(at + written as u64);
            inode.doubt(STATX_MODIFY | STATX_SIZE);
            if !direct {
                inode.pages.written(at, now.get(..written).unwrap_or(now));
            }
            done += written;
            if written < len {
                if done == 0 {
                    return Err(Errno::EIO);
                }
                break;
            }
        }
        Ok(done)
    }

    /// Whether the server is told to clear set-id bits: FUSE_HANDLE_KILLPRIV_V2, and no CAP_FSETID.
    pub(super) fn kills_suidgid(&self) -> bool {
        self.st.connection.has(FUSE_HANDLE_KILLPRIV_V2) && !self.who.is_root()
    }

    /// What is done before content changes (`file_remove_privs`): ask for a capability, once per refresh of
    /// attributes with HANDLE_KILLPRIV_V2 and each time without, and clear what is found.
    pub(super) fn remove_privileges(&mut self, ino: Ino) -> Result<(), Errno> {
        if self.st.inode(ino).no_privileges {
            return Ok(());
        }
        let mode = self.st.inode(ino).attr.mode;
        let set_id = mode & S_ISUID != 0 || mode & (S_ISGID | 0o010) == (S_ISGID | 0o010);
        let kill = set_id && !self.who.is_root();
        let has_capability = self.has_capability(ino)?;
        if has_capability {
            self.remove_capability(ino)?;
        }
        let handled = self.st.connection.has(FUSE_HANDLE_KILLPRIV | FUSE_HANDLE_KILLPRIV_V2);
        if kill && !handled {
            self.clear_set_id(ino)?;
        }
        if !set_id && !has_capability && self.st.connection.has(FUSE_HANDLE_KILLPRIV_V2) {
            self.st.inode_mut(ino).no_privileges = true;
        }
        Ok(())
    }

    pub(super) fn clear_set_id(&mut self, ino: Ino) -> Result<(), Errno> {
        self.ask_attr(ino, None)?;
        let mode = without_set_id(self.st.inode(ino).attr.mode);
        if mode == self.st.inode(ino).attr.mode {
            return Ok(());
        }
        self.set_attr(ino, |set| set.mode = Some(mode))
    }

    pub(super) fn has_capability(&mut self, ino: Ino) -> Result<bool, Errno> {
        if self.st.connection.no_getxattr {
            return Ok(false);
        }
        let node = self.node(ino);
        let name = XattrName::new(CAPABILITY).map_err(|_| Errno::EINVAL)?;
        match self.ask_for::<fuse_getxattr_out>(&Op::GetXattr(GetXattr { node, name, size: 0 })) {
            Ok(out) => Ok(out.size > 0),
            Err(Errno::ENOSYS) => {
                self.st.connection.no_getxattr = true;
                Ok(false)
            }
            Err(errno @ (Errno::EINTR | Errno::ECONNABORTED | Errno::ENOTCONN)) => Err(errno),
            Err(_) => Ok(false),
        }
    }

    pub(super) fn remove_capability(&mut self, ino: Ino) -> Result<(), Errno> {
        let node = self.node(ino);
        let name = XattrName::new(CAPABILITY).map_err(|_| Errno::EINVAL)?;
        match self.ask(&Op::RemoveXattr(RemoveXattr { node, name })) {
            Ok(_) | Err(Errno::ENODATA | Errno::EOPNOTSUPP | Errno::ENOSYS) => Ok(()),
            Err(errno) => Err(errno),
        }
    }

    pub(super) fn sync(&mut self, fd: u64, data_only: bool) -> Result<(), Errno> {
        let file = self.file_of(fd)?;
        let open = self.file(file)?;
        let (ino, handle, is_dir) = (open.ino, FileHandle(open.handle), open.is_dir);
        self.pin(ino);
        self.check_good(ino)?;
        let node = self.node(ino);
        if is_dir {
            if self.st.connection.no_fsyncdir {
                return Ok(());
            }
            return match self.ask(&Op::FSyncDir(FSyncDir { node, handle, data_only })) {
                Err(Errno::ENOSYS) => {
                    self.st.connection.no_fsyncdir = true;
                    Ok(())
                }
                result => result.map(|_| ()),
            };
        }
        self.write_back_all(ino);
        self.st.inode_mut(ino).pages.take_error()?;
        if self.st.connection.no_fsync {
            return Ok(());
        }
        match self.ask(&Op::FSync(FSync { node, handle, data_only })) {
            Err(Errno::ENOSYS) => {
                self.st.connection.no_fsync = true;
                Ok(())
            }
            result => result.map(|_| ()),
        }
    }

    pub(super) fn seek(&mut self, fd: u64, offset: i64, whence: Whence) -> Result<u64, Errno> {
        let file = self.file_of(fd)?;
        let open = self.file(file)?;
        let (ino, handle) = (open.ino, FileHandle(open.handle));
        let position = open.position.cast_signed();
        if open.opened & (FOPEN_NONSEEKABLE | FOPEN_STREAM) != 0 {
            return Err(Errno::ESPIPE);
        }
        let is_dir = open.is_dir;
        self.pin(ino);
        let to = match whence {
            Whence::Set => offset,
            Whence::Current => position.checked_add(offset).ok_or(Errno::EOVERFLOW)?,
            Whence::End => {
                self.update_attr(ino, Some(handle), STATX_SIZE)?;
                let size = self.st.inode(ino).attr.size.cast_signed();
                size.checked_add(offset).ok_or(Errno::EOVERFLOW)?
            }
            Whence::Data | Whence::Hole if is_dir => return Err(Errno::EINVAL),
            Whence::Data | Whence::Hole => self.seek_data(ino, handle, offset, whence)?,
        };
        let to = u64::try_from(to).map_err(|_| Errno::EINVAL)?;
        if let Some(open) = self.st.files.get_mut(&file) {
            open.position = to;
        }
        Ok(to)
    }

    fn seek_data(
        &mut self,
        ino: Ino,
        handle: FileHandle,
        offset: i64,
        whence: Whence,
    ) -> Result<i64, Errno> {
        if !self.st.connection.no_lseek && self.st.connection.minor >= 24 {
            let node = self.node(ino);
            match self.ask_for::<fuse_lseek_out>(&Op::LSeek(LSeek { node, handle, offset, whence }))
            {
                Err(Errno::ENOSYS) => self.st.connection.no_lseek = true,
                result => return result.map(|out| out.offset.cast_signed()),
            }
        }
        self.update_attr(ino, Some(handle), STATX_SIZE)?;
        let size = self.st.inode(ino).attr.size.cast_signed();
        if offset < 0 || offset >= size {
            return Err(Errno::ENXIO);
        }
        Ok(if whence == Whence::Data { offset } else { size })
    }

    pub(super) fn fallocate(
        &mut self,
        fd: u64,
        mode: u32,
        offset: u64,
        length: u64,
    ) -> Result<(), Errno> {
        let file = self.file_of(fd)?;
        let open = self.file(file)?;
        let (ino, handle) = (open.ino, FileHandle(open.handle));
        let punch = mode & FALLOC_PUNCH_HOLE != 0;
        let zero = mode & FALLOC_ZERO_RANGE != 0;
        let keep = mode & FALLOC_KEEP_SIZE != 0;
        let end = offset.checked_add(length).filter(|end| *end <= OFFSET_MAX);
        if length == 0 {
            return Err(Errno::EINVAL);
        }
        if (punch && (!keep || zero))
            || mode & !(FALLOC_KEEP_SIZE | FALLOC_PUNCH_HOLE | FALLOC_ZERO_RANGE) != 0
        {
            return Err(Errno::EOPNOTSUPP);
        }
        if open.is_dir || !OpenFlags(open.flags).writes() {
            return Err(Errno::EBADF);
        }
        let end = end.ok_or(Errno::EFBIG)?;
        if self.st.connection.no_fallocate || self.st.connection.minor < 19 {
            return Err(Errno::EOPNOTSUPP);
        }
        self.pin(ino);
        self.lock(&[Lock::Inode(ino), Lock::Pages(ino)]);
        if punch || zero {
            self.write_back(ino, offset, end);
        }
        self.remove_privileges(ino)?;
        let node = self.node(ino);
        match self.ask(&Op::Fallocate(Fallocate { node, handle, offset, length, mode })) {
            Err(Errno::ENOSYS) => {
                self.st.connection.no_fallocate = true;
                return Err(Errno::EOPNOTSUPP);
            }
            result => result?,
        };
        self.st.touched(ino);
        let inode = self.st.inode_mut(ino);
        if !keep {
            inode.attr.size = inode.attr.size.max(end);
        }
        if punch || zero {
            inode.pages.clear_range(offset, end);
        }
        inode.doubt(STATX_BASIC);
        Ok(())
    }

    pub(super) fn copy_range(
        &mut self,
        from: (u64, u64),
        to: (u64, u64),
        len: u64,
    ) -> Result<u64, Errno> {
        let (source, target) = (self.file_of(from.0)?, self.file_of(to.0)?);
        let (open_in, open_out) = (self.file(source)?, self.file(target)?);
        let (ino_in, ino_out) = (open_in.ino, open_out.ino);
        let (handle_in, handle_out) = (FileHandle(open_in.handle), FileHandle(open_out.handle));
        if open_in.is_dir || open_out.is_dir {
            return Err(Errno::EISDIR);
        }
        let out_flags = OpenFlags(open_out.flags);
        if !OpenFlags(open_in.flags).reads() || !out_flags.writes() || out_flags.appends() {
            return Err(Errno::EBADF);
        }
        self.pin(ino_in);
        self.pin(ino_out);
        let in_end = from.1.checked_add(len).ok_or(Errno::EOVERFLOW)?;
        let out_end = to.1.checked_add(len).ok_or(Errno::EOVERFLOW)?;
        if out_end > OFFSET_MAX {
            return Err(Errno::EFBIG);
        }
        if ino_in == ino_out && from.1 < out_end && to.1 < in_end {
            return Err(Errno::EINVAL);
        }
        // The VFS shortens what is past the end of the source as it knows it.
        let len = len.min(self.st.inode(ino_in).attr.size.saturating_sub(from.1));
        if len == 0 {
            return Ok(0);
        }
        self.write_back(ino_in, from.1, from.1 + len);
        self.lock(&[Lock::Inode(ino_out), Lock::Pages(ino_out)]);
        self.write_back(ino_out, to.1, to.1 + len);
        self.remove_privileges(ino_out)?;
        let copied =
            self.ask_copy((ino_in, handle_in, from.1), (ino_out, handle_out, to.1), len)?;
        let Some(copied) = copied else {
            self.unlock();
            return self.copy_by_hand(from, to, len);
        };
        if copied > len {
            let why = format!("{copied} bytes copied of {len}");
            return Err(self.refused(FUSE_COPY_FILE_RANGE, &why));
        }
        self.st.touched(ino_out);
        let inode = self.st.inode_mut(ino_out);
        inode.pages.clear_range(to.1, to.1 + copied);
        inode.attr.size = inode.attr.size.max(to.1 + copied);
        inode.doubt(STATX_MODIFY | STATX_SIZE);
        self.st.inode_mut(ino_in).doubt(STATX_ATIME);
        Ok(copied)
    }

    /// `None` if the server does not copy, so that the caller must.
    fn ask_copy(
        &mut self,
        (ino_in, handle, offset): (Ino, FileHandle, u64),
        (ino_out, new_handle, new_offset): (Ino, FileHandle, u64),
        len: u64,
    ) -> Result<Option<u64>, Errno> {
        let (node, new_node) = (self.node(ino_in), self.node(ino_out));
        let minor = self.st.connection.minor;
        if !self.st.connection.no_copy_file_range_64 && minor >= 45 {
            let op = Op::CopyFileRange64(CopyFileRange64 {
                node,
                handle,
                offset,
                new_node,
                new_handle,
                new_offset,
                len,
                flags: 0,
            });
            match self.ask_for::<fuse_copy_file_range_out>(&op) {
                Err(Errno::ENOSYS) => self.st.connection.no_copy_file_range_64 = true,
                Err(Errno::EOPNOTSUPP | Errno::EXDEV) => return Ok(None),
                result => return result.map(|out| Some(out.bytes_copied)),
            }
        }
        if self.st.connection.no_copy_file_range || minor < 28 {
            return Ok(None);
        }
        let op = Op::CopyFileRange(CopyFileRange {
            node,
            handle,
            offset,
            new_node,
            new_handle,
            new_offset,
            len: len.min(u64::from(u32::MAX) & !(PAGE_U64 - 1)),
            flags: 0,
        });
        match self.ask_for::<fuse_write_out>(&op) {
            Err(Errno::ENOSYS) => {
                self.st.connection.no_copy_file_range = true;
                Ok(None)
            }
            Err(Errno::EOPNOTSUPP | Errno::EXDEV) => Ok(None),
            result => result.map(|out| Some(u64::from(out.size))),
        }
    }

    fn copy_by_hand(&mut self, from: (u64, u64), to: (u64, u64), len: u64) -> Result<u64, Errno> {
        let len = usize::try_from(len).unwrap_or(CALL_MAX);
        let bytes = self.read(from.0, len, Some(from.1))?;
        self.write(to.0, &bytes, Some(to.1)).map(|len| len as u64)
    }

    pub(super) fn statfs(&mut self, ino: Ino) -> Result<fuse_kstatfs, Errno> {
        self.check_good(ino)?;
        let node = self.node(ino);
        let out: fuse_statfs_out = self.ask_for(&Op::StatFs(StatFs { node }))?;
        Ok(out.st)
    }

    pub(super) fn map(
        &mut self,
        fd: u64,
        offset: u64,
        len: u64,
        shared: bool,
        writable: bool,
    ) -> Result<u64, Errno> {
        let file = self.file_of(fd)?;
        let open = self.file(file)?;
        let flags = OpenFlags(open.flags);
        let ino = open.ino;
        if open.is_dir {
            return Err(Errno::ENODEV);
        }
        if !flags.reads() || (shared && writable && !flags.writes()) {
            return Err(Errno::EACCES);
        }
        if !offset.is_multiple_of(PAGE_U64) || len == 0 || offset.checked_add(len).is_none() {
            return Err(Errno::EINVAL);
        }
        if open.opened & FOPEN_DIRECT_IO != 0 {
            if shared && !self.st.connection.has(FUSE_DIRECT_IO_ALLOW_MMAP) {
                return Err(Errno::ENODEV);
            }
            self.pin(ino);
            self.invalidate_pages(ino);
        }
        self.st.files.get_mut(&file).ok_or(Errno::EBADF)?.references += 1;
        let number = self.st.number();
        self.st.maps.insert(
            number,
            super::pages::Map {
                file,
                ino,
                offset,
                len,
                shared,
                writable,
                own: std::collections::BTreeMap::new(),
            },
        );
        Ok(number)
    }

    pub(super) fn map_sync(&mut self, map: u64) -> Result<(), Errno> {
        let mapping = self.st.maps.get(&map).ok_or(Errno::ENOMEM)?;
        let (file, ino, shared) = (mapping.file, mapping.ino, mapping.shared);
        if !shared {
            return Ok(());
        }
        self.pin(ino);
        // msync(MS_SYNC) is an fsync of the mapped range.
        let fd = self.st.number();
        self.st.fds.insert(fd, file);
        let outcome = self.sync(fd, false);
        self.st.fds.remove(&fd);
        outcome
    }

    pub(super) fn unmap(&mut self, map: u64) -> Result<(), Errno> {
        let mapping = self.st.maps.remove(&map).ok_or(Errno::EINVAL)?;
        self.pin(mapping.ino);
        self.write_back_all(mapping.ino);
        self.put_file(mapping.file);
        Ok(())
    }
}

/// `mode` without set-id bits, as chown and writes by others leave it.
pub(super) const fn without_set_id(mode: u32) -> u32 {
    let mode = mode & !S_ISUID;
    if mode & 0o010 == 0 { mode } else { mode & !S_ISGID }
}

fn split_created(body: &[u8]) -> Result<(fuse_entry_out, fuse_open_out), Errno> {
    let (entry, rest) = fuse_entry_out::read_from_prefix(body).map_err(|_| Errno::EIO)?;
    let (opened, _) = fuse_open_out::read_from_prefix(rest).map_err(|_| Errno::EIO)?;
    Ok((entry, opened))
}
