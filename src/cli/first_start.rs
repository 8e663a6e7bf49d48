//! The first start of `serve`: what was there before is taken over, the events of a Python bridge or the project's files.
//!
//! ```text
//!  no store yet: the mark is made -> what a bridge left -> its events, if there are any
//!                                                             |
//!                  the mark goes <-- the project's files <----+-- they make no tree
//! ```
//!
//! The mark says how far it is: `files` once the project's files are begun, nothing before that, `done` where it could not be
//! taken away.
//!
//! Where no known secret vouches for some of the old events, a note stays in the store. At a later start that knows more, and
//! if nothing has happened since, the store is set aside and the first start done anew: only so do old events come
//! before all others. Nothing has if the first start made the store and came to its end by itself, and it was closed since
//! with the same last event and without a label; then it is nobody's work that is set aside. Else each start says what to do,
//! and the next one tries again: a store that was not closed may be by then.
//!
//! ```text
//!  given DIGEST        of the secrets that were known, or brought no more; or `all` where none is needed
//!  taken N             records that were taken
//!  left-out N          records that were not
//!  last N              the last event of the first start; 0 if it was interrupted, for who knows who was in the store since
//! ```
//!
//! Invariants: what was there before is only read. A start that finds the mark goes on where an earlier one was stopped.

use std::fs::{Metadata, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::api::{Stage, Teller};
use crate::legacy::import::{self as legacy, ImportError, Part};
use crate::store::disk::{Disk, Lock, Real};
use crate::tree::{Ino, Seq, Timestamp, Tree};

use super::progress::Progress;
use super::{CliError, bridge, import, output, status, store};

/// Beside the store, from before it is made until all is taken over.
const MARK: &str = "importing";
/// What it holds once the project's files are begun: the tree is not empty then, and they are to be gone on with.
const FILES: &[u8] = b"files";
/// What it holds once all is taken over, if it is still there.
const DONE: &[u8] = b"done";
/// What a store has from its beginning, and what whoever opens it locks.
const SUPER: &str = "super";
const LOCK: &str = "LOCK";
/// In the store, as long as old events are left out of it.
const NOTE: &str = "unimported";
/// Stores that were set aside are numbered up to here.
const ASIDE_MAX: u32 = 100;
/// Where the bridge's own data was in its image.
const OLD_DATA: &str = "/app/data";
/// How many findings of an import are logged.
const FINDINGS_MAX: usize = 20;

/// What was there before the store.
pub(super) struct Before<'a> {
    events: &'a Path,
    project: &'a Path,
    store: &'a Path,
    /// What a Python bridge left.
    parts: Vec<Part>,
    options: legacy::Options,
    /// There is no store yet: this start makes it.
    fresh: bool,
}

impl<'a> Before<'a> {
    /// Looks for what a bridge left in `events`, and below its working directory where that is mounted; if there is a
    /// store already, only for what was left out of it. `project` is where files may be.
    ///
    /// # Errors
    ///
    /// `store` is none, or nothing can be made beside it.
    pub(super) fn find(
        events: &'a Path,
        project: &'a Path,
        store: &'a Path,
        options: legacy::Options,
    ) -> Result<Self, CliError> {
        let fresh = !store.join(SUPER).exists();
        let mut before = Self { events, project, store, parts: Vec::new(), options, fresh };
        if !before.begins()?
            && let Some(left) = LeftOut::read(store)
            && before.vouches_now(left)
        {
            before.fresh = true;
            before.begins()?;
        }
        if before.is_to_be_taken_over() {
            before.parts = before.left_by_bridge();
        }
        Ok(before)
    }

    /// When the first of the old events was.
    pub(super) fn first_time(&self) -> Option<Timestamp> {
        legacy::first_time(&self.parts, &self.options)
    }

    /// Whether there is something to take over, or to go on with.
    pub(super) fn is_to_be_taken_over(&self) -> bool {
        std::fs::read(self.mark()).is_ok_and(|mark| !mark.starts_with(DONE))
    }

