//! An append-only log of events and what is derived from it; never heard of FUSE.
//!
//! ```text
//! STORE/
//!   LOCK                  one server at a time
//!   super                 format version, store id, key, where the log ended at the last clean stop; two copies
//!   log/00000001.seg      events: the truth. Append only, 64 MiB each; less where an old one was squeezed
//!   content/00000001.dat  bytes of files, append only; extents at known offsets, so they can be spliced
//!   lost/                 what a power cut tore, kept aside
//!   index/                derived from the log; may be deleted and is rebuilt
//! ```
//!
//! A change goes: content first ([`Store::place`]); then under one lock ([`Store::begin`]) decide,
//! one `pwrite` at the end of the log, apply ([`Txn::commit`]); then the reply. So whatever anyone
//! can see is in the log, in order, before the caller hears of it.
//!
//! [`journal`] holds log and content together; [`mod@index`] answers questions. A thread of
//! the store syncs once a second, sets segments aside, moves the horizon when history has used
//! up its budget and takes what died behind it out of the log, and puts files together that lie in
//! many pieces; another commits what the index holds.
//!
//! Locks, outermost first: a [`Pin`]; the tables ([`Store::read`], [`Txn`]); what the journal has.
//! [`Store::place`] and [`Store::begin`] may wait for pins and readers when the disk is full, so
//! neither a pin nor the tables may be held when calling them.

pub mod codec;
pub mod content;
mod dead;
pub mod disk;
pub mod event;
pub mod index;
pub mod journal;
pub mod log;
pub mod overlay;
pub mod record;
pub mod recover;
mod redo;
mod relocate;
pub mod retain;
pub mod segment;
pub mod sim;
mod sources;
mod squeeze;
pub mod squeezed;
pub mod superblock;
mod txn;
pub mod verify;

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, RwLockReadGuard, RwLockUpgradableReadGuard};

pub use content::Pin;
pub use journal::{Durability, OpenError};
pub use txn::Txn;

use disk::{Disk, Real};
use event::{Actor, ActorId, Change, Data, FileId, Fingerprint, Ino, Place, Seq, Timestamp};
use index::{Index, IndexError, Stretch, Tables};
use journal::Journal;
use log::{Mark, Next};
use overlay::Overlay;
use recover::{Cut, Damage, Stop};
use redo::{open_index, remove_index};
use relocate::Relocator;
use retain::Retainer;
use segment::Position;
use superblock::Shape;
use txn::torn;

/// How a store is made.
#[derive(Clone, Copy, Debug)]
pub struct CreateOptions {
    /// Mode of the root directory, with or without its file type.
    pub mode: u32,
    /// Its owner.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// How large the store's files are.
    pub shape: Shape,
    /// When its first event happens, if that is in the past: for what is imported. `None` is now.
    pub begins: Option<Timestamp>,
}

impl Default for CreateOptions {
    fn default() -> Self {
        Self { mode: 0o755, uid: 0, gid: 0, shape: Shape::default(), begins: None }
    }
}

/// How a store is opened.
#[derive(Clone, Copy, Debug)]
pub struct OpenOptions {
    /// When the disk is waited for.
    pub durability: Durability,
    /// How often what is new is synced though nobody asks; `None` only when asked, and then
    /// nothing else happens by itself either: for tests, which call [`Store::tick`].
    pub sync_interval: Option<Duration>,
    /// Memory the index may take, in bytes.
    pub memory: usize,
    /// Refuses every change, and changes nothing on the disk either: what opening brings about stays in memory.
    pub read_only: bool,
    /// Bytes that history may take beside what is live; `None` is twice the live size, and at least 10 GiB.
    pub history: Option<u64>,
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self {
            durability: Durability::Fsync,
            sync_interval: Some(Duration::from_secs(1)),
            memory: 256 << 20,
            read_only: false,
            history: None,
        }
    }
}

/// What opening found; for the log and for `status`.
#[derive(Clone, Debug)]
pub struct Opening {
    /// How the last one left.
    pub stop: Stop,
    /// Why the store takes no changes: the first bad place in what was promised.
    pub damage: Option<Damage>,
    /// What a power cut tore, and where it is kept.
    pub cut: Option<Cut>,
    /// How many events were read back into the index.
    pub replayed: u64,
}

