//! `FUSE_GETLK`: which lock is in the way.

use crate::proto::abi::{FUSE_LK_FLOCK, fuse_lk_in};
use crate::proto::decode::DecodeError;
use crate::proto::message::Message;
use crate::proto::request::Body;
use crate::proto::types::{FileHandle, Lock, LockOwner, NodeId};

/// Asks which lock would refuse `lock` to `owner`. Answered with that lock, or one of kind
/// `Unlock`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct GetLk {
    /// The file.
    pub node: NodeId,
    /// The open file.
    pub handle: FileHandle,
    /// Who asks.
    pub owner: LockOwner,
    /// The range, and what it is to be.
    pub lock: Lock,
    /// A flock(2) lock, on the whole file; else a POSIX lock.
    pub flock: bool,
}

impl GetLk {
    pub(super) fn decode(message: &Message<'_>) -> Result<Self, DecodeError> {
        let args: fuse_lk_in = message.args()?;
        Ok(Self {
            node: message.node()?,
            handle: FileHandle(args.fh),
            owner: LockOwner(args.owner),
            lock: Lock::from_wire(&args.lk).ok_or(DecodeError::Value)?,
            flock: args.lk_flags & FUSE_LK_FLOCK != 0,
        })
    }

    pub(super) fn encode(self, body: &mut Body) {
        body.node = self.node.get();
        body.args(&fuse_lk_in {
            fh: self.handle.0,
            owner: self.owner.0,
            lk: self.lock.to_wire(),
            lk_flags: if self.flock { FUSE_LK_FLOCK } else { 0 },
            padding: 0,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::abi::FUSE_GETLK;
    use crate::proto::op::Op;
    use crate::proto::op::tests::Word::{I, L};
    use crate::proto::op::tests::{NODE, decode, words};
    use crate::proto::types::LockKind;

    #[test]
    fn each_field_is_where_the_kernel_puts_it() {
        let args = words(&[L(1), L(2), L(3), L(4), I(0), I(5), I(0), I(0)]);
        let expected = GetLk {
            node: NODE,
            handle: FileHandle(1),
            owner: LockOwner(2),
            lock: Lock { start: 3, end: 4, kind: LockKind::Read, pid: 5 },
            flock: false,
        };
        assert_eq!(decode(FUSE_GETLK, &args, b""), Ok(Op::GetLk(expected)));
    }

    #[test]
    fn a_body_cut_short_is_refused() {
        let args = words(&[L(1), L(2), L(3), L(4), I(0), I(5), I(0), I(0)]);
        assert_eq!(decode(FUSE_GETLK, &args[..args.len() - 1], b""), Err(DecodeError::Short));
    }
}
