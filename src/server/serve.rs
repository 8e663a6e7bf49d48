//! receive -> connection -> dispatch -> send, until the connection ends.
//!
//! ```text
//!  reader 0 --- Lane ---+                             +--- one thread for news
//!  reader n --- Lane ---+--> Connection, View <-------+
//!  ring 0 ----- Lane ---+    (shared, each by reference)
//!  ring n ----- Lane ---+
//! ```
//!
//! Each thread has a lane of its own, takes one message at a time, and sends the reply itself; once running nothing
//! is allocated. Readers of the device take turns: one that is about to wait lets the next receive, so that no
//! request waits for another's disk. Reader 0 is alone until INIT is answered.
//! Then there are as many readers as asked for; or, where INIT agreed on the ring, one thread for each of its
//! lanes, and reader 0 beside them for what comes over the device all the same.
//!
//! Invariants: every request is answered once: by the thread that took it, with EIO if its handler
//! panicked. No lane ever sends a notification. A lane of the ring that ends takes all others with it: nobody
//! else serves it. When [`Server::run`] returns, no request is being served any more.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::thread::{self, Scope, ScopedJoinHandle};
use std::time::{Duration, Instant};

use crate::meter::{LaneId, Request};
use crate::proto::abi::{
    FUSE_DIRECT_IO_ALLOW_MMAP, FUSE_HAS_EXPIRE_ONLY, FUSE_NO_OPENDIR_SUPPORT, FUSE_OVER_IO_URING,
};
use crate::proto::connection::{self, Action, Connection, Limits};
use crate::proto::message;
use crate::proto::notify::Notice;
use crate::proto::types::{Errno, Name, NodeId};
use crate::proto::{Op, Reply};
use crate::transport::turns::Turn;
use crate::transport::{Delivery, DeviceLane, Frame, Lane, Received, SpliceError, Transport};
use crate::view::news::{News, Next};
use crate::view::{Stored, View};

use super::counters::Counters;
use super::dispatch::{self, Answer, Work};

/// How often the view sees to what the clock alone brings about.
const TICK: Duration = Duration::from_secs(1);

/// How to serve.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// What is asked for at INIT.
    pub connection: connection::Config,
    /// How many threads read requests from the device; at least 1. One does where requests come over the ring.
    pub readers: usize,
    /// Give up where the kernel does not offer the ring that was asked for, rather than use the device.
    pub ring_only: bool,
    /// Replies to READ of so many bytes and more are spliced from the store's files, where the
    /// lane can and they lie in one piece; `None`: none is.
    pub splice_from: Option<usize>,
}

/// From this size on a spliced reply is the faster one whatever else the machine does: 1.3 times as
/// fast at 32 KiB, 1.5 at 64 KiB, 2 at 256 KiB (`cargo bench --bench mount -- past` asks again). Below it a few
/// microseconds are won at best.
pub const SPLICE_FROM: usize = 32 << 10;

/// So many threads can wait for the disk at one time, each with a request. The others sleep, and cost nothing.
pub const READERS: u16 = 4;

impl Default for Config {
    fn default() -> Self {
        let connection =
            connection::Config { security_context: true, ..connection::Config::default() };
        Self {
            connection,
            readers: READERS.into(),
            ring_only: false,
            splice_from: Some(SPLICE_FROM),
        }
    }
}

/// How serving ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Ended {
    /// The mount went away: unmounted, detached and let go, or aborted.
    Unmounted,
    /// There was no version to agree on, or the first message was not INIT.
    NeverAgreed,
}

/// One connection, being served.
pub struct Server<'s> {
    transport: &'s dyn Transport,
    view: &'s View,
    connection: Connection,
    counters: Arc<Counters>,
    readers: usize,
    ring_only: bool,
    splice_from: Option<usize>,
    /// How many processes served this connection before; 0: it is a fresh one.
    restarts: u16,
}

/// What came of one message.
#[derive(Debug)]
#[must_use]
pub struct Taken<'w, 'v> {
    /// What to send, if anything.
    pub reply: Option<Reply<'w>>,
    /// Where the data of the reply is, if it is not in memory.
    pub stored: Option<Stored<'v>>,
    /// Whether another message may follow.
    pub more: bool,
    /// What is still to be answered: where its data is read only when it is sent, so is its time.
    open: Option<Open>,
}

/// A request that is being answered.
#[derive(Clone, Copy, Debug)]
struct Open {
    lane: LaneId,
    since: Instant,
    request: Request,
}

