//! Does polyfuse read from a request what we read from it?
//!
//! polyfuse takes its device from a helper program over a socket. This program is that helper too:
//! run by polyfuse, it hands over one end of a socket pair that keeps message boundaries, and the
//! test plays the kernel at the other end. No mount and no privilege is needed. Hence `harness =
//! false`.

#[path = "common/samples.rs"]
mod samples;

use std::io::{IoSlice, Read as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::process::ExitCode;
use std::time::Duration;

use lighthouse_fuse::proto::op::*;
use lighthouse_fuse::proto::types::*;
use lighthouse_fuse::proto::{Dialect, Message, Op};
use polyfuse::Operation;
use polyfuse::op::SetAttrTime;
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};
use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};

/// The newest version that polyfuse knows.
const DIALECT: Dialect = Dialect { minor: 31, setxattr_ext: false };
/// Where polyfuse tells its helper the socket to answer on.
const SOCKET_VARIABLE: &str = "_FUSE_COMMFD";

fn main() -> ExitCode {
    if let Ok(socket) = std::env::var(SOCKET_VARIABLE) {
        return hand_over(&socket);
    }
    // Any other argument is a filter or an option of the test harness that this program has not.
    if std::env::args().any(|argument| argument == "--list") {
        return ExitCode::SUCCESS;
    }
    let compared = compare();
    println!("polyfuse reads {compared} requests as we do");
    ExitCode::SUCCESS
}

/// The helper: sends the descriptor that `-o fd=N` names.
fn hand_over(socket: &str) -> ExitCode {
    let device = std::env::args().find_map(|argument| argument.strip_prefix("fd=")?.parse().ok());
    let device: i32 = device.expect("polyfuse passes on the option");
    let ourselves = pidfd_open(getpid(), PidfdFlags::empty()).expect("own pid");
    // What was inherited under a number becomes owned, without trusting the number.
    let inherited = |number| -> OwnedFd {
        pidfd_getfd(&ourselves, number, PidfdGetfdFlags::empty()).expect("inherited descriptor")
    };
    let device = inherited(device);
    let socket = inherited(socket.parse().expect("polyfuse passes a number"));
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let devices = [device.as_fd()];
    assert!(control.push(SendAncillaryMessage::ScmRights(&devices)));
    rustix::net::sendmsg(&socket, &[IoSlice::new(b"\0")], &mut control, SendFlags::empty())
        .expect("polyfuse waits for it");
    ExitCode::SUCCESS
}

fn compare() -> usize {
    let (kernel, device) = rustix::net::socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        // Without CLOEXEC, as the helper inherits it.
        SocketFlags::empty(),
        None,
    )
    .expect("socket pair");
    let send = |op: Op<'_>| {
        let bytes = samples::request(8, op).encode(DIALECT).bytes();
        assert_eq!(rustix::io::write(&kernel, &bytes), Ok(bytes.len()));
        bytes
    };
    let flags = u64::from(u32::MAX >> 2); // without what is newer than 7.31
    send(Op::Init(Init { major: 7, minor: 31, max_readahead: 4096, flags: flags & 0x03ff_ffff }));
    let mut config = polyfuse::KernelConfig::default();
    config
        .auto_unmount(false)
        .mount_option(&format!("fd={}", device.as_raw_fd()))
        .fusermount_path(std::env::current_exe().expect("own path"));
    let nowhere = std::env::temp_dir().join("no mount is made here");
    let session = polyfuse::Session::mount(nowhere, config).expect("INIT is answered");
    let mut compared = 0;
    for sample in samples::ops() {
        if matches!(sample, Op::Init(_)) {
            continue;
        }
        let bytes = send(sample);
        let message = Message::split(&bytes, DIALECT).expect("a sample");
        let ours = Op::decode(&message).expect("a sample");
        let request = session.next_request().expect("a message").expect("a request");
        let caller = Caller { uid: request.uid(), gid: request.gid(), pid: request.pid() };
        assert_eq!((RequestId(request.unique()), caller), (message.id(), message.caller()));
        let theirs = request.operation().expect("polyfuse decodes it");
        if agrees(&ours, theirs) {
            compared += 1;
        } else {
            println!("polyfuse does not know {}", ours.name());
        }
    }
    // 38 of the 52 operations, some with two samples: fewer would mean that nothing was compared.
    assert!(compared >= 38, "only {compared} requests were compared");
    compared
}

