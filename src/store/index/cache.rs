//! Hot rows of the present, decoded: a look here allocates nothing and walks no tree.
//!
//! Invariant: what is here is what the layers say; whoever folds in an event writes through.

use std::hash::{BuildHasher, Hash};

use parking_lot::Mutex;
use rustc_hash::{FxBuildHasher, FxHashMap};

use super::Entry;
use super::codec::Node;
use super::small::Small;

const SHARDS: usize = 16;
/// Memory an inode takes here, about.
const NODE_BYTES: usize = 192;
/// Memory a name takes here, about.
const NAME_BYTES: usize = 112;

/// Inodes and names.
pub(super) struct Cache {
    nodes: Shards<u64, Node>,
    names: Shards<(u64, u64), (Small, Option<Entry>)>,
}

impl Cache {
    /// Takes up to about `bytes` of memory.
    pub(super) fn new(bytes: usize) -> Self {
        Self {
            nodes: Shards::new(bytes / 2 / NODE_BYTES),
            names: Shards::new(bytes / 2 / NAME_BYTES),
        }
    }

    /// Calls `look` with the inode `ino`, if it is here.
    pub(super) fn node<T>(&self, ino: u64, look: impl FnOnce(&Node) -> T) -> Option<T> {
        self.nodes.with(ino, look)
    }

    pub(super) fn put_node(&self, ino: u64, node: Node) {
        self.nodes.put(ino, node);
    }

    pub(super) fn drop_node(&self, ino: u64) {
        self.nodes.remove(ino);
    }

    /// What `name` in `parent` stands for; `None` if that is not known here.
    pub(super) fn name(&self, parent: u64, hash: u64, name: &[u8]) -> Option<Option<Entry>> {
        let same = |(known, entry): &(Small, _)| (known.as_slice() == name).then_some(*entry);
        self.names.with((parent, hash), same).flatten()
    }

    pub(super) fn put_name(&self, parent: u64, hash: u64, name: Small, entry: Option<Entry>) {
        self.names.put((parent, hash), (name, entry));
    }
}

/// A table in parts with a lock each, so that readers rarely meet.
struct Shards<K, V> {
    parts: [Mutex<Generations<K, V>>; SHARDS],
    /// Most entries a generation of one part holds.
    limit: usize,
}

/// Entries used since the last turn, and those used in the turn before. What is not asked for during
/// a whole turn goes; nothing is kept per use.
struct Generations<K, V> {
    hot: FxHashMap<K, V>,
    cold: FxHashMap<K, V>,
}

impl<K: Copy + Eq + Hash, V> Shards<K, V> {
    fn new(entries: usize) -> Self {
        let part =
            |_| Mutex::new(Generations { hot: FxHashMap::default(), cold: FxHashMap::default() });
        let parts = std::array::from_fn(part);
        Self { parts, limit: (entries / SHARDS / 2).max(16) }
    }

    fn part(&self, key: K) -> &Mutex<Generations<K, V>> {
        // The low bits choose the slot in the part's own table.
        let hash = FxBuildHasher.hash_one(key) >> 40;
        let [first, ..] = &self.parts;
        self.parts.get(hash as usize % SHARDS).unwrap_or(first)
    }

    fn with<T>(&self, key: K, look: impl FnOnce(&V) -> T) -> Option<T> {
        let mut part = self.part(key).lock();
        if let Some(value) = part.hot.get(&key) {
            return Some(look(value));
        }
        let value = part.cold.remove(&key)?;
        let answer = look(&value);
        part.put(key, value, self.limit);
        Some(answer)
    }

    fn put(&self, key: K, value: V) {
        let mut part = self.part(key).lock();
        part.cold.remove(&key);
        part.put(key, value, self.limit);
    }

    fn remove(&self, key: K) {
        let mut part = self.part(key).lock();
        part.hot.remove(&key);
        part.cold.remove(&key);
    }
}

impl<K: Eq + Hash, V> Generations<K, V> {
    fn put(&mut self, key: K, value: V, limit: usize) {
        if self.hot.len() >= limit {
            std::mem::swap(&mut self.hot, &mut self.cold);
            self.hot.clear();
        }
        self.hot.insert(key, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_table_keeps_what_is_in_use_and_stays_bounded() {
        let held = |part: &Generations<u64, u64>| part.hot.len() + part.cold.len();
        let table = Shards::new(1000);
        table.put(0_u64, 0_u64);
        for key in 1..100_000 {
            table.put(key, key);
            assert_eq!(table.with(0, |&value| value), Some(0));
        }
        let held: usize = table.parts.iter().map(|part| held(&part.lock())).sum();
        assert!(held <= 1000, "{held}");
        assert_eq!(table.with(5, |&value| value), None);
    }

    #[test]
    fn a_removed_entry_does_not_come_back() {
        let table = Shards::new(64);
        for key in 0..200_u64 {
            table.put(key, key);
            table.remove(key);
            assert_eq!(table.with(key, |&value| value), None);
        }
    }
}
