//! The device between the kernel's half and the server: queues, matching of replies, checks.
//!
//! ```text
//!  ask --> pending --receive--> processing --send--> done --> the caller goes on
//!             ^                      |
//!             +-------- RESEND ------+        forgets, interrupts --receive--> (no reply)
//! ```
//!
//! Invariants: a request is in one of `pending`, `processing` and `done`; each answer is checked as
//! `fuse_dev_do_write` of Linux 6.18 does, and what a kernel would refuse, or swallow in silence though a
//! server must not send it, is kept in `violations`.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::thread::ThreadId;

use zerocopy::FromBytes;

use crate::proto::abi::*;
use crate::proto::op::{BatchForget, Forget, ForgetList, Interrupt, Op};
use crate::proto::request::Request;
use crate::proto::types::{Caller, Errno, NodeId, RequestId};

use super::State;

/// The bit of `unique` that makes an INTERRUPT of a request's number.
const INTERRUPT_BIT: u64 = 1;
/// By how much `unique` grows from request to request.
const UNIQUE_STEP: u64 = 2;
/// The most FORGETs in one BATCH_FORGET of this model; the kernel's bound is the reader's buffer.
const BATCH_MAX: usize = 64;
pub(super) const OUT_HEADER: usize = size_of::<fuse_out_header>();

/// A request that waits for a reader, or for its answer.
#[derive(Clone, Debug)]
pub(super) struct Queued {
    pub(super) unique: u64,
    pub(super) opcode: u32,
    pub(super) node: u64,
    pub(super) bytes: Vec<u8>,
    pub(super) answer: Answer,
    /// Nobody waits for the answer.
    pub(super) background: bool,
    pub(super) interrupted: bool,
    /// Who reads it; known once it is in `processing`.
    pub(super) reader: Option<ThreadId>,
}

/// Which bodies may follow the header of an answer without an error.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Answer {
    /// None is due: FORGET, INTERRUPT, NOTIFY_REPLY.
    None,
    /// So many bytes.
    Exactly(usize),
    /// At most so many bytes.
    UpTo(usize),
}

#[derive(Debug)]
pub(super) struct Device {
    pub(super) connected: bool,
    /// DESTROY is sent: a reader need not come back.
    pub(super) ending: bool,
    pub(super) pending: Vec<Queued>,
    pub(super) forgets: VecDeque<fuse_forget_one>,
    pub(super) interrupts: VecDeque<u64>,
    /// By `unique` as it was sent, mark of resending included.
    pub(super) processing: BTreeMap<u64, Queued>,
    /// By `unique` without marks.
    pub(super) done: BTreeMap<u64, Result<Vec<u8>, Errno>>,
    answered: BTreeSet<u64>,
    next_unique: u64,
    pub(super) no_interrupt: bool,
    /// Counts the servers: an old one's handle neither reads nor writes.
    pub(super) incarnation: u64,
    /// Readers that wait for a request.
    pub(super) idle: usize,
    /// Requests a stepped reader may take.
    pub(super) granted: usize,
    pub(super) counts: BTreeMap<u32, u64>,
    pub(super) fail_next: BTreeMap<u32, VecDeque<Errno>>,
}

impl Device {
    pub(super) fn new() -> Self {
        Self {
            connected: true,
            ending: false,
            pending: Vec::new(),
            forgets: VecDeque::new(),
            interrupts: VecDeque::new(),
            processing: BTreeMap::new(),
            done: BTreeMap::new(),
            answered: BTreeSet::new(),
            next_unique: UNIQUE_STEP,
            no_interrupt: false,
            incarnation: 0,
            idle: 0,
            granted: 0,
            counts: BTreeMap::new(),
            fail_next: BTreeMap::new(),
        }
    }

    pub(super) fn unique(&mut self) -> u64 {
        let unique = self.next_unique;
        self.next_unique += UNIQUE_STEP;
        unique
    }

