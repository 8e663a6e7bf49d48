//! Log and content of one store, opened, appended to, synced and closed as one.
//!
//! ```text
//!   open ---> in service ---> closed
//!                 |  fdatasync fails
//!                 v
//!             read-only: changes are refused until the next start, reads go on
//! ```
//!
//! Invariants: content is synced before the log that refers to it; a number is handed out only
//! below a reserve that is on the disk; whoever waits for a sync waits for one that began after it
//! asked, and one `fdatasync` answers all who wait.

use std::any::Any;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use parking_lot::{Condvar, Mutex, MutexGuard};
use rustc_hash::FxHashMap;

use super::codec::{Freed, Note};
use super::content::{Content, piece_crcs};
use super::disk::{Disk, Lock, is_full};
use super::event::{
    AWAITED_INLINE_MAX, Actor, ActorId, Data, Event, INLINE_MAX, Place, Seq, Timestamp,
};
use super::log::{AppendError, Appended, Claim, Log, LogReader, Mark, Next, RESERVE};
use super::record::Entry;
use super::recover::{Damage, Recovered, recover};
use super::segment::{
    ENDS_VERSION, PAGES_VERSION, Position, SQUEEZED_VERSION, last_where, open_segment,
    remove_leftovers, segment_numbers,
};
use super::superblock::{Shape, State, Super, SuperError};
use super::{CommitError, Placed};
use crate::sys::blocking;

/// When the disk is waited for.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Durability {
    /// Every change is on the disk before its caller hears of it.
    Always,
    /// `fsync` waits; everything else is on the disk a second later.
    #[default]
    Fsync,
    /// Nobody waits, `fsync` neither.
    Async,
}

/// Why a store could not be opened or made.
#[derive(Debug)]
pub enum OpenError {
    /// There is no store.
    Missing,
    /// There is one already, or something that looks like the rest of one.
    Exists,
    /// The store is of a format version this program does not know.
    Version(u32),
    /// Both copies of `super` are damaged.
    SuperDamaged,
    /// The log is damaged where it begins, and there is no index: nothing can be read.
    Damaged(Damage),
    /// Another process has it open.
    Locked {
        /// Its process id, where known.
        pid: Option<u32>,
    },
    /// The index could not be opened or brought up to the log.
    Index(super::index::IndexError),
    /// Reading or writing failed.
    Io(io::Error),
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => f.write_str("no store here"),
            Self::Exists => f.write_str("there is a store already, or the rest of one"),
            Self::Version(version) => write!(
                f,
                "store has format version {version}, this program knows {}; use a newer program",
                ENDS_VERSION
            ),
            Self::SuperDamaged => {
                f.write_str("both copies in `super` are damaged; restore that file from a backup")
            }
            Self::Damaged(damage) => {
                write!(f, "damaged at {damage}; restore that file from a backup")
            }
            Self::Locked { pid: Some(pid) } => write!(f, "process {pid} has the store open"),
            Self::Locked { pid: None } => f.write_str("another process has the store open"),
            Self::Index(err) => write!(f, "index: {err:?}; deleting `index/` rebuilds it"),
            Self::Io(err) => err.fmt(f),
        }
    }
}

impl std::error::Error for OpenError {}

impl From<io::Error> for OpenError {
    fn from(err: io::Error) -> Self {
        Self::Io(err)
    }
}

impl From<SuperError> for OpenError {
    fn from(err: SuperError) -> Self {
        match err {
            SuperError::Missing => Self::Missing,
            SuperError::Version(version) => Self::Version(version),
            SuperError::Damaged => Self::SuperDamaged,
            SuperError::Io(err) => Self::Io(err),
        }
    }
}

/// Log and content of an open store.
pub struct Journal {
    disk: Arc<dyn Disk>,
    durability: Durability,
    state: Mutex<Super>,
    /// The version in `super`, for who asks with each write.
    version: AtomicU32,
    /// `None` where damage forbids going on.
    log: Option<Log>,
    content: Content,
    /// The number the next event takes.
    next: AtomicU64,
    /// Where reading ends, if nothing can be appended.
    end: Mark,
    actors: Mutex<Actors>,
    refused: Mutex<Option<Refusal>>,
    syncing: Mutex<Syncing>,
    synced: Condvar,
    answered: Mutex<FxHashMap<u64, Seq>>,
    /// What could not be given back: the log says that it is nobody's.
    owed: Mutex<Vec<Freed>>,
    salts: Salts,
    waits: Waits,
    /// Held as long as the store is open.
    _lock: Box<dyn Any + Send + Sync>,
}

