//! A transport that keeps a copy of all it carries, and what is read back of it.
//!
//! ```text
//! file:    | magic 16 | record | record | ...
//! record:  | kind 1 | 0 x 3 | length 4 | nanoseconds since the beginning 8 | message |     little endian
//! ```
//!
//! Invariants: a request is in the file before it is looked at, and a reply before the kernel has it, so whatever the
//! kernel asks because of it comes later, and the request by which a server died is there. What cannot be written ends
//! the recording, never the service. A file that ends within a record was cut off there, and is good up to it.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, BufWriter, IoSlice, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use zerocopy::byteorder::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::proto::Reply;

use super::turns::{ReaderId, Turn};
use super::{Buffer, Delivery, Frame, Transport};

/// What a recording begins with.
const MAGIC: [u8; 16] = *b"LHFUSE-RECORD-1\n";
/// A message is not longer: 16 MiB of data, the most that `--max-write` asks for, and what is around it.
const MESSAGE_MAX: u32 = 17 << 20;

/// Which way a message went.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// From the kernel.
    Request,
    /// To the kernel, for a request.
    Reply,
    /// To the kernel, by itself.
    Notification,
}

impl Kind {
    const fn number(self) -> u8 {
        match self {
            Self::Request => 1,
            Self::Reply => 2,
            Self::Notification => 3,
        }
    }

    const fn of(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::Request),
            2 => Some(Self::Reply),
            3 => Some(Self::Notification),
            _ => None,
        }
    }
}

#[derive(Clone, Copy, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
struct Head {
    kind: u8,
    zero: [u8; 3],
    len: U32,
    at_ns: U64,
}

/// One message of a recording.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Record {
    /// Which way it went.
    pub kind: Kind,
    /// When, since the recording began.
    pub at: Duration,
    /// All of it, as on `/dev/fuse`.
    pub message: Vec<u8>,
}

/// A transport of which everything is recorded. Nothing is spliced, and there is no ring.
pub struct Recording {
    inner: Box<dyn Transport>,
    began: Instant,
    /// `None` once it could not be written.
    file: Mutex<Option<BufWriter<File>>>,
}

impl fmt::Debug for Recording {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recording").finish_non_exhaustive()
    }
}

impl Recording {
    /// Records what goes over `inner` in a new file at `path`, which its owner alone may read: it will hold what
    /// people write.
    ///
    /// # Errors
    ///
    /// `EEXIST`, and whatever else open(2) and write(2) say.
    pub fn new(inner: Box<dyn Transport>, path: &Path) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        let file = options.create_new(true).write(true).mode(0o600).open(path)?;
        let mut file = BufWriter::with_capacity(1 << 20, file);
        file.write_all(&MAGIC)?;
        file.flush()?;
        Ok(Self { inner, began: Instant::now(), file: Mutex::new(Some(file)) })
    }

    fn add<'m>(&self, kind: Kind, message: impl Iterator<Item = &'m [u8]> + Clone) {
        let mut file = self.file.lock();
        let Some(open) = &mut *file else { return };
        let len: usize = message.clone().map(<[u8]>::len).sum();
        let at_ns = u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let head = Head {
            kind: kind.number(),
            zero: [0; 3],
            len: U32::new(u32::try_from(len).unwrap_or(u32::MAX)),
            at_ns: U64::new(at_ns),
        };
        let written = open.write_all(head.as_bytes());
        let written =
            message.fold(written, |so_far, part| so_far.and_then(|()| open.write_all(part)));
        // A record is one write(2), and nothing of it is with a process that is killed.
        let written = written.and_then(|()| open.flush());
        if let Err(error) = written {
            tracing::warn!(%error, "the recording ends here: it cannot be written");
            *file = None;
        }
    }
}

