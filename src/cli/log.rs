//! `log`: who changed what, and when, from the log's own segments.
//!
//! The log alone is read, never the index: so a store in service can be asked too. Paths are found
//! by following names from the first event on.
//!
//! It is read twice: what there is to know of who did something may have been found out after that, and stands behind it,
//! see [`agents`](crate::agents). A command that changes one thing is over by then.

use std::collections::VecDeque;
use std::io::{self, BufWriter, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use rustc_hash::FxHashMap;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::Serialize;

use crate::store::Origin;
use crate::store::event::{Actor, ActorId, Allocation, Change, Event, Foreign, Ino};

use crate::store::codec::Note;
use crate::store::log::Next;
use crate::store::record::Entry;
use crate::view::moment::{self, Moment};

use super::{CliError, flag, output, place, store};

/// How often `--follow` looks for more.
const FOLLOW_EVERY: Duration = Duration::from_millis(200);

/// Show who changed what, and when: the whole project, or what is at and below PATH
///
/// Writes to a file that follow each other are shown as one; --fine shows each.
#[derive(Debug, clap::Args)]
pub(super) struct LogArgs {
    /// A path inside a mount; with --store, one inside the project (`src/main.rs`)
    path: Option<PathBuf>,
    /// The store to read, in service or not; without it, the one whose mount PATH (or the working directory) is in
    #[arg(long, env = "LIGHTHOUSE_FUSE_STORE")]
    store: Option<PathBuf>,
    /// Print one JSON object per line
    #[arg(long, env = "LIGHTHOUSE_FUSE_JSON", value_parser = flag())]
    json: bool,
    /// Only what happened after this: @SEQUENCE, an RFC 3339 time, a date, or `10min-ago`
    #[arg(long, value_name = "WHEN", env = "LIGHTHOUSE_FUSE_SINCE")]
    since: Option<String>,
    /// Only the last N
    #[arg(long, short = 'n', value_name = "N", env = "LIGHTHOUSE_FUSE_LAST")]
    last: Option<usize>,
    /// Go on with what happens from now on, until ^C
    #[arg(long, short, env = "LIGHTHOUSE_FUSE_FOLLOW", value_parser = flag())]
    follow: bool,
    /// Show every single write, and every event that shows in no tree
    #[arg(long, env = "LIGHTHOUSE_FUSE_FINE", value_parser = flag())]
    fine: bool,
}

pub(super) fn run(args: &LogArgs) -> Result<ExitCode, CliError> {
    let place = place::find(args.path.as_deref(), args.store.as_deref())?;
    let since = args.since.as_deref().map(since).transpose()?;
    let mut reader = store::log_reader(&place.store)?;
    let mut ahead = store::log_reader(&place.store)?;
    let mut shown = Shown {
        out: BufWriter::new(io::stdout().lock()),
        json: args.json,
        held: VecDeque::new(),
        keep: args.last,
    };
    let mut follow = Follow::new(place.path, since, args.fine);
    loop {
        // What cannot be read is told of when it is come to.
        while let Ok(Next::Record(_, record)) = ahead.read() {
            if let Some(Entry::Note(Note::Actor { id, actor })) = record.entry() {
                follow.actors.read_ahead(id, actor);
            }
        }
        let read = loop {
            match reader.read() {
                Ok(Next::Record(_, record)) => {
                    let Some(entry) = record.entry() else { continue };
                    for line in follow.take(&entry) {
                        shown.line(line)?;
                    }
                }
                Ok(Next::End(_)) => break Ok(()),
                Err(err) => break Err(err),
            }
        };
        if let Some(line) = follow.rest() {
            shown.line(line)?;
        }
        shown.flush()?;
        read.map_err(|err| {
            CliError::new(format!("cannot read the log of {}: {err}", place.store.display()))
        })?;
        if !args.follow {
            return Ok(ExitCode::SUCCESS);
        }
        shown.keep = None;
        if !still_read(FOLLOW_EVERY) {
            return Ok(ExitCode::SUCCESS);
        }
    }
}

/// Lets `wait` pass. Whether somebody still reads our output then: without events to write, a closed
/// pipe would go unnoticed.
fn still_read(wait: Duration) -> bool {
    let out = io::stdout();
    let mut polled = [PollFd::new(&out, PollFlags::empty())];
    let timeout = Timespec { tv_sec: 0, tv_nsec: i64::from(wait.subsec_nanos()) };
    !matches!(poll(&mut polled, Some(&timeout)), Ok(1..))
}

/// The moment `--since` names.
fn since(name: &str) -> Result<Moment, CliError> {
    moment::parse(name.as_bytes(), output::now()).ok_or_else(|| {
        CliError::new(format!(
            "{name:?} is no moment: give @SEQUENCE, a time such as 2024-01-15T10:00:00Z, or 10min-ago"
        ))
    })
}

/// Where lines go: straight out, or held back until it is known which are the last.
struct Shown<W: Write> {
    out: W,
    json: bool,
    held: VecDeque<Line>,
    keep: Option<usize>,
}

impl<W: Write> Shown<W> {
    fn line(&mut self, line: Line) -> io::Result<()> {
        let Some(keep) = self.keep else { return self.print(&line) };
        if keep == 0 {
            return Ok(());
        }
        if self.held.len() >= keep {
            self.held.pop_front();
        }
        self.held.push_back(line);
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        for line in std::mem::take(&mut self.held) {
            self.print(&line)?;
        }
        self.out.flush()
    }

    fn print(&mut self, line: &Line) -> io::Result<()> {
        if self.json {
            serde_json::to_writer(&mut self.out, line)?;
            return writeln!(self.out);
        }
        let who = match (&*line.agent, &*line.exe) {
            ("", "") if line.pid == 0 => "unknown".to_owned(),
            ("", exe) => exe.rsplit('/').next().unwrap_or(exe).to_owned(),
            (agent, _) => agent.to_owned(),
        };
        write!(
            self.out,
            "{:>8}  {}  uid {} {who}[{}]{}  {} {}",
            line.seq,
            line.time,
            line.uid,
            line.pid,
            if line.ambiguous { "?" } else { "" },
            line.what,
            line.event.as_ref().map_or(&line.path, |event| &event.kind)
        )?;
        if let Some(to) = &line.to {
            write!(self.out, " -> {to}")?;
        }
        if !line.detail.is_empty() {
            write!(self.out, "  ({})", line.detail)?;
        }
        writeln!(self.out)
    }
}

/// One line of output. Names are stable: scripts read them.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize)]
struct Line {
    seq: u64,
    time: String,
    uid: u32,
    gid: u32,
    /// 0: not known.
    pid: u32,
    exe: String,
    cmdline: Vec<String>,
    cgroup: String,
    agent: String,
    session: String,
    /// The caller may not be who wrote the bytes (write-back of a mapping).
    ambiguous: bool,
    what: &'static str,
    /// Inode it is about.
    ino: u64,
    /// Path in the project; bytes that are not printable UTF-8 are written as `\xNN`.
    path: String,
    /// The new path of a rename or exchange, the new name of a link, the target of a symbolic link.
    #[serde(skip_serializing_if = "Option::is_none")]
    to: Option<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    detail: String,
    /// Bytes written, and in how many writes.
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    writes: Option<u64>,
    /// What somebody else told of; then `path` is empty.
    #[serde(skip_serializing_if = "Option::is_none")]
    event: Option<ForeignEvent>,
}

/// An event that somebody else told of.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
struct ForeignEvent {
    id: String,
    kind: String,
    aggregate: String,
    /// When it happened, as they say.
    time: String,
    /// Where it was read, if it was imported.
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    offset: Option<u64>,
    /// It was imported, and nothing vouched for it.
    unverified: bool,
}

impl ForeignEvent {
    fn of(foreign: &Foreign<'_>) -> Self {
        Self {
            id: output::printable(foreign.id),
            kind: output::printable(foreign.kind),
            aggregate: output::printable(foreign.aggregate),
            time: output::time(foreign.time),
            file: foreign.source.map(|source| output::printable(source.file)),
            offset: foreign.source.map(|source| source.offset),
            unverified: foreign.source.is_some_and(|source| !source.verified),
        }
    }
}

/// Who did something, by what was found out last.
#[derive(Debug, Default)]
struct Actors {
    known: FxHashMap<ActorId, Actor>,
    /// How many of the notes that come were read already.
    ahead: u64,
}

impl Actors {
    fn read_ahead(&mut self, id: ActorId, actor: Actor) {
        self.known.insert(id, actor);
        self.ahead += 1;
    }

    fn read(&mut self, id: ActorId, actor: &Actor) {
        match self.ahead {
            0 => drop(self.known.insert(id, actor.clone())),
            _ => self.ahead -= 1,
        }
    }
}

/// Follows names through the log and turns what concerns a path into lines.
struct Follow {
    names: Names,
    actors: Actors,
    under: Vec<u8>,
    since: Option<Moment>,
    fine: bool,
    /// The last changes were made by importing an event that is still to come.
    imported: bool,
    /// Writes to one file that may have more of the same behind them.
    writes: Option<(Ino, ActorId, Line)>,
}

impl Follow {
    fn new(under: Vec<u8>, since: Option<Moment>, fine: bool) -> Self {
        Self {
            names: Names::default(),
            actors: Actors::default(),
            under,
            since,
            fine,
            imported: false,
            writes: None,
        }
    }

    /// The lines that are complete once `entry` is known.
    fn take(&mut self, entry: &Entry<'_>) -> Vec<Line> {
        let mut lines = Vec::new();
        match entry {
            Entry::Note(Note::Actor { id, actor }) => {
                self.actors.read(*id, actor);
            }
            Entry::Note(Note::Version { ino, .. }) => {
                if self.writes.as_ref().is_some_and(|(written, ..)| written == ino) {
                    lines.extend(self.rest());
                }
            }
            Entry::Note(_) => (),
            Entry::Event(event) => {
                let line = self.line(event);
                if let Change::Write { ino, data, .. } = event.change
                    && !self.fine
                    && let Some((written, actor, held)) = &mut self.writes
                    && (*written, *actor) == (ino, event.actor)
                    && line.is_some()
                {
                    held.seq = event.seq.0;
                    held.time = output::time(event.time);
                    held.bytes = held.bytes.map(|bytes| bytes + data.len());
                    held.writes = held.writes.map(|writes| writes + 1);
                    return lines;
                }
                lines.extend(self.rest());
                match line {
                    Some(line) if line.writes.is_some() && !self.fine => {
                        if let Change::Write { ino, .. } = event.change {
                            self.writes = Some((ino, event.actor, line));
                        }
                    }
                    line => lines.extend(line.map(finish)),
                }
            }
        }
        lines
    }

    /// The writes that were held back.
    fn rest(&mut self) -> Option<Line> {
        self.writes.take().map(|(.., line)| finish(line))
    }

    /// What to say of `event`, if it concerns the path; follows its names in any case.
    fn line(&mut self, event: &Event<'_>) -> Option<Line> {
        let told = self.tell(event);
        self.imported = event.unique == Origin::IMPORTED;
        let told = told.filter(|told| {
            self.concerns(&told.path) || told.to.as_ref().is_some_and(|to| self.concerns(to))
        })?;
        let wanted = match self.since {
            None => true,
            Some(Moment::After(seq)) => event.seq > seq,
            Some(Moment::At(time) | Moment::Ago(time)) => event.time > time,
        };
        if !wanted {
            return None;
        }
        let actor = self.actors.known.get(&event.actor).cloned().unwrap_or_default();
        let text = |bytes: &[u8]| output::printable(bytes);
        Some(Line {
            seq: event.seq.0,
            time: output::time(event.time),
            uid: actor.uid,
            gid: actor.gid,
            pid: actor.pid,
            exe: text(&actor.exe),
            cmdline: actor
                .cmdline
                .split(|&byte| byte == 0)
                .filter(|word| !word.is_empty())
                .map(text)
                .collect(),
            cgroup: text(&actor.cgroup),
            agent: text(&actor.agent),
            session: text(&actor.session),
            ambiguous: actor.ambiguous,
            what: told.what,
            ino: told.ino.0,
            path: if told.event.is_some() { String::new() } else { shown(&told.path) },
            to: told.target.or_else(|| told.to.as_deref().map(shown)),
            detail: told.detail,
            bytes: told.bytes,
            writes: told.bytes.map(|_| 1),
            event: told.event,
        })
    }

    fn concerns(&self, path: &[u8]) -> bool {
        self.under.is_empty()
            || path
                .strip_prefix(&self.under[..])
                .is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
    }

    /// What happened, in words, with paths as they were when it did; `None` for what shows in no tree.
    fn tell(&mut self, event: &Event<'_>) -> Option<Told> {
        let made = Ino(event.seq.0);
        let names = &mut self.names;
        let told = |what, ino, path| Told { what, ino, path, ..Told::default() };
        Some(match &event.change {
            Change::Mkfs { .. } => told("make store", made, Vec::new()),
            Change::Create { parent, name, mode, target, .. } => {
                names.add(made, *parent, name);
                let what = match mode & 0o170_000 {
                    0o040_000 => "mkdir",
                    0o120_000 => "symlink",
                    0o100_000 => "create",
                    _ => "mknod",
                };
                let target = (!target.is_empty()).then(|| output::printable(target));
                Told { target, ..told(what, made, names.child(*parent, name)) }
            }
            Change::Tmpfile { .. } if self.fine => {
                told("create nameless", made, b"(nameless)".to_vec())
            }
            Change::Tmpfile { .. } => return None,
            Change::Link { ino, parent, name } => {
                let path = names.path(*ino);
                names.add(*ino, *parent, name);
                Told { to: Some(names.child(*parent, name)), ..told("link", *ino, path) }
            }
            Change::Unlink { parent, name, ino } => {
                let path = names.child(*parent, name);
                names.remove(*ino, *parent, name);
                told("remove", *ino, path)
            }
            Change::Rename { parent, name, new_parent, new_name, ino, replaced } => {
                let path = names.child(*parent, name);
                names.remove(*ino, *parent, name);
                if let Some(replaced) = replaced {
                    names.remove(*replaced, *new_parent, new_name);
                }
                names.add(*ino, *new_parent, new_name);
                let to = Some(names.child(*new_parent, new_name));
                let detail = if replaced.is_some() { "replacing" } else { "" }.to_owned();
                Told { to, detail, ..told("rename", *ino, path) }
            }
            Change::Exchange { parent, name, new_parent, new_name, ino, other } => {
                let path = names.child(*parent, name);
                let to = Some(names.child(*new_parent, new_name));
                names.remove(*ino, *parent, name);
                names.remove(*other, *new_parent, new_name);
                names.add(*ino, *new_parent, new_name);
                names.add(*other, *parent, name);
                Told { to, ..told("exchange", *ino, path) }
            }
            Change::SetAttr { ino, set, .. } => {
                let mut said = Vec::new();
                said.extend(set.size.map(|size| format!("size {size}")));
                said.extend(set.mode.map(|mode| format!("mode {:04o}", mode & 0o7777)));
                said.extend(set.uid.map(|uid| format!("uid {uid}")));
                said.extend(set.gid.map(|gid| format!("gid {gid}")));
                said.extend(set.mtime.map(|mtime| format!("mtime {}", output::time(mtime))));
                let what = if set.size.is_some() { "truncate" } else { "set attributes" };
                Told { detail: said.join(", "), ..told(what, *ino, names.path(*ino)) }
            }
            Change::Write { ino, offset, data, ends, .. } => {
                let detail = if self.fine {
                    format!("{} bytes at {offset}{}", data.len(), end_of_file(*ends))
                } else {
                    String::new()
                };
                Told { bytes: Some(data.len()), detail, ..told("write", *ino, names.path(*ino)) }
            }
            Change::Fallocate { ino, how, offset, len, .. } => {
                let what = match how {
                    Allocation::Reserve { .. } => "allocate",
                    Allocation::Punch => "punch",
                    Allocation::Zero { .. } => "zero",
                };
                Told {
                    detail: format!("{len} bytes at {offset}"),
                    ..told(what, *ino, names.path(*ino))
                }
            }
            Change::Clone { src, dst, dst_offset, len, ends, .. } => Told {
                detail: format!(
                    "{len} bytes of {} to {dst_offset}{}",
                    shown(&names.path(*src)),
                    end_of_file(*ends)
                ),
                ..told("copy", *dst, names.path(*dst))
            },
            Change::SetXattr { ino, name, .. } => Told {
                detail: output::printable(name),
                ..told("set attribute", *ino, names.path(*ino))
            },
            Change::RemoveXattr { ino, name } => Told {
                detail: output::printable(name),
                ..told("remove attribute", *ino, names.path(*ino))
            },
            Change::End { ino } => {
                names.forget(*ino);
                if !self.fine {
                    return None;
                }
                told("end", *ino, b"(nameless)".to_vec())
            }
            Change::Foreign(foreign) => {
                let event = ForeignEvent::of(foreign);
                // What it changed has just been shown.
                if self.imported && !self.fine && !event.unverified {
                    return None;
                }
                let detail =
                    format!("{}{}", event.id, if event.unverified { ", unverified" } else { "" });
                Told { detail, event: Some(event), ..told("event", made, Vec::new()) }
            }
        })
    }
}

/// Says how much was written once no more of it follows.
fn finish(mut line: Line) -> Line {
    if let (Some(bytes), Some(writes)) = (line.bytes, line.writes)
        && line.detail.is_empty()
    {
        let plural = if writes == 1 { "" } else { "s" };
        line.detail = format!("{} in {writes} write{plural}", output::size(bytes));
    }
    line
}

/// What there is to say of where content ends.
const fn end_of_file(ends: bool) -> &'static str {
    if ends { ", where the file ends" } else { "" }
}

