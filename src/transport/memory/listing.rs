//! Listing directories: READDIR, adaptive READDIRPLUS, and the cache of listings.
//!
//! ```text
//!  getdents --CACHE_DIR, complete, nothing changed--> entries of the cache
//!           --otherwise--> READDIR or READDIRPLUS --> entries, dentries (plus), cache (CACHE_DIR)
//! ```
//!
//! A listing is cached only if it was read from its start to its end, and used from its start only while the directory's
//! names and mtime are as they were.

use zerocopy::FromBytes;

use crate::proto::abi::*;
use crate::proto::op::{Op, ReadDir, ReadDirPlus};
use crate::proto::types::{Errno, FileHandle};

use super::PAGE;
use super::call::{Call, Lock};
use super::inode::{Ino, STATX_ATIME, STATX_MTIME, end_of_life, is_valid};

/// One entry of a directory, as getdents64(2) gives it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct DirEntry {
    /// The name.
    pub name: Vec<u8>,
    /// The inode number, which for a directory on which something is mounted may be another.
    pub ino: u64,
    /// DT_*: the type bits of a mode, shifted right by 12.
    pub kind: u32,
    /// Where the next entry begins: what telldir(3) returns after this one.
    pub next: u64,
}

#[derive(Debug, Default)]
pub(super) struct ListingCache {
    /// Each entry with the position it was found at.
    entries: Vec<(u64, DirEntry)>,
    complete: bool,
    end: u64,
    mtime: (u64, u32),
    names_version: u64,
}

impl ListingCache {
    pub(super) fn reset(&mut self) {
        *self = Self::default();
    }
}

/// Where an open directory stands.
#[derive(Debug, Default)]
pub(super) struct ListingPosition {
    /// How many requests this file has caused, for tests of the cache.
    pub(super) requests: u64,
}

/// What an entry takes in the buffer of getdents64(2).
const fn room_of(name: &[u8]) -> usize {
    (19 + name.len() + 1).next_multiple_of(8)
}

