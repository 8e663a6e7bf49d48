//! One system call in progress: asking the server, waiting, and what every operation needs.
//!
//! ```text
//!  send --> finish: the answer is there? --no--> a signal, perhaps --> another caller's turn, or a step
//!               ^                                                                |
//!               +----------------------------------------------------------------+
//! ```
//!
//! Invariants: a call pins every inode it touches until it ends, and gives back its locks then. State may
//! change whenever it waits, as others run meanwhile. Locks are taken in one piece or not at all.

use std::time::Instant;

use parking_lot::MutexGuard;
use zerocopy::FromBytes;

use crate::proto::abi::*;
use crate::proto::op::{Access, GetAttr, GetXattr, Op, Statx};
use crate::proto::types::{Caller, Errno, FileHandle, NodeId, Timestamp, XattrName};

use super::device::name_of;
use super::inode::{
    Ino, S_IFMT, STATX_BASIC, STATX_BTIME, STATX_GID, STATX_MODE, STATX_UID, end_of_life, is_valid,
};
use super::{Shared, State};

/// To be allowed to execute, or to search.
pub(super) const MAY_EXEC: u32 = 1;
pub(super) const MAY_WRITE: u32 = 2;
pub(super) const MAY_READ: u32 = 4;

/// Who calls.
#[derive(Clone, Debug)]
pub(super) struct Credentials {
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) groups: Vec<u32>,
    pub(super) umask: u32,
    pub(super) pid: u32,
}

impl Credentials {
    /// Nobody: what the kernel does by itself.
    pub(super) const KERNEL: Self = Self { uid: 0, gid: 0, groups: Vec::new(), umask: 0, pid: 0 };

    /// Whether all capabilities are there.
    pub(super) const fn is_root(&self) -> bool {
        self.uid == 0
    }

    pub(super) fn is_in_group(&self, gid: u32) -> bool {
        self.gid == gid || self.groups.contains(&gid)
    }

    const fn caller(&self) -> Caller {
        Caller { uid: self.uid, gid: self.gid, pid: self.pid }
    }
}

/// What one call at a time may do.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) enum Lock {
    /// Change or list the names in a directory (`i_rwsem`).
    Names(Ino),
    /// Look up a name (`d_alloc_parallel`).
    Name(Ino, Vec<u8>),
    /// Change content or attributes of a file (`i_rwsem`).
    Inode(Ino),
    /// Send content to the server: a write waits for a write-back of the same pages, and the reverse.
    Pages(Ino),
    /// Rename between directories (`s_vfs_rename_mutex`).
    Rename,
}

pub(super) struct Call<'k> {
    pub(super) st: MutexGuard<'k, State>,
    shared: &'k Shared,
    pub(super) who: Credentials,
    task: Option<u64>,
    pins: Vec<Ino>,
    held: Vec<Lock>,
    /// Every name on the way is asked for, whatever the cache says (`LOOKUP_REVAL`).
    pub(super) afresh: bool,
}

impl<'k> Call<'k> {
    pub(super) fn enter(shared: &'k Shared, who: Credentials, task: Option<u64>) -> Self {
        let st = shared.state.lock();
        Self { st, shared, who, task, pins: Vec::new(), held: Vec::new(), afresh: false }
    }

    /// Keeps `ino` until the call ends.
    pub(super) fn pin(&mut self, ino: Ino) -> Ino {
        if !self.pins.contains(&ino) {
            self.st.inode_mut(ino).pins += 1;
            self.pins.push(ino);
        }
        ino
    }

    /// Whether this call has the lock.
    pub(super) fn holds(&self, lock: &Lock) -> bool {
        self.held.contains(lock)
    }

    /// Waits until all of `locks` are free, and takes them.
    pub(super) fn lock(&mut self, locks: &[Lock]) {
        let mut wanted = locks.to_vec();
        wanted.sort();
        wanted.dedup();
        wanted.retain(|lock| !self.held.contains(lock));
        while wanted.iter().any(|lock| self.st.locks.contains(lock)) {
            self.pause();
        }
        self.st.locks.extend(wanted.iter().cloned());
        self.held.extend(wanted);
    }

