//! New files that are written past the kernel's page cache (FOPEN_DIRECT_IO).
//!
//! `tar`, `git`, `cp`, `dd`, `npm` and whoever else saves a new file open it for writing alone, write it from start to end and
//! close it. With the page cache the kernel asks for a capability first, then copies what is written into pages it has to find
//! and clear, and hands those on; past it, it hands on the caller's own memory. What it costs is that whoever reads the file
//! afterwards is the first to.
//!
//! The kernel does not keep the two kinds of handles of one file in step: it takes pages out of the cache before such a
//! write (and again after it since Linux 6.19, and later editions of 6.18, 6.12 and 6.6), and a page that is read
//! while the write is under way stays as it was. So as long as a handle writes a file past the cache, whoever
//! opens it gets a handle of the same kind, whose reads ask here. What a mapping or sendfile(2), which know no other
//! way, may have brought into the cache, the kernel is told to drop after each write, and after the last close: for a moment a mapping
//! may show zeros where somebody has just written. (Rarely: none were seen in 3 million looks at what had been written last; with an
//! unoptimised server under more threads than CPUs one or two in a million, for less than a millisecond. Writes that wait
//! until it was told take 20 times as long meanwhile, and the kernel may be waiting for the thread that waits.)
//!
//! ```text
//!  CREATE, O_WRONLY     made() --+
//!  OPEN of that file  joined() --+--> File { writers, others }     while a handle writes past the cache
//!  WRITE            is_shared() -+
//!  RELEASE             closed() -+--> the last writer: dropped from the cache if there were others
//! ```
//!
//! Invariants: a file is listed exactly while a handle that writes it past the cache is open; no handle opened meanwhile
//! uses the cache. A file that somebody else may have opened before it was listed is not: see [`Direct::made`].

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use parking_lot::Mutex;
use rustc_hash::FxHashMap;

use crate::proto::types::{NodeId, OpenFlags};

/// Files that are written past the cache.
#[derive(Debug, Default)]
pub(super) struct Direct {
    /// The kernel takes it: handles of this kind can be mapped as shared (FUSE_DIRECT_IO_ALLOW_MMAP, Linux 6.6).
    agreed: AtomicBool,
    files: Mutex<FxHashMap<NodeId, File>>,
    /// How many are listed, to be looked at without the lock.
    listed: AtomicUsize,
    /// The newest file that was opened by its name: numbers of nodes grow.
    newest_opened: AtomicU64,
}

#[derive(Clone, Copy, Debug)]
struct File {
    /// Handles that write it.
    writers: u32,
    /// Somebody else has had it open meanwhile.
    others: bool,
}

impl Direct {
    pub(super) fn agree(&self, allows_mappings: bool) {
        self.agreed.store(allows_mappings, Ordering::Relaxed);
    }

    /// Whether the handle by which `node` was made with `flags` is to pass the cache, which lists the file. Not one that
    /// reads, to which the cache is worth more; nor one that appends, for a log is read while it is written.
    ///
    /// The name was there before this: who has opened the file meanwhile uses the cache, and then so does its maker.
    pub(super) fn made(&self, node: NodeId, flags: OpenFlags) -> bool {
        let suits = flags.writes() && !flags.reads() && !flags.appends();
        if !suits || !self.agreed.load(Ordering::Relaxed) {
            return false;
        }
        self.files.lock().insert(node, File { writers: 1, others: false });
        self.listed.fetch_add(1, Ordering::SeqCst);
        // Whoever opens it either is seen here, or sees that it is listed.
        let alone = self.newest_opened.load(Ordering::SeqCst) < node.get();
        if !alone {
            self.closed(node);
        }
        alone
    }

    /// Whether a handle by which `node` is opened with `flags` is to pass the cache, as others do.
    pub(super) fn joined(&self, node: NodeId, flags: OpenFlags) -> bool {
        self.newest_opened.fetch_max(node.get(), Ordering::SeqCst);
        if self.listed.load(Ordering::SeqCst) == 0 {
            return false;
        }
        let mut files = self.files.lock();
        let Some(file) = files.get_mut(&node) else { return false };
        file.others = true;
        file.writers += u32::from(flags.writes());
        true
    }

