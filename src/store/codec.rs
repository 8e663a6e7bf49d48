//! Changes and notes as bytes: the body and the tail of a record.
//!
//! ```text
//!  number      little-endian, 4 or 8 bytes as its type says
//!  name        length [1], bytes              1 to 255 bytes
//!  value       length [4], bytes
//!  optional    0 [1]  or  1 [1], the value
//!  data        hash [32], 0 [1]                                      inline: salt and bytes are the tail
//!              hash [32], 1 [1], file [4], offset [8], len [8], crcs value   extent: the salt is the tail
//! ```
//!
//! Invariants: `decode` of what `encode` made is the same value, and it accepts nothing else;
//! both go over the fields in the order in which [`Change`] and [`Note`] declare them.

use super::event::{
    AWAITED_INLINE_MAX, Actor, ActorId, Allocation, Change, Data, FileId, Foreign, Format, Ino,
    Location, Place, Seq, SetAttr, Source, Timestamp, Xattrs,
};
use super::record::{Misfit, SALT_LEN};
use super::segment::Position;

/// What the log says about itself. Uses no number and changes no tree.
#[derive(Clone, Debug, PartialEq)]
pub enum Note<'a> {
    /// Everything before `synced` is on the disk; and what came since the last seal hashes so.
    Seal(Seal),
    /// Who an actor's number stands for. May come again when more is known.
    Actor {
        /// The number.
        id: ActorId,
        /// What is known.
        actor: Actor,
    },
    /// Requests from here on come over another connection of the kernel, and count anew.
    Connection {
        /// Random.
        id: [u8; 16],
    },
    /// A version of a file ends here.
    Version {
        /// The file.
        ino: Ino,
        /// Who wrote it.
        actor: ActorId,
    },
    /// A stretch of a file, as it is now, was copied to another place. No tree changes by it.
    Relocation {
        /// The file.
        ino: Ino,
        /// First byte in the file.
        offset: u64,
        /// The bytes in their new place.
        data: Data<'a>,
        /// Where in content files they were: wanted only by trees before the last event so far.
        left: Vec<Left>,
    },
    /// Trees before `horizon` can no longer be shown; the content in `freed` was theirs alone.
    Horizon {
        /// The oldest tree that can.
        horizon: Seq,
        /// What is given back.
        freed: Vec<Freed>,
    },
    /// A name for a moment was given, or taken back.
    Label {
        /// The name.
        name: &'a [u8],
        /// The tree after this event; `None`: the name means nothing any more.
        seq: Option<Seq>,
    },
    /// The store was closed here; the next record, if any, comes from another start.
    End,
}

/// A link of the hash chain, and the proof of what was synced.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Seal {
    /// Where the log ended when the last `fdatasync` that returned was called.
    pub synced: Position,
    /// BLAKE3 of header and body of every record since the last seal.
    pub hash: [u8; 32],
    /// BLAKE3 of header and body of the last seal; zeros for the first.
    pub previous: [u8; 32],
    /// Numbers below this may have been handed out by the time of the next durable seal.
    pub reserve: Seq,
}

/// A range of a content file.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Freed {
    /// Number of the content file.
    pub file: u32,
    /// First byte.
    pub offset: u64,
    /// Length in bytes.
    pub len: u64,
}

/// A piece of a file that a relocation left behind in a content file.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Left {
    /// First byte in the file it is of.
    pub offset: u64,
    /// Length in bytes.
    pub len: u64,
    /// Number of the content file.
    pub file: u32,
    /// First byte there.
    pub at: u64,
}

const MKFS: u8 = 1;
const CREATE: u8 = 2;
const TMPFILE: u8 = 3;
const LINK: u8 = 4;
const UNLINK: u8 = 5;
const RENAME: u8 = 6;
const EXCHANGE: u8 = 7;
const SET_ATTR: u8 = 8;
const WRITE: u8 = 9;
const FALLOCATE: u8 = 10;
const CLONE: u8 = 11;
const SET_XATTR: u8 = 12;
const REMOVE_XATTR: u8 = 13;
const END_INODE: u8 = 14;
const FOREIGN: u8 = 15;
/// As [`WRITE`], and the file ends there.
const WRITE_END: u8 = 16;
/// As [`CLONE`], and the file ends there.
const CLONE_END: u8 = 17;

