//! `FUSE_LOOKUP`: find a name in a directory.

use crate::proto::decode::DecodeError;
use crate::proto::message::Message;
use crate::proto::request::Body;
use crate::proto::types::{Name, NodeId};

/// Asks which inode `name` is in `parent`, and counts one lookup of it.
///
/// Answered with an entry, a negative entry (remembered), or ENOENT (asked again next time).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Lookup<'a> {
    /// The directory.
    pub parent: NodeId,
    /// The name.
    pub name: Name<'a>,
}

impl<'a> Lookup<'a> {
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
    use crate::proto::abi::FUSE_LOOKUP;
    use crate::proto::op::Op;
    use crate::proto::op::tests::{NODE, decode};

    #[test]
    fn each_field_is_where_the_kernel_puts_it() {
        let args = b"";
        let expected = Lookup { parent: NODE, name: Name::new(b"name").unwrap() };
        assert_eq!(decode(FUSE_LOOKUP, args, b"name\0"), Ok(Op::Lookup(expected)));
    }
}
