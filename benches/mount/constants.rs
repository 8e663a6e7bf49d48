//! Answers made before the first request comes: what the servers that decode nothing, or do nothing, say.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use lighthouse_fuse::proto::Reply;
use lighthouse_fuse::proto::abi::*;
use lighthouse_fuse::proto::types::{Attr, Entry, FileHandle, NodeId, Opened, OpenedFlags};
use zerocopy::IntoBytes;

use crate::BLOCK;

pub(crate) const MAX_WRITE: u32 = 1 << 20;

/// The number of the one file that is there; those that are made get the numbers after it.
pub(crate) const FILE: u64 = 2;
/// How long everything may be cached.
pub(crate) const VALID: Duration = Duration::from_secs(3600);
/// Names that begin so are there, and are the one file.
pub(crate) const HIT: &str = "hit-";

/// The agreement on INIT that asks for as little as possible.
pub(crate) const INIT: fuse_init_out = fuse_init_out {
    major: FUSE_KERNEL_VERSION,
    minor: FUSE_KERNEL_MINOR_VERSION,
    max_readahead: 1 << 17,
    flags: (FUSE_ASYNC_READ | FUSE_BIG_WRITES | FUSE_MAX_PAGES | FUSE_PARALLEL_DIROPS) as u32,
    max_background: 16,
    congestion_threshold: 12,
    max_write: MAX_WRITE,
    time_gran: 1,
    max_pages: 256,
    map_alignment: 0,
    flags2: 0,
    max_stack_depth: 0,
    request_timeout: 0,
    unused: [0; 11],
};

/// What OPEN and CREATE get.
pub(crate) const OPENED: Opened =
    Opened { handle: FileHandle(0), flags: OpenedFlags(0), backing_id: 0 };

pub(crate) fn attr(node: u64) -> Attr {
    let root = node == FUSE_ROOT_ID;
    Attr {
        ino: node,
        size: if root { 0 } else { BLOCK as u64 },
        mode: if root { 0o040_755 } else { 0o100_644 },
        nlink: 1,
        blksize: 4096,
        ..Attr::default()
    }
}

pub(crate) fn entry(node: u64) -> Entry {
    Entry {
        node: NodeId::new(node).expect("above 0"),
        generation: 0,
        attr: attr(node),
        entry_valid: VALID,
        attr_valid: VALID,
    }
}

/// Whether a file of that name is there.
pub(crate) fn is_there(name: &[u8]) -> bool {
    name == b"file" || name.starts_with(HIT.as_bytes())
}

/// The same as bytes, but for what changes.
pub(crate) struct Constants<'n> {
    next: &'n AtomicU64,
    block: [u8; BLOCK],
    created: Vec<u8>,
    found: Vec<u8>,
    opened: Vec<u8>,
    attrs: [Vec<u8>; 2],
    written: Vec<u8>,
}

impl<'n> Constants<'n> {
    pub(crate) fn new(next: &'n AtomicU64) -> Self {
        let out = |part: &Reply<'_>| part.fixed_part().to_vec();
        let id = lighthouse_fuse::proto::types::RequestId(0);
        Self {
            next,
            block: [7; BLOCK],
            created: out(&Reply::created(id, &entry(FILE), &OPENED)),
            found: out(&Reply::entry(id, &entry(FILE))),
            opened: out(&Reply::opened(id, &OPENED)),
            attrs: [FUSE_ROOT_ID, FILE].map(|node| out(&Reply::attr(id, &attr(node), VALID))),
            written: out(&Reply::written(id, BLOCK as u32)),
        }
    }

    /// The errno and what follows the header; `None` where no answer is due. `body` is looked at for LOOKUP only.
    pub(crate) fn answer(&mut self, header: &fuse_in_header, body: &[u8]) -> Option<(i32, &[u8])> {
        Some(match header.opcode {
            FUSE_INIT => (0, INIT.as_bytes()),
            FUSE_FORGET | FUSE_BATCH_FORGET | FUSE_INTERRUPT => return None,
            FUSE_LOOKUP if is_there(body.strip_suffix(b"\0").unwrap_or(body)) => (0, &self.found),
            FUSE_LOOKUP => (-libc::ENOENT, &[]),
            FUSE_GETATTR => (0, &self.attrs[usize::from(header.nodeid != FUSE_ROOT_ID)]),
            FUSE_SETATTR => (0, &self.attrs[1]),
            FUSE_OPEN | FUSE_OPENDIR => (0, &self.opened),
            FUSE_READ => (0, &self.block),
            FUSE_CREATE => {
                let node = self.next.fetch_add(1, Ordering::Relaxed) + 1;
                // The node number comes first.
                self.created[..8].copy_from_slice(&node.to_ne_bytes());
                (0, &self.created)
            }
            FUSE_WRITE => (0, &self.written),
            FUSE_UNLINK | FUSE_RENAME | FUSE_RENAME2 | FUSE_RELEASE | FUSE_RELEASEDIR => (0, &[]),
            _ => (-libc::ENOSYS, &[]),
        })
    }
}
