//! Any number that read, each at a place of its own.

use std::io;
use std::sync::Arc;

use super::super::disk::{Disk, File};
use super::super::event::{Change, Data, Location, Place, Seq, Timestamp};
use super::super::record::{Fault, HEADER_LEN, Outline, Record};
use super::super::recover::Damage;
use super::super::segment::{
    Checkpoint, Position, SEGMENT_HEADER_LEN, last_where, open_segment, read_header,
    segment_numbers, segment_path, segment_start,
};
use super::Mark;

/// Reads records in order, without a lock, from a log that someone may be appending to.
pub struct LogReader {
    disk: Arc<dyn Disk>,
    store: [u8; 16],
    file: Arc<dyn File>,
    /// What the next record must follow.
    mark: Mark,
    /// What the header of the current segment says.
    start: Checkpoint,
    /// The log is known to reach to here.
    known: Position,
    buffer: Vec<u8>,
    /// How much of the buffer was read.
    filled: usize,
    /// Offset in the segment of the buffer's first byte.
    buffer_at: u32,
}

/// What a reader found at its place.
#[derive(Debug)]
pub enum Next<'r> {
    /// A whole record, and where.
    Record(Position, Record<'r>),
    /// No record yet, or never. Asking again looks again.
    End(Fault),
}

/// How much is read at a time.
const WINDOW: usize = 256 << 10;

impl LogReader {
    /// Reads from the start of segment `number`. `NotFound` if it was never begun, `InvalidData`
    /// if its header is damaged.
    pub fn at_segment(disk: Arc<dyn Disk>, store: [u8; 16], number: u32) -> io::Result<Self> {
        let file = open_segment(&*disk, number)?;
        Self::over(disk, store, number, file)
    }

    /// The same, from a file that may have another name yet.
    pub(in crate::store) fn over(
        disk: Arc<dyn Disk>,
        store: [u8; 16],
        number: u32,
        file: Arc<dyn File>,
    ) -> io::Result<Self> {
        let Some(start) = read_header(&*file, store, number)? else {
            let what = format!("{}: damaged header", segment_path(number));
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        };
        Ok(Self {
            disk,
            store,
            file,
            mark: Mark { store, position: start.position, prev: start.prev, seq: start.seq },
            start,
            known: Position::default(),
            buffer: Vec::new(),
            filled: 0,
            buffer_at: 0,
        })
    }

