//! Who is told of changes that others make: a mount's view has given parts of the tree to a kernel, which
//! goes on using them until it hears that they are old.
//!
//! ```text
//!  kernel --> view ---- perform ------------> tree
//!               ^                              |
//!               +-- Watcher <-- perform_beside +-- HTTP
//! ```
//!
//! A view's own changes come through the kernel, which knows of them; so it uses [`Tree::perform`], which
//! tells nobody. Everyone else in the process uses [`Tree::perform_beside`].
//!
//! Invariants: a watcher is told after the change and before whoever made it hears of it; no lock of the tree
//! is held meanwhile, so it may ask the tree, and may wait.

use std::fmt::Debug;
use std::sync::Weak;

use parking_lot::RwLock;

use crate::store::Placed;
use crate::store::index::Tables;

use super::operation::{Caller, FALLOC_FL_PUNCH_HOLE, Operation, S_IFDIR, S_IFMT, WriteTo};
use super::{ActorId, Ino, Inode, Outcome, Refusal, Seq, Tree};

/// What is different now in the present tree.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Changed<'a> {
    /// Attributes of an inode.
    Attributes(Ino),
    /// Content of a file, or the listing of a directory; its attributes too.
    Content(Ino),
    /// What a name leads to.
    Name {
        /// Directory of the name.
        parent: Ino,
        /// The name.
        name: &'a [u8],
    },
}

/// Somebody who holds copies of parts of the tree.
pub trait Watcher: Debug + Send + Sync {
    /// Somebody else changed something.
    fn changed(&self, what: Changed<'_>);
    /// Returns when whoever asks from now on sees what was changed so far; after a while it returns all the same.
    fn settle(&self);
    /// `inode` has no name any more. Whether the watcher still uses it, and will end it itself.
    fn keeps(&self, inode: &Inode) -> bool;
    /// Somebody else is about to change the content of `ino`, or what its name leads to: what was written
    /// through the watcher so far is a version of its own.
    fn before_write(&self, ino: Ino);
}

/// All watchers of a tree.
#[derive(Debug, Default)]
pub(super) struct Watchers(RwLock<Vec<Weak<dyn Watcher>>>);

impl Watchers {
    fn each(&self, mut visit: impl FnMut(&dyn Watcher)) {
        // A copy of the list: a watcher may wait, and others come and go meanwhile.
        let watchers = self.0.read().clone();
        for watcher in watchers.iter().filter_map(Weak::upgrade) {
            visit(&*watcher);
        }
    }
}

/// What must hold at the moment of a change, so that it is made to what its author has seen.
#[derive(Clone, Copy, Debug)]
pub struct Expected<'a> {
    /// The name that must lead to `ino`.
    pub entry: Option<(Ino, &'a [u8])>,
    /// The inode.
    pub ino: Ino,
    /// The version it must have.
    pub version: Option<Seq>,
    /// Another inode, which must have this version: what is copied.
    pub source: Option<(Ino, Seq)>,
}

impl Expected<'_> {
    pub(super) fn check(&self, tables: &Tables) -> Result<(), Refusal> {
        if let Some((parent, name)) = self.entry
            && tables.entry(parent, name, Seq::NOW)?.is_none_or(|entry| entry.ino != self.ino)
        {
            return Err(Refusal::Stale);
        }
        let versions = self.version.map(|version| (self.ino, version)).into_iter();
        for (ino, version) in versions.chain(self.source) {
            if tables.inode(ino, Seq::NOW)?.is_none_or(|inode| inode.changed != version) {
                return Err(Refusal::Stale);
            }
        }
        Ok(())
    }
}

impl Tree {
    /// From now on `watcher` is told of changes made beside it, for as long as it is there.
    pub fn watch(&self, watcher: Weak<dyn Watcher>) {
        let mut watchers = self.watchers.0.write();
        watchers.retain(|watcher| watcher.strong_count() > 0);
        watchers.push(watcher);
    }

    /// As [`Tree::perform`], for a change that comes through no watcher: all of them are told, and an inode
    /// that lost its last name ends unless one of them still uses it.
    ///
    /// # Errors
    ///
    /// As [`Tree::perform`]; [`Refusal::Stale`] where `expected` does not hold.
    pub fn perform_beside(
        &self,
        caller: &Caller<'_>,
        operation: &Operation<'_>,
        expected: Option<&Expected<'_>>,
    ) -> Result<Outcome, Refusal> {
        for ino in self.about_to_change(operation) {
            self.watchers.each(|watcher| watcher.before_write(ino));
        }
        let outcome = self.perform_where(caller, operation, expected)?;
        if let (Operation::Tmpfile { .. }, Some(inode)) = (operation, &outcome.inode) {
            self.unfinished.lock().insert(inode.ino);
        }
        if outcome.seq.is_some() {
            self.tell(operation, &outcome);
            let loses_a_name = matches!(
                operation,
                Operation::Unlink { .. } | Operation::Rmdir { .. } | Operation::Rename { .. }
            );
            for inode in outcome.inode.iter().chain(&outcome.other) {
                if loses_a_name && inode.nlink == 0 {
                    self.end_unless_kept(inode)?;
                }
            }
        }
        Ok(outcome)
    }

