//! What happened: one operation is one event, one record and one sequence number.
//!
//! Invariants: a sequence number is never used twice, and grows; an inode's number is the
//! sequence of the event that made it, so it is never reused either. An event says everything a
//! replay needs besides the tree before it: applying the log in order rebuilds every tree there was.

use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

/// A place in the order of events. The first event of a store is [`Seq::FIRST`].
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Seq(pub u64);

impl Seq {
    /// Before any event.
    pub const ZERO: Self = Self(0);
    /// The event that makes the root directory. Not 1, so that the inode it makes never has the
    /// node number of a mount's own root (`FUSE_ROOT_ID`).
    pub const FIRST: Self = Self(2);
    /// Later than every event: asking `at` this sequence is asking about the present.
    pub const NOW: Self = Self(u64::MAX);
    /// Numbers stay below this (2^48): node numbers keep 16 bits for the view, and `st_ino` stays
    /// exact in programs that hold it as a double.
    pub const LIMIT: Self = Self(1 << 48);

    /// The number after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }

    /// The number before this one: asking `at` it is asking about the tree that this event met. Nothing is
    /// before [`Seq::ZERO`], which stays as it is.
    #[must_use]
    pub const fn before(self) -> Self {
        Self(self.0.saturating_sub(1))
    }
}

impl fmt::Display for Seq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// An inode: the sequence of the event that made it.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Ino(pub u64);

impl Ino {
    /// The root directory of every tree, made by the first event.
    pub const ROOT: Self = Self(Seq::FIRST.0);
}

impl fmt::Display for Ino {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Nanoseconds since 1970-01-01 00:00 UTC, negative before; reaches from 1677 to 2262.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// What time it is.
    #[must_use]
    pub fn now() -> Self {
        let nanos = match SystemTime::now().duration_since(UNIX_EPOCH) {
            Ok(since) => i64::try_from(since.as_nanos()).unwrap_or(i64::MAX),
            Err(before) => i64::try_from(before.duration().as_nanos()).map_or(i64::MIN, |ns| -ns),
        };
        Self(nanos)
    }
}

/// Who did it: a number the log gave an [`Actor`] when it was first seen. 0 is unknown.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct ActorId(pub u32);

/// What is known of a process that changed the tree. Text is as the kernel shows it, cut at 4 KiB.
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
pub struct Actor {
    /// Effective user and group of the request.
    pub uid: u32,
    /// Group of the request.
    pub gid: u32,
    /// Process (thread group) id; 0 is unknown.
    pub pid: u32,
    /// When the process started, in clock ticks since boot (`/proc/PID/stat`, field 22).
    pub start_time: u64,
    /// Path of the executable; empty if unknown.
    pub exe: Vec<u8>,
    /// Command line, arguments separated by NUL; empty if unknown.
    pub cmdline: Vec<u8>,
    /// The process's cgroup path; empty if unknown.
    pub cgroup: Vec<u8>,
    /// Agent name; empty if none is known.
    pub agent: Vec<u8>,
    /// Session name; empty if none is known.
    pub session: Vec<u8>,
    /// Set where the caller is known not to be the writer for certain (write-back of mmap pages).
    pub ambiguous: bool,
}

/// Where bytes lie in the store.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Location {
    /// Which file.
    pub file: FileId,
    /// Offset of the first byte in that file.
    pub offset: u64,
}

impl Location {
    /// The place `bytes` further on in the same file.
    #[must_use]
    pub const fn advance(self, bytes: u64) -> Self {
        Self { file: self.file, offset: self.offset + bytes }
    }
}

/// One of the store's own files that can hold content.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum FileId {
    /// A log segment: small writes travel in their event.
    Log(u32),
    /// A content file.
    Content(u32),
}

/// One event, borrowed from a log record or from the operation that causes it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Event<'a> {
    /// Its number.
    pub seq: Seq,
    /// When; never earlier than the event before.
    pub time: Timestamp,
    /// Who.
    pub actor: ActorId,
    /// The kernel's number of the request that caused it, bit 63 masked; 0 if none did.
    pub unique: u64,
    /// What.
    pub change: Change<'a>,
}

/// Extended attributes given to a new inode, as (name, value) pairs; names carry their namespace prefix.
pub type Xattrs<'a> = Vec<(&'a [u8], &'a [u8])>;

