//! Replies the other way round: from bytes to what a kernel makes of them.
//!
//! A stand-in for the kernel and the tests read replies with it; the server never does.
//!
//! Invariants: what [`Reply`](super::Reply) makes is read back as the values that went in, and a
//! fixed part of another length than the kernel expects is refused, as the kernel does.

use std::time::Duration;

use zerocopy::FromBytes;

use super::abi::*;
use super::decode::DecodeError;
use super::types::{
    Attr, Entry, Errno, FileHandle, Lock, NodeId, Opened, OpenedFlags, RequestId, Statfs, Timestamp,
};

/// One reply, taken apart.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Answer<'a> {
    /// The request it answers.
    pub id: RequestId,
    /// Its fixed part and data, or why the request was refused.
    pub result: Result<Body<'a>, Errno>,
}

/// What follows the header of a reply.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Body<'a>(pub &'a [u8]);

impl<'a> Answer<'a> {
    /// Takes apart what one write to `/dev/fuse` brought.
    ///
    /// # Errors
    ///
    /// `Short` without a whole header; `Length` if it counts other than `bytes.len()`, or a refusal
    /// has a body; `Value` for an error number outside -511..=0, and for id 0, which marks a
    /// notification.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let (header, body) =
            fuse_out_header::read_from_prefix(bytes).map_err(|_| DecodeError::Short)?;
        if usize::try_from(header.len) != Ok(bytes.len()) {
            return Err(DecodeError::Length);
        }
        if header.unique == 0 {
            return Err(DecodeError::Value);
        }
        let result = if header.error == 0 {
            Ok(Body(body))
        } else if body.is_empty() {
            let errno = header.error.checked_neg().and_then(Errno::new);
            Err(errno.ok_or(DecodeError::Value)?)
        } else {
            return Err(DecodeError::Length);
        };
        Ok(Self { id: RequestId(header.unique), result })
    }
}

impl<'a> Body<'a> {
    fn exactly<T: FromBytes>(self) -> Result<T, DecodeError> {
        T::read_from_bytes(self.0).map_err(|_| DecodeError::Length)
    }

    /// Nothing.
    pub fn empty(self) -> Result<(), DecodeError> {
        if self.0.is_empty() { Ok(()) } else { Err(DecodeError::Length) }
    }

