//! A plain POSIX filesystem in memory, written from the manual pages and from what ext4 does, without a
//! line of the tree's own code: what it answers is what the tree must answer.
//!
//! Inodes have the numbers they are told to have, and times are names of events, not clock readings:
//! the comparison learns which time belongs to which event.

use std::collections::BTreeMap;
use std::rc::Rc;

use rustix::io::Errno;

pub(crate) const IFMT: u32 = 0o170_000;
pub(crate) const IFIFO: u32 = 0o010_000;
pub(crate) const IFCHR: u32 = 0o020_000;
pub(crate) const IFDIR: u32 = 0o040_000;
pub(crate) const IFBLK: u32 = 0o060_000;
pub(crate) const IFREG: u32 = 0o100_000;
pub(crate) const IFLNK: u32 = 0o120_000;
pub(crate) const IFSOCK: u32 = 0o140_000;

pub(crate) const ACCESS: &[u8] = b"system.posix_acl_access";
pub(crate) const DEFAULT: &[u8] = b"system.posix_acl_default";
const SIZE_MAX: u64 = i64::MAX as u64 - 65_535;
/// A copy may be shorter than asked; how short is the filesystem's choice.
pub(crate) const COPY_MAX: u64 = 64 << 20;
const PAGE: u64 = 4096;

/// When something happened, or the time it was given.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Stamp {
    Event(u64),
    Set(i64),
}

/// One call. Inodes are named by number.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    Make { parent: u64, name: Vec<u8>, mode: u32, rdev: u64, exclusive: bool, by: By },
    Symlink { parent: u64, name: Vec<u8>, target: Vec<u8>, by: By },
    Tmpfile { parent: u64, mode: u32, by: By },
    Link { ino: u64, parent: u64, name: Vec<u8> },
    Unlink { parent: u64, name: Vec<u8> },
    Rmdir { parent: u64, name: Vec<u8> },
    Rename { parent: u64, name: Vec<u8>, new_parent: u64, new_name: Vec<u8>, flags: u32 },
    SetAttr { ino: u64, set: Set },
    Write { ino: u64, offset: u64, bytes: Vec<u8>, append: bool, kill: bool },
    Allocate { ino: u64, flags: u32, offset: u64, len: u64, kill: bool },
    Copy { src: u64, src_offset: u64, dst: u64, dst_offset: u64, len: u64, kill: bool },
    SetXattr { ino: u64, name: Vec<u8>, value: Vec<u8>, flags: u32, kill_sgid: bool },
    RemoveXattr { ino: u64, name: Vec<u8> },
    End { ino: u64 },
}

impl Step {
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Make { .. } => "make",
            Self::Symlink { .. } => "symlink",
            Self::Tmpfile { .. } => "tmpfile",
            Self::Link { .. } => "link",
            Self::Unlink { .. } => "unlink",
            Self::Rmdir { .. } => "rmdir",
            Self::Rename { .. } => "rename",
            Self::SetAttr { .. } => "setattr",
            Self::Write { .. } => "write",
            Self::Allocate { .. } => "fallocate",
            Self::Copy { .. } => "copy",
            Self::SetXattr { .. } => "setxattr",
            Self::RemoveXattr { .. } => "removexattr",
            Self::End { .. } => "end",
        }
    }
}

/// Who makes something.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct By {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) umask: u32,
}

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Set {
    pub(crate) mode: Option<u32>,
    pub(crate) uid: Option<u32>,
    pub(crate) gid: Option<u32>,
    pub(crate) size: Option<u64>,
    /// `None` in it is now.
    pub(crate) atime: Option<Option<i64>>,
    pub(crate) mtime: Option<Option<i64>>,
    pub(crate) kill: bool,
}

/// What a call that was not refused came to.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Done {
    pub(crate) changed: bool,
    pub(crate) ino: Option<u64>,
    pub(crate) other: Option<u64>,
    pub(crate) len: u64,
}

#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) mode: u32,
    pub(crate) nlink: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) rdev: u64,
    pub(crate) atime: Stamp,
    pub(crate) mtime: Stamp,
    pub(crate) ctime: Stamp,
    pub(crate) btime: Stamp,
    /// The last event that touched it.
    pub(crate) changed: u64,
    pub(crate) xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    pub(crate) body: Body,
}

