//! `FUSE_FORGET`: give back lookups.

use crate::proto::abi::fuse_forget_in;
use crate::proto::decode::DecodeError;
use crate::proto::message::Message;
use crate::proto::request::Body;
use crate::proto::types::NodeId;

/// Says that the kernel no longer holds `lookups` of the references that replies with an entry gave
/// it. At 0 it will not name the node again before another lookup. No reply is due.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Forget {
    /// The inode.
    pub node: NodeId,
    /// How many references.
    pub lookups: u64,
}

impl Forget {
    pub(super) fn decode(message: &Message<'_>) -> Result<Self, DecodeError> {
        let fuse_forget_in { nlookup } = message.args()?;
        Ok(Self { node: message.node()?, lookups: nlookup })
    }

    pub(super) fn encode(self, body: &mut Body) {
        body.node = self.node.get();
        body.args(&fuse_forget_in { nlookup: self.lookups });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::abi::FUSE_FORGET;
    use crate::proto::op::Op;
    use crate::proto::op::tests::Word::L;
    use crate::proto::op::tests::{NODE, decode, words};

    #[test]
    fn each_field_is_where_the_kernel_puts_it() {
        let args = words(&[L(3)]);
        let expected = Forget { node: NODE, lookups: 3 };
        assert_eq!(decode(FUSE_FORGET, &args, b""), Ok(Op::Forget(expected)));
    }

    #[test]
    fn a_body_cut_short_is_refused() {
        let args = words(&[L(3)]);
        assert_eq!(decode(FUSE_FORGET, &args[..args.len() - 1], b""), Err(DecodeError::Short));
    }
}
