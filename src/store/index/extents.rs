//! Where the bytes of a file are, at any sequence.
//!
//! Content is cut in chunks of 64 KiB. Each event that touched a chunk left one row, keyed by the
//! chunk and the sequence with the newest first; a row holds *parts* (a range of the chunk that is data,
//! zero or hole), which lie over the parts of older rows. A *whole* row lets nothing older through.
//!
//! ```text
//!                0                                            65536
//!  seq 90        |        |--- data ---|                        |
//!  seq 80        |   |-- hole --|                               |
//!  cut, seq 75   |                             |////////////////|
//!  seq 70 whole  |--- data ---|       |-------- data -----------|   nothing below is looked at
//! ```
//!
//! A *cut* makes a hole of any length in constant time (truncation, large punches): every row older than
//! the cut is void inside its range.
//!
//! Invariants: a chunk never collects more than `limit` rows over a whole one, where the limit is 16 and
//! a quarter of that row's parts: so a small write costs a constant, and a question at any
//! sequence reads what one about the present reads. A file has at most [`CUTS_MAX`] cuts.

use std::ops::ControlFlow;

use smallvec::SmallVec;

use super::super::event::{FileId, Ino, Location, Seq};
use super::codec::{self, ChunkHead, Node};
use super::key::{self, LAST};
use super::{IndexError, Stretch, Tables};

/// Length of a chunk, in bytes.
pub(super) const CHUNK: u32 = 1 << 16;
/// [`CHUNK`], as offsets are counted.
pub(super) const CHUNK_LEN: u64 = CHUNK as u64;
/// Rows a chunk may have, one whole, before the next must be whole.
pub(super) const ROWS_MIN: u64 = 16;
/// Ranges of more chunks than this are cut; smaller ones get hole or zero parts.
pub(super) const SMALL_CHUNKS: u64 = 16;
/// Most cuts of one file; the cheapest of more is carried out, chunk by chunk.
pub(super) const CUTS_MAX: usize = 16;
/// Most rows of a chunk that are looked at to tell what was laid there.
const LOOK_MAX: u32 = 1000;
/// Most chunks that are looked at to count what a range holds.
const COUNT_MAX: u64 = 4096;

/// A range of a chunk that one event set.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Part {
    /// First byte in the chunk.
    pub(super) start: u32,
    /// Length in bytes.
    pub(super) len: u32,
    /// What is there.
    pub(super) what: What,
}

/// What a range of a file is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum What {
    /// Nothing: reads as zeros, takes no space.
    Hole,
    /// Set aside or zeroed: reads as zeros, takes space, and `SEEK_DATA` passes over it.
    Zero,
    /// Bytes, the first of them here.
    At(Location),
}

impl What {
    /// The same, `bytes` further on.
    pub(super) const fn advance(self, bytes: u64) -> Self {
        match self {
            Self::At(location) => Self::At(location.advance(bytes)),
            other => other,
        }
    }
}

impl Part {
    pub(super) const fn end(&self) -> u32 {
        self.start + self.len
    }

    /// What of this lies in `start..end`.
    pub(super) fn clip(&self, start: u32, end: u32) -> Option<Self> {
        let (from, to) = (self.start.max(start), self.end().min(end));
        let what = self.what.advance(u64::from(from.saturating_sub(self.start)));
        (from < to).then(|| Self { start: from, len: to - from, what })
    }
}

/// A range in which everything older is void. `end` is `u64::MAX` for a truncation.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Cut {
    pub(super) start: u64,
    pub(super) end: u64,
    pub(super) seq: Seq,
}

/// A chunk as put together from its rows: parts ascending and apart, the rest is hole.
#[derive(Clone, Debug, Default)]
pub(super) struct Chunk {
    pub(super) parts: SmallVec<[Part; 8]>,
    covered: u32,
}

