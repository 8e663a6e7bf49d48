//! Entries of a directory, into a buffer that the caller bounds: replies to READDIR and
//! READDIRPLUS.
//!
//! ```text
//! READDIR        | ino u64 | off u64 | namelen u32 | type u32 | name | pad to 8 |
//! READDIRPLUS    | fuse_entry_out 128 | the same                                |
//! ```
//!
//! `off` is where a later request goes on: after this entry.
//!
//! Invariants: an entry is written whole or not at all, padding is zeros, and what was written
//! never exceeds the buffer.

use zerocopy::{FromZeros, IntoBytes};

use super::abi::*;
use super::answer::entry_from_wire;
use super::decode::{Cursor, DecodeError};
use super::reply::entry_out;
use super::types::{Entry, Name};

/// One entry of a directory.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Dirent<'a> {
    /// The inode number that `ls -i` shows.
    pub ino: u64,
    /// Where a later request goes on, after this entry. Below 2^63, as readers take it for signed.
    pub next_offset: u64,
    /// The mode of the inode, of which the type bits are sent.
    pub mode: u32,
    /// Its name; may be `.` or `..`.
    pub name: Name<'a>,
}

/// There is no room for another entry: the reply is to be sent as it is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Full;

/// Entries for a reply to READDIR or READDIRPLUS.
#[derive(Debug)]
pub struct DirentBuffer<'b> {
    bytes: &'b mut [u8],
    used: usize,
}

impl<'b> DirentBuffer<'b> {
    /// Writes into `bytes`, which is as long as the request allows.
    pub fn new(bytes: &'b mut [u8]) -> Self {
        Self { bytes, used: 0 }
    }

    /// Adds an entry for READDIR.
    pub fn push(&mut self, entry: &Dirent<'_>) -> Result<(), Full> {
        self.put(&[], entry)
    }

    /// Adds an entry for READDIRPLUS.
    ///
    /// With `Some` the kernel counts one lookup, unless the name is `.` or `..`, for which it must
    /// be `None`. With `None` the kernel learns the name alone.
    pub fn push_plus(&mut self, entry: &Dirent<'_>, found: Option<&Entry>) -> Result<(), Full> {
        let front = found.map_or(fuse_entry_out::new_zeroed(), entry_out);
        self.put(front.as_bytes(), entry)
    }

    fn put(&mut self, front: &[u8], entry: &Dirent<'_>) -> Result<(), Full> {
        let name = entry.name.as_bytes();
        let dirent = fuse_dirent {
            ino: entry.ino,
            off: entry.next_offset,
            // A name has at most 255 bytes.
            namelen: name.len() as u32,
            r#type: (entry.mode >> 12) & 0o17,
        };
        let len = fuse_rec_align(front.len() + size_of::<fuse_dirent>() + name.len());
        let room = self.bytes.get_mut(self.used..).ok_or(Full)?;
        let mut rest = room.get_mut(..len).ok_or(Full)?;
        for part in [front, dirent.as_bytes(), name] {
            let (to, after) = rest.split_at_mut_checked(part.len()).ok_or(Full)?;
            to.copy_from_slice(part);
            rest = after;
        }
        rest.fill(0);
        self.used += len;
        Ok(())
    }

    /// Bytes written so far: a mark to go back to with [`DirentBuffer::truncate`].
    pub const fn len(&self) -> usize {
        self.used
    }

    /// Whether nothing was written, which as a reply means the end of the directory.
    pub const fn is_empty(&self) -> bool {
        self.used == 0
    }

    /// Takes back what was written after `mark`, a former [`DirentBuffer::len`].
    pub fn truncate(&mut self, mark: usize) {
        self.used = self.used.min(mark);
    }

    /// The entries, as the reply carries them.
    pub fn finish(self) -> &'b [u8] {
        let Self { bytes, used } = self;
        bytes.get(..used).unwrap_or_default()
    }
}

/// Takes a reply to READDIR apart, as the kernel does.
///
/// Ends after the first error.
pub fn entries(bytes: &[u8]) -> impl Iterator<Item = Result<Dirent<'_>, DecodeError>> {
    records(bytes, false).map(|record| record.map(|(_, dirent)| dirent))
}

/// Takes a reply to READDIRPLUS apart. The entry is `None` where its node is 0.
///
/// Ends after the first error.
pub fn entries_plus(
    bytes: &[u8],
) -> impl Iterator<Item = Result<(Option<Entry>, Dirent<'_>), DecodeError>> {
    records(bytes, true)
}