    /// Whether a reader would get something.
    pub(super) fn has_work(&self) -> bool {
        !self.pending.is_empty() || !self.forgets.is_empty() || !self.interrupts.is_empty()
    }

    /// Marks `unique` as interrupted, and queues the INTERRUPT if the server has seen the request.
    pub(super) fn interrupt(&mut self, unique: u64) {
        if self.no_interrupt {
            return;
        }
        for queued in self.pending.iter_mut().chain(self.processing.values_mut()) {
            if queued.unique & !FUSE_UNIQUE_RESEND == unique {
                queued.interrupted = true;
            }
        }
        if self.processing.values().any(|queued| queued.unique & !FUSE_UNIQUE_RESEND == unique) {
            self.interrupts.push_back(unique);
        }
    }

    /// Makes everything that was read and not answered pending again, before all that was not read yet, with the mark of
    /// resending.
    pub(super) fn resend(&mut self) {
        let unread = std::mem::take(&mut self.pending);
        for (_, mut queued) in std::mem::take(&mut self.processing) {
            queued.unique |= FUSE_UNIQUE_RESEND;
            if let Some(field) = queued.bytes.get_mut(8..16) {
                field.copy_from_slice(&queued.unique.to_ne_bytes());
            }
            queued.reader = None;
            self.pending.push(queued);
        }
        self.pending.extend(unread);
    }

    /// Ends the connection: who waits gets ECONNABORTED.
    pub(super) fn abort(&mut self) {
        self.connected = false;
        let unanswered = std::mem::take(&mut self.pending)
            .into_iter()
            .chain(std::mem::take(&mut self.processing).into_values());
        for queued in unanswered.filter(|queued| !queued.background) {
            self.done.insert(queued.unique & !FUSE_UNIQUE_RESEND, Err(Errno::ECONNABORTED));
        }
        self.forgets.clear();
        self.interrupts.clear();
    }
}

impl State {
    /// Queues a request, or fails it at once where a test wants that or the connection has ended.
    pub(super) fn queue(&mut self, unique: u64, caller: Caller, op: &Op<'_>, background: bool) {
        let request = Request { id: RequestId(unique), caller, op: *op };
        let encoded = request.encode(self.connection.dialect());
        let opcode = encoded.header.opcode;
        let failure =
            self.device.fail_next.get_mut(&opcode).and_then(|failures| failures.pop_front());
        if !self.device.connected || failure.is_some() {
            if !background {
                self.device.done.insert(unique, Err(failure.unwrap_or(Errno::ENOTCONN)));
            }
            return;
        }
        let answer = answer_to(op, self.connection.minor);
        self.device.pending.push(Queued {
            unique,
            opcode,
            node: encoded.header.nodeid,
            bytes: encoded.bytes(),
            answer,
            background: background || answer == Answer::None,
            interrupted: false,
            reader: None,
        });
    }

    /// Takes what a reader gets next: in the kernel's order, or shuffled by the seed.
    ///
    /// The order in which several readers handle what they read is free, so any order of what is queued
    /// at one time is one the kernel could cause.
    pub(super) fn deliver(&mut self, reader: ThreadId, room: usize) -> Option<Vec<u8>> {
        loop {
            let (interrupts, pending, forgets) = (
                self.device.interrupts.len(),
                self.device.pending.len(),
                self.device.forgets.len().min(1),
            );
            let all = interrupts + pending + forgets;
            if all == 0 {
                return None;
            }
            let mut choice = if self.options.shuffle { self.dice.below(all) } else { 0 };
            if choice < interrupts {
                let target = self.device.interrupts.remove(choice)?;
                if let Some(bytes) = self.interrupt_bytes(target) {
                    return Some(bytes);
                }
                continue;
            }
            choice -= interrupts;
            if choice >= pending {
                return Some(self.forget_bytes(room));
            }
            let mut queued = self.device.pending.remove(choice);
            if queued.bytes.len() > room {
                // The kernel answers for the server, which never sees the request.
                let errno = if queued.opcode == FUSE_SETXATTR { Errno::E2BIG } else { Errno::EIO };
                if !queued.background {
                    self.device.done.insert(queued.unique, Err(errno));
                }
                self.violation(format!(
                    "a {} of {} bytes does not fit the reader's buffer of {room}",
                    name_of(queued.opcode),
                    queued.bytes.len()
                ));
                continue;
            }
            self.count(queued.opcode);
            let bytes = queued.bytes.clone();
            if queued.answer != Answer::None {
                queued.reader = Some(reader);
                if queued.interrupted {
                    self.device.interrupts.push_back(queued.unique & !FUSE_UNIQUE_RESEND);
                }
                self.device.processing.insert(queued.unique, queued);
            }
            return Some(bytes);
        }
    }

