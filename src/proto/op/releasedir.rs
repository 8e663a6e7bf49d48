//! `FUSE_RELEASEDIR`: close an open directory for good.

use crate::proto::abi::fuse_release_in;
use crate::proto::decode::DecodeError;
use crate::proto::message::Message;
use crate::proto::request::Body;
use crate::proto::types::{FileHandle, NodeId, OpenFlags};

/// Says that `handle` is gone, as RELEASE does.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ReleaseDir {
    /// The directory.
    pub node: NodeId,
    /// The open directory.
    pub handle: FileHandle,
    /// The flags of the open directory.
    pub flags: OpenFlags,
}

impl ReleaseDir {
    pub(super) fn decode(message: &Message<'_>) -> Result<Self, DecodeError> {
        let fuse_release_in { fh, flags, .. } = message.args()?;
        Ok(Self { node: message.node()?, handle: FileHandle(fh), flags: OpenFlags(flags) })
    }

    pub(super) fn encode(self, body: &mut Body) {
        body.node = self.node.get();
        body.args(&fuse_release_in {
            fh: self.handle.0,
            flags: self.flags.0,
            release_flags: 0,
            lock_owner: 0,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::abi::FUSE_RELEASEDIR;
    use crate::proto::op::Op;
    use crate::proto::op::tests::Word::{I, L};
    use crate::proto::op::tests::{NODE, decode, words};

    #[test]
    fn each_field_is_where_the_kernel_puts_it() {
        let args = words(&[L(1), I(2), I(0), L(0)]);
        let expected = ReleaseDir { node: NODE, handle: FileHandle(1), flags: OpenFlags(2) };
        assert_eq!(decode(FUSE_RELEASEDIR, &args, b""), Ok(Op::ReleaseDir(expected)));
    }

    #[test]
    fn a_body_cut_short_is_refused() {
        let args = words(&[L(1), I(2), I(0), L(0)]);
        assert_eq!(decode(FUSE_RELEASEDIR, &args[..args.len() - 1], b""), Err(DecodeError::Short));
    }
}
