//! A pipe that carries the data of a READ from the store's file to the kernel, without a copy by way of our memory.

use std::io::{self, IoSliceMut};
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::io::{Errno, ReadWriteFlags};
use rustix::pipe::{PipeFlags, SpliceFlags};

use crate::proto::Reply;
use crate::sys::blocking;
use crate::sys::pages::PAGE;

/// A pipe of one thread, through which [`send_filled`](super::Transport::send_filled) hands pages to the kernel.
///
/// Between two replies it is empty, or known not to be.
///
/// What is in the pipe are references to pages of the file, not copies: a hole punched into the file
/// now would have its zeros read from the pipe. So whoever fills it keeps the file as it is until
/// [`send_filled`](super::Transport::send_filled) has returned. From then on nothing refers to those pages: without
/// `SPLICE_F_MOVE` the kernel copies them into the reply (`fuse_copy_folio`), once instead of twice,
/// and a hole punched later changes nothing of what was read.
///
/// `SPLICE_F_MOVE` would take pages out of the file's cache instead (`fuse_try_move_folio`). It waits
/// for each that is being written to the disk, and moves none that belongs to a large folio, as nearly
/// all do on ext4 and XFS: of 256 MiB read, 1 MiB moved. What it would move, whoever reads the same
/// bytes next (through `history/`, say) would read from the disk again. Made to read single pages
/// (`POSIX_FADV_RANDOM`), with what follows asked for ahead, it moves them; but reading those takes longer than the
/// copy did: with nothing cached 2.5 to 4.3 times as long, and read again from then on 1.3 to 1.7.
#[derive(Debug)]
pub struct SplicePipe {
    reader: OwnedFd,
    writer: OwnedFd,
    pages: usize,
    /// How long the reply is that it was filled with last.
    filled: usize,
    /// Something of a reply may still be in it.
    dirty: bool,
}

impl SplicePipe {
    /// Makes a pipe for replies with up to `bytes` of data, or as large as this user may have
    /// (`/proc/sys/fs/pipe-max-size`, 1 MiB unless changed).
    ///
    /// # Errors
    ///
    /// `EMFILE` or `ENFILE` of `pipe2(2)`.
    pub fn for_data(bytes: usize) -> io::Result<Self> {
        let (reader, writer) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        // One page more for the head, and one for data that does not start at a page boundary.
        let wanted = bytes.div_ceil(PAGE).saturating_add(2).saturating_mul(PAGE);
        for size in [wanted, 1 << 20, 1 << 18] {
            if size <= wanted.next_power_of_two()
                && rustix::pipe::fcntl_setpipe_size(&writer, size).is_ok()
            {
                break;
            }
        }
        let pages = rustix::pipe::fcntl_getpipe_size(&writer)? / PAGE;
        Ok(Self { reader, writer, pages, filled: 0, dirty: false })
    }

    /// The most bytes of data of one reply, wherever in a file they start.
    #[must_use]
    pub const fn data_max(&self) -> usize {
        self.pages.saturating_sub(2) * PAGE
    }