/// Notes count from here.
const NOTES: u8 = 64;
const SEAL: u8 = 64;
const ACTOR: u8 = 65;
const CONNECTION: u8 = 66;
const VERSION: u8 = 67;
const RELOCATION: u8 = 68;
const HORIZON: u8 = 69;
const END: u8 = 70;
const LABEL: u8 = 71;

/// Length of the body of a seal.
pub(super) const SEAL_LEN: usize = 8 + 32 + 32 + 8;

/// Whether records of this version have such a kind.
pub(super) const fn is_kind(kind: u8) -> bool {
    matches!(kind, MKFS..=CLONE_END | SEAL..=LABEL)
}

/// Whether records of that kind are seals.
pub(super) const fn is_seal(kind: u8) -> bool {
    kind == SEAL
}

/// Whether it is the kind of an event.
pub(super) const fn is_event(kind: u8) -> bool {
    kind < NOTES
}

/// Appends body and tail; returns the kind and the length of the tail.
pub(super) fn encode_change(out: &mut Vec<u8>, change: &Change<'_>) -> Result<(u8, usize), Misfit> {
    let mut put = Put(out);
    let kind = match *change {
        Change::Mkfs { mode, uid, gid } => {
            put.u32(mode).u32(uid).u32(gid);
            MKFS
        }
        Change::Create { parent, name, mode, uid, gid, rdev, target, ref xattrs } => {
            put.u64(parent.0).name(name)?.u32(mode).u32(uid).u32(gid).u64(rdev).value(target)?;
            put.xattrs(xattrs)?;
            CREATE
        }
        Change::Tmpfile { mode, uid, gid, ref xattrs } => {
            put.u32(mode).u32(uid).u32(gid).xattrs(xattrs)?;
            TMPFILE
        }
        Change::Link { ino, parent, name } => {
            put.u64(ino.0).u64(parent.0).name(name)?;
            LINK
        }
        Change::Unlink { parent, name, ino } => {
            put.u64(parent.0).name(name)?.u64(ino.0);
            UNLINK
        }
        Change::Rename { parent, name, new_parent, new_name, ino, replaced } => {
            put.u64(parent.0).name(name)?.u64(new_parent.0).name(new_name)?.u64(ino.0);
            put.optional(replaced, |put, ino| put.u64(ino.0));
            RENAME
        }
        Change::Exchange { parent, name, new_parent, new_name, ino, other } => {
            put.u64(parent.0).name(name)?.u64(new_parent.0).name(new_name)?;
            put.u64(ino.0).u64(other.0);
            EXCHANGE
        }
        Change::SetAttr { ino, set, acl, drop_capability } => {
            put.u64(ino.0);
            put.optional(set.mode, Put::u32).optional(set.uid, Put::u32);
            put.optional(set.gid, Put::u32).optional(set.size, Put::u64);
            put.optional(set.atime, Put::time).optional(set.mtime, Put::time);
            match acl {
                None => put.u8(0),
                Some(acl) => put.u8(1).value(acl)?,
            };
            put.u8(drop_capability.into());
            SET_ATTR
        }
        Change::Write { ino, offset, ref data, ends, mode, drop_capability } => {
            put.u64(ino.0).u64(offset).optional(mode, Put::u32).u8(drop_capability.into());
            put.data(data)?;
            return Ok((if ends { WRITE_END } else { WRITE }, put.tail(data)));
        }
        Change::Fallocate { ino, how, offset, len, mode } => {
            let how = match how {
                Allocation::Reserve { keep_size } => u8::from(keep_size),
                Allocation::Punch => 2,
                Allocation::Zero { keep_size } => 3 + u8::from(keep_size),
            };
            put.u64(ino.0).u8(how).u64(offset).u64(len).optional(mode, Put::u32);
            FALLOCATE
        }
        Change::Clone { src, src_offset, dst, dst_offset, len, ends, mode } => {
            put.u64(src.0).u64(src_offset).u64(dst.0).u64(dst_offset).u64(len);
            put.optional(mode, Put::u32);
            if ends { CLONE_END } else { CLONE }
        }
        Change::SetXattr { ino, name, value, mode } => {
            put.u64(ino.0).name(name)?.value(value)?.optional(mode, Put::u32);
            SET_XATTR
        }
        Change::RemoveXattr { ino, name } => {
            put.u64(ino.0).name(name)?;
            REMOVE_XATTR
        }
        Change::End { ino } => {
            put.u64(ino.0);
            END_INODE
        }
        Change::Foreign(ref foreign) => {
            let Foreign { id, kind, agent, aggregate, time, format, source, fingerprint, ref body } =
                *foreign;
            for text in [id, kind, agent, aggregate] {
                put.value(text)?;
            }
            let format = match format {
                Format::Json => 0,
                Format::MessagePack => 1,
            };
            put.time(time).u8(format);
            match source {
                None => put.u8(0),
                Some(Source { file, offset, verified }) => {
                    put.u8(1).value(file)?.u64(offset).u8(verified.into())
                }
            };
            put.bytes(&fingerprint).data(body)?;
            return Ok((FOREIGN, put.tail(body)));
        }
    };
    Ok((kind, 0))
}

