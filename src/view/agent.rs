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
//! Where files are read without having been opened, it is not asked for when somebody opens it, and the kernel would keep what
//! one reader got for the next. So there its name, which the kernel looks up anew each time, leads to a file for each
//! line that there is to say, and whoever looks it up gets the one with theirs. Nothing can be written there.
//!
//! It is not listed, for it is no part of the project: what walks the mount does not meet it. Who may enter the mount's
//! root may use it. It is open to those whom the rules keep out elsewhere: else nobody could show them a session.
//!
//! Invariants: no write waits for the caller's memory; opening to read does, as long as [`Agents::identity`] may, or where
//! nothing is opened looking it up; a file with a line has that line and no other for as long as the kernel knows it.
//!
//! [`Agents::identity`]: crate::agents::Agents

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustc_hash::FxHashMap;

use crate::proto::types::{Attr, Caller};
use crate::tree::Inode;
use crate::tree::operation::S_IFREG;

use super::made::{Made, node};
use super::{Asker, Bytes, Found, Refusal, TreeRefusal, Unregistered, View, time};

/// Its name.
pub(super) const AGENT: &[u8] = b".agent";
/// Longest line that is written to it, in bytes.
const LINE_MAX: usize = 2048;
/// A line that was looked up is kept for so long at least: until then the kernel has been told of it, or never will be.
const KEPT_FOR: Duration = Duration::from_secs(5);

/// Lines that are read without having been opened, by the numbers of their files.
#[derive(Debug, Default)]
pub(super) struct Lines {
    /// Makes the numbers: others in each process, so that none means another line to a kernel that is taken over.
    numbers: RandomState,
    known: Mutex<FxHashMap<u64, Line>>,
}

#[derive(Debug)]
struct Line {
    text: Arc<[u8]>,
    looked_up: Instant,
}

impl Lines {
    /// Numbers are below this (2^47).
    pub(super) const LIMIT: u64 = 1 << 47;

    /// The number of `text`, which is known from now on.
    fn number(&self, text: &[u8]) -> u64 {
        let mut known = self.known.lock();
        let mut number = self.numbers.hash_one(text) % Self::LIMIT;
        while known.get(&number).is_some_and(|line| *line.text != *text) {
            number = (number + 1) % Self::LIMIT;
        }
        let line = Line { text: text.into(), looked_up: Instant::now() };
        known.insert(number, line);
        number
    }

    fn get(&self, number: u64) -> Option<Arc<[u8]>> {
        self.known.lock().get(&number).map(|line| Arc::clone(&line.text))
    }

    pub(super) fn clear(&self) {
        self.known.lock().clear();
    }

    /// Lets go of those that were looked up some time before `now` and that nobody `knows` any more.
    fn let_go(&self, now: Instant, knows: impl Fn(u64) -> bool) {
        self.known.lock().retain(|&number, line| {
            now.saturating_duration_since(line.looked_up) < KEPT_FOR || knows(number)
        });
    }
}

impl View {
    /// What the name leads to.
    pub(super) fn agent_lookup(&self, asker: &Asker<'_>) -> Result<Found, Refusal> {
        self.give_out_made(if self.opens_files() {
            Made::Agent
        } else {
            Made::AgentLine(self.lines.number(&self.agent_line(asker)))
        })
    }

    /// What the file of a line holds.
    pub(super) fn line(&self, number: u64) -> Result<Arc<[u8]>, Refusal> {
        self.lines.get(number).ok_or(Refusal::Tree(TreeRefusal::Stale))
    }

    /// What the clock alone brings about: lines that the kernel has forgotten are let go.
    pub(super) fn tick_lines(&self, now: Instant) {
        self.lines.let_go(now, |number| {
            node(Made::AgentLine(number)).is_ok_and(|node| self.nodes.knows(node))
        });
    }

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_keeps_its_number_while_somebody_knows_it() {
        let lines = Lines::default();
        let (one, other) = (lines.number(b"one\n"), lines.number(b"other\n"));
        assert_ne!(one, other);
        assert!(one < Lines::LIMIT && other < Lines::LIMIT);
        assert_eq!(lines.number(b"one\n"), one);
        assert_eq!(lines.get(one).as_deref(), Some(&b"one\n"[..]));
        let now = Instant::now();
        lines.let_go(now, |_| false);
        assert!(lines.get(one).is_some() && lines.get(other).is_some(), "they were just looked up");
        lines.let_go(now + KEPT_FOR * 2, |number| number == other);
        assert_eq!(lines.get(one), None);
        assert_eq!(lines.get(other).as_deref(), Some(&b"other\n"[..]));
        assert_ne!(
            Lines::default().number(b"one\n"),
            one,
            "another process numbers them otherwise"
        );
    }

    #[test]
    fn two_lines_never_share_a_number() {
        let lines = Lines::default();
        let number = lines.number(b"one");
        let taken = Line { text: (*b"taken").into(), looked_up: Instant::now() };
        lines.known.lock().insert(number, taken);
        let next = lines.number(b"one");
        assert_eq!(next, (number + 1) % Lines::LIMIT);
        assert_eq!(lines.get(number).as_deref(), Some(&b"taken"[..]));
        assert_eq!(lines.get(next).as_deref(), Some(&b"one"[..]));
    }
}
