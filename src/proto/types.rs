//! The words operations and replies are made of.
//!
//! Invariants: a value of these types is already checked ([`NodeId`] is not 0, [`Name`] is one path
//! component, [`Errno`] is in the kernel's range), so nothing above `proto` checks it again.

use std::fmt;
use std::num::NonZeroU64;
use std::ops::{BitOr, BitOrAssign};
use std::time::Duration;

use zerocopy::{Immutable, IntoBytes};

use super::abi;

/// The number under which the kernel knows an inode of ours. Never 0.
#[derive(Clone, Copy, Debug, Eq, Hash, Immutable, IntoBytes, Ord, PartialEq, PartialOrd)]
#[repr(transparent)]
pub struct NodeId(NonZeroU64);

impl NodeId {
    /// The root of the mount: known to the kernel without a lookup, and never forgotten.
    pub const ROOT: Self = Self(NonZeroU64::MIN);

    /// `None` for 0, which in a reply means "no such name".
    pub const fn new(id: u64) -> Option<Self> {
        match NonZeroU64::new(id) {
            Some(id) => Some(Self(id)),
            None => None,
        }
    }

    /// The number on the wire.
    pub const fn get(self) -> u64 {
        self.0.get()
    }
}

/// The number a reply to OPEN, OPENDIR or CREATE gave to an open file; the kernel hands it back.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct FileHandle(pub u64);

/// The number that ties a reply to its request: `unique` of the header.
///
/// Grows by 2 from request to request, and restarts with each connection.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct RequestId(pub u64);

impl RequestId {
    /// Whether the kernel sends this request again, because who read it first is gone (7.40).
    pub const fn is_resent(self) -> bool {
        self.0 & abi::FUSE_UNIQUE_RESEND != 0
    }

    /// The number without the mark of a resent request: the same for every sending of it.
    ///
    /// A reply must carry the number as it came, mark included.
    pub const fn masked(self) -> u64 {
        self.0 & !abi::FUSE_UNIQUE_RESEND
    }
}

/// Who owns a byte-range or flock lock: a number made by the kernel, equal for equal owners.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct LockOwner(pub u64);

/// Who asked, as the header tells it.
///
/// All three are 0 where nobody asked: RELEASE, FORGET and write-back of mapped pages.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub struct Caller {
    /// The filesystem user id, in the user namespace of the mount.
    pub uid: u32,
    /// The filesystem group id, likewise.
    pub gid: u32,
    /// The id of the *thread*, in the pid namespace of whoever opened the device; 0 if outside it.
    pub pid: u32,
}

/// One path component: not empty, at most [`Name::MAX`] bytes, and free of `/` and NUL.
///
/// A `Name` is the proof that this was checked; nothing below the decoder checks it again. It may
/// be `.` or `..` only where the kernel was told that lookups of those are served.
#[derive(Clone, Copy, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Name<'a>(&'a [u8]);

/// Why bytes are no [`Name`] or no [`XattrName`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum NameError {
    /// Empty, or with a byte that a name cannot have.
    Malformed,
    /// Longer than the limit: to be answered with ENAMETOOLONG.
    TooLong,
}

impl<'a> Name<'a> {
    /// The most bytes a name has: NAME_MAX of limits.h.
    pub const MAX: usize = 255;

    /// Checks `bytes`.
    pub fn new(bytes: &'a [u8]) -> Result<Self, NameError> {
        if bytes.is_empty() || bytes.iter().any(|&byte| byte == b'/' || byte == 0) {
            return Err(NameError::Malformed);
        }
        if bytes.len() > Self::MAX {
            return Err(NameError::TooLong);
        }
        Ok(Self(bytes))
    }

    /// The bytes, in no particular encoding.
    pub const fn as_bytes(self) -> &'a [u8] {
        self.0
    }
}

impl fmt::Debug for Name<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.0.escape_ascii())
    }
}

impl fmt::Display for Name<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        String::from_utf8_lossy(self.0).fmt(f)
    }
}

/// The name of an extended attribute: not empty, at most [`XattrName::MAX`] bytes, and free of NUL.
#[derive(Clone, Copy, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct XattrName<'a>(&'a [u8]);

impl<'a> XattrName<'a> {
    /// The most bytes a name has: XATTR_NAME_MAX of limits.h.
    pub const MAX: usize = 255;

