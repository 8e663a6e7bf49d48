//! Tables that are kept: what is young is frozen now and then, and a thread commits it.
//!
//! ```text
//!            16 MiB of log, or enough rows          log durable, batch committed
//!   young  --------------------------------> frozen -----------------------------> engine
//!     ^                                         |
//!     +---- a new one takes what comes next     +-- questions still find it
//! ```
//!
//! Invariants: at most one layer is frozen; a batch is committed only after the log it stands for is durable;
//! the index is never more than [`LOG_BEHIND_MAX`] of log behind (of the bytes of small writes a part counts), because
//! writers wait ([`Index::wait_for_room`]), and so does whoever reads the log back. Without the thread (no
//! [`Index::start`]) a batch is committed at once, where it is due.
//!
//! A full disk: a batch for which the file has to grow waits inside the engine until there is space, so what is there goes
//! on answering. Meanwhile what grows is refused ([`Index::is_full`]), and what gives space back goes on in memory: the
//! layer behind may become three times as large as otherwise, and 96 MiB of log. What grows leaves it two thirds of that
//! at least, a quarter of [`Options::memory`] as long as that is not more than 320 MiB: room for some 250 removed files in
//! each MiB. Beyond that they are refused too. The next start reads all of it back, into as much memory.
//!
//! A damaged table that a commit meets is no matter of another try: the thread gives up for good, what is there goes on
//! answering, and the next start rebuilds the index from the log.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicI32;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{
    Condvar, Mutex, RwLock, RwLockReadGuard, RwLockUpgradableReadGuard, RwLockWriteGuard,
};

use super::super::disk::{Disk, File};
use super::super::event::Seq;
use super::cache::Cache;
use super::codec::{Reader, Writer};
use super::engine::{Engine, Patience, Snapshot};
use super::key::{self, Key, NameHash};
use super::layer::Layer;
use super::small::Small;
use super::times::Tail;
use super::{IndexError, Tables, Totals};
use crate::sys::blocking;

/// Log bytes after which the young layer is frozen.
pub const LOG_PER_BATCH: u64 = 16 << 20;
/// Log bytes that may not be committed yet; past that, writers wait.
pub const LOG_BEHIND_MAX: u64 = 64 << 20;
/// Memory that the young layer takes at most before it is frozen, whatever the budget. A start after a kill folds in
/// again what two layers held, and is to take a second at most: new files are some 1,200 events for each MiB, and 10 us each.
const YOUNG_MAX: usize = 40 << 20;
/// Of the bytes that small writes have in the log, one in so many counts for both: a start reads them back, but they
/// make no rows. If all counted, pages that are written again and again would have a batch every 4,000 events.
const CONTENT_PART: u64 = 4;
/// Log bytes after which a place in it is noted down: what reading from any event on must skip at most.
const LOG_PER_MARK: u64 = 128 << 10;
/// Where the rows are, in the store's directory.
const FOLDER: &str = "index";
const FILE: &str = "index/rows.redb";
/// What the rows mean; another number means they are rebuilt.
const FORMAT: u8 = 4;
/// How long after a failed commit the next is tried.
const RETRY: Duration = Duration::from_secs(1);
/// How long after history was asked in vain to give way it is asked again: that may take seconds.
const ASK_AGAIN: Duration = Duration::from_secs(10);

/// What is shown the rows of a batch: a key with its value, or `None` where the row goes. An empty key ends the batch.
#[doc(hidden)]
pub type Tap = fn(&[u8], Option<&[u8]>);

/// How an index is opened.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Memory it may take, in bytes: half for the engine's pages, an eighth for hot rows, the rest
    /// for what is not committed.
    pub memory: usize,
    /// How many bits of a name's hash are kept (1 to 63). Fewer than 63 only to see what colliding names do.
    #[doc(hidden)]
    pub hash_bits: u32,
    /// Sees every batch before it is committed: how the bench that compares engines gets to know what a store asks of one.
    #[doc(hidden)]
    pub tap: Option<Tap>,
}

impl Default for Options {
    fn default() -> Self {
        Self { memory: 256 << 20, hash_bits: 63, tap: None }
    }
}

