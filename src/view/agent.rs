//! `.agent` in the mount's root: whom the server takes the reader for, and how a process says whom it works for.
//!
//! ```text
//! echo NAME > .agent            the shell that does this, and all it starts, are agent NAME from now on
//! echo NAME SESSION > .agent    the same, in a session
//! echo TOKEN > .agent           the same, as the session made over HTTP says
//! cat .agent                    NAME SESSION: whom the log names for what the reader does; empty for nobody
//! ```
//!
//! The kernel tells which process writes, and that one is meant: nobody registers another so. A shell's `echo` is the shell
//! itself; `( echo NAME > .agent; make )` is a process of its own, and ends with the bracket.
//!
//! It is not listed, for it is no part of the project: what walks the mount does not meet it. Who may enter the mount's
//! root may use it. It is open to those whom the rules keep out elsewhere: else nobody could show them a session.
//!
//! Invariant: no write waits for the caller's memory; opening to read does, as long as [`Agents::identity`] may.
//!
//! [`Agents::identity`]: crate::agents::Agents

use crate::proto::types::{Attr, Caller};
use crate::tree::Inode;
use crate::tree::operation::S_IFREG;

use super::made::Made;
use super::{Asker, Bytes, Refusal, Unregistered, View, time};

/// Its name.
pub(super) const AGENT: &[u8] = b".agent";
/// Longest line that is written to it, in bytes.
const LINE_MAX: usize = 2048;

impl View {
    /// As of a file in `/proc`: its size says nothing of what a reader gets.
    pub(super) fn agent_attr(&self, top: &Inode) -> Attr {
        Attr {
            ino: Made::Agent.ino(),
            mode: S_IFREG | 0o666,
            nlink: 1,
            ..self.made_base(top, time(self.began))
        }
    }

    /// What it says to whoever asks.
    pub(super) fn agent_line(&self, asker: &Asker<'_>) -> Vec<u8> {
        let Caller { uid, gid, pid } = asker.caller;
        let (agent, session) = self.agents.recorded(uid, gid, pid);
        let mut line = [agent, session].join(&b' ').trim_ascii_end().to_vec();
        line.extend(line.first().map(|_| b'\n'));
        line
    }

    /// Takes what is written to it: each write says it anew, wherever in the file it goes.
    pub(super) fn agent_claim(&self, asker: &Asker<'_>, bytes: &Bytes<'_>) -> Result<u64, Refusal> {
        let text = bytes.data;
        if text.len() > LINE_MAX {
            return Err(Refusal::Unregistered(Unregistered::Malformed));
        }
        if bytes.from_cache {
            // Written back by whomever the kernel found.
            return Err(Refusal::Unregistered(Unregistered::NoSuchProcess));
        }
        self.agents.claim(asker.caller.uid, asker.caller.pid, text)?;
        Ok(text.len() as u64)
    }
}
