//! Requests and replies as bytes: every operation there and back, and bytes of any kind.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

#[path = "common/samples.rs"]
mod samples;

use std::collections::BTreeSet;
use std::io::IoSlice;
use std::time::Duration;

use lighthouse_fuse::proto::abi::*;
use lighthouse_fuse::proto::answer::Answer;
use lighthouse_fuse::proto::dirent;
use lighthouse_fuse::proto::extension::Extensions;
use lighthouse_fuse::proto::message::args_len;
use lighthouse_fuse::proto::op::*;
use lighthouse_fuse::proto::types::*;
use lighthouse_fuse::proto::{
    Action, Config, Connection, DecodeError, Dialect, Message, Op, Reply, notify,
};
use proptest::collection::vec;
use proptest::prelude::*;
use zerocopy::IntoBytes;

const OLD: Dialect = Dialect { minor: 31, setxattr_ext: false };

fn known_opcodes() -> impl Iterator<Item = u32> {
    (0..=5000).filter(|&opcode| args_len(opcode, Dialect::NEWEST).is_some())
}

#[test]
fn there_are_52_operations_and_each_has_a_sample_and_a_name() {
    let known: BTreeSet<_> = known_opcodes().collect();
    let sampled: BTreeSet<_> = samples::ops().iter().map(Op::opcode).collect();
    assert_eq!(known.len(), 52);
    assert_eq!(known, sampled);
    let names: BTreeSet<_> = samples::ops().iter().map(Op::name).collect();
    assert_eq!(names.len(), 52);
    assert!(!names.contains("?"));
}

#[test]
fn every_sample_is_decoded_to_what_was_encoded_whichever_way_it_comes() {
    for op in samples::ops() {
        for dialect in [Dialect::NEWEST, OLD] {
            let encoded = samples::request(8, op).encode(dialect);
            let bytes = encoded.bytes();
            let message = Message::split(&bytes, dialect).unwrap();
            assert_eq!((message.id(), message.caller()), (RequestId(8), samples::CALLER));
            let expected = match op {
                Op::SetXattr(set) if !dialect.setxattr_ext => {
                    Op::SetXattr(SetXattr { acl_kill_sgid: false, ..set })
                }
                op => op,
            };
            assert_eq!(Op::decode(&message), Ok(expected), "from the device");
            assert_eq!(Op::decode(&encoded.message().unwrap()), Ok(expected), "from the ring");
        }
    }
}

#[test]
fn nothing_depends_on_how_a_message_is_aligned() {
    for op in samples::ops() {
        let bytes = samples::request(8, op).encode(Dialect::NEWEST).bytes();
        for shift in 0..8 {
            let mut buffer = vec![0; shift];
            buffer.extend_from_slice(&bytes);
            let message = Message::split(&buffer[shift..], Dialect::NEWEST).unwrap();
            assert_eq!(Op::decode(&message), Ok(op), "{} shifted by {shift}", op.name());
        }
    }
}

/// Cuts `bytes` to `len` and lets the header say so.
fn cut(bytes: &[u8], len: usize) -> Vec<u8> {
    let mut bytes = bytes[..len].to_vec();
    if let Some(header) = bytes.get_mut(..4) {
        header.copy_from_slice(&u32::try_from(len).unwrap().to_ne_bytes());
    }
    bytes
}

#[test]
fn a_message_cut_anywhere_is_refused() {
    for op in samples::ops() {
        let bytes = samples::request(8, op).encode(Dialect::NEWEST).bytes();
        for len in 0..bytes.len() {
            let cut = cut(&bytes, len);
            let decoded = Message::split(&cut, Dialect::NEWEST).and_then(|m| Op::decode(&m));
            match (op, decoded) {
                // Of the padding after its struct INIT needs nothing, nor does CUSE_INIT; and
                // TMPFILE's name means nothing.
                (Op::Init(_) | Op::CuseInit(_), Ok(decoded)) => assert_eq!(decoded, op),
                (Op::TmpFile(_), Ok(_)) => panic!("its extensions are cut"),
                (_, Ok(decoded)) => panic!("{} of {} bytes is {decoded:?}", op.name(), len),
                (_, Err(_)) => (),
            }
        }
    }
}

