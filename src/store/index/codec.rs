//! Values: little numbers take few bytes.
//!
//! Numbers are LEB128: seven bits a byte, low ones first, the top bit says that more follow; signed
//! ones are zigzagged before. A value with a life begins with the sequence of its birth in 6 bytes, so
//! that a live row becomes a dead one as it is.

use super::super::event::{FileId, Ino, Location, Seq, Timestamp};
use super::extents::{Cut, Part, What};
use super::pages::SETS;
use super::{IndexError, Inode};

/// Appends numbers to a value.
#[derive(Debug, Default)]
pub(super) struct Writer(pub(super) Vec<u8>);

impl Writer {
    /// A value that was born at `birth`.
    pub(super) fn born(birth: Seq) -> Self {
        let [_, _, bytes @ ..] = birth.0.to_be_bytes();
        // As long as most values are, so that they are allocated once.
        let mut value = Vec::with_capacity(64);
        value.extend_from_slice(&bytes);
        Self(value)
    }

    /// Appends one number.
    pub(super) fn number(&mut self, mut number: u64) -> &mut Self {
        while number >= 0x80 {
            self.0.push((number & 0x7f) as u8 | 0x80);
            number >>= 7;
        }
        self.0.push(number as u8);
        self
    }

    /// Appends the difference `number - base`, whichever way it goes.
    pub(super) fn difference(&mut self, number: u64, base: u64) -> &mut Self {
        let difference = number.wrapping_sub(base).cast_signed();
        self.number((difference << 1 ^ difference >> 63).cast_unsigned())
    }

    fn location(&mut self, location: Location) -> &mut Self {
        let (kind, number) = file_to_parts(location.file);
        self.number(u64::from(number) << 1 | u64::from(kind)).number(location.offset)
    }
}

/// Takes numbers off the front of a value.
#[derive(Clone, Copy)]
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    /// Splits the birth from a value.
    pub(super) fn born(value: &'a [u8]) -> Result<(Seq, Self), IndexError> {
        let (birth, rest) = value.split_first_chunk::<6>().ok_or_else(damaged)?;
        let [a, b, c, d, e, f] = *birth;
        Ok((Seq(u64::from_be_bytes([0, 0, a, b, c, d, e, f])), Self(rest)))
    }

    /// Takes one number.
    pub(super) fn number(&mut self) -> Result<u64, IndexError> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let (&byte, rest) = self.0.split_first().ok_or_else(damaged)?;
            self.0 = rest;
            number |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(number);
            }
        }
        Err(damaged())
    }

    /// Takes a number as its difference from `base`.
    pub(super) fn difference(&mut self, base: u64) -> Result<u64, IndexError> {
        let number = self.number()?;
        let difference = (number >> 1).cast_signed() ^ -((number & 1).cast_signed());
        Ok(base.wrapping_add(difference.cast_unsigned()))
    }

    /// Takes so many bytes.
    pub(super) fn bytes(&mut self, len: u64) -> Result<&'a [u8], IndexError> {
        let len = usize::try_from(len).map_err(|_| damaged())?;
        let (bytes, rest) = self.0.split_at_checked(len).ok_or_else(damaged)?;
        self.0 = rest;
        Ok(bytes)
    }

    /// Takes a number that has 32 bits.
    pub(super) fn small(&mut self) -> Result<u32, IndexError> {
        self.number()?.try_into().map_err(|_| damaged())
    }

    /// Whether nothing is left.
    pub(super) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn location(&mut self) -> Result<Location, IndexError> {
        let file = self.number()?;
        let number = u32::try_from(file >> 1).map_err(|_| damaged())?;
        let file = if file & 1 == 0 { FileId::Log(number) } else { FileId::Content(number) };
        Ok(Location { file, offset: self.number()? })
    }
}

fn damaged() -> IndexError {
    IndexError::Damaged("a value cannot be decoded".into())
}

/// A file as two numbers that order as files do.
pub(super) const fn file_to_parts(file: FileId) -> (u8, u32) {
    match file {
        FileId::Log(number) => (0, number),
        FileId::Content(number) => (1, number),
    }
}

