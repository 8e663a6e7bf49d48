//! `history/`: each name means a moment, and is the whole tree as it was then.
//!
//! | name | listed | how long the kernel may keep it |
//! |---|---|---|
//! | `@N`, an absolute time that is past | no | for ever |
//! | a full hour, as many as the options say | yes | for ever |
//! | a relative time | no | not at all; but it means the same tree for whoever is in it |
//! | anything unknown, or not yet | no | not at all: it may come to be |
//! | a moment before the horizon | no | not at all; of one that was there, the kernel is told |
//!
//! Invariants: what a name leads to is bound to one sequence and never changes; each name has nodes of
//! its own, even where two mean the same event.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::proto::types::{Attr, Entry, FOREVER};
use crate::tree::{Ino, Inode, Seq, Timestamp};

use super::listing::{AFTER_DOT, AFTER_DOTS, Filling, Listed};
use super::moment::{self, Moment};
use super::nodes::{Entered, Tense};
use super::{Found, HISTORY_INO, ROOT_INO, Refusal, TreeRefusal, View, version};

/// How long after its last lookup a relative time still means what it meant then: a program that takes
/// several steps, each by the whole path, meets one tree.
const STANDS_STILL: Duration = Duration::from_secs(60);

/// Most hours that are listed, whatever the options say: ten years.
const LISTED_HOURS_MAX: u32 = 10 * 366 * 24;

impl View {
    pub(super) fn history_attr(&self) -> Result<Attr, Refusal> {
        // Its own `.` and its name; how many moments it holds is nobody's count.
        Ok(Self::synthetic(&self.top()?, HISTORY_INO, 2))
    }

    pub(super) fn history_lookup(&self, name: &[u8]) -> Result<Found, Refusal> {
        let moment = moment::parse(name, now()).ok_or(TreeRefusal::NotFound)?;
        let at = self.sequence(moment)?;
        let (still, valid) = match moment {
            Moment::After(_) | Moment::At(_) => (Duration::MAX, FOREVER),
            Moment::Ago(_) => (STANDS_STILL, Duration::ZERO),
        };
        let Entered { view, at, crowded_out } =
            self.nodes.enter(name, at, still).ok_or(Refusal::TooManyViews)?;
        self.ask_back(crowded_out);
        // Looked at again now that the view is bound: who moves the horizon from here on finds it.
        let entry = self
            .within_reach(at)
            .and_then(|()| self.top_at(at))
            .and_then(|top| self.give_out(Tense::Past(view), &top));
        self.nodes.let_go(view);
        // Below, everything is as fixed as the event; the name itself may come to mean another.
        Ok(Found::Entry(Entry { entry_valid: valid, ..entry? }))
    }

    /// The last event of `moment`, or why it cannot be shown.
    fn sequence(&self, moment: Moment) -> Result<Seq, Refusal> {
        let seq = match moment {
            Moment::After(seq) => seq,
            Moment::At(time) | Moment::Ago(time) if time < now() => {
                self.tree.store().read().seq_at(time).map_err(TreeRefusal::from)?
            }
            Moment::At(_) | Moment::Ago(_) => return Err(TreeRefusal::NotFound.into()),
        };
        if seq < Seq::FIRST || seq > self.tree.last() {
            return Err(TreeRefusal::NotFound.into());
        }
        self.within_reach(seq).map(|()| seq)
    }

    /// Whether history still reaches back to `at`.
    fn within_reach(&self, at: Seq) -> Result<(), Refusal> {
        if at < self.tree.store().horizon() { Err(TreeRefusal::NotFound.into()) } else { Ok(()) }
    }

    fn top_at(&self, at: Seq) -> Result<Inode, Refusal> {
        match self.tree.inode(Ino::ROOT, at) {
            Err(TreeRefusal::Stale) => Err(TreeRefusal::NotFound.into()),
            other => Ok(other?),
        }
    }

    /// Lists full hours, the last first. None gives out its node: a listing would bind them all.
    pub(super) fn history_list(
        &self,
        offset: u64,
        filling: &mut Filling<'_>,
    ) -> Result<(), Refusal> {
        let mode = self.top()?.mode;
        for (next, name, ino) in
            [(AFTER_DOT, &b"."[..], HISTORY_INO), (AFTER_DOTS, b"..", ROOT_INO)]
        {
            let listed = Listed { name, ino, mode, next, entry: None };
            if next > offset && !filling.push(next, &listed) {
                return Ok(());
            }
        }
        let now = now();
        for (next, hours_ago) in
            (AFTER_DOTS + 1..).zip(0..self.options.list_times.min(LISTED_HOURS_MAX))
        {
            if next <= offset {
                continue;
            }
            let Some((stamp, time)) = moment::hour_stamp(now, hours_ago) else { break };
            let Ok(at) = self.sequence(Moment::At(time)) else { break };
            let top = self.top_at(at)?;
            let ino = version(&top);
            let listed = Listed { name: &stamp, ino, mode: top.mode, next, entry: None };
            if !filling.push(next, &listed) {
                break;
            }
        }
        Ok(())
    }
}

fn now() -> Timestamp {
    let now = match SystemTime::now().duration_since(UNIX_EPOCH) {
        Ok(since) => i64::try_from(since.as_nanos()).unwrap_or(i64::MAX),
        Err(before) => i64::try_from(before.duration().as_nanos()).map_or(i64::MIN, |ns| -ns),
    };
    Timestamp(now)
}
