//! Reads bytes of the store against the checksum of the record that wrote them, found by where they lie.
//!
//! ```text
//!   segment    |--stop-----------stop-----------stop----- ... ---|
//!              a place to read on from, and how far content files were filled by the records before it
//! ```
//!
//! The index knows where the bytes of a file are, and no checksum of them; the checksums are in the records that
//! wrote them. A short write is in its record, so the place of the bytes is in the record's place. An extent is
//! referred to by a record that comes soon after the extent was set aside, and content files are only ever appended to: so
//! it is behind the last stop before which nothing reached as far. Stops come to be as segments are read: each is
//! read through once, and from then on a stop's length for each piece.
//!
//! Invariants: bytes that are said to be whole are the ones that were checked, not read once more.

use std::collections::hash_map;
use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::codec::Note;
use super::content::{PAGE, PIECE, content_path};
use super::disk::File;
use super::event::{FileId, Location, Place};
use super::journal::Journal;
use super::log::{LogReader, Mark, Next};
use super::record::{Entry, Record};
use super::segment::{
    Position, last_where, open_segment, read_header, segment_numbers, segment_path,
};

/// Bytes of log between two stops.
const STEP: u32 = 64 << 10;
/// How much log is looked at behind the first record that refers to content further on: one that was set aside
/// earlier may be referred to later, where many write at once.
const SLACK: u32 = 1 << 20;
/// Segments whose stops are kept.
const SEGMENTS_MAX: usize = 64;

/// What became of reading.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Read {
    /// They are what was written.
    Whole,
    /// What the checksum covers beside them was given back in part, so nobody can tell.
    Unchecked,
    /// They do not match their checksum: where.
    Damaged(String),
    /// The record that wrote them was not found.
    Unknown,
}

/// Where content files were filled up to: the file's number and an offset in it.
type Filled = (u32, u64);

/// A place to read on from.
#[derive(Clone, Copy)]
struct Stop {
    mark: Mark,
    /// No record before refers to content behind this.
    filled: Filled,
}

/// Finds records by what they wrote.
#[derive(Default)]
pub(super) struct Sources {
    /// Ascending, the first one at the segment's start.
    stops: FxHashMap<u32, Vec<Stop>>,
    /// Where the last one was found: the next one often lies right behind.
    last: Option<(u32, LogReader, Filled)>,
}

/// An extent as its record has it.
struct Extent {
    offset: u64,
    len: u64,
    /// CRC-32C of each piece, little-endian.
    crcs: Vec<u8>,
}

impl Sources {
    /// Fills `out` with the bytes at `at`, which a write or a relocation put there as they are or as a part of more.
    /// Hold a [`Pin`](super::Pin) from before it was asked where they are.
    pub(super) fn read(
        &mut self,
        journal: &Journal,
        at: Location,
        out: &mut [u8],
    ) -> io::Result<Read> {
        match at.file {
            FileId::Log(segment) => self.read_inline(journal, segment, at.offset, out),
            FileId::Content(file) => self.read_extents(journal, file, at.offset, out),
        }
    }

    fn read_inline(
        &mut self,
        journal: &Journal,
        segment: u32,
        offset: u64,
        out: &mut [u8],
    ) -> io::Result<Read> {
        let is_before = |stop: &Stop| u64::from(stop.mark.position.offset) <= offset;
        let found = self.scan(journal, segment, is_before, &mut |position, record, _| {
            let start = u64::from(position.offset);
            let Some(inside) = offset.checked_sub(start) else {
                return ControlFlow::Break(Read::Unknown);
            };
            let Some(inside) = usize::try_from(inside).ok().filter(|&at| at < record.len()) else {
                return ControlFlow::Continue(());
            };
            // Reading the record has checked its tail.
            let bytes = inside
                .checked_sub(record.covered.len())
                .and_then(|from| record.tail.get(from..)?.get(..out.len()));
            ControlFlow::Break(match bytes {
                Some(_) if record.gone => {
                    Read::Damaged(format!("{}, byte {offset}", segment_path(segment)))
                }
                Some(bytes) => {
                    out.copy_from_slice(bytes);
                    Read::Whole
                }
                None => Read::Unknown,
            })
        })?;
        // The log ends, or is damaged, before it comes to the record.
        let damaged = || Read::Damaged(format!("{}, byte {offset}", segment_path(segment)));
        Ok(found.unwrap_or_else(damaged))
    }

