//! What the kernel asks for: one variant and one file per operation.
//!
//! Each file says what is asked, how it is decoded from a [`Message`], and how it is encoded, which
//! a stand-in for the kernel does.
//!
//! Invariants: an `Op` is checked (names, node ids, offsets) and borrows names and data from its
//! message; making one allocates nothing.

mod access;
mod batch_forget;
mod bmap;
mod copy_file_range;
mod copy_file_range_64;
mod create;
mod cuse_init;
mod destroy;
mod fallocate;
mod flush;
mod forget;
mod fsync;
mod fsyncdir;
mod getattr;
mod getlk;
mod getxattr;
mod init;
mod interrupt;
mod ioctl;
mod link;
mod listxattr;
mod lookup;
mod lseek;
mod mkdir;
mod mknod;
mod notify_reply;
mod open;
mod opendir;
mod poll;
mod read;
mod readdir;
mod readdirplus;
mod readlink;
mod release;
mod releasedir;
mod removemapping;
mod removexattr;
mod rename;
mod rename2;
mod rmdir;
mod setattr;
mod setlk;
mod setlkw;
mod setupmapping;
mod setxattr;
mod statfs;
mod statx;
mod symlink;
mod syncfs;
mod tmpfile;
mod unlink;
mod write;

pub use access::Access;
pub use batch_forget::{BatchForget, ForgetList};
pub use bmap::BMap;
pub use copy_file_range::CopyFileRange;
pub use copy_file_range_64::CopyFileRange64;
pub use create::Create;
pub use cuse_init::CuseInit;
pub use destroy::Destroy;
pub use fallocate::Fallocate;
pub use flush::Flush;
pub use forget::Forget;
pub use fsync::FSync;
pub use fsyncdir::FSyncDir;
pub use getattr::GetAttr;
pub use getlk::GetLk;
pub use getxattr::GetXattr;
pub use init::Init;
pub use interrupt::Interrupt;
pub use ioctl::Ioctl;
pub use link::Link;
pub use listxattr::ListXattr;
pub use lookup::Lookup;
pub use lseek::{LSeek, Whence};
pub use mkdir::MkDir;
pub use mknod::MkNod;
pub use notify_reply::NotifyReply;
pub use open::Open;
pub use opendir::OpenDir;
pub use poll::Poll;
pub use read::Read;
pub use readdir::ReadDir;
pub use readdirplus::ReadDirPlus;
pub use readlink::ReadLink;
pub use release::Release;
pub use releasedir::ReleaseDir;
pub use removemapping::{MappingList, RemoveMapping};
pub use removexattr::RemoveXattr;
pub use rename::Rename;
pub use rename2::Rename2;
pub use rmdir::RmDir;
pub use setattr::{SetAttr, SetTime};
pub use setlk::SetLk;
pub use setlkw::SetLkW;
pub use setupmapping::SetupMapping;
pub use setxattr::SetXattr;
pub use statfs::StatFs;
pub use statx::Statx;
pub use symlink::Symlink;
pub use syncfs::SyncFs;
pub use tmpfile::TmpFile;
pub use unlink::Unlink;
pub use write::Write;

use super::abi::*;
use super::decode::DecodeError;
use super::message::Message;
use super::request::Body;

