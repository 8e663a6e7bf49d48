//! What recovery does to the disk: what does not hold is moved aside, and the rest made durable.
//!
//! Invariants: cut short by a power cut, each step comes to the same end when it is done again.

use std::io;

use crate::store::content::{content_numbers, content_path};
use crate::store::disk::{Disk, File, is_full};
use crate::store::segment::{
    Checkpoint, Position, SEGMENT_HEADER_LEN, open_segment, segment_numbers, segment_path,
};
use crate::store::superblock::{State, Super};

use super::Cut;
use super::behind::{Written, written_behind};
use super::scan::{Doubt, Scan};

/// Cuts off what was `written` behind the end, and makes the rest durable.
pub(super) fn make_good(
    disk: &dyn Disk,
    state: &Super,
    scan: &Scan,
    written: &[Written],
) -> io::Result<Option<Cut>> {
    let end = scan.end.position;
    let moved = match cut_off(disk, state, end, written) {
        // What is set aside for a full disk is there for this.
        Err(err) if is_full(&err) => {
            remove_blank_behind(disk, end, written)?;
            cut_off(disk, state, end, &written_behind(disk, end)?)
        }
        other => other,
    }?;
    settle(disk, state, scan)?;
    Ok(moved)
}

/// Removes segments behind `end` that were set aside, and not `written` to.
fn remove_blank_behind(disk: &dyn Disk, end: Position, written: &[Written]) -> io::Result<()> {
    for number in segment_numbers(disk)?.into_iter().filter(|&number| number > end.segment) {
        if written.iter().all(|part| part.segment != number) {
            disk.remove(&segment_path(number))?;
        }
    }
    disk.sync_dir("log")
}

/// Moves everything behind `end`, which is what was `written` there, to `lost/`, so that it reads as zeros again.
fn cut_off(
    disk: &dyn Disk,
    state: &Super,
    end: Position,
    written: &[Written],
) -> io::Result<Option<Cut>> {
    let mut cut = Cut { at: end, bytes: 0, kept: Vec::new() };
    let file = open_segment(disk, end.segment)?;
    // The last first: another power cut in between finds the same end.
    for part in written.iter().rev() {
        disk.create_dir("lost")?;
        let from = if part.segment == end.segment { end.offset } else { 0 };
        let kept = lost_path(disk, part.segment, from)?;
        if part.segment == end.segment {
            disk.sync_dir("")?;
            let aside = disk.open(&kept, true)?;
            let copied =
                copy(&*file, part.from, part.until, &*aside).and_then(|()| aside.sync_data());
            if let Err(err) = copied {
                // A part of it is of no use, and may be all the space there is.
                let _ = disk.remove(&kept);
                return Err(err);
            }
            disk.sync_dir("lost")?;
            file.punch(part.from, part.until - part.from)?;
        } else {
            disk.rename(&segment_path(part.segment), &kept)?;
            disk.sync_dir("lost")?;
            disk.sync_dir("log")?;
        }
        cut.bytes += part.until - part.from;
        cut.kept.push(kept);
    }
    // The space goes with the hole, and must be there before anyone appends.
    file.allocate(0, state.shape.segment_len.into())?;
    file.sync_data()?;
    Ok((!cut.kept.is_empty()).then_some(cut))
}

/// A name in `lost/` that is not taken, for what lay at a place of the log.
fn lost_path(disk: &dyn Disk, segment: u32, offset: u32) -> io::Result<String> {
    let taken = disk.list("lost")?;
    let mut name = format!("{segment:08}-{offset}");
    for again in 1_u32.. {
        if !taken.contains(&name) {
            break;
        }
        name = format!("{segment:08}-{offset}-{again}");
    }
    Ok(format!("lost/{name}"))
}

fn copy(from: &dyn File, start: u64, end: u64, to: &dyn File) -> io::Result<()> {
    let mut buffer = vec![0; 256 << 10];
    let mut at = start;
    while at < end {
        let want = usize::try_from(end - at).unwrap_or(usize::MAX).min(buffer.len());
        let len = from.read_at(buffer.get_mut(..want).unwrap_or_default(), at)?;
        let Some(bytes) = buffer.get(..len).filter(|bytes| !bytes.is_empty()) else { break };
        to.write_at(bytes, at - start)?;
        at += len as u64;
    }
    Ok(())
}

/// Makes what the last one did not sync durable.
fn settle(disk: &dyn Disk, state: &Super, scan: &Scan) -> io::Result<()> {
    let end = scan.end.position;
    // After a failed sync the kernel takes pages for clean that never reached the disk. Written
    // again, they are dirty again.
    let again = state.state == State::SyncFailed;
    if again {
        for (_, doubt) in &scan.doubtful {
            if let Doubt::Extent { file, offset, len, .. } = doubt {
                let file = disk.open(&content_path(*file), false)?;
                rewrite(&*file, *offset, offset.saturating_add(*len))?;
            }
        }
    }
    let first_file = state.checkpoint.content_file;
    for number in content_numbers(disk)?.into_iter().filter(|&number| number >= first_file) {
        disk.open(&content_path(number), false)?.sync_data()?;
    }
    for number in state.scan_from..=end.segment {
        let file = open_segment(disk, number)?;
        if again {
            let until = if number == end.segment { end.offset } else { state.shape.segment_len };
            let from = if number == scan.synced.segment { scan.synced.offset } else { 0 };
            if number >= scan.synced.segment {
                rewrite(&*file, from.into(), until.into())?;
                // The header may be as lost as the rest.
                rewrite(&*file, 0, SEGMENT_HEADER_LEN.into())?;
            }
        }
        file.sync_data()?;
    }
    disk.sync_dir("content")?;
    disk.sync_dir("log")
}

fn rewrite(file: &dyn File, start: u64, end: u64) -> io::Result<()> {
    let mut buffer = vec![0; 256 << 10];
    let mut at = start;
    while at < end {
        let want = usize::try_from(end - at).unwrap_or(usize::MAX).min(buffer.len());
        let len = file.read_at(buffer.get_mut(..want).unwrap_or_default(), at)?;
        let Some(bytes) = buffer.get(..len).filter(|bytes| !bytes.is_empty()) else { break };
        file.write_at(bytes, at)?;
        at += len as u64;
    }
    Ok(())
}

/// Gives back what was written or set aside for events that are not in the log, and says where
/// content goes on: behind all of it, for no offset is ever used twice.
pub(super) fn release_unused_content(disk: &dyn Disk, end: &Checkpoint) -> io::Result<(u32, u64)> {
    let mut next = (end.content_file, end.content_offset);
    for number in content_numbers(disk)?.into_iter().filter(|&n| n >= end.content_file) {
        let file = disk.open(&content_path(number), false)?;
        let len = file.len()?;
        let used = if number == end.content_file { end.content_offset } else { 0 };
        let from = used.next_multiple_of(4096);
        if from < len {
            file.punch(from, len - from)?;
        }
        next = (number, len.max(used));
    }
    Ok(next)
}