#[test]
fn a_header_that_counts_other_bytes_than_came_is_refused() {
    let op = Op::StatFs(StatFs { node: NodeId::ROOT });
    let mut bytes = samples::request(8, op).encode(Dialect::NEWEST).bytes();
    bytes.push(0);
    assert_eq!(Message::split(&bytes, Dialect::NEWEST).err(), Some(DecodeError::Length));
    bytes.truncate(40);
    bytes[0] = 41;
    assert_eq!(Message::split(&bytes, Dialect::NEWEST).err(), Some(DecodeError::Length));
}

#[test]
fn extensions_are_read_one_by_one() {
    let bytes = samples::extension_bytes();
    let extensions = Extensions::new(&bytes).unwrap();
    let contexts: Vec<_> = extensions
        .security_contexts()
        .map(|context| (context.name.as_bytes(), context.value))
        .collect();
    let selinux: (&[u8], &[u8]) = (b"security.selinux", b"label");
    assert_eq!(contexts, [selinux, (b"security.b", b"value")]);
    assert_eq!(extensions.supplementary_groups().collect::<Vec<_>>(), [1001]);
}

#[test]
fn an_extension_of_a_type_nobody_knows_is_passed_by() {
    let mut bytes: Vec<u8> =
        [24_u32, 99, 1, 2, 3, 4].iter().flat_map(|n| n.to_ne_bytes()).collect();
    bytes.extend(samples::extension_bytes());
    let extensions = Extensions::new(&bytes).unwrap();
    assert_eq!(extensions.security_contexts().count(), 2);
    assert_eq!(extensions.supplementary_groups().count(), 1);
}

#[test]
fn extensions_that_do_not_fit_are_refused() {
    let words = |words: &[u32]| words.iter().flat_map(|n| n.to_ne_bytes()).collect::<Vec<_>>();
    for (bytes, why) in [
        (words(&[0, 99]), "a size that does not count its own header"),
        (words(&[16, 99]), "a size beyond the end"),
        (words(&[12, 99, 0]), "a size that is no multiple of 8"),
        (words(&[8, 1]), "a context that is not there"),
        (words(&[16, 32, 3, 1]), "more groups than fit"),
        (words(&[16, 32, u32::MAX, 1]), "far more groups than fit"),
        (words(&[24, 1, u32::MAX, 0, 0x0000_6161, 0]), "a value beyond its extension"),
    ] {
        assert_eq!(Extensions::new(&bytes), Err(DecodeError::Extensions), "{why}");
    }
}

#[test]
fn names_are_checked_as_they_come() {
    let lookup = |name: &[u8]| {
        let op = Op::ReadLink(ReadLink { node: NodeId::ROOT });
        let mut encoded = samples::request(8, op).encode(Dialect::NEWEST);
        encoded.payload.extend_from_slice(name);
        encoded.header.opcode = FUSE_LOOKUP;
        encoded.header.len += u32::try_from(name.len()).unwrap();
        Op::decode(&encoded.message().unwrap()).map(|op| op.name())
    };
    assert_eq!(lookup(b"name\0"), Ok("LOOKUP"));
    assert_eq!(lookup(b"..\0"), Ok("LOOKUP"));
    assert_eq!(lookup(b"\xff\x80\0"), Ok("LOOKUP"));
    assert_eq!(lookup(b"name"), Err(DecodeError::Name));
    assert_eq!(lookup(b"\0"), Err(DecodeError::Name));
    assert_eq!(lookup(b""), Err(DecodeError::Name));
    assert_eq!(lookup(b"a/b\0"), Err(DecodeError::Name));
    assert_eq!(lookup(&[[b'x'; 255].as_slice(), b"\0"].concat()), Ok("LOOKUP"));
    let long = lookup(&[[b'x'; 256].as_slice(), b"\0"].concat());
    assert_eq!(long, Err(DecodeError::NameTooLong));
    assert_eq!(DecodeError::NameTooLong.errno(), Errno::ENAMETOOLONG);
}

