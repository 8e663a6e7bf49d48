//! One connection with the kernel: INIT, limits, and which requests are being served.
//!
//! ```text
//!             INIT              DESTROY, or the device is gone
//!   Opening --------> Running ---------------------------------> Closed
//!      +------ anything but INIT, or a version below 7.12 ----------^
//! ```
//!
//! Opening: no limits are known, so the only message taken is INIT. A major version above 7 is
//! answered with ours, and the kernel sends INIT again. Running: [`Limits`] are fixed; every
//! request that is served is in `pending` until its one reply. Closed: nothing is taken and nothing
//! is sent.
//!
//! Bytes go in, an [`Action`] comes out, and a thin shell carries it out. A message that cannot be
//! understood is answered with an errno and ends nothing. All methods take `&self`, and once
//! Running they take no lock and allocate nothing, so any number of readers may share a connection.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use super::abi::*;
use super::decode::DecodeError;
use super::flags;
use super::message::{Dialect, Message};
use super::notify::Notice;
use super::op::{Init, Op, wants_reply};
use super::pending::{Inserted, Pending};
use super::reply::Reply;
use super::types::{Caller, Errno, RequestId};

/// The oldest minor version that is served. 7.12 (Linux 2.6.31) is the first whose creations say
/// the umask.
pub const MINOR_MIN: u32 = 12;
/// The newest minor version that is served.
pub const MINOR_MAX: u32 = FUSE_KERNEL_MINOR_VERSION;
/// How many pages a request has at most without FUSE_MAX_PAGES.
const PAGES_DEFAULT: u32 = 32;
/// The largest value of an extended attribute: XATTR_SIZE_MAX of limits.h.
const XATTR_SIZE_MAX: usize = 65_536;
/// Since 7.38 a request's header says how long its extensions are; SECURITY_CTX is two versions older.
const EXTENSIONS_COUNTED: u32 = 38;

/// What we would like, before the kernel has its say.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Config {
    /// Most bytes of one WRITE; at least 4096. The kernel sends at most `fs.fuse.max_pages_limit`
    /// pages at a time (256 unless raised, which is 1 MiB).
    pub max_write: u32,
    /// Most bytes read ahead. The smaller of this and the kernel's offer counts; the kernel offers
    /// 128 KiB, so more needs the backing device info.
    pub max_readahead: u32,
    /// Most requests that nobody waits for, at one time. 0 leaves it to the kernel (12).
    pub max_background: u16,
    /// From how many of those on the filesystem counts as congested. 0 leaves it to the kernel (9).
    pub congestion_threshold: u16,
    /// To how many nanoseconds times are exact: a power of ten, at most 1,000,000,000.
    pub time_gran_ns: u32,
    /// Bytes in a page of this machine.
    pub page_size: u32,
    /// When listings bring attributes.
    pub readdirplus: ReadDirPlus,
    /// Lookups and listings in one directory may run side by side.
    pub parallel_dirops: bool,
    /// Directories need not be opened: OPENDIR is refused with ENOSYS.
    pub no_opendir: bool,
    /// The transport splices replies.
    pub splice: bool,
    /// The transport is the ring.
    pub io_uring: bool,
    /// Lookups of `.` and `..` by node are served, so that file handles outlive the kernel's
    /// memory.
    pub export: bool,
    /// Security contexts that come with creations are stored.
    pub security_context: bool,
    /// The group that comes with creations is looked at.
    pub supplementary_group: bool,
    /// After how many seconds without an answer the kernel aborts the connection; 0 is never.
    pub request_timeout_s: u16,
    /// Most requests being served at one time; what comes above it is answered with ENOMEM.
    pub pending_max: usize,
}

/// When the kernel asks for attributes with a listing (READDIRPLUS).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ReadDirPlus {
    /// At the start of a directory, and on from there while somebody looks at attributes.
    Adaptive,
    /// Always.
    Always,
    /// Never.
    Never,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            max_write: 1 << 20,
            max_readahead: 1 << 20,
            max_background: 64,
            congestion_threshold: 48,
            time_gran_ns: 1,
            page_size: 4096,
            readdirplus: ReadDirPlus::Adaptive,
            parallel_dirops: true,
            no_opendir: false,
            splice: false,
            io_uring: false,
            export: false,
            security_context: false,
            supplementary_group: false,
            request_timeout_s: 0,
            pending_max: 4096,
        }
    }
}

