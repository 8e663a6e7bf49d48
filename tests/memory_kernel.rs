//! The kernel in memory behaves as `fs/fuse` does: each fact in a test, against a plain filesystem.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

#[path = "common/memory_fs.rs"]
mod memory_fs;
#[path = "common/random_calls.rs"]
mod random_calls;

use std::sync::Arc;
use std::time::Duration;

use lighthouse_fuse::proto::abi::*;
use lighthouse_fuse::proto::notify::Notice;
use lighthouse_fuse::proto::op::{Op, SetTime, Whence};
use lighthouse_fuse::proto::reply::Reply;
use lighthouse_fuse::proto::types::{Errno, Name, NodeId, OpenedFlags, RequestId, Timestamp};
use lighthouse_fuse::transport::memory::{Caller, Dice, Options, User};
use parking_lot::Mutex;

use memory_fs::{FLAGS, Fs, Mounted, bytes, tell};
use random_calls::random_calls;

const O_WRONLY: u32 = 0o1;
const O_RDWR: u32 = 0o2;
const O_CREAT: u32 = 0o100;
const O_EXCL: u32 = 0o200;
const O_TRUNC: u32 = 0o1000;
const O_APPEND: u32 = 0o2000;
const O_SYNC: u32 = 0o4_010_000;
const O_DIRECTORY: u32 = 0o200_000;
const O_NOFOLLOW: u32 = 0o400_000;
const O_TMPFILE: u32 = 0o20_200_000;
const S_IFREG: u32 = 0o100_000;
const S_IFDIR: u32 = 0o040_000;
const STATX_BTIME: u32 = 0x800;

fn node(id: u64) -> NodeId {
    NodeId::new(id).unwrap()
}

fn name(name: &str) -> Name<'_> {
    Name::new(name.as_bytes()).unwrap()
}

fn names(user: &User, path: &str) -> Vec<String> {
    let mut names: Vec<_> = user
        .list(path)
        .unwrap()
        .into_iter()
        .map(|entry| String::from_utf8(entry.name).unwrap())
        .collect();
    names.sort();
    names
}

/// What the server was asked since the last time, without FORGETs.
fn asked(mounted: &Mounted) -> String {
    mounted.kernel().settle();
    let counts = mounted.kernel().take_counts();
    counts.iter().map(|(name, count)| format!("{name} {count}")).collect::<Vec<_>>().join(", ")
}

#[track_caller]
fn assert_violates(mounted: &Mounted, what: &str) {
    let violations = mounted.kernel().take_violations();
    assert!(violations.iter().any(|text| text.contains(what)), "{violations:?} without '{what}'");
}

// Names and lifetimes

#[test]
fn every_minor_version_from_12_on_is_mounted_and_used() {
    for minor in 12..=45 {
        let mounted = Mounted::new(Options { minor, ..Options::default() }, Fs::default());
        let user = mounted.kernel().as_root();
        user.mkdir("d", 0o755).unwrap();
        user.write_file("d/f", b"content", 0o644).unwrap();
        assert_eq!(user.read_file("d/f").unwrap(), b"content", "7.{minor}");
        assert_eq!(names(&user, "d"), ["f"], "7.{minor}");
        user.set_xattr("d/f", "user.a", b"1", 0).unwrap();
        user.rename("d/f", "d/g").unwrap();
        user.unlink("d/g").unwrap();
        user.rmdir("d").unwrap();
        mounted.unmount();
    }
}

#[test]
fn a_second_stat_sends_nothing_until_the_lifetime_is_over() {
    let mounted = Mounted::plain();
    mounted.fs.lock().plant(1, "f", S_IFREG | 0o644, b"12345");
    let user = mounted.kernel().as_root();
    assert_eq!(user.stat("f").unwrap().size, 5);
    assert_eq!(asked(&mounted), "GETATTR 1, LOOKUP 1");
    for _ in 0..3 {
        user.stat("f").unwrap();
    }
    assert_eq!(asked(&mounted), "");
    mounted.kernel().advance(Duration::from_secs(1001));
    user.stat("f").unwrap();
    // The root's attributes, for permission to search it, and the name, which brings the file's.
    assert_eq!(asked(&mounted), "GETATTR 1, LOOKUP 1");
    mounted.unmount();
}

#[test]
fn a_missing_name_is_remembered_as_long_as_the_server_says() {
    let mounted = Mounted::plain();
    let user = mounted.kernel().as_root();
    assert_eq!(user.stat("no"), Err(Errno::ENOENT));
    asked(&mounted);
    assert_eq!(user.stat("no"), Err(Errno::ENOENT));
    assert_eq!(asked(&mounted), "");
    mounted.fs.lock().plant(1, "no", S_IFREG | 0o644, b"");
    assert_eq!(user.stat("no"), Err(Errno::ENOENT), "the kernel still believes it");
    mounted.kernel().advance(Duration::from_secs(1001));
    user.stat("no").unwrap();
    mounted.unmount();
}

#[test]
fn enoent_without_an_entry_is_not_remembered() {
    let mounted = Mounted::bent(|fs| fs.negative_valid = None);
    let user = mounted.kernel().as_root();
    assert_eq!(user.stat("no"), Err(Errno::ENOENT));
    mounted.fs.lock().plant(1, "no", S_IFREG | 0o644, b"");
    user.stat("no").unwrap();
    mounted.unmount();
}

#[test]
fn a_new_name_is_looked_up_whatever_is_remembered_of_it() {
    let mounted = Mounted::plain();
    let user = mounted.kernel().as_root();
    assert_eq!(user.stat("d"), Err(Errno::ENOENT));
    asked(&mounted);
    user.mkdir("d", 0o755).unwrap();
    assert_eq!(asked(&mounted), "LOOKUP 1, MKDIR 1");
    // O_CREAT without O_EXCL takes the remembered answer.
    assert_eq!(user.stat("f"), Err(Errno::ENOENT));
    asked(&mounted);
    user.close(user.create("f", 0o644).unwrap()).unwrap();
    assert_eq!(asked(&mounted), "CREATE 1, FLUSH 1, RELEASE 1");
    mounted.unmount();
}

#[test]
fn a_new_epoch_makes_every_name_be_looked_up_again() {
    let mounted = Mounted::plain();
    let user = mounted.kernel().as_root();
    user.write_file("f", b"", 0o644).unwrap();
    user.stat("f").unwrap();
    asked(&mounted);
    mounted.tell(&Notice::IncEpoch).unwrap();
    user.stat("f").unwrap();
    assert_eq!(asked(&mounted), "LOOKUP 1");
    mounted.unmount();
}

#[test]
fn a_name_that_leads_elsewhere_after_its_lifetime_is_forgotten_and_found_anew() {
    let mounted = Mounted::bent(|fs| fs.entry_valid = Duration::ZERO);
    let user = mounted.kernel().as_root();
    user.write_file("f", b"old", 0o644).unwrap();
    let old = user.stat("f").unwrap().ino;
    {
        let mut fs = mounted.fs.lock();
        fs.nodes.get_mut(&1).unwrap().names.remove(b"f".as_slice());
        fs.plant(1, "f", S_IFREG | 0o644, b"newer");
    }
    let new = user.stat("f").unwrap();
    assert_ne!(new.ino, old);
    assert_eq!(new.size, 5);
    mounted.unmount();
}

#[test]
fn a_directory_node_under_two_names_is_reported() {
    let mounted = Mounted::plain();
    let user = mounted.kernel().as_root();
    user.mkdir("a", 0o755).unwrap();
    user.write_file("a/f", b"", 0o644).unwrap();
    {
        let mut fs = mounted.fs.lock();
        let id = fs.nodes[&1].names[b"a".as_slice()];
        fs.nodes.get_mut(&1).unwrap().names.insert(b"b".to_vec(), id);
    }
    user.stat("b").unwrap();
    assert_violates(&mounted, "the kernel moves it there");
    asked(&mounted);
    // What was below the first name is now below the second.
    user.stat("b/f").unwrap();
    assert_eq!(asked(&mounted), "");
    mounted.unmount();
}

