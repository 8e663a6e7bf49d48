//! `FUSE_LISTXATTR`: names of extended attributes.

use crate::proto::abi::fuse_getxattr_in;
use crate::proto::decode::DecodeError;
use crate::proto::message::Message;
use crate::proto::request::Body;
use crate::proto::types::NodeId;

/// Asks for the names of all attributes, each ended by NUL. Answered as GETXATTR.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ListXattr {
    /// The inode.
    pub node: NodeId,
    /// Room for the list in bytes; 0 asks how long it is.
    pub size: u32,
}

impl ListXattr {
    pub(super) fn decode(message: &Message<'_>) -> Result<Self, DecodeError> {
        let fuse_getxattr_in { size, .. } = message.args()?;
        Ok(Self { node: message.node()?, size })
    }

    pub(super) fn encode(self, body: &mut Body) {
        body.node = self.node.get();
        body.args(&fuse_getxattr_in { size: self.size, padding: 0 });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::abi::FUSE_LISTXATTR;
    use crate::proto::op::Op;
    use crate::proto::op::tests::Word::I;
    use crate::proto::op::tests::{NODE, decode, words};

    #[test]
    fn each_field_is_where_the_kernel_puts_it() {
        let args = words(&[I(3), I(0)]);
        let expected = ListXattr { node: NODE, size: 3 };
        assert_eq!(decode(FUSE_LISTXATTR, &args, b""), Ok(Op::ListXattr(expected)));
    }

    #[test]
    fn a_body_cut_short_is_refused() {
        let args = words(&[I(3), I(0)]);
        assert_eq!(decode(FUSE_LISTXATTR, &args[..args.len() - 1], b""), Err(DecodeError::Short));
    }
}
