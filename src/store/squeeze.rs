//! Takes the content of dead writes out of old log segments.
//!
//! ```text
//!   segments:  1 ............. next ............... the horizon's ........... the one being written
//!              | looked at     | all before the     | not yet: a tree in      |
//!              | since the     | horizon, to be     | history may need any    |
//!              | start         | looked at          | of its writes           |
//! ```
//!
//! A write of a page or less travels in its event, as a rule; so its bytes are dead when no tree from the horizon
//! on refers to them: once that is so, it stays so, as content only ever comes from the present tree. A
//! segment of which enough is dead is copied without it, to a file of [another layout](super::squeezed)
//! that takes its place. The events stay, and so does every offset.
//!
//! Each segment is looked at when the horizon has passed it, and again when enough died in it since; what
//! died there is said by whoever moves the horizon. Nothing of this is kept on the disk: after a start
//! the segments are looked at anew, once history is over its budget.
//!
//! The copy is checked by reading it to its end. It takes the segment's name when it is on the disk, and when
//! everything is that the tables say; so after a power cut one of the two is there, and whole.
//!
//! On a disk that is full to the last byte there is no space for the copy. Then the segment that the log has set aside lends its
//! own; what the old one took is more than the copy does, so one can be set aside again.
//!
//! A segment that is damaged is left alone for good. One that could not be read or copied is tried again after a while.
//!
//! Invariants: a segment is left alone that recovery may have to look at, or that is damaged; a write of which
//! one byte is needed stays whole, for its checksum covers all; foreign events stay.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::CommitError;
use super::content::Content;
use super::dead::is_needed;
use super::disk::{Disk, File, is_full};
use super::event::{Change, Place, Seq};
use super::index::Index;
use super::journal::Journal;
use super::log::{LogReader, Mark, Next};
use super::record::Entry;
use super::segment::{new_segment_path, open_layout, segment_path, segment_start};
use super::squeezed::{self, Keep, Map, Squeezed};

/// A segment is copied if more of its file than one part in so many is dead.
const WORTH: u64 = 8;
/// The same while a write waits for space.
const WORTH_WHEN_FULL: u64 = 64;
/// Records that are looked at between two looks at the clock.
const STEP: usize = 64;
/// When a segment that could not be read or copied is tried again.
const TRY_AGAIN: Duration = Duration::from_secs(600);

/// What became of one go at it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Squeezing {
    /// Bytes of content taken out.
    pub(super) gained: u64,
    /// Whether nothing is left to be done before the horizon moves on.
    pub(super) done: bool,
}

/// How much one go may do.
#[derive(Clone, Copy, Debug)]
pub(super) struct Effort {
    /// Bytes of content that are enough.
    pub(super) wanted: u64,
    /// When to leave off; `None` is not before all is done.
    pub(super) until: Option<Instant>,
    /// Whether a write waits for it.
    pub(super) full: bool,
}

impl Effort {
    fn is_late(&self) -> bool {
        self.until.is_some_and(|until| Instant::now() > until)
    }
}

/// What is known of segments, and the one that is looked at.
pub(super) struct Squeezer {
    known: BTreeMap<u32, Known>,
    /// The first segment that was not looked at since the last round began.
    next: u32,
    /// Bytes that relocations moved away from wherever they were.
    moved: u64,
    look: Option<Look>,
    /// Segments that could not be read or copied, and when they are tried again.
    failed: BTreeMap<u32, Instant>,
}

/// What is known of a segment. Bytes are those of the content of small writes.
#[derive(Clone, Copy, Debug, Default)]
struct Known {
    /// Dead, as far as somebody looked or said.
    dead: u64,
    /// Not dead when it was looked at.
    live: u64,
    /// How long its file is; 0 until it was looked at.
    file_len: u64,
    /// It stays as it is: nothing is known of it, and nothing will be.
    alone: bool,
}

/// One segment being looked at.
struct Look {
    number: u32,
    horizon: Seq,
    file: Arc<dyn File>,
    map: Option<Arc<Map>>,
    file_len: u64,
    reader: LogReader,
    keep: Keep,
    dead: u64,
    live: u64,
    ended: bool,
}

/// Whether it is time for a segment.
enum Turn {
    Now,
    Later,
    Never,
}

impl Squeezer {
    pub(super) const fn new() -> Self {
        Self { known: BTreeMap::new(), next: 1, moved: 0, look: None, failed: BTreeMap::new() }
    }

