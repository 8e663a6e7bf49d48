//! `FUSE_OPEN`: open a file.

use crate::proto::abi::{FUSE_OPEN_KILL_SUIDGID, fuse_open_in};
use crate::proto::decode::DecodeError;
use crate::proto::message::Message;
use crate::proto::request::Body;
use crate::proto::types::{NodeId, OpenFlags};

/// Asks for a handle to `node`. Answered with a handle and what the kernel may do with it.
///
/// O_CREAT, O_EXCL and O_NOCTTY are taken out of `flags` by the kernel. O_TRUNC is there only if
/// FUSE_ATOMIC_O_TRUNC was asked for; otherwise a SETATTR follows.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Open {
    /// The file.
    pub node: NodeId,
    /// The flags of open(2).
    pub flags: OpenFlags,
    /// With O_TRUNC: clear set-id bits as SETATTR does (7.33).
    pub kill_suidgid: bool,
}

impl Open {
    pub(super) fn decode(message: &Message<'_>) -> Result<Self, DecodeError> {
        let fuse_open_in { flags, open_flags } = message.args()?;
        Ok(Self {
            node: message.node()?,
            flags: OpenFlags(flags),
            kill_suidgid: open_flags & FUSE_OPEN_KILL_SUIDGID != 0,
        })
    }

    pub(super) fn encode(self, body: &mut Body) {
        body.node = self.node.get();
        body.args(&fuse_open_in {
            flags: self.flags.0,
            open_flags: if self.kill_suidgid { FUSE_OPEN_KILL_SUIDGID } else { 0 },
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::abi::FUSE_OPEN;
    use crate::proto::op::Op;
    use crate::proto::op::tests::Word::I;
    use crate::proto::op::tests::{NODE, decode, words};

    #[test]
    fn each_field_is_where_the_kernel_puts_it() {
        let args = words(&[I(2), I(1)]);
        let expected = Open { node: NODE, flags: OpenFlags(2), kill_suidgid: true };
        assert_eq!(decode(FUSE_OPEN, &args, b""), Ok(Op::Open(expected)));
    }

    #[test]
    fn a_body_cut_short_is_refused() {
        let args = words(&[I(2), I(1)]);
        assert_eq!(decode(FUSE_OPEN, &args[..args.len() - 1], b""), Err(DecodeError::Short));
    }
}