    pub(super) fn count(&mut self, opcode: u32) {
        *self.device.counts.entry(opcode).or_default() += 1;
    }

    fn interrupt_bytes(&mut self, target: u64) -> Option<Vec<u8>> {
        let queued = self
            .device
            .processing
            .values()
            .find(|queued| queued.unique & !FUSE_UNIQUE_RESEND == target)?;
        let request = Request {
            id: RequestId(queued.unique | INTERRUPT_BIT),
            caller: Caller::default(),
            op: Op::Interrupt(Interrupt { target: RequestId(queued.unique) }),
        };
        let bytes = request.encode(self.connection.dialect()).bytes();
        self.count(FUSE_INTERRUPT);
        Some(bytes)
    }

    fn forget_bytes(&mut self, room: usize) -> Vec<u8> {
        let fits = room
            .saturating_sub(size_of::<fuse_in_header>() + size_of::<fuse_batch_forget_in>())
            / size_of::<fuse_forget_one>();
        let many = if self.connection.minor < 16 { 1 } else { fits.clamp(1, BATCH_MAX) };
        let waiting = self.device.forgets.len().min(many);
        let count = if self.options.shuffle { 1 + self.dice.below(waiting) } else { waiting };
        let items: Vec<_> = self.device.forgets.drain(..count).collect();
        let unique = self.device.unique();
        let (opcode, op) = match items.as_slice() {
            [one] => (
                FUSE_FORGET,
                NodeId::new(one.nodeid)
                    .map(|node| Op::Forget(Forget { node, lookups: one.nlookup })),
            ),
            many => (
                FUSE_BATCH_FORGET,
                Some(Op::BatchForget(BatchForget { items: ForgetList::new(many) })),
            ),
        };
        let op = op.expect("only inodes with a node id are forgotten");
        self.count(opcode);
        let request = Request { id: RequestId(unique), caller: Caller::default(), op };
        request.encode(self.connection.dialect()).bytes()
    }

    /// Takes an answer or a notification, as a write(2) on the device does.
    pub(super) fn accept(&mut self, bytes: &[u8], writer: ThreadId) -> Result<(), Errno> {
        let Ok((header, body)) = fuse_out_header::read_from_prefix(bytes) else {
            self.violation(format!("an answer of {} bytes has no whole header", bytes.len()));
            return Err(Errno::EINVAL);
        };
        if usize::try_from(header.len) != Ok(bytes.len()) {
            self.violation(format!(
                "an answer of {} bytes counts {} in its header: {}",
                bytes.len(),
                header.len,
                bytes.escape_ascii()
            ));
            return Err(Errno::EINVAL);
        }
        if header.unique == 0 {
            return self.notice(header.error, body, writer);
        }
        if header.error > 0 || header.error <= -512 {
            self.violation(format!("an answer has the error {}", header.error));
            return Err(Errno::EINVAL);
        }
        if header.unique & INTERRUPT_BIT != 0 {
            return self.accept_interrupt(header, bytes.len());
        }
        let Some(queued) = self.device.processing.remove(&header.unique) else {
            let id = header.unique & !FUSE_UNIQUE_RESEND;
            if self.device.answered.contains(&id) {
                self.violation(format!("request {id} is answered a second time"));
            } else {
                self.violation(format!("an answer to request {id}, which no reader was given"));
            }
            return Err(Errno::ENOENT);
        };
        let id = header.unique & !FUSE_UNIQUE_RESEND;
        self.device.answered.insert(id);
        let (outcome, verdict) = match refusal_of(&queued, header, body) {
            None if header.error != 0 => {
                (Err(Errno::new(-header.error).unwrap_or(Errno::EIO)), Ok(()))
            }
            None => (Ok(body.to_vec()), Ok(())),
            Some(why) => {
                self.violation(format!(
                    "{} {id} is answered with {why}: request {}, answer {}",
                    name_of(queued.opcode),
                    queued.bytes.escape_ascii(),
                    bytes.escape_ascii()
                ));
                (Err(Errno::EIO), Err(Errno::EINVAL))
            }
        };
        if !queued.background {
            self.device.done.insert(id, outcome);
        }
        verdict
    }

