//! A filesystem in memory, the same for every library that serves it.
//!
//! A table of nodes by number; names of a directory have numbers that only grow, so that a listing goes on where
//! it stopped whatever is removed meanwhile. A node without names stays until the kernel forgets it: it does
//! so once, when nobody has the file open any more, and therefore lookups are not counted.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustc_hash::FxHashMap;

pub(super) const ROOT: u64 = 1;
/// What is wrong, as the libraries take it.
pub(super) type Refusal = i32;
type Answer<T> = Result<T, Refusal>;

/// What stat(2) tells of a node. Times are since 1970.
#[derive(Clone, Copy, Default)]
pub(super) struct Stat {
    /// The node's number; 0 says that there is none.
    pub(super) node: u64,
    pub(super) size: u64,
    pub(super) mode: u32,
    pub(super) links: u32,
    pub(super) user: u32,
    pub(super) group: u32,
    pub(super) device: u32,
    pub(super) accessed: Duration,
    pub(super) modified: Duration,
    pub(super) changed: Duration,
}

/// What SETATTR asks for.
#[derive(Default)]
pub(super) struct Change {
    pub(super) mode: Option<u32>,
    pub(super) user: Option<u32>,
    pub(super) group: Option<u32>,
    pub(super) size: Option<u64>,
    pub(super) accessed: Option<Duration>,
    pub(super) modified: Option<Duration>,
}

/// What a new node is.
pub(super) struct New<'a> {
    pub(super) mode: u32,
    pub(super) device: u32,
    pub(super) user: u32,
    pub(super) group: u32,
    /// Of a symbolic link.
    pub(super) target: &'a OsStr,
}

struct Node {
    stat: Stat,
    kind: Kind,
}

enum Kind {
    Directory(Directory),
    File(Vec<u8>),
    Link(OsString),
    Special,
}

struct Directory {
    parent: u64,
    places: FxHashMap<OsString, u64>,
    names: BTreeMap<u64, (OsString, u64)>,
    next: u64,
}

/// All of it.
pub(super) struct Tree {
    nodes: FxHashMap<u64, Node>,
    next: u64,
}

impl Directory {
    fn new(parent: u64) -> Self {
        // 1 and 2 are `.` and `..`.
        Self { parent, places: FxHashMap::default(), names: BTreeMap::new(), next: 3 }
    }

    fn find(&self, name: &OsStr) -> Option<u64> {
        let place = self.places.get(name)?;
        self.names.get(place).map(|(_, node)| *node)
    }

    fn insert(&mut self, name: &OsStr, node: u64) {
        self.places.insert(name.to_owned(), self.next);
        self.names.insert(self.next, (name.to_owned(), node));
        self.next += 1;
    }

    fn remove(&mut self, name: &OsStr) {
        if let Some(place) = self.places.remove(name) {
            self.names.remove(&place);
        }
    }
}

pub(super) fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

impl Default for Tree {
    fn default() -> Self {
        let mut tree = Self { nodes: FxHashMap::default(), next: ROOT };
        let new = New {
            mode: libc::S_IFDIR | 0o755,
            device: 0,
            user: 0,
            group: 0,
            target: OsStr::new(""),
        };
        tree.add(&new, ROOT);
        tree
    }
}

impl Tree {
    fn add(&mut self, new: &New<'_>, parent: u64) -> Stat {
        let (node, now) = (self.next, now());
        self.next += 1;
        let kind = match new.mode & libc::S_IFMT {
            libc::S_IFDIR => Kind::Directory(Directory::new(parent)),
            libc::S_IFREG => Kind::File(Vec::new()),
            libc::S_IFLNK => Kind::Link(new.target.to_owned()),
            _ => Kind::Special,
        };
        let stat = Stat {
            node,
            size: new.target.len() as u64,
            mode: new.mode,
            links: if matches!(kind, Kind::Directory(_)) { 2 } else { 1 },
            user: new.user,
            group: new.group,
            device: new.device,
            accessed: now,
            modified: now,
            changed: now,
        };
        self.nodes.insert(node, Node { stat, kind });
        stat
    }

