//! `FUSE_INTERRUPT`: a caller waits no longer.

use crate::proto::abi::fuse_interrupt_in;
use crate::proto::decode::DecodeError;
use crate::proto::message::Message;
use crate::proto::request::Body;
use crate::proto::types::RequestId;

/// Says that the caller of `target` got a signal. `target` should then be answered soon, with EINTR
/// if it has changed nothing. The only answer an INTERRUPT itself can get is EAGAIN, for a target
/// not yet seen: the kernel then sends it again.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Interrupt {
    /// The request that was interrupted.
    pub target: RequestId,
}

impl Interrupt {
    pub(super) fn decode(message: &Message<'_>) -> Result<Self, DecodeError> {
        let fuse_interrupt_in { unique } = message.args()?;
        Ok(Self { target: RequestId(unique) })
    }

    pub(super) fn encode(self, body: &mut Body) {
        body.args(&fuse_interrupt_in { unique: self.target.0 });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::abi::FUSE_INTERRUPT;
    use crate::proto::op::Op;
    use crate::proto::op::tests::Word::L;
    use crate::proto::op::tests::{decode, words};

    #[test]
    fn each_field_is_where_the_kernel_puts_it() {
        let args = words(&[L(8)]);
        let expected = Interrupt { target: RequestId(8) };
        assert_eq!(decode(FUSE_INTERRUPT, &args, b""), Ok(Op::Interrupt(expected)));
    }

    #[test]
    fn a_body_cut_short_is_refused() {
        let args = words(&[L(8)]);
        assert_eq!(decode(FUSE_INTERRUPT, &args[..args.len() - 1], b""), Err(DecodeError::Short));
    }
}