impl Chunk {
    /// Lays `part` under what is there.
    pub(super) fn lay_under(&mut self, part: Part) {
        let mut from = part.start;
        let mut at = self.parts.partition_point(|over| over.end() <= part.start);
        while from < part.end() {
            let over = self.parts.get(at).copied();
            let gap_end = over.map_or(part.end(), |over| over.start.min(part.end()));
            if let Some(shown) = part.clip(from, gap_end) {
                self.covered += shown.len;
                self.parts.insert(at, shown);
                at += 1;
            }
            match over {
                Some(over) => from = from.max(over.end()),
                None => break,
            }
            at += 1;
        }
    }

    /// Zeros for what no part of this covers in `start..end`.
    pub(super) fn gaps(&self, start: u32, end: u32) -> Vec<Part> {
        let mut gaps = Vec::new();
        let mut from = start;
        let mut gap = |from: u32, to: u32| {
            if from < to {
                gaps.push(Part { start: from, len: to - from, what: What::Zero });
            }
        };
        for part in self.parts.iter().filter(|part| part.end() > start && part.start < end) {
            gap(from, part.start);
            from = part.end();
        }
        gap(from, end);
        gaps
    }

    /// Whether nothing older can show.
    pub(super) const fn is_covered(&self) -> bool {
        self.covered >= CHUNK
    }

    /// Without parts that only say hole, and with neighbours in one file as one: what a whole row keeps.
    pub(super) fn simplify(&mut self) {
        self.parts.retain(|part| part.what != What::Hole);
        self.parts.dedup_by(|next, last| {
            let follows =
                last.end() == next.start && last.what.advance(u64::from(last.len)) == next.what;
            if follows {
                last.len += next.len;
            }
            follows
        });
    }
}

/// The newest row of a chunk.
#[derive(Clone, Copy, Debug)]
pub(super) struct Newest {
    pub(super) seq: Seq,
    pub(super) head: ChunkHead,
}

/// The chunks that `start..end` touches: the chunk and the range in it.
pub(super) fn chunks_of(start: u64, end: u64) -> impl Iterator<Item = (u64, u32, u32)> {
    let last = if start < end { end.div_ceil(CHUNK_LEN) } else { 0 };
    (start / CHUNK_LEN..last).map(move |chunk| {
        let base = chunk * CHUNK_LEN;
        let from = start.saturating_sub(base);
        let to = (end - base).min(CHUNK_LEN);
        // Both are at most a chunk long.
        (chunk, from as u32, to as u32)
    })
}

/// How many bytes of `start..end` lie in `ranges` (ascending, apart).
pub(super) fn overlap(ranges: &[(u64, u64)], start: u64, end: u64) -> u64 {
    ranges.iter().map(|&(from, to)| to.min(end).saturating_sub(from.max(start))).sum()
}

