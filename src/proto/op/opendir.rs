//! `FUSE_OPENDIR`: open a directory.

use crate::proto::abi::fuse_open_in;
use crate::proto::decode::DecodeError;
use crate::proto::message::Message;
use crate::proto::request::Body;
use crate::proto::types::{NodeId, OpenFlags};

/// Asks for a handle to the directory `node`. Answered as OPEN.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct OpenDir {
    /// The directory.
    pub node: NodeId,
    /// The flags of open(2).
    pub flags: OpenFlags,
}

impl OpenDir {
    pub(super) fn decode(message: &Message<'_>) -> Result<Self, DecodeError> {
        let fuse_open_in { flags, .. } = message.args()?;
        Ok(Self { node: message.node()?, flags: OpenFlags(flags) })
    }

    pub(super) fn encode(self, body: &mut Body) {
        body.node = self.node.get();
        body.args(&fuse_open_in { flags: self.flags.0, open_flags: 0 });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::abi::FUSE_OPENDIR;
    use crate::proto::op::Op;
    use crate::proto::op::tests::Word::I;
    use crate::proto::op::tests::{NODE, decode, words};

    #[test]
    fn each_field_is_where_the_kernel_puts_it() {
        let args = words(&[I(2), I(0)]);
        let expected = OpenDir { node: NODE, flags: OpenFlags(2) };
        assert_eq!(decode(FUSE_OPENDIR, &args, b""), Ok(Op::OpenDir(expected)));
    }

    #[test]
    fn a_body_cut_short_is_refused() {
        let args = words(&[I(2), I(0)]);
        assert_eq!(decode(FUSE_OPENDIR, &args[..args.len() - 1], b""), Err(DecodeError::Short));
    }
}
