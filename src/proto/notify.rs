//! Messages we start: what the kernel should forget, take or give.
//!
//! ```text
//!  0        4        8               16
//!  +--------+--------+---------------+-----------------+----------------------+
//!  | len    | code   | 0             | fixed part      | name NUL, data or ids |
//!  +--------+--------+---------------+-----------------+----------------------+
//! ```
//!
//! They go out by a write to `/dev/fuse`, on the ring's side too, and may wait there for pages
//! whose READ is being served: so never from a handler. ENOENT as the answer is normal, and means
//! that the kernel does not know the inode or name.

use std::io::IoSlice;

use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::abi::*;
use super::decode::{Cursor, DecodeError};
use super::types::{Name, NodeId};

/// One message to the kernel.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Notice<'a> {
    /// Who waits for `wait` (`Poll::wait`) should poll again (7.11).
    Poll {
        /// The number POLL came with.
        wait: u64,
    },
    /// Attributes and cached pages of `node` are old (7.12).
    InvalInode {
        /// The inode.
        node: NodeId,
        /// First byte whose page is dropped; negative drops attributes alone.
        offset: i64,
        /// How many bytes; 0 or less is to the end.
        len: i64,
    },
    /// `name` of `parent` leads somewhere else or nowhere: it is dropped, with all below it (7.12).
    InvalEntry {
        /// The directory.
        parent: NodeId,
        /// The name.
        name: Name<'a>,
    },
    /// `name` of `parent` is to be looked up again before it is used next; nothing is dropped, so
    /// that mounts below it stay (7.38, and FUSE_HAS_EXPIRE_ONLY).
    ExpireEntry {
        /// The directory.
        parent: NodeId,
        /// The name.
        name: Name<'a>,
    },
    /// `data` is what `node` holds from `offset`: take it into the page cache (7.15).
    Store {
        /// The file.
        node: NodeId,
        /// First byte.
        offset: u64,
        /// The bytes.
        data: &'a [u8],
    },
    /// Give what the page cache holds of `node`: a NOTIFY_REPLY will bring it (7.15).
    Retrieve {
        /// The number NOTIFY_REPLY will come with.
        unique: u64,
        /// The file.
        node: NodeId,
        /// First byte.
        offset: u64,
        /// How many bytes; the kernel sends at most `max_pages` pages.
        size: u32,
    },
    /// `name` of `parent`, which was `child`, was taken away: watchers hear of it (7.18).
    Delete {
        /// The directory.
        parent: NodeId,
        /// The inode that the name led to; if the kernel knows another there, nothing happens.
        child: NodeId,
        /// The name.
        name: Name<'a>,
    },
    /// Send again what was read and not answered (7.40, and FUSE_HAS_RESEND).
    Resend,
    /// Every name is to be looked up again before it is used next (7.44).
    IncEpoch,
    /// Inodes that nobody uses should be forgotten (7.45).
    Prune {
        /// Which. Their FORGETs follow.
        nodes: &'a [NodeId],
    },
}

impl Notice<'_> {
    /// The code on the wire.
    pub const fn code(&self) -> i32 {
        match self {
            Self::Poll { .. } => FUSE_NOTIFY_POLL,
            Self::InvalInode { .. } => FUSE_NOTIFY_INVAL_INODE,
            Self::InvalEntry { .. } | Self::ExpireEntry { .. } => FUSE_NOTIFY_INVAL_ENTRY,
            Self::Store { .. } => FUSE_NOTIFY_STORE,
            Self::Retrieve { .. } => FUSE_NOTIFY_RETRIEVE,
            Self::Delete { .. } => FUSE_NOTIFY_DELETE,
            Self::Resend => FUSE_NOTIFY_RESEND,
            Self::IncEpoch => FUSE_NOTIFY_INC_EPOCH,
            Self::Prune { .. } => FUSE_NOTIFY_PRUNE,
        }
    }

    /// The minor version that first had it. An older kernel answers EINVAL.
    pub const fn since(&self) -> u32 {
        match self {
            Self::Poll { .. } => 11,
            Self::InvalInode { .. } | Self::InvalEntry { .. } => 12,
            Self::Store { .. } | Self::Retrieve { .. } => 15,
            Self::Delete { .. } => 18,
            Self::ExpireEntry { .. } => 38,
            Self::Resend => 40,
            Self::IncEpoch => 44,
            Self::Prune { .. } => 45,
        }
    }
}

const HEADER: usize = size_of::<fuse_out_header>();
const FIXED_MAX: usize = size_of::<fuse_notify_retrieve_out>();

/// A notice as bytes, ready to be sent.
#[derive(Clone, Copy, Debug)]
pub struct NoticeMessage<'a> {
    head: [u8; HEADER + FIXED_MAX],
    head_len: usize,
    tail: &'a [u8],
    /// A NUL after a name, or nothing.
    end: &'static [u8],
}