/// What a reply looks like on the wire, checked against its own count.
fn wire(reply: &Reply<'_>) -> Vec<u8> {
    let bytes = reply.chunks().collect::<Vec<_>>().concat();
    assert_eq!(bytes.len(), reply.len());
    let mut slices = [IoSlice::new(&[]); 8];
    let slices = reply.io_slices(&mut slices).expect("8 slices are enough here");
    assert_eq!(slices.iter().flat_map(|slice| slice.iter()).copied().collect::<Vec<_>>(), bytes);
    bytes
}

#[test]
fn every_reply_is_read_back_as_what_was_answered() {
    let to = RequestId(6);
    let attr = Attr {
        ino: 1,
        size: 2,
        blocks: 3,
        atime: Timestamp::new(-4, 5),
        mtime: Timestamp::new(6, 7),
        ctime: Timestamp::new(8, 999_999_999),
        btime: Timestamp::default(),
        mode: 0o100_644,
        nlink: 9,
        uid: 10,
        gid: 11,
        rdev: 0xfff0_1234,
        blksize: 4096,
    };
    let entry = Entry {
        node: NodeId::new(12).unwrap(),
        generation: 13,
        attr,
        entry_valid: Duration::new(14, 15),
        attr_valid: FOREVER,
    };
    let opened = Opened {
        handle: FileHandle(16),
        flags: OpenedFlags::KEEP_CACHE | OpenedFlags::CACHE_DIR,
        backing_id: -17,
    };
    let lock = Lock { start: 18, end: 19, kind: LockKind::Read, pid: 20 };
    let totals = Statfs {
        blocks: 1,
        bfree: 2,
        bavail: 3,
        files: 4,
        ffree: 5,
        bsize: 6,
        namelen: 7,
        frsize: 8,
    };
    macro_rules! check {
        ($reply:expr, $read:ident($($arg:expr)?), $expected:expr) => {
            let bytes = wire(&$reply);
            let answer = Answer::decode(&bytes).unwrap();
            assert_eq!(answer.id, to);
            assert_eq!(answer.result.unwrap().$read($($arg)?), Ok($expected));
        };
    }
    check!(Reply::empty(to), empty(), ());
    check!(Reply::entry(to, &entry), entry(), Ok(entry));
    check!(Reply::negative_entry(to, Duration::from_secs(3)), entry(), Err(Duration::from_secs(3)));
    check!(Reply::attr(to, &attr, Duration::ZERO), attr(), (attr, Duration::ZERO));
    let born = Attr { btime: Timestamp::new(-21, 22), ..attr };
    check!(Reply::statx(to, &born, FOREVER), statx(), (born, FOREVER));
    check!(Reply::opened(to, &opened), opened(), opened);
    check!(Reply::created(to, &entry, &opened), created(), (entry, opened));
    check!(Reply::data(to, b"data"), data(4), b"data".as_slice());
    let chunks: [&[u8]; 4] = [b"da", b"", b"t", b"a"];
    check!(Reply::data_chunks(to, &chunks), data(4), b"data".as_slice());
    check!(Reply::written(to, 23), written(), 23);
    check!(Reply::copied_64(to, 1 << 40), copied_64(), 1 << 40);
    check!(Reply::statfs(to, &totals), statfs(), totals);
    check!(Reply::xattr_size(to, 24), xattr_size(), 24);
    check!(Reply::lock(to, &lock), lock(), lock);
    check!(Reply::bmap(to, 25), bmap(), 25);
    check!(Reply::lseek(to, 26), lseek(), 26);
    check!(Reply::ioctl(to, -27, b"out"), ioctl(), (-27, b"out".as_slice()));
    check!(Reply::poll(to, 28), poll(), 28);
}