    /// Gives all locks back.
    pub(super) fn unlock(&mut self) {
        for lock in self.held.drain(..) {
            self.st.locks.remove(&lock);
        }
        self.shared.wake.notify_all();
    }

    /// Gives one lock back.
    pub(super) fn unlock_one(&mut self, lock: &Lock) {
        self.held.retain(|held| held != lock);
        self.st.locks.remove(lock);
        self.shared.wake.notify_all();
    }

    /// Queues a request; [`Call::finish`] waits for its answer.
    pub(super) fn send(&mut self, op: &Op<'_>) -> u64 {
        let caller = self.who.caller();
        self.send_as(caller, op, false)
    }

    /// Queues a request of the kernel's own, as RELEASE and write-back are: no user, no process.
    pub(super) fn send_nobody(&mut self, op: &Op<'_>) -> u64 {
        self.send_as(Caller::default(), op, false)
    }

    /// Queues a request whose answer nobody waits for.
    pub(super) fn send_background(&mut self, op: &Op<'_>) {
        self.send_as(Caller::default(), op, true);
    }

    fn send_as(&mut self, caller: Caller, op: &Op<'_>, background: bool) -> u64 {
        let unique = self.st.device.unique();
        self.st.queue(unique, caller, op, background);
        self.shared.wake.notify_all();
        unique
    }

    /// Waits for the answer to `unique`, and returns its body.
    pub(super) fn finish(&mut self, unique: u64) -> Result<Vec<u8>, Errno> {
        let mut may_interrupt = true;
        loop {
            if let Some(outcome) = self.st.device.done.remove(&unique) {
                return outcome;
            }
            if std::mem::take(&mut may_interrupt) {
                let per_mille = self.st.options.interrupts_per_mille;
                if per_mille > 0 && self.st.dice.below(1000) < per_mille {
                    self.st.device.interrupt(unique);
                }
            }
            self.pause();
        }
    }

    pub(super) fn ask(&mut self, op: &Op<'_>) -> Result<Vec<u8>, Errno> {
        let unique = self.send(op);
        self.finish(unique)
    }

    /// Asks, and takes the body for a `T`, whose size was checked when the answer came.
    pub(super) fn ask_for<T: FromBytes>(&mut self, op: &Op<'_>) -> Result<T, Errno> {
        let body = self.ask(op)?;
        T::read_from_prefix(&body).map(|(value, _)| value).map_err(|_| Errno::EIO)
    }

    /// Lets others run: another caller, or the server by one request.
    fn pause(&mut self) {
        if let Some(task) = self.task {
            let count = self.st.live.len();
            let choice = self.st.dice.below(count + 1);
            if let Some(next) = self.st.live.get(choice).copied()
                && next != task
            {
                self.st.turn = Some(next);
                self.shared.wake.notify_all();
                while self.st.turn != Some(task) {
                    self.shared.wake.wait(&mut self.st);
                }
                return;
            }
            let device = &self.st.device;
            if count > 1 && !device.has_work() && device.processing.is_empty() {
                // What is waited for is another caller's to give.
                return;
            }
        }
        self.step();
    }

    /// Delivers one request and waits until the readers wait again; without requests, waits for news.
    pub(super) fn step(&mut self) {
        if !self.st.options.stepped {
            // FORGETs are queued by whoever drops the last use, who wakes nobody.
            self.shared.wake.notify_all();
            self.await_news("no answer came");
            return;
        }
        self.await_idle();
        if !self.st.device.connected {
            return;
        }
        if !self.st.device.has_work() {
            self.await_news("every request was read, and no answer came");
            return;
        }
        self.st.device.granted = 1;
        self.shared.wake.notify_all();
        while self.st.device.granted > 0 && self.st.device.connected {
            self.await_news("no reader took the request");
        }
        self.await_idle();
    }

    fn await_idle(&mut self) {
        while self.st.device.idle < self.st.options.readers
            && self.st.device.connected
            && !self.st.device.ending
        {
            self.await_news("the server does not come back for the next request");
        }
    }

