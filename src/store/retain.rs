//! What history is kept: when its budget is used up, the oldest part of it gives its space back.
//!
//! ```text
//!   events:   first ........... horizon .................................. last
//!             |  in the log,    |   every tree can be shown whole           |
//!             |  content freed  |
//! ```
//!
//! The horizon moves over events in their order. What died with each (`dead`), content files give back at
//! once; what small writes have in the log is taken out (`squeeze`) segment by segment, once the horizon is
//! past all of one. The events stay.
//!
//! History is what content files and the small writes in the log take beyond what is live; of a file in a content file, that is
//! whole pages. What the horizon has passed and the log still has counts as given back: no more of history has to go for it.
//!
//! What several files share, as clones do, is live once. How much that is, is counted anew after changes, by and by: see
//! `index/shares.rs`. So it may be some seconds old, longer where there are millions of clones.
//! What goes meanwhile may be such a clone, and is taken for one: until the next count, no less is live than the last
//! one found and what came since.
//!
//! A label pins: the horizon stops at the oldest event that has one, whatever the budget says, for somebody
//! asked for that tree by name. When the disk is full nothing before the label's removal gives space back;
//! so [`Store::space`](super::Store::space) does not count it as free then.
//!
//! Invariants: the new horizon is durable before the first byte is freed; nothing is freed that a
//! tree at or after the horizon refers to, as a clone or otherwise.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};

use super::CommitError;
use super::codec::{Freed, Left, Note};
use super::dead::{Dead, ranges_of};
use super::event::{Ino, Seq};
use super::index::{Index, IndexError, Shares, Sought, Totals};
use super::journal::Journal;
use super::log::{LogReader, Next, damage_in};
use super::record::Entry;
use super::squeeze::{Effort, Squeezer};
use super::squeezed;

/// What is left free for others, if the disk is large enough to speak of it.
const FREE_MIN: u64 = 1 << 30;
/// The least that history may take by default.
const HISTORY_MIN: u64 = 10 << 30;
/// How much is freed at a time when a write met a full disk, and how much over its budget history may
/// be, at least, before all else waits for it.
const ROOM: u64 = 256 << 20;
/// Ranges that one note holds at most: it must fit any segment.
const RANGES_MAX: usize = 256;
/// How long the store's own thread is at it before it sees to its other duties.
const TURN: Duration = Duration::from_millis(300);
/// How long a write that met a full disk waits for segments of the log to be looked at.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long what files share is counted before the store's thread sees to its other duties, and rows that are looked at in one
/// go.
const COUNT_TURN: Duration = Duration::from_millis(50);
const COUNT_ROWS: usize = 64;
/// How many times as long as a count took it rests before the next.
const COUNT_RESTS: u32 = 20;
/// How much of a file is looked at in one go.
const WINDOW: u64 = 1 << 30;

/// Moves the horizon.
pub(super) struct Retainer {
    /// Bytes history may take; `None` is the default.
    budget: Option<u64>,
    past: Mutex<Past>,
    /// Bytes of small writes that were taken out of the log.
    gone: AtomicU64,
    counting: Mutex<Counting>,
    counted: Mutex<Counted>,
    /// The journal's horizon, or what it is about to be: every question about the past asks.
    horizon: AtomicU64,
}

/// Counting what files share.
#[derive(Default)]
struct Counting {
    /// The last event when it began.
    at: Seq,
    under_way: Option<Shares>,
    /// The most and the least that all files took since then, each for itself.
    most: u64,
    least: u64,
    spent: Duration,
    /// When it may begin again.
    next: Option<Instant>,
}

/// What the last count found; before the first, that nothing is shared.
#[derive(Clone, Copy, Debug, Default)]
struct Counted {
    /// Bytes of the present tree that are counted more than once.
    doubled: u64,
    /// Bytes that it has without them, or more.
    own: u64,
    /// The least that all files took since the count began, each for itself.
    least: u64,
}

