//! `FUSE_RELEASE`: close an open file for good.

use crate::proto::abi::{FUSE_RELEASE_FLOCK_UNLOCK, FUSE_RELEASE_FLUSH, fuse_release_in};
use crate::proto::decode::DecodeError;
use crate::proto::message::Message;
use crate::proto::request::Body;
use crate::proto::types::{FileHandle, LockOwner, NodeId, OpenFlags};

/// Says that `handle` is gone: no descriptor and no mapping refers to it. Sent once per handle,
/// after close(2) may have returned, and with nobody as the caller. The answer is not looked at.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Release {
    /// The file.
    pub node: NodeId,
    /// The open file.
    pub handle: FileHandle,
    /// The flags of the open file.
    pub flags: OpenFlags,
    /// Whose locks are to go, with `flush` or `flock_unlock`.
    pub lock_owner: LockOwner,
    /// Do first what FLUSH does; not sent by today's kernels.
    pub flush: bool,
    /// Release a flock(2) lock (7.17).
    pub flock_unlock: bool,
}

impl Release {
    pub(super) fn decode(message: &Message<'_>) -> Result<Self, DecodeError> {
        let args: fuse_release_in = message.args()?;
        Ok(Self {
            node: message.node()?,
            handle: FileHandle(args.fh),
            flags: OpenFlags(args.flags),
            lock_owner: LockOwner(args.lock_owner),
            flush: args.release_flags & FUSE_RELEASE_FLUSH != 0,
            flock_unlock: args.release_flags & FUSE_RELEASE_FLOCK_UNLOCK != 0,
        })
    }

    pub(super) fn encode(self, body: &mut Body) {
        let flag = |set, flag| if set { flag } else { 0 };
        body.node = self.node.get();
        body.args(&fuse_release_in {
            fh: self.handle.0,
            flags: self.flags.0,
            release_flags: flag(self.flush, FUSE_RELEASE_FLUSH)
                | flag(self.flock_unlock, FUSE_RELEASE_FLOCK_UNLOCK),
            lock_owner: self.lock_owner.0,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::abi::FUSE_RELEASE;
    use crate::proto::op::Op;
    use crate::proto::op::tests::Word::{I, L};
    use crate::proto::op::tests::{NODE, decode, words};

    #[test]
    fn each_field_is_where_the_kernel_puts_it() {
        let args = words(&[L(1), I(2), I(2), L(3)]);
        let expected = Release {
            node: NODE,
            handle: FileHandle(1),
            flags: OpenFlags(2),
            lock_owner: LockOwner(3),
            flush: false,
            flock_unlock: true,
        };
        assert_eq!(decode(FUSE_RELEASE, &args, b""), Ok(Op::Release(expected)));
    }

    #[test]
    fn a_body_cut_short_is_refused() {
        let args = words(&[L(1), I(2), I(2), L(3)]);
        assert_eq!(decode(FUSE_RELEASE, &args[..args.len() - 1], b""), Err(DecodeError::Short));
    }
}