    /// Checks `bytes`.
    pub fn new(bytes: &'a [u8]) -> Result<Self, NameError> {
        if bytes.is_empty() || bytes.contains(&0) {
            return Err(NameError::Malformed);
        }
        if bytes.len() > Self::MAX {
            return Err(NameError::TooLong);
        }
        Ok(Self(bytes))
    }

    /// The bytes, namespace prefix (`user.`, `security.` ...) included.
    pub const fn as_bytes(self) -> &'a [u8] {
        self.0
    }
}

impl fmt::Debug for XattrName<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.0.escape_ascii())
    }
}

/// A point in time: seconds since 1970, negative before it, and nanoseconds after that second.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Timestamp {
    /// Seconds since 1970-01-01T00:00:00Z.
    pub secs: i64,
    /// 0 to 999,999,999.
    pub nanos: u32,
}

impl Timestamp {
    /// `nanos` above 999,999,999 is cut down to it, as the kernel does with what we send.
    pub const fn new(secs: i64, nanos: u32) -> Self {
        let nanos = if nanos > 999_999_999 { 999_999_999 } else { nanos };
        Self { secs, nanos }
    }
}

/// What an inode is: the answer to `stat`.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Attr {
    /// The inode number that `stat` shows; need not be the [`NodeId`].
    pub ino: u64,
    /// Length in bytes; the kernel refuses more than `i64::MAX`.
    pub size: u64,
    /// What it occupies, in units of 512 bytes.
    pub blocks: u64,
    /// Last access.
    pub atime: Timestamp,
    /// Last change of content.
    pub mtime: Timestamp,
    /// Last change of anything.
    pub ctime: Timestamp,
    /// Birth; travels in replies to STATX alone.
    pub btime: Timestamp,
    /// Type and permissions, as `st_mode`. The kernel refuses a mode without a type.
    pub mode: u32,
    /// Number of names.
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number of a device node, in the kernel's 32-bit form (`new_encode_dev`).
    pub rdev: u32,
    /// Preferred size of a transfer, in bytes.
    pub blksize: u32,
}

/// What a name leads to, and how long the kernel may go on without asking again.
///
/// "There is no such name" is `Reply::negative_entry`, or ENOENT where it must not be remembered.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Entry {
    /// The inode. Each such reply counts one lookup, which FORGET gives back.
    pub node: NodeId,
    /// Tells apart two inodes that had the same number; 0 if numbers are never used twice.
    pub generation: u64,
    /// Its attributes.
    pub attr: Attr,
    /// How long the name leads there.
    pub entry_valid: Duration,
    /// How long the attributes hold.
    pub attr_valid: Duration,
}

/// A lifetime that outlives the mount: the kernel cuts it down to what its clock can say.
pub const FOREVER: Duration = Duration::MAX;

/// The flags of open(2), as OPEN, CREATE, READ, WRITE and RELEASE carry them.
///
/// Numbers are those of asm-generic/fcntl.h, with the large-file flag set by the kernel itself.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub struct OpenFlags(pub u32);

impl OpenFlags {
    /// Open for reading only.
    pub const RDONLY: u32 = 0;
    /// Open for writing only.
    pub const WRONLY: u32 = 0o1;
    /// Open for both.
    pub const RDWR: u32 = 0o2;
    /// The bits that hold one of the three above.
    pub const ACCMODE: u32 = 0o3;
    /// Make the file if there is none.
    pub const CREAT: u32 = 0o100;
    /// Fail if there is one.
    pub const EXCL: u32 = 0o200;
    /// Cut to nothing.
    pub const TRUNC: u32 = 0o1000;
    /// Every write goes to the end.
    pub const APPEND: u32 = 0o2000;
    /// Do not wait.
    pub const NONBLOCK: u32 = 0o4000;
    /// Each write is on the disk, data and what is needed to find it, when it returns.
    pub const DSYNC: u32 = 0o10000;
    /// As `DSYNC`, and all attributes too. Holds the bit of `DSYNC`.
    pub const SYNC: u32 = 0o4_010_000;
    /// Past the page cache. This bit differs between architectures; see [`OpenFlags::is_direct`].
    #[cfg(not(any(target_arch = "arm", target_arch = "aarch64")))]
    pub const DIRECT: u32 = 0o40000;
    /// Past the page cache. This bit differs between architectures; see [`OpenFlags::is_direct`].
    #[cfg(any(target_arch = "arm", target_arch = "aarch64"))]
    pub const DIRECT: u32 = 0o200_000;
    /// Set by the kernel where a program is being executed.
    pub const FMODE_EXEC: u32 = 0x20;

