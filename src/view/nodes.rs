//! Node numbers, how often the kernel has looked each one up, and which view of the past is bound to what.
//!
//! ```text
//!  63         48 47                                0
//! +-------------+-----------------------------------+
//! | view        | inode                             |
//! +-------------+-----------------------------------+
//!   0             1                  the mount's root (FUSE_ROOT_ID)
//!   0             2 ..               the present; 2 is `current`
//!   1 .. 0xfffb   2 ..               the tree after the event the view is bound to
//!   0xfffc ..                        what is computed: see made.rs
//!   0xffff        1                  `history`
//! ```
//!
//! A directory has one parent per view, as the kernel demands: a node under two names makes it move the
//! dentry and take the working directory of whoever is in it along.
//!
//! Invariants: inode numbers stay below 2^48, so (view, inode) fits; a view is bound to one event from
//! the first lookup of its name until the kernel has forgotten every node of it, so whoever is in it
//! sees one tree. A name looked up again leads to the same view while that one is bound, unless the name
//! has come to mean another event and nobody has looked it up for a while, or has done so for long. After a restart no view
//! has the number of one that the kernel still holds: see [`Nodes::after_restarts`].

use std::num::NonZeroU16;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};
use rustc_hash::FxHashMap;

use crate::proto::types::NodeId;
use crate::tree::{Ino, Seq};

use super::made::Made;

/// Bits of a node number that hold the inode.
const INO_BITS: u32 = 48;
const INO_MASK: u64 = (1 << INO_BITS) - 1;
/// The view of nodes that are in no tree.
pub(super) const SYNTHETIC: u16 = u16::MAX;
/// Views from here on are none of the past.
pub(super) const FIRST_MADE: u16 = 0xfffc;
/// Views of the past that can be bound at once.
pub(crate) const VIEWS_MAX: usize = FIRST_MADE as usize - 1;
/// Lookup counts are spread over so many locks.
const SHARDS: usize = 64;

/// Which tree a node is of: the present, or a view of the past.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) enum Tense {
    Now,
    Past(NonZeroU16),
}

/// What a node number stands for. That it parses does not mean that it was given out.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Place {
    Root,
    History,
    Tree(Tense, Ino),
    /// In no tree: computed.
    Made(Made),
}

impl Place {
    pub(crate) fn of(node: NodeId) -> Option<Self> {
        let ino = node.get() & INO_MASK;
        // 16 bits are left.
        match ((node.get() >> INO_BITS) as u16, ino) {
            (0, 1) => Some(Self::Root),
            (SYNTHETIC, 1) => Some(Self::History),
            (view @ FIRST_MADE.., low) => Made::of(view, low).map(Self::Made),
            (_, 0 | 1) => None,
            (view, _) => {
                Some(Self::Tree(NonZeroU16::new(view).map_or(Tense::Now, Tense::Past), Ino(ino)))
            }
        }
    }

    /// The node number; `None` for an inode number beyond what a store gives out.
    pub(crate) fn node(self) -> Option<NodeId> {
        let (view, ino) = match self {
            Self::Root => (0, 1),
            Self::History => (SYNTHETIC, 1),
            Self::Tree(Tense::Now, ino) => (0, ino.0),
            Self::Tree(Tense::Past(view), ino) => (view.get(), ino.0),
            Self::Made(made) => made.number(),
        };
        if ino > INO_MASK {
            return None;
        }
        NodeId::new(u64::from(view) << INO_BITS | ino)
    }
}

/// What the kernel knows.
#[derive(Debug)]
pub(crate) struct Nodes {
    /// By node number; at 24 bytes a node, and as many to spare.
    known: [Mutex<FxHashMap<u64, Known>>; SHARDS],
    /// Of directories, how many of their nodes the kernel has forgotten since it last read the listing.
    forgotten: Mutex<FxHashMap<NodeId, u64>>,
    /// Of nodes of the past.
    generation: AtomicU64,
    views: RwLock<Views>,
}

/// A node that the kernel knows.
#[derive(Clone, Copy, Debug, Default)]
struct Known {
    /// Not yet forgotten.
    lookups: u64,
    /// The directory that it was last found in, if that is known.
    within: Option<NodeId>,
}

