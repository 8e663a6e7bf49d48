//! `FUSE_SETUPMAPPING`: map a file into the DAX window.

use crate::proto::abi::fuse_setupmapping_in;
use crate::proto::decode::DecodeError;
use crate::proto::message::Message;
use crate::proto::request::Body;
use crate::proto::types::{FileHandle, NodeId};

/// Asks to map a range of the file into memory shared with a guest; sent by virtiofs alone (7.31).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct SetupMapping {
    /// The file.
    pub node: NodeId,
    /// The open file.
    pub handle: FileHandle,
    /// First byte of the file.
    pub offset: u64,
    /// Bytes.
    pub len: u64,
    /// FUSE_SETUPMAPPING_FLAG_READ and FUSE_SETUPMAPPING_FLAG_WRITE.
    pub flags: u64,
    /// First byte in the window.
    pub window_offset: u64,
}

impl SetupMapping {
    pub(super) fn decode(message: &Message<'_>) -> Result<Self, DecodeError> {
        let args: fuse_setupmapping_in = message.args()?;
        Ok(Self {
            node: message.node()?,
            handle: FileHandle(args.fh),
            offset: args.foffset,
            len: args.len,
            flags: args.flags,
            window_offset: args.moffset,
        })
    }

    pub(super) fn encode(self, body: &mut Body) {
        body.node = self.node.get();
        body.args(&fuse_setupmapping_in {
            fh: self.handle.0,
            foffset: self.offset,
            len: self.len,
            flags: self.flags,
            moffset: self.window_offset,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::abi::FUSE_SETUPMAPPING;
    use crate::proto::op::Op;
    use crate::proto::op::tests::Word::L;
    use crate::proto::op::tests::{NODE, decode, words};

    #[test]
    fn each_field_is_where_the_kernel_puts_it() {
        let args = words(&[L(1), L(2), L(3), L(4), L(5)]);
        let expected = SetupMapping {
            node: NODE,
            handle: FileHandle(1),
            offset: 2,
            len: 3,
            flags: 4,
            window_offset: 5,
        };
        assert_eq!(decode(FUSE_SETUPMAPPING, &args, b""), Ok(Op::SetupMapping(expected)));
    }

    #[test]
    fn a_body_cut_short_is_refused() {
        let args = words(&[L(1), L(2), L(3), L(4), L(5)]);
        assert_eq!(
            decode(FUSE_SETUPMAPPING, &args[..args.len() - 1], b""),
            Err(DecodeError::Short)
        );
    }
}