#[test]
fn a_name_with_the_roots_node_id_is_an_error() {
    let mounted = Mounted::bent(|fs| {
        fs.script = Some(Box::new(|seen, op, _| match op {
            Op::Lookup(_) => {
                let entry = Fs::default().entry_of(1);
                Some(bytes(&Reply::entry(RequestId(seen.unique), &entry)))
            }
            _ => None,
        }));
    });
    assert_eq!(mounted.kernel().as_root().stat("x"), Err(Errno::EIO));
    assert_violates(&mounted, "the root's node id");
    mounted.unmount();
}

#[test]
fn a_node_that_changes_its_type_is_an_error() {
    let mounted = Mounted::plain();
    let id = mounted.fs.lock().plant(1, "f", S_IFREG | 0o644, b"");
    let user = mounted.kernel().as_root();
    let fd = user.open("f", 0, 0).unwrap();
    mounted.fs.lock().nodes.get_mut(&id).unwrap().attr.mode = S_IFDIR | 0o755;
    mounted.kernel().advance(Duration::from_secs(1001));
    assert_eq!(user.fstat(fd), Err(Errno::EIO));
    assert_violates(&mounted, "its type was 100000");
    assert_eq!(user.fstat(fd), Err(Errno::EIO), "and stays so");
    user.close(fd).unwrap_err();
    mounted.unmount();
}

// Opening and closing

#[test]
fn enosys_to_open_stops_open_and_atomic_truncation_is_lost() {
    let mounted = Mounted::bent(|fs| {
        fs.flags |= FUSE_ATOMIC_O_TRUNC;
        fs.unserved.insert(FUSE_OPEN);
    });
    let user = mounted.kernel().as_root();
    mounted.fs.lock().plant(1, "f", S_IFREG | 0o644, b"longer");
    user.close(user.open("f", 0, 0).unwrap()).unwrap();
    asked(&mounted);
    user.close(user.open("f", O_WRONLY | O_TRUNC, 0).unwrap()).unwrap();
    assert_eq!(asked(&mounted), "FLUSH 1");
    let fs = mounted.fs.lock();
    let id = fs.nodes[&1].names[b"f".as_slice()];
    assert_eq!(fs.nodes[&id].data, b"longer", "nobody told the server to cut the file");
    drop(fs);
    mounted.unmount();
}

#[test]
fn without_atomic_truncation_a_setattr_follows_the_open() {
    let mounted = Mounted::plain();
    let user = mounted.kernel().as_root();
    mounted.fs.lock().plant(1, "f", S_IFREG | 0o644, b"longer");
    user.close(user.open("f", O_WRONLY | O_TRUNC, 0).unwrap()).unwrap();
    let asked = asked(&mounted);
    assert!(asked.contains("SETATTR 1") && asked.contains("OPEN 1"), "{asked}");
    assert_eq!(user.stat("f").unwrap().size, 0);
    mounted.unmount();
}

#[test]
fn without_open_a_created_file_is_never_released() {
    let mounted = Mounted::bent(|fs| {
        fs.unserved.insert(FUSE_OPEN);
    });
    let user = mounted.kernel().as_root();
    mounted.fs.lock().plant(1, "f", S_IFREG | 0o644, b"");
    user.close(user.open("f", 0, 0).unwrap()).unwrap();
    asked(&mounted);
    user.write_file("g", b"", 0o644).unwrap();
    assert_eq!(asked(&mounted), "CREATE 1, FLUSH 1, LOOKUP 1");
    mounted.fs.lock().handles.clear();
    mounted.unmount();
}

#[test]
fn enosys_to_flush_makes_close_free_and_keeps_the_write_back_of_mappings() {
    let mounted = Mounted::bent(|fs| {
        fs.unserved.insert(FUSE_FLUSH);
    });
    let user = mounted.kernel().as_root();
    user.write_file("f", &[1; 8192], 0o644).unwrap();
    asked(&mounted);
    let fd = user.open("f", O_RDWR, 0).unwrap();
    let map = user.mmap(fd, 0, 8192, true, true).unwrap();
    user.map_write(map, 4000, &[7; 110]).unwrap();
    mounted.kernel().take_counts();
    user.close(fd).unwrap();
    assert_eq!(asked(&mounted), "WRITE 1");
    user.munmap(map).unwrap();
    assert_eq!(asked(&mounted), "RELEASE 1");
    mounted.unmount();
}

#[test]
fn fopen_noflush_skips_the_write_back_at_close_too() {
    let mounted = Mounted::bent(|fs| fs.opened |= OpenedFlags::NOFLUSH);
    let user = mounted.kernel().as_root();
    user.write_file("f", &[1; 4096], 0o644).unwrap();
    let fd = user.open("f", O_RDWR, 0).unwrap();
    let map = user.mmap(fd, 0, 4096, true, true).unwrap();
    user.map_write(map, 0, b"x").unwrap();
    asked(&mounted);
    user.close(fd).unwrap();
    assert_eq!(asked(&mounted), "", "nothing is written at close");
    user.munmap(map).unwrap();
    assert_eq!(asked(&mounted), "RELEASE 1, WRITE 1");
    mounted.unmount();
}

#[test]
fn release_comes_later_and_from_nobody() {
    let mounted = Mounted::plain();
    let user = mounted.kernel().as_user(1000, 1000, &[], 0o022, 77);
    mounted.fs.lock().nodes.get_mut(&1).unwrap().attr.mode = S_IFDIR | 0o777;
    let fd = user.create("f", 0o644).unwrap();
    user.close(fd).unwrap();
    assert!(mounted.fs.lock().seen.iter().all(|seen| seen.opcode != FUSE_RELEASE));
    mounted.kernel().settle();
    let fs = mounted.fs.lock();
    let of = |opcode| fs.seen.iter().find(|seen| seen.opcode == opcode).unwrap().caller;
    assert_eq!((of(FUSE_RELEASE).uid, of(FUSE_RELEASE).pid), (0, 0));
    assert_eq!((of(FUSE_CREATE).uid, of(FUSE_CREATE).pid), (1000, 77));
    drop(fs);
    mounted.unmount();
}

#[test]
fn each_descriptor_flushes_and_the_last_releases() {
    let mounted = Mounted::plain();
    let user = mounted.kernel().as_root();
    let fd = user.create("f", 0o644).unwrap();
    let copy = user.dup(fd).unwrap();
    asked(&mounted);
    user.close(fd).unwrap();
    assert_eq!(asked(&mounted), "FLUSH 1");
    user.close(copy).unwrap();
    assert_eq!(asked(&mounted), "FLUSH 1, RELEASE 1");
    assert_eq!(user.close(copy), Err(Errno::EBADF));
    mounted.unmount();
}

#[test]
fn a_synchronous_write_is_followed_by_fsync_unless_direct() {
    let mounted = Mounted::plain();
    let user = mounted.kernel().as_root();
    user.write_file("f", b"", 0o644).unwrap();
    let fd = user.open("f", O_WRONLY | O_SYNC, 0).unwrap();
    asked(&mounted);
    user.write(fd, b"x").unwrap();
    let buffered = asked(&mounted);
    assert!(buffered.contains("FSYNC 1") && buffered.contains("WRITE 1"), "{buffered}");
    user.close(fd).unwrap();
    mounted.fs.lock().opened = OpenedFlags::DIRECT_IO;
    let fd = user.open("f", O_WRONLY | O_SYNC, 0).unwrap();
    asked(&mounted);
    user.write(fd, b"x").unwrap();
    assert_eq!(asked(&mounted), "WRITE 1");
    user.close(fd).unwrap();
    mounted.unmount();
}

