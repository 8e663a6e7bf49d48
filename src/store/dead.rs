//! What died: bytes in the store that no tree from the horizon on refers to.
//!
//! What an event superseded (overwrote, cut off, punched, or ended) was last needed by the tree before it, so
//! once the horizon has reached the event, nothing needs it: unless a clone refers to it. What a relocation
//! left behind is needed by the trees before it alone.
//!
//! Invariant: nothing is taken for dead that a tree at or after the horizon refers to, as a clone or otherwise.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use super::codec::{Freed, Left};
use super::content::PAGE;
use super::event::{Allocation, Change, Event, FileId, Ino, Location, Seq};
use super::index::{IndexError, Stretch, Tables};

/// What is found dead on the horizon's way.
#[derive(Default)]
pub(super) struct Dead {
    /// Pages of content files that are not given back yet.
    pub(super) pages: Vec<Freed>,
    /// Bytes of small writes, by the segment they are in: more than there are where a clone still needs some.
    pub(super) small: BTreeMap<u32, u64>,
    /// Bytes of small writes that were moved away, from segments that nobody noted down.
    pub(super) moved: u64,
}

impl Dead {
    /// Bytes of small writes, wherever in the log.
    pub(super) fn in_log(&self) -> u64 {
        self.small.values().sum::<u64>().saturating_add(self.moved)
    }

    /// Takes in what nothing needs any more once the tree before event `seq` is given up, of what held
    /// `len` bytes from `offset` on of `ino` in it.
    pub(super) fn superseded(
        &mut self,
        tables: &Tables,
        ino: Ino,
        (offset, len): (u64, u64),
        seq: Seq,
    ) -> Result<(), IndexError> {
        let mut old = Vec::new();
        tables.stretches(ino, offset, len, seq.before(), &mut old)?;
        for stretch in old {
            self.release(tables, ino, &stretch, seq)?;
        }
        Ok(())
    }

    /// Takes in the pages of what a relocation left behind, once the trees before event `seq` are given up.
    pub(super) fn abandoned(
        &mut self,
        tables: &Tables,
        ino: Ino,
        left: Left,
        seq: Seq,
    ) -> Result<(), IndexError> {
        let at = Location { file: FileId::Content(left.file), offset: left.at };
        let stretch = Stretch { offset: left.offset, len: left.len, at: Some(at) };
        let end = left.at.saturating_add(left.len);
        if shows(tables, ino, (left.offset, left.len), (at.file, left.at, end), seq)? {
            return Ok(());
        }
        self.release(tables, ino, &stretch, seq)
    }

    /// Takes in those pages of `stretch` that nothing needs after event `seq`; `ino` had it before, and
    /// does not have it any more.
    fn release(
        &mut self,
        tables: &Tables,
        ino: Ino,
        stretch: &Stretch,
        seq: Seq,
    ) -> Result<(), IndexError> {
        let Some(location) = stretch.at else { return Ok(()) };
        let file = match location.file {
            FileId::Content(file) => file,
            FileId::Log(segment) => {
                // Looked at closely when the segment is.
                *self.small.entry(segment).or_default() += stretch.len;
                return Ok(());
            }
        };
        let id = location.file;
        let place = (stretch.offset, location.offset);
        let mut start = location.offset / PAGE * PAGE;
        let mut end = location.offset.saturating_add(stretch.len).next_multiple_of(PAGE);
        // The first and the last page may hold bytes of the same extent that live on.
        if start < location.offset && lives(tables, ino, place, (id, start, start + PAGE), seq)? {
            start += PAGE;
        }
        if end > location.offset + stretch.len
            && start < end
            && lives(tables, ino, place, (id, end - PAGE, end), seq)?
        {
            end -= PAGE;
        }
        if start < end {
            for (kept, until) in cloned(tables, (id, start, end), seq, false)? {
                self.take(file, start, kept);
                start = start.max(until);
            }
            self.take(file, start, end);
        }
        Ok(())
    }

    fn take(&mut self, file: u32, start: u64, end: u64) {
        if start >= end {
            return;
        }
        match self.pages.last_mut() {
            // Side by side, or two stretches in one page.
            Some(last)
                if last.file == file && (last.offset..=last.offset + last.len).contains(&start) =>
            {
                last.len = last.len.max(end - last.offset);
            }
            _ => self.pages.push(Freed { file, offset: start, len: end - start }),
        }
    }
}