#[derive(Clone, Debug)]
pub(crate) enum Body {
    File(Content),
    /// Names, with the event since which each stands for its inode.
    Dir(BTreeMap<Vec<u8>, (u64, u64)>),
    Symlink(Vec<u8>),
    Special,
}

/// Bytes of a file, in pages; a page that is missing is zeros.
#[derive(Clone, Debug, Default)]
pub(crate) struct Content {
    pub(crate) size: u64,
    pub(crate) pages: BTreeMap<u64, Rc<[u8; PAGE as usize]>>,
}

impl Content {
    pub(crate) fn read(&self, offset: u64, len: u64) -> Vec<u8> {
        let end = self.size.min(offset.saturating_add(len));
        let mut out = vec![0; usize::try_from(end.saturating_sub(offset)).unwrap()];
        if out.is_empty() {
            return out;
        }
        for (&page, bytes) in self.pages.range(offset / PAGE..=(end - 1) / PAGE) {
            let from = (page * PAGE).max(offset);
            let to = (page * PAGE + PAGE).min(end);
            out[(from - offset) as usize..(to - offset) as usize].copy_from_slice(
                &bytes[(from - page * PAGE) as usize..(to - page * PAGE) as usize],
            );
        }
        out
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) {
        for (i, &byte) in bytes.iter().enumerate() {
            let at = offset + i as u64;
            let page = self.pages.entry(at / PAGE).or_insert_with(|| Rc::new([0; 4096]));
            Rc::make_mut(page)[(at % PAGE) as usize] = byte;
        }
        self.size = self.size.max(offset + bytes.len() as u64);
    }

    fn zero(&mut self, offset: u64, end: u64) {
        for (&page, bytes) in self.pages.range_mut(offset / PAGE..) {
            for (i, byte) in Rc::make_mut(bytes).iter_mut().enumerate() {
                let at = page * PAGE + i as u64;
                if at >= offset && at < end {
                    *byte = 0;
                }
            }
        }
        self.pages.retain(|_, bytes| bytes.iter().any(|&byte| byte != 0));
    }

