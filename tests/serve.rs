//! What the mount shows and takes, through requests and replies as bytes; no kernel, no mount.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

#[path = "common/kernel.rs"]
#[allow(dead_code, reason = "each test uses what it needs")]
mod kernel;
#[path = "common/stores.rs"]
mod stores;

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use kernel::{Kernel, Wire, name};
use lighthouse_fuse::agents::Agents;
use lighthouse_fuse::proto::answer::{Answer, Body};
use lighthouse_fuse::proto::op::{
    Access, BMap, CopyFileRange, FSync, Fallocate, Flush, GetLk, GetXattr, Init, Ioctl, LSeek,
    Link, ListXattr, Op, Poll, Rename2, RmDir, SetAttr, SetXattr, StatFs, Statx, TmpFile, Whence,
    Write,
};
use lighthouse_fuse::proto::types::{
    Errno, FOREVER, FileHandle, Lock, LockKind, NodeId, OpenFlags, OpenedFlags, XattrName,
};
use lighthouse_fuse::proto::{Notice, Reply, abi, notify};
use lighthouse_fuse::server::dispatch::Work;
use lighthouse_fuse::server::{Config, Ended, Server, serve};
use lighthouse_fuse::store::Store;
use lighthouse_fuse::store::event::{FileId, Ino, Seq};
use lighthouse_fuse::transport::{Buffer, Delivery, Frame, Lane, Received, SpliceError, Transport};
use lighthouse_fuse::tree::Tree;
use lighthouse_fuse::view::news::{News, Next};
use lighthouse_fuse::view::{Options, View};

fn view_of(store: &Arc<Store>) -> View {
    let options = Options { list_times: 2, ..Options::default() };
    View::new(Tree::new(Arc::clone(store)), Agents::new(Arc::clone(store)), options)
}

/// Runs `test` on a fresh store, with requests as `/dev/fuse` delivers them, and again as the ring does.
fn with(test: impl Fn(&mut Kernel<'_>, &View)) {
    for in_parts in [false, true] {
        let (store, _dir) = stores::fresh();
        let view = view_of(&store);
        let wire = Wire::default();
        let mut kernel = Kernel::connect(&wire, &view);
        if in_parts {
            kernel.in_parts();
        }
        test(&mut kernel, &view);
        assert_eq!(kernel.server.counters().panics(), 0);
    }
}

const SET: SetAttr = SetAttr::nothing(NodeId::ROOT);

fn current(kernel: &mut Kernel<'_>) -> NodeId {
    kernel.walk("current").unwrap().node
}

#[test]
fn the_root_holds_current_and_history_and_cannot_be_changed() {
    with(|kernel, _| {
        let names: Vec<_> =
            kernel.list(NodeId::ROOT, 4096, false).unwrap().into_iter().map(|n| n.0).collect();
        assert_eq!(names, [&b"."[..], b"..", b"current", b"history"]);
        assert_eq!(kernel.look(NodeId::ROOT, b"other"), Err(Errno::ENOENT));
        let (root, top) =
            (kernel.attr(NodeId::ROOT).unwrap(), kernel.walk("current").unwrap().attr);
        assert_eq!((root.mode, root.uid, root.gid), (top.mode, top.uid, top.gid));
        assert_eq!(kernel.mkdir(NodeId::ROOT, b"new"), Err(Errno::EROFS));
        assert_eq!(kernel.create(NodeId::ROOT, b"new"), Err(Errno::EROFS));
        let rmdir = RmDir { parent: NodeId::ROOT, name: name(b"current") };
        assert_eq!(kernel.ask(Op::RmDir(rmdir)), Err(Errno::EROFS));
        let chmod = SetAttr { mode: Some(0o40_700), ..SET };
        assert_eq!(kernel.ask(Op::SetAttr(chmod)), Err(Errno::EROFS));
    });
}

#[test]
fn what_is_written_is_read_back_and_counted() {
    with(|kernel, _| {
        let dir = current(kernel);
        let (file, handle) = kernel.create(dir, b"file").unwrap();
        assert_eq!(file.attr.mode, 0o100_644);
        assert_eq!((file.attr.uid, file.attr.nlink, file.attr.size), (1000, 1, 0));
        assert_eq!(kernel.write(file.node, handle, 0, b"hello world").unwrap(), 11);
        let large = vec![7; 200_000];
        assert_eq!(kernel.write(file.node, handle, 100_000, &large).unwrap(), 200_000);
        assert_eq!(kernel.read(file.node, handle, 6, 5).unwrap(), b"world");
        assert_eq!(kernel.read(file.node, handle, 99_998, 4).unwrap(), [0, 0, 7, 7]);
        assert_eq!(kernel.read(file.node, handle, 299_999, 4096).unwrap(), [7]);
        assert_eq!(kernel.read(file.node, handle, 300_000, 4096).unwrap(), b"");
        assert_eq!(kernel.attr(file.node).unwrap().size, 300_000);
        let statx = Statx { node: file.node, handle: None, flags: 0, mask: 0xfff };
        let reply = kernel.ask(Op::Statx(statx)).unwrap();
        let (attr, _) = Body(&reply).statx().unwrap();
        assert_eq!(attr.size, 300_000);
        assert_eq!(attr.btime, file.attr.ctime);
        kernel.release(file.node, handle).unwrap();
        assert_eq!(kernel.release(file.node, handle), Err(Errno::EBADF));
        assert_eq!(kernel.server.counters().of(abi::FUSE_WRITE), 2);
    });
}

#[test]
fn a_page_lies_beside_the_one_it_goes_on_from_and_else_in_its_event() {
    let (store, _dir) = stores::fresh();
    let view = view_of(&store);
    let wire = Wire::default();
    let mut kernel = Kernel::connect(&wire, &view);
    let dir = current(&mut kernel);
    let (entry, first) = kernel.create(dir, b"file").unwrap();
    let node = entry.node;
    let other = kernel.open(node, OpenFlags::RDWR).unwrap().handle;
    let write = |kernel: &mut Kernel<'_>, handle, page: u64| {
        kernel.write(node, handle, page * 4096, &[page as u8 + 1; 4096]).unwrap();
        let mut found = Vec::new();
        let ino = Ino(node.get());
        store.read().stretches(ino, page * 4096, 4096, Seq::NOW, &mut found).unwrap();
        matches!(found[0].at.unwrap().file, FileId::Log(_))
    };
    assert!(write(&mut kernel, first, 0), "it begins");
    assert!(!write(&mut kernel, first, 1));
    assert!(!write(&mut kernel, first, 2));
    assert!(write(&mut kernel, first, 9), "elsewhere");
    assert!(write(&mut kernel, other, 3), "another begins");
    assert!(!write(&mut kernel, first, 10));
    assert!(!write(&mut kernel, other, 4));
    assert!(write(&mut kernel, other, 4), "again");
    let sync = FSync { node, handle: other, data_only: true };
    kernel.ask(Op::FSync(sync)).unwrap();
    assert!(write(&mut kernel, other, 5), "nothing is to come beside what was synced");
    let expected: Vec<u8> = (0..6_u8).flat_map(|page| [page + 1; 4096]).collect();
    assert_eq!(kernel.read(node, first, 0, 6 * 4096).unwrap(), expected);
}

