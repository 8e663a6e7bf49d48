//! The kernel's side of the wire: `include/uapi/linux/fuse.h` at ABI 7.45, under the kernel's
//! names.
//!
//! Read it beside the header: a struct here has the header's fields in the header's order, and its
//! size is asserted. Integers are in the byte order of the machine, which the kernel shares with
//! us. A flexible array at the end of a struct is left out, as its elements follow the struct.
//!
//! Invariants: every struct is `#[repr(C)]` without hidden padding, so all its bytes are
//! initialised and any bytes are a valid value.
#![allow(
    non_camel_case_types,
    reason = "the kernel's names, so that fuse.h and this file read side by side"
)]
#![allow(
    missing_docs,
    reason = "fields and constants are the kernel's; their meaning is told where `op` and `reply` use them"
)]

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The only major version there has been since 2005.
pub const FUSE_KERNEL_VERSION: u32 = 7;
/// The newest minor version this file knows.
pub const FUSE_KERNEL_MINOR_VERSION: u32 = 45;
/// The node id of the root, which is never looked up.
pub const FUSE_ROOT_ID: u64 = 1;

// Which fields of `fuse_setattr_in` count: `valid`.
pub const FATTR_MODE: u32 = 1 << 0;
pub const FATTR_UID: u32 = 1 << 1;
pub const FATTR_GID: u32 = 1 << 2;
pub const FATTR_SIZE: u32 = 1 << 3;
pub const FATTR_ATIME: u32 = 1 << 4;
pub const FATTR_MTIME: u32 = 1 << 5;
pub const FATTR_FH: u32 = 1 << 6;
pub const FATTR_ATIME_NOW: u32 = 1 << 7;
pub const FATTR_MTIME_NOW: u32 = 1 << 8;
pub const FATTR_LOCKOWNER: u32 = 1 << 9;
pub const FATTR_CTIME: u32 = 1 << 10;
pub const FATTR_KILL_SUIDGID: u32 = 1 << 11;

// What a reply to OPEN, OPENDIR, CREATE or TMPFILE allows: `fuse_open_out::open_flags`.
pub const FOPEN_DIRECT_IO: u32 = 1 << 0;
pub const FOPEN_KEEP_CACHE: u32 = 1 << 1;
pub const FOPEN_NONSEEKABLE: u32 = 1 << 2;
pub const FOPEN_CACHE_DIR: u32 = 1 << 3;
pub const FOPEN_STREAM: u32 = 1 << 4;
pub const FOPEN_NOFLUSH: u32 = 1 << 5;
pub const FOPEN_PARALLEL_DIRECT_WRITES: u32 = 1 << 6;
pub const FOPEN_PASSTHROUGH: u32 = 1 << 7;

// INIT: what either side can do. Bits 32 and up travel in `flags2`, shifted down, if FUSE_INIT_EXT
// is set. `connection` says of each why it is asked for or not.
pub const FUSE_ASYNC_READ: u64 = 1 << 0;
pub const FUSE_POSIX_LOCKS: u64 = 1 << 1;
pub const FUSE_FILE_OPS: u64 = 1 << 2;
pub const FUSE_ATOMIC_O_TRUNC: u64 = 1 << 3;
pub const FUSE_EXPORT_SUPPORT: u64 = 1 << 4;
pub const FUSE_BIG_WRITES: u64 = 1 << 5;
pub const FUSE_DONT_MASK: u64 = 1 << 6;
pub const FUSE_SPLICE_WRITE: u64 = 1 << 7;
pub const FUSE_SPLICE_MOVE: u64 = 1 << 8;
pub const FUSE_SPLICE_READ: u64 = 1 << 9;
pub const FUSE_FLOCK_LOCKS: u64 = 1 << 10;
pub const FUSE_HAS_IOCTL_DIR: u64 = 1 << 11;
pub const FUSE_AUTO_INVAL_DATA: u64 = 1 << 12;
pub const FUSE_DO_READDIRPLUS: u64 = 1 << 13;
pub const FUSE_READDIRPLUS_AUTO: u64 = 1 << 14;
pub const FUSE_ASYNC_DIO: u64 = 1 << 15;
pub const FUSE_WRITEBACK_CACHE: u64 = 1 << 16;
pub const FUSE_NO_OPEN_SUPPORT: u64 = 1 << 17;
pub const FUSE_PARALLEL_DIROPS: u64 = 1 << 18;
pub const FUSE_HANDLE_KILLPRIV: u64 = 1 << 19;
pub const FUSE_POSIX_ACL: u64 = 1 << 20;
pub const FUSE_ABORT_ERROR: u64 = 1 << 21;
pub const FUSE_MAX_PAGES: u64 = 1 << 22;
pub const FUSE_CACHE_SYMLINKS: u64 = 1 << 23;
pub const FUSE_NO_OPENDIR_SUPPORT: u64 = 1 << 24;
pub const FUSE_EXPLICIT_INVAL_DATA: u64 = 1 << 25;
pub const FUSE_MAP_ALIGNMENT: u64 = 1 << 26;
pub const FUSE_SUBMOUNTS: u64 = 1 << 27;
pub const FUSE_HANDLE_KILLPRIV_V2: u64 = 1 << 28;
pub const FUSE_SETXATTR_EXT: u64 = 1 << 29;
pub const FUSE_INIT_EXT: u64 = 1 << 30;
pub const FUSE_INIT_RESERVED: u64 = 1 << 31;
pub const FUSE_SECURITY_CTX: u64 = 1 << 32;
pub const FUSE_HAS_INODE_DAX: u64 = 1 << 33;
pub const FUSE_CREATE_SUPP_GROUP: u64 = 1 << 34;
pub const FUSE_HAS_EXPIRE_ONLY: u64 = 1 << 35;
pub const FUSE_DIRECT_IO_ALLOW_MMAP: u64 = 1 << 36;
pub const FUSE_PASSTHROUGH: u64 = 1 << 37;
pub const FUSE_NO_EXPORT_SUPPORT: u64 = 1 << 38;
pub const FUSE_HAS_RESEND: u64 = 1 << 39;
pub const FUSE_ALLOW_IDMAP: u64 = 1 << 40;
pub const FUSE_OVER_IO_URING: u64 = 1 << 41;
pub const FUSE_REQUEST_TIMEOUT: u64 = 1 << 42;

