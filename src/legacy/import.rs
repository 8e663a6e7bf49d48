//! What the Python bridge left on a disk becomes part of a store.
//!
//! Every event is kept word for word as a foreign event, in the order in which it was written; those about files and
//! directories also change the tree, in the name of the agent and session they name and at their time, so that
//! `history/` reaches into the imported past. `apply` says what each does.
//!
//! ```text
//!   changes of the tree, marked as imported     then the event itself
//!   ------------------------------------------> ---------------------> next event
//!       stopped here: done once more, which         stopped here: known,
//!       ends in the same tree                       and passed by
//! ```
//!
//! Invariants: an event whose foreign event is in the log is wholly applied, so importing again adds nothing and
//! goes on where it was stopped, whatever stopped it; damage is reported with its place and stops nothing; the
//! source is only read.

use std::fmt;
use std::fs;
use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::store::event::{Actor, Change, Foreign, Format, Source as Place, Timestamp};
use crate::store::{CommitError, Origin, Placed};
use crate::tree::operation::Caller;
use crate::tree::{Refusal, Tree};

use super::apply::{self, Unapplied};
use super::event::{Event, Missing};
use super::log::{self, Damage, Item, LogFile, LogReader, Secrets};
use super::native::cut;
use super::snapshots::{self, Snapshots};
use super::sqlite::{self, Database, SqliteError};

/// How many findings are kept; of more only the number is known.
pub const FINDINGS_MAX: usize = 10_000;
/// How many events pass between two calls of who watches.
const WATCH_EVERY: u64 = 64;

/// Something the bridge left.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Part {
    /// A log: its directory and its files, in order.
    Log(PathBuf, Vec<LogFile>),
    /// An SQLite database.
    Sqlite(PathBuf),
    /// A directory of snapshots.
    Snapshots(PathBuf),
}

/// What the bridge left at `path`: a log's directory, or one file of it, a database, a directory of snapshots, or
/// a directory that holds any of them (`events/`, `events.db`, `snapshots/`, as below `data/`). Empty if it left nothing there.
pub fn recognise(path: &Path) -> io::Result<Vec<Part>> {
    let meta = fs::metadata(path)?;
    if meta.is_file() {
        if let Some(file) = LogFile::at(path) {
            let dir = path.parent().unwrap_or(Path::new("")).to_owned();
            let mut file = file;
            file.len = meta.len();
            return Ok(vec![Part::Log(dir, vec![file])]);
        }
        let database = sqlite::is_database(path)?;
        return Ok(database.then(|| Part::Sqlite(path.to_owned())).into_iter().collect());
    }
    let mut parts = Vec::new();
    if !meta.is_dir() {
        return Ok(parts);
    }
    parts.extend(log_in(path)?);
    if parts.is_empty() && snapshots::is_here(path)? {
        return Ok(vec![Part::Snapshots(path.to_owned())]);
    }
    let events = path.join("events");
    if parts.is_empty() && events.is_dir() {
        parts.extend(log_in(&events)?);
    }
    let database = path.join("events.db");
    // Anybody may have a database of that name.
    if database.is_file() && Database::open(&database).is_ok() {
        parts.push(Part::Sqlite(database));
    }
    let directory = path.join("snapshots");
    if directory.is_dir() && snapshots::is_here(&directory)? {
        parts.push(Part::Snapshots(directory));
    }
    Ok(parts)
}

fn log_in(dir: &Path) -> io::Result<Option<Part>> {
    let files = log::files(dir)?;
    Ok((!files.is_empty()).then(|| Part::Log(dir.to_owned(), files)))
}

/// What is imported, and how.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Secrets under which records are signed.
    pub secrets: Secrets,
    /// Takes records that no secret vouches for too, marked as such.
    pub unverified: bool,
    /// Only events of this aggregate change the tree; all are kept.
    pub aggregate: Option<String>,
    /// Owner of the files that come to be.
    pub uid: u32,
    /// Their group.
    pub gid: u32,
}

/// How far an import is.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Progress {
    /// Bytes of the source that were read.
    pub done: u64,
    /// Bytes that it has.
    pub total: u64,
    /// Events seen so far.
    pub events: u64,
}

/// Something worth knowing about one place of the source.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Finding {
    /// What kind of thing it is.
    pub outcome: Outcome,
    /// Where, and what exactly.
    #[serde(flatten)]
    pub at: Damage,
}

/// What became of an event, or of bytes that are none.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Bytes that are no record.
    Damaged,
    /// No known secret vouches for the record, and it was not taken.
    Unverifiable,
    /// It is no event the bridge would have taken.
    Refused,
    /// It is kept, but it contradicts the tree and did not change it.
    NotApplied,
}

