//! `FUSE_MKDIR`: make a directory.

use crate::proto::abi::fuse_mkdir_in;
use crate::proto::decode::DecodeError;
use crate::proto::extension::Extensions;
use crate::proto::message::Message;
use crate::proto::request::Body;
use crate::proto::types::{Name, NodeId};

/// Asks to make the directory `name` in `parent`. Answered with its entry.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct MkDir<'a> {
    /// The directory.
    pub parent: NodeId,
    /// The name of the new directory.
    pub name: Name<'a>,
    /// Permissions, without the type; `umask` is not yet applied if FUSE_DONT_MASK was asked for.
    pub mode: u32,
    /// The caller's umask.
    pub umask: u32,
    /// Security contexts and supplementary groups, where asked for at INIT.
    pub extensions: Extensions<'a>,
}

impl<'a> MkDir<'a> {
    pub(super) fn decode(message: &Message<'a>) -> Result<Self, DecodeError> {
        let fuse_mkdir_in { mode, umask } = message.args()?;
        let (mut body, extensions) = message.body_and_extensions()?;
        Ok(Self { parent: message.node()?, name: body.name()?, mode, umask, extensions })
    }

    pub(super) fn encode(self, body: &mut Body) {
        body.node = self.parent.get();
        body.args(&fuse_mkdir_in { mode: self.mode, umask: self.umask });
        body.c_string(self.name.as_bytes());
        body.extensions(self.extensions);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::abi::FUSE_MKDIR;
    use crate::proto::op::Op;
    use crate::proto::op::tests::Word::I;
    use crate::proto::op::tests::{NODE, decode, words};

    #[test]
    fn each_field_is_where_the_kernel_puts_it() {
        let args = words(&[I(1), I(2)]);
        let expected = MkDir {
            parent: NODE,
            name: Name::new(b"name").unwrap(),
            mode: 1,
            umask: 2,
            extensions: Extensions::default(),
        };
        assert_eq!(decode(FUSE_MKDIR, &args, b"name\0"), Ok(Op::MkDir(expected)));
    }

    #[test]
    fn a_body_cut_short_is_refused() {
        let args = words(&[I(1), I(2)]);
        assert_eq!(decode(FUSE_MKDIR, &args[..args.len() - 1], b"name\0"), Err(DecodeError::Short));
    }
}