    /// Waits until something happens.
    ///
    /// # Panics
    ///
    /// If nothing does for `Options::patience`: the server hangs, or has lost a request.
    fn await_news(&mut self, what: &str) {
        let patience = self.st.options.patience;
        let deadline = Instant::now() + patience;
        if self.shared.wake.wait_until(&mut self.st, deadline).timed_out() {
            let text = format!(
                "seed {}: {what} within {patience:?}; under way:{}",
                self.st.options.seed,
                self.st.unanswered()
            );
            self.st.violation(text.clone());
            self.st.device.abort();
            self.shared.wake.notify_all();
            panic!("{text}");
        }
    }

    /// Goes on until nothing is queued and nothing unanswered.
    pub(super) fn settle(&mut self) {
        while self.st.device.connected
            && (self.st.device.has_work() || !self.st.device.processing.is_empty())
        {
            self.step();
        }
        if self.st.options.stepped {
            self.await_idle();
        }
    }

    pub(super) fn node(&self, ino: Ino) -> NodeId {
        NodeId::new(self.st.inode(ino).node).expect("no inode has the node id 0")
    }

    /// EIO for an inode whose node id came to stand for something else.
    pub(super) fn check_good(&self, ino: Ino) -> Result<(), Errno> {
        if self.st.inode(ino).bad { Err(Errno::EIO) } else { Ok(()) }
    }

    /// Makes sure that what `mask` (STATX_*) names is fresh enough (`fuse_update_get_attr`).
    pub(super) fn update_attr(
        &mut self,
        ino: Ino,
        handle: Option<FileHandle>,
        mask: u32,
    ) -> Result<(), Errno> {
        let mut mask = mask & (STATX_BASIC | STATX_BTIME);
        loop {
            if self.st.connection.no_statx || self.st.connection.minor < 39 {
                mask &= STATX_BASIC;
            }
            let inode = self.st.inode(ino);
            let ask = mask & inode.doubtful != 0 || inode.attr_until_ns < self.st.now_ns;
            if mask == 0 || !ask {
                return Ok(());
            }
            self.st.inode_mut(ino).acl = None;
            if mask & STATX_BTIME == 0 {
                return self.ask_attr(ino, handle);
            }
            match self.ask_statx(ino, handle, mask) {
                Err(Errno::ENOSYS) => self.st.connection.no_statx = true,
                result => return result,
            }
        }
    }

    /// GETATTR (`fuse_do_getattr`).
    pub(super) fn ask_attr(&mut self, ino: Ino, handle: Option<FileHandle>) -> Result<(), Errno> {
        self.check_good(ino)?;
        let version = self.st.attr_version;
        let node = self.node(ino);
        let handle = handle.filter(|_| self.st.inode(ino).is_file());
        let out: fuse_attr_out = self.ask_for(&Op::GetAttr(GetAttr { node, handle }))?;
        self.take_attr(ino, &out, version)
    }

    /// Takes the attributes of an answer, or makes the inode bad for good if they cannot be its.
    pub(super) fn take_attr(
        &mut self,
        ino: Ino,
        out: &fuse_attr_out,
        version: u64,
    ) -> Result<(), Errno> {
        let inode = self.st.inode(ino);
        if !is_valid(&out.attr) || (inode.attr.mode ^ out.attr.mode) & S_IFMT != 0 {
            let text = format!(
                "attributes of node {} have mode {:o} and size {}; its type was {:o}",
                inode.node,
                out.attr.mode,
                out.attr.size,
                inode.kind()
            );
            self.st.violation(text);
            self.st.make_bad(ino);
            return Err(Errno::EIO);
        }
        let until = end_of_life(self.st.now_ns, out.attr_valid, out.attr_valid_nsec);
        self.st.refresh(ino, &out.attr, until, version);
        Ok(())
    }

