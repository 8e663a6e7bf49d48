//! What a restart trusts.
//!
//! ```text
//!   scan_from          newest synced end              cut                  what was ever written
//!      |------------------------|-----------------------|~~~~~~~~~~~~~~~~~~~~~~~~~~~|
//!        a bad record: damage     kept                    kept aside in lost/
//! ```
//!
//! A seal names an end up to which `fdatasync` has returned. Before the newest such end every
//! record must be whole: a bad one means that the disk lost what it had promised, and the store
//! opens for reading alone. The seal that says so may lie behind the bad record, so there it is looked for. It is signed
//! for its place, since what somebody wrote may look like one.
//! Behind that end, after a power cut, the log is cut at the first record that is
//! torn or out of order, or whose content is not there, whatever follows: the kernel writes back
//! in any order. What is cut is moved to `lost/`, and space behind the end is zeros again.
//!
//! After a kill the page cache is as it was, so nothing is missing and no content is checked. All
//! of it is made durable before the store goes on, for nobody else remembers what was not. Once that has failed, here or
//! in service, pages may have been dropped that the disk never got: then content is checked as after a power cut.
//!
//! Invariants: recovery cut short by another power cut comes to the same end; it uses no number
//! that was used before, kept or cut.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::sync::Arc;

use rustc_hash::FxHashMap;
use zerocopy::FromBytes;

use super::Origin;
use super::codec::{self, Freed, Note, SEAL_LEN, Seal};
use super::content::{PIECE, content_numbers, content_path};
use super::disk::{Disk, File, is_full};
use super::event::{Data, FileId, Place, Seq};
use super::log::{LogReader, Mark, Next, Tail, absorb, content_until};
use super::record::{self, Entry, Fault, HEADER_LEN, Header, sign};
use super::segment::{Checkpoint, Position, open_segment, segment_numbers, segment_path};
use super::superblock::{State, Super};

/// How the last one who had the store open left it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Stop {
    /// It was closed.
    Clean,
    /// The process ended, the machine did not.
    Killed,
    /// The machine ended.
    PowerCut,
}

/// A place where the disk lost what it had promised.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Damage {
    /// Where the first bad record is, or should be.
    pub at: Position,
    /// What is wrong there.
    pub what: &'static str,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.at, self.what)
    }
}

impl std::error::Error for Damage {}

/// What was cut off the end of the log.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Cut {
    /// The new end.
    pub at: Position,
    /// How many bytes were kept aside.
    pub bytes: u64,
    /// Where, below the store.
    pub kept: Vec<String>,
}

/// What recovery found.
pub struct Recovered {
    /// How the last one left.
    pub stop: Stop,
    /// Where the log goes on; `None` where damage forbids going on.
    pub tail: Option<Tail>,
    /// The end of what can be read.
    pub end: Mark,
    /// The last checkpoint before it, for what a store that cannot go on must know all the same.
    pub known: Checkpoint,
    /// The first bad place in what was promised.
    pub damage: Option<Damage>,
    /// What was cut off.
    pub cut: Option<Cut>,
    /// The number the next event takes.
    pub next: Seq,
    /// What was to be given back last; it may not have come to that.
    pub freed: Vec<Freed>,
    /// Requests of the last connection that are in the log, as far back as recovery looked.
    pub answered: FxHashMap<u64, Seq>,
}

/// One pass over the log.
struct Scan {
    end: Checkpoint,
    /// Where the next record should be: at the end, or at the start of the segment behind it.
    broken_off: Position,
    /// Behind the newest seal, or the start of the pass.
    seal: Mark,
    synced: Position,
    reserve: Seq,
    answered: FxHashMap<u64, Seq>,
    freed: Vec<Freed>,
    /// Records behind `synced` that hold only if their content does.
    doubtful: VecDeque<(Position, Doubt)>,
    fault: Fault,
}

enum Doubt {
    /// Its content reads as zeros, as if taken out; but nothing is taken out so soon.
    Gone,
    /// Its content must match these checksums.
    Extent { file: u32, offset: u64, len: u64, crcs: Vec<u8> },
}