    fn node(&self, node: u64) -> Answer<&Node> {
        self.nodes.get(&node).ok_or(libc::ESTALE)
    }

    fn node_mut(&mut self, node: u64) -> Answer<&mut Node> {
        self.nodes.get_mut(&node).ok_or(libc::ESTALE)
    }

    fn directory(&self, node: u64) -> Answer<&Directory> {
        match &self.node(node)?.kind {
            Kind::Directory(directory) => Ok(directory),
            _ => Err(libc::ENOTDIR),
        }
    }

    /// For a change of its names; `links` is how many directories more are in it then.
    fn directory_mut(&mut self, node: u64, links: i32) -> Answer<&mut Directory> {
        let Node { stat, kind } = self.node_mut(node)?;
        let Kind::Directory(directory) = kind else { return Err(libc::ENOTDIR) };
        stat.links = stat.links.saturating_add_signed(links);
        stat.modified = now();
        stat.changed = stat.modified;
        Ok(directory)
    }

    pub(super) fn stat(&self, node: u64) -> Answer<Stat> {
        Ok(self.node(node)?.stat)
    }

    /// `None` where nothing has that name.
    pub(super) fn lookup(&self, parent: u64, name: &OsStr) -> Answer<Option<Stat>> {
        self.directory(parent)?.find(name).map(|node| self.stat(node)).transpose()
    }

    pub(super) fn forget(&mut self, node: u64) {
        if self.nodes.get(&node).is_some_and(|node| node.stat.links == 0) {
            self.nodes.remove(&node);
        }
    }

    pub(super) fn change(&mut self, node: u64, change: &Change) -> Answer<Stat> {
        let Node { stat, kind } = self.node_mut(node)?;
        stat.changed = now();
        if let Some(size) = change.size {
            let Kind::File(bytes) = kind else { return Err(libc::EISDIR) };
            bytes.resize(usize::try_from(size).map_err(|_| libc::EFBIG)?, 0);
            stat.size = size;
            stat.modified = stat.changed;
        }
        stat.mode =
            change.mode.map_or(stat.mode, |mode| stat.mode & libc::S_IFMT | mode & !libc::S_IFMT);
        stat.user = change.user.unwrap_or(stat.user);
        stat.group = change.group.unwrap_or(stat.group);
        stat.accessed = change.accessed.unwrap_or(stat.accessed);
        stat.modified = change.modified.unwrap_or(stat.modified);
        Ok(*stat)
    }

    pub(super) fn make(&mut self, parent: u64, name: &OsStr, new: &New<'_>) -> Answer<Stat> {
        if self.directory(parent)?.find(name).is_some() {
            return Err(libc::EEXIST);
        }
        let stat = self.add(new, parent);
        let links = i32::from(new.mode & libc::S_IFMT == libc::S_IFDIR);
        self.directory_mut(parent, links)?.insert(name, stat.node);
        Ok(stat)
    }

    /// Takes a name away: that of a directory, or that of anything else.
    pub(super) fn remove(&mut self, parent: u64, name: &OsStr, a_directory: bool) -> Answer<()> {
        let node = self.directory(parent)?.find(name).ok_or(libc::ENOENT)?;
        match (&self.node(node)?.kind, a_directory) {
            (Kind::Directory(directory), true) if !directory.names.is_empty() => {
                return Err(libc::ENOTEMPTY);
            }
            (Kind::Directory(_), false) => return Err(libc::EISDIR),
            (Kind::Directory(_), true) | (_, false) => (),
            (_, true) => return Err(libc::ENOTDIR),
        }
        self.directory_mut(parent, -i32::from(a_directory))?.remove(name);
        let stat = &mut self.node_mut(node)?.stat;
        stat.links = if a_directory { 0 } else { stat.links - 1 };
        stat.changed = now();
        Ok(())
    }