/// Where in the log a batch ends, in the log's own words; kept with the batch and never looked into.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Mark(pub Vec<u8>);

/// Tables, the file they are kept in, and the thread that commits them.
pub struct Index {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    tables: RwLock<Tables>,
    /// Taken only while no lock on `tables` or `state` is held, except where nothing else runs yet.
    engine: Mutex<Option<Engine>>,
    file: Arc<dyn File>,
    engine_cache: usize,
    young_max: usize,
    tap: Option<Tap>,
    identity: Identity,
    progress: Arc<Progress>,
}

/// How far the thread is; of its own, as the engine waits here too while it commits.
#[derive(Default)]
struct Progress {
    state: Mutex<State>,
    /// Signalled when a layer was frozen, when there is space for one that waits, or at the end.
    work: Condvar,
    /// Signalled when a batch was committed, or failed.
    room: Condvar,
}

#[derive(Default)]
struct State {
    /// Log bytes the young layer stands for.
    young_log: u64,
    /// [`Totals::inline`] as the last event left it.
    inline: u64,
    young_bytes: usize,
    /// Log bytes since the last place that was noted down.
    unmarked: u64,
    frozen: Option<Frozen>,
    applied: Option<Mark>,
    threaded: bool,
    stop: bool,
    /// The thread commits a batch: whoever lacks space for it may wait.
    committing: bool,
    /// Bytes that the file is to grow by, and that there is no space for; 0 if it waits for none.
    wanted: u64,
    /// When history was last asked to give way.
    asked: Option<Instant>,
    /// Why the last commit failed; `None` after one that did not.
    failure: Option<IndexError>,
    /// The log could not be made durable, or a table is damaged: no batch is committed any more.
    dead: bool,
    /// Something is in the log that could not be folded in.
    torn: bool,
}

struct Frozen {
    mark: Mark,
    log: u64,
}

/// Whose rows they are.
#[derive(Clone, Copy)]
struct Identity {
    store: [u8; 16],
    key_check: u64,
}

impl fmt::Debug for Index {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Index").finish_non_exhaustive()
    }
}

impl Index {
    /// Opens the index of the store `store`, or makes an empty one. `key` keys the hashes of names and must never change.
    ///
    /// # Errors
    /// [`IndexError::Damaged`] also for rows of another store, key or format: [`Index::remove`], and open again.
    pub fn open(
        disk: &dyn Disk,
        store: [u8; 16],
        key: &[u8; 16],
        options: &Options,
    ) -> Result<Self, IndexError> {
        disk.create_dir(FOLDER).map_err(IndexError::Io)?;
        let file = disk.open(FILE, true).map_err(IndexError::Io)?;
        disk.sync_dir(FOLDER).map_err(IndexError::Io)?;
        Self::open_file(file, store, key, options)
    }

    /// Opens the index in `file` alone.
    pub fn open_file(
        file: Arc<dyn File>,
        store: [u8; 16],
        key: &[u8; 16],
        options: &Options,
    ) -> Result<Self, IndexError> {
        let memory = options.memory;
        let engine_cache = memory / 2;
        let progress = Arc::new(Progress::default());
        let engine = Engine::open(file.clone(), engine_cache, progress.clone())?;
        let name_hash = NameHash::new(key, options.hash_bits);
        let identity = Identity { store, key_check: name_hash.of(b".") };
        let mut tables = Tables::new(engine.snapshot()?, Cache::new(memory / 8), name_hash);
        let applied = tables.load(&identity)?;
        *progress.state.lock() =
            State { applied, inline: tables.totals.inline, ..State::default() };
        Ok(Self {
            shared: Arc::new(Shared {
                tables: RwLock::new(tables),
                engine: Mutex::new(Some(engine)),
                file,
                engine_cache,
                young_max: (memory / 8).min(YOUNG_MAX),
                tap: options.tap,
                identity,
                progress,
            }),
            thread: Mutex::new(None),
        })
    }

    /// An empty index in memory, gone when it is dropped.
    pub fn in_memory(options: &Options) -> Result<Self, IndexError> {
        Self::open_file(Arc::new(MemoryFile::default()), [0; 16], &[0; 16], options)
    }

