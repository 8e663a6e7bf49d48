//! Setting attributes: mode, owner, times, and size, by path or descriptor.

use crate::proto::abi::*;
use crate::proto::op::{Op, SetAttr, SetTime};
use crate::proto::types::{Errno, FileHandle, LockOwner, OpenFlags};

use super::call::{Call, Lock, MAY_WRITE};
use super::file::{OFFSET_MAX, without_set_id};
use super::inode::{Ino, S_ISGID, STATX_BASIC};

impl Call<'_> {
    /// SETATTR with what `fill` sets.
    pub(super) fn set_attr(
        &mut self,
        ino: Ino,
        fill: impl FnOnce(&mut SetAttr),
    ) -> Result<(), Errno> {
        self.check_good(ino)?;
        let mut set = SetAttr::nothing(self.node(ino));
        fill(&mut set);
        let out: fuse_attr_out = match self.ask_for(&Op::SetAttr(set)) {
            Err(Errno::EINTR) => {
                self.st.inode_mut(ino).doubt(STATX_BASIC);
                return Err(Errno::EINTR);
            }
            result => result?,
        };
        self.take_attr(ino, &out, 0)?;
        let inode = self.st.inode_mut(ino);
        inode.acl = None;
        // A directory's mode may decide what its name shows.
        if set.mode.is_some() && inode.is_dir() {
            for key in inode.names.clone() {
                if let Some(dentry) = self.st.dentries.get_mut(&key) {
                    dentry.until_ns = 0;
                }
            }
        }
        if let Some(size) = set.size {
            let inode = self.st.inode_mut(ino);
            inode.pages.truncate(size);
        }
        Ok(())
    }

    pub(super) fn chmod(&mut self, ino: Ino, mode: u32) -> Result<(), Errno> {
        if self.st.inode(ino).is_link() {
            return Err(Errno::EOPNOTSUPP);
        }
        self.lock(&[Lock::Inode(ino)]);
        let checks = self.st.options.default_permissions;
        let mut mode = mode & 0o7777;
        if checks {
            self.fresh_owner(ino)?;
            if !self.owns(ino) {
                return Err(Errno::EPERM);
            }
            let gid = self.st.inode(ino).attr.gid;
            if !self.who.is_root() && !self.who.is_in_group(gid) {
                mode &= !S_ISGID;
            }
        }
        let kind = self.st.inode(ino).kind();
        self.set_attr(ino, |set| set.mode = Some(kind | mode))
    }

    /// The owner, asked for again if it may have changed.
    fn fresh_owner(&mut self, ino: Ino) -> Result<(), Errno> {
        use super::inode::{STATX_GID, STATX_MODE, STATX_UID};
        self.update_attr(ino, None, STATX_MODE | STATX_UID | STATX_GID)
    }

    pub(super) fn chown(
        &mut self,
        ino: Ino,
        uid: Option<u32>,
        gid: Option<u32>,
    ) -> Result<(), Errno> {
        self.lock(&[Lock::Inode(ino)]);
        if self.st.options.default_permissions && !self.who.is_root() {
            self.fresh_owner(ino)?;
            let attr = self.st.inode(ino).attr;
            let owner = attr.uid == self.who.uid;
            if uid.is_some_and(|uid| !owner || uid != attr.uid) {
                return Err(Errno::EPERM);
            }
            let may_give = |gid| gid == attr.gid || self.who.is_in_group(gid);
            if gid.is_some_and(|gid| !owner || !may_give(gid)) {
                return Err(Errno::EPERM);
            }
        }
        let mut mode = None;
        if !self.st.inode(ino).is_dir() {
            if self.st.inode(ino).is_file() && self.has_capability(ino)? {
                self.remove_capability(ino)?;
            }
            if !self.st.connection.has(FUSE_HANDLE_KILLPRIV | FUSE_HANDLE_KILLPRIV_V2) {
                self.ask_attr(ino, None)?;
                let old = self.st.inode(ino).attr.mode;
                mode = Some(without_set_id(old)).filter(|mode| *mode != old);
            }
        }
        if uid.is_none() && gid.is_none() && mode.is_none() {
            return Ok(());
        }
        self.set_attr(ino, |set| {
            set.uid = uid;
            set.gid = gid;
            set.mode = mode;
        })
    }

    pub(super) fn set_times(
        &mut self,
        ino: Ino,
        atime: Option<SetTime>,
        mtime: Option<SetTime>,
    ) -> Result<(), Errno> {
        if atime.is_none() && mtime.is_none() {
            return Ok(());
        }
        self.lock(&[Lock::Inode(ino)]);
        if self.st.options.default_permissions {
            self.fresh_owner(ino)?;
            let now = (Some(SetTime::Now), Some(SetTime::Now));
            if !self.owns(ino) {
                if (atime, mtime) != now {
                    return Err(Errno::EPERM);
                }
                self.permit(ino, MAY_WRITE)?;
            }
        }
        self.set_attr(ino, |set| {
            set.atime = atime;
            set.mtime = mtime;
        })
    }

    pub(super) fn truncate(&mut self, ino: Ino, size: u64) -> Result<(), Errno> {
        if self.st.inode(ino).is_dir() {
            return Err(Errno::EISDIR);
        }
        if !self.st.inode(ino).is_file() || size > OFFSET_MAX {
            return Err(Errno::EINVAL);
        }
        self.permit(ino, MAY_WRITE)?;
        self.truncate_open(ino, size, None)
    }

    pub(super) fn truncate_fd(&mut self, fd: u64, size: u64) -> Result<(), Errno> {
        let file = self.file_of(fd)?;
        let open = self.file(file)?;
        let (ino, handle, owner) = (open.ino, open.handle, open.lock_owner);
        if open.is_dir || !OpenFlags(open.flags).writes() || size > OFFSET_MAX {
            return Err(Errno::EINVAL);
        }
        self.pin(ino);
        self.truncate_open(ino, size, Some((handle, owner)))
    }

    pub(super) fn truncate_open(
        &mut self,
        ino: Ino,
        size: u64,
        handle: Option<(u64, u64)>,
    ) -> Result<(), Errno> {
        self.lock(&[Lock::Inode(ino), Lock::Pages(ino)]);
        self.remove_privileges(ino)?;
        let kill_suidgid = self.kills_suidgid();
        let outcome = self.set_attr(ino, |set| {
            set.size = Some(size);
            set.handle = handle.map(|(handle, _)| FileHandle(handle));
            set.lock_owner = handle.map(|(_, owner)| LockOwner(owner));
            set.kill_suidgid = kill_suidgid;
        });
        self.unlock();
        outcome
    }
}
