//! Carries whole messages between the kernel and the server, and reads no more of them than who asks.
//!
//! ```text
//!  kernel --- receive ---> Frame, and room for an answer --> the thread that has the Lane
//!  kernel <------------------------- send Reply ------------ the same thread, before it receives again
//!  kernel <---------------- send_notification -------------- the server's notification thread
//! ```
//!
//! A [`Lane`] is what one thread serves: [`DeviceLane`] takes turns with others at a [`Transport`] where one
//! read is one message, [`uring`] has one for each CPU. [`Transport`] is the contract of a connection;
//! [`dev_fuse`] keeps it over `/dev/fuse`, [`uring`] over the ring with `/dev/fuse` beside it, [`memory`]
//! without a kernel. How a connection comes to be is in [`mount`], and in [`namespace`] for a private one;
//! how it ends in [`unmount`].
//!
//! Invariants: a message is received whole or not at all, and by one reader; a reply is taken whole
//! or not at all. A transport is shared by all threads as `&dyn Transport`, each with a [`Lane`] of its own,
//! which answers one message before it receives the next.

pub mod dev_fuse;
pub mod device;
pub mod fusermount;
pub mod memory;
pub mod mount;
pub mod mount_table;
pub mod mount_users;
pub mod namespace;
pub mod recording;
mod splice;
pub mod turns;
pub mod unmount;
pub mod uring;
mod waiting;

use std::io::{self, IoSlice};
use std::os::fd::BorrowedFd;

use crate::proto::Reply;
use crate::proto::abi::{FUSE_MIN_READ_BUFFER, fuse_in_header, fuse_write_in};
use crate::sys::pages::PageBuffer;
pub use splice::SplicePipe;
use turns::{ReaderId, Turn};
pub use waiting::Wait;

/// Where one reader receives its messages.
#[derive(Debug)]
pub struct Buffer {
    pages: PageBuffer,
    reader: ReaderId,
}

impl Buffer {
    /// The least a buffer has, in bytes, as the kernel demands.
    pub const LEAST: usize = FUSE_MIN_READ_BUFFER;

    /// Makes a buffer for WRITE requests of up to `max_write` bytes, page-aligned.
    ///
    /// Memory that no message reached costs nothing.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::OutOfMemory`].
    pub fn for_writes(max_write: u32) -> io::Result<Self> {
        let overhead = size_of::<fuse_in_header>() + size_of::<fuse_write_in>();
        let payload = usize::try_from(max_write).map_err(|_| io::ErrorKind::OutOfMemory)?;
        let bytes = payload.checked_add(overhead).ok_or(io::ErrorKind::OutOfMemory)?;
        let pages = PageBuffer::with_at_least(bytes.max(Self::LEAST))?;
        Ok(Self { pages, reader: ReaderId::new() })
    }

    /// Whose it is.
    #[must_use]
    pub const fn reader(&self) -> ReaderId {
        self.reader
    }

    /// All of it, for a transport to receive into.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        self.pages.bytes_mut()
    }
}

/// One message, not yet looked at.
#[derive(Clone, Copy, Debug)]
pub enum Frame<'b> {
    /// In one piece, for [`Message::split`](crate::proto::Message::split).
    Whole(&'b [u8]),
    /// In the three pieces in which a ring delivers it, for
    /// [`Message::from_parts`](crate::proto::Message::from_parts).
    Parts {
        /// The header.
        header: fuse_in_header,
        /// The area for the operation's fixed part, which may be longer than that.
        args: &'b [u8],
        /// Exactly what comes after the fixed part.
        payload: &'b [u8],
    },
}

/// What became of a reply or a notification.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[must_use]
pub enum Delivery {
    /// The kernel took it.
    Taken,
    /// Nobody waits for it any more. For a reply: the caller was killed or the connection ended.
    /// For a notification: the kernel does not hold the inode or name it is about. Both are usual.
    Unwanted,
}

