//! What history is kept: when its budget is used up, the oldest part of it gives its space back.
//!
//! ```text
//!   events:   first ........... horizon .................................. last
//!             |  in the log,    |   every tree can be shown whole           |
//!             |  content freed  |
//! ```
//!
//! The horizon moves over events in their order. What an event superseded (overwrote, cut off,
//! punched, or ended) was last needed by the tree before it, so once the horizon has reached the
//! event, nothing needs it: unless a clone refers to it. The events stay; so do the bytes of small
//! writes, which are in the log.
//!
//! A label pins: the horizon stops at the oldest event that has one, whatever the budget says, for somebody
//! asked for that tree by name. When the disk is full nothing before the label's removal gives space back;
//! so [`Store::space`](super::Store::space) does not count it as free then.
//!
//! Invariants: the new horizon is durable before the first byte is freed; nothing is freed that a
//! tree at or after the horizon refers to, as a clone or otherwise.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};

use super::CommitError;
use super::codec::{Freed, Left, Note};
use super::content::PAGE;
use super::event::{Allocation, Change, Event, FileId, Ino, Location, Seq};
use super::index::{Index, IndexError, Stretch, Tables};
use super::journal::Journal;
use super::log::{LogReader, Next};
use super::record::Entry;

/// What is left free for others, if the disk is large enough to speak of it.
const FREE_MIN: u64 = 1 << 30;
/// The least that history may take by default.
const HISTORY_MIN: u64 = 10 << 30;
/// How much is freed at a time when a write met a full disk.
const ROOM: u64 = 256 << 20;
/// Ranges that one note holds at most: it must fit any segment.
const RANGES_MAX: usize = 256;
/// How long the store's own thread is at it before it sees to its other duties.
const TURN: Duration = Duration::from_millis(300);
/// How much of a file is looked at in one go.
const WINDOW: u64 = 1 << 30;

/// Moves the horizon.
pub(super) struct Retainer {
    /// Bytes history may take; `None` is the default.
    budget: Option<u64>,
    walk: Mutex<Walk>,
    /// The journal's horizon, or what it is about to be: every question about the past asks.
    horizon: AtomicU64,
}

/// The horizon, standing still.
pub(super) struct HorizonHeld<'r> {
    _walk: MutexGuard<'r, Walk>,
}

/// How far the horizon has come in the log.
#[derive(Default)]
struct Walk {
    reader: Option<LogReader>,
}

impl Retainer {
    pub(super) fn new(budget: Option<u64>, horizon: Seq) -> Self {
        Self { budget, walk: Mutex::default(), horizon: AtomicU64::new(horizon.0) }
    }

    /// The oldest tree that can be shown whole. Costs no lock.
    pub(super) fn horizon(&self) -> Seq {
        Seq(self.horizon.load(Ordering::Acquire))
    }