/// CUSE_INIT: the device takes any ioctl.
pub const CUSE_UNRESTRICTED_IOCTL: u32 = 1 << 0;

// `fuse_release_in::release_flags`.
pub const FUSE_RELEASE_FLUSH: u32 = 1 << 0;
pub const FUSE_RELEASE_FLOCK_UNLOCK: u32 = 1 << 1;

/// `fuse_getattr_in::getattr_flags`: `fh` is an open handle.
pub const FUSE_GETATTR_FH: u32 = 1 << 0;

/// `fuse_lk_in::lk_flags`: flock(2), not fcntl(2).
pub const FUSE_LK_FLOCK: u32 = 1 << 0;

// `fuse_write_in::write_flags`.
pub const FUSE_WRITE_CACHE: u32 = 1 << 0;
pub const FUSE_WRITE_LOCKOWNER: u32 = 1 << 1;
pub const FUSE_WRITE_KILL_SUIDGID: u32 = 1 << 2;

/// `fuse_read_in::read_flags`: `lock_owner` counts.
pub const FUSE_READ_LOCKOWNER: u32 = 1 << 1;

// `fuse_ioctl_in::flags` and `fuse_ioctl_out::flags`.
pub const FUSE_IOCTL_COMPAT: u32 = 1 << 0;
pub const FUSE_IOCTL_UNRESTRICTED: u32 = 1 << 1;
pub const FUSE_IOCTL_RETRY: u32 = 1 << 2;
pub const FUSE_IOCTL_32BIT: u32 = 1 << 3;
pub const FUSE_IOCTL_DIR: u32 = 1 << 4;
pub const FUSE_IOCTL_COMPAT_X32: u32 = 1 << 5;
/// How many `fuse_ioctl_iovec` a retry may ask for, in and out together.
pub const FUSE_IOCTL_MAX_IOV: usize = 256;

/// `fuse_poll_in::flags`: the caller waits, so tell it when something is ready.
pub const FUSE_POLL_SCHEDULE_NOTIFY: u32 = 1 << 0;

/// `fuse_fsync_in::fsync_flags`: data only.
pub const FUSE_FSYNC_FDATASYNC: u32 = 1 << 0;

// `fuse_attr::flags`.
pub const FUSE_ATTR_SUBMOUNT: u32 = 1 << 0;
pub const FUSE_ATTR_DAX: u32 = 1 << 1;

/// `open_flags` of OPEN, CREATE: clear set-id bits.
pub const FUSE_OPEN_KILL_SUIDGID: u32 = 1 << 0;

/// `fuse_setxattr_in::setxattr_flags`: clear the set-group-id bit.
pub const FUSE_SETXATTR_ACL_KILL_SGID: u32 = 1 << 0;

/// `fuse_notify_inval_entry_out::flags`: the name is to be looked up again, not dropped.
pub const FUSE_EXPIRE_ONLY: u32 = 1 << 0;

// `fuse_ext_header::type`.
pub const FUSE_MAX_NR_SECCTX: u32 = 31;
pub const FUSE_EXT_GROUPS: u32 = 32;

// Operations: `fuse_in_header::opcode`.
pub const FUSE_LOOKUP: u32 = 1;
pub const FUSE_FORGET: u32 = 2;
pub const FUSE_GETATTR: u32 = 3;
pub const FUSE_SETATTR: u32 = 4;
pub const FUSE_READLINK: u32 = 5;
pub const FUSE_SYMLINK: u32 = 6;
pub const FUSE_MKNOD: u32 = 8;
pub const FUSE_MKDIR: u32 = 9;
pub const FUSE_UNLINK: u32 = 10;
pub const FUSE_RMDIR: u32 = 11;
pub const FUSE_RENAME: u32 = 12;
pub const FUSE_LINK: u32 = 13;
pub const FUSE_OPEN: u32 = 14;
pub const FUSE_READ: u32 = 15;
pub const FUSE_WRITE: u32 = 16;
pub const FUSE_STATFS: u32 = 17;
pub const FUSE_RELEASE: u32 = 18;
pub const FUSE_FSYNC: u32 = 20;
pub const FUSE_SETXATTR: u32 = 21;
pub const FUSE_GETXATTR: u32 = 22;
pub const FUSE_LISTXATTR: u32 = 23;
pub const FUSE_REMOVEXATTR: u32 = 24;
pub const FUSE_FLUSH: u32 = 25;
pub const FUSE_INIT: u32 = 26;
pub const FUSE_OPENDIR: u32 = 27;
pub const FUSE_READDIR: u32 = 28;
pub const FUSE_RELEASEDIR: u32 = 29;
pub const FUSE_FSYNCDIR: u32 = 30;
pub const FUSE_GETLK: u32 = 31;
pub const FUSE_SETLK: u32 = 32;
pub const FUSE_SETLKW: u32 = 33;
pub const FUSE_ACCESS: u32 = 34;
pub const FUSE_CREATE: u32 = 35;
pub const FUSE_INTERRUPT: u32 = 36;
pub const FUSE_BMAP: u32 = 37;
pub const FUSE_DESTROY: u32 = 38;
pub const FUSE_IOCTL: u32 = 39;
pub const FUSE_POLL: u32 = 40;
pub const FUSE_NOTIFY_REPLY: u32 = 41;
pub const FUSE_BATCH_FORGET: u32 = 42;
pub const FUSE_FALLOCATE: u32 = 43;
pub const FUSE_READDIRPLUS: u32 = 44;
pub const FUSE_RENAME2: u32 = 45;
pub const FUSE_LSEEK: u32 = 46;
pub const FUSE_COPY_FILE_RANGE: u32 = 47;
pub const FUSE_SETUPMAPPING: u32 = 48;
pub const FUSE_REMOVEMAPPING: u32 = 49;
pub const FUSE_SYNCFS: u32 = 50;
pub const FUSE_TMPFILE: u32 = 51;
pub const FUSE_STATX: u32 = 52;
pub const FUSE_COPY_FILE_RANGE_64: u32 = 53;
pub const CUSE_INIT: u32 = 4096;
pub const CUSE_INIT_BSWAP_RESERVED: u32 = 1048576;
pub const FUSE_INIT_BSWAP_RESERVED: u32 = 436207616;

