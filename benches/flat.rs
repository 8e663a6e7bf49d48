//! Does the cost of a question, or of a change, grow with the size of the tree or of its history?
//!
//! One directory of 1,000, then 100,000, then 1,000,000 files, and one in which a million names have
//! died. What is asked is spread over all files, so that nothing is hot. Each row says the time of one
//! operation, and how many times that of the smallest tree it is. At the end, how long a store takes to open
//! whose server was killed in the middle of the last events. `-- --test` runs it at a hundredth of the size;
//! `FLAT_MEMORY` is what the index may take, in MiB.

#![allow(clippy::unwrap_used, reason = "a bench fails by it")]

use std::io::{BufRead, BufReader};
use std::ops::ControlFlow;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use lighthouse_fuse::store::event::{Change, Ino, Seq};
use lighthouse_fuse::store::sim::Random;
use lighthouse_fuse::store::{CreateOptions, OpenOptions, Origin, Store};

/// Set in the process that is to be killed: the directory and how many events it makes.
const CHILD: &str = "LIGHTHOUSE_FUSE_FLAT_CHILD";
const S_IFREG: u32 = 0o100_000;

fn options() -> OpenOptions {
    let memory = std::env::var("FLAT_MEMORY").ok().and_then(|text| text.parse().ok());
    let memory = memory.map_or(OpenOptions::default().memory, |mib: usize| mib << 20);
    OpenOptions { memory, ..OpenOptions::default() }
}

fn create_in(dir: &Path) -> Store {
    Store::create(dir, &CreateOptions::default(), &options()).unwrap()
}

fn name(number: u64) -> Vec<u8> {
    format!("file {number}").into_bytes()
}

fn create(store: &Store, number: u64) -> Ino {
    let change = Change::Create {
        parent: Ino::ROOT,
        name: &name(number),
        mode: S_IFREG | 0o644,
        uid: 1000,
        gid: 1000,
        rdev: 0,
        target: b"",
        xattrs: Vec::new(),
    };
    Ino(store.begin().unwrap().commit(Origin::default(), change).unwrap().0)
}

fn remove(store: &Store, number: u64, ino: Ino) {
    let change = Change::Unlink { parent: Ino::ROOT, name: &name(number), ino };
    store.begin().unwrap().commit(Origin::default(), change).unwrap();
    store.begin().unwrap().commit(Origin::default(), Change::End { ino }).unwrap();
}

/// The median of some rounds, per operation.
fn time(count: u64, mut round: impl FnMut(u64)) -> Duration {
    let each = u32::try_from(count).unwrap();
    let mut rounds: Vec<Duration> = (0..5)
        .map(|_| {
            let start = Instant::now();
            (0..count).for_each(&mut round);
            start.elapsed() / each
        })
        .collect();
    rounds.sort_unstable();
    rounds[2]
}

fn list(store: &Store, at: Seq) -> u64 {
    let mut seen = 0;
    let visit = &mut |_, _: &[u8], _| {
        seen += 1;
        if seen < 100 { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    };
    store.read().entries(Ino::ROOT, 0, at, visit).unwrap();
    seen
}

/// What each operation takes in a directory of `files` in which `died` names have died.
fn measure(files: u64, died: u64, count: u64) -> Vec<(&'static str, Duration)> {
    let dir = tempfile::tempdir().unwrap();
    let store = create_in(dir.path());
    let mut inos: Vec<Ino> = (0..files).map(|number| create(&store, number)).collect();
    let past = store.read().last();
    let originals = inos.clone();
    for number in 0..died {
        let ino = create(&store, files + number);
        remove(&store, files + number, ino);
    }
    // What is asked of the past must not be what the present still says.
    let steps = (files / 10).min(count * 5);
    for number in 0..steps {
        remove(&store, number, inos[usize::try_from(number).unwrap()]);
        inos[usize::try_from(number).unwrap()] = create(&store, number);
    }
    let mut random = Random(7);
    let all = usize::try_from(files).unwrap();
    let mut results = Vec::new();
    for (lookup, stat, listing, at, inodes) in [
        ("lookup", "stat", "list 100", Seq::NOW, &inos),
        ("lookup in the past", "stat in the past", "list 100 in the past", past, &originals),
    ] {
        results.push((
            lookup,
            time(count, |_| {
                store
                    .read()
                    .entry(Ino::ROOT, &name(random.below(all) as u64), at)
                    .unwrap()
                    .unwrap();
            }),
        ));
        results.push((
            stat,
            time(count, |_| {
                let ino = inodes[random.below(all)];
                store.read().inode(ino, at).unwrap().unwrap();
            }),
        ));
        let expected = files.min(100);
        results.push((listing, time(count / 10 + 1, |_| assert_eq!(list(&store, at), expected))));
    }
    let mut next = files + died;
    let mut made = Vec::new();
    results.push((
        "create",
        time(count, |_| {
            made.push((next, create(&store, next)));
            next += 1;
        }),
    ));
    results.push((
        "unlink",
        time(count, |_| {
            let (number, ino) = made.pop().unwrap();
            remove(&store, number, ino);
        }),
    ));
    results
}

/// Makes events until it is killed; says so once there are enough.
fn child(order: &str) {
    let (events, dir) = order.split_once(' ').unwrap();
    let events: u64 = events.parse().unwrap();
    let store = create_in(Path::new(dir));
    for number in 0.. {
        create(&store, number);
        if number == events {
            println!("enough");
        }
    }
}

/// How long opening takes after a kill in the middle of a stream, and how many events it read back.
fn open_after_kill(events: u64) -> (Duration, u64) {
    let dir = tempfile::tempdir().unwrap();
    let order = format!("{events} {}", dir.path().join("store").display());
    let mut child = Command::new(std::env::current_exe().unwrap())
        .env(CHILD, order)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    let start = Instant::now();
    let store = Store::open(&dir.path().join("store"), &options()).unwrap();
    let took = start.elapsed();
    assert!(store.read().last().0 >= events);
    (took, store.opening().replayed)
}

fn main() {
    if let Ok(order) = std::env::var(CHILD) {
        return child(&order);
    }
    let scale = if std::env::args().any(|arg| arg == "--test") { 100 } else { 1 };
    let count = 20_000 / scale;
    let sizes = [(1000, 0), (100_000, 0), (1_000_000, 0), (1000, 1_000_000)];
    let columns: Vec<_> = sizes
        .iter()
        .map(|&(files, died)| measure((files / scale).max(100), died / scale, count.min(files)))
        .collect();
    println!(
        "{:24}{:>12}{:>20}{:>20}{:>20}",
        "", "1,000", "100,000", "1,000,000", "1,000,000 died"
    );
    for (at, &(operation, base)) in columns[0].iter().enumerate() {
        print!("{operation:24}{base:>12.2?}");
        for column in columns.iter().skip(1) {
            let took = column[at].1;
            print!("{:>12.2?} {:>6.1}x", took, took.as_secs_f64() / base.as_secs_f64());
        }
        println!();
    }
    for events in [10_000, 100_000, 1_000_000] {
        let (took, replayed) = open_after_kill(events / scale);
        println!("open after a kill at {events} events: {took:.2?}, {replayed} read back");
    }
}
