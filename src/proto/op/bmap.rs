//! `FUSE_BMAP`: where on the device a block is.

use crate::proto::abi::fuse_bmap_in;
use crate::proto::decode::DecodeError;
use crate::proto::message::Message;
use crate::proto::request::Body;
use crate::proto::types::NodeId;

/// Asks for the device block of a block of the file (FIBMAP); sent to mounts of a block device
/// alone.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct BMap {
    /// The file.
    pub node: NodeId,
    /// The block in the file.
    pub block: u64,
    /// Bytes in a block.
    pub blocksize: u32,
}

impl BMap {
    pub(super) fn decode(message: &Message<'_>) -> Result<Self, DecodeError> {
        let fuse_bmap_in { block, blocksize, .. } = message.args()?;
        Ok(Self { node: message.node()?, block, blocksize })
    }

    pub(super) fn encode(self, body: &mut Body) {
        body.node = self.node.get();
        body.args(&fuse_bmap_in { block: self.block, blocksize: self.blocksize, padding: 0 });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::abi::FUSE_BMAP;
    use crate::proto::op::Op;
    use crate::proto::op::tests::Word::{I, L};
    use crate::proto::op::tests::{NODE, decode, words};

    #[test]
    fn each_field_is_where_the_kernel_puts_it() {
        let args = words(&[L(1), I(2), I(0)]);
        let expected = BMap { node: NODE, block: 1, blocksize: 2 };
        assert_eq!(decode(FUSE_BMAP, &args, b""), Ok(Op::BMap(expected)));
    }

    #[test]
    fn a_body_cut_short_is_refused() {
        let args = words(&[L(1), I(2), I(0)]);
        assert_eq!(decode(FUSE_BMAP, &args[..args.len() - 1], b""), Err(DecodeError::Short));
    }
}
