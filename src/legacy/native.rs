//! What happened in a store, told as the Python bridge would have told it.
//!
//! A [`Teller`] goes through the log and names what it finds in the bridge's words: the create, removal or move of
//! a name is one event, and so is each version of a file; a single write, a mode, an attribute or a lock is none.
//! Foreign events are told as they were given, and the changes that importing them made are not told twice.
//!
//! ```text
//!  log:    create a   write a   write a   create b   (version of a)   foreign
//!  told:   5.0 file_created a             8.0 file_created b   8.1 file_modified a   9.0 ...
//!          ^ cursor                                                ^ its sequence is 7, that of the last write
//! ```
//!
//! A version is known to be one only when it ends, and then others may have been told of already. So there are two
//! numbers: `sequence` is that of the change, and `history/@sequence` shows the tree right after it; a [`Cursor`]
//! is the place in the order of telling, for whoever wants to go on where they stopped.
//!
//! Invariants: cursors grow; an event is told with the same id, sequence and cursor whenever it is told, except
//! for versions that nobody ended because the server was killed: they are told at the next start, and
//! only to whoever reads on from before their last write.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::str::FromStr;

use rustc_hash::FxHashMap;
use serde_json::{Map, Value, json};

use super::event::{Event, Missing};
use super::time;
use crate::store::codec::Note;
use crate::store::event::{
    Actor, ActorId, Change, Event as Logged, Foreign, Format, Ino, Seq, Source, Timestamp,
};
use crate::store::index::Tables;
use crate::store::log::{LogReader, Next};
use crate::store::record::Entry;
use crate::store::{Origin, Placed};
use crate::tree::{Refusal, Tree};

/// The last part of ids of events that are ours: what the bridge called itself.
pub const NODE: &str = "lighthouse-01";
/// The id that the bridge's project has when it is given no other.
pub const PROJECT: &str = "default";
/// What says so of changes to the tree.
const COMPONENT: &str = "bridge_aggregate";
/// Longest text that a foreign event is found by, in bytes; what is longer is cut there. The body has it all.
const TEXT_MAX: usize = 4096;
/// Files that are remembered in case nobody ends their version.
const DRAFTS_MAX: usize = 4096;
/// Directories that a path can be deep.
const DEPTH_MAX: usize = 4096;

const S_IFMT: u32 = 0o170_000;
const S_IFDIR: u32 = 0o040_000;
const S_IFREG: u32 = 0o100_000;
const S_IFLNK: u32 = 0o120_000;

/// A place in the order of telling: behind event `seq` of the log, and behind `nth` further ones told there.
///
/// As text `SEQ` or `SEQ.NTH`.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Cursor {
    /// The last event of the log.
    pub seq: Seq,
    /// What was told after it and before the next.
    pub nth: u32,
}

impl Cursor {
    /// Before all that is told of event `seq` and later.
    #[must_use]
    pub const fn before(seq: Seq) -> Self {
        Self { seq: seq.before(), nth: u32::MAX }
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.nth {
            0 => self.seq.fmt(f),
            nth => write!(f, "{}.{nth}", self.seq),
        }
    }
}

impl FromStr for Cursor {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (seq, nth) = text.split_once('.').unwrap_or((text, "0"));
        Ok(Self { seq: Seq(seq.parse()?), nth: nth.parse()? })
    }
}

/// Where an imported event was read.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Provenance {
    /// Name of the file.
    pub file: String,
    /// Offset of its record there.
    pub offset: u64,
    /// Whether its message authentication code held.
    pub verified: bool,
}

/// One event, told.
#[derive(Clone, Debug, PartialEq)]
pub struct Told {
    /// Its place in the order of telling.
    pub cursor: Cursor,
    /// The change it is about: `history/@seq` shows the tree right after it.
    pub seq: Seq,
    /// When it was logged; never earlier than the one before. What the event itself says may differ if it is foreign.
    pub logged: Timestamp,
    /// The event. The sequence in it is `seq`, but an imported event's is the one it had.
    pub event: Event,
    /// Where it was read, if it was imported.
    pub provenance: Option<Provenance>,
}

