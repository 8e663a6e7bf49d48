//! A request as it comes from the kernel: header, fixed part, payload.
//!
//! ```text
//! /dev/fuse:  one read           | header 40 | args | payload                | extensions |
//! io_uring:   three buffers      | header 40 |   | args |   | payload        | extensions |
//! ```
//!
//! `args` is the struct an operation begins with ([`args_len`] bytes, none for some), `payload`
//! everything after it. On the ring the kernel puts them into different buffers, so they stay apart
//! here whatever the transport.
//!
//! Invariants: nothing is assumed about the alignment of any part, and no part reaches outside the
//! bytes it was made of.

use zerocopy::FromBytes;

use super::abi::*;
use super::decode::{Cursor, DecodeError};
use super::extension::Extensions;
use super::types::{Caller, NodeId, RequestId};

/// In which form messages come, as agreed on at INIT.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Dialect {
    /// The minor version: the smaller one of the kernel's and ours.
    pub minor: u32,
    /// Whether SETXATTR comes with its flags (FUSE_SETXATTR_EXT, 7.33).
    pub setxattr_ext: bool,
}

impl Dialect {
    /// The newest form of everything.
    pub const NEWEST: Self = Self { minor: FUSE_KERNEL_MINOR_VERSION, setxattr_ext: true };
}

/// One request, not yet understood.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    /// The header, copied out.
    pub header: fuse_in_header,
    /// The fixed part; [`args_len`] bytes of it are looked at.
    pub args: &'a [u8],
    /// Names, data and extensions.
    pub payload: &'a [u8],
}

impl<'a> Message<'a> {
    /// Reads the header alone: enough to answer a request that is otherwise malformed.
    pub fn header(bytes: &[u8]) -> Result<fuse_in_header, DecodeError> {
        let (header, _) =
            fuse_in_header::read_from_prefix(bytes).map_err(|_| DecodeError::Short)?;
        Ok(header)
    }

    /// Takes apart what one read of `/dev/fuse` returned.
    ///
    /// # Errors
    ///
    /// `Short` if header or fixed part are cut off, `Length` if the header counts other than
    /// `bytes.len()`, `Opcode` if no operation has the number.
    pub fn split(bytes: &'a [u8], dialect: Dialect) -> Result<Self, DecodeError> {
        let header = Self::header(bytes)?;
        if usize::try_from(header.len) != Ok(bytes.len()) {
            return Err(DecodeError::Length);
        }
        let body = bytes.get(size_of::<fuse_in_header>()..).ok_or(DecodeError::Short)?;
        let len = args_len(header.opcode, dialect)
            .ok_or(DecodeError::Opcode(header.opcode))?
            .in_body(body.len());
        let (args, payload) = body.split_at_checked(len).ok_or(DecodeError::Short)?;
        Ok(Self { header, args, payload })
    }

    /// Puts together what the ring delivers in three buffers.
    ///
    /// `op_in` is the area for the fixed part, which may be larger than the operation's; `payload`
    /// must be exactly as long as the ring entry says.
    ///
    /// # Errors
    ///
    /// As [`Message::split`], with `Length` where the header counts more than these parts hold.
    pub fn from_parts(
        header: fuse_in_header,
        op_in: &'a [u8],
        payload: &'a [u8],
        dialect: Dialect,
    ) -> Result<Self, DecodeError> {
        let body = usize::try_from(header.len)
            .ok()
            .and_then(|len| len.checked_sub(size_of::<fuse_in_header>()))
            .ok_or(DecodeError::Length)?;
        let len = args_len(header.opcode, dialect)
            .ok_or(DecodeError::Opcode(header.opcode))?
            .in_body(body);
        let args = op_in.get(..len).ok_or(DecodeError::Short)?;
        if len.checked_add(payload.len()) != Some(body) {
            return Err(DecodeError::Length);
        }
        Ok(Self { header, args, payload })
    }

    /// What the reply is tied to.
    pub const fn id(&self) -> RequestId {
        RequestId(self.header.unique)
    }

    /// Who asked.
    pub const fn caller(&self) -> Caller {
        Caller { uid: self.header.uid, gid: self.header.gid, pid: self.header.pid }
    }

    /// The inode the request is about.
    pub(super) fn node(&self) -> Result<NodeId, DecodeError> {
        NodeId::new(self.header.nodeid).ok_or(DecodeError::Node)
    }

    /// The fixed part, wherever it is aligned.
    pub(super) fn args<T: FromBytes>(&self) -> Result<T, DecodeError> {
        Cursor::new(self.args).take()
    }

