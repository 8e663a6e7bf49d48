//! The segments behind the one that is written: set aside ahead, lent on a full disk, and refused to what grows.

use std::io;
use std::sync::Arc;

use super::super::super::disk::{Disk, File, is_full};
use super::super::super::segment::segment_path;
use super::super::super::superblock::Shape;
use super::{AppendError, Log, Writer, from_io};

/// With less room than this in a segment, in bytes, the next change may have to go to another.
const ROLL_ROOM: u32 = 64 << 10;

impl Log {
    /// Refuses the last segment that there is space for to what grows: on a full disk it is for what gives space back, and
    /// lends its own meanwhile ([`lend`](Self::lend)).
    pub(super) fn leave_one_aside(&self, writer: &mut Writer) -> Result<(), AppendError> {
        if writer.next.is_none() {
            self.prepare_next(writer).map_err(from_io)?;
        }
        let len = u64::from(self.shape.segment_len);
        // It is set aside when there is time for that. What is counted may be less than what we may take.
        if writer.after.is_none() && self.disk.space().is_ok_and(|space| space.available < len) {
            let number = writer.end.position.segment + 2;
            let made = set_aside(&*self.disk, self.shape, number);
            if let Err(err) = &made {
                writer.full = is_full(err);
                self.give_back(number);
            }
            writer.after = Some((number, made.map_err(from_io)?));
        }
        writer.full = false;
        Ok(())
    }

    /// Has `work` done with the space of the segment that is set aside, given back for that, while nothing is appended; then
    /// sets one aside again, from what `work` gave back. `path` is for `work` to make a file at. `StorageFull` where
    /// none is set aside.
    ///
    /// `work` may wait for pins, and for nothing that waits for the log.
    pub(in crate::store) fn lend(
        &self,
        path: &str,
        work: impl FnOnce() -> io::Result<()>,
    ) -> io::Result<()> {
        let _one = self.preparing.lock();
        let mut writer = self.writer.lock();
        let Some((number, file)) = writer.next.take() else {
            return Err(io::ErrorKind::StorageFull.into());
        };
        // Renamed rather than removed: the space goes from one to the other, and nobody else comes in between.
        if let Err(err) = self.disk.rename(&segment_path(number), path) {
            writer.next = Some((number, file));
            return Err(err);
        }
        drop(file);
        let done = self.disk.sync_dir("log").and_then(|()| work());
        if done.is_err() {
            // `work` has removed it, or did not come to begin.
            let _ = self.disk.remove(path);
        }
        // If there is no space for one now, whoever asks for it next hears of that.
        let _ = self.prepare_next(&mut writer);
        done
    }

    /// Sets the next segment aside, if that was not done. Called now and then from outside, so
    /// that appending need not.
    pub fn prepare(&self) -> io::Result<()> {
        let _one = self.preparing.lock();
        let number = {
            let writer = self.writer.lock();
            if writer.next.is_some() {
                return Ok(());
            }
            writer.end.position.segment + 1
        };
        let made = set_aside(&*self.disk, self.shape, number);
        let mut writer = self.writer.lock();
        self.prepared(&mut writer, number, made)
    }

    pub(super) fn prepare_next(&self, writer: &mut Writer) -> io::Result<()> {
        let number = writer.end.position.segment + 1;
        self.prepared(writer, number, set_aside(&*self.disk, self.shape, number))
    }

    fn prepared(
        &self,
        writer: &mut Writer,
        number: u32,
        made: io::Result<Arc<dyn File>>,
    ) -> io::Result<()> {
        // The log may have gone on by itself meanwhile.
        if writer.end.position.segment + 1 != number {
            return Ok(());
        }
        match made {
            Ok(file) => {
                writer.next = Some((number, file));
                writer.full = false;
                Ok(())
            }
            Err(err) => {
                writer.full |= is_full(&err);
                // Unless somebody else had more luck with it meanwhile.
                if writer.next.is_none() {
                    self.give_back(number);
                }
                Err(err)
            }
        }
    }

    /// Gives back the part of a segment that could not be set aside whole: it is no use to the log, and may be all there is
    /// for what makes room. To be called with the writer locked, so that nobody has come to use it.
    fn give_back(&self, number: u32) {
        if let Ok(file) = self.disk.open(&segment_path(number), false) {
            // If this fails too, it is found again with the next try.
            let _ = file.set_len(0);
        }
    }

    /// Whether something that grows may be refused as the disk is full: there was no space for the next segment, or this one
    /// is nearly used up and there is none for the one that must stay aside then.
    pub fn is_full(&self) -> bool {
        let mut writer = self.writer.lock();
        let room = self.shape.segment_len - writer.end.position.offset;
        let is_short = room < ROLL_ROOM.min(self.shape.segment_len / 4);
        writer.next.is_none() && writer.full
            || is_short && self.leave_one_aside(&mut writer).is_err()
    }

    /// Whether the next segment is still to be set aside.
    pub fn wants_segment(&self) -> bool {
        let writer = self.writer.lock();
        writer.next.is_none() && !writer.full
    }
}

/// Makes the file of a segment, all zeros, its space and its name safe. If that fails, a part of it may be there.
pub(super) fn set_aside(disk: &dyn Disk, shape: Shape, number: u32) -> io::Result<Arc<dyn File>> {
    let file = disk.open(&segment_path(number), true)?;
    file.allocate(0, shape.segment_len.into())?;
    disk.sync_dir("log")?;
    Ok(file)
}
