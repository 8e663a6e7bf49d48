//! `FUSE_SYMLINK`: make a symbolic link.

use crate::proto::decode::DecodeError;
use crate::proto::extension::Extensions;
use crate::proto::message::Message;
use crate::proto::request::Body;
use crate::proto::types::{Name, NodeId};

/// Asks to make the symbolic link `name` in `parent`, which points at `target`. Answered with its
/// entry.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Symlink<'a> {
    /// The directory.
    pub parent: NodeId,
    /// The name of the link.
    pub name: Name<'a>,
    /// Where it points: any bytes but NUL, at least one.
    pub target: &'a [u8],
    /// Security contexts and supplementary groups, where asked for at INIT.
    pub extensions: Extensions<'a>,
}

impl<'a> Symlink<'a> {
    pub(super) fn decode(message: &Message<'a>) -> Result<Self, DecodeError> {
        let (mut body, extensions) = message.body_and_extensions()?;
        let (name, target) = (body.name()?, body.c_string()?);
        if target.is_empty() {
            return Err(DecodeError::Name);
        }
        Ok(Self { parent: message.node()?, name, target, extensions })
    }

    pub(super) fn encode(self, body: &mut Body) {
        body.node = self.parent.get();
        body.c_string(self.name.as_bytes());
        body.c_string(self.target);
        body.extensions(self.extensions);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::abi::FUSE_SYMLINK;
    use crate::proto::op::Op;
    use crate::proto::op::tests::{NODE, decode};

    #[test]
    fn each_field_is_where_the_kernel_puts_it() {
        let args = b"";
        let expected = Symlink {
            parent: NODE,
            name: Name::new(b"name").unwrap(),
            target: b"to",
            extensions: Extensions::default(),
        };
        assert_eq!(decode(FUSE_SYMLINK, args, b"name\0to\0"), Ok(Op::Symlink(expected)));
    }

    #[test]
    fn a_link_to_nowhere_is_refused() {
        assert_eq!(decode(FUSE_SYMLINK, b"", b"name\0\0"), Err(DecodeError::Name));
        assert_eq!(decode(FUSE_SYMLINK, b"", b"name\0to"), Err(DecodeError::Name));
    }
}
