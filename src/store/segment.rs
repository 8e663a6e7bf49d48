//! One file of records, and where in the log something is.
//!
//! ```text
//!  0        8         12       16            32                 140       508   512
//!  +--------+---------+--------+-------------+------------------+---------+-----+---------+---
//!  | magic  | version | number | store id    | checkpoint [108] | 0 ...   | crc | record  | ...
//!  +--------+---------+--------+-------------+------------------+---------+-----+---------+---
//! ```
//!
//! Integers are little-endian. `crc` is the CRC-32C of the 508 bytes before it. The checkpoint is
//! what a reader must know to begin here. The file has its full length from the start and its
//! space is set aside, so a record never meets a full disk; behind the last record are zeros.
//!
//! An old segment may have been [squeezed](super::squeezed): `open_segment` hides which of the two
//! layouts its file has.
//!
//! Invariants: segments are numbered from 1 without gaps; a header is written when the first
//! record is about to be, so a segment that was only set aside has none.

use std::fmt;
use std::io;
use std::sync::Arc;

use zerocopy::byteorder::little_endian::{I64, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::disk::{Disk, File};
use super::event::{FileId, Location, Seq, Timestamp};
use super::squeezed::{Fault, Map, Squeezed};

/// Format of a store as it is made, and of the header of a segment.
pub const FORMAT_VERSION: u32 = 1;

/// Format of a store in which segments may have been [squeezed](super::squeezed), which a program that knows
/// only the one before would misread.
pub const SQUEEZED_VERSION: u32 = 2;

/// Format of a store in which, besides, writes of a page and more may travel in their events, up to
/// [`AWAITED_INLINE_MAX`](super::event::AWAITED_INLINE_MAX): programs that know only the formats before take such an event
/// for damage.
pub const PAGES_VERSION: u32 = 3;

/// Format of a store in which, besides, an event that brings content may [end its file](super::event::Change::ends_a_file)
/// there: programs that know only the formats before take it for damage. A store of any later one is refused.
pub const ENDS_VERSION: u32 = 4;

/// Bytes before the first record.
pub const SEGMENT_HEADER_LEN: u32 = 512;

const MAGIC: [u8; 8] = *b"LhFuseSg";

/// A place in the log.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Position {
    /// Number of the segment.
    pub segment: u32,
    /// Offset in its file.
    pub offset: u32,
}

impl Position {
    /// Where the first record of a segment goes.
    #[must_use]
    pub const fn start_of(segment: u32) -> Self {
        Self { segment, offset: SEGMENT_HEADER_LEN }
    }

    /// The place `bytes` further on in the same segment.
    #[must_use]
    pub(super) fn advance(self, bytes: usize) -> Self {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        Self { segment: self.segment, offset: self.offset.saturating_add(bytes) }
    }

    /// The same place as one of content.
    #[must_use]
    pub(super) fn location(self) -> Location {
        Location { file: FileId::Log(self.segment), offset: self.offset.into() }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, byte {}", segment_path(self.segment), self.offset)
    }
}

/// Path of a segment in the store.
#[must_use]
pub fn segment_path(number: u32) -> String {
    format!("log/{number:08}.seg")
}

/// Path of what is to take a segment's place, until it is whole.
pub(super) fn new_segment_path(number: u32) -> String {
    format!("log/{number:08}.{NEW}")
}

/// What the name of such a file ends with.
const NEW: &str = "new";

/// Removes what was to take a segment's place and did not come to.
pub(super) fn remove_leftovers(disk: &dyn Disk) -> io::Result<()> {
    for name in disk.list("log")? {
        if name.strip_suffix(NEW).is_some_and(|name| name.ends_with('.')) {
            disk.remove(&format!("log/{name}"))?;
        }
    }
    Ok(())
}

/// A segment's file, whichever layout it has.
pub(super) struct Opened {
    /// As it was written: what was taken out reads as zeros.
    pub(super) file: Arc<dyn File>,
    /// What is kept, if anything was taken out.
    pub(super) map: Option<Arc<Map>>,
}

/// Opens a segment; the inner error is that its map is damaged, so that nothing of it can be read.
pub(super) fn open_layout(disk: &dyn Disk, number: u32) -> io::Result<Result<Opened, Fault>> {
    let file = disk.open(&segment_path(number), false)?;
    Ok(match Squeezed::open(&file)? {
        None => Ok(Opened { file, map: None }),
        Some(Ok(squeezed)) => {
            let map = Some(Arc::clone(squeezed.map()));
            Ok(Opened { file: Arc::new(squeezed), map })
        }
        Some(Err(fault)) => Err(fault),
    })
}

/// Opens a segment: the only way to one, for reading and for going on with it. `NotFound` if there is
/// none, `InvalidData` if something is there that cannot be read.
pub(super) fn open_segment(disk: &dyn Disk, number: u32) -> io::Result<Arc<dyn File>> {
    match open_layout(disk, number)? {
        Ok(opened) => Ok(opened.file),
        Err(fault) => {
            let what = format!("{}, {fault}", segment_path(number));
            Err(io::Error::new(io::ErrorKind::InvalidData, what))
        }
    }
}

/// The checkpoint in the header of segment `number`; `None` if there is no such header, or it cannot
/// be read. `NotFound` if there is no such file.
pub(super) fn segment_start(
    disk: &dyn Disk,
    store: [u8; 16],
    number: u32,
) -> io::Result<Option<Checkpoint>> {
    match open_layout(disk, number)? {
        Ok(opened) => read_header(&*opened.file, store, number),
        Err(_) => Ok(None),
    }
}