// Notifications: `fuse_out_header::error` where `unique` is 0.
pub const FUSE_NOTIFY_POLL: i32 = 1;
pub const FUSE_NOTIFY_INVAL_INODE: i32 = 2;
pub const FUSE_NOTIFY_INVAL_ENTRY: i32 = 3;
pub const FUSE_NOTIFY_STORE: i32 = 4;
pub const FUSE_NOTIFY_RETRIEVE: i32 = 5;
pub const FUSE_NOTIFY_DELETE: i32 = 6;
pub const FUSE_NOTIFY_RESEND: i32 = 7;
pub const FUSE_NOTIFY_INC_EPOCH: i32 = 8;
pub const FUSE_NOTIFY_PRUNE: i32 = 9;

/// The least the kernel accepts as a buffer for read(2) on the device, in bytes.
pub const FUSE_MIN_READ_BUFFER: usize = 8192;

// Sizes of structs before they grew.
pub const FUSE_COMPAT_ENTRY_OUT_SIZE: usize = 120;
pub const FUSE_COMPAT_ATTR_OUT_SIZE: usize = 96;
pub const FUSE_COMPAT_MKNOD_IN_SIZE: usize = 8;
pub const FUSE_COMPAT_WRITE_IN_SIZE: usize = 24;
pub const FUSE_COMPAT_STATFS_SIZE: usize = 48;
pub const FUSE_COMPAT_SETXATTR_IN_SIZE: usize = 8;
pub const FUSE_COMPAT_INIT_OUT_SIZE: usize = 8;
pub const FUSE_COMPAT_22_INIT_OUT_SIZE: usize = 24;
pub const CUSE_INIT_INFO_MAX: usize = 4096;

/// In `fuse_in_header::unique`: the request was sent before, to a reader that is gone (7.40).
pub const FUSE_UNIQUE_RESEND: u64 = 1 << 63;
/// In `fuse_in_header::{uid, gid}`: not told, which FUSE_ALLOW_IDMAP makes usual (7.41).
pub const FUSE_INVALID_UIDGID: u32 = u32::MAX;

// `fuse_setupmapping_in::flags`.
pub const FUSE_SETUPMAPPING_FLAG_WRITE: u64 = 1 << 0;
pub const FUSE_SETUPMAPPING_FLAG_READ: u64 = 1 << 1;

// Ioctls of `/dev/fuse`, as `_IOR`, `_IOW` and `_IO` of asm-generic/ioctl.h make their numbers.
pub const FUSE_DEV_IOC_MAGIC: u32 = 229;
pub const FUSE_DEV_IOC_CLONE: u32 = ioctl_number(2, 0, size_of::<u32>());
pub const FUSE_DEV_IOC_BACKING_OPEN: u32 = ioctl_number(1, 1, size_of::<fuse_backing_map>());
pub const FUSE_DEV_IOC_BACKING_CLOSE: u32 = ioctl_number(1, 2, size_of::<u32>());
pub const FUSE_DEV_IOC_SYNC_INIT: u32 = ioctl_number(0, 3, 0);
const _: () = assert!(FUSE_DEV_IOC_CLONE == 0x8004_e500);
const _: () = assert!(FUSE_DEV_IOC_BACKING_OPEN == 0x4010_e501);
const _: () = assert!(FUSE_DEV_IOC_BACKING_CLOSE == 0x4004_e502);
const _: () = assert!(FUSE_DEV_IOC_SYNC_INIT == 0xe503);

/// `direction` is 1 if the kernel reads the argument and 2 if it writes it; `size` is the
/// argument's.
const fn ioctl_number(direction: u32, number: u32, size: usize) -> u32 {
    assert!(size < 1 << 14);
    (direction << 30) | ((size as u32) << 16) | (FUSE_DEV_IOC_MAGIC << 8) | number
}

/// Rounds `len` up to the 8 bytes that records of variable length are aligned to.
pub const fn fuse_rec_align(len: usize) -> usize {
    len.next_multiple_of(size_of::<u64>())
}

// The ring: sizes, and commands in `cmd_op` of a submission (7.42).
pub const FUSE_URING_IN_OUT_HEADER_SZ: usize = 128;
pub const FUSE_URING_OP_IN_OUT_SZ: usize = 128;
pub const FUSE_IO_URING_CMD_INVALID: u32 = 0;
pub const FUSE_IO_URING_CMD_REGISTER: u32 = 1;
pub const FUSE_IO_URING_CMD_COMMIT_AND_FETCH: u32 = 2;