#[test]
fn a_temporary_file_gets_a_name_by_linkat() {
    let mounted = Mounted::plain();
    let user = mounted.kernel().as_root();
    let fd = user.open("/", O_TMPFILE | O_RDWR, 0o600).unwrap();
    user.write(fd, b"body").unwrap();
    assert!(names(&user, "/").is_empty());
    user.link_fd(fd, "named").unwrap();
    user.close(fd).unwrap();
    assert_eq!(user.read_file("named").unwrap(), b"body");
    let never = user.open("/", O_TMPFILE | O_RDWR | O_EXCL, 0o600).unwrap();
    assert_eq!(user.link_fd(never, "other"), Err(Errno::ENOENT));
    user.close(never).unwrap();
    mounted.unmount();
}

#[test]
fn an_unlinked_open_file_is_used_until_its_last_close_and_then_forgotten() {
    let mounted = Mounted::plain();
    let user = mounted.kernel().as_root();
    let fd = user.open("f", O_CREAT | O_RDWR, 0o644).unwrap();
    user.unlink("f").unwrap();
    user.pwrite(fd, b"still here", 0).unwrap();
    assert_eq!(user.pread(fd, 5, 6).unwrap(), b"here");
    assert_eq!(user.fstat(fd).unwrap().nlink, 0);
    mounted.kernel().settle();
    assert_eq!(mounted.fs.lock().nodes.len(), 2);
    user.close(fd).unwrap();
    mounted.kernel().settle();
    assert_eq!(mounted.fs.lock().nodes.len(), 1, "forgotten, so the server let it go");
    mounted.unmount();
}

// Caching of content and attributes

#[test]
fn cached_reads_send_nothing_and_the_first_stat_after_a_read_one_getattr() {
    let mounted = Mounted::plain();
    mounted.fs.lock().plant(1, "f", S_IFREG | 0o644, &[7; 10_000]);
    let user = mounted.kernel().as_root();
    let fd = user.open("f", 0, 0).unwrap();
    asked(&mounted);
    assert_eq!(user.pread(fd, 10_000, 0).unwrap(), vec![7; 10_000]);
    assert_eq!(asked(&mounted), "READ 1");
    assert_eq!(user.pread(fd, 100, 9_950).unwrap().len(), 50);
    user.fstat(fd).unwrap();
    let first = asked(&mounted);
    assert!(first.contains("GETATTR 1"), "{first}");
    user.pread(fd, 10_000, 0).unwrap();
    user.fstat(fd).unwrap();
    user.stat("f").unwrap();
    assert_eq!(asked(&mounted), "");
    user.close(fd).unwrap();
    mounted.unmount();
}

#[test]
fn birth_time_costs_one_statx() {
    let mounted = Mounted::plain();
    mounted.fs.lock().plant(1, "f", S_IFREG | 0o644, b"");
    let user = mounted.kernel().as_root();
    user.stat("f").unwrap();
    asked(&mounted);
    let born = user.statx("f", 0x7ff | STATX_BTIME).unwrap().btime;
    assert!(born.secs > 1_000_000);
    assert_eq!(asked(&mounted), "STATX 1");
    assert_eq!(user.statx("f", 0x7ff | STATX_BTIME).unwrap().btime, born);
    assert_eq!(asked(&mounted), "");
    mounted.unmount();
}

#[test]
fn automatic_invalidation_drops_own_writes_and_explicit_does_not() {
    for (flag, reads) in [(FUSE_AUTO_INVAL_DATA, true), (FUSE_EXPLICIT_INVAL_DATA, false)] {
        let mounted = Mounted::bent(|fs| {
            fs.flags = FLAGS & !FUSE_EXPLICIT_INVAL_DATA | flag;
        });
        let user = mounted.kernel().as_root();
        let fd = user.open("f", O_CREAT | O_RDWR, 0o644).unwrap();
        user.write(fd, &[1; 4096]).unwrap();
        user.fstat(fd).unwrap();
        asked(&mounted);
        user.pread(fd, 4096, 0).unwrap();
        assert_eq!(asked(&mounted).contains("READ 1"), reads);
        user.close(fd).unwrap();
        mounted.unmount();
    }
}

#[test]
fn without_keep_cache_an_open_empties_the_cache() {
    for (opened, reads) in [(OpenedFlags::NONE, 1), (OpenedFlags::KEEP_CACHE, 0)] {
        let mounted = Mounted::bent(|fs| fs.opened = opened);
        mounted.fs.lock().plant(1, "f", S_IFREG | 0o644, b"content");
        let user = mounted.kernel().as_root();
        user.read_file("f").unwrap();
        let before = mounted.kernel().count(FUSE_READ);
        user.read_file("f").unwrap();
        assert_eq!(mounted.kernel().count(FUSE_READ) - before, reads);
        mounted.unmount();
    }
}

#[test]
fn direct_io_asks_the_server_for_every_read() {
    let mounted = Mounted::bent(|fs| fs.opened = OpenedFlags::DIRECT_IO);
    mounted.fs.lock().plant(1, "f", S_IFREG | 0o644, b"content");
    let user = mounted.kernel().as_root();
    let fd = user.open("f", O_RDWR, 0).unwrap();
    asked(&mounted);
    user.pread(fd, 7, 0).unwrap();
    user.pread(fd, 7, 0).unwrap();
    assert_eq!(asked(&mounted), "READ 2");
    assert_eq!(user.mmap(fd, 0, 4096, true, true), Err(Errno::ENODEV));
    user.close(fd).unwrap();
    mounted.unmount();
}

#[test]
fn a_write_asks_for_a_capability_each_time_or_once_with_killpriv_v2() {
    for (flags, expected) in
        [(FLAGS & !FUSE_HANDLE_KILLPRIV_V2, "GETXATTR 3, WRITE 3"), (FLAGS, "GETXATTR 1, WRITE 3")]
    {
        let mounted = Mounted::bent(|fs| fs.flags = flags);
        let user = mounted.kernel().as_root();
        let fd = user.create("f", 0o644).unwrap();
        asked(&mounted);
        for _ in 0..3 {
            user.write(fd, b"x").unwrap();
        }
        assert_eq!(asked(&mounted), expected);
        user.close(fd).unwrap();
        mounted.unmount();
    }
}

#[test]
fn set_id_bits_are_cleared_by_the_server_or_by_a_setattr() {
    for flags in [FLAGS, FLAGS & !FUSE_HANDLE_KILLPRIV_V2] {
        let mounted = Mounted::bent(|fs| fs.flags = flags);
        mounted.fs.lock().plant(1, "f", S_IFREG | 0o6777, b"");
        let user = mounted.kernel().as_user(1000, 1000, &[], 0, 5);
        let fd = user.open("f", O_WRONLY, 0).unwrap();
        asked(&mounted);
        user.write(fd, b"x").unwrap();
        assert_eq!(asked(&mounted).contains("SETATTR"), flags != FLAGS);
        assert_eq!(user.fstat(fd).unwrap().mode & 0o7777, 0o777);
        user.close(fd).unwrap();
        mounted.unmount();
    }
}

#[test]
fn pages_of_a_mapping_are_written_by_nobody() {
    let mounted = Mounted::plain();
    let user = mounted.kernel().as_root();
    user.write_file("f", &[b'a'; 5000], 0o644).unwrap();
    let fd = user.open("f", O_RDWR, 0).unwrap();
    let map = user.mmap(fd, 0, 8192, true, true).unwrap();
    user.map_write(map, 4990, b"zz").unwrap();
    assert_eq!(user.map_write(map, 8191, b"ab"), Err(Errno::EFAULT));
    mounted.fs.lock().seen.clear();
    user.msync(map).unwrap();
    let fs = mounted.fs.lock();
    let write = fs.seen.iter().find(|seen| seen.opcode == FUSE_WRITE).unwrap();
    assert_eq!((write.caller.pid, write.caller.uid), (0, 0));
    assert!(write.text.contains("from_cache: true"), "{}", write.text);
    drop(fs);
    assert_eq!(user.stat("f").unwrap().size, 5000, "write-back ends where the file does");
    assert_eq!(user.pread(fd, 4, 4988).unwrap(), b"aazz");
    user.munmap(map).unwrap();
    let private = user.mmap(fd, 0, 4096, false, true).unwrap();
    user.map_write(private, 0, b"mine").unwrap();
    assert_eq!(user.map_read(private, 0, 5).unwrap(), b"minea");
    assert_eq!(user.pread(fd, 4, 0).unwrap(), b"aaaa");
    user.munmap(private).unwrap();
    user.close(fd).unwrap();
    mounted.unmount();
}

