//! What can be asked of the tree, as values, and the limits that hold for all of them.
//!
//! Who may do what is not asked here: the kernel checks modes, owners and capabilities before it
//! sends a request (`default_permissions`). What the kernel leaves to a filesystem is here: types,
//! names, limits, the umask and default ACLs of what is made, set-id bits and `ctime`.
//!
//! Modes are `st_mode` values: the type in the `S_IFMT` bits, permissions in the twelve below.

use crate::store::Origin;
use crate::store::event::{Data, Ino, Timestamp};

/// Longest name of one path component, in bytes (`NAME_MAX`).
pub const NAME_MAX: usize = 255;
/// Longest target of a symbolic link, in bytes (`PATH_MAX` without its NUL).
pub const TARGET_MAX: usize = 4095;
/// Most names one file can have, as on ext4. Subdirectories of a directory are not bounded.
pub const LINK_MAX: u32 = 65_000;
/// Largest size of a file, in bytes: the kernel's `MAX_LFS_FILESIZE` (2^63 - 1) cut to whole
/// chunks of 64 KiB, so that no offset within a file, rounded up, leaves the range of `off_t`.
pub const FILE_SIZE_MAX: u64 = (1 << 63) - (64 << 10);
/// Longest name of an extended attribute, in bytes, namespace included (`XATTR_NAME_MAX`).
pub const XATTR_NAME_MAX: usize = 255;
/// Largest value of an extended attribute, in bytes (`XATTR_SIZE_MAX`).
pub const XATTR_VALUE_MAX: usize = 64 << 10;
/// Most bytes the names of one inode's extended attributes take together, each with a NUL
/// (`XATTR_LIST_MAX`): more could be set but never be listed.
pub const XATTR_LIST_MAX: usize = 64 << 10;
/// Most bytes one [`Operation::Copy`] takes over that may be cut, so that a fragmented source holds up other changes for a
/// bounded time. Asking for more copies this much; programs ask again.
pub const COPY_MAX: u64 = 64 << 20;
/// Most bytes one takes over that is to be `uncut`. Every other change waits for it: 30 ms where its source was written from
/// one end to the other. What is longer comes in pieces of [`COPY_MAX`], until what is left is not.
pub const COPY_UNCUT_MAX: u64 = 1 << 30;
/// Most pieces that its source may lie in: each takes 3 µs and a kilobyte of memory, so 0.2 s and 64 MiB in all.
pub const COPY_PIECES_MAX: usize = 65_536;

/// The type bits of a mode.
pub const S_IFMT: u32 = 0o170_000;
/// A FIFO.
pub const S_IFIFO: u32 = 0o010_000;
/// A character device.
pub const S_IFCHR: u32 = 0o020_000;
/// A directory.
pub const S_IFDIR: u32 = 0o040_000;
/// A block device.
pub const S_IFBLK: u32 = 0o060_000;
/// A regular file.
pub const S_IFREG: u32 = 0o100_000;
/// A symbolic link.
pub const S_IFLNK: u32 = 0o120_000;
/// A socket.
pub const S_IFSOCK: u32 = 0o140_000;
/// Set user id on execution.
pub const S_ISUID: u32 = 0o4000;
/// Set group id on execution; on a directory: what is made in it takes its group.
pub const S_ISGID: u32 = 0o2000;
/// The sticky bit.
pub const S_ISVTX: u32 = 0o1000;
/// The bits of a mode that `chmod` sets.
pub const PERMISSIONS: u32 = 0o7777;

/// `fallocate(2)`: the size stays, even where the range ends beyond it.
pub const FALLOC_FL_KEEP_SIZE: u32 = 0x01;
/// `fallocate(2)`: the range becomes a hole; comes with [`FALLOC_FL_KEEP_SIZE`].
pub const FALLOC_FL_PUNCH_HOLE: u32 = 0x02;
/// `fallocate(2)`: the range becomes zeros.
pub const FALLOC_FL_ZERO_RANGE: u32 = 0x10;

