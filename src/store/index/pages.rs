//! What a set held at any event, without what it held at others: the names of a directory, the names and the
//! attributes of an inode.
//!
//! The live table lists a set as it is. What died of it lies in the dead table by its key, where one look finds
//! what a key was at any event; but a listing there would meet all that ever died. So a set that changes is also
//! kept in *pages*: a page is a range of hashes for a range of events, and holds each element that was there at
//! any of them, with its life.
//!
//! ```text
//!   hash ^
//!        |  depth 1  |      |                  |   open: its live elements are in the live
//!        |-----------| d. 0 |------------------|   table, the dead ones in its row
//!        |  depth 1  |      |   d. 2  | d. 2   |
//!        +-----------+------+------------------+--> events
//!           closed     closed
//! ```
//!
//! Before an event changes a set, the page it falls into is closed if it has seen [`CHANGES_MAX`] changes: one row
//! gets its elements, those still alive included, and another page opens. One with [`SPLIT`] elements is then split in
//! two; one that is nearly empty is merged with its sibling. A page of depth `d` is one of 2^d that the hashes would
//! make if all were of that depth.
//!
//! So a page holds at most a constant number of elements (hashes spread evenly), and as many of them as not were alive
//! at each of its events, but for that constant; two siblings hold some 28 at least. A listing at any event so costs its
//! names and one page, and two or three seeks for each page of 28 names or more, whatever lived before or after; it is
//! logarithmic where pages differ much in depth. A change costs a row, and about two copies of an element in closed
//! pages (name and 8 bytes each), or one in a small directory.
//!
//! A set with fewer than [`CHANGES_MAX`] changes ever has no page: its inode counts them, and listing it at any event
//! is looking at all of them. Sets without hashes (names of an inode, attributes) are never split: their pages grow
//! with what they hold, and the event that closes one takes as long; it is one in as many.
//!
//! Invariants: the pages of a set that has any tile all hashes and all events since its inode was made; they follow from the
//! events alone, however these were committed.

use super::super::event::{Ino, Seq};
use super::codec::{Reader, Writer};
use super::key::{self, Fields, Key};
use super::{IndexError, Tables};

/// Changes that a page sees before it is closed, and a set before it gets pages.
pub(super) const CHANGES_MAX: u64 = 64;
/// What an inode counts of a set's changes until it has pages, and from then on.
pub(super) const UNPAGED: u8 = CHANGES_MAX as u8;
pub(super) const PAGED: u8 = UNPAGED + 1;
/// A page that is closed with at least as many live elements is split.
const SPLIT: usize = 128;
/// A page with fewer live elements is merged with its sibling, if both have fewer than twice as many.
const MERGE: u64 = 16;
/// Bits of a hash.
const HASH_BITS: u8 = 63;
/// The greatest hash there may be, and more: the last of all pages ends here.
const HASH_LAST: u64 = u64::MAX >> 1;

/// How many kinds of sets an inode has.
pub(super) const SETS: usize = 3;

/// A kind of set.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Set {
    /// Names in a directory, by their hashes.
    Names,
    /// (Directory, name) of an inode.
    NamesOf,
    /// Attributes of an inode.
    Xattrs,
}

impl Set {
    /// A number, less than [`SETS`].
    pub(super) const fn number(self) -> u8 {
        match self {
            Self::Names => 0,
            Self::NamesOf => 1,
            Self::Xattrs => 2,
        }
    }

    const fn tag(self) -> u8 {
        match self {
            Self::Names => key::NAME,
            Self::NamesOf => key::NAME_OF,
            Self::Xattrs => key::XATTR,
        }
    }

    fn is_hashed(self) -> bool {
        self == Self::Names
    }
}