/// Everything the index keeps of one inode.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Node {
    /// What is told of it.
    pub(super) inode: Inode,
    /// No piece of content reaches beyond this offset.
    pub(super) high: u64,
    /// Whether it has a row of cuts.
    pub(super) cut: bool,
    /// Ranges set aside that are too large to be pieces: ascending, apart.
    pub(super) reserves: Vec<(u64, u64)>,
    /// How often each of its sets changed, up to where that has pages; see `pages`.
    pub(super) changes: [u8; SETS],
}

impl Node {
    /// The value of its row.
    pub(super) fn encode(&self) -> Vec<u8> {
        let Self { inode, high, cut, reserves, changes } = self;
        let mut out = Writer::born(inode.changed);
        out.number(u64::from(inode.mode))
            .number(u64::from(inode.nlink))
            .number(u64::from(inode.uid))
            .number(u64::from(inode.gid))
            .number(inode.rdev)
            .number(inode.size)
            .difference(inode.allocated, inode.size)
            .difference(*high, inode.size)
            .number(inode.entries);
        let ctime = inode.ctime.0.cast_unsigned();
        out.difference(ctime, 0);
        for time in [inode.atime, inode.mtime, inode.btime] {
            out.difference(time.0.cast_unsigned(), ctime);
        }
        let changed = *changes != [0; SETS];
        out.number(u64::from(inode.role) << 2 | u64::from(changed) << 1 | u64::from(*cut));
        if changed {
            out.0.extend_from_slice(changes);
        }
        for &(start, end) in reserves {
            out.number(start).number(end);
        }
        out.0
    }

    /// What [`Node::encode`] made.
    pub(super) fn decode(ino: Ino, value: &[u8]) -> Result<Self, IndexError> {
        let (changed, mut from) = Reader::born(value)?;
        let (mode, nlink, uid, gid) = (from.small()?, from.small()?, from.small()?, from.small()?);
        let (rdev, size) = (from.number()?, from.number()?);
        let (allocated, high) = (from.difference(size)?, from.difference(size)?);
        let entries = from.number()?;
        let ctime = from.difference(0)?;
        let mut time = || Ok::<_, IndexError>(Timestamp(from.difference(ctime)?.cast_signed()));
        let (atime, mtime, btime) = (time()?, time()?, time()?);
        let flags = from.number()?;
        let mut changes = [0; SETS];
        if flags & 2 == 2 {
            changes.copy_from_slice(from.bytes(SETS as u64)?);
        }
        let mut reserves = Vec::new();
        while !from.is_empty() {
            reserves.push((from.number()?, from.number()?));
        }
        Ok(Self {
            inode: Inode {
                ino,
                mode,
                nlink,
                uid,
                gid,
                rdev,
                size,
                allocated,
                entries,
                atime,
                mtime,
                ctime: Timestamp(ctime.cast_signed()),
                btime,
                changed,
                role: (flags >> 2) as u8,
            },
            high,
            cut: flags & 1 == 1,
            reserves,
            changes,
        })
    }
}

/// The head of a chunk's row: how it lies over older rows of the chunk.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct ChunkHead {
    /// Nothing older shows through: what the parts leave is hole.
    pub(super) whole: bool,
    /// Rows since the last whole one, this one included; 0 for a whole one.
    pub(super) rows: u64,
    /// With how many rows the next must be whole.
    pub(super) limit: u64,
}

/// The value of a chunk's row.
pub(super) fn encode_chunk(head: ChunkHead, parts: &[Part]) -> Vec<u8> {
    let mut out = Writer(Vec::with_capacity(16 * parts.len() + 4));
    out.number(head.rows << 1 | u64::from(head.whole)).number(head.limit);
    let mut at = 0;
    for part in parts {
        let kind = match part.what {
            What::Hole => 0,
            What::Zero => 1,
            What::At(_) => 2,
        };
        out.number(u64::from(part.start - at) << 2 | kind).number(u64::from(part.len));
        if let What::At(location) = part.what {
            out.location(location);
        }
        at = part.start + part.len;
    }
    out.0
}

