//! The tree on polyfuse.
//!
//! Its best settings: four threads that share the session, a largest WRITE of 128 KiB (it takes and clears a buffer of
//! that size for each request; with its default of 16 MiB it is six times slower), no OPEN, OPENDIR or FLUSH, and
//! nothing is ever asked twice. It reads READDIRPLUS but has no reply to it, so listings are plain.

use std::ffi::OsStr;
use std::io::{self, Read as _};
use std::path::Path;
use std::time::Duration;

use parking_lot::RwLock;
use polyfuse::op::SetAttrTime;
use polyfuse::reply::*;
use polyfuse::{KernelConfig, Operation, Request, Session};

use super::tree::{Change, New, Stat, Tree, now};
use super::{THREADS, VALID, helper};

const MAX_WRITE: u32 = 128 << 10;

pub(super) fn serve(at: &Path) -> io::Result<()> {
    let mut config = KernelConfig::default();
    config
        .fusermount_path(std::env::current_exe()?)
        .fuse_comm_fd(helper::SOCKET_VARIABLE)
        .auto_unmount(false)
        .handle_killpriv(false)
        // A kernel that does not ask for OPEN truncates by SETATTR.
        .atomic_o_trunc(false)
        .auto_inval_data(false)
        .max_write(MAX_WRITE);
    let session = Session::mount(at.to_owned(), config)?;
    let tree = RwLock::new(Tree::default());
    std::thread::scope(|scope| {
        let loops: Vec<_> = (0..THREADS)
            .map(|_| {
                scope.spawn(|| -> io::Result<()> {
                    while let Some(request) = session.next_request()? {
                        match answer(&tree, &request) {
                            // Who is interrupted does not wait for the answer.
                            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => (),
                            answered => answered?,
                        }
                    }
                    Ok(())
                })
            })
            .collect();
        loops
            .into_iter()
            .try_for_each(|thread| thread.join().map_err(|_| io::Error::other("panic"))?)
    })
}

fn fill(attr: &mut FileAttr, stat: &Stat) {
    attr.ino(stat.node);
    attr.size(stat.size);
    attr.blocks(stat.size.div_ceil(512));
    attr.mode(stat.mode);
    attr.nlink(stat.links);
    attr.uid(stat.user);
    attr.gid(stat.group);
    attr.rdev(stat.device);
    attr.blksize(4096);
    attr.atime(stat.accessed);
    attr.mtime(stat.modified);
    attr.ctime(stat.changed);
}

fn entry(stat: &Stat) -> EntryOut {
    let mut out = EntryOut::default();
    fill(out.attr(), stat);
    out.ino(stat.node);
    out.ttl_attr(VALID);
    out.ttl_entry(VALID);
    out
}

fn attributes(stat: &Stat) -> AttrOut {
    let mut out = AttrOut::default();
    fill(out.attr(), stat);
    out.ttl(VALID);
    out
}

fn time(time: SetAttrTime) -> Duration {
    match time {
        SetAttrTime::Timespec(time) => time,
        _ => now(),
    }
}

/// Answers with what `reply` makes of the value, or with the errno.
fn give<T, R: polyfuse::bytes::Bytes>(
    request: &Request,
    answer: Result<T, i32>,
    reply: impl FnOnce(T) -> R,
) -> io::Result<()> {
    match answer {
        Ok(value) => request.reply(reply(value)),
        Err(refusal) => request.reply_error(refusal),
    }
}