#[test]
fn what_was_never_given_out_is_refused() {
    with(|kernel, _| {
        let dir = current(kernel);
        let file = kernel.make(dir, b"file", b"x").node;
        for node in [3 << 48 | 2, 0xffff << 48 | 2, 1 << 40, u64::MAX] {
            let node = NodeId::new(node).unwrap();
            assert_eq!(kernel.attr(node), Err(Errno::ESTALE), "{:#x}", node.get());
            assert_eq!(kernel.look(node, b"x"), Err(Errno::ESTALE));
        }
        let forged = FileHandle(1 << 32);
        for op in [
            Kernel::read_op(file, forged, 0, 10),
            Kernel::write_op(file, forged, 0, b"x"),
            Kernel::read_op(file, FileHandle(u64::MAX), 0, 10),
        ] {
            assert_eq!(kernel.ask(op), Err(Errno::EBADF));
        }
        let handle = kernel.open(file, OpenFlags::RDONLY).unwrap().handle;
        assert_eq!(kernel.write(file, handle, 0, b"x"), Err(Errno::EBADF));
        assert_eq!(kernel.read(dir, handle, 0, 10), Err(Errno::EBADF));
        let listing = kernel.open_directory(dir).unwrap().handle;
        assert_eq!(kernel.read(dir, listing, 0, 10), Err(Errno::EBADF));
        assert_eq!(kernel.read(file, handle, 0, u32::MAX), Err(Errno::EINVAL));
        assert_eq!(kernel.read(file, handle, i64::MAX as u64 - 10, 10).unwrap(), b"");
    });
}

#[test]
fn names_that_are_not_there_may_be_remembered_in_the_present_only() {
    with(|kernel, _| {
        let dir = current(kernel);
        let absent = |kernel: &mut Kernel<'_>, parent| {
            let lookup = lighthouse_fuse::proto::op::Lookup { parent, name: name(b"absent") };
            let reply = kernel.ask(Op::Lookup(lookup));
            reply.map(|reply| Body(&reply).entry().unwrap().unwrap_err())
        };
        assert_eq!(absent(kernel, dir), Ok(Duration::from_secs(24 * 3600)));
        let history = kernel.walk("history").unwrap().node;
        assert_eq!(absent(kernel, history), Err(Errno::ENOENT));
    });
}

#[test]
fn a_listing_is_kept_until_the_kernel_has_forgotten_most_of_its_names() {
    with(|kernel, view| {
        let dir = current(kernel);
        let mut nodes = Vec::new();
        for number in 0..20 {
            let (entry, handle) = kernel.create(dir, format!("{number}").as_bytes()).unwrap();
            kernel.release(entry.node, handle).unwrap();
            nodes.push(entry.node);
        }
        let told = |view: &View| {
            let next = view.news().next(Duration::ZERO);
            view.news().told();
            next
        };
        for node in nodes.drain(..15) {
            kernel.forget(node, 1);
        }
        assert_eq!(told(view), Next::Nothing, "16 is the power of two above half of them");
        kernel.forget(nodes.pop().unwrap(), 1);
        assert_eq!(told(view), Next::News(News::Content(dir)));
        assert!(kernel.open_directory(dir).unwrap().flags.0 & OpenedFlags::KEEP_CACHE.0 != 0);
        // Those that are left are most of none.
        for node in nodes.drain(..) {
            kernel.forget(node, 1);
        }
        assert_eq!(told(view), Next::Nothing);
    });
}