impl Told {
    /// The bridge's thirteen fields, `sequence` being ours. Of an imported event `original` says what its sequence
    /// was and where it was read.
    #[must_use]
    pub fn to_json(&self) -> Map<String, Value> {
        self.clone().into_json()
    }

    /// The same, without a copy of what may be long.
    #[must_use]
    pub fn into_json(self) -> Map<String, Value> {
        let sequence = self.event.sequence;
        let mut fields = self.event.into_json();
        fields.insert("sequence".to_owned(), self.seq.0.into());
        if let Some(Provenance { file, offset, verified }) = self.provenance {
            let original = json!({
                "sequence": sequence, "file": file, "offset": offset, "verified": verified,
            });
            fields.insert("original".to_owned(), original);
        }
        fields
    }
}

/// Goes through a store's log and tells what happened, while it goes on happening.
pub struct Teller {
    tree: Tree,
    project: String,
    reader: LogReader,
    /// Nothing up to here is told again.
    after: Cursor,
    at: Cursor,
    /// Files written to whose version has not ended, and by whom.
    drafts: FxHashMap<Ino, ActorId>,
    told: VecDeque<Told>,
}

impl fmt::Debug for Teller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Teller").field("at", &self.at).finish_non_exhaustive()
    }
}

impl Teller {
    /// Tells what comes after `after` in `tree`, as events of the project `project`. The same cost wherever that is.
    pub fn new(tree: &Tree, project: &str, after: Cursor) -> io::Result<Self> {
        // What was told after the last event before this one comes before it.
        let reader = tree.store().log_from(after.seq)?;
        Ok(Self {
            tree: tree.clone(),
            project: project.to_owned(),
            at: Cursor { seq: reader.mark().seq, nth: 0 },
            reader,
            after,
            drafts: FxHashMap::default(),
            told: VecDeque::new(),
        })
    }

    /// The next event, or `None` if there is no other yet: asking again looks again.
    pub fn read(&mut self) -> io::Result<Option<Told>> {
        loop {
            let mut records = u32::MAX;
            let told = self.read_within(&mut records)?;
            if told.is_some() || records > 0 {
                return Ok(told);
            }
        }
    }

    /// As [`Teller::read`], but reads no more than `records` records of the log, of which it takes off what it
    /// read: `None` with none left says that there may be more.
    pub fn read_within(&mut self, records: &mut u32) -> io::Result<Option<Told>> {
        loop {
            if let Some(told) = self.told.pop_front() {
                if told.cursor > self.after {
                    return Ok(Some(told));
                }
                continue;
            }
            let Some(left) = records.checked_sub(1) else { return Ok(None) };
            if !self.step()? {
                return Ok(None);
            }
            *records = left;
        }
    }

    /// Where the log was read up to. Once [`Teller::read_within`] found nothing more to tell, telling can go on here too,
    /// as behind an event: so nobody reads twice what tells nothing.
    #[must_use]
    pub const fn place(&self) -> Cursor {
        self.at
    }