impl Tables {
    /// Calls `visit(seq, value)` for the rows of a chunk that event `at` or an older one left, newest first.
    fn walk_chunk(
        &self,
        ino: Ino,
        chunk: u64,
        at: Seq,
        mut visit: impl FnMut(Seq, &[u8]) -> Result<ControlFlow<()>, IndexError>,
    ) -> Result<(), IndexError> {
        let (from, to) =
            (key::chunk(ino, chunk, at.0), key::chunk(ino, chunk, LAST).end_of_chunk());
        let seq_of = |key: &[u8]| {
            let mut fields = key::Fields::of(key);
            let (_, _) = (fields.short()?, fields.short()?);
            Ok::<_, IndexError>(Seq(LAST - fields.short()?))
        };
        // Each event is newer than all before it, so a newer layer's rows of one chunk come first; a
        // row that is in two layers is a relocated one, and whole, so the older is not looked at.
        for layer in self.layers_of(Some(ino)) {
            for (key, slot) in layer.range(&from, &to) {
                let Some(value) = &slot.value else { continue };
                self.visited();
                if visit(seq_of(key.as_slice())?, value.as_slice())?.is_break() {
                    return Ok(());
                }
            }
        }
        if let Some(engine) = self.engine_of(Some(ino)) {
            let mut rows = engine.range(&from, &to)?;
            while let Some(row) = rows.next()? {
                self.visited();
                if visit(seq_of(row.key())?, row.value())?.is_break() {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// The newest row of a chunk after event `at`.
    pub(super) fn newest(
        &self,
        ino: Ino,
        chunk: u64,
        at: Seq,
    ) -> Result<Option<Newest>, IndexError> {
        let mut newest = None;
        self.walk_chunk(ino, chunk, at, |seq, value| {
            let (head, _) = codec::decode_chunk(value)?;
            newest = Some(Newest { seq, head });
            Ok(ControlFlow::Break(()))
        })?;
        Ok(newest)
    }

    /// Whether an event after `since` laid bytes that lie in `start..end` of a file of the store into a range (offset,
    /// length) of `ino`: also if another has laid something over them since, and, where too much happened
    /// to look at, if none has.
    pub(in super::super) fn laid_since(
        &self,
        ino: Ino,
        (offset, len): (u64, u64),
        (file, start, end): (FileId, u64, u64),
        since: Seq,
    ) -> Result<bool, IndexError> {
        let mut found = false;
        for (chunk, ..) in chunks_of(offset, offset.saturating_add(len)) {
            let mut rows = 0;
            self.walk_chunk(ino, chunk, Seq(LAST), |seq, value| {
                rows += 1;
                if seq <= since {
                    return Ok(ControlFlow::Break(()));
                }
                found |= rows > LOOK_MAX;
                let (_, mut parts) = codec::decode_chunk(value)?;
                while let Some(part) = parts.next()?.filter(|_| !found) {
                    let What::At(at) = part.what else { continue };
                    let until = at.offset.saturating_add(part.len.into());
                    found = at.file == file && at.offset < end && until > start;
                }
                Ok(if found { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
            })?;
            if found {
                break;
            }
        }
        Ok(found)
    }

    /// What a chunk is after event `at`, where `cuts` are the file's at that event; `None` if no row says.
    pub(super) fn resolve(
        &self,
        ino: Ino,
        chunk: u64,
        at: Seq,
        cuts: &[Cut],
    ) -> Result<Option<Chunk>, IndexError> {
        let base = chunk.saturating_mul(CHUNK_LEN);
        let clip = |cut: &Cut| {
            let start = cut.start.saturating_sub(base).min(CHUNK_LEN) as u32;
            let end = cut.end.saturating_sub(base).min(CHUNK_LEN) as u32;
            (start < end).then_some((cut.seq, Part { start, len: end - start, what: What::Hole }))
        };
        // Cuts are kept in the order they were made, so the last is the newest.
        let mut cuts = cuts.iter().rev().filter_map(clip).peekable();
        let mut done = Chunk::default();
        let mut found = false;
        self.walk_chunk(ino, chunk, at, |seq, value| {
            found = true;
            while let Some((_, hole)) = cuts.next_if(|(cut, _)| *cut > seq) {
                done.lay_under(hole);
            }
            if done.is_covered() {
                return Ok(ControlFlow::Break(()));
            }
            let (head, mut parts) = codec::decode_chunk(value)?;
            while let Some(part) = parts.next()? {
                done.lay_under(part);
            }
            let stop = head.whole || done.is_covered();
            Ok(if stop { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        })?;
        Ok(found.then_some(done))
    }

    /// The first chunk at or after `chunk` that has any row at all.
    pub(super) fn next_chunk(&self, ino: Ino, chunk: u64) -> Result<Option<u64>, IndexError> {
        if chunk > LAST {
            return Ok(None);
        }
        let from = key::chunk(ino, chunk, LAST);
        let to = key::chunk(ino, LAST, LAST).end_of_inode();
        let mut rows = self.cursor(Some(ino), &from, &to)?;
        if !rows.next()? {
            return Ok(None);
        }
        let mut fields = key::Fields::of(rows.key());
        fields.short()?;
        Ok(Some(fields.short()?))
    }

    /// The cuts of an inode after event `at`, in the order they were made.
    pub(super) fn cuts(&self, node: &Node, at: Seq) -> Result<Vec<Cut>, IndexError> {
        if !node.cut {
            return Ok(Vec::new());
        }
        let row = self.version(&key::cuts(node.inode.ino), at)?;
        row.map_or(Ok(Vec::new()), |value| codec::decode_cuts(&value))
    }

    /// Calls `visit(offset, len, what)` for all that is data or zero in `start..end` of `node` (as it
    /// is after event `at`), ascending, until `chunks` chunks with rows were looked at. Returns where it stopped.
    pub(super) fn pieces(
        &self,
        node: &Node,
        (start, end): (u64, u64),
        at: Seq,
        chunks: u64,
        mut visit: impl FnMut(u64, u64, What) -> ControlFlow<()>,
    ) -> Result<u64, IndexError> {
        let ino = node.inode.ino;
        let end = end.min(node.high);
        if start >= end {
            return Ok(end);
        }
        let cuts = self.cuts(node, at)?;
        let (mut chunk, last) = (start / CHUNK_LEN, end.div_ceil(CHUNK_LEN));
        let mut left = chunks;
        while chunk < last {
            let base = chunk * CHUNK_LEN;
            if left == 0 {
                return Ok(base.max(start));
            }
            let Some(found) = self.resolve(ino, chunk, at, &cuts)? else {
                match self.next_chunk(ino, chunk + 1)? {
                    Some(next) => chunk = next,
                    None => break,
                }
                continue;
            };
            left -= 1;
            let from = start.saturating_sub(base).min(CHUNK_LEN) as u32;
            let to = (end - base).min(CHUNK_LEN) as u32;
            for part in found.parts.iter().filter_map(|part| part.clip(from, to)) {
                let offset = base + u64::from(part.start);
                if part.what != What::Hole
                    && visit(offset, u64::from(part.len), part.what).is_break()
                {
                    return Ok(offset);
                }
            }
            chunk += 1;
        }
        Ok(end)
    }

    /// Bytes in `start..end` of the present `node` that are data or zero and not in one of its reserves.
    ///
    /// Exact for up to 4096 chunks with rows; what is behind them is taken to be as full as it can be.
    pub(super) fn count(&self, node: &Node, start: u64, end: u64) -> Result<u64, IndexError> {
        let reserved: u64 = node.reserves.iter().map(|(from, to)| to - from).sum();
        let all = node.inode.allocated.saturating_sub(reserved);
        let end = end.min(node.high);
        if start >= end || all == 0 {
            return Ok(0);
        }
        if start == 0 && end == node.high {
            return Ok(all);
        }
        if node.is_dense() {
            return Ok(end - start);
        }
        let mut bytes = 0;
        let stop = self.pieces(node, (start, end), Seq::NOW, COUNT_MAX, |offset, len, _| {
            bytes += len - overlap(&node.reserves, offset, offset + len);
            ControlFlow::Continue(())
        })?;
        let unseen = end.saturating_sub(stop);
        let unreserved = unseen - overlap(&node.reserves, stop, end).min(unseen);
        Ok(bytes + unreserved.min(all.saturating_sub(bytes)))
    }

    pub(super) fn stretches_at(
        &self,
        ino: Ino,
        offset: u64,
        len: u64,
        at: Seq,
        out: &mut Vec<Stretch>,
    ) -> Result<(), IndexError> {
        let end = offset.saturating_add(len);
        let first = out.len();
        let mut push = |stretch: Stretch| {
            let joins = |last: &Stretch| match (last.at, stretch.at) {
                (Some(one), Some(next)) => one.advance(last.len) == next,
                (None, None) => true,
                _ => false,
            };
            match out.get_mut(first..).and_then(<[Stretch]>::last_mut) {
                Some(last) if joins(last) => last.len += stretch.len,
                _ => out.push(stretch),
            }
        };
        let mut done = offset;
        if let Some(node) = self.node(ino, at)? {
            self.pieces(&node, (offset, end), at, u64::MAX, |start, len, what| {
                if done < start {
                    push(Stretch { offset: done, len: start - done, at: None });
                }
                let at = match what {
                    What::At(location) => Some(location),
                    What::Hole | What::Zero => None,
                };
                push(Stretch { offset: start, len, at });
                done = start + len;
                ControlFlow::Continue(())
            })?;
        }
        if done < end {
            push(Stretch { offset: done, len: end - done, at: None });
        }
        Ok(())
    }

    pub(super) fn seek_at(
        &self,
        ino: Ino,
        offset: u64,
        hole: bool,
        at: Seq,
        chunks: u64,
    ) -> Result<Sought, IndexError> {
        let Some(node) = self.node(ino, at)? else { return Ok(Sought::Nowhere) };
        let size = node.inode.size;
        if offset >= size {
            return Ok(Sought::Nowhere);
        }
        // `done`: up to where everything since `offset` is data.
        let (mut done, mut data, mut met_hole) = (offset, None, false);
        let stop = self.pieces(&node, (offset, size), at, chunks, |start, len, what| {
            match what {
                What::At(_) if !hole => {
                    data = Some(start);
                    return ControlFlow::Break(());
                }
                What::At(_) if start == done => done = start + len,
                // A gap, or zeros: the hole begins where data ended.
                _ if hole => {
                    met_hole = true;
                    return ControlFlow::Break(());
                }
                _ => (),
            }
            ControlFlow::Continue(())
        })?;
        let is_cut_short = !met_hole && stop < size.min(node.high);
        Ok(match data {
            Some(data) => Sought::At(data),
            None if !hole && is_cut_short => Sought::FurtherOn(stop),
            None if !hole => Sought::Nowhere,
            // All that was looked at is data, and there is more.
            None if is_cut_short && done >= stop => Sought::FurtherOn(stop),
            None => Sought::At(done.min(size)),
        })
    }
}

/// What came of looking for data, or for a hole, in a part of a file.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Sought {
    /// It is there.
    At(u64),
    /// There is none up to here; behind it nobody has looked.
    FurtherOn(u64),
    /// There is none.
    Nowhere,
}

impl Node {
    /// Whether every byte below `high` is data or zero: then nothing need be counted.
    pub(super) const fn is_dense(&self) -> bool {
        self.reserves.is_empty() && self.inode.allocated == self.high
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::event::FileId;
    use super::*;

    fn data(start: u32, len: u32, offset: u64) -> Part {
        Part { start, len, what: What::At(Location { file: FileId::Log(1), offset }) }
    }

    #[test]
    fn an_older_part_shows_only_where_nothing_lies_over_it() {
        let mut chunk = Chunk::default();
        chunk.lay_under(data(10, 10, 0));
        chunk.lay_under(Part { start: 30, len: 5, what: What::Hole });
        chunk.lay_under(data(0, 100, 1000));
        let shown: Vec<_> = chunk.parts.iter().map(|part| (part.start, part.len)).collect();
        assert_eq!(shown, [(0, 10), (10, 10), (20, 10), (30, 5), (35, 65)]);
        assert_eq!(chunk.parts[4], data(35, 65, 1035));
        assert_eq!(chunk.covered, 100);
    }

    #[test]
    fn neighbours_in_one_file_become_one_part() {
        let mut chunk = Chunk::default();
        chunk.lay_under(data(0, 10, 50));
        chunk.lay_under(data(10, 10, 60));
        chunk.lay_under(data(20, 10, 99));
        chunk.simplify();
        assert_eq!(chunk.parts[..], [data(0, 20, 50), data(20, 10, 99)]);
    }

    #[test]
    fn the_chunks_of_a_range_tile_it() {
        let all: Vec<_> = chunks_of(65_530, 131_080).collect();
        assert_eq!(all, [(0, 65_530, 65_536), (1, 0, 65_536), (2, 0, 8)]);
        assert_eq!(chunks_of(5, 5).count(), 0);
    }
}
