//! `FUSE_SETXATTR`: set an extended attribute.

use crate::proto::abi::{FUSE_SETXATTR_ACL_KILL_SGID, fuse_setxattr_in};
use crate::proto::decode::DecodeError;
use crate::proto::message::Message;
use crate::proto::request::Body;
use crate::proto::types::{NodeId, XattrName};

/// Asks to set the attribute `name` of `node` to `value`. Answered with nothing. ENOSYS stops the
/// kernel asking.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct SetXattr<'a> {
    /// The inode.
    pub node: NodeId,
    /// The attribute.
    pub name: XattrName<'a>,
    /// At most 65,536 bytes.
    pub value: &'a [u8],
    /// [`SetXattr::CREATE`], [`SetXattr::REPLACE`] or 0.
    pub flags: u32,
    /// Clear the set-group-id bit: the caller sets an access ACL and is not in the group (7.33).
    pub acl_kill_sgid: bool,
}

impl<'a> SetXattr<'a> {
    pub(super) fn decode(message: &Message<'a>) -> Result<Self, DecodeError> {
        // Without FUSE_SETXATTR_EXT the last two fields are not there.
        let (args, acl_kill_sgid) = if message.args.len() < size_of::<fuse_setxattr_in>() {
            (message.args::<[u32; 2]>()?, false)
        } else {
            let args: fuse_setxattr_in = message.args()?;
            let acl_kill_sgid = args.setxattr_flags & FUSE_SETXATTR_ACL_KILL_SGID != 0;
            ([args.size, args.flags], acl_kill_sgid)
        };
        let [size, flags] = args;
        let len = usize::try_from(size).map_err(|_| DecodeError::Short)?;
        let mut body = message.body();
        Ok(Self {
            node: message.node()?,
            name: body.xattr_name()?,
            value: body.bytes(len)?,
            flags,
            acl_kill_sgid,
        })
    }

    pub(super) fn encode(self, body: &mut Body) {
        let args = fuse_setxattr_in {
            size: Body::len_u32(self.value),
            flags: self.flags,
            setxattr_flags: if self.acl_kill_sgid { FUSE_SETXATTR_ACL_KILL_SGID } else { 0 },
            padding: 0,
        };
        body.node = self.node.get();
        if body.dialect.setxattr_ext {
            body.args(&args);
        } else {
            body.args(&[args.size, args.flags]);
        }
        body.c_string(self.name.as_bytes());
        body.bytes(self.value);
    }
}

impl SetXattr<'_> {
    /// EEXIST if the attribute is there.
    pub const CREATE: u32 = 1;
    /// ENODATA if it is not.
    pub const REPLACE: u32 = 2;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::abi::FUSE_SETXATTR;
    use crate::proto::op::Op;
    use crate::proto::op::tests::Word::I;
    use crate::proto::op::tests::{NODE, decode, words};

    #[test]
    fn each_field_is_where_the_kernel_puts_it() {
        let args = words(&[I(3), I(2), I(1), I(0)]);
        let expected = SetXattr {
            node: NODE,
            name: XattrName::new(b"user.x").unwrap(),
            value: b"abc",
            flags: SetXattr::REPLACE,
            acl_kill_sgid: true,
        };
        assert_eq!(decode(FUSE_SETXATTR, &args, b"user.x\0abc"), Ok(Op::SetXattr(expected)));
    }

    #[test]
    fn the_short_form_has_no_flags_of_its_own() {
        let args = words(&[I(3), I(1)]);
        let Ok(Op::SetXattr(set)) = decode(FUSE_SETXATTR, &args, b"user.x\0abc") else {
            panic!("a SETXATTR")
        };
        assert_eq!(
            (set.value, set.flags, set.acl_kill_sgid),
            (&b"abc"[..], SetXattr::CREATE, false)
        );
    }

    #[test]
    fn an_empty_value_is_a_value() {
        let args = words(&[I(0), I(0), I(0), I(0)]);
        let Ok(Op::SetXattr(set)) = decode(FUSE_SETXATTR, &args, b"user.x\0") else {
            panic!("a SETXATTR")
        };
        assert_eq!(set.value, b"");
    }
}