#[test]
fn an_unlinked_file_lives_until_the_kernel_forgets_it() {
    with(|kernel, view| {
        let dir = current(kernel);
        let (file, handle) = kernel.create(dir, b"file").unwrap();
        kernel.write(file.node, handle, 0, b"still here").unwrap();
        kernel.unlink(dir, b"file").unwrap();
        assert_eq!(kernel.attr(file.node).unwrap().nlink, 0);
        assert_eq!(kernel.read(file.node, handle, 0, 99).unwrap(), b"still here");
        kernel.release(file.node, handle).unwrap();
        let ino = Ino(file.node.get());
        assert!(view.tree().inode(ino, Seq::NOW).is_ok());
        kernel.forget(file.node, 1);
        assert!(view.tree().inode(ino, Seq::NOW).is_err());
        assert_eq!(kernel.attr(file.node), Err(Errno::ESTALE));
    });
}

#[test]
fn a_file_unlinked_after_the_kernel_forgot_it_ends_at_once() {
    with(|kernel, view| {
        let dir = current(kernel);
        let file = kernel.make(dir, b"file", b"x").node;
        kernel.forget(file, 1);
        kernel.unlink(dir, b"file").unwrap();
        assert!(view.tree().inode(Ino(file.get()), Seq::NOW).is_err());
    });
}

#[test]
fn what_a_rename_replaces_ends_with_the_last_reference() {
    with(|kernel, view| {
        let dir = current(kernel);
        let old = kernel.make(dir, b"old", b"old").node;
        kernel.make(dir, b"new", b"new");
        let rename = Rename2 {
            parent: dir,
            name: name(b"new"),
            new_parent: dir,
            new_name: name(b"old"),
            flags: 0,
        };
        kernel.ask(Op::Rename2(rename)).unwrap();
        assert!(view.tree().inode(Ino(old.get()), Seq::NOW).is_ok());
        kernel.forget(old, 1);
        assert!(view.tree().inode(Ino(old.get()), Seq::NOW).is_err());
        assert_eq!(kernel.content("current/old").unwrap(), b"new");
    });
}

#[test]
fn a_file_without_a_name_can_get_one_and_then_stays() {
    with(|kernel, view| {
        let dir = current(kernel);
        let tmpfile = TmpFile {
            parent: dir,
            mode: 0o100_600,
            umask: 0,
            flags: OpenFlags(OpenFlags::RDWR),
            kill_suidgid: false,
            extensions: Default::default(),
        };
        let reply = kernel.ask(Op::TmpFile(tmpfile)).unwrap();
        let (kept, opened) = Body(&reply).created().unwrap();
        let reply = kernel.ask(Op::TmpFile(tmpfile)).unwrap();
        let (lost, _) = Body(&reply).created().unwrap();
        let link = Link { node: kept.node, new_parent: dir, new_name: name(b"named") };
        kernel.ask(Op::Link(link)).unwrap();
        kernel.release(kept.node, opened.handle).unwrap();
        kernel.forget(kept.node, 2);
        kernel.forget(lost.node, 1);
        assert!(view.tree().inode(Ino(kept.node.get()), Seq::NOW).is_ok());
        assert!(view.tree().inode(Ino(lost.node.get()), Seq::NOW).is_err());
    });
}

#[test]
fn a_new_connection_ends_what_only_the_old_one_kept() {
    let (store, _dir) = stores::fresh();
    let view = view_of(&store);
    let ino = {
        let wire = Wire::default();
        let mut kernel = Kernel::connect(&wire, &view);
        let dir = current(&mut kernel);
        let (file, _) = kernel.create(dir, b"file").unwrap();
        kernel.unlink(dir, b"file").unwrap();
        Ino(file.node.get())
    };
    assert!(view.tree().inode(ino, Seq::NOW).is_ok());
    let wire = Wire::default();
    let kernel = Kernel::connect(&wire, &view);
    assert!(view.tree().inode(ino, Seq::NOW).is_err());
    assert_eq!((view.held().nodes, view.held().open), (0, 0));
    drop(kernel);
}

