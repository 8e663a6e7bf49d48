//! What the server tells without being asked: invalidation, data pushed and fetched, resending.
//!
//! A notification that takes a lock the kernel holds while it waits for an answer waits for that answer. If the thread
//! that sends it is the one that owes the answer, nothing ever goes on: that is recorded as a violation, `would
//! deadlock`. Where another thread owes it, the real kernel waits and this one does not.

use std::thread::ThreadId;

use zerocopy::FromBytes;

use crate::proto::abi::*;
use crate::proto::op::{NotifyReply, Op};
use crate::proto::types::{Caller, Errno, NodeId};

use super::device::{Queued, name_of};
use super::inode::{Ino, STATX_BASIC};
use super::{PAGE, PAGE_U64, State};

impl State {
    pub(super) fn notice(&mut self, code: i32, body: &[u8], writer: ThreadId) -> Result<(), Errno> {
        let minor = self.options.minor;
        let since = match code {
            FUSE_NOTIFY_POLL => 11,
            FUSE_NOTIFY_INVAL_INODE | FUSE_NOTIFY_INVAL_ENTRY => 12,
            FUSE_NOTIFY_STORE | FUSE_NOTIFY_RETRIEVE => 15,
            FUSE_NOTIFY_DELETE => 18,
            FUSE_NOTIFY_RESEND => 40,
            FUSE_NOTIFY_INC_EPOCH => 44,
            FUSE_NOTIFY_PRUNE => 45,
            _ => u32::MAX,
        };
        if minor < since {
            self.violation(format!("notification {code} is unknown to 7.{minor}"));
            return Err(Errno::EINVAL);
        }
        let result = match code {
            FUSE_NOTIFY_POLL => exactly::<fuse_notify_poll_wakeup_out>(body).map(|_| ()),
            FUSE_NOTIFY_INVAL_INODE => self.invalidate_inode(body, writer),
            FUSE_NOTIFY_INVAL_ENTRY => self.invalidate_entry(body, writer),
            FUSE_NOTIFY_DELETE => self.delete_entry(body, writer),
            FUSE_NOTIFY_STORE => self.store(body, writer),
            FUSE_NOTIFY_RETRIEVE => self.retrieve(body, writer),
            FUSE_NOTIFY_RESEND => {
                self.device.resend();
                Ok(())
            }
            FUSE_NOTIFY_INC_EPOCH => {
                self.connection.epoch += 1;
                Ok(())
            }
            _ => self.prune(body),
        };
        if result == Err(Errno::EINVAL) {
            self.violation(format!("notification {code} is malformed: {}", body.escape_ascii()));
        }
        result
    }

    fn known(&self, node: u64) -> Result<Ino, Errno> {
        self.by_node.get(&node).copied().ok_or(Errno::ENOENT)
    }

    /// Records a deadlock if `writer` owes the answer to a request that holds what it now waits for.
    fn check_deadlock(&mut self, what: &str, writer: ThreadId, holds: impl Fn(&Queued) -> bool) {
        let owed = self
            .device
            .processing
            .values()
            .find(|queued| queued.reader == Some(writer) && holds(queued))
            .map(|queued| format!("{} {}", name_of(queued.opcode), queued.unique));
        if let Some(owed) = owed {
            self.violation(format!(
                "would deadlock: {what} waits for the answer to {owed}, which the same thread owes"
            ));
        }
    }

    fn check_pages_unlocked(&mut self, what: &str, node: u64, writer: ThreadId) {
        self.check_deadlock(what, writer, |queued| {
            queued.node == node && matches!(queued.opcode, FUSE_READ | FUSE_WRITE)
        });
    }

    fn check_names_unlocked(&mut self, what: &str, node: u64, writer: ThreadId) {
        self.check_deadlock(what, writer, |queued| {
            let in_dir = matches!(
                queued.opcode,
                FUSE_LOOKUP
                    | FUSE_CREATE
                    | FUSE_MKNOD
                    | FUSE_MKDIR
                    | FUSE_SYMLINK
                    | FUSE_LINK
                    | FUSE_UNLINK
                    | FUSE_RMDIR
                    | FUSE_RENAME
                    | FUSE_RENAME2
                    | FUSE_READDIR
                    | FUSE_READDIRPLUS
            );
            let to_dir = matches!(queued.opcode, FUSE_RENAME | FUSE_RENAME2)
                && queued.bytes.get(40..48) == Some(&node.to_ne_bytes());
            (in_dir && queued.node == node) || to_dir
        });
    }

    fn invalidate_inode(&mut self, body: &[u8], writer: ThreadId) -> Result<(), Errno> {
        let out = exactly::<fuse_notify_inval_inode_out>(body)?;
        let ino = self.known(out.ino)?;
        if out.off >= 0 {
            self.check_pages_unlocked("INVAL_INODE", out.ino, writer);
        }
        self.touched(ino);
        let inode = self.inode_mut(ino);
        inode.doubt(STATX_BASIC);
        inode.acl = None;
        if let Ok(start) = u64::try_from(out.off) {
            let end = match u64::try_from(out.len) {
                Ok(len) if len > 0 => start.saturating_add(len),
                _ => u64::MAX,
            };
            inode.pages.clear_range(start, end);
            inode.target = None;
            if inode.is_dir() {
                inode.listing.reset();
            }
        }
        Ok(())
    }

