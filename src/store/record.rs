//! One record of the log on disk: an event, or one of the log's own notes.
//!
//! ```text
//!  0        4        8                16               24               32
//!  +--------+--------+----------------+----------------+----------------+
//!  | crc    | prev   | seq            | time_ns        | unique         |
//!  +--------+--------+--------+-------+----+------+----+----------------+
//!  | actor  | body   | tail_crc       | tail | kind | 0 |
//!  +--------+--------+----------------+------+------+---+
//!  32       36       40               44     46     47  48
//!  +----------------------+---------------------------------+
//!  | body [body]          | tail: salt [16], content [tail - 16] |
//!  +----------------------+---------------------------------+
//! ```
//!
//! Integers are little-endian. `crc` is the CRC-32C of every byte after it up to the end of the
//! body; it covers `tail_crc`, the CRC-32C of the tail. `prev` is the `crc` of the record before,
//! so a stale record behind a cut never continues the log. A note has the `seq` of the last event
//! before it.
//!
//! Only an event that carries bytes has a tail. All of its bytes being zero means that content and
//! salt were taken out: no salt is all zeros, so this cannot be mistaken, and the rest of the
//! record still vouches for itself and for what the content's hash was.
//!
//! Invariants: the body is at most [`BODY_MAX`]; no record spans segments; `decode` accepts
//! nothing that `encode` does not make.

use zerocopy::byteorder::little_endian::{I64, U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::codec::{self, Note};
use super::event::{ActorId, Event, Seq, Timestamp};
use super::segment::Position;

/// Length of the fixed part in bytes.
pub const HEADER_LEN: usize = size_of::<Header>();

/// Longest body in bytes. The longest there is sets all attributes of one inode at once.
pub const BODY_MAX: usize = 1 << 20;

/// Bytes of salt that a tail begins with.
pub const SALT_LEN: usize = 16;

/// The fixed part of a record.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Header {
    /// CRC-32C of everything after it, without the tail.
    pub crc: U32,
    /// `crc` of the record before.
    pub prev: U32,
    /// Number of the event; of a note, that of the event before.
    pub seq: U64,
    /// Nanoseconds since 1970.
    pub time: I64,
    /// The kernel's number of the request; of a seal, what it is [signed](sign) with.
    pub unique: U64,
    /// Who.
    pub actor: U32,
    /// Length of the body.
    pub body_len: U32,
    /// CRC-32C of the tail.
    pub tail_crc: U32,
    /// Length of the tail.
    pub tail_len: U16,
    /// What it is: below 64 an event, above a note.
    pub kind: u8,
    /// 0.
    pub zero: u8,
}
const _: () = assert!(HEADER_LEN == 48);

/// Where what `crc` is of begins.
const AFTER_CRC: usize = std::mem::offset_of!(Header, prev);

/// What a record says.
#[derive(Clone, Debug, PartialEq)]
pub enum Entry<'a> {
    /// Something happened to the tree, and has a number.
    Event(Event<'a>),
    /// The log's own; uses no number.
    Note(Note<'a>),
}

/// An undamaged record, borrowed from the bytes it lies in.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// The fixed part.
    pub header: Header,
    /// Header and body: what the hash chain covers.
    pub covered: &'a [u8],
    /// Salt and inline content.
    pub tail: &'a [u8],
    /// Content and salt were taken out.
    pub gone: bool,
}

/// Why there is no record in some bytes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Fault {
    /// So many bytes are needed to tell.
    Short(usize),
    /// Nothing was ever written here: the header is all zeros.
    Blank,
    /// A checksum fails, or a length or kind is impossible.
    Damaged,
    /// It is whole, but follows another record than the one before it.
    Stray,
}

/// It cannot be a record: too long, or a name that is none.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Misfit;

/// What is the same in every record, whatever it says.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Stamp {
    /// Number of the event; of a note, that of the event before.
    pub seq: Seq,
    /// When.
    pub time: Timestamp,
    /// Who.
    pub actor: ActorId,
    /// The kernel's number of the request; of a seal, what it is [signed](sign) with.
    pub unique: u64,
}