    /// Reads one record; whether there was one.
    fn step(&mut self) -> io::Result<bool> {
        let before = self.reader.mark();
        let last = self.tree.last();
        let Next::Record(_, record) = self.reader.read()? else { return Ok(false) };
        let stamp = record.stamp();
        if stamp.seq > last {
            // It is in the log a moment before anybody may know.
            self.reader = self.tree.store().log(Some(before))?;
            return Ok(false);
        }
        let Some(entry) = record.entry() else { return Ok(true) };
        let ends = match entry {
            Entry::Event(event) => {
                self.at = Cursor { seq: event.seq, nth: 0 };
                // What importing changed is told by the foreign event that follows.
                if event.unique == Origin::IMPORTED {
                    return Ok(true);
                }
                if let Some(ino) = written(&event.change)
                    && (self.drafts.len() < DRAFTS_MAX || self.drafts.contains_key(&ino))
                {
                    self.drafts.insert(ino, event.actor);
                }
                if self.at > self.after {
                    self.told.extend(tell(&self.tree, &self.project, &event)?);
                }
                return Ok(true);
            }
            Entry::Note(Note::Version { ino, actor }) => {
                self.drafts.remove(&ino);
                vec![(ino, actor)]
            }
            // Whoever wrote is gone, or says no more.
            Entry::Note(Note::Connection { .. } | Note::End) => {
                let mut all: Vec<_> = self.drafts.drain().collect();
                all.sort_unstable();
                all
            }
            Entry::Note(_) => return Ok(true),
        };
        for (ino, by) in ends {
            self.at.nth = self.at.nth.saturating_add(1);
            let cursor = self.at;
            if cursor > self.after
                && let Some((event, seq, logged)) =
                    version(&self.tree, &self.project, ino, by, self.at.seq)?
            {
                self.told.push_back(Told { cursor, seq, logged, event, provenance: None });
            }
        }
        Ok(true)
    }
}

/// The file whose content a change is a part of.
const fn written(change: &Change<'_>) -> Option<Ino> {
    match change {
        Change::Write { ino, .. } | Change::Fallocate { ino, .. } => Some(*ino),
        Change::Clone { dst, .. } => Some(*dst),
        Change::SetAttr { ino, set, .. } if set.size.is_some() => Some(*ino),
        _ => None,
    }
}

/// The version of `ino` that ended after event `at`, with the sequence and time of its last change; `None` if it has
/// no name any more.
fn version(
    tree: &Tree,
    project: &str,
    ino: Ino,
    by: ActorId,
    at: Seq,
) -> io::Result<Option<(Event, Seq, Timestamp)>> {
    let (inode, path) = {
        let tables = tree.store().read();
        let inode = tables.inode(ino, at).map_err(io::Error::other)?;
        (inode, path_of(&tables, ino, at)?)
    };
    let (Some(inode), Some(path)) = (inode, path) else { return Ok(None) };
    let (seq, time) = (inode.changed, inode.ctime);
    let mut event = blank(tree, project, seq, time, by, "file_modified", "file_modification");
    put(&mut event.data, "path", path);
    put(&mut event.data, "size", inode.size);
    put(&mut event.metadata, "file_size", inode.size);
    put(&mut event.metadata, "previous_exists", true);
    Ok(Some((event, seq, time)))
}