/// The change of this kind that body and tail say; `None` if they say none.
pub(super) fn decode_change<'a>(kind: u8, body: &'a [u8], tail: &'a [u8]) -> Option<Change<'a>> {
    let mut take = Take(body);
    if matches!(kind, WRITE | WRITE_END) {
        let (ino, offset) = (take.ino()?, take.u64()?);
        let (mode, drop_capability) = (take.optional(Take::u32)?, take.flag()?);
        let (data, ends) = (take.data(tail)?, kind == WRITE_END);
        return take.end(Change::Write { ino, offset, data, ends, mode, drop_capability });
    }
    if kind == FOREIGN {
        let foreign = Foreign {
            id: take.value()?,
            kind: take.value()?,
            agent: take.value()?,
            aggregate: take.value()?,
            time: take.time()?,
            format: match take.u8()? {
                0 => Format::Json,
                1 => Format::MessagePack,
                _ => return None,
            },
            source: take.optional(|take| {
                Some(Source { file: take.value()?, offset: take.u64()?, verified: take.flag()? })
            })?,
            fingerprint: take.array()?,
            body: take.data(tail)?,
        };
        return take.end(Change::Foreign(foreign));
    }
    if !tail.is_empty() {
        return None;
    }
    let change = match kind {
        MKFS => Change::Mkfs { mode: take.u32()?, uid: take.u32()?, gid: take.u32()? },
        CREATE => Change::Create {
            parent: take.ino()?,
            name: take.component()?,
            mode: take.u32()?,
            uid: take.u32()?,
            gid: take.u32()?,
            rdev: take.u64()?,
            target: take.value()?,
            xattrs: take.xattrs()?,
        },
        TMPFILE => Change::Tmpfile {
            mode: take.u32()?,
            uid: take.u32()?,
            gid: take.u32()?,
            xattrs: take.xattrs()?,
        },
        LINK => Change::Link { ino: take.ino()?, parent: take.ino()?, name: take.component()? },
        UNLINK => Change::Unlink { parent: take.ino()?, name: take.component()?, ino: take.ino()? },
        RENAME => Change::Rename {
            parent: take.ino()?,
            name: take.component()?,
            new_parent: take.ino()?,
            new_name: take.component()?,
            ino: take.ino()?,
            replaced: take.optional(Take::ino)?,
        },
        EXCHANGE => Change::Exchange {
            parent: take.ino()?,
            name: take.component()?,
            new_parent: take.ino()?,
            new_name: take.component()?,
            ino: take.ino()?,
            other: take.ino()?,
        },
        SET_ATTR => Change::SetAttr {
            ino: take.ino()?,
            set: SetAttr {
                mode: take.optional(Take::u32)?,
                uid: take.optional(Take::u32)?,
                gid: take.optional(Take::u32)?,
                size: take.optional(Take::u64)?,
                atime: take.optional(Take::time)?,
                mtime: take.optional(Take::time)?,
            },
            acl: take.optional(Take::value)?,
            drop_capability: take.flag()?,
        },
        FALLOCATE => Change::Fallocate {
            ino: take.ino()?,
            how: match take.u8()? {
                how @ (0 | 1) => Allocation::Reserve { keep_size: how == 1 },
                2 => Allocation::Punch,
                how @ (3 | 4) => Allocation::Zero { keep_size: how == 4 },
                _ => return None,
            },
            offset: take.u64()?,
            len: take.u64()?,
            mode: take.optional(Take::u32)?,
        },
        CLONE | CLONE_END => Change::Clone {
            src: take.ino()?,
            src_offset: take.u64()?,
            dst: take.ino()?,
            dst_offset: take.u64()?,
            len: take.u64()?,
            ends: kind == CLONE_END,
            mode: take.optional(Take::u32)?,
        },
        SET_XATTR => Change::SetXattr {
            ino: take.ino()?,
            name: take.name()?,
            value: take.value()?,
            mode: take.optional(Take::u32)?,
        },
        REMOVE_XATTR => Change::RemoveXattr { ino: take.ino()?, name: take.name()? },
        END_INODE => Change::End { ino: take.ino()? },
        _ => return None,
    };
    take.end(change)
}

