//! `FUSE_READLINK`: where a symbolic link points.

use crate::proto::decode::DecodeError;
use crate::proto::message::Message;
use crate::proto::request::Body;
use crate::proto::types::NodeId;

/// Asks for the target of the symbolic link `node`. Answered with its bytes, without NUL, fewer
/// than 4096.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ReadLink {
    /// The link.
    pub node: NodeId,
}

impl ReadLink {
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
    use crate::proto::abi::FUSE_READLINK;
    use crate::proto::op::Op;
    use crate::proto::op::tests::{NODE, decode};

    #[test]
    fn each_field_is_where_the_kernel_puts_it() {
        let args = b"";
        let expected = ReadLink { node: NODE };
        assert_eq!(decode(FUSE_READLINK, args, b""), Ok(Op::ReadLink(expected)));
    }
}