/// Why a store that was opened so takes no changes.
pub(super) const READ_ONLY: &str = "it was opened for reading alone";
/// Why one takes no change any more that is being ended.
const CLOSED: &str = "it was closed";

/// Why changes are refused.
enum Refusal {
    /// The store is being closed; until it is, history may give space back for what is still to be written.
    Closing,
    /// So it is said to whoever wants to change something.
    Because(String),
}

impl Refusal {
    fn why(&self) -> &str {
        match self {
            Self::Closing => CLOSED,
            Self::Because(why) => why,
        }
    }
}

/// Whether somebody waits for the disk after each few writes.
#[derive(Debug)]
struct Waits {
    /// Bytes written since anybody last did.
    since: AtomicU64,
    /// That they were few the last time.
    often: AtomicBool,
    /// Everybody waits for every write.
    always: bool,
    /// How long a write may be that is waited for, to travel in its event.
    longest: usize,
}

impl Waits {
    /// More written at one time than this is not waited for often.
    const FEW: u64 = 256 << 10;

    fn new(durability: Durability, shape: Shape) -> Self {
        // A record lies in one segment, whose rest is lost if it does not fit.
        let longest = usize::try_from(shape.segment_len / 2).unwrap_or(usize::MAX);
        Self {
            since: AtomicU64::new(0),
            often: AtomicBool::new(false),
            always: durability == Durability::Always,
            longest: longest.clamp(INLINE_MAX, AWAITED_INLINE_MAX),
        }
    }

    fn waited(&self) {
        let since = self.since.swap(0, Ordering::Relaxed);
        self.often.store(since <= Self::FEW, Ordering::Relaxed);
    }

    /// How long a write may be to travel in its event, where one of `len` bytes comes now: `least` at least.
    fn inline_max(&self, len: usize, least: usize) -> usize {
        let since = self.since.fetch_add(len as u64, Ordering::Relaxed).saturating_add(len as u64);
        let awaited = self.always || since <= Self::FEW && self.often.load(Ordering::Relaxed);
        if awaited { self.longest } else { least }
    }
}

struct Syncing {
    /// All before this is on the disk.
    until: Position,
    /// Someone is at it.
    running: bool,
    /// It failed, for good.
    failed: bool,
}

/// Actors whose numbers are at hand; the log has them all.
#[derive(Default)]
struct Actors {
    numbers: FxHashMap<Actor, ActorId>,
    known: FxHashMap<ActorId, Actor>,
}

/// After so many bytes of content a sync begins though nobody waits for one. Then the disk works while
/// more is written, and whoever calls `fsync` at the end of a large file finds little left to wait for.
/// Smaller steps would have the disk flush its own cache all the time.
const SYNC_STEP: u64 = 16 << 20;

/// How many ranges that could not be given back are tried again.
const OWED_MAX: usize = 4096;

/// How many actors are kept at hand.
const ACTORS_MAX: usize = 16 << 10;

impl Actors {
    fn remember(&mut self, id: ActorId, actor: Actor) {
        if self.known.len() >= ACTORS_MAX {
            self.known.clear();
            self.numbers.clear();
        }
        self.numbers.insert(actor.clone(), id);
        self.known.insert(id, actor);
    }
}

/// Makes salts nobody can foresee, without asking the kernel for each.
struct Salts {
    key: [u8; 32],
    count: AtomicU64,
}

impl Salts {
    fn next(&self) -> [u8; 16] {
        let count = self.count.fetch_add(1, Ordering::Relaxed);
        let hash = blake3::keyed_hash(&self.key, &count.to_le_bytes());
        let mut salt = [0; 16];
        salt.copy_from_slice(hash.as_bytes().first_chunk::<16>().unwrap_or(&[1; 16]));
        // All zeros would say that the salt was taken out.
        if salt == [0; 16] { [1; 16] } else { salt }
    }
}

/// The BLAKE3 that vouches for `bytes`, keyed by their salt.
#[must_use]
pub fn content_hash(salt: &[u8; 16], bytes: &[u8]) -> [u8; 32] {
    *content_hasher(salt).update(bytes).finalize().as_bytes()
}

/// The same for bytes that come in parts.
#[must_use]
pub fn content_hasher(salt: &[u8; 16]) -> blake3::Hasher {
    let mut key = [0; 32];
    key[..16].copy_from_slice(salt);
    blake3::Hasher::new_keyed(&key)
}