/// Appends the body; returns the kind.
pub(super) fn encode_note(out: &mut Vec<u8>, note: &Note<'_>) -> Result<u8, Misfit> {
    let mut put = Put(out);
    Ok(match note {
        Note::Seal(seal) => {
            put.u32(seal.synced.segment).u32(seal.synced.offset).bytes(&seal.hash);
            put.bytes(&seal.previous).u64(seal.reserve.0);
            SEAL
        }
        Note::Actor { id, actor } => {
            put.u32(id.0).u32(actor.uid).u32(actor.gid).u32(actor.pid).u64(actor.start_time);
            for text in [&actor.exe, &actor.cmdline, &actor.cgroup, &actor.agent, &actor.session] {
                put.value(text)?;
            }
            put.u8(actor.ambiguous.into());
            ACTOR
        }
        Note::Connection { id } => {
            put.bytes(id);
            CONNECTION
        }
        Note::Version { ino, actor } => {
            put.u64(ino.0).u32(actor.0);
            VERSION
        }
        Note::Relocation { ino, offset, data, left } => {
            // The salt is in the write it moves; a relocation has its own, in its body, because
            // a note has no tail and what it covers is an extent.
            let Place::Extent { .. } = data.place else { return Err(Misfit) };
            put.u64(ino.0).u64(*offset).bytes(&data.salt).data(data)?;
            put.u32(u32::try_from(left.len()).map_err(|_| Misfit)?);
            for Left { offset, len, file, at } in left {
                put.u64(*offset).u64(*len).u32(*file).u64(*at);
            }
            RELOCATION
        }
        Note::Horizon { horizon, freed } => {
            put.u64(horizon.0).u32(u32::try_from(freed.len()).map_err(|_| Misfit)?);
            for Freed { file, offset, len } in freed {
                put.u32(*file).u64(*offset).u64(*len);
            }
            HORIZON
        }
        Note::Label { name, seq } => {
            put.name(name)?.optional(*seq, |put, seq| put.u64(seq.0));
            LABEL
        }
        Note::End => END,
    })
}

