//! `FUSE_REMOVEXATTR`: take away an extended attribute.

use crate::proto::decode::DecodeError;
use crate::proto::message::Message;
use crate::proto::request::Body;
use crate::proto::types::{NodeId, XattrName};

/// Asks to take away the attribute `name`. Answered with nothing, or ENODATA if there is none.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct RemoveXattr<'a> {
    /// The inode.
    pub node: NodeId,
    /// The attribute.
    pub name: XattrName<'a>,
}

impl<'a> RemoveXattr<'a> {
    pub(super) fn decode(message: &Message<'a>) -> Result<Self, DecodeError> {
        let mut body = message.body();
        Ok(Self { node: message.node()?, name: body.xattr_name()? })
    }

    pub(super) fn encode(self, body: &mut Body) {
        body.node = self.node.get();
        body.c_string(self.name.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::abi::FUSE_REMOVEXATTR;
    use crate::proto::op::Op;
    use crate::proto::op::tests::{NODE, decode};

    #[test]
    fn each_field_is_where_the_kernel_puts_it() {
        let args = b"";
        let expected = RemoveXattr { node: NODE, name: XattrName::new(b"user.x").unwrap() };
        assert_eq!(decode(FUSE_REMOVEXATTR, args, b"user.x\0"), Ok(Op::RemoveXattr(expected)));
    }
}