fn random<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    let mut filled = 0;
    while filled < N {
        let rest = bytes.get_mut(filled..).unwrap_or_default();
        filled += rustix::rand::getrandom(rest, rustix::rand::GetRandomFlags::empty())?;
    }
    Ok(bytes)
}

impl Journal {
    /// Makes a store in the directory that `disk` is: no event has happened in it yet.
    pub fn create(
        disk: Arc<dyn Disk>,
        shape: Shape,
        durability: Durability,
    ) -> Result<Self, OpenError> {
        match Super::read(&*disk) {
            Err(SuperError::Missing) => (),
            Ok(_) => return Err(OpenError::Exists),
            Err(err) => return Err(err.into()),
        }
        let lock = lock(&*disk)?;
        if has_records(&*disk)? {
            return Err(OpenError::Exists);
        }
        for directory in ["log", "content", "lost"] {
            disk.create_dir(directory)?;
        }
        let (store, key) = (random()?, random()?);
        let reserve = Seq(Seq::FIRST.0 + RESERVE);
        let log = Log::create(Arc::clone(&disk), (store, key), shape, reserve)?;
        let mut state = Super {
            generation: 0,
            version: super::segment::FORMAT_VERSION,
            store,
            key,
            shape,
            state: State::InService,
            boot: disk.boot()?,
            scan_from: 1,
            checkpoint: log.end(),
        };
        // The header must be there before anything says that there is a store.
        log.finish_sync(&log.begin_sync())?;
        disk.sync_dir("")?;
        state.create(&*disk)?;
        let end = log.mark();
        let content = Content::new(Arc::clone(&disk), shape, 1, 0);
        Self::new(disk, durability, state, Some(log), content, Seq::FIRST, end, lock)
    }

    /// Opens a store, whatever became of who had it open before. `read_only` refuses changes.
    pub fn open(
        disk: Arc<dyn Disk>,
        durability: Durability,
        read_only: bool,
    ) -> Result<(Self, Recovered), OpenError> {
        // Before anything is touched: a newer program's store is none of our business.
        Super::read(&*disk)?;
        let lock = lock(&*disk)?;
        let mut state = Super::read(&*disk)?;
        let boot = disk.boot()?;
        if !read_only {
            remove_leftovers(&*disk)?;
        }
        let mut recovered = recover(&disk, &state, boot, false)?;
        let known = recovered.known;
        let tail = recovered.tail.take();
        let mut log = None;
        let mut at = (known.content_file, known.content_offset);
        if let Some(tail) = tail {
            at = (tail.end.content_file, tail.end.content_offset);
            let reserve = Seq(recovered.next.0.saturating_add(RESERVE));
            state.state = State::InService;
            state.boot = boot;
            state.scan_from = tail.end.position.segment.saturating_sub(1).max(1);
            state.checkpoint = tail.end;
            state.checkpoint.reserve = reserve;
            state.write(&*disk, true)?;
            let keys = (state.store, state.key);
            log = Some(Log::resume(Arc::clone(&disk), keys, state.shape, tail, reserve)?);
        }
        let content = Content::new(Arc::clone(&disk), state.shape, at.0, at.1);
        let (next, end) = (recovered.next, recovered.end);
        let journal = Self::new(disk, durability, state, log, content, next, end, lock)?;
        *journal.answered.lock() = std::mem::take(&mut recovered.answered);
        // The horizon was durable before anything was freed; what was not yet, is now.
        for range in std::mem::take(&mut recovered.freed) {
            match journal.content.free(range.file, range.offset, range.len) {
                Err(err) if err.kind() == io::ErrorKind::NotFound => (),
                other => other?,
            }
        }
        if let Some(damage) = &recovered.damage {
            journal.refuse(format!("damaged: {damage}"));
        } else if read_only {
            journal.refuse(READ_ONLY.to_owned());
        }
        Ok((journal, recovered))
    }