/// What an event did to the tree.
///
/// `mode` always carries the file type (`S_IFMT`) too. Names are single path components, 1 to 255
/// bytes without `/` and NUL. The inode of a creating event is the event's own sequence number.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Change<'a> {
    /// The store was made: the root directory, inode [`Ino::ROOT`].
    Mkfs {
        /// Mode of the root directory.
        mode: u32,
        /// Its owner.
        uid: u32,
        /// Its group.
        gid: u32,
    },
    /// A name and a new inode of any type.
    Create {
        /// Directory the name was made in.
        parent: Ino,
        /// The name.
        name: &'a [u8],
        /// Type and permissions, umask and default ACL already applied.
        mode: u32,
        /// Owner.
        uid: u32,
        /// Group.
        gid: u32,
        /// Device number of a device node (as `st_rdev`), else 0.
        rdev: u64,
        /// Target of a symbolic link, else empty.
        target: &'a [u8],
        /// Inherited ACLs and the security context.
        xattrs: Xattrs<'a>,
    },
    /// A regular file without a name (`O_TMPFILE`).
    Tmpfile {
        /// Type and permissions.
        mode: u32,
        /// Owner.
        uid: u32,
        /// Group.
        gid: u32,
        /// Inherited ACLs and the security context.
        xattrs: Xattrs<'a>,
    },
    /// One more name of a file that is no directory.
    Link {
        /// The file.
        ino: Ino,
        /// Directory of the new name.
        parent: Ino,
        /// The new name.
        name: &'a [u8],
    },
    /// A name went away: `unlink`, or `rmdir` where `ino` is a directory.
    Unlink {
        /// Directory of the name.
        parent: Ino,
        /// The name.
        name: &'a [u8],
        /// What it named.
        ino: Ino,
    },
    /// A name moved, replacing what the new one named.
    Rename {
        /// Directory of the old name.
        parent: Ino,
        /// Old name.
        name: &'a [u8],
        /// Directory of the new name.
        new_parent: Ino,
        /// New name.
        new_name: &'a [u8],
        /// What moved.
        ino: Ino,
        /// What the new name named before.
        replaced: Option<Ino>,
    },
    /// Two names swapped what they name (`RENAME_EXCHANGE`).
    Exchange {
        /// Directory of the first name.
        parent: Ino,
        /// First name.
        name: &'a [u8],
        /// Directory of the second name.
        new_parent: Ino,
        /// Second name.
        new_name: &'a [u8],
        /// What the first name named before.
        ino: Ino,
        /// What the second name named before.
        other: Ino,
    },
    /// Attributes were set. `ctime` becomes the event's time; so does `mtime` when the size
    /// changed and `mtime` is not given.
    SetAttr {
        /// Of this inode.
        ino: Ino,
        /// What was set; `None` stays.
        set: SetAttr,
        /// The new access ACL that goes with a new mode, in the kernel's xattr form; empty where the
        /// one there was goes, because the mode says all.
        acl: Option<&'a [u8]>,
        /// `security.capability` was removed.
        drop_capability: bool,
    },
    /// Bytes were written. `mtime` and `ctime` become the event's time.
    Write {
        /// To this file.
        ino: Ino,
        /// From this offset on.
        offset: u64,
        /// The bytes.
        data: Data<'a>,
        /// The file ends where they do: what was behind them is gone.
        ends: bool,
        /// The mode without set-id bits, where writing cleared them.
        mode: Option<u32>,
        /// `security.capability` was removed.
        drop_capability: bool,
    },
    /// Space was set aside or given back. `mtime` and `ctime` become the event's time.
    Fallocate {
        /// Of this file.
        ino: Ino,
        /// What was done.
        how: Allocation,
        /// First byte of the range.
        offset: u64,
        /// Length of the range.
        len: u64,
        /// The mode without set-id bits, where changing content cleared them.
        mode: Option<u32>,
    },
    /// A range of one file became a reference to the bytes of another (`copy_file_range`).
    Clone {
        /// Source file.
        src: Ino,
        /// First byte in the source.
        src_offset: u64,
        /// Destination file.
        dst: Ino,
        /// First byte in the destination.
        dst_offset: u64,
        /// Length; the source has that many bytes there.
        len: u64,
        /// The destination ends where the range does: what was behind it is gone.
        ends: bool,
        /// The destination's mode without set-id bits, where changing content cleared them.
        mode: Option<u32>,
    },
    /// An extended attribute was set. `ctime` becomes the event's time.
    SetXattr {
        /// Of this inode.
        ino: Ino,
        /// Full name, with its namespace.
        name: &'a [u8],
        /// New value.
        value: &'a [u8],
        /// The mode that an access ACL implies.
        mode: Option<u32>,
    },
    /// An extended attribute was removed. `ctime` becomes the event's time.
    RemoveXattr {
        /// Of this inode.
        ino: Ino,
        /// Full name.
        name: &'a [u8],
    },
    /// An inode without names was let go by its last user; nothing of it is reachable any more.
    End {
        /// The inode.
        ino: Ino,
    },
    /// Somebody else told of an event, and it is kept. No tree changes.
    Foreign(Foreign<'a>),
}

impl<'a> Change<'a> {
    /// Whether it says, besides what it brings, that a file ends there.
    #[must_use]
    pub const fn ends_a_file(&self) -> bool {
        matches!(self, Self::Write { ends: true, .. } | Self::Clone { ends: true, .. })
    }