/// One operation, with what it asks.
#[allow(missing_docs, reason = "each variant is documented at its struct")]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Op<'a> {
    Lookup(Lookup<'a>),
    Forget(Forget),
    GetAttr(GetAttr),
    SetAttr(SetAttr),
    ReadLink(ReadLink),
    Symlink(Symlink<'a>),
    MkNod(MkNod<'a>),
    MkDir(MkDir<'a>),
    Unlink(Unlink<'a>),
    RmDir(RmDir<'a>),
    Rename(Rename<'a>),
    Rename2(Rename2<'a>),
    Link(Link<'a>),
    Open(Open),
    OpenDir(OpenDir),
    Read(Read),
    Write(Write<'a>),
    StatFs(StatFs),
    Release(Release),
    ReleaseDir(ReleaseDir),
    FSync(FSync),
    FSyncDir(FSyncDir),
    SetXattr(SetXattr<'a>),
    GetXattr(GetXattr<'a>),
    ListXattr(ListXattr),
    RemoveXattr(RemoveXattr<'a>),
    Flush(Flush),
    Init(Init),
    ReadDir(ReadDir),
    ReadDirPlus(ReadDirPlus),
    GetLk(GetLk),
    SetLk(SetLk),
    SetLkW(SetLkW),
    Access(Access),
    Create(Create<'a>),
    TmpFile(TmpFile<'a>),
    Interrupt(Interrupt),
    BMap(BMap),
    Destroy(Destroy),
    Ioctl(Ioctl<'a>),
    Poll(Poll),
    NotifyReply(NotifyReply<'a>),
    BatchForget(BatchForget<'a>),
    Fallocate(Fallocate),
    LSeek(LSeek),
    CopyFileRange(CopyFileRange),
    CopyFileRange64(CopyFileRange64),
    SetupMapping(SetupMapping),
    RemoveMapping(RemoveMapping<'a>),
    SyncFs(SyncFs),
    Statx(Statx),
    CuseInit(CuseInit),
}

impl<'a> Op<'a> {
    /// Understands `message`.
    ///
    /// # Errors
    ///
    /// `Opcode` for a number without an operation; otherwise what is wrong with the message.
    pub fn decode(message: &Message<'a>) -> Result<Self, DecodeError> {
        Ok(match message.header.opcode {
            FUSE_LOOKUP => Self::Lookup(Lookup::decode(message)?),
            FUSE_FORGET => Self::Forget(Forget::decode(message)?),
            FUSE_GETATTR => Self::GetAttr(GetAttr::decode(message)?),
            FUSE_SETATTR => Self::SetAttr(SetAttr::decode(message)?),
            FUSE_READLINK => Self::ReadLink(ReadLink::decode(message)?),
            FUSE_SYMLINK => Self::Symlink(Symlink::decode(message)?),
            FUSE_MKNOD => Self::MkNod(MkNod::decode(message)?),
            FUSE_MKDIR => Self::MkDir(MkDir::decode(message)?),
            FUSE_UNLINK => Self::Unlink(Unlink::decode(message)?),
            FUSE_RMDIR => Self::RmDir(RmDir::decode(message)?),
            FUSE_RENAME => Self::Rename(Rename::decode(message)?),
            FUSE_RENAME2 => Self::Rename2(Rename2::decode(message)?),
            FUSE_LINK => Self::Link(Link::decode(message)?),
            FUSE_OPEN => Self::Open(Open::decode(message)?),
            FUSE_OPENDIR => Self::OpenDir(OpenDir::decode(message)?),
            FUSE_READ => Self::Read(Read::decode(message)?),
            FUSE_WRITE => Self::Write(Write::decode(message)?),
            FUSE_STATFS => Self::StatFs(StatFs::decode(message)?),
            FUSE_RELEASE => Self::Release(Release::decode(message)?),
            FUSE_RELEASEDIR => Self::ReleaseDir(ReleaseDir::decode(message)?),
            FUSE_FSYNC => Self::FSync(FSync::decode(message)?),
            FUSE_FSYNCDIR => Self::FSyncDir(FSyncDir::decode(message)?),
            FUSE_SETXATTR => Self::SetXattr(SetXattr::decode(message)?),
            FUSE_GETXATTR => Self::GetXattr(GetXattr::decode(message)?),
            FUSE_LISTXATTR => Self::ListXattr(ListXattr::decode(message)?),
            FUSE_REMOVEXATTR => Self::RemoveXattr(RemoveXattr::decode(message)?),
            FUSE_FLUSH => Self::Flush(Flush::decode(message)?),
            FUSE_INIT => Self::Init(Init::decode(message)?),
            FUSE_READDIR => Self::ReadDir(ReadDir::decode(message)?),
            FUSE_READDIRPLUS => Self::ReadDirPlus(ReadDirPlus::decode(message)?),
            FUSE_GETLK => Self::GetLk(GetLk::decode(message)?),
            FUSE_SETLK => Self::SetLk(SetLk::decode(message)?),
            FUSE_SETLKW => Self::SetLkW(SetLkW::decode(message)?),
            FUSE_ACCESS => Self::Access(Access::decode(message)?),
            FUSE_CREATE => Self::Create(Create::decode(message)?),
            FUSE_TMPFILE => Self::TmpFile(TmpFile::decode(message)?),
            FUSE_INTERRUPT => Self::Interrupt(Interrupt::decode(message)?),
            FUSE_BMAP => Self::BMap(BMap::decode(message)?),
            FUSE_DESTROY => Self::Destroy(Destroy::decode(message)?),
            FUSE_IOCTL => Self::Ioctl(Ioctl::decode(message)?),
            FUSE_POLL => Self::Poll(Poll::decode(message)?),
            FUSE_NOTIFY_REPLY => Self::NotifyReply(NotifyReply::decode(message)?),
            FUSE_BATCH_FORGET => Self::BatchForget(BatchForget::decode(message)?),
            FUSE_FALLOCATE => Self::Fallocate(Fallocate::decode(message)?),
            FUSE_LSEEK => Self::LSeek(LSeek::decode(message)?),
            FUSE_COPY_FILE_RANGE => Self::CopyFileRange(CopyFileRange::decode(message)?),
            FUSE_COPY_FILE_RANGE_64 => Self::CopyFileRange64(CopyFileRange64::decode(message)?),
            FUSE_SETUPMAPPING => Self::SetupMapping(SetupMapping::decode(message)?),
            FUSE_REMOVEMAPPING => Self::RemoveMapping(RemoveMapping::decode(message)?),
            FUSE_SYNCFS => Self::SyncFs(SyncFs::decode(message)?),
            FUSE_STATX => Self::Statx(Statx::decode(message)?),
            CUSE_INIT => Self::CuseInit(CuseInit::decode(message)?),
            opcode => return Err(DecodeError::Opcode(opcode)),
        })
    }

    /// The operation's number on the wire.
    pub const fn opcode(&self) -> u32 {
        match self {
            Self::Lookup(_) => FUSE_LOOKUP,
            Self::Forget(_) => FUSE_FORGET,
            Self::GetAttr(_) => FUSE_GETATTR,
            Self::SetAttr(_) => FUSE_SETATTR,
            Self::ReadLink(_) => FUSE_READLINK,
            Self::Symlink(_) => FUSE_SYMLINK,
            Self::MkNod(_) => FUSE_MKNOD,
            Self::MkDir(_) => FUSE_MKDIR,
            Self::Unlink(_) => FUSE_UNLINK,
            Self::RmDir(_) => FUSE_RMDIR,
            Self::Rename(_) => FUSE_RENAME,
            Self::Rename2(_) => FUSE_RENAME2,
            Self::Link(_) => FUSE_LINK,
            Self::Open(_) => FUSE_OPEN,
            Self::OpenDir(_) => FUSE_OPENDIR,
            Self::Read(_) => FUSE_READ,
            Self::Write(_) => FUSE_WRITE,
            Self::StatFs(_) => FUSE_STATFS,
            Self::Release(_) => FUSE_RELEASE,
            Self::ReleaseDir(_) => FUSE_RELEASEDIR,
            Self::FSync(_) => FUSE_FSYNC,
            Self::FSyncDir(_) => FUSE_FSYNCDIR,
            Self::SetXattr(_) => FUSE_SETXATTR,
            Self::GetXattr(_) => FUSE_GETXATTR,
            Self::ListXattr(_) => FUSE_LISTXATTR,
            Self::RemoveXattr(_) => FUSE_REMOVEXATTR,
            Self::Flush(_) => FUSE_FLUSH,
            Self::Init(_) => FUSE_INIT,
            Self::ReadDir(_) => FUSE_READDIR,
            Self::ReadDirPlus(_) => FUSE_READDIRPLUS,
            Self::GetLk(_) => FUSE_GETLK,
            Self::SetLk(_) => FUSE_SETLK,
            Self::SetLkW(_) => FUSE_SETLKW,
            Self::Access(_) => FUSE_ACCESS,
            Self::Create(_) => FUSE_CREATE,
            Self::TmpFile(_) => FUSE_TMPFILE,
            Self::Interrupt(_) => FUSE_INTERRUPT,
            Self::BMap(_) => FUSE_BMAP,
            Self::Destroy(_) => FUSE_DESTROY,
            Self::Ioctl(_) => FUSE_IOCTL,
            Self::Poll(_) => FUSE_POLL,
            Self::NotifyReply(_) => FUSE_NOTIFY_REPLY,
            Self::BatchForget(_) => FUSE_BATCH_FORGET,
            Self::Fallocate(_) => FUSE_FALLOCATE,
            Self::LSeek(_) => FUSE_LSEEK,
            Self::CopyFileRange(_) => FUSE_COPY_FILE_RANGE,
            Self::CopyFileRange64(_) => FUSE_COPY_FILE_RANGE_64,
            Self::SetupMapping(_) => FUSE_SETUPMAPPING,
            Self::RemoveMapping(_) => FUSE_REMOVEMAPPING,
            Self::SyncFs(_) => FUSE_SYNCFS,
            Self::Statx(_) => FUSE_STATX,
            Self::CuseInit(_) => CUSE_INIT,
        }
    }

    /// Whether a reply is due: not to FORGET, BATCH_FORGET, INTERRUPT and NOTIFY_REPLY.
    pub const fn wants_reply(&self) -> bool {
        wants_reply(self.opcode())
    }

    /// The operation's name: of `opcode`, without its prefix.
    pub const fn name(&self) -> &'static str {
        name(self.opcode())
    }

    pub(super) fn encode(self, body: &mut Body) {
        match self {
            Self::Lookup(op) => op.encode(body),
            Self::Forget(op) => op.encode(body),
            Self::GetAttr(op) => op.encode(body),
            Self::SetAttr(op) => op.encode(body),
            Self::ReadLink(op) => op.encode(body),
            Self::Symlink(op) => op.encode(body),
            Self::MkNod(op) => op.encode(body),
            Self::MkDir(op) => op.encode(body),
            Self::Unlink(op) => op.encode(body),
            Self::RmDir(op) => op.encode(body),
            Self::Rename(op) => op.encode(body),
            Self::Rename2(op) => op.encode(body),
            Self::Link(op) => op.encode(body),
            Self::Open(op) => op.encode(body),
            Self::OpenDir(op) => op.encode(body),
            Self::Read(op) => op.encode(body),
            Self::Write(op) => op.encode(body),
            Self::StatFs(op) => op.encode(body),
            Self::Release(op) => op.encode(body),
            Self::ReleaseDir(op) => op.encode(body),
            Self::FSync(op) => op.encode(body),
            Self::FSyncDir(op) => op.encode(body),
            Self::SetXattr(op) => op.encode(body),
            Self::GetXattr(op) => op.encode(body),
            Self::ListXattr(op) => op.encode(body),
            Self::RemoveXattr(op) => op.encode(body),
            Self::Flush(op) => op.encode(body),
            Self::Init(op) => op.encode(body),
            Self::ReadDir(op) => op.encode(body),
            Self::ReadDirPlus(op) => op.encode(body),
            Self::GetLk(op) => op.encode(body),
            Self::SetLk(op) => op.encode(body),
            Self::SetLkW(op) => op.encode(body),
            Self::Access(op) => op.encode(body),
            Self::Create(op) => op.encode(body),
            Self::TmpFile(op) => op.encode(body),
            Self::Interrupt(op) => op.encode(body),
            Self::BMap(op) => op.encode(body),
            Self::Destroy(op) => op.encode(body),
            Self::Ioctl(op) => op.encode(body),
            Self::Poll(op) => op.encode(body),
            Self::NotifyReply(op) => op.encode(body),
            Self::BatchForget(op) => op.encode(body),
            Self::Fallocate(op) => op.encode(body),
            Self::LSeek(op) => op.encode(body),
            Self::CopyFileRange(op) => op.encode(body),
            Self::CopyFileRange64(op) => op.encode(body),
            Self::SetupMapping(op) => op.encode(body),
            Self::RemoveMapping(op) => op.encode(body),
            Self::SyncFs(op) => op.encode(body),
            Self::Statx(op) => op.encode(body),
            Self::CuseInit(op) => op.encode(body),
        }
    }
}

/// Whether a reply is due to `opcode`, known or not.
pub const fn wants_reply(opcode: u32) -> bool {
    !matches!(opcode, FUSE_FORGET | FUSE_BATCH_FORGET | FUSE_INTERRUPT | FUSE_NOTIFY_REPLY)
}

/// The name of `opcode` without its prefix, or "?".
pub const fn name(opcode: u32) -> &'static str {
    match opcode {
        FUSE_LOOKUP => "LOOKUP",
        FUSE_FORGET => "FORGET",
        FUSE_GETATTR => "GETATTR",
        FUSE_SETATTR => "SETATTR",
        FUSE_READLINK => "READLINK",
        FUSE_SYMLINK => "SYMLINK",
        FUSE_MKNOD => "MKNOD",
        FUSE_MKDIR => "MKDIR",
        FUSE_UNLINK => "UNLINK",
        FUSE_RMDIR => "RMDIR",
        FUSE_RENAME => "RENAME",
        FUSE_RENAME2 => "RENAME2",
        FUSE_LINK => "LINK",
        FUSE_OPEN => "OPEN",
        FUSE_OPENDIR => "OPENDIR",
        FUSE_READ => "READ",
        FUSE_WRITE => "WRITE",
        FUSE_STATFS => "STATFS",
        FUSE_RELEASE => "RELEASE",
        FUSE_RELEASEDIR => "RELEASEDIR",
        FUSE_FSYNC => "FSYNC",
        FUSE_FSYNCDIR => "FSYNCDIR",
        FUSE_SETXATTR => "SETXATTR",
        FUSE_GETXATTR => "GETXATTR",
        FUSE_LISTXATTR => "LISTXATTR",
        FUSE_REMOVEXATTR => "REMOVEXATTR",
        FUSE_FLUSH => "FLUSH",
        FUSE_INIT => "INIT",
        FUSE_READDIR => "READDIR",
        FUSE_READDIRPLUS => "READDIRPLUS",
        FUSE_GETLK => "GETLK",
        FUSE_SETLK => "SETLK",
        FUSE_SETLKW => "SETLKW",
        FUSE_ACCESS => "ACCESS",
        FUSE_CREATE => "CREATE",
        FUSE_TMPFILE => "TMPFILE",
        FUSE_INTERRUPT => "INTERRUPT",
        FUSE_BMAP => "BMAP",
        FUSE_DESTROY => "DESTROY",
        FUSE_IOCTL => "IOCTL",
        FUSE_POLL => "POLL",
        FUSE_NOTIFY_REPLY => "NOTIFY_REPLY",
        FUSE_BATCH_FORGET => "BATCH_FORGET",
        FUSE_FALLOCATE => "FALLOCATE",
        FUSE_LSEEK => "LSEEK",
        FUSE_COPY_FILE_RANGE => "COPY_FILE_RANGE",
        FUSE_COPY_FILE_RANGE_64 => "COPY_FILE_RANGE_64",
        FUSE_SETUPMAPPING => "SETUPMAPPING",
        FUSE_REMOVEMAPPING => "REMOVEMAPPING",
        FUSE_SYNCFS => "SYNCFS",
        FUSE_STATX => "STATX",
        CUSE_INIT => "CUSE_INIT",
        _ => "?",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::types::NodeId;
    use std::collections::BTreeSet;

    pub(super) const NODE: NodeId = NodeId::new(0x0102_0304_0506_0708).unwrap();
    pub(super) const OTHER: NodeId = NodeId::new(9).unwrap();

    /// A field of a fixed part.
    #[derive(Clone, Copy)]
    pub(super) enum Word {
        /// Of 32 bits.
        I(u32),
        /// Of 64 bits.
        L(u64),
    }

    /// The bytes of a fixed part.
    pub(super) fn words(words: &[Word]) -> Vec<u8> {
        let bytes = words.iter().map(|word| match word {
            Word::I(word) => word.to_ne_bytes().to_vec(),
            Word::L(word) => word.to_ne_bytes().to_vec(),
        });
        bytes.flatten().collect()
    }

    /// Decodes a request about [`NODE`], made without any of the encoders.
    pub(super) fn decode<'a>(
        opcode: u32,
        args: &'a [u8],
        payload: &'a [u8],
    ) -> Result<Op<'a>, DecodeError> {
        decode_about(NODE.get(), opcode, args, payload)
    }

    fn decode_about<'a>(
        nodeid: u64,
        opcode: u32,
        args: &'a [u8],
        payload: &'a [u8],
    ) -> Result<Op<'a>, DecodeError> {
        let header = fuse_in_header {
            len: 0,
            opcode,
            unique: 2,
            nodeid,
            uid: 0,
            gid: 0,
            pid: 0,
            total_extlen: 0,
            padding: 0,
        };
        Op::decode(&Message { header, args, payload })
    }

    #[test]
    fn an_operation_nobody_knows_is_refused_with_its_number() {
        for opcode in [0, 7, 19, 54, 4095, 4097, CUSE_INIT_BSWAP_RESERVED, u32::MAX] {
            assert_eq!(decode(opcode, b"", b""), Err(DecodeError::Opcode(opcode)));
            assert_eq!(name(opcode), "?");
        }
    }

    #[test]
    fn only_these_operations_do_without_a_node() {
        // Enough of everything for any fixed part, and a name where there is one.
        let (args, payload) = ([0; 128], [b"name\0new\0".as_slice(), &[0; 64]].concat());
        let without: BTreeSet<_> = (0..=CUSE_INIT)
            .filter(|&opcode| decode_about(0, opcode, &args, &payload).is_ok())
            .map(name)
            .collect();
        let expected = ["BATCH_FORGET", "CUSE_INIT", "DESTROY", "INIT", "INTERRUPT"];
        assert_eq!(without, BTreeSet::from(expected));
    }

    #[test]
    fn four_operations_want_no_reply() {
        let silent: BTreeSet<_> =
            (0..=CUSE_INIT).filter(|&opcode| !wants_reply(opcode)).map(name).collect();
        let expected = ["BATCH_FORGET", "FORGET", "INTERRUPT", "NOTIFY_REPLY"];
        assert_eq!(silent, BTreeSet::from(expected));
    }
}