    #[expect(clippy::too_many_arguments, reason = "the parts of a value that is made in two ways")]
    fn new(
        disk: Arc<dyn Disk>,
        durability: Durability,
        state: Super,
        log: Option<Log>,
        content: Content,
        next: Seq,
        end: Mark,
        lock: Box<dyn Any + Send + Sync>,
    ) -> Result<Self, OpenError> {
        let until = log.as_ref().map_or(end.position, Log::synced);
        let waits = Waits::new(durability, state.shape);
        Ok(Self {
            disk,
            durability,
            version: AtomicU32::new(state.version),
            state: Mutex::new(state),
            log,
            content,
            next: AtomicU64::new(next.0),
            end,
            actors: Mutex::new(Actors::default()),
            refused: Mutex::new(None),
            syncing: Mutex::new(Syncing { until, running: false, failed: false }),
            synced: Condvar::new(),
            answered: Mutex::new(FxHashMap::default()),
            owed: Mutex::default(),
            salts: Salts { key: random()?, count: AtomicU64::new(0) },
            waits,
            _lock: lock,
        })
    }

    /// The store's random name.
    pub fn store_id(&self) -> [u8; 16] {
        self.state.lock().store
    }

    /// The store's key for hashes of names.
    pub fn key(&self) -> [u8; 16] {
        self.state.lock().key
    }

    /// Bytes of files.
    pub const fn content(&self) -> &Content {
        &self.content
    }

    /// The directory it lives in.
    pub fn disk(&self) -> &Arc<dyn Disk> {
        &self.disk
    }

    /// The number the next event takes.
    pub fn next_seq(&self) -> Seq {
        Seq(self.next.load(Ordering::Acquire))
    }

    /// The time of the last event.
    pub fn last_time(&self) -> Timestamp {
        self.log.as_ref().map_or(Timestamp(i64::MAX), |log| log.end().time)
    }

    /// Where reading goes on behind the last record.
    pub fn mark(&self) -> Mark {
        self.log.as_ref().map_or(self.end, Log::mark)
    }

    /// The oldest tree that can be shown.
    pub fn horizon(&self) -> Seq {
        match &self.log {
            Some(log) => log.end().horizon,
            None => self.state.lock().checkpoint.horizon,
        }
    }

    /// Recovery will never look at a segment before this one, whatever happens.
    pub(super) fn scan_from(&self) -> u32 {
        self.state.lock().scan_from
    }

    /// Notes down, once and for good, that there are segments which older programs would misread.
    pub(super) fn begin_squeezing(&self) -> io::Result<()> {
        self.raise_version(SQUEEZED_VERSION)
    }

    /// Whether segments may have been squeezed.
    pub(super) fn has_squeezed(&self) -> bool {
        self.version.load(Ordering::Acquire) >= SQUEEZED_VERSION
    }

    /// Notes down, once and for good, that there is something in the store which programs that know only versions before
    /// `version` would misread.
    fn raise_version(&self, version: u32) -> io::Result<()> {
        if self.version.load(Ordering::Acquire) >= version {
            return Ok(());
        }
        let mut state = self.state.lock();
        let before = state.version;
        if before < version {
            state.version = version;
            // In both copies: where one is damaged, the other must say it too.
            let written =
                state.write(&*self.disk, true).and_then(|()| state.write(&*self.disk, true));
            if written.is_err() {
                state.version = before;
                return written;
            }
        }
        self.version.store(state.version, Ordering::Release);
        Ok(())
    }

    /// Why changes are refused, if they are.
    pub fn refusal(&self) -> Option<String> {
        self.refused.lock().as_ref().map(|refusal| refusal.why().to_owned())
    }

    /// Refuses all changes from now on, and that history gives space back.
    pub fn refuse(&self, why: String) {
        let mut refused = self.refused.lock();
        if !matches!(*refused, Some(Refusal::Because(_))) {
            *refused = Some(Refusal::Because(why));
        }
    }

    /// Refuses all changes from now on, as the store is about to be [closed](Self::close).
    pub(super) fn begin_closing(&self) {
        self.refused.lock().get_or_insert(Refusal::Closing);
    }

    /// The log, for changes.
    fn writable(&self) -> Result<&Log, CommitError> {
        self.log_unless(|_| true)
    }

    /// The log, for what gives space back.
    fn writable_for_history(&self) -> Result<&Log, CommitError> {
        self.log_unless(|refusal| matches!(refusal, Refusal::Because(_)))
    }

    fn log_unless(&self, refuses: impl Fn(&Refusal) -> bool) -> Result<&Log, CommitError> {
        if let Some(refusal) = self.refused.lock().as_ref().filter(|refusal| refuses(refusal)) {
            return Err(CommitError::ReadOnly(refusal.why().to_owned()));
        }
        self.log.as_ref().ok_or_else(|| CommitError::ReadOnly("its log is damaged".to_owned()))
    }

