//! `FUSE_RENAME`: move a name.

use crate::proto::abi::fuse_rename_in;
use crate::proto::decode::DecodeError;
use crate::proto::message::Message;
use crate::proto::request::Body;
use crate::proto::types::{Name, NodeId};

/// Asks to move `name` of `parent` to `new_name` of `new_parent`, over whatever is there. Answered
/// with nothing.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Rename<'a> {
    /// The directory it is in.
    pub parent: NodeId,
    /// Its name there.
    pub name: Name<'a>,
    /// The directory it is to be in.
    pub new_parent: NodeId,
    /// Its name there.
    pub new_name: Name<'a>,
}

impl<'a> Rename<'a> {
    pub(super) fn decode(message: &Message<'a>) -> Result<Self, DecodeError> {
        let fuse_rename_in { newdir } = message.args()?;
        let mut body = message.body();
        Ok(Self {
            parent: message.node()?,
            name: body.name()?,
            new_parent: NodeId::new(newdir).ok_or(DecodeError::Node)?,
            new_name: body.name()?,
        })
    }

    pub(super) fn encode(self, body: &mut Body) {
        body.node = self.parent.get();
        body.args(&fuse_rename_in { newdir: self.new_parent.get() });
        body.c_string(self.name.as_bytes());
        body.c_string(self.new_name.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::abi::FUSE_RENAME;
    use crate::proto::op::Op;
    use crate::proto::op::tests::Word::L;
    use crate::proto::op::tests::{NODE, OTHER, decode, words};

    #[test]
    fn each_field_is_where_the_kernel_puts_it() {
        let args = words(&[L(OTHER.get())]);
        let expected = Rename {
            parent: NODE,
            name: Name::new(b"name").unwrap(),
            new_parent: OTHER,
            new_name: Name::new(b"new").unwrap(),
        };
        assert_eq!(decode(FUSE_RENAME, &args, b"name\0new\0"), Ok(Op::Rename(expected)));
    }

    #[test]
    fn a_body_cut_short_is_refused() {
        let args = words(&[L(OTHER.get())]);
        assert_eq!(
            decode(FUSE_RENAME, &args[..args.len() - 1], b"name\0new\0"),
            Err(DecodeError::Short)
        );
    }

    #[test]
    fn both_names_and_both_directories_are_needed() {
        let args = words(&[L(OTHER.get())]);
        assert_eq!(decode(FUSE_RENAME, &args, b"name\0"), Err(DecodeError::Name));
        assert_eq!(decode(FUSE_RENAME, &words(&[L(0)]), b"a\0b\0"), Err(DecodeError::Node));
    }
}
