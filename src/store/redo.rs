//! Redo: at opening, what the log has and the index has not yet is folded into it; an index that is damaged, or of another log,
//! is built anew from all of it.
//!
//! Invariants: an index that was opened knows all of the log up to its end, or up to where it is damaged, and nothing else.

use std::io;
use std::sync::Arc;

use super::codec::Note;
use super::disk::{self, Disk};
use super::event::Place;
use super::index::{self, Index, IndexError};
use super::index_mark;
use super::journal::{Journal, OpenError};
use super::log::{self, Mark, Next};
use super::record::Entry;
use super::recover::Damage;
use super::segment::Position;

/// What of the log was folded into the index.
#[derive(Default)]
pub(super) struct Replayed {
    /// How many events.
    pub(super) count: u64,
    /// Where it broke off before the log's end.
    pub(super) damage: Option<Damage>,
}

/// Opens the index and folds in what the log has beyond it, up to damage; batches are committed meanwhile and later on by a
/// thread of its own, if it is to be `threaded`.
pub(super) fn open_index(
    journal: &Arc<Journal>,
    options: &index::Options,
    threaded: bool,
    damaged: bool,
) -> Result<(Index, Replayed), OpenError> {
    let disk = &**journal.disk();
    let (store, key) = (journal.store_id(), journal.key());
    let start = |index: &Index| if threaded { start_index(index, journal) } else { Ok(()) };
    let opened = match open_rows(journal, options) {
        Err(IndexError::Damaged(what)) => {
            tracing::warn!("the index is rebuilt: {what}");
            None
        }
        other => Some(other.map_err(OpenError::Index)?),
    };
    if let Some(index) = opened {
        let applied = index.applied().map(|mark| Mark::from_bytes(&mark.0));
        let end = journal.mark();
        let usable = match applied {
            None => Some(None),
            // Beyond damage the index knows what the log cannot say any more.
            Some(Some(mark)) if damaged && mark.position >= end.position => {
                start(&index)?;
                return Ok((index, Replayed::default()));
            }
            Some(Some(mark)) if mark.store == store && follows(journal, &mark, &end)? => {
                Some(Some(mark))
            }
            Some(_) => None,
        };
        if let Some(from) = usable {
            start(&index)?;
            match replay(journal, &index, from) {
                Ok(replayed) => return Ok((index, replayed)),
                Err(IndexError::Damaged(what)) => tracing::warn!("the index is rebuilt: {what}"),
                Err(err) => return Err(OpenError::Index(err)),
            }
        }
    }
    Index::remove(disk)?;
    let index = Index::open(disk, store, &key, options).map_err(OpenError::Index)?;
    start(&index)?;
    let replayed = replay(journal, &index, None).map_err(OpenError::Index)?;
    Ok((index, replayed))
}

/// Starts the thread of an index into which what opening found in the log is about to be folded.
fn start_index(index: &Index, journal: &Arc<Journal>) -> io::Result<()> {
    let found = journal.mark().position;
    let (log, disk) = (Arc::clone(journal), Arc::clone(journal.disk()));
    let sync_log = move |mark: &index::Mark| match Mark::from_bytes(&mark.0) {
        // What was found is durable: opening saw to that.
        Some(mark) if mark.position <= found => Ok(()),
        _ => log.sync_now().map_err(io::Error::other),
    };
    let damaged = move |what: &str| {
        if let Err(error) = remove_index(&*disk, what) {
            tracing::warn!(%error, "the damaged index could not be removed; remove index/ yourself");
        }
    };
    index.start(sync_log, damaged)
}

/// Removes an index that is damaged. The log has all of it, so nothing is lost: the next start folds that into another one.
pub(super) fn remove_index(disk: &dyn Disk, what: &str) -> io::Result<()> {
    tracing::warn!("the index is damaged, and the next start rebuilds it: {what}");
    Index::remove(disk)
}