/// What a file is: the attributes behind stat(2), in every reply that carries them.
#[derive(Clone, Copy, Debug, Eq, PartialEq, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct fuse_attr {
    pub ino: u64,
    pub size: u64,
    pub blocks: u64,
    pub atime: u64,
    pub mtime: u64,
    pub ctime: u64,
    pub atimensec: u32,
    pub mtimensec: u32,
    pub ctimensec: u32,
    pub mode: u32,
    pub nlink: u32,
    pub uid: u32,
    pub gid: u32,
    pub rdev: u32,
    pub blksize: u32,
    pub flags: u32,
}
const _: () = assert!(size_of::<fuse_attr>() == 88);

/// A time as statx(2) has it: signed seconds, and nanoseconds below 1,000,000,000.
#[derive(Clone, Copy, Debug, Eq, PartialEq, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct fuse_sx_time {
    pub tv_sec: i64,
    pub tv_nsec: u32,
    pub __reserved: i32,
}
const _: () = assert!(size_of::<fuse_sx_time>() == 16);

/// The answer of statx(2), bit for bit `struct statx` (7.39).
#[derive(Clone, Copy, Debug, Eq, PartialEq, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct fuse_statx {
    pub mask: u32,
    pub blksize: u32,
    pub attributes: u64,
    pub nlink: u32,
    pub uid: u32,
    pub gid: u32,
    pub mode: u16,
    pub __spare0: [u16; 1],
    pub ino: u64,
    pub size: u64,
    pub blocks: u64,
    pub attributes_mask: u64,
    pub atime: fuse_sx_time,
    pub btime: fuse_sx_time,
    pub ctime: fuse_sx_time,
    pub mtime: fuse_sx_time,
    pub rdev_major: u32,
    pub rdev_minor: u32,
    pub dev_major: u32,
    pub dev_minor: u32,
    pub __spare2: [u64; 14],
}
const _: () = assert!(size_of::<fuse_statx>() == 256);

/// Totals of a filesystem, as statfs(2) has them; blocks are counted in `frsize` bytes.
#[derive(Clone, Copy, Debug, Eq, PartialEq, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct fuse_kstatfs {
    pub blocks: u64,
    pub bfree: u64,
    pub bavail: u64,
    pub files: u64,
    pub ffree: u64,
    pub bsize: u32,
    pub namelen: u32,
    pub frsize: u32,
    pub padding: u32,
    pub spare: [u32; 6],
}
const _: () = assert!(size_of::<fuse_kstatfs>() == 80);

/// A byte-range lock: `start` to `end`, both included; `type` is F_RDLCK, F_WRLCK or F_UNLCK.
#[derive(Clone, Copy, Debug, Eq, PartialEq, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct fuse_file_lock {
    pub start: u64,
    pub end: u64,
    pub r#type: u32,
    pub pid: u32,
}
const _: () = assert!(size_of::<fuse_file_lock>() == 24);

/// A name's inode, its attributes, and how long the kernel may believe both. `nodeid` 0: no such
/// name.
#[derive(Clone, Copy, Debug, Eq, PartialEq, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct fuse_entry_out {
    pub nodeid: u64,
    pub generation: u64,
    pub entry_valid: u64,
    pub attr_valid: u64,
    pub entry_valid_nsec: u32,
    pub attr_valid_nsec: u32,
    pub attr: fuse_attr,
}
const _: () = assert!(size_of::<fuse_entry_out>() == 128);

/// FORGET: `nlookup` references are dropped.
#[derive(Clone, Copy, Debug, Eq, PartialEq, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct fuse_forget_in {
    pub nlookup: u64,
}
const _: () = assert!(size_of::<fuse_forget_in>() == 8);

/// One element of BATCH_FORGET.
#[derive(Clone, Copy, Debug, Eq, PartialEq, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct fuse_forget_one {
    pub nodeid: u64,
    pub nlookup: u64,
}
const _: () = assert!(size_of::<fuse_forget_one>() == 16);

/// BATCH_FORGET: `count` [`fuse_forget_one`] follow (7.16).
#[derive(Clone, Copy, Debug, Eq, PartialEq, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct fuse_batch_forget_in {
    pub count: u32,
    pub dummy: u32,
}
const _: () = assert!(size_of::<fuse_batch_forget_in>() == 8);

/// GETATTR: `fh` counts if `getattr_flags` has [`FUSE_GETATTR_FH`].
#[derive(Clone, Copy, Debug, Eq, PartialEq, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct fuse_getattr_in {
    pub getattr_flags: u32,
    pub dummy: u32,
    pub fh: u64,
}
const _: () = assert!(size_of::<fuse_getattr_in>() == 16);

/// Attributes, and how long the kernel may believe them.
#[derive(Clone, Copy, Debug, Eq, PartialEq, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct fuse_attr_out {
    pub attr_valid: u64,
    pub attr_valid_nsec: u32,
    pub dummy: u32,
    pub attr: fuse_attr,
}
const _: () = assert!(size_of::<fuse_attr_out>() == 104);

/// STATX: `sx_flags` and `sx_mask` as statx(2) got them (7.39).
#[derive(Clone, Copy, Debug, Eq, PartialEq, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct fuse_statx_in {
    pub getattr_flags: u32,
    pub reserved: u32,
    pub fh: u64,
    pub sx_flags: u32,
    pub sx_mask: u32,
}
const _: () = assert!(size_of::<fuse_statx_in>() == 24);

