//! `streams/`: what happens, as files that grow by one JSON object per line.
//!
//! | stream | tells of |
//! |---|---|
//! | `validation_requests` | requests for a verdict, and what became of them on the way to one |
//! | `expert_responses` | verdicts, and experts that were called and answered |
//! | `pair_sessions` | two agents working together |
//! | `file_changes` | files and directories made, changed, moved and removed |
//! | `agent_activities` | agents that come, work and go; commands |
//! | `debug_events` | everything else |
//!
//! Each line is an event in the Python bridge's terms (see [`crate::legacy::native`]), with `cursor`, its place in the
//! order of telling. Reading to the end gives the end of the file, so `cat` and `grep` end; who goes on reading, or
//! polls, gets what is new; any number of readers each get every event once.
//!
//! **Empty lines.** No request goes through the log for longer than [`PATIENCE`]. Where that is over, nothing of the stream
//! was told and the log goes on, the answer cannot be nothing, which is the end of the file, nor an error, which ends
//! `cat`: it is an empty line, which stays in the text as any other. Whoever reads JSON lines skips it.
//!
//! ```text
//!  log --Teller--> line --+--> Text of file_changes      bytes as they were told, in a file without a name
//!        one for all six  +--> Text of debug_events ...
//! ```
//!
//! **Where a stream begins.** The first to look at any stream since the mount begins all six: with the last
//! [`REWIND`] events before that, so that there is something to see and opening costs the same however long history
//! is. `from/@N/` begins with what is told from event `N` on, and takes as long as reading the log from there; it is kept
//! while it is open and for a minute after. To go on after a line with the cursor `A` or `A.B`, read `from/@A/` and
//! leave out the `event_id`s already seen.
//!
//! **How much is kept.** What was told is written down, not told again: names of agents become known later and
//! history is given back, and a byte that was read must stay what it was. So that it never fills the disk, the
//! beginning of a text of more than [`KEPT`] bytes is given back and reads as empty lines.
//!
//! Invariants: byte `k` of an open stream is always the same byte, unless it was given back; a text consists of
//! whole lines.

use std::io;
use std::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard, RwLock};
use rustc_hash::FxHashSet;

use crate::legacy::native::{Cursor, PROJECT, Teller, Told};
use crate::proto::types::{FileHandle, NodeId};
use crate::tree::{ScratchFile, Seq, Timestamp, Tree};

use super::made::{FROM_MAX, Made, Pinned};
use super::moment::{self, Moment};
use super::nodes::Place;
use super::{Found, Refusal, TreeRefusal, View};

/// A stream begins so many events before somebody looked at one.
const REWIND: u64 = 1000;
/// Bytes of a text that are kept at least; half as many again at most.
const KEPT: u64 = 256 << 20;
/// The same where there is no disk to write to: in memory.
const KEPT_IN_MEMORY: u64 = 4 << 20;
/// How long a request may wait for the log to be told: what is not told by then is told to the next.
const PATIENCE: Duration = Duration::from_millis(50);
/// How long a tick may.
const TICK_PATIENCE: Duration = Duration::from_millis(20);
/// So many records of the log are read at least, and then the clock is looked at.
const RECORDS: u32 = 256;
/// So many beginnings ([`Seq`]) are kept at most while nobody has them open.
const FROM_KEPT: usize = 16;
/// And so many in all.
const FROM_OPEN: usize = 256;
/// For how long.
const FROM_KEPT_FOR: Duration = Duration::from_secs(60);
/// Most that wait for something new in any stream.
const WAITS_MAX: usize = 1 << 16;

/// poll(2): there is something to read.
const POLLIN: u32 = 0x001;
/// The same.
const POLLRDNORM: u32 = 0x040;
/// What a plain file always is: ready to be read and written.
const POLL_ALWAYS: u32 = POLLIN | 0x004 | POLLRDNORM | 0x100;

/// The name of a stream.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub(crate) enum StreamName {
    ValidationRequests,
    ExpertResponses,
    PairSessions,
    FileChanges,
    AgentActivities,
    DebugEvents,
}