/// What a live key of a set says: of which inode, its hash, the element. `None` for keys of other tables.
pub(super) fn member(key: &[u8]) -> Option<(Set, Ino, u64, &[u8])> {
    let set = match *key.first()? {
        key::NAME => Set::Names,
        key::NAME_OF => Set::NamesOf,
        key::XATTR => Set::Xattrs,
        _ => return None,
    };
    let mut fields = Fields::of(key);
    let owner = Ino(fields.short().ok()?);
    let hash = if set.is_hashed() { fields.long().ok()? } else { 0 };
    Some((set, owner, hash, fields.rest()))
}

/// An element of a set and its life.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) struct Element {
    pub(super) hash: u64,
    pub(super) bytes: Vec<u8>,
    pub(super) birth: Seq,
    /// [`Seq::NOW`] if it was alive at the end of the page.
    death: Seq,
    /// Of a name, what it stood for; else nothing.
    pub(super) ino: Ino,
    /// Of a name, the type of that.
    pub(super) kind: u8,
}

impl Element {
    /// From the live value, or what became of it.
    fn new(
        set: Set,
        hash: u64,
        bytes: &[u8],
        value: &[u8],
        death: Seq,
    ) -> Result<Self, IndexError> {
        let (birth, rest) = Reader::born(value)?;
        let (mut ino, mut kind) = (Ino(0), 0);
        if set == Set::Names {
            let mut fields = Fields::of_value(rest.0);
            ino = Ino(fields.short()?);
            kind = fields.rest().first().copied().unwrap_or(0);
        }
        Ok(Self { hash, bytes: bytes.to_vec(), birth, death, ino, kind })
    }

    fn was_alive(&self, at: Seq) -> bool {
        self.birth <= at && at < self.death
    }

    fn encode(&self, set: Set, start: Seq, out: &mut Writer) {
        out.number(self.bytes.len() as u64);
        out.0.extend_from_slice(&self.bytes);
        let death = match self.death {
            Seq::NOW => 0,
            death => death.0.saturating_sub(start.0) + 1,
        };
        out.number(self.birth.0).number(death);
        if set == Set::Names {
            out.difference(self.ino.0, self.birth.0).number(u64::from(self.kind));
        }
    }
}

/// The elements of a page that were alive after event `at`, or all. The hash is looked for by `hash`.
fn decode_elements(
    set: Set,
    start: Seq,
    mut from: Reader<'_>,
    at: Option<Seq>,
    hash: impl Fn(&[u8]) -> u64,
    out: &mut Vec<Element>,
) -> Result<u64, IndexError> {
    let mut seen = 0;
    while !from.is_empty() {
        let len = from.number()?;
        let bytes = from.bytes(len)?;
        let birth = Seq(from.number()?);
        let death = match from.number()? {
            0 => Seq::NOW,
            death => Seq(start.0.saturating_add(death) - 1),
        };
        let (mut ino, mut kind) = (Ino(0), 0);
        if set == Set::Names {
            (ino, kind) = (Ino(from.difference(birth.0)?), from.number()? as u8);
        }
        seen += 1;
        if at.is_none_or(|at| birth <= at && at < death) {
            let hash = if set.is_hashed() { hash(bytes) } else { 0 };
            out.push(Element { hash, bytes: bytes.to_vec(), birth, death, ino, kind });
        }
    }
    Ok(seen)
}

/// A page that is not closed yet.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Page {
    pub(super) set: Set,
    pub(super) owner: Ino,
    depth: u8,
    /// The last hash in it.
    last: u64,
    /// The first event of which it tells.
    start: Seq,
    /// Elements alive now.
    live: u64,
    changes: u64,
    /// Those that died in it, encoded, in the order of their deaths.
    dead: Vec<u8>,
}

/// How many hashes a page of a depth has.
const fn width(depth: u8) -> u64 {
    1 << (HASH_BITS - depth)
}

/// The last hash in the page of a depth that `hash` falls into.
const fn last_of(depth: u8, hash: u64) -> u64 {
    hash | (width(depth) - 1)
}

impl Page {
    pub(super) fn key(&self) -> Key {
        key::page(self.owner, self.set.number(), self.last)
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Writer::born(self.start);
        out.number(u64::from(self.depth)).number(self.live).number(self.changes);
        out.0.extend_from_slice(&self.dead);
        out.0
    }