    /// What lies side by side in a content file may be of several writes.
    fn read_extents(
        &mut self,
        journal: &Journal,
        number: u32,
        offset: u64,
        out: &mut [u8],
    ) -> io::Result<Read> {
        let file = journal.content().file(FileId::Content(number))?;
        let (mut at, mut rest, mut read) = (offset, out, Read::Whole);
        while !rest.is_empty() {
            let Some(extent) = self.extent(journal, (number, at))? else {
                return Ok(Read::Unknown);
            };
            let left = extent.offset.saturating_add(extent.len) - at;
            let len = usize::try_from(left).unwrap_or(usize::MAX).min(rest.len());
            let (here, after) = rest.split_at_mut(len);
            match read_pieces(&*file, &extent, at, here)? {
                Read::Whole => (),
                Read::Damaged(_) => {
                    return Ok(Read::Damaged(format!("{}, byte {at}", content_path(number))));
                }
                other => read = other,
            }
            (at, rest) = (at + len as u64, after);
        }
        Ok(read)
    }

    /// The extent that holds the byte at a place of a content file.
    fn extent(&mut self, journal: &Journal, place: Filled) -> io::Result<Option<Extent>> {
        // As a rule it is the one right behind the last.
        let near = self.last.as_ref().filter(|(.., filled)| *filled <= place);
        if let Some(number) = near.map(|(number, ..)| *number)
            && let Some(extent) = self.extent_in(journal, number, place)?
        {
            return Ok(Some(extent));
        }
        let (disk, store) = (&**journal.disk(), journal.store_id());
        let numbers = segment_numbers(disk)?;
        let last = last_where(disk, store, &numbers, |start| {
            (start.content_file, start.content_offset) <= place
        })?;
        // Content that was set aside before a segment was begun may be referred to in it.
        for &number in numbers.get(last..).unwrap_or_default().iter().take(2) {
            if let Some(extent) = self.extent_in(journal, number, place)? {
                return Ok(Some(extent));
            }
        }
        Ok(None)
    }

    /// The same, if a record in this segment refers to it.
    fn extent_in(
        &mut self,
        journal: &Journal,
        number: u32,
        place: Filled,
    ) -> io::Result<Option<Extent>> {
        let mut beyond = None;
        let is_before = |stop: &Stop| stop.filled <= place;
        let found = self.scan(journal, number, is_before, &mut |position, _, entry| {
            let Some((file, offset, len, crcs)) = entry.and_then(extent_of) else {
                return ControlFlow::Continue(());
            };
            let end = offset.saturating_add(len);
            if file == place.0 && (offset..end).contains(&place.1) {
                let crcs = crcs.to_vec();
                return ControlFlow::Break(Some(Extent { offset, len, crcs }));
            }
            if (file, offset) > place {
                let first = *beyond.get_or_insert(position.offset);
                if position.offset - first > SLACK {
                    return ControlFlow::Break(None);
                }
            }
            ControlFlow::Continue(())
        })?;
        Ok(found.flatten())
    }

    /// Reads a segment from the last place for which `is_before` holds, or from its start, until `visit` breaks; `None`
    /// if it does not.
    fn scan<T>(
        &mut self,
        journal: &Journal,
        number: u32,
        is_before: impl Fn(&Stop) -> bool,
        visit: &mut Visit<'_, T>,
    ) -> io::Result<Option<T>> {
        if self.stops.len() >= SEGMENTS_MAX && !self.stops.contains_key(&number) {
            self.stops.clear();
        }
        let Some((mut reader, mut filled)) = self.reader(journal, number, is_before)? else {
            return Ok(None);
        };
        loop {
            let Next::Record(position, record) = reader.read_here()? else { return Ok(None) };
            let flow = {
                let entry = record.entry();
                if let Some((file, offset, len, _)) = entry.as_ref().and_then(extent_of) {
                    filled = filled.max((file, offset.saturating_add(len)));
                }
                visit(position, &record, entry.as_ref())
            };
            let mark = reader.mark();
            if let Some(stops) = self.stops.get_mut(&number)
                && let Some(last) = stops.last()
                && mark.position.offset.saturating_sub(last.mark.position.offset) >= STEP
            {
                stops.push(Stop { mark, filled });
            }
            if let ControlFlow::Break(found) = flow {
                self.last = Some((number, reader, filled));
                return Ok(Some(found));
            }
        }
    }