// Listings

#[test]
fn a_cached_listing_shows_what_the_kernel_changes_and_not_what_others_do() {
    let mounted = Mounted::plain();
    let user = mounted.kernel().as_root();
    user.mkdir("d", 0o755).unwrap();
    let dir = mounted.fs.lock().nodes[&1].names[b"d".as_slice()];
    user.write_file("d/a", b"", 0o644).unwrap();
    assert_eq!(names(&user, "d"), ["a"]);
    assert_eq!(names(&user, "d"), ["a"]);
    asked(&mounted);
    assert_eq!(names(&user, "d"), ["a"]);
    assert_eq!(asked(&mounted), "OPENDIR 1, RELEASEDIR 1");
    mounted.fs.lock().plant(dir, "b", S_IFREG | 0o644, b"");
    assert_eq!(names(&user, "d"), ["a"], "made behind the kernel's back");
    let entry = Notice::InvalEntry { parent: node(dir), name: name("b") };
    assert_eq!(mounted.tell(&entry), Err(Errno::ENOENT));
    assert_eq!(names(&user, "d"), ["a"], "the name was not known, so nothing was dropped");
    mounted.tell(&Notice::InvalInode { node: node(dir), offset: 0, len: 0 }).unwrap();
    assert_eq!(names(&user, "d"), ["a", "b"]);
    user.unlink("d/a").unwrap();
    assert_eq!(names(&user, "d"), ["b"]);
    mounted.unmount();
}

#[test]
fn a_listing_is_not_cached_without_cache_dir_nor_kept_without_keep_cache() {
    for (opened, cached) in [
        (OpenedFlags::KEEP_CACHE | OpenedFlags::CACHE_DIR, true),
        (OpenedFlags::CACHE_DIR, false),
        (OpenedFlags::KEEP_CACHE, false),
    ] {
        let mounted = Mounted::bent(|fs| fs.opened_dir = opened);
        let user = mounted.kernel().as_root();
        user.write_file("a", b"", 0o644).unwrap();
        names(&user, "/");
        names(&user, "/");
        asked(&mounted);
        names(&user, "/");
        assert_eq!(asked(&mounted).contains("READDIR"), !cached);
        mounted.unmount();
    }
}

#[test]
fn adaptive_readdirplus_spares_a_walk_its_lookups() {
    let mounted = Mounted::bent(|fs| fs.opened_dir = OpenedFlags::NONE);
    {
        let mut fs = mounted.fs.lock();
        for number in 0..1000 {
            fs.plant(1, &format!("file-{number:04}"), S_IFREG | 0o644, b"");
        }
    }
    let user = mounted.kernel().as_root();
    let fd = user.open("/", O_DIRECTORY, 0).unwrap();
    asked(&mounted);
    let mut found = 0;
    loop {
        let entries = user.getdents_in(fd, 4096).unwrap();
        if entries.is_empty() {
            break;
        }
        for entry in entries.iter().filter(|entry| !entry.name.starts_with(b".")) {
            user.lstat(&entry.name).unwrap();
            found += 1;
        }
    }
    assert_eq!(found, 1000);
    let counts = mounted.kernel().take_counts();
    assert!(counts.get("LOOKUP").copied().unwrap_or(0) < 20, "{counts:?}");
    assert!(counts["READDIRPLUS"] > 10, "{counts:?}");
    user.close(fd).unwrap();
    // A plain listing begins with READDIRPLUS and goes on with READDIR.
    mounted.kernel().shrink();
    let fd = user.open("/", O_DIRECTORY, 0).unwrap();
    asked(&mounted);
    while !user.getdents_in(fd, 4096).unwrap().is_empty() {}
    let counts = mounted.kernel().take_counts();
    assert_eq!(counts["READDIRPLUS"], 1, "{counts:?}");
    user.close(fd).unwrap();
    mounted.unmount();
}

#[test]
fn a_listing_can_be_left_and_taken_up_at_any_offset() {
    for opened in [OpenedFlags::NONE, OpenedFlags::KEEP_CACHE | OpenedFlags::CACHE_DIR] {
        let mounted = Mounted::bent(|fs| fs.opened_dir = opened);
        let user = mounted.kernel().as_root();
        for number in 0..50 {
            user.write_file(format!("f{number:02}"), b"", 0o644).unwrap();
        }
        let whole = user.list("/").unwrap();
        let fd = user.open("/", O_DIRECTORY, 0).unwrap();
        let offset = i64::try_from(whole[20].next).unwrap();
        user.seek(fd, offset, Whence::Set).unwrap();
        let mut rest = Vec::new();
        loop {
            let some = user.getdents_in(fd, 200).unwrap();
            if some.is_empty() {
                break;
            }
            rest.extend(some);
        }
        assert_eq!(rest, whole[21..]);
        user.close(fd).unwrap();
        mounted.unmount();
    }
}

#[test]
fn malformed_listings_are_errors() {
    let broken: [(&[u8], &str); 3] = [
        (&[0; 10], "cut off"),
        (&[0; 24], "a name of 0 bytes"),
        (
            b"\x02\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\x03\0\0\0\x08\0\0\0a/b\0\0\0\0\0",
            "the name 'a/b'",
        ),
    ];
    for (data, what) in broken {
        let mounted = Mounted::bent(|fs| {
            fs.flags &= !(FUSE_DO_READDIRPLUS | FUSE_READDIRPLUS_AUTO);
            fs.script = Some(Box::new(move |seen, op, _| match op {
                Op::ReadDir(_) => Some(bytes(&Reply::data(RequestId(seen.unique), data))),
                _ => None,
            }));
        });
        assert_eq!(mounted.kernel().as_root().list("/"), Err(Errno::EIO));
        assert_violates(&mounted, what);
        mounted.unmount();
    }
}

// Identity and permission

#[test]
fn the_umask_is_applied_by_the_kernel_unless_dont_mask() {
    for (flags, mode) in [(FLAGS, 0o600), (FLAGS | FUSE_DONT_MASK, 0o666)] {
        let mounted = Mounted::bent(|fs| fs.flags = flags);
        let user = mounted.kernel().as_root().with_umask(0o077);
        user.close(user.create("f", 0o666).unwrap()).unwrap();
        assert_eq!(user.stat("f").unwrap().mode, S_IFREG | mode);
        let fs = mounted.fs.lock();
        let create = fs.seen.iter().find(|seen| seen.opcode == FUSE_CREATE).unwrap();
        assert!(create.text.contains("umask: 63"), "{}", create.text);
        drop(fs);
        mounted.unmount();
    }
}

