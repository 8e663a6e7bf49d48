//! `FUSE_GETATTR`: attributes of an inode.

use crate::proto::abi::{FUSE_GETATTR_FH, fuse_getattr_in};
use crate::proto::decode::DecodeError;
use crate::proto::message::Message;
use crate::proto::request::Body;
use crate::proto::types::{FileHandle, NodeId};

/// Asks for the attributes of `node`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct GetAttr {
    /// The inode.
    pub node: NodeId,
    /// The open file it is asked through, for fstat(2).
    pub handle: Option<FileHandle>,
}

impl GetAttr {
    pub(super) fn decode(message: &Message<'_>) -> Result<Self, DecodeError> {
        let fuse_getattr_in { getattr_flags, fh, .. } = message.args()?;
        let handle = (getattr_flags & FUSE_GETATTR_FH != 0).then_some(FileHandle(fh));
        Ok(Self { node: message.node()?, handle })
    }

    pub(super) fn encode(self, body: &mut Body) {
        body.node = self.node.get();
        body.args(&fuse_getattr_in {
            getattr_flags: if self.handle.is_some() { FUSE_GETATTR_FH } else { 0 },
            dummy: 0,
            fh: self.handle.unwrap_or_default().0,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::abi::FUSE_GETATTR;
    use crate::proto::op::Op;
    use crate::proto::op::tests::Word::{I, L};
    use crate::proto::op::tests::{NODE, decode, words};

    #[test]
    fn each_field_is_where_the_kernel_puts_it() {
        let args = words(&[I(1), I(0), L(5)]);
        let expected = GetAttr { node: NODE, handle: Some(FileHandle(5)) };
        assert_eq!(decode(FUSE_GETATTR, &args, b""), Ok(Op::GetAttr(expected)));
    }

    #[test]
    fn a_body_cut_short_is_refused() {
        let args = words(&[I(1), I(0), L(5)]);
        assert_eq!(decode(FUSE_GETATTR, &args[..args.len() - 1], b""), Err(DecodeError::Short));
    }
}