/// An open store. One process at a time has one. Dropped without [`close`](Store::close), it is as if
/// the process had been killed: nothing is lost, and the next start reads the end of the log.
pub struct Store {
    core: Arc<Core>,
    opening: Opening,
    keeper: Mutex<Option<JoinHandle<()>>>,
}

/// What the store's own thread shares with everyone.
struct Core {
    journal: Arc<Journal>,
    index: Index,
    retainer: Retainer,
    relocator: Relocator,
    bell: Bell,
}

/// Wakes the store's thread early, or for good.
#[derive(Default)]
struct Bell {
    state: Mutex<Ring>,
    rung: Condvar,
}

#[derive(Clone, Copy, Default, Eq, PartialEq)]
enum Ring {
    #[default]
    Quiet,
    Wanted,
    Stop,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("opening", &self.opening).finish_non_exhaustive()
    }
}

/// Why a change did not happen.
#[derive(Debug)]
pub enum CommitError {
    /// The disk is full and the change would need more of it.
    NoSpace,
    /// An earlier failure of the disk ended all changes until the next start; the text names it.
    ReadOnly(String),
    /// Writing failed; nothing was applied and no number was used.
    Io(io::Error),
    /// The index could not answer.
    Index(IndexError),
}

impl fmt::Display for CommitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSpace => f.write_str("the disk is full"),
            Self::ReadOnly(why) => write!(f, "the store takes no changes: {why}"),
            Self::Io(err) => err.fmt(f),
            Self::Index(err) => err.fmt(f),
        }
    }
}

impl std::error::Error for CommitError {}

/// Why a label was not made or removed.
#[derive(Debug)]
pub enum LabelError {
    /// It is no name: empty, longer than 255 bytes, `.` or `..`, or with a `/` or NUL in it.
    Name,
    /// There is one of that name.
    Taken,
    /// There is none of that name.
    Missing,
    /// History does not reach back to that event, or it has not happened yet.
    NoTree,
    /// The store could not do it.
    Commit(CommitError),
}

impl fmt::Display for LabelError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name => f.write_str("a label is a file name of 1 to 255 bytes"),
            Self::Taken => f.write_str("there is a label of that name already"),
            Self::Missing => f.write_str("there is no label of that name"),
            Self::NoTree => f.write_str("history does not reach there"),
            Self::Commit(err) => err.fmt(f),
        }
    }
}

impl std::error::Error for LabelError {}

impl From<CommitError> for LabelError {
    fn from(err: CommitError) -> Self {
        Self::Commit(err)
    }
}

impl From<IndexError> for LabelError {
    fn from(err: IndexError) -> Self {
        Self::Commit(CommitError::Index(err))
    }
}

/// Who asks for a change, and which request of the kernel it is.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Origin {
    /// Who.
    pub actor: ActorId,
    /// The request's `unique` without bit 63; 0 where no request of a kernel asked;
    /// [`IMPORTED`](Self::IMPORTED) where a foreign event did.
    pub unique: u64,
}

impl Origin {
    /// The `unique` of a change of the tree that the next [`Change::Foreign`] in the log tells of, which comes
    /// once all its changes are there. No kernel counts this far.
    pub const IMPORTED: u64 = 1 << 62;
}

impl Store {
    /// Makes a store in `dir`, whose last component is made too if it is missing, and opens it.
    pub fn create(
        dir: &Path,
        create: &CreateOptions,
        open: &OpenOptions,
    ) -> Result<Self, OpenError> {
        match std::fs::create_dir(dir) {
            Err(err) if err.kind() != io::ErrorKind::AlreadyExists => Err(err.into()),
            _ => Self::create_on(Arc::new(Real::new(dir)?), create, open),
        }
    }

    /// Opens the store in `dir`, whatever became of who had it open before.
    pub fn open(dir: &Path, open: &OpenOptions) -> Result<Self, OpenError> {
        let disk = || -> io::Result<Arc<dyn Disk>> {
            Ok(match open.read_only {
                true => Arc::new(Overlay::new(dir)?),
                false => Arc::new(Real::new(dir)?),
            })
        };
        match disk() {
            Ok(disk) => Self::open_on(disk, open),
            Err(err) if err.kind() == io::ErrorKind::NotFound => Err(OpenError::Missing),
            Err(err) => Err(err.into()),
        }
    }