#[test]
fn modes_groups_and_sticky_directories_are_checked_by_the_kernel() {
    let mounted = Mounted::plain();
    let root = mounted.kernel().as_root();
    root.mkdir("tmp", 0o1777).unwrap();
    root.chmod("tmp", 0o1777).unwrap();
    root.write_file("secret", b"s", 0o640).unwrap();
    root.chown("secret", None, Some(50)).unwrap();
    let alice = mounted.kernel().as_user(1000, 1000, &[50], 0o022, 10);
    let bob = mounted.kernel().as_user(1001, 1001, &[], 0o022, 11);
    assert_eq!(alice.read_file("secret").unwrap(), b"s");
    assert_eq!(bob.read_file("secret"), Err(Errno::EACCES));
    assert_eq!(alice.create("here", 0o644), Err(Errno::EACCES));
    alice.write_file("tmp/a", b"", 0o666).unwrap();
    assert_eq!(bob.unlink("tmp/a"), Err(Errno::EPERM));
    assert_eq!(bob.rename("tmp/a", "tmp/b"), Err(Errno::EPERM));
    assert_eq!(bob.chmod("tmp/a", 0o777), Err(Errno::EPERM));
    assert_eq!(bob.chown("tmp/a", Some(1001), None), Err(Errno::EPERM));
    assert_eq!(
        bob.set_times("tmp/a", Some(SetTime::At(Timestamp::new(1, 0))), None),
        Err(Errno::EPERM)
    );
    assert_eq!(bob.truncate("tmp/a", 0), Err(Errno::EACCES));
    alice.chmod("tmp/a", 0o2755).unwrap();
    assert_eq!(alice.stat("tmp/a").unwrap().mode & 0o7777, 0o2755);
    root.mkdir("closed", 0o700).unwrap();
    root.write_file("closed/f", b"", 0o666).unwrap();
    assert_eq!(alice.stat("closed/f"), Err(Errno::EACCES));
    assert_eq!(bob.mknod("tmp/dev", 0o020_666, 1), Err(Errno::EPERM));
    alice.unlink("tmp/a").unwrap();
    mounted.unmount();
}

#[test]
fn without_allow_other_everyone_else_is_refused() {
    let options = Options { allow_other: false, owner: 1000, ..Options::default() };
    let mounted = Mounted::new(options, Fs::default());
    assert_eq!(mounted.kernel().as_root().stat("/"), Err(Errno::EACCES));
    mounted.kernel().as_user(1000, 1000, &[], 0, 1).stat("/").unwrap();
    mounted.unmount();
}

#[test]
fn an_acl_decides_where_the_mode_shows_its_mask() {
    let mounted = Mounted::bent(|fs| fs.flags |= FUSE_POSIX_ACL);
    let root = mounted.kernel().as_root();
    root.write_file("f", b"x", 0o640).unwrap();
    let entry = |tag: u16, perm: u16, id: u32| {
        [tag.to_le_bytes().to_vec(), perm.to_le_bytes().to_vec(), id.to_le_bytes().to_vec()]
            .concat()
    };
    let acl = [
        2_u32.to_le_bytes().to_vec(),
        entry(0x01, 6, u32::MAX),
        entry(0x02, 4, 1000),
        entry(0x04, 0, u32::MAX),
        entry(0x10, 4, u32::MAX),
        entry(0x20, 0, u32::MAX),
    ]
    .concat();
    root.set_xattr("f", "system.posix_acl_access", &acl, 0).unwrap();
    let alice = mounted.kernel().as_user(1000, 1000, &[], 0, 1);
    let bob = mounted.kernel().as_user(1001, 1001, &[], 0, 1);
    assert_eq!(alice.read_file("f").unwrap(), b"x");
    assert_eq!(bob.read_file("f"), Err(Errno::EACCES));
    assert_eq!(alice.open("f", O_WRONLY, 0), Err(Errno::EACCES));
    asked(&mounted);
    alice.access("f", 4).unwrap();
    assert_eq!(asked(&mounted), "", "the ACL is remembered");
    mounted.unmount();
}

// Paths

#[test]
fn paths_walk_through_links_and_dots() {
    let mounted = Mounted::plain();
    let user = mounted.kernel().as_root();
    user.mkdir("d", 0o755).unwrap();
    user.mkdir("d/e", 0o755).unwrap();
    user.write_file("d/e/f", b"deep", 0o644).unwrap();
    user.symlink("d/e", "link").unwrap();
    user.symlink("/d/../link/f", "far").unwrap();
    user.symlink("loop", "loop").unwrap();
    user.symlink("nowhere", "dangling").unwrap();
    assert_eq!(user.read_file("far").unwrap(), b"deep");
    assert_eq!(user.read_file("link/../e/./f").unwrap(), b"deep");
    assert_eq!(user.stat("link/").unwrap().mode & 0o170_000, S_IFDIR);
    assert_eq!(user.lstat("link").unwrap().mode & 0o170_000, 0o120_000);
    assert_eq!(user.stat("/../..//d/e/").unwrap().mode & 0o170_000, S_IFDIR);
    assert_eq!(user.stat("loop"), Err(Errno::ELOOP));
    assert_eq!(user.stat("d/e/f/g"), Err(Errno::ENOTDIR));
    assert_eq!(user.stat("d/e/f/"), Err(Errno::ENOTDIR));
    assert_eq!(user.stat(""), Err(Errno::ENOENT));
    assert_eq!(user.stat("x".repeat(256)), Err(Errno::ENAMETOOLONG));
    assert_eq!(user.stat("x/".repeat(2048)), Err(Errno::ENAMETOOLONG));
    assert_eq!(user.open("link", O_NOFOLLOW, 0), Err(Errno::ELOOP));
    assert_eq!(user.open("d/e/f", O_DIRECTORY, 0), Err(Errno::ENOTDIR));
    assert_eq!(user.open("d", O_RDWR, 0), Err(Errno::EISDIR));
    assert_eq!(user.open("dangling", O_CREAT | O_EXCL, 0o644), Err(Errno::EEXIST));
    user.close(user.create("dangling", 0o644).unwrap()).unwrap();
    assert_eq!(user.stat("nowhere").unwrap().size, 0, "made where the link leads");
    assert_eq!(user.mkdir("d", 0o755), Err(Errno::EEXIST));
    assert_eq!(user.rmdir("d"), Err(Errno::ENOTEMPTY));
    assert_eq!(user.rmdir("d/."), Err(Errno::EINVAL));
    assert_eq!(user.unlink("d"), Err(Errno::EISDIR));
    assert_eq!(user.rename("d", "d/e/d"), Err(Errno::EINVAL));
    assert_eq!(user.rename("d/e", "d"), Err(Errno::ENOTEMPTY));
    assert_eq!(user.link("d", "hard"), Err(Errno::EPERM));
    assert_eq!(user.readlink("far").unwrap(), b"/d/../link/f");
    let mut inside = mounted.kernel().as_root();
    inside.chdir("d/e").unwrap();
    assert_eq!(inside.read_file("f").unwrap(), b"deep");
    user.rename("d/e", "moved").unwrap();
    assert_eq!(
        inside.read_file("../moved/f").unwrap(),
        b"deep",
        "the directory went with its name"
    );
    drop(inside);
    mounted.unmount();
}

#[test]
fn a_rename_moves_names_in_the_cache_without_asking() {
    let mounted = Mounted::plain();
    let user = mounted.kernel().as_root();
    user.mkdir("a", 0o755).unwrap();
    user.mkdir("b", 0o755).unwrap();
    user.write_file("a/x", b"1", 0o644).unwrap();
    user.write_file("b/y", b"2", 0o644).unwrap();
    user.rename("a/x", "b/x").unwrap();
    assert_eq!(user.rename_with("b/x", "b/y", 1), Err(Errno::EEXIST));
    user.rename_with("b/x", "b/y", 2).unwrap();
    assert_eq!(user.read_file("b/x").unwrap(), b"2");
    assert_eq!(user.read_file("b/y").unwrap(), b"1");
    user.rename("a", "b/a").unwrap();
    user.rename("b/x", "b/y").unwrap();
    user.stat("b/a").unwrap();
    user.stat("b/y").unwrap();
    asked(&mounted);
    user.stat("b/a").unwrap();
    user.stat("b/y").unwrap();
    assert_eq!(asked(&mounted), "");
    assert_eq!(names(&user, "b"), ["a", "y"]);
    mounted.unmount();
}

// Files