    /// Whether others than who writes `node` past the cache have had it open since.
    pub(super) fn is_shared(&self, node: NodeId) -> bool {
        self.listed.load(Ordering::Relaxed) != 0
            && self.files.lock().get(&node).is_some_and(|file| file.others)
    }

    /// A handle that wrote `node` past the cache was closed. Returns whether others may have brought something of it into the
    /// cache, and no writer is left.
    pub(super) fn closed(&self, node: NodeId) -> bool {
        let mut files = self.files.lock();
        let Some(file) = files.get_mut(&node) else { return false };
        file.writers -= 1;
        if file.writers > 0 {
            return false;
        }
        let others = file.others;
        files.remove(&node);
        self.listed.fetch_sub(1, Ordering::SeqCst);
        others
    }

    /// Forgets all: the kernel that had them open is gone.
    pub(super) fn clear(&self) {
        let mut files = self.files.lock();
        self.listed.fetch_sub(files.len(), Ordering::SeqCst);
        files.clear();
        self.newest_opened.store(0, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WRITE: OpenFlags = OpenFlags(OpenFlags::WRONLY);
    const READ: OpenFlags = OpenFlags(OpenFlags::RDONLY);

    fn node(number: u64) -> NodeId {
        NodeId::new(number).unwrap()
    }

    fn agreed() -> Direct {
        let direct = Direct::default();
        direct.agree(true);
        direct
    }

    #[test]
    fn who_writes_and_no_more_passes_the_cache_where_that_can_be_mapped() {
        let direct = Direct::default();
        assert!(!direct.made(node(5), WRITE), "not agreed on");
        direct.agree(true);
        assert!(direct.made(node(5), WRITE));
        for flags in [OpenFlags::RDONLY, OpenFlags::RDWR, OpenFlags::WRONLY | OpenFlags::APPEND] {
            assert!(!direct.made(node(6), OpenFlags(flags)), "{flags:o}");
        }
        assert!(!direct.closed(node(5)), "nobody else had it open");
        assert!(!direct.joined(node(5), READ), "it is a file like any other");
    }

    #[test]
    fn others_pass_the_cache_until_the_last_writer_closes() {
        let direct = agreed();
        assert!(direct.made(node(5), WRITE) && !direct.is_shared(node(5)));
        assert!(direct.joined(node(5), READ) && direct.is_shared(node(5)));
        assert!(direct.joined(node(5), OpenFlags(OpenFlags::RDWR)));
        assert!(!direct.joined(node(4), READ) && !direct.is_shared(node(4)));
        assert!(!direct.closed(node(5)), "one still writes");
        assert!(direct.joined(node(5), READ));
        assert!(direct.closed(node(5)), "what was read meanwhile is to go");
        assert!(!direct.joined(node(5), READ) && !direct.is_shared(node(5)));
    }

    #[test]
    fn a_file_that_was_opened_before_it_is_listed_keeps_to_the_cache() {
        let direct = agreed();
        assert!(!direct.joined(node(5), READ));
        assert!(!direct.made(node(5), WRITE));
        assert!(!direct.joined(node(5), READ), "nothing is listed");
        assert!(direct.made(node(6), WRITE), "the next is new");
    }

    #[test]
    fn of_who_makes_and_who_opens_at_once_one_sees_the_other() {
        for number in 5..2000 {
            let direct = agreed();
            let (made, joined) = std::thread::scope(|scope| {
                let opens = scope.spawn(|| direct.joined(node(number), READ));
                (direct.made(node(number), WRITE), opens.join().unwrap())
            });
            assert!(joined || !made, "{number}: the maker passes a cache that the other uses");
        }
    }

    #[test]
    fn a_connection_that_is_gone_has_nothing_open() {
        let direct = agreed();
        assert!(direct.made(node(5), WRITE) && direct.joined(node(5), READ));
        direct.clear();
        assert!(!direct.joined(node(5), READ) && !direct.closed(node(5)));
        direct.clear();
        assert!(direct.made(node(3), WRITE), "numbers of another connection say nothing");
    }
}