/// The answer to STATX.
#[derive(Clone, Copy, Debug, Eq, PartialEq, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct fuse_statx_out {
    pub attr_valid: u64,
    pub attr_valid_nsec: u32,
    pub flags: u32,
    pub spare: [u64; 2],
    pub stat: fuse_statx,
}
const _: () = assert!(size_of::<fuse_statx_out>() == 288);

/// MKNOD: a name follows.
#[derive(Clone, Copy, Debug, Eq, PartialEq, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct fuse_mknod_in {
    pub mode: u32,
    pub rdev: u32,
    pub umask: u32,
    pub padding: u32,
}
const _: () = assert!(size_of::<fuse_mknod_in>() == 16);

/// MKDIR: a name follows.
#[derive(Clone, Copy, Debug, Eq, PartialEq, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct fuse_mkdir_in {
    pub mode: u32,
    pub umask: u32,
}
const _: () = assert!(size_of::<fuse_mkdir_in>() == 8);

/// RENAME: the old name and the new name follow.
#[derive(Clone, Copy, Debug, Eq, PartialEq, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct fuse_rename_in {
    pub newdir: u64,
}
const _: () = assert!(size_of::<fuse_rename_in>() == 8);

/// RENAME2: as RENAME, with the flags of renameat2(2) (7.23).
#[derive(Clone, Copy, Debug, Eq, PartialEq, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct fuse_rename2_in {
    pub newdir: u64,
    pub flags: u32,
    pub padding: u32,
}
const _: () = assert!(size_of::<fuse_rename2_in>() == 16);

/// LINK: the new name follows; its directory is the header's node.
#[derive(Clone, Copy, Debug, Eq, PartialEq, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct fuse_link_in {
    pub oldnodeid: u64,
}
const _: () = assert!(size_of::<fuse_link_in>() == 8);

/// SETATTR: `valid` (FATTR_*) says which of the other fields count.
#[derive(Clone, Copy, Debug, Eq, PartialEq, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct fuse_setattr_in {
    pub valid: u32,
    pub padding: u32,
    pub fh: u64,
    pub size: u64,
    pub lock_owner: u64,
    pub atime: u64,
    pub mtime: u64,
    pub ctime: u64,
    pub atimensec: u32,
    pub mtimensec: u32,
    pub ctimensec: u32,
    pub mode: u32,
    pub unused4: u32,
    pub uid: u32,
    pub gid: u32,
    pub unused5: u32,
}
const _: () = assert!(size_of::<fuse_setattr_in>() == 88);

/// OPEN and OPENDIR: `flags` of open(2), `open_flags` FUSE_OPEN_*.
#[derive(Clone, Copy, Debug, Eq, PartialEq, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct fuse_open_in {
    pub flags: u32,
    pub open_flags: u32,
}
const _: () = assert!(size_of::<fuse_open_in>() == 8);

/// CREATE and TMPFILE: a name follows.
#[derive(Clone, Copy, Debug, Eq, PartialEq, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct fuse_create_in {
    pub flags: u32,
    pub mode: u32,
    pub umask: u32,
    pub open_flags: u32,
}
const _: () = assert!(size_of::<fuse_create_in>() == 16);

/// A file handle and its FOPEN_* flags.
#[derive(Clone, Copy, Debug, Eq, PartialEq, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct fuse_open_out {
    pub fh: u64,
    pub open_flags: u32,
    pub backing_id: i32,
}
const _: () = assert!(size_of::<fuse_open_out>() == 16);

/// RELEASE and RELEASEDIR.
#[derive(Clone, Copy, Debug, Eq, PartialEq, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct fuse_release_in {
    pub fh: u64,
    pub flags: u32,
    pub release_flags: u32,
    pub lock_owner: u64,
}
const _: () = assert!(size_of::<fuse_release_in>() == 24);

/// FLUSH.
#[derive(Clone, Copy, Debug, Eq, PartialEq, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct fuse_flush_in {
    pub fh: u64,
    pub unused: u32,
    pub padding: u32,
    pub lock_owner: u64,
}
const _: () = assert!(size_of::<fuse_flush_in>() == 24);

/// READ, READDIR and READDIRPLUS.
#[derive(Clone, Copy, Debug, Eq, PartialEq, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct fuse_read_in {
    pub fh: u64,
    pub offset: u64,
    pub size: u32,
    pub read_flags: u32,
    pub lock_owner: u64,
    pub flags: u32,
    pub padding: u32,
}
const _: () = assert!(size_of::<fuse_read_in>() == 40);

/// WRITE: `size` bytes follow.
#[derive(Clone, Copy, Debug, Eq, PartialEq, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct fuse_write_in {
    pub fh: u64,
    pub offset: u64,
    pub size: u32,
    pub write_flags: u32,
    pub lock_owner: u64,
    pub flags: u32,
    pub padding: u32,
}
const _: () = assert!(size_of::<fuse_write_in>() == 40);

/// How many bytes were written.
#[derive(Clone, Copy, Debug, Eq, PartialEq, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct fuse_write_out {
    pub size: u32,
    pub padding: u32,
}
const _: () = assert!(size_of::<fuse_write_out>() == 8);

/// The answer to STATFS.
#[derive(Clone, Copy, Debug, Eq, PartialEq, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct fuse_statfs_out {
    pub st: fuse_kstatfs,
}
const _: () = assert!(size_of::<fuse_statfs_out>() == 80);

/// FSYNC and FSYNCDIR.
#[derive(Clone, Copy, Debug, Eq, PartialEq, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct fuse_fsync_in {
    pub fh: u64,
    pub fsync_flags: u32,
    pub padding: u32,
}
const _: () = assert!(size_of::<fuse_fsync_in>() == 16);