/// A node that the kernel knew, and does not any more.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Gone {
    /// The directory that it was last found in, if that is known.
    pub(crate) within: Option<NodeId>,
}

#[derive(Debug, Default)]
struct Views {
    /// View `n` is at `n - 1`.
    slots: Vec<Option<Bound>>,
    free: std::collections::VecDeque<NonZeroU16>,
    names: FxHashMap<Box<[u8]>, NonZeroU16>,
    /// How many slots are in use: more than there are names where a name has moved on.
    bound: usize,
    /// How many the kernel holds since a predecessor of this process gave them out.
    taken: usize,
    asked_back: bool,
}

#[derive(Debug)]
struct Bound {
    at: Seq,
    name: Box<[u8]>,
    /// Nodes the kernel knows, and lookups of the name being answered.
    held: u64,
    /// When the name was last looked up.
    entered: Instant,
    /// When it was last found to mean `at`.
    meant: Instant,
}

/// How long a name that has come to mean another event still leads to the one it is bound to: less than
/// either of these.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Still {
    /// Since it was last looked up.
    pub(crate) entered: Duration,
    /// Since it last meant that event, however often it is looked up.
    pub(crate) meant: Duration,
}

impl Still {
    /// It leads to what it means now.
    pub(crate) const NOT: Self = Self { entered: Duration::ZERO, meant: Duration::ZERO };
    /// It never means another event.
    pub(crate) const EVER: Self = Self { entered: Duration::MAX, meant: Duration::MAX };
}

/// What entering a name came to.
#[derive(Debug)]
pub(crate) struct Entered {
    pub(crate) view: NonZeroU16,
    pub(crate) at: Seq,
    /// Names whose views should be let go by the kernel, for there are many.
    pub(crate) crowded_out: Vec<Box<[u8]>>,
}

impl Nodes {
    pub(crate) fn new() -> Self {
        Self {
            known: std::array::from_fn(|_| Mutex::default()),
            forgotten: Mutex::default(),
            generation: AtomicU64::new(0),
            views: RwLock::default(),
        }
    }

    fn shard(&self, node: NodeId) -> &Mutex<FxHashMap<u64, Known>> {
        // Neighbours in number are neighbours in time: different locks for them.
        &self.known[node.get() as usize % SHARDS]
    }

    /// Counts one more lookup of `node`, in the directory `within` if it is known in which.
    pub(crate) fn looked_up(&self, node: NodeId, within: Option<NodeId>) {
        if node == NodeId::ROOT {
            return;
        }
        let mut known = self.shard(node).lock();
        let known = known.entry(node.get()).or_default();
        known.lookups = known.lookups.saturating_add(1);
        known.within = within.or(known.within);
        if known.lookups == 1
            && let Some(Place::Tree(Tense::Past(view), _)) = Place::of(node)
        {
            self.hold(view);
        }
    }

    /// Takes back `lookups` of `node`. Returns what it was, if the kernel does not know it any more, having
    /// known it before.
    pub(crate) fn forgotten(&self, node: NodeId, lookups: u64) -> Option<Gone> {
        let mut nodes = self.shard(node).lock();
        let known = nodes.get_mut(&node.get())?;
        known.lookups = known.lookups.saturating_sub(lookups);
        if known.lookups > 0 {
            return None;
        }
        let within = known.within;
        nodes.remove(&node.get());
        // A table that was once full is given back when it is nearly empty.
        if nodes.capacity() > 1024 && nodes.len() < nodes.capacity() / 8 {
            let keep = nodes.len() * 2;
            nodes.shrink_to(keep);
        }
        drop(nodes);
        // Its listing went with it.
        self.listed(node);
        if let Some(Place::Tree(Tense::Past(view), _)) = Place::of(node) {
            self.let_go(view);
        }
        Some(Gone { within })
    }

    /// Counts one more node that the kernel has forgotten and found in `directory` last. Returns how many there were since it
    /// last read the listing; none where it does not know the directory.
    pub(crate) fn forgotten_within(&self, directory: NodeId) -> u64 {
        if !self.knows(directory) {
            return 0;
        }
        let mut forgotten = self.forgotten.lock();
        let count = forgotten.entry(directory).or_insert(0);
        *count += 1;
        *count
    }

