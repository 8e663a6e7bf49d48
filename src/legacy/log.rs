//! The Python bridge's event logs, as they are: rotated, compressed, torn, damaged, under several secrets.
//!
//! ```text
//!  0        4                                   36                      36+len
//!  +--------+-----------------------------------+-----------------------+
//!  | len    | mac                               | payload               |
//!  | u32 BE | HMAC-SHA256 of the payload        | MessagePack map       |
//!  +--------+-----------------------------------+-----------------------+
//! ```
//!
//! A directory holds `events_NNNNNN.log` and `events_NNNNNN.log.gz`; in the order of number, `.gz` first, and offset
//! they are in the order of writing. Files are read once, from front to end, and never written.
//!
//! The length is not covered by the code, so it can be wrong. Where a record's code does not hold, the frame is
//! believed if its payload is an event or if a good record follows; otherwise reading looks byte by byte for
//! the next place where a record's code holds (without any secret: where a record decodes), and reports the gap.
//!
//! Invariants: a record is given out as verified only if its code holds under a known secret; whatever the bytes
//! are, all of them are either in a record or in a reported damage; memory is bounded by [`RECORD_MAX`].

use std::collections::VecDeque;
use std::fmt;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use flate2::read::MultiGzDecoder;
use hmac::{Hmac, KeyInit, Mac};
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::event::{Event, Missing};
use crate::store::event::{Format, Timestamp};

/// Longest payload that is read, in bytes. The bridge refused events of more than 1 MiB.
pub const RECORD_MAX: usize = 8 << 20;
/// Longest payload that is looked for behind damage.
const SOUGHT_MAX: usize = 2 << 20;
/// What comes before the payload.
const HEAD: usize = 36;
/// How much is read from a file at a time.
const READ: usize = 256 << 10;
/// So much may be hashed for each byte that is looked through behind damage; then only short records are tried,
/// or bytes made for it would keep us busy for ever.
const HASHED_PER_BYTE: u64 = 64;
/// Records of this many bytes are tried all the same.
const SHORT_RECORD: usize = 4096;

/// Keys under which records may be signed.
#[derive(Clone, Default)]
pub struct Secrets {
    keys: Vec<Hmac<Sha256>>,
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} secrets", self.keys.len())
    }
}

impl Secrets {
    /// Adds one: its bytes as they are.
    pub fn add(&mut self, secret: &[u8]) {
        // A key of any length will do.
        self.keys.extend(Hmac::new_from_slice(secret));
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// What tells these secrets from others without giving them away.
    #[must_use]
    pub fn digest(&self) -> String {
        let mut digest = Sha256::new();
        for key in &self.keys {
            let mut key = key.clone();
            Mac::update(&mut key, b"lighthouse-fuse: which secrets are known");
            Digest::update(&mut digest, Mac::finalize(key).into_bytes());
        }
        Digest::finalize(digest).iter().fold(String::new(), |mut text, byte| {
            // A String takes all.
            let _ = fmt::Write::write_fmt(&mut text, format_args!("{byte:02x}"));
            text
        })
    }

    /// Whether `mac` vouches for `payload`; `first` is the key that held last.
    fn vouch(&self, payload: &[u8], mac: &[u8], first: &mut usize) -> bool {
        let keys = self.keys.iter().enumerate();
        let order = keys.clone().skip(*first).chain(keys.take(*first));
        for (at, key) in order {
            let mut key = key.clone();
            key.update(payload);
            if key.verify_slice(mac).is_ok() {
                *first = at;
                return true;
            }
        }
        false
    }
}

/// A record whose frame is believed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Record<'a> {
    /// Name of its file.
    pub file: &'a str,
    /// Where it begins there, uncompressed.
    pub offset: u64,
    /// The payload.
    pub payload: &'a [u8],
    /// Whether its code holds under a known secret.
    pub verified: bool,
}

