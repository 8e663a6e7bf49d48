//! The mount's own root: `current` and `history`, and what else the options say; and `.agent`, which is not listed.
//!
//! Owner, mode and access control list are those of the tree's root, so that who may work in `current/` may enter. The
//! names are there since the tree is, so the times are when that was.

use crate::proto::types::{Attr, Entry, FOREVER};
use crate::tree::{Ino, Inode, Seq};

use super::agent::AGENT;
use super::listing::{AFTER_DOT, Filling, Listed};
use super::made::Made;
use super::nodes::{Place, Tense};
use super::{Asker, Found, HISTORY_INO, ROOT_INO, Refusal, TreeRefusal, View, attr};

/// The name of the directory that shows the present.
pub(super) const CURRENT: &[u8] = b"current";
/// The name of the directory that shows the past.
pub(super) const HISTORY: &[u8] = b"history";
/// What else there may be, in the order in which it is listed.
const SECTIONS: [(&[u8], Made); 4] = [
    (b"shadows", Made::Shadow(Ino::ROOT)),
    (b"context", Made::Context),
    (b"streams", Made::Streams),
    (b"debug", Made::Debug),
];

impl View {
    /// Attributes of the root directory of the present tree.
    pub(super) fn top(&self) -> Result<Inode, Refusal> {
        Ok(self.tree.inode(Ino::ROOT, Seq::NOW)?)
    }

    /// Attributes of the mount's root or of `history`, which look like `top` but are not it. Its times move with
    /// each name in `current/`, of which the kernel would have to be told each time.
    pub(super) fn synthetic(top: &Inode, ino: u64, nlink: u32) -> Attr {
        let attr = attr(Seq::NOW, top);
        let born = attr.btime;
        Attr { ino, size: 0, blocks: 0, nlink, atime: born, mtime: born, ctime: born, ..attr }
    }

    pub(super) fn root_attr(&self) -> Result<Attr, Refusal> {
        // Itself, its name, and the `..` of its directories.
        let nlink = 4 + u32::try_from(self.sections().len()).unwrap_or(0);
        Ok(Self::synthetic(&self.top()?, ROOT_INO, nlink))
    }

    fn sections(&self) -> &'static [(&'static [u8], Made)] {
        if self.options.sections { &SECTIONS } else { &[] }
    }

    pub(super) fn root_lookup(&self, asker: &Asker<'_>, name: &[u8]) -> Result<Found, Refusal> {
        let entry = match name {
            CURRENT => self.entry(Tense::Now, &self.top()?)?,
            HISTORY => self.history_entry()?,
            AGENT => return self.agent_lookup(asker),
            _ => {
                let made = self.sections().iter().find(|(section, _)| *section == name);
                return match made {
                    Some(&(_, made)) => self.give_out_made(made),
                    None => Ok(Found::Absent(FOREVER)),
                };
            }
        };
        self.nodes.looked_up(entry.node, None);
        Ok(Found::Entry(entry))
    }

    fn history_entry(&self) -> Result<Entry, Refusal> {
        Ok(Entry {
            node: Place::History.node().ok_or(TreeRefusal::Stale)?,
            generation: 0,
            attr: self.history_attr()?,
            entry_valid: self.options.caching.names,
            attr_valid: self.options.caching.attributes,
        })
    }

    pub(super) fn root_list(
        &self,
        offset: u64,
        plus: bool,
        filling: &mut Filling<'_>,
    ) -> Result<(), Refusal> {
        let top = self.top()?;
        let (current, history) = (self.entry(Tense::Now, &top)?, self.history_entry()?);
        let names: [(&[u8], u64, Option<&Entry>); 4] = [
            (b".", ROOT_INO, None),
            (b"..", ROOT_INO, None),
            (CURRENT, current.attr.ino, Some(&current)),
            (HISTORY, HISTORY_INO, Some(&history)),
        ];
        for (next, (name, ino, entry)) in (AFTER_DOT..).zip(names) {
            let entry = entry.filter(|_| plus);
            let listed = Listed { name, ino, mode: top.mode, next, entry };
            if next > offset && !filling.push(next, &listed) {
                return Ok(());
            }
        }
        for (next, &(name, made)) in (AFTER_DOT + 4..).zip(self.sections()) {
            if next <= offset {
                continue;
            }
            let entry = self.made_entry(made)?;
            let listed = Listed {
                name,
                ino: entry.attr.ino,
                mode: entry.attr.mode,
                next,
                entry: Some(&entry).filter(|_| plus),
            };
            if !filling.push(next, &listed) {
                break;
            }
        }
        Ok(())
    }
}