/// The ranges of files whose content before `event` is not their content after it.
pub(super) fn ranges_of(event: &Event<'_>) -> Vec<(Ino, u64, u64)> {
    let reach = |offset: u64, len: u64, ends: bool| if ends { u64::MAX - offset } else { len };
    match &event.change {
        Change::Write { ino, offset, data, ends, .. } => {
            vec![(*ino, *offset, reach(*offset, data.len(), *ends))]
        }
        Change::SetAttr { ino, set, .. } => {
            set.size.map(|size| (*ino, size, u64::MAX - size)).into_iter().collect()
        }
        Change::Fallocate {
            ino,
            how: Allocation::Punch | Allocation::Zero { .. },
            offset,
            len,
            ..
        } => {
            vec![(*ino, *offset, *len)]
        }
        Change::Clone { dst, dst_offset, len, ends, .. } => {
            vec![(*dst, *dst_offset, reach(*dst_offset, *len, *ends))]
        }
        Change::End { ino } => vec![(*ino, 0, u64::MAX)],
        _ => Vec::new(),
    }
}

/// Whether a tree from event `seq` on needs any of the `len` bytes at `place`, which `ino` got at `offset` by an
/// event that is not after it. Once this is not so it never is again: what a tree has, it has from the one
/// before, or from nowhere.
pub(super) fn is_needed(
    tables: &Tables,
    (ino, offset): (Ino, u64),
    len: u64,
    place: Location,
    seq: Seq,
) -> Result<bool, IndexError> {
    let bytes = (place.file, place.offset, place.offset.saturating_add(len));
    Ok(shows(tables, ino, (offset, len), bytes, seq)?
        || !cloned(tables, bytes, seq, true)?.is_empty())
}

/// Whether `ino` has bytes in the pages `start..end` of a file of the store after event `seq`, where the byte
/// that lies (or lay) at `at` of that file is at `offset` of it. A page belongs to one extent, so
/// what else it holds of that extent lies in the file at the same distance.
fn lives(
    tables: &Tables,
    ino: Ino,
    place: (u64, u64),
    (file, start, end): (FileId, u64, u64),
    seq: Seq,
) -> Result<bool, IndexError> {
    let Some(range) = range_at(place, (start, end)) else { return Ok(false) };
    shows(tables, ino, range, (file, start, end), seq)
}

/// The range (offset, length) of a file in which the bytes `start..end` of one of the store's would be, if the
/// one at `at` is at `offset`.
fn range_at((offset, at): (u64, u64), (start, end): (u64, u64)) -> Option<(u64, u64)> {
    let shift = |place: u64| offset.saturating_add(place).checked_sub(at);
    // Where they begin before the file does, only what is in the file counts.
    let first = shift(start).unwrap_or(0);
    let last = shift(end).filter(|&last| last > first)?;
    Some((first, last - first))
}

/// Whether bytes of `ino` in a range (offset, length) lie in `start..end` of a file of the store after event `seq`.
fn shows(
    tables: &Tables,
    ino: Ino,
    (offset, len): (u64, u64),
    (file, start, end): (FileId, u64, u64),
    seq: Seq,
) -> Result<bool, IndexError> {
    if tables.inode(ino, seq)?.is_none() {
        return Ok(false);
    }
    let mut now = Vec::new();
    tables.stretches(ino, offset, len, seq, &mut now)?;
    Ok(now.iter().any(|stretch| {
        stretch.at.is_some_and(|at| {
            at.file == file && at.offset < end && at.offset.saturating_add(stretch.len) > start
        })
    }))
}

/// What of a file of the store a clone, or what it was made of, still needs after event `seq`: whole pages, in order,
/// or only the `first` of them.
///
/// Each clone noted down both files, so whoever has the bytes is known, but for who wrote them if they
/// were never cloned from there. A file that is not there yet at `seq` gets them from one that is. That one may
/// be said to have them elsewhere, where a relocation put them after the clone was made: so whatever
/// was laid since counts too.
fn cloned(
    tables: &Tables,
    (file, start, end): (FileId, u64, u64),
    seq: Seq,
    first: bool,
) -> Result<Vec<(u64, u64)>, IndexError> {
    let mut references = Vec::new();
    tables.shared(file, start, end, &mut |location, len, ino, offset| {
        let pages = location.offset / PAGE * PAGE
            ..location.offset.saturating_add(len).next_multiple_of(PAGE);
        references.push((
            pages.start.max(start),
            pages.end.min(end),
            ino,
            (offset, location.offset),
        ));
        ControlFlow::Continue(())
    })?;
    let mut kept: Vec<(u64, u64)> = Vec::new();
    // They come in the order in which they lie.
    for (from, to, ino, place) in references {
        if kept.last().is_some_and(|(_, until)| to <= *until) {
            continue;
        }
        let Some(range) = range_at(place, (from, to)) else { continue };
        if shows(tables, ino, range, (file, from, to), seq)?
            || tables.laid_since(ino, range, (file, from, to), seq)?
        {
            kept.push((from, to));
            if first {
                break;
            }
        }
    }
    Ok(kept)
}
