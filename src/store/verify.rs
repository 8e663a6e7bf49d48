//! Every checksum there is: of records, of content, of the hash chain.
//!
//! What was [taken out](super::squeezed) of the log is counted; what is left of such a segment is checked like any
//! other, and its map too.
//!
//! Works on a store at rest and, without its lock, on one in service: what is appended meanwhile is
//! not looked at, but for what it says was given back. Changes nothing.
//!
//! What it cannot find: damage in a page of which a part was given back with history, for a
//! checksum covers 64 KiB and the part that is left cannot be told from it; it is counted instead.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::codec::{Freed, Note};
use super::content::{PIECE, content_path};
use super::disk::{Disk, File};
use super::event::{Data, FileId, Place};
use super::journal::{OpenError, content_hash, content_hasher};
use super::log::{LogReader, Mark, Next};
use super::record::{Entry, Fault, Record};
use super::recover::last_written;
use super::segment::{
    Position, open_layout, open_segment, read_header, segment_numbers, segment_path, segment_start,
};
use super::squeezed::Map;
use super::superblock::{State, Super};

/// One damaged place.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Finding {
    /// Path below the store.
    pub file: String,
    /// Offset in that file, in bytes.
    pub offset: u64,
    /// What is wrong there.
    pub what: &'static str,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, byte {}: {}", self.file, self.offset, self.what)
    }
}

/// What was looked at, and what is wrong.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Report {
    /// In the order of the log.
    pub findings: Vec<Finding>,
    /// Events read.
    pub events: u64,
    /// Notes read.
    pub notes: u64,
    /// Seals whose hash covers what lies before them.
    pub seals: u64,
    /// Bytes of log read.
    pub log_bytes: u64,
    /// Bytes of content whose checksum holds.
    pub content_bytes: u64,
    /// Bytes of content that were given back with history.
    pub freed_bytes: u64,
    /// Bytes of small writes that were taken out of the log with history.
    pub gone_bytes: u64,
    /// Bytes of content in pieces of which a part was given back, and which cannot be checked.
    pub unchecked_bytes: u64,
}

/// How far it is: bytes looked at of all there are. Called now and then.
pub type Progress<'p> = dyn FnMut(u64, u64) + 'p;

/// Looks at all of the store on `disk`.
pub fn verify(disk: &Arc<dyn Disk>, progress: &mut Progress<'_>) -> Result<Report, OpenError> {
    let state = Super::read(&**disk)?;
    let mut check = Check {
        disk: Arc::clone(disk),
        report: Report::default(),
        suspects: Vec::new(),
        freed: BTreeMap::new(),
        open: FxHashMap::default(),
        map: None,
        hasher: blake3::Hasher::new(),
        seal: [0; 32],
        chained: true,
        total: total(&**disk)?,
        ended: false,
    };
    for offset in Super::damaged_copies(&**disk)? {
        check.found("super".to_owned(), offset, "this copy is damaged; the other one is used");
    }
    let end = check.log(&state, progress)?;
    if let Some(end) = end.filter(|_| !check.suspects.is_empty()) {
        check.read_on(end)?;
    }
    check.judge();
    Ok(check.report)
}

fn total(disk: &dyn Disk) -> io::Result<u64> {
    let mut total = 0;
    for number in segment_numbers(disk)? {
        total += disk.open(&segment_path(number), false)?.len()?;
    }
    for number in super::content::content_numbers(disk)? {
        total += disk.open(&content_path(number), false)?.allocated()?;
    }
    Ok(total)
}

struct Check {
    disk: Arc<dyn Disk>,
    report: Report,
    /// Pieces that do not match: damage, unless they were given back, which is only known later.
    suspects: Vec<Suspect>,
    /// What was given back: (file, offset) to end.
    freed: BTreeMap<(u32, u64), u64>,
    open: FxHashMap<u32, Option<Arc<dyn File>>>,
    /// What is kept of the segment that is read, if something was taken out.
    map: Option<Arc<Map>>,
    hasher: blake3::Hasher,
    seal: [u8; 32],
    /// Whether all since the last seal was read.
    chained: bool,
    total: u64,
    /// The last record says that the store was closed there.
    ended: bool,
}

struct Suspect {
    file: u32,
    offset: u64,
    len: u64,
    what: &'static str,
}