fn shown(path: &[u8]) -> String {
    if path.is_empty() { ".".to_owned() } else { output::printable(path) }
}

#[derive(Debug)]
struct Told {
    what: &'static str,
    ino: Ino,
    path: Vec<u8>,
    to: Option<Vec<u8>>,
    target: Option<String>,
    detail: String,
    bytes: Option<u64>,
    event: Option<ForeignEvent>,
}

impl Default for Told {
    fn default() -> Self {
        Self {
            what: "",
            ino: Ino::ROOT,
            path: Vec::new(),
            to: None,
            target: None,
            detail: String::new(),
            bytes: None,
            event: None,
        }
    }
}

/// A directory, and a name in it.
type Link = (Ino, Box<[u8]>);

/// The names every inode has, as far as the log was read.
#[derive(Debug, Default)]
struct Names {
    of: FxHashMap<Ino, Vec<Link>>,
}

impl Names {
    fn add(&mut self, ino: Ino, parent: Ino, name: &[u8]) {
        self.of.entry(ino).or_default().push((parent, name.into()));
    }

    fn remove(&mut self, ino: Ino, parent: Ino, name: &[u8]) {
        if let Some(names) = self.of.get_mut(&ino) {
            names.retain(|(dir, there)| (*dir, &**there) != (parent, name));
        }
    }