fn records(
    bytes: &[u8],
    plus: bool,
) -> impl Iterator<Item = Result<(Option<Entry>, Dirent<'_>), DecodeError>> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let record = record(rest, plus);
        rest = record.as_ref().map_or(&[], |&(_, rest)| rest);
        Some(record.map(|(record, _)| record))
    })
}

type Record<'a> = (Option<Entry>, Dirent<'a>);

fn record(bytes: &[u8], plus: bool) -> Result<(Record<'_>, &[u8]), DecodeError> {
    let mut cursor = Cursor::new(bytes);
    let mut used = size_of::<fuse_dirent>();
    let mut entry = None;
    if plus {
        entry = entry_from_wire(&cursor.take()?);
        used += size_of::<fuse_entry_out>();
    }
    let fuse_dirent { ino, off, namelen, r#type } = cursor.take()?;
    let namelen = usize::try_from(namelen).map_err(|_| DecodeError::Short)?;
    let name = Name::new(cursor.bytes(namelen)?)?;
    used += namelen;
    let (_, rest) = bytes.split_at_checked(fuse_rec_align(used)).ok_or(DecodeError::Short)?;
    let mode = r#type.checked_shl(12).unwrap_or(0) & 0o170_000;
    Ok(((entry, Dirent { ino, next_offset: off, mode, name }), rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::types::{Attr, NodeId};
    use std::time::Duration;

    fn dirent(name: &[u8]) -> Dirent<'_> {
        Dirent { ino: 7, next_offset: 1 << 40, mode: 0o100_000, name: Name::new(name).unwrap() }
    }

    #[test]
    fn an_entry_is_aligned_to_eight_bytes_and_padded_with_zeros() {
        let mut bytes = [0xff; 64];
        let mut buffer = DirentBuffer::new(&mut bytes);
        buffer.push(&dirent(b"abc")).unwrap();
        let bytes = buffer.finish();
        assert_eq!(bytes.len(), 32);
        assert_eq!(&bytes[24..], b"abc\0\0\0\0\0");
        assert_eq!(bytes[20], 8, "DT_REG");
    }

    #[test]
    fn what_does_not_fit_is_not_written_at_all() {
        let mut bytes = [0; 32 + 31];
        let mut buffer = DirentBuffer::new(&mut bytes);
        assert_eq!(buffer.push(&dirent(b"12345678")), Ok(()));
        assert_eq!(buffer.push(&dirent(b"1")), Err(Full));
        assert_eq!(buffer.len(), 32);
        assert_eq!(bytes[32..], [0; 31]);
    }

    #[test]
    fn a_reply_can_go_back_to_a_mark() {
        let mut bytes = [0; 256];
        let mut buffer = DirentBuffer::new(&mut bytes);
        buffer.push(&dirent(b"kept")).unwrap();
        let mark = buffer.len();
        buffer.push(&dirent(b"gone")).unwrap();
        buffer.truncate(mark);
        assert_eq!(entries(buffer.finish()).collect::<Vec<_>>(), [Ok(dirent(b"kept"))]);
    }

    #[test]
    fn readdirplus_reads_back_what_was_pushed() {
        let attr = Attr { ino: 7, mode: 0o100_644, nlink: 1, ..Attr::default() };
        let found = Entry {
            node: NodeId::new(9).unwrap(),
            generation: 0,
            attr,
            entry_valid: Duration::from_millis(1500),
            attr_valid: Duration::MAX,
        };
        let mut bytes = [0; 1024];
        let mut buffer = DirentBuffer::new(&mut bytes);
        buffer.push_plus(&dirent(b"."), None).unwrap();
        buffer.push_plus(&dirent(b"file"), Some(&found)).unwrap();
        assert_eq!(
            entries_plus(buffer.finish()).collect::<Vec<_>>(),
            [Ok((None, dirent(b"."))), Ok((Some(found), dirent(b"file")))]
        );
    }

    #[test]
    fn a_record_cut_short_is_an_error_and_the_end() {
        let mut bytes = [0; 64];
        let mut buffer = DirentBuffer::new(&mut bytes);
        buffer.push(&dirent(b"abc")).unwrap();
        let bytes = buffer.finish();
        for cut in 1..bytes.len() {
            let read: Vec<_> = entries(&bytes[..cut]).collect();
            assert_eq!(read, [Err(DecodeError::Short)], "cut at {cut}");
        }
    }
}