impl Check {
    fn found(&mut self, file: String, offset: u64, what: &'static str) {
        self.report.findings.push(Finding { file, offset, what });
    }

    /// A finding in the segment that is read.
    fn found_at(&mut self, at: Position, what: &'static str) {
        self.found_in(at.segment, at.offset.into(), what);
    }

    /// The same, at an offset of the segment, which need not be the one of its file.
    fn found_in(&mut self, segment: u32, offset: u64, what: &'static str) {
        let offset = match &self.map {
            Some(map) => map.place_of(offset).unwrap_or_else(|| map.file_len()),
            None => offset,
        };
        self.found(segment_path(segment), offset, what);
    }

    /// Reads what there is when it begins; returns how far that is.
    fn log(&mut self, state: &Super, progress: &mut Progress<'_>) -> io::Result<Option<Mark>> {
        let store = state.store;
        let numbers = segment_numbers(&*self.disk)?;
        let Some(&last) = numbers.last() else {
            self.found(segment_path(1), 0, "the log is missing");
            return Ok(None);
        };
        // What the next segment must go on from.
        let mut mark = Mark {
            store,
            position: Position::start_of(1),
            prev: crc32c::crc32c(&store),
            seq: super::event::Seq::ZERO,
        };
        // In service, what is begun from here on is left for the next time.
        let begun = self.last_begun(store, &numbers)?;
        for number in 1..=last {
            let file = match open_layout(&*self.disk, number) {
                Ok(Ok(opened)) => {
                    self.map = opened.map;
                    opened.file
                }
                Ok(Err(fault)) => {
                    self.found(segment_path(number), fault.offset, fault.what);
                    self.chained = false;
                    continue;
                }
                Err(err) if err.kind() == io::ErrorKind::NotFound => {
                    self.found(segment_path(number), 0, "this segment is missing");
                    self.chained = false;
                    continue;
                }
                Err(err) => return Err(err),
            };
            let written = last_written(&*file, 0)?;
            let Some(start) = read_header(&*file, store, number)? else {
                // Those that were only set aside are all zeros.
                if written.is_some() || number <= begun.max(1) {
                    self.found_in(number, 0, "the header is damaged");
                    if written.is_some() {
                        mark.position = Position::start_of(number);
                        self.segment(mark, &file, progress)?;
                    }
                }
                continue;
            };
            if number > begun {
                break;
            }
            let continues = start.prev == mark.prev && start.seq == mark.seq;
            if number > 1 && self.chained && (!continues || start.seal != self.seal) {
                self.found_in(number, 0, "does not go on from where the segment before it ends");
                self.chained = false;
            }
            if !self.chained {
                // A segment begins behind a seal, so the chain can be taken up here.
                self.hasher.reset();
                self.seal = start.seal;
                self.chained = true;
            }
            let from = Mark { store, position: start.position, prev: start.prev, seq: start.seq };
            mark = self.segment(from, &file, progress)?;
        }
        if state.state == State::Closed {
            let end = state.checkpoint;
            if mark.position != end.position || mark.prev != end.prev || !self.ended {
                self.found_at(
                    mark.position.min(end.position),
                    "the log does not end where it was closed",
                );
            }
        }
        Ok(Some(mark))
    }

    /// Takes in what was given back since, from `mark` on: before a range is, the log says so.
    fn read_on(&mut self, mark: Mark) -> io::Result<()> {
        let file = match open_segment(&*self.disk, mark.position.segment) {
            Ok(file) => file,
            // That was found already.
            Err(err)
                if matches!(err.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidData) =>
            {
                return Ok(());
            }
            Err(err) => return Err(err),
        };
        let mut reader = LogReader::from_mark(Arc::clone(&self.disk), file, mark);
        while let Next::Record(_, record) = reader.read_on()? {
            if !record.is_event()
                && let Some(Entry::Note(Note::Horizon { freed, .. })) = record.entry()
            {
                self.gave_back(freed);
            }
        }
        Ok(())
    }

    fn gave_back(&mut self, freed: Vec<Freed>) {
        for range in freed {
            let end = range.offset.saturating_add(range.len);
            let known = self.freed.entry((range.file, range.offset)).or_default();
            *known = end.max(*known);
        }
    }