impl StreamName {
    /// All, in the order in which they are listed.
    pub(super) const ALL: [Self; 6] = [
        Self::ValidationRequests,
        Self::ExpertResponses,
        Self::PairSessions,
        Self::FileChanges,
        Self::AgentActivities,
        Self::DebugEvents,
    ];

    pub(super) const fn text(self) -> &'static [u8] {
        match self {
            Self::ValidationRequests => b"validation_requests",
            Self::ExpertResponses => b"expert_responses",
            Self::PairSessions => b"pair_sessions",
            Self::FileChanges => b"file_changes",
            Self::AgentActivities => b"agent_activities",
            Self::DebugEvents => b"debug_events",
        }
    }

    pub(super) fn of(name: &[u8]) -> Option<Self> {
        Self::ALL.into_iter().find(|stream| stream.text() == name)
    }

    /// The stream that tells of events of `kind`.
    fn telling_of(kind: &str) -> Self {
        match kind {
            "validation_decision_made" => Self::ExpertResponses,
            _ if kind.starts_with("validation_") => Self::ValidationRequests,
            _ if kind.starts_with("expert_") => Self::ExpertResponses,
            _ if kind.starts_with("pair_") => Self::PairSessions,
            _ if kind.starts_with("file_") || kind.starts_with("directory_") => Self::FileChanges,
            _ if kind.starts_with("agent_") || kind.starts_with("command_") => {
                Self::AgentActivities
            }
            _ => Self::DebugEvents,
        }
    }
}

/// One of something for each stream.
#[derive(Debug, Default)]
struct Each<T>([T; StreamName::ALL.len()]);

impl<T> Each<T> {
    fn of(&self, name: StreamName) -> &T {
        &self.0[name as usize]
    }

    fn of_mut(&mut self, name: StreamName) -> &mut T {
        &mut self.0[name as usize]
    }
}

/// The number of a name is its place among all of them.
const _: () = {
    let mut place = 0;
    while place < StreamName::ALL.len() {
        assert!(StreamName::ALL[place] as usize == place);
        place += 1;
    }
};

/// All streams of a mount.
#[derive(Debug, Default)]
pub(super) struct Streams {
    usual: Mutex<Option<Arc<Telling>>>,
    from: Mutex<Vec<Beginning>>,
    waits: Mutex<Vec<Wait>>,
    /// How many wait; looked at by whoever changes something.
    waiting: AtomicUsize,
}

#[derive(Debug)]
struct Beginning {
    since: Seq,
    telling: Arc<Telling>,
    used: Instant,
}

/// Somebody who is told when a stream has more than he read.
#[derive(Debug)]
struct Wait {
    /// The kernel's name for him.
    wait: u64,
    handle: FileHandle,
    reader: Arc<Reader>,
}

impl Streams {
    pub(super) fn clear(&self) {
        *self.usual.lock() = None;
        self.from.lock().clear();
        self.waits.lock().clear();
        self.waiting.store(0, Ordering::Relaxed);
    }

    /// Whether anybody is to be told of something new.
    pub(super) fn are_waited_for(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
    }

    pub(super) fn closed(&self, handle: FileHandle) {
        if self.are_waited_for() {
            let mut waits = self.waits.lock();
            waits.retain(|wait| wait.handle != handle);
            self.waiting.store(waits.len(), Ordering::Relaxed);
        }
    }

    /// The streams as they usually begin.
    fn usual(&self, tree: &Tree) -> Result<Arc<Telling>, Refusal> {
        let mut usual = self.usual.lock();
        if let Some(telling) = &*usual {
            return Ok(Arc::clone(telling));
        }
        let begin = Seq(tree.last().0.saturating_sub(REWIND)).next();
        let begin = begin.max(tree.store().horizon()).max(Seq::FIRST);
        let telling = Arc::new(Telling::begin(tree, begin)?);
        *usual = Some(Arc::clone(&telling));
        Ok(telling)
    }

