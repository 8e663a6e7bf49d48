//! Random steps, aimed at a model's present state so that most of them mean something.

use super::posix::{
    ACCESS, Body, By, DEFAULT, IFBLK, IFCHR, IFDIR, IFIFO, IFREG, IFSOCK, Model, Set, Step,
    acl_bytes,
};

/// `SplitMix64`: a seed gives the same steps on every machine.
pub(crate) struct Rng(pub u64);

impl Rng {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub(crate) fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    pub(crate) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }
}

/// What a run must leave out.
#[derive(Clone, Copy)]
pub(crate) struct Scope {
    /// Only what can be asked of the kernel as root: no made-up inodes, no flags the kernel sets.
    pub(crate) host: bool,
}

pub(crate) fn next(model: &Model, rng: &mut Rng, scope: Scope) -> Step {
    let dirs: Vec<u64> = inodes(model, |body| matches!(body, Body::Dir(_)));
    let files: Vec<u64> = inodes(model, |body| matches!(body, Body::File(_)));
    let any: Vec<u64> = model.nodes.keys().copied().collect();
    let dir = |rng: &mut Rng| {
        if !scope.host && rng.one_in(60) { rng.pick(&any) } else { rng.pick(&dirs) }
    };
    let file = |rng: &mut Rng| {
        if files.is_empty() || !scope.host && rng.one_in(40) {
            rng.pick(&any)
        } else {
            rng.pick(&files)
        }
    };
    let inode = |rng: &mut Rng| {
        if !scope.host && rng.one_in(60) { model.last + 1000 } else { rng.pick(&any) }
    };
    let by = if scope.host {
        By { uid: 0, gid: 0, umask: rng.pick(&[0, 0o022, 0o077, 0o027]) }
    } else {
        By {
            uid: rng.pick(&[0, 1000, 1001]),
            gid: rng.pick(&[0, 1000]),
            umask: rng.pick(&[0, 0o022, 0o077, 0o027]),
        }
    };
    let kill = !scope.host && rng.one_in(2);
    match rng.below(100) {
        0..20 => {
            let parent = dir(rng);
            let name = name(model, parent, rng, 4);
            let kind = rng.pick(&[
                IFREG, IFREG, IFREG, IFREG, IFDIR, IFDIR, IFDIR, IFIFO, IFSOCK, IFCHR, IFBLK,
            ]);
            // `mkdir(2)` itself takes set-id bits off.
            let permissions = mode(rng) & if kind == IFDIR { 0o1777 } else { 0o7777 };
            let exclusive = kind != IFREG || rng.one_in(2);
            let rdev = rng.pick(&[0x103, 0x801]);
            Step::Make { parent, name, mode: kind | permissions, rdev, exclusive, by }
        }
        20..25 => {
            let parent = dir(rng);
            let name = name(model, parent, rng, 4);
            let len = if scope.host {
                rng.pick(&[1, 20, 300])
            } else {
                rng.pick(&[0, 1, 20, 4095, 4096])
            };
            Step::Symlink { parent, name, target: vec![b't'; len], by }
        }
        25..28 => Step::Tmpfile { parent: dir(rng), mode: mode(rng), by },
        28..34 => {
            let parent = dir(rng);
            Step::Link { ino: inode(rng), parent, name: name(model, parent, rng, 4) }
        }
        34..41 => {
            let parent = dir(rng);
            Step::Unlink { parent, name: name(model, parent, rng, 1) }
        }
        41..45 => {
            let parent = dir(rng);
            let empty: Vec<u64> =
                dirs.iter().copied().filter(|&d| model.dir(d).is_empty()).collect();
            if !empty.is_empty()
                && rng.one_in(2)
                && let Some((parent, name)) = model.names(rng.pick(&empty)).pop()
            {
                return Step::Rmdir { parent, name };
            }
            Step::Rmdir { parent, name: name(model, parent, rng, 1) }
        }
        45..58 => {
            let (parent, new_parent) = (dir(rng), dir(rng));
            let flags = rng.pick(&[0, 0, 0, 1, 2, 2]);
            let name1 = name(model, parent, rng, 1);
            let new_name = name(model, new_parent, rng, if flags == 2 { 1 } else { 3 });
            Step::Rename { parent, name: name1, new_parent, new_name, flags }
        }
        58..68 => {
            let ino = if rng.one_in(2) { file(rng) } else { inode(rng) };
            let mut set = Set { kill, ..Set::default() };
            let time = |rng: &mut Rng| {
                let ns = rng.below(1 << 61) as i64 - (1 << 60);
                Some(if rng.one_in(3) { None } else { Some(ns) })
            };
            // Each of these is one call of its own on a host.
            match rng.below(8) {
                0 | 1 => set.mode = Some(mode(rng)),
                2 => (set.uid, set.gid) = (Some(rng.pick(&[0, 7])), Some(rng.pick(&[0, 8]))),
                3..6 => set.size = Some(length(rng)),
                6 => set.atime = time(rng),
                _ => (set.atime, set.mtime) = (time(rng), time(rng)),
            }
            if !scope.host && rng.one_in(6) {
                set.gid = Some(3);
                set.mtime = time(rng);
                set.mode = Some(mode(rng));
            }
            Step::SetAttr { ino, set }
        }
        68..80 => {
            let len = match rng.below(10) {
                0 => 0,
                1 => 65_536 + rng.below(90_000),
                2 | 3 => 4096,
                _ => rng.below(6000),
            };
            let fill = rng.next() as u8;
            let bytes = (0..len).map(|i| fill.wrapping_add((i / 7) as u8)).collect();
            let offset = if !scope.host && rng.one_in(40) {
                i64::MAX as u64 - rng.below(80_000)
            } else {
                length(rng)
            };
            let append = !scope.host && rng.one_in(6);
            Step::Write { ino: file(rng), offset, bytes, append, kill }
        }
        80..85 => {
            let flags = rng.pick(&[0, 1, 3, 3, 16, 17, if scope.host { 3 } else { 8 }]);
            let len = if rng.one_in(30) { 0 } else { rng.below(30_000) + 1 };
            Step::Allocate { ino: file(rng), flags, offset: rng.below(40_000), len, kill }
        }
        85..90 => {
            let (src, dst) = (file(rng), file(rng));
            let (src_offset, dst_offset) = (length(rng), length(rng));
            Step::Copy { src, src_offset, dst, dst_offset, len: rng.below(60_000), kill }
        }
        90..96 => {
            let ino = inode(rng);
            let name = xattr_name(rng, scope);
            let value = if name.starts_with(b"system.posix") {
                acl(rng, scope)
            } else {
                let len = if scope.host {
                    rng.below(200)
                } else {
                    rng.pick(&[0, 5, 300, 65_536, 65_537])
                };
                vec![rng.next() as u8; len as usize]
            };
            let flags = if name.starts_with(b"system.posix") && scope.host {
                0
            } else {
                rng.pick(&[0, 0, 1, 2]) as u32
            };
            Step::SetXattr { ino, name, value, flags, kill_sgid: kill }
        }
        96..98 => {
            let ino = inode(rng);
            let set: Vec<_> = model.nodes.get(&ino).map_or(vec![], |n| n.xattrs.keys().collect());
            let name = if set.is_empty() || rng.one_in(3) {
                xattr_name(rng, scope)
            } else {
                rng.pick(&set).clone()
            };
            Step::RemoveXattr { ino, name }
        }
        _ => {
            let ino = inode(rng);
            Step::End { ino }
        }
    }
}