    /// Of READ, READDIR, READDIRPLUS, READLINK, GETXATTR and LISTXATTR: bytes, at most `max` of
    /// them.
    pub fn data(self, max: u32) -> Result<&'a [u8], DecodeError> {
        match usize::try_from(max) {
            Ok(max) if self.0.len() > max => Err(DecodeError::Length),
            _ => Ok(self.0),
        }
    }

    /// Of LOOKUP, MKNOD, MKDIR, SYMLINK and LINK: an entry, or for how long there is none.
    pub fn entry(self) -> Result<Result<Entry, Duration>, DecodeError> {
        let out: fuse_entry_out = self.exactly()?;
        let none = lifetime(out.entry_valid, out.entry_valid_nsec);
        Ok(entry_from_wire(&out).ok_or(none))
    }

    /// Of CREATE and TMPFILE.
    pub fn created(self) -> Result<(Entry, Opened), DecodeError> {
        let (entry, rest) =
            fuse_entry_out::read_from_prefix(self.0).map_err(|_| DecodeError::Length)?;
        Ok((entry_from_wire(&entry).ok_or(DecodeError::Node)?, Body(rest).opened()?))
    }

    /// Of OPEN and OPENDIR.
    pub fn opened(self) -> Result<Opened, DecodeError> {
        let fuse_open_out { fh, open_flags, backing_id } = self.exactly()?;
        Ok(Opened { handle: FileHandle(fh), flags: OpenedFlags(open_flags), backing_id })
    }

    /// Of GETATTR and SETATTR: attributes, and how long they hold.
    pub fn attr(self) -> Result<(Attr, Duration), DecodeError> {
        let out: fuse_attr_out = self.exactly()?;
        Ok((attr_from_wire(&out.attr), lifetime(out.attr_valid, out.attr_valid_nsec)))
    }

    /// Of STATX: attributes, and how long they hold.
    pub fn statx(self) -> Result<(Attr, Duration), DecodeError> {
        let out: fuse_statx_out = self.exactly()?;
        let stat = &out.stat;
        let time = |time: fuse_sx_time| Timestamp::new(time.tv_sec, time.tv_nsec);
        let attr = Attr {
            ino: stat.ino,
            size: stat.size,
            blocks: stat.blocks,
            atime: time(stat.atime),
            mtime: time(stat.mtime),
            ctime: time(stat.ctime),
            btime: time(stat.btime),
            mode: stat.mode.into(),
            nlink: stat.nlink,
            uid: stat.uid,
            gid: stat.gid,
            rdev: (stat.rdev_minor & 0xff)
                | ((stat.rdev_major & 0xfff) << 8)
                | ((stat.rdev_minor & 0xf_ff00) << 12),
            blksize: stat.blksize,
        };
        Ok((attr, lifetime(out.attr_valid, out.attr_valid_nsec)))
    }

    /// Of WRITE and COPY_FILE_RANGE: how many bytes.
    pub fn written(self) -> Result<u32, DecodeError> {
        Ok(self.exactly::<fuse_write_out>()?.size)
    }

    /// Of COPY_FILE_RANGE_64: how many bytes.
    pub fn copied_64(self) -> Result<u64, DecodeError> {
        Ok(self.exactly::<fuse_copy_file_range_out>()?.bytes_copied)
    }

    /// Of STATFS.
    pub fn statfs(self) -> Result<Statfs, DecodeError> {
        let fuse_kstatfs { blocks, bfree, bavail, files, ffree, bsize, namelen, frsize, .. } =
            self.exactly::<fuse_statfs_out>()?.st;
        Ok(Statfs { blocks, bfree, bavail, files, ffree, bsize, namelen, frsize })
    }

    /// Of GETXATTR and LISTXATTR with size 0.
    pub fn xattr_size(self) -> Result<u32, DecodeError> {
        Ok(self.exactly::<fuse_getxattr_out>()?.size)
    }

    /// Of GETLK.
    pub fn lock(self) -> Result<Lock, DecodeError> {
        Lock::from_wire(&self.exactly::<fuse_lk_out>()?.lk).ok_or(DecodeError::Value)
    }

    /// Of BMAP.
    pub fn bmap(self) -> Result<u64, DecodeError> {
        Ok(self.exactly::<fuse_bmap_out>()?.block)
    }

    /// Of LSEEK.
    pub fn lseek(self) -> Result<u64, DecodeError> {
        Ok(self.exactly::<fuse_lseek_out>()?.offset)
    }

    /// Of IOCTL: what ioctl(2) returns, and bytes for where its argument points.
    pub fn ioctl(self) -> Result<(i32, &'a [u8]), DecodeError> {
        let (out, data) =
            fuse_ioctl_out::read_from_prefix(self.0).map_err(|_| DecodeError::Length)?;
        Ok((out.result, data))
    }

    /// Of POLL: which events are ready.
    pub fn poll(self) -> Result<u32, DecodeError> {
        Ok(self.exactly::<fuse_poll_out>()?.revents)
    }

    /// Of INIT, in the length that `minor` of the kernel knows; what is beyond it is 0.
    pub fn init(self, minor: u32) -> Result<fuse_init_out, DecodeError> {
        if self.0.len() != init_out_len(minor) {
            return Err(DecodeError::Length);
        }
        let mut out = [0; size_of::<fuse_init_out>()];
        out.get_mut(..self.0.len()).ok_or(DecodeError::Length)?.copy_from_slice(self.0);
        fuse_init_out::read_from_bytes(&out).map_err(|_| DecodeError::Length)
    }
}

/// How much of `fuse_init_out` a kernel of this minor version takes.
pub(super) const fn init_out_len(minor: u32) -> usize {
    match minor {
        0..5 => FUSE_COMPAT_INIT_OUT_SIZE,
        5..23 => FUSE_COMPAT_22_INIT_OUT_SIZE,
        _ => size_of::<fuse_init_out>(),
    }
}

/// A lifetime; nanoseconds too large are cut down, as the kernel does.
fn lifetime(secs: u64, nanos: u32) -> Duration {
    Duration::new(secs, nanos.min(999_999_999))
}

/// `None` for node 0.
pub(super) fn entry_from_wire(out: &fuse_entry_out) -> Option<Entry> {
    Some(Entry {
        node: NodeId::new(out.nodeid)?,
        generation: out.generation,
        attr: attr_from_wire(&out.attr),
        entry_valid: lifetime(out.entry_valid, out.entry_valid_nsec),
        attr_valid: lifetime(out.attr_valid, out.attr_valid_nsec),
    })
}

fn attr_from_wire(attr: &fuse_attr) -> Attr {
    Attr {
        ino: attr.ino,
        size: attr.size,
        blocks: attr.blocks,
        atime: Timestamp::new(attr.atime.cast_signed(), attr.atimensec),
        mtime: Timestamp::new(attr.mtime.cast_signed(), attr.mtimensec),
        ctime: Timestamp::new(attr.ctime.cast_signed(), attr.ctimensec),
        btime: Timestamp::default(),
        mode: attr.mode,
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        rdev: attr.rdev,
        blksize: attr.blksize,
    }
}