    fn decode(set: Set, owner: Ino, key: &[u8], value: &[u8]) -> Result<Self, IndexError> {
        let last = key.last_chunk().map_or(0, |&last| u64::from_be_bytes(last));
        let (start, mut from) = Reader::born(value)?;
        let depth = u8::try_from(from.number()?).ok().filter(|&depth| depth < HASH_BITS);
        let depth = depth.filter(|&depth| last == last_of(depth, last) && last <= HASH_LAST);
        let depth =
            depth.ok_or_else(|| IndexError::Damaged("a page is not where it can be".into()))?;
        let (live, changes) = (from.number()?, from.number()?);
        Ok(Self { set, owner, depth, last, start, live, changes, dead: from.0.to_vec() })
    }

    const fn first(&self) -> u64 {
        self.last - (width(self.depth) - 1)
    }

    pub(super) fn holds(&self, set: Set, owner: Ino, hash: u64) -> bool {
        let of = self.set == set && self.owner == owner;
        of && (self.first()..=self.last).contains(&hash)
    }

    /// Whether it must be closed before it sees another change.
    fn is_due(&self) -> bool {
        self.changes >= CHANGES_MAX.max(self.live / 2)
    }

    /// Notes that an element came to be.
    pub(super) fn born(&mut self) {
        self.live += 1;
        self.changes += 1;
    }

    /// Notes that an element with this live value died at `death`.
    pub(super) fn died(
        &mut self,
        bytes: &[u8],
        value: &[u8],
        death: Seq,
    ) -> Result<(), IndexError> {
        let element = Element::new(self.set, 0, bytes, value, death)?;
        let mut dead = Writer(std::mem::take(&mut self.dead));
        element.encode(self.set, self.start, &mut dead);
        self.dead = dead.0;
        self.live = self.live.saturating_sub(1);
        self.changes += 1;
        Ok(())
    }
}

/// What becomes of the pages of a set when one of them must be closed, or may be merged.
#[derive(Default)]
pub(super) struct Turn {
    /// The pages that are open from this event on.
    pub(super) open: Vec<Page>,
    /// Rows of pages that are closed.
    pub(super) closed: Vec<(Key, Vec<u8>)>,
    /// The key of an open page that is no more.
    pub(super) gone: Option<Key>,
}

impl Tables {
    /// The open pages that an event `seq` which changes the set at `hash` finds. `paged`: it has pages already.
    /// Pages for which `busy` are being changed by the same event.
    pub(super) fn turn_page(
        &self,
        (set, owner, hash): (Set, Ino, u64),
        paged: bool,
        seq: Seq,
        busy: impl Fn(&Page) -> bool,
    ) -> Result<Turn, IndexError> {
        let page = if paged {
            let missing = || IndexError::Damaged(format!("inode {owner} has no page of a set"));
            self.open_page(set, owner, hash)?.ok_or_else(missing)?
        } else {
            let mut dead = Writer::default();
            let start = Seq(owner.0);
            self.buried(set, owner, |element| element.encode(set, start, &mut dead))?;
            let (live, changes) = (0, CHANGES_MAX);
            Page { set, owner, depth: 0, last: HASH_LAST, start, live, changes, dead: dead.0 }
        };
        let sibling = self.sibling(&page)?.filter(|sibling| !busy(sibling));
        let mut turn = Turn::default();
        if let Some(sibling) = sibling {
            let (one, other) =
                (self.close(&page, seq, &mut turn)?, self.close(&sibling, seq, &mut turn)?);
            let left = if page.last < sibling.last { &page } else { &sibling };
            turn.gone = Some(left.key());
            let live = (one.len() + other.len()) as u64;
            turn.open.push(Page {
                start: seq,
                live,
                ..page.clone().emptied(page.depth - 1, page.last)
            });
        } else if page.is_due() {
            let live = self.close(&page, seq, &mut turn)?;
            let depth = page.depth + 1;
            let middle = page.last - width(page.depth) / 2;
            let left = live.iter().filter(|&&hash| hash <= middle).count();
            // Names whose hashes are alike stay together, however many.
            let splits = set.is_hashed() && live.len() >= SPLIT && depth < HASH_BITS;
            if splits && left > 0 && left < live.len() {
                for (last, live) in [(middle, left), (page.last, live.len() - left)] {
                    let live = live as u64;
                    turn.open.push(Page { start: seq, live, ..page.clone().emptied(depth, last) });
                }
            } else {
                let live = live.len() as u64;
                let open = page.clone().emptied(page.depth, page.last);
                turn.open.push(Page { start: seq, live, ..open });
            }
        } else {
            turn.open.push(page);
        }
        Ok(turn)
    }

