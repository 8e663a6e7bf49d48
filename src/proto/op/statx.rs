//! `FUSE_STATX`: attributes of an inode, birth time too.

use crate::proto::abi::{FUSE_GETATTR_FH, fuse_statx_in};
use crate::proto::decode::DecodeError;
use crate::proto::message::Message;
use crate::proto::request::Body;
use crate::proto::types::{FileHandle, NodeId};

/// Asks for attributes as statx(2) does (7.39). Sent where the birth time is asked for. Answered
/// with a `fuse_statx_out`. ENOSYS makes the kernel ask by GETATTR.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Statx {
    /// The inode.
    pub node: NodeId,
    /// The open file it is asked through.
    pub handle: Option<FileHandle>,
    /// AT_STATX_FORCE_SYNC, AT_STATX_DONT_SYNC or 0.
    pub flags: u32,
    /// Which fields are wanted: STATX_* of statx(2).
    pub mask: u32,
}

impl Statx {
    pub(super) fn decode(message: &Message<'_>) -> Result<Self, DecodeError> {
        let args: fuse_statx_in = message.args()?;
        let handle = (args.getattr_flags & FUSE_GETATTR_FH != 0).then_some(FileHandle(args.fh));
        Ok(Self { node: message.node()?, handle, flags: args.sx_flags, mask: args.sx_mask })
    }

    pub(super) fn encode(self, body: &mut Body) {
        body.node = self.node.get();
        body.args(&fuse_statx_in {
            getattr_flags: if self.handle.is_some() { FUSE_GETATTR_FH } else { 0 },
            reserved: 0,
            fh: self.handle.unwrap_or_default().0,
            sx_flags: self.flags,
            sx_mask: self.mask,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::abi::FUSE_STATX;
    use crate::proto::op::Op;
    use crate::proto::op::tests::Word::{I, L};
    use crate::proto::op::tests::{NODE, decode, words};

    #[test]
    fn each_field_is_where_the_kernel_puts_it() {
        let args = words(&[I(1), I(0), L(1), I(2), I(3)]);
        let expected = Statx { node: NODE, handle: Some(FileHandle(1)), flags: 2, mask: 3 };
        assert_eq!(decode(FUSE_STATX, &args, b""), Ok(Op::Statx(expected)));
    }

    #[test]
    fn a_body_cut_short_is_refused() {
        let args = words(&[I(1), I(0), L(1), I(2), I(3)]);
        assert_eq!(decode(FUSE_STATX, &args[..args.len() - 1], b""), Err(DecodeError::Short));
    }
}
