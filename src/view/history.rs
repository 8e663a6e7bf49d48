//! `history/`: each name means a moment, and is the whole tree as it was then.
//!
//! | name | listed | how long the kernel may keep it |
//! |---|---|---|
//! | `@N`, an absolute time that is past | no | for ever |
//! | a full hour, as many as the options say | yes | for ever |
//! | a label | yes | not at all: it may be taken back, and given to another moment |
//! | a relative time | no | not at all; but it means the same tree for whoever is in it |
//! | anything unknown, or not yet | no | not at all: it may come to be |
//! | a moment before the horizon | no | not at all; of one that was there, the kernel is told |
//!
//! `mkdir` gives a label to the present, `rmdir` takes one back, and the attribute [`LABEL_XATTR`] set to `MOMENT/NAME` gives
//! one to another moment (a name may have any bytes but `/`, and no moment has one); nothing else can be changed here. Who owns the root
//! of the tree may do so, and the superuser: the mode of `history/` says that, and the kernel checks it.
//!
//! Invariants: whoever is in a tree stays at one sequence, whatever its name means by then; each name has nodes of
//! its own, even where two mean the same event.

use std::time::Duration;

use crate::proto::types::{Attr, Entry, FOREVER};
use crate::tree::{Ino, Inode, LabelError, Seq, Timestamp};

use super::listing::{Filling, Listed};
use super::moment::{self, Moment};
use super::news::News;
use super::nodes::{Entered, Place, Still, Tense};
use super::{Found, HISTORY_INO, ROOT_INO, Refusal, TreeRefusal, View, shown_ino};

/// Setting this attribute of `history/` labels a moment; it is never there to be read.
pub(super) const LABEL_XATTR: &[u8] = b"user.lighthouse.label";

/// How long a relative time still means what it meant at its last lookup: a program that takes several steps, each by
/// the whole path, meets one tree. Who looks at it for ever is to see it move on.
const STANDS_STILL: Still =
    Still { entered: Duration::from_secs(60), meant: Duration::from_secs(5 * 60) };

/// Most hours that are listed, whatever the options say: ten years.
const LISTED_HOURS_MAX: u32 = 10 * 366 * 24;

impl View {
    pub(super) fn history_attr(&self) -> Result<Attr, Refusal> {
        let top = self.top()?;
        // Its own `.` and its name; how many moments it holds is nobody's count.
        let attr = Self::synthetic(&top, HISTORY_INO, 2);
        Ok(Attr { mode: history_mode(top.mode), ..attr })
    }

    pub(super) fn history_lookup(&self, name: &[u8]) -> Result<Found, Refusal> {
        let (at, still, valid) = match moment::parse(name, Timestamp::now()) {
            Some(moment) => {
                let last = self.tree.last();
                let at = self.sequence(moment)?;
                match moment {
                    Moment::After(_) => (at, Still::EVER, FOREVER),
                    // No event is older than the one before it: once there was a later one, nothing can come between.
                    Moment::At(_) if at < last => (at, Still::EVER, FOREVER),
                    Moment::At(_) | Moment::Ago(_) => (at, STANDS_STILL, Duration::ZERO),
                }
            }
            None => {
                let at = self.tree.store().read().label(name).map_err(TreeRefusal::from)?;
                (at.ok_or(TreeRefusal::NotFound)?, Still::NOT, Duration::ZERO)
            }
        };
        self.enter(name, at, still, valid).map(Found::Entry)
    }

    /// Gives out the top of the tree after event `at` under `name`; `still` as of [`super::nodes::Nodes::enter`].
    fn enter(&self, name: &[u8], at: Seq, still: Still, valid: Duration) -> Result<Entry, Refusal> {
        let Entered { view, at, crowded_out } =
            self.nodes.enter(name, at, still).ok_or(Refusal::TooManyViews)?;
        self.ask_back(crowded_out);
        // Looked at again now that the view is bound: who moves the horizon from here on finds it.
        let entry = self
            .within_reach(at)
            .and_then(|()| self.top_at(at))
            .and_then(|top| self.give_out(Tense::Past(view), None, &top));
        self.nodes.let_go(view);
        // Below, everything is as fixed as the event; the name itself may come to mean another.
        Ok(Entry { entry_valid: valid, ..entry? })
    }

    /// Gives the label `name` to the tree as it is.
    pub(super) fn make_label(&self, name: &[u8]) -> Result<Entry, Refusal> {
        if !moment::may_be_label(name) {
            return Err(TreeRefusal::Invalid.into());
        }
        self.mark_all(self.drafts.take_every());
        let at = self.tree.store().label(name, None).map_err(label_refusal)?;
        self.enter(name, at, Still::NOT, Duration::ZERO)
    }

    /// Gives a label to a tree of the past: `value` is `MOMENT/NAME`.
    pub(super) fn label_moment(&self, value: &[u8]) -> Result<(), Refusal> {
        let mut parts = value.splitn(2, |&byte| byte == b'/');
        let (Some(moment), Some(name)) = (parts.next(), parts.next()) else {
            return Err(TreeRefusal::Invalid.into());
        };
        let moment = moment::parse(moment, Timestamp::now()).ok_or(TreeRefusal::Invalid)?;
        if !moment::may_be_label(name) {
            return Err(TreeRefusal::Invalid.into());
        }
        let at = self.sequence(moment)?;
        self.tree.store().label(name, Some(at)).map_err(label_refusal)?;
        // The kernel sees an attribute set, and no directory made; and the name may be one that it has not found.
        if let Some(history) = Place::History.node() {
            self.tell_twice(News::Content(history));
        }
        Ok(())
    }