fn inodes(model: &Model, is: impl Fn(&Body) -> bool) -> Vec<u64> {
    model.nodes.iter().filter(|(_, node)| is(&node.body)).map(|(&ino, _)| ino).collect()
}

/// A name that is there, or, one time in `fresh`, one that may not be.
fn name(model: &Model, parent: u64, rng: &mut Rng, fresh: u64) -> Vec<u8> {
    let there: Vec<&Vec<u8>> = match model.nodes.get(&parent).map(|node| &node.body) {
        Some(Body::Dir(names)) => names.keys().collect(),
        _ => vec![],
    };
    let fresh = if fresh == 1 { rng.one_in(8) } else { !rng.one_in(fresh) };
    if there.is_empty() || fresh {
        return match rng.below(40) {
            0 => vec![b'l'; 255],
            1 => vec![b'l'; 256],
            2 => vec![0xff, b' ', b'\n', rng.pick(b"xyz")],
            _ => vec![b'n', rng.pick(b"abcdefghij")],
        };
    }
    rng.pick(&there).clone()
}

fn mode(rng: &mut Rng) -> u32 {
    match rng.below(4) {
        0 => 0o644,
        1 => 0o755,
        2 => 0o6775,
        _ => rng.below(0o10000) as u32,
    }
}

fn length(rng: &mut Rng) -> u64 {
    match rng.below(12) {
        0 => 0,
        1..4 => 4096 * rng.below(8),
        4 => 65_536 * rng.below(4),
        5 => (1 << 40) + rng.below(5),
        _ => rng.below(20_000),
    }
}

fn xattr_name(rng: &mut Rng, scope: Scope) -> Vec<u8> {
    let long = [b"user.".to_vec(), vec![b'x'; 250]].concat();
    let names: &[&[u8]] = &[
        ACCESS,
        ACCESS,
        DEFAULT,
        DEFAULT,
        b"user.one",
        b"user.two",
        b"trusted.three",
        b"security.four",
        &long,
    ];
    let odd: &[&[u8]] = &[
        b"security.capability",
        b"user.lighthouse.seq",
        b"system.other",
        b"nothing",
        b"user.",
        b"",
    ];
    if !scope.host && rng.one_in(4) { rng.pick(odd).to_vec() } else { rng.pick(names).to_vec() }
}

fn acl(rng: &mut Rng, scope: Scope) -> Vec<u8> {
    let mut perm = || rng.below(8) as u32;
    let none = u32::MAX;
    let (user, group, other) = ((1, perm(), none), (4, perm(), none), (0x20, perm(), none));
    let (one, two, mask) = ((2, perm(), 1000), (8, perm(), 1000), (0x10, perm(), none));
    match rng.below(if scope.host { 6 } else { 9 }) {
        0 | 1 => acl_bytes(&[user, group, other]),
        2 => acl_bytes(&[user, one, group, mask, other]),
        3 => acl_bytes(&[user, one, group, two, mask, other]),
        4 => acl_bytes(&[user, group, mask, other]),
        // No mask, though a user is named.
        5 => acl_bytes(&[user, one, group, other]),
        6 => acl_bytes(&[]),
        7 => vec![],
        _ => (0..rng.below(40)).map(|_| rng.next() as u8).collect(),
    }
}