    /// Takes it over into `tree`, and tells `teller` how far that is; ends early when it is to `stop`.
    pub(super) fn take_over(&self, tree: &Tree, teller: &Teller, stop: &store::Stop, quiet: bool) {
        let taking = Taking { before: self, tree, teller, stop, quiet };
        // Then the events are all there, and what is in the tree is a part of the project.
        let begun = std::fs::read(self.mark()).is_ok_and(|mark| mark == FILES);
        let mut taken = begun || self.parts.is_empty() || taking.events();
        if taken && (begun || self.parts.is_empty() || is_empty(tree)) {
            taken = match std::fs::metadata(self.project) {
                Ok(meta) if meta.is_dir() => {
                    if let Err(err) = std::fs::write(self.mark(), FILES) {
                        tracing::warn!("cannot write to {}: {err}", self.mark().display());
                    }
                    taking.files(&meta)
                }
                _ => true,
            };
        }
        if taken && !stop.asked() {
            if let Some(left) = LeftOut::read(self.store) {
                let left = LeftOut { last: self.last(tree), ..left };
                left.keep(self.store);
                self.warn_of(&left, self.fresh);
            }
            if let Err(err) = finish(tree, self.events) {
                tracing::warn!("{} stays: {err}", self.mark().display());
            }
        }
    }

    /// The event that is the last one as long as nobody has worked in `tree`.
    fn last(&self, tree: &Tree) -> u64 {
        if self.fresh { tree.last().0 } else { 0 }
    }

    fn mark(&self) -> PathBuf {
        self.events.join(MARK)
    }

    /// Whether there is no store yet, or one whose first start was cut short. Leaves a mark that there is one
    /// under way now.
    fn begins(&self) -> Result<bool, CliError> {
        let mark = self.mark();
        store::check(self.store)?;
        if self.store.join(SUPER).exists() {
            return Ok(self.is_to_be_taken_over());
        }
        std::fs::write(&mark, b"").map_err(|err| {
            CliError::new(format!("cannot write to {}: {err}", self.events.display()))
        })?;
        Ok(true)
    }

    /// Whether old events that were left out are to be taken after all, and the store is set aside for that. Says what
    /// to do if not.
    fn vouches_now(&self, mut left: LeftOut) -> bool {
        // Nobody else opens it until it has another name.
        let held = Real::read_only(self.store).and_then(|disk| disk.lock(LOCK));
        let untouched = matches!(held, Ok(Lock::Held(_)))
            && status::is_closed_after(self.store, Seq(left.last));
        let given = given(&self.options);
        if given != left.given {
            // The old log is read for that, so not at every start.
            let taken = legacy::taken(&self.left_by_bridge(), &self.options);
            if taken <= left.taken {
                // They bring no more, whatever becomes of the store.
                left.given = given;
                left.keep(self.store);
            } else if untouched {
                match self.set_aside() {
                    Ok(aside) => {
                        tracing::warn!(
                            "{taken} old events can be taken now instead of {}: the first start is done anew; nothing \
                             has happened in its store, which is {} now and may be removed",
                            left.taken,
                            aside.display()
                        );
                        return true;
                    }
                    Err(err) => {
                        tracing::warn!("cannot set {} aside: {err}", self.store.display());
                    }
                }
            }
        }
        self.warn_of(&left, untouched);
        false
    }

    /// Gives the store another name.
    fn set_aside(&self) -> io::Result<PathBuf> {
        let names = (1..=ASIDE_MAX).map(|number| self.events.join(format!("set-aside-{number}")));
        for aside in names {
            if aside.symlink_metadata().is_err() {
                std::fs::rename(self.store, &aside)?;
                return Ok(aside);
            }
        }
        Err(io::Error::other("too many were set aside before"))
    }