#[test]
fn history_shows_every_event_and_takes_no_change() {
    with(|kernel, _| {
        let dir = current(kernel);
        let sub = kernel.mkdir(dir, b"sub").unwrap().node;
        let (file, handle) = kernel.create(sub, b"file").unwrap();
        let empty = kernel.last();
        kernel.write(file.node, handle, 0, b"one").unwrap();
        let one = kernel.last();
        kernel.write(file.node, handle, 0, b"two").unwrap();
        kernel.unlink(sub, b"file").unwrap();
        let gone = kernel.last();
        assert_eq!(kernel.content(&format!("history/@{empty}/sub/file")).unwrap(), b"");
        assert_eq!(kernel.content(&format!("history/@{one}/sub/file")).unwrap(), b"one");
        assert_eq!(kernel.content(&format!("history/@{}/sub/file", one + 1)).unwrap(), b"two");
        assert_eq!(kernel.walk(&format!("history/@{gone}/sub/file")), Err(Errno::ENOENT));

        let past = kernel.walk(&format!("history/@{one}/sub")).unwrap().node;
        let past_file = kernel.look(past, b"file").unwrap();
        assert_eq!(past_file.attr.mode, 0o100_644, "modes are what they were");
        assert_eq!(past_file.entry_valid, FOREVER.min(past_file.entry_valid));
        assert_eq!(kernel.mkdir(past, b"new"), Err(Errno::EROFS));
        assert_eq!(kernel.unlink(past, b"file"), Err(Errno::EROFS));
        assert_eq!(kernel.open(past_file.node, OpenFlags::RDWR), Err(Errno::EROFS));
        assert_eq!(
            kernel.open(past_file.node, OpenFlags::RDONLY | OpenFlags::TRUNC),
            Err(Errno::EROFS)
        );
        let chmod = SetAttr { node: past_file.node, mode: Some(0o100_600), ..SET };
        assert_eq!(kernel.ask(Op::SetAttr(chmod)), Err(Errno::EROFS));
        let link = Link { node: past_file.node, new_parent: dir, new_name: name(b"link") };
        assert_eq!(kernel.ask(Op::Link(link)), Err(Errno::EXDEV));
    });
}

#[test]
fn moments_that_are_not_there_yet_or_any_more_or_at_all_are_enoent() {
    with(|kernel, _| {
        let history = kernel.walk("history").unwrap().node;
        let last = kernel.last();
        for at in [
            format!("@{}", last + 1),
            "@0".to_owned(),
            "@1".to_owned(),
            "@x".to_owned(),
            "2200-01-01T00:00:00Z".to_owned(),
            "1999-01-01".to_owned(),
            "yesterday".to_owned(),
            "label".to_owned(),
        ] {
            assert_eq!(kernel.look(history, at.as_bytes()), Err(Errno::ENOENT), "{at}");
        }
        assert!(kernel.look(history, format!("@{last}").as_bytes()).is_ok());
        assert_eq!(kernel.mkdir(history, b"@1000000"), Err(Errno::EINVAL), "it is no label");
    });
}

#[test]
fn a_moment_is_one_node_while_it_is_known_and_each_name_has_its_own() {
    with(|kernel, view| {
        let dir = current(kernel);
        kernel.make(dir, b"file", b"x");
        std::thread::sleep(Duration::from_millis(1100));
        let last = kernel.last();
        let history = kernel.walk("history").unwrap().node;
        let numbered = kernel.look(history, format!("@{last}").as_bytes()).unwrap();
        let relative = kernel.look(history, b"1s-ago").unwrap();
        let again = kernel.look(history, b"1s-ago").unwrap();
        assert_eq!(relative.node, again.node);
        assert_ne!(relative.node, numbered.node);
        assert_eq!(relative.attr.ino, numbered.attr.ino, "the same version has the same number");
        assert_ne!(relative.attr.ino, kernel.attr(dir).unwrap().ino);
        assert_eq!(relative.entry_valid, Duration::ZERO);
        assert!(numbered.entry_valid > Duration::from_secs(1 << 40));
        let file = kernel.look(relative.node, b"file").unwrap();
        assert!(file.entry_valid > Duration::from_secs(1 << 40));
        assert_eq!(view.held().moments, 2);
        kernel.forget(file.node, 1);
        kernel.forget(relative.node, 1);
        assert_eq!(view.held().moments, 2);
        kernel.forget(relative.node, 1);
        assert_eq!(view.held().moments, 1);
        assert_eq!(kernel.attr(relative.node), Err(Errno::ESTALE));
        kernel.forget(numbered.node, 1);
        assert_eq!(view.held().moments, 0);
    });
}

