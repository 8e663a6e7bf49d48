//! Keys: one tag byte, then big-endian fields, so that keys order as their fields do.
//!
//! A live table has an even tag; what died of it has the odd tag after it, the same fields (a
//! name closed by a NUL, which no name holds) and the sequence of its death. Inodes, sequences and
//! chunks take 6 bytes ([`Seq::LIMIT`]). `!x` is 2^48 - 1 - x (of a time, 2^64 - 1 - x).

use siphasher::sip::SipHasher13;

use super::super::event::{FileId, Ino, Location, Seq, Timestamp};
use super::IndexError;

/// The row that says what the whole index stands for.
pub(super) const META: u8 = 0;
/// parent, hash, name.
pub(super) const NAME: u8 = 2;
/// inode.
pub(super) const INODE: u8 = 4;
/// inode, chunk, !sequence; versioned by itself, so there is no dead table.
pub(super) const CHUNK: u8 = 6;
/// inode.
pub(super) const CUTS: u8 = 8;
/// inode; never changes.
pub(super) const TARGET: u8 = 10;
/// inode, attribute name.
pub(super) const XATTR: u8 = 12;
/// inode, parent, name.
pub(super) const NAME_OF: u8 = 14;
/// !time, !sequence of the first event in the row.
pub(super) const TIMES: u8 = 16;
/// inode.
pub(super) const ORPHAN: u8 = 18;
/// kind and number of a file, offset in it, inode, offset in the inode's content.
pub(super) const SHARED: u8 = 20;
/// Names that people gave to moments.
pub(super) const LABEL: u8 = 22;
/// length of the id, the id, fingerprint of the body.
pub(super) const FOREIGN: u8 = 24;
/// !sequence of the last event before a place in the log.
pub(super) const MARK: u8 = 26;
/// inode, set, last hash; see `pages`.
pub(super) const PAGE: u8 = 28;
/// inode, set, depth, last hash, the first event after it.
pub(super) const CLOSED_PAGE: u8 = 30;

/// Names hash to at least this: below lie the offsets of `.`, `..` and other fixed entries.
pub(super) const HASH_MIN: u64 = 16;
/// Names hash to less than this (2^63 - 1), so that a directory offset is never negative.
pub(super) const HASH_END: u64 = i64::MAX.unsigned_abs();

/// Longest name of a file or an attribute, in bytes (`NAME_MAX`, `XATTR_NAME_MAX`).
pub(super) const NAME_MAX: usize = 255;
/// The longest key: tag, inode, parent, name, NUL, death; rounded up.
const KEY_MAX: usize = 288;

/// Length of a chunk's key: tag, inode, chunk, !sequence.
const CHUNK_KEY: usize = 1 + 3 * 6;

/// The greatest number that fits in 6 bytes.
pub(super) const LAST: u64 = Seq::LIMIT.0 - 1;

/// A key being built, on the stack.
#[derive(Clone)]
pub(super) struct Key {
    len: usize,
    bytes: [u8; KEY_MAX],
}

impl Key {
    /// An empty key in the table `tag`.
    pub(super) fn new(tag: u8) -> Self {
        Self { len: 0, bytes: [0; KEY_MAX] }.raw(&[tag])
    }

    /// Appends bytes as they are.
    pub(super) fn raw(mut self, bytes: &[u8]) -> Self {
        let end = self.len + bytes.len();
        let place = self.bytes.get_mut(self.len..end);
        place.expect("names were measured before they became keys").copy_from_slice(bytes);
        self.len = end;
        self
    }

    /// Appends the low 48 bits.
    pub(super) fn short(self, number: u64) -> Self {
        let [_, _, bytes @ ..] = number.to_be_bytes();
        self.raw(&bytes)
    }

    /// Appends all 64 bits.
    pub(super) fn long(self, number: u64) -> Self {
        self.raw(&number.to_be_bytes())
    }

    /// The key as built so far.
    pub(super) fn as_slice(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or(&self.bytes)
    }

    /// The same fields in the dead table.
    pub(super) fn as_dead(&self) -> Self {
        let mut dead = self.clone();
        if let Some(tag) = dead.bytes.first_mut() {
            *tag += 1;
        }
        dead
    }

    /// Where the dead values of this live key are: those that died at `death` or later sort from here on.
    pub(super) fn dead(&self, death: u64) -> Self {
        self.as_dead().raw(&[0]).short(death)
    }