impl Counted {
    /// How many bytes are live where all files take `allocated`, each for itself: too many rather than too few. What is gone since
    /// may have been shared, and what came may be nobody else's.
    fn live(&self, allocated: u64) -> u64 {
        let came = allocated.saturating_sub(self.least);
        self.own.saturating_add(came).min(allocated)
    }
}

/// The horizon, standing still.
pub(super) struct HorizonHeld<'r> {
    _past: MutexGuard<'r, Past>,
}

/// What goes on behind the horizon, one at a time.
struct Past {
    walk: Walk,
    squeezer: Squeezer,
}

/// How far the horizon has come in the log.
#[derive(Default)]
struct Walk {
    reader: Option<LogReader>,
    /// An event that was not looked at to its end (the horizon has come to it already), or that a label still keeps.
    rest: Option<Walked>,
    /// It was said that damage is in the way.
    stuck: bool,
}

impl Retainer {
    pub(super) fn new(budget: Option<u64>, journal: &Journal) -> io::Result<Self> {
        let past = Past { walk: Walk::default(), squeezer: Squeezer::new() };
        let disk = &**journal.disk();
        let gone = if journal.has_squeezed() { squeezed::taken_out(disk)? } else { 0 };
        Ok(Self {
            budget,
            past: Mutex::new(past),
            gone: AtomicU64::new(gone),
            counting: Mutex::default(),
            counted: Mutex::default(),
            horizon: AtomicU64::new(journal.horizon().0),
        })
    }

    /// The oldest tree that can be shown whole. Costs no lock.
    pub(super) fn horizon(&self) -> Seq {
        Seq(self.horizon.load(Ordering::Acquire))
    }

