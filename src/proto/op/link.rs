//! `FUSE_LINK`: give an inode another name.

use crate::proto::abi::fuse_link_in;
use crate::proto::decode::DecodeError;
use crate::proto::message::Message;
use crate::proto::request::Body;
use crate::proto::types::{Name, NodeId};

/// Asks to give `node` the name `new_name` in `new_parent`. Answered with its entry, which counts
/// one lookup.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Link<'a> {
    /// The inode; never a directory.
    pub node: NodeId,
    /// The directory.
    pub new_parent: NodeId,
    /// The name.
    pub new_name: Name<'a>,
}

impl<'a> Link<'a> {
    pub(super) fn decode(message: &Message<'a>) -> Result<Self, DecodeError> {
        let fuse_link_in { oldnodeid } = message.args()?;
        let mut body = message.body();
        Ok(Self {
            node: NodeId::new(oldnodeid).ok_or(DecodeError::Node)?,
            new_parent: message.node()?,
            new_name: body.name()?,
        })
    }

    pub(super) fn encode(self, body: &mut Body) {
        body.node = self.new_parent.get();
        body.args(&fuse_link_in { oldnodeid: self.node.get() });
        body.c_string(self.new_name.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::abi::FUSE_LINK;
    use crate::proto::op::Op;
    use crate::proto::op::tests::Word::L;
    use crate::proto::op::tests::{NODE, OTHER, decode, words};

    #[test]
    fn each_field_is_where_the_kernel_puts_it() {
        let args = words(&[L(OTHER.get())]);
        let expected = Link { node: OTHER, new_parent: NODE, new_name: Name::new(b"new").unwrap() };
        assert_eq!(decode(FUSE_LINK, &args, b"new\0"), Ok(Op::Link(expected)));
    }

    #[test]
    fn a_body_cut_short_is_refused() {
        let args = words(&[L(OTHER.get())]);
        assert_eq!(decode(FUSE_LINK, &args[..args.len() - 1], b"new\0"), Err(DecodeError::Short));
    }
}
