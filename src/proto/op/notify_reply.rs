//! `FUSE_NOTIFY_REPLY`: what a RETRIEVE asked for.

use crate::proto::abi::fuse_notify_retrieve_in;
use crate::proto::decode::{DecodeError, offset_in_range};
use crate::proto::message::Message;
use crate::proto::request::Body;
use crate::proto::types::NodeId;

/// Brings cached bytes that FUSE_NOTIFY_RETRIEVE asked for. No reply is due. The header's `unique`
/// is that of the notification.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct NotifyReply<'a> {
    /// The file.
    pub node: NodeId,
    /// First byte.
    pub offset: u64,
    /// The bytes; fewer than asked for where fewer are cached.
    pub data: &'a [u8],
}

impl<'a> NotifyReply<'a> {
    pub(super) fn decode(message: &Message<'a>) -> Result<Self, DecodeError> {
        let fuse_notify_retrieve_in { offset, size, .. } = message.args()?;
        let len = usize::try_from(size).map_err(|_| DecodeError::Short)?;
        Ok(Self {
            node: message.node()?,
            offset: offset_in_range(offset, size.into())?,
            data: message.body().bytes(len)?,
        })
    }

    pub(super) fn encode(self, body: &mut Body) {
        body.node = self.node.get();
        body.args(&fuse_notify_retrieve_in {
            dummy1: 0,
            offset: self.offset,
            size: Body::len_u32(self.data),
            dummy2: 0,
            dummy3: 0,
            dummy4: 0,
        });
        body.bytes(self.data);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::abi::FUSE_NOTIFY_REPLY;
    use crate::proto::op::Op;
    use crate::proto::op::tests::Word::{I, L};
    use crate::proto::op::tests::{NODE, decode, words};

    #[test]
    fn each_field_is_where_the_kernel_puts_it() {
        let args = words(&[L(0), L(2), I(3), I(0), L(0), L(0)]);
        let expected = NotifyReply { node: NODE, offset: 2, data: b"abc" };
        assert_eq!(decode(FUSE_NOTIFY_REPLY, &args, b"abc"), Ok(Op::NotifyReply(expected)));
    }

    #[test]
    fn a_body_cut_short_is_refused() {
        let args = words(&[L(0), L(2), I(3), I(0), L(0), L(0)]);
        assert_eq!(
            decode(FUSE_NOTIFY_REPLY, &args[..args.len() - 1], b"abc"),
            Err(DecodeError::Short)
        );
    }
}
