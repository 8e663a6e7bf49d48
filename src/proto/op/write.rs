//! `FUSE_WRITE`: copy bytes into a file.

use crate::proto::abi::{
    FUSE_WRITE_CACHE, FUSE_WRITE_KILL_SUIDGID, FUSE_WRITE_LOCKOWNER, fuse_write_in,
};
use crate::proto::decode::{DecodeError, offset_in_range};
use crate::proto::message::Message;
use crate::proto::request::Body;
use crate::proto::types::{FileHandle, LockOwner, NodeId, OpenFlags};

/// Asks to put `data` at `offset`. Answered with how many bytes were written; fewer than all is an
/// error to the caller unless the file is open past the page cache.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Write<'a> {
    /// The file.
    pub node: NodeId,
    /// The open file; with `from_cache` one of those that could have written it.
    pub handle: FileHandle,
    /// First byte; the last one is at most at `i64::MAX`.
    pub offset: u64,
    /// What to write, in place in the message.
    pub data: &'a [u8],
    /// The flags of the open file; O_SYNC here is the only sign of it past the page cache.
    pub flags: OpenFlags,
    /// Whose locks count, where locks are served.
    pub lock_owner: Option<LockOwner>,
    /// Written back from mapped or cached pages: the caller in the header is nobody.
    pub from_cache: bool,
    /// Clear set-id bits as SETATTR does (7.31).
    pub kill_suidgid: bool,
}

impl<'a> Write<'a> {
    pub(super) fn decode(message: &Message<'a>) -> Result<Self, DecodeError> {
        let args: fuse_write_in = message.args()?;
        let len = usize::try_from(args.size).map_err(|_| DecodeError::Short)?;
        Ok(Self {
            node: message.node()?,
            handle: FileHandle(args.fh),
            offset: offset_in_range(args.offset, args.size.into())?,
            data: message.body().bytes(len)?,
            flags: OpenFlags(args.flags),
            lock_owner: (args.write_flags & FUSE_WRITE_LOCKOWNER != 0)
                .then_some(LockOwner(args.lock_owner)),
            from_cache: args.write_flags & FUSE_WRITE_CACHE != 0,
            kill_suidgid: args.write_flags & FUSE_WRITE_KILL_SUIDGID != 0,
        })
    }

    pub(super) fn encode(self, body: &mut Body) {
        let flag = |set, flag| if set { flag } else { 0 };
        body.node = self.node.get();
        body.args(&fuse_write_in {
            fh: self.handle.0,
            offset: self.offset,
            size: Body::len_u32(self.data),
            write_flags: flag(self.lock_owner.is_some(), FUSE_WRITE_LOCKOWNER)
                | flag(self.from_cache, FUSE_WRITE_CACHE)
                | flag(self.kill_suidgid, FUSE_WRITE_KILL_SUIDGID),
            lock_owner: self.lock_owner.unwrap_or_default().0,
            flags: self.flags.0,
            padding: 0,
        });
        body.bytes(self.data);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::abi::FUSE_WRITE;
    use crate::proto::op::Op;
    use crate::proto::op::tests::Word::{I, L};
    use crate::proto::op::tests::{NODE, decode, words};

    #[test]
    fn each_field_is_where_the_kernel_puts_it() {
        let args = words(&[L(1), L(2), I(3), I(5), L(4), I(6), I(0)]);
        let expected = Write {
            node: NODE,
            handle: FileHandle(1),
            offset: 2,
            data: b"abc",
            flags: OpenFlags(6),
            lock_owner: None,
            from_cache: true,
            kill_suidgid: true,
        };
        assert_eq!(decode(FUSE_WRITE, &args, b"abc"), Ok(Op::Write(expected)));
    }

    #[test]
    fn a_body_cut_short_is_refused() {
        let args = words(&[L(1), L(2), I(3), I(5), L(4), I(6), I(0)]);
        assert_eq!(decode(FUSE_WRITE, &args[..args.len() - 1], b"abc"), Err(DecodeError::Short));
    }

    #[test]
    fn fewer_bytes_than_counted_are_refused() {
        let args = words(&[L(1), L(0), I(4), I(0), L(0), I(0), I(0)]);
        assert_eq!(decode(FUSE_WRITE, &args, b"abc"), Err(DecodeError::Short));
        let args = words(&[L(1), L(0), I(u32::MAX), I(0), L(0), I(0), I(0)]);
        assert_eq!(decode(FUSE_WRITE, &args, b"abc"), Err(DecodeError::Short));
    }
}
