//! The one that appends: records and seals. The segments they go to next are set aside in [`aside`].

mod aside;

use std::io;
use std::sync::Arc;

use parking_lot::Mutex;

use super::super::codec::{Note, SEAL_LEN, Seal};
use super::super::disk::{Disk, File, is_full};
use super::super::event::{
    ActorId, Allocation, Change, Event, FileId, Location, Place, Seq, Timestamp,
};
use super::super::record::{self, HEADER_LEN, Misfit, Stamp};
use super::super::segment::{
    Checkpoint, Position, SEGMENT_HEADER_LEN, encode_header, open_segment,
};
use super::super::superblock::Shape;
use super::Mark;
use aside::set_aside;

/// How many numbers a seal reserves ahead. A power cut skips at most so many.
pub const RESERVE: u64 = 1 << 20;

/// So many bytes of zeros are written behind the end at once ([`Log::zero_ahead`]).
const ZEROS: u32 = 256 << 10;

/// What a seal takes, which is kept free at the end of every segment.
const SEAL_ROOM: usize = HEADER_LEN + SEAL_LEN;

/// Which space a record may take.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Claim {
    /// What there is for everybody: refused when the disk is full.
    Ordinary,
    /// What is set aside too: it frees space, or has to work on a full disk.
    SetAside,
}

impl Claim {
    /// Which of both the record of `change` may.
    #[must_use]
    pub fn of(change: &Change<'_>) -> Self {
        match change {
            Change::Unlink { .. }
            | Change::Rename { .. }
            | Change::Exchange { .. }
            | Change::RemoveXattr { .. }
            | Change::End { .. }
            // A size alone takes no space whichever way it goes, and chmod must work on a full disk.
            | Change::SetAttr { .. }
            | Change::Fallocate { how: Allocation::Punch, .. } => Self::SetAside,
            Change::Mkfs { .. }
            | Change::Create { .. }
            | Change::Tmpfile { .. }
            | Change::Link { .. }
            | Change::Write { .. }
            | Change::Fallocate { .. }
            | Change::Clone { .. }
            | Change::SetXattr { .. }
            | Change::Foreign(_) => Self::Ordinary,
        }
    }
}

/// Why nothing was appended.
#[derive(Debug)]
pub enum AppendError {
    /// No segment could be set aside for what grows.
    NoSpace,
    /// It is no record: too long for a segment, or made of impossible parts.
    Misfit,
    /// Every number was used, or no more may be used before the next sync.
    Exhausted,
    /// Writing failed.
    Io(io::Error),
}

impl From<Misfit> for AppendError {
    fn from(Misfit: Misfit) -> Self {
        Self::Misfit
    }
}

/// Where an event went.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Appended {
    /// Its record.
    pub position: Position,
    /// The bytes of an inline write.
    pub payload: Option<Location>,
    /// Length of the record in bytes.
    pub len: u64,
    /// Where reading goes on behind it.
    pub mark: Mark,
}

/// The end of the log that the one writer has.
pub struct Log {
    disk: Arc<dyn Disk>,
    store: [u8; 16],
    /// The store's key, which signs seals.
    key: [u8; 16],
    shape: Shape,
    writer: Mutex<Writer>,
    /// One at a time sets a segment aside.
    preparing: Mutex<()>,
}