    /// Takes note that the horizon came past the death of `bytes` in a segment.
    pub(super) fn died(&mut self, segment: u32, bytes: u64) {
        let known = self.known.entry(segment).or_default();
        // What dies where nothing is taken out is still to be had from elsewhere.
        if !known.alone {
            known.dead = known.dead.saturating_add(bytes);
        }
    }

    /// Takes note that the horizon came past a relocation of `bytes` out of some segments.
    pub(super) fn moved(&mut self, bytes: u64) {
        self.moved = self.moved.saturating_add(bytes);
    }

    /// Bytes that no tree needs, and that were not taken out yet: it is too early, or they are too few.
    pub(super) fn given_up(&self) -> u64 {
        self.known.values().map(|known| known.dead).sum::<u64>().saturating_add(self.moved)
    }

    /// Looks at segments, the oldest first and then those with the most dead bytes, and copies what
    /// is worth it. The horizon stands still meanwhile.
    pub(super) fn run(
        &mut self,
        journal: &Journal,
        index: &Index,
        effort: Effort,
    ) -> Result<Squeezing, CommitError> {
        let mut gained = 0;
        while gained < effort.wanted && !effort.is_late() {
            let look = match self.look.take() {
                Some(look) => look,
                None => match self.choose(journal, &effort)? {
                    Some(number) => match self.begin(journal, number) {
                        Ok(look) => look,
                        Err(err) => {
                            self.leave(number, &err);
                            continue;
                        }
                    },
                    None => return Ok(Squeezing { gained, done: true }),
                },
            };
            match self.go_on(journal, index, look, &effort)? {
                Some(bytes) => gained += bytes,
                None => break,
            }
        }
        Ok(Squeezing { gained, done: false })
    }

    /// The segment to look at now.
    fn choose(&mut self, journal: &Journal, effort: &Effort) -> Result<Option<u32>, CommitError> {
        loop {
            match turn_of(journal, self.next).map_err(CommitError::Io)? {
                Turn::Now => {
                    let number = self.next;
                    self.next += 1;
                    let known = self.known.get(&number).copied().unwrap_or_default();
                    // In a second round there may be nothing left to die.
                    let is_due = known.file_len == 0 || known.live + known.dead > 0;
                    if is_due && !known.alone && !self.failed.contains_key(&number) {
                        return Ok(Some(number));
                    }
                }
                Turn::Never => self.next += 1,
                Turn::Later => break,
            }
        }
        let now = Instant::now();
        let again = self.failed.iter().find(|(_, when)| **when <= now).map(|(&number, _)| number);
        if let Some(number) = again {
            self.failed.remove(&number);
            return Ok(Some(number));
        }
        let part = if effort.full { WORTH_WHEN_FULL } else { WORTH };
        let seen = self.known.range(..self.next);
        let worth = seen
            .filter(|(_, known)| known.file_len > 0 && known.is_worth(part))
            .filter(|(number, _)| !self.failed.contains_key(*number));
        if let Some((&number, _)) = worth.max_by_key(|(_, known)| known.dead) {
            return Ok(Some(number));
        }
        // What was moved out of segments that had been looked at before shows only in another round.
        let live: u64 = self.known.values().map(|known| known.live).sum();
        let longest = self.known.values().map(|known| known.file_len).max().unwrap_or_default();
        if self.moved > longest.max(live / WORTH) {
            self.moved = 0;
            self.next = 1;
            return self.choose(journal, effort);
        }
        Ok(None)
    }

    fn begin(&mut self, journal: &Journal, number: u32) -> io::Result<Look> {
        let disk = journal.disk();
        let opened = open_layout(&**disk, number)?;
        let opened = opened
            .map_err(|fault| io::Error::new(io::ErrorKind::InvalidData, fault.to_string()))?;
        let len = u32::try_from(opened.file.len()?).map_err(io::Error::other)?;
        let file_len = match &opened.map {
            Some(map) => map.file_len(),
            None => len.into(),
        };
        let file = Arc::clone(&opened.file);
        let reader = LogReader::over(Arc::clone(disk), journal.store_id(), number, file)?;
        // All of it is found out now, but for what dies meanwhile.
        self.known.entry(number).or_default().dead = 0;
        Ok(Look {
            number,
            horizon: journal.horizon(),
            file: opened.file,
            map: opened.map,
            file_len,
            reader,
            keep: Keep::new(len),
            dead: 0,
            live: 0,
            ended: false,
        })
    }

