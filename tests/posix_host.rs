//! Is the model right? The same steps as system calls on a directory of this machine's filesystem
//! (ext4), as root: each must come to the same, and the trees must stay equal.

#![allow(clippy::unwrap_used, missing_docs, reason = "a test")]

#[allow(dead_code, reason = "a host has no birth times to compare, and no flags of the kernel's")]
#[path = "common/posix.rs"]
mod posix;
#[path = "common/seeds.rs"]
mod seeds;
#[path = "common/steps.rs"]
mod steps;

use std::collections::HashMap;
use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Mode, OFlags, XattrFlags};
use rustix::io::Errno;

use posix::{Body, Done, IFDIR, IFMT, IFREG, Model, Stamp, Step};

const ROOT: u64 = 2;

/// A directory of the host, with a descriptor of each inode the model has.
struct Host {
    fds: HashMap<u64, OwnedFd>,
    /// Files without a name stay open for writing: `/proc/self/fd` can link them then.
    unnamed: HashMap<u64, OwnedFd>,
}

fn path(fd: impl AsFd) -> CString {
    CString::new(format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd())).unwrap()
}

impl Host {
    fn handle(&mut self, parent: u64, name: &[u8], ino: u64) -> Result<(), Errno> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&self.fds[&parent], name, flags, Mode::empty())?;
        self.fds.insert(ino, fd);
        Ok(())
    }

    fn open(&self, ino: u64, flags: OFlags) -> Result<OwnedFd, Errno> {
        rustix::fs::open(path(&self.fds[&ino]), flags | OFlags::CLOEXEC, Mode::empty())
    }

    /// Does `step`; what it makes is inode `seq`.
    fn step(&mut self, step: &Step, seq: u64) -> Result<u64, Errno> {
        let umask = |mask: u32| rustix::process::umask(Mode::from_raw_mode(mask));
        match step {
            Step::Make { parent, name, mode, rdev, exclusive, by } => {
                umask(by.umask);
                let dir = &self.fds[parent];
                let permissions = Mode::from_raw_mode(mode & 0o7777);
                match mode & IFMT {
                    IFDIR => rustix::fs::mkdirat(dir, &name[..], permissions)?,
                    IFREG => {
                        let mut flags = OFlags::CREATE | OFlags::RDWR | OFlags::CLOEXEC;
                        flags.set(OFlags::EXCL, *exclusive);
                        rustix::fs::openat(dir, &name[..], flags, permissions)?;
                    }
                    kind => {
                        let kind = rustix::fs::FileType::from_raw_mode(kind);
                        rustix::fs::mknodat(dir, &name[..], kind, permissions, *rdev)?;
                    }
                }
                self.handle(*parent, name, seq)?;
                Ok(0)
            }
            Step::Symlink { parent, name, target, .. } => {
                rustix::fs::symlinkat(&target[..], &self.fds[parent], &name[..])?;
                self.handle(*parent, name, seq)?;
                Ok(0)
            }
            Step::Tmpfile { parent, mode, by } => {
                umask(by.umask);
                let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
                let dir = path(&self.fds[parent]);
                let fd = rustix::fs::open(dir, flags, Mode::from_raw_mode(mode & 0o7777))?;
                let handle =
                    rustix::fs::open(path(&fd), OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
                self.fds.insert(seq, handle);
                self.unnamed.insert(seq, fd);
                Ok(0)
            }
            Step::Link { ino, parent, name } => {
                let from = path(self.unnamed.get(ino).unwrap_or(&self.fds[ino]));
                let to = &self.fds[parent];
                rustix::fs::linkat(CWD, from, to, &name[..], AtFlags::SYMLINK_FOLLOW)?;
                Ok(0)
            }
            Step::Unlink { parent, name } => {
                rustix::fs::unlinkat(&self.fds[parent], &name[..], AtFlags::empty())?;
                Ok(0)
            }
            Step::Rmdir { parent, name } => {
                rustix::fs::unlinkat(&self.fds[parent], &name[..], AtFlags::REMOVEDIR)?;
                Ok(0)
            }
            Step::Rename { parent, name, new_parent, new_name, flags } => {
                let (old, new) = (&self.fds[parent], &self.fds[new_parent]);
                let flags = rustix::fs::RenameFlags::from_bits_retain(*flags);
                rustix::fs::renameat_with(old, &name[..], new, &new_name[..], flags)?;
                Ok(0)
            }
            Step::SetAttr { ino, set } => {
                let fd = &self.fds[ino];
                if let Some(mode) = set.mode {
                    rustix::fs::chmod(path(fd), Mode::from_raw_mode(mode & 0o7777))?;
                }
                if let (Some(uid), Some(gid)) = (set.uid, set.gid) {
                    let uid = Some(rustix::fs::Uid::from_raw(uid));
                    let gid = Some(rustix::fs::Gid::from_raw(gid));
                    rustix::fs::chownat(fd, c"", uid, gid, AtFlags::EMPTY_PATH)?;
                }
                if let Some(size) = set.size {
                    rustix::fs::ftruncate(self.open(*ino, OFlags::WRONLY)?, size)?;
                }
                if set.atime.is_some() || set.mtime.is_some() {
                    let to = |time: Option<Option<i64>>| match time {
                        None => rustix::fs::Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT },
                        Some(None) => {
                            rustix::fs::Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_NOW }
                        }
                        Some(Some(ns)) => rustix::fs::Timespec {
                            tv_sec: ns.div_euclid(1_000_000_000),
                            tv_nsec: ns.rem_euclid(1_000_000_000),
                        },
                    };
                    let times = rustix::fs::Timestamps {
                        last_access: to(set.atime),
                        last_modification: to(set.mtime),
                    };
                    rustix::fs::utimensat(CWD, path(fd), &times, AtFlags::empty())?;
                }
                Ok(0)
            }
            Step::Write { ino, offset, bytes, .. } => {
                let file = self.open(*ino, OFlags::WRONLY)?;
                Ok(rustix::io::pwrite(file, bytes, *offset)? as u64)
            }
            Step::Allocate { ino, flags, offset, len, .. } => {
                let file = self.open(*ino, OFlags::WRONLY)?;
                let flags = rustix::fs::FallocateFlags::from_bits_retain(*flags);
                rustix::fs::fallocate(file, flags, *offset, *len)?;
                Ok(*len)
            }
            Step::Copy { src, src_offset, dst, dst_offset, len, .. } => {
                let from = self.open(*src, OFlags::RDONLY)?;
                let to = self.open(*dst, OFlags::WRONLY)?;
                let (mut src_offset, mut dst_offset) = (*src_offset, *dst_offset);
                let mut done = 0;
                loop {
                    let left = usize::try_from(*len - done).unwrap();
                    let offsets = (Some(&mut src_offset), Some(&mut dst_offset));
                    let copied =
                        rustix::fs::copy_file_range(&from, offsets.0, &to, offsets.1, left)?;
                    done += copied as u64;
                    // Copied onto itself, a file grows and there would be more to copy.
                    if copied == 0 || done == *len || src == dst {
                        return Ok(done);
                    }
                }
            }
            Step::SetXattr { ino, name, value, flags, .. } => {
                let flags = XattrFlags::from_bits_retain(*flags);
                rustix::fs::setxattr(path(&self.fds[ino]), &name[..], value, flags)?;
                Ok(0)
            }
            Step::RemoveXattr { ino, name } => {
                rustix::fs::removexattr(path(&self.fds[ino]), &name[..])?;
                Ok(0)
            }
            Step::End { ino } => {
                self.fds.remove(ino);
                self.unnamed.remove(ino);
                Ok(0)
            }
        }
    }

    /// Compares every inode with the model's.
    fn compare(&self, model: &Model) {
        for (&ino, node) in &model.nodes {
            let fd = &self.fds[&ino];
            let stat = rustix::fs::fstat(fd).unwrap();
            let what = format!("inode {ino}: {:?}", model.names(ino));
            assert_eq!(format!("{:o}", stat.st_mode), format!("{:o}", node.mode), "mode of {what}");
            assert_eq!((stat.st_uid, stat.st_gid), (node.uid, node.gid), "owner of {what}");
            assert_eq!(stat.st_nlink, u64::from(node.nlink), "nlink of {what}");
            if let Stamp::Set(ns) = node.mtime {
                let got = stat.st_mtime * 1_000_000_000 + stat.st_mtime_nsec as i64;
                assert_eq!(got, ns, "mtime of {what}");
            }
            match &node.body {
                Body::Special => assert_eq!(stat.st_rdev, node.rdev, "rdev of {what}"),
                Body::Symlink(target) => {
                    let got = rustix::fs::readlinkat(fd, c"", vec![]).unwrap();
                    assert_eq!(got.as_bytes(), target, "target of {what}");
                }
                Body::File(content) => {
                    assert_eq!(stat.st_size as u64, content.size, "size of {what}");
                    let file = self.open(ino, OFlags::RDONLY).unwrap();
                    let mut at = vec![0, content.size.saturating_sub(70_000)];
                    at.extend(content.pages.keys().map(|page| page * 4096));
                    for offset in at {
                        let expected = content.read(offset, 70_000);
                        let mut got = vec![0; 70_000];
                        let len = rustix::io::pread(&file, &mut got[..], offset).unwrap();
                        assert!(got[..len] == expected, "content of {what} from {offset}");
                    }
                }
                Body::Dir(names) => {
                    let dir = self.open(ino, OFlags::RDONLY | OFlags::DIRECTORY).unwrap();
                    let entries = rustix::fs::Dir::read_from(&dir).unwrap();
                    let mut got: Vec<_> = entries
                        .map(|entry| entry.unwrap().file_name().to_bytes().to_vec())
                        .filter(|name| name != b"." && name != b"..")
                        .collect();
                    got.sort();
                    assert!(got.iter().eq(names.keys()), "names in {what}");
                    for (name, (named, _)) in names {
                        let stat = rustix::fs::statat(fd, &name[..], AtFlags::SYMLINK_NOFOLLOW);
                        let expected = rustix::fs::fstat(&self.fds[named]).unwrap().st_ino;
                        assert_eq!(stat.unwrap().st_ino, expected, "{name:?} in {what}");
                    }
                }
            }
            let mut listed = vec![0; 65_536];
            let len = rustix::fs::listxattr(path(fd), &mut listed[..]).unwrap();
            let mut got: Vec<_> =
                listed[..len].split(|&b| b == 0).filter(|n| !n.is_empty()).collect();
            got.sort_unstable();
            assert!(got.iter().eq(node.xattrs.keys()), "xattrs of {what}: {got:?} {node:?}");
            for (name, value) in &node.xattrs {
                let mut got = vec![0; 65_536];
                let len = rustix::fs::getxattr(path(fd), &name[..], &mut got[..]).unwrap();
                assert_eq!(&got[..len], value, "{} of {what}", String::from_utf8_lossy(name));
            }
        }
    }
}

