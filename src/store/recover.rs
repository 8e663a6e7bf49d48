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
//! ```text
//!  recover.rs     which of these it is, and what follows from it
//!     +--> scan.rs    one pass over the log: where it ends, and what of it may not hold
//!     +--> behind.rs  what was written behind the end, and what seals there promise
//!     +--> mend.rs    what is done to the disk
//! ```
//!
//! Invariants: recovery cut short by another power cut comes to the same end; it uses no number
//! that was used before, kept or cut.

mod behind;
mod mend;
mod scan;

use std::fmt;
use std::io;
use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::codec::Freed;
use super::disk::Disk;
use super::event::Seq;
use super::log::{LogReader, Mark, Next, Tail};
use super::record::Fault;
use super::segment::{Checkpoint, Position};
use super::superblock::{State, Super};
use behind::{promised_behind, written_behind};
use mend::{make_good, release_unused_content};
use scan::{first_doubt, hash_since, scan};

pub(super) use behind::last_written;

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