impl Outcome {
    /// A word for it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Damaged => "damaged",
            Self::Unverifiable => "unverifiable",
            Self::Refused => "refused",
            Self::NotApplied => "not applied",
        }
    }
}

/// What came of an import.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize)]
pub struct Report {
    /// Records and rows that were seen.
    pub seen: u64,
    /// Events that are new in the store.
    pub imported: u64,
    /// Of those, the ones that no secret vouches for.
    pub unverified: u64,
    /// Of the new ones, those that are about files and directories and were applied.
    pub applied: u64,
    /// Of the new ones, those that contradict the tree and were only kept.
    pub not_applied: u64,
    /// Events that the store had already.
    pub known: u64,
    /// Records that no known secret vouches for, and that were not taken.
    pub unverifiable: u64,
    /// Records that are no events.
    pub refused: u64,
    /// Places that are no records.
    pub damaged: u64,
    /// Events whose time is earlier than that of the one before; their order was kept.
    pub out_of_order: u64,
    /// What the snapshots are like, which are not used.
    pub snapshots: Option<Snapshots>,
    /// At most [`FINDINGS_MAX`], in the order of the source.
    pub findings: Vec<Finding>,
}

impl Report {
    fn finds(&mut self, outcome: Outcome, at: Damage) {
        match outcome {
            Outcome::Damaged => self.damaged += 1,
            Outcome::Unverifiable => self.unverifiable += 1,
            Outcome::Refused => self.refused += 1,
            Outcome::NotApplied => self.not_applied += 1,
        }
        if self.findings.len() < FINDINGS_MAX {
            self.findings.push(Finding { outcome, at });
        }
    }
}

/// Why an import ended early. What was imported until then stays.
#[derive(Debug)]
pub enum ImportError {
    /// Whoever watches asked for it; so far the report is this.
    Stopped(Box<Report>),
    /// The store takes nothing more.
    Store(Refusal),
}

impl fmt::Display for ImportError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stopped(_) => f.write_str("stopped before the end; run again, it continues"),
            Self::Store(refusal) => refusal.fmt(f),
        }
    }
}

impl std::error::Error for ImportError {}

impl From<Refusal> for ImportError {
    fn from(refusal: Refusal) -> Self {
        Self::Store(refusal)
    }
}

impl From<CommitError> for ImportError {
    fn from(err: CommitError) -> Self {
        Self::Store(err.into())
    }
}

/// Called now and then; breaking ends the import.
pub type Watch<'w> = dyn FnMut(Progress) -> ControlFlow<()> + 'w;

/// Imports `parts` (as [`recognise`] found them) into `tree`, calling `watch` now and then.
///
/// May run while others change the tree; what the bridge's events say is then one change among theirs.
pub fn import(
    tree: &Tree,
    parts: &[Part],
    options: &Options,
    watch: &mut Watch<'_>,
) -> Result<Report, ImportError> {
    let mut import = Import {
        tree,
        options,
        report: Report::default(),
        progress: Progress { total: parts.iter().map(weight).sum(), ..Progress::default() },
        last: None,
        actor: None,
    };
    for part in parts {
        let before = import.progress.done;
        match part {
            Part::Log(_, files) => import.log(files, watch)?,
            Part::Sqlite(path) => import.sqlite(path, watch)?,
            Part::Snapshots(dir) => import.snapshots(dir),
        }
        import.progress.done = before.saturating_add(weight(part));
        import.watch(watch)?;
    }
    Ok(import.report)
}

/// The time of the first event in `parts`, for [`CreateOptions::begins`](crate::store::CreateOptions::begins) of a store
/// that is made for them.
#[must_use]
pub fn first_time(parts: &[Part], options: &Options) -> Option<Timestamp> {
    let missing = Missing { id: String::new(), time: Timestamp(i64::MAX) };
    let mut first = None;
    for part in parts {
        match part {
            Part::Log(_, files) => {
                let mut reader = LogReader::new(files.clone(), options.secrets.clone());
                while let Some(item) = reader.read() {
                    let Item::Record(record) = item else { continue };
                    if !record.verified && !options.unverified {
                        continue;
                    }
                    if let Ok(event) = Event::decode(record.payload, Format::MessagePack, &missing)
                    {
                        first = Some(event.timestamp.time);
                        break;
                    }
                }
            }
            Part::Sqlite(path) => {
                let Ok(database) = Database::open(path) else { continue };
                let read = database.rows(&mut |row| {
                    let json = row.map(|row| Event::decode(row.json, Format::Json, &missing));
                    first = json.ok().and_then(Result::ok).map(|event| event.timestamp.time);
                    first.is_none()
                });
                // It is said when it is imported.
                let _ = read;
            }
            Part::Snapshots(_) => (),
        }
        if first.is_some() {
            break;
        }
    }
    first
}

