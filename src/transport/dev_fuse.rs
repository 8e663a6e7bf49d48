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

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::OFlags;
use rustix::io::Errno;
use zerocopy::FromBytes as _;

use super::turns::{ReaderId, Role, Turn, Turns};
use super::waiting::{Wait, Waiting};
use super::{Buffer, Delivery, Frame, SplicePipe, Transport};
use crate::proto::Reply;
use crate::proto::abi::fuse_in_header;

/// How many chunks of a reply go to the kernel without a copy.
const CHUNKS: usize = 64;

/// A connection over `/dev/fuse`.
#[derive(Debug)]
pub struct DevFuse {
    device: OwnedFd,
    waiting: Waiting,
    turns: Arc<Turns>,
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
            waiting: Waiting::new(wait),
            turns: Arc::new(Turns::of_this_machine()),
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
        let mut look = self.waiting.begin();
        loop {
            match self.read(bytes)? {
                Read::Message(length) => {
                    let caller = caller(bytes, length);
                    self.turns.serves(reader, look.found(caller), caller);
                    return Ok(Read::Message(length));
                }
                Read::Nothing if look.missed() && !self.sleep()? => return Ok(Read::End),
                Read::Nothing => (),
                Read::End => return Ok(Read::End),
            }
        }
    }

    /// What comes within the time that a reader looks for it, for a helper.
    fn look_for(&self, reader: ReaderId, bytes: &mut [u8]) -> io::Result<Read> {
        let mut help = self.waiting.help();
        loop {
            let read = self.read(bytes)?;
            match read {
                Read::Nothing if !help.missed() => continue,
                Read::Message(length) => {
                    let caller = caller(bytes, length);
                    self.turns.serves(reader, help.found(), caller);
                }
                Read::Nothing | Read::End => (),
            }
            return Ok(read);
        }
    }

    fn write(&self, chunks: &[IoSlice<'_>]) -> io::Result<Delivery> {
        deliver(|| rustix::io::writev(&self.device, chunks))
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
        deliver(|| pipe.hand_to(self.device.as_fd()))
    }
}

/// The thread that asks in the message of so many `bytes`, or 0.
fn caller(bytes: &[u8], length: usize) -> u32 {
    let message = bytes.get(..length).unwrap_or_default();
    fuse_in_header::read_from_prefix(message).map_or(0, |(header, _)| header.pid)
}

/// Sends a message, of which the device takes all or nothing.
fn deliver(mut send: impl FnMut() -> rustix::io::Result<usize>) -> io::Result<Delivery> {
    loop {
        match send() {
            Ok(_) => return Ok(Delivery::Taken),
            Err(Errno::INTR | Errno::AGAIN) => (),
            // The request was interrupted and given up, or the connection ended; or, for a
            // notification, the kernel does not hold what it is about.
            Err(Errno::NOENT | Errno::NODEV) => return Ok(Delivery::Unwanted),
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rustix::net::{AddressFamily, SocketFlags, SocketType};

    use super::*;
    use crate::proto::types::{Errno as Refusal, RequestId};
    use crate::sys::pages::PAGE;

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
    fn a_buffer_has_room_for_the_header_of_a_write() {
        let room = |max_write| Buffer::for_writes(max_write).unwrap().bytes_mut().len();
        assert_eq!(room(0), Buffer::LEAST);
        assert!(room(1 << 20) >= (1 << 20) + 80);
        assert!(room(1 << 20) <= (1 << 20) + PAGE);
    }
}
