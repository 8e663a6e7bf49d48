//! Files that were written and whose version has not been marked yet.
//!
//! A version of a file ends when a handle that wrote is closed, at fsync, after 2 seconds of silence, every
//! 64 MiB, before somebody else writes, and before a rename over a name, a link or a label. Each end is a
//! note in the log, which changes no tree.
//!
//! Invariants: a file is here from its first write after a mark until the next mark; marking twice in a row
//! notes nothing down the second time.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustc_hash::FxHashMap;

use crate::tree::{ActorId, Ino};

/// How long nothing is written until that alone ends a version.
const SILENCE: Duration = Duration::from_secs(2);
/// How many bytes one version takes at most, before it is marked.
const BYTES_MAX: u64 = 64 << 20;
/// Files are spread over so many locks.
const SHARDS: usize = 16;

/// A version that is being written.
#[derive(Clone, Copy, Debug)]
struct Draft {
    actor: ActorId,
    bytes: u64,
    written: Instant,
}

/// All versions that are being written.
#[derive(Debug, Default)]
pub(crate) struct Drafts {
    shards: [Mutex<FxHashMap<u64, Draft>>; SHARDS],
    count: AtomicUsize,
}

impl Drafts {
    fn shard(&self, ino: Ino) -> &Mutex<FxHashMap<u64, Draft>> {
        &self.shards[ino.0 as usize % SHARDS]
    }

    /// Whether there is none: most often, and told without a lock.
    pub(crate) fn is_empty(&self) -> bool {
        self.count.load(Ordering::Relaxed) == 0
    }

    /// `actor` is about to write `ino`: ends the version of somebody else, and tells who that was.
    pub(crate) fn before_write(&self, ino: Ino, actor: ActorId) -> Option<ActorId> {
        self.take_if(ino, |draft| draft.actor != actor)
    }

    /// `actor` wrote `bytes` bytes. Returns whether that was enough for one version, which is then over. Who
    /// wrote pages back from the cache is not known, so such a write is part of the version it meets.
    pub(crate) fn wrote(&self, ino: Ino, actor: ActorId, bytes: u64) -> Option<ActorId> {
        let now = Instant::now();
        let mut drafts = self.shard(ino).lock();
        let draft = drafts.entry(ino.0).or_insert_with(|| {
            self.count.fetch_add(1, Ordering::Relaxed);
            Draft { actor, bytes: 0, written: now }
        });
        draft.bytes = draft.bytes.saturating_add(bytes);
        draft.written = now;
        let (writer, full) = (draft.actor, draft.bytes >= BYTES_MAX);
        if full {
            drafts.remove(&ino.0);
            self.count.fetch_sub(1, Ordering::Relaxed);
        }
        full.then_some(writer)
    }

    /// Ends the version of `ino`, and tells whose it was.
    pub(crate) fn take(&self, ino: Ino) -> Option<ActorId> {
        self.take_if(ino, |_| true)
    }

    fn take_if(&self, ino: Ino, ends: impl FnOnce(&Draft) -> bool) -> Option<ActorId> {
        if self.is_empty() {
            return None;
        }
        let mut drafts = self.shard(ino).lock();
        let actor = drafts.get(&ino.0).filter(|draft| ends(draft))?.actor;
        drafts.remove(&ino.0);
        self.count.fetch_sub(1, Ordering::Relaxed);
        Some(actor)
    }

    /// Ends the versions that nobody went on with for a while at `now`.
    pub(crate) fn take_silent(&self, now: Instant) -> Vec<(Ino, ActorId)> {
        self.take_all(|draft| now.saturating_duration_since(draft.written) >= SILENCE)
    }

    /// Ends every version.
    pub(crate) fn take_every(&self) -> Vec<(Ino, ActorId)> {
        self.take_all(|_| true)
    }

    fn take_all(&self, ends: impl Fn(&Draft) -> bool) -> Vec<(Ino, ActorId)> {
        let mut taken = Vec::new();
        if self.is_empty() {
            return taken;
        }
        for shard in &self.shards {
            shard.lock().retain(|&ino, draft| {
                let ends = ends(draft);
                if ends {
                    taken.push((Ino(ino), draft.actor));
                    self.count.fetch_sub(1, Ordering::Relaxed);
                }
                !ends
            });
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: Ino = Ino(17);
    const ONE: ActorId = ActorId(1);
    const OTHER: ActorId = ActorId(2);

    #[test]
    fn a_version_is_ended_once() {
        let drafts = Drafts::default();
        assert_eq!(drafts.take(FILE), None);
        assert_eq!(drafts.wrote(FILE, ONE, 10), None);
        assert_eq!(drafts.take(FILE), Some(ONE));
        assert_eq!(drafts.take(FILE), None);
        assert!(drafts.is_empty());
    }

    #[test]
    fn another_writer_ends_the_version_of_the_first() {
        let drafts = Drafts::default();
        drafts.wrote(FILE, ONE, 10);
        assert_eq!(drafts.before_write(FILE, ONE), None);
        assert_eq!(drafts.before_write(FILE, OTHER), Some(ONE));
        assert_eq!(drafts.before_write(FILE, OTHER), None);
    }

    #[test]
    fn so_many_bytes_are_one_version() {
        let drafts = Drafts::default();
        assert_eq!(drafts.wrote(FILE, ONE, BYTES_MAX - 1), None);
        assert_eq!(drafts.wrote(FILE, ONE, 1), Some(ONE));
        assert!(drafts.is_empty());
        assert_eq!(drafts.wrote(FILE, ONE, u64::MAX), Some(ONE));
    }

    #[test]
    fn silence_ends_a_version() {
        let drafts = Drafts::default();
        drafts.wrote(FILE, ONE, 1);
        let now = Instant::now();
        assert_eq!(drafts.take_silent(now), []);
        assert_eq!(drafts.take_silent(now + SILENCE), [(FILE, ONE)]);
        assert_eq!(drafts.take_silent(now + SILENCE), []);
    }
}