    /// The page beside one that is nearly empty, if both are to become one.
    fn sibling(&self, page: &Page) -> Result<Option<Page>, IndexError> {
        if page.depth == 0 || page.live >= MERGE {
            return Ok(None);
        }
        let hash = page.last ^ width(page.depth);
        let sibling = self.open_page(page.set, page.owner, hash)?;
        let fits = |other: &Page| other.depth == page.depth && page.live + other.live < 2 * MERGE;
        Ok(sibling.filter(fits))
    }

    /// Closes a page before event `seq`; returns the hashes of what is alive.
    fn close(&self, page: &Page, seq: Seq, turn: &mut Turn) -> Result<Vec<u64>, IndexError> {
        let Page { set, owner, start, .. } = *page;
        let mut elements = Vec::new();
        self.living(set, owner, (page.first(), page.last), |element| elements.push(element))?;
        let live = elements.iter().map(|element| element.hash).collect();
        let hash = |name: &[u8]| self.name_hash.of(name);
        decode_elements(set, start, Reader(&page.dead), None, hash, &mut elements)?;
        elements.sort_unstable();
        let mut out = Writer::born(start);
        elements.iter().for_each(|element| element.encode(set, start, &mut out));
        let key = key::closed_page(owner, (set.number(), page.depth), page.last, seq.0);
        turn.closed.push((key, out.0));
        Ok(live)
    }

    /// The open page of a set that `hash` falls into.
    fn open_page(&self, set: Set, owner: Ino, hash: u64) -> Result<Option<Page>, IndexError> {
        let (from, to) =
            (key::page(owner, set.number(), hash), key::pages_end(owner, set.number()));
        // What the youngest layer says of a page is so, and no other holds the hash. Most changes find their page there, and
        // need no descent in the engine for it.
        if let Some((key, slot)) = self.young.range(&from, &to).next()
            && let Some(value) = &slot.value
        {
            let page = Page::decode(set, owner, key.as_slice(), value.as_slice())?;
            if page.holds(set, owner, hash) {
                return Ok(Some(page));
            }
        }
        let mut rows = self.cursor(Some(owner), &from, &to)?;
        if !rows.next()? {
            return Ok(None);
        }
        Page::decode(set, owner, rows.key(), rows.value()).map(Some)
    }

    /// Calls `visit` for the live elements of a set with hashes in a range, in order.
    pub(super) fn living(
        &self,
        set: Set,
        owner: Ino,
        (first, last): (u64, u64),
        mut visit: impl FnMut(Element),
    ) -> Result<(), IndexError> {
        let all = Key::new(set.tag()).short(owner.0);
        let (from, to) = if set.is_hashed() {
            (all.clone().long(first), all.long(last.saturating_add(1)))
        } else {
            (all.clone(), all.end())
        };
        let mut rows = self.cursor(Some(owner), &from, &to)?;
        while rows.next()? {
            self.visited();
            let Some((_, _, hash, bytes)) = member(rows.key()) else { continue };
            visit(Element::new(set, hash, bytes, rows.value(), Seq::NOW)?);
        }
        Ok(())
    }