    /// ENOSYS: never send another INTERRUPT. EAGAIN: send this one again.
    fn accept_interrupt(&mut self, header: fuse_out_header, len: usize) -> Result<(), Errno> {
        let target = header.unique & !INTERRUPT_BIT & !FUSE_UNIQUE_RESEND;
        let known = self.device.processing.contains_key(&(header.unique & !INTERRUPT_BIT));
        if len != OUT_HEADER {
            self.violation(format!("an answer to the INTERRUPT of {target} has a body"));
            return Err(Errno::EINVAL);
        }
        if !known {
            return Err(Errno::ENOENT);
        }
        match Errno::new(-header.error) {
            Some(Errno::ENOSYS) => self.device.no_interrupt = true,
            Some(Errno::EAGAIN) => self.device.interrupts.push_back(target),
            _ => {}
        }
        Ok(())
    }
}

/// What is wrong with the length of an answer.
fn refusal_of(queued: &Queued, header: fuse_out_header, body: &[u8]) -> Option<String> {
    if header.error != 0 {
        return (!body.is_empty()).then(|| format!("an error and {} bytes", body.len()));
    }
    match queued.answer {
        Answer::Exactly(len) if body.len() != len => {
            Some(format!("{} bytes instead of {len}", body.len()))
        }
        Answer::UpTo(len) if body.len() > len => {
            Some(format!("{} bytes where {len} are the most", body.len()))
        }
        _ => None,
    }
}