/// Who asks.
#[derive(Clone, Copy, Debug, Default)]
pub struct Caller<'a> {
    /// Filesystem user id; owner of what is made.
    pub uid: u32,
    /// Filesystem group id; group of what is made, unless its directory hands down its own.
    pub gid: u32,
    /// Supplementary groups, as far as the kernel sent them (`FUSE_EXT_GROUPS` carries only the one
    /// that matters); `None` where it sent none.
    pub groups: Option<&'a [u32]>,
    /// Taken off the mode of what is made, unless its directory has a default ACL. 0 where the
    /// kernel has applied it already (without `FUSE_DONT_MASK`).
    pub umask: u32,
    /// Actor and request, for the event.
    pub origin: Origin,
}

/// When a time of an inode is to be.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum TimeTo {
    /// The time of the event (`UTIME_NOW`).
    Now,
    /// This time.
    At(Timestamp),
}

impl TimeTo {
    /// The time `seconds` and `nanoseconds` after 1970-01-01 00:00 UTC, drawn to the nearest time a
    /// [`Timestamp`] can hold (1677 to 2262), as `utimensat(2)` does with times a filesystem cannot hold.
    #[must_use]
    pub const fn from_parts(seconds: i64, nanoseconds: u32) -> Self {
        let time = seconds as i128 * 1_000_000_000 + nanoseconds as i128;
        Self::At(Timestamp(if time > i64::MAX as i128 {
            i64::MAX
        } else if time < i64::MIN as i128 {
            i64::MIN
        } else {
            // Within the range, as just checked.
            time as i64
        }))
    }

    /// What to store, in an event at `now`.
    #[must_use]
    pub const fn at(self, now: Timestamp) -> Timestamp {
        match self {
            Self::Now => now,
            Self::At(time) => time,
        }
    }
}

/// Attributes to set; `None` stays. All `None` and `kill_set_id` false changes nothing.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Attributes {
    /// Permissions; type bits are ignored, the inode keeps its type.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Length in bytes; regular files only.
    pub size: Option<u64>,
    /// Access time.
    pub atime: Option<TimeTo>,
    /// Modification time.
    pub mtime: Option<TimeTo>,
    /// `FATTR_KILL_SUIDGID` or `FUSE_OPEN_KILL_SUIDGID`: set-id bits go (see [`Operation`]).
    pub kill_set_id: bool,
}

/// How a rename treats the new name.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum RenameHow {
    /// What the new name names is replaced.
    #[default]
    Replace,
    /// `RENAME_NOREPLACE`: the new name must be free.
    NoReplace,
    /// `RENAME_EXCHANGE`: both names must be taken, and swap what they name.
    Exchange,
}

impl RenameHow {
    /// From the flags of `renameat2(2)`; `None` for flags that are not offered here
    /// (`RENAME_WHITEOUT`, both known flags at once, unknown ones): `EINVAL`.
    #[must_use]
    pub const fn from_flags(flags: u32) -> Option<Self> {
        match flags {
            0 => Some(Self::Replace),
            1 => Some(Self::NoReplace),
            2 => Some(Self::Exchange),
            _ => None,
        }
    }
}

/// What an inode is to be labelled with when it is made (`FUSE_SECURITY_CTX`): name and value of an attribute.
pub type Security<'a> = Option<(&'a [u8], &'a [u8])>;

/// What `setxattr(2)` expects of the attribute.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum XattrMust {
    /// Nothing.
    #[default]
    Any,
    /// `XATTR_CREATE`: it must be new.
    BeNew,
    /// `XATTR_REPLACE`: it must exist.
    Exist,
}

impl XattrMust {
    /// From the flags of `setxattr(2)`; `None` for both at once and for unknown ones: `EINVAL`.
    #[must_use]
    pub const fn from_flags(flags: u32) -> Option<Self> {
        match flags {
            0 => Some(Self::Any),
            1 => Some(Self::BeNew),
            2 => Some(Self::Exist),
            _ => None,
        }
    }
}