/// Bytes that are no record.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Damage {
    /// Name of the file.
    pub file: String,
    /// Where they begin there, uncompressed.
    pub offset: u64,
    /// How many.
    pub len: u64,
    /// What they are.
    pub what: String,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, byte {}", self.file, self.offset)?;
        if self.len > 0 {
            write!(f, ", {} bytes", self.len)?;
        }
        write!(f, ": {}", self.what)
    }
}

/// What comes next in a log.
#[derive(Debug)]
pub enum Item<'a> {
    /// A record.
    Record(Record<'a>),
    /// No record; reading goes on behind it.
    Damage(Damage),
}

/// One file of a log.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct LogFile {
    /// The number in its name.
    pub number: u64,
    /// Whether it is not compressed: the compressed one of a number is older.
    plain: bool,
    /// Where it is.
    pub path: PathBuf,
    /// Its length as it lies there, in bytes.
    pub len: u64,
}

impl LogFile {
    /// Reads the name of a log file; `None` if it is that of something else.
    #[must_use]
    pub fn at(path: &Path) -> Option<Self> {
        let name = path.file_name()?.to_str()?.strip_prefix("events_")?;
        let (number, plain) = match name.strip_suffix(".log") {
            Some(number) => (number, true),
            None => (name.strip_suffix(".log.gz")?, false),
        };
        let digits = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
        let number = digits.then(|| number.parse().ok())??;
        Some(Self { number, plain, path: path.to_owned(), len: 0 })
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> String {
        self.path.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }
}

/// The files of the log in `dir`, in the order in which they were written; none if it holds no log.
pub fn files(dir: &Path) -> io::Result<Vec<LogFile>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let Some(mut file) = LogFile::at(&entry?.path()) else { continue };
        let meta = std::fs::metadata(&file.path)?;
        if meta.is_file() {
            file.len = meta.len();
            files.push(file);
        }
    }
    files.sort();
    Ok(files)
}

/// Counts the bytes that are read from a file as it lies there.
struct Counted<R> {
    inner: R,
    count: Arc<AtomicU64>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let len = self.inner.read(buffer)?;
        self.count.fetch_add(len as u64, Ordering::Relaxed);
        Ok(len)
    }
}

/// Reads the files of a log, one behind the other.
pub struct LogReader {
    files: VecDeque<LogFile>,
    secrets: Secrets,
    open: Option<Frames>,
    bytes: Arc<AtomicU64>,
}

impl LogReader {
    /// Reads `files`; records signed under `secrets` are verified.
    #[must_use]
    pub fn new(files: Vec<LogFile>, secrets: Secrets) -> Self {
        Self { files: files.into(), secrets, open: None, bytes: Arc::default() }
    }

    /// Bytes read so far, of those that the files have as they lie there.
    #[must_use]
    pub fn bytes_read(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// What comes next; `None` at the end.
    pub fn read(&mut self) -> Option<Item<'_>> {
        loop {
            if self.open.is_none() {
                let file = self.files.pop_front()?;
                match self.open_file(&file) {
                    Ok(frames) => self.open = Some(frames),
                    Err(err) => {
                        let what = format!("it cannot be read: {err}");
                        return Some(Item::Damage(Damage {
                            file: file.name(),
                            offset: 0,
                            len: 0,
                            what,
                        }));
                    }
                }
            }
            match self.open.as_mut()?.step() {
                Some(Step::Record(verified)) => {
                    return self.open.as_ref().map(|frames| Item::Record(frames.record(verified)));
                }
                Some(Step::Damage(damage)) => return Some(Item::Damage(damage)),
                None => self.open = None,
            }
        }
    }

    fn open_file(&self, file: &LogFile) -> io::Result<Frames> {
        let opened = File::open(&file.path)?;
        let counted = Counted { inner: opened, count: Arc::clone(&self.bytes) };
        let source: Box<dyn Read + Send> = match file.plain {
            true => Box::new(counted),
            false => Box::new(MultiGzDecoder::new(BufReader::with_capacity(READ, counted))),
        };
        Ok(Frames::new(file.name(), source, self.secrets.clone()))
    }
}

