//! Puts together what lies in many small pieces, once nobody changes it any more.
//!
//! ```text
//!   frayed ------------> candidate --- left alone for QUIET ---> copied, noted in the log, relocated
//!   (said by the index)      ^  |
//!                            +--+ changed meanwhile
//! ```
//!
//! What is moved is read by way of the present tree, without a lock, and appended to a content file. Then,
//! while nothing can change, it is seen whether the tree still says the same; if not, the copy is
//! given back. Older trees keep reading the old pieces, which the horizon frees when it comes to the relocation.
//! Candidates are kept in memory: a store that is closed before their time forgets them until they are
//! written to again.
//!
//! What is moved is checked against the checksum it was written with (see `sources`), for the copy gets a fresh one that would
//! vouch for whatever was read. Damaged bytes stay where they are, so that `verify` goes on finding them, and it is said in
//! the log of the server. Only what history was given back from, so that no checksum of it can hold any more, is moved as it is.
//!
//! Invariants: no tree changes; only data is moved, holes stay; at most [`TURN_BYTES`] are moved at a
//! time, for no longer than [`TURN`], and nothing while the disk has little space left.

use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLockUpgradableReadGuard};
use rustc_hash::FxHashMap;

use super::codec::{Left, Note};
use super::event::{FileId, Ino, Place, Seq, Timestamp};
use super::index::{Index, Stretch};
use super::journal::Journal;
use super::sources::{Read, Sources};
use super::txn::torn;
use super::{CommitError, Placed, index_mark};

/// How long a file must have been left alone, in nanoseconds.
const QUIET: i64 = 10_000_000_000;
/// Most files that are waited for.
const CANDIDATES_MAX: usize = 4096;
/// Most bytes that are moved before the store's thread sees to its other duties.
const TURN_BYTES: u64 = 8 << 20;
/// How long that may take.
const TURN: Duration = Duration::from_millis(300);
/// Most windows that are looked at in that time.
const TURN_WINDOWS: usize = 512;
/// How much of a file is looked at, and moved, at once.
const WINDOW: u64 = 1 << 20;
/// Where pieces are counted.
const CHUNK: u64 = 64 << 10;
/// Pieces in a chunk that make moving it worth while.
const PIECES: usize = 8;
/// Fewer pieces without a hole between them stay where they are.
const RUN_MIN: usize = 4;
/// Pieces in content files that one relocation leaves behind at most: its note must fit any segment.
const LEFT_MAX: usize = 256;
/// Space on the disk that is left alone, if the disk is large enough to speak of it.
const FREE_MIN: u64 = 2 << 30;

/// Waits for candidates and moves them.
#[derive(Default)]
pub(super) struct Relocator {
    candidates: Mutex<FxHashMap<Ino, Candidate>>,
    sources: Mutex<Sources>,
}

/// A file that may be worth it.
#[derive(Clone, Copy)]
struct Candidate {
    /// The range that collected pieces.
    from: u64,
    to: u64,
    /// The version of the file when it was last looked at.
    changed: Seq,
    /// Since when it is that version, as far as was looked.
    since: Timestamp,
}

/// Pieces one behind the other, to become one.
#[derive(Debug)]
struct Run {
    offset: u64,
    len: u64,
    /// How many of them lie in content files.
    left: usize,
    pieces: Vec<Stretch>,
}

impl Relocator {
    /// Looks at the candidates, and moves some of what was left alone for long enough.
    pub(super) fn run(
        &self,
        journal: &Journal,
        index: &Index,
        now: Timestamp,
    ) -> Result<(), CommitError> {
        let mut candidates = self.candidates.lock();
        for (ino, from, to) in index.read().take_frayed() {
            if candidates.len() < CANDIDATES_MAX || candidates.contains_key(&ino) {
                let new = Candidate { from, to, changed: Seq::ZERO, since: now };
                let known = candidates.entry(ino).or_insert(new);
                (known.from, known.to) = (known.from.min(from), known.to.max(to));
            }
        }
        if candidates.is_empty() || journal.check_writable().is_err() {
            return Ok(());
        }
        let mut ready = Vec::new();
        let mut failed = None;
        candidates.retain(|&ino, candidate| match index.read().inode(ino, Seq::NOW) {
            Ok(Some(inode)) => {
                // A clock that was set back must not make it wait for ever.
                if inode.changed != candidate.changed || now < candidate.since {
                    (candidate.changed, candidate.since) = (inode.changed, now);
                } else if now.0.saturating_sub(candidate.since.0) >= QUIET {
                    ready.push(ino);
                }
                true
            }
            Ok(None) => false,
            Err(err) => {
                failed = Some(err);
                true
            }
        });
        if let Some(err) = failed {
            return Err(CommitError::Index(err));
        }
        if ready.is_empty() || !roomy(journal)? {
            return Ok(());
        }
        let until = Instant::now() + TURN;
        let mut sources = self.sources.lock();
        let sources = &mut *sources;
        let mut turn =
            Turn { journal, index, sources, bytes: TURN_BYTES, windows: TURN_WINDOWS, until };
        for ino in ready {
            let Some(candidate) = candidates.get_mut(&ino) else { continue };
            match turn.work(ino, candidate) {
                Ok(true) => _ = candidates.remove(&ino),
                Ok(false) => break,
                // What others need more.
                Err(CommitError::NoSpace) => return Ok(()),
                Err(err) => return Err(err),
            }
        }
        Ok(())
    }
}