/// Which body is due to `op`.
pub(super) fn answer_to(op: &Op<'_>, minor: u32) -> Answer {
    const ENTRY: usize = size_of::<fuse_entry_out>();
    const OPEN: usize = size_of::<fuse_open_out>();
    const ATTR: usize = size_of::<fuse_attr_out>();
    let up_to = |size: u32| Answer::UpTo(usize::try_from(size).unwrap_or(usize::MAX));
    match op {
        Op::Forget(_) | Op::BatchForget(_) | Op::Interrupt(_) | Op::NotifyReply(_) => Answer::None,
        Op::Lookup(_) | Op::MkNod(_) | Op::MkDir(_) | Op::Symlink(_) | Op::Link(_) => {
            Answer::Exactly(ENTRY)
        }
        Op::GetAttr(_) | Op::SetAttr(_) => Answer::Exactly(ATTR),
        Op::Statx(_) => Answer::Exactly(size_of::<fuse_statx_out>()),
        Op::Open(_) | Op::OpenDir(_) => Answer::Exactly(OPEN),
        Op::Create(_) | Op::TmpFile(_) => Answer::Exactly(ENTRY + OPEN),
        Op::Read(read) => up_to(read.size),
        Op::ReadDir(read) => up_to(read.size),
        Op::ReadDirPlus(read) => up_to(read.size),
        Op::ReadLink(_) => Answer::UpTo(super::PAGE - 1),
        Op::Write(_) | Op::CopyFileRange(_) => Answer::Exactly(size_of::<fuse_write_out>()),
        Op::CopyFileRange64(_) => Answer::Exactly(size_of::<fuse_copy_file_range_out>()),
        Op::StatFs(_) => Answer::Exactly(size_of::<fuse_statfs_out>()),
        Op::GetXattr(get) if get.size == 0 => Answer::Exactly(size_of::<fuse_getxattr_out>()),
        Op::GetXattr(get) => up_to(get.size),
        Op::ListXattr(list) if list.size == 0 => Answer::Exactly(size_of::<fuse_getxattr_out>()),
        Op::ListXattr(list) => up_to(list.size),
        // Grew in 7.23; the server cannot know how much of it the kernel takes.
        Op::Init(_) if minor < 5 => Answer::Exactly(FUSE_COMPAT_INIT_OUT_SIZE),
        Op::Init(_) => Answer::UpTo(size_of::<fuse_init_out>()),
        Op::LSeek(_) => Answer::Exactly(size_of::<fuse_lseek_out>()),
        Op::GetLk(_) => Answer::Exactly(size_of::<fuse_lk_out>()),
        Op::BMap(_) => Answer::Exactly(size_of::<fuse_bmap_out>()),
        Op::Poll(_) => Answer::Exactly(size_of::<fuse_poll_out>()),
        Op::Ioctl(ioctl) => up_to(ioctl.out_size.saturating_add(16)),
        Op::CuseInit(_) => Answer::UpTo(size_of::<cuse_init_out>()),
        Op::SetXattr(_)
        | Op::RemoveXattr(_)
        | Op::Unlink(_)
        | Op::RmDir(_)
        | Op::Rename(_)
        | Op::Rename2(_)
        | Op::Release(_)
        | Op::ReleaseDir(_)
        | Op::FSync(_)
        | Op::FSyncDir(_)
        | Op::Flush(_)
        | Op::SetLk(_)
        | Op::SetLkW(_)
        | Op::Access(_)
        | Op::Destroy(_)
        | Op::Fallocate(_)
        | Op::SetupMapping(_)
        | Op::RemoveMapping(_)
        | Op::SyncFs(_) => Answer::Exactly(0),
    }
}

/// The name of an operation without its prefix, for messages.
pub(super) fn name_of(opcode: u32) -> &'static str {
    macro_rules! names {
        ($($name:ident)*) => {
            match opcode {
                $($name => stringify!($name).trim_start_matches("FUSE_"),)*
                _ => "operation without a name",
            }
        };
    }
    names! {
        FUSE_LOOKUP FUSE_FORGET FUSE_GETATTR FUSE_SETATTR FUSE_READLINK FUSE_SYMLINK FUSE_MKNOD
        FUSE_MKDIR FUSE_UNLINK FUSE_RMDIR FUSE_RENAME FUSE_LINK FUSE_OPEN FUSE_READ FUSE_WRITE
        FUSE_STATFS FUSE_RELEASE FUSE_FSYNC FUSE_SETXATTR FUSE_GETXATTR FUSE_LISTXATTR
        FUSE_REMOVEXATTR FUSE_FLUSH FUSE_INIT FUSE_OPENDIR FUSE_READDIR FUSE_RELEASEDIR
        FUSE_FSYNCDIR FUSE_GETLK FUSE_SETLK FUSE_SETLKW FUSE_ACCESS FUSE_CREATE FUSE_INTERRUPT
        FUSE_BMAP FUSE_DESTROY FUSE_IOCTL FUSE_POLL FUSE_NOTIFY_REPLY FUSE_BATCH_FORGET
        FUSE_FALLOCATE FUSE_READDIRPLUS FUSE_RENAME2 FUSE_LSEEK FUSE_COPY_FILE_RANGE
        FUSE_SETUPMAPPING FUSE_REMOVEMAPPING FUSE_SYNCFS FUSE_TMPFILE FUSE_STATX
        FUSE_COPY_FILE_RANGE_64
    }
}
