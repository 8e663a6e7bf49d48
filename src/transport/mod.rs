//! Carries whole messages between the kernel and the server, never reads them.
//!
//! ```text
//!  kernel --- receive ---> Frame ------------------------> the server's reader thread
//!  kernel <-- send, send_spliced ---- Reply -------------- the same thread, or a later one
//!  kernel <-- send_notification ----- chunks ------------- the server's notification thread
//! ```
//!
//! [`Transport`] is the contract; [`dev_fuse`] keeps it over `/dev/fuse`, [`memory`] without a
//! kernel. How a connection comes to be is in [`mount`], and in [`namespace`] for a private one;
//! how it ends in [`unmount`].
//!
//! Invariants: a message is received whole or not at all, and by one reader; a reply is taken whole
//! or not at all. A transport is shared by all threads as `&dyn Transport`, each with a [`Buffer`]
//! of its own.

pub mod dev_fuse;
pub mod device;
pub mod fusermount;
pub mod memory;
pub mod mount;
pub mod mount_table;
pub mod mount_users;
pub mod namespace;
pub mod unmount;

use std::io::{self, IoSlice};
use std::os::fd::BorrowedFd;

use crate::proto::Reply;
use crate::proto::abi::{FUSE_MIN_READ_BUFFER, fuse_in_header, fuse_write_in};
use crate::sys::pages::PageBuffer;
pub use dev_fuse::SplicePipe;

/// Where one reader receives its messages.
#[derive(Debug)]
pub struct Buffer {
    pages: PageBuffer,
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
        Ok(Self { pages: PageBuffer::with_at_least(bytes.max(Self::LEAST))? })
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

    /// Whether [`Transport::send_spliced`] works here.
    fn can_splice(&self) -> bool {
        false
    }

    /// Sends a reply made by [`Reply::data_elsewhere`], whose data is in `file` from `offset` on. That
    /// range must stay as it is until this returns; afterwards it may change.
    ///
    /// # Errors
    ///
    /// [`SpliceError::NotSent`] if the request still waits for its reply,
    /// [`SpliceError::Io`] as [`Transport::send`].
    fn send_spliced(
        &self,
        reply: &Reply<'_>,
        file: BorrowedFd<'_>,
        offset: u64,
        pipe: &mut SplicePipe,
    ) -> Result<Delivery, SpliceError> {
        let _ = (reply, file, offset, pipe);
        Err(SpliceError::NotSent(io::ErrorKind::Unsupported.into()))
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