    /// Looks on, to the end of the segment if there is time; then copies it if that is worth it. Returns how many
    /// bytes were taken out, or `None` if it goes on another time.
    fn go_on(
        &mut self,
        journal: &Journal,
        index: &Index,
        mut look: Look,
        effort: &Effort,
    ) -> Result<Option<u64>, CommitError> {
        while !look.ended {
            match look.step(index) {
                Ok(()) if effort.is_late() && !look.ended => {
                    self.look = Some(look);
                    return Ok(None);
                }
                Ok(()) => (),
                Err(CommitError::Io(err)) => {
                    self.died(look.number, look.dead);
                    self.leave(look.number, &err);
                    return Ok(Some(0));
                }
                Err(err) => return Err(err),
            }
        }
        let Look { number, dead, live, file_len, .. } = look;
        let found = Known { dead, live, file_len, alone: false };
        let part = if effort.full { WORTH_WHEN_FULL } else { WORTH };
        if !found.is_worth(part) {
            let known = self.known.entry(number).or_default();
            *known = Known { dead: known.dead.saturating_add(dead), ..found };
            return Ok(Some(0));
        }
        // A power cut must not take back what says that these bytes are not needed.
        journal.sync_now()?;
        match look.replace(journal) {
            Ok(file_len) => {
                let known = self.known.entry(number).or_default();
                *known = Known { dead: known.dead, live, file_len, alone: false };
                Ok(Some(dead))
            }
            // Once there is space, or by then another has made some.
            Err(err) if is_full(&err) => {
                self.look = Some(look);
                Ok(None)
            }
            Err(err) => {
                self.died(number, dead);
                self.leave(number, &err);
                Ok(Some(0))
            }
        }
    }

    /// Leaves a segment as it is: for good if it is damaged, or else for a while.
    fn leave(&mut self, number: u32, why: &io::Error) {
        tracing::warn!("{} is left as it is: {why}", segment_path(number));
        if matches!(why.kind(), io::ErrorKind::InvalidData | io::ErrorKind::NotFound) {
            self.known.insert(number, Known { alone: true, ..Known::default() });
        } else {
            self.failed.insert(number, Instant::now() + TRY_AGAIN);
        }
    }
}

impl Known {
    const fn is_worth(&self, part: u64) -> bool {
        self.dead > self.file_len / part
    }
}

fn turn_of(journal: &Journal, number: u32) -> io::Result<Turn> {
    if number >= journal.scan_from() {
        return Ok(Turn::Later);
    }
    match segment_start(&**journal.disk(), journal.store_id(), number.saturating_add(1)) {
        Ok(Some(next)) if next.seq <= journal.horizon() => Ok(Turn::Now),
        Ok(Some(_)) => Ok(Turn::Later),
        // Where the log is damaged, nobody can tell where the segment should end.
        Ok(None) => Ok(Turn::Never),
        Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(Turn::Never),
        Err(err) => Err(err),
    }
}

impl Look {
    /// Looks at a few records more.
    fn step(&mut self, index: &Index) -> Result<(), CommitError> {
        for _ in 0..STEP {
            let Next::Record(position, record) =
                self.reader.read_here().map_err(CommitError::Io)?
            else {
                self.ended = true;
                return Ok(());
            };
            // A record is no longer than its segment.
            let (covered, tail) = (record.covered.len() as u32, record.tail.len() as u32);
            self.keep.keep(position.offset, covered);
            let mut kept = true;
            if record.is_event()
                && let Some(Entry::Event(event)) = record.entry()
                && let Change::Write { ino, offset, data, .. } = event.change
                && let Place::Inline(bytes) = data.place
                && !bytes.is_empty()
            {
                let place = position.location().advance(record.payload_offset() as u64);
                let len = bytes.len() as u64;
                if self.map.as_ref().is_some_and(|map| map.place_of(place.offset).is_none()) {
                    kept = false;
                } else if record.gone || event.seq > self.horizon {
                    self.live += len;
                } else {
                    // Held for as long as one look takes, so that changes go on meanwhile.
                    kept = is_needed(&index.read(), (ino, offset), len, place, self.horizon)
                        .map_err(CommitError::Index)?;
                    *(if kept { &mut self.live } else { &mut self.dead }) += len;
                }
                if !kept {
                    self.keep.gone(len);
                }
            }
            if kept {
                self.keep.keep(position.offset.saturating_add(covered), tail);
            }
        }
        Ok(())
    }

