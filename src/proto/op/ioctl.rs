//! `FUSE_IOCTL`: ioctl(2) on an open file.

use crate::proto::abi::fuse_ioctl_in;
use crate::proto::decode::DecodeError;
use crate::proto::message::Message;
use crate::proto::request::Body;
use crate::proto::types::{FileHandle, NodeId};

/// Asks to do `cmd`. Answered with a result and at most `out_size` bytes; ENOTTY for commands that
/// are not served. ENOSYS becomes ENOTTY for good.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Ioctl<'a> {
    /// The file, or a directory if FUSE_HAS_IOCTL_DIR was asked for.
    pub node: NodeId,
    /// The open file.
    pub handle: FileHandle,
    /// FUSE_IOCTL_COMPAT and the others of `abi`.
    pub flags: u32,
    /// The command, with direction and size in it as asm-generic/ioctl.h has them.
    pub cmd: u32,
    /// The third argument of ioctl(2): an address in the caller, of no use here.
    pub arg: u64,
    /// What the caller's argument pointed at.
    pub data: &'a [u8],
    /// Room for the answer, in bytes.
    pub out_size: u32,
}

impl<'a> Ioctl<'a> {
    pub(super) fn decode(message: &Message<'a>) -> Result<Self, DecodeError> {
        let args: fuse_ioctl_in = message.args()?;
        let len = usize::try_from(args.in_size).map_err(|_| DecodeError::Short)?;
        Ok(Self {
            node: message.node()?,
            handle: FileHandle(args.fh),
            flags: args.flags,
            cmd: args.cmd,
            arg: args.arg,
            data: message.body().bytes(len)?,
            out_size: args.out_size,
        })
    }

    pub(super) fn encode(self, body: &mut Body) {
        body.node = self.node.get();
        body.args(&fuse_ioctl_in {
            fh: self.handle.0,
            flags: self.flags,
            cmd: self.cmd,
            arg: self.arg,
            in_size: Body::len_u32(self.data),
            out_size: self.out_size,
        });
        body.bytes(self.data);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::abi::FUSE_IOCTL;
    use crate::proto::op::Op;
    use crate::proto::op::tests::Word::{I, L};
    use crate::proto::op::tests::{NODE, decode, words};

    #[test]
    fn each_field_is_where_the_kernel_puts_it() {
        let args = words(&[L(1), I(2), I(3), L(4), I(3), I(5)]);
        let expected = Ioctl {
            node: NODE,
            handle: FileHandle(1),
            flags: 2,
            cmd: 3,
            arg: 4,
            data: b"abc",
            out_size: 5,
        };
        assert_eq!(decode(FUSE_IOCTL, &args, b"abc"), Ok(Op::Ioctl(expected)));
    }

    #[test]
    fn a_body_cut_short_is_refused() {
        let args = words(&[L(1), I(2), I(3), L(4), I(3), I(5)]);
        assert_eq!(decode(FUSE_IOCTL, &args[..args.len() - 1], b"abc"), Err(DecodeError::Short));
    }

    #[test]
    fn fewer_bytes_than_counted_are_refused() {
        let args = words(&[L(1), I(0), I(0), L(0), I(4), I(0)]);
        assert_eq!(decode(FUSE_IOCTL, &args, b"abc"), Err(DecodeError::Short));
    }
}
