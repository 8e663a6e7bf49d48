//! What was folded in and is not in the engine yet, and reading through all layers at once.
//!
//! Three layers lie over each other: young (changes with each event), frozen (being committed)
//! and the engine's last commit. The newest layer that has a key decides, a removal too.

use std::collections::BTreeMap;
use std::collections::btree_map::{Entry, Range};
use std::ops::Bound;

use super::super::event::Seq;
use super::IndexError;
use super::engine::{EngineRange, EngineRow, EngineValue};
use super::small::Small;

/// What one row costs beside its bytes: the tree's slots, on average two thirds full.
const ROW_OVERHEAD: usize = 160;

/// Rows in memory.
#[derive(Debug, Default)]
pub(super) struct Layer {
    pub(super) rows: BTreeMap<Small, Slot>,
    /// The last event folded in; older layers know nothing of inodes made later.
    pub(super) last: Seq,
    /// Memory the rows take, about.
    pub(super) bytes: usize,
}

/// A row's value in one layer.
#[derive(Debug)]
pub(super) struct Slot {
    /// `None`: removed.
    pub(super) value: Option<Small>,
    /// An older layer may have the key, so that a removal must be remembered.
    under: bool,
}

impl Layer {
    /// Sets a row. `under`: an older layer may have it.
    pub(super) fn put(&mut self, key: Small, value: Small, under: bool) {
        let bytes = key.heap() + value.heap();
        match self.rows.entry(key) {
            Entry::Occupied(mut slot) => {
                let heap = value.heap();
                let old = slot.get_mut().value.replace(value).map_or(0, |old| old.heap());
                self.bytes = (self.bytes + heap).saturating_sub(old);
            }
            Entry::Vacant(slot) => {
                self.bytes += ROW_OVERHEAD + bytes;
                slot.insert(Slot { value: Some(value), under });
            }
        }
    }

    /// Removes a row; one that only ever was in this layer leaves no trace.
    pub(super) fn remove(&mut self, key: Small) {
        match self.rows.entry(key) {
            Entry::Occupied(mut slot) if slot.get().under => slot.get_mut().value = None,
            Entry::Occupied(slot) => {
                let (key, slot) = slot.remove_entry();
                let heap = key.heap() + slot.value.map_or(0, |value| value.heap());
                self.bytes = self.bytes.saturating_sub(ROW_OVERHEAD + heap);
            }
            Entry::Vacant(slot) => {
                self.bytes += ROW_OVERHEAD + slot.key().heap();
                slot.insert(Slot { value: None, under: true });
            }
        }
    }

    /// The row of `key`, or that it was removed.
    pub(super) fn get(&self, key: &[u8]) -> Option<&Slot> {
        match Small::in_place(key) {
            Some(key) => self.rows.get(&key),
            None => self.rows.get(key),
        }
    }

    /// The rows from `from` up to and without `to`.
    pub(super) fn range(&self, from: &[u8], to: &[u8]) -> Range<'_, Small, Slot> {
        // `BTreeMap` refuses a range the wrong way round; ours is then empty.
        let to = if from < to { to } else { from };
        match (Small::in_place(from), Small::in_place(to)) {
            (Some(from), Some(to)) => self.rows.range((Bound::Included(from), Bound::Excluded(to))),
            _ => self.rows.range::<[u8], _>((Bound::Included(from), Bound::Excluded(to))),
        }
    }
}

/// A value in whichever layer has it.
pub(super) enum Value<'t> {
    /// In memory.
    Memory(&'t [u8]),
    /// In a page of the engine.
    Engine(EngineValue),
}

impl std::ops::Deref for Value<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Memory(bytes) => bytes,
            Self::Engine(value) => value.value(),
        }
    }
}

/// Walks the rows of all layers in key order.
pub(super) struct Cursor<'t> {
    layers: [Option<Walk<'t>>; 2],
    engine: Option<EngineRange>,
    engine_head: Option<EngineRow>,
    current: Current<'t>,
}

struct Walk<'t> {
    rows: Range<'t, Small, Slot>,
    head: Option<(&'t Small, &'t Slot)>,
}

enum Current<'t> {
    None,
    Memory(&'t [u8], &'t [u8]),
    Engine(EngineRow),
}

impl<'t> Cursor<'t> {
    /// Over ranges of the young layer, the frozen one and the engine.
    pub(super) fn new(
        layers: [Option<Range<'t, Small, Slot>>; 2],
        mut engine: Option<EngineRange>,
    ) -> Result<Self, IndexError> {
        let layers = layers.map(|rows| {
            rows.map(|mut rows| {
                let head = rows.next();
                Walk { rows, head }
            })
        });
        let engine_head = match &mut engine {
            Some(range) => range.next()?,
            None => None,
        };
        Ok(Self { layers, engine, engine_head, current: Current::None })
    }

    /// Steps to the next row; false at the end.
    pub(super) fn next(&mut self) -> Result<bool, IndexError> {
        loop {
            let [young, frozen] = &mut self.layers;
            let head = |walk: &Option<Walk<'t>>| {
                walk.as_ref().and_then(|walk| walk.head).map(|(key, _)| key.as_slice())
            };
            let (a, b) = (head(young), head(frozen));
            let c = self.engine_head.as_ref().map(EngineRow::key);
            let Some(least) = [a, b, c].into_iter().flatten().min() else {
                self.current = Current::None;
                return Ok(false);
            };
            let (in_a, in_b, in_c) = (a == Some(least), b == Some(least), c == Some(least));
            // Every layer steps past the key; the newest says what it stands for.
            let mut found = None;
            for (walk, here) in [(frozen, in_b), (young, in_a)] {
                if let Some(walk) = walk.as_mut().filter(|_| here) {
                    found = walk.head;
                    walk.head = walk.rows.next();
                }
            }
            let mut engine_row = None;
            if in_c {
                engine_row = self.engine_head.take();
                if let Some(range) = &mut self.engine {
                    self.engine_head = range.next()?;
                }
            }
            self.current = match (found, engine_row) {
                (Some((key, slot)), _) => match &slot.value {
                    Some(value) => Current::Memory(key.as_slice(), value.as_slice()),
                    None => continue,
                },
                (None, Some(row)) => Current::Engine(row),
                (None, None) => continue,
            };
            return Ok(true);
        }
    }

    /// Key of the row stepped to.
    pub(super) fn key(&self) -> &[u8] {
        match &self.current {
            Current::None => &[],
            Current::Memory(key, _) => key,
            Current::Engine(row) => row.key(),
        }
    }

    /// Its value.
    pub(super) fn value(&self) -> &[u8] {
        match &self.current {
            Current::None => &[],
            Current::Memory(_, value) => value,
            Current::Engine(row) => row.value(),
        }
    }
}