/// Whether there is more space than anyone may soon need.
fn roomy(journal: &Journal) -> Result<bool, CommitError> {
    let space = journal.disk().space().map_err(CommitError::Io)?;
    Ok(space.available > FREE_MIN.min(space.total / 3))
}

/// What is left to do of one turn.
struct Turn<'s> {
    journal: &'s Journal,
    index: &'s Index,
    sources: &'s mut Sources,
    bytes: u64,
    windows: usize,
    until: Instant,
}

impl Turn<'_> {
    /// Moves what is worth it of a file, and says whether all of it was looked at.
    fn work(&mut self, ino: Ino, candidate: &mut Candidate) -> Result<bool, CommitError> {
        while candidate.from < candidate.to {
            if self.bytes == 0 || self.windows == 0 || Instant::now() > self.until {
                return Ok(false);
            }
            self.windows -= 1;
            let tables = self.index.read();
            let data = tables.seek(ino, candidate.from, false, Seq::NOW);
            let Some(data) = data.map_err(CommitError::Index)? else { break };
            let start = data / CHUNK * CHUNK;
            let end = start.saturating_add(WINDOW).min(candidate.to);
            let mut stretches = Vec::new();
            let found = match end.checked_sub(start) {
                Some(len) => tables.stretches(ino, start, len, Seq::NOW, &mut stretches),
                None => break,
            };
            drop(tables);
            found.map_err(CommitError::Index)?;
            for run in runs(&stretches) {
                self.bytes = self.bytes.saturating_sub(run.len);
                // Of a file that changes again, the rest is for another time.
                if !self.relocate(ino, &run)? {
                    return Ok(true);
                }
            }
            candidate.from = end;
        }
        Ok(true)
    }

    /// Copies a run and lets the tree refer to the copy, unless it is damaged; false if the tree has changed meanwhile.
    fn relocate(&mut self, ino: Ino, run: &Run) -> Result<bool, CommitError> {
        let Self { journal, index, .. } = *self;
        let content = journal.content();
        let mut bytes = vec![0; usize::try_from(run.len).unwrap_or_default()];
        {
            let pin = content.pin();
            // Only what the tree refers to now is safe from being given back.
            if !is_same(index, ino, run)? {
                return Ok(false);
            }
            let mut places = Vec::with_capacity(run.pieces.len());
            let mut start = 0;
            for piece in &run.pieces {
                let end = start + usize::try_from(piece.len).unwrap_or_default();
                places.extend(piece.at.map(|at| (at, piece.offset, start..end)));
                start = end;
            }
            // In the order in which they lie, the records that wrote them are found in one go.
            places.sort_unstable_by_key(|(at, ..)| (at.file, at.offset));
            for (at, offset, range) in places {
                let Some(here) = bytes.get_mut(range) else { return Ok(false) };
                let why = match self.sources.read(journal, at, here) {
                    Ok(Read::Whole | Read::Unchecked) => continue,
                    Ok(Read::Damaged(place)) => format!("damaged at {place}"),
                    Ok(Read::Unknown) => "of an unknown write".to_owned(),
                    Err(err) => format!("unreadable ({err})"),
                };
                tracing::error!(
                    "byte {offset} of inode {ino} is {why}, and left where it is: see `lighthouse-fuse verify`"
                );
                return Ok(true);
            }
            drop(pin);
        }
        let mut placed = Placed::default();
        let data = journal.place_extent(&bytes, &mut placed)?;
        let Place::Extent { location, len, .. } = data.place else { return Ok(false) };
        let left = run.pieces.iter().filter_map(left_of).collect();
        let note = Note::Relocation { ino, offset: run.offset, data, left };

        let tables = index.decide();
        let mut now = Vec::new();
        let found = tables.stretches(ino, run.offset, run.len, Seq::NOW, &mut now);
        let appended = match found {
            Ok(()) if joined(&run.pieces) == now => journal.relocated(&note).map(Some),
            Ok(()) => Ok(None),
            Err(err) => Err(CommitError::Index(err)),
        };
        let Ok(Some(record_len)) = appended else {
            drop(tables);
            content.discard(location, len);
            return appended.map(|_| false);
        };
        // No event comes in between, as these tables are needed for one. Nor is the log waited for once they are taken.
        let mark = journal.mark();
        let mut tables = RwLockUpgradableReadGuard::upgrade(tables);
        let applied = tables
            .relocate(ino, run.offset, run.len, location)
            .and_then(|()| index.advance(&mut tables, record_len, || index_mark(&mark)));
        applied.map(|()| true).map_err(|err| torn(journal, index, err))
    }
}