    /// While this is held the horizon stays where it is. Taken before the tables.
    pub(super) fn hold(&self) -> HorizonHeld<'_> {
        HorizonHeld { _walk: self.walk.lock() }
    }

    /// Whether a label keeps the horizon from moving.
    pub(super) fn is_pinned(journal: &Journal, index: &Index) -> Result<bool, IndexError> {
        let first = index.read().first_labelled()?;
        Ok(first.is_some_and(|first| first <= journal.horizon()))
    }

    /// Frees what is over the budget, or is wanted for what must be left free.
    pub(super) fn run(&self, journal: &Journal, index: &Index) -> Result<(), CommitError> {
        let content = journal.content().allocated().map_err(CommitError::Io)?;
        let totals = index.read().totals();
        let live = totals.allocated.saturating_add(totals.kept);
        let history = content.saturating_sub(live);
        let budget = self.budget.unwrap_or_else(|| HISTORY_MIN.max(live.saturating_mul(2)));
        let space = journal.disk().space().map_err(CommitError::Io)?;
        let short = FREE_MIN.min(space.total / 4).saturating_sub(space.available);
        let wanted = history.saturating_sub(budget).max(short.min(history));
        if wanted > 0 && journal.check_writable().is_ok() {
            self.free(journal, index, wanted, Some(Instant::now() + TURN))?;
        }
        Ok(())
    }

    /// Frees what it can, up to a good deal, for a write that found the disk full. The caller holds
    /// neither a pin nor the tables.
    pub(super) fn make_room(&self, journal: &Journal, index: &Index) -> Result<(), CommitError> {
        self.free(journal, index, ROOM, None).map(drop)
    }

    /// Moves the horizon until `wanted` bytes are freed, it has come to the last event, or it is late.
    /// Returns how many were.
    fn free(
        &self,
        journal: &Journal,
        index: &Index,
        wanted: u64,
        until: Option<Instant>,
    ) -> Result<u64, CommitError> {
        let mut walk = self.walk.lock();
        let result = self.walk(&mut walk, journal, index, wanted, until);
        if result.is_err() {
            // It may have gone past events that the horizon has not.
            walk.reader = None;
            self.horizon.store(journal.horizon().0, Ordering::Release);
        }
        result
    }

    fn walk(
        &self,
        walk: &mut Walk,
        journal: &Journal,
        index: &Index,
        wanted: u64,
        until: Option<Instant>,
    ) -> Result<u64, CommitError> {
        let before = journal.content().freed();
        let freed = || journal.content().freed() - before;
        let mut ranges = Vec::new();
        let mut pending = 0;
        let mut horizon = journal.horizon();
        // No label comes to be meanwhile: whoever makes one holds the horizon.
        let pinned = index.read().first_labelled().map_err(CommitError::Index)?;
        let pinned = pinned.unwrap_or(Seq::NOW);
        while horizon < pinned && freed() + pending < wanted {
            let Some(event_at) = walk.next(journal, horizon).map_err(CommitError::Io)? else {
                break;
            };
            let Walked { seq, dead, left } = event_at;
            if seq > pinned {
                // The reader is past an event that the horizon is not.
                walk.reader = None;
                break;
            }
            for (ino, left) in left {
                let tables = index.read();
                abandoned(&tables, ino, left, seq, &mut ranges).map_err(CommitError::Index)?;
                drop(tables);
                self.give_back_full(journal, seq, &mut ranges)?;
            }
            for (ino, offset, len) in dead {
                // Only what the file had can have died; most ranges are open to the end of numbers.
                let before = Seq(seq.0.saturating_sub(1));
                let inode = index.read().inode(ino, before).map_err(CommitError::Index)?;
                let size = inode.map_or(0, |inode| inode.size);
                let mut offset = offset;
                let end = offset.saturating_add(len).min(size);
                while offset < end {
                    let len = (end - offset).min(WINDOW);
                    // Held for as long as one look takes, so that changes go on meanwhile.
                    let tables = index.read();
                    superseded(&tables, ino, offset, len, seq, &mut ranges)
                        .map_err(CommitError::Index)?;
                    drop(tables);
                    offset += len;
                    self.give_back_full(journal, seq, &mut ranges)?;
                }
            }
            horizon = seq;
            pending = ranges.iter().map(|range: &Freed| range.len).sum();
            if until.is_some_and(|until| Instant::now() > until) {
                break;
            }
        }
        if horizon > journal.horizon() || !ranges.is_empty() {
            self.give_back(journal, horizon, ranges)?;
        }
        Ok(freed())
    }

    /// Gives back as many ranges as make full notes.
    fn give_back_full(
        &self,
        journal: &Journal,
        seq: Seq,
        ranges: &mut Vec<Freed>,
    ) -> Result<(), CommitError> {
        while ranges.len() > RANGES_MAX {
            let rest = ranges.split_off(RANGES_MAX);
            self.give_back(journal, seq, std::mem::replace(ranges, rest))?;
        }
        Ok(())
    }

    /// Whoever asks for an older tree hears of it before the first byte goes.
    fn give_back(
        &self,
        journal: &Journal,
        horizon: Seq,
        ranges: Vec<Freed>,
    ) -> Result<(), CommitError> {
        self.horizon.fetch_max(horizon.0, Ordering::AcqRel);
        journal.give_back(horizon, ranges)
    }
}

/// One event, or a relocation after it.
struct Walked {
    seq: Seq,
    /// What of which files may have died with the event.
    dead: Vec<(Ino, u64, u64)>,
    /// What the relocation left behind.
    left: Vec<(Ino, Left)>,
}

impl Walk {
    /// The next event behind `horizon`.
    fn next(&mut self, journal: &Journal, horizon: Seq) -> std::io::Result<Option<Walked>> {
        if self.reader.is_none() {
            let disk = std::sync::Arc::clone(journal.disk());
            self.reader = Some(LogReader::before(disk, journal.store_id(), horizon)?);
        }
        let Some(reader) = &mut self.reader else { return Ok(None) };
        // Not beyond what is acknowledged: a record may be there a moment before its event is.
        let last = journal.next_seq();
        while reader.mark().seq.next() < last {
            let Next::Record(_, record) = reader.read()? else { return Ok(None) };
            let seq = record.stamp().seq;
            // A relocation is of the tree after the event it follows: once more at a new start is no harm.
            if seq < horizon || record.is_event() && seq == horizon {
                continue;
            }
            match record.entry() {
                Some(Entry::Event(event)) => {
                    return Ok(Some(Walked { seq, dead: ranges_of(&event), left: Vec::new() }));
                }
                Some(Entry::Note(Note::Relocation { ino, left, .. })) => {
                    let left = left.into_iter().map(|left| (ino, left)).collect();
                    return Ok(Some(Walked { seq, dead: Vec::new(), left }));
                }
                Some(Entry::Note(_)) => (),
                None => return Ok(None),
            }
        }
        Ok(None)
    }
}

/// The ranges of files whose content before `event` is not their content after it.
fn ranges_of(event: &Event<'_>) -> Vec<(Ino, u64, u64)> {
    match &event.change {
        Change::Write { ino, offset, data, .. } => vec![(*ino, *offset, data.len())],
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
        Change::Clone { dst, dst_offset, len, .. } => vec![(*dst, *dst_offset, *len)],
        Change::End { ino } => vec![(*ino, 0, u64::MAX)],
        _ => Vec::new(),
    }
}