    fn forget(&mut self, ino: Ino) {
        self.of.remove(&ino);
    }

    /// Path of `name` in `parent`.
    fn child(&self, parent: Ino, name: &[u8]) -> Vec<u8> {
        let mut path = self.path(parent);
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend(name);
        path
    }

    /// Path of `ino` by the name it got last, relative to the root of the tree (which is empty).
    fn path(&self, ino: Ino) -> Vec<u8> {
        /// Longer chains of directories can only come from a damaged log.
        const DEPTH_MAX: usize = 4096;
        let mut parts: Vec<&[u8]> = Vec::new();
        let mut at = ino;
        while at != Ino::ROOT && parts.len() < DEPTH_MAX {
            match self.of.get(&at).and_then(|names| names.last()) {
                Some((parent, name)) => {
                    parts.push(name);
                    at = *parent;
                }
                None => {
                    parts.push(b"(nameless)");
                    break;
                }
            }
        }
        parts.reverse();
        parts.join(&b'/')
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::event::{Data, Place, Seq, Timestamp};

    fn event(seq: u64, change: Change<'_>) -> Entry<'_> {
        let time = Timestamp(i64::try_from(seq).unwrap() * 1_000_000_000);
        Entry::Event(Event { seq: Seq(seq), time, actor: ActorId(1), unique: 0, change })
    }

    fn create(seq: u64, parent: u64, name: &str, mode: u32) -> Entry<'_> {
        let change = Change::Create {
            parent: Ino(parent),
            name: name.as_bytes(),
            mode,
            uid: 0,
            gid: 0,
            rdev: 0,
            target: b"",
            xattrs: Vec::new(),
        };
        event(seq, change)
    }

    fn write(seq: u64, ino: u64) -> Entry<'static> {
        let place = Place::Inline(b"12345");
        let data = Data { hash: [0; 32], salt: [0; 16], place };
        let change = Change::Write {
            ino: Ino(ino),
            offset: 0,
            data,
            ends: false,
            mode: None,
            drop_capability: false,
        };
        event(seq, change)
    }