    /// Says that old events are left out, and what to do.
    fn warn_of(&self, left: &LeftOut, untouched: bool) {
        let records = left.left_out;
        let note = self.store.join(NOTE);
        if untouched {
            tracing::warn!(
                "{records} records of the Python bridge were left out, no known secret vouches for them: start again with \
                 theirs in {}, or with LIGHTHOUSE_IMPORT_UNVERIFIED=1, before anything is changed; if they are not \
                 wanted, remove {}",
                bridge::SECRET,
                note.display()
            );
            return;
        }
        let parts = self.left_by_bridge();
        let place = parts.iter().find_map(|part| match part {
            Part::Log(dir, _) => Some(dir.as_path()),
            Part::Sqlite(_) | Part::Snapshots(_) => None,
        });
        match place {
            Some(place) => tracing::warn!(
                "{records} records of the Python bridge were left out, no known secret vouched for them, and the tree has \
                 changed since, or its server was not stopped cleanly: stop this server and run `lighthouse-fuse import \
                 --unverified {} {}`, after which the files they name are as they say and history/ has what is there now; \
                 if they are not wanted, remove {}",
                self.store.display(),
                place.display(),
                note.display()
            ),
            None => tracing::warn!(
                "{records} records of the Python bridge were left out, no known secret vouched for them, and its log is \
                 gone: bring it back, or remove {}",
                note.display()
            ),
        }
    }

    fn left_by_bridge(&self) -> Vec<Part> {
        let mut parts = Vec::new();
        for place in [self.events, Path::new(OLD_DATA)] {
            match legacy::recognise(place) {
                Ok(found) => parts.extend(found),
                Err(err) if err.kind() == io::ErrorKind::NotFound => (),
                Err(err) => {
                    tracing::warn!("cannot look for old events in {}: {err}", place.display());
                }
            }
        }
        parts
    }
}

/// What decides which records are taken, as the note has it.
fn given(options: &legacy::Options) -> String {
    if options.unverified { "all".to_owned() } else { options.secrets.digest() }
}

/// The note about old events that were left out of a store.
#[derive(Debug, PartialEq)]
struct LeftOut {
    given: String,
    taken: u64,
    left_out: u64,
    last: u64,
}

impl LeftOut {
    fn read(store: &Path) -> Option<Self> {
        let text = std::fs::read_to_string(store.join(NOTE)).ok()?;
        // What cannot be read of it says that something was left out all the same.
        let value = |key: &str| {
            let mut lines = text.lines().filter_map(|line| line.split_once(' '));
            lines.find(|(name, _)| *name == key).map_or("", |(_, value)| value)
        };
        let number = |key: &str| value(key).parse::<u64>().unwrap_or(0);
        let (taken, left_out, last) = (number("taken"), number("left-out"), number("last"));
        Some(Self { given: value("given").to_owned(), taken, left_out, last })
    }

    fn keep(&self, store: &Path) {
        let Self { given, taken, left_out, last } = self;
        let text = format!("given {given}\ntaken {taken}\nleft-out {left_out}\nlast {last}\n");
        let (note, new) = (store.join(NOTE), store.join(format!("{NOTE}.new")));
        // Others need not try what the secret is.
        let opened =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new);
        let written = opened.and_then(|mut file| {
            file.write_all(text.as_bytes())?;
            file.sync_all()
        });
        let renamed = written.and_then(|()| std::fs::rename(&new, &note));
        if let Err(err) = renamed.and_then(|()| sync_names(store)) {
            tracing::warn!("cannot write to {}: {err}", note.display());
        }
    }
}

/// Takes the mark in `events` away once all that is in `tree` is on the disk, also where nobody waits for that otherwise: what
/// is gone for good says that all of it is there for good.
fn finish(tree: &Tree, events: &Path) -> io::Result<()> {
    tree.store().sync_now().map_err(io::Error::other)?;
    take_mark_away(events)
}

