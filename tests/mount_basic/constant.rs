//! A server whose tree never changes: enough to see whether the transport carries what it should.
//!
//! ```text
//! /current/small   TEXT
//! /current/large   LARGE bytes, each the low byte of its offset divided by 4096
//! ```

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use lighthouse_fuse::proto::abi::{
    FUSE_ASYNC_READ, FUSE_BIG_WRITES, FUSE_INIT_EXT, FUSE_KERNEL_VERSION, FUSE_MAX_PAGES,
    fuse_dirent, fuse_init_out,
};
use lighthouse_fuse::proto::types::{
    Attr, Entry, Errno, FileHandle, NodeId, Opened, OpenedFlags, RequestId, Statfs,
};
use lighthouse_fuse::proto::{Dialect, Message, Op, Reply};
use lighthouse_fuse::transport::dev_fuse::DevFuse;
use lighthouse_fuse::transport::{Buffer, Delivery, Frame, SplicePipe, Transport};
use zerocopy::IntoBytes;

/// What `small` holds.
pub(crate) const TEXT: &[u8] = b"the same for ever\n";
/// How many bytes `large` holds.
pub(crate) const LARGE: usize = 8 << 20;
const MAX_WRITE: u32 = 1 << 20;
const VALID: Duration = Duration::from_secs(60);

const ROOT: u64 = 1;
const CURRENT: u64 = 2;
const SMALL: u64 = 3;
const LARGE_FILE: u64 = 4;

/// Every node: its number, its parent, its name.
const TREE: [(u64, u64, &[u8]); 4] = [
    (ROOT, ROOT, b"/"),
    (CURRENT, ROOT, b"current"),
    (SMALL, CURRENT, b"small"),
    (LARGE_FILE, CURRENT, b"large"),
];

/// The byte of `large` at `offset`.
pub(crate) fn large_byte(offset: usize) -> u8 {
    (offset / 4096).to_le_bytes()[0]
}

/// Answers requests until the connection ends.
pub(crate) struct ConstantServer {
    /// Carries them.
    pub(crate) device: DevFuse,
    /// Whether READ of `large` is answered by splice.
    pub(crate) splice: bool,
    /// Whether INIT was answered.
    pub(crate) initialised: AtomicBool,
    large: std::fs::File,
    content: Vec<u8>,
}

impl ConstantServer {
    /// Serves `device`.
    pub(crate) fn new(device: DevFuse, splice: bool) -> io::Result<Self> {
        let content: Vec<u8> = (0..LARGE).map(large_byte).collect();
        let path = std::env::temp_dir().join(format!("lighthouse-large-{}", std::process::id()));
        std::fs::write(&path, &content)?;
        let large = std::fs::File::open(&path)?;
        std::fs::remove_file(&path)?;
        Ok(Self { device, splice, initialised: AtomicBool::new(false), large, content })
    }

    /// One reader: answers until the connection ends.
    pub(crate) fn serve(&self) -> io::Result<()> {
        let mut buffer = Buffer::for_writes(MAX_WRITE)?;
        let mut pipe = SplicePipe::for_data(1 << 18)?;
        while let Some(frame) = self.device.receive(&mut buffer)? {
            let Frame::Whole(bytes) = frame else { unreachable!("a device gives whole messages") };
            let message = Message::split(bytes, Dialect::NEWEST).expect("the kernel sends these");
            let op = Op::decode(&message).expect("the kernel sends these");
            self.answer(message.id(), &op, &mut pipe)?;
        }
        Ok(())
    }