    fn tell(entries: &[Entry<'_>], under: &str) -> Vec<String> {
        let mut follow = Follow::new(under.as_bytes().to_vec(), None, false);
        let mut lines: Vec<Line> = entries.iter().flat_map(|entry| follow.take(entry)).collect();
        lines.extend(follow.rest());
        lines
            .into_iter()
            .map(|line| format!("{} {} {} {}", line.seq, line.what, line.path, line.detail))
            .collect()
    }

    #[test]
    fn paths_are_those_of_the_time_of_the_event() {
        let rename = Change::Rename {
            parent: Ino::ROOT,
            name: b"src",
            new_parent: Ino::ROOT,
            new_name: b"lib",
            ino: Ino(3),
            replaced: None,
        };
        let entries = [
            create(3, 2, "src", 0o040_755),
            create(4, 3, "a.rs", 0o100_644),
            event(5, rename),
            write(6, 4),
        ];
        let told = tell(&entries, "");
        assert_eq!(
            told,
            [
                "3 mkdir src ",
                "4 create src/a.rs ",
                "5 rename src ",
                "6 write lib/a.rs 5 B in 1 write"
            ]
        );
    }

    #[test]
    fn writes_that_follow_each_other_are_one_line_until_a_version_ends() {
        let version = || Entry::Note(Note::Version { ino: Ino(3), actor: ActorId(1) });
        let entries =
            [create(3, 2, "a", 0o100_644), write(4, 3), write(5, 3), version(), write(6, 3)];
        let told = tell(&entries, "a");
        assert_eq!(told, ["3 create a ", "5 write a 10 B in 2 writes", "6 write a 5 B in 1 write"]);
    }

    #[test]
    fn who_did_something_is_told_by_what_was_found_out_last() {
        let note = |agent: &str| {
            let actor = Actor { agent: agent.into(), pid: 7, ..Actor::default() };
            Entry::Note(Note::Actor { id: ActorId(1), actor })
        };
        let entries = [note(""), create(3, 2, "a", 0o100_644), note("builder"), write(4, 3)];
        let mut follow = Follow::new(Vec::new(), None, true);
        let mut agents = |ahead: &[Entry<'_>], entries: &[Entry<'_>]| -> Vec<String> {
            for entry in ahead {
                if let Entry::Note(Note::Actor { id, actor }) = entry {
                    follow.actors.read_ahead(*id, actor.clone());
                }
            }
            let lines = entries.iter().flat_map(|entry| follow.take(entry));
            lines.map(|line| line.agent).collect()
        };
        assert_eq!(agents(&entries, &entries), ["builder", "builder"]);
        // One that came while it was read counts from there on.
        assert_eq!(agents(&[], &[write(5, 3), note("other"), write(6, 3)]), ["builder", "other"]);
    }

    #[test]
    fn a_path_is_concerned_by_what_is_at_or_below_it_and_by_nothing_beside_it() {
        let entries = [
            create(3, 2, "a", 0o040_755),
            create(4, 2, "ab", 0o100_644),
            create(5, 3, "b", 0o100_644),
        ];
        assert_eq!(tell(&entries, "a"), ["3 mkdir a ", "5 create a/b "]);
    }
}
