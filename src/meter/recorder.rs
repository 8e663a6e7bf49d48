//! The last requests of one reader: a ring that is always written and seldom read.
//!
//! Invariants: whoever reads meets whole entries only; what is written over meanwhile is left out.

use std::sync::atomic::{AtomicU64, Ordering};

use super::Request;
use super::stamped::Stamped;

/// How many are kept. A power of two.
const KEPT: usize = 1024;

/// One request, as it is told.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Entry {
    /// When it was answered, in nanoseconds since 1970.
    pub answered_ns: u64,
    /// How long that took, in nanoseconds.
    pub took_ns: u64,
    /// What was asked, by number.
    pub opcode: u32,
    /// About which node.
    pub node: u64,
    /// The thread that asked; 0 is unknown.
    pub pid: u32,
    /// What it was refused with; 0 if it was not.
    pub errno: u16,
}

/// The ring.
pub(super) struct Ring {
    slots: Box<[Slot]>,
    written: AtomicU64,
}

/// Stamped with the entry's number and one. When it was answered, how long that took, node; pid 32, errno 16, opcode 16.
type Slot = Stamped<4>;

impl Default for Ring {
    fn default() -> Self {
        Self { slots: (0..KEPT).map(|_| Slot::default()).collect(), written: AtomicU64::new(0) }
    }
}

impl Ring {
    /// Adds `request`, answered `at_ns` after the meter began.
    pub(super) fn push(&self, at_ns: u64, took_ns: u64, request: &Request) {
        let number = self.written.fetch_add(1, Ordering::Relaxed);
        let Some(slot) = self.slots.get(number as usize % KEPT) else { return };
        let opcode = u64::from(request.opcode & 0xffff);
        let rest = u64::from(request.pid) << 32 | u64::from(request.errno) << 16 | opcode;
        slot.set(number + 1, [at_ns, took_ns, request.node, rest]);
    }

    /// Appends what is there to `out`; times count from `began_ns`.
    pub(super) fn read(&self, began_ns: u64, out: &mut Vec<Entry>) {
        for (_, [at_ns, took_ns, node, rest]) in self.slots.iter().filter_map(Slot::get) {
            out.push(Entry {
                answered_ns: began_ns.saturating_add(at_ns),
                took_ns,
                opcode: (rest & 0xffff) as u32,
                node,
                pid: (rest >> 32) as u32,
                errno: (rest >> 16 & 0xffff) as u16,
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicBool;

    #[test]
    fn the_last_ones_are_kept() {
        let ring = Ring::default();
        for number in 0..3 * KEPT as u64 {
            ring.push(number, 1, &Request { opcode: 3, node: number, pid: 5, errno: 0 });
        }
        let mut entries = Vec::new();
        ring.read(10, &mut entries);
        entries.sort_by_key(|entry| entry.answered_ns);
        assert_eq!(entries.len(), KEPT);
        assert_eq!(entries.first().unwrap().node, 2 * KEPT as u64);
        assert_eq!(entries.last().unwrap().answered_ns, 3 * KEPT as u64 + 9);
    }

    #[test]
    fn who_reads_while_it_is_written_meets_whole_entries_only() {
        let ring = Ring::default();
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for n in 0..200_000u32 {
                    let node = u64::from(n);
                    ring.push(node, node, &Request { opcode: n & 63, node, pid: n, errno: 0 });
                }
                done.store(true, Ordering::Release);
            });
            while !done.load(Ordering::Acquire) {
                let mut entries = Vec::new();
                ring.read(0, &mut entries);
                for entry in entries {
                    let node = entry.node;
                    assert_eq!((entry.answered_ns, entry.took_ns), (node, node));
                    assert_eq!((u64::from(entry.pid), entry.opcode), (node, entry.pid & 63));
                }
            }
        });
    }
}