    /// Opens the store in `dir`, or makes it if there is none and it may be changed.
    pub fn open_or_create(
        dir: &Path,
        create: &CreateOptions,
        open: &OpenOptions,
    ) -> Result<Self, OpenError> {
        match Self::open(dir, open) {
            Err(OpenError::Missing) if !open.read_only => Self::create(dir, create, open),
            other => other,
        }
    }

    /// [`create`](Self::create) on any disk.
    pub fn create_on(
        disk: Arc<dyn Disk>,
        create: &CreateOptions,
        open: &OpenOptions,
    ) -> Result<Self, OpenError> {
        let journal = match Journal::create(Arc::clone(&disk), create.shape, open.durability) {
            Ok(journal) => journal,
            Err(OpenError::Exists) => {
                // One that was cut short before its first event is no store yet.
                let (journal, _) = Journal::open(disk, open.durability, false)?;
                if journal.mark().seq != Seq::ZERO || journal.check_writable().is_err() {
                    return Err(OpenError::Exists);
                }
                journal
            }
            Err(err) => return Err(err),
        };
        let opening = Opening { stop: Stop::Clean, damage: None, cut: None, replayed: 0 };
        let store = Self::assemble(journal, opening, open)?;
        let time = create.begins.unwrap_or(Timestamp(i64::MAX));
        let Ok(txn) = store.begin_at(time) else { return Err(OpenError::Missing) };
        let mode = 0o040_000 | create.mode & 0o7777;
        let mkfs = Change::Mkfs { mode, uid: create.uid, gid: create.gid };
        txn.commit(Origin::default(), mkfs).map_err(open_error)?;
        store.core.journal.sync_now().map_err(open_error)?;
        if open.read_only {
            store.core.journal.refuse(journal::READ_ONLY.to_owned());
        }
        Ok(store)
    }

    /// [`open`](Self::open) on any disk.
    pub fn open_on(disk: Arc<dyn Disk>, open: &OpenOptions) -> Result<Self, OpenError> {
        let (journal, recovered) = Journal::open(disk, open.durability, open.read_only)?;
        if journal.mark().seq == Seq::ZERO && recovered.damage.is_none() {
            return Err(OpenError::Missing);
        }
        let opening = Opening {
            stop: recovered.stop,
            damage: recovered.damage,
            cut: recovered.cut,
            replayed: 0,
        };
        Self::assemble(journal, opening, open)
    }

    fn assemble(
        journal: Journal,
        mut opening: Opening,
        open: &OpenOptions,
    ) -> Result<Self, OpenError> {
        let journal = Arc::new(journal);
        let options = index::Options { memory: open.memory, ..index::Options::default() };
        let threaded = open.sync_interval.is_some();
        let (index, replayed) = open_index(&journal, &options, threaded, opening.damage.is_some())?;
        opening.replayed = replayed.count;
        if let Some(found) = replayed.damage {
            if index.read().last() == Seq::ZERO {
                return Err(OpenError::Damaged(found));
            }
            // The index knows nothing of what comes after it, so nothing may be built upon that.
            journal.refuse(format!("damaged: {found}"));
            opening.damage = match opening.damage.take() {
                Some(known) if known.at <= found.at => Some(known),
                _ => Some(found),
            };
        }
        let core = Arc::new(Core {
            retainer: Retainer::new(open.history, &journal)?,
            relocator: Relocator::default(),
            journal: Arc::clone(&journal),
            index,
            bell: Bell::default(),
        });
        let mut keeper = None;
        if let Some(interval) = open.sync_interval {
            let core = Arc::clone(&core);
            let work = move || core.keep(interval);
            keeper = Some(std::thread::Builder::new().name("store".into()).spawn(work)?);
        }
        Ok(Self { core, opening, keeper: Mutex::new(keeper) })
    }

    /// What opening found.
    pub const fn opening(&self) -> &Opening {
        &self.opening
    }