/// What a seal at `at` that says that all before `synced` is on the disk is signed with: a part of a hash that is keyed
/// by the store's own `key`, which whoever writes to a file of the tree does not know.
#[must_use]
pub fn sign(key: &[u8; 16], at: Position, synced: Position) -> u64 {
    let mut hasher =
        blake3::Hasher::new_derive_key("lighthouse-fuse: a seal and its place in the log");
    hasher.update(key);
    for Position { segment, offset } in [at, synced] {
        hasher.update(&segment.to_le_bytes()).update(&offset.to_le_bytes());
    }
    let hash = hasher.finalize();
    hash.as_bytes().first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

/// Appends the record of `event` to `out`; returns its `crc`. On failure `out` is as it was.
pub fn encode_event(out: &mut Vec<u8>, prev: u32, event: &Event<'_>) -> Result<u32, Misfit> {
    let stamp =
        Stamp { seq: event.seq, time: event.time, actor: event.actor, unique: event.unique };
    encode(out, prev, stamp, |out| codec::encode_change(out, &event.change))
}

/// Appends the record of a note to `out`; returns its `crc`. On failure `out` is as it was.
pub fn encode_note(
    out: &mut Vec<u8>,
    prev: u32,
    stamp: Stamp,
    note: &Note<'_>,
) -> Result<u32, Misfit> {
    encode(out, prev, stamp, |out| codec::encode_note(out, note).map(|kind| (kind, 0)))
}

/// `write` appends body and tail, and says the kind and how long the tail is.
fn encode(
    out: &mut Vec<u8>,
    prev: u32,
    stamp: Stamp,
    write: impl FnOnce(&mut Vec<u8>) -> Result<(u8, usize), Misfit>,
) -> Result<u32, Misfit> {
    let start = out.len();
    out.resize(start + HEADER_LEN, 0);
    let finished = write(out).and_then(|(kind, tail_len)| {
        let (_, payload) = out.split_at(start + HEADER_LEN);
        let body_len = payload.len() - tail_len;
        let (_, tail) = payload.split_at(body_len);
        if body_len > BODY_MAX {
            return Err(Misfit);
        }
        Ok(Header {
            crc: U32::ZERO,
            prev: prev.into(),
            seq: stamp.seq.0.into(),
            time: stamp.time.0.into(),
            unique: stamp.unique.into(),
            actor: stamp.actor.0.into(),
            body_len: u32::try_from(body_len).map_err(|_| Misfit)?.into(),
            tail_crc: crc32c::crc32c(tail).into(),
            tail_len: u16::try_from(tail_len).map_err(|_| Misfit)?.into(),
            kind,
            zero: 0,
        })
    });
    let header = match finished {
        Ok(header) => header,
        Err(err) => {
            out.truncate(start);
            return Err(err);
        }
    };
    let encoded = &mut out[start..];
    encoded[..HEADER_LEN].copy_from_slice(header.as_bytes());
    Ok(rechain(encoded, prev))
}

/// Header and body of the one encoded record in `encoded`: what the hash chain covers.
#[must_use]
pub fn covered(encoded: &[u8]) -> &[u8] {
    let header = Header::ref_from_prefix(encoded);
    let body_len = header.map_or(0, |(header, _)| header.body_len.get() as usize);
    encoded.get(..HEADER_LEN + body_len).unwrap_or(encoded)
}

/// Makes the one encoded record in `encoded` follow the one whose `crc` is `prev`; returns its own.
pub fn rechain(encoded: &mut [u8], prev: u32) -> u32 {
    let covered_len = covered(encoded).len();
    if let Ok((header, _)) = Header::mut_from_prefix(encoded) {
        header.prev = prev.into();
    }
    let crc = checksum(&encoded[..covered_len]);
    encoded[..AFTER_CRC].copy_from_slice(&crc.to_le_bytes());
    crc
}

/// What `crc` is to be of what the hash chain [covers](covered) of a record.
fn checksum(covered: &[u8]) -> u32 {
    crc32c::crc32c(covered.get(AFTER_CRC..).unwrap_or_default())
}

/// Where the parts of a checked record lie, counted from its first byte.
#[derive(Clone, Copy, Debug)]
pub(super) struct Outline {
    header: Header,
    covered_len: usize,
    tail_len: usize,
    gone: bool,
}

impl Outline {
    /// Checks the record at the front of `bytes`, which must follow the one whose `crc` is `prev`.
    pub(super) fn check(bytes: &[u8], prev: u32) -> Result<Self, Fault> {
        let (header, _) = Header::read_from_prefix(bytes).map_err(|_| Fault::Short(HEADER_LEN))?;
        if header.as_bytes() == [0; HEADER_LEN] {
            return Err(Fault::Blank);
        }
        let body_len = header.body_len.get() as usize;
        let tail_len = usize::from(header.tail_len.get());
        if body_len > BODY_MAX || header.zero != 0 || !codec::is_kind(header.kind) {
            return Err(Fault::Damaged);
        }
        let covered_len = HEADER_LEN + body_len;
        let len = covered_len + tail_len;
        let (Some(covered), Some(tail)) = (bytes.get(..covered_len), bytes.get(covered_len..len))
        else {
            return Err(Fault::Short(len));
        };
        if checksum(covered) != header.crc.get() {
            return Err(Fault::Damaged);
        }
        if header.prev.get() != prev {
            return Err(Fault::Stray);
        }
        // Seen at the first byte of the salt, as a rule.
        let gone = !tail.is_empty() && tail.iter().all(|&byte| byte == 0);
        if !gone && crc32c::crc32c(tail) != header.tail_crc.get() {
            return Err(Fault::Damaged);
        }
        Ok(Self { header, covered_len, tail_len, gone })
    }

    /// Length of the whole record in bytes.
    pub(super) const fn len(&self) -> usize {
        self.covered_len + self.tail_len
    }

    /// The record, in the bytes it was checked in.
    pub(super) fn record<'a>(&self, bytes: &'a [u8]) -> Option<Record<'a>> {
        let (covered, rest) = bytes.split_at_checked(self.covered_len)?;
        let tail = rest.get(..self.tail_len)?;
        Some(Record { header: self.header, covered, tail, gone: self.gone })
    }
}

