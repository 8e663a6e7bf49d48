//! `FUSE_READDIRPLUS`: list a directory with attributes.

use crate::proto::abi::fuse_read_in;
use crate::proto::decode::DecodeError;
use crate::proto::message::Message;
use crate::proto::request::Body;
use crate::proto::types::{FileHandle, NodeId};

/// Asks what READDIR asks, with a LOOKUP of each name but `.` and `..` in one (7.21). Each entry
/// that goes out with a node counts one lookup.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ReadDirPlus {
    /// The directory.
    pub node: NodeId,
    /// The open directory.
    pub handle: FileHandle,
    /// Where to go on: 0, or the offset that came with the last entry that was read.
    pub offset: u64,
    /// Room for entries, in bytes.
    pub size: u32,
}

impl ReadDirPlus {
    pub(super) fn decode(message: &Message<'_>) -> Result<Self, DecodeError> {
        let fuse_read_in { fh, offset, size, .. } = message.args()?;
        Ok(Self { node: message.node()?, handle: FileHandle(fh), offset, size })
    }

    pub(super) fn encode(self, body: &mut Body) {
        body.node = self.node.get();
        body.args(&fuse_read_in {
            fh: self.handle.0,
            offset: self.offset,
            size: self.size,
            read_flags: 0,
            lock_owner: 0,
            flags: 0,
            padding: 0,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::abi::FUSE_READDIRPLUS;
    use crate::proto::op::Op;
    use crate::proto::op::tests::Word::{I, L};
    use crate::proto::op::tests::{NODE, decode, words};

    #[test]
    fn each_field_is_where_the_kernel_puts_it() {
        let args = words(&[L(1), L(2), I(3), I(0), L(0), I(0), I(0)]);
        let expected = ReadDirPlus { node: NODE, handle: FileHandle(1), offset: 2, size: 3 };
        assert_eq!(decode(FUSE_READDIRPLUS, &args, b""), Ok(Op::ReadDirPlus(expected)));
    }

    #[test]
    fn a_body_cut_short_is_refused() {
        let args = words(&[L(1), L(2), I(3), I(0), L(0), I(0), I(0)]);
        assert_eq!(decode(FUSE_READDIRPLUS, &args[..args.len() - 1], b""), Err(DecodeError::Short));
    }
}
