//! `FUSE_CREATE`: make and open a file.

use crate::proto::abi::{FUSE_OPEN_KILL_SUIDGID, fuse_create_in};
use crate::proto::decode::DecodeError;
use crate::proto::extension::Extensions;
use crate::proto::message::Message;
use crate::proto::request::Body;
use crate::proto::types::{Name, NodeId, OpenFlags};

/// Asks to make the plain file `name` in `parent` and open it; if the name is there after all, to
/// open that (unless O_EXCL). Answered with an entry and a handle. ENOSYS makes the kernel send
/// MKNOD and OPEN instead.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Create<'a> {
    /// The directory.
    pub parent: NodeId,
    /// The name.
    pub name: Name<'a>,
    /// Type and permissions; `umask` is not yet applied if FUSE_DONT_MASK was asked for.
    pub mode: u32,
    /// The caller's umask.
    pub umask: u32,
    /// The flags of open(2).
    pub flags: OpenFlags,
    /// With O_TRUNC on a file that is there: clear set-id bits (7.33).
    pub kill_suidgid: bool,
    /// Security contexts and supplementary groups, where asked for at INIT.
    pub extensions: Extensions<'a>,
}

impl<'a> Create<'a> {
    pub(super) fn decode(message: &Message<'a>) -> Result<Self, DecodeError> {
        let fuse_create_in { flags, mode, umask, open_flags } = message.args()?;
        let (mut body, extensions) = message.body_and_extensions()?;
        Ok(Self {
            parent: message.node()?,
            name: body.name()?,
            mode,
            umask,
            flags: OpenFlags(flags),
            kill_suidgid: open_flags & FUSE_OPEN_KILL_SUIDGID != 0,
            extensions,
        })
    }

    pub(super) fn encode(self, body: &mut Body) {
        body.node = self.parent.get();
        body.args(&fuse_create_in {
            flags: self.flags.0,
            mode: self.mode,
            umask: self.umask,
            open_flags: if self.kill_suidgid { FUSE_OPEN_KILL_SUIDGID } else { 0 },
        });
        body.c_string(self.name.as_bytes());
        body.extensions(self.extensions);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::abi::FUSE_CREATE;
    use crate::proto::op::Op;
    use crate::proto::op::tests::Word::I;
    use crate::proto::op::tests::{NODE, decode, words};

    #[test]
    fn each_field_is_where_the_kernel_puts_it() {
        let args = words(&[I(1), I(2), I(3), I(1)]);
        let expected = Create {
            parent: NODE,
            name: Name::new(b"name").unwrap(),
            mode: 2,
            umask: 3,
            flags: OpenFlags(1),
            kill_suidgid: true,
            extensions: Extensions::default(),
        };
        assert_eq!(decode(FUSE_CREATE, &args, b"name\0"), Ok(Op::Create(expected)));
    }

    #[test]
    fn a_body_cut_short_is_refused() {
        let args = words(&[I(1), I(2), I(3), I(1)]);
        assert_eq!(
            decode(FUSE_CREATE, &args[..args.len() - 1], b"name\0"),
            Err(DecodeError::Short)
        );
    }
}