/// What an event of the log is called; `None` for what has no word.
fn tell(tree: &Tree, project: &str, logged: &Logged<'_>) -> io::Result<Option<Told>> {
    let (seq, time) = (logged.seq, logged.time);
    let cursor = Cursor { seq, nth: 0 };
    if let Change::Foreign(foreign) = &logged.change {
        let (event, provenance) = foreign_event(tree, foreign, seq)?;
        return Ok(Some(Told { cursor, seq, logged: time, event, provenance }));
    }
    let before = seq.before();
    let tables = tree.store().read();
    let dir = |ino: Ino, at: Seq| -> io::Result<bool> {
        let inode = tables.inode(ino, at).map_err(io::Error::other)?;
        Ok(inode.is_some_and(|inode| inode.mode & S_IFMT == S_IFDIR))
    };
    let path = |parent: Ino, name: &[u8], at: Seq| child(&tables, parent, name, at);
    let mut data = Map::new();
    let mut metadata = Map::new();
    let (kind, operation) = match &logged.change {
        Change::Create { parent, name, mode, target, .. } => {
            put(&mut data, "path", path(*parent, name, seq)?);
            match mode & S_IFMT {
                S_IFDIR => ("directory_created", "directory_creation"),
                kind => {
                    put(&mut data, "size", target.len());
                    put(&mut metadata, "previous_exists", false);
                    put(&mut metadata, "file_size", target.len());
                    if kind == S_IFLNK {
                        put(&mut data, "target", text(target));
                    } else if kind != S_IFREG {
                        put(&mut data, "mode", format!("{mode:o}"));
                    }
                    ("file_created", "file_modification")
                }
            }
        }
        Change::Link { ino, parent, name } => {
            let Some(source) = path_of(&tables, *ino, before)? else {
                // A file that had no name gets its first.
                put(&mut data, "path", path(*parent, name, seq)?);
                drop(tables);
                let event = blank(tree, project, seq, time, logged.actor, "file_created", "link");
                let event = Event { data, ..event };
                return Ok(Some(Told { cursor, seq, logged: time, event, provenance: None }));
            };
            put(&mut data, "source_path", source);
            put(&mut data, "dest_path", path(*parent, name, seq)?);
            ("file_copied", "link")
        }
        Change::Unlink { parent, name, ino } => {
            put(&mut data, "path", path(*parent, name, before)?);
            if dir(*ino, before)? {
                ("directory_deleted", "directory_deletion")
            } else {
                ("file_deleted", "file_deletion")
            }
        }
        Change::Rename { parent, name, new_parent, new_name, ino, replaced } => {
            put(&mut data, "old_path", path(*parent, name, before)?);
            put(&mut data, "new_path", path(*new_parent, new_name, seq)?);
            if replaced.is_some() {
                put(&mut metadata, "replaced", true);
            }
            if dir(*ino, before)? {
                ("directory_moved", "directory_move")
            } else {
                ("file_moved", "file_move")
            }
        }
        Change::Exchange { parent, name, new_parent, new_name, ino, .. } => {
            put(&mut data, "old_path", path(*parent, name, before)?);
            put(&mut data, "new_path", path(*new_parent, new_name, before)?);
            put(&mut metadata, "exchanged", true);
            if dir(*ino, before)? {
                ("directory_moved", "directory_move")
            } else {
                ("file_moved", "file_move")
            }
        }
        Change::Mkfs { .. } => {
            put(&mut data, "project_id", project);
            ("project_initialized", "project_initialization")
        }
        Change::Tmpfile { .. }
        | Change::SetAttr { .. }
        | Change::Write { .. }
        | Change::Fallocate { .. }
        | Change::Clone { .. }
        | Change::SetXattr { .. }
        | Change::RemoveXattr { .. }
        | Change::End { .. }
        | Change::Foreign(_) => return Ok(None),
    };
    drop(tables);
    let mut event = blank(tree, project, seq, time, logged.actor, kind, operation);
    event.data = data;
    event.metadata.append(&mut metadata);
    Ok(Some(Told { cursor, seq, logged: time, event, provenance: None }))
}

/// An event of ours without data.
fn blank(
    tree: &Tree,
    project: &str,
    seq: Seq,
    time: Timestamp,
    by: ActorId,
    kind: &str,
    operation: &str,
) -> Event {
    let actor = tree.store().actor_of(by).unwrap_or_default();
    let mut metadata = Map::new();
    put(&mut metadata, "operation", operation);
    describe(&mut metadata, &actor);
    Event {
        id: id(seq, time),
        sequence: i64::try_from(seq.0).ok(),
        kind: kind.to_owned(),
        aggregate_id: project.to_owned(),
        aggregate_type: "project".to_owned(),
        timestamp: time::of(time),
        correlation_id: None,
        causation_id: None,
        data: Map::new(),
        metadata,
        source_agent: (!actor.agent.is_empty()).then(|| text(&actor.agent)),
        source_component: COMPONENT.to_owned(),
        schema_version: 1,
    }
}