    /// Takes the label `name` back. Whoever is in its tree stays there.
    pub(super) fn remove_label(&self, name: &[u8]) -> Result<(), Refusal> {
        if moment::parse(name, Timestamp::now()).is_some() {
            return Err(Refusal::ReadOnly);
        }
        self.tree.store().unlabel(name).map_err(label_refusal)?;
        // To the kernel its directory is gone, whoever is in it: the same label given again is another one.
        self.nodes.unname(name);
        Ok(())
    }

    /// The last event of `moment`, or why it cannot be shown.
    fn sequence(&self, moment: Moment) -> Result<Seq, Refusal> {
        let seq = match moment {
            Moment::After(seq) => seq,
            Moment::At(time) | Moment::Ago(time) if time < Timestamp::now() => {
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

    /// Lists full hours, the last first, then labels. None gives out its node: a listing would bind them all.
    pub(super) fn history_list(
        &self,
        offset: u64,
        filling: &mut Filling<'_>,
    ) -> Result<(), Refusal> {
        let mode = history_mode(self.top()?.mode);
        if !filling.push_dots(offset, HISTORY_INO, ROOT_INO, mode) {
            return Ok(());
        }
        let now = Timestamp::now();
        for hours_ago in 0..self.options.list_times.min(LISTED_HOURS_MAX) {
            let Some((stamp, time)) = moment::hour_stamp(now, hours_ago) else { break };
            let next = hour_offset(time);
            if next <= offset {
                continue;
            }
            let Ok(at) = self.sequence(Moment::At(time)) else { break };
            let top = self.top_at(at)?;
            let ino = shown_ino(at, &top);
            let listed = Listed { name: &stamp, ino, mode: top.mode, next, entry: None };
            if !filling.push(next, &listed) {
                return Ok(());
            }
        }
        self.list_labels(offset, filling)
    }

    fn list_labels(&self, offset: u64, filling: &mut Filling<'_>) -> Result<(), Refusal> {
        let mut labels: Vec<(u64, Vec<u8>, Seq)> = {
            let tables = self.tree.store().read();
            let labels = tables.labels().map_err(TreeRefusal::from)?.into_iter();
            labels.map(|(name, at)| (FIRST_LABEL | tables.hash(&name) >> 1, name, at)).collect()
        };
        // An offset says where a listing goes on whatever labels come and go meanwhile.
        labels.sort_unstable();
        for (hash, name, at) in labels {
            if hash < offset {
                continue;
            }
            // A tree that cannot be shown is no name here either.
            let Ok(top) = self.within_reach(at).and_then(|()| self.top_at(at)) else { continue };
            let (ino, mode) = (shown_ino(at, &top), top.mode);
            let listed = Listed { name: &name, ino, mode, next: hash + 1, entry: None };
            if !filling.push(hash, &listed) {
                break;
            }
        }
        Ok(())
    }
}

/// Offsets of labels in the listing, and those of hours below.
const FIRST_LABEL: u64 = 1 << 62;

/// Where a listing goes on after the hour of `time`, whatever hours pass meanwhile: the last hour comes first.
const fn hour_offset(time: Timestamp) -> u64 {
    // Far more hours than there are in 64 bits of nanoseconds.
    const EPOCH: u64 = 1 << 24;
    EPOCH.saturating_add_signed(-time.0.div_euclid(moment::HOUR_NS))
}

/// The mode of `history/`: what the tree's root lets others do to names, they may not do to labels.
pub(super) const fn history_mode(top: u32) -> u32 {
    const SET_ID_AND_STICKY: u32 = 0o7000;
    const OTHERS_WRITE: u32 = 0o022;
    const OWNER_WRITES: u32 = 0o200;
    top & !(SET_ID_AND_STICKY | OTHERS_WRITE) | OWNER_WRITES
}

fn label_refusal(error: LabelError) -> Refusal {
    Refusal::Tree(match error {
        LabelError::Name => TreeRefusal::Invalid,
        LabelError::Taken => TreeRefusal::Exists,
        LabelError::Missing | LabelError::NoTree => TreeRefusal::NotFound,
        LabelError::Commit(error) => error.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::listing::AFTER_DOTS;

    #[test]
    fn offsets_of_hours_stay_and_lie_between_dots_and_labels() {
        let now = Timestamp::now();
        let offsets = |now| -> Vec<u64> {
            let hours = (0..30).map_while(|ago| moment::hour_stamp(now, ago));
            hours.map(|(_, time)| hour_offset(time)).collect()
        };
        let later = Timestamp(now.0 + moment::HOUR_NS);
        assert_eq!(offsets(now)[..29], offsets(later)[1..]);
        assert!(offsets(now).is_sorted_by(|before, after| before < after));
        for time in [i64::MIN, i64::MAX] {
            let offset = hour_offset(Timestamp(time));
            assert!(offset > AFTER_DOTS && offset < FIRST_LABEL, "{offset}");
        }
    }
}
