//! A log segment from which content was taken out: the same bytes at the same offsets, in less space.
//!
//! ```text
//!  0        8         12     16     24       28        32    36
//!  +--------+---------+------+------+--------+---------+-----+------------------------+-------------
//!  | magic  | version | len  | gone | ranges | map crc | crc | start [4], length [4]  | bytes kept
//!  +--------+---------+------+------+--------+---------+-----+------------------------+-------------
//!                                                              map: `ranges` times      of each range
//! ```
//!
//! Integers are little-endian. `crc` is the CRC-32C of the 32 bytes before it, `map crc` that of the
//! map. `len` is the length of the segment as it was written, `gone` how many bytes of content were
//! taken out. What lies in no range reads as zeros: the content of dead writes and its salt, which a
//! [record](super::record) knows to be gone, and what was never written.
//!
//! Whoever reads does so through a [`Squeezed`], at the offsets the segment always had; so places in
//! the log that the index, marks and readers keep mean what they meant.
//!
//! Invariants: ranges ascend, do not touch, and the first holds the segment's header; the file ends
//! with the last byte kept; no such file is ever written to once it has its name.

use std::fmt;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use zerocopy::byteorder::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::disk::{Disk, File};
use super::segment::{SEGMENT_HEADER_LEN, SQUEEZED_VERSION, segment_numbers, segment_path};

const MAGIC: [u8; 8] = *b"LhFuseSq";

#[derive(Clone, Copy, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
struct HeaderBytes {
    magic: [u8; 8],
    version: U32,
    len: U32,
    gone: U64,
    ranges: U32,
    map_crc: U32,
    crc: U32,
}
const HEADER_LEN: usize = size_of::<HeaderBytes>();
const _: () = assert!(HEADER_LEN == 36);

#[derive(Clone, Copy, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
struct RangeBytes {
    start: U32,
    len: U32,
}
const RANGE_LEN: usize = size_of::<RangeBytes>();

/// How much is copied at a time.
const WINDOW: usize = 256 << 10;

/// Why a file that begins as one of these cannot be read.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Fault {
    /// Where in the file, in bytes.
    pub offset: u64,
    /// What is wrong there.
    pub what: &'static str,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "byte {}: {}", self.offset, self.what)
    }
}

/// What is kept of a segment, and where.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Map {
    len: u32,
    gone: u64,
    ranges: Vec<Range>,
}

/// Bytes of the segment that are there.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Range {
    start: u32,
    len: u32,
    /// How many kept bytes lie before.
    at: u32,
}

impl Range {
    const fn end(&self) -> u64 {
        self.start as u64 + self.len as u64
    }
}

/// Collects what is kept of a segment, in order.
#[derive(Debug)]
pub(super) struct Keep {
    map: Map,
}

impl Keep {
    /// Of a segment of this length; its header is kept.
    pub(super) fn new(len: u32) -> Self {
        let header = Range { start: 0, len: SEGMENT_HEADER_LEN, at: 0 };
        Self { map: Map { len, gone: 0, ranges: vec![header] } }
    }

    /// Keeps `len` bytes from `start` on, which is not before what was kept last.
    pub(super) fn keep(&mut self, start: u32, len: u32) {
        let Some(last) = self.map.ranges.last_mut() else { return };
        assert!(u64::from(start) >= last.end(), "ranges ascend");
        if u64::from(start) == last.end() {
            last.len += len;
        } else if len > 0 {
            let at = last.at + last.len;
            self.map.ranges.push(Range { start, len, at });
        }
    }

    /// Counts `len` bytes of content that are not.
    pub(super) fn gone(&mut self, len: u64) {
        self.map.gone += len;
    }

    /// What was collected so far.
    pub(super) const fn map(&self) -> &Map {
        &self.map
    }
}

impl Map {
    /// The map in the first bytes of a file that is `file_len` bytes long; `None` if it is no such file.
    /// `bytes` is the file, or its header and map at least.
    pub fn decode(bytes: &[u8], file_len: u64) -> Option<Result<Self, Fault>> {
        if !bytes.starts_with(&MAGIC) {
            return None;
        }
        let header = HeaderBytes::read_from_prefix(bytes).ok().map(|(header, _)| header);
        Some(Self::decode_behind(header, bytes, file_len))
    }