    /// Whether all bits of `flag` are set.
    pub const fn has(self, flag: u32) -> bool {
        self.0 & flag == flag
    }

    /// Whether content may be read through the handle.
    pub const fn reads(self) -> bool {
        matches!(self.0 & Self::ACCMODE, Self::RDONLY | Self::RDWR)
    }

    /// Whether content may be written through the handle.
    pub const fn writes(self) -> bool {
        matches!(self.0 & Self::ACCMODE, Self::WRONLY | Self::RDWR)
    }

    /// Whether the kernel opened the file to run it. It keeps the handle while the program runs.
    pub const fn executes(self) -> bool {
        self.has(Self::FMODE_EXEC)
    }

    /// Whether the file is to be cut to nothing.
    pub const fn truncates(self) -> bool {
        self.has(Self::TRUNC)
    }

    /// The same flags, with the file left as it is.
    #[must_use]
    pub const fn without_truncation(self) -> Self {
        Self(self.0 & !Self::TRUNC)
    }

    /// Whether writes go to the end. The kernel has done the seeking: the offset in WRITE is the end of the file as it
    /// knows it.
    pub const fn appends(self) -> bool {
        self.has(Self::APPEND)
    }

    /// Whether writes return only when they are on the disk (O_SYNC or O_DSYNC).
    pub const fn is_sync(self) -> bool {
        self.has(Self::DSYNC)
    }

    /// Whether the page cache is passed by (O_DIRECT).
    pub const fn is_direct(self) -> bool {
        self.has(Self::DIRECT)
    }
}

/// What the kernel may do with an open file: `open_flags` of a reply to OPEN, OPENDIR and CREATE.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub struct OpenedFlags(pub u32);

impl OpenedFlags {
    /// None: the page cache is used, and emptied at this open.
    pub const NONE: Self = Self(0);
    /// Every read and write comes to us.
    pub const DIRECT_IO: Self = Self(abi::FOPEN_DIRECT_IO);
    /// What is cached from earlier opens is still right.
    pub const KEEP_CACHE: Self = Self(abi::FOPEN_KEEP_CACHE);
    /// lseek(2) fails with ESPIPE.
    pub const NONSEEKABLE: Self = Self(abi::FOPEN_NONSEEKABLE);
    /// The listing of a directory may be cached (7.28).
    pub const CACHE_DIR: Self = Self(abi::FOPEN_CACHE_DIR);
    /// No position at all, so that reads and writes need not wait for each other.
    pub const STREAM: Self = Self(abi::FOPEN_STREAM);
    /// No FLUSH at close, and no write-back of mapped pages either (7.35).
    pub const NOFLUSH: Self = Self(abi::FOPEN_NOFLUSH);
    /// Direct writes to one inode may run side by side (7.38).
    pub const PARALLEL_DIRECT_WRITES: Self = Self(abi::FOPEN_PARALLEL_DIRECT_WRITES);
    /// Reads and writes go to a backing file registered before (7.40).
    pub const PASSTHROUGH: Self = Self(abi::FOPEN_PASSTHROUGH);
}

impl BitOr for OpenedFlags {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl BitOrAssign for OpenedFlags {
    fn bitor_assign(&mut self, other: Self) {
        self.0 |= other.0;
    }
}

/// An open file, as a reply gives it to the kernel.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Opened {
    /// What the kernel will name it by.
    pub handle: FileHandle,
    /// What the kernel may do with it.
    pub flags: OpenedFlags,
    /// The backing file, with [`OpenedFlags::PASSTHROUGH`]; else 0.
    pub backing_id: i32,
}

/// Totals of a filesystem: the answer to statfs(2).
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Statfs {
    /// Size, in blocks of `frsize` bytes.
    pub blocks: u64,
    /// Free blocks.
    pub bfree: u64,
    /// Free blocks for users without privilege.
    pub bavail: u64,
    /// Inodes, used and free.
    pub files: u64,
    /// Free inodes.
    pub ffree: u64,
    /// Preferred size of a transfer, in bytes.
    pub bsize: u32,
    /// Longest name, in bytes.
    pub namelen: u32,
    /// Size of a block, in bytes.
    pub frsize: u32,
}

