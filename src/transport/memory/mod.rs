//! Stands in for the kernel: FUSE without a mount, for tests of everything above a transport.
//!
//! ```text
//!  User (POSIX calls) --> walk, names, file, listing, xattr    the kernel's half: caches and checks
//!                              |            ^
//!                              v            |
//!                         device: pending, processing, done
//!                              |            ^
//!                              v            |
//!                    Memory::read       Memory::write          the server's half: production code
//! ```
//!
//! [`Kernel`] behaves as `fs/fuse` of Linux 6.18 does: it walks paths over a cache of dentries and attributes
//! with their lifetimes, counts lookups and forgets them, keeps pages and listings, and remembers which
//! operations the server does not have. [`User`] makes the system calls. What a server must not do is
//! recorded as a *violation*, with request and answer, and fails the test at [`Kernel::unmount`].
//!
//! What is chosen by chance (the order in which queued requests are delivered, how many FORGETs come at
//! once, who of several callers goes on, what is interrupted) is chosen by `Options::seed`, which every
//! failure prints.
//!
//! Not modelled, and a violation if the server asks for it: WRITEBACK_CACHE, locks served by the server,
//! passthrough, DAX, submounts, idmapped mounts. Locks are the kernel's own business then, and cause no request.
//!
//! A server that is not this crate's uses [`Memory::read`] and [`Memory::write`]; ours takes [`Memory`] as a
//! [`Transport`].
//!
//! Invariants: one mutex holds all state and is never held while a server runs; every request gets one
//! answer or the test ends with a message that names it.

mod attributes;
mod call;
mod device;
mod file;
mod inode;
mod listing;
mod names;
mod notice;
mod pages;
mod user;
mod walk;
mod xattr;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io::{self, IoSlice};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use parking_lot::{Condvar, Mutex, MutexGuard};
use zerocopy::FromBytes;

use crate::proto::Reply;
use crate::proto::abi::*;
use crate::proto::message::{Dialect, Message};
use crate::proto::op::{Destroy, Init, Op, wants_reply};
use crate::proto::types::Errno;

use super::{Buffer, Delivery, Frame, SplicePipe, Transport};
use call::{Call, Credentials};
use device::{Device, name_of};
use inode::{Dentry, Ino, Inode};

pub use listing::DirEntry;
pub use user::{Fd, MapId, User};

/// The size of a page of this kernel.
pub const PAGE: usize = 4096;
/// `PAGE`, for offsets.
const PAGE_U64: u64 = 4096;
/// The most pages in one request unless FUSE_MAX_PAGES is agreed on.
const DEFAULT_PAGES: usize = 32;
/// The kernel's bound on pages in one request.
const PAGES_MAX: usize = 256;
/// The clock's start: lifetimes of 0 are over at any time after 0.
const START_NS: u64 = 1_000_000_000;

/// How a kernel is set up.
#[derive(Clone, Debug)]
pub struct Options {
    /// The kernel's minor version: 12 to 45.
    pub minor: u32,
    /// INIT flags the kernel does not offer, though its version knows them.
    pub withheld: u64,
    /// Where all chance comes from.
    pub seed: u64,
    /// Whether queued requests are delivered in an order chosen by chance, not the kernel's.
    pub shuffle: bool,
    /// Whether requests are delivered one at a time, each only when all readers wait again: with one
    /// reader the same seed then gives the same run.
    pub stepped: bool,
    /// How many threads read from the device.
    pub readers: usize,
    /// Of 1000 waits for an answer, how many are interrupted by a signal.
    pub interrupts_per_mille: usize,
    /// The most bytes read ahead.
    pub max_readahead: u32,
    /// Whether other users than `owner` may use the mount.
    pub allow_other: bool,
    /// Whether the kernel checks modes.
    pub default_permissions: bool,
    /// Who mounted.
    pub owner: u32,
    /// Whether a directory's node may turn up under a second name, as after a rename on another host.
    /// Otherwise that is a violation.
    pub directories_may_move: bool,
    /// Whether replies may come by splice, that is from a file.
    pub can_splice: bool,
    /// Whether requests come in three parts once INIT is answered, as on the ring.
    pub in_parts: bool,
    /// How long an answer may take by the real clock before the test fails.
    pub patience: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            minor: FUSE_KERNEL_MINOR_VERSION,
            withheld: 0,
            seed: 0,
            shuffle: false,
            stepped: true,
            readers: 1,
            interrupts_per_mille: 0,
            max_readahead: 128 * 1024,
            allow_other: true,
            default_permissions: true,
            owner: 0,
            directories_may_move: false,
            can_splice: false,
            in_parts: false,
            patience: Duration::from_secs(10),
        }
    }
}