    /// As [`Tree::write`], for a write that comes through no watcher.
    ///
    /// # Errors
    ///
    /// As [`Tree::perform_beside`].
    pub fn write_beside(
        &self,
        caller: &Caller<'_>,
        ino: Ino,
        to: WriteTo,
        bytes: &[u8],
        kill_set_id: bool,
        expected: Option<&Expected<'_>>,
    ) -> Result<Outcome, Refusal> {
        let mut placed = Placed::default();
        let data = self.store().place(bytes, &mut placed)?;
        let operation = Operation::Write { ino, to, data, kill_set_id };
        self.perform_beside(caller, &operation, expected)
    }

    /// Marks that a version of `ino`, written by `actor`, ends here.
    ///
    /// # Errors
    ///
    /// The store's.
    pub fn version_ends(&self, ino: Ino, actor: ActorId) -> Result<(), Refusal> {
        Ok(self.store().mark_version(ino, actor)?)
    }

    fn end_unless_kept(&self, inode: &Inode) -> Result<(), Refusal> {
        let mut kept = false;
        self.watchers.each(|watcher| kept |= watcher.keeps(inode));
        if !kept {
            self.perform(&Caller::default(), &Operation::End { ino: inode.ino })?;
        }
        Ok(())
    }

    fn about_to_change(&self, operation: &Operation<'_>) -> Vec<Ino> {
        let found = |dir, name| self.lookup(dir, name, Seq::NOW).ok().map(|inode| inode.ino);
        match *operation {
            Operation::Write { ino, .. }
            | Operation::Allocate { ino, .. }
            | Operation::Link { ino, .. }
            | Operation::Copy { dst: ino, .. } => vec![ino],
            Operation::SetAttributes { ino, set } if set.size.is_some() => vec![ino],
            Operation::Rename { parent, name, new_parent, new_name, .. } => {
                let inodes = [found(parent, name), found(new_parent, new_name)];
                inodes.into_iter().flatten().collect()
            }
            _ => Vec::new(),
        }
    }

    fn tell(&self, operation: &Operation<'_>, outcome: &Outcome) {
        let changed = |what| self.watchers.each(|watcher| watcher.changed(what));
        let name = |parent, name| {
            changed(Changed::Name { parent, name });
            changed(Changed::Content(parent));
        };
        let attributes = |inode: Option<Inode>| {
            // One without a name too: who has it open may ask how many it has.
            if let Some(inode) = inode {
                changed(Changed::Attributes(inode.ino));
            }
        };
        match *operation {
            Operation::Make { parent, name: made, .. }
            | Operation::Symlink { parent, name: made, .. } => name(parent, made),
            Operation::Link { parent, name: made, .. } => {
                name(parent, made);
                attributes(outcome.inode);
            }
            Operation::Unlink { parent, name: gone } | Operation::Rmdir { parent, name: gone } => {
                name(parent, gone);
                attributes(outcome.inode);
            }
            Operation::Rename { parent, name: old, new_parent, new_name, .. } => {
                name(parent, old);
                name(new_parent, new_name);
                for inode in outcome.inode.into_iter().chain(outcome.other) {
                    // A listing of a directory tells which one is above it.
                    if parent != new_parent && inode.nlink > 0 && inode.mode & S_IFMT == S_IFDIR {
                        changed(Changed::Content(inode.ino));
                    } else {
                        attributes(Some(inode));
                    }
                }
            }
            Operation::SetAttributes { ino, set } if set.size.is_some() => {
                changed(Changed::Content(ino));
            }
            Operation::SetAttributes { ino, .. }
            | Operation::SetXattr { ino, .. }
            | Operation::RemoveXattr { ino, .. } => changed(Changed::Attributes(ino)),
            Operation::Allocate { ino, flags, .. } if flags & FALLOC_FL_PUNCH_HOLE == 0 => {
                changed(Changed::Content(ino));
            }
            Operation::Write { ino, .. }
            | Operation::Allocate { ino, .. }
            | Operation::Copy { dst: ino, .. } => changed(Changed::Content(ino)),
            Operation::Tmpfile { .. } | Operation::End { .. } => return,
        }
        self.watchers.each(|watcher| watcher.settle());
    }
}
