//! One pass over the log: where it ends, what vouches for it, and what of it may not hold.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use rustc_hash::FxHashMap;

use crate::store::Origin;
use crate::store::codec::{Freed, Note};
use crate::store::content::{PIECE, content_path};
use crate::store::disk::{Disk, File};
use crate::store::event::{Data, FileId, Place, Seq};
use crate::store::log::{LogReader, Mark, Next, absorb, content_until};
use crate::store::record::{Entry, Fault};
use crate::store::segment::{Checkpoint, Position};
use crate::store::superblock::Super;

use super::{Damage, mark};

/// One pass over the log.
pub(super) struct Scan {
    pub(super) end: Checkpoint,
    /// Where the next record should be: at the end, or at the start of the segment behind it.
    pub(super) broken_off: Position,
    /// Behind the newest seal, or the start of the pass.
    pub(super) seal: Mark,
    pub(super) synced: Position,
    pub(super) reserve: Seq,
    pub(super) answered: FxHashMap<u64, Seq>,
    pub(super) freed: Vec<Freed>,
    /// Records behind `synced` that hold only if their content does.
    pub(super) doubtful: VecDeque<(Position, Doubt)>,
    pub(super) fault: Fault,
}

pub(super) enum Doubt {
    /// Its content reads as zeros, as if taken out; but nothing is taken out so soon.
    Gone,
    /// Its content must match these checksums.
    Extent { file: u32, offset: u64, len: u64, crcs: Vec<u8> },
}

/// Reads the log from where recovery begins to its end, or to `until`.
pub(super) fn scan(
    disk: &Arc<dyn Disk>,
    state: &Super,
    until: Option<Position>,
) -> io::Result<Result<Scan, Damage>> {
    let mut reader = match LogReader::at_segment(Arc::clone(disk), state.store, state.scan_from) {
        Ok(reader) => reader,
        Err(err) if matches!(err.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidData) => {
            let at = Position { segment: state.scan_from, offset: 0 };
            let what = "a segment's header is missing or damaged";
            return Ok(Err(Damage { at, what }));
        }
        Err(err) => return Err(err),
    };
    let mut scan = Scan {
        end: *reader.segment_start(),
        broken_off: reader.mark().position,
        seal: reader.mark(),
        synced: state.checkpoint.position,
        reserve: state.checkpoint.reserve.max(reader.segment_start().reserve),
        answered: FxHashMap::default(),
        freed: Vec::new(),
        doubtful: VecDeque::new(),
        fault: Fault::Blank,
    };
    scan.end.horizon = scan.end.horizon.max(state.checkpoint.horizon);
    let mut senseless = None;
    loop {
        match reader.read_on()? {
            Next::End(fault) => {
                scan.fault = fault;
                break;
            }
            // By where the record is, not by where reading stood: the first of a segment is read from the end of the one before.
            Next::Record(position, _) if until.is_some_and(|until| position >= until) => break,
            Next::Record(position, record) => {
                let Some(entry) = record.entry() else {
                    scan.fault = Fault::Damaged;
                    senseless = Some(position);
                    break;
                };
                let stamp = record.stamp();
                scan.end.position = position.advance(record.len());
                scan.end.prev = record.header.crc.get();
                scan.end.seq = stamp.seq;
                scan.end.time = stamp.time;
                if record.gone {
                    scan.doubtful.push_back((position, Doubt::Gone));
                }
                match entry {
                    Entry::Event(event) => {
                        if !matches!(event.unique, 0 | Origin::IMPORTED) {
                            scan.answered.insert(event.unique, event.seq);
                        }
                        if let Some(data) = event.change.data() {
                            scan.meets(position, data);
                        }
                    }
                    Entry::Note(Note::Seal(seal)) => {
                        scan.end.seal = *blake3::hash(record.covered).as_bytes();
                        scan.seal = mark(state.store, &scan.end);
                        scan.reserve = scan.reserve.max(seal.reserve);
                        scan.vouched(seal.synced);
                    }
                    Entry::Note(note) => {
                        if let Note::Connection { .. } = note {
                            scan.answered.clear();
                        }
                        if let Note::Relocation { data, .. } = &note {
                            scan.meets(position, data);
                        }
                        absorb(&mut scan.end, &note);
                        if let Note::Horizon { freed, .. } = note {
                            scan.freed = freed;
                        }
                    }
                }
            }
        }
    }
    scan.broken_off = senseless.unwrap_or(reader.mark().position);
    scan.vouched(scan.synced);
    Ok(Ok(scan))
}

