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
//! What no known secret vouched for is seen to by [`left_out`].
//!
//! Invariants: what was there before is only read. A start that finds the mark goes on where an earlier one was stopped.

mod left_out;

use std::fs::{Metadata, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::api::{Stage, Teller};
use crate::legacy::import::{self as legacy, ImportError, Part};
use crate::tree::{Ino, Seq, Timestamp, Tree};

use super::progress::Progress;
use super::{CliError, bridge, import, output, store};
use left_out::{LeftOut, given};

pub(super) use left_out::nothing_is_left_out;

/// Beside the store, from before it is made until all is taken over.
const MARK: &str = "importing";
/// What it holds once the project's files are begun: the tree is not empty then, and they are to be gone on with.
const FILES: &[u8] = b"files";
/// What it holds once all is taken over, if it is still there.
const DONE: &[u8] = b"done";
/// What a store has from its beginning.
const SUPER: &str = "super";
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
    use crate::store::sim::SimDisk;
    use crate::store::superblock::Shape;
    use crate::store::{self, CreateOptions, Durability, Store};

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
}
