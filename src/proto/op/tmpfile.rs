//! `FUSE_TMPFILE`: make and open a file without a name.

use crate::proto::abi::{FUSE_OPEN_KILL_SUIDGID, fuse_create_in};
use crate::proto::decode::DecodeError;
use crate::proto::extension::Extensions;
use crate::proto::message::Message;
use crate::proto::request::Body;
use crate::proto::types::{NodeId, OpenFlags};

/// Asks to make a plain file that no directory has, and open it (O_TMPFILE, 7.37). Answered as
/// CREATE. It may get a name by LINK. The name in the message means nothing (it is `/`).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct TmpFile<'a> {
    /// A directory, for the filesystem and the owner to be taken from.
    pub parent: NodeId,
    /// Type and permissions; `umask` is not yet applied if FUSE_DONT_MASK was asked for.
    pub mode: u32,
    /// The caller's umask.
    pub umask: u32,
    /// The flags of open(2); with O_EXCL it will never get a name.
    pub flags: OpenFlags,
    /// As in CREATE; means nothing for a new file.
    pub kill_suidgid: bool,
    /// Security contexts and supplementary groups, where asked for at INIT.
    pub extensions: Extensions<'a>,
}

impl<'a> TmpFile<'a> {
    pub(super) fn decode(message: &Message<'a>) -> Result<Self, DecodeError> {
        let fuse_create_in { flags, mode, umask, open_flags } = message.args()?;
        let (_, extensions) = message.body_and_extensions()?;
        Ok(Self {
            parent: message.node()?,
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
        body.c_string(b"/");
        body.extensions(self.extensions);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::abi::FUSE_TMPFILE;
    use crate::proto::op::Op;
    use crate::proto::op::tests::Word::I;
    use crate::proto::op::tests::{NODE, decode, words};

    #[test]
    fn each_field_is_where_the_kernel_puts_it() {
        let args = words(&[I(1), I(2), I(3), I(0)]);
        let expected = TmpFile {
            parent: NODE,
            mode: 2,
            umask: 3,
            flags: OpenFlags(1),
            kill_suidgid: false,
            extensions: Extensions::default(),
        };
        assert_eq!(decode(FUSE_TMPFILE, &args, b"/\0"), Ok(Op::TmpFile(expected)));
    }

    #[test]
    fn a_body_cut_short_is_refused() {
        let args = words(&[I(1), I(2), I(3), I(0)]);
        assert_eq!(decode(FUSE_TMPFILE, &args[..args.len() - 1], b"/\0"), Err(DecodeError::Short));
    }

    #[test]
    fn what_the_name_is_does_not_matter() {
        let args = words(&[I(1), I(2), I(3), I(0)]);
        assert!(decode(FUSE_TMPFILE, &args, b"").is_ok());
    }
}