    /// Removes the index of a store, so that the next [`Index::open`] makes an empty one.
    pub fn remove(disk: &dyn Disk) -> io::Result<()> {
        match disk.remove(FILE) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    /// The mark of the last committed batch: the log is to be folded in from there. `None`: from its start.
    pub fn applied(&self) -> Option<Mark> {
        self.shared.progress.state.lock().applied.clone()
    }

    /// The tables for questions. Events wait meanwhile.
    pub fn read(&self) -> RwLockReadGuard<'_, Tables> {
        self.shared.tables.read()
    }

    /// The tables for deciding a change, one at a time: questions go on meanwhile, and wait only
    /// once the guard is upgraded to fold the change in.
    pub fn decide(&self) -> RwLockUpgradableReadGuard<'_, Tables> {
        self.shared.tables.upgradable_read()
    }

    /// The tables for folding in events.
    pub fn write(&self) -> RwLockWriteGuard<'_, Tables> {
        self.shared.tables.write()
    }

    /// Says that events were folded into `tables` (those of [`Index::write`], still held) that take
    /// `log_bytes` in the log. When a batch is due it is frozen, with the mark of this place in the log.
    ///
    /// # Errors
    /// Only without the thread, when the batch is committed here. On a full disk it is left to one, unless
    /// that is far more than a store leaves behind.
    pub fn advance(
        &self,
        tables: &mut Tables,
        log_bytes: u64,
        mark: impl FnOnce() -> Mark,
    ) -> Result<(), IndexError> {
        let shared = &self.shared;
        {
            let mut state = shared.progress.state.lock();
            let inline = std::mem::replace(&mut state.inline, tables.totals.inline);
            let content = tables.totals.inline.saturating_sub(inline);
            state.young_log += log_bytes.saturating_sub(content - content / CONTENT_PART);
            state.unmarked += log_bytes;
            state.young_bytes = tables.young.bytes;
            let due = state.young_log >= LOG_PER_BATCH || state.young_bytes >= shared.young_max;
            let waits = state.frozen.is_some();
            if waits && !state.threaded && shared.is_hopeless(&state) {
                return Err(IndexError::Io(io::ErrorKind::StorageFull.into()));
            }
            let due = due && !waits && !state.torn;
            let unmarked = state.unmarked >= LOG_PER_MARK;
            if !due && !unmarked {
                return Ok(());
            }
            let mark = mark();
            if unmarked {
                tables.note_mark(&mark);
                state.unmarked = 0;
            }
            if !due {
                return Ok(());
            }
            shared.freeze(tables, &mut state, mark);
            if state.threaded {
                return Ok(());
            }
        }
        match shared.commit_here(tables) {
            Err(error) if error.is_full() => {
                tracing::warn!(%error, "a batch of the index was not committed; it will be tried again");
                shared.failed(&error, false);
                Ok(())
            }
            other => other,
        }
    }

    /// Freezes what is young now, whatever its size, unless a batch is under way. For tests of what
    /// questions find while it is.
    #[doc(hidden)]
    pub fn freeze(&self, mark: Mark) {
        let mut tables = self.write();
        let mut state = self.shared.progress.state.lock();
        if state.frozen.is_none() {
            self.shared.freeze(&mut tables, &mut state, mark);
        }
    }

    /// Waits while the index is too far behind the log. Hold no lock of the index meanwhile. On a full disk it goes on
    /// where there is memory for what gives space back; whether what grows [may](Self::is_full) is to be asked then.
    ///
    /// # Errors
    /// If batches cannot be committed (a full disk, a failed one) and there is no more room to wait in.
    pub fn wait_for_room(&self) -> Result<(), IndexError> {
        let mut state = self.shared.progress.state.lock();
        while self.shared.is_behind(&state) {
            match &state.failure {
                None => (),
                Some(failure) if failure.is_full() && !self.shared.is_far_behind(&state) => {
                    return Ok(());
                }
                Some(failure) => return Err(failure.again()),
            }
            blocking::about_to_wait();
            self.shared.progress.room.wait(&mut state);
        }
        Ok(())
    }

    /// Whether what grows is to be refused: a batch waits for space, and what memory there is meanwhile is for what gives
    /// space back. Looks whether space has come.
    pub fn is_full(&self) -> bool {
        self.shared.lacks_space(&mut self.shared.progress.state.lock())
    }

    /// Whether history should give way for the index: there [is no space](Self::is_full), and nobody asked just now, since
    /// asking in vain takes a while.
    pub fn wants_room(&self) -> bool {
        let mut state = self.shared.progress.state.lock();
        if !self.shared.lacks_space(&mut state) {
            return false;
        }
        if state.asked.is_some_and(|asked| asked.elapsed() < ASK_AGAIN) {
            return false;
        }
        state.asked = Some(Instant::now());
        true
    }

    /// [`wait_for_room`](Self::wait_for_room) for whoever reads the log back, between two events: the thread gets the tables if
    /// it wants them. On a full disk it goes on, since nothing is given back before the store is open, unless that is
    /// far more than a store leaves behind.
    ///
    /// # Errors
    /// Why batches cannot be committed.
    pub fn read_on(&self, tables: &mut RwLockWriteGuard<'_, Tables>) -> Result<(), IndexError> {
        RwLockWriteGuard::bump(tables);
        if !self.shared.has_to_wait(&self.shared.progress.state.lock())? {
            return Ok(());
        }
        RwLockWriteGuard::unlocked(tables, || {
            let mut state = self.shared.progress.state.lock();
            while self.shared.has_to_wait(&state)? {
                self.shared.progress.room.wait(&mut state);
            }
            Ok(())
        })
    }

    /// Why the last batch could not be committed; `None` if it was. It is tried again every second, unless it was damage.
    pub fn failure(&self) -> Option<String> {
        self.shared.progress.state.lock().failure.as_ref().map(IndexError::to_string)
    }

    /// Something is in the log that could not be folded in, so the tables lack it, and so does all that follows: no batch is
    /// made of them any more, and the next start reads the log back from the last one.
    pub fn tear(&self) {
        self.shared.progress.state.lock().torn = true;
    }

    /// Commits everything folded in so far, which ends in the log at `mark`, unless it is [torn](Self::tear); for a clean
    /// stop. The caller has made the log durable, and folds in nothing meanwhile. A batch that waits for space is tried again,
    /// and fails if there is still none; the next flush tries it once more.
    pub fn flush(&self, mark: Mark) -> Result<(), IndexError> {
        let shared = &self.shared;
        let threaded = shared.try_again();
        shared.finish(threaded)?;
        {
            let mut tables = shared.tables.write();
            let mut state = shared.progress.state.lock();
            let is_applied = tables.young.rows.is_empty() && state.applied.as_ref() == Some(&mark);
            if is_applied || state.torn {
                return Ok(());
            }
            shared.freeze(&mut tables, &mut state, mark);
        }
        shared.finish(threaded)
    }

    /// Starts the thread that commits batches. `sync_log` is called before each, and returns once the log
    /// is durable up to the mark. If it fails, nothing is committed any more; nor once a table turned out to be damaged,
    /// which `damaged` is told. Neither may own the index.
    pub fn start(
        &self,
        sync_log: impl Fn(&Mark) -> io::Result<()> + Send + 'static,
        damaged: impl Fn(&str) + Send + 'static,
    ) -> io::Result<()> {
        let shared = self.shared.clone();
        let work = move || shared.run(&sync_log, &damaged);
        let thread = std::thread::Builder::new().name("index".into()).spawn(work)?;
        self.shared.progress.state.lock().threaded = true;
        *self.thread.lock() = Some(thread);
        Ok(())
    }
}