/// Says of a process what is known of it.
fn describe(metadata: &mut Map<String, Value>, actor: &Actor) {
    let known = [
        ("agent_id", &actor.agent),
        ("session_id", &actor.session),
        ("exe", &actor.exe),
        ("cgroup", &actor.cgroup),
    ];
    for (name, bytes) in known {
        if !bytes.is_empty() {
            put(metadata, name, text(bytes));
        }
    }
    let words = actor.cmdline.split(|&byte| byte == 0).filter(|word| !word.is_empty());
    let words: Vec<Value> = words.map(|word| text(word).into()).collect();
    if !words.is_empty() {
        put(metadata, "command", words);
    }
    if actor.pid != 0 {
        put(metadata, "pid", actor.pid);
    }
    put(metadata, "uid", actor.uid);
    put(metadata, "gid", actor.gid);
    if actor.ambiguous {
        put(metadata, "ambiguous", true);
    }
}

/// The id of an event of ours: the bridge's three parts, the count being its sequence.
#[must_use]
pub fn id(seq: Seq, time: Timestamp) -> String {
    format!("{}_{seq}_{NODE}", time.0.max(0))
}

/// What a foreign event says. What cannot be read any more is told by what it is found by.
fn foreign_event(
    tree: &Tree,
    foreign: &Foreign<'_>,
    seq: Seq,
) -> io::Result<(Event, Option<Provenance>)> {
    let body = tree.store().read_data(&foreign.body)?;
    let missing = Missing { id: text(foreign.id), time: foreign.time };
    let mut event = Event::decode(&body, foreign.format, &missing).unwrap_or_else(|_| Event {
        id: text(foreign.id),
        sequence: None,
        kind: text(foreign.kind),
        aggregate_id: text(foreign.aggregate),
        aggregate_type: "unknown".to_owned(),
        timestamp: time::of(foreign.time),
        correlation_id: None,
        causation_id: None,
        data: Map::new(),
        metadata: Map::new(),
        source_agent: (!foreign.agent.is_empty()).then(|| text(foreign.agent)),
        source_component: "unknown".to_owned(),
        schema_version: 1,
    });
    let provenance = foreign.source.map(|Source { file, offset, verified }| Provenance {
        file: text(file),
        offset,
        verified,
    });
    if provenance.is_none() {
        event.sequence = i64::try_from(seq.0).ok();
    }
    Ok((event, provenance))
}

/// The foreign event that `logged` is, decoded; `None` if it is no foreign event.
pub fn foreign(tree: &Tree, logged: &Logged<'_>) -> io::Result<Option<Event>> {
    match &logged.change {
        Change::Foreign(foreign) => Ok(Some(foreign_event(tree, foreign, logged.seq)?.0)),
        _ => Ok(None),
    }
}

/// An event that a client hands in.
#[derive(Clone, Debug)]
pub struct NewEvent {
    /// One of [`KINDS`](super::event::KINDS).
    pub kind: &'static str,
    /// What it is about.
    pub aggregate_id: String,
    /// What kind of thing that is.
    pub aggregate_type: String,
    /// Who did it, as the client says.
    pub source_agent: Option<String>,
    /// Which part of the bridge says so: `http_server`.
    pub source_component: String,
    /// What happened.
    pub data: Map<String, Value>,
    /// What else is known.
    pub metadata: Map<String, Value>,
}

/// Keeps an event that a client handed in, and tells it. No tree changes: events about files are changes, and are
/// made with [`Tree::perform`].
pub fn keep(tree: &Tree, origin: Origin, new: &NewEvent) -> Result<Told, Refusal> {
    keep_as(tree, origin, new, None)
}

