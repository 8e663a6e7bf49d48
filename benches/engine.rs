//! Which embedded engine should the index keep its rows in: redb (a copy-on-write B-tree) or lsm-tree?
//!
//! Both get the same work, each in a process of its own: rows are preloaded, then sorted batches arrive at a given rate:
//! a third replaces random rows (inodes that change), a third lands between random rows (what died), a third is new
//! at the end (what was made). A thread seeks random rows meanwhile. Then the process is killed (SIGKILL) amid a
//! commit, and another opens what it left.
//!
//! ```text
//! cargo bench --bench engine                    3 million rows, 20 s at 150,000 rows/s
//! cargo bench --bench engine -- --test          20,000 rows, 2 s: that it still works
//! ENGINE_ROWS=30000000 ENGINE_SECONDS=300 ENGINE_RATE=150000 ENGINE_MIB=512 cargo bench --bench engine
//! ENGINE_SPREAD=5 cargo bench --bench engine    changes meet the newest 5 % of the rows, not all alike
//! ```
//!
//! "behind" is how far the batches fell behind their rate, in seconds, at worst: writers of the store wait only when
//! that is more than three batches. A commit is durable when it returns, for both.
//!
//! # What was measured, and decided
//!
//! Two virtual processors shared with other work, one disk, redb 4.6 and lsm-tree 3.1, 3 million rows, 20 s, 512 MiB:
//!
//! | changes meet | engine | rows/s | behind | commit max | written a row | seek p50, p99, max | file | open |
//! |---|---|---|---|---|---|---|---|---|
//! | all rows alike | redb | 53,900 | 14 s, growing | 4.2 s | 1,818 bytes | 12 us, 5.8 ms, 67 ms | 3.5 x | 0.05 s |
//! | all rows alike | lsm-tree | 149,000 | 0 | 0.27 s | 309 bytes | 45 us, 0.26 ms, 338 ms | 1.9 x | 0.22 s |
//! | the newest 5 % | redb | 134,100 | 0 | 0.44 s | 205 bytes | 11 us, 0.03 ms, 12 ms | 1.5 x | 0.01 s |
//! | the newest 5 % | lsm-tree | 134,100 | 0 | 0.20 s | 150 bytes | 24 us, 0.15 ms, 233 ms | 1.4 x | 0.07 s |
//!
//! (In the second pair the generator of rows, not the engine, set the pace.)
//!
//! Where changes meet all rows alike, lsm-tree wins clearly: a B-tree rewrites a page a row, and redb keeps neither the rate
//! (150,000 rows/s) nor the size (twice what is live), and would fall further behind with more rows. Where they meet what is
//! recent, as the events of builds, checkouts and editors do, redb keeps up, answers in half the time or less and
//! has no long tail; `benches/index.rs` folds 99,000 events/s (about 400,000 rows/s) into a tree of a million files with it,
//! committing included. redb stays for now because it lives in one file that the store opens itself:
//! so a simulated disk can lose its power, and no path is ever resolved behind a mount. lsm-tree names its own files. All the
//! index asks of an engine is in `store/index/engine.rs`, some 200 lines; not measured: 30 million rows for 5 minutes.

#![allow(clippy::unwrap_used, reason = "a bench may fail")]

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use lsm_tree::{AbstractTree, AnyTree, Cache, Config, Guard, SequenceNumberCounter};
use redb::{Database, ReadableDatabase, TableDefinition};

/// Rows of one batch.
const BATCH: u64 = 200_000;
const VALUE: usize = 40;
const ROWS: TableDefinition<'static, &[u8], &[u8]> = TableDefinition::new("rows");

type Row = ([u8; 24], [u8; VALUE]);

/// What the index needs of an engine.
trait Engine: Send + Sync {
    /// Puts sorted rows; they are durable when this returns.
    fn commit(&self, rows: &[Row]);
    /// The first row at or after `key`.
    fn seek(&self, key: &[u8]) -> Option<Vec<u8>>;
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
    fn commit(&self, rows: &[Row]) {
        let mut write = self.0.begin_write().unwrap();
        write.set_quick_repair(true);
        let mut table = write.open_table(ROWS).unwrap();
        for (key, value) in rows {
            table.insert(&key[..], &value[..]).unwrap();
        }
        drop(table);
        write.commit().unwrap();
    }