/// What a process must know to go on with a connection whose server died. Whoever keeps the device alive
/// meanwhile keeps it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Resumed {
    /// What was agreed on at INIT, which the kernel does not send again.
    pub limits: Limits,
    /// How many processes served the connection before this one: 1 for the first that resumes.
    pub restarts: u16,
}

/// Serves `view` over `transport` until the connection ends.
///
/// # Errors
///
/// What no reader could go on after; see [`Transport::receive`].
pub fn serve(transport: &dyn Transport, view: &View, config: Config) -> io::Result<Ended> {
    Server::new(transport, view, config).run(|| ())
}

impl<'s> Server<'s> {
    /// A server of `view` for the kernel behind `transport`. Nothing is received before
    /// [`Server::run`].
    #[must_use]
    pub fn new(transport: &'s dyn Transport, view: &'s View, config: Config) -> Self {
        Self {
            transport,
            view,
            connection: Connection::new(connection::Config {
                no_opendir: view.lists_unopened(),
                ..config.connection
            }),
            counters: Arc::default(),
            readers: config.readers.max(1),
            ring_only: config.ring_only,
            splice_from: config.splice_from,
            restarts: 0,
        }
    }

    /// A server that goes on with a connection whose server died, on `/dev/fuse`: the ring takes its requests
    /// with it. `view` must be of the store that the other served, opened again. What was not answered is
    /// sent again by the kernel, and what of it is in the log is answered from there, not done a second time.
    ///
    /// Nodes below `history/` are stale afterwards, and files without a name are ended by the next mount only. A view that
    /// lists what was not opened ([`View::lists_unopened`]) is not for this: a listing that is stale is an error then.
    #[must_use]
    pub fn resume(
        transport: &'s dyn Transport,
        view: &'s View,
        config: Config,
        resumed: Resumed,
    ) -> Self {
        Self {
            connection: Connection::resume(config.connection, resumed.limits),
            restarts: resumed.restarts.max(1),
            ..Self::new(transport, view, config)
        }
    }

