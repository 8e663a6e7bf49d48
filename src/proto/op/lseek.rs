//! `FUSE_LSEEK`: find data or a hole.

use crate::proto::abi::fuse_lseek_in;
use crate::proto::decode::DecodeError;
use crate::proto::message::Message;
use crate::proto::request::Body;
use crate::proto::types::{FileHandle, NodeId};

/// Asks for the next data or hole at or after `offset` (7.24). Answered with its offset, or ENXIO
/// past the end. ENOSYS makes the kernel take the file for all data.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct LSeek {
    /// The file.
    pub node: NodeId,
    /// The open file.
    pub handle: FileHandle,
    /// Where to begin; below 0 or past the end is ENXIO.
    pub offset: i64,
    /// What is looked for.
    pub whence: Whence,
}

impl LSeek {
    pub(super) fn decode(message: &Message<'_>) -> Result<Self, DecodeError> {
        let args: fuse_lseek_in = message.args()?;
        Ok(Self {
            node: message.node()?,
            handle: FileHandle(args.fh),
            offset: args.offset.cast_signed(),
            whence: Whence::from_wire(args.whence).ok_or(DecodeError::Value)?,
        })
    }

    pub(super) fn encode(self, body: &mut Body) {
        body.node = self.node.get();
        body.args(&fuse_lseek_in {
            fh: self.handle.0,
            offset: self.offset.cast_unsigned(),
            whence: self.whence.to_wire(),
            padding: 0,
        });
    }
}

/// What lseek(2) is to find. The kernel sends the last two alone, and the others for the end of a
/// file whose length it does not trust.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Whence {
    /// From the start.
    Set,
    /// From the present position, which the server does not know.
    Current,
    /// From the end.
    End,
    /// The next byte that is not in a hole.
    Data,
    /// The next byte of a hole; the end of the file counts as one.
    Hole,
}

impl Whence {
    const fn from_wire(whence: u32) -> Option<Self> {
        match whence {
            0 => Some(Self::Set),
            1 => Some(Self::Current),
            2 => Some(Self::End),
            3 => Some(Self::Data),
            4 => Some(Self::Hole),
            _ => None,
        }
    }

    const fn to_wire(self) -> u32 {
        match self {
            Self::Set => 0,
            Self::Current => 1,
            Self::End => 2,
            Self::Data => 3,
            Self::Hole => 4,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::abi::FUSE_LSEEK;
    use crate::proto::op::Op;
    use crate::proto::op::tests::Word::{I, L};
    use crate::proto::op::tests::{NODE, decode, words};

    #[test]
    fn each_field_is_where_the_kernel_puts_it() {
        let args = words(&[L(1), L(2), I(4), I(0)]);
        let expected = LSeek { node: NODE, handle: FileHandle(1), offset: 2, whence: Whence::Hole };
        assert_eq!(decode(FUSE_LSEEK, &args, b""), Ok(Op::LSeek(expected)));
    }

    #[test]
    fn a_body_cut_short_is_refused() {
        let args = words(&[L(1), L(2), I(4), I(0)]);
        assert_eq!(decode(FUSE_LSEEK, &args[..args.len() - 1], b""), Err(DecodeError::Short));
    }

    #[test]
    fn an_unknown_whence_is_refused_and_a_negative_offset_is_not() {
        let seek = |offset, whence| {
            decode(FUSE_LSEEK, &words(&[L(1), L(offset), I(whence), I(0)]), b"").map(|_| ())
        };
        assert_eq!(seek(0, 5), Err(DecodeError::Value));
        assert_eq!(seek(u64::MAX, 3), Ok(()));
    }
}