    /// The payload of an operation that never has extensions.
    pub(super) fn body(&self) -> Cursor<'a> {
        Cursor::new(self.payload)
    }

    /// The payload of an operation that makes an inode, and the extensions after it.
    ///
    /// Extensions are the last `total_extlen` times 8 bytes (7.38). What is before them has any
    /// length, so they are not aligned.
    pub(super) fn body_and_extensions(&self) -> Result<(Cursor<'a>, Extensions<'a>), DecodeError> {
        let len = usize::from(self.header.total_extlen) * 8;
        let start = self.payload.len().checked_sub(len).ok_or(DecodeError::Extensions)?;
        let (body, extensions) =
            self.payload.split_at_checked(start).ok_or(DecodeError::Extensions)?;
        Ok((Cursor::new(body), Extensions::new(extensions)?))
    }
}

/// How long the fixed part of an operation is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ArgsLen {
    /// So many bytes.
    Exactly(usize),
    /// All of the body: INIT and CUSE_INIT, which grew and have no payload.
    All,
}

impl ArgsLen {
    /// The length in a body of `body` bytes.
    pub const fn in_body(self, body: usize) -> usize {
        match self {
            Self::Exactly(len) => len,
            Self::All => body,
        }
    }
}

/// The length of the fixed part of `opcode`, or `None` if no operation has that number.
pub const fn args_len(opcode: u32, dialect: Dialect) -> Option<ArgsLen> {
    Some(ArgsLen::Exactly(match opcode {
        FUSE_INIT | CUSE_INIT => return Some(ArgsLen::All),
        FUSE_LOOKUP | FUSE_READLINK | FUSE_SYMLINK | FUSE_UNLINK | FUSE_RMDIR | FUSE_STATFS
        | FUSE_REMOVEXATTR | FUSE_DESTROY => 0,
        FUSE_FORGET => size_of::<fuse_forget_in>(),
        FUSE_GETATTR => size_of::<fuse_getattr_in>(),
        FUSE_SETATTR => size_of::<fuse_setattr_in>(),
        FUSE_MKNOD => size_of::<fuse_mknod_in>(),
        FUSE_MKDIR => size_of::<fuse_mkdir_in>(),
        FUSE_RENAME => size_of::<fuse_rename_in>(),
        FUSE_LINK => size_of::<fuse_link_in>(),
        FUSE_OPEN | FUSE_OPENDIR => size_of::<fuse_open_in>(),
        FUSE_READ | FUSE_READDIR | FUSE_READDIRPLUS => size_of::<fuse_read_in>(),
        FUSE_WRITE => size_of::<fuse_write_in>(),
        FUSE_RELEASE | FUSE_RELEASEDIR => size_of::<fuse_release_in>(),
        FUSE_FSYNC | FUSE_FSYNCDIR => size_of::<fuse_fsync_in>(),
        FUSE_SETXATTR if dialect.setxattr_ext => size_of::<fuse_setxattr_in>(),
        FUSE_SETXATTR => FUSE_COMPAT_SETXATTR_IN_SIZE,
        FUSE_GETXATTR | FUSE_LISTXATTR => size_of::<fuse_getxattr_in>(),
        FUSE_FLUSH => size_of::<fuse_flush_in>(),
        FUSE_GETLK | FUSE_SETLK | FUSE_SETLKW => size_of::<fuse_lk_in>(),
        FUSE_ACCESS => size_of::<fuse_access_in>(),
        FUSE_CREATE | FUSE_TMPFILE => size_of::<fuse_create_in>(),
        FUSE_INTERRUPT => size_of::<fuse_interrupt_in>(),
        FUSE_BMAP => size_of::<fuse_bmap_in>(),
        FUSE_IOCTL => size_of::<fuse_ioctl_in>(),
        FUSE_POLL => size_of::<fuse_poll_in>(),
        FUSE_NOTIFY_REPLY => size_of::<fuse_notify_retrieve_in>(),
        FUSE_BATCH_FORGET => size_of::<fuse_batch_forget_in>(),
        FUSE_FALLOCATE => size_of::<fuse_fallocate_in>(),
        FUSE_RENAME2 => size_of::<fuse_rename2_in>(),
        FUSE_LSEEK => size_of::<fuse_lseek_in>(),
        FUSE_COPY_FILE_RANGE | FUSE_COPY_FILE_RANGE_64 => size_of::<fuse_copy_file_range_in>(),
        FUSE_SETUPMAPPING => size_of::<fuse_setupmapping_in>(),
        FUSE_REMOVEMAPPING => size_of::<fuse_removemapping_in>(),
        FUSE_SYNCFS => size_of::<fuse_syncfs_in>(),
        FUSE_STATX => size_of::<fuse_statx_in>(),
        _ => return None,
    }))
}

/// The node that a message names, before anything of it is checked; 0 where there is none.
#[must_use]
pub fn node_of(bytes: &[u8]) -> u64 {
    fuse_in_header::read_from_prefix(bytes).map_or(0, |(header, _)| header.nodeid)
}