/// The note of this kind that a body says; `None` if it says none.
pub(super) fn decode_note(kind: u8, body: &[u8]) -> Option<Note<'_>> {
    let mut take = Take(body);
    let note = match kind {
        SEAL => Note::Seal(Seal {
            synced: Position { segment: take.u32()?, offset: take.u32()? },
            hash: take.array()?,
            previous: take.array()?,
            reserve: Seq(take.u64()?),
        }),
        ACTOR => Note::Actor {
            id: ActorId(take.u32()?),
            actor: Actor {
                uid: take.u32()?,
                gid: take.u32()?,
                pid: take.u32()?,
                start_time: take.u64()?,
                exe: take.value()?.to_vec(),
                cmdline: take.value()?.to_vec(),
                cgroup: take.value()?.to_vec(),
                agent: take.value()?.to_vec(),
                session: take.value()?.to_vec(),
                ambiguous: take.flag()?,
            },
        },
        CONNECTION => Note::Connection { id: take.array()? },
        VERSION => Note::Version { ino: take.ino()?, actor: ActorId(take.u32()?) },
        RELOCATION => {
            let (ino, offset) = (take.ino()?, take.u64()?);
            let salt = take.slice(SALT_LEN)?;
            let data = take.data(salt)?;
            if matches!(data.place, Place::Inline(_)) {
                return None;
            }
            let count = take.u32()?;
            // As with a horizon's ranges, the bytes bound the loop.
            let mut left = Vec::new();
            for _ in 0..count {
                let (offset, len) = (take.u64()?, take.u64()?);
                left.push(Left { offset, len, file: take.u32()?, at: take.u64()? });
            }
            Note::Relocation { ino, offset, data, left }
        }
        HORIZON => {
            let horizon = Seq(take.u64()?);
            let count = take.u32()?;
            // Not reserved by the count, which may be anything; the bytes bound the loop.
            let mut freed = Vec::new();
            for _ in 0..count {
                freed.push(Freed { file: take.u32()?, offset: take.u64()?, len: take.u64()? });
            }
            Note::Horizon { horizon, freed }
        }
        LABEL => {
            Note::Label { name: take.component()?, seq: take.optional(|take| take.u64().map(Seq))? }
        }
        END => Note::End,
        _ => return None,
    };
    take.end(note)
}

/// Appends fields.
struct Put<'v>(&'v mut Vec<u8>);

impl Put<'_> {
    fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(bytes);
        self
    }
    fn u8(&mut self, number: u8) -> &mut Self {
        self.bytes(&[number])
    }
    fn u32(&mut self, number: u32) -> &mut Self {
        self.bytes(&number.to_le_bytes())
    }
    fn u64(&mut self, number: u64) -> &mut Self {
        self.bytes(&number.to_le_bytes())
    }
    fn time(&mut self, time: Timestamp) -> &mut Self {
        self.bytes(&time.0.to_le_bytes())
    }
    fn name(&mut self, name: &[u8]) -> Result<&mut Self, Misfit> {
        let len = u8::try_from(name.len()).ok().filter(|&len| len > 0).ok_or(Misfit)?;
        Ok(self.u8(len).bytes(name))
    }
    fn value(&mut self, value: &[u8]) -> Result<&mut Self, Misfit> {
        let len = u32::try_from(value.len()).map_err(|_| Misfit)?;
        Ok(self.u32(len).bytes(value))
    }
    fn optional<T>(
        &mut self,
        value: Option<T>,
        put: impl FnOnce(&mut Self, T) -> &mut Self,
    ) -> &mut Self {
        match value {
            None => self.u8(0),
            Some(value) => {
                self.u8(1);
                put(self, value)
            }
        }
    }
    fn xattrs(&mut self, xattrs: &Xattrs<'_>) -> Result<&mut Self, Misfit> {
        self.u32(u32::try_from(xattrs.len()).map_err(|_| Misfit)?);
        for (name, value) in xattrs {
            self.name(name)?.value(value)?;
        }
        Ok(self)
    }
    fn data(&mut self, data: &Data<'_>) -> Result<&mut Self, Misfit> {
        self.bytes(&data.hash);
        match data.place {
            Place::Inline(bytes) if bytes.len() <= AWAITED_INLINE_MAX => Ok(self.u8(0)),
            Place::Inline(_) => Err(Misfit),
            Place::Extent { location, len, crcs } => {
                let FileId::Content(file) = location.file else { return Err(Misfit) };
                self.u8(1).u32(file).u64(location.offset).u64(len).value(crcs)
            }
        }
    }
    fn tail(&mut self, data: &Data<'_>) -> usize {
        self.bytes(&data.salt);
        match data.place {
            Place::Inline(bytes) => {
                self.bytes(bytes);
                SALT_LEN + bytes.len()
            }
            Place::Extent { .. } => SALT_LEN,
        }
    }
}

/// Takes fields off the front.
struct Take<'a>(&'a [u8]);