struct Writer {
    /// The end, but for what is under way of the hash chain.
    end: Checkpoint,
    /// Everything since the last seal.
    hasher: blake3::Hasher,
    file: Arc<dyn File>,
    /// The segment to go on with.
    next: Option<(u32, Arc<dyn File>)>,
    /// The one behind that, where it had to be made to know that there is space for it.
    after: Option<(u32, Arc<dyn File>)>,
    /// Setting one aside met a full disk.
    full: bool,
    /// Segments with records that no `sync` has seen; the last one is `file`, always.
    dirty: Vec<Arc<dyn File>>,
    /// Behind the last seal.
    sealed: Position,
    /// A failed append may have left something up to here in the current segment.
    garbage_until: u32,
    /// Up to here zeros were written ahead in the current segment.
    zeroed_until: u32,
    /// Behind the last record that is not a seal: what a `sync` would be for.
    sync_target: Position,
    /// All before this is on the disk.
    synced: Position,
    /// All before this is, as the last seal says.
    promise: Position,
    /// The same as a seal that is on the disk says.
    promised: Position,
    /// Numbers below this may be handed out whatever happens to the power.
    durable_reserve: Seq,
    /// What the newest seal reserves, durable or not.
    sealed_reserve: Seq,
    buffer: Vec<u8>,
}

/// Where a log that is to be continued ends.
pub struct Tail {
    /// The end. Its `seal` is the last one's hash, although records may lie behind that.
    pub end: Checkpoint,
    /// Everything since the last seal.
    pub hasher: blake3::Hasher,
    /// Behind the last seal.
    pub sealed: Position,
    /// All before this is on the disk.
    pub synced: Position,
}

/// A sync under way.
pub struct SyncPoint {
    files: Vec<Arc<dyn File>>,
    end: Position,
    promise: Position,
    reserve: Seq,
}

impl SyncPoint {
    /// All before this will be on the disk.
    #[must_use]
    pub const fn end(&self) -> Position {
        self.end
    }
}

impl Log {
    /// Makes the log of a new store: its first segment, and the one after.
    pub fn create(
        disk: Arc<dyn Disk>,
        (store, key): ([u8; 16], [u8; 16]),
        shape: Shape,
        reserve: Seq,
    ) -> io::Result<Self> {
        let file = set_aside(&*disk, shape, 1)?;
        let start = Checkpoint {
            position: Position::start_of(1),
            // So that no record of another store can be the first of this one.
            prev: crc32c::crc32c(&store),
            seq: Seq::ZERO,
            time: Timestamp(i64::MIN),
            next_actor: 1,
            connection: [0; 16],
            seal: [0; 32],
            reserve,
            content_file: 1,
            content_offset: 0,
            horizon: Seq::FIRST,
        };
        file.write_at(&encode_header(store, &start), 0)?;
        let tail = Tail {
            end: start,
            hasher: blake3::Hasher::new(),
            sealed: start.position,
            synced: Position { segment: 1, offset: 0 },
        };
        Self::resume(disk, (store, key), shape, tail, reserve)
    }

    /// Goes on where a log ends. Numbers below `reserve` may be used at once: that is on the disk.
    pub fn resume(
        disk: Arc<dyn Disk>,
        (store, key): ([u8; 16], [u8; 16]),
        shape: Shape,
        tail: Tail,
        reserve: Seq,
    ) -> io::Result<Self> {
        let file = open_segment(&*disk, tail.end.position.segment)?;
        let writer = Writer {
            sync_target: tail.end.position,
            sealed: tail.sealed,
            garbage_until: 0,
            zeroed_until: 0,
            hasher: tail.hasher,
            dirty: vec![Arc::clone(&file)],
            file,
            next: None,
            after: None,
            full: false,
            synced: tail.synced,
            promise: tail.synced,
            promised: tail.synced,
            durable_reserve: reserve,
            sealed_reserve: reserve,
            end: Checkpoint { reserve, ..tail.end },
            buffer: Vec::with_capacity(8 << 10),
        };
        let log =
            Self { disk, store, key, shape, writer: Mutex::new(writer), preparing: Mutex::new(()) };
        match log.prepare() {
            // A full disk shows when something that grows is asked for.
            Err(err) if is_full(&err) => Ok(log),
            other => other.map(|()| log),
        }
    }

    /// The end: the last event, its time, and where the next record goes.
    pub fn end(&self) -> Checkpoint {
        self.writer.lock().end
    }

