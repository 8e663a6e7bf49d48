//! What became of a file, the newest edit first: by whom, and what was there before.
//!
//! A path's past runs through the files it led to, for git replaces a file by removing it and making another, and editors by
//! renaming one over it; and a file that was renamed to a name that was free brings its own past along.
//!
//! ```text
//!  inode 9    create 9 <- write 10 <- write 11
//!                                        ^
//!  inode 12   create 12 <- write 13 <- rename 15 to the name of 9, which ends there
//! ```
//!
//! **An edit** is what one process did to the content without a pause of [`PAUSE`] in between: programs write a file
//! in pieces, and most begin by cutting it to nothing. So an empty file never ends an edit, cutting one to nothing
//! begins one, and so does taking a name from another file.
//!
//! Invariants: sequences go down; [`Edits::next`] ends, after [`CHANGES_MAX`] changes of attributes at the latest;
//! nothing before the horizon is looked at.

use std::collections::VecDeque;
use std::time::Duration;

use crate::store::log::Next;
use crate::store::record::Entry;

use super::operation::{S_IFMT, S_IFREG};
use super::{Actor, ActorId, Ino, Inode, Refusal, Seq, Stretch, Timestamp, Tree};

/// What is further apart is two edits: a version ends after as much silence, too.
pub const PAUSE: Duration = Duration::from_secs(2);
/// So many changes of a file and of the directory it is in are looked at, those that change no content among them.
pub const CHANGES_MAX: usize = 1024;
/// An edit of more changes is told as several.
const EDIT_MAX: usize = 256;
/// A name that was taken away is looked for in so many changes of its directory.
const REMOVALS_MAX: usize = 64;
/// So many records of the log are passed over rather than looking for the next one anew.
const RECORDS_MAX: usize = 1024;

/// One change of the content that a path leads to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Change {
    /// The event.
    pub seq: Seq,
    /// When.
    pub time: Timestamp,
    /// Who; 0 where the log does not say it any more.
    pub actor: ActorId,
    /// What was there before; `None` if nothing.
    pub before: Option<Content>,
    /// How long the file was afterwards.
    size: u64,
    /// The path led to another file before.
    replaces: bool,
}

/// What a path led to at some time.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Content {
    /// The attributes of the file then.
    pub inode: Inode,
    /// The event after which.
    pub at: Seq,
}

/// Changes that belong together.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Edit {
    /// The last one.
    pub last: Change,
    /// Those before it, the newest first.
    pub earlier: Vec<Change>,
}

impl Edit {
    /// All, the newest first.
    pub fn changes(&self) -> impl Iterator<Item = &Change> {
        std::iter::once(&self.last).chain(&self.earlier)
    }

    /// The first.
    #[must_use]
    pub fn first(&self) -> &Change {
        self.earlier.last().unwrap_or(&self.last)
    }
}

/// Where going back has come to.
#[derive(Clone, Debug)]
struct Place {
    ino: Ino,
    at: Seq,
    /// The directory and name it has there, and since which event.
    named: Option<(Ino, Vec<u8>, Seq)>,
}

/// The edits of a file; see [`Tree::edits`].
#[derive(Debug)]
pub struct Edits<'t> {
    tree: &'t Tree,
    place: Option<Place>,
    looked: usize,
    /// Changes that are close to each other, with their actors.
    close: VecDeque<Change>,
    /// The one before those.
    next: Option<Change>,
}

impl Tree {
    /// The edits of the regular file `ino` up to event `at`, under the first of its names.
    pub fn edits(&self, ino: Ino, at: Seq) -> Result<Edits<'_>, Refusal> {
        let place = Place { ino, at, named: self.named(ino, at)? };
        Ok(Edits { tree: self, place: Some(place), looked: 0, close: VecDeque::new(), next: None })
    }

    /// A name of `ino`, and since when it has it.
    fn named(&self, ino: Ino, at: Seq) -> Result<Option<(Ino, Vec<u8>, Seq)>, Refusal> {
        let Some((parent, name)) = self.names(ino, at)?.into_iter().next() else { return Ok(None) };
        let entry = self.entry(parent, &name, at)?;
        Ok(entry.map(|entry| (parent, name, entry.since)))
    }

    /// Who caused the events `seqs`, which go up.
    fn actors_of(&self, seqs: &[Seq]) -> Result<Vec<ActorId>, Refusal> {
        let mut actors = Vec::with_capacity(seqs.len());
        let mut reader = None;
        for &seq in seqs {
            let mut actor = None;
            for _ in 0..2 {
                // Where the last one was found the next may be near.
                let mut at = match reader.take() {
                    Some(at) => at,
                    None => self.store.log_from(seq).map_err(Refusal::Io)?,
                };
                for _ in 0..RECORDS_MAX {
                    let Next::Record(_, record) = at.read().map_err(Refusal::Io)? else { break };
                    if record.is_event() && record.stamp().seq >= seq {
                        if let Some(Entry::Event(event)) = record.entry() {
                            actor = Some(event.actor).filter(|_| event.seq == seq);
                        }
                        break;
                    }
                }
                if actor.is_some() {
                    reader = Some(at);
                    break;
                }
            }
            actors.push(actor.unwrap_or_default());
        }
        Ok(actors)
    }
}