    /// Ends a store cleanly: everything is on the disk, and the next start reads nothing back, unless the index turns out to
    /// be damaged: then that start rebuilds it. Nor where the disk is full and history has nothing to give: then that start
    /// folds the last events in. What is being changed meanwhile is finished before, or refused.
    pub fn close(&self) -> Result<(), CommitError> {
        self.stop();
        if self.opening.damage.is_some() {
            // Nothing was changed, and the index may lack what the log has behind the damage: it must not say otherwise.
            return Ok(());
        }
        // Whoever serves it may still be at it: what was begun is finished, and nothing begins any more.
        self.core.journal.begin_closing();
        drop(self.core.index.decide());
        self.core.journal.sync_now()?;
        // Before the log ends: on a full disk history gives way for the index, and the log says so.
        let committed = self.core.commit_index();
        self.core.journal.close()?;
        match committed {
            Err(IndexError::Damaged(what)) => {
                let removed = remove_index(&**self.core.journal.disk(), &what);
                removed.map_err(|err| CommitError::Index(IndexError::Io(err)))
            }
            Err(err) if err.is_full() => {
                tracing::warn!(
                    "the disk is full; the next start reads back what the index lacks, and nothing is lost"
                );
                Ok(())
            }
            other => other.map_err(CommitError::Index),
        }
    }

    fn stop(&self) {
        self.core.bell.ring(Ring::Stop);
        if let Some(keeper) = self.keeper.lock().take() {
            // It cannot have panicked; and if it had, closing would still be right.
            let _ = keeper.join();
        }
    }