    /// The kernel reads the listing of `directory`, or is about to.
    pub(crate) fn listed(&self, directory: NodeId) {
        self.forgotten.lock().remove(&directory);
    }

    /// Whether the kernel knows `node`.
    pub(crate) fn knows(&self, node: NodeId) -> bool {
        self.shard(node).lock().contains_key(&node.get())
    }

    /// How many nodes the kernel knows.
    pub(crate) fn len(&self) -> usize {
        self.known.iter().map(|known| known.lock().len()).sum()
    }

    /// How many views are bound.
    pub(crate) fn views(&self) -> usize {
        self.views.read().bound
    }

    /// The event a view is bound to.
    pub(crate) fn at(&self, view: NonZeroU16) -> Option<Seq> {
        self.views.read().bound(view).map(|bound| bound.at)
    }

    /// Names bound to an event before `horizon`.
    pub(crate) fn bound_before(&self, horizon: Seq) -> Vec<Box<[u8]>> {
        let views = self.views.read();
        let bound = views.slots.iter().flatten();
        bound.filter(|bound| bound.at < horizon).map(|bound| bound.name.clone()).collect()
    }

    /// The view of `name`, bound to `at` unless it is bound already. A name that was bound to another
    /// event moves on to `at` as `still` says; whoever is in the view it had stays there.
    ///
    /// The view is held until [`Nodes::let_go`], so that a FORGET meanwhile does not free it. `None` if
    /// there are too many.
    pub(crate) fn enter(&self, name: &[u8], at: Seq, still: Still) -> Option<Entered> {
        self.enter_when(name, at, still, Instant::now())
    }

    fn enter_when(&self, name: &[u8], at: Seq, still: Still, now: Instant) -> Option<Entered> {
        let mut views = self.views.write();
        if let Some(&view) = views.names.get(name)
            && let Some(bound) = views.bound_mut(view)
            && (bound.at == at || bound.stands(still, now))
        {
            bound.held += 1;
            bound.entered = now;
            if bound.at == at {
                bound.meant = now;
            }
            return Some(Entered { view, at: bound.at, crowded_out: Vec::new() });
        }
        // Never a number used a moment ago while there are others: a late reader of it then meets a
        // view that is not bound, instead of another tree.
        let view = if views.slots.len() < VIEWS_MAX && views.free.len() < 1024 {
            views.slots.push(None);
            u16::try_from(views.slots.len()).ok().and_then(NonZeroU16::new)?
        } else {
            views.free.pop_front()?
        };
        let bound = Bound { at, name: name.into(), held: 1, entered: now, meant: now };
        *views.slots.get_mut(usize::from(view.get()) - 1)? = Some(bound);
        views.bound += 1;
        views.names.insert(name.into(), view);
        let crowded_out = views.crowded_out();
        Some(Entered { view, at, crowded_out })
    }

    fn hold(&self, view: NonZeroU16) {
        if let Some(bound) = self.views.write().bound_mut(view) {
            bound.held += 1;
        }
    }

    /// `name` leads nowhere: who enters it again gets a view of its own.
    pub(crate) fn unname(&self, name: &[u8]) {
        self.views.write().names.remove(name);
    }

    /// Ends one hold of `view`, and the view if it was the last.
    pub(crate) fn let_go(&self, view: NonZeroU16) {
        let mut views = self.views.write();
        let Some(bound) = views.bound_mut(view) else { return };
        bound.held = bound.held.saturating_sub(1);
        if bound.held > 0 {
            return;
        }
        let slot = views.slots.get_mut(usize::from(view.get()) - 1);
        if let Some(bound) = slot.and_then(Option::take) {
            if views.names.get(&bound.name) == Some(&view) {
                views.names.remove(&bound.name);
            }
            views.bound -= 1;
            views.free.push_back(view);
        }
        if views.bound < views.crowded() {
            views.asked_back = false;
        }
    }