impl Scan {
    /// Remembers the extent that a record refers to.
    fn meets(&mut self, position: Position, data: &Data<'_>) {
        let Place::Extent { location, len, crcs } = data.place else { return };
        content_until(&mut self.end, location, len);
        if let FileId::Content(file) = location.file
            && position >= self.synced
        {
            let (offset, crcs) = (location.offset, crcs.to_vec());
            self.doubtful.push_back((position, Doubt::Extent { file, offset, len, crcs }));
        }
    }

    /// All before `synced` is on the disk.
    pub(super) fn vouched(&mut self, synced: Position) {
        self.synced = self.synced.max(synced);
        while self.doubtful.front().is_some_and(|(at, _)| *at < self.synced) {
            self.doubtful.pop_front();
        }
    }
}

/// The first record whose content does not hold. Where `pages_hold`, all is as it was written, unless a record was.
pub(super) fn first_doubt(
    disk: &dyn Disk,
    scan: &Scan,
    pages_hold: bool,
) -> io::Result<Option<Position>> {
    let mut open: FxHashMap<u32, Option<Arc<dyn File>>> = FxHashMap::default();
    for (position, doubt) in &scan.doubtful {
        match doubt {
            // A process that is killed may leave its last record up to the end of a page.
            Doubt::Gone => return Ok(Some(*position)),
            Doubt::Extent { .. } if pages_hold => (),
            Doubt::Extent { file, offset, len, crcs } => {
                if !open.contains_key(file) {
                    let found = match disk.open(&content_path(*file), false) {
                        Ok(found) => Some(found),
                        Err(err) if err.kind() == io::ErrorKind::NotFound => None,
                        Err(err) => return Err(err),
                    };
                    open.insert(*file, found);
                }
                let holds = match open.get(file) {
                    Some(Some(file)) => first_bad_piece(&**file, *offset, *len, crcs)?.is_none(),
                    _ => false,
                };
                if !holds {
                    return Ok(Some(*position));
                }
            }
        }
    }
    Ok(None)
}

/// Offset in `file` of the first piece of an extent that does not match its checksum.
fn first_bad_piece(file: &dyn File, offset: u64, len: u64, crcs: &[u8]) -> io::Result<Option<u64>> {
    let mut piece = vec![0; PIECE];
    let (mut at, end) = (offset, offset.saturating_add(len));
    for crc in crcs.chunks_exact(4) {
        let want = usize::try_from(end - at).unwrap_or(PIECE).min(PIECE);
        let Some(bytes) = piece.get_mut(..want) else { return Ok(Some(at)) };
        let whole = file.read_at(bytes, at)? == want;
        if !whole || crc32c::crc32c(bytes).to_le_bytes() != *crc {
            return Ok(Some(at));
        }
        at += want as u64;
    }
    Ok(None)
}

/// BLAKE3 over what lies between a seal and the end.
pub(super) fn hash_since(
    disk: &Arc<dyn Disk>,
    seal: Mark,
    end: Position,
) -> io::Result<blake3::Hasher> {
    let mut hasher = blake3::Hasher::new();
    let mut reader = LogReader::resume(Arc::clone(disk), seal.store, seal)?;
    while reader.mark().position < end {
        match reader.read_on()? {
            Next::Record(_, record) => hasher.update(record.covered),
            Next::End(_) => break,
        };
    }
    Ok(hasher)
}
