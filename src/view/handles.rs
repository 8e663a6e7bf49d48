//! Open files and directories, and the numbers the kernel names them by.
//!
//! ```text
//! handle on the wire:  | generation 32 | slot 32 |
//! ```
//!
//! Invariants: a number is taken only for the node it was given out for, and only until it is closed;
//! the generation of a slot changes with each use, so a number that was never given out, or was
//! closed, is refused ([`Refusal::BadHandle`](super::Refusal::BadHandle)) and never names another's file.

use std::sync::atomic::{AtomicU32, Ordering};

use parking_lot::Mutex;

use crate::proto::types::{FileHandle, NodeId, OpenFlags};
use crate::tree::ActorId;

/// Slots are spread over so many locks. A power of two: the low bits of a slot's number name its lock.
const SHARDS: u32 = 16;

/// What is open.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Open {
    /// A file.
    File {
        /// As given to open(2).
        flags: OpenFlags,
        /// Who wrote through it last, if anyone: RELEASE has no caller.
        wrote: Option<ActorId>,
        /// Where that write ended, unless all was synced since or something else was done through it.
        end: Option<u64>,
        /// The kernel's page cache is passed by.
        direct: bool,
    },
    /// A directory.
    Directory,
}

impl Open {
    /// A file through which nothing was written yet, unless opening cut it.
    pub(crate) const fn file(flags: OpenFlags, wrote: Option<ActorId>) -> Self {
        Self::File { flags, wrote, end: None, direct: false }
    }

    /// The same, past the page cache where `direct` says so.
    pub(crate) const fn past_cache(self, direct: bool) -> Self {
        match self {
            Self::File { flags, wrote, end, .. } => Self::File { flags, wrote, end, direct },
            Self::Directory => Self::Directory,
        }
    }
}

/// All that is open.
#[derive(Debug, Default)]
pub(crate) struct Handles {
    shards: [Mutex<Slab>; SHARDS as usize],
    next_shard: AtomicU32,
    /// What the generation of a slot is counted from.
    first_generation: AtomicU32,
}

#[derive(Debug, Default)]
struct Slab {
    slots: Vec<Slot>,
    free: Vec<u32>,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    generation: u32,
    open: Option<(NodeId, Open)>,
}

impl Handles {
    /// Gives a number to `open`.
    pub(crate) fn open(&self, node: NodeId, open: Open) -> FileHandle {
        let shard = self.next_shard.fetch_add(1, Ordering::Relaxed) % SHARDS;
        let mut slab = self.shards[shard as usize].lock();
        let index = slab.free.pop().unwrap_or_else(|| {
            let generation = self.first_generation.load(Ordering::Relaxed);
            slab.slots.push(Slot { generation, open: None });
            // More than 2^28 open files per shard do not fit in memory.
            u32::try_from(slab.slots.len() - 1).expect("fewer open files than numbers")
        });
        let slot = &mut slab.slots[index as usize];
        slot.generation = slot.generation.wrapping_add(1);
        slot.open = Some((node, open));
        FileHandle(u64::from(slot.generation) << 32 | u64::from(index * SHARDS + shard))
    }

    /// What `handle` is for `node`.
    pub(crate) fn find(&self, handle: FileHandle, node: NodeId) -> Option<Open> {
        self.with(handle, node, |_, open| *open)
    }

    /// Notes that `actor` wrote through `handle`; where it was bytes, `up_to` where.
    pub(crate) fn wrote(
        &self,
        handle: FileHandle,
        node: NodeId,
        actor: ActorId,
        up_to: Option<u64>,
    ) {
        self.with(handle, node, |_, open| {
            if let Open::File { wrote, end, .. } = open {
                (*wrote, *end) = (Some(actor), up_to);
            }
        });
    }

    /// Notes that what was written through `handle` is on the disk.
    pub(crate) fn synced(&self, handle: FileHandle, node: NodeId) {
        self.with(handle, node, |_, open| {
            if let Open::File { end, .. } = open {
                *end = None;
            }
        });
    }

    /// Ends `handle`, and tells what it was.
    pub(crate) fn close(&self, handle: FileHandle, node: NodeId) -> Option<Open> {
        let closed = self.with(handle, node, |slot_free, open| {
            *slot_free = true;
            *open
        })?;
        Some(closed)
    }

    /// Numbers given out from here on are others than those of this process's predecessors, of which there
    /// were so many.
    pub(crate) fn after_restarts(&self, restarts: u16) {
        self.first_generation.store(u32::from(restarts) << 16, Ordering::Relaxed);
    }

    /// Ends all: the kernel that had them is gone.
    pub(crate) fn clear(&self) {
        for shard in &self.shards {
            let mut slab = shard.lock();
            let Slab { slots, free } = &mut *slab;
            for (index, slot) in (0..).zip(slots) {
                if slot.open.take().is_some() {
                    free.push(index);
                }
            }
        }
    }