impl<'a> Take<'a> {
    fn slice(&mut self, len: usize) -> Option<&'a [u8]> {
        let (front, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(front)
    }
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (front, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*front)
    }
    fn u8(&mut self) -> Option<u8> {
        self.array().map(|[byte]| byte)
    }
    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }
    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }
    fn ino(&mut self) -> Option<Ino> {
        self.u64().map(Ino)
    }
    fn time(&mut self) -> Option<Timestamp> {
        self.array().map(|bytes| Timestamp(i64::from_le_bytes(bytes)))
    }
    fn flag(&mut self) -> Option<bool> {
        match self.u8()? {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        }
    }
    fn name(&mut self) -> Option<&'a [u8]> {
        let len = self.u8()?;
        self.slice(len.into()).filter(|name| !name.is_empty())
    }
    /// A path component: nothing above the log checks again that it is one.
    fn component(&mut self) -> Option<&'a [u8]> {
        self.name().filter(|name| !name.iter().any(|byte| matches!(byte, 0 | b'/')))
    }
    fn value(&mut self) -> Option<&'a [u8]> {
        let len = self.u32()?;
        self.slice(usize::try_from(len).ok()?)
    }
    fn optional<T>(&mut self, take: impl FnOnce(&mut Self) -> Option<T>) -> Option<Option<T>> {
        if self.flag()? { take(self).map(Some) } else { Some(None) }
    }
    fn xattrs(&mut self) -> Option<Xattrs<'a>> {
        let count = self.u32()?;
        let mut xattrs = Xattrs::new();
        for _ in 0..count {
            xattrs.push((self.name()?, self.value()?));
        }
        Some(xattrs)
    }
    fn data(&mut self, tail: &'a [u8]) -> Option<Data<'a>> {
        let hash = self.array()?;
        let (salt, bytes) = tail.split_first_chunk()?;
        let place = if self.flag()? {
            let file = FileId::Content(self.u32()?);
            let location = Location { file, offset: self.u64()? };
            let (len, crcs) = (self.u64()?, self.value()?);
            // One checksum for each piece, and an end that can be counted to.
            let fits = location.offset.checked_add(len).is_some();
            let pieces = len.div_ceil(super::content::PIECE as u64);
            let counted = pieces.checked_mul(4) == Some(crcs.len() as u64);
            if !bytes.is_empty() || !fits || !counted {
                return None;
            }
            Place::Extent { location, len, crcs }
        } else {
            Place::Inline(Some(bytes).filter(|bytes| bytes.len() <= AWAITED_INLINE_MAX)?)
        };
        Some(Data { hash, salt: *salt, place })
    }
    /// The value, if nothing is left over.
    fn end<T>(self, value: T) -> Option<T> {
        self.0.is_empty().then_some(value)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn round(change: &Change<'_>) {
        let mut out = Vec::new();
        let (kind, tail) = encode_change(&mut out, change).unwrap();
        let (body, tail) = out.split_at(out.len() - tail);
        assert!(is_kind(kind) && is_event(kind));
        assert_eq!(decode_change(kind, body, tail).as_ref(), Some(change));
        for len in 0..body.len() {
            assert_eq!(decode_change(kind, &body[..len], tail), None, "cut to {len}");
        }
    }

    fn round_note(note: &Note<'_>) {
        let mut out = Vec::new();
        let kind = encode_note(&mut out, note).unwrap();
        assert!(is_kind(kind) && !is_event(kind));
        assert_eq!(decode_note(kind, &out).as_ref(), Some(note));
        for len in 0..out.len() {
            assert_eq!(decode_note(kind, &out[..len]), None, "cut to {len}");
        }
    }

    fn name() -> impl Strategy<Value = Vec<u8>> {
        vec(
            any::<u8>().prop_map(|byte| if byte == 0 || byte == b'/' { b'x' } else { byte }),
            1..255,
        )
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn every_change_comes_back_as_it_went(
            (one, two) in (name(), name()),
            (mode, uid, gid, rdev) in any::<(u32, u32, u32, u64)>(),
            (a, b, c, d, len) in any::<(u64, u64, u64, u64, u64)>(),
            value in vec(any::<u8>(), 0..300),
            bytes in vec(any::<u8>(), 0..=AWAITED_INLINE_MAX),
            (some, flag) in any::<(bool, bool)>(),
            (hash, salt) in any::<([u8; 32], [u8; 16])>(),
            pieces in 0_u32..40,
            time: i64,
        ) {
            let xattrs: Xattrs<'_> = vec![(&one[..], &value[..]), (&two[..], &[])];
            let mode_or = some.then_some(mode);
            let (x, y) = (Ino(a), Ino(b));
            let long = u64::from(pieces) * super::super::content::PIECE as u64;
            let crcs = vec![7; pieces as usize * 4];
            round(&Change::Mkfs { mode, uid, gid });
            round(&Change::Create {
                parent: x, name: &one, mode, uid, gid, rdev, target: &value, xattrs: xattrs.clone(),
            });
            round(&Change::Tmpfile { mode, uid, gid, xattrs });
            round(&Change::Link { ino: x, parent: y, name: &two });
            round(&Change::Unlink { parent: x, name: &one, ino: y });
            round(&Change::Rename {
                parent: x, name: &one, new_parent: y, new_name: &two, ino: Ino(c),
                replaced: some.then_some(Ino(d)),
            });
            round(&Change::Exchange {
                parent: x, name: &one, new_parent: y, new_name: &two, ino: Ino(c), other: Ino(d),
            });
            round(&Change::SetAttr {
                ino: x,
                set: SetAttr {
                    mode: mode_or,
                    uid: flag.then_some(uid),
                    gid: some.then_some(gid),
                    size: flag.then_some(b),
                    atime: some.then_some(Timestamp(time)),
                    mtime: flag.then_some(Timestamp(!time)),
                },
                acl: some.then_some(&value),
                drop_capability: flag,
            });
            for place in [
                Place::Inline(&bytes),
                Place::Extent {
                    location: Location { file: FileId::Content(uid), offset: c >> 1 },
                    len: long,
                    crcs: &crcs,
                },
            ] {
                let data = Data { hash, salt, place };
                round(&Change::Write {
                    ino: x, offset: b, data, ends: some, mode: mode_or, drop_capability: flag,
                });
                round(&Change::Foreign(Foreign {
                    id: &one,
                    kind: &two,
                    agent: &value,
                    aggregate: &[],
                    time: Timestamp(time),
                    format: if flag { Format::Json } else { Format::MessagePack },
                    source: some.then_some(Source { file: &two, offset: c, verified: flag }),
                    fingerprint: salt,
                    body: data,
                }));
                if matches!(place, Place::Extent { .. }) {
                    let left = vec![Left { offset: c, len: long, file: uid, at: b }; usize::from(flag)];
                    round_note(&Note::Relocation { ino: x, offset: b, data, left });
                }
            }
            for how in [
                Allocation::Reserve { keep_size: flag },
                Allocation::Punch,
                Allocation::Zero { keep_size: flag },
            ] {
                round(&Change::Fallocate { ino: x, how, offset: b, len, mode: mode_or });
            }
            round(&Change::Clone {
                src: x, src_offset: b, dst: y, dst_offset: c, len, ends: flag, mode: mode_or,
            });
            round(&Change::SetXattr { ino: x, name: &one, value: &value, mode: mode_or });
            round(&Change::RemoveXattr { ino: x, name: &one });
            round(&Change::End { ino: x });
            round_note(&Note::Seal(Seal {
                synced: Position { segment: uid, offset: gid },
                hash,
                previous: [salt[0]; 32],
                reserve: Seq(a),
            }));
            round_note(&Note::Actor {
                id: ActorId(uid),
                actor: Actor {
                    uid, gid, pid: mode, start_time: a, exe: value.clone(), cmdline: one.clone(),
                    cgroup: two.clone(), agent: Vec::new(), session: value.clone(), ambiguous: flag,
                },
            });
            round_note(&Note::Connection { id: salt });
            round_note(&Note::Version { ino: x, actor: ActorId(gid) });
            round_note(&Note::Label { name: b"label", seq: None });
            round_note(&Note::Label { name: b"label", seq: Some(Seq(a)) });
            round_note(&Note::Horizon {
                horizon: Seq(a),
                freed: vec![Freed { file: uid, offset: b, len }; pieces as usize],
            });
            round_note(&Note::End);
        }
    }
}