/// Where in a file a write begins.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum WriteTo {
    /// At this offset.
    Offset(u64),
    /// At this offset, where the write before it through the same open file ended: the bytes of both should lie side by
    /// side in the store.
    GoesOn(u64),
    /// At the beginning, and the file ends where the write does: what is written is all of it, in one event. Without
    /// bytes that is nothing, as everywhere: to empty a file is to set its size.
    Whole,
    /// At the end of the file as it is when the write is decided. The kernel resolves `O_APPEND` itself and gives
    /// the offset; this is for callers who do not go through it.
    End,
}

impl WriteTo {
    /// The offset, if it is known before the write is decided.
    pub(super) const fn offset(self) -> Option<u64> {
        match self {
            Self::Offset(offset) | Self::GoesOn(offset) => Some(offset),
            Self::Whole => Some(0),
            Self::End => None,
        }
    }
}

/// Something that may change the tree. Each becomes one event, or none.
///
/// `kill_set_id` is the kernel saying that the caller may not keep set-id bits
/// (`FUSE_HANDLE_KILLPRIV_V2`): the set-user-id bit goes, and the set-group-id bit where the group
/// may execute. For `fallocate` and `copy_file_range` the protocol has no such flag and the kernel
/// leaves the bits to us: there it is to be set unless the caller is root (`CAP_FSETID`).
/// `security.capability` goes with every write, truncation and change of owner, whatever the kernel
/// says; before `fallocate` and `copy_file_range` the kernel removes it itself (`file_modified`), and who asks without one has to.
///
/// No event is caused by: a write or copy of zero bytes, an empty [`Attributes`], a rename of a name
/// onto another name of the same inode, a [`Operation::Make`] that finds the name and is not
/// exclusive, a removal of an ACL that is not there, an end of an inode that has a name. A truncation
/// to the size the file has, and setting an attribute to the value it has, are events, since POSIX
/// moves `ctime`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Operation<'a> {
    /// `open(O_CREAT)`, `mkdir`, `mknod`: a name and a new inode of any type but a symbolic link.
    ///
    /// Refused: [`Exists`](super::Refusal::Exists) where the name is taken; without `exclusive` a
    /// regular file that has the name is the outcome instead, a directory
    /// [`IsADirectory`](super::Refusal::IsADirectory), and anything else
    /// [`Stale`](super::Refusal::Stale), so that the kernel looks it up and opens it.
    Make {
        /// Directory of the name.
        parent: Ino,
        /// The name.
        name: &'a [u8],
        /// Type and permissions as the caller gave them; without a type, a regular file.
        mode: u32,
        /// Device number; stored for devices only.
        rdev: u64,
        /// Whether a name that is taken is refused (`O_EXCL`, and all but `open`).
        exclusive: bool,
        /// The security context the kernel wants on the inode (`FUSE_SECURITY_CTX`): name and value.
        security: Security<'a>,
    },
    /// `symlink`.
    Symlink {
        /// Directory of the name.
        parent: Ino,
        /// The name.
        name: &'a [u8],
        /// Any bytes but NUL, 1 to [`TARGET_MAX`] of them.
        target: &'a [u8],
        /// As in [`Operation::Make`].
        security: Security<'a>,
    },
    /// `open(O_TMPFILE)`: a regular file without a name, which [`Operation::Link`] can give one.
    Tmpfile {
        /// Directory that hands down its group and default ACL.
        parent: Ino,
        /// Permissions as the caller gave them.
        mode: u32,
        /// As in [`Operation::Make`].
        security: Security<'a>,
    },
    /// `link`: one more name for what is no directory. Whether an inode without names may get one
    /// (`O_TMPFILE` without `O_EXCL`) is checked by the kernel (`I_LINKABLE`).
    Link {
        /// What gets the name.
        ino: Ino,
        /// Directory of the new name.
        parent: Ino,
        /// The new name.
        name: &'a [u8],
    },
    /// `unlink`: the name of anything but a directory goes.
    Unlink {
        /// Directory of the name.
        parent: Ino,
        /// The name.
        name: &'a [u8],
    },
    /// `rmdir`: the name of an empty directory goes.
    Rmdir {
        /// Directory of the name.
        parent: Ino,
        /// The name.
        name: &'a [u8],
    },
    /// `renameat2`.
    Rename {
        /// Directory of the old name.
        parent: Ino,
        /// Old name.
        name: &'a [u8],
        /// Directory of the new name.
        new_parent: Ino,
        /// New name.
        new_name: &'a [u8],
        /// What becomes of the new name.
        how: RenameHow,
    },
    /// `chmod`, `chown`, `truncate`, `utimensat`, in any combination. An access ACL is kept in step
    /// with a new mode.
    SetAttributes {
        /// Of this inode.
        ino: Ino,
        /// What to set.
        set: Attributes,
    },
    /// `write`. Ask through [`Tree::write`](super::Tree::write), which places the bytes first.
    Write {
        /// To this regular file.
        ino: Ino,
        /// Where in it.
        to: WriteTo,
        /// The bytes, placed.
        data: Data<'a>,
        /// `FUSE_WRITE_KILL_SUIDGID`.
        kill_set_id: bool,
    },
    /// `fallocate`: set aside, keep size, punch, zero; other modes are
    /// [`NotSupported`](super::Refusal::NotSupported).
    Allocate {
        /// Of this regular file.
        ino: Ino,
        /// `FALLOC_FL_*`.
        flags: u32,
        /// First byte of the range.
        offset: u64,
        /// Length of the range; 0 is [`Invalid`](super::Refusal::Invalid).
        len: u64,
        /// Whether set-id bits go.
        kill_set_id: bool,
    },
    /// `copy_file_range`: a range of `dst` becomes a reference to what `src` has there. How much was
    /// copied is in [`Outcome::len`](super::Outcome::len): cut at the end of `src`, and at
    /// [`COPY_MAX`] where it is not `uncut` or more than that allows.
    Copy {
        /// Source file.
        src: Ino,
        /// First byte in the source.
        src_offset: u64,
        /// Destination file; may be the source where the ranges do not overlap.
        dst: Ino,
        /// First byte in the destination.
        dst_offset: u64,
        /// How many bytes.
        len: u64,
        /// All of it is one event, up to [`COPY_UNCUT_MAX`] bytes and [`COPY_PIECES_MAX`] pieces: nobody sees a part of it.
        uncut: bool,
        /// The destination ends where the copy does, unless that is cut before `len`. Where there is nothing to copy,
        /// nothing ends either: to empty a file is to set its size.
        ends: bool,
        /// Whether set-id bits of the destination go.
        kill_set_id: bool,
    },
    /// `setxattr` in the namespaces `user.` (regular files and directories), `trusted.`, `security.`
    /// and the two POSIX ACLs. An ACL that says no more than a mode is stored as the mode;
    /// `user.lighthouse.*` is answered by the view and cannot be set.
    SetXattr {
        /// Of this inode.
        ino: Ino,
        /// Full name.
        name: &'a [u8],
        /// New value; of an ACL, an empty one removes it.
        value: &'a [u8],
        /// What is expected.
        must: XattrMust,
        /// `FUSE_SETXATTR_ACL_KILL_SGID`: with an access ACL, the set-group-id bit goes.
        kill_sgid: bool,
    },
    /// `removexattr`.
    RemoveXattr {
        /// Of this inode.
        ino: Ino,
        /// Full name.
        name: &'a [u8],
    },
    /// The last user of an inode without a name let it go. Nothing happens if it has a name (again).
    End {
        /// The inode.
        ino: Ino,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_out_of_range_are_drawn_to_its_ends() {
        assert_eq!(TimeTo::from_parts(-2, 5), TimeTo::At(Timestamp(-1_999_999_995)));
        assert_eq!(TimeTo::from_parts(i64::MAX, 999_999_999), TimeTo::At(Timestamp(i64::MAX)));
        assert_eq!(TimeTo::from_parts(i64::MIN, 0), TimeTo::At(Timestamp(i64::MIN)));
        assert_eq!(TimeTo::from_parts(0, u32::MAX), TimeTo::At(Timestamp(4_294_967_295)));
    }

    #[test]
    fn rename_flags_that_are_not_offered_are_none() {
        let offered: Vec<u32> = (0..16).filter(|&f| RenameHow::from_flags(f).is_some()).collect();
        assert_eq!(offered, [0, 1, 2]);
    }
}