    /// What was asked for so far.
    #[must_use]
    pub const fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }

    /// The connection: what was agreed on, and how many requests are being served.
    #[must_use]
    pub const fn connection(&self) -> &Connection {
        &self.connection
    }

    /// Serves until the connection ends; calls `ready` once INIT is answered. The calling thread is one
    /// of the readers.
    ///
    /// # Errors
    ///
    /// What the first reader could not go on after, once all have ended; or why a fresh connection could
    /// not be prepared.
    pub fn run(&self, ready: impl FnOnce()) -> io::Result<Ended> {
        self.greet()?;
        thread::scope(|scope| {
            thread::Builder::new()
                .name("news".to_owned())
                .spawn_scoped(scope, || self.tell_news())?;
            let mut threads = Vec::new();
            // A panic would wait for all threads of the scope, and some end only when told so below.
            let read = guarded(|| self.read_and_start(scope, &mut threads, ready));
            let mut result = read.unwrap_or_else(|_| Err(panicked_outside()));
            if result.is_err() {
                self.transport.stop();
            }
            for thread in threads {
                let ended = thread.join().unwrap_or_else(|_| Err(panicked_outside()));
                result = result.and(ended);
            }
            self.connection.close();
            self.view.news().close();
            result
        })?;
        let agreed = self.connection.limits().is_some();
        Ok(if agreed { Ended::Unmounted } else { Ended::NeverAgreed })
    }

    /// What is due before the first message: a fresh connection ends what an earlier one left, one that was taken over has
    /// its waiting requests sent again.
    fn greet(&self) -> io::Result<()> {
        if self.restarts == 0 {
            let ended = self.view.connected().map_err(|refusal| {
                io::Error::other(format!("cannot end the files of an earlier mount: {refusal:?}"))
            })?;
            if ended > 0 {
                tracing::info!(ended, "ended unlinked files that an earlier mount had open");
            }
        } else {
            self.view.adopt(self.restarts, |node| self.is_held(node))?;
            self.tell_what_was_agreed();
            if self.connection.limits().is_some_and(|limits| limits.takes(&Notice::Resend)) {
                // Whether anything waits or not, the kernel takes it.
                let _ = self.transport.send_notification(&Notice::Resend.message().io_slices())?;
            }
        }
        Ok(())
    }

    /// Whether the kernel holds `node`, of which it is told that its attributes are old.
    fn is_held(&self, node: NodeId) -> io::Result<bool> {
        let told = Notice::InvalInode { node, offset: -1, len: 0 };
        let taken = self.transport.send_notification(&told.message().io_slices())?;
        Ok(taken == Delivery::Taken)
    }

    /// Reader 0: answers INIT, starts the other threads, and reads on.
    fn read_and_start<'scope>(
        &'scope self,
        scope: &'scope Scope<'scope, '_>,
        threads: &mut Vec<ScopedJoinHandle<'scope, io::Result<()>>>,
        ready: impl FnOnce(),
    ) -> io::Result<()> {
        let mut lane = self.device_lane()?;
        let mut work = Work::default();
        // Nothing but INIT comes before it is answered, so nobody else need read until then.
        let limits = loop {
            match self.connection.limits() {
                Some(limits) => break limits,
                None if self.serve_next(&mut lane, &mut work)? => (),
                None => return Ok(()),
            }
        };
        if limits.has(FUSE_OVER_IO_URING) {
            self.start_lanes(scope, threads)?;
        } else if self.ring_only {
            return Err(io::Error::other(
                "the kernel does not offer FUSE over io_uring; it does with \
                 /sys/module/fuse/parameters/enable_uring set to Y before mounting, since Linux 6.14",
            ));
        } else {
            if self.connection.config().io_uring {
                tracing::info!("the kernel does not offer FUSE over io_uring: it is switched off");
            }
            for number in 1..self.readers {
                let name = format!("reader-{number}");
                let read = || self.serve_lane(&mut self.device_lane()?);
                match thread::Builder::new().name(name).spawn_scoped(scope, read) {
                    Ok(thread) => threads.push(thread),
                    // One thread less: the others serve.
                    Err(error) => {
                        tracing::warn!(%error, "serving with fewer readers than asked for");
                    }
                }
            }
            tracing::info!(readers = threads.len() + 1, "requests come over /dev/fuse");
        }
        ready();
        let result = self.serve_lane(&mut lane);
        if limits.has(FUSE_OVER_IO_URING) {
            self.transport.stop();
        }
        result
    }

    /// Starts a thread for each lane of the ring, and waits until the kernel has them all: only then does it
    /// send anything.
    fn start_lanes<'scope>(
        &'scope self,
        scope: &'scope Scope<'scope, '_>,
        threads: &mut Vec<ScopedJoinHandle<'scope, io::Result<()>>>,
    ) -> io::Result<()> {
        let (opened, started) = channel();
        let lanes = self.transport.lanes();
        for number in 0..lanes {
            let opened = opened.clone();
            let serve = move || {
                // However it ends: without this lane its CPU is not served.
                let _all_end = StopAll(self.transport);
                match self.transport.lane(number) {
                    Ok(mut lane) => {
                        drop(opened.send(Ok(())));
                        self.serve_lane(&mut *lane)
                    }
                    Err(error) => {
                        let why = format!("the kernel refused queue {number} of the ring: {error}");
                        drop(opened.send(Err(io::Error::new(error.kind(), why))));
                        Ok(())
                    }
                }
            };
            let name = format!("ring-{number}");
            threads.push(thread::Builder::new().name(name).spawn_scoped(scope, serve)?);
        }
        drop(opened);
        for _ in 0..lanes {
            started.recv().map_err(|_| io::Error::other("a thread of the ring panicked"))??;
        }
        tracing::info!(queues = lanes, "requests come over io_uring");
        Ok(())
    }

    fn device_lane(&self) -> io::Result<DeviceLane<'s>> {
        let config = self.connection.config();
        DeviceLane::new(self.transport, config.buffer_len(), config.data_max())
    }

    /// Serves `lane` until the connection ends. For whoever brings threads and lanes of their own;
    /// [`Server::run`] does it on all there are.
    ///
    /// # Errors
    ///
    /// As [`Lane::receive`].
    pub fn serve_lane(&self, lane: &mut dyn Lane) -> io::Result<()> {
        let mut work = Work::default();
        if let Some(from) = self.splice_from
            && lane.can_splice()
        {
            work.splice_from = from;
        }
        work.turn = lane.turn();
        let _passed_on = work.turn.clone().map(Turn::passed_before_waiting);
        while self.serve_next(lane, &mut work)? {}
        Ok(())
    }

    /// Receives one message and does all that is due for it. Whether another may follow.
    fn serve_next(&self, lane: &mut dyn Lane, work: &mut Work) -> io::Result<bool> {
        let Some(received) = lane.receive()? else { return Ok(false) };
        let Taken { reply, stored, more, open } = self.take(received, work);
        match (reply, stored) {
            (Some(reply), Some(stored)) => self.send_stored(lane, &reply, &stored),
            (Some(reply), None) => send(lane, &reply),
            (None, _) => (),
        }
        if let Some(open) = open {
            self.answered(&open);
        }
        Ok(more)
    }

    /// Sends a reply whose data is in a file of the store: by splice, or copied where that fails.
    fn send_stored(&self, lane: &mut dyn Lane, reply: &Reply<'_>, stored: &Stored<'_>) {
        if let Some(file) = stored.file() {
            match lane.send_spliced(reply, file, stored.offset()) {
                Ok(Delivery::Taken | Delivery::Unwanted) => return,
                // Without memory nothing was taken.
                Err(SpliceError::Io(error)) if error.kind() != io::ErrorKind::OutOfMemory => {
                    tracing::error!(%error, "the kernel refused a reply");
                    return;
                }
                Err(SpliceError::NotSent(error) | SpliceError::Io(error)) => {
                    tracing::trace!(%error, "copied instead");
                }
            }
        }
        match guarded(|| stored.copy()) {
            Ok(Ok(bytes)) => send(lane, &Reply::data(reply.id(), &bytes)),
            Ok(Err(refusal)) => send(lane, &Reply::error(reply.id(), refusal.into())),
            Err(_) => {
                self.counters.panicked();
                send(lane, &Reply::error(reply.id(), Errno::EIO));
            }
        }
    }

    fn tell_what_was_agreed(&self) {
        if let Some(limits) = self.connection.limits() {
            self.view.agreed(limits.has(FUSE_DIRECT_IO_ALLOW_MMAP));
        }
    }

    /// Whether the kernel need not ask `op`, as was agreed on.
    fn refuses(&self, op: &Op<'_>) -> bool {
        let agreed = |flag| self.connection.limits().is_some_and(|limits| limits.has(flag));
        matches!(op, Op::OpenDir(_)) && agreed(FUSE_NO_OPENDIR_SUPPORT)
    }

    /// Does all that is due for one message, but for sending the reply.
    pub fn take<'w>(&self, received: Received<'_>, work: &'w mut Work) -> Taken<'w, 's> {
        let Received { frame, room } = received;
        let action = match frame {
            Frame::Whole(bytes) => self.connection.receive(bytes),
            Frame::Parts { header, args, payload } => {
                self.connection.receive_parts(header, args, payload)
            }
        };
        let (mut stored, mut open) = (None, None);
        let (reply, more) = match action {
            Action::Serve(id, caller, op) => {
                self.counters.request(op.opcode());
                tracing::trace!(id = id.0, pid = caller.pid, operation = op.name(), "asked");
                let lane = *work.lane.get_or_insert_with(|| self.view.meter().lane());
                let since = Instant::now();
                let request = Request {
                    opcode: op.opcode(),
                    node: node_of(&frame),
                    pid: caller.pid,
                    errno: 0,
                };
                self.view.meter().received(lane, since, &request);
                if let Some(turn) = &work.turn {
                    if dispatch::copies_much(&op) {
                        turn.waits();
                    }
                    if dispatch::changes(&op) {
                        turn.excludes();
                    }
                }
                let answer = if self.refuses(&op) {
                    Ok(Reply::error(id, Errno::ENOSYS).into())
                } else {
                    guarded(|| dispatch::answer(self.view, id, caller, &op, room, work))
                };
                let Answer { reply, stored: elsewhere } = answer.unwrap_or_else(|_| {
                    self.counters.panicked();
                    tracing::error!(operation = op.name(), "a handler panicked; answered EIO");
                    Reply::error(id, Errno::EIO).into()
                });
                stored = elsewhere;
                let errno =
                    reply.errno().map_or(0, |errno| u16::try_from(errno.get()).unwrap_or(0));
                if errno != 0 {
                    self.counters.refused();
                }
                let this = Open { lane, since, request: Request { errno, ..request } };
                if stored.is_some() {
                    open = Some(this);
                } else {
                    self.answered(&this);
                }
                (self.connection.finish_with(reply), true)
            }
            Action::Tell(_, op) => {
                self.counters.request(op.opcode());
                tracing::trace!(operation = op.name(), "told");
                if guarded(|| dispatch::tell(self.view, &op)).is_err() {
                    self.counters.panicked();
                    tracing::error!(operation = op.name(), "a handler panicked");
                }
                (None, true)
            }
            Action::Send(reply) => {
                if reply.errno().is_some() {
                    self.counters.malformed();
                }
                // It may be the one to INIT.
                self.tell_what_was_agreed();
                (Some(reply), true)
            }
            Action::SendAndClose(reply) => (Some(reply), false),
            Action::Ignore(error) => {
                if let Some(error) = error {
                    self.counters.malformed();
                    tracing::debug!(%error, "ignored a message");
                }
                (None, true)
            }
            Action::Close => (None, false),
        };
        Taken { reply, stored, more, open }
    }

    fn answered(&self, Open { lane, since, request }: &Open) {
        self.view.meter().answered(*lane, *since, request);
    }

    /// The thread that tells the kernel what changed behind its back, and looks after what the clock alone
    /// brings about.
    fn tell_news(&self) {
        let mut ticked = Instant::now();
        loop {
            let left = TICK.saturating_sub(ticked.elapsed());
            if left.is_zero() {
                ticked = Instant::now();
                // Its panic must not end this thread: nobody else tells the kernel anything.
                if guarded(|| self.view.tick()).is_err() {
                    self.counters.panicked();
                }
                continue;
            }
            let news = match self.view.news().next(left) {
                Next::News(news) => news,
                Next::Stirred => {
                    self.wake();
                    continue;
                }
                Next::Nothing => continue,
                Next::Closed => return,
            };
            let limits = self.connection.limits();
            let expires = limits.is_some_and(|limits| limits.has(FUSE_HAS_EXPIRE_ONLY));
            if let Some(notice) = notice(&news, expires) {
                self.tell(&notice);
            }
            self.view.news().told();
        }
    }

    fn tell(&self, notice: &Notice<'_>) {
        if !self.connection.limits().is_some_and(|limits| limits.takes(notice)) {
            return;
        }
        if let Err(error) = self.transport.send_notification(&notice.message().io_slices()) {
            tracing::debug!(%error, ?notice, "the kernel did not take a notification");
        }
    }

    /// Tells the kernel who polls and has something to read now.
    fn wake(&self) {
        match guarded(|| self.view.woken()) {
            Ok(woken) => woken.into_iter().for_each(|wait| self.tell(&Notice::Poll { wait })),
            Err(_) => self.counters.panicked(),
        }
    }
}