impl Config {
    /// How long a buffer for reads of `/dev/fuse` must be: any request fits it, SETXATTR with the
    /// largest value too.
    pub fn buffer_len(&self) -> usize {
        // Both fit a usize: Linux has no fewer than 32 bits of address.
        let (page, data) = (self.page_size as usize, self.max_write as usize);
        FUSE_MIN_READ_BUFFER.max(page.saturating_add(data.max(XATTR_SIZE_MAX)))
    }

    /// The most bytes of data in one request or reply, whatever the kernel agrees to: how much room a reply
    /// needs, and how long the payload of a ring entry must be.
    pub fn data_max(&self) -> usize {
        // Requests are as long as pages for `max_write` bytes; 32 pages where their number was not agreed on.
        let (page, data) = (self.page_size.max(4096) as usize, self.max_write as usize);
        let pages = PAGES_DEFAULT as usize * page;
        data.max(pages).max(FUSE_MIN_READ_BUFFER).next_multiple_of(page)
    }
}

/// What was agreed on at INIT. Fixed while the connection lives.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Limits {
    /// In which form messages come.
    pub dialect: Dialect,
    /// What both sides do: flags of `abi`.
    pub flags: u64,
    /// Most bytes of one WRITE.
    pub max_write: u32,
    /// Most bytes read ahead.
    pub max_readahead: u32,
    /// Most pages of one request.
    pub max_pages: u32,
}

impl Limits {
    /// Whether all bits of `flag` were agreed on.
    pub const fn has(&self, flag: u64) -> bool {
        self.flags & flag == flag
    }

    /// Whether the kernel understands `notice`.
    pub const fn takes(&self, notice: &Notice<'_>) -> bool {
        let flag = match notice {
            Notice::ExpireEntry { .. } => FUSE_HAS_EXPIRE_ONLY,
            Notice::Resend => FUSE_HAS_RESEND,
            _ => 0,
        };
        self.dialect.minor >= notice.since() && self.has(flag)
    }

    /// How long the payload buffer of a ring entry must be, in bytes.
    pub const fn ring_payload_len(&self, page_size: u32) -> usize {
        let pages = self.max_pages as usize * page_size as usize;
        let write = self.max_write as usize;
        let longest = if pages > write { pages } else { write };
        if longest > FUSE_MIN_READ_BUFFER { longest } else { FUSE_MIN_READ_BUFFER }
    }
}

