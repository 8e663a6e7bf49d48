//! `FUSE_RENAME2`: move or exchange names.

use crate::proto::abi::fuse_rename2_in;
use crate::proto::decode::DecodeError;
use crate::proto::message::Message;
use crate::proto::request::Body;
use crate::proto::types::{Name, NodeId};

/// Asks what renameat2(2) asks; sent instead of RENAME where `flags` is not 0 (7.23).
/// Answered with nothing; EINVAL for flags that are not served. ENOSYS turns off renames with flags
/// for good.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Rename2<'a> {
    /// The directory it is in.
    pub parent: NodeId,
    /// Its name there.
    pub name: Name<'a>,
    /// The directory it is to be in.
    pub new_parent: NodeId,
    /// Its name there.
    pub new_name: Name<'a>,
    /// [`Rename2::NOREPLACE`] and the others.
    pub flags: u32,
}

impl<'a> Rename2<'a> {
    pub(super) fn decode(message: &Message<'a>) -> Result<Self, DecodeError> {
        let fuse_rename2_in { newdir, flags, .. } = message.args()?;
        let mut body = message.body();
        Ok(Self {
            parent: message.node()?,
            name: body.name()?,
            new_parent: NodeId::new(newdir).ok_or(DecodeError::Node)?,
            new_name: body.name()?,
            flags,
        })
    }

    pub(super) fn encode(self, body: &mut Body) {
        body.node = self.parent.get();
        body.args(&fuse_rename2_in {
            newdir: self.new_parent.get(),
            flags: self.flags,
            padding: 0,
        });
        body.c_string(self.name.as_bytes());
        body.c_string(self.new_name.as_bytes());
    }
}

impl Rename2<'_> {
    /// EEXIST if `new_name` is there.
    pub const NOREPLACE: u32 = 1;
    /// Both names must be there, and swap what they name.
    pub const EXCHANGE: u32 = 2;
    /// Leave a whiteout (character device 0:0) behind.
    pub const WHITEOUT: u32 = 4;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::abi::FUSE_RENAME2;
    use crate::proto::op::Op;
    use crate::proto::op::tests::Word::{I, L};
    use crate::proto::op::tests::{NODE, OTHER, decode, words};

    #[test]
    fn each_field_is_where_the_kernel_puts_it() {
        let args = words(&[L(OTHER.get()), I(2), I(0)]);
        let expected = Rename2 {
            parent: NODE,
            name: Name::new(b"name").unwrap(),
            new_parent: OTHER,
            new_name: Name::new(b"new").unwrap(),
            flags: Rename2::EXCHANGE,
        };
        assert_eq!(decode(FUSE_RENAME2, &args, b"name\0new\0"), Ok(Op::Rename2(expected)));
    }

    #[test]
    fn a_body_cut_short_is_refused() {
        let args = words(&[L(OTHER.get()), I(2), I(0)]);
        assert_eq!(
            decode(FUSE_RENAME2, &args[..args.len() - 1], b"name\0new\0"),
            Err(DecodeError::Short)
        );
    }
}
