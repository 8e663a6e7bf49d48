//! `FUSE_ACCESS`: may the caller?.

use crate::proto::abi::fuse_access_in;
use crate::proto::decode::DecodeError;
use crate::proto::message::Message;
use crate::proto::request::Body;
use crate::proto::types::NodeId;

/// Asks whether the caller may do `mask` to `node`; not sent if mounted with `default_permissions`.
/// Answered with nothing or EACCES; ENOSYS means yes for ever.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Access {
    /// The inode.
    pub node: NodeId,
    /// R_OK (4), W_OK (2) and X_OK (1) of access(2); 0 is F_OK.
    pub mask: u32,
}

impl Access {
    pub(super) fn decode(message: &Message<'_>) -> Result<Self, DecodeError> {
        let fuse_access_in { mask, .. } = message.args()?;
        Ok(Self { node: message.node()?, mask })
    }

    pub(super) fn encode(self, body: &mut Body) {
        body.node = self.node.get();
        body.args(&fuse_access_in { mask: self.mask, padding: 0 });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::abi::FUSE_ACCESS;
    use crate::proto::op::Op;
    use crate::proto::op::tests::Word::I;
    use crate::proto::op::tests::{NODE, decode, words};

    #[test]
    fn each_field_is_where_the_kernel_puts_it() {
        let args = words(&[I(4), I(0)]);
        let expected = Access { node: NODE, mask: 4 };
        assert_eq!(decode(FUSE_ACCESS, &args, b""), Ok(Op::Access(expected)));
    }

    #[test]
    fn a_body_cut_short_is_refused() {
        let args = words(&[I(4), I(0)]);
        assert_eq!(decode(FUSE_ACCESS, &args[..args.len() - 1], b""), Err(DecodeError::Short));
    }
}