/// SETXATTR: a name and `size` bytes follow. Only the first 8 bytes are sent without
/// FUSE_SETXATTR_EXT.
#[derive(Clone, Copy, Debug, Eq, PartialEq, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct fuse_setxattr_in {
    pub size: u32,
    pub flags: u32,
    pub setxattr_flags: u32,
    pub padding: u32,
}
const _: () = assert!(size_of::<fuse_setxattr_in>() == 16);

/// GETXATTR (a name follows) and LISTXATTR.
#[derive(Clone, Copy, Debug, Eq, PartialEq, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct fuse_getxattr_in {
    pub size: u32,
    pub padding: u32,
}
const _: () = assert!(size_of::<fuse_getxattr_in>() == 8);

/// How large a value or list is, for a caller who asked with size 0.
#[derive(Clone, Copy, Debug, Eq, PartialEq, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct fuse_getxattr_out {
    pub size: u32,
    pub padding: u32,
}
const _: () = assert!(size_of::<fuse_getxattr_out>() == 8);

/// GETLK, SETLK and SETLKW.
#[derive(Clone, Copy, Debug, Eq, PartialEq, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct fuse_lk_in {
    pub fh: u64,
    pub owner: u64,
    pub lk: fuse_file_lock,
    pub lk_flags: u32,
    pub padding: u32,
}
const _: () = assert!(size_of::<fuse_lk_in>() == 48);

/// The lock that stands in the way, or F_UNLCK.
#[derive(Clone, Copy, Debug, Eq, PartialEq, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct fuse_lk_out {
    pub lk: fuse_file_lock,
}
const _: () = assert!(size_of::<fuse_lk_out>() == 24);

/// ACCESS: `mask` of access(2).
#[derive(Clone, Copy, Debug, Eq, PartialEq, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct fuse_access_in {
    pub mask: u32,
    pub padding: u32,
}
const _: () = assert!(size_of::<fuse_access_in>() == 8);

/// INIT. Before 7.36 only the first 16 bytes are sent.
#[derive(Clone, Copy, Debug, Eq, PartialEq, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct fuse_init_in {
    pub major: u32,
    pub minor: u32,
    pub max_readahead: u32,
    pub flags: u32,
    pub flags2: u32,
    pub unused: [u32; 11],
}
const _: () = assert!(size_of::<fuse_init_in>() == 64);

/// The answer to INIT: 64 bytes, or the first 24 below 7.23, or 8 below 7.5.
#[derive(Clone, Copy, Debug, Eq, PartialEq, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct fuse_init_out {
    pub major: u32,
    pub minor: u32,
    pub max_readahead: u32,
    pub flags: u32,
    pub max_background: u16,
    pub congestion_threshold: u16,
    pub max_write: u32,
    pub time_gran: u32,
    pub max_pages: u16,
    pub map_alignment: u16,
    pub flags2: u32,
    pub max_stack_depth: u32,
    pub request_timeout: u16,
    pub unused: [u16; 11],
}
const _: () = assert!(size_of::<fuse_init_out>() == 64);

/// CUSE_INIT.
#[derive(Clone, Copy, Debug, Eq, PartialEq, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct cuse_init_in {
    pub major: u32,
    pub minor: u32,
    pub unused: u32,
    pub flags: u32,
}
const _: () = assert!(size_of::<cuse_init_in>() == 16);

/// The answer to CUSE_INIT.
#[derive(Clone, Copy, Debug, Eq, PartialEq, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct cuse_init_out {
    pub major: u32,
    pub minor: u32,
    pub unused: u32,
    pub flags: u32,
    pub max_read: u32,
    pub max_write: u32,
    pub dev_major: u32,
    pub dev_minor: u32,
    pub spare: [u32; 10],
}
const _: () = assert!(size_of::<cuse_init_out>() == 72);

/// INTERRUPT: `unique` is the request to be interrupted.
#[derive(Clone, Copy, Debug, Eq, PartialEq, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct fuse_interrupt_in {
    pub unique: u64,
}
const _: () = assert!(size_of::<fuse_interrupt_in>() == 8);

/// BMAP: `block` of the file, in blocks of `blocksize` bytes.
#[derive(Clone, Copy, Debug, Eq, PartialEq, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct fuse_bmap_in {
    pub block: u64,
    pub blocksize: u32,
    pub padding: u32,
}
const _: () = assert!(size_of::<fuse_bmap_in>() == 16);

/// The block on the device.
#[derive(Clone, Copy, Debug, Eq, PartialEq, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct fuse_bmap_out {
    pub block: u64,
}
const _: () = assert!(size_of::<fuse_bmap_out>() == 8);

/// IOCTL: `in_size` bytes follow.
#[derive(Clone, Copy, Debug, Eq, PartialEq, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct fuse_ioctl_in {
    pub fh: u64,
    pub flags: u32,
    pub cmd: u32,
    pub arg: u64,
    pub in_size: u32,
    pub out_size: u32,
}
const _: () = assert!(size_of::<fuse_ioctl_in>() == 32);

/// Where an unrestricted ioctl wants memory from.
#[derive(Clone, Copy, Debug, Eq, PartialEq, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct fuse_ioctl_iovec {
    pub base: u64,
    pub len: u64,
}
const _: () = assert!(size_of::<fuse_ioctl_iovec>() == 16);

/// The answer to IOCTL; up to `out_size` bytes follow.
#[derive(Clone, Copy, Debug, Eq, PartialEq, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct fuse_ioctl_out {
    pub result: i32,
    pub flags: u32,
    pub in_iovs: u32,
    pub out_iovs: u32,
}
const _: () = assert!(size_of::<fuse_ioctl_out>() == 16);

