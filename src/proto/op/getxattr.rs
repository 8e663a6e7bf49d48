//! `FUSE_GETXATTR`: read an extended attribute.

use crate::proto::abi::fuse_getxattr_in;
use crate::proto::decode::DecodeError;
use crate::proto::message::Message;
use crate::proto::request::Body;
use crate::proto::types::{NodeId, XattrName};

/// Asks for the value of the attribute `name`. Answered with its bytes, or with its size where
/// `size` is 0; ERANGE if it is longer than `size`, ENODATA if there is none. ENOSYS stops the
/// kernel asking for any.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct GetXattr<'a> {
    /// The inode.
    pub node: NodeId,
    /// The attribute.
    pub name: XattrName<'a>,
    /// Room for the value in bytes; 0 asks how long it is.
    pub size: u32,
}

impl<'a> GetXattr<'a> {
    pub(super) fn decode(message: &Message<'a>) -> Result<Self, DecodeError> {
        let fuse_getxattr_in { size, .. } = message.args()?;
        let mut body = message.body();
        Ok(Self { node: message.node()?, name: body.xattr_name()?, size })
    }

    pub(super) fn encode(self, body: &mut Body) {
        body.node = self.node.get();
        body.args(&fuse_getxattr_in { size: self.size, padding: 0 });
        body.c_string(self.name.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::abi::FUSE_GETXATTR;
    use crate::proto::op::Op;
    use crate::proto::op::tests::Word::I;
    use crate::proto::op::tests::{NODE, decode, words};

    #[test]
    fn each_field_is_where_the_kernel_puts_it() {
        let args = words(&[I(3), I(0)]);
        let expected = GetXattr { node: NODE, name: XattrName::new(b"user.x").unwrap(), size: 3 };
        assert_eq!(decode(FUSE_GETXATTR, &args, b"user.x\0"), Ok(Op::GetXattr(expected)));
    }

    #[test]
    fn a_body_cut_short_is_refused() {
        let args = words(&[I(3), I(0)]);
        assert_eq!(
            decode(FUSE_GETXATTR, &args[..args.len() - 1], b"user.x\0"),
            Err(DecodeError::Short)
        );
    }

    #[test]
    fn a_name_longer_than_an_attribute_can_have_is_too_long() {
        let name = [&[b'x'; 256], &b"\0"[..]].concat();
        let args = words(&[I(0), I(0)]);
        assert_eq!(decode(FUSE_GETXATTR, &args, &name), Err(DecodeError::NameTooLong));
    }
}