/// Whether polyfuse knows the operation. Panics where it reads something else than we do.
fn agrees(ours: &Op<'_>, theirs: Operation<'_, polyfuse::Data<'_>>) -> bool {
    let bytes = |name: &std::ffi::OsStr| name.as_bytes().to_vec();
    match (*ours, theirs) {
        (Op::Lookup(a), Operation::Lookup(b)) => {
            assert_eq!(a.parent.get(), b.parent());
            assert_eq!(a.name.as_bytes(), bytes(b.name()));
        }
        (Op::Forget(a), Operation::Forget(b)) => {
            assert_eq!(b.len(), 1);
            assert_eq!((a.node.get(), a.lookups), (b[0].ino(), b[0].nlookup()));
        }
        (Op::BatchForget(a), Operation::Forget(b)) => {
            let a: Vec<_> = a.items.iter().map(|one| (one.node.get(), one.lookups)).collect();
            let b: Vec<_> = b.iter().map(|one| (one.ino(), one.nlookup())).collect();
            assert_eq!(a, b);
        }
        (Op::GetAttr(a), Operation::Getattr(b)) => {
            assert_eq!((a.node.get(), a.handle.map(|fh| fh.0)), (b.ino(), b.fh()));
        }
        (Op::SetAttr(a), Operation::Setattr(b)) => {
            assert_eq!((a.node.get(), a.handle.map(|fh| fh.0)), (b.ino(), b.fh()));
            assert_eq!((a.mode, a.uid, a.gid, a.size), (b.mode(), b.uid(), b.gid(), b.size()));
            // polyfuse takes seconds for unsigned.
            let since = |time: Timestamp| Duration::new(time.secs.cast_unsigned(), time.nanos);
            let same = |a: Option<SetTime>, b: Option<SetAttrTime>| match (a, b) {
                (None, None) | (Some(SetTime::Now), Some(SetAttrTime::Now)) => true,
                (Some(SetTime::At(a)), Some(SetAttrTime::Timespec(b))) => since(a) == b,
                _ => false,
            };
            assert!(same(a.atime, b.atime()) && same(a.mtime, b.mtime()));
            assert_eq!(a.ctime.map(since), b.ctime());
            assert_eq!(a.lock_owner.map(|owner| owner.0), b.lock_owner().map(|o| o.into_raw()));
        }
        (Op::ReadLink(a), Operation::Readlink(b)) => assert_eq!(a.node.get(), b.ino()),
        (Op::Symlink(a), Operation::Symlink(b)) => {
            assert_eq!(a.parent.get(), b.parent());
            assert_eq!((a.name.as_bytes(), a.target), (&*bytes(b.name()), &*bytes(b.link())));
        }
        (Op::MkNod(a), Operation::Mknod(b)) => {
            assert_eq!((a.parent.get(), a.name.as_bytes()), (b.parent(), &*bytes(b.name())));
            assert_eq!((a.mode, a.rdev, a.umask), (b.mode(), b.rdev(), b.umask()));
        }
        (Op::MkDir(a), Operation::Mkdir(b)) => {
            assert_eq!((a.parent.get(), a.name.as_bytes()), (b.parent(), &*bytes(b.name())));
            assert_eq!((a.mode, a.umask), (b.mode(), b.umask()));
        }
        (Op::Unlink(a), Operation::Unlink(b)) => {
            assert_eq!((a.parent.get(), a.name.as_bytes()), (b.parent(), &*bytes(b.name())));
        }
        (Op::RmDir(a), Operation::Rmdir(b)) => {
            assert_eq!((a.parent.get(), a.name.as_bytes()), (b.parent(), &*bytes(b.name())));
        }
        (Op::Rename(a), Operation::Rename(b)) => {
            assert_eq!((a.parent.get(), a.name.as_bytes()), (b.parent(), &*bytes(b.name())));
            assert_eq!(a.new_parent.get(), b.newparent());
            assert_eq!((a.new_name.as_bytes(), 0), (&*bytes(b.newname()), b.flags()));
        }
        (Op::Rename2(a), Operation::Rename(b)) => {
            assert_eq!((a.parent.get(), a.name.as_bytes()), (b.parent(), &*bytes(b.name())));
            assert_eq!(a.new_parent.get(), b.newparent());
            assert_eq!((a.new_name.as_bytes(), a.flags), (&*bytes(b.newname()), b.flags()));
        }
        (Op::Link(a), Operation::Link(b)) => {
            assert_eq!((a.node.get(), a.new_parent.get()), (b.ino(), b.newparent()));
            assert_eq!(a.new_name.as_bytes(), bytes(b.newname()));
        }
        (Op::Open(a), Operation::Open(b)) => {
            assert_eq!((a.node.get(), a.flags.0), (b.ino(), b.flags()));
        }
        (Op::OpenDir(a), Operation::Opendir(b)) => {
            assert_eq!((a.node.get(), a.flags.0), (b.ino(), b.flags()));
        }
        (Op::Read(a), Operation::Read(b)) => {
            assert_eq!((a.node.get(), a.handle.0, a.offset), (b.ino(), b.fh(), b.offset()));
            assert_eq!((a.size, a.flags.0), (b.size(), b.flags()));
            assert_eq!(a.lock_owner.map(|owner| owner.0), b.lock_owner().map(|o| o.into_raw()));
        }
        (Op::Write(a), Operation::Write(b, mut data)) => {
            assert_eq!((a.node.get(), a.handle.0, a.offset), (b.ino(), b.fh(), b.offset()));
            assert_eq!((a.data.len(), a.flags.0), (b.size() as usize, b.flags()));
            assert_eq!(a.lock_owner.map(|owner| owner.0), b.lock_owner().map(|o| o.into_raw()));
            let mut bytes = Vec::new();
            data.read_to_end(&mut bytes).expect("data in memory");
            assert_eq!(a.data, bytes);
        }
        (Op::StatFs(a), Operation::Statfs(b)) => assert_eq!(a.node.get(), b.ino()),
        (Op::Release(a), Operation::Release(b)) => {
            assert_eq!((a.node.get(), a.handle.0, a.flags.0), (b.ino(), b.fh(), b.flags()));
            assert_eq!(a.lock_owner.0, b.lock_owner().into_raw());
            assert_eq!((a.flush, a.flock_unlock), (b.flush(), b.flock_release()));
        }
        (Op::ReleaseDir(a), Operation::Releasedir(b)) => {
            assert_eq!((a.node.get(), a.handle.0, a.flags.0), (b.ino(), b.fh(), b.flags()));
        }
        (Op::FSync(a), Operation::Fsync(b)) => {
            assert_eq!((a.node.get(), a.handle.0, a.data_only), (b.ino(), b.fh(), b.datasync()));
        }
        (Op::FSyncDir(a), Operation::Fsyncdir(b)) => {
            assert_eq!((a.node.get(), a.handle.0, a.data_only), (b.ino(), b.fh(), b.datasync()));
        }
        (Op::SetXattr(a), Operation::Setxattr(b)) => {
            assert_eq!((a.node.get(), a.name.as_bytes()), (b.ino(), &*bytes(b.name())));
            assert_eq!((a.value, a.flags), (b.value(), b.flags()));
        }
        (Op::GetXattr(a), Operation::Getxattr(b)) => {
            assert_eq!((a.node.get(), a.name.as_bytes()), (b.ino(), &*bytes(b.name())));
            assert_eq!(a.size, b.size());
        }
        (Op::ListXattr(a), Operation::Listxattr(b)) => {
            assert_eq!((a.node.get(), a.size), (b.ino(), b.size()));
        }
        (Op::RemoveXattr(a), Operation::Removexattr(b)) => {
            assert_eq!((a.node.get(), a.name.as_bytes()), (b.ino(), &*bytes(b.name())));
        }
        (Op::Flush(a), Operation::Flush(b)) => {
            assert_eq!((a.node.get(), a.handle.0), (b.ino(), b.fh()));
            assert_eq!(a.lock_owner.0, b.lock_owner().into_raw());
        }
        (Op::ReadDir(a), Operation::Readdir(b)) => {
            assert_eq!((a.node.get(), a.handle.0), (b.ino(), b.fh()));
            assert_eq!((a.offset, a.size), (b.offset(), b.size()));
        }
        (Op::ReadDirPlus(a), Operation::Readdir(b)) => {
            assert_eq!((a.node.get(), a.handle.0), (b.ino(), b.fh()));
            assert_eq!((a.offset, a.size), (b.offset(), b.size()));
        }
        (Op::GetLk(a), Operation::Getlk(b)) => {
            assert_eq!((a.node.get(), a.handle.0), (b.ino(), b.fh()));
            assert_eq!(a.owner.0, b.owner().into_raw());
            assert_lock(a.lock, b.start(), b.end(), b.typ(), b.pid());
        }
        (Op::SetLkW(a), Operation::Setlk(b)) => {
            assert_eq!((a.node.get(), a.handle.0), (b.ino(), b.fh()));
            assert_eq!((a.owner.0, true), (b.owner().into_raw(), b.sleep()));
            assert_lock(a.lock, b.start(), b.end(), b.typ(), b.pid());
        }
        (Op::SetLk(a), Operation::Flock(b)) => {
            assert!(a.flock);
            assert_eq!((a.node.get(), a.handle.0), (b.ino(), b.fh()));
            assert_eq!(a.owner.0, b.owner().into_raw());
        }
        (Op::Access(a), Operation::Access(b)) => {
            assert_eq!((a.node.get(), a.mask), (b.ino(), b.mask()));
        }
        (Op::Create(a), Operation::Create(b)) => {
            assert_eq!((a.parent.get(), a.name.as_bytes()), (b.parent(), &*bytes(b.name())));
            assert_eq!((a.mode, a.umask, a.flags.0), (b.mode(), b.umask(), b.open_flags()));
        }
        (Op::Interrupt(a), Operation::Interrupt(b)) => assert_eq!(a.target.0, b.unique()),
        (Op::BMap(a), Operation::Bmap(b)) => {
            assert_eq!((a.node.get(), a.block, a.blocksize), (b.ino(), b.block(), b.blocksize()));
        }
        (Op::Poll(a), Operation::Poll(b)) => {
            assert_eq!((a.node.get(), a.handle.0, a.events), (b.ino(), b.fh(), b.events()));
            assert_eq!(a.notify.then_some(a.wait), b.kh());
        }
        (Op::NotifyReply(a), Operation::NotifyReply(b, mut data)) => {
            assert_eq!((a.node.get(), a.offset), (b.ino(), b.offset()));
            assert_eq!(a.data.len(), b.size() as usize);
            let mut bytes = Vec::new();
            data.read_to_end(&mut bytes).expect("data in memory");
            assert_eq!(a.data, bytes);
        }
        (Op::Fallocate(a), Operation::Fallocate(b)) => {
            assert_eq!((a.node.get(), a.handle.0), (b.ino(), b.fh()));
            assert_eq!((a.offset, a.length, a.mode), (b.offset(), b.length(), b.mode()));
        }
        (Op::CopyFileRange(a), Operation::CopyFileRange(b)) => {
            assert_eq!(
                (a.node.get(), a.handle.0, a.offset),
                (b.ino_in(), b.fh_in(), b.offset_in())
            );
            assert_eq!((a.new_node.get(), a.new_handle.0), (b.ino_out(), b.fh_out()));
            assert_eq!(a.new_offset, b.offset_out());
            assert_eq!((a.len, a.flags), (b.length(), b.flags()));
        }
        // Without a decoder in polyfuse 0.5.
        (
            Op::Destroy(_)
            | Op::Ioctl(_)
            | Op::LSeek(_)
            | Op::CopyFileRange64(_)
            | Op::SetupMapping(_)
            | Op::RemoveMapping(_)
            | Op::SyncFs(_)
            | Op::TmpFile(_)
            | Op::Statx(_)
            | Op::CuseInit(_),
            _,
        ) => return false,
        (ours, _) => panic!("polyfuse takes {} for another operation", ours.name()),
    }
    true
}

fn assert_lock(lock: Lock, start: u64, end: u64, kind: u32, pid: u32) {
    assert_eq!((lock.start, lock.end, lock.pid), (start, end, pid));
    assert_eq!((lock.kind, kind), (LockKind::Write, 1), "F_WRLCK");
}