impl Drop for Index {
    fn drop(&mut self) {
        self.shared.progress.state.lock().stop = true;
        self.shared.progress.work.notify_all();
        if let Some(thread) = self.thread.get_mut().take() {
            // A batch under way is finished; what is young is in the log.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn is_behind(&self, state: &State) -> bool {
        let frozen = state.frozen.as_ref().map_or(0, |frozen| frozen.log);
        state.frozen.is_some()
            && (state.young_log + frozen > LOG_BEHIND_MAX || state.young_bytes > self.young_max)
    }

    /// See [`Index::is_full`].
    fn lacks_space(&self, state: &mut State) -> bool {
        if state.wanted == 0 {
            return state.failure.as_ref().is_some_and(IndexError::is_full)
                && self.is_behind(state);
        }
        if self.file.set_aside(state.wanted).is_err() {
            return true;
        }
        // Nobody else can take it now.
        (state.wanted, state.failure, state.asked) = (0, None, None);
        self.progress.work.notify_all();
        false
    }

    /// Whether whoever reads the log back has to wait.
    fn has_to_wait(&self, state: &State) -> Result<bool, IndexError> {
        if !state.threaded || !self.is_behind(state) {
            return Ok(false);
        }
        match &state.failure {
            None => Ok(true),
            Some(failure) if failure.is_full() && !self.is_hopeless(state) => Ok(false),
            Some(failure) => Err(failure.again()),
        }
    }

    /// So far behind that on a full disk what gives space back is refused too.
    fn is_far_behind(&self, state: &State) -> bool {
        state.young_log > LOG_BEHIND_MAX / 2 * 3 || state.young_bytes > 3 * self.young_max
    }

    /// So far behind no store is left: what was frozen may be young when it is read back.
    fn is_hopeless(&self, state: &State) -> bool {
        state.young_log > 3 * LOG_BEHIND_MAX || state.young_bytes > 6 * self.young_max
    }

    fn freeze(&self, tables: &mut Tables, state: &mut State, mark: Mark) {
        tables.freeze(&self.identity, &mark);
        let log = std::mem::take(&mut state.young_log);
        state.young_bytes = 0;
        state.frozen = Some(Frozen { mark, log });
        self.progress.work.notify_one();
    }

    /// Commits the frozen layer while the caller has the tables to itself. It may be tried again on a full disk.
    fn commit_here(&self, tables: &mut Tables) -> Result<(), IndexError> {
        let Some(layer) = tables.frozen.clone() else { return Ok(()) };
        let snapshot = match self.commit(&layer) {
            Err(error) if error.is_full() => {
                self.reopen(tables)?;
                return Err(error);
            }
            other => other?,
        };
        drop(tables.install(snapshot, layer.last));
        self.committed();
        Ok(())
    }

    fn commit(&self, layer: &Layer) -> Result<Snapshot, IndexError> {
        if let Some(tap) = self.tap {
            for (key, slot) in &layer.rows {
                tap(key.as_slice(), slot.value.as_ref().map(Small::as_slice));
            }
            tap(&[], None);
        }
        let engine = self.engine.lock();
        let engine = engine.as_ref().ok_or_else(closed)?;
        engine.commit(layer)?;
        engine.snapshot()
    }

    /// [`commit`](Self::commit) that waits where there is no space for it.
    fn commit_with_patience(&self, layer: &Layer) -> Result<Snapshot, IndexError> {
        self.progress.state.lock().committing = true;
        let committed = self.commit(layer);
        let mut state = self.progress.state.lock();
        (state.committing, state.wanted) = (false, 0);
        committed
    }

    fn committed(&self) {
        let mut state = self.progress.state.lock();
        if let Some(frozen) = state.frozen.take() {
            state.applied = Some(frozen.mark);
        }
        state.failure = None;
        self.progress.room.notify_all();
    }

    /// A batch that could not be committed is tried now, by the thread if there is one: which it returns.
    fn try_again(&self) -> bool {
        let mut state = self.progress.state.lock();
        if !state.dead {
            state.failure = None;
            self.progress.work.notify_all();
        }
        state.threaded
    }

    /// Waits until nothing is frozen, or commits it.
    fn finish(&self, threaded: bool) -> Result<(), IndexError> {
        if !threaded {
            return self.commit_here(&mut self.tables.write());
        }
        let mut state = self.progress.state.lock();
        while state.frozen.is_some() {
            if let Some(failure) = &state.failure {
                return Err(failure.again());
            }
            self.progress.room.wait(&mut state);
        }
        Ok(())
    }

    fn run(&self, sync_log: &dyn Fn(&Mark) -> io::Result<()>, damaged: &dyn Fn(&str)) {
        loop {
            let mark = {
                let mut state = self.progress.state.lock();
                loop {
                    match &state.frozen {
                        Some(frozen) if !state.dead => break frozen.mark.clone(),
                        _ if state.stop => return,
                        _ => self.progress.work.wait(&mut state),
                    }
                }
            };
            if let Err(error) = sync_log(&mark) {
                self.failed(&IndexError::Io(error), true);
                continue;
            }
            let Some(layer) = self.tables.read().frozen.clone() else { continue };
            match self.commit_with_patience(&layer) {
                Ok(snapshot) => {
                    let old = self.tables.write().install(snapshot, layer.last);
                    self.committed();
                    // Many rows: not while a lock is held.
                    drop((old, layer));
                }
                Err(error) => {
                    let mut for_good = self.not_committed(&error, damaged);
                    // At once: until then the engine may answer no question.
                    if let Err(error) = self.reopen(&mut self.tables.write()) {
                        for_good = self.not_committed(&error, damaged);
                    }
                    if !for_good && self.pause() {
                        return;
                    }
                }
            }
        }
    }

    /// Why the frozen batch is not committed yet. Whether it never will be.
    fn not_committed(&self, error: &IndexError, damaged: &dyn Fn(&str)) -> bool {
        let for_good = match error {
            IndexError::Damaged(what) => {
                if !self.progress.state.lock().dead {
                    damaged(what);
                }
                true
            }
            IndexError::Io(_) => {
                // Not at the end: whoever closes the store says what becomes of it.
                if !self.progress.state.lock().stop {
                    tracing::warn!(%error, "a batch of the index was not committed; it will be tried again");
                }
                false
            }
        };
        self.failed(error, for_good);
        for_good
    }

    fn failed(&self, error: &IndexError, for_good: bool) {
        let mut state = self.progress.state.lock();
        state.failure = Some(error.again());
        state.dead |= for_good;
        self.progress.room.notify_all();
    }

    /// Waits before another try; true if the end came.
    fn pause(&self) -> bool {
        let mut state = self.progress.state.lock();
        if !state.stop {
            self.progress.work.wait_for(&mut state, RETRY);
        }
        state.stop
    }

    /// The engine takes no more after a failure of the disk until it is opened again.
    fn reopen(&self, tables: &mut Tables) -> Result<(), IndexError> {
        let mut engine = self.engine.lock();
        *engine = None;
        let opened = Engine::open(self.file.clone(), self.engine_cache, self.progress.clone())?;
        tables.engine = opened.snapshot()?;
        *engine = Some(opened);
        Ok(())
    }
}

impl Patience for Progress {
    fn wait(&self, more: u64) -> bool {
        let mut state = self.state.lock();
        if !state.committing || state.stop {
            return false;
        }
        if state.failure.is_none() {
            tracing::warn!("the disk is full; a batch of the index waits for {more} bytes");
        }
        state.wanted = more;
        state.failure = Some(IndexError::Io(io::ErrorKind::StorageFull.into()));
        self.room.notify_all();
        self.work.wait_for(&mut state, RETRY);
        !state.stop
    }