/// How many records of the logs in `parts` would be taken: those that a known secret vouches for, or all if so told.
#[must_use]
pub fn taken(parts: &[Part], options: &Options) -> u64 {
    let mut taken = 0;
    for part in parts {
        let Part::Log(_, files) = part else { continue };
        let mut reader = LogReader::new(files.clone(), options.secrets.clone());
        while let Some(item) = reader.read() {
            if let Item::Record(record) = item {
                taken += u64::from(record.verified || options.unverified);
            }
        }
    }
    taken
}

/// What a part counts for in the progress, in bytes.
fn weight(part: &Part) -> u64 {
    match part {
        Part::Log(_, files) => files.iter().map(|file| file.len).sum(),
        Part::Sqlite(path) => fs::metadata(path).map_or(0, |meta| meta.len()),
        Part::Snapshots(_) => 0,
    }
}

struct Import<'i> {
    tree: &'i Tree,
    options: &'i Options,
    report: Report,
    progress: Progress,
    /// The time of the event before.
    last: Option<Timestamp>,
    /// Agent and session of the event before, and what stands for them in the log.
    actor: Option<(Vec<u8>, Vec<u8>, Origin)>,
}

/// An event as it was found.
struct Raw<'r> {
    file: &'r str,
    offset: u64,
    bytes: &'r [u8],
    format: Format,
    verified: bool,
    /// For an event without an id.
    id: String,
}

impl Raw<'_> {
    fn place(&self, what: String) -> Damage {
        let (file, len) = (self.file.to_owned(), self.bytes.len() as u64);
        Damage { file, offset: self.offset, len, what }
    }
}

