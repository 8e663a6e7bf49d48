//! `/dev/fuse`: one `read(2)` is one message, one `writev(2)` is one reply.
//!
//! What the kernel's errors mean (`fuse_dev_do_read`, `fuse_dev_do_write` of `fs/fuse/dev.c`):
//!
//! | call | errno | meaning | answer |
//! |---|---|---|---|
//! | read | `ENOENT` | the request was aborted while it was copied | read again |
//! | read | `EINTR` | a signal | read again |
//! | read | `EAGAIN` | nothing there; the device never blocks | look for a while, sleep in poll(2), read again |
//! | read | `ENODEV` | unmounted, or the connection was aborted | the end |
//! | read | `ECONNABORTED` | aborted by hand, where INIT asked to be told | the end |
//! | read | `EPERM` | the device belongs to no mount | error |
//! | read | `EINVAL` | the buffer is smaller than `max_write` and a header | error |
//! | write | `ENOENT` | nobody waits for it; the kernel does not hold what is to be invalidated | unwanted |
//! | write | `ENODEV` | unmounted or aborted | unwanted |
//! | write | `EINTR`, `EAGAIN` | nothing was taken | write again |
//! | write | `EINVAL` | not a reply the kernel expects | error |
//!
//! Invariants: every reader and every sender uses the one descriptor. A request belongs to the
//! descriptor it was read from, and closing that while the request waits gives its caller
//! `ECONNABORTED`. One reader at a time receives, and helpers where requests come faster than it takes them, see
//! [`turns`](super::turns). It alone waits: several would take the CPUs that their callers need, or be woken in vain.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::OFlags;
use rustix::io::{Errno, ReadWriteFlags};
use rustix::pipe::{PipeFlags, SpliceFlags};

use super::turns::{ReaderId, Role, Turn, Turns};
use super::waiting::{Courtesy, Habit, Luck, Reach};
use super::{Buffer, Delivery, Frame, Transport};
use crate::proto::Reply;
use crate::sys::blocking;
use crate::sys::pages::PAGE;

/// How a reader waits for a request.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Wait {
    /// Sleeps in `poll(2)`.
    #[default]
    Block,
    /// Looks for so long first, then sleeps in `poll(2)`; sleeps at once where looking was in vain lately, or where callers
    /// come back sooner so.
    ///
    /// A caller that comes back at once is answered without waking anybody: on two idle CPUs a round trip falls from
    /// about 45 us to 14 us with 20 us of looking. Between two looks the CPU is given to whoever else has something to
    /// do on it, since that may be the caller. Where most come a little later than so long it looks for three times as
    /// long. At rest no CPU is used.
    Spin(Duration),
}

/// How many chunks of a reply go to the kernel without a copy.
const CHUNKS: usize = 64;

/// A connection over `/dev/fuse`.
#[derive(Debug)]
pub struct DevFuse {
    device: OwnedFd,
    wait: Wait,
    turns: Arc<Turns>,
    habit: Mutex<Habit>,
    luck: Luck,
    reach: Reach,
    courtesy: Courtesy,
    /// Readable once nothing more is to be received.
    stop: Option<OwnedFd>,
}

/// What a reader came back with from the device.
enum Read {
    /// A message of so many bytes.
    Message(usize),
    /// There is nothing.
    Nothing,
    /// The connection has ended.
    End,
}

impl DevFuse {
    /// Takes over a device that is mounted. Whoever else has it open finds that it does not block.
    ///
    /// # Errors
    ///
    /// Whatever `fcntl(2)` says.
    pub fn new(device: OwnedFd, wait: Wait) -> io::Result<Self> {
        let flags = rustix::fs::fcntl_getfl(&device)?;
        rustix::fs::fcntl_setfl(&device, flags | OFlags::NONBLOCK)?;
        Ok(Self {
            device,
            wait,
            turns: Arc::new(Turns::of_this_machine()),
            habit: Mutex::default(),
            luck: Luck::default(),
            reach: Reach::default(),
            courtesy: Courtesy::default(),
            stop: None,
        })
    }

    /// As [`DevFuse::new`], for a device whose readers also end once `stop` is readable.
    ///
    /// # Errors
    ///
    /// Whatever `fcntl(2)` says.
    pub fn with_stop(device: OwnedFd, wait: Wait, stop: OwnedFd) -> io::Result<Self> {
        Ok(Self { stop: Some(stop), ..Self::new(device, wait)? })
    }