    fn from(&self, tree: &Tree, since: Seq) -> Result<Arc<Telling>, Refusal> {
        let mut from = self.from.lock();
        let used = Instant::now();
        if let Some(known) = from.iter_mut().find(|known| known.since == since) {
            known.used = used;
            return Ok(Arc::clone(&known.telling));
        }
        if from.len() >= FROM_KEPT {
            from.sort_by_key(|known| known.used);
            let mut surplus = from.len() - FROM_KEPT + 1;
            from.retain(|known| {
                let goes = surplus > 0 && Arc::strong_count(&known.telling) == 1;
                surplus -= usize::from(goes);
                !goes
            });
            if from.len() >= FROM_OPEN {
                return Err(Refusal::TooManyViews);
            }
        }
        let telling = Arc::new(Telling::begin(tree, since)?);
        from.push(Beginning { since, telling: Arc::clone(&telling), used });
        Ok(telling)
    }

    fn telling(&self, tree: &Tree, since: Option<Seq>) -> Result<Arc<Telling>, Refusal> {
        since.map_or_else(|| self.usual(tree), |since| self.from(tree, since))
    }

    /// What the clock alone brings about.
    pub(super) fn tick(&self) {
        let usual = self.usual.lock().clone();
        if let Some(telling) = usual
            && let Err(error) = telling.advance(Instant::now() + TICK_PATIENCE, || false)
        {
            tracing::debug!(%error, "the log cannot be told");
        }
        let now = Instant::now();
        self.from.lock().retain(|known| {
            Arc::strong_count(&known.telling) > 1
                || now.saturating_duration_since(known.used) < FROM_KEPT_FOR
        });
    }

    /// Takes out who has something to read now, and names them.
    fn ready(&self) -> FxHashSet<u64> {
        let readers: Vec<_> =
            self.waits.lock().iter().map(|wait| (wait.wait, Arc::clone(&wait.reader))).collect();
        let mut ready = FxHashSet::default();
        // However many there are: the kernel has more to be told than this.
        let until = Instant::now() + PATIENCE;
        for (wait, reader) in readers {
            if !ready.contains(&wait) && reader.is_ready(until) {
                ready.insert(wait);
            }
        }
        let mut waits = self.waits.lock();
        waits.retain(|wait| !ready.contains(&wait.wait));
        self.waiting.store(waits.len(), Ordering::Relaxed);
        ready
    }
}

impl View {
    /// What `name` in `streams/from/` leads to: any event that history reaches back to, or one that is to come.
    pub(super) fn streams_since(&self, name: &[u8]) -> Result<Found, Refusal> {
        let Some(Moment::After(since)) = moment::parse(name, Timestamp::now()) else {
            return Ok(Found::Absent(self.options.caching.absent));
        };
        if since < self.tree.store().horizon() || since >= FROM_MAX {
            return Err(TreeRefusal::NotFound.into());
        }
        self.give_out_made(Made::StreamsSince(since))
    }

    /// Size of a stream, and when something was told in it last.
    pub(super) fn stream_size(
        &self,
        since: Option<Seq>,
        name: StreamName,
    ) -> Result<(u64, Timestamp), Refusal> {
        let telling = self.streams.telling(&self.tree, since)?;
        telling.advance(Instant::now() + PATIENCE, || false).map_err(TreeRefusal::Io)?;
        let text = telling.texts.of(name);
        let changed = Timestamp(text.changed.load(Ordering::Relaxed));
        Ok((text.len(), if changed == NEVER { self.began } else { changed }))
    }

    pub(super) fn stream_reader(
        &self,
        since: Option<Seq>,
        name: StreamName,
    ) -> Result<Reader, Refusal> {
        let telling = self.streams.telling(&self.tree, since)?;
        Ok(Reader { telling, name, at: AtomicU64::new(0) })
    }

