//! receive -> connection -> dispatch -> send, until the connection ends.
//!
//! ```text
//!  reader 1 ---+                                     +--- one thread for news
//!  reader 2 ---+--> Transport, Connection, View <----+
//!  reader n ---+    (shared, each by reference)
//! ```
//!
//! Each reader has its own buffers, takes one message at a time, and sends the reply itself; so no
//! request waits for another, and once running nothing is allocated.
//!
//! Invariants: every request is answered once: by the reader that took it, with EIO if its handler
//! panicked. No reader ever sends a notification. When [`Server::run`] returns, no request is being
//! served any more.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::meter::Request;
use crate::proto::Reply;
use crate::proto::connection::{self, Action, Connection, Limits};
use crate::proto::message;
use crate::proto::notify::Notice;
use crate::proto::types::{Errno, Name};
use crate::transport::{Buffer, Delivery, Frame, Transport};
use crate::view::View;
use crate::view::news::{News, Next};

use super::counters::Counters;
use super::dispatch::{self, Work};

/// How often the view sees to what the clock alone brings about.
const TICK: Duration = Duration::from_secs(1);

/// How to serve.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// What is asked for at INIT.
    pub connection: connection::Config,
    /// How many threads read requests; at least 1.
    pub readers: usize,
}

impl Default for Config {
    fn default() -> Self {
        let connection =
            connection::Config { security_context: true, ..connection::Config::default() };
        Self { connection, readers: 2 }
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
    counters: Counters,
    readers: usize,
    ready: Mutex<Option<Box<dyn FnOnce() + Send + 's>>>,
    /// How many processes served this connection before; 0: it is a fresh one.
    restarts: u16,
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
            connection: Connection::new(config.connection),
            counters: Counters::default(),
            readers: config.readers.max(1),
            ready: Mutex::new(None),
            restarts: 0,
        }
    }

    /// A server that goes on with a connection whose server died, on `/dev/fuse`: the ring takes its requests
    /// with it. `view` must be of the store that the other served, opened again. What was not answered is
    /// sent again by the kernel, and what of it is in the log is answered from there, not done a second time.
    ///
    /// Nodes below `history/` are stale afterwards, and files without a name are ended by the next mount only.
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
    pub const fn counters(&self) -> &Counters {
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
    pub fn run(&self, ready: impl FnOnce() + Send + 's) -> io::Result<Ended> {
        *self.ready.lock() = Some(Box::new(ready));
        if self.restarts == 0 {
            let ended = self.view.connected().map_err(|refusal| {
                io::Error::other(format!("cannot end the files of an earlier mount: {refusal:?}"))
            })?;
            if ended > 0 {
                tracing::info!(ended, "ended unlinked files that an earlier mount had open");
            }
        } else {
            self.view.adopt(self.restarts);
            if self.connection.limits().is_some_and(|limits| limits.takes(&Notice::Resend)) {
                // Whether anything waits or not, the kernel takes it.
                let _ = self.transport.send_notification(&Notice::Resend.message().io_slices())?;
            }
            self.is_ready();
        }
        let result = thread::scope(|scope| {
            let news = thread::Builder::new()
                .name("news".to_owned())
                .spawn_scoped(scope, || self.tell_news());
            let more: Vec<_> = (1..self.readers)
                .map(|number| {
                    thread::Builder::new()
                        .name(format!("reader-{number}"))
                        .spawn_scoped(scope, || self.read())
                })
                .collect();
            let mut result = self.read();
            for reader in more {
                let ended = match reader.map(thread::ScopedJoinHandle::join) {
                    Ok(Ok(ended)) => ended,
                    Ok(Err(_)) => Err(io::Error::other("a reader panicked outside a handler")),
                    // One thread less: the others have served.
                    Err(error) => {
                        tracing::warn!(%error, "served with fewer readers than asked for");
                        Ok(())
                    }
                };
                result = result.and(ended);
            }
            self.connection.close();
            self.view.news().close();
            match news {
                Ok(_) => result,
                Err(error) => result.and(Err(error)),
            }
        });
        result?;
        let agreed = self.connection.limits().is_some();
        Ok(if agreed { Ended::Unmounted } else { Ended::NeverAgreed })
    }

    /// Room for what the connection may answer at most.
    #[must_use]
    pub fn work(&self) -> Work {
        let config = self.connection.config();
        // Requests are as long as pages for `max_write` bytes; 32 pages where their number was not agreed on.
        let pages =
            config.max_write.max(32 * config.page_size).next_multiple_of(config.page_size.max(1));
        Work::for_replies(usize::try_from(pages).unwrap_or(usize::MAX))
    }

    /// One reader.
    fn read(&self) -> io::Result<()> {
        let config = self.connection.config();
        let room = u32::try_from(config.buffer_len()).map_or(config.max_write, |len| len);
        let mut buffer = Buffer::for_writes(room)?;
        let mut work = self.work();
        while let Some(frame) = self.transport.receive(&mut buffer)? {
            if !self.take(&frame, &mut work) {
                break;
            }
        }
        Ok(())
    }

    /// Does all that is due for one message. Returns whether another may follow.
    pub fn take(&self, frame: &Frame<'_>, work: &mut Work) -> bool {
        let action = match *frame {
            Frame::Whole(bytes) => self.connection.receive(bytes),
            Frame::Parts { header, args, payload } => {
                self.connection.receive_parts(header, args, payload)
            }
        };
        match action {
            Action::Serve(id, caller, op) => {
                self.counters.request(op.opcode());
                tracing::trace!(id = id.0, pid = caller.pid, operation = op.name(), "asked");
                let since = Instant::now();
                let request = Request {
                    opcode: op.opcode(),
                    node: node_of(frame),
                    pid: caller.pid,
                    errno: 0,
                };
                let answer = guarded(|| dispatch::answer(self.view, id, caller, &op, work));
                let reply = answer.unwrap_or_else(|_| {
                    self.counters.panicked();
                    tracing::error!(operation = op.name(), "a handler panicked; answered EIO");
                    Reply::error(id, Errno::EIO)
                });
                let errno =
                    reply.errno().map_or(0, |errno| u16::try_from(errno.get()).unwrap_or(0));
                if errno != 0 {
                    self.counters.refused();
                }
                if let Some(reply) = self.connection.finish_with(reply) {
                    self.send(&reply);
                }
                let lane = *work.lane.get_or_insert_with(|| self.view.meter().lane());
                self.view.meter().answered(lane, since, &Request { errno, ..request });
            }
            Action::Tell(_, op) => {
                self.counters.request(op.opcode());
                if guarded(|| dispatch::tell(self.view, &op)).is_err() {
                    self.counters.panicked();
                    tracing::error!(operation = op.name(), "a handler panicked");
                }
            }
            Action::Send(reply) => {
                if reply.errno().is_some() {
                    self.counters.malformed();
                }
                self.send(&reply);
                if self.connection.limits().is_some() {
                    self.is_ready();
                }
            }
            Action::SendAndClose(reply) => {
                self.send(&reply);
                return false;
            }
            Action::Ignore(error) => {
                if let Some(error) = error {
                    self.counters.malformed();
                    tracing::debug!(%error, "ignored a message");
                }
            }
            Action::Close => return false,
        }
        true
    }

    fn is_ready(&self) {
        // Taken out of the lock first: what is called may take its time.
        let ready = self.ready.lock().take();
        if let Some(ready) = ready {
            ready();
        }
    }

    fn send(&self, reply: &Reply<'_>) {
        match self.transport.send(reply) {
            Ok(Delivery::Taken | Delivery::Unwanted) => (),
            // Without memory nothing was taken, so the request still waits: the least reply there is.
            Err(error) if error.kind() == io::ErrorKind::OutOfMemory => {
                let refusal = Reply::error(reply.id(), Errno::ENOMEM);
                if let Err(error) = self.transport.send(&refusal) {
                    tracing::error!(%error, "a reply was lost");
                }
            }
            Err(error) => tracing::error!(%error, "the kernel refused a reply"),
        }
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
            if let Some(notice) = notice(&news) {
                self.tell(&notice);
            }
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

fn notice(news: &News) -> Option<Notice<'_>> {
    Some(match news {
        &News::Attributes(node) => Notice::InvalInode { node, offset: -1, len: 0 },
        &News::Content(node) => Notice::InvalInode { node, offset: 0, len: 0 },
        News::Name { parent, name } => {
            Notice::InvalEntry { parent: *parent, name: Name::new(name).ok()? }
        }
    })
}