impl Transport for Recording {
    fn receive<'b>(&self, buffer: &'b mut Buffer) -> io::Result<Option<Frame<'b>>> {
        let frame = self.inner.receive(buffer)?;
        // In parts they come from lanes of a ring alone, and here is none.
        if let Some(Frame::Whole(message)) = frame {
            self.add(Kind::Request, std::iter::once(message));
        }
        Ok(frame)
    }

    fn send(&self, reply: &Reply<'_>) -> io::Result<Delivery> {
        let chunks: Vec<&[u8]> = reply.chunks().collect();
        self.add(Kind::Reply, chunks.iter().copied());
        self.inner.send(reply)
    }

    fn send_notification(&self, chunks: &[IoSlice<'_>]) -> io::Result<Delivery> {
        self.add(Kind::Notification, chunks.iter().map(|chunk| &**chunk));
        self.inner.send_notification(chunks)
    }

    fn answers(&self, reader: ReaderId) {
        self.inner.answers(reader);
    }

    fn turn(&self, reader: ReaderId) -> Option<Turn> {
        self.inner.turn(reader)
    }

    fn stop(&self) {
        self.inner.stop();
    }
}

/// The messages of a recording, one after the other.
pub struct Records<R> {
    input: R,
    /// How many bytes were read.
    offset: u64,
}

impl<R> fmt::Debug for Records<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Records").field("offset", &self.offset).finish_non_exhaustive()
    }
}

impl Records<BufReader<File>> {
    /// Opens the recording at `path`.
    ///
    /// # Errors
    ///
    /// As [`Records::new`], and of open(2).
    pub fn open(path: &Path) -> io::Result<Self> {
        Self::new(BufReader::new(File::open(path)?))
    }
}

impl<R: Read> Records<R> {
    /// Reads the recording in `input`.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::InvalidData`] if it is none.
    pub fn new(mut input: R) -> io::Result<Self> {
        let mut magic = [0; MAGIC.len()];
        match input.read_exact(&mut magic) {
            Ok(()) if magic == MAGIC => Ok(Self { input, offset: magic.len() as u64 }),
            Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => Err(error),
            _ => Err(io::Error::new(io::ErrorKind::InvalidData, "this is no recording")),
        }
    }

    /// The next message; `None` at the end, or where the file was cut off.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::InvalidData`], with the place, where there is something else than a message.
    pub fn read(&mut self) -> io::Result<Option<Record>> {
        let mut bytes = [0; size_of::<Head>()];
        match self.input.read_exact(&mut bytes) {
            Ok(()) => (),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            Err(error) => return Err(error),
        }
        let Head { kind, zero, len, at_ns } = zerocopy::transmute!(bytes);
        let kind = Kind::of(kind).filter(|_| zero == [0; 3] && len.get() <= MESSAGE_MAX);
        let Some(kind) = kind else {
            let what = format!("there is no message at offset {}", self.offset);
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        };
        // As long as it is, not as long as it says: a length may be anything.
        let mut message = Vec::new();
        let len = u64::from(len.get());
        let read = self.input.by_ref().take(len).read_to_end(&mut message)?;
        if read as u64 != len {
            return Ok(None);
        }
        self.offset += bytes.len() as u64 + len;
        Ok(Some(Record { kind, at: Duration::from_nanos(at_ns.get()), message }))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex as StdMutex;

    use proptest::prelude::*;

    use super::*;
    use crate::proto::types::{Errno, RequestId};

    /// Receives what it is given, once.
    struct Once(StdMutex<Option<Vec<u8>>>);

    impl Transport for Once {
        fn receive<'b>(&self, buffer: &'b mut Buffer) -> io::Result<Option<Frame<'b>>> {
            let Some(message) = self.0.lock().unwrap().take() else { return Ok(None) };
            let bytes = buffer.bytes_mut().get_mut(..message.len()).unwrap();
            bytes.copy_from_slice(&message);
            Ok(Some(Frame::Whole(bytes)))
        }