/// What this run leaves to others, because the kernel's own checks come first or root may more.
fn is_left_out(step: &Step, model: &Model, expected: &Result<Done, Errno>) -> bool {
    let kind = |ino: &u64| model.nodes.get(ino).map(|node| node.mode & IFMT);
    let gone = |ino: &u64| model.nodes.get(ino).is_none_or(|node| node.nlink == 0);
    let dirs: &[u64] = match step {
        Step::Unlink { parent, .. } | Step::Rmdir { parent, .. } => &[*parent],
        Step::Rename { parent, new_parent, .. } => &[*parent, *new_parent],
        _ => &[],
    };
    // In a directory that was removed, the kernel looks at no name.
    if *expected == Err(Errno::NAMETOOLONG) && dirs.iter().any(gone) {
        return true;
    }
    match step {
        // Opening a device or a FIFO is another matter.
        Step::Make { .. } => *expected == Err(Errno::STALE),
        // In a directory that was removed: ENOENT as for every other call; ext4 says EPERM.
        Step::Tmpfile { parent, .. } => gone(parent),
        // An inode that lost its last name gets none again; only O_TMPFILE's may.
        Step::Link { ino, .. } => kind(ino) == Some(IFDIR) || gone(ino),
        // A file stays here until nothing names it.
        Step::End { ino } => !gone(ino),
        Step::SetAttr { ino, set } => {
            kind(ino) != Some(IFREG) && (set.size.is_some() || kind(ino) == Some(posix::IFLNK))
        }
        Step::Write { ino, .. } | Step::Allocate { ino, .. } => kind(ino) != Some(IFREG),
        Step::Copy { src, dst, .. } => kind(src) != Some(IFREG) || kind(dst) != Some(IFREG),
        Step::SetXattr { ino, .. } | Step::RemoveXattr { ino, .. } => {
            kind(ino) == Some(posix::IFLNK)
        }
        _ => false,
    }
}

