//! What the mount shows: `current/`, the tree as it is; `history/`, the tree as it was; and, where the options say
//! so, what is computed beside them.
//!
//! ```text
//!  node number --nodes--> Place --+-- Root       root.rs      the names of these, never changed
//!                                 +-- History    history.rs   names that mean a moment
//!                                 +-- Tree       reading.rs   every question, now or at a sequence
//!                                 |              current.rs   every change; the present only
//!                                 +-- Made       made.rs      what all that is computed has in common
//!                                                streams.rs   what happens, as files that grow
//!                                                context.rs   packages made for a review
//!                                                shadows.rs   each file as JSON about itself, with its
//!                                                annotations.rs   definitions, and who touched them last
//!                                                debug.rs     what the server knows of itself
//!                                                agent.rs     whom a process works for
//! ```
//!
//! There is one way for now and then: a question about a tree carries the sequence it is asked at, and
//! below `current/` that is [`Seq::NOW`](crate::tree::Seq::NOW).
//!
//! Under `history/` modes are what they were, write bits included, so that `cp -a` brings them back; that
//! nothing can be changed there shows as [`Refusal::ReadOnly`], whatever the mode.
//!
//! Invariants: each answer that gives the kernel a node counts one lookup of it, and no other does. A number that
//! means no node, a moment that nobody entered and a handle that was not given out are refused; the latter but for a
//! connection that was taken over and one that opens nothing, whose handles only the kernel knows. An inode of the
//! present is answered whether or not it was looked up: who may reach it the kernel has checked.

mod again;
mod agent;
mod annotations;
mod context;
mod current;
mod debug;
mod direct;
mod guard;
mod handles;
mod history;
pub mod listing;
mod made;
pub mod news;
mod nodes;
mod reading;
mod root;
mod shadows;
mod streams;
mod versions;
mod watch;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustc_hash::FxHashSet;

use crate::agents::Agents;
use crate::legacy::context::Packages;
use crate::meter::Meter;
use crate::proto::types::{
    Attr, Caller, Entry, FOREVER, FileHandle, NodeId, OpenFlags, Opened, OpenedFlags,
    Timestamp as Time,
};
use crate::tree::operation::{S_IFDIR, S_IFMT, S_IFREG, S_ISGID, S_ISUID};
use crate::tree::{Ino, Inode, Seq, Timestamp, Tree};

use direct::Direct;
use handles::{Handles, Open};
use made::{Computed, Made};
use news::NewsQueue;
use nodes::{Nodes, Place, Tense};
use streams::Streams;
use versions::Drafts;

pub use crate::agents::register::Unregistered;
pub use crate::tree::Refusal as TreeRefusal;
pub use crate::tree::moment;
pub use crate::tree::operation::{Attributes, TimeTo};
pub use current::{Bytes, Range};
pub use reading::{METER_XATTR, Read, Scratch, Stored};

/// Why a request was refused.
#[derive(Debug)]
pub enum Refusal {
    /// By the tree.
    Tree(TreeRefusal),
    /// No change is possible here: the mount's root, and everything below `history/` (`EROFS`).
    ReadOnly,
    /// No such handle, or not of this node, or not for this use (`EBADF`).
    BadHandle,
    /// From a tree to another, which shares nothing with it (`EXDEV`).
    OtherTree,
    /// More moments of the past are in use than there are numbers for (`ENFILE`).
    TooManyViews,
    /// More is open that had to be computed than there may be in memory (`ENOMEM`).
    NoMemory,
    /// No data, or no hole, at or after an offset (`ENXIO`).
    NothingThere,
    /// A program that runs is to be cut to nothing (`ETXTBSY`).
    Executing,
    /// Who asks has no session where one is demanded, or the policy closes it to them (`EACCES`).
    NotAllowed,
    /// A process does not become an agent's by saying so.
    Unregistered(Unregistered),
}

impl From<Unregistered> for Refusal {
    fn from(why: Unregistered) -> Self {
        Self::Unregistered(why)
    }
}

impl From<TreeRefusal> for Refusal {
    fn from(refusal: TreeRefusal) -> Self {
        Self::Tree(refusal)
    }
}

