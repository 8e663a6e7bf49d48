//! Names: made, moved, exchanged and taken away, in their directory and beside their inode.
//!
//! Invariant: an inode notes down a name by the event by which the name comes to stand for it, so one of the two rows tells the other.

use super::super::super::event::{Ino, Seq, Xattrs};
use super::super::codec::Writer;
use super::super::key;
use super::super::small::Small;
use super::super::{Entry, IndexError, Rare, names};
use super::{Fold, S_IFDIR, S_IFMT};

impl Fold<'_> {
    #[expect(clippy::too_many_arguments, reason = "they are the fields of the change")]
    pub(super) fn create(
        &mut self,
        parent: Ino,
        name: &[u8],
        mode: u32,
        owner: (u32, u32),
        rdev: u64,
        target: &[u8],
        xattrs: &Xattrs<'_>,
    ) -> Result<(), IndexError> {
        // Roles: the new inode, its directory.
        let ino = Ino(self.seq.0);
        let dir = mode & S_IFMT == S_IFDIR;
        self.make(ino, mode, owner, rdev, if dir { 2 } else { 1 });
        if !target.is_empty() {
            self.touch(ino)?.inode.size = target.len() as u64;
            self.put_new(&key::target(ino), target);
        }
        self.name_added(parent, dir)?;
        self.set_name(parent, name, ino, mode & S_IFMT, false)?;
        // Not counted as a change, so that one who keeps its name has nothing to count.
        self.put_new(&key::name_of(ino, parent, name), &Writer::born(self.seq).0);
        // Before what it is made with. Should this event come to nothing, there will be no such inode.
        self.tables.remember_lacking(ino, Rare::Capability);
        self.set_xattrs(ino, xattrs)
    }

    pub(super) fn name_added(&mut self, parent: Ino, dir: bool) -> Result<(), IndexError> {
        let time = self.time;
        let parent = &mut self.touch(parent)?.inode;
        parent.entries += 1;
        parent.nlink = parent.nlink.saturating_add(u32::from(dir));
        (parent.mtime, parent.ctime) = (time, time);
        Ok(())
    }

    pub(super) fn name_removed(&mut self, parent: Ino, dir: bool) -> Result<(), IndexError> {
        let time = self.time;
        let parent = &mut self.touch(parent)?.inode;
        parent.entries = parent.entries.saturating_sub(1);
        parent.nlink = parent.nlink.saturating_sub(u32::from(dir));
        (parent.mtime, parent.ctime) = (time, time);
        Ok(())
    }

    /// Takes one name from the inode's count; true for a directory.
    pub(super) fn lose_name(&mut self, ino: Ino) -> Result<bool, IndexError> {
        let time = self.time;
        let inode = &mut self.touch(ino)?.inode;
        let dir = inode.mode & S_IFMT == S_IFDIR;
        inode.nlink = if dir { 0 } else { inode.nlink.saturating_sub(1) };
        inode.ctime = time;
        if inode.nlink == 0 {
            self.put_new(&key::orphan(ino), &[]);
        }
        Ok(dir)
    }

    /// Lets a name stand for `ino`. `replaces`: it stands for something until this event.
    pub(super) fn set_name(
        &mut self,
        parent: Ino,
        name: &[u8],
        ino: Ino,
        kind: u32,
        replaces: bool,
    ) -> Result<(), IndexError> {
        key::check_name(name, self.seq)?;
        let entry = Entry { ino, kind, since: self.seq };
        let hash = self.tables.name_hash.of(name);
        let key = key::name(parent, hash, name);
        debug_assert!(
            replaces || self.tables.row(&key)?.is_none(),
            "event {} takes a name that is not free",
            self.seq
        );
        if replaces {
            let live = self.named(parent, name)?;
            self.bury_known(&key, &names::encode_entry(live))?;
        }
        let value = Small::from(&names::encode_entry(entry)[..]);
        self.batch.rows.push((Small::from(&*key), Some(value), replaces));
        self.batch.names.push((parent, hash, Small::from(name), Some(entry)));
        self.member_changed(&key, None)
    }

    /// Removes a name of `ino`.
    pub(super) fn drop_name(
        &mut self,
        parent: Ino,
        name: &[u8],
        ino: Ino,
    ) -> Result<(), IndexError> {
        key::check_name(name, self.seq)?;
        let live = self.named(parent, name)?;
        let hash = self.tables.name_hash.of(name);
        self.end_known(&key::name(parent, hash, name), &names::encode_entry(live))?;
        self.drop_name_of(ino, (parent, name), live)?;
        self.batch.names.push((parent, hash, Small::from(name), None));
        Ok(())
    }

    /// Removes from the names of `ino` one that stands for it as `live` says. It got the name by the event by which the name came
    /// to stand for it, so its row is known.
    fn drop_name_of(
        &mut self,
        ino: Ino,
        (parent, name): (Ino, &[u8]),
        live: Entry,
    ) -> Result<(), IndexError> {
        if live.ino != ino {
            return Err(self.damaged("removes a name of another inode"));
        }
        self.end_known(&key::name_of(ino, parent, name), &Writer::born(live.since).0)
    }

    /// What a name stands for until this event. No row is looked up where the name is hot, as it is in service: whoever decided
    /// upon the event has just asked.
    fn named(&self, parent: Ino, name: &[u8]) -> Result<Entry, IndexError> {
        let live = self.tables.entry_at(parent, name, Seq::NOW)?;
        live.ok_or_else(|| self.damaged("changes a name that is not there"))
    }

    pub(super) fn rename(
        &mut self,
        (parent, name): (Ino, &[u8]),
        (new_parent, new_name): (Ino, &[u8]),
        ino: Ino,
        replaced: Option<Ino>,
    ) -> Result<(), IndexError> {
        // Roles: what moved, the old directory, the new one, what was replaced.
        let time = self.time;
        let moved = &mut self.touch(ino)?.inode;
        moved.ctime = time;
        let kind = moved.mode & S_IFMT;
        self.name_removed(parent, kind == S_IFDIR)?;
        self.name_added(new_parent, kind == S_IFDIR)?;
        self.drop_name(parent, name, ino)?;
        if let Some(replaced) = replaced {
            let dir = self.lose_name(replaced)?;
            self.name_removed(new_parent, dir)?;
            let live = self.named(new_parent, new_name)?;
            self.drop_name_of(replaced, (new_parent, new_name), live)?;
        }
        self.set_name(new_parent, new_name, ino, kind, replaced.is_some())?;
        self.begin_live(&key::name_of(ino, new_parent, new_name), &[])
    }

    pub(super) fn exchange(
        &mut self,
        (parent, name): (Ino, &[u8]),
        (new_parent, new_name): (Ino, &[u8]),
        ino: Ino,
        other: Ino,
    ) -> Result<(), IndexError> {
        // Roles: what the first name named, what the second did, the first directory, the second.
        let time = self.time;
        let mut kind_of = |ino| {
            let inode = &mut self.touch(ino)?.inode;
            inode.ctime = time;
            Ok::<_, IndexError>(inode.mode & S_IFMT)
        };
        let (kind, other_kind) = (kind_of(ino)?, kind_of(other)?);
        self.name_removed(parent, kind == S_IFDIR)?;
        self.name_removed(new_parent, other_kind == S_IFDIR)?;
        self.name_added(parent, other_kind == S_IFDIR)?;
        self.name_added(new_parent, kind == S_IFDIR)?;
        self.drop_name(parent, name, ino)?;
        self.drop_name(new_parent, new_name, other)?;
        self.set_name(parent, name, other, other_kind, true)?;
        self.set_name(new_parent, new_name, ino, kind, true)?;
        self.set_live(&key::name_of(other, parent, name), &[])?;
        self.set_live(&key::name_of(ino, new_parent, new_name), &[])
    }
}
