//! The tree on fuser.
//!
//! Its best settings: four threads with a descriptor each, no OPEN, OPENDIR or FLUSH (the kernel stops asking after
//! ENOSYS), adaptive READDIRPLUS, parallel directory operations, and nothing is ever asked twice. The largest
//! WRITE is 1 MiB: the buffers are of its size.

use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::*;
use parking_lot::RwLock;

use super::tree::{Change, New, Stat, Tree, now};
use super::{THREADS, VALID};
use crate::constants::MAX_WRITE;

struct Served(RwLock<Tree>);

pub(super) fn serve(at: &Path) -> io::Result<()> {
    let mut config = Config::default();
    config.mount_options =
        vec![MountOption::FSName("fuser".into()), MountOption::DefaultPermissions];
    config.acl = SessionACL::All;
    config.n_threads = Some(THREADS);
    config.clone_fd = true;
    mount(Served(RwLock::new(Tree::default())), at, &config)
}

fn kind(mode: u32) -> FileType {
    match mode & libc::S_IFMT {
        libc::S_IFDIR => FileType::Directory,
        libc::S_IFLNK => FileType::Symlink,
        libc::S_IFIFO => FileType::NamedPipe,
        libc::S_IFSOCK => FileType::Socket,
        libc::S_IFCHR => FileType::CharDevice,
        libc::S_IFBLK => FileType::BlockDevice,
        _ => FileType::RegularFile,
    }
}

fn attr(stat: &Stat) -> FileAttr {
    FileAttr {
        ino: INodeNo(stat.node),
        size: stat.size,
        blocks: stat.size.div_ceil(512),
        atime: UNIX_EPOCH + stat.accessed,
        mtime: UNIX_EPOCH + stat.modified,
        ctime: UNIX_EPOCH + stat.changed,
        crtime: UNIX_EPOCH,
        kind: kind(stat.mode),
        perm: (stat.mode & 0o7777) as u16,
        nlink: stat.links,
        uid: stat.user,
        gid: stat.group,
        rdev: stat.device,
        blksize: 4096,
        flags: 0,
    }
}

fn time(time: TimeOrNow) -> Duration {
    match time {
        TimeOrNow::SpecificTime(time) => time.duration_since(UNIX_EPOCH).unwrap_or_default(),
        TimeOrNow::Now => now(),
    }
}

fn new<'a>(req: &Request, mode: u32, device: u32, target: &'a OsStr) -> New<'a> {
    New { mode, device, user: req.uid(), group: req.gid(), target }
}

const GENERATION: Generation = Generation(0);

fn entry(reply: ReplyEntry, answer: Result<Stat, i32>) {
    match answer {
        Ok(stat) => reply.entry(&VALID, &attr(&stat), GENERATION),
        Err(refusal) => reply.error(Errno::from_i32(refusal)),
    }
}

fn empty(reply: ReplyEmpty, answer: Result<(), i32>) {
    match answer {
        Ok(()) => reply.ok(),
        Err(refusal) => reply.error(Errno::from_i32(refusal)),
    }
}

fn attributes(reply: ReplyAttr, answer: Result<Stat, i32>) {
    match answer {
        Ok(stat) => reply.attr(&VALID, &attr(&stat)),
        Err(refusal) => reply.error(Errno::from_i32(refusal)),
    }
}