    /// Puts `reply`, made by [`Reply::data_elsewhere`], into the pipe, with its data from `offset` on in `file`.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::Unsupported`] if there is more data than [`data_max`](Self::data_max),
    /// [`io::ErrorKind::UnexpectedEof`] if the file ends early, or whatever `splice(2)` says of the file.
    pub fn fill(&mut self, reply: &Reply<'_>, file: BorrowedFd<'_>, offset: u64) -> io::Result<()> {
        if reply.elsewhere() > self.data_max() {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "the pipe is too small"));
        }
        self.drain()?;
        // Of one that is there at both ends what is between is there too, nearly always.
        let last = offset.saturating_add((reply.elsewhere() as u64).saturating_sub(1));
        if !is_in_memory(file, offset) || !is_in_memory(file, last) {
            blocking::about_to_wait();
        }
        (self.dirty, self.filled) = (true, reply.len());
        rustix::io::write(&self.writer, reply.head())?;
        let (mut at, mut missing) = (offset, reply.elsewhere());
        while missing > 0 {
            let flags = SpliceFlags::NONBLOCK;
            match rustix::pipe::splice(file, Some(&mut at), &self.writer, None, missing, flags) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(moved) => missing = missing.saturating_sub(moved),
                Err(Errno::INTR) => (),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Hands the reply that it was filled with to `device`, whole or not at all. How many bytes that were.
    pub(super) fn hand_to(&mut self, device: BorrowedFd<'_>) -> rustix::io::Result<usize> {
        // Not `MOVE`: see above.
        let flags = SpliceFlags::empty();
        let moved = rustix::pipe::splice(&self.reader, None, device, None, self.filled, flags)?;
        self.dirty = false;
        Ok(moved)
    }

    /// Takes out the reply that it was filled with, for a transport without a kernel.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::UnexpectedEof`] if it was not filled.
    pub(super) fn take(&mut self) -> io::Result<Vec<u8>> {
        let mut whole = vec![0; self.filled];
        let mut at = 0;
        while let Some(rest) = whole.get_mut(at..).filter(|rest| !rest.is_empty()) {
            match rustix::io::read(&self.reader, rest) {
                Ok(len @ 1..) => at += len,
                Err(Errno::INTR) => (),
                Ok(0) | Err(Errno::AGAIN) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Err(error) => return Err(error.into()),
            }
        }
        self.dirty = false;
        Ok(whole)
    }

    /// Empties the pipe of what a failed reply left.
    fn drain(&mut self) -> io::Result<()> {
        let mut rest = [0_u8; PAGE];
        while self.dirty {
            match rustix::io::read(&self.reader, &mut rest) {
                Ok(1..) | Err(Errno::INTR) => (),
                Ok(0) | Err(Errno::AGAIN) => self.dirty = false,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

/// Whether reading the byte at `offset` waits for no disk.
fn is_in_memory(file: BorrowedFd<'_>, offset: u64) -> bool {
    let mut byte = [0];
    let read = rustix::io::preadv2(
        file,
        &mut [IoSliceMut::new(&mut byte)],
        offset,
        ReadWriteFlags::NOWAIT,
    );
    // A filesystem that cannot tell is not asked for more.
    read != Err(Errno::AGAIN)
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::fd::AsFd;

    use super::*;
    use crate::proto::types::RequestId;

    #[test]
    fn a_spliced_reply_is_its_head_and_the_bytes_of_the_file() {
        let mut file = tempfile::tempfile().unwrap();
        let content: Vec<u8> = (0..100_000_u32).map(|n| n.to_le_bytes()[0]).collect();
        file.write_all(&content).unwrap();
        let mut pipe = SplicePipe::for_data(65_536).unwrap();
        for (offset, len) in [(0, 65_536), (4096, 10), (4097, 65_536), (99_999, 1)] {
            let reply = Reply::data_elsewhere(RequestId(8), len);
            pipe.fill(&reply, file.as_fd(), offset).unwrap();
            let sent = pipe.take().unwrap();
            assert_eq!(sent.len(), 16 + len);
            let from = usize::try_from(offset).unwrap();
            assert!(sent[16..] == content[from..from + len], "{offset} {len}");
        }
    }

    #[test]
    fn a_file_that_ends_early_leaves_the_pipe_fit_for_the_next_reply() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"short").unwrap();
        let mut pipe = SplicePipe::for_data(65_536).unwrap();
        let too_long = Reply::data_elsewhere(RequestId(8), 6);
        let error = pipe.fill(&too_long, file.as_fd(), 0).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        let reply = Reply::data_elsewhere(RequestId(8), 5);
        pipe.fill(&reply, file.as_fd(), 0).unwrap();
        assert_eq!(&pipe.take().unwrap()[16..], b"short");
        assert_eq!(rustix::io::read(&pipe.reader, &mut [0; 64]).unwrap_err(), Errno::AGAIN);
    }

    #[test]
    fn more_than_a_pipe_holds_is_left_to_the_caller() {
        let file = tempfile::tempfile().unwrap();
        let mut pipe = SplicePipe::for_data(4096).unwrap();
        let reply = Reply::data_elsewhere(RequestId(8), pipe.data_max() + 1);
        let error = pipe.fill(&reply, file.as_fd(), 0).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::Unsupported);
    }
}