    /// While this is held the horizon stays where it is. Taken before the tables.
    pub(super) fn hold(&self) -> HorizonHeld<'_> {
        HorizonHeld { _past: self.past.lock() }
    }

    /// Whether a label keeps the horizon from moving.
    pub(super) fn is_pinned(journal: &Journal, index: &Index) -> Result<bool, IndexError> {
        let first = index.read().first_labelled()?;
        Ok(first.is_some_and(|first| first <= journal.horizon()))
    }

    /// Bytes that history takes: of content files and of small writes in the log, all but what is live.
    pub(super) fn history(&self, journal: &Journal, index: &Index) -> io::Result<u64> {
        let content = journal.content().allocated()?;
        let inline = index.read().totals().inline;
        let small = inline.saturating_sub(self.gone.load(Ordering::Relaxed));
        Ok(content.saturating_add(small).saturating_sub(self.live(index)))
    }

    /// Bytes of content files and of small writes in the log that the present tree has, and what foreign events keep.
    fn live(&self, index: &Index) -> u64 {
        let totals = index.read().totals();
        self.present(&totals).saturating_add(totals.kept)
    }

    /// Bytes that the present tree has, what files share with others once; as of a while ago, and too many rather than too few.
    pub(super) fn present(&self, totals: &Totals) -> u64 {
        self.counted.lock().live(totals.padded)
    }

    /// Bytes of the present tree that files share with others, counted for each but one; as of a while ago.
    pub(super) fn doubled(&self) -> u64 {
        self.counted.lock().doubled
    }

    /// Goes on counting what files share, or begins again if anything has changed.
    fn count_shares(&self, index: &Index) -> Result<(), IndexError> {
        let mut counting = self.counting.lock();
        let began = Instant::now();
        let tables = index.read();
        let (last, allocated) = (tables.last(), tables.totals().padded);
        drop(tables);
        let mut counted = self.counted.lock();
        counted.least = counted.least.min(allocated);
        drop(counted);
        let mut shares = match counting.under_way.take() {
            Some(shares) => shares,
            None if counting.at == last || counting.next.is_some_and(|next| began < next) => {
                return Ok(());
            }
            None => {
                (counting.at, counting.spent) = (last, Duration::ZERO);
                (counting.most, counting.least) = (allocated, allocated);
                Shares::default()
            }
        };
        // Read for one step at a time, so that changes go on meanwhile.
        loop {
            let tables = index.read();
            let allocated = tables.totals().padded;
            counting.most = counting.most.max(allocated);
            counting.least = counting.least.min(allocated);
            if tables.count_shares(&mut shares, COUNT_ROWS)? {
                break;
            }
            drop(tables);
            if began.elapsed() > COUNT_TURN {
                counting.spent += began.elapsed();
                counting.under_way = Some(shares);
                return Ok(());
            }
        }
        let doubled = shares.doubled();
        let own = counting.most.saturating_sub(doubled);
        *self.counted.lock() = Counted { doubled, own, least: counting.least };
        counting.spent += began.elapsed();
        // One that takes no time need not rest.
        let rests = counting.spent.saturating_sub(COUNT_TURN / COUNT_RESTS) * COUNT_RESTS;
        counting.next = Some(Instant::now() + rests);
        Ok(())
    }

    /// Frees what is over the budget, or is wanted for what must be left free. Says whether so much is left
    /// that it should go on at once.
    pub(super) fn run(&self, journal: &Journal, index: &Index) -> Result<bool, CommitError> {
        self.count_shares(index).map_err(CommitError::Index)?;
        let history = self.history(journal, index).map_err(CommitError::Io)?;
        let live = self.live(index);
        let budget = self.budget.unwrap_or_else(|| HISTORY_MIN.max(live.saturating_mul(2)));
        let space = journal.disk().space().map_err(CommitError::Io)?;
        let short = FREE_MIN.min(space.total / 4).saturating_sub(space.available).min(history);
        let over = history.saturating_sub(budget);
        if over.max(short) == 0 || journal.check_writable().is_err() {
            return Ok(false);
        }
        let mut past = self.past.lock();
        // What trees gave up already goes before a tree has to.
        let until = Instant::now() + TURN;
        let effort = Effort { wanted: over.max(short), until: Some(until), full: false };
        let (gained, done) = self.squeeze(&mut past, journal, index, effort)?;
        let late = Instant::now() > until;
        let given_up = past.squeezer.given_up();
        // Nobody knows how much that is before all of it was looked at.
        let left = over.saturating_sub(gained.saturating_add(given_up));
        let wanted = if done { left } else { 0 }.max(short.saturating_sub(gained));
        let before = self.horizon();
        if wanted > 0 {
            self.free(&mut past, journal, index, wanted, Some(Instant::now() + TURN))?;
        }
        // Who writes fast must not outrun who frees; and nobody goes on who comes to nothing.
        let moves = gained > 0 || late || self.horizon() > before;
        Ok(moves && left > ROOM.max(budget / 4))
    }

    /// Frees what it can, up to a good deal, for a write that found the disk full; returns how many bytes. The caller
    /// holds neither a pin nor the tables.
    pub(super) fn make_room(&self, journal: &Journal, index: &Index) -> Result<u64, CommitError> {
        let mut past = self.past.lock();
        let freed = self.free(&mut past, journal, index, ROOM, None)?;
        let wanted = ROOM.saturating_sub(freed);
        if wanted == 0 {
            return Ok(freed);
        }
        // So that recovery will not have to look at more segments than it must.
        journal.tick()?;
        let until = Some(Instant::now() + PATIENCE);
        let effort = Effort { wanted, until, full: true };
        let (gained, _) = self.squeeze(&mut past, journal, index, effort)?;
        Ok(freed + gained)
    }

    /// Takes what is dead out of the log; returns how many bytes, and whether all that can be done was.
    fn squeeze(
        &self,
        past: &mut Past,
        journal: &Journal,
        index: &Index,
        effort: Effort,
    ) -> Result<(u64, bool), CommitError> {
        let squeezing = past.squeezer.run(journal, index, effort)?;
        self.gone.fetch_add(squeezing.gained, Ordering::Relaxed);
        Ok((squeezing.gained, squeezing.done))
    }

    /// Moves the horizon until `wanted` bytes are freed, or given up in the log, it has come to the last event,
    /// or it is late. Returns how many were freed.
    fn free(
        &self,
        past: &mut Past,
        journal: &Journal,
        index: &Index,
        wanted: u64,
        until: Option<Instant>,
    ) -> Result<u64, CommitError> {
        let mut dead = Dead::default();
        let result = self.walk(&mut past.walk, journal, index, &mut dead, wanted, until);
        if result.is_err() {
            // It may have gone past events that the horizon has not.
            past.walk.begin_again();
            self.horizon.store(journal.horizon().0, Ordering::Release);
        } else {
            past.squeezer.moved(dead.moved);
            for (segment, bytes) in dead.small {
                past.squeezer.died(segment, bytes);
            }
        }
        result
    }

    fn walk(
        &self,
        walk: &mut Walk,
        journal: &Journal,
        index: &Index,
        dead: &mut Dead,
        wanted: u64,
        until: Option<Instant>,
    ) -> Result<u64, CommitError> {
        let before = journal.content().freed();
        let freed = || journal.content().freed() - before;
        let mut pending = 0;
        let mut horizon = journal.horizon();
        // No label comes to be meanwhile: whoever makes one holds the horizon.
        let pinned = index.read().first_labelled().map_err(CommitError::Index)?;
        let pinned = pinned.unwrap_or(Seq::NOW);
        // An event is in the log a moment before it is in the tables.
        let last = index.read().last();
        let is_late = || until.is_some_and(|until| Instant::now() > until);
        while (horizon < pinned || walk.rest.is_some()) && freed() + pending < wanted {
            let walked = match walk.rest.take() {
                Some(rest) => Some(rest),
                None => walk.next(journal, horizon, last).map_err(CommitError::Io)?,
            };
            let Some(walked) = walked else { break };
            if walked.seq > pinned {
                walk.rest = Some(walked);
                break;
            }
            let Walked { seq, mut ranges, left, moved } = walked;
            dead.moved += moved;
            for (ino, left) in left {
                let tables = index.read();
                dead.abandoned(&tables, ino, left, seq).map_err(CommitError::Index)?;
                drop(tables);
                self.give_back_full(journal, seq, &mut dead.pages)?;
            }
            while let Some((ino, offset, len)) = ranges.pop() {
                let next = self.window(index, dead, (ino, offset, len), seq)?;
                self.give_back_full(journal, seq, &mut dead.pages)?;
                ranges.extend(next);
                if !ranges.is_empty() && is_late() {
                    walk.rest = Some(Walked { seq, ranges, ..Walked::default() });
                    break;
                }
            }
            horizon = seq;
            pending = dead.pages.iter().map(|range| range.len).sum::<u64>() + dead.in_log();
            if is_late() {
                break;
            }
        }
        let pages = std::mem::take(&mut dead.pages);
        if horizon > journal.horizon() || !pages.is_empty() {
            self.give_back(journal, horizon, pages)?;
        }
        Ok(freed())
    }

    /// Takes in what has died of the first part of a range of a file with event `seq`; returns what is left of the range.
    fn window(
        &self,
        index: &Index,
        dead: &mut Dead,
        (ino, offset, len): (Ino, u64, u64),
        seq: Seq,
    ) -> Result<Option<(Ino, u64, u64)>, CommitError> {
        let end = offset.saturating_add(len);
        // Held for as long as one look takes, so that changes go on meanwhile.
        let tables = index.read();
        // Only what the file had can have died; most ranges are open to the end of numbers, and a file may be one hole.
        let sought = tables.seek_near(ino, offset, false, seq.before());
        let data = match sought.map_err(CommitError::Index)? {
            Sought::At(data) if data < end => data,
            Sought::FurtherOn(next) if next < end => return Ok(Some((ino, next, end - next))),
            Sought::At(_) | Sought::FurtherOn(_) | Sought::Nowhere => return Ok(None),
        };
        let len = (end - data).min(WINDOW);
        dead.superseded(&tables, ino, (data, len), seq).map_err(CommitError::Index)?;
        let next = data + len;
        Ok((next < end).then_some((ino, next, end - next)))
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
#[derive(Default)]
struct Walked {
    seq: Seq,
    /// What of which files may have died with the event.
    ranges: Vec<(Ino, u64, u64)>,
    /// What the relocation left behind in content files.
    left: Vec<(Ino, Left)>,
    /// How many bytes it left behind in the log.
    moved: u64,
}

impl Walk {
    /// Goes back to where the horizon is.
    fn begin_again(&mut self) {
        (self.reader, self.rest) = (None, None);
    }

    /// The next event behind `horizon`, up to event `last`; at first that at the horizon as well: whoever moved it there
    /// may have been killed before all was given back that died with it. What was, is given back once more.
    fn next(&mut self, journal: &Journal, horizon: Seq, last: Seq) -> io::Result<Option<Walked>> {
        let begins = self.reader.is_none();
        if begins {
            let disk = std::sync::Arc::clone(journal.disk());
            self.reader = Some(LogReader::before(disk, journal.store_id(), horizon.before())?);
        }
        let Some(reader) = &mut self.reader else { return Ok(None) };
        while reader.mark().seq < last {
            let next = match reader.read() {
                Err(err) if damage_in(&err).is_some() => {
                    if !std::mem::replace(&mut self.stuck, true) {
                        tracing::error!(
                            "no more history can be given back, the log is damaged: {err}"
                        );
                    }
                    return Ok(None);
                }
                next => next?,
            };
            let Next::Record(_, record) = next else { return Ok(None) };
            let seq = record.stamp().seq;
            // A relocation is of the tree after the event it follows: once more at a new start is no harm.
            if seq < horizon || record.is_event() && seq == horizon && !begins {
                continue;
            }
            match record.entry() {
                Some(Entry::Event(event)) => {
                    let ranges = ranges_of(&event);
                    return Ok(Some(Walked { seq, ranges, ..Walked::default() }));
                }
                Some(Entry::Note(Note::Relocation { ino, data, left, .. })) => {
                    let kept: u64 = left.iter().map(|left| left.len).sum();
                    let moved = data.len().saturating_sub(kept);
                    let left = left.into_iter().map(|left| (ino, left)).collect();
                    return Ok(Some(Walked { seq, left, moved, ..Walked::default() }));
                }
                Some(Entry::Note(_)) => (),
                None => return Ok(None),
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::event::Change;
    use super::super::sim::SimDisk;
    use super::super::superblock::Shape;
    use super::super::{CreateOptions, OpenOptions, Origin, Placed, Store};
    use super::*;

    #[test]
    fn what_goes_between_two_counts_may_have_been_shared_and_what_comes_not() {
        // Nothing was counted, or nothing is shared.
        assert_eq!(Counted::default().live(70), 70);
        let alone = Counted { doubled: 0, own: 70, least: 40 };
        for allocated in [0, 10, 40, 60, 70, 100] {
            assert_eq!(alone.live(allocated), allocated);
        }
        // A file and three clones of it.
        let mut counted = Counted { doubled: 30, own: 10, least: 40 };
        assert_eq!(counted.live(40), 10);
        assert_eq!(counted.live(45), 15);
        // The clones go, or all of them.
        assert_eq!(counted.live(10), 10);
        assert_eq!(counted.live(4), 4);
        // In their place comes something of its own.
        counted.least = 10;
        assert_eq!(counted.live(40), 40);
    }

    fn commit(store: &Store, change: Change<'_>) -> Seq {
        store.begin().unwrap().commit(Origin::default(), change).unwrap()
    }

    fn make(store: &Store, name: &[u8]) -> Ino {
        let (parent, mode, target, xattrs) = (Ino::ROOT, 0o100_644, &b""[..], Vec::new());
        let (uid, gid, rdev) = (0, 0, 0);
        let change = Change::Create { parent, name, mode, uid, gid, rdev, target, xattrs };
        Ino(commit(store, change).0)
    }

    fn write(store: &Store, ino: Ino, bytes: &[u8]) -> Seq {
        let mut placed = Placed::default();
        let data = store.place(bytes, &mut placed).unwrap();
        let (mode, drop_capability) = (None, false);
        commit(store, Change::Write { ino, offset: 0, data, ends: false, mode, drop_capability })
    }

    fn clone(store: &Store, src: Ino, dst: Ino, len: u64) {
        let (src_offset, dst_offset, mode) = (0, 0, None);
        commit(store, Change::Clone { src, src_offset, dst, dst_offset, len, ends: false, mode });
    }

    /// Ticks until what files share was counted, which takes as long as it takes: on a busy machine it rests in between.
    #[track_caller]
    fn tick_until(store: &Store, counted: fn(&Store) -> u64, expected: u64) {
        let began = Instant::now();
        loop {
            store.tick().unwrap();
            if counted(store) == expected {
                return;
            }
            assert!(began.elapsed() < Duration::from_secs(60), "{} bytes", counted(store));
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    #[test]
    fn clones_of_files_that_do_not_fill_their_pages_are_live_once() {
        const CLONED: usize = 4097;
        let options =
            OpenOptions { sync_interval: None, memory: 8 << 20, ..OpenOptions::default() };
        let disk = Arc::new(SimDisk::new(256 << 20));
        let store = Store::create_on(disk, &CreateOptions::default(), &options).unwrap();
        let src = make(&store, b"original");
        write(&store, src, &[7; CLONED]);
        for n in 0..100 {
            clone(&store, src, make(&store, format!("clone{n}").as_bytes()), CLONED as u64);
        }
        tick_until(&store, Store::live, 2 * 4096);
    }

    #[test]
    fn removing_clones_takes_no_history_away_before_they_are_counted_again() {
        const CLONED: usize = 4 << 20;
        let shape = Shape { segment_len: 1 << 20, content_len: 1 << 30, content_step: 64 << 10 };
        let create = CreateOptions { shape, ..CreateOptions::default() };
        let options = OpenOptions {
            sync_interval: None,
            memory: 8 << 20,
            history: Some(3 << 20),
            ..OpenOptions::default()
        };
        let disk = Arc::new(SimDisk::new(256 << 20));
        let store = Store::create_on(disk, &create, &options).unwrap();
        let [src, other] = [&b"original"[..], b"other"].map(|name| make(&store, name));
        write(&store, src, &vec![7; CLONED]);
        let clones = [&b"a"[..], b"b", b"c"].map(|name| (name, make(&store, name)));
        for (_, dst) in clones {
            clone(&store, src, dst, CLONED as u64);
        }
        write(&store, other, &[1; 1 << 20]);
        let oldest = write(&store, other, &[2; 1 << 20]);
        tick_until(&store, Store::doubled, 3 * CLONED as u64);
        assert!(store.horizon() < oldest, "there is room for it");
        // As after a count that took minutes.
        let retainer = &store.core.retainer;
        retainer.counting.lock().next = Some(Instant::now() + Duration::from_secs(3600));
        for (name, ino) in clones {
            commit(&store, Change::Unlink { parent: Ino::ROOT, name, ino });
            commit(&store, Change::End { ino });
        }
        store.tick().unwrap();
        assert_eq!(store.doubled(), 3 * CLONED as u64, "it is an old count");
        assert_eq!(store.live(), CLONED as u64 + (1 << 20));
        assert!(store.horizon() < oldest, "history gave way to what was only removed");
        retainer.counting.lock().next = None;
        tick_until(&store, Store::doubled, 0);
    }
}