    /// Which of `events` (of poll(2)) an open file is ready for. With `notify`, `wait` is told of once it has more
    /// than was read through the handle. `None` where files are always ready.
    pub fn poll(
        &self,
        node: NodeId,
        handle: FileHandle,
        wait: u64,
        events: u32,
        notify: bool,
    ) -> Result<Option<u32>, Refusal> {
        if !self.options.sections {
            return Ok(None);
        }
        let always = Ok(Some(events & POLL_ALWAYS));
        let Place::Made(Made::Stream(..)) = self.place(node)? else { return always };
        self.file(handle, node)?;
        let Some(Pinned::Stream(reader)) = self.computed.pinned(handle) else { return always };
        if notify {
            // Before looking: what is told in between is noticed by one of us.
            let mut waits = self.streams.waits.lock();
            if waits.len() < WAITS_MAX && !waits.iter().any(|known| known.wait == wait) {
                waits.push(Wait { wait, handle, reader: Arc::clone(&reader) });
            }
            self.streams.waiting.store(waits.len(), Ordering::Relaxed);
        }
        let ready =
            if reader.is_ready(Instant::now() + PATIENCE) { POLLIN | POLLRDNORM } else { 0 };
        Ok(Some(events & ready))
    }

    /// Something happened that streams may tell of.
    pub(super) fn stir(&self) {
        if self.streams.are_waited_for() {
            self.news.stir();
        }
    }

    /// Who polls a stream that has something new, by the number POLL came with: each is told once. To be called by a
    /// thread that answers no requests.
    pub fn woken(&self) -> Vec<u64> {
        self.streams.ready().into_iter().collect()
    }
}

/// Somebody's open stream.
#[derive(Debug)]
pub(super) struct Reader {
    telling: Arc<Telling>,
    name: StreamName,
    /// Behind the last byte that was read.
    at: AtomicU64,
}

impl Reader {
    pub(super) fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<usize, TreeRefusal> {
        let until = Instant::now() + PATIENCE;
        let len = self.read_by(offset, buffer, until).map_err(TreeRefusal::Io)?;
        self.at.store(offset.saturating_add(len as u64), Ordering::Relaxed);
        Ok(len)
    }

    /// Nothing is read at the end of the log alone, and beyond what was told by `until`.
    fn read_by(&self, offset: u64, buffer: &mut [u8], until: Instant) -> io::Result<usize> {
        let text = self.telling.texts.of(self.name);
        let len = text.read(offset, buffer)?;
        if len > 0 || buffer.is_empty() {
            return Ok(len);
        }
        let full = offset.saturating_add(buffer.len() as u64);
        let ended = self.telling.advance(until, || text.len() >= full)?;
        let len = text.read(offset, buffer)?;
        if len > 0 || ended {
            return Ok(len);
        }
        text.append_empty_line(offset)?;
        text.read(offset, buffer)
    }

    pub(super) fn size(&self) -> Result<u64, TreeRefusal> {
        self.size_by(Instant::now() + PATIENCE).map_err(TreeRefusal::Io)
    }

    fn size_by(&self, until: Instant) -> io::Result<u64> {
        self.telling.advance(until, || false)?;
        Ok(self.telling.texts.of(self.name).len())
    }

    /// Whether there is something to read, or a failure to be told.
    fn is_ready(&self, until: Instant) -> bool {
        let at = self.at.load(Ordering::Relaxed);
        self.size_by(until).map_or(true, |size| size > at)
    }
}

/// The log, being told from one place on.
#[derive(Debug)]
struct Telling {
    front: Mutex<Front>,
    texts: Each<Text>,
}

#[derive(Debug)]
struct Front {
    teller: Teller,
    /// Lines that are in no text yet: few, for they are written down before more is read.
    lines: Each<Vec<u8>>,
}

/// Lines are written down when there are so many bytes of them.
const PIECE: usize = 64 << 10;

impl Telling {
    /// Tells what is told from event `begin` on.
    fn begin(tree: &Tree, begin: Seq) -> Result<Self, TreeRefusal> {
        let teller = Teller::new(tree, PROJECT, Cursor::before(begin)).map_err(TreeRefusal::Io)?;
        let texts = Each(StreamName::ALL.map(|_| Text::new(tree)));
        Ok(Self { front: Mutex::new(Front { teller, lines: Each::default() }), texts })
    }