    /// A reader at the last known place for which `is_before` holds; `None` if the segment cannot be read.
    fn reader(
        &mut self,
        journal: &Journal,
        number: u32,
        is_before: impl Fn(&Stop) -> bool,
    ) -> io::Result<Option<(LogReader, Filled)>> {
        let disk = journal.disk();
        let open = || match open_segment(&**disk, number) {
            Ok(file) => Ok(Some(file)),
            Err(err)
                if matches!(err.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidData) =>
            {
                Ok(None)
            }
            Err(err) => Err(err),
        };
        let stops = match self.stops.entry(number) {
            hash_map::Entry::Occupied(known) => known.into_mut(),
            hash_map::Entry::Vacant(new) => {
                let Some(file) = open()? else { return Ok(None) };
                let store = journal.store_id();
                let Some(start) = read_header(&*file, store, number)? else { return Ok(None) };
                let (position, prev, seq) = (Position::start_of(number), start.prev, start.seq);
                let mark = Mark { store, position, prev, seq };
                let filled = (start.content_file, start.content_offset);
                new.insert(vec![Stop { mark, filled }])
            }
        };
        let at = stops.partition_point(&is_before).saturating_sub(1);
        let Some(&stop) = stops.get(at) else { return Ok(None) };
        if let Some((last, reader, filled)) = self.last.take()
            && last == number
            && reader.mark().position >= stop.mark.position
            && is_before(&Stop { mark: reader.mark(), filled })
        {
            return Ok(Some((reader, filled)));
        }
        let Some(file) = open()? else { return Ok(None) };
        Ok(Some((LogReader::from_mark(Arc::clone(disk), file, stop.mark), stop.filled)))
    }
}

/// Takes (place, record, what it says); breaks with what was looked for.
type Visit<'v, T> = dyn FnMut(Position, &Record<'_>, Option<&Entry<'_>>) -> ControlFlow<T> + 'v;

/// File, offset, length and checksums of the extent that a record refers to.
fn extent_of<'e>(entry: &'e Entry<'_>) -> Option<(u32, u64, u64, &'e [u8])> {
    let data = match entry {
        Entry::Event(event) => event.change.data()?,
        Entry::Note(Note::Relocation { data, .. }) => data,
        Entry::Note(_) => return None,
    };
    match data.place {
        Place::Extent { location: Location { file: FileId::Content(file), offset }, len, crcs } => {
            Some((file, offset, len, crcs))
        }
        _ => None,
    }
}

/// Fills `out` with what lies at `at` of an extent, all that its checksums cover beside it being read too.
fn read_pieces(file: &dyn File, extent: &Extent, at: u64, out: &mut [u8]) -> io::Result<Read> {
    let mut piece = vec![0; PIECE];
    let mut read = Read::Whole;
    let inside = at - extent.offset;
    let end = inside + out.len() as u64;
    let mut start = inside / PIECE as u64 * PIECE as u64;
    while start < end {
        let len = (extent.len - start).min(PIECE as u64);
        let crc = usize::try_from(start / PIECE as u64)
            .ok()
            .and_then(|nth| extent.crcs.get(nth.checked_mul(4)?..)?.first_chunk::<4>());
        // No longer than a piece.
        let bytes = &mut piece[..len as usize];
        let got = file.read_at(bytes, extent.offset + start)?;
        let (from, to) = (inside.max(start), end.min(start + len));
        // Both lie in the piece, and in what is asked for.
        let wanted = (from - start) as usize..(to - start) as usize;
        if got < bytes.len() || crc != Some(&crc32c::crc32c(bytes).to_le_bytes()) {
            if got < bytes.len() || !has_blank_page(bytes, &wanted) {
                return Ok(Read::Damaged(String::new()));
            }
            read = Read::Unchecked;
        }
        out[(from - inside) as usize..(to - inside) as usize].copy_from_slice(&bytes[wanted]);
        start += len;
    }
    Ok(read)
}

/// Whether a page of a piece reads as zeros, as one does that was given back; none that is needed was.
fn has_blank_page(bytes: &[u8], needed: &std::ops::Range<usize>) -> bool {
    let page = PAGE as usize;
    let outside = |nth: usize| nth * page >= needed.end || (nth + 1) * page <= needed.start;
    let mut pages = bytes.chunks(page).enumerate();
    pages.any(|(nth, bytes)| outside(nth) && bytes.iter().all(|&byte| byte == 0))
}
