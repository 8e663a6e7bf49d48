//! `FUSE_FLUSH`: a descriptor of an open file is closed.

use crate::proto::abi::fuse_flush_in;
use crate::proto::decode::DecodeError;
use crate::proto::message::Message;
use crate::proto::request::Body;
use crate::proto::types::{FileHandle, LockOwner, NodeId};

/// Says that a process closes a descriptor; sent for each close(2), so any number of times per
/// handle. The answer is what close(2) returns. ENOSYS stops the kernel asking, and mapped pages
/// are still written back at close.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Flush {
    /// The file.
    pub node: NodeId,
    /// The open file.
    pub handle: FileHandle,
    /// Whose POSIX locks are to go, where locks are served.
    pub lock_owner: LockOwner,
}

impl Flush {
    pub(super) fn decode(message: &Message<'_>) -> Result<Self, DecodeError> {
        let fuse_flush_in { fh, lock_owner, .. } = message.args()?;
        Ok(Self {
            node: message.node()?,
            handle: FileHandle(fh),
            lock_owner: LockOwner(lock_owner),
        })
    }

    pub(super) fn encode(self, body: &mut Body) {
        body.node = self.node.get();
        body.args(&fuse_flush_in {
            fh: self.handle.0,
            unused: 0,
            padding: 0,
            lock_owner: self.lock_owner.0,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::abi::FUSE_FLUSH;
    use crate::proto::op::Op;
    use crate::proto::op::tests::Word::{I, L};
    use crate::proto::op::tests::{NODE, decode, words};

    #[test]
    fn each_field_is_where_the_kernel_puts_it() {
        let args = words(&[L(1), I(0), I(0), L(2)]);
        let expected = Flush { node: NODE, handle: FileHandle(1), lock_owner: LockOwner(2) };
        assert_eq!(decode(FUSE_FLUSH, &args, b""), Ok(Op::Flush(expected)));
    }

    #[test]
    fn a_body_cut_short_is_refused() {
        let args = words(&[L(1), I(0), I(0), L(2)]);
        assert_eq!(decode(FUSE_FLUSH, &args[..args.len() - 1], b""), Err(DecodeError::Short));
    }
}