/// POLL: `kh` names the wait in a later FUSE_NOTIFY_POLL.
#[derive(Clone, Copy, Debug, Eq, PartialEq, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct fuse_poll_in {
    pub fh: u64,
    pub kh: u64,
    pub flags: u32,
    pub events: u32,
}
const _: () = assert!(size_of::<fuse_poll_in>() == 24);

/// The events that are ready now.
#[derive(Clone, Copy, Debug, Eq, PartialEq, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct fuse_poll_out {
    pub revents: u32,
    pub padding: u32,
}
const _: () = assert!(size_of::<fuse_poll_out>() == 8);

/// FUSE_NOTIFY_POLL.
#[derive(Clone, Copy, Debug, Eq, PartialEq, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct fuse_notify_poll_wakeup_out {
    pub kh: u64,
}
const _: () = assert!(size_of::<fuse_notify_poll_wakeup_out>() == 8);

/// FALLOCATE: `mode` of fallocate(2).
#[derive(Clone, Copy, Debug, Eq, PartialEq, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct fuse_fallocate_in {
    pub fh: u64,
    pub offset: u64,
    pub length: u64,
    pub mode: u32,
    pub padding: u32,
}
const _: () = assert!(size_of::<fuse_fallocate_in>() == 32);

/// At the front of every request.
#[derive(Clone, Copy, Debug, Eq, PartialEq, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct fuse_in_header {
    pub len: u32,
    pub opcode: u32,
    pub unique: u64,
    pub nodeid: u64,
    pub uid: u32,
    pub gid: u32,
    pub pid: u32,
    pub total_extlen: u16,
    pub padding: u16,
}
const _: () = assert!(size_of::<fuse_in_header>() == 40);

/// At the front of every reply and notification; `unique` 0 is a notification, and `error` its
/// code.
#[derive(Clone, Copy, Debug, Eq, PartialEq, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct fuse_out_header {
    pub len: u32,
    pub error: i32,
    pub unique: u64,
}
const _: () = assert!(size_of::<fuse_out_header>() == 16);

/// One entry of READDIR; `namelen` bytes and padding to 8 follow.
#[derive(Clone, Copy, Debug, Eq, PartialEq, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct fuse_dirent {
    pub ino: u64,
    pub off: u64,
    pub namelen: u32,
    pub r#type: u32,
}
const _: () = assert!(size_of::<fuse_dirent>() == 24);

/// One entry of READDIRPLUS; `namelen` bytes and padding to 8 follow.
#[derive(Clone, Copy, Debug, Eq, PartialEq, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct fuse_direntplus {
    pub entry_out: fuse_entry_out,
    pub dirent: fuse_dirent,
}
const _: () = assert!(size_of::<fuse_direntplus>() == 152);

/// FUSE_NOTIFY_INVAL_INODE: `len` 0 is to the end, `off` -1 attributes only.
#[derive(Clone, Copy, Debug, Eq, PartialEq, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct fuse_notify_inval_inode_out {
    pub ino: u64,
    pub off: i64,
    pub len: i64,
}
const _: () = assert!(size_of::<fuse_notify_inval_inode_out>() == 24);

/// FUSE_NOTIFY_INVAL_ENTRY: a name and a NUL follow; `namelen` leaves out the NUL.
#[derive(Clone, Copy, Debug, Eq, PartialEq, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct fuse_notify_inval_entry_out {
    pub parent: u64,
    pub namelen: u32,
    pub flags: u32,
}
const _: () = assert!(size_of::<fuse_notify_inval_entry_out>() == 16);

/// FUSE_NOTIFY_DELETE: a name and a NUL follow.
#[derive(Clone, Copy, Debug, Eq, PartialEq, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct fuse_notify_delete_out {
    pub parent: u64,
    pub child: u64,
    pub namelen: u32,
    pub padding: u32,
}
const _: () = assert!(size_of::<fuse_notify_delete_out>() == 24);

/// FUSE_NOTIFY_STORE: `size` bytes follow.
#[derive(Clone, Copy, Debug, Eq, PartialEq, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct fuse_notify_store_out {
    pub nodeid: u64,
    pub offset: u64,
    pub size: u32,
    pub padding: u32,
}
const _: () = assert!(size_of::<fuse_notify_store_out>() == 24);

/// FUSE_NOTIFY_RETRIEVE: the kernel answers with NOTIFY_REPLY.
#[derive(Clone, Copy, Debug, Eq, PartialEq, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct fuse_notify_retrieve_out {
    pub notify_unique: u64,
    pub nodeid: u64,
    pub offset: u64,
    pub size: u32,
    pub padding: u32,
}
const _: () = assert!(size_of::<fuse_notify_retrieve_out>() == 32);

/// NOTIFY_REPLY: `size` bytes follow. As large as [`fuse_write_in`].
#[derive(Clone, Copy, Debug, Eq, PartialEq, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct fuse_notify_retrieve_in {
    pub dummy1: u64,
    pub offset: u64,
    pub size: u32,
    pub dummy2: u32,
    pub dummy3: u64,
    pub dummy4: u64,
}
const _: () = assert!(size_of::<fuse_notify_retrieve_in>() == 40);

/// FUSE_NOTIFY_PRUNE: `count` node ids follow (7.45).
#[derive(Clone, Copy, Debug, Eq, PartialEq, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct fuse_notify_prune_out {
    pub count: u32,
    pub padding: u32,
    pub spare: u64,
}
const _: () = assert!(size_of::<fuse_notify_prune_out>() == 16);