    fn truncate(&mut self, size: u64) {
        self.zero(size, u64::MAX);
        self.size = size;
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Model {
    pub(crate) nodes: BTreeMap<u64, Node>,
    pub(crate) root: u64,
    pub(crate) last: u64,
}

type Entries = Vec<(u16, u32, u32)>;

impl Model {
    pub(crate) fn new(root: u64, mode: u32, uid: u32, gid: u32) -> Self {
        let body = Body::Dir(BTreeMap::new());
        let node = Node::new(IFDIR | mode, uid, gid, 2, body, root);
        Self { nodes: BTreeMap::from([(root, node)]), root, last: root }
    }

    pub(crate) fn dir(&self, ino: u64) -> &BTreeMap<Vec<u8>, (u64, u64)> {
        match &self.nodes[&ino].body {
            Body::Dir(names) => names,
            _ => panic!("{ino} is no directory"),
        }
    }

    fn names_of(&mut self, ino: u64) -> &mut BTreeMap<Vec<u8>, (u64, u64)> {
        match &mut self.nodes.get_mut(&ino).unwrap().body {
            Body::Dir(names) => names,
            _ => panic!("{ino} is no directory"),
        }
    }

    fn is_dir(&self, ino: u64) -> bool {
        self.nodes[&ino].mode & IFMT == IFDIR
    }

    /// Every (directory, name) of `ino`.
    pub(crate) fn names(&self, ino: u64) -> Vec<(u64, Vec<u8>)> {
        let mut names = Vec::new();
        for (&dir, node) in &self.nodes {
            if let Body::Dir(entries) = &node.body {
                let of = entries.iter().filter(|(_, (named, _))| *named == ino);
                names.extend(of.map(|(name, _)| (dir, name.clone())));
            }
        }
        names
    }

    pub(crate) fn parent(&self, ino: u64) -> Option<u64> {
        if ino == self.root {
            return Some(ino);
        }
        self.names(ino).first().map(|(dir, _)| *dir)
    }

    /// Whether `ino` is `above` or below it.
    fn within(&self, mut ino: u64, above: u64) -> bool {
        loop {
            if ino == above {
                return true;
            }
            match self.parent(ino) {
                Some(parent) if parent != ino => ino = parent,
                _ => return false,
            }
        }
    }

    fn node(&self, ino: u64) -> Result<&Node, Errno> {
        self.nodes.get(&ino).ok_or(Errno::STALE)
    }

    fn regular(&self, ino: u64) -> Result<&Content, Errno> {
        let node = self.node(ino)?;
        match &node.body {
            Body::File(content) => Ok(content),
            Body::Dir(_) => Err(Errno::ISDIR),
            _ => Err(Errno::INVAL),
        }
    }

    fn content(&mut self, ino: u64) -> &mut Content {
        match &mut self.nodes.get_mut(&ino).unwrap().body {
            Body::File(content) => content,
            _ => panic!("{ino} is no file"),
        }
    }

    fn find(&self, parent: u64, name: &[u8]) -> Result<Option<u64>, Errno> {
        if self.node(parent)?.mode & IFMT != IFDIR {
            return Err(Errno::NOTDIR);
        }
        if name.len() > 255 {
            return Err(Errno::NAMETOOLONG);
        }
        Ok(self.dir(parent).get(name).map(|&(ino, _)| ino))
    }

    /// A directory in which something is to be made.
    fn alive(&self, parent: u64) -> Result<(), Errno> {
        let node = self.node(parent)?;
        if node.mode & IFMT != IFDIR {
            return Err(Errno::NOTDIR);
        }
        if node.nlink == 0 { Err(Errno::NOENT) } else { Ok(()) }
    }

    fn touch(&mut self, ino: u64, seq: u64, content: bool) {
        let node = self.nodes.get_mut(&ino).unwrap();
        node.ctime = Stamp::Event(seq);
        node.changed = seq;
        if content {
            node.mtime = Stamp::Event(seq);
        }
    }

    fn attach(&mut self, parent: u64, name: &[u8], ino: u64, seq: u64) {
        self.names_of(parent).insert(name.to_vec(), (ino, seq));
        if self.is_dir(ino) {
            self.nodes.get_mut(&parent).unwrap().nlink += 1;
        }
        self.touch(parent, seq, true);
    }

    fn detach(&mut self, parent: u64, name: &[u8], seq: u64) {
        let (ino, _) = self.names_of(parent).remove(name).unwrap();
        if self.is_dir(ino) {
            self.nodes.get_mut(&parent).unwrap().nlink -= 1;
        }
        self.touch(parent, seq, true);
    }

    /// `ino` lost a name for good.
    fn lose(&mut self, ino: u64, seq: u64) {
        let is_dir = self.is_dir(ino);
        let node = self.nodes.get_mut(&ino).unwrap();
        node.nlink = if is_dir { 0 } else { node.nlink - 1 };
        self.touch(ino, seq, false);
    }

    fn born(&mut self, parent: u64, mode: u32, rdev: u64, body: Body, by: By, seq: u64) {
        let dir = &self.nodes[&parent];
        let (mut mode, mut gid) = (mode, by.gid);
        if dir.mode & 0o2000 != 0 {
            gid = dir.gid;
            if mode & IFMT == IFDIR {
                mode |= 0o2000;
            }
        }
        let mut xattrs = BTreeMap::new();
        if mode & IFMT != IFLNK {
            if let Some(default) = dir.xattrs.get(DEFAULT) {
                let mut entries = acl_entries(default).unwrap();
                if mode & IFMT == IFDIR {
                    xattrs.insert(DEFAULT.to_vec(), default.clone());
                }
                let has_mask = entries.iter().any(|e| e.0 == 0x10);
                for (tag, perm, _) in &mut entries {
                    match tag {
                        0x01 => *perm &= mode >> 6 & 7,
                        0x04 if !has_mask => *perm &= mode >> 3 & 7,
                        0x10 => *perm &= mode >> 3 & 7,
                        0x20 => *perm &= mode & 7,
                        _ => (),
                    }
                }
                mode = mode & !0o777 | acl_mode(&entries);
                if entries.len() > 3 {
                    xattrs.insert(ACCESS.to_vec(), acl_bytes(&entries));
                }
            } else {
                mode &= !by.umask;
            }
        }
        let nlink = if mode & IFMT == IFDIR { 2 } else { 1 };
        let mut node = Node::new(mode, by.uid, gid, nlink, body, seq);
        node.rdev = if matches!(mode & IFMT, IFCHR | IFBLK) { rdev } else { 0 };
        node.xattrs = xattrs;
        self.nodes.insert(seq, node);
    }

    /// Does `step`; if it changes anything, as event `seq`.
    pub(crate) fn apply(&mut self, step: &Step, seq: u64) -> Result<Done, Errno> {
        let done = self.step(step, seq)?;
        if done.changed {
            self.last = seq;
        }
        Ok(done)
    }

    fn step(&mut self, step: &Step, seq: u64) -> Result<Done, Errno> {
        let about = |ino| Done { changed: true, ino: Some(ino), ..Done::default() };
        let quiet = |len| Done { changed: true, len, ..Done::default() };
        match step {
            Step::Make { parent, name, mode, rdev, exclusive, by } => {
                self.alive(*parent)?;
                if let Some(ino) = self.find(*parent, name)? {
                    if *exclusive {
                        return Err(Errno::EXIST);
                    }
                    return match self.nodes[&ino].mode & IFMT {
                        IFREG => Ok(Done { ino: Some(ino), ..Done::default() }),
                        IFDIR => Err(Errno::ISDIR),
                        _ => Err(Errno::STALE),
                    };
                }
                let body = match mode & IFMT {
                    IFREG => Body::File(Content::default()),
                    IFDIR => Body::Dir(BTreeMap::new()),
                    _ => Body::Special,
                };
                self.born(*parent, *mode, *rdev, body, *by, seq);
                self.attach(*parent, name, seq, seq);
                Ok(about(seq))
            }
            Step::Symlink { parent, name, target, by } => {
                if target.is_empty() {
                    return Err(Errno::NOENT);
                }
                if target.len() > 4095 {
                    return Err(Errno::NAMETOOLONG);
                }
                self.alive(*parent)?;
                if self.find(*parent, name)?.is_some() {
                    return Err(Errno::EXIST);
                }
                let body = Body::Symlink(target.clone());
                self.born(*parent, IFLNK | 0o777, 0, body, *by, seq);
                self.attach(*parent, name, seq, seq);
                Ok(about(seq))
            }
            Step::Tmpfile { parent, mode, by } => {
                self.alive(*parent)?;
                let body = Body::File(Content::default());
                self.born(*parent, IFREG | mode, 0, body, *by, seq);
                self.nodes.get_mut(&seq).unwrap().nlink = 0;
                Ok(about(seq))
            }
            Step::Link { ino, parent, name } => {
                self.node(*ino)?;
                self.alive(*parent)?;
                if self.find(*parent, name)?.is_some() {
                    return Err(Errno::EXIST);
                }
                if self.is_dir(*ino) {
                    return Err(Errno::PERM);
                }
                self.nodes.get_mut(ino).unwrap().nlink += 1;
                self.touch(*ino, seq, false);
                self.attach(*parent, name, *ino, seq);
                Ok(about(*ino))
            }
            Step::Unlink { parent, name } => {
                let ino = self.find(*parent, name)?.ok_or(Errno::NOENT)?;
                if self.is_dir(ino) {
                    return Err(Errno::ISDIR);
                }
                self.detach(*parent, name, seq);
                self.lose(ino, seq);
                Ok(about(ino))
            }
            Step::Rmdir { parent, name } => {
                let ino = self.find(*parent, name)?.ok_or(Errno::NOENT)?;
                if !self.is_dir(ino) {
                    return Err(Errno::NOTDIR);
                }
                if !self.dir(ino).is_empty() {
                    return Err(Errno::NOTEMPTY);
                }
                self.detach(*parent, name, seq);
                self.lose(ino, seq);
                Ok(about(ino))
            }
            Step::Rename { parent, name, new_parent, new_name, flags } => {
                self.rename(*parent, name, *new_parent, new_name, *flags, seq)
            }
            Step::SetAttr { ino, set } => self.set_attr(*ino, set, seq),
            Step::Write { ino, offset, bytes, append, kill } => {
                let size = self.regular(*ino)?.size;
                if bytes.is_empty() {
                    return Ok(Done::default());
                }
                let offset = if *append { size } else { *offset };
                if offset.checked_add(bytes.len() as u64).is_none_or(|end| end > SIZE_MAX) {
                    return Err(Errno::FBIG);
                }
                self.content(*ino).write(offset, bytes);
                self.written(*ino, *kill, seq);
                self.nodes.get_mut(ino).unwrap().xattrs.remove(&b"security.capability"[..]);
                Ok(quiet(bytes.len() as u64))
            }
            Step::Allocate { ino, flags, offset, len, kill } => {
                if !matches!(flags, 0 | 1 | 3 | 16 | 17) {
                    return Err(Errno::OPNOTSUPP);
                }
                if *len == 0 {
                    return Err(Errno::INVAL);
                }
                self.regular(*ino)?;
                let end = offset.checked_add(*len).filter(|&end| end <= SIZE_MAX);
                let end = end.ok_or(Errno::FBIG)?;
                let content = self.content(*ino);
                if flags & 0x12 != 0 {
                    content.zero(*offset, end);
                }
                if flags & 1 == 0 {
                    content.size = content.size.max(end);
                }
                self.written(*ino, *kill, seq);
                Ok(quiet(*len))
            }
            Step::Copy { src, src_offset, dst, dst_offset, len, kill } => {
                let size = self.regular(*src)?.size;
                self.regular(*dst)?;
                let len = size.saturating_sub(*src_offset).min(*len);
                if len == 0 {
                    return Ok(Done::default());
                }
                let short = len.min(COPY_MAX);
                if dst_offset.checked_add(short).is_none_or(|end| end > SIZE_MAX) {
                    return Err(Errno::FBIG);
                }
                if src == dst && src_offset.abs_diff(*dst_offset) < len {
                    return Err(Errno::INVAL);
                }
                let bytes = self.regular(*src)?.read(*src_offset, short);
                self.content(*dst).write(*dst_offset, &bytes);
                self.written(*dst, *kill, seq);
                Ok(quiet(short))
            }
            Step::SetXattr { ino, name, value, flags, kill_sgid } => {
                self.set_xattr(*ino, name, value, *flags, *kill_sgid, seq)
            }
            Step::RemoveXattr { ino, name } => {
                self.may_set_xattr(*ino, name)?;
                if self.nodes.get_mut(ino).unwrap().xattrs.remove(name).is_none() {
                    let acl = name == ACCESS || name == DEFAULT;
                    return if acl { Ok(Done::default()) } else { Err(Errno::NODATA) };
                }
                self.touch(*ino, seq, false);
                Ok(quiet(0))
            }
            Step::End { ino } => {
                if self.nodes.get(ino).is_none_or(|node| node.nlink > 0) {
                    return Ok(Done::default());
                }
                self.nodes.remove(ino);
                Ok(quiet(0))
            }
        }
    }

    fn rename(
        &mut self,
        parent: u64,
        name: &[u8],
        new_parent: u64,
        new_name: &[u8],
        flags: u32,
        seq: u64,
    ) -> Result<Done, Errno> {
        let exchange = flags == 2;
        for dir in [parent, new_parent] {
            if self.node(dir)?.mode & IFMT != IFDIR {
                return Err(Errno::NOTDIR);
            }
        }
        let old = self.find(parent, name)?.ok_or(Errno::NOENT)?;
        let new = self.find(new_parent, new_name)?;
        if flags == 1 && new.is_some() {
            return Err(Errno::EXIST);
        }
        if exchange && new.is_none() {
            return Err(Errno::NOENT);
        }
        if self.is_dir(old) && self.within(new_parent, old) {
            return Err(Errno::INVAL);
        }
        if let Some(new) = new
            && self.is_dir(new)
            && self.within(parent, new)
        {
            return Err(if exchange { Errno::INVAL } else { Errno::NOTEMPTY });
        }
        if new == Some(old) {
            return Ok(Done { ino: new, ..Done::default() });
        }
        if let Some(new) = new
            && !exchange
        {
            if self.is_dir(old) && !self.is_dir(new) {
                return Err(Errno::NOTDIR);
            }
            if self.is_dir(new) && !self.is_dir(old) {
                return Err(Errno::ISDIR);
            }
            if self.is_dir(new) && !self.dir(new).is_empty() {
                return Err(Errno::NOTEMPTY);
            }
        }
        self.alive(new_parent)?;
        self.detach(parent, name, seq);
        if let Some(new) = new {
            self.detach(new_parent, new_name, seq);
            if exchange {
                self.attach(parent, name, new, seq);
                self.touch(new, seq, false);
            } else {
                self.lose(new, seq);
            }
        }
        self.attach(new_parent, new_name, old, seq);
        self.touch(old, seq, false);
        Ok(Done { changed: true, ino: Some(old), other: new, len: 0 })
    }

    /// Content changed: times move, and set-id bits go if `kill`.
    fn written(&mut self, ino: u64, kill: bool, seq: u64) {
        self.touch(ino, seq, true);
        if kill {
            let node = self.nodes.get_mut(&ino).unwrap();
            node.mode = killed(node.mode);
        }
    }

    fn set_attr(&mut self, ino: u64, set: &Set, seq: u64) -> Result<Done, Errno> {
        let node = self.node(ino)?;
        let kind = node.mode & IFMT;
        if let Some(size) = set.size {
            self.regular(ino)?;
            if size > SIZE_MAX {
                return Err(Errno::FBIG);
            }
        }
        if set.mode.is_some() && kind == IFLNK {
            return Err(Errno::OPNOTSUPP);
        }
        let chown = set.uid.is_some() || set.gid.is_some();
        let before = node.mode;
        let mut mode = set.mode.map_or(before, |mode| kind | mode & 0o7777);
        if (chown || set.kill) && kind != IFDIR {
            mode = killed(mode);
        }
        let given = set.mode.is_some() || set.size.is_some() || chown;
        let times = set.atime.is_some() || set.mtime.is_some();
        if !given && !times && mode == before {
            return Ok(Done { ino: Some(ino), ..Done::default() });
        }
        self.touch(ino, seq, set.size.is_some());
        if let Some(size) = set.size {
            self.content(ino).truncate(size);
        }
        let node = self.nodes.get_mut(&ino).unwrap();
        node.mode = mode;
        node.uid = set.uid.unwrap_or(node.uid);
        node.gid = set.gid.unwrap_or(node.gid);
        let stamp = |to: Option<i64>| to.map_or(Stamp::Event(seq), Stamp::Set);
        node.atime = set.atime.map_or(node.atime, stamp);
        node.mtime = set.mtime.map_or(node.mtime, stamp);
        if (chown || set.size.is_some()) && kind != IFDIR {
            node.xattrs.remove(&b"security.capability"[..]);
        }
        if set.mode.is_some()
            && let Some(acl) = node.xattrs.get_mut(ACCESS)
        {
            let mut entries = acl_entries(acl).unwrap();
            for (tag, perm, _) in &mut entries {
                match tag {
                    0x01 => *perm = mode >> 6 & 7,
                    // An ACL that is stored has a mask.
                    0x10 => *perm = mode >> 3 & 7,
                    0x20 => *perm = mode & 7,
                    _ => (),
                }
            }
            *acl = acl_bytes(&entries);
        }
        Ok(Done { changed: true, ino: Some(ino), ..Done::default() })
    }

    fn may_set_xattr(&self, ino: u64, name: &[u8]) -> Result<(), Errno> {
        let kind = self.node(ino)?.mode & IFMT;
        if name.is_empty() || name.len() > 255 {
            return Err(Errno::RANGE);
        }
        if name == ACCESS || name == DEFAULT {
            return if kind == IFLNK { Err(Errno::OPNOTSUPP) } else { Ok(()) };
        }
        let text = String::from_utf8_lossy(name);
        let Some((space, local)) = text.split_once('.') else { return Err(Errno::OPNOTSUPP) };
        if !matches!(space, "user" | "trusted" | "security") {
            return Err(Errno::OPNOTSUPP);
        }
        if local.is_empty() {
            return Err(Errno::INVAL);
        }
        if space == "user" && (kind != IFREG && kind != IFDIR || local.starts_with("lighthouse.")) {
            return Err(Errno::PERM);
        }
        Ok(())
    }

    fn set_xattr(
        &mut self,
        ino: u64,
        name: &[u8],
        value: &[u8],
        flags: u32,
        kill_sgid: bool,
        seq: u64,
    ) -> Result<Done, Errno> {
        self.may_set_xattr(ino, name)?;
        if value.len() > 65_536 {
            return Err(Errno::TOOBIG);
        }
        let node = self.nodes.get_mut(&ino).unwrap();
        let is_set = node.xattrs.contains_key(name);
        if flags == 1 && is_set {
            return Err(Errno::EXIST);
        }
        if flags == 2 && !is_set {
            return Err(Errno::NODATA);
        }
        let done = Done { changed: true, ..Done::default() };
        if name == ACCESS || name == DEFAULT {
            if name == DEFAULT && node.mode & IFMT != IFDIR && value.len() > 4 {
                return Err(Errno::ACCESS);
            }
            let entries = if value.is_empty() { vec![] } else { acl_entries(value)? };
            if entries.is_empty() {
                if node.xattrs.remove(name).is_none() {
                    return Ok(Done::default());
                }
                self.touch(ino, seq, false);
                return Ok(done);
            }
            if name == ACCESS {
                node.mode = node.mode & !0o777 | acl_mode(&entries);
                if kill_sgid {
                    node.mode &= !0o2000;
                }
            }
            if name == ACCESS && entries.len() == 3 {
                node.xattrs.remove(name);
            } else {
                node.xattrs.insert(name.to_vec(), acl_bytes(&entries));
            }
            self.touch(ino, seq, false);
            return Ok(done);
        }
        let listed: usize = node.xattrs.keys().map(|name| name.len() + 1).sum();
        if !is_set && listed + name.len() + 1 > 65_536 {
            return Err(Errno::NOSPC);
        }
        node.xattrs.insert(name.to_vec(), value.to_vec());
        self.touch(ino, seq, false);
        Ok(done)
    }
}

impl Node {
    fn new(mode: u32, uid: u32, gid: u32, nlink: u32, body: Body, seq: u64) -> Self {
        let now = Stamp::Event(seq);
        Self {
            mode,
            nlink,
            uid,
            gid,
            rdev: 0,
            atime: now,
            mtime: now,
            ctime: now,
            btime: now,
            changed: seq,
            xattrs: BTreeMap::new(),
            body,
        }
    }

    pub(crate) fn size(&self) -> u64 {
        match &self.body {
            Body::File(content) => content.size,
            Body::Symlink(target) => target.len() as u64,
            Body::Dir(_) | Body::Special => 0,
        }
    }
}

/// Set-user-id goes; set-group-id goes where the group may execute.
fn killed(mode: u32) -> u32 {
    if mode & 0o010 != 0 { mode & !0o6000 } else { mode & !0o4000 }
}

/// (tag, permissions, id) of each entry of an ACL in its xattr form, checked as `posix_acl_valid` does.
pub(crate) fn acl_entries(bytes: &[u8]) -> Result<Entries, Errno> {
    if bytes.len() < 4 {
        return Err(Errno::INVAL);
    }
    if bytes[..4] != [2, 0, 0, 0] {
        return Err(Errno::OPNOTSUPP);
    }
    if !bytes[4..].len().is_multiple_of(8) {
        return Err(Errno::INVAL);
    }
    let mut entries = Entries::new();
    for e in bytes[4..].chunks(8) {
        let tag = u16::from_le_bytes([e[0], e[1]]);
        let perm = u32::from(u16::from_le_bytes([e[2], e[3]]));
        let id = u32::from_le_bytes([e[4], e[5], e[6], e[7]]);
        let named = tag == 0x02 || tag == 0x08;
        if perm > 7 || named && id == u32::MAX {
            return Err(Errno::INVAL);
        }
        entries.push((tag, perm, if named { id } else { u32::MAX }));
    }
    if entries.is_empty() {
        return Ok(entries);
    }
    // The order of tags, as a pattern: u U* g G* m? o.
    let shape: String = entries
        .iter()
        .map(|(tag, ..)| match tag {
            0x01 => 'u',
            0x02 => 'U',
            0x04 => 'g',
            0x08 => 'G',
            0x10 => 'm',
            0x20 => 'o',
            _ => '?',
        })
        .collect();
    let rest = shape.strip_prefix('u').map(|rest| rest.trim_start_matches('U'));
    let rest = rest.and_then(|rest| rest.strip_prefix('g'));
    let rest = rest.map(|rest| rest.trim_start_matches('G'));
    let rest = rest.map(|rest| rest.strip_prefix('m').unwrap_or(rest));
    let named = shape.contains(['U', 'G']);
    if rest != Some("o") || named && !shape.contains('m') {
        return Err(Errno::INVAL);
    }
    Ok(entries)
}

pub(crate) fn acl_bytes(entries: &[(u16, u32, u32)]) -> Vec<u8> {
    let mut bytes = vec![2, 0, 0, 0];
    for &(tag, perm, id) in entries {
        bytes.extend(tag.to_le_bytes());
        bytes.extend((perm as u16).to_le_bytes());
        bytes.extend(id.to_le_bytes());
    }
    bytes
}

fn acl_mode(entries: &[(u16, u32, u32)]) -> u32 {
    let of = |tag| entries.iter().find(|e| e.0 == tag).map(|e| e.1);
    of(0x01).unwrap() << 6 | of(0x10).or(of(0x04)).unwrap() << 3 | of(0x20).unwrap()
}