    /// Behind the last record that is not a seal: what a sync would be for.
    pub fn sync_target(&self) -> Position {
        self.writer.lock().sync_target
    }

    /// All before this is on the disk.
    pub fn synced(&self) -> Position {
        self.writer.lock().synced
    }

    /// All before this is on the disk, and whatever happens to the power, a seal says so.
    pub fn promised(&self) -> Position {
        self.writer.lock().promised
    }

    /// Numbers below this may be handed out whatever happens to the power.
    pub fn durable_reserve(&self) -> Seq {
        self.writer.lock().durable_reserve
    }

    /// Where reading goes on behind the last record.
    pub fn mark(&self) -> Mark {
        let end = self.writer.lock().end;
        Mark { store: self.store, position: end.position, prev: end.prev, seq: end.seq }
    }

    /// Appends `event`, whose number must be above the last one's.
    pub fn append(&self, event: &Event<'_>, claim: Claim) -> Result<Appended, AppendError> {
        let mut writer = self.writer.lock();
        assert!(event.seq > writer.end.seq, "numbers grow");
        if event.seq >= writer.durable_reserve || event.seq >= Seq::LIMIT {
            return Err(AppendError::Exhausted);
        }
        let writer = &mut *writer;
        let encode = |to: &mut Vec<u8>, prev| record::encode_event(to, prev, event);
        let (position, len) = self.write(writer, claim, encode)?;
        writer.end.seq = event.seq;
        writer.end.time = event.time;
        let payload = match event.change.data().map(|data| data.place) {
            Some(Place::Inline(bytes)) => {
                Some(position.location().advance((len - bytes.len()) as u64))
            }
            Some(Place::Extent { location, len, .. }) => {
                writer.content_until(location, len);
                None
            }
            None => None,
        };
        let Checkpoint { position: end, prev, seq, .. } = writer.end;
        let mark = Mark { store: self.store, position: end, prev, seq };
        Ok(Appended { position, payload, len: len as u64, mark })
    }

    /// Appends a note of the log's own.
    pub fn append_note(&self, note: &Note<'_>) -> Result<Position, AppendError> {
        let mut writer = self.writer.lock();
        self.note(&mut writer, note)
    }

    /// Gives the next number for an actor and appends what `actor` makes of it.
    pub fn append_actor(
        &self,
        note: impl FnOnce(ActorId) -> Note<'static>,
    ) -> Result<ActorId, AppendError> {
        let mut writer = self.writer.lock();
        let id = ActorId(writer.end.next_actor);
        self.note(&mut writer, &note(id))?;
        Ok(id)
    }

    fn note(&self, writer: &mut Writer, note: &Note<'_>) -> Result<Position, AppendError> {
        let stamp =
            Stamp { seq: writer.end.seq, time: writer.end.time, actor: ActorId(0), unique: 0 };
        let encode = |to: &mut Vec<u8>, prev| record::encode_note(to, prev, stamp, note);
        let (position, _) = self.write(writer, Claim::SetAside, encode)?;
        absorb(&mut writer.end, note);
        Ok(position)
    }

    /// Writes the record that `encode` makes of the one before at the end; says where it is, and how long.
    fn write(
        &self,
        writer: &mut Writer,
        claim: Claim,
        encode: impl FnOnce(&mut Vec<u8>, u32) -> Result<u32, Misfit>,
    ) -> Result<(Position, usize), AppendError> {
        let mut buffer = std::mem::take(&mut writer.buffer);
        buffer.clear();
        let result = encode(&mut buffer, writer.end.prev)
            .map_err(AppendError::from)
            .and_then(|crc| self.write_encoded(writer, claim, &mut buffer, crc));
        let len = buffer.len();
        writer.buffer = buffer;
        Ok((result?, len))
    }