/// Opens the index as it was left. One that was killed while it committed may need space for that: on a full disk what is
/// set aside for the log.
fn open_rows(journal: &Journal, options: &index::Options) -> Result<Index, IndexError> {
    /// What the segment is called meanwhile.
    const LENT: &str = "index/lent";
    let disk = &**journal.disk();
    let (store, key) = (journal.store_id(), journal.key());
    // One that was killed while it was lent.
    match disk.remove(LENT) {
        Err(err) if err.kind() != io::ErrorKind::NotFound => return Err(IndexError::Io(err)),
        _ => (),
    }
    let full = match Index::open(disk, store, &key, options) {
        Err(IndexError::Io(err)) if disk::is_full(&err) => err,
        other => return other,
    };
    tracing::warn!("the disk is full; the index is opened with space that was set aside ({full})");
    let mut opened = None;
    let lent = journal.lend(LENT, || {
        disk.remove(LENT)?;
        opened = Some(Index::open(disk, store, &key, options));
        Ok(())
    });
    match opened {
        Some(opened) => opened,
        None => Err(IndexError::Io(lent.err().unwrap_or(full))),
    }
}

/// Whether a mark of the index is a place in this log.
fn follows(journal: &Journal, mark: &Mark, end: &Mark) -> io::Result<bool> {
    if mark.position >= end.position {
        return Ok(mark == end);
    }
    match journal.reader(Some(*mark)) {
        Ok(mut reader) => Ok(matches!(reader.read_on()?, Next::Record(..))),
        Err(err) if matches!(err.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidData) => {
            Ok(false)
        }
        Err(err) => Err(err),
    }
}

/// Folds the log from `from` to its end into the index. A place before the end from which it cannot go on is damage: what
/// comes after it builds upon what is missing. From the start (`None`) an event that cannot be is damage of the log
/// too, and else the index's.
fn replay(journal: &Journal, index: &Index, from: Option<Mark>) -> Result<Replayed, IndexError> {
    let end = journal.mark();
    let mut replayed = Replayed::default();
    let start = from.map_or(Position::start_of(1), |from| from.position);
    if start >= end.position {
        return Ok(replayed);
    }
    let mut reader = match journal.reader(from) {
        Ok(reader) => reader,
        Err(err) if matches!(err.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidData) => {
            let at = Position { offset: 0, ..start };
            let what = "a segment is missing, or its header is damaged";
            replayed.damage = Some(Damage { at, what });
            return Ok(replayed);
        }
        Err(err) => return Err(IndexError::Io(err)),
    };
    let mut tables = index.write();
    while reader.mark().position < end.position {
        let mark = reader.mark();
        let (position, record) = match reader.read() {
            Ok(Next::Record(position, record)) => (position, record),
            Ok(Next::End(fault)) => {
                replayed.damage = Some(reader.damage(fault).map_err(IndexError::Io)?);
                break;
            }
            Err(err) => match log::damage_in(&err) {
                Some(damage) => {
                    replayed.damage = Some(damage.clone());
                    break;
                }
                None => return Err(IndexError::Io(err)),
            },
        };
        let len = record.len() as u64;
        let behind = Mark {
            position: position.advance(record.len()),
            prev: record.header.crc.get(),
            seq: record.stamp().seq,
            ..mark
        };
        let folded = match record.entry() {
            Some(Entry::Event(event)) => {
                tables.apply(&event, log::payload_of(position, &record, &event.change))
            }
            Some(Entry::Note(Note::Relocation { ino, offset, data, .. })) => match data.place {
                Place::Extent { location, len, .. } => tables.relocate(ino, offset, len, location),
                Place::Inline(_) => Ok(()),
            },
            Some(Entry::Note(Note::Label { name, seq })) => tables.set_label(name, seq),
            Some(Entry::Note(_)) => Ok(()),
            None => {
                let what = "a record makes no sense";
                replayed.damage = Some(Damage { at: position, what });
                break;
            }
        };
        match folded {
            Ok(()) => {
                replayed.count += u64::from(record.is_event());
                index.advance(&mut tables, len, || index_mark(&behind))?;
                index.read_on(&mut tables)?;
            }
            Err(IndexError::Damaged(why)) if from.is_none() => {
                tracing::error!("{position}: {why}");
                let what = "an event cannot have happened after those before it";
                replayed.damage = Some(Damage { at: position, what });
                break;
            }
            Err(err) => return Err(err),
        }
    }
    Ok(replayed)
}