    /// The tables for questions; changes wait while this is held, so hold it briefly and never
    /// across reading content.
    pub fn read(&self) -> RwLockReadGuard<'_, Tables> {
        self.core.index.read()
    }

    /// While this is held, the content that [`read`](Self::read) tells of stays where it is, although
    /// it may be superseded and history full. Take it before the tables, drop it once the bytes are read.
    pub fn pin(&self) -> Pin<'_> {
        self.core.journal.content().pin()
    }

    /// Begins one change. What the transaction shows stays true until it is committed or dropped.
    /// Waits while the index is too far behind the log.
    pub fn begin(&self) -> Result<Txn<'_>, CommitError> {
        self.begin_at(Timestamp(i64::MAX))
    }

    /// Begins one change that happened at `time`: an imported one. It gets that time, but neither an earlier one
    /// than the change before it nor one that is still to come.
    pub fn begin_at(&self, time: Timestamp) -> Result<Txn<'_>, CommitError> {
        let core = &*self.core;
        core.journal.check_writable()?;
        if core.journal.is_full() || core.index.wants_room() {
            // What is refused in the end is refused by the append itself.
            let _ = core.retainer.make_room(&core.journal, &core.index);
        }
        core.index.wait_for_room().map_err(|err| {
            if err.is_full() { CommitError::NoSpace } else { CommitError::Index(err) }
        })?;
        let tables = core.index.decide();
        let seq = core.journal.next_seq();
        let time = Timestamp::now().min(time).max(core.journal.last_time());
        Ok(Txn { store: self, tables, seq, time })
    }

    /// Puts the bytes of a write where its event can refer to them: [short](event::INLINE_MAX) ones stay where
    /// they are and travel in the event, and where somebody waits for each, [longer](event::AWAITED_INLINE_MAX) ones too;
    /// all others go to a content file now, before the event. `placed` keeps the checksums the result borrows.
    pub fn place<'a>(
        &self,
        bytes: &'a [u8],
        placed: &'a mut Placed,
    ) -> Result<Data<'a>, CommitError> {
        if bytes.len() > event::INLINE_MAX {
            self.see_to_room(bytes);
        }
        self.core.journal.place(bytes, placed)
    }

    /// As [`place`](Self::place), for bytes that go on where others of the same file were just written: a page of them goes to a
    /// content file too, where it lies beside those, unless somebody waits for each.
    pub fn place_on<'a>(
        &self,
        bytes: &'a [u8],
        placed: &'a mut Placed,
    ) -> Result<Data<'a>, CommitError> {
        if bytes.len() >= event::INLINE_MAX {
            self.see_to_room(bytes);
        }
        self.core.journal.place_on(bytes, placed)
    }

    /// A user's write does not fail because history is full.
    fn see_to_room(&self, bytes: &[u8]) {
        let core = &*self.core;
        if core.journal.content().lacks_room(bytes.len() as u64) {
            // Nor because history failed to give way. What is refused in the end is refused where the bytes go.
            match core.retainer.make_room(&core.journal, &core.index) {
                Ok(_) | Err(CommitError::NoSpace | CommitError::ReadOnly(_)) => (),
                Err(err) => tracing::warn!("history gives no space: {err}"),
            }
        }
    }

    /// Gives back what [`place`](Self::place) took for a write that nobody tried to [commit](Txn::commit).
    pub fn unplace(&self, data: &Data<'_>) {
        if let Place::Extent { location, len, .. } = data.place {
            self.core.journal.content().discard(location, len);
        }
    }

    /// Reads the bytes of `stretches` (as [`Tables::stretches`] answered them) into `buffer`, which
    /// is as long as all of them together. Hold a [`Pin`] from before they were asked for.
    pub fn read_content(&self, stretches: &[Stretch], buffer: &mut [u8]) -> io::Result<()> {
        let mut rest = buffer;
        for stretch in stretches {
            let len = usize::try_from(stretch.len).unwrap_or(usize::MAX).min(rest.len());
            let (bytes, after) = rest.split_at_mut(len);
            match stretch.at {
                Some(location) => self.core.journal.content().read_at(location, bytes)?,
                None => bytes.fill(0),
            }
            rest = after;
        }
        Ok(())
    }

    /// The open file that `id` names, for splicing from it.
    pub fn content_file(&self, id: FileId) -> io::Result<Arc<dyn disk::File>> {
        self.core.journal.content().file(id)
    }

    /// Returns once every event committed before the call is on the disk: one wait for all who wait.
    /// With [`Durability::Async`] it does not wait.
    pub fn sync(&self) -> Result<(), CommitError> {
        self.core.journal.sync()
    }

    /// The same, and waits whatever the durability: for what is taken away elsewhere once it is safe here.
    pub fn sync_now(&self) -> Result<(), CommitError> {
        self.core.journal.sync_now()
    }

    /// Does once what the store's own thread does every interval.
    pub fn tick(&self) -> Result<(), CommitError> {
        self.core.tick(Timestamp::now()).map(drop)
    }

    /// [`tick`](Self::tick) as if it were `now`: for tests of what waits until a file was left alone.
    #[doc(hidden)]
    pub fn tick_at(&self, now: Timestamp) -> Result<(), CommitError> {
        self.core.tick(now).map(drop)
    }

    /// The number the log has for `actor`, given now if it is new.
    pub fn actor(&self, actor: &Actor) -> Result<ActorId, CommitError> {
        self.core.journal.actor_told(actor, actor.clone())
    }

    /// The number the log has for `actor`; `None` where it is new, or was not seen for long.
    pub fn number_of(&self, actor: &Actor) -> Option<ActorId> {
        self.core.journal.number_of(actor)
    }

    /// The number the log has for `actor`, given now if it is new: then the log says all that `told` does of it.
    pub fn actor_told(&self, actor: &Actor, told: Actor) -> Result<ActorId, CommitError> {
        self.core.journal.actor_told(actor, told)
    }

    /// Another number for `actor`, by which it is known from now on: what is told of the one before was of another program
    /// that looked the same.
    pub fn actor_anew(&self, actor: &Actor, told: Actor) -> Result<ActorId, CommitError> {
        self.core.journal.actor_anew(actor, told)
    }

    /// Notes down what became known of an actor after it got its number.
    pub fn describe_actor(&self, id: ActorId, actor: &Actor) -> Result<(), CommitError> {
        self.core.journal.describe_actor(id, actor)
    }

    /// What is known of an actor. One that was not seen for long is read from the log.
    pub fn actor_of(&self, id: ActorId) -> Option<Actor> {
        // An actor that cannot be read is as unknown as one that was never noted down.
        self.core.journal.actor_of(id).ok().flatten()
    }

    /// The oldest sequence whose tree can still be shown whole.
    pub fn horizon(&self) -> Seq {
        self.core.retainer.horizon()
    }

    /// Bytes in all and bytes still free for users of the tree (`statfs`): what history takes is
    /// free, for it gives way to whoever needs the space.
    pub fn space(&self) -> io::Result<disk::Space> {
        let space = self.core.journal.disk().space()?;
        let pinned = Retainer::is_pinned(&self.core.journal, &self.core.index);
        let history = if pinned.map_err(io::Error::other)? {
            0
        } else {
            self.core.retainer.history(&self.core.journal, &self.core.index)?
        };
        let available = space.available.saturating_add(history).saturating_sub(SET_ASIDE);
        Ok(disk::Space { available: available.min(space.total), ..space })
    }

    /// Bytes that the present tree takes, in whole pages where they are in content files, and those that files share once. As of
    /// some seconds ago, and rather too many than too few while clones go.
    pub fn live(&self) -> u64 {
        let totals = self.read().totals();
        self.core.retainer.present(&totals)
    }

    /// Bytes that files of the present tree share with others, as clones do, counted for each but one: what
    /// [`Totals::padded`](index::Totals::padded) counts too often. As of some seconds ago.
    pub fn doubled(&self) -> u64 {
        self.core.retainer.doubled()
    }

    /// Bytes that log and content take.
    pub fn size(&self) -> io::Result<Size> {
        self.core.size()
    }

    /// Why changes are refused, if they are.
    pub fn refusal(&self) -> Option<String> {
        self.core.journal.refusal()
    }

    /// The store's random name.
    pub fn id(&self) -> [u8; 16] {
        self.core.journal.store_id()
    }

    /// Reads the log from a mark on, or from its start, while it goes on being written.
    pub fn log(&self, from: Option<Mark>) -> io::Result<log::LogReader> {
        self.core.journal.reader(from)
    }

    /// Where the log ends: it goes on there with whatever is noted down, be it an event or not.
    pub fn log_end(&self) -> Position {
        self.core.journal.mark().position
    }

    /// Reads the log from just behind the last event before `seq`: its notes, then event `seq` if there is one.
    /// Costs the same wherever that is.
    pub fn log_from(&self, seq: Seq) -> io::Result<log::LogReader> {
        let core = &*self.core;
        let mark = core.index.read().mark_before(seq).map_err(io::Error::other)?;
        let disk = || Arc::clone(core.journal.disk());
        let mut reader = match mark.as_deref().and_then(Mark::from_bytes) {
            Some(mark) => core.journal.reader(Some(mark))?,
            None => log::LogReader::before(disk(), self.id(), seq.before())?,
        };
        let mut behind = reader.mark();
        while let Next::Record(_, record) = reader.read()? {
            let event = record.is_event();
            if event && record.stamp().seq >= seq {
                break;
            }
            if event {
                behind = reader.mark();
            }
        }
        core.journal.reader(Some(behind))
    }

    /// A file of the store's directory that nobody else sees, and that goes with its last user; none where nothing may be
    /// changed.
    pub fn scratch(&self) -> io::Result<Arc<dyn disk::File>> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        if self.refusal().is_some() {
            return Err(io::ErrorKind::ReadOnlyFilesystem.into());
        }
        let disk = self.core.journal.disk();
        let path = format!("scratch.{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let file = disk.open(&path, true)?;
        disk.remove(&path)?;
        // One that a crash left there under this name is empty from now on.
        file.set_len(0)?;
        Ok(file)
    }

    /// The bytes that an event carries.
    pub fn read_data(&self, data: &Data<'_>) -> io::Result<Vec<u8>> {
        match data.place {
            Place::Inline(bytes) => Ok(bytes.to_vec()),
            Place::Extent { location, len, .. } => {
                let mut bytes = vec![0; usize::try_from(len).map_err(io::Error::other)?];
                self.core.journal.content().read_at(location, &mut bytes)?;
                Ok(bytes)
            }
        }
    }

    /// What stands for `body` where a [`Foreign`](event::Foreign) event is looked for.
    pub fn fingerprint(&self, body: &[u8]) -> Fingerprint {
        let mut key = [0; 32];
        key[..16].copy_from_slice(&self.core.journal.key());
        // The same key hashes names; so that the two never meet.
        key[16..].copy_from_slice(b"foreign event's ");
        let hash = blake3::keyed_hash(&key, body);
        *hash.as_bytes().first_chunk().unwrap_or(&[0; 16])
    }

    /// The event that somebody else told of under this id, with a body of this fingerprint, or any.
    pub fn foreign(
        &self,
        id: &[u8],
        fingerprint: Option<&Fingerprint>,
    ) -> Result<Option<Seq>, IndexError> {
        self.read().foreign(id, fingerprint)
    }

    /// Requests count anew from here: they come over another connection of the kernel, which the
    /// caller named at random.
    pub fn begin_connection(&self, id: [u8; 16]) -> Result<(), CommitError> {
        self.core.journal.begin_connection(id)
    }

    /// The connection that the last events came over; zeros before the first.
    pub fn connection(&self) -> [u8; 16] {
        self.core.journal.connection()
    }

    /// The event that a request of this connection caused before the server crashed, if it did: a
    /// request that the kernel sends again is answered from it. `unique` is without bit 63.
    pub fn answered(&self, unique: u64) -> Option<Seq> {
        self.core.journal.answered(unique)
    }

    /// All labels, by name: names that people gave to moments. The trees after these events, and after all
    /// later ones, are kept.
    pub fn labels(&self) -> Result<Vec<(Vec<u8>, Seq)>, IndexError> {
        self.read().labels()
    }

    /// Gives `name` to the tree after event `at`, or after the last one. Returns which it is.
    pub fn label(&self, name: &[u8], at: Option<Seq>) -> Result<Seq, LabelError> {
        let no_name = |byte: &u8| matches!(byte, 0 | b'/');
        if !(1..=255).contains(&name.len())
            || name.iter().any(no_name)
            || matches!(name, b"." | b"..")
        {
            return Err(LabelError::Name);
        }
        let core = &*self.core;
        core.journal.check_writable()?;
        core.index.wait_for_room()?;
        let _held = core.retainer.hold();
        let tables = core.index.decide();
        if tables.label(name)?.is_some() {
            return Err(LabelError::Taken);
        }
        let last = tables.last();
        let at = at.unwrap_or(last);
        if at < core.journal.horizon() || at > last {
            return Err(LabelError::NoTree);
        }
        core.note_label(tables, name, Some(at))?;
        Ok(at)
    }

    /// Takes a label back, and returns of which event it was one.
    pub fn unlabel(&self, name: &[u8]) -> Result<Seq, LabelError> {
        let core = &*self.core;
        core.journal.check_writable()?;
        core.index.wait_for_room()?;
        let tables = core.index.decide();
        let at = tables.label(name)?.ok_or(LabelError::Missing)?;
        core.note_label(tables, name, None)?;
        Ok(at)
    }

    /// Marks the end of a version of a file, written by `actor`.
    pub fn mark_version(&self, ino: Ino, actor: ActorId) -> Result<(), CommitError> {
        self.core.journal.mark_version(ino, actor)
    }
}