/// Who asks, and what comes along with a request that makes an inode.
#[derive(Clone, Copy, Debug, Default)]
pub struct Asker<'a> {
    /// Who.
    pub caller: Caller,
    /// The request's number, without the mark of one that is sent again; 0 where there is none.
    pub unique: u64,
    /// The caller's umask, where the kernel has not applied it.
    pub umask: u32,
    /// Supplementary groups, where the kernel sent some.
    pub groups: Option<&'a [u32]>,
    /// The security context for a new inode: name and value of the attribute.
    pub security: Option<(&'a [u8], &'a [u8])>,
}

/// What a name leads to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Found {
    /// There.
    Entry(Entry),
    /// Nowhere, and it stays so for as long, unless the kernel is told otherwise.
    Absent(Duration),
}

/// What a kernel holds.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Held {
    /// Nodes it knows, the mount's root not among them.
    pub nodes: usize,
    /// Open files and directories.
    pub open: usize,
    /// Moments of the past that it knows nodes of.
    pub moments: usize,
}

/// How the mount shows itself.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// What the kernel may keep of what is below `current/`.
    pub caching: Caching,
    /// How many full hours, the last first, `history/` lists beside the labels.
    pub list_times: u32,
    /// Whether there is more than `current/` and `history/`: `streams/`, `context/`, `shadows/` and `debug/`.
    pub sections: bool,
    /// Files are read without having been opened: whoever serves this refuses OPEN, and the kernel asks for it no more.
    /// Only where nothing can be written, for it would lose O_TRUNC, and nothing asks for flags of its own, as the sections do.
    pub no_open: bool,
    /// Directories are listed without having been opened, wherever every listing is one that the kernel may keep: whoever
    /// serves this refuses OPENDIR (Linux 5.1, [`View::lists_unopened`]). Not for a connection that another process may take over:
    /// a node of the past is stale to that one, which the kernel does not ask about again when it is only listed.
    pub no_opendir: bool,
    /// Birth times are not told: STATX is refused, and the kernel asks for it no more. What else statx(2) gives is what
    /// the kernel knows anyway; a birth time comes with no listing and no lookup, so it is a request for each inode.
    pub no_birth_times: bool,
    /// New files that are opened for writing alone are written through the kernel's page cache as all others are, not past it:
    /// who reads one then finds it there, and who writes one copies more and is asked about one more.
    pub no_direct_writes: bool,
}

/// What the kernel may keep, and for how long without asking again. Every change comes through the kernel itself or
/// is pushed to it, so none of this is a matter of correctness. What was in the past is kept in any case.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Caching {
    /// What a name leads to.
    pub names: Duration,
    /// That a name leads nowhere.
    pub absent: Duration,
    /// What attributes hold.
    pub attributes: Duration,
    /// Pages of a file beyond its next opening (FOPEN_KEEP_CACHE).
    pub pages: bool,
    /// Listings of directories (FOPEN_CACHE_DIR).
    pub listings: bool,
}

impl Default for Caching {
    fn default() -> Self {
        let day = Duration::from_secs(24 * 3600);
        Self { names: day, absent: day, attributes: day, pages: true, listings: true }
    }
}

/// A mount's content.
#[derive(Debug)]
pub struct View {
    tree: Tree,
    agents: Agents,
    options: Options,
    nodes: Nodes,
    handles: Handles,
    news: NewsQueue,
    /// Inodes without a name that the kernel still knows. Never locked while a lock of `nodes` is held.
    nameless: Mutex<FxHashSet<u64>>,
    horizon: Mutex<SeenHorizon>,
    drafts: Drafts,
    computed: Computed,
    lines: agent::Lines,
    streams: Streams,
    packages: Packages,
    /// Sizes of shadows, by path, with the version they are of.
    shadow_sizes: Mutex<shadows::Sizes>,
    open_shadows: shadows::OpenShadows,
    /// Definitions in them.
    annotated: annotations::Known,
    meter: Meter,
    /// When this began to be shown.
    began: Timestamp,
    /// What somebody beside the kernel changed, to be told once more.
    told: watch::Told,
    resized: watch::Resized,
    direct: Direct,
    /// The kernel knows nodes and handles that another process gave out before this one.
    adopted: AtomicBool,
}

/// What the kernel was told of the horizon.
#[derive(Clone, Copy, Debug, Default)]
struct SeenHorizon {
    at: Seq,
    /// Once more at the next tick.
    again: bool,
}

/// Preferred size of a transfer, in bytes. What programs write through buffers of this size (`stdio`,
/// Python) reaches us in a sixteenth of the requests that a page each would make.
const BLOCK_SIZE: u32 = 64 << 10;