fn run(seed: u64, steps: usize, dir: &Path) {
    let root = rustix::fs::open(dir, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap();
    rustix::fs::chmod(dir, Mode::from_raw_mode(0o755)).unwrap();
    let mut host = Host { fds: HashMap::from([(ROOT, root)]), unnamed: HashMap::new() };
    let mut model = Model::new(ROOT, 0o755, 0, 0);
    let mut rng = steps::Rng(seed);
    for number in 0..steps {
        let step = steps::next(&model, &mut rng, steps::Scope { host: true });
        let seq = model.last + 1;
        let mut after = model.clone();
        let expected = after.apply(&step, seq);
        if is_left_out(&step, &model, &expected) {
            continue;
        }
        let before = host.times();
        let got = host.step(&step, seq);
        let context = format!("seed {seed}, step {number}: {step:?}");
        assert_eq!(got, expected.map(|done| done.len), "{context}");
        model = after;
        if let Ok(done) = expected
            && !done.changed
        {
            host.fds.remove(&seq);
        }
        host.compare_at(&model, &context);
        let now = host.times();
        for (ino, (mtime, ctime)) in before {
            let (Some(node), Some(now)) = (model.nodes.get(&ino), now.get(&ino)) else { continue };
            let changed = expected.is_ok_and(|done| done.changed) && node.changed == seq;
            assert_eq!(ctime != now.1, changed, "ctime of {ino} moved, {context}");
            if let Stamp::Event(at) = node.mtime {
                assert_eq!(mtime != now.0, changed && at == seq, "mtime of {ino} moved, {context}");
            }
        }
    }
}

type Time = (i64, u64);

impl Host {
    /// (mtime, ctime) of every inode.
    fn times(&self) -> HashMap<u64, (Time, Time)> {
        let stats = self.fds.iter().map(|(&ino, fd)| (ino, rustix::fs::fstat(fd).unwrap()));
        stats
            .map(|(ino, stat)| {
                let mtime = (stat.st_mtime, stat.st_mtime_nsec);
                (ino, (mtime, (stat.st_ctime, stat.st_ctime_nsec)))
            })
            .collect()
    }

    fn compare_at(&self, model: &Model, context: &str) {
        let compared =
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.compare(model)));
        assert!(compared.is_ok(), "trees differ after {context}");
    }
}

#[test]
fn the_model_and_this_machines_filesystem_come_to_the_same() {
    if !rustix::process::geteuid().is_root() {
        println!("left out: needs root, to change owners and make devices");
        return;
    }
    let base = tempfile::tempdir().unwrap();
    // ext4's own magic number; others differ in what they support.
    if rustix::fs::statfs(base.path()).unwrap().f_type != 0xef53 {
        println!("left out: {} is not on ext4", base.path().display());
        return;
    }
    for seed in seeds::of(0..4) {
        let dir = tempfile::tempdir().unwrap();
        run(seed, 400, dir.path());
    }
}
