//! `FUSE_READ`: copy bytes out of an open file.

use crate::proto::abi::{FUSE_READ_LOCKOWNER, fuse_read_in};
use crate::proto::decode::{DecodeError, offset_in_range};
use crate::proto::message::Message;
use crate::proto::request::Body;
use crate::proto::types::{FileHandle, LockOwner, NodeId, OpenFlags};

/// Asks for at most `size` bytes at `offset`. A shorter answer means the file ends there, and past
/// the page cache just a short read.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Read {
    /// The file.
    pub node: NodeId,
    /// The open file.
    pub handle: FileHandle,
    /// First byte; the last one is at most at `i64::MAX`.
    pub offset: u64,
    /// At most `max_pages` pages.
    pub size: u32,
    /// The flags of the open file.
    pub flags: OpenFlags,
    /// Whose locks count, where locks are served.
    pub lock_owner: Option<LockOwner>,
}

impl Read {
    pub(super) fn decode(message: &Message<'_>) -> Result<Self, DecodeError> {
        let args: fuse_read_in = message.args()?;
        Ok(Self {
            node: message.node()?,
            handle: FileHandle(args.fh),
            offset: offset_in_range(args.offset, args.size.into())?,
            size: args.size,
            flags: OpenFlags(args.flags),
            lock_owner: (args.read_flags & FUSE_READ_LOCKOWNER != 0)
                .then_some(LockOwner(args.lock_owner)),
        })
    }

    pub(super) fn encode(self, body: &mut Body) {
        body.node = self.node.get();
        body.args(&fuse_read_in {
            fh: self.handle.0,
            offset: self.offset,
            size: self.size,
            read_flags: if self.lock_owner.is_some() { FUSE_READ_LOCKOWNER } else { 0 },
            lock_owner: self.lock_owner.unwrap_or_default().0,
            flags: self.flags.0,
            padding: 0,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::abi::FUSE_READ;
    use crate::proto::op::Op;
    use crate::proto::op::tests::Word::{I, L};
    use crate::proto::op::tests::{NODE, decode, words};

    #[test]
    fn each_field_is_where_the_kernel_puts_it() {
        let args = words(&[L(1), L(2), I(3), I(2), L(4), I(5), I(0)]);
        let expected = Read {
            node: NODE,
            handle: FileHandle(1),
            offset: 2,
            size: 3,
            flags: OpenFlags(5),
            lock_owner: Some(LockOwner(4)),
        };
        assert_eq!(decode(FUSE_READ, &args, b""), Ok(Op::Read(expected)));
    }

    #[test]
    fn a_body_cut_short_is_refused() {
        let args = words(&[L(1), L(2), I(3), I(2), L(4), I(5), I(0)]);
        assert_eq!(decode(FUSE_READ, &args[..args.len() - 1], b""), Err(DecodeError::Short));
    }

    #[test]
    fn the_last_byte_of_the_largest_file_can_be_read_and_none_after_it() {
        let read = |offset, size| {
            let args = words(&[L(1), L(offset), I(size), I(0), L(0), I(0), I(0)]);
            decode(FUSE_READ, &args, b"").map(|_| ())
        };
        let page = (1 << 63) - 4096;
        assert_eq!(read(page, 4096), Ok(()));
        assert_eq!(read(page, 4097), Err(DecodeError::Value));
        assert_eq!(read(u64::MAX, 1), Err(DecodeError::Value));
        assert_eq!(read(1 << 63, 0), Err(DecodeError::Value));
    }
}