#[test]
fn files_are_written_read_cut_and_extended() {
    let mounted = Mounted::plain();
    let user = mounted.kernel().as_root();
    let fd = user.open("f", O_CREAT | O_RDWR, 0o644).unwrap();
    let big: Vec<u8> = (0..3_000_000_u32).map(|at| (at % 251) as u8).collect();
    assert_eq!(user.write(fd, &big).unwrap(), big.len());
    assert_eq!(user.seek(fd, 0, Whence::Set).unwrap(), 0);
    assert_eq!(user.read(fd, big.len() + 5).unwrap(), big);
    mounted.kernel().shrink();
    user.close(fd).unwrap();
    mounted.kernel().shrink();
    assert_eq!(user.read_file("f").unwrap(), big);
    user.truncate("f", 10).unwrap();
    user.truncate("f", 20).unwrap();
    let mut cut = big[..10].to_vec();
    cut.resize(20, 0);
    assert_eq!(user.read_file("f").unwrap(), cut);
    let fd = user.open("f", O_WRONLY | O_APPEND, 0).unwrap();
    user.write(fd, b"end").unwrap();
    assert_eq!(user.fstat(fd).unwrap().size, 23);
    assert_eq!(user.read(fd, 1), Err(Errno::EBADF));
    user.truncate_fd(fd, 5).unwrap();
    user.fallocate(fd, 0, 0, 100).unwrap();
    assert_eq!(user.fstat(fd).unwrap().size, 100);
    assert_eq!(user.fallocate(fd, 2, 0, 10), Err(Errno::EOPNOTSUPP), "a hole keeps the size");
    user.fallocate(fd, 3, 0, 3).unwrap();
    assert_eq!(user.seek(fd, 0, Whence::Hole).unwrap(), 100);
    assert_eq!(user.seek(fd, 100, Whence::Data), Err(Errno::ENXIO));
    user.close(fd).unwrap();
    let from = user.open("f", 0, 0).unwrap();
    let to = user.open("g", O_CREAT | O_RDWR, 0o644).unwrap();
    assert_eq!(user.copy_range(from, 0, to, 10, 1000).unwrap(), 100);
    assert_eq!(user.fstat(to).unwrap().size, 110);
    assert_eq!(user.pread(to, 100, 10).unwrap(), user.pread(from, 100, 0).unwrap());
    mounted.fs.lock().unserved.extend([FUSE_COPY_FILE_RANGE_64, FUSE_COPY_FILE_RANGE]);
    assert_eq!(user.copy_range(from, 0, to, 0, 10).unwrap(), 10, "copied by the kernel");
    user.close(from).unwrap();
    user.close(to).unwrap();
    mounted.unmount();
}

#[test]
fn extended_attributes_follow_their_namespace() {
    let mounted = Mounted::plain();
    let root = mounted.kernel().as_root();
    root.write_file("f", b"", 0o666).unwrap();
    root.symlink("f", "s").unwrap();
    root.set_xattr("f", "user.a", b"value", 1).unwrap();
    root.set_xattr("f", "trusted.b", b"", 0).unwrap();
    assert_eq!(root.set_xattr("f", "user.a", b"", 1), Err(Errno::EEXIST));
    assert_eq!(root.set_xattr("f", "user.none", b"", 2), Err(Errno::ENODATA));
    assert_eq!(root.set_xattr("s", "user.a", b"", 0), Err(Errno::EPERM));
    assert_eq!(root.set_xattr("f", "user.big", &[0; 65537], 0), Err(Errno::E2BIG));
    assert_eq!(root.xattr("f", "user.a").unwrap(), b"value");
    assert_eq!(root.xattr_in("f", "user.a", 2), Err(Errno::ERANGE));
    assert_eq!(root.xattr_names("f").unwrap(), [b"trusted.b".to_vec(), b"user.a".to_vec()]);
    let alice = mounted.kernel().as_user(1000, 1000, &[], 0, 1);
    assert_eq!(alice.set_xattr("f", "trusted.b", b"", 0), Err(Errno::EPERM));
    assert_eq!(alice.xattr("f", "trusted.b"), Err(Errno::ENODATA));
    root.remove_xattr("f", "user.a").unwrap();
    assert_eq!(root.xattr("f", "user.a"), Err(Errno::ENODATA));
    mounted.fs.lock().unserved.insert(FUSE_GETXATTR);
    assert_eq!(root.xattr("f", "user.a"), Err(Errno::EOPNOTSUPP));
    asked(&mounted);
    assert_eq!(root.xattr("f", "user.a"), Err(Errno::EOPNOTSUPP));
    assert_eq!(asked(&mounted), "", "ENOSYS is remembered");
    mounted.unmount();
}

#[test]
fn enosys_is_remembered_for_each_operation_that_has_a_way_without() {
    let mounted = Mounted::bent(|fs| {
        fs.unserved = [
            FUSE_CREATE,
            FUSE_TMPFILE,
            FUSE_FSYNC,
            FUSE_FSYNCDIR,
            FUSE_FALLOCATE,
            FUSE_LSEEK,
            FUSE_RENAME2,
            FUSE_STATX,
            FUSE_OPENDIR,
            FUSE_FLUSH,
        ]
        .into();
    });
    let user = mounted.kernel().as_root();
    for round in 0..2 {
        user.write_file("f", b"abc", 0o644).unwrap();
        let fd = user.open("f", O_RDWR, 0).unwrap();
        assert_eq!(user.open("/", O_TMPFILE | O_RDWR, 0o600), Err(Errno::EOPNOTSUPP));
        user.sync(fd, false).unwrap();
        assert_eq!(user.fallocate(fd, 0, 0, 9), Err(Errno::EOPNOTSUPP));
        assert_eq!(user.seek(fd, 1, Whence::Hole).unwrap(), 3);
        assert_eq!(user.rename_with("f", "g", 1), Err(Errno::EINVAL));
        user.statx("f", 0xfff).unwrap();
        let dir = user.open("/", O_DIRECTORY, 0).unwrap();
        user.sync(dir, false).unwrap();
        user.close(dir).unwrap();
        user.close(fd).unwrap();
        user.unlink("f").unwrap();
        let asked = asked(&mounted);
        for operation in [
            "CREATE",
            "TMPFILE",
            "FSYNC ",
            "FSYNCDIR",
            "FALLOCATE",
            "LSEEK",
            "RENAME2",
            "STATX",
            "OPENDIR",
            "FLUSH",
        ] {
            assert_eq!(
                asked.contains(operation),
                round == 0,
                "{operation} in round {round}: {asked}"
            );
        }
    }
    mounted.unmount();
}

#[test]
fn a_request_can_be_made_to_fail_without_the_server() {
    let mounted = Mounted::plain();
    let user = mounted.kernel().as_root();
    let fd = user.create("f", 0o644).unwrap();
    mounted.kernel().fail_next(FUSE_WRITE, Errno::ENOSPC);
    assert_eq!(user.write(fd, b"x"), Err(Errno::ENOSPC));
    user.write(fd, b"x").unwrap();
    user.close(fd).unwrap();
    mounted.unmount();
}

// Notifications