    /// Goes on until the end of the log, until there is `enough`, or `until` then; whether it is the end. Where another goes
    /// on all the while, he tells for all. However late it is, [`RECORDS`] records are read, or a
    /// [`PIECE`] is told: who asks gets on.
    fn advance(&self, until: Instant, enough: impl Fn() -> bool) -> io::Result<bool> {
        let Some(mut front) = self.front_by(until) else { return Ok(false) };
        // What the disk did not take is in no text yet, and comes first.
        self.write_down(&mut front)?;
        if enough() {
            return Ok(false);
        }
        let mut read: u32 = 0;
        let mut held = 0;
        loop {
            let mut records = RECORDS;
            let told = front.teller.read_within(&mut records)?;
            read = read.saturating_add((RECORDS - records).max(1));
            let ends = told.is_none() && records > 0;
            if let Some(told) = told {
                held += front.add(StreamName::telling_of(&told.event.kind), &told)?;
            }
            let late = (read >= RECORDS || held >= PIECE) && Instant::now() >= until;
            if ends || late || held >= PIECE {
                self.write_down(&mut front)?;
                held = 0;
                if ends || late || enough() {
                    return Ok(ends);
                }
            }
        }
    }

    fn front_by(&self, until: Instant) -> Option<MutexGuard<'_, Front>> {
        // To wait even for no time gives the CPU away, on a busy machine for many milliseconds.
        self.front.try_lock().or_else(|| {
            (Instant::now() < until).then(|| self.front.try_lock_until(until)).flatten()
        })
    }

    fn write_down(&self, front: &mut Front) -> io::Result<()> {
        for (text, lines) in self.texts.0.iter().zip(&mut front.lines.0) {
            if !lines.is_empty() {
                text.append(lines)?;
                lines.clear();
            }
        }
        Ok(())
    }
}

impl Front {
    /// Adds a line, and returns its length in bytes.
    fn add(&mut self, name: StreamName, told: &Told) -> io::Result<usize> {
        let mut fields = told.to_json();
        fields.insert("cursor".to_owned(), told.cursor.to_string().into());
        let lines = self.lines.of_mut(name);
        let before = lines.len();
        serde_json::to_writer(&mut *lines, &fields)?;
        lines.push(b'\n');
        Ok(lines.len() - before)
    }
}

/// No time of an event.
const NEVER: Timestamp = Timestamp(i64::MIN);

/// The bytes of one stream.
#[derive(Debug)]
struct Text {
    tree: Tree,
    place: OnceLock<TextPlace>,
    extent: RwLock<Extent>,
    /// When it grew last, in nanoseconds since 1970.
    changed: AtomicI64,
}

#[derive(Debug, Default)]
struct Extent {
    len: u64,
    /// What is before was given back. The beginning of a line.
    begin: u64,
    /// What is before takes no space.
    freed: u64,
    /// Where pieces begin, each with a line.
    pieces: std::collections::VecDeque<u64>,
}

/// Where a text is.
enum TextPlace {
    /// In a file without a name.
    Disk(ScratchFile),
    /// There is no disk to write to.
    Memory(RwLock<Vec<u8>>),
}

impl std::fmt::Debug for TextPlace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Disk(_) => "Disk",
            Self::Memory(_) => "Memory",
        })
    }
}

impl Text {
    fn new(tree: &Tree) -> Self {
        Self {
            tree: tree.clone(),
            place: OnceLock::new(),
            extent: RwLock::default(),
            changed: AtomicI64::new(NEVER.0),
        }
    }

    fn len(&self) -> u64 {
        self.extent.read().len
    }

    fn place(&self) -> &TextPlace {
        self.place.get_or_init(|| match self.tree.store().scratch() {
            Ok(file) => TextPlace::Disk(file),
            Err(error) => {
                tracing::debug!(%error, "streams are kept in memory");
                TextPlace::Memory(RwLock::default())
            }
        })
    }

    /// Adds whole lines.
    fn append(&self, lines: &[u8]) -> io::Result<()> {
        self.append_to(&mut self.extent.write(), lines)
    }

