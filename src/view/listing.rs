//! Directory entries on their way into a reply that bounds them.
//!
//! An entry's offset is where the listing goes on after it: 1 after `.`, 2 after `..`, then in a tree one
//! more than the hash of the name, which stays whatever else comes and goes in the directory.
//!
//! Invariants: a reply never ends between names of equal hash, since the next one could not go on
//! between them; a lookup is counted for each node that the reply gives out, and for no other.

use crate::proto::types::{Entry, NodeId};

use super::nodes::Nodes;

/// One name of a directory.
#[derive(Clone, Copy, Debug)]
pub struct Listed<'a> {
    /// The name; `.` and `..` too.
    pub name: &'a [u8],
    /// `st_ino` of what it names.
    pub ino: u64,
    /// Its mode; the type bits count.
    pub mode: u32,
    /// Where the listing goes on after it.
    pub next: u64,
    /// The node that is given out with it, where attributes were asked for.
    pub entry: Option<&'a Entry>,
}

/// A reply that entries go into.
pub trait Page {
    /// Adds one entry; `false`, and nothing added, if it does not fit.
    fn push(&mut self, listed: &Listed<'_>) -> bool;
    /// How much was added: a mark to go back to.
    fn mark(&self) -> usize;
    /// Takes back what was added after `mark`.
    fn back_to(&mut self, mark: usize);
}

/// Offset after `.`.
pub(super) const AFTER_DOT: u64 = 1;
/// Offset after `..`; where names begin.
pub(super) const AFTER_DOTS: u64 = 2;

/// Adds names to a page, those of equal hash together.
pub(super) struct Filling<'p> {
    page: &'p mut dyn Page,
    nodes: &'p Nodes,
    /// What is listed.
    pub(super) directory: NodeId,
    /// Of the names added last, the hash they share.
    hash: u64,
    /// Where the first of them begins.
    mark: usize,
    /// Nodes given out with them.
    first: Option<NodeId>,
    more: Vec<NodeId>,
}

impl<'p> Filling<'p> {
    pub(super) fn new(page: &'p mut dyn Page, nodes: &'p Nodes, directory: NodeId) -> Self {
        let mark = page.mark();
        Self { page, nodes, directory, hash: 0, mark, first: None, more: Vec::new() }
    }

    /// Adds `.` and `..`, if they are behind `offset`; `false` once the page is full.
    pub(super) fn push_dots(&mut self, offset: u64, own: u64, above: u64, mode: u32) -> bool {
        let dots = [(AFTER_DOT, &b"."[..], own), (AFTER_DOTS, b"..", above)];
        let mut behind = dots.into_iter().filter(|(next, ..)| *next > offset);
        behind.all(|(next, name, ino)| {
            self.push(next, &Listed { name, ino, mode, next, entry: None })
        })
    }

    /// Adds a name whose hash is `hash`; `false` once the page is full.
    pub(super) fn push(&mut self, hash: u64, listed: &Listed<'_>) -> bool {
        if hash != self.hash {
            self.hash = hash;
            self.mark = self.page.mark();
            self.first = None;
            self.more.clear();
        }
        if !self.page.push(listed) {
            // What is first on a page stays even so: it could never be listed otherwise.
            if self.mark > 0 && self.page.mark() > self.mark {
                self.page.back_to(self.mark);
                for node in self.first.take().into_iter().chain(self.more.drain(..)) {
                    self.nodes.forgotten(node, 1);
                }
            }
            return false;
        }
        if let Some(entry) = listed.entry {
            self.nodes.looked_up(entry.node, Some(self.directory));
            if self.first.is_none() {
                self.first = Some(entry.node);
            } else {
                self.more.push(entry.node);
            }
        }
        true
    }

    /// Whether anything is on the page.
    pub(super) fn any(&self) -> bool {
        self.page.mark() > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::types::Attr;
    use std::time::Duration;

    /// Holds so many names.
    struct Few(usize, Vec<Vec<u8>>);

    impl Page for Few {
        fn push(&mut self, listed: &Listed<'_>) -> bool {
            let fits = self.1.len() < self.0;
            if fits {
                self.1.push(listed.name.to_vec());
            }
            fits
        }
        fn mark(&self) -> usize {
            self.1.len()
        }
        fn back_to(&mut self, mark: usize) {
            self.1.truncate(mark);
        }
    }

    fn fill(room: usize, hashes: &[u64]) -> (Vec<Vec<u8>>, Nodes) {
        let nodes = Nodes::new();
        let mut page = Few(room, Vec::new());
        let mut filling = Filling::new(&mut page, &nodes, NodeId::ROOT);
        for (number, &hash) in hashes.iter().enumerate() {
            let entry = Entry {
                node: NodeId::new(number as u64 + 10).unwrap(),
                generation: 0,
                attr: Attr::default(),
                entry_valid: Duration::ZERO,
                attr_valid: Duration::ZERO,
            };
            let name = number.to_string();
            let listed = Listed {
                name: name.as_bytes(),
                ino: 1,
                mode: 0,
                next: hash + 1,
                entry: Some(&entry),
            };
            if !filling.push(hash, &listed) {
                break;
            }
        }
        (page.1, nodes)
    }

    #[test]
    fn a_page_never_ends_between_equal_hashes() {
        for (room, hashes, kept) in [
            (3, &[20, 30, 40, 50][..], 3),
            (3, &[20, 30, 40, 40], 2),
            (3, &[20, 30, 30, 30], 1),
            (2, &[30, 30, 30], 2),
            (9, &[20, 30, 30], 3),
        ] {
            let (names, nodes) = fill(room, hashes);
            assert_eq!(names.len(), kept, "{hashes:?} into {room}");
            assert_eq!(nodes.len(), kept, "lookups of {hashes:?} into {room}");
        }
    }
}