#[test]
fn the_sequence_is_an_attribute_that_is_answered_but_neither_listed_nor_set() {
    const SEQ: &[u8] = b"user.lighthouse.seq";
    with(|kernel, _| {
        let dir = current(kernel);
        let file = kernel.make(dir, b"file", b"x").node;
        let wrote = kernel.last();
        kernel.make(dir, b"other", b"");
        let last = kernel.last();
        assert!(last > wrote);
        assert_eq!(kernel.xattr(file, SEQ).unwrap(), wrote.to_string().into_bytes());
        assert_eq!(kernel.xattr(dir, SEQ).unwrap(), last.to_string().into_bytes());
        let past = kernel.walk(&format!("history/@{wrote}")).unwrap().node;
        assert_eq!(kernel.xattr(past, SEQ).unwrap(), wrote.to_string().into_bytes());
        let past_file = kernel.look(past, b"file").unwrap().node;
        assert_eq!(kernel.xattr(past_file, SEQ).unwrap(), wrote.to_string().into_bytes());
        assert_eq!(kernel.xattr(file, b"user.lighthouse.other"), Err(Errno::ENODATA));
        let set = |name, value| {
            let (flags, acl_kill_sgid) = (0, false);
            let name = XattrName::new(name).unwrap();
            Op::SetXattr(SetXattr { node: file, name, value, flags, acl_kill_sgid })
        };
        assert_eq!(kernel.ask(set(SEQ, b"1")), Err(Errno::EPERM));
        kernel.ask(set(b"user.mine", b"value")).unwrap();
        assert_eq!(kernel.xattr(file, b"user.mine").unwrap(), b"value");
        let list = kernel.ask(Op::ListXattr(ListXattr { node: file, size: 4096 })).unwrap();
        assert_eq!(list, b"user.mine\0");
        let sized = |size| {
            Op::GetXattr(GetXattr { node: file, name: XattrName::new(b"user.mine").unwrap(), size })
        };
        let reply = kernel.ask(sized(0)).unwrap();
        assert_eq!(Body(&reply).xattr_size().unwrap(), 5);
        assert_eq!(kernel.ask(sized(4)), Err(Errno::ERANGE));
    });
}

#[test]
fn a_directory_is_listed_once_each_in_pages_of_any_size() {
    with(|kernel, view| {
        let dir = current(kernel);
        let mut made: Vec<Vec<u8>> = vec![b".".to_vec(), b"..".to_vec()];
        for number in 0..300 {
            let name = format!("{}-{number}", "n".repeat(number % 40)).into_bytes();
            let node = kernel.make(dir, &name, b"").node;
            kernel.forget(node, 1);
            made.push(name);
        }
        made.sort();
        let at = kernel.last();
        let past = kernel.walk(&format!("history/@{at}")).unwrap().node;
        let before = view.held().nodes;
        for directory in [dir, past] {
            for size in [256, 1000, 4096, 1 << 20] {
                let mut names: Vec<_> = kernel
                    .list(directory, size, false)
                    .unwrap()
                    .into_iter()
                    .map(|listed| listed.0)
                    .collect();
                names.sort();
                assert_eq!(names, made, "in pages of {size}");
            }
        }
        assert_eq!(view.held().nodes, before, "a plain listing gives out no nodes");
        for directory in [dir, past] {
            let listed = kernel.list(directory, 4096, true).unwrap();
            assert_eq!(view.held().nodes, before + 300);
            for (name, ino, entry) in listed {
                if let Some(entry) = entry {
                    assert_eq!(entry.attr.ino, ino, "{}", name.escape_ascii());
                    assert_eq!(kernel.look(directory, &name).unwrap().node, entry.node);
                    kernel.forget(entry.node, 2);
                } else {
                    assert!(name == b"." || name == b"..");
                }
            }
            assert_eq!(view.held().nodes, before);
        }
    });
}

#[test]
fn history_lists_full_hours_that_can_be_entered() {
    with(|kernel, view| {
        let history = kernel.walk("history").unwrap().node;
        let listed = kernel.list(history, 4096, true).unwrap();
        // The store is younger than an hour most of the time; what is listed can be entered.
        assert_eq!(listed[0].0, b".");
        assert_eq!(listed[1].0, b"..");
        for (name, _, entry) in &listed[2..] {
            assert!(entry.is_none());
            assert!(kernel.look(history, name).is_ok());
        }
        assert!(listed.len() <= 4);
        assert_eq!(view.held().nodes, 1 + listed.len() - 2);
    });
}

#[test]
fn what_is_not_served_is_refused_so_that_the_kernel_stops_asking() {
    with(|kernel, _| {
        let dir = current(kernel);
        let (file, handle) = kernel.create(dir, b"file").unwrap();
        let node = file.node;
        let lock = Lock { start: 0, end: 1, kind: LockKind::Read, pid: 1 };
        let owner = Default::default();
        for (op, errno) in [
            (Op::Flush(Flush { node, handle, lock_owner: owner }), Errno::ENOSYS),
            (Op::Access(Access { node, mask: 4 }), Errno::ENOSYS),
            (Op::GetLk(GetLk { node, handle, owner, lock, flock: false }), Errno::ENOSYS),
            (Op::Poll(Poll { node, handle, wait: 0, events: 1, notify: false }), Errno::ENOSYS),
            (Op::BMap(BMap { node, block: 0, blocksize: 512 }), Errno::ENOSYS),
            (
                Op::Ioctl(Ioctl {
                    node,
                    handle,
                    flags: 0,
                    cmd: 0x5401,
                    arg: 0,
                    data: b"",
                    out_size: 0,
                }),
                Errno::ENOTTY,
            ),
        ] {
            assert_eq!(kernel.ask(op), Err(errno), "{}", op.name());
        }
    });
}