/// What a byte-range lock is.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum LockKind {
    /// Shared (F_RDLCK).
    Read,
    /// Exclusive (F_WRLCK).
    Write,
    /// None (F_UNLCK): a request to unlock, or the answer that nothing is in the way.
    Unlock,
}

/// A lock on the bytes from `start` to `end`, both included.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Lock {
    /// First byte.
    pub start: u64,
    /// Last byte; `i64::MAX` for "to the end, however far it moves".
    pub end: u64,
    /// Shared, exclusive or none.
    pub kind: LockKind,
    /// The process (Tgid) that holds it or asks for it.
    pub pid: u32,
}

impl LockKind {
    const fn from_wire(kind: u32) -> Option<Self> {
        match kind {
            0 => Some(Self::Read),
            1 => Some(Self::Write),
            2 => Some(Self::Unlock),
            _ => None,
        }
    }

    const fn to_wire(self) -> u32 {
        match self {
            Self::Read => 0,
            Self::Write => 1,
            Self::Unlock => 2,
        }
    }
}

impl Lock {
    pub(super) fn from_wire(lock: &abi::fuse_file_lock) -> Option<Self> {
        let abi::fuse_file_lock { start, end, r#type, pid } = *lock;
        Some(Self { start, end, kind: LockKind::from_wire(r#type)?, pid })
    }

    pub(super) const fn to_wire(self) -> abi::fuse_file_lock {
        abi::fuse_file_lock {
            start: self.start,
            end: self.end,
            r#type: self.kind.to_wire(),
            pid: self.pid,
        }
    }
}

/// Why a request is refused: an error number, as `errno` has it.
///
/// Numbers are those of asm-generic/errno.h, which x86, ARM, RISC-V and LoongArch share.
#[derive(Clone, Copy, Eq, Hash, PartialEq)]
pub struct Errno(i32);

macro_rules! errnos {
    ($($name:ident = $number:literal, $text:literal;)*) => {
        #[allow(missing_docs, reason = "names from errno(3); their text is in `Errno::text`")]
        impl Errno {
            $(pub const $name: Self = Self($number);)*
        }
        impl Errno {
            /// The name as C has it (`ENOENT`), or `None` for a number without one.
            pub const fn name(self) -> Option<&'static str> {
                match self.0 {
                    $($number => Some(stringify!($name)),)*
                    _ => None,
                }
            }

            /// What strerror(3) says, or "unknown error".
            pub const fn text(self) -> &'static str {
                match self.0 {
                    $($number => $text,)*
                    _ => "unknown error",
                }
            }
        }
    };
}

impl Errno {
    /// The largest number the kernel takes in a reply; a larger one makes it refuse the reply.
    pub const MAX: i32 = 511;

    /// `None` unless `number` is 1 to [`Errno::MAX`].
    pub const fn new(number: i32) -> Option<Self> {
        if number >= 1 && number <= Self::MAX { Some(Self(number)) } else { None }
    }

    /// The positive number.
    pub const fn get(self) -> i32 {
        self.0
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.pad(name),
            None => write!(f, "errno {}", self.0),
        }
    }
}

impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for Errno {}

errnos! {
    EPERM = 1, "operation not permitted";
    ENOENT = 2, "no such file or directory";
    ESRCH = 3, "no such process";
    EINTR = 4, "interrupted system call";
    EIO = 5, "input/output error";
    ENXIO = 6, "no such device or address";
    E2BIG = 7, "argument list too long";
    ENOEXEC = 8, "exec format error";
    EBADF = 9, "bad file descriptor";
    ECHILD = 10, "no child processes";
    EAGAIN = 11, "resource temporarily unavailable";
    ENOMEM = 12, "cannot allocate memory";
    EACCES = 13, "permission denied";
    EFAULT = 14, "bad address";
    ENOTBLK = 15, "block device required";
    EBUSY = 16, "device or resource busy";
    EEXIST = 17, "file exists";
    EXDEV = 18, "invalid cross-device link";
    ENODEV = 19, "no such device";
    ENOTDIR = 20, "not a directory";
    EISDIR = 21, "is a directory";
    EINVAL = 22, "invalid argument";
    ENFILE = 23, "too many open files in system";
    EMFILE = 24, "too many open files";
    ENOTTY = 25, "inappropriate ioctl for device";
    ETXTBSY = 26, "text file busy";
    EFBIG = 27, "file too large";
    ENOSPC = 28, "no space left on device";
    ESPIPE = 29, "illegal seek";
    EROFS = 30, "read-only file system";
    EMLINK = 31, "too many links";
    EPIPE = 32, "broken pipe";
    EDOM = 33, "numerical argument out of domain";
    ERANGE = 34, "numerical result out of range";
    EDEADLK = 35, "resource deadlock avoided";
    ENAMETOOLONG = 36, "file name too long";
    ENOLCK = 37, "no locks available";
    ENOSYS = 38, "function not implemented";
    ENOTEMPTY = 39, "directory not empty";
    ELOOP = 40, "too many levels of symbolic links";
    ENOMSG = 42, "no message of desired type";
    EIDRM = 43, "identifier removed";
    ECHRNG = 44, "channel number out of range";
    EL2NSYNC = 45, "level 2 not synchronized";
    EL3HLT = 46, "level 3 halted";
    EL3RST = 47, "level 3 reset";
    ELNRNG = 48, "link number out of range";
    EUNATCH = 49, "protocol driver not attached";
    ENOCSI = 50, "no CSI structure available";
    EL2HLT = 51, "level 2 halted";
    EBADE = 52, "invalid exchange";
    EBADR = 53, "invalid request descriptor";
    EXFULL = 54, "exchange full";
    ENOANO = 55, "no anode";
    EBADRQC = 56, "invalid request code";
    EBADSLT = 57, "invalid slot";
    EBFONT = 59, "bad font file format";
    ENOSTR = 60, "device not a stream";
    ENODATA = 61, "no data available";
    ETIME = 62, "timer expired";
    ENOSR = 63, "out of streams resources";
    ENONET = 64, "machine is not on the network";
    ENOPKG = 65, "package not installed";
    EREMOTE = 66, "object is remote";
    ENOLINK = 67, "link has been severed";
    EADV = 68, "advertise error";
    ESRMNT = 69, "srmount error";
    ECOMM = 70, "communication error on send";
    EPROTO = 71, "protocol error";
    EMULTIHOP = 72, "multihop attempted";
    EDOTDOT = 73, "RFS specific error";
    EBADMSG = 74, "bad message";
    EOVERFLOW = 75, "value too large for defined data type";
    ENOTUNIQ = 76, "name not unique on network";
    EBADFD = 77, "file descriptor in bad state";
    EREMCHG = 78, "remote address changed";
    ELIBACC = 79, "can not access a needed shared library";
    ELIBBAD = 80, "accessing a corrupted shared library";
    ELIBSCN = 81, ".lib section in a.out corrupted";
    ELIBMAX = 82, "attempting to link in too many shared libraries";
    ELIBEXEC = 83, "cannot exec a shared library directly";
    EILSEQ = 84, "invalid or incomplete multibyte or wide character";
    ERESTART = 85, "interrupted system call should be restarted";
    ESTRPIPE = 86, "streams pipe error";
    EUSERS = 87, "too many users";
    ENOTSOCK = 88, "socket operation on non-socket";
    EDESTADDRREQ = 89, "destination address required";
    EMSGSIZE = 90, "message too long";
    EPROTOTYPE = 91, "protocol wrong type for socket";
    ENOPROTOOPT = 92, "protocol not available";
    EPROTONOSUPPORT = 93, "protocol not supported";
    ESOCKTNOSUPPORT = 94, "socket type not supported";
    EOPNOTSUPP = 95, "operation not supported";
    EPFNOSUPPORT = 96, "protocol family not supported";
    EAFNOSUPPORT = 97, "address family not supported by protocol";
    EADDRINUSE = 98, "address already in use";
    EADDRNOTAVAIL = 99, "cannot assign requested address";
    ENETDOWN = 100, "network is down";
    ENETUNREACH = 101, "network is unreachable";
    ENETRESET = 102, "network dropped connection on reset";
    ECONNABORTED = 103, "software caused connection abort";
    ECONNRESET = 104, "connection reset by peer";
    ENOBUFS = 105, "no buffer space available";
    EISCONN = 106, "transport endpoint is already connected";
    ENOTCONN = 107, "transport endpoint is not connected";
    ESHUTDOWN = 108, "cannot send after transport endpoint shutdown";
    ETOOMANYREFS = 109, "too many references: cannot splice";
    ETIMEDOUT = 110, "connection timed out";
    ECONNREFUSED = 111, "connection refused";
    EHOSTDOWN = 112, "host is down";
    EHOSTUNREACH = 113, "no route to host";
    EALREADY = 114, "operation already in progress";
    EINPROGRESS = 115, "operation now in progress";
    ESTALE = 116, "stale file handle";
    EUCLEAN = 117, "structure needs cleaning";
    ENOTNAM = 118, "not a XENIX named type file";
    ENAVAIL = 119, "no XENIX semaphores available";
    EISNAM = 120, "is a named type file";
    EREMOTEIO = 121, "remote I/O error";
    EDQUOT = 122, "disk quota exceeded";
    ENOMEDIUM = 123, "no medium found";
    EMEDIUMTYPE = 124, "wrong medium type";
    ECANCELED = 125, "operation canceled";
    ENOKEY = 126, "required key not available";
    EKEYEXPIRED = 127, "key has expired";
    EKEYREVOKED = 128, "key has been revoked";
    EKEYREJECTED = 129, "key was rejected by service";
    EOWNERDEAD = 130, "owner died";
    ENOTRECOVERABLE = 131, "state not recoverable";
    ERFKILL = 132, "operation not possible due to RF-kill";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_component_of_a_path() {
        for good in [&b"a"[..], b"..", b".", b"a b", b"\xff\n", &[b'x'; 255]] {
            assert_eq!(Name::new(good).map(Name::as_bytes), Ok(good));
        }
        for bad in [&b""[..], b"/", b"a/b", b"a\0", b"\0"] {
            assert_eq!(Name::new(bad), Err(NameError::Malformed));
        }
        assert_eq!(Name::new(&[b'x'; 256]), Err(NameError::TooLong));
    }

    #[test]
    fn an_attribute_name_may_hold_a_slash() {
        assert!(XattrName::new(b"user.a/b").is_ok());
        assert_eq!(XattrName::new(b"user.\0"), Err(NameError::Malformed));
        assert_eq!(XattrName::new(&[b'x'; 256]), Err(NameError::TooLong));
    }

    #[test]
    fn an_error_is_shown_by_its_name() {
        assert_eq!(Errno::ENOENT.to_string(), "ENOENT");
        assert_eq!(Errno::E2BIG.to_string(), "E2BIG");
        assert_eq!(Errno::ENOENT.text(), "no such file or directory");
        assert_eq!(Errno::new(500).map(|errno| errno.to_string()), Some("errno 500".to_owned()));
    }

    #[test]
    fn error_numbers_are_those_of_the_system() {
        for number in 1..=Errno::MAX {
            let errno = Errno::new(number).unwrap();
            if errno.name().is_some() {
                let system = std::io::Error::from_raw_os_error(number).to_string();
                let text = system.split(" (os error").next().unwrap();
                assert!(text.eq_ignore_ascii_case(errno.text()), "{errno}: {text}");
            }
        }
    }

    #[test]
    fn only_numbers_that_the_kernel_takes_are_errors() {
        for number in [i32::MIN, -1, 0, 512, i32::MAX] {
            assert_eq!(Errno::new(number), None);
        }
    }

    #[test]
    fn a_resent_request_is_known_by_its_mark() {
        let (first, again) = (RequestId(4), RequestId(4 | 1 << 63));
        assert!(!first.is_resent() && again.is_resent());
        assert_eq!(first.masked(), again.masked());
    }

    #[test]
    fn the_access_mode_is_two_bits_with_three_values() {
        for (flags, reads, writes) in [(0, true, false), (1, false, true), (2, true, true)] {
            let flags = OpenFlags(flags | OpenFlags::APPEND);
            assert_eq!((flags.reads(), flags.writes()), (reads, writes));
        }
        assert!(!OpenFlags(3).reads() && !OpenFlags(3).writes());
    }

    #[test]
    fn sync_holds_dsync_but_dsync_is_not_all_of_sync() {
        assert!(OpenFlags(OpenFlags::SYNC).is_sync() && OpenFlags(OpenFlags::DSYNC).is_sync());
        assert!(!OpenFlags(OpenFlags::DSYNC).has(OpenFlags::SYNC));
    }

    #[test]
    fn nanoseconds_stay_below_a_second() {
        assert_eq!(Timestamp::new(1, 2_000_000_000), Timestamp { secs: 1, nanos: 999_999_999 });
    }
}