    /// The bytes that came with it, if any did.
    #[must_use]
    pub const fn data(&self) -> Option<&Data<'a>> {
        match self {
            Self::Write { data, .. } => Some(data),
            Self::Foreign(foreign) => Some(&foreign.body),
            _ => None,
        }
    }
}

/// An event that was not ours: imported, or handed in by a client. It is kept word for word, and outlives the
/// horizon: it is not the past of any file.
///
/// Two of them are the same event if `id` and `fingerprint` are.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Foreign<'a> {
    /// What whoever told it calls it.
    pub id: &'a [u8],
    /// What kind of event it is, in their words.
    pub kind: &'a [u8],
    /// Who did it, in their words; empty if they do not say.
    pub agent: &'a [u8],
    /// What it is about, in their words.
    pub aggregate: &'a [u8],
    /// When it happened, as they say: may be anything, while [`Event::time`] never falls.
    pub time: Timestamp,
    /// What the body is.
    pub format: Format,
    /// Where it was read; `None` if nobody read it anywhere, but a client handed it in.
    pub source: Option<Source<'a>>,
    /// Of the body: see [`Store::fingerprint`](super::Store::fingerprint).
    pub fingerprint: Fingerprint,
    /// All of it, as it was given.
    pub body: Data<'a>,
}

/// Sixteen bytes that stand for a body: equal bodies have equal ones, and nobody without the store's key can
/// tell what body one stands for.
pub type Fingerprint = [u8; 16];

/// What the body of a [`Foreign`] event is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Format {
    /// JSON text, an object.
    Json,
    /// MessagePack, a map: the payload of a record of the Python bridge's log.
    MessagePack,
}

/// Where a [`Foreign`] event was read.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Source<'a> {
    /// Name of the file, without directories.
    pub file: &'a [u8],
    /// Offset of its first byte there (uncompressed), or its number in a table.
    pub offset: u64,
    /// Whether a message authentication code vouched for it.
    pub verified: bool,
}

/// Attributes a `SetAttr` changes.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct SetAttr {
    /// Type and permissions.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Length in bytes; what is cut off reads as zeros if the file grows again.
    pub size: Option<u64>,
    /// Access time.
    pub atime: Option<Timestamp>,
    /// Modification time.
    pub mtime: Option<Timestamp>,
}

/// The three things `fallocate(2)` does here.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Allocation {
    /// Set space aside; the file grows to the end of the range unless `keep_size`.
    Reserve {
        /// `FALLOC_FL_KEEP_SIZE`.
        keep_size: bool,
    },
    /// `FALLOC_FL_PUNCH_HOLE`: the range becomes a hole; the size stays.
    Punch,
    /// `FALLOC_FL_ZERO_RANGE`: the range reads as zeros; the file grows unless `keep_size`.
    Zero {
        /// `FALLOC_FL_KEEP_SIZE`.
        keep_size: bool,
    },
}

/// Bytes of a write, and what vouches for them.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Data<'a> {
    /// BLAKE3 of the bytes, keyed by `salt`; the hash chain covers this, not the bytes.
    pub hash: [u8; 32],
    /// Goes when the content goes, so that nobody can guess content from its hash.
    pub salt: [u8; 16],
    /// Where the bytes are.
    pub place: Place<'a>,
}

/// Where the bytes of a write are.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Place<'a> {
    /// In the event's own record: [`AWAITED_INLINE_MAX`] bytes at most.
    Inline(&'a [u8]),
    /// In a content file.
    Extent {
        /// Of the first byte.
        location: Location,
        /// Length in bytes.
        len: u64,
        /// CRC-32C of each 64 KiB of the extent (the last may be shorter), little-endian.
        crcs: &'a [u8],
    },
}

/// A longer write goes to a content file; one of this many bytes or fewer can travel in its event.
///
/// It is a page, because an extent begins on one: what goes to a content file wastes less than a page,
/// and so never takes more than twice its length (4,097 bytes take 8,192, as they do on other filesystems);
/// what is shorter wastes nothing. What travels in its event costs one `pwrite` and one `fdatasync` of one file.
///
/// A page itself would waste nothing either way. One that goes on where the last write ended lies beside it in
/// a content file, so that a long file written page by page is read in one piece; any other travels in its event.
pub const INLINE_MAX: usize = 4096;

/// Where somebody waits for the disk after each few writes, one of this many bytes or fewer can travel in its event:
/// then there is one file to wait for, and its space was written before.
///
/// On ext4 a write of 16 KiB and its `fdatasync` take 0.6 of the time that two files take. It is a little less than the
/// record of an event can hold, whose tail is counted in 16 bits.
pub const AWAITED_INLINE_MAX: usize = 60 << 10;

impl Data<'_> {
    /// How many bytes were written.
    #[must_use]
    pub const fn len(&self) -> u64 {
        match self.place {
            Place::Inline(bytes) => bytes.len() as u64,
            Place::Extent { len, .. } => len,
        }
    }

    /// Whether nothing was written.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
