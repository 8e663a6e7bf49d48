//! The tree on fuse3, over tokio.
//!
//! Its best settings: the runtime of one thread, which spares requests a change of threads, adaptive READDIRPLUS and
//! parallel directory operations, which it asks for itself, and nothing is ever asked twice. OPEN it must be asked for,
//! as it always has the kernel leave truncation to OPEN; then there is no FLUSH. The largest WRITE is 1 MiB.

use std::ffi::OsStr;
use std::io;
use std::num::NonZeroU32;
use std::path::Path;
use std::time::Duration;

use fuse3::raw::prelude::*;
use fuse3::{Inode, MountOptions, Result, SetAttr, Timestamp};
use futures_util::stream::{self, Stream};
use lighthouse_fuse::proto::abi::{FOPEN_CACHE_DIR, FOPEN_KEEP_CACHE, FOPEN_NOFLUSH};
use parking_lot::RwLock;

use super::VALID;
use super::tree::{Change, New, Stat, Tree};
use crate::constants::MAX_WRITE;

struct Served(RwLock<Tree>);

/// How many names of a directory are made ready for one request: those of the longest reply.
const NAMES: usize = 512;
const OPENED: u32 = FOPEN_KEEP_CACHE | FOPEN_NOFLUSH;

pub(super) fn serve(at: &Path) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut options = MountOptions::default();
        options.fs_name("fuse3").allow_other(true).default_permissions(true);
        let served = Served(RwLock::new(Tree::default()));
        Session::new(options).mount(served, at).await?.await
    })
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

fn timestamp(time: Duration) -> Timestamp {
    Timestamp::new(time.as_secs() as i64, time.subsec_nanos())
}

fn duration(time: Timestamp) -> Duration {
    Duration::new(u64::try_from(time.sec).unwrap_or_default(), time.nsec)
}

fn attr(stat: &Stat) -> FileAttr {
    FileAttr {
        ino: stat.node,
        size: stat.size,
        blocks: stat.size.div_ceil(512),
        atime: timestamp(stat.accessed),
        mtime: timestamp(stat.modified),
        ctime: timestamp(stat.changed),
        kind: kind(stat.mode),
        perm: (stat.mode & 0o7777) as u16,
        nlink: stat.links,
        uid: stat.user,
        gid: stat.group,
        rdev: stat.device,
        blksize: 4096,
    }
}

fn entry(stat: &Stat) -> ReplyEntry {
    ReplyEntry { ttl: VALID, attr: attr(stat), generation: 0 }
}

fn new<'a>(req: &Request, mode: u32, device: u32, target: &'a OsStr) -> New<'a> {
    New { mode, device, user: req.uid, group: req.gid, target }
}

impl Served {
    fn make(&self, parent: u64, name: &OsStr, new: &New<'_>) -> Result<ReplyEntry> {
        Ok(entry(&self.0.write().make(parent, name, new)?))
    }
}

impl Filesystem for Served {
    async fn init(&self, _: Request) -> Result<ReplyInit> {
        Ok(ReplyInit::new(NonZeroU32::new(MAX_WRITE).unwrap_or(NonZeroU32::MAX)))
    }

    async fn destroy(&self, _: Request) {}

    async fn lookup(&self, _: Request, parent: Inode, name: &OsStr) -> Result<ReplyEntry> {
        // That there is nothing may be remembered as well.
        Ok(entry(&self.0.read().lookup(parent, name)?.unwrap_or_default()))
    }

    async fn forget(&self, _: Request, node: Inode, _: u64) {
        self.0.write().forget(node);
    }

    async fn batch_forget(&self, _: Request, nodes: &[(Inode, u64)]) {
        let mut tree = self.0.write();
        nodes.iter().for_each(|(node, _)| tree.forget(*node));
    }

    async fn getattr(&self, _: Request, node: Inode, _: Option<u64>, _: u32) -> Result<ReplyAttr> {
        Ok(ReplyAttr { ttl: VALID, attr: attr(&self.0.read().stat(node)?) })
    }

    async fn setattr(
        &self,
        _: Request,
        node: Inode,
        _: Option<u64>,
        set: SetAttr,
    ) -> Result<ReplyAttr> {
        let change = Change {
            mode: set.mode,
            user: set.uid,
            group: set.gid,
            size: set.size,
            accessed: set.atime.map(duration),
            modified: set.mtime.map(duration),
        };
        Ok(ReplyAttr { ttl: VALID, attr: attr(&self.0.write().change(node, &change)?) })
    }

    async fn readlink(&self, _: Request, node: Inode) -> Result<ReplyData> {
        let tree = self.0.read();
        Ok(bytes::Bytes::copy_from_slice(tree.target(node)?.as_encoded_bytes()).into())
    }

    async fn symlink(
        &self,
        req: Request,
        parent: Inode,
        name: &OsStr,
        target: &OsStr,
    ) -> Result<ReplyEntry> {
        self.make(parent, name, &new(&req, libc::S_IFLNK | 0o777, 0, target))
    }

    async fn mknod(
        &self,
        req: Request,
        parent: Inode,
        name: &OsStr,
        mode: u32,
        device: u32,
    ) -> Result<ReplyEntry> {
        self.make(parent, name, &new(&req, mode, device, OsStr::new("")))
    }