    /// The kernel still knows nodes of predecessors of this process, of which there were so many, and must not find another
    /// tree behind them. So a view of which it holds the directory at the top, which it does as long as it holds anything
    /// below that somebody uses, gets no number before the next restart: `is_held` asks it, once for each of the 65,531 numbers. A
    /// reply that the predecessor sent as it died may be on its way into the kernel still: so numbers begin far from its own.
    /// And another generation keeps what nobody uses, but the kernel has not dropped yet, from being taken for what is shown now.
    pub(crate) fn after_restarts<E>(
        &self,
        restarts: u16,
        mut is_held: impl FnMut(NodeId) -> Result<bool, E>,
    ) -> Result<(), E> {
        let first = usize::from(restarts % 16) * (VIEWS_MAX / 16);
        let mut views = Views::default();
        views.slots.resize_with(VIEWS_MAX, || None);
        for slot in (first..VIEWS_MAX).chain(0..first) {
            let number = u16::try_from(slot + 1).ok().and_then(NonZeroU16::new);
            let Some(view) = number else { continue };
            match Place::Tree(Tense::Past(view), Ino::ROOT).node() {
                Some(top) if !is_held(top)? => views.free.push_back(view),
                _ => views.taken += 1,
            }
        }
        self.generation.store(u64::from(restarts), Ordering::Relaxed);
        *self.views.write() = views;
        Ok(())
    }

    /// The generation of a node.
    pub(crate) fn generation(&self, tense: Tense) -> u64 {
        match tense {
            Tense::Now => 0,
            Tense::Past(_) => self.generation.load(Ordering::Relaxed),
        }
    }

    /// The kernel is gone: it knows nothing any more.
    pub(crate) fn clear(&self) {
        for known in &self.known {
            *known.lock() = FxHashMap::default();
        }
        *self.forgotten.lock() = FxHashMap::default();
        self.generation.store(0, Ordering::Relaxed);
        *self.views.write() = Views::default();
    }
}

impl Bound {
    fn stands(&self, still: Still, now: Instant) -> bool {
        now.saturating_duration_since(self.entered) < still.entered
            && now.saturating_duration_since(self.meant) < still.meant
    }
}

impl Views {
    fn bound(&self, view: NonZeroU16) -> Option<&Bound> {
        self.slots.get(usize::from(view.get()) - 1)?.as_ref()
    }

    fn bound_mut(&mut self, view: NonZeroU16) -> Option<&mut Bound> {
        self.slots.get_mut(usize::from(view.get()) - 1)?.as_mut()
    }

    /// The names that were entered longest ago, once the table is crowded, and not again before the
    /// kernel had its chance to let go of some.
    fn crowded_out(&mut self) -> Vec<Box<[u8]>> {
        if self.bound < self.crowded()
            || (self.asked_back && !self.bound.is_multiple_of(self.asked_at_a_time()))
        {
            return Vec::new();
        }
        self.asked_back = true;
        let mut oldest: Vec<_> = self.slots.iter().flatten().collect();
        oldest.sort_by_key(|bound| bound.entered);
        oldest.into_iter().take(self.asked_at_a_time()).map(|bound| bound.name.clone()).collect()
    }

    /// From so many bound views on, the kernel is asked to let go of those nobody entered for longest.
    const fn crowded(&self) -> usize {
        (VIEWS_MAX - self.taken) / 4 * 3
    }