/// What [`Store::space`] keeps back: a segment, and room for a batch of the index.
const SET_ASIDE: u64 = 128 << 20;

/// What a store takes on the disk, in bytes.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Size {
    /// Segments of the log.
    pub log: u64,
    /// Content files.
    pub content: u64,
}

impl Drop for Store {
    fn drop(&mut self) {
        self.stop();
    }
}

/// About how many bytes of the log a note of a label takes beside its name.
const LABEL_NOTE_LEN: u64 = 80;

impl Core {
    fn note_label(
        &self,
        tables: RwLockUpgradableReadGuard<'_, Tables>,
        name: &[u8],
        seq: Option<Seq>,
    ) -> Result<(), CommitError> {
        self.journal.note_label(name, seq)?;
        // No event comes in between, as these tables are needed for one; other notes are nothing to them.
        let mark = self.journal.mark();
        let mut tables = RwLockUpgradableReadGuard::upgrade(tables);
        let noted = tables.set_label(name, seq).and_then(|()| {
            let len = LABEL_NOTE_LEN + name.len() as u64;
            self.index.advance(&mut tables, len, || index_mark(&mark))
        });
        noted.map_err(|err| torn(&self.journal, &self.index, err))?;
        drop(tables);
        self.journal.settle()
    }

    /// Commits all that was folded into the index and is durable in the log; where there is no space for it, history gives way.
    /// Nothing may be folded in meanwhile.
    fn commit_index(&self) -> Result<(), IndexError> {
        let mark = index_mark(&self.journal.mark());
        loop {
            let full = match self.index.flush(mark.clone()) {
                Err(err) if err.is_full() => err,
                other => return other,
            };
            match self.retainer.make_room(&self.journal, &self.index) {
                Ok(1..) => (),
                Ok(0) => return Err(full),
                Err(err) => {
                    tracing::warn!(%err, "history could not give way for the index");
                    return Err(full);
                }
            }
        }
    }