    async fn mkdir(
        &self,
        req: Request,
        parent: Inode,
        name: &OsStr,
        mode: u32,
        _: u32,
    ) -> Result<ReplyEntry> {
        let mode = mode & 0o7777 | libc::S_IFDIR;
        self.make(parent, name, &new(&req, mode, 0, OsStr::new("")))
    }

    async fn unlink(&self, _: Request, parent: Inode, name: &OsStr) -> Result<()> {
        Ok(self.0.write().remove(parent, name, false)?)
    }

    async fn rmdir(&self, _: Request, parent: Inode, name: &OsStr) -> Result<()> {
        Ok(self.0.write().remove(parent, name, true)?)
    }

    async fn rename(
        &self,
        _: Request,
        parent: Inode,
        name: &OsStr,
        to: Inode,
        new_name: &OsStr,
    ) -> Result<()> {
        Ok(self.0.write().rename((parent, name), (to, new_name), 0)?)
    }

    async fn rename2(
        &self,
        _: Request,
        parent: Inode,
        name: &OsStr,
        to: Inode,
        new_name: &OsStr,
        flags: u32,
    ) -> Result<()> {
        Ok(self.0.write().rename((parent, name), (to, new_name), flags)?)
    }

    async fn link(
        &self,
        _: Request,
        node: Inode,
        parent: Inode,
        name: &OsStr,
    ) -> Result<ReplyEntry> {
        Ok(entry(&self.0.write().link(node, parent, name)?))
    }

    async fn open(&self, _: Request, node: Inode, flags: u32) -> Result<ReplyOpen> {
        if flags & libc::O_TRUNC as u32 != 0 {
            let change = Change { size: Some(0), ..Change::default() };
            self.0.write().change(node, &change)?;
        }
        Ok(ReplyOpen { fh: 0, flags: OPENED })
    }

    async fn create(
        &self,
        req: Request,
        parent: Inode,
        name: &OsStr,
        mode: u32,
        _: u32,
    ) -> Result<ReplyCreated> {
        let stat = self.0.write().make(parent, name, &new(&req, mode, 0, OsStr::new("")))?;
        Ok(ReplyCreated { ttl: VALID, attr: attr(&stat), generation: 0, fh: 0, flags: OPENED })
    }

    async fn read(
        &self,
        _: Request,
        node: Inode,
        _: u64,
        offset: u64,
        size: u32,
    ) -> Result<ReplyData> {
        let tree = self.0.read();
        Ok(bytes::Bytes::copy_from_slice(tree.read(node, offset, size)?).into())
    }

    async fn write(
        &self,
        _: Request,
        node: Inode,
        _: u64,
        offset: u64,
        data: &[u8],
        _: u32,
        _: u32,
    ) -> Result<ReplyWrite> {
        Ok(ReplyWrite { written: self.0.write().write(node, offset, data)? })
    }

    async fn release(&self, _: Request, _: Inode, _: u64, _: u32, _: u64, _: bool) -> Result<()> {
        Ok(())
    }

    async fn fsync(&self, _: Request, _: Inode, _: u64, _: bool) -> Result<()> {
        Err(libc::ENOSYS.into())
    }

    async fn opendir(&self, _: Request, _: Inode, _: u32) -> Result<ReplyOpen> {
        Ok(ReplyOpen { fh: 0, flags: FOPEN_CACHE_DIR | FOPEN_KEEP_CACHE })
    }

    async fn readdir<'a>(
        &'a self,
        _: Request,
        node: Inode,
        _: u64,
        offset: i64,
    ) -> Result<ReplyDirectory<impl Stream<Item = Result<DirectoryEntry>> + Send + 'a>> {
        let tree = self.0.read();
        let names: Vec<_> = tree
            .list(node, offset as u64)?
            .take(NAMES)
            .map(|(place, name, stat)| {
                Ok(DirectoryEntry {
                    inode: stat.node,
                    kind: kind(stat.mode),
                    name: name.to_owned(),
                    offset: place as i64,
                })
            })
            .collect();
        Ok(ReplyDirectory { entries: stream::iter(names) })
    }

    async fn readdirplus<'a>(
        &'a self,
        _: Request,
        node: Inode,
        _: u64,
        offset: u64,
        _: u64,
    ) -> Result<ReplyDirectoryPlus<impl Stream<Item = Result<DirectoryEntryPlus>> + Send + 'a>>
    {
        let tree = self.0.read();
        let names: Vec<_> = tree
            .list(node, offset)?
            .take(NAMES)
            .map(|(place, name, stat)| {
                Ok(DirectoryEntryPlus {
                    inode: stat.node,
                    generation: 0,
                    kind: kind(stat.mode),
                    name: name.to_owned(),
                    offset: place as i64,
                    attr: attr(&stat),
                    entry_ttl: VALID,
                    attr_ttl: VALID,
                })
            })
            .collect();
        Ok(ReplyDirectoryPlus { entries: stream::iter(names) })
    }

    async fn statfs(&self, _: Request, _: Inode) -> Result<ReplyStatFs> {
        Ok(ReplyStatFs {
            blocks: 1 << 24,
            bfree: 1 << 23,
            bavail: 1 << 23,
            files: 1 << 20,
            ffree: 1 << 19,
            bsize: 4096,
            namelen: 255,
            frsize: 4096,
        })
    }
}
