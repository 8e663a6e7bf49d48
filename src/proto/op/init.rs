//! `FUSE_INIT`: agree on a version and on what either side does.

use crate::proto::abi::{FUSE_INIT_EXT, FUSE_KERNEL_VERSION, fuse_init_in};
use crate::proto::decode::DecodeError;
use crate::proto::message::Message;
use crate::proto::request::Body;

/// Opens the connection: the first request of each. Answered by `connection` alone.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Init {
    /// The kernel's major version.
    pub major: u32,
    /// The kernel's minor version.
    pub minor: u32,
    /// The most bytes the kernel reads ahead.
    pub max_readahead: u32,
    /// What the kernel can do: FUSE_ASYNC_READ and the others of `abi`.
    pub flags: u64,
}

impl Init {
    pub(super) fn decode(message: &Message<'_>) -> Result<Self, DecodeError> {
        let [major, minor, max_readahead, flags] = message.args::<[u32; 4]>()?;
        let low = u64::from(flags);
        // The struct grew in 7.36, which a flag in its old part tells. Of another major version
        // only the old part can be relied on.
        let high = if low & FUSE_INIT_EXT == 0 || major != FUSE_KERNEL_VERSION {
            0
        } else {
            u64::from(message.args::<fuse_init_in>()?.flags2)
        };
        Ok(Self { major, minor, max_readahead, flags: low | high << 32 })
    }

    pub(super) fn encode(self, body: &mut Body) {
        #[allow(clippy::cast_possible_truncation, reason = "the two halves of the flags")]
        let (low, high) = (self.flags as u32, (self.flags >> 32) as u32);
        if self.flags & FUSE_INIT_EXT == 0 {
            body.args(&[self.major, self.minor, self.max_readahead, low]);
        } else {
            body.args(&fuse_init_in {
                major: self.major,
                minor: self.minor,
                max_readahead: self.max_readahead,
                flags: low,
                flags2: high,
                unused: [0; 11],
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::abi::FUSE_INIT;
    use crate::proto::op::Op;
    use crate::proto::op::tests::Word::I;
    use crate::proto::op::tests::{decode, words};

    #[test]
    fn each_field_is_where_the_kernel_puts_it() {
        let args = words(&[
            I(7),
            I(45),
            I(3),
            I(1 << 30),
            I(4),
            I(0),
            I(0),
            I(0),
            I(0),
            I(0),
            I(0),
            I(0),
            I(0),
            I(0),
            I(0),
            I(0),
        ]);
        let expected = Init { major: 7, minor: 45, max_readahead: 3, flags: 1 << 30 | 4 << 32 };
        assert_eq!(decode(FUSE_INIT, &args, b""), Ok(Op::Init(expected)));
    }

    #[test]
    fn before_7_36_half_of_the_flags_are_not_there() {
        let args = words(&[I(7), I(35), I(3), I(5)]);
        let expected = Init { major: 7, minor: 35, max_readahead: 3, flags: 5 };
        assert_eq!(decode(FUSE_INIT, &args, b""), Ok(Op::Init(expected)));
    }

    #[test]
    fn the_longer_form_must_be_there_if_its_flag_is() {
        let args = words(&[I(7), I(45), I(3), I(1 << 30)]);
        assert_eq!(decode(FUSE_INIT, &args, b""), Err(DecodeError::Short));
        let args = words(&[I(8), I(0), I(3), I(1 << 30)]);
        assert!(
            decode(FUSE_INIT, &args, b"").is_ok(),
            "of another version only the old part counts"
        );
    }
}