    fn seek(&self, key: &[u8]) -> Option<Vec<u8>> {
        let table = self.0.begin_read().unwrap().open_table(ROWS).unwrap();
        let row = table.range(key..).unwrap().next()?;
        Some(row.unwrap().1.value().to_vec())
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
    fn commit(&self, rows: &[Row]) {
        for (key, value) in rows {
            self.tree.insert(&key[..], &value[..], self.seq.next());
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
}

fn open(engine: &str, dir: &Path, mib: u64) -> Box<dyn Engine> {
    match engine {
        "redb" => Box::new(Redb::open(dir, mib << 20)),
        _ => Box::new(Lsm::open(dir, mib << 20)),
    }
}

struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ z >> 31) % end
    }
}

fn key(major: u64, minor: u64) -> [u8; 24] {
    let mut key = [4; 24];
    key[8..16].copy_from_slice(&major.to_be_bytes());
    key[16..].copy_from_slice(&minor.to_be_bytes());
    key
}

fn value(random: &mut Random) -> [u8; VALUE] {
    let mut value = [0; VALUE];
    // Half of it is as random as times and places are.
    for part in value[..VALUE / 2].chunks_mut(8) {
        part.copy_from_slice(&random.below(u64::MAX).to_le_bytes()[..part.len()]);
    }
    value
}

/// A row that changes: anywhere in the newest `ENGINE_SPREAD` per cent of them.
fn changing(random: &mut Random, rows: u64, spread: u64) -> u64 {
    let newest = (rows * spread / 100).max(1);
    rows - 1 - random.below(newest)
}

fn batch(random: &mut Random, rows: &mut u64, minor: u64) -> Vec<Row> {
    let spread = number("ENGINE_SPREAD", 100).clamp(1, 100);
    let mut batch = Vec::with_capacity(BATCH as usize);
    for number in 0..BATCH {
        let key = match number % 3 {
            0 => key(changing(random, *rows, spread), 0),
            1 => key(changing(random, *rows, spread), minor + number),
            _ => {
                *rows += 1;
                key(*rows - 1, 0)
            }
        };
        batch.push((key, value(random)));
    }
    batch.sort_unstable();
    batch.dedup_by_key(|row| row.0);
    batch
}

fn written() -> u64 {
    let io = std::fs::read_to_string("/proc/self/io").unwrap();
    let line = io.lines().find(|line| line.starts_with("write_bytes")).unwrap();
    line.split_whitespace().last().unwrap().parse().unwrap()
}

fn size(dir: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let entries = std::fs::read_dir(dir).unwrap().flatten();
    let each = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => size(&entry.path()),
        // Compaction removes files meanwhile.
        other => other.map_or(0, |metadata| metadata.blocks() * 512),
    };
    entries.map(each).sum()
}

