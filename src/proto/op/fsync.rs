//! `FUSE_FSYNC`: bring a file to the disk.

use crate::proto::abi::{FUSE_FSYNC_FDATASYNC, fuse_fsync_in};
use crate::proto::decode::DecodeError;
use crate::proto::message::Message;
use crate::proto::request::Body;
use crate::proto::types::{FileHandle, NodeId};

/// Asks to return when `node` is on the disk. Answered with nothing. ENOSYS makes fsync(2) succeed
/// without asking.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct FSync {
    /// The file.
    pub node: NodeId,
    /// The open file.
    pub handle: FileHandle,
    /// fdatasync(2): attributes that are not needed to read the data may wait.
    pub data_only: bool,
}

impl FSync {
    pub(super) fn decode(message: &Message<'_>) -> Result<Self, DecodeError> {
        let fuse_fsync_in { fh, fsync_flags, .. } = message.args()?;
        Ok(Self {
            node: message.node()?,
            handle: FileHandle(fh),
            data_only: fsync_flags & FUSE_FSYNC_FDATASYNC != 0,
        })
    }

    pub(super) fn encode(self, body: &mut Body) {
        body.node = self.node.get();
        body.args(&fuse_fsync_in {
            fh: self.handle.0,
            fsync_flags: if self.data_only { FUSE_FSYNC_FDATASYNC } else { 0 },
            padding: 0,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::abi::FUSE_FSYNC;
    use crate::proto::op::Op;
    use crate::proto::op::tests::Word::{I, L};
    use crate::proto::op::tests::{NODE, decode, words};

    #[test]
    fn each_field_is_where_the_kernel_puts_it() {
        let args = words(&[L(1), I(1), I(0)]);
        let expected = FSync { node: NODE, handle: FileHandle(1), data_only: true };
        assert_eq!(decode(FUSE_FSYNC, &args, b""), Ok(Op::FSync(expected)));
    }

    #[test]
    fn a_body_cut_short_is_refused() {
        let args = words(&[L(1), I(1), I(0)]);
        assert_eq!(decode(FUSE_FSYNC, &args[..args.len() - 1], b""), Err(DecodeError::Short));
    }
}
