//! How much several files have in common.
//!
//! A clone shares its bytes with what it was made of until one of the two is written to, and each counts them as its own.
//! Keeping a sum of that would have every write look at what it supersedes. So it is counted: whoever may share
//! bytes was noted down with the clone, by where they lie; what of that still shows in the present tree is laid
//! one over the other.
//!
//! Invariants: a step looks at so many rows and no more, so that changes wait for a step alone; what changes between two steps
//! may be counted as it was or as it is.

use rustc_hash::FxHashMap;

use super::super::event::{FileId, Ino, Location, Seq};
use super::codec::Reader;
use super::key::{self, Key};
use super::{IndexError, Stretch, Tables, padding};

/// Files by distance whose ends are remembered before those that lie behind are looked for.
const REACHED_MAX: usize = 4096;

/// A count under way.
#[derive(Debug, Default)]
pub(in super::super) struct Shares {
    /// The row to go on behind.
    behind: Option<Vec<u8>>,
    file: Option<FileId>,
    /// How far an inode was looked at, by how far its bytes are from where they lie.
    reached: FxHashMap<(Ino, u64), u64>,
    /// Ranges of the file that somebody has, ascending and apart.
    held: Vec<(u64, u64)>,
    doubled: u64,
    stretches: Vec<Stretch>,
}

impl Shares {
    /// Bytes that are counted for more than one file, once for each but the first.
    pub(in super::super) const fn doubled(&self) -> u64 {
        self.doubled
    }

    /// Goes to what lies at `location`; nothing before it comes any more.
    fn go_to(&mut self, location: Location) {
        if self.file != Some(location.file) {
            self.file = Some(location.file);
            self.reached.clear();
            self.held.clear();
        }
        let begun = self.held.partition_point(|&(_, end)| end <= location.offset);
        self.held.drain(..begun);
        if self.reached.len() > REACHED_MAX {
            self.reached.retain(|_, end| *end > location.offset);
        }
    }

    /// One more file has the bytes `start..end`.
    fn hold(&mut self, mut start: u64, mut end: u64) {
        let first = self.held.partition_point(|&(_, until)| until < start);
        let last = self.held.partition_point(|&(from, _)| from <= end);
        for (from, until) in self.held.drain(first..last) {
            self.doubled += until.min(end).saturating_sub(from.max(start));
            (start, end) = (start.min(from), end.max(until));
        }
        self.held.insert(first, (start, end));
    }
}

impl Tables {
    /// Looks at up to `rows` more of what clones noted down; whether there is no more.
    pub(in super::super) fn count_shares(
        &self,
        shares: &mut Shares,
        rows: usize,
    ) -> Result<bool, IndexError> {
        let (first, to) = (Key::new(key::SHARED), Key::new(key::SHARED).end());
        let from = shares.behind.take();
        let mut cursor = self.cursor(None, from.as_deref().unwrap_or(&first), &to)?;
        for _ in 0..rows {
            if !cursor.next()? {
                return Ok(true);
            }
            let (location, ino, offset) = key::shared_fields(cursor.key())?;
            let end = location.offset.saturating_add(Reader(cursor.value()).number()?);
            shares.go_to(location);
            let distance = offset.wrapping_sub(location.offset);
            let reached = shares.reached.entry((ino, distance)).or_default();
            // Another clone may have noted down a part of the same.
            let start = location.offset.max(*reached);
            *reached = end.max(*reached);
            let inode = if start < end { self.inode(ino, Seq::NOW)? } else { None };
            if let Some(inode) = inode {
                let mut stretches = std::mem::take(&mut shares.stretches);
                stretches.clear();
                let place = start.wrapping_add(distance);
                self.stretches(ino, place, end - start, Seq::NOW, &mut stretches)?;
                for Stretch { offset, len, at } in &stretches {
                    let at = at.filter(|at| at.file == location.file);
                    if let Some(at) = at.filter(|at| offset.wrapping_sub(at.offset) == distance) {
                        // In whole pages, as the totals have it.
                        let is_last = offset.saturating_add(*len) >= inode.size;
                        let rest = if is_last { padding(inode.allocated) } else { 0 };
                        let end = at.offset.saturating_add(*len).saturating_add(rest);
                        shares.hold(at.offset, end);
                    }
                }
                shares.stretches = stretches;
            }
            let mut behind = cursor.key().to_vec();
            behind.push(0);
            shares.behind = Some(behind);
        }
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_again_is_counted_and_nothing_else() {
        let mut shares = Shares::default();
        shares.go_to(Location { file: FileId::Content(1), offset: 0 });
        shares.hold(0, 100);
        assert_eq!(shares.doubled(), 0);
        shares.hold(50, 150);
        assert_eq!(shares.doubled(), 50);
        shares.hold(200, 300);
        shares.hold(0, 400);
        assert_eq!(shares.doubled(), 50 + 150 + 100);
        shares.hold(400, 401);
        assert_eq!(shares.held, [(0, 401)]);
        shares.go_to(Location { file: FileId::Content(1), offset: 401 });
        shares.hold(401, 500);
        shares.go_to(Location { file: FileId::Content(2), offset: 0 });
        shares.hold(401, 500);
        assert_eq!(shares.doubled(), 300);
    }
}