/// Preloads, works for `seconds`, prints what it saw and goes on until it is killed.
fn work(name: &str, dir: &Path, (mut rows, seconds, rate, mib): (u64, u64, u64, u64)) {
    let engine = open(name, dir, mib);
    let mut random = Random(7);
    let preloaded = rows;
    let since = Instant::now();
    for first in (0..rows).step_by(BATCH as usize) {
        let end = (first + BATCH).min(rows);
        let batch: Vec<Row> = (first..end).map(|row| (key(row, 0), value(&mut random))).collect();
        engine.commit(&batch);
    }
    let preload = since.elapsed().as_secs_f64();

    let stop = AtomicBool::new(false);
    let known = AtomicU64::new(rows);
    let before = written();
    let (mut commits, mut behind, mut put, mut distinct) = (Vec::new(), 0_f64, 0_u64, rows);
    let mut seeks: Vec<u64> = Vec::new();
    let since = Instant::now();
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut random = Random(99);
            let mut seeks = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                let key = key(random.below(known.load(Ordering::Relaxed)), random.below(1000));
                let since = Instant::now();
                std::hint::black_box(engine.seek(&key));
                seeks.push(since.elapsed().as_nanos() as u64);
                // What an idle client asks, so that two processors are not one too few.
                std::thread::sleep(Duration::from_micros(500));
            }
            seeks
        });
        let mut due = since;
        while since.elapsed() < Duration::from_secs(seconds) {
            let batch = batch(&mut random, &mut rows, put);
            due += Duration::from_secs_f64(BATCH as f64 / rate as f64);
            let start = Instant::now();
            engine.commit(&batch);
            commits.push(start.elapsed().as_secs_f64());
            put += batch.len() as u64;
            // One in three replaces.
            distinct += batch.len() as u64 * 2 / 3;
            known.store(rows, Ordering::Relaxed);
            behind = behind.max(Instant::now().saturating_duration_since(due).as_secs_f64());
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
        }
        stop.store(true, Ordering::Relaxed);
        seeks = reader.join().unwrap();
    });
    let elapsed = since.elapsed().as_secs_f64();
    seeks.sort_unstable();
    commits.sort_by(f64::total_cmp);
    let at = |part: f64| seeks[((seeks.len() - 1) as f64 * part) as usize] as f64 / 1000.0;
    let live = (distinct * (24 + VALUE as u64)) as f64;
    println!(
        "{name:5} preload {:>7.0}/s | {:>7.0} rows/s, behind {behind:5.2} s, commit p50 {:.2} s max {:.2} s | \
         {:5.0} bytes written a row | seek p50 {:5.1} us p99 {:7.1} us max {:8.1} us | file {:.2} x live",
        preloaded as f64 / preload,
        put as f64 / elapsed,
        commits[commits.len() / 2],
        commits[commits.len() - 1],
        (written() - before) as f64 / put as f64,
        at(0.5),
        at(0.99),
        at(1.0),
        size(dir) as f64 / live,
    );
    println!("ready");
    loop {
        engine.commit(&batch(&mut random, &mut rows, put));
    }
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let test = arguments.iter().any(|argument| argument == "--test");
    let default = if test { (20_000, 2) } else { (3_000_000, 20) };
    let rows = number("ENGINE_ROWS", default.0);
    let seconds = number("ENGINE_SECONDS", default.1);
    let (rate, mib) = (number("ENGINE_RATE", 150_000), number("ENGINE_MIB", 512));
    match arguments.get(1..).unwrap_or_default() {
        [role, engine, dir, ..] if role == "work" => {
            work(engine, &PathBuf::from(dir), (rows, seconds, rate, mib));
        }
        [role, engine, dir, ..] if role == "open" => {
            let since = Instant::now();
            let engine = open(engine, &PathBuf::from(dir), mib);
            let found = engine.seek(&key(rows / 2, 0)).is_some();
            println!("      open after SIGKILL {:.3} s", since.elapsed().as_secs_f64());
            assert!(found, "a row that was committed is not there");
            // Not closed: another open is not the question.
            std::process::exit(0);
        }
        _ => {
            for engine in ["redb", "lsm"] {
                compare(engine, &[rows, seconds]);
            }
        }
    }
}

fn compare(engine: &str, sizes: &[u64; 2]) {
    let dir =
        tempfile::tempdir_in(std::env::var("ENGINE_DIR").unwrap_or("/var/tmp".into())).unwrap();
    let program = std::env::current_exe().unwrap();
    let command = |role| {
        let mut command = Command::new(&program);
        command.args([role, engine]).arg(dir.path());
        command.env("ENGINE_ROWS", sizes[0].to_string());
        command.env("ENGINE_SECONDS", sizes[1].to_string());
        command
    };
    let mut child = command("work").stdout(Stdio::piped()).spawn().unwrap();
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        let line = line.unwrap();
        if line == "ready" {
            break;
        }
        println!("{line}");
    }
    // Amid a commit, most likely.
    std::thread::sleep(Duration::from_millis(300));
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(command("open").status().unwrap().success());
}