fn panicked_outside() -> io::Error {
    io::Error::other("a thread panicked outside a handler")
}

/// Stops a transport when it goes.
struct StopAll<'t>(&'t dyn Transport);

impl Drop for StopAll<'_> {
    fn drop(&mut self) {
        self.0.stop();
    }
}

fn send(lane: &mut dyn Lane, reply: &Reply<'_>) {
    match lane.send(reply) {
        Ok(Delivery::Taken | Delivery::Unwanted) => (),
        // Without memory nothing was taken, so the request still waits: the least reply there is.
        Err(error) if error.kind() == io::ErrorKind::OutOfMemory => {
            let refusal = Reply::error(reply.id(), Errno::ENOMEM);
            if let Err(error) = lane.send(&refusal) {
                tracing::error!(%error, "a reply was lost");
            }
        }
        Err(error) => tracing::error!(%error, "the kernel refused a reply"),
    }
}

/// Runs a handler, and stops its panic. What one leaves behind are unlocked locks around whole values:
/// no lock here poisons, and the store changes its own state in transactions.
fn guarded<T>(handler: impl FnOnce() -> T) -> thread::Result<T> {
    catch_unwind(AssertUnwindSafe(handler))
}

/// The node a message names, whatever it asks.
fn node_of(frame: &Frame<'_>) -> u64 {
    match frame {
        Frame::Whole(bytes) => message::node_of(bytes),
        Frame::Parts { header, .. } => header.nodeid,
    }
}

/// `expires`: the kernel can ask for a name again without dropping what is below it (since Linux 6.2).
fn notice(news: &News, expires: bool) -> Option<Notice<'_>> {
    Some(match news {
        &News::Attributes(node) => Notice::InvalInode { node, offset: -1, len: 0 },
        &News::Content(node) => Notice::InvalInode { node, offset: 0, len: 0 },
        News::NameAgain { parent, name } if expires => {
            Notice::ExpireEntry { parent: *parent, name: Name::new(name).ok()? }
        }
        News::Name { parent, name } | News::NameAgain { parent, name } => {
            Notice::InvalEntry { parent: *parent, name: Name::new(name).ok()? }
        }
    })
}