/// One message, and where its answer may be put.
#[derive(Debug)]
pub struct Received<'l> {
    /// The message.
    pub frame: Frame<'l>,
    /// Room for the data of a reply made by [`Reply::data_in_room`]; all that may be asked for fits. On the
    /// ring this is where the kernel looks for it, so nothing is copied.
    pub room: &'l mut [u8],
}

/// What one thread receives messages by, and answers them.
pub trait Lane {
    /// Waits for the next message. `None` once the connection has ended, or was [stopped](Transport::stop).
    ///
    /// A request that was received before and never answered may be answered with EIO now.
    ///
    /// # Errors
    ///
    /// As [`Transport::receive`].
    fn receive(&mut self) -> io::Result<Option<Received<'_>>>;

    /// Answers the request that was received last.
    ///
    /// # Errors
    ///
    /// As [`Transport::send`].
    fn send(&mut self, reply: &Reply<'_>) -> io::Result<Delivery>;

    /// The turn of this thread, where it takes turns with others to receive.
    fn turn(&self) -> Option<Turn> {
        None
    }

    /// Whether [`Lane::send_spliced`] works here.
    fn can_splice(&self) -> bool {
        false
    }

    /// Answers the request that was received last with a reply made by [`Reply::data_elsewhere`], whose data is in
    /// `file` from `offset` on. That range must stay as it is until this returns; afterwards it may change.
    ///
    /// # Errors
    ///
    /// [`SpliceError::NotSent`] if the request still waits for its reply, [`SpliceError::Io`] as [`Transport::send`].
    fn send_spliced(
        &mut self,
        reply: &Reply<'_>,
        file: BorrowedFd<'_>,
        offset: u64,
    ) -> Result<Delivery, SpliceError> {
        let _ = (reply, file, offset);
        Err(SpliceError::NotSent(io::ErrorKind::Unsupported.into()))
    }
}

/// One of any number of readers of a [`Transport`], with buffers of its own.
pub struct DeviceLane<'t> {
    transport: &'t dyn Transport,
    buffer: Buffer,
    /// At a page boundary, where content begins in the store's files and in the kernel's pages too. Some processors
    /// copy slowly from one offset in a page to one a little above it, such as an allocator gives (AMD EPYC, `rep movsb`:
    /// `pread` of 4 KiB took 2.0 us with the room 16 bytes behind a boundary, and takes 0.6).
    room: PageBuffer,
    /// What spliced replies go through; `None` where none is spliced.
    pipe: Option<SplicePipe>,
}

impl<'t> DeviceLane<'t> {
    /// Makes a lane for messages of up to `message_max` bytes, and replies with up to `data_max` bytes of data.
    ///
    /// Memory that no message and no reply reached costs nothing.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::OutOfMemory`].
    pub fn new(
        transport: &'t dyn Transport,
        message_max: usize,
        data_max: usize,
    ) -> io::Result<Self> {
        let message_max = u32::try_from(message_max).map_err(|_| io::ErrorKind::OutOfMemory)?;
        let buffer = Buffer::for_writes(message_max)?;
        // Without one every reply is copied.
        let pipe = transport.can_splice().then(|| SplicePipe::for_data(data_max).ok()).flatten();
        Ok(Self { transport, buffer, room: PageBuffer::with_at_least(data_max)?, pipe })
    }
}

impl Drop for DeviceLane<'_> {
    fn drop(&mut self) {
        if let Some(turn) = self.turn() {
            turn.pass();
        }
    }
}