#[test]
fn a_refusal_is_a_header_with_the_negated_number() {
    let bytes = wire(&Reply::error(RequestId(6), Errno::ENOENT));
    let header = fuse_out_header { len: 16, error: -2, unique: 6 };
    assert_eq!(bytes, header.as_bytes());
    assert_eq!(Answer::decode(&bytes).unwrap().result, Err(Errno::ENOENT));
}

#[test]
fn a_longer_answer_than_was_asked_for_is_refused() {
    let bytes = wire(&Reply::data(RequestId(6), b"12345"));
    assert_eq!(Answer::decode(&bytes).unwrap().result.unwrap().data(4), Err(DecodeError::Length));
}

#[test]
fn a_reply_whose_data_comes_from_elsewhere_counts_it() {
    let reply = Reply::data_elsewhere(RequestId(6), 1000);
    assert_eq!((reply.len(), reply.elsewhere()), (1016, 1000));
    assert_eq!(reply.head()[..4], 1016_u32.to_ne_bytes());
    assert_eq!(reply.chunks().count(), 1);
}

#[test]
fn too_few_slices_are_noticed() {
    let chunks: [&[u8]; 3] = [b"a", b"b", b"c"];
    let reply = Reply::data_chunks(RequestId(6), &chunks);
    assert!(reply.io_slices(&mut [IoSlice::new(&[]); 3]).is_none());
    assert_eq!(reply.io_slices(&mut [IoSlice::new(&[]); 4]).unwrap().len(), 4);
}

/// Numbers and names of which any operation can be made.
#[derive(Debug)]
struct Material {
    which: usize,
    numbers: [u64; 6],
    small: [u32; 5],
    flags: [bool; 2],
    name: Vec<u8>,
    other: Vec<u8>,
    data: Vec<u8>,
    extensions: bool,
}

fn material() -> impl Strategy<Value = Material> {
    let byte = || any::<u8>().prop_map(|byte| if matches!(byte, 0 | b'/') { b'_' } else { byte });
    let name = || vec(byte(), 1..=255);
    let number = prop_oneof![0..10_u64, any::<u64>(), Just(u64::MAX), Just(i64::MAX as u64)];
    (
        0..samples::ops().len(),
        proptest::array::uniform6(number),
        proptest::array::uniform5(any::<u32>()),
        any::<[bool; 2]>(),
        name(),
        name(),
        vec(any::<u8>(), 0..5000),
        any::<bool>(),
    )
        .prop_map(|(which, numbers, small, flags, name, other, data, extensions)| Material {
            which,
            numbers,
            small,
            flags,
            name,
            other,
            data,
            extensions,
        })
}

