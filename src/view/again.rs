//! A kernel that another process served before this one, and the requests it sends again.
//!
//! A request that was read and not answered when a server died comes again, marked as such. Either it never
//! reached the log, and is done like any other; or it did, and its answer is made of what it did then.
//!
//! What the process before had in memory is gone: which nodes the kernel knows and how often it has looked
//! them up, and what its handles are. So handles that this process has not given out are believed, nothing
//! that lost its last name is ended before the next mount, and nodes of the past are stale: the kernel looks
//! their names up again, and finds them under numbers of which it holds nothing.
//!
//! Invariants: nothing here changes a tree.

use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::proto::types::{Entry, NodeId, OpenFlags, Opened};
use crate::tree::operation::COPY_MAX;
use crate::tree::{Ino, Inode, Seq};

use super::handles::Open;
use super::nodes::{Place, Tense};
use super::{Range, Refusal, TreeRefusal, View};

impl View {
    /// Takes over a kernel that knows what `restarts` processes before this one have told it; `is_held` tells of a node
    /// whether it still does.
    pub fn adopt<E>(
        &self,
        restarts: u16,
        is_held: impl FnMut(NodeId) -> Result<bool, E>,
    ) -> Result<(), E> {
        self.adopted.store(true, Ordering::Relaxed);
        self.nodes.clear();
        self.nodes.after_restarts(restarts, is_held)?;
        self.handles.clear();
        self.direct.clear();
        self.computed.clear();
        self.streams.clear();
        self.handles.after_restarts(restarts);
        self.news.open();
        Ok(())
    }

    pub(super) fn is_adopted(&self) -> bool {
        self.adopted.load(Ordering::Relaxed)
    }

    /// The event that the request `unique` caused before the server died, if it did.
    pub fn answered(&self, unique: u64) -> Option<Seq> {
        self.tree.store().answered(unique)
    }

    /// Whether `node` is `history/`, where labels are made, which are no events.
    pub fn is_history(&self, node: NodeId) -> bool {
        Place::of(node) == Some(Place::History)
    }

    /// What event `seq` made.
    pub fn made(&self, seq: Seq) -> Result<Entry, Refusal> {
        self.entry_again(Ino(seq.0), seq)
    }

    /// What event `seq` made a link to.
    pub fn linked(&self, file: NodeId, seq: Seq) -> Result<Entry, Refusal> {
        self.entry_again(self.changeable(file)?, seq)
    }

    /// The file that event `seq` made, opened.
    pub fn created(&self, flags: OpenFlags, seq: Seq) -> Result<(Entry, Opened), Refusal> {
        let entry = self.made(seq)?;
        let opened = self.opened(entry.node, Open::file(flags, None), false);
        Ok((entry, opened))
    }

    /// How many bytes of `range` event `seq` copied.
    pub fn copied(&self, range: &Range, seq: Seq) -> Result<u64, Refusal> {
        let source = self.tree.inode(self.changeable(range.src.0)?, seq.before())?;
        Ok(range.len.min(source.size.saturating_sub(range.src_offset)).min(COPY_MAX))
    }

    /// `ino` as it is; or as event `seq` left it, if somebody has ended it since.
    fn entry_again(&self, ino: Ino, seq: Seq) -> Result<Entry, Refusal> {
        match self.tree.inode(ino, Seq::NOW) {
            Ok(inode) => self.give_out(Tense::Now, None, &inode),
            Err(TreeRefusal::Stale) => {
                let then: Inode = self.tree.inode(ino, seq)?;
                let entry = self.give_out(Tense::Now, None, &then)?;
                Ok(Entry { entry_valid: Duration::ZERO, attr_valid: Duration::ZERO, ..entry })
            }
            Err(refusal) => Err(refusal.into()),
        }
    }
}
