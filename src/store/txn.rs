//! One change: decided upon the tree as it is, appended to the log, folded into the index.
//!
//! Invariants: what was appended has happened, whatever fails afterwards; the tables are never read by anybody after an event that
//! they could not take in.

use parking_lot::RwLockUpgradableReadGuard;

use super::content::STREAM;
use super::dead::ranges_of;
use super::event::{Change, Event, Seq, Timestamp};
use super::index::{Index, IndexError, Stretch, Tables};
use super::journal::Journal;
use super::log::Claim;
use super::{CommitError, Origin, Ring, Store, index_mark};

/// So much of what a file leaves behind is looked for in the page cache, while no other change can be made: 2 us for each piece,
/// of which a MiB may have two. The kernel takes back the rest by itself when memory is wanted.
const LEFT_MAX: u64 = 4 << 30;

/// One change being decided: sees the present tree, and nothing can change it meanwhile.
pub struct Txn<'s> {
    pub(super) store: &'s Store,
    pub(super) tables: RwLockUpgradableReadGuard<'s, Tables>,
    pub(super) seq: Seq,
    pub(super) time: Timestamp,
}

impl Txn<'_> {
    /// The tree as it is.
    pub fn tables(&self) -> &Tables {
        &self.tables
    }

    /// The number the change will have.
    pub const fn seq(&self) -> Seq {
        self.seq
    }

    /// The time the change will have: now, and not earlier than the change before.
    pub const fn time(&self) -> Timestamp {
        self.time
    }

    /// Appends the change to the log and folds it in. If it could not be appended, the content it refers to is
    /// [given back](Store::unplace); after any other error it may have happened all the same.
    pub fn commit(self, origin: Origin, change: Change<'_>) -> Result<Seq, CommitError> {
        let core = &*self.store.core;
        let Origin { actor, unique } = origin;
        let event = Event { seq: self.seq, time: self.time, actor, unique, change };
        let refused = Claim::of(&event.change) == Claim::Ordinary && core.index.is_full();
        let appended =
            if refused { Err(CommitError::NoSpace) } else { core.journal.append(&event) };
        let appended = appended.inspect_err(|_| {
            if let Some(data) = event.change.data() {
                self.store.unplace(data);
            }
        })?;
        let left = self.left_behind(&event).unwrap_or_default();
        let mut tables = RwLockUpgradableReadGuard::upgrade(self.tables);
        let applied = tables.apply(&event, appended.payload).and_then(|()| {
            core.index.advance(&mut tables, appended.len, || index_mark(&appended.mark))
        });
        applied.map_err(|err| torn(&core.journal, &core.index, err))?;
        drop(tables);
        let content = core.journal.content();
        let much = left
            .iter()
            .filter_map(|stretch| Some((stretch.at?, stretch.len)))
            .fold(false, |much, (at, len)| content.leave(at, len) || much);
        if much || core.journal.wants_tick() {
            core.bell.ring(Ring::Wanted);
        }
        core.journal.settle()?;
        Ok(event.seq)
    }

    /// What a long file has that it will not have after `event`, where such may be kept in the page cache.
    fn left_behind(&self, event: &Event<'_>) -> Result<Vec<Stretch>, IndexError> {
        let mut left = Vec::new();
        if !self.store.core.journal.content().keeps_streams() {
            return Ok(left);
        }
        for (ino, offset, _) in ranges_of(event).iter().filter(|(_, _, len)| *len >= STREAM) {
            let size = self.tables.inode(*ino, Seq::NOW)?.map_or(0, |inode| inode.size);
            let len = size.saturating_sub(*offset);
            if len >= STREAM {
                let looked_at = len.min(LEFT_MAX);
                self.tables.stretches(*ino, *offset, looked_at, Seq::NOW, &mut left)?;
            }
        }
        Ok(left)
    }
}

/// What was appended could not be folded in. It has happened, and is read back at the next start; until then the tables lie
/// about whatever comes next. To be said while they are held, or a change that waits for them is decided upon them.
pub(super) fn torn(journal: &Journal, index: &Index, err: IndexError) -> CommitError {
    index.tear();
    journal.refuse(format!("the index failed ({err}); start again"));
    CommitError::Index(err)
}