    /// Writes the one record in `buffer`, whose checksum is `crc`, at the end.
    fn write_encoded(
        &self,
        writer: &mut Writer,
        claim: Claim,
        buffer: &mut [u8],
        mut crc: u32,
    ) -> Result<Position, AppendError> {
        let capacity = self.shape.segment_len as usize - SEGMENT_HEADER_LEN as usize;
        if buffer.len() + SEAL_ROOM > capacity {
            return Err(AppendError::Misfit);
        }
        if claim == Claim::Ordinary && writer.next.is_none() && writer.full {
            // Space may have come back since; nobody else asks while the disk is full.
            self.prepare_next(writer).map_err(from_io)?;
        }
        let room = self.shape.segment_len as usize - writer.end.position.offset as usize;
        if buffer.len() + SEAL_ROOM > room {
            if claim == Claim::Ordinary {
                self.leave_one_aside(writer)?;
            }
            self.roll(writer)?;
            // It follows the seal that closed the segment now, and may have to say another thing.
            crc = record::rechain(buffer, writer.end.prev);
        }
        let position = writer.end.position;
        self.write_at_end(writer, buffer)?;
        writer.hasher.update(record::covered(buffer));
        writer.end.prev = crc;
        writer.end.position = position.advance(buffer.len());
        writer.sync_target = writer.end.position;
        Ok(position)
    }

    /// Writes `bytes` at the end, which does not move.
    fn write_at_end(&self, writer: &mut Writer, bytes: &[u8]) -> Result<(), AppendError> {
        let at = writer.end.position;
        let Err(err) = writer.file.write_at(bytes, at.offset.into()) else { return Ok(()) };
        // A whole record may have arrived all the same; nobody shall find it there later.
        let _ = writer.file.write_at(&[0; HEADER_LEN], at.offset.into());
        writer.garbage_until = writer.garbage_until.max(at.advance(bytes.len()).offset);
        Err(from_io(err))
    }

    /// Puts zeros where a failed append may have left something behind the end.
    fn sweep(writer: &mut Writer) -> Result<(), AppendError> {
        let from = writer.end.position.offset;
        if writer.garbage_until > from {
            let zeros = vec![0; (writer.garbage_until - from) as usize];
            writer.file.write_at(&zeros, from.into()).map_err(from_io)?;
        }
        writer.garbage_until = 0;
        Ok(())
    }

    /// Closes the segment with a seal and goes on in the next.
    fn roll(&self, writer: &mut Writer) -> Result<(), AppendError> {
        if writer.next.is_none() {
            self.prepare_next(writer).map_err(from_io)?;
        }
        // Not taken before all else has worked: a failure here leaves everything as it was.
        let Some((number, file)) = writer.next.clone() else { return Err(AppendError::NoSpace) };
        if writer.sealed != writer.end.position {
            self.seal(writer)?;
        }
        Self::sweep(writer)?;
        let start = Checkpoint { position: Position::start_of(number), ..writer.end };
        file.write_at(&encode_header(self.store, &start), 0).map_err(from_io)?;
        writer.dirty.push(Arc::clone(&file));
        writer.file = file;
        writer.next = writer.after.take();
        writer.zeroed_until = 0;
        writer.end = start;
        writer.sealed = start.position;
        Ok(())
    }

    /// Appends a seal, for which there is always room.
    fn seal(&self, writer: &mut Writer) -> Result<(), AppendError> {
        let seq = writer.end.seq;
        // Renewed at half, so that the next durable seal comes long before the last number.
        if writer.sealed_reserve.0.saturating_sub(seq.0) < RESERVE / 2 {
            writer.sealed_reserve = Seq(seq.0.saturating_add(RESERVE));
        }
        let seal = Seal {
            synced: writer.synced,
            hash: *writer.hasher.finalize().as_bytes(),
            previous: writer.end.seal,
            reserve: writer.sealed_reserve,
        };
        let position = writer.end.position;
        let unique = record::sign(&self.key, position, seal.synced);
        let stamp = Stamp { seq, time: writer.end.time, actor: ActorId(0), unique };
        let mut buffer = Vec::with_capacity(SEAL_ROOM);
        let crc = record::encode_note(&mut buffer, writer.end.prev, stamp, &Note::Seal(seal))?;
        self.write_at_end(writer, &buffer)?;
        writer.hasher.reset();
        writer.end.seal = *blake3::hash(&buffer).as_bytes();
        writer.end.reserve = seal.reserve;
        writer.end.prev = crc;
        writer.end.position = position.advance(buffer.len());
        writer.sealed = writer.end.position;
        writer.promise = seal.synced;
        Ok(())
    }