    /// The last segment that had a header when it was looked for.
    fn last_begun(&self, store: [u8; 16], numbers: &[u32]) -> io::Result<u32> {
        for &number in numbers.iter().rev() {
            if segment_start(&*self.disk, store, number)?.is_some() {
                return Ok(number);
            }
        }
        Ok(0)
    }

    /// Reads one segment from `from` to its end; returns where that is.
    fn segment(
        &mut self,
        from: Mark,
        file: &Arc<dyn File>,
        progress: &mut Progress<'_>,
    ) -> io::Result<Mark> {
        // The file that was opened, for another may take its place meanwhile.
        let mut reader = LogReader::from_mark(Arc::clone(&self.disk), Arc::clone(file), from);
        loop {
            match reader.read_here()? {
                Next::Record(position, record) => {
                    self.report.log_bytes += record.len() as u64;
                    if !self.record(position, &record)? {
                        self.found_at(position, "this record makes no sense");
                    }
                    let done =
                        self.report.log_bytes + self.report.content_bytes + self.report.freed_bytes;
                    progress(done.min(self.total), self.total);
                }
                Next::End(fault) => {
                    let at = reader.mark();
                    // Behind the last record there is nothing; but in service one may be on its way,
                    // or have come since.
                    let blank = last_written(&**file, at.position.offset.into())?.is_none();
                    if !blank && arrives(&mut reader)? {
                        let disk = Arc::clone(&self.disk);
                        reader = LogReader::from_mark(disk, Arc::clone(file), at);
                        continue;
                    }
                    if !blank && let Some(end) = last_written(&**file, at.position.offset.into())? {
                        let what = match fault {
                            Fault::Blank => "not zeros, behind the last record",
                            Fault::Stray => "this record does not follow the one before it",
                            Fault::Damaged | Fault::Short(_) => "this record is damaged",
                        };
                        let offset = match fault {
                            Fault::Blank => first_written(&**file, at.position.offset.into(), end)?,
                            _ => at.position.offset.into(),
                        };
                        self.found_in(at.position.segment, offset, what);
                        self.chained = false;
                    }
                    return Ok(at);
                }
            }
        }
    }

    /// Checks one record; `false` if it says nothing.
    fn record(&mut self, position: Position, record: &Record<'_>) -> io::Result<bool> {
        let Some(entry) = record.entry() else { return Ok(false) };
        self.ended &= matches!(entry, Entry::Note(Note::Seal(_)));
        match entry {
            Entry::Event(event) => {
                self.report.events += 1;
                if let Some(data) = event.change.data() {
                    let tail = position.advance(record.covered.len());
                    if record.gone && !self.is_out(tail) {
                        // Only a segment that was squeezed may say so.
                        self.found_at(tail, "zeros are in the place of content");
                    }
                    self.data(position, data, record.gone)?;
                }
            }
            Entry::Note(note) => {
                self.report.notes += 1;
                match note {
                    Note::Seal(seal) => {
                        let whole = *self.hasher.finalize().as_bytes() == seal.hash
                            && self.seal == seal.previous;
                        if self.chained && !whole {
                            self.found_at(position, "the hash chain does not hold up to this seal");
                        }
                        self.report.seals += u64::from(self.chained && whole);
                        self.hasher.reset();
                        self.seal = *blake3::hash(record.covered).as_bytes();
                        self.chained = true;
                        return Ok(true);
                    }
                    Note::Relocation { data, .. } => self.data(position, &data, false)?,
                    Note::Horizon { freed, .. } => self.gave_back(freed),
                    Note::End => self.ended = true,
                    Note::Actor { .. }
                    | Note::Connection { .. }
                    | Note::Version { .. }
                    | Note::Label { .. } => (),
                }
            }
        }
        self.hasher.update(record.covered);
        Ok(true)
    }

    /// Whether the content at a place of the segment that is read was taken out.
    fn is_out(&self, at: Position) -> bool {
        self.map.as_ref().is_some_and(|map| map.place_of(at.offset.into()).is_none())
    }

    fn data(&mut self, position: Position, data: &Data<'_>, gone: bool) -> io::Result<()> {
        match data.place {
            Place::Inline(bytes) if gone => {
                self.report.gone_bytes += bytes.len() as u64;
                Ok(())
            }
            Place::Inline(bytes) => {
                if content_hash(&data.salt, bytes) != data.hash {
                    self.found_at(position, "the bytes in this record do not match their hash");
                }
                Ok(())
            }
            Place::Extent { location, len, crcs } => {
                let FileId::Content(file) = location.file else { return Ok(()) };
                self.extent(file, location.offset, len, crcs, data, gone)
            }
        }
    }

