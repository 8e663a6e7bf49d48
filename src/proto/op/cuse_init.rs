//! `CUSE_INIT`: a character device in user space.

use crate::proto::abi::cuse_init_in;
use crate::proto::decode::DecodeError;
use crate::proto::message::Message;
use crate::proto::request::Body;

/// Opens a connection of `/dev/cuse`. We serve filesystems, so it is refused.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct CuseInit {
    /// The kernel's major version.
    pub major: u32,
    /// The kernel's minor version.
    pub minor: u32,
    /// CUSE_UNRESTRICTED_IOCTL.
    pub flags: u32,
}

impl CuseInit {
    pub(super) fn decode(message: &Message<'_>) -> Result<Self, DecodeError> {
        let cuse_init_in { major, minor, flags, .. } = message.args()?;
        Ok(Self { major, minor, flags })
    }

    pub(super) fn encode(self, body: &mut Body) {
        body.args(&cuse_init_in {
            major: self.major,
            minor: self.minor,
            unused: 0,
            flags: self.flags,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::abi::CUSE_INIT;
    use crate::proto::op::Op;
    use crate::proto::op::tests::Word::I;
    use crate::proto::op::tests::{decode, words};

    #[test]
    fn each_field_is_where_the_kernel_puts_it() {
        let args = words(&[I(7), I(45), I(0), I(1)]);
        let expected = CuseInit { major: 7, minor: 45, flags: 1 };
        assert_eq!(decode(CUSE_INIT, &args, b""), Ok(Op::CuseInit(expected)));
    }
}