impl Lane for DeviceLane<'_> {
    fn receive(&mut self) -> io::Result<Option<Received<'_>>> {
        let Self { transport, buffer, room, .. } = self;
        let room = room.bytes_mut();
        Ok(transport.receive(buffer)?.map(|frame| Received { frame, room }))
    }

    fn send(&mut self, reply: &Reply<'_>) -> io::Result<Delivery> {
        self.transport.answers(self.buffer.reader());
        match reply.in_room() {
            None => self.transport.send(reply),
            Some(_) => self.transport.send(&reply.out_of(self.room.bytes())),
        }
    }

    fn turn(&self) -> Option<Turn> {
        self.transport.turn(self.buffer.reader())
    }

    fn can_splice(&self) -> bool {
        self.pipe.is_some()
    }

    fn send_spliced(
        &mut self,
        reply: &Reply<'_>,
        file: BorrowedFd<'_>,
        offset: u64,
    ) -> Result<Delivery, SpliceError> {
        let Some(pipe) = &mut self.pipe else {
            return Err(SpliceError::NotSent(io::ErrorKind::Unsupported.into()));
        };
        pipe.fill(reply, file, offset).map_err(SpliceError::NotSent)?;
        // Not before the data is there: the disk was waited for.
        self.transport.answers(self.buffer.reader());
        self.transport.send_filled(pipe).map_err(SpliceError::Io)
    }
}

/// Carries messages of one connection.
pub trait Transport: Send + Sync {
    /// Waits for the next message and puts it into `buffer`. `None` once the connection has
    /// ended, unmounted or aborted: then every reader gets `None`, and no reply is due any more.
    ///
    /// # Errors
    ///
    /// Only what a reader cannot go on after, such as `EPERM` for a device that is not mounted, or
    /// `EINVAL` for a buffer smaller than the `max_write` of INIT asks for.
    fn receive<'b>(&self, buffer: &'b mut Buffer) -> io::Result<Option<Frame<'b>>>;

    /// `reader` is about to answer what it received last, where readers take turns to receive.
    fn answers(&self, reader: ReaderId) {
        let _ = reader;
    }

    /// The turn of `reader`, where readers take turns to receive.
    fn turn(&self, reader: ReaderId) -> Option<Turn> {
        let _ = reader;
        None
    }

    /// Sends a reply whose data is all in memory.
    ///
    /// # Errors
    ///
    /// `EINVAL` if the reply is not what the kernel expects for its request (the caller then gets
    /// EIO); `ENOMEM` if the kernel has no memory to take it, in which case nothing was taken.
    fn send(&self, reply: &Reply<'_>) -> io::Result<Delivery>;

    /// Sends a notification: header, fixed part and data, in `chunks`.
    ///
    /// Never to be called by a thread that must answer requests, nor while holding a lock one of
    /// them needs: the kernel may wait for a reply before it returns.
    ///
    /// # Errors
    ///
    /// Whatever the kernel says of a code it does not know (`EINVAL`) or a directory entry in use
    /// (`ENOTEMPTY`, `EBUSY`).
    fn send_notification(&self, chunks: &[IoSlice<'_>]) -> io::Result<Delivery>;

    /// How many lanes there are beside the device, each to be served by a thread of its own once INIT has
    /// agreed on the ring.
    fn lanes(&self) -> usize {
        0
    }

    /// The lane with that number, for the thread that calls, which is the one to serve it.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::NotFound`] if there is none or it was taken; why the kernel refuses it otherwise.
    fn lane(&self, number: usize) -> io::Result<Box<dyn Lane + '_>> {
        let _ = number;
        Err(io::ErrorKind::NotFound.into())
    }

    /// Makes every lane, and everybody who receives, come back with `None`, where that is possible. For a
    /// server whose lane broke: nobody else can serve it, so all must end.
    fn stop(&self) {}

    /// Whether [`Transport::send_filled`] works here.
    fn can_splice(&self) -> bool {
        false
    }

    /// Sends the reply that `pipe` was [filled](SplicePipe::fill) with. What it was filled from must stay as it is until
    /// this returns; afterwards it may change.
    ///
    /// # Errors
    ///
    /// As [`Transport::send`].
    fn send_filled(&self, pipe: &mut SplicePipe) -> io::Result<Delivery> {
        let _ = pipe;
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// Why a reply was not sent by splice.
#[derive(Debug)]
pub enum SpliceError {
    /// The data could not be had this way: the file ends early, its filesystem cannot splice, or
    /// the pipe is too small. The request still waits: answer it with [`Transport::send`].
    NotSent(io::Error),
    /// The kernel was given the reply and refused it, as [`Transport::send`] says.
    Io(io::Error),
}
