//! `FUSE_STATFS`: totals of the filesystem.

use crate::proto::decode::DecodeError;
use crate::proto::message::Message;
use crate::proto::request::Body;
use crate::proto::types::NodeId;

/// Asks for the totals of the filesystem. Answered with a `Statfs`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct StatFs {
    /// Any inode on it; the kernel sends the one asked about.
    pub node: NodeId,
}

impl StatFs {
    pub(super) fn decode(message: &Message<'_>) -> Result<Self, DecodeError> {
        Ok(Self { node: message.node()? })
    }

    pub(super) fn encode(self, body: &mut Body) {
        body.node = self.node.get();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::abi::FUSE_STATFS;
    use crate::proto::op::Op;
    use crate::proto::op::tests::{NODE, decode};

    #[test]
    fn each_field_is_where_the_kernel_puts_it() {
        let args = b"";
        let expected = StatFs { node: NODE };
        assert_eq!(decode(FUSE_STATFS, args, b""), Ok(Op::StatFs(expected)));
    }
}