impl Import<'_> {
    fn watch(&mut self, watch: &mut Watch<'_>) -> Result<(), ImportError> {
        match watch(self.progress) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => {
                Err(ImportError::Stopped(Box::new(std::mem::take(&mut self.report))))
            }
        }
    }

    fn log(&mut self, files: &[LogFile], watch: &mut Watch<'_>) -> Result<(), ImportError> {
        let before = self.progress.done;
        let mut reader = LogReader::new(files.to_vec(), self.options.secrets.clone());
        loop {
            self.progress.done = before.saturating_add(reader.bytes_read());
            match reader.read() {
                None => return Ok(()),
                Some(Item::Damage(damage)) => self.report.finds(Outcome::Damaged, damage),
                Some(Item::Record(record)) => {
                    let number = LogFile::at(Path::new(record.file)).map_or(0, |file| file.number);
                    let raw = Raw {
                        file: record.file,
                        offset: record.offset,
                        bytes: record.payload,
                        format: Format::MessagePack,
                        verified: record.verified,
                        // The same for a file and its compressed copy.
                        id: format!("{}_{number}_import", record.offset),
                    };
                    self.event(&raw)?;
                }
            }
            self.now_and_then(watch)?;
        }
    }

    fn sqlite(&mut self, path: &Path, watch: &mut Watch<'_>) -> Result<(), ImportError> {
        let before = self.progress.done;
        let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let unread = |err: &SqliteError| {
            let what = format!("the database cannot be read: {err}");
            Damage { file: file.clone(), offset: 0, len: 0, what }
        };
        let opened = Database::open(path).and_then(|database| Ok((database.count()?, database)));
        let (count, database) = match opened {
            Ok(opened) => opened,
            Err(err) => {
                self.report.finds(Outcome::Damaged, unread(&err));
                return Ok(());
            }
        };
        let bytes = weight(&Part::Sqlite(path.to_owned())) / count.max(1);
        let mut failed = None;
        let read = database.rows(&mut |row| {
            let done = match row {
                Err(damage) => {
                    self.report.finds(Outcome::Damaged, damage);
                    Ok(())
                }
                Ok(row) => self.event(&Raw {
                    file: &file,
                    offset: row.number.unsigned_abs(),
                    bytes: row.json,
                    format: Format::Json,
                    verified: false,
                    id: format!("{}_0_import", row.number.unsigned_abs()),
                }),
            };
            self.progress.done = self.progress.done.saturating_add(bytes);
            failed = done.and_then(|()| self.now_and_then(watch)).err();
            failed.is_none()
        });
        self.progress.done = before;
        if let Err(err) = read {
            self.report.finds(Outcome::Damaged, unread(&err));
        }
        failed.map_or(Ok(()), Err)
    }

    fn snapshots(&mut self, dir: &Path) {
        match snapshots::check(dir) {
            Ok(found) => {
                for damage in &found.damage {
                    self.report.finds(Outcome::Damaged, damage.clone());
                }
                self.report.snapshots = Some(found);
            }
            Err(err) => {
                let file = dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
                let what = format!("it cannot be read: {err}");
                self.report.finds(Outcome::Damaged, Damage { file, offset: 0, len: 0, what });
            }
        }
    }

    fn now_and_then(&mut self, watch: &mut Watch<'_>) -> Result<(), ImportError> {
        self.progress.events = self.report.seen;
        if self.report.seen.is_multiple_of(WATCH_EVERY) { self.watch(watch) } else { Ok(()) }
    }

    /// Takes one event, if it is one and is new.
    fn event(&mut self, raw: &Raw<'_>) -> Result<(), ImportError> {
        self.report.seen += 1;
        // Of rows nothing could ever vouch; whoever names a database means it.
        if !raw.verified && raw.format == Format::MessagePack && !self.options.unverified {
            let what = "no known secret vouches for this record".to_owned();
            self.report.finds(Outcome::Unverifiable, raw.place(what));
            return Ok(());
        }
        let time = self.last.unwrap_or(Timestamp(0));
        let missing = Missing { id: raw.id.clone(), time };
        let event = match Event::decode(raw.bytes, raw.format, &missing) {
            Ok(event) => event,
            Err(err) => {
                self.report.finds(Outcome::Refused, raw.place(format!("no event: {err}")));
                return Ok(());
            }
        };
        let time = event.timestamp.time;
        self.report.out_of_order += u64::from(self.last.is_some_and(|last| time < last));
        self.last = Some(time);
        let store = self.tree.store();
        let fingerprint = store.fingerprint(raw.bytes);
        // A row is never written as the log writes it, so its id alone says whether the log told it.
        let same = (raw.format == Format::MessagePack).then_some(&fingerprint);
        let id = cut(&event.id);
        let known = store.foreign(id, same).map_err(Refusal::from)?;
        if known.is_some() {
            self.report.known += 1;
            return Ok(());
        }
        let origin = self.origin(&event)?;
        let about_tree = apply::concerns_tree(&event.kind)
            && self.options.aggregate.as_ref().is_none_or(|only| *only == event.aggregate_id);
        if about_tree {
            let origin = Origin { unique: Origin::IMPORTED, ..origin };
            let (uid, gid) = (self.options.uid, self.options.gid);
            let caller = Caller { uid, gid, origin, ..Caller::default() };
            match apply::apply(&self.tree.dated(time), &caller, &event) {
                Ok(()) => self.report.applied += 1,
                Err(Unapplied::Failed(refusal)) => return Err(refusal.into()),
                Err(Unapplied::Contradicts(what)) => {
                    let what = format!("{} of {}: {what}", event.kind, event.id);
                    self.report.finds(Outcome::NotApplied, raw.place(what));
                }
            }
        }
        let mut placed = Placed::default();
        let body = store.place(raw.bytes, &mut placed)?;
        let source = Place { file: cut(raw.file), offset: raw.offset, verified: raw.verified };
        let foreign = Foreign {
            id,
            kind: event.kind.as_bytes(),
            agent: cut(event.who().unwrap_or_default()),
            aggregate: cut(&event.aggregate_id),
            time,
            format: raw.format,
            source: Some(source),
            fingerprint,
            body,
        };
        let txn = store.begin_at(time).inspect_err(|_| store.unplace(&body))?;
        txn.commit(origin, Change::Foreign(foreign))?;
        self.report.imported += 1;
        self.report.unverified += u64::from(!raw.verified);
        Ok(())
    }

    /// Who did it: the agent and the session that the event names.
    fn origin(&mut self, event: &Event) -> Result<Origin, ImportError> {
        let agent = cut(event.who().unwrap_or_default());
        let session = cut(event.session().unwrap_or_default());
        if let Some((known, in_session, origin)) = &self.actor
            && (&known[..], &in_session[..]) == (agent, session)
        {
            return Ok(*origin);
        }
        let (agent, session) = (agent.to_vec(), session.to_vec());
        let (uid, gid) = (self.options.uid, self.options.gid);
        let actor = Actor { uid, gid, agent, session, ..Actor::default() };
        let origin = Origin { actor: self.tree.store().actor(&actor)?, unique: 0 };
        self.actor = Some((actor.agent, actor.session, origin));
        Ok(origin)
    }
}