impl Material {
    /// The sample with its fields replaced.
    fn op<'a>(&'a self, sample: Op<'a>, extension_bytes: &'a [u8]) -> Op<'a> {
        let node_of = |number: u64| NodeId::new(number.max(1)).unwrap();
        let [a, b, c, d, e, f] = self.numbers;
        let [p, q, r, s, t] = self.small;
        let [yes, no] = self.flags;
        let (node, new_node) = (node_of(a), node_of(b));
        let (handle, new_handle, owner) = (FileHandle(c), FileHandle(d), LockOwner(d));
        let name = Name::new(&self.name).unwrap();
        let new_name = Name::new(&self.other).unwrap();
        let attribute = XattrName::new(&self.other).unwrap();
        let data = &self.data[..];
        let flags = OpenFlags(p);
        let offset = e >> 2; // room for a length of 32 bits below 2^63
        let time = Timestamp::new(f.cast_signed(), q % 1_000_000_000);
        let lock_owner = yes.then_some(owner);
        let kinds = [LockKind::Read, LockKind::Write, LockKind::Unlock];
        let kind = kinds[p as usize % kinds.len()];
        let lock = Lock { start: e, end: f, kind, pid: q };
        let extensions = if self.extensions {
            Extensions::new(extension_bytes).unwrap()
        } else {
            Extensions::default()
        };
        let (parent, new_parent) = (node, new_node);
        match sample {
            Op::Lookup(_) => Op::Lookup(Lookup { parent, name }),
            Op::Forget(_) => Op::Forget(Forget { node, lookups: b }),
            Op::GetAttr(_) => Op::GetAttr(GetAttr { node, handle: yes.then_some(handle) }),
            Op::SetAttr(_) => Op::SetAttr(SetAttr {
                node,
                handle: yes.then_some(handle),
                mode: no.then_some(p),
                uid: yes.then_some(q),
                gid: no.then_some(r),
                size: yes.then_some(offset),
                atime: no.then_some(SetTime::At(time)),
                mtime: yes.then_some(if no { SetTime::Now } else { SetTime::At(time) }),
                ctime: no.then_some(time),
                lock_owner,
                kill_suidgid: no,
            }),
            Op::ReadLink(_) => Op::ReadLink(ReadLink { node }),
            Op::Symlink(_) => {
                Op::Symlink(Symlink { parent, name, target: &self.other, extensions })
            }
            Op::MkNod(_) => {
                Op::MkNod(MkNod { parent, name, mode: p, rdev: q, umask: r, extensions })
            }
            Op::MkDir(_) => Op::MkDir(MkDir { parent, name, mode: p, umask: q, extensions }),
            Op::Unlink(_) => Op::Unlink(Unlink { parent, name }),
            Op::RmDir(_) => Op::RmDir(RmDir { parent, name }),
            Op::Rename(_) => Op::Rename(Rename { parent, name, new_parent, new_name }),
            Op::Rename2(_) => Op::Rename2(Rename2 { parent, name, new_parent, new_name, flags: p }),
            Op::Link(_) => Op::Link(Link { node, new_parent, new_name }),
            Op::Open(_) => Op::Open(Open { node, flags, kill_suidgid: yes }),
            Op::Read(_) => Op::Read(Read { node, handle, offset, size: q, flags, lock_owner }),
            Op::Write(_) => Op::Write(Write {
                node,
                handle,
                offset,
                data,
                flags,
                lock_owner,
                from_cache: yes,
                kill_suidgid: no,
            }),
            Op::StatFs(_) => Op::StatFs(StatFs { node }),
            Op::Release(_) => Op::Release(Release {
                node,
                handle,
                flags,
                lock_owner: owner,
                flush: yes,
                flock_unlock: no,
            }),
            Op::FSync(_) => Op::FSync(FSync { node, handle, data_only: yes }),
            Op::SetXattr(_) => Op::SetXattr(SetXattr {
                node,
                name: attribute,
                value: data,
                flags: p,
                acl_kill_sgid: yes,
            }),
            Op::GetXattr(_) => Op::GetXattr(GetXattr { node, name: attribute, size: p }),
            Op::ListXattr(_) => Op::ListXattr(ListXattr { node, size: p }),
            Op::RemoveXattr(_) => Op::RemoveXattr(RemoveXattr { node, name: attribute }),
            Op::Flush(_) => Op::Flush(Flush { node, handle, lock_owner: owner }),
            Op::Init(_) => {
                let flags = if a & FUSE_INIT_EXT == 0 { a & 0xffff_ffff } else { a };
                Op::Init(Init { major: 7, minor: q, max_readahead: r, flags })
            }
            Op::OpenDir(_) => Op::OpenDir(OpenDir { node, flags }),
            Op::ReadDir(_) => Op::ReadDir(ReadDir { node, handle, offset: e, size: q }),
            Op::ReadDirPlus(_) => Op::ReadDirPlus(ReadDirPlus { node, handle, offset: e, size: q }),
            Op::ReleaseDir(_) => Op::ReleaseDir(ReleaseDir { node, handle, flags }),
            Op::FSyncDir(_) => Op::FSyncDir(FSyncDir { node, handle, data_only: no }),
            Op::GetLk(_) => Op::GetLk(GetLk { node, handle, owner, lock, flock: yes }),
            Op::SetLk(_) => Op::SetLk(SetLk { node, handle, owner, lock, flock: no }),
            Op::SetLkW(_) => Op::SetLkW(SetLkW { node, handle, owner, lock, flock: yes }),
            Op::Access(_) => Op::Access(Access { node, mask: p }),
            Op::Create(_) => Op::Create(Create {
                parent,
                name,
                mode: q,
                umask: r,
                flags,
                kill_suidgid: yes,
                extensions,
            }),
            Op::TmpFile(_) => Op::TmpFile(TmpFile {
                parent,
                mode: q,
                umask: r,
                flags,
                kill_suidgid: yes,
                extensions,
            }),
            Op::Interrupt(_) => Op::Interrupt(Interrupt { target: RequestId(a) }),
            Op::BMap(_) => Op::BMap(BMap { node, block: b, blocksize: p }),
            Op::Destroy(_) => Op::Destroy(Destroy),
            Op::Ioctl(_) => {
                Op::Ioctl(Ioctl { node, handle, flags: p, cmd: q, arg: b, data, out_size: r })
            }
            Op::Poll(_) => Op::Poll(Poll { node, handle, wait: b, events: p, notify: yes }),
            Op::NotifyReply(_) => Op::NotifyReply(NotifyReply { node, offset, data }),
            Op::BatchForget(list) => Op::BatchForget(list),
            Op::Fallocate(_) => {
                Op::Fallocate(Fallocate { node, handle, offset, length: t.into(), mode: s })
            }
            Op::LSeek(_) => {
                let whence =
                    [Whence::Set, Whence::Current, Whence::End, Whence::Data, Whence::Hole];
                let whence = whence[p as usize % whence.len()];
                Op::LSeek(LSeek { node, handle, offset: f.cast_signed(), whence })
            }
            Op::CopyFileRange(_) => Op::CopyFileRange(CopyFileRange {
                node,
                handle,
                offset,
                new_node,
                new_handle,
                new_offset: f >> 2,
                len: t.into(),
                flags: c,
            }),
            Op::CopyFileRange64(_) => Op::CopyFileRange64(CopyFileRange64 {
                node,
                handle,
                offset,
                new_node,
                new_handle,
                new_offset: f >> 2,
                len: t.into(),
                flags: c,
            }),
            Op::SetupMapping(_) => Op::SetupMapping(SetupMapping {
                node,
                handle,
                offset: b,
                len: d,
                flags: e,
                window_offset: f,
            }),
            Op::RemoveMapping(remove) => Op::RemoveMapping(RemoveMapping { node, ..remove }),
            Op::SyncFs(_) => Op::SyncFs(SyncFs { node }),
            Op::Statx(_) => {
                Op::Statx(Statx { node, handle: yes.then_some(handle), flags: p, mask: q })
            }
            Op::CuseInit(_) => Op::CuseInit(CuseInit { major: p, minor: q, flags: r }),
        }
    }
}