/// Which of the segments `numbers`, in order, is the last whose start is so, if it is so of all before; the first if of
/// none. Of one without a readable header it is not.
pub(super) fn last_where(
    disk: &dyn Disk,
    store: [u8; 16],
    numbers: &[u32],
    is_so: impl Fn(&Checkpoint) -> bool,
) -> io::Result<usize> {
    let (mut low, mut high) = (0, numbers.len());
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        let Some(&number) = numbers.get(middle) else { break };
        if segment_start(disk, store, number)?.as_ref().is_some_and(&is_so) {
            low = middle;
        } else {
            high = middle;
        }
    }
    Ok(low)
}

/// Numbers of all segment files, sorted.
pub(super) fn segment_numbers(disk: &dyn Disk) -> io::Result<Vec<u32>> {
    let names = disk.list("log")?;
    let mut numbers: Vec<u32> =
        names.iter().filter_map(|name| name.strip_suffix(".seg")?.parse().ok()).collect();
    numbers.sort_unstable();
    Ok(numbers)
}

/// All that the log before a place amounts to for whoever goes on from there. Always taken
/// directly behind a seal, so that nothing of the hash chain is under way.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Checkpoint {
    /// The place.
    pub position: Position,
    /// `crc` of the last record.
    pub prev: u32,
    /// The last event.
    pub seq: Seq,
    /// Its time.
    pub time: Timestamp,
    /// The number the next new actor gets.
    pub next_actor: u32,
    /// The kernel's connection that `unique` counts on; zeros before the first.
    pub connection: [u8; 16],
    /// BLAKE3 of the last seal; zeros before the first.
    pub seal: [u8; 32],
    /// Numbers below this may have been handed out.
    pub reserve: Seq,
    /// Number of the content file that is being filled.
    pub content_file: u32,
    /// How far it is filled.
    pub content_offset: u64,
    /// The oldest tree that can be shown.
    pub horizon: Seq,
}

/// A [`Checkpoint`] on disk.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct CheckpointBytes {
    segment: U32,
    offset: U32,
    prev: U32,
    next_actor: U32,
    seq: U64,
    time: I64,
    connection: [u8; 16],
    seal: [u8; 32],
    reserve: U64,
    content_offset: U64,
    content_file: U32,
    horizon: U64,
}
const _: () = assert!(size_of::<CheckpointBytes>() == 108);

impl From<&Checkpoint> for CheckpointBytes {
    fn from(from: &Checkpoint) -> Self {
        Self {
            segment: from.position.segment.into(),
            offset: from.position.offset.into(),
            prev: from.prev.into(),
            next_actor: from.next_actor.into(),
            seq: from.seq.0.into(),
            time: from.time.0.into(),
            connection: from.connection,
            seal: from.seal,
            reserve: from.reserve.0.into(),
            content_offset: from.content_offset.into(),
            content_file: from.content_file.into(),
            horizon: from.horizon.0.into(),
        }
    }
}

impl From<&CheckpointBytes> for Checkpoint {
    fn from(from: &CheckpointBytes) -> Self {
        Self {
            position: Position { segment: from.segment.get(), offset: from.offset.get() },
            prev: from.prev.get(),
            next_actor: from.next_actor.get(),
            seq: Seq(from.seq.get()),
            time: Timestamp(from.time.get()),
            connection: from.connection,
            seal: from.seal,
            reserve: Seq(from.reserve.get()),
            content_offset: from.content_offset.get(),
            content_file: from.content_file.get(),
            horizon: Seq(from.horizon.get()),
        }
    }
}

#[derive(Clone, Copy, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
struct HeaderBytes {
    magic: [u8; 8],
    version: U32,
    number: U32,
    store: [u8; 16],
    checkpoint: CheckpointBytes,
    zeros: [u8; 368],
    crc: U32,
}
const _: () = assert!(size_of::<HeaderBytes>() == SEGMENT_HEADER_LEN as usize);

/// The header of the segment that begins at `checkpoint`.
pub(super) fn encode_header(
    store: [u8; 16],
    checkpoint: &Checkpoint,
) -> [u8; SEGMENT_HEADER_LEN as usize] {
    let mut header = HeaderBytes {
        magic: MAGIC,
        version: FORMAT_VERSION.into(),
        number: checkpoint.position.segment.into(),
        store,
        checkpoint: checkpoint.into(),
        zeros: [0; 368],
        crc: U32::ZERO,
    };
    header.crc = checksum(&header).into();
    let mut bytes = [0; SEGMENT_HEADER_LEN as usize];
    bytes.copy_from_slice(header.as_bytes());
    bytes
}

/// The checkpoint in the header of segment `number` of the store; `None` if there is no such
/// header, or it is damaged.
pub(super) fn read_header(
    file: &dyn File,
    store: [u8; 16],
    number: u32,
) -> io::Result<Option<Checkpoint>> {
    let mut bytes = [0; SEGMENT_HEADER_LEN as usize];
    let len = file.read_at(&mut bytes, 0)?;
    let Ok(header) = HeaderBytes::read_from_bytes(bytes.get(..len).unwrap_or_default()) else {
        return Ok(None);
    };
    let checkpoint = Checkpoint::from(&header.checkpoint);
    let ours = header.magic == MAGIC
        && header.version.get() == FORMAT_VERSION
        && header.number.get() == number
        && header.store == store
        && header.crc.get() == checksum(&header)
        && checkpoint.position == Position::start_of(number);
    Ok(ours.then_some(checkpoint))
}

fn checksum(header: &HeaderBytes) -> u32 {
    let bytes = header.as_bytes();
    crc32c::crc32c(bytes.get(..bytes.len() - 4).unwrap_or_default())
}