    fn decode_behind(
        header: Option<HeaderBytes>,
        bytes: &[u8],
        file_len: u64,
    ) -> Result<Self, Fault> {
        let bad_header = Fault { offset: 0, what: "the header is damaged" };
        let bad_map = Fault { offset: HEADER_LEN as u64, what: "the map is damaged" };
        let header = header.filter(is_whole).ok_or(bad_header)?;
        let map = HEADER_LEN..map_end(&header).ok_or(bad_header)?;
        let map = bytes.get(map).ok_or(bad_map)?;
        if crc32c::crc32c(map) != header.map_crc.get() {
            return Err(bad_map);
        }
        let entries = <[RangeBytes]>::ref_from_bytes(map).map_err(|_| bad_map)?;
        let mut ranges: Vec<Range> = Vec::with_capacity(entries.len());
        let mut kept = 0_u32;
        for entry in entries {
            let range = Range { start: entry.start.get(), len: entry.len.get(), at: kept };
            let apart = match ranges.last() {
                Some(last) => u64::from(range.start) > last.end(),
                None => range.start == 0 && range.len >= SEGMENT_HEADER_LEN,
            };
            if !apart || range.len == 0 || range.end() > header.len.get().into() {
                return Err(bad_map);
            }
            // No more than `len`, as they are apart.
            kept += range.len;
            ranges.push(range);
        }
        let gone = header.gone.get();
        if ranges.is_empty() || gone > u64::from(header.len.get() - kept) {
            return Err(bad_map);
        }
        let map = Self { len: header.len.get(), gone, ranges };
        let end = map.file_len();
        if file_len < end {
            return Err(Fault { offset: file_len, what: "the file is cut short" });
        }
        if file_len > end {
            return Err(Fault { offset: end, what: "bytes behind the last one kept" });
        }
        Ok(map)
    }

    /// Header and map, as the file begins with.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![0; HEADER_LEN];
        for &Range { start, len, .. } in &self.ranges {
            let entry = RangeBytes { start: start.into(), len: len.into() };
            bytes.extend_from_slice(entry.as_bytes());
        }
        let (head, map) = bytes.split_at_mut(HEADER_LEN);
        let mut header = HeaderBytes {
            magic: MAGIC,
            version: SQUEEZED_VERSION.into(),
            len: self.len.into(),
            gone: self.gone.into(),
            ranges: (self.ranges.len() as u32).into(),
            map_crc: crc32c::crc32c(map).into(),
            crc: U32::ZERO,
        };
        header.crc = checksum(&header).into();
        head.copy_from_slice(header.as_bytes());
        bytes
    }

    /// Length of the whole file.
    #[must_use]
    pub fn file_len(&self) -> u64 {
        self.kept_at()
            + self.ranges.last().map_or(0, |last| u64::from(last.at) + u64::from(last.len))
    }

    /// Bytes of content that were taken out.
    #[must_use]
    pub const fn gone(&self) -> u64 {
        self.gone
    }

    /// Where in the file the byte at `offset` of the segment is; `None` if it is not kept.
    #[must_use]
    pub fn place_of(&self, offset: u64) -> Option<u64> {
        let at = self.ranges.partition_point(|range| range.end() <= offset);
        let range = self.ranges.get(at)?;
        let inside = offset.checked_sub(range.start.into())?;
        Some(self.kept_at() + u64::from(range.at) + inside)
    }

    /// Where the kept bytes begin.
    const fn kept_at(&self) -> u64 {
        (HEADER_LEN + self.ranges.len() * RANGE_LEN) as u64
    }

    /// What of the ranges lies in `start..end` of the segment: first byte and length.
    fn inside(&self, start: u64, end: u64) -> impl DoubleEndedIterator<Item = (u64, u64)> {
        let first = self.ranges.partition_point(|range| range.end() <= start);
        let last = self.ranges.partition_point(|range| u64::from(range.start) < end);
        let ranges = self.ranges.get(first..last).unwrap_or_default();
        ranges.iter().map(move |range| {
            let from = u64::from(range.start).max(start);
            (from, range.end().min(end) - from)
        })
    }
}