    /// Begins to make everything appended before this call durable. Content that those records
    /// refer to must be synced between this and [`finish_sync`](Self::finish_sync).
    pub fn begin_sync(&self) -> SyncPoint {
        let mut writer = self.writer.lock();
        self.zero_ahead(&mut writer);
        let files = writer.dirty.clone();
        // The others take no more records; this one does, whatever this sync finds in it.
        let last = writer.dirty.len().saturating_sub(1);
        writer.dirty.drain(..last);
        let (end, promise, reserve) = (writer.end.position, writer.promise, writer.end.reserve);
        SyncPoint { files, end, promise, reserve }
    }

    /// Writes zeros where the next records go, if little was appended since the last sync: then somebody
    /// syncs often, and waits for it.
    ///
    /// Space that was only set aside must be marked as written when it is, and a sync waits for the filesystem's
    /// journal to say so; space that was written before needs no more than the bytes themselves. On ext4 an
    /// `fdatasync` of 4 KiB takes 200 us instead of 400.
    fn zero_ahead(&self, writer: &mut Writer) {
        let end = writer.end.position;
        let appended = match writer.synced {
            synced if synced.segment == end.segment => end.offset.saturating_sub(synced.offset),
            _ => end.offset,
        };
        let from = writer.zeroed_until.max(end.offset);
        let until = end.offset.saturating_add(ZEROS).min(self.shape.segment_len);
        if appended > ZEROS / 4 || from - end.offset >= ZEROS / 4 || from >= until {
            return;
        }
        // Zeros are there already for whoever reads; if they cannot be written, nothing is lost.
        if writer.file.write_at(&vec![0; (until - from) as usize], from.into()).is_ok() {
            writer.zeroed_until = until;
        }
    }

    /// Waits until all before `point` is on the disk, then says so in a seal. After an error nothing
    /// may be appended any more: what the disk has is unknown.
    pub fn finish_sync(&self, point: &SyncPoint) -> io::Result<()> {
        for file in &point.files {
            file.sync_data()?;
        }
        let mut writer = self.writer.lock();
        writer.synced = writer.synced.max(point.end);
        writer.durable_reserve = writer.durable_reserve.max(point.reserve);
        writer.promised = writer.promised.max(point.promise);
        // Only a seal directly behind another can lack the room, and nobody misses that one.
        let room = self.shape.segment_len.saturating_sub(writer.end.position.offset);
        if room as usize >= SEAL_ROOM {
            match self.seal(&mut writer) {
                // A seal is no promise: the next one says what this one would have.
                Ok(()) | Err(AppendError::Io(_) | AppendError::NoSpace) => (),
                Err(err) => return Err(into_io(err)),
            }
        }
        Ok(())
    }

    /// Whether a sync must come before many more numbers can be handed out.
    pub fn reserve_is_low(&self) -> bool {
        let writer = self.writer.lock();
        writer.durable_reserve.0.saturating_sub(writer.end.seq.0) < RESERVE / 4
    }