    /// How many are open.
    pub(crate) fn len(&self) -> usize {
        self.shards
            .iter()
            .map(|shard| {
                let slab = shard.lock();
                slab.slots.len() - slab.free.len()
            })
            .sum()
    }

    /// Whether `node` is a program that runs. Looks at all that is open.
    pub(crate) fn executing(&self, node: NodeId) -> bool {
        let runs = |slot: &Slot| match slot.open {
            Some((of, Open::File { flags, .. })) => of == node && flags.executes(),
            _ => false,
        };
        self.shards.iter().any(|shard| shard.lock().slots.iter().any(runs))
    }

    /// How many of them are directories.
    pub(crate) fn directories(&self) -> usize {
        let directories = |shard: &Mutex<Slab>| {
            let slab = shard.lock();
            let open = slab.slots.iter().filter_map(|slot| slot.open.as_ref());
            open.filter(|(_, open)| matches!(open, Open::Directory)).count()
        };
        self.shards.iter().map(directories).sum()
    }

    /// Runs `then` on what `handle` is for `node`; its first argument, set, ends the handle.
    fn with<T>(
        &self,
        handle: FileHandle,
        node: NodeId,
        then: impl FnOnce(&mut bool, &mut Open) -> T,
    ) -> Option<T> {
        // The low half is the slot, the high half its generation.
        let (number, generation) = (handle.0 as u32, (handle.0 >> 32) as u32);
        let (shard, index) = (number % SHARDS, number / SHARDS);
        let mut slab = self.shards[shard as usize].lock();
        let slot = slab.slots.get_mut(index as usize)?;
        let (_, open) =
            slot.open.as_mut().filter(|(of, _)| slot.generation == generation && *of == node)?;
        let mut ends = false;
        let result = then(&mut ends, open);
        if ends {
            slot.open = None;
            slab.free.push(index);
        }
        Some(result)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(number: u64) -> NodeId {
        NodeId::new(number).unwrap()
    }

    #[test]
    fn a_handle_is_good_for_its_node_until_it_is_closed() {
        let handles = Handles::default();
        let handle = handles.open(node(5), Open::Directory);
        assert_eq!(handles.find(handle, node(5)), Some(Open::Directory));
        assert_eq!(handles.find(handle, node(6)), None);
        assert_eq!(handles.close(handle, node(6)), None);
        assert_eq!(handles.close(handle, node(5)), Some(Open::Directory));
        assert_eq!(handles.find(handle, node(5)), None);
        assert_eq!(handles.close(handle, node(5)), None);
        assert_eq!(handles.len(), 0);
    }

    #[test]
    fn a_slot_used_again_has_another_number() {
        let handles = Handles::default();
        let mut seen = std::collections::HashSet::new();
        for _ in 0..1000 {
            let handle = handles.open(node(5), Open::Directory);
            assert!(seen.insert(handle));
            handles.close(handle, node(5));
        }
        for shard in &handles.shards {
            assert_eq!(shard.lock().slots.len(), 1);
        }
    }

    #[test]
    fn forged_numbers_are_refused() {
        let handles = Handles::default();
        for _ in 0..40 {
            handles.open(node(5), Open::Directory);
        }
        for number in (0..100).chain([u64::MAX, u64::MAX >> 1, 1 << 63]) {
            assert_eq!(handles.find(FileHandle(number), node(5)), None, "{number:#x}");
        }
    }

    #[test]
    fn a_program_runs_while_the_handle_it_was_opened_by_for_that_is_open() {
        let handles = Handles::default();
        let opened = |flags| Open::file(OpenFlags(flags), None);
        let read = handles.open(node(9), opened(OpenFlags::RDONLY));
        handles.open(node(9), Open::Directory);
        assert!(!handles.executing(node(9)));
        let run = handles.open(node(9), opened(OpenFlags::RDONLY | OpenFlags::FMODE_EXEC));
        handles.close(read, node(9));
        assert!(handles.executing(node(9)));
        assert!(!handles.executing(node(8)));
        handles.close(run, node(9));
        assert!(!handles.executing(node(9)));
    }

    #[test]
    fn the_last_writer_is_kept_for_the_close() {
        let handles = Handles::default();
        let flags = OpenFlags(OpenFlags::RDWR);
        let handle = handles.open(node(9), Open::file(flags, None));
        handles.wrote(handle, node(9), ActorId(3), None);
        handles.wrote(handle, node(9), ActorId(4), Some(12));
        let written = Open::File { flags, wrote: Some(ActorId(4)), end: Some(12), direct: false };
        assert_eq!(handles.find(handle, node(9)), Some(written));
        handles.synced(handle, node(9));
        assert_eq!(handles.close(handle, node(9)), Some(Open::file(flags, Some(ActorId(4)))));
    }
}