/// Everything that reads bytes reads these.
fn read_all(bytes: &[u8], connection: &Connection) {
    for dialect in [Dialect::NEWEST, OLD] {
        if let Ok(message) = Message::split(bytes, dialect)
            && let Ok(op) = Op::decode(&message)
        {
            walk(op);
        }
    }
    if let Action::Serve(id, ..) = connection.receive(bytes) {
        assert_eq!(connection.finish(id).map(RequestId::masked), Some(id.masked()));
    }
    let _ = Answer::decode(bytes);
    let _ = notify::decode(bytes, |_| ());
    assert!(dirent::entries(bytes).count() <= bytes.len());
    assert!(dirent::entries_plus(bytes).count() <= bytes.len());
    if let Ok(extensions) = Extensions::new(bytes) {
        let contexts = extensions.security_contexts().count();
        assert!(contexts + extensions.supplementary_groups().count() <= bytes.len());
    }
}

/// Follows the iterators of `op` to their end.
fn walk(op: Op<'_>) {
    match op {
        Op::BatchForget(batch) => drop(batch.items.iter().count()),
        Op::RemoveMapping(remove) => drop(remove.items.iter().count()),
        Op::Create(create) => drop(create.extensions.security_contexts().count()),
        _ => (),
    }
}

fn running() -> Connection {
    let connection = Connection::new(Config::default());
    let init = samples::ops().into_iter().find(|op| matches!(op, Op::Init(_))).unwrap();
    let bytes = samples::request(2, init).encode(Dialect::NEWEST).bytes();
    assert!(matches!(connection.receive(&bytes), Action::Send(_)));
    connection
}