#[test]
fn notifications_change_what_the_kernel_believes() {
    let mounted = Mounted::plain();
    let user = mounted.kernel().as_root();
    let id = mounted.fs.lock().plant(1, "f", S_IFREG | 0o644, b"one");
    assert_eq!(user.read_file("f").unwrap(), b"one");
    mounted.fs.lock().nodes.get_mut(&id).unwrap().data = b"two".to_vec();
    assert_eq!(user.read_file("f").unwrap(), b"one");
    mounted.tell(&Notice::InvalInode { node: node(id), offset: -1, len: 0 }).unwrap();
    assert_eq!(user.read_file("f").unwrap(), b"one", "offset -1 is for attributes alone");
    mounted.tell(&Notice::InvalInode { node: node(id), offset: 0, len: 0 }).unwrap();
    assert_eq!(user.read_file("f").unwrap(), b"two");
    mounted.tell(&Notice::Store { node: node(id), offset: 0, data: b"three" }).unwrap();
    asked(&mounted);
    assert_eq!(user.read_file("f").unwrap(), b"three", "pushed, not read");
    assert!(!asked(&mounted).contains("READ 1"));
    mounted.tell(&Notice::Retrieve { unique: 99, node: node(id), offset: 1, size: 3 }).unwrap();
    mounted.kernel().settle();
    {
        let fs = mounted.fs.lock();
        let reply = fs.seen.iter().find(|seen| seen.opcode == FUSE_NOTIFY_REPLY).unwrap();
        assert_eq!(reply.unique, 99);
        assert!(reply.text.contains("data: [104, 114, 101]"), "{}", reply.text);
    }
    user.stat("f").unwrap();
    asked(&mounted);
    mounted.tell(&Notice::ExpireEntry { parent: node(1), name: name("f") }).unwrap();
    user.stat("f").unwrap();
    assert!(asked(&mounted).contains("LOOKUP 1"));
    mounted.tell(&Notice::Prune { nodes: &[node(id)] }).unwrap();
    mounted.kernel().settle();
    assert_eq!(mounted.fs.lock().lookups[&id], 0);
    assert_eq!(
        mounted.tell(&Notice::InvalInode { node: node(id), offset: 0, len: 0 }),
        Err(Errno::ENOENT)
    );
    user.stat("f").unwrap();
    mounted.tell(&Notice::Delete { parent: node(1), child: node(id), name: name("f") }).unwrap();
    asked(&mounted);
    user.stat("f").unwrap();
    assert!(asked(&mounted).contains("LOOKUP 1"));
    mounted.unmount();
}

#[test]
fn invalidating_from_the_thread_that_owes_a_read_would_deadlock() {
    let mounted = Mounted::bent(|fs| {
        fs.script = Some(Box::new(|_, op, memory| {
            if let Op::Read(read) = op {
                let notice = Notice::InvalInode { node: read.node, offset: 0, len: 0 };
                tell(memory, &notice).unwrap();
            }
            None
        }));
    });
    mounted.fs.lock().plant(1, "f", S_IFREG | 0o644, b"x");
    mounted.kernel().as_root().read_file("f").unwrap();
    assert_violates(&mounted, "would deadlock: INVAL_INODE waits for the answer to READ");
    mounted.unmount();
}

#[test]
fn invalidating_a_name_while_owing_a_change_of_its_directory_would_deadlock() {
    let mounted = Mounted::bent(|fs| {
        fs.script = Some(Box::new(|_, op, memory| {
            if let Op::Unlink(unlink) = op {
                let notice = Notice::InvalEntry { parent: unlink.parent, name: unlink.name };
                tell(memory, &notice).unwrap();
            }
            None
        }));
    });
    let user = mounted.kernel().as_root();
    user.write_file("f", b"", 0o644).unwrap();
    user.unlink("f").unwrap();
    assert_violates(&mounted, "would deadlock: INVAL_ENTRY waits for the answer to UNLINK");
    mounted.unmount();
}

// Answers the kernel refuses

#[test]
fn answers_of_a_wrong_form_are_refused_and_reported() {
    type Answer = Box<dyn Fn(u64) -> Vec<u8> + Send>;
    let wrong: Vec<(&str, Answer)> = vec![
        ("0 bytes instead of 104", Box::new(|unique| bytes(&Reply::empty(RequestId(unique))))),
        (
            "counts 99 in its header",
            Box::new(|unique| {
                let mut answer = bytes(&Reply::empty(RequestId(unique)));
                answer[0] = 99;
                answer
            }),
        ),
        (
            "the error -512",
            Box::new(|unique| {
                let mut answer = bytes(&Reply::empty(RequestId(unique)));
                answer[4..8].copy_from_slice(&(-512_i32).to_ne_bytes());
                answer
            }),
        ),
        (
            "the error 5",
            Box::new(|unique| {
                let mut answer = bytes(&Reply::empty(RequestId(unique)));
                answer[4..8].copy_from_slice(&5_i32.to_ne_bytes());
                answer
            }),
        ),
        (
            "which no reader was given",
            Box::new(|unique| bytes(&Reply::empty(RequestId(unique + 1000)))),
        ),
        (
            "an error and 104 bytes",
            Box::new(|unique| {
                let id = RequestId(unique);
                let mut answer =
                    bytes(&Reply::attr(id, &Fs::default().nodes[&1].attr, Duration::ZERO));
                answer[4..8].copy_from_slice(&(-5_i32).to_ne_bytes());
                answer
            }),
        ),
    ];
    for (what, answer) in wrong {
        let mounted = Mounted::bent(|fs| {
            let mut done = false;
            fs.script = Some(Box::new(move |seen, op, memory| {
                if matches!(op, Op::GetAttr(_)) && !std::mem::replace(&mut done, true) {
                    assert!(memory.write(&answer(seen.unique)).is_err());
                    // Where the request is still owed an answer, the usual one follows.
                    let _ =
                        memory.write(&bytes(&Reply::error(RequestId(seen.unique), Errno::EPERM)));
                    return Some(Vec::new());
                }
                None
            }));
        });
        assert!(mounted.kernel().as_root().stat("/").is_err());
        assert_violates(&mounted, what);
        mounted.unmount();
    }
}

#[test]
fn a_second_answer_is_reported() {
    let mounted = Mounted::bent(|fs| {
        fs.script = Some(Box::new(|seen, op, memory| {
            if matches!(op, Op::StatFs(_)) {
                memory.write(&bytes(&Reply::error(RequestId(seen.unique), Errno::EIO))).unwrap();
            }
            None
        }));
    });
    assert_eq!(mounted.kernel().as_root().statfs("/").err(), Some(Errno::EIO));
    assert_violates(&mounted, "answered a second time");
    mounted.unmount();
}

#[test]
fn a_request_without_an_answer_fails_the_test_and_is_named() {
    let options = Options { patience: Duration::from_millis(200), ..Options::default() };
    let mut fs = Fs::default();
    fs.script = Some(Box::new(|_, op, _| matches!(op, Op::StatFs(_)).then(Vec::new)));
    let mounted = Mounted::new(options, fs);
    let user = mounted.kernel().as_root();
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| user.statfs("/")));
    let text = *outcome.unwrap_err().downcast::<String>().unwrap();
    assert!(text.contains("no answer came") && text.contains("STATFS"), "{text}");
}

#[test]
fn a_lookup_the_server_counts_twice_is_left_over() {
    let mounted = Mounted::plain();
    let user = mounted.kernel().as_root();
    user.write_file("f", b"", 0o644).unwrap();
    let id = mounted.fs.lock().nodes[&1].names[b"f".as_slice()];
    mounted.fs.lock().lookups.insert(id, 2);
    mounted.kernel().shrink();
    mounted.kernel().settle();
    assert_eq!(mounted.fs.lock().lookups[&id], 1);
    mounted.fs.lock().lookups.clear();
    mounted.unmount();
}

// Interrupts, resending, several callers

#[test]
fn an_interrupted_call_ends_when_the_server_answers_eintr() {
    let held = Arc::new(Mutex::new(None));
    let hold = Arc::clone(&held);
    let options = Options { interrupts_per_mille: 1000, ..Options::default() };
    let mut fs = Fs::default();
    fs.script = Some(Box::new(move |seen, op, _| match op {
        Op::StatFs(_) => {
            *hold.lock() = Some(seen.unique);
            Some(Vec::new())
        }
        Op::Interrupt(interrupt) => {
            let target = interrupt.target;
            let waits = hold.lock().take_if(|unique| *unique == target.masked()).is_some();
            waits.then(|| bytes(&Reply::error(target, Errno::EINTR)))
        }
        _ => None,
    }));
    let mounted = Mounted::new(options, fs);
    let user = mounted.kernel().as_root();
    assert_eq!(user.statfs("/").err(), Some(Errno::EINTR));
    assert!(mounted.kernel().count(FUSE_INTERRUPT) > 0);
    mounted.unmount();
}