    /// Reads from a kept mark of the same store.
    pub fn resume(disk: Arc<dyn Disk>, store: [u8; 16], mark: Mark) -> io::Result<Self> {
        if mark.store != store {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "mark of another store"));
        }
        let mut reader = Self::at_segment(disk, store, mark.position.segment)?;
        reader.mark = mark;
        Ok(reader)
    }

    /// Reads a segment's file from a mark, whatever its header says; for who checks headers himself.
    pub(in crate::store) fn from_mark(
        disk: Arc<dyn Disk>,
        file: Arc<dyn File>,
        mark: Mark,
    ) -> Self {
        let start = Checkpoint {
            position: mark.position,
            prev: mark.prev,
            seq: mark.seq,
            time: Timestamp(i64::MIN),
            next_actor: 0,
            connection: [0; 16],
            seal: [0; 32],
            reserve: Seq::ZERO,
            content_file: 0,
            content_offset: 0,
            horizon: Seq::ZERO,
        };
        let (store, known) = (mark.store, Position::default());
        Self { disk, store, file, mark, start, known, buffer: Vec::new(), filled: 0, buffer_at: 0 }
    }

    /// Reads from the segment that holds the event after `seq`, which may begin well before it.
    pub fn before(disk: Arc<dyn Disk>, store: [u8; 16], seq: Seq) -> io::Result<Self> {
        let numbers = segment_numbers(&*disk)?;
        // What is before it ends at `seq` or earlier.
        let last = last_where(&*disk, store, &numbers, |start| start.seq <= seq)?;
        let first = numbers.get(last).copied().ok_or(io::ErrorKind::NotFound)?;
        Self::at_segment(disk, store, first)
    }

    /// The same reader, which takes it for damage if the log ends before `known`.
    #[must_use]
    pub fn reaching(self, known: Position) -> Self {
        Self { known, ..self }
    }

    /// Where the next record will be looked for.
    #[must_use]
    pub const fn mark(&self) -> Mark {
        self.mark
    }

    /// What the header of the current segment says.
    #[must_use]
    pub const fn segment_start(&self) -> &Checkpoint {
        &self.start
    }

    /// The next whole record, which follows the last. Where none is although the log goes on in a later segment, or is
    /// [known to](Self::reaching), that is no end: then the error is `InvalidData` and holds the [`Damage`], see [`damage_in`].
    pub fn read(&mut self) -> io::Result<Next<'_>> {
        let mut is_broken = false;
        loop {
            let fault = match self.look()? {
                Ok(outline) => return Ok(self.take(&outline)),
                Err(fault) => fault,
            };
            if self.next_segment()? {
                is_broken = false;
            } else if is_broken {
                return Err(io::Error::new(io::ErrorKind::InvalidData, self.damage(fault)?));
            } else if self.mark.position < self.known || self.goes_on()? {
                // Whoever appends may have got that far just now: then the second look finds the way.
                is_broken = true;
            } else {
                return Ok(Next::End(fault));
            }
        }
    }

    /// The same for who decides himself what is damage: wherever the log breaks off, it ends.
    pub(in crate::store) fn read_on(&mut self) -> io::Result<Next<'_>> {
        match self.look()? {
            Ok(outline) => Ok(self.take(&outline)),
            Err(fault) if !self.next_segment()? => Ok(Next::End(fault)),
            Err(_) => self.read_here(),
        }
    }

    /// The same, but never in another segment.
    pub(in crate::store) fn read_here(&mut self) -> io::Result<Next<'_>> {
        match self.look()? {
            Ok(outline) => Ok(self.take(&outline)),
            Err(fault) => Ok(Next::End(fault)),
        }
    }

    /// What is wrong where there must be a record and [`read`](Self::read) found this.
    pub(in crate::store) fn damage(&self, fault: Fault) -> io::Result<Damage> {
        let at = self.mark.position;
        let next = at.segment.saturating_add(1);
        let what = match fault {
            Fault::Blank if segment_start_of(&*self.disk, self.store, next)?.is_none() => {
                let at = Position { segment: next, offset: 0 };
                return Ok(Damage { at, what: "a segment is missing, or its header is damaged" });
            }
            Fault::Blank => "records are missing",
            Fault::Damaged | Fault::Short(_) => "a record is damaged",
            Fault::Stray => "a record does not follow the one before it",
        };
        Ok(Damage { at, what })
    }

    /// Whether the log went on in one of the next two segments. One that was only set aside is all zeros, and none is
    /// behind it; a header alone may be left over from an append that failed.
    fn goes_on(&self) -> io::Result<bool> {
        for ahead in 1..=2 {
            let number = self.mark.position.segment.saturating_add(ahead);
            let file = match open_segment(&*self.disk, number) {
                Ok(file) => file,
                Err(err) if err.kind() == io::ErrorKind::NotFound => continue,
                // It was squeezed, long after it was written.
                Err(err) if err.kind() == io::ErrorKind::InvalidData => return Ok(true),
                Err(err) => return Err(err),
            };
            let start = read_header(&*file, self.store, number)?;
            let mut bytes = [0; HEADER_LEN];
            let len = file.read_at(&mut bytes, SEGMENT_HEADER_LEN.into())?;
            if start.is_some_and(|start| start.seq > self.mark.seq)
                || bytes.iter().take(len).any(|&byte| byte != 0)
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Goes past the record that was found at the mark.
    fn take(&mut self, outline: &Outline) -> Next<'_> {
        let position = self.mark.position;
        let from = (position.offset - self.buffer_at) as usize;
        let bytes = self.buffer.get(from..self.filled);
        let Some(record) = bytes.and_then(|bytes| outline.record(bytes)) else {
            return Next::End(Fault::Short(outline.len()));
        };
        self.mark.position = position.advance(record.len());
        self.mark.prev = record.header.crc.get();
        self.mark.seq = record.stamp().seq;
        Next::Record(position, record)
    }

    /// The record at the mark, in the buffer.
    fn look(&mut self) -> io::Result<Result<Outline, Fault>> {
        if let Some(Ok(outline)) = self.check() {
            return Ok(Ok(outline));
        }
        // What the buffer has may be old, or end too early: look at the file itself.
        let mut want = WINDOW;
        loop {
            self.fill(want)?;
            match self.check() {
                Some(Err(Fault::Short(need))) if need > self.filled && need > want => {
                    want = need;
                }
                // The segment ends here: as it should, or in the middle of something.
                Some(Err(Fault::Short(_))) | None => {
                    let rest = self.buffer.get(..self.filled.min(HEADER_LEN)).unwrap_or_default();
                    let blank = rest.iter().all(|&byte| byte == 0);
                    return Ok(Err(if blank { Fault::Blank } else { Fault::Damaged }));
                }
                Some(result) => return Ok(result),
            }
        }
    }

    fn check(&self) -> Option<Result<Outline, Fault>> {
        let from = self.mark.position.offset.checked_sub(self.buffer_at)?;
        let bytes = self.buffer.get(from as usize..self.filled)?;
        let outline = match Outline::check(bytes, self.mark.prev) {
            Ok(outline) => outline,
            Err(fault) => return Some(Err(fault)),
        };
        // An event goes on from the last one; a note stays where that was.
        let follows = outline.record(bytes).is_some_and(|record| {
            let seq = record.stamp().seq;
            if record.is_event() { seq > self.mark.seq } else { seq == self.mark.seq }
        });
        Some(if follows { Ok(outline) } else { Err(Fault::Stray) })
    }

    fn fill(&mut self, len: usize) -> io::Result<()> {
        if self.buffer.len() < len {
            self.buffer = vec![0; len];
        }
        self.filled = 0;
        self.buffer_at = self.mark.position.offset;
        self.filled = self.file.read_at(&mut self.buffer, self.buffer_at.into())?;
        Ok(())
    }

    /// Goes to the next segment if that one goes on from here.
    fn next_segment(&mut self) -> io::Result<bool> {
        let Some(number) = self.mark.position.segment.checked_add(1) else { return Ok(false) };
        let file = match open_segment(&*self.disk, number) {
            Ok(file) => file,
            // One that cannot be read is as good as none.
            Err(err)
                if matches!(err.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidData) =>
            {
                return Ok(false);
            }
            Err(err) => return Err(err),
        };
        let Some(start) = read_header(&*file, self.store, number)? else { return Ok(false) };
        if start.prev != self.mark.prev || start.seq != self.mark.seq {
            return Ok(false);
        }
        self.file = file;
        self.mark.position = start.position;
        self.start = start;
        self.filled = 0;
        self.buffer_at = 0;
        Ok(true)
    }
}

/// The damage that a [`LogReader`] met, if that is what `err` says.
#[must_use]
pub fn damage_in(err: &io::Error) -> Option<&Damage> {
    err.get_ref()?.downcast_ref()
}

/// As [`segment_start`], where a missing file is no error.
fn segment_start_of(
    disk: &dyn Disk,
    store: [u8; 16],
    number: u32,
) -> io::Result<Option<Checkpoint>> {
    match segment_start(disk, store, number) {
        Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(None),
        other => other,
    }
}

/// Where the bytes that an event carries lie, however few they are, for its record at `position`.
pub(in crate::store) fn payload_of(
    position: Position,
    record: &Record<'_>,
    change: &Change<'_>,
) -> Option<Location> {
    match change.data() {
        Some(Data { place: Place::Inline(_), .. }) => {
            Some(position.location().advance(record.payload_offset() as u64))
        }
        _ => None,
    }
}