/// What the caller must do next.
#[derive(Debug)]
pub enum Action<'a> {
    /// Send the reply: INIT, or a refusal. The view is not asked, and there is nothing to finish.
    Send(Reply<'static>),
    /// Send the reply, then close: no version to agree on, or DESTROY.
    SendAndClose(Reply<'static>),
    /// Ask the view. One reply is due, under what [`Connection::finish`] returns.
    Serve(RequestId, Caller, Op<'a>),
    /// Tell the view; no reply is due: FORGET, BATCH_FORGET, INTERRUPT, NOTIFY_REPLY.
    Tell(Caller, Op<'a>),
    /// Nothing can or need be done: the message was too short to be answered, nobody waits for an
    /// answer, or the request is being served already.
    Ignore(Option<DecodeError>),
    /// The connection has ended.
    Close,
}

/// A connection, from INIT to its end.
#[derive(Debug)]
pub struct Connection {
    config: Config,
    limits: OnceLock<Limits>,
    closed: AtomicBool,
    pending: Pending,
}

impl Connection {
    /// A connection that waits for INIT.
    pub fn new(config: Config) -> Self {
        Self {
            config,
            limits: OnceLock::new(),
            closed: AtomicBool::new(false),
            pending: Pending::new(config.pending_max),
        }
    }

    /// A connection on which another process has agreed on `limits`: it is Running.
    pub fn resume(config: Config, limits: Limits) -> Self {
        let connection = Self::new(config);
        connection.limits.get_or_init(|| limits);
        connection
    }

    /// What was asked for.
    pub const fn config(&self) -> &Config {
        &self.config
    }

    /// What was agreed on; `None` while Opening.
    pub fn limits(&self) -> Option<&Limits> {
        self.limits.get()
    }

    /// Whether the connection has ended.
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Ends the connection: the device is gone.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Release);
    }

    /// Takes what one read of `/dev/fuse` returned.
    pub fn receive<'a>(&self, bytes: &'a [u8]) -> Action<'a> {
        match Message::header(bytes) {
            Ok(header) => self.take(&header, |dialect| Message::split(bytes, dialect)),
            Err(err) => self.unanswerable(err),
        }
    }

    /// Takes what the ring delivered; see [`Message::from_parts`].
    pub fn receive_parts<'a>(
        &self,
        header: fuse_in_header,
        op_in: &'a [u8],
        payload: &'a [u8],
    ) -> Action<'a> {
        self.take(&header, |dialect| Message::from_parts(header, op_in, payload, dialect))
    }

    fn unanswerable<'a>(&self, err: DecodeError) -> Action<'a> {
        if self.is_closed() { Action::Close } else { Action::Ignore(Some(err)) }
    }

    fn take<'a>(
        &self,
        header: &fuse_in_header,
        message: impl FnOnce(Dialect) -> Result<Message<'a>, DecodeError>,
    ) -> Action<'a> {
        if self.is_closed() {
            return Action::Close;
        }
        let Some(limits) = self.limits.get() else {
            return self.open(header, message(Dialect::NEWEST));
        };
        let id = RequestId(header.unique);
        match message(limits.dialect)
            .and_then(|message| Ok((message.caller(), Op::decode(&message)?)))
        {
            Ok((caller, op)) => self.run(id, caller, op),
            // To id 0 no reply can be sent, as it would be a notification.
            Err(err) if id.masked() == 0 || !wants_reply(header.opcode) => {
                Action::Ignore(Some(err))
            }
            Err(err) => Action::Send(Reply::error(id, err.errno())),
        }
    }

    /// Opening: INIT, or the end.
    fn open<'a>(
        &self,
        header: &fuse_in_header,
        message: Result<Message<'a>, DecodeError>,
    ) -> Action<'a> {
        let id = RequestId(header.unique);
        let refuse = |errno| {
            self.close();
            Action::SendAndClose(Reply::error(id, errno))
        };
        if id.masked() == 0 {
            // No reply can be sent to it, so nothing can be agreed on.
            self.close();
            return Action::Close;
        }
        let init = match message.and_then(|message| Op::decode(&message)) {
            Ok(Op::Init(init)) => init,
            Ok(op) if op.wants_reply() => return refuse(Errno::ENOSYS),
            Err(err) if wants_reply(header.opcode) => return refuse(err.errno()),
            Ok(_) | Err(_) => {
                self.close();
                return Action::Close;
            }
        };
        if init.major > FUSE_KERNEL_VERSION {
            let out = fuse_init_out { minor: MINOR_MAX, ..INIT_OUT };
            // Of a newer major version only this much is sure to be understood: ours.
            return Action::Send(Reply::init(id, &out, MINOR_MAX));
        }
        if init.major < FUSE_KERNEL_VERSION || init.minor < MINOR_MIN {
            return refuse(Errno::EPROTO);
        }
        let (limits, out) = self.negotiate(&init);
        self.limits.get_or_init(|| limits);
        Action::Send(Reply::init(id, &out, init.minor))
    }

    /// The smaller minor version, the flags that both sides want, and sizes within what both can
    /// do.
    fn negotiate(&self, init: &Init) -> (Limits, fuse_init_out) {
        let config = &self.config;
        let minor = init.minor.min(MINOR_MAX);
        let mut flags = flags::wanted(config, init.flags);
        // Nothing would tell the context from the name before it.
        if minor < EXTENSIONS_COUNTED {
            flags &= !FUSE_SECURITY_CTX;
        }
        let page = config.page_size.max(4096);
        let pages = if flags & FUSE_MAX_PAGES == 0 {
            PAGES_DEFAULT
        } else {
            config.max_write.div_ceil(page).clamp(1, u16::MAX.into())
        };
        let max_write = config.max_write.clamp(4096, pages.saturating_mul(page).max(4096));
        let max_readahead = config.max_readahead.min(init.max_readahead);
        let limits = Limits {
            dialect: Dialect { minor, setxattr_ext: flags & FUSE_SETXATTR_EXT != 0 },
            flags,
            max_write,
            max_readahead,
            max_pages: pages,
        };
        let out = fuse_init_out {
            minor,
            max_readahead,
            flags: flags as u32, // the lower half; the upper one follows
            max_background: config.max_background,
            congestion_threshold: config.congestion_threshold,
            max_write,
            time_gran: config.time_gran_ns,
            // Without FUSE_MAX_PAGES the kernel does not look at it.
            max_pages: pages as u16,
            flags2: (flags >> 32) as u32,
            // Only looked at with FUSE_REQUEST_TIMEOUT, which is asked for unless this is 0.
            request_timeout: config.request_timeout_s,
            ..INIT_OUT
        };
        (limits, out)
    }

    /// Running: a request that was understood.
    fn run<'a>(&self, id: RequestId, caller: Caller, op: Op<'a>) -> Action<'a> {
        match op {
            Op::Interrupt(interrupt) if self.pending.interrupt(interrupt.target) => {
                Action::Tell(caller, op)
            }
            // Either its target is answered by now, and this reply goes nowhere; or another reader
            // has it in hand and is about to put it into `pending`, and the kernel sends this
            // again.
            Op::Interrupt(_) if id.masked() == 0 => Action::Ignore(None),
            Op::Interrupt(_) => Action::Send(Reply::error(id, Errno::EAGAIN)),
            Op::Forget(_) | Op::BatchForget(_) | Op::NotifyReply(_) => Action::Tell(caller, op),
            // To id 0 no reply can be sent, as it would be a notification; the kernel never uses
            // it, nor odd ones, which mark interrupts.
            _ if id.masked() == 0 => Action::Ignore(Some(DecodeError::Value)),
            _ if id.0 & 1 != 0 => Action::Send(Reply::error(id, Errno::EINVAL)),
            // INIT comes once per connection.
            Op::Init(_) => Action::Send(Reply::error(id, Errno::EIO)),
            Op::CuseInit(_) => Action::Send(Reply::error(id, Errno::ENOSYS)),
            Op::Destroy(_) => {
                self.close();
                Action::SendAndClose(Reply::empty(id))
            }
            _ => match self.pending.insert(id) {
                Inserted::New => Action::Serve(id, caller, op),
                Inserted::Already => Action::Ignore(None),
                Inserted::Full => Action::Send(Reply::error(id, Errno::ENOMEM)),
            },
        }
    }

    /// Ends the serving of `id`, just before its reply is sent, and returns the id that the reply
    /// must carry: another one if the kernel sent the request again meanwhile.
    ///
    /// `None` means that the request has had its reply: send nothing.
    pub fn finish(&self, id: RequestId) -> Option<RequestId> {
        self.pending.remove(id)
    }

    /// [`Connection::finish`] of the request that `reply` answers, and the reply as it is to be
    /// sent.
    pub fn finish_with<'a>(&self, reply: Reply<'a>) -> Option<Reply<'a>> {
        let id = self.finish(reply.id())?;
        Some(if id == reply.id() { reply } else { reply.readdressed(id) })
    }

    /// Whether the caller of `id` waits no longer. What has not changed anything yet should then be
    /// answered with EINTR.
    pub fn is_interrupted(&self, id: RequestId) -> bool {
        self.pending.is_interrupted(id)
    }

    /// How many requests are being served.
    pub fn pending(&self) -> usize {
        self.pending.count()
    }
}