    fn ask_statx(&mut self, ino: Ino, handle: Option<FileHandle>, mask: u32) -> Result<(), Errno> {
        self.check_good(ino)?;
        let version = self.st.attr_version;
        let node = self.node(ino);
        let handle = handle.filter(|_| self.st.inode(ino).is_file());
        let out: fuse_statx_out =
            self.ask_for(&Op::Statx(Statx { node, handle, flags: 0, mask }))?;
        let sx = out.stat;
        if sx.mask & STATX_BASIC != STATX_BASIC {
            self.st.violation(format!("STATX answers mask {:#x} only", sx.mask));
        }
        let attr = fuse_attr {
            ino: sx.ino,
            size: sx.size,
            blocks: sx.blocks,
            atime: sx.atime.tv_sec.cast_unsigned(),
            mtime: sx.mtime.tv_sec.cast_unsigned(),
            ctime: sx.ctime.tv_sec.cast_unsigned(),
            atimensec: sx.atime.tv_nsec,
            mtimensec: sx.mtime.tv_nsec,
            ctimensec: sx.ctime.tv_nsec,
            mode: u32::from(sx.mode),
            nlink: sx.nlink,
            uid: sx.uid,
            gid: sx.gid,
            rdev: encode_device(sx.rdev_major, sx.rdev_minor),
            blksize: sx.blksize,
            flags: 0,
        };
        let out = fuse_attr_out {
            attr_valid: out.attr_valid,
            attr_valid_nsec: out.attr_valid_nsec,
            dummy: 0,
            attr,
        };
        self.take_attr(ino, &out, version)?;
        let inode = self.st.inode_mut(ino);
        if sx.mask & STATX_BTIME != 0 {
            inode.btime = Timestamp::new(sx.btime.tv_sec, sx.btime.tv_nsec);
            inode.doubtful &= !STATX_BTIME;
        }
        Ok(())
    }

    /// Checks that the caller may do what `mask` says (`fuse_permission`).
    pub(super) fn permit(&mut self, ino: Ino, mask: u32) -> Result<(), Errno> {
        self.check_good(ino)?;
        self.may_use_mount()?;
        let checks = self.st.options.default_permissions;
        let exec = mask & MAY_EXEC != 0 && self.st.inode(ino).is_file();
        let mut refreshed = false;
        if checks || exec {
            let inode = self.st.inode(ino);
            let needed = STATX_MODE | STATX_UID | STATX_GID;
            if needed & inode.doubtful != 0 || inode.attr_until_ns < self.st.now_ns {
                refreshed = true;
                self.refresh_for_permission(ino)?;
            }
        }
        if checks {
            match self.generic_permission(ino, mask) {
                Err(Errno::EACCES) if !refreshed => {
                    self.refresh_for_permission(ino)?;
                    self.generic_permission(ino, mask)
                }
                result => result,
            }
        } else if exec && self.st.inode(ino).attr.mode & 0o111 == 0 {
            Err(Errno::EACCES)
        } else {
            Ok(())
        }
    }

    fn refresh_for_permission(&mut self, ino: Ino) -> Result<(), Errno> {
        self.st.inode_mut(ino).acl = None;
        self.ask_attr(ino, None)
    }

    /// Whether the caller may use the mount at all (`fuse_allow_current_process`).
    pub(super) fn may_use_mount(&self) -> Result<(), Errno> {
        let options = &self.st.options;
        if options.allow_other || self.who.uid == options.owner || self.who.pid == 0 {
            Ok(())
        } else {
            Err(Errno::EACCES)
        }
    }

    fn generic_permission(&mut self, ino: Ino, mask: u32) -> Result<(), Errno> {
        let attr = self.st.inode(ino).attr;
        let is_dir = self.st.inode(ino).is_dir();
        let granted = if self.who.uid == attr.uid {
            attr.mode >> 6
        } else if let Some(acl) = self.acl_of(ino, &attr)? {
            self.granted_by_acl(&acl, &attr)
        } else if self.who.is_in_group(attr.gid) {
            attr.mode >> 3
        } else {
            attr.mode
        } & 7;
        if mask & !granted == 0 {
            return Ok(());
        }
        // CAP_DAC_OVERRIDE: all but executing what nobody may execute.
        if self.who.is_root() && (is_dir || mask & MAY_EXEC == 0 || attr.mode & 0o111 != 0) {
            return Ok(());
        }
        Err(Errno::EACCES)
    }