    fn grown(&self) {
        let mut state = self.state.lock();
        // Who is told to wait waits for this batch again.
        (state.wanted, state.failure, state.asked) = (0, None, None);
    }
}

fn closed() -> IndexError {
    IndexError::Io(io::Error::other("the index is closed after a failure of the disk"))
}

impl Tables {
    fn new(engine: Snapshot, cache: Cache, name_hash: NameHash) -> Self {
        Self {
            young: Layer::default(),
            frozen: None,
            engine,
            // Everything may be in the engine until its own row says what is.
            engine_last: Seq::NOW,
            cache,
            name_hash,
            last: Seq::ZERO,
            totals: Totals::default(),
            tail: Tail::default(),
            frayed: Mutex::default(),
            lacking: Mutex::default(),
            first_label: Mutex::default(),
            dead_lead: AtomicI32::new(0),
            scratch: super::fold::Batch::default(),
            #[cfg(test)]
            rows_visited: std::sync::atomic::AtomicU64::new(0),
        }
    }

    /// Takes up what the last batch left; its mark, if there was one.
    fn load(&mut self, identity: &Identity) -> Result<Option<Mark>, IndexError> {
        let Some(meta) = self.row(&Key::new(key::META))?.map(|meta| meta.to_vec()) else {
            self.engine_last = Seq::ZERO;
            return Ok(None);
        };
        let (head, rest) = meta.split_first_chunk::<25>().ok_or_else(foreign)?;
        if *head != identity.encode() {
            return Err(foreign());
        }
        let mut from = Reader(rest);
        self.last = Seq(from.number()?);
        self.engine_last = self.last;
        let (inodes, allocated) = (from.number()?, from.number()?);
        let (padded, inline) = (from.number()?, from.number()?);
        let mark = Mark(from.0.to_vec());
        self.totals = Totals { inodes, allocated, padded, kept: self.load_kept()?, inline };
        self.load_tail()?;
        Ok(Some(mark))
    }