    /// Puts a copy without what is dead in the segment's place; returns how long its file is.
    fn replace(&mut self, journal: &Journal) -> io::Result<u64> {
        let (disk, store) = (journal.disk(), journal.store_id());
        let next = segment_start(&**disk, store, self.number.saturating_add(1))?;
        let end = self.reader.mark();
        if !next.is_some_and(|next| next.prev == end.prev && next.seq == end.seq) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a record of it is damaged"));
        }
        journal.begin_squeezing()?;
        let path = new_segment_path(self.number);
        match self.copy(journal.content(), disk, end, &path) {
            // Of one segment's space there is enough, whatever is kept of another.
            Err(err) if is_full(&err) => {
                journal.lend(&path, || self.copy(journal.content(), disk, end, &path))?;
            }
            copied => copied?,
        }
        disk.sync_dir("log")?;
        Ok(self.keep.map().file_len())
    }

    /// Makes the copy at `path`, up to `end`, and gives it the segment's name. Asks nothing of the journal, which may wait
    /// for this.
    fn copy(
        &self,
        content: &Content,
        disk: &Arc<dyn Disk>,
        end: Mark,
        path: &str,
    ) -> io::Result<()> {
        let copied =
            squeezed::write(&**disk, path, &*self.file, self.keep.map()).and_then(|file| {
                let copy = match Squeezed::open(&file)? {
                    Some(Ok(copy)) => Arc::new(copy),
                    _ => return Err(io::Error::other("its copy cannot be read")),
                };
                let mut reader = LogReader::over(Arc::clone(disk), end.store, self.number, copy)?;
                while let Next::Record(..) = reader.read_here()? {}
                if reader.mark() != end {
                    return Err(io::Error::other("its copy does not say the same"));
                }
                content.replace_segment(path, self.number)
            });
        if copied.is_err() {
            // What stays there is in nobody's way, and gone after the next start.
            let _ = disk.remove(path);
        }
        copied
    }
}

#[cfg(test)]
mod tests {
    use super::super::journal::Durability;
    use super::super::sim::SimDisk;
    use super::super::superblock::Shape;
    use super::*;

    #[test]
    fn what_is_left_alone_keeps_nothing_else_from_being_looked_at() {
        let shape = Shape { segment_len: 16 << 10, content_len: 1 << 20, content_step: 32 << 10 };
        let disk = Arc::new(SimDisk::new(64 << 20));
        let journal = Journal::create(disk, shape, Durability::Fsync).unwrap();
        let effort = Effort { wanted: 1, until: None, full: false };
        let mut squeezer = Squeezer::new();
        squeezer.died(1, 7);
        squeezer.leave(1, &io::ErrorKind::InvalidData.into());
        squeezer.died(1, 70);
        assert_eq!(squeezer.given_up(), 0, "nobody gets that");
        // What was moved is looked for in another round, and then no longer expected.
        squeezer.moved(1000);
        assert_eq!(squeezer.given_up(), 1000);
        assert_eq!(squeezer.choose(&journal, &effort).unwrap(), None);
        assert_eq!(squeezer.given_up(), 0);
    }

    #[test]
    fn what_could_not_be_read_is_tried_again_later() {
        let shape = Shape { segment_len: 16 << 10, content_len: 1 << 20, content_step: 32 << 10 };
        let disk = Arc::new(SimDisk::new(64 << 20));
        let journal = Journal::create(disk, shape, Durability::Fsync).unwrap();
        let effort = Effort { wanted: 1, until: None, full: false };
        let mut squeezer = Squeezer::new();
        squeezer.next = 3;
        squeezer.known.insert(2, Known { file_len: 100, dead: 90, ..Known::default() });
        squeezer.leave(2, &rustix::io::Errno::IO.into());
        assert_eq!(squeezer.choose(&journal, &effort).unwrap(), None, "not at once");
        assert_eq!(squeezer.given_up(), 90);
        squeezer.failed.insert(2, Instant::now());
        assert_eq!(squeezer.choose(&journal, &effort).unwrap(), Some(2));
    }
}
