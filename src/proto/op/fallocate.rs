//! `FUSE_FALLOCATE`: allocate, punch or zero a range.

use crate::proto::abi::fuse_fallocate_in;
use crate::proto::decode::{DecodeError, offset_in_range};
use crate::proto::message::Message;
use crate::proto::request::Body;
use crate::proto::types::{FileHandle, NodeId};

/// Asks what fallocate(2) asks (7.19). Answered with nothing; EOPNOTSUPP for a mode that is not
/// served. ENOSYS becomes EOPNOTSUPP for good.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Fallocate {
    /// The file.
    pub node: NodeId,
    /// The open file.
    pub handle: FileHandle,
    /// First byte; the last one is at most at `i64::MAX`.
    pub offset: u64,
    /// Bytes; not 0 from the kernel.
    pub length: u64,
    /// [`Fallocate::KEEP_SIZE`] and the others; 0 allocates and may lengthen the file.
    pub mode: u32,
}

impl Fallocate {
    pub(super) fn decode(message: &Message<'_>) -> Result<Self, DecodeError> {
        let args: fuse_fallocate_in = message.args()?;
        Ok(Self {
            node: message.node()?,
            handle: FileHandle(args.fh),
            offset: offset_in_range(args.offset, args.length)?,
            length: args.length,
            mode: args.mode,
        })
    }

    pub(super) fn encode(self, body: &mut Body) {
        body.node = self.node.get();
        body.args(&fuse_fallocate_in {
            fh: self.handle.0,
            offset: self.offset,
            length: self.length,
            mode: self.mode,
            padding: 0,
        });
    }
}

impl Fallocate {
    /// The length of the file stays as it is.
    pub const KEEP_SIZE: u32 = 0x01;
    /// The range becomes a hole; comes with `KEEP_SIZE`.
    pub const PUNCH_HOLE: u32 = 0x02;
    /// The range reads as zeros, and may be allocated.
    pub const ZERO_RANGE: u32 = 0x10;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::abi::FUSE_FALLOCATE;
    use crate::proto::op::Op;
    use crate::proto::op::tests::Word::{I, L};
    use crate::proto::op::tests::{NODE, decode, words};

    #[test]
    fn each_field_is_where_the_kernel_puts_it() {
        let args = words(&[L(1), L(2), L(3), I(1), I(0)]);
        let expected = Fallocate {
            node: NODE,
            handle: FileHandle(1),
            offset: 2,
            length: 3,
            mode: Fallocate::KEEP_SIZE,
        };
        assert_eq!(decode(FUSE_FALLOCATE, &args, b""), Ok(Op::Fallocate(expected)));
    }

    #[test]
    fn a_body_cut_short_is_refused() {
        let args = words(&[L(1), L(2), L(3), I(1), I(0)]);
        assert_eq!(decode(FUSE_FALLOCATE, &args[..args.len() - 1], b""), Err(DecodeError::Short));
    }

    #[test]
    fn a_range_beyond_what_a_file_can_have_is_refused() {
        let args = words(&[L(1), L(1), L(u64::MAX), I(0), I(0)]);
        assert_eq!(decode(FUSE_FALLOCATE, &args, b""), Err(DecodeError::Value));
    }
}