/// What one name adds to the size of a directory, in bytes. No program may rely on a directory's size;
/// that it grows with the number of names is the hint it is on other filesystems.
const NAME_SIZE: u64 = 32;

/// `st_ino` of the mount's root.
const ROOT_INO: u64 = NodeId::ROOT.get();
/// `st_ino` of `history/`: in the range of the past, where no version has it.
const HISTORY_INO: u64 = PAST | 1;
/// Marks the numbers that `stat` shows in the past. With 48 bits of a sequence and 3 of a role below,
/// they stay exact in a double (2^53).
const PAST: u64 = 1 << 52;

impl View {
    /// Shows `tree`. Until [`View::connected`] nothing is known to any kernel.
    #[must_use]
    pub fn new(tree: Tree, agents: Agents, options: Options) -> Self {
        Self {
            packages: Packages::new(&tree),
            tree,
            agents,
            options,
            nodes: Nodes::new(),
            handles: Handles::default(),
            news: NewsQueue::default(),
            nameless: Mutex::default(),
            horizon: Mutex::default(),
            drafts: Drafts::default(),
            computed: Computed::default(),
            lines: agent::Lines::default(),
            streams: Streams::default(),
            shadow_sizes: Mutex::default(),
            open_shadows: shadows::OpenShadows::default(),
            annotated: annotations::Known::default(),
            meter: Meter::default(),
            began: Timestamp::now(),
            told: watch::Told::default(),
            resized: watch::Resized::default(),
            direct: Direct::default(),
            adopted: AtomicBool::new(false),
        }
    }

    /// The tree that is shown.
    #[must_use]
    pub const fn tree(&self) -> &Tree {
        &self.tree
    }

    /// What the kernel must be told.
    #[must_use]
    pub const fn news(&self) -> &NewsQueue {
        &self.news
    }

    /// What whoever serves this measures.
    #[must_use]
    pub const fn meter(&self) -> &Meter {
        &self.meter
    }

    /// A kernel has connected that knows nothing yet: forgets what an earlier one knew, and ends inodes
    /// that only its handles kept. Returns how many; none where the store takes no changes.
    pub fn connected(&self) -> Result<u64, Refusal> {
        self.adopted.store(false, Ordering::Relaxed);
        self.nodes.clear();
        self.handles.clear();
        self.direct.clear();
        self.computed.clear();
        self.lines.clear();
        self.streams.clear();
        self.nameless.lock().clear();
        self.mark_all(self.drafts.take_every());
        self.news.open();
        let begun = self.begin_connection().and_then(|()| self.tree.end_orphans());
        match begun {
            Err(TreeRefusal::ReadOnly(why)) => {
                tracing::warn!(why, "serving for reading alone");
                Ok(0)
            }
            other => Ok(other?),
        }
    }

    /// What was agreed on with the kernel: whether files that are open past its page cache can be mapped as shared.
    pub fn agreed(&self, direct_mappings: bool) {
        self.direct.agree(direct_mappings && !self.options.no_direct_writes);
    }

    /// Requests are numbered anew on each connection, so each has a random name in the log.
    fn begin_connection(&self) -> Result<(), TreeRefusal> {
        let mut id = [0; 16];
        let got = rustix::rand::getrandom(&mut id, rustix::rand::GetRandomFlags::empty());
        got.map_err(|errno| TreeRefusal::Io(errno.into()))?;
        Ok(self.tree.store().begin_connection(id)?)
    }

    /// What the kernel holds at the moment.
    #[must_use]
    pub fn held(&self) -> Held {
        Held { nodes: self.nodes.len(), open: self.handles.len(), moments: self.nodes.views() }
    }

    /// The kernel lets go of `lookups` references to `node`.
    pub fn forget(&self, node: NodeId, lookups: u64) {
        let Some(gone) = self.nodes.forgotten(node, lookups) else { return };
        // How often an adopted kernel has looked a node up, it alone knows: the next mount ends what is left.
        if self.is_adopted() {
            return;
        }
        if let Some(directory) = gone.within {
            self.forgotten_within(directory);
        }
        if let Some(Place::Tree(Tense::Now, ino)) = Place::of(node)
            && self.nameless.lock().remove(&ino.0)
        {
            self.end(ino);
        }
    }