    fn freeze(&mut self, identity: &Identity, mark: &Mark) {
        if let Some((key, value)) = self.tail.row() {
            self.young.put(Small::from(&*key), Small::from(&value[..]), true);
        }
        let mut meta = Writer(identity.encode().to_vec());
        let Totals { inodes, allocated, padded, kept, inline } = self.totals;
        if kept > 0 {
            self.put_kept(kept);
        }
        meta.number(self.last.0).number(inodes).number(allocated).number(padded).number(inline);
        meta.0.extend_from_slice(&mark.0);
        self.young.put(Small::from(&*Key::new(key::META)), Small::from(&meta.0[..]), true);
        self.young.last = self.last;
        self.frozen = Some(Arc::new(std::mem::take(&mut self.young)));
    }

    /// Puts the engine's new state in the place of the frozen layer; returns what went.
    fn install(&mut self, snapshot: Snapshot, last: Seq) -> (Snapshot, Option<Arc<Layer>>) {
        self.engine_last = last;
        (std::mem::replace(&mut self.engine, snapshot), self.frozen.take())
    }
}

impl Identity {
    fn encode(&self) -> [u8; 25] {
        let mut bytes = [FORMAT; 25];
        let fields = self.store.into_iter().chain(self.key_check.to_be_bytes());
        for (place, byte) in bytes.iter_mut().skip(1).zip(fields) {
            *place = byte;
        }
        bytes
    }
}

fn foreign() -> IndexError {
    IndexError::Damaged("it is of another store or another format".into())
}

/// A file that is only memory.
#[derive(Default)]
pub(super) struct MemoryFile(RwLock<Vec<u8>>);

fn place(offset: u64) -> io::Result<usize> {
    usize::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput.into())
}