    /// Refuses what would be refused anyway, before any work is done.
    pub fn check_writable(&self) -> Result<(), CommitError> {
        self.writable().map(drop)
    }

    /// See [`Store::place`](super::Store::place).
    pub fn place<'a>(
        &self,
        bytes: &'a [u8],
        placed: &'a mut Placed,
    ) -> Result<Data<'a>, CommitError> {
        if bytes.len() > self.waits.inline_max(bytes.len(), INLINE_MAX) {
            return self.place_extent(bytes, placed);
        }
        self.place_inline(bytes)
    }

    /// See [`Store::place_on`](super::Store::place_on).
    pub fn place_on<'a>(
        &self,
        bytes: &'a [u8],
        placed: &'a mut Placed,
    ) -> Result<Data<'a>, CommitError> {
        if bytes.len() > self.waits.inline_max(bytes.len(), INLINE_MAX - 1) {
            return self.place_extent(bytes, placed);
        }
        self.place_inline(bytes)
    }

    fn place_inline<'a>(&self, bytes: &'a [u8]) -> Result<Data<'a>, CommitError> {
        self.writable()?;
        if bytes.len() >= INLINE_MAX {
            self.raise_version(PAGES_VERSION).map_err(CommitError::Io)?;
        }
        let salt = self.salts.next();
        let hash = content_hash(&salt, bytes);
        Ok(Data { hash, salt, place: Place::Inline(bytes) })
    }

    /// Puts bytes into a content file, however few they are.
    pub(super) fn place_extent<'a>(
        &self,
        bytes: &[u8],
        placed: &'a mut Placed,
    ) -> Result<Data<'a>, CommitError> {
        self.writable()?;
        let salt = self.salts.next();
        let hash = content_hash(&salt, bytes);
        placed.crcs.clear();
        piece_crcs(bytes, &mut placed.crcs);
        let location = self.content.append(bytes, placed.only_here).map_err(commit_error)?;
        let place = Place::Extent { location, len: bytes.len() as u64, crcs: &placed.crcs };
        Ok(Data { hash, salt, place })
    }

    /// Appends a relocation; returns how long its record is. No event may be appended meanwhile.
    pub(super) fn relocated(&self, note: &Note<'_>) -> Result<u64, CommitError> {
        let log = self.writable()?;
        let start = log.append_note(note)?;
        Ok(u64::from(log.end().position.offset.saturating_sub(start.offset)))
    }

    /// Appends an event, whose number must be [`next_seq`](Self::next_seq). One at a time.
    pub fn append(&self, event: &Event<'_>) -> Result<Appended, CommitError> {
        let log = self.writable()?;
        if event.change.ends_a_file() {
            self.raise_version(ENDS_VERSION).map_err(CommitError::Io)?;
        }
        let claim = Claim::of(&event.change);
        let appended = match log.append(event, claim) {
            // The reserve in the newest seal becomes durable by a sync.
            Err(AppendError::Exhausted) if event.seq < Seq::LIMIT => {
                self.sync_anyway(log)?;
                self.sync_anyway(log)?;
                log.append(event, claim)
            }
            other => other,
        };
        let appended = appended.map_err(CommitError::from)?;
        self.next.store(event.seq.next().0, Ordering::Release);
        Ok(appended)
    }

    /// Waits for the disk if every change does.
    pub fn settle(&self) -> Result<(), CommitError> {
        if self.durability == Durability::Always { self.sync_now() } else { Ok(()) }
    }

    /// Returns once everything appended before the call is on the disk; at once if nobody waits.
    pub fn sync(&self) -> Result<(), CommitError> {
        if self.durability == Durability::Async {
            return self.check_synced();
        }
        self.waits.waited();
        self.sync_now()
    }

    fn check_synced(&self) -> Result<(), CommitError> {
        if self.syncing.lock().failed { Err(lost()) } else { Ok(()) }
    }

    /// Returns once everything appended before the call is on the disk.
    pub fn sync_now(&self) -> Result<(), CommitError> {
        let Some(log) = &self.log else { return Ok(()) };
        let wanted = log.sync_target();
        let mut syncing = self.syncing.lock();
        loop {
            if syncing.until >= wanted {
                return Ok(());
            }
            if syncing.failed {
                return Err(lost());
            }
            if syncing.running {
                blocking::about_to_wait();
                self.synced.wait(&mut syncing);
                continue;
            }
            // What became of it is in `syncing`.
            (syncing, _) = self.lead(syncing, log);
        }
    }

    /// A sync whether or not anything is new.
    fn sync_anyway(&self, log: &Log) -> Result<(), CommitError> {
        let mut syncing = self.syncing.lock();
        while syncing.running {
            self.synced.wait(&mut syncing);
        }
        if syncing.failed {
            return Err(lost());
        }
        let (_, result) = self.lead(syncing, log);
        result.map_err(CommitError::Io)
    }

    /// Syncs for everybody who waits: one does, unlocked meanwhile, and tells the others.
    fn lead<'j>(
        &'j self,
        mut syncing: MutexGuard<'j, Syncing>,
        log: &Log,
    ) -> (MutexGuard<'j, Syncing>, io::Result<()>) {
        syncing.running = true;
        drop(syncing);
        let result = self.sync_once(log);
        let mut syncing = self.syncing.lock();
        syncing.running = false;
        if let Ok(until) = result {
            syncing.until = syncing.until.max(until);
        }
        self.synced.notify_all();
        (syncing, result.map(drop))
    }

    fn sync_once(&self, log: &Log) -> io::Result<Position> {
        let point = log.begin_sync();
        let result = self.content.sync().and_then(|()| log.finish_sync(&point));
        result.inspect_err(|err| self.sync_failed(err)).map(|()| point.end())
    }

    /// Takes no change any more, and lets the next start know that the page cache cannot be believed. It is enough that
    /// it stands there: after a power cut the page cache is gone.
    fn sync_failed(&self, err: &io::Error) {
        self.refuse(format!("a sync failed ({err}); start again once the disk is well"));
        self.syncing.lock().failed = true;
        let mut state = self.state.lock();
        state.state = State::SyncFailed;
        let _ = state.write(&*self.disk, false);
    }

    /// What must be done now and then, outside of every lock that a change needs: sync what is
    /// new, set the next segment aside, note down where recovery may begin.
    pub fn tick(&self) -> Result<(), CommitError> {
        let Ok(log) = self.writable_for_history() else { return Ok(()) };
        let prepared = match log.prepare() {
            // Said to whoever wants to grow.
            Err(err) if is_full(&err) => Ok(()),
            other => other.map_err(CommitError::Io),
        };
        self.sync_now()?;
        self.content.uncache_streams();
        prepared?;
        if log.reserve_is_low() {
            self.sync_anyway(log)?;
        }
        let synced = log.synced();
        let mut state = self.state.lock();
        let from = synced.segment.saturating_sub(1).max(1);
        if from > state.scan_from && state.state == State::InService {
            let mut next = *state;
            next.scan_from = from;
            next.checkpoint.position = synced;
            next.checkpoint.reserve = log.durable_reserve().max(state.checkpoint.reserve);
            // Nobody goes by it before it stands there.
            next.write(&*self.disk, true).map_err(CommitError::Io)?;
            *state = next;
        }
        Ok(())
    }

    /// Whether [`tick`](Self::tick) should come now: there is a segment to set aside, or so much
    /// content that the disk should have begun with it.
    pub fn wants_tick(&self) -> bool {
        self.content.unsynced() >= SYNC_STEP || self.log.as_ref().is_some_and(Log::wants_segment)
    }

    /// Whether nothing that grows can be appended before space comes back.
    pub fn is_full(&self) -> bool {
        self.log.as_ref().is_some_and(Log::is_full)
    }

    /// See [`Log::lend`].
    pub(super) fn lend(&self, path: &str, work: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        match &self.log {
            Some(log) => log.lend(path, work),
            None => Err(io::ErrorKind::StorageFull.into()),
        }
    }

    /// Closes the store: opening it again reads nothing of the log. Nothing that was begun before may be appended
    /// meanwhile or afterwards.
    pub fn close(&self) -> Result<(), CommitError> {
        let Some(log) = &self.log else { return Ok(()) };
        self.refuse(CLOSED.to_owned());
        self.sync_now()?;
        if self.syncing.lock().failed {
            return Err(lost());
        }
        let closed = log.close().inspect_err(|err| self.sync_failed(err));
        let mut end = closed.map_err(CommitError::Io)?;
        // Whoever syncs from now on has nothing to wait for, and nothing to say in the log.
        self.syncing.lock().until = end.position;
        (end.content_file, end.content_offset) = self.content.end();
        let mut state = self.state.lock();
        state.checkpoint = end;
        state.checkpoint.reserve = log.durable_reserve().max(end.reserve);
        state.scan_from = end.position.segment.saturating_sub(1).max(1);
        state.state = State::Closed;
        state.write(&*self.disk, true).map_err(CommitError::Io)
    }

    /// The number of `actor`, if it is at hand.
    pub fn number_of(&self, actor: &Actor) -> Option<ActorId> {
        self.actors.lock().numbers.get(actor).copied()
    }

    /// The number of `actor`; if it has none yet, it is given one now, and `told` noted down of it.
    pub fn actor_told(&self, actor: &Actor, told: Actor) -> Result<ActorId, CommitError> {
        let mut actors = self.actors.lock();
        match actors.numbers.get(actor) {
            Some(&id) => Ok(id),
            None => self.number(&mut actors, actor, told),
        }
    }

    /// Another number for `actor`, who has one and is known by this one from now on.
    pub fn actor_anew(&self, actor: &Actor, told: Actor) -> Result<ActorId, CommitError> {
        self.number(&mut self.actors.lock(), actor, told)
    }

    fn number(
        &self,
        actors: &mut Actors,
        actor: &Actor,
        told: Actor,
    ) -> Result<ActorId, CommitError> {
        let log = self.writable()?;
        let id = log.append_actor(|id| Note::Actor { id, actor: told.clone() })?;
        if told != *actor {
            actors.remember(id, actor.clone());
        }
        actors.remember(id, told);
        Ok(id)
    }

    /// Notes down more of an actor that has a number.
    pub fn describe_actor(&self, id: ActorId, actor: &Actor) -> Result<(), CommitError> {
        let mut actors = self.actors.lock();
        if actors.known.get(&id) == Some(actor) {
            return Ok(());
        }
        self.writable()?.append_note(&Note::Actor { id, actor: actor.clone() })?;
        actors.remember(id, actor.clone());
        Ok(())
    }

    /// What is known of an actor; read from the log if it is not at hand.
    pub fn actor_of(&self, id: ActorId) -> io::Result<Option<Actor>> {
        if let Some(actor) = self.actors.lock().known.get(&id) {
            return Ok(Some(actor.clone()));
        }
        let found = actors_near(&self.disk, self.store_id(), id)?;
        let mut actors = self.actors.lock();
        let actor = found.get(&id).cloned();
        for (id, actor) in found {
            // What is at hand may be newer.
            if !actors.known.contains_key(&id) {
                actors.remember(id, actor);
            }
        }
        Ok(actor)
    }

    /// Requests count anew from here: they come over another connection of the kernel.
    pub fn begin_connection(&self, id: [u8; 16]) -> Result<(), CommitError> {
        self.writable()?.append_note(&Note::Connection { id })?;
        self.answered.lock().clear();
        Ok(())
    }

    /// The connection that the last events came over; zeros before the first.
    pub fn connection(&self) -> [u8; 16] {
        self.log.as_ref().map_or([0; 16], |log| log.end().connection)
    }

    /// The event that a request of this connection caused before the last crash.
    pub fn answered(&self, unique: u64) -> Option<Seq> {
        self.answered.lock().get(&unique).copied()
    }

    /// Marks the end of a version of a file.
    pub fn mark_version(&self, ino: super::event::Ino, actor: ActorId) -> Result<(), CommitError> {
        self.writable()?.append_note(&Note::Version { ino, actor })?;
        Ok(())
    }

    /// Notes down that `name` is a label of `seq`, or of nothing any more.
    pub fn note_label(&self, name: &[u8], seq: Option<Seq>) -> Result<(), CommitError> {
        self.writable()?.append_note(&Note::Label { name, seq })?;
        Ok(())
    }

    /// Notes down that trees before `horizon` are gone, makes that durable, and only then gives
    /// back what was theirs alone. What fails is said once, and tried again the next time.
    pub fn give_back(&self, horizon: Seq, freed: Vec<Freed>) -> Result<(), CommitError> {
        let log = self.writable_for_history()?;
        let note = Note::Horizon { horizon, freed };
        // A seal that says so must be on the disk as well, or after a power cut content that is missing, of an event
        // that seems not to be synced, ends the log there. A seal may lack the room, and the next note then makes some.
        let mut tries = 3;
        loop {
            log.append_note(&note)?;
            let noted = log.sync_target();
            self.sync_now()?;
            self.sync_anyway(log)?;
            if log.promised() >= noted {
                break;
            }
            tries -= 1;
            if tries == 0 {
                if let Note::Horizon { freed, .. } = note {
                    self.owe(freed);
                }
                let why = "no seal could be written; what history gives back stays for now";
                return Err(CommitError::Io(io::Error::other(why)));
            }
        }
        let Note::Horizon { freed, .. } = note else { return Ok(()) };
        let mut ranges = std::mem::take(&mut *self.owed.lock());
        let known = ranges.len();
        ranges.extend(freed);
        let (mut left, mut failure) = (Vec::new(), None);
        for (nth, range) in ranges.into_iter().enumerate() {
            match self.content.free(range.file, range.offset, range.len) {
                Ok(()) => (),
                // Then nothing of it is there.
                Err(err) if err.kind() == io::ErrorKind::NotFound => (),
                Err(err) => {
                    left.push(range);
                    if nth >= known {
                        failure.get_or_insert(err);
                    }
                }
            }
        }
        self.owe(left);
        failure.map_or(Ok(()), |err| Err(CommitError::Io(err)))
    }

    /// Keeps what could not be given back for the next time; whatever is too much for that stays.
    fn owe(&self, ranges: Vec<Freed>) {
        let mut owed = self.owed.lock();
        let room = OWED_MAX.saturating_sub(owed.len());
        owed.extend(ranges.into_iter().take(room));
    }

    /// Reads the log from a mark, or from its start.
    pub fn reader(&self, from: Option<Mark>) -> io::Result<LogReader> {
        let store = self.store_id();
        let reader = match from {
            Some(mark) => LogReader::resume(Arc::clone(&self.disk), store, mark),
            None => LogReader::at_segment(Arc::clone(&self.disk), store, 1),
        };
        Ok(reader?.reaching(self.mark().position))
    }
}