/// As [`keep`], under an id of the caller's.
pub(super) fn keep_as(
    tree: &Tree,
    origin: Origin,
    new: &NewEvent,
    named: Option<String>,
) -> Result<Told, Refusal> {
    let mut fields = Map::new();
    put(&mut fields, "event_type", new.kind);
    put(&mut fields, "aggregate_id", new.aggregate_id.clone());
    put(&mut fields, "aggregate_type", new.aggregate_type.clone());
    put(&mut fields, "source_agent", new.source_agent.clone());
    put(&mut fields, "source_component", new.source_component.clone());
    put(&mut fields, "data", new.data.clone());
    put(&mut fields, "metadata", new.metadata.clone());
    let body = Value::Object(fields.clone()).to_string();
    let store = tree.store();
    let fingerprint = store.fingerprint(body.as_bytes());
    let mut placed = Placed::default();
    let data = store.place(body.as_bytes(), &mut placed)?;
    let txn = store.begin().inspect_err(|_| store.unplace(&data))?;
    let (seq, time) = (txn.seq(), txn.time());
    let id = named.unwrap_or_else(|| id(seq, time));
    let foreign = Foreign {
        id: id.as_bytes(),
        kind: new.kind.as_bytes(),
        agent: cut(new.source_agent.as_deref().unwrap_or_default()),
        aggregate: cut(&new.aggregate_id),
        time,
        format: Format::Json,
        source: None,
        fingerprint,
        body: data,
    };
    txn.commit(origin, Change::Foreign(foreign))?;
    let missing = Missing { id, time };
    // It was just made of what an event has.
    let mut event = Event::from_fields(fields, &missing).map_err(|_| Refusal::Invalid)?;
    event.sequence = i64::try_from(seq.0).ok();
    Ok(Told { cursor: Cursor { seq, nth: 0 }, seq, logged: time, event, provenance: None })
}

/// What of a text an event is found by.
pub(super) fn cut(text: &str) -> &[u8] {
    text.as_bytes().get(..TEXT_MAX).unwrap_or(text.as_bytes())
}

fn put(fields: &mut Map<String, Value>, name: &str, value: impl Into<Value>) {
    fields.insert(name.to_owned(), value.into());
}

/// Bytes as text: what is not UTF-8 is written as `\xNN`.
fn text(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        for byte in chunk.invalid() {
            let _ = write!(text, "\\x{byte:02x}");
        }
    }
    text
}

/// Path of `name` in `parent` after event `at`, from the root of the tree on, with a leading `/`.
fn child(tables: &Tables, parent: Ino, name: &[u8], at: Seq) -> io::Result<String> {
    let dir = path_of(tables, parent, at)?.unwrap_or_else(|| "/(removed)".to_owned());
    let dir = dir.strip_suffix('/').unwrap_or(&dir);
    Ok(format!("{dir}/{}", text(name)))
}