impl File for MemoryFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let bytes = self.0.read();
        let rest = bytes.get(place(offset)?..).unwrap_or_default();
        let len = rest.len().min(buffer.len());
        if let (Some(to), Some(from)) = (buffer.get_mut(..len), rest.get(..len)) {
            to.copy_from_slice(from);
        }
        Ok(len)
    }

    fn write_at(&self, new: &[u8], offset: u64) -> io::Result<()> {
        let mut bytes = self.0.write();
        let start = place(offset)?;
        let end = start.checked_add(new.len()).ok_or(io::ErrorKind::InvalidInput)?;
        if bytes.len() < end {
            bytes.resize(end, 0);
        }
        if let Some(to) = bytes.get_mut(start..end) {
            to.copy_from_slice(new);
        }
        Ok(())
    }

    fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        let end = place(offset.saturating_add(len))?;
        let mut bytes = self.0.write();
        if bytes.len() < end {
            bytes.resize(end, 0);
        }
        Ok(())
    }

    fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        let (start, end) = (place(offset)?, place(offset.saturating_add(len))?);
        let mut bytes = self.0.write();
        let end = end.min(bytes.len());
        if let Some(range) = bytes.get_mut(start..end) {
            range.fill(0);
        }
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.read().len() as u64)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.write().resize(place(len)?, 0);
        Ok(())
    }

    fn as_fd(&self) -> Option<std::os::fd::BorrowedFd<'_>> {
        None
    }
}