    fn invalidate_entry(&mut self, body: &[u8], writer: ThreadId) -> Result<(), Errno> {
        let (out, rest) =
            fuse_notify_inval_entry_out::read_from_prefix(body).map_err(|_| Errno::EINVAL)?;
        let name = name_in(rest, out.namelen)?;
        let dir = self.known(out.parent)?;
        self.check_names_unlocked("INVAL_ENTRY", out.parent, writer);
        if !self.inode(dir).is_dir() {
            return Err(Errno::ENOTDIR);
        }
        let key = (dir, name.to_vec());
        if !self.dentries.contains_key(&key) {
            return Err(Errno::ENOENT);
        }
        self.dir_changed(dir);
        if out.flags & FUSE_EXPIRE_ONLY == 0 {
            self.drop_dentry(dir, name);
            return Ok(());
        }
        if !self.connection.has(FUSE_HAS_EXPIRE_ONLY) {
            self.violation("EXPIRE_ONLY without HAS_EXPIRE_ONLY at INIT".to_owned());
        }
        if let Some(dentry) = self.dentries.get_mut(&key) {
            dentry.until_ns = 0;
        }
        Ok(())
    }

    fn delete_entry(&mut self, body: &[u8], writer: ThreadId) -> Result<(), Errno> {
        let (out, rest) =
            fuse_notify_delete_out::read_from_prefix(body).map_err(|_| Errno::EINVAL)?;
        let name = name_in(rest, out.namelen)?;
        let dir = self.known(out.parent)?;
        self.check_names_unlocked("DELETE", out.parent, writer);
        let dentry = self.dentry(dir, name).ok_or(Errno::ENOENT)?;
        self.dir_changed(dir);
        let Some(target) = dentry.target else {
            self.drop_dentry(dir, name);
            return Ok(());
        };
        if out.child != 0 {
            if self.inode(target).node != out.child {
                self.drop_dentry(dir, name);
                return Err(Errno::ENOENT);
            }
            self.inode_mut(target).attr.nlink = 0;
        }
        self.drop_dentry(dir, name);
        Ok(())
    }

    fn store(&mut self, body: &[u8], writer: ThreadId) -> Result<(), Errno> {
        let (out, data) =
            fuse_notify_store_out::read_from_prefix(body).map_err(|_| Errno::EINVAL)?;
        if usize::try_from(out.size) != Ok(data.len()) {
            return Err(Errno::EINVAL);
        }
        let ino = self.known(out.nodeid)?;
        self.check_pages_unlocked("STORE", out.nodeid, writer);
        let end = out.offset.checked_add(u64::from(out.size)).ok_or(Errno::EINVAL)?;
        self.touched(ino);
        let inode = self.inode_mut(ino);
        inode.attr.size = inode.attr.size.max(end);
        let size = inode.attr.size;
        inode.pages.written(out.offset, data);
        // The last page of a file is whole though it ends early.
        let last = end / PAGE_U64;
        if end == size && end % PAGE_U64 != 0 && last * PAGE_U64 >= out.offset {
            let from = usize::try_from(last * PAGE_U64 - out.offset).unwrap_or(usize::MAX);
            let mut page = data.get(from..).unwrap_or(&[]).to_vec();
            page.resize(PAGE, 0);
            inode.pages.put(last, page);
        }
        Ok(())
    }

    fn retrieve(&mut self, body: &[u8], writer: ThreadId) -> Result<(), Errno> {
        let out = exactly::<fuse_notify_retrieve_out>(body)?;
        let ino = self.known(out.nodeid)?;
        self.check_pages_unlocked("RETRIEVE", out.nodeid, writer);
        let inode = self.inode(ino);
        let end = out.offset.saturating_add(u64::from(out.size)).min(inode.attr.size);
        let mut data = Vec::new();
        let mut at = out.offset;
        while at < end && data.len() < self.connection.max_pages * PAGE {
            let Some(page) = inode.pages.page(at / PAGE_U64) else { break };
            let from = usize::try_from(at % PAGE_U64).unwrap_or(0);
            let len = usize::try_from(end - at).unwrap_or(PAGE).min(PAGE - from);
            data.extend_from_slice(page.get(from..from + len).unwrap_or(&[]));
            at += len as u64;
        }
        let node = NodeId::new(out.nodeid).ok_or(Errno::EINVAL)?;
        let op = Op::NotifyReply(NotifyReply { node, offset: out.offset, data: &data });
        self.queue(out.notify_unique, Caller::default(), &op, true);
        Ok(())
    }

    fn prune(&mut self, body: &[u8]) -> Result<(), Errno> {
        let (out, rest) =
            fuse_notify_prune_out::read_from_prefix(body).map_err(|_| Errno::EINVAL)?;
        let nodes: Vec<u64> = rest
            .chunks_exact(8)
            .filter_map(|bytes| bytes.try_into().ok().map(u64::from_ne_bytes))
            .collect();
        if usize::try_from(out.count) != Ok(nodes.len()) || rest.len() % 8 != 0 {
            return Err(Errno::EINVAL);
        }
        for node in nodes {
            let Some(ino) = self.by_node.get(&node).copied() else { continue };
            let inode = self.inode(ino);
            if inode.pins > 0 || !inode.children.is_empty() {
                continue;
            }
            for (parent, name) in inode.names.clone() {
                self.drop_dentry(parent, &name);
            }
        }
        Ok(())
    }
}

fn exactly<T: FromBytes>(body: &[u8]) -> Result<T, Errno> {
    T::read_from_bytes(body).map_err(|_| Errno::EINVAL)
}

/// The name after a notification: as long as it says, and ended by NUL.
fn name_in(rest: &[u8], len: u32) -> Result<&[u8], Errno> {
    let len = usize::try_from(len).map_err(|_| Errno::EINVAL)?;
    if len > 1024 {
        return Err(Errno::ENAMETOOLONG);
    }
    match rest.split_last() {
        Some((0, name)) if name.len() == len && !name.is_empty() => Ok(name),
        _ => Err(Errno::EINVAL),
    }
}