fn is_same(index: &Index, ino: Ino, run: &Run) -> Result<bool, CommitError> {
    let mut now = Vec::new();
    let tables = index.read();
    let found = tables.stretches(ino, run.offset, run.len, Seq::NOW, &mut now);
    found.map_err(CommitError::Index)?;
    Ok(joined(&run.pieces) == now)
}

/// Pieces as the tree says them: side by side in one file is one.
fn joined(pieces: &[Stretch]) -> Vec<Stretch> {
    let mut all: Vec<Stretch> = Vec::with_capacity(pieces.len());
    for &piece in pieces {
        match all.last_mut() {
            Some(last) if last.at.map(|at| at.advance(last.len)) == piece.at => {
                last.len += piece.len;
            }
            _ => all.push(piece),
        }
    }
    all
}

fn left_of(piece: &Stretch) -> Option<Left> {
    let at = piece.at?;
    match at.file {
        FileId::Content(file) => {
            Some(Left { offset: piece.offset, len: piece.len, file, at: at.offset })
        }
        // The log keeps what is in it.
        FileId::Log(_) => None,
    }
}

/// What of `stretches` (in order, without gaps) is worth moving, each without a hole inside.
fn runs(stretches: &[Stretch]) -> Vec<Run> {
    let pieces: Vec<Stretch> = stretches.iter().flat_map(by_chunk).collect();
    let mut runs: Vec<Run> = Vec::new();
    let mut open = false;
    for chunk in pieces.chunk_by(|one, next| one.offset / CHUNK == next.offset / CHUNK) {
        let frayed = chunk.iter().filter(|piece| piece.at.is_some()).count() >= PIECES;
        for piece in chunk {
            if !frayed || piece.at.is_none() {
                open = false;
                continue;
            }
            match runs.last_mut() {
                Some(run) if open && run.left < LEFT_MAX => {
                    run.left += usize::from(left_of(piece).is_some());
                    run.len += piece.len;
                    run.pieces.push(*piece);
                }
                _ => runs.push(Run {
                    offset: piece.offset,
                    len: piece.len,
                    left: usize::from(left_of(piece).is_some()),
                    pieces: vec![*piece],
                }),
            }
            open = true;
        }
    }
    runs.retain(|run| run.pieces.len() >= RUN_MIN);
    runs
}

/// A stretch cut where chunks end.
fn by_chunk(stretch: &Stretch) -> impl Iterator<Item = Stretch> + use<> {
    let Stretch { offset, len, at } = *stretch;
    let end = offset.saturating_add(len);
    let next = move |from: u64| (from / CHUNK + 1).saturating_mul(CHUNK);
    let starts = std::iter::successors(Some(offset), move |&from| Some(next(from)));
    starts.take_while(move |&from| from < end).map(move |from| Stretch {
        offset: from,
        len: next(from).min(end) - from,
        at: at.map(|at| at.advance(from - offset)),
    })
}

#[cfg(test)]
mod tests {
    use super::super::event::Location;
    use super::*;

    fn at(offset: u64, len: u64, place: u64) -> Stretch {
        let at = Location { file: FileId::Log(1), offset: place };
        Stretch { offset, len, at: Some(at) }
    }

    #[test]
    fn what_lies_together_stays_and_holes_are_not_filled() {
        let mut stretches: Vec<_> = (0..20).map(|n| at(n * 100, 100, n * 1000)).collect();
        stretches.push(Stretch { offset: 2000, len: 3000, at: None });
        stretches.extend((50..53).map(|n| at(n * 100, 100, n * 1000)));
        stretches.push(at(5300, 300_000, 0));
        let runs = runs(&stretches);
        let found: Vec<_> = runs.iter().map(|run| (run.offset, run.len)).collect();
        assert_eq!(found, [(0, 2000), (5000, 60_536)]);
    }

    #[test]
    fn a_stretch_is_cut_where_chunks_end() {
        let cut: Vec<_> = by_chunk(&at(65_000, 70_000, 7)).collect();
        assert_eq!(cut, [at(65_000, 536, 7), at(65_536, 65_536, 543), at(131_072, 3928, 66_079)]);
    }
}