fn answer(tree: &RwLock<Tree>, request: &Request) -> io::Result<()> {
    let new = |mode, device, target| New {
        mode,
        device,
        user: request.uid(),
        group: request.gid(),
        target,
    };
    let nothing = OsStr::new("");
    let make = |parent, name, new: &New<'_>| {
        let made = tree.write().make(parent, name, new);
        give(request, made, |stat| entry(&stat))
    };
    match request.operation().map_err(io::Error::other)? {
        Operation::Lookup(op) => {
            let found = tree.read().lookup(op.parent(), op.name());
            // That there is nothing may be remembered as well.
            give(request, found, |stat| entry(&stat.unwrap_or_default()))
        }
        Operation::Forget(forgets) => {
            let mut tree = tree.write();
            forgets.iter().for_each(|forget| tree.forget(forget.ino()));
            Ok(())
        }
        Operation::Interrupt(_) => Ok(()),
        Operation::Getattr(op) => {
            let stat = tree.read().stat(op.ino());
            give(request, stat, |stat| attributes(&stat))
        }
        Operation::Setattr(op) => {
            let change = Change {
                mode: op.mode(),
                user: op.uid(),
                group: op.gid(),
                size: op.size(),
                accessed: op.atime().map(time),
                modified: op.mtime().map(time),
            };
            let stat = tree.write().change(op.ino(), &change);
            give(request, stat, |stat| attributes(&stat))
        }
        Operation::Readlink(op) => give(request, tree.read().target(op.ino()), |target| target),
        Operation::Symlink(op) => {
            make(op.parent(), op.name(), &new(libc::S_IFLNK | 0o777, 0, op.link()))
        }
        Operation::Mknod(op) => make(op.parent(), op.name(), &new(op.mode(), op.rdev(), nothing)),
        Operation::Mkdir(op) => {
            let mode = op.mode() & 0o7777 | libc::S_IFDIR;
            make(op.parent(), op.name(), &new(mode, 0, nothing))
        }
        Operation::Link(op) => {
            let linked = tree.write().link(op.ino(), op.newparent(), op.newname());
            give(request, linked, |stat| entry(&stat))
        }
        Operation::Create(op) => {
            let new = new(op.mode(), 0, nothing);
            let made = tree.write().make(op.parent(), op.name(), &new);
            give(request, made, |stat| {
                let mut opened = OpenOut::default();
                opened.keep_cache(true);
                (entry(&stat), opened)
            })
        }
        Operation::Unlink(op) => {
            let removed = tree.write().remove(op.parent(), op.name(), false);
            give(request, removed, |()| ())
        }
        Operation::Rmdir(op) => {
            let removed = tree.write().remove(op.parent(), op.name(), true);
            give(request, removed, |()| ())
        }
        Operation::Rename(op) => {
            let (from, to) = ((op.parent(), op.name()), (op.newparent(), op.newname()));
            let renamed = tree.write().rename(from, to, op.flags());
            give(request, renamed, |()| ())
        }
        Operation::Read(op) => {
            give(request, tree.read().read(op.ino(), op.offset(), op.size()), |bytes| bytes)
        }
        Operation::Write(op, mut data) => {
            let mut bytes = Vec::with_capacity(op.size() as usize);
            data.read_to_end(&mut bytes)?;
            let written = tree.write().write(op.ino(), op.offset(), &bytes);
            give(request, written, |size| {
                let mut out = WriteOut::default();
                out.size(size);
                out
            })
        }
        Operation::Release(_) | Operation::Releasedir(_) => request.reply(()),
        Operation::Readdir(op) => {
            let tree = tree.read();
            give(request, tree.list(op.ino(), op.offset()), |mut names| {
                let mut out = ReaddirOut::new(op.size() as usize);
                while let Some((place, name, stat)) = names.next()
                    && !out.entry(name, stat.node, stat.mode >> 12 & 0o17, place)
                {}
                out
            })
        }
        Operation::Statfs(_) => {
            let mut out = StatfsOut::default();
            let statfs = out.statfs();
            statfs.bsize(4096);
            statfs.frsize(4096);
            statfs.blocks(1 << 24);
            statfs.bfree(1 << 23);
            statfs.bavail(1 << 23);
            statfs.files(1 << 20);
            statfs.ffree(1 << 19);
            statfs.namelen(255);
            request.reply(out)
        }
        _ => request.reply_error(libc::ENOSYS),
    }
}