    /// Says whether history should go on giving way at once.
    fn tick(&self, now: Timestamp) -> Result<bool, CommitError> {
        self.journal.tick()?;
        let behind = self.retainer.run(&self.journal, &self.index)?;
        self.relocator.run(&self.journal, &self.index, now)?;
        Ok(behind)
    }

    /// The store's own thread.
    fn keep(&self, interval: Duration) {
        let mut ticked = Instant::now();
        let mut behind = false;
        loop {
            let rest = interval.saturating_sub(ticked.elapsed());
            let ring = self.bell.wait(if behind { Duration::ZERO } else { rest });
            let done = match ring {
                Ring::Stop => return,
                // Asked for in between, as often as every few milliseconds: what cannot wait.
                Ring::Wanted if ticked.elapsed() < interval => self.journal.tick(),
                Ring::Quiet if behind && ticked.elapsed() < interval => {
                    let done = self.retainer.run(&self.journal, &self.index);
                    done.map(|more| behind = more)
                }
                Ring::Wanted | Ring::Quiet => {
                    ticked = Instant::now();
                    self.tick(Timestamp::now()).map(|more| behind = more)
                }
            };
            // What fails is kept by the journal and said to whoever wants to change something.
            if let Err(err) = done {
                behind = false;
                tracing::error!("{err}");
            }
        }
    }

