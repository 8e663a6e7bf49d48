//! What a request is answered with: a value, which the transport sends.
//!
//! ```text
//!  0        4        8               16
//!  +--------+--------+---------------+-----------------+------------------------------+
//!  | len    | error  | unique        | fixed part      | data, in one or many chunks  |
//!  +--------+--------+---------------+-----------------+------------------------------+
//! ```
//!
//! Header and fixed part are inline; data is borrowed. A refusal is the header alone, with `error`
//! the negated number.
//!
//! Invariants: `len` is the sum of all chunks; making and sending a reply allocates nothing.

use std::io::IoSlice;
use std::mem::offset_of;
use std::time::Duration;

use zerocopy::{Immutable, IntoBytes};

use super::abi::*;
use super::answer::init_out_len;
use super::types::{Attr, Entry, Errno, Lock, Opened, RequestId, Statfs, Timestamp};

const HEADER: usize = size_of::<fuse_out_header>();
/// How a reply to STATX ends: fields without a meaning yet. They are sent as data from here, so that no other reply has to be
/// as long: it is moved a few times between where it is made and where it is sent.
const STATX_SPARE: &[u8] = &[0; size_of::<fuse_statx>() - offset_of!(fuse_statx, __spare2)];
/// The largest fixed part: a reply to STATX, without that.
const FIXED_MAX: usize = size_of::<fuse_statx_out>() - STATX_SPARE.len();
const _: () = assert!(FIXED_MAX >= size_of::<fuse_entry_out>() + size_of::<fuse_open_out>());
const _: () = assert!(FIXED_MAX >= size_of::<fuse_init_out>());

/// One reply, ready to be sent.
#[derive(Clone, Copy, Debug)]
pub struct Reply<'a> {
    head: [u8; HEADER + FIXED_MAX],
    head_len: usize,
    data: Data<'a>,
    id: RequestId,
    errno: Option<Errno>,
}

#[derive(Clone, Copy, Debug)]
enum Data<'a> {
    One(&'a [u8]),
    Many(&'a [&'a [u8]]),
    /// So many bytes that the transport has from elsewhere.
    Elsewhere(usize),
    /// So many bytes at the beginning of the room that came with the request.
    InRoom(usize),
}

impl Data<'_> {
    fn len(self) -> usize {
        match self {
            Self::One(chunk) => chunk.len(),
            // Cannot overflow: each chunk is in memory, and so many do not fit there twice.
            Self::Many(chunks) => {
                chunks.iter().fold(0, |sum: usize, chunk| sum.saturating_add(chunk.len()))
            }
            Self::Elsewhere(len) | Self::InRoom(len) => len,
        }
    }
}

impl<'a> Reply<'a> {
    /// The most bytes of header and fixed part together.
    pub const HEAD_MAX: usize = HEADER + FIXED_MAX;

    fn new(to: RequestId, errno: Option<Errno>, fixed: &[&[u8]], data: Data<'a>) -> Self {
        let mut head = [0; HEADER + FIXED_MAX];
        let mut head_len = HEADER;
        for part in fixed {
            head[head_len..head_len + part.len()].copy_from_slice(part);
            head_len += part.len();
        }
        let len = head_len.saturating_add(data.len());
        let header = fuse_out_header {
            len: u32::try_from(len).expect("a reply is shorter than 4 GiB"),
            error: errno.map_or(0, |errno| -errno.get()),
            unique: to.0,
        };
        head[..HEADER].copy_from_slice(header.as_bytes());
        Self { head, head_len, data, id: to, errno }
    }

    fn fixed(to: RequestId, part: &(impl IntoBytes + Immutable)) -> Self {
        Self::new(to, None, &[part.as_bytes()], Data::One(&[]))
    }

    /// The request is refused.
    pub fn error(to: RequestId, errno: Errno) -> Self {
        Self::new(to, Some(errno), &[], Data::One(&[]))
    }

    /// It is done, and there is nothing to say.
    pub fn empty(to: RequestId) -> Self {
        Self::new(to, None, &[], Data::One(&[]))
    }

