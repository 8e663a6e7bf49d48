//! One request of every operation, with fields that differ from each other and from 0.

use lighthouse_fuse::proto::abi::{
    FUSE_INIT_EXT, FUSE_SECURITY_CTX, fuse_forget_one, fuse_removemapping_one,
};
use lighthouse_fuse::proto::extension::Extensions;
use lighthouse_fuse::proto::op::*;
use lighthouse_fuse::proto::request::Request;
use lighthouse_fuse::proto::types::*;

/// Who asks in every sample.
pub(crate) const CALLER: Caller = Caller { uid: 1000, gid: 1001, pid: 4242 };

/// The sample `op` as request number `id`.
pub(crate) fn request(id: u64, op: Op<'_>) -> Request<'_> {
    Request { id: RequestId(id), caller: CALLER, op }
}

/// Two security contexts and a group, as the kernel lays them out.
pub(crate) fn extension_bytes() -> Vec<u8> {
    let mut bytes = Vec::new();
    let u32s = |bytes: &mut Vec<u8>, numbers: &[u32]| {
        bytes.extend(numbers.iter().flat_map(|number| number.to_ne_bytes()));
    };
    // 8 + (8 + 17 + 5 = 30, padded to 32) + (8 + 11 + 5 = 24)
    u32s(&mut bytes, &[64, 2]);
    u32s(&mut bytes, &[5, 0]);
    bytes.extend(b"security.selinux\0label\0\0");
    u32s(&mut bytes, &[5, 0]);
    bytes.extend(b"security.b\0value");
    u32s(&mut bytes, &[16, 32, 1, 1001]);
    bytes
}

/// Every operation, some in more than one form.
pub(crate) fn ops() -> Vec<Op<'static>> {
    let node = NodeId::new(0x1122_3344_5566_7788).expect("a sample");
    let other = NodeId::new(0x99).expect("a sample");
    let name = Name::new(b"a name").expect("a sample");
    let new_name = Name::new(b"\xff\xfe new").expect("a sample");
    let attribute = XattrName::new(b"user.some/attribute").expect("a sample");
    let handle = FileHandle(0xaabb_ccdd_eeff_0011);
    let lock_owner = LockOwner(0x0102_0304_0506_0708);
    let flags = OpenFlags(OpenFlags::RDWR | OpenFlags::APPEND);
    let extensions =
        Extensions::new(Box::leak(extension_bytes().into_boxed_slice())).expect("a sample");
    let none = Extensions::default();
    let lock = Lock { start: 10, end: i64::MAX as u64, kind: LockKind::Write, pid: 77 };
    let data: &[u8] = b"some data, not aligned";
    let (offset, size, umask) = (0x0011_2233_4455, 4096, 0o027);
    let time = Timestamp::new(-5, 123_456_789);
    let forgets: &[_] = Box::leak(Box::new([
        fuse_forget_one { nodeid: 3, nlookup: 1 },
        fuse_forget_one { nodeid: u64::MAX, nlookup: 1 << 40 },
    ]));
    let mappings: &[_] = Box::leak(Box::new([fuse_removemapping_one { moffset: 4096, len: 8192 }]));
    let set_nothing = SetAttr::nothing(node);
    vec![
        Op::Lookup(Lookup { parent: node, name }),
        Op::Forget(Forget { node, lookups: 3 }),
        Op::GetAttr(GetAttr { node, handle: None }),
        Op::GetAttr(GetAttr { node, handle: Some(handle) }),
        Op::SetAttr(set_nothing),
        Op::SetAttr(SetAttr {
            handle: Some(handle),
            mode: Some(0o100_640),
            uid: Some(7),
            gid: Some(8),
            size: Some(i64::MAX as u64),
            atime: Some(SetTime::At(time)),
            mtime: Some(SetTime::Now),
            ctime: Some(Timestamp::new(i64::MAX, 999_999_999)),
            lock_owner: Some(lock_owner),
            kill_suidgid: true,
            ..set_nothing
        }),
        Op::ReadLink(ReadLink { node }),
        Op::Symlink(Symlink { parent: node, name, target: b"../to/there", extensions }),
        Op::MkNod(MkNod { parent: node, name, mode: 0o020_644, rdev: 0x0801, umask, extensions }),
        Op::MkDir(MkDir { parent: node, name, mode: 0o755, umask, extensions: none }),
        Op::MkDir(MkDir { parent: node, name, mode: 0o755, umask, extensions }),
        Op::Unlink(Unlink { parent: node, name }),
        Op::RmDir(RmDir { parent: node, name }),
        Op::Rename(Rename { parent: node, name, new_parent: other, new_name }),
        Op::Link(Link { node, new_parent: other, new_name }),
        Op::Open(Open { node, flags, kill_suidgid: true }),
        Op::Read(Read { node, handle, offset, size, flags, lock_owner: Some(lock_owner) }),
        Op::Read(Read { node, handle, offset, size, flags, lock_owner: None }),
        Op::Write(Write {
            node,
            handle,
            offset,
            data,
            flags,
            lock_owner: Some(lock_owner),
            from_cache: false,
            kill_suidgid: true,
        }),
        Op::Write(Write {
            node,
            handle,
            offset: 0,
            data: b"",
            flags,
            lock_owner: None,
            from_cache: true,
            kill_suidgid: false,
        }),
        Op::StatFs(StatFs { node }),
        Op::Release(Release { node, handle, flags, lock_owner, flush: true, flock_unlock: false }),
        Op::Release(Release { node, handle, flags, lock_owner, flush: false, flock_unlock: true }),
        Op::FSync(FSync { node, handle, data_only: true }),
        Op::SetXattr(SetXattr {
            node,
            name: attribute,
            value: data,
            flags: SetXattr::CREATE,
            acl_kill_sgid: true,
        }),
        Op::GetXattr(GetXattr { node, name: attribute, size }),
        Op::ListXattr(ListXattr { node, size }),
        Op::RemoveXattr(RemoveXattr { node, name: attribute }),
        Op::Flush(Flush { node, handle, lock_owner }),
        Op::Init(Init {
            major: 7,
            minor: 45,
            max_readahead: 131_072,
            flags: FUSE_INIT_EXT | FUSE_SECURITY_CTX | 1,
        }),
        Op::Init(Init { major: 7, minor: 31, max_readahead: 131_072, flags: 0x3ff }),
        Op::OpenDir(OpenDir { node, flags }),
        Op::ReadDir(ReadDir { node, handle, offset: i64::MAX as u64, size }),
        Op::ReleaseDir(ReleaseDir { node, handle, flags }),
        Op::FSyncDir(FSyncDir { node, handle, data_only: false }),
        Op::GetLk(GetLk { node, handle, owner: lock_owner, lock, flock: false }),
        Op::SetLk(SetLk { node, handle, owner: lock_owner, lock, flock: true }),
        Op::SetLkW(SetLkW { node, handle, owner: lock_owner, lock, flock: false }),
        Op::Access(Access { node, mask: 6 }),
        Op::Create(Create {
            parent: node,
            name,
            mode: 0o100_666,
            umask,
            flags,
            kill_suidgid: false,
            extensions: none,
        }),
        Op::Create(Create {
            parent: node,
            name,
            mode: 0o100_666,
            umask,
            flags,
            kill_suidgid: true,
            extensions,
        }),
        Op::Interrupt(Interrupt { target: RequestId(1234) }),
        Op::BMap(BMap { node, block: 99, blocksize: 512 }),
        Op::Destroy(Destroy),
        Op::Ioctl(Ioctl {
            node,
            handle,
            flags: 16,
            cmd: 0x8008_6601,
            arg: 0x7fff_0000_1234,
            data,
            out_size: 8,
        }),
        Op::Poll(Poll { node, handle, wait: 55, events: 0x41, notify: true }),
        Op::NotifyReply(NotifyReply { node, offset: 4096, data }),
        Op::BatchForget(BatchForget { items: ForgetList::new(forgets) }),
        Op::Fallocate(Fallocate {
            node,
            handle,
            offset,
            length: 8192,
            mode: Fallocate::PUNCH_HOLE | Fallocate::KEEP_SIZE,
        }),
        Op::ReadDirPlus(ReadDirPlus { node, handle, offset: 17, size }),
        Op::Rename2(Rename2 {
            parent: node,
            name,
            new_parent: other,
            new_name,
            flags: Rename2::EXCHANGE,
        }),
        Op::LSeek(LSeek { node, handle, offset: -1, whence: Whence::Hole }),
        Op::CopyFileRange(CopyFileRange {
            node,
            handle,
            offset,
            new_node: other,
            new_handle: FileHandle(6),
            new_offset: 12,
            len: 1 << 33,
            flags: 0,
        }),
        Op::CopyFileRange64(CopyFileRange64 {
            node,
            handle,
            offset,
            new_node: other,
            new_handle: FileHandle(6),
            new_offset: 12,
            len: 1 << 33,
            flags: 0,
        }),
        Op::SetupMapping(SetupMapping {
            node,
            handle,
            offset,
            len: 4096,
            flags: 1,
            window_offset: 8192,
        }),
        Op::RemoveMapping(RemoveMapping { node, items: MappingList::new(mappings) }),
        Op::SyncFs(SyncFs { node }),
        Op::TmpFile(TmpFile {
            parent: node,
            mode: 0o100_600,
            umask,
            flags,
            kill_suidgid: false,
            extensions,
        }),
        Op::Statx(Statx { node, handle: Some(handle), flags: 0x2000, mask: 0xfff }),
        Op::CuseInit(CuseInit { major: 7, minor: 45, flags: 1 }),
    ]
}
