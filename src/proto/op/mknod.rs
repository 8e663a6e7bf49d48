//! `FUSE_MKNOD`: make a file of any type but directory and link.

use crate::proto::abi::fuse_mknod_in;
use crate::proto::decode::DecodeError;
use crate::proto::extension::Extensions;
use crate::proto::message::Message;
use crate::proto::request::Body;
use crate::proto::types::{Name, NodeId};

/// Asks to make `name` in `parent`: a FIFO, socket or device node, and a plain file where CREATE is
/// not served. Answered with its entry.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct MkNod<'a> {
    /// The directory.
    pub parent: NodeId,
    /// The name.
    pub name: Name<'a>,
    /// Type and permissions; `umask` is not yet applied if FUSE_DONT_MASK was asked for.
    pub mode: u32,
    /// The device, in the kernel's 32-bit form (`new_encode_dev`).
    pub rdev: u32,
    /// The caller's umask.
    pub umask: u32,
    /// Security contexts and supplementary groups, where asked for at INIT.
    pub extensions: Extensions<'a>,
}

impl<'a> MkNod<'a> {
    pub(super) fn decode(message: &Message<'a>) -> Result<Self, DecodeError> {
        let fuse_mknod_in { mode, rdev, umask, .. } = message.args()?;
        let (mut body, extensions) = message.body_and_extensions()?;
        Ok(Self { parent: message.node()?, name: body.name()?, mode, rdev, umask, extensions })
    }

    pub(super) fn encode(self, body: &mut Body) {
        body.node = self.parent.get();
        body.args(&fuse_mknod_in {
            mode: self.mode,
            rdev: self.rdev,
            umask: self.umask,
            padding: 0,
        });
        body.c_string(self.name.as_bytes());
        body.extensions(self.extensions);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::abi::FUSE_MKNOD;
    use crate::proto::op::Op;
    use crate::proto::op::tests::Word::I;
    use crate::proto::op::tests::{NODE, decode, words};

    #[test]
    fn each_field_is_where_the_kernel_puts_it() {
        let args = words(&[I(1), I(2), I(3), I(0)]);
        let expected = MkNod {
            parent: NODE,
            name: Name::new(b"name").unwrap(),
            mode: 1,
            rdev: 2,
            umask: 3,
            extensions: Extensions::default(),
        };
        assert_eq!(decode(FUSE_MKNOD, &args, b"name\0"), Ok(Op::MkNod(expected)));
    }

    #[test]
    fn a_body_cut_short_is_refused() {
        let args = words(&[I(1), I(2), I(3), I(0)]);
        assert_eq!(decode(FUSE_MKNOD, &args[..args.len() - 1], b"name\0"), Err(DecodeError::Short));
    }
}