    /// How many it is asked for at a time.
    const fn asked_at_a_time(&self) -> usize {
        (VIEWS_MAX - self.taken) / 8
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STILL: Still =
        Still { entered: Duration::from_secs(3600), meant: Duration::from_secs(2 * 3600) };

    fn past(view: NonZeroU16, ino: u64) -> NodeId {
        Place::Tree(Tense::Past(view), Ino(ino)).node().unwrap()
    }

    #[test]
    fn places_and_numbers_go_both_ways() {
        let view = NonZeroU16::new(7).unwrap();
        for place in [
            Place::Root,
            Place::History,
            Place::Tree(Tense::Now, Ino(2)),
            Place::Tree(Tense::Past(view), Ino(INO_MASK)),
        ] {
            assert_eq!(Place::of(place.node().unwrap()), Some(place));
        }
        assert_eq!(Place::Root.node(), Some(NodeId::ROOT));
        assert_eq!(Place::Tree(Tense::Now, Ino(1 << 48)).node(), None);
        let synthetic = u64::from(SYNTHETIC) << INO_BITS;
        for number in [synthetic | INO_MASK >> 1, 7 << 48, 7 << 48 | 1, synthetic, synthetic | 99] {
            assert_eq!(Place::of(NodeId::new(number).unwrap()), None, "{number:#x}");
        }
    }

    #[test]
    fn a_node_is_known_until_every_lookup_is_forgotten() {
        let nodes = Nodes::new();
        let node = NodeId::new(9).unwrap();
        nodes.looked_up(node, None);
        nodes.looked_up(node, None);
        nodes.looked_up(node, None);
        assert_eq!(nodes.forgotten(node, 2), None);
        assert!(nodes.knows(node));
        assert!(nodes.forgotten(node, 1).is_some());
        assert!(!nodes.knows(node));
        assert_eq!(nodes.forgotten(node, 1), None);
        nodes.looked_up(node, None);
        assert!(nodes.forgotten(node, u64::MAX).is_some());
        assert_eq!(nodes.len(), 0);
    }

    #[test]
    fn nodes_that_are_forgotten_are_counted_where_they_were_found_last() {
        let nodes = Nodes::new();
        let [first, second, file] = [5, 6, 9].map(|number| NodeId::new(number).unwrap());
        assert_eq!(nodes.forgotten_within(first), 0, "the kernel does not know it");
        for directory in [first, second] {
            nodes.looked_up(directory, None);
        }
        nodes.looked_up(file, Some(first));
        nodes.looked_up(file, Some(second));
        nodes.looked_up(file, None);
        assert_eq!(nodes.forgotten(file, 3), Some(Gone { within: Some(second) }));
        assert_eq!((nodes.forgotten_within(second), nodes.forgotten_within(second)), (1, 2));
        assert_eq!(nodes.forgotten_within(first), 1);
        nodes.listed(second);
        assert_eq!(nodes.forgotten_within(second), 1, "since it was listed");
        nodes.forgotten(second, 1);
        nodes.looked_up(second, None);
        assert_eq!(nodes.forgotten_within(second), 1, "its listing went with it");
    }

    #[test]
    fn a_name_stays_bound_until_all_its_nodes_are_forgotten() {
        let nodes = Nodes::new();
        let entered = nodes.enter(b"10min-ago", Seq(5), STILL).unwrap();
        let root = past(entered.view, 2);
        let below = past(entered.view, 40);
        nodes.looked_up(root, None);
        nodes.let_go(entered.view);
        nodes.looked_up(below, None);
        let again = nodes.enter(b"10min-ago", Seq(6), STILL).unwrap();
        assert_eq!((again.view, again.at), (entered.view, Seq(5)));
        nodes.looked_up(root, None);
        nodes.let_go(again.view);
        assert!(nodes.forgotten(root, 2).is_some());
        assert_eq!(nodes.at(entered.view), Some(Seq(5)));
        assert!(nodes.forgotten(below, 1).is_some());
        assert_eq!(nodes.at(entered.view), None);
        assert_eq!(nodes.enter(b"10min-ago", Seq(6), STILL).unwrap().at, Seq(6));
    }

    #[test]
    fn a_name_that_means_another_event_moves_on_and_leaves_its_visitors_where_they_are() {
        let nodes = Nodes::new();
        let entered = nodes.enter(b"10min-ago", Seq(5), Still::NOT).unwrap();
        let root = past(entered.view, 2);
        nodes.looked_up(root, None);
        nodes.let_go(entered.view);
        let later = nodes.enter(b"10min-ago", Seq(9), Still::NOT).unwrap();
        assert_ne!(later.view, entered.view);
        assert_eq!(nodes.at(entered.view), Some(Seq(5)));
        assert_eq!(nodes.at(later.view), Some(Seq(9)));
        nodes.forgotten(root, 1);
        assert_eq!(nodes.at(entered.view), None);
        assert_eq!(nodes.enter(b"10min-ago", Seq(9), Still::NOT).unwrap().view, later.view);
    }

    #[test]
    fn a_name_looked_up_all_the_time_moves_on_too() {
        const MINUTE: Duration = Duration::from_secs(60);
        let nodes = Nodes::new();
        let start = Instant::now();
        let enter =
            |minutes, at| nodes.enter_when(b"1min-ago", Seq(at), STILL, start + MINUTE * minutes);
        let first = enter(0, 5).unwrap();
        nodes.looked_up(past(first.view, 2), None);
        // As long as nothing happens there is nowhere to move on to.
        for minutes in (0..=600).step_by(50) {
            assert_eq!(enter(minutes, 5).unwrap().view, first.view);
        }
        for minutes in [630, 660, 690, 719] {
            assert_eq!(enter(minutes, 6).unwrap().at, Seq(5), "{minutes}");
        }
        let moved = enter(720, 7).unwrap();
        assert_eq!(moved.at, Seq(7));
        assert_eq!(nodes.at(first.view), Some(Seq(5)), "whoever is there stays");
        assert_eq!(enter(779, 8).unwrap().at, Seq(7));
        assert_eq!(enter(839, 9).unwrap().at, Seq(9), "nobody asked for an hour");
    }

    #[test]
    fn the_same_event_under_two_names_is_two_views() {
        let nodes = Nodes::new();
        let one = nodes.enter(b"@5", Seq(5), STILL).unwrap();
        let other = nodes.enter(b"10min-ago", Seq(5), STILL).unwrap();
        assert_ne!(one.view, other.view);
    }

    #[test]
    fn many_views_are_asked_back_oldest_first_and_too_many_refused() {
        let part = VIEWS_MAX / 16;
        for held in [0, 1, part, 8 * part, 15 * part] {
            let nodes = Nodes::new();
            if held > 0 {
                let mut asked = 0;
                let is_held = |_| {
                    asked += 1;
                    Ok::<_, ()>(asked <= held)
                };
                nodes.after_restarts(1, is_held).unwrap();
            }
            let mut asked = Vec::new();
            let mut first = None;
            let mut entered = 0;
            while let Some(new) = nodes.enter(format!("@{entered}").as_bytes(), Seq(5), STILL) {
                first.get_or_insert(new.view);
                asked.extend(new.crowded_out);
                entered += 1;
            }
            let left = VIEWS_MAX - held;
            assert_eq!(entered, left, "beside {held} that are held");
            assert_eq!(asked.first().map(|name| &**name), Some(&b"@0"[..]), "{held}");
            assert!(asked.len() >= left / 8, "{held}");
            nodes.let_go(first.unwrap());
            assert!(nodes.enter(b"one more", Seq(5), STILL).is_some());
        }
    }

    #[test]
    fn no_view_has_a_number_that_the_kernel_holds() {
        let held = |top: NodeId| match Place::of(top) {
            Some(Place::Tree(Tense::Past(view), Ino::ROOT)) => view.get() % 3 == 0,
            other => panic!("{other:?} is the top of no view"),
        };
        for restarts in [1, 15, 16, 17, u16::MAX] {
            let nodes = Nodes::new();
            nodes.after_restarts(restarts, |top| Ok::<_, ()>(held(top))).unwrap();
            assert_eq!(nodes.generation(Tense::Now), 0, "the kernel knows them from before");
            let mut last = 0;
            while let Some(new) = nodes.enter(format!("@{last}").as_bytes(), Seq(5), STILL) {
                assert!(!held(past(new.view, Ino::ROOT.0)), "{} after {restarts}", new.view);
                assert_eq!(nodes.generation(Tense::Past(new.view)), u64::from(restarts));
                last += 1;
            }
            assert_eq!(last, VIEWS_MAX - VIEWS_MAX / 3);
        }
    }

    #[test]
    fn many_threads_looking_up_and_forgetting_lose_no_count() {
        let nodes = Nodes::new();
        let entered = nodes.enter(b"@5", Seq(5), STILL).unwrap();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for round in 0..2000u64 {
                        let node = past(entered.view, 2 + round % 7);
                        nodes.looked_up(node, None);
                        nodes.forgotten(node, 1);
                    }
                });
            }
        });
        assert_eq!(nodes.len(), 0);
        assert_eq!(nodes.at(entered.view), Some(Seq(5)));
        nodes.let_go(entered.view);
        assert_eq!(nodes.views(), 0);
    }
}
