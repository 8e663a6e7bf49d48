//! The first start of `serve`: what was there before is taken over, the events of a Python bridge or the project's files.
//!
//! ```text
//!  no store yet: the mark is made -> what a bridge left -> its events, if there are any
//!                                                             |
//!                  the mark goes <-- the project's files <----+-- they make no tree
//! ```
//!
//! Invariants: what was there before is only read. A start that finds the mark goes on where an earlier one was stopped.

use std::fs::Metadata;
use std::io;
use std::path::{Path, PathBuf};

use crate::api::{Stage, Teller};
use crate::legacy::import::{self as legacy, ImportError, Part};
use crate::tree::{Ino, Seq, Timestamp, Tree};

use super::progress::Progress;
use super::{CliError, bridge, import, output, store};

/// Beside the store, from before it is made until all is taken over.
const MARK: &str = "importing";
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
}

impl<'a> Before<'a> {
    /// Looks for what a bridge left in `events`, and below its working directory where that is mounted; if there is a
    /// store already that has it, nothing is looked for. `project` is where files may be.
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
        let mut before = Self { events, project, store, parts: Vec::new(), options };
        if before.begins()? {
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
        self.mark().exists()
    }

    /// Takes it over into `tree`, and tells `teller` how far that is; ends early when it is to `stop`.
    pub(super) fn take_over(&self, tree: &Tree, teller: &Teller, stop: &store::Stop, quiet: bool) {
        let taking = Taking { before: self, tree, teller, stop, quiet };
        let mut taken = self.parts.is_empty() || taking.events();
        if taken && (self.parts.is_empty() || is_empty(tree)) {
            taken = match std::fs::metadata(self.project) {
                Ok(meta) if meta.is_dir() => taking.files(&meta),
                _ => true,
            };
        }
        if taken && !stop.asked() {
            // Kept, it would only make the next start look for what is there already.
            if let Err(err) = std::fs::remove_file(self.mark()) {
                tracing::warn!("{} stays: {err}", self.mark().display());
            }
        }
    }

    fn mark(&self) -> PathBuf {
        self.events.join(MARK)
    }

    /// Whether there is no store yet, or one whose first start was cut short. Leaves a mark that there is one
    /// under way now.
    fn begins(&self) -> Result<bool, CliError> {
        let mark = self.mark();
        store::check(self.store)?;
        if self.store.join("super").exists() {
            return Ok(mark.exists());
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
        if report.unverifiable > 0 {
            tracing::warn!(
                "no known secret vouches for {} records: give theirs in {}, or take them with `lighthouse-fuse import \
                 --unverified`",
                report.unverifiable,
                bridge::SECRET
            );
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
