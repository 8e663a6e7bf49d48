//! Old events that the first start left out, and what a later one does about them.
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

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::cli::{bridge, status};
use crate::legacy::import::{self as legacy, Part};
use crate::store::disk::{Disk, Lock, Real};
use crate::tree::Seq;

use super::{Before, sync_names};

/// In the store, as long as old events are left out of it.
const NOTE: &str = "unimported";
/// What whoever opens a store locks.
const LOCK: &str = "LOCK";
/// Stores that were set aside are numbered up to here.
const ASIDE_MAX: u32 = 100;

impl Before<'_> {
    /// Whether old events that were left out are to be taken after all, and the store is set aside for that. Says what
    /// to do if not.
    pub(super) fn vouches_now(&self, mut left: LeftOut) -> bool {
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
    pub(super) fn warn_of(&self, left: &LeftOut, untouched: bool) {
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
}

/// What decides which records are taken, as the note has it.
pub(super) fn given(options: &legacy::Options) -> String {
    if options.unverified { "all".to_owned() } else { options.secrets.digest() }
}

/// The note about old events that were left out of a store.
#[derive(Debug, PartialEq)]
pub(super) struct LeftOut {
    pub(super) given: String,
    pub(super) taken: u64,
    pub(super) left_out: u64,
    pub(super) last: u64,
}

impl LeftOut {
    pub(super) fn read(store: &Path) -> Option<Self> {
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

    pub(super) fn keep(&self, store: &Path) {
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

/// Takes the note away: all old events are in the store.
pub(in crate::cli) fn nothing_is_left_out(store: &Path) {
    let note = store.join(NOTE);
    match std::fs::remove_file(&note) {
        Err(err) if err.kind() != io::ErrorKind::NotFound => {
            tracing::warn!("{} stays: {err}", note.display());
        }
        _ => (),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::legacy::log::Secrets;

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