fn is_whole(header: &HeaderBytes) -> bool {
    header.crc.get() == checksum(header) && header.version.get() == SQUEEZED_VERSION
}

fn checksum(header: &HeaderBytes) -> u32 {
    let bytes = header.as_bytes();
    crc32c::crc32c(bytes.get(..bytes.len() - 4).unwrap_or_default())
}

fn map_end(header: &HeaderBytes) -> Option<usize> {
    (header.ranges.get() as usize).checked_mul(RANGE_LEN)?.checked_add(HEADER_LEN)
}

/// How many bytes of content were taken out of the log of the store on `disk`, as far as the headers of its
/// segments can be read.
pub fn taken_out(disk: &dyn Disk) -> io::Result<u64> {
    let mut sum = 0_u64;
    for number in segment_numbers(disk)? {
        let file = disk.open(&segment_path(number), false)?;
        let header = read_header(&*file)?.filter(is_whole);
        sum = sum.saturating_add(header.map_or(0, |header| header.gone.get()));
    }
    Ok(sum)
}

/// The header, if the file begins as one of these.
fn read_header(file: &dyn File) -> io::Result<Option<HeaderBytes>> {
    let mut bytes = [0; HEADER_LEN];
    let len = file.read_at(&mut bytes, 0)?;
    let header = HeaderBytes::read_from_bytes(bytes.get(..len).unwrap_or_default()).ok();
    // Too short to be told from a file that is not written yet.
    Ok(header.filter(|header| header.magic == MAGIC))
}

/// A segment from which content was taken out, read as it was. Cannot be written to.
pub struct Squeezed {
    file: Arc<dyn File>,
    map: Arc<Map>,
}

impl Squeezed {
    /// The segment in `file`; `None` if that is none of these.
    pub fn open(file: &Arc<dyn File>) -> io::Result<Option<Result<Self, Fault>>> {
        let Some(header) = read_header(&**file)? else { return Ok(None) };
        let file_len = file.len()?;
        // No more is read than there is, whatever the header says.
        let end = map_end(&header).filter(|&end| is_whole(&header) && end as u64 <= file_len);
        let mut bytes = vec![0; end.unwrap_or(HEADER_LEN)];
        let len = file.read_at(&mut bytes, 0)?;
        bytes.truncate(len);
        let map = Map::decode(&bytes, file_len);
        let open = |map| Self { file: Arc::clone(file), map: Arc::new(map) };
        Ok(map.map(|map| map.map(open)))
    }

    /// What is kept of it.
    #[must_use]
    pub const fn map(&self) -> &Arc<Map> {
        &self.map
    }
}

impl File for Squeezed {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let end = offset.saturating_add(buffer.len() as u64).min(self.map.len.into());
        let want = usize::try_from(end.saturating_sub(offset)).unwrap_or(buffer.len());
        let buffer = buffer.get_mut(..want).unwrap_or_default();
        // Kept bytes lie side by side: read to the front, they move back to where they belong, the last first.
        let kept: u64 = self.map.inside(offset, end).map(|(_, len)| len).sum();
        let mut from = usize::try_from(kept).unwrap_or(want).min(want);
        if let Some((first, _)) = self.map.inside(offset, end).next()
            && let Some(place) = self.map.place_of(first)
        {
            let front = buffer.get_mut(..from).unwrap_or_default();
            if self.file.read_at(front, place)? < front.len() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        let mut blank_until = want;
        for (start, len) in self.map.inside(offset, end).rev() {
            // Both are at most as long as the buffer.
            let (to, len) = ((start - offset) as usize, len as usize);
            from -= len;
            buffer.copy_within(from..from + len, to);
            buffer[to + len..blank_until].fill(0);
            blank_until = to;
        }
        buffer[..blank_until].fill(0);
        Ok(want)
    }