    /// What the clock alone brings about. To be called about once a second by a thread that answers no
    /// requests.
    pub fn tick(&self) {
        self.see_horizon();
        self.tell_again(Instant::now());
        self.mark_all(self.drafts.take_silent(Instant::now()));
        self.tick_lines(Instant::now());
        if self.options.sections {
            self.computed.tick(Instant::now());
            self.open_shadows.tick();
            self.streams.tick();
            self.stir();
        }
    }

    /// Asks the kernel to let go of names whose trees cannot be shown any more: it would keep them for
    /// ever. Twice, a tick apart: the answer to a lookup that was under way the first time may have reached
    /// the kernel after what it was told.
    fn see_horizon(&self) {
        let horizon = self.tree.store().horizon();
        let mut seen = self.horizon.lock();
        let moved = seen.at != horizon;
        let again = std::mem::replace(&mut *seen, SeenHorizon { at: horizon, again: moved }).again;
        drop(seen);
        if moved || again {
            self.ask_back(self.nodes.bound_before(horizon));
        }
    }

    fn ask_back(&self, names: Vec<Box<[u8]>>) {
        let Some(parent) = Place::History.node() else { return };
        for name in names {
            // No room: the kernel is told when the table is crowded the next time.
            let _ = self.news.push(news::News::Name { parent, name });
        }
    }

    fn place(&self, node: NodeId) -> Result<Place, Refusal> {
        let shown = |place: &Place| match place {
            Place::Made(Made::Agent) => self.opens_files(),
            Place::Made(Made::AgentLine(_)) => !self.opens_files(),
            Place::Made(_) => self.options.sections,
            Place::Root | Place::History | Place::Tree(..) => true,
        };
        Place::of(node).filter(shown).ok_or(Refusal::Tree(TreeRefusal::Stale))
    }

    /// The sequence at which questions about a tree are asked. Stale where history no longer reaches back to
    /// it: part of what that tree held may have been given back.
    fn at(&self, tense: Tense) -> Result<Seq, Refusal> {
        match tense {
            Tense::Now => Ok(Seq::NOW),
            Tense::Past(view) => {
                let at = self.nodes.at(view);
                let at = at.filter(|&at| at >= self.tree.store().horizon());
                at.ok_or(Refusal::Tree(TreeRefusal::Stale))
            }
        }
    }

    /// The inode of the present tree that a change is about.
    fn changeable(&self, node: NodeId) -> Result<Ino, Refusal> {
        match self.place(node)? {
            Place::Tree(Tense::Now, ino) => Ok(ino),
            Place::Root | Place::History | Place::Tree(Tense::Past(_), _) | Place::Made(_) => {
                Err(Refusal::ReadOnly)
            }
        }
    }

    fn file(&self, handle: FileHandle, node: NodeId) -> Result<OpenFlags, Refusal> {
        match self.handles.find(handle, node) {
            Some(Open::File { flags, .. }) => Ok(flags),
            // The kernel has checked what it may be used for, and nobody else knows.
            None if self.is_adopted() => Ok(OpenFlags(OpenFlags::RDWR)),
            None if self.options.no_open => Ok(OpenFlags(OpenFlags::RDONLY)),
            Some(Open::Directory) | None => Err(Refusal::BadHandle),
        }
    }

    fn directory(&self, handle: FileHandle, node: NodeId) -> Result<(), Refusal> {
        match self.handles.find(handle, node) {
            Some(Open::Directory) => Ok(()),
            None if self.is_adopted() || self.lists_unopened() => Ok(()),
            Some(Open::File { .. }) | None => Err(Refusal::BadHandle),
        }
    }

    fn caching(&self, tense: Tense) -> Caching {
        match tense {
            Tense::Now => self.options.caching,
            Tense::Past(_) => Caching {
                names: FOREVER,
                absent: FOREVER,
                attributes: FOREVER,
                ..self.options.caching
            },
        }
    }

    /// Opens a file of `current/`, `direct` past the kernel's page cache.
    fn opened(&self, node: NodeId, open: Open, direct: bool) -> Opened {
        let handle = self.handles.open(node, open.past_cache(direct));
        let flags = if direct {
            // One write after the other, as through the cache.
            OpenedFlags::DIRECT_IO
        } else {
            // Each write is one event, so those past the cache, which O_DIRECT asks for, may run side by side.
            OpenedFlags::PARALLEL_DIRECT_WRITES
        };
        let kept =
            if self.options.caching.pages { OpenedFlags::KEEP_CACHE } else { OpenedFlags::NONE };
        Opened { handle, flags: flags | kept, backing_id: 0 }
    }