impl Call<'_> {
    /// The next entries that fit into `room` bytes; none at the end.
    pub(super) fn list(&mut self, fd: u64, room: usize) -> Result<Vec<DirEntry>, Errno> {
        let file = self.file_of(fd)?;
        let open = self.file(file)?;
        if !open.is_dir {
            return Err(Errno::ENOTDIR);
        }
        let (ino, opened, position) = (open.ino, open.opened, open.position);
        self.pin(ino);
        self.check_good(ino)?;
        if self.st.inode(ino).attr.nlink == 0 {
            // The directory was removed (IS_DEADDIR).
            return Err(Errno::ENOENT);
        }
        self.lock(&[Lock::Names(ino)]);
        let cache = opened & FOPEN_CACHE_DIR != 0;
        let mut entries = None;
        if cache {
            if position == 0 && self.st.connection.has(FUSE_AUTO_INVAL_DATA) {
                self.update_attr(ino, None, STATX_MTIME)?;
            }
            entries = self.list_cached(ino, position, room);
        }
        let entries = match entries {
            Some(entries) => entries,
            None => self.list_uncached(file, ino, position, room, cache)?,
        };
        if let (Some(last), Some(open)) = (entries.last(), self.st.files.get_mut(&file)) {
            open.position = last.next;
        }
        Ok(entries)
    }

    /// `None` if the server must be asked.
    fn list_cached(&mut self, ino: Ino, position: u64, room: usize) -> Option<Vec<DirEntry>> {
        let inode = self.st.inode_mut(ino);
        let now = ((inode.attr.mtime, inode.attr.mtimensec), inode.names_version);
        if position == 0 {
            let then = (inode.listing.mtime, inode.listing.names_version);
            if inode.listing.complete && now != then {
                inode.listing.reset();
            }
            if !inode.listing.complete && inode.listing.entries.is_empty() {
                (inode.listing.mtime, inode.listing.names_version) = now;
            }
        }
        if !inode.listing.complete {
            return None;
        }
        if position == inode.listing.end {
            return Some(Vec::new());
        }
        let start = inode.listing.entries.iter().position(|(at, _)| *at == position)?;
        let mut used = 0;
        let entries: Vec<_> = inode
            .listing
            .entries
            .iter()
            .skip(start)
            .map(|(_, entry)| entry)
            .take_while(|entry| {
                used += room_of(&entry.name);
                used <= room
            })
            .cloned()
            .collect();
        Some(entries)
    }

    fn list_uncached(
        &mut self,
        file: u64,
        ino: Ino,
        position: u64,
        room: usize,
        cache: bool,
    ) -> Result<Vec<DirEntry>, Errno> {
        let plus = self.asks_plus(ino, position);
        let node = self.node(ino);
        let handle = FileHandle(self.file(file)?.handle);
        let most = self.st.connection.max_pages * PAGE;
        let size = u32::try_from(room.clamp(PAGE, most)).map_err(|_| Errno::EINVAL)?;
        let version = self.st.attr_version;
        let op = if plus {
            Op::ReadDirPlus(ReadDirPlus { node, handle, offset: position, size })
        } else {
            Op::ReadDir(ReadDir { node, handle, offset: position, size })
        };
        if let Some(open) = self.st.files.get_mut(&file) {
            open.listing.requests += 1;
        }
        let body = self.ask(&op)?;
        self.st.inode_mut(ino).doubt(STATX_ATIME);
        if body.is_empty() {
            let listing = &mut self.st.inode_mut(ino).listing;
            if cache && listing.end == position {
                listing.complete = true;
            }
            return Ok(Vec::new());
        }
        let found = self.parse(&body, plus)?;
        let (mut entries, mut used, mut full) = (Vec::new(), 0, false);
        let mut at = position;
        for (entry, looked_up) in found {
            used += room_of(&entry.name);
            full |= used > room;
            if !full {
                let listing = &mut self.st.inode_mut(ino).listing;
                if cache && !listing.complete && listing.end == at {
                    listing.entries.push((at, entry.clone()));
                    listing.end = entry.next;
                }
                at = entry.next;
            }
            if let Some(looked_up) = looked_up
                && self.link(ino, &entry.name, &looked_up, version).is_err()
            {
                self.st.forget(looked_up.nodeid, 1);
            }
            if !full {
                entries.push(entry);
            }
        }
        Ok(entries)
    }

    /// Whether READDIRPLUS is worth it (`fuse_use_readdirplus`).
    fn asks_plus(&mut self, ino: Ino, position: u64) -> bool {
        if !self.st.connection.has(FUSE_DO_READDIRPLUS) {
            return false;
        }
        if !self.st.connection.has(FUSE_READDIRPLUS_AUTO) {
            return true;
        }
        std::mem::take(&mut self.st.inode_mut(ino).advise_plus) || position == 0
    }

    /// The entries of an answer.
    fn parse(
        &mut self,
        body: &[u8],
        plus: bool,
    ) -> Result<Vec<(DirEntry, Option<fuse_entry_out>)>, Errno> {
        let opcode = if plus { FUSE_READDIRPLUS } else { FUSE_READDIR };
        let mut entries: Vec<(DirEntry, Option<fuse_entry_out>)> = Vec::new();
        let mut rest = body;
        while !rest.is_empty() {
            let (looked_up, dirent, prefix) = if plus {
                let Ok((both, _)) = fuse_direntplus::read_from_prefix(rest) else {
                    return Err(self.refused(opcode, "an entry is cut off"));
                };
                (Some(both.entry_out), both.dirent, size_of::<fuse_direntplus>())
            } else {
                let Ok((dirent, _)) = fuse_dirent::read_from_prefix(rest) else {
                    return Err(self.refused(opcode, "an entry is cut off"));
                };
                (None, dirent, size_of::<fuse_dirent>())
            };
            let len = usize::try_from(dirent.namelen).unwrap_or(usize::MAX);
            if len == 0 || len > 1024 {
                return Err(self.refused(opcode, &format!("a name of {len} bytes")));
            }
            let Some(name) = rest.get(prefix..prefix + len) else {
                return Err(self.refused(opcode, "a name is cut off"));
            };
            let Some(after) = rest.get(fuse_rec_align(prefix + len)..) else {
                return Err(self.refused(opcode, "the padding of an entry is cut off"));
            };
            if name.contains(&b'/') || name.contains(&0) {
                let text = format!("the name '{}'", name.escape_ascii());
                return Err(self.refused(opcode, &text));
            }
            if i64::try_from(dirent.off).is_err() {
                self.st.violation(format!(
                    "the offset {:#x} of '{}' is negative to readers",
                    dirent.off,
                    name.escape_ascii()
                ));
            }
            if let Some(earlier) =
                entries.iter().find(|(entry, _)| entry.name == name || entry.next == dirent.off)
            {
                let text = format!(
                    "'{}' and '{}' of one answer share name or offset",
                    earlier.0.name.escape_ascii(),
                    name.escape_ascii()
                );
                self.st.violation(text);
            }
            entries.push((
                DirEntry {
                    name: name.to_vec(),
                    ino: dirent.ino,
                    kind: dirent.r#type,
                    next: dirent.off,
                },
                looked_up,
            ));
            rest = after;
        }
        Ok(entries)
    }

    /// Takes an entry of READDIRPLUS for a lookup (`fuse_direntplus_link`).
    fn link(
        &mut self,
        dir: Ino,
        name: &[u8],
        entry: &fuse_entry_out,
        version: u64,
    ) -> Result<(), Errno> {
        if entry.nodeid == 0 || name == b"." || name == b".." {
            return Ok(());
        }
        if entry.nodeid == FUSE_ROOT_ID || !is_valid(&entry.attr) {
            return Err(
                self.refused(FUSE_READDIRPLUS, "the root's node id, or attributes without a type")
            );
        }
        let until = end_of_life(self.st.now_ns, entry.entry_valid, entry.entry_valid_nsec);
        let known = self.st.dentry(dir, name).and_then(|dentry| dentry.target);
        let ino = match known {
            Some(ino)
                if self.st.inode(ino).node == entry.nodeid
                    && !self.st.inode(ino).bad
                    && !self.st.is_stale(ino, entry) =>
            {
                let attr_until =
                    end_of_life(self.st.now_ns, entry.attr_valid, entry.attr_valid_nsec);
                let inode = self.st.inode_mut(ino);
                inode.lookups += 1;
                inode.acl = None;
                self.st.refresh(ino, &entry.attr, attr_until, version);
                self.pin(ino)
            }
            _ => {
                self.st.drop_dentry(dir, name);
                let ino = self.st.entered(entry, version);
                self.pin(ino)
            }
        };
        if self.st.connection.has(FUSE_READDIRPLUS_AUTO) {
            self.st.inode_mut(ino).from_listing = true;
        }
        // An error leaves the lookup with the inode, whose end forgets it.
        let _ = self.st.splice(dir, name, Some(ino), until);
        Ok(())
    }
}