/// The record at the front of `bytes`, which must follow the one whose `crc` is `prev`.
pub fn decode(bytes: &[u8], prev: u32) -> Result<Record<'_>, Fault> {
    let outline = Outline::check(bytes, prev)?;
    outline.record(bytes).ok_or(Fault::Short(outline.len()))
}

impl<'a> Record<'a> {
    /// Length on disk in bytes.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.covered.len() + self.tail.len()
    }

    /// Never: a record has at least its header.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        false
    }

    /// Whether it is an event, without decoding it.
    #[must_use]
    pub const fn is_event(&self) -> bool {
        codec::is_event(self.header.kind)
    }

    /// How far into the record the bytes of an inline write begin.
    #[must_use]
    pub const fn payload_offset(&self) -> usize {
        self.covered.len() + SALT_LEN
    }

    /// Number, time and origin.
    #[must_use]
    pub fn stamp(&self) -> Stamp {
        Stamp {
            seq: Seq(self.header.seq.get()),
            time: Timestamp(self.header.time.get()),
            actor: ActorId(self.header.actor.get()),
            unique: self.header.unique.get(),
        }
    }

    /// What it says; `None` if the body makes no sense, which no store of this version writes.
    #[must_use]
    pub fn entry(&self) -> Option<Entry<'a>> {
        let body = self.covered.get(HEADER_LEN..)?;
        if self.is_event() {
            let change = codec::decode_change(self.header.kind, body, self.tail)?;
            let Stamp { seq, time, actor, unique } = self.stamp();
            return Some(Entry::Event(Event { seq, time, actor, unique, change }));
        }
        if !self.tail.is_empty() {
            return None;
        }
        codec::decode_note(self.header.kind, body).map(Entry::Note)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::event::{Change, Data, Ino, Place};
    use super::*;

    fn write(bytes: &[u8]) -> Event<'_> {
        Event {
            seq: Seq(7),
            time: Timestamp(-5),
            actor: ActorId(3),
            unique: 9,
            change: Change::Write {
                ino: Ino(2),
                offset: 11,
                data: Data { hash: [1; 32], salt: [2; 16], place: Place::Inline(bytes) },
                ends: false,
                mode: None,
                drop_capability: false,
            },
        }
    }

    #[test]
    fn a_record_comes_back_as_it_went() {
        let mut out = vec![0xaa; 3];
        let crc = encode_event(&mut out, 77, &write(b"hello")).unwrap();
        let record = decode(&out[3..], 77).unwrap();
        assert_eq!(record.header.crc.get(), crc);
        assert_eq!(record.len(), out.len() - 3);
        assert_eq!(record.entry(), Some(Entry::Event(write(b"hello"))));
        assert_eq!(&out[3 + record.payload_offset()..], b"hello");
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_noticed() {
        let mut out = Vec::new();
        encode_event(&mut out, 77, &write(b"hello")).unwrap();
        for at in 0..out.len() * 8 {
            let mut bytes = out.clone();
            bytes[at / 8] ^= 1 << (at % 8);
            assert!(decode(&bytes, 77).is_err(), "bit {at}");
        }
        for len in 0..out.len() {
            assert!(matches!(decode(&out[..len], 77), Err(Fault::Short(_))), "length {len}");
        }
        assert_eq!(decode(&out, 78).unwrap_err(), Fault::Stray);
        assert_eq!(decode(&[0; 100], 0).unwrap_err(), Fault::Blank);
    }

    #[test]
    fn content_that_was_taken_out_leaves_the_record_valid() {
        let mut out = Vec::new();
        encode_event(&mut out, 77, &write(b"hello")).unwrap();
        let at = out.len() - 5 - SALT_LEN;
        out[at..].fill(0);
        assert!(decode(&out, 77).unwrap().gone);
        out[at] = 1;
        assert_eq!(decode(&out, 77).unwrap_err(), Fault::Damaged);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), prev: u32) {
            if let Ok(record) = decode(&bytes, prev) {
                let _ = record.entry();
            }
        }

        #[test]
        fn arbitrary_bodies_under_a_good_checksum_never_panic(
            kind: u8,
            body in proptest::collection::vec(any::<u8>(), 0..200),
            tail in proptest::collection::vec(any::<u8>(), 0..40),
        ) {
            let mut out = Vec::new();
            let stamp = Stamp { seq: Seq(1), time: Timestamp(0), actor: ActorId(0), unique: 0 };
            encode(&mut out, 1, stamp, |out| {
                out.extend_from_slice(&body);
                out.extend_from_slice(&tail);
                Ok((kind, tail.len()))
            }).unwrap();
            if let Ok(record) = decode(&out, 1) {
                let _ = record.entry();
            }
        }
    }
}