proptest! {
    #[test]
    fn any_operation_is_decoded_to_what_was_encoded(material in material(), id: u64) {
        let extensions = samples::extension_bytes();
        let op = material.op(samples::ops()[material.which], &extensions);
        let encoded = samples::request(id, op).encode(Dialect::NEWEST);
        let bytes = encoded.bytes();
        let message = Message::split(&bytes, Dialect::NEWEST).unwrap();
        prop_assert_eq!(Op::decode(&message), Ok(op));
        prop_assert_eq!(Op::decode(&encoded.message().unwrap()), Ok(op));
    }

    #[test]
    fn bytes_of_any_kind_panic_nothing(bytes in vec(any::<u8>(), 0..400)) {
        read_all(&bytes, &running());
    }

    #[test]
    fn a_body_of_any_kind_behind_a_true_header_panics_nothing(
        opcode in (0..known_opcodes().count()).prop_map(|i| known_opcodes().nth(i).unwrap()),
        extlen in prop_oneof![Just(0), any::<u16>(), 0..12_u16],
        body in vec(any::<u8>(), 0..400),
    ) {
        let header = fuse_in_header {
            len: u32::try_from(40 + body.len()).unwrap(),
            opcode,
            unique: 4,
            nodeid: 1,
            uid: 0,
            gid: 0,
            pid: 0,
            total_extlen: extlen,
            padding: 0,
        };
        read_all(&[header.as_bytes(), &body].concat(), &running());
    }

    #[test]
    fn a_sample_with_changed_bytes_panics_nothing(
        which in 0..samples::ops().len(),
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let mut bytes = samples::request(4, samples::ops()[which]).encode(Dialect::NEWEST).bytes();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let len = u32::try_from(bytes.len()).unwrap().to_ne_bytes();
        bytes[..4].copy_from_slice(&len);
        read_all(&bytes, &running());
    }

    #[test]
    fn entries_come_out_of_a_buffer_as_they_went_in(
        names in vec(vec(1..=46_u8, 1..=255), 0..20),
        room in 0..2000_usize,
    ) {
        let mut room = vec![0xff; room];
        let mut buffer = dirent::DirentBuffer::new(&mut room);
        let mut written = Vec::new();
        for (offset, name) in (1..).zip(&names) {
            let name = Name::new(name).unwrap();
            let entry = dirent::Dirent { ino: offset, next_offset: offset, mode: 0o040_000, name };
            let before = buffer.len();
            if buffer.push(&entry).is_ok() {
                written.push(Ok(entry));
                prop_assert_eq!(buffer.len() % 8, 0);
            } else {
                prop_assert_eq!(buffer.len(), before);
                break;
            }
        }
        prop_assert_eq!(dirent::entries(buffer.finish()).collect::<Vec<_>>(), written);
    }
}
