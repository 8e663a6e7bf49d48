//! `FUSE_SYNCFS`: bring everything to the disk.

use crate::proto::abi::fuse_syncfs_in;
use crate::proto::decode::DecodeError;
use crate::proto::message::Message;
use crate::proto::request::Body;
use crate::proto::types::NodeId;

/// Asks to return when the whole filesystem is on the disk (7.34). Sent by virtiofs and to mounts
/// of a block device alone: syncfs(2) on a plain mount does not reach the server. Answered with
/// nothing.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct SyncFs {
    /// The root of the mount.
    pub node: NodeId,
}

impl SyncFs {
    pub(super) fn decode(message: &Message<'_>) -> Result<Self, DecodeError> {
        Ok(Self { node: message.node()? })
    }

    pub(super) fn encode(self, body: &mut Body) {
        body.node = self.node.get();
        body.args(&fuse_syncfs_in { padding: 0 });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::abi::FUSE_SYNCFS;
    use crate::proto::op::Op;
    use crate::proto::op::tests::Word::L;
    use crate::proto::op::tests::{NODE, decode, words};

    #[test]
    fn each_field_is_where_the_kernel_puts_it() {
        let args = words(&[L(0)]);
        let expected = SyncFs { node: NODE };
        assert_eq!(decode(FUSE_SYNCFS, &args, b""), Ok(Op::SyncFs(expected)));
    }
}