/// Appends the pages that nothing needs any more once the tree before event `seq` is given up, of
/// those that held `offset..offset + len` of `ino` in it.
fn superseded(
    tables: &Tables,
    ino: Ino,
    offset: u64,
    len: u64,
    seq: Seq,
    out: &mut Vec<Freed>,
) -> Result<(), IndexError> {
    let before = Seq(seq.0.saturating_sub(1));
    let mut old = Vec::new();
    tables.stretches(ino, offset, len, before, &mut old)?;
    for stretch in old {
        release(tables, ino, &stretch, seq, out)?;
    }
    Ok(())
}

/// Appends the pages of what a relocation left behind, once the trees before event `seq` are given up.
fn abandoned(
    tables: &Tables,
    ino: Ino,
    left: Left,
    seq: Seq,
    out: &mut Vec<Freed>,
) -> Result<(), IndexError> {
    let at = Location { file: FileId::Content(left.file), offset: left.at };
    let stretch = Stretch { offset: left.offset, len: left.len, at: Some(at) };
    let end = left.at.saturating_add(left.len);
    if shows(tables, ino, (left.offset, left.len), (left.file, left.at, end), seq)? {
        return Ok(());
    }
    release(tables, ino, &stretch, seq, out)
}

/// Appends those pages of `stretch` that nothing needs after event `seq`; `ino` had it before, and
/// does not have it any more.
fn release(
    tables: &Tables,
    ino: Ino,
    stretch: &Stretch,
    seq: Seq,
    out: &mut Vec<Freed>,
) -> Result<(), IndexError> {
    let Some(location) = stretch.at else { return Ok(()) };
    let FileId::Content(file) = location.file else { return Ok(()) };
    let place = (stretch.offset, location.offset);
    let mut start = location.offset / PAGE * PAGE;
    let mut end = location.offset.saturating_add(stretch.len).next_multiple_of(PAGE);
    // The first and the last page may hold bytes of the same extent that live on.
    if start < location.offset && lives(tables, ino, place, (file, start, start + PAGE), seq)? {
        start += PAGE;
    }
    if end > location.offset + stretch.len
        && start < end
        && lives(tables, ino, place, (file, end - PAGE, end), seq)?
    {
        end -= PAGE;
    }
    if start < end && !cloned(tables, (file, start, end), seq)? {
        match out.last_mut() {
            // Side by side, or two stretches in one page.
            Some(last)
                if last.file == file && (last.offset..=last.offset + last.len).contains(&start) =>
            {
                last.len = last.len.max(end - last.offset);
            }
            _ => out.push(Freed { file, offset: start, len: end - start }),
        }
    }
    Ok(())
}

/// Whether `ino` has bytes in the pages `start..end` of a content file after event `seq`, where the byte
/// that lies (or lay) at `at` of the content file is at `offset` of it. A page belongs to one extent, so
/// what else it holds of that extent lies in the file at the same distance.
fn lives(
    tables: &Tables,
    ino: Ino,
    (offset, at): (u64, u64),
    (file, start, end): (u32, u64, u64),
    seq: Seq,
) -> Result<bool, IndexError> {
    let shift = |place: u64| offset.saturating_add(place).checked_sub(at);
    // Where the pages begin before the file does, only what is in the file counts.
    let first = shift(start).unwrap_or(0);
    let Some(last) = shift(end).filter(|&last| last > first) else { return Ok(false) };
    shows(tables, ino, (first, last - first), (file, start, end), seq)
}

/// Whether bytes of `ino` in a range (offset, length) lie in `start..end` of a content file after event `seq`.
fn shows(
    tables: &Tables,
    ino: Ino,
    (offset, len): (u64, u64),
    (file, start, end): (u32, u64, u64),
    seq: Seq,
) -> Result<bool, IndexError> {
    if tables.inode(ino, seq)?.is_none() {
        return Ok(false);
    }
    let mut now = Vec::new();
    tables.stretches(ino, offset, len, seq, &mut now)?;
    Ok(now.iter().any(|stretch| {
        stretch.at.is_some_and(|at| {
            at.file == FileId::Content(file)
                && at.offset < end
                && at.offset.saturating_add(stretch.len) > start
        })
    }))
}

/// Whether a clone, or what it was made of, still needs pages of a content file after event `seq`.
///
/// Each clone noted down both files, so whoever has the bytes is known, but for who wrote them if they
/// were never cloned from there. A file that is not there yet at `seq` gets them from one that is.
fn cloned(
    tables: &Tables,
    (file, start, end): (u32, u64, u64),
    seq: Seq,
) -> Result<bool, IndexError> {
    let mut references = Vec::new();
    tables.shared(FileId::Content(file), start, end, &mut |location, _, ino, offset| {
        references.push((ino, (offset, location.offset)));
        ControlFlow::Continue(())
    })?;
    for (ino, place) in references {
        if lives(tables, ino, place, (file, start, end), seq)? {
            return Ok(true);
        }
    }
    Ok(false)
}
