//! `FUSE_UNLINK`: take away a name.

use crate::proto::decode::DecodeError;
use crate::proto::message::Message;
use crate::proto::request::Body;
use crate::proto::types::{Name, NodeId};

/// Asks to take `name` out of `parent`. The inode lives on while it has other names or is open.
/// Never a directory. Answered with nothing.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Unlink<'a> {
    /// The directory.
    pub parent: NodeId,
    /// The name.
    pub name: Name<'a>,
}

impl<'a> Unlink<'a> {
    pub(super) fn decode(message: &Message<'a>) -> Result<Self, DecodeError> {
        let mut body = message.body();
        Ok(Self { parent: message.node()?, name: body.name()? })
    }

    pub(super) fn encode(self, body: &mut Body) {
        body.node = self.parent.get();
        body.c_string(self.name.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::abi::FUSE_UNLINK;
    use crate::proto::op::Op;
    use crate::proto::op::tests::{NODE, decode};

    #[test]
    fn each_field_is_where_the_kernel_puts_it() {
        let args = b"";
        let expected = Unlink { parent: NODE, name: Name::new(b"name").unwrap() };
        assert_eq!(decode(FUSE_UNLINK, args, b"name\0"), Ok(Op::Unlink(expected)));
    }
}