/// The head of a chunk's row and what its parts are read from.
pub(super) fn decode_chunk(value: &[u8]) -> Result<(ChunkHead, Parts<'_>), IndexError> {
    let mut from = Reader(value);
    let rows = from.number()?;
    let head = ChunkHead { whole: rows & 1 == 1, rows: rows >> 1, limit: from.number()? };
    Ok((head, Parts { from, at: 0 }))
}

/// The parts of a chunk's row, ascending.
pub(super) struct Parts<'a> {
    from: Reader<'a>,
    at: u32,
}

impl Parts<'_> {
    /// The next part.
    pub(super) fn next(&mut self) -> Result<Option<Part>, IndexError> {
        if self.from.is_empty() {
            return Ok(None);
        }
        let start = self.from.number()?;
        let len = self.from.small()?;
        let what = match start & 3 {
            0 => What::Hole,
            1 => What::Zero,
            _ => What::At(self.from.location()?),
        };
        let start = u32::try_from(start >> 2).ok().and_then(|gap| gap.checked_add(self.at));
        let start = start.ok_or_else(damaged)?;
        self.at = start
            .checked_add(len)
            .filter(|&end| end <= super::extents::CHUNK)
            .ok_or_else(damaged)?;
        Ok(Some(Part { start, len, what }))
    }
}

/// The value of a row of cuts, without its birth.
pub(super) fn encode_cuts(cuts: &[Cut]) -> Vec<u8> {
    let mut out = Writer::default();
    for cut in cuts {
        out.number(cut.start).number(cut.end).number(cut.seq.0);
    }
    out.0
}

/// What [`encode_cuts`] made, behind its birth.
pub(super) fn decode_cuts(value: &[u8]) -> Result<Vec<Cut>, IndexError> {
    let (_, mut from) = Reader::born(value)?;
    let mut cuts = Vec::new();
    while !from.is_empty() {
        let (start, end, seq) = (from.number()?, from.number()?, from.number()?);
        cuts.push(Cut { start, end, seq: Seq(seq) });
    }
    Ok(cuts)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn numbers_and_differences_come_back(number: u64, base: u64) {
            let mut out = Writer::default();
            out.number(number).difference(number, base);
            let mut from = Reader(&out.0);
            prop_assert_eq!(from.number().unwrap(), number);
            prop_assert_eq!(from.difference(base).unwrap(), number);
            prop_assert!(from.is_empty());
        }

        #[test]
        fn any_bytes_decode_or_are_refused(bytes: Vec<u8>) {
            let _ = Node::decode(Ino(5), &bytes);
            let _ = decode_cuts(&bytes);
            if let Ok((_, mut parts)) = decode_chunk(&bytes) {
                while let Ok(Some(_)) = parts.next() {}
            }
        }

        #[test]
        fn an_inode_comes_back(
            numbers: [u32; 4], long: [u64; 5], times: [i64; 4], role in 0..8_u8, cut: bool, changes: [u8; SETS],
            reserves: Vec<(u64, u64)>,
        ) {
            let [mode, nlink, uid, gid] = numbers;
            let [rdev, size, allocated, entries, high] = long;
            let [atime, mtime, ctime, btime] = times.map(Timestamp);
            let changed = Seq(size >> 16);
            let inode = Inode {
                ino: Ino(7), mode, nlink, uid, gid, rdev, size, allocated, entries,
                atime, mtime, ctime, btime, changed, role,
            };
            let node = Node { inode, high, cut, reserves, changes };
            prop_assert_eq!(Node::decode(Ino(7), &node.encode()).unwrap(), node);
        }
    }

    #[test]
    fn a_chunk_comes_back() {
        let head = ChunkHead { whole: false, rows: 3, limit: 16 };
        let location = Location { file: FileId::Content(9), offset: 1 << 40 };
        let parts = [
            Part { start: 0, len: 10, what: What::Zero },
            Part { start: 10, len: 4096, what: What::At(location) },
            Part { start: 65_535, len: 1, what: What::Hole },
        ];
        let value = encode_chunk(head, &parts);
        let (read, mut from) = decode_chunk(&value).unwrap();
        assert_eq!(read, head);
        for part in parts {
            assert_eq!(from.next().unwrap(), Some(part));
        }
        assert_eq!(from.next().unwrap(), None);
    }
}
