//! Operations on names: making, removing, renaming and linking, with the kernel's checks.

use crate::proto::abi::*;
use crate::proto::extension::Extensions;
use crate::proto::op::{Link, MkDir, MkNod, Op, Rename, Rename2, RmDir, Symlink, Unlink};
use crate::proto::types::{Errno, Name};

use super::call::{Call, Lock, MAY_EXEC, MAY_WRITE};
use super::inode::{
    Ino, S_IFDIR, S_IFLNK, S_IFMT, S_IFREG, S_ISGID, S_ISVTX, STATX_BASIC, STATX_CTIME,
    end_of_life, is_valid,
};
use super::walk::{Last, Parent};

/// renameat2(2): fail if the new name is taken.
pub(super) const RENAME_NOREPLACE: u32 = 1;
/// renameat2(2): swap two names.
pub(super) const RENAME_EXCHANGE: u32 = 2;
/// renameat2(2): leave a whiteout behind.
const RENAME_WHITEOUT: u32 = 4;

impl Call<'_> {
    /// The directory and name for something that must not be there yet (`filename_create`).
    fn new_name(
        &mut self,
        start: Ino,
        path: &[u8],
        for_dir: bool,
    ) -> Result<(Ino, Vec<u8>), Errno> {
        let Parent { dir, last, slashes } = self.parent(start, path)?;
        let Last::Name(name) = last else { return Err(Errno::EEXIST) };
        self.lock(&[Lock::Names(dir)]);
        if self.lookup(dir, &name, true)?.is_some() {
            return Err(Errno::EEXIST);
        }
        if slashes && !for_dir {
            return Err(Errno::ENOENT);
        }
        self.permit(dir, MAY_WRITE | MAY_EXEC)?;
        Ok((dir, name))
    }

    /// The mode a new inode is asked for with (`vfs_prepare_mode`, and the umask where fs/fuse applies it).
    pub(super) fn new_mode(&self, dir: Ino, mode: u32) -> u32 {
        let dir = self.st.inode(dir).attr;
        let mut mode = mode;
        let in_foreign_group =
            dir.mode & S_ISGID != 0 && !self.who.is_root() && !self.who.is_in_group(dir.gid);
        if mode & (S_ISGID | 0o010) == (S_ISGID | 0o010) && in_foreign_group {
            mode &= !S_ISGID;
        }
        if !self.st.connection.has(FUSE_DONT_MASK) {
            mode &= !self.who.umask;
        }
        mode
    }

    pub(super) fn make_dir(&mut self, start: Ino, path: &[u8], mode: u32) -> Result<(), Errno> {
        let (dir, name) = self.new_name(start, path, true)?;
        let op = Op::MkDir(MkDir {
            parent: self.node(dir),
            name: Name::new(&name).map_err(|_| Errno::ENAMETOOLONG)?,
            mode: self.new_mode(dir, mode & 0o1777),
            umask: self.who.umask,
            extensions: Extensions::default(),
        });
        self.make(FUSE_MKDIR, &op, dir, &name, S_IFDIR).map(|_| ())
    }

    pub(super) fn make_node(
        &mut self,
        start: Ino,
        path: &[u8],
        mode: u32,
        rdev: u32,
    ) -> Result<(), Errno> {
        let kind = match mode & S_IFMT {
            0 => S_IFREG,
            S_IFDIR => return Err(Errno::EPERM),
            kind => kind,
        };
        if matches!(kind, 0o020_000 | 0o060_000) && !self.who.is_root() {
            return Err(Errno::EPERM);
        }
        let (dir, name) = self.new_name(start, path, false)?;
        self.make_node_at(dir, &name, kind | (mode & 0o7777), rdev).map(|_| ())
    }

    pub(super) fn make_node_at(
        &mut self,
        dir: Ino,
        name: &[u8],
        mode: u32,
        rdev: u32,
    ) -> Result<Ino, Errno> {
        let op = Op::MkNod(MkNod {
            parent: self.node(dir),
            name: Name::new(name).map_err(|_| Errno::ENAMETOOLONG)?,
            mode: self.new_mode(dir, mode),
            rdev,
            umask: self.who.umask,
            extensions: Extensions::default(),
        });
        self.make(FUSE_MKNOD, &op, dir, name, mode & S_IFMT)
    }

    pub(super) fn make_symlink(
        &mut self,
        start: Ino,
        target: &[u8],
        path: &[u8],
    ) -> Result<(), Errno> {
        if target.is_empty() {
            return Err(Errno::ENOENT);
        }
        if target.len() >= super::PAGE {
            return Err(Errno::ENAMETOOLONG);
        }
        let (dir, name) = self.new_name(start, path, false)?;
        let op = Op::Symlink(Symlink {
            parent: self.node(dir),
            name: Name::new(&name).map_err(|_| Errno::ENAMETOOLONG)?,
            target,
            extensions: Extensions::default(),
        });
        self.make(FUSE_SYMLINK, &op, dir, &name, S_IFLNK).map(|_| ())
    }

    pub(super) fn make_link(&mut self, start: Ino, old: Ino, path: &[u8]) -> Result<(), Errno> {
        let (dir, name) = self.new_name(start, path, false)?;
        if self.st.inode(old).is_dir() {
            return Err(Errno::EPERM);
        }
        self.lock(&[Lock::Inode(old)]);
        if self.st.inode(old).attr.nlink == 0 && !self.st.inode(old).linkable {
            return Err(Errno::ENOENT);
        }
        let kind = self.st.inode(old).kind();
        let op = Op::Link(Link {
            node: self.node(old),
            new_parent: self.node(dir),
            new_name: Name::new(&name).map_err(|_| Errno::ENAMETOOLONG)?,
        });
        match self.make(FUSE_LINK, &op, dir, &name, kind) {
            Ok(made) => {
                self.st.touched(old);
                let same = made == old;
                let inode = self.st.inode_mut(old);
                inode.linkable = false;
                if !same {
                    inode.attr.nlink = inode.attr.nlink.saturating_add(1);
                }
                inode.doubt(STATX_BASIC);
                Ok(())
            }
            Err(errno) => {
                if errno == Errno::EINTR {
                    self.st.inode_mut(old).doubt(STATX_BASIC);
                }
                Err(errno)
            }
        }
    }

    /// Asks for a new entry and takes it into the cache (`create_new_entry`).
    fn make(
        &mut self,
        opcode: u32,
        op: &Op<'_>,
        dir: Ino,
        name: &[u8],
        kind: u32,
    ) -> Result<Ino, Errno> {
        self.check_good(dir)?;
        let entry: fuse_entry_out = self.ask_for(op)?;
        let ino = self.take_new(opcode, &entry, dir, name, kind)?;
        self.st.dir_changed(dir);
        Ok(ino)
    }

    pub(super) fn take_new(
        &mut self,
        opcode: u32,
        entry: &fuse_entry_out,
        dir: Ino,
        name: &[u8],
        kind: u32,
    ) -> Result<Ino, Errno> {
        let ino = self.check_new(opcode, entry, kind)?;
        let until = end_of_life(self.st.now_ns, entry.entry_valid, entry.entry_valid_nsec);
        self.st.drop_dentry(dir, name);
        self.st.splice(dir, name, Some(ino), until)?;
        Ok(ino)
    }

    /// The inode of an entry that answers the making of one of type `kind`.
    pub(super) fn check_new(
        &mut self,
        opcode: u32,
        entry: &fuse_entry_out,
        kind: u32,
    ) -> Result<Ino, Errno> {
        if entry.nodeid == 0 || entry.nodeid == FUSE_ROOT_ID {
            return Err(self.refused(opcode, "something new has the node id 0 or the root's"));
        }
        if !is_valid(&entry.attr) || entry.attr.mode & S_IFMT != kind {
            let why = format!("mode {:o} and size {}", entry.attr.mode, entry.attr.size);
            return Err(self.refused(opcode, &why));
        }
        let ino = self.st.entered(entry, 0);
        Ok(self.pin(ino))
    }

    /// Whether the caller may take a name out of `dir` (`may_delete`).
    fn may_delete(&mut self, dir: Ino, victim: Ino, as_dir: bool) -> Result<(), Errno> {
        self.permit(dir, MAY_WRITE | MAY_EXEC)?;
        let sticky = self.st.inode(dir).attr.mode & S_ISVTX != 0;
        if sticky && !self.owns(dir) && !self.owns(victim) {
            return Err(Errno::EPERM);
        }
        match (as_dir, self.st.inode(victim).is_dir()) {
            (true, false) => Err(Errno::ENOTDIR),
            (false, true) => Err(Errno::EISDIR),
            _ if victim == Ino::ROOT => Err(Errno::EBUSY),
            _ => Ok(()),
        }
    }

    pub(super) fn unlink(&mut self, start: Ino, path: &[u8]) -> Result<(), Errno> {
        let Parent { dir, last, slashes } = self.parent(start, path)?;
        let Last::Name(name) = last else { return Err(Errno::EISDIR) };
        self.lock(&[Lock::Names(dir)]);
        let ino = self.lookup(dir, &name, false)?.ok_or(Errno::ENOENT)?;
        if slashes {
            let is_dir = self.st.inode(ino).is_dir();
            return Err(if is_dir { Errno::EISDIR } else { Errno::ENOTDIR });
        }
        self.may_delete(dir, ino, false)?;
        self.lock(&[Lock::Inode(ino)]);
        let op = Op::Unlink(Unlink {
            parent: self.node(dir),
            name: Name::new(&name).map_err(|_| Errno::ENAMETOOLONG)?,
        });
        match self.ask(&op) {
            Ok(_) => {
                self.st.touched(ino);
                let inode = self.st.inode_mut(ino);
                inode.attr.nlink = inode.attr.nlink.saturating_sub(1);
                inode.doubt(STATX_BASIC);
                self.st.dir_changed(dir);
                self.st.drop_dentry(dir, &name);
                Ok(())
            }
            Err(errno) => {
                if errno == Errno::EINTR {
                    self.st.drop_dentry(dir, &name);
                }
                Err(errno)
            }
        }
    }

    pub(super) fn remove_dir(&mut self, start: Ino, path: &[u8]) -> Result<(), Errno> {
        let Parent { dir, last, .. } = self.parent(start, path)?;
        let name = match last {
            Last::Name(name) => name,
            Last::Dot => return Err(Errno::EINVAL),
            Last::DotDot => return Err(Errno::ENOTEMPTY),
            Last::Root => return Err(Errno::EBUSY),
        };
        self.lock(&[Lock::Names(dir)]);
        let ino = self.lookup(dir, &name, false)?.ok_or(Errno::ENOENT)?;
        self.may_delete(dir, ino, true)?;
        self.lock(&[Lock::Names(ino)]);
        let op = Op::RmDir(RmDir {
            parent: self.node(dir),
            name: Name::new(&name).map_err(|_| Errno::ENAMETOOLONG)?,
        });
        match self.ask(&op) {
            Ok(_) => {
                self.st.inode_mut(ino).attr.nlink = 0;
                self.st.dir_changed(dir);
                self.st.drop_dentry(dir, &name);
                Ok(())
            }
            Err(errno) => {
                if errno == Errno::EINTR {
                    self.st.drop_dentry(dir, &name);
                }
                Err(errno)
            }
        }
    }

    pub(super) fn rename(
        &mut self,
        start: Ino,
        old: &[u8],
        new: &[u8],
        flags: u32,
    ) -> Result<(), Errno> {
        let exchange = flags & RENAME_EXCHANGE != 0;
        if flags & !(RENAME_NOREPLACE | RENAME_EXCHANGE | RENAME_WHITEOUT) != 0
            || (exchange && flags & (RENAME_NOREPLACE | RENAME_WHITEOUT) != 0)
        {
            return Err(Errno::EINVAL);
        }
        let from = self.parent(start, old)?;
        let to = self.parent(start, new)?;
        let Last::Name(old_name) = from.last else { return Err(Errno::EBUSY) };
        let Last::Name(new_name) = to.last else {
            return Err(if flags & RENAME_NOREPLACE == 0 { Errno::EBUSY } else { Errno::EEXIST });
        };
        let (old_dir, new_dir) = (from.dir, to.dir);
        if old_dir != new_dir {
            self.lock(&[Lock::Rename]);
        }
        self.lock(&[Lock::Names(old_dir), Lock::Names(new_dir)]);
        let source = self.lookup(old_dir, &old_name, false)?.ok_or(Errno::ENOENT)?;
        let target = self.lookup(new_dir, &new_name, true)?;
        if flags & RENAME_NOREPLACE != 0 && target.is_some() {
            return Err(Errno::EEXIST);
        }
        let is_dir = self.st.inode(source).is_dir();
        if exchange {
            let target = target.ok_or(Errno::ENOENT)?;
            if to.slashes && !self.st.inode(target).is_dir() {
                return Err(Errno::ENOTDIR);
            }
        }
        if !is_dir && (from.slashes || (!exchange && to.slashes)) {
            return Err(Errno::ENOTDIR);
        }
        if is_dir && self.st.is_above(source, new_dir) {
            return Err(Errno::EINVAL);
        }
        if let Some(target) = target
            && self.st.inode(target).is_dir()
            && self.st.is_above(target, old_dir)
        {
            return Err(if exchange { Errno::EINVAL } else { Errno::ENOTEMPTY });
        }
        if target == Some(source) {
            return Ok(());
        }
        self.may_delete(old_dir, source, is_dir)?;
        match target {
            None => self.permit(new_dir, MAY_WRITE | MAY_EXEC)?,
            Some(target) => {
                let as_dir = if exchange { self.st.inode(target).is_dir() } else { is_dir };
                self.may_delete(new_dir, target, as_dir)?;
            }
        }
        if old_dir != new_dir {
            if is_dir {
                self.permit(source, MAY_WRITE)?;
            }
            if let Some(target) = target.filter(|_| exchange)
                && self.st.inode(target).is_dir()
            {
                self.permit(target, MAY_WRITE)?;
            }
        }
        let outcome = self.ask_rename(old_dir, &old_name, new_dir, &new_name, flags);
        if outcome == Err(Errno::EINTR) {
            // Nobody knows whether it happened.
            self.st.drop_dentry(old_dir, &old_name);
            if target.is_some() {
                self.st.drop_dentry(new_dir, &new_name);
            }
        }
        outcome?;
        self.st.inode_mut(source).doubt(STATX_BASIC | STATX_CTIME);
        if let Some(target) = target {
            self.st.inode_mut(target).doubt(STATX_BASIC);
            if !exchange {
                let inode = self.st.inode_mut(target);
                inode.attr.nlink = if is_dir { 0 } else { inode.attr.nlink.saturating_sub(1) };
            }
        }
        self.st.dir_changed(old_dir);
        if old_dir != new_dir {
            self.st.dir_changed(new_dir);
        }
        self.move_names(old_dir, &old_name, new_dir, &new_name, exchange)
    }

    fn ask_rename(
        &mut self,
        old_dir: Ino,
        old_name: &[u8],
        new_dir: Ino,
        new_name: &[u8],
        flags: u32,
    ) -> Result<(), Errno> {
        let parent = self.node(old_dir);
        let new_parent = self.node(new_dir);
        let name = Name::new(old_name).map_err(|_| Errno::ENAMETOOLONG)?;
        let new_name = Name::new(new_name).map_err(|_| Errno::ENAMETOOLONG)?;
        if flags == 0 {
            let op = Op::Rename(Rename { parent, name, new_parent, new_name });
            return self.ask(&op).map(|_| ());
        }
        if self.st.connection.no_rename2 || self.st.connection.minor < 23 {
            return Err(Errno::EINVAL);
        }
        match self.ask(&Op::Rename2(Rename2 { parent, name, new_parent, new_name, flags })) {
            Err(Errno::ENOSYS) => {
                self.st.connection.no_rename2 = true;
                Err(Errno::EINVAL)
            }
            result => result.map(|_| ()),
        }
    }

    /// What a rename does to the cache (`d_move`, `d_exchange`): names keep their lifetimes.
    fn move_names(
        &mut self,
        old_dir: Ino,
        old_name: &[u8],
        new_dir: Ino,
        new_name: &[u8],
        exchange: bool,
    ) -> Result<(), Errno> {
        let old = self.st.unhook(old_dir, old_name);
        if exchange {
            let new = self.st.unhook(new_dir, new_name);
            if let Some(new) = new {
                self.st.splice(old_dir, old_name, new.target, new.until_ns)?;
            }
        } else {
            self.st.drop_dentry(new_dir, new_name);
        }
        if let Some(old) = old {
            self.st.splice(new_dir, new_name, old.target, old.until_ns)?;
        }
        Ok(())
    }
}
