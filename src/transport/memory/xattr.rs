//! Extended attributes: who may, and what the kernel makes of the answers.

use crate::proto::abi::*;
use crate::proto::op::{GetXattr, ListXattr, Op, RemoveXattr, SetXattr};
use crate::proto::types::{Errno, NameError, XattrName};

use super::call::{Call, Lock, MAY_READ, MAY_WRITE};
use super::inode::{Ino, S_ISVTX, STATX_BASIC, STATX_CTIME};

/// XATTR_SIZE_MAX and XATTR_LIST_MAX of limits.h.
const SIZE_MAX: usize = 65536;
const ACCESS_ACL: &[u8] = b"system.posix_acl_access";
const DEFAULT_ACL: &[u8] = b"system.posix_acl_default";

/// The name, or why it cannot be one.
fn checked(name: &[u8]) -> Result<XattrName<'_>, Errno> {
    XattrName::new(name).map_err(|err| match err {
        NameError::Malformed | NameError::TooLong => Errno::ERANGE,
    })
}

impl Call<'_> {
    /// `xattr_permission`: by namespace, then by mode.
    fn may_use_xattr(&mut self, ino: Ino, name: &[u8], mask: u32) -> Result<(), Errno> {
        let refusal = if mask == MAY_WRITE { Errno::EPERM } else { Errno::ENODATA };
        if name.starts_with(b"security.") || name.starts_with(b"system.") {
            return Ok(());
        }
        if name.starts_with(b"trusted.") {
            return if self.who.is_root() { Ok(()) } else { Err(refusal) };
        }
        if name.starts_with(b"user.") {
            let inode = self.st.inode(ino);
            if !inode.is_file() && !inode.is_dir() {
                return Err(refusal);
            }
            let sticky = inode.is_dir() && inode.attr.mode & S_ISVTX != 0;
            if sticky && mask == MAY_WRITE && !self.owns(ino) {
                return Err(Errno::EPERM);
            }
        }
        self.permit(ino, mask)
    }

    pub(super) fn set_xattr(
        &mut self,
        ino: Ino,
        name: &[u8],
        value: &[u8],
        flags: u32,
    ) -> Result<(), Errno> {
        let checked = checked(name)?;
        if flags & !3 != 0 {
            return Err(Errno::EINVAL);
        }
        if value.len() > SIZE_MAX {
            return Err(Errno::E2BIG);
        }
        self.check_good(ino)?;
        self.lock(&[Lock::Inode(ino)]);
        let is_acl = name == ACCESS_ACL || name == DEFAULT_ACL;
        let acls = self.st.connection.has(FUSE_POSIX_ACL);
        if is_acl && acls {
            if !self.owns(ino) {
                return Err(Errno::EPERM);
            }
        } else {
            self.may_use_xattr(ino, name, MAY_WRITE)?;
        }
        if self.st.connection.no_setxattr {
            return Err(Errno::EOPNOTSUPP);
        }
        let gid = self.st.inode(ino).attr.gid;
        let acl_kill_sgid = acls
            && name == ACCESS_ACL
            && self.st.connection.has(FUSE_SETXATTR_EXT)
            && !self.who.is_root()
            && !self.who.is_in_group(gid);
        let op = Op::SetXattr(SetXattr {
            node: self.node(ino),
            name: checked,
            value,
            flags,
            acl_kill_sgid,
        });
        match self.ask(&op) {
            Err(Errno::ENOSYS) => {
                self.st.connection.no_setxattr = true;
                return Err(Errno::EOPNOTSUPP);
            }
            result => result?,
        };
        self.xattr_changed(ino, name);
        Ok(())
    }

    fn xattr_changed(&mut self, ino: Ino, name: &[u8]) {
        let inode = self.st.inode_mut(ino);
        inode.doubt(STATX_CTIME);
        if name.starts_with(b"security.") {
            inode.no_privileges = false;
        }
        if name == ACCESS_ACL || name == DEFAULT_ACL {
            inode.acl = None;
            inode.doubt(STATX_BASIC);
        }
    }

    /// The value, or with `size` 0 as many zeros as it is long.
    pub(super) fn xattr(&mut self, ino: Ino, name: &[u8], size: usize) -> Result<Vec<u8>, Errno> {
        let checked = checked(name)?;
        self.check_good(ino)?;
        self.may_use_xattr(ino, name, MAY_READ)?;
        if self.st.connection.no_getxattr {
            return Err(Errno::EOPNOTSUPP);
        }
        let node = self.node(ino);
        let size = u32::try_from(size.min(SIZE_MAX)).map_err(|_| Errno::EINVAL)?;
        let answer = self.ask(&Op::GetXattr(GetXattr { node, name: checked, size }));
        if answer == Err(Errno::ENOSYS) {
            self.st.connection.no_getxattr = true;
            return Err(Errno::EOPNOTSUPP);
        }
        Ok(sized(answer?, size))
    }

    /// Names, each ended by NUL, or with `size` 0 as many zeros as they are long.
    pub(super) fn xattr_names(&mut self, ino: Ino, size: usize) -> Result<Vec<u8>, Errno> {
        self.check_good(ino)?;
        self.may_use_mount()?;
        if self.st.connection.no_listxattr {
            return Err(Errno::EOPNOTSUPP);
        }
        let node = self.node(ino);
        let size = u32::try_from(size.min(SIZE_MAX)).map_err(|_| Errno::EINVAL)?;
        let answer = self.ask(&Op::ListXattr(ListXattr { node, size }));
        if answer == Err(Errno::ENOSYS) {
            self.st.connection.no_listxattr = true;
            return Err(Errno::EOPNOTSUPP);
        }
        let list = sized(answer?, size);
        if size > 0 && !list.is_empty() {
            let names = list.strip_suffix(&[0]);
            let whole = names
                .is_some_and(|names| names.split(|byte| *byte == 0).all(|name| !name.is_empty()));
            if !whole {
                return Err(
                    self.refused(FUSE_LISTXATTR, "names that are empty or not ended by NUL")
                );
            }
        }
        Ok(list)
    }

    pub(super) fn remove_xattr(&mut self, ino: Ino, name: &[u8]) -> Result<(), Errno> {
        let checked = checked(name)?;
        self.check_good(ino)?;
        self.lock(&[Lock::Inode(ino)]);
        let is_acl = name == ACCESS_ACL || name == DEFAULT_ACL;
        if is_acl && self.st.connection.has(FUSE_POSIX_ACL) {
            if !self.owns(ino) {
                return Err(Errno::EPERM);
            }
        } else {
            self.may_use_xattr(ino, name, MAY_WRITE)?;
        }
        if self.st.connection.no_removexattr {
            return Err(Errno::EOPNOTSUPP);
        }
        let node = self.node(ino);
        match self.ask(&Op::RemoveXattr(RemoveXattr { node, name: checked })) {
            Err(Errno::ENOSYS) => {
                self.st.connection.no_removexattr = true;
                return Err(Errno::EOPNOTSUPP);
            }
            result => result?,
        };
        self.xattr_changed(ino, name);
        Ok(())
    }
}

/// The answer itself, or zeros of the length it tells.
fn sized(answer: Vec<u8>, size: u32) -> Vec<u8> {
    if size > 0 {
        return answer;
    }
    let len = answer
        .first_chunk::<4>()
        .map_or(0, |bytes| usize::try_from(u32::from_ne_bytes(*bytes)).unwrap_or(0));
    vec![0; len.min(SIZE_MAX)]
}