    fn size(&self) -> io::Result<Size> {
        let disk = self.journal.disk();
        let mut log = 0;
        for number in segment::segment_numbers(&**disk)? {
            log += disk.open(&segment::segment_path(number), false)?.allocated()?;
        }
        Ok(Size { log, content: self.journal.content().allocated()? })
    }
}

impl Bell {
    fn ring(&self, ring: Ring) {
        let mut state = self.state.lock();
        if *state != Ring::Stop {
            *state = ring;
        }
        self.rung.notify_all();
    }

    fn wait(&self, interval: Duration) -> Ring {
        let mut state = self.state.lock();
        if *state == Ring::Quiet {
            self.rung.wait_for(&mut state, interval);
        }
        if *state == Ring::Wanted { std::mem::take(&mut *state) } else { *state }
    }
}

fn index_mark(mark: &Mark) -> index::Mark {
    index::Mark(mark.to_bytes().to_vec())
}

fn open_error(err: CommitError) -> OpenError {
    match err {
        CommitError::NoSpace => OpenError::Io(io::ErrorKind::StorageFull.into()),
        CommitError::ReadOnly(why) => OpenError::Io(io::Error::other(why)),
        CommitError::Io(err) => OpenError::Io(err),
        CommitError::Index(err) => OpenError::Index(err),
    }
}

/// Room for what [`Store::place`] must keep beside the bytes themselves.
#[derive(Debug, Default)]
pub struct Placed {
    /// CRC-32C of each 64 KiB, little-endian.
    crcs: Vec<u8>,
    /// Nobody else has the bytes in memory.
    only_here: bool,
}

impl Placed {
    /// For bytes that nobody else has in memory: as long as there is room they stay in the page cache, a stream too.
    #[must_use]
    pub const fn only_here() -> Self {
        Self { crcs: Vec::new(), only_here: true }
    }
}
