//! The two engines, as the index would use them.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use lsm_tree::{AbstractTree, AnyTree, Cache, Config, Guard, SequenceNumberCounter};
use redb::{Database, ReadableDatabase, TableDefinition};

use crate::load::BATCH;

const ROWS: TableDefinition<'static, &[u8], &[u8]> = TableDefinition::new("rows");

/// What the index needs of an engine.
pub(crate) trait Engine: Send + Sync {
    /// Puts sorted rows, or takes those away that have no value; this is durable when it returns.
    fn commit(&self, rows: &mut dyn Iterator<Item = (&[u8], Option<&[u8]>)>);
    /// The first row at or after `key`.
    fn seek(&self, key: &[u8]) -> Option<Vec<u8>>;
    /// Calls `visit` for all rows, in order.
    fn scan(&self, visit: &mut dyn FnMut(&[u8], &[u8]));
}

struct Redb(Database);

impl Redb {
    fn open(dir: &Path, cache: u64) -> Self {
        let mut builder = Database::builder();
        builder.set_cache_size(cache as usize);
        let database = builder.create(dir.join("rows.redb")).unwrap();
        let read = database.begin_read().unwrap();
        if read.open_table(ROWS).is_err() {
            let mut write = database.begin_write().unwrap();
            write.set_quick_repair(true);
            write.open_table(ROWS).unwrap();
            write.commit().unwrap();
        }
        Self(database)
    }
}

impl Engine for Redb {
    fn commit(&self, rows: &mut dyn Iterator<Item = (&[u8], Option<&[u8]>)>) {
        let mut write = self.0.begin_write().unwrap();
        write.set_quick_repair(true);
        let mut table = write.open_table(ROWS).unwrap();
        for (key, value) in rows {
            match value {
                Some(value) => drop(table.insert(key, value).unwrap()),
                None => drop(table.remove(key).unwrap()),
            }
        }
        drop(table);
        write.commit().unwrap();
    }

    fn seek(&self, key: &[u8]) -> Option<Vec<u8>> {
        let table = self.0.begin_read().unwrap().open_table(ROWS).unwrap();
        let row = table.range(key..).unwrap().next()?;
        Some(row.unwrap().1.value().to_vec())
    }

    fn scan(&self, visit: &mut dyn FnMut(&[u8], &[u8])) {
        let table = self.0.begin_read().unwrap().open_table(ROWS).unwrap();
        for row in table.range::<&[u8]>(..).unwrap() {
            let (key, value) = row.unwrap();
            visit(key.value(), value.value());
        }
    }
}

struct Lsm {
    tree: AnyTree,
    seq: SequenceNumberCounter,
    stop: Arc<AtomicBool>,
    compaction: Option<std::thread::JoinHandle<()>>,
}

impl Lsm {
    fn open(dir: &Path, cache: u64) -> Self {
        let seq = SequenceNumberCounter::default();
        let config = Config::new(dir.join("tree"), seq.clone(), seq.clone());
        let cache = Arc::new(Cache::with_capacity_bytes(cache));
        let tree = config.use_cache(cache).open().unwrap();
        seq.set(tree.get_highest_seqno().map_or(0, |seq| seq + 1));
        let stop = Arc::new(AtomicBool::new(false));
        let (compacted, until, now) = (tree.clone(), stop.clone(), seq.clone());
        let compaction = std::thread::spawn(move || {
            while !until.load(Ordering::Relaxed) {
                let strategy = Arc::new(lsm_tree::compaction::Leveled::default());
                compacted.compact(strategy, now.get().saturating_sub(2 * BATCH)).unwrap();
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        Self { tree, seq, stop, compaction: Some(compaction) }
    }
}

impl Drop for Lsm {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.compaction.take() {
            thread.join().unwrap();
        }
    }
}

impl Engine for Lsm {
    fn commit(&self, rows: &mut dyn Iterator<Item = (&[u8], Option<&[u8]>)>) {
        for (key, value) in rows {
            let seq = self.seq.next();
            match value {
                Some(value) => self.tree.insert(key, value, seq),
                None => self.tree.remove(key, seq),
            };
        }
        self.tree.flush_active_memtable(0).unwrap();
        // With more than this many runs on top, reading suffers: whoever keeps a journal waits here too.
        while self.tree.l0_run_count() > 8 {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn seek(&self, key: &[u8]) -> Option<Vec<u8>> {
        let row = self.tree.range::<&[u8], _>(key.., self.seq.get(), None).next()?;
        Some(row.into_inner().unwrap().1.to_vec())
    }

    fn scan(&self, visit: &mut dyn FnMut(&[u8], &[u8])) {
        for row in self.tree.iter(self.seq.get(), None) {
            let (key, value) = row.into_inner().unwrap();
            visit(&key, &value);
        }
    }
}

pub(crate) fn open(engine: &str, dir: &Path, mib: u64) -> Box<dyn Engine> {
    match engine {
        "redb" => Box::new(Redb::open(dir, mib << 20)),
        _ => Box::new(Lsm::open(dir, mib << 20)),
    }
}