    /// Adds an empty line where nothing follows `offset`.
    fn append_empty_line(&self, offset: u64) -> io::Result<()> {
        let mut extent = self.extent.write();
        if extent.len == offset { self.append_to(&mut extent, b"\n") } else { Ok(()) }
    }

    fn append_to(&self, extent: &mut Extent, lines: &[u8]) -> io::Result<()> {
        let at = extent.len;
        let kept = match self.place() {
            TextPlace::Disk(file) => {
                file.write_at(lines, at)?;
                KEPT
            }
            TextPlace::Memory(bytes) => {
                bytes.write().extend_from_slice(lines);
                KEPT_IN_MEMORY
            }
        };
        extent.len += lines.len() as u64;
        extent.pieces.push_back(at);
        self.changed.store(Timestamp::now().0, Ordering::Relaxed);
        if extent.len - extent.begin > kept + kept / 2 {
            self.give_back(extent, kept);
        }
        Ok(())
    }

    /// Gives back the beginning, but for the last `kept` bytes and what is in a piece with them.
    fn give_back(&self, extent: &mut Extent, kept: u64) {
        let wanted = extent.len.saturating_sub(kept);
        while let Some(&next) = extent.pieces.get(1).filter(|&&next| next <= wanted) {
            extent.pieces.pop_front();
            extent.begin = next;
        }
        let gone = extent.begin - extent.freed;
        if gone == 0 {
            return;
        }
        match self.place() {
            TextPlace::Disk(file) => {
                if let Err(error) = file.punch(extent.freed, gone) {
                    // The lines are in the text all the same; the space is asked for with the next that is given back.
                    tracing::debug!(%error, "the beginning of a stream still takes space");
                    return;
                }
            }
            TextPlace::Memory(bytes) => {
                let mut bytes = bytes.write();
                let gone = usize::try_from(gone).unwrap_or(usize::MAX).min(bytes.len());
                bytes.drain(..gone);
            }
        }
        extent.freed = extent.begin;
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        // Until it is read it must not be given back.
        let extent = self.extent.read();
        let len = (buffer.len() as u64).min(extent.len.saturating_sub(offset));
        let len = usize::try_from(len).unwrap_or(buffer.len());
        let (filled, _) = buffer.split_at_mut(len);
        let gone = extent.begin.saturating_sub(offset).min(len as u64);
        let (gone, there) = filled.split_at_mut(usize::try_from(gone).unwrap_or(len));
        gone.fill(b'\n');
        if there.is_empty() {
            return Ok(len);
        }
        let from = offset + gone.len() as u64;
        match self.place() {
            TextPlace::Disk(file) => {
                if file.read_at(there, from)? < there.len() {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
            }
            TextPlace::Memory(bytes) => {
                let from = usize::try_from(from - extent.begin).unwrap_or(usize::MAX);
                let bytes = bytes.read();
                let held = bytes.get(from..).and_then(|rest| rest.get(..there.len()));
                there.copy_from_slice(held.ok_or(io::ErrorKind::UnexpectedEof)?);
            }
        }
        Ok(len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::legacy::native::{NewEvent, keep};
    use crate::tree::{Origin, SimDisk, Step};

    /// Longer than any test takes.
    const LONG: Duration = Duration::from_secs(60);
    const SHORT: Duration = Duration::from_millis(20);

    fn tell(tree: &Tree, kind: &'static str, number: u32) {
        let data = [("number".to_owned(), number.into())];
        let new = NewEvent {
            kind,
            aggregate_id: "default".to_owned(),
            aggregate_type: "project".to_owned(),
            source_agent: None,
            source_component: "http_server".to_owned(),
            data: data.into_iter().collect(),
            metadata: serde_json::Map::new(),
        };
        keep(tree, Origin::default(), &new).unwrap();
    }

    fn telling(tree: &Tree) -> Arc<Telling> {
        Arc::new(Telling::begin(tree, tree.last().next()).unwrap())
    }

    fn reader(telling: &Arc<Telling>, name: StreamName) -> Reader {
        Reader { telling: Arc::clone(telling), name, at: AtomicU64::new(0) }
    }

    /// What one read at `offset` gives.
    fn piece(reader: &Reader, offset: u64, patience: Duration) -> Vec<u8> {
        let mut bytes = vec![0; 100_000];
        let len = reader.read_by(offset, &mut bytes, Instant::now() + patience).unwrap();
        bytes.truncate(len);
        bytes
    }

    /// The numbers that the lines of a text have.
    fn numbers(text: &[u8]) -> Vec<u64> {
        let lines = text.split(|&byte| byte == b'\n').filter(|line| !line.is_empty());
        let number = |line| {
            let line: serde_json::Value = serde_json::from_slice(line).unwrap();
            line["data"]["number"].as_u64().unwrap()
        };
        lines.map(number).collect()
    }

    #[test]
    fn a_read_goes_through_a_part_of_the_log_and_the_file_ends_where_the_log_does() {
        let tree = Tree::in_memory();
        let (hasty, patient) = (telling(&tree), telling(&tree));
        let (sparse, others) = ("validation_request_submitted", 10 * RECORDS);
        (0..others).for_each(|number| tell(&tree, "custom", number));
        tell(&tree, sparse, others);
        tell(&tree, "custom", 0);
        let hasty = reader(&hasty, StreamName::ValidationRequests);
        let mut text = Vec::new();
        loop {
            let piece = piece(&hasty, text.len() as u64, Duration::ZERO);
            if piece.is_empty() {
                break;
            }
            assert!(piece.ends_with(b"\n"));
            text.extend(piece);
        }
        let empty = text.iter().take_while(|&&byte| byte == b'\n').count();
        assert!(empty >= 5, "{empty} reads gave nothing else");
        assert_eq!(numbers(&text), [u64::from(others)]);
        let second = reader(&hasty.telling, StreamName::ValidationRequests);
        assert_eq!(piece(&second, 0, Duration::ZERO), text, "every reader sees the same bytes");
        assert_eq!(piece(&second, text.len() as u64 + 1, Duration::ZERO), b"");
        let patient = reader(&patient, StreamName::ValidationRequests);
        assert_eq!(piece(&patient, 0, LONG), text[empty..]);
    }

    #[test]
    fn nobody_waits_long_for_who_goes_through_the_log() {
        let tree = Tree::in_memory();
        let telling = telling(&tree);
        let began = Instant::now();
        let front = telling.front.lock();
        std::thread::scope(|scope| {
            let read = || piece(&reader(&telling, StreamName::DebugEvents), 0, SHORT);
            let reads: Vec<_> = (0..4).map(|_| scope.spawn(read)).collect();
            for read in reads {
                assert_eq!(read.join().unwrap(), b"\n", "not the end, and one line for all");
            }
        });
        let waits = reader(&telling, StreamName::DebugEvents);
        assert_eq!(waits.size_by(Instant::now() + SHORT).unwrap(), 1);
        waits.at.store(1, Ordering::Relaxed);
        let (streams, waits) = (Streams::default(), Arc::new(waits));
        for wait in 0..1000 {
            let (handle, reader) = (FileHandle(wait), Arc::clone(&waits));
            streams.waits.lock().push(Wait { wait, handle, reader });
        }
        assert!(streams.ready().is_empty());
        assert!(began.elapsed() < LONG / 4, "{:?}", began.elapsed());
        drop(front);
        tell(&tree, "custom", 7);
        assert_eq!(numbers(&piece(&waits, 1, LONG)), [7]);
        assert_eq!(streams.ready().len(), 1000);
        assert_eq!(piece(&waits, all(telling.texts.of(waits.name)).len() as u64, LONG), b"");
    }

    #[test]
    fn what_the_disk_did_not_take_is_written_down_before_more_is_read() {
        const ENOSPC: i32 = 28;
        let disk = SimDisk::new(1 << 30);
        let tree = Tree::in_memory_on(disk.clone());
        let telling = telling(&tree);
        let text = telling.texts.of(StreamName::DebugEvents);
        assert!(matches!(text.place(), TextPlace::Disk(_)));
        let advance = || telling.advance(Instant::now() + LONG, || false);
        let held = || telling.front.lock().lines.of(StreamName::DebugEvents).clone();
        tell(&tree, "custom", 1);
        disk.fail(Step::Write, 0, 1, ENOSPC);
        advance().unwrap_err();
        assert_eq!(numbers(&held()), [1]);
        tell(&tree, "custom", 2);
        disk.fail(Step::Write, 0, 1, ENOSPC);
        advance().unwrap_err();
        assert_eq!(numbers(&held()), [1], "nothing more was read");
        assert!(advance().unwrap());
        assert_eq!(numbers(&all(text)), [1, 2]);
    }

    #[test]
    fn space_that_the_disk_does_not_take_back_is_no_failure_and_is_asked_for_again() {
        const EIO: i32 = 5;
        let disk = SimDisk::new(1 << 30);
        let text = Text::new(&Tree::in_memory_on(disk.clone()));
        let line = [b"x".repeat(99), b"\n".to_vec()].concat();
        (0..100).for_each(|_| text.append(&line).unwrap());
        disk.fail(Step::Any, 0, 1, EIO);
        text.give_back(&mut text.extent.write(), 5000);
        assert_eq!((text.extent.read().begin, text.extent.read().freed), (5000, 0));
        let expected = [b"\n".repeat(5000), line.repeat(50)].concat();
        assert_eq!(all(&text), expected, "no line twice, none left out");
        text.append(&line).unwrap();
        text.give_back(&mut text.extent.write(), 5000);
        assert_eq!((text.extent.read().begin, text.extent.read().freed), (5100, 5100));
        // There is nothing to be given back.
        text.give_back(&mut text.extent.write(), 5000);
        assert_eq!(text.len(), 10_100);
    }

    fn all(text: &Text) -> Vec<u8> {
        let mut bytes = vec![0; usize::try_from(text.len()).unwrap() + 10];
        let len = text.read(0, &mut bytes).unwrap();
        bytes.truncate(len);
        bytes
    }

    #[test]
    fn the_beginning_is_given_back_by_whole_pieces_and_reads_as_empty_lines() {
        let tree = Tree::in_memory();
        for in_memory in [false, true] {
            let text = Text::new(&tree);
            if in_memory {
                text.place.set(TextPlace::Memory(RwLock::default())).unwrap();
            }
            let line = |number: usize| format!("line {number:04}\n").into_bytes();
            (0..100).for_each(|number| text.append(&line(number)).unwrap());
            let before = all(&text);
            assert_eq!(before.len(), 1000);
            text.give_back(&mut text.extent.write(), 455);
            let after = all(&text);
            assert_eq!(after.len(), before.len());
            assert!(after[..540].iter().all(|&byte| byte == b'\n'));
            assert_eq!(after[540..], before[540..]);
            text.append(&line(100)).unwrap();
            assert_eq!(all(&text)[1000..], line(100));
            let mut piece = [0; 15];
            assert_eq!(text.read(535, &mut piece).unwrap(), 15);
            assert_eq!(&piece, b"\n\n\n\n\nline 0054\n");
            assert_eq!(text.read(5000, &mut piece).unwrap(), 0);
        }
    }

    #[test]
    fn every_kind_of_the_bridge_is_told_in_one_stream() {
        for kind in crate::legacy::event::KINDS {
            let name = StreamName::telling_of(kind);
            assert_eq!(StreamName::of(name.text()), Some(name), "{kind}");
        }
        assert_eq!(StreamName::of(b"from"), None);
    }

    #[test]
    fn beginnings_that_nobody_reads_are_let_go_before_those_in_use() {
        let tree = Tree::in_memory();
        let streams = Streams::default();
        let held = streams.from(&tree, Seq(2)).unwrap();
        for since in 3..3 + 2 * FROM_KEPT as u64 {
            streams.from(&tree, Seq(since)).unwrap();
        }
        assert!(streams.from.lock().len() <= FROM_KEPT);
        assert!(Arc::ptr_eq(&held, &streams.from(&tree, Seq(2)).unwrap()));
    }
}