/// Takes the mark in `events` away. Once it is gone or says `done`, and that is durable, no start takes anything over what is
/// done in the tree from then on.
fn take_mark_away(events: &Path) -> io::Result<()> {
    let mark = events.join(MARK);
    // Nothing is cut off before it is written: on a full disk what is left would say that all is still to be done.
    let done = OpenOptions::new().write(true).open(&mark).and_then(|mut file| {
        file.write_all(DONE)?;
        file.set_len(DONE.len() as u64)?;
        file.sync_all()
    });
    let removed = match std::fs::remove_file(&mark) {
        Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    };
    let gone = removed.and_then(|()| sync_names(events));
    // Either will do.
    done.or(gone)
}

/// Makes durable which names there are in `directory`.
fn sync_names(directory: &Path) -> io::Result<()> {
    std::fs::File::open(directory)?.sync_all()
}

/// Takes the note away: all old events are in the store.
pub(super) fn nothing_is_left_out(store: &Path) {
    let note = store.join(NOTE);
    match std::fs::remove_file(&note) {
        Err(err) if err.kind() != io::ErrorKind::NotFound => {
            tracing::warn!("{} stays: {err}", note.display());
        }
        _ => (),
    }
}

/// Whether nothing is in the tree.
fn is_empty(tree: &Tree) -> bool {
    tree.inode(Ino::ROOT, Seq::NOW).is_ok_and(|root| root.entries == 0)
}

/// It is being taken over.
#[derive(Clone, Copy)]
struct Taking<'a> {
    before: &'a Before<'a>,
    tree: &'a Tree,
    teller: &'a Teller,
    stop: &'a store::Stop,
    quiet: bool,
}

