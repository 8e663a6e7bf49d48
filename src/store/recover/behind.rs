//! What was ever written behind the end of the log, and what seals in it promise.

use std::io;

use zerocopy::FromBytes;

use crate::store::codec::{self, Note, SEAL_LEN, Seal};
use crate::store::disk::{Disk, File};
use crate::store::record::{self, Entry, HEADER_LEN, Header, sign};
use crate::store::segment::{Position, open_segment, segment_numbers, segment_path};
use crate::store::superblock::Super;

/// What was ever written to a segment behind the end of the log, none of it zeros at its end.
#[derive(Clone, Copy, Debug)]
pub(super) struct Written {
    pub(super) segment: u32,
    pub(super) from: u64,
    pub(super) until: u64,
}

/// All that was ever written behind `end`, in order.
pub(super) fn written_behind(disk: &dyn Disk, end: Position) -> io::Result<Vec<Written>> {
    let mut written = Vec::new();
    for segment in segment_numbers(disk)?.into_iter().filter(|&number| number >= end.segment) {
        let from = if segment == end.segment { end.offset.into() } else { 0 };
        let until = last_written(&*disk.open(&segment_path(segment), false)?, from)?;
        written.extend(until.map(|until| Written { segment, from, until }));
    }
    Ok(written)
}

const PAGE: usize = 4096;
const ZEROS: [u8; PAGE] = [0; PAGE];

/// The end of what is not zeros in `file`, from `from` on.
pub(in crate::store) fn last_written(file: &dyn File, from: u64) -> io::Result<Option<u64>> {
    let mut buffer = vec![0; 256 << 10];
    let (mut at, mut last) = (from, None);
    loop {
        let len = file.read_at(&mut buffer, at)?;
        if len == 0 {
            return Ok(last);
        }
        for page in buffer.get(..len).unwrap_or_default().chunks(PAGE) {
            if Some(page) != ZEROS.get(..page.len())
                && let Some(end) = page.iter().rposition(|&byte| byte != 0)
            {
                last = Some(at + end as u64 + 1);
            }
            at += page.len() as u64;
        }
    }
}

/// Up to where seals behind the end say that everything is on the disk; `None` if there are none. `written` is all there is.
///
/// What is bad hides where the next record begins, so seals are looked for at every byte. Content may look like one,
/// but nobody else can [sign] it for the place where it lies.
pub(super) fn promised_behind(
    disk: &dyn Disk,
    state: &Super,
    written: &[Written],
) -> io::Result<Option<Position>> {
    let mut promised = None;
    for part in written {
        let file = match open_segment(disk, part.segment) {
            Ok(file) => file,
            Err(err) if err.kind() == io::ErrorKind::InvalidData => continue,
            Err(err) => return Err(err),
        };
        // The last bytes of a seal may be zeros.
        let until = part.until.saturating_add(SEAL_RECORD_LEN as u64);
        let len = until.min(state.shape.segment_len.into()).saturating_sub(part.from);
        let mut bytes = vec![0; usize::try_from(len).unwrap_or_default()];
        let len = file.read_at(&mut bytes, part.from)?;
        let windows = bytes.get(..len).unwrap_or_default().windows(SEAL_RECORD_LEN);
        for (at, bytes) in (part.from..).zip(windows) {
            let Ok(offset) = u32::try_from(at) else { break };
            let position = Position { segment: part.segment, offset };
            if let Some(seal) = seal_at(bytes, position, &state.key) {
                promised = promised.max(Some(seal.synced));
            }
        }
    }
    Ok(promised)
}

/// Length of a seal's record.
const SEAL_RECORD_LEN: usize = HEADER_LEN + SEAL_LEN;

/// The seal that `bytes` are, if it was put at `position` by who knows the store's `key`.
fn seal_at(bytes: &[u8], position: Position, key: &[u8; 16]) -> Option<Seal> {
    let (header, _) = Header::ref_from_prefix(bytes).ok()?;
    if !codec::is_seal(header.kind) || header.body_len.get() as usize != SEAL_LEN {
        return None;
    }
    let record = record::decode(bytes, header.prev.get()).ok()?;
    match record.entry() {
        Some(Entry::Note(Note::Seal(seal))) => {
            (record.stamp().unique == sign(key, position, seal.synced)).then_some(seal)
        }
        _ => None,
    }
}
