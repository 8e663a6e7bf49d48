//! From paths to inodes: components, symlinks, `..`, and the cache of names.
//!
//! Paths are inside the mount: `/` is its root, and `..` there stays. A name longer than 255 bytes is
//! refused here; the real kernel sends up to 1024 bytes to the server, which then refuses.

use crate::proto::abi::*;
use crate::proto::op::{Lookup, Op, ReadLink};
use crate::proto::types::{Errno, Name};

use super::call::{Call, Lock, MAY_EXEC};
use super::inode::{Ino, end_of_life, is_valid};

/// PATH_MAX of limits.h, with its NUL.
const PATH_MAX: usize = 4096;
/// MAXSYMLINKS of namei.h.
const LINKS_MAX: usize = 40;

/// What a path ends in.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Last {
    Name(Vec<u8>),
    Dot,
    DotDot,
    Root,
}

/// The directory a path leads to, and what is left.
#[derive(Clone, Debug)]
pub(super) struct Parent {
    pub(super) dir: Ino,
    pub(super) last: Last,
    /// Slashes follow the name.
    pub(super) slashes: bool,
}

impl Call<'_> {
    /// The inode `path` leads to. `follow` says whether a symlink at its end is followed.
    pub(super) fn resolve(&mut self, start: Ino, path: &[u8], follow: bool) -> Result<Ino, Errno> {
        self.resolve_counted(start, path, follow, &mut 0)
    }

    fn resolve_counted(
        &mut self,
        start: Ino,
        path: &[u8],
        follow: bool,
        links: &mut usize,
    ) -> Result<Ino, Errno> {
        let Parent { dir, last, slashes } = self.parent_counted(start, path, links)?;
        let name = match last {
            Last::Dot => return Ok(dir),
            Last::DotDot => {
                let up = self.st.parent_of(dir);
                return Ok(self.pin(up));
            }
            Last::Root => return Ok(Ino::ROOT),
            Last::Name(name) => name,
        };
        let mut ino = self.lookup(dir, &name, false)?.ok_or(Errno::ENOENT)?;
        if self.st.inode(ino).is_link() && (follow || slashes) {
            ino = self.follow(dir, ino, links)?;
        }
        if slashes && !self.st.inode(ino).is_dir() {
            return Err(Errno::ENOTDIR);
        }
        Ok(ino)
    }

    fn follow(&mut self, dir: Ino, link: Ino, links: &mut usize) -> Result<Ino, Errno> {
        *links += 1;
        if *links > LINKS_MAX {
            return Err(Errno::ELOOP);
        }
        let target = self.read_link(link)?;
        self.resolve_counted(dir, &target, true, links)
    }

    /// The directory that holds what `path` names, which need not be there.
    pub(super) fn parent(&mut self, start: Ino, path: &[u8]) -> Result<Parent, Errno> {
        self.parent_counted(start, path, &mut 0)
    }

    /// As [`Call::parent`], through symlinks at the end: what open(2) with O_CREAT makes.
    pub(super) fn parent_through(
        &mut self,
        start: Ino,
        path: &[u8],
        links: &mut usize,
    ) -> Result<Parent, Errno> {
        self.parent_counted(start, path, links)
    }

    fn parent_counted(
        &mut self,
        start: Ino,
        path: &[u8],
        links: &mut usize,
    ) -> Result<Parent, Errno> {
        if path.is_empty() {
            return Err(Errno::ENOENT);
        }
        if path.len() >= PATH_MAX {
            return Err(Errno::ENAMETOOLONG);
        }
        self.may_use_mount()?;
        let slashes = path.last() == Some(&b'/');
        let mut at = if path.first() == Some(&b'/') { Ino::ROOT } else { start };
        self.pin(at);
        let mut names = path.split(|&byte| byte == b'/').filter(|name| !name.is_empty()).peekable();
        while let Some(name) = names.next() {
            if !self.st.inode(at).is_dir() {
                return Err(Errno::ENOTDIR);
            }
            self.permit(at, MAY_EXEC)?;
            if names.peek().is_none() {
                let last = match name {
                    b"." => Last::Dot,
                    b".." => Last::DotDot,
                    name => Last::Name(name.to_vec()),
                };
                return Ok(Parent { dir: at, last, slashes });
            }
            at = match name {
                b"." => at,
                b".." => {
                    let up = self.st.parent_of(at);
                    self.pin(up)
                }
                name => {
                    let found = self.lookup(at, name, false)?.ok_or(Errno::ENOENT)?;
                    if self.st.inode(found).is_link() {
                        self.follow(at, found, links)?
                    } else {
                        found
                    }
                }
            };
        }
        Ok(Parent { dir: at, last: Last::Root, slashes })
    }

    /// What `name` in `dir` is: from the cache while it is valid, from the server otherwise.
    ///
    /// `fresh` asks whatever the cache says, as for a name that is about to be made or replaced.
    pub(super) fn lookup(
        &mut self,
        dir: Ino,
        name: &[u8],
        fresh: bool,
    ) -> Result<Option<Ino>, Errno> {
        self.check_good(dir)?;
        let checked = Name::new(name).map_err(|_| Errno::ENAMETOOLONG)?;
        if let Some(found) = self.cached(dir, name, fresh) {
            return Ok(found);
        }
        let lock = if self.st.connection.has(FUSE_PARALLEL_DIROPS) {
            Lock::Name(dir, name.to_vec())
        } else {
            Lock::Name(dir, Vec::new())
        };
        self.lock(std::slice::from_ref(&lock));
        let result = self.lookup_locked(dir, checked, fresh);
        self.unlock_one(&lock);
        result
    }

    fn cached(&mut self, dir: Ino, name: &[u8], fresh: bool) -> Option<Option<Ino>> {
        let dentry = self.st.dentry(dir, name)?;
        let usable = !(fresh || self.afresh)
            && dentry.epoch == self.st.connection.epoch
            && dentry.until_ns >= self.st.now_ns
            && dentry.target.is_none_or(|ino| !self.st.inode(ino).bad);
        if !usable {
            return None;
        }
        if let Some(ino) = dentry.target {
            self.pin(ino);
            if std::mem::take(&mut self.st.inode_mut(ino).from_listing) {
                self.st.inode_mut(dir).advise_plus = true;
            }
        }
        Some(dentry.target)
    }

    fn lookup_locked(
        &mut self,
        dir: Ino,
        name: Name<'_>,
        fresh: bool,
    ) -> Result<Option<Ino>, Errno> {
        // Another caller may have found it while this one waited.
        if let Some(found) = self.cached(dir, name.as_bytes(), fresh) {
            return Ok(found);
        }
        if let Some(dentry) = self.st.dentry(dir, name.as_bytes()) {
            let target = dentry
                .target
                .filter(|ino| dentry.epoch == self.st.connection.epoch && !self.st.inode(*ino).bad);
            if let Some(ino) = target {
                self.pin(ino);
                if self.revalidate(dir, name, ino)? {
                    return Ok(Some(ino));
                }
            }
            self.st.drop_dentry(dir, name.as_bytes());
        }
        let version = self.st.attr_version;
        let parent = self.node(dir);
        let lookup = Op::Lookup(Lookup { parent, name });
        let entry = match self.ask_for::<fuse_entry_out>(&lookup) {
            // Not remembered: only an entry with node id 0 has a lifetime.
            Err(Errno::ENOENT) => return Ok(None),
            Err(errno) => return Err(errno),
            Ok(entry) => entry,
        };
        let until = end_of_life(self.st.now_ns, entry.entry_valid, entry.entry_valid_nsec);
        if entry.nodeid == 0 {
            if until > 0 {
                self.st.splice(dir, name.as_bytes(), None, until)?;
            }
            return Ok(None);
        }
        if !is_valid(&entry.attr) {
            return Err(self
                .refused(FUSE_LOOKUP, "attributes without a type, or with a size above i64::MAX"));
        }
        if entry.nodeid == FUSE_ROOT_ID {
            return Err(self.refused(FUSE_LOOKUP, "a name has the root's node id"));
        }
        let ino = self.st.entered(&entry, version);
        self.pin(ino);
        self.st.splice(dir, name.as_bytes(), Some(ino), until)?;
        Ok(Some(ino))
    }

    /// Whether the name still leads to `ino` (`fuse_dentry_revalidate`).
    fn revalidate(&mut self, dir: Ino, name: Name<'_>, ino: Ino) -> Result<bool, Errno> {
        let version = self.st.attr_version;
        let parent = self.node(dir);
        let lookup = Op::Lookup(Lookup { parent, name });
        let entry = match self.ask_for::<fuse_entry_out>(&lookup) {
            Err(errno @ (Errno::ENOMEM | Errno::EINTR | Errno::ECONNABORTED | Errno::ENOTCONN)) => {
                return Err(errno);
            }
            Err(_) => return Ok(false),
            Ok(entry) if entry.nodeid == 0 => return Ok(false),
            Ok(entry) => entry,
        };
        if entry.nodeid != self.st.inode(ino).node || self.st.inode(ino).bad {
            self.st.forget(entry.nodeid, 1);
            return Ok(false);
        }
        self.st.inode_mut(ino).lookups += 1;
        if !is_valid(&entry.attr) || self.st.is_stale(ino, &entry) {
            return Ok(false);
        }
        self.st.inode_mut(ino).acl = None;
        let until = end_of_life(self.st.now_ns, entry.attr_valid, entry.attr_valid_nsec);
        self.st.refresh(ino, &entry.attr, until, version);
        let until = end_of_life(self.st.now_ns, entry.entry_valid, entry.entry_valid_nsec);
        let key = (dir, name.as_bytes().to_vec());
        match self.st.dentries.get_mut(&key) {
            Some(dentry) if dentry.target == Some(ino) => {
                dentry.until_ns = until;
                Ok(true)
            }
            // Invalidated or replaced while the server answered: the name is looked up anew.
            _ => Ok(false),
        }
    }

    /// The target of a symlink.
    pub(super) fn read_link(&mut self, ino: Ino) -> Result<Vec<u8>, Errno> {
        self.check_good(ino)?;
        let cache = self.st.connection.has(FUSE_CACHE_SYMLINKS);
        if cache && let Some(target) = &self.st.inode(ino).target {
            return Ok(target.clone());
        }
        let node = self.node(ino);
        let target = self.ask(&Op::ReadLink(ReadLink { node }))?;
        self.st.inode_mut(ino).doubt(super::inode::STATX_ATIME);
        if target.is_empty() || target.contains(&0) {
            return Err(self.refused(FUSE_READLINK, "a target that is empty or holds a NUL"));
        }
        if cache {
            self.st.inode_mut(ino).target = Some(target.clone());
        }
        Ok(target)
    }
}