    fn write_at(&self, _bytes: &[u8], _offset: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn allocate(&self, _offset: u64, _len: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn punch(&self, _offset: u64, _len: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.map.len.into())
    }

    fn allocated(&self) -> io::Result<u64> {
        self.file.allocated()
    }

    fn set_len(&self, _len: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn memory(&self) -> usize {
        self.map.ranges.len() * size_of::<Range>()
    }

    /// Where a byte of the file is in the segment is no distance but a map, so nothing can be spliced.
    fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

/// Writes at `path` what `map` keeps of the segment in `old`, and waits for the disk. What was there goes.
pub(super) fn write(
    disk: &dyn Disk,
    path: &str,
    old: &dyn File,
    map: &Map,
) -> io::Result<Arc<dyn File>> {
    let file = disk.open(path, true)?;
    file.set_len(0)?;
    // A full disk shows before anything is copied.
    file.allocate(0, map.file_len())?;
    let mut out = map.encode();
    let mut written = 0;
    let mut window = vec![0; WINDOW];
    let mut start = 0;
    while start < u64::from(map.len) {
        let end = (start + WINDOW as u64).min(map.len.into());
        let len = old.read_at(&mut window, start)?;
        for (from, count) in map.inside(start, end) {
            // Both are at most as long as the window.
            let (from, count) = ((from - start) as usize, count as usize);
            let bytes = window.get(..len).and_then(|window| window.get(from..from + count));
            out.extend_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        }
        if out.len() >= WINDOW {
            file.write_at(&out, written)?;
            written += out.len() as u64;
            out.clear();
        }
        start = end;
    }
    if !out.is_empty() {
        file.write_at(&out, written)?;
    }
    file.sync_data()?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::sim::SimDisk;
    use super::*;

    /// A segment of bytes that are all different enough, and a map of it.
    fn example(ranges: &[(u32, u32)], len: u32) -> (Vec<u8>, Map) {
        let bytes = (0..len).map(|at| (at % 251) as u8 | 1).collect();
        let mut keep = Keep::new(len);
        for &(start, len) in ranges {
            keep.keep(start, len);
        }
        keep.gone(3);
        (bytes, keep.map)
    }

    fn written(disk: &SimDisk, bytes: &[u8], map: &Map) -> Squeezed {
        let old = disk.open("old", true).unwrap();
        old.write_at(bytes, 0).unwrap();
        let file = write(disk, "new", &*old, map).unwrap();
        assert_eq!(file.len().unwrap(), map.file_len());
        Squeezed::open(&file).unwrap().expect("it is one").expect("it is whole")
    }

    /// What the segment reads as once it is squeezed.
    fn expected(bytes: &[u8], map: &Map) -> Vec<u8> {
        let kept = |at: usize| map.place_of(at as u64).is_some();
        bytes.iter().enumerate().map(|(at, &byte)| if kept(at) { byte } else { 0 }).collect()
    }

    #[test]
    fn every_range_reads_as_it_was_and_the_rest_as_zeros() {
        let disk = SimDisk::new(8 << 20);
        let ranges = [(512, 10), (600, 1), (602, 1), (5000, 400_000), (600_000, 100)];
        let (bytes, map) = example(&ranges, 600_200);
        assert_eq!(map.ranges.len(), 5, "what touches is one range");
        let squeezed = written(&disk, &bytes, &map);
        let expected = expected(&bytes, &map);
        for (offset, len) in [(0, 600_200), (0, 1), (511, 2), (521, 90), (599, 5), (405_000, 9)] {
            let mut buffer = vec![7; len];
            assert_eq!(squeezed.read_at(&mut buffer, offset as u64).unwrap(), len);
            assert!(buffer == expected[offset..offset + len], "{len} bytes at {offset}");
        }
        let mut buffer = [7; 300];
        assert_eq!(squeezed.read_at(&mut buffer, 600_000).unwrap(), 200, "it ends where it ended");
        assert_eq!(buffer[..100], expected[600_000..600_100]);
        assert_eq!(buffer[100..200], [0; 100]);
        assert_eq!(squeezed.read_at(&mut buffer, 600_200).unwrap(), 0);
        assert_eq!(squeezed.read_at(&mut buffer, u64::MAX).unwrap(), 0);
        disk.create_dir("log").unwrap();
        disk.rename("old", &segment_path(1)).unwrap();
        disk.rename("new", &segment_path(2)).unwrap();
        assert_eq!(taken_out(&disk).unwrap(), 3);
        squeezed.write_at(&[1], 0).unwrap_err();
        // Squeezed once more, from what is left.
        let (_, again) = example(&[(602, 1), (5000, 300_000)], 600_200);
        let file = write(&disk, "again", &squeezed, &again).unwrap();
        let squeezed = Squeezed::open(&file).unwrap().unwrap().unwrap();
        let mut buffer = vec![7; 600_200];
        squeezed.read_at(&mut buffer, 0).unwrap();
        let mut expected = expected;
        expected[512..602].fill(0);
        expected[305_000..].fill(0);
        assert!(buffer == expected);
    }

    #[test]
    fn every_flipped_bit_of_header_and_map_is_noticed_with_its_place() {
        let disk = SimDisk::new(1 << 20);
        let (bytes, map) = example(&[(600, 8), (700, 9)], 1000);
        drop(written(&disk, &bytes, &map));
        let file = disk.bytes("new").unwrap();
        let map_end = HEADER_LEN + 3 * RANGE_LEN;
        for at in 0..map_end * 8 {
            let mut bytes = file.clone();
            bytes[at / 8] ^= 1 << (at % 8);
            match Map::decode(&bytes, bytes.len() as u64) {
                None => assert!(at < 64, "bit {at}"),
                Some(result) => {
                    let place = if at < HEADER_LEN * 8 { 0 } else { HEADER_LEN as u64 };
                    assert_eq!(result.unwrap_err().offset, place, "bit {at}");
                }
            }
        }
        for len in 8..file.len() {
            let cut = Map::decode(&file[..len], len as u64).expect("it has its magic");
            assert!(cut.unwrap_err().offset <= len as u64, "length {len}");
        }
        let longer = Map::decode(&file, file.len() as u64 + 1).unwrap().unwrap_err();
        assert_eq!(longer.offset, file.len() as u64);
    }

    proptest! {
        #[test]
        fn what_is_written_reads_the_same_at_every_offset(
            gaps in proptest::collection::vec((0_u32..300, 0_u32..300), 0..40),
            reads in proptest::collection::vec((0_usize..14_000, 0_usize..3000), 1..20),
        ) {
            let mut at = SEGMENT_HEADER_LEN;
            let ranges: Vec<(u32, u32)> = gaps.iter().map(|&(gap, len)| {
                let start = at + gap;
                at = start + len;
                (start, len)
            }).collect();
            let disk = SimDisk::new(8 << 20);
            let (bytes, map) = example(&ranges, at + 3);
            prop_assert_eq!(Map::decode(&map.encode(), map.file_len()), Some(Ok(map.clone())));
            let squeezed = written(&disk, &bytes, &map);
            let expected = expected(&bytes, &map);
            for (offset, len) in reads {
                let mut buffer = vec![7; len];
                let got = squeezed.read_at(&mut buffer, offset as u64).unwrap();
                let until = (offset + len).min(expected.len()).max(offset);
                prop_assert_eq!(got, until - offset);
                prop_assert_eq!(&buffer[..got], expected.get(offset..until).unwrap_or_default());
            }
        }

        #[test]
        fn arbitrary_maps_under_good_checksums_never_panic(
            entries in proptest::collection::vec((0_u32..2000, 0_u32..2000), 0..20),
            len: u32,
            gone in 0_u64..3000,
            kept in 0_u64..5000,
        ) {
            let ranges = entries.iter().map(|&(start, len)| Range { start, len, at: 0 }).collect();
            let bytes = Map { len, gone, ranges }.encode();
            if let Some(Ok(map)) = Map::decode(&bytes, bytes.len() as u64 + kept) {
                // It accepts only what it would write.
                prop_assert_eq!(map.encode(), bytes);
            }
        }
    }
}