    /// How long attributes of `inode` hold. Of a file with set-id bits not at all: writing by who may not
    /// keep them clears them here (HANDLE_KILLPRIV_V2), and after a WRITE the kernel (seen on 6.18) takes
    /// size and times for old, but not the mode.
    fn attr_lifetime(&self, tense: Tense, inode: &Inode) -> Duration {
        let set_id = inode.mode & (S_ISUID | S_ISGID) != 0 && inode.mode & S_IFMT == S_IFREG;
        if tense == Tense::Now && set_id { Duration::ZERO } else { self.caching(tense).attributes }
    }

    /// `inode` as an answer that gives out its node; whoever sends it counts the lookup.
    fn entry(&self, tense: Tense, inode: &Inode) -> Result<Entry, Refusal> {
        Ok(Entry {
            node: node(tense, inode.ino)?,
            generation: self.nodes.generation(tense),
            attr: attr(self.at(tense)?, inode),
            entry_valid: self.caching(tense).names,
            attr_valid: self.attr_lifetime(tense, inode),
        })
    }

    /// As [`View::entry`], and counts the lookup, in the directory `within` if it has a name in one.
    fn give_out(&self, tense: Tense, within: Option<Ino>, inode: &Inode) -> Result<Entry, Refusal> {
        let entry = self.entry(tense, inode)?;
        self.nodes.looked_up(entry.node, within.and_then(|dir| Place::Tree(tense, dir).node()));
        Ok(entry)
    }
}

fn node(tense: Tense, ino: Ino) -> Result<NodeId, Refusal> {
    Place::Tree(tense, ino).node().ok_or_else(|| {
        Refusal::Tree(TreeRefusal::Damaged(format!("inode {ino} is beyond what a store gives out")))
    })
}

/// Attributes of `inode` as it was after event `at`.
fn attr(at: Seq, inode: &Inode) -> Attr {
    Attr {
        ino: shown_ino(at, inode),
        size: if is_directory(inode) {
            inode.entries.saturating_mul(NAME_SIZE)
        } else {
            inode.size
        },
        blocks: inode.allocated.div_ceil(512),
        atime: time(inode.atime),
        mtime: time(inode.mtime),
        ctime: time(inode.ctime),
        btime: time(inode.btime),
        mode: inode.mode,
        nlink: inode.nlink,
        uid: inode.uid,
        gid: inode.gid,
        // The kernel sent it in 32 bits.
        rdev: u32::try_from(inode.rdev).unwrap_or(0),
        blksize: BLOCK_SIZE,
    }
}

fn is_directory(inode: &Inode) -> bool {
    inode.mode & S_IFMT == S_IFDIR
}

/// What `stat` shows as the inode number: below `current/` ([`Seq::NOW`]) the inode, and in the past never one of those.
///
/// A file has that of its version there, equal under every name and after every event that left it alone. A directory has
/// another after each event: its version says nothing of what is below it, and programs such as `diff -r` and `cp -a`
/// take two directories with one number for the same one and look no further.
fn shown_ino(at: Seq, inode: &Inode) -> u64 {
    match at {
        Seq::NOW => inode.ino.0,
        at if is_directory(inode) => past_directory(at, inode.ino),
        _ => PAST | inode.changed.0 << 3 | u64::from(inode.role.min(6)),
    }
}

/// No two directories have the same after one event, nor has one directory after two.
fn past_directory(at: Seq, ino: Ino) -> u64 {
    const BITS: u64 = (1 << 48) - 1;
    /// Odd, so no two events have the same distance; and neighbours are far apart.
    const STEP: u64 = 0x9e37_79b9_7f4b;
    /// Beside the roles that an inode can have in an event.
    const DIRECTORY: u64 = 0b111;
    PAST | (ino.0.wrapping_add(at.0.wrapping_mul(STEP)) & BITS) << 3 | DIRECTORY
}

fn time(time: Timestamp) -> Time {
    const SECOND_NS: i64 = 1_000_000_000;
    // The remainder is below a second, and not negative.
    Time::new(time.0.div_euclid(SECOND_NS), time.0.rem_euclid(SECOND_NS) as u32)
}