    fn extent(
        &mut self,
        number: u32,
        offset: u64,
        len: u64,
        crcs: &[u8],
        data: &Data<'_>,
        gone: bool,
    ) -> io::Result<()> {
        let Some(file) = self.file(number)? else {
            self.suspects.push(Suspect { file: number, offset, len, what: "the file is missing" });
            return Ok(());
        };
        let mut hasher = content_hasher(&data.salt);
        let mut piece = vec![0; PIECE];
        let (mut at, end) = (offset, offset.saturating_add(len));
        let mut whole = true;
        for crc in crcs.chunks_exact(4) {
            let want = usize::try_from(end - at).unwrap_or(PIECE).min(PIECE);
            let Some(bytes) = piece.get_mut(..want) else { break };
            let read = file.read_at(bytes, at)?;
            if read < want || crc32c::crc32c(bytes).to_le_bytes() != *crc {
                let what = "content does not match its checksum";
                self.suspects.push(Suspect { file: number, offset: at, len: want as u64, what });
                whole = false;
            } else {
                self.report.content_bytes += want as u64;
            }
            hasher.update(bytes);
            at += want as u64;
        }
        // Where the salt was taken out, the hash cannot be checked, and is not meant to be.
        if whole && !gone && *hasher.finalize().as_bytes() != data.hash {
            self.found(content_path(number), offset, "content does not match its hash");
        }
        Ok(())
    }

    fn file(&mut self, number: u32) -> io::Result<Option<Arc<dyn File>>> {
        if let Some(file) = self.open.get(&number) {
            return Ok(file.clone());
        }
        let file = match self.disk.open(&content_path(number), false) {
            Ok(file) => Some(file),
            Err(err) if err.kind() == io::ErrorKind::NotFound => None,
            Err(err) => return Err(err),
        };
        // One file at a time is read; the rest need not stay open.
        if self.open.len() > 16 {
            self.open.clear();
        }
        self.open.insert(number, file.clone());
        Ok(file)
    }

    /// Now that all is known that was given back: which pieces should have matched?
    fn judge(&mut self) {
        let mut merged: BTreeMap<(u32, u64), u64> = BTreeMap::new();
        for ((file, start), end) in std::mem::take(&mut self.freed) {
            match merged.last_entry() {
                Some(mut last) if last.key().0 == file && *last.get() >= start => {
                    let until = end.max(*last.get());
                    last.insert(until);
                }
                _ => _ = merged.insert((file, start), end),
            }
        }
        self.freed = merged;
        for Suspect { file, offset, len, what } in std::mem::take(&mut self.suspects) {
            let gone = self.freed_in(file, offset, offset.saturating_add(len));
            if gone == 0 {
                self.found(content_path(file), offset, what);
            } else {
                self.report.freed_bytes += gone;
                self.report.unchecked_bytes += len.saturating_sub(gone);
            }
        }
    }

    /// How many bytes of a range were given back.
    fn freed_in(&self, file: u32, start: u64, end: u64) -> u64 {
        // They were merged, so one at most begins before and reaches in.
        let before = self.freed.range(..(file, start)).next_back().filter(|(at, _)| at.0 == file);
        let inside = self.freed.range((file, start)..(file, end));
        before
            .into_iter()
            .chain(inside)
            .map(|((_, from), until)| (*until).min(end).saturating_sub((*from).max(start)))
            .sum()
    }
}

/// Whether a whole record comes to be at the reader's place within a moment.
fn arrives(reader: &mut LogReader) -> io::Result<bool> {
    for _ in 0..20 {
        if matches!(reader.read_here()?, Next::Record(..)) {
            return Ok(true);
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    Ok(false)
}

/// The first byte that is not zero in a range that has one.
fn first_written(file: &dyn File, from: u64, end: u64) -> io::Result<u64> {
    let mut page = [0; 4096];
    let mut at = from;
    while at < end {
        let len = file.read_at(&mut page, at)?;
        if len == 0 {
            break;
        }
        if let Some(found) = page.iter().take(len).position(|&byte| byte != 0) {
            return Ok(at + found as u64);
        }
        at += len as u64;
    }
    Ok(from)
}