#[test]
fn space_is_set_aside_found_and_copied() {
    with(|kernel, _| {
        let dir = current(kernel);
        let (file, handle) = kernel.create(dir, b"file").unwrap();
        let node = file.node;
        kernel.write(node, handle, 200_000, b"data").unwrap();
        let seek = |offset, whence| Op::LSeek(LSeek { node, handle, offset, whence });
        let reply = kernel.ask(seek(0, Whence::Hole)).unwrap();
        assert_eq!(Body(&reply).lseek().unwrap(), 0);
        let reply = kernel.ask(seek(200_000, Whence::Data)).unwrap();
        assert_eq!(Body(&reply).lseek().unwrap(), 200_000);
        assert_eq!(kernel.ask(seek(200_004, Whence::Data)), Err(Errno::ENXIO));
        assert_eq!(kernel.ask(seek(-1, Whence::Data)), Err(Errno::ENXIO));
        let allocate = Fallocate { node, handle, offset: 0, length: 1 << 20, mode: 0 };
        kernel.ask(Op::Fallocate(allocate)).unwrap();
        assert_eq!(kernel.attr(node).unwrap().size, 1 << 20);

        let (other, to) = kernel.create(dir, b"copy").unwrap();
        let copy = CopyFileRange {
            node,
            handle,
            offset: 200_000,
            new_node: other.node,
            new_handle: to,
            new_offset: 0,
            len: 4,
            flags: 0,
        };
        let reply = kernel.ask(Op::CopyFileRange(copy)).unwrap();
        assert_eq!(Body(&reply).written().unwrap(), 4);
        assert_eq!(kernel.read(other.node, to, 0, 10).unwrap(), b"data");
        let flagged = CopyFileRange { flags: 1, ..copy };
        assert_eq!(kernel.ask(Op::CopyFileRange(flagged)), Err(Errno::EINVAL));

        let at = kernel.last();
        let past = kernel.walk(&format!("history/@{at}/file")).unwrap().node;
        let from = kernel.open(past, OpenFlags::RDONLY).unwrap().handle;
        let from_past = CopyFileRange { node: past, handle: from, ..copy };
        assert_eq!(kernel.ask(Op::CopyFileRange(from_past)), Err(Errno::EXDEV));
        let to_past = CopyFileRange { new_node: past, new_handle: from, ..copy };
        assert_eq!(kernel.ask(Op::CopyFileRange(to_past)), Err(Errno::EROFS));
    });
}

#[test]
fn totals_count_the_disk_and_the_inodes() {
    with(|kernel, _| {
        let statfs = |kernel: &mut Kernel<'_>| {
            let reply = kernel.ask(Op::StatFs(StatFs { node: NodeId::ROOT })).unwrap();
            Body(&reply).statfs().unwrap()
        };
        let before = statfs(kernel);
        let dir = current(kernel);
        for number in 0..10 {
            kernel.make(dir, format!("{number}").as_bytes(), b"");
        }
        let after = statfs(kernel);
        assert_eq!(after.files - after.ffree, before.files - before.ffree + 10);
        assert!(after.bavail <= after.blocks && after.blocks > 0);
        assert_eq!((after.namelen, after.frsize), (255, 4096));
    });
}

#[test]
fn attributes_of_a_file_with_set_id_bits_are_not_to_be_remembered() {
    with(|kernel, _| {
        let dir = current(kernel);
        let node = kernel.make(dir, b"file", b"x").node;
        let valid = |kernel: &mut Kernel<'_>, mode: u32| {
            let chmod = SetAttr { node, mode: Some(0o100_000 | mode), ..SET };
            let reply = kernel.ask(Op::SetAttr(chmod)).unwrap();
            let looked = kernel.look(dir, b"file").unwrap();
            let valid = Body(&reply).attr().unwrap().1;
            assert_eq!(looked.attr_valid, valid);
            valid
        };
        assert_eq!(valid(kernel, 0o4755), Duration::ZERO);
        assert!(valid(kernel, 0o755) > Duration::ZERO);
        assert_eq!(valid(kernel, 0o2755), Duration::ZERO);
        let write = Op::Write(Write {
            node,
            handle: kernel.open(node, OpenFlags::WRONLY).unwrap().handle,
            offset: 0,
            data: b"y",
            flags: OpenFlags(OpenFlags::WRONLY),
            lock_owner: None,
            from_cache: false,
            kill_suidgid: true,
        });
        kernel.ask(write).unwrap();
        assert_eq!(kernel.attr(node).unwrap().mode, 0o100_755);
    });
}

#[test]
fn opening_with_truncation_is_one_request() {
    with(|kernel, _| {
        let dir = current(kernel);
        let file = kernel.make(dir, b"file", b"long content").node;
        let handle = kernel.open(file, OpenFlags::WRONLY | OpenFlags::TRUNC).unwrap().handle;
        assert_eq!(kernel.attr(file).unwrap().size, 0);
        kernel.write(file, handle, 0, b"new").unwrap();
        assert_eq!(kernel.content("current/file").unwrap(), b"new");
    });
}