    /// The end of all keys of this one's chunk.
    pub(super) fn end_of_chunk(self) -> Self {
        self.truncate(CHUNK_KEY - 6)
    }

    /// The end of all keys of this one's inode.
    pub(super) fn end_of_inode(self) -> Self {
        self.truncate(CHUNK_KEY - 12)
    }

    fn truncate(mut self, len: usize) -> Self {
        self.len = self.len.min(len);
        self.end()
    }

    /// The least key greater than every key that begins with this one.
    pub(super) fn end(mut self) -> Self {
        while let Some(at) = self.len.checked_sub(1) {
            match self.bytes.get_mut(at) {
                Some(last) if *last < u8::MAX => {
                    *last += 1;
                    break;
                }
                _ => self.len = at,
            }
        }
        self
    }
}

impl std::ops::Deref for Key {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.as_slice()
    }
}

/// Refuses what cannot be a name in a key.
pub(super) fn check_name(name: &[u8], seq: Seq) -> Result<(), IndexError> {
    if name.is_empty() || name.len() > NAME_MAX || name.contains(&0) {
        return Err(IndexError::Damaged(format!("event {seq} has a name that cannot be one")));
    }
    Ok(())
}

/// `name` in the directory `parent`.
pub(super) fn name(parent: Ino, hash: u64, name: &[u8]) -> Key {
    Key::new(NAME).short(parent.0).long(hash).raw(name)
}

/// Attributes of `ino`.
pub(super) fn inode(ino: Ino) -> Key {
    Key::new(INODE).short(ino.0)
}

/// What event `seq`, or the last before it, left of a chunk.
pub(super) fn chunk(ino: Ino, chunk: u64, seq: u64) -> Key {
    Key::new(CHUNK).short(ino.0).short(chunk).short(LAST - seq.min(LAST))
}

/// Ranges of `ino` that were cut away.
pub(super) fn cuts(ino: Ino) -> Key {
    Key::new(CUTS).short(ino.0)
}

/// Target of the symbolic link `ino`.
pub(super) fn target(ino: Ino) -> Key {
    Key::new(TARGET).short(ino.0)
}

/// An extended attribute of `ino`.
pub(super) fn xattr(ino: Ino, name: &[u8]) -> Key {
    Key::new(XATTR).short(ino.0).raw(name)
}

/// That `ino` has `name` in `parent`.
pub(super) fn name_of(ino: Ino, parent: Ino, name: &[u8]) -> Key {
    Key::new(NAME_OF).short(ino.0).short(parent.0).raw(name)
}

/// The row of times that begins with the event `seq` at `time`.
pub(super) fn times(time: Timestamp, seq: u64) -> Key {
    let since_start = time.0.cast_unsigned() ^ (1 << 63);
    Key::new(TIMES).long(!since_start).short(LAST - seq.min(LAST))
}

/// That `ino` has no name and has not ended.
pub(super) fn orphan(ino: Ino) -> Key {
    Key::new(ORPHAN).short(ino.0)
}

/// That content at `location` is used by `ino` at `offset`, beside whoever wrote it.
pub(super) fn shared(location: Location, ino: Ino, offset: u64) -> Key {
    shared_from(location.file, location.offset).short(ino.0).long(offset)
}

/// Where the rows of [`shared`] for content of `file` from `offset` on begin.
pub(super) fn shared_from(file: FileId, offset: u64) -> Key {
    let (kind, number) = super::codec::file_to_parts(file);
    Key::new(SHARED).raw(&[kind]).raw(&number.to_be_bytes()).long(offset)
}

/// What [`shared`] made a key of.
pub(super) fn shared_fields(key: &[u8]) -> Result<(Location, Ino, u64), IndexError> {
    let (file, rest) =
        key.get(1..).and_then(<[u8]>::split_first_chunk::<5>).ok_or_else(cut_short)?;
    let [kind, number @ ..] = *file;
    let number = u32::from_be_bytes(number);
    let file = if kind == 0 { FileId::Log(number) } else { FileId::Content(number) };
    let mut fields = Fields(rest);
    let (offset, ino) = (fields.long()?, Ino(fields.short()?));
    Ok((Location { file, offset }, ino, fields.long()?))
}

/// The open page of a set of `owner` that ends with the hash `last`.
pub(super) fn page(owner: Ino, set: u8, last: u64) -> Key {
    Key::new(PAGE).short(owner.0).raw(&[set]).long(last)
}