    fn answer(&self, id: RequestId, op: &Op<'_>, pipe: &mut SplicePipe) -> io::Result<()> {
        let opened = Opened { handle: FileHandle(0), flags: OpenedFlags(0), backing_id: 0 };
        let listing;
        let reply = match op {
            Op::Init(init) => {
                let out = fuse_init_out {
                    major: FUSE_KERNEL_VERSION,
                    minor: init.minor.min(Dialect::NEWEST.minor),
                    max_readahead: init.max_readahead,
                    flags: low(init.flags & (FUSE_ASYNC_READ | FUSE_BIG_WRITES | FUSE_MAX_PAGES))
                        & !low(FUSE_INIT_EXT),
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
                self.send(&Reply::init(id, &out, init.minor))?;
                self.initialised.store(true, Ordering::Release);
                return Ok(());
            }
            Op::Forget(_) | Op::BatchForget(_) | Op::Interrupt(_) => return Ok(()),
            Op::Lookup(lookup) => {
                let found = TREE.iter().find(|&&(node, parent, name)| {
                    node != ROOT && parent == lookup.parent.get() && name == lookup.name.as_bytes()
                });
                match found {
                    Some(&(node, ..)) => Reply::entry(
                        id,
                        &Entry {
                            node: NodeId::new(node).expect("not 0"),
                            generation: 0,
                            attr: attr(node),
                            entry_valid: VALID,
                            attr_valid: VALID,
                        },
                    ),
                    None => Reply::error(id, Errno::ENOENT),
                }
            }
            Op::GetAttr(getattr) => Reply::attr(id, &attr(getattr.node.get()), VALID),
            Op::Open(_) | Op::OpenDir(_) => Reply::opened(id, &opened),
            Op::Release(_) | Op::ReleaseDir(_) | Op::Flush(_) | Op::Access(_) => Reply::empty(id),
            Op::Read(read) if read.node.get() == LARGE_FILE => {
                let from = usize::try_from(read.offset).unwrap_or(LARGE).min(LARGE);
                let to = from.saturating_add(read.size as usize).min(LARGE);
                if self.splice {
                    return self.splice(id, from, to - from, pipe);
                }
                Reply::data(id, &self.content[from..to])
            }
            Op::Read(read) => {
                let from = usize::try_from(read.offset).unwrap_or(usize::MAX).min(TEXT.len());
                Reply::data(id, &TEXT[from..])
            }
            Op::ReadDir(readdir) => {
                listing = entries(readdir.node.get(), readdir.offset);
                Reply::data(id, &listing)
            }
            Op::StatFs(_) => Reply::statfs(id, &Statfs::default()),
            _ => Reply::error(id, Errno::ENOSYS),
        };
        self.send(&reply)
    }

    fn send(&self, reply: &Reply<'_>) -> io::Result<()> {
        match self.device.send(reply)? {
            Delivery::Taken | Delivery::Unwanted => Ok(()),
        }
    }

    fn splice(
        &self,
        id: RequestId,
        from: usize,
        len: usize,
        pipe: &mut SplicePipe,
    ) -> io::Result<()> {
        use std::os::fd::AsFd;
        let reply = Reply::data_elsewhere(id, len);
        pipe.fill(&reply, self.large.as_fd(), from as u64)?;
        match self.device.send_filled(pipe)? {
            Delivery::Taken | Delivery::Unwanted => Ok(()),
        }
    }
}

/// The lower half of INIT's flags.
fn low(flags: u64) -> u32 {
    u32::try_from(flags & u64::from(u32::MAX)).expect("cut to 32 bits")
}

fn attr(node: u64) -> Attr {
    let directory = node == ROOT || node == CURRENT;
    let size = match node {
        SMALL => TEXT.len(),
        LARGE_FILE => LARGE,
        _ => 0,
    };
    Attr {
        ino: node,
        size: size as u64,
        blocks: size.div_ceil(512) as u64,
        mode: if directory { 0o040_755 } else { 0o100_644 },
        nlink: if directory { 2 } else { 1 },
        blksize: 4096,
        ..Attr::default()
    }
}

fn entries(parent: u64, offset: u64) -> Vec<u8> {
    let mut listing = Vec::new();
    let children = TREE.iter().filter(|&&(node, above, _)| above == parent && node != ROOT);
    for (at, &(ino, _, name)) in children.enumerate().skip(usize::try_from(offset).unwrap_or(0)) {
        let namelen = u32::try_from(name.len()).expect("short");
        let kind = if ino == CURRENT { 4 } else { 8 };
        let entry = fuse_dirent { ino, off: at as u64 + 1, namelen, r#type: kind };
        listing.extend(entry.as_bytes());
        listing.extend(name);
        listing.resize(listing.len().next_multiple_of(8), 0);
    }
    listing
}