#[test]
fn any_bytes_are_answered_or_ignored_and_never_panic() {
    use proptest::prelude::*;
    with(|kernel, _| {
        let dir = current(kernel);
        kernel.make(dir, b"file", b"content");
        let strategy =
            (0u32..60, any::<[u64; 8]>(), proptest::collection::vec(any::<u8>(), 0..200));
        // The runner wants to run its test from anywhere.
        let kernel = std::cell::RefCell::new(kernel);
        let mut runner = proptest::test_runner::TestRunner::default();
        runner
            .run(&strategy, |(opcode, words, tail)| {
                let mut body: Vec<u8> = words
                    .iter()
                    .flat_map(|word| {
                        // Small numbers hit what exists more often than random ones.
                        let word = if word % 3 == 0 { word % 7 } else { *word };
                        word.to_ne_bytes()
                    })
                    .collect();
                body.extend(&tail);
                let len = u32::try_from(40 + body.len()).unwrap();
                let mut bytes = len.to_ne_bytes().to_vec();
                bytes.extend(opcode.to_ne_bytes());
                bytes.extend((words[7] % 1000 * 2 + 1_000_000).to_ne_bytes());
                bytes.extend(
                    [1, 2, 3, 0xffff << 48 | 1, words[0]][(words[1] % 5) as usize].to_ne_bytes(),
                );
                bytes.extend([0; 16]);
                bytes.extend(body);
                kernel.borrow_mut().take(&bytes);
                Ok(())
            })
            .unwrap();
    });
}

/// Delivers what was scripted, waits for a notification if one is due, and then ends.
struct Script {
    frames: Mutex<VecDeque<Vec<u8>>>,
    replies: Mutex<Vec<Vec<u8>>>,
    notices: Mutex<Vec<Vec<u8>>>,
    due: usize,
}

impl Transport for Script {
    fn receive<'b>(&self, buffer: &'b mut Buffer) -> io::Result<Option<Frame<'b>>> {
        if let Some(frame) = self.frames.lock().unwrap().pop_front() {
            let (to, _) = buffer.bytes_mut().split_at_mut(frame.len());
            to.copy_from_slice(&frame);
            return Ok(Some(Frame::Whole(to)));
        }
        let started = Instant::now();
        while self.notices.lock().unwrap().len() < self.due {
            assert!(started.elapsed() < Duration::from_secs(10), "a notification was due");
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(None)
    }

    fn send(&self, reply: &Reply<'_>) -> io::Result<Delivery> {
        self.replies.lock().unwrap().push(reply.chunks().collect::<Vec<_>>().concat());
        Ok(Delivery::Taken)
    }

    fn send_notification(&self, chunks: &[IoSlice<'_>]) -> io::Result<Delivery> {
        assert_eq!(std::thread::current().name(), Some("news"));
        self.notices.lock().unwrap().push(chunks.iter().flat_map(|c| c.to_vec()).collect());
        Ok(Delivery::Taken)
    }
}

#[test]
fn a_server_says_when_it_is_ready_tells_what_changed_and_ends_with_its_mount() {
    let (store, _dir) = stores::fresh();
    let view = view_of(&store);
    let frames = {
        let wire = Wire::default();
        let mut kernel = Kernel::connect(&wire, &view);
        let init = Init { major: 7, minor: 45, max_readahead: 1 << 17, flags: u64::MAX };
        let top = NodeId::new(Ino::ROOT.0).unwrap();
        let chmod = SetAttr { node: top, mode: Some(0o40_711), ..SET };
        vec![kernel.encode(Op::Init(init)), kernel.encode(Op::SetAttr(chmod))]
    };
    let script = Script {
        frames: Mutex::new(frames.into()),
        replies: Mutex::default(),
        notices: Mutex::default(),
        due: 2,
    };
    let ready = AtomicU32::new(0);
    let config = Config { readers: 1, ..Config::default() };
    let server = Server::new(&script, &view, config);
    let ended = server.run(|| _ = ready.fetch_add(1, Ordering::Relaxed)).unwrap();
    assert_eq!(ended, Ended::Unmounted);
    assert_eq!(ready.load(Ordering::Relaxed), 1);
    assert_eq!(script.replies.lock().unwrap().len(), 2);
    let notices = script.notices.lock().unwrap();
    let nodes: Vec<u64> = notices
        .iter()
        .map(|bytes| match notify::decode(bytes, |_| ()).unwrap() {
            Notice::InvalInode { node, offset: -1, .. } => node.get(),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(nodes, [1, 0xffff << 48 | 1]);
}

#[test]
fn several_readers_end_together() {
    let (store, _dir) = stores::fresh();
    let view = view_of(&store);
    let script = Script {
        frames: Mutex::default(),
        replies: Mutex::default(),
        notices: Mutex::default(),
        due: 0,
    };
    let ended = serve(&script, &view, Config { readers: 4, ..Config::default() }).unwrap();
    assert_eq!(ended, Ended::NeverAgreed);
}

#[test]
fn a_panic_in_a_handler_is_answered_with_eio_and_counted() {
    let (store, _dir, trap) = stores::that_panics_on_demand();
    let view = view_of(&store);
    let wire = Wire::default();
    let mut kernel = Kernel::connect(&wire, &view);
    let dir = current(&mut kernel);
    let file = kernel.make(dir, b"file", &[5; 100_000]).node;
    let handle = kernel.open(file, OpenFlags::RDONLY).unwrap().handle;
    trap.store(true, Ordering::SeqCst);
    assert_eq!(kernel.read(file, handle, 0, 4096), Err(Errno::EIO));
    trap.store(false, Ordering::SeqCst);
    assert_eq!(kernel.read(file, handle, 0, 4096).unwrap(), [5; 4096]);
    assert_eq!(kernel.server.counters().panics(), 1);
}

#[test]
fn a_kernel_that_does_not_begin_with_init_is_turned_away() {
    let (store, _dir) = stores::fresh();
    let view = view_of(&store);
    let wire = Wire::default();
    let server = Server::new(&wire, &view, Config::default());
    let mut work = Work::default();
    let received = Received { frame: Frame::Whole(&[0; 40]), room: &mut [] };
    assert!(!server.take(received, &mut work).more);
    assert!(server.connection().is_closed());
}

/// A lane that reads what it is to splice, or refuses to.
struct Splicer<'w> {
    wire: &'w Wire,
    asked: VecDeque<Vec<u8>>,
    message: Vec<u8>,
    room: Vec<u8>,
    refuses: bool,
    /// Of the replies that were sent, counted from 0, those by splice.
    spliced: Vec<usize>,
}

impl Lane for Splicer<'_> {
    fn receive(&mut self) -> io::Result<Option<Received<'_>>> {
        let Some(message) = self.asked.pop_front() else { return Ok(None) };
        self.message = message;
        Ok(Some(Received { frame: Frame::Whole(&self.message), room: &mut self.room }))
    }

    fn send(&mut self, reply: &Reply<'_>) -> io::Result<Delivery> {
        match reply.in_room() {
            None => self.wire.send(reply),
            Some(_) => self.wire.send(&reply.out_of(&self.room)),
        }
    }

    fn can_splice(&self) -> bool {
        true
    }

    fn send_spliced(
        &mut self,
        reply: &Reply<'_>,
        file: BorrowedFd<'_>,
        offset: u64,
    ) -> Result<Delivery, SpliceError> {
        if self.refuses {
            return Err(SpliceError::NotSent(io::ErrorKind::UnexpectedEof.into()));
        }
        let mut bytes = vec![0; reply.elsewhere()];
        assert_eq!(rustix::io::pread(file, &mut bytes, offset).unwrap(), bytes.len());
        let mut sent = self.wire.sent.lock().unwrap();
        self.spliced.push(sent.len());
        sent.push([reply.head(), &bytes].concat());
        Ok(Delivery::Taken)
    }
}