impl Filesystem for Served {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let wanted = InitFlags::FUSE_PARALLEL_DIROPS
            | InitFlags::FUSE_DO_READDIRPLUS
            | InitFlags::FUSE_READDIRPLUS_AUTO
            | InitFlags::FUSE_CACHE_SYMLINKS
            | InitFlags::FUSE_ASYNC_DIO;
        // What the kernel has not, it does without.
        let _ = config.add_capabilities(wanted & config.capabilities());
        config.set_max_write(MAX_WRITE).map_err(|_| io::ErrorKind::InvalidInput)?;
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let found = self.0.read().lookup(parent.0, name);
        // That there is nothing may be remembered as well.
        entry(reply, found.map(Option::unwrap_or_default));
    }

    fn forget(&self, _: &Request, node: INodeNo, _: u64) {
        self.0.write().forget(node.0);
    }

    fn getattr(&self, _: &Request, node: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        let stat = self.0.read().stat(node.0);
        attributes(reply, stat);
    }

    fn setattr(
        &self,
        _: &Request,
        node: INodeNo,
        mode: Option<u32>,
        user: Option<u32>,
        group: Option<u32>,
        size: Option<u64>,
        accessed: Option<TimeOrNow>,
        modified: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let (accessed, modified) = (accessed.map(time), modified.map(time));
        let change = Change { mode, user, group, size, accessed, modified };
        let stat = self.0.write().change(node.0, &change);
        attributes(reply, stat);
    }

    fn readlink(&self, _: &Request, node: INodeNo, reply: ReplyData) {
        match self.0.read().target(node.0) {
            Ok(target) => reply.data(target.as_encoded_bytes()),
            Err(refusal) => reply.error(Errno::from_i32(refusal)),
        }
    }

    fn mknod(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _: u32,
        device: u32,
        reply: ReplyEntry,
    ) {
        let made = self.0.write().make(parent.0, name, &new(req, mode, device, OsStr::new("")));
        entry(reply, made);
    }

    fn mkdir(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _: u32,
        reply: ReplyEntry,
    ) {
        let new = new(req, mode & 0o7777 | libc::S_IFDIR, 0, OsStr::new(""));
        let made = self.0.write().make(parent.0, name, &new);
        entry(reply, made);
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let removed = self.0.write().remove(parent.0, name, false);
        empty(reply, removed);
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let removed = self.0.write().remove(parent.0, name, true);
        empty(reply, removed);
    }

    fn symlink(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        target: &Path,
        reply: ReplyEntry,
    ) {
        let new = new(req, libc::S_IFLNK | 0o777, 0, target.as_os_str());
        let made = self.0.write().make(parent.0, name, &new);
        entry(reply, made);
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        to: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let (from, to) = ((parent.0, name), (to.0, new_name));
        let renamed = self.0.write().rename(from, to, flags.bits());
        empty(reply, renamed);
    }

    fn link(&self, _: &Request, node: INodeNo, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let linked = self.0.write().link(node.0, parent.0, name);
        entry(reply, linked);
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.error(Errno::ENOSYS);
    }

    fn opendir(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.error(Errno::ENOSYS);
    }

    fn create(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _: u32,
        _: i32,
        reply: ReplyCreate,
    ) {
        let made = self.0.write().make(parent.0, name, &new(req, mode, 0, OsStr::new("")));
        let flags = FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_NOFLUSH;
        match made {
            Ok(stat) => {
                reply.created(&VALID, &attr(&stat), GENERATION, FileHandle(0), flags);
            }
            Err(refusal) => reply.error(Errno::from_i32(refusal)),
        }
    }

    fn read(
        &self,
        _: &Request,
        node: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        match self.0.read().read(node.0, offset, size) {
            Ok(bytes) => reply.data(bytes),
            Err(refusal) => reply.error(Errno::from_i32(refusal)),
        }
    }

    fn write(
        &self,
        _: &Request,
        node: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let written = self.0.write().write(node.0, offset, data);
        match written {
            Ok(size) => reply.written(size),
            Err(refusal) => reply.error(Errno::from_i32(refusal)),
        }
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    fn readdir(
        &self,
        _: &Request,
        node: INodeNo,
        _: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        match self.0.read().list(node.0, offset) {
            Ok(mut names) => {
                while let Some((place, name, stat)) = names.next()
                    && !reply.add(INodeNo(stat.node), place, kind(stat.mode), name)
                {
                }
                reply.ok();
            }
            Err(refusal) => reply.error(Errno::from_i32(refusal)),
        }
    }

    fn readdirplus(
        &self,
        _: &Request,
        node: INodeNo,
        _: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        match self.0.read().list(node.0, offset) {
            Ok(mut names) => {
                while let Some((place, name, stat)) = names.next()
                    && !reply.add(INodeNo(stat.node), place, name, &VALID, &attr(&stat), GENERATION)
                {
                }
                reply.ok();
            }
            Err(refusal) => reply.error(Errno::from_i32(refusal)),
        }
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        reply.statfs(1 << 24, 1 << 23, 1 << 23, 1 << 20, 1 << 19, 4096, 255, 4096);
    }

    fn access(&self, _: &Request, _: INodeNo, _: AccessFlags, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    fn getxattr(&self, _: &Request, _: INodeNo, _: &OsStr, _: u32, reply: ReplyXattr) {
        reply.error(Errno::ENOSYS);
    }

    fn listxattr(&self, _: &Request, _: INodeNo, _: u32, reply: ReplyXattr) {
        reply.error(Errno::ENOSYS);
    }
}