impl From<AppendError> for CommitError {
    fn from(err: AppendError) -> Self {
        match err {
            AppendError::NoSpace => Self::NoSpace,
            AppendError::Misfit => Self::Io(io::ErrorKind::InvalidInput.into()),
            AppendError::Exhausted => Self::ReadOnly("every sequence number was used".to_owned()),
            AppendError::Io(err) => Self::Io(err),
        }
    }
}

fn commit_error(err: io::Error) -> CommitError {
    if is_full(&err) { CommitError::NoSpace } else { CommitError::Io(err) }
}

/// What every waiter hears of a sync that failed.
fn lost() -> CommitError {
    CommitError::Io(rustix::io::Errno::IO.into())
}

fn lock(disk: &dyn Disk) -> Result<Box<dyn Any + Send + Sync>, OpenError> {
    match disk.lock("LOCK")? {
        Lock::Held(lock) => Ok(lock),
        Lock::Busy { pid } => Err(OpenError::Locked { pid }),
    }
}

/// Whether a log without a `super` has anything in it: then it is no place for a new store.
fn has_records(disk: &dyn Disk) -> io::Result<bool> {
    let file = match open_segment(disk, 1) {
        Ok(file) => file,
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(false),
        // What is there was written once.
        Err(err) if err.kind() == io::ErrorKind::InvalidData => return Ok(true),
        Err(err) => return Err(err),
    };
    // A store being made has its first seal behind the header, and no event.
    let mut bytes = [0; 4096];
    let from = super::segment::SEGMENT_HEADER_LEN + 256;
    let len = file.read_at(&mut bytes, from.into())?;
    Ok(bytes.iter().take(len).any(|&byte| byte != 0))
}

/// All actors noted down in the segment where `id` got its number, and in the one after it. For who
/// reads a log without opening the store.
pub fn actors_near(
    disk: &Arc<dyn Disk>,
    store: [u8; 16],
    id: ActorId,
) -> io::Result<FxHashMap<ActorId, Actor>> {
    let numbers = segment_numbers(&**disk)?;
    let last = last_where(&**disk, store, &numbers, |start| start.next_actor <= id.0)?;
    let mut found = FxHashMap::default();
    let Some(&first) = numbers.get(last) else { return Ok(found) };
    let mut reader = LogReader::at_segment(Arc::clone(disk), store, first)?;
    // What damage hides is not known; what is before it is.
    while let Next::Record(position, record) = reader.read_on()? {
        if position.segment > first.saturating_add(1) {
            break;
        }
        if record.is_event() {
            continue;
        }
        if let Some(Entry::Note(Note::Actor { id, actor })) = record.entry() {
            found.insert(id, actor);
        }
    }
    Ok(found)
}