    /// Makes the end of the log a clean one, with a last seal behind the last record. All else must
    /// have been synced, and nothing be appended meanwhile. Returns the end, where nothing of the
    /// hash chain is under way.
    pub fn close(&self) -> io::Result<Checkpoint> {
        self.append_note(&Note::End).map_err(into_io)?;
        let mut writer = self.writer.lock();
        self.seal(&mut writer).map_err(into_io)?;
        Self::sweep(&mut writer).map_err(into_io)?;
        for file in &writer.dirty {
            file.sync_data()?;
        }
        writer.synced = writer.end.position;
        Ok(writer.end)
    }
}

impl Writer {
    fn content_until(&mut self, location: Location, len: u64) {
        content_until(&mut self.end, location, len);
    }
}

/// Moves what `end` knows of the content's end behind an extent.
pub(in crate::store) fn content_until(end: &mut Checkpoint, location: Location, len: u64) {
    if let FileId::Content(file) = location.file {
        let until = (file, location.offset.saturating_add(len));
        if until > (end.content_file, end.content_offset) {
            (end.content_file, end.content_offset) = until;
        }
    }
}

/// Folds what a note says into the end of the log (seals apart).
pub(in crate::store) fn absorb(end: &mut Checkpoint, note: &Note<'_>) {
    match note {
        Note::Actor { id, .. } => end.next_actor = end.next_actor.max(id.0.saturating_add(1)),
        Note::Connection { id } => end.connection = *id,
        Note::Horizon { horizon, .. } => end.horizon = end.horizon.max(*horizon),
        Note::Relocation { data, .. } => {
            if let Place::Extent { location, len, .. } = data.place {
                content_until(end, location, len);
            }
        }
        Note::Seal(_) | Note::Version { .. } | Note::Label { .. } | Note::End => (),
    }
}

fn from_io(err: io::Error) -> AppendError {
    if is_full(&err) { AppendError::NoSpace } else { AppendError::Io(err) }
}

fn into_io(err: AppendError) -> io::Error {
    match err {
        AppendError::NoSpace => io::ErrorKind::StorageFull.into(),
        AppendError::Misfit => io::ErrorKind::InvalidInput.into(),
        AppendError::Exhausted => io::Error::other("no more sequence numbers"),
        AppendError::Io(err) => err,
    }
}

#[cfg(test)]
mod tests {
    use super::super::{LogReader, Next};
    use super::*;
    use crate::store::disk::Real;
    use rustix::fs::{SeekFrom, seek};

    /// Behind the last record, something was written there once: no hole, and no space that was only set aside.
    fn written_behind_the_end(log: &Log) -> bool {
        let writer = log.writer.lock();
        let file = writer.file.as_fd().unwrap();
        let end = u64::from(writer.end.position.offset).next_multiple_of(4096);
        seek(file, SeekFrom::Data(end)).is_ok_and(|data| data == end)
    }

    #[test]
    fn who_syncs_often_appends_where_zeros_were_written() {
        let dir = tempfile::tempdir().unwrap();
        let disk = Real::new(dir.path()).unwrap();
        disk.create_dir("log").unwrap();
        let shape = Shape::default();
        let log = Log::create(Arc::new(disk), ([7; 16], [8; 16]), shape, Seq(1 << 20)).unwrap();
        let append = |bytes: usize| {
            let until = log.end().position.advance(bytes);
            while log.end().position < until {
                log.append_note(&Note::Connection { id: [1; 16] }).unwrap();
            }
        };
        append(1 << 20);
        log.finish_sync(&log.begin_sync()).unwrap();
        assert!(!written_behind_the_end(&log), "who syncs seldom writes everything once");
        for _ in 0..200 {
            append(4096);
            log.finish_sync(&log.begin_sync()).unwrap();
            assert!(written_behind_the_end(&log));
        }
        let mut reader = LogReader::at_segment(Arc::clone(&log.disk), [7; 16], 1).unwrap();
        let mut notes = 0;
        while let Next::Record(..) = reader.read().unwrap() {
            notes += 1;
        }
        assert!(notes > 10_000, "all of them are read, {notes}");
        assert_eq!(reader.mark().position, log.end().position);
    }
}