#[test]
fn long_replies_are_spliced_and_copied_where_that_cannot_be() {
    let (store, _dir) = stores::fresh();
    let view = view_of(&store);
    let wire = Wire::default();
    let mut kernel = Kernel::connect(&wire, &view);
    let dir = current(&mut kernel);
    let content: Vec<u8> = (0..200_000_u32).flat_map(u32::to_le_bytes).take(200_000).collect();
    let whole = kernel.make(dir, b"whole", &content).node;
    let pieces = kernel.make(dir, b"pieces", &content).node;
    let handle = kernel.open(pieces, OpenFlags::RDWR).unwrap().handle;
    kernel.ask(Kernel::write_op(pieces, handle, 8192, &content[8192..12_288])).unwrap();
    let init = Init { major: 7, minor: 45, max_readahead: 1 << 17, flags: u64::MAX };
    let init = kernel.encode(Op::Init(init));
    let mut reads = Vec::new();
    // The last of each file is cut at its end.
    for (file, splices) in [(whole, true), (pieces, false)] {
        let handle = kernel.open(file, OpenFlags::RDONLY).unwrap().handle;
        for (offset, len) in [(0, 131_072), (5001, 65_536), (100, 4096), (150_000, 131_072)] {
            let until = (offset + len).min(content.len());
            // What is behind the piece lies in one again.
            let splices = until - offset > 40_000 && (splices || offset > 12_288);
            let len = u32::try_from(len).unwrap();
            let op = Kernel::read_op(file, handle, offset as u64, len);
            reads.push((kernel.encode(op), &content[offset..until], splices));
        }
    }
    drop(kernel);
    let asked: VecDeque<_> = reads.iter().map(|(bytes, ..)| bytes.clone()).collect();
    for refuses in [false, true] {
        let asked = std::iter::once(init.clone()).chain(asked.iter().cloned()).collect();
        let wire = Wire::default();
        let server = Server::new(&wire, &view, Config::default());
        let room = vec![0; server.connection().config().data_max()];
        let (message, spliced) = Default::default();
        let mut lane = Splicer { wire: &wire, asked, message, room, refuses, spliced };
        server.serve_lane(&mut lane).unwrap();
        let (sent, spliced) = (wire.sent.lock().unwrap(), lane.spliced);
        // The first answers INIT.
        assert_eq!(sent.len(), 1 + reads.len());
        for (number, (_, expected, splices)) in (1..).zip(&reads) {
            assert!(Answer::decode(&sent[number]).unwrap().result.unwrap().0 == *expected);
            assert_eq!(spliced.contains(&number), *splices && !refuses, "{number}");
        }
    }
}