impl Edits<'_> {
    /// The edit before the last one that was told; `None` after the one before which there was nothing, and where history
    /// does not reach back to it or too much has happened since.
    #[expect(clippy::should_implement_trait, reason = "it may fail")]
    pub fn next(&mut self) -> Result<Option<Edit>, Refusal> {
        if self.close.is_empty() {
            self.gather()?;
        }
        let Some(last) = self.close.pop_front() else { return Ok(None) };
        let mut edit = Edit { last, earlier: Vec::new() };
        while let Some(change) = self.close.front()
            && self.belong(edit.first(), change)
        {
            edit.earlier.extend(self.close.pop_front());
        }
        Ok(Some(edit))
    }

    /// Whether `earlier` and the change after it, `later`, are of one edit.
    fn belong(&self, later: &Change, earlier: &Change) -> bool {
        let between = later.before.map_or(0, |content| content.inode.size);
        if later.replaces || (between > 0 && later.size == 0) {
            return false;
        }
        between == 0 || self.same_process(later.actor, earlier.actor)
    }

    /// A process that went on as another program is the same.
    fn same_process(&self, one: ActorId, other: ActorId) -> bool {
        if one == other {
            return true;
        }
        let process = |id| {
            let known: Option<Actor> = self.tree.store.actor_of(id).filter(|it| it.pid != 0);
            known.map(|it| (it.pid, it.start_time, it.ambiguous))
        };
        let one = process(one);
        one.is_some() && one == process(other)
    }

    /// Takes together what has no pause in between, and looks up who it was.
    fn gather(&mut self) -> Result<(), Refusal> {
        let pause = i64::try_from(PAUSE.as_nanos()).unwrap_or(i64::MAX);
        let mut next = match self.next.take() {
            Some(next) => Some(next),
            None => self.change()?,
        };
        while let Some(change) = next.take() {
            let later = self.close.back();
            let apart = later.is_some_and(|later| {
                later.replaces || later.time.0.saturating_sub(change.time.0) > pause
            });
            if apart || self.close.len() >= EDIT_MAX {
                self.next = Some(change);
                break;
            }
            self.close.push_back(change);
            next = self.change()?;
        }
        let seqs: Vec<Seq> = self.close.iter().rev().map(|change| change.seq).collect();
        let actors = self.tree.actors_of(&seqs)?;
        for (change, actor) in self.close.iter_mut().rev().zip(actors) {
            change.actor = actor;
        }
        Ok(())
    }

    /// The next earlier change of content.
    fn change(&mut self) -> Result<Option<Change>, Refusal> {
        let horizon = self.tree.store.horizon();
        while let Some(place) = self.place.take() {
            self.looked += 1;
            let inode = self.tree.inode(place.ino, place.at)?;
            let seq = inode.changed;
            let before = seq.before();
            if before < horizon || self.looked > CHANGES_MAX {
                return Ok(None);
            }
            let (earlier, replaces) = match &place.named {
                Some((parent, name, since)) if *since == seq => {
                    self.before_naming(place.ino, seq, (*parent, name.clone()))?
                }
                named if place.ino.0 < seq.0 => {
                    (Some(Place { ino: place.ino, at: before, named: named.clone() }), false)
                }
                _ => (None, false),
            };
            let content = match &earlier {
                Some(place) => {
                    Some(Content { inode: self.tree.inode(place.ino, place.at)?, at: place.at })
                }
                None => None,
            };
            let same = !replaces && content.is_some_and(|content| content.inode.size == inode.size);
            let same = same && self.stretches(&inode, seq)? == self.stretches(&inode, before)?;
            self.place = earlier;
            if !same {
                let (time, size) = (inode.ctime, inode.size);
                let actor = ActorId::default();
                return Ok(Some(Change { seq, time, actor, before: content, size, replaces }));
            }
        }
        Ok(None)
    }

    fn stretches(&self, inode: &Inode, at: Seq) -> Result<Vec<Stretch>, Refusal> {
        let mut stretches = Vec::new();
        self.tree.stretches(inode.ino, 0, inode.size, at, &mut stretches)?;
        Ok(stretches)
    }

    /// What a name led to before event `seq`, since which it leads to `ino`; and whether that was another file.
    fn before_naming(
        &mut self,
        ino: Ino,
        seq: Seq,
        (parent, name): (Ino, Vec<u8>),
    ) -> Result<(Option<Place>, bool), Refusal> {
        let before = seq.before();
        if let Some(place) = self.led_to(parent, &name, before)? {
            return Ok((place, true));
        }
        let was_there = ino.0 < seq.0;
        if was_there && let Some(named) = self.tree.named(ino, before)? {
            return Ok((Some(Place { ino, at: before, named: Some(named) }), false));
        }
        if let Some(removed) = self.removed(parent, &name, before)? {
            return Ok((Some(removed), true));
        }
        let nameless = Place { ino, at: before, named: None };
        Ok((Some(nameless).filter(|_| was_there), false))
    }

    /// The file that a name led to after event `at`, or that it was no file; `None` if it led nowhere.
    fn led_to(&self, parent: Ino, name: &[u8], at: Seq) -> Result<Option<Option<Place>>, Refusal> {
        let entry = self.tree.entry(parent, name, at)?;
        Ok(entry.map(|entry| {
            let named = Some((parent, name.to_vec(), entry.since));
            (entry.kind & S_IFMT == S_IFREG).then_some(Place { ino: entry.ino, at, named })
        }))
    }

    /// The file whose name was taken away before event `at`, if that is not long ago.
    fn removed(&mut self, parent: Ino, name: &[u8], at: Seq) -> Result<Option<Place>, Refusal> {
        let horizon = self.tree.store.horizon();
        let mut at = at;
        for _ in 0..REMOVALS_MAX {
            self.looked += 1;
            let changed = match self.tree.inode(parent, at) {
                Ok(directory) => directory.changed,
                // It is younger.
                Err(Refusal::Stale) => return Ok(None),
                Err(refusal) => return Err(refusal),
            };
            at = changed.before();
            if at < horizon {
                return Ok(None);
            }
            if let Some(place) = self.led_to(parent, name, at)? {
                return Ok(place);
            }
        }
        Ok(None)
    }
}