/// The end of the open pages of a set.
pub(super) fn pages_end(owner: Ino, set: u8) -> Key {
    Key::new(PAGE).short(owner.0).raw(&[set]).end()
}

/// A page of a set that was closed by the event `end`.
pub(super) fn closed_page(owner: Ino, (set, depth): (u8, u8), last: u64, end: u64) -> Key {
    Key::new(CLOSED_PAGE).short(owner.0).raw(&[set, depth]).long(last).short(end)
}

/// The label `name`.
pub(super) fn label(name: &[u8]) -> Key {
    Key::new(LABEL).raw(name)
}

/// The inode without which the key would not be: its parent for a name. `None` for tables of the whole store.
pub(super) fn owner(key: &[u8]) -> Option<Ino> {
    match key.first() {
        None | Some(&(META | TIMES | SHARED | LABEL | FOREIGN | MARK)) => None,
        Some(_) => Fields::of(key).short().ok().map(Ino),
    }
}

/// Takes fields off the front of a key.
#[derive(Clone, Copy)]
pub(super) struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    /// The fields after the tag.
    pub(super) fn of(key: &'a [u8]) -> Self {
        Self(key.get(1..).unwrap_or_default())
    }

    /// The fields of a value, or of a key behind its tag.
    pub(super) const fn of_value(value: &'a [u8]) -> Self {
        Self(value)
    }

    /// Takes 48 bits.
    pub(super) fn short(&mut self) -> Result<u64, IndexError> {
        let (bytes, rest) = self.0.split_first_chunk::<6>().ok_or_else(cut_short)?;
        self.0 = rest;
        let [a, b, c, d, e, f] = *bytes;
        Ok(u64::from_be_bytes([0, 0, a, b, c, d, e, f]))
    }

    /// Takes 64 bits.
    pub(super) fn long(&mut self) -> Result<u64, IndexError> {
        let (bytes, rest) = self.0.split_first_chunk::<8>().ok_or_else(cut_short)?;
        self.0 = rest;
        Ok(u64::from_be_bytes(*bytes))
    }

    /// What is left.
    pub(super) const fn rest(self) -> &'a [u8] {
        self.0
    }
}

fn cut_short() -> IndexError {
    IndexError::Damaged("a key is cut short".into())
}

/// Turns names into directory offsets that nobody can make collide without the store's key.
#[derive(Clone, Copy)]
pub(super) struct NameHash {
    hasher: SipHasher13,
    mask: u64,
}

impl NameHash {
    /// Hashes keyed by `key`, of which the low `bits` are kept.
    pub(super) fn new(key: &[u8; 16], bits: u32) -> Self {
        Self { hasher: SipHasher13::new_with_key(key), mask: u64::MAX >> (64 - bits.clamp(1, 63)) }
    }

    /// A number in `HASH_MIN..HASH_END`.
    pub(super) fn of(&self, name: &[u8]) -> u64 {
        (self.hasher.hash(name) & self.mask).clamp(HASH_MIN, HASH_END - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_prefix_follows_all_it_begins() {
        let prefix = Key::new(NAME).raw(&[7, 255]);
        let end = prefix.clone().end();
        assert!(*end > *prefix.clone().raw(&[255; 20]));
        assert_eq!(&*end, &[NAME, 8]);
    }

    #[test]
    fn dead_names_order_by_name_and_then_by_death() {
        let dead = |text: &[u8], death| name(Ino(3), 99, text).dead(death);
        assert!(*dead(b"a", LAST) < *dead(b"a\x01", 1));
        assert!(*dead(b"a", 5) < *dead(b"a", 6));
        let key = dead(b"a", 6);
        let mut fields = Fields::of(&key);
        assert_eq!(fields.short().unwrap(), 3);
        assert_eq!(fields.long().unwrap(), 99);
        let (name, death) = fields.rest().split_at(2);
        assert_eq!(name, b"a\0");
        assert_eq!(Fields::of_value(death).short().unwrap(), 6);
    }

    #[test]
    fn later_times_sort_first() {
        let at = |time, seq| times(Timestamp(time), seq);
        assert!(*at(5, 2) < *at(-5, 2));
        assert!(*at(5, 3) < *at(5, 2));
    }

    #[test]
    fn hashes_keep_to_their_range() {
        for bits in [1, 3, 63] {
            let hash = NameHash::new(&[9; 16], bits);
            for name in 0..1000_u32 {
                assert!((HASH_MIN..HASH_END).contains(&hash.of(&name.to_le_bytes())));
            }
        }
    }
}