    /// Calls `visit` for all dead elements of a set, which has no pages.
    fn buried(
        &self,
        set: Set,
        owner: Ino,
        mut visit: impl FnMut(Element),
    ) -> Result<(), IndexError> {
        let all = Key::new(set.tag()).short(owner.0).as_dead();
        let mut rows = self.cursor(Some(owner), &all, &all.clone().end())?;
        while rows.next()? {
            self.visited();
            let mut fields = Fields::of(rows.key());
            fields.short()?;
            let hash = if set.is_hashed() { fields.long()? } else { 0 };
            // The NUL and the death close the key.
            let Some((bytes, death)) = fields.rest().split_last_chunk::<6>() else { continue };
            let death = Seq(Fields::of_value(death).short()?);
            let bytes = bytes.strip_suffix(&[0]).unwrap_or(bytes);
            visit(Element::new(set, hash, bytes, rows.value(), death)?);
        }
        Ok(())
    }

    /// The elements that were alive after event `at` in the page that `from` falls into, from that hash on and in order;
    /// and the last hash of the page. `depth` is where the page is looked for first, and is set to where it was.
    pub(super) fn elements(
        &self,
        (set, owner): (Set, Ino),
        from: u64,
        at: Seq,
        depth: &mut Option<u8>,
    ) -> Result<(Vec<Element>, u64), IndexError> {
        if at.0 < owner.0 {
            return Ok((Vec::new(), HASH_LAST));
        }
        let open = self.open_page(set, owner, from)?;
        if let Some(open) = open.as_ref().filter(|open| open.start > at) {
            return self.closed_elements((set, owner), from, at, depth.get_or_insert(open.depth));
        }
        let last = open.as_ref().map_or(HASH_LAST, |open| open.last);
        let mut elements = Vec::new();
        let mut keep = |element: Element| {
            if element.hash >= from && element.was_alive(at) {
                elements.push(element);
            }
        };
        self.living(set, owner, (from, last), &mut keep)?;
        match open {
            None => self.buried(set, owner, keep)?,
            Some(Page { start, dead, .. }) => {
                let hash = |name: &[u8]| self.name_hash.of(name);
                let mut found = Vec::new();
                decode_elements(set, start, Reader(&dead), Some(at), hash, &mut found)?;
                found.into_iter().for_each(keep);
            }
        }
        elements.sort_unstable();
        Ok((elements, last))
    }

    fn closed_elements(
        &self,
        (set, owner): (Set, Ino),
        from: u64,
        at: Seq,
        depth: &mut u8,
    ) -> Result<(Vec<Element>, u64), IndexError> {
        // Pages side by side are of about one depth.
        let guess = *depth;
        let around =
            (1..HASH_BITS).flat_map(|off| [guess.checked_add(off), guess.checked_sub(off)]);
        let depths = std::iter::once(guess).chain(around.flatten());
        for depth_now in depths.filter(|&depth| depth < HASH_BITS) {
            let last = last_of(depth_now, from);
            let of = |end| key::closed_page(owner, (set.number(), depth_now), last, end);
            // The first that was closed later; the one that ends all has none.
            let mut rows = self.cursor(Some(owner), &of(at.0.saturating_add(1)), &of(key::LAST))?;
            if !rows.next()? {
                continue;
            }
            let (start, elements) = Reader::born(rows.value())?;
            if start > at {
                continue;
            }
            *depth = depth_now;
            let mut found = Vec::new();
            let hash = |name: &[u8]| self.name_hash.of(name);
            let seen = decode_elements(set, start, elements, Some(at), hash, &mut found)?;
            (0..seen).for_each(|_| self.visited());
            found.retain(|element| element.hash >= from);
            return Ok((found, last));
        }
        Err(IndexError::Damaged(format!("a page of inode {owner} is missing")))
    }
}

impl Page {
    fn emptied(self, depth: u8, last: u64) -> Self {
        Self { depth, last: last_of(depth, last), live: 0, changes: 0, dead: Vec::new(), ..self }
    }
}