/// A small generator of chance (SplitMix64): the same seed gives the same numbers everywhere.
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    /// Starts from `seed`.
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`; 0 if `bound` is 0.
    pub fn below(&mut self, bound: usize) -> usize {
        let bound = bound.max(1) as u64;
        usize::try_from(self.next_u64() % bound).unwrap_or(0)
    }
}

/// What was agreed on at INIT, and what was learnt from ENOSYS since.
#[allow(clippy::struct_excessive_bools, reason = "fs/fuse keeps one bit for each of these, too")]
#[derive(Debug, Default)]
struct Connection {
    minor: u32,
    flags: u64,
    max_write: usize,
    max_pages: usize,
    read_ahead: usize,
    time_gran: u32,
    epoch: u64,
    no_open: bool,
    no_opendir: bool,
    no_flush: bool,
    no_fsync: bool,
    no_fsyncdir: bool,
    no_access: bool,
    no_create: bool,
    no_tmpfile: bool,
    no_rename2: bool,
    no_setxattr: bool,
    no_getxattr: bool,
    no_listxattr: bool,
    no_removexattr: bool,
    no_fallocate: bool,
    no_lseek: bool,
    no_copy_file_range: bool,
    no_copy_file_range_64: bool,
    no_statx: bool,
}

impl Connection {
    const fn has(&self, flag: u64) -> bool {
        self.flags & flag != 0
    }

    const fn dialect(&self) -> Dialect {
        Dialect { minor: self.minor, setxattr_ext: self.has(FUSE_SETXATTR_EXT) }
    }
}

/// Everything, behind one mutex.
struct State {
    options: Options,
    dice: Dice,
    now_ns: u64,
    connection: Connection,
    device: Device,
    inodes: BTreeMap<Ino, Inode>,
    by_node: BTreeMap<u64, Ino>,
    next_ino: u64,
    dentries: BTreeMap<(Ino, Vec<u8>), Dentry>,
    attr_version: u64,
    files: BTreeMap<u64, file::OpenFile>,
    fds: BTreeMap<u64, u64>,
    maps: BTreeMap<u64, pages::Map>,
    next_number: u64,
    locks: BTreeSet<call::Lock>,
    /// Callers that take turns, and whose turn it is.
    live: Vec<u64>,
    turn: Option<u64>,
    violations: Vec<String>,
}

impl State {
    fn violation(&mut self, what: String) {
        self.violations.push(what);
    }

    /// A number that names an open file, a descriptor or a mapping; none is used twice.
    fn number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number
    }

    /// What is still under way, for messages.
    fn unanswered(&self) -> String {
        let mut text = String::new();
        for queued in self.device.pending.iter().chain(self.device.processing.values()) {
            let state = if queued.reader.is_some() { "read" } else { "not read" };
            text.push_str(&format!(
                "\n  {} {} on node {} ({state} by the server)",
                name_of(queued.opcode),
                queued.unique,
                queued.node
            ));
        }
        text
    }
}

struct Shared {
    state: Mutex<State>,
    wake: Condvar,
}

/// One of several callers that run at once.
pub type Caller<'a> = Box<dyn FnOnce(&User) + Send + 'a>;

/// A mounted kernel.
pub struct Kernel {
    shared: Arc<Shared>,
    seed: u64,
    unmounted: bool,
}

impl fmt::Debug for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kernel").field("seed", &self.seed).finish_non_exhaustive()
    }
}

/// The device as the server has it.
pub struct Memory {
    shared: Arc<Shared>,
    incarnation: u64,
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Memory").field("incarnation", &self.incarnation).finish_non_exhaustive()
    }
}

impl Clone for Memory {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared), incarnation: self.incarnation }
    }
}

/// A kernel and its device, before INIT.
pub fn pair(options: Options) -> (Kernel, Memory) {
    let seed = options.seed;
    let state = State {
        dice: Dice::new(seed),
        now_ns: START_NS,
        connection: Connection {
            minor: options.minor,
            max_write: PAGE,
            max_pages: DEFAULT_PAGES,
            ..Connection::default()
        },
        device: Device::new(),
        inodes: BTreeMap::from([(Ino::ROOT, Inode::root())]),
        by_node: BTreeMap::from([(FUSE_ROOT_ID, Ino::ROOT)]),
        next_ino: Ino::ROOT.0 + 1,
        dentries: BTreeMap::new(),
        attr_version: 1,
        files: BTreeMap::new(),
        fds: BTreeMap::new(),
        maps: BTreeMap::new(),
        next_number: 2,
        locks: BTreeSet::new(),
        live: Vec::new(),
        turn: None,
        violations: Vec::new(),
        options,
    };
    let shared = Arc::new(Shared { state: Mutex::new(state), wake: Condvar::new() });
    let memory = Memory { shared: Arc::clone(&shared), incarnation: 0 };
    (Kernel { shared, seed, unmounted: false }, memory)
}

/// The flags of INIT, with the minor version each came with.
const FLAGS: &[(u64, u32)] = &[
    (FUSE_ASYNC_READ, 6),
    (FUSE_POSIX_LOCKS, 7),
    (FUSE_ATOMIC_O_TRUNC, 9),
    (FUSE_EXPORT_SUPPORT, 10),
    (FUSE_BIG_WRITES, 9),
    (FUSE_DONT_MASK, 12),
    (FUSE_SPLICE_WRITE, 14),
    (FUSE_SPLICE_MOVE, 14),
    (FUSE_SPLICE_READ, 14),
    (FUSE_FLOCK_LOCKS, 17),
    (FUSE_HAS_IOCTL_DIR, 18),
    (FUSE_AUTO_INVAL_DATA, 20),
    (FUSE_DO_READDIRPLUS, 21),
    (FUSE_READDIRPLUS_AUTO, 21),
    (FUSE_ASYNC_DIO, 22),
    (FUSE_WRITEBACK_CACHE, 23),
    (FUSE_NO_OPEN_SUPPORT, 23),
    (FUSE_PARALLEL_DIROPS, 25),
    (FUSE_HANDLE_KILLPRIV, 26),
    (FUSE_POSIX_ACL, 26),
    (FUSE_ABORT_ERROR, 27),
    (FUSE_MAX_PAGES, 28),
    (FUSE_CACHE_SYMLINKS, 28),
    (FUSE_NO_OPENDIR_SUPPORT, 29),
    (FUSE_EXPLICIT_INVAL_DATA, 30),
    (FUSE_HANDLE_KILLPRIV_V2, 33),
    (FUSE_SETXATTR_EXT, 33),
    (FUSE_INIT_EXT, 36),
    (FUSE_SECURITY_CTX, 36),
    (FUSE_CREATE_SUPP_GROUP, 38),
    (FUSE_HAS_EXPIRE_ONLY, 38),
    (FUSE_DIRECT_IO_ALLOW_MMAP, 39),
    (FUSE_PASSTHROUGH, 40),
    (FUSE_NO_EXPORT_SUPPORT, 40),
    (FUSE_HAS_RESEND, 40),
    (FUSE_ALLOW_IDMAP, 41),
    (FUSE_OVER_IO_URING, 42),
    (FUSE_REQUEST_TIMEOUT, 43),
];

/// Flags the model cannot honour.
const NOT_MODELLED: u64 = FUSE_WRITEBACK_CACHE
    | FUSE_POSIX_LOCKS
    | FUSE_FLOCK_LOCKS
    | FUSE_PASSTHROUGH
    | FUSE_ALLOW_IDMAP
    | FUSE_OVER_IO_URING;

impl Kernel {
    /// Sends INIT and takes what the server answers. A server must be reading by now, or soon.
    ///
    /// # Errors
    ///
    /// What the server refused with; ECONNREFUSED for another major version; ENOTCONN before an answer.
    pub fn mount(&self) -> Result<(), Errno> {
        let mut call = self.enter(Credentials::KERNEL, None);
        let options = call.st.options.clone();
        let offered = FLAGS
            .iter()
            .filter(|(_, since)| *since <= options.minor)
            .fold(0, |all, (flag, _)| all | flag)
            & !options.withheld;
        let body = call.ask(&Op::Init(Init {
            major: FUSE_KERNEL_VERSION,
            minor: options.minor,
            max_readahead: options.max_readahead,
            flags: offered,
        }))?;
        let mut whole = [0; size_of::<fuse_init_out>()];
        for (to, from) in whole.iter_mut().zip(&body) {
            *to = *from;
        }
        let out = fuse_init_out::read_from_bytes(&whole).map_err(|_| Errno::EIO)?;
        if out.major != FUSE_KERNEL_VERSION {
            return Err(Errno::ECONNREFUSED);
        }
        let long = options.minor >= 23;
        if (body.len() == whole.len()) != long && out.minor.min(options.minor) >= 23 {
            call.st.violation(format!(
                "INIT at 7.{} is answered with {} bytes",
                options.minor,
                body.len()
            ));
        }
        let mut flags = u64::from(out.flags);
        if flags & FUSE_INIT_EXT != 0 {
            flags |= u64::from(out.flags2) << 32;
        }
        if flags & !offered != 0 {
            call.st.violation(format!("INIT takes flags {:#x}, not offered", flags & !offered));
        }
        if flags & NOT_MODELLED != 0 {
            call.st.violation(format!(
                "INIT takes flags {:#x}, which this kernel does not model",
                flags & NOT_MODELLED
            ));
        }
        let both = FUSE_AUTO_INVAL_DATA | FUSE_EXPLICIT_INVAL_DATA;
        if flags & both == both {
            call.st.violation("INIT takes AUTO_INVAL_DATA and EXPLICIT_INVAL_DATA".to_owned());
        }
        let pages = if flags & FUSE_MAX_PAGES == 0 {
            DEFAULT_PAGES
        } else {
            usize::from(out.max_pages).clamp(1, PAGES_MAX)
        };
        let connection = &mut call.st.connection;
        connection.minor = out.minor.min(options.minor);
        connection.flags = flags;
        connection.max_write = usize::try_from(out.max_write).unwrap_or(usize::MAX).max(PAGE);
        connection.max_pages = pages;
        connection.read_ahead =
            usize::try_from(out.max_readahead.min(options.max_readahead)).unwrap_or(0);
        connection.time_gran = out.time_gran;
        Ok(())
    }

    /// A process with these credentials. `pid` is what the server sees as the caller.
    pub fn as_user(&self, uid: u32, gid: u32, groups: &[u32], umask: u32, pid: u32) -> User {
        User::new(
            Arc::clone(&self.shared),
            Credentials { uid, gid, groups: groups.to_vec(), umask, pid },
            None,
        )
    }

    /// A process of root, umask 022.
    pub fn as_root(&self) -> User {
        self.as_user(0, 0, &[], 0o022, 1000)
    }

    /// Lets several callers run at once: who goes on whenever one waits for an answer, chance decides.
    /// Each call gets a user made of `user`'s credentials.
    pub fn race(&self, user: &User, calls: Vec<Caller<'_>>) {
        let first = {
            let mut st = self.shared.state.lock();
            let tasks: Vec<u64> = calls.iter().map(|_| st.number()).collect();
            st.live.clone_from(&tasks);
            st.turn = None;
            tasks
        };
        thread::scope(|scope| {
            for (task, call) in first.iter().copied().zip(calls) {
                let user = user.for_task(task);
                scope.spawn(move || {
                    let _turn = Turn::wait(&user, task);
                    call(&user);
                });
            }
            let mut st = self.shared.state.lock();
            pass_turn(&mut st);
            self.shared.wake.notify_all();
        });
        self.shared.state.lock().turn = None;
    }

    /// Moves the clock on, without anybody waiting.
    pub fn advance(&self, by: Duration) {
        let mut st = self.shared.state.lock();
        let ns = u64::try_from(by.as_nanos()).unwrap_or(u64::MAX);
        st.now_ns = st.now_ns.saturating_add(ns);
    }

    /// How many requests of `opcode` the server was given.
    pub fn count(&self, opcode: u32) -> u64 {
        self.shared.state.lock().device.counts.get(&opcode).copied().unwrap_or(0)
    }

    /// How many requests of each operation the server was given since the last time this was asked, by
    /// their names without `FUSE_`; FORGET and BATCH_FORGET left out, as their time is chance.
    pub fn take_counts(&self) -> BTreeMap<&'static str, u64> {
        let mut st = self.shared.state.lock();
        let counts = std::mem::take(&mut st.device.counts);
        counts
            .into_iter()
            .filter(|(opcode, _)| !matches!(*opcode, FUSE_FORGET | FUSE_BATCH_FORGET))
            .map(|(opcode, count)| (name_of(opcode), count))
            .collect()
    }

    /// Lets the next request of `opcode` fail with `errno`, without the server seeing it.
    pub fn fail_next(&self, opcode: u32, errno: Errno) {
        let mut st = self.shared.state.lock();
        st.device.fail_next.entry(opcode).or_default().push_back(errno);
    }

    /// Delivers everything that is queued: FORGETs and RELEASEs in the background too.
    pub fn settle(&self) {
        let mut call = self.enter(Credentials::KERNEL, None);
        call.settle();
    }

    /// Delivers one queued request, if there is one, and waits until all readers wait again. Returns
    /// whether there was one.
    pub fn step(&self) -> bool {
        let mut call = self.enter(Credentials::KERNEL, None);
        let any = call.st.device.has_work();
        if any {
            call.step();
        }
        any
    }

    /// Drops what memory pressure could drop: every dentry and inode nobody uses, each with its pages.
    pub fn shrink(&self) {
        let mut call = self.enter(Credentials::KERNEL, None);
        call.st.shrink();
    }

    /// Ends the connection as `/sys/fs/fuse/connections/N/abort` does: whoever waits gets ECONNABORTED.
    pub fn abort(&self) {
        let mut st = self.shared.state.lock();
        st.device.abort();
        self.shared.wake.notify_all();
    }

    /// The server dies, and the descriptor lives on elsewhere: what it read and did not answer stays
    /// unanswered until the next server asks for it with NOTIFY_RESEND. The old handle ends.
    pub fn crash(&self) -> Memory {
        let mut st = self.shared.state.lock();
        st.device.incarnation += 1;
        st.device.idle = 0;
        st.device.granted = 0;
        let incarnation = st.device.incarnation;
        self.shared.wake.notify_all();
        Memory { shared: Arc::clone(&self.shared), incarnation }
    }

    /// What the server did that it must not do, in the order it did so.
    pub fn violations(&self) -> Vec<String> {
        self.shared.state.lock().violations.clone()
    }

    /// Takes the violations, for tests that provoke them.
    pub fn take_violations(&self) -> Vec<String> {
        std::mem::take(&mut self.shared.state.lock().violations)
    }

    /// # Panics
    ///
    /// If the server did anything it must not do.
    #[track_caller]
    pub fn assert_clean(&self) {
        let violations = self.violations();
        if let Some(first) = violations.first() {
            panic!("seed {}: the first of {} violations: {first}", self.seed, violations.len());
        }
    }

    /// Closes everything, forgets everything, sends DESTROY, and ends the connection.
    ///
    /// # Panics
    ///
    /// If the server did anything it must not do, or if something is left that was looked up and not forgotten.
    #[track_caller]
    pub fn unmount(mut self) {
        self.close_down();
        self.assert_clean();
        self.assert_no_leaks();
    }

    fn close_down(&mut self) {
        if std::mem::replace(&mut self.unmounted, true) {
            return;
        }
        {
            let mut call = self.enter(Credentials::KERNEL, None);
            if call.st.device.connected {
                call.close_all();
                call.st.shrink();
                call.settle();
                call.st.device.ending = true;
                // An error here is none: a server may have no DESTROY.
                let _ = call.ask(&Op::Destroy(Destroy));
                call.settle();
            }
        }
        let mut st = self.shared.state.lock();
        st.device.abort();
        self.shared.wake.notify_all();
    }

    /// # Panics
    ///
    /// If an inode that nobody uses is still held, or a request is still unanswered.
    #[track_caller]
    pub fn assert_no_leaks(&self) {
        let st = self.shared.state.lock();
        let held: Vec<_> = st
            .inodes
            .iter()
            .filter(|(ino, inode)| **ino != Ino::ROOT && inode.lookups > 0)
            .map(|(_, inode)| format!("node {} with {} lookups", inode.node, inode.lookups))
            .collect();
        assert!(held.is_empty(), "seed {}: not forgotten: {}", self.seed, held.join(", "));
        let left = st.unanswered();
        assert!(left.is_empty(), "seed {}: not answered:{left}", self.seed);
    }

    fn enter(&self, credentials: Credentials, task: Option<u64>) -> Call<'_> {
        Call::enter(&self.shared, credentials, task)
    }
}

impl Drop for Kernel {
    fn drop(&mut self) {
        if !thread::panicking() {
            self.close_down();
        }
        let mut st = self.shared.state.lock();
        st.device.abort();
        self.shared.wake.notify_all();
    }
}

/// The turn of one of several callers; passed on when dropped.
struct Turn<'u> {
    user: &'u User,
    task: u64,
}

impl<'u> Turn<'u> {
    fn wait(user: &'u User, task: u64) -> Self {
        let shared = user.shared();
        let mut st = shared.state.lock();
        while st.turn != Some(task) {
            shared.wake.wait(&mut st);
        }
        Self { user, task }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let shared = self.user.shared();
        let mut st = shared.state.lock();
        st.live.retain(|task| *task != self.task);
        pass_turn(&mut st);
        shared.wake.notify_all();
    }
}

/// Gives the turn to one of those that are left, by chance.
fn pass_turn(st: &mut MutexGuard<'_, State>) {
    let count = st.live.len();
    let next = st.dice.below(count);
    st.turn = st.live.get(next).copied();
}

impl Memory {
    /// Waits for the next request and puts it into `buffer`. `None` once the connection has ended.
    ///
    /// # Errors
    ///
    /// EINVAL if `buffer` is smaller than the kernel takes: 8 KiB, and room for the largest WRITE.
    pub fn read(&self, buffer: &mut [u8]) -> Result<Option<usize>, Errno> {
        let mut st = self.shared.state.lock();
        let write = size_of::<fuse_in_header>()
            + size_of::<fuse_write_in>()
            + st.connection.max_write.min(st.connection.max_pages * PAGE);
        if buffer.len() < write.max(FUSE_MIN_READ_BUFFER) {
            st.violation(format!(
                "a buffer of {} bytes, where {write} are the least",
                buffer.len()
            ));
            return Err(Errno::EINVAL);
        }
        st.device.idle += 1;
        self.shared.wake.notify_all();
        let bytes = loop {
            if st.device.incarnation != self.incarnation {
                // The count of idle readers began anew with the new server.
                return Ok(None);
            }
            if !st.device.connected {
                st.device.idle = st.device.idle.saturating_sub(1);
                self.shared.wake.notify_all();
                return Ok(None);
            }
            let may = !st.options.stepped || st.device.granted > 0;
            if may && let Some(bytes) = st.deliver(thread::current().id(), buffer.len()) {
                break bytes;
            }
            if may && st.options.stepped {
                st.device.granted = 0;
                self.shared.wake.notify_all();
            }
            self.shared.wake.wait(&mut st);
        };
        st.device.granted = st.device.granted.saturating_sub(1);
        st.device.idle = st.device.idle.saturating_sub(1);
        self.shared.wake.notify_all();
        match buffer.get_mut(..bytes.len()) {
            Some(to) => to.copy_from_slice(&bytes),
            None => return Err(Errno::EINVAL),
        }
        Ok(Some(bytes.len()))
    }

    /// Sends one answer or one notification, whole.
    ///
    /// # Errors
    ///
    /// Those of a write(2) to the device: EINVAL for what the kernel refuses, ENOENT for an answer to no
    /// request or a notification about a node or name the kernel does not have, ENODEV after the end.
    pub fn write(&self, message: &[u8]) -> Result<(), Errno> {
        let mut st = self.shared.state.lock();
        if st.device.incarnation != self.incarnation || !st.device.connected {
            return Err(Errno::ENODEV);
        }
        let result = st.accept(message, thread::current().id());
        self.shared.wake.notify_all();
        result
    }
}

impl Transport for Memory {
    fn receive<'b>(&self, buffer: &'b mut Buffer) -> io::Result<Option<Frame<'b>>> {
        let bytes = buffer.bytes_mut();
        let Some(len) = self.read(bytes).map_err(os_error)? else { return Ok(None) };
        let whole = bytes.get(..len).ok_or_else(|| os_error(Errno::EINVAL))?;
        let dialect = {
            let st = self.shared.state.lock();
            st.options.in_parts.then(|| st.connection.dialect())
        };
        // The ring carries what is answered, but for INIT.
        let message = dialect.and_then(|dialect| Message::split(whole, dialect).ok());
        let message = message.filter(|message| {
            wants_reply(message.header.opcode) && message.header.opcode != FUSE_INIT
        });
        Ok(Some(match message {
            Some(Message { header, args, payload }) => Frame::Parts { header, args, payload },
            None => Frame::Whole(whole),
        }))
    }

    fn send(&self, reply: &Reply<'_>) -> io::Result<Delivery> {
        let message: Vec<u8> = reply.chunks().flatten().copied().collect();
        delivery(self.write(&message))
    }

    fn send_notification(&self, chunks: &[IoSlice<'_>]) -> io::Result<Delivery> {
        let message: Vec<u8> = chunks.iter().flat_map(|chunk| chunk.iter().copied()).collect();
        delivery(self.write(&message))
    }

    fn can_splice(&self) -> bool {
        self.shared.state.lock().options.can_splice
    }

    fn send_filled(&self, pipe: &mut SplicePipe) -> io::Result<Delivery> {
        delivery(self.write(&pipe.take()?))
    }
}

fn os_error(errno: Errno) -> io::Error {
    io::Error::from_raw_os_error(errno.get())
}

fn delivery(result: Result<(), Errno>) -> io::Result<Delivery> {
    match result {
        Ok(()) => Ok(Delivery::Taken),
        Err(Errno::ENOENT | Errno::ENODEV) => Ok(Delivery::Unwanted),
        Err(errno) => Err(os_error(errno)),
    }
}
