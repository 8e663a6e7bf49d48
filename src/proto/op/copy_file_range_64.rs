//! `FUSE_COPY_FILE_RANGE_64`: copy from file to file, 4 GiB and more.

use crate::proto::abi::fuse_copy_file_range_in;
use crate::proto::decode::{DecodeError, offset_in_range};
use crate::proto::message::Message;
use crate::proto::request::Body;
use crate::proto::types::{FileHandle, NodeId};

/// Asks what COPY_FILE_RANGE asks, and is answered in 64 bits (7.45). ENOSYS makes the kernel fall
/// back to it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct CopyFileRange64 {
    /// The file to copy from.
    pub node: NodeId,
    /// It, open.
    pub handle: FileHandle,
    /// First byte there; the last one is at most at `i64::MAX`.
    pub offset: u64,
    /// The file to copy to.
    pub new_node: NodeId,
    /// It, open.
    pub new_handle: FileHandle,
    /// First byte there; the last one is at most at `i64::MAX`.
    pub new_offset: u64,
    /// Bytes.
    pub len: u64,
    /// Of copy_file_range(2): 0.
    pub flags: u64,
}

impl CopyFileRange64 {
    pub(super) fn decode(message: &Message<'_>) -> Result<Self, DecodeError> {
        let args: fuse_copy_file_range_in = message.args()?;
        Ok(Self {
            node: message.node()?,
            handle: FileHandle(args.fh_in),
            offset: offset_in_range(args.off_in, args.len)?,
            new_node: NodeId::new(args.nodeid_out).ok_or(DecodeError::Node)?,
            new_handle: FileHandle(args.fh_out),
            new_offset: offset_in_range(args.off_out, args.len)?,
            len: args.len,
            flags: args.flags,
        })
    }

    pub(super) fn encode(self, body: &mut Body) {
        body.node = self.node.get();
        body.args(&fuse_copy_file_range_in {
            fh_in: self.handle.0,
            off_in: self.offset,
            nodeid_out: self.new_node.get(),
            fh_out: self.new_handle.0,
            off_out: self.new_offset,
            len: self.len,
            flags: self.flags,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::abi::FUSE_COPY_FILE_RANGE_64;
    use crate::proto::op::Op;
    use crate::proto::op::tests::Word::L;
    use crate::proto::op::tests::{NODE, OTHER, decode, words};

    #[test]
    fn each_field_is_where_the_kernel_puts_it() {
        let args = words(&[L(1), L(2), L(OTHER.get()), L(3), L(4), L(5), L(6)]);
        let expected = CopyFileRange64 {
            node: NODE,
            handle: FileHandle(1),
            offset: 2,
            new_node: OTHER,
            new_handle: FileHandle(3),
            new_offset: 4,
            len: 5,
            flags: 6,
        };
        assert_eq!(decode(FUSE_COPY_FILE_RANGE_64, &args, b""), Ok(Op::CopyFileRange64(expected)));
    }

    #[test]
    fn a_body_cut_short_is_refused() {
        let args = words(&[L(1), L(2), L(OTHER.get()), L(3), L(4), L(5), L(6)]);
        assert_eq!(
            decode(FUSE_COPY_FILE_RANGE_64, &args[..args.len() - 1], b""),
            Err(DecodeError::Short)
        );
    }
}
