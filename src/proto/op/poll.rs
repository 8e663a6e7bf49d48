//! `FUSE_POLL`: what is ready.

use crate::proto::abi::{FUSE_POLL_SCHEDULE_NOTIFY, fuse_poll_in};
use crate::proto::decode::DecodeError;
use crate::proto::message::Message;
use crate::proto::request::Body;
use crate::proto::types::{FileHandle, NodeId};

/// Asks which of `events` are ready now, and, with `notify`, to be told once by FUSE_NOTIFY_POLL
/// when that changes. Answered with events. ENOSYS means always ready.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Poll {
    /// The file.
    pub node: NodeId,
    /// The open file.
    pub handle: FileHandle,
    /// The number to tell the kernel with: `kh`.
    pub wait: u64,
    /// POLLIN and the like (7.21).
    pub events: u32,
    /// Somebody waits.
    pub notify: bool,
}

impl Poll {
    pub(super) fn decode(message: &Message<'_>) -> Result<Self, DecodeError> {
        let args: fuse_poll_in = message.args()?;
        Ok(Self {
            node: message.node()?,
            handle: FileHandle(args.fh),
            wait: args.kh,
            events: args.events,
            notify: args.flags & FUSE_POLL_SCHEDULE_NOTIFY != 0,
        })
    }

    pub(super) fn encode(self, body: &mut Body) {
        body.node = self.node.get();
        body.args(&fuse_poll_in {
            fh: self.handle.0,
            kh: self.wait,
            flags: if self.notify { FUSE_POLL_SCHEDULE_NOTIFY } else { 0 },
            events: self.events,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::abi::FUSE_POLL;
    use crate::proto::op::Op;
    use crate::proto::op::tests::Word::{I, L};
    use crate::proto::op::tests::{NODE, decode, words};

    #[test]
    fn each_field_is_where_the_kernel_puts_it() {
        let args = words(&[L(1), L(2), I(1), I(3)]);
        let expected = Poll { node: NODE, handle: FileHandle(1), wait: 2, events: 3, notify: true };
        assert_eq!(decode(FUSE_POLL, &args, b""), Ok(Op::Poll(expected)));
    }

    #[test]
    fn a_body_cut_short_is_refused() {
        let args = words(&[L(1), L(2), I(1), I(3)]);
        assert_eq!(decode(FUSE_POLL, &args[..args.len() - 1], b""), Err(DecodeError::Short));
    }

    #[test]
    fn nobody_may_be_waiting() {
        let args = words(&[L(1), L(2), I(0), I(3)]);
        let Ok(Op::Poll(poll)) = decode(FUSE_POLL, &args, b"") else { panic!("a POLL") };
        assert!(!poll.notify);
    }
}