/// The argument of [`FUSE_DEV_IOC_BACKING_OPEN`].
#[derive(Clone, Copy, Debug, Eq, PartialEq, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct fuse_backing_map {
    pub fd: i32,
    pub flags: u32,
    pub padding: u64,
}
const _: () = assert!(size_of::<fuse_backing_map>() == 16);

/// LSEEK: `whence` is SEEK_DATA or SEEK_HOLE.
#[derive(Clone, Copy, Debug, Eq, PartialEq, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct fuse_lseek_in {
    pub fh: u64,
    pub offset: u64,
    pub whence: u32,
    pub padding: u32,
}
const _: () = assert!(size_of::<fuse_lseek_in>() == 24);

/// The answer to LSEEK.
#[derive(Clone, Copy, Debug, Eq, PartialEq, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct fuse_lseek_out {
    pub offset: u64,
}
const _: () = assert!(size_of::<fuse_lseek_out>() == 8);

/// COPY_FILE_RANGE and COPY_FILE_RANGE_64.
#[derive(Clone, Copy, Debug, Eq, PartialEq, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct fuse_copy_file_range_in {
    pub fh_in: u64,
    pub off_in: u64,
    pub nodeid_out: u64,
    pub fh_out: u64,
    pub off_out: u64,
    pub len: u64,
    pub flags: u64,
}
const _: () = assert!(size_of::<fuse_copy_file_range_in>() == 56);

/// The answer to COPY_FILE_RANGE_64 (7.45).
#[derive(Clone, Copy, Debug, Eq, PartialEq, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct fuse_copy_file_range_out {
    pub bytes_copied: u64,
}
const _: () = assert!(size_of::<fuse_copy_file_range_out>() == 8);

/// SETUPMAPPING (virtiofs DAX only).
#[derive(Clone, Copy, Debug, Eq, PartialEq, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct fuse_setupmapping_in {
    pub fh: u64,
    pub foffset: u64,
    pub len: u64,
    pub flags: u64,
    pub moffset: u64,
}
const _: () = assert!(size_of::<fuse_setupmapping_in>() == 40);

/// REMOVEMAPPING: `count` [`fuse_removemapping_one`] follow.
#[derive(Clone, Copy, Debug, Eq, PartialEq, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct fuse_removemapping_in {
    pub count: u32,
}
const _: () = assert!(size_of::<fuse_removemapping_in>() == 4);

/// One element of REMOVEMAPPING.
#[derive(Clone, Copy, Debug, Eq, PartialEq, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct fuse_removemapping_one {
    pub moffset: u64,
    pub len: u64,
}
const _: () = assert!(size_of::<fuse_removemapping_one>() == 16);

/// SYNCFS.
#[derive(Clone, Copy, Debug, Eq, PartialEq, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct fuse_syncfs_in {
    pub padding: u64,
}
const _: () = assert!(size_of::<fuse_syncfs_in>() == 8);

/// One security context: its name, a NUL and `size` bytes follow, padded to 8.
#[derive(Clone, Copy, Debug, Eq, PartialEq, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct fuse_secctx {
    pub size: u32,
    pub padding: u32,
}
const _: () = assert!(size_of::<fuse_secctx>() == 8);

/// The extension with security contexts: `nr_secctx` [`fuse_secctx`] follow; `size` counts all,
/// this header too.
#[derive(Clone, Copy, Debug, Eq, PartialEq, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct fuse_secctx_header {
    pub size: u32,
    pub nr_secctx: u32,
}
const _: () = assert!(size_of::<fuse_secctx_header>() == 8);

/// The front of an extension; `size` counts this header too. Types up to [`FUSE_MAX_NR_SECCTX`] are
/// a [`fuse_secctx_header`].
#[derive(Clone, Copy, Debug, Eq, PartialEq, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct fuse_ext_header {
    pub size: u32,
    pub r#type: u32,
}
const _: () = assert!(size_of::<fuse_ext_header>() == 8);

/// The extension with supplementary groups: `nr_groups` ids of 4 bytes follow.
#[derive(Clone, Copy, Debug, Eq, PartialEq, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct fuse_supp_groups {
    pub nr_groups: u32,
}
const _: () = assert!(size_of::<fuse_supp_groups>() == 4);

/// Ring entry: what belongs to neither header.
#[derive(Clone, Copy, Debug, Eq, PartialEq, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct fuse_uring_ent_in_out {
    pub flags: u64,
    pub commit_id: u64,
    pub payload_sz: u32,
    pub padding: u32,
    pub reserved: u64,
}
const _: () = assert!(size_of::<fuse_uring_ent_in_out>() == 32);

/// Where the kernel puts headers on the ring: [`fuse_in_header`] in, [`fuse_out_header`] out; the
/// fixed part of the request; the entry.
#[derive(Clone, Copy, Debug, Eq, PartialEq, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct fuse_uring_req_header {
    pub in_out: [u8; FUSE_URING_IN_OUT_HEADER_SZ],
    pub op_in: [u8; FUSE_URING_OP_IN_OUT_SZ],
    pub ring_ent_in_out: fuse_uring_ent_in_out,
}
const _: () = assert!(size_of::<fuse_uring_req_header>() == 288);

/// The 80-byte command area of a submission on the ring.
#[derive(Clone, Copy, Debug, Eq, PartialEq, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct fuse_uring_cmd_req {
    pub flags: u64,
    pub commit_id: u64,
    pub qid: u16,
    pub padding: [u8; 6],
}
const _: () = assert!(size_of::<fuse_uring_cmd_req>() == 24);