impl<'a> Notice<'a> {
    /// The bytes to send. Allocates nothing.
    ///
    /// # Panics
    ///
    /// If `data` or `nodes` come to 4 GiB.
    pub fn message(&self) -> NoticeMessage<'a> {
        let len_u32 = |len: usize| u32::try_from(len).expect("a notice is shorter than 4 GiB");
        let inval_entry = |parent: NodeId, name: Name<'a>, flags| {
            let namelen = len_u32(name.as_bytes().len());
            let out = fuse_notify_inval_entry_out { parent: parent.get(), namelen, flags };
            self.assemble(&out, name.as_bytes(), b"\0")
        };
        match *self {
            Self::Poll { wait: kh } => self.assemble(&fuse_notify_poll_wakeup_out { kh }, &[], &[]),
            Self::InvalInode { node, offset: off, len } => {
                let out = fuse_notify_inval_inode_out { ino: node.get(), off, len };
                self.assemble(&out, &[], &[])
            }
            Self::InvalEntry { parent, name } => inval_entry(parent, name, 0),
            Self::ExpireEntry { parent, name } => inval_entry(parent, name, FUSE_EXPIRE_ONLY),
            Self::Store { node, offset, data } => {
                let (nodeid, size) = (node.get(), len_u32(data.len()));
                let out = fuse_notify_store_out { nodeid, offset, size, padding: 0 };
                self.assemble(&out, data, &[])
            }
            Self::Retrieve { unique, node, offset, size } => {
                let out = fuse_notify_retrieve_out {
                    notify_unique: unique,
                    nodeid: node.get(),
                    offset,
                    size,
                    padding: 0,
                };
                self.assemble(&out, &[], &[])
            }
            Self::Delete { parent, child, name } => {
                let out = fuse_notify_delete_out {
                    parent: parent.get(),
                    child: child.get(),
                    namelen: len_u32(name.as_bytes().len()),
                    padding: 0,
                };
                self.assemble(&out, name.as_bytes(), b"\0")
            }
            Self::Resend | Self::IncEpoch => self.assemble(&[0_u8; 0], &[], &[]),
            Self::Prune { nodes } => {
                let out =
                    fuse_notify_prune_out { count: len_u32(nodes.len()), padding: 0, spare: 0 };
                self.assemble(&out, nodes.as_bytes(), &[])
            }
        }
    }

    fn assemble(
        &self,
        fixed: &(impl IntoBytes + Immutable),
        tail: &'a [u8],
        end: &'static [u8],
    ) -> NoticeMessage<'a> {
        let fixed = fixed.as_bytes();
        let head_len = HEADER + fixed.len();
        let len = head_len + tail.len() + end.len();
        let header = fuse_out_header {
            len: u32::try_from(len).expect("a notice is shorter than 4 GiB"),
            error: self.code(),
            unique: 0,
        };
        let mut head = [0; HEADER + FIXED_MAX];
        head[..HEADER].copy_from_slice(header.as_bytes());
        head[HEADER..head_len].copy_from_slice(fixed);
        NoticeMessage { head, head_len, tail, end }
    }
}

impl NoticeMessage<'_> {
    /// Bytes in all.
    #[allow(clippy::len_without_is_empty, reason = "a notice has a header, so it is never empty")]
    pub const fn len(&self) -> usize {
        self.head_len + self.tail.len() + self.end.len()
    }

    /// All there is to send, chunk by chunk.
    pub fn chunks(&self) -> impl Iterator<Item = &[u8]> {
        [&self.head[..self.head_len], self.tail, self.end]
            .into_iter()
            .filter(|chunk| !chunk.is_empty())
    }

    /// All there is to send, for one vectored write. Some slices may be empty.
    pub fn io_slices(&self) -> [IoSlice<'_>; 3] {
        [&self.head[..self.head_len], self.tail, self.end].map(IoSlice::new)
    }
}