    /// LOOKUP, MKNOD, MKDIR, SYMLINK, LINK: what the name leads to.
    pub fn entry(to: RequestId, entry: &Entry) -> Self {
        Self::fixed(to, &entry_out(entry))
    }

    /// LOOKUP: there is no such name, and there will be none for `valid`.
    pub fn negative_entry(to: RequestId, valid: Duration) -> Self {
        Self::fixed(to, &negative_entry_out(valid))
    }

    /// GETATTR, SETATTR: the attributes, which hold for `valid`.
    pub fn attr(to: RequestId, attr: &Attr, valid: Duration) -> Self {
        let (attr_valid, attr_valid_nsec) = lifetime(valid);
        Self::fixed(
            to,
            &fuse_attr_out { attr_valid, attr_valid_nsec, dummy: 0, attr: wire_attr(attr) },
        )
    }

    /// STATX: the attributes, birth time included, which hold for `valid`.
    pub fn statx(to: RequestId, attr: &Attr, valid: Duration) -> Self {
        let (attr_valid, attr_valid_nsec) = lifetime(valid);
        let stat = wire_statx(attr);
        let out = fuse_statx_out { attr_valid, attr_valid_nsec, flags: 0, spare: [0; 2], stat };
        Self::new(to, None, &[&out.as_bytes()[..FIXED_MAX]], Data::One(STATX_SPARE))
    }

    /// OPEN, OPENDIR: the open file.
    pub fn opened(to: RequestId, opened: &Opened) -> Self {
        Self::fixed(to, &open_out(opened))
    }

    /// CREATE, TMPFILE: the new inode, and it open.
    pub fn created(to: RequestId, entry: &Entry, opened: &Opened) -> Self {
        let (entry, opened) = (entry_out(entry), open_out(opened));
        Self::new(to, None, &[entry.as_bytes(), opened.as_bytes()], Data::One(&[]))
    }

    /// READ, READDIR, READDIRPLUS, READLINK, GETXATTR, LISTXATTR: bytes.
    pub fn data(to: RequestId, data: &'a [u8]) -> Self {
        Self::new(to, None, &[], Data::One(data))
    }