/// The records in one stream of bytes.
pub struct Frames {
    name: String,
    source: Box<dyn Read + Send>,
    secrets: Secrets,
    /// The key that held last.
    key: usize,
    buffer: Vec<u8>,
    /// Where in the buffer the next record begins.
    at: usize,
    /// Offset in the stream of the buffer's first byte.
    base: u64,
    /// Nothing comes any more.
    ended: bool,
    /// Why it ended early.
    failure: Option<String>,
    /// How long the record is that was given out last.
    given: usize,
}

/// What [`Frames::step`] found at its place.
#[derive(Debug)]
pub enum Step {
    /// A record, and whether it is verified; see [`Frames::record`].
    Record(bool),
    /// No record.
    Damage(Damage),
}

/// What a frame is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Frame {
    /// Its code holds.
    Good(usize),
    /// Its code does not, but its payload is an event.
    Plausible(usize),
    /// It fits, and that is all.
    Fits(usize),
    /// There is none.
    None,
}

impl Frames {
    /// The records in `source`, which is called `name`.
    #[must_use]
    pub fn new(name: String, source: Box<dyn Read + Send>, secrets: Secrets) -> Self {
        Self {
            name,
            source,
            secrets,
            key: 0,
            buffer: Vec::new(),
            at: 0,
            base: 0,
            ended: false,
            failure: None,
            given: 0,
        }
    }