/// A path of `ino` after event `at`; `None` if it has none.
fn path_of(tables: &Tables, ino: Ino, at: Seq) -> io::Result<Option<String>> {
    let mut parts: Vec<String> = Vec::new();
    let mut ino = ino;
    while ino != Ino::ROOT {
        let names = tables.names(ino, at).map_err(io::Error::other)?;
        let Some((parent, name)) = names.first().filter(|_| parts.len() < DEPTH_MAX) else {
            return Ok(None);
        };
        parts.push(text(name));
        ino = *parent;
    }
    parts.reverse();
    Ok(Some(format!("/{}", parts.join("/"))))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::store::journal::Durability;
    use crate::store::sim::{SimDisk, Step};
    use crate::store::{CreateOptions, OpenOptions, Store};
    use crate::tree::operation::{Caller, Operation, RenameHow, WriteTo};

    fn options() -> OpenOptions {
        OpenOptions { sync_interval: None, memory: 8 << 20, ..OpenOptions::default() }
    }

    fn tree() -> Tree {
        let disk = Arc::new(SimDisk::new(1 << 30));
        let store = Store::create_on(disk, &CreateOptions::default(), &options()).unwrap();
        Tree::new(Arc::new(store))
    }

    fn caller(tree: &Tree, agent: &str) -> Caller<'static> {
        let (agent, session) = (agent.as_bytes().to_vec(), b"session 1".to_vec());
        let actor = Actor { uid: 1000, pid: 7, agent, session, ..Actor::default() };
        let actor = tree.store().actor(&actor).unwrap();
        Caller { uid: 1000, gid: 1000, origin: Origin { actor, unique: 0 }, ..Caller::default() }
    }

    fn make(tree: &Tree, who: &Caller<'_>, parent: Ino, name: &[u8], mode: u32) -> Ino {
        let (rdev, exclusive, security) = (0, true, None);
        let operation = Operation::Make { parent, name, mode, rdev, exclusive, security };
        tree.perform(who, &operation).unwrap().inode.unwrap().ino
    }

    fn all(tree: &Tree, after: Cursor) -> Vec<Told> {
        let mut teller = Teller::new(tree, PROJECT, after).unwrap();
        std::iter::from_fn(|| teller.read().unwrap()).collect()
    }

    fn said(told: &[Told]) -> Vec<String> {
        let one = |told: &Told| {
            let event = &told.event;
            let paths = ["path", "old_path", "new_path", "source_path", "dest_path"];
            let paths: Vec<&str> = paths.into_iter().filter_map(|key| event.datum(key)).collect();
            format!("{} {} {} {}", told.cursor, told.seq, event.kind, paths.join(" "))
        };
        told.iter().map(one).collect()
    }

    /// Files come, change, move and go; events are kept beside.
    fn lived(tree: &Tree) {
        let (who, other) = (caller(tree, "builder"), caller(tree, "expert"));
        let dir = make(tree, &who, Ino::ROOT, b"src", S_IFDIR | 0o755);
        let a = make(tree, &who, dir, b"a.rs", S_IFREG | 0o644);
        tree.write(&who, a, WriteTo::Offset(0), b"one", false).unwrap();
        tree.write(&who, a, WriteTo::Offset(3), b"two", false).unwrap();
        let b = make(tree, &who, dir, b"b.rs", S_IFREG | 0o644);
        tree.store().mark_version(a, who.origin.actor).unwrap();
        tree.write(&who, b, WriteTo::Offset(0), b"x", false).unwrap();
        tree.store().mark_version(b, who.origin.actor).unwrap();
        tree.write(&other, b, WriteTo::Offset(1), b"y", false).unwrap();
        tree.store().mark_version(b, other.origin.actor).unwrap();
        let how = RenameHow::Replace;
        let (parent, new_parent) = (Ino::ROOT, Ino::ROOT);
        let rename = Operation::Rename { parent, name: b"src", new_parent, new_name: b"lib", how };
        tree.perform(&who, &rename).unwrap();
        tree.perform(&who, &Operation::Unlink { parent: dir, name: b"a.rs" }).unwrap();
        let new = NewEvent {
            kind: "agent_heartbeat",
            aggregate_id: "x".to_owned(),
            aggregate_type: "http_server".to_owned(),
            source_agent: Some("client".to_owned()),
            source_component: "http_server".to_owned(),
            data: json!({"up": [1, 2.5, null]}).as_object().unwrap().clone(),
            metadata: Map::new(),
        };
        keep(tree, other.origin, &new).unwrap();
    }

    #[test]
    fn what_happened_is_told_in_the_words_of_the_bridge() {
        let tree = tree();
        lived(&tree);
        let told = all(&tree, Cursor::default());
        let expected = [
            "2 2 project_initialized ",
            "3 3 directory_created /src",
            "4 4 file_created /src/a.rs",
            "7 7 file_created /src/b.rs",
            "7.1 6 file_modified /src/a.rs",
            "8.1 8 file_modified /src/b.rs",
            "9.1 9 file_modified /src/b.rs",
            "10 10 directory_moved /src /lib",
            "11 11 file_deleted /lib/a.rs",
            "12 12 agent_heartbeat ",
        ];
        assert_eq!(said(&told), expected);
        let modified = Value::Object(told[4].to_json());
        assert_eq!(modified["data"], json!({"path": "/src/a.rs", "size": 6}));
        assert_eq!(modified["sequence"], 6);
        assert_eq!(modified["source_agent"], "builder");
        assert_eq!(modified["metadata"]["session_id"], "session 1");
        let foreign = Value::Object(told[9].to_json());
        assert_eq!(foreign["data"], json!({"up": [1, 2.5, null]}));
        assert_eq!(foreign["source_agent"], "client");
        assert!(foreign.get("original").is_none());
        let seq = tree.store().foreign(told[9].event.id.as_bytes(), None).unwrap();
        assert_eq!(seq, Some(Seq(12)));
    }

    #[test]
    fn telling_goes_on_where_it_stopped() {
        let tree = tree();
        lived(&tree);
        let told = all(&tree, Cursor::default());
        for (count, last) in told.iter().enumerate() {
            let rest = all(&tree, last.cursor);
            assert_eq!(said(&rest), said(&told[count + 1..]), "after {}", last.cursor);
            assert_eq!(last.cursor.to_string().parse(), Ok(last.cursor));
        }
        assert_eq!(said(&all(&tree, Cursor::before(Seq(9)))), said(&told[6..]));
    }

    #[test]
    fn telling_goes_on_where_nothing_was_told() {
        let tree = tree();
        lived(&tree);
        let told = all(&tree, Cursor::default());
        let mut teller = Teller::new(&tree, PROJECT, Cursor::default()).unwrap();
        let (mut count, mut stops) = (0, 0);
        loop {
            let mut records = 1;
            match teller.read_within(&mut records).unwrap() {
                Some(_) => count += 1,
                None if records > 0 => break,
                None => {
                    stops += 1;
                    let rest = all(&tree, teller.place());
                    assert_eq!(said(&rest), said(&told[count..]), "behind {}", teller.place());
                }
            }
        }
        assert_eq!(count, told.len());
        assert!(stops >= 4, "at each write at least, not {stops} times");
    }

    #[test]
    fn what_an_import_changed_is_told_once() {
        let tree = tree();
        let mut who = caller(&tree, "builder");
        who.origin.unique = Origin::IMPORTED;
        let past = Timestamp(1_000_000_000);
        make(&tree.dated(past), &who, Ino::ROOT, b"a", S_IFREG | 0o644);
        assert_eq!(said(&all(&tree, Cursor::default())), ["2 2 project_initialized "]);
    }

    #[test]
    fn bytes_that_are_no_text_are_shown_as_numbers() {
        assert_eq!(text(b"a\xffb"), "a\\xffb");
    }

    #[test]
    fn an_event_that_is_in_the_log_keeps_its_body_whatever_its_author_was_told() {
        let disk = SimDisk::new(1 << 30);
        let always = OpenOptions { durability: Durability::Always, ..options() };
        let store = Store::create_on(Arc::new(disk.clone()), &CreateOptions::default(), &always);
        let tree = Tree::new(Arc::new(store.unwrap()));
        let long = "x".repeat(100_000);
        let new = NewEvent {
            kind: "custom",
            aggregate_id: "a".to_owned(),
            aggregate_type: "b".to_owned(),
            source_agent: None,
            source_component: "http_server".to_owned(),
            data: json!({"long": long}).as_object().unwrap().clone(),
            metadata: Map::new(),
        };
        // It is appended, and then the disk fails.
        disk.fail(Step::Sync, 0, 1, 5);
        keep(&tree, Origin::default(), &new).unwrap_err();
        drop(tree);
        let store = Store::open_on(Arc::new(disk.after_kill()), &options()).unwrap();
        let tree = Tree::new(Arc::new(store));
        let told = all(&tree, Cursor::default());
        assert_eq!(told.last().unwrap().event.data, new.data);
    }
}
