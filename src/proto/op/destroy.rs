//! `FUSE_DESTROY`: the mount is gone.

use crate::proto::decode::DecodeError;
use crate::proto::message::Message;
use crate::proto::request::Body;

/// Says that no request will follow; sent to mounts of a block device, and by virtiofs.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Destroy;

impl Destroy {
    pub(super) fn decode(_: &Message<'_>) -> Result<Self, DecodeError> {
        Ok(Self)
    }

    pub(super) fn encode(self, _: &mut Body) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::abi::FUSE_DESTROY;
    use crate::proto::op::Op;
    use crate::proto::op::tests::decode;

    #[test]
    fn it_has_no_body_and_needs_no_node() {
        assert_eq!(decode(FUSE_DESTROY, b"", b""), Ok(Op::Destroy(Destroy)));
    }
}