/// Finds where the log ends, cuts off what does not hold, and makes the rest durable. `read_only`
/// changes nothing on the disk and settles for knowing the end.
pub fn recover(
    disk: &Arc<dyn Disk>,
    state: &Super,
    boot: [u8; 16],
    read_only: bool,
) -> io::Result<Recovered> {
    let stop = match state.state {
        State::Closed if went_on(disk, state)? => Stop::PowerCut,
        State::Closed => Stop::Clean,
        State::InService | State::SyncFailed if state.boot == boot => Stop::Killed,
        State::InService | State::SyncFailed => Stop::PowerCut,
    };
    if stop == Stop::Clean {
        return closed(disk, state);
    }
    let mut scan = match scan(disk, state, None)? {
        Ok(scan) => scan,
        Err(damage) => return Ok(damaged(state, stop, damage)),
    };
    let bad = scan.broken_off;
    let mut written = written_behind(&**disk, bad)?;
    if let Some(synced) = promised_behind(&**disk, state, &written)? {
        scan.vouched(synced);
    }
    if bad < scan.synced {
        let what = match scan.fault {
            Fault::Blank => "a record that was synced is missing",
            Fault::Damaged | Fault::Short(_) => "a record that was synced is damaged",
            Fault::Stray => "a record that was synced follows none of ours",
        };
        let mut found = damaged(state, stop, Damage { at: bad, what });
        found.end = mark(state.store, &scan.end);
        found.known = scan.end;
        found.next = scan.reserve.max(scan.end.seq.next());
        return Ok(found);
    }
    let pages_hold = stop == Stop::Killed && state.state != State::SyncFailed;
    let cut = first_doubt(&**disk, &scan, pages_hold)?.unwrap_or(bad);
    let reserve = scan.reserve;
    if cut < bad {
        scan = match self::scan(disk, state, Some(cut))? {
            Ok(scan) => scan,
            Err(damage) => return Ok(damaged(state, stop, damage)),
        };
    }
    let end = scan.end;
    // A segment that was begun and has no record is behind the end, but was not where reading broke off.
    if end.position < bad {
        written = written_behind(&**disk, end.position)?;
    }
    let mut moved = None;
    if !read_only {
        moved = make_good(&**disk, state, &scan, &written).inspect_err(|_| {
            // What the kernel failed to write it takes for written from now on; the next start must not.
            let mut failed = Super { state: State::SyncFailed, ..*state };
            let _ = failed.write(&**disk, false);
        })?;
    }
    let (content_file, content_offset) = if read_only {
        (end.content_file, end.content_offset)
    } else {
        release_unused_content(&**disk, &end)?
    };
    let next = match stop {
        // Nobody was told of a store before its first event was durable.
        _ if end.seq == Seq::ZERO => Seq::FIRST,
        Stop::Killed if pages_hold => end.seq.next(),
        Stop::PowerCut | Stop::Killed => reserve.max(end.seq.next()),
        Stop::Clean => end.seq.next(),
    };
    let tail = Tail {
        end: Checkpoint { content_file, content_offset, reserve, ..end },
        hasher: hash_since(disk, scan.seal, end.position)?,
        sealed: scan.seal.position,
        synced: end.position,
    };
    Ok(Recovered {
        stop,
        tail: Some(tail),
        end: mark(state.store, &end),
        known: end,
        damage: None,
        cut: moved,
        next,
        freed: scan.freed,
        answered: scan.answered,
    })
}

/// Whether records follow the end that a clean stop wrote down: then that was not the last word,
/// and the copy of `super` with the last word is damaged.
fn went_on(disk: &Arc<dyn Disk>, state: &Super) -> io::Result<bool> {
    let end = mark(state.store, &state.checkpoint);
    match LogReader::resume(Arc::clone(disk), state.store, end) {
        Ok(mut reader) => Ok(!matches!(reader.read_on()?, Next::End(Fault::Blank))),
        // What is wrong with the segment is found and said in its turn.
        Err(err) if matches!(err.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidData) => {
            Ok(false)
        }
        Err(err) => Err(err),
    }
}