    /// `flags` are those of renameat2(2).
    pub(super) fn rename(
        &mut self,
        (parent, name): (u64, &OsStr),
        (to, new_name): (u64, &OsStr),
        flags: u32,
    ) -> Answer<()> {
        if flags & !libc::RENAME_NOREPLACE != 0 {
            return Err(libc::EINVAL);
        }
        let node = self.directory(parent)?.find(name).ok_or(libc::ENOENT)?;
        let is_directory = self.directory(node).is_ok();
        if let Some(replaced) = self.directory(to)?.find(new_name) {
            if flags != 0 {
                return Err(libc::EEXIST);
            }
            if replaced == node {
                return Ok(());
            }
            self.remove(to, new_name, is_directory)?;
        }
        let links = i32::from(is_directory);
        self.directory_mut(parent, -links)?.remove(name);
        self.directory_mut(to, links)?.insert(new_name, node);
        let Node { stat, kind } = self.node_mut(node)?;
        stat.changed = now();
        if let Kind::Directory(directory) = kind {
            directory.parent = to;
        }
        Ok(())
    }

    pub(super) fn link(&mut self, node: u64, parent: u64, name: &OsStr) -> Answer<Stat> {
        if self.directory(parent)?.find(name).is_some() {
            return Err(libc::EEXIST);
        }
        self.directory_mut(parent, 0)?.insert(name, node);
        let stat = &mut self.node_mut(node)?.stat;
        stat.links += 1;
        stat.changed = now();
        Ok(*stat)
    }

    pub(super) fn target(&self, node: u64) -> Answer<&OsStr> {
        match &self.node(node)?.kind {
            Kind::Link(target) => Ok(target),
            _ => Err(libc::EINVAL),
        }
    }

    pub(super) fn read(&self, node: u64, offset: u64, size: u32) -> Answer<&[u8]> {
        let Kind::File(bytes) = &self.node(node)?.kind else { return Err(libc::EISDIR) };
        let begin = usize::try_from(offset).map_or(bytes.len(), |offset| offset.min(bytes.len()));
        let end = begin.saturating_add(size as usize).min(bytes.len());
        Ok(&bytes[begin..end])
    }

    pub(super) fn write(&mut self, node: u64, offset: u64, data: &[u8]) -> Answer<u32> {
        let Node { stat, kind } = self.node_mut(node)?;
        let Kind::File(bytes) = kind else { return Err(libc::EISDIR) };
        let begin = usize::try_from(offset).map_err(|_| libc::EFBIG)?;
        let end = begin.checked_add(data.len()).ok_or(libc::EFBIG)?;
        if begin == bytes.len() {
            bytes.extend_from_slice(data);
        } else {
            bytes.resize(bytes.len().max(end), 0);
            bytes[begin..end].copy_from_slice(data);
        }
        stat.size = bytes.len() as u64;
        stat.modified = now();
        stat.changed = stat.modified;
        u32::try_from(data.len()).map_err(|_| libc::EFBIG)
    }

    /// What is in a directory after `offset`: each with the offset to go on from.
    pub(super) fn list(
        &self,
        node: u64,
        offset: u64,
    ) -> Answer<impl Iterator<Item = (u64, &OsStr, Stat)>> {
        let directory = self.directory(node)?;
        let dots = [(1, ".", node), (2, "..", directory.parent)];
        let dots = dots.into_iter().filter(move |(place, ..)| *place > offset);
        let dots = dots.map(|(place, name, node)| (place, OsStr::new(name), node));
        let names = directory.names.range(offset + 1..);
        let names = names.map(|(place, (name, node))| (*place, name.as_os_str(), *node));
        Ok(dots
            .chain(names)
            .filter_map(|(place, name, node)| Some((place, name, self.stat(node).ok()?))))
    }
}