    /// The record that the last step found.
    #[must_use]
    pub fn record(&self, verified: bool) -> Record<'_> {
        let payload = self.buffer.get(self.at + HEAD..self.at + self.given).unwrap_or_default();
        Record { file: &self.name, offset: self.offset(), payload, verified }
    }

    fn offset(&self) -> u64 {
        self.base + self.at as u64
    }

    /// Goes to what comes next; `None` at the end.
    pub fn step(&mut self) -> Option<Step> {
        self.at += std::mem::take(&mut self.given);
        if !self.has(0, 1) {
            let what = self.failure.take()?;
            return Some(self.damage(0, what));
        }
        let frame = self.frame(0, RECORD_MAX);
        match frame {
            Frame::Good(len) => {
                self.given = HEAD + len;
                return Some(Step::Record(true));
            }
            Frame::Plausible(len) => {
                self.given = HEAD + len;
                return Some(Step::Record(false));
            }
            Frame::Fits(len) => {
                let behind = HEAD + len;
                let ends = !self.has(behind, 1);
                if len > 0
                    && (ends
                        || matches!(
                            self.frame(behind, RECORD_MAX),
                            Frame::Good(_) | Frame::Plausible(_)
                        ))
                {
                    let what = "a record whose code does not hold and that is no event";
                    return Some(self.damage(behind, what.to_owned()));
                }
            }
            Frame::None => (),
        }
        Some(self.resynchronise(frame))
    }

    /// Looks for the next record behind bytes that are none.
    fn resynchronise(&mut self, frame: Frame) -> Step {
        let zeros = self.has(0, HEAD) && self.bytes(0, HEAD).iter().all(|&byte| byte == 0);
        let (start, mut hashed) = (self.offset(), 0);
        let mut gap = 1;
        loop {
            let Some(len) = self.length(gap, SOUGHT_MAX) else {
                if !self.has(gap, HEAD + 1) {
                    break;
                }
                gap += 1;
                self.forget_all_but(&mut gap);
                continue;
            };
            let passed = self.base + (self.at + gap) as u64 - start;
            // A map in MessagePack begins so; nothing else was ever written.
            let map = matches!(self.bytes(gap + HEAD, 1), [0x80..=0x8f | 0xde | 0xdf]);
            let affordable =
                len <= SHORT_RECORD || hashed <= (passed + SOUGHT_MAX as u64) * HASHED_PER_BYTE;
            if map && affordable {
                hashed += len as u64;
                let found = self.frame(gap, SOUGHT_MAX);
                let good = matches!(found, Frame::Good(_));
                if good || self.secrets.is_empty() && matches!(found, Frame::Plausible(_)) {
                    let what =
                        if zeros { "zeros" } else { "no record; the next one was found behind it" };
                    return Step::Damage(self.skipped(start, gap, what));
                }
            }
            gap += 1;
            self.forget_all_but(&mut gap);
        }
        // Nothing more to be found. Short of a frame, it was cut while it was written.
        while self.has(gap, 1) {
            gap += 1;
        }
        let what = match frame {
            _ if zeros => "zeros up to the end",
            Frame::None => {
                "a record that was cut short, or whose length is wrong; nothing good follows"
            }
            _ => "no record, and nothing good follows",
        };
        Step::Damage(self.skipped(start, gap, what))
    }

    /// Keeps a long search from keeping all it went through: the first `gap` bytes are only counted.
    fn forget_all_but(&mut self, gap: &mut usize) {
        if *gap >= READ {
            self.at += *gap;
            *gap = 0;
        }
    }

    /// Goes behind `gap` further bytes, which with those before them, from `start` on, are no record.
    fn skipped(&mut self, start: u64, gap: usize, what: &str) -> Damage {
        self.at += gap;
        let len = self.offset() - start;
        Damage { file: self.name.clone(), offset: start, len, what: what.to_owned() }
    }

    /// Goes behind `len` bytes that are no record.
    fn damage(&mut self, len: usize, what: String) -> Step {
        let offset = self.offset();
        self.at += len;
        Step::Damage(Damage { file: self.name.clone(), offset, len: len as u64, what })
    }

    /// The length that the frame `ahead` claims, if it may be one and fits.
    fn length(&mut self, ahead: usize, max: usize) -> Option<usize> {
        if !self.has(ahead, HEAD) {
            return None;
        }
        let len = u32::from_be_bytes(*self.bytes(ahead, 4).first_chunk()?);
        let len = usize::try_from(len).ok().filter(|&len| len <= max)?;
        self.has(ahead, HEAD + len).then_some(len).filter(|_| len > 0 || max == RECORD_MAX)
    }

    fn frame(&mut self, ahead: usize, max: usize) -> Frame {
        let Some(len) = self.length(ahead, max) else { return Frame::None };
        let whole =
            self.buffer.get(self.at + ahead..self.at + ahead + HEAD + len).unwrap_or_default();
        let (Some(mac), Some(payload)) = (whole.get(4..HEAD), whole.get(HEAD..)) else {
            return Frame::None;
        };
        if self.secrets.vouch(payload, mac, &mut self.key) {
            return Frame::Good(len);
        }
        let missing = Missing { id: "0_0_x".to_owned(), time: Timestamp(0) };
        match Event::decode(payload, Format::MessagePack, &missing) {
            Ok(_) => Frame::Plausible(len),
            Err(_) => Frame::Fits(len),
        }
    }

    fn bytes(&self, ahead: usize, len: usize) -> &[u8] {
        let from = self.at + ahead;
        self.buffer.get(from..from + len).unwrap_or_default()
    }

    /// Whether `len` bytes are there `ahead` of the place, after reading what that takes.
    fn has(&mut self, ahead: usize, len: usize) -> bool {
        let wanted = ahead + len;
        while self.buffer.len() - self.at < wanted && !self.ended {
            if self.at >= READ {
                self.buffer.drain(..self.at);
                self.base += self.at as u64;
                self.at = 0;
            }
            let filled = self.buffer.len();
            self.buffer.resize(filled + READ.max(wanted.saturating_sub(filled - self.at)), 0);
            let read = match self.buffer.get_mut(filled..) {
                Some(room) => self.source.read(room),
                None => Ok(0),
            };
            let len = match read {
                Ok(len) => len,
                Err(err) if err.kind() == io::ErrorKind::Interrupted => {
                    self.buffer.truncate(filled);
                    continue;
                }
                Err(err) => {
                    self.failure = Some(format!("it cannot be read any further: {err}"));
                    0
                }
            };
            self.buffer.truncate(filled + len);
            self.ended = len == 0;
        }
        self.buffer.len() - self.at >= wanted
    }
}