    /// The access ACL, if the connection has ACLs and the mode could hide one.
    fn acl_of(&mut self, ino: Ino, attr: &fuse_attr) -> Result<Option<Vec<u8>>, Errno> {
        if !self.st.connection.has(FUSE_POSIX_ACL) || attr.mode & 0o070 == 0 {
            return Ok(None);
        }
        if let Some(acl) = &self.st.inode(ino).acl {
            return Ok(acl.clone());
        }
        if self.st.connection.no_getxattr {
            return Ok(None);
        }
        let node = self.node(ino);
        let name = XattrName::new(b"system.posix_acl_access").map_err(|_| Errno::EINVAL)?;
        let acl = match self.ask(&Op::GetXattr(GetXattr { node, name, size: 4096 })) {
            Ok(value) if value.is_empty() => None,
            Ok(value) => Some(value),
            Err(Errno::ENODATA | Errno::EOPNOTSUPP) => None,
            Err(Errno::ENOSYS) => {
                self.st.connection.no_getxattr = true;
                None
            }
            Err(errno) => return Err(errno),
        };
        self.st.inode_mut(ino).acl = Some(acl.clone());
        Ok(acl)
    }

    /// What an ACL (`struct posix_acl_xattr_entry` after a version) gives to one who is not the owner.
    fn granted_by_acl(&self, acl: &[u8], attr: &fuse_attr) -> u32 {
        let entries: Vec<(u16, u32, u32)> = acl
            .get(4..)
            .unwrap_or(&[])
            .chunks_exact(8)
            .filter_map(|entry| {
                let tag = u16::from_le_bytes(entry.get(..2)?.try_into().ok()?);
                let perm = u16::from_le_bytes(entry.get(2..4)?.try_into().ok()?);
                let id = u32::from_le_bytes(entry.get(4..8)?.try_into().ok()?);
                Some((tag, u32::from(perm), id))
            })
            .collect();
        let of_tag = |wanted| entries.iter().find(|(tag, ..)| *tag == wanted).map(|entry| entry.1);
        let mask = of_tag(0x10).unwrap_or(7);
        if let Some((_, perm, _)) =
            entries.iter().find(|(tag, _, id)| *tag == 0x02 && *id == self.who.uid)
        {
            return perm & mask;
        }
        let groups: Vec<u32> = entries
            .iter()
            .filter(|(tag, _, id)| {
                (*tag == 0x04 && self.who.is_in_group(attr.gid))
                    || (*tag == 0x08 && self.who.is_in_group(*id))
            })
            .map(|(_, perm, _)| perm & mask)
            .collect();
        if groups.is_empty() {
            return of_tag(0x20).unwrap_or(0);
        }
        groups.into_iter().fold(0, |all, perm| all | perm)
    }

    /// access(2): R_OK, W_OK, X_OK, or 0 for being there.
    pub(super) fn access(&mut self, ino: Ino, mask: u32) -> Result<(), Errno> {
        if self.st.options.default_permissions {
            return self.permit(ino, mask);
        }
        self.may_use_mount()?;
        if self.st.connection.no_access || mask == 0 {
            return Ok(());
        }
        let node = self.node(ino);
        match self.ask(&Op::Access(Access { node, mask })) {
            Err(Errno::ENOSYS) => {
                self.st.connection.no_access = true;
                Ok(())
            }
            result => result.map(|_| ()),
        }
    }

    /// Whether the caller owns the inode, or is above that.
    pub(super) fn owns(&self, ino: Ino) -> bool {
        self.who.is_root() || self.who.uid == self.st.inode(ino).attr.uid
    }

    pub(super) fn refused(&mut self, opcode: u32, why: &str) -> Errno {
        self.st.violation(format!("{}: {why}", name_of(opcode)));
        Errno::EIO
    }
}

/// `new_encode_dev` of the kernel.
pub(super) const fn encode_device(major: u32, minor: u32) -> u32 {
    (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12)
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        self.unlock();
        for ino in std::mem::take(&mut self.pins) {
            if let Some(inode) = self.st.inodes.get_mut(&ino) {
                inode.pins = inode.pins.saturating_sub(1);
            }
            self.st.reap(ino);
        }
        self.shared.wake.notify_all();
    }
}