    /// As [`Reply::data`], of bytes that lie in several places.
    pub fn data_chunks(to: RequestId, chunks: &'a [&'a [u8]]) -> Self {
        Self::new(to, None, &[], Data::Many(chunks))
    }

    /// As [`Reply::data`], of `len` bytes that the transport adds itself, by splice(2).
    pub fn data_elsewhere(to: RequestId, len: usize) -> Self {
        Self::new(to, None, &[], Data::Elsewhere(len))
    }

    /// As [`Reply::data`], of the first `len` bytes of the room that the transport lent with the request:
    /// where they are, nothing has to be copied on the ring.
    pub fn data_in_room(to: RequestId, len: usize) -> Self {
        Self::new(to, None, &[], Data::InRoom(len))
    }

    /// WRITE, COPY_FILE_RANGE: how many bytes.
    pub fn written(to: RequestId, size: u32) -> Self {
        Self::fixed(to, &fuse_write_out { size, padding: 0 })
    }

    /// COPY_FILE_RANGE_64: how many bytes.
    pub fn copied_64(to: RequestId, bytes_copied: u64) -> Self {
        Self::fixed(to, &fuse_copy_file_range_out { bytes_copied })
    }

    /// STATFS.
    pub fn statfs(to: RequestId, totals: &Statfs) -> Self {
        let &Statfs { blocks, bfree, bavail, files, ffree, bsize, namelen, frsize } = totals;
        let st = fuse_kstatfs {
            blocks,
            bfree,
            bavail,
            files,
            ffree,
            bsize,
            namelen,
            frsize,
            padding: 0,
            spare: [0; 6],
        };
        Self::fixed(to, &fuse_statfs_out { st })
    }

    /// GETXATTR and LISTXATTR with size 0: how many bytes the value or list has.
    pub fn xattr_size(to: RequestId, size: u32) -> Self {
        Self::fixed(to, &fuse_getxattr_out { size, padding: 0 })
    }

    /// GETLK: the lock in the way.
    pub fn lock(to: RequestId, lock: &Lock) -> Self {
        Self::fixed(to, &fuse_lk_out { lk: lock.to_wire() })
    }

    /// BMAP: the block on the device.
    pub fn bmap(to: RequestId, block: u64) -> Self {
        Self::fixed(to, &fuse_bmap_out { block })
    }

    /// LSEEK: the offset that was found.
    pub fn lseek(to: RequestId, offset: u64) -> Self {
        Self::fixed(to, &fuse_lseek_out { offset })
    }

    /// IOCTL: what ioctl(2) returns, and what goes to where its argument points.
    pub fn ioctl(to: RequestId, result: i32, data: &'a [u8]) -> Self {
        let out = fuse_ioctl_out { result, flags: 0, in_iovs: 0, out_iovs: 0 };
        Self::new(to, None, &[out.as_bytes()], Data::One(data))
    }

    /// POLL: which events are ready.
    pub fn poll(to: RequestId, revents: u32) -> Self {
        Self::fixed(to, &fuse_poll_out { revents, padding: 0 })
    }

    /// INIT: as long as `minor` of the kernel knows it.
    pub fn init(to: RequestId, out: &fuse_init_out, minor: u32) -> Self {
        let len = init_out_len(minor);
        Self::new(to, None, &[&out.as_bytes()[..len]], Data::One(&[]))
    }

    /// The same reply under another id: what the kernel knows the request by after sending it
    /// again.
    #[must_use]
    pub fn readdressed(mut self, to: RequestId) -> Self {
        self.id = to;
        let (_, unique) = self.head[..HEADER].split_at_mut(HEADER - size_of::<u64>());
        unique.copy_from_slice(to.0.as_bytes());
        self
    }

    /// The request this answers.
    pub const fn id(&self) -> RequestId {
        self.id
    }

    /// Why the request is refused, if it is.
    pub const fn errno(&self) -> Option<Errno> {
        self.errno
    }

    /// Bytes in all, header and data from elsewhere included.
    #[allow(clippy::len_without_is_empty, reason = "a reply has a header, so it is never empty")]
    pub fn len(&self) -> usize {
        self.head_len.saturating_add(self.data.len())
    }

    /// The header alone, for the ring.
    pub fn header(&self) -> &[u8] {
        &self.head[..HEADER]
    }

    /// The fixed part, without the header.
    pub fn fixed_part(&self) -> &[u8] {
        &self.head[HEADER..self.head_len]
    }

    /// Header and fixed part, in one chunk.
    pub fn head(&self) -> &[u8] {
        &self.head[..self.head_len]
    }

    /// The data, chunk by chunk; none for data from elsewhere or in the room.
    pub fn data_parts(&self) -> impl Iterator<Item = &[u8]> {
        let (one, many): (&[u8], &[&[u8]]) = match self.data {
            Data::One(chunk) => (chunk, &[]),
            Data::Many(chunks) => (&[], chunks),
            Data::Elsewhere(_) | Data::InRoom(_) => (&[], &[]),
        };
        std::iter::once(one).chain(many.iter().copied()).filter(|chunk| !chunk.is_empty())
    }

    /// How many bytes of data the transport has to add after the head; 0 unless made by
    /// [`Reply::data_elsewhere`].
    pub const fn elsewhere(&self) -> usize {
        match self.data {
            Data::Elsewhere(len) => len,
            Data::One(_) | Data::Many(_) | Data::InRoom(_) => 0,
        }
    }

    /// How many bytes of data are in the room that came with the request; `None` unless made by
    /// [`Reply::data_in_room`].
    pub const fn in_room(&self) -> Option<usize> {
        match self.data {
            Data::InRoom(len) => Some(len),
            Data::One(_) | Data::Many(_) | Data::Elsewhere(_) => None,
        }
    }

    /// The same reply, with its data taken out of `room` if that is where it is. What is not there is left
    /// out, and the kernel refuses the reply.
    #[must_use]
    pub fn out_of<'r>(&self, room: &'r [u8]) -> Reply<'r>
    where
        'a: 'r,
    {
        let data = match self.data {
            Data::InRoom(len) => Data::One(room.get(..len).unwrap_or_default()),
            other => other,
        };
        Reply { data, ..*self }
    }

    /// All there is to send, chunk by chunk.
    pub fn chunks(&self) -> impl Iterator<Item = &[u8]> {
        std::iter::once(self.head()).chain(self.data_parts())
    }

    /// Fills `slices` for a vectored write, and returns those that are filled; `None` if there are
    /// too few. `/dev/fuse` takes a reply in one write, so it cannot be sent in parts.
    pub fn io_slices<'s, 'v>(&'s self, slices: &'v mut [IoSlice<'s>]) -> Option<&'v [IoSlice<'s>]> {
        let mut used = 0;
        for chunk in self.chunks() {
            *slices.get_mut(used)? = IoSlice::new(chunk);
            used += 1;
        }
        slices.get(..used)
    }
}

/// A lifetime as seconds and nanoseconds.
fn lifetime(valid: Duration) -> (u64, u32) {
    (valid.as_secs(), valid.subsec_nanos())
}

fn wire_attr(attr: &Attr) -> fuse_attr {
    fuse_attr {
        ino: attr.ino,
        size: attr.size,
        blocks: attr.blocks,
        atime: attr.atime.secs.cast_unsigned(),
        mtime: attr.mtime.secs.cast_unsigned(),
        ctime: attr.ctime.secs.cast_unsigned(),
        atimensec: attr.atime.nanos,
        mtimensec: attr.mtime.nanos,
        ctimensec: attr.ctime.nanos,
        mode: attr.mode,
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        rdev: attr.rdev,
        blksize: attr.blksize,
        flags: 0,
    }
}

/// STATX_BASIC_STATS and STATX_BTIME: every field that `Attr` fills.
const STATX_FILLED: u32 = 0xfff;

fn wire_statx(attr: &Attr) -> fuse_statx {
    let time =
        |time: Timestamp| fuse_sx_time { tv_sec: time.secs, tv_nsec: time.nanos, __reserved: 0 };
    // `new_encode_dev` of the kernel: minor in bits 0..8 and 20..32, major in bits 8..20.
    let (rdev_major, rdev_minor) =
        ((attr.rdev >> 8) & 0xfff, (attr.rdev & 0xff) | ((attr.rdev >> 12) & 0xf_ff00));
    fuse_statx {
        mask: STATX_FILLED,
        blksize: attr.blksize,
        attributes: 0,
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        // A mode has 16 bits: type and permissions.
        mode: (attr.mode & 0xffff) as u16,
        __spare0: [0; 1],
        ino: attr.ino,
        size: attr.size,
        blocks: attr.blocks,
        attributes_mask: 0,
        atime: time(attr.atime),
        btime: time(attr.btime),
        ctime: time(attr.ctime),
        mtime: time(attr.mtime),
        rdev_major,
        rdev_minor,
        dev_major: 0,
        dev_minor: 0,
        __spare2: [0; 14],
    }
}

pub(super) fn entry_out(entry: &Entry) -> fuse_entry_out {
    let (entry_valid, entry_valid_nsec) = lifetime(entry.entry_valid);
    let (attr_valid, attr_valid_nsec) = lifetime(entry.attr_valid);
    fuse_entry_out {
        nodeid: entry.node.get(),
        generation: entry.generation,
        entry_valid,
        attr_valid,
        entry_valid_nsec,
        attr_valid_nsec,
        attr: wire_attr(&entry.attr),
    }
}

fn negative_entry_out(valid: Duration) -> fuse_entry_out {
    let (entry_valid, entry_valid_nsec) = lifetime(valid);
    fuse_entry_out {
        nodeid: 0,
        generation: 0,
        entry_valid,
        attr_valid: 0,
        entry_valid_nsec,
        attr_valid_nsec: 0,
        attr: wire_attr(&Attr::default()),
    }
}

fn open_out(opened: &Opened) -> fuse_open_out {
    fuse_open_out { fh: opened.handle.0, open_flags: opened.flags.0, backing_id: opened.backing_id }
}