/// Trusts the end that a clean stop wrote down, so that opening reads nothing.
fn closed(disk: &Arc<dyn Disk>, state: &Super) -> io::Result<Recovered> {
    let end = state.checkpoint;
    if let Err(err) = LogReader::at_segment(Arc::clone(disk), state.store, end.position.segment) {
        if !matches!(err.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidData) {
            return Err(err);
        }
        let at = Position { segment: end.position.segment, offset: 0 };
        let what = "the last segment's header is missing or damaged";
        return Ok(damaged(state, Stop::Clean, Damage { at, what }));
    }
    let tail =
        Tail { end, hasher: blake3::Hasher::new(), sealed: end.position, synced: end.position };
    Ok(Recovered {
        stop: Stop::Clean,
        tail: Some(tail),
        end: mark(state.store, &end),
        known: end,
        damage: None,
        cut: None,
        next: end.seq.next(),
        freed: Vec::new(),
        answered: FxHashMap::default(),
    })
}

fn damaged(state: &Super, stop: Stop, damage: Damage) -> Recovered {
    Recovered {
        stop,
        tail: None,
        end: mark(state.store, &state.checkpoint),
        known: state.checkpoint,
        damage: Some(damage),
        cut: None,
        next: state.checkpoint.reserve,
        freed: Vec::new(),
        answered: FxHashMap::default(),
    }
}

fn mark(store: [u8; 16], end: &Checkpoint) -> Mark {
    Mark { store, position: end.position, prev: end.prev, seq: end.seq }
}

/// Reads the log from where recovery begins to its end, or to `until`.
fn scan(
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
    fn vouched(&mut self, synced: Position) {
        self.synced = self.synced.max(synced);
        while self.doubtful.front().is_some_and(|(at, _)| *at < self.synced) {
            self.doubtful.pop_front();
        }
    }
}

/// Up to where seals behind the end say that everything is on the disk; `None` if there are none. `written` is all there is.
///
/// What is bad hides where the next record begins, so seals are looked for at every byte. Content may look like one,
/// but nobody else can [sign](sign) it for the place where it lies.
fn promised_behind(
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

/// The first record whose content does not hold. Where `pages_hold`, all is as it was written, unless a record was.
fn first_doubt(disk: &dyn Disk, scan: &Scan, pages_hold: bool) -> io::Result<Option<Position>> {
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
pub(super) fn first_bad_piece(
    file: &dyn File,
    offset: u64,
    len: u64,
    crcs: &[u8],
) -> io::Result<Option<u64>> {
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

/// What was ever written to a segment behind the end of the log, none of it zeros at its end.
#[derive(Clone, Copy, Debug)]
struct Written {
    segment: u32,
    from: u64,
    until: u64,
}

/// All that was ever written behind `end`, in order.
fn written_behind(disk: &dyn Disk, end: Position) -> io::Result<Vec<Written>> {
    let mut written = Vec::new();
    for segment in segment_numbers(disk)?.into_iter().filter(|&number| number >= end.segment) {
        let from = if segment == end.segment { end.offset.into() } else { 0 };
        let until = last_written(&*disk.open(&segment_path(segment), false)?, from)?;
        written.extend(until.map(|until| Written { segment, from, until }));
    }
    Ok(written)
}

/// Cuts off what was `written` behind the end, and makes the rest durable.
fn make_good(
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

const PAGE: usize = 4096;
const ZEROS: [u8; PAGE] = [0; PAGE];

/// The end of what is not zeros in `file`, from `from` on.
pub(super) fn last_written(file: &dyn File, from: u64) -> io::Result<Option<u64>> {
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
                rewrite(&*file, 0, super::segment::SEGMENT_HEADER_LEN.into())?;
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
fn release_unused_content(disk: &dyn Disk, end: &Checkpoint) -> io::Result<(u32, u64)> {
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

/// BLAKE3 over what lies between a seal and the end.
fn hash_since(disk: &Arc<dyn Disk>, seal: Mark, end: Position) -> io::Result<blake3::Hasher> {
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