/// A reply to INIT that asks for nothing.
const INIT_OUT: fuse_init_out = fuse_init_out {
    major: FUSE_KERNEL_VERSION,
    minor: 0,
    max_readahead: 0,
    flags: 0,
    max_background: 0,
    congestion_threshold: 0,
    max_write: 0,
    time_gran: 0,
    max_pages: 0,
    map_alignment: 0,
    flags2: 0,
    max_stack_depth: 0,
    request_timeout: 0,
    unused: [0; 11],
};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::answer::Answer;
    use crate::proto::op::{Destroy, Forget, GetAttr, Interrupt, Lookup, ReadLink};
    use crate::proto::request::Request;
    use crate::proto::types::{Name, NodeId};

    fn bytes(id: u64, op: Op<'_>) -> Vec<u8> {
        let caller = Caller { uid: 1000, gid: 100, pid: 42 };
        Request { id: RequestId(id), caller, op }.encode(Dialect::NEWEST).bytes()
    }

    fn init(major: u32, minor: u32, flags: u64) -> Vec<u8> {
        bytes(2, Op::Init(Init { major, minor, max_readahead: 131_072, flags }))
    }

    fn getattr(id: u64) -> Vec<u8> {
        bytes(id, Op::GetAttr(GetAttr { node: NodeId::ROOT, handle: None }))
    }

    fn reply_bytes(reply: &Reply<'_>) -> Vec<u8> {
        reply.chunks().collect::<Vec<_>>().concat()
    }

    fn running() -> Connection {
        let connection = Connection::new(Config::default());
        assert!(matches!(connection.receive(&init(7, 45, u64::MAX)), Action::Send(_)));
        connection
    }

    fn refused(action: &Action<'_>) -> Option<Errno> {
        match action {
            Action::Send(reply) | Action::SendAndClose(reply) => reply.errno(),
            _ => None,
        }
    }

    #[test]
    fn every_minor_version_from_12_on_is_agreed_on() {
        for minor in MINOR_MIN..=MINOR_MAX + 10 {
            let connection = Connection::new(Config::default());
            let offered = flags::FLAGS
                .iter()
                .filter(|flag| flag.since <= minor)
                .fold(0, |all, flag| all | flag.bit);
            let bytes = init(7, minor, offered);
            let Action::Send(reply) = connection.receive(&bytes) else {
                panic!("7.{minor} is answered")
            };
            let reply = reply_bytes(&reply);
            assert_eq!(reply.len(), if minor < 23 { 16 + 24 } else { 16 + 64 }, "7.{minor}");
            let out = Answer::decode(&reply).unwrap().result.unwrap().init(minor).unwrap();
            let limits = connection.limits().unwrap();
            assert_eq!((out.major, out.minor), (7, minor.min(MINOR_MAX)));
            assert_eq!(limits.dialect.minor, out.minor);
            assert_eq!(
                limits.flags & !offered,
                0,
                "7.{minor} was asked for what it does not offer"
            );
            assert_eq!(out.flags, limits.flags as u32);
            if minor >= 36 {
                assert_eq!(u64::from(out.flags2), limits.flags >> 32);
                assert_ne!(out.flags & FUSE_INIT_EXT as u32, 0);
            }
            let whole = if minor >= 28 { 1 << 20 } else { 32 * 4096 };
            assert_eq!(limits.max_write, whole, "7.{minor}");
            assert_eq!(out.max_readahead, 131_072, "the kernel's offer is the smaller one");
        }
    }

    #[test]
    fn a_security_context_is_asked_for_where_it_can_be_told_from_the_name() {
        for minor in 36..=MINOR_MAX {
            let config = Config { security_context: true, ..Config::default() };
            let connection = Connection::new(config);
            let bytes = init(7, minor, FUSE_INIT_EXT | FUSE_SECURITY_CTX);
            assert!(matches!(connection.receive(&bytes), Action::Send(_)));
            let asked = connection.limits().unwrap().has(FUSE_SECURITY_CTX);
            assert_eq!(asked, minor >= 38, "7.{minor}");
        }
    }

    #[test]
    fn a_newer_major_version_is_answered_with_ours_and_asked_again() {
        let connection = Connection::new(Config::default());
        let bytes = init(8, 3, u64::MAX);
        let Action::Send(reply) = connection.receive(&bytes) else { panic!("8.3 is answered") };
        let reply = reply_bytes(&reply);
        let out = Answer::decode(&reply).unwrap().result.unwrap().init(45).unwrap();
        assert_eq!((out.major, out.minor), (7, 45));
        assert_eq!(connection.limits(), None);
        assert!(matches!(connection.receive(&init(7, 45, u64::MAX)), Action::Send(_)));
        assert!(connection.limits().is_some());
    }

    #[test]
    fn versions_that_are_too_old_end_the_connection() {
        for (major, minor) in [(6, 99), (7, 11), (7, 0), (0, 0)] {
            let connection = Connection::new(Config::default());
            let bytes = init(major, minor, 0);
            let action = connection.receive(&bytes);
            assert!(matches!(action, Action::SendAndClose(_)));
            assert_eq!(refused(&action), Some(Errno::EPROTO));
            assert!(matches!(connection.receive(&getattr(4)), Action::Close));
        }
    }

    #[test]
    fn anything_before_init_ends_the_connection() {
        let connection = Connection::new(Config::default());
        assert!(matches!(connection.receive(&getattr(2)), Action::SendAndClose(_)));
        assert!(connection.is_closed());
        let connection = Connection::new(Config::default());
        let forget = bytes(2, Op::Forget(Forget { node: NodeId::ROOT, lookups: 1 }));
        assert!(matches!(connection.receive(&forget), Action::Close));
    }

    #[test]
    fn a_request_is_served_and_finished_once() {
        let connection = running();
        let bytes = getattr(4);
        let Action::Serve(id, caller, Op::GetAttr(_)) = connection.receive(&bytes) else {
            panic!("GETATTR is served")
        };
        assert_eq!((id, caller.pid), (RequestId(4), 42));
        assert_eq!(connection.pending(), 1);
        assert_eq!(connection.finish(id), Some(id));
        assert_eq!(connection.finish(id), None);
        assert_eq!(connection.pending(), 0);
    }

    #[test]
    fn a_request_sent_again_is_served_once_and_answered_under_its_mark() {
        let connection = running();
        let (first, again) = (RequestId(4), RequestId(4 | FUSE_UNIQUE_RESEND));
        assert!(matches!(connection.receive(&getattr(first.0)), Action::Serve(..)));
        assert!(matches!(connection.receive(&getattr(again.0)), Action::Ignore(None)));
        let reply = connection.finish_with(Reply::error(first, Errno::EIO)).unwrap();
        assert_eq!(Answer::decode(&reply_bytes(&reply)).unwrap().id, again);
        assert!(connection.finish_with(Reply::error(again, Errno::EIO)).is_none());
    }

    #[test]
    fn an_interrupt_finds_its_request_or_is_to_come_again() {
        let connection = running();
        let interrupt = bytes(5, Op::Interrupt(Interrupt { target: RequestId(4) }));
        assert_eq!(refused(&connection.receive(&interrupt)), Some(Errno::EAGAIN));
        assert!(matches!(connection.receive(&getattr(4)), Action::Serve(..)));
        assert!(!connection.is_interrupted(RequestId(4)));
        assert!(matches!(connection.receive(&interrupt), Action::Tell(_, Op::Interrupt(_))));
        assert!(connection.is_interrupted(RequestId(4)));
        connection.finish(RequestId(4));
        assert!(!connection.is_interrupted(RequestId(4)));
        assert_eq!(refused(&connection.receive(&interrupt)), Some(Errno::EAGAIN));
    }

    #[test]
    fn what_wants_no_reply_gets_none_however_malformed() {
        let connection = running();
        let mut forget = bytes(6, Op::Forget(Forget { node: NodeId::ROOT, lookups: 1 }));
        assert!(matches!(connection.receive(&forget), Action::Tell(_, Op::Forget(_))));
        forget[16..24].fill(0);
        let action = connection.receive(&forget);
        assert!(matches!(action, Action::Ignore(Some(DecodeError::Node))));
        assert_eq!(connection.pending(), 0);
    }

    #[test]
    fn a_malformed_message_is_refused_and_ends_nothing() {
        let connection = running();
        let lookup = |name| {
            let op = Op::Lookup(Lookup { parent: NodeId::ROOT, name: Name::new(name).unwrap() });
            bytes(8, op)
        };
        let mut slash = lookup(b"a_b");
        slash[41] = b'/';
        let mut unknown = getattr(8);
        unknown[4..8].copy_from_slice(&7_u32.to_ne_bytes());
        let mut short = getattr(8);
        short.truncate(50);
        let mut no_node = getattr(8);
        no_node[16..24].fill(0);
        let mut odd = getattr(8);
        odd[8] = 9;
        let device =
            bytes(8, Op::CuseInit(crate::proto::op::CuseInit { major: 7, minor: 45, flags: 0 }));
        for (bytes, errno) in [
            (slash, Errno::EINVAL),
            (unknown, Errno::ENOSYS),
            (short, Errno::EIO),
            (no_node, Errno::EINVAL),
            (odd, Errno::EINVAL),
            (device, Errno::ENOSYS),
            (init(7, 45, 0), Errno::EIO),
        ] {
            assert_eq!(refused(&connection.receive(&bytes)), Some(errno));
        }
        assert!(matches!(connection.receive(&[1, 2, 3]), Action::Ignore(Some(DecodeError::Short))));
        assert!(matches!(connection.receive(&getattr(10)), Action::Serve(..)));
    }

    #[test]
    fn to_id_0_nothing_is_sent_as_it_would_be_a_notification() {
        let connection = running();
        assert!(matches!(connection.receive(&getattr(0)), Action::Ignore(_)));
        assert!(matches!(connection.receive(&getattr(FUSE_UNIQUE_RESEND)), Action::Ignore(_)));
        let mut unknown = getattr(0);
        unknown[4..8].copy_from_slice(&7_u32.to_ne_bytes());
        assert!(matches!(connection.receive(&unknown), Action::Ignore(_)));
    }

    #[test]
    fn to_an_init_with_id_0_nothing_is_sent_either() {
        let connection = Connection::new(Config::default());
        let mut bytes = init(7, 45, u64::MAX);
        bytes[8..16].fill(0);
        assert!(matches!(connection.receive(&bytes), Action::Close));
        assert!(connection.is_closed());
    }

    #[test]
    fn destroy_is_answered_and_is_the_end() {
        let connection = running();
        let bytes = bytes(4, Op::Destroy(Destroy));
        assert!(matches!(connection.receive(&bytes), Action::SendAndClose(_)));
        assert!(matches!(connection.receive(&getattr(6)), Action::Close));
    }

    #[test]
    fn a_resumed_connection_serves_without_init() {
        let limits = *running().limits().unwrap();
        let connection = Connection::resume(Config::default(), limits);
        let resent = getattr(4 | FUSE_UNIQUE_RESEND);
        assert!(matches!(connection.receive(&resent), Action::Serve(..)));
    }

    #[test]
    fn more_requests_than_the_table_holds_are_refused() {
        let connection = Connection::resume(
            Config { pending_max: 32, ..Config::default() },
            *running().limits().unwrap(),
        );
        for id in 1..=32 {
            assert!(matches!(connection.receive(&getattr(id * 2)), Action::Serve(..)));
        }
        assert_eq!(refused(&connection.receive(&getattr(80))), Some(Errno::ENOMEM));
        connection.finish(RequestId(2));
        assert!(matches!(connection.receive(&getattr(80)), Action::Serve(..)));
    }

    #[test]
    fn what_the_ring_delivers_in_parts_is_the_same_request() {
        let connection = running();
        let op = Op::ReadLink(ReadLink { node: NodeId::ROOT });
        let caller = Caller::default();
        let encoded = Request { id: RequestId(4), caller, op }.encode(Dialect::NEWEST);
        // On the ring the area for the fixed part has one size for all operations.
        let op_in = [0; FUSE_URING_OP_IN_OUT_SZ];
        let action = connection.receive_parts(encoded.header, &op_in, &encoded.payload);
        assert!(matches!(action, Action::Serve(RequestId(4), _, served) if served == op));
    }

    #[test]
    fn a_notice_goes_only_to_kernels_that_know_it() {
        let limits = |minor, flags| Limits {
            dialect: Dialect { minor, setxattr_ext: false },
            flags,
            max_write: 4096,
            max_readahead: 0,
            max_pages: 1,
        };
        let name = Name::new(b"x").unwrap();
        let expire = Notice::ExpireEntry { parent: NodeId::ROOT, name };
        assert!(limits(45, FUSE_HAS_EXPIRE_ONLY).takes(&expire));
        assert!(!limits(45, 0).takes(&expire));
        assert!(!limits(37, FUSE_HAS_EXPIRE_ONLY).takes(&expire));
        assert!(limits(12, 0).takes(&Notice::InvalEntry { parent: NodeId::ROOT, name }));
        assert!(!limits(44, 0).takes(&Notice::Prune { nodes: &[] }));
    }

    #[test]
    fn a_buffer_holds_the_longest_write_and_the_longest_attribute() {
        let buffer_len = |max_write| Config { max_write, ..Config::default() }.buffer_len();
        assert_eq!(buffer_len(1 << 20), (1 << 20) + 4096);
        assert_eq!(buffer_len(4096), 65_536 + 4096);
    }
}