    /// Whether there is something to read, at once.
    fn is_ready(&self) -> bool {
        let mut device = [PollFd::new(&self.device, PollFlags::IN)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        matches!(rustix::event::poll(&mut device, Some(&now)), Ok(1..))
    }

    /// Waits until there is something to read, or at once if the connection has ended. Whether anything is
    /// to be received at all.
    fn sleep(&self) -> io::Result<bool> {
        let device = PollFd::new(&self.device, PollFlags::IN);
        let stop = PollFd::new(self.stop.as_ref().unwrap_or(&self.device), PollFlags::IN);
        let mut both = [device, stop];
        let (descriptors, _) = both.split_at_mut(if self.stop.is_some() { 2 } else { 1 });
        match rustix::event::poll(descriptors, None) {
            Ok(_) => {
                let [_, stop] = both;
                Ok(self.stop.is_none() || !stop.revents().contains(PollFlags::IN))
            }
            Err(Errno::INTR) => Ok(true),
            Err(error) => Err(error.into()),
        }
    }

    /// What is there at once.
    fn read(&self, bytes: &mut [u8]) -> io::Result<Read> {
        loop {
            match rustix::io::read(&self.device, &mut *bytes) {
                Ok(length) => return Ok(Read::Message(length)),
                Err(Errno::AGAIN) => return Ok(Read::Nothing),
                // Aborted before it reached us, or a signal: there is no request to answer.
                Err(Errno::NOENT | Errno::INTR) => (),
                // Unmounted or aborted: the connection ended.
                Err(Errno::NODEV | Errno::CONNABORTED) => return Ok(Read::End),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// What comes next, for the holder of the turn.
    fn wait_for(&self, reader: ReaderId, bytes: &mut [u8]) -> io::Result<Read> {
        let sleeps = self.wait != Wait::Block && self.habit.lock().sleeps();
        let mut looks = match self.wait {
            Wait::Spin(time) if !sleeps && self.luck.tries() => Some(self.reach.of(time)),
            _ => None,
        };
        let mut gives_way = looks.is_some() && self.courtesy.is_due();
        let mut since = None;
        loop {
            match self.read(bytes)? {
                Read::Message(length) => {
                    if looks.is_some() {
                        self.luck.tried(true);
                    }
                    if let Wait::Spin(time) = self.wait {
                        let now = Instant::now();
                        let after = since.map_or(Duration::ZERO, |begun| now.duration_since(begun));
                        self.reach.came(after, time);
                        self.habit.lock().received(now);
                    }
                    self.turns.serves(reader, since.is_none());
                    return Ok(Read::Message(length));
                }
                Read::End => return Ok(Read::End),
                Read::Nothing => {
                    let now = Instant::now();
                    let begun: Instant = *since.get_or_insert(now);
                    match looks {
                        Some(time) if now.duration_since(begun) < time && gives_way => {
                            gives_way = self.courtesy.give_way(now);
                        }
                        Some(time) if now.duration_since(begun) < time => std::hint::spin_loop(),
                        _ => {
                            if looks.take().is_some() {
                                self.luck.tried(false);
                            }
                            if !self.sleep()? {
                                return Ok(Read::End);
                            }
                        }
                    }
                }
            }
        }
    }

    /// What comes within the time that a reader looks for it, for a helper.
    fn look_for(&self, reader: ReaderId, bytes: &mut [u8]) -> io::Result<Read> {
        let mut since = None;
        loop {
            let read = self.read(bytes)?;
            match (&read, self.wait) {
                (Read::Message(_), _) => self.turns.serves(reader, since.is_none()),
                (Read::Nothing, Wait::Spin(time)) => {
                    let now = Instant::now();
                    if now.duration_since(*since.get_or_insert(now)) < time {
                        rustix::thread::sched_yield();
                        continue;
                    }
                }
                (Read::Nothing, Wait::Block) | (Read::End, _) => (),
            }
            return Ok(read);
        }
    }

    fn write(&self, chunks: &[IoSlice<'_>]) -> io::Result<Delivery> {
        loop {
            match rustix::io::writev(&self.device, chunks) {
                // The device takes a message whole or not at all.
                Ok(_) => return Ok(Delivery::Taken),
                Err(Errno::INTR | Errno::AGAIN) => (),
                // The request was interrupted and given up, or the connection ended; or, for a
                // notification, the kernel does not hold what it is about.
                Err(Errno::NOENT | Errno::NODEV) => return Ok(Delivery::Unwanted),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Sends a reply whose data is in several places. Not inlined: the room for so many would be cleared for each reply.
    #[inline(never)]
    fn send_many(&self, reply: &Reply<'_>) -> io::Result<Delivery> {
        let mut slices = [IoSlice::new(&[]); CHUNKS];
        match reply.io_slices(&mut slices) {
            Some(slices) => self.write(slices),
            // More chunks than that are put together first, since they must go in one write.
            None => {
                let whole = reply.chunks().collect::<Vec<_>>().concat();
                self.write(&[IoSlice::new(&whole)])
            }
        }
    }
}

impl AsFd for DevFuse {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.device.as_fd()
    }
}

impl Transport for DevFuse {
    fn receive<'b>(&self, buffer: &'b mut Buffer) -> io::Result<Option<Frame<'b>>> {
        let reader = buffer.reader();
        loop {
            let read = match self.turns.take(reader, || self.sleep()) {
                Ok(Some(Role::Holder)) => self.wait_for(reader, buffer.bytes_mut()),
                Ok(Some(Role::Helper)) => self.look_for(reader, buffer.bytes_mut()),
                Ok(None) => Ok(Read::End),
                Err(error) => Err(error),
            };
            match read {
                Ok(Read::Message(length)) => {
                    return Ok(buffer.bytes_mut().get(..length).map(Frame::Whole));
                }
                Ok(Read::Nothing) => self.turns.leaves(reader),
                Ok(Read::End) => {
                    self.turns.end();
                    return Ok(None);
                }
                Err(error) => {
                    self.turns.pass(reader);
                    return Err(error);
                }
            }
        }
    }

    fn answers(&self, reader: ReaderId) {
        self.turns.answers(reader, || self.is_ready());
    }

    fn turn(&self, reader: ReaderId) -> Option<Turn> {
        Some(Turn::new(&self.turns, reader))
    }

    fn send(&self, reply: &Reply<'_>) -> io::Result<Delivery> {
        // Nearly each is a head, or that and data in one place.
        let mut few = [IoSlice::new(&[]); 2];
        if let Some(slices) = reply.io_slices(&mut few) {
            return self.write(slices);
        }
        self.send_many(reply)
    }

    fn send_notification(&self, chunks: &[IoSlice<'_>]) -> io::Result<Delivery> {
        self.write(chunks)
    }

    fn can_splice(&self) -> bool {
        true
    }

    fn send_filled(&self, pipe: &mut SplicePipe) -> io::Result<Delivery> {
        loop {
            match rustix::pipe::splice(
                &pipe.reader,
                None,
                &self.device,
                None,
                pipe.filled,
                // Not `MOVE`: see `SplicePipe`.
                SpliceFlags::empty(),
            ) {
                Ok(_) => {
                    pipe.dirty = false;
                    return Ok(Delivery::Taken);
                }
                Err(Errno::INTR | Errno::AGAIN) => (),
                Err(Errno::NOENT | Errno::NODEV) => return Ok(Delivery::Unwanted),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// A pipe of one thread, through which [`Transport::send_filled`] hands pages to the kernel.
///
/// Between two replies it is empty, or known not to be.
///
/// What is in the pipe are references to pages of the file, not copies: a hole punched into the file
/// now would have its zeros read from the pipe. So whoever fills it keeps the file as it is until
/// [`Transport::send_filled`] has returned. From then on nothing refers to those pages: without
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

    use rustix::net::{AddressFamily, SocketFlags, SocketType};

    use super::*;
    use crate::proto::types::{Errno as Refusal, RequestId};

    /// A device without a kernel behind it: a socket that keeps messages apart.
    fn pair(wait: Wait) -> (DevFuse, OwnedFd) {
        let (ours, kernels) = rustix::net::socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )
        .unwrap();
        (DevFuse::new(ours, wait).unwrap(), kernels)
    }

    fn received(kernels: &OwnedFd) -> Vec<u8> {
        let mut bytes = vec![0; 1 << 20];
        let length = rustix::io::read(kernels, &mut bytes[..]).unwrap();
        bytes.truncate(length);
        bytes
    }

    #[test]
    fn a_message_is_received_whole_whether_the_reader_blocks_or_spins() {
        for wait in [Wait::Block, Wait::Spin(Duration::ZERO), Wait::Spin(Duration::from_millis(50))]
        {
            let (device, kernels) = pair(wait);
            let sender = std::thread::spawn(move || {
                for pause_ms in [0, 5, 100] {
                    std::thread::sleep(Duration::from_millis(pause_ms));
                    rustix::io::write(&kernels, &[7; 100]).unwrap();
                }
                kernels
            });
            let mut buffer = Buffer::for_writes(4096).unwrap();
            for _ in 0..3 {
                match device.receive(&mut buffer).unwrap() {
                    Some(Frame::Whole(bytes)) => assert_eq!(bytes, [7; 100]),
                    other => panic!("{other:?}"),
                }
            }
            sender.join().unwrap();
        }
    }

    #[test]
    fn what_comes_while_a_reader_serves_for_long_is_received_by_another() {
        for passes in [true, false] {
            let (device, kernels) = pair(Wait::Block);
            let (received, other) = std::sync::mpsc::channel();
            std::thread::scope(|scope| {
                let mut buffer = Buffer::for_writes(4096).unwrap();
                rustix::io::write(&kernels, &[1]).unwrap();
                assert!(device.receive(&mut buffer).unwrap().is_some());
                if passes {
                    device.turn(buffer.reader()).unwrap().pass();
                }
                scope.spawn(|| {
                    let mut buffer = Buffer::for_writes(4096).unwrap();
                    let got = device.receive(&mut buffer).unwrap().is_some();
                    received.send(got).unwrap();
                });
                rustix::io::write(&kernels, &[2]).unwrap();
                // The first one is at its request still.
                assert!(other.recv_timeout(Duration::from_secs(60)).unwrap());
            });
        }
    }

    #[test]
    fn several_readers_take_each_message_once() {
        let (device, kernels) = pair(Wait::Spin(Duration::from_millis(20)));
        let taken = std::thread::scope(|scope| {
            let readers: Vec<_> = (0..3)
                .map(|_| {
                    scope.spawn(|| {
                        let mut buffer = Buffer::for_writes(4096).unwrap();
                        let mut taken = Vec::new();
                        loop {
                            match device.receive(&mut buffer).unwrap() {
                                Some(Frame::Whole(&[0])) => return taken,
                                Some(Frame::Whole(bytes)) => taken.push(bytes[0]),
                                other => panic!("{other:?}"),
                            }
                        }
                    })
                })
                .collect();
            for number in (1..=100).chain([0; 3]) {
                rustix::io::write(&kernels, &[number]).unwrap();
            }
            let mut taken: Vec<u8> =
                readers.into_iter().flat_map(|reader| reader.join().unwrap()).collect();
            taken.sort_unstable();
            taken
        });
        assert_eq!(taken, (1..=100).collect::<Vec<u8>>());
    }

    #[test]
    fn a_reply_is_sent_as_one_message_in_few_chunks_or_in_many() {
        let (device, kernels) = pair(Wait::Block);
        assert_eq!(
            device.send(&Reply::error(RequestId(8), Refusal::EIO)).unwrap(),
            Delivery::Taken
        );
        assert_eq!(received(&kernels).len(), 16);
        let chunk: &[u8] = b"chunk";
        for count in [1, CHUNKS - 1, CHUNKS, 200] {
            let chunks = vec![chunk; count];
            let reply = Reply::data_chunks(RequestId(8), &chunks);
            assert_eq!(device.send(&reply).unwrap(), Delivery::Taken);
            assert_eq!(received(&kernels)[16..], b"chunk".repeat(count));
        }
    }

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

    #[test]
    fn a_buffer_has_room_for_the_header_of_a_write() {
        let room = |max_write| Buffer::for_writes(max_write).unwrap().bytes_mut().len();
        assert_eq!(room(0), Buffer::LEAST);
        assert!(room(1 << 20) >= (1 << 20) + 80);
        assert!(room(1 << 20) <= (1 << 20) + PAGE);
    }
}