#[test]
fn enosys_to_interrupt_stops_interrupts_and_eagain_repeats_one() {
    for (errno, least, most) in [(Errno::ENOSYS, 1, 1), (Errno::EAGAIN, 2, 4)] {
        let options = Options { interrupts_per_mille: 1000, ..Options::default() };
        let mut fs = Fs::default();
        let mut asked = 0;
        let mut owed = None;
        fs.script = Some(Box::new(move |seen, op, memory| match op {
            Op::StatFs(_) => {
                owed = Some(seen.unique);
                Some(Vec::new())
            }
            Op::Interrupt(_) if owed.is_some() => {
                asked += 1;
                memory.write(&bytes(&Reply::error(RequestId(seen.unique), errno))).unwrap();
                if errno == Errno::ENOSYS || asked == 2 {
                    let unique = owed.take()?;
                    memory.write(&bytes(&Reply::error(RequestId(unique), Errno::EINTR))).unwrap();
                }
                Some(Vec::new())
            }
            _ => None,
        }));
        let mounted = Mounted::new(options, fs);
        let user = mounted.kernel().as_root();
        let before = mounted.kernel().count(FUSE_INTERRUPT);
        assert_eq!(user.statfs("/").err(), Some(Errno::EINTR));
        let sent = mounted.kernel().count(FUSE_INTERRUPT) - before;
        assert!((least..=most).contains(&sent), "{errno}: {sent} interrupts");
        mounted.unmount();
    }
}

#[test]
fn a_request_sent_again_carries_bit_63_and_so_does_its_answer() {
    let mut mounted = Mounted::bent(|fs| {
        let mut first = true;
        fs.script = Some(Box::new(move |_, op, _| {
            // The server dies after it was asked and before it answers.
            (matches!(op, Op::MkDir(_)) && std::mem::take(&mut first)).then(Vec::new)
        }));
    });
    let user = mounted.kernel().as_root();
    std::thread::scope(|scope| {
        let call = scope.spawn(|| user.mkdir("d", 0o755));
        while mounted.fs.lock().seen.iter().all(|seen| seen.opcode != FUSE_MKDIR) {
            std::thread::yield_now();
        }
        mounted.restart();
        mounted.tell(&Notice::Resend).unwrap();
        call.join().unwrap().unwrap();
    });
    let fs = mounted.fs.lock();
    let sent: Vec<_> = fs.seen.iter().filter(|seen| seen.opcode == FUSE_MKDIR).collect();
    assert_eq!(sent.len(), 2);
    assert_eq!(sent[1].unique, sent[0].unique | FUSE_UNIQUE_RESEND);
    drop(fs);
    assert_eq!(names(&user, "/"), ["d"]);
    mounted.unmount();
}

#[test]
fn an_aborted_connection_ends_all_calls() {
    let mounted = Mounted::plain();
    let user = mounted.kernel().as_root();
    user.stat("/").unwrap();
    mounted.kernel().abort();
    assert_eq!(user.stat("new"), Err(Errno::ENOTCONN));
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let run = |seed| {
        let options =
            Options { seed, shuffle: true, interrupts_per_mille: 100, ..Options::default() };
        let mounted = Mounted::new(options, Fs::default());
        let user = mounted.kernel().as_root();
        mounted.kernel().race(&user, racers(seed, 3, 20));
        mounted.kernel().settle();
        let seen: Vec<_> =
            mounted.fs.lock().seen.iter().map(|seen| (seen.opcode, seen.text.clone())).collect();
        mounted.unmount();
        seen
    };
    assert_eq!(run(7), run(7));
    assert_ne!(run(7), run(8));
}

/// Callers that each do `steps` random calls.
fn racers(seed: u64, count: u64, steps: usize) -> Vec<Caller<'static>> {
    (0..count)
        .map(|number| {
            let call: Caller<'static> = Box::new(move |user| {
                let mut dice = Dice::new(seed.wrapping_mul(31).wrapping_add(number));
                random_calls(user, &mut dice, steps, "/");
            });
            call
        })
        .collect()
}

#[test]
fn random_calls_leak_nothing_and_violate_nothing() {
    for seed in 0..150 {
        let options = Options {
            seed,
            shuffle: seed % 2 == 0,
            interrupts_per_mille: if seed % 3 == 0 { 50 } else { 0 },
            minor: if seed % 5 == 0 { 31 } else { 45 },
            ..Options::default()
        };
        let mut fs = Fs::default();
        if seed % 7 == 0 {
            fs.entry_valid = Duration::ZERO;
            fs.attr_valid = Duration::ZERO;
        }
        if seed % 11 == 0 {
            fs.opened = OpenedFlags::DIRECT_IO;
            fs.opened_dir = OpenedFlags::NONE;
        }
        let mounted = Mounted::new(options, fs);
        let user = mounted.kernel().as_root();
        let mut dice = Dice::new(seed);
        for round in 0..4 {
            random_calls(&user, &mut dice, 40, "/");
            if round == 1 {
                mounted.kernel().shrink();
            }
            mounted.kernel().advance(Duration::from_secs(400));
        }
        check_content(&user, &mounted.fs, seed);
        mounted.unmount();
    }
}

#[test]
fn random_calls_of_several_callers_leak_nothing_and_violate_nothing() {
    for seed in 0..60 {
        let options = Options { seed, shuffle: true, ..Options::default() };
        let mounted = Mounted::new(options, Fs::default());
        let user = mounted.kernel().as_root();
        mounted.kernel().race(&user, racers(seed, 4, 40));
        check_content(&user, &mounted.fs, seed);
        mounted.unmount();
    }
}

#[test]
fn callers_in_threads_of_their_own_leak_nothing_and_violate_nothing() {
    for seed in 0..10 {
        let options = Options { seed, stepped: false, shuffle: true, ..Options::default() };
        let mounted = Mounted::new(options, Fs::default());
        let kernel = mounted.kernel();
        std::thread::scope(|scope| {
            for number in 0..4 {
                scope.spawn(move || {
                    random_calls(&kernel.as_root(), &mut Dice::new(seed * 10 + number), 60, "/");
                });
            }
        });
        check_content(&kernel.as_root(), &mounted.fs, seed);
        mounted.unmount();
    }
}

/// What the kernel shows is what the server has.
fn check_content(user: &User, fs: &Mutex<Fs>, seed: u64) {
    let mut todo = vec![("/".to_owned(), 1)];
    while let Some((path, id)) = todo.pop() {
        let node = fs.lock().nodes[&id].clone();
        let attr = user.lstat(&path).unwrap();
        assert_eq!(
            (attr.ino, attr.mode, attr.size),
            (id, node.attr.mode, node.attr.size),
            "{path}"
        );
        match node.attr.mode & 0o170_000 {
            0o040_000 => {
                let mut expected: Vec<_> = node.names.keys().cloned().collect();
                let mut listed: Vec<_> =
                    user.list(&path).unwrap().into_iter().map(|entry| entry.name).collect();
                expected.sort();
                listed.sort();
                assert_eq!(listed, expected, "seed {seed}: {path}");
                for (name, id) in node.names {
                    todo.push((format!("{path}/{}", String::from_utf8(name).unwrap()), id));
                }
            }
            0o120_000 => assert_eq!(user.readlink(&path).unwrap(), node.data, "{path}"),
            _ => {
                let shown = user.read_file(&path).unwrap();
                let differs = shown.iter().zip(&node.data).position(|(one, other)| one != other);
                assert!(shown == node.data, "seed {seed}: {path} differs at {differs:?}");
            }
        }
    }
}