impl Taking<'_> {
    /// Imports what a bridge left. Returns whether that is over; if not, the next start goes on with it.
    fn events(self) -> bool {
        let Self { before, tree, teller, stop, quiet } = self;
        let what = "the events of the Python bridge";
        teller.stage(Stage::Importing { what: what.to_owned(), done: 0, total: 0 });
        let tell = |done, total| {
            teller.stage(Stage::Importing { what: what.to_owned(), done, total });
        };
        let result = bridge::import_events(tree, &before.parts, &before.options, stop, quiet, tell);
        let (report, whole) = match result {
            Ok(report) => (report, true),
            Err(ImportError::Stopped(report)) => (*report, false),
            Err(ImportError::Store(refusal)) => {
                tracing::error!("cannot import {what}: {}", store::explain(&refusal));
                return false;
            }
        };
        for finding in report.findings.iter().take(FINDINGS_MAX) {
            tracing::warn!("{}: {}", finding.outcome.word(), finding.at);
        }
        tracing::info!(
            imported = report.imported,
            known = report.known,
            applied = report.applied,
            not_applied = report.not_applied,
            unverifiable = report.unverifiable,
            refused = report.refused,
            damaged = report.damaged,
            whole,
            "imported {what}"
        );
        match report.unverifiable {
            _ if !whole => (),
            0 => nothing_is_left_out(before.store),
            left_out => {
                let given = given(&before.options);
                let taken = legacy::taken(&before.parts, &before.options);
                LeftOut { given, taken, left_out, last: before.last(tree) }.keep(before.store);
            }
        }
        whole
    }

    /// Imports the project's files. Returns whether that is over.
    fn files(self, meta: &Metadata) -> bool {
        let Self { before, tree, teller, stop, quiet } = self;
        let source = before.project;
        let what = source.display().to_string();
        teller.stage(Stage::Importing { what: what.clone(), done: 0, total: 0 });
        let total = import::weigh(source, meta, stop);
        let teller = teller.clone();
        let progress = Progress::new("importing", total, quiet).telling(move |done, total| {
            teller.stage(Stage::Importing { what: what.clone(), done, total });
        });
        let say = |line: &str| tracing::warn!("{}", output::one_line(line));
        let (result, counts) = import::into_tree(tree, (source, meta), stop, progress, &say);
        if counts.left_out > 0 {
            tracing::warn!(
                "{} of {} were left out, or taken in part: bring them into the tree through the mount or over HTTP",
                import::entries(counts.left_out),
                source.display()
            );
        }
        match result {
            Ok(()) => {
                tracing::info!(
                    files = counts.changed,
                    bytes = counts.bytes,
                    "imported {}",
                    source.display()
                );
                true
            }
            Err(import::Stopped::Asked) => false,
            // The rest is there to work with; another try would overwrite what is done with it.
            Err(stopped) => {
                tracing::error!("{}", stopped.into_error(before.store, source));
                true
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::legacy::log::Secrets;
    use crate::store::sim::SimDisk;
    use crate::store::superblock::Shape;
    use crate::store::{self, CreateOptions, Durability, Store};

    #[test]
    fn a_note_is_read_as_it_was_kept() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(LeftOut::read(dir.path()), None);
        let left = LeftOut { given: "all".to_owned(), taken: 1, left_out: u64::MAX, last: 3 };
        left.keep(dir.path());
        assert_eq!(LeftOut::read(dir.path()), Some(left));
        nothing_is_left_out(dir.path());
        nothing_is_left_out(dir.path());
        assert_eq!(LeftOut::read(dir.path()), None);
    }

    #[test]
    fn the_mark_goes_also_where_it_cannot_be_written() {
        let dir = tempfile::tempdir().unwrap();
        let mark = dir.path().join(MARK);
        let is_there = || mark.symlink_metadata().is_ok();
        std::fs::write(&mark, FILES).unwrap();
        take_mark_away(dir.path()).unwrap();
        assert!(!is_there());
        // As on a full disk.
        std::os::unix::fs::symlink("/dev/full", &mark).unwrap();
        take_mark_away(dir.path()).unwrap();
        assert!(!is_there());
        take_mark_away(dir.path()).unwrap();
        // What can be neither written nor removed is said.
        std::fs::create_dir(&mark).unwrap();
        take_mark_away(dir.path()).unwrap_err();
        assert!(is_there());
    }

    #[test]
    fn whoever_loses_power_behind_the_first_start_has_all_of_it_whatever_the_durability() {
        let mark = tempfile::tempdir().unwrap();
        std::fs::write(mark.path().join(MARK), FILES).unwrap();
        let disk = SimDisk::new(1 << 30);
        let shape = Shape { segment_len: 64 << 10, ..Shape::default() };
        let create = CreateOptions { shape, ..CreateOptions::default() };
        let open = store::OpenOptions {
            durability: Durability::Async,
            sync_interval: None,
            memory: 8 << 20,
            ..store::OpenOptions::default()
        };
        let store = Store::create_on(Arc::new(disk.clone()), &create, &open).unwrap();
        store.label(b"imported", None).unwrap();
        let tree = Tree::new(Arc::new(store));
        finish(&tree, mark.path()).unwrap();
        assert!(!mark.path().join(MARK).exists());
        for seed in 0..20 {
            let disk = Arc::new(disk.after_power_cut(seed));
            let labels = Store::open_on(disk, &open).unwrap().labels().unwrap();
            assert_eq!(labels.len(), 1, "seed {seed}");
        }
    }

    #[test]
    fn secrets_are_told_apart_and_not_given_away() {
        let given = |all: &[&str], unverified| {
            let mut secrets = Secrets::default();
            all.iter().for_each(|secret| secrets.add(secret.as_bytes()));
            given(&legacy::Options { secrets, unverified, ..legacy::Options::default() })
        };
        assert_eq!(given(&["one"], false), given(&["one"], false));
        assert_ne!(given(&["one"], false), given(&["two"], false));
        assert_ne!(given(&["one"], false), given(&["one", "two"], false));
        assert_ne!(given(&[], false), given(&[], true));
        assert!(!given(&["one"], false).contains("one"));
    }
}