        fn send(&self, _: &Reply<'_>) -> io::Result<Delivery> {
            Ok(Delivery::Taken)
        }

        fn send_notification(&self, _: &[IoSlice<'_>]) -> io::Result<Delivery> {
            Ok(Delivery::Unwanted)
        }
    }

    fn recorded() -> (Vec<u8>, Vec<u8>) {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("recording");
        let inner = Box::new(Once(StdMutex::new(Some(vec![7; 48]))));
        let recording = Recording::new(inner, &path).unwrap();
        let mut buffer = Buffer::for_writes(4096).unwrap();
        assert!(recording.receive(&mut buffer).unwrap().is_some());
        assert!(recording.receive(&mut buffer).unwrap().is_none());
        let reply = Reply::error(RequestId(3), Errno::ENOENT);
        let _ = recording.send(&reply).unwrap();
        let _ = recording.send_notification(&[IoSlice::new(b"one"), IoSlice::new(b"two")]).unwrap();
        drop(recording);
        let refused = Recording::new(Box::new(Once(StdMutex::new(None))), &path);
        assert_eq!(refused.unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        (std::fs::read(path).unwrap(), reply.chunks().collect::<Vec<_>>().concat())
    }

    fn read(bytes: &[u8]) -> io::Result<Vec<(Kind, Vec<u8>)>> {
        let mut records = Records::new(bytes)?;
        let mut all = Vec::new();
        while let Some(Record { kind, message, .. }) = records.read()? {
            all.push((kind, message));
        }
        Ok(all)
    }

    #[test]
    fn what_went_over_it_is_read_back_in_order() {
        let (bytes, reply) = recorded();
        let all = read(&bytes).unwrap();
        let expected = [
            (Kind::Request, vec![7; 48]),
            (Kind::Reply, reply),
            (Kind::Notification, b"onetwo".to_vec()),
        ];
        assert_eq!(all, expected);
    }

    #[test]
    fn one_that_was_cut_off_is_good_up_to_there() {
        let (bytes, _) = recorded();
        for len in MAGIC.len()..bytes.len() {
            let all = read(&bytes[..len]).unwrap();
            assert!(all.len() < 3 && all.iter().all(|(_, message)| !message.is_empty()), "{len}");
        }
        for len in 0..MAGIC.len() {
            assert_eq!(read(&bytes[..len]).unwrap_err().kind(), io::ErrorKind::InvalidData);
        }
    }

    #[test]
    fn whoever_is_killed_leaves_all_that_went_over_it() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("recording");
        let inner = Box::new(Once(StdMutex::new(Some(vec![7; 48]))));
        let recording = Recording::new(inner, &path).unwrap();
        assert_eq!(read(&std::fs::read(&path).unwrap()).unwrap(), []);
        let mut buffer = Buffer::for_writes(4096).unwrap();
        assert!(recording.receive(&mut buffer).unwrap().is_some());
        let asked = read(&std::fs::read(&path).unwrap()).unwrap();
        assert_eq!(asked, [(Kind::Request, vec![7; 48])]);
        let _ = recording.send(&Reply::error(RequestId(3), Errno::ENOENT)).unwrap();
        assert_eq!(read(&std::fs::read(&path).unwrap()).unwrap().len(), 2);
        // Nothing is done at its end.
        std::mem::forget(recording);
    }

    #[test]
    fn what_is_no_message_is_told_with_its_place() {
        let (mut bytes, _) = recorded();
        bytes[MAGIC.len() + size_of::<Head>() + 48] = 9;
        let error = read(&bytes).unwrap_err().to_string();
        assert_eq!(error, format!("there is no message at offset {}", 16 + 16 + 48));
    }

    proptest! {
        #[test]
        fn whatever_is_in_the_file_is_no_reason_to_panic(mut bytes: Vec<u8>, whole: bool) {
            if whole {
                bytes.splice(..0, MAGIC);
            }
            let _ = read(&bytes);
        }
    }
}