/// A notice as a kernel reads it. Node ids of a PRUNE are handed to `pruned` one by one.
///
/// # Errors
///
/// What makes the kernel answer EINVAL: a length that does not fit, node 0, a malformed name.
pub fn decode(bytes: &[u8], mut pruned: impl FnMut(NodeId)) -> Result<Notice<'_>, DecodeError> {
    let (header, body) =
        fuse_out_header::read_from_prefix(bytes).map_err(|_| DecodeError::Short)?;
    if usize::try_from(header.len) != Ok(bytes.len()) {
        return Err(DecodeError::Length);
    }
    if header.unique != 0 {
        return Err(DecodeError::Value);
    }
    let node = |id| NodeId::new(id).ok_or(DecodeError::Node);
    let mut body = Cursor::new(body);
    let notice = match header.error {
        FUSE_NOTIFY_POLL => {
            let fuse_notify_poll_wakeup_out { kh } = body.take()?;
            Notice::Poll { wait: kh }
        }
        FUSE_NOTIFY_INVAL_INODE => {
            let fuse_notify_inval_inode_out { ino, off, len } = body.take()?;
            Notice::InvalInode { node: node(ino)?, offset: off, len }
        }
        FUSE_NOTIFY_INVAL_ENTRY => {
            let fuse_notify_inval_entry_out { parent, namelen, flags } = body.take()?;
            let (parent, name) = (node(parent)?, sized_name(&mut body, namelen)?);
            if flags & FUSE_EXPIRE_ONLY == 0 {
                Notice::InvalEntry { parent, name }
            } else {
                Notice::ExpireEntry { parent, name }
            }
        }
        FUSE_NOTIFY_STORE => {
            let fuse_notify_store_out { nodeid, offset, size, .. } = body.take()?;
            let size = usize::try_from(size).map_err(|_| DecodeError::Short)?;
            Notice::Store { node: node(nodeid)?, offset, data: body.bytes(size)? }
        }
        FUSE_NOTIFY_RETRIEVE => {
            let fuse_notify_retrieve_out { notify_unique, nodeid, offset, size, .. } =
                body.take()?;
            Notice::Retrieve { unique: notify_unique, node: node(nodeid)?, offset, size }
        }
        FUSE_NOTIFY_DELETE => {
            let fuse_notify_delete_out { parent, child, namelen, .. } = body.take()?;
            let name = sized_name(&mut body, namelen)?;
            Notice::Delete { parent: node(parent)?, child: node(child)?, name }
        }
        FUSE_NOTIFY_RESEND => Notice::Resend,
        FUSE_NOTIFY_INC_EPOCH => Notice::IncEpoch,
        FUSE_NOTIFY_PRUNE => {
            let fuse_notify_prune_out { count, .. } = body.take()?;
            for _ in 0..count {
                pruned(node(body.take()?)?);
            }
            Notice::Prune { nodes: &[] }
        }
        _ => return Err(DecodeError::Value),
    };
    if body.is_empty() { Ok(notice) } else { Err(DecodeError::Length) }
}

fn sized_name<'a>(body: &mut Cursor<'a>, namelen: u32) -> Result<Name<'a>, DecodeError> {
    let len = usize::try_from(namelen).map_err(|_| DecodeError::Short)?;
    let name = Name::new(body.bytes(len)?)?;
    if body.bytes(1)? == [0] { Ok(name) } else { Err(DecodeError::Name) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: NodeId = NodeId::ROOT;

    fn name() -> Name<'static> {
        Name::new(b"name").unwrap()
    }

    fn bytes(notice: &Notice<'_>) -> Vec<u8> {
        let message = notice.message();
        let bytes = message.chunks().collect::<Vec<_>>().concat();
        assert_eq!(bytes.len(), message.len());
        let slices: usize = message.io_slices().iter().map(|slice| slice.len()).sum();
        assert_eq!(bytes.len(), slices);
        bytes
    }

    #[test]
    fn every_notice_is_read_back_as_what_it_was() {
        let child = NodeId::new(5).unwrap();
        for notice in [
            Notice::Poll { wait: 77 },
            Notice::InvalInode { node: NODE, offset: -1, len: 0 },
            Notice::InvalEntry { parent: NODE, name: name() },
            Notice::ExpireEntry { parent: NODE, name: name() },
            Notice::Store { node: NODE, offset: 4096, data: b"bytes" },
            Notice::Retrieve { unique: 9, node: NODE, offset: 4096, size: 100 },
            Notice::Delete { parent: NODE, child, name: name() },
            Notice::Resend,
            Notice::IncEpoch,
        ] {
            let bytes = bytes(&notice);
            assert_eq!(decode(&bytes, |_| panic!("nothing is pruned")), Ok(notice));
        }
    }

    #[test]
    fn pruned_nodes_arrive_in_order() {
        let nodes = [NodeId::new(3).unwrap(), NodeId::new(2).unwrap()];
        let bytes = bytes(&Notice::Prune { nodes: &nodes });
        assert_eq!(bytes.len(), 16 + 16 + 16);
        let mut pruned = Vec::new();
        decode(&bytes, |node| pruned.push(node)).unwrap();
        assert_eq!(pruned, nodes);
    }

    #[test]
    fn a_name_is_followed_by_a_nul_that_its_length_leaves_out() {
        let bytes = bytes(&Notice::InvalEntry { parent: NODE, name: name() });
        assert_eq!(&bytes[16 + 8..16 + 12], 4_u32.to_ne_bytes());
        assert_eq!(&bytes[16 + 16..], b"name\0");
    }
}
